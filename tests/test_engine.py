"""The engine: what comes out of a stream depends on its lines alone, and a halt stops exactly where it says."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pure_core import (
    CONTRACT,
    HALT,
    QUARANTINE,
    RULES,
    RULES_TEXT,
    SEGMENT,
    START,
    Outcome,
    assert_same_outcome,
    evaluate_lines,
    line,
    lines,
    new_engine,
    run_stream,
)
from tidewaiter.core.audit import Counts
from tidewaiter.core.contract import QUOTED_TIME_LENGTH, compile_contract
from tidewaiter.core.decoding import BOM
from tidewaiter.core.engine import Engine, utc_text
from tidewaiter.core.framing import PREVIEW_BYTES, Framer, LongLine
from tidewaiter.core.scenarios import load_ruleset
from tidewaiter.core.screening import Policy

if TYPE_CHECKING:
    from tidewaiter.core.scenarios import Ruleset, RuleState

FAULTS: Final = ("framing", "json", "contract", "duplicate", "order", "operator")
SHORT_LIMIT: Final = 400

junk = st.sampled_from([
    b"", b" \r", b"\x00\x00", b"\xff", b"{}", b"[1]", b"{", b"x" * 500, b"y" * 399, BOM, line(3)[:-1],
    line(3) + line(4), line(3, amount=0.001), line(3, extra=1), line(3, user_id=" "),
    line(3, event_time="2026-03-09T12:00:03"),
])  # fmt: skip


@st.composite
def stream_lines(draw: st.DrawFn) -> list[bytes]:
    """Draw lines that flag often, repeat ids, go back in time, and are broken now and then."""
    items: list[bytes] = []
    at = 0.0
    for number in range(draw(st.integers(0, 18))):
        kind = draw(st.integers(0, 9))
        if kind == 0:
            items.append(draw(junk))
            continue
        if kind == 1:
            items.append(draw(st.sampled_from(items)) if items else b"")
            continue
        at += draw(st.sampled_from([0, 0.5, 1, 2.5, 10, 300, -1, -0.25, 10**7])) if kind == 2 else 0.25 * (kind % 3)
        time = (START + dt.timedelta(seconds=at)).isoformat()
        user = "é" if kind % 2 else "u"
        amount = 600.25 if kind > 7 else 20
        items.append(line(number, user_id=user, event_time=time, ingest_time=time, amount=amount))
        if kind == 5:
            items[-1] += b"\r"
    return items


policies = st.builds(
    Policy,
    invalid=st.sampled_from(["quarantine", "halt"]),
    duplicate=st.sampled_from(["quarantine", "halt"]),
    order=st.sampled_from(["quarantine", "admit", "halt"]),
    duplicate_horizon=st.sampled_from([3_000_001, 86_400_000_000]),
)
cut_places = st.lists(st.integers(1, 4000), max_size=12)
byte_order_mark = st.sampled_from([b"", BOM])


def assert_counts_add_up(counts: Counts) -> None:
    """Read is evaluated and rejected; rejected is the sum of its reasons."""
    assert counts.events_read == counts.evaluated + counts.rejected
    assert counts.rejected == sum(getattr(counts, name) for name in FAULTS)
    assert counts.admitted <= counts.evaluated


class Routed:
    """The shipped rules, with the hits of the second scenario suppressed and those of the third in the shadow.

    Every third event is one at which the first could not be decided.
    """

    only_flags = False
    projections = ("flags", "suppressed", "shadow_flags")

    def __init__(self) -> None:
        self.undecided = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(RULES, name)

    def bind(self, state: RuleState) -> Any:
        """Return the function of the shipped rules, which also looks at each event."""
        evaluate = RULES.bind(state)

        def counting(events: Any, times: Any, *money: Any) -> Any:
            self.undecided += sum(int(event.event_id.strip("e") or 0) % 3 == 0 for event in events)
            return evaluate(events, times, *money)

        return counting

    def take_insufficient(self, _state: RuleState) -> dict[str, int]:
        """Return how often it was, since it was last asked."""
        taken, self.undecided = self.undecided, 0
        return {"threshold": taken} if taken else {}


# -- grouping ----------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(stream_lines(), policies, cut_places, byte_order_mark)
def test_any_grouping_of_the_same_bytes_gives_the_same_records(
    items: list[bytes], policy: Policy, cuts: list[int], mark: bytes
) -> None:
    """All at once, one line at a time, or cut anywhere: the same bytes, the same counts, the same halt."""
    data = mark + lines(*items)
    whole = run_stream(new_engine(policy), data, limit=SHORT_LIMIT)
    assert_same_outcome(run_stream(new_engine(policy), data, cuts, limit=SHORT_LIMIT), whole)
    newlines = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    assert_same_outcome(run_stream(new_engine(policy), data, newlines, limit=SHORT_LIMIT), whole)
    assert_counts_add_up(whole.counts)


@settings(max_examples=75)
@given(stream_lines(), policies, cut_places)
def test_each_hit_goes_to_the_projection_of_its_outcome(items: list[bytes], policy: Policy, cuts: list[int]) -> None:
    """The same records in the same order as if all were flags, each under its projection and counted there."""
    data = lines(*items)
    plain = run_stream(new_engine(policy), data, limit=SHORT_LIMIT)
    engines = [new_engine(policy, rules=cast("Ruleset", Routed())) for _ in range(2)]
    whole, cut = (run_stream(each, data, at, limit=SHORT_LIMIT) for each, at in zip(engines, ((), cuts), strict=True))
    assert_same_outcome(cut, whole)
    assert cut.insufficient == whole.insufficient
    assert [record for _, record in whole.records] == [record for _, record in plain.records]
    goes_to = {"threshold": "flags", "velocity": "suppressed", "repetition": "shadow_flags", None: "rejections"}
    for projection, record in whole.records:
        assert projection == goes_to[json.loads(record).get("rule_name")]
    number = Counter(projection for projection, _ in whole.records)
    counts = whole.counts
    assert (counts.flags, counts.suppressed, counts.shadow_flags) == (
        number["flags"], number["suppressed"], number["shadow_flags"],
    )  # fmt: skip
    assert_counts_add_up(counts)


def test_what_could_not_be_decided_is_counted_up_to_a_halt() -> None:
    """The count is of the events that were evaluated, and is handed on once."""
    engine = new_engine(HALT, rules=cast("Ruleset", Routed()))
    outcome = evaluate_lines(engine, line(0), line(1), line(3), b"{}", line(6))
    assert outcome.halt is not None
    assert outcome.insufficient == {"threshold": 2}
    assert evaluate_lines(engine, line(7)).insufficient == {}


@settings(max_examples=75)
@given(stream_lines(), policies, cut_places)
def test_every_line_is_accounted_for_once_and_in_order(items: list[bytes], policy: Policy, cuts: list[int]) -> None:
    """Evaluated and rejected lines are all lines; records stand in stream order with hash, length and place."""
    data = lines(*items)
    outcome = run_stream(new_engine(policy), data, cuts, limit=SHORT_LIMIT)
    assert outcome.size == (len(data) if outcome.halt is None else outcome.halt.offset)
    assert outcome.counts.events_read == data.count(b"\n", 0, outcome.size)
    assert outcome.counts.flags == len(outcome.flags)
    assert outcome.counts.rejected == len(outcome.rejections)
    offsets = [json.loads(record)["offset"] for _, record in outcome.records]
    assert offsets == sorted(offsets)
    starts = {0} | {at + 1 for at, byte in enumerate(data) if byte == ord("\n")}
    assert set(offsets) <= starts
    for rejection in outcome.rejections:
        raw = data[rejection["offset"] :].split(b"\n", 1)[0]
        assert rejection["length"] == len(raw)
        assert rejection["sha256"] == hashlib.sha256(raw).hexdigest()
        assert rejection["kind"] in FAULTS
        assert rejection["reason"]
    for _, record in outcome.records:
        assert "\n" not in record


@settings(max_examples=50)
@given(stream_lines(), st.integers(0, 10**12))
def test_positions_count_from_the_beginning_of_the_whole_stream(items: list[bytes], start: int) -> None:
    """In a later segment only the offsets of the records differ, by the segment's own start."""
    data = lines(*items)
    first = run_stream(new_engine(), data, limit=SHORT_LIMIT)
    later = run_stream(new_engine(), data, start=start, limit=SHORT_LIMIT)
    for before, after in zip(first.flags + first.rejections, later.flags + later.rejections, strict=True):
        assert after == before | {"offset": before["offset"] + start}


def test_flags_and_rejections_of_neighbouring_lines_interleave_in_stream_order() -> None:
    """A rejection between two flagged lines stands between their flags."""
    outcome = evaluate_lines(
        new_engine(), line(0, amount=600), b"torn", line(1, amount=700), line(1, amount=700), line(2, amount=800)
    )
    assert [projection for projection, _ in outcome.records] == ["flags", "rejections", "flags", "rejections", "flags"]
    assert [flag["metric_value"] for flag in outcome.flags] == [600, 700, 800]


# -- halts -------------------------------------------------------------------------------------------------------------


@settings(max_examples=75)
@given(stream_lines(), cut_places)
def test_leaving_out_each_halting_line_gives_what_quarantine_gives(items: list[bytes], cuts: list[int]) -> None:
    """Halt, leave the line out, go on with the same state: the flags of quarantine, and halts where it rejected."""
    data = lines(*items)
    expected = run_stream(new_engine(QUARANTINE), data, limit=SHORT_LIMIT)
    engine = new_engine(HALT)
    flags: list[dict[str, Any]] = []
    halts: list[dict[str, Any]] = []
    at = 0
    while True:
        part = run_stream(engine, data[at:], cuts, offset=at, limit=SHORT_LIMIT)
        flags += part.flags
        assert part.rejections == []
        at += part.size
        if part.halt is None:
            break
        halt = part.halt
        assert halt.offset == halt.local_offset == at
        halts.append({"offset": at, "length": halt.length, "sha256": halt.sha256, "kind": halt.kind})
        at += halt.length + 1
    assert at == len(data)
    assert flags == expected.flags
    assert halts == [{key: item[key] for key in ("offset", "length", "sha256", "kind")} for item in expected.rejections]


@pytest.mark.parametrize(
    ("item", "kind", "reason"),
    [
        (b"", "framing", "blank line"),
        (b"torn", "json", "not valid JSON"),
        (line(1, amount=0.001), "contract", "more than 2 decimals: amount"),
        (line(0), "duplicate", "id already seen within the duplicate horizon: event_id"),
        (line(-1), "order", "earlier than an event before it: event_time"),
    ],
)
def test_a_halt_names_the_line_and_commits_everything_before_it(item: bytes, kind: str, reason: str) -> None:
    """Offset, length and hash of exactly the offending line; the flag right before it is there, nothing behind it."""
    before, after = lines(line(0, amount=600)), lines(line(5, amount=700))
    outcome = run_stream(new_engine(HALT), before + item + b"\n" + after, start=1000)
    assert outcome.size == len(before)
    assert len(outcome.flags) == 1
    assert outcome.counts == Counts(events_read=1, evaluated=1, flags=1)
    halt = outcome.halt
    assert halt is not None
    assert (halt.kind, halt.reason, halt.segment) == (kind, reason, SEGMENT)
    assert (halt.offset, halt.local_offset, halt.length) == (1000 + len(before), len(before), len(item))
    assert halt.sha256 == hashlib.sha256(item).hexdigest()


def test_a_halt_on_the_first_line_accounts_for_nothing() -> None:
    """No byte, no count, no record; the state is as before."""
    engine = new_engine(HALT)
    outcome = run_stream(engine, b"torn\n" + lines(line(0)))
    assert (outcome.size, outcome.records, outcome.counts) == (0, [], Counts())
    assert outcome.last_event_time is None
    assert len(engine.screening.seen) == 0


def test_a_halt_on_a_line_over_the_limit_accounts_for_nothing_of_it() -> None:
    """Also without its content, such a line is named by length and hash."""
    data = lines(line(0), b"x" * 2000, line(1))
    outcome = run_stream(new_engine(HALT), data, list(range(0, len(data), 100)), limit=SHORT_LIMIT)
    assert outcome.size == len(line(0)) + 1
    assert outcome.halt is not None
    assert (outcome.halt.kind, outcome.halt.reason) == ("framing", "line over the limit")
    assert (outcome.halt.length, outcome.halt.sha256) == (2000, hashlib.sha256(b"x" * 2000).hexdigest())


def test_the_rest_of_a_closed_segment_is_rejected_under_any_policy() -> None:
    """Nobody can complete it any more, so there is nothing to wait for."""
    framer = Framer(0, 100)
    framer.feed(b'{"event_id": "e')
    piece = framer.finish()
    assert isinstance(piece, LongLine)
    evaluation = new_engine(HALT).reject_tail(piece, 500)
    assert evaluation.halt is None
    assert evaluation.counts == Counts(events_read=1, rejected=1, framing=1)
    rejection = json.loads(evaluation.records[0][1])
    assert (rejection["offset"], rejection["length"], rejection["preview"]) == (500, 15, '{"event_id": "e')


# -- what a record says ------------------------------------------------------------------------------------------------


def test_a_rejection_says_where_why_and_which() -> None:
    """Position, length, hash, kind, reason, field, and the id where there was one to read."""
    duplicate = line(0, amount=1)
    outcome = evaluate_lines(new_engine(), line(0), duplicate, line(2, channel="fax"))
    at = len(line(0)) + 1
    assert outcome.rejections == [
        {
            "offset": at,
            "length": len(duplicate),
            "sha256": hashlib.sha256(duplicate).hexdigest(),
            "kind": "duplicate",
            "reason": "id already seen within the duplicate horizon",
            "field": "event_id",
            "event_id": "e0",
            "preview": duplicate[:PREVIEW_BYTES].decode(),
        },
        {
            "offset": at + len(duplicate) + 1,
            "length": len(line(2, channel="fax")),
            "sha256": hashlib.sha256(line(2, channel="fax")).hexdigest(),
            "kind": "contract",
            "reason": "not one of the allowed values",
            "field": "channel",
            "event_id": None,
            "preview": line(2, channel="fax")[:PREVIEW_BYTES].decode(),
        },
    ]


@given(
    st.binary(max_size=100).filter(lambda raw: b"\n" not in raw),
    st.binary(max_size=100).filter(lambda raw: b"\n" not in raw),
)
def test_a_preview_is_printable_and_tells_different_lines_apart(one: bytes, other: bytes) -> None:
    """The first bytes as ASCII, everything unprintable escaped, and no two texts with the same preview."""
    rejections = evaluate_lines(new_engine(), b"#" + one, b"#" + other).rejections
    previews = [item["preview"] for item in rejections]
    assert all(preview.isascii() and preview.isprintable() for preview in previews)
    same = (b"#" + one)[:PREVIEW_BYTES] == (b"#" + other)[:PREVIEW_BYTES]
    assert (previews[0] == previews[1]) == same
    assert previews[0].encode().decode("unicode_escape").encode("latin-1") == (b"#" + one)[:PREVIEW_BYTES]


def test_flags_quote_the_times_as_they_stood_in_the_stream() -> None:
    """Offsets, decimals, letters as they were written, also behind a byte order mark and before a carriage return."""
    odd = line(0, amount=600, event_time="2026-03-09 14:00:00.50+02:00", ingest_time="2026-03-09t12:00:01z")
    (flag,) = evaluate_lines(new_engine(), BOM + odd + b"\r").flags
    assert flag["event_time"] == "2026-03-09 14:00:00.50+02:00"
    assert flag["ingest_time"] == "2026-03-09t12:00:01z"
    assert flag["offset"] == 0


@pytest.mark.parametrize("escaped", [True, False])
def test_flags_quote_any_text_that_a_line_can_hold(escaped: bool) -> None:
    """Quotes, backslashes, control characters and any Unicode, as escapes or as they are, beside plain lines."""
    texts = ['"', "\\", '","x":"', "\u2028\x7f", "\U0001f30a", "{x}%s", *(["\n\x00"] if escaped else [])]
    events = [{"event_id": f"{number}{text}", "user_id": f"u{text}"} for number, text in enumerate(texts)]
    for place in (0, 4):  # what a part needs is not seen by its first line
        events.insert(place, {"event_id": f"plain{place}", "user_id": "plain"})
    items = [
        json.dumps(json.loads(line(number, amount=600, **event)), ensure_ascii=escaped).encode()
        for number, event in enumerate(events)
    ]
    flags = evaluate_lines(new_engine(), *items).flags
    assert [(flag["flag_id"], flag["event_id"], flag["user_id"]) for flag in flags] == [
        (f"{event['event_id']}:threshold", event["event_id"], event["user_id"]) for event in events
    ]
    engine = new_engine()
    singly = [evaluate_lines(engine, item) for item in items]
    assert [flag | {"offset": 0} for each in singly for flag in each.flags] == [flag | {"offset": 0} for flag in flags]


@pytest.mark.parametrize(("digits", "kept"), [(30, True), (60, False), (60_000, False)])
def test_a_time_with_thousands_of_decimals_cannot_make_a_flag_grow(digits: int, kept: bool) -> None:
    """Beyond 64 characters the time is quoted as it was read, in UTC with microseconds."""
    text = "2026-03-09T14:00:00." + "1" * digits + "+02:00"
    late = "9999-12-31T23:59:59." + "1" * digits + "-23:00"
    outcome = evaluate_lines(new_engine(), line(0, amount=600, event_time=text, ingest_time=late))
    (flag,) = outcome.flags
    assert flag["event_time"] == (text if kept else "2026-03-09T12:00:00.111111Z")
    assert flag["ingest_time"] == (late if kept else "9999-12-31T23:59:59.111111-23:00")
    assert len(text) <= QUOTED_TIME_LENGTH or not kept
    assert len(outcome.records[0][1]) < 1000


def test_a_flag_of_a_rejected_neighbour_is_never_attributed_to_the_wrong_line() -> None:
    """Line numbers stay right when faults stand before, between and behind flagged lines."""
    items = [b"", line(0, amount=501), b"", b"", line(1, amount=502), line(1), line(2, amount=503), b""]
    data = lines(*items)
    flags = run_stream(new_engine(), data).flags
    assert [flag["offset"] for flag in flags] == [len(lines(*items[:at])) for at in (1, 4, 6)]
    assert [flag["event_id"] for flag in flags] == ["e0", "e1", "e2"]


# -- counts and times --------------------------------------------------------------------------------------------------


def test_each_kind_of_fault_is_counted_as_its_own() -> None:
    """One line of each kind, one late event that is admitted, and one that is too late for that."""
    policy = Policy("quarantine", "quarantine", "admit", duplicate_horizon=10_000_000)
    data = lines(line(20), b"", b"x" * 500, b"torn", line(21, amount=-1), line(20), line(15), line(1))
    counts = run_stream(new_engine(policy), data, limit=SHORT_LIMIT).counts
    assert counts == Counts(
        events_read=8, evaluated=2, rejected=6, framing=2, json=1, contract=1, duplicate=1, order=1, admitted=1
    )
    assert_counts_add_up(counts)


def test_the_last_event_time_is_the_effective_time_in_utc() -> None:
    """The same text in every zone, never earlier than before, and nothing before the first event."""
    engine = new_engine()
    assert evaluate_lines(engine, b"torn").last_event_time is None
    ahead = line(0, event_time="2026-03-09T14:30:00+02:30", ingest_time="2026-03-09T14:30:00+02:30")
    assert evaluate_lines(engine, ahead).last_event_time == "2026-03-09T12:00:00.000000Z"
    assert evaluate_lines(engine, line(-5)).last_event_time == "2026-03-09T12:00:00.000000Z"
    assert utc_text(dt.datetime(1000, 1, 1, tzinfo=dt.UTC)) == "1000-01-01T00:00:00.000000Z"


# -- new decisions -----------------------------------------------------------------------------------------------------


def run_then(engine: Engine, first: int, last: int, step: int = 1, **fields: Any) -> Outcome:
    """Evaluate the events `first` to `last`."""
    return evaluate_lines(engine, *(line(number, user_id="u", **fields) for number in range(first, last, step)))


def test_a_successor_under_the_same_decisions_goes_on_as_if_nothing_happened() -> None:
    """Ids, effective time and rule state go over; no metric starts empty."""
    whole, engine = new_engine(), new_engine()
    expected = run_then(whole, 0, 20)
    got = run_then(engine, 0, 9)
    successor, started_empty = engine.successor(CONTRACT, RULES, QUARANTINE)
    assert evaluate_lines(successor, line(7, event_id="late")).counts.order == 1
    rest = run_then(successor, 9, 20)
    assert started_empty == []
    assert [json.loads(flag)["metric_value"] for _, flag in got.records + rest.records] == [
        flag["metric_value"] for flag in expected.flags
    ]
    assert evaluate_lines(successor, line(3)).counts.duplicate == 1


def test_a_successor_with_another_horizon_still_knows_the_ids() -> None:
    """A longer or shorter horizon takes force without forgetting what is within both."""
    for horizon in (60_000_000, 10**12):
        engine = new_engine()
        run_then(engine, 0, 5)
        successor, _ = engine.successor(CONTRACT, RULES, Policy("quarantine", "quarantine", "quarantine", horizon))
        assert evaluate_lines(successor, line(4)).counts.duplicate == 1


def test_a_changed_metric_starts_empty_and_says_so() -> None:
    """Another window is another metric; its neighbours keep their state."""
    changed = load_ruleset(RULES_TEXT.replace(b'window = "10s"', b'window = "20s"'), "changed.toml", CONTRACT)
    engine = new_engine()
    run_then(engine, 0, 5)
    _, started_empty = engine.successor(CONTRACT, changed, QUARANTINE)
    assert started_empty
    assert any("deposits" in name for name in started_empty)


# -- a ruleset of somebody else ----------------------------------------------------------------------------------------


NESTED_CONTRACT: Final = """\
contract = "nested"
version = 1
id = "event_id"
time = "event_time"
subject = "payer"

[field]
event_id = { type = "string", min_length = 1, max_length = 64 }
event_time = { type = "timestamp" }
payer = { type = "string", min_length = 1, max_length = 64, from = "src.name" }
payee = { type = "string", max_length = 64, from = "dst.account.name", required = false }
amount = { type = "money", from = "src.money.amount" }
fee = { type = "money", from = "dst.fee", required = false }
"""
NESTED_RULES: Final = """\
ruleset = "nested"
version = 1
contract = "nested/1"

[metric]
pairs = { fn = "count", by = ["payer", "payee"], window = "1h", where = "amount >= 5" }
payees = { fn = "distinct(payee)", by = "payer", window = "1h" }

[scenario.pair]
typology = "t"
version = 1
severity = "low"
when = "pairs >= 2 and payees >= 2"
measure = "amount"
threshold = "5.00"
reason = "{payer} to {payee} for {fee}"

[scenario.dear]
typology = "t"
version = 1
severity = "low"
subject = "payee"
when = "fee > 1"
measure = "fee"
threshold = "1.00"
"""


def test_values_inside_objects_reach_rules_and_flags() -> None:
    """As subject, key, condition, measure and text; absent ones are unknown, and counted as such."""
    contract = compile_contract(NESTED_CONTRACT.encode(), "nested.toml")
    engine = Engine(contract, load_ruleset(NESTED_RULES.encode(), "rules.toml", contract), QUARANTINE)

    def event(number: int, *, dst: Any = None, amount: float = 7.5) -> bytes:
        time = (START + dt.timedelta(seconds=number)).isoformat()
        source = {"name": "A", "money": {"amount": amount}}
        return json.dumps({"event_id": f"e{number}", "event_time": time, "src": source, "dst": dst}).encode()

    outcome = evaluate_lines(
        engine,
        event(0, dst={"account": {"name": "B"}}),
        event(1, dst={"account": {"name": "C"}, "fee": 1.25}),
        event(2, dst={"account": {"name": "C"}, "fee": 0.25}),
        event(3),
        event(4, dst={"account": {"name": 5}}),
        event(5, dst={"fee": 2}),
        event(6, amount=7.001),
    )
    flags = [[flag[key] for key in ("rule_name", "user_id", "event_id", "metric_value")] for flag in outcome.flags]
    assert flags == [["dear", "C", "e1", 1.25], ["pair", "A", "e2", 7.5]]
    assert outcome.flags[1]["reason"] == "A to C for 0.25"
    told = [(each["field"], each["reason"]) for each in outcome.rejections]
    assert [field for field, _ in told] == ["dst.account.name", "src.money.amount"]
    # `fee` absent at 0 and 3, its flag's subject at 5; the pair's key at 3 and 5
    assert outcome.insufficient == {"dear": 3, "pair": 2}


class EveryEvent:
    """The least a ruleset can be: it counts events in its state and flags each of them twice."""

    money_columns = ("amount",)
    only_flags = True
    projections = ("flags", "flags")

    def new_state(self) -> list[int]:
        return [0]

    def bind(self, state: list[int]) -> Any:
        def evaluate(events: Any, times: Any, amounts: Any) -> list[Any]:
            hits = []
            for at, amount in enumerate(amounts):
                state[0] += 1
                hits += [(at, 0, amount, state[0]), (at, 1, amount, state[0])]
            return hits

        return evaluate

    def take_insufficient(self, state: list[int]) -> dict[str, int]:
        return {}

    def renderers(self, *, escaping: bool) -> Any:
        def render(hit: Any, event: Any, text: Any, offset: int) -> str:
            return f"{hit[1]} {hit[2]} {hit[3]} {offset} {text.event_time}"

        return [render, render]


@given(st.lists(st.booleans(), max_size=12), cut_places)
def test_the_engine_needs_no_more_of_a_ruleset_than_its_interface(good: list[bool], cuts: list[int]) -> None:
    """Events, minor units and offsets reach any ruleset the same way, and its state is its own."""
    items = [line(number, amount=number + 0.25) if ok else b"torn" for number, ok in enumerate(good)]
    ruleset: Any = EveryEvent()
    outcome = run_stream(Engine(CONTRACT, ruleset, QUARANTINE), lines(*items), cuts)
    flags = [record.split() for projection, record in outcome.records if projection == "flags"]
    numbers = [number for number, ok in enumerate(good) if ok]
    assert [flag[0] for flag in flags] == ["0", "1"] * len(numbers)
    assert [int(flag[1]) for flag in flags[::2]] == [100 * number + 25 for number in numbers]
    assert [int(flag[2]) for flag in flags[::2]] == list(range(1, len(numbers) + 1))
    assert [int(flag[3]) for flag in flags[::2]] == [len(lines(*items[:number])) for number in numbers]
