"""What is in JSON Lines files about which nothing is known: the keys in the order they come, and their types.

Owns: one pass over the files for that. Leaves to `json_lines_source` what a record is; lines that are none are passed
over here, and rejected there.

A column of whole numbers is an integer, one of other numbers a decimal with as many decimals as any of them has; a
float only where a decimal column cannot hold them and a float loses no digit of any: then the files are read once more
for that. Where all values are null the column holds texts.
"""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError, SourceHalt
from tidewaiter.core.pipelines.batches import quoted
from tidewaiter.core.pipelines.columns import BOOLEAN, FLOAT, INTEGER, MAX_SCALE, PRECISION, STRING, ColumnType, Schema
from tidewaiter.edges.tables.decompressing import READ_BYTES
from tidewaiter.edges.tables.json_lines_source import lines_of
from tidewaiter.edges.tables.json_numbers import digits_of
from tidewaiter.edges.tables.json_records import JsonRecords, kind_of, read_line
from tidewaiter.edges.tables.line_blocks import SINGLY_RECORDS, Fault, lines_in_pieces
from tidewaiter.edges.tables.prefetching import prefetched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.core.pipelines.batches import Batch
    from tidewaiter.edges.tables.decompressing import InputFile

_MAX_COLUMNS: Final = 10_000
_INT64_DIGITS: Final = 18
"""Whole numbers of so many digits fit in 64 bits."""


def survey(files: Sequence[InputFile]) -> Schema:
    """Return the columns of the records of `files`. Reads them once, and once more where there are floats.

    Raises ConfigError where a column holds values of several kinds, or numbers that neither a decimal nor a float can
    hold, or where keys are no names of columns; SourceHalt where there are no records.
    """
    found: dict[str, _Found] = {}
    records: JsonRecords | None = None
    for file in files:
        with closing(prefetched(lines_of(file, READ_BYTES))) as blocks:
            for block in blocks:
                if isinstance(block, Fault):
                    continue
                for piece in lines_in_pieces(block, SINGLY_RECORDS):
                    if records is None or not _nothing_new(records.fast(piece, 1), found):
                        _look(piece, found, file)
                        records = JsonRecords(_schema(found))
    if not found:
        names = ", ".join(file.name for file in files)
        raise SourceHalt(f"{names}: holds no record that tells the columns", hint="say them by a contract")
    schema = _schema(found)
    floats = {name: each for name, each in schema.items() if each == FLOAT}
    if floats:
        for file in files:
            _check_floats(file, floats)
    return schema


def _check_floats(file: InputFile, floats: Schema) -> None:
    """Raise ConfigError at the first number of the columns `floats` that a float cannot hold to the last digit."""
    record = 0
    with closing(prefetched(lines_of(file, READ_BYTES))) as blocks:
        for block in blocks:
            for line in (b"",) if isinstance(block, Fault) else block.removesuffix(b"\n").split(b"\n"):
                record += 1
                values = read_line(line).values
                for name in floats.keys() & values.keys():
                    if not _survives(values[name]):
                        said = f"is {quoted(values[name].decode())}: neither a decimal nor a float column can hold it"
                        hint = "say in a contract what the column is; what does not fit is rejected then"
                        raise ConfigError(f"{file.name}: record {record}: {name} {said}", hint=hint)


def _survives(raw: bytes) -> bool:
    """Return whether the JSON value `raw` is no number, or one that a float gives back digit by digit."""
    if kind_of(raw) not in ("integer", "number"):
        return True
    return digits_of(raw.decode()) == digits_of(repr(float(raw)))


def _schema(found: dict[str, _Found]) -> Schema:
    return {name: each.type() for name, each in found.items()}


def _nothing_new(batch: Batch | None, found: dict[str, _Found]) -> bool:
    """Return whether the records of a block, None if it does not fit what was found so far, change nothing in it."""
    if batch is None:
        return False
    for name, each in found.items():
        column = batch.frame[name]
        if not each.kind and column.null_count() < len(column):
            return False
        if each.kind == "number":  # not by abs(), which has no answer for the least integer
            ends = (end for end in (column.min(), column.max()) if isinstance(end, (int, Decimal)))
            each.whole = max(each.whole, *(len(str(abs(int(end)))) for end in ends), 0)
    return True


def _look(block: bytes, found: dict[str, _Found], file: InputFile) -> None:
    lines = block.split(b"\n")
    lines.pop()
    for line in lines:
        for name, value in read_line(line).values.items():
            if name not in found:
                _check_number(len(found), file)
                found[name] = _Found()
            found[name].add(value, name, file)


def _check_number(known: int, file: InputFile) -> None:
    if known == _MAX_COLUMNS:
        message = f"{file.name}: its records have more than {_MAX_COLUMNS} different keys"
        raise ConfigError(message, hint="keys must be names of columns, not data")


class _Found:
    """The values of one key so far: their kind, the first of them, and of numbers the most digits and decimals."""

    def __init__(self) -> None:
        self.kind = ""
        self.first = ""
        self.whole = 0
        self.scale = 0

    def add(self, raw: bytes, name: str, file: InputFile) -> None:
        kind = kind_of(raw)
        if kind in ("null", "object", "list"):
            return
        if kind in ("integer", "number"):
            self._measure(raw, kind)
            kind = "number"
        if not self.kind:
            self.kind, self.first = kind, quoted(raw.decode()) or ""
        elif self.kind != kind:
            message = f"{file.name}: {name} is {self.first} in one record and {quoted(raw.decode())} in another"
            raise ConfigError(message, hint="say in a contract what it is; other records are rejected then")

    def _measure(self, raw: bytes, kind: str) -> None:
        if kind == "integer" and len(raw) <= _INT64_DIGITS:
            self.whole = max(self.whole, len(raw))
        elif (digits := digits_of(raw.decode())) is not None:
            self.whole = max(self.whole, digits.whole)
            # 1.0 is no whole number to those who read on
            self.scale = max(self.scale, digits.scale, 0 if kind == "integer" else 1)

    def type(self) -> ColumnType:
        if self.kind == "boolean":
            return BOOLEAN
        if self.kind != "number":
            return STRING
        if not self.scale:
            return INTEGER if self.whole <= _INT64_DIGITS else ColumnType("decimal")
        fits = self.scale <= MAX_SCALE and self.whole + self.scale <= PRECISION
        return ColumnType("decimal", self.scale) if fits else FLOAT
