"""The steps that see the whole input before their last row comes out: sort, deduplicate, join, aggregate.

Owns: which module runs which step. Leaves to `core.pipelines.transforms` the steps that go row by row.

Invariant: the rows, their order and what is rejected do not depend on where frames begin and end, on how much memory
there is, or on how polars hashes and how many threads it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewaiter.core.pipelines.batches import Batch
from tidewaiter.core.pipelines.columns import empty_frame
from tidewaiter.core.pipelines.steps import Aggregate, Deduplicate, Join, Sort
from tidewaiter.edges.tables.aggregating import aggregate
from tidewaiter.edges.tables.deduplicating import deduplicate
from tidewaiter.edges.tables.joining import Joining
from tidewaiter.edges.tables.partitions import MEMORY_BYTES
from tidewaiter.edges.tables.sorting import sort

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from tidewaiter.core.pipelines.batches import Batches
    from tidewaiter.core.pipelines.planning import PlannedStep
    from tidewaiter.edges.tables.spill import SpillDirectory


def blocking(
    planned: PlannedStep,
    frames: Iterable[pl.DataFrame],
    spill: SpillDirectory,
    *,
    memory_bytes: int = MEMORY_BYTES,
    reference: Iterable[pl.DataFrame] = (),
) -> Batches:
    """Yield what the step makes of the rows of `frames`, at least one batch; ROW is first, here and there.

    Sort, deduplicate and join keep ROW, an aggregate numbers its rows from 1. `reference` are the rows of a join's
    list, with the types of its schema; ROW numbers them. The step holds about `memory_bytes` of rows, takes up to six
    times as much while it works on them, and puts the others into `spill`.

    Raises ConfigError (a key twice in a list), SourceHalt (a sum that does not fit), NoSpace and DurabilityError.
    """
    found = False
    for batch in _batches(planned, frames, spill, memory_bytes, reference):
        found = True
        yield batch
    if not found:
        yield Batch(empty_frame(planned.after))


def _batches(
    planned: PlannedStep,
    frames: Iterable[pl.DataFrame],
    spill: SpillDirectory,
    memory_bytes: int,
    reference: Iterable[pl.DataFrame],
) -> Iterator[Batch]:
    match planned.step:
        case Sort() as step:
            return map(Batch, sort(frames, step.by, spill, memory_bytes))
        case Deduplicate() as step:
            return map(Batch, deduplicate(frames, step, spill, memory_bytes))
        case Aggregate() as step:
            return map(Batch, aggregate(frames, step, planned.before, spill, memory_bytes))
        case Join() as step:
            return Joining(step, planned.before, planned.after, spill, memory_bytes).run(frames, reference)
        case step:
            raise TypeError(f"{step.name}: a {step.kind} goes row by row")
