"""Casts of columns: which types become which, and what is said where a value cannot.

Owns: values as texts, and the words for a cast that fails. Leaves to `column_values` and `text_values` what a value
becomes in all other types: a cast reads what a contract would read, and loses nothing; round() is for what may be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.pipelines.column_values import read_values, readable
from tidewaiter.core.pipelines.text_values import not_of_form

if TYPE_CHECKING:
    from tidewaiter.core.pipelines.columns import ColumnType

WRITABLE: Final = ("string", "integer", "decimal", "boolean", "date")
"""The kinds that have one text of their own inside a pipeline."""


def castable(had: ColumnType, wanted: ColumnType) -> bool:
    """Return whether a column of type `had` can become `wanted` at all."""
    return had.kind in WRITABLE if wanted.kind == "string" else readable(had, wanted)


def cast_column(cells: pl.Series, had: ColumnType, wanted: ColumnType) -> pl.Series:
    """Return `cells` as values of `wanted`, null where there is none."""
    if wanted.kind != "string":
        return read_values(cells, had, wanted)
    return cells.dt.to_string("%Y-%m-%d") if had.kind == "date" else cells.cast(pl.String)


def not_castable(had: ColumnType, wanted: ColumnType) -> str:
    """Return what to say of a value of type `had` that is not null and has no equal in `wanted`."""
    if had.kind == "string":
        return not_of_form(wanted)
    return f"cannot be held exactly as {wanted}"
