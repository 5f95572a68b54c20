"""One audit log in one file, for whoever is not the daemon: reading it along its chain, and appending to it.

Owns: the way through a file that checks the chain (`Walk`), and the file that is written (`AuditFile`): its lock, what
an interrupted write left at its end, and appending exactly once. Leaves to `core.audit` what a line is, to
`edges.durable` the system calls, and to `shell.audit_logger` what is written, and that it is one thread at a time.

The daemon's own segments can be walked too; they are never opened for writing here.

An append is durable before the next one begins, so a crash can leave at most one line that is not whole. It has no
newline at its end, or it has pages that were never written: zeros, which no entry contains. Only such a line, and only
as the last, is cut, after it was copied aside; everything else is refused, for no interrupted write explains it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import GENESIS, MAX_ENTRY_BYTES, Chain, SegmentOpened, read_head
from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal
from tidewaiter.edges.durable import NoSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidewaiter.core.audit import EntryContext
    from tidewaiter.edges.durable import Disk

_BEGINNING: Final = b'{"prev":"%b","index":0,' % GENESIS.encode()
_SEGMENTS: Final = f"audit/audit-{'[0-9]' * 20}.jsonl"
_RESTORE: Final = "restore the file from a back-up, or name another one; nothing was changed"
_opened: Final = msgspec.json.Decoder(SegmentOpened)


class Break(Struct, frozen=True):
    """Where a file stops being a chain: the entry's index, the byte it begins at, and what should be there."""

    index: int
    offset: int
    expected: str
    found: str
    reason: str


class Walk:
    """One way through a file, entry by entry, as far as each continues the chain.

    `length` (bytes), `index` (of the next entry) and `head` say how far it came, `last` where the last entry begins;
    `broken` says why it stopped there, None at the end. A file that begins with a later segment is believed its
    first `index` and `prev`.
    """

    def __init__(self, path: Path, until: int | None = None) -> None:
        """Go up to byte `until` (None: to the end of the file)."""
        self.path = path
        self.length = 0
        self.last = 0
        self.index = 0
        self.head = GENESIS
        self.broken: Break | None = None
        self._until = until

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and the bytes of each entry, newline included. Raises ConfigError for an unreadable file."""
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}", hint="check the path") from error
        with file:
            size = os.fstat(file.fileno()).st_size
            end = size if self._until is None else min(size, self._until)
            while self.length < end:
                line = file.readline(MAX_ENTRY_BYTES + 1)
                self.broken = self._fault(line)
                if self.broken is not None:
                    return
                self.last = self.length
                self.length += len(line)
                self.index += 1
                self.head = hashlib.sha256(line).hexdigest()
                yield self.last, line

    def _fault(self, line: bytes) -> Break | None:
        if not line.endswith(b"\n"):
            long = len(line) > MAX_ENTRY_BYTES
            what = f"is longer than {MAX_ENTRY_BYTES} bytes" if long else "is not complete"
            return self._break(f"at most {MAX_ENTRY_BYTES} bytes and a newline", f"{len(line)} bytes without one", what)
        entry = read_head(line)
        if entry is None:
            return self._break("an entry", line[:40].decode("ascii", "backslashreplace"), "is no entry")
        if self.length == 0 and entry.action == audit.SEGMENT_OPENED and entry.index > 0:
            self.index, self.head = entry.index, entry.prev
        if entry.index != self.index:
            return self._break(f"index {self.index}", f"index {entry.index}", "has another index")
        if entry.prev == self.head:
            return None
        if self.index == 0:
            return self._break(f"prev {self.head}", f"prev {entry.prev}", "does not begin a chain")
        what = f"is not the one that entry {self.index} was chained to"
        return Break(self.index - 1, self.last, f"SHA-256 {entry.prev}", f"SHA-256 {self.head}", what)

    def _break(self, expected: str, found: str, reason: str) -> Break:
        return Break(self.index, self.length, expected, found, reason)


def refusal(path: Path, broken: Break) -> IntegrityRefusal:
    """Return the error that names the byte."""
    return IntegrityRefusal(
        f"{path}: byte {broken.offset}: entry {broken.index} {broken.reason}: "
        f"expected {broken.expected}, found {broken.found}",
        hint=_RESTORE,
    )


class End(Struct, frozen=True):
    """An end of the file: its length in bytes, the index of the next entry, and the chain head."""

    length: int
    index: int
    head: str


class AuditFile:
    """An audit file that this process appends to; `end` is where it is whole. Not for several threads at once."""

    def __init__(self, path: Path, disk: Disk, *, durable: bool) -> None:
        """Nothing is opened yet. `durable`: each append returns only when its bytes are on the disk."""
        self.path = path
        self.origin = ""
        self.end = End(0, 0, GENESIS)
        self._latest = (
            ""  # the time of the last entry: where the clock was set back, time stands until it has caught up
        )
        self._disk = disk
        self._durable = durable
        self._fd = -1
        self._pid = 0
        self._identity = (0, 0)
        self._unsettled = b""
        self._unusable: DurabilityError | None = None

    # -- opening -------------------------------------------------------------------------------------------------

    def open(self, context: Callable[[], EntryContext], new_origin: Callable[[], str]) -> None:
        """Lock the file and go to its end; a new one gets entry 0 with an origin.

        Raises ConfigError (no permission, another writer, no audit log), IntegrityRefusal (its chain is broken) and
        DurabilityError.
        """
        self._refuse_state_directory()
        self._disk.make_directory(self.path.parent)
        fd = self._disk.open(self.path)
        try:
            self._lock(fd)
            self._fd, self._pid = fd, os.getpid()
            self._go_to_end(context, new_origin)
            self._refuse_foreign_change()
        except BaseException:
            self._disk.close(fd)
            self._fd = -1
            raise

    def _refuse_state_directory(self) -> None:
        """Refuse a file of a daemon, whatever link leads there, before it or its directory is made."""
        try:
            real = self.path.resolve().parent
            # the state directory, where the projections are, and those in it; without stream.json its segments tell
            homes = [real, real.parent] if real.name == "audit" else [real]
            own = any((home / "stream.json").exists() for home in homes)
            own = own or any(any(home.glob(_SEGMENTS)) for home in (real, real.parent))
        except (OSError, RuntimeError) as error:  # the latter for links that lead to each other
            why = error.strerror if isinstance(error, OSError) else "symbolic links lead in a circle"
            raise ConfigError(f"{self.path}: cannot be opened: {why}", hint="name another file") from error
        if own:
            raise ConfigError(
                f"{self.path}: belongs to a daemon's state directory, which nobody else writes to",
                hint="name another file; to read it use AuditReader",
            )

    def _lock(self, fd: int) -> None:
        """Take the file for this writer alone: flock, which holds between processes and within one."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{self.path}: is being written by another AuditLogger, in this process or in another",
                hint="use that one, close it first, or name another file",
            ) from error
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot be locked: {error.strerror}", hint="put it on a local file system"
            ) from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{self.path}: is not a regular file", hint="name a file")
        if status.st_nlink > 1:
            raise ConfigError(
                f"{self.path}: has {status.st_nlink} names (hard links): under another it may be another writer's",
                hint="name another file, or make a copy of its own: cp --reflink=auto",
            )
        self._identity = status.st_dev, status.st_ino

    def _go_to_end(self, context: Callable[[], EntryContext], new_origin: Callable[[], str]) -> None:
        walk = Walk(self.path)
        last = first = b""
        for offset, line in walk:
            first, last = (line if offset == 0 else first), line
        if first:
            self._take_origin(first)
        torn = self._torn(walk)
        self.end = End(walk.length, walk.index, walk.head)
        if (head := read_head(last)) is not None:
            self._latest = head.timestamp
        if torn:
            # If we die between the copy and the cut, the next opening does the same again.
            aside = self.path.with_name(f"{self.path.name}.torn-{walk.length}")
            self._disk.replace_file(aside, torn)
            self._disk.truncate(self._fd, walk.length, self.path)
        if last:
            # What was readable after a kill may be in memory only, so it is written again before anything follows it.
            self._disk.write_at(self._fd, last, walk.length - len(last), self.path)
        self._disk.sync(self._fd, self.path)
        if not first:
            # If we die here, an empty file or a torn first line is found: the next opening begins it again.
            self.origin = new_origin()
            opened = SegmentOpened(predecessor=None, predecessor_length=0, origin=self.origin)
            self._write(context(), audit.SEGMENT_OPENED, opened, durable=True)
        self._disk.sync_directory(self.path.parent)
        if torn and walk.broken is not None:
            cut = {
                "segment": self.path.name, "offset": walk.length, "length": len(torn),
                "sha256": hashlib.sha256(torn).hexdigest(),
                "reason": f"entry {walk.broken.index} is the rest of an interrupted write",
            }  # fmt: skip
            self._write(context(), audit.TAIL_CUT, cut, durable=True)

    def _take_origin(self, first: bytes) -> None:
        head = read_head(first)
        if head is None or head.action != audit.SEGMENT_OPENED or head.index != 0:
            raise ConfigError(
                f"{self.path}: does not begin with an audit log's entry 0",
                hint="name another file; it was not changed",
            )
        try:
            self.origin = _opened.decode(first).origin
        except audit.UNREADABLE as error:
            raise IntegrityRefusal(f"{self.path}: byte 0: entry 0 is damaged: {error}", hint=_RESTORE) from error

    def _torn(self, walk: Walk) -> bytes:
        """Return what an interrupted write left behind the last entry; nothing where there is nothing.

        Raises IntegrityRefusal for what no interrupted write explains.
        """
        if walk.broken is None:
            return b""
        rest = os.pread(self._fd, MAX_ENTRY_BYTES + 1, walk.length)
        at = rest.find(b"\n")
        torn = len(rest) <= MAX_ENTRY_BYTES and (at < 0 or (at == len(rest) - 1 and b"\0" in rest))
        if torn and walk.length == 0:
            written = rest.rstrip(b"\0")[: len(_BEGINNING)]
            torn = written == _BEGINNING[: len(written)]
        if not torn:
            if walk.length == 0 and not rest.startswith(b'{"prev":"'):
                raise ConfigError(f"{self.path}: is no audit log", hint="name another file; it was not changed")
            raise refusal(self.path, walk.broken)
        return rest

    # -- appending -----------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether this process writes the file, and so knows its end."""
        return self._fd >= 0 and self._pid == os.getpid()

    def refuse_other_process(self) -> None:
        """Raise ConfigError in a process that was forked off: its copy of the end would not move with the file's."""
        if self._fd >= 0 and not self.is_open:
            raise ConfigError(
                f"{self.path}: was opened by process {self._pid}, a forked process cannot write to it",
                hint="log from one process, or give each a file of its own",
            )

    def append(self, context: EntryContext, action: str, members: Struct) -> bytes:
        """Append one entry and return its line.

        Raises ValueError for an entry that is too long and NoSpace on a full disk: then nothing was appended. After
        another DurabilityError it is not known whether it was; every further call raises it again.
        """
        if self._fd < 0:
            raise ValueError(f"{self.path}: the audit log is closed")
        if self._unusable is not None:
            raise self._unusable
        self._settle()
        self._refuse_foreign_change()
        return self._write(context, action, members, durable=self._durable)

    def _refuse_foreign_change(self) -> None:
        try:
            status = self.path.stat()
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            raise IntegrityRefusal(
                f"{self.path}: was renamed, removed or replaced while it was being written",
                hint="put it back; nothing but its writer may move it",
            )
        if status.st_size != self.end.length:
            raise IntegrityRefusal(
                f"{self.path}: byte {min(status.st_size, self.end.length)}: somebody else wrote to it: expected "
                f"{self.end.length} bytes, found {status.st_size}",
                hint="restore it from a back-up",
            )

    def _write(self, context: EntryContext, action: str, members: Struct | dict[str, Any], *, durable: bool) -> bytes:
        chain = Chain(self.end.index, self.end.head)
        context = msgspec.structs.replace(context, timestamp=max(self._latest, context.timestamp))
        line = chain.entry(context, action, members)
        if len(line) > MAX_ENTRY_BYTES:
            raise ValueError(
                f"the entry would be {len(line):,} bytes long, at most {MAX_ENTRY_BYTES:,} are possible: nothing was "
                "written; keep the details in a file and log its hash"
            )
        self._unsettled = line
        try:
            # If we die here, any part of the line may be found; the next opening cuts what is not whole.
            self._disk.write_at(self._fd, line, self.end.length, self.path)
            if durable:
                self._disk.datasync(self._fd, self.path)
        except NoSpace:
            self._cut_back()
            raise
        except DurabilityError as error:
            self._unusable = error
            raise
        self.end = End(self.end.length + len(line), chain.index, chain.head)
        self._latest = context.timestamp
        self._unsettled = b""
        return line

    def _settle(self) -> None:
        """Find out what became of an append that an exception from outside (Ctrl-C) left in the middle.

        It counts if it was written as a whole, for a reader may have seen it.
        """
        line = self._unsettled
        if not line:
            return
        if os.pread(self._fd, len(line), self.end.length) == line:
            self.sync()
            head = hashlib.sha256(line).hexdigest()
            self.end = End(self.end.length + len(line), self.end.index + 1, head)
            self._unsettled = b""
        else:
            self._cut_back()

    def _cut_back(self) -> None:
        try:
            self._disk.truncate(self._fd, self.end.length, self.path)
            self._disk.datasync(self._fd, self.path)
        except DurabilityError as error:
            self._unusable = error
            raise
        self._unsettled = b""

    def sync(self) -> None:
        """Make durable what was appended. Raises SyncFailed, and from then on always."""
        if self._unusable is not None:
            raise self._unusable
        try:
            self._disk.datasync(self._fd, self.path)
        except DurabilityError as error:
            self._unusable = error
            raise

    def close(self) -> None:
        """Make durable what is not yet, and let the file go; again is no error."""
        if self._fd < 0:
            return
        try:
            if not self._durable and self._unusable is None and self.is_open:
                self.sync()
        finally:
            self.release()

    def release(self) -> None:
        """Let the file go as it is."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1
