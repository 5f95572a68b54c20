"""``tidewaiter samples``: made-up tables that meet the shipped contracts, the same bytes for the same seed.

Owns: the options. Leaves the records to `core.pipelines.samples`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tidewaiter.shell.commands.generate import LARGEST_SEED

EXAMPLE = (
    "Examples: [bold]tidewaiter samples claim_line --out lines.csv --number 1000[/bold]\n\n"
    "[bold]tidewaiter samples laboratory_result --out results.csv --seed 7[/bold]"
)
MOST: int = 1_000_000


def samples(
    table: Annotated[
        Literal[
            "patient", "encounter", "diagnosis", "procedure", "laboratory_result", "claim", "claim_line"
        ],
        typer.Argument(help="The contract that the records meet.", show_default=False),
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The CSV file to make, NAME.csv.", show_default=False)
    ],
    number: Annotated[
        int,
        typer.Option(
            "--number", "-n", metavar="N", min=1, max=MOST,
            help="How many; of what comes in groups, such as the lines of a claim, how many groups.",
        ),
    ] = 100,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="The same seed gives the same bytes.")
    ] = 1,
) -> None:  # fmt: skip
    """Make up the records of a table that meet a shipped contract: nobody's data, for trying a pipeline out.

    Tables of one seed and number belong together: a claim's lines add up to its total.
    """
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.pipelines.samples import SAMPLES, as_csv
    from tidewaiter.shell.new_file import new_file

    if out.suffix.lower() != ".csv":
        raise ConfigError(f"--out {out}: the table is written as CSV", hint="name a file that ends in .csv")
    rows = SAMPLES[table](seed, number)
    data = as_csv(rows)
    with new_file(out, "--out") as file:
        file.write(data)
    typer.echo(f"{out}: {len(rows):,} records, {len(data):,} bytes")
