"""The file that a pipeline writes: there as a whole when the run succeeded, or not at all.

Owns: `Replacement`, bytes that take the place of a file in one step; `Output`, a table written to one by a thread of
its own; and the same for standard output, which gets its first byte when the last one is known. Leaves to `writers`
what the bytes are, to `edges.durable` the system calls, and to `shell.pipelines` when an output is published.

Invariants:
- Under its own name there is the previous file or the new one, whenever the process dies. What was begun lies beside it
  as ``.NAME.tmp``; the next run overwrites that.
- One run at a time writes ``.NAME.tmp``: it is locked. It is a regular file with this one name: anything else that
  lies there, a link above all, is taken away, so that nobody's file is written to.
- The digest is that of the bytes handed to the disk, computed on the way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self

from msgspec import Struct

from tidewaiter.core.errors import ConfigError, DurabilityError
from tidewaiter.edges.tables.writers import check_writable, write_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import polars as pl

    from tidewaiter.core.pipelines.columns import Schema
    from tidewaiter.core.pipelines.table_format import KnownFormat
    from tidewaiter.edges.durable import Disk

STDOUT: Final = "-"
_WAITING: Final = 2
"""So many batches wait for the thread that writes."""
_COPY_BYTES: Final = 1 << 20
SYNC_BYTES: Final = 1 << 25
"""After so many bytes they are brought to the disk, while the next are made: then little is left to wait for."""


class Written(Struct, frozen=True):
    """What a file holds: SHA-256 (hex) and length of its bytes, and the number of records."""

    sha256: str
    length: int
    records: int


class _Target(Protocol):
    """Where the bytes go."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> tuple[str, int]: ...
    def publish(self) -> None: ...
    def abandon(self) -> None: ...


class Replacement:
    """Bytes that take the place of the file at `path`, or that begin it, in one step."""

    def __init__(self, path: Path, disk: Disk, *, overwrite: bool = True) -> None:
        """Begin ``.NAME.tmp`` beside `path`, whose directory is made where it is missing; links are followed.

        Raises ConfigError where that cannot be, where `path` is no regular file, where it is there and `overwrite` is
        not said, or where another run is writing it; and DurabilityError.
        """
        self.path = path
        self._disk = disk
        self._target = path.resolve()
        if os.path.lexists(self._target):
            if not self._target.is_file():
                raise ConfigError(f"{path}: is not a regular file", hint="name a file")
            if not overwrite:
                raise ConfigError(f"{path}: is there already", hint="name a new file, or allow it to be overwritten")
        disk.make_directory(self._target.parent)
        self._temporary = self._target.with_name(f".{self._target.name}.tmp")
        self._fd = self._open()
        self._hash = hashlib.sha256()
        self._length = self._synced = 0
        try:
            disk.truncate(self._fd, 0, path)
        except BaseException:
            self.abandon()
            raise

    def write(self, data: bytes) -> None:
        """Append `data`. Raises NoSpace and DurabilityError; `abandon` is what is left to do then."""
        # If we die here, ``.NAME.tmp`` holds any part of what was written; nobody reads it.
        self._disk.write_at(self._fd, data, self._length, self.path)
        self._hash.update(data)
        self._length += len(data)
        if self._length - self._synced >= SYNC_BYTES:
            self._disk.datasync(self._fd, self.path)
            self._synced = self._length

    def finish(self) -> tuple[str, int]:
        """Make the bytes durable, still under the temporary name; return their SHA-256 (hex) and number."""
        self._disk.sync(self._fd, self.path)
        return self._hash.hexdigest(), self._length

    def publish(self) -> None:
        """Give the file its name, durably. Raises DurabilityError."""
        # If we die here, before the rename: the previous file, and a whole ``.NAME.tmp``. After it: the new file, which
        # a power failure may still take back to the previous one until the directory is synced.
        self._disk.rename(self._temporary, self._target)
        self._close()

    def abandon(self) -> None:
        """Remove what was begun; the file at `path` stays as it is. Again, or after `publish`, is no error."""
        if self._fd >= 0:
            # If we die here, ``.NAME.tmp`` stays. It is removed before the lock goes, so that it is nobody else's.
            with contextlib.suppress(DurabilityError):
                self._disk.unlink(self._temporary)
            self._close()

    def _open(self) -> int:
        while True:
            try:
                fd = self._disk.open(self._temporary, follow=False)
            except ConfigError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ELOOP:
                    self._disk.unlink(self._temporary)  # a symbolic link
                    continue
                why = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error.message
                hint = "check owner and permissions of its directory"
                raise ConfigError(f"{self.path}: cannot be written: {why}", hint=hint) from error
            if self._is_ours(fd):
                return fd
            self._disk.close(fd)

    def _is_ours(self, fd: int) -> bool:
        """Lock the file.

        False if it lost its name in between, to a run that published or abandoned it just then, or loses it now since
        it is no regular file or has another name as well.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there, here = self._temporary.lstat(), os.fstat(fd)
        except BlockingIOError as error:
            self._disk.close(fd)
            hint = "wait for it, or name another file"
            raise ConfigError(f"{self.path}: is being written by another run", hint=hint) from error
        except FileNotFoundError:
            return False
        except OSError as error:
            self._disk.close(fd)
            hint = "put it on a local file system"
            raise ConfigError(f"{self.path}: cannot be locked: {error.strerror}", hint=hint) from error
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            return False
        if stat.S_ISREG(here.st_mode) and here.st_nlink == 1:
            return True
        try:
            self._disk.unlink(self._temporary)
        except DurabilityError:
            self._disk.close(fd)
            raise
        return False

    def _close(self) -> None:
        self._disk.close(self._fd)
        self._fd = -1


class _StandardOutput:
    """Bytes for standard output, kept in a file without a name until the run has succeeded."""

    def __init__(self, disk: Disk) -> None:
        self.path = Path(STDOUT)
        self._disk = disk
        self._hash = hashlib.sha256()
        self._length = 0
        place = Path(tempfile.mkdtemp(prefix="tidewaiter-"))
        try:
            self._fd = disk.open(place / "output")
            disk.unlink(place / "output")
        finally:
            disk.remove_directory(place)

    def write(self, data: bytes) -> None:
        self._disk.write_at(self._fd, data, self._length, Path(tempfile.gettempdir()))
        self._hash.update(data)
        self._length += len(data)

    def finish(self) -> tuple[str, int]:
        return self._hash.hexdigest(), self._length

    def publish(self) -> None:
        try:
            for at in range(0, self._length, _COPY_BYTES):
                sys.stdout.buffer.write(os.pread(self._fd, _COPY_BYTES, at))
            sys.stdout.buffer.flush()
        except OSError as error:
            raise DurabilityError(
                f"standard output: {error.strerror}", hint="its reader must take all of it"
            ) from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1


class Output:
    """A table that takes the place of a file in one step; a context manager that abandons what was not published."""

    def __init__(
        self,
        path: Path | Literal["-"],
        known: KnownFormat,
        schema: Schema,
        disk: Disk,
        *,
        overwrite: bool = True,
    ) -> None:
        """Begin the file, and a thread that writes it; ``-`` is standard output.

        Raises ConfigError where the table or the file cannot be written in this way, and DurabilityError.
        """
        check_writable(known, str(path), schema)
        standard = str(path) == STDOUT
        self._target: _Target = (
            _StandardOutput(disk) if standard else Replacement(Path(path), disk, overwrite=overwrite)
        )
        self._known = known
        self._schema = schema
        self._channel = _Channel()
        self._records = 0
        self._error: BaseException | None = None
        # A daemon, so that a caller that is torn down without `abandon` does not wait for it for ever.
        self._thread = threading.Thread(target=self._work, name="output", daemon=True)
        self._thread.start()

    def write(self, frame: pl.DataFrame) -> None:
        """Hand over rows; ROW and other columns beside those of the schema are left out. Waits while two are waiting.

        Raises NoSpace and DurabilityError, and SourceHalt for a value that the format cannot hold, of this call or one
        before; the output is abandoned then.
        """
        self._channel.put(frame)
        self._raise()

    def finish(self) -> Written:
        """Write what was handed over, durably, under the temporary name; nothing is visible yet. Raises as `write`."""
        self._channel.end()
        self._thread.join()
        self._raise()
        try:
            sha256, length = self._target.finish()
        except BaseException:
            self.abandon()
            raise
        return Written(sha256, length, self._records)

    def publish(self) -> None:
        """Make it visible under its name, in one step and durably; standard output gets its bytes now.

        Only after `finish`. Raises DurabilityError.
        """
        self._target.publish()

    def abandon(self) -> None:
        """Forget it: the temporary file is removed, the previous output untouched. Again is no error."""
        self._channel.give_up()
        self._thread.join()
        self._target.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.abandon()

    def _work(self) -> None:
        try:
            self._records = write_table(iter(self._channel), self._known, self._schema, self._target.write)
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            self._error = error
            self._channel.give_up()

    def _raise(self) -> None:
        if self._error is not None:
            self.abandon()
            raise self._error


class _GivenUp(Exception):  # noqa: N818 - an order, not a defect
    """Nobody wants the output any more."""


class _Channel:
    """Frames on their way from one thread to another, a few at a time; either side may give up."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frames: deque[pl.DataFrame] = deque()
        self._ended = False
        self._given_up = False

    def put(self, frame: pl.DataFrame) -> None:
        """Hand over a frame; waits for room. After `give_up` it is dropped."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._frames) < _WAITING or self._given_up)
            if not self._given_up:
                self._frames.append(frame)
            self._changed.notify_all()

    def end(self) -> None:
        """Say that no frame follows."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def give_up(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._given_up = True
            self._frames.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield the frames up to the end. Raises _GivenUp."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._frames) or self._ended or self._given_up)
                if self._given_up:
                    raise _GivenUp
                if not self._frames:
                    return
                frame = self._frames.popleft()
                self._changed.notify_all()
            yield frame
