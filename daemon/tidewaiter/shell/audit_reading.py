"""The audit log read by somebody who is not the daemon: one entry, a stretch of them, the last ones, and what follows.

Owns: where an entry stands in the files, what of the log counts while the daemon writes it (whole units: a batch with
its batch.committed, or one standalone entry), and which entries somebody asked for. Reads only, takes no lock. Leaves
to `shell.verify` whether the chain holds, and to its callers how an entry is shown.

What one entry costs does not grow with the log; filters look at every entry, for clocks may go back.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import MAX_ENTRY_BYTES, Decision, Decisions, EntryHead, read_head
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.edges.journal import first_index
from tidewaiter.edges.recovery import audit_segments
from tidewaiter.shell.flag_search import locate_batch
from tidewaiter.shell.state_owner import refuse_no_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.core.audit import BatchCommitted
    from tidewaiter.shell.flag_search import Found

_NARROW: Final = 4 * MAX_ENTRY_BYTES
"""A stretch this short is read rather than cut in half once more."""
_BLOCK_BYTES: Final = 1 << 20
_DECISION: Final = f'"action":"{audit.DECISION_RECORDED}"'.encode()
_BATCH: Final = f'"action":"{audit.BATCH_COMMITTED}"'.encode()
_decision: Final = msgspec.json.Decoder(Decision)
_RECORDS: Final = frozenset(audit.PROJECTIONS.values())
_HINT: Final = "see what else differs: tidewaiter verify"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: the exact bytes of its line, newline included, and where they begin in which segment."""

    path: Path
    offset: int
    head: EntryHead
    line: bytes


@dataclass(frozen=True)
class Wanted:
    """Which entries are asked for; what is empty asks for nothing. Times are UTC texts: `begin` <= time < `end`."""

    begin: str = ""
    end: str = ""
    actions: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()
    actors: frozenset[str] = frozenset()

    def takes(self, head: EntryHead) -> bool:
        """Return whether the entry is one of them."""
        return (
            (not self.begin or head.timestamp >= self.begin)
            and (not self.end or head.timestamp < self.end)
            and (not self.actions or head.action in self.actions)
            and (not self.runs or head.run_id in self.runs)
            and (not self.actors or head.actor in self.actors)
        )


def period(begin: str, end: str) -> tuple[str, str]:
    """Return --from and --to as the audit log writes times; "" where they were not given. Raises ConfigError."""
    first = utc_text(begin, "--from") if begin else ""
    last = utc_text(end, "--to") if end else ""
    if first and last and first >= last:
        raise ConfigError(f"--from {begin}: is not before --to {end}", hint="exchange them; --to is not included")
    return first, last


def utc_text(written: str, option: str) -> str:
    """Return a point in time as the audit log writes it; without a zone it is UTC. Raises ConfigError."""
    try:
        time = dt.datetime.fromisoformat(written)
        utc = time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{option} {written}: is no point in time", hint="2026-03-09, 2026-03-09T12:00:00 (UTC) or with an offset"
        ) from None
    return f"{utc:%Y-%m-%dT%H:%M:%S.%f}Z".zfill(len("2026-03-09T12:00:00.000000Z"))


@contextmanager
def reading(state: Path) -> Iterator[None]:
    """Raise ConfigError where a file of the state directory cannot be read inside the block."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or state}: cannot be read: {error.strerror or error}",
            hint="run this as a member of the file's group",
        ) from error


def segments_of(state: Path) -> list[Path]:
    """Return the audit segments in order, at least one. Raises ConfigError where `state` has none."""
    if not state.is_dir():
        raise ConfigError(f"{state}: there is no such state directory", hint="name it with --state-dir")
    refuse_no_state(state)
    segments = audit_segments(state)
    if not segments:
        raise ConfigError(f"{state}: nothing was recorded yet", hint="start the daemon first: tidewaiter run")
    return segments


class Reader:
    """Reads on from one place: every call of `read` gives what has become complete since the last one."""

    def __init__(self, state: Path, index: int | None = None) -> None:
        """Begin at the entry `index`, by default at the oldest one that is there."""
        self._state = state
        self._path = segments_of(state)[0]
        self._offset = 0
        if index is not None:
            begin = entry_at(state, index)
            self._path, self._offset = begin.path, begin.offset

    def read(self) -> Iterator[Entry]:
        """Yield the entries up to the last complete unit. Raises IntegrityRefusal for a line that is no entry."""
        while True:
            # looked for first: where there is a later segment, nothing is added to this one any more
            later = [path for path in audit_segments(self._state) if path.name > self._path.name]
            yield from self._rest_of_segment()
            if not later:
                return
            self._path, self._offset = later[0], 0

    def _rest_of_segment(self) -> Iterator[Entry]:
        offset, unit = self._offset, list[Entry]()
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                unit.append(Entry(self._path, offset, head_of(self._path, offset, line), line))
                offset += len(line)
                if unit[-1].head.action not in _RECORDS:
                    self._offset = offset
                    yield from unit
                    unit.clear()


def head_of(path: Path, offset: int, line: bytes) -> EntryHead:
    """Return what the line at byte `offset` begins with. Raises IntegrityRefusal where it is no entry."""
    head = read_head(line)
    if head is None:
        raise IntegrityRefusal(f"{path}: byte {offset}: is no audit entry", hint=_HINT)
    return head


def tail(state: Path, count: int, wanted: Wanted) -> tuple[list[Entry], Reader]:
    """Return the last `count` entries that are wanted, and the reader that goes on behind them."""
    oldest = first_index(segments_of(state)[0])
    newest, reach = _newest_index(state), max(count, 1)
    while True:
        begin = max(oldest, newest + 1 - reach)
        reader = Reader(state, begin if begin <= newest else None)
        found = deque((entry for entry in reader.read() if wanted.takes(entry.head)), maxlen=count)
        if len(found) == count or begin == oldest:
            return list(found), reader
        reach *= 8  # so what is read in vain is a fraction of what is needed


def _newest_index(state: Path) -> int:
    """Return the index of the last entry, complete or not; one less than the first where there is none."""
    path = segments_of(state)[-1]
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 2 * MAX_ENTRY_BYTES))
        lines = file.read().split(b"\n")[:-1]
    if not lines:
        return first_index(path) - 1
    return head_of(path, 0, lines[-1]).index


def entry_at(state: Path, index: int) -> Entry:
    """Return the entry of that index. Raises ConfigError where there is none."""
    segments = segments_of(state)
    holding = [path for path in segments if first_index(path) <= index]
    found = _look_in(holding[-1], index) if holding else None
    if found is None:
        raise ConfigError(
            f"{state}: there is no entry {index}",
            hint=f"its entries are {first_index(segments[0])} to {_newest_index(state)}",
        )
    return found


def _look_in(path: Path, index: int) -> Entry | None:
    """Halve the segment until little is left; its entries lie in rising order."""
    with path.open("rb") as file:
        low, high = 0, file.seek(0, 2)
        while high - low > _NARROW:
            middle = (low + high) // 2
            file.seek(middle - 1)
            begin = middle - 1 + len(file.readline())
            line = file.readline()
            if begin >= high or not line.endswith(b"\n") or head_of(path, begin, line).index > index:
                high = middle
            else:
                low = begin
        file.seek(low)
        for line in file:
            if not line.endswith(b"\n"):
                break
            head = head_of(path, low, line)
            if head.index == index:
                return Entry(path, low, head, line)
            low += len(line)
    return None


# -- flags ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlagEntries:
    """The entry that carries a flag, and the batch.committed that made it count."""

    flag: Entry
    batch: Entry
    committed: BatchCommitted


def entries_of(state: Path, found: Found) -> FlagEntries:
    """Return the entries of a flag. Raises ConfigError where the audit log does not reach back to it."""
    flag_id, action = found.flag["flag_id"], audit.PROJECTIONS[found.kind]
    located = locate_batch(state, found.offset)
    if located is None:
        raise ConfigError(
            f"{state}: the audit log does not reach back to the flag {flag_id}",
            hint="put back the audit segments of that time from a back-up",
        )
    path, begin, committed = located
    with path.open("rb") as file:
        file.seek(begin)
        line = file.readline()
        batch = Entry(path, begin, head_of(path, begin, line), line)
        counts = committed.counts
        records = counts.flags + counts.rejected + counts.suppressed + counts.shadow_flags
        first = entry_at(state, batch.head.index - records)  # they stand right before it
        file.seek(first.offset)
        marker = b',"action":"%b","record":{"flag_id":%b,' % (action.encode(), msgspec.json.encode(flag_id))
        offset = first.offset
        while offset < begin:
            line = file.readline()
            if marker in line:
                return FlagEntries(Entry(path, offset, head_of(path, offset, line), line), batch, committed)
            offset += len(line)
    raise IntegrityRefusal(f"{path}: the batch at byte {begin} does not hold the {action} of {flag_id}", hint=_HINT)


def decision_before(state: Path, batch: Entry, decisions: Decisions) -> Entry | None:
    """Return the entry that put `decisions` into force for `batch`; None where the log does not reach back to it."""
    for path in reversed([path for path in audit_segments(state) if path.name <= batch.path.name]):
        with path.open("rb") as file:
            end = batch.offset if path.name == batch.path.name else file.seek(0, 2)
            while (at := _last_before(file, _DECISION, end)) >= 0:
                begin = _last_before(file, b"\n", at) + 1
                file.seek(begin)
                line = file.readline()
                try:
                    decided = _decision.decode(line)
                except audit.UNREADABLE:
                    decided = None
                if decided is not None and decided.decisions == decisions:
                    return Entry(path, begin, head_of(path, begin, line), line)
                end = begin
    return None


class _Governed(Struct, frozen=True):
    decisions: Decisions | None = None


_governed: Final = msgspec.json.Decoder(_Governed)


def governing_before(state: Path, segment: Path) -> tuple[Entry, Decisions] | None:
    """Return the last entry before the segment that says what is in force, and what that is; None: it is not there."""
    for path in reversed([path for path in audit_segments(state) if path.name < segment.name]):
        with path.open("rb") as file:
            end = file.seek(0, 2)
            while (at := max(_last_before(file, action, end) for action in (_BATCH, _DECISION))) >= 0:
                begin = _last_before(file, b"\n", at) + 1
                file.seek(begin)
                line = file.readline()
                entry = Entry(path, begin, head_of(path, begin, line), line)
                if entry.head.action in (audit.BATCH_COMMITTED, audit.DECISION_RECORDED):
                    decisions = _governed.decode(line).decisions
                    if decisions is not None:
                        return entry, decisions
                end = begin
    return None


def _last_before(file: BinaryIO, needle: bytes, end: int) -> int:
    """Return where the last `needle` that ends at or before byte `end` begins; -1 where there is none."""
    while end >= len(needle):
        begin = max(0, end - _BLOCK_BYTES)
        file.seek(begin)
        at = file.read(end - begin).rfind(needle)
        if at >= 0:
            return begin + at
        if begin == 0:
            break
        end = begin + len(needle) - 1
    return -1
