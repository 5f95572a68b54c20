"""One row for each group, in the order of the groups.

Owns: in which order rows become partial results and these become values. Leaves to `core.pipelines.aggregates` what the
functions do, and to `partitions` and `sorting` the memory.

A group never takes more room than one row, however many rows it has; the values of a distinct count are folded by group
and value first, so that a group with many values is spread over the parts as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewaiter.core.pipelines.aggregates import Grouping
from tidewaiter.edges.tables.partitions import Fold, sliced
from tidewaiter.edges.tables.sorting import Runs, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from tidewaiter.core.pipelines.columns import Schema
    from tidewaiter.core.pipelines.steps import Aggregate
    from tidewaiter.edges.tables.spill import SpillDirectory


def aggregate(
    frames: Iterable[pl.DataFrame], step: Aggregate, schema: Schema, spill: SpillDirectory, memory_bytes: int
) -> Iterator[pl.DataFrame]:
    """Yield the groups, numbered from 1. Raises SourceHalt where a sum does not fit its type."""
    grouping = Grouping(step, schema)
    before = 0
    for groups in _groups(frames, grouping, spill, memory_bytes):
        yield grouping.finish(groups, before)
        before += len(groups)


def _groups(
    frames: Iterable[pl.DataFrame], grouping: Grouping, spill: SpillDirectory, memory_bytes: int
) -> Iterator[pl.DataFrame]:
    share = memory_bytes // (1 + len(grouping.distinct))
    fold = Fold(grouping.keys, grouping.combine, spill, share)
    pairs = {place: Fold((*grouping.keys, "value"), _each_once, spill, share) for place in grouping.distinct}
    if not grouping.step.by:
        fold.add(grouping.no_rows())
    for frame in frames:
        fold.add(grouping.partial(frame))
        for place, values in pairs.items():
            values.add(grouping.pairs(frame, place))
    for place, values in pairs.items():
        for found in values.results():
            fold.add(grouping.counted(found, place))
    by = tuple((key, False) for key in grouping.keys)
    if not fold.spilled:
        for groups in fold.results():
            yield from sliced(in_order(groups, by))
        return
    runs = Runs(by, spill, memory_bytes)
    for groups in fold.results():
        runs.add([in_order(groups, by)])
    yield from runs.merged()


def _each_once(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.unique(maintain_order=True)
