"""Whether segments are missing before the one that comes next, and what may be said about it.

Owns: comparing the numbers of two segments that should follow on each other, and remembering which unread ones were
seen, so that one that vanishes is missed. Leaves to `edges.stream` what it does
about it, and to `edges.segment_grace` how long to look before a hole is believed.

While a rotation renames, there is a hole in the numbers for a moment, and a listing may miss a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tidewaiter.core import segment_findings as findings
from tidewaiter.core.chain_of_segments import digest, missing_between, vanished
from tidewaiter.core.position import SegmentId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidewaiter.core.chain_of_segments import FileKey, Head, Member
    from tidewaiter.core.segment_findings import StreamHalt
    from tidewaiter.edges.survey import Survey


class Hole(NamedTuple):
    """Segments that should come first and are not there. `head` is how the file after them begins.

    `halt` says what is missing; None while the last look is not finished, for somebody renames.
    """

    waiting_for: str
    halt: StreamHalt | None
    head: bytes


class UnreadSegments:
    """The segments behind the place, from one listing to the next; those that vanished unread are `lost`."""

    def __init__(self) -> None:
        self.lost: list[Member] = []
        self._seen: dict[FileKey, tuple[Member, bytes]] = {}

    def listed(self, members: Sequence[Member], later: Sequence[Member], heads: Mapping[FileKey, Head]) -> None:
        """Take note of a listing: all files of the stream, those behind the place, and how they begin."""
        gone, unclear = vanished(self._seen, members, heads)
        # Not found is not gone: a listing can miss a file that is renamed meanwhile. `edges.stream` waits and sees.
        self.lost = [self._seen[key][0] for key in gone]
        seen = {key: self._seen[key] for key in (*gone, *unclear)}
        self._seen = seen | {each.file.key: (each, heads[each.file.key].data) for each in later}

    def entered(self, segment: Member) -> None:
        """Take note that this one is being read now."""
        self._seen.pop(segment.file.key, None)


def hole_before(following: Member, survey: Survey, lost: Sequence[Member], live: str, start: int) -> Hole | None:
    """Return what is missing before `following`, None if nothing is.

    `lost` are files that were seen and vanished unread; `start` is the global offset at which the next segment begins.
    """
    newest = survey.last_closed()
    closed = newest[0].segment.name if newest is not None else "the beginning"
    missing = tuple(member.file.name for member in lost) or missing_between(
        newest[1] if newest is not None else None, following, live
    )
    if not missing:
        return None
    known = survey.heads().get(following.file.key)
    if known is None:
        return Hole(following.file.name, None, b"")
    head = known.data
    behind = SegmentId(following.file.name, *following.file.key, len(head), digest(head) if head else "")
    return Hole(missing[0], findings.segments_missing(missing, closed, following.file.name, start, behind), head)
