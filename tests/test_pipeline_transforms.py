"""The streaming steps of a pipeline: what becomes of each row, and that frames and threads change nothing."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from support import PATIENCE, cli_environment
from tidewaiter.core.pipelines.batches import Rejected
from tidewaiter.core.pipelines.columns import (
    BOOLEAN,
    DATE,
    FLOAT,
    INTEGER,
    ROW,
    STRING,
    TIMESTAMP,
    ColumnType,
    Schema,
    empty_frame,
    schema_of,
)
from tidewaiter.core.pipelines.expression_types import Ground
from tidewaiter.core.pipelines.planning import PlannedStep, plan
from tidewaiter.core.pipelines.steps import Cast, Derive, Filter, Rename, Select, Sort, Step
from tidewaiter.core.pipelines.transforms import transform

if TYPE_CHECKING:
    from collections.abc import Sequence

TWO = ColumnType("decimal", 2)
SCHEMA: Schema = {"id": STRING, "amount": TWO, "quantity": INTEGER, "country": STRING}
LARGE = 2**63 - 1


def frame_of(schema: Schema, *rows: Sequence[Any]) -> pl.DataFrame:
    """Return rows of `schema`, numbered from 1."""
    dtypes = {name: column.dtype for name, column in schema.items()}
    cells = {name: [row[place] for row in rows] for place, name in enumerate(schema)}
    return pl.DataFrame({ROW: range(1, len(rows) + 1), **cells}, schema={ROW: pl.UInt64(), **dtypes})


FRAME = frame_of(
    SCHEMA,
    ("a", Decimal("1.50"), 2, "gb"),
    ("b", Decimal("0.00"), 3, "fr"),
    ("c", None, 4, "de"),
    ("d", Decimal("2.00"), None, None),
    ("e", Decimal("3.25"), LARGE, "gb"),
)


RECORD: dict[str, str | None] = {"id": "e", "amount": "3.25", "quantity": str(LARGE), "country": "gb"}
"""The last of them, as text."""


def run(step: Step, frame: pl.DataFrame = FRAME) -> tuple[pl.DataFrame, tuple[Rejected, ...]]:
    """Return what `step` makes of `frame`; its columns must be those that were planned."""
    planned = plan([step], schema_of(frame))[0]
    result, rejected = transform(planned, frame)
    assert result.columns[0] == ROW
    assert schema_of(result) == planned.after
    assert list(schema_of(result)) == list(planned.after)
    return result, rejected


# -- each step ---------------------------------------------------------------------------------------------------------


def test_a_filter_keeps_the_rows_for_which_its_condition_is_true() -> None:
    """Not those for which it is false, and not those for which it is unknown."""
    kept, rejected = run(Filter("f", "amount > 1"))
    assert (kept[ROW].to_list(), rejected) == ([1, 4, 5], ())
    kept, rejected = run(Filter("f", "not amount > 1"))
    assert (kept[ROW].to_list(), rejected) == ([2], ())
    assert len(run(Filter("f", "true"))[0]) == 5
    assert len(run(Filter("f", "1 > 2"))[0]) == 0


def test_a_filter_rejects_what_it_cannot_decide() -> None:
    """A product that does not fit is neither true nor false nor unknown."""
    kept, rejected = run(Filter("f", "quantity * 4 > 9"))
    assert kept[ROW].to_list() == [2, 3]
    problem = "the product does not fit: an integer has 64 bits"
    assert rejected == (Rejected(5, None, problem, f"quantity {LARGE}", RECORD, "f"),)


def test_derive_sets_columns_from_the_row_as_it_came() -> None:
    """An existing column keeps its place, a new one goes last, and no expression sees another's result."""
    frame, rejected = run(
        Derive("d", {"country": "upper(country)", "total": "amount * 2", "amount": "amount + 1", "one": "1"})
    )
    assert rejected == ()
    assert frame.drop(ROW).rows() == [
        ("a", Decimal("2.50"), 2, "GB", Decimal("3.00"), 1),
        ("b", Decimal("1.00"), 3, "FR", Decimal("0.00"), 1),
        ("c", None, 4, "DE", None, 1),
        ("d", Decimal("3.00"), None, None, Decimal("4.00"), 1),
        ("e", Decimal("4.25"), LARGE, "GB", Decimal("6.50"), 1),
    ]


def test_derive_rejects_the_rows_whose_value_does_not_fit_and_no_others() -> None:
    """The rejection names row, column, problem and what was computed with; the row's first problem counts."""
    frame, rejected = run(Derive("d", {"more": "quantity + 1", "even_more": "quantity * quantity + length(id)"}))
    assert frame[ROW].to_list() == [1, 2, 3, 4]
    assert frame["more"].to_list() == [3, 4, 5, None]
    problem = "the sum does not fit: an integer has 64 bits"
    assert rejected == (Rejected(5, "more", problem, f"quantity {LARGE}", RECORD, "d"),)
    _, rejected = run(Derive("d", {"x": "quantity * length(id) * quantity"}))
    assert [(each.row, each.column, each.value) for each in rejected] == [(5, "x", f"id e, quantity {LARGE}")]


def test_select_and_rename_change_columns_only() -> None:
    """Every row goes on, with its number; names may change places."""
    frame, _ = run(Select("s", ("country", "id")))
    assert frame.columns == [ROW, "country", "id"]
    frame, _ = run(Rename("r", {"id": "country", "country": "id", "amount": "net"}))
    assert frame.columns == [ROW, "country", "net", "quantity", "id"]
    assert frame["country"].to_list() == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("had", "wanted", "good", "bad"),
    [
        (STRING, INTEGER, {"12": 12, "-3": -3, str(LARGE): LARGE}, ["1.0", " 1", "1e3", "", str(LARGE + 1), "x"]),
        (STRING, TWO, {"1.5": Decimal("1.50"), "-0.25": Decimal("-0.25")}, ["1.255", "1,5", "1e3", "9" * 37]),
        (STRING, DATE, {"2024-02-29": dt.date(2024, 2, 29)}, ["2023-02-29", "29.02.2024", "2024-2-9", "20240229"]),
        (STRING, TIMESTAMP, {"2024-02-29T10:00:00+01:00": dt.datetime(2024, 2, 29, 9, tzinfo=dt.UTC)}, ["2024-02-29"]),
        (STRING, BOOLEAN, {"true": True, "false": False}, ["TRUE", "1", "yes"]),
        (INTEGER, TWO, {5: Decimal("5.00"), LARGE: Decimal(f"{LARGE}.00")}, []),
        (INTEGER, STRING, {-5: "-5"}, []),
        (TWO, INTEGER, {Decimal("5.00"): 5}, [Decimal("5.50"), Decimal(f"{LARGE + 1}.00")]),
        (TWO, ColumnType("decimal", 1), {Decimal("5.50"): Decimal("5.5")}, [Decimal("5.55")]),
        (TWO, ColumnType("decimal", 4), {Decimal("5.55"): Decimal("5.5500")}, [Decimal("9" * 36 + ".99")]),
        (TWO, STRING, {Decimal("5.50"): "5.50"}, []),
        (FLOAT, TWO, {0.1: Decimal("0.10"), -2.5: Decimal("-2.50")}, [0.125, 1e30, float("inf")]),
        (BOOLEAN, STRING, {True: "true"}, []),
        (DATE, STRING, {dt.date(33, 1, 2): "0033-01-02"}, []),
    ],
)
def test_a_cast_loses_nothing(had: ColumnType, wanted: ColumnType, good: dict[Any, Any], bad: list[Any]) -> None:
    """A value that is not the same in the new type rejects its row; null stays null."""
    frame = frame_of({"id": STRING, "x": had}, *(("i", each) for each in [*good, None, *bad]))
    result, rejected = run(Cast("c", {"x": wanted}), frame)
    assert result["x"].to_list() == [*good.values(), None]
    assert [each.row for each in rejected] == list(range(len(good) + 2, len(good) + 2 + len(bad)))
    assert [(each.value, each.column, each.step) for each in rejected] == [(str(each), "x", "c") for each in bad]


def test_a_cast_says_what_it_wanted() -> None:
    """The problem is that of the first column that has one, and the record is told as it came."""
    frame = frame_of({"x": STRING, "y": TWO}, ("1", Decimal("1.00")), ("one", Decimal("1.50")), ("2", Decimal("1.50")))
    _, rejected = run(Cast("c", {"y": INTEGER, "x": INTEGER}), frame)
    assert [(each.row, each.column, each.problem) for each in rejected] == [
        (2, "y", "cannot be held exactly as integer"),
        (3, "y", "cannot be held exactly as integer"),
    ]
    assert rejected[0].record == {"x": "one", "y": "1.50"}
    _, rejected = run(Cast("c", {"x": INTEGER}), frame)
    assert [(each.row, each.value, each.problem) for each in rejected] == [(2, "one", "is not an integer of 64 bits")]


def test_a_step_that_needs_all_rows_is_not_done_here() -> None:
    """Sorting one frame after the other would be wrong."""
    with pytest.raises(TypeError, match="sort is not done frame by frame"):
        run(Sort("s", (("id", False),)))


# -- frames change nothing ---------------------------------------------------------------------------------------------

CHAIN: list[Step] = [
    Derive("hash", {"h": "keyed_hash(id, 'k')", "seven": "7"}),
    Filter("some", "quantity % 3 != 0 or amount > 500"),
    Derive("sums", {"total": "amount * quantity * 90000000000000", "tax": "round(amount * 0.2, 2)"}),
    Cast("typed", {"country": INTEGER}),
    Rename("renamed", {"id": "key"}),
    Select("chosen", ("key", "total", "tax", "country", "h", "seven")),
]


def many(count: int) -> pl.DataFrame:
    """Return rows of all kinds: good ones, filtered ones, and some that a step must reject."""
    rows = []
    for n in range(count):
        amount = None if n % 11 == 0 else Decimal(n % 1000).scaleb(-2) + (Decimal(10) ** 30 if n % 17 == 0 else 0)
        rows.append((f"id{n % 50}", amount, None if n % 7 == 0 else n % 90, "x" if n % 13 == 0 else str(n)))
    return frame_of(SCHEMA, *rows)


def through(steps: Sequence[PlannedStep], frame: pl.DataFrame) -> tuple[pl.DataFrame, list[Rejected]]:
    """Return what comes out of all `steps`, and all that they reject."""
    found: list[Rejected] = []
    for step in steps:
        before = len(frame)
        frame, rejected = transform(step, frame)
        assert isinstance(step.step, Filter) or len(frame) + len(rejected) == before
        found += rejected
    return frame, sorted(found, key=lambda each: each.row)


@pytest.mark.parametrize("size", [1, 7, 64, 999])
def test_the_size_of_frames_changes_nothing(size: int) -> None:
    """The rows and rejections of pieces, put together, are those of the whole."""
    steps = plan(CHAIN, SCHEMA, ground=Ground({"k": b"0" * 16}))
    whole = many(1000 if size > 1 else 200)
    expected, expected_rejected = through(steps, whole)
    assert {each.step for each in expected_rejected} == {"sums", "typed"}
    pieces = [through(steps, piece) for piece in whole.iter_slices(size)]
    assert pl.concat([frame for frame, _ in pieces]).equals(expected)
    assert [each for _, rejected in pieces for each in rejected] == expected_rejected


def test_a_frame_without_rows_keeps_its_columns() -> None:
    """An empty input has an output with a header."""
    steps = plan(CHAIN, SCHEMA, ground=Ground({"k": b"0" * 16}))
    frame, rejected = through(steps, empty_frame(SCHEMA))
    assert (schema_of(frame), frame.height, rejected) == (steps[-1].after, 0, [])


_PROGRAM = """
import hashlib
from test_pipeline_transforms import CHAIN, SCHEMA, many, through
from tidewaiter.core.pipelines.expression_types import Ground
from tidewaiter.core.pipelines.planning import plan
frame, rejected = through(plan(CHAIN, SCHEMA, ground=Ground({"k": b"0" * 16})), many(500))
print(hashlib.sha256(repr((frame.rows(), rejected)).encode()).hexdigest())
"""


def test_threads_hash_seed_locale_and_time_zone_change_nothing() -> None:
    """Another machine gives the same rows and the same rejections."""
    found = set()
    for threads, seed, place, zone in (("1", "1", "C", "UTC"), ("7", "77", "tr_TR.UTF-8", "Asia/Tokyo")):
        more = {"POLARS_MAX_THREADS": threads, "PYTHONHASHSEED": seed, "LC_ALL": place, "TZ": zone}
        environment = cli_environment(more)
        environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
        found.add(subprocess.check_output([sys.executable, "-c", _PROGRAM], env=environment, timeout=PATIENCE))
    assert len(found) == 1


def test_the_usual_steps_cost_little() -> None:
    """A filter, two derivations and a selection over a batch of 280,000 rows; the bound is ten times what they take."""
    count = 280_000
    numbers = pl.select(n=pl.int_range(1, count + 1, dtype=pl.Int64))["n"]
    frame = pl.DataFrame({ROW: numbers.cast(pl.UInt64), "id": numbers.cast(pl.String), "quantity": numbers % 100})
    frame = frame.with_columns(amount=pl.col("quantity").cast(pl.Decimal(38, 2)), country=pl.lit("alpha"))
    chain: list[Step] = [
        Filter("f", "amount > '0.00'"),
        Derive("d", {"total": "amount * quantity", "place": "upper(country)"}),
        Select("s", ("id", "total", "place")),
    ]
    steps = plan(chain, schema_of(frame))
    times = []
    for _ in range(5):
        begun = time.process_time()
        result, rejected = through(steps, frame)
        times.append(time.process_time() - begun)
        assert (len(result), rejected) == (count * 99 // 100, [])
    assert min(times) < 0.5
