"""The options that several commands share, and how they become settings.

Owns: their names, help texts and completion. Leaves to `shell.settings_file` what they mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tidewaiter.shell.settings import Overrides, Settings

StreamArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="STREAM",
        help="The file, or directory of segments, to watch instead of the configured one. No producer is started; the "
        "stream is named after the file, and so is its state directory.",
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
    typer.Option("--state-dir", metavar="DIR", help="Where everything is kept; see \\[state] dir.", show_default=False),
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


def load(config: Path | None, overrides: Overrides, *, need_files: bool = True) -> Settings:
    """Read the settings for a command. `need_files` False: contract and rules are not asked for. Raises ConfigError."""
    from tidewaiter.shell.settings_file import load_settings

    return load_settings(config, overrides, need_files=need_files)
