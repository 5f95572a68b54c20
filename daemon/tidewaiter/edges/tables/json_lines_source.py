"""JSON Lines files as typed frames: one object a line, its keys the columns.

Owns: reading a file block by block. Leaves to `json_records` what a record is, and to `prefetching` reading ahead.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from tidewaiter.core.pipelines.batches import Batch
from tidewaiter.core.pipelines.columns import STRING, Schema, empty_frame
from tidewaiter.edges.tables.csv_source import check_names
from tidewaiter.edges.tables.decompressing import READ_BYTES
from tidewaiter.edges.tables.json_records import JsonRecords
from tidewaiter.edges.tables.line_blocks import Fault, line_blocks, rejected_record
from tidewaiter.edges.tables.prefetching import prefetched
from tidewaiter.edges.tables.transcoding import to_utf8

if TYPE_CHECKING:
    from collections.abc import Generator

    from tidewaiter.edges.tables.decompressing import InputFile

_AS_TEXT: Final = ("date", "timestamp")
_PART_OF_BATCH: Final = 4
"""A block is so much smaller than a batch of delimited text: its records take that much more memory on the way."""


def lines_of(file: InputFile, size: int) -> Generator[bytes | Fault]:
    """Return the lines of `file` in blocks of about `size` bytes."""
    with closing(to_utf8(file.content(min(size, READ_BYTES)), "utf-8", file.name)) as text:
        yield from line_blocks(text, size)


class JsonLinesTable:
    """One file of JSON Lines. `schema` is how its columns come: as wanted, but dates and timestamps as texts."""

    def __init__(self, file: InputFile, wanted: Schema, *, ignore_unknown: bool = False) -> None:
        """Keys that are not `wanted` are left out where `ignore_unknown` says so; else their records are rejected.

        Raises ConfigError for names that no column can have.
        """
        self._file = file
        check_names(tuple(wanted), f"{file.name}: keys")
        columns = {name: STRING if column.kind in _AS_TEXT else column for name, column in wanted.items()}
        self._empty = empty_frame(columns)
        self._records = JsonRecords(columns, ignore_unknown=ignore_unknown)
        self.columns = tuple(columns)
        self.schema: Schema | None = columns

    def batches(self, first_row: int, batch_bytes: int) -> Generator[Batch]:
        """Return the records of the file in order, the first one numbered `first_row`."""
        row = first_row
        size = max(batch_bytes // _PART_OF_BATCH, 1)
        with closing(prefetched(lines_of(self._file, size))) as blocks:
            for block in blocks:
                if isinstance(block, Fault):
                    yield Batch(self._empty, (rejected_record(block, row),))
                    row += 1
                    continue
                for batch in self._records.batches(block, row):
                    row += len(batch.frame) + len(batch.rejected)
                    yield batch
