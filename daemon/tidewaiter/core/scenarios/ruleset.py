"""A loaded ruleset: scenarios ready to run over events.

Owns: the way from the file's bytes to a running ruleset (parse, check, plan, generate), and the interface the engine
uses. Leaves each of those steps to the module of its name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.audit import MAX_ENTRY_BYTES
from tidewaiter.core.contract import MAX_ID_LENGTH, QUOTED_TIME_LENGTH, Contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios.checking import CheckedScenario, check_ruleset
from tidewaiter.core.scenarios.flags import make_renderer, value_text
from tidewaiter.core.scenarios.generating import Hit, compile_source, generate_source
from tidewaiter.core.scenarios.planning import Plan, plan_ruleset
from tidewaiter.core.scenarios.state import RuleState, empty_cell
from tidewaiter.core.scenarios.syntax import read_ruleset
from tidewaiter.core.toml_source import TomlSource

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_RULESET_BYTES: Final = 1 << 20
_LONGEST_FLAG: Final = MAX_ENTRY_BYTES - 1024  # the entry that carries it adds less than that


@dataclass(frozen=True)
class Scenario:
    """What is known about one scenario of a loaded ruleset.

    `parameters` are the resolved ones as JSON text (money with its decimals); `window` is in seconds; `digest` is the
    SHA-256 of `canonical`, the text of all that can change the scenario's flags; `line` is where it stands in the file.
    """

    id: str
    title: str
    typology: str
    risk_ref: str
    version: int
    severity: str
    status: str
    subject: str
    repeat: str
    window: int
    parameters: dict[str, str]
    metrics: tuple[str, ...]
    digest: str
    canonical: str
    line: int


class Ruleset:
    """The scenarios of one file, compiled for one contract."""

    def __init__(self, text: bytes, file: str, contract: Contract) -> None:
        """Load `text`. Raises ConfigError."""
        if len(text) > MAX_RULESET_BYTES:
            raise ConfigError(f"{file}: is {len(text)} bytes long", hint=f"a ruleset has at most {MAX_RULESET_BYTES}")
        source = TomlSource(text, file, pictures=True, exact=True)
        decl = read_ruleset(source)
        checked = check_ruleset(decl, source, contract)
        plan = plan_ruleset(checked, contract)
        self.name, self.version = decl.name, decl.version
        self.text, self.file = text, file
        self.digest = hashlib.sha256(text).hexdigest()
        self.scenarios = tuple(_describe(item, plan, index) for index, item in enumerate(checked.scenarios))
        for scenario, item in zip(self.scenarios, checked.scenarios, strict=True):
            length = contract.by_name[scenario.subject].max_length
            if length is not None and length > MAX_ID_LENGTH:
                raise source.error(
                    ("scenario", item.decl.id),
                    f"its subject {scenario.subject} may be {length} characters long",
                    hint=f"give the field max_length = {MAX_ID_LENGTH} or less in the contract",
                )
            longest = _longest_flag(scenario, contract)
            if longest > _LONGEST_FLAG:
                raise source.error(
                    ("scenario", item.decl.id, "params"),
                    f"a flag could be {longest} bytes long",
                    hint=f"at most {_LONGEST_FLAG} fit an audit entry: shorten parameters or names",
                )
        self.money_columns = plan.money_columns
        # !a keeps a strange file name on its own line of the text
        self.python_source = generate_source(plan, f"ruleset {self.name} version {self.version}, {file!a}")
        self._plan = plan
        self._bind = compile_source(self.python_source, self.name)
        self._renderers = [
            make_renderer(item, plan.digests[index], contract.id_field) for index, item in enumerate(checked.scenarios)
        ]

    def new_state(self) -> RuleState:
        """Return an empty state."""
        return RuleState(map(empty_cell, self._plan.cells))

    def adopt_state(self, old: RuleState | None) -> tuple[RuleState, list[str]]:
        """Return a state with those cells of `old` that mean the same, and the names of the cells that start empty.

        Cells kept are shared with `old`, which is not to be used any more.
        """
        kept = old.cells if old is not None else {}
        started = [spec.label for spec in self._plan.cells if spec.digest not in kept]
        cells = (kept.get(spec.digest) or empty_cell(spec) for spec in self._plan.cells)
        return RuleState(cells), started

    def bind(self, state: RuleState) -> Callable[..., list[Hit]]:
        """Return ``evaluate(events, effective_times, *money_columns)`` over `state`; it adds to the state as it runs.

        A money column holds whole minor units. Hits come in the order of the events, then of the file.
        """
        return self._bind([state.cells[spec.digest] for spec in self._plan.cells])

    def render(self, hit: Hit, event: Any, event_time_text: str, ingest_time_text: str | None, offset: int) -> bytes:  # noqa: ANN401 - a compiled Struct
        """Return the flag of `hit` as one line of JSON; `offset` is the global byte offset of the event's line."""
        return self._renderers[hit[1]](hit, event, event_time_text, ingest_time_text, offset)


def load_ruleset(text: bytes, file: str, contract: Contract) -> Ruleset:
    """Return the ruleset in `text`. Raises ConfigError with file, line, column, and what is allowed there."""
    return Ruleset(text, file, contract)


def _longest_flag(scenario: Scenario, contract: Contract) -> int:
    """Return an upper bound of a flag's length in bytes, over all events that the contract accepts.

    A character of an id takes at most six bytes in JSON, a time text at most `QUOTED_TIME_LENGTH` characters; keys,
    numbers and digests take less than a thousand.
    """
    ids = 2 * (contract.by_name[contract.id_field].max_length or 0)
    ids += contract.by_name[scenario.subject].max_length or 64
    own = scenario.id, scenario.id, scenario.severity, scenario.typology
    names = sum(6 * len(name) + 30 for name in (*own, *scenario.parameters, *scenario.metrics))
    values = sum(len(value.encode()) for value in scenario.parameters.values())  # JSON already
    return 1000 + 6 * (ids + 2 * QUOTED_TIME_LENGTH) + names + values


def _describe(item: CheckedScenario, plan: Plan, index: int) -> Scenario:
    decl = item.decl
    return Scenario(
        id=decl.id,
        title=decl.title,
        typology=decl.typology,
        risk_ref=decl.risk_ref,
        version=decl.version,
        severity=decl.severity,
        status=decl.status,
        subject=item.subject,
        repeat=decl.repeat,
        window=item.window,
        parameters={name: value_text(*value) for name, value in item.params.items()},
        metrics=item.metrics,
        digest=plan.digests[index],
        canonical=plan.canonical[index],
        line=item.line,
    )
