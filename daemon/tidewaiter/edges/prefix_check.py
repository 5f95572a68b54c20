"""The part of the audit log that a start does not need, checked all the same: chain and projections, from entry 0.

Owns: one reading of the audit log up to a mark, beside the running daemon. Leaves to `edges.recovery` everything
behind that mark. A finding is a refusal: the daemon stops with exit 4 and names file and byte.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core import audit
from tidewaiter.core.audit import GENESIS, PREV_AT, BatchCommitted, read_head, record_of
from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.edges.journal import segment_name
from tidewaiter.edges.projections import read_range, sealed_bases, sealed_part
from tidewaiter.edges.recovery import audit_segments

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
    check = _ProjectionCheck(state, ledger, from_start=head == GENESIS)
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
                check.take(line)
    if not stopped():
        if head != mark.head:
            raise IntegrityRefusal(
                f"{state / 'audit' / mark.segment}: byte {mark.length}: the entry before was changed: expected digest "
                f"{mark.head}, found {head}",
                hint=_HINT,
            )
        check.finish()


def _claimed_head(path: Path) -> str:
    with path.open("rb") as file:
        entry = read_head(file.readline())
    return entry.prev if entry is not None else GENESIS


class _ProjectionCheck:
    """Compares the records as they stand in the audit log with the projection files that are still there."""

    def __init__(self, state: Path, ledger: Ledger, *, from_start: bool) -> None:
        self._state = state
        self._ledger = ledger
        self._known = from_start  # whether it is known where in the projections the records belong
        self._offset = dict.fromkeys(audit.PROJECTIONS, 0)
        self._expected: dict[str, list[bytes]] = {name: [] for name in audit.PROJECTIONS}
        self._size = dict.fromkeys(audit.PROJECTIONS, 0)

    def take(self, line: bytes) -> None:
        if not self._known:
            if line.find(_COMMITTED, 0, _MARKER_WITHIN) >= 0:
                marks = _batch.decode(line).projections
                self._offset = {name: marks[name].length if name in marks else 0 for name in audit.PROJECTIONS}
                self._known = True
            return
        for name, marker in _MARKERS.items():
            if line.find(marker, 0, _MARKER_WITHIN) >= 0:
                record = record_of(line)
                self._expected[name].append(record)
                self._size[name] += len(record)
                if self._size[name] >= _COMPARED_BYTES:
                    self._compare(name)
                return

    def finish(self) -> None:
        for name in audit.PROJECTIONS:
            self._compare(name)

    def _compare(self, name: str) -> None:
        expected = b"".join(self._expected[name])
        begin = self._offset[name]
        end = begin + len(expected)
        for attempt in range(_ATTEMPTS):
            first, found = self._look(name, begin, end)
            wanted = expected[first - begin :]
            if found == wanted:
                break
            if attempt == _ATTEMPTS - 1:
                differing = (at for at, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b)
                at = first + next(differing, min(len(wanted), len(found)))
                raise IntegrityRefusal(
                    f"{self._state / name}.jsonl: byte {at} of the whole projection differs from the audit log",
                    hint=_HINT,
                )
        self._offset[name] = end
        self._expected[name], self._size[name] = [], 0

    def _look(self, name: str, begin: int, end: int) -> tuple[int, bytes]:
        """Return what is there of [begin, end) and where it begins: later, where retention has removed parts.

        The daemon may seal a part meanwhile; then the caller looks again.
        """
        bases = sealed_bases(self._state, name)
        base = self._ledger.mark(name).base
        if bases:
            base = max(base, bases[-1] + sealed_part(self._state, name, bases[-1]).stat().st_size)
        first = min(max(begin, bases[0] if bases else base), end)
        return first, read_range(self._state, name, base, first, end)
