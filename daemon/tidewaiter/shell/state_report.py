"""Where a stream stands, read from its state directory by somebody who is not the daemon.

Owns: `read_report`, which puts checkpoint, audit tail, snapshots, run log and the lock together. Never writes, never
locks, never trusts one file more than the audit log, and works while the daemon runs and while it does not. Leaves to
`shell.commands.status` how it is shown, and to `edges.recovery` any judgement whether the state is sound.

What it costs does not grow with the stream: the audit log is read from the checkpoint on, and backwards for the last
minute up to `RATE_BUDGET` bytes.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import UNREADABLE, Counts, Decisions, Halt, ProjectionMark
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.ledger import Ledger, decode_checkpoint, units
from tidewaiter.core.screening import Policy
from tidewaiter.edges import archive
from tidewaiter.edges.lock import probe
from tidewaiter.edges.snapshot_ledgers import snapshot_ledgers
from tidewaiter.shell.evidence_report import EvidenceReport, read_evidence
from tidewaiter.shell.settings_file import default_stream_name
from tidewaiter.shell.state_owner import read_owner, refuse_no_state
from tidewaiter.shell.stream_files import deletable_files, lag_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.core.ledger import Checkpoint
    from tidewaiter.core.position import ClosedSegment

RATE_WINDOW_S: Final = 60.0
RATE_BUDGET: Final = 32 << 20
LOW_SPACE_BYTES: Final = 16 << 20
"""With less than this left in the state directory's file system, a batch and its snapshot may not fit any more."""
_CATCH_UP_BUDGET: Final = 64 << 20
_BATCH_MARK: Final = b'"action":"batch.committed"'


@dataclass(frozen=True)
class Target:
    """What to look at: a state directory, and the stream as far as somebody named it (else the last run did)."""

    state: Path
    name: str | None
    stream: Path | None
    policy: Policy | None = None


class Rates(Struct, frozen=True):
    """Means over the last `window_s` seconds, from the audit log's batch.committed entries."""

    window_s: float
    events_per_s: float
    bytes_per_s: float
    flags_per_s: float


class Reconciliation(Struct, frozen=True):
    """Every line that was read is evaluated or rejected; `balanced` says whether the counts agree."""

    read: int
    evaluated: int
    rejected: int
    balanced: bool


class Place(Struct, frozen=True):
    """The committed position: `offset` is global, `segment_offset` inside the segment `segment`; bytes."""

    offset: int
    segment: str | None
    segment_offset: int | None


class SnapshotInfo(Struct, frozen=True):
    """One snapshot of the rule state: its file and the global offset it was taken at."""

    file: str
    offset: int


class Report(Struct, frozen=True):
    """Everything `status` knows. None means that it cannot be known from here, never zero."""

    stream: str
    stream_path: str | None
    state_dir: str
    timestamp: str
    alive: bool
    pid: int | None
    position: Place
    lag_bytes: int | None
    lag_events_estimate: int | None
    rates: Rates
    last_commit: str | None
    last_event_time: str | None
    counts: Counts
    reconciliation: Reconciliation
    policies: Policy | None
    decisions: Decisions | None
    halt: Halt | None
    insufficient: dict[str, int] | None
    projections: dict[str, ProjectionMark]
    audit_index: int
    snapshots: list[SnapshotInfo]
    deletable: list[str]
    last_run: dict[str, Any] | None
    state_free_bytes: int | None
    evidence: EvidenceReport


class _BatchHead(Struct, frozen=True):
    timestamp: dt.datetime
    counts: Counts
    offset: int
    first: int
    position: dict[str, Any]


def read_report(target: Target, now: dt.datetime) -> Report:
    """Return where the stream stands at `now` (UTC). Raises ConfigError where nothing can be read."""
    state = target.state
    if not state.is_dir():
        raise ConfigError(
            f"{state}: there is no such state directory",
            hint="name it with --state-dir, or start the daemon first: tidewaiter run",
        )
    try:
        refuse_no_state(state)
        return _read(target, now)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or state}: cannot be read: {error.strerror}",
            hint="run this as a member of the file's group",
        ) from error


def _read(target: Target, now: dt.datetime) -> Report:
    state = target.state
    pid = probe(state / "lock")
    rates, committed_at = _rates(state, now)
    last_run = _last_run(state)
    stream = target.stream or _stream_of(last_run, state)
    ledger, complete = _ledger(state)
    snapshots = snapshot_ledgers(state)
    closed = _merge(ledger.closed, *(one.closed for _, one in snapshots))
    commit = ledger.commit
    lag = lag_of(stream, commit.position if commit else None, closed)
    totals = ledger.totals
    events = totals.events_read
    older = snapshots[1][1] if len(snapshots) > 1 else None
    owner = read_owner(state)
    by_path = default_stream_name(stream) if stream is not None else state.name
    return Report(
        stream=target.name or (owner.name if owner is not None else by_path),
        stream_path=None if stream is None else str(stream),
        state_dir=str(state),
        timestamp=now.isoformat(timespec="seconds"),
        alive=pid is not None,
        pid=pid or None,
        position=Place(
            offset=ledger.global_offset,
            segment=commit.position.segment.name if commit else None,
            segment_offset=commit.position.offset if commit else None,
        ),
        lag_bytes=lag,
        lag_events_estimate=_events_in(lag, ledger.global_offset, events),
        rates=rates,
        last_commit=committed_at,
        last_event_time=commit.last_event_time if commit else None,
        counts=totals,
        reconciliation=Reconciliation(
            read=events,
            evaluated=totals.evaluated,
            rejected=totals.rejected,
            balanced=events == totals.evaluated + totals.rejected
            and totals.rejected
            == totals.framing + totals.json + totals.contract + totals.duplicate + totals.order + totals.operator,
        ),
        policies=_policy(state, ledger.decisions) or target.policy,
        decisions=ledger.decisions,
        halt=ledger.halt,
        insufficient=ledger.insufficient if complete else None,
        projections=ledger.projections,
        audit_index=ledger.index,
        snapshots=[SnapshotInfo(file=name, offset=one.global_offset) for name, one in snapshots],
        deletable=[] if older is None else deletable_files(stream, closed, older.global_offset),
        last_run=last_run,
        state_free_bytes=_free_bytes(state),
        evidence=read_evidence(state),
    )


def _free_bytes(state: Path) -> int | None:
    """Return what the file system of `state` has left for somebody who is not root; None where it does not say."""
    try:
        found = os.statvfs(state)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _events_in(lag: int | None, offset: int, events: int) -> int | None:
    """Estimate the events in `lag` bytes by the mean length of the lines so far; None before the first."""
    if lag is None:
        return None
    if lag == 0:
        return 0
    return round(lag * events / offset) if events and offset else None


def committed(state: Path) -> tuple[Ledger, list[ClosedSegment]]:
    """Return the committed state of `state`, and all segments known to have ended, in stream order."""
    ledger, _ = _ledger(state)
    return ledger, _merge(ledger.closed, *(one.closed for _, one in snapshot_ledgers(state)))


# -- the committed state -----------------------------------------------------------------------------------------


def _ledger(state: Path) -> tuple[Ledger, bool]:
    """Return the committed state: the checkpoint's, and whatever the audit log has behind it.

    Also whether sums over all batches are known: not where the end of a long audit log is all there is.
    """
    checkpoint = _checkpoint(state)
    ledger = Ledger()
    if checkpoint is not None:
        commit = checkpoint.commit
        ledger.index, ledger.head = checkpoint.audit.index, checkpoint.audit.head
        ledger.commit, ledger.decisions, ledger.halt = commit, checkpoint.decisions, checkpoint.halt
        ledger.insufficient = checkpoint.insufficient
        if commit is not None:
            ledger.totals, ledger.projections = commit.totals, commit.projections
        lines = _audit_lines_after(state, checkpoint.audit.segment, checkpoint.audit.length)
    else:
        lines = _last_audit_lines(state)
        first = next(lines, b"")
        head = audit.read_head(first)
        if head is None:
            return ledger, not first
        ledger.index, ledger.head = head.index, head.prev
        lines = chain((first,), lines)
    complete = checkpoint is not None or ledger.index == 0
    for unit in units(lines, ledger.index, ledger.head):
        try:
            ledger.apply(unit)
        except UNREADABLE:
            break
    return ledger, complete


def _checkpoint(state: Path) -> Checkpoint | None:
    try:
        return decode_checkpoint((state / "checkpoint.json").read_bytes())
    except FileNotFoundError:
        return None


def _audit_segments(state: Path) -> list[Path]:
    return sorted((state / "audit").glob("audit-*.jsonl"))


def _audit_lines_after(state: Path, segment: str, offset: int) -> Iterator[bytes]:
    """Yield the whole audit lines from byte `offset` of `segment` on."""
    for path in _audit_segments(state):
        if path.name < segment:
            continue
        with path.open("rb") as file:
            file.seek(offset if path.name == segment else 0)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield line


def _last_audit_lines(state: Path) -> Iterator[bytes]:
    """Yield the audit log's last whole lines, where there is no checkpoint to begin at."""
    segments = _audit_segments(state)
    if not segments:
        return
    last = segments[-1]
    offset = max(0, last.stat().st_size - _CATCH_UP_BUDGET)
    lines = _audit_lines_after(state, last.name, offset)
    if offset:
        next(lines, None)  # begins in the middle of a line
    yield from lines


def _rates(state: Path, now: dt.datetime) -> tuple[Rates, str | None]:
    """Return the means over the last minute, and when the last batch was committed (UTC text).

    Both as far back as `RATE_BUDGET` bytes of audit log tell.
    """
    since = now - dt.timedelta(seconds=RATE_WINDOW_S)
    events = size = flags = 0
    read = 0
    earliest = now
    complete = False
    latest: dt.datetime | None = None
    for line in _audit_lines_backwards(state):
        read += len(line)
        if read > RATE_BUDGET:
            break
        if _BATCH_MARK not in line[:400]:
            continue
        try:
            batch = _batch_head.decode(line)
        except UNREADABLE:
            continue
        if latest is None:
            latest = batch.timestamp
        if batch.timestamp < since:
            complete = True
            break
        earliest = min(earliest, batch.timestamp)
        events += batch.counts.events_read
        flags += batch.counts.flags
        size += int(batch.position.get("offset", batch.first)) - batch.first
    else:
        complete = True
    window = RATE_WINDOW_S if complete else max((now - earliest).total_seconds(), 0.001)
    rates = Rates(
        window_s=round(window, 3),
        events_per_s=round(events / window, 3),
        bytes_per_s=round(size / window, 3),
        flags_per_s=round(flags / window, 3),
    )
    return rates, None if latest is None else latest.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _audit_lines_backwards(state: Path, block: int = 1 << 18) -> Iterator[bytes]:
    """Yield the whole lines of the audit log from the last one back."""
    for path in reversed(_audit_segments(state)):
        with path.open("rb") as file:
            end = file.seek(0, 2)
            rest = b""
            at = end
            while at > 0:
                begin = max(0, at - block)
                file.seek(begin)
                lines = (file.read(at - begin) + rest).split(b"\n")
                rest = lines[0]
                at = begin
                if len(lines) > 1:
                    yield from (line for line in reversed(lines[1:]) if line)
            if rest:
                yield rest


_batch_head: Final = msgspec.json.Decoder(_BatchHead)


# -- what lies beside it -----------------------------------------------------------------------------------------


def _merge(*lists: list[ClosedSegment]) -> list[ClosedSegment]:
    """Return the closed segments known anywhere, in stream order, each once."""
    known = {(closed.start, closed.segment.head_sha256, closed.segment.name): closed for one in lists for closed in one}
    return [known[key] for key in sorted(known)]


def _policy(state: Path, decisions: Decisions | None) -> Policy | None:
    """Return the policy in force as it was recorded, where its text is what its name says."""
    if decisions is None:
        return None
    try:
        return msgspec.json.decode(archive.load(state, decisions.config), type=Policy)
    except (IntegrityRefusal, *UNREADABLE):
        return None


def _last_run(state: Path) -> dict[str, Any] | None:
    """Return the run log of the last start, as it stands in its file."""
    try:
        newest = max((state / "runs").glob("run_*.json"), key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is None:
            return None
        log = msgspec.json.decode(newest.read_bytes())
    except (FileNotFoundError, *UNREADABLE):
        return None
    return log if isinstance(log, dict) else None


def _stream_of(last_run: dict[str, Any] | None, state: Path) -> Path | None:
    """Return the stream that the last run watched."""
    path = (last_run or {}).get("stream")
    return type(state)(path) if isinstance(path, str) and path else None
