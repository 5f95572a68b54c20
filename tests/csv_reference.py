"""The grammar of delimited text once more, one byte after the other: slow, plain, and written apart from the product.

What `tidewaiter.edges.tables.csv_records` says about a text is compared with this.
"""

from __future__ import annotations

from typing import NamedTuple


class Grammar(NamedTuple):
    """What a table looks like; `limit` is the longest record in bytes, its line end included."""

    fields: int
    delimiter: bytes = b","
    quote: bytes = b'"'
    limit: int = 1 << 20


def reference_records(data: bytes, grammar: Grammar) -> list[list[str | None] | bytes]:
    """Return the cells of each record of `data`, or the raw text of what is none."""
    text = data if not data or data.endswith(b"\n") else data + b"\n"
    found: list[list[str | None] | bytes] = []
    at = 0
    while at < len(text):
        record = _record(text, at, grammar)
        if record is None or record[1] - at > grammar.limit:
            end = text.index(b"\n", at) + 1
            line = text[at : end - 1]
            found.append(line[: grammar.limit] if end - at > grammar.limit else line.removesuffix(b"\r"))
            at = end
            continue
        cells, end = record
        raw = text[at : end - 1].removesuffix(b"\r")
        found.append(_checked(raw, cells, grammar))
        at = end
    return found


def _record(text: bytes, at: int, grammar: Grammar) -> tuple[list[tuple[bytes, bool]], int] | None:
    """Return the cells from `at` on, each with whether it is quoted, and their end; None where quotes are broken."""
    cells: list[tuple[bytes, bool]] = []
    content = b""
    state = "begin"
    while at < len(text):
        byte = text[at : at + 1]
        at += 1
        if state == "quoted":
            if byte != grammar.quote:
                content += byte
            elif text[at : at + 1] == grammar.quote:
                content += byte
                at += 1
            else:
                state = "closed"
        elif state == "begin" and byte == grammar.quote:
            state = "quoted"
        elif byte in (grammar.delimiter, b"\n"):
            cells.append((content, state == "closed"))
            content, state = b"", "begin"
            if byte == b"\n":
                return cells, at
        elif state == "closed":
            if byte != b"\r" or text[at : at + 1] != b"\n":
                return None
        elif byte == grammar.quote:
            return None
        else:
            content += byte
            state = "plain"
    return None


def _checked(raw: bytes, cells: list[tuple[bytes, bool]], grammar: Grammar) -> list[str | None] | bytes:
    last, quoted = cells[-1]
    cells[-1] = (last if quoted else last.removesuffix(b"\r"), quoted)
    if b"\0" in raw or len(cells) != grammar.fields or any(b"\r" in cell for cell, quoted in cells if not quoted):
        return raw
    try:
        return [cell.decode() if cell or quoted else None for cell, quoted in cells]
    except UnicodeDecodeError:
        return raw
