"""``tidewaiter replay``: a whole history through a ruleset, into a directory of its own.

Owns: its options and what a person is told at the end. Leaves to `shell.replay_output` which directory may be written,
and to `shell.supervisor` the run: the engine, the commits and so every byte are those of ``run --once``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidewaiter.shell.commands.options import (
    ConfigOption,
    ContractOption,
    DuplicateOption,
    InvalidOption,
    LogLevelOption,
    OrderOption,
    RulesOption,
    StreamNameOption,
    overrides_of,
)

if TYPE_CHECKING:
    from tidewaiter.core.errors import SourceHalt
    from tidewaiter.shell.settings import Settings
    from tidewaiter.shell.state_report import Report

EXAMPLE = (
    "Examples: [bold]tidewaiter replay events.jsonl --rules new.toml --out /tmp/replay[/bold]\n\n"
    "[bold]tidewaiter replay 2024.jsonl.gz 2025.jsonl.gz 2026.jsonl --rules new.toml --out /tmp/three-years[/bold]"
)


def replay(
    streams: Annotated[
        list[Path],
        typer.Argument(
            metavar="STREAM",
            help="The history: one file (its rotated older files come with it), one directory of segments, or several "
            "files, the oldest first.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Where flags.jsonl and all else is written: a new directory, or one that the same replay began.",
            show_default=False,
        ),
    ],
    rules: RulesOption = None,
    contract: ContractOption = None,
    config: ConfigOption = None,
    stream_name: StreamNameOption = None,
    policy_invalid: InvalidOption = None,
    policy_duplicate: DuplicateOption = None,
    policy_order: OrderOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Run a whole history through a ruleset without touching any live state; the bytes are those of a live run.

    Ctrl-C stops after the batch in hand; the same command then goes on where it stopped. Contract and policy are those
    of the configuration, unless options say otherwise.
    """
    from tidewaiter.core.errors import SourceHalt
    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.commands.run import choose_progress
    from tidewaiter.shell.governing import from_settings
    from tidewaiter.shell.replay_output import begin, replay_settings
    from tidewaiter.shell.settings import RunOptions

    policy = (policy_invalid, policy_duplicate, policy_order)
    overrides = overrides_of(stream_name, contract, rules, policy, log_level, state_dir=out)
    settings = replay_settings(streams, config, overrides)
    begin(Disk(), settings, streams, from_settings(settings))

    from tidewaiter.shell.supervisor import run as supervise

    progress = choose_progress(settings, once=True)
    try:
        code = supervise(settings, RunOptions(once=True, progress=progress))
    except SourceHalt as halt:
        raise _with_ways_out(halt, settings, config) from halt
    finally:
        progress.close()
    left = bytes_left(settings)
    if left:
        typer.echo(f"stopped before the end, {left:,} bytes are left; the same command goes on", err=True)
    raise typer.Exit(code)


def bytes_left(settings: Settings) -> int | None:
    """Return how much of the history was not read, None where that cannot be told."""
    return _report(settings).lag_bytes


def _report(settings: Settings) -> Report:
    import datetime as dt

    from tidewaiter.shell.state_report import Target, read_report

    return read_report(Target(settings.state.dir, settings.stream.name, settings.stream.path), dt.datetime.now(dt.UTC))


def _with_ways_out(halt: SourceHalt, settings: Settings, config: Path | None) -> SourceHalt:
    """Return the halt with what can be done about it here: the policy is fixed for an output, a line can be skipped."""
    import shlex

    pending = _report(settings).halt
    if pending is None:
        return halt
    stream, name = settings.stream, settings.stream.name
    skip = ["tidewaiter", "skip", str(stream.path), "--state-dir", str(settings.state.dir), "--stream-name", name]
    if config is not None:
        skip += ["--config", str(config)]
    command = f"{shlex.join([*skip, '--position', str(pending.offset)])} --reason … --actor …"
    halt.hint = f"replay into a new --out with another policy, or leave it out and go on: {command}"
    return halt
