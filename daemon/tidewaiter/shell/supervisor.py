"""The only wiring point: from settings to a running daemon, and its orderly end.

Owns: the order of a start (lock, logs, recovery, replay, decisions, READY), the task group, the signals, and the
closing of a run. Leaves to each part what it does. Any task that ends, ends the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import os
import secrets
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, cast

import tidewaiter
from tidewaiter.core import audit
from tidewaiter.core.audit import RunEnded
from tidewaiter.core.errors import DurabilityError, IntegrityRefusal, SourceHalt, TidewaiterError
from tidewaiter.edges import logs as logs_module
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.journal import Journal
from tidewaiter.edges.lock import StateLock
from tidewaiter.edges.prefix_check import bytes_before, check_prefix
from tidewaiter.edges.recovery import prepare_directories, recover
from tidewaiter.edges.service_manager import ServiceManager
from tidewaiter.edges.stream import Stream
from tidewaiter.edges.waker import FileWaker
from tidewaiter.shell.consumer import Consumer
from tidewaiter.shell.evidence import (
    Evidence,
    key_to_introduce,
    origin_for,
    refuse_other_origin,
    refuse_without_key,
    signing_keys,
)
from tidewaiter.shell.governing import Governing, from_settings
from tidewaiter.shell.log_names import utc_now
from tidewaiter.shell.openlineage_stream import StreamLineage
from tidewaiter.shell.producer import ProducerSettings, produce
from tidewaiter.shell.replay import rebuild
from tidewaiter.shell.reporting import Reporter
from tidewaiter.shell.run_record import RunLog, RunRecord, close_crashed_runs
from tidewaiter.shell.settings import NoProgress
from tidewaiter.shell.snapshotting import Snapshotting
from tidewaiter.shell.state_owner import claim

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tidewaiter.core.tlog.notes import SigningKey
    from tidewaiter.edges.recovery import Recovered
    from tidewaiter.shell.settings import RunOptions, Settings

log = logs_module.get_logger()

CHECKED_BEFORE_READY_BYTES: Final = 32 << 20
"""An older part of the audit log up to this size is checked before READY, a larger one beside the running daemon."""
_KEEP_ALIVE_SECONDS: Final = 1.0
SWITCH_SECONDS: Final = 0.0005
"""How long one thread may keep the interpreter while another wants it. With Python's 5 ms the journal's thread waits up
to that long behind each of its system calls (measured: 8.9 s instead of 7.5 s for 1M events with 29 % flags)."""
_START_EXTENSION_US: Final = 30_000_000


def run(settings: Settings, options: RunOptions, *, disk: Disk | None = None) -> int:
    """Run the daemon (or, with `once`, read to the end) and return the exit code.

    Raises TidewaiterError with its exit code for everything a user can meet. `disk` is replaced in tests only.
    """
    return asyncio.run(_Supervisor(settings, options, disk or Disk()).run())


class _StopDuringStart(Exception):  # noqa: N818 - not an error
    """A stop was asked for before the daemon was ready."""


class _Supervisor:
    def __init__(self, settings: Settings, options: RunOptions, disk: Disk) -> None:
        self.settings = settings
        self.options = options
        self.disk = disk
        self.state = settings.state.dir
        self.services = ServiceManager()
        self.journal_thread = ThreadPoolExecutor(1, "journal")
        self.snapshot_thread = ThreadPoolExecutor(1, "snapshot")
        self.stopping = threading.Event()
        # the consumer's, made before it: signals are remembered from the first moment on
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        self.consumer: Consumer | None = None
        self.waker: FileWaker | None = None
        self.journal: Journal | None = None
        self.record: RunRecord | None = None
        self.evidence = Evidence(disk, self.state, settings.evidence, utc_now)
        self.lineage = StreamLineage(disk, settings, utc_now)
        self.keys: list[SigningKey] = []
        self.logs: logs_module.Logs | None = None

    async def run(self) -> int:
        governing = from_settings(self.settings)  # a wrong file is refused before anything is touched
        self.keys = signing_keys(self.settings.evidence)
        logs_module.configure(None, stderr="none").close()  # takes descriptors 0 to 2 before any state file is opened
        prepare_directories(self.disk, self.state)
        with StateLock(self.state / "lock"):
            claim(self.disk, self.state, self.settings.stream.name, self.settings.stream.path)
            run_id = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
            log_settings = self.settings.log
            self.logs = logs_module.configure(
                self.state / "log" / "tidewaiter.jsonl",
                stderr=cast("logs_module.StderrMode", log_settings.stderr),  # the settings allow nothing else
                level=cast("logs_module.Level", log_settings.level),
                # what is drawn says the same, and stays below the log lines
                console_skips=frozenset() if isinstance(self.options.progress, NoProgress) else frozenset({"progress"}),
                console_above=self.options.progress.above,
            )
            logs_module.bind(run_id=run_id, stream=self.settings.stream.name)
            self._handle_signals()
            log.info("daemon.started", version=tidewaiter.__version__, state=str(self.state), pid=os.getpid())
            try:
                await self._run(run_id, governing)
            except _StopDuringStart:
                await self._close(None)
            except BaseExceptionGroup as group:
                error = _first(group)
                await self._close(error)
                raise error from None
            except BaseException as error:
                await self._close(error)
                raise
            else:
                await self._close(None)
            finally:
                self.stopping.set()
                self.journal_thread.shutdown()
                self.snapshot_thread.shutdown()
                self.logs.close()
                self.services.close()
        return 0

    # -- start ---------------------------------------------------------------------------------------------------

    async def _run(self, run_id: str, governing: Governing) -> None:
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        keep_alive = asyncio.create_task(self._keep_alive(), name="keep-alive")
        try:
            log.info("recovery.started")
            recovered = await loop.run_in_executor(self.journal_thread, recover, self.disk, self.state)
            await loop.run_in_executor(self.journal_thread, self._note_recovery, recovered)
            await self.evidence.check(recovered)
            await loop.run_in_executor(self.journal_thread, self._open_journal, recovered, run_id, governing)
            assert self.journal is not None  # noqa: S101 - just set
            await self.evidence.open(self.journal, self.keys)
            stream = Stream(self.settings.reading())
            try:
                await self._start_consumer(stream, recovered, governing)
                consumer, journal = self.consumer, self.journal
                assert consumer is not None and journal is not None  # noqa: S101, PT018 - just set
                await loop.run_in_executor(self.journal_thread, self._begin_lineage, recovered, consumer.governing)
                log.info(
                    "recovery.finished",
                    seconds=round(time.monotonic() - began, 3),
                    offset=journal.ledger.global_offset,
                    replayed=len(recovered.timeline),
                    audit_index=journal.ledger.index,
                )
                background = await self._check_older_part(recovered)
                keep_alive.cancel()
                _spare_the_collector()
                sys.setswitchinterval(SWITCH_SECONDS)
                self.services.ready(f"at byte {journal.ledger.global_offset}")
                log.info(
                    "daemon.ready", offset=journal.ledger.global_offset, seconds=round(time.monotonic() - began, 3)
                )
                await self._run_tasks(consumer, background)
            finally:
                await stream.close()
        finally:
            keep_alive.cancel()

    def _note_recovery(self, recovered: Recovered) -> None:
        """Record what recovery cut or put aside, whether or not this start goes on."""
        for action, members in recovered.notes:
            if action == "snapshot.damaged":
                log.warning("snapshot.refused", **members)
            else:
                log.warning("recovery.tail_cut", **members)
        if recovered.notes and recovered.mark is not None:
            journal = Journal(
                self.disk, self.state, recovered.ledger, recovered.mark,
                run_id="recovery", now=utc_now, segment_bytes=self.settings.state.segment_bytes,
                origin=recovered.ledger.origin or origin_for(self.settings, self.keys),
            )  # fmt: skip
            try:
                for action, members in recovered.notes:
                    journal.record(action, dict(members))
                recovered.ledger, recovered.mark = journal.ledger, journal.mark
            finally:
                journal.close()

    def _open_journal(self, recovered: Recovered, run_id: str, governing: Governing) -> None:
        origin = recovered.ledger.origin or origin_for(self.settings, self.keys)
        refuse_other_origin(origin, self.settings.evidence)
        # a log that was signed does not go on unsigned
        refuse_without_key(recovered.ledger.keys, self.keys, utc_now())
        self.lineage.open(recovered.ledger)
        crashed, documents = close_crashed_runs(
            self.disk, self.state, utc_now(), recovered.ledger, recovered.last_commit
        )
        self.journal = journal = Journal(
            self.disk, self.state, recovered.ledger, recovered.mark,
            run_id=run_id, now=utc_now, segment_bytes=self.settings.state.segment_bytes, origin=origin,
        )  # fmt: skip
        contract = governing.contract
        self.record = RunRecord(
            self.disk,
            self.state,
            RunLog(
                run_id=run_id,
                started_at=utc_now(),
                contract=contract.name,
                contract_version=contract.version,
                ruleset=f"{governing.ruleset.name}/{governing.ruleset.version}",
                stream=str(self.settings.stream.path),
                state_dir=str(self.state),
                flags=str(self.state / "flags.jsonl"),
                audit=str(self.state / "audit"),
                resume_offset=journal.ledger.global_offset,
                version=tidewaiter.__version__,
            ),
            journal.ledger.totals,
        )
        self.record.open()
        if journal.behind(utc_now()):
            log.warning("clock.behind", last=journal.latest)
        started: dict[str, object] = {
            "version": tidewaiter.__version__, "resume_offset": journal.ledger.global_offset, "crashed_runs": crashed,
            "stream": self.settings.stream.name, "documents": documents,
        }  # fmt: skip
        journal.record(audit.RUN_STARTED, started)
        key = key_to_introduce(journal.ledger, self.keys)
        if key is not None:
            journal.record(audit.KEY_RECORDED, key)
            log.info("key.introduced", vkey=key.vkey)
        journal.write_checkpoint()

    def _begin_lineage(self, recovered: Recovered, governing: Governing) -> None:
        journal, record, last = self.journal, self.record, recovered.last_commit
        assert journal is not None and record is not None  # noqa: S101, PT018 - opened before
        previous = last.run_id if last is not None else ""
        self.lineage.graph.begin(journal, record, governing, previous)
        self.lineage.begin(journal, governing)

    async def _start_consumer(self, stream: Stream, recovered: Recovered, governing: Governing) -> None:
        journal = self.journal
        assert journal is not None  # noqa: S101 - opened before
        path = self.settings.stream.path
        # the directory that holds the segments; behind a symbolic link, the one where bytes are appended
        self.waker = FileWaker(path if path.is_dir() else path.resolve().parent)
        consumer = Consumer(
            settings=self.settings,
            governing=governing,
            engine=governing.engine(),
            journal=journal,
            stream=stream,
            waker=self.waker,
            disk=self.disk,
            services=self.services,
            reporter=Reporter(self.services, self.options.progress, journal.ledger, once=self.options.once),
            snapshots=Snapshotting(
                self.disk, self.state, self.settings.state, self.snapshot_thread, journal.ledger.totals.events_read
            ),
            journal_thread=self.journal_thread,
            evidence=self.evidence,
            lineage=self.lineage,
            stop=self.stop,
            reload=self.reload,
            once=self.options.once,
        )
        if self.stopping.is_set():
            raise _StopDuringStart
        await consumer.start()
        try:
            consumer.engine, consumer.governing = await rebuild(
                recovered, governing, self.state, stream, alive=self._stop_if_asked
            )
        except IntegrityRefusal as refusal:
            if not self.options.accept_state_loss:
                raise
            await consumer.accept_state_loss(governing, self.options.reason, self.options.actor, refusal)
        if journal.ledger.decisions is None:
            await consumer.adopt(governing, "first start")
        elif journal.ledger.decisions != governing.decisions:
            await consumer.adopt(governing, "start")
        self.consumer = consumer  # from here on, a snapshot may be taken of it

    def _stop_if_asked(self, _offset: int) -> None:
        if self.stopping.is_set():
            raise _StopDuringStart

    async def _keep_alive(self) -> None:
        """Ask the service manager for more time as long as recovery and replay go on."""
        while True:
            self.services.extend_timeout(_START_EXTENSION_US)
            await asyncio.sleep(_KEEP_ALIVE_SECONDS)

    async def _check_older_part(self, recovered: Recovered) -> Awaitable[None] | None:
        """Check the audit log before the part that recovery read: now if it is small, else as the returned work."""
        mark = recovered.checked_from
        if mark is None:
            return None
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "audit-check")
        work = loop.run_in_executor(thread, check_prefix, self.state, mark, recovered.ledger, self.stopping.is_set)
        thread.shutdown(wait=False)
        if bytes_before(self.state, mark) <= CHECKED_BEFORE_READY_BYTES:
            await work
            return None
        self.evidence.hold(work)
        return work

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def _run_tasks(self, consumer: Consumer, background: Awaitable[None] | None) -> None:
        others: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as group:
            assert self.waker is not None  # noqa: S101 - set with the consumer
            others.append(group.create_task(self.waker.run(), name="waker"))
            others.append(group.create_task(self.evidence.run(), name="evidence"))
            others.append(group.create_task(self.lineage.run(), name="openlineage"))
            producer = self.settings.producer
            if producer is not None and not self.options.once:
                part = ProducerSettings(
                    path=self.settings.stream.path, rate=producer.rate, users=producer.users, seed=producer.seed,
                    profile=producer.profile,
                )  # fmt: skip
                # it removes its own partial last line first; a reader must not have seen that line
                opened = asyncio.Event()
                task = group.create_task(_endless(produce(part, log=log, ready=opened)), name="producer")
                others.append(task)
                waiting = asyncio.create_task(opened.wait(), name="producer-opening")
                await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            checking = group.create_task(_await(background), name="audit-check") if background is not None else None
            await group.create_task(consumer.run(), name="consumer")
            if checking is not None and self.options.once:
                await checking
            self.stopping.set()
            for task in others:
                task.cancel()

    # -- signals and the end -------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # a test runs the daemon in a thread; it has its own ways to stop it
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _stop(self, number: int) -> None:
        if self.stopping.is_set():
            # asked twice: end at once; what is committed is durable, recovery does the rest
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.stopping.set()
        self.stop.set()  # signal handlers run on the loop's thread
        self.services.stopping("finishing the batch in hand")
        log.info("daemon.stopping", signal=signal.Signals(number).name)
        if self.waker is not None:
            self.waker.kick()

    def _reload(self) -> None:
        if self.logs is not None:
            self.logs.reopen()
        self.reload.set()
        if self.waker is not None:
            self.waker.kick()

    async def _close(self, error: BaseException | None) -> None:
        """Close the run: snapshot, last entries, run log and report, as far as what happened lets us."""
        message = str(error) if error is not None else None
        code = error.exit_code if isinstance(error, TidewaiterError) else 0 if error is None else 1
        self.stopping.set()
        self.services.stopping(message or "stopped")
        loop = asyncio.get_running_loop()
        try:
            # After a failed fsync nothing more may be written; and only a clean stop or a halt leaves the rules'
            # memory exactly at the last commit.
            if self.journal is not None and not isinstance(error, DurabilityError):
                if self.consumer is not None and (error is None or isinstance(error, SourceHalt)):
                    await self.consumer.finish()
                await loop.run_in_executor(self.journal_thread, self._close_journal, message, code)
                if not isinstance(error, IntegrityRefusal):  # what is in doubt is not signed
                    await self.evidence.finish()
                await self.lineage.finish()
        except DurabilityError as failed:
            log.error("daemon.failed", error=str(failed), exit_status=failed.exit_code)
            if error is None:
                raise
        finally:
            self.evidence.close()
            self.lineage.close()
            if self.journal is not None:
                self.journal.close()
        if error is not None:
            log.error("daemon.failed", error=message, kind=type(error).__name__, exit_status=code)
        log.info("daemon.stopped", exit_status=code)

    def _close_journal(self, message: str | None, code: int) -> None:
        journal, record = self.journal, self.record
        assert journal is not None  # noqa: S101 - checked by the caller
        with contextlib.suppress(SourceHalt):
            journal.materialise()
        assert record is not None  # noqa: S101 - made with the journal
        policy = self.consumer.governing.policy if self.consumer is not None else self.settings.policy
        self.lineage.graph.end(journal)
        documents = record.close(journal.ledger, utc_now(), policy, message)
        ended = RunEnded("failed" if message else "success", code, message, documents)
        journal.record(audit.RUN_ENDED, ended)
        failed = None if message is None else f"exit status {code}; the run log {record.path.name} says why"
        self.lineage.end(journal, failed)
        journal.write_checkpoint()
        self.options.progress.ended(
            position=journal.ledger.global_offset, events=record.log.events_read, flags=record.log.flags_emitted,
            rejected=record.log.events_rejected, flags_file=record.log.flags,
        )  # fmt: skip


def _spare_the_collector() -> None:
    """Keep the garbage collector from walking through millions of keys that hold no cycles: that is a stall a time."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)


async def _endless(work: Awaitable[None]) -> None:
    await work
    raise RuntimeError("a task that never ends has ended")


async def _await(work: Awaitable[None]) -> None:
    await work


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that speaks for the group: one a user can act on, if there is one."""
    flat: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo.extend(error.exceptions)
        else:
            flat.append(error)
    ours = [error for error in flat if isinstance(error, TidewaiterError)]
    return ours[0] if ours else flat[0]
