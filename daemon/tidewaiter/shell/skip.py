"""The operator's decision that lets a halted stream go on: exactly the pending halt, recorded with who and why.

Owns: matching the decision with the halt, and committing it. Leaves to `shell.deciding` the state directory, which is
locked meanwhile: a halted daemon is not running. One that runs is asked whether a halt is pending, and says so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import Counts, Decision, Halt
from tidewaiter.core.commits import Draft, sha256_hex
from tidewaiter.core.decoding import LineFault
from tidewaiter.core.engine import long_line_rejection, rejection_line
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.framing import Framer, LongLine
from tidewaiter.core.screening import Policy
from tidewaiter.edges import archive
from tidewaiter.edges.stream import Data, Idle, Stream
from tidewaiter.shell.answering import SKIP
from tidewaiter.shell.deciding import decide

if TYPE_CHECKING:
    from tidewaiter.core.position import SegmentCursor
    from tidewaiter.edges.journal import Journal
    from tidewaiter.shell.answering import Decider
    from tidewaiter.shell.settings import Settings

SOURCE_KINDS: Final = ("gap", "late_bytes", "segment_before")
_FAULT: Final = LineFault("operator", "left out by an operator's decision")


class SkipRequest(Struct, frozen=True):
    """What is decided: the halt at the global offset `position`, and the lines that begin before `through`, if any."""

    position: int
    through: int | None
    reason: str


def skip(settings: Settings, position: int, through: int | None, reason: str, actor: str) -> str:
    """Record the decision and return what was done, as one sentence.

    `position` is the global offset of the pending halt; `through`, if given, leaves out every line that begins before
    it. Raises ConfigError where no halt is pending there, IntegrityRefusal where the line is not the one that halted.
    """
    wanted = SkipRequest(position, through, reason)
    return decide(settings, SKIP, wanted, actor, lambda journal, decider: _skip(settings, journal, wanted, decider))


def _skip(settings: Settings, journal: Journal, wanted: SkipRequest, decider: Decider) -> str:
    halt = journal.ledger.halt
    if halt is None:
        raise ConfigError(f"{journal.state}: no halt is pending", hint="see `tidewaiter status`")
    if halt.offset != wanted.position:
        raise ConfigError(
            f"{journal.state}: the pending halt is at position {halt.offset}, not {wanted.position}",
            hint=f"{halt.kind}: {halt.reason}; give --position {halt.offset} if that is what you decided on",
        )
    if halt.kind in SOURCE_KINDS:
        return _accept(journal, halt, wanted.reason, decider)
    return asyncio.run(_skip_lines(settings, journal, halt, wanted, decider))


def _accept(journal: Journal, halt: Halt, reason: str, decider: Decider) -> str:
    decision = Decision(
        halt.kind, reason, accepted=halt.accepted, evidence=halt.evidence,
        os_user=decider.os_user, request=decider.request,
    )  # fmt: skip
    journal.record(audit.DECISION_RECORDED, decision, actor=decider.actor)
    journal.write_checkpoint()
    return f"recorded: {halt.kind} at position {halt.offset} is accepted; the stream goes on at the next start"


class _Line(Struct, frozen=True):
    """One complete line behind the commit point; `size` in bytes with its newline, `sha256` without it."""

    offset: int
    size: int
    sha256: str
    record: str
    raw: bytes
    long: LongLine | None = None


async def _skip_lines(settings: Settings, journal: Journal, halt: Halt, wanted: SkipRequest, decider: Decider) -> str:
    ledger = journal.ledger
    decisions = ledger.decisions
    if decisions is None:
        raise IntegrityRefusal(
            f"{journal.state}: a halt is pending but no decision is in force", hint="restore a back-up"
        )
    policy = msgspec.json.decode(archive.load(journal.state, decisions.config), type=Policy)
    stream = Stream(settings.reading())
    try:
        await stream.start(ledger.position, ledger.closed, ledger.next_start, accept_gap=ledger.gap_accepted)
        end = halt.offset + 1 if wanted.through is None else wanted.through
        lines, cursor = await _collect(stream, policy.line_limit, end)
    finally:
        await stream.close()
    if not lines or (lines[0].offset, lines[0].sha256) != (halt.offset, halt.sha256):
        found = f"{lines[0].sha256} at {lines[0].offset}" if lines else "nothing"
        raise IntegrityRefusal(
            f"{halt.segment}: the line at position {halt.offset} is not the one that halted: expected {halt.sha256}, "
            f"found {found}",
            hint="the stream must be append-only; restore it",
        )
    first = cursor.offset
    for line in lines:
        if line.long is not None:
            cursor.advance_past(line.size, line.long.head, line.long.tail)
        else:
            cursor.advance(line.raw)
    long = lines[0].long
    draft = Draft(
        cause="skip",
        records=[("rejections", line.record) for line in lines],
        counts=Counts(events_read=len(lines), rejected=len(lines), operator=len(lines)),
        position=cursor.position,
        first=first,
        range_sha256=long.range_sha256 if long is not None else sha256_hex(b"".join([line.raw for line in lines])),
        last_event_time=ledger.commit.last_event_time if ledger.commit is not None else None,
        decisions=decisions,
        reason=wanted.reason,
        os_user=decider.os_user,
        request=decider.request,
    )
    journal.commit(draft, actor=decider.actor)
    journal.materialise()
    plural = "s" if len(lines) > 1 else ""
    return (
        f"recorded: {len(lines)} line{plural} from position {halt.offset} left out; "
        f"the stream goes on at position {journal.ledger.global_offset}"
    )


async def _collect(stream: Stream, limit: int, end: int) -> tuple[list[_Line], SegmentCursor]:
    """Return the lines of one segment that begin before `end`, and where they begin.

    A line over the limit is left out by a decision of its own: its content is not kept, so it cannot share a range.
    """
    lines: list[_Line] = []
    framer: Framer | None = None
    cursor: SegmentCursor | None = None
    while True:
        piece = framer.next_piece() if framer is not None else None
        if piece is None or cursor is None:
            item = await stream.read(final=True)
            if isinstance(item, Idle) and item.busy:
                continue  # a compressed segment is being looked through
            if not isinstance(item, Data):
                break
            if framer is None:
                cursor = stream.cursor()
                framer = Framer(cursor.offset, limit)
            framer.feed(item.data)
            continue
        if isinstance(piece, LongLine):
            if not lines:
                record = long_line_rejection(piece, cursor.start, _FAULT)
                lines.append(_Line(cursor.start + piece.offset, piece.size, piece.sha256, record, b"", piece))
            break
        offset = cursor.start + piece.offset
        for content in piece.data.split(b"\n")[:-1]:
            if offset >= end:
                return lines, cursor
            record = rejection_line(content, offset, _FAULT, None)
            lines.append(_Line(offset, len(content) + 1, sha256_hex(content), record, content + b"\n"))
            offset += len(content) + 1
        if offset >= end:
            break
    if cursor is None:
        raise ConfigError("the stream gives no line behind the halt", hint="restore the stream, then decide again")
    return lines, cursor
