"""What `tidewaiter rules` shows on a terminal or in a pipe: the ruleset, its plan, and what it covers.

Owns: the tables. Leaves to `core.scenarios` everything in them, and to `shell.commands.rules` when they are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.tree import Tree

from tidewaiter.core.scenarios.planning import MetricStep, ScenarioStep, StoreStep
from tidewaiter.core.scenarios.readable import term_text
from tidewaiter.shell.commands.options import plain
from tidewaiter.shell.setting_values import duration_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from tidewaiter.core.scenarios.coverage import Coverage, Covered
    from tidewaiter.core.scenarios.model import Metric
    from tidewaiter.core.scenarios.planning import Plan, Step
    from tidewaiter.core.scenarios.ruleset import Ruleset
    from tidewaiter.core.toml_source import TomlSource


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


# -- show ----------------------------------------------------------------------------------------------------------


def ruleset_shown(ruleset: Ruleset) -> Iterator[RenderableType]:
    """Yield scenarios, metrics and lists, each with who uses it."""
    checked = ruleset.checked
    yield f"[bold]{plain(ruleset.name)}[/bold] version {ruleset.version}, {ruleset.digest}\n"
    table = _table("scenario", "version", "status", "severity", "typology", "subject", "window", "repeat", "metrics")
    used: dict[str, list[str]] = {}
    for item in checked.scenarios:
        keys = list(dict.fromkeys(key for variant in item.variants for key in variant.metrics))
        for key in keys:
            used.setdefault(key, []).append(item.decl.id)
        window = duration_text(item.window * 1_000_000) if item.window else "-"
        decl = item.decl
        cells = [decl.id, str(decl.version), decl.status, decl.severity, decl.typology, item.subject, window]
        table.add_row(*map(plain, (*cells, decl.repeat, ", ".join(keys) or "-")))
    for each in checked.typologies:
        typology = each.decl
        weights = ", ".join(f"{name} * {weight}" for name, weight in each.weights.items())
        cells = [
            typology.id,
            str(typology.version),
            typology.status,
            typology.severity,
            "(typology)",
            each.subject,
            "-",
        ]
        table.add_row(*map(plain, (*cells, typology.repeat, weights)))
    yield table
    for name, status in checked.skipped.items():
        yield f"not run: {plain(name)} is {status}"
    if used:
        yield ""
        table = _table("metric", "is", "by", "where", "read by")
        for key, names in used.items():
            metric = checked.metrics[key]
            where = term_text(metric.where) if metric.where is not None else "-"
            table.add_row(*map(plain, (key, metric_text(metric), ", ".join(metric.by), where, ", ".join(names))))
        yield table
    if checked.lists:
        yield ""
        table = _table("list", "entries", "match", "file", "sha256")
        for found in checked.lists.values():
            match = "prefix" if found.prefix else "exact"
            table.add_row(*map(plain, (found.name, f"{len(found.entries):,}", match, found.file, found.digest)))
        yield table


def metric_text(metric: Metric) -> str:
    """Return what a metric is, without its condition: ``sum(amount), 3d, offset 1d``."""
    parts = [f"{metric.fn}({metric.field})" if metric.field is not None else metric.fn]
    if metric.day:
        parts.append("since local midnight")
    elif metric.window is not None:
        parts.append(duration_text(metric.window))
    for name, micros in (("offset", metric.offset), ("warmup", metric.warmup)):
        if micros:
            parts.append(f"{name} {duration_text(micros)}")
    parts += [f"{name} {number}" for name, number in (("last", metric.last), ("cap", metric.cap)) if number]
    return ", ".join(parts)


def plan_shown(ruleset: Ruleset) -> Iterator[RenderableType]:
    """Yield the fused pass: blocks of steps in the order they are taken, each under the condition it needs."""
    plan = ruleset.plan
    tree = Tree(f"[bold]each event[/bold], in {len(plan.blocks)} blocks over {len(plan.cells)} cells of state")
    readers = _readers(plan)
    for block in plan.blocks:
        guard = " and ".join(term_text(part, 2) for part in block.guard)
        branch = tree.add(f"[bold]if[/bold] {plain(guard)}" if guard else "[bold]always[/bold]")
        for step in block.steps:
            branch.add(plain(_step_text(plan, step, readers)))
    yield tree
    shared = [cell for cell, names in readers.items() if len(names) > 1]
    yield f"{len(readers)} metrics are kept, {len(shared)} of them for more than one reader"


def _readers(plan: Plan) -> dict[int, list[str]]:
    """Return who reads each metric's cell."""
    readers: dict[int, list[str]] = {}
    for item in plan.checked.scenarios:
        for variant in item.variants:
            for key in variant.metrics:
                names = readers.setdefault(plan.cell_of[key], [])
                if item.decl.id not in names:
                    names.append(item.decl.id)
    return readers


def _step_text(plan: Plan, step: Step, readers: dict[int, list[str]]) -> str:
    if isinstance(step, MetricStep):
        metric = step.metric
        names = [key for key, cell in plan.cell_of.items() if cell == step.cell]
        said = f"metric {' = '.join(names)}: {metric_text(metric)} by {', '.join(metric.by)}"
        return f"{said}, for {', '.join(readers.get(step.cell, ()))}"
    if isinstance(step, StoreStep):
        return f"keep the event for the `after` of {step.scenario.decl.id}"
    if isinstance(step, ScenarioStep):
        parts = [f"scenario {step.scenario.decl.id}"]
        for variant, rest in zip(step.scenario.variants, step.rests, strict=True):
            said = " and ".join(term_text(part, 2) for part in rest) or "always"
            parts.append(f"{variant.segment}: {said}" if variant.segment is not None else said)
        return "; ".join(parts)
    return f"typology {step.typology.decl.id}: {step.typology.threshold} points"


# -- coverage ------------------------------------------------------------------------------------------------------


def coverage_shown(source: TomlSource) -> Iterator[RenderableType]:
    """Yield scenarios by typology and risk, drafts and retired ones too, and what has no risk reference."""
    data: dict[str, Any] = source.data
    table = _table("typology", "scenario", "title", "severity", "status", "risk_ref", "tests", "part of")
    rows = sorted(
        ((item["typology"], at, name, item) for at, (name, item) in enumerate(data["scenario"].items())),
        key=lambda row: row[:2],
    )
    before = ""
    for typology, _, name, item in rows:
        parts = [key for key, each in data.get("typology", {}).items() if name in each.get("weights", {})]
        files = item.get("tests", ())
        count = 1 if isinstance(files, str) else len(files)
        table.add_row(
            plain(typology if typology != before else ""), plain(name), plain(item.get("title", "")),
            item["severity"], item.get("status", "live"), plain(item.get("risk_ref", "") or "-"),
            str(count) if count else "-", plain(", ".join(parts) or "-"),
        )  # fmt: skip
        before = typology
    yield table
    typologies = {item["typology"] for item in data["scenario"].values()}
    running = [item for item in data["scenario"].values() if item.get("status", "live") == "live"]
    yield f"{len(data['scenario'])} scenarios, {len(running)} of them live, cover {len(typologies)} typologies"
    without = [name for name, item in data["scenario"].items() if not item.get("risk_ref")]
    if without:
        yield f"without risk_ref: {plain(', '.join(without))}"


def history_shown(counted: Coverage) -> Iterator[RenderableType]:
    """Yield what the history made of each scenario, and why those that never fired did not."""
    covered = list(counted.scenarios())
    left_out = counted.lines - counted.events
    yield f"{counted.events:,} events, {left_out:,} lines left out\n"
    table = _table("scenario", "status", "looked at", "insufficient", "held", "flags", "suppressed")
    for column in table.columns[2:]:
        column.justify = "right"
    for each in covered:
        numbers = (each.looked_at, each.insufficient, each.held, each.flags, each.suppressed)
        table.add_row(plain(each.id), each.status, *(f"{number:,}" for number in numbers))
    yield table
    silent = [each for each in covered if not each.flags]
    if silent:
        yield "\n[bold]never fired[/bold]"
    for each in silent:
        yield from _why_silent(each)
    unreached = [
        (each.id, segment) for each in covered if each.looked_at for segment in each.segments
        if not segment.looked_at and len(each.segments) > 1
    ]  # fmt: skip
    if unreached:
        yield "\n[bold]no event reached[/bold]"
    for name, segment in unreached:
        values = ", ".join(f"{key} = {value}" for key, value in segment.parameters.items())
        who = "its own parameters: every event was of a segment"
        if segment.name is not None:
            who = f"segment {segment.name} ({values})"
        yield f"  {plain(name)}: {plain(who)}"


def _why_silent(each: Covered) -> Iterator[str]:
    if not each.conditions:  # a typology
        yield f"  {plain(each.id)}: never enough points"
        return
    if not each.looked_at:
        yield f"  {plain(each.id)}: no event was looked at: `on` was never true"
        return
    yield f"  {plain(each.id)}: looked at {each.looked_at:,} events"
    for condition in each.conditions:
        unsure = f", unknown at {condition.unknown:,}" if condition.unknown else ""
        count = f"true at {condition.true:,}" if condition.true else "[bold]never true[/bold]"
        text = plain(condition.text)
        if condition.within and not condition.true:
            count = f"[bold]no looked-at event had one within {duration_text(condition.within)}[/bold]"
            text, unsure = "after", f" ({condition.matched:,} events matched '{text}')"
        elif condition.within:
            text = f"after: {text}"
        yield f"    {text}: {count}{unsure}"
    if not each.never_true:
        yield "    each was true, never all at one event" if not each.held else "    held, and never let a flag out"
