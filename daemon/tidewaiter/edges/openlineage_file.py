"""The file of OpenLineage events, ``lineage.jsonl``: written before anything is sent, and durable when that is said.

Owns: the daemon's file with its sealed parts (`StreamEvents`), the file beside a pipeline's audit log (`append_event`),
and reading lines back for those who ship them. Leaves to `core.openlineage` what a line says, to the audit log its
digest, and to `openlineage_outbox` how far it was shipped.

The daemon's order: the line, made durable, then the audit entry that bears its digest. What no entry vouches for is no
event: the next one takes its place, and whoever ships reads only up to the last entry. So a crash between the two
leaves one line too many, never one too few, and the event is made again. The parts have the names of projections.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal
from tidewaiter.core.openlineage.facets import PRODUCER
from tidewaiter.edges.durable import NoSpace
from tidewaiter.edges.lineage_place import open_existing
from tidewaiter.edges.projections import open_part, sealed_bases, sealed_part

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.audit import LineageEmitted
    from tidewaiter.edges.durable import Disk

NAME: Final = "lineage"
_RESTORE: Final = "it was changed by hand: restore it from a back-up"
_TAIL: Final = 1 << 16
_LONGEST: Final = 1 << 24
_BEGINS: Final = b'{"eventTime":"'
"""How every event begins: the keys are sorted."""


class _Event(msgspec.Struct):
    producer: str


class StreamEvents:
    """The daemon's file. `end` is where its lines end, over all parts, as far as the audit log vouches for them."""

    def __init__(self, disk: Disk, state: Path, segment_bytes: int) -> None:
        """A part is sealed when it has reached `segment_bytes`."""
        self.end = 0
        self._disk = disk
        self._state = state
        self._limit = segment_bytes
        self._path = open_part(state, NAME)
        self._base = 0
        self._fd = -1

    def open(self, last: LineageEmitted | None) -> int:
        """Go to the `last` event that the audit log has; return how many bytes, not vouched for, stand behind it.

        Raises IntegrityRefusal where the file is shorter, longer by more than one line, or has another last line.
        """
        base, end = (last.base, last.end) if last is not None else (0, 0)
        if end and base in sealed_bases(self._state, NAME):  # it was sealed, and no event has come since
            size = sealed_part(self._state, NAME, base).stat().st_size
            if base + size != end:
                raise IntegrityRefusal(
                    f"{sealed_part(self._state, NAME, base)}: is {size} bytes long, the audit log accounts for "
                    f"{end - base}",
                    hint=_RESTORE,
                )
            base = end
        size = self._path.stat().st_size if self._path.exists() else 0
        if base + size < end:
            raise IntegrityRefusal(
                f"{self._path}: is {size} bytes long, the audit log accounts for {end - base}", hint=_RESTORE
            )
        if last is not None and base < end:
            line = _read(self._path, last.first - base, last.length)
            if hashlib.sha256(line).hexdigest() != last.sha256:
                raise IntegrityRefusal(
                    f"{self._path}: byte {last.first - base}: is not the line that the audit log accounts for",
                    hint=_RESTORE,
                )
        rest = _read(self._path, end - base, size)
        if b"\n" in rest[:-1]:
            raise IntegrityRefusal(
                f"{self._path}: byte {end - base}: {len(rest)} bytes of several lines that the audit log does not "
                "account for: this is not the rest of an interrupted write",
                hint="somebody else wrote to it: remove what is not tidewaiter's, or restore it from a back-up",
            )
        self._base, self.end = base, end
        return len(rest)

    def write(self, line: bytes) -> tuple[int, int]:
        """Make the line durable behind the last event; return where the open part and where the line begins.

        It is no event before an audit entry says so and `vouched` is called; until then, or if we die, the next line
        takes its place. Raises NoSpace (nothing happened) or SyncFailed.
        """
        if self.end - self._base >= self._limit:
            self._seal()
        fd = self._opened()
        at = self.end - self._base
        try:
            if os.fstat(fd).st_size > at:  # the line that was written before has no entry
                self._disk.truncate(fd, at, self._path)
            # If we die here, any part of the line may be found: no entry vouches for it, the next line replaces it.
            self._disk.write_at(fd, line, at, self._path)
        except NoSpace:
            self._disk.truncate(fd, at, self._path)
            raise
        self._disk.datasync(fd, self._path)
        return self._base, self.end

    def vouched(self, event: LineageEmitted) -> None:
        """Adopt the line that was written last: the audit log has its entry."""
        self.end = event.end

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            self._disk.close(self._fd)
        self._fd = -1

    def _opened(self) -> int:
        if self._fd < 0:
            self._fd = self._disk.open(self._path)
            self._disk.sync_directory(self._state)
        return self._fd

    def _seal(self) -> None:
        """Begin a new part. If we die here, the next start finds the sealed one by its name."""
        self.close()
        if self._path.exists():
            self._disk.rename(self._path, sealed_part(self._state, NAME, self._base))
        self._base = self.end


def read_state(state: Path, first: int, last: int) -> tuple[int, bytes]:
    """Return bytes [first, last) of a state directory's events, at most as far as one part reaches.

    Older parts may have been removed: what comes first is where the bytes really begin.
    """
    while True:
        bases = sealed_bases(state, NAME)
        found = _read_parts(state, bases, first, last)
        if bases == sealed_bases(state, NAME):  # else a part was sealed meanwhile, and the open one is another
            return found


def _read_parts(state: Path, bases: list[int], first: int, last: int) -> tuple[int, bytes]:
    end = 0
    for base in bases:
        path = sealed_part(state, NAME, base)
        end = base + path.stat().st_size
        if end > first:
            begin = max(first, base)
            return begin, _read(path, begin - base, min(end, last) - begin)
    begin = max(first, end)
    return begin, _read(open_part(state, NAME), begin - end, last - begin)


def read_plain(path: Path, first: int, last: int) -> tuple[int, bytes]:
    """Return bytes [first, last) of a file of events that has no parts."""
    return first, _read(path, first, last - first)


def check_events(path: Path) -> None:
    """Look whether events can be appended to a file that pipelines share, or it can be made; nothing is written.

    Raises ConfigError for what cannot be written, and for a file that does not begin with an event of ours.
    """
    fd = open_existing(path)
    if fd < 0:
        return
    try:
        head, size = os.pread(fd, _TAIL, 0), os.fstat(fd).st_size
        if b"\n" not in head and size > _TAIL:
            head = os.pread(fd, _LONGEST, 0)
    finally:
        os.close(fd)
    line, newline, _ = head.partition(b"\n")
    if not (_is_ours(line) if newline else _may_be_left(line)):
        raise ConfigError(
            f"{path}: is no file of OpenLineage events that tidewaiter wrote; nothing was changed",
            hint="name one that was made by --openlineage, or a new one",
        )


def _is_ours(line: bytes) -> bool:
    try:
        return msgspec.json.decode(line, type=_Event).producer.startswith(PRODUCER)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _may_be_left(line: bytes) -> bool:
    """Return whether this may be the first event of a writer that died; pages never written are zeros."""
    line = line.rstrip(b"\0")
    return line.startswith(_BEGINS) or _BEGINS.startswith(line)


def append_event(disk: Disk, path: Path, line: bytes) -> int:
    """Append one event to a file that pipelines share, durable; return where it begins.

    What is left of a line whose writer died is cut. The last whole line is written once more and synced, before: where
    its sync failed, it is in memory only, and no other sync would say so. Raises DurabilityError.
    """
    disk.make_directory(path.parent)
    fd = disk.open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # held for one line
        size = os.fstat(fd).st_size
        at = _end_of_lines(fd, size)
        if at < size:
            disk.truncate(fd, at, path)
        if at:
            last = _end_of_lines(fd, at - 1)
            disk.write_at(fd, os.pread(fd, at - last, last), last, path)
            disk.sync(fd, path)
        try:
            # If we die here, any part of the line may be found: the next one cuts it.
            disk.write_at(fd, line, at, path)
        except DurabilityError:
            disk.truncate(fd, at, path)
            raise
        disk.sync(fd, path)
    finally:
        disk.close(fd)
    disk.sync_directory(path.parent)
    return at


def _end_of_lines(fd: int, size: int) -> int:
    """Return where the last whole line ends."""
    end = size
    while end > 0:
        begin = max(0, end - _TAIL)
        at = os.pread(fd, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0


def _read(path: Path, first: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(first)
            return file.read(count)
    except FileNotFoundError:
        return b""
