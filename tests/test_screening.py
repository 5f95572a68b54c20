"""Screening: exact money, blank ids, the future, duplicates and order, the same however the stream is cut.

`oracle` says the rules again in plain whole numbers, one event after the other; it shares no code with the product.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pure_core import CONTRACT_TEXT, START
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.decoding import LineFault
from tidewaiter.core.screening import EARLIEST, EPOCH, LATEST, MICROSECOND, Admitted, Policy, Screening, SeenIds

CONTRACT: Final = compile_contract(
    CONTRACT_TEXT.replace(
        b"[field]", b'[field]\nfee = { type = "money", scale = 3, required = false, at_least = "-9.000" }', 1
    ),
    "fees.toml",
)
COLUMNS: Final = ("fee", "amount")
ZONES: Final = (dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30)), dt.timezone(dt.timedelta(hours=-11)))
TORN: Final = LineFault("json", "not valid JSON")
SECOND: Final = 1_000_000
DAY: Final = 86_400 * SECOND
YEAR: Final = 366 * DAY


def event(micros: int, event_id: str = "e", *, lead: int = 0, zone: int = 0, **fields: Any) -> Any:
    """Return an event at `micros` after START, ingested `lead` microseconds later."""
    time = (START + micros * MICROSECOND).astimezone(ZONES[zone])
    values: dict[str, Any] = {
        "event_id": event_id, "user_id": "u", "event_time": time, "ingest_time": time + lead * MICROSECOND,
        "event_type": "deposit_completed", "amount": 1.5, "fee": 0.125, "currency": "GBP", "channel": "web",
    }  # fmt: skip
    return CONTRACT.event_type(**(values | fields))


def screening(policy: Policy) -> Screening:
    """Return an empty screening that hands on two money columns."""
    return Screening(CONTRACT, policy, COLUMNS)


def quarantine(**settings_: Any) -> Policy:
    """Return a policy that never halts, with the given other settings."""
    return Policy(**({"invalid": "quarantine", "duplicate": "quarantine", "order": "quarantine"} | settings_))


@dataclass(frozen=True)
class Verdict:
    """What became of a stream: evaluated events as (line, id, effective time, minor units), faults as (line, kind,
    field), how many were admitted late, and the line of a halt.
    """  # noqa: D205 - one paragraph

    evaluated: tuple[tuple[int, str, int, int | None, int | None], ...]
    faults: tuple[tuple[int, str, str], ...]
    late: int
    halt: int | None
    effective: int | None


def verdict_of(screened: Screening, entries: list[Any], cuts: list[int]) -> Verdict:
    """Screen `entries` in batches and say what became of them."""
    evaluated: list[Any] = []
    faults: list[Any] = []
    late, halt, at = 0, None, 0
    for end in [*sorted({cut for cut in cuts if 0 < cut < len(entries)}), len(entries)]:
        admitted: Admitted = screened.screen(entries[at:end])
        numbers = admitted.lines if admitted.lines is not None else range(len(admitted.events))
        for line, item, time, fee, amount in zip(
            numbers, admitted.events, admitted.times, *admitted.money, strict=True
        ):
            evaluated.append((at + line, item.event_id, (time - EPOCH) // MICROSECOND, fee, amount))
        faults += [(at + line, fault.kind, fault.field) for line, fault in admitted.faults]
        late += admitted.admitted_late
        if admitted.halt is not None:
            halt = at + admitted.halt
            break
        at = end
    effective = None if screened.effective is None else (screened.effective - EPOCH) // MICROSECOND
    return Verdict(tuple(evaluated), tuple(faults), late, halt, effective)


def minor(value: float | None, scale: int) -> int | None:
    """Return the exact minor units of a JSON number, or raise: the shortest decimal text of a double is what it is."""
    if value is None:
        return None
    units = Decimal(repr(value)).scaleb(scale)
    if units != int(units):
        raise ValueError
    return int(units)


def judge(item: Any, policy: Policy, effective: int | None, registered: dict[str, int]) -> tuple[Any, ...]:
    """Say what must become of an event: (kind, field) of its fault, or (effective time, minor units of the columns)."""
    if isinstance(item, LineFault):
        return item.kind, item.field
    for name in ("event_id", "user_id"):
        if not getattr(item, name).strip():
            return "contract", name
    units = []
    for name, scale in (("fee", 3), ("amount", 2)):
        try:
            units.append(minor(getattr(item, name), scale))
        except ValueError:
            return "contract", name
    time = (item.event_time - EPOCH) // MICROSECOND
    reference = time if effective is None else effective
    ingested = (item.ingest_time - EPOCH) // MICROSECOND
    in_range = 1000 <= item.event_time.astimezone(dt.UTC).year <= 8999
    if not in_range or time > ingested + policy.allowed_skew or time > reference + policy.max_forward_jump:
        return "contract", "event_time"
    now = max(time, reference)
    width = max(-(-policy.duplicate_horizon // 2), 1)
    if item.event_id in registered and now // width - registered[item.event_id] // width <= 2:
        return "duplicate", "event_id"
    if time < reference and (policy.order != "admit" or reference - time > policy.duplicate_horizon):
        return "order", "event_time"
    return now, *units


def oracle(entries: list[Any], policy: Policy) -> Verdict:
    """Say what must become of the stream."""
    registered: dict[str, int] = {}
    effective: int | None = None
    evaluated: list[Any] = []
    faults: list[Any] = []
    late, halt = 0, None
    for line, item in enumerate(entries):
        found = judge(item, policy, effective, registered)
        if isinstance(found[0], str):
            faults.append((line, *found))
            if {"duplicate": policy.duplicate, "order": policy.order}.get(found[0], policy.invalid) == "halt":
                halt = line
                break
            continue
        late += effective is not None and (item.event_time - EPOCH) // MICROSECOND < effective
        effective = found[0]
        registered[item.event_id] = found[0]
        evaluated.append((line, item.event_id, *found))
    return Verdict(tuple(evaluated), tuple(faults), late, halt, effective)


policies = st.builds(
    Policy,
    invalid=st.sampled_from(["quarantine", "quarantine", "halt"]),
    duplicate=st.sampled_from(["quarantine", "quarantine", "halt"]),
    order=st.sampled_from(["quarantine", "admit", "admit", "halt"]),
    duplicate_horizon=st.sampled_from([1, 2, 7, 10, 61]),
    allowed_skew=st.sampled_from([0, 3]),
    max_forward_jump=st.sampled_from([15, 200, 7_300 * YEAR]),
)


@dataclass(frozen=True)
class Oddity:
    """How one event of a stream differs from an ordinary one: another step in time, lead, an id of `again` events
    before, or other values.
    """  # noqa: D205 - one paragraph

    step: int = 1
    lead: int = 0
    again: int = 0
    fields: tuple[tuple[str, Any], ...] = ()


ODDITIES: Final = {
    "late": (Oddity(step=-1), Oddity(step=-4), Oddity(step=-10), Oddity(step=-11), Oddity(step=-61)),
    "ahead": (Oddity(step=15), Oddity(step=16), Oddity(step=200), Oddity(step=201), Oddity(step=30)),
    "skewed": (Oddity(lead=-3), Oddity(lead=-4), Oddity(lead=9)),
    "again": (Oddity(again=1), Oddity(again=2, step=0), Oddity(again=7, step=-3), Oddity(again=9, step=6)),
    "blank": (Oddity(fields=(("event_id", " \u2003\t"),)), Oddity(fields=(("user_id", "  "),))),
    "inexact": tuple(Oddity(fields=(("amount", value),)) for value in (1.005, 0.001, 4.35, 1e6, 0.07)),
    "fees": tuple(Oddity(fields=(("fee", value),)) for value in (None, -0.125, -0.0, -8.999, 0.0625, 7.0)),
    "endless": (Oddity(step=7_000 * YEAR), Oddity(step=7_900 * YEAR), Oddity(step=-1_100 * YEAR)),
}


def written(oddities: list[Oddity | None], begin: int = 0) -> list[Any]:
    """Return the stream of these events, one after the other; None is a line that is no event."""
    entries: list[Any] = []
    time = begin
    for number, odd in enumerate(oddities):
        if odd is None:
            entries.append(TORN)
            continue
        time += odd.step
        event_id = f"e{number - odd.again}"
        try:
            entries.append(event(time, lead=odd.lead, zone=number % 3, **({"event_id": event_id} | dict(odd.fields))))
        except OverflowError:
            entries.append(TORN)
    return entries


@st.composite
def streams(draw: st.DrawFn) -> list[Any]:
    """Draw a stream that is ordinary but for events of one or two odd kinds, so that whole batches are clean too."""
    kinds = draw(st.lists(st.sampled_from(sorted(ODDITIES)), max_size=2))
    ordinary = [Oddity(), Oddity(), Oddity(step=0), Oddity(step=2)]
    odd: list[Oddity | None] = [oddity for kind in kinds for oddity in ODDITIES[kind]]
    some = st.sampled_from(ordinary) if not odd else st.one_of(*3 * [st.sampled_from(ordinary)], st.sampled_from(odd))
    torn = draw(st.booleans())
    drawn: list[Oddity | None] = draw(st.lists(st.one_of(some, some, st.none()) if torn else some, max_size=25))
    return written(drawn, draw(st.one_of(st.integers(0, 200), st.just(-1_050 * YEAR))))


# -- the same however it is cut ----------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(streams(), policies, st.lists(st.integers(1, 24), max_size=8))
@example([event(0, "a"), event(1, "b"), event(2, "c")], quarantine(duplicate_horizon=7), [])
def test_any_batches_give_what_the_rules_say(entries: list[Any], policy: Policy, cuts: list[int]) -> None:
    """For any stream, policy and batching, screening agrees with the rules said one event at a time."""
    assert verdict_of(screening(policy), entries, cuts) == oracle(entries, policy)


@pytest.mark.parametrize("kind", sorted(ODDITIES))
@pytest.mark.parametrize("place", [10, 14, 19])
@pytest.mark.parametrize("order", ["quarantine", "admit"])
def test_one_odd_event_in_a_clean_batch_is_judged_like_one_alone(kind: str, place: int, order: str) -> None:
    """First, inside or last of a batch that could otherwise be admitted as a whole: the rules are not overlooked."""
    jump = 7_300 * YEAR if kind == "endless" else 15
    policy = quarantine(order=order, duplicate_horizon=61, allowed_skew=3, max_forward_jump=jump)
    for odd in ODDITIES[kind]:
        entries = written([odd if number == place else Oddity() for number in range(30)])
        assert verdict_of(screening(policy), entries, [10, 20]) == oracle(entries, policy)


@settings(max_examples=100)
@given(streams(), policies, st.lists(st.integers(1, 24), max_size=8))
def test_any_batches_leave_the_same_state(entries: list[Any], policy: Policy, cuts: list[int]) -> None:
    """Bulk and one by one leave the same effective time and the same ids in the same periods, up to a halt too."""
    batched, single = screening(policy), screening(policy)
    verdict = verdict_of(batched, entries, cuts)
    assert verdict_of(single, entries, list(range(len(entries)))) == verdict
    assert batched.effective == single.effective
    period, sets = batched.seen.freeze()
    other_period, other_sets = single.seen.freeze()
    assert period == other_period
    flat = [[event_id for chunk in chunks for event_id in chunk] for chunks in sets]
    assert flat == [[event_id for chunk in chunks for event_id in chunk] for chunks in other_sets]


@settings(max_examples=50)
@given(streams(), policies)
def test_the_effective_time_never_goes_back(entries: list[Any], policy: Policy) -> None:
    """Neither inside a batch nor between two, whatever the events' own times are."""
    times = [item[2] for item in verdict_of(screening(policy), entries, list(range(0, 24, 3))).evaluated]
    assert times == sorted(times)


@settings(max_examples=50)
@given(streams(), policies)
def test_only_evaluated_events_register_ids(entries: list[Any], policy: Policy) -> None:
    """Every id that is kept was evaluated; a rejected event leaves no trace, so its repetition is judged afresh."""
    screened = screening(policy)
    verdict = verdict_of(screened, entries, [])
    assert set(screened.seen) <= {event_id for _, event_id, *_ in verdict.evaluated}


def test_an_ordinary_batch_takes_the_bulk_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events in order with fresh ids and exact amounts are admitted without a look at each one."""
    screened = screening(Policy())
    monkeypatch.setattr(screened, "_one_by_one", None)
    first = [event(at, f"a{at}", fee=None if at % 7 else 0.125, lead=at % 3) for at in range(100)]
    second = [event(100 + at // 2, f"b{at}", fee=-0.0, zone=at % 3) for at in range(100)]
    for batch in (first, second):
        admitted = screened.screen(batch)
        assert admitted.lines is None
        assert len(admitted.events) == 100


# -- duplicates --------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 25), st.integers(0, 6)), min_size=1, max_size=40),
    st.integers(-100, 10**6),
)
def test_an_id_is_found_within_the_horizon_and_forgotten_within_one_and_a_half(
    horizon: int, steps: list[tuple[int, int]], begin: int
) -> None:
    """At any age up to the horizon an id is found; at any age of 1.5 horizons and a period's rounding it is not."""
    seen = SeenIds(horizon)
    registered: dict[str, int] = {}
    now = begin
    for step, number in steps:
        now += step
        period = seen.period_of(EPOCH + now * MICROSECOND)
        for event_id, at in registered.items():
            found = seen.contains(event_id, period)
            if now - at <= horizon:
                assert found
            if now - at >= 3 * seen.width:
                assert not found
        assert 3 * seen.width <= 1.5 * horizon + 3
        if not seen.contains(f"id{number}", period):
            seen.add(f"id{number}", period)
            registered[f"id{number}"] = now


@pytest.mark.parametrize("horizon", [1, 2, 3, 10, 11, SECOND, DAY, DAY + 1])
def test_a_duplicate_exactly_one_horizon_later_is_found(horizon: int) -> None:
    """The horizon is inclusive, wherever in its period the first event stood."""
    for begin in {0, 1, horizon // 2 - 1, horizon // 2, horizon - 1} - {-1}:
        screened = screening(quarantine(duplicate_horizon=horizon, max_forward_jump=10 * DAY))
        verdict = verdict_of(screened, [event(begin, "a"), event(begin + horizon, "a")], [1])
        assert verdict.faults == ((1, "duplicate", "event_id"),)


def test_looking_at_a_later_time_forgets_nothing() -> None:
    """A rejected event from the next period does not make the ids of this one forgotten."""
    screened = screening(quarantine(duplicate_horizon=10, max_forward_jump=50))
    entries = [event(0, "a"), event(49, "b", amount=1.005), event(40, " "), event(51, "c"), event(1, "a")]
    assert [fault[:2] for fault in verdict_of(screened, entries, []).faults] == [
        (1, "contract"), (2, "contract"), (3, "contract"), (4, "duplicate"),
    ]  # fmt: skip


def test_forgetting_is_spread_over_many_calls() -> None:
    """A large period that leaves the horizon is released in slices and never counts meanwhile."""
    seen = SeenIds(10)
    for begin in range(0, 50_000, 1_000):
        assert seen.add_new([str(number) for number in range(begin, begin + 1_000)], 0)
    seen.add("x", 3)
    assert len(seen) == 1
    assert not seen.contains("7", 3)
    waiting = []
    for _ in range(4):
        waiting.append(sum(len(old) for old, _ in seen._forgotten))
        seen.forget_some()
    assert waiting[0] == 50_000
    assert all(0 <= before - after <= 20_000 for before, after in pairwise(waiting))
    for _ in range(4):
        seen.forget_some()
    assert not seen._forgotten


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=4), st.integers(0, 1)), max_size=12),
    st.integers(1, 3),
)
def test_expecting_new_ids_changes_no_answer(batches: list[tuple[list[int], int]], chunk: int) -> None:
    """Whether all ids were expected to be new or not: the same are found, and the same is kept."""
    wary, trusting = SeenIds(10), SeenIds(10)
    period = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tidewaiter.core.screening._SMALL_CHUNK", chunk)
        for numbers, step in batches:
            period += step
            ids = [f"id{number}" for number in numbers]
            added = trusting.add_new(ids.copy(), period, expected=True)
            assert wary.add_new(ids, period) == added
            assert trusting.freeze() == wary.freeze()
            assert sorted(trusting) == sorted(wary)


def test_a_retired_horizon_still_tells_every_id() -> None:
    """What look-ups need is given back at the end; the last snapshot holds all ids all the same."""
    seen = SeenIds(10)
    assert seen.add_new([str(number) for number in range(1_000)], 0)
    seen.add("x", 1)
    before = seen.freeze()
    seen.retire()
    assert len(seen) == 0
    assert seen.freeze() == before


def test_another_horizon_keeps_every_id() -> None:
    """What was kept under the old horizon counts as seen now, be the new one longer or shorter."""
    for horizon in (4, 10, 1000):
        old = SeenIds(10)
        for number in range(12):
            old.add(f"id{number}", old.period_of(EPOCH + 3 * number * MICROSECOND))
        kept = set(old)
        new = old.rehorizon(horizon)
        assert set(new) == kept
        now = new.period_of(EPOCH + 33 * MICROSECOND)
        assert all(new.contains(event_id, now) for event_id in kept)
    assert len(SeenIds(10).rehorizon(20)) == 0


# -- order -------------------------------------------------------------------------------------------------------------


def test_admit_reaches_exactly_as_far_back_as_the_horizon() -> None:
    """Later than the duplicate horizon an event cannot be admitted: its duplicate might be forgotten already."""
    policy = quarantine(order="admit", duplicate_horizon=10)
    entries = [event(100, "a"), event(90, "b"), event(89, "c"), event(100, "d"), event(90, "b")]
    verdict = verdict_of(screening(policy), entries, [])
    assert [(line, event_id) for line, event_id, *_ in verdict.evaluated] == [(0, "a"), (1, "b"), (3, "d")]
    assert verdict.faults == ((2, "order", "event_time"), (4, "duplicate", "event_id"))
    assert verdict.late == 1
    assert len({time for _, _, time, *_ in verdict.evaluated}) == 1


def test_the_order_of_checks_is_contract_duplicate_order() -> None:
    """An event with all three faults is a contract fault, one with the last two a duplicate."""
    entries = [event(100, "a"), event(50, "a", amount=1.005), event(50, "a"), event(50, "b")]
    verdict = verdict_of(screening(quarantine()), entries, [])
    assert [kind for _, kind, _ in verdict.faults] == ["contract", "duplicate", "order"]


@pytest.mark.parametrize("kind", ["invalid", "duplicate", "order"])
def test_each_policy_halts_on_its_own_kind_only(kind: str) -> None:
    """`halt` for one kind of fault lets the other kinds be quarantined."""
    entries = [event(100, "a"), event(101, "b", amount=1.005), event(102, "a"), event(50, "c"), event(103, "d")]
    where = {"invalid": 1, "duplicate": 2, "order": 3}[kind]
    verdict = verdict_of(screening(quarantine(**{kind: "halt"})), entries, [])
    assert verdict.halt == where
    assert [line for line, *_ in verdict.faults] == list(range(1, where + 1))


# -- time --------------------------------------------------------------------------------------------------------------


def test_an_event_from_the_future_cannot_make_later_events_late() -> None:
    """One bad clock: beyond the skew, or beyond the forward jump, is a contract fault and does not move the time."""
    entries = [
        event(0, "a"),
        event(5 * SECOND, "b", lead=-5 * SECOND),
        event(11 * SECOND, "c", lead=-5 * SECOND - 1),
        event(5 * SECOND + 30 * DAY, "d"),
        event(5 * SECOND + 60 * DAY + 1, "e"),
        event(5 * SECOND + 30 * DAY, "f"),
    ]
    verdict = verdict_of(screening(quarantine()), entries, [])
    assert [line for line, *_ in verdict.evaluated] == [0, 1, 3, 5]
    assert verdict.faults == ((2, "contract", "event_time"), (4, "contract", "event_time"))


@pytest.mark.parametrize("alone", [True, False])
def test_times_at_the_ends_of_the_calendar_are_faults_and_no_crash(alone: bool) -> None:
    """Years that no sum with an offset could stand, in every zone, alone and between others."""
    odd: list[Any] = []
    for time in (dt.datetime.min, dt.datetime.max, dt.datetime(999, 12, 31, 23, 59, 59), dt.datetime(9000, 1, 1)):  # noqa: DTZ001, DTZ901 - zones follow
        for hours in (0, 14, -12):
            zone = dt.timezone(dt.timedelta(hours=hours))
            odd.append(
                event(
                    0,
                    f"e{len(odd)}",
                    event_time=time.replace(tzinfo=zone),
                    ingest_time=dt.datetime.max.replace(tzinfo=zone),
                )
            )
    entries = odd if alone else [event(0, "a"), *odd, event(1, "b")]
    screened = screening(quarantine(max_forward_jump=10**18))
    verdict = verdict_of(screened, entries, [])
    for line, event_id, *_ in verdict.evaluated:
        assert EARLIEST <= entries[line].event_time < LATEST, event_id
    assert verdict_of(screening(quarantine(max_forward_jump=10**18)), entries, list(range(len(entries)))) == verdict
    assert all(kind in {"contract", "order"} for _, kind, _ in verdict.faults)
    assert screened.effective is None or EARLIEST <= screened.effective < LATEST


def test_the_first_event_sets_the_time_wherever_it_stands() -> None:
    """Without an effective time there is nothing to jump from; historic streams begin in their own past."""
    verdict = verdict_of(screening(quarantine()), [event(-33 * 365 * DAY, "a"), event(-33 * 365 * DAY + 1, "b")], [])
    assert len(verdict.evaluated) == 2


# -- texts and money ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [" ", "\t\n", "\u00a0", "\u2003\u3000", "\x1c\x85"])
def test_ids_of_white_space_are_refused(text: str) -> None:
    """An id or subject of nothing but white space names nobody."""
    for number, item in enumerate((event(0, text), event(0, "e", user_id=text))):
        (fault,) = screening(quarantine()).screen([item]).faults
        assert fault == (0, LineFault("contract", "only white space", ("event_id", "user_id")[number]))


@pytest.mark.parametrize("text", ["\u200b", "\x00", ".", " x", "\ufeff"])
def test_ids_with_anything_else_are_taken_as_they_are(text: str) -> None:
    """What is not white space is nobody's business to normalise."""
    assert len(screening(quarantine()).screen([event(0, text)]).events) == 1


def test_three_decimals_are_a_fault_of_their_field() -> None:
    """Each money field is held to its own number of decimals, also one that the rules do not read."""
    screened = Screening(CONTRACT, quarantine(), ["amount"])
    entries = [event(0, "a", fee=0.125), event(0, "b", fee=0.0625), event(0, "c", amount=0.125), event(0, "d")]
    admitted = screened.screen(entries)
    assert admitted.faults == [
        (1, LineFault("contract", "more than 3 decimals", "fee")),
        (2, LineFault("contract", "more than 2 decimals", "amount")),
    ]
    assert admitted.money == [[150, 150]]


@given(st.lists(st.one_of(st.integers(1, 10**8).map(lambda units: units / 100), st.floats(0.005, 1e6)), min_size=1))
def test_a_column_is_exact_if_each_of_its_amounts_is(values: list[float]) -> None:
    """The bulk conversion of a whole column gives what the amounts give one by one."""
    entries = [event(at, f"e{at}", amount=value, fee=1.0) for at, value in enumerate(values)]
    bulk = verdict_of(screening(quarantine()), entries, [])
    assert bulk == verdict_of(screening(quarantine()), entries, list(range(len(entries))))
    assert bulk == oracle(entries, quarantine())


def test_nothing_to_screen_is_nothing() -> None:
    """An empty batch changes nothing."""
    admitted = screening(Policy()).screen([])
    assert (list(admitted.events), admitted.faults, admitted.halt) == ([], [], None)


@pytest.mark.parametrize("odd", ["none", "repeated_long_after", "repeated_soon", "known"])
def test_a_batch_over_several_periods_is_judged_like_one_event_at_a_time(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where new periods of the horizon begin inside a batch, ids are found as if each event came alone."""
    hours = [0, 1, 5, 13, 14, 26, 39, 40]
    ids = [f"e{number}" for number in range(len(hours))]
    if odd == "repeated_long_after":
        ids[-1] = ids[0]  # counts no more
    elif odd == "repeated_soon":
        ids[4] = ids[2]
    entries = [event(hour * DAY // 24, name) for hour, name in zip(hours, ids, strict=True)]
    earlier = [event(-DAY // 24, "e4" if odd == "known" else "other")]
    policy = quarantine(duplicate_horizon=DAY, max_forward_jump=10 * DAY)
    alone, together = screening(policy), screening(policy)
    singly = [alone.screen([entry]) for entry in (*earlier, *entries)][1:]
    together.screen(earlier)
    if odd == "none":
        monkeypatch.setattr(together, "_one_by_one", None)  # nothing has to be judged singly
    at_once = together.screen(entries)
    assert [at_once.events.count(entry) for entry in entries] == [len(each.events) for each in singly]
    assert (alone.seen.freeze()[0], set(alone.seen)) == (together.seen.freeze()[0], set(together.seen))
