"""A daemon's stream and what it makes of it, as OpenLineage datasets.

Owns: which datasets a stream's run has, and their columns. Leaves to `datasets` the values, to
`shell.openlineage_stream` when they are told, and to the audit log what they count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tidewaiter.core.audit import Counts
from tidewaiter.core.openlineage.datasets import (
    RUNNING_SHA256,
    Assertion,
    Column,
    ColumnLineage,
    Dataset,
    Digest,
    Origin,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.contract_fields import Field
    from tidewaiter.core.ledger import Ledger
    from tidewaiter.core.screening import Policy

FLAG_COLUMNS: Final = (
    Column("flag_id", "string"), Column("user_id", "string"), Column("rule_name", "string"),
    Column("metric_value", "number"), Column("threshold", "number"), Column("window", "integer"),
    Column("event_id", "string"), Column("event_time", "timestamp"), Column("ingest_time", "timestamp"),
    Column("scenario_version", "integer"), Column("severity", "string"), Column("typology", "string"),
    Column("parameters", "object"), Column("metrics", "object"), Column("offset", "integer"),
    Column("scenario_digest", "string"),
)  # fmt: skip
REJECTION_COLUMNS: Final = (
    Column("offset", "integer"), Column("length", "integer"), Column("sha256", "string"), Column("kind", "string"),
    Column("reason", "string"), Column("field", "string"), Column("event_id", "string"), Column("preview", "string"),
)  # fmt: skip
FLAG_FILES: Final = ("flags", "suppressed", "shadow_flags")
_CHECKS: Final = (
    ("framing", "invalid"), ("json", "invalid"), ("contract", "invalid"), ("duplicate", "duplicate"),
    ("order", "order"),
)  # fmt: skip


class Figures(Struct, frozen=True):
    """What a run did: bytes of the stream read, and the lines' counts. `kinds`: whether faults are counted by kind."""

    bytes: int
    counts: Counts
    kinds: bool = True


def contract_columns(contract: Contract) -> tuple[Column, ...]:
    """Return the fields of a contract as columns."""
    return tuple(Column(field.name, _kind(field)) for field in contract.fields)


def _kind(field: Field) -> str:
    return f"money({field.scale})" if field.kind == "money" else field.kind


def stream_input(path: str, offset: int, figures: Figures | None, policy: Policy, columns: Sequence[Column]) -> Dataset:
    """Return the stream, read up to the global `offset`; without `figures` nothing was read yet."""
    if figures is None:
        return Dataset(name=path, columns=tuple(columns), version=str(offset), format="jsonl")
    assertions = tuple(
        Assertion(name, getattr(figures.counts, name), getattr(policy, rule) == "halt") for name, rule in _CHECKS
    )
    return Dataset(
        name=path,
        columns=tuple(columns),
        version=str(offset),
        format="jsonl" if columns else None,
        records=figures.counts.events_read,
        bytes=figures.bytes,
        quality=True,
        assertions=assertions if figures.kinds else (),
    )


def stream_digest(ledger: Ledger) -> Digest | None:
    """Return the digest of the newest bytes that are committed; the audit log has one for each range before it."""
    commit = ledger.commit
    if commit is None:
        return None
    length = commit.position.offset - commit.first
    return Digest(commit.sha256, first=commit.offset - length, length=length)


def stream_outputs(
    state: str, ledger: Ledger, counts: Counts | None, stream: str, contract: Contract | None
) -> tuple[Dataset, ...]:
    """Return the files that a stream's flags and rejections go to, as far as they hold anything.

    `counts` are this run's, None before it did anything. Their columns are told with `contract`.
    """
    records = {} if counts is None else {
        "flags": counts.flags, "suppressed": counts.suppressed, "shadow_flags": counts.shadow_flags,
        "rejections": counts.rejected,
    }  # fmt: skip
    outputs = []
    for name in (*FLAG_FILES, "rejections"):
        mark = ledger.mark(name)
        if not mark.length and name in {"suppressed", "shadow_flags"}:
            continue  # most rulesets have no use for them
        is_flags = name in FLAG_FILES
        outputs.append(
            Dataset(
                name=f"{state}/{name}.jsonl",
                columns=() if contract is None else FLAG_COLUMNS if is_flags else REJECTION_COLUMNS,
                version=str(mark.length),
                digest=Digest(mark.sha256, RUNNING_SHA256, 0, mark.length) if mark.length else None,
                format=None if contract is None else "jsonl",
                records=records.get(name),
                lineage=flag_lineage(stream, contract) if contract is not None and is_flags else None,
            )
        )
    return tuple(outputs)


def flag_lineage(stream: str, contract: Contract) -> ColumnLineage:
    """Return which fields of an event a flag quotes; its metrics are made by the ruleset, from all it reads."""
    quoted = {
        "user_id": contract.subject_field,
        "event_id": contract.id_field,
        "event_time": contract.time_field,
        "ingest_time": contract.ingest_field,
    }
    return ColumnLineage(
        {name: (Origin(stream, field, "IDENTITY"),) for name, field in quoted.items() if field is not None}
    )
