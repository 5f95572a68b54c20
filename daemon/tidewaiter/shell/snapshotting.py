"""When the rules' memory is saved: the pace of snapshots, and writing them beside the running engine.

Owns: the decision that a snapshot is due and the one that is being written. Leaves to `core.snapshot` the contents, to
`edges.snapshots` the files, and to the consumer the batch boundary at which the state is taken: everything committed
before it must be materialised.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tidewaiter.core.audit import SnapshotRecorded
from tidewaiter.core.snapshot import Frozen, freeze
from tidewaiter.edges.durable import NoSpace
from tidewaiter.edges.logs import get_logger
from tidewaiter.edges.snapshots import SnapshotFiles

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from tidewaiter.core.audit import Document
    from tidewaiter.core.engine import Engine
    from tidewaiter.core.ledger import AuditMark, Ledger
    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.settings import StatePart

log = get_logger()

SHARE: Final = 50
"""A snapshot that will take s seconds is taken 50 s after the last at the earliest: at most 2 % of the time."""
SECONDS_PER_ENTRY: Final = 5e-7
"""What an id or a key costs, until a snapshot of at least `TELLING_ENTRIES` has shown it."""
TELLING_ENTRIES: Final = 10_000
BOUND_SHARE: Final = 2
"""Behind `snapshot_events` events it is twice as long only: at most half of the time."""
EVENTS_FACTOR: Final = 2
"""After so many times `snapshot_events` one is taken whatever it costs: it bounds what a crash replays."""
KEYS_AHEAD: Final = 10_000
"""How many keys are copied at a time before a snapshot is taken; two milliseconds where no cache holds them."""
_RETRY_SECONDS: Final = 5.0


class _Written(NamedTuple):
    """What to tell about a snapshot: seconds from the copy to its rename, and how long the engine stood still."""

    document: Document
    entries: int
    offset: int
    seconds: float
    stalled: float


def _written(finished: asyncio.Future[_Written]) -> None:
    gc.enable()
    # what went wrong is raised when it is collected; a daemon that ends before that must not leave it unseen
    if not finished.cancelled():
        finished.exception()


class Snapshotting:
    """The snapshots of one state directory; at most one is being written."""

    def __init__(self, disk: Disk, state: Path, pace: StatePart, thread: Executor, events_read: int) -> None:
        """`events_read` is the total at the last snapshot, or at the start."""
        self._files = SnapshotFiles(disk, state)
        self._pace = pace
        self._thread = thread
        self._writing: asyncio.Future[_Written] | None = None
        self._taken_at_index = -1
        self._taken_at_events = events_read
        self._taken_at = time.monotonic()
        self._not_before = 0.0
        self._seconds_per_entry = SECONDS_PER_ENTRY
        self._taken_entries = 0
        self._copying = False
        self._unrecorded: list[SnapshotRecorded] = []

    def take_written(self) -> list[SnapshotRecorded]:
        """Return the snapshots that became durable since the last call: what the audit log is to say of them."""
        unrecorded, self._unrecorded = self._unrecorded, []
        return unrecorded

    @property
    def under_way(self) -> bool:
        """Whether one is being copied ahead or written: then `due` is to be asked again soon."""
        return self._copying or self._writing is not None

    def due(self, ledger: Ledger, engine: Engine) -> bool:
        """Return whether one should be taken now; also collects the one that was being written."""
        if self._writing is not None:
            if not self._writing.done():
                return False
            self._collect()
        events = ledger.totals.events_read - self._taken_at_events
        if not events:
            return False
        now = time.monotonic()
        configured = self._pace.snapshot_events
        if events >= configured * EVENTS_FACTOR:
            return True
        bound = events >= configured
        if now < self._not_before or not (bound or (now - self._taken_at) * 1e6 >= self._pace.snapshot_interval_us):
            return False
        share = BOUND_SHARE if bound else SHARE
        if now < self._taken_at + share * engine.entries * self._seconds_per_entry:
            return False
        copied = engine.rules.copy_ahead(KEYS_AHEAD)  # most of the copy, bit by bit between the batches before it
        self._copying = not copied
        return copied

    def take(self, engine: Engine, ledger: Ledger, mark: AuditMark) -> None:
        """Copy the state and begin to write it; does nothing where one is being written or nothing has changed."""
        if self._writing is not None or mark.index == self._taken_at_index:
            return
        began = time.monotonic()
        gc.disable()  # the copy goes soon, and holds no cycles: to walk through it would be another stall
        self._taken_entries = engine.entries
        self._copying = False
        frozen = freeze(engine, ledger, mark)
        stalled = time.monotonic() - began
        self._taken_at_index, self._taken_at_events, self._taken_at = mark.index, ledger.totals.events_read, began
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()  # this task's words, for its log lines
        self._writing = loop.run_in_executor(self._thread, context.run, self._write, frozen, began, stalled)
        self._writing.add_done_callback(_written)

    def _write(self, frozen: Frozen, began: float, stalled: float) -> _Written:
        document = self._files.write(frozen)
        ledger = frozen.header.ledger
        return _Written(document, ledger.index, ledger.global_offset, time.monotonic() - began, stalled)

    def _collect(self) -> None:
        assert self._writing is not None  # noqa: S101 - only called then
        finished, self._writing = self._writing, None
        error = finished.exception()
        if isinstance(error, NoSpace):  # the older ones serve; tried again when there may be space
            log.error("disk.full", error=str(error))
            self._taken_at_index = -1
            self._not_before = time.monotonic() + _RETRY_SECONDS
            return
        written = finished.result()
        self._unrecorded.append(SnapshotRecorded(written.document, written.entries))
        if self._taken_entries >= TELLING_ENTRIES:
            self._seconds_per_entry = written.seconds / self._taken_entries
        log.info(
            "snapshot.written", file=written.document.file.partition("/")[2], offset=written.offset,
            seconds=round(written.seconds, 3), stalled_ms=round(written.stalled * 1e3, 1),
        )  # fmt: skip

    async def settled(self) -> None:
        """Wait for the one being written. Raises what went wrong, a full disk excepted."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
            self._collect()
