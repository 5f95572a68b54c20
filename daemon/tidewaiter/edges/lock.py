"""One daemon for each state directory: the lock file, and who holds it.

Owns: the file ``STATE/lock``. Leaves to `shell.supervisor` that it is taken before anything else in the state
directory is read or written, and to `shell.commands` what to tell a person who finds it taken.

The lock is a POSIX record lock: the kernel lets it go when the process ends, however it ends, and tells anybody who
asks which process holds it (F_GETLK), so that `probe` need not take it, not even for a moment. The file stays empty
and is never removed: removing it would let two processes hold "the" lock, on two files of one name.

The price, and the invariant of this module: when a process closes *any* descriptor of a file, all its record locks on
that file are gone. So a process that holds the lock never opens the file a second time; `_held` knows which those are.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

FILE_MODE: Final = 0o640
HIDDEN_PID: Final = 0
"""What `probe` says where the holder lives in a pid namespace that cannot be seen from here (a container)."""

_FLOCK: Final = struct.Struct("@hhqqi0q")  # struct flock on 64-bit Linux: type, whence, start, length, pid
_ATTEMPTS: Final = 10

_held: dict[tuple[int, int], int] = {}
"""Device and inode of each lock this process holds, and the pid that took it: a forked child inherits no locks."""


class StateLock:
    """The right to write one state directory; a context manager, or `acquire` for the life of the process."""

    def __init__(self, path: Path) -> None:
        """`path` is the lock file; its directory must exist when the lock is taken."""
        self.path = path
        self._fd = -1
        self._identity = (0, 0)

    def acquire(self) -> Self:
        """Take the lock without waiting. Raises ConfigError: in use (with the holder's pid), or no permission."""
        for _ in range(_ATTEMPTS):
            if _held_here(_identity(self.path)):
                raise _in_use_here(self.path)
            fd = _open(self.path)
            status = os.fstat(fd)
            identity = status.st_dev, status.st_ino
            if _held_here(identity):  # renamed between the two looks; `fd` stays open, closing it would drop the lock
                raise _in_use_here(self.path)
            try:
                locked = _try_to_lock(fd, self.path)
            except BaseException:
                os.close(fd)
                raise
            # A lock on a file that has lost its name since is worth nothing.
            if locked and _identity(self.path) == identity:
                self._fd, self._identity = fd, identity
                _held[identity] = os.getpid()
                return self
            os.close(fd)
        raise ConfigError(f"{self.path}: cannot be locked: it changes hands all the time", hint="try again")

    def release(self) -> None:
        """Let the lock go; the file stays. The end of the process does the same."""
        if self._fd >= 0:
            _held.pop(self._identity, None)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def probe(path: Path) -> int | None:
    """Return the pid of the process that holds the lock, None where nobody does; never takes it.

    `HIDDEN_PID` stands for a process that cannot be seen from here. Needs permission to read the file; raises
    ConfigError without it.
    """
    if _held_here(_identity(path)):
        return os.getpid()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot tell whether a daemon runs: {error.strerror}",
            hint="run this as a member of the file's group",
        ) from error
    try:
        return _holder(fd)
    except OSError as error:
        raise ConfigError(f"{path}: cannot tell whether a daemon runs: {error.strerror}") from error
    finally:
        os.close(fd)


def _try_to_lock(fd: int, path: Path) -> bool:
    """Return whether the lock was taken; False where the holder let go between two looks. Raises ConfigError."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EAGAIN}:
            raise ConfigError(
                f"{path}: cannot be locked: {error.strerror}", hint="put the state directory on a local file system"
            ) from error
        pid = _holder(fd)
        if pid is None:
            return False
        raise ConfigError(
            f"{path.parent}: in use by another tidewaiter ({f'pid {pid}' if pid != HIDDEN_PID else 'in a container'})",
            hint="stop that one first, or name another state directory",
        ) from None
    return True


def _holder(fd: int) -> int | None:
    """Ask the kernel which other process a write lock would collide with."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else max(int(pid), HIDDEN_PID)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            # If we die here, an empty file is left, which is what the next start expects.
            fd = os.open(path, flags | os.O_EXCL, FILE_MODE)
        except FileExistsError:
            fd = os.open(path, flags, FILE_MODE)
        else:
            _give_to_owner_of_directory(fd, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{path}: the state directory does not exist", hint="create it, or name another") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be opened: {error.strerror}", hint="check owner and permissions of the state directory"
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(f"{path}: is not a regular file", hint="move it away")
    return fd


def _give_to_owner_of_directory(fd: int, path: Path) -> None:
    """Let the daemon's own user take the lock later, where root was the first; only ever a file made just now."""
    if os.geteuid() != 0:
        return
    try:
        owner = os.stat(path.parent)  # noqa: PTH116 - as in _identity
        os.fchown(fd, owner.st_uid, owner.st_gid)
    except OSError:
        os.close(fd)
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - looks at the name without opening the file
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _held_here(identity: tuple[int, int] | None) -> bool:
    return identity is not None and _held.get(identity) == os.getpid()


def _in_use_here(path: Path) -> ConfigError:
    return ConfigError(f"{path.parent}: in use by this very process (pid {os.getpid()})", hint="take the lock once")
