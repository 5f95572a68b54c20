"""What is computed when, and what is shared: the fused pass as a list of guarded blocks.

Owns: the sharing of metrics, the cells, the order of the pass, the outcomes. Leaves to `planning_digests` the identity
of what is shared, to the `generating` rooms how a block is said in Python, and to the `state` rooms what a cell keeps.

Invariants: blocks are in an order in which every value is computed before it is read; scenarios keep file order among
themselves, so that flags come out in file order, and typologies come last; a metric sees each of its events exactly
once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tidewaiter.core.scenarios.planning_digests import LANGUAGE, Digests, canonical_text, digest, is_optional
from tidewaiter.core.scenarios.state_cells import CellSpec
from tidewaiter.core.scenarios.terms import BOOLEAN, Term

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.model import Checked, CheckedScenario, CheckedTypology, Metric, Variant

PRESENT: Final = "present"  # a condition beside those of the language: the field `value` is not absent
LASTING: Final = ("since", "kept")  # kinds of cells that keep a key for ever
RECORDED: Final = ("count", "sum", "distinct", "latest", "shifted", "cooldown", "after", *LASTING)  # may share a shelf


@dataclass
class MetricStep:
    """Add the event to a metric.

    `lazy`: its value is also read at events that are not its own. `counted_on` are scenarios of `of`.
    """

    cell: int
    metric: Metric
    lazy: bool = False


@dataclass(frozen=True)
class ScenarioStep:
    """Evaluate scenario `index`.

    `unsure` are conjuncts of `on` that may be unknown; `rests` is, for each variant, what of `when` the block's guard
    does not already say. `latch`, `cooldown` and `after` are cells, None for none. `outcomes` are those of the
    variants, `suppressed` those that the cooldown holds back (None: only counted).
    """

    index: int
    scenario: CheckedScenario
    unsure: tuple[Term, ...]
    rests: tuple[tuple[Term, ...], ...]
    latch: int | None
    cooldown: int | None
    after: int | None
    outcomes: tuple[int, ...]
    suppressed: tuple[int | None, ...]


@dataclass(frozen=True)
class StoreStep:
    """Keep the event as the candidate of a scenario's `after`."""

    cell: int
    scenario: CheckedScenario


@dataclass(frozen=True)
class TypologyStep:
    """Add up a typology's points; `outcome`, `suppressed` and cells as in `ScenarioStep`."""

    index: int
    typology: CheckedTypology
    latch: int | None
    cooldown: int | None
    outcome: int
    suppressed: int | None


Step = MetricStep | ScenarioStep | StoreStep | TypologyStep


@dataclass
class Block:
    """Steps taken at the events where all of `guard` holds; `key` is the guard in canonical form."""

    key: frozenset[str]
    guard: tuple[Term, ...]
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What a hit can be: a line of `projection` by a scenario's variant, or by a typology (`variant` 0)."""

    projection: str
    id: str
    variant: int
    suppressed: bool


@dataclass(frozen=True)
class Record:
    """Cells by the same fields that share a shelf (see `state_cells`); those that keep a key for ever come last."""

    by: tuple[str, ...]
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A ruleset ready to be generated."""

    checked: Checked
    digests: Digests
    blocks: tuple[Block, ...]
    cells: tuple[CellSpec, ...]
    cell_of: dict[str, int]  # metric key -> index into cells
    counted: frozenset[int]  # scenarios whose outcome a later metric, `on` or typology reads
    scored: frozenset[int]  # scenarios whose band a typology reads
    index_of: dict[str, int]  # scenario id -> index
    outcomes: tuple[Outcome, ...]
    money_columns: tuple[str, ...]
    records: tuple[Record, ...] = ()

    def key(self, parts: Iterable[Term]) -> frozenset[str]:
        """Return conjuncts in canonical form, derived fields taken for what they stand for."""
        return condition_key(self.digests, parts)


def condition_key(digests: Digests, parts: Iterable[Term]) -> frozenset[str]:
    """Return conjuncts in canonical form, derived fields taken for what they stand for."""
    return frozenset(canonical_text(digests.term(part)) for whole in parts for part in whole.said)


def is_cheap(term: Term) -> bool:
    """Whether a condition needs no state and always has an answer."""
    return not term.unknowable and not term.names("metric") and not term.names("earlier")


def plan_ruleset(checked: Checked, contract: Contract) -> Plan:
    """Plan a checked ruleset."""
    return _Planner(checked, contract).plan()


class _Planner:
    def __init__(self, checked: Checked, contract: Contract) -> None:
        self.checked, self.contract = checked, contract
        self.digests = Digests(checked, contract)
        self.cells: list[CellSpec] = []
        self.cell_of: dict[str, int] = {}
        self.blocks: list[Block] = []
        self.block_of_cell: dict[int, int] = {}
        self.outcomes: list[Outcome] = []
        self.index_of = {item.decl.id: index for index, item in enumerate(checked.scenarios)}

    def plan(self) -> Plan:
        for index, scenario in enumerate(self.checked.scenarios):
            self.place(index, scenario)
        for index, typology in enumerate(self.checked.typologies):
            self.place_typology(index, typology)
        guards = [part for block in self.blocks for part in block.guard]
        read = [term for guard in guards for term in guard.walk() if term.op == "flagged"]
        weighed = {name for typology in self.checked.typologies for name in typology.weights}
        return Plan(
            checked=self.checked,
            digests=self.digests,
            blocks=tuple(self.blocks),
            cells=tuple(self.cells),
            cell_of=self.cell_of,
            counted=frozenset(
                self.index_of[item] for term in read if isinstance(term.value, tuple) for item in term.value
            ),
            scored=frozenset(self.index_of[name] for name in weighed),
            index_of=self.index_of,
            outcomes=tuple(self.outcomes),
            money_columns=self.money_columns(),
            records=shared_records(self.cells, self.blocks),
        )

    def money_columns(self) -> tuple[str, ...]:
        """The money fields that are read, in the order of the contract."""
        read: set[str] = set()
        for scenario in self.checked.scenarios:
            read |= {name for term in scenario_terms(scenario) for name in term.names("field")}
            read |= set(scenario.after.fields) if scenario.after else set()
            for variant in scenario.variants:
                for key in variant.metrics:
                    metric = self.checked.metrics[key]
                    read |= metric.where.names("field") if metric.where else set()
                    read |= {metric.field} if metric.field is not None else set()
        for typology in self.checked.typologies:
            read |= {name for piece in typology.reason if isinstance(piece, Term) for name in piece.names("field")}
        return tuple(item.name for item in self.contract.fields if item.kind == "money" and item.name in read)

    def key(self, parts: Iterable[Term]) -> frozenset[str]:
        return condition_key(self.digests, parts)

    def present(self, names: Iterable[str]) -> tuple[Term, ...]:
        """Return the conditions that fields are there, for those that may not be."""
        fields = dict.fromkeys(name for name in names if is_optional(self.contract, name))
        return tuple(Term(PRESENT, BOOLEAN, value=name) for name in fields)

    def outcome(self, projection: str, name: str, variant: int, *, suppressed: bool = False) -> int:
        self.outcomes.append(Outcome(projection, name, variant, suppressed))
        return len(self.outcomes) - 1

    def cell(self, spec: CellSpec) -> int:
        self.cells.append(spec)
        return len(self.cells) - 1

    # -- metrics -------------------------------------------------------------------------------------------------------

    def place_metric(self, metric: Metric) -> None:
        identity = self.digests.metrics[metric.key]
        for number, spec in enumerate(self.cells):
            if spec.digest == identity:
                self.cell_of[metric.key] = number
                return
        self.cell_of[metric.key] = cell = self.cell(_metric_spec(metric, identity))
        guard = metric.where.conjuncts if metric.where else ()
        guard += self.present((*metric.by, *([metric.field] if metric.field is not None else ())))
        key = self.key(guard)
        # an earlier block with the same guard will do: what the guard reads was computed before it
        place = next((number for number, block in enumerate(self.blocks) if block.key == key), None)
        if place is None:
            place = len(self.blocks)
            self.blocks.append(Block(key, guard))
        self.blocks[place].steps.append(MetricStep(cell, metric))
        self.block_of_cell[cell] = place

    def metric_step(self, cell: int) -> MetricStep:
        steps = self.blocks[self.block_of_cell[cell]].steps
        return next(step for step in steps if isinstance(step, MetricStep) and step.cell == cell)

    # -- scenarios -----------------------------------------------------------------------------------------------------

    def place(self, index: int, scenario: CheckedScenario) -> None:
        decl = scenario.decl
        for variant in scenario.variants:
            for name in variant.metrics:
                self.place_metric(self.checked.metrics[name])
        on = (scenario.on.conjuncts if scenario.on else ()) + self.present([scenario.subject])
        unsure = tuple(part for part in on if part.unknowable or part.op == PRESENT)
        guard = tuple(part for part in on if part not in unsure)
        rests = tuple(variant.when.conjuncts for variant in scenario.variants)
        if decl.repeat == "every" and not unsure:
            # a cheap part that is false for everybody settles it; with "edge" a false `when` re-arms and must be seen
            shared = frozenset.intersection(*(self.key(filter(is_cheap, rest)) for rest in rests))
            guard += tuple(part for part in rests[0] if is_cheap(part) and self.key([part]) <= shared)
            rests = tuple(
                tuple(part for part in rest if not (is_cheap(part) and self.key([part]) <= shared)) for rest in rests
            )
        key = self.key(guard)
        for variant, rest in zip(scenario.variants, rests, strict=True):
            # where what is known implies the metric's condition, its value is always the one of this very event
            known = key | self.key(filter(is_cheap, rest))
            for name in variant.metrics:
                step = self.metric_step(self.cell_of[name])
                step.lazy |= not known >= self.blocks[self.block_of_cell[step.cell]].key
        latch = self.latch(decl.id, scenario.subject, self.idle_with(scenario)) if decl.repeat == "edge" else None
        cooldown = self.cooldown(decl.id, scenario.subject, scenario.cooldown)
        after = self.after(scenario)
        shadow = decl.status == "shadow"
        numbers = range(len(scenario.variants))
        outcomes = tuple(self.outcome("shadow_flags" if shadow else "flags", decl.id, each) for each in numbers)
        suppressed: tuple[int | None, ...] = (None,) * len(numbers)
        if cooldown is not None and not shadow:
            suppressed = tuple(self.outcome("suppressed", decl.id, each, suppressed=True) for each in numbers)
        block = self.block_for_scenario(key, guard, scenario)
        block.steps.append(ScenarioStep(index, scenario, unsure, rests, latch, cooldown, after, outcomes, suppressed))
        if scenario.after is not None and after is not None:
            found = scenario.after.where.conjuncts + self.present([scenario.after.by])
            self.blocks.append(Block(self.key(found), found, [StoreStep(after, scenario)]))

    def block_for_scenario(self, key: frozenset[str], guard: tuple[Term, ...], scenario: CheckedScenario) -> Block:
        """Return the last block with this guard if nothing there or later forbids it, else a new one at the end."""
        cells = [self.cell_of[name] for variant in scenario.variants for name in variant.metrics]
        needed = max((self.block_of_cell[cell] for cell in cells), default=0)
        for place in range(len(self.blocks) - 1, needed - 1, -1):
            if self.blocks[place].key == key:
                return self.blocks[place]
            if any(isinstance(step, ScenarioStep) for step in self.blocks[place].steps):
                break  # an earlier scenario's flag must come out first
        self.blocks.append(Block(key, guard))
        return self.blocks[-1]

    def place_typology(self, index: int, typology: CheckedTypology) -> None:
        decl = typology.decl
        latch = self.typology_latch(typology) if decl.repeat == "edge" else None
        cooldown = self.cooldown(decl.id, typology.subject, typology.cooldown)
        shadow = decl.status == "shadow"
        outcome = self.outcome("shadow_flags" if shadow else "flags", decl.id, 0)
        suppressed = None
        if cooldown is not None and not shadow:
            suppressed = self.outcome("suppressed", decl.id, 0, suppressed=True)
        guard = (Term("flagged", BOOLEAN, value=tuple(typology.weights)),)
        step = TypologyStep(index, typology, latch, cooldown, outcome, suppressed)
        self.blocks.append(Block(self.key(guard), guard, [step]))

    # -- what scenarios remember ---------------------------------------------------------------------------------------

    def state_digest(self, what: str, name: str, subject: str, *more: object) -> str:
        keyed = self.digests.field(subject)
        return digest(canonical_text([what, LANGUAGE, name, keyed, self.digests.conditions[name], *more]))

    def latch(self, name: str, subject: str, idle_with: str) -> int:
        identity = self.state_digest("edge", name, subject)
        return self.cell(CellSpec("edge", identity, f"scenario {name}", idle_with=idle_with))

    def typology_latch(self, typology: CheckedTypology) -> int:
        name = typology.decl.id
        return self.cell(CellSpec("edge", self.state_digest("edge", name, typology.subject), f"typology {name}"))

    def cooldown(self, name: str, subject: str, length: int) -> int | None:
        if not length:
            return None
        identity = self.state_digest("cooldown", name, subject, length)
        return self.cell(CellSpec("cooldown", identity, f"cooldown of {name}", window=length))

    def after(self, scenario: CheckedScenario) -> int | None:
        after, name = scenario.after, scenario.decl.id
        if after is None:
            return None
        # whether a candidate was used up depends on the condition
        identity = self.state_digest("after", name, scenario.subject, list(after.fields))
        return self.cell(CellSpec("after", identity, f"after of {name}", window=after.within))

    def idle_with(self, scenario: CheckedScenario) -> str:
        """Return the metric whose idleness proves that the next event looked at re-arms the scenario, "" if none does.

        It must be a plain count kept per subject, be above 1 for `when` to hold, and count only events that are looked
        at: then the next such event finds it at 0 or 1 and re-arms, so a latch may be forgotten as soon as the metric
        is idle. With several variants, it must be so for each of them by the same metric.
        """
        if scenario.after is not None:
            return ""
        found = {self.idle_with_one(scenario, variant) for variant in scenario.variants}
        return found.pop() if len(found) == 1 else ""

    def idle_with_one(self, scenario: CheckedScenario, variant: Variant) -> str:
        on = self.key(scenario.on.conjuncts if scenario.on else ())
        for part in variant.when.conjuncts:
            if part.op != "compare" or len(part.args) != 2:  # noqa: PLR2004 - not a chain
                continue
            (left, right), operator = part.args, part.value
            if left.op != "metric" or right.op != "const" or not isinstance(right.value, int):
                continue
            metric = self.checked.metrics[str(left.value)]
            if _kind(metric) != "count" or left.unknowable:
                continue
            counted = self.key(metric.where.conjuncts if metric.where else ())
            above_one = (operator == (">",) and right.value >= 1) or (operator == (">=",) and right.value > 1)
            if above_one and metric.by == (scenario.subject,) and on <= counted:
                return self.digests.metrics[metric.key]
        return ""


def scenario_terms(scenario: CheckedScenario) -> list[Term]:
    """Return all terms of a scenario itself, without those of its metrics."""
    terms: list[Term | None] = [scenario.on, scenario.after.where if scenario.after else None]
    for variant in scenario.variants:
        terms += [variant.population, variant.when, variant.measure, variant.threshold, variant.score_value]
        terms += [piece for piece in variant.reason if isinstance(piece, Term)]
    return [term for term in terms if term is not None]


def shared_records(cells: Sequence[CellSpec], blocks: Iterable[Block]) -> tuple[Record, ...]:
    """Return which cells keep what they know of a key in one record, where at least two do.

    No key is kept for longer than without: the cell with the longest reach must keep something at every event at which
    any of the others may, for then it would keep the key that long anyway. A cooldown keeps something at hits only.
    """
    written = {
        cell: (by, block.key)
        for block in blocks
        for step in block.steps
        for cell, by in _written(step)
        if cells[cell].kind in RECORDED
    }

    def place(cell: int) -> tuple[object, ...]:
        spec = cells[cell]
        # the longest reach first; of equal ones that which sees the most
        return spec.kind not in LASTING, -spec.window - spec.offset, len(written[cell][1]), cell

    left = sorted(written, key=place)
    found = []
    while left:
        if cells[left[0]].kind == "cooldown":
            del left[0]
            continue
        by, seen = written[left[0]]
        together = [cell for cell in left if written[cell][0] == by and written[cell][1] >= seen]
        left = [cell for cell in left if cell not in together]
        if len(together) > 1:
            found.append(Record(by, tuple(sorted(together, key=lambda cell: (cells[cell].kind in LASTING, cell)))))
    return tuple(found)


def _written(step: Step) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the cells that a step writes or may write, with the fields that their keys are made of."""
    match step:
        case MetricStep():
            yield step.cell, step.metric.by
        case ScenarioStep() if step.cooldown is not None:
            yield step.cooldown, (step.scenario.subject,)
        case StoreStep() if step.scenario.after is not None:
            yield step.cell, (step.scenario.after.by,)


def _kind(metric: Metric) -> str:
    """Return the kind of cell that a metric needs."""
    if metric.fn in ("since_previous", "since_first"):
        return "since"
    if metric.day:
        return "day"
    if metric.last:
        return "ring"
    if metric.window is None:
        return "kept"
    if metric.offset:
        return "shifted" if metric.fn in ("count", "sum", "last") else "offset"
    return {"count": "count", "sum": "sum", "distinct": "distinct", "last": "latest"}.get(metric.fn, "run")


def _metric_spec(metric: Metric, identity: str) -> CellSpec:
    return CellSpec(
        kind=_kind(metric),
        digest=identity,
        label=f"metric {metric.key}",
        fn=metric.fn,
        window=metric.window or 0,
        offset=metric.offset,
        last=metric.last,
        cap=metric.cap,
        warmup=metric.warmup,
        utc_offset=metric.utc_offset if metric.day else 0,
    )
