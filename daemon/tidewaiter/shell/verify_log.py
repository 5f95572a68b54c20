"""The audit log read once from end to end: chain, indexes, times, batches, and what they say about everything else.

Owns: one streaming pass over the audit segments up to where they ended when the verification began, and what later
rooms need of it. Leaves to `core.ledger` what the entries mean, to `shell.verify_batches` the records, and to
`shell.verify_tree` the same bytes as leaves of the tree.

What is found wrong never ends the pass: it goes on as if the entry that was found had been the right one. The loop over
the lines of one batch is the hot path: an entry that differs from the one before in chain, index and record alone is
not decoded.
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import itertools
from binascii import hexlify
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import (
    UNREADABLE,
    BatchCommitted,
    Decision,
    Document,
    EntryHead,
    KeyRecorded,
    LineageEmitted,
    ProjectionSealed,
    SegmentOpened,
    read_head,
)
from tidewaiter.core.ledger import AuditMark, Ledger, units
from tidewaiter.edges.journal import segment_name
from tidewaiter.edges.recovery import audit_segments
from tidewaiter.shell.verify_batches import BatchCheck, Committed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tidewaiter.core.audit import Decisions
    from tidewaiter.edges.prefix_check import ProjectionCheck
    from tidewaiter.shell.verify_findings import Findings

RECENTLY: Final = dt.timedelta(seconds=60)
"""A running daemon signs what it commits much faster; entries that wait longer are waiting for nobody."""
CLOCK_TOLERANCE: Final = dt.timedelta(seconds=60)
"""A clock may be set back so far; entries whose times go back by more were not written when they say."""
_BLOCK: Final = 1 << 18
_ACTION_OF: Final = {action: name for name, action in audit.PROJECTIONS.items()}
_RECORD: Final = b',"record":'
_NO_MIDDLE: Final = b"\n"  # stands in no line
_WITH_DOCUMENTS: Final = frozenset({audit.RUN_STARTED, audit.RUN_ENDED, audit.SNAPSHOT_RECORDED})


class AuditFile(Struct, frozen=True):
    """An audit segment: its first `size` bytes are looked at. `first` is the index that its name gives."""

    path: Path
    size: int
    first: int


class Documents(Struct):
    """The documents that an entry names, whatever its action."""

    documents: list[Document] = []
    document: Document | None = None

    def all(self) -> list[Document]:
        """Return them in order."""
        return [*self.documents, *([self.document] if self.document is not None else [])]


documents_of: Final = msgspec.json.Decoder(Documents)


@dataclass(frozen=True)
class Stop:
    """Where the log stood behind an entry: its end there, its state, and the time of the last entry."""

    mark: AuditMark
    ledger: Ledger
    time: str


@dataclass
class Collector:
    """Is told what the entries say; by default nothing is kept."""

    batch: Callable[[BatchCommitted, int, str], None] = lambda *_: None
    """A batch.committed with its index and time."""
    decision: Callable[[Decision, int], None] = lambda *_: None
    lineage: Callable[[LineageEmitted, int], None] = lambda *_: None
    """A lineage.emitted with its index."""
    progress: Callable[[int], None] = lambda _: None
    """How many bytes were read since the last call."""


def pin(state: Path) -> list[AuditFile]:
    """Return the audit segments as they are now. What is written later is no part of the verification."""
    found = []
    for path in audit_segments(state):
        digits = path.stem.removeprefix("audit-")
        first = int(digits) if digits.isascii() and digits.isdigit() else -1
        found.append(AuditFile(path, path.stat().st_size, first))
    return found


def line_blocks(file: AuditFile) -> Iterator[tuple[int, list[bytes], bytes]]:
    """Yield the whole lines of a file as (offset of the first, lines, what is torn behind)."""
    at = 0
    with file.path.open("rb", buffering=_BLOCK) as opened:
        while at < file.size and (lines := opened.readlines(_BLOCK)):
            end, torn = at + sum(map(len, lines)), b""
            while lines and (end > file.size or not lines[-1].endswith(b"\n")):  # written since, or not whole
                end -= len(lines[-1])
                torn = lines.pop()[: max(file.size - end, 0)]
            yield at, lines, torn
            at = end
            if torn:
                return


class LogPass:
    """One pass. `first` is the index of the first entry that is left. Afterwards `ledger`, `index` and `head` are the
    end, `stops` what was asked for, and the rest is what the entries say.
    """  # noqa: D205 - one paragraph

    def __init__(
        self,
        files: list[AuditFile],
        findings: Findings,
        *,
        stops: Iterable[int],
        projections: ProjectionCheck | None = None,
        collector: Collector | None = None,
        named: bool = True,
    ) -> None:
        """`stops` are numbers of entries behind which the state is kept. `named`: the files are named as segments."""
        self.ledger = Ledger()
        self.index = self.first = files[0].first if files and files[0].first > 0 else 0
        self.head = audit.GENESIS
        self.stops: dict[int, Stop] = {}
        self.keys: list[tuple[int, KeyRecorded]] = []
        self.documents: dict[str, tuple[int, Document]] = {}
        self.governing: dict[str, int] = {}
        self.runs: dict[str, int] = {}
        self.sealed: dict[tuple[str, int], int] = {}
        self.torn = b""
        self.recent: int | None = None
        """The first entry that was written within the last minute."""
        now = dt.datetime.now(dt.UTC)
        self._recently = [f"{each:%Y-%m-%dT%H:%M:%S.%fZ}" for each in (now - RECENTLY, now + RECENTLY)]
        self._files, self._findings, self._named = files, findings, named
        self._wanted = sorted(set(stops), reverse=True)
        self._batches = BatchCheck(findings, projections)
        self._collector = collector or Collector()
        self._begun = self.index == 0  # whether it is known where in the projections the records belong
        self._chained = self.index == 0
        self._middle = _NO_MIDDLE
        self._records: dict[str, list[bytes]] = {}
        self._into: list[bytes] = []
        self._decisions: Decisions | None = None
        self._time = self._latest = ""
        self._file: AuditFile | None = None
        self._starts: list[int] = []
        self._offset_before = -1

    def run(self) -> None:
        """Read everything."""
        for number, file in enumerate(self._files):
            before = self._files[number - 1] if number else None
            if self._named and file.first != self.index:
                self._findings.tampered(
                    "chain", "entries are missing, or segments were exchanged: the file's name gives its first index",
                    file.path, index=self.index, offset=0, expected=segment_name(self.index), found=file.path.name,
                )  # fmt: skip
                self.index = max(file.first, 0)
            self._file, self._offset_before, self.torn = file, -1, b""
            self._read(file, before)
            if self.torn and file is not self._files[-1]:
                self._findings.tampered(
                    "chain", "the segment does not end with a whole entry", file.path, index=self.index,
                    offset=file.size - len(self.torn),
                )  # fmt: skip
        if any(self._records.values()):
            number = sum(map(len, self._records.values()))
            self._findings.note(f"the last {number} entries belong to a batch that was not committed yet")
        self._batches.finish()

    def _read(self, file: AuditFile, before: AuditFile | None) -> None:
        opened = False
        for begin, lines, torn in line_blocks(file):
            if lines and not opened:
                opened = True
                self._check_opening(file, lines[0], before)
            done, offset = 0, begin
            while done < len(lines):
                while self._wanted and self._wanted[-1] <= self.index:
                    self._wanted.pop()
                part = lines[done:]
                if self._wanted:
                    part = part[: self._wanted[-1] - self.index]
                offset = self._lines(part, offset)
                done += len(part)
                if self._wanted and self._wanted[-1] == self.index:
                    self._keep_stop(file, offset)
            self.torn = torn
            self._collector.progress(sum(map(len, lines)))
        if not opened and (self.index == 0 or file is not self._files[-1]):  # the last one may just have been made
            self._findings.tampered("chain", "the segment holds no whole entry", file.path, index=self.index, offset=0)

    def _keep_stop(self, file: AuditFile, offset: int) -> None:
        mark = AuditMark(file.path.name, offset, self.index, self.head)
        self.stops[self.index] = Stop(mark, copy.copy(self.ledger), self._time)

    def _lines(self, lines: list[bytes], offset: int) -> int:
        """Take lines in order and return the offset behind them. The hot path."""
        sha256 = hashlib.sha256
        self._starts = []
        head, index, middle, into = self.head.encode(), self.index, self._middle, self._into
        for number, line in enumerate(lines):
            opening = b'{"prev":"%b","index":%d%b' % (head, index, middle)
            if line.startswith(opening) and line.endswith(b"}\n"):
                into.append(line[len(opening) : -2])
            else:
                self.head, self.index = head.decode(), index
                self._other(line, lines, number, offset)
                index, middle, into = self.index, self._middle, self._into
            head = hexlify(sha256(line).digest())
            index += 1
        self.head, self.index = head.decode(), index
        behind = offset + sum(map(len, lines))
        self._offset_before = behind - len(lines[-1])
        return behind

    # -- one entry -----------------------------------------------------------------------------------------------

    def _other(self, line: bytes, lines: list[bytes], number: int, offset: int) -> None:
        """Take an entry that is not just the next record of its kind."""

        def at(place: int) -> int:
            if place < 0:
                return self._offset_before
            if not self._starts:  # once for these lines: kinds of entries may change with every one of them
                self._starts = [0, *itertools.accumulate(map(len, lines))]
            return offset + self._starts[place]

        assert self._file is not None  # noqa: S101 - set by `run`
        path = self._file.path
        self._middle = _NO_MIDDLE
        entry = read_head(line)
        if entry is None or len(line) > audit.MAX_ENTRY_BYTES:
            what = "is no audit entry" if entry is None else "is longer than an audit entry may be"
            self._findings.tampered("chain", f"entry {self.index} {what}", path, index=self.index, offset=at(number))
            return
        self._check_link(entry, path, at(number), at(number - 1))
        self.index = entry.index
        self._check_time(entry, path, at(number))
        name = _ACTION_OF.get(entry.action)
        if name is not None:
            self._begin_records(name, entry, line, at(number))
        else:
            self._standalone(entry, line, at(number))

    def _check_link(self, entry: EntryHead, path: Path, offset: int, before: int) -> None:
        if not self._chained:  # the entries before the first segment that is left are gone
            self._chained, self.head = True, entry.prev
        if entry.index != self.index:
            self._findings.tampered(
                "chain", f"entry {self.index} was expected: entries were taken out, put in, or moved", path,
                index=self.index, offset=offset, expected=f"index {self.index}, prev {self.head}",
                found=f"index {entry.index}, prev {entry.prev}",
            )  # fmt: skip
        elif entry.prev != self.head and before < 0:
            self._findings.tampered(
                "chain", f"entry {entry.index} does not continue the entry before, which stands in another file", path,
                index=max(entry.index - 1, 0), offset=offset, expected=f"prev {self.head}", found=f"prev {entry.prev}",
            )  # fmt: skip
        elif entry.prev != self.head:
            self._findings.tampered(
                "chain", f"entry {entry.index - 1} is not the one that entry {entry.index} was chained to", path,
                index=entry.index - 1, offset=before, expected=f"SHA-256 {entry.prev}", found=f"SHA-256 {self.head}",
            )  # fmt: skip

    def _check_time(self, entry: EntryHead, path: Path, offset: int) -> None:
        time, self._time = entry.timestamp, entry.timestamp
        if self.recent is None and self._recently[0] <= time <= self._recently[1]:
            self.recent = entry.index
        if time >= self._latest and len(time) == len(self._latest):
            self._latest = time
            return
        now, latest = parse_time(time), parse_time(self._latest)
        if now is None:
            self._findings.tampered(
                "time", f"the time of entry {entry.index} is none", path, index=entry.index, offset=offset, found=time
            )
            return
        if latest is not None and latest - now > CLOCK_TOLERANCE:
            self._findings.tampered(
                "time", f"entry {entry.index} is {latest - now} older than an entry before it: it was back-dated, or "
                "the clock was set back", path, index=entry.index, offset=offset,
                expected=f"not before {self._latest} less {CLOCK_TOLERANCE.seconds} s", found=time,
            )  # fmt: skip
            self._latest = time
        self._latest = max(self._latest, time) if latest is not None else time

    def _begin_records(self, name: str, entry: EntryHead, line: bytes, offset: int) -> None:
        action = f',"action":"{entry.action}"'.encode() + _RECORD
        at = line.find(action)
        opening = b'{"prev":"%b","index":%d' % (entry.prev.encode(), entry.index)
        if at < 0 or not line.startswith(opening + b',"timestamp"') or not line.endswith(b"}\n"):
            assert self._file is not None  # noqa: S101 - set by `run`
            self._findings.tampered(
                "chain", f"entry {entry.index} is no {entry.action} as tidewaiter writes it", self._file.path,
                index=entry.index, offset=offset,
            )  # fmt: skip
            return
        body = at + len(action)
        self._middle = line[len(opening) : body]
        self._into = self._records.setdefault(name, [])
        self._into.append(line[body:-2])

    def _standalone(self, entry: EntryHead, line: bytes, offset: int) -> None:
        assert self._file is not None  # noqa: S101 - set by `run`
        path, before = self._file.path, self.ledger.commit
        unit = next(units([line], entry.index, entry.prev), None)
        if unit is None:
            self._findings.tampered(
                "chain", f"entry {entry.index} cannot be read as {entry.action}", path, index=entry.index, offset=offset
            )
            return
        marks = self.ledger.projections
        self.ledger.apply(unit)
        members = unit.members
        if entry.action != audit.BATCH_COMMITTED and any(self._records.values()):
            self._findings.tampered(
                "chain", f"entry {entry.index} stands inside a batch", path, index=entry.index, offset=offset
            )
        if isinstance(members, BatchCommitted):
            self._check_batch(members, entry, offset, before, marks)
            self._note_governing(members.decisions, entry.index)
            self._collector.batch(members, entry.index, entry.timestamp)
        elif isinstance(members, Decision):
            if members.decisions is not None:
                self._note_governing(members.decisions, entry.index)
            self._collector.decision(members, entry.index)
        elif isinstance(members, ProjectionSealed):
            self.sealed[members.projection, members.first] = members.length
        elif isinstance(members, KeyRecorded):
            self.keys.append((entry.index, members))
        elif isinstance(members, LineageEmitted):
            self._collector.lineage(members, entry.index)
        elif entry.action in _WITH_DOCUMENTS:
            if entry.action == audit.RUN_STARTED:
                self.runs[entry.run_id] = entry.index
            try:
                self.documents.update((each.file, (entry.index, each)) for each in documents_of.decode(line).all())
            except UNREADABLE as error:
                self._findings.tampered(
                    "chain", f"entry {entry.index} names documents that cannot be read: {error}", path,
                    index=entry.index, offset=offset,
                )  # fmt: skip

    def _note_governing(self, decisions: Decisions, index: int) -> None:
        if decisions != self._decisions:
            self._decisions = decisions
            for digest in (decisions.config, decisions.contract, decisions.ruleset, decisions.engine):
                self.governing.setdefault(digest, index)
            for digest in decisions.lists.values():
                self.governing.setdefault(digest, index)

    # -- a batch -------------------------------------------------------------------------------------------------

    def _check_batch(
        self,
        batch: BatchCommitted,
        entry: EntryHead,
        offset: int,
        before: BatchCommitted | None,
        marks: dict[str, audit.ProjectionMark],
    ) -> None:
        records, self._records = self._records, {}
        if not self._begun:  # the first batch of a log whose beginning is gone: what comes next can be compared
            self._begun = True
            self._batches.begin_at(batch.projections)
            return
        assert self._file is not None  # noqa: S101 - set by `run`
        totals = None if before is None else before.totals
        self._batches.take(Committed(self._file.path, offset, entry.index, batch, records, totals, marks))

    def _check_opening(self, file: AuditFile, line: bytes, before: AuditFile | None) -> None:
        """Check that a segment begins with the entry that names its predecessor, and the log."""
        try:
            entry, opened = read_head(line), _opened.decode(line)
        except (*UNREADABLE, RecursionError):
            entry, opened = None, None
        if entry is None or opened is None or entry.action != audit.SEGMENT_OPENED:
            self._findings.tampered(
                "chain", f"the segment does not begin with {audit.SEGMENT_OPENED}", file.path, index=self.index,
                offset=0,
            )  # fmt: skip
            return
        if before is not None and (opened.predecessor, opened.predecessor_length) != (before.path.name, before.size):
            self._findings.tampered(
                "chain", "the segment names another predecessor than the file before it", file.path, index=self.index,
                offset=0, expected=f"{before.path.name} of {before.size} bytes",
                found=f"{opened.predecessor} of {opened.predecessor_length} bytes",
            )  # fmt: skip
        if self.ledger.origin and opened.origin != self.ledger.origin:
            self._findings.tampered(
                "chain", "the log changes its name", file.path, index=self.index, offset=0,
                expected=self.ledger.origin, found=opened.origin,
            )  # fmt: skip


_opened: Final = msgspec.json.Decoder(SegmentOpened)


def parse_time(text: str) -> dt.datetime | None:
    """Return the time that an entry carries, None where it is none."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
