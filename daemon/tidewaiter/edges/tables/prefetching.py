"""Reading ahead: what comes next is read and cut on one background thread while the caller works on what came before.

Owns: the thread, its bounded queue, and that errors and early ends pass through it. Leaves to the callers what is read.

Invariants: at most `depth` items wait; the thread has ended, and the items' generator is closed, when the iterator is.
"""

from __future__ import annotations

import threading
from queue import Empty, Queue
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

DEPTH: Final = 2
_JOIN_SECONDS: Final = 0.02

T = TypeVar("T")


class _End:
    """The last thing in the queue: why there is nothing more; None at the regular end."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetched(items: Generator[T], depth: int = DEPTH) -> Generator[T]:
    """Return the same items, made on a thread of their own; an exception there is raised here, in its place."""
    queue: Queue[T | _End] = Queue(depth)
    stopped = threading.Event()

    def run() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                queue.put(item)
                del item  # nothing is held here while the next is made
                if stopped.is_set():
                    break
        except BaseException as caught:  # noqa: BLE001 - raised again by the reader of the queue
            error = caught
        finally:
            items.close()
            queue.put(_End(error))

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
            del item
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for room in the queue
            _empty(queue)
            thread.join(_JOIN_SECONDS)


def _empty(queue: Queue[T | _End]) -> None:
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return
