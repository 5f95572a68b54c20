"""What flows through a pipeline: batches of rows, and beside them the records that were rejected.

Owns: the two values. Leaves to `edges.tables` where batches come from, to `validation` and `transforms` what is
rejected and why, and to `shell.pipelines` what a rejection means for the run.

Invariant: where batches begin and end changes nothing but memory.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Final, NamedTuple

import polars as pl
from msgspec import Struct

from tidewaiter.core.pipelines.columns import ROW, Schema

BATCH_BYTES: Final = 8 << 20
"""Of input text; twice as much takes the same time and 170 MB more (5M rows: 316 MB against 490 MB)."""
BATCH_ROWS: Final = 1 << 17
QUOTED_CHARACTERS: Final = 200
"""So much of a value is quoted in a message."""


class Rejected(Struct, frozen=True):
    """A record that a step could not take.

    `row` is its number in the whole input, from 1; `column` where the problem lies in one; `value` at most
    QUOTED_CHARACTERS characters of what stood there; `record` its cells as text, or the raw text of what is no record;
    `step` the name of the step, ``read`` and ``validate`` included.
    """

    row: int
    column: str | None
    problem: str
    value: str | None
    record: dict[str, str | None] | str
    step: str


class Batch(NamedTuple):
    """Rows, ROW first, and the records rejected on the way to them."""

    frame: pl.DataFrame
    rejected: tuple[Rejected, ...] = ()


Batches = Iterator[Batch]


def quoted(value: object) -> str | None:
    """Return `value` as a message may quote it."""
    if value is None:
        return None
    text = str(value)
    return text if len(text) <= QUOTED_CHARACTERS else f"{text[:QUOTED_CHARACTERS]}…"


def records_as_text(frame: pl.DataFrame, schema: Schema) -> list[dict[str, str | None]]:
    """Return the rows of `frame` (few) as texts by column, in the forms that contracts read and outputs have."""
    cells = {name: _texts(frame[name], column.kind) for name, column in schema.items()}
    return [{name: values[place] for name, values in cells.items()} for place in range(len(frame))]


def rows_of(frame: pl.DataFrame) -> list[int]:
    """Return the numbers of the records in `frame`."""
    return frame[ROW].to_list()


def _texts(column: pl.Series, kind: str) -> list[str | None]:
    if kind == "float":
        return column.cast(pl.String).to_list()  # the digits that `edges.tables.row_text` writes
    return [_text(value) for value in column.to_list()]


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
