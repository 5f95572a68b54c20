"""Rows held in memory up to a limit, and beyond it on disk in parts by the hash of a key.

Owns: how rows are counted and held, which part a key belongs to, and folding rows by key in bounded memory. Leaves to
`spill` the files, and to `deduplicating`, `aggregating` and `joining` what becomes of the rows of a key.

Invariants: the rows of one key are in one part, in the order in which they came. The hash says only in which part a row
waits: no order of rows that leaves this package depends on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.pipelines.batches import BATCH_BYTES, BATCH_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tidewaiter.edges.tables.spill import SpillDirectory, SpillPart

MEMORY_BYTES: Final = 16 << 20
"""So many bytes of rows a step holds before it spills; it takes up to six times as much while it works on them."""
PARTS: Final = 32
_BITS: Final = 5
LEVELS: Final = 64 // _BITS
HIDDEN: Final = "\0"
"""Begins the name of a column that a step adds for itself: no other column has such a name."""
ARRIVAL: Final = f"{HIDDEN}arrival"
"""The place of a row among those that came into the step, from 0: unlike ROW it always ascends."""
_PART: Final = f"{HIDDEN}part"


class Held:
    """Frames one after the other, and their size in bytes."""

    def __init__(self) -> None:
        """Nothing is held."""
        self._frames: list[pl.DataFrame] = []
        self.size = 0

    def __bool__(self) -> bool:
        """Whether there are rows; some are so small that their size is 0."""
        return bool(self._frames)

    def add(self, frame: pl.DataFrame) -> None:
        """Hold the rows of `frame`, and nothing else that is in memory because of it.

        A text of a filtered frame keeps all texts of the frame before the filter in memory, and no size tells: so texts
        are copied.
        """
        if len(frame):
            frame = frame.with_columns(pl.col(pl.String) + pl.lit(""))
            self._frames.append(frame)
            self.size += int(frame.estimated_size())

    def take(self) -> pl.DataFrame:
        """Return all rows as one frame and hold nothing any more; there must be some."""
        frame = pl.concat(self._frames)
        self._frames.clear()
        self.size = 0
        return frame


def sliced(frame: pl.DataFrame, size: int = BATCH_BYTES) -> Iterator[pl.DataFrame]:
    """Yield the rows of `frame` in slices of about `size` bytes, never more than BATCH_ROWS rows."""
    rows = size * len(frame) // max(int(frame.estimated_size()), 1)
    yield from frame.iter_slices(min(max(rows, 1), BATCH_ROWS))


def numbered(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield `frames` with the column ARRIVAL."""
    before = 0
    for frame in frames:
        yield frame.with_columns(pl.int_range(before, before + len(frame), dtype=pl.UInt64).alias(ARRIVAL))
        before += len(frame)


class Scatter:
    """Rows on disk in PARTS parts, by five bits of the hash of their key: the first at level 0, the next at level 1."""

    def __init__(self, keys: Sequence[str], spill: SpillDirectory, memory_bytes: int, level: int) -> None:
        """`keys` are the columns that say which rows belong together."""
        self._keys = keys
        self._share = memory_bytes // 4
        self._shift = 1 << (_BITS * level)
        self._held = Held()
        self._parts = [spill.part() for _ in range(PARTS)]

    def add(self, frame: pl.DataFrame, combine: Callable[[pl.DataFrame], pl.DataFrame] | None = None) -> None:
        """Put the rows of `frame` where they belong; `combine` may make them fewer before."""
        self._held.add(frame)
        if self._held.size > self._share:
            self._flush(combine)

    def parts(self, combine: Callable[[pl.DataFrame], pl.DataFrame] | None = None) -> list[SpillPart]:
        """Return the parts when all rows are there."""
        self._flush(combine)
        return self._parts

    def _flush(self, combine: Callable[[pl.DataFrame], pl.DataFrame] | None) -> None:
        if not self._held:
            return
        frame = self._held.take()
        if combine is not None:
            frame = combine(frame)
        bits = frame.select(self._keys).hash_rows(seed=0) // self._shift % PARTS
        pieces = frame.with_columns(bits.alias(_PART)).partition_by(_PART, maintain_order=True, as_dict=True)
        for (part,), rows in pieces.items():
            self._parts[part].append(rows.drop(_PART))


class Fold:
    """Rows that are combined by key: `combine` returns fewer rows, or as many, whatever it is given in order.

    `combine(combine(a) + combine(b))` must be `combine(a + b)`, but for the order of rows.
    """

    def __init__(
        self,
        keys: Sequence[str],
        combine: Callable[[pl.DataFrame], pl.DataFrame],
        spill: SpillDirectory,
        memory_bytes: int,
        *,
        level: int = 0,
    ) -> None:
        """`keys` are the columns by which `combine` does so."""
        self._keys = keys
        self._combine = combine
        self._spill = spill
        self._memory = memory_bytes
        self._level = level
        self._held = Held()
        self._scatter: Scatter | None = None

    @property
    def spilled(self) -> bool:
        """Whether there will be more than one result."""
        return self._scatter is not None

    def add(self, frame: pl.DataFrame) -> None:
        """Take in rows that came after all before."""
        if self._scatter is not None:
            self._scatter.add(frame, self._combine)
            return
        self._held.add(frame)
        if self._held.size <= self._memory:
            return
        combined = self._combine(self._held.take())
        # With half of the memory free, each row is combined about twice at most, however many frames come.
        if combined.estimated_size() <= self._memory // 2 or self._level == LEVELS:
            self._held.add(combined)
            return
        self._scatter = Scatter(self._keys, self._spill, self._memory, self._level)
        self._scatter.add(combined)

    def results(self) -> Iterator[pl.DataFrame]:
        """Yield the combined rows, each key in one frame only."""
        if self._scatter is None:
            if self._held:
                yield self._combine(self._held.take())
            return
        parts = self._scatter.parts(self._combine)
        for part in parts:
            inner = Fold(self._keys, self._combine, self._spill, self._memory, level=self._level + 1)
            for frame in part.read():
                inner.add(frame)
            part.remove()
            yield from inner.results()
