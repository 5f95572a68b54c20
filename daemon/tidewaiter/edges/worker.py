"""A process of our own that computes beside the interpreter lock: starting it, asking it, ending it.

Owns: the process and the talk with it. Leaves to the modules named `*_serving` and `*_growing` what it runs, and to
`edges.chain_worker` and `edges.tree_worker` when it is worth asking.

It is asked one thing at a time and knows nothing between two questions. So at any trouble it is given up, and whoever
asked does the same by itself: nothing is lost but time. A plain child with one socket, not `multiprocessing`: that
would fork threads or keep a second process for its own book-keeping. A socket, not two pipes: an answer of any length
is received in one call, and each call less is a wait for the interpreter less.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tidewaiter.edges.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

log = get_logger()

_IDLE_SECONDS: Final = 10.0
"""A process that was not asked for so long is ended; the next backlog starts another."""
_LOOK_MS: Final = 50
_END_SECONDS: Final = 0.5
"""How long its end is waited for: whoever waits may be the event loop. The next start takes it off the list then."""
# The same code that runs here, wherever it was found; neither variables nor the current directory nor a user's site can
# put anything before it. -S: it needs nothing that is installed; -B: it writes nothing.
_COMMAND: Final = (
    "-I", "-S", "-B", "-c",
    "import sys, importlib; sys.path.insert(0, sys.argv[1]); importlib.import_module(sys.argv[2]).serve()",
    str(Path(__file__).absolute().parents[2]),
)  # fmt: skip
_KEPT_VARIABLES: Final = ("LD_LIBRARY_PATH",)
"""All it needs is to find the interpreter's own library; the service manager's socket is not for it."""
_ALLOCATION: Final = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""What one answer has needed is kept for the next: given back to the system, each page costs a fault again (measured: a
quarter of the time that chaining takes). Only GNU's C library knows these two; elsewhere they do nothing."""


class Lost(Exception):  # noqa: N818 - named for what happened
    """The process ended, or answered something else than it was asked."""


class Stopped(Exception):  # noqa: N818 - named for what happened
    """Nobody wants the answer any more."""


class Worker:
    """One process, for one kind of question. All methods are called by one thread at a time."""

    def __init__(self, module: str, answer_seconds: float) -> None:
        """`module` has the `serve` that the process runs; an answer may take `answer_seconds`."""
        self._module = module
        self._answer_seconds = answer_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._given_up = False
        self._asked_at = 0.0
        self._waited_ms = 0  # in vain, for the answer that is being waited for

    @property
    def running(self) -> bool:
        """Whether it was started, and was neither ended nor given up since."""
        return self._process is not None

    def ask(self, talk: Callable[[], T]) -> T | None:
        """Return what `talk`, which may send and receive, returns; the process is started where there is none.

        None where there is no answer: because of Stopped, or because the process is given up, now or before.
        """
        if self._given_up:
            return None
        try:
            if self._process is None:
                self._start()
            self._asked_at = time.monotonic()
            self._waited_ms = 0
            return talk()
        except Stopped:
            self.close()  # its answer would be in the way of the next
        except (Lost, OSError) as error:
            self._given_up = True
            log.warning("worker.lost", module=self._module, error=f"{error}{self._status()}")
            self.close()
        except BaseException:
            self.close()
            raise
        return None

    def send(self, question: bytes) -> None:
        """Send a question. Raises Lost where it is not taken."""
        assert self._socket is not None  # noqa: S101 - only called by a talk
        view = memoryview(question)
        while view:
            with suppress(BlockingIOError):
                view = view[self._socket.send(view) :]
            if view:
                self._look()

    def receive(self, count: int, stopped: Callable[[], bool] = lambda: False) -> bytes:
        """Return so many bytes of the answer. Raises Stopped once `stopped()`, and Lost where they do not come."""
        assert self._socket is not None  # noqa: S101 - only called by a talk
        parts: list[bytes] = []
        while True:
            with suppress(BlockingIOError):
                part = self._socket.recv(count, socket.MSG_WAITALL)
                if not part:
                    raise Lost("it ended")
                parts.append(part)
                count -= len(part)
            if not count:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            if stopped():
                raise Stopped
            self._look()

    def _look(self) -> None:
        """Count one look at the socket that did not bring all that was wanted."""
        # not what a clock says: a service that was frozen has lost nothing. And not what came meanwhile: an answer that
        # comes byte by byte is none.
        self._waited_ms += _LOOK_MS
        if self._waited_ms > self._answer_seconds * 1000:
            raise Lost(f"no answer in {self._answer_seconds:.0f} s")

    def rest(self) -> None:
        """End the process if it was not asked for a while."""
        if self._process is not None and time.monotonic() - self._asked_at > _IDLE_SECONDS:
            self.close()

    def close(self) -> None:
        """End the process, whatever it does: it holds nothing that anybody needs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        with suppress(subprocess.TimeoutExpired):  # one that a dead disk holds cannot be waited for
            process.wait(_END_SECONDS)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            look = struct.pack("@ll", 0, _LOOK_MS * 1000)
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, look)
            self._process = _started(self._module, theirs)
            self._socket = ours
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def _status(self) -> str:
        process = self._process
        if process is None:
            return ""
        with suppress(subprocess.TimeoutExpired):  # the end of its socket may be seen before its own
            process.wait(_LOOK_MS / 1000)
        return "" if process.returncode is None else f" (status {process.returncode})"


def _started(module: str, end: socket.socket) -> subprocess.Popen[bytes]:
    """Start it. It gets its end and no other descriptor; Ctrl-C goes to a process group that it is not in."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        # an interpreter that does not know its own place cannot be started: OSError
        [sys.executable or "", *_COMMAND, module],
        stdin=end.fileno(), stdout=end.fileno(), stderr=subprocess.DEVNULL, process_group=0,
        env=_ALLOCATION | {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
    )  # fmt: skip
