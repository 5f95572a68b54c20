"""``tidewaiter witness``: run a witness for other machines' logs, and make its key.

Owns: the options. Leaves what happens to `shell.witness`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SERVE_EXAMPLE = (
    "Example: [bold]tidewaiter witness serve --state-dir /var/lib/tidewaiter-witness --key witness.key "
    "--policy logs.policy[/bold]\n\n"
    "The policy has a line `log VKEY` for each log to witness, and `quorum none`."
)
NEW_EXAMPLE = "Example: [bold]tidewaiter witness new --key witness.key --name witness.example.org/w1[/bold]"

witness = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@witness.command("serve", epilog=SERVE_EXAMPLE)
def serve(
    *,
    state_dir: Annotated[
        Path,
        typer.Option("--state-dir", metavar="DIR", help="Where it remembers what it cosigned.", show_default=False),
    ],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The witness's private key.", show_default=False)],
    policy: Annotated[
        Path,
        typer.Option(
            "--policy", metavar="FILE", help="A C2SP tlog-policy; its `log` lines are known.", show_default=False
        ),
    ],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; plain HTTP.")
    ] = "127.0.0.1:8650",
) -> None:
    """Cosign checkpoints that are consistent with what this witness saw before (C2SP tlog-witness).

    It belongs on another machine than the logs it watches. SIGTERM ends it.
    """
    from tidewaiter.shell.witness import WitnessOptions
    from tidewaiter.shell.witness import serve as run

    raise typer.Exit(run(WitnessOptions(state=state_dir, key=key, policy=policy, listen=listen)))


@witness.command("new", epilog=NEW_EXAMPLE)
def new(
    *,
    key: Annotated[
        Path, typer.Option("--key", metavar="FILE", help="The file to make; it must not exist.", show_default=False)
    ],
    name: Annotated[
        str,
        typer.Option(
            "--name", metavar="NAME", help="The witness's name, like a URL without its scheme.", show_default=False
        ),
    ],
) -> None:
    """Make the witness's key and print its verifier key, which goes into the policies of the logs and of verifiers."""
    from tidewaiter.shell.witness import new_key

    typer.echo(new_key(key, name))
