"""Cutting bytes into complete lines, in memory bounded by the line limit.

Owns: where lines end. Bytes in, `Block`s of complete lines and `LongLine`s out; `None` from `next_piece` means "needs
more bytes". Leaves to `decoding` what a line says, and to the consumer which of the pieces are committed.

Invariants: the pieces cover the fed bytes in order without gap or overlap; every line of a Block is at most `limit`
bytes without its newline; a partial last line stays inside until its newline or `finish` comes.
"""

from __future__ import annotations

import hashlib
from typing import Final

from msgspec import Struct

PREVIEW_BYTES: Final = 80


class Block(Struct, frozen=True):
    """Complete lines: `data` ends with a newline; `offset` is the place of its first byte inside the segment."""

    offset: int
    data: bytes


class LongLine(Struct, frozen=True):
    """A line without usable content: over the limit, or unterminated at the end of a closed segment.

    `length` counts its bytes without the newline and `sha256` (hex) covers them; `size` is what it takes in the
    segment, newline included where there is one, and `range_sha256` covers that.
    """

    offset: int
    length: int
    size: int
    sha256: str
    range_sha256: str
    preview: bytes
    reason: str
    tail: bytes
    """The last <= 4 KiB of what it takes, for the segment's running identity."""
    head: bytes
    """The first <= 1 KiB of it, likewise."""


class Framer:
    """Cuts one segment's bytes into pieces; `offset` is where the next fed byte stands in the segment."""

    def __init__(self, offset: int, limit: int) -> None:
        """`limit` is the longest line in bytes, newline not counted."""
        self._limit = limit
        self._start = offset
        self._whole = b""  # complete lines
        self._rest = b""  # the beginning of the line behind them
        self._long: _LongLineSoFar | None = None

    @property
    def pending(self) -> int:
        """Bytes fed but not yet part of a piece."""
        return len(self._whole) + len(self._rest) + (self._long.length if self._long else 0)

    @property
    def offset(self) -> int:
        """Where the next piece begins in the segment."""
        return self._start

    def feed(self, data: bytes) -> None:
        """Add bytes that follow the last fed ones immediately."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._rest += data
            return
        # the lines of a large read are copied once, here; joining all of it to be cut again takes three times as long
        parts = self._whole, self._rest, data if end == len(data) else memoryview(data)[:end]
        self._whole, self._rest = b"".join(parts), data[end:]

    def next_piece(self) -> Block | LongLine | None:
        """Return the next piece, or None when more bytes are needed."""
        if self._long is not None:
            return self._continue_long()
        data = self._whole
        end = len(data) if len(data) - 1 <= self._limit else self._short_lines(data)
        if not end:
            if not data and len(self._rest) <= self._limit:
                return None
            self._long = _LongLineSoFar()
            return self._continue_long()
        block = Block(self._start, data[:end])
        self._whole = data[end:]
        self._start += end
        return block

    def _short_lines(self, data: bytes) -> int:
        """Return the length of the longest prefix of `data`, complete lines, made of lines within the limit."""
        position, end = 0, len(data)
        while end - position > self._limit + 1:
            cut = data.rfind(b"\n", position, position + self._limit + 1) + 1
            if not cut:
                return position
            position = cut
        return end

    def _continue_long(self) -> LongLine | None:
        long = self._long
        assert long is not None  # noqa: S101 - only called while a long line is open
        if not self._whole:
            long.take(self._rest)
            self._rest = b""
            return None
        newline = self._whole.index(b"\n")
        long.take(self._whole[:newline])
        self._whole = self._whole[newline + 1 :]
        return self._close_long(long, "line over the limit", newline=True)

    def finish(self) -> LongLine | None:
        """Return the unterminated last line of a segment that has ended, if there is one; after the last piece."""
        long = self._long
        if long is None:
            if not self._rest:
                return None
            long = _LongLineSoFar()
        long.take(self._rest)
        self._rest = b""
        return self._close_long(long, "unterminated line at the end of a closed segment", newline=False)

    def _close_long(self, long: _LongLineSoFar, reason: str, *, newline: bool) -> LongLine:
        end = b"\n" if newline else b""
        whole = long.hash.copy()
        whole.update(end)
        piece = LongLine(
            offset=self._start,
            length=long.length,
            size=long.length + len(end),
            sha256=long.hash.hexdigest(),
            range_sha256=whole.hexdigest(),
            preview=long.head[:PREVIEW_BYTES],
            reason=reason,
            tail=(long.tail + end)[-4096:],
            head=(long.head + end)[:1024] if long.length < 1024 else long.head,  # noqa: PLR2004 - HEAD_BYTES of position
        )
        self._start += piece.size
        self._long = None
        return piece


class _LongLineSoFar:
    """What is kept of a line whose content is dropped as it passes."""

    __slots__ = ("hash", "head", "length", "tail")

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.head = b""
        self.tail = b""
        self.length = 0

    def take(self, data: bytes) -> None:
        self.hash.update(data)
        if len(self.head) < 1024:  # noqa: PLR2004 - HEAD_BYTES of position
            self.head = (self.head + data)[:1024]
        self.tail = data[-4096:] if len(data) >= 4096 else (self.tail + data)[-4096:]  # noqa: PLR2004 - TAIL_BYTES
        self.length += len(data)
