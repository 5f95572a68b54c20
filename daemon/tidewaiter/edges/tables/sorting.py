"""Rows in order, however many there are: sorted runs on disk, merged in slices.

Owns: sorting frames, and merging runs that are in order each; `deduplicating`, `joining` and `aggregating` restore
their order with it. Leaves to `spill` the files.

The order: by each column as polars has it, which is by UTF-8 bytes for texts (the order of code points), exact for
decimals, with all kinds of NaN equal and after every number; nulls last, also where the order descends; rows that are
equal in all columns as they came.

Invariant: what comes out does not depend on where frames begin and end, nor on how much memory there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.edges.tables.partitions import HIDDEN, Held, sliced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tidewaiter.edges.tables.spill import SpillDirectory, SpillPart

FAN_IN: Final = 32
"""Runs merged at once: each holds a slice in memory."""

_PLACE: Final = f"{HIDDEN}place"

Order = tuple[tuple[str, bool], ...]
"""Columns by weight, and whether each descends."""


def sort(frames: Iterable[pl.DataFrame], by: Order, spill: SpillDirectory, memory_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield the rows of `frames` in order."""
    runs = Runs(by, spill, memory_bytes)
    held = Held()
    for frame in frames:
        held.add(frame)
        if held.size > memory_bytes:
            runs.add([in_order(held.take(), by)])
    if not held:
        yield from runs.merged()
    elif not runs:
        yield from sliced(in_order(held.take(), by))
    else:
        runs.add([in_order(held.take(), by)])
        yield from runs.merged()


def in_order(frame: pl.DataFrame, by: Order) -> pl.DataFrame:
    """Return the rows of `frame` in order."""
    names, descending = [name for name, _ in by], [down for _, down in by]
    return frame.sort(names, descending=descending, nulls_last=True, maintain_order=True)


class Runs:
    """Runs of rows, each in order and on disk, in the order in which equal rows are to come."""

    def __init__(self, by: Order, spill: SpillDirectory, memory_bytes: int) -> None:
        """`by` is the order of every run and of the whole."""
        self._by = by
        self._spill = spill
        self._slice = memory_bytes // FAN_IN
        self._runs: list[SpillPart] = []

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, frames: Iterable[pl.DataFrame]) -> None:
        """Put a run on disk: `frames` one after the other are in order."""
        run = self._spill.part()
        for frame in frames:
            for piece in sliced(frame, self._slice):
                run.append(piece)
        self._runs.append(run)

    def merged(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of all runs in order; the runs are gone then."""
        while len(self._runs) > FAN_IN:
            # Neighbours are merged with each other only, so that equal rows stay as they came.
            before, self._runs = self._runs, []
            for start in range(0, len(before), FAN_IN):
                self.add(_merged(before[start : start + FAN_IN], self._by))
        yield from _merged(self._runs, self._by)
        self._runs = []


class _Run:
    """A run being read: the rows of its latest slice that are still to come out."""

    def __init__(self, part: SpillPart) -> None:
        self._part = part
        self._next = 0
        self.rows = pl.DataFrame()
        self.load()

    @property
    def more(self) -> bool:
        """Whether rows are still on disk."""
        return self._next < len(self._part)

    def load(self) -> None:
        """Read the next slice; all rows of the one before have come out."""
        if self.more:
            self.rows = self._part.at(self._next)
            self._next += 1

    def take(self, count: int) -> pl.DataFrame:
        taken, self.rows = self.rows.head(count), self.rows.slice(count)
        return taken


def _merged(parts: Sequence[SpillPart], by: Order) -> Iterator[pl.DataFrame]:
    runs = [_Run(part) for part in parts if len(part)]
    while unread := [run for run in runs if run.more]:
        # No row still on disk comes before the last row in memory of its run; so what is not after the least of these
        # last rows can come out.
        lasts = pl.concat([run.rows.tail(1) for run in unread])
        least = unread[_first_of(lasts, by)]
        bound = least.rows.tail(1)
        taken = []
        place = runs.index(least)
        for at, run in enumerate(runs):
            if run is least:
                taken.append(run.take(len(run.rows)))
            elif len(run.rows):
                taken.append(run.take(_count_before(run.rows, bound, by, or_equal=at < place)))
        least.load()
        yield from sliced(in_order(pl.concat(taken), by))
    if runs:
        yield from sliced(in_order(pl.concat([run.rows for run in runs]), by))
    for part in parts:
        part.remove()


def _first_of(rows: pl.DataFrame, by: Order) -> int:
    first: int = in_order(rows.with_row_index(_PLACE), by)[_PLACE][0]
    return first


def _count_before(rows: pl.DataFrame, bound: pl.DataFrame, by: Order, *, or_equal: bool) -> int:
    """Return how many of `rows`, which are in order, come before the one row of `bound`."""
    before = pl.Series([or_equal])
    for name, descending in reversed(by):
        values, value = rows[name], bound[name]
        if value[0] is None:
            before = values.is_not_null() | before
        else:
            # Where a value is null, so is what comes of it: not true, and not counted.
            before = (values > value if descending else values < value) | ((values == value) & before)
    return int(before.sum())
