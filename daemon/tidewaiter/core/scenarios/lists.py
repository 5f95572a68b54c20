"""What a list file says: from the bytes of a .txt or .csv file to its entries.

Owns: both formats, and errors that name file and line. Leaves to the shell where the bytes come from, and to `checking`
which lists there are and how they are used.

txt: one entry a line, without the white space around it; blank lines and lines that begin with # are left out. csv
(RFC 4180): the first row names the columns, every row has as many fields, and one column holds the entries as they
stand. Both are UTF-8; a byte order mark is dropped. What cannot be meant (an empty entry, white space at the edge of a
csv field, an empty list, characters that nobody sees) is refused: an entry that silently never matches is the worst
kind of mistake.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.invisible import INVISIBLE
from tidewaiter.core.scenarios.model import LoadedList
from tidewaiter.core.toml_source import nearest

if TYPE_CHECKING:
    from tidewaiter.core.scenarios.syntax import ListDecl

MAX_LIST_BYTES: Final = 8 << 20
MAX_ENTRIES: Final = 500_000


def read_list(decl: ListDecl, content: bytes, file: str) -> LoadedList:
    """Return the list in `content`; `file` names it in errors. Raises ConfigError with ``FILE:LINE:``."""
    column = decl.column
    if len(content) > MAX_LIST_BYTES:
        raise ConfigError(f"{file}: is {len(content)} bytes long", hint=f"a list has at most {MAX_LIST_BYTES}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: byte {error.start} is not UTF-8", hint="save the file as UTF-8") from None
    text = text.removeprefix("\ufeff")
    entries = _lines(text, file) if column is None else _column(text, file, column)
    if not entries:
        hint = "write one entry a line" if column is None else "write one row for each entry below the header"
        raise ConfigError(f"{file}:1: the list is empty", hint=hint)
    if len(entries) > MAX_ENTRIES:
        raise ConfigError(f"{file}: has {len(entries)} entries", hint=f"a list has at most {MAX_ENTRIES}")
    return LoadedList(decl.name, decl.file, decl.prefix, entries, hashlib.sha256(content).hexdigest())


def _lines(text: str, file: str) -> frozenset[str]:
    entries: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip()
        if "\r" in entry:  # in a remark too: it would hide the entries behind it
            raise ConfigError(f"{file}:{number}: has U+000D in it", hint="end each line with a line feed")
        if entry and not entry.startswith("#"):
            entries.add(_clean(entry, f"{file}:{number}"))
    return frozenset(entries)


def _clean(entry: str, where: str) -> str:
    """Return an entry without invisible characters. Raises ConfigError for any other."""
    found = INVISIBLE.search(entry)
    if found is not None:
        what = f"{where}: has U+{ord(found[0]):04X} in it, behind {found.start()} characters"
        raise ConfigError(what, hint="remove it: nobody sees it, and the entry would never match")
    return entry


def _column(text: str, file: str, column: str) -> frozenset[str]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    entries: set[str] = set()
    end = 0  # the line on which the row before ended
    try:
        header = next(rows, [])
        place = _place(header, file, column)
        end = rows.line_num
        for row in rows:
            where, end = f"{file}:{end + 1}", rows.line_num
            if len(row) != len(header):
                what = f"has {len(row)} fields" if row else "the row is empty"
                raise ConfigError(f"{where}: {what}", hint=f"the header has {len(header)}")
            entry = row[place]
            if not entry:
                raise ConfigError(f"{where}: {column} is empty", hint="give an entry, or remove the row")
            if entry != entry.strip():
                raise ConfigError(
                    f"{where}: {column} has white space around {entry.strip()!r}",
                    hint="remove it: it would never match",
                )
            entries.add(_clean(entry, where))
    except csv.Error as error:
        raise ConfigError(f"{file}:{end + 1}: is not CSV: {error}", hint="quotes are doubled inside quotes") from None
    return frozenset(entries)


def _place(header: list[str], file: str, column: str) -> int:
    if not header:
        raise ConfigError(f"{file}:1: has no header", hint="the first row names the columns")
    for name, times in Counter(header).items():
        if times > 1:
            raise ConfigError(f"{file}:1: the column {name!r} stands twice", hint="rename one of them")
    if column not in header:
        hint = nearest(column, header)
        if len(header) == 1 and (mark := next((each for each in ";\t|" if each in header[0]), "")):
            hint = f"its columns stand apart by {mark!r}: write commas"
        raise ConfigError(f"{file}:1: there is no column {column!r}", hint=hint)
    return header.index(column)
