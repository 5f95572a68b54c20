"""What a run leaves for its readers: ``runs/run_<run_id>.json`` and ``reports/validation_report.json``.

Owns: the contents of both documents and the closing of runs that crashed. Leaves to the consumer the figures. Neither
file is ever read back to decide anything but which run crashed, and what is told of it to the lineage.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.audit import PROJECTIONS, UNREADABLE, Counts, Document
from tidewaiter.core.errors import DurabilityError

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.audit import EntryHead
    from tidewaiter.core.ledger import Ledger
    from tidewaiter.core.screening import Policy
    from tidewaiter.edges.durable import Disk


MOST_AT_ONCE: Final = 100
"""How many run logs of crashed runs a start closes; their names and digests stand in its ``run.started``."""


class Traced(Struct, frozen=True):
    """Where the stream and its projections stood when a run's lineage was last told: bytes and totals."""

    offset: int
    totals: Counts
    lengths: dict[str, int]


class RunLog(Struct):
    """One run of the daemon. Offsets are global stream bytes; counts are of this run alone.

    `closed_at` is when a later start found that the run had crashed; `ended_at` is then the time of its last commit,
    where that is known. `totals_at_start` are what the counts of a crashed run are reckoned from, `traced` is what its
    lineage goes on from.
    """

    run_id: str
    started_at: str
    contract: str
    contract_version: int
    ruleset: str
    stream: str
    state_dir: str
    flags: str
    audit: str
    resume_offset: int
    status: str = "running"
    ended_at: str | None = None
    final_offset: int | None = None
    events_read: int = 0
    events_valid: int = 0
    flags_emitted: int = 0
    events_rejected: int = 0
    error: str | None = None
    version: str = ""
    closed_at: str | None = None
    totals_at_start: Counts | None = None
    flags_suppressed: int = 0
    flags_shadowed: int = 0
    traced: Traced | None = None


class RunRecord:
    """Writes the documents of one run."""

    def __init__(self, disk: Disk, state: Path, log: RunLog, before: Counts) -> None:
        """`before` are the totals at the start of the run."""
        self._disk = disk
        self._state = state
        self._before = before
        self.log = log
        log.totals_at_start = before

    @property
    def path(self) -> Path:
        """The run log's file."""
        return self._state / "runs" / f"run_{self.log.run_id}.json"

    def open(self) -> None:
        """Write the run log as ``running``. If we die after this, the next start closes it as ``failed``."""
        _put(self._disk, self._state, self.path, self.log)

    def trace(self, ledger: Ledger) -> None:
        """Note that the run's lineage is told up to here; `open` or `close` writes it."""
        lengths = {name: ledger.mark(name).length for name in PROJECTIONS}
        self.log.traced = Traced(ledger.global_offset, ledger.totals, lengths)

    def close(self, ledger: Ledger, ended_at: str, policy: Policy | None, error: str | None) -> list[Document]:
        """Write the run log as ``success`` or ``failed``, and the validation report; return what they are now.

        If we die after this, before ``run.ended`` names them, the next start closes the run as ``failed``.
        """
        log = self.log
        log.status = "failed" if error else "success"
        log.ended_at = ended_at
        log.error = error
        log.final_offset = ledger.global_offset
        _count(log, ledger.totals, self._before)
        report = validation_report(log, ledger, self._before, policy)
        return [
            _put(self._disk, self._state, self.path, log),
            _put(self._disk, self._state, self._state / "reports" / "validation_report.json", report),
        ]


def validation_report(log: RunLog, ledger: Ledger, before: Counts, policy: Policy | None) -> dict[str, Any]:
    """Return the report of the run so far. Failure counts are of this run; `totals` and `insufficient` are since the
    state began.
    """  # noqa: D205 - one paragraph
    t, b = ledger.totals, before
    return {
        "run_id": log.run_id,
        "status": log.status,
        "contract": {"name": log.contract, "version": log.contract_version},
        "ruleset": log.ruleset,
        "policies": msgspec.to_builtins(policy) if policy is not None else None,
        "counts": {
            "events_read": t.events_read - b.events_read,
            "events_valid": t.evaluated - b.evaluated,
            "events_rejected": t.rejected - b.rejected,
            "json_parse_failures": t.json + t.framing - b.json - b.framing,
            "contract_failures": t.contract - b.contract,
            "duplicate_failures": t.duplicate - b.duplicate,
            "ordering_failures": t.order - b.order,
            "admitted_late_events": t.admitted - b.admitted,
            "operator_skips": t.operator - b.operator,
            "flags_emitted": t.flags - b.flags,
            "flags_suppressed": t.suppressed - b.suppressed,
            "flags_shadowed": t.shadow_flags - b.shadow_flags,
        },
        "reconciled": t.events_read == t.evaluated + t.rejected,
        "totals": msgspec.to_builtins(t),
        "insufficient": ledger.insufficient,
        "checkpoint": {"offset": ledger.global_offset, "audit_index": ledger.index, "audit_head": ledger.head},
        "last_event_time": ledger.commit.last_event_time if ledger.commit is not None else None,
        "halt": msgspec.to_builtins(ledger.halt) if ledger.halt is not None else None,
        "error": log.error,
    }


def _count(log: RunLog, totals: Counts, before: Counts) -> None:
    log.events_read = totals.events_read - before.events_read
    log.events_valid = totals.evaluated - before.evaluated
    log.flags_emitted = totals.flags - before.flags
    log.flags_suppressed = totals.suppressed - before.suppressed
    log.flags_shadowed = totals.shadow_flags - before.shadow_flags
    log.events_rejected = totals.rejected - before.rejected


def close_crashed_runs(
    disk: Disk, state: Path, closed_at: str, ledger: Ledger, last_commit: EntryHead | None
) -> tuple[list[str], list[Document]]:
    """Close every run log of a run that never ended as ``failed``; return their run ids, and what the logs are now.

    These say ``running``, or are of the run that the audit log does not see ended: it died after its own last word in
    the run log. `ledger` is what was recovered, `last_commit` the head of its last batch.committed where that was read:
    they give the figures of the newest of these runs. Of one before it, which nobody closed, nothing is known.
    """
    crashed: list[tuple[Path, RunLog]] = []
    for path in sorted((state / "runs").glob("run_*.json")):
        log = _read(path)
        if log is None:
            continue  # not ours, or torn by hand; a record for people is no reason to refuse
        if log.status != "running" and log.run_id != ledger.open_run:
            continue
        log.status, log.closed_at = "failed", closed_at
        log.error = "the process ended without closing the run (crash, kill or power loss)"
        crashed.append((path, log))
    # as many as one entry has room for: the others are closed by the next starts
    crashed = sorted(crashed, key=lambda each: each[1].started_at)[-MOST_AT_ONCE:]
    if crashed:
        _tell_what_was_committed(max((log for _, log in crashed), key=lambda log: log.started_at), ledger, last_commit)
    documents: list[Document] = []
    for path, log in crashed:
        try:
            documents.append(_put(disk, state, path, log))
        except DurabilityError as error:
            raise type(error)(f"{path}: {error.message}", hint=error.hint) from error
    return [log.run_id for _, log in crashed], documents


def read_run_log(state: Path, run_id: str) -> RunLog | None:
    """Return the log of a run, None where it is not there or cannot be read."""
    return _read(state / "runs" / f"run_{run_id}.json")


def _read(path: Path) -> RunLog | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunLog)
    except (FileNotFoundError, *UNREADABLE):
        return None


def _tell_what_was_committed(log: RunLog, ledger: Ledger, last_commit: EntryHead | None) -> None:
    before, last = log.totals_at_start, ledger.commit
    if before is None:  # written by a version that did not keep them
        return
    if last is not None and last.cause == "skip" and last.totals.events_read > before.events_read:
        last = ledger.previous  # the operator's decision came behind the crash, it is no work of that run
    log.final_offset = last.offset if last is not None else log.resume_offset
    _count(log, last.totals if last is not None else before, before)
    if last_commit is not None and last_commit.run_id == log.run_id:
        log.ended_at = last_commit.timestamp


def _put(disk: Disk, state: Path, path: Path, value: object) -> Document:
    """Write a document for people to read, all or nothing, and return what the audit log is to say of it."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    disk.replace_file(path, data)
    return Document(path.relative_to(state).as_posix(), hashlib.sha256(data).hexdigest(), len(data))
