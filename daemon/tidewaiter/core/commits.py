"""From the effects of a piece of the stream to the entries of one commit.

Owns: the assembly of a batch (records, then its ``batch.committed``) and the resulting ledger. Leaves to
`edges.journal` the writing, and keeps memory behind disk: the new ledger is returned, not adopted.
"""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import BatchCommitted, Chain, Counts, Decisions, EntryContext, ProjectionMark, running_hash
from tidewaiter.core.chaining import chain_entries
from tidewaiter.core.ledger import Ledger, units
from tidewaiter.core.position import Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.core.chaining import Chaining


class Draft(Struct, frozen=True):
    """What is to be committed: the records of the bytes from `first` up to `position` in its segment.

    `range_sha256` (hex) covers those bytes; `cause`, `reason`, `insufficient`, `os_user` and `request` are as in
    BatchCommitted.
    """

    cause: str
    records: list[tuple[str, str]]
    counts: Counts
    position: Position
    first: int
    range_sha256: str
    last_event_time: str | None
    decisions: Decisions
    reason: str | None = None
    insufficient: dict[str, int] = {}
    os_user: str | None = None
    request: str | None = None


class Prepared(Struct, frozen=True):
    """A commit ready to be written. Fields stand in persistence order.

    `data`, whole entries of which the longest takes `longest` bytes, goes to the audit log; then, behind the commit
    point, `appended` to the projections at the offsets of `before`; then the checkpoint of `ledger`. Memory adopts
    `ledger` after the commit point.
    """

    data: bytes
    longest: int
    appended: dict[str, bytes]
    before: dict[str, ProjectionMark]
    ledger: Ledger


def prepare(ledger: Ledger, draft: Draft, context: EntryContext, chaining: Chaining = chain_entries) -> Prepared:
    """Return the commit of `draft` on top of `ledger`, which is left as it is; any `chaining` does the same."""
    appended: dict[str, bytes] = {}
    marks: dict[str, ProjectionMark] = {}
    before: dict[str, ProjectionMark] = {}
    names, texts = zip(*draft.records, strict=True) if draft.records else ((), ())
    number: dict[str, int] = {}
    for projection in audit.PROJECTIONS:
        mark = before[projection] = ledger.mark(projection)
        count = number[projection] = names.count(projection)
        if count:
            of_it = texts if count == len(texts) else [text for name, text in draft.records if name == projection]
            data = appended[projection] = _lines(of_it)
            mark = ProjectionMark(mark.length + len(data), running_hash(mark.sha256, data), mark.base)
        marks[projection] = mark
    counts = draft.counts
    counts.flags, counts.suppressed = number["flags"], number["suppressed"]
    counts.shadow_flags = number["shadow_flags"]
    batch = BatchCommitted(
        cause=draft.cause,
        position=draft.position,
        first=draft.first,
        offset=draft.position.global_offset,
        sha256=draft.range_sha256,
        counts=counts,
        totals=ledger.totals.plus(counts),
        projections=marks,
        decisions=draft.decisions,
        last_event_time=draft.last_event_time,
        reason=draft.reason,
        insufficient=draft.insufficient,
        os_user=draft.os_user,
        request=draft.request,
    )
    chain = Chain(ledger.index, ledger.head)
    # where all of them go to one projection, its bytes serve here, too: to join and encode takes the interpreter
    lines = next(iter(appended.values())) if len(appended) == 1 else _lines(texts)
    chained = chain.batch(context, names, lines, batch, chaining)
    after = copy.copy(ledger)
    after.index, after.head = chain.index, chain.head
    after.absorb(audit.BATCH_COMMITTED, batch)
    return Prepared(chained.data, chained.longest, appended, before, after)


def _lines(texts: Sequence[str]) -> bytes:
    """Return each text with a newline behind it."""
    return "\n".join([*texts, ""]).encode()


def prepare_entry(ledger: Ledger, context: EntryContext, action: str, members: Struct | dict[str, Any]) -> Prepared:
    """Return the commit of one standalone entry on top of `ledger`, which is left as it is."""
    chain = Chain(ledger.index, ledger.head)
    line = chain.entry(context, action, members)
    after = copy.copy(ledger)
    unit = next(units([line], ledger.index, ledger.head), None)
    if unit is None:  # members that hide those every entry begins with
        raise ValueError(f"{action}: is no entry: {line!r}")
    after.apply(unit)
    return Prepared(line, len(line), {}, {}, after)


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` (hex)."""
    return hashlib.sha256(data).hexdigest()
