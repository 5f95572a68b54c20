"""What a run did, as one value: for the lineage, for OpenLineage, and for whoever else keeps a record of runs.

Owns: `RunFacts` and the protocol of a recorder. Leaves to `running` gathering the facts, and to each recorder where
they go.

Every value is text, numbers and tuples; hashes are SHA-256 in hex; times are UTC, ``2026-01-31T10:00:00.000000Z``.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from msgspec import Struct

RUNNING: Final = "running"
COMPLETE: Final = "complete"
FAILED: Final = "failed"


class TableFacts(Struct, frozen=True):
    """A file: where it is, the hash and length of its bytes, its records, and its columns with their types.

    `columns` of an input are those of the contract it was read under. Nothing but `path` is known before it was read
    or written to its end.
    """

    path: str
    sha256: str = ""
    records: int = 0
    bytes: int = 0
    format: str = ""
    columns: tuple[tuple[str, str], ...] = ()


class Governing(Struct, frozen=True):
    """A text that governed the run, the contract or the pipeline file: ``name/version``, its digest, where it lies.

    `file` is empty for an inferred contract and for a pipeline composed in Python.
    """

    label: str
    sha256: str
    file: str = ""
    text: str = ""


class StepFacts(Struct, frozen=True):
    """One step: `number` from 0; `kind` is ``validate`` or the key of the step in the pipeline file.

    `records_in` is `records_out` + `removed` + `rejected`; of a failed run they are the counts so far. The hashes are
    those of the rows before and after (`edges.tables.digest`), of the file before ``validate``; empty where hashing is
    off. `says` is the declaration as JSON text; `files` are the reference files that a join reads.
    """

    number: int
    name: str
    kind: str
    records_in: int = 0
    records_out: int = 0
    removed: int = 0
    rejected: int = 0
    hash_before: str = ""
    hash_after: str = ""
    says: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    files: tuple[TableFacts, ...] = ()


class AuditPosition(Struct, frozen=True):
    """The audit file, the newest entry of this run so far, and that entry's own SHA-256 (the chain head)."""

    path: str
    index: int
    head: str


class RunFacts(Struct, frozen=True):
    """All there is to tell about a run; `run_id` is a UUID.

    `status` is RUNNING at the start (hashes and counts are still empty then), COMPLETE or FAILED at the end; `output`
    is None where none came to be. A run that died is told by the next start: `inputs` and `output` then have what its
    audit entries said.
    """

    run_id: str
    status: str
    started_at: str
    ended_at: str = ""
    error: str = ""
    mode: str = "batch"
    actor: str = ""
    inputs: tuple[TableFacts, ...] = ()
    output: TableFacts | None = None
    rejected: TableFacts | None = None
    steps: tuple[StepFacts, ...] = ()
    contract: Governing | None = None
    pipeline: Governing | None = None
    config_sha256: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    input_records: int = 0
    output_records: int = 0
    removed_records: int = 0
    rejected_records: int = 0
    audit: AuditPosition | None = None


class Note(Struct, frozen=True):
    """What a recorder wants in the audit log: the file it wrote to, and the hash of what it wrote.

    `warning` is what a person has to know beside that; empty as a rule.
    """

    resource: str
    sha256: str
    details: dict[str, Any] = {}
    warning: str = ""


class Recorder(Protocol):
    """Somebody who keeps a record of runs.

    What `check` and `started` raise, a TidewaiterError, stops the run before it has done anything; what `ended` raises
    is a warning, since the output is in place by then. `name` is the recorder's action in the audit log, where each
    Note becomes one entry; `what` is what it records, for messages.
    """

    name: str
    what: str

    def check(self) -> None:
        """Raise ConfigError or IntegrityRefusal where a record could not be kept; nothing is written."""

    def started(self, facts: RunFacts) -> Note | None:
        """Take note of a run that begins; nothing has been read yet."""

    def ended(self, facts: RunFacts) -> Note | None:
        """Take note of a run that ended; a complete one has its output in place by now."""
