"""``tidewaiter pipeline``: finite files in, a finite file out, with contract, audit log and lineage.

Owns: its options. Leaves what happens to `shell.pipelines`, and what a person sees of it to `pipeline_shown`.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from tidewaiter.shell.commands.options import ActorOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.shell.pipelines.stopping import Stopping

EXAMPLE = (
    "Examples: [bold]tidewaiter pipeline -i data/input.csv -o out/output.csv -a out/audit.jsonl[/bold] infers the "
    "contract\n\n"
    "[bold]tidewaiter pipeline -i 'claims/*.csv.gz' -o out/claims.parquet --config claims.toml --on-invalid "
    "quarantine[/bold] runs the steps of a pipeline file"
)

Format = Literal["csv", "tsv", "jsonl", "parquet", "arrow"]
_SIGNALLED: Final = 128
"""The exit code of a process that a signal ended, less the signal's number."""


def pipeline(
    *,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            show_default=False,
            help="A file, a directory, a pattern in quotes, or - for standard input; may be repeated.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="The file that appears when the run has succeeded, or - for standard output.",
        ),
    ],
    audit: Annotated[
        Path | None,
        typer.Option(
            "--audit",
            "-a",
            metavar="FILE",
            show_default=False,
            help="The audit log that the run is appended to; default OUTPUT.audit.jsonl.",
        ),
    ] = None,
    no_audit: Annotated[
        bool, typer.Option("--no-audit", help="Keep no audit log, and hash the files only, not the steps.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The pipeline file (TOML).", show_default=False),
    ] = None,
    contract: Annotated[
        Path | None,
        typer.Option(
            "--contract",
            metavar="FILE",
            show_default=False,
            help="The contract that every record must meet; without it, and without one in the pipeline file, it is "
            "inferred from the input and printed.",
        ),
    ] = None,
    save_contract: Annotated[
        Path | None,
        typer.Option(
            "--save-contract",
            metavar="FILE",
            show_default=False,
            help="Write the inferred contract to this new file when the run has succeeded, to be looked at and used "
            "with --contract.",
        ),
    ] = None,
    lineage: Annotated[
        Path | None,
        typer.Option("--lineage", metavar="FILE", help="The lineage to record the run in.", show_default=False),
    ] = None,
    openlineage: Annotated[
        Path | None,
        typer.Option(
            "--openlineage", metavar="FILE", help="The file of OpenLineage events to append to.", show_default=False
        ),
    ] = None,
    openlineage_url: Annotated[
        str | None,
        typer.Option(
            "--openlineage-url",
            metavar="URL",
            show_default=False,
            help="Ship the events there when the run ends; the API key is the service manager's credential.",
        ),
    ] = None,
    mode: Annotated[
        Literal["batch", "stream"],
        typer.Option("--mode", help="Read the input to its end, or follow it while it grows."),
    ] = "batch",
    on_invalid: Annotated[
        Literal["halt", "quarantine", "drop"] | None,
        typer.Option(
            "--on-invalid",
            show_default=False,
            help="What becomes of a record that breaks the contract or a step; default halt. quarantine keeps them in "
            "OUTPUT.rejected.jsonl.",
        ),
    ] = None,
    max_rejected: Annotated[
        str | None,
        typer.Option(
            "--max-rejected",
            metavar="N",
            show_default=False,
            help="More rejected records than this, a number or a share such as 5%, fail the run (exit 3) and leave the "
            "previous output; without it quarantine and drop accept any number, all records included.",
        ),
    ] = None,
    input_format: Annotated[
        Format | None, typer.Option("--input-format", help="Default: by the file's name.", show_default=False)
    ] = None,
    output_format: Annotated[
        Format | None, typer.Option("--output-format", help="Default: by the file's name.", show_default=False)
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter", metavar="CHARACTER", help="Of the input, for csv and tsv; \\t is a tab.", show_default=False
        ),
    ] = None,
    no_header: Annotated[
        bool, typer.Option("--no-header", help="The input has no header: its columns are column_1, column_2, …")
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option(
            "--encoding",
            metavar="[utf-8|latin-1|windows-1252|utf-16]",
            help="Of the input, for csv and tsv; default utf-8.",
            show_default=False,
        ),
    ] = None,
    actor: ActorOption = "",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no inferred contract, no summary; errors only.")
    ] = False,
) -> None:
    """Run a pipeline over files: validate, transform, write; all of it counted, hashed and logged.

    The output appears as a whole when the run has succeeded; otherwise the previous one stays.
    """
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.pipelines.table_format import TableFormat
    from tidewaiter.shell.commands.pipeline_shown import show_result, show_stopped, watcher
    from tidewaiter.shell.openlineage_settings import OpenLineagePart
    from tidewaiter.shell.pipelines.config import STANDARD, PipelineConfig
    from tidewaiter.shell.pipelines.running import run_pipeline
    from tidewaiter.shell.pipelines.stopping import Stopped, Stopping

    if no_audit and audit is not None:
        raise ConfigError("--audit and --no-audit together", hint="leave one out")
    if audit is None and not no_audit:
        if str(output) == STANDARD:
            raise ConfigError("--output - has no place for an audit log", hint="add --audit FILE or --no-audit")
        audit = output.with_name(f"{output.name}.audit.jsonl")
    told = PipelineConfig(
        input_path=inputs,
        output_path=output,
        audit_path=audit,
        pipeline=config,
        contract=contract,
        save_contract=save_contract,
        lineage_path=lineage,
        openlineage_path=openlineage,
        openlineage=None if openlineage_url is None else OpenLineagePart(url=openlineage_url),
        mode=mode,
        on_invalid=on_invalid,
        max_rejected=max_rejected,
        input_format=TableFormat(
            format=input_format,
            delimiter="\t" if delimiter == "\\t" else delimiter,
            header=False if no_header else None,
            encoding=encoding,
        ),
        output_format=TableFormat(format=output_format),
        actor=actor or None,
    )
    watch, stopping = watcher(quiet=quiet), Stopping()
    try:
        # stream mode has handlers of its own, for as long as it follows
        with _told_by_signals(stopping) if mode == "batch" else contextlib.nullcontext():
            result = run_pipeline(told, watch=watch, stopping=stopping)
    except Stopped as stopped:
        watch.close()
        show_stopped(str(stopped), output)
        raise typer.Exit(_SIGNALLED + signal.Signals[stopping.why].value) from None
    finally:
        watch.close()
    show_result(result, quiet=quiet)
    raise typer.Exit(result.exit_code)


@contextlib.contextmanager
def _told_by_signals(stopping: Stopping) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the run within the block; elsewhere than in the main thread they do what they did."""
    with contextlib.ExitStack() as before:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):
                old = signal.signal(number, lambda number, _: stopping.ask(signal.Signals(number).name))
                before.callback(signal.signal, number, old)
        yield
