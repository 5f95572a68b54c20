"""The command ``tidewaiter``: its subcommands, and how every error ends in one line and an exit code.

Owns: the table of commands, ``--version``, and `main`. Leaves to each command's module what it does.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Annotated

import typer

from tidewaiter import __version__
from tidewaiter.core.errors import EXIT_UNEXPECTED, TidewaiterError
from tidewaiter.core.invisible import visible
from tidewaiter.shell.commands import (
    audit,
    bundle,
    check,
    explain,
    generate,
    keys,
    lineage,
    pipeline,
    prove,
    replay,
    rules,
    run,
    samples,
    skip,
    status,
    verify,
    witness,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="tidewaiter",
    help="Watch an append-only stream of events, flag what the rules describe, and keep the evidence.",
    epilog="Exit codes: 0 clean, 1 unexpected, 2 usage or configuration, 3 halted by a data policy or a gap, "
    "4 integrity refused, 5 the disk did not confirm a write, 6 intact but not anchored outside, 7 undecidable.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", epilog=run.EXAMPLE)(run.run)
app.command("status", epilog=status.EXAMPLE)(status.status)
app.command("check", epilog=check.EXAMPLE)(check.check)
app.command("explain", epilog=explain.EXAMPLE)(explain.explain)
app.command("replay", epilog=replay.EXAMPLE)(replay.replay)
app.command("skip", epilog=skip.EXAMPLE)(skip.skip)
app.add_typer(
    rules.rules,
    name="rules",
    help="Look at the rules: their tests, plan, coverage, and file format.",
    epilog=rules.TEST_EXAMPLE,
)
app.add_typer(audit.audit, name="audit", help="Look at the audit log: its end, one entry, or an export.")
app.command("verify", epilog=verify.EXAMPLE)(verify.verify)
app.command("prove", epilog=prove.EXAMPLE)(prove.prove)
app.command("bundle", epilog=bundle.EXAMPLE)(bundle.bundle)
app.add_typer(keys.keys, name="keys", help="Make, rotate, revoke and show the keys that sign the audit log.")
app.add_typer(witness.witness, name="witness", help="Cosign other logs' checkpoints, from another machine.")
app.add_typer(lineage.lineage, name="lineage", help="Ask what was made from what: files, runs, contracts, flags.")
app.command("pipeline", epilog=pipeline.EXAMPLE)(pipeline.pipeline)
app.command("generate", epilog=generate.EXAMPLE)(generate.generate)
app.command("samples", epilog=samples.EXAMPLE)(samples.samples)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidewaiter {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; a known error is one line, an unexpected one as well.

    With TIDEWAITER_DEBUG=1 the traceback follows.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="tidewaiter")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_UNEXPECTED if end.code else 0
    except BaseException as error:  # noqa: BLE001 - the last place where an error can become a sentence
        return _explain(error)
    return 0


def _explain(error: BaseException) -> int:
    known = _known(error)
    if known is not None:
        sentence, code = str(known), known.exit_code
    else:
        first = _first(error)
        what = f"{type(first).__name__}: {first}".rstrip(": ")
        sentence = f"unexpected error: {what}: please report it; TIDEWAITER_DEBUG=1 shows where it happened"
        code = EXIT_UNEXPECTED
    # a wrong rule comes with a picture of the place below the sentence: good on a terminal, noise in a log
    sentence, indent, picture = sentence.partition("\n    ")
    text = visible(" ".join(sentence.split()))
    if sys.stderr.isatty():
        text += indent + "\n".join(map(visible, picture.split("\n")))
    sys.stderr.write(f"tidewaiter: {text}\n")
    if os.environ.get("TIDEWAITER_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    return code


def _known(error: BaseException) -> TidewaiterError | None:
    """Return the error a user can act on, looking into groups: tasks fail together, one of them first."""
    if isinstance(error, TidewaiterError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [known for one in error.exceptions if (known := _known(one)) is not None]
        return max(found, key=lambda known: known.exit_code, default=None)
    return None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
