"""What is computed when, what is shared, and the identity of everything that holds state.

Owns: the digests, the sharing of metrics, and the order of the fused pass as a list of guarded blocks. Leaves to
`generating` how a block is said in Python, and to `state` what a cell keeps.

Digests (SHA-256 over a canonical JSON text in which metrics stand as their own digests, so names do not matter):
- metric: function, `by`, window, condition. The state of a metric is kept under it, so two metrics that say the same
  share one state, and an unchanged metric keeps its state when the rules change;
- condition of a scenario: `on` and `when` with parameters filled in. A metric that counts flags depends on the
  conditions it counts and on nothing else of those scenarios;
- closure of a scenario: all that can change its flags, field types included. It stands in every flag.

Invariants: blocks are in an order in which every value is computed before it is read; scenarios keep file order among
themselves, so that flags come out in file order; a metric sees each of its events exactly once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from tidewaiter.core.scenarios.terms import Term, conjunction

if TYPE_CHECKING:
    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.checking import Checked, CheckedScenario, Metric

LANGUAGE = 1  # part of every digest: raised when the same text would come to mean something else


@dataclass(frozen=True)
class CellSpec:
    """State to be kept: `kind` is "count" (`window` in seconds) or "edge" (`idle_with`: see `state.EdgeCell`)."""

    kind: str
    digest: str
    label: str
    window: int = 0
    idle_with: str = ""


@dataclass
class MetricStep:
    """Compute a metric at the events of its block; `always` asks for its value at all other events too."""

    cell: int
    metric: Metric
    always: bool = False


@dataclass(frozen=True)
class ScenarioStep:
    """Evaluate scenario `index`: `rest` is what of its condition the block's guard does not already say."""

    index: int
    scenario: CheckedScenario
    rest: Term | None
    latch: int | None


@dataclass
class Block:
    """Steps taken at the events where all of `guard` holds; `key` is the guard in canonical form."""

    key: frozenset[str]
    guard: Term | None
    steps: list[MetricStep | ScenarioStep] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """A ruleset ready to be generated."""

    blocks: tuple[Block, ...]
    cells: tuple[CellSpec, ...]
    cell_of: dict[str, int]  # metric name -> index into cells
    counted: frozenset[int]  # scenarios whose outcome a later metric or `on` reads
    digests: tuple[str, ...]  # closure digest of each scenario
    canonical: tuple[str, ...]  # the texts of which `digests` are the hashes
    index_of: dict[str, int]  # scenario id -> index
    money_columns: tuple[str, ...]


def digest(text: str) -> str:
    """Return the SHA-256 of a canonical text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def plan_ruleset(checked: Checked, contract: Contract) -> Plan:
    """Plan a checked ruleset."""
    return _Planner(checked, contract).plan()


class _Planner:
    def __init__(self, checked: Checked, contract: Contract) -> None:
        self.checked, self.contract = checked, contract
        self.metrics: dict[str, str] = {}  # name -> digest
        self.conditions: dict[str, str] = {}  # scenario id -> digest
        self.cells: list[CellSpec] = []
        self.cell_of: dict[str, int] = {}
        self.blocks: list[Block] = []
        self.block_of_cell: dict[int, int] = {}
        self.index_of = {item.decl.id: index for index, item in enumerate(checked.scenarios)}

    def plan(self) -> Plan:
        for index, scenario in enumerate(self.checked.scenarios):
            # the metrics of a scenario count only earlier scenarios, whose conditions are known by now
            for name in scenario.metrics:
                self.metrics[name] = self.metric_digest(self.checked.metrics[name])
            self.conditions[scenario.decl.id] = digest(
                self.text(["condition", LANGUAGE, self.canonical(scenario.on), self.canonical(scenario.when)])
            )
            self.place(index, scenario)
        canonical = tuple(self.closure(scenario) for scenario in self.checked.scenarios)
        guards = [block.guard for block in self.blocks if block.guard]
        read = [term for guard in guards for term in guard.walk() if term.op == "flagged"]
        return Plan(
            blocks=tuple(self.blocks),
            cells=tuple(self.cells),
            cell_of=self.cell_of,
            counted=frozenset(
                self.index_of[item] for term in read if isinstance(term.value, tuple) for item in term.value
            ),
            digests=tuple(map(digest, canonical)),
            canonical=canonical,
            index_of=self.index_of,
            money_columns=self.money_columns(),
        )

    # -- identity ------------------------------------------------------------------------------------------------------

    @staticmethod
    def text(value: Any) -> str:  # noqa: ANN401 - nested lists of JSON values
        return msgspec.json.encode(value, order="deterministic").decode()

    def canonical(self, term: Term | None) -> Any:  # noqa: ANN401 - nested lists of JSON values
        if term is None:
            return None
        match term.op:
            case "const":
                return ["const", term.type.label, term.value]
            case "field":
                return ["field", term.type.label, term.value]
            case "metric":
                return ["metric", self.metrics[str(term.value)]]
            case "flagged":
                ids = term.value if isinstance(term.value, tuple) else ()
                return ["flagged", sorted({self.conditions[item] for item in ids})]
            case "compare":
                return ["compare", term.value, [self.canonical(arg) for arg in term.args]]
        return [term.op, [self.canonical(arg) for arg in term.args]]

    def metric_digest(self, metric: Metric) -> str:
        by = self.contract.by_name[metric.by]
        return digest(self.text(["count", LANGUAGE, by.name, by.kind, metric.window, self.canonical(metric.where)]))

    def closure(self, scenario: CheckedScenario) -> str:
        decl = scenario.decl
        return self.text(
            {
                "language": LANGUAGE,
                "id": decl.id,
                "version": decl.version,
                "severity": decl.severity,
                "typology": decl.typology,
                "subject": scenario.subject,
                "on": self.canonical(scenario.on),
                "when": self.canonical(scenario.when),
                "measure": self.canonical(scenario.measure),
                "threshold": self.canonical(scenario.threshold),
                "window": scenario.window,
                "repeat": decl.repeat,
                "params": {name: [kind.label, value] for name, (kind, value) in scenario.params.items()},
                "metrics": {name: self.metrics[name] for name in scenario.metrics},
            }
        )

    def money_columns(self) -> tuple[str, ...]:
        """The money fields that are read, in the order of the contract."""
        read: set[str] = set()
        for scenario in self.checked.scenarios:
            terms = [scenario.on, scenario.when, scenario.measure, scenario.threshold]
            terms += [self.checked.metrics[name].where for name in scenario.metrics]
            read |= {name for term in terms if term for name in term.names("field")}
        return tuple(item.name for item in self.contract.fields if item.kind == "money" and item.name in read)

    # -- order ---------------------------------------------------------------------------------------------------------

    def key(self, parts: tuple[Term, ...]) -> frozenset[str]:
        return frozenset(self.text(self.canonical(part)) for part in parts)

    def place(self, index: int, scenario: CheckedScenario) -> None:
        for name in scenario.metrics:
            self.place_metric(self.checked.metrics[name])
        guard = scenario.on.conjuncts if scenario.on else ()
        rest = scenario.when.conjuncts
        if scenario.decl.repeat == "every":
            # a part without metrics costs no state and goes first; with "edge" a false `when` re-arms and must be seen
            guard += tuple(part for part in rest if not part.names("metric"))
            rest = tuple(part for part in rest if part.names("metric"))
        key = self.key(guard)
        for name in scenario.metrics:
            step = self.metric_step(self.cell_of[name])
            # where the guard implies the metric's condition, its value is always the one of this very event
            step.always |= not key >= self.blocks[self.block_of_cell[self.cell_of[name]]].key
        latch = self.latch(scenario) if scenario.decl.repeat == "edge" else None
        block = self.block_for_scenario(key, guard, scenario)
        block.steps.append(ScenarioStep(index, scenario, conjunction(rest), latch))

    def place_metric(self, metric: Metric) -> None:
        name, identity = metric.name, self.metrics[metric.name]
        for cell, spec in enumerate(self.cells):
            if spec.digest == identity:
                self.cell_of[name] = cell
                return
        self.cell_of[name] = cell = len(self.cells)
        self.cells.append(CellSpec("count", identity, f"metric {name}", metric.window))
        guard = metric.where.conjuncts if metric.where else ()
        key = self.key(guard)
        # an earlier block with the same guard will do: what the guard reads was computed before it
        place = next((number for number, block in enumerate(self.blocks) if block.key == key), None)
        if place is None:
            place = len(self.blocks)
            self.blocks.append(Block(key, conjunction(guard)))
        self.blocks[place].steps.append(MetricStep(cell, metric))
        self.block_of_cell[cell] = place

    def metric_step(self, cell: int) -> MetricStep:
        steps = self.blocks[self.block_of_cell[cell]].steps
        return next(step for step in steps if isinstance(step, MetricStep) and step.cell == cell)

    def block_for_scenario(self, key: frozenset[str], guard: tuple[Term, ...], scenario: CheckedScenario) -> Block:
        """Return the last block with this guard if nothing there or later forbids it, else a new one at the end."""
        needed = max((self.block_of_cell[self.cell_of[name]] for name in scenario.metrics), default=0)
        for place in range(len(self.blocks) - 1, needed - 1, -1):
            if self.blocks[place].key == key:
                return self.blocks[place]
            if any(isinstance(step, ScenarioStep) for step in self.blocks[place].steps):
                break  # an earlier scenario's flag must come out first
        self.blocks.append(Block(key, conjunction(guard)))
        return self.blocks[-1]

    def latch(self, scenario: CheckedScenario) -> int:
        decl = scenario.decl
        identity = digest(self.text(["edge", LANGUAGE, decl.id, scenario.subject, self.conditions[decl.id]]))
        spec = CellSpec("edge", identity, f"scenario {decl.id}", idle_with=self.idle_with(scenario))
        self.cells.append(spec)
        return len(self.cells) - 1

    def idle_with(self, scenario: CheckedScenario) -> str:
        """Return the metric whose idleness proves that the next event looked at re-arms the scenario, "" if none does.

        It must be kept per subject, be above 1 for `when` to hold, and count only events that are looked at: then the
        next such event finds it at 0 or 1 and re-arms, so a latch may be forgotten as soon as the metric is idle.
        """
        on = self.key(scenario.on.conjuncts if scenario.on else ())
        for part in scenario.when.conjuncts:
            if part.op != "compare" or len(part.args) != 2:  # noqa: PLR2004 - not a chain
                continue
            (left, right), operator = part.args, part.value
            if left.op != "metric" or right.op != "const" or not isinstance(right.value, int):
                continue
            metric = self.checked.metrics[str(left.value)]
            counted = self.key(metric.where.conjuncts if metric.where else ())
            above_one = (operator == (">",) and right.value >= 1) or (operator == (">=",) and right.value > 1)
            if above_one and metric.by == scenario.subject and on <= counted:
                return self.metrics[metric.name]
        return ""
