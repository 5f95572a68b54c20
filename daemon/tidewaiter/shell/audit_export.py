"""Audit entries for others: the exact lines, one JSON array, or a table for a spreadsheet.

Owns: which pieces each format is made of. Leaves to `shell.audit_tables` the columns and what is done to a cell, to
`shell.audit_reading` which entries there are, and to the command where the pieces go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from tidewaiter.shell.audit_entries import decode_entry
from tidewaiter.shell.audit_tables import csv_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tidewaiter.shell.audit_reading import Entry

Format = Literal["jsonl", "csv", "json"]


def exported(entries: Iterable[Entry], form: Format) -> Iterator[bytes]:
    """Yield the entries in that format, piece by piece. The lines of jsonl are the exact bytes of the log."""
    match form:
        case "jsonl":
            return (entry.line for entry in entries)
        case "json":
            return _array(entries)
        case "csv":
            return (text.encode() for _, text in csv_parts(decode_entry(entry.line) for entry in entries))


def details_of(entry: Entry) -> str:
    """Return what the entry has beyond what every entry begins with, as a JSON object in the words of the line."""
    start = b'"action":' + msgspec.json.encode(entry.head.action)
    _, _, rest = entry.line.partition(start)
    return "{" + rest[1:-2].decode(errors="replace") + "}"


def _array(entries: Iterable[Entry]) -> Iterator[bytes]:
    before = b"["
    for entry in entries:
        yield before + b"\n" + entry.line[:-1]
        before = b","
    yield b"\n]\n" if before == b"," else b"[]\n"
