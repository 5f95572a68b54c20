"""Time as a test may judge it: what the machine stands still for is no fault of the code under test.

A machine that is shared stands still for seconds at times, and everything on it with it. So seconds are not read from a
clock but counted, by a thread that pauses a hundred times a second: where the process cannot run, nothing is counted.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

_PAUSE_SECONDS: Final = 0.01


class Stopwatch:
    """Counts `seconds` inside a `with` block, in steps of 10 ms; a little fewer than a clock on a busy machine."""

    def __init__(self) -> None:
        """Not yet running."""
        self._pauses = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, name="stopwatch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """How long the block has run, or ran."""
        return self._pauses * _PAUSE_SECONDS

    def _count(self) -> None:
        while not self._over.wait(_PAUSE_SECONDS):
            self._pauses += 1
