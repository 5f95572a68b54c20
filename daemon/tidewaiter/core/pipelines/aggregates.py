"""Aggregates and joins, the pure part: which columns come out, and how the rows of a group become one.

Owns: the functions of an aggregate, the columns after aggregates and joins, and how groups are folded: rows into
partial results, partial results into one, and that into values. Leaves to `edges.tables` the order in which this
happens and what is put on disk meanwhile, and to `planning` the names that a step uses.

Invariants: folding in any pieces, so long as they come in order, gives the same values. A sum is exact: it is kept in
two numbers of 128 bits, worth 10^19 and 1, neither of which can overflow, and is held against its type at the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl
from msgspec import Struct

from tidewaiter.core.errors import SourceHalt
from tidewaiter.core.pipelines.batches import quoted
from tidewaiter.core.pipelines.columns import INTEGER, PRECISION, ROW, ROW_DTYPE, ColumnType, Schema
from tidewaiter.core.pipelines.planning import check_new_name
from tidewaiter.core.toml_source import nearest

if TYPE_CHECKING:
    from tidewaiter.core.pipelines.steps import Aggregate, Join, StepFail

FUNCTIONS: Final = ("count", "sum", "min", "max", "first", "last", "distinct")
_CALL: Final = re.compile(r"\s*([a-z_]+)\s*\(\s*(.*?)\s*\)\s*\Z", re.DOTALL)
_HALF: Final = 10**19
_LIMITS: Final = {"integer": (-(2**63), 2**63 - 1), "decimal": (1 - 10**PRECISION, 10**PRECISION - 1)}
_ROWS: Final = "rows"


class Measure(Struct, frozen=True):
    """One column of an aggregate: `function` of FUNCTIONS over `column`, None only for the number of rows."""

    function: str
    column: str | None = None


def measure_of(text: str) -> Measure | None:
    """Return what a text such as ``sum(amount)`` asks for; None where it has not that form."""
    match = _CALL.match(text)
    return Measure(match[1], match[2] or None) if match else None


# -- columns -----------------------------------------------------------------------------------------------------------


def aggregate_schema(step: Aggregate, schema: Schema, fail: StepFail) -> Schema:
    """Return the columns after `step`: those it groups by, then its own. Raises ConfigError, made by `fail`."""
    after = {name: schema[name] for name in step.by}
    if not step.by and not step.columns:
        raise fail(("aggregate",), "asks for nothing", 'name a column: n = "count()"', None)
    for name, text in step.columns.items():
        keys = ("aggregate", name)
        check_new_name(name, fail, *keys)
        if name in after:
            raise fail(keys, "is a column that the rows are grouped by", "choose another name", None)
        measure = measure_of(text)
        if measure is None:
            raise fail(keys, f"{text!r} is no aggregate", "write count(), sum(amount) or the like", None)
        after[name] = _type_of(measure, schema, fail, keys)
    return after


def _type_of(measure: Measure, schema: Schema, fail: StepFail, keys: tuple[str, ...]) -> ColumnType:
    function, name = measure.function, measure.column
    if function not in FUNCTIONS:
        raise fail(keys, f"there is no aggregate {function}()", nearest(function, FUNCTIONS), None)
    if name is None:
        if function != "count":
            raise fail(keys, f"{function}() of what?", f"name a column: {function}(amount)", None)
        return INTEGER
    if name not in schema:
        raise fail(keys, f"there is no column {name!r} here", nearest(name, schema), None)
    column = schema[name]
    if function == "sum" and column.kind not in _LIMITS:
        hint = "cast it to decimal(n) first: sums are exact" if column.kind == "float" else "count() counts rows"
        raise fail(keys, f"{name} is {column} and has no sum", hint, None)
    return INTEGER if function in ("count", "distinct") else column


def join_schema(step: Join, schema: Schema, reference: Schema, fail: StepFail) -> Schema:
    """Return the columns after `step`: those before it, then those it takes from a list with columns `reference`.

    Raises ConfigError, made by `fail`.
    """
    for name, key in step.on.items():
        keys = ("join", "on", name)
        if key not in reference:
            raise fail(keys, f"{step.file} has no column {key!r}", nearest(key, reference), None)
        if schema[name] != reference[key]:
            problem = f"{name} is {schema[name]}, but {key} in {step.file} is {reference[key]}"
            raise fail(keys, problem, "cast one of them: only values of one type are equal", None)
        if schema[name].kind == "float":
            raise fail(keys, f"{name} is float and cannot be a key", "cast it to decimal(n) first", None)
    after = dict(schema)
    for old, new in step.take.items():
        keys = ("join", "take", old)
        if old not in reference:
            raise fail(keys, f"{step.file} has no column {old!r}", nearest(old, reference), None)
        if new in after:
            raise fail(keys, f"there is a column {new!r} already", "give what is taken another name", None)
        after[new] = reference[old]
    return after


# -- groups ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grouping:
    """How `step` folds rows with the columns `schema`, in frames of its own making.

    A *partial result* is a frame with one row for each group in it: the columns `keys`, the number of rows, and what
    each function needs to go on. Frames are handed over in the order of arrival of their rows.
    """

    step: Aggregate
    schema: Schema

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of a partial result that tell groups apart; there is one even when all rows are one group."""
        return tuple(f"key{place}" for place in range(len(self.step.by) or 1))

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is asked for, in order."""
        return tuple(filter(None, map(measure_of, self.step.columns.values())))

    @property
    def distinct(self) -> tuple[int, ...]:
        """The places in `measures` of distinct counts: these need each value of a group once (`pairs`)."""
        return tuple(place for place, measure in enumerate(self.measures) if measure.function == "distinct")

    def partial(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the partial result of `rows`."""
        columns = [pl.len().cast(pl.Int64).alias(_ROWS)]
        for place, measure in enumerate(self.measures):
            columns += _of_rows(place, measure, self.schema)
        return rows.group_by(self._groups()).agg(columns)

    def no_rows(self) -> pl.DataFrame:
        """Return the partial result of no rows in one group: what an aggregate of nothing, by nothing, comes to."""
        return self._empty().clear(n=1).with_columns(pl.lit(value=True).alias(self.keys[0]))

    def pairs(self, rows: pl.DataFrame, place: int) -> pl.DataFrame:
        """Return each different value in `rows`, with its group, of the column counted at `place`."""
        name = self.measures[place].column
        assert name is not None  # noqa: S101 - distinct() without a column is not planned
        values = rows.select(*self._groups(), _plain(name, self.schema).alias("value"))
        return values.filter(pl.col("value").is_not_null()).unique(maintain_order=True)

    def counted(self, pairs: pl.DataFrame, place: int) -> pl.DataFrame:
        """Return the partial result that adds the number of `pairs` by group; no pair may be handed over twice."""
        counts = pairs.group_by(self.keys).agg(pl.len().cast(pl.Int64).alias(f"{place}n"))
        return pl.concat([self._empty(), counts], how="diagonal")

    def combine(self, partials: pl.DataFrame) -> pl.DataFrame:
        """Return partial results, one frame after the other, as one."""
        columns = [pl.col(_ROWS).sum()]
        for place, measure in enumerate(self.measures):
            columns += _of_partials(place, measure)
        return partials.group_by(self.keys).agg(columns)

    def finish(self, partials: pl.DataFrame, before: int) -> pl.DataFrame:
        """Return the rows of complete groups, numbered after `before`. Raises SourceHalt where a sum does not fit."""
        columns = [pl.col(key).alias(name) for key, name in zip(self.keys, self.step.by, strict=False)]
        for place, (name, measure) in enumerate(zip(self.step.columns, self.measures, strict=True)):
            if measure.function == "sum":
                columns.append(self._sum(partials, place, name))
            else:
                part = "n" if measure.function in ("count", "distinct") else "v"
                columns.append(pl.col(_ROWS if measure == Measure("count") else f"{place}{part}").alias(name))
        number = pl.int_range(before + 1, before + 1 + len(partials), dtype=ROW_DTYPE).alias(ROW)
        return partials.select(number, *columns)

    def _groups(self) -> list[pl.Expr]:
        if not self.step.by:
            return [pl.lit(value=True).alias(self.keys[0])]
        return [_plain(name, self.schema).alias(key) for key, name in zip(self.keys, self.step.by, strict=True)]

    def _empty(self) -> pl.DataFrame:
        frame = pl.DataFrame(schema={name: column.dtype for name, column in self.schema.items()})
        return self.partial(frame).clear()

    def _sum(self, partials: pl.DataFrame, place: int, name: str) -> pl.Expr:
        column = self.schema[self.measures[place].column or ""]
        half = pl.lit(_HALF, dtype=pl.Int128)
        low, high = (pl.lit(limit, dtype=pl.Int128) for limit in _LIMITS[column.kind])
        upper = pl.col(f"{place}h") + pl.col(f"{place}l") // half
        total = pl.when(upper.is_between(-_HALF, _HALF - 1)).then(upper * half + pl.col(f"{place}l") % half)
        fits = pl.col(f"{place}n").eq(0) | total.is_between(low, high).fill_null(value=False)
        wrong = partials.filter(~fits).head(1)
        if len(wrong):
            self._refuse_sum(wrong, name, column)
        value = pl.when(pl.col(f"{place}n") > 0).then(total)
        typed = value.reinterpret(dtype=column.dtype) if column.kind == "decimal" else value.cast(pl.Int64)
        return typed.alias(name)

    def _refuse_sum(self, group: pl.DataFrame, name: str, column: ColumnType) -> None:
        texts = [group[key].cast(pl.String).fill_null("null")[0] for key in self.keys]
        values = [f"{name} = {quoted(text)}" for name, text in zip(self.step.by, texts, strict=False)]
        where = f" where {', '.join(values)}" if values else ""
        what, hint = "64 bits", "cast the column to decimal(0) before this step"
        if column.kind == "decimal":
            what, hint = f"{PRECISION} digits", "aggregate by more columns"
        text = self.step.columns[name]
        raise SourceHalt(f"{self.step.name}: {name}: {text}{where} does not fit in {what}", hint=hint)


def _plain(name: str, schema: Schema) -> pl.Expr:
    """Return the column with one form of each value: zero has no sign."""
    column = pl.col(name)
    if schema[name].kind != "float":
        return column
    return pl.when(column == 0).then(0.0).otherwise(column)  # adding 0.0 would be left out as of no use


def _of_rows(place: int, measure: Measure, schema: Schema) -> list[pl.Expr]:
    name = measure.column
    if name is None or measure.function == "distinct":
        return [] if name is None else [pl.lit(0, dtype=pl.Int64).first().alias(f"{place}n")]
    column = pl.col(name)
    if measure.function == "count":
        return [column.count().cast(pl.Int64).alias(f"{place}n")]
    if measure.function == "sum":
        number = column.to_physical() if schema[name].kind == "decimal" else column.cast(pl.Int128)
        half = pl.lit(_HALF, dtype=pl.Int128)
        upper, lower = (number // half).sum(), (number % half).sum()
        return [upper.alias(f"{place}h"), lower.alias(f"{place}l"), column.count().cast(pl.Int64).alias(f"{place}n")]
    if measure.function in ("min", "max"):
        column = _plain(name, schema)
    return [_chosen(column, measure.function).alias(f"{place}v")]


def _of_partials(place: int, measure: Measure) -> list[pl.Expr]:
    if measure == Measure("count"):
        return []
    if measure.function in ("count", "distinct"):
        return [pl.col(f"{place}n").sum()]
    if measure.function == "sum":
        return [pl.col(f"{place}{part}").sum() for part in "hln"]
    values = pl.col(f"{place}v")
    if measure.function in ("first", "last"):
        values = values.filter(pl.col(_ROWS) > 0)  # a count of pairs has seen no rows, and so neither of them
    return [_chosen(values, measure.function)]


def _chosen(values: pl.Expr, function: str) -> pl.Expr:
    match function:
        case "min":
            return values.min()
        case "max":
            return values.max()
        case "first":
            return values.first()
        case _:
            return values.last()
