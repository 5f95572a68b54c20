"""The consumer task: read, evaluate, commit, in one order, until told to stop.

Owns: the loop, when a snapshot is taken, how a change of configuration takes force, and what happens at the end of a
segment and at a halt. Leaves to `core.engine` the evaluation, to `edges.journal` the order of writes, to
`shell.persisting` a full disk, to `edges.stream` the files, and to the supervisor who starts and stops it.

Invariants:
- The engine never evaluates a piece twice: a piece that cannot be committed is committed again, not evaluated again.
- `journal.ledger` is what is on the disk; nothing else in memory says where the stream stands.
- While a batch is being committed, and its projections and checkpoint written, the next piece may be evaluated, never
  committed: at most one evaluated piece waits. Whatever else is done at a batch boundary waits for both.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core import audit
from tidewaiter.core.audit import Decision, Halt
from tidewaiter.core.commits import Draft, sha256_hex
from tidewaiter.core.errors import ConfigError, IntegrityRefusal, SourceHalt
from tidewaiter.core.framing import Block, Framer, LongLine
from tidewaiter.core.position import ClosedSegment
from tidewaiter.core.segment_findings import StreamHalt
from tidewaiter.edges.logs import get_logger
from tidewaiter.edges.stream import Data, Idle, SegmentEnd
from tidewaiter.shell.answering import KEY, Requests
from tidewaiter.shell.governing import Governing, from_settings, named
from tidewaiter.shell.persisting import Persisting

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from tidewaiter.core.engine import Engine, Evaluation
    from tidewaiter.core.position import SegmentCursor
    from tidewaiter.edges.durable import Disk
    from tidewaiter.edges.journal import Journal
    from tidewaiter.edges.service_manager import ServiceManager
    from tidewaiter.edges.stream import Stream
    from tidewaiter.edges.waker import Waker
    from tidewaiter.shell.evidence import Evidence
    from tidewaiter.shell.openlineage_stream import StreamLineage
    from tidewaiter.shell.reporting import Reporter
    from tidewaiter.shell.settings import Settings
    from tidewaiter.shell.snapshotting import Snapshotting

log = get_logger()

HOT_SECONDS: Final = 0.05
"""How long after the last bytes the stream is polled every millisecond instead of waiting for a notification."""
HOT_POLL_SECONDS: Final = 0.001
HASHED_ASIDE_BYTES: Final = 1 << 16
"""Smaller pieces are hashed where they are: a hop to another thread takes longer."""
QUIET_SECONDS: Final = 2.0
"""How often all is gone through that has a time of its own while a stream is quiet; in between a look must do.

Behind half a second of rest nothing is in the processor's caches: a whole pass takes several times as long.
"""


class Consumer:
    """The single ordered task. `stop` and `reload` are set by signals; `run` returns after a clean stop."""

    def __init__(  # noqa: PLR0913 - the supervisor wires every part by name
        self,
        *,
        settings: Settings,
        governing: Governing,
        engine: Engine,
        journal: Journal,
        stream: Stream,
        waker: Waker,
        disk: Disk,
        services: ServiceManager,
        reporter: Reporter,
        snapshots: Snapshotting,
        journal_thread: Executor,
        evidence: Evidence,
        lineage: StreamLineage,
        stop: asyncio.Event,
        reload: asyncio.Event,
        once: bool,
    ) -> None:
        """Everything it works with; the supervisor has brought all of it to the commit point."""
        self.settings = settings
        self.governing = governing
        self.engine = engine
        self.stop = stop
        self.reload = reload
        self._journal = journal
        self._stream = stream
        self._waker = waker
        self._disk = disk
        self._services = services
        self._reporter = reporter
        self._snapshots = snapshots
        self._persisting = Persisting(journal_thread, services, stop, evidence.written)
        self._evidence = evidence
        self._requests = Requests(disk, journal)
        self._lineage = lineage
        self._once = once
        self._cursor: SegmentCursor | None = None
        self._framer: Framer | None = None
        self._committing: asyncio.Task[None] | None = None
        self._hot_until = 0.0
        self._rescan = False
        self._waiting_since: tuple[str, float] | None = None

    async def start(self) -> None:
        """Find the committed place in the stream again. Raises SourceHalt (recorded) or IntegrityRefusal."""
        await self._close_ended_segment()
        ledger = self._journal.ledger
        try:
            await self._stream.start(ledger.position, ledger.closed, ledger.next_start, accept_gap=ledger.gap_accepted)
        except SourceHalt as halt:
            await self.halt_at_source(halt)
            raise

    async def _close_ended_segment(self) -> None:
        """Close the segment whose rejected tail was the last commit: it had ended, only the entry is missing.

        Without it the rest of that line, written after a crash, would be read as a line of its own.
        """
        ledger = self._journal.ledger
        commit, here = ledger.commit, ledger.position
        if commit is None or here is None or commit.cause != "unterminated":
            return
        closed = ClosedSegment(here.segment, here.start, here.offset, here.tail_len, here.tail_sha256)
        await self._record(audit.SEGMENT_CLOSED, closed)
        log.info("segment.closed", segment=here.segment.name, start=here.start, length=here.offset)

    # -- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the stream until `stop` is set or, with `once`, to its end. Raises SourceHalt at a halt."""
        reading: asyncio.Task[Data | Idle | SegmentEnd] | None = None
        try:
            while not self.stop.is_set():
                await self._between_batches()
                item, reading = await self._read(reading), None
                if isinstance(item, Data):
                    framer = self._fed(item.data)
                    if len(item.data) * 2 >= self.settings.batch_bytes:
                        # behind: the next chunk is read while this one is being made durable; when live, what
                        # arrives meanwhile is to be in the next chunk
                        reading = asyncio.create_task(self._stream.read(final=self._once), name="read-ahead")
                    del item  # the framer has copied what it keeps: a batch's worth of memory
                    await self._take(framer)
                    if reading is None:
                        # live: what arrives until this batch is durable is to be in the next one, not in one of its own
                        await self._committed()
                elif isinstance(item, SegmentEnd):
                    await self._end_segment(item)
                elif await self._idle(item):
                    break
        finally:
            if reading is not None:
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await reading
            if self._committing is not None:  # whoever closes the journal must find it at rest
                await asyncio.wait([self._committing])
        await self._materialised()
        self._reporter.summarise(self._journal.ledger, 0 if self._once else self._stream.lag_bytes, now=True)

    async def finish(self) -> None:
        """Take a last snapshot behind the last commit; the caller closes the journal."""
        await self._materialised()
        self.engine.screening.seen.retire()  # nothing is evaluated any more; the snapshot needs memory of its own
        await self.snapshot_now()

    async def _read(self, reading: asyncio.Task[Data | Idle | SegmentEnd] | None) -> Data | Idle | SegmentEnd:
        """Return what comes next; it may be under way."""
        try:
            if reading is not None:
                return await reading
            rescan, self._rescan = self._rescan, False
            return await self._stream.read(final=self._once, rescan=rescan)
        except SourceHalt as halt:
            await self.halt_at_source(halt)
            raise

    def _begin_segment_if_new(self) -> None:
        if self._cursor is None:
            self._cursor = self._stream.cursor()
            self._framer = Framer(self._cursor.offset, self.engine.policy.line_limit)
            log.info("segment.opened", segment=self._cursor.name, start=self._cursor.start, offset=self._cursor.offset)

    def _fed(self, data: bytes) -> Framer:
        """Return the segment's framer with these bytes in it."""
        self._begin_segment_if_new()
        assert self._framer is not None  # noqa: S101 - just set
        self._framer.feed(data)
        return self._framer

    async def _take(self, framer: Framer) -> None:
        self._hot_until = time.monotonic() + HOT_SECONDS
        if self._reporter.data_arrived():
            log.info("stream.resumed", offset=self._journal.ledger.global_offset)
            await self._record("stream.resumed", {"offset": self._journal.ledger.global_offset})
        while (piece := framer.next_piece()) is not None:
            await self._commit_piece(piece)
            if self.stop.is_set():
                return

    async def _commit_piece(self, piece: Block | LongLine) -> None:
        """Evaluate `piece` while the one before is being committed, then begin to commit it."""
        cursor = self._cursor
        assert cursor is not None  # noqa: S101 - set by _begin_segment_if_new
        hashing: asyncio.Future[str] | None = None
        if isinstance(piece, Block) and len(piece.data) >= HASHED_ASIDE_BYTES:
            # hashed on another core meanwhile: hashlib lets the interpreter go on
            hashing = asyncio.get_running_loop().run_in_executor(None, sha256_hex, piece.data)
        evaluation = self.engine.evaluate(piece, cursor.start, cursor.name)
        self.engine.rules.forget_some(self.engine.screening.effective)
        digest = await hashing if hashing is not None else None
        if evaluation.size:
            await self._commit(piece, evaluation, "batch", digest)
        if evaluation.halt is not None:
            await self._halt(evaluation.halt)

    async def _commit(
        self, piece: Block | LongLine, evaluation: Evaluation, cause: str, digest: str | None = None
    ) -> None:
        """Begin to commit what came of `piece`; `digest` is the SHA-256 (hex) of a Block's bytes if it is known."""
        await self._committed()
        cursor = self._cursor
        assert cursor is not None  # noqa: S101 - set by _begin_segment_if_new
        after = cursor.copy()
        if isinstance(piece, Block):
            data = piece.data
            if evaluation.size != len(data):
                data, digest = data[: evaluation.size], None
            digest = sha256_hex(data) if digest is None else digest
            after.advance(data)
        else:
            digest = piece.range_sha256
            after.advance_past(piece.size, piece.head, piece.tail)
        draft = Draft(
            cause=cause,
            records=evaluation.records,
            counts=evaluation.counts,
            position=after.position,
            first=cursor.offset,
            range_sha256=digest,
            last_event_time=evaluation.last_event_time,
            decisions=self.governing.decisions,
            insufficient=evaluation.insufficient,
        )
        self._cursor = after  # where the next piece begins; the ledger alone says what is committed
        self._committing = asyncio.create_task(self._make_durable(draft, evaluation), name="commit")
        self._committing.add_done_callback(_seen)  # what went wrong is raised by `_committed`
        await asyncio.sleep(0)  # hand it to the journal's thread before the next piece keeps this one busy

    async def _make_durable(self, draft: Draft, evaluation: Evaluation) -> None:
        """Commit, then projections and checkpoint: one visit to the journal's thread, for each costs a wait."""
        committed = False

        def steps() -> None:
            nonlocal committed
            if not committed:  # where the disk is full in a later step the commit stands; only that step is repeated
                self._journal.commit(draft)
                committed = True
            self._journal.materialise()

        await self._persisting.done(steps)
        self._persisting.alive()
        self._reporter.committed(evaluation, self._journal.ledger)
        self._reporter.summarise(self._journal.ledger, self._stream.lag_bytes)

    async def _committed(self) -> None:
        """Wait until the piece that is being made durable is. Raises what went wrong with it."""
        if self._committing is not None:
            committing = self._committing
            await asyncio.wait([committing])  # not cancelled with us: the journal would not be at rest
            self._committing = None
            committing.result()

    # -- waiting -------------------------------------------------------------------------------------------------

    async def _idle(self, idle: Idle) -> bool:
        """Wait for more; return True when a run with `once` has reached the end."""
        await self._committed()
        self._persisting.alive()
        if idle.busy:
            return False
        self._journal.rest()
        if self._once and idle.waiting_for:
            self._refuse_to_wait_for_ever(idle.waiting_for)
        if self._once and idle.caught_up:
            if self._framer is not None and self._framer.pending:
                raise SourceHalt(
                    f"{self._name()}: the last line, at byte {self._journal.ledger.global_offset}, has no newline: "
                    f"{self._framer.pending} bytes were left out",
                    hint="everything before it is committed; complete the line and run again",
                )
            return True
        seconds = self._reporter.silence_begins(self.settings.stream.silence_alarm_us)
        if seconds is not None:
            offset = self._journal.ledger.global_offset
            log.warning("stream.silent", seconds=round(seconds, 1), offset=offset)
            await self._record("stream.silent", {"seconds": int(seconds), "offset": offset})
        self._reporter.summarise(self._journal.ledger, idle.lag_bytes)
        if time.monotonic() < self._hot_until:
            await asyncio.sleep(HOT_POLL_SECONDS)
        else:
            await self._waker.wait(self.settings.stream.poll_interval_us / 1e6, self._unchanged, self._looks())
            self._rescan = True  # woken or not: a notification may have been lost
        return False

    def _looks(self) -> int:
        """Return after how many intervals of nothing new there is something to do all the same."""
        stream = self.settings.stream
        quiet = min(QUIET_SECONDS, self._reporter.quiet_seconds(self._journal.ledger, stream.silence_alarm_us))
        return 1 if self._snapshots.under_way else max(1, int(quiet * 1e6 / stream.poll_interval_us))

    def _unchanged(self) -> bool:
        """Return whether neither stream nor inbox has anything new; that, too, shows that the daemon is alive."""
        if not self._stream.unchanged() or self._requests.waiting():
            return False
        self._persisting.alive()
        return True

    def _refuse_to_wait_for_ever(self, file: str) -> None:
        """End a run with `once` whose next file stays incomplete for longer than a writer pauses."""
        now = time.monotonic()
        if self._waiting_since is None or self._waiting_since[0] != file:
            self._waiting_since = (file, now)
        elif (now - self._waiting_since[1]) * 1e6 > self.settings.stream.rotate_grace_us:
            raise SourceHalt(
                f"{file}: is not whole; everything before it is committed", hint="complete the file and run again"
            )

    async def _end_segment(self, end: SegmentEnd) -> None:
        self._begin_segment_if_new()  # an empty segment may end without ever having given a byte
        assert self._framer is not None  # noqa: S101 - just set
        tail = self._framer.finish()
        if tail is not None:
            evaluation = self.engine.reject_tail(tail, self._cursor.start if self._cursor else 0)
            await self._commit(tail, evaluation, "unterminated")
        cursor = self._cursor
        assert cursor is not None  # noqa: S101 - just set
        await self._record(audit.SEGMENT_CLOSED, end.closed)
        await self._persisting.done(lambda: self._lineage.graph.segment_ended(self._journal))
        log.info("segment.closed", segment=cursor.name, start=cursor.start, length=end.length)
        self._cursor = self._framer = None
        if not self._once:
            log.info("stream.rotated", offset=self._journal.ledger.global_offset)
        await self._take_snapshot()

    # -- halts ---------------------------------------------------------------------------------------------------

    async def _halt(self, halt: Halt) -> None:
        await self._committed()
        pending = self._journal.ledger.halt
        if pending is None or (pending.offset, pending.sha256, pending.reason) != (
            halt.offset,
            halt.sha256,
            halt.reason,
        ):
            await self._record(audit.STREAM_HALTED, halt)
        await self._persisting.done(self._journal.write_checkpoint)
        log.error("stream.halted", kind=halt.kind, offset=halt.offset, segment=halt.segment, reason=halt.reason)
        local = f" (byte {halt.local_offset} of the segment)" if halt.local_offset != halt.offset else ""
        raise SourceHalt(
            f"{halt.segment}: halted at byte {halt.offset} of the stream{local}: {halt.kind}: {halt.reason}",
            hint="change the policy, or leave the line out: "
            f"tidewaiter skip --position {halt.offset} --reason … --actor …",
        )

    async def halt_at_source(self, source: SourceHalt) -> None:
        """Record a halt that the stream's files caused, before the error goes on its way."""
        if not isinstance(source, StreamHalt):
            return
        evidence: dict[str, str | int] = dict(source.evidence)
        await self._committed()
        offset = self._journal.ledger.global_offset
        source.at(offset)
        halt = Halt(
            kind=source.kind, offset=offset, length=0, sha256="", reason=source.message,
            segment=str(evidence.get("file", self._name())), local_offset=0, evidence=evidence,
            accepted=list(source.accepted),
        )  # fmt: skip
        if self._journal.ledger.halt != halt:
            await self._record(audit.STREAM_HALTED, halt)
        await self._persisting.done(self._journal.write_checkpoint)
        log.error("stream.halted", kind=halt.kind, offset=offset, segment=halt.segment, reason=halt.reason)

    def _name(self) -> str:
        return self._cursor.name if self._cursor is not None else self.settings.stream.path.name

    # -- making things durable -----------------------------------------------------------------------------------

    async def _record(self, action: str, members: Any) -> None:  # noqa: ANN401 - a Struct or plain members
        await self._committed()
        await self._persisting.done(lambda: self._journal.record(action, members))

    async def _materialised(self) -> None:
        """Wait until everything evaluated is committed, and projections and checkpoint have caught up with it."""
        await self._committed()
        await self._persisting.done(self._journal.materialise)

    # -- between batches -----------------------------------------------------------------------------------------

    async def _between_batches(self) -> None:
        """Do what may only be done at a batch boundary: notice failures, reload, snapshot."""
        if self._committing is not None and self._committing.done():
            await self._committed()
        if self.reload.is_set():
            self.reload.clear()
            await self._reload()
        for notice in self._stream.take_notices():
            if notice.kind in ("renamed", "identity_changed") and self._cursor is not None:
                # later commits carry what the file is called and numbered now: stale hints would mislead a start
                self._cursor.name, self._cursor.dev, self._cursor.ino = self._stream.hints()
            evidence = {f"file_{key}": value for key, value in notice.evidence.items()}
            log.info("segment.noticed", kind=notice.kind, **evidence)
        if self._requests.waiting():
            await self._answer_requests()
        if self._evidence.idle:
            await self._record(audit.IDLE, {"offset": self._journal.ledger.global_offset})
        if self._lineage.due(self._journal.ledger):
            await self._committed()
            await self._persisting.done(lambda: self._lineage.running(self._journal))
        if self._snapshots.due(self._journal.ledger, self.engine):
            await self._take_snapshot()
        await self._record_snapshots()

    async def _answer_requests(self) -> None:
        """Commit the decisions that were handed in while this daemon holds the lock."""
        await self._materialised()
        recorded: list[str] = []
        await self._persisting.done(lambda: recorded.extend(self._requests.answer()))
        if KEY in recorded:
            log.info("key.recorded", keys=[key.vkey for key in self._journal.ledger.keys])

    async def _record_snapshots(self) -> None:
        for recorded in self._snapshots.take_written():
            await self._record(audit.SNAPSHOT_RECORDED, recorded)

    async def _take_snapshot(self) -> None:
        await self._materialised()
        self._snapshots.take(self.engine, self._journal.ledger, self._journal.mark)

    async def snapshot_now(self) -> None:
        """Take a snapshot behind the last commit and wait until it is durable."""
        await self._snapshots.settled()
        await self._take_snapshot()
        await self._snapshots.settled()
        await self._record_snapshots()

    async def _reload(self) -> None:
        """Read configuration and rules again; what is not accepted is refused and the old goes on."""
        self._services.reloading()
        try:
            settings = self.settings.reload()
            if settings.policy.line_limit != self.governing.policy.line_limit:
                raise ConfigError("stream.line_limit cannot change while the daemon runs", hint="restart it instead")
            new = from_settings(settings)
        except ConfigError as error:
            log.error("config.refused", error=str(error))
            self._services.ready("configuration refused; the old one goes on")
            return
        self.settings = settings
        if new.decisions != self.governing.decisions:
            await self.adopt(new, "reload")
        log.info("config.reloaded", ruleset=new.ruleset.digest, contract=new.contract.digest)
        self._services.ready()

    async def adopt(self, new: Governing, reason: str) -> None:
        """Let `new` govern the events from here on: snapshot, archive, decision, then memory."""
        await self.snapshot_now()
        engine, started_empty = self.engine.successor(new.contract, new.ruleset, new.policy)
        # If we die before the entry is durable, the archive holds texts that nothing refers to, and the old goes on.
        await self._persisting.done(lambda: new.store(self._disk, self._journal.state))
        decision = Decision("governing", reason, new.decisions, started_empty=named(started_empty))
        await self._record(audit.DECISION_RECORDED, decision)
        self.engine, self.governing = engine, new
        log.info("decision.recorded", decision="governing", ruleset=new.ruleset.digest, started_empty=started_empty)

    async def accept_state_loss(self, new: Governing, reason: str, actor: str, refusal: IntegrityRefusal) -> None:
        """Begin with empty rules' memory behind the last commit, by an operator's recorded decision."""
        self.engine, self.governing = new.engine(), new
        await self._persisting.done(lambda: new.store(self._disk, self._journal.state))
        decision = Decision("state_loss", reason, new.decisions, evidence={"refusal": refusal.message})
        await self._persisting.done(lambda: self._journal.record(audit.DECISION_RECORDED, decision, actor=actor))
        log.warning("decision.recorded", decision="state_loss", actor=actor, reason=reason)
        await self.snapshot_now()  # so that the next start does not need what is gone


def _seen(finished: asyncio.Future[None]) -> None:
    """Note that somebody looked at the outcome, so that asyncio does not complain when it is dropped."""
    if not finished.cancelled():
        finished.exception()
