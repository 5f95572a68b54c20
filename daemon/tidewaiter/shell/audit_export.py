"""Audit entries for others: the exact lines, one JSON array, or a table for a spreadsheet.

Owns: which pieces each format is made of, and what a terminal shows of an entry. Leaves to `shell.audit_tables` the
columns and what is done to a cell, to `shell.audit_reading` which entries there are, and to the command where the
pieces go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import Struct

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
            rows = ((decode_entry(entry.line), _details(entry)) for entry in entries)
            return (text.encode() for _, text in csv_parts(rows))


def details_of(entry: Entry) -> str:
    """Return what the entry has beyond what every entry begins with, as a JSON object in the words of the line."""
    start = b'"action":' + msgspec.json.encode(entry.head.action)
    _, _, rest = entry.line.partition(start)
    return "{" + rest[1:-2].decode(errors="replace") + "}"


def gist_of(entry: Entry) -> str:
    """Return what matters of an entry, in some words for a terminal."""
    members: dict[str, Any] = msgspec.json.decode(details_of(entry).encode(errors="replace"))
    record, counts = members.get("record"), members.get("counts")
    words = record if isinstance(record, dict) else members
    if isinstance(counts, dict) and "offset" in members:  # of a batch
        said = ", ".join(f"{counts.get(name, 0)} {word}" for name, word in _COUNTED)
        return f"{said}, up to byte {members['offset']}"
    first = [str(words[name]) for name in _FIRST if isinstance(words.get(name), str | int) and words[name] != ""]
    rest = [
        f"{name}={value}" for name, value in words.items()
        if name not in _FIRST and isinstance(value, str | int | float) and value != ""
    ]  # fmt: skip
    document = words.get("document")
    if isinstance(document, dict):
        first.append(str(document.get("file", "")))
    return "  ".join([*first, *rest])


_COUNTED: Final = (("events_read", "events"), ("flags", "flags"), ("rejected", "rejected"))
_FIRST: Final = ("decision", "kind", "flag_id", "severity", "status", "stage", "reason", "vkey", "file")
"""What is shown first, without its name."""


class _Details(Struct, frozen=True):
    entry_id: str = ""
    details: msgspec.Raw = msgspec.Raw(b"{}")


_raw: Final = msgspec.json.Decoder(_Details)


def _details(entry: Entry) -> str:
    """Return an entry's details in the words of its line: a number stays as it was written."""
    raw = _raw.decode(entry.line)
    text = bytes(raw.details).decode() if raw.entry_id else details_of(entry)
    return "" if text == "{}" else text


def _array(entries: Iterable[Entry]) -> Iterator[bytes]:
    before = b"["
    for entry in entries:
        yield before + b"\n" + entry.line[:-1]
        before = b","
    yield b"\n]\n" if before == b"," else b"[]\n"
