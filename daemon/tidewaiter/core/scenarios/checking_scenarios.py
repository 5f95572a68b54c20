"""Scenarios and typologies: their parts put together, once for each population.

Owns: the order of reading, segments, what may name what (earlier only, live never a shadow), unused parameters.
Leaves to `checking_expressions` each expression, to `checking_metrics` the metrics, to `checking_texts` reasons and
scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidewaiter.core.scenarios.checking_expressions import Scope
from tidewaiter.core.scenarios.checking_ground import AFTER, CONDITION, ON, POPULATION, Ground, Params, Place
from tidewaiter.core.scenarios.checking_texts import check_bands, check_reason
from tidewaiter.core.scenarios.model import After, Band, CheckedScenario, CheckedTypology, Variant
from tidewaiter.core.scenarios.syntax import RUNNING
from tidewaiter.core.scenarios.tables import MICROSECONDS
from tidewaiter.core.scenarios.terms import BOOLEAN, Term
from tidewaiter.core.toml_source import KeyPath, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.scenarios.checking_metrics import Metrics
    from tidewaiter.core.scenarios.expressions import Node
    from tidewaiter.core.scenarios.model import Metric
    from tidewaiter.core.scenarios.syntax import RulesetDecl, ScenarioDecl, SegmentDecl, TypologyDecl

_READS_EARLIER = Place(metrics="a typology's reason knows fields only", earlier="a typology has no `after`")


@dataclass
class _Draft:
    """One variant of a scenario as it takes shape."""

    params: Params
    on: Term | None
    after: Term | None
    variant: Variant
    score: Term | None
    earlier: set[str] = field(default_factory=set)
    fixed: set[str] = field(default_factory=set)  # the parameters that no segment may change


class Scenarios:
    """The scenarios and typologies of a ruleset, checked in file order."""

    def __init__(self, ground: Ground, metrics: Metrics, decl: RulesetDecl) -> None:
        """Metrics, lists and derived fields are checked before any scenario."""
        self.ground, self.metrics = ground, metrics
        self.ids = [item.id for item in decl.scenarios]
        self.status = {item.id: item.status for item in decl.scenarios}
        self.scored = [item.id for item in decl.scenarios if item.score is not None]
        self.lists: dict[str, set[str]] = {}  # by scenario: the lists on which it depends whether it held

    # -- scenarios -----------------------------------------------------------------------------------------------------

    def scenario(self, decl: ScenarioDecl) -> CheckedScenario:
        """Return the checked scenario; it must come after all that stand above it."""
        path: KeyPath = ("scenario", decl.id)
        source, mark = self.ground.source, self.metrics.mark()
        subject = decl.subject if decl.subject is not None else self.ground.contract.subject_field
        self.ground.grouping((*path, "subject"), subject)
        if decl.after is not None and decl.after.by is not None:
            self.ground.grouping((*path, "after", "by"), decl.after.by)
        base = self.draft(decl, Params(decl.params), None, None)
        for name in decl.params:
            if name not in base.params.used:
                hint = f"use it as p.{name}, or remove it"
                raise source.error((*path, "params", name), "is never used", hint=hint, key=True)
        drafts = [self.segment(decl, subject, item, base) for item in decl.segments] + [base]
        after = None
        if decl.after is not None and base.after is not None:
            read: set[str] = set().union(*(each.earlier for each in drafts))
            names = tuple(item.name for item in self.ground.contract.fields if item.name in read)
            after = After(base.after, decl.after.within, decl.after.by or subject, decl.after.reuse, names)
        bands: tuple[Band, ...] = ()
        if decl.score is not None and base.score is not None:
            bands = check_bands(source, (*path, "score"), decl.score, base.score.type)
        checked = CheckedScenario(
            decl=decl,
            subject=subject,
            on=base.on,
            after=after,
            variants=tuple(each.variant for each in drafts),
            window=self.window(decl, base.variant.measure),
            cooldown=decl.cooldown,
            bands=bands,
            lists=self.used_lists(decl, base, drafts),
            line=source.line(*path),
        )
        if decl.status not in RUNNING:
            self.metrics.forget(mark)
        return checked

    def draft(self, decl: ScenarioDecl, params: Params, segment: str | None, population: Term | None) -> _Draft:
        """Read everything of a scenario with these parameters."""
        path: KeyPath = ("scenario", decl.id)
        metrics, earlier = self.user(decl, params), set[str]()

        def scope(key: tuple[str, ...], text: str, place: Place = CONDITION) -> Scope:
            a = earlier if decl.after is not None else None
            return Scope(self.ground, (*path, *key), text, place, params=params, metric=metrics, earlier=a)

        on: Term | None = None
        if isinstance(decl.on, tuple):
            for number, item in enumerate(decl.on):
                self.may_name(decl, item, (*path, "on", "of", number))
            on = Term("flagged", BOOLEAN, value=decl.on)
        elif decl.on is not None:
            on = scope(("on",), decl.on, ON).condition()
        after = scope(("after", "where"), decl.after.where, AFTER).condition() if decl.after else None
        fixed = set(params.used)
        when = scope(("when",), decl.when).condition()
        measure = scope(("measure",), decl.measure).quantity()
        threshold = scope(("threshold",), decl.threshold).quantity(measure.type)
        score: Term | None = None
        if decl.score is not None:
            text = decl.score.value
            score = measure if text is None else scope(("score", "value"), text).quantity()
        # last: a parameter is shown as what it is used as
        reason: tuple[str | Term, ...] = ()
        if decl.reason is not None:
            # read twice: a metric named late in it may first tell the kind of a parameter named early
            check_reason(scope(("reason",), decl.reason))
            reason = check_reason(scope(("reason",), decl.reason))
        terms = [when, measure, threshold, *([score] if score else ()), *(x for x in reason if isinstance(x, Term))]
        variant = Variant(
            segment=segment,
            population=population,
            when=when,
            measure=measure,
            threshold=threshold,
            params=params.resolved(),
            metrics=self.metrics.keys(set[str]().union(*(term.names("metric") for term in terms))),
            reason=reason,
            score_value=score,
        )
        return _Draft(params, on, after, variant, score, earlier, fixed)

    def segment(self, decl: ScenarioDecl, subject: str, segment: SegmentDecl, base: _Draft) -> _Draft:
        """Return the variant for one population: the scenario again, with the segment's parameters."""
        source, path = self.ground.source, ("scenario", decl.id, "segment", segment.name)
        for name in segment.params:
            if name not in decl.params:
                hint = nearest(name, decl.params)
                raise source.error((*path, name), f"there is no parameter {name!r}", hint=hint, key=True)
            if name in base.fixed:
                where = "`on` or `after`, which are the same for everybody"
                hint = "use another parameter there"
                raise source.error((*path, name), f"p.{name} stands in {where}", hint=hint, key=True)
        if segment.where is not None:
            population = Scope(self.ground, (*path, "where"), segment.where, POPULATION).condition()
        elif segment.name in self.ground.lists:
            item = Scope(self.ground, (*path, "where"), f"{subject} in list.{segment.name}", POPULATION)
            population = item.condition()
        else:
            hint = f"give it a `where`, or add [list.{segment.name}]; lists: {', '.join(self.ground.lists) or 'none'}"
            raise source.error(path, "does not say whom it is for", hint=hint, key=True)
        origins = {name: (*path, name) for name in segment.params}
        draft = self.draft(decl, Params(decl.params | segment.params, origins), segment.name, population)
        for name in segment.params:
            kind, usual = draft.variant.params[name][0], base.variant.params[name][0]
            if kind != usual:
                raise source.error(
                    (*path, name), f"is {kind}, the parameter itself is {usual}", hint="use the same type"
                )
        return draft

    def user(self, decl: ScenarioDecl, params: Params) -> Callable[[str, Node, Scope], Metric]:
        """Return how the expressions of this scenario find a metric."""

        def find(name: str, node: Node, scope: Scope) -> Metric:
            for item in self.metrics.of[name]:
                self.may_name(decl, item, scope.path, through=name, at=node.at)
            return self.metrics.instance(
                name, params, user=decl.id, fail=lambda problem, hint: scope.fail(problem, hint, node.at)
            )

        return find

    def may_name(
        self, decl: ScenarioDecl, item: str, path: KeyPath, *, through: str = "", at: int | None = None
    ) -> None:
        """Refuse that a scenario counts or follows `item`, unless that runs, stands earlier and is live if this is."""
        source, allowed = self.ground.source, self.ids[: self.ids.index(decl.id)]
        what = f"uses the metric {through}, which counts flags of {item}" if through else item
        fits = [name for name in allowed if self.status[name] in ("live", decl.status)]
        if item not in self.ids:
            raise source.error(path, f"there is no scenario {item!r}", hint=nearest(item, fits), at=at)
        if item not in allowed:
            if through:
                raise source.error(path, what, hint=f"{item} must stand earlier in the file", at=at)
            raise source.error(path, f"{item} does not stand earlier in the file", hint=nearest("", fits), at=at)
        if problem := unfit(decl.status, self.status[item]):
            says = f"{what}: {item} {problem[0]}" if through else f"{item} {problem[0]}"
            raise source.error(path, says, hint=problem[1], at=at)

    def window(self, decl: ScenarioDecl, measure: Term) -> int:
        """Return the window shown, in seconds: that of the metrics measured."""
        if decl.window is not None:
            return decl.window
        known = self.metrics.all()
        return max(((known[key].window or 0) // MICROSECONDS for key in measure.names("metric")), default=0)

    def used_lists(self, decl: ScenarioDecl, base: _Draft, drafts: list[_Draft]) -> tuple[str, ...]:
        """Return the lists that can change a flag, and note those that can change whether the scenario holds."""
        known = self.metrics.all()

        def lists(terms: list[Term | None]) -> set[str]:
            found: set[str] = set()
            for term in [part for top in terms if top is not None for part in top.walk()]:
                if term.op in ("listed", "not listed"):
                    found.add(str(term.value))
                elif term.op == "metric":
                    found |= lists([known[str(term.value)].where])
                elif term.op == "flagged" and isinstance(term.value, tuple):
                    found |= set().union(*(self.lists[item] for item in term.value))
            return found

        variants = [each.variant for each in drafts]
        held = [base.on, base.after, *(each.population for each in variants), *(each.when for each in variants)]
        self.lists[decl.id] = lists(held)
        shown: list[Term | None] = []
        for each in variants:
            shown += [each.measure, each.threshold, each.score_value]
            shown += [piece for piece in each.reason if isinstance(piece, Term)]
        return tuple(sorted(self.lists[decl.id] | lists(shown)))

    # -- typologies ----------------------------------------------------------------------------------------------------

    def typology(self, decl: TypologyDecl) -> CheckedTypology:
        """Return the checked typology; it must come after all scenarios."""
        path: KeyPath = ("typology", decl.id)
        source = self.ground.source
        if decl.id in self.ids:
            raise source.error(path, "is also the id of a scenario", hint="choose another id", key=True)
        for item in decl.weights:
            here = (*path, "weights", item)
            if item not in self.ids:
                hint = nearest(item, self.scored)
                raise source.error(here, f"there is no scenario {item!r}", hint=hint, key=True)
            if item not in self.scored:
                hint = f"give it one; scenarios with a score: {', '.join(self.scored) or 'none'}"
                raise source.error(here, f"{item} has no score", hint=hint, key=True)
            if problem := unfit(decl.status, self.status[item]):
                raise source.error(here, f"{item} {problem[0]}", hint=problem[1], key=True)
        subject = self.ground.contract.subject_field
        self.ground.grouping(path, subject)
        reason: tuple[str | Term, ...] = ()
        if decl.reason is not None:
            reason = check_reason(Scope(self.ground, (*path, "reason"), decl.reason, _READS_EARLIER))
        return CheckedTypology(
            decl=decl,
            subject=subject,
            weights=decl.weights,
            threshold=decl.threshold,
            cooldown=decl.cooldown,
            reason=reason,
            line=source.line(*path),
        )


def unfit(status: str, other: str) -> tuple[str, str] | None:
    """Return why something of `status` may not name a scenario of status `other`, and what to do; None if it may."""
    if other not in RUNNING:
        return f"is {other} and never runs", "only live and shadow scenarios can be named"
    if status == "live" and other == "shadow":
        return "is a shadow scenario", "what is live never depends on a shadow: make both shadow, or both live"
    return None
