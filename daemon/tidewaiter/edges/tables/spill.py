"""Rows on disk while a step waits for the rest of its input: a private directory that is gone when the run is.

Owns: the directory, its parts (files of rows), and removing what a killed run left behind. Leaves to `sorting`,
`partitions` and `joining` what goes into which part, and to `shell.pipelines` where the directory lies and when to look
for leftovers.

Nothing here is state: no file is ever synced, none is read by a later run, and none is open but while it is written or
read. A part is Arrow IPC frames one after the other; where each begins, and its CRC-32, is known to the process only.
A directory belongs to the process that holds an flock on its file ``lock``: one that nobody holds is a leftover.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from tidewaiter.core.errors import ConfigError, DurabilityError
from tidewaiter.edges.durable import Disk, NoSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

PREFIX: Final = ".tidewaiter-spill-"
LOCK: Final = "lock"
_ATTEMPTS: Final = 10


class _Piece(NamedTuple):
    offset: int
    length: int
    check: int


class SpillDirectory:
    """A private directory below `place`, made when the first part is; entering and leaving it bounds its life."""

    def __init__(self, place: Path, disk: Disk | None = None) -> None:
        """`place` is an existing directory on a file system with room for the input."""
        self.place = place
        self.disk = disk or Disk()
        self.path: Path | None = None
        """The directory, once it was made."""
        self.written = 0
        """Bytes written so far, by all parts."""
        self._lock = -1
        self._parts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                _empty(self.path)
            os.close(self._lock)
            self.path, self._lock = None, -1

    def directory(self) -> Path:
        """Return the directory, made if it is not there yet: for files, no trees, that are to go with it.

        Raises NoSpace and ConfigError where it cannot be made.
        """
        if self.path is None:
            self.path, self._lock = _new_directory(self.place)
        return self.path

    def part(self) -> SpillPart:
        """Return a new part, empty. Raises like `directory`."""
        self._parts += 1
        return SpillPart(self, self.directory() / f"{self._parts}.rows")


class SpillPart:
    """Frames in the order in which they were put there."""

    def __init__(self, directory: SpillDirectory, path: Path) -> None:
        """`path` is made at the first `append`."""
        self._directory = directory
        self._path = path
        self._size = 0
        self._pieces: list[_Piece] = []

    def __len__(self) -> int:
        return len(self._pieces)

    def append(self, frame: pl.DataFrame) -> None:
        """Put the rows of `frame` at the end. Raises NoSpace and DurabilityError, both naming the file."""
        buffer = io.BytesIO()
        frame.write_ipc_stream(buffer, compression="lz4")
        data = buffer.getvalue()
        disk = self._directory.disk
        fd = disk.open(self._path)
        try:
            # If we die here, the directory is a leftover: the next run removes it.
            disk.write_at(fd, data, self._size, self._path)
        finally:
            disk.close(fd)
        self._pieces.append(_Piece(self._size, len(data), zlib.crc32(data)))
        self._size += len(data)
        self._directory.written += len(data)

    def read(self) -> Iterator[pl.DataFrame]:
        """Yield the frames. Raises DurabilityError where the disk gives back something else than was put there."""
        return map(self.at, range(len(self._pieces)))

    def at(self, place: int) -> pl.DataFrame:
        """Return the frame at `place`, from 0. Raises DurabilityError like `read`."""
        offset, length, check = self._pieces[place]
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                data = file.read(length)
        except OSError as error:
            raise DurabilityError(
                f"{self._path}: cannot be read back: {error.strerror}", hint="run it again"
            ) from error
        if zlib.crc32(data) != check:
            problem = f"{self._path}: bytes {offset} to {offset + length} are not what was written"
            raise DurabilityError(problem, hint="check the disk, then run it again")
        return pl.read_ipc_stream(io.BytesIO(data))

    def remove(self) -> None:
        """Give the space back; the part has no rows any more."""
        self._directory.disk.unlink(self._path)
        self._pieces.clear()
        self._size = 0


def remove_leftovers(place: Path) -> list[Path]:
    """Remove the directories in `place` whose processes are gone, and return those removed.

    Only directories of this user are touched, and only what a `SpillDirectory` puts there: files, no trees.
    """
    removed: list[Path] = []
    with contextlib.suppress(OSError):
        for path in sorted(place.glob(f"{PREFIX}*")):
            with contextlib.suppress(OSError):
                if _remove_leftover(path):
                    removed.append(path)
    return removed


def _remove_leftover(path: Path) -> bool:
    """Return whether `path` was a leftover. Raises OSError where it cannot be removed."""
    status = path.lstat()
    if path.is_symlink() or not path.is_dir() or status.st_uid != os.geteuid():
        return False
    try:
        lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        # Being made just now, or left between its last two removals; its maker goes on elsewhere when it is gone.
        path.rmdir()
        return True
    try:
        if not _locked(lock):
            return False
        _empty(path)
    finally:
        os.close(lock)
    return True


def _empty(path: Path) -> None:
    """Remove the directory; its lock is held, and goes last: if we die here, what is left is still a leftover."""
    for file in path.iterdir():
        if file.name != LOCK:
            file.unlink()
    (path / LOCK).unlink()
    path.rmdir()


def _new_directory(place: Path) -> tuple[Path, int]:
    """Return a directory that only this user can look into, and the descriptor that holds its lock."""
    try:
        for _ in range(_ATTEMPTS):
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))  # mode 0700
            with contextlib.suppress(FileNotFoundError):  # another run took it for a leftover: make a new one
                lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                if _locked(lock) and (path / LOCK).exists():
                    return path, lock
                os.close(lock)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{place}: no room for temporary files: {error.strerror}", hint="free some space") from error
        problem = f"{place}: temporary files cannot be made here: {error.strerror}"
        raise ConfigError(problem, hint="check the permissions of the directory") from error
    raise ConfigError(f"{place}: temporary files cannot be made here: they vanish all the time", hint="try again")


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
