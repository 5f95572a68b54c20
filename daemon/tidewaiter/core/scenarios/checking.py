"""From declarations to a checked ruleset: the wiring of the rooms beside this one.

Owns: the order (lists, derived fields, metrics, scenarios, typologies), the clash of names, and which scenarios run.
Leaves to `lists` what a list file says, to `checking_ground` and `checking_expressions` names, types and units, to
`checking_metrics`, `checking_scenarios` and `checking_texts` the parts, and to `planning` what is computed when.

What comes out cannot fail when it runs: every operation is total on the types that the contract guarantees, every size
that enters a flag has a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewaiter.core.scenarios.checking_expressions import Scope
from tidewaiter.core.scenarios.checking_ground import DERIVED, Ground
from tidewaiter.core.scenarios.checking_metrics import Metrics
from tidewaiter.core.scenarios.checking_scenarios import Scenarios
from tidewaiter.core.scenarios.lists import read_list
from tidewaiter.core.scenarios.model import Checked, CheckedScenario, CheckedTypology
from tidewaiter.core.scenarios.syntax import RUNNING
from tidewaiter.core.scenarios.terms import BOOLEAN, Term

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.model import LoadedList
    from tidewaiter.core.scenarios.syntax import ListDecl, RulesetDecl, ScenarioDecl, TypologyDecl
    from tidewaiter.core.toml_source import TomlSource

__all__ = ["Checked", "CheckedScenario", "CheckedTypology", "check_ruleset", "list_files"]


def list_files(decl: RulesetDecl) -> tuple[str, ...]:
    """Return the paths of the list files as written, relative to the ruleset file, each once, in file order."""
    return tuple(dict.fromkeys(item.file for item in decl.lists))


def check_ruleset(
    decl: RulesetDecl, source: TomlSource, contract: Contract, files: Mapping[str, bytes] | None = None
) -> Checked:
    """Check `decl` against `contract`; `files` holds the bytes of each of its `list_files`.

    Raises ConfigError at the first thing that does not fit.
    """
    label = f"{contract.name}/{contract.version}"
    if decl.contract != label:
        problem = f"the rules are written for {decl.contract!r}, the contract in force is {label!r}"
        raise source.error(
            ("contract",), problem, hint=f"use the contract file of {decl.contract}, or rules for {label}"
        )
    ground = Ground(source, contract)
    for item in decl.lists:
        ground.lists[item.name] = _loaded(item, source, files or {})
    ground.metric_names += [item.name for item in decl.metrics]
    _derive(ground, decl)
    metrics = Metrics(ground, decl.utc_offset, [item.id for item in decl.scenarios])
    for metric in decl.metrics:
        metrics.add(metric)
    scenarios = Scenarios(ground, metrics, decl)
    checked = [scenarios.scenario(item) for item in decl.scenarios]
    typologies = [scenarios.typology(item) for item in decl.typologies]
    both: tuple[ScenarioDecl | TypologyDecl, ...] = (*decl.scenarios, *decl.typologies)
    return Checked(
        metrics=metrics.all(),
        scenarios=tuple(item for item in checked if item.decl.status in RUNNING),
        typologies=tuple(item for item in typologies if item.decl.status in RUNNING),
        lists=ground.lists,
        skipped={item.id: item.status for item in both if item.status not in RUNNING},
    )


def _loaded(item: ListDecl, source: TomlSource, files: Mapping[str, bytes]) -> LoadedList:
    folder = source.file.rpartition("/")[0]
    shown = f"{folder}/{item.file}" if folder else item.file
    content = files.get(item.file)
    if content is None:
        hint = f"the path is relative to the ruleset file; looked for {shown}"
        raise source.error(("list", item.name, "file"), f"there is no file {item.file!r}", hint=hint)
    return read_list(item, content, shown)


def _derive(ground: Ground, decl: RulesetDecl) -> None:
    taken = "is also the name of a field"
    ground.later = list(decl.fields)
    for name, text in decl.fields.items():
        path = ("field", name)
        if name in ground.contract.by_name:
            raise ground.source.error(path, taken, hint="choose another name", key=True)
        condition = Scope(ground, path, text, DERIVED).condition()
        ground.later.remove(name)
        ground.derived[name] = Term("derived", BOOLEAN, (condition,), name)
    for name in ground.metric_names:
        if name in ground.contract.by_name or name in ground.derived:
            raise ground.source.error(("metric", name), taken, hint="choose another name", key=True)
