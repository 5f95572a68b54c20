"""The start: from what is on the disk to the committed state, by the ordinary path entered earlier.

Owns: reading the audit log back, cutting its torn tail, bringing the projections and the checkpoint up to it, and
refusing what a crash cannot explain. Leaves to `core.ledger` which entries count, and to `shell.replay` the state of
the rules.

A crash can leave at most one unit (a batch or a standalone entry) that was not confirmed, because a unit is written
only after the one before it is durable. So, and only so far, is anything cut or rewritten:
- audit behind the checkpoint: adopted up to the last whole unit, and those bytes are written again and synced: what was
  readable after a kill may not be on the disk;
- behind that: copied to ``audit/torn/`` and cut, if it is the rest of one unit;
- projections must agree with the last batch but one, and are rewritten from the audit log beyond it.
Everything else is refused with exit 4: checkpoint.json, a checkpoint of the tree or a snapshot ahead of the audit log
or with another chain head (they are written only when what they refer to is durable), damage before the checkpoint, a
projection that is longer, shorter or different.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core import audit
from tidewaiter.core.audit import Decision, EntryHead, ProjectionSealed, read_head, record_of, running_hash
from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.ledger import EMPTY_MARK, AuditMark, Checkpoint, Ledger, decode_checkpoint, units
from tidewaiter.edges.projections import open_part, read_range
from tidewaiter.edges.snapshots import read_snapshots, remove_leftovers
from tidewaiter.edges.tree_files import TreeFiles

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.audit import BatchCommitted
    from tidewaiter.core.snapshot import Snapshot
    from tidewaiter.edges.durable import Disk

_sealed: Final = msgspec.json.Decoder(ProjectionSealed)
_decision: Final = msgspec.json.Decoder(Decision)
_RESTORE: Final = "restore the state directory from a back-up; nothing was changed"


@dataclass
class Recovered:
    """What a start found. `mark` is None for a new state directory.

    `timeline` are the batch.committed and the decisions about what governs behind `snapshot` (behind the beginning
    where it is None), in order: what has to be replayed. `checked_from` is the audit mark back to which
    the log was verified (None: from the beginning). `last_commit` is the head of the last batch.committed, where it
    was read. `notes` are things worth an audit entry of their own.
    """

    ledger: Ledger
    mark: AuditMark | None
    snapshot: Snapshot | None = None
    timeline: list[BatchCommitted | Decision] = field(default_factory=list)
    checked_from: AuditMark | None = None
    last_commit: EntryHead | None = None
    notes: list[tuple[str, dict[str, str | int]]] = field(default_factory=list)


def audit_segments(state: Path) -> list[Path]:
    """Return the audit segments in order."""
    return sorted((state / "audit").glob("audit-*.jsonl"))


def prepare_directories(disk: Disk, state: Path) -> None:
    """Create the state directory and its folders. Raises ConfigError."""
    for name in ("audit", "snapshots", "rules", "runs", "reports", "inbox"):
        disk.make_directory(state / name)


def recover(disk: Disk, state: Path) -> Recovered:
    """Bring the state directory to its last commit and return it. Raises IntegrityRefusal, DurabilityError."""
    remove_leftovers(disk, state)
    checkpoint = _read_checkpoint(state)
    segments = _drop_unborn_segment(disk, state, checkpoint)
    tree = TreeFiles(state)
    signed = tree.head()
    if not segments:
        _refuse_orphans(state, checkpoint)
        if signed is not None:
            tree.refuse_cut_log(signed, 0)
        return Recovered(Ledger(), None)
    notes: list[tuple[str, dict[str, str | int]]] = []
    decoded = read_snapshots(state)
    for path, snapshot in decoded:
        if snapshot is None:  # kept for whoever wants to know why, out of the way of the next two
            disk.rename(path, path.with_suffix(".damaged"))
            notes.append(("snapshot.damaged", {"file": path.name}))
    snapshots = [snapshot for _, snapshot in decoded if snapshot is not None]
    oldest = snapshots[-1] if snapshots else None
    reading = _Reading(state, segments, oldest, checkpoint)
    reading.expect([snapshot.header.audit for snapshot in snapshots])
    reading.read()
    if checkpoint is not None and not reading.met_checkpoint:
        raise IntegrityRefusal(
            f"{state / 'checkpoint.json'}: is ahead of the audit log, which ends at entry {reading.ledger.index} "
            f"while the checkpoint stands at entry {checkpoint.audit.index}",
            hint=_RESTORE,
        )
    reading.refuse_snapshots_ahead()
    if signed is not None:  # before anything is cut
        tree.refuse_cut_log(signed, reading.ledger.index)
    if reading.tail_error:
        notes.append(_cut_tail(disk, state, reading))
    _confirm_audit(disk, state, reading, checkpoint)
    recovered = Recovered(reading.ledger, reading.mark, notes=notes)
    if oldest is not None:
        recovered.checked_from = oldest.header.audit
        recovered.snapshot = snapshots[0]
    if reading.last_unit:
        recovered.last_commit = read_head(reading.last_unit[-1][1])
    after = recovered.snapshot.header.audit.index if recovered.snapshot is not None else 0
    recovered.timeline = [step for index, step in reading.timeline if index >= after]
    _restore_projections(disk, state, reading, oldest)
    return recovered


def _read_checkpoint(state: Path) -> Checkpoint | None:
    try:
        return decode_checkpoint((state / "checkpoint.json").read_bytes())
    except FileNotFoundError:
        return None


def _refuse_orphans(state: Path, checkpoint: Checkpoint | None) -> None:
    """Refuse to begin anew where other files show that there was an audit log."""
    for projection in audit.PROJECTIONS:
        path = open_part(state, projection)
        if path.exists() and path.stat().st_size:
            raise IntegrityRefusal(
                f"{path}: holds {path.stat().st_size} bytes but there is no audit log", hint=_RESTORE
            )
    if checkpoint is not None and checkpoint.commit is not None:
        raise IntegrityRefusal(
            f"{state / 'checkpoint.json'}: there is no audit log that it could refer to", hint=_RESTORE
        )


def _drop_unborn_segment(disk: Disk, state: Path, checkpoint: Checkpoint | None) -> list[Path]:
    """Drop a last segment that died before its first entry was whole; nothing refers to it yet."""
    segments = audit_segments(state)
    if segments and not _first_line(segments[-1]).endswith(b"\n"):
        last = segments[-1]
        referred = checkpoint is not None and checkpoint.audit.segment == last.name
        if referred or _terminators(last.read_bytes().partition(b"\n")[2]):
            raise IntegrityRefusal(f"{last}: byte 0: the first entry is damaged", hint=_RESTORE)
        disk.unlink(last)
        disk.sync_directory(last.parent)
        segments.pop()
    return segments


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        line = file.readline(audit.MAX_ENTRY_BYTES + 1)
    return line if read_head(line) is not None else b""


class _Reading:
    """One pass over the audit log from the older snapshot (or the beginning) to its end."""

    def __init__(self, state: Path, segments: list[Path], base: Snapshot | None, checkpoint: Checkpoint | None) -> None:
        self.state = state
        self.ledger = msgspec.convert(msgspec.to_builtins(base.header.ledger), Ledger) if base is not None else Ledger()
        self.mark: AuditMark | None = base.header.audit if base is not None else None
        self.batches: list[tuple[int, BatchCommitted]] = []
        self.timeline: list[tuple[int, BatchCommitted | Decision]] = []
        self.last_unit: list[tuple[str, bytes]] = []
        self.sealed_last: ProjectionSealed | None = None
        self.closed_last = False
        self.tail_error = ""
        self.met_checkpoint = False
        self._segments = segments
        self._checkpoint = checkpoint
        self._expected: dict[int, AuditMark] = {}
        self.segment_ends: dict[str, int] = {}

    def expect(self, marks: list[AuditMark]) -> None:
        """Have the marks of the snapshots met on the way: none may name a place that the audit log does not have."""
        self._expected = {mark.index: mark for mark in marks if mark != self.mark}

    def refuse_snapshots_ahead(self) -> None:
        """Refuse an audit log that ended, or changed segments, before the mark of a snapshot was met.

        A snapshot is taken when its mark is durable: no interrupted write explains it. Raises IntegrityRefusal.
        """
        for mark in self._expected.values():
            raise IntegrityRefusal(
                f"{self.state / 'audit' / mark.segment}: a snapshot covers it up to entry {mark.index} (byte "
                f"{mark.length}), the audit log ends at entry {self.ledger.index}",
                hint=_RESTORE,
            )

    def read(self) -> None:
        """Fold every adoptable entry into the ledger. Raises IntegrityRefusal for what no crash explains."""
        names = [path.name for path in self._segments]
        first = 0
        if self.mark is not None:
            if self.mark.segment not in names:
                raise IntegrityRefusal(
                    f"{self.state / 'audit' / self.mark.segment}: is missing, a snapshot refers to it", hint=_RESTORE
                )
            first = names.index(self.mark.segment)
        self._meet(self.mark, base=True)
        for at in range(first, len(self._segments)):
            self._read_segment(self._segments[at], is_last=at == len(self._segments) - 1)

    def _read_segment(self, path: Path, *, is_last: bool) -> None:
        offset = self.mark.length if self.mark is not None and self.mark.segment == path.name else 0
        size = path.stat().st_size
        if size < offset:
            raise IntegrityRefusal(f"{path}: ends at byte {size}, a snapshot covers {offset}", hint=_RESTORE)
        with path.open("rb") as file:
            file.seek(offset)
            for unit in units(file, self.ledger.index, self.ledger.head):
                self.ledger.apply(unit)
                if self.ledger.commit is not None and unit.entries[-1][0] == audit.BATCH_COMMITTED:
                    self.batches.append((unit.index - 1, self.ledger.commit))
                    self.timeline.append(self.batches[-1])
                    self.last_unit = unit.entries
                elif unit.entries[-1][0] == audit.DECISION_RECORDED:
                    decision = _decision.decode(unit.entries[-1][1])
                    if decision.decisions is not None:
                        self.timeline.append((unit.index - 1, decision))
                action, line = unit.entries[-1]
                self.sealed_last = _sealed.decode(line) if action == audit.PROJECTION_SEALED else None
                self.closed_last = action == audit.RUN_ENDED or (self.closed_last and action == audit.LINEAGE_EMITTED)
                offset += unit.size
                self.mark = AuditMark(path.name, offset, unit.index, unit.head)
                self._meet(self.mark)
        self.segment_ends[path.name] = offset
        if offset == size:
            return
        rest = path.read_bytes()[offset:]
        broken, index, head = _break(rest, self.ledger.index, self.ledger.head)
        self.tail_error = f"entry {index} is incomplete or does not continue the chain"
        checkpoint = self._checkpoint
        covered = checkpoint is not None and checkpoint.audit.segment == path.name and checkpoint.audit.length > offset
        if not is_last or offset == 0 or covered or _terminators(rest) > 1:
            raise IntegrityRefusal(
                f"{path}: byte {offset + broken}: {self.tail_error}; expected an entry with index {index} and prev "
                f"{head}; this is not the rest of an interrupted write",
                hint=_RESTORE,
            )

    def _meet(self, mark: AuditMark | None, *, base: bool = False) -> None:
        """Note where the checkpoint's place and those of snapshots are reached; one (`base`) may lie behind it."""
        expected = self._expected.pop(mark.index, mark) if mark is not None else None
        if mark is not None and expected is not None and expected != mark:
            raise IntegrityRefusal(
                f"{self.state / 'audit' / mark.segment}: byte {mark.length}: does not agree with a snapshot at entry "
                f"{mark.index}: expected {expected.head}, found {mark.head}",
                hint=_RESTORE,
            )
        checkpoint = self._checkpoint
        if checkpoint is None or mark is None or self.met_checkpoint or mark.index < checkpoint.audit.index:
            return
        if checkpoint.audit != mark and not (base and mark.index > checkpoint.audit.index):
            raise IntegrityRefusal(
                f"{self.state / 'audit' / mark.segment}: byte {mark.length}: does not agree with checkpoint.json at "
                f"entry {checkpoint.audit.index}: expected {checkpoint.audit.head}, found {mark.head}",
                hint=_RESTORE,
            )
        self.met_checkpoint = True


def _break(rest: bytes, index: int, head: str) -> tuple[int, int, str]:
    """Return where in the tail the chain breaks, and the index and prev that an entry there should have."""
    at = 0
    for line in rest.splitlines(keepends=True):
        entry = read_head(line) if line.endswith(b"\n") else None
        if entry is None or entry.prev != head or entry.index != index:
            break
        at, index, head = at + len(line), index + 1, hashlib.sha256(line).hexdigest()
    return at, index, head


def _terminators(rest: bytes) -> int:
    """Count the entries in a torn tail that would end a unit: more than one is no interrupted write."""
    heads = (read_head(line) for line in rest.split(b"\n"))
    return sum(1 for head in heads if head is not None and head.action not in audit.PROJECTIONS.values())


def _cut_tail(disk: Disk, state: Path, reading: _Reading) -> tuple[str, dict[str, str | int]]:
    """Keep a copy of the torn tail, then cut it. If we die between the two, the next start does the same again."""
    mark = reading.mark
    path = audit_segments(state)[-1]
    end = mark.length if mark is not None and mark.segment == path.name else 0
    torn = path.read_bytes()[end:]
    disk.make_directory(state / "audit" / "torn")
    disk.replace_file(state / "audit" / "torn" / f"{path.stem}-{end}.torn", torn)
    fd = disk.open(path)
    try:
        disk.truncate(fd, end, path)
        disk.sync(fd, path)
    finally:
        disk.close(fd)
    digest = hashlib.sha256(torn).hexdigest()
    return audit.TAIL_CUT, {
        "segment": path.name,
        "offset": end,
        "length": len(torn),
        "sha256": digest,
        "reason": reading.tail_error,
    }


def _confirm_audit(disk: Disk, state: Path, reading: _Reading, checkpoint: Checkpoint | None) -> None:
    """Write the adopted bytes behind the checkpoint once more and sync them: until now they may be in memory only."""
    for name, end in reading.segment_ends.items():
        path = state / "audit" / name
        if checkpoint is not None and name < checkpoint.audit.segment:
            continue
        begin = checkpoint.audit.length if checkpoint is not None and name == checkpoint.audit.segment else 0
        if begin >= end:
            continue
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(end - begin)
        fd = disk.open(path)
        try:
            disk.write_at(fd, data, begin, path)
            disk.sync(fd, path)
        finally:
            disk.close(fd)
    disk.sync_directory(state / "audit")


def _restore_projections(disk: Disk, state: Path, reading: _Reading, base: Snapshot | None) -> None:
    _finish_sealing(disk, state, reading.sealed_last)
    for projection in audit.PROJECTIONS:
        _check_projection(state, projection, reading, base)
        _rewrite_projection(disk, state, projection, reading)


def _finish_sealing(disk: Disk, state: Path, sealed: ProjectionSealed | None) -> None:
    """Do the rename that a crash left undone: the audit log ends with the sealing, the file has its old name."""
    if sealed is None:
        return
    path, target = open_part(state, sealed.projection), state / sealed.file
    if path.exists() and not target.exists():
        disk.rename(path, target)


def _check_projection(state: Path, projection: str, reading: _Reading, base: Snapshot | None) -> None:
    """Compare the projection with the audit log up to the last batch but one."""
    ledger = reading.ledger
    mark = ledger.mark(projection)
    path = open_part(state, projection)
    size = path.stat().st_size if path.exists() else 0
    if reading.batches and not reading.closed_last:
        confirmed = ledger.previous.projections.get(projection, EMPTY_MARK).length if ledger.previous is not None else 0
    else:  # a snapshot is written, and a run closed, only when everything before it is in place
        confirmed = mark.length
    if mark.base + size > mark.length:
        raise IntegrityRefusal(
            f"{path}: is {size} bytes long, the audit log accounts for {mark.length - mark.base}",
            hint="somebody else wrote to it; remove what is not tidewaiter's, or restore it from a back-up",
        )
    if mark.base + size < confirmed:
        raise IntegrityRefusal(
            f"{path}: is {size} bytes long, the audit log confirms {confirmed - mark.base}",
            hint="it was cut; restore it from a back-up",
        )
    before = base.header.ledger.mark(projection) if base is not None else EMPTY_MARK
    for _, batch in reading.batches:
        after = batch.projections.get(projection, EMPTY_MARK)
        if after.length > confirmed:
            break
        if after.length > before.length:
            data = read_range(state, projection, mark.base, before.length, after.length)
            if running_hash(before.sha256, data) != after.sha256:
                raise IntegrityRefusal(
                    f"{path}: bytes {before.length - mark.base} to {after.length - mark.base} differ from what was "
                    f"committed: expected running hash {after.sha256}, found {running_hash(before.sha256, data)}",
                    hint="it was changed by hand; restore it from a back-up",
                )
        before = after


def _rewrite_projection(disk: Disk, state: Path, projection: str, reading: _Reading) -> None:
    """Write the last batch's lines again from the audit log; the same bytes at the same place, however often."""
    mark = reading.ledger.mark(projection)
    action = audit.PROJECTIONS[projection]
    data = b"".join([record_of(line) for kind, line in reading.last_unit if kind == action])
    if not data:
        return
    path = open_part(state, projection)
    begin = mark.length - len(data) - mark.base
    if begin < 0:
        return  # the last batch lies in a part that was sealed behind it, and durable before that
    fd = disk.open(path)
    try:
        disk.write_at(fd, data, begin, path)
        disk.sync(fd, path)
    finally:
        disk.close(fd)
    disk.sync_directory(state)
