"""Sort, deduplicate, join and aggregate: what comes out, whatever the size of frames and memory."""

from __future__ import annotations

import random
import tempfile
from decimal import Decimal, localcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocking_rig import (
    PLENTY,
    VALUES,
    Row,
    frame_of,
    in_frames,
    naive_aggregate,
    naive_deduplicate,
    naive_join,
    naive_sort,
    no_fault,
    planned,
    run,
    schema_of,
    tables,
)
from tidewaiter.core.errors import ConfigError, SourceHalt
from tidewaiter.core.pipelines.aggregates import aggregate_schema, join_schema
from tidewaiter.core.pipelines.steps import Aggregate, Deduplicate, Filter, Join, Sort, Step
from tidewaiter.edges.tables import joining, partitions, sorting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.edges.tables.spill import SpillDirectory

EVERY = schema_of(
    text="string", number="integer", amount="decimal(2)", ratio="float", flag="boolean", day="date", at="timestamp"
)
LISTED = schema_of(code="string", part="integer", risk="string", weight="decimal(2)")

# Frames of one row to all rows, memory for nothing to everything: with 1 byte, each frame is spilled.
frame_sizes = st.sampled_from([1, 2, 3, 7, 100])
memories = st.sampled_from([1, 300, 1500, PLENTY])
names = st.lists(st.sampled_from(list(EVERY)), min_size=1, max_size=3, unique=True)
quick = settings(max_examples=50, deadline=None)


def ran(*arguments: Any, **more: Any) -> tuple[list[Row], list[Any], int]:
    """Run a step with a place of its own for what it spills, which must be empty afterwards."""
    with tempfile.TemporaryDirectory() as place:
        found = run(arguments[0], arguments[1], Path(place), *arguments[2:], **more)
        assert list(Path(place).iterdir()) == []
    return found


# -- sort --------------------------------------------------------------------------------------------------------------


@quick
@given(
    rows=tables(EVERY),
    by=names.flatmap(lambda chosen: st.tuples(*(st.tuples(st.just(name), st.booleans()) for name in chosen))),
    size=frame_sizes,
    memory=memories,
)
def test_a_sort_is_the_plain_one(rows: list[Row], by: tuple[tuple[str, bool], ...], size: int, memory: int) -> None:
    """Every type, direction, null and tie is ordered as a stable sort in plain Python orders them."""
    found, _, _ = ran(planned(Sort("s", by), EVERY), in_frames(rows, EVERY, size), memory)
    assert found == naive_sort(rows, EVERY, by)


@pytest.mark.parametrize("first", list(EVERY))
@pytest.mark.parametrize("descending", [False, True])
def test_runs_are_merged_by_every_type_in_both_directions(first: str, descending: bool) -> None:
    """Runs of several slices each, full of ties and nulls, are merged as if they had been one table."""
    chosen = random.Random(f"{first} {descending}")
    rows: list[Row] = [tuple(chosen.choice(VALUES[str(column)]) for column in EVERY.values()) for _ in range(80)]
    for second in ("text", "number", "day"):
        by = ((first, descending), (second, chosen.random() < 0.5))[: 1 if second == first else 2]
        found, _, _ = ran(planned(Sort("s", by), EVERY), in_frames(rows, EVERY, 17), 1)
        assert found == naive_sort(rows, EVERY, by)


def test_a_sort_that_fits_writes_nothing() -> None:
    """Nothing is spilled while the memory is enough, and something is when it is not."""
    schema = schema_of(number="integer")
    rows: list[Row] = [(number,) for number in range(1000, 0, -1)]
    step = planned(Sort("s", (("number", False),)), schema)
    assert ran(step, in_frames(rows, schema, 100))[2] == 0
    assert ran(step, in_frames(rows, schema, 100), 4000)[2] > 0


@pytest.mark.parametrize("memory", [4000, 20_000, PLENTY])
def test_equal_keys_keep_their_order_over_many_runs(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More runs than are merged at once, all keys equal but a few: ties come out as they came in."""
    monkeypatch.setattr(sorting, "FAN_IN", 3)
    schema = schema_of(key="integer", text="string")
    rows: list[Row] = [(7 if number % 50 else number % 3, f"row {number}") for number in range(2000)]
    for by in ((("key", False),), (("key", True),)):
        found, _, _ = ran(planned(Sort("s", by), schema), in_frames(rows, schema, 41), memory)
        assert found == naive_sort(rows, schema, by)


def test_nan_comes_after_every_number_in_memory_and_on_disk() -> None:
    """NaN has one place in the order, the same whether rows were spilled or not."""
    schema = schema_of(ratio="float", number="integer")
    values = [float("nan"), 1.0, None, float("inf"), -0.0, 0.0]
    rows: list[Row] = [(values[place % 6], place) for place in range(60)]
    for descending in (False, True):
        plan = planned(Sort("s", (("ratio", descending),)), schema)
        orders = [[row[0] for row in ran(plan, in_frames(rows, schema, 5), memory)[0]] for memory in (1, 500, PLENTY)]
        assert orders[0] == orders[1] == orders[2]
        assert [number % 6 for number in orders[0][-10:]] == [3] * 10
        assert [number % 6 for number in orders[0][:10]] == ([1] * 10 if descending else [5, 0] * 5)


# -- deduplicate -------------------------------------------------------------------------------------------------------


@quick
@given(rows=tables(EVERY), by=names, keep=st.sampled_from(["first", "last"]), size=frame_sizes, memory=memories)
def test_a_deduplicate_is_the_plain_one(rows: list[Row], by: list[str], keep: str, size: int, memory: int) -> None:
    """Of each key the first or last row stays, null equal to null, in the order in which the rows came."""
    found, _, _ = ran(planned(Deduplicate("d", tuple(by), keep), EVERY), in_frames(rows, EVERY, size), memory)
    assert found == naive_deduplicate(rows, EVERY, by, keep)


@pytest.mark.parametrize("keep", ["first", "last"])
def test_a_deduplicate_goes_by_arrival_not_by_number(keep: str) -> None:
    """After a sort the numbers of records do not ascend: first and last are those of the rows as they come."""
    schema = schema_of(key="string")
    frames = [frame_of([("a",), ("b",), ("a",)], schema, 10), frame_of([("b",), ("c",)], schema)]
    for memory in (1, PLENTY):
        found, _, _ = ran(planned(Deduplicate("d", ("key",), keep), schema), iter(frames), memory)
        assert found == ([(11, "a"), (12, "b"), (2, "c")] if keep == "first" else [(13, "a"), (1, "b"), (2, "c")])


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the levels at which rows were put into parts, as it happens."""
    found: list[int] = []

    class Watched(partitions.Scatter):
        def __init__(self, keys: Sequence[str], spill: SpillDirectory, memory_bytes: int, level: int) -> None:
            found.append(level)
            super().__init__(keys, spill, memory_bytes, level)

    monkeypatch.setattr(partitions, "Scatter", Watched)
    monkeypatch.setattr(joining, "Scatter", Watched)
    return found


def test_many_keys_go_through_parts_of_parts(levels: list[int]) -> None:
    """With more keys than parts hold, parts are parted again, and the order is still that of arrival."""
    schema = schema_of(key="integer")
    rows: list[Row] = [(number * 7919 % 601,) for number in range(1300)]
    for keep in ("first", "last"):
        found, _, _ = ran(planned(Deduplicate("d", ("key",), keep), schema), in_frames(rows, schema, 333), 400)
        assert found == naive_deduplicate(rows, schema, ["key"], keep)
    assert {0, 1} <= set(levels)


# -- join --------------------------------------------------------------------------------------------------------------


@quick
@given(
    rows=tables(EVERY),
    codes=st.lists(
        st.tuples(st.sampled_from(VALUES["string"]), st.sampled_from(VALUES["integer"])), unique=True, max_size=30
    ),
    two=st.booleans(),
    missing=st.sampled_from(["null", "reject", "drop"]),
    size=frame_sizes,
    memory=memories,
)
def test_a_join_is_the_plain_one(
    rows: list[Row], codes: list[tuple[Any, Any]], two: bool, missing: str, size: int, memory: int
) -> None:
    """Each row gets its partner's values or what `missing` says, in its place; null keys have no partner."""
    if not two:
        codes = list({code: (code, part) for code, part in codes}.values())
    listed: list[Row] = [(code, part, f"risk {place}", Decimal(place)) for place, (code, part) in enumerate(codes)]
    on = {"text": "code", "number": "part"} if two else {"text": "code"}
    step = Join("j", "list.csv", on, {"risk": "its_risk", "code": "code", "weight": "weight"}, missing)
    plan = planned(step, EVERY, LISTED)
    found, rejected, _ = ran(plan, in_frames(rows, EVERY, size), memory, in_frames(listed, LISTED, size))
    expected, refused = naive_join(rows, EVERY, listed, LISTED, step)
    assert found == expected
    assert [each.row for each in rejected] == refused


def test_a_large_list_is_parted_and_a_row_keeps_its_place(levels: list[int]) -> None:
    """List and rows beyond memory, a key that most rows have: the same rows as in memory, in the same order."""
    reference = schema_of(code="integer", name="string")
    schema = schema_of(key="integer", text="string")
    listed: list[Row] = [(number * 7, f"name {number}") for number in range(400)]
    rows: list[Row] = [(7 if number % 3 else number, f"row {number}") for number in range(1500)]
    step = Join("j", "list.csv", {"key": "code"}, {"name": "name"})
    for memory in (600, 20_000):
        plan = planned(step, schema, reference)
        found, _, _ = ran(plan, in_frames(rows, schema, 500), memory, in_frames(listed, reference, 200))
        assert found == naive_join(rows, schema, listed, reference, step)[0]
    assert {0, 1} <= set(levels)


@pytest.mark.parametrize("memory", [2000, 8000, PLENTY])
def test_a_key_twice_in_the_list_is_named_with_both_rows(memory: int) -> None:
    """The first row with a key that was there before is named, the same whatever the memory."""
    listed: list[Row] = [(f"c{number}", number, "low", None) for number in range(300)]
    listed += [
        (None, 1, "", None),
        (None, 1, "", None),
        ("c9", 9, "", None),
        ("c5", 5, "high", None),
        ("c9", 9, "", None),
    ]
    plan = planned(Join("j", "lists/risk.csv", {"text": "code", "number": "part"}, {"risk": "risk"}), EVERY, LISTED)
    with pytest.raises(ConfigError) as caught:
        ran(plan, in_frames([], EVERY, 1), memory, in_frames(listed, LISTED, 70))
    assert str(caught.value) == (
        "lists/risk.csv: rows 10 and 303 have the same key: code = c9, part = 9: "
        "a reference list has one row for each key: remove one of them"
    )


@pytest.mark.parametrize("memory", [1, PLENTY])
def test_a_key_four_times_in_the_list_is_named_with_its_first_two_rows(memory: int) -> None:
    """However the rows of the list are handed over."""
    listed: list[Row] = [("a", place, "", None) for place in range(4)]
    plan = planned(Join("j", "list.csv", {"text": "code"}, {"risk": "risk"}), EVERY, LISTED)
    for size in (1, 2, 3, 4):
        with pytest.raises(ConfigError, match="rows 1 and 2 have the same key: code = a"):
            ran(plan, in_frames([], EVERY, 1), memory, in_frames(listed, LISTED, size))


@pytest.mark.parametrize("memory", [1, PLENTY])
@pytest.mark.parametrize("key", [name for name in EVERY if name != "ratio"])
def test_a_join_takes_keys_of_every_type(key: str, memory: int) -> None:
    """Values of each type find their partners, and null finds none."""
    reference = {"key": EVERY[key], "place": LISTED["part"]}
    values = VALUES[str(EVERY[key])]
    listed: list[Row] = [(value, place) for place, value in enumerate(values)]
    schema = {"key": EVERY[key]}
    step = Join("j", "list.csv", {"key": "key"}, {"place": "place"})
    rows: list[Row] = [(value,) for value in values] * 2
    plan = planned(step, schema, reference)
    found, _, _ = ran(plan, in_frames(rows, schema, 3), memory, in_frames(listed, reference, 2))
    assert found == naive_join(rows, schema, listed, reference, step)[0]


def test_a_row_without_partner_is_rejected_with_its_key() -> None:
    """What is rejected names record, column, key, list and step, and keeps the cells; a null key is said to be one."""
    schema = schema_of(id="integer", country="string")
    listed: list[Row] = [("GB", 1, "low", None)]
    plan = planned(Join("risk", "c.csv", {"country": "code"}, {"risk": "risk"}, "reject"), schema, LISTED)
    rows: list[Row] = [(1, "GB"), (2, "XX"), (3, None)]
    found, rejected, _ = ran(plan, in_frames(rows, schema, 2), PLENTY, in_frames(listed, LISTED, 1))
    assert found == [(1, 1, "GB", "low")]
    assert [(each.row, each.column, each.value, each.step) for each in rejected] == [
        (2, "country", "XX", "risk"),
        (3, "country", None, "risk"),
    ]
    assert rejected[0].problem == "c.csv has no row with this code"
    assert rejected[0].record == {"id": "2", "country": "XX"}
    assert rejected[1].problem == "has no key: it is null"


def test_many_rejected_rows_come_in_small_batches() -> None:
    """A join that rejects everything holds some thousands of them at once, and loses none."""
    schema = schema_of(country="string")
    plan = planned(Join("j", "c.csv", {"country": "code"}, {"risk": "risk"}, "reject"), schema, LISTED)
    rows: list[Row] = [(f"c{number}",) for number in range(10_000)]
    found, rejected, _ = ran(plan, in_frames(rows, schema, 10_000), PLENTY, in_frames([("a", 1, "", None)], LISTED, 1))
    assert found == []
    assert [each.row for each in rejected] == list(range(1, 10_001))


# -- aggregate ---------------------------------------------------------------------------------------------------------

MEASURES = {
    "n": "count()",
    "texts": "count(text)",
    "total": "sum(amount)",
    "least": "min(text)",
    "most": "max(text)",
    "low": "min(amount)",
    "early": "min(at)",
    "late": "max(day)",
    "first": "first(number)",
    "last": "last(text)",
    "kinds": "distinct(text)",
    "numbers": "distinct(number)",
    "ratios": "distinct(ratio)",
    "flags": "distinct(flag)",
    "top": "max(ratio)",
    "any": "max(flag)",
}


@quick
@given(
    rows=tables(EVERY),
    by=st.lists(st.sampled_from(list(EVERY)), max_size=3, unique=True),
    measures=st.lists(st.sampled_from(sorted(MEASURES)), min_size=1, max_size=6, unique=True),
    size=frame_sizes,
    memory=memories,
)
def test_an_aggregate_is_the_plain_one(
    rows: list[Row], by: list[str], measures: list[str], size: int, memory: int
) -> None:
    """Every function over every type gives what plain Python gives, group by group in order."""
    step = Aggregate("a", tuple(by), {f"_{name}": MEASURES[name] for name in measures})
    found, _, _ = ran(planned(step, EVERY), in_frames(rows, EVERY, size), memory)
    with localcontext() as context:
        context.prec = 60
        assert found == naive_aggregate(rows, EVERY, step)


@quick
@given(
    values=st.lists(st.sampled_from([0, 1, -1, 2**62, -(2**62), 2**63 - 1, -(2**63), None]), max_size=12),
    size=frame_sizes,
    memory=memories,
)
def test_a_sum_of_integers_is_exact_or_refused(values: list[int | None], size: int, memory: int) -> None:
    """Sums that leave 64 bits on the way and come back are right; one that ends outside is refused, never wrapped."""
    schema = schema_of(v="integer")
    plan = planned(Aggregate("a", (), {"total": "sum(v)"}), schema)
    known = [value for value in values if value is not None]
    frames = in_frames([(value,) for value in values], schema, size)
    if -(2**63) <= sum(known) < 2**63:
        assert ran(plan, frames, memory)[0] == [(1, sum(known) if known else None)]
    else:
        with pytest.raises(SourceHalt, match=r"a: total: sum\(v\) does not fit in 64 bits"):
            ran(plan, frames, memory)


MOST = Decimal("9" * 36 + ".99")
LEAST = Decimal("-" + "9" * 36 + ".99")


@quick
@given(
    values=st.lists(
        st.sampled_from([Decimal("0.01"), Decimal("-0.01"), MOST, LEAST, Decimal("5" * 36 + ".05"), None]), max_size=12
    ),
    size=frame_sizes,
    memory=memories,
)
def test_a_sum_of_decimals_is_exact_to_38_digits_or_refused(
    values: list[Decimal | None], size: int, memory: int
) -> None:
    """Sums of the largest decimals are right to the last digit, or refused where they need a 39th."""
    schema = schema_of(v="decimal(2)")
    plan = planned(Aggregate("a", (), {"total": "sum(v)"}), schema)
    frames = in_frames([(value,) for value in values], schema, size)
    known = [value for value in values if value is not None]
    with localcontext() as context:
        context.prec = 60
        total = sum(known, Decimal(0))
        if abs(total) <= MOST:
            assert ran(plan, frames, memory)[0] == [(1, total if known else None)]
        else:
            with pytest.raises(SourceHalt, match=r"a: total: sum\(v\) does not fit in 38 digits"):
                ran(plan, frames, memory)


def test_a_sum_that_does_not_fit_names_the_first_such_group() -> None:
    """The group named is the first in the order of the output, whatever the memory."""
    schema = schema_of(who="string", day="date", v="integer")
    rows: list[Row] = [(f"w{number:03}", None, 2**63 - 1) for number in range(200, 100, -1)] * 2
    plan = planned(Aggregate("totals", ("who", "day"), {"total": "sum(v)"}), schema)
    for memory in (3000, PLENTY):
        with pytest.raises(SourceHalt) as caught:
            ran(plan, in_frames(rows, schema, 30), memory)
        assert caught.value.message == ("totals: total: sum(v) where who = w101, day = null does not fit in 64 bits")


def test_many_groups_and_many_values_spill_and_agree() -> None:
    """Groups and distinct values beyond memory, one group with most of the values: the same as in memory."""
    schema = schema_of(who="integer", what="string", v="decimal(2)")
    chosen = random.Random(7)
    rows: list[Row] = [
        (chosen.randrange(400) if number % 2 else 1, f"value {chosen.randrange(1500)}", Decimal(number))
        for number in range(4000)
    ]
    step = Aggregate("a", ("who",), {"n": "count()", "kinds": "distinct(what)", "v": "sum(v)", "end": "last(what)"})
    found, _, written = ran(planned(step, schema), in_frames(rows, schema, 700), 16_000)
    assert found == naive_aggregate(rows, schema, step)
    assert written > 0


# -- columns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "columns", "problem"),
    [
        ((), {}, "aggregate: asks for nothing"),
        ((), {"n": "count"}, "aggregate.n: 'count' is no aggregate"),
        ((), {"n": "amount + 1"}, "aggregate.n: 'amount + 1' is no aggregate"),
        ((), {"n": "median(amount)"}, "aggregate.n: there is no aggregate median()"),
        ((), {"n": "sum()"}, "aggregate.n: sum() of what?"),
        ((), {"n": "sum(amout)"}, "aggregate.n: there is no column 'amout' here: did you mean 'amount'?"),
        ((), {"n": "sum(ratio)"}, "aggregate.n: ratio is float and has no sum: cast it to decimal(n) first"),
        ((), {"n": "sum(text)"}, "aggregate.n: text is string and has no sum"),
        (("day",), {"day": "count()"}, "aggregate.day: is a column that the rows are grouped by"),
        ((), {"__row": "count()"}, "aggregate.__row: a column cannot be called '__row'"),
    ],
)
def test_an_aggregate_that_means_nothing_is_refused(by: tuple[str, ...], columns: dict[str, str], problem: str) -> None:
    """Each mistake is named with its key before a row is read."""
    with pytest.raises(ConfigError) as caught:
        aggregate_schema(Aggregate("a", by, columns), EVERY, no_fault)
    assert str(caught.value).startswith(problem)


def test_an_aggregate_gives_columns_their_types() -> None:
    """Counts are integers, all else keeps the type of what it looks at; the groups come first."""
    step = Aggregate("a", ("day", "text"), {"n": "count()", "total": " sum( amount ) ", "end": "max(at)"})
    after = aggregate_schema(step, EVERY, no_fault)
    assert {name: str(column) for name, column in after.items()} == {
        "day": "date", "text": "string", "n": "integer", "total": "decimal(2)", "end": "timestamp",
    }  # fmt: skip
    assert list(after) == ["day", "text", "n", "total", "end"]


@pytest.mark.parametrize(
    ("on", "take", "problem"),
    [
        ({"text": "cod"}, {"risk": "risk"}, "join.on.text: list.csv has no column 'cod': did you mean 'code'?"),
        ({"number": "code"}, {"risk": "risk"}, "join.on.number: number is integer, but code in list.csv is string"),
        ({"ratio": "share"}, {"risk": "risk"}, "join.on.ratio: ratio is float and cannot be a key"),
        ({"text": "code"}, {"rsk": "risk"}, "join.take.rsk: list.csv has no column 'rsk': did you mean 'risk'?"),
        ({"text": "code"}, {"risk": "day"}, "join.take.risk: there is a column 'day' already"),
        ({"text": "code"}, {"risk": "a", "code": "a"}, "join.take.code: there is a column 'a' already"),
    ],
)
def test_a_join_that_means_nothing_is_refused(on: dict[str, str], take: dict[str, str], problem: str) -> None:
    """Each mistake is named with its key before a row is read."""
    with pytest.raises(ConfigError) as caught:
        join_schema(Join("j", "list.csv", on, take), EVERY, LISTED | schema_of(share="float"), no_fault)
    assert str(caught.value).startswith(problem)


def test_no_rows_still_have_columns() -> None:
    """A step without input gives one batch without rows; an aggregate of all rows gives its one row."""
    reference = in_frames([], LISTED, 1)
    steps: list[Step] = [
        Sort("s", (("text", False),)),
        Deduplicate("d", ("text",)),
        Aggregate("a", ("text",), {"n": "count()"}),
    ]
    for step in steps:
        assert ran(planned(step, EVERY), iter([]))[0] == []
        assert ran(planned(step, EVERY), iter([frame_of([], EVERY)] * 2), 1)[0] == []
    join = planned(Join("j", "list.csv", {"text": "code"}, {"risk": "risk"}), EVERY, LISTED)
    assert ran(join, iter([frame_of([], EVERY)]), 1, reference)[0] == []
    alone = Aggregate("a", (), {"n": "count()", "first": "first(text)", "total": "sum(amount)", "k": "distinct(day)"})
    assert ran(planned(alone, EVERY), iter([]), 1)[0] == [(1, 0, None, None, 0)]


def test_a_step_that_goes_row_by_row_is_not_run_here() -> None:
    """Only the four steps are taken."""
    with pytest.raises(TypeError, match="goes row by row"):
        ran(planned(Filter("f", "flag"), EVERY), iter([]))
