"""Parquet and Arrow files as inputs: types are kept or refused by name, and no value is bent to fit."""

from __future__ import annotations

import datetime as dt
import hashlib
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pytest

from tidewaiter.core.errors import ConfigError, SourceHalt
from tidewaiter.core.pipelines.columns import BOOLEAN, DATE, FLOAT, INTEGER, STRING, TIMESTAMP, ColumnType, schema_of
from tidewaiter.edges.tables.line_blocks import RECORD_LIMIT
from tidewaiter.edges.tables.sources import Source, read_reference
from tidewaiter.pipeline import PipelineConfig, run_pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.pipelines.batches import Rejected

FORMATS: Final = ("parquet", "arrow")
MS, US, NS = (pl.Datetime(unit, "UTC") for unit in ("ms", "us", "ns"))
YEARS: Final = "not in the years 1 to 9999"
NOON: Final = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


def written(tmp_path: Path, frame: pl.DataFrame, form: str = "parquet") -> Path:
    """Write a file."""
    path = tmp_path / f"in.{form}"
    if form == "parquet":
        frame.write_parquet(path, row_group_size=1000)
    else:
        frame.write_ipc(path, record_batch_size=1000)
    return path


def read(source: Source) -> tuple[list[tuple[Any, ...]], list[Rejected]]:
    """Return rows and rejections."""
    batches = list(source.batches())
    for batch in batches:
        assert schema_of(batch.frame) == source.schema
    return [row for batch in batches for row in batch.frame.rows()], [e for b in batches for e in b.rejected]


@pytest.mark.parametrize("form", FORMATS)
def test_every_usable_type_becomes_one_of_the_pipelines(tmp_path: Path, form: str) -> None:
    """Narrow numbers widen, dictionaries are texts, instants are UTC, and nothing changes its value."""
    frame = pl.DataFrame(
        {
            "text": pl.Series(["é", None]),
            "category": pl.Series(["a", "b"], dtype=pl.Categorical),
            "enum": pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])),
            "small": pl.Series([-128, None], dtype=pl.Int8),
            "unsigned": pl.Series([2**63 - 1, 0], dtype=pl.UInt64),
            "ratio": pl.Series([0.5, None], dtype=pl.Float32),
            "amount": pl.Series([Decimal("1.50"), None], dtype=pl.Decimal(10, 2)),
            "flag": [True, None],
            "day": [dt.date(1, 1, 1), dt.date(9999, 12, 31)],
            "ms": pl.Series([NOON, None], dtype=pl.Datetime("ms", "UTC")),
            "us": pl.Series([NOON, None], dtype=pl.Datetime("us", "Europe/Prague")),
            "ns": pl.Series([NOON, None], dtype=pl.Datetime("ns", "UTC")),
            "nothing": pl.Series([None, None], dtype=pl.Null),
        }
    )
    source = Source(written(tmp_path, frame, form))
    rows, rejected = read(source)
    assert source.schema == {
        "text": STRING, "category": STRING, "enum": STRING, "small": INTEGER, "unsigned": INTEGER, "ratio": FLOAT,
        "amount": ColumnType("decimal", 2), "flag": BOOLEAN, "day": DATE, "ms": TIMESTAMP, "us": TIMESTAMP,
        "ns": TIMESTAMP, "nothing": STRING,
    }  # fmt: skip
    assert rejected == []
    assert rows == [
        (1, "é", "a", "a", -128, 2**63 - 1, 0.5, Decimal("1.50"), True, dt.date(1, 1, 1), NOON, NOON, NOON, None),
        (2, None, "b", "b", None, 0, None, None, None, dt.date(9999, 12, 31), None, None, None, None),
    ]


@pytest.mark.parametrize(
    ("series", "problem", "value"),
    [
        (pl.Series([1, 2**63, 3], dtype=pl.UInt64), "does not fit in 64 bits", str(2**63)),
        (pl.Series([0, 1, 2000]).cast(NS), "not a whole number of microseconds", "1 ns since 1970"),
        (pl.Series([0, 2**62, 1]).cast(US), YEARS, f"{2**62} us since 1970"),
        (pl.Series([0, -(2**62), 1]).cast(MS), YEARS, f"{-(2**62)} ms since 1970"),
        (pl.Series([0, 3_000_000, 1]).cast(pl.Int32).cast(pl.Date), YEARS, "3000000 days since 1970"),
    ],
)
def test_a_value_that_does_not_fit_rejects_its_row_alone(
    tmp_path: Path, series: pl.Series, problem: str, value: str
) -> None:
    """The rejection names column and value and holds the whole record; nothing wraps around."""
    source = Source(written(tmp_path, pl.DataFrame({"id": ["a", "b", "c"], "x": series})))
    rows, rejected = read(source)
    assert [row[:2] for row in rows] == [(1, "a"), (3, "c")]
    assert [(each.row, each.column, each.problem, each.value, each.record, each.step) for each in rejected] == [
        (2, "x", problem, value, {"id": "b", "x": value}, "read")
    ]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("series", "message"),
    [
        (pl.Series([[1]]), r"x: a column of type List\(Int64\) cannot be read"),
        (pl.Series([{"a": 1}]), "x: a column of type Struct"),
        (pl.Series([b"a"]), "x: a column of type Binary"),
        (pl.Series([dt.time(1)]), "x: a column of type Time"),
        (pl.Series([dt.datetime(2026, 1, 1)]), "x: a column of type Datetime.*store timestamps with their time zone"),  # noqa: DTZ001
        (pl.Series(["1"]).cast(pl.Decimal(38, 20)), "x: a column of type Decimal.*at most 18 decimals"),
    ],
)  # fmt: skip
def test_types_that_no_pipeline_has_are_refused_by_name(
    tmp_path: Path, form: str, series: pl.Series, message: str
) -> None:
    """The error names file, column and type."""
    path = written(tmp_path, pl.DataFrame({"x": series}), form)
    with pytest.raises(ConfigError, match=message) as error:
        Source(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("found", "expected", "accepted"),
    [
        (pl.String, INTEGER, False), (pl.String, STRING, True), (pl.String, TIMESTAMP, True), (pl.Int8, INTEGER, True),
        (pl.Int64, ColumnType("decimal", 2), True), (pl.Int64, STRING, False),
        (pl.Float64, ColumnType("decimal", 2), True), (pl.Date, TIMESTAMP, False),
        (pl.Boolean, INTEGER, False), (pl.Null, INTEGER, True),
    ],
)  # fmt: skip
def test_a_schema_other_than_expected_is_refused(
    tmp_path: Path, found: type[pl.DataType], expected: ColumnType, *, accepted: bool
) -> None:
    """The error names the column, what it is and what it should be; texts are not taken for numbers."""
    path = written(tmp_path, pl.DataFrame({"x": pl.Series([None], dtype=found)}))
    if accepted:
        Source(path, expected={"x": expected})
        return
    with pytest.raises(ConfigError, match=rf"in\.parquet: x: is \w+, but {expected} is expected"):
        Source(path, expected={"x": expected})


@pytest.mark.parametrize("form", FORMATS)
def test_slices_of_any_size_give_the_same_rows(tmp_path: Path, form: str) -> None:
    """Rows, numbers and the digest do not depend on how much is read at a time."""
    frame = pl.DataFrame({"n": range(10_000), "t": [f"text {number % 17}" for number in range(10_000)]})
    path = written(tmp_path, frame, form)
    whole = None
    for batch_bytes in (1 << 24, 1 << 14, 50_000):
        source = Source(path, batch_bytes=batch_bytes)
        rows, rejected = read(source)
        whole = whole or rows
        assert (rows, rejected) == (whole, [])
        assert source.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert source.bytes_read == source.bytes_total
    assert whole == [(number + 1, *row) for number, row in enumerate(frame.rows())]
    assert read(Source(written(tmp_path, frame.clear(), form))) == ([], [])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-100], lambda data: data[: len(data) // 2], lambda data: b"a,b\n1,2\n", lambda data: b""],
)
def test_a_file_that_is_cut_or_no_such_file_halts(tmp_path: Path, form: str, damage: Any) -> None:
    """A truncated file, or a CSV under this name, is one clear line with the file's name."""
    path = written(tmp_path, pl.DataFrame({"n": range(5000)}), form)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SourceHalt, match=rf"in\.{form}: cannot be read as ") as error:
        read(Source(path))
    assert "\n" not in str(error.value)


def test_damage_inside_a_file_halts(tmp_path: Path) -> None:
    """Flipped bytes in the data of a row group never come out as rows."""
    path = written(tmp_path, pl.DataFrame({"t": [f"text {number * 7919}" for number in range(5000)]}))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(SourceHalt, match="cannot be read as Parquet"):
        read(Source(path))


def test_a_file_written_to_while_it_is_read_halts(tmp_path: Path) -> None:
    """The digest and the rows are of one state of the file, or there are none."""
    frame = pl.DataFrame({"n": range(10_000)})
    source = Source(written(tmp_path, frame), batch_bytes=1 << 12)
    batches = source.batches()
    next(batches)
    written(tmp_path, frame.head(5000))
    with pytest.raises(SourceHalt):
        list(batches)


def test_a_reference_of_this_format_comes_as_texts(tmp_path: Path) -> None:
    """Typed columns are spelled as a delimited file would have them."""
    frame = pl.DataFrame({"code": [1, 2], "since": [NOON, None], "limit": [Decimal("1.50"), None], "on": [True, False]})
    assert read_reference(written(tmp_path, frame)).rows() == [
        (1, "1", "2026-01-31T12:00:00Z", "1.50", "true"),
        (2, "2", None, None, "false"),
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_a_column_called_with_a_nul_is_refused(tmp_path: Path, form: str) -> None:
    """Names that we use for columns of our own cannot come from a file."""
    with pytest.raises(ConfigError, match=rf"in\.{form}: columns: column 2 is called \\0keep, with a NUL character"):
        Source(written(tmp_path, pl.DataFrame({"a": [1], "\0keep": [2]}), form))


def test_one_text_in_all_rows_is_a_bomb(tmp_path: Path) -> None:
    """A small file whose rows share one large text is refused before it fills the memory."""
    path = tmp_path / "in.parquet"
    pl.DataFrame({"a": pl.repeat("x" * (1 << 20), 150, eager=True)}).write_parquet(path)
    with pytest.raises(SourceHalt, match=r"in\.parquet: its first \d+ rows hold \d+ bytes, more than 200 for each"):
        list(Source(path).batches())
    with closing(Source(path, max_ratio=10**9).batches()) as batches:
        frames = [batch.frame for batch, _ in zip(batches, range(6), strict=False)]
    assert max(len(frame) for frame in frames) <= 16


@pytest.mark.parametrize("form", FORMATS)
def test_a_text_over_the_limit_is_rejected_with_its_beginning(tmp_path: Path, form: str) -> None:
    """A text longer than any record of a text format is a rejection; its neighbours are rows."""
    texts = ["a", "é" * (RECORD_LIMIT // 2), "é" * (RECORD_LIMIT // 2) + "b", None]
    rows, rejected = read(Source(written(tmp_path, pl.DataFrame({"t": texts}), form)))
    assert [(row, text) for row, text in rows] == [(1, "a"), (2, texts[1]), (4, None)]
    assert [(each.row, each.column, each.problem) for each in rejected] == [
        (3, "t", "a text of more than 1048576 bytes: such are not read")
    ]
    assert rejected[0].value == "é" * 200 + "…"


def test_the_least_integer_is_inferred_as_a_decimal(tmp_path: Path) -> None:
    """An inferred contract accepts every record, also the integer that has no absolute value in 64 bits."""
    path = written(tmp_path, pl.DataFrame({"i": [-(2**63), 1, None]}))
    result = run_pipeline(PipelineConfig(input_path=path, output_path=tmp_path / "out.csv", on_invalid="quarantine"))
    assert (result.success, result.output_records, result.rejected_records) == (True, 3, 0)
    assert (tmp_path / "out.csv").read_text() == "i\n-9223372036854775808\n1\n\n"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_float_that_is_not_finite_is_told_when_the_contract_is_inferred(tmp_path: Path, value: float) -> None:
    """No contract accepts NaN or an infinite number: without one the run ends before anything is written."""
    path = written(tmp_path, pl.DataFrame({"f": [1.0, None, value]}))
    with pytest.raises(ConfigError, match="column f: holds NaN or an infinite number"):
        run_pipeline(PipelineConfig(input_path=path, output_path=tmp_path / "out.csv", on_invalid="drop"))
    assert not (tmp_path / "out.csv").exists()
