"""A delimited or JSON Lines file that only grows: reading what is new in whole records, and knowing it is the same.

Owns: the open file, which part of a text is whole records, and reading a slice of it as batches. Leaves to
`csv_source` and `json_lines_source` what a record is, and to `shell.pipelines.following` when to look, and how far the
input was taken.

A record counts when its end is there: a line without its line feed waits for more, and so does an open quote, until it
is closed or the record is longer than any may be. What was read once is never read as something else: a file that was
replaced, cut or taken away is an error.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from tidewaiter.core.errors import ConfigError, IntegrityRefusal, SourceHalt
from tidewaiter.core.pipelines.table_format import DELIMITED
from tidewaiter.edges.tables.csv_records import Dialect, end_of_records, read_record
from tidewaiter.edges.tables.csv_source import CsvTable
from tidewaiter.edges.tables.decompressing import READ_BYTES, InputFile, Stamp, stamp_of
from tidewaiter.edges.tables.json_lines_source import JsonLinesTable

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tidewaiter.core.pipelines.batches import Batch
    from tidewaiter.core.pipelines.columns import Schema
    from tidewaiter.core.pipelines.table_format import KnownFormat

_REPLACED: Final = "one growing file is followed; follow the other one into an output of its own"


class GrowingFile:
    """The file, open for reading. Positions are bytes from its beginning."""

    def __init__(self, path: Path, form: KnownFormat) -> None:
        """Open it. Raises ConfigError where it cannot be read, or cannot be followed in this form."""
        self.path = path
        self.form = form
        for problem, found in (
            (f"is {form.format}", form.format not in (*DELIMITED, "jsonl")),
            (f"is compressed ({form.compression})", form.compression != "none"),
            (f"is encoded in {form.encoding}", form.encoding != "utf-8"),
        ):
            if found:
                hint = "csv, tsv and jsonl in utf-8 without compression can be followed"
                raise ConfigError(f"{path}: {problem} and cannot be followed", hint=hint)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint="check the input's path") from error
        self._stamp: Stamp = stamp_of(os.fstat(self._fd))
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.close()
            raise ConfigError(f"{path}: is not a regular file", hint="name a file that grows")

    @property
    def size(self) -> int:
        """Bytes that are there now."""
        return os.fstat(self._fd).st_size

    def check_same(self, position: int) -> None:
        """Raise SourceHalt if the name stands for another file now, IntegrityRefusal if it ends before `position`."""
        try:
            now = stamp_of(self.path.stat())
        except OSError:
            raise SourceHalt(f"{self.path}: was removed or renamed at byte {position}", hint=_REPLACED) from None
        if now[:2] != self._stamp[:2]:
            raise SourceHalt(f"{self.path}: was replaced at byte {position}", hint=_REPLACED)
        if now.size < position:
            raise IntegrityRefusal(
                f"{self.path}: ends at byte {now.size}, but was read up to byte {position}",
                hint="nothing may be cut from a file that is followed; restore it",
            )

    def read(self, begin: int, length: int) -> bytes:
        """Return up to `length` bytes from `begin` on, fewer only at the end. Raises SourceHalt."""
        parts: list[bytes] = []
        while length > 0:
            try:
                part = os.pread(self._fd, min(length, READ_BYTES), begin)
            except OSError as error:
                raise SourceHalt(f"{self.path}: cannot be read: {error.strerror}", hint="check the disk") from error
            if not part:
                break
            parts.append(part)
            begin, length = begin + len(part), length - len(part)
        return b"".join(parts)

    def sha256(self, length: int) -> str:
        """Return the SHA-256 (hex) of the first `length` bytes."""
        digest = hashlib.sha256()
        for at in range(0, length, READ_BYTES):
            digest.update(self.read(at, min(READ_BYTES, length - at)))
        return digest.hexdigest()

    def close(self) -> None:
        """Let the file go."""
        os.close(self._fd)


class _Slice(InputFile):
    """A part of a file that is in memory already, for the readers of whole files."""

    def __init__(self, text: bytes, form: KnownFormat, name: str) -> None:
        self.form = form
        self.name = name
        self._text = text

    def content(self, size: int = READ_BYTES) -> Generator[bytes]:
        """Return it in parts."""
        for at in range(0, len(self._text), size):
            yield self._text[at : at + size]


class RecordReader:
    """Records of a file that grows, slice by slice. `columns` and `schema` are as a `Source` has them."""

    def __init__(self, header: bytes, form: KnownFormat, name: str, expected: Schema, *, ignore_unknown: bool) -> None:
        """`header` is the record that names the columns, where the form has one, as `header_end` cuts it.

        Raises ConfigError where the columns cannot be used.
        """
        self._name = name
        self._expected = expected
        self._ignore_unknown = ignore_unknown
        if form.format in DELIMITED:
            if not form.header and form.columns is None:
                hint = "name them: columns = [...]"
                raise ConfigError(f"{name}: the columns of a file without header are not known", hint=hint)
            self.columns = CsvTable(_Slice(header, form, name), expected).columns
            form = replace(form, header=False, columns=self.columns)
            self.schema: Schema | None = None
        else:
            table = JsonLinesTable(_Slice(b"", form, name), expected, ignore_unknown=ignore_unknown)
            self.columns, self.schema = table.columns, table.schema
        self._form = form
        self._dialect = _dialect(form, len(self.columns))

    def whole(self, text: bytes) -> int:
        """Return how many bytes at the beginning of `text` are whole records."""
        if self._form.format in DELIMITED:
            return end_of_records(text, self._dialect)
        return text.rfind(b"\n") + 1

    def batches(self, text: bytes, first_row: int) -> Generator[Batch]:
        """Return the whole records `text`, the first of which has the number `first_row`."""
        piece = _Slice(text, self._form, self._name)
        if self._form.format in DELIMITED:
            table: CsvTable | JsonLinesTable = CsvTable(piece, self._expected)
        else:
            table = JsonLinesTable(piece, self._expected, ignore_unknown=self._ignore_unknown)
        with closing(table.batches(first_row, max(len(text), 1))) as batches:
            yield from batches

    def end_of(self, text: bytes, records: int) -> int:
        """Return where the first `records` of the whole records `text` end."""
        at = 0
        for _ in range(records):
            if self._form.format in DELIMITED:
                record = read_record(text, at, self._dialect, final=True)
                at = len(text) if record is None else record[1]
            else:
                at = text.index(b"\n", at) + 1
        return at


def header_end(text: bytes, form: KnownFormat) -> int | None:
    """Return where the data begin in a file that begins with `text`, behind byte order mark and header.

    None while the header is not there as a whole.
    """
    if len(text) < len(codecs.BOM_UTF8) and codecs.BOM_UTF8.startswith(text):
        return None
    begin = len(codecs.BOM_UTF8) if text.startswith(codecs.BOM_UTF8) else 0
    if form.format not in DELIMITED or not form.header:
        return begin
    record = read_record(text, begin, _dialect(form, 0), final=False)
    return None if record is None else record[1]


def _dialect(form: KnownFormat, fields: int) -> Dialect:
    return Dialect(form.delimiter.encode(), form.quote.encode(), fields)
