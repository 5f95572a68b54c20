"""The types that a column of a pipeline may have, in the words of contracts, and the polars types that hold them.

Owns: the kinds, their names as people write them, and reading them off a frame. Leaves to `validation` how text becomes
a value, to `planning` which types an expression gives, and to `edges.tables` how a value is written.

Invariants: amounts are Decimal(38, scale), never floats; a timestamp is in UTC with microseconds; each frame of a
pipeline begins with the hidden column ROW.
"""

from __future__ import annotations

import re
from typing import Final

import polars as pl
from msgspec import Struct

ROW: Final = "__row"
"""The number of the record in the whole input, from 1; unique, and ascending until a step puts the rows in order."""
ROW_DTYPE: Final = pl.UInt64()
KINDS: Final = ("string", "integer", "decimal", "float", "boolean", "date", "timestamp")
PRECISION: Final = 38
"""Digits of a decimal: what 128 bits hold."""
MAX_SCALE: Final = 18
_DECIMAL: Final = re.compile(r"decimal\(([0-9]{1,2})\)\Z")
_DTYPES: Final[dict[str, pl.DataType]] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
}
_KINDS_OF: Final = {dtype: kind for kind, dtype in _DTYPES.items()}


class ColumnType(Struct, frozen=True):
    """A kind of values; `scale` is the number of decimals of a decimal, 0 for all others."""

    kind: str
    scale: int = 0

    @property
    def dtype(self) -> pl.DataType:
        """The polars type that holds it."""
        return pl.Decimal(PRECISION, self.scale) if self.kind == "decimal" else _DTYPES[self.kind]

    def __str__(self) -> str:
        return f"decimal({self.scale})" if self.kind == "decimal" else self.kind


Schema = dict[str, ColumnType]
"""The columns of a frame in order, ROW left out."""

STRING: Final = ColumnType("string")
INTEGER: Final = ColumnType("integer")
FLOAT: Final = ColumnType("float")
BOOLEAN: Final = ColumnType("boolean")
DATE: Final = ColumnType("date")
TIMESTAMP: Final = ColumnType("timestamp")


def parse_type(text: str) -> ColumnType | None:
    """Return the type that `text` names, ``integer`` or ``decimal(2)``; None where it names none."""
    if match := _DECIMAL.match(text):
        scale = int(match[1])
        return ColumnType("decimal", scale) if scale <= MAX_SCALE else None
    return ColumnType(text) if text in _DTYPES else None


def type_of_dtype(dtype: pl.DataType) -> ColumnType | None:
    """Return the type of the polars type `dtype`; None where a pipeline has none for it."""
    if isinstance(dtype, pl.Decimal):
        return ColumnType("decimal", dtype.scale)
    kind = _KINDS_OF.get(dtype)
    return None if kind is None else ColumnType(kind)


def schema_of(frame: pl.DataFrame) -> Schema:
    """Return the columns of `frame`, ROW left out. Raises ValueError naming a column of a type that no pipeline has."""
    found: Schema = {}
    for name, dtype in frame.schema.items():
        if name == ROW:
            continue
        known = type_of_dtype(dtype)
        if known is None:
            raise ValueError(f"{name}: a column of type {dtype} cannot be used")
        found[name] = known
    return found


def empty_frame(schema: Schema) -> pl.DataFrame:
    """Return a frame of these columns and ROW, without rows."""
    return pl.DataFrame(schema={ROW: ROW_DTYPE, **{name: column.dtype for name, column in schema.items()}})
