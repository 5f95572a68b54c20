"""``tidewaiter rules``: what a ruleset says, whether its transcripts hold, what a history says about it.

Owns: the options and the tables. Leaves to `core.scenarios` every judgement, and to the loaders that a start uses what
is accepted: contract and rules are read as `run` reads them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidewaiter.shell.commands.options import ConfigOption, ContractOption, RulesOption, load, plain, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from tidewaiter.core.scenarios.transcripts import Outcome, Transcript
    from tidewaiter.core.toml_source import TomlSource
    from tidewaiter.shell.commands.progress import Bar
    from tidewaiter.shell.governing import Governing

TEST_EXAMPLE = (
    "Examples: [bold]tidewaiter rules test[/bold]\n\n"
    "[bold]tidewaiter rules test --rules new.toml --scenario STR-01[/bold]"
)
SHOW_EXAMPLE = (
    "Examples: [bold]tidewaiter rules show --plan[/bold]\n\n"
    "[bold]tidewaiter rules show --rules new.toml --python | less[/bold]"
)
COVERAGE_EXAMPLE = (
    "Examples: [bold]tidewaiter rules coverage[/bold]\n\n"
    "[bold]tidewaiter rules coverage events.jsonl --rules new.toml[/bold] runs them over a history as well."
)
SCHEMA_EXAMPLE = "Example: [bold]tidewaiter rules schema > ruleset.schema.json[/bold]"

rules = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)


def _load(config: Path | None, contract: Path | None, file: Path | None) -> Governing:
    """Return contract and rules as a start would load them; no stream and no state directory is asked for."""
    from tidewaiter.shell.governing import from_settings
    from tidewaiter.shell.settings import Overrides

    overrides = Overrides(stream=Path(os.devnull), contract=contract, rules=file)
    return from_settings(load(config, overrides, or_else="pass --contract and --rules"))


# -- test ----------------------------------------------------------------------------------------------------------


@rules.command("test", epilog=TEST_EXAMPLE)
def run_tests(
    *,
    config: ConfigOption = None,
    contract: ContractOption = None,
    rules: RulesOption = None,
    scenario: Annotated[
        str | None,
        typer.Option("--scenario", metavar="ID", help="Only the transcripts of this one.", show_default=False),
    ] = None,
) -> None:
    """Run the transcripts that the ruleset names (`tests`): each alone, through the engine, from an empty state.

    Exit 0 when exactly the expected events were flagged everywhere, 2 when not; then the failing ones are shown with
    what the metrics were. Scenarios without a transcript are listed.
    """
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.scenarios.transcripts import run_transcript
    from tidewaiter.core.toml_source import TomlSource, nearest

    governing = _load(config, contract, rules)
    ruleset = governing.ruleset
    source = TomlSource(ruleset.text, ruleset.file, pictures=True, exact=True)
    statuses = _statuses(source)
    if scenario is not None and scenario not in statuses:
        raise ConfigError(
            f"--scenario {scenario}: {ruleset.file} has none of that id", hint=nearest(scenario, statuses)
        )
    wanted = set(statuses) if scenario is None else {scenario}
    transcripts = [each for each in _transcripts(source, governing, list(statuses)) if each.scenario in wanted]
    resting = {name for name, status in statuses.items() if status in ("draft", "retired")}
    outcomes = [
        run_transcript(each, governing.contract, ruleset) for each in transcripts if each.scenario not in resting
    ]
    show(*_outcomes(governing, outcomes))
    for name in sorted(resting & {each.scenario for each in transcripts}):
        typer.echo(f"not run: {name} is {statuses[name]}")
    untested = [name for name in statuses if name in wanted and not any(each.scenario == name for each in transcripts)]
    if untested:
        typer.echo(f"untested: {', '.join(untested)}")
    failed = [outcome for outcome in outcomes if not outcome.passed]
    typer.echo(f"{len(outcomes)} transcripts: {len(outcomes) - len(failed)} passed, {len(failed)} failed")
    if failed:
        first = failed[0]
        raise ConfigError(
            f"{first.transcript.file}:{first.transcript.line}: {len(failed)} of {len(outcomes)} transcripts failed: "
            f"{first.transcript.scenario}: {_judgement(first)}"
        )


def _statuses(source: TomlSource) -> dict[str, str]:
    """Return the status of each scenario and typology, in file order; the file has been accepted."""
    tables = {**source.data.get("scenario", {}), **source.data.get("typology", {})}
    return {name: table.get("status", "live") for name, table in tables.items()}


def _transcripts(source: TomlSource, governing: Governing, known: list[str]) -> Iterator[Transcript]:
    """Yield the transcripts of every file that some scenario names, each file once. Raises ConfigError."""
    from tidewaiter.core.scenarios.transcripts import MAX_TRANSCRIPT_BYTES, read_transcripts
    from tidewaiter.shell.governing import read_regular
    from tidewaiter.shell.settings_file import shown

    folder = Path(governing.ruleset.file).parent
    seen: set[Path] = set()
    for kind in ("scenario", "typology"):
        for name, table in source.data.get(kind, {}).items():
            for at, file in enumerate(table.get("tests", ())):
                path = Path(os.path.normpath(folder / file))
                if path in seen:
                    continue
                seen.add(path)
                try:
                    text = read_regular(path, "transcript file", MAX_TRANSCRIPT_BYTES)
                except (OSError, ValueError) as error:
                    why = error.strerror if isinstance(error, OSError) else str(error)
                    raise source.error(
                        (kind, name, "tests", at), f"{path} cannot be read: {why}",
                        hint="name the file relative to the ruleset",
                    ) from error  # fmt: skip
                yield from read_transcripts(text, shown(path, Path.cwd()), governing.contract, known)


def _outcomes(governing: Governing, outcomes: list[Outcome]) -> Iterator[RenderableType]:
    from rich.table import Table

    if not outcomes:
        return
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for heading in ("scenario", "transcript", "outcome"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        style, word = ("green", "passed") if outcome.passed else ("bold red", f"FAILED: {_judgement(outcome)}")
        one = outcome.transcript
        table.add_row(plain(one.scenario), plain(one.title or f"{one.file}:{one.line}"), f"[{style}]{plain(word)}[/]")
    yield table
    for outcome in outcomes:
        if not outcome.passed:
            yield from _failed(governing, outcome)


def _failed(governing: Governing, outcome: Outcome) -> Iterator[RenderableType]:
    """Yield what somebody needs to see why: each event with the scenario's conditions and metrics."""
    from rich.table import Table

    from tidewaiter.core.scenarios.transcripts import values_of

    one = outcome.transcript
    inside = values_of(one, governing.contract, governing.ruleset)
    yield f"\n[bold]{plain(one.file)}:{one.line}[/bold]: {plain(one.scenario)}: {plain(one.title)}"
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for heading in ("event", "at", "expected", "flagged", *(plain(each) for each in inside.columns)):
        table.add_column(heading, overflow="fold")
    for at, name in enumerate(one.ids):
        marks = ["yes" if name in names else "" for names in (one.expect, outcome.flagged)]
        cells = [name, one.times[at], *marks, *inside.rows[at]]
        table.add_row(*map(plain, cells), style="bold" if marks[0] != marks[1] else "")
    yield table


def _judgement(outcome: Outcome) -> str:
    if outcome.halt:
        return outcome.halt
    parts = []
    if outcome.missed:
        parts.append(f"not flagged: {', '.join(outcome.missed)}")
    if outcome.surplus:
        parts.append(f"flagged and not expected: {', '.join(outcome.surplus)}")
    return "; ".join(parts)


# -- show ----------------------------------------------------------------------------------------------------------


@rules.command("show", epilog=SHOW_EXAMPLE)
def show_rules(
    *,
    config: ConfigOption = None,
    contract: ContractOption = None,
    rules: RulesOption = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show the order of the pass instead: what is computed when, and shared.")
    ] = False,
    python: Annotated[
        bool, typer.Option("--python", help="Print only the Python function that the ruleset is compiled to.")
    ] = False,
) -> None:
    """Show the ruleset as it runs: scenarios with the metrics they read, lists, and who shares what."""
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.shell.commands.rules_shown import plan_shown, ruleset_shown

    if plan and python:
        raise ConfigError("--plan and --python are two views", hint="ask for one")
    governing = _load(config, contract, rules)
    if python:
        typer.echo(governing.ruleset.python_source.rstrip("\n"))
        return
    show(*(plan_shown(governing.ruleset) if plan else ruleset_shown(governing.ruleset)))


# -- coverage ------------------------------------------------------------------------------------------------------


@rules.command("coverage", epilog=COVERAGE_EXAMPLE)
def coverage(
    stream: Annotated[
        Path | None,
        typer.Argument(
            metavar="STREAM", help="A history to run the rules over, in memory: nothing is written.", show_default=False
        ),
    ] = None,
    *,
    config: ConfigOption = None,
    contract: ContractOption = None,
    rules: RulesOption = None,
) -> None:
    """Show which typologies and risks the scenarios cover; with a STREAM, what fired and what never could.

    Lines that are no events, repeat an id or are out of order are left out, whatever the policy.
    """
    from tidewaiter.core.toml_source import TomlSource
    from tidewaiter.shell.commands.rules_shown import coverage_shown, history_shown

    governing = _load(config, contract, rules)
    ruleset = governing.ruleset
    source = TomlSource(ruleset.text, ruleset.file, exact=True)
    show(*coverage_shown(source))
    if stream is None:
        return
    from tidewaiter.shell.coverage import cover

    progress = _progress()
    try:
        counted = cover(governing, Path(os.path.abspath(stream)), progress)  # noqa: PTH100 - keeps symbolic links
    finally:
        if progress is not None:
            progress.close()
    show("", *history_shown(counted))


def _progress() -> Bar | None:
    """Return a bar where a person looks at a terminal."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    from tidewaiter.shell.commands.progress import Bar

    return Bar()


# -- schema --------------------------------------------------------------------------------------------------------


@rules.command("schema", epilog=SCHEMA_EXAMPLE)
def schema() -> None:
    """Print the ruleset file as JSON Schema, for editors: completion, hover texts, misspelt keys.

    Editors that know Taplo take it from a first line `#:schema ruleset.schema.json` in the ruleset.
    """
    import msgspec

    from tidewaiter.core.scenarios.schema import ruleset_schema

    typer.echo(msgspec.json.format(msgspec.json.encode(ruleset_schema()), indent=2))
