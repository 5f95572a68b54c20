"""What a history says about a ruleset: what fired, what never did and why, and which populations nobody belonged to.

Owns: the counting over a stream, scenario by scenario. Leaves to `probes` the copies whose hits are counted, and to
`shell.commands.rules` reading the stream and showing the counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from tidewaiter.core.scenarios.probes import (
    BEFORE,
    CAME_BEFORE,
    CONJUNCT,
    HELD,
    LOOKED_AT,
    Probe,
    Probing,
    conjunct_count,
)
from tidewaiter.core.scenarios.readable import conjuncts, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.model import CheckedScenario
    from tidewaiter.core.scenarios.ruleset import Ruleset
    from tidewaiter.core.screening import Policy

_outcome = itemgetter(1)


@dataclass(frozen=True)
class Condition:
    """A part of a scenario that must be true, and at how many of the events looked at it was true or unknown.

    For `after`: `within` in microseconds, and how many events of all keys it would take for the earlier one, `matched`.
    """

    text: str
    true: int
    unknown: int
    within: int = 0
    matched: int = 0


@dataclass(frozen=True)
class Segment:
    """A population, None for everybody else, and how many of the events looked at were its."""

    name: str | None
    looked_at: int
    parameters: dict[str, str]


@dataclass(frozen=True)
class Covered:
    """What became of one scenario. `held` counts hits before repeat and cooldown, `flags` those that came out."""

    id: str
    status: str
    looked_at: int
    held: int
    flags: int
    suppressed: int
    insufficient: int
    conditions: tuple[Condition, ...]
    segments: tuple[Segment, ...]

    @property
    def never_true(self) -> tuple[Condition, ...]:
        """The conditions that were true at no event; empty too where all were, but never together."""
        return tuple(each for each in self.conditions if not each.true)


class Coverage:
    """Counts over one stream, from an empty state. `lines` were read, `events` evaluated."""

    def __init__(self, ruleset: Ruleset, contract: Contract, policy: Policy) -> None:
        """Nothing is counted yet. Lines that a policy would halt at are left out."""
        self._ruleset = ruleset
        wanted = [probe for scenario in ruleset.checked.scenarios for probe in _probes(scenario)]
        self._probing = Probing(ruleset, contract, policy, wanted)
        self._hits: Counter[int] = Counter()

    @property
    def lines(self) -> int:
        """How many lines were read."""
        return self._probing.lines

    @property
    def events(self) -> int:
        """How many of them were evaluated."""
        return self._probing.events

    def feed(self, data: bytes, *, at_start: bool) -> None:
        """Take whole lines; `at_start`: a file begins with them."""
        _, hits = self._probing.evaluate(data, at_start=at_start)
        self._hits.update(map(_outcome, hits))

    def scenarios(self) -> Iterator[Covered]:
        """Yield what was counted, in file order, typologies last; ends the counting."""
        unsure, outcomes = self._probing.insufficient(), self._probing.outcomes
        hits: Counter[tuple[str, int, bool]] = Counter()
        for number, count in self._hits.items():
            outcome = outcomes[number]
            hits[outcome.id, outcome.variant, outcome.suppressed] += count
        names = {probe: name for name, probe in self._probing.meaning.items()}

        def of(probe: Probe, variant: int | None = None) -> int:
            name = names[probe]
            return sum(
                count for (each, at, _), count in hits.items() if each == name and variant in (None, at)
            )  # fmt: skip

        def own(name: str, *, suppressed: bool) -> int:
            return sum(count for (each, _, held_back), count in hits.items() if (each, held_back) == (name, suppressed))

        for item in self._ruleset.checked.scenarios:
            name = item.decl.id
            conditions = []
            if item.after is not None:
                text = one_line(item.decl.after.where) if item.decl.after else ""
                came, matched = of(Probe(CAME_BEFORE, name)), of(Probe(BEFORE, name))
                conditions.append(Condition(text, came, 0, item.after.within, matched))
            texts = conjuncts(item.decl.when)
            for at, text in enumerate(texts):
                probe = Probe(CONJUNCT, name, at)
                conditions.append(Condition(text, of(probe), unsure.get(names[probe], 0)))
            yield Covered(
                id=name,
                status=item.decl.status,
                looked_at=of(Probe(LOOKED_AT, name)),
                held=of(Probe(HELD, name)),
                flags=own(name, suppressed=False),
                suppressed=own(name, suppressed=True),
                insufficient=unsure.get(name, 0),
                conditions=tuple(conditions),
                segments=tuple(
                    Segment(variant.segment, of(Probe(LOOKED_AT, name), at), _parameters(item, at))
                    for at, variant in enumerate(item.variants)
                ),
            )
        for typology in self._ruleset.checked.typologies:
            name = typology.decl.id
            flags, suppressed = own(name, suppressed=False), own(name, suppressed=True)
            yield Covered(name, typology.decl.status, 0, flags + suppressed, flags, suppressed, 0, (), ())


def _probes(scenario: CheckedScenario) -> Iterator[Probe]:
    name = scenario.decl.id
    yield Probe(LOOKED_AT, name)
    yield Probe(HELD, name)
    if scenario.after is not None:
        yield Probe(CAME_BEFORE, name)
        yield Probe(BEFORE, name)
    for number in range(conjunct_count(scenario)):
        yield Probe(CONJUNCT, name, number)


def _parameters(scenario: CheckedScenario, variant: int) -> dict[str, str]:
    """Return the parameters that a population has of its own, as written."""
    segments = scenario.decl.segments
    own = segments[variant].params if variant < len(segments) else {}
    return {name: str(value) for name, value in own.items()}
