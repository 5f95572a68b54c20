"""The stream's own bytes against the audit log: every committed range hashed again.

Owns: the list of ranges, finding the file of each segment, and one pass over each of them. Leaves to
`shell.stream_files` which files belong to the stream, and to `edges.compressed` decompressing.

A segment whose file is gone cannot be checked: old segments are deleted. One that begins as it did, or still holds
anything that was read, was changed where it differs; a file of its name with nothing of it is another.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.compressed import Damaged, NotWhole, open_reader
from tidewaiter.shell.stream_files import is_segment, members_of
from tidewaiter.shell.verify_findings import Findings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tidewaiter.core.audit import BatchCommitted
    from tidewaiter.core.chain_of_segments import Member
    from tidewaiter.core.position import ClosedSegment, SegmentId
    from tidewaiter.edges.compressed import Reader

_BLOCK: Final = 1 << 20
_HASH: Final = 32


class _Segment:
    """The committed ranges of one segment, in order; compact, for there may be millions."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.identity: SegmentId | None = None
        self.ends = array("Q")
        self.begins = array("Q")
        self.indexes = array("Q")
        self.digests = bytearray()


class InputRanges:
    """Collects the ranges while the log is read, then hashes the input."""

    def __init__(self, findings: Findings, since: str, until: str) -> None:
        """Only batches committed between the times `since` and `until` (UTC text, either may be empty) count."""
        self._findings, self._since, self._until = findings, since, until
        self._segments: list[_Segment] = []
        self._end = -1
        self._closed: dict[int, int] = {}
        self.bytes = 0

    def add(self, batch: BatchCommitted, index: int, time: str) -> None:
        """Take a committed range."""
        position = batch.position
        last = self._segments[-1] if self._segments else None
        if last is None or last.start != position.start:
            behind = None if last is None else last.start + self._end
            if behind is not None and position.start + batch.first != behind:
                self._hole(index, behind, position.start + batch.first)
            last = _Segment(position.start)
            self._segments.append(last)
        elif batch.first != self._end:
            self._hole(index, self._end, batch.first)
        self._end = position.offset
        last.identity = position.segment
        if (self._since and time < self._since) or (self._until and time > self._until):
            return
        last.begins.append(batch.first)
        last.ends.append(position.offset)
        last.indexes.append(index)
        try:
            last.digests += bytes.fromhex(batch.sha256).rjust(_HASH, b"\0")[:_HASH]
        except ValueError:
            last.digests += bytes(_HASH)
        self.bytes += position.offset - batch.first

    def _hole(self, index: int, expected: int, found: int) -> None:
        self._findings.tampered(
            "input", "the ranges of two batches do not follow on each other", f"entry {index}", index=index,
            expected=f"byte {expected}", found=f"byte {found}",
        )  # fmt: skip

    def check(self, stream: Path | None, closed: Iterable[ClosedSegment], progress: Callable[[int], None]) -> None:
        """Hash the ranges of every segment. `closed` are those that ended; `progress` is told bytes."""
        self._closed = {one.start: one.length for one in closed if one.start >= 0 and one.length}
        wanted = [segment for segment in self._segments if segment.ends]
        if not wanted:
            return
        if stream is None:
            self._findings.missing("input", "nobody said where the stream is: name it as STREAM", "the stream")
            return
        folder = stream if stream.is_dir() else stream.parent
        try:
            members = members_of(stream) if folder.is_dir() else ()
        except ConfigError as error:
            self._findings.missing("input", error.message, stream)
            return
        for segment in wanted:
            self._check_segment(segment, folder, members, progress)

    def _check_segment(
        self, segment: _Segment, folder: Path, members: tuple[Member, ...], progress: Callable[[int], None]
    ) -> None:
        identity = segment.identity
        assert identity is not None  # noqa: S101 - each has at least one range
        own, found = _files_of(folder, members, identity)
        for member in [found] if found is not None else own:
            path = folder / member.file.name
            # one that begins otherwise is the segment all the same where anything that was read still stands in it
            if self._judge(segment, path, member, progress, known=found is not None or _is(member, identity)):
                return
        self._findings.missing(
            "input", f"the segment's file is gone, or holds something else: bytes {segment.start} to "
            f"{segment.start + segment.ends[-1]} of the stream cannot be checked", folder / identity.name,
            index=segment.indexes[0],
        )  # fmt: skip

    def _judge(
        self, segment: _Segment, path: Path, member: Member, progress: Callable[[int], None], *, known: bool
    ) -> bool:
        """Hash the file's ranges; return False where it is not `known` to be the segment, and none of them fits."""
        found = Findings()
        try:
            with path.open("rb", buffering=0) as raw:
                encoding = member.name.encoding
                reader = open_reader(raw, "gz" if encoding == "gz" else "zst") if encoding else raw
                right = self._hash_ranges(segment, path, _Bytes(reader), progress, found)
        except (NotWhole, Damaged) as error:
            what = f"cannot be decompressed: {error}"
            found.tampered("input", what, path, index=segment.indexes[0], offset=0)
            right = 0
        except OSError as error:
            self._findings.missing("input", f"cannot be read: {error.strerror}", path, index=segment.indexes[0])
            return True
        if not known and not right:
            return False
        for finding in found.listed:
            self._findings.take(finding)
        return True

    def _hash_ranges(
        self, segment: _Segment, path: Path, content: _Bytes, progress: Callable[[int], None], findings: Findings
    ) -> int:
        """Return how many ranges are as they were read; the others are findings."""
        right = 0
        for at, (first, last) in enumerate(zip(segment.begins, segment.ends, strict=True)):
            digest = hashlib.sha256()
            for _ in content.until(first):
                pass
            for piece in content.until(last):
                digest.update(piece)
            progress(last - first)
            wanted = segment.digests[at * _HASH : (at + 1) * _HASH]
            if content.at < last:
                findings.tampered(
                    "input", f"ends at byte {content.at}; {segment.ends[-1]} bytes of it were read", path,
                    index=segment.indexes[at], offset=content.at, expected=f"{segment.ends[-1]} bytes",
                    found=f"{content.at} bytes",
                )  # fmt: skip
                break
            if digest.digest() == wanted:
                right += 1
                continue
            findings.tampered(
                "input", f"bytes {first} to {last} of the segment are not those that were read", path,
                index=segment.indexes[at], offset=first, expected=f"SHA-256 {wanted.hex()}",
                found=f"SHA-256 {digest.hexdigest()}",
            )  # fmt: skip
        end = self._closed.get(segment.start)
        for _ in content.until(0 if end is None else end + 1):
            pass
        if end is not None and content.at > end:
            findings.tampered(
                "input", "goes on behind its end: the segment was closed there", path, index=segment.indexes[-1],
                offset=end, expected=f"{end} bytes",
            )  # fmt: skip
        return right


class _Bytes:
    """A segment read forwards, in large blocks whatever the ranges."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._block = memoryview(b"")
        self.at = 0

    def until(self, end: int) -> Iterator[memoryview]:
        """Yield what stands between the place reached and `end`."""
        while self.at < end:
            if not self._block:
                self._block = memoryview(self._reader.read(_BLOCK))
                if not self._block:
                    return
            piece = self._block[: end - self.at]
            self._block = self._block[len(piece) :]
            self.at += len(piece)
            yield piece


def _is(member: Member, segment: SegmentId) -> bool:
    return member.file.key == (segment.dev, segment.ino)


def _files_of(folder: Path, members: tuple[Member, ...], segment: SegmentId) -> tuple[list[Member], Member | None]:
    """Return the files that have the segment's inode or name, and the one that begins like it, rather of those."""
    own = sorted(
        (one for one in members if _is(one, segment) or one.file.name == segment.name),
        key=lambda one: not _is(one, segment),
    )
    others = [one for one in members if one not in own]
    return own, next((one for one in [*own, *others] if is_segment(folder / one.file.name, segment)), None)
