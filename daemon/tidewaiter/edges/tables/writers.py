"""Tables as the bytes of files: the same rows give the same bytes, whatever the batches and the number of threads.

Owns: formats and compression of what is written. Leaves to `row_text` how a row is spelled, and to `output` the file.

- csv and tsv: RFC 4180, UTF-8, lines that end in LF, a header unless it is turned off. A null is an empty cell (in a
  table of one column, an empty line), the empty text a pair of quotes; a NUL is refused, which no reader of such files
  has to take. A text that a spreadsheet would take for a formula is written as it is: a file that programs read must
  hold what the data hold.
- jsonl: an object a line, keys in the order of the columns, decimals as exact numbers.
- parquet and arrow: row groups of GROUP_ROWS rows, zstd at a fixed level; arrow is the IPC file format with the types
  that every reader knows.
- gzip and zstd of csv, tsv and jsonl: a fixed level, no time in the header, and compressed in blocks of a fixed size.

The bytes are the same again with the same versions of polars, zlib and zstandard: `versions`.
"""

from __future__ import annotations

import io
import zlib
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, cast

import polars as pl
import zstandard
from polars.io.plugins import register_io_source

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.table_format import DELIMITED
from tidewaiter.edges.tables.row_text import delimited, header_line, json_lines, refuse_unwritable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tidewaiter.core.pipelines.columns import Schema
    from tidewaiter.core.pipelines.table_format import KnownFormat

GROUP_ROWS: Final = 1 << 16
COLUMNAR: Final = ("parquet", "arrow")
_BLOCK_BYTES: Final = 1 << 20
_GZIP: Final = 31  # zlib's number for "gzip header and trailer, largest window"
_GZIP_LEVEL: Final = 6
_ZSTD_LEVEL: Final = 3
_IN_NUMBERS: Final = frozenset("+-.:")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that the bytes of an output depend on."""
    return {
        "polars": pl.__version__,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "zstd": ".".join(str(part) for part in zstandard.ZSTD_VERSION),
    }


def check_writable(known: KnownFormat, name: str, columns: Iterable[str] = ()) -> None:
    """Raise ConfigError where a table with these columns cannot be written in this way; `name` is the file's."""
    if known.encoding != "utf-8":
        raise ConfigError(f"{name}: an output cannot be written in {known.encoding}", hint="it is always utf-8")
    if known.columns is not None:
        raise ConfigError(f"{name}: columns: an output's columns come from the steps", hint="use a select step")
    if known.format in DELIMITED:
        for key, value in (("delimiter", known.delimiter), ("quote", known.quote)):
            if value.isalnum() or value in _IN_NUMBERS:
                raise ConfigError(f"{name}: {key} {value!r} is part of numbers or texts", hint="choose another")
        for column in columns:
            if known.header and "\0" in column:
                hint = "rename it, or write parquet"
                problem = f"{name}: column {column!r}: {known.format} cannot hold the NUL in its name"
                raise ConfigError(problem, hint=hint)


def write_table(
    frames: Iterator[pl.DataFrame], known: KnownFormat, schema: Schema, take: Callable[[bytes], None]
) -> int:
    """Hand the bytes of a table with these rows to `take`, piece by piece, and return the number of rows.

    `frames` hold at least the columns of `schema`. Raises SourceHalt for a value that the format has no text for, and
    what `frames` and `take` raise.
    """
    if known.format in COLUMNAR:
        return _write_columnar(frames, known.format, schema, take)
    compressor = _compressor(known.compression)
    blocks = _Blocks(compressor, take) if compressor is not None else None
    put = blocks.put if blocks is not None else take
    records = 0
    if known.format in DELIMITED and known.header:
        put(header_line(list(schema), delimiter=known.delimiter, quote=known.quote))
    for frame in frames:
        if len(frame):
            put(rows_text(frame, known, schema))
            records += len(frame)
    if blocks is not None:
        blocks.end()
    return records


def rows_text(frame: pl.DataFrame, known: KnownFormat, schema: Schema) -> bytes:
    """Return the rows of `frame` as lines of a csv, tsv or jsonl file. Raises SourceHalt for a value without text."""
    if known.format not in DELIMITED:
        refuse_unwritable(frame, schema, known.format)
        return json_lines(frame, schema)
    refuse_unwritable(frame, schema, known.format, texts=False)
    text = delimited(frame, schema, delimiter=known.delimiter, quote=known.quote)
    if b"\0" in text:  # far quicker to find there than in each cell
        refuse_unwritable(frame, schema, known.format)
    return text


# -- compression -------------------------------------------------------------------------------------------------------


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _compressor(compression: str) -> _Compressor | None:
    if compression == "gzip":
        return zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP)
    if compression == "zstd":
        return zstandard.ZstdCompressor(_ZSTD_LEVEL, write_checksum=True, write_content_size=False).compressobj()
    return None


class _Blocks:
    """Gives a compressor blocks of one size: what it makes of its input may depend on how that is cut."""

    def __init__(self, compressor: _Compressor, take: Callable[[bytes], None]) -> None:
        self._compressor = compressor
        self._take = take
        self._held = bytearray()

    def put(self, data: bytes) -> None:
        self._held += data
        whole = len(self._held) - len(self._held) % _BLOCK_BYTES
        for at in range(0, whole, _BLOCK_BYTES):
            self._give(self._compressor.compress(bytes(self._held[at : at + _BLOCK_BYTES])))
        del self._held[:whole]

    def end(self) -> None:
        self._give(self._compressor.compress(bytes(self._held)))
        self._give(self._compressor.flush())

    def _give(self, data: bytes) -> None:
        if data:
            self._take(data)


# -- columnar formats --------------------------------------------------------------------------------------------------


class _Taken(io.RawIOBase):
    """A file for the library to write to. It wraps what a write raises in errors of its own, so that is kept here."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        super().__init__()
        self._give = take
        self.error: BaseException | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - any buffer
        if self.error is not None:
            raise self.error
        try:
            self._give(bytes(data))
        except BaseException as error:
            self.error = error
            raise
        return len(data)


class _Counted:
    """The frames with the columns of the schema; counts their rows, and keeps what getting them raised."""

    def __init__(self, frames: Iterator[pl.DataFrame], schema: Schema) -> None:
        self._frames = frames
        self._names = list(schema)
        self.records = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pl.DataFrame]:
        try:
            for frame in self._frames:
                self.records += len(frame)
                yield frame.select(self._names)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


def _write_columnar(frames: Iterator[pl.DataFrame], form: str, schema: Schema, take: Callable[[bytes], None]) -> int:
    counted = _Counted(frames, schema)
    taken = _Taken(take)
    file = cast("IO[bytes]", taken)  # as much of one as the library needs: `write`, and nowhere a seek

    def source(*_: object) -> Iterator[pl.DataFrame]:
        return iter(counted)

    rows = register_io_source(source, schema={name: column.dtype for name, column in schema.items()})
    try:
        # Both run in the library's streaming engine, which has a few groups in memory at a time, and cuts them by
        # their number of rows, wherever the frames end.
        if form == "parquet":
            rows.sink_parquet(
                file,
                compression="zstd",
                compression_level=_ZSTD_LEVEL,
                statistics=True,
                row_group_size=GROUP_ROWS,
                engine="streaming",
            )
        else:
            rows.sink_ipc(
                file,
                compression="zstd",
                compat_level=pl.CompatLevel.oldest(),
                record_batch_size=GROUP_ROWS,
                engine="streaming",
            )
    except Exception as error:
        first = taken.error or counted.error
        if first is not None:
            raise first from error
        raise
    return counted.records
