"""The records of JSON Lines: what a line must be, and blocks of lines as typed frames.

Owns: the rules below, and the reasons of lines that are no records. Leaves to `json_lines_source` files, to
`json_survey` finding the columns where nothing is known, to `json_numbers` the digits of numbers, and to
`core.pipelines.validation` what values may be.

Rules, those of the stream where both know them: a line feed ends a line, one carriage return before it is dropped; a
line that is blank, over the limit, no UTF-8, no JSON, no object, or nested too deeply is no record. A value has the
type of its column: a number in quotes is a text, and 1.0 is no integer. Amounts are read from their digits, never as
doubles; one must have at most the decimals of its column, 1.50 and 1.500 being the same. A key that is absent
is null. An object or a list within a record is not read. Of a key that stands twice in an object the last one counts.

Two ways lead through, as in `core.decoding`: `decode_lines` for a block where each line begins with ``{`` and ends with
``}`` and there are as many records as lines; else line by line to the exact reason. Reasons are our own words. Short
lines take many times their bytes, the more the more columns there are: a block with too many of them goes in pieces.
"""

from __future__ import annotations

import re
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
import polars as pl

from tidewaiter.core.contract import NESTING_LIMIT
from tidewaiter.core.pipelines.batches import Batch, Rejected, quoted
from tidewaiter.core.pipelines.columns import PRECISION, ROW, ROW_DTYPE, ColumnType, Schema
from tidewaiter.edges.tables.json_numbers import decimal_text, digits_of
from tidewaiter.edges.tables.line_blocks import SINGLY_RECORDS, Fault, lines_in_pieces, rejected_record

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

_INT64: Final = 1 << 63
_INT64_DIGITS: Final = 19
_BRACE, _CLOSING_BRACE = set(b"{"), set(b"}")
_first_byte, _last_byte = itemgetter(0), itemgetter(-1)
_MOST_CELLS: Final = 1 << 21
"""So many values are made of a block at once; the columns of short records are mostly null, and count all the same."""
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f]')
_ABSENT: Final = msgspec.Raw(b"null")
_VALUES: Final[dict[str, Any]] = {
    "string": str | None,
    "integer": Annotated[int, msgspec.Meta(ge=-_INT64, le=_INT64 - 1)] | None,
    "float": float | None,
    "boolean": bool | None,
    "decimal": msgspec.Raw,
}
_KINDS: Final = {b'"': "text", b"t": "boolean", b"f": "boolean", b"{": "object", b"[": "list", b"n": "null"}
_ARTICLES: Final = {"text": "a text", "integer": "an integer", "number": "a number", "boolean": "true or false"}
_STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])')

_object_of_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any_json: Final = msgspec.json.Decoder(msgspec.Raw)
_text_decoder: Final = msgspec.json.Decoder(str)


class Line(NamedTuple):
    """A line by itself: its values by key as raw JSON, or why it is no record."""

    values: dict[str, bytes]
    fault: Fault | None = None


def read_line(line: bytes) -> Line:
    """Return what is in `line`, which comes without its line feed."""
    line = line.removesuffix(b"\r")
    problem = _no_text(line)
    if problem is None:
        try:
            return Line({name: bytes(value) for name, value in _object_of_raw.decode(line).items()})
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            problem = "not an object" if _is_json(line) else "not valid JSON"
    return Line({}, Fault(problem, line))


def _no_text(line: bytes) -> str | None:
    if not line.strip(b" \t\r\n\v\f"):
        return "a blank line"
    if b"\0" in line:
        return f"a NUL byte after {line.index(0)} bytes of the line"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"byte 0x{line[error.start]:02x} after {error.start} bytes of the line cannot be decoded"
    if line.count(b"[") + line.count(b"{") > NESTING_LIMIT and _depth(line) > NESTING_LIMIT:
        return f"nested deeper than {NESTING_LIMIT}"
    return None


def _depth(line: bytes) -> int:
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(line):
        depth += (match[1] is not None) - (match[2] is not None)
        deepest = max(deepest, depth)
    return deepest


def _is_json(line: bytes) -> bool:
    try:
        _any_json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def kind_of(raw: bytes) -> str:
    """Return what the JSON value `raw` is: text, boolean, object, list, null, integer or number."""
    return _KINDS.get(raw[:1]) or ("integer" if raw.removeprefix(b"-").isdigit() else "number")


class JsonRecords:
    """Blocks of lines as frames with the columns of a schema (none of them a date or a timestamp)."""

    def __init__(self, schema: Schema, *, ignore_unknown: bool = False) -> None:
        """Keys that `schema` lacks are left out where `ignore_unknown` says so; else their records are rejected."""
        self._schema = schema
        self._ignore_unknown = ignore_unknown
        self._most_lines = max(_MOST_CELLS // max(len(schema), 1), 1)
        attributes = {name: f"c{number}" for number, name in enumerate(schema)}
        self._getters = {name: attrgetter(attribute) for name, attribute in attributes.items()}
        self._decoder: msgspec.json.Decoder[Any] | None = None
        if any(map(_ESCAPED.search, schema)):
            return  # the fast decoder knows no such keys
        record = msgspec.defstruct(
            "Record",
            [
                (attributes[name], _VALUES[column.kind], _ABSENT if column.kind == "decimal" else None)
                for name, column in schema.items()
            ],
            rename={attribute: name for name, attribute in attributes.items()},
            forbid_unknown_fields=not ignore_unknown,
            gc=False,
        )
        self._decoder = msgspec.json.Decoder(record)

    def batches(self, text: bytes, row: int) -> Generator[Batch]:
        """Return the records of `text`, whole lines, the first of them numbered `row`: one batch, or some in order."""
        if (whole := self.fast(text, row)) is not None:
            yield whole
            return
        for piece in lines_in_pieces(text, min(self._most_lines, SINGLY_RECORDS)):
            batch = self.fast(piece, row) or self.singly(piece, row)
            row += len(batch.frame) + len(batch.rejected)
            yield batch

    # -- a block at once -----------------------------------------------------------------------------------------------

    def fast(self, text: bytes, row: int) -> Batch | None:
        """Return the records of `text` if each of its lines is one without fault; None if in doubt, or too many."""
        if self._decoder is None or text.count(b"\n") > self._most_lines:
            return None
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        lines = text.split(b"\n")
        lines.pop()
        try:
            if set(map(_first_byte, lines)) != _BRACE or set(map(_last_byte, lines)) != _CLOSING_BRACE:
                return None
            if self._ignore_unknown and any(_no_text(line) for line in lines):
                return None  # the decoder looks at what it leaves out no closer than it must
            records = self._decoder.decode_lines(text)
        except (IndexError, UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
            return None
        if len(records) != len(lines):
            return None
        series = [pl.int_range(row, row + len(records), dtype=ROW_DTYPE, eager=True).alias(ROW)]
        for name, column in self._schema.items():
            values = list(map(self._getters[name], records))
            made = _decimals(name, values, column) if column.kind == "decimal" else _series(name, values, column)
            if made is None:
                return None
            series.append(made)
        return Batch(pl.DataFrame(series))

    # -- line by line --------------------------------------------------------------------------------------------------

    def singly(self, text: bytes, row: int) -> Batch:
        """Return the records of `text`, and the lines that are none; the same as `fast`, only slower."""
        cells: dict[str, list[Any]] = {name: [] for name in self._schema}
        rows: list[int] = []
        rejected: list[Rejected] = []
        lines = text.split(b"\n")
        lines.pop()
        for number, line in enumerate(lines, row):
            values = self._judged(line)
            if isinstance(values, Fault):
                rejected.append(rejected_record(values, number))
                continue
            rows.append(number)
            for name, column in cells.items():
                column.append(values.get(name))
        return Batch(self._frame(cells, rows), tuple(rejected))

    def _frame(self, cells: dict[str, list[Any]], rows: list[int]) -> pl.DataFrame:
        columns = (_series(name, values, self._schema[name]) for name, values in cells.items())
        return pl.DataFrame([pl.Series(ROW, rows, dtype=ROW_DTYPE), *columns])

    def _judged(self, line: bytes) -> dict[str, Any] | Fault:
        """Return the values of a line by column, decimals as their exact text, or why it is no record."""
        raw, fault = read_line(line)
        if fault is not None:
            return fault
        text = line.removesuffix(b"\r")
        values: dict[str, Any] = {}
        for name, value in raw.items():
            column = self._schema.get(name)
            if column is None:
                if self._ignore_unknown:
                    continue
                problem: str | None = "a key that is not expected"
            else:
                try:
                    values[name], problem = _value_of(value, column)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    return Fault("not valid JSON", text)
            if problem is not None:
                return Fault(problem, text, name, quoted(value.decode()))
        return values


def _value_of(raw: bytes, column: ColumnType) -> tuple[Any, str | None]:
    """Return the value of one cell, or None and what is wrong with it."""
    kind = kind_of(raw)
    value: Any = None
    problem = None
    match kind, column.kind:
        case "null", _:
            pass
        case "object" | "list", _:
            problem = f"holds {'an object' if kind == 'object' else 'a list'}: values within values are not read"
        case "text", "string":
            value = _text_decoder.decode(raw)
        case "boolean", "boolean":
            value = raw == b"true"
        case "integer", "integer":
            value = int(raw) if len(raw) <= _INT64_DIGITS + 1 else _INT64
            if not -_INT64 <= value < _INT64:
                value, problem = None, "does not fit in 64 bits"
        case "integer" | "number", "float":
            value = 0.0 if raw == b"-0" else float(raw)  # -0 is the integer 0, unlike -0.0
            if value in (float("inf"), float("-inf")):
                value, problem = None, "does not fit in a float"
        case "integer" | "number", "decimal":
            digits = digits_of(raw.decode())
            value = None if digits is None else decimal_text(digits, column.scale)
            if value is None:
                problem = f"does not fit in {column}: more than {column.scale} decimals, or too many digits"
        case _:
            problem = _wrong_kind(raw, kind, column)
    return value, problem


def _wrong_kind(raw: bytes, kind: str, column: ColumnType) -> str:
    said = f"{_ARTICLES[kind]}, where {'a text' if column.kind == 'string' else str(column)} is expected"
    if kind == "text" and column.kind in ("integer", "decimal", "float") and digits_of(raw[1:-1].decode()):
        return f"{said}: write the number without quotes"
    if kind == "number" and column.kind == "integer":
        return f"{said}: write it without a point or an exponent"
    return said


def _series(name: str, values: Sequence[Any], column: ColumnType) -> pl.Series:
    if column.kind == "decimal":
        return pl.Series(name, values, dtype=pl.String).cast(column.dtype)
    return pl.Series(name, values, dtype=column.dtype)


def _decimals(name: str, raws: list[msgspec.Raw], column: ColumnType) -> pl.Series | None:
    """Return raw JSON numbers and nulls as decimals; None if one of them is anything else, or does not fit."""
    texts = pl.Series(name, b"\n".join(raws).decode().split("\n"), dtype=pl.String)
    decimals = rf"(\.[0-9]{{1,{column.scale}}})?" if column.scale else ""
    plain = texts.str.contains(rf"^(null|-?[0-9]{{1,{PRECISION - column.scale}}}{decimals})$")
    if not plain.all():
        exact = [_exact(text, column.scale) for text in texts]
        if any(value is None for value in exact):
            return None
        texts = pl.Series(name, exact, dtype=pl.String)
    return texts.replace("null", None).cast(column.dtype)


def _exact(text: str, scale: int) -> str | None:
    if text == "null":
        return text
    digits = digits_of(text)
    return None if digits is None else decimal_text(digits, scale)
