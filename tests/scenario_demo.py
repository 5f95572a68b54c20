"""A demo contract for tests of the scenario language, and the shortest way to a ruleset for it."""

from __future__ import annotations

import datetime as dt
from typing import Any

from scenario_rig import account_contract
from tidewaiter.core.scenarios import Ruleset, load_ruleset

CONTRACT = account_contract(
    "demo",
    2,
    """\
other = { type = "string", max_length = 64 }
kind = { type = "enum", values = ["pay", "receive", "fee"] }
side = { type = "enum", values = ["in", "out"] }
amount = { type = "money", scale = 2 }
balance = { type = "money", scale = 2 }
points = { type = "money", scale = 3 }
count = { type = "integer" }
step = { type = "integer" }
cash = { type = "boolean" }
note = { type = "string", required = false }
tag = { type = "string", required = false, default = "none" }
""",
)
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HEAD = 'ruleset = "demo"\nversion = 1\ncontract = "demo/2"\n'


def event(**given_values: Any) -> Any:
    """Return one event; money in minor units beside it, as screening hands it over."""
    values = {
        "event_id": "e", "at": START, "account": "a", "other": "b", "kind": "pay", "side": "in", "amount": 0.0,
        "balance": 0.0, "points": 0.0, "count": 0, "step": 0, "cash": False, "tag": "none",
    }  # fmt: skip
    return CONTRACT.event_type(**values | given_values)


def scenario(when: str, *, extra: str = "", measure: str = "amount", threshold: str = "'0'") -> str:
    """Return a ruleset with one scenario."""
    return (
        f"{HEAD}[scenario.one]\ntypology = 'test'\nversion = 1\nseverity = 'low'\n"
        f"when = {toml_text(when)}\nmeasure = {toml_text(measure)}\nthreshold = {threshold}\n{extra}"
    )


def toml_text(text: str) -> str:
    """Return `text` as a TOML basic string."""
    escaped = "".join(f"\\u{ord(c):04x}" if c < " " or c in '"\\\x7f' else c for c in text)
    return f'"{escaped}"'


def load(text: str) -> Ruleset:
    """Load a ruleset for the demo contract."""
    return load_ruleset(text.encode(), "r.toml", CONTRACT)


MINOR: dict[str, int] = {"amount": 0, "balance": 0, "points": 0}


def holds(when: str, *, extra: str = "", **values: Any) -> bool:
    """Say whether `when` holds for one event; money as minor units."""
    rules = load(scenario(when, extra=extra))
    money = MINOR | {key: values.pop(key) for key in list(values) if key in MINOR}
    columns = [[money[name]] for name in rules.money_columns]
    return bool(rules.bind(rules.new_state())([event(**values)], [START], *columns))
