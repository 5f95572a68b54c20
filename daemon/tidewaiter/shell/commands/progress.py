"""What a person at a terminal sees of a run: a progress bar to the end of a file, or one live line; then a summary.

Owns: drawing one line on standard error, at most ten times a second, without a thread. Leaves to `shell.reporting` the
figures, and to `edges.logs` the log lines, which it lets stand above what is drawn (`above`).

Invariants:
- What is drawn is one row of the terminal; the cursor waits at its beginning.
- A terminal that is gone never stops the daemon: then nothing is drawn any more.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.progress import Progress, TaskID

REDRAW_S: Final = 0.1
_CLEAR: Final = "\r\x1b[K"
_ROOMY: Final = 110
"""Columns from which on the bar has room for the sizes in bytes as well."""


class _Drawing:
    """What the bar and the live line have in common: the drawn row, what stands above it, and the end."""

    def __init__(self, out: TextIO | None, clock: Callable[[], float]) -> None:
        """Draw on `out`, standard error by default; nothing is drawn before the first update."""
        self._out = sys.stderr if out is None else out
        self._clock = clock
        self._began = clock()
        self._next = 0.0
        self._drawn = ""
        self._summary = ""
        self._gone = False

    def above(self, line: bytes) -> bytes:
        """Return what must be written for `line` to stand above what is drawn; may be called from any thread."""
        drawn = self._drawn
        return f"{_CLEAR}".encode() + line + f"{drawn}\r".encode(errors="replace") if drawn else line

    def close(self) -> None:
        """Leave the last state standing, the summary of a run that ended below it, and the cursor below both."""
        text = (f"{_CLEAR}{self._drawn}\n" if self._drawn else "") + self._summary
        self._drawn = self._summary = ""
        if text:
            self._write(text)

    def _is_time(self) -> bool:
        """Return whether the last drawing is old enough, and note that one follows."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + REDRAW_S
        return True

    def _draw(self, row: str) -> None:
        self._drawn = row
        self._write(f"{_CLEAR}{row}\r")

    def _summarise(self, events: int, flags: int, rejected: int, flags_file: str) -> None:
        from tidewaiter.shell.settings_file import shown

        seconds = self._clock() - self._began
        self._summary = (
            f"{_count(events, 'event')}, {_count(flags, 'flag')}, {rejected:,} rejected in {seconds:,.1f} s; "
            f"flags in {shown(Path(flags_file), Path.cwd())}\n"
        )

    def _write(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):  # hung up, or closed
            self._gone = True


class Bar(_Drawing):
    """A progress bar for a run that ends at the end of the stream."""

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw on `out`, standard error by default; nothing is drawn before the first update."""
        super().__init__(out, clock)
        self._bar: tuple[Progress, TaskID, Console] | None = None
        self._total = 1
        self._first: int | None = None
        self._first_at = 0.0

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
        # what was read and is not committed yet is in neither figure
        self._total = max(self._total, total_bytes if total_bytes is not None else position + lag_bytes)
        if self._first is None:
            self._first, self._first_at = position, self._clock()
        if self._is_time() or position >= self._total:
            self._draw_bar(position, figures(events, events_per_s, flags, rejected) + self._left(position))

    def ended(self, *, position: int, events: int, flags: int, rejected: int, flags_file: str) -> None:
        """Draw where the run ended, and take the figures that `close` shows last."""
        if self._drawn:
            seconds = max(self._clock() - self._began, 1e-6)
            self._draw_bar(position, figures(events, events / seconds, flags, rejected))
        self._summarise(events, flags, rejected, flags_file)

    def _left(self, position: int) -> str:
        """Return how long the rest takes at the pace so far, or nothing where that cannot be said."""
        done = position - (self._first or 0)
        if done <= 0 or position >= self._total:
            return ""
        seconds = (self._clock() - self._first_at) * (self._total - position) / done
        return f"  {duration_text(seconds)} left"

    def _draw_bar(self, position: int, text: str) -> None:
        bar, task, console = self._bar = self._bar or self._start()
        console.width = max(shutil.get_terminal_size().columns - 1, 1)
        bar.update(task, completed=position, total=max(self._total, 1), text=text)
        with console.capture() as captured:
            console.print(bar.get_renderable(), end="", no_wrap=True, crop=True)
        self._draw(captured.get().split("\n", 1)[0].rstrip())

    def _start(self) -> tuple[Progress, TaskID, Console]:
        """Make rich's bar, of which only the picture is used: its own drawing knows nothing of other lines."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
        )
        from rich.table import Column

        console = Console(file=self._out)
        roomy = shutil.get_terminal_size().columns >= _ROOMY
        sizes = [DownloadColumn(binary_units=True, table_column=Column(no_wrap=True))] if roomy else []
        bar = Progress(
            TaskProgressColumn(),
            BarColumn(bar_width=16),
            *sizes,
            TextColumn("{task.fields[text]}"),
            console=console,
            auto_refresh=False,
        )
        return bar, bar.add_task("", total=1, text=""), console


class LiveLine(_Drawing):
    """One line that is rewritten in place while the daemon runs."""

    def __init__(self, name: str, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw on `out`, standard error by default, for the stream `name`."""
        super().__init__(out, clock)
        self._name = name

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
        if self._is_time():
            lag = "up to date" if lag_bytes == 0 else f"{bytes_text(lag_bytes)} behind"
            self._draw_row(position, lag, figures(events, events_per_s, flags, rejected))

    def ended(self, *, position: int, events: int, flags: int, rejected: int, flags_file: str) -> None:  # noqa: ARG002 - the line is gone
        """Take the figures of the whole run, which `close` shows instead of the line."""
        self._drawn = ""
        self._write(_CLEAR)
        self._summarise(events, flags, rejected, flags_file)

    def _draw_row(self, position: int, lag: str, text: str) -> None:
        width = max(shutil.get_terminal_size().columns - 1, 1)
        self._draw(f"{self._name}  at {position:,}  {lag}  {text}"[:width])


def figures(events: int, events_per_s: float, flags: int, rejected: int) -> str:
    """Return the counts in words."""
    return f"{events:,} events  {events_per_s:,.0f}/s  {flags:,} flags  {rejected:,} rejected"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration_text(seconds: float) -> str:
    """Return a time for a person, in whole seconds: ``42 s``, ``3:05``, ``1:03:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def bytes_text(count: int) -> str:
    """Return a number of bytes for a person, to three figures."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004 - the factor between units
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
