"""Stream mode: an input that grows is followed, and what each slice of it comes to is appended to the output.

Owns: how a run begins and ends, where slices are cut, and when to look. Leaves to `deriving` what a slice comes to, to
`stream_commits` the audit entries, the files and recovery, to `edges.tables.growing` the input, and to `edges.waker`
noticing that it grew.

The order: whole new records are read and derived; the audit log gets the commit, with places and hashes in input and
output; then the bytes are appended where the commit says, durably. So after a crash the audit log knows how long the
output has to be: what is longer is cut, and what is missing, which can only be the last slice, is derived again from
the same bytes of the input. The output is then the one that a batch run over the same input would write, whatever
happened in between.

Invariant: a record is committed once, and appended once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import signal
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.errors import EXIT_CLEAN, ConfigError, SourceHalt, TidewaiterError
from tidewaiter.core.pipelines.table_format import known_format
from tidewaiter.edges.tables.growing import GrowingFile, RecordReader, header_end
from tidewaiter.edges.tables.line_blocks import RECORD_LIMIT
from tidewaiter.edges.waker import FileWaker
from tidewaiter.shell.audit_logger import AuditLogger
from tidewaiter.shell.log_names import utc_now
from tidewaiter.shell.pipelines.config import STANDARD
from tidewaiter.shell.pipelines.deriving import Deriving
from tidewaiter.shell.pipelines.facts import COMPLETE, FAILED, RUNNING, RunFacts, TableFacts
from tidewaiter.shell.pipelines.preparing import contract_facts, govern, library_versions
from tidewaiter.shell.pipelines.recorders import recorders_of, tell_end
from tidewaiter.shell.pipelines.recovering import recover
from tidewaiter.shell.pipelines.rejections import Rejections
from tidewaiter.shell.pipelines.result import PipelineResult, StepResult
from tidewaiter.shell.pipelines.stages import columns_of
from tidewaiter.shell.pipelines.stream_commits import CommittedOutput, Slice, is_of
from tidewaiter.shell.pipelines.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.pipelines.config import PipelineConfig
    from tidewaiter.shell.pipelines.deriving import Derived
    from tidewaiter.shell.pipelines.facts import Recorder
    from tidewaiter.shell.pipelines.preparing import Governed
    from tidewaiter.shell.pipelines.running import Watch

_LOOK_SECONDS: Final = 0.5
"""The longest time that the input is not looked at, if no notification comes."""
_GATHER_SECONDS: Final = 0.05
"""Commits of less than a batch are this far apart, so that a steady trickle does not make an entry of each record."""
_LONGEST: Final = 64 << 20
"""Bytes without the end of a record after which there is no point in waiting for it."""


def follow_pipeline(
    config: PipelineConfig,
    *,
    watch: Watch,
    disk: Disk,
    go_on: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> PipelineResult:
    """Follow the input of `config` until SIGTERM or SIGINT, and return what this run came to.

    `go_on` is asked each time when nothing new is there, and may end the run; `clock` and `pause` (seconds) are there
    for tests. A bad record under ``halt``, an input
    that is not what it was, and a disk that refuses end it too, and are told in the result. The counts of the result
    are those of this run, its hashes those of the whole output, and of the input as far as it was taken; they are
    empty without success. Raises ConfigError.
    """
    with contextlib.ExitStack() as opened:
        try:
            stream = _Stream(govern(config), watch, disk, opened, clock, pause)
        except ConfigError:
            raise
        except TidewaiterError as error:
            return PipelineResult(success=False, run_id="", errors=(str(error),), exit_code=error.exit_code)
        return stream.run(go_on)


class _Stream:
    """One run over a followed input."""

    def __init__(
        self,
        governed: Governed,
        watch: Watch,
        disk: Disk,
        opened: contextlib.ExitStack,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[object]],
    ) -> None:
        """Open everything; ConfigError before anything is written."""
        self._governed, self._watch = governed, watch
        self._config = config = governed.config
        self._began = time.monotonic()
        self._stopping = False
        self._compared_bytes = 0
        self._clock, self._pause = clock, pause
        self._committed_at = -math.inf
        self._warnings: tuple[str, ...] = ()
        path = _only_file(config)
        self._input = GrowingFile(path, known_format(str(path), governed.input_said))
        opened.callback(self._input.close)
        self._start, self._deriving = self._open_header()
        self._totals = self._deriving.stages()
        self._rejections = Rejections("halt" if governed.on_invalid == "halt" else "drop", self._locate, Path)
        self._facts = self._first_facts()
        logger = opened.enter_context(AuditLogger(str(config.audit_path), actor=config.actor, disk=disk))
        self._recorders: Sequence[Recorder] = recorders_of(config, disk)
        if (told := recover(logger, self._recorders, disk)) is not None:
            watch.recovered(told)
        self._trail = Trail(logger, self._facts.run_id)
        self._output = CommittedOutput(
            logger, self._facts.run_id, config.output.absolute(), _what_governs(governed), disk,
            keeps=governed.on_invalid == "quarantine",
        )  # fmt: skip
        opened.callback(self._output.close)
        self._refuse_other_input()

    def _refuse_other_input(self) -> None:
        """Refuse another file than the one that the output was begun from; that one may have got another name."""
        last, path = self._output.last, str(self._input.path.absolute())
        if last is None or last.input.file == path:
            return
        if not is_of(last.input, self._input.read(last.input.begin, last.input.end - last.input.begin)):
            raise ConfigError(
                f"{self._config.output}: this output was begun from {last.input.file}; {path} is another input",
                hint="go on with that one, or follow this one into an output and an audit log of its own",
            )

    def _open_header(self) -> tuple[int, Deriving]:
        """Read the header, which has to be there, and type the steps."""
        name, form, contract = self._config.inputs[0], self._input.form, self._governed.contract
        head = self._input.read(0, RECORD_LIMIT + 1)
        start = header_end(head, form)
        if start is None:
            raise ConfigError(f"{name}: has no whole header yet", hint="start when it has one")
        ignore = contract is not None and contract.unknown_fields == "ignore"
        reader = RecordReader(head[:start], form, name, self._governed.expected or {}, ignore_unknown=ignore)
        return start, Deriving(self._governed, reader)

    def _first_facts(self) -> RunFacts:
        governed, contract = self._governed, self._governed.contract
        assert contract is not None  # noqa: S101 - `Deriving` refuses a run without
        facts = contract_facts(contract, inferred=False)
        columns = columns_of(self._deriving.schema)
        output = str(self._config.output.absolute())
        return RunFacts(
            run_id=str(uuid.uuid4()),
            status=RUNNING,
            started_at=utc_now(),
            mode=self._config.mode,
            actor=self._config.actor or "",
            inputs=(TableFacts(str(self._input.path.absolute()), format=self._input.form.format),),
            output=TableFacts(output, format=governed.output.format, columns=columns),
            contract=facts,
            pipeline=governed.pipeline_facts,
            config_sha256=governed.digest(facts.sha256),
            versions=library_versions(),
        )

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self, go_on: Callable[[], bool]) -> PipelineResult:
        """Go on where the last run ended, follow, and tell what this one came to."""
        last = self._output.last
        begin, records = (0, 0) if last is None else (last.input.end, last.records)
        error: TidewaiterError | None = None
        try:
            self._trail.started(self._facts, {"from_byte": begin, "from_record": records + 1})
            for recorder in self._recorders:
                if (note := recorder.started(self._at_position())) is not None:
                    self._trail.noted(recorder.name, note)
            self._put_right()
            asyncio.run(self._follow(go_on))
            self._finish(COMPLETE, "")
        except TidewaiterError as caught:
            error = caught
            self._failed(error)
        except BaseException as caught:
            self._failed(caught)
            raise
        return self._result(error)

    def _put_right(self) -> None:
        """Make the output what the last commit says, or begin it."""
        last = self._output.last
        if last is None:
            self._input.check_same(self._start)
            self._commit(0, self._input.read(0, self._start), self._deriving.beginning())
            return
        self._input.check_same(last.input.end)
        text = self._input.read(last.input.begin, last.input.end - last.input.begin)
        told = self._output.put_right(
            text,
            lambda text, commit: (
                self._deriving.derive(text, commit.input.before + 1) if commit.number else self._deriving.beginning()
            ),
            self._compared,
        )
        if told:
            self._watch.recovered(told)

    def _compared(self, count: int) -> None:
        """Show how much of the output was compared."""
        self._compared_bytes += count
        total = self._output.length
        self._watch.progressed(bytes_read=self._compared_bytes, bytes_total=total, records=0, rejected=0)

    async def _follow(self, go_on: Callable[[], bool]) -> None:
        """Take slices until told to stop; a signal waits for the slice in hand."""
        waker = FileWaker(self._input.path.absolute().parent)

        def stop() -> None:
            self._stopping = True
            waker.kick()

        loop = asyncio.get_running_loop()
        watcher = asyncio.create_task(waker.run())
        with contextlib.ExitStack() as handlers:
            for number in (signal.SIGTERM, signal.SIGINT):
                # only the main thread may: in another, the caller ends the run by `go_on`
                with contextlib.suppress(ValueError, RuntimeError):
                    loop.add_signal_handler(number, stop)
                    handlers.callback(loop.remove_signal_handler, number)
            try:
                while not self._stopping:
                    await self._gather()
                    if self._advance():
                        await asyncio.sleep(0)  # lets a signal be seen
                    elif go_on():
                        await waker.wait(_LOOK_SECONDS)
                    else:
                        return
            finally:
                watcher.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watcher

    async def _gather(self) -> None:
        """Let a trickle become one slice: wait until the last commit is _GATHER_SECONDS old, unless a batch is full."""
        last = self._output.last
        assert last is not None  # noqa: S101 - `_put_right` came first
        rest = self._committed_at + _GATHER_SECONDS - self._clock()
        if rest > 0 and 0 < self._input.size - last.input.end < self._config.batch_bytes:
            await self._pause(rest)

    def _advance(self) -> bool:
        """Take the next slice. False if no whole record is there. Raises SourceHalt at a bad record under ``halt``."""
        last = self._output.last
        assert last is not None  # noqa: S101 - `_put_right` came first
        begin, first = last.input.end, last.records + 1
        text = self._next_text(begin)
        if not text:
            return False
        text, derived = self._derive(text, first)
        if self._governed.on_invalid == "halt" and derived.rejected:
            before = self._deriving.upto(text, first, derived.rejected[0].row)
            if before:
                self._commit(begin, before, self._deriving.derive(before, first))
            self._rejections.take(0, derived.rejected)
            self._rejections.settle()
        self._rejections.take(0, derived.rejected)
        self._commit(begin, text, derived)
        self._committed_at = self._clock()
        return True

    def _derive(self, text: bytes, first: int) -> tuple[bytes, Derived]:
        """Return what whole records come to: all of `text`, or some at its beginning, where a later one halts the run.

        So all before a value that the output cannot hold is committed. Raises SourceHalt where the first record does.
        """
        while True:
            try:
                return text, self._deriving.derive(text, first)
            except SourceHalt:
                whole = self._deriving.whole(text[: len(text) // 2])
                shorter = text[:whole] or self._deriving.upto(text, first, first + 1)
                if shorter == text:
                    raise
                text = shorter

    def _next_text(self, begin: int) -> bytes:
        """Return whole records from `begin` on, about as many as make a batch; nothing if there is none."""
        self._input.check_same(begin)
        size = self._config.batch_bytes
        while True:
            text = self._input.read(begin, size)
            whole = self._deriving.whole(text)
            if whole or len(text) < size:
                return text[:whole]
            if size > _LONGEST:
                raise SourceHalt(
                    f"{self._input.path}: no record ends within {size} bytes from byte {begin} on",
                    hint="is it the right format and delimiter?",
                )
            size *= 2

    def _commit(self, begin: int, text: bytes, derived: Derived) -> None:
        last = self._output.last
        before = 0 if last is None else last.records
        end = begin + len(text)
        path = str(self._input.path.absolute())
        self._output.commit(Slice(path, begin, end, hashlib.sha256(text).hexdigest(), before, derived.records), derived)
        for total, stage in zip(self._totals, derived.stages, strict=True):
            total.records_in += stage.records_in
            total.records_out += stage.records_out
            total.rejected += stage.rejected
        self._watch.progressed(
            bytes_read=end, bytes_total=max(end, self._input.size), records=self._totals[0].records_in,
            rejected=self._rejections.count,
        )  # fmt: skip

    # -- its end -------------------------------------------------------------------------------------------------------

    def _failed(self, error: BaseException) -> None:
        """Log that the run failed; where that is not possible, the next run does it."""
        with contextlib.suppress(TidewaiterError):
            self._finish(FAILED, str(error) or type(error).__name__)
        with contextlib.suppress(TidewaiterError):
            self._trail.failed(self._facts, error)

    def _finish(self, status: str, error: str) -> None:
        totals, last = self._totals, self._output.last
        source, output = self._facts.inputs[0], self._facts.output
        assert output is not None  # noqa: S101 - `_first_facts` sets it
        if last is not None:
            source = msgspec.structs.replace(source, records=last.records, bytes=last.input.end)
            output = msgspec.structs.replace(output, records=last.written, bytes=last.output.end)
            if status == COMPLETE:
                source = msgspec.structs.replace(source, sha256=self._input.sha256(last.input.end))
                output = msgspec.structs.replace(output, sha256=self._output.sha256())
        self._facts = msgspec.structs.replace(
            self._facts,
            status=status,
            ended_at=utc_now(),
            error=error,
            inputs=(source,),
            output=output,
            steps=tuple(stage.facts("") for stage in totals[1:]),
            input_records=totals[0].records_in,
            output_records=totals[-1].records_out,
            removed_records=sum(stage.removed for stage in totals),
            rejected_records=self._rejections.count,
        )
        self._warnings += tell_end(self._recorders, self._trail, self._at_position)
        if status == COMPLETE:
            self._trail.completed(self._facts, source.sha256)

    def _at_position(self) -> RunFacts:
        return msgspec.structs.replace(self._facts, audit=self._trail.position())

    def _result(self, error: TidewaiterError | None) -> PipelineResult:
        facts, config = self._facts, self._config
        kept = self._output.kept_path
        return PipelineResult(
            success=error is None,
            run_id=facts.run_id,
            input_records=facts.input_records,
            output_records=facts.output_records,
            rejected_records=facts.rejected_records,
            removed_records=facts.removed_records,
            input_hash=facts.inputs[0].sha256,
            output_hash="" if facts.output is None else facts.output.sha256,
            duration_ms=round((time.monotonic() - self._began) * 1000, 3),
            errors=() if error is None else (str(error),),
            warnings=self._warnings,
            rejections=tuple(self._rejections.shown),
            steps=tuple(
                StepResult(step.name, step.kind, step.records_in, step.records_out, step.removed, step.rejected)
                for step in facts.steps
            ),
            output_path=Path(config.output_path),
            rejected_path=kept if kept.exists() else None,
            audit_path=None if config.audit_path is None else Path(config.audit_path),
            contract=self._governed.contract.text.decode() if self._governed.contract is not None else "",
            exit_code=EXIT_CLEAN if error is None else error.exit_code,
        )

    def _locate(self, row: int) -> str:
        return f"{self._config.inputs[0]}: row {row}"


def _only_file(config: PipelineConfig) -> Path:
    """Return the file to follow. Raises ConfigError for what only batch mode can do."""
    if len(config.inputs) != 1 or config.inputs == (STANDARD,):
        raise ConfigError("input_path: stream mode follows one file", hint="name a file that grows")
    if os.fspath(config.output_path) == STANDARD:
        raise ConfigError("output_path: stream mode appends to a file", hint="name one; follow it with tail -f")
    if config.audit_path is None:
        hint = "name an audit log: it says how far the input was taken"
        raise ConfigError("audit_path: stream mode needs an audit log", hint=hint)
    return Path(config.inputs[0])


def _what_governs(governed: Governed) -> str:
    """Return the digest of what an output must have been begun under to be gone on with.

    What becomes of bad records may change from run to run, and so may lists and versions: the audit log has them all.
    """
    said = {
        "pipeline": None if governed.pipeline is None else governed.pipeline.digest,
        "contract": None if governed.contract is None else governed.contract.digest,
        "input": governed.input_said,
        "output": governed.output,
    }
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()
