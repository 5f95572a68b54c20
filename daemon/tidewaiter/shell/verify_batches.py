"""The records of each batch against its batch.committed and against the projection files, beside the pass over the log.

Owns: the thread that joins, hashes and compares while the pass reads on, and the order in which that is done. Leaves to
`shell.verify_log` the entries, and to `edges.prefix_check` comparing with the files.

Hashing and reading let the other thread run; the pass needs no answer before its end. Findings are made by the thread
of the caller, in the order of the log.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

from tidewaiter.core import audit
from tidewaiter.core.audit import running_hash
from tidewaiter.core.ledger import EMPTY_MARK

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.audit import BatchCommitted, Counts, ProjectionMark
    from tidewaiter.edges.prefix_check import ProjectionCheck
    from tidewaiter.shell.verify_findings import Findings

_AT_ONCE: Final = 1 << 10
"""Records and batches that are handed over together: a live log has a batch for every event."""
_AHEAD: Final = 2
"""So many hand-overs may wait: what the pass reads ahead stays in memory."""


class Committed(NamedTuple):
    """A batch as it was found: its entry's place, what it says, the records before it, and what held before them."""

    path: Path
    offset: int
    entry: int
    batch: BatchCommitted
    records: dict[str, list[bytes]]
    totals: Counts | None
    marks: dict[str, ProjectionMark]


class BatchCheck:
    """Takes batches in order; `finish` when there are no more."""

    def __init__(self, findings: Findings, projections: ProjectionCheck | None) -> None:
        """`projections` is told the records; None: there are no files to compare with."""
        self._findings, self._projections = findings, projections
        self._aside = ThreadPoolExecutor(1, "projections")
        self._gathered: list[Committed] = []
        self._weight = 0
        self._begun: deque[Future[list[tuple[Committed, str, str]]]] = deque()

    def take(self, committed: Committed) -> None:
        """Check a batch, some time before `finish` returns."""
        self._gathered.append(committed)
        self._weight += 1 + sum(map(len, committed.records.values()))
        if self._weight >= _AT_ONCE:
            self._hand_over()

    def begin_at(self, marks: dict[str, ProjectionMark]) -> None:
        """Begin in the middle: the records to come stand behind `marks`. Before anything was taken."""
        if self._projections is not None:
            self._projections.begin_at(marks)

    def finish(self) -> None:
        """Wait for everything, and end. Raises OSError where a projection cannot be read."""
        self._hand_over()
        while self._begun:
            self._settle(self._begun.popleft())
        self._aside.shutdown()
        if self._projections is not None:
            self._projections.finish()

    def _hand_over(self) -> None:
        self._begun.append(self._aside.submit(self._checked, self._gathered))
        self._gathered, self._weight = [], 0
        while len(self._begun) > _AHEAD:
            self._settle(self._begun.popleft())

    def _settle(self, done: Future[list[tuple[Committed, str, str]]]) -> None:
        for committed, expected, found in done.result():
            self._findings.tampered(
                "chain", f"entry {committed.entry} (batch.committed) does not agree with the entries before it",
                committed.path, index=committed.entry, offset=committed.offset, expected=expected, found=found,
            )  # fmt: skip

    def _checked(self, gathered: list[Committed]) -> list[tuple[Committed, str, str]]:
        """Return what each batch had to say and what it says, where the two differ. In the other thread."""
        return [(one, expected, found) for one in gathered for expected, found in self._differences(one)]

    def _differences(self, one: Committed) -> list[tuple[str, str]]:
        wrong = []
        for name in audit.PROJECTIONS:
            bodies, mark = one.records.get(name), one.batch.projections.get(name, EMPTY_MARK)
            before = one.marks.get(name, EMPTY_MARK)
            length, digest = before.length, before.sha256
            if bodies:
                bodies.append(b"")
                data = b"\n".join(bodies)
                length, digest = length + len(data), _running_hash(digest, data)
                if self._projections is not None:
                    self._projections.records(name, data)
            if (length, digest) != (mark.length, mark.sha256):
                wrong.append((f"{name}: {length} bytes, running hash {digest}", f"{mark.length}, {mark.sha256}"))
        if one.totals is not None and one.totals.plus(one.batch.counts) != one.batch.totals:
            wrong.append((f"totals {one.totals.plus(one.batch.counts)}", str(one.batch.totals)))
        return wrong


def _running_hash(previous: str, data: bytes) -> str:
    try:
        return running_hash(previous, data)
    except ValueError:
        return f"none, for {previous} is no digest"
