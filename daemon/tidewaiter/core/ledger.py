"""What the audit log says so far: a fold over its entries, and the checkpoint that materialises it.

Owns: the meaning of each entry for the daemon's own state, and the rule which entries count after a crash: a
chain-valid batch up to and including its ``batch.committed``, or one chain-valid standalone entry. Leaves to
`edges.recovery` reading, cutting and rewriting files.

The journal applies entries through here when it writes them, recovery when it reads them: there is one way to arrive
at a state.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import (
    BatchCommitted,
    Counts,
    Decision,
    Decisions,
    Halt,
    KeyRecorded,
    LineageEmitted,
    ProjectionMark,
    ProjectionSealed,
    SegmentOpened,
)
from tidewaiter.core.key_decisions import KeyInForce, apply
from tidewaiter.core.position import ClosedSegment, Position
from tidewaiter.core.segment_findings import CLOSED_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHECKPOINT_FORMAT: Final = "tidewaiter-checkpoint/1"
_BATCH_RECORDS: Final = frozenset(audit.PROJECTIONS.values())
EMPTY_MARK: Final = ProjectionMark(length=0, sha256="", base=0)


class AuditMark(Struct, frozen=True):
    """An end of the audit log: its open segment's file name and length in bytes, the next index, and the chain head."""

    segment: str
    length: int
    index: int
    head: str


class Ledger(Struct):
    """The daemon's committed state, apart from the rules' memory. Changed only by `apply`.

    `commit` is the last batch.committed; `previous` the one before it (projections must match it at a start). `closed`
    are the segments that ended; `next_start` is where the next segment begins globally, set between two segments.
    `gap_accepted` is the evidence of the gap that an operator decided to go over, until something behind it was read.
    `insufficient` are the sums of what the batches count under this name. `origin` is the log's name, `keys` what
    became of the keys that sign it, `answered` the last request of the inbox that was decided, `lineage` the last
    OpenLineage event.
    """

    index: int = 0
    head: str = audit.GENESIS
    commit: BatchCommitted | None = None
    previous: BatchCommitted | None = None
    totals: Counts = msgspec.field(default_factory=Counts)
    projections: dict[str, ProjectionMark] = {}
    decisions: Decisions | None = None
    closed: list[ClosedSegment] = []
    next_start: int | None = None
    halt: Halt | None = None
    gap_accepted: dict[str, str | int] | None = None
    open_run: str | None = None
    insufficient: dict[str, int] = {}
    origin: str = ""
    keys: list[KeyInForce] = []
    answered: str | None = None
    lineage: LineageEmitted | None = None

    @property
    def position(self) -> Position | None:
        """Where reading goes on; None at the beginning of the stream or between two segments."""
        return self.commit.position if self.commit is not None and self.next_start is None else None

    @property
    def global_offset(self) -> int:
        """Bytes of the stream that are accounted for."""
        if self.next_start is not None:
            return self.next_start
        return self.commit.offset if self.commit is not None else 0

    def mark(self, projection: str) -> ProjectionMark:
        """Return how far a projection reaches."""
        return self.projections.get(projection, EMPTY_MARK)

    def apply(self, unit: Unit) -> None:
        """Take one adopted unit into account, as it was read back from the audit log."""
        self.index, self.head = unit.index, unit.head
        # only the entry that ends a unit means anything for the state; records are part of their batch
        action, line = unit.entries[-1]
        if unit.members is not None:
            self.absorb(action, unit.members)
        elif action == audit.RUN_STARTED:
            head = audit.read_head(line)
            self.open_run = head.run_id if head is not None else None
        elif action == audit.RUN_ENDED:
            self.open_run = None

    def absorb(self, action: str, members: object) -> None:
        """Take the members of one entry into account. What is not named here changes nothing."""
        match members:
            case BatchCommitted():
                self.previous = self.commit
                self.commit = members
                self.totals = members.totals
                self.projections = members.projections
                self.decisions = members.decisions
                self.next_start = None
                self.halt = None
                self.gap_accepted = None
                if members.insufficient:
                    self.insufficient = _sums(self.insufficient, members.insufficient)
                self.answered = members.request or self.answered
            case Decision():
                self._decide(members)
                self.answered = members.request or self.answered
            case KeyRecorded():
                self.keys = apply(self.keys, members, self.index - 1)
                self.answered = members.request or self.answered
            case SegmentOpened():
                self.origin = members.origin or self.origin
            case Halt():
                self.halt = members
            case LineageEmitted():
                self.lineage = members
            case ClosedSegment() if action == audit.SEGMENT_CLOSED:
                self.closed = [*self.closed, members]
                self.next_start = members.start + members.length
                self.gap_accepted = None
            case ProjectionSealed():
                mark = self.mark(members.projection)
                sealed = msgspec.structs.replace(mark, base=members.length)
                self.projections = {**self.projections, members.projection: sealed}

    def _decide(self, decision: Decision) -> None:
        if decision.decisions is not None:
            self.decisions = decision.decisions
        if decision.decision in ("gap", "late_bytes", "segment_before"):
            self.halt = None
            at = decision.evidence.get(CLOSED_INDEX)
            if isinstance(at, int) and 0 <= at < len(self.closed) and decision.accepted:
                # By its number: name and start do not tell an empty segment from its successor.
                self.closed = [*self.closed[:at], decision.accepted[0], *self.closed[at + 1 :]]
            else:
                self.closed = [*self.closed, *decision.accepted]
            if decision.decision == "gap":
                self.gap_accepted = decision.evidence
                self.next_start = self.global_offset


def _sums(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {**one, **{name: one.get(name, 0) + number for name, number in other.items()}}


_MEANINGFUL: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    audit.BATCH_COMMITTED: msgspec.json.Decoder(BatchCommitted),
    audit.DECISION_RECORDED: msgspec.json.Decoder(Decision),
    audit.STREAM_HALTED: msgspec.json.Decoder(Halt),
    audit.SEGMENT_CLOSED: msgspec.json.Decoder(ClosedSegment),
    audit.PROJECTION_SEALED: msgspec.json.Decoder(ProjectionSealed),
    audit.KEY_RECORDED: msgspec.json.Decoder(KeyRecorded),
    audit.SEGMENT_OPENED: msgspec.json.Decoder(SegmentOpened),
    audit.LINEAGE_EMITTED: msgspec.json.Decoder(LineageEmitted),
}


class Checkpoint(Struct, frozen=True):
    """checkpoint.json: the last batch.committed, materialised, and where the audit log stood. A convenience: all of it
    can be read from the audit log again.
    """  # noqa: D205 - one paragraph

    format: str
    audit: AuditMark
    timestamp: str
    commit: BatchCommitted | None
    decisions: Decisions | None
    halt: Halt | None
    insufficient: dict[str, int] = {}


class Unit(Struct, frozen=True):
    """Entries that are adopted together, as (action, line): a whole batch, or one standalone entry.

    `size` is their length in bytes; `index` and `head` are the chain's end behind them. `members` is what the entry
    that ends the unit says, where that means anything for the ledger.
    """

    entries: list[tuple[str, bytes]]
    size: int
    index: int
    head: str
    members: Any = None


def units(lines: Iterable[bytes], index: int, head: str) -> Iterator[Unit]:
    """Yield the units of chain-valid `lines` that follow entry `index` - 1, whose digest is `head`.

    Stops before the first line that is incomplete, unreadable or does not continue the chain; records without their
    batch.committed are not yielded. The caller sees from the sizes how far it came.
    """
    entries: list[tuple[str, bytes]] = []
    size = 0
    for line in lines:
        entry = audit.read_head(line) if line.endswith(b"\n") else None
        if entry is None or entry.prev != head or entry.index != index:
            return
        head = hashlib.sha256(line).hexdigest()
        index += 1
        size += len(line)
        entries.append((entry.action, line))
        if entry.action not in _BATCH_RECORDS:
            try:
                members = decoder.decode(line) if (decoder := _MEANINGFUL.get(entry.action)) is not None else None
            except audit.UNREADABLE:  # the last line is not covered by another one's digest
                return
            yield Unit(entries, size, index, head, members)
            entries, size = [], 0


def encode_checkpoint(ledger: Ledger, mark: AuditMark, timestamp: str) -> bytes:
    """Return the bytes of checkpoint.json."""
    checkpoint = Checkpoint(
        CHECKPOINT_FORMAT, mark, timestamp, ledger.commit, ledger.decisions, ledger.halt, ledger.insufficient
    )
    return msgspec.json.encode(checkpoint) + b"\n"


def decode_checkpoint(data: bytes) -> Checkpoint | None:
    """Return the checkpoint, or None if the bytes are none (it is then rebuilt from the audit log)."""
    try:
        checkpoint = msgspec.json.decode(data, type=Checkpoint)
    except audit.UNREADABLE:
        return None
    return checkpoint if checkpoint.format == CHECKPOINT_FORMAT else None
