"""What must not be in a stream, in words: each gap, late byte and rewritten file with its evidence.

Owns: the messages and the machine-readable evidence of every halt and refusal about the stream's files. Leaves to
`core.chain_of_segments` and the edges finding them.

Every message says what happened, in which file, at which byte, what was expected and found; the hint what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from tidewaiter.core.chain_of_segments import digest
from tidewaiter.core.errors import IntegrityRefusal, SourceHalt
from tidewaiter.core.position import ClosedSegment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.core.chain_of_segments import Head, Member, Record
    from tidewaiter.core.position import SegmentId

Evidence: TypeAlias = dict[str, str | int]
HaltKind: TypeAlias = Literal["gap", "late_bytes", "segment_before"]
RefusalKind: TypeAlias = Literal["truncated", "rewritten", "copytruncate", "corrupt", "input_gone"]

CLOSED_INDEX: Final = "closed_index"
"""In the evidence of late bytes: which of the closed segments, counted from 0, the accepted one takes the place of."""
_NAMED_AT_MOST: Final = 5
_HOLE: Final = ("kind", "missing", "global_offset")
_GAP_HINT: Final = "restore the file, or record the decision to go on without it: tidewaiter skip"
"""Like every hint of a halt it ends in the command, which `StreamHalt.at` completes."""


class StreamHalt(SourceHalt):
    """The chain cannot be followed without an operator's decision (exit 3).

    `evidence` goes into the audit log. `accepted` is what the decision to go on has to add to the closed segments, so
    that the same finding is not made again; it replaces the one whose number is in the evidence as `closed_index`.
    """

    def __init__(
        self,
        kind: HaltKind,
        message: str,
        *,
        hint: str,
        evidence: Evidence,
        accepted: tuple[ClosedSegment, ...] = (),
    ) -> None:
        """`kind` says what was found; `evidence` where, with what was expected and what was there."""
        super().__init__(message, hint=hint)
        self.kind: HaltKind = kind
        self.evidence: Evidence = {"kind": kind, **evidence}
        self.accepted = accepted

    def at(self, position: int) -> None:
        """Complete the command in the hint: the stream halted with everything before global offset `position` done."""
        if self.hint.endswith("tidewaiter skip"):
            self.hint += f" --position {position} --reason … --actor …"


class StreamRefusal(IntegrityRefusal):
    """A file contradicts what was read from it before (exit 4). `evidence` goes into the audit log."""

    def __init__(self, kind: RefusalKind, message: str, *, hint: str, evidence: Evidence) -> None:
        """`kind` says what was found; `evidence` where, with what was expected and what was there."""
        super().__init__(message, hint=hint)
        self.kind: RefusalKind = kind
        self.evidence: Evidence = {"kind": kind, **evidence}


def segment_before(stranger: Member, place: str, found: ClosedSegment | None) -> StreamHalt:
    """Return the halt for a segment that appeared before `place`; `found` is it, as no part of the stream."""
    name = stranger.file.name
    return StreamHalt(
        "segment_before",
        f"{name}: a segment of {stranger.file.size} bytes that was never read sorts before {place}, "
        "where the stream stands",
        hint="move it away; rename it so that it sorts last to have it read; or record the decision to leave it out: "
        "tidewaiter skip",
        evidence={"file": name, "size": stranger.file.size, "dev": stranger.file.dev, "ino": stranger.file.ino,
                  "before": place},
        accepted=(found,) if found is not None else (),
    )  # fmt: skip


def late_bytes(member: Member, record: Record, length: int, found: ClosedSegment | None) -> StreamHalt:
    """Return the halt for bytes that were appended to a closed segment; `found` is the segment with them."""
    name = member.file.name
    return StreamHalt(
        "late_bytes",
        f"{name}: the segment was closed with {record.length} bytes and now has {length}",
        hint=f"find out who still writes to it; move the bytes after {record.length} to a new segment, or record the "
        "decision to leave them out: tidewaiter skip",
        evidence={"file": name, "offset": record.length, "expected_size": record.length, "found_size": length,
                  "start": record.start, CLOSED_INDEX: record.index},
        accepted=(found,) if found is not None else (),
    )  # fmt: skip


def position_gone(record: Record, members: Sequence[Member]) -> StreamHalt:
    """Return the halt for a position whose file is not there any more."""
    exists = ", ".join(member.file.name for member in members[:_NAMED_AT_MOST]) or "no file"
    if len(members) > _NAMED_AT_MOST:
        exists += f" and {len(members) - _NAMED_AT_MOST} more"
    name = record.segment.name
    return StreamHalt(
        "gap",
        f"{name}: the segment that was read up to byte {record.length} is gone; the stream now has {exists}",
        hint=_GAP_HINT,
        evidence={"file": name, "offset": record.length, "global_offset": record.start + record.length,
                  "dev": record.segment.dev, "ino": record.segment.ino, "head_len": record.segment.head_len,
                  "expected_head_sha256": record.segment.head_sha256, "expected_tail_sha256": record.tail_sha256,
                  "exists": exists},
        accepted=(
            ClosedSegment(segment=record.segment, start=record.start, length=record.length, tail_len=record.tail_len,
                          tail_sha256=record.tail_sha256),
        ),
    )  # fmt: skip


def segments_missing(
    missing: Sequence[str], closed: str, after: str, global_offset: int, behind: SegmentId | None = None
) -> StreamHalt:
    """Return the halt for whole segments that were never read and are not there; `behind` is the file after them."""
    named = ", ".join(missing[:_NAMED_AT_MOST]) + (" …" if len(missing) > _NAMED_AT_MOST else "")
    return StreamHalt(
        "gap",
        f"{named}: not there and never read, between {closed} and {after}",
        hint=_GAP_HINT,
        evidence={"file": named, "missing": len(missing), "after": closed, "next": after, "offset": 0,
                  "global_offset": global_offset, **(_identity(behind) if behind is not None else {})},
    )  # fmt: skip


def same_hole(accepted: Evidence | None, found: StreamHalt, head: bytes) -> bool:
    """Return whether what was found is the very gap that was accepted; `head` is how the file after it begins.

    As many segments are missing, at the same place, before the same file. Names do not count: while the decision was
    made a rotation may have renamed them all. The file after the hole may have grown.
    """
    if accepted is None or any(accepted.get(name) != found.evidence.get(name) for name in _HOLE):
        return False
    length = accepted.get("next_head_len")
    if not isinstance(length, int) or length == 0:
        return all(accepted.get(name) == found.evidence.get(name) for name in ("next_dev", "next_ino"))
    return accepted.get("next_head_sha256") == digest(head[:length])


def _identity(segment: SegmentId) -> Evidence:
    return {
        "next_dev": segment.dev,
        "next_ino": segment.ino,
        "next_head_len": segment.head_len,
        "next_head_sha256": segment.head_sha256,
    }


def truncated(name: str, record: Record, size: int) -> StreamRefusal:
    """Return the refusal for a file that is shorter than what was read from it."""
    return StreamRefusal(
        "truncated",
        f"{name}: it was read up to byte {record.length} and now has only {size} bytes: it was truncated or replaced",
        hint="rotate by rename, never by copytruncate; put the original file back, then start again",
        evidence={"file": name, "offset": record.length, "global_offset": record.start + record.length,
                  "expected_size": record.length, "found_size": size},
    )  # fmt: skip


def rewritten(name: str, record: Record, tail: bytes, size: int) -> StreamRefusal:
    """Return the refusal for a file whose bytes before the offset are not those that were read; `tail` was found."""
    found = digest(tail[-record.tail_len :]) if record.tail_len else ""
    return StreamRefusal(
        "rewritten",
        f"{name}: the {record.tail_len} bytes before byte {record.length} changed after they were read "
        f"(SHA-256 expected {record.tail_sha256[:16]}…, found {found[:16]}…): it was rewritten in place or truncated",
        hint="a stream is append-only; put the original file back, then start again",
        evidence={"file": name, "offset": record.length, "global_offset": record.start + record.length,
                  "tail_len": record.tail_len, "expected_sha256": record.tail_sha256, "found_sha256": found,
                  "found_size": size},
    )  # fmt: skip


def replaced(member: Member, record: Record, head: Head) -> StreamRefusal:
    """Return the refusal for a file that is the recorded one by its inode and another by its first bytes."""
    name = member.file.name
    wanted = record.segment.head_len
    found = digest(head.data[:wanted])
    return StreamRefusal(
        "rewritten",
        f"{name}: its first {wanted} bytes are not those that were read (SHA-256 expected "
        f"{record.segment.head_sha256[:16]}…, found {found[:16]}…): it was rewritten in place",
        hint="a stream is append-only; rotate by rename, never by copytruncate; put the original file back, then start "
        "again",
        evidence={"file": name, "offset": 0, "global_offset": record.start + record.length, "head_len": wanted,
                  "expected_sha256": record.segment.head_sha256, "found_sha256": found,
                  "found_size": member.file.size},
    )  # fmt: skip


def copied_and_truncated(copy: Member, original: Member, record: Record) -> StreamRefusal:
    """Return the refusal for the signature of copytruncate: the content is in a copy, the file itself starts anew."""
    return StreamRefusal(
        "copytruncate",
        f"{original.file.name}: what was read from it up to byte {record.length} is now in {copy.file.name}, which is "
        "another file: it was rotated by copytruncate, which can lose bytes between the copy and the truncation",
        hint="rotate by rename and create; then restore the original file from the copy, or start with a new state "
        "directory",
        evidence={"file": original.file.name, "copy": copy.file.name, "offset": record.length,
                  "global_offset": record.start + record.length, "expected_ino": record.segment.ino,
                  "found_ino": copy.file.ino, "found_size": original.file.size},
    )  # fmt: skip


def corrupt(name: str, why: str, at: int) -> StreamRefusal:
    """Return the refusal for a compressed file that cannot be decompressed; `at` counts compressed bytes."""
    return StreamRefusal(
        "corrupt",
        f"{name}: it cannot be decompressed, near its byte {at}: {why}",
        hint="restore the file from a good copy, or put the plain file beside it",
        evidence={"file": name, "offset": at, "reason": why},
    )


def input_gone(name: str, start: int, first: int, last: int, why: str) -> StreamRefusal:
    """Return the refusal for committed bytes that cannot be read again."""
    return StreamRefusal(
        "input_gone",
        f"{name}: bytes {first} to {last} were committed and cannot be read again: {why}",
        hint="restore the segment, then start again",
        evidence={"file": name, "start": start, "first": first, "last": last, "reason": why},
    )
