"""One input of a pipeline, whatever it lies in: a file, the files of a directory or of a pattern, or standard input.

Owns: putting the files of an input one after the other under one numbering of records, refusing files that do not go
together, and what can be told about them afterwards. Leaves to `places` which files an input is, to `csv_source`,
`json_lines_source` and `columnar_source` what a record is, and to `decompressing` bytes, digests and changes.

Invariants:
- A record keeps its number, whatever the size of batches: numbers count every record of the input, rejected ones too.
- Where batches begin and end changes neither rows nor rejections.
- Opening reads the beginning of every file only (JSON Lines without an expected schema are read once completely).
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import polars as pl
from msgspec import Struct

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.batches import BATCH_BYTES, Batch
from tidewaiter.core.pipelines.columns import STRING, Schema, empty_frame
from tidewaiter.core.pipelines.table_format import DELIMITED, KnownFormat, TableFormat
from tidewaiter.edges.tables.columnar_source import ColumnarTable, as_texts
from tidewaiter.edges.tables.csv_source import CsvTable
from tidewaiter.edges.tables.decompressing import MAX_RATIO, InputFile
from tidewaiter.edges.tables.json_lines_source import JsonLinesTable
from tidewaiter.edges.tables.json_survey import survey
from tidewaiter.edges.tables.places import find_files

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import BinaryIO

REFERENCE_BYTES: Final = 256 << 20
"""The largest reference table, in bytes of its cells: it is held in memory whole."""


class SourceFile(Struct, frozen=True):
    """A file of the input.

    `length` counts its bytes as they lie there; `sha256` (of these bytes, in hex) and `records` are None until the file
    was read to its end.
    """

    path: Path
    length: int
    sha256: str | None
    format: KnownFormat
    records: int | None


class Table(Protocol):
    """What each format gives for one file."""

    columns: tuple[str, ...]
    schema: Schema | None

    def batches(self, first_row: int, batch_bytes: int) -> Generator[Batch]:
        """Return the records of the file in order; the first one has the number `first_row`."""


class Source:
    """The records of one input, in batches.

    `files` are its files in reading order, `columns` the names found. `schema` is None for csv and tsv, whose cells are
    all texts, with null for an empty cell; for the other formats it says the type of each column. With an `expected`
    schema, jsonl gives what that schema says, but dates and timestamps as texts; without one the files are read once
    more before, to find the columns and their types. Parquet and arrow files must hold what is `expected` of columns
    that they have.

    `bytes_read` of `bytes_total` is how far the reading is, in bytes of the files as they lie there.
    """

    def __init__(
        self,
        places: Path | Sequence[Path] | str,
        said: TableFormat = TableFormat(),  # noqa: B008 - frozen
        *,
        spill: Path | None = None,
        batch_bytes: int = BATCH_BYTES,
        expected: Schema | None = None,
        ignore_unknown: bool = False,
        max_ratio: int = MAX_RATIO,
        stdin: BinaryIO | None = None,
    ) -> None:
        """Open the input and check its columns. ``"-"`` is standard input, copied into the directory `spill` first.

        `max_ratio` holds for compressed files where `said` has none. `ignore_unknown` leaves out keys of JSON objects
        that are not `expected` instead of rejecting the record.
        Raises ConfigError (no such file, format unknown, columns that cannot be used, or not `expected`), SourceHalt
        (damaged, cut short, or nothing in it where a header must be).
        """
        self._files = find_files(places, said, spill=spill, max_ratio=said.max_ratio or max_ratio, stdin=stdin)
        self._batch_bytes = batch_bytes
        self._records: list[int] = []
        self._firsts = [1]
        form = self._files[0].form.format
        for file in self._files:
            if file.form.format != form:
                raise ConfigError(
                    f"{file.name}: is {file.form.format}, but {self._files[0].name} is {form}",
                    hint="the files of one input must have one format",
                )
        if form == "jsonl" and expected is None:
            expected = survey(self._files)
        self._tables = [self._table(file, expected, ignore_unknown=ignore_unknown) for file in self._files]
        self.columns = self._tables[0].columns
        self.schema = self._tables[0].schema
        for file, table in zip(self._files[1:], self._tables[1:], strict=True):
            self._check_same(file, table)

    def _table(self, file: InputFile, expected: Schema | None, *, ignore_unknown: bool) -> Table:
        if file.form.format in DELIMITED:
            return CsvTable(file, expected)
        if file.form.format == "jsonl":
            return JsonLinesTable(file, expected or {}, ignore_unknown=ignore_unknown)
        return ColumnarTable(file, expected)

    def _check_same(self, file: InputFile, table: Table) -> None:
        """Raise ConfigError unless `table` has the columns of the first file, in their order and of their types."""
        first = self._files[0].name
        mine, theirs = self.columns, table.columns
        hint = "the files of one input must have the same columns in the same order"
        if set(mine) != set(theirs):
            only = [f"only in {first}: {', '.join(each for each in mine if each not in theirs)}"]
            only.append(f"only in {file.name}: {', '.join(each for each in theirs if each not in mine)}")
            said = "; ".join(each for each in only if not each.endswith(": "))
            raise ConfigError(f"{file.name}: its columns are not those of {first} ({said})", hint=hint)
        if mine != theirs:
            place = next(at for at, (one, other) in enumerate(zip(mine, theirs, strict=True)) if one != other)
            said = f"column {place + 1} is {theirs[place]} there, and {mine[place]} here"
            raise ConfigError(f"{file.name}: its columns are in another order than those of {first}: {said}", hint=hint)
        for name, column in (self.schema or {}).items():
            other = (table.schema or {})[name]
            if other != column:
                said = f"{name} is {other} there, and {column} in {first}"
                raise ConfigError(f"{file.name}: its columns have other types: {said}", hint=hint)

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files in reading order, with what is known about them by now."""
        records = [*self._records, *[None] * (len(self._files) - len(self._records))]
        return tuple(
            SourceFile(file.path, file.length, file.sha256, file.form, known)
            for file, known in zip(self._files, records, strict=True)
        )

    @property
    def bytes_total(self) -> int:
        """Bytes of all files, as they lie there."""
        return sum(file.length for file in self._files)

    @property
    def bytes_read(self) -> int:
        """How many of them were read by now."""
        return sum(file.bytes_read for file in self._files)

    def batches(self) -> Generator[Batch]:
        """Return the records in order; an input without records gives no batch.

        Raises SourceHalt where a file is damaged, cut short, or changed while it was read. Closing the iterator stops
        the reading.
        """
        self._records, self._firsts = [], []
        row = 1
        for table in self._tables:
            first = row
            self._firsts.append(first)
            with closing(table.batches(first, self._batch_bytes)) as batches:
                for batch in batches:
                    row += len(batch.frame) + len(batch.rejected)
                    yield batch
                    del batch
            self._records.append(row - first)

    def locate(self, row: int) -> tuple[Path, int]:
        """Return the file that holds record number `row` of the input, and the number of the record in that file.

        Works for records that were read. Raises ValueError for a number below 1.
        """
        if row < 1:
            raise ValueError(f"records are numbered from 1, not {row}")
        place = bisect_right(self._firsts, row) - 1
        return self._files[place].path, row - self._firsts[place] + 1


def read_reference(path: Path, said: TableFormat = TableFormat()) -> pl.DataFrame:  # noqa: B008 - frozen
    """Return a small table whole, all cells as texts, with ROW first: what rows are joined with or looked up in.

    Numbers, dates and timestamps of typed formats become the texts that a delimited file would hold. A record that is
    none is an error here. Raises ConfigError naming file and record, also for a table over REFERENCE_BYTES.
    """
    source = Source(path, said)
    frames: list[pl.DataFrame] = []
    size = 0
    with closing(source.batches()) as batches:
        for batch in batches:
            for each in batch.rejected:
                place, number = source.locate(each.row)
                raise ConfigError(f"{place}: record {number}: {each.problem}", hint="a reference table must be whole")
            frame = as_texts(batch.frame)
            frames.append(frame)
            size += int(frame.estimated_size())
            if size > REFERENCE_BYTES:
                hint = f"up to {REFERENCE_BYTES >> 20} MiB; make it the input and join the smaller table"
                raise ConfigError(f"{path}: too large for a reference table", hint=hint)
    if not frames:
        return empty_frame(dict.fromkeys(source.columns, STRING))
    return pl.concat(frames)
