"""The only module that writes what must survive a crash, and the only caller of fsync, fdatasync, replace and truncate.

Owns: the handful of write-like system calls, and what their failures mean. Leaves to `edges.journal` the order in
which they are made, and to `edges.recovery` what may be on the disk after a crash. Two places in the state directory
are written by others, because nothing there is ever read back: ``log/`` by `edges.logs`, ``lock`` by `edges.lock`.

Rules:
- A failed fsync or fdatasync is never retried on that descriptor: the kernel has marked the pages clean and a second
  call would lie (see the PostgreSQL "fsyncgate" discussion of 2018). It raises `SyncFailed`; the process ends with
  exit 5 and the next start rewrites what was not confirmed.
- A full disk at a write raises `NoSpace`; whoever writes cuts back to the last commit and may try again.
- A file is durable only after its own fsync and that of the directory holding its name.

Every call blocks; callers on the event loop go through a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from tidewaiter.core.errors import ConfigError, DurabilityError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FILE_MODE = 0o640
DIRECTORY_MODE = 0o750


class SyncFailed(DurabilityError):  # noqa: N818 - named for what happened
    """fsync or fdatasync failed: what was written since the last success may be lost without a trace."""


class NoSpace(DurabilityError):  # noqa: N818 - named for what happened
    """A write found the disk or quota full; nothing after the last commit counts."""


class Disk:
    """The write-like system calls, one method each, so that a test can record, fail or kill at any of them.

    The underscore methods are the bare calls; tests override those. The public ones add the meaning of failure.
    """

    def __init__(self, owner: tuple[int, int] | None = None) -> None:
        """`owner` (uid, gid) is given to every new file and directory: for root working in the daemon's directory."""
        self._owner = owner
        self._confirmed: set[Path] = set()

    # -- the bare calls ------------------------------------------------------------------------------------------

    def _open(self, path: Path, flags: int) -> int:
        fd = os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
        if self._owner is not None:
            os.fchown(fd, *self._owner)
        return fd

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def _fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def _fsync(self, fd: int) -> None:
        os.fsync(fd)

    def _ftruncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def _replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def _unlink(self, path: Path) -> None:
        os.unlink(path)

    def _rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def _mkdir(self, path: Path) -> None:
        os.mkdir(path, DIRECTORY_MODE)
        if self._owner is not None:
            os.chown(path, *self._owner)

    def _fsync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- with their meaning --------------------------------------------------------------------------------------

    def open(self, path: Path, *, follow: bool = True) -> int:
        """Open `path` for reading and writing, creating it; the name is durable only after `sync_directory`.

        Raises ConfigError where the file cannot be opened for writing at any offset, `chattr +a` included; and where
        it is a symbolic link and `follow` is not said.
        """
        return self._opened(path, os.O_CREAT | (0 if follow else os.O_NOFOLLOW))

    def create(self, path: Path) -> int | None:
        """Do what `open` does for a name that is not taken yet; None where it is."""
        try:
            return self._opened(path, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return None

    def _opened(self, path: Path, flags: int) -> int:
        try:
            return self._open(path, os.O_RDWR | flags)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace(f"{path}: cannot be created: {error.strerror}", hint="free some space") from error
            why = "check owner and permissions of the state directory"
            if error.errno == errno.EPERM:
                why = "is it append-only (chattr +a)? that belongs on sealed segments only"
            raise ConfigError(f"{path}: cannot be opened for writing: {error.strerror}", hint=why) from error

    def close(self, fd: int) -> None:
        """Close a descriptor; says nothing about durability."""
        with contextlib.suppress(OSError):
            os.close(fd)

    def write_at(self, fd: int, data: bytes | memoryview, offset: int, path: Path) -> None:
        """Write all of `data` at the absolute byte `offset`, continuing after short writes.

        Raises NoSpace on a full disk and DurabilityError otherwise. If we die here, any part of `data` may be in the
        file; recovery knows from the audit log what belongs there.
        """
        view = memoryview(data)
        done = 0
        try:
            while done < len(view):
                count = self._pwrite(fd, view[done:], offset + done)
                if count <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += count
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace(f"{path}: {error.strerror} at byte {offset + done}", hint="free some space") from error
            raise DurabilityError(
                f"{path}: write failed at byte {offset + done}: {error.strerror}",
                hint="check the disk, then start again",
            ) from error

    def datasync(self, fd: int, path: Path) -> None:
        """Make the file's bytes and size durable. Raises SyncFailed; never to be retried on this descriptor."""
        try:
            self._fdatasync(fd)
        except OSError as error:
            raise _sync_failed(path, error) from error

    def sync(self, fd: int, path: Path) -> None:
        """Make the file's bytes and metadata durable. Raises SyncFailed."""
        try:
            self._fsync(fd)
        except OSError as error:
            raise _sync_failed(path, error) from error

    def truncate(self, fd: int, length: int, path: Path) -> None:
        """Cut the file to `length` bytes. If we die here, either length may be found."""
        try:
            self._ftruncate(fd, length)
        except OSError as error:
            raise DurabilityError(f"{path}: cannot be cut to {length} bytes: {error.strerror}") from error

    def sync_directory(self, path: Path) -> None:
        """Make creations, renames and removals inside `path` durable. Raises SyncFailed."""
        try:
            self._fsync_directory(path)
        except OSError as error:
            raise _sync_failed(path, error) from error

    def rename(self, source: Path, target: Path) -> None:
        """Give `source` the name `target` and make that durable. If we die here, either name may be found."""
        try:
            self._replace(source, target)
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace(f"{target}: cannot be named: {error.strerror}", hint="free some space") from error
            raise DurabilityError(f"{source}: cannot be renamed to {target.name}: {error.strerror}") from error
        self.sync_directory(target.parent)

    def unlink(self, path: Path) -> None:
        """Remove a name, if it is there; durable only after `sync_directory`."""
        try:
            self._unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DurabilityError(f"{path}: cannot be removed: {error.strerror}") from error

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory, if it is there; durable only after `sync_directory`."""
        try:
            self._rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DurabilityError(f"{path}: cannot be removed: {error.strerror}") from error
        self._confirmed.discard(path)

    def make_directory(self, path: Path) -> None:
        """Create `path` and its parents where missing, each durable in its parent. Raises ConfigError, SyncFailed.

        If we die before the parent is synced, the name is there but in memory only: so a directory that is found is
        synced in its parent, too, the first time it is asked for.
        """
        if path.is_dir():
            self._confirm(path)
            return
        if path.parent != path:
            self.make_directory(path.parent)
        try:
            self._mkdir(path)
        except FileExistsError as error:
            if path.is_dir():
                self._confirm(path)
                return
            raise ConfigError(f"{path}: is not a directory", hint="name a directory") from error
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace(f"{path}: cannot be created: {error.strerror}", hint="free some space") from error
            raise ConfigError(
                f"{path}: cannot be created: {error.strerror}", hint="create it, or check the permissions of its parent"
            ) from error
        self.sync_directory(path.parent)
        self._confirmed.add(path)

    def _confirm(self, path: Path) -> None:
        """Sync the name of a directory that was there, once: what is below it was only made when that was done."""
        if path in self._confirmed:
            return
        # a parent that may not be opened, like that of a home directory, is none that a run of ours made this name in
        if os.access(path.parent, os.R_OK):
            self.sync_directory(path.parent)
        self._confirmed.add(path)

    def replace_file(self, path: Path, data: bytes) -> None:
        """Put `data` under the name `path`, all or nothing: temp, fsync, rename, directory fsync.

        If we die here, the old content or the new one is found, and perhaps a leftover ``.NAME.tmp`` that the next
        call overwrites.
        """
        self.replace_parts(path, [data])

    def replace_parts(self, path: Path, parts: Iterable[bytes]) -> None:
        """Put all `parts`, one after the other, under the name `path`, as `replace_file` does.

        What the parts raise while they are made goes on, and the old content stays.
        """
        temporary = path.with_name(f".{path.name}.tmp")
        fd = self.open(temporary)
        length = 0
        try:
            self.truncate(fd, 0, temporary)
            for part in parts:
                self.write_at(fd, part, length, temporary)
                length += len(part)
            self.sync(fd, temporary)
        except BaseException:
            with contextlib.suppress(DurabilityError):
                self.unlink(temporary)
            raise
        finally:
            self.close(fd)
        self.rename(temporary, path)


def _sync_failed(path: Path, error: OSError) -> SyncFailed:
    return SyncFailed(
        f"{path}: fsync failed: {error.strerror}",
        hint="the bytes since the last commit are not confirmed; check the disk, then start again to recover",
    )
