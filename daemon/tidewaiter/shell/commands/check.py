"""``tidewaiter check``: read configuration, contract and rules as a start would, and say what was found.

Owns: the summary and its warnings. Leaves every judgement to the loaders that a start uses: what `check` accepts, `run`
and a reload accept.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidewaiter.shell.commands.options import (
    WITHOUT_FILE,
    ConfigOption,
    ContractOption,
    DuplicateOption,
    InvalidOption,
    OrderOption,
    RulesOption,
    StateDirOption,
    StreamArgument,
    StreamNameOption,
    load,
    overrides_of,
    plain,
    show,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios import Ruleset
    from tidewaiter.shell.settings import Settings

STATUSES = ("live", "shadow", "draft", "retired")
"""What runs first."""
EXAMPLE = (
    "Examples: [bold]tidewaiter check[/bold]\n\n"
    "[bold]tidewaiter check --rules new.toml --print-python | less[/bold] shows the function that rules become."
)


def check(
    stream: StreamArgument = None,
    *,
    config: ConfigOption = None,
    contract: ContractOption = None,
    rules: RulesOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
    policy_invalid: InvalidOption = None,
    policy_duplicate: DuplicateOption = None,
    policy_order: OrderOption = None,
    print_python: Annotated[
        bool, typer.Option("--print-python", help="Print only the Python function that the ruleset is compiled to.")
    ] = False,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="Print only the contract, as JSON Schema 2020-12.")
    ] = False,
) -> None:
    """Validate configuration, contract and rules; an error names file, line, key and what is allowed (exit 2).

    It takes the options of `run` that lie over the configuration, so that such a run can be checked before it starts,
    and fails where that start would fail for this user, also for its stream or state directory.
    """
    policy = (policy_invalid, policy_duplicate, policy_order)
    overrides = overrides_of(stream_name, contract, rules, policy, stream=stream, state_dir=state_dir)
    settings = load(config, overrides, or_else=WITHOUT_FILE)
    from tidewaiter.shell.governing import from_settings
    from tidewaiter.shell.settings_file import check_stream_readable
    from tidewaiter.shell.state_owner import check_state_usable

    governing = from_settings(settings)
    compiled, ruleset = governing.contract, governing.ruleset
    if json_schema:
        import msgspec

        from tidewaiter.core.contract import json_schema as schema_of

        typer.echo(msgspec.json.format(msgspec.json.encode(schema_of(compiled)), indent=2))
    if print_python:
        typer.echo(ruleset.python_source.rstrip("\n"))
    if not (json_schema or print_python):
        check_stream_readable(settings)
        check_state_usable(settings.state.dir, settings.stream.name)
        evidence = [*_evidence(settings), *_lineage(settings)]
        show(*_summary(settings, compiled, ruleset, evidence))


def _evidence(settings: Settings) -> list[str]:
    """Return who signs and cosigns the log, a line each. Raises ConfigError where a start would."""
    from tidewaiter.shell.cosigning import Cosigning
    from tidewaiter.shell.evidence import origin_for, signing_keys

    keys = signing_keys(settings.evidence)
    origin_for(settings, keys)
    cosigning = Cosigning.of(settings.evidence.policy)
    witnesses = cosigning.asked if cosigning is not None else []
    signed = [f"signed by {key.verifier}" for key in keys] or [
        "no key was given to this command: the log is not signed, unless the service gets one from systemd"
    ]
    return [*signed, *(f"cosigned by {name}, {url}" for name, url in witnesses)]


def _lineage(settings: Settings) -> list[str]:
    """Return where OpenLineage events go, a line, none where nobody asked for them. Raises ConfigError as a start."""
    from tidewaiter.shell.openlineage_settings import client_of

    client = client_of(settings.openlineage)
    if settings.openlineage is None:
        return []
    return [f"OpenLineage events go to lineage.jsonl{'' if client is None else f' and to {client.shown}'}"]


def warnings(settings: Settings) -> list[str]:
    """Return what does not forbid a start by itself, and yet is seldom meant."""
    found: list[str] = []
    path = settings.stream.path
    if not path.exists():
        if settings.producer is None:
            found.append(f"the stream {path} does not exist yet: the daemon will wait for it")
        elif not path.parent.is_dir():
            found.append(f"the stream's directory {path.parent} does not exist: the producer will create it")
    if settings.stream.silence_alarm_us is None and settings.producer is None:
        found.append("stream.silence_alarm is off: a source that stops looks like a quiet day")
    return found


def _statuses(ruleset: Ruleset) -> str:
    """Return how many scenarios and typologies there are of each status."""
    running = [*(each.status for each in ruleset.scenarios), *(each.status for each in ruleset.typologies)]
    count = Counter([*running, *ruleset.skipped.values()])
    what = "scenarios and typologies" if ruleset.typologies else "scenarios"
    return f"{count.total()} {what}: " + ", ".join(f"{count[each]} {each}" for each in STATUSES if count[each])


def _readers(ruleset: Ruleset, key: str) -> Iterator[str]:
    """Yield the scenarios that read an instance of a template, with the segment where it is not for everybody else."""
    for scenario in ruleset.scenarios:
        for population in scenario.populations:
            if key in population.keys:
                yield scenario.id if population.segment is None else f"{scenario.id} segment {population.segment}"


def _summary(settings: Settings, contract: Contract, ruleset: Ruleset, evidence: list[str]) -> Iterator[RenderableType]:
    from rich.table import Table

    from tidewaiter.shell.setting_values import duration_text, size_text
    from tidewaiter.shell.settings_file import shown

    policy = settings.policy
    producer = settings.producer
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="bold", no_wrap=True)
    lines.add_column(overflow="fold")
    lines.add_row("configuration", plain(shown(settings.file, Path.cwd())) if settings.file else "command line only")
    made_by = f", written by the {producer.kind} at {producer.rate:g} events/s" if producer else ""
    lines.add_row("stream", plain(f"{settings.stream.name}: {shown(settings.stream.path, Path.cwd())}{made_by}"))
    lines.add_row("state", plain(shown(settings.state.dir, Path.cwd())))
    lines.add_row("contract", f"{plain(contract.name)} version {contract.version}, {len(contract.fields)} fields")
    lines.add_row("", plain(shown(settings.contract, Path.cwd())))
    lines.add_row("", contract.digest)
    lines.add_row("ruleset", f"{plain(ruleset.name)} version {ruleset.version}, {_statuses(ruleset)}")
    lines.add_row("", plain(shown(settings.rules, Path.cwd())))
    lines.add_row("", ruleset.digest)
    for found in ruleset.lists.values():
        how = "prefixes" if found.prefix else "entries"
        lines.add_row("list", f"{plain(found.name)}, {len(found.entries):,} {how}")
        lines.add_row("", plain(shown(Path(os.path.normpath(settings.rules.parent / found.file)), Path.cwd())))
        lines.add_row("", found.digest)
    for name, keys in ruleset.forks.items():
        uses = "; ".join(f"{key} for {', '.join(_readers(ruleset, key))}" for key in keys)
        lines.add_row("forks", plain(f"{name}, once for each parameter value: {uses}"))
    lines.add_row(
        "policies",
        f"invalid {policy.invalid}, duplicate {policy.duplicate} (horizon {duration_text(policy.duplicate_horizon)}), "
        f"order {policy.order}, line limit {size_text(policy.line_limit)}, skew {duration_text(policy.allowed_skew)}, "
        f"jump {duration_text(policy.max_forward_jump)}",
    )
    for at, line in enumerate(evidence):
        lines.add_row("" if at else "evidence", plain(line))
    yield lines
    table = Table(title=None, box=None, padding=(0, 2), header_style="bold")
    for heading in ("scenario", "version", "status", "severity", "typology", "window"):
        table.add_column(heading, no_wrap=True)
    for scenario in sorted(ruleset.scenarios, key=lambda each: STATUSES.index(each.status)):
        table.add_row(
            plain(str(scenario.id)),
            str(scenario.version),
            scenario.status,
            scenario.severity,
            plain(scenario.typology),
            duration_text(scenario.window * 1_000_000) if scenario.window else "-",
        )
    for typology in sorted(ruleset.typologies, key=lambda each: STATUSES.index(each.status)):
        name = plain(typology.id)
        table.add_row(name, str(typology.version), typology.status, typology.severity, f"{name} (points)", "-")
    for name, status in sorted(ruleset.skipped.items(), key=lambda each: STATUSES.index(each[1])):
        table.add_row(plain(name), "-", f"{status}: not run", "-", "-", "-")
    yield table
    for warning in warnings(settings):
        yield f"[yellow]warning[/yellow]: {plain(warning)}"
    yield "accepted"
