"""Large ranges of the audit log hashed by a process of their own, beside the interpreter lock.

Owns: that process: starting it, asking it, and ending it. Leaves to `edges.tree_growing` what it does and says, and to
`edges.tree_follower` when it is worth asking.

Behind a catch-up the tree costs a sixth of all processor time, and none of it lets go of the interpreter: a thread
would take that from the stream. The process is asked for a few MiB at a time and knows nothing between two questions.
So at any trouble it is given up, and the caller takes the range in by itself: nothing is lost but time. A plain
child with two pipes, not `multiprocessing`: that would fork threads or keep a second process for its own book-keeping.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidewaiter.edges.logs import get_logger
from tidewaiter.edges.tree_growing import ANSWER, DIGEST_BYTES, Grown, body_bytes, digest, question, read_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.tlog.tiles import TileTree

log = get_logger()

_ASKED_BYTES: Final = 8 << 20
"""How much is asked for at once, some 50 ms: a stop need not wait for more, and the answer is a few 100 KiB."""
_ANSWER_SECONDS: Final = 30.0
"""Longer than the slowest sound disk takes to read that much."""
_IDLE_SECONDS: Final = 10.0
"""A process that was not asked for so long is ended; the next backlog starts another."""
_LOOK_MS: Final = 50
_END_SECONDS: Final = 5.0
# The same code that runs here, wherever it was found; neither variables nor the current directory nor a user's site can
# put anything before it. -S: it needs nothing that is installed; -B: it writes nothing.
_COMMAND: Final = (
    "-I", "-S", "-B", "-c",
    "import sys; sys.path.insert(0, sys.argv[1]); from tidewaiter.edges.tree_growing import serve; serve()",
    str(Path(__file__).absolute().parents[2]),
)  # fmt: skip
_KEPT_VARIABLES: Final = ("LD_LIBRARY_PATH",)
"""All it needs is to find the interpreter's own library; the service manager's socket is not for it."""


class _Lost(Exception):  # noqa: N818 - named for what happened
    """The process ended, or answered something else than it was asked."""


class TreeWorker:
    """The process, started by the first question. All methods are called by one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = False
        self._asked_at = 0.0

    def grow(self, tree: TileTree, path: str, begin: int, end: int, stopped: Callable[[], bool]) -> Grown | None:
        """Return what `tree_growing.grow` does with the first `_ASKED_BYTES` of this range, in another `tree`.

        None where there is no answer: because of `stopped()`, or because the process is given up, now or before.
        """
        if self._given_up:
            return None
        try:
            return self._ask(tree, path, begin, min(end, begin + _ASKED_BYTES), stopped)
        except (_Lost, OSError) as error:
            self._given_up = True
            log.warning("evidence.worker_lost", error=f"{error}{self._status()}")
            self.close()
            return None

    def close(self) -> None:
        """End the process, whatever it does: it holds nothing that anybody needs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):  # one that a dead disk holds cannot be waited for
            process.wait(_END_SECONDS)

    def rest(self) -> None:
        """End the process if it was not asked for a while."""
        if self._process is not None and time.monotonic() - self._asked_at > _IDLE_SECONDS:
            self.close()

    def _ask(self, tree: TileTree, path: str, begin: int, end: int, stopped: Callable[[], bool]) -> Grown | None:
        process = self._process = self._process or _start()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
        asked = question(tree, path, begin, end)
        # the pipe is empty, and takes all of it: otherwise there is something wrong, and nobody waits for it
        if os.write(process.stdin.fileno(), asked) != len(asked):
            raise _Lost("it does not take a question")
        self._asked_at = time.monotonic()
        head = self._read(process.stdout.fileno(), ANSWER.size, stopped)
        if head is None:
            return None
        reached, size = ANSWER.unpack(head)
        if not (begin < reached <= end and 0 < size - tree.size <= reached - begin):
            raise _Lost(f"it answered {size} entries up to byte {reached} of {end}")
        body = self._read(process.stdout.fileno(), body_bytes(tree.size, size), stopped)
        if body is None:
            return None
        if digest(asked, head + body[:-DIGEST_BYTES]) != body[-DIGEST_BYTES:]:
            raise _Lost("its answer has another digest")
        return read_body(body, tree.size, size, reached)

    def _read(self, fd: int, count: int, stopped: Callable[[], bool]) -> bytes | None:
        """Return so many bytes of the answer; None, and no process any more, once `stopped()`."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        data = bytearray()
        silent = 0  # what was waited for in vain, not what a clock says: a service that was frozen has lost nothing
        while len(data) < count:
            if poll.poll(_LOOK_MS):
                read = os.read(fd, count - len(data))
                if not read:
                    raise _Lost("it ended")
                data += read
            elif stopped():
                self.close()  # its answer would be in the way of the next
                return None
            elif (silent := silent + _LOOK_MS) > _ANSWER_SECONDS * 1000:
                raise _Lost(f"no answer in {_ANSWER_SECONDS:.0f} s")
        return bytes(data)

    def _status(self) -> str:
        process = self._process
        if process is None:
            return ""
        with suppress(subprocess.TimeoutExpired):  # the end of its pipe may be seen before its own
            process.wait(_LOOK_MS / 1000)
        return "" if process.returncode is None else f" (status {process.returncode})"


def _start() -> subprocess.Popen[bytes]:
    """Start it. It gets its two pipes and no other descriptor; Ctrl-C goes to a process group that it is not in."""
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        [sys.executable or "", *_COMMAND],  # an interpreter that does not know its own place cannot be started: OSError
        bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0,
        env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
    )  # fmt: skip
    assert process.stdin is not None  # noqa: S101 - a pipe
    os.set_blocking(process.stdin.fileno(), False)
    return process
