"""The identity of everything that keeps state or makes flags, as SHA-256 over a canonical text.

Owns: what enters a digest. Leaves to `planning` what is done with it.

In the canonical JSON text a metric stands as its own digest, a list as that of its entries, a field with the place it
is read from and its default, and a derived field as what it means, so names do not matter there:
- metric: function, field, `by`, window and so on, and the condition with lists and parameters filled in; neither its
  name nor its default. Its state is kept under it, so two metrics that say the same share one state, and an unchanged
  metric keeps its state when the rules change;
- condition of a scenario: `on`, `after` and `when` of every population. A metric that counts flags depends on the
  conditions it counts and on nothing else of those scenarios;
- closure of a scenario or typology: all that can change its flags, types included. It stands in every flag.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.model import (
        After,
        Band,
        Checked,
        CheckedScenario,
        CheckedTypology,
        Metric,
        Variant,
    )
    from tidewaiter.core.scenarios.terms import Term

LANGUAGE: Final = 2  # part of every digest: raised when the same text would come to mean something else


def digest(text: str) -> str:
    """Return the SHA-256 of a canonical text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_text(value: Any) -> str:  # noqa: ANN401 - nested lists of JSON values
    """Return the one text of a value."""
    return msgspec.json.encode(value, order="deterministic").decode()


def is_optional(contract: Contract, name: str) -> bool:
    """Whether a field may be absent and then has no value."""
    field = contract.by_name[name]
    return not field.required and field.default is None


class Digests:
    """The digests of one ruleset: `metrics` by key; `conditions`, `closures` and their `canonical` texts by id."""

    def __init__(self, checked: Checked, contract: Contract) -> None:
        """Work out all of them; a scenario counts only earlier ones, so one pass in file order does it."""
        self.checked, self.contract = checked, contract
        self.metrics: dict[str, str] = {}
        self.conditions: dict[str, str] = {}
        self.canonical: dict[str, str] = {}
        self.entries: dict[str, Any] = {}
        for scenario in checked.scenarios:
            for variant in scenario.variants:
                self._add(variant.metrics)
            self.conditions[scenario.decl.id] = digest(canonical_text(self._condition(scenario)))
        for scenario in checked.scenarios:
            self.canonical[scenario.decl.id] = canonical_text(self._closure(scenario))
        for typology in checked.typologies:
            self.conditions[typology.decl.id] = digest(canonical_text(self._points(typology)))
            self.canonical[typology.decl.id] = canonical_text(self._typology(typology))
        self.closures = {name: digest(text) for name, text in self.canonical.items()}

    def _add(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self.metrics:
                self.metrics[key] = digest(canonical_text(self._metric(self.checked.metrics[key])))

    def term(self, term: Term | None) -> Any:  # noqa: ANN401 - nested lists of JSON values
        """Return what a term means, as nested lists."""
        if term is None:
            return None
        match term.op:
            case "const":
                return ["const", term.type.label, _plain(term.value)]
            case "field" | "earlier" | "present":
                return [term.op, term.type.label, *self.field(str(term.value))]
            case "derived":
                return self.term(term.args[0])
            case "metric":
                default = self.checked.metrics[str(term.value)].default
                return ["metric", self.metrics[str(term.value)], default]
            case "flagged":
                ids = term.value if isinstance(term.value, tuple) else ()
                return ["flagged", sorted({self.conditions[item] for item in ids})]
            case "listed" | "not listed":
                return [term.op, self._list(str(term.value)), self.term(term.args[0])]
            case "compare":
                return ["compare", term.value, [self.term(arg) for arg in term.args]]
        return [term.op, [self.term(arg) for arg in term.args]]

    def _text(self, pieces: tuple[str | Term, ...]) -> list[Any]:
        return [piece if isinstance(piece, str) else self.term(piece) for piece in pieces]

    def field(self, name: str) -> list[Any]:
        """Return what a value of the field means: from where in the line it is, and what stands for an absent one."""
        field = self.contract.by_name[name]
        return [name, field.kind, field.scale, field.source, field.default]

    def _list(self, name: str) -> Any:  # noqa: ANN401 - nested lists of JSON values
        """Return what the list says: its entries, not its file, of which another column may be another list."""
        if name not in self.entries:
            found = self.checked.lists[name]
            self.entries[name] = [digest(canonical_text(sorted(found.entries))), found.prefix]
        return self.entries[name]

    def _metric(self, metric: Metric) -> Any:  # noqa: ANN401 - nested lists of JSON values
        return {
            "language": LANGUAGE,
            "fn": metric.fn,
            "field": None if metric.field is None else self.field(metric.field),
            "by": [self.field(name) for name in metric.by],
            "window": "day" if metric.day else metric.window,
            "utc_offset": metric.utc_offset if metric.day else 0,
            "offset": metric.offset,
            "last": metric.last,
            "cap": metric.cap,
            "warmup": metric.warmup,
            "where": self.term(metric.where),
        }

    def _after(self, after: After | None) -> Any:  # noqa: ANN401 - nested lists of JSON values
        return after and [self.term(after.where), after.within, self.field(after.by), after.reuse]

    def _condition(self, scenario: CheckedScenario) -> Any:  # noqa: ANN401 - nested lists of JSON values
        return {
            "language": LANGUAGE,
            "on": self.term(scenario.on),
            "after": self._after(scenario.after),
            "when": [[self.term(variant.population), self.term(variant.when)] for variant in scenario.variants],
            # where it may be absent, it decides whether the scenario can hold
            "subject": scenario.subject if is_optional(self.contract, scenario.subject) else None,
        }

    def _variant(self, variant: Variant) -> Any:  # noqa: ANN401 - nested lists of JSON values
        metrics = [self.checked.metrics[key] for key in variant.metrics]
        return {
            "segment": variant.segment,
            "population": self.term(variant.population),
            "when": self.term(variant.when),
            "measure": self.term(variant.measure),
            "threshold": self.term(variant.threshold),
            "params": [[name, kind.label, _plain(value)] for name, (kind, value) in variant.params.items()],  # as shown
            "metrics": [[metric.name, self.metrics[metric.key], metric.default] for metric in metrics],
            "reason": self._text(variant.reason),
        }

    def score(self, scenario: CheckedScenario) -> Any:  # noqa: ANN401 - nested lists of JSON values
        """Return what the points of a scenario depend on besides its condition."""
        values = [variant.score_value or variant.measure for variant in scenario.variants]
        return [list(map(self.term, values)), [_band(band) for band in scenario.bands]]

    def _lists(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: [self.checked.lists[name].digest, self._list(name)] for name in names}

    def _closure(self, scenario: CheckedScenario) -> Any:  # noqa: ANN401 - nested lists of JSON values
        decl = scenario.decl
        return {
            "language": LANGUAGE,
            "id": decl.id,
            "version": decl.version,
            "severity": decl.severity,
            "typology": decl.typology,
            "subject": self.field(scenario.subject),
            "on": self.term(scenario.on),
            "after": self._after(scenario.after),
            "variants": list(map(self._variant, scenario.variants)),
            "window": scenario.window,
            "repeat": decl.repeat,
            "cooldown": scenario.cooldown,
            "score": self.score(scenario),
            "lists": self._lists(scenario.lists),
        }

    def _points(self, typology: CheckedTypology) -> Any:  # noqa: ANN401 - nested lists of JSON values
        scored = {item.decl.id: item for item in self.checked.scenarios if item.decl.id in typology.weights}
        return {
            "language": LANGUAGE,
            "weights": list(typology.weights.items()),  # in the order in which a flag shows them
            "scenarios": {name: [self.conditions[name], self.score(item)] for name, item in scored.items()},
            "threshold": typology.threshold,
        }

    def _typology(self, typology: CheckedTypology) -> Any:  # noqa: ANN401 - nested lists of JSON values
        decl = typology.decl
        return {
            "language": LANGUAGE,
            "id": decl.id,
            "version": decl.version,
            "severity": decl.severity,
            "subject": self.field(typology.subject),
            "points": self._points(typology),
            "repeat": decl.repeat,
            "cooldown": typology.cooldown,
            "reason": self._text(typology.reason),
            "lists": self._lists(typology_lists(typology, self.checked)),
        }


def typology_lists(typology: CheckedTypology, checked: Checked) -> tuple[str, ...]:
    """Return the names of the lists that decide about a typology."""
    used = (item.lists for item in checked.scenarios if item.decl.id in typology.weights)
    return tuple(sorted({name for names in used for name in names}))


def _plain(value: Any) -> Any:  # noqa: ANN401 - a constant
    """Return a constant as JSON can say it; those without a unit stay exact."""
    return value if isinstance(value, bool | int | str) else str(value)


def _band(band: Band) -> list[Any]:
    return [band.at_least, band.below, band.points, band.reason]
