"""``tidewaiter run``: watch a stream until told to stop, or to its end with ``--once``.

Owns: the options of a run and the choice of what a person sees of its progress. Leaves everything that happens to
`shell.supervisor`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tidewaiter.shell.commands.options import (
    WITHOUT_FILE,
    ActorOption,
    ConfigOption,
    ContractOption,
    DuplicateOption,
    InvalidOption,
    LogLevelOption,
    OrderOption,
    ReasonOption,
    RulesOption,
    StateDirOption,
    StreamArgument,
    StreamNameOption,
    check_words,
    load,
    overrides_of,
)

if TYPE_CHECKING:
    from tidewaiter.shell.settings import Progress, Settings

EXAMPLE = (
    "Examples: [bold]tidewaiter run[/bold] watches the configured stream\n\n"
    "[bold]tidewaiter run events.jsonl --once --state-dir /tmp/state[/bold] reads a file to its end."
)


def run(
    stream: StreamArgument = None,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Stop at the end of the stream with exit 0; it must exist. No producer is started."
        ),
    ] = False,
    stream_name: StreamNameOption = None,
    contract: ContractOption = None,
    rules: RulesOption = None,
    policy_invalid: InvalidOption = None,
    policy_duplicate: DuplicateOption = None,
    policy_order: OrderOption = None,
    log_level: LogLevelOption = None,
    accept_state_loss: Annotated[
        bool,
        typer.Option(
            "--accept-state-loss",
            help="Start with empty rule state where it cannot be re-derived; recorded, needs --reason and --actor.",
        ),
    ] = False,
    reason: ReasonOption = "",
    actor: ActorOption = "",
) -> None:
    """Watch the stream: evaluate every event that is appended, write flags and evidence.

    SIGTERM or Ctrl-C stops after the batch in hand; SIGHUP re-reads configuration and rules.
    """
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.shell.settings import RunOptions
    from tidewaiter.shell.settings_file import check_stream_readable
    from tidewaiter.shell.state_owner import check_state_usable

    policy = (policy_invalid, policy_duplicate, policy_order)
    overrides = overrides_of(
        stream_name, contract, rules, policy, log_level, stream=stream, state_dir=state_dir, no_producer=once
    )
    settings = load(config, overrides, or_else=WITHOUT_FILE)
    check_stream_readable(settings, once=once)
    check_state_usable(settings.state.dir, settings.stream.name)
    if accept_state_loss and not (reason.strip() and actor.strip()):
        raise ConfigError("--accept-state-loss is a recorded decision", hint="add --reason TEXT and --actor NAME")
    check_words(reason, actor)
    if (reason or actor) and not accept_state_loss:
        raise ConfigError("--reason and --actor record a decision", hint="use them with --accept-state-loss only")

    if settings.producer is not None:
        from tidewaiter.edges.durable import Disk

        # before anybody watches it; if we die here, an empty directory is left
        Disk().make_directory(settings.stream.path.parent)

    from tidewaiter.shell.supervisor import run as supervise

    progress = choose_progress(settings, once=once)
    try:
        code = supervise(
            settings,
            RunOptions(once=once, accept_state_loss=accept_state_loss, reason=reason, actor=actor, progress=progress),
        )
    finally:
        progress.close()
    raise typer.Exit(code)


def choose_progress(settings: Settings, *, once: bool) -> Progress:
    """Return a bar for ``--once`` and a live line otherwise, where a person looks at a terminal; else nothing."""
    from tidewaiter.shell.settings import NoProgress

    watched = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if not watched or settings.log.stderr == "json":
        return NoProgress()
    from tidewaiter.shell.commands.progress import Bar, LiveLine

    return Bar() if once else LiveLine(settings.stream.name)
