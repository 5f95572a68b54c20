"""The three money-flow rules: their reference output, an independent evaluator, and state that survives everything."""

from __future__ import annotations

import datetime as dt
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenario_rig import lower_limits, rendered
from support import REPOSITORY
from tidewaiter.core.contract import Contract, compile_contract
from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.scenarios import (
    FrozenState,
    Ruleset,
    RuleState,
    load_ruleset,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONTRACT_FILE = REPOSITORY / "config" / "contracts" / "money_flow.toml"
RULES_FILE = REPOSITORY / "config" / "rules" / "money_flow.toml"
NINE = (
    "flag_id", "user_id", "rule_name", "metric_value", "threshold", "window", "event_id", "event_time", "ingest_time",
)  # fmt: skip
START = dt.datetime(2026, 3, 9, 12, 0, tzinfo=dt.UTC)


def load_contract() -> Contract:
    """Return the shipped contract."""
    return compile_contract(CONTRACT_FILE.read_bytes(), "money_flow.toml")


def load_rules(text: str | None = None) -> Ruleset:
    """Return the shipped rules, or those in `text`."""
    return load_ruleset(text.encode() if text else RULES_FILE.read_bytes(), "rules.toml", load_contract())


CONTRACT = load_contract()
RULES = load_rules()


def event(
    number: int, user: str = "u", time: dt.datetime = START, kind: str = "deposit_completed", pence: int = 100
) -> Any:
    """Return one event as the contract decodes it."""
    return CONTRACT.event_type(
        event_id=f"e{number}", user_id=user, event_time=time, ingest_time=time, event_type=kind, amount=pence / 100,
        currency="GBP", channel="web",
    )  # fmt: skip


def columns(events: Sequence[Any]) -> tuple[list[Any], list[dt.datetime], list[int]]:
    """Return what the engine hands to the rules: events, times, amounts in minor units."""
    return list(events), [item.event_time for item in events], [round(item.amount * 100) for item in events]


def test_sample_stream_gives_exactly_the_reference_flags(shared_data: Path) -> None:
    """The 2,353 flags of the sample stream: nine fields, in order."""
    stream = shared_data / "sample_stream.jsonl"
    lines = stream.read_bytes().splitlines()
    events, times, amounts = columns([CONTRACT.decoder.decode(line) for line in lines])
    flags = []
    for hit in RULES.bind(RULES.new_state())(events, times, amounts):
        text = CONTRACT.original_text(lines[hit[0]])
        flags.append(json.loads(rendered(RULES, hit, events[hit[0]], text.event_time, text.ingest_time)))
    expected = [json.loads(line) for line in (shared_data / "sample_stream.flags.jsonl").read_bytes().splitlines()]
    assert len(expected) == 2353
    assert [{key: flag[key] for key in NINE} for flag in flags] == expected


# -- an independent evaluator ------------------------------------------------------------------------------------------


def naive(events: Sequence[Any]) -> list[tuple[int, str, int]]:
    """Say the rules again, rescanning all history for every event."""
    hits: list[tuple[int, str, int]] = []
    flagged: list[int] = []
    armed: dict[str, bool] = {}
    for now, item in enumerate(events):
        mine = [k for k in range(now + 1) if events[k].user_id == item.user_id]
        age = {k: item.event_time - events[k].event_time for k in mine}
        pence = round(item.amount * 100)
        held = False
        if pence > 500_00:
            hits.append((now, "threshold", pence))
            held = True
        if item.event_type == "deposit_completed":
            deposits = sum(
                events[k].event_type == "deposit_completed" and age[k] <= dt.timedelta(seconds=10) for k in mine
            )
            if deposits > 5:
                hits.append((now, "velocity", deposits))
                held = True
        if held:
            flagged.append(now)
            count = sum(k in flagged and age[k] <= dt.timedelta(seconds=300) for k in mine)
            if count > 3 and armed.get(item.user_id, True):
                hits.append((now, "repetition", count))
            armed[item.user_id] = count <= 3
    return hits


STEPS = (
    0,
    0,
    1,
    500_000,
    1_000_000,
    2_000_000,
    9_999_999,
    10_000_000,
    10_000_001,
    60_000_000,
    299_999_999,
    300_000_001,
)
ZONES = (dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30)), dt.timezone(dt.timedelta(hours=-11)))


@st.composite
def streams(draw: st.DrawFn) -> list[Any]:
    """Streams with ties, window edges, hot users and mixed time zones."""
    users = draw(st.integers(1, 6))
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(STEPS),
                st.integers(0, users - 1),
                st.sampled_from(("deposit_completed", "deposit_completed", "withdrawal_requested")),
                st.sampled_from((1_00, 499_99, 500_00, 500_01, 900_00)),
                st.sampled_from(ZONES),
            ),
            max_size=90,
        )
    )
    time, events = START, []
    for number, (step, user, kind, pence, zone) in enumerate(rows):
        time += dt.timedelta(microseconds=step)
        events.append(event(number, f"u{user}", time.astimezone(zone), kind, pence))
    return events


def results(rules: Ruleset, hits: Sequence[tuple[Any, ...]]) -> list[tuple[int, str, int]]:
    """Return hits as (index, rule, value)."""
    return [(hit[0], rules.scenarios[hit[1]].id, hit[2]) for hit in hits]


@pytest.fixture(params=["as shipped", "tiny limits"])
def rules(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ruleset:
    """The rules; once more with limits so low that small tests turn generations and fill deques."""
    if request.param == "tiny limits":
        lower_limits(monkeypatch, chunk_keys=2)
    return load_rules()


def test_compiled_rules_agree_with_the_naive_evaluator(rules: Ruleset) -> None:
    """Flag for flag, on any stream."""

    @settings(max_examples=150, deadline=None)
    @given(streams())
    def check(events: list[Any]) -> None:
        hits = rules.bind(rules.new_state())(*columns(events))
        assert results(rules, hits) == naive(events)

    check()


def test_splits_sweeps_and_snapshots_change_nothing(rules: Ruleset) -> None:
    """Batches of any size, sweeps with any budget and restarts from a snapshot leave every later flag as it was."""
    deeds = st.sampled_from(("none", "none", "batch", "sweep", "snapshot", "adopt"))

    @settings(max_examples=150, deadline=None)
    @given(streams(), st.data())
    def check(events: list[Any], data: st.DataObject) -> None:
        whole = rules.bind(rules.new_state())(*columns(events))
        state = rules.new_state()
        evaluate = rules.bind(state)
        parts: list[tuple[Any, ...]] = []
        begin = 0
        for end in range(1, len(events) + 1):
            deed = data.draw(deeds) if end < len(events) else "batch"
            if deed == "none":
                continue
            parts += [(begin + hit[0], *hit[1:]) for hit in evaluate(*columns(events[begin:end]))]
            begin = end
            if deed == "sweep":
                budget = data.draw(st.integers(0, 20))
                assert state.sweep(events[end - 1].event_time, budget) <= budget
            elif deed == "snapshot":
                frozen = state.freeze()
                evaluate(*columns([event(0, "u0", events[end - 1].event_time)]))  # must not show in the frozen copy
                state = FrozenState.decode(list(frozen.encode_chunks()))
                evaluate = rules.bind(state)
            elif deed == "adopt":
                state, started = load_rules().adopt_state(state)
                assert started == []
                evaluate = rules.bind(state)
        assert parts == whole

    check()


# -- the rules, one promise each ---------------------------------------------------------------------------------------


def transcript(*rows: tuple[float, str, int]) -> list[tuple[int, str, int]]:
    """Run (seconds, kind, pence) of one user; kind is d or w."""
    kinds = {"d": "deposit_completed", "w": "withdrawal_requested"}
    events = [
        event(number, "u", START + dt.timedelta(seconds=at), kinds[kind], pence)
        for number, (at, kind, pence) in enumerate(rows)
    ]
    return results(RULES, RULES.bind(RULES.new_state())(*columns(events)))


def test_threshold_is_exclusive() -> None:
    """500.00 is not above 500.00; 500.01 is, on any type of event."""
    assert transcript((0, "d", 500_00), (1, "w", 500_01)) == [(1, "threshold", 500_01)]


def test_velocity_window_is_closed() -> None:
    """A deposit exactly ten seconds ago counts; one microsecond more and it does not."""
    five = [(0.0, "d", 100), *[(5.0, "d", 100)] * 4]
    assert transcript(*five, (10.0, "d", 100)) == [(5, "velocity", 6)]
    assert transcript(*five, (10.000001, "d", 100)) == []


def test_velocity_counts_deposits_only() -> None:
    """Withdrawals neither count nor are looked at."""
    assert transcript(*[(0, "w", 100)] * 9, *[(1, "d", 100)] * 5, (1, "w", 100)) == []


def test_repetition_fires_once_and_rearms() -> None:
    """Four flagged events within 300 s flag once; after the count was seen at 3 or below it may flag again."""
    rows = [(float(at), "w", 900_00) for at in (0, 1, 2, 3, 4, 302, 303, 304, 305, 306)]
    hits = [hit for hit in transcript(*rows) if hit[1] == "repetition"]
    # at 302 the events of 2, 3, 4 and 302 count: still four; at 304: 4, 302, 303, 304; at 305 again four: no re-arm
    assert hits == [(3, "repetition", 4)]
    later = [(float(at), "w", 900_00) for at in (0, 1, 2, 3, 400, 401, 402, 403)]
    assert [hit for hit in transcript(*later) if hit[1] == "repetition"] == [(3, "repetition", 4), (7, "repetition", 4)]


def test_an_event_hit_twice_counts_once_for_repetition() -> None:
    """Repetition counts flagged events, not flags."""
    rows = [(0.0, "d", 100)] * 5 + [(1.0, "d", 900_00)] * 4
    assert [hit for hit in transcript(*rows) if hit[1] == "repetition"] == [(8, "repetition", 4)]


def test_flags_of_one_event_come_in_file_order() -> None:
    """One event can hit all three; threshold, velocity, repetition."""
    rows = [(0.0, "d", 100)] * 5 + [(1.0, "d", 900_00)] * 4
    assert [name for at, name, _ in transcript(*rows) if at == 8] == ["threshold", "velocity", "repetition"]


def test_times_at_the_ends_of_the_calendar_do_not_fail() -> None:
    """Years 1 and 9999 are ordinary times: nothing overflows."""
    first = dt.datetime.min.replace(tzinfo=dt.UTC)
    last = dt.datetime.max.replace(tzinfo=dt.UTC)
    state = RULES.new_state()
    events = [event(0, time=first), event(1, time=first), event(2, time=last), event(3, time=last)]
    assert RULES.bind(state)(*columns(events)) == []
    state.sweep(last, 100)
    assert FrozenState.decode(state.freeze().encode_chunks()).keys() == 1


# -- the line ----------------------------------------------------------------------------------------------------------


def test_flag_line_has_its_keys_in_order_and_exact_money() -> None:
    """The bytes of a flag, whole."""
    events, times, amounts = columns([event(1, "u1", START, "withdrawal_requested", 779_90)])
    (hit,) = RULES.bind(RULES.new_state())(events, times, amounts)
    digest = RULES.scenarios[0].digest
    assert rendered(RULES, hit, events[0], "2026-03-09T12:00:00Z", "2026-03-09T12:00:01Z", 4711) == (
        '{"flag_id":"e1:threshold","user_id":"u1","rule_name":"threshold","metric_value":779.90,"threshold":500.00,'
        '"window":0,"event_id":"e1","event_time":"2026-03-09T12:00:00Z",'
        '"ingest_time":"2026-03-09T12:00:01Z","scenario_version":1,"severity":"medium",'
        '"typology":"large_transaction","parameters":{"limit":500.00},"metrics":{},"offset":4711,'
        f'"scenario_digest":"{digest}"}}'
    )


@given(st.text(min_size=1), st.text(min_size=1), st.text())
def test_flag_line_is_valid_json_for_any_text(event_id: str, user: str, time: str) -> None:
    """Quotes, control characters, percent signs and any Unicode come back as they were."""
    item = event(0, user, START, "withdrawal_requested", 500_01)
    item.event_id = event_id
    (hit,) = RULES.bind(RULES.new_state())(*columns([item]))
    line = rendered(RULES, hit, item, time, time + "i", 1)
    flag = json.loads(line)
    assert line.endswith("}")
    assert "\n" not in line
    assert (flag["flag_id"], flag["event_id"], flag["user_id"]) == (f"{event_id}:threshold", event_id, user)
    assert (flag["event_time"], flag["ingest_time"]) == (time, time + "i")


# -- identity and state ------------------------------------------------------------------------------------------------


def digests(rules: Ruleset) -> dict[str, str]:
    """Return each scenario's digest."""
    return {scenario.id: scenario.digest for scenario in rules.scenarios}


def changed(old: str, new: str) -> tuple[set[str], list[str]]:
    """Return whose digest changes, and what starts empty, when `old` becomes `new` in the rules."""
    text = RULES_FILE.read_text()
    assert old in text
    other = load_rules(text.replace(old, new))
    before, after = digests(RULES), digests(other)
    return {key for key in before if before[key] != after.get(key)}, other.adopt_state(RULES.new_state())[1]


def test_a_digest_covers_its_own_closure_only() -> None:
    """What cannot change a scenario's flags does not change its digest; what it counts does."""
    assert changed('title = "Amount above the limit"', 'title = "Large"') == (set(), [])
    assert changed('severity = "medium"', 'severity = "low"') == ({"threshold"}, [])
    assert changed('limit = "500.00"', 'limit = "600.00"') == (
        {"threshold", "repetition"},
        ["metric flagged", "scenario repetition"],
    )
    assert changed('"10s"', '"11s"') == (
        {"velocity", "repetition"},
        ["metric deposits", "metric flagged", "scenario repetition"],
    )
    assert changed("{ most = 3 }", "{ most = 4 }") == ({"repetition"}, ["scenario repetition"])


def test_an_unchanged_metric_keeps_its_state_under_a_new_name() -> None:
    """State belongs to what a metric says, not to what it is called."""
    text = RULES_FILE.read_text().replace("deposits", "paid_in")
    state = RULES.new_state()
    RULES.bind(state)(*columns([event(number) for number in range(5)]))
    other = load_rules(text)
    kept, started = other.adopt_state(state)
    assert started == []
    assert [hit[2] for hit in other.bind(kept)(*columns([event(5)]))] == [6]


def test_idle_keys_are_forgotten() -> None:
    """After a sweep long past the windows nothing is held: neither times nor the latch."""
    state = RULES.new_state()
    RULES.bind(state)(*columns([event(number, f"u{number % 9}", pence=900_00) for number in range(90)]))
    assert state.keys() == 27
    for _ in range(10):
        state.sweep(START + dt.timedelta(days=1), 10)
    assert state.keys() == 0


def test_many_idle_keys_go_with_their_generation() -> None:
    """A large population leaves memory without any sweep: what was idle for two windows is dropped as a whole."""
    state = RULES.new_state()
    evaluate = RULES.bind(state)
    for second in range(0, 110, 11):
        time = START + dt.timedelta(seconds=second)
        evaluate(*columns([event(0, f"{second}-{number}", time) for number in range(3000)]))
    assert state.keys() <= 3 * 3000


@pytest.mark.parametrize(
    "chunks",
    [[], [b""], [b"\xc1"], [b"\x92\xa1x\x90"], [b"\x92\xb7tidewaiter.rule-state/2\x90", b"\x93\x05\x90\x90"]],
)
def test_damaged_rule_state_is_refused(chunks: list[bytes]) -> None:
    """What is not rule state is refused with a message, never with a traceback."""
    with pytest.raises(IntegrityRefusal):
        FrozenState.decode(chunks)


def test_every_shortened_chunk_is_refused_or_read() -> None:
    """No prefix of a chunk fails in any other way."""
    state = RULES.new_state()
    RULES.bind(state)(*columns([event(number, pence=900_00) for number in range(9)]))
    chunks = list(state.freeze().encode_chunks())
    for number, chunk in enumerate(chunks):
        for length in range(len(chunk)):
            with pytest.raises(IntegrityRefusal):
                FrozenState.decode([*chunks[:number], chunk[:length], *chunks[number + 1 :]])


def test_a_key_with_two_values_costs_at_most_300_bytes() -> None:
    """Counted with the key and both times; the events themselves are gone."""
    users = 50_000
    state = RULES.new_state()
    evaluate = RULES.bind(state)
    batch: list[Any] = []
    tracemalloc.start()
    try:
        for start in range(0, 2 * users, 1000):
            # new texts and new times, as the decoder makes them
            time = START + dt.timedelta(microseconds=start)
            batch = [
                event(0, f"user_{number % users:06d}", time + dt.timedelta(0)) for number in range(start, start + 1000)
            ]
            evaluate(*columns(batch))
        batch.clear()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert state.keys() == users
    assert held / users <= 300


def test_state_of_another_ruleset_is_not_bound_by_mistake() -> None:
    """State is bound through adopt_state; binding a stranger's is a programming error."""
    with pytest.raises(KeyError):
        RULES.bind(RuleState([]))
