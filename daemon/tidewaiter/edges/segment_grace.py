"""How long the end of a segment, or a hole before the next one, has stood still.

Owns: when the segment being read grew last, since when a successor is there, since when a hole in the numbers is seen,
and whether the grace for them is over. Leaves the rule to `core.chain_of_segments`, looking at the directory and what
follows from the answers to `edges.stream`.

Invariants:
- Growth, and a successor that comes or goes, start the grace anew.
- The time of day is asked for one thing only: whether files are so old that there is nothing to wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tidewaiter.core.chain_of_segments import grace_over, long_quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidewaiter.core.chain_of_segments import Member
    from tidewaiter.edges.segment_files import Segment


class SegmentGrace:
    """The grace of one segment after the other."""

    def __init__(self, grace_us: int, clock: Callable[[], float], wall: Callable[[], int]) -> None:
        """`grace_us` is in microseconds; `clock` is monotonic, in seconds; `wall` is the time of day in nanoseconds."""
        self._grace_us = grace_us
        self._clock = clock
        self._wall = wall
        self._size = 0
        self._grew_at = 0.0
        self._end_seen = -1
        self._successor_since: float | None = None
        self._hole_since: float | None = None

    # -- what happens --------------------------------------------------------------------------------------------------

    def opened(self, segment: Segment) -> None:
        """Take the segment as growing until now."""
        self._end_seen = -1
        self._size = segment.stat().st_size
        self._grew_at = self._clock()

    def entered(self, *, successor: bool) -> None:
        """The segment that was opened follows the one before; `successor` says whether one follows it already."""
        self._successor_since = self._clock() if successor else None
        self._hole_since = None

    def left(self) -> None:
        """Forget what stood behind the segment that ended."""
        self._successor_since = self._hole_since = None

    def listed(self, now: float, *, successor: bool) -> None:
        """Take note of a listing that began at `now` on the clock."""
        if not successor:
            self._successor_since = None
        elif self._successor_since is None:
            self._successor_since = now

    def note_growth(self, segment: Segment) -> None:
        """Look at the size of the open file; another one than before starts the grace anew."""
        size = segment.stat().st_size
        if size != self._size:
            self._size = size
            self._grew_at = self._clock()

    def no_hole(self) -> None:
        """Take note that nothing is missing before the next segment."""
        self._hole_since = None

    # -- what follows --------------------------------------------------------------------------------------------------

    def is_new_end(self, offset: int) -> bool:
        """Return whether the present bytes end at another place than when this was asked last."""
        if self._end_seen == offset:
            return False
        self._end_seen = offset
        return True

    def is_over(self, segment: Segment, later: Sequence[Member]) -> bool:
        """Return whether the segment stood still for the grace while it had a successor.

        `later` are the files behind it. Where all of them are old there is no grace.
        """
        since = self._successor_since
        if since is not None and grace_over(self._clock(), self._grew_at, since, self._grace_us):
            return True
        found = segment.stat()
        now = msgspec.structs.replace(
            segment.member.file, size=found.st_size, mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns
        )
        return long_quiet(self._wall(), now, later, self._grace_us)

    def hole_is_certain(self, *, final: bool) -> bool:
        """Return whether a hole was seen before and, unless `final`, has been there for the grace."""
        if self._hole_since is None:
            self._hole_since = self._clock()
            return False
        return final or grace_over(self._clock(), 0.0, self._hole_since, self._grace_us)
