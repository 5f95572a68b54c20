"""Lineage in one file: a line that says what it is, then one record a line, only ever appended to.

Owns: reading such a file, appending to it for one writer at a time, and replacing it as a whole. Leaves to
`core.lineage.records` what a record is, to `edges.durable` the system calls, to `shell.lineage` the threads.

Invariant: of what was written, never more than the last `AT_RISK` bytes may be missing after a crash, since no more is
written before the next fdatasync. So a writer that opens the file has to look at no more than these for what an
interrupted write left: a line without its end, or pages that were never written, which are zeros that no record
contains. What begins with such a line is copied aside and cut. A writer reads the first line and at least the last
`_LOOKED_AT` bytes, however long the file is, and refuses what is no record there; what is no record in the middle is
refused by whoever reads the file. A reader takes no lock and leaves out what the next writer would cut.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
import time
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal
from tidewaiter.core.lineage.records import LineageRecord
from tidewaiter.edges.lineage_place import open_existing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tidewaiter.edges.durable import Disk

VERSION: Final = 1
AT_RISK: Final = 8 << 20
_READ: Final = 4 << 20
_LOOKED_AT: Final = 64 << 10
_PAUSE_S: Final = 0.02
_NO_FILE: Final = "name a file that was made by tidewaiter's lineage, or a new one; nothing was changed"
_RESTORE: Final = "restore the file from a back-up; nothing was changed"


class _Head(msgspec.Struct, frozen=True):
    lineage_graph: int


_record: Final = msgspec.json.Decoder(LineageRecord)
_encoder: Final = msgspec.json.Encoder()
HEAD: Final = _encoder.encode(_Head(VERSION)) + b"\n"
_HEAD_BYTES: Final = 128


def lines_of(records: Iterable[LineageRecord]) -> bytes:
    """Return the lines of these records. Raises ValueError for a text that UTF-8 cannot hold."""
    return _encoder.encode_lines(records)


# -- reading -----------------------------------------------------------------------------------------------------------


class Reading:
    """One way through a file, some thousand records at a time; `incomplete` counts the bytes left out at its end."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self.path = path
        self.incomplete = 0

    def __iter__(self) -> Iterator[list[LineageRecord]]:
        """Yield the records in their order. Raises ConfigError (unreadable, no lineage) and IntegrityRefusal."""
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}", hint="check the path") from error
        with file:
            try:
                head = file.readline(_HEAD_BYTES)
                if not head.endswith(b"\n") and HEAD.startswith(head):
                    self.incomplete = len(head)
                    return
                _check_head(self.path, head)
                yield from self._blocks(iter(lambda: file.read(_READ), b""), len(head))
            except OSError as error:
                raise ConfigError(f"{self.path}: cannot be read: {error.strerror}", hint="check the path") from error

    def _blocks(self, blocks: Iterator[bytes], offset: int) -> Iterator[list[LineageRecord]]:
        rest = b""
        for block in blocks:
            end = block.rfind(b"\n") + 1
            if not end:
                rest += block
                continue
            lines = rest + block[:end]
            rest = block[end:]
            records = self.decoded(lines, offset)
            offset += len(lines)
            yield records
            if self.incomplete:
                return
        self.incomplete = len(rest)

    def decoded(self, lines: bytes, offset: int) -> list[LineageRecord]:
        """Return the records in whole lines that begin at byte `offset`. Raises IntegrityRefusal for another line."""
        try:
            return _record.decode_lines(lines)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._one_by_one(lines, offset)

    def _one_by_one(self, lines: bytes, offset: int) -> list[LineageRecord]:
        """Return the records up to the rest of an interrupted write, or say which line is no record."""
        records: list[LineageRecord] = []
        at = 0
        for line in (line + b"\n" for line in lines.split(b"\n")[:-1]):
            rest = self.path.stat().st_size - offset - at if b"\0" in line else 0
            if 0 < rest <= AT_RISK:  # pages never written: the next writer cuts them off
                self.incomplete = rest
                return records
            try:
                records.append(_record.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise IntegrityRefusal(
                    f"{self.path}: byte {offset + at}: the line there is no record of lineage: {error}", hint=_RESTORE
                ) from error
            at += len(line)
        return records


def _check_head(path: Path, head: bytes) -> None:
    try:
        version = msgspec.json.decode(head, type=_Head).lineage_graph
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ConfigError(
            f"{path}: is no lineage file: its first line is not {HEAD.decode().strip()}", hint=_NO_FILE
        ) from None
    if version != VERSION:
        raise ConfigError(
            f"{path}: is a lineage file of version {version}; this tidewaiter reads version {VERSION}",
            hint="read it with the tidewaiter that wrote it, or a newer one",
        )


# -- appending ---------------------------------------------------------------------------------------------------------


class LineageFile:
    """A lineage file that this process appends to. Not for several threads at once.

    `notices` says what was found and put right while it was opened.
    """

    def __init__(self, path: Path, disk: Disk, *, durable: bool, wait_s: float = 0.0) -> None:
        """Open the file or make it, with its directory. `durable`: each append returns when its bytes are on the disk.

        Where another writer has it, wait up to `wait_s` seconds. Raises ConfigError (another writer, no permission, no
        lineage file), IntegrityRefusal (no record in the first or the last lines) and DurabilityError.
        """
        self.path = path
        self.length = 0
        self.notices: list[str] = []
        self._disk = disk
        self._durable = durable
        self._unsynced = 0
        self._unusable: DurabilityError | None = None
        self._pid = os.getpid()
        self._identity = (0, 0)
        disk.make_directory(path.parent)
        self._fd = disk.open(path)
        try:
            self._lock(wait_s)
            self._go_to_end()
        except BaseException:
            self.release()
            raise

    def _lock(self, wait_s: float) -> None:
        """Take the file for this writer alone: flock, which holds between processes and within one."""
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{self.path}: is not a regular file", hint="name a file")
        take_alone(self._fd, self.path, wait_s)
        self._identity = status.st_dev, status.st_ino
        self._refuse_foreign_change(status.st_size, moved_only=True)

    def _go_to_end(self) -> None:
        found = _look(self._fd, self.path)
        if found is None:
            # If we die here, a part of the first line may be found: the next opening begins it again.
            self._disk.write_at(self._fd, HEAD, 0, self.path)
            self._disk.truncate(self._fd, len(HEAD), self.path)
            self._disk.sync(self._fd, self.path)
            self._disk.sync_directory(self.path.parent)
            self.length = len(HEAD)
            return
        self.length, whole, torn = found
        if torn:
            self._cut(torn)
        # What was readable after a kill may be in memory only, and after a sync that failed stay there for ever: all
        # that may be missing is written again before anything follows it.
        self._disk.write_at(self._fd, whole, self.length - len(whole), self.path)
        self._disk.sync(self._fd, self.path)
        self._disk.sync_directory(self.path.parent)

    def _cut(self, torn: bytes) -> None:
        # If we die between the copy and the cut, the next opening does the same again.
        aside = self.path.with_name(f"{self.path.name}.torn-{self.length}")
        self._disk.replace_file(aside, torn)
        self._disk.truncate(self._fd, self.length, self.path)
        self.notices.append(
            f"{self.path}: byte {self.length}: {len(torn):,} bytes that an interrupted write left behind the last "
            f"whole record were moved to {aside.name}"
        )

    @property
    def is_open(self) -> bool:
        """Whether this process can append."""
        return self._fd >= 0 and self._pid == os.getpid()

    def append(self, lines: bytes) -> None:
        """Append whole lines, all of them or none.

        Raises ValueError once closed, ConfigError in a forked process, IntegrityRefusal where somebody else wrote to
        the file, NoSpace on a full disk, and DurabilityError; after the last one it is not known what was appended, and
        every further call raises it again.
        """
        if self._fd < 0:
            raise ValueError(f"{self.path}: the lineage file is closed")
        if not self.is_open:
            raise ConfigError(
                f"{self.path}: was opened by process {self._pid}, a forked process cannot write to it",
                hint="record from one process, or give each a file of its own",
            )
        if self._unusable is not None:
            raise self._unusable
        self._refuse_foreign_change(self.length)
        end = self.length
        try:
            for piece in _pieces(lines):
                if self._unsynced + len(piece) > AT_RISK:
                    self._sync()
                # If we die here, any part of the piece may be found; the next opening cuts what is not whole.
                self._disk.write_at(self._fd, piece, end, self.path)
                end += len(piece)
                self._unsynced += len(piece)
            if self._durable:
                self._sync()
        except BaseException:
            if self._unusable is None:
                self._cut_back()
            raise
        self.length = end

    def _refuse_foreign_change(self, length: int, *, moved_only: bool = False) -> None:
        try:
            status = self.path.stat()
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            raise IntegrityRefusal(
                f"{self.path}: was renamed, removed or replaced while it was being written", hint="put it back"
            )
        if status.st_size != length and not moved_only:
            raise IntegrityRefusal(
                f"{self.path}: byte {min(status.st_size, length)}: somebody else wrote to it: expected {length} bytes, "
                f"found {status.st_size}",
                hint="restore it from a back-up",
            )

    def _cut_back(self) -> None:
        try:
            self._disk.truncate(self._fd, self.length, self.path)
            self._sync()
        except DurabilityError as error:
            self._unusable = error
            raise

    def _sync(self) -> None:
        try:
            self._disk.datasync(self._fd, self.path)
        except DurabilityError as error:
            self._unusable = error
            raise
        self._unsynced = 0

    def sync(self) -> None:
        """Make durable what was appended. Raises SyncFailed, and from then on always."""
        if self._unusable is not None:
            raise self._unusable
        if self._unsynced and self.is_open:
            self._sync()

    def close(self) -> None:
        """Make durable what is not yet, and let the file go; again is no error."""
        try:
            if self._unusable is None:
                self.sync()
        finally:
            self.release()

    def release(self) -> None:
        """Let the file go as it is."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1


def _look(fd: int, path: Path) -> tuple[int, bytes, bytes] | None:
    """Return where the last whole record ends, what of the last `AT_RISK` bytes is before that, and what is behind.

    None for a file that is still to begin. Raises ConfigError (no lineage file) and IntegrityRefusal (no record where
    one should be, as far as it is looked at); nothing was changed then.
    """
    size = os.fstat(fd).st_size
    line, newline, _ = os.pread(fd, _HEAD_BYTES, 0).partition(b"\n")
    if not newline and HEAD.startswith(line.rstrip(b"\0")):
        return None
    _check_head(path, line + newline)
    first = len(line) + 1
    begin = max(size - AT_RISK, first)
    tail = os.pread(fd, size - begin, begin)
    zeros = tail.find(b"\0")
    length = begin + tail.rfind(b"\n", 0, zeros if zeros >= 0 else None) + 1
    if length == begin > first:
        raise IntegrityRefusal(f"{path}: byte {begin}: no record ends in the last {AT_RISK:,} bytes", hint=_RESTORE)
    whole = tail[: length - begin]
    at = whole.rfind(b"\n", 0, max(0, len(whole) - _LOOKED_AT)) + 1
    if not at and begin > first:  # it may begin within a line
        at = whole.find(b"\n") + 1
    Reading(path).decoded(whole[at:], begin + at)
    return length, whole, tail[length - begin :]


def check_appendable(path: Path, wait_s: float = 0.0) -> None:
    """Look whether a writer could open the file, or make it; nothing is written.

    Raises what opening it would: ConfigError (another writer after `wait_s` seconds, no permission, no lineage file)
    and IntegrityRefusal.
    """
    fd = open_existing(path)
    if fd < 0:
        return
    try:
        take_alone(fd, path, wait_s)
        _look(fd, path)
    finally:
        os.close(fd)


def _pieces(lines: bytes) -> Iterator[bytes]:
    """Yield the lines in pieces of at most `AT_RISK` bytes. Raises ValueError for a line that is longer."""
    begin = 0
    while len(lines) - begin > AT_RISK:
        end = lines.rfind(b"\n", begin, begin + AT_RISK) + 1
        if not end:
            raise ValueError(f"a record is longer than {AT_RISK:,} bytes: keep its metadata in a file and name that")
        yield lines[begin:end]
        begin = end
    if begin < len(lines):
        yield lines[begin:]


def take_alone(fd: int, path: Path, wait_s: float = 0.0) -> None:
    """Lock the file, waiting up to `wait_s` seconds. Raises ConfigError where another writer has it."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(_PAUSE_S)
                continue
            raise ConfigError(
                f"{path}: is being written by another LineageTracker, in this process or in another",
                hint="use that one, wait for its end, or name another file",
            ) from error
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be locked: {error.strerror}", hint="put it on a local file system"
            ) from error
        return


def replace_with(path: Path, disk: Disk, parts: Iterable[bytes]) -> None:
    """Make `path` a lineage file of these lines, all or nothing; one that is there must be one, and nobody's.

    If we die here, the old file or the new one is found, and perhaps a leftover ``.NAME.tmp``. Raises ConfigError and
    DurabilityError.
    """
    disk.make_directory(path.parent)
    old = disk.open(path) if path.exists() else -1
    try:
        if old >= 0:
            take_alone(old, path)
            line, newline, _ = os.pread(old, _HEAD_BYTES, 0).partition(b"\n")
            if line or newline:
                _check_head(path, line + newline)
        disk.replace_parts(path, itertools.chain([HEAD], parts))
    finally:
        if old >= 0:
            disk.close(old)
