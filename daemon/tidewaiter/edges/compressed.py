"""Reading gzip and Zstandard segments as if they were plain, in bounded memory.

Owns: decompression, and telling a file that is not whole yet (it is still being written or copied) from one that is
damaged. Leaves to `edges.segment_files` opening files, and to `edges.survey` waiting and comparing.

Rules:
- At most `limit` bytes come out of a read and at most one block goes in, whatever the file claims (bombs).
- Several gzip members or Zstandard frames in one file are one content; zeros after the last gzip member are padding.
- A file without any member is not whole: nobody compresses nothing into nothing.

Every call blocks; callers on the event loop go through a thread.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Final, Protocol

import zstandard

from tidewaiter.core.position import HEAD_BYTES, TAIL_BYTES

if TYPE_CHECKING:
    import io
    from collections.abc import Iterable

    from tidewaiter.core.chain_of_segments import Encoding

BLOCK_BYTES: Final = 1 << 16
MAX_WINDOW_BYTES: Final = 1 << 27  # what the zstd command accepts without --long; the memory of one reader

_GZIP: Final = 31  # zlib's number for "gzip header and trailer, largest window"
_GZIP_LEAST: Final = 18
_ZSTD_MAGIC: Final = 0xFD2FB528
_SKIPPABLE_MAGIC: Final = 0x184D2A50
_SKIPPABLE_MASK: Final = 0xFFFFFFF0
_DICTIONARY_BYTES: Final = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES: Final = (0, 2, 4, 8)
_RLE_BLOCK: Final = 1
_RESERVED_BLOCK: Final = 3


class NotWhole(Exception):  # noqa: N818 - a state of the file, not a defect
    """The file ends before its content does."""


class Damaged(Exception):  # noqa: N818 - a state of the file, not a defect of the program
    """The file is not what its name says, or its checksum does not hold; `at` counts compressed bytes."""

    def __init__(self, why: str, at: int) -> None:
        """`why` is the library's reason."""
        super().__init__(why)
        self.why = why
        self.at = at


class Reader(Protocol):
    """The content of a compressed file from its beginning."""

    def read(self, limit: int) -> bytes:
        """Return the next 1 to `limit` bytes, or nothing at the end. Raises NotWhole or Damaged."""


def open_reader(raw: io.FileIO, encoding: Encoding) -> Reader:
    """Return a reader over the unbuffered file `raw`, which it takes over; closing it stays with the caller."""
    return _GzipReader(raw) if encoding == "gz" else _ZstdReader(raw)


class _GzipReader:
    """Member after member; zlib checks each one's CRC and length."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._input = b""
        self._member: zlib._Decompress | None = None
        self._members = 0

    def read(self, limit: int) -> bytes:
        while True:
            if self._member is None and not self._begin_member():
                return b""
            member = self._member
            assert member is not None  # noqa: S101 - `_begin_member` said so
            try:
                data = member.decompress(self._input, limit)
            except zlib.error as error:
                raise Damaged(str(error), self._raw.tell()) from error
            if member.eof:
                self._input = member.unused_data
                self._member = None
                self._members += 1
            else:
                self._input = member.unconsumed_tail
            if data:
                return data
            if self._member is not None and not self._input and not self._fill():
                raise NotWhole

    def _begin_member(self) -> bool:
        """Start the next member. False at the end of the file."""
        while True:
            if self._members:
                self._input = self._input.lstrip(b"\0")
            if self._input:
                self._member = zlib.decompressobj(_GZIP)
                return True
            if not self._fill():
                if not self._members:
                    raise NotWhole
                return False

    def _fill(self) -> bool:
        self._input = self._raw.read(BLOCK_BYTES) or b""
        return bool(self._input)


class _ZstdReader:
    """All frames; the library ends silently at a cut, so the structure is walked first."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._stream: zstandard.ZstdDecompressionReader | None = None

    def read(self, limit: int) -> bytes:
        if self._stream is None:
            walk_frames(self._raw.fileno())
            decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
            self._stream = decompressor.stream_reader(
                self._raw, read_size=BLOCK_BYTES, read_across_frames=True, closefd=False
            )
        try:
            return self._stream.read(limit)
        except zstandard.ZstdError as error:
            raise Damaged(str(error), self._raw.tell()) from error


def walk_frames(fd: int) -> None:
    """Return if the file consists of whole Zstandard frames. Raises NotWhole or Damaged.

    Only headers are read: about one system call for each block of up to 128 KiB.
    """
    size = os.fstat(fd).st_size
    at = 0
    while at < size:
        at = _after_frame(fd, at)
        if at > size:
            raise NotWhole
    if size == 0:
        raise NotWhole


def _after_frame(fd: int, at: int) -> int:
    """Return where the frame at `at` ends."""
    header = os.pread(fd, 18, at)
    if len(header) < 5:  # noqa: PLR2004 - magic and the descriptor byte
        raise NotWhole
    magic = int.from_bytes(header[:4], "little")
    if magic & _SKIPPABLE_MASK == _SKIPPABLE_MAGIC:
        if len(header) < 8:  # noqa: PLR2004 - magic and length
            raise NotWhole
        return at + 8 + int.from_bytes(header[4:8], "little")
    if magic != _ZSTD_MAGIC:
        raise Damaged("no Zstandard frame begins here", at)
    descriptor = header[4]
    single_segment = descriptor >> 5 & 1
    content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
    at += 5 + (not single_segment) + _DICTIONARY_BYTES[descriptor & 3] + content_size
    last = 0
    while not last:
        block = os.pread(fd, 3, at)
        if len(block) < 3:  # noqa: PLR2004 - the block header
            raise NotWhole
        value = int.from_bytes(block, "little")
        last, kind = value & 1, value >> 1 & 3
        if kind == _RESERVED_BLOCK:
            raise Damaged("a block of a reserved type", at)
        at += 3 + (1 if kind == _RLE_BLOCK else value >> 3)
    return at + (4 if descriptor >> 2 & 1 else 0)


def declared_length(fd: int, encoding: Encoding) -> int | None:
    """Return the content's length that the file itself declares, if it does; a hint, for gzip modulo 2**32."""
    size = os.fstat(fd).st_size
    if encoding == "gz":
        return int.from_bytes(os.pread(fd, 4, size - 4), "little") if size >= _GZIP_LEAST else None
    try:
        if _after_frame(fd, 0) != size:
            return None
        length = zstandard.frame_content_size(os.pread(fd, 18, 0))
    except (NotWhole, Damaged, zstandard.ZstdError):
        return None
    return length if length >= 0 else None


class Scan:
    """One pass over a compressed file, in steps: whether it is whole, its length, and the bytes before some places.

    `marks` are (place, bytes before it). `tails` holds what was found before each place that the file reaches.
    """

    def __init__(self, raw: io.FileIO, encoding: Encoding, marks: Iterable[tuple[int, int]]) -> None:
        """Take `raw` over; `close` closes it."""
        self._raw = raw
        self._reader = open_reader(raw, encoding)
        self._marks = sorted(set(marks))
        self.marks = frozenset(self._marks)
        self.length = 0
        self.head = b""
        self.tail = b""
        self.tails: dict[int, bytes] = {}
        self.finished = False
        self.whole = False
        self.damage: Damaged | None = None

    def step(self, budget: int) -> bool:
        """Go on for about `budget` bytes of content; True when finished."""
        end = self.length + budget
        try:
            while self.length < end and not self.finished:
                self._take(self._reader.read(1 << 20))
        except NotWhole:
            self.finished = True
        except Damaged as error:
            self.finished, self.damage = True, error
        if self.finished:
            self.close()
        return self.finished

    def close(self) -> None:
        """Let go of the file; the results stay."""
        self._raw.close()

    def _take(self, data: bytes) -> None:
        first, last = self.length, self.length + len(data)
        while self._marks and self._marks[0][0] <= last:
            place, size = self._marks.pop(0)
            held = self.tails.get(place, b"")
            found = (self.tail + data[: place - first])[-size:] if size else b""
            self.tails[place] = max(held, found, key=len)
        if len(self.head) < HEAD_BYTES:
            self.head += data[: HEAD_BYTES - len(self.head)]
        self.tail = (self.tail + data)[-TAIL_BYTES:] if len(data) < TAIL_BYTES else data[-TAIL_BYTES:]
        self.length = last
        if not data:
            self.finished = self.whole = True
