"""A ruleset: its text loaded, checked and compiled, its scenarios described, its flags written.

Owns: what the engine and the commands see. Leaves to the other modules of this package each step on the way.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.audit import MAX_ENTRY_BYTES
from tidewaiter.core.contract import MAX_ID_LENGTH, Contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios import checking
from tidewaiter.core.scenarios.checking import check_ruleset
from tidewaiter.core.scenarios.flags import Form, Render, longest_flag, longest_text, make_renderer, value_text
from tidewaiter.core.scenarios.generating import Hit, compile_source, generate_source, list_tests
from tidewaiter.core.scenarios.planning import Outcome, Plan, plan_ruleset
from tidewaiter.core.scenarios.planning_digests import typology_lists
from tidewaiter.core.scenarios.state import RuleState, arranged, empty_cell
from tidewaiter.core.scenarios.syntax import read_ruleset
from tidewaiter.core.scenarios.terms import INTEGER, Term
from tidewaiter.core.toml_source import TomlSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tidewaiter.core.scenarios.model import Checked, CheckedScenario, CheckedTypology, LoadedList, Metric, Variant


MAX_RULESET_BYTES: Final = 1 << 20
_LONGEST_FLAG: Final = MAX_ENTRY_BYTES - 1024  # the entry that carries it adds less than that


@dataclass(frozen=True)
class Population:
    """A scenario for one segment, or (`segment` None) for everybody else; `parameters` as JSON texts, as resolved.

    `metrics` are the names of those it shows, `keys` what tells the instances of a template apart.
    """

    segment: str | None
    parameters: dict[str, str]
    metrics: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Scenario:
    """What is known about one scenario of a loaded ruleset that runs.

    `parameters` and `metrics` are those of the variant for everybody else; money stands with its decimals. `window` is
    in seconds, `cooldown` in microseconds; `digest` is the SHA-256 of `canonical`, the text of all that can change the
    scenario's flags; `line` is where it stands in the file.
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
    populations: tuple[Population, ...] = ()
    cooldown: int = 0
    lists: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class TypologyInfo:
    """What is known about one typology that runs; fields as in `Scenario`."""

    id: str
    title: str
    version: int
    severity: str
    status: str
    subject: str
    repeat: str
    threshold: int
    weights: dict[str, int]
    cooldown: int
    lists: tuple[str, ...]
    digest: str
    canonical: str
    line: int


@dataclass(frozen=True)
class MetricInfo:
    """What is known about a metric that is used, or about one instance of a template; `cell` numbers its state."""

    key: str
    name: str
    digest: str
    cell: int
    line: int
    used_by: tuple[str, ...] = field(default=())


class Ruleset:
    """The scenarios of one file, compiled for one contract.

    `outcomes` says what a hit can be, by its second element; `projections` only where its line goes.
    """

    def __init__(self, text: bytes, file: str, contract: Contract, files: Mapping[str, bytes] | None = None) -> None:
        """Load `text`; `files` holds the bytes of each of its `list_files`. Raises ConfigError."""
        source, decl = _read(text, file)
        self.files: Mapping[str, bytes] = dict(files or {})
        checked = check_ruleset(decl, source, contract, self.files)
        plan = plan_ruleset(checked, contract)
        self.name, self.version = decl.name, decl.version
        self.text, self.file = text, file
        self.digest = hashlib.sha256(text).hexdigest()
        self.checked: Checked = checked
        self.plan: Plan = plan
        self.lists: Mapping[str, LoadedList] = checked.lists
        self.skipped: Mapping[str, str] = checked.skipped
        self.scenarios = tuple(_describe(item, plan) for item in checked.scenarios)
        self.typologies = tuple(_describe_typology(item, plan) for item in checked.typologies)
        self.metrics = _describe_metrics(plan)
        self.outcomes = plan.outcomes
        self.projections = tuple(outcome.projection for outcome in plan.outcomes)
        self.only_flags = all(name == "flags" for name in self.projections)
        self.money_columns = plan.money_columns
        # !a keeps a strange file name on its own line of the text
        title = f"ruleset {self.name} version {self.version}, {file!a}"
        self.python_source, names = generate_source(plan, contract, title)
        self._lists = list_tests(checked.lists, names)
        self._bind = compile_source(self.python_source, self.name)
        forms = _forms(plan, contract, source)
        self._plain = [make_renderer(form, contract, escaping=False) for form in forms]
        self._escaping = [make_renderer(form, contract, escaping=True) for form in forms]

    @property
    def forks(self) -> dict[str, tuple[str, ...]]:
        """The templates with the keys of their instances, in file order; a metric without parameters has none."""
        found: dict[str, list[str]] = {}
        for info in self.metrics:
            found.setdefault(info.name, []).append(info.key)
        return {name: tuple(keys) for name, keys in found.items() if len(keys) > 1}

    def new_state(self) -> RuleState:
        """Return an empty state."""
        return RuleState(map(empty_cell, self.plan.cells))

    def adopt_state(self, old: RuleState | None) -> tuple[RuleState, list[str]]:
        """Return a state with those cells of `old` that mean the same, and the names of the cells that start empty.

        Cells kept are shared with `old`, which is not to be used any more.
        """
        kept = old.cells if old is not None else {}
        started = [spec.label for spec in self.plan.cells if spec.digest not in kept]
        cells = (kept.get(spec.digest) or empty_cell(spec) for spec in self.plan.cells)
        return RuleState(cells), started

    def bind(self, state: RuleState) -> Callable[..., list[Hit]]:
        """Return ``evaluate(events, effective_times, *money_columns)`` over `state`; it adds to the state as it runs.

        A money column holds whole minor units. Hits come in the order of the events, then of the file.
        """
        return self._bind(arranged(state, self.plan), self._lists, state.insufficient, state.silenced)

    def take_insufficient(self, state: RuleState) -> dict[str, int]:
        """Return how often each scenario could not be decided since this was last asked, where it could not."""
        return _take(state.insufficient)

    def take_silenced(self, state: RuleState) -> dict[str, int]:
        """Return how many hits of shadow scenarios were held back by a cooldown since this was last asked, by id."""
        return _take(state.silenced)

    def projection_of(self, hit: Hit) -> str:
        """Return the name of the projection that the hit's line belongs to."""
        return self.projections[hit[1]]

    def outcome_of(self, hit: Hit) -> Outcome:
        """Return what the hit is."""
        return self.outcomes[hit[1]]

    def renderers(self, *, escaping: bool) -> Sequence[Render]:
        """Return what writes hits as lines of JSON, by their second elements: ``(hit, event, its time texts, offset)``.

        The offset is the global one, in bytes, of the event's line. Those that escape nothing are quicker, and only for
        events whose lines have no backslash.
        """
        return self._escaping if escaping else self._plain


def load_ruleset(text: bytes, file: str, contract: Contract, files: Mapping[str, bytes] | None = None) -> Ruleset:
    """Return the ruleset in `text`. Raises ConfigError with file, line, column, and what is allowed there."""
    return Ruleset(text, file, contract, files)


def list_files(text: bytes, file: str) -> tuple[str, ...]:
    """Return the paths of the list files that a ruleset names, as written. Raises ConfigError."""
    _, decl = _read(text, file)
    return checking.list_files(decl)


def _read(text: bytes, file: str) -> tuple[TomlSource, Any]:
    if len(text) > MAX_RULESET_BYTES:
        raise ConfigError(f"{file}: is {len(text)} bytes long", hint=f"a ruleset has at most {MAX_RULESET_BYTES}")
    source = TomlSource(text, file, pictures=True, exact=True)
    return source, read_ruleset(source)


def _take(counts: dict[str, int]) -> dict[str, int]:
    taken = counts.copy()
    counts.clear()  # the compiled function holds on to this very dictionary
    return taken


# -- descriptions ------------------------------------------------------------------------------------------------------


def _parameters(variant: Variant) -> dict[str, str]:
    return {name: value_text(*value) for name, value in variant.params.items()}


def _names(plan: Plan, variant: Variant) -> tuple[str, ...]:
    return tuple(plan.checked.metrics[key].name for key in variant.metrics)


def _describe(item: CheckedScenario, plan: Plan) -> Scenario:
    decl, usual = item.decl, item.variants[-1]
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
        parameters=_parameters(usual),
        metrics=_names(plan, usual),
        digest=plan.digests.closures[decl.id],
        canonical=plan.digests.canonical[decl.id],
        line=item.line,
        populations=tuple(
            Population(each.segment, _parameters(each), _names(plan, each), each.metrics) for each in item.variants
        ),
        cooldown=item.cooldown,
        lists=item.lists,
        tests=decl.tests,
    )


def _describe_typology(item: CheckedTypology, plan: Plan) -> TypologyInfo:
    decl = item.decl
    return TypologyInfo(
        id=decl.id,
        title=decl.title,
        version=decl.version,
        severity=decl.severity,
        status=decl.status,
        subject=item.subject,
        repeat=decl.repeat,
        threshold=item.threshold,
        weights=item.weights,
        cooldown=item.cooldown,
        lists=typology_lists(item, plan.checked),
        digest=plan.digests.closures[decl.id],
        canonical=plan.digests.canonical[decl.id],
        line=item.line,
    )


def _describe_metrics(plan: Plan) -> tuple[MetricInfo, ...]:
    users: dict[str, list[str]] = {}
    for scenario in plan.checked.scenarios:
        for key in dict.fromkeys(key for variant in scenario.variants for key in variant.metrics):
            users.setdefault(key, []).append(scenario.decl.id)

    def info(metric: Metric) -> MetricInfo:
        key = metric.key
        return MetricInfo(
            key, metric.name, plan.digests.metrics[key], plan.cell_of[key], metric.line, tuple(users[key])
        )

    return tuple(info(metric) for metric in plan.checked.metrics.values() if metric.key in users)


# -- flags -------------------------------------------------------------------------------------------------------------


def _forms(plan: Plan, contract: Contract, source: TomlSource) -> list[Form]:
    """Return what each outcome's flags are. Raises ConfigError where one could become too long for an audit entry."""
    scenarios = {item.decl.id: item for item in plan.checked.scenarios}
    typologies = {item.decl.id: item for item in plan.checked.typologies}
    texts = {
        key: longest_text(metric.field, contract) if metric.fn == "last" and metric.field is not None else 0
        for key, metric in plan.checked.metrics.items()
    }
    found = []
    for outcome in plan.outcomes:
        if outcome.id in scenarios:
            table, form = "scenario", _form(scenarios[outcome.id], outcome, plan, texts)
        else:
            table, form = "typology", _typology_form(typologies[outcome.id], outcome, plan)
        _check_length(form, (table, outcome.id), contract, source, texts)
        found.append(form)
    return found


def _form(item: CheckedScenario, outcome: Outcome, plan: Plan, texts: Mapping[str, int]) -> Form:
    decl, variant = item.decl, item.variants[outcome.variant]
    metrics = [plan.checked.metrics[key] for key in variant.metrics]
    segment = None
    if len(item.variants) > 1:
        segment = value_text(INTEGER, variant.segment)
    return Form(
        id=decl.id,
        version=decl.version,
        severity=decl.severity,
        typology=decl.typology,
        subject=item.subject,
        digest=plan.digests.closures[decl.id],
        window=item.window,
        measure=variant.measure.type,
        threshold=variant.threshold,
        parameters=_json_object(_parameters(variant)),
        metrics=tuple((metric.name, metric.type, texts[metric.key]) for metric in metrics),
        segment=segment,
        reason=variant.reason,
        lists={name: plan.checked.lists[name].digest for name in item.lists},
        suppressed=outcome.suppressed,
    )


def _typology_form(item: CheckedTypology, outcome: Outcome, plan: Plan) -> Form:
    decl, checked = item.decl, plan.checked
    bands = {scenario.decl.id: scenario.bands for scenario in checked.scenarios}
    return Form(
        id=decl.id,
        version=decl.version,
        severity=decl.severity,
        typology=decl.id,
        subject=item.subject,
        digest=plan.digests.closures[decl.id],
        window=0,
        measure=INTEGER,
        threshold=Term("const", INTEGER, value=item.threshold),
        parameters=_json_object({name: str(weight) for name, weight in item.weights.items()}),
        metrics=(),
        reason=item.reason,
        lists={name: checked.lists[name].digest for name in typology_lists(item, checked)},
        bands=tuple((name, weight, bands[name]) for name, weight in item.weights.items()),
        suppressed=outcome.suppressed,
    )


def _json_object(texts: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}"


def _check_length(
    form: Form, path: tuple[str, str], contract: Contract, source: TomlSource, texts: Mapping[str, int]
) -> None:
    length = contract.by_name[form.subject].max_length
    if length is not None and length > MAX_ID_LENGTH:
        raise source.error(
            path,
            f"its subject {form.subject} may be {length} characters long",
            hint=f"give the field max_length = {MAX_ID_LENGTH} or less in the contract",
        )
    longest = longest_flag(form, contract, texts)
    if longest > _LONGEST_FLAG:
        raise source.error(
            (*path, "params"),
            f"a flag could be {longest} bytes long",
            hint=f"at most {_LONGEST_FLAG} fit an audit entry: shorten parameters, names or texts",
        )
