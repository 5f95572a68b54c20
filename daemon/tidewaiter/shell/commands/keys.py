"""``tidewaiter keys``: the keys that sign the log's checkpoints, from the first to the revoked one.

Owns: the options, what is printed, and the advice that goes with it. Leaves to `shell.keys` what is done.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    plain,
    show,
)

if TYPE_CHECKING:
    from rich.table import Table

    from tidewaiter.shell.log_keys import LogKeys, ShownKey
    from tidewaiter.shell.settings import Settings

EXAMPLE = (
    "Examples: [bold]tidewaiter keys new --key /etc/credstore/tidewaiter-log-key[/bold]\n\n"
    "[bold]tidewaiter keys show --state-dir /var/lib/tidewaiter[/bold]"
)
NEW_EXAMPLE = "Example: [bold]tidewaiter keys new --key /etc/credstore/tidewaiter-log-key[/bold]"
ROTATE_EXAMPLE = "Example: [bold]tidewaiter keys rotate --reason 'once a year' --actor 'J. Doe'[/bold]"
REVOKE_EXAMPLE = (
    "Example: [bold]tidewaiter keys revoke 530d903a --last-trusted-index 48213 --reason 'stolen, ticket 1234' "
    "--actor 'J. Doe'[/bold]\n\n"
    "[bold]tidewaiter keys show[/bold] has the keys and their ids."
)
SHOW_EXAMPLE = "Example: [bold]tidewaiter keys show --state-dir /var/lib/tidewaiter --json[/bold]"

keys = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)


@keys.command("new", epilog=NEW_EXAMPLE)
def new(
    stream: KnownStreamArgument = None,
    *,
    key: Annotated[
        Path,
        typer.Option("--key", metavar="FILE", help="The key file to make; its mode is 0600.", show_default=False),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "--origin",
            metavar="NAME",
            help="The log's name, which its key bears: a URL without its scheme. Default: the name that the log has; "
            "else \\[evidence] origin; else HOST/STREAM/RANDOM.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Make a private key in a new file and print its public half, the vkey; standard error says what to do with both.

    A file that is there is never overwritten. The key signs once the daemon is started with it.
    """
    from tidewaiter.shell.keys import new_key

    file = _absolute(key)
    vkey = new_key(file, _log_name(name, stream, config, state_dir, stream_name))
    typer.echo(vkey)
    # not to the vkey's stream: `tidewaiter keys new … > held.vkey` makes a file for `verify --key`
    typer.echo(
        f"\nThe private key is in {file}. Whoever can read that file can sign in the log's name.\n"
        "1. Keep the line above, the vkey, outside of this machine: with the auditor, in another department's\n"
        "   repository. A vkey that is found beside the log proves nothing: tidewaiter verify --key VKEY\n"
        f'2. Tell the daemon: key = "{file}" under [evidence]. The service needs no setting: as\n'
        "   /etc/credstore/tidewaiter-log-key, owned by root, systemd hands it over, and only to the daemon.\n"
        "3. Restart it. A log that has a key already goes on with that one: tidewaiter keys rotate",
        err=True,
    )


@keys.command("rotate", epilog=ROTATE_EXAMPLE)
def rotate(
    stream: KnownStreamArgument = None,
    *,
    reason: ReasonOption,
    actor: ActorOption,
    both_for: Annotated[
        str, typer.Option("--both-for", metavar="DURATION", help="How long the old key signs as well.")
    ] = "7d",
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help="The key file; default: that of the configuration.", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Let a new key take over from the log's present one; the log itself records it.

    The new key is put beside the old one in the key file. Both sign for a while, so that whoever checks with either
    vkey is served. Works while the daemon runs and while it does not; after a crash, say the same again.
    """
    import datetime as dt

    from tidewaiter.core.errors import ConfigError
    from tidewaiter.shell.keys import rotate as record
    from tidewaiter.shell.setting_values import BadValue, duration

    _check(reason, actor)
    try:
        both = dt.timedelta(microseconds=duration("1m", "365d")(both_for))
    except BadValue as bad:
        raise ConfigError(f"--both-for: {bad.what}", hint=bad.allowed) from bad
    settings = _settings(stream, config, state_dir, stream_name)
    typer.echo(record(settings, None if key is None else _absolute(key), both, reason.strip(), actor.strip()))


@keys.command("revoke", epilog=REVOKE_EXAMPLE)
def revoke(
    vkey: Annotated[str, typer.Argument(metavar="VKEY", help="The key, or its key id.", show_default=False)],
    stream: KnownStreamArgument = None,
    *,
    last_trusted_index: Annotated[
        int,
        typer.Option(
            "--last-trusted-index",
            metavar="N",
            min=-1,
            help="The last entry of the audit log that a signature of this key still vouches for; -1: none.",
            show_default=False,
        ),
    ],
    reason: ReasonOption,
    actor: ActorOption,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Take the trust from a key, as after a theft: what it signed counts up to one entry and no further.

    It signs no more from then on. It cannot be taken back.
    """
    from tidewaiter.shell.keys import revoke as record

    _check(reason, actor)
    settings = _settings(stream, config, state_dir, stream_name)
    typer.echo(record(settings, vkey, last_trusted_index, reason.strip(), actor.strip()))


@keys.command("show", epilog=SHOW_EXAMPLE)
def show_keys(
    stream: KnownStreamArgument = None,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the vkeys that the log has named, and how each of them stands. Private keys are not looked at.

    Reads only, while the daemon runs too. It shows what the log says: what `verify` is to trust comes from outside.
    """
    import msgspec

    from tidewaiter.shell.commands.status import locate
    from tidewaiter.shell.log_keys import read_log_keys, shown_keys
    from tidewaiter.shell.log_names import utc_now
    from tidewaiter.shell.state_owner import refuse_no_state

    state = locate(stream, config, state_dir, stream_name).state
    refuse_no_state(state)
    log = read_log_keys(state)
    shown = shown_keys(log, utc_now())
    if as_json:
        typer.echo(msgspec.json.encode({"origin": log.origin, "keys": shown}))
    else:
        show(*_tables(log, shown))


def _log_name(
    name: str | None, stream: Path | None, config: Path | None, state_dir: Path | None, stream_name: str | None
) -> str:
    """Return the name of the log that the key is for. A name, or the state directory of a log, alone is enough."""
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.shell.log_keys import read_log_keys
    from tidewaiter.shell.log_names import generated_origin

    others = stream is not None or config is not None or stream_name is not None
    if name is not None and state_dir is None and not others:
        return name
    if state_dir is not None and not others:
        state, wanted = _absolute(state_dir), name
        begun = read_log_keys(state).origin
        if wanted is None and not begun:
            raise ConfigError(f"{state}: no log with a name is there yet", hint="pass --name, or --config instead")
    else:
        settings = _settings(stream, config, state_dir, stream_name)
        state, wanted = settings.state.dir, name or settings.evidence.origin
        begun = read_log_keys(state).origin
        wanted = wanted or begun or generated_origin(settings.stream.name)
    if begun and wanted not in (None, begun):
        raise ConfigError(f"{state}: the log is called {begun}, not {wanted}", hint="leave --name out")
    return begun or wanted or ""


def _settings(stream: Path | None, config: Path | None, state_dir: Path | None, stream_name: str | None) -> Settings:
    from tidewaiter.shell.settings import Overrides

    overrides = Overrides(stream=stream, stream_name=stream_name, state_dir=state_dir)
    return load(config, overrides, need_files=False)


def _check(reason: str, actor: str) -> None:
    from tidewaiter.core.errors import ConfigError

    for option, value in (("--reason", reason), ("--actor", actor)):
        if not value.strip():
            raise ConfigError(f"{option} is empty", hint="say it in words; the audit log keeps it")
    check_words(reason, actor)


def _absolute(file: Path) -> Path:
    return Path(os.path.abspath(file))  # noqa: PTH100 - keeps symbolic links


def _tables(log: LogKeys, shown: list[ShownKey]) -> list[Table | str]:
    from rich.table import Table

    if not shown:
        return [plain(f"log {log.origin or '(no name yet)'}: it has no key, its checkpoints are not signed")]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("key id", "state", "from entry", "signs", "vkey"):
        table.add_column(column, overflow="fold" if column == "vkey" else "ellipsis", no_wrap=column != "vkey")
    for key in shown:
        table.add_row(plain(key.key_id), _state(key), str(key.from_index), _signs(key), plain(key.vkey))
    return [plain(f"log {log.origin}"), table]


def _state(key: ShownKey) -> str:
    if key.revoked_after is not None:
        return f"[bold red]revoked, counts up to entry {key.revoked_after}[/bold red]"
    return key.state


def _signs(key: ShownKey) -> str:
    if not key.signs:
        return "no" if key.revoked_after is not None or key.until is None else f"until {plain(key.until)}, no more"
    return "yes" if key.until is None else f"until {plain(key.until)}"
