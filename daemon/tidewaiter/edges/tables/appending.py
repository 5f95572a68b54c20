"""A file that a pipeline appends to, in steps that an audit log commits before they are made.

Owns: the open and locked file, `Extent`, and putting right what a crash left. Leaves to `edges.durable` the system
calls, and to `shell.pipelines.following` which step is the last one that counts.

The running hash of a file is SHA-256 over the hash before (32 bytes; zeros at the beginning) and the bytes of the step,
step after step. Invariant: what lies before the last committed step is never written again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from tidewaiter.core.audit import GENESIS
from tidewaiter.core.errors import ConfigError, IntegrityRefusal

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.edges.durable import Disk


class Extent(Struct, frozen=True):
    """One step: its bytes `begin` to `end` of the file, and the running hash (hex) before and after it."""

    begin: int = 0
    end: int = 0
    before: str = GENESIS
    after: str = GENESIS

    def then(self, data: bytes) -> Extent:
        """Return the next step, which appends `data`."""
        return Extent(self.end, self.end + len(data), self.after, _running(self.after, data))

    def holds(self, data: bytes) -> bool:
        """Tell whether `data` are the bytes of this step."""
        return _running(self.before, data) == self.after


def _running(before: str, data: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(before) + data).hexdigest() if data else before


class AppendedFile:
    """The file, open and locked."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """Open `path`, or make it, durably. Raises ConfigError (no file, another writer) and DurabilityError."""
        self.path = path
        self._disk = disk
        disk.make_directory(path.absolute().parent)
        if os.path.lexists(path) and not path.is_file():
            raise ConfigError(f"{path}: is not a regular file", hint="name a file to append to")
        self._fd = disk.open(path)
        try:
            self._lock()
            disk.sync_directory(path.absolute().parent)
        except BaseException:
            self.close()
            raise

    @property
    def length(self) -> int:
        """Bytes that are there."""
        return os.fstat(self._fd).st_size

    def needs(self, extent: Extent) -> bool:
        """Tell whether the bytes of the last committed step are not all there and have to be written again.

        Raises IntegrityRefusal where bytes of an earlier step are missing.
        """
        if self.length < extent.begin:
            raise IntegrityRefusal(
                f"{self.path}: ends at byte {self.length}, but bytes up to {extent.begin} were written and confirmed",
                hint="restore it from a back-up; nothing was changed",
            )
        return not extent.holds(os.pread(self._fd, extent.end - extent.begin, extent.begin))

    def settle(self, end: int) -> int:
        """Cut what lies behind `end`, make durable what is there, and return how many bytes were cut."""
        beyond = self.length - end
        if beyond > 0:
            # If we die here, either length may be found; the next start does the same.
            self._disk.truncate(self._fd, end, self.path)
        # What was readable after a kill may be in memory only.
        self._disk.datasync(self._fd, self.path)
        return beyond

    def write(self, extent: Extent, data: bytes) -> None:
        """Write the bytes of a committed step, durably. Raises NoSpace and DurabilityError."""
        if data:
            # If we die here, any part may be found; the next start derives the same bytes again from the input.
            self._disk.write_at(self._fd, data, extent.begin, self.path)
            self._disk.datasync(self._fd, self.path)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of the whole file, as sha256sum prints it."""
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()

    def close(self) -> None:
        """Let the file go."""
        self._disk.close(self._fd)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "stop that run, or name another file"
            raise ConfigError(f"{self.path}: is being written by another run", hint=hint) from error
        except OSError as error:
            hint = "put it on a local file system"
            raise ConfigError(f"{self.path}: cannot be locked: {error.strerror}", hint=hint) from error
