"""Large ranges of the audit log hashed by a process of their own, beside the interpreter lock.

Owns: how much is asked for at once, and what an answer must be like to be believed. Leaves to `edges.tree_growing` what
the process does and says, to `edges.worker` the process, and to `edges.tree_follower` when it is worth asking.

Behind a catch-up the tree costs a sixth of all processor time, and none of it lets go of the interpreter: a thread
would take that from the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidewaiter.edges.tree_growing import ANSWER, DIGEST_BYTES, Grown, body_bytes, digest, question, read_body
from tidewaiter.edges.worker import Lost, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.tlog.tiles import TileTree

_ASKED_BYTES: Final = 8 << 20
"""How much is asked for at once, some 50 ms: a stop need not wait for more, and the answer is a few 100 KiB."""
_ANSWER_SECONDS: Final = 30.0
"""Longer than the slowest sound disk takes to read that much."""


class TreeWorker(Worker):
    """The process, started by the first question. All methods are called by one thread at a time."""

    def __init__(self) -> None:
        super().__init__("tidewaiter.edges.tree_growing", _ANSWER_SECONDS)

    def grow(self, tree: TileTree, path: str, begin: int, end: int, stopped: Callable[[], bool]) -> Grown | None:
        """Return what `tree_growing.grow` does with the first `_ASKED_BYTES` of this range, in another `tree`.

        None where there is no answer: because of `stopped()`, or because the process is given up, now or before.
        """
        return self.ask(lambda: self._ask(tree, path, begin, min(end, begin + _ASKED_BYTES), stopped))

    def _ask(self, tree: TileTree, path: str, begin: int, end: int, stopped: Callable[[], bool]) -> Grown:
        asked = question(tree, path, begin, end)
        self.send(asked)
        head = self.receive(ANSWER.size, stopped)
        reached, size = ANSWER.unpack(head)
        if not (begin < reached <= end and 0 < size - tree.size <= reached - begin):
            raise Lost(f"it answered {size} entries up to byte {reached} of {end}")
        body = self.receive(body_bytes(tree.size, size), stopped)
        if digest(asked, head + body[:-DIGEST_BYTES]) != body[-DIGEST_BYTES:]:
            raise Lost("its answer has another digest")
        return read_body(body, tree.size, size, reached)
