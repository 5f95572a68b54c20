"""The OpenLineage events of a pipeline's run: START, then COMPLETE or FAIL, and their way to a server.

Owns: what an event of a run says, and when the file is shipped. Leaves to `core.openlineage` the form, to
`edges.openlineage_file` the file, to `shell.openlineage_shipping` the server, and to `shell.pipelines.running` when a
run begins and ends, the audit entry that bears the digest of each line, and what becomes of a run that died.

The file is written first, the entry second: a line whose entry is missing belongs to a run that died in between, and
the next run with the same audit log tells that it failed. Shipping is tried once, at the end of the run, for a few
seconds; what is left goes out with the next run, and the note says how much that is. It never makes a run fail.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

import tidewaiter
from tidewaiter.core.errors import TidewaiterError
from tidewaiter.core.openlineage.column_lineage import follow
from tidewaiter.core.openlineage.datasets import FILE, Assertion, Column, ColumnLineage, Dataset, Digest
from tidewaiter.core.openlineage.events import COMPLETE, FAIL, START, AuditLog, Job, RunEvent, encode
from tidewaiter.edges.openlineage_file import append_event, check_events, read_plain
from tidewaiter.edges.openlineage_outbox import Outbox
from tidewaiter.shell.log_names import utc_now
from tidewaiter.shell.openlineage_settings import OpenLineagePart, client_of
from tidewaiter.shell.openlineage_shipping import Shipping
from tidewaiter.shell.pipelines.facts import FAILED, Note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.pipelines.facts import RunFacts, TableFacts

LAST_SECONDS: Final = 5.0
"""How long the end of a run may take for shipping."""
MOST_TRACED: Final = 16
"""Of so many inputs at most the columns are followed: each column of the output names each of them."""
_STANDARD: Final = "-"
_NAMESPACE: Final = "stdio"
_VALIDATE: Final = "validate"


class OpenLineageRecorder:
    """Writes the events of runs to one file, and ships them where `part` names a server."""

    name = "openlineage"
    what = "the OpenLineage event"

    def __init__(self, path: Path, disk: Disk, part: OpenLineagePart | None = None) -> None:
        """Raises ConfigError for a server or key of no use; nothing is written yet."""
        self._path = path
        self._disk = disk
        self._part = part or OpenLineagePart()
        self._client = client_of(self._part)
        url = urlsplit(self._part.url or "")
        self._server = f"{url.scheme}://{url.netloc}"

    def check(self) -> None:
        """Raise ConfigError where events could not be appended to the file; nothing is written."""
        check_events(self._path)

    def started(self, facts: RunFacts) -> Note:
        """Tell that a run begins. Raises DurabilityError."""
        return self._emit(START, facts, facts.started_at)

    def ended(self, facts: RunFacts) -> Note:
        """Tell how a run ended, and ship what is there. Raises DurabilityError."""
        kind = FAIL if facts.status == FAILED else COMPLETE
        note = self._emit(kind, facts, facts.ended_at or utc_now())
        warning = self._ship()
        return msgspec.structs.replace(note, warning=warning) if warning else note

    def _emit(self, kind: str, facts: RunFacts, time: str) -> Note:
        line = encode(batch_event(kind, facts, time, self._part.namespace), tidewaiter.__version__)
        first = append_event(self._disk, self._path, line)
        digest = hashlib.sha256(line).hexdigest()
        # If we die here, the line has no entry; the run has no end either, and the next one tells that it failed.
        return Note(str(self._path), digest, {"event": kind, "first": first, "length": len(line)})

    def _ship(self) -> str:
        """Send what the file holds, as far as there is time, and return in words what was left, if anything.

        Nothing that goes wrong here is the run's business.
        """
        if self._client is None:
            return ""
        cursor = self._path.with_name(f"{self._path.stem}.cursor.json")
        refused = self._path.with_name(f"{self._path.stem}.refused.jsonl")
        try:
            with _alone(cursor.with_suffix(".lock")) as alone:
                if not alone:  # another run is at it, and will find our events
                    return ""
                outbox = Outbox(self._disk, cursor, refused, lambda first, last: read_plain(self._path, first, last))
                shipping = Shipping(outbox, self._client, self._part.timeout)
                try:
                    end = self._path.stat().st_size
                    refused_before = outbox.cursor.refused
                    shipping.ship_last(end, LAST_SECONDS)
                finally:
                    shipping.close()
                return self._left(outbox.left(end), outbox.cursor.refused - refused_before, refused)
        except (TidewaiterError, OSError) as error:
            return f"events not delivered to {self._server}: {error}; kept in {self._path}, the next run sends them"

    def _left(self, left: int, set_aside: int, refused: Path) -> str:
        said = []
        if set_aside:
            said.append(f"{_events(set_aside)} refused by {self._server}; kept in {refused}")
        if left:
            said.append(
                f"{_events(left)} not delivered to {self._server}; kept in {self._path}, the next run sends them"
            )
        return "; ".join(said)


def _events(number: int) -> str:
    return f"{number:,} event{'s' * (number != 1)}"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold a lock for the block, and say whether it was to be had."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def batch_event(kind: str, facts: RunFacts, time: str, namespace: str) -> RunEvent:
    """Return the event `kind` of a run as a value; `time` is UTC."""
    position = facts.audit
    audit = None if position is None else AuditLog(_absolute(position.path), position.index + 1, position.head)
    error = None
    if kind == FAIL:  # the reason may quote a record; the audit log is where that belongs
        where = "" if audit is None else f": the audit log {audit.name} says why, from entry {audit.entries} on"
        error = f"the run failed{where}"
    return RunEvent(
        type=kind,
        time=_utc(time),
        run=facts.run_id,
        run_id=facts.run_id,
        job=Job(namespace, f"pipeline.{_name(facts)}", streaming=facts.mode == "stream"),
        inputs=_inputs(facts),
        outputs=_outputs(facts, kind),
        error=error,
        audit=audit,
    )


def _name(facts: RunFacts) -> str:
    if facts.pipeline is not None and facts.pipeline.label:
        return facts.pipeline.label.partition("/")[0]
    return Path(facts.output.path).stem if facts.output is not None and facts.output.path != _STANDARD else "unnamed"


def _utc(time: str) -> str:
    """Return a time as RFC 3339 with Z, whatever the facts say."""
    return dt.datetime.fromisoformat(time).astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _inputs(facts: RunFacts) -> tuple[Dataset, ...]:
    assertions = tuple(
        Assertion(f"{step.number}_{step.name}" if step.kind != _VALIDATE else "contract", step.rejected)
        for step in facts.steps
        if step.kind == _VALIDATE or step.rejected
    )
    several = len(facts.inputs) != 1
    inputs = [_table(each, read=True, assertions=() if several else assertions) for each in facts.inputs]
    lists = {each.path: each for step in facts.steps for each in step.files}
    return (*inputs, *(_table(each, read=True) for each in lists.values()))


def _outputs(facts: RunFacts, kind: str) -> tuple[Dataset, ...]:
    outputs = []
    if facts.output is not None:
        table = _table(facts.output, read=False)
        columns = facts.steps[-1].columns if facts.steps and not table.columns else ()
        lineage = _lineage(facts) if kind == COMPLETE else None
        outputs.append(msgspec.structs.replace(table, columns=table.columns or _columns(columns), lineage=lineage))
    if facts.rejected is not None:
        outputs.append(_table(facts.rejected, read=False))
    return tuple(outputs)


def _table(table: TableFacts, *, read: bool, assertions: tuple[Assertion, ...] = ()) -> Dataset:
    namespace, name = _place(table.path, "stdin" if read else "stdout")
    known = bool(table.sha256)
    return Dataset(
        name=name,
        namespace=namespace,
        columns=_columns(table.columns),
        version=table.sha256 or None,
        digest=Digest(table.sha256, length=table.bytes) if known else None,
        format=table.format or None,
        records=table.records if known else None,
        bytes=table.bytes if known else None,
        files=1 if known else None,
        quality=read and known,
        assertions=assertions,
    )


def _place(path: str, standard: str) -> tuple[str, str]:
    """Return namespace and name of a file."""
    return (_NAMESPACE, standard) if path == _STANDARD else (FILE, _absolute(path))


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - a symbolic link keeps its own name


def _columns(columns: tuple[tuple[str, str], ...]) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name, kind in columns)


def _lineage(facts: RunFacts) -> ColumnLineage | None:
    """Return where the output's columns come from, None where that is not known."""
    steps = facts.steps
    if not steps or steps[0].kind != _VALIDATE or not 0 < len(facts.inputs) <= MOST_TRACED:
        return None
    names = [_place(each.path, "stdin")[1] for each in facts.inputs]
    declared: list[tuple[str, dict[str, Any], str]] = []
    for step in steps[1:]:
        try:
            said = msgspec.json.decode(step.says)[step.kind]
        except (msgspec.MsgspecError, KeyError, TypeError):
            return None
        reference = _absolute(step.files[0].path) if step.files else ""
        declared.append((step.kind, said, reference))
    return follow(names, [name for name, _ in steps[0].columns], declared)
