"""The stream as one sequence of bytes: segment after segment, across rotation, renaming and restarts.

Owns: the place in the stream, when to look at the directory, and that a segment ends. Leaves to `edges.survey` which
file is which, to `edges.segment_grace` how long to wait for more, to `edges.segment_files` reading, to the consumer
framing, and making each `SegmentEnd` durable before it reads on.

Invariants:
- Bytes are delivered once and in order; a `SegmentEnd` comes after all bytes of its segment.
- A segment ends when a successor exists and it did not grow for the grace; growth restarts the grace.
- A gap is reported between two segments, never in the middle of one that can still be read to its end.
- What a listing seems to show while somebody renames is not believed: a halt needs the same listing twice.
- At the end of the stream a read costs one `fstat`; the directory is looked at every 50 ms at most, or when asked.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core import segment_findings as findings
from tidewaiter.core.chain_of_segments import (
    FileKey,
    Layout,
    Member,
    Record,
    arrange,
    ends_at,
    judge,
    naming_of,
    record_of,
)
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.position import ClosedSegment, Position, SegmentCursor
from tidewaiter.core.segment_findings import StreamHalt
from tidewaiter.edges import segment_files as files
from tidewaiter.edges.committed_ranges import CommittedRanges
from tidewaiter.edges.directory_watch import DirectoryWatch
from tidewaiter.edges.recorded_position import cursor_at, locate
from tidewaiter.edges.segment_grace import SegmentGrace
from tidewaiter.edges.segment_hole import UnreadSegments, hole_before
from tidewaiter.edges.stream_values import Data, Idle, Notice, SegmentEnd, StreamSettings
from tidewaiter.edges.survey import Survey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidewaiter.core.segment_findings import Evidence

_LOOK_SECONDS: Final = 0.05
_LOOK_SHARE: Final = 10.0  # a listing of very many files is not repeated before ten times what it took
_ATTEMPTS: Final = 20

__all__ = ["Data", "Idle", "Notice", "SegmentEnd", "Stream", "StreamSettings"]


class Stream:
    """Reads one stream. Not for concurrent use: one call at a time. A cancelled `read` loses nothing."""

    def __init__(
        self,
        settings: StreamSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        """`clock` is monotonic, in seconds. `wall` (nanoseconds) only tells which files are old enough for no grace."""
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._use(directory=False)
        self._segment: files.Segment | None = None
        self._opening: SegmentCursor | None = None
        self._ended = False
        self._moving = True
        self._resume: Record | None = None
        self._next_start = 0
        self._accepted_gap: Evidence | None = None
        self._layout: Layout | None = None
        self._later_bytes = 0
        self._unread = UnreadSegments()
        self._replacement: Member | None = None
        self._unresolved = False
        self._deleted = False
        self._noted_copies: set[FileKey] = set()
        self._looked_at: float | None = None
        self._look_interval = _LOOK_SECONDS
        self._grace = SegmentGrace(settings.rotate_grace_us, clock, wall)
        self._notices: list[Notice] = []

    # -- the interface -------------------------------------------------------------------------------------------------

    async def start(
        self,
        position: Position | None,
        closed: Sequence[ClosedSegment],
        next_start: int | None = None,
        *,
        accept_gap: Evidence | None = None,
    ) -> None:
        """Find the place to read on from.

        `position` None: the first segment after the newest of `closed`, or the beginning of the stream; it begins at
        the global offset `next_start`. `closed` are all segments that ended. `accept_gap` is the evidence of a gap
        that an operator decided to go over: that one, no other.

        A directory that is not there yet is waited for, and so is a position whose file is not wholly decompressible
        yet. Raises ConfigError (unreadable), StreamHalt (gap, late_bytes, segment_before), StreamRefusal.
        """
        self._choose_mode()
        for segment in closed:
            self._survey.add_closed(segment)
        self._accepted_gap = accept_gap
        newest = self._survey.last_closed()
        self._next_start = newest[0].start + newest[0].length if newest is not None else 0
        if position is not None:
            self._next_start = position.global_offset
            ended = any(ends_at(each, position) for each in closed)
            self._resume = None if ended and position.offset else record_of(position)
        if next_start is not None:
            self._next_start = next_start
        with contextlib.suppress(files.Moved):  # somebody keeps renaming: `read` goes on trying
            await self._survey.confirmed(self._begin)
            while self._resume is not None and self._survey.busy:
                await self._survey.confirmed(self._begin)

    async def read(self, *, final: bool = False, rescan: bool = False) -> Data | Idle | SegmentEnd:
        """Return the next thing there is.

        `final` (batch mode): no grace, a segment with a successor ends at once. `rescan`: something was heard of, look
        at the directory now (its files are listed only if it changed). Raises what `start` does.
        """
        self._survey.hurry = final
        try:
            return await self._read(final=final, look=final or rescan)
        except files.Moved:
            return self._idle(waiting_for=self._settings.path.name)

    async def _read(self, *, final: bool, look: bool) -> Data | Idle | SegmentEnd:
        if self._ended:
            await self._leave()
        while True:
            if self._segment is None:
                if not (look or self._moving or self._look_is_due()):
                    return self._idle()
                self._moving = False
                idle = await self._advance(final=final)
                if idle is not None:
                    return idle
            segment = self._segment
            assert segment is not None  # noqa: S101 - `_advance` opened it
            data = await segment.read(self._settings.read_bytes)
            if data:
                return Data(data)
            if data is None:
                return self._idle(busy=True)
            self._grace.note_growth(segment)
            if not (look or segment.stale or self._may_be_the_end(segment) or self._look_is_due()):
                return self._idle()
            end = await self._at_end(segment, final=final)
            if end is not None:
                return end
            look = final

    def unchanged(self) -> bool:
        """Return whether another `read` would find what the last one found, the end of all there is.

        It costs two `stat` calls. False also where they cannot tell.
        """
        segment, layout = self._segment, self._layout
        if not isinstance(segment, files.PlainSegment) or layout is None or layout.later or self._ended:
            return False
        if segment.stale or self._unresolved or self._deleted or self._replacement is not None:
            return False
        return segment.unchanged() and self._watch.newest_size(None) == 0

    def cursor(self) -> SegmentCursor:
        """Return a fresh cursor for the segment being read: where it was opened, not where reading stands now.

        After a `SegmentEnd` it still is the ended segment, until the next `read`. Raises LookupError if no segment is
        open (`is_open`).
        """
        if self._opening is None:
            raise LookupError("no segment is open")
        return self._opening.copy()

    @property
    def is_open(self) -> bool:
        """Whether a segment is being read."""
        return self._opening is not None

    def hints(self) -> tuple[str, int, int]:
        """Return name, device and inode of the segment being read, as they are now. Raises LookupError."""
        if self._segment is None:
            raise LookupError("no segment is open")
        file = self._segment.member.file
        return (file.name, file.dev, file.ino)

    @property
    def lag_bytes(self) -> int:
        """Bytes known to exist behind the read position; compressed segments count with their compressed size."""
        segment = self._segment
        return self._later_bytes + (segment.remaining() if segment is not None and not self._ended else 0)

    def take_notices(self) -> list[Notice]:
        """Return what happened since the last call, to be logged."""
        taken, self._notices = self._notices, []
        return taken

    async def read_range(self, segment: Position | ClosedSegment | int, first: int, last: int) -> bytes:
        """Return the bytes [first, last) of a segment again; an int is the global offset of its first byte.

        For the replay after a restart: ranges in rising order cost one pass. Raises StreamRefusal (input_gone).
        """
        start, known = (segment, None) if isinstance(segment, int) else (segment.start, segment.segment)
        if first >= last:
            return b""
        return await self._ranges.read(
            start, known, first, last, lambda: self._segment, lambda: self._survey.confirmed(self._look_around)
        )

    async def close(self) -> None:
        """Let go of all files."""
        self._ranges.close()
        await self._survey.close()
        if self._segment is not None:
            await self._segment.close()
        self._segment = self._opening = None

    # -- starting ------------------------------------------------------------------------------------------------------

    def _choose_mode(self) -> None:
        path, directory = self._settings.path, self._settings.directory
        found = files.stat_file(path)
        is_directory = path.is_dir()
        if directory is None:
            directory = is_directory
        elif found is not None and directory != is_directory:
            raise ConfigError(
                f"{path}: is {'a' if is_directory else 'no'} directory",
                hint="name the directory with a slash at its end, and a file without",
            )
        self._use(directory=directory)

    def _use(self, *, directory: bool) -> None:
        path = self._settings.path
        self._directory = path if directory else path.parent
        naming = naming_of(path.name, directory=directory)
        self._live = naming.live
        self._survey = Survey(self._directory, naming, self._settings.rotate_grace_us, self._clock, self._wall)
        self._watch = DirectoryWatch(self._survey, self._clock)
        self._ranges = CommittedRanges(self._directory, self._survey)

    async def _begin(self) -> None:
        """Open the recorded position, if there is one that is not open yet, and look at the chain around it."""
        if self._resume is not None:
            record = self._resume
            members = await self._survey.look()
            if self._survey.stamp is None:
                return
            try:
                member = await locate(self._survey, record, members)
            except StreamHalt as halt:
                if halt.evidence != self._accepted_gap:
                    raise
                self._resume = None
                await self._look_around()
                return
            if member is None:
                return
            await self._open(member, record.start, record)
            self._resume = None
            self._accepted_gap = None
            known = record.segment
            if member.file.key != record.key:
                self._notice("identity_changed", member, old_dev=known.dev, old_ino=known.ino, old_name=known.name)
            elif member.file.name != known.name:
                self._notice("renamed", member, old_name=known.name)
        await self._look_around()

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look_is_due(self) -> bool:
        return self._looked_at is None or self._clock() - self._looked_at >= self._look_interval

    async def _refresh(self, *, listing: bool) -> None:
        """Bring the layout up to date: cheaply where the directory shows that no name in it changed."""
        self._looked_at = self._clock()
        if not listing and self._layout is not None and not (self._unresolved or self._replacement):
            later = self._layout.later
            newest = self._watch.newest_size(later[-1] if later else None)
            if newest is not None:
                self._later_bytes = sum(member.file.size for member in later[:-1]) + newest
                return
        began = self._clock()
        await self._survey.confirmed(self._look_around)
        self._look_interval = max(_LOOK_SECONDS, _LOOK_SHARE * (self._clock() - began))

    async def _look_around(self) -> None:
        """List the directory and find out what is before, at and after the place. Raises StreamHalt, Moved."""
        now = self._clock()
        wall = self._wall()
        survey = self._survey
        members = await survey.look()
        segment = None if self._ended else self._segment
        current = record_of(segment.cursor.position) if segment is not None else None
        labels = await survey.label(members, current, segment.member.file.key if segment is not None else None)
        layout = arrange(members, labels)
        if layout.strangers:
            newest = survey.last_closed()
            place = layout.current.file.name if layout.current else newest[0].segment.name if newest else "it"
            stranger = layout.strangers[0]
            raise findings.segment_before(stranger, place, await survey.describe(stranger, -1))
        if segment is not None:
            self._follow(segment, layout)
        self._unresolved = segment is not None and layout.current is None and "waiting" in labels
        self._unread.listed(members, layout.later, survey.heads())
        self._layout = layout
        self._later_bytes = sum(member.file.size for member in layout.later)
        self._looked_at = now
        self._watch.listed(wall)
        self._grace.listed(now, successor=bool(layout.later))
        for copy in survey.copies:
            if copy.file.key not in self._noted_copies:
                self._noted_copies.add(copy.file.key)
                self._notice("copy", copy, of=layout.current.file.name if layout.current else "")

    def _follow(self, segment: files.Segment, layout: Layout) -> None:
        """Take note of what happened to the name of the file being read."""
        named = layout.current
        self._replacement = None
        if named is None:
            if not self._deleted and segment.member.file.name:
                self._deleted = True
                self._notice("deleted", segment.member, offset=segment.cursor.offset)
            return
        self._deleted = False
        if named.file.key != segment.member.file.key:
            self._replacement = named
            return
        if named.file.name != segment.member.file.name:
            self._notice("renamed", named, old_name=segment.member.file.name)
        segment.member = named

    # -- moving on -----------------------------------------------------------------------------------------------------

    def _may_be_the_end(self, segment: files.Segment) -> bool:
        """Return whether this end is new and a successor is known: a catch-up does not wait for the next look."""
        if self._layout is None or not self._layout.later:
            return False
        return self._grace.is_new_end(segment.cursor.offset)

    async def _at_end(self, segment: files.Segment, *, final: bool) -> SegmentEnd | Idle | None:
        """Decide what the end of the present bytes means; None if there is something to read after all."""
        await self._refresh(listing=final or segment.stale)
        if self._replacement is not None or segment.stale:
            return await self._reopen(segment)
        later = self._layout.later if self._layout is not None else ()
        if self._unresolved or not later:
            return self._idle()
        if isinstance(segment, files.PlainSegment) and segment.remaining():
            return None
        if not (final or self._grace.is_over(segment, later)):
            return self._idle()
        closed = segment.cursor.closed
        self._survey.add_closed(closed, segment.member)
        self._next_start = closed.start + closed.length
        self._ended = True
        return SegmentEnd(length=closed.length, closed=closed)

    async def _reopen(self, segment: files.Segment) -> Idle | None:
        """Go on in the file that has this segment's content now, at the same place."""
        member = self._replacement or (self._layout.current if self._layout is not None else None)
        if member is None:
            # The open file is not whole any more and has no name in the chain: there is nothing to go on with yet.
            return self._idle(waiting_for=segment.member.file.name)
        record = record_of(segment.cursor.position)
        opening = self._opening
        try:
            if not await self._survey.is_whole(member):
                return self._idle()
            probe = await self._survey.probe(member, [record])
            if probe is None:
                return self._idle()
            verdict = judge(record, probe)
            if verdict == "short":
                raise findings.truncated(member.file.name, record, probe.length)
            if verdict == "other":
                raise findings.rewritten(member.file.name, record, probe.tails[record.length], probe.length)
            await self._open(member, record.start, record)
        except files.Moved:
            return self._idle(waiting_for=member.file.name)
        self._opening = opening
        self._replacement = None
        if member.file.key != segment.member.file.key:
            old = segment.member.file
            self._notice("identity_changed", member, old_dev=old.dev, old_ino=old.ino, old_name=old.name)
        await segment.close()
        return None

    async def _leave(self) -> None:
        """Let go of the segment that ended."""
        if self._segment is not None:
            await self._segment.close()
        self._segment = self._opening = None
        self._ended = False
        self._moving = True
        self._grace.left()
        self._replacement = None
        self._unresolved = self._deleted = False
        if self._layout is not None:
            self._layout = msgspec.structs.replace(self._layout, current=None)

    async def _advance(self, *, final: bool) -> Idle | None:
        """Open the segment that comes next; Idle if there is none, or none that may be opened yet."""
        if self._resume is not None:
            self._looked_at = self._clock()
            await self._survey.confirmed(self._begin)
            return self._idle() if self._segment is None else None
        await self._refresh(listing=final)
        for _ in range(_ATTEMPTS):
            later = self._layout.later if self._layout is not None else ()
            if not later:
                return self._idle()
            waiting = self._across_a_gap(later[0], final=final)
            if waiting:
                # What the hole is has to be seen again before it is believed.
                await self._survey.confirmed(self._look_around)
                if final:
                    continue
                return self._idle(waiting_for=waiting)
            try:
                if not await self._survey.is_whole(later[0]):
                    return self._idle()
                await self._open(later[0], self._next_start, None)
            except files.Moved:
                await self._survey.confirmed(self._look_around)
                continue
            self._entered(later)
            return None
        return self._idle(waiting_for=self._live)

    def _entered(self, later: Sequence[Member]) -> None:
        """The first of `later` is the current segment now."""
        self._accepted_gap = None
        self._layout = Layout(strangers=(), current=later[0], later=tuple(later[1:]))
        self._later_bytes = sum(member.file.size for member in later[1:])
        self._unread.entered(later[0])
        self._grace.entered(successor=len(later) > 1)

    def _across_a_gap(self, following: Member, *, final: bool) -> str:
        """Return the name of a segment that should come first and is not there; raise once that is certain."""
        hole = hole_before(following, self._survey, self._unread.lost, self._live, self._next_start)
        if hole is None:
            self._grace.no_hole()
            return ""
        if hole.halt is not None:
            if findings.same_hole(self._accepted_gap, hole.halt, hole.head):
                return ""
            if self._grace.hole_is_certain(final=final):
                raise hole.halt
        return hole.waiting_for

    async def _open(self, member: Member, start: int, record: Record | None) -> None:
        """Open a file at its beginning, or at the recorded place. Raises Moved, StreamRefusal, ConfigError."""
        path = self._directory / member.file.name
        cursor = SegmentCursor(member.file.name, member.file.dev, member.file.ino, start)
        if not member.name.encoding:
            self._segment = await files.open_plain(path, member, cursor, record)
        else:
            if record is not None:
                cursor = await cursor_at(self._survey, member, start, record)
            raw = await files.run(files.open_raw, path, member.file.key)
            self._segment = files.CompressedSegment(member, raw, cursor)
        self._opening = self._segment.cursor.copy()
        self._grace.opened(self._segment)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def _idle(self, *, busy: bool = False, waiting_for: str = "") -> Idle:
        lag = self.lag_bytes
        waiting = waiting_for or self._survey.waiting_for
        if not waiting and self._resume is not None:
            waiting = self._resume.segment.name
        busy = busy or self._survey.busy
        return Idle(
            caught_up=not (lag or waiting or busy),
            lag_bytes=lag,
            successor=bool(self._layout is not None and self._layout.later),
            busy=busy,
            waiting_for=waiting,
        )

    def _notice(self, kind: str, member: Member, **evidence: str | int) -> None:
        file = member.file
        self._notices.append(
            Notice(kind=kind, evidence={"file": file.name, "dev": file.dev, "ino": file.ino, **evidence})
        )
