"""An OpenLineage run event as one line of JSON.

Owns: the form of an event, its bytes (one line, sorted keys: the same event is the same bytes) and the id of a run.
Leaves to `facets` the facets, and to `shell.openlineage_stream` and `shell.openlineage_batch` when there is an event
and what it says.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.openlineage.datasets import Dataset
from tidewaiter.core.openlineage.facets import AUDIT, Facets

SCHEMA_URL: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
"""The newest version of the specification that is published."""
START: Final = "START"
RUNNING: Final = "RUNNING"
COMPLETE: Final = "COMPLETE"
FAIL: Final = "FAIL"
TERMINAL: Final = frozenset({COMPLETE, FAIL})
_MILLISECONDS: Final = 48


class Job(Struct, frozen=True):
    """What runs: its name in a namespace, and whether it follows a stream or ends by itself."""

    namespace: str
    name: str
    streaming: bool


class AuditLog(Struct, frozen=True):
    """The end of the audit log: its name, how many entries it has, and the digest (hex) of the last one."""

    name: str
    entries: int
    head: str


class RunEvent(Struct, frozen=True, kw_only=True):
    """A transition of a run, or that it goes on. `run` is its UUID, `run_id` what the audit log calls it.

    `time` is RFC 3339, UTC. `error` says why it failed, without quoting data.
    """

    type: str
    time: str
    run: str
    run_id: str
    job: Job
    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()
    error: str | None = None
    nominal: tuple[str, str | None] | None = None
    audit: AuditLog | None = None


_encoder: Final = msgspec.json.Encoder(order="sorted")


def encode(event: RunEvent, version: str) -> bytes:
    """Return the event as a line, newline included; `version` is tidewaiter's."""
    facets = Facets(version)
    run: dict[str, Any] = {"processing_engine": facets.processing_engine()}
    if event.error is not None:
        run["errorMessage"] = facets.error(event.error)
    if event.nominal is not None:
        run["nominalTime"] = facets.nominal_time(*event.nominal)
    if event.audit is not None:
        run["tidewaiter_auditLog"] = facets.custom(
            AUDIT, runId=event.run_id, log=event.audit.name, entries=event.audit.entries, head=event.audit.head
        )
    job = event.job
    said = {
        "eventType": event.type,
        "eventTime": event.time,
        "producer": facets.producer,
        "schemaURL": SCHEMA_URL,
        "run": {"runId": event.run, "facets": run},
        "job": {
            "namespace": job.namespace,
            "name": job.name,
            "facets": {"jobType": facets.job_type(streaming=job.streaming)},
        },
        "inputs": [_dataset(facets, each, "inputFacets", facets.input(each)) for each in event.inputs],
        "outputs": [_dataset(facets, each, "outputFacets", facets.output(each)) for each in event.outputs],
    }
    return _encoder.encode(said) + b"\n"


def _dataset(facets: Facets, data: Dataset, key: str, own: dict[str, Any]) -> dict[str, Any]:
    return {"namespace": data.namespace, "name": data.name, "facets": facets.dataset(data), key: own}


def run_uuid(milliseconds: int, *names: str) -> str:
    """Return a UUID of version 7 for a run that began at `milliseconds` since 1970, always the same for these `names`.

    The time comes first, so that runs sort by their beginning; the random part is taken from a hash of the names.
    """
    time = milliseconds & ((1 << _MILLISECONDS) - 1)
    noise = int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:10], "big")
    number = (time << 80) | noise
    number = number & ~(0xF << 76) | (0x7 << 76)  # version
    number = number & ~(0x3 << 62) | (0x2 << 62)  # variant
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
