"""Parts of different types side by side: in comparisons, in the branches of if_else(), in coalesce().

Owns: the type that several parts have in common, and bringing each of them to it. Leaves to `numbers` widening decimals
and to `constants` what a text stands for.
"""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.pipelines import numbers
from tidewaiter.core.pipelines.columns import INTEGER, ColumnType
from tidewaiter.core.pipelines.constants import as_constant, read_text
from tidewaiter.core.pipelines.expression_types import Part, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

EXACT: Final = ("integer", "decimal")


def common_type(parts: Sequence[Part], setting: Setting) -> ColumnType:
    """Return the type that all `parts` can have, nothing() left aside. Raises ConfigError where there is none.

    Integers and decimals become decimals of the largest scale; a text constant becomes what stands beside it.
    """
    typed = [part for part in parts if part.type is not None]
    if not typed:
        raise setting.fail("has no type", "write a value beside nothing()", parts[0].at if parts else 0)
    leading = next((part for part in typed if part.constant is None), typed[0])
    column = leading.type or INTEGER
    if column.kind in EXACT:
        return _number_type(leading, typed, setting)
    for part in typed:
        if part.constant is not None:
            as_constant(part, leading, setting)
        elif part.type != column:
            raise setting.fail(f"is {part.type}, and stands beside {column}", _mixing_hint(part, leading), part.at)
    return column


def _number_type(leading: Part, parts: Sequence[Part], setting: Setting) -> ColumnType:
    """Return the type of numbers together, texts that stand for decimals among them."""
    found: list[ColumnType] = []
    decimal = ColumnType("decimal")
    among_decimals = any(part.kind == "decimal" for part in parts)
    for part in parts:
        if isinstance(part.constant, str) and among_decimals:
            value = read_text(part.constant, decimal)
            column = numbers.number_type(value) if isinstance(value, Fraction) else None
        else:
            column = part.type if part.kind in EXACT else None
        if column is None and part.constant is not None:
            as_constant(part, leading, setting)
        if column is None:
            raise setting.fail(
                f"is {part.type}, and stands beside {leading.type}", _mixing_hint(part, leading), part.at
            )
        found.append(column)
    return (
        INTEGER if all(each == INTEGER for each in found) else ColumnType("decimal", max(each.scale for each in found))
    )


def _mixing_hint(part: Part, other: Part) -> str:
    kinds = {part.kind, other.kind}
    if kinds == {"date", "timestamp"}:
        return "date_of(x) is the day of a timestamp, in UTC"
    if "float" in kinds:
        return "floats are not exact: cast it to decimal(n)"
    return "cast one to the type of the other"


def alike(parts: Sequence[Part], column: ColumnType, setting: Setting) -> list[Part]:
    """Return `parts` as values of the type `column`, which is what common_type() found for them."""
    return [_as(part, column, setting) for part in parts]


def _as(part: Part, column: ColumnType, setting: Setting) -> Part:
    if part.type is None:
        return Part(pl.lit(None, dtype=column.dtype), column, part.at)
    if column.kind == "decimal":
        if isinstance(part.constant, str):
            value = as_constant(part, Part(pl.lit(None), column, part.at), setting)
            part = numbers.constant(value, ColumnType("decimal"), part.at) if isinstance(value, Fraction) else part
        return numbers.widened(part, column.scale, setting)
    if part.constant is None or column == INTEGER:
        return part
    value = as_constant(part, Part(pl.lit(None), column, part.at), setting)
    if isinstance(value, datetime):
        value = value.replace(tzinfo=None)
        return Part(pl.lit(value, dtype=pl.Datetime("us")).dt.replace_time_zone("UTC"), column, part.at, part.constant)
    return Part(pl.lit(value, dtype=column.dtype), column, part.at, part.constant)
