"""What each construct of the scenario language does, by hand: small histories with the flags they must give."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, Final

import pytest

from scenario_demo import START
from scenario_rig import account_contract
from scenario_run import Run, block, event, load, rows_of
from tidewaiter.core.engine import Engine
from tidewaiter.core.framing import Block
from tidewaiter.core.scenarios import load_ruleset
from tidewaiter.core.scenarios.state import FrozenState, RuleState
from tidewaiter.core.screening import Policy

FILES: Final = {"lists/banks.txt": b"# watched\nAB\nCD\n\n", "lists/vip.csv": b"note,id\nfirst,a\n"}


# -- windows -----------------------------------------------------------------------------------------------------------

FUNCTIONS: Final = {
    "count": (2, 1), "sum(count)": (7, 5), "min(count)": (2, 5), "max(count)": (5, 5), "distinct(count)": (2, 1),
    "last(count)": (5, 5),
}  # fmt: skip


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_a_window_is_closed_at_both_ends(fn: str) -> None:
    """An event exactly one window ago is in it; a microsecond later it is not."""
    inside, outside = FUNCTIONS[fn]
    text = load(f"[metric]\nm = {{ fn = '{fn}', by = 'account', window = '10s' }}", block("s", measure="m"))
    assert [flag["metric_value"] for flag in Run(text).flags({"count": 2}, {"second": 10, "count": 5})][1] == inside
    late = {"second": 10.000001, "count": 5}
    assert [flag["metric_value"] for flag in Run(text).flags({"count": 2}, late)][1] == outside


@pytest.mark.parametrize(
    ("fn", "value"),
    [("count", 2), ("sum(count)", 7), ("min(count)", 2), ("max(count)", 5), ("distinct(count)", 2), ("last(count)", 5)],
)
def test_what_is_older_leaves_and_the_edge_stays(fn: str, value: int) -> None:
    """Of three the oldest has left, the one exactly a window ago has not; at an event that is not counted, too."""
    metric = f"[metric]\nm = {{ fn = '{fn}', by = 'account', window = '10s', where = 'cash' }}"
    run = Run(load(metric, block("s", measure="m")))
    rows = [(0, 7, True), (1, 2, True), (8, 5, True), (11, 9, False)]
    flags = run.flags(*({"second": s, "count": n, "cash": c} for s, n, c in rows))
    assert flags[3]["metric_value"] == value
    late = Run(run.ruleset).flags(*({"second": s, "count": n, "cash": True} for s, n in [(0, 7), (1, 2), (11, 5)]))
    assert late[2]["metric_value"] == value


def test_an_offset_shifts_the_window_and_leaves_out_its_end() -> None:
    """[t - D - W, t - D), unknown as long as the metric's own past does not reach back so far."""
    run = Run(
        load(
            "[metric]\nm = { fn = 'sum(count)', by = 'account', window = '10s', offset = '5s' }",
            block("s", measure="m"),
        )
    )
    seconds = [0, 1, 10, 14.999999, 15, 15.000001, 16, 20]
    values = [flag["metric_value"] for flag in run.flags(*({"second": s, "count": 1} for s in seconds))]
    # at 15: the events of 0 and 1, for 10 is not before 15 - 5; at 15.000001 without that of 0, with that of 10
    assert values == [None, None, None, None, 2, 2, 2, 2]
    assert run.ruleset.scenarios[0].window == 10


def test_the_last_n_know_no_time() -> None:
    """The newest N of the key, the current one included; unknown before there are so many."""
    run = Run(load("[metric]\nm = { fn = 'max(count)', by = 'account', last = 2 }", block("s", measure="m")))
    rows = [
        {"second": 10**6 * n, "count": value, "account": "b" if value == 9 else "a"}
        for n, value in enumerate([3, 9, 1, 2])
    ]
    assert [flag["metric_value"] for flag in run.flags(*rows)] == [None, None, 3, 2]


def test_a_day_ends_at_midnight_of_the_offset() -> None:
    """At an offset of an hour the day ends at 23:00 UTC."""
    text = "utc_offset = '+01:00'\n[metric]\nm = { fn = 'count', by = 'account', window = 'day' }"
    run = Run(load(text, block("s", measure="m")))
    seconds = [0, 23 * 3600 - 0.000001, 23 * 3600, 24 * 3600, 47 * 3600 - 1, 47 * 3600]
    assert [flag["metric_value"] for flag in run.flags(*({"second": s} for s in seconds))] == [1, 2, 1, 2, 3, 1]


def test_equal_times_are_ordered_by_position() -> None:
    """The one before, at the same time, is previous; an event is not previous to itself."""
    run = Run(
        load("[metric]\nm = { fn = 'since_previous', by = 'account' }", block("s", measure="m", threshold="'1s'"))
    )
    assert [flag["metric_value"] for flag in run.flags({}, {}, {"second": 1.5})] == [None, 0, 1.5]


def test_a_key_first_seen_in_the_warm_up_may_be_any_age() -> None:
    """Its age stays unknown; one that comes later is as old as it is, 0 at its first event."""
    metric = "[metric]\nm = { fn = 'since_first', by = 'account', warmup = '10s', where = 'cash' }"
    run = Run(load(metric, block("s", measure="m", threshold="'1s'")))
    rows = [
        (0, "a", True),
        (9.999999, "b", True),
        (10, "c", True),
        (20, "a", True),
        (20, "b", True),
        (20.5, "c", False),
        (21, "d", False),
    ]
    values = [flag["metric_value"] for flag in run.flags(*({"second": s, "account": a, "cash": c} for s, a, c in rows))]
    assert values == [None, None, 0, None, None, 10.5, None]


def test_a_default_stands_in_for_what_is_unknown() -> None:
    """In conditions and in the flag, in the unit of the metric."""
    metric = "[metric]\nm = { fn = 'sum(amount)', by = 'account', window = '10s', where = 'cash', default = '1.50' }"
    run = Run(load(metric, block("s", "when = 'm < 2'", measure="m")))
    flags = run.flags({}, {"cash": True, "amount": 175}, {"cash": True, "amount": 25})
    assert [flag["metric_value"] for flag in flags] == [1.5, 1.75]
    assert '"metric_value":1.50,' in flags[0]["line"]
    assert run.ruleset.take_insufficient(run.state) == {}


def test_flags_are_counted_and_summed_whatever_came_of_them() -> None:
    """Both work over events where a scenario held: an edge that is latched and a cooldown hide nothing."""
    metric = (
        "[metric]\nn = { fn = \"count(flags, of=['big'])\", by = 'account', window = '1d' }\n"
        "total = { fn = \"sum(amount, of=['big', 'cash'])\", by = 'account', window = '1d', "
        "where = \"kind == 'pay'\", default = 0 }"
    )
    big = block("big", "when = 'amount > 10'", "repeat = 'edge'", "cooldown = '1h'")
    text = load(metric, big, block("cash", "on = 'cash'"), block("s", "when = 'n >= 0 and total >= 0'", measure="n"))
    rows: list[dict[str, Any]] = [
        {"amount": 1100},
        {"amount": 2000, "kind": "fee"},
        {"amount": 500, "cash": True},
        {"amount": 1},
    ]
    shown = [flag["metrics"] for flag in Run(text).flags(*rows) if flag["rule_name"] == "s"]
    assert shown == [{"n": 1, "total": 11}, {"n": 2, "total": 11}, {"n": 2, "total": 16}, {"n": 2, "total": 16}]


def test_the_key_of_a_metric_can_be_several_fields_and_absent() -> None:
    """All of them make the key; where one is absent the metric is unknown and nothing is added."""
    metric = "[metric]\nm = { fn = 'count', by = ['account', 'note'], window = '1d' }"
    run = Run(load(metric, block("s", "when = 'm >= 0'", measure="m")))
    rows = [("a", "x"), ("a", "y"), ("b", "x"), ("a", None), ("a", "x")]
    flags = run.flags(*({"account": account, "note": note} for account, note in rows))
    assert [(flag["row"], flag["metric_value"]) for flag in flags] == [(0, 1), (1, 1), (2, 1), (4, 2)]
    assert run.ruleset.take_insufficient(run.state) == {}  # each row restarts: the last one was decided


# -- what is unknown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "held", "lost"),
    [
        ("note == 'x'", False, True),
        ("not note == 'x'", False, True),
        ("note == 'x' and amount > 10", False, False),  # false whatever the note is
        ("note == 'x' and amount <= 10", False, True),
        ("note == 'x' or amount <= 10", True, False),
        ("note == 'x' or amount > 10", False, True),
        ("not (note == 'x' and amount > 10)", True, False),
        ("note in ('x', 'y')", False, True),
        ("(note == 'x') == cash", False, True),
        ("m > 5", False, True),
        ("m > 5 or cash == false", True, False),
        ("1 < m < 5 and amount <= 10", False, True),
        ("10 < count < m", False, False),  # the first half is false
        ("other in list.banks and note not in list.banks", False, False),
        ("note not in list.banks", False, True),
    ],
)
def test_an_unknown_condition_is_counted_never_false(when: str, held: bool, lost: bool) -> None:
    """Kleene's logic: unknown only where the answer depends on what is not known."""
    metric = "m = { fn = 'sum(count)', by = 'account', window = '1s', where = 'cash' }"
    metric = f"[list.banks]\nfile = 'lists/banks.txt'\n[metric]\n{metric}"
    run = Run(load(metric, block("s", f'when = "{when}"'), files=FILES))
    assert bool(run.feed({"amount": 5_00, "note": None})) is held
    assert run.ruleset.take_insufficient(run.state) == ({"s": 1} if lost else {})
    assert run.ruleset.take_insufficient(run.state) == {}


def test_an_unknown_on_is_counted_and_leaves_the_edge() -> None:
    """A latch neither falls nor rises on an event of which it is not known whether it is looked at."""
    run = Run(load(block("s", "on = \"note == 'x'\"", "when = 'amount > 10'", "repeat = 'edge'")))
    rows = [("x", 11), ("x", 12), (None, 1), ("x", 13), ("y", 1), ("x", 14), ("x", 1), ("x", 15)]
    hits, lost = [], []
    for note, amount in rows:
        hits += rows_of(*run.feed({"note": note, "amount": amount * 100}))
        lost.append(run.ruleset.take_insufficient(run.state))
    assert hits == [0, 7]
    assert lost == [{}, {}, {"s": 1}, {}, {}, {}, {}, {}]


def test_an_unknown_when_leaves_the_edge() -> None:
    """Latched it stays, armed it stays."""
    run = Run(load(block("s", "when = \"note == 'x'\"", "repeat = 'edge'")))
    assert rows_of(*run.feed(*({"note": note} for note in ["x", None, "x", "y", None, "x"]))) == [0, 5]


def test_a_flag_needs_a_subject() -> None:
    """Where the subject is absent the scenario could not be decided."""
    run = Run(load(block("s", "subject = 'note'", "when = 'amount > 10'")))
    assert [flag["user_id"] for flag in run.flags({"note": "x", "amount": 1100})] == ["x"]
    assert run.feed({"note": None, "amount": 1100}) == []
    assert run.ruleset.take_insufficient(run.state) == {"s": 1}


def test_a_subject_that_the_contract_fills_in_is_quoted() -> None:
    """Its default may hold what no plain line can: it is escaped whatever the lines are like."""
    other = "{ type = 'string', required = false, max_length = 9, default = 'a\"b\\c' }"
    contract = account_contract("filled", 1, f"other = {other}\ncount = {{ type = 'integer' }}")
    text = "ruleset = 'r'\nversion = 1\ncontract = 'filled/1'\n" + block("s", "subject = 'other'", measure="count")
    rules = load_ruleset(text.encode(), "r.toml", contract)
    line = b'{"event_id":"1","at":"2026-01-01T00:00:00Z","account":"x","count":1}\n'
    ((_, record),) = Engine(contract, rules, Policy()).evaluate(Block(0, line), 0, "s").records
    assert json.loads(record)["user_id"] == 'a"b\\c'


# -- edge and cooldown -------------------------------------------------------------------------------------------------


def test_a_cooldown_ends_when_it_is_over_and_is_never_extended() -> None:
    """Suppressed while t < last emitted + C; suppressed hits say until when, and count for nothing."""
    run = Run(load(block("s", "when = 'amount > 10'", "cooldown = '10s'")))
    flags = run.flags(*({"second": s, "amount": 1100} for s in (0, 5, 9.999999, 10, 12, 20)))
    assert [(flag["row"], flag["to"]) for flag in flags] == [
        (0, "flags"), (1, "suppressed"), (2, "suppressed"), (3, "flags"), (4, "suppressed"), (5, "flags"),
    ]  # fmt: skip
    assert [flag.get("suppressed_until") for flag in flags][:2] == [None, "2026-01-01T00:00:10.000000Z"]
    assert flags[1]["line"].endswith('","suppressed_until":"2026-01-01T00:00:10.000000Z"}')
    assert run.ruleset.only_flags is False


def test_an_edge_latches_whatever_its_metric() -> None:
    """A metric that always has a value at the event itself, such as a maximum, latches like a count."""
    for fn in ("count", "max(count)", "sum(count)", "last(count)", "since_previous", "since_first"):
        window = "" if fn.startswith("since") else ', window = "1m"'
        metric = f'[metric]\nm = {{ fn = "{fn}", by = "account"{window}, default = DEFAULT }}\n'
        default = "'0s'" if fn.startswith("since") else "0"
        for text in (metric.replace("DEFAULT", default), metric.replace(", default = DEFAULT", "")):
            if fn == "count" and "default" in text:
                continue
            limit = "'0s'" if fn.startswith("since") else "0"
            run = Run(load(block("s", f'when = "m >= {limit}"', "repeat = 'edge'"), text))
            assert len(run.feed(*({"second": second} for second in range(4)))) == 1, text


def test_a_parameter_is_shown_in_its_unit_wherever_it_stands_in_a_reason() -> None:
    """Its unit may come from a metric that the reason names only behind it."""
    metric = '[metric]\nm = { fn = "count", by = "account", window = "2s", where = "amount >= p.least" }\n'
    for reason, shown in (("{p.least} {m}", "10.00 0"), ("{m} {p.least}", "0 10.00")):
        body = block("s", "params = { least = '10' }", f"reason = '{reason}'")
        assert [flag["reason"] for flag in Run(load(body, metric)).flags({"amount": 0})] == [shown]


def test_a_suppressed_edge_latches() -> None:
    """The edge comes first: after a suppressed hit nothing comes until `when` was false once more."""
    run = Run(load(block("s", "when = 'amount > 10'", "repeat = 'edge'", "cooldown = '10s'")))
    rows = [(0, 11), (1, 1), (2, 11), (11, 11), (12, 1), (13, 11)]
    hits = run.feed(*({"second": s, "amount": 100 * amount} for s, amount in rows))
    assert [(row, to) for row, _, to in hits] == [(0, "flags"), (2, "suppressed"), (5, "flags")]


@pytest.mark.parametrize("fn", ["count", "sum(count)", "min(count)", "max(count)", "last(count)"])
@pytest.mark.parametrize("where", ["", ", where = 'cash'"])
@pytest.mark.parametrize("more", [[], ["cooldown = '1s'"]])
def test_an_edge_over_any_metric_stays_latched(fn: str, where: str, more: list[str]) -> None:
    """Whether or not its value could be unknown elsewhere: one hit until the condition was false."""
    metric = f"[metric]\nm = {{ fn = '{fn}', by = 'account', window = '5s'{where} }}"
    on = ["on = 'cash'"] if where else []
    run = Run(load(metric, block("s", *on, "when = 'm >= 1'", "repeat = 'edge'", *more)))
    rows = [{"second": second, "count": 1, "cash": True} for second in (0, 2, 4, 6)]
    assert run.feed(*rows) == [(0, "s", "flags")]


def test_cooldowns_are_per_subject_and_forgotten_when_over() -> None:
    """Another subject is not cooled down; a sweep after the end leaves nothing."""
    run = Run(load(block("s", "cooldown = '10s'")))
    assert [to for _, _, to in run.feed({}, {"account": "b"}, {"second": 1})] == ["flags", "flags", "suppressed"]
    for minute in range(1, 9):
        run.state.sweep(START + dt.timedelta(minutes=minute), 100)
    assert run.state.keys() == 0


def test_a_shadow_goes_its_own_way() -> None:
    """Its hits go to shadow_flags, suppressed ones nowhere; what they change for live scenarios is nothing."""
    live = block("live", "when = 'amount > 10'", "cooldown = '10s'")
    both = load(
        live,
        block("s", "status = 'shadow'", "cooldown = '10s'"),
        block("t", "status = 'draft'"),
        block("u", "status = 'retired'"),
    )
    run, alone = Run(both), Run(load(live))
    rows = [{"second": second, "amount": 1100} for second in (0, 1, 10)]
    assert [(row, rule, to) for row, rule, to in run.feed(*rows) if rule != "live"] == [
        (0, "s", "shadow_flags"),
        (2, "s", "shadow_flags"),
    ]
    assert [flag["line"] for flag in Run(both).flags(*rows) if flag["rule_name"] == "live"] == [
        flag["line"] for flag in alone.flags(*rows)
    ]
    counted = both.new_state()
    both.bind(counted)([event(), event()], [START, START], [0, 0])
    assert both.take_silenced(counted) == {"s": 1}
    assert both.skipped == {"t": "draft", "u": "retired"}


# -- populations -------------------------------------------------------------------------------------------------------


def test_the_first_segment_that_matches_wins() -> None:
    """Its parameters replace the usual ones, and its name stands in the flag; an unknown condition does not match."""
    body = ["when = 'amount > p.limit'", "params = { limit = '10' }", "segment.vip = { limit = '100' }"]
    body += ["segment.noted = { where = \"note == 'x'\", limit = '50' }"]
    run = Run(
        load("[list.vip]\nfile = 'lists/vip.csv'\ncolumn = 'id'", block("s", *body, threshold="p.limit"), files=FILES)
    )
    rows = [("a", "x", 60), ("a", "x", 101), ("b", "x", 50), ("b", "x", 51), ("b", None, 11), ("b", "y", 10)]
    flags = run.flags(*({"account": a, "note": n, "amount": 100 * m} for a, n, m in rows))
    assert [(flag["row"], flag["segment"], flag["threshold"], flag["parameters"]) for flag in flags] == [
        (1, "vip", 100, {"limit": 100}), (3, "noted", 50, {"limit": 50}), (4, None, 10, {"limit": 10}),
    ]  # fmt: skip
    assert list(flags[0])[12:16] == ["parameters", "metrics", "segment", "lists"]
    assert [each.segment for each in run.ruleset.scenarios[0].populations] == ["vip", "noted", None]


def test_a_template_sees_all_events_and_the_segment_chooses_what_is_read() -> None:
    """One instance for each set of values in use; equal ones are shared."""
    metric = "[metric]\nm = { fn = 'count', by = 'account', window = '1d', where = 'amount > p.least' }"
    body = ["when = 'm >= 0'", "params = { least = 10 }"]
    segments = [
        "segment.cash = { where = 'cash', least = 20 }",
        "segment.fee = { where = \"kind == 'fee'\", least = 10 }",
    ]
    rules = load(
        metric, block("s", *body, *segments, measure="m"), block("t", "when = 'm > 1'", "params = { least = 20 }")
    )
    rows = [(15, False, "pay"), (25, True, "pay"), (5, False, "pay"), (5, True, "pay"), (5, False, "fee")]
    flags = Run(rules).flags(*({"amount": a * 100, "cash": c, "kind": k} for a, c, k in rows))
    assert [flag["metric_value"] for flag in flags if flag["rule_name"] == "s"] == [1, 1, 2, 1, 2]
    assert len(rules.forks["m"]) == 2
    assert len(rules.plan.cells) == 2


# -- sequences ---------------------------------------------------------------------------------------------------------

AFTER: Final = ("on = \"kind == 'pay'\"", "when = 'amount * 2 > a.amount'")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", [(3, 10.0), (6, 7.0)]),  # 4 and 5 find nothing: it was used up; 8 comes too late
        (", reuse = true", [(3, 10.0), (4, 10.0), (5, 10.0), (6, 7.0)]),
    ],
)
def test_a_sequence_finds_the_newest_candidate_and_uses_it_up(more: str, expected: list[Any]) -> None:
    """Within its time, ties by position; a held event uses it up; the event itself is kept for later ones."""
    body = f"after = {{ where = \"kind != 'pay' or cash\", within = '10s'{more} }}"
    run = Run(load(block("s", *AFTER, body, measure="a.amount")))
    rows = [
        (0, "fee", False, 50), (1, "fee", False, 10), (1, "pay", False, 5), (1, "pay", False, 6), (2, "pay", False, 9),
        (5, "pay", True, 7), (15, "pay", False, 9), (16, "fee", False, 1), (26.000001, "pay", False, 9),
    ]  # fmt: skip
    flags = run.flags(*({"second": s, "kind": k, "cash": c, "amount": 100 * m} for s, k, c, m in rows))
    assert [(flag["row"], flag["metric_value"]) for flag in flags] == expected


def test_a_candidate_that_was_used_up_is_not_in_a_snapshot_begun_before() -> None:
    """It was taken from the old half, which is otherwise copied ahead of the snapshot."""
    ruleset = load(block("s", "on = 'cash == false'", "after = { where = 'cash', within = '10s' }"))
    state = ruleset.new_state()

    def hits(state: RuleState, second: int, *accounts: str, cash: bool) -> int:
        events = [event(event_id=f"{second}{account}", account=account, cash=cash) for account in accounts]
        times = [START + dt.timedelta(seconds=second)] * len(events)
        return len(ruleset.bind(state)(events, times, *([1] * len(events) for _ in ruleset.money_columns)))

    hits(state, 0, "first", cash=False)
    hits(state, 9, *(f"a{number}" for number in range(3000)), cash=True)
    hits(state, 11, "other", cash=True)  # the others are old now
    assert state.copy_ahead(10_000)
    assert hits(state, 12, "a7", cash=False) == 1
    again = FrozenState.decode(state.freeze().encode_chunks())
    assert again.keys() == 3000
    assert hits(again, 12, "a7", "a8", cash=False) == 1


def test_a_sequence_is_kept_by_its_own_key() -> None:
    """`by` may be another field than the subject; absent it is never satisfied."""
    body = "after = { where = 'cash', within = '10s', by = 'note' }"
    run = Run(load(block("s", "when = 'cash == false'", body, "reason = '{a.account} then {account}'")))
    rows = [
        ("a", "x", True),
        ("b", "y", False),
        ("b", None, True),
        ("c", None, False),
        ("d", "x", False),
        ("e", "x", False),
    ]
    flags = run.flags(*({"account": a, "note": n, "cash": c} for a, n, c in rows))
    assert [(flag["row"], flag["reason"]) for flag in flags] == [(4, "a then d")]


def test_without_a_candidate_the_condition_is_false_and_rearms() -> None:
    """Not unknown: an edge is armed again."""
    body = "after = { where = 'cash', within = '10s' }"
    run = Run(load(block("s", "on = 'cash == false'", body, "repeat = 'edge'")))
    rows = [(0, True), (1, False), (2, True), (3, False), (4, False), (5, True), (6, False)]
    assert rows_of(*run.feed(*({"second": s, "cash": c} for s, c in rows))) == [1, 6]
    assert run.ruleset.take_insufficient(run.state) == {}


# -- lists, reasons, scores --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("match", "expected"), [("exact", [1]), ("prefix", [1, 2])])
def test_lists_are_exact_or_by_prefix(match: str, expected: list[int]) -> None:
    """A flag names the lists that decided and the hashes of their files."""
    text = f"[list.banks]\nfile = 'lists/banks.txt'\nmatch = '{match}'\n[field]\nwatched = 'other in list.banks'"
    run = Run(load(text, block("s", "when = 'watched'"), files=FILES))
    flags = run.flags(*({"other": other} for other in ("xAB", "AB", "ABC", "A", "")))
    assert [flag["row"] for flag in flags] == expected
    assert flags[0]["lists"] == {"banks": run.ruleset.lists["banks"].digest}
    other = load(text, block("s", "when = 'watched'"), files={"lists/banks.txt": b"AB\nCD\nEF\n"})
    assert other.scenarios[0].digest != run.ruleset.scenarios[0].digest


def test_a_reason_tells_values_as_people_read_them() -> None:
    """Money with decimals, durations in seconds, texts as they are, unknown as such; braces doubled."""
    metric = "[metric]\nm = { fn = 'since_previous', by = 'account' }"
    reason = "reason = '{{{amount}}} of {p.limit} \"{other}\" {cash} {m} {note} {kind}'"
    run = Run(load(metric, block("s", "when = 'amount > p.limit'", "params = { limit = '0.50' }", reason)))
    flags = run.flags({"amount": 1234_50, "other": "b\\\n"}, {"second": 90.25, "amount": 51, "cash": True, "note": "n"})
    assert [flag["reason"] for flag in flags] == [
        '{1234.50} of 0.50 "b\\\n" false unknown unknown pay', '{0.51} of 0.50 "b" true 90.25s n pay',
    ]  # fmt: skip


def test_a_number_is_shown_alike_in_parameters_and_reason() -> None:
    """Without the underscores it may be written with, which JSON does not know."""
    run = Run(load(block("s", "params = { x = 1_0.50, y = 1_000 }", "reason = '{p.x} {p.y}'")))
    (flag,) = run.flags({})
    assert flag["reason"] == "10.50 1000"
    assert '"parameters":{"x":10.50,"y":1000}' in flag["line"]


def test_every_value_of_a_flag_has_its_form() -> None:
    """Durations in seconds without needless decimals, money with its own, texts quoted, unknown null."""
    metric = (
        "[metric]\nage = { fn = 'since_first', by = 'account' }\nnewest = { fn = 'last(note)', by = 'account' }\n"
        "total = { fn = 'sum(points)', by = 'account', window = '1d' }\n"
        "cash_now = { fn = 'last(cash)', by = 'account' }"
    )
    when = "when = \"age >= p.young and (newest == 'x' or total > 0 or cash_now)\""
    run = Run(load(metric, block("s", when, "params = { young = '0s' }", measure="age", threshold="p.young")))
    first, second = run.flags({"points": 1, "note": None}, {"second": 90.5, "points": -2001 + 4000, "note": 'q"'})
    assert '"metric_value":0,"threshold":0,' in first["line"]
    assert '"parameters":{"young":0},"metrics":{"age":0,"newest":null,"total":0.001,"cash_now":false}' in first["line"]
    assert '"metric_value":90.5,' in second["line"]
    assert '"metrics":{"age":90.5,"newest":"q\\"","total":2.000,"cash_now":false}' in second["line"]


SCORED: Final = (
    block("big", "when = 'amount > 10'", "score = { bands = [{ at_least = 20, below = 30, points = 2, reason = 'some' "
          "}, { at_least = 30, points = 5, reason = 'much' }] }")
    + block("cash", "on = 'cash'", "score = { value = 'count', bands = [{ below = 3, points = -1, reason = 'few' }, "
            "{ at_least = 3, below = 9, points = 4, reason = 'many' }] }")
)  # fmt: skip
TYPOLOGY: Final = (
    "[typology.both]\nversion = 3\nseverity = 'critical'\nthreshold = 6\nweights = { big = 2, cash = 1 }\n"
)


def test_a_typology_adds_weighted_points_after_its_scenarios() -> None:
    """Bands are half-open; what falls in none gives nothing; looked at are events at which one of them held."""
    run = Run(load(SCORED, TYPOLOGY + "reason = 'of {account}: {amount}'\n"))
    rows = [(15, True, 5), (20, True, 5), (20, True, 2), (20, True, 9), (29.99, True, 3), (30, False, 0), (1, True, 8)]
    flags = run.flags(*({"amount": round(a * 100), "cash": c, "count": n} for a, c, n in rows))
    both = [flag for flag in flags if flag["rule_name"] == "both"]
    assert [(flag["row"], flag["metric_value"]) for flag in both] == [(1, 8), (4, 8), (5, 10)]
    assert [flag["rule_name"] for flag in flags if flag["row"] == 1] == ["big", "cash", "both"]
    assert both[0]["score"] == [
        {"scenario": "big", "points": 4, "reason": "some"}, {"scenario": "cash", "points": 4, "reason": "many"},
    ]  # fmt: skip
    assert both[2]["score"] == [{"scenario": "big", "points": 10, "reason": "much"}]
    assert (both[0]["typology"], both[0]["threshold"], both[0]["window"], both[0]["metrics"]) == ("both", 6, 0, {})
    assert (both[0]["parameters"], both[0]["reason"]) == ({"big": 2, "cash": 1}, "of a: 20.00")
    assert list(both[0])[14:18] == ["reason", "score", "offset", "scenario_digest"]


def test_a_typology_has_edge_and_cooldown_too() -> None:
    """It is armed again by an event at which one of its scenarios held and the points fell short."""
    run = Run(load(SCORED, TYPOLOGY + "repeat = 'edge'\ncooldown = '10s'\n"))
    rows = [(0, 30), (1, 30), (2, 1), (3, 30), (4, 11), (5, 30), (6, 11), (20, 30)]
    hits = [hit for hit in run.feed(*({"second": s, "amount": 100 * a} for s, a in rows)) if hit[1] == "both"]
    assert [(row, to) for row, _, to in hits] == [(0, "flags"), (5, "suppressed"), (7, "flags")]
