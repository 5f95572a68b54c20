"""The writing end of a stream file: whole lines, appended; nothing half-written stays.

Owns: the descriptor a producer appends through, its lock, what a full disk leaves behind, the removal of a producer's
own partial last line, following a rotation made by others, and making one. Leaves to `edges.durable` the system calls
that cut and rename, to `core.money_flow_generator` what the last lines mean, and to its two users, `shell.producer`
and `shell.generate_file`, which lines to write and when.

Invariants:
- The descriptor is O_APPEND and nothing is ever written but at the end; each group of whole lines is one write call.
- What a failed or short write left over is kept and written first by the next call, so that a reader that has seen
  half a line sees its other half, never something else.
- One producer a file: an advisory lock (flock) on the file itself refuses a second one.

A stream file is not state of the daemon: it is not fsynced, its loss in a power failure is that of its last events.
Every call blocks; callers on the event loop go through a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from tidewaiter.core.errors import ConfigError, DurabilityError
from tidewaiter.core.money_flow_generator import may_be_own
from tidewaiter.edges.durable import FILE_MODE, Disk, NoSpace

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

TAIL_BYTES: Final = 1 << 16
ROTATION_GRACE_SECONDS: Final = 1.0
"""How long a renamed file is still appended to while the new one does not exist or may not be opened yet: a rotation
tool creates it and gives it its owner within milliseconds, and creating it first would get in its way."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found: `removed` bytes of a partial last line are gone; `tail` is at most 64 KiB of last whole lines.

    Where the file holds no line yet, `tail` is that of its predecessor, NAME.1.
    """

    removed: int
    tail: bytes


class AppendingFile:
    """A stream file to append to. `length` is its length in bytes, as far as this writer knows."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path = path
        self.length = 0
        self._disk = Disk() if disk is None else disk
        self._fd = -1
        self._identity = (0, 0)
        self._pending = b""
        self._unfinished = 0  # bytes at the end of the file after its last newline
        self._away_since: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Opened:
        """Open or create the file and its directory, and cut a partial last line of a producer that died.

        Raises NoSpace on a full disk, and ConfigError where the file cannot be appended to: permissions, another
        producer, no regular file, or an unterminated last line of other origin.
        """
        self._disk.make_directory(self.path.parent)
        fd = self._open_bare()
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{self.path}: is not a regular file", hint="name a file to append events to")
            self._lock(fd)
            size = os.fstat(fd).st_size
            end = _end_of_lines(fd, size)
            if end < size:
                self._cut(fd, end, size)
            tail = os.pread(fd, TAIL_BYTES, max(end - TAIL_BYTES, 0))
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._identity, self._away_since = fd, (status.st_dev, status.st_ino), None
        self.length, self._unfinished = end, 0
        return Opened(size - end, tail or self._tail_of_predecessor())

    def append(self, data: bytes) -> None:
        """Append `data`, whole lines unless half a line is what the caller wants.

        Raises NoSpace or DurabilityError; what was not written then stays pending until `flush` or `withdraw`. If we
        die here, the file may end in a partial line; the next `open` removes it.
        """
        self._pending += data
        self.flush()

    def flush(self) -> None:
        """Write what is pending. Raises as `append` does."""
        while self._pending:
            try:
                count = self._write(self._fd, self._pending)
                if count <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                where = f"{self.path}: {error.strerror} at byte {self.length}"
                if error.errno in _FULL:
                    raise NoSpace(where, hint="free some space") from error
                raise DurabilityError(where, hint="check the disk, then start again") from error
            newline = self._pending.rfind(b"\n", 0, count)
            self._unfinished = self._unfinished + count if newline < 0 else count - newline - 1
            self._pending = self._pending[count:]
            self.length += count

    def withdraw(self) -> None:
        """Forget what is pending and cut a line that is only partly written. Raises DurabilityError."""
        self._pending = b""
        if self._unfinished and self._fd >= 0:
            # If we die here, the next `open` does the same.
            end = os.fstat(self._fd).st_size - self._unfinished
            self._disk.truncate(self._fd, end, self.path)
            self.length, self._unfinished = end, 0

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the file that is appended to."""
        return self._identity

    def follow(self, now: float) -> Opened | None:
        """Go over to the file that has the path now, if that is another one; None if not. `now` in monotonic seconds.

        The old file gets no byte after that. Raises as `open` does, but lets a rotation tool finish first: a file that
        is not there yet, or is not ours yet, is waited for while the old one is appended to.
        """
        if self._pending or self._unfinished:
            return None  # the other half of a line belongs where the first one is
        try:
            there = os.stat(self.path)  # noqa: PTH116 - the pair with fstat is what is compared
        except FileNotFoundError:
            deleted = os.fstat(self._fd).st_nlink == 0
            return self.open() if deleted or self._grace_is_over(now) else None
        if (there.st_dev, there.st_ino) == self._identity:
            self._away_since = None
            return None
        try:
            return self.open()
        except ConfigError:
            if self._grace_is_over(now):
                raise
            return None

    def _grace_is_over(self, now: float) -> bool:
        if self._away_since is None:
            self._away_since = now
        return now - self._away_since >= ROTATION_GRACE_SECONDS

    def rotate(self) -> None:
        """Rename the file to NAME.1, older ones to one number higher, and go on with a new, empty file.

        Raises DurabilityError or what `open` raises. If we die here, a number or NAME itself may be missing; the bytes
        and their order by number are complete at every moment.
        """
        count = 1
        while self._numbered(count).exists():
            count += 1
        for number in range(count - 1, 0, -1):
            self._disk.rename(self._numbered(number), self._numbered(number + 1))
        self._disk.rename(self.path, self._numbered(1))
        self.open()

    def close(self) -> None:
        """Close the file; a caller that wants no partial line behind calls `withdraw` before."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, fd: int, data: bytes) -> int:
        """The bare call; tests fail it."""
        return os.write(fd, data)

    def _open_bare(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace(f"{self.path}: cannot be created: {error.strerror}", hint="free some space") from error
            raise ConfigError(
                f"{self.path}: cannot be opened for appending: {error.strerror}",
                hint="check the path, its owner and its permissions",
            ) from error

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{self.path}: another producer is writing this file", hint="stop it first, or name another file"
            ) from error
        except OSError as error:
            # A file system without locks: going without is better than refusing to write there.
            if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}:
                raise

    def _cut(self, fd: int, end: int, size: int) -> None:
        if not may_be_own(os.pread(fd, min(size - end, TAIL_BYTES), end)):
            raise ConfigError(
                f"{self.path}: the last line (from byte {end}) has no newline and was not written by this producer",
                hint="end the line or remove it, or name another file",
            )
        self._disk.truncate(fd, end, self.path)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _tail_of_predecessor(self) -> bytes:
        try:
            with self._numbered(1).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - TAIL_BYTES, 0))
                return file.read(TAIL_BYTES)
        except OSError:
            return b""  # it only makes the numbering nicer; without it the documented fallback is as good


def _end_of_lines(fd: int, size: int) -> int:
    """Return the length up to and including the last newline, reading backwards no further than needed."""
    end = size
    while end > 0:
        start = max(end - TAIL_BYTES, 0)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
