"""Lineage records as JSON, JSON lines, and a table that a spreadsheet may open safely.

Owns: the columns. Leaves to `shell.audit_tables` what a spreadsheet would take for a formula, to
`core.lineage.pictures` the formats of programs that draw.
"""

from __future__ import annotations

import csv
import io
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from tidewaiter.edges.lineage_file import lines_of
from tidewaiter.shell.audit_tables import formula_safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tidewaiter.core.lineage.records import LineageRecord

ExportFormat = Literal["json", "jsonl", "csv"]
EXPORT_FORMATS: Final[tuple[ExportFormat, ...]] = get_args(ExportFormat)
COLUMNS: Final = (
    "lineage_id", "timestamp", "source_type", "source_location", "source_hash", "transformation", "destination_type",
    "destination_location", "destination_hash", "edge", "input_records", "output_records", "records_filtered", "run_id",
    "contract", "metadata",
)  # fmt: skip
_PART: Final = 1000


def as_members(record: LineageRecord) -> dict[str, Any]:
    """Return the record with the members that it was recorded by, for JSON."""
    members = {name: getattr(record, name) for name in COLUMNS}
    members["timestamp"] = f"{record.timestamp:%Y-%m-%dT%H:%M:%S.%f}Z"
    return members


def exported(records: Iterable[LineageRecord], form: ExportFormat) -> Iterator[bytes]:
    """Return the records in a format, in parts: `jsonl` gives the lines of the file. Raises ValueError."""
    if form == "jsonl":
        return (lines_of(part) for part in _parts(records))
    if form == "csv":
        return _table(records)
    if form == "json":
        return _array(records)
    raise ValueError(f"format: {form!r} is unknown: allowed are {', '.join(EXPORT_FORMATS)}")


def _parts(records: Iterable[LineageRecord]) -> Iterator[list[LineageRecord]]:
    remaining = iter(records)
    while part := list(islice(remaining, _PART)):
        yield part


def _array(records: Iterable[LineageRecord]) -> Iterator[bytes]:
    before = b"[\n"
    for part in _parts(records):
        lines = (msgspec.json.encode(as_members(record)) for record in part)
        yield before + b",\n".join(lines)
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"


def _table(records: Iterable[LineageRecord]) -> Iterator[bytes]:
    rows: Sequence[Sequence[str]] = [COLUMNS]
    remaining = _parts(records)
    while rows:
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows(rows)
        yield buffer.getvalue().encode()
        rows = [_row(record) for record in next(remaining, ())]


def _row(record: LineageRecord) -> list[str]:
    members = as_members(record)
    members["metadata"] = msgspec.json.encode(record.metadata).decode() if record.metadata else None
    return [_cell(members[name]) for name in COLUMNS]


def _cell(value: str | int | None) -> str:
    if value is None:
        return ""
    return formula_safe(value) if isinstance(value, str) else str(value)
