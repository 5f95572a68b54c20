"""The audit log of a pipeline: what each step did, durable when the call returns, chained as the daemon's own log is.

Owns: what a pipeline logs and how it is checked, who did it, how long it took, and one thread at a time. Leaves to
`edges.audit_file` the file, to `shell.audit_entries` reading it back, to `core.audit` the line.

    audit = AuditLogger("logs/audit.jsonl")
    with audit.step("pipeline-123", "read", "read_csv", resource="input.csv") as step:
        step.record_count = 1000

Each method that logs takes the pipeline's id, the stage, the action and the members of `Members` by name, and returns
the entry. It raises TypeError and ValueError for what cannot be written (nothing is written then), ConfigError in a
forked process, IntegrityRefusal where somebody else wrote to the file, and DurabilityError where the disk refuses.
"""

from __future__ import annotations

import contextlib
import math
import operator
import secrets
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict

from tidewaiter.core import audit
from tidewaiter.core.audit import EntryContext
from tidewaiter.edges.audit_file import AuditFile
from tidewaiter.edges.durable import Disk
from tidewaiter.shell.audit_entries import (
    COMPLETED,
    FAILED,
    STARTED,
    AuditEntry,
    AuditReader,
    StepMembers,
    decode_entry,
)
from tidewaiter.shell.json_values import plain, text
from tidewaiter.shell.log_names import generated_origin, utc_now
from tidewaiter.shell.os_user import os_user

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Unpack

    from tidewaiter.edges.audit_file import End

_RESERVED: Final = frozenset(
    {
        *audit.PROJECTIONS.values(), audit.BATCH_COMMITTED, audit.DECISION_RECORDED, audit.STREAM_HALTED,
        audit.SEGMENT_CLOSED, audit.PROJECTION_SEALED, audit.RUN_STARTED, audit.RUN_ENDED, audit.KEY_RECORDED,
        audit.SNAPSHOT_RECORDED, audit.LINEAGE_EMITTED,
    }
)  # fmt: skip
"""Actions that mean something to the daemon and to `verify`; so do all that begin with ``audit.``."""
_ERROR_CHARACTERS: Final = 4096


class Members(TypedDict, total=False):
    """What may be said about a step; `duration_ms` is measured unless it is given."""

    resource: str | None
    record_count: int | None
    input_hash: str | None
    output_hash: str | None
    duration_ms: float | None
    details: Mapping[str, object] | None


class Step:
    """What a step will have to say when it ends; set what becomes known on the way."""

    def __init__(self, members: Members) -> None:
        """Begin with what was known at its start."""
        self.resource = members.get("resource")
        self.record_count = members.get("record_count")
        self.input_hash = members.get("input_hash")
        self.output_hash = members.get("output_hash")
        self.details: dict[str, object] = dict(members.get("details") or {})

    def members(self) -> Members:
        """Return it all."""
        return {
            "resource": self.resource,
            "record_count": self.record_count,
            "input_hash": self.input_hash,
            "output_hash": self.output_hash,
            "details": self.details,
        }


class AuditLogger(AuditReader):
    """Writes one audit file and reads it; a context manager. For all threads of one process, but no signal handler.

    `origin` is the log's name, fixed by its first entry.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        actor: str | None = None,
        origin: str | None = None,
        durable: bool = True,
        disk: Disk | None = None,
    ) -> None:
        """Open the file or make it, with its directory; check its chain from the first entry, and lock it.

        `actor` is who is responsible, by default the account of the operating system. `origin` names a new log; an old
        one must have this name. `durable`: each call returns only when its entry is on the disk; without, what a power
        failure takes away is not known, and `close` makes durable what was logged. `disk` is replaced in tests only.
        Raises ConfigError (another writer, no permission, no audit log), IntegrityRefusal, DurabilityError.
        """
        super().__init__(path)
        self._actor = os_user() if actor is None else _filled(actor, "actor")
        self._thread = threading.Lock()
        self._begun: dict[tuple[str, str, str], float] = {}
        self._file = AuditFile(self.path, disk or Disk(), durable=durable)
        wanted = None if origin is None else _filled(origin, "origin")
        own_run = f"logger-{secrets.token_hex(6)}"
        self._file.open(lambda: self._context(own_run), lambda: wanted or generated_origin(self.path.stem))
        if wanted not in (None, self.origin):
            self._file.release()
            raise ValueError(f"{self.path}: the log is called {self.origin}, not {wanted}: leave `origin` out")

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._file.origin

    # -- logging -------------------------------------------------------------------------------------------------

    def log_start(self, run_id: str, stage: str, action: str, **members: Unpack[Members]) -> AuditEntry:
        """Log that a step begins."""
        return self._log(run_id, stage, action, STARTED, members)

    def log_complete(self, run_id: str, stage: str, action: str, **members: Unpack[Members]) -> AuditEntry:
        """Log that a step has done its work; `duration_ms` is since `log_start` of the same run, stage and action."""
        return self._log(run_id, stage, action, COMPLETED, members)

    def log_failed(
        self,
        run_id: str,
        stage: str,
        action: str,
        *,
        error: BaseException | str | None = None,
        **members: Unpack[Members],
    ) -> AuditEntry:
        """Log, at level error, that a step failed; `error` becomes `error` and `error_type` of the details.

        Of a long text the first 4,096 characters are kept. Mind what it tells: messages may quote data.
        """
        if error is not None:
            members["details"] = {**(members.get("details") or {}), **_described(error)}
        return self._log(run_id, stage, action, FAILED, members)

    @contextlib.contextmanager
    def step(self, run_id: str, stage: str, action: str, **members: Unpack[Members]) -> Iterator[Step]:
        """Log the start of a step, and at the end of the block that it completed, or failed, with what `Step` holds.

        What the block raises goes on.
        """
        step = Step(members)
        self.log_start(run_id, stage, action, **members)
        try:
            yield step
        except BaseException as error:
            self.log_failed(run_id, stage, action, error=error, **step.members())
            raise
        self.log_complete(run_id, stage, action, **step.members())

    def close(self) -> None:
        """Let the file go; what was logged is durable then in any case. Reading stays possible."""
        if self._file.is_open:
            with self._thread:
                self._file.close()
        self._file.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.release()

    def _log(self, run_id: str, stage: str, action: str, status: str, members: Members) -> AuditEntry:
        now = time.monotonic()
        key = _filled(run_id, "run_id"), _filled(stage, "stage"), _filled(action, "action")
        if action in _RESERVED or action.startswith("audit."):
            raise ValueError(f'action: "{action}" is an action of the daemon: choose another name')
        said = _checked(members)
        self._file.refuse_other_process()  # before the lock, whose copy here may be held for ever
        with self._thread:
            if status != STARTED and said["duration_ms"] is None and key in self._begun:
                said["duration_ms"] = round((now - self._begun[key]) * 1000, 3)
            stored = StepMembers(f"{key[0]}-{self._file.end.index}", key[1], status, **said)
            line = self._file.append(self._context(key[0], failed=status == FAILED), key[2], stored)
            if status == STARTED:
                self._begun[key] = time.monotonic()
            else:
                self._begun.pop(key, None)
        return decode_entry(line)

    def _context(self, run_id: str, *, failed: bool = False) -> EntryContext:
        return EntryContext(utc_now(), run_id, self._actor, "error" if failed else "info")

    def _end(self) -> End | None:
        if not self._file.is_open:
            return None
        with self._thread:
            return self._file.end


# -- what may be written -----------------------------------------------------------------------------------------------


def _checked(members: Members) -> dict[str, Any]:
    """Return the members as they will be stored. Raises TypeError and ValueError."""
    unknown = members.keys() - Members.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(Members.__annotations__)}")
    said: dict[str, Any] = {
        name: None if (value := members.get(name)) is None else text(value, name)
        for name in ("resource", "input_hash", "output_hash")
    }
    said["record_count"] = _count(members.get("record_count"))
    said["duration_ms"] = _milliseconds(members.get("duration_ms"))
    details = members.get("details")
    if not isinstance(details, Mapping | None):
        raise TypeError(f"details: must be a dict, not {type(details).__name__}")
    said["details"] = plain(details or {}, "details")
    return said


def _count(value: object) -> int | None:
    """Return a count; what another library calls an integer is one."""
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"record_count: must be an int, not {type(value).__name__}")
    count = operator.index(value)
    if count < 0:
        raise ValueError(f"record_count: {count} is negative")
    return count


def _milliseconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"duration_ms: must be a number of milliseconds, not {type(value).__name__}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"duration_ms: {value} is no length of time")
    return float(value)


def _filled(value: object, name: str) -> str:
    if not text(value, name):
        raise ValueError(f"{name}: is empty")
    return text(value, name)


def _described(error: BaseException | str) -> dict[str, str]:
    message = str(error).encode("utf-8", "backslashreplace").decode()
    if len(message) > _ERROR_CHARACTERS:
        message = f"{message[:_ERROR_CHARACTERS]}… ({len(message):,} characters)"
    return {"error": message} if isinstance(error, str) else {"error": message, "error_type": type(error).__name__}
