"""What metrics remember, kind by kind: every value is the one that a rescan of all history gives.

Whatever happens in between: sweeps at any time, snapshots at any cut, rules loaded anew, batches of any size.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenario_rig import account_contract, lower_limits, rendered
from tidewaiter.core.scenarios import FrozenState, Ruleset, RuleState, load_ruleset, state_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CONTRACT: Final = account_contract(
    "cells",
    1,
    """\
branch = { type = "enum", values = ["n", "s"] }
party = { type = "string", max_length = 64, required = false }
amount = { type = "money", scale = 2 }
points = { type = "integer", required = false }
cash = { type = "boolean" }
""",
)
START: Final = dt.datetime(2026, 3, 9, 23, 59, 30, tzinfo=dt.UTC)
MICROSECOND: Final = dt.timedelta(microseconds=1)


@dataclass(frozen=True)
class Row:
    """One event: seconds since START, and its fields; `amount` in minor units."""

    at: float
    account: str
    branch: str
    party: str | None
    amount: int
    points: int | None
    cash: bool

    @property
    def time(self) -> dt.datetime:
        return START + dt.timedelta(seconds=self.at)


@dataclass(frozen=True)
class Metric:
    """A metric as drawn; times in seconds, 0 for none; `window` None: last=N, since, for ever; -1: the day."""

    fn: str
    field: str | None
    by: tuple[str, ...]
    window: int | None
    offset: int = 0
    last: int = 0
    cap: int = 0
    warmup: int = 0
    where: bool = False

    def written(self) -> str:
        """Return the metric as it stands in a ruleset."""
        parts = [f"fn = '{self.fn}({self.field})'" if self.field else f"fn = '{self.fn}'", f"by = {list(self.by)}"]
        if self.window is not None:
            parts.append("window = 'day'" if self.window < 0 else f"window = '{self.window}s'")
        parts += [f"{key} = '{getattr(self, key)}s'" for key in ("offset", "warmup") if getattr(self, key)]
        parts += [f"{key} = {getattr(self, key)}" for key in ("last", "cap") if getattr(self, key)]
        parts += ["where = 'cash'"] if self.where else []
        return ", ".join(parts)


@st.composite
def metrics(draw: st.DrawFn) -> Metric:
    """Metrics of every kind that the language has."""
    by = draw(st.sampled_from([("account",), ("branch",), ("party",), ("account", "branch"), ("party", "account")]))
    where = draw(st.booleans())
    fn = draw(st.sampled_from(["count", "sum", "min", "max", "distinct", "last", "since_previous", "since_first"]))
    if fn.startswith("since"):
        warmup = draw(st.sampled_from([0, 5])) if fn == "since_first" else 0
        return Metric(fn, None, by, None, warmup=warmup, where=where)
    fields: dict[str, list[Any]] = {
        "count": [None],
        "distinct": ["party", "branch", "points", "amount"],
        "last": ["party", "points", "cash"],
    }
    field = draw(st.sampled_from(fields.get(fn, ["amount", "points"])))
    windows = [5, 10, -1] + ([None] if fn != "count" else [])
    window = draw(st.sampled_from(windows))
    if window is None:
        return Metric(fn, field, by, None, last=draw(st.integers(1, 4)) if fn != "last" else 0, where=where)
    offset = draw(st.sampled_from([0, 0, 3, 10])) if window > 0 else 0
    cap = draw(st.sampled_from([0, 0, 1, 2, 3, 5])) if fn in ("count", "distinct") else 0
    return Metric(fn, field, by, window, offset=offset, cap=cap, where=where)


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Streams with ties, window edges, and around a midnight."""
    steps = st.sampled_from([0, 0, 0.000001, 1, 2.999999, 3, 4, 5, 5.000001, 9.999999, 10, 40])
    parts = draw(
        st.lists(
            st.tuples(
                steps, st.sampled_from("ab"), st.sampled_from("ns"), st.sampled_from(["p", "q", "r", "s", "", None]),
                st.integers(-3, 3), st.sampled_from([None, -1, 0, 1, 2**62]), st.booleans(),
            ),
            max_size=45,
        )
    )  # fmt: skip
    at, rows = 0.0, []
    for step, *values in parts:
        at += step
        rows.append(Row(at, *values))
    return rows


def brute_force(metric: Metric, rows: Sequence[Row], now: int, offset_hours: int) -> Any:
    """Return the metric at the event `now`, worked out from all rows up to it; None where it is unknown."""
    row, times = rows[now], [each.time for each in rows]
    key = [getattr(row, name) for name in metric.by]
    if None in key:
        return None
    mine = [
        place
        for place in range(now + 1)
        if [getattr(rows[place], name) for name in metric.by] == key
        and (rows[place].cash or not metric.where)
        and (metric.field is None or getattr(rows[place], metric.field) is not None)
    ]
    t = times[now]
    if metric.fn == "since_previous":
        before = [place for place in mine if place < now]
        return (t - times[before[-1]]) // MICROSECOND if before else None
    if metric.fn == "since_first":
        if not mine or times[mine[0]] < times[0] + dt.timedelta(seconds=metric.warmup):
            return None
        return (t - times[mine[0]]) // MICROSECOND
    if metric.window is not None and metric.window < 0:
        shift = dt.timedelta(hours=offset_hours)
        mine = [place for place in mine if (times[place] + shift).date() == (t + shift).date()]
    elif metric.window is not None:
        end = t - dt.timedelta(seconds=metric.offset)
        begin = end - dt.timedelta(seconds=metric.window)
        if metric.offset and times[0] > begin:
            return None
        mine = [place for place in mine if begin <= times[place] and (times[place] < end or not metric.offset)]
    if metric.last:
        if len(mine) < metric.last:
            return None
        mine = mine[-metric.last :]
    if metric.fn == "count":
        return min(len(mine), metric.cap or len(mine))
    values = [getattr(rows[place], str(metric.field)) for place in mine]
    if metric.fn == "distinct":
        return min(len(set(values)), metric.cap or len(values))
    aggregates: dict[str, Callable[[list[Any]], Any]] = {"sum": sum, "min": min, "max": max, "last": lambda x: x[-1]}
    return aggregates[metric.fn](values) if values else None


def load(metric: Metric, offset_hours: int = 0) -> Ruleset:
    """Return a ruleset of two scenarios that show the metric: one at every event, one only in the branch n."""
    kind = "since" if metric.fn.startswith("since") else str(metric.field) if metric.fn == "last" else "number"
    zero = {"since": "'1s'", "party": "'p'", "cash": "true"}.get(kind, "0")
    shown = "amount" if metric.cap or kind in ("party", "cash") else "m"
    body = f"typology = 't'\nversion = 1\nseverity = 'low'\nmeasure = '{shown}'\n"
    body += f'threshold = "{zero if kind == "since" else 0}"\n' + ("" if metric.cap else "reason = '{m}'\n")
    text = (
        f"ruleset = 'r'\nversion = 1\ncontract = 'cells/1'\nutc_offset = '{offset_hours:+03d}:00'\n"
        f"[metric]\nm = {{ {metric.written()} }}\n"
        f'[scenario.all]\nwhen = "m == {zero} or true"\n{body}'
        f"[scenario.some]\nwhen = \"branch == 'n' and (m == {zero} or true)\"\n{body}"
    )
    return load_ruleset(text.encode(), "r.toml", CONTRACT)


def columns(ruleset: Ruleset, rows: Sequence[Row]) -> tuple[Any, ...]:
    """Return what the engine hands over."""
    events = [
        CONTRACT.event_type(
            event_id="e", at=row.time, account=row.account, branch=row.branch, party=row.party, amount=0.0,
            points=row.points, cash=row.cash,
        )
        for row in rows
    ]  # fmt: skip
    return events, [row.time for row in rows], *([row.amount for row in rows] for _ in ruleset.money_columns)


@pytest.fixture(params=["as shipped", "tiny limits"], autouse=True)
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it once more with limits so low that small tests turn generations, trim lists and split chunks."""
    if request.param == "tiny limits":
        lower_limits(monkeypatch, chunk_keys=1)


def restored(state: RuleState, ruleset: Ruleset, last: Row) -> RuleState:
    """Return the state as a snapshot gives it back; what happens after the snapshot was taken must not show in it."""
    frozen = state.freeze()
    ruleset.bind(state)(*columns(ruleset, [last, last]))
    return FrozenState.decode(list(frozen.encode_chunks()))


def test_every_metric_has_the_value_of_a_rescan() -> None:
    """At each event, its own or not, with sweeps, snapshots and reloads in between."""
    deeds = st.sampled_from(("none", "none", "none", "sweep", "copy ahead", "copy ahead", "snapshot", "adopt"))

    @settings(max_examples=400, deadline=None)
    @given(metrics(), histories(), st.sampled_from([0, 9, -5]), st.data())
    def check(metric: Metric, rows: list[Row], offset_hours: int, data: st.DataObject) -> None:
        ruleset = load(metric, offset_hours)
        state = ruleset.new_state()
        evaluate = ruleset.bind(state)
        for now, row in enumerate(rows):
            hits = evaluate(*columns(ruleset, [row]))
            expected = brute_force(metric, rows, now, offset_hours)
            # behind metric_value and threshold stands the metric, and once more what the reason tells
            shown = (expected,) if metric.cap else (expected, expected)
            assert [hit[4:] for hit in hits] == [shown] * (2 if row.branch == "n" else 1)
            deed = data.draw(deeds)
            if deed == "sweep":
                budget = data.draw(st.integers(0, 5))
                assert state.sweep(row.time, budget) <= budget
            elif deed == "copy ahead":
                state.copy_ahead(data.draw(st.integers(1, 3)))
            elif deed == "snapshot":
                state = restored(state, ruleset, row)
                evaluate = ruleset.bind(state)
            elif deed == "adopt":
                state, started = load(metric, offset_hours).adopt_state(state)
                assert started == []
                evaluate = ruleset.bind(state)
        whole = ruleset.bind(ruleset.new_state())(*columns(ruleset, rows))
        assert [hit[4] for hit in whole if hit[1] == 0] == [
            brute_force(metric, rows, now, offset_hours) for now in range(len(rows))
        ]

    check()


def load_together(named: Mapping[str, Metric]) -> Ruleset:
    """Return a ruleset in which each metric has a scenario of its name that shows it at every event."""
    text = "ruleset = 'r'\nversion = 1\ncontract = 'cells/1'\n[metric]\n"
    text += "".join(f"{name} = {{ {metric.written()} }}\n" for name, metric in named.items())
    for name, metric in named.items():
        zero = '"1s"' if metric.fn == "since_previous" else 0
        text += f"[scenario.{name}]\ntypology = 't'\nversion = 1\nseverity = 'low'\nwhen = '{name} == {zero} or true'\n"
        text += "measure = 'amount'\nthreshold = '0'\n"
    return load_ruleset(text.encode(), "r.toml", CONTRACT)


def test_metrics_that_share_records_have_the_value_of_a_rescan() -> None:
    """The same, with several metrics in a ruleset, and another ruleset in force now and then that groups them anew."""
    seen = Counter[str]()
    deeds = st.sampled_from(("none", "none", "sweep", "snapshot", "adopt"))
    windowed = {"count": None, "sum": "amount", "distinct": "points", "max": "amount"}
    fns = {**windowed, "last": "points", "since_previous": None}
    some = st.builds(
        lambda fn, window, offset, cap, **more: Metric(
            fn, fns[fn], window=window if fn in windowed else None,
            offset=offset * (fn in {"count", "sum"}), cap=cap * (fn in {"count", "distinct"}), **more,
        ),
        fn=st.sampled_from([*fns, "last"]), window=st.sampled_from([3, 5, 10]), offset=st.sampled_from([0, 0, 3]),
        cap=st.sampled_from([0, 0, 1, 2, 3, 5]), where=st.booleans(),
        by=st.sampled_from([("account",), ("account",), ("party",), ("account", "branch")]),
    )  # fmt: skip

    @settings(max_examples=250, deadline=None)
    @given(st.lists(some, min_size=2, max_size=5), histories(), st.data())
    def check(drawn: list[Metric], rows: list[Row], data: st.DataObject) -> None:
        named = {f"m{number}": metric for number, metric in enumerate(drawn)}
        more = {"widest": Metric("count", None, ("account",), 20), **dict(reversed(named.items()))}
        ruleset, other = load_together(named), load_together(more)
        seen.update(other.plan.cells[cell].kind for each in other.plan.records for cell in each.cells)
        state = ruleset.new_state()
        evaluate = ruleset.bind(state)
        for now, row in enumerate(rows):
            values = {ruleset.outcomes[hit[1]].id: hit[4] for hit in evaluate(*columns(ruleset, [row]))}
            values.pop("widest", None)
            assert values == {name: brute_force(metric, rows, now, 0) for name, metric in named.items()}
            deed = data.draw(deeds)
            if deed == "sweep":
                budget = data.draw(st.integers(0, 5))
                assert state.sweep(row.time, budget) <= budget
            elif deed == "snapshot":
                state = restored(state, ruleset, row)
                evaluate = ruleset.bind(state)
            elif deed == "adopt":
                ruleset, other = other, ruleset
                state, _ = ruleset.adopt_state(state)
                evaluate = ruleset.bind(state)

    check()
    assert min(seen[kind] for kind in ("count", "sum", "distinct", "shifted", "kept", "since")) > 5, seen


def test_a_record_is_kept_no_longer_than_its_longest_metric_keeps_a_key() -> None:
    """A metric joins a record only where one that reaches as far sees all of its events."""
    often = Metric("count", None, ("account",), 5)
    rarely = Metric("sum", "amount", ("account",), 10, where=True)
    assert load_together({"often": often, "rarely": rarely}).plan.records == ()
    assert load_together({"often": often, "rarely": replace(rarely, where=False)}).plan.records != ()
    ruleset = load_together({"far": replace(often, window=10), "rarely": replace(rarely, window=5)})
    state = ruleset.new_state()
    evaluate = ruleset.bind(state)
    for at in (0, 11, 22):
        evaluate(*many(ruleset, 3000, at))
    assert state.keys() == 6000
    for at in (33, 44, 55):
        evaluate(*columns(ruleset, [Row(at, "other", "s", "p", 1, 1, True)]))
    assert state.keys() == 2


IDLE: Final = {
    "count": Metric("count", None, ("account",), 10),
    "sum": Metric("sum", "amount", ("account",), 10),
    "distinct": Metric("distinct", "party", ("account",), 10),
    "latest": Metric("last", "points", ("account",), 10),
    "shifted": Metric("sum", "amount", ("account",), 10, offset=5),
    "run": Metric("min", "amount", ("account",), 10),
    "offset": Metric("max", "amount", ("account",), 10, offset=5),
    "day": Metric("distinct", "points", ("account",), -1),
}
FOR_EVER: Final = {
    "since": Metric("since_previous", None, ("account",), None),
    "kept": Metric("last", "points", ("account",), None),
    "ring": Metric("sum", "amount", ("account",), None, last=3),
}


def many(ruleset: Ruleset, keys: int, at: float) -> tuple[Any, ...]:
    """Return one event for each of many keys."""
    return columns(ruleset, [Row(at, f"k{number}", "s", "p", 1, 1, True) for number in range(keys)])


@pytest.mark.parametrize("kind", IDLE)
@pytest.mark.parametrize("keys", [5, 3000])
def test_idle_keys_are_forgotten(kind: str, keys: int) -> None:
    """Few by a sweep, many with their generation; a sweep looks at no more keys than it may."""
    ruleset = load(IDLE[kind])
    state = ruleset.new_state()
    (spec,) = ruleset.plan.cells
    assert spec.kind == kind
    evaluate = ruleset.bind(state)
    evaluate(*many(ruleset, keys, 0))
    assert state.keys() == state.entries() == keys
    assert state.sweep(START, 10_000) <= 10_000
    assert state.keys() == keys  # within reach
    evaluate(*columns(ruleset, [Row(86_400, "other", "s", "p", 1, 1, True)]))
    for day in range(2, 40):
        state.sweep(START + dt.timedelta(days=day), 1000)
    assert state.keys() == 0


@pytest.mark.parametrize("kind", FOR_EVER)
def test_what_matters_for_ever_is_never_forgotten(kind: str) -> None:
    """No sweep drops a key of a metric without a window."""
    ruleset = load(FOR_EVER[kind])
    state = ruleset.new_state()
    assert ruleset.plan.cells[0].kind == kind
    ruleset.bind(state)(*many(ruleset, 3000, 0))
    for day in range(40):
        state.sweep(START + dt.timedelta(days=300 * day), 10_000)
    assert state.keys() == 3000


def test_of_an_idle_record_only_what_matters_for_ever_is_kept() -> None:
    """The rest of it is forgotten by a sweep, a few keys at a time; the key goes on when it comes again."""
    ever = {"before": Metric("since_previous", None, ("account",), None), "last": FOR_EVER["kept"]}
    ruleset = load_together({**ever, "sum": IDLE["sum"], "count": IDLE["count"]})
    assert len(ruleset.plan.records) == 1
    state = ruleset.new_state()
    evaluate = ruleset.bind(state)
    evaluate(*many(ruleset, 300, 0))
    assert state.keys() == 1200
    for _ in range(4):
        assert state.sweep(START + dt.timedelta(seconds=11), 100) <= 100
    assert state.keys() == 600
    assert restored(state, ruleset, Row(12, "k7", "s", "p", 1, 1, True)).keys() == 600
    hits = evaluate(*columns(ruleset, [Row(20, "k8", "s", "p", 3, 5, True)]))
    assert [hit[4] for hit in hits] == [20_000_000, 5, 3, 1]


@pytest.mark.parametrize("kind", ["count", "sum", "distinct", "latest", "shifted", "run", "offset"])
def test_a_key_in_both_halves_is_written_once_as_it_is_now(kind: str) -> None:
    """What is old is not looked up again when the state is copied, but when it is written; a copy counts it twice."""
    ruleset = load(IDLE[kind])
    state = ruleset.new_state()
    evaluate = ruleset.bind(state)
    evaluate(*many(ruleset, 3000, 0))
    evaluate(*columns(ruleset, [Row(15.5, "other", "s", "p", 1, 1, True)]))  # the others are old now
    evaluate(*many(ruleset, 3, 15.5))
    assert (state.keys(), state.entries()) == (3001, 3004)
    assert not state.copy_ahead(2000)
    evaluate(*columns(ruleset, [Row(15.5, "k7", "s", "p", 1, 1, True)]))  # copied before, and touched again
    assert not state.copy_ahead(1000)
    assert state.copy_ahead(1000)
    frozen = state.freeze()
    expected = evaluate(*many(ruleset, 9, 16))
    chunks = list(frozen.encode_chunks())
    assert b"".join(chunks).count(b"\xa2k0") == 1
    again = FrozenState.decode(chunks)
    assert again.entries() == 3001
    assert ruleset.bind(again)(*many(ruleset, 9, 16)) == expected


@pytest.mark.parametrize("kind", ["count", "sum", "distinct", "latest", "shifted", "run", "offset"])
def test_what_was_copied_ahead_of_a_turn_does_not_count(kind: str) -> None:
    """The old half that was being copied is gone, and what has become old since is in the snapshot."""
    ruleset = load(IDLE[kind])
    state = ruleset.new_state()
    evaluate = ruleset.bind(state)
    for at in (0, 15.5):
        evaluate(*many(ruleset, 3000, at))
    assert not state.copy_ahead(1000)
    evaluate(*many(ruleset, 3000, 25))
    evaluate(*columns(ruleset, [Row(31, "other", "s", "p", 1, 1, True)]))
    frozen = state.freeze()
    expected = evaluate(*many(ruleset, 9, 31.5))
    again = FrozenState.decode(list(frozen.encode_chunks()))
    assert again.keys() == 3001
    assert ruleset.bind(again)(*many(ruleset, 9, 31.5)) == expected


def test_sums_beyond_64_bits_are_exact() -> None:
    """Within a window and a day, and through a snapshot."""
    for metric in (Metric("sum", "points", ("account",), 10), Metric("sum", "points", ("account",), -1)):
        ruleset = load(metric)
        state = ruleset.new_state()
        rows = [Row(0, "a", "s", None, 0, 2**63 - 1, True)] * 5
        hits = ruleset.bind(state)(*columns(ruleset, rows))
        assert [hit[2] for hit in hits] == [number * (2**63 - 1) for number in range(1, 6)]
        hits = ruleset.bind(restored(state, ruleset, rows[0]))(*columns(ruleset, rows[:1]))
        assert hits[0][2] == 6 * (2**63 - 1)
        (item,) = columns(ruleset, rows[:1])[0]
        assert '"metric_value":55340232221128654842,' in rendered(ruleset, hits[0], item, "")


@pytest.mark.parametrize(("kind", "entries"), [("count", 1), ("sum", 2), ("shifted", 2), ("distinct", 1)])
def test_what_has_left_the_window_is_not_kept_for_long(kind: str, entries: int) -> None:
    """At most as much again as the window holds, so that neither memory nor time grows with the stream."""
    ruleset = load(IDLE[kind])
    state = ruleset.new_state()
    evaluate = ruleset.bind(state)
    evaluate(*columns(ruleset, [Row(number / 100, "a", "s", str(number), 1, 1, True) for number in range(6000)]))
    (cell,) = state.cells.values()
    assert isinstance(cell, state_cells.Generations)
    held = cell.find("a")
    reach = (15 if kind == "shifted" else 10) * 100
    assert reach <= len(held[1] if kind == "distinct" else held) / entries <= 2 * reach + 200
