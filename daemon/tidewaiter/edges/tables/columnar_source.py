"""Parquet and Arrow IPC files as typed frames, some rows at a time.

Owns: which types of these formats become which types of a pipeline, and that nothing is lost on the way. Leaves to
`decompressing` digests and changes, and to `core.pipelines.validation` what the values may be.

- Integers of up to 64 bits are integers; unsigned and wider ones too, record by record, where the value fits.
- Floats stay floats. Decimals keep their scale, up to MAX_SCALE. Texts, and dictionaries of texts, are texts.
- A timestamp must have a time zone: it becomes UTC with microseconds, where that loses nothing. One without is an hour
  that nobody can place. Years are 1 to 9999.
- Lists, structs, binary data, times and durations are refused by name.

Rows are read in slices of bounded size, whatever the size of the row groups: a few at first, for only their own size
tells that of the next. A text over RECORD_LIMIT is not read, as in the other formats. A file of which more than
`max_ratio` bytes of values come out for each of its own is a bomb, as in `decompressing`: one text can stand in all
rows, and take place once in the file.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from tidewaiter.core.errors import ConfigError, SourceHalt
from tidewaiter.core.pipelines.batches import BATCH_ROWS, QUOTED_CHARACTERS, Batch, Rejected, quoted
from tidewaiter.core.pipelines.columns import (
    BOOLEAN,
    DATE,
    FLOAT,
    INTEGER,
    MAX_SCALE,
    ROW,
    ROW_DTYPE,
    STRING,
    TIMESTAMP,
    ColumnType,
    Schema,
    schema_of,
)
from tidewaiter.edges.tables.csv_source import check_names
from tidewaiter.edges.tables.decompressing import BOMB_BYTES
from tidewaiter.edges.tables.line_blocks import READ_STEP, RECORD_LIMIT
from tidewaiter.edges.tables.prefetching import prefetched
from tidewaiter.edges.tables.row_text import spelled

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tidewaiter.edges.tables.decompressing import InputFile

_GROWTH: Final = 16
"""A slice has at most so many times the rows of the one before."""
_FRAME_FACTOR: Final = 2
"""A frame may take so many times the bytes that a batch of text has."""
_DAY_SECONDS: Final = 86_400
_FIRST_DAY, _END_DAY = -719_162, 2_932_897
"""0001-01-01 and the day after 9999-12-31, in days since 1970."""
_NAMES: Final = {"parquet": "Parquet", "arrow": "Arrow IPC"}
_YEARS: Final = "not in the years 1 to 9999"
_BECOMES: Final = {
    "integer": ("integer", "decimal"),
    "decimal": ("decimal", "integer"),
    "float": ("float", "decimal", "integer"),
    "string": ("string", "date", "timestamp"),
}
"""Which found kinds may stand where which kinds are expected: texts for dates as in JSON, but never for numbers."""


class _Mapped(NamedTuple):
    """A column: its type, how it is made, and which rows of it cannot be, with the reason. `raw` shows those."""

    type: ColumnType
    made: pl.Expr
    bad: pl.Expr | None = None
    problem: str = ""
    raw: pl.Expr | None = None


class ColumnarTable:
    """One Parquet or Arrow IPC file."""

    def __init__(self, file: InputFile, expected: Schema | None = None) -> None:
        """Read its schema. Raises ConfigError for columns that cannot be used, or are not as `expected`."""
        self._file = file
        with self._refusing():
            self._scan = self._opened()
            found = self._scan.collect_schema()
            self._total = int(self._scan.select(pl.len()).collect().item())
        check_names(tuple(found), f"{file.name}: columns")
        self._mapped = {name: self._mapping(name, dtype) for name, dtype in found.items()}
        self.columns = tuple(found)
        self.schema: Schema | None = {name: mapped.type for name, mapped in self._mapped.items()}
        for name, wanted in (expected or {}).items():
            if name in self._mapped and found[name] != pl.Null:
                self._check_expected(name, self._mapped[name].type, wanted)

    def _opened(self) -> pl.LazyFrame:
        if self._file.form.format == "parquet":
            return pl.scan_parquet(self._file.path, glob=False, hive_partitioning=False)
        return pl.scan_ipc(self._file.path, glob=False, hive_partitioning=False)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn what polars says of a damaged file into a SourceHalt."""
        try:
            yield
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            why = quoted((str(error).splitlines() or [type(error).__name__])[0])
            hint = "it is cut short or damaged, or not in this format; copy it again"
            message = f"{self._file.name}: cannot be read as {_NAMES[self._file.form.format]}: {why}"
            raise SourceHalt(message, hint=hint) from None

    # -- types ---------------------------------------------------------------------------------------------------------

    def _mapping(self, name: str, dtype: pl.DataType) -> _Mapped:
        """Return how the column `name` is read. Raises ConfigError where no column of a pipeline can hold it."""
        column = pl.col(name)
        match dtype:
            case pl.String() | pl.Categorical() | pl.Enum() | pl.Null():
                return _text(column.cast(pl.String))
            case pl.Boolean():
                return _Mapped(BOOLEAN, column)
            case pl.Float32() | pl.Float64():
                return _Mapped(FLOAT, column.cast(pl.Float64))
            case pl.Decimal() if dtype.scale <= MAX_SCALE:
                wanted = ColumnType("decimal", dtype.scale)
                return _Mapped(wanted, column.cast(wanted.dtype))
            case pl.Date():
                days = column.to_physical()
                shown = pl.concat_str(days, pl.lit(" days since 1970"))
                return _Mapped(DATE, column, (days < _FIRST_DAY) | (days >= _END_DAY), _YEARS, shown)
            case pl.Datetime() if dtype.time_zone is not None:
                return _timestamp(column.to_physical(), dtype.time_unit)
            case pl.UInt64() | pl.Int128() | pl.UInt128():
                narrow = column.cast(pl.Int64, strict=False)
                bad = narrow.is_null() & column.is_not_null()
                return _Mapped(INTEGER, narrow, bad, "does not fit in 64 bits", column.cast(pl.String))
            case _ if dtype.is_integer():
                return _Mapped(INTEGER, column.cast(pl.Int64))
        hint = "leave it out, or store it as text, number, date or timestamp"
        if isinstance(dtype, pl.Decimal):
            hint = f"store it with at most {MAX_SCALE} decimals"
        elif isinstance(dtype, pl.Datetime):
            hint = "store timestamps with their time zone, best in UTC: without one they name no moment"
        raise ConfigError(f"{self._file.name}: {name}: a column of type {dtype} cannot be read", hint=hint)

    def _check_expected(self, name: str, found: ColumnType, wanted: ColumnType) -> None:
        if wanted.kind not in _BECOMES.get(found.kind, (found.kind,)):
            hint = "store it as that, or expect what it is and cast it in a step"
            raise ConfigError(f"{self._file.name}: {name}: is {found}, but {wanted} is expected", hint=hint)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def batches(self, first_row: int, batch_bytes: int) -> Generator[Batch]:
        """Return the rows of the file in order, the first one numbered `first_row`."""
        row = first_row
        with closing(prefetched(self._slices(batch_bytes))) as slices:
            for frame in slices:
                height = len(frame)
                yield self._batch(frame, row)
                row += height

    def _slices(self, batch_bytes: int) -> Generator[pl.DataFrame]:
        """Return the rows as they lie there, and hash the file along with them."""
        file = self._file
        at, rows, out = 0, 1, 0
        with closing(file.content()) as own_bytes:
            while at < self._total:
                with self._refusing():
                    frame = self._scan.slice(at, rows).collect()
                    if frame.is_empty():
                        raise OSError(f"{self._total} rows are announced, {at} found")
                at += len(frame)
                out += _size(frame)
                if out > BOMB_BYTES and out > file.max_ratio * file.length:
                    much = f"its first {at} rows hold {out} bytes, more than {file.max_ratio} for each of its own"
                    raise SourceHalt(
                        f"{file.name}: {much} {file.length}",
                        hint="a decompression bomb is not read; if it is none, say what it may be: "
                        "max_ratio in [input] of the pipeline file",
                    )
                while file.bytes_read < file.length * at // self._total and next(own_bytes, None) is not None:
                    pass
                per_row = max(int(frame.estimated_size()) // len(frame), 1)
                rows = min(max(batch_bytes * _FRAME_FACTOR // per_row, 1), len(frame) * _GROWTH, BATCH_ROWS)
                yield frame
            for _ in own_bytes:
                pass

    def _batch(self, frame: pl.DataFrame, row: int) -> Batch:
        frame.insert_column(0, pl.int_range(row, row + len(frame), dtype=ROW_DTYPE, eager=True).alias(ROW))
        checks = {name: mapped.bad for name, mapped in self._mapped.items() if mapped.bad is not None}
        if not checks:
            return Batch(self._typed(frame))
        wrong = frame.select(bad.fill_null(value=False).alias(name) for name, bad in checks.items())
        rows = wrong.select(pl.any_horizontal(pl.all())).to_series()
        if not rows.any():
            return Batch(self._typed(frame))
        return Batch(self._typed(frame.filter(~rows)), self._rejected(frame.filter(rows), wrong.filter(rows)))

    def _typed(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select(pl.col(ROW), *(mapped.made.alias(name) for name, mapped in self._mapped.items()))

    def _rejected(self, frame: pl.DataFrame, wrong: pl.DataFrame) -> tuple[Rejected, ...]:
        """Return the rows of `frame`, in each of which a column is `wrong`."""
        shown = {
            name: frame.select(mapped.raw.alias(name)).to_series().to_list()
            for name, mapped in self._mapped.items()
            if name in wrong.columns and mapped.raw is not None
        }
        blanked = [pl.when(~wrong[name]).then(pl.col(name)).alias(name) for name in wrong.columns]
        records = as_texts(self._typed(frame.with_columns(blanked))).drop(ROW).to_dicts()
        faults = wrong.to_dicts()
        rejected = []
        for place, (row, record, fault) in enumerate(zip(frame[ROW].to_list(), records, faults, strict=True)):
            record.update((name, shown[name][place]) for name, bad in fault.items() if bad)
            column = next(name for name, bad in fault.items() if bad)
            rejected.append(
                Rejected(
                    row=row,
                    column=column,
                    problem=self._mapped[column].problem,
                    value=quoted(record[column]),
                    record=record,
                    step=READ_STEP,
                )
            )
        return tuple(rejected)


def _size(frame: pl.DataFrame) -> int:
    """Return the bytes of all values: eight each, of texts their own, however often one is shared."""
    size = 0
    for column in frame.iter_columns():
        if column.dtype == pl.String:
            size += int(column.estimated_size())
        else:
            size += 8 * (len(column) - column.null_count())
    return size


def _text(made: pl.Expr) -> _Mapped:
    """Return how a column of texts is read."""
    problem = f"a text of more than {RECORD_LIMIT} bytes: such are not read"
    return _Mapped(STRING, made, made.str.len_bytes() > RECORD_LIMIT, problem, made.str.head(QUOTED_CHARACTERS + 1))


def _timestamp(ticks: pl.Expr, unit: str) -> _Mapped:
    """Return how a timestamp of `ticks` since 1970 is read: an instant, whatever its zone is called."""
    shown = pl.concat_str(ticks, pl.lit(f" {unit} since 1970"))
    if unit == "ns":  # reaches from 1677 to 2262 only
        made = (ticks // 1_000).cast(TIMESTAMP.dtype)
        return _Mapped(TIMESTAMP, made, ticks % 1_000 != 0, "not a whole number of microseconds", shown)
    per_second, factor = (1_000, 1_000) if unit == "ms" else (1_000_000, 1)
    first, end = _FIRST_DAY * _DAY_SECONDS * per_second, _END_DAY * _DAY_SECONDS * per_second
    return _Mapped(TIMESTAMP, (ticks * factor).cast(TIMESTAMP.dtype), (ticks < first) | (ticks >= end), _YEARS, shown)


def as_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with all its columns but ROW as the texts that a delimited file would hold."""
    texts = spelled(frame, schema_of(frame)).with_columns(pl.all().cast(pl.String))
    return texts.insert_column(0, frame[ROW])
