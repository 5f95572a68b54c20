"""Delimited text (CSV, TSV) as frames of texts.

Owns: the header, the names of the columns, and the parsing of proven blocks by polars. Leaves to `csv_records` the
grammar and every doubt, to `transcoding` encodings, and to `prefetching` doing all that ahead on a thread.

polars fills short records with nulls and would take what is no text; it sees only what `csv_records` has proven, and
what it refuses or counts otherwise is read record by record.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.errors import ConfigError, SourceHalt
from tidewaiter.core.pipelines.batches import Batch, Rejected, quoted
from tidewaiter.core.pipelines.columns import ROW, ROW_DTYPE, Schema
from tidewaiter.edges.tables.csv_records import (
    Block,
    Dialect,
    Proven,
    Records,
    Singly,
    cut_block,
    cut_records,
    read_record,
    read_singly,
)
from tidewaiter.edges.tables.decompressing import READ_BYTES
from tidewaiter.edges.tables.line_blocks import SINGLY_RECORDS, Fault, rejected_record
from tidewaiter.edges.tables.prefetching import prefetched
from tidewaiter.edges.tables.transcoding import to_utf8

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from tidewaiter.edges.tables.decompressing import InputFile

_BEGINNING: Final = 1 << 16
_MOST_ROWS: Final = 1 << 18
"""A batch has no more rows, however short they are."""


class CsvTable:
    """One file of delimited text; all its columns are texts."""

    def __init__(self, file: InputFile, expected: Schema | None = None) -> None:
        """Read the header. Raises ConfigError where the names cannot be used, SourceHalt where there is nothing."""
        self._file = file
        form = file.form
        self._dialect = Dialect(form.delimiter.encode(), form.quote.encode(), 0)
        self.columns = self._names(expected)
        self._dialect = self._dialect._replace(fields=len(self.columns))
        self._first_line = _harmless_record(self._dialect)
        self.schema: Schema | None = None

    def _text(self, size: int) -> Generator[bytes]:
        file = self._file
        return to_utf8(file.content(size), file.form.encoding, file.name)

    # -- the header ----------------------------------------------------------------------------------------------------

    def _names(self, expected: Schema | None) -> tuple[str, ...]:
        form, name = self._file.form, self._file.name
        if form.columns is not None:
            check_names(form.columns, f"{name}: columns")
        if not form.header and form.columns is not None:
            return form.columns
        first = self._first_record()
        if first is None:
            if form.columns is not None:
                return form.columns
            raise SourceHalt(f"{name}: is empty: it has no header", hint="check that the whole file arrived")
        if isinstance(first, Fault):
            what = "header" if form.header else "first record"
            raise ConfigError(
                f"{name}: its {what} cannot be read: {first.problem}", hint="check delimiter and encoding"
            )
        if not form.header:
            return tuple(f"column_{number}" for number in range(1, len(first) + 1))
        names = tuple(each or "" for each in first)
        if form.columns is not None and names != form.columns:
            said = f"its header is {_listed(names)}, not {_listed(form.columns)}"
            raise ConfigError(f"{name}: {said}", hint="say header = false if it has none")
        if expected and not set(names) & set(expected):
            said = f"its first record, {_listed(names)}, names none of the expected columns {_listed(tuple(expected))}"
            raise ConfigError(f"{name}: {said}", hint="say header = false and columns if it has no header")
        check_names(names, f"{name}: header")
        return names

    def _first_record(self) -> list[str | None] | Fault | None:
        """Return the first record of the file; None where there is none."""
        text = b""
        with closing(self._text(_BEGINNING)) as parts:
            for part in parts:
                text += part
                if (record := read_record(text, 0, self._dialect, final=False)) is not None:
                    return record[0]
                if len(text) > self._dialect.limit:
                    return Fault(f"no end of the record within {self._dialect.limit} bytes", b"")
        if not text:
            return None
        record = read_record(text if text.endswith(b"\n") else text + b"\n", 0, self._dialect, final=True)
        return None if record is None else record[0]

    # -- the records ---------------------------------------------------------------------------------------------------

    def batches(self, first_row: int, batch_bytes: int) -> Generator[Batch]:
        """Return the records of the file in order, the first one numbered `first_row`.

        They are read and cut on one thread and parsed on another, while the caller works on those before: one batch
        more in memory, an eighth less time.
        """
        return prefetched(self._numbered(first_row, batch_bytes), depth=1)

    def _numbered(self, first_row: int, batch_bytes: int) -> Generator[Batch]:
        row = first_row
        with closing(prefetched(self._blocks(batch_bytes), depth=1)) as found:
            for blocks in found:
                for batch in self._batches(blocks, row):
                    row += len(batch.frame) + len(batch.rejected)
                    yield batch

    def _blocks(self, batch_bytes: int) -> Generator[list[Block]]:
        with closing(self._text(min(batch_bytes, READ_BYTES))) as text:
            parts = _without_first(text, self._dialect) if self._file.form.header else text
            yield from cut_records(parts, self._dialect, batch_bytes)

    def _batches(self, blocks: Sequence[Block], row: int) -> Generator[Batch]:
        """Return the records of `blocks`, the first one numbered `row`: one batch, more where it would be too large."""
        frames: list[pl.DataFrame] = []
        rejected: list[Rejected] = []
        rows = singly = 0
        for settled in self._settled(blocks):
            height = len(settled)
            if frames and (rows + height > _MOST_ROWS or singly >= SINGLY_RECORDS):
                yield _batch(frames, rejected)
                frames, rejected, rows, singly = [], [], 0, 0
            if isinstance(settled, pl.DataFrame):
                frame = settled
                frame.insert_column(0, pl.int_range(row, row + height, dtype=ROW_DTYPE, eager=True).alias(ROW))
            else:
                singly += height
                frame = self._from_cells(settled, row)
                rejected += (
                    rejected_record(found, row + place)
                    for place, found in enumerate(settled)
                    if isinstance(found, Fault)
                )
            frames.append(frame)
            row += height
            rows += height
        if frames:
            yield _batch(frames, rejected)

    def _settled(self, blocks: Sequence[Block]) -> Generator[pl.DataFrame | Records]:
        """Return the records of `blocks` in order, some at a time; as frames without ROW where nothing was wrong."""
        for block in blocks:
            if isinstance(block, Singly):
                yield block.records
            elif (frame := self._parsed(block)) is not None:
                yield from frame.iter_slices(_MOST_ROWS)
            else:
                for piece in cut_block(block.text, self._dialect, final=True, in_pieces=True):
                    if isinstance(piece, Singly):
                        yield piece.records
                    elif (frame := self._parsed(piece)) is not None:
                        yield from frame.iter_slices(_MOST_ROWS)
                    else:
                        yield from read_singly(piece.text, self._dialect)

    def _parsed(self, block: Proven) -> pl.DataFrame | None:
        """Return a proven block as a frame; None if the parser finds anything else in it.

        The parser drops a byte order mark from the beginning of what it gets, and inflates what begins like compressed
        data: so it never gets a beginning that comes from the file.
        """
        try:
            frame = pl.read_csv(
                self._first_line + block.text,
                has_header=False,
                schema=dict.fromkeys(self.columns, pl.String),
                separator=self._file.form.delimiter,
                quote_char=self._file.form.quote,
                infer_schema=False,
            )
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
            return None
        frame = frame.slice(1)
        return frame if self._is_all_of(block, frame) else None

    def _is_all_of(self, block: Proven, frame: pl.DataFrame) -> bool:
        """Return whether `frame` holds the records of `block`, all of them sound, and nothing else."""
        if block.count is not None:
            return len(frame) == block.count
        fields = len(self.columns)
        if frame[self.columns[-1]].null_count():  # a record that is too short may be among them
            delimiters = block.text.count(self._dialect.delimiter)
            return delimiters == (fields - 1) * len(frame)
        # No record is too short, and each byte is one of a cell or ends one: so none was dropped.
        cells = sum(frame[name].str.len_bytes().sum() for name in self.columns)
        return cells + fields * len(frame) + block.returns == len(block.text)

    def _from_cells(self, records: Records, row: int) -> pl.DataFrame:
        """Return the sound ones of `records`, the first of which has the number `row`."""
        sound = [(row + place, *found) for place, found in enumerate(records) if not isinstance(found, Fault)]
        schema = {ROW: ROW_DTYPE, **dict.fromkeys(self.columns, pl.String())}
        return pl.DataFrame(sound, schema=schema, orient="row")


def _batch(frames: list[pl.DataFrame], rejected: list[Rejected]) -> Batch:
    return Batch(frames[0] if len(frames) == 1 else pl.concat(frames), tuple(rejected))


def _harmless_record(dialect: Dialect) -> bytes:
    """Return a record of digits."""
    digit = next(each for each in (b"0", b"1", b"2") if each not in (dialect.delimiter, dialect.quote))
    return dialect.delimiter.join([digit] * dialect.fields) + b"\n"


def _without_first(parts: Iterator[bytes], dialect: Dialect) -> Generator[bytes]:
    """Return what follows the first record, which is whole and sound."""
    text = b""
    for part in parts:
        text += part
        if (record := read_record(text, 0, dialect, final=False)) is not None:
            yield text[record[1] :]
            yield from parts
            return


def check_names(names: Sequence[str], where: str) -> None:
    """Raise ConfigError beginning with `where` unless `names` can be those of columns: none empty, none twice.

    Names with a NUL are our own, for columns that nobody sees.
    """
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise ConfigError(
                f"{where}: column {number} has no name", hint="name every column, or say that it has no header"
            )
        if name == ROW:
            raise ConfigError(f"{where}: column {number} is called {ROW}", hint="this name is taken; rename it")
        if "\0" in name:
            said = name.replace("\0", "\\0")
            raise ConfigError(f"{where}: column {number} is called {said}, with a NUL character", hint="rename it")
        if name in seen:
            raise ConfigError(f"{where}: columns {seen[name]} and {number} are both called {name}", hint="rename one")
        seen[name] = number


def _listed(names: Sequence[str]) -> str:
    return quoted(", ".join(names)) or "(nothing)"
