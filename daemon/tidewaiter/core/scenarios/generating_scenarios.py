"""Scenarios and typologies in Python: conditions in stages, what is remembered, and what is emitted.

Owns: the code of one scenario, typology or candidate; it must keep the forms that `state_scenarios` describes. Leaves
to `generating` under which guard it stands.

A condition is said in stages: what costs nothing comes first, then each metric is read only where all before it leave
the answer open. A part that may be unknown lets the event pass unless it is false; where everything has passed, a part
that is unknown makes the scenario insufficient, else it holds.

Names in the text: ``h2`` scenario 2 held (None: could not be decided), ``s2`` the number of its score's band,
``lost2`` how often it could not be decided, ``mute2`` how often its cooldown held back a hit that goes nowhere.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tidewaiter.core.scenarios.generating_terms import AND
from tidewaiter.core.scenarios.planning import ScenarioStep, StoreStep, TypologyStep, is_cheap
from tidewaiter.core.scenarios.terms import Term

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tidewaiter.core.scenarios.generating_metrics import MetricWriter
    from tidewaiter.core.scenarios.generating_page import Page
    from tidewaiter.core.scenarios.generating_terms import Terms
    from tidewaiter.core.scenarios.model import Variant
    from tidewaiter.core.scenarios.planning import Plan

_MAX_STAGES: Final = 12  # Python bounds the depth of indentation; from here on all that is left is read at once
_SURE: Final = ("sum", "min", "max", "last")  # of an event of its own they are known


@dataclass(frozen=True)
class _Hit:
    """What is emitted; `more` is text behind (or in place of) the values of `terms`."""

    id: str
    number: int  # of the scenario; typologies come after all scenarios
    subject: str
    outcome: int
    suppressed: int | None
    terms: tuple[Term, ...]
    more: str = ""


class ScenarioWriter:
    """Writes the scenarios and typologies of one ruleset."""

    def __init__(self, plan: Plan, terms: Terms, metrics: MetricWriter) -> None:
        """Write nothing yet."""
        self.plan, self.terms, self.metrics = plan, terms, metrics
        self.records = metrics.records
        self.lost: dict[int, str] = {}  # scenarios that may be undecided, with their ids
        self.muted: dict[int, str] = {}  # scenarios and typologies that may be held back without a trace
        self.direct = False  # whether the condition of the scenario at hand is one plain test

    # -- set up --------------------------------------------------------------------------------------------------------

    def locals(self, page: Page, cell: int) -> None:
        """Write what is looked up once for each call."""
        kind = self.plan.cells[cell].kind
        if kind in ("cooldown", "after"):
            self.records.locals(page, cell)
            if kind == "after" and not self.records.place(cell):
                page.put(f"old{cell} = c{cell}.shelf.old")
        else:
            page.put(f"latched{cell} = c{cell}.latched")

    # -- scenarios -----------------------------------------------------------------------------------------------------

    def scenario(self, page: Page, step: ScenarioStep, guard: Iterable[Term]) -> None:
        """Write one scenario; `guard` is known to hold."""
        scenario, decl = step.scenario, step.scenario.decl
        page.put(f"# scenario {decl.id} version {decl.version}, line {scenario.line}")
        if not step.unsure:
            self.populations(page, step, tuple(guard))
            return
        certain = " and ".join(self.terms.condition(part, around=AND) for part in step.unsure)
        possible = [self.terms.condition(part, lenient=True, around=AND) for part in step.unsure]
        with page.under(f"if {certain}:"):
            self.populations(page, step, tuple(guard))
        tests = [text for text in possible if text != "True"]
        with page.under(f"elif {' and '.join(tests)}:" if tests else "else:"):
            self.undecided(page, step)

    def populations(self, page: Page, step: ScenarioStep, guard: tuple[Term, ...]) -> None:
        """Write each variant under its population."""
        variants = step.scenario.variants
        h = f"h{step.index}"
        direct = self.is_direct(step)
        # asked here only: what is known for sure inside a variant would change the answer between `if` and `else`
        self.direct = direct
        if step.latch is not None and not direct and step.index not in self.plan.counted:
            page.put(f"{h} = False")
        for number, variant in enumerate(variants):
            head = ""
            if len(variants) > 1:
                head = "else:"
                if variant.population is not None:
                    head = f"{'elif' if number else 'if'} {self.terms.condition(variant.population)}:"
            with page.under(head):
                if variant.segment is not None:
                    page.put(f"# segment {variant.segment!a}")
                self.variant(page, step, number, guard)
        if step.latch is not None:
            rearm = f"latched{step.latch}.discard({self.terms.field(step.scenario.subject)})"
            head = "else:" if direct else f"if {h} is False:"
            with page.under(head):
                page.put(rearm)

    def is_direct(self, step: ScenarioStep) -> bool:
        """Whether the condition is one plain test, so that its `else` is where it is false."""
        rest = step.rests[0]
        if len(step.rests) > 1 or step.scenario.after is not None or not rest:
            return False
        lazy = {name for part in rest for name in part.names("metric") if self.is_lazy(name)}
        return not lazy and not any(self.terms.is_open(part) for part in rest)

    def is_lazy(self, key: str) -> bool:
        """Whether a metric's value may still have to be read."""
        return self.metrics.steps[self.plan.cell_of[key]].lazy

    def implied(self, variant: Variant, known: Iterable[Term]) -> frozenset[str]:
        """Return the metrics of a variant of which the event is one of their own."""
        key = self.plan.key(known)
        return frozenset(name for name in variant.metrics if key >= self.metrics.keys[self.plan.cell_of[name]])

    def is_sure(self, key: str) -> bool:
        """Whether a metric always has a value at its own events."""
        metric = self.plan.checked.metrics[key]
        if metric.offset or metric.last:
            return False
        return metric.fn in (*_SURE, "count", "distinct") or (metric.fn == "since_first" and not metric.warmup)

    def variant(self, page: Page, step: ScenarioStep, number: int, guard: tuple[Term, ...]) -> None:
        """Write the condition of one variant, and what happens where it holds."""
        scenario = step.scenario
        variant, rest = scenario.variants[number], step.rests[number]
        cheap = [part for part in rest if is_cheap(part)]
        implied = self.implied(variant, (*guard, *cheap))
        self.terms.sure = frozenset(filter(self.is_sure, implied))
        ready = {self.plan.cell_of[key] for key in variant.metrics if key in implied or not self.is_lazy(key)}
        own_fields = [part for part in rest if part not in cheap and not self.needs_state(part)]
        others = [part for part in rest if self.needs_state(part)]
        others.sort(key=lambda part: len(self.cells_of(part) - ready))
        with ExitStack() as stack:
            stages = _Stages(self, page, ready, stack)
            for part in cheap + own_fields:
                stages.test(part)
            if scenario.after is not None and step.after is not None:
                after = scenario.after
                self.terms.candidate, self.terms.candidate_fields = f"a{step.after}", after.fields
                stages.close()
                key = self.terms.field(after.by)
                self.records.peek(page, step.after, key, f"a{step.after}")
                stages.tests.append(f"a{step.after} is not None and t - a{step.after}[0] <= w{step.after}")
            for place, part in enumerate(others):
                stages.test(part, others[place:])
            stages.close()
            if not stages.unknown:
                self.holds(page, step, number, ready)
            else:
                with page.under(f"if {' or '.join(stages.unknown)}:"):
                    self.undecided(page, step)
                with page.under("else:"):
                    self.holds(page, step, number, ready)
        self.terms.sure = frozenset()

    @staticmethod
    def needs_state(part: Term) -> bool:
        """Whether a part reads a metric or the candidate."""
        return bool(part.names("metric") or part.names("earlier"))

    def cells_of(self, part: Term) -> set[int]:
        """Return the cells of the metrics in a term."""
        return {self.plan.cell_of[key] for key in part.names("metric")}

    def read(self, page: Page, cells: Iterable[int], ready: set[int]) -> None:
        """Write the reading of metrics that are not `ready`, and make them so."""
        for cell in sorted(set(cells) - ready):
            self.metrics.read(page, cell)
            ready.add(cell)

    def undecided(self, page: Page, step: ScenarioStep) -> None:
        """Write what happens where it is not known whether the scenario holds."""
        self.lost[step.index] = step.scenario.decl.id
        page.put(f"lost{step.index} += 1")
        if step.latch is not None:
            page.put(f"h{step.index} = None")

    def holds(self, page: Page, step: ScenarioStep, number: int, ready: set[int]) -> None:
        """Write what happens where the scenario holds."""
        scenario, index = step.scenario, step.index
        variant = scenario.variants[number]
        if index in self.plan.counted or (step.latch is not None and not self.direct):
            page.put(f"h{index} = True")
        if scenario.after is not None and step.after is not None and not scenario.after.reuse:
            key = self.terms.field(scenario.after.by)
            place = self.records.place(step.after)
            if place:
                page.put(f"{place} = None")
            else:
                page.put(f"young{step.after}.pop({key}, None)", f"old{step.after}.pop({key}, None)")
        if index in self.plan.scored:
            self.score(page, index, variant.score_value or variant.measure, ready)
        shown = [self.shown(key) for key in variant.metrics]
        told = [piece for piece in variant.reason if isinstance(piece, Term) and piece.op != "const"]
        hit = _Hit(
            id=scenario.decl.id,
            number=index,
            subject=scenario.subject,
            outcome=step.outcomes[number],
            suppressed=step.suppressed[number],
            terms=(variant.measure, variant.threshold, *shown, *told),
        )
        self.emit(page, hit, step.latch, step.cooldown, ready)

    def shown(self, key: str) -> Term:
        """Return the term of a metric that is shown."""
        metric = self.plan.checked.metrics[key]
        return Term("metric", metric.type, value=key, absent=metric.unknowable)

    def score(self, page: Page, index: int, value: Term, ready: set[int]) -> None:
        """Write into which band the value of a scenario falls, None for none."""
        self.read(page, self.cells_of(value), ready)
        text = f"bands{index}[bisect(edges{index}, {self.terms.plain(value)})]"
        if self.terms.is_open(value):
            text = f"None if {' or '.join(self.terms.missing(value))} else {text}"
        page.put(f"s{index} = {text}")

    def emit(self, page: Page, hit: _Hit, latch: int | None, cooldown: int | None, ready: set[int]) -> None:
        """Write what becomes of something that holds: edge before cooldown, then what it shows."""
        subject = self.terms.field(hit.subject)
        if latch is not None:
            if cooldown is None and not subject.isidentifier():
                page.put(f"k = {subject}")
                subject = "k"
            page.put(f"if {subject} not in latched{latch}:")
            page.depth += 1
            page.put(f"latched{latch}.add({subject})")
        self.read(page, {cell for term in hit.terms for cell in self.cells_of(term)}, ready)
        values = ", ".join(map(self.terms.value, hit.terms)) + hit.more
        if cooldown is None:
            page.put(f"emit((i, {hit.outcome}, {values}))")
        else:
            target = f"young{cooldown}[{subject}]"
            if self.records.place(cooldown):
                target = self.records.make_sure(page, cooldown, subject, lasting=False)
                page.put(f"v = {target}")
            else:
                self.records.peek(page, cooldown, subject, "v")
            page.put(
                "if v is None or t >= v:",
                f"    {target} = t + w{cooldown}",
                f"    emit((i, {hit.outcome}, {values}))",
                "else:",
            )
            if hit.suppressed is None:
                self.muted[hit.number] = hit.id
                page.put(f"    mute{hit.number} += 1")
            else:
                page.put(f"    emit((i, {hit.suppressed}, {values}, v))")
        if latch is not None:
            page.depth -= 1

    # -- sequences and typologies --------------------------------------------------------------------------------------

    def store(self, page: Page, step: StoreStep) -> None:
        """Write how the event becomes the candidate of an `after`."""
        after = step.scenario.after
        if after is None:
            return
        values = "".join(f", {self.terms.field(name)}" for name in after.fields)
        page.put(f"# after of scenario {step.scenario.decl.id}, line {step.scenario.line}")
        key, target = self.terms.field(after.by), ""
        if self.records.place(step.cell):
            target = self.records.make_sure(page, step.cell, key, lasting=True)
        page.put(f"{target or f'young{step.cell}[{key}]'} = (t{values or ','})")

    def typology(self, page: Page, step: TypologyStep) -> None:
        """Write one typology; one of its scenarios is known to hold."""
        typology, decl = step.typology, step.typology.decl
        page.put(f"# typology {decl.id} version {decl.version}, line {typology.line}")
        page.put("x = 0")
        numbers = {name: self.plan.index_of[name] for name in typology.weights}
        for name, weight in typology.weights.items():
            bands = self.plan.checked.scenarios[numbers[name]].bands
            points = ", ".join(str(weight * band.points) for band in bands)
            s = f"s{numbers[name]}"
            page.put(f"if {s} is not None:", f"    x += ({points},)[{s}]")
        told = [piece for piece in typology.reason if isinstance(piece, Term) and piece.op != "const"]
        hit = _Hit(
            id=decl.id,
            number=len(self.plan.checked.scenarios) + step.index,
            subject=typology.subject,
            outcome=step.outcome,
            suppressed=step.suppressed,
            terms=(),
            more=", ".join(
                ["x", str(typology.threshold), *map(self.terms.value, told), *map("s{}".format, numbers.values())]
            ),
        )
        with page.under(f"if x >= {typology.threshold}:"):
            self.emit(page, hit, step.latch, step.cooldown, set())
        if step.latch is not None:
            with page.under("else:"):
                page.put(f"latched{step.latch}.discard({self.terms.field(typology.subject)})")


class _Stages:
    """The tests of one variant as they are written, one `if` inside the other where a metric has to be read between."""

    def __init__(self, writer: ScenarioWriter, page: Page, ready: set[int], stack: ExitStack) -> None:
        self.writer, self.page, self.ready, self.stack = writer, page, ready, stack
        self.tests: list[Term | str] = []
        self.unknown: list[str] = []
        self.depth = 0

    def test(self, part: Term, rest: Iterable[Term] = ()) -> None:
        """Add a part of the condition; past the last stage, all that the `rest` needs is read with it."""
        writer = self.writer
        cells = writer.cells_of(part) - self.ready
        if cells:
            self.close()
            if self.depth >= _MAX_STAGES:
                cells = cells.union(*(writer.cells_of(other) for other in rest))
            writer.read(self.page, cells, self.ready)
        self.tests.append(part)
        if writer.terms.is_open(part):
            self.unknown += writer.terms.unknown(part)

    def close(self) -> None:
        """Write the tests so far; what follows stands under them."""
        if not self.tests:
            return
        around = 0 if len(self.tests) == 1 else AND
        terms = self.writer.terms
        texts = [
            part if isinstance(part, str) else terms.condition(part, lenient=True, around=around) for part in self.tests
        ]
        self.stack.enter_context(self.page.under(f"if {' and '.join(texts)}:"))
        self.tests = []
        self.depth += 1
