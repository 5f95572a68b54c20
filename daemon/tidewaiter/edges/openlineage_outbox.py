"""How far the file of OpenLineage events was shipped: a cursor that survives, and the events that no server wants.

Owns: ``openlineage_cursor.json`` and ``lineage_refused.jsonl``, and cutting the file into events. Leaves to
`openlineage_file` the file, and to `shell.openlineage_shipping` what became of an event.

An event is shipped at least once, in its order: the cursor moves behind it only when the server has answered, and is
durable before the next is sent. If we die between the answer and the cursor, the same bytes are sent once more.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.edges.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.edges.durable import Disk

log = get_logger()

CURSOR_FORMAT: Final = "tidewaiter-openlineage-cursor/1"
_PIECE: Final = 1 << 16


class Cursor(Struct, frozen=True):
    """The events before byte `offset` are dealt with; so many were sent and refused since the first.

    The first `refused_bytes` of the list of refused events are durable; None where an older version wrote it.
    """

    offset: int = 0
    sent: int = 0
    refused: int = 0
    refused_bytes: int | None = None
    format: str = CURSOR_FORMAT


class Refusal(Struct, frozen=True):
    """An event that was set aside: the byte it begins at, how the server answered, and when (UTC)."""

    offset: int
    status: int
    time: str
    event: msgspec.Raw


class Outbox:
    """The events of one file that are still to be shipped. `cursor` is how far that is done."""

    def __init__(self, disk: Disk, cursor: Path, refused: Path, read: Callable[[int, int], tuple[int, bytes]]) -> None:
        """`read(first, last)` returns bytes of the file, and where they begin if not at `first`."""
        self._disk = disk
        self._path = cursor
        self._refused = refused
        self._read = read
        self.cursor = self._load()

    def _load(self) -> Cursor:
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=Cursor)
        except FileNotFoundError:
            return Cursor()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            found = None
        if found is None or found.format != CURSOR_FORMAT:
            log.warning("openlineage.cursor_damaged", file=str(self._path))
            return Cursor()  # all of it once more is within what was promised
        return found

    def next(self, end: int) -> bytes | None:
        """Return the next event before byte `end`, with its newline; None where all are dealt with."""
        first = self.cursor.offset
        if first > end:  # the file was put back to an earlier state: what it gets from here on is new
            log.warning("openlineage.cursor_ahead", offset=first, end=end)
            self.cursor = msgspec.structs.replace(self.cursor, offset=end)
            return None
        size = _PIECE
        while first < end:
            begin, data = self._read(first, min(end, first + size))
            if begin > first:
                log.warning("openlineage.events_missing", offset=first, length=begin - first)
                self.cursor = msgspec.structs.replace(self.cursor, offset=begin)
                return self.next(end)
            at = data.find(b"\n")
            if at >= 0:
                return data[: at + 1]
            if first + size >= end:
                return None
            size *= 2
        return None

    def left(self, end: int) -> int:
        """Return how many events before byte `end` are still to be dealt with."""
        at, count = self.cursor.offset, 0
        while at < end:
            _, data = self._read(at, min(end, at + _PIECE))
            if not data:
                break
            count += data.count(b"\n")
            at += len(data)
        return count

    def sent(self, event: bytes) -> None:
        """Move behind an event that was taken."""
        now = self.cursor
        self._move(msgspec.structs.replace(now, offset=now.offset + len(event), sent=now.sent + 1))

    def set_aside(self, event: bytes, status: int, time: str) -> None:
        """Keep an event that the server refused with `status`, and move behind it.

        If we die between the two, it is sent once more; where it is refused again, its line takes the place of what was
        written for it, of which no sync may have said that it is on the disk.
        """
        now = self.cursor
        line = msgspec.json.encode(Refusal(now.offset, status, time, msgspec.Raw(event.rstrip(b"\n")))) + b"\n"
        fd = self._disk.open(self._refused)
        try:
            size = os.fstat(fd).st_size  # less than is known of, where somebody took events out
            end = size if now.refused_bytes is None else min(size, now.refused_bytes)
            if end < size:
                self._disk.truncate(fd, end, self._refused)
            self._disk.write_at(fd, line, end, self._refused)
            self._disk.sync(fd, self._refused)
        finally:
            self._disk.close(fd)
        self._disk.sync_directory(self._refused.parent)
        self._move(msgspec.structs.replace(
            now, offset=now.offset + len(event), refused=now.refused + 1, refused_bytes=end + len(line)
        ))  # fmt: skip

    def _move(self, cursor: Cursor) -> None:
        self._disk.replace_file(self._path, msgspec.json.encode(cursor) + b"\n")
        self.cursor = cursor
