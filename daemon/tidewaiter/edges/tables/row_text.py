"""Rows as text: one spelling for each value, whatever writes it.

Owns: how dates and timestamps are spelled, rows as delimited text, rows as JSON lines. Leaves to `digest` and
`writers` where the text goes, and to `core.pipelines.columns` the types.

- integer: digits, with ``-``. decimal: always all of its decimals. boolean: true, false. date: 2026-01-31. timestamp:
  2026-01-31T10:00:00Z, with a fraction of three or six digits only where it is not zero.
- float: the shortest digits that give the same number again; as 0.00001 between 1e-5 and 1e16, else as 1e-7 or 1e+16;
  NaN, inf and -inf where the format has them.
- The years are 0001 to 9999: `refuse_unwritable` names the row of any other, and that of a NUL in delimited text.

Invariant: the text of a row does not depend on the rows around it, nor on locale or number of threads.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import polars as pl

from tidewaiter.core.errors import SourceHalt
from tidewaiter.core.pipelines.columns import ROW
from tidewaiter.core.pipelines.table_format import DELIMITED

if TYPE_CHECKING:
    from tidewaiter.core.pipelines.columns import Schema

_SECOND: Final = 1_000_000
_PIECE_ROWS: Final = 1 << 14
"""So many rows a thread spells at a time; polars itself would take 1,024, and be slower by a quarter."""
_DAY: Final = 86_400
_FIRST_DAY: Final = -719_162
"""0001-01-01, in days since 1970."""
_LAST_DAY: Final = 2_932_896
"""9999-12-31."""


def spelled(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return the columns of `schema`, in its order, with dates and timestamps as text."""
    columns = [_spelled(frame[name].rechunk(), column.kind) for name, column in schema.items()]
    return pl.DataFrame(columns)


def _spelled(column: pl.Series, kind: str) -> pl.Series:
    if kind == "date":
        return _days(column.to_physical()).alias(column.name)
    if kind == "timestamp":
        return _moments(column.to_physical()).alias(column.name)
    return column


def _days(days: pl.Series) -> pl.Series:
    """Spell days since 1970; where few days lie between the first and the last, each is spelled once."""
    low, high = days.min(), days.max()
    if isinstance(low, int) and isinstance(high, int) and high - low < len(days):
        every = pl.int_range(low, high + 1, dtype=pl.Int32, eager=True)
        return every.cast(pl.Date).cast(pl.String).gather((days - low).cast(pl.UInt32))
    return days.cast(pl.Int32).cast(pl.Date).cast(pl.String)


def _moments(moments: pl.Series) -> pl.Series:
    """Spell microseconds since 1970; whole seconds, the usual case, by looking the time of day up."""
    seconds = moments // _SECOND
    if (moments != seconds * _SECOND).any():
        return moments.cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
    days = seconds // _DAY
    times = _times_of_day().gather((seconds - days * _DAY).cast(pl.UInt32))
    return pl.select(pl.concat_str(_days(days), times)).to_series()


@cache
def _times_of_day() -> pl.Series:
    return pl.Series([f"T{at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}Z" for at in range(_DAY)])


# -- delimited text ----------------------------------------------------------------------------------------------------


def delimited(
    frame: pl.DataFrame,
    schema: Schema,
    *,
    delimiter: str = ",",
    quote: str = '"',
    quoted: Literal["necessary", "non_numeric"] = "necessary",
) -> bytes:
    """Return the rows as RFC 4180 has them, each ending in a newline, without header.

    ``necessary`` quotes a text that holds the delimiter, the quote or a line break, and the empty text; ``non_numeric``
    quotes all but integers, decimals and floats. Null is nothing at all: in a table of one column an empty line, which
    the reader of such a table takes for just that.
    """
    text = io.BytesIO()
    spelled(frame, schema).write_csv(
        text,
        include_header=False,
        separator=delimiter,
        batch_size=_PIECE_ROWS,
        quote_char=quote,
        quote_style=quoted,
        null_value="",
    )
    return text.getvalue()


def header_line(names: list[str], *, delimiter: str = ",", quote: str = '"', always: bool = False) -> bytes:
    """Return the line of these names; ``always`` quotes each, else those that need it."""
    special = {delimiter, quote, "\r", "\n"}
    cells = [
        quote + name.replace(quote, quote * 2) + quote if always or not name or special & set(name) else name
        for name in names
    ]
    return (delimiter.join(cells) + "\n").encode()


# -- JSON lines --------------------------------------------------------------------------------------------------------


def json_lines(frame: pl.DataFrame, schema: Schema) -> bytes:
    """Return the rows as one JSON object a line, keys in the order of the columns, null written as null.

    Decimals are numbers with all their decimals. Floats that are no numbers do not pass `refuse_unwritable`.
    """
    texts = spelled(frame, schema)
    pieces: list[pl.Expr] = []
    run: list[str] = []
    for name, column in schema.items():
        if column.kind != "decimal":
            run.append(name)
            continue
        if run:
            pieces.append(_members(run))
            run = []
        number = pl.col(name).cast(pl.String).fill_null("null")
        pieces.append(pl.concat_str(pl.lit(f"{_key(name)}:"), number))
    if run:
        pieces.append(_members(run))
    line = pl.concat_str(pl.lit("{"), pl.concat_str(pieces, separator=","), pl.lit("}"))
    text = io.BytesIO()
    # one text a row, written as it is: no line break and no quote of it is special
    texts.select(line).write_csv(text, include_header=False, quote_style="never")
    return text.getvalue()


def _members(names: list[str]) -> pl.Expr:
    encoded = pl.struct(names).struct.json_encode()
    return encoded.str.strip_prefix("{").str.strip_suffix("}")


def _key(name: str) -> str:
    return msgspec.json.encode(name).decode()


# -- what has no text --------------------------------------------------------------------------------------------------


def refuse_unwritable(frame: pl.DataFrame, schema: Schema, form: str, *, texts: bool = True) -> None:
    """Raise SourceHalt, naming row and column, for the first value that text in the format `form` cannot hold.

    Without `texts`, texts alone are no reason to.
    """
    found: list[tuple[int, str]] = []
    for name, column in schema.items():
        wrong = None if column.kind == "string" and not texts else _unwritable(frame[name], column.kind, form)
        if wrong is not None and wrong.any():
            found.append((wrong.fill_null(value=False).arg_max() or 0, name))
    if found and not texts:
        refuse_unwritable(frame, schema, form)
    if found:
        place, name = min(found, key=lambda each: each[0])
        row = frame[ROW][place] if ROW in frame.columns else place + 1
        value = str(frame[name].cast(pl.String)[place])
        what = "a NUL character" if "\0" in value else value
        hint = "filter such rows out, or write parquet"
        raise SourceHalt(f"row {row}: {name}: {what} cannot be written as {form}", hint=hint)


def _unwritable(column: pl.Series, kind: str, form: str) -> pl.Series | None:
    """Tell which values cannot be written; None where all can."""
    if kind == "string" and form in DELIMITED:
        return column.str.contains("\0", literal=True)
    if kind == "float" and form == "jsonl":
        return ~column.is_finite()
    if kind not in ("date", "timestamp"):
        return None
    # the least and the greatest show whether there are any at all
    unit = 1 if kind == "date" else _DAY * _SECOND
    number = column.to_physical()
    low, high = number.min(), number.max()
    first, end = _FIRST_DAY * unit, (_LAST_DAY + 1) * unit
    if not isinstance(low, int) or not isinstance(high, int) or (first <= low and high < end):
        return None
    return (number < first) | (number >= end)
