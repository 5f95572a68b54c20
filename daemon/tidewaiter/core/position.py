"""Where the daemon is in the stream: segments, positions and content identity.

Owns: the value types that the audit log, the checkpoint and the snapshots share, and the running identity of the
segment being read (`SegmentCursor`). Leaves to `edges.stream` finding files, and to `core.chain_of_segments` deciding
which file is which.

Identity is content over decompressed bytes: SHA-256 of the first `head_len` <= 1 KiB and of the `tail_len` <= 4 KiB
before the offset. Device and inode are hints only.
"""

from __future__ import annotations

import hashlib
from typing import Final

from msgspec import Struct

HEAD_BYTES: Final = 1024
TAIL_BYTES: Final = 4096


class SegmentId(Struct, frozen=True):
    """One file of the stream. `head_sha256` (hex) covers its first `head_len` bytes; name, dev and ino are hints.

    `head_len` 0 means that nothing of the file has been read yet: it is known by its inode alone.
    """

    name: str
    dev: int
    ino: int
    head_len: int
    head_sha256: str


class Position(Struct, frozen=True):
    """A committed place in the stream, in bytes of decompressed content.

    `start` is the global offset of the segment's first byte, `offset` the place inside the segment. The global
    offset never goes back and is the only position that appears in a flag. `tail_sha256` (hex) covers the `tail_len`
    bytes before `offset`.
    """

    segment: SegmentId
    start: int
    offset: int
    tail_len: int
    tail_sha256: str

    @property
    def global_offset(self) -> int:
        """Bytes of the whole stream before this place."""
        return self.start + self.offset


class ClosedSegment(Struct, frozen=True):
    """A segment that was read to its end and closed with `length` bytes; it may never grow again.

    `tail_sha256` (hex) covers its last `tail_len` bytes. `start` is -1 for a file that an operator accepted as no part
    of the stream: it is known, and was never read.
    """

    segment: SegmentId
    start: int
    length: int
    tail_len: int = 0
    tail_sha256: str = ""


class SegmentCursor:
    """The running identity of the segment being read; advanced by each block of bytes, in order."""

    __slots__ = ("_head", "_tail", "dev", "ino", "name", "offset", "start")

    def __init__(
        self, name: str, dev: int, ino: int, start: int, *, head: bytes = b"", tail: bytes = b"", offset: int = 0
    ) -> None:
        """`head` and `tail` are the segment's first <= 1 KiB and the <= 4 KiB before `offset`, as read from it."""
        self.name = name
        self.dev = dev
        self.ino = ino
        self.start = start
        self.offset = offset
        self._head = head[:HEAD_BYTES]
        self._tail = tail[-TAIL_BYTES:]

    def advance(self, data: bytes) -> None:
        """Take `data` as read: it follows the current offset immediately."""
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
        self._tail = data[-TAIL_BYTES:] if len(data) >= TAIL_BYTES else (self._tail + data)[-TAIL_BYTES:]
        self.offset += len(data)

    def advance_past(self, size: int, head: bytes, tail: bytes) -> None:
        """Take `size` bytes as read of which only the first <= 1 KiB and the last <= 4 KiB are at hand."""
        if len(self._head) < HEAD_BYTES:
            self._head += head[: HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + tail)[-TAIL_BYTES:]
        self.offset += size

    def copy(self) -> SegmentCursor:
        """Return an independent cursor at the same place."""
        return SegmentCursor(
            self.name, self.dev, self.ino, self.start, head=self._head, tail=self._tail, offset=self.offset
        )

    @property
    def head(self) -> bytes:
        """The first <= 1 KiB, as far as they were read."""
        return self._head

    @property
    def tail(self) -> bytes:
        """The <= 4 KiB before the offset."""
        return self._tail

    @property
    def closed(self) -> ClosedSegment:
        """What is recorded of the segment if it ends here."""
        here = self.position
        return ClosedSegment(
            segment=here.segment,
            start=self.start,
            length=self.offset,
            tail_len=here.tail_len,
            tail_sha256=here.tail_sha256,
        )

    @property
    def segment(self) -> SegmentId:
        """The identity as far as it is known."""
        head = hashlib.sha256(self._head).hexdigest() if self._head else ""
        return SegmentId(name=self.name, dev=self.dev, ino=self.ino, head_len=len(self._head), head_sha256=head)

    @property
    def position(self) -> Position:
        """The current place with its content identity."""
        return Position(
            segment=self.segment,
            start=self.start,
            offset=self.offset,
            tail_len=len(self._tail),
            tail_sha256=hashlib.sha256(self._tail).hexdigest() if self._tail else "",
        )
