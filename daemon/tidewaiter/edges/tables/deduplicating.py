"""Of the rows with one key, the first or the last.

Owns: which row stays. Leaves to `partitions` holding the rows, and to `sorting` bringing those that stay into the order
in which they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from tidewaiter.edges.tables.partitions import ARRIVAL, Fold, numbered, sliced
from tidewaiter.edges.tables.sorting import Runs, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from tidewaiter.core.pipelines.steps import Deduplicate
    from tidewaiter.edges.tables.spill import SpillDirectory

_BY_ARRIVAL = ((ARRIVAL, False),)


def deduplicate(
    frames: Iterable[pl.DataFrame], step: Deduplicate, spill: SpillDirectory, memory_bytes: int
) -> Iterator[pl.DataFrame]:
    """Yield the rows that stay, in the order in which they came; null is equal to null."""
    keep = cast("Literal['first', 'last']", step.keep)

    def kept(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.unique(step.by, keep=keep, maintain_order=True)

    fold = Fold(step.by, kept, spill, memory_bytes)
    for frame in numbered(frames):
        fold.add(kept(frame))
    if not fold.spilled:
        for frame in fold.results():
            yield from sliced(frame.drop(ARRIVAL))
        return
    runs = Runs(_BY_ARRIVAL, spill, memory_bytes)
    for frame in fold.results():
        runs.add([in_order(frame, _BY_ARRIVAL)])
    for frame in runs.merged():
        yield frame.drop(ARRIVAL)
