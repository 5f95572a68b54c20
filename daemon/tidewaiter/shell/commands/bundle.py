"""``tidewaiter bundle``: the evidence of a period in one file, for an examiner.

Owns: its options, the progress bar, and what is said at the end. Leaves to `shell.bundle` what goes into it.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tidewaiter.shell.commands.audit import FromOption, ToOption
from tidewaiter.shell.commands.options import (
    ConfigOption,
    KnownStreamArgument,
    StateDirOption,
    StreamNameOption,
    load,
    plain,
    show,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidewaiter.core.tlog.notes import SigningKey, VerifierKey

EXAMPLE = (
    "Examples: [bold]tidewaiter bundle --out march.zip --from 2026-03-01 --to 2026-04-01[/bold]\n\n"
    "[bold]VERIFY.md[/bold] in it says how to check it, with sha256sum and openssl alone."
)


def bundle(
    stream: KnownStreamArgument = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.zip", help="A new file.", show_default=False)],
    begin: FromOption = "",
    end: ToOption = "",
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Put the audit log of a period into one file: with checkpoints, proofs, rules, run logs, reports and flags.

    Whole audit segments, as far as a checkpoint covers them. Reads only, takes no lock, and works while the daemon
    runs. Where the log's key is named in the configuration and can be read, it signs the list of files.
    """
    from tidewaiter.core.invisible import visible
    from tidewaiter.shell.audit_reading import Wanted, period, reading
    from tidewaiter.shell.bundle import gather
    from tidewaiter.shell.bundle_file import write
    from tidewaiter.shell.bundle_page import page
    from tidewaiter.shell.commands.status import locate

    state = locate(stream, config, state_dir, stream_name).state
    wanted = Wanted(*period(begin, end))
    with reading(state), _bar("reading") as progress:
        gathered = gather(state, wanted, progress)
    key, why = _key(config, gathered.signer)
    unsigned = "" if key is not None else "the key was not at hand when this was made"
    if gathered.signer is None:
        unsigned = why = "no key of the log signs any more" if gathered.log_keys else "the log has no key"
    with reading(state), _bar("writing") as progress:
        write(gathered, page(gathered, unsigned), key, out.absolute(), progress)
    head = gathered.newest.head
    by = "signed by the log" if gathered.signer is not None else f"[yellow]not signed[/yellow]: {why}"
    show(
        plain(
            f"{out}: entries {gathered.first} to {gathered.end - 1} of the log {head.origin}, {gathered.flags} flags; "
            f"the newest checkpoint, of {head.size} entries, is "
        )
        + by,
        *(f"[yellow]note[/yellow]: {plain(note)}" for note in gathered.notes),
        "VERIFY.md in it says how to check it",
    )
    if why:
        typer.echo(f"tidewaiter: the list of files in {visible(str(out))} is not signed: {visible(why)}", err=True)


def _key(config: Path | None, signer: VerifierKey | None) -> tuple[SigningKey | None, str]:
    """Return the private half of `signer`, where the configuration or the service manager gives it; else why not."""
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.shell.evidence import signing_keys
    from tidewaiter.shell.settings import EvidencePart, Overrides

    if signer is None:
        return None, ""
    try:
        evidence = load(config, Overrides(), need_files=False).evidence
    except ConfigError:
        evidence = EvidencePart()  # the service manager may still hand the key over
    try:
        found = [key for key in signing_keys(evidence) if key.verifier == signer]
    except ConfigError as error:
        return None, f"{error}; {_WHERE}"
    return (found[0], "") if found else (None, _WHERE)


_WHERE: Final = (
    "name the configuration with the key's file: --config; a key that systemd keeps, "
    "/etc/credstore/tidewaiter-log-key, it hands over to what root starts with systemd-run --pipe --wait --same-dir "
    "--property=LoadCredential=tidewaiter-log-key tidewaiter bundle …, see systemd/README.md"
)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give what draws the progress on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task(what, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)
