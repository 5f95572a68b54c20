"""Reading committed bytes again, for the replay after a restart.

Owns: finding the file of a closed or current segment and reading a range of it. Leaves to the caller comparing the
range with the hash that was committed.

Invariant: ranges in rising order cost one pass over each segment, compressed or not.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING

from tidewaiter.core import segment_findings as findings
from tidewaiter.core.chain_of_segments import begins_like
from tidewaiter.edges import segment_files as files
from tidewaiter.edges.compressed import Damaged, NotWhole, open_reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tidewaiter.core.chain_of_segments import Member
    from tidewaiter.core.position import SegmentId
    from tidewaiter.edges.survey import Survey


class CommittedRanges:
    """Reads ranges; holds the file of the last one open."""

    def __init__(self, directory: Path, survey: Survey) -> None:
        """`survey` knows which file is which closed segment."""
        self._directory = directory
        self._survey = survey
        self._held: _RangeReader | None = None

    async def read(
        self,
        start: int,
        segment: SegmentId | None,
        first: int,
        last: int,
        current: Callable[[], files.Segment | None],
        look_again: Callable[[], Awaitable[None]],
    ) -> bytes:
        """Return the bytes [first, last) of the segment that begins at the global offset `start`.

        An empty segment and its successor begin at the same one; `segment` tells them apart by their content.
        `current` is the segment being read; `look_again` brings the survey up to date. Raises StreamRefusal
        (input_gone) and what `look_again` does.
        """
        name = f"the segment at {start}"
        why = "it is not there"
        for _ in range(2):
            try:
                held = await self._open(start, segment, first, last, current())
                if held is not None:
                    name = held.name
                    data = await files.run(held.read, first, last)
                    if len(data) == last - first:
                        return data
                    why = f"it ends at byte {first + len(data)}"
            except (NotWhole, Damaged, OSError) as error:
                why = str(error) or "it is not whole"
            except files.Moved:
                why = "it is being renamed"
            self.close()
            with contextlib.suppress(files.Moved):
                await look_again()
        raise findings.input_gone(name, start, first, last, why)

    def close(self) -> None:
        """Let go of the file."""
        if self._held is not None:
            self._held.close()
            self._held = None

    async def _open(
        self, start: int, segment: SegmentId | None, first: int, last: int, current: files.Segment | None
    ) -> _RangeReader | None:
        held = self._held
        if held is not None and held.start == start and held.reaches(first) and held.is_of(segment):
            return held
        self.close()
        member = None
        head = b""
        descriptor = None
        for at, closed in enumerate(self._survey.closed):
            found = self._survey.closed_files.get(at)
            if closed.start == start and closed.length >= last and found is not None:
                await self._survey.learn_heads([found])
                begins = self._survey.heads()[found.file.key].data
                if segment is None or begins_like(segment, found.file.key, begins):
                    member, head = found, begins
        if current is not None and current.cursor.start == start and current.cursor.offset >= last:
            begins = current.cursor.head
            if segment is None or begins_like(segment, current.member.file.key, begins):
                member, head = current.member, begins
                descriptor = current.fd if isinstance(current, files.PlainSegment) else None
        if member is None:
            return None
        path = self._directory / member.file.name
        self._held = await files.run(_RangeReader, path, member, start, head, descriptor)
        return self._held


class _RangeReader:
    """A segment opened to read committed bytes again, forwards; a compressed one is decompressed once on the way."""

    def __init__(self, path: Path, member: Member, start: int, head: bytes, held: int | None = None) -> None:
        """Open it, or take the descriptor `held`, which stays open. `start` is the segment's global offset.

        `head` is how its content begins.

        Raises Moved, ConfigError.
        """
        self.start = start
        self.name = member.file.name
        self._key = member.file.key
        self._head = head
        self._raw = io.FileIO(os.dup(held)) if held is not None else files.open_raw(path, member.file.key)
        self._reader = open_reader(self._raw, member.name.encoding) if member.name.encoding else None
        self._place = 0

    def is_of(self, segment: SegmentId | None) -> bool:
        """Return whether it may be that segment, by its beginning."""
        return segment is None or begins_like(segment, self._key, self._head)

    def reaches(self, first: int) -> bool:
        """Return whether `first` lies ahead."""
        return self._reader is None or first >= self._place

    def read(self, first: int, last: int) -> bytes:
        """Return the bytes [first, last), fewer if the content ends before. Raises NotWhole, Damaged, OSError."""
        if self._reader is None:
            return read_at(self._raw.fileno(), first, last)
        self._place += files.skip(self._reader, first - self._place, first - self._place)
        blocks = []
        while self._place < last and (data := self._reader.read(last - self._place)):
            blocks.append(data)
            self._place += len(data)
        return b"".join(blocks)

    def close(self) -> None:
        """Let go of the file."""
        self._raw.close()


def read_at(fd: int, first: int, last: int) -> bytes:
    """Return the bytes [first, last) of a file, fewer if it ends before. Raises OSError."""
    data = os.pread(fd, last - first, first)
    while first + len(data) < last and (more := os.pread(fd, last - first - len(data), first + len(data))):
        data += more
    return data
