"""``tidewaiter skip``: the operator's recorded decision that lets a halted stream go on.

Owns: its options. Leaves the decision's checks and its record to `shell.skip`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from tidewaiter.shell.commands.options import (
    ActorOption,
    ConfigOption,
    KnownStreamArgument,
    ReasonOption,
    StateDirOption,
    StreamNameOption,
    check_words,
    load,
)

EXAMPLE = (
    "Example: [bold]tidewaiter skip --position 48213 --reason 'test event, ticket 1234' --actor 'J. Doe'[/bold]\n\n"
    "[bold]tidewaiter status[/bold] shows the position of the pending halt."
)


def skip(
    stream: KnownStreamArgument = None,
    *,
    position: Annotated[
        int,
        typer.Option("--position", metavar="N", min=0, help="Global offset of the pending halt.", show_default=False),
    ],
    reason: ReasonOption,
    actor: ActorOption,
    through: Annotated[
        int | None,
        typer.Option(
            "--through", metavar="M", min=0, help="Leave out every line that begins before M.", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Record that the line a stream halted at is left out, so that the daemon can go on.

    It resolves exactly the pending halt: the position must match, and the line must still be the same bytes. A daemon
    that runs is asked first; when it halts there again and ends, the decision is recorded.
    """
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.shell.settings import Overrides
    from tidewaiter.shell.skip import skip as record

    for option, value in (("--reason", reason), ("--actor", actor)):
        if not value.strip():
            raise ConfigError(f"{option} is empty", hint="say it in words; the audit log keeps it")
    if through is not None and through <= position:
        raise ConfigError(f"--through {through} is not after --position {position}", hint="leave it out for one line")
    check_words(reason, actor)
    settings = load(config, Overrides(stream=stream, stream_name=stream_name, state_dir=state_dir))
    typer.echo(record(settings, position, through, reason.strip(), actor.strip()))
