"""A file that a pipeline appends to, in steps that an audit log commits before they are made.

Owns: the open and locked file, `Extent`, and whether the bytes of a step are there. Leaves to `edges.durable` the
system calls, and to `shell.pipelines.stream_commits` which steps there are, and what becomes of a difference.

The running hash of a file is SHA-256 over the hash before (32 bytes; zeros at the beginning) and the bytes of the step,
step after step. Invariants: what lies before the last committed step is never written again; what no step wrote is in
no hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from tidewaiter.core.audit import GENESIS
from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.tables.decompressing import READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
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

    def follows(self, before: Extent) -> bool:
        """Tell whether this step begins where the one before ended."""
        return (self.begin, self.before) == (before.end, before.after)

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
        self._whole = hashlib.sha256()
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

    def confirm(self, extent: Extent, told: Callable[[int], None]) -> bool:
        """Tell whether the bytes of the next step are there; `told` gets how many bytes of it were read, part by part.

        The steps are confirmed, or written, one after the other from the beginning on.
        """
        running, whole = hashlib.sha256(bytes.fromhex(extent.before)), self._whole.copy()
        for at in range(extent.begin, extent.end, READ_BYTES):
            part = os.pread(self._fd, min(READ_BYTES, extent.end - at), at)
            running.update(part)
            whole.update(part)
            told(len(part))
        if extent.end > extent.begin and running.hexdigest() != extent.after:
            return False
        self._whole = whole
        return True

    def settle(self, begin: int, end: int) -> None:
        """Make durable what is there; bytes `begin` to `end` are those that no run has said are.

        What was readable after a kill may be in memory only, and after a sync that failed stay there for ever: so they
        are written again. Raises DurabilityError. If we die here, they are what they were.
        """
        for at in range(begin, end, READ_BYTES):
            self._disk.write_at(self._fd, os.pread(self._fd, min(READ_BYTES, end - at), at), at, self.path)
        self._disk.datasync(self._fd, self.path)

    def write(self, extent: Extent, data: bytes) -> None:
        """Write the bytes of a committed step, durably. Raises NoSpace and DurabilityError."""
        if data:
            # If we die here, any part may be found; the next start derives the same bytes again from the input.
            self._disk.write_at(self._fd, data, extent.begin, self.path)
            self._disk.datasync(self._fd, self.path)
            self._whole.update(data)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of what was confirmed and written: that of the file, if nobody else wrote to it."""
        return self._whole.hexdigest()

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
