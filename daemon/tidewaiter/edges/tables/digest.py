"""The digest of the rows at one place of a pipeline: SHA-256 of their canonical text.

Owns: what the canonical text is. Leaves to `row_text` how a value is spelled, to `output` the bytes of files, and to
`shell.pipelines` which places have a digest.

The canonical text can be made again with any CSV tool that keeps to RFC 4180, and `sha256sum`:

- UTF-8; each line ends in a newline (LF). The first is the header: for each column ``"name:type"``, always quoted, the
  type in the words of contracts: string, integer, decimal(2), float, boolean, date, timestamp.
- Then a line for each row, in order. Cells are parted by commas; a quote inside quotes is doubled.
- Null is nothing at all: two commas in a row. The row of a table of one column is then an empty line.
- Always quoted: texts (the empty text is ``""``), booleans (``"true"``, ``"false"``), dates (``"2026-01-31"``) and
  timestamps (in UTC, ``"2026-01-31T10:00:00Z"``; a fraction of three digits where it is whole milliseconds, of six
  where it is not, and none where it is zero).
- Never quoted: integers (``-5``); decimals with all of their decimals (``-0.50``); floats, as the shortest digits that
  give the same number again, in the form 0.00001 or 100.0 from 1e-5 to below 1e16, and 1e-7 or 1.5e+16 outside of it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tidewaiter.edges.tables.row_text import delimited, header_line

if TYPE_CHECKING:
    import polars as pl

    from tidewaiter.core.pipelines.columns import Schema


class StageDigest:
    """SHA-256 of the canonical text of rows that come in batches; where a batch ends changes nothing."""

    def __init__(self, schema: Schema) -> None:
        """Begin with the header of `schema`."""
        self._schema = schema
        header = header_line([f"{name}:{column}" for name, column in schema.items()], always=True)
        self._hash = hashlib.sha256(header)

    def update(self, frame: pl.DataFrame) -> None:
        """Take the rows of `frame`, ROW left out."""
        if len(frame):
            self._hash.update(delimited(frame, self._schema, quoted="non_numeric"))

    def hexdigest(self) -> str:
        """Return the digest of the rows so far."""
        return self._hash.hexdigest()
