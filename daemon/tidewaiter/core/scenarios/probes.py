"""Probes: copies of scenarios that hit where a scenario does not, so that its inside can be seen from its hits.

Owns: which copies there are and what each hit of one means. Leaves to `planning` and `generating` that they run beside
the scenarios they are made from, sharing their metrics, and to `coverage`, `transcripts` and explanations what is read
from the hits. A ruleset with probes has the scenarios of the ruleset itself, unchanged: its flags are the same.

A probe's subject is the event's id, which every event has, so a scenario whose subject is absent is looked at as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace as replace_policy

from tidewaiter.core.decoding import decode_block
from tidewaiter.core.scenarios.generating import compile_source, generate_source, list_tests
from tidewaiter.core.scenarios.model import Variant
from tidewaiter.core.scenarios.planning import plan_ruleset
from tidewaiter.core.scenarios.state import RuleState, arranged, empty_cell
from tidewaiter.core.scenarios.terms import BOOLEAN, INTEGER, Term
from tidewaiter.core.screening import Screening

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.generating import Hit
    from tidewaiter.core.scenarios.model import Checked, CheckedScenario
    from tidewaiter.core.scenarios.ruleset import Ruleset
    from tidewaiter.core.scenarios.syntax import ScenarioDecl
    from tidewaiter.core.screening import Admitted, Policy

TRUE: Final = Term("const", BOOLEAN, value=True)
ZERO: Final = Term("const", INTEGER, value=0)
VALUES: Final = "values"
"""Hits at every event; its flags show all metrics of the scenario."""
LOOKED_AT: Final = "on"
"""Hits where `on` is true."""
CAME_BEFORE: Final = "after"
"""Hits where, besides, a fitting event came before; whether it was used up already does not matter."""
CONJUNCT: Final = "when"
"""Hits where `on` and conjunct `number` of `when` are true."""
NOT_LOOKED_AT: Final = "not on"
"""Hits where `on` is false."""
NOT_TRUE: Final = "not when"
"""Hits where `on` is true and conjunct `number` of `when` is false; where neither that nor it holds, it is unknown."""
HELD: Final = "held"
"""Hits where the scenario held, whatever `repeat` and `cooldown` let out."""
BEFORE: Final = "before"
"""Hits at the events that the `after` of the scenario `of` looks for."""
MATCHED: Final = "where"
"""Hits at the events that the metric `of` takes in, of all keys."""


@dataclass(frozen=True)
class Probe:
    """What the hits of a probe mean: `kind` of the scenario or metric `of`; `number` tells conjuncts apart."""

    kind: str
    of: str
    number: int = 0


class Probing:
    """A ruleset that runs with probes beside its scenarios, over blocks of a stream, from an empty state.

    Lines that a policy would halt at are left out. `lines` counts what was read, `events` what was evaluated.
    """

    def __init__(
        self, ruleset: Ruleset, contract: Contract, policy: Policy, wanted: Iterable[Probe], *, alone: bool = False
    ) -> None:
        """Compile the probes; `ruleset` is not changed. `alone`: with no more of its scenarios than they count."""
        order = "admit" if policy.order == "admit" else "quarantine"
        going_on = replace_policy(policy, invalid="quarantine", duplicate="quarantine", order=order)
        checked, self.meaning = with_probes(ruleset.checked, contract, wanted, alone=alone)
        plan = plan_ruleset(checked, contract)
        source, lists = generate_source(plan, contract, f"{ruleset.name} with probes")
        bind = compile_source(source, ruleset.name)
        self.outcomes = plan.outcomes
        self.contract, self.lines, self.events = contract, 0, 0
        self._screening = Screening(contract, going_on, plan.money_columns)
        self._state = RuleState(map(empty_cell, plan.cells))
        self._evaluate = bind(
            arranged(self._state, plan),
            list_tests(checked.lists, lists),
            self._state.insufficient,
            self._state.silenced,
        )

    def evaluate(self, data: bytes, *, at_start: bool) -> tuple[Admitted, list[Hit]]:
        """Return what was evaluated of whole lines, and the hits. `at_start`: a segment begins with them."""
        entries = decode_block(self.contract, data, at_start=at_start)
        admitted = self._screening.screen(entries)
        self.lines += len(entries)
        self.events += len(admitted.events)
        hits = self._evaluate(admitted.events, admitted.times, *admitted.money)
        self._state.forget_some(self._screening.effective)
        return admitted, hits

    def hits(self, data: bytes, *, at_start: bool) -> Iterator[tuple[int, Any, dt.datetime, Probe]]:
        """Yield the line's number, event, effective time and probe of each hit of a probe."""
        admitted, hits = self.evaluate(data, at_start=at_start)
        for hit in hits:
            probe = self.meaning.get(self.outcomes[hit[1]].id)
            if probe is not None:
                at = hit[0]
                line = at if admitted.lines is None else admitted.lines[at]
                yield line, admitted.events[at], admitted.times[at], probe

    def insufficient(self) -> dict[str, int]:
        """Return at how many events each scenario and probe, by id, could not be decided since the last call."""
        taken = dict(self._state.insufficient)
        self._state.insufficient.clear()
        return taken


def with_probes(
    checked: Checked, contract: Contract, wanted: Iterable[Probe], *, alone: bool = False
) -> tuple[Checked, dict[str, Probe]]:
    """Return `checked` with the probes behind its scenarios, and what each id of a probe stands for.

    `alone`: without typologies, and without the scenarios that no probe counts.
    """
    taken = {item.decl.id for item in checked.scenarios} | {item.decl.id for item in checked.typologies}
    by_id = {item.decl.id: item for item in checked.scenarios}
    meaning: dict[str, Probe] = {}
    made: list[CheckedScenario] = []
    for number, probe in enumerate(wanted):
        name = f"probe-{number}"
        while name in taken:
            name += "x"
        meaning[name] = probe
        if probe.kind == MATCHED:
            made.append(_at_each(name, checked.scenarios[0], checked.metrics[probe.of].where, contract))
        elif probe.kind == BEFORE:
            after = by_id[probe.of].after
            made.append(_at_each(name, by_id[probe.of], None if after is None else after.where, contract))
        else:
            made.append(_copy(name, by_id[probe.of], probe, contract))
    if not alone:
        return replace(checked, scenarios=(*checked.scenarios, *made)), meaning
    kept = _counted(checked, made)
    scenarios = tuple(item for item in checked.scenarios if item.decl.id in kept)
    return replace(checked, scenarios=(*scenarios, *made), typologies=()), meaning


def _counted(checked: Checked, scenarios: Iterable[CheckedScenario]) -> set[str]:
    """Return the scenarios whose outcome `scenarios` need, and those that these need in turn."""
    by_id = {item.decl.id: item for item in checked.scenarios}
    todo, found = list(scenarios), set[str]()
    while todo:
        item = todo.pop()
        terms = [item.on, *(checked.metrics[key].where for variant in item.variants for key in variant.metrics)]
        for term in [part for whole in terms if whole is not None for part in whole.walk() if part.op == "flagged"]:
            new = set(term.value if isinstance(term.value, tuple) else ()) - found
            todo += [by_id[name] for name in new]
            found |= new
    return found


def conjunct_count(scenario: CheckedScenario) -> int:
    """Return how many parts of `when` must all hold; they are the same for every population."""
    return len(scenario.variants[-1].when.conjuncts)


def _copy(name: str, scenario: CheckedScenario, probe: Probe, contract: Contract) -> CheckedScenario:
    after, on = scenario.after, scenario.on
    if probe.kind == VALUES:
        after = on = None
    elif probe.kind == LOOKED_AT:
        after = None
    elif probe.kind == NOT_LOOKED_AT:
        after, on = None, None if on is None else Term("not", BOOLEAN, (on,))
    elif probe.kind in (CONJUNCT, NOT_TRUE):
        parts = [variant.when.conjuncts[probe.number] for variant in scenario.variants]
        after = after if any(part.names("earlier") for part in parts) else None
    if after is not None and probe.kind != HELD:
        after = replace(after, reuse=True)
    return replace(
        scenario,
        decl=_plain(scenario.decl, name),
        subject=contract.id_field,
        on=on,
        after=after,
        variants=tuple(_variant(variant, probe) for variant in scenario.variants),
        cooldown=0,
        bands=(),
    )


def _plain(decl: ScenarioDecl, name: str) -> ScenarioDecl:
    return replace(decl, id=name, status="shadow", repeat="every", cooldown=0, reason=None, score=None)


def _variant(variant: Variant, probe: Probe) -> Variant:
    when = TRUE
    if probe.kind == CONJUNCT:
        when = variant.when.conjuncts[probe.number]
    elif probe.kind == NOT_TRUE:
        when = Term("not", BOOLEAN, (variant.when.conjuncts[probe.number],))
    elif probe.kind == HELD:
        when = variant.when
    # what is measured may read the earlier event, which a probe without `after` does not have
    return replace(variant, when=when, measure=ZERO, threshold=ZERO, score_value=None, reason=())


def _at_each(name: str, scenario: CheckedScenario, where: Term | None, contract: Contract) -> CheckedScenario:
    """Return a scenario that hits wherever `where` is true, at every event for None; `scenario` lends its form."""
    variant = Variant(
        segment=None, population=None, when=TRUE, measure=ZERO, threshold=ZERO, params={}, metrics=(), reason=(),
        score_value=None,
    )  # fmt: skip
    return replace(
        scenario, decl=_plain(scenario.decl, name), subject=contract.id_field, on=where, after=None,
        variants=(variant,), cooldown=0, bands=(), lists=(),
    )  # fmt: skip
