"""The commit: in what order a batch reaches the disk, and what to do when it does not.

Owns: the open files of the state directory and the three steps of a commit. Leaves to `core.commits` what is written,
to `edges.durable` the system calls, to `edges.recovery` the start, and to the consumer when to call. All methods block.

1. `commit`: the audit entries, then fdatasync. **This is the commit point**; the ledger in memory moves only now.
2. `materialise`: the projections at their recorded absolute offsets, fdatasync.
3. checkpoint.json, replaced.

Steps 2 and 3 of a batch may run while the next is evaluated, never while it is committed: at most one unit is ever
undurable, and recovery counts on that. Where the disk is full in step 1, the audit segment is cut back to the last
commit and NoSpace is raised: nothing happened. In steps 2 and 3 the commit stands and the same call may be repeated.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core import audit
from tidewaiter.core.audit import MAX_ENTRY_BYTES, Chain, EntryContext, ProjectionSealed, SegmentOpened, read_head
from tidewaiter.core.commits import Draft, Prepared, prepare, prepare_entry
from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.ledger import AuditMark, Ledger, encode_checkpoint
from tidewaiter.edges.chain_worker import ChainWorker
from tidewaiter.edges.durable import NoSpace, SyncFailed
from tidewaiter.edges.projections import open_part, sealed_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from msgspec import Struct

    from tidewaiter.edges.durable import Disk


_MINUTE: Final = len("2026-01-01T00:00")


def segment_name(index: int) -> str:
    """Return the file name of the audit segment whose first entry has `index`."""
    return f"audit-{index:020d}.jsonl"


def first_index(segment: Path) -> int:
    """Return the index of the first entry of an audit segment, from its name."""
    return int(segment.stem.removeprefix("audit-"))


def last_entry(segment: Path, end: int) -> bytes:
    """Return the entry, newline included, that ends at byte `end` of an audit segment."""
    with segment.open("rb") as file:
        begin = max(0, end - MAX_ENTRY_BYTES - 1)
        file.seek(begin)
        data = file.read(end - begin)
    return data[data.rfind(b"\n", 0, len(data) - 1) + 1 :]


class Journal:
    """The writer of one state directory; `ledger` is what is committed, `mark` where the audit log ends."""

    def __init__(
        self,
        disk: Disk,
        state: Path,
        ledger: Ledger,
        mark: AuditMark | None,
        *,
        run_id: str,
        now: Callable[[], str],
        segment_bytes: int,
        origin: str,
    ) -> None:
        """Continue at `mark` (None: a new audit log). `now` gives UTC text; parts are sealed above `segment_bytes`.

        `origin` is the log's name, if it has none yet: a log that already has one keeps it.
        """
        self.state = state
        self.ledger = ledger
        self.run_id = run_id
        self._disk = disk
        self._now = now
        self._limit = segment_bytes
        self._origin = ledger.origin or origin
        self.latest = ""  # the time of the last entry
        self._pending: Prepared | None = None
        self._broken: SyncFailed | None = None
        self._parts: dict[str, int] = {}
        self._chaining = ChainWorker()
        self._audit_fd = -1
        self._audit_path = state / "audit"
        try:
            if mark is not None:
                head = read_head(last_entry(self._audit_path / mark.segment, mark.length))
                self.latest = head.timestamp if head is not None else ""
            if mark is None or not ledger.origin:  # a version that kept no tree has named none
                self.mark = self._new_segment(predecessor=mark)
            else:
                self.mark = mark
                self._audit_path = state / "audit" / mark.segment
                self._audit_fd = disk.open(self._audit_path)
            # A state directory that an older version wrote lacks some: what has no mark is empty.
            for projection in audit.PROJECTIONS:
                self._parts[projection] = disk.open(open_part(state, projection))
            disk.sync_directory(state)
        except BaseException:
            self.close()
            raise

    # -- step 1 --------------------------------------------------------------------------------------------------

    def commit(self, draft: Draft, actor: str = "engine") -> None:
        """Make a batch durable; afterwards `ledger` includes it. Raises NoSpace (nothing happened) or SyncFailed."""
        self.materialise()
        with self._remembering():
            self._seal_what_is_full()
        self._write(prepare(self.ledger, draft, self._context(actor), self._chaining.chain))

    def record(self, action: str, members: Struct | dict[str, Any], actor: str = "daemon") -> None:
        """Make one standalone entry durable. Raises as `commit` does."""
        self.materialise()
        self._write(prepare_entry(self.ledger, self._context(actor), action, members))

    def _context(self, actor: str) -> EntryContext:
        # the log's times never go back: where the clock was set back, they stand until it has caught up
        self.latest = max(self.latest, self._now())
        return EntryContext(self.latest, self.run_id, actor)

    def behind(self, now: str) -> bool:
        """Return whether the clock says an earlier minute than the last entry does."""
        return now[:_MINUTE] < self.latest[:_MINUTE]

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        """Refuse every further step after a failed sync: the same descriptor would now report success without cause."""
        if self._broken is not None:
            raise self._broken
        try:
            yield
        except SyncFailed as error:
            self._broken = error
            raise

    def _write(self, prepared: Prepared) -> None:
        if prepared.longest > MAX_ENTRY_BYTES:  # what `check` accepts cannot make one; nobody could read it back
            raise IntegrityRefusal(
                f"{self._audit_path}: an entry of {prepared.longest} bytes is too long for the audit log",
                hint="please report it",
            )
        with self._remembering():
            self._append(prepared)

    def _append(self, prepared: Prepared) -> None:
        data = prepared.data
        try:
            # If we die here, any part of the lines may be found: recovery adopts them only up to a whole unit.
            self._disk.write_at(self._audit_fd, data, self.mark.length, self._audit_path)
        except NoSpace:
            self._disk.truncate(self._audit_fd, self.mark.length, self._audit_path)
            self._disk.datasync(self._audit_fd, self._audit_path)
            raise
        self._disk.datasync(self._audit_fd, self._audit_path)
        # The commit point. If we die from here on, recovery finds the unit and does the rest.
        self.ledger = prepared.ledger
        self.mark = AuditMark(self.mark.segment, self.mark.length + len(data), self.ledger.index, self.ledger.head)
        if prepared.before:
            self._pending = prepared

    # -- steps 2 and 3 -------------------------------------------------------------------------------------------

    def materialise(self) -> None:
        """Bring projections and checkpoint up to the last commit; repeatable. Raises NoSpace, SyncFailed."""
        with self._remembering():
            if self._pending is not None:
                self._materialise(self._pending)
                self._pending = None

    def _materialise(self, pending: Prepared) -> None:
        for projection, data in pending.appended.items():
            mark = pending.before[projection]
            path = open_part(self.state, projection)
            # If we die here, the next start rewrites the same bytes at the same place from the audit log.
            fd = self._part(projection)
            self._disk.write_at(fd, data, mark.length - mark.base, path)
            self._disk.datasync(fd, path)
        self.write_checkpoint()

    def _part(self, projection: str) -> int:
        """Return the descriptor of the open part; it is opened here if there was no room when the last was sealed."""
        fd = self._parts.get(projection, -1)
        if fd < 0:
            fd = self._parts[projection] = self._disk.open(open_part(self.state, projection))
            self._disk.sync_directory(self.state)
        return fd

    def write_checkpoint(self) -> None:
        """Replace checkpoint.json by what is committed. If we die here, the old one stands, one batch behind."""
        if self._broken is not None:
            raise self._broken
        data = encode_checkpoint(self.ledger, self.mark, self._now())
        self._disk.replace_file(self.state / "checkpoint.json", data)

    # -- sealing -------------------------------------------------------------------------------------------------

    def _seal_what_is_full(self) -> None:
        """Begin new parts where the open ones have reached the limit; called between two batches."""
        if self.mark.length >= self._limit:
            self.mark = self._new_segment(predecessor=self.mark)
        for projection in audit.PROJECTIONS:
            mark = self.ledger.mark(projection)
            if mark.length - mark.base < self._limit:
                continue
            target = sealed_part(self.state, projection, mark.base)
            sealed = ProjectionSealed(projection, target.name, mark.base, mark.length)
            self.record(audit.PROJECTION_SEALED, sealed)
            # If we die here, recovery finds the entry without the file and does the rename.
            self._disk.rename(open_part(self.state, projection), target)
            self._disk.close(self._parts.pop(projection))
            self._part(projection)

    def _new_segment(self, predecessor: AuditMark | None) -> AuditMark:
        """Create the next audit segment; its first entry names the predecessor.

        It is durable before anything refers to it.
        """
        ledger = self.ledger
        name = segment_name(ledger.index)
        path = self.state / "audit" / name
        chain = Chain(ledger.index, ledger.head)
        opened = SegmentOpened(
            predecessor=predecessor.segment if predecessor else None,
            predecessor_length=predecessor.length if predecessor else 0,
            origin=self._origin,
        )
        line = chain.entry(self._context("daemon"), audit.SEGMENT_OPENED, opened)
        fd = self._disk.open(path)
        try:
            # If we die here, the file may be empty or torn; recovery drops a last segment without a first entry.
            self._disk.truncate(fd, 0, path)
            self._disk.write_at(fd, line, 0, path)
            self._disk.sync(fd, path)
            self._disk.sync_directory(path.parent)
        except BaseException:
            self._disk.close(fd)
            raise
        self.ledger = copy.copy(ledger)
        self.ledger.index, self.ledger.head = chain.index, chain.head
        self.ledger.absorb(audit.SEGMENT_OPENED, opened)
        if self._audit_fd >= 0:
            self._disk.close(self._audit_fd)
        self._audit_fd, self._audit_path = fd, path
        return AuditMark(name, len(line), chain.index, chain.head)

    def rest(self) -> None:
        """Give back what only a backlog is worth; cheap, to be called while nothing is committed."""
        self._chaining.rest()

    def close(self) -> None:
        """Close the files; everything committed is durable already."""
        self._chaining.close()
        for fd in (self._audit_fd, *self._parts.values()):
            if fd >= 0:
                self._disk.close(fd)
        self._audit_fd = -1
        self._parts = {}
