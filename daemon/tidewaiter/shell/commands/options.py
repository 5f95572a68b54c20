"""The options that several commands share, and how they become settings.

Owns: their names, help texts and completion. Leaves to `shell.settings_file` what they mean.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tidewaiter.shell.settings import Overrides, Settings

_ENDLESS: Final = 1_000_000
"""Columns of a console that never wraps."""

StreamArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="STREAM",
        help="The file, or directory of segments, to watch instead of the configured one. No producer is started; the "
        "stream is named after the file; where its state goes, --state-dir says.",
        show_default=False,
    ),
]
MovedStreamOption = Annotated[
    Path | None,
    typer.Option(
        "--stream", metavar="STREAM", help="Where the stream is now, if it was moved since.", show_default=False
    ),
]
KnownStreamArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="STREAM",
        help="The stream, file or directory, that was watched instead of the configured one: say what `run` was told. "
        "Its state is looked for where such a run keeps it, see --state-dir.",
        show_default=False,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        envvar="TIDEWAITER_CONFIG",
        help="The configuration file; default config/tidewaiter.toml under the current directory.",
        show_default=False,
    ),
]
StateDirOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="Where everything is kept. Without it: \\[state] dir of the configuration file, where that holds "
        "{stream} (the stream's name is put in) or where the configured stream is watched; for another STREAM, and "
        "without a configuration file, var/NAME under the current directory.",
        show_default=False,
    ),
]
StreamNameOption = Annotated[
    str | None,
    typer.Option("--stream-name", metavar="NAME", help="The stream's name; see \\[stream] name.", show_default=False),
]
ContractOption = Annotated[
    Path | None,
    typer.Option("--contract", metavar="FILE", help="The contract to use; see \\[contract] file.", show_default=False),
]
RulesOption = Annotated[
    Path | None,
    typer.Option("--rules", metavar="FILE", help="The ruleset to use; see \\[rules] file.", show_default=False),
]
InvalidOption = Annotated[
    Literal["halt", "quarantine"] | None,
    typer.Option("--policy-invalid", help="What to do with an invalid line.", show_default=False),
]
DuplicateOption = Annotated[
    Literal["halt", "quarantine"] | None,
    typer.Option("--policy-duplicate", help="What to do with an id seen before.", show_default=False),
]
OrderOption = Annotated[
    Literal["halt", "quarantine", "admit"] | None,
    typer.Option("--policy-order", help="What to do with an event older than the one before.", show_default=False),
]
LogLevelOption = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option("--log-level", help="How much is logged; see \\[log] level.", show_default=False),
]
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why, in words for the audit log.", show_default=False)
]
ActorOption = Annotated[
    str, typer.Option("--actor", metavar="NAME", help="Who decided, for the audit log.", show_default=False)
]


def plain(text: str) -> str:
    """Return `text`, from wherever it is, so that a terminal shows it and obeys nothing in it."""
    from rich.markup import escape

    from tidewaiter.core.invisible import visible

    return escape(visible(text))


def show(*parts: RenderableType) -> None:
    """Print tables and texts on standard output: fitted to a terminal, else with lines as long as they need to be.

    What they quote must have gone through `plain`.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if sys.stdout.isatty():
        for part in parts:
            console.print(part)
        return
    wide = Console(highlight=False, soft_wrap=True, width=_ENDLESS)
    with wide.capture() as captured:
        for part in parts:
            wide.print(part)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def overrides_of(
    stream_name: str | None,
    contract: Path | None,
    rules: Path | None,
    policy: tuple[str | None, str | None, str | None],
    log_level: str | None = None,
    *,
    stream: Path | None = None,
    state_dir: Path | None = None,
    no_producer: bool = False,
) -> Overrides:
    """Return what the options of a command that evaluates say; `policy` is for invalid, duplicate and order."""
    from tidewaiter.shell.settings import Overrides

    invalid, duplicate, order = policy
    return Overrides(
        stream=stream,
        stream_name=stream_name,
        state_dir=state_dir,
        contract=contract,
        rules=rules,
        policy_invalid=invalid,
        policy_duplicate=duplicate,
        policy_order=order,
        log_level=log_level,
        no_producer=no_producer,
    )


def load(config: Path | None, overrides: Overrides, *, need_files: bool = True, or_else: str = "") -> Settings:
    """Read the settings for a command. `need_files` False: contract and rules are not asked for. Raises ConfigError.

    `or_else` says what the user can do without a configuration.
    """
    from tidewaiter.shell.settings_file import load_settings

    return load_settings(config, overrides, need_files=need_files, or_else=or_else)


WITHOUT_FILE: Final = "pass STREAM, --contract and --rules"


LONGEST_REASON: Final = 1000
LONGEST_ACTOR: Final = 128


def check_words(reason: str, actor: str) -> None:
    """Raise ConfigError where a decision's words would not fit an audit entry."""
    from tidewaiter.core.errors import ConfigError

    for option, value, longest in (("--reason", reason, LONGEST_REASON), ("--actor", actor, LONGEST_ACTOR)):
        if len(value) > longest:
            raise ConfigError(f"{option} is {len(value)} characters long", hint=f"say it in at most {longest}")
