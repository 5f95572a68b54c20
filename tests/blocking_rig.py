"""The blocking steps in plain Python over lists of rows, and what random tables for them look like.

Nothing of tidewaiter's own way of doing it is used here: rows are tuples of Python values in order, a table is a list.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from functools import cmp_to_key
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from hypothesis import strategies as st

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.aggregates import aggregate_schema, join_schema
from tidewaiter.core.pipelines.columns import ROW, ColumnType, Schema, empty_frame, parse_type
from tidewaiter.core.pipelines.planning import PlannedStep
from tidewaiter.core.pipelines.steps import Aggregate, Join, Step
from tidewaiter.edges.tables.blocking import blocking
from tidewaiter.edges.tables.spill import SpillDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from tidewaiter.core.pipelines.batches import Rejected

Row = tuple[Any, ...]
PLENTY: Final = 64 << 20

_UTC: Final = dt.UTC
VALUES: Final[dict[str, Sequence[Any]]] = {
    "string": (
        "",
        "a",
        "b",
        "B",
        "é",
        "\ue000",
        "\U00010000",
        "a longer text than fits beside its length",
        "z\0",
        None,
    ),
    "integer": (0, 1, -1, 2, 2**63 - 1, -(2**63), None),
    "decimal(2)": (Decimal("0.00"), Decimal("0.10"), Decimal("-3.05"), Decimal("99999999999999999999.99"), None),
    "float": (0.0, -0.0, 1.5, -2.25, float("inf"), None),
    "boolean": (True, False, None),
    "date": (dt.date(2026, 1, 31), dt.date(1969, 12, 31), None),
    "timestamp": (
        dt.datetime(2026, 1, 31, 10, tzinfo=_UTC),
        dt.datetime(2026, 1, 31, 10, 0, 0, 1, tzinfo=_UTC),
        None,
    ),
}


def kind(text: str) -> ColumnType:
    """Return the column type called `text`."""
    found = parse_type(text)
    assert found is not None
    return found


def schema_of(**columns: str) -> Schema:
    """Return the columns with these types."""
    return {name: kind(text) for name, text in columns.items()}


def tables(schema: Schema, most: int = 40) -> st.SearchStrategy[list[Row]]:
    """Return tables of these columns, with few different values in each."""
    return st.lists(st.tuples(*(st.sampled_from(VALUES[str(column)]) for column in schema.values())), max_size=most)


def frame_of(rows: Sequence[Row], schema: Schema, before: int = 0) -> pl.DataFrame:
    """Return `rows` as a frame, numbered after `before`."""
    columns = {
        name: pl.Series(name, [row[place] for row in rows], dtype=column.dtype, strict=True)
        for place, (name, column) in enumerate(schema.items())
    }
    numbers = pl.Series(ROW, range(before + 1, before + 1 + len(rows)), dtype=pl.UInt64)
    return pl.DataFrame({ROW: numbers, **columns}) if rows else empty_frame(schema)


def in_frames(rows: Sequence[Row], schema: Schema, size: int) -> Iterator[pl.DataFrame]:
    """Yield `rows` in frames of `size` rows."""
    for start in range(0, len(rows), size):
        yield frame_of(rows[start : start + size], schema, start)


def no_fault(keys: tuple[str, ...], problem: str, hint: str, at: int | None) -> ConfigError:
    """Make the error of a step that is at no place."""
    return ConfigError(f"{'.'.join(keys)}: {problem}", hint=hint)


def planned(step: Step, schema: Schema, reference: Schema | None = None) -> PlannedStep:
    """Return `step` planned for the columns `schema`."""
    after = schema
    if isinstance(step, Aggregate):
        after = aggregate_schema(step, schema, no_fault)
    elif isinstance(step, Join):
        after = join_schema(step, schema, reference or {}, no_fault)
    return PlannedStep(step, schema, after)


def run(
    plan: PlannedStep,
    frames: Iterable[pl.DataFrame],
    place: Path,
    memory_bytes: int = PLENTY,
    reference: Iterable[pl.DataFrame] = (),
) -> tuple[list[Row], list[Rejected], int]:
    """Return the rows, each beginning with its number, what was rejected, and how many bytes were spilled."""
    rows: list[Row] = []
    rejected: list[Rejected] = []
    batches = 0
    with SpillDirectory(place) as spill:
        for batch in blocking(plan, frames, spill, memory_bytes=memory_bytes, reference=reference):
            assert batch.frame.columns == [ROW, *plan.after]
            assert dict(batch.frame.schema) == dict(empty_frame(plan.after).schema)
            rows += batch.frame.rows()
            batches += 1
            rejected += batch.rejected
        written = spill.written
    assert batches
    return rows, rejected, written


# -- the steps ---------------------------------------------------------------------------------------------------------


def compared(one: Any, other: Any, *, descending: bool) -> int:
    """Return -1, 0 or 1; nulls are after all, whatever the direction; texts go by their bytes."""
    if one is None or other is None:
        return (one is None) - (other is None)
    if isinstance(one, str):
        one, other = one.encode(), other.encode()
    found = int(one > other) - int(one < other)
    return -found if descending else found


def by_columns(places: Sequence[tuple[int, bool]]) -> Callable[[Row], Any]:
    """Return the key for `sorted` that goes by these places of a row."""

    def compare(one: Row, other: Row) -> int:
        for place, descending in places:
            if found := compared(one[place], other[place], descending=descending):
                return found
        return 0

    return cmp_to_key(compare)


def naive_sort(rows: Sequence[Row], schema: Schema, by: Sequence[tuple[str, bool]]) -> list[Row]:
    """Return the rows in order, numbered as they came."""
    places = [([ROW, *schema].index(name), down) for name, down in by]
    return sorted(((number, *row) for number, row in enumerate(rows, 1)), key=by_columns(places))


def naive_deduplicate(rows: Sequence[Row], schema: Schema, by: Sequence[str], keep: str) -> list[Row]:
    """Return the rows that stay."""
    places = [list(schema).index(name) for name in by]
    stay: dict[Row, int] = {}
    for at, row in enumerate(rows):
        key = tuple(row[place] for place in places)
        if keep == "last" or key not in stay:
            stay[key] = at
    return [(at + 1, *rows[at]) for at in sorted(stay.values())]


def naive_join(
    rows: Sequence[Row], schema: Schema, listed: Sequence[Row], reference: Schema, step: Join
) -> tuple[list[Row], list[int]]:
    """Return the joined rows, and the numbers of those rejected."""
    right = [list(reference).index(name) for name in step.on.values()]
    left = [list(schema).index(name) for name in step.on]
    takes = [list(reference).index(name) for name in step.take]
    partners = {tuple(row[place] for place in right): row for row in listed}
    joined: list[Row] = []
    rejected: list[int] = []
    for number, row in enumerate(rows, 1):
        key = tuple(row[place] for place in left)
        partner = None if None in key else partners.get(key)
        if partner is not None:
            joined.append((number, *row, *(partner[place] for place in takes)))
        elif step.missing == "null":
            joined.append((number, *row, *(None for _ in takes)))
        elif step.missing == "reject":
            rejected.append(number)
    return joined, rejected


def naive_aggregate(rows: Sequence[Row], schema: Schema, step: Aggregate) -> list[Row]:
    """Return the groups in order; sums are exact and fit."""
    places = [list(schema).index(name) for name in step.by]
    groups: dict[Row, list[Row]] = {}
    if not step.by:
        groups[()] = []
    for row in rows:
        groups.setdefault(tuple(row[place] for place in places), []).append(row)
    order = by_columns([(place, False) for place in range(len(places))])
    found: list[Row] = []
    for number, key in enumerate(sorted(groups, key=order), 1):
        found.append((number, *key, *(_measured(text, groups[key], schema) for text in step.columns.values())))
    return found


def _measured(text: str, rows: Sequence[Row], schema: Schema) -> Any:
    function, _, name = text.removesuffix(")").partition("(")
    if not name:
        return len(rows)
    values = [row[list(schema).index(name)] for row in rows]
    known = [value for value in values if value is not None]
    match function:
        case "count":
            return len(known)
        case "distinct":
            return len(set(known))
        case "first":
            return values[0] if values else None
        case "last":
            return values[-1] if values else None
        case "sum":
            return sum(known[1:], known[0]) if known else None
    ordered = sorted(known, key=cmp_to_key(lambda one, other: compared(one, other, descending=False)))
    return (ordered[0] if function == "min" else ordered[-1]) if ordered else None
