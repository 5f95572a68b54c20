"""``tidewaiter audit``: the audit log for a person, a script or an auditor's spreadsheet.

Owns: the options of its commands and what a terminal shows. Leaves to `shell.audit_reading` which entries there are,
and to `shell.audit_export` the formats.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from tidewaiter.shell.commands.options import (
    ConfigOption,
    KnownStreamArgument,
    StateDirOption,
    StreamNameOption,
)
from tidewaiter.shell.commands.output import output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tidewaiter.shell.audit_reading import Entry, Reader, Wanted

TAIL_EXAMPLE = (
    "Examples: [bold]tidewaiter audit tail -n 20 --follow[/bold]\n\n"
    "[bold]tidewaiter audit tail --action decision.recorded --action stream.halted[/bold]"
)
SHOW_EXAMPLE = (
    "Examples: [bold]tidewaiter audit show 48213[/bold]\n\n"
    "[bold]tidewaiter audit show e48213:velocity --json | sha256sum[/bold] gives the prev of the entry behind it."
)
EXPORT_EXAMPLE = (
    "Examples: [bold]tidewaiter audit export --from 2026-03-01 --to 2026-04-01 --format csv --out march.csv[/bold]\n\n"
    "[bold]tidewaiter audit export --action flag.emitted | jq .record[/bold]"
)
POLL_S: Final = 0.25
"""How often `--follow` looks for new entries."""

audit = typer.Typer(no_args_is_help=True)

FromOption = Annotated[
    str,
    typer.Option("--from", metavar="TIME", help="From this time on; without an offset it is UTC.", show_default=False),
]
ToOption = Annotated[str, typer.Option("--to", metavar="TIME", help="Before this time.", show_default=False)]
ActionOption = Annotated[
    list[str] | None,
    typer.Option("--action", metavar="NAME", help="Only these actions; may be repeated.", show_default=False),
]
RunOption = Annotated[
    list[str] | None,
    typer.Option("--run", metavar="ID", help="Only these runs; may be repeated.", show_default=False),
]
ActorFilterOption = Annotated[
    list[str] | None,
    typer.Option("--actor", metavar="NAME", help="Only these actors; may be repeated.", show_default=False),
]


@audit.command("tail", epilog=TAIL_EXAMPLE)
def tail(
    stream: KnownStreamArgument = None,
    *,
    lines: Annotated[int, typer.Option("-n", "--lines", metavar="N", min=0, help="How many entries.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the exact lines of the log.")] = False,
    begin: FromOption = "",
    end: ToOption = "",
    action: ActionOption = None,
    run: RunOption = None,
    actor: ActorFilterOption = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Show the last entries of the audit log, one a line, and with --follow those that come.

    On a terminal a line says what matters and is cut to its width; --json gives all of it.
    Reads only, takes no lock, and works while the daemon runs: a batch shows once it is complete.
    """
    import time

    from tidewaiter.shell.audit_reading import reading
    from tidewaiter.shell.audit_reading import tail as last
    from tidewaiter.shell.commands.status import locate

    wanted = _wanted(begin, end, action, run, actor)
    state = locate(stream, config, state_dir, stream_name).state
    with reading(state), output(None) as write:
        entries, reader = last(state, lines, wanted)
        form = _exact if as_json else _row if sys.stdout.isatty() else _line
        _print(write, entries, form)
        if lines and not entries and not follow:
            _say_nothing_matches(state, wanted)
        if follow:
            _follow(write, reader, wanted, form, lambda: time.sleep(POLL_S))


@audit.command("show", epilog=SHOW_EXAMPLE)
def show(
    which: Annotated[
        str, typer.Argument(metavar="INDEX|FLAG_ID", help="The entry's index, or a flag.", show_default=False)
    ],
    stream: KnownStreamArgument = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the exact line of the log.")] = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Show one entry of the audit log, where it stands, and its hashes."""
    from tidewaiter.shell.audit_reading import entries_of, entry_at, reading, segments_of
    from tidewaiter.shell.commands.status import locate
    from tidewaiter.shell.flag_search import the_flag

    state = locate(stream, config, state_dir, stream_name).state
    with reading(state), output(None) as write:
        segments_of(state)
        if which.isascii() and which.isdigit():
            entry = entry_at(state, int(which))
        else:
            entry = entries_of(state, the_flag(state, which)).flag
        write(_exact(entry) if as_json else _picture(entry))


@audit.command("export", epilog=EXPORT_EXAMPLE)
def export(
    stream: KnownStreamArgument = None,
    *,
    form: Annotated[
        Literal["jsonl", "csv", "json"],
        typer.Option("--format", help="jsonl gives the exact lines of the log, csv a table, json one array."),
    ] = "jsonl",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="A new file, instead of standard output.", show_default=False),
    ] = None,
    begin: FromOption = "",
    end: ToOption = "",
    action: ActionOption = None,
    run: RunOption = None,
    actor: ActorFilterOption = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Write entries of the audit log, all or those asked for, up to the last complete batch.

    In a table, cells that a spreadsheet would take for formulas begin with an apostrophe.
    """
    from tidewaiter.shell.audit_export import exported
    from tidewaiter.shell.audit_reading import Reader, reading
    from tidewaiter.shell.commands.status import locate

    wanted = _wanted(begin, end, action, run, actor)
    state = locate(stream, config, state_dir, stream_name).state
    with reading(state), output(out) as write:
        count = 0

        def found() -> Iterator[Entry]:
            nonlocal count
            for entry in Reader(state).read():
                if wanted.takes(entry.head):
                    count += 1
                    yield entry

        for piece in exported(found(), form):
            write(piece)
        if not count:
            _say_nothing_matches(state, wanted)


def _say_nothing_matches(state: Path, wanted: Wanted) -> None:
    """Say on standard error what there is instead."""
    from tidewaiter.core.invisible import visible
    from tidewaiter.shell.audit_reading import Reader

    first = last = None
    actions: set[str] = set()
    for entry in Reader(state).read():
        first, last = first or entry.head, entry.head
        actions.add(entry.head.action)
    if first is None or last is None:
        typer.echo("tidewaiter: nothing matches; the log has no entries yet", err=True)
        return
    said = f"the log has entries {first.index} to {last.index}, from {first.timestamp} to {last.timestamp}"
    if wanted.actions - actions:
        said += f"; their actions are {', '.join(sorted(actions))}"
    typer.echo(visible(f"tidewaiter: nothing matches; {said}"), err=True)


def _wanted(
    begin: str, end: str, actions: list[str] | None, runs: list[str] | None, actors: list[str] | None
) -> Wanted:
    from tidewaiter.shell.audit_reading import Wanted, period

    return Wanted(
        *period(begin, end),
        actions=frozenset(actions or ()),
        runs=frozenset(runs or ()),
        actors=frozenset(actors or ()),
    )


def _print(write: Callable[[bytes], object], entries: Iterable[Entry], form: Callable[[Entry], bytes]) -> None:
    for entry in entries:
        write(form(entry))


def _follow(
    write: Callable[[bytes], object],
    reader: Reader,
    wanted: Wanted,
    form: Callable[[Entry], bytes],
    wait: Callable[[], object],
) -> None:
    """Print what comes until Ctrl-C."""
    try:
        while True:
            _print(write, (entry for entry in reader.read() if wanted.takes(entry.head)), form)
            write(b"")
            wait()
    except KeyboardInterrupt:
        return


def _exact(entry: Entry) -> bytes:
    return entry.line


def _line(entry: Entry) -> bytes:
    """Return the entry in one line, with nothing cut off."""
    from tidewaiter.core.invisible import visible
    from tidewaiter.shell.audit_export import details_of

    head = entry.head
    text = f"{head.index:>8}  {head.timestamp}  {head.run_id}  {head.actor}  {head.action}  {details_of(entry)}"
    return visible(text).encode() + b"\n"


def _row(entry: Entry) -> bytes:
    """Return what a person wants to know of the entry, in one row of the terminal."""
    import shutil

    from tidewaiter.core.invisible import visible
    from tidewaiter.shell.audit_export import gist_of

    head = entry.head
    time = head.timestamp[:19].replace("T", " ")
    by = "" if head.actor in ("daemon", "engine") else f"  by {head.actor}"
    text = visible(f"{head.index:>8}  {time}  {head.action:<20}  {gist_of(entry)}{by}")
    width = shutil.get_terminal_size().columns - 1
    return (text if len(text) <= width else text[: width - 1] + "…").encode() + b"\n"


def _picture(entry: Entry) -> bytes:
    import hashlib

    import msgspec

    from tidewaiter.core.invisible import visible
    from tidewaiter.core.tlog.merkle import leaf_hash

    end = entry.offset + len(entry.line)
    rows = {
        "entry": f"{entry.head.index:,} at {entry.head.timestamp}",
        "stands in": f"{entry.path}, bytes {entry.offset:,} to {end:,}",
        "sha256": f"{hashlib.sha256(entry.line).hexdigest()}, the prev of the entry behind it",
        "leaf hash": f"{leaf_hash(entry.line).hex()}, its place in the tree",
    }
    written = msgspec.json.format(entry.line, indent=2).decode(errors="replace")
    lines = [*(f"{name:<11}{text}" for name, text in rows.items()), *written.splitlines()]
    return "".join(f"{visible(line)}\n" for line in lines).encode()
