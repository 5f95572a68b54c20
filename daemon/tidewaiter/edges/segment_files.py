"""Listing the stream's files and reading one segment: the system calls behind the stream.

Owns: descriptors, reading bounded blocks, and noticing that the file under a descriptor shrank or was rewritten. Leaves
to `edges.survey` which file is which, and to `edges.stream` when to look.

Invariants:
- Only names are opened that a listing gave, and what was opened is what was listed (same device and inode).
- A read that was cancelled loses nothing: plain files are read at explicit places, and the result of a decompression
  that went on in its thread is taken by the next read.
- Nothing is ever written.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import aiofiles
import aiofiles.os
import msgspec
from msgspec import Struct

from tidewaiter.core.chain_of_segments import FileStat, Head, Member, Probe, Record, digest, record_of
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.position import HEAD_BYTES, SegmentCursor
from tidewaiter.core.segment_findings import corrupt, rewritten, truncated
from tidewaiter.edges.compressed import Damaged, NotWhole, Scan, open_reader

if TYPE_CHECKING:
    import io
    from collections.abc import Callable
    from pathlib import Path

    from aiofiles.threadpool.binary import AsyncFileIO

    from tidewaiter.core.chain_of_segments import FileKey, Naming

SKIP_BYTES: Final = 64 << 20  # decompressed in one hop: about a quarter of a second
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_T = TypeVar("_T")

_pread: Final = aiofiles.os.wrap(os.pread)
INLINE_BYTES: Final = 1 << 16
"""Up to so many bytes that are in the page cache anyway are read where we are: a hop to a thread takes ten times as
long as the copy (measured: 0.1 to 0.2 ms a hop while other threads are busy)."""


async def _read_at(fd: int, count: int, offset: int) -> bytes:
    """Return up to `count` bytes at `offset`, on a thread where the disk might have to be waited for."""
    if count <= INLINE_BYTES:
        buffer = bytearray(count)
        try:
            got = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError:  # not in the cache (EAGAIN), or a file system that cannot tell (EOPNOTSUPP)
            got = 0
        if got:
            return bytes(memoryview(buffer)[:got])
    data: bytes = await _pread(fd, count, offset)
    return data


async def run(function: Callable[..., _T], *arguments: Any) -> _T:  # noqa: ANN401 - whatever `function` takes
    """Run a blocking function on a thread of the default pool, the one that aiofiles uses."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


class InOrder:
    """Blocking steps of one stateful object.

    The result of a step whose caller was cancelled goes to the next caller.
    """

    def __init__(self) -> None:
        self._pending: asyncio.Future[Any] | None = None

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:  # noqa: ANN401 - as above
        """Run `function`, or take over the step that is still under way."""
        if self._pending is None:
            self._pending = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
        pending: asyncio.Future[_T] = self._pending
        try:
            result = await asyncio.shield(pending)
        except asyncio.CancelledError:
            raise  # the step goes on; its result is for the next caller
        except BaseException:
            self._pending = None
            raise
        self._pending = None
        return result

    async def settle(self) -> None:
        """Wait until no step is under way."""
        if self._pending is not None:
            await asyncio.wait([self._pending])
            self._pending = None


class Moved(Exception):  # noqa: N818 - an ordinary event: somebody renames while we look
    """The name does not stand for the listed file any more; list again."""


def unreadable(path: Path, error: OSError) -> ConfigError:
    """Return the error for a stream that cannot be read at all."""
    return ConfigError(
        f"{path}: the stream cannot be read: {error.strerror}",
        hint="give the daemon's user read access to the file and search access to its directories"
        if isinstance(error, PermissionError)
        else "check the path and the file system",
    )


# -- listing -----------------------------------------------------------------------------------------------------------


class Listing(Struct, frozen=True):
    """The stream's files as found; `stamp` changes with every name in the directory, None if there is no directory."""

    files: tuple[FileStat, ...]
    stamp: tuple[int, int, int] | None


def directory_stamp(directory: Path) -> tuple[int, int, int] | None:
    """Return what changes when a name in the directory appears, goes or is renamed; None without a directory."""
    try:
        found = directory.stat()
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise unreadable(directory, error) from error
    return (found.st_dev, found.st_ino, found.st_mtime_ns)


def list_files(directory: Path, naming: Naming) -> Listing:
    """List the regular files whose names belong to the stream. A missing directory is an empty listing.

    Raises ConfigError if it cannot be listed, or if the stream's own name is not a regular file.
    """
    stamp = directory_stamp(directory)
    files: list[FileStat] = []
    if stamp is None:
        return Listing(files=(), stamp=None)
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if naming.parse(entry.name) is None:
                    continue
                found = _stat_entry(entry)
                if found is not None and stat.S_ISREG(found.st_mode):
                    _refuse_unspeakable(directory, entry.name)
                    files.append(_file_stat(entry.name, found))
                elif found is not None and entry.name == naming.live:
                    raise ConfigError(
                        f"{directory / entry.name}: is not a regular file",
                        hint="name a file that is appended to, or a directory of segments with a slash at its end",
                    )
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return Listing(files=(), stamp=None)
        raise unreadable(directory, error) from error
    return Listing(files=tuple(files), stamp=stamp)


def find_by_key(directory: Path, key: FileKey) -> FileStat | None:
    """Return the file of that device and inode under whatever name, for streams that are switched by a symlink."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.inode() == key[1] and not entry.is_symlink()]
    except OSError:
        return None
    for name in names:
        found = stat_file(directory / name)
        if found is not None and stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) == key:
            _refuse_unspeakable(directory, name)
            return _file_stat(name, found)
    return None


def stat_file(path: Path) -> os.stat_result | None:
    """Return what the name stands for, symlinks followed; None if it is not there (any more)."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise unreadable(path, error) from error


def _stat_entry(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return what the entry stands for, symlinks followed; None if it is gone, or points nowhere."""
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def _refuse_unspeakable(directory: Path, name: str) -> None:
    """Raise ConfigError for a name that is not UTF-8: neither the audit log nor a flag could say it."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        escaped = os.fsencode(directory / name).decode("utf-8", "backslashreplace")
        raise ConfigError(
            f"{escaped}: the name of this segment is not valid UTF-8",
            hint="rename it so that it keeps its place in the order of the names",
        ) from error


def renamed(file: FileStat, name: str) -> FileStat:
    """Return the same file under another name."""
    return msgspec.structs.replace(file, name=name)


def _file_stat(name: str, found: os.stat_result) -> FileStat:
    return FileStat(
        name=name,
        dev=found.st_dev,
        ino=found.st_ino,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
    )


# -- looking into a file -----------------------------------------------------------------------------------------------


def open_raw(path: Path, key: FileKey) -> io.FileIO:
    """Open the listed file, unbuffered. Raises Moved if the name stands for another file now, ConfigError."""
    try:
        raw = path.open("rb", buffering=0)
    except OSError as error:
        if error.errno in _ABSENT:
            raise Moved from error
        raise unreadable(path, error) from error
    found = os.fstat(raw.fileno())
    if (found.st_dev, found.st_ino) != key:
        raw.close()
        raise Moved
    return raw


def read_head(path: Path, member: Member) -> Head:
    """Return the first <= 1 KiB of the content. Raises Moved, ConfigError."""
    with open_raw(path, member.file.key) as raw:
        if not member.name.encoding:
            return Head(data=os.pread(raw.fileno(), HEAD_BYTES, 0))
        reader = open_reader(raw, member.name.encoding)
        data = b""
        try:
            while len(data) < HEAD_BYTES and (more := reader.read(HEAD_BYTES - len(data))):
                data += more
        except (NotWhole, Damaged):
            return Head(data=data, certain=False)
        return Head(data=data)


def read_heads(directory: Path, members: list[Member]) -> list[Head | None]:
    """Return the head of each; None for one that moved away meanwhile."""
    heads: list[Head | None] = []
    for member in members:
        try:
            heads.append(read_head(directory / member.file.name, member))
        except Moved:
            heads.append(None)
    return heads


def probe_plain(path: Path, key: FileKey, records: list[Record]) -> Probe:
    """Return the file's length and the bytes before the end of each record. Raises Moved, ConfigError."""
    with open_raw(path, key) as raw:
        fd = raw.fileno()
        tails = {
            record.length: os.pread(fd, record.tail_len, record.length - record.tail_len)
            for record in sorted(records, key=lambda record: record.tail_len)
        }
        return Probe(length=os.fstat(fd).st_size, tails=tails)


def begin_scan(path: Path, member: Member, marks: frozenset[tuple[int, int]]) -> Scan:
    """Begin a pass over a compressed file. Raises Moved, ConfigError."""
    return Scan(open_raw(path, member.file.key), member.name.encoding, marks)


# -- reading one segment -----------------------------------------------------------------------------------------------


class Segment(Protocol):
    """The segment being read. `cursor` is the place of the next byte; `stale` that it must be opened anew."""

    member: Member
    cursor: SegmentCursor
    stale: bool

    async def read(self, limit: int) -> bytes | None:
        """Return the next bytes, nothing at the end of what there is, None while the place is not reached yet."""

    def stat(self) -> os.stat_result:
        """Return the state of the open file, whatever its name is now."""

    def remaining(self) -> int:
        """Return the bytes known to be there behind the place; compressed bytes for a compressed file."""

    async def close(self) -> None:
        """Let go of the file."""


class PlainSegment:
    """A plain file, read at explicit places; what was read is compared again with each read and each change."""

    def __init__(self, path: Path, member: Member, file: AsyncFileIO, cursor: SegmentCursor) -> None:
        self.member = member
        self.cursor = cursor
        self.stale = False
        self._path = path
        self._file = file
        self._fd = file.fileno()
        self._mtime_ns = 0

    @property
    def fd(self) -> int:
        """The descriptor, for reading committed bytes again."""
        return self._fd

    async def read(self, limit: int) -> bytes | None:
        """Return up to `limit` bytes. Raises StreamRefusal if the bytes before them are not what was read."""
        found = os.fstat(self._fd)
        offset = self.cursor.offset
        if found.st_size == offset:
            if found.st_mtime_ns != self._mtime_ns:
                self._compare()
                self._mtime_ns = found.st_mtime_ns
            return b""
        if found.st_size < offset:
            raise truncated(self.member.file.name, self._record(), found.st_size)
        try:
            data = await _read_at(self._fd, min(limit, found.st_size - offset), offset)
        except OSError as error:
            raise unreadable(self._path, error) from error
        # After the read: a file that was truncated and filled again while we read shows it here.
        self._compare()
        if data:
            self.cursor.advance(data)
        return data

    def stat(self) -> os.stat_result:
        """Return the state of the open file."""
        return os.fstat(self._fd)

    def remaining(self) -> int:
        """Return the bytes behind the place."""
        return max(os.fstat(self._fd).st_size - self.cursor.offset, 0)

    def unchanged(self) -> bool:
        """Return whether the file ends at the place, as the last `read` found it, and nobody has written since."""
        found = os.fstat(self._fd)
        return found.st_size == self.cursor.offset and found.st_mtime_ns == self._mtime_ns

    async def close(self) -> None:
        """Let go of the file."""
        await self._file.close()

    def _record(self) -> Record:
        return record_of(self.cursor.position)

    def _compare(self) -> None:
        """Raise StreamRefusal unless the bytes before the place are still those that were read (they are cached)."""
        tail = self.cursor.tail
        try:
            found = os.pread(self._fd, len(tail), self.cursor.offset - len(tail))
        except OSError as error:
            raise unreadable(self._path, error) from error
        if found == tail:
            return
        size = os.fstat(self._fd).st_size
        if size < self.cursor.offset:
            raise truncated(self.member.file.name, self._record(), size)
        raise rewritten(self.member.file.name, self._record(), found, size)


class CompressedSegment:
    """A whole compressed file; to begin in its middle, what comes before is decompressed and dropped."""

    def __init__(self, member: Member, raw: io.FileIO, cursor: SegmentCursor) -> None:
        self.member = member
        self.cursor = cursor
        self.stale = False
        self._raw = raw
        self._reader = open_reader(raw, member.name.encoding)
        self._steps = InOrder()
        self._skip = cursor.offset
        self._whole_as = (member.file.size, member.file.mtime_ns)

    async def read(self, limit: int) -> bytes | None:
        """Return up to `limit` bytes of content. Raises StreamRefusal (corrupt)."""
        if self.changed():
            self.stale = True
            return b""
        try:
            if self._skip:
                self._skip -= await self._steps.run(skip, self._reader, self._skip, SKIP_BYTES)
                return None
            data = await self._steps.run(self._reader.read, limit)
        except NotWhole:
            self.stale = True
            return b""
        except Damaged as error:
            raise corrupt(self.member.file.name, error.why, error.at) from error
        if data:
            self.cursor.advance(data)
        return data

    def changed(self) -> bool:
        """Return whether the file is not any more what was found to be whole."""
        found = os.fstat(self._raw.fileno())
        return (found.st_size, found.st_mtime_ns) != self._whole_as

    def stat(self) -> os.stat_result:
        """Return the state of the open file."""
        return os.fstat(self._raw.fileno())

    def remaining(self) -> int:
        """Return the compressed bytes that were not taken yet."""
        return max(os.fstat(self._raw.fileno()).st_size - self._raw.tell(), 0)

    async def close(self) -> None:
        """Let go of the file once no thread reads it."""
        await self._steps.settle()
        self._raw.close()


def skip(reader: Any, count: int, budget: int) -> int:  # noqa: ANN401 - a compressed.Reader
    """Drop up to `count` bytes, at most about `budget` of them, and return how many."""
    done = 0
    while done < min(count, budget):
        data = reader.read(min(count - done, 1 << 20))
        if not data:
            raise NotWhole
        done += len(data)
    return done


async def open_plain(path: Path, member: Member, cursor: SegmentCursor, record: Record | None) -> PlainSegment:
    """Open a plain file at the cursor, or at `record` after comparing its content.

    Raises Moved, StreamRefusal, ConfigError.
    """
    try:
        file = await aiofiles.open(path, "rb", buffering=0)
    except OSError as error:
        if error.errno in _ABSENT:
            raise Moved from error
        raise unreadable(path, error) from error
    try:
        found = os.fstat(file.fileno())
        if (found.st_dev, found.st_ino) != member.file.key:
            raise Moved
        if record is not None:
            cursor = await _resume(file.fileno(), path, member, cursor, record)
        return PlainSegment(path, member, file, cursor)
    except BaseException:
        await file.close()
        raise


async def _resume(fd: int, path: Path, member: Member, cursor: SegmentCursor, record: Record) -> SegmentCursor:
    try:
        head = await _pread(fd, HEAD_BYTES, 0)
        tail = await _pread(fd, record.tail_len, record.length - record.tail_len)
        size = os.fstat(fd).st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if size < record.length:
        raise truncated(member.file.name, record, size)
    if record.tail_len and digest(tail) != record.tail_sha256:
        raise rewritten(member.file.name, record, tail, size)
    return SegmentCursor(
        cursor.name, cursor.dev, cursor.ino, cursor.start, head=head[: record.length], tail=tail, offset=record.length
    )
