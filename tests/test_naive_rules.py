"""The plain evaluator that the product is compared with, against examples worked out by hand from the reference."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any, Final

import pytest

from naive_kinds import Number
from naive_rules import Given, Outcome, Result, evaluate_stream
from support import REPOSITORY

CONTRACT: Final = (REPOSITORY / "tests" / "contracts" / "differential.toml").read_text(encoding="utf-8")
START: Final = dt.datetime(2026, 3, 9, 22, 59, 55, tzinfo=dt.UTC)
HEAD: Final = 'ruleset = "r"\nversion = 1\ncontract = "differential/1"\nutc_offset = "+01:00"\n'
FILES: Final = {"vip.txt": "# who is known\n\n b \n", "codes.csv": 'n,code\n1,"N"\n2,DE\n'}
Change = dict[str, Any]


def given(*changes: Change) -> list[Given]:
    """Return events of account `a` over 10.00 EUR at second `t`; each change replaces or, None, drops fields."""
    found = []
    for place, change in enumerate(changes):
        time = START + dt.timedelta(seconds=change.pop("t", 0))
        event = {
            "id": f"e{place}", "account": "a", "branch": "x", "country": "NO", "channel": "web", "amount": 10.0,
            "currency": "EUR", "foreign": False, "units": 1,
        } | change  # fmt: skip
        kept = {key: value for key, value in event.items() if value is not None}
        found.append(Given(json.loads(json.dumps(kept), parse_float=Decimal), 100 * place, time))
    return found


def run(rules: str, *changes: Change) -> Result:
    """Evaluate the rules over the events."""
    return evaluate_stream(HEAD + rules, FILES, CONTRACT, given(*changes))


def scenario(identity: str = "s", **settings: str) -> str:
    """Return a scenario that always holds, but for what `settings` (TOML values) say."""
    table = {"typology": '"t"', "version": "1", "severity": '"low"', "when": '"true"', "measure": '"amount"',
             "threshold": '"10"'} | settings  # fmt: skip
    lines = "".join(f"{key} = {value}\n" for key, value in table.items())
    return f"[scenario.{identity}]\n{lines}"


def shown(value: str | None) -> Number | None:
    """Return a number as a flag shows it."""
    return None if value is None else Number(value)


def values(metric: str, *changes: Change) -> list[Any]:
    """Return the value of the metric `m` at each event, as the flag of a scenario that always holds shows it."""
    shown_in = scenario(reason='"{m}"')
    outcomes = run(f"[metric]\nm = {metric}\n{shown_in}", *changes).outcomes
    found = [each[0].metrics["m"] for each in outcomes]
    return [value.text if isinstance(value, Number) else value for value in found]


def ids(result: Result, projection: str = "flags") -> list[str]:
    """Return `event:rule` of the lines of a projection."""
    return [f"{out.event_id}:{out.rule}" for each in result.outcomes for out in each if out.projection == projection]


def at(*seconds: float, **change: Any) -> list[Change]:
    """Return events at these seconds."""
    return [{"t": second, **change} for second in seconds]


EUR: Final = "currency == 'EUR'"


@pytest.mark.parametrize(
    ("metric", "events", "expected"),
    [
        # [t - W, t]: exactly W ago counts; of equal times only what stands before
        ('{ fn = "count", by = "account", window = "2s" }', at(0, 0, 2, 2.5, 5), "1 2 3 2 1"),
        # [t - D - W, t - D): unknown until the stream is old enough, then closed at the old end, open at the new one
        ('{ fn = "count", by = "account", window = "2s", offset = "1s" }', at(0, 1, 2, 3, 3, 4, 5), "- - - 2 2 2 3"),
        ('{ fn = "count", by = "account", window = "2s", cap = 2 }', at(0, 0, 0, 3), "1 2 2 1"),
        ('{ fn = "count", by = "account", window = "2s", default = 7, offset = "1s" }', at(0, 3), "7 1"),
        # local midnight is at second 5
        ('{ fn = "count", by = "account", window = "day" }', at(0, 4.999, 5, 9), "1 2 1 2"),
        (f'{{ fn = "sum(amount)", by = "account", window = "1s", where = "{EUR}" }}',
         [{"amount": 0.1}, {"amount": 0.2}, {"t": 2, "currency": "USD"}, {"t": 2, "amount": -5.0}],
         "0.10 0.30 - -5.00"),
        ('{ fn = "min(risk)", by = "account", window = "9s" }', [{"risk": 3}, {}, {"risk": -1}], "3 3 -1"),
        ('{ fn = "max(risk)", by = "account", last = 2 }', [{"risk": 3}, {}, {"risk": 1}, {"risk": 0}], "- - 3 1"),
        ('{ fn = "distinct(party)", by = "account", window = "2s" }',
         [{}, {"party": "p"}, {"party": "q", "t": 1}, {"party": "p", "t": 3}, {"t": 4}], "0 1 2 2 1"),
        ('{ fn = "distinct(party)", by = "account", last = 2 }',
         [{"party": "p"}, {"party": "p"}, {"party": "q"}], "- 1 2"),
        ('{ fn = "last(party)", by = "account" }', [{}, {"party": "p", "t": 1}, {"t": 10**6}], "- p p"),
        ('{ fn = "last(party)", by = "account", window = "1s" }', [{"party": "p"}, {"t": 1}, {"t": 1.5}], "p p -"),
        ('{ fn = "since_previous", by = "account" }', at(0, 0, 1.5, 90), "- 0 1.5 88.5"),
        ('{ fn = "since_previous", by = "account", where = "risk > 0" }',
         [{"risk": 1}, {"t": 2}, {"t": 3, "risk": 1}, {"t": 5}], "- 2 3 2"),
        ('{ fn = "since_first", by = "account" }', at(0, 1, 90), "0 1 90"),
        # `a` was first seen too early to say how long it has been there
        ('{ fn = "since_first", by = "account", warmup = "2s" }',
         [{}, {"t": 1.5, "account": "b"}, {"t": 2, "account": "c"}, {"t": 9, "account": "c"}, {"t": 9}],
         "- - 0 7 -"),
        # an absent key field: not counted, and no value
        ('{ fn = "count", by = ["account", "party"], window = "9s" }',
         [{"party": "p"}, {}, {"party": "q"}, {"party": "p"}], "1 - 1 2"),
        # a condition that is unknown does not count
        ('{ fn = "count", by = "account", window = "9s", where = "risk > 0" }',
         [{"risk": 1}, {}, {"risk": 0}], "1 1 1"),
        ('{ fn = "count", by = "account", window = "9s", where = "not (risk > 0) or foreign" }',
         [{}, {"foreign": True}, {"risk": 0}], "0 1 2"),
        ('{ fn = "max(trust)", by = "device", window = "9s" }',
         [{"meta": {"trust": 1}}, {"meta": {"device": {"id": "d"}, "trust": 4}}], "- 4"),
    ],
)  # fmt: skip
def test_a_metric_has_the_value_worked_out_by_hand(metric: str, events: list[Change], expected: str) -> None:
    """Windows, offsets, days, last-N, defaults, warm-up and unknown values."""
    assert values(metric, *[dict(event) for event in events]) == [
        None if text == "-" else text for text in expected.split()
    ]


def test_lists_and_derived_fields_decide() -> None:
    """Exact and prefix lists, and a derived field that is unknown where its field is absent."""
    rules = (
        '[field]\nlow = "risk < 2"\n[list.vip]\nfile = "vip.txt"\n[list.codes]\nfile = "codes.csv"\n'
        'match = "prefix"\ncolumn = "code"\n'
        + scenario("one", when='"account in list.vip"')
        + scenario("two", when='"country in list.codes"')
        + scenario("three", when='"low"')
    )
    result = run(rules, {"account": "b"}, {"country": "XX", "risk": 1}, {"country": "DEN"})
    assert ids(result) == ["e0:one", "e0:two", "e1:three", "e2:two"]
    assert result.insufficient == {"three": 2}


def test_an_edge_is_latched_until_the_condition_is_false_and_unknown_leaves_it() -> None:
    """Held, held, unknown, held, false, held: the first and the last."""
    risks = [2, 2, None, 2, 0, 2]
    result = run(scenario(when='"risk > 1"', repeat='"edge"'), *({"risk": risk} for risk in risks))
    assert ids(result) == ["e0:s", "e5:s"]
    assert result.insufficient == {"s": 1}


def test_events_that_are_not_looked_at_leave_the_edge() -> None:
    """The event in between is not looked at, so nothing is armed again."""
    rules = scenario(on='"foreign"', when='"risk > 1"', repeat='"edge"')
    result = run(
        rules, *({"foreign": f, "risk": r} for f, r in [(True, 2), (False, 0), (True, 2), (True, 0), (True, 2)])
    )
    assert ids(result) == ["e0:s", "e4:s"]


def test_a_cooldown_ends_exactly_and_is_not_extended() -> None:
    """Emitted at 0 and 2, suppressed in between, with the time until which it lasts."""
    result = run(scenario(cooldown='"2s"'), *at(0, 1, 1.999, 2, 3))
    assert ids(result) == ["e0:s", "e3:s"]
    assert ids(result, "suppressed") == ["e1:s", "e2:s", "e4:s"]
    assert outcome(result, 1).suppressed_until == "2026-03-09T22:59:57.000000Z"


def test_a_suppressed_edge_latches() -> None:
    """The edge at 1 is suppressed; the condition still holds at 5, which is no new edge."""
    risks = [(0, 2), (0.5, 0), (1, 2), (5, 2), (5, 0), (5, 2)]
    rules = scenario(when='"risk > 1"', repeat='"edge"', cooldown='"2s"')
    result = run(rules, *({"t": second, "risk": risk} for second, risk in risks))
    assert ids(result) == ["e0:s", "e5:s"]
    assert ids(result, "suppressed") == ["e2:s"]


def outcome(result: Result, event: int) -> Outcome:
    """Return the only outcome at an event."""
    (found,) = result.outcomes[event]
    return found


def test_a_shadow_scenario_writes_elsewhere_and_drops_what_is_suppressed() -> None:
    """Its hits are counted by a shadow metric; a draft is not evaluated."""
    rules = scenario(status='"shadow"', cooldown='"2s"') + scenario("draft", status='"draft"')
    result = run(rules, *at(0, 1))
    assert [each.projection for every in result.outcomes for each in every] == ["shadow_flags"]
    assert result.suppressed == {"s": 1}


def test_flags_are_counted_where_the_condition_held_the_current_event_included() -> None:
    """Whatever repeat and cooldown do; the sum adds the same events."""
    rules = (
        '[metric]\nn = { fn = "count(flags, of=[\'s\', \'other\'])", by = "account", window = "9s" }\n'
        f'total = {{ fn = "sum(amount, of=[\'s\'])", by = "account", window = "9s", where = "{EUR}" }}\n'
        + scenario(when='"risk > 0"', repeat='"edge"')
        + scenario("other", when='"false"')
        + scenario("count", on='{ of = ["s"] }', measure='"n"', threshold='"2"', reason='"{total}"')
    )
    result = run(rules, {"risk": 1}, {"risk": 1}, {"risk": 0}, {"risk": 2})
    assert ids(result) == ["e0:s", "e0:count", "e1:count", "e3:s", "e3:count"]
    assert [out.metric_value for each in result.outcomes for out in each if out.rule == "count"] == [
        *map(Number, "123")
    ]
    assert result.outcomes[3][1].reason == "30.00"


def test_a_sequence_is_used_up_by_what_it_leads_to() -> None:
    """The newest earlier event counts, once; with `reuse` again and again; `within` is closed."""
    after = '{ where = "channel == \'cash\'", within = "3s" }'
    when = '"amount <= a.amount"'
    events: list[Change] = [
        {"channel": "cash", "amount": 30.0}, {"t": 1, "channel": "cash", "amount": 20.0}, {"t": 2, "amount": 25.0},
        {"t": 4, "amount": 20.0}, {"t": 4, "amount": 20.0},
    ]  # fmt: skip
    result = run(scenario(after=after, when=when, reason='"{a.amount} {a.risk}"'), *[dict(event) for event in events])
    # e1 follows e0 and uses it up, then becomes the first event itself; e2 is above it; e3 is exactly 3 s later
    assert ids(result) == ["e1:s", "e3:s"]
    assert outcome(result, 1).reason == "30.00 unknown"
    again = run(scenario(after=after.replace("}", ", reuse = true }"), when=when), *[dict(event) for event in events])
    assert ids(again) == ["e1:s", "e3:s", "e4:s"]


def test_an_unsatisfied_sequence_arms_the_edge() -> None:
    """Without an earlier event the condition is false, not unknown, whatever `when` would be."""
    rules = scenario(after='{ where = "foreign", within = "1s", reuse = true }', when='"risk > 0"', repeat='"edge"')
    events: list[Change] = [
        {"foreign": True}, {"t": 1, "risk": 1}, {"t": 1}, {"t": 1, "risk": 1}, {"t": 3}, {"t": 3, "foreign": True},
        {"t": 4, "risk": 2},
    ]  # fmt: skip
    result = run(rules, *events)
    assert ids(result) == ["e1:s", "e6:s"]
    assert result.insufficient == {"s": 1}  # e2; at e4 there is no first event, so nothing is unknown


def test_the_first_matching_segment_has_its_own_parameters_and_forks_the_metric() -> None:
    """A list of subjects, then a condition, then everybody else; each counts with its own amount."""
    rules = (
        '[list.vip]\nfile = "vip.txt"\n[metric]\nn = { fn = "count", by = "branch", window = "9s", '
        'where = "amount >= p.least" }\n'
        + scenario(measure='"n"', threshold='"p.most"', when='"n >= p.most"', params='{ least = "10.00", most = 1 }')
        + 'segment.vip = { least = "30.00" }\nsegment.foreign = { where = "foreign", most = 2, least = 20 }\n'
    )
    result = run(
        rules, {"amount": 10.0}, {"account": "b", "amount": 20.0}, {"account": "b", "amount": 30.0, "foreign": True},
        {"foreign": True}, {"foreign": True, "country": "DE", "amount": 1.0}, {"risk": 1},
    )  # fmt: skip
    shown_as = [
        (out.event_id, out.segment, out.metric_value, out.threshold) for each in result.outcomes for out in each
    ]
    assert shown_as == [
        ("e0", None, Number("1"), Number("1")),
        ("e2", "vip", Number("1"), Number("1")),
        ("e3", "foreign", Number("2"), Number("2")),
        ("e4", "foreign", Number("2"), Number("2")),
        ("e5", None, Number("5"), Number("1")),
    ]


def test_a_typology_adds_the_points_of_what_held() -> None:
    """Half-open bands, weights, unknown and unbanded values without points, repeat and cooldown as for scenarios."""
    bands = '[{ below = 1, points = 5, reason = "few" }, { at_least = 1, below = 3, points = 10, reason = "some" }]'
    rules = (
        scenario("one", when='"amount > 0"', measure='"risk"', threshold='"1"', score=f"{{ bands = {bands} }}")
        + scenario(
            "two", when='"foreign"', score='{ value = "level", bands = [{ at_least = 2, points = 1, reason = "x" }] }'
        )
        + '[typology.t]\nversion = 1\nseverity = "high"\nthreshold = 10\nweights = { one = 1, two = 5 }\n'
        'repeat = "edge"\n'
        'reason = "{account} {risk}"\n'
    )
    result = run(
        rules, {"risk": 0}, {"risk": 1}, {"risk": 2, "foreign": True, "level": 2}, {"risk": 3}, {"amount": -1.0},
        {"risk": 0, "foreign": True, "level": 2}, {},
    )  # fmt: skip
    found = [out for each in result.outcomes for out in each if out.rule == "t"]
    assert [(out.event_id, out.metric_value) for out in found] == [("e1", Number("10")), ("e5", Number("10"))]
    assert found[1].score == [
        {"scenario": "one", "points": Number("5"), "reason": "few"},
        {"scenario": "two", "points": Number("5"), "reason": "x"},
    ]
    assert found[1].reason == "a 0"


@pytest.mark.parametrize(
    ("condition", "event", "expected"),
    [
        ("risk > 0 and foreign", {"foreign": False}, False),
        ("risk > 0 and foreign", {"foreign": True}, None),
        ("risk > 0 or foreign", {"foreign": True}, True),
        ("not (risk > 0)", {}, None),
        ("risk != risk", {}, None),
        ("risk not in (1, 2)", {}, None),
        ("risk in (1, 2)", {"risk": 2}, True),
        ("5 <= amount < 10", {"amount": 9.99}, True),
        ("100 < amount < fee * 2 - fee or amount != amount", {}, False),
        ("amount % 3 == 2", {"amount": -7.0}, True),
        ("amount % 0.3 == 0.1", {"amount": 10.0}, True),
        ("-amount * 2 + '5' == -15", {"amount": 10.0}, True),
        ("party == device", {"party": "d", "meta": {"device": {"id": "d"}}}, True),
        ("verified", {}, None),
        ("level == 0", {}, True),
    ],
)
def test_a_condition_is_true_false_or_unknown(condition: str, event: Change, expected: bool | None) -> None:
    """Three-valued logic over exact numbers."""
    result = run(scenario(when=json.dumps(condition)), dict(event))
    assert (bool(result.outcomes[0]), bool(result.insufficient)) == (expected is True, expected is None)


def test_an_absent_subject_cannot_be_decided() -> None:
    """Only where the event is looked at."""
    result = run(scenario(subject='"party"', on='"foreign"'), {"foreign": True}, {}, {"foreign": True, "party": "p"})
    assert result.insufficient == {"s": 1}
    assert outcome(result, 2).subject == "p"


def test_reasons_show_money_durations_and_braces_as_the_reference_says() -> None:
    """Every kind of value, and unknown."""
    rules = (
        '[metric]\nsince = { fn = "since_first", by = "account" }\n'
        + scenario(
            reason='"{{{amount}}} {since} {p.limit} {p.most} {p.gap} {party} {risk} {foreign} {level}"',
            when='"amount >= p.limit and since >= p.gap and level < p.most * 2"',
            params='{ limit = "5", gap = "500ms", most = 3 }',
        )
    )  # fmt: skip
    result = run(rules, {}, {"t": 90, "risk": 3})
    assert outcome(result, 1).reason == "{10.00} 90s 5.00 3 0.5s unknown 3 false 0"
