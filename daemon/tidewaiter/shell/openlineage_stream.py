"""The daemon's OpenLineage events: when its run begins, goes on and ends, and their way to a server.

Owns: which event is due, what it says, and the task that ships. Leaves to `core.openlineage` the form, to
`edges.openlineage_file` the file, to `shell.openlineage_shipping` the server, to `shell.stream_graph` the graph, and to
the supervisor and the consumer when they are called.

A run gets START when it is about to read, RUNNING at most once a minute and only if something was committed since, and
COMPLETE or FAIL behind its ``run.ended``. What is missing at the end because the process died is made up for by the
next start, which knows from the audit log which run is open and from its run log how it ended.

Everything that writes runs on the journal's thread, between two batches: the line first, then its entry. Shipping has a
thread of its own and reads only what has an entry. Without [openlineage] nothing here does anything but to hold
`graph`, the run's part of the lineage graph.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import msgspec

import tidewaiter
from tidewaiter.core import audit
from tidewaiter.core.audit import Counts, LineageEmitted
from tidewaiter.core.openlineage.events import (
    COMPLETE,
    FAIL,
    RUNNING,
    START,
    TERMINAL,
    AuditLog,
    Job,
    RunEvent,
    encode,
    run_uuid,
)
from tidewaiter.core.openlineage.facets import RUNNING_SECONDS
from tidewaiter.core.openlineage.stream import Figures, contract_columns, stream_digest, stream_input, stream_outputs
from tidewaiter.edges.durable import NoSpace
from tidewaiter.edges.logs import get_logger
from tidewaiter.edges.openlineage_file import StreamEvents, read_state
from tidewaiter.edges.openlineage_outbox import Outbox
from tidewaiter.shell.openlineage_settings import client_of
from tidewaiter.shell.openlineage_shipping import Shipping
from tidewaiter.shell.run_record import read_run_log
from tidewaiter.shell.stream_graph import StreamGraph

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.ledger import Ledger
    from tidewaiter.edges.durable import Disk
    from tidewaiter.edges.journal import Journal
    from tidewaiter.shell.governing import Governing
    from tidewaiter.shell.settings import Settings

log = get_logger()

CURSOR: Final = "openlineage_cursor.json"
REFUSED: Final = "lineage_refused.jsonl"
PACE_SECONDS: Final = 1.0
"""How often it is looked whether there is an event to ship."""
LAST_SECONDS: Final = 3.0
"""How long a stop may go on shipping; the rest goes out after the next start."""
_RETRY_SECONDS: Final = 5.0


class StreamLineage:
    """The events of one daemon. The methods that take a journal run on its thread."""

    def __init__(
        self, disk: Disk, settings: Settings, now: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`now` gives UTC text, `clock` seconds for the pace. Raises ConfigError for a server or key of no use."""
        self._disk = disk
        self._settings = settings
        self._state = settings.state.dir
        self._part = settings.openlineage
        self._now = now
        self._clock = clock
        self.graph = StreamGraph(disk, settings)
        self._events = StreamEvents(disk, self._state, settings.state.segment_bytes)
        self._client = client_of(self._part)
        self._shipping: Shipping | None = None
        self._thread = ThreadPoolExecutor(1, "openlineage")
        self._governing: Governing | None = None
        self._pending: tuple[LineageEmitted, bytes] | None = None
        self._run = ""
        self._ended = False
        self._before = (0, Counts())
        self._told = (0.0, 0)
        self._ending = False

    # -- what happens to the run ---------------------------------------------------------------------------------

    def open(self, ledger: Ledger) -> None:
        """Compare the file with what the audit log says of it, before anything is written. Raises IntegrityRefusal."""
        if self._part is None:
            return
        left = self._events.open(ledger.lineage)
        if left:
            log.warning("openlineage.line_without_entry", offset=self._events.end, length=left)

    def begin(self, journal: Journal, governing: Governing) -> None:
        """Tell how an open run before this one ended, then that this one begins. Raises DurabilityError."""
        if self._part is None:
            return
        self._governing = governing
        ledger = journal.ledger
        if ledger.lineage is not None and ledger.lineage.event not in TERMINAL:
            self._end_the_one_before(journal, ledger.lineage)
        self._before = ledger.global_offset, ledger.totals
        self._told = self._clock(), ledger.global_offset
        milliseconds = int(dt.datetime.fromisoformat(self._now()).timestamp() * 1000)
        self._run = run_uuid(milliseconds, self._job.namespace, self._job.name, journal.run_id)
        self._emit(journal, START, self._run, journal.run_id, None, columns=True)

    def due(self, ledger: Ledger) -> bool:
        """Whether to tell that the run goes on: a minute has passed, and something was committed."""
        told_at, offset = self._told
        return bool(self._run) and ledger.global_offset != offset and self._clock() - told_at >= RUNNING_SECONDS

    def running(self, journal: Journal) -> None:
        """Tell that the run goes on; after NoSpace to be called again. Raises DurabilityError."""
        offset = journal.ledger.global_offset
        self._emit(journal, RUNNING, self._run, journal.run_id, self._figures(journal.ledger), columns=False)
        self._told = self._clock(), offset

    def end(self, journal: Journal, error: str | None) -> None:
        """Tell that the run ended, behind its ``run.ended``; `error` says why it failed, without quoting data.

        Nothing is told of a run that never began to read.
        """
        if not self._run or self._ended:
            return
        kind = COMPLETE if error is None else FAIL
        figures = self._figures(journal.ledger)
        self._emit(journal, kind, self._run, journal.run_id, figures, columns=True, error=error)
        self._ended = True

    def _end_the_one_before(self, journal: Journal, last: LineageEmitted) -> None:
        """Tell COMPLETE or FAIL of the run that `last` is about; its process ended before it could."""
        found = read_run_log(self._state, last.about)
        error = None
        if found is None or found.status != "success":
            error = "the process ended without closing the run: a crash, a kill, a power loss, or a disk that failed"
        figures = None
        if found is not None and found.final_offset is not None:
            counts = Counts(
                events_read=found.events_read, evaluated=found.events_valid, flags=found.flags_emitted,
                rejected=found.events_rejected, suppressed=found.flags_suppressed, shadow_flags=found.flags_shadowed,
            )  # fmt: skip
            figures = Figures(max(found.final_offset - found.resume_offset, 0), counts, kinds=False)
        kind = COMPLETE if error is None else FAIL
        self._emit(journal, kind, last.run, last.about, figures, columns=False, error=error)
        log.info("openlineage.run_closed", run=last.about, outcome=kind)

    def _figures(self, ledger: Ledger) -> Figures:
        offset, before = self._before
        counts = Counts(
            *(
                a - b
                for a, b in zip(msgspec.structs.astuple(ledger.totals), msgspec.structs.astuple(before), strict=True)
            )
        )
        return Figures(ledger.global_offset - offset, counts)

    # -- making it durable ---------------------------------------------------------------------------------------

    @property
    def _job(self) -> Job:
        namespace = self._part.namespace if self._part is not None else ""
        return Job(namespace, f"stream.{self._settings.stream.name}", streaming=True)

    def _emit(
        self,
        journal: Journal,
        kind: str,
        run: str,
        about: str,
        figures: Figures | None,
        *,
        columns: bool,
        error: str | None = None,
    ) -> None:
        """Write the event, then the entry that bears its digest. What found no room is written by a second call."""
        before, _ = self._pending or (None, b"")
        self._settle(journal)
        if before is not None and (before.event, before.run) == (kind, run):
            return
        line = self._line(journal.ledger, kind, run, about, figures, columns=columns, error=error)
        emitted = LineageEmitted(kind, run, about, 0, 0, len(line), hashlib.sha256(line).hexdigest())
        self._pending = emitted, line
        self._settle(journal)

    def _settle(self, journal: Journal) -> None:
        if self._pending is None:
            return
        wanted, line = self._pending
        base, first = self._events.write(line)
        emitted = msgspec.structs.replace(wanted, base=base, first=first)
        # If we die here, the line has no entry: the next event takes its place.
        journal.record(audit.LINEAGE_EMITTED, emitted)
        self._events.vouched(emitted)
        self._pending = None

    def _line(
        self,
        ledger: Ledger,
        kind: str,
        run: str,
        about: str,
        figures: Figures | None,
        *,
        columns: bool,
        error: str | None,
    ) -> bytes:
        governing = self._governing
        assert governing is not None  # noqa: S101 - set by `begin`
        contract: Contract | None = governing.contract if columns else None
        stream = str(self._settings.stream.path)
        read = stream_input(
            stream, ledger.global_offset, figures, governing.policy,
            contract_columns(contract) if contract is not None else (),
        )  # fmt: skip
        if figures is not None:
            read = msgspec.structs.replace(read, digest=stream_digest(ledger))
        counts = figures.counts if figures is not None else None
        event = RunEvent(
            type=kind,
            time=self._now(),
            run=run,
            run_id=about,
            job=self._job,
            inputs=(read,),
            outputs=stream_outputs(str(self._state), ledger, counts, stream, contract),
            error=error,
            audit=AuditLog(ledger.origin, ledger.index, ledger.head),
        )
        return encode(event, tidewaiter.__version__)

    # -- shipping ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ship what has its entry, until cancelled. Raises what the disk refuses about the cursor."""
        part = self._part
        if part is None or self._client is None or part.url is None:
            await asyncio.Event().wait()
            return
        outbox = Outbox(
            self._disk, self._state / CURSOR, self._state / REFUSED,
            lambda first, last: read_state(self._state, first, last),
        )  # fmt: skip
        self._shipping = Shipping(outbox, self._client, part.timeout)
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            pause = PACE_SECONDS
            try:
                await asyncio.shield(self._aside(self._ship))
            except NoSpace as error:  # the commits do not depend on it; what was sent is sent once more
                log.error("openlineage.disk_full", error=str(error))
                pause = _RETRY_SECONDS

    def _ship(self) -> bool:
        assert self._shipping is not None  # noqa: S101 - made by `run`
        return self._shipping.ship(self._events.end, stopped=lambda: self._ending)

    async def finish(self) -> None:
        """Try to ship the last events, for `LAST_SECONDS` at most; what is left goes out after the next start."""
        self._ending = True
        shipping = self._shipping
        if shipping is None:
            return
        try:
            await self._aside(lambda: shipping.ship_last(self._events.end, LAST_SECONDS))
        except NoSpace as error:
            log.error("openlineage.disk_full", error=str(error))

    def close(self) -> None:
        """Close the files and let go of the server."""
        self._ending = True
        if self._shipping is not None:
            self._shipping.close()
        self._thread.shutdown(wait=False)
        self._events.close()
        self.graph.close()

    def _aside(self, work: Callable[[], bool]) -> asyncio.Future[bool]:
        """Run `work` on the thread, with this task's words in its log lines."""
        context = contextvars.copy_context()
        return asyncio.get_running_loop().run_in_executor(self._thread, context.run, work)
