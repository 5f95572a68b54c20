"""The audit log's language: the entries, their one-line form, and the hash chain.

Owns: what an entry looks like and how it is chained. Leaves to `edges.journal` when entries reach the disk, and to
`ledger` what they mean when read back.

A line is ``{"prev":…,"index":…,"timestamp":…,"level":…,"run_id":…,"actor":…,"action":…, members…}`` and a newline.
`prev` is the SHA-256 (hex) of the previous line's bytes, newline included; the first line has 64 zeros. Entries
that carry a projection line (a flag, a rejection) embed its exact bytes as their last member, ``"record":{…}}``, so
that every projection can be rebuilt from the audit log alone. `timestamp` is wall-clock time (UTC); it never
reaches a flag.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.position import ClosedSegment, Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.core.chaining import Chained, Chaining

GENESIS: Final = "0" * 64
MAX_ENTRY_BYTES: Final = 65_535
PROJECTIONS: Final = {
    "flags": "flag.emitted",
    "rejections": "event.rejected",
    "suppressed": "flag.suppressed",
    "shadow_flags": "flag.shadowed",
}
"""Each projection file with the action of the entries that carry its lines."""
BATCH_COMMITTED: Final = "batch.committed"
DECISION_RECORDED: Final = "decision.recorded"
STREAM_HALTED: Final = "stream.halted"
SEGMENT_CLOSED: Final = "segment.closed"
SEGMENT_OPENED: Final = "audit.segment_opened"
PROJECTION_SEALED: Final = "projection.sealed"
RUN_STARTED: Final = "run.started"
RUN_ENDED: Final = "run.ended"
KEY_RECORDED: Final = "key.recorded"
SNAPSHOT_RECORDED: Final = "snapshot.recorded"
LINEAGE_EMITTED: Final = "lineage.emitted"
IDLE: Final = "audit.idle"
TAIL_CUT: Final = "audit.tail_cut"
PREV_AT: Final = len(b'{"prev":"')
_RECORD: Final = b',"record":'
_KINDS: Final = {projection: number for number, projection in enumerate(PROJECTIONS)}
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)
"""What decoding damaged bytes raises: a flipped bit may as well make a text that is no UTF-8."""


class Counts(Struct):
    """How many lines were read and what became of them; `read` = `evaluated` + `rejected`, always.

    `rejected` is the sum of framing, json, contract, duplicate, order and operator; `admitted` counts late events that
    were evaluated all the same. `flags`, `suppressed` and `shadow_flags` count the lines of these projections,
    `shadow_suppressed` the hits of shadow scenarios that a cooldown held back, which leave no line.
    """

    events_read: int = 0
    evaluated: int = 0
    flags: int = 0
    rejected: int = 0
    framing: int = 0
    json: int = 0
    contract: int = 0
    duplicate: int = 0
    order: int = 0
    operator: int = 0
    admitted: int = 0
    suppressed: int = 0
    shadow_flags: int = 0
    shadow_suppressed: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(
            *(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True))
        )


class Decisions(Struct, frozen=True):
    """Digests (SHA-256, hex) of what governs the events from here on; the contents are kept in ``rules/<digest>``.

    `lists` are the list files of the ruleset, by their paths as the ruleset writes them.
    """

    config: str
    contract: str
    ruleset: str
    engine: str
    lists: dict[str, str] = {}


class ProjectionMark(Struct, frozen=True):
    """How far a projection reaches: `length` over all its parts in bytes, `base` where the open part begins.

    `sha256` is the running hash ``h = SHA256(h_previous || batch bytes)`` (hex), which can be resumed at any batch.
    """

    length: int
    sha256: str
    base: int


class BatchCommitted(Struct, frozen=True):
    """Everything a checkpoint needs. The range is [`first`, `position.offset`) of the segment; `sha256` covers it.

    `cause` is ``batch`` for evaluated lines, ``skip`` for lines an operator decided to leave out, ``unterminated`` for
    the rest of a closed segment. `offset` is the global offset after the range. `insufficient` counts, for each
    scenario that has any, the events of the batch at which it could not be decided. `os_user` and `request` belong to
    a skip: whose account it came from, and which request of the inbox it answers.
    """

    cause: str
    position: Position
    first: int
    offset: int
    sha256: str
    counts: Counts
    totals: Counts
    projections: dict[str, ProjectionMark]
    decisions: Decisions
    last_event_time: str | None
    reason: str | None = None
    insufficient: dict[str, int] = {}
    os_user: str | None = None
    request: str | None = None


class Halt(Struct, frozen=True):
    """Why the stream stopped, and exactly where; an operator's decision must match `offset` and `sha256`.

    `offset` is global; `kind` is a fault kind (framing, json, contract, duplicate, order) or gap, late_bytes,
    segment_before. `length` is in bytes without the newline. `accepted` is what a decision to go on has to add to the
    closed segments, or to put in the place of the one whose number the evidence gives (late_bytes).
    """

    kind: str
    offset: int
    length: int
    sha256: str
    reason: str
    segment: str
    local_offset: int
    evidence: dict[str, str | int] = {}
    accepted: list[ClosedSegment] = []


class Decision(Struct, frozen=True):
    """A decision other than a skip: what was decided, on what, and by whom it was asked for.

    `evidence` and `accepted` are those of the halt it answers: it holds for that finding and for no other. `os_user` is
    the account it came from, as "1000 (alice)"; `request` the request of the inbox that it answers.
    """

    decision: str
    reason: str
    decisions: Decisions | None = None
    accepted: list[ClosedSegment] = []
    started_empty: list[str] = []
    evidence: dict[str, str | int] = {}
    os_user: str | None = None
    request: str | None = None


class SegmentOpened(Struct, frozen=True):
    """The first entry of an audit segment: it names its predecessor, that one's length in bytes, and the chain head.

    `origin` is the log's name in its checkpoints and in its keys: fixed by entry 0, the same in every segment. Segments
    of versions that kept no tree have none.
    """

    predecessor: str | None
    predecessor_length: int
    format: str = "tidewaiter-audit/1"
    origin: str = ""


class KeyRecorded(Struct, frozen=True):
    """What happened to a key that signs the log's checkpoints.

    `decision` is ``introduced`` (the first key), ``rotated`` (`vkey` takes over from `replaces`, which signs beside it
    until `both_until`, UTC text) or ``revoked`` (signatures of `vkey` on trees of more than `last_trusted_index` + 1
    entries count no more). `os_user` and `request` are as in Decision.
    """

    decision: str
    vkey: str
    reason: str = ""
    replaces: str | None = None
    both_until: str | None = None
    last_trusted_index: int | None = None
    os_user: str | None = None
    request: str | None = None


class Document(Struct, frozen=True):
    """A file of the state directory as it was when the entry was made: `file` is relative to that directory, with /.

    `sha256` (hex) and `length` are of all its bytes.
    """

    file: str
    sha256: str
    length: int


class RunEnded(Struct, frozen=True):
    """How a run ended, and the documents it left: run log and validation report."""

    status: str
    exit_status: int
    error: str | None
    documents: list[Document]


class SnapshotRecorded(Struct, frozen=True):
    """A snapshot that has been written; what it says follows from the log's first `entries` entries."""

    document: Document
    entries: int


class LineageEmitted(Struct, frozen=True):
    """An OpenLineage event that was written: the line [`first`, `first` + `length`) of lineage.jsonl and its parts.

    `sha256` (hex) is of the line, newline included; the open part begins at `base`. `event` is START, RUNNING, COMPLETE
    or FAIL, `run` the UUID of the run it is about, `about` what the audit log calls that run.
    """

    event: str
    run: str
    about: str
    base: int
    first: int
    length: int
    sha256: str

    @property
    def end(self) -> int:
        """Where the next line begins."""
        return self.first + self.length


class ProjectionSealed(Struct, frozen=True):
    """A projection part that is complete: [`first`, `length`) of the projection now stand in `file`."""

    projection: str
    file: str
    first: int
    length: int


class EntryHead(Struct, frozen=True):
    """What every entry begins with."""

    prev: str
    index: int
    timestamp: str
    run_id: str
    actor: str
    action: str


_head_decoder: Final = msgspec.json.Decoder(EntryHead)
_encoder: Final = msgspec.json.Encoder()


class Chain:
    """The end of the chain: `index` of the next entry and `head`, the digest it must carry as `prev`.

    A Merkle tree would be a second observer of the same lines, here.
    """

    __slots__ = ("head", "index")

    def __init__(self, index: int = 0, head: str = GENESIS) -> None:
        """Continue after `index` entries whose last line hashes to `head`."""
        self.index = index
        self.head = head

    def copy(self) -> Chain:
        """Return an independent chain at the same end."""
        return Chain(self.index, self.head)

    def entry(self, context: EntryContext, action: str, members: Struct | dict[str, Any] | None = None) -> bytes:
        """Return the next line for a standalone entry with the given members, and move on."""
        body = _encoder.encode(members)[1:-1] if members is not None else b""
        line = context.opening(self.head, self.index, action) + (b"," + body if body else b"") + b"}\n"
        self._moved_past(line)
        return line

    def batch(
        self, context: EntryContext, projections: Sequence[str], records: bytes, batch: Struct, chaining: Chaining
    ) -> Chained:
        """Return one entry per record, embedding it, for its projection; and `batch` behind them. Move on.

        `records` are whole lines.
        """
        kinds = [(context.middle(action) + _RECORD).decode() for action in PROJECTIONS.values()]
        kinds.append((context.middle(BATCH_COMMITTED) + b",").decode())
        kind_of = bytes(map(_KINDS.__getitem__, projections)) + bytes([len(PROJECTIONS)])
        chained = chaining(self.head, self.index, kinds, kind_of, records + _encoder.encode(batch)[1:-1])
        self.head = chained.head
        self.index += len(kind_of)
        return chained

    def _moved_past(self, line: bytes) -> None:
        self.head = hashlib.sha256(line).hexdigest()
        self.index += 1


class EntryContext(Struct, frozen=True):
    """When (UTC text), in which run, and by whom the entries of one batch are made; `level` is for readers of logs.

    It is ``info`` for all that the daemon writes, ``error`` for the failed step of a pipeline.
    """

    timestamp: str
    run_id: str
    actor: str
    level: str = "info"

    def middle(self, action: str) -> bytes:
        """Return the members between `index` and the entry's own."""
        return b',"timestamp":%b,"level":%b,"run_id":%b,"actor":%b,"action":%b' % (
            _encoder.encode(self.timestamp),
            _encoder.encode(self.level),
            _encoder.encode(self.run_id),
            _encoder.encode(self.actor),
            _encoder.encode(action),
        )

    def opening(self, head: str, index: int, action: str) -> bytes:
        """Return the line up to its own members."""
        return b'{"prev":"%b","index":%d' % (head.encode(), index) + self.middle(action)


def read_head(line: bytes) -> EntryHead | None:
    """Return what the entry begins with, or None if the line is no entry."""
    try:
        return _head_decoder.decode(line)
    except (*UNREADABLE, RecursionError):
        return None


def record_of(line: bytes) -> bytes:
    """Return the projection line (newline included) that the entry of a record embeds."""
    at = line.index(_RECORD) + len(_RECORD)
    return line[at:-2] + b"\n"


def running_hash(previous: str, data: bytes) -> str:
    """Return the projection's running hash (hex) after `data`; `previous` is the one before, "" at the beginning."""
    running = hashlib.sha256(bytes.fromhex(previous))
    running.update(data)  # not joined to the other: that would copy it
    return running.hexdigest()
