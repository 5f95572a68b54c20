"""The files of a stream as `status` sees them: how many bytes wait, and which files are no longer needed.

Owns: finding a segment among the files by content, for reports only. Leaves to `core.chain_of_segments` which names
belong to the stream and their order, and the decisions that reading rests on; nothing here changes a position.
"""

from __future__ import annotations

import gzip
import hashlib
from stat import S_ISREG
from typing import TYPE_CHECKING

from tidewaiter.core.chain_of_segments import FileStat, naming_of, order_chain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tidewaiter.core.chain_of_segments import Member
    from tidewaiter.core.position import ClosedSegment, Position, SegmentId

_COMPRESSED = (".gz", ".zst")


def members_of(stream: Path) -> tuple[Member, ...]:
    """Return the files of the stream, the oldest first. Raises ConfigError where their names have no order."""
    return order_chain(naming_of(stream.name, directory=stream.is_dir()), _listing(stream))


def _listing(stream: Path) -> list[FileStat]:
    """List the files whose names belong to the stream, plain and compressed ones."""
    naming = naming_of(stream.name, directory=stream.is_dir())
    found = []
    for path in _folder(stream).iterdir():
        if naming.parse(path.name) is None:
            continue
        try:
            status = path.stat()
        except FileNotFoundError:  # rotated away meanwhile
            continue
        if S_ISREG(status.st_mode):
            found.append(
                FileStat(
                    name=path.name,
                    dev=status.st_dev,
                    ino=status.st_ino,
                    size=status.st_size,
                    mtime_ns=status.st_mtime_ns,
                    ctime_ns=status.st_ctime_ns,
                )
            )
    return found


def _folder(stream: Path) -> Path:
    return stream if stream.is_dir() else stream.parent


def lag_of(stream: Path | None, position: Position | None, closed: Sequence[ClosedSegment]) -> int | None:
    """Return the bytes of the stream behind `position`, or None where that cannot be told.

    For a compressed file its compressed size stands in: the other one is not known without reading it.
    """
    if stream is None or not _folder(stream).is_dir():
        return None
    members, folder = members_of(stream), _folder(stream)
    if position is None:
        return sum(member.file.size for member in members)
    key = (position.segment.dev, position.segment.ino)
    fitting = [at for at, one in enumerate(members) if is_segment(folder / one.file.name, position.segment)]
    if fitting:
        place = next((at for at in fitting if members[at].file.key == key), fitting[-1])
        current = members[place]
        rest = 0 if current.name.encoding else max(0, current.file.size - position.offset)
        return rest + sum(member.file.size for member in members[place + 1 :])
    if any(position.segment == one.segment for one in closed):  # read to its end, and deleted since
        read = [one.segment for one in closed]
        unread = [one for one in members if not any(is_segment(folder / one.file.name, segment) for segment in read)]
        return sum(member.file.size for member in unread)
    return None


def deletable_files(stream: Path | None, closed: Sequence[ClosedSegment], offset: int) -> list[str]:
    """Return the files that hold exactly a closed segment which ends at or before the global `offset`.

    A plain file must have the segment's length and both hashes; a compressed one its first bytes.
    """
    if stream is None or not _folder(stream).is_dir():
        return []
    done = [one for one in closed if one.start >= 0 and one.start + one.length <= offset and one.segment.head_len]
    return [
        str(_folder(stream) / file.name)
        for file in sorted(_listing(stream), key=lambda file: file.name)
        if any(_holds(_folder(stream) / file.name, file.size, one) for one in done)
    ]


def _holds(path: Path, size: int, closed: ClosedSegment) -> bool:
    if not is_segment(path, closed.segment):
        return False
    if path.suffix in _COMPRESSED:
        return True
    if size != closed.length:
        return False
    with path.open("rb") as file:
        file.seek(closed.length - closed.tail_len)
        tail = file.read(closed.tail_len)
    return not closed.tail_len or hashlib.sha256(tail).hexdigest() == closed.tail_sha256


def is_segment(path: Path, segment: SegmentId) -> bool:
    """Whether the file's first bytes are the segment's; one of which nothing was read is known by its inode."""
    try:
        if segment.head_len == 0:
            status = path.stat()
            return (status.st_dev, status.st_ino) == (segment.dev, segment.ino)
        head = _head(path, segment.head_len)
    except (OSError, EOFError, ValueError):
        return False
    return len(head) == segment.head_len and hashlib.sha256(head).hexdigest() == segment.head_sha256


def _head(path: Path, length: int) -> bytes:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            return file.read(length)
    if path.suffix == ".zst":
        import zstandard  # noqa: PLC0415 - only where such a file lies there

        try:
            with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as reader:
                return bytes(reader.read(length))
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
    with path.open("rb") as file:
        return file.read(length)
