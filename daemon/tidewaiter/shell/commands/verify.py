"""``tidewaiter verify``: is what the daemon left still what it wrote, and who outside stands for it.

Owns: the options, the picture, and the exit code. Leaves the checks to `shell.verify`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from tidewaiter.shell.commands.options import (
    ConfigOption,
    KnownStreamArgument,
    StateDirOption,
    StreamNameOption,
    plain,
    show,
)
from tidewaiter.shell.commands.progress import Bar, bytes_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.table import Table

    from tidewaiter.shell.verify import Verdict
    from tidewaiter.shell.verify_findings import Finding

EXAMPLE = (
    "Examples: [bold]tidewaiter verify --state-dir /var/lib/tidewaiter --key 'bank.example/log+…'[/bold]\n\n"
    "[bold]tidewaiter verify --since checkpoint-of-march --replay[/bold]\n\n"
    "Exit codes: 0 intact and anchored outside, 2 usage, 4 tampered, 6 intact but not anchored outside, or not all of "
    "it, 7 undecidable (files are missing)."
)


def verify(
    stream: KnownStreamArgument = None,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
    audit: Annotated[
        Path | None,
        typer.Option(
            "--audit",
            metavar="FILE",
            help="Verify one audit file that stands alone, as the Python API writes it.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="VKEY",
            help="The log's verifier key, from somewhere else than the state directory.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            metavar="FILE",
            help="A policy (C2SP tlog-policy): the log's keys, witnesses, and how many must have cosigned.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(
            "--since",
            metavar="CHECKPOINT",
            help="A checkpoint of this log that was kept elsewhere: the log must continue it.",
            show_default=False,
        ),
    ] = None,
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="T",
            help="Hash the input of batches committed from this time on; UTC, as 2026-01-31 or 2026-01-31T12:00:00Z. "
            "The log itself is always read as a whole.",
            show_default=False,
        ),
    ] = "",
    end: Annotated[
        str, typer.Option("--to", metavar="T", help="Hash the input of batches committed up to this time.")
    ] = "",
    replay: Annotated[
        bool, typer.Option("--replay", help="Derive every flag again from the input, under the rules of its time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Check chain, tree, signatures, tiles, projections, documents, archived rules and input against each other.

    Keys found in the state directory anchor nothing: give --key, --policy or --since from elsewhere. Reads only, and
    works beside a running daemon, up to where its log is when this begins.
    """
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.shell.commands.status import locate
    from tidewaiter.shell.verify import Wanted, verify_file
    from tidewaiter.shell.verify import verify as check
    from tidewaiter.shell.verify_trust import read_given

    given = read_given(key, policy, since)
    watcher = _Watcher()
    try:
        if audit is not None:
            if stream is not None or state_dir is not None or replay:
                raise ConfigError("--audit goes with --key, --policy and --since only", hint="leave the others out")
            verdict = verify_file(audit, given, watcher)
        else:
            place = None if stream is None else Path(os.path.abspath(stream))  # noqa: PTH100 - keeps symbolic links
            target = locate(place if state_dir is None else None, config, state_dir, stream_name)
            wanted = Wanted(target.state, place or target.stream, given, _utc(begin), _utc(end, last=True), replay)
            verdict = check(wanted, watcher)
    finally:
        watcher.close()
    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(verdict), indent=2).decode())
    else:
        show(*_parts(verdict))
    raise typer.Exit(verdict.exit_status)


def _utc(text: str, *, last: bool = False) -> str:
    """Return a time as the audit log writes it; a day alone means its beginning, or with `last` its end.

    Raises ConfigError.
    """
    import datetime as dt

    from tidewaiter.core.errors import ConfigError

    if not text:
        return ""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text}: is no time", hint="write 2026-01-31 or 2026-01-31T12:00:00Z") from error
    if last and len(text) <= len("2026-01-31"):
        found += dt.timedelta(days=1, microseconds=-1)
    found = found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found.astimezone(dt.UTC)
    return found.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Watcher(Bar):
    """A progress bar, where a person looks at a terminal."""

    def __init__(self, out: TextIO | None = None) -> None:
        super().__init__(out)
        self._watched = (out or sys.stderr).isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._phase, self._done = "", 0

    def add(self, phase: str, done: int, total: int) -> None:
        """Redraw, unless that was done a moment ago."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._done, self._first_at = phase, 0, now
        self._done += done
        if not self._watched or not (self._is_time() or self._done >= total):
            return
        self._total = max(total, self._done, 1)
        self._first = 0
        speed = self._done / max(now - self._first_at, 1e-6)
        self._draw_bar(self._done, f"{phase}  {bytes_text(round(speed))}/s{self._left(self._done)}")


# -- for people --------------------------------------------------------------------------------------------------


def _parts(verdict: Verdict) -> Iterator[RenderableType]:
    yield _head(verdict)
    for number, finding in enumerate(verdict.findings):
        if number == 0:
            yield ""
        yield _finding(finding)
    if verdict.unlisted:
        yield f"and {verdict.unlisted:,} more of the same kinds"
    yield ""
    yield _table(verdict)
    for note in verdict.notes:
        yield f"\n[yellow]note[/yellow]: {plain(note)}"


def _head(verdict: Verdict) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    style = {0: "green", 4: "bold red"}.get(verdict.exit_status, "yellow")
    table.add_row("verdict", f"[{style}]{plain(verdict.verdict)}[/{style}]")
    first = verdict.first
    if first is not None:
        at = [f"entry {first.index}" if first.index is not None else "", plain(first.file)]
        at.append(f"byte {first.offset}" if first.offset is not None else "")
        table.add_row("first", ", ".join(part for part in at if part))
    table.add_row("state", plain(verdict.state))
    table.add_row("log", plain(verdict.log) or "(an older log without a name)")
    sizes = (
        f"{verdict.entries:,} entries, {bytes_text(verdict.audit_bytes)}; {bytes_text(verdict.input_bytes)} of input"
    )
    table.add_row("read", sizes)
    table.add_row("root", verdict.head or "(unknown)")
    table.add_row("signed", _up_to(verdict.signed, "not signed"))
    table.add_row("anchored", _up_to(verdict.anchored, "nothing outside stands for it"))
    return table


def _up_to(entries: int | None, otherwise: str) -> str:
    return f"up to entry {entries - 1:,}" if entries else otherwise


def _finding(finding: Finding) -> str:
    place = plain(finding.file)
    if finding.offset is not None:
        place += f": byte {finding.offset}"
    text = f"[bold red]{finding.kind}[/bold red] ({finding.check}): {place}: {plain(finding.what)}"
    if finding.index is not None:
        text += f"\n    entry {finding.index}"
    for name, value in (("expected", finding.expected), ("found", finding.found)):
        if value is not None:
            text += f"\n    {name} {plain(value)}"
    return text


def _table(verdict: Verdict) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("attack", no_wrap=True)
    table.add_column("this verification", no_wrap=True)
    table.add_column("why", overflow="fold")
    for row in verdict.table:
        covered = row.covered
        if covered == "covered only up to" and row.entries is not None:
            covered = f"{covered} entry {row.entries - 1:,}"
        style = {"covered": "green", "not covered": "red"}.get(row.covered, "yellow")
        table.add_row(row.attack, f"[{style}]{covered}[/{style}]", plain(row.why))
    return table
