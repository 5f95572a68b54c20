"""A ruleset of the demo contract run event by event, its records read back, for tests of what constructs do."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Final

import scenario_demo
from scenario_demo import HEAD, MINOR, START
from scenario_rig import rendered
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.scenarios import FrozenState, Ruleset, load_ruleset

if TYPE_CHECKING:
    from collections.abc import Mapping

# the demo contract with an optional text short enough to be shown
CONTRACT: Final = compile_contract(
    scenario_demo.CONTRACT.text.replace(b'note = { type = "string",', b'note = { type = "string", max_length = 64,'),
    "demo.toml",
)
Row = dict[str, Any]


def event(**values: Any) -> Any:
    """Return one event, as the demo does."""
    made = scenario_demo.event(**values)
    return CONTRACT.event_type(**{name: getattr(made, name) for name in CONTRACT.by_name})


def block(name: str, *lines: str, measure: str = "amount", threshold: str = "0") -> str:
    """Return a scenario; a line overrides what it says again."""
    keys = {"typology": "'t'", "version": "1", "severity": "'low'", "when": "'true'"}
    keys |= {"measure": f'"{measure}"', "threshold": f'"{threshold}"'}
    keys |= dict(line.split(" = ", 1) for line in lines)
    return f"[scenario.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


def load(*parts: str, files: Mapping[str, bytes] | None = None) -> Ruleset:
    """Return the ruleset of these parts."""
    return load_ruleset((HEAD + "\n".join(parts)).encode(), "r.toml", CONTRACT, files)


class Run:
    """A ruleset with its state, fed event by event."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.ruleset, self.state = ruleset, ruleset.new_state()
        self.rows = 0

    def feed(self, *rows: Row) -> list[tuple[int, str, str]]:
        """Return (number of the row, scenario, projection) for each hit; every row is a batch and a restart."""
        return [(flag["row"], flag["rule_name"], flag["to"]) for flag in self.flags(*rows)]

    def flags(self, *rows: Row) -> list[dict[str, Any]]:
        """Return the records, with the number of the row and the projection."""
        found = []
        for row in rows:
            values = dict(row)
            time = START + dt.timedelta(seconds=values.pop("second", 0))
            money = MINOR | {key: values.pop(key) for key in list(values) if key in MINOR}
            item = event(**{"event_id": f"e{self.rows}"} | values)
            self.state = FrozenState.decode(list(self.state.freeze().encode_chunks()))
            columns = [[money[name]] for name in self.ruleset.money_columns]
            for hit in self.ruleset.bind(self.state)([item], [time], *columns):
                line = rendered(self.ruleset, hit, item, "t", offset=7)
                found.append(json.loads(line) | {"row": self.rows, "to": self.ruleset.projection_of(hit), "line": line})
            self.rows += 1
        return found


def rows_of(*hits: tuple[int, str, str]) -> list[int]:
    """Return the numbers of the rows only."""
    return [hit[0] for hit in hits]
