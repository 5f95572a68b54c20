"""``tidewaiter generate``: made-up events into a file, the same bytes for the same seed.

Owns: the options and what a person sees meanwhile. Leaves their limits and the work to `shell.generate_file`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

EXAMPLE = (
    "Examples: [bold]tidewaiter generate --out events.jsonl --events 100000 --seed 7[/bold]\n\n"
    "[bold]tidewaiter generate --out live.jsonl --rate 200 --seconds 60 --bad 0.01 --duplicates 0.01[/bold]\n\n"
    "[bold]tidewaiter generate --out transfers.jsonl --profile transfers --users 1000 --events 100000[/bold]"
)

LARGEST_SEED: Final = 2**63 - 1
"""The same as for the producer's [producer] seed."""


def generate(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The file to append to.", show_default=False)
    ],
    *,
    events: Annotated[
        int | None, typer.Option("--events", "-n", metavar="N", help="How many events.", show_default=False)
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", metavar="EPS", help="Write at this pace, events a second; else at once.", show_default=False
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", metavar="S", help="For how long, instead of --events; needs --rate.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same bytes.")] = 1,
    users: Annotated[int, typer.Option("--users", metavar="N", help="How many users there are.")] = 10_000,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="TIME", help="Event time of the first event, ISO 8601.", show_default=False),
    ] = None,
    profile: Annotated[
        Literal["money-flow", "quiet", "transfers", "transfers-demo"],
        typer.Option(
            "--profile",
            help="Money flow with some 29 % of the events flagged, or under 1 %; or account transfers for the AML pack,"
            " with under 1 %, or dense with patterns. --users are then the accounts, and the times are their own.",
        ),
    ] = "money-flow",
    time_rate: Annotated[
        float | None,
        typer.Option(
            "--time-rate",
            metavar="EPS",
            help="Without --rate: events a second of event time.  [default: 100]",
            show_default=False,
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Take the wall clock as event time; such a file cannot be repeated.")
    ] = False,
    bad: Annotated[float, typer.Option("--bad", metavar="SHARE", help="Share of invalid lines, 0 to 1.")] = 0.0,
    duplicates: Annotated[
        float, typer.Option("--duplicates", metavar="SHARE", help="Share of events that come twice.")
    ] = 0.0,
    disorder: Annotated[
        float, typer.Option("--disorder", metavar="SHARE", help="Share of events that are late.")
    ] = 0.0,
    partial: Annotated[
        Literal["none", "last", "halves", "both"],
        typer.Option("--partial", help="Leave half a line at the end, write lines in two halves, or both."),
    ] = "none",
    rotate_events: Annotated[
        int | None,
        typer.Option("--rotate-events", metavar="N", help="Rename the file every N lines.", show_default=False),
    ] = None,
    rotate_bytes: Annotated[
        int | None,
        typer.Option("--rotate-bytes", metavar="N", help="Rename the file once it holds N bytes.", show_default=False),
    ] = None,
) -> None:
    """Append seeded, made-up events to a file; can misbehave on purpose, for tests and drills.

    On a file that ends in events of the same seed the numbering goes on where it stopped.
    """
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.shell.generate_file import GenerateOptions
    from tidewaiter.shell.generate_file import generate as write

    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"--seed {seed} is out of range", hint=f"allowed: 0 to {LARGEST_SEED}")
    options = GenerateOptions(
        out=out,
        events=events,
        rate=rate,
        seconds=seconds,
        seed=seed,
        users=users,
        start=start,
        profile=profile,
        time_rate=time_rate,
        live=live,
        bad=bad,
        duplicates=duplicates,
        disorder=disorder,
        partial=partial,
        rotate_events=rotate_events,
        rotate_bytes=rotate_bytes,
    )
    bar = _bar() if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" else None
    try:
        summary = write(options, _reporter(bar) if bar is not None else None)
    finally:
        if bar is not None:
            bar.stop()
    typer.echo(summary.text, err=True)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    return Progress(
        TaskProgressColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _reporter(bar: Progress) -> Callable[[int, int], None]:
    """Return what `generate` tells its progress to."""
    bar.start()
    task = bar.add_task("events", total=None)

    def report(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return report
