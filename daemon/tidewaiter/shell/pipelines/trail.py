"""The audit trail of a run: which entries it makes, in which order, and what is left of a run that never ended.

Owns: the entries ``pipeline run`` (started, completed, failed), ``read``, ``validate``, ``transform``, ``write`` and
those of the recorders, and finding the run before that died. Leaves to `shell.audit_logger` the log, and to `running`
when each entry is due.

    pipeline/run started      what governs: digests, versions, paths
    read/read completed       one for each input file: its hash and its records
    validate/validate         counts; hash before (the input) and after
    transform/KIND            one for each step, `resource` is its name: counts, hash before and after
    write/write               the output's hash, before it gets its name
    lineage, openlineage      what a recorder wrote, after the output got its name
    pipeline/run completed    or failed, with the reason

Invariant: one run writes to an audit file at a time (its lock), so a run without an end in it is the newest there, and
is dead.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.shell.audit_entries import COMPLETED, STARTED, AuditEntry, decode_entry
from tidewaiter.shell.pipelines.facts import AuditPosition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.shell.audit_logger import AuditLogger
    from tidewaiter.shell.pipelines.facts import Governing, Note, RunFacts, StepFacts, TableFacts

RUN: Final = "pipeline"
_RUN_ACTION: Final = "run"
WRITE: Final = "write"
_BLOCK: Final = 1 << 18


class Trail:
    """The entries of one run; without a logger nothing is logged."""

    def __init__(self, logger: AuditLogger | None, run_id: str) -> None:
        self.logger = logger
        self._run_id = run_id
        self._newest: AuditEntry | None = None

    def started(self, facts: RunFacts, details: dict[str, Any]) -> None:
        """Log what governs the run; `details` is what else the next start needs to know if this run dies."""
        said: dict[str, Any] = {
            "mode": facts.mode,
            "config": facts.config_sha256,
            "versions": dict(facts.versions),
            "pipeline": _governing(facts.pipeline),
            "contract": _governing(facts.contract),
            "inputs": [each.path for each in facts.inputs],
            "output": None if facts.output is None else facts.output.path,
            **details,
        }
        self._log("started", RUN, _RUN_ACTION, details=_fitting(said))

    def read(self, file: TableFacts) -> None:
        """Log a file that was read to its end."""
        self._log(
            "complete", "read", "read", resource=file.path, record_count=file.records, output_hash=file.sha256,
            details={"bytes": file.bytes, "format": file.format},
        )  # fmt: skip

    def step(self, step: StepFacts) -> None:
        """Log the validation or a transform that has seen all rows."""
        stage = step.kind if step.kind == "validate" else "transform"
        said: dict[str, Any] = {"records_in": step.records_in, "removed": step.removed, "rejected": step.rejected}
        if step.says:
            said["step"] = step.says
        if step.files:
            said["files"] = {each.path: each.sha256 for each in step.files}
        self._log(
            "complete", stage, step.kind, resource=step.name, record_count=step.records_out,
            input_hash=step.hash_before or None, output_hash=step.hash_after or None,
            details=_fitting(said),
        )  # fmt: skip

    def written(
        self, output: TableFacts, rows_sha256: str, rejected: TableFacts | None, stale: TableFacts | None = None
    ) -> None:
        """Log what is about to get its name; `stale` is the file of an older run's rejected records, to be removed."""
        details: dict[str, Any] = {"bytes": output.bytes, "format": output.format}
        if rejected is not None:
            details["rejected"] = {"file": rejected.path, "sha256": rejected.sha256, "records": rejected.records}
        if stale is not None:
            details["removes"] = {"file": stale.path, "sha256": stale.sha256}
        self._log(
            "complete", WRITE, WRITE, resource=output.path, record_count=output.records,
            input_hash=rows_sha256 or None, output_hash=output.sha256, details=details,
        )  # fmt: skip

    def noted(self, name: str, note: Note) -> None:
        """Log what a recorder wrote."""
        details = {**note.details, "warning": note.warning} if note.warning else note.details
        self._log("complete", name, name, resource=note.resource, output_hash=note.sha256, details=details)

    def not_noted(self, name: str, error: BaseException) -> None:
        """Log that a recorder could not write."""
        if self.logger is not None:
            self._newest = self.logger.log_failed(self._run_id, name, name, error=error)

    def completed(self, facts: RunFacts, input_hash: str) -> None:
        """Log that the output is in place."""
        output = facts.output
        self._log(
            "complete", RUN, _RUN_ACTION, record_count=facts.output_records, input_hash=input_hash,
            output_hash=None if output is None else output.sha256, details=_counts(facts),
        )  # fmt: skip

    def failed(self, facts: RunFacts, error: BaseException | None = None) -> None:
        """Log that the run failed, and why: in the words of `facts`, with the type of `error`."""
        if self.logger is not None:
            kind = {} if error is None else {"error_type": type(error).__name__}
            self._newest = self.logger.log_failed(
                self._run_id, RUN, _RUN_ACTION, error=facts.error, details={**_counts(facts), **kind}
            )

    def position(self) -> AuditPosition | None:
        """Return the newest entry of this run."""
        if self.logger is None or self._newest is None:
            return None
        last = next(lines_backwards(self.logger.path))
        return AuditPosition(str(self.logger.path), self._newest.index, hashlib.sha256(last).hexdigest())

    def _log(self, how: str, stage: str, action: str, **members: Any) -> None:  # noqa: ANN401 - of AuditLogger
        if self.logger is not None:
            log = self.logger.log_start if how == "started" else self.logger.log_complete
            self._newest = log(self._run_id, stage, action, **members)


class Unfinished(Struct, frozen=True):
    """A run that died: its ``started`` entry, and its ``write`` entry where it came that far."""

    run_id: str
    started: AuditEntry
    written: AuditEntry | None


def unfinished(path: Path) -> Unfinished | None:
    """Return the run without an end in the audit file `path`, None where every run has one. The lock must be held."""
    written: AuditEntry | None = None
    for line in lines_backwards(path):
        entry = decode_entry(line)
        if entry.stage == WRITE and entry.status == COMPLETED:
            written = written or entry
        if entry.stage != RUN or entry.action != _RUN_ACTION:
            continue
        if entry.status != STARTED:
            return None
        own = written is not None and written.run_id == entry.run_id
        return Unfinished(entry.run_id, entry, written if own else None)
    return None


def lines_backwards(path: Path) -> Iterator[bytes]:
    """Yield the lines of an audit file, newline included, from the last one back."""
    with path.open("rb") as file:
        at = file.seek(0, 2)
        rest = b""
        while at > 0:
            begin = max(0, at - _BLOCK)
            file.seek(begin)
            first, *lines = (file.read(at - begin) + rest).splitlines(keepends=True)
            rest, at = first, begin
            yield from reversed(lines)
        if rest:
            yield rest


def _governing(governing: Governing | None) -> dict[str, str] | None:
    if governing is None:
        return None
    said = {"label": governing.label, "sha256": governing.sha256, "file": governing.file}
    # what is in no file can be looked at nowhere else
    return said if governing.file else {**said, "text": governing.text}


def _counts(facts: RunFacts) -> dict[str, Any]:
    return {
        "input_records": facts.input_records,
        "removed_records": facts.removed_records,
        "rejected_records": facts.rejected_records,
    }


_MOST: Final = 32_768
"""Bytes of details from which on long lists are replaced by their hash; an entry holds 65,535."""


def _fitting(details: dict[str, Any]) -> dict[str, Any]:
    """Return the details with lists, tables and texts that an entry has no room for replaced by number and hash."""
    if len(msgspec.json.encode(details)) <= _MOST:
        return details
    return {name: _short(value) for name, value in details.items()}


def _short(value: object) -> object:
    text = msgspec.json.encode(value)
    if not isinstance(value, list | dict | str) or len(text) <= _MOST // 16:
        return value
    return {"length": len(value), "sha256": hashlib.sha256(text).hexdigest()}
