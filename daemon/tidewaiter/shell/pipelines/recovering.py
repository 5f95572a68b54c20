"""A run that died: recorded as failed, with what became of its output, and its temporary files removed.

Owns: what the next run with the same audit log does about it. Leaves to `trail` finding it, and to `running` when.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidewaiter.core.errors import TidewaiterError
from tidewaiter.edges.tables.output import Replacement
from tidewaiter.edges.tables.spill import remove_leftovers
from tidewaiter.shell.pipelines.config import STANDARD
from tidewaiter.shell.pipelines.facts import FAILED, Governing, RunFacts, TableFacts
from tidewaiter.shell.pipelines.trail import Trail, Unfinished, unfinished

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.audit_logger import AuditLogger
    from tidewaiter.shell.pipelines.facts import Recorder


def recover(logger: AuditLogger, recorders: Sequence[Recorder], disk: Disk) -> str | None:
    """End the run that died while it wrote to this audit log, if there is one, and return what is to be told of it.

    If we die in here, the next run finds the same and does it again.
    """
    dead = unfinished(logger.path)
    if dead is None:
        return None
    found = _output_of(dead)
    _remove_temporary(dead, disk)
    what = "its output is in place" if found is not None else "its output is not in place; what was there before is"
    if dead.started.details.get("mode") == "stream":
        what = "its output is as far as its last commit"
    text = f"run {dead.run_id} of {dead.started.timestamp:%Y-%m-%dT%H:%M:%SZ} did not end: it died; {what}"
    facts = _facts(dead, found, text)
    trail = Trail(logger, dead.run_id)
    for recorder in recorders:
        if (note := recorder.ended(facts)) is not None:
            trail.noted(recorder.name, note)
    trail.failed(facts)
    return text


def _output_of(dead: Unfinished) -> TableFacts | None:
    """Return the output of a run that died, if the file under its name is what the run was about to put there."""
    written = dead.written
    if written is None or written.resource in (None, STANDARD):
        return None
    path = Path(str(written.resource))
    with contextlib.suppress(OSError), path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == written.output_hash:
            return TableFacts(str(path), str(written.output_hash), written.record_count or 0, path.stat().st_size)
    return None


def _remove_temporary(dead: Unfinished, disk: Disk) -> None:
    """Remove what a run that died left behind; what another run holds by now is left alone."""
    details = dead.started.details
    for name in details.get("temporary") or ():
        path = Path(str(name))
        # beginning anew and giving up takes the lock, and removes only what nobody else is writing
        with contextlib.suppress(TidewaiterError):
            if path.with_name(f".{path.name}.tmp").exists():
                Replacement(path, disk).abandon()
    if details.get("spill"):
        remove_leftovers(Path(str(details["spill"])))


def _facts(dead: Unfinished, output: TableFacts | None, text: str) -> RunFacts:
    details = dead.started.details
    return RunFacts(
        run_id=dead.run_id,
        status=FAILED,
        started_at=f"{dead.started.timestamp:%Y-%m-%dT%H:%M:%S.%fZ}",
        error=text,
        mode=str(details.get("mode", "batch")),
        actor=dead.started.actor,
        inputs=tuple(TableFacts(str(each)) for each in _texts(details.get("inputs"))),
        output=output,
        contract=_governing(details.get("contract")),
        pipeline=_governing(details.get("pipeline")),
        config_sha256=str(details.get("config", "")),
    )


def _texts(value: Any) -> list[str]:  # noqa: ANN401 - read back from JSON
    return [str(each) for each in value] if isinstance(value, list) else []


def _governing(value: Any) -> Governing | None:  # noqa: ANN401 - read back from JSON
    if not isinstance(value, dict) or "label" not in value:
        return None
    return Governing(str(value["label"]), str(value.get("sha256", "")), str(value.get("file", "")))
