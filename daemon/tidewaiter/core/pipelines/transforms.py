"""What the streaming steps do to one frame: filter, derive, select, rename, cast.

Owns: running them, and the records that they reject. Leaves to `planning` the checks before any row is read, and to
`edges.tables` the steps that need more than one frame.

Invariants: a row goes on, is removed by a filter, or is rejected, and which of them depends on that row alone; a row
that goes on is right in every column. The looks that find a row to reject are taken in the pass that computes the
values; only where there is one are the rows looked at one by one. Lazy frames compute what both share only once.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.pipelines.batches import Rejected, quoted, records_as_text, rows_of
from tidewaiter.core.pipelines.columns import ROW
from tidewaiter.core.pipelines.step_casts import cast_column, not_castable
from tidewaiter.core.pipelines.steps import Cast, Derive, Filter, Rename, Select

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tidewaiter.core.pipelines.expression_types import Compiled
    from tidewaiter.core.pipelines.planning import PlannedStep

_BAD: Final = "\0bad"  # no column is called so
_KEEP: Final = "\0keep"

Result = tuple[pl.DataFrame, tuple[Rejected, ...]]


def transform(planned: PlannedStep, frame: pl.DataFrame) -> Result:
    """Return what a streaming step makes of `frame`, ROW first, and the rows that it rejects, in their order.

    Raises TypeError for a step of another kind.
    """
    match planned.step:
        case Filter():
            return _filter(planned, frame)
        case Derive():
            return _derive(planned, frame)
        case Select(columns=columns):
            return frame.select(ROW, *columns), ()
        case Rename(columns=columns):
            return frame.rename(columns), ()
        case Cast():
            return _cast(planned, planned.step, frame)
    raise TypeError(f"{planned.step.kind} is not done frame by frame")


def _filter(planned: PlannedStep, frame: pl.DataFrame) -> Result:
    where = planned.compiled["where"]
    if not where.problems:
        return _done(frame.lazy().filter(where.expr)), ()
    looked = _done(frame.lazy().with_columns(where.expr.alias(_KEEP), _any_problem([where])))
    if looked[_BAD].any():
        kept = frame.filter(looked[_KEEP] & ~looked[_BAD])
        return kept, _rejections(planned, frame.filter(looked[_BAD]))
    return frame.filter(looked[_KEEP]), ()


def _derive(planned: PlannedStep, frame: pl.DataFrame) -> Result:
    values = [compiled.expr.alias(name) for name, compiled in planned.compiled.items()]
    if not any(compiled.problems for compiled in planned.compiled.values()):
        return _done(frame.lazy().with_columns(values)), ()
    derived = _done(frame.lazy().with_columns(*values, _any_problem(planned.compiled.values())))
    bad = derived[_BAD]
    derived = derived.drop(_BAD)
    if not bad.any():
        return derived, ()
    return derived.filter(~bad), _rejections(planned, frame.filter(bad))


def _done(frame: pl.LazyFrame) -> pl.DataFrame:
    """Return the rows in their order, whatever engine the environment prefers."""
    return frame.collect(engine="in-memory")


def _any_problem(compiled: Iterable[Compiled]) -> pl.Expr:
    """Return the condition that a row has a problem, never null."""
    conditions = [condition for each in compiled for condition, _ in each.problems]
    return reduce(or_, conditions).fill_null(value=False).alias(_BAD)


def _rejections(planned: PlannedStep, rows: pl.DataFrame) -> tuple[Rejected, ...]:
    """Return the rejections of `rows`, each of which has a problem: the first that it has."""
    pairs = [
        (None if name == "where" and isinstance(planned.step, Filter) else name, compiled, text, condition)
        for name, compiled in planned.compiled.items()
        for condition, text in compiled.problems
    ]
    first = pl.coalesce(pl.when(pair[3]).then(place) for place, pair in enumerate(pairs))
    records = records_as_text(rows, planned.before)
    places = _done(rows.lazy().with_columns(first.alias(_KEEP)))[_KEEP].to_list()
    return tuple(
        Rejected(row, pairs[place][0], pairs[place][2], _inputs(record, pairs[place][1]), record, planned.step.name)
        for row, place, record in zip(rows_of(rows), places, records, strict=True)
    )


def _inputs(record: dict[str, str | None], compiled: Compiled) -> str | None:
    """Return what an expression was given."""
    return quoted(", ".join(f"{name} {_or_null(record[name])}" for name in record if name in compiled.names))


def _or_null(text: str | None) -> str:
    return "null" if text is None else text


def _cast(planned: PlannedStep, step: Cast, frame: pl.DataFrame) -> Result:
    columns: list[pl.Series] = []
    failed: dict[str, pl.Series] = {}
    for name, wanted in step.columns.items():
        cells = frame[name]
        values = cast_column(cells, planned.before[name], wanted)
        columns.append(values.rename(name))
        if values.null_count() != cells.null_count():
            failed[name] = values.is_null() & cells.is_not_null()
    done = frame.with_columns(columns)
    if not failed:
        return done, ()
    bad = reduce(or_, failed.values())
    return done.filter(~bad), _failed_casts(planned, step, frame, failed, bad)


def _failed_casts(
    planned: PlannedStep, step: Cast, frame: pl.DataFrame, failed: dict[str, pl.Series], bad: pl.Series
) -> tuple[Rejected, ...]:
    rows = frame.filter(bad)
    marks = {name: mark.filter(bad).to_list() for name, mark in failed.items()}
    told: list[Rejected] = []
    for place, (row, record) in enumerate(zip(rows_of(rows), records_as_text(rows, planned.before), strict=True)):
        name = next(name for name, mark in marks.items() if mark[place])
        problem = not_castable(planned.before[name], step.columns[name])
        told.append(Rejected(row, name, problem, quoted(record[name]), record, step.name))
    return tuple(told)
