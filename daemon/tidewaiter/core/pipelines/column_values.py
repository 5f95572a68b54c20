"""A column of an input as the values that a contract declares: texts are read, types of Parquet and JSON adapted.

Owns: which type of an input can become which declared type, and doing so without losing anything. Leaves the forms of
texts to `text_values`, and what is allowed of the values to `validation`.

A value that the declared type cannot hold exactly becomes null, and its row is rejected: an amount with more decimals
than declared, 1.5 where whole numbers are, a double that is not the nearest to any amount. Doubles become amounts as
the stream reads them (`core.contract`): one stands for the amount whose nearest double it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.pipelines.columns import ColumnType
from tidewaiter.core.pipelines.text_values import finite, read_texts, with_opposites, within_years

if TYPE_CHECKING:
    from tidewaiter.core.contract import Field

_EXACT_DOUBLES: Final = 10**15
"""Up to here in minor units every amount has a double of its own."""
_KINDS: Final = {"enum": "string", "money": "decimal"}
_BECOMES: Final = {
    "integer": ("integer", "decimal"),
    "decimal": ("decimal", "integer"),
    "float": ("float", "decimal", "integer"),
}


def column_type(field: Field) -> ColumnType:
    """Return the type of the column that holds `field`."""
    return ColumnType(_KINDS.get(field.kind, field.kind), field.scale)


def readable(had: ColumnType, wanted: ColumnType) -> bool:
    """Return whether values of the type `had` can become `wanted` at all; texts can become anything."""
    return had.kind == "string" or wanted.kind in _BECOMES.get(had.kind, (had.kind,))


def read_values(cells: pl.Series, had: ColumnType, wanted: ColumnType) -> pl.Series:
    """Return `cells` as values of `wanted`, null where there is none or it cannot be held exactly."""
    match had.kind, wanted.kind:
        case "string", _:
            return read_texts(cells, wanted)
        case ("date", _) | ("timestamp", _):
            return within_years(cells)
        case "float", "float":
            return finite(cells)
        case "float", _:
            return _amounts_of_doubles(cells, wanted)
        case ("decimal" | "integer", _) if had != wanted:
            values = _without_loss(cells, wanted)
            return with_opposites(values) if wanted.kind == "integer" else values
        case "integer", _:
            return with_opposites(cells)
        case _:
            return cells.cast(wanted.dtype)


def _without_loss(cells: pl.Series, wanted: ColumnType) -> pl.Series:
    """Return whole numbers or amounts as the other, or with other decimals; null where that loses something."""
    values = cells.cast(wanted.dtype, strict=False)
    back = values.cast(cells.dtype, strict=False)
    same = back == cells
    return values if same.all() else pl.select(pl.when(same).then(values)).to_series()


def _amounts_of_doubles(cells: pl.Series, wanted: ColumnType) -> pl.Series:
    factor = 10**wanted.scale
    units = (cells * factor).round()
    # divided column by column: polars multiplies by the inverse of a single number, which is not the nearest double
    nearest = units / pl.repeat(float(factor), cells.len(), eager=True)
    fits = (units.abs() <= _EXACT_DOUBLES) & (nearest == cells)
    whole = pl.select(pl.when(fits).then(units)).to_series().cast(pl.Int64)
    if wanted.kind == "integer":
        return whole
    # minor units, then the point in them: whole numbers all the way
    point = pl.Series(["1" if wanted.scale == 0 else f"0.{1:0{wanted.scale}d}"]).cast(wanted.dtype)
    return whole.cast(wanted.dtype) * point
