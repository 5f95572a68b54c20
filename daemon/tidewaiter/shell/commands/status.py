"""``tidewaiter status``: where a stream stands, for a person, a script or a metrics collector.

Owns: finding the state directory and the three ways to show a report. Leaves to `shell.state_report` what is in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    from collections.abc import Iterator

    from rich.table import Table

    from tidewaiter.shell.state_report import Report, Target

EXAMPLE = (
    "Examples: [bold]tidewaiter status[/bold]\n\n"
    "[bold]tidewaiter status --state-dir /var/lib/tidewaiter --json[/bold]\n\n"
    "[bold]tidewaiter status --textfile /var/lib/node_exporter/tidewaiter.prom[/bold]"
)
SHOWN_SCENARIOS = 10
LONG_WAIT_SECONDS = 60
REJECTED_KINDS = ("framing", "json", "contract", "duplicate", "order", "operator")


def status(
    stream: KnownStreamArgument = None,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    textfile: Annotated[
        Path | None,
        typer.Option(
            "--textfile", metavar="FILE", help="Write the figures to FILE as Prometheus text.", show_default=False
        ),
    ] = None,
) -> None:
    """Show position, lag, rates, reconciliation, policies, a pending halt, and whether the daemon runs.

    Reads only: works while the daemon runs and while it does not. Exit code 0 whenever it could be shown, also for a
    stream that is halted or a disk that is full; 2 where there is nothing to show.
    """
    import datetime as dt

    from tidewaiter.core.errors import ConfigError, TidewaiterError
    from tidewaiter.shell.state_report import read_report

    target = locate(stream, config, state_dir, stream_name)
    report = read_report(target, dt.datetime.now(dt.UTC))
    if textfile is not None:
        from tidewaiter.edges.durable import Disk

        class Readable(Disk):
            """Figures are no secret, and the collector runs as another user."""

            def _open(self, path: Path, flags: int) -> int:
                return os.open(path, flags | os.O_CLOEXEC, 0o644)

        try:
            Readable().replace_file(textfile.absolute(), prometheus(report).encode())
        except (OSError, TidewaiterError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            why = (cause.strerror if isinstance(cause, OSError) else None) or str(error)
            raise ConfigError(
                f"--textfile {textfile}: cannot be written: {why}",
                hint=f"{textfile.absolute().parent} must exist, be writable for this user and have space",
            ) from error
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(report))
    elif textfile is None:
        show(_table(report))


def locate(stream: Path | None, config: Path | None, state_dir: Path | None, stream_name: str | None) -> Target:
    """Return what to look at. A state directory alone is enough: its run log names the stream."""
    from tidewaiter.shell.settings import Overrides
    from tidewaiter.shell.state_report import Target

    if state_dir is not None and stream is None and config is None:
        place = Path(os.path.abspath(state_dir))  # noqa: PTH100 - keeps symbolic links
        return Target(state=place, name=stream_name, stream=None)
    settings = load(
        config,
        Overrides(stream=stream, stream_name=stream_name, state_dir=state_dir),
        need_files=False,
        or_else="leave STREAM out: --state-dir is enough" if state_dir else "pass --state-dir alone, which is enough",
    )
    return Target(
        state=settings.state.dir, name=settings.stream.name, stream=settings.stream.path, policy=settings.policy
    )


# -- for people --------------------------------------------------------------------------------------------------


def _table(report: Report) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value, style in _rows(report):
        table.add_row(name, f"[{style}]{plain(value)}[/{style}]" if style else plain(value))
    return table


def _rows(report: Report) -> Iterator[tuple[str, str, str]]:
    """Yield name, text and style of each line."""
    from tidewaiter.shell.commands.progress import bytes_text
    from tidewaiter.shell.setting_values import duration_text
    from tidewaiter.shell.state_report import LOW_SPACE_BYTES

    place, counts, rates, policies = report.position, report.counts, report.rates, report.policies
    yield "stream", f"{report.stream}  {report.stream_path or '(path unknown)'}", ""
    yield "state", report.state_dir, ""
    free = report.state_free_bytes
    if free is not None:
        low = free < LOW_SPACE_BYTES
        warning = ": DISK FULL? the daemon waits for space and goes on by itself" if low else ""
        yield "free space", f"{bytes_text(free)}{warning}", "bold red" if low else ""
    who = f"running, pid {report.pid}" if report.pid else "running, in another container"
    yield "daemon", who if report.alive else "not running", "green" if report.alive else "yellow"
    where = f"  (byte {place.segment_offset:,} of {place.segment})" if place.segment is not None else ""
    yield "position", f"{place.offset:,}{where}", ""
    if report.lag_bytes is None:
        yield "lag", "unknown: the segment being read is not there", "yellow"
    elif report.lag_bytes == 0:
        yield "lag", "none", "green"
    else:
        estimate = report.lag_events_estimate
        about = "" if estimate is None else f", about {estimate:,} events (estimated from the mean line)"
        yield "lag", f"{report.lag_bytes:,} bytes{about}", ""
    pace = f"{rates.events_per_s:,.1f} events/s, {rates.flags_per_s:,.1f} flags/s"
    yield "rate", f"{pace}, {bytes_text(round(rates.bytes_per_s))}/s over the last {rates.window_s:g} s", ""
    yield "last commit", report.last_commit or "none yet", ""
    yield "last event", report.last_event_time or "none yet", ""
    check = report.reconciliation
    sum_ = f"{check.read:,} read = {check.evaluated:,} evaluated + {check.rejected:,} rejected"
    yield (
        "reconciled",
        f"{sum_}, {'balanced' if check.balanced else 'NOT BALANCED'}",
        "" if check.balanced else "bold red",
    )
    rejected = ", ".join(f"{getattr(counts, kind):,} {kind}" for kind in REJECTED_KINDS if getattr(counts, kind))
    if rejected:
        yield "rejected", rejected, ""
    if counts.admitted:
        yield "admitted late", f"{counts.admitted:,}", ""
    yield from _hits(report)
    if policies is not None:
        horizon = duration_text(policies.duplicate_horizon)
        text = f"invalid {policies.invalid}, duplicate {policies.duplicate} within {horizon}, order {policies.order}"
        yield "policies", text, ""
    halt = report.halt
    if halt is not None:
        # a halt about the files themselves says in its reason where it is
        local = "" if halt.evidence else f" (byte {halt.local_offset:,} of {halt.segment})"
        text = f"{halt.kind} at {halt.offset}{local}: {halt.reason}"
        yield "HALTED", text, "bold red"
        yield "", f"decide with: tidewaiter skip --position {halt.offset} --reason … --actor …", ""
    yield from _evidence(report)
    yield "snapshots", ", ".join(f"{one.offset:,}" for one in report.snapshots) or "none yet", ""
    for number, each in enumerate(report.deletable or ["nothing"]):
        yield "" if number else "may be deleted", each, ""
    run = report.last_run
    if run is not None:
        said = str(run.get("error") or "")
        # the pending halt was told above
        error = f": {said}" if said and not (halt is not None and halt.reason in said) else ""
        what = f"{run.get('run_id', '?')} {run.get('status', '?')}, started {run.get('started_at', '?')}{error}"
        yield "last run", what, ""


def _evidence(report: Report) -> Iterator[tuple[str, str, str]]:
    evidence = report.evidence
    if evidence.covered is None:
        yield "evidence", "no checkpoint yet", "yellow"
        return
    covered = f"{evidence.covered:,} of {report.audit_index:,} entries under a checkpoint of {evidence.origin}"
    late = _waiting(report, evidence.covered, evidence.covered_at)
    covered += f", newest checkpoint {late} ago" if late else ""
    if evidence.key_revoked:
        yield "evidence", f"{covered}, NOT SIGNED: its key was revoked: tidewaiter keys rotate", "bold red"
    elif not evidence.signed_by:
        yield "evidence", f"{covered}, NOT SIGNED: make a key with tidewaiter keys new", "yellow"
    else:
        yield "evidence", f"{covered}, signed by {', '.join(evidence.signed_by)}", "yellow" if late else ""
    if evidence.witnessed is not None:
        late = _waiting(report, evidence.witnessed, evidence.witnessed_at)
        who = ", ".join(evidence.witnesses) or "nobody"
        text = f"{evidence.witnessed:,} entries, by {who}{f', last cosigned {late} ago' if late else ''}"
        yield "witnessed", text, "yellow" if late else ""


def _waiting(report: Report, size: int, written: str | None) -> str:
    """Return the age of a checkpoint of `size` entries that others have been waiting behind for long, else ""."""
    at, now = _seconds(written), _seconds(report.timestamp)
    if report.audit_index <= size or at is None or now is None or now - at <= LONG_WAIT_SECONDS:
        return ""
    for seconds, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if now - at >= 2 * seconds:
            return f"{int((now - at) // seconds)} {unit}"
    return f"{int(now - at)} s"


def _hits(report: Report) -> Iterator[tuple[str, str, str]]:
    counts = report.counts
    yield "flags", f"{counts.flags:,}", ""
    if counts.suppressed:
        yield "suppressed", f"{counts.suppressed:,}", ""
    if counts.shadow_flags or counts.shadow_suppressed:
        held = f", {counts.shadow_suppressed:,} more held back by a cooldown" if counts.shadow_suppressed else ""
        yield "shadow flags", f"{counts.shadow_flags:,}{held}", ""
    if report.insufficient:
        undecided = sorted(report.insufficient.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{scenario} at {number:,} events" for scenario, number in undecided[:SHOWN_SCENARIOS])
        more = len(undecided) - SHOWN_SCENARIOS
        yield "insufficient", shown + (f" and {more} more scenarios" if more > 0 else ""), ""


# -- for a metrics collector -------------------------------------------------------------------------------------


def prometheus(report: Report) -> str:
    """Return the report in Prometheus' text exposition format; what is unknown is left out, never 0."""
    label = f'stream="{_label(report.stream)}"'
    lines: list[str] = []

    def metric(name: str, kind: str, text: str, *samples: tuple[str, float | None]) -> None:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines.extend((f"# HELP tidewaiter_{name} {text}", f"# TYPE tidewaiter_{name} {kind}"))
            lines.extend(f"tidewaiter_{name}{{{labels}}} {value}" for labels, value in known)

    counts = report.counts
    metric("up", "gauge", "Whether a daemon holds the state directory.", (label, int(report.alive)))
    metric("halted", "gauge", "Whether the stream waits for a decision.", (label, int(report.halt is not None)))
    metric("position_bytes", "gauge", "Committed global offset of the stream.", (label, report.position.offset))
    free = report.state_free_bytes
    metric("state_free_bytes", "gauge", "Free bytes in the state directory's file system.", (label, free))
    metric("lag_bytes", "gauge", "Bytes of the stream behind the position.", (label, report.lag_bytes))
    metric("lag_events_estimate", "gauge", "Estimated events in the lag.", (label, report.lag_events_estimate))
    metric("events_read_total", "counter", "Lines read and committed.", (label, counts.events_read))
    metric("events_evaluated_total", "counter", "Events evaluated.", (label, counts.evaluated))
    metric(
        "events_rejected_total",
        "counter",
        "Lines rejected, by kind.",
        *((f'{label},kind="{kind}"', getattr(counts, kind)) for kind in REJECTED_KINDS),
    )
    metric("events_admitted_late_total", "counter", "Late events that were evaluated.", (label, counts.admitted))
    metric("flags_total", "counter", "Flags written.", (label, counts.flags))
    metric("flags_suppressed_total", "counter", "Hits held back by a cooldown.", (label, counts.suppressed))
    metric("flags_shadowed_total", "counter", "Flags of shadow scenarios.", (label, counts.shadow_flags))
    held = counts.shadow_suppressed
    metric("flags_shadowed_suppressed_total", "counter", "Hits of shadow scenarios held back.", (label, held))
    metric(
        "scenario_insufficient_total",
        "counter",
        "Events at which a scenario could not be decided.",
        *((f'{label},scenario="{_label(name)}"', number) for name, number in (report.insufficient or {}).items()),
    )
    metric(
        "reconciliation_balanced",
        "gauge",
        "Whether read = evaluated + rejected.",
        (label, int(report.reconciliation.balanced)),
    )
    evidence = report.evidence
    metric("audit_entries", "gauge", "Entries of the audit log.", (label, report.audit_index))
    metric("audit_entries_covered", "gauge", "Entries under the newest checkpoint.", (label, evidence.covered))
    metric("audit_entries_witnessed", "gauge", "Entries under a cosigned checkpoint.", (label, evidence.witnessed))
    metric("audit_signed", "gauge", "Whether the newest checkpoint is signed.", (label, int(bool(evidence.signed_by))))
    metric("last_commit_timestamp_seconds", "gauge", "Time of the last commit.", (label, _seconds(report.last_commit)))
    metric("last_event_timestamp_seconds", "gauge", "Event time reached.", (label, _seconds(report.last_event_time)))
    return "\n".join(lines) + "\n"


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _seconds(text: str | None) -> float | None:
    import datetime as dt

    try:
        return dt.datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
