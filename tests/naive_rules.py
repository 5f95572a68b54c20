"""A ruleset evaluated over events as plainly as config/README.md words it, for comparison with the product.

Owns: the order of things at one event, and what a scenario or typology says about it. There is no state but the list of
past events and, per scenario and typology, the list of events they looked at; every latch, cooldown and sequence is
looked up there again at each event. Shares no code with the product, checks nothing, and is slow.

Where the reference leaves it open: a scenario whose `on` is false is not looked at, so an absent subject is
`insufficient` only where `on` is not false.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from naive_expressions import Scope, Value, evaluate, nodes, number, parse
from naive_kinds import Kind, Kinds, Number, Shown, filled, shown
from naive_metrics import Past, Setting, metric_value
from naive_ruleset import (
    After,
    Contract,
    Metric,
    Microseconds,
    Scenario,
    Segment,
    Typology,
    constant,
    read_contract,
    read_ruleset,
)

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """One event of the stream: as decoded (decimals as Decimal), where its line begins, and its effective time."""

    event: Event
    offset: int
    effective: dt.datetime


@dataclass(frozen=True)
class Said:
    """What a scenario or typology says of an event."""

    subject: str
    metric_value: Shown
    threshold: Shown
    segment: str | None
    reason: str | None
    metrics: Mapping[str, Shown]
    score: Sequence[Mapping[str, Shown]] | None


@dataclass(frozen=True)
class Hit(Said):
    """What a scenario or typology would say if nothing suppresses it."""

    rule: Scenario | Typology


@dataclass(frozen=True)
class Outcome(Said):
    """One line of output, with everything in it that evaluation decides."""

    projection: str
    rule: str
    event_id: str
    offset: int
    suppressed_until: str | None


@dataclass
class Result:
    """What came of a stream: the outcomes of each event in order, and how often each scenario could not be decided."""

    outcomes: list[list[Outcome]] = field(default_factory=list)
    insufficient: Counter[str] = field(default_factory=Counter)
    suppressed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Look:
    """A scenario or typology looked at an event of a subject: whether it held, and whether a flag was emitted."""

    subject: Value
    time: Microseconds
    held: bool
    emitted: bool


def evaluate_stream(ruleset_text: str, files: Mapping[str, str], contract_text: str, given: Iterable[Given]) -> Result:
    """Evaluate all events of a stream from its beginning."""
    naive = Naive(ruleset_text, files, read_contract(contract_text))
    for each in given:
        naive.take(each)
    return naive.result


class Naive:
    """One stream under one ruleset."""

    def __init__(self, ruleset_text: str, files: Mapping[str, str], contract: Contract) -> None:
        """Nothing has happened yet."""
        self.contract = contract
        self.rules = read_ruleset(ruleset_text, files, contract)
        self.kinds = Kinds(contract, self.rules)
        self.result = Result()
        self.past: list[Past] = []
        self.past_of_key: dict[tuple[tuple[str, ...], tuple[Value, ...]], list[Past]] = defaultdict(list)
        self.looks: dict[tuple[str, Value], list[Look]] = defaultdict(list)
        self.used_up: set[tuple[str, int]] = set()
        keys = {metric.by for metric in self.rules.metrics.values()}
        keys |= {(scenario.after.by,) for scenario in self.rules.scenarios if scenario.after}
        self.keys = sorted(keys)

    # -- one event -----------------------------------------------------------------------------------------------

    def take(self, given: Given) -> None:
        """Evaluate the next event."""
        self.given = given
        time = (given.effective - EPOCH) // dt.timedelta(microseconds=1)
        here = Past(len(self.past), time, self.fields_of(given.event))
        self.past.append(here)
        for by in self.keys:
            key = tuple(here.fields[name] for name in by)
            if None not in key:
                self.past_of_key[by, key].append(here)
        outcomes: list[Outcome] = []
        for scenario in self.rules.scenarios:
            outcomes += self.look_scenario(scenario, here)
        for typology in self.rules.typologies:
            outcomes += self.look_typology(typology, here)
        self.result.outcomes.append(outcomes)

    def fields_of(self, event: Event) -> dict[str, Value]:
        """Return contract fields and derived fields of an event."""
        fields: dict[str, Value] = {}
        for declared in self.contract.fields:
            value: Any = event
            for step in declared.path:
                value = value.get(step) if isinstance(value, dict) else None
            fields[declared.name] = declared.default if value is None else constant(value)
        for name, text in self.rules.derived.items():
            fields[name] = evaluate(text, Scope(fields.__getitem__, self.rules.lists))
        return fields

    # -- scenarios -----------------------------------------------------------------------------------------------

    def look_scenario(self, scenario: Scenario, here: Past) -> list[Outcome]:
        """Return what a scenario has to say about the event: nothing, or one outcome."""
        plain = Scope(here.fields.__getitem__, self.rules.lists, scenario.params)
        on = evaluate(scenario.on, plain) if isinstance(scenario.on, str) else bool(scenario.on & here.held)
        if on is False:
            return []
        subject = here.fields[scenario.subject]
        if on is None or subject is None:
            self.result.insufficient[scenario.id] += 1
            return []
        segment = next((each for each in scenario.segments if evaluate(each.where, plain) is True), None)
        params = {**scenario.params, **(segment.params if segment else {})}
        first = self.first_event(scenario, scenario.after, here) if scenario.after else None
        held: Value = False
        scope = Scope(
            lambda name: self.named(name, here, params), self.rules.lists, params, first.fields if first else {}
        )
        if scenario.after is None or first is not None:
            held = evaluate(scenario.when, scope)
        if held is None:
            self.result.insufficient[scenario.id] += 1
            return []
        if not held:
            self.looks[scenario.id, subject].append(Look(subject, here.time, held=False, emitted=False))
            return []
        here.held.add(scenario.id)
        if scenario.after and not scenario.after.reuse and first:
            self.used_up.add((scenario.id, first.position))
        if scenario.bands:
            self.score(scenario, scope, here)
        return self.decide(self.hit(scenario, str(subject), segment, scope), here)

    def first_event(self, scenario: Scenario, after: After, here: Past) -> Past | None:
        """Return the newest earlier event of the same key that satisfies `after`, unless it is too old or used up."""
        key = here.fields[after.by]
        if key is None:
            return None
        for past in reversed(self.past_of_key[(after.by,), (key,)]):
            scope = Scope(past.fields.__getitem__, self.rules.lists, scenario.params)
            if past is not here and evaluate(after.where, scope) is True:
                fresh = here.time - past.time <= after.within and (scenario.id, past.position) not in self.used_up
                return past if fresh else None
        return None

    def named(self, name: str, here: Past, params: Mapping[str, Value]) -> Value:
        """Return the value of a field or of a metric at the event."""
        if name in here.fields:
            return here.fields[name]
        metric = self.rules.metrics[name]
        key = tuple(here.fields[field] for field in metric.by)
        history = None if None in key else self.past_of_key[metric.by, key]
        setting = Setting(params, self.rules.lists, self.past[0].time, self.rules.utc_offset)
        return metric_value(metric, here, history, setting)

    def hit(self, scenario: Scenario, subject: str, segment: Segment | None, scope: Scope) -> Hit:
        """Return what the scenario shows."""
        kind_of_params = self.kinds.of_params(scenario, self.metrics_in(scenario))
        kind = self.kinds.of(parse(scenario.measure), kind_of_params) or "integer"

        def look_up(placeholder: str) -> tuple[Value, Kind]:
            value = evaluate(placeholder, scope)
            if placeholder.startswith("p."):
                name = placeholder.removeprefix("p.")
                return value, kind_of_params.get(name)
            return value, self.kinds.names[placeholder.removeprefix("a.")]

        return Hit(
            rule=scenario,
            subject=subject,
            metric_value=shown(evaluate(scenario.measure, scope), kind),
            threshold=shown(evaluate(scenario.threshold, scope), kind),
            segment=segment.name if segment else None,
            reason=None if scenario.reason is None else filled(scenario.reason, look_up),
            metrics={
                metric.name: shown(scope.name(metric.name), self.kinds.names[metric.name])
                for metric in self.metrics_in(scenario)
            },
            score=None,
        )

    def metrics_in(self, scenario: Scenario) -> list[Metric]:
        """Return the metrics that are named in what the scenario decides and shows, in file order."""
        texts = [scenario.when, scenario.measure, scenario.threshold, *placeholders(scenario.reason or "")]
        texts += [scenario.score_value] if scenario.score_value else []
        names = {getattr(node, "id", None) for node in nodes(texts)}
        return [metric for metric in self.rules.metrics.values() if metric.name in names]

    def score(self, scenario: Scenario, scope: Scope, here: Past) -> None:
        """Keep the points of the band in which the scenario's value falls, for the typologies."""
        assert scenario.score_value is not None
        value = number(evaluate(scenario.score_value, scope))
        if value is None:
            return
        for band in scenario.bands:
            if (band.at_least is None or value >= band.at_least) and (band.below is None or value < band.below):
                here.points[scenario.id] = (band.points, band.reason)

    # -- typologies ----------------------------------------------------------------------------------------------

    def look_typology(self, typology: Typology, here: Past) -> list[Outcome]:
        """Return what a typology has to say about the event, after all scenarios."""
        if not here.held & set(typology.weights):
            return []
        parts: list[Mapping[str, Shown]] = []
        points = 0
        for scenario, weight in typology.weights.items():
            if scenario in here.points:
                band_points, reason = here.points[scenario]
                points += weight * band_points
                parts.append({"scenario": scenario, "points": Number(str(weight * band_points)), "reason": reason})
        subject = here.fields[self.contract.subject]
        if points < typology.threshold:
            self.looks[typology.id, subject].append(Look(subject, here.time, held=False, emitted=False))
            return []
        hit = Hit(
            rule=typology,
            subject=str(subject),
            metric_value=Number(str(points)),
            threshold=Number(str(typology.threshold)),
            segment=None,
            reason=None
            if typology.reason is None
            else filled(typology.reason, lambda name: (here.fields[name], self.kinds.names[name])),
            metrics={},
            score=parts,
        )
        return self.decide(hit, here)

    # -- repeat and cooldown -------------------------------------------------------------------------------------

    def decide(self, hit: Hit, here: Past) -> list[Outcome]:
        """Return the outcome of something that holds: a flag, a suppressed one, or nothing."""
        rule = hit.rule
        looks = self.looks[rule.id, hit.subject]
        latched = rule.edge and bool(looks) and looks[-1].held
        emitted_at = next((look.time for look in reversed(looks) if look.emitted), None)
        cooling = emitted_at is not None and here.time < emitted_at + rule.cooldown
        looks.append(Look(hit.subject, here.time, held=True, emitted=not latched and not cooling))
        if latched:
            return []
        until: str | None = None
        projection = "shadow_flags" if rule.shadow else "flags"
        if cooling:
            self.result.suppressed[rule.id] += 1
            if rule.shadow:
                return []
            assert emitted_at is not None
            projection, until = "suppressed", utc_text(emitted_at + rule.cooldown)
        return [
            Outcome(
                projection=projection,
                rule=rule.id,
                subject=hit.subject,
                event_id=str(here.fields[self.contract.id_field]),
                offset=self.given.offset,
                metric_value=hit.metric_value,
                threshold=hit.threshold,
                segment=hit.segment,
                reason=hit.reason,
                metrics=hit.metrics,
                score=hit.score,
                suppressed_until=until,
            )
        ]


def placeholders(template: str) -> list[str]:
    """Return the expressions between single braces."""
    return [name.strip() for name in re.findall(r"\{([^{}]*)\}", template.replace("{{", "").replace("}}", ""))]


def utc_text(time: Microseconds) -> str:
    """Return a time as UTC text with microseconds."""
    return (EPOCH + dt.timedelta(microseconds=time)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
