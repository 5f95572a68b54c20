"""The part of the audit log that a start does not need, checked all the same: chain and projections, from entry 0.

Owns: one reading of the audit log up to a mark, beside the running daemon, and comparing the projection files with the
records in the audit log. Leaves to `edges.recovery` everything behind that mark. A finding is a refusal: the daemon
stops with exit 4 and names file and byte.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import GENESIS, PREV_AT, BatchCommitted, read_head, record_of
from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.edges.journal import segment_name
from tidewaiter.edges.projections import read_range, sealed_bases, sealed_part
from tidewaiter.edges.recovery import audit_segments

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.audit import ProjectionMark
    from tidewaiter.core.ledger import AuditMark, Ledger

_HINT: Final = "restore the state directory from a back-up; it was changed after it was written"
_COMPARED_BYTES: Final = 1 << 20
_MARKERS: Final = {name: f',"action":"{action}","record":'.encode() for name, action in audit.PROJECTIONS.items()}
_COMMITTED: Final = f',"action":"{audit.BATCH_COMMITTED}",'.encode()
_MARKER_WITHIN: Final = 2048  # room for the name of an actor
_ATTEMPTS: Final = 3
_batch: Final = msgspec.json.Decoder(BatchCommitted)


def bytes_before(state: Path, mark: AuditMark) -> int:
    """Return how much there is to read: the audit log's length in bytes before `mark`."""
    return sum(path.stat().st_size for path in audit_segments(state) if path.name < mark.segment) + mark.length


def check_prefix(state: Path, mark: AuditMark, ledger: Ledger, stopped: Callable[[], bool]) -> None:
    """Check chain and projections from the first entry up to `mark`.

    `ledger` is the state at the start. Returns early once `stopped()` says so. Blocks.
    Raises IntegrityRefusal.
    """
    segments = audit_segments(state)
    # where retention has removed the oldest segments, the chain is checked from the first that is left
    head = _claimed_head(segments[0]) if segments and segments[0].name != segment_name(0) else GENESIS
    projections = ProjectionCheck(state, lambda name: ledger.mark(name).base, _refuse)
    known = head == GENESIS  # whether it is known where in the projections the records belong
    for path in segments:
        if path.name > mark.segment:
            break
        limit = mark.length if path.name == mark.segment else path.stat().st_size
        offset = 0
        with path.open("rb") as file:
            for line in file:
                if offset >= limit or stopped():
                    break
                if line[PREV_AT : PREV_AT + 64] != head.encode():
                    found = line[PREV_AT : PREV_AT + 64].decode("ascii", "backslashreplace")
                    raise IntegrityRefusal(
                        f"{path}: byte {offset}: the chain is broken there or in the entry before: "
                        f"expected prev {head}, found {found}",
                        hint=_HINT,
                    )
                head = hashlib.sha256(line).hexdigest()
                offset += len(line)
                if known:
                    _take(projections, line)
                elif line.find(_COMMITTED, 0, _MARKER_WITHIN) >= 0:
                    projections.begin_at(_batch.decode(line).projections)
                    known = True
    if not stopped():
        if head != mark.head:
            raise IntegrityRefusal(
                f"{state / 'audit' / mark.segment}: byte {mark.length}: the entry before was changed: expected digest "
                f"{mark.head}, found {head}",
                hint=_HINT,
            )
        projections.finish()


def _claimed_head(path: Path) -> str:
    with path.open("rb") as file:
        entry = read_head(file.readline())
    return entry.prev if entry is not None else GENESIS


def _take(projections: ProjectionCheck, line: bytes) -> None:
    for name, marker in _MARKERS.items():
        if line.find(marker, 0, _MARKER_WITHIN) >= 0:
            projections.records(name, record_of(line))
            return


def _refuse(difference: Difference) -> None:
    raise IntegrityRefusal(
        f"{difference.file}: byte {difference.offset} of the whole projection differs from the audit log", hint=_HINT
    )


class Difference(Struct, frozen=True):
    """Where a projection is not what the audit log says.

    It agrees up to byte `offset` of the whole projection; `wanted` and `found` go on there. `found` may be nothing.
    """

    projection: str
    file: Path
    offset: int
    wanted: bytes
    found: bytes


class ProjectionCheck:
    """Compares the records as they stand in the audit log with the projection files that are still there."""

    def __init__(self, state: Path, base_of: Callable[[str], int], differs: Callable[[Difference], None]) -> None:
        """`base_of` says where a projection's open part begins, as far as is known; `differs` is told what differs."""
        self._state = state
        self._base_of = base_of
        self._differs = differs
        self._offset = dict.fromkeys(audit.PROJECTIONS, 0)
        self._expected: dict[str, list[bytes]] = {name: [] for name in audit.PROJECTIONS}
        self._size = dict.fromkeys(audit.PROJECTIONS, 0)
        self.absent = dict.fromkeys(audit.PROJECTIONS, 0)
        """How many bytes at the beginning of each projection are in no file any more."""

    def begin_at(self, marks: dict[str, ProjectionMark]) -> None:
        """Begin in the middle: what comes next stands behind `marks`."""
        self._offset = {name: marks[name].length if name in marks else 0 for name in audit.PROJECTIONS}

    def records(self, name: str, data: bytes) -> None:
        """Take the next lines of a projection."""
        self._expected[name].append(data)
        self._size[name] += len(data)
        if self._size[name] >= _COMPARED_BYTES:
            self._compare(name)

    def finish(self) -> None:
        """Compare what is left."""
        for name in audit.PROJECTIONS:
            self._compare(name)

    def _compare(self, name: str) -> None:
        expected = b"".join(self._expected[name])
        begin = self._offset[name]
        end = begin + len(expected)
        first, found = self._look(name, begin, end)
        for _ in range(_ATTEMPTS - 1):
            if found != expected[first - begin :]:
                first, found = self._look(name, begin, end)
        wanted = expected[first - begin :]
        if found != wanted:
            differing = (at for at, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b)
            at = next(differing, min(len(wanted), len(found)))
            self._differs(Difference(name, self._state / f"{name}.jsonl", first + at, wanted[at:], found[at:]))
        self.absent[name] = max(self.absent[name], first if first > begin else 0)
        self._offset[name] = end
        self._expected[name], self._size[name] = [], 0

    def _look(self, name: str, begin: int, end: int) -> tuple[int, bytes]:
        """Return what is there of [begin, end) and where it begins: later, where retention has removed parts.

        The daemon may seal a part meanwhile; then the caller looks again.
        """
        bases = sealed_bases(self._state, name)
        base = self._base_of(name)
        if bases:
            base = max(base, bases[-1] + sealed_part(self._state, name, bases[-1]).stat().st_size)
        first = min(max(begin, bases[0] if bases else base), end)
        return first, read_range(self._state, name, base, first, end)
