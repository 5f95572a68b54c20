"""What a person at a terminal sees of a run: a progress bar to the end of a file, or one live line.

Owns: drawing on standard error, at most ten times a second, without a thread. Leaves to `shell.supervisor` the figures,
and to `edges.logs` the log lines between. Both kinds leave the cursor at the beginning of the line they drew, so that a
log line, which is longer, takes its place, and the next update draws below.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

REDRAW_S: Final = 0.1
_CLEAR: Final = "\r\x1b[K"
_LONGEST: Final = 100
"""Shorter than any log line on a terminal, which must be able to cover the live line."""


class Bar:
    """A progress bar for a run that ends at the end of the stream."""

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw on `out`, standard error by default; nothing is drawn before the first update."""
        self._out = sys.stderr if out is None else out
        self._clock = clock
        self._next = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def update(
        self,
        *,
        position: int,
        total_bytes: int | None,
        events: int,
        events_per_s: float,
        flags: int,
        rejected: int,
        lag_bytes: int,
    ) -> None:
        """Redraw, unless that was done a moment ago."""
        total = total_bytes if total_bytes is not None else position + lag_bytes
        now = self._clock()
        if now < self._next and position < total:
            return
        self._next = now + REDRAW_S
        if self._bar is None:
            self._bar, self._task = self._start(position, total)
        if self._task is not None:
            text = figures(events, events_per_s, flags, rejected)
            self._bar.update(self._task, completed=position, total=max(total, 1), text=text)
            self._bar.refresh()
            self._out.write("\r")
            self._out.flush()

    def _start(self, position: int, total: int) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        bar = Progress(
            TaskProgressColumn(),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=Console(file=self._out),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        bar.start()
        return bar, bar.add_task("", total=max(total, 1), completed=position, text="")

    def close(self) -> None:
        """Leave the last state of the bar standing and the cursor below it."""
        if self._bar is not None:
            self._bar.stop()  # draws once more, and ends the line
            self._bar = None


class LiveLine:
    """One line that is rewritten in place while the daemon runs."""

    def __init__(self, name: str, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw on `out`, standard error by default, for the stream `name`."""
        self._name = name
        self._out = sys.stderr if out is None else out
        self._clock = clock
        self._next = 0.0
        self._drawn = False

    def update(
        self,
        *,
        position: int,
        total_bytes: int | None,  # noqa: ARG002 - a live stream has no end
        events: int,
        events_per_s: float,
        flags: int,
        rejected: int,
        lag_bytes: int,
    ) -> None:
        """Redraw, unless that was done a moment ago."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + REDRAW_S
        lag = "up to date" if lag_bytes == 0 else f"{bytes_text(lag_bytes)} behind"
        line = f"{self._name}  at {position:,}  {lag}  {figures(events, events_per_s, flags, rejected)}"
        width = shutil.get_terminal_size().columns - 1
        self._out.write(f"{_CLEAR}{line[: min(width, _LONGEST)]}\r")
        self._out.flush()
        self._drawn = True

    def close(self) -> None:
        """Leave the last line standing and the cursor below it."""
        if self._drawn:
            self._out.write("\n")  # the cursor goes below the line
            self._out.flush()
            self._drawn = False


def figures(events: int, events_per_s: float, flags: int, rejected: int) -> str:
    """Return the counts in words."""
    return f"{events:,} events  {events_per_s:,.0f}/s  {flags:,} flags  {rejected:,} rejected"


def bytes_text(count: int) -> str:
    """Return a number of bytes for a person, to three figures."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004 - the factor between units
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
