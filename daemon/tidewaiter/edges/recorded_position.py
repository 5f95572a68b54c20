"""Finding the file of a recorded position again.

Owns: telling by its content, not by its name, which file the stream stood in, and which refusal it is if none is it.
Leaves the listing and looking into files to `edges.survey`, the rules to `core.chain_of_segments`, and the words to
`core.segment_findings`.

Invariants:
- A file is the recorded segment only if head and tail of what was committed are in it, at their places.
- A segment is not called gone while a file that may be it is not whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewaiter.core import segment_findings as findings
from tidewaiter.core.chain_of_segments import Head, Member, MemberName, Record, fits_head, judge, unlikeness
from tidewaiter.core.position import SegmentCursor
from tidewaiter.edges import segment_files as files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.edges.survey import Survey


async def locate(survey: Survey, record: Record, members: Sequence[Member]) -> Member | None:
    """Return the file of the position, verified by its content; None while one that may be it is not whole.

    `members` are what the survey's last look found. Raises StreamHalt (gap), StreamRefusal (truncated, rewritten,
    copytruncate, corrupt), Moved.
    """
    await survey.learn_heads(members)
    if record.segment.head_len == 0:
        return _locate_empty(record, members)
    refusal: findings.StreamRefusal | None = None
    impostor: Member | None = None
    waiting = False
    heads = survey.heads()
    for member in sorted(members, key=lambda member: unlikeness(record, member)):
        head = heads[member.file.key]
        same = member.file.key == record.key
        if not fits_head(record, member, head):
            if not head.certain:
                waiting = True
                survey.wait_for(member)
            if same and head.certain:
                impostor = member
                refusal = _not_its_head(member, record, head)
            continue
        others = [] if same else survey.candidates(member, head)
        probe = await survey.probe(member, [record, *others])
        if probe is None:
            waiting = True
            continue
        if any(other.tail_len and judge(other, probe) == "ours" for other in others):
            continue
        verdict = judge(record, probe)
        if verdict == "ours":
            if impostor is not None and not impostor.name.encoding and not member.name.encoding:
                raise findings.copied_and_truncated(member, impostor, record)
            return member
        if same:
            impostor = member
            refusal = (
                findings.truncated(member.file.name, record, probe.length)
                if verdict == "short"
                else findings.rewritten(member.file.name, record, probe.tails[record.length], probe.length)
            )
    if waiting:
        return None
    outside = await _locate_outside(survey, record)
    if outside is not None:
        return outside
    raise refusal if refusal is not None else findings.position_gone(record, members)


def _locate_empty(record: Record, members: Sequence[Member]) -> Member:
    for member in members:
        if member.file.key == record.key:
            return member
    for member in members:
        if member.file.name == record.segment.name and member.file.size == 0:
            return member
    raise findings.position_gone(record, members)


async def _locate_outside(survey: Survey, record: Record) -> Member | None:
    """Look for the position's file beside the chain: a stream that is switched by a symlink leaves it there."""
    live = survey.directory / (survey.naming.live or ".")
    places = dict.fromkeys((survey.directory, live.resolve().parent if survey.naming.live else survey.directory))
    for place in places:
        found = await files.run(files.find_by_key, place, record.key)
        if found is None:
            continue
        name = found.name if place == survey.directory else str(place / found.name)
        member = Member(
            name=MemberName(stem=name, encoding="", order=(2, 0, name)),
            file=files.renamed(found, name),
        )
        head = await files.run(files.read_head, survey.directory / name, member)
        if fits_head(record, member, head):
            probe = await survey.probe(member, [record])
            if probe is not None and judge(record, probe) == "ours":
                return member
    return None


def _not_its_head(member: Member, record: Record, head: Head) -> findings.StreamRefusal:
    if not member.name.encoding and member.file.size < record.length:
        return findings.truncated(member.file.name, record, member.file.size)
    return findings.replaced(member, record, head)


async def cursor_at(survey: Survey, member: Member, start: int, record: Record) -> SegmentCursor:
    """Return the cursor at the recorded place of a compressed file, which begins at `start`. Raises Moved."""
    await survey.learn_heads([member])
    probe = await survey.probe(member, [record])
    if probe is None:
        raise files.Moved
    head = survey.heads()[member.file.key].data[: record.length]
    tail = probe.tails[record.length]
    return SegmentCursor(member.file.name, *member.file.key, start, head=head, tail=tail, offset=record.length)
