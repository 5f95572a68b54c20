"""The scenario language: what conditions, metrics and scenarios mean, against two independent evaluators."""

from __future__ import annotations

import datetime as dt
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenario_demo import HEAD, MINOR, START, event, holds, load, scenario
from scenario_rig import rendered
from support import REPOSITORY
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.scenarios import load_ruleset, state_cells

if TYPE_CHECKING:
    from collections.abc import Callable

# -- what conditions mean ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "values", "expected"),
    [
        ("amount > 500", {"amount": 500_00}, False),
        ("amount > 500", {"amount": 500_01}, True),
        ("amount >= 500.01", {"amount": 500_01}, True),
        ("amount == '500.01'", {"amount": 500_01}, True),
        ("100 <= amount < 200", {"amount": 199_99}, True),
        ("100 <= amount < 200", {"amount": 200_00}, False),
        ("amount < 10 < count", {"amount": 9_99, "count": 11}, True),  # money to the left of 10, a number to its right
        ("amount < 10 < count", {"amount": 9_99, "count": 10}, False),
        ("amount % 100 == 0", {"amount": 300_00}, True),
        ("amount % 100 == 0", {"amount": 300_01}, False),
        ("amount * 3 >= balance * 4", {"amount": 400, "balance": 300}, True),
        ("amount + 2 * 50 > balance - 1", {"amount": 0, "balance": 100_99}, True),
        ("amount + 2 * 50 > balance - 1", {"amount": 0, "balance": 101_00}, False),
        ("-amount < -1", {"amount": 101}, True),
        ("points == 1.125", {"points": 1125}, True),
        ("count % 7 == 3", {"count": -4}, True),
        ("count - step - 1 == 0", {"count": 3, "step": 2}, True),
        ("count - (step - 1) == 0", {"count": 3, "step": 4}, True),
        ("kind == 'pay' and not cash", {}, True),
        ("not (kind == 'pay' or cash)", {}, False),
        ("cash == false", {}, True),
        ("cash", {"cash": True}, True),
        ("kind in ('fee', 'pay')", {}, True),
        ("kind not in ['fee', 'pay']", {}, False),
        ("count in (1, 2, 3)", {"count": 3}, True),
        ("amount in (1, 2.50)", {"amount": 250}, True),
        ("account != other", {"other": "a"}, False),
        ("tag == 'none'", {}, True),
        ("account == '100'", {"account": "100"}, True),
        ("kind == 'pay' and (\n  count == 1 or\n  count == 2\n)", {"count": 2}, True),
        ("count == 1  # a remark\n or count == 2", {"count": 2}, True),
        ("true", {}, True),
    ],
)
def test_a_condition_means_what_it_says(when: str, values: dict[str, Any], expected: bool) -> None:
    """Literals, units, precedence and membership."""
    assert holds(when, **values) is expected


def test_parameters_take_the_unit_of_what_they_meet() -> None:
    """A parameter is money, a number or a text by its use, and stands in the flag so."""
    params = "params = { limit = '12.5', most = 3, factor = 2, kind = 'fee', rate = 1.5 }\n"
    when = "amount * p.factor > p.limit and count < p.most and kind == p.kind and balance > p.rate * 2"
    rules = load(scenario(when, extra=params))
    assert rules.scenarios[0].parameters == {
        "limit": "12.50", "most": "3", "factor": "2", "kind": '"fee"', "rate": "1.5",
    }  # fmt: skip
    assert holds(when, extra=params, amount=6_26, balance=3_01, count=2, kind="fee")
    assert not holds(when, extra=params, amount=6_25, balance=3_01, count=2, kind="fee")
    assert not holds(when, extra=params, amount=6_26, balance=3_00, count=2, kind="fee")


# -- an independent reading of conditions ------------------------------------------------------------------------------

Reading = tuple[str, "Callable[[dict[str, Any]], Any]"]


def quantities(kind: str) -> st.SearchStrategy[Reading]:
    """Texts that are whole numbers or money (two decimals), with their meaning in exact arithmetic."""
    fields = ("count", "step") if kind == "integer" else ("amount", "balance")
    scale = 1 if kind == "integer" else 100
    leaf = st.sampled_from(fields).map(lambda name: (name, lambda row: Fraction(row[name], scale)))

    def grow(inner: st.SearchStrategy[Reading]) -> st.SearchStrategy[Reading]:
        constant = st.integers(0, 300)
        return st.one_of(
            st.tuples(inner, st.sampled_from("+-"), inner).map(
                lambda x: (
                    f"({x[0][0]}) {x[1]} ({x[2][0]})",
                    lambda row: x[0][1](row) + (x[2][1](row) if x[1] == "+" else -x[2][1](row)),
                )
            ),
            st.tuples(inner, st.sampled_from("+-"), constant).map(
                lambda x: (f"({x[0][0]}) {x[1]} {x[2]}", lambda row: x[0][1](row) + (x[2] if x[1] == "+" else -x[2]))
            ),
            st.tuples(inner, constant).map(lambda x: (f"{x[1]} * ({x[0][0]})", lambda row: x[1] * x[0][1](row))),
            st.tuples(inner, st.integers(1, 50)).map(
                lambda x: (f"({x[0][0]}) % {x[1]}", lambda row: x[0][1](row) % x[1])
            ),
            inner.map(lambda x: (f"-({x[0]})", lambda row: -x[1](row))),
        )

    return st.recursive(leaf, grow, max_leaves=4)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
}  # fmt: skip


def comparisons(kind: str) -> st.SearchStrategy[Reading]:
    """Two quantities of one kind, compared."""
    return st.tuples(quantities(kind), st.sampled_from(sorted(OPERATORS)), quantities(kind)).map(
        lambda x: (f"{x[0][0]} {x[1]} {x[2][0]}", lambda row: OPERATORS[x[1]](x[0][1](row), x[2][1](row)))
    )


def conditions() -> st.SearchStrategy[Reading]:
    """Conditions of every kind with their meaning."""
    leaf = st.one_of(
        comparisons("integer"),
        comparisons("money"),
        st.just(("cash", lambda row: row["cash"])),
        st.sampled_from(["pay", "receive", "fee"]).map(lambda v: (f"kind == '{v}'", lambda row: row["kind"] == v)),
        st.lists(st.sampled_from(["pay", "fee"]), min_size=1, max_size=3).map(
            lambda v: (f"kind not in ({', '.join(map(repr, v))},)", lambda row: row["kind"] not in v)
        ),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(
                lambda x: (f"({x[0][0]}) and ({x[1][0]})", lambda row: x[0][1](row) and x[1][1](row))
            ),
            st.tuples(inner, inner).map(
                lambda x: (f"{x[0][0]} or {x[1][0]}", lambda row: x[0][1](row) or x[1][1](row))
            ),
            inner.map(lambda x: (f"not ({x[0]})", lambda row: not x[1](row))),
        ),
        max_leaves=5,
    )


ROWS = st.fixed_dictionaries(
    {
        "count": st.integers(-5, 305), "step": st.integers(-(2**63), 2**63 - 1), "amount": st.integers(-500, 30_100),
        "balance": st.integers(-(10**15), 10**15), "cash": st.booleans(),
        "kind": st.sampled_from(["pay", "receive", "fee"]),
    }
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(conditions(), st.lists(ROWS, min_size=1, max_size=8))
def test_compiled_conditions_agree_with_exact_arithmetic(reading: Reading, rows: list[dict[str, Any]]) -> None:
    """On generated conditions and events the compiled function says what fractions say."""
    text, meaning = reading
    rules = load(scenario(text))
    events = [event(**{key: row[key] for key in ("count", "step", "cash", "kind")}) for row in rows]
    columns = [[row[name] for row in rows] for name in rules.money_columns]
    hits = rules.bind(rules.new_state())(events, [START] * len(rows), *columns)
    assert [hit[0] for hit in hits] == [number for number, row in enumerate(rows) if meaning(row)]


# -- metrics and scenarios together ------------------------------------------------------------------------------------


def run(text: str, rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Run a ruleset over rows with `second`; return (row, scenario id, value, threshold)."""
    rules = load(text)
    events, times, money = [], [], []
    for row in rows:
        values = dict(row)
        times.append(START + dt.timedelta(seconds=values.pop("second", 0)))
        money.append(MINOR | {key: values.pop(key) for key in list(values) if key in MINOR})
        events.append(event(**values))
    columns = [[row[name] for row in money] for name in rules.money_columns]
    hits = rules.bind(rules.new_state())(events, times, *columns)
    return [(hit[0], rules.scenarios[hit[1]].id, *hit[2:4]) for hit in hits]


def test_a_metric_has_its_value_at_events_it_does_not_count() -> None:
    """A fee after three payments within the window sees three; long after, none."""
    text = scenario("paid >= 0 and kind == 'fee'", measure="paid", threshold="0").replace(
        "[scenario",
        "[metric]\npaid = { fn = 'count', by = 'account', window = '10s', where = \"kind == 'pay'\" }\n[scenario",
    )
    rows = [{"second": s, "kind": "pay"} for s in (0, 1, 2)]
    rows += [{"second": s, "kind": "fee"} for s in (3, 10, 11, 12, 13, 99)]
    assert [hit[2] for hit in run(text, rows)] == [3, 3, 2, 1, 0, 0]


def test_metrics_count_by_their_own_field() -> None:
    """`by` need not be the subject, and an enum will do."""
    text = scenario("seen > 1", measure="seen", threshold="1").replace(
        "[scenario", "[metric]\nseen = { fn = 'count', by = 'kind', window = '1d' }\n[scenario"
    )
    rows = [{"account": str(n), "kind": kind} for n, kind in enumerate(("pay", "fee", "pay", "fee", "receive"))]
    assert [hit[0] for hit in run(text, rows)] == [2, 3]


def test_two_metrics_that_say_the_same_share_one_state() -> None:
    """The plan computes them once."""
    body = "fn = 'count', by = 'account', window = '1d', where = 'cash'"
    text = scenario("one + two > 3", measure="one", threshold="1").replace(
        "[scenario", f"[metric]\none = {{ {body} }}\ntwo = {{ {body} }}\n[scenario"
    )
    assert len(load(text).new_state().cells) == 1
    assert [hit[0] for hit in run(text, [{"cash": True}, {"cash": True}])] == [1]


def test_edge_rearms_only_on_events_that_are_looked_at() -> None:
    """A false `when` on an event outside `on` leaves the latch."""
    text = scenario("amount > 10", extra="on = 'cash'\nrepeat = 'edge'\n")
    rows = [(True, 11), (True, 12), (False, 1), (True, 13), (True, 1), (True, 14)]
    assert [hit[0] for hit in run(text, [{"cash": cash, "amount": 100 * amount} for cash, amount in rows])] == [0, 5]


@pytest.mark.parametrize(("on", "expected"), [("on = 'cash'\n", [1]), ("", [1, 4])])
def test_a_sweep_forgets_a_latch_only_where_it_means_nothing(on: str, expected: list[int]) -> None:
    """With `on` narrower than what is counted, the count may rise unseen: then the latch must outlive idleness."""
    metric = "[metric]\npaid = { fn = 'count', by = 'account', window = '10s' }\n"
    text = scenario("paid > 1", extra=f"repeat = 'edge'\n{on}", measure="paid", threshold="1")
    rules = load(text.replace("[scenario", f"{metric}[scenario"))
    rows = [(0, True, "a"), (0, True, "a"), (900, False, "z"), (999, False, "a"), (999, True, "a")]
    for sweeps in (False, True):
        state = rules.new_state()
        evaluate, hits = rules.bind(state), []
        for number, (second, cash, account) in enumerate(rows):
            time = START + dt.timedelta(seconds=second)
            hits += [number for _ in evaluate([event(cash=cash, account=account)], [time])]
            if sweeps:
                state.sweep(time, 100)
        assert hits == expected


def test_flags_of_one_event_keep_file_order_whatever_their_conditions_share() -> None:
    """Scenarios with the same condition are evaluated together only where no other's flag comes between."""
    body = "typology = 't'\nversion = 1\nseverity = 'low'\nmeasure = 'amount'\nthreshold = 0\n"
    whens = {"a": "cash", "b": "kind == 'pay'", "c": "cash", "d": "cash", "e": "kind == 'pay'"}
    text = HEAD + "".join(f'[scenario.{key}]\n{body}when = "{when}"\n' for key, when in whens.items())
    assert [hit[1] for hit in run(text, [{"cash": True}])] == ["a", "b", "c", "d", "e"]


def test_the_window_shown_can_be_declared() -> None:
    """Default: the window of the metric measured, 0 for a field."""
    assert load(scenario("cash")).scenarios[0].window == 0
    assert load(scenario("cash", extra="window = '2m'\n")).scenarios[0].window == 120


def test_a_threshold_may_follow_the_event() -> None:
    """It need not be a constant; it is evaluated for the flag."""
    text = scenario("amount > balance * 2", threshold="'balance * 2'")
    assert run(text, [{"amount": 701, "balance": 350}]) == [(0, "one", 701, 700)]
    rules = load(text)
    (hit,) = rules.bind(rules.new_state())([event()], [START], [701], [-350])
    assert '"metric_value":7.01,"threshold":-7.00,' in rendered(rules, hit, event(), "t")


def test_negative_money_and_three_decimals_are_written_exactly() -> None:
    """From the whole number of minor units, sign and zeros included."""
    text = scenario("points < 1", measure="points - 1", threshold="'-0.5'")
    rules = load(text)
    hits = rules.bind(rules.new_state())([event()] * 2, [START] * 2, [-5, 993])
    lines = [rendered(rules, hit, event(), "t") for hit in hits]
    assert '"metric_value":-1.005,"threshold":-0.500,' in lines[0]
    assert '"metric_value":-0.007,' in lines[1]


# -- whole rulesets, said again naively --------------------------------------------------------------------------------

Row = dict[str, Any]
TESTS: dict[str, Callable[[Row], bool]] = {
    "cash": lambda row: row["cash"],
    "kind == 'pay'": lambda row: row["kind"] == "pay",
    "kind == 'pay' and cash": lambda row: row["kind"] == "pay" and row["cash"],
}


@st.composite
def rulesets(draw: st.DrawFn) -> tuple[list[Row], list[Row]]:
    """Metrics m0, m1, ... and scenarios s0, s1, ...; scenario n uses a metric up to n and counts scenarios before n."""
    size = draw(st.integers(1, 4))
    where = st.sampled_from([None, *TESTS])
    metrics, scenarios = [], []
    for number in range(size):
        earlier = st.lists(st.integers(0, number - 1), min_size=1, max_size=2, unique=True) if number else st.none()
        metrics.append(
            {
                "of": draw(st.one_of(st.none(), earlier)), "by": draw(st.sampled_from(["account", "kind"])),
                "window": draw(st.sampled_from([5, 10, 15])), "where": draw(where),
            }
        )  # fmt: skip
        scenarios.append(
            {
                "on": draw(st.one_of(where, earlier)), "and": draw(where),
                "repeat": draw(st.sampled_from(["every", "edge"])), "metric": draw(st.integers(0, number)),
                "op": draw(st.sampled_from([">", ">=", "<", "=="])), "n": draw(st.integers(0, 4)),
                "subject": draw(st.sampled_from(["account", "other"])),
            }
        )  # fmt: skip
    return metrics, scenarios


def written(metrics: list[Row], scenarios: list[Row]) -> str:
    """Return the text of a generated ruleset."""
    lines = [HEAD, "[metric]"]
    for number, metric in enumerate(metrics):
        ids = [f"s{item}" for item in metric["of"] or ()]
        fn = f"count(flags, of={ids})" if ids else "count"
        tail = f', where = "{metric["where"]}"' if metric["where"] else ""
        lines.append(f'm{number} = {{ fn = "{fn}", by = "{metric["by"]}", window = "{metric["window"]}s"{tail} }}')
    for number, item in enumerate(scenarios):
        when = f"m{item['metric']} {item['op']} {item['n']}" + (f" and {item['and']}" if item["and"] else "")
        lines += [f"[scenario.s{number}]", "typology = 't'", "version = 1", "severity = 'low'", f'when = "{when}"']
        lines += [f"subject = '{item['subject']}'", f"measure = 'm{item['metric']}'", "threshold = 0"]
        lines += [f"repeat = '{item['repeat']}'"]
        if isinstance(item["on"], str):
            lines.append(f'on = "{item["on"]}"')
        elif item["on"]:
            lines.append(f"on.of = {[f's{k}' for k in item['on']]}")
    return "\n".join(lines) + "\n"


def naive(metrics: list[Row], scenarios: list[Row], rows: list[Row]) -> list[tuple[int, int, int]]:
    """Rescan all history for every value; return (row, scenario, metric's value)."""
    hits: list[tuple[int, int, int]] = []
    latched: set[tuple[int, str]] = set()
    held: list[dict[int, bool]] = []

    def counts(metric: Row, row: Row, then: int) -> bool:
        past = rows[then]
        return (
            past[metric["by"]] == row[metric["by"]]
            and row["second"] - past["second"] <= metric["window"]
            and (metric["where"] is None or TESTS[metric["where"]](past))
            and (metric["of"] is None or any(held[then][k] for k in metric["of"]))
        )

    for now, row in enumerate(rows):
        held.append({})
        for number, item in enumerate(scenarios):
            value = sum(counts(metrics[item["metric"]], row, then) for then in range(now + 1))
            on = item["on"]
            looked_at = TESTS[on](row) if isinstance(on, str) else on is None or any(held[now][k] for k in on)
            when = OPERATORS[item["op"]](value, item["n"]) and (item["and"] is None or TESTS[item["and"]](row))
            held[now][number] = looked_at and when
            latch = (number, row[item["subject"]])
            if looked_at and when and (item["repeat"] == "every" or latch not in latched):
                hits.append((now, number, value))
            if looked_at:
                (latched.add if when else latched.discard)(latch)
    return hits


EVENT_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "step": st.sampled_from([0, 0, 1, 4, 5, 10, 11, 40]), "account": st.sampled_from("ab"),
            "other": st.sampled_from("ab"), "kind": st.sampled_from(["pay", "fee"]), "cash": st.booleans(),
        }
    ),
    max_size=40,
)  # fmt: skip


@pytest.mark.parametrize("small", [2048, 0])
def test_whole_rulesets_agree_with_a_naive_evaluator(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated rulesets over generated events, swept at random: hit for hit, value for value."""
    monkeypatch.setattr(state_cells, "SMALL", small)
    monkeypatch.setattr(state_cells, "PURGE_WINDOWS", 1)

    @settings(max_examples=200, deadline=None)
    @given(rulesets(), EVENT_ROWS, st.lists(st.integers(0, 9), min_size=40, max_size=40))
    def check(ruleset: tuple[list[Row], list[Row]], steps: list[Row], sweeps: list[int]) -> None:
        second, rows = 0, []
        for step in steps:
            second += step["step"]
            rows.append({key: value for key, value in step.items() if key != "step"} | {"second": second})
        metrics, scenarios = ruleset
        rules = load(written(metrics, scenarios))
        state = rules.new_state()
        evaluate = rules.bind(state)
        hits: list[tuple[Any, ...]] = []
        for number, row in enumerate(rows):
            time = START + dt.timedelta(seconds=row["second"])
            fields = {key: value for key, value in row.items() if key != "second"}
            hits += [(number, *hit[1:3]) for hit in evaluate([event(**fields)], [time])]
            state.sweep(time, sweeps[number])
        assert hits == naive(metrics, scenarios, rows)

    check()


# -- the reference -----------------------------------------------------------------------------------------------------


def documented(heading: str) -> list[str]:
    """Return the TOML examples under a heading of config/README.md."""
    text = (REPOSITORY / "config" / "README.md").read_text()
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```toml\n(.*?)```", section, re.DOTALL)


def test_the_documented_contract_compiles() -> None:
    """And its money and optional fields can be used in rules as documented."""
    (example,) = documented("Contracts")
    contract = compile_contract(example.encode(), "README.md")
    text = scenario("channel == 'branch' and amount > 5").replace("demo/2", contract.label)
    assert load_ruleset(text.encode(), "r.toml", contract).money_columns == ("amount",)
