"""A stream read again by position, for people who ask about the past: lines at global offsets, and stretches of them.

Owns: finding the file that holds a recorded segment, and reading whole lines from it. Reads only; works beside a
running daemon. Leaves to `shell.stream_files` which file is which segment, and the daemon's own reading, which decides
something, to `edges.stream`.

Units: offsets are global bytes of decompressed content, times microseconds since 1970.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.compressed import Damaged, NotWhole, open_reader
from tidewaiter.shell.stream_files import is_segment, members_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tidewaiter.core.chain_of_segments import Member
    from tidewaiter.core.position import ClosedSegment, Position

BLOCK_BYTES: Final = 1 << 20
_NARROW: Final = 1 << 16
"""A stretch this short is read rather than cut in half once more."""


class Gone(Exception):  # noqa: N818 - an ordinary answer: old segments are deleted
    """The file of a segment is not there any more, or does not hold these bytes; the text says which."""


@dataclass(frozen=True)
class _Part:
    """One segment: where it begins and ends globally, and its file, None where there is none."""

    start: int
    end: int
    name: str
    file: Path | None
    encoding: str


class History:
    """The committed bytes of one stream."""

    def __init__(self, stream: Path, closed: Sequence[ClosedSegment], position: Position | None) -> None:
        """`closed` are the segments that ended, `position` is where the one being read stands."""
        folder = stream if stream.is_dir() else stream.parent
        members = members_of(stream) if folder.is_dir() else ()
        parts: dict[int, _Part] = {}
        for one in closed:
            if one.start >= 0 and one.length:
                parts[one.start] = _part(folder, members, one, one.length)
        if position is not None and position.offset and position.start not in parts:
            parts[position.start] = _part(folder, members, position, position.offset)
        self._parts = [parts[start] for start in sorted(parts)]

    def line_at(self, offset: int) -> bytes:
        """Return the line that begins at `offset`, with its newline. Raises Gone."""
        part = self._part_at(offset)
        size, line = _NARROW, b""
        while b"\n" not in line and offset + len(line) < part.end:
            line = self._bytes(part, offset, min(offset + size, part.end))
            size *= 4
        end = line.find(b"\n") + 1
        if not end:
            raise Gone(f"{part.name} has no whole line at byte {offset - part.start}")
        return line[:end]

    def digest(self, first: int, last: int) -> str:
        """Return the SHA-256 (hex) of the bytes from `first` up to `last` of one segment. Raises Gone."""
        return hashlib.sha256(self._bytes(self._part_at(first), first, last)).hexdigest()

    def blocks(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Yield the whole lines from the one that begins at or after `first` up to `last`, as (offset, bytes).

        Parts that are gone are left out; `gone_between` tells.
        """
        for part in self._parts:
            low, high = max(part.start, first), min(part.end, last)
            if low < high and part.file is not None:
                yield from self._lines(part, low, high)

    def gone_between(self, first: int, last: int) -> list[str]:
        """Return the names of the segments of that stretch whose files are gone."""
        return [part.name for part in self._parts if part.file is None and part.start < last and part.end > first]

    def begins_segment(self, offset: int) -> bool:
        """Return whether a segment begins at `offset`, so that a byte order mark may stand there."""
        return any(part.start == offset for part in self._parts)

    def since(self, end: int, time_of: Callable[[bytes], int | None], earliest: int) -> int:
        """Return an offset from which on all lines before `end` stand whose time is at least `earliest`.

        `time_of` gives the time of a line, None for one that has none. Times hardly ever go back: a megabyte more than
        needed is taken for those that do. Where a segment is gone, the one behind it is the beginning.
        """
        begin = end
        for part in reversed(self._parts):
            if part.start >= end:
                continue
            if part.file is None:
                break
            begin = part.start
            first = self._first_time(part, part.start, min(part.end, end), time_of)
            if first is not None and first < earliest:
                return self._halve(part, min(part.end, end), time_of, earliest)
        return begin

    def _halve(self, part: _Part, end: int, time_of: Callable[[bytes], int | None], earliest: int) -> int:
        if part.encoding:  # it can be read forwards only
            return part.start
        low, high = part.start, end
        while high - low > _NARROW:
            middle = (low + high) // 2
            time = self._first_time(part, middle, high, time_of)
            if time is not None and time < earliest:
                low = middle
            else:
                high = middle
        return max(low - BLOCK_BYTES, part.start)

    def _first_time(self, part: _Part, first: int, last: int, time_of: Callable[[bytes], int | None]) -> int | None:
        for _, data in self._lines(part, first, min(last, first + BLOCK_BYTES)):
            for line in data.split(b"\n")[:-1]:
                time = time_of(line)
                if time is not None:
                    return time
        return None

    def _part_at(self, offset: int) -> _Part:
        part = next((part for part in self._parts if part.start <= offset < part.end), None)
        if part is None:
            raise Gone(f"byte {offset} lies in no segment that is known")
        if part.file is None:
            raise Gone(f"the segment {part.name}, which held byte {offset}, is gone, or begins otherwise now")
        return part

    def _lines(self, part: _Part, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Yield whole lines as blocks; what stands before the first newline is left out, unless a line begins there."""
        rest, at = b"", first
        begun = first == part.start or self._bytes(part, first - 1, first) == b"\n"
        for data in self._pieces(part, first, last):
            rest += data
            if not begun:
                cut = rest.find(b"\n") + 1
                if not cut:
                    at, rest = at + len(rest), b""
                    continue
                at, rest, begun = at + cut, rest[cut:], True
            end = rest.rfind(b"\n") + 1
            if end:
                yield at, rest[:end]
                at, rest = at + end, rest[end:]

    def _bytes(self, part: _Part, first: int, last: int) -> bytes:
        return b"".join(self._pieces(part, first, last))

    def _pieces(self, part: _Part, first: int, last: int) -> Iterator[bytes]:
        """Yield the bytes from `first` up to `last`. Raises Gone."""
        assert part.file is not None  # noqa: S101 - the callers leave such parts out
        begin, end = first - part.start, last - part.start
        try:
            with part.file.open("rb", buffering=0) as raw:
                if not part.encoding:
                    while begin < end and (data := os.pread(raw.fileno(), min(BLOCK_BYTES, end - begin), begin)):
                        yield data
                        begin += len(data)
                    return
                reader, at = open_reader(raw, "gz" if part.encoding == "gz" else "zst"), 0
                while at < end and (data := reader.read(BLOCK_BYTES)):
                    if at + len(data) > begin:
                        yield data[max(begin - at, 0) : end - at]
                    at += len(data)
        except (OSError, NotWhole, Damaged) as error:
            raise Gone(f"{part.file} cannot be read: {str(error) or 'it is not whole'}") from error


def _part(folder: Path, members: Sequence[Member], read: ClosedSegment | Position, length: int) -> _Part:
    fitting = [one for one in members if is_segment(folder / one.file.name, read.segment)]
    same = [one for one in fitting if one.file.key == (read.segment.dev, read.segment.ino)]
    found = next(iter(same or fitting), None)
    return _Part(
        start=read.start,
        end=read.start + length,
        name=read.segment.name,
        file=None if found is None else folder / found.file.name,
        encoding="" if found is None else found.name.encoding,
    )


def read_files(stream: Path) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Yield name, size and content, in blocks, of each file of a stream that nobody may have read, the oldest first.

    Raises ConfigError where one cannot be read.
    """
    folder = stream if stream.is_dir() else stream.parent
    members = members_of(stream) if folder.is_dir() else ()
    if not members:
        raise ConfigError(f"stream {stream} does not exist", hint="correct the path")
    for member in members:
        yield member.file.name, member.file.size, _content(folder / member.file.name, member.name.encoding)


def _content(path: Path, encoding: str) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as raw:
            reader = open_reader(raw, "gz" if encoding == "gz" else "zst") if encoding else raw
            while data := reader.read(BLOCK_BYTES):
                yield data
    except (OSError, NotWhole, Damaged) as error:
        raise ConfigError(
            f"{path}: cannot be read: {str(error) or 'it is not whole'}", hint="check the file"
        ) from error


def time_reader(key: str) -> Callable[[bytes], int | None]:
    """Return what gives the time of a line, in microseconds since 1970, None for a line without a usable one.

    `key` is the name of the time field, which stands in the line's outermost object.
    """
    import datetime as dt  # noqa: PLC0415 - one use

    shape = msgspec.defstruct("_Timed", [("at", dt.datetime)], rename={"at": key}, module=__name__)
    decoder = msgspec.json.Decoder(shape)
    epoch, unit = dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.timedelta(microseconds=1)

    def read(line: bytes) -> int | None:
        try:
            time = decoder.decode(line).at  # type: ignore[attr-defined]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return (time - epoch) // unit if time.tzinfo is not None else None

    return read
