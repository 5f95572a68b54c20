"""A run of a pipeline from beginning to end.

Owns: the order of things: what is durable before what, what is logged when, and what is left behind by a run that
failed. Leaves to `preparing` what governs the run, to `flowing` the way of the rows, to `trail` the audit entries, and
to the recorders lineage and OpenLineage.

The order, and what a crash leaves: the output is complete and durable under a temporary name; then the audit log has
its hash; then it gets its name; then the recorders write; then the audit log says that the run completed. Until the
rename the previous output is there. The next run with the same audit log finds a run without an end, and logs that it
failed, and whether its output is in place all the same.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from tidewaiter.core.errors import EXIT_CLEAN, ConfigError, TidewaiterError
from tidewaiter.edges.durable import Disk
from tidewaiter.shell.audit_logger import AuditLogger
from tidewaiter.shell.log_names import utc_now
from tidewaiter.shell.pipelines.config import PipelineConfig, absolute
from tidewaiter.shell.pipelines.facts import COMPLETE, FAILED, RUNNING, RunFacts, TableFacts
from tidewaiter.shell.pipelines.flowing import Flow
from tidewaiter.shell.pipelines.preparing import Governed, contract_facts, govern, library_versions
from tidewaiter.shell.pipelines.recorders import recorders_of, tell_end
from tidewaiter.shell.pipelines.recovering import recover
from tidewaiter.shell.pipelines.result import PipelineResult, StepResult
from tidewaiter.shell.pipelines.stopping import Stopped, Stopping
from tidewaiter.shell.pipelines.stream_commits import refuse_stream_output
from tidewaiter.shell.pipelines.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.shell.pipelines.facts import Recorder


class Watch(Protocol):
    """Who is told how a run is going."""

    def inferred(self, contract: str, saved: str) -> None:
        """Take the text of the contract that was inferred, and the file it was written to, if any."""

    def progressed(self, *, bytes_read: int, bytes_total: int, records: int, rejected: int) -> None:
        """Take how far the reading is."""

    def recovered(self, text: str) -> None:
        """Take what became of a run before that died."""

    def warned(self, text: str) -> None:
        """Take what may be wrong with the input."""


class _Nobody:
    """Watches without looking."""

    def inferred(self, contract: str, saved: str) -> None: ...

    def progressed(self, *, bytes_read: int, bytes_total: int, records: int, rejected: int) -> None: ...

    def recovered(self, text: str) -> None: ...

    def warned(self, text: str) -> None: ...


def run_pipeline(
    config: PipelineConfig, *, watch: Watch | None = None, disk: Disk | None = None, stopping: Stopping | None = None
) -> PipelineResult:
    """Run the pipeline that `config` describes and return what it came to; `disk` is replaced in tests only.

    Bad data, damaged files and a disk that refuses are told in the result: `success` is False, `errors` says why, and
    the previous output is untouched. Raises ConfigError for a configuration that is wrong, before anything is written;
    where it is the input that does not fit, the audit log has the failed run. `stopping` is how a batch run is stopped
    from outside: it is then recorded as failed, and Stopped goes on to the caller.
    """
    watch, disk = watch or _Nobody(), disk or Disk()
    if config.mode == "stream":
        from tidewaiter.shell.pipelines.following import follow_pipeline  # noqa: PLC0415 - the daemon's engine

        return follow_pipeline(config, watch=watch, disk=disk)
    return _Run(govern(config), watch, disk, stopping or Stopping()).run()


class _Run:
    """One run."""

    def __init__(self, governed: Governed, watch: Watch, disk: Disk, stopping: Stopping) -> None:
        self._governed, self._watch, self._disk = governed, watch, disk
        self._stopping = stopping
        self._config = governed.config
        self._began = time.monotonic()
        self._recorders: Sequence[Recorder] = ()
        self._published = False
        self._warnings: tuple[str, ...] = ()
        self._facts = RunFacts(
            run_id=str(uuid.uuid4()),
            status=RUNNING,
            started_at=utc_now(),
            mode=self._config.mode,
            actor=self._config.actor or "",
            pipeline=governed.pipeline_facts,
            versions=library_versions(),
            output=TableFacts(absolute(self._config.output_path), format=governed.output.format),
            inputs=tuple(TableFacts(absolute(each)) for each in self._config.inputs),
        )
        self._trail = Trail(None, self._facts.run_id)
        self._flow = Flow(governed, disk, watch.progressed)

    def run(self) -> PipelineResult:
        """Run, and tell what it came to."""
        unreadable: TidewaiterError | Stopped | None = None
        try:
            self._open_input()
        except BaseException as error:
            if not isinstance(error, TidewaiterError | Stopped) or not self._is_recorded(error):
                self._flow.close()
                raise
            unreadable = error
        try:
            with contextlib.ExitStack() as open_files:
                try:
                    self._begin(open_files)
                except ConfigError:
                    if isinstance(unreadable, ConfigError):
                        raise unreadable from None
                    raise
                try:
                    self._tell_start()
                    if unreadable is not None:
                        raise unreadable
                    self._work()
                except BaseException as error:
                    self._failed(error)
                    raise
        except TidewaiterError as error:
            if isinstance(error, ConfigError) and not self._published:
                raise
            return self._result(error)
        finally:
            self._flow.close()
        return self._result(None)

    def _is_recorded(self, error: TidewaiterError | Stopped) -> bool:
        """Return whether a run that failed before it began is one for the audit log.

        A mistake in the configuration alone is none, and no output directory is made to say that there is no input.
        """
        if not isinstance(error, ConfigError):
            return True
        config = self._config
        if config.audit_path is None or not (self._flow.fits or self._flow.inferred):
            return False
        place = Path(config.audit_path).resolve().parent
        return place.is_dir() or place != config.output.resolve().parent

    def _open_input(self) -> None:
        with self._stopping.allowed():
            self._flow.open()
        contract = self._flow.contract
        if contract is None:
            return
        facts = contract_facts(contract, inferred=self._flow.inferred)
        self._facts = replace_facts(
            self._facts,
            inputs=self._flow.inputs(),
            contract=facts,
            config_sha256=self._governed.digest(facts.sha256),
        )

    def _begin(self, open_files: contextlib.ExitStack) -> None:
        """Open the audit log, settle what a run before left, and log the start."""
        config = self._config
        self._recorders = recorders_of(config, self._disk)
        if config.audit_path is not None:
            logger = open_files.enter_context(AuditLogger(config.audit_path, actor=config.actor, disk=self._disk))
            if (told := recover(logger, self._recorders, self._disk)) is not None:
                self._watch.recovered(told)
            refuse_stream_output(logger.path, absolute(config.output_path))
            self._trail = Trail(logger, self._facts.run_id)
        # If we die from here on, the next run with this audit log finds this entry without an end.
        self._trail.started(self._facts, self._flow.leftovers())

    def _tell_start(self) -> None:
        for recorder in self._recorders:
            if (note := recorder.started(self._at_position())) is not None:
                self._trail.noted(recorder.name, note)

    def _work(self) -> None:
        config, flow = self._config, self._flow
        if flow.inferred and flow.contract is not None:
            saved = "" if config.save_contract is None else str(config.save_contract)
            self._watch.inferred(flow.contract.text.decode(), saved)
        if told := flow.warning():
            self._watch.warned(told)
        with self._stopping.allowed():
            output, rejected = flow.run(hashing=config.audit_path is not None)
        self._take_counts()
        self._facts = replace_facts(self._facts, inputs=flow.inputs(), output=output, rejected=rejected)
        for file in self._facts.inputs:
            self._trail.read(file)
        for step in self._facts.steps:
            self._trail.step(step)
        # If we die before this entry, the output is what it was, and nothing tells that another was ready.
        self._trail.written(output, flow.rows_sha256, rejected, flow.stale())
        # If we die here, both names still mean what they did; `recover` compares the output with the hash just logged.
        flow.publish()
        self._published = True
        flow.publish_beside()
        # If we die from here on, the new output is in place, and the next run says so.
        self._facts = replace_facts(self._facts, status=COMPLETE, ended_at=utc_now())
        self._record()
        self._trail.completed(self._facts, flow.input_sha256)

    def _failed(self, error: BaseException) -> None:
        """Log that the run failed; where that is not possible, the next run does it."""
        self._flow.abandon()
        self._take_counts()
        why = str(error) or type(error).__name__
        if self._published:
            why = f"{why} (the output is in place)"
        self._facts = replace_facts(
            self._facts,
            status=FAILED, ended_at=utc_now(), error=why,
            output=self._facts.output if self._published else None,
            rejected=self._facts.rejected if self._published else None,
        )  # fmt: skip
        with contextlib.suppress(TidewaiterError):
            if not self._published:
                self._record()
        with contextlib.suppress(TidewaiterError):
            self._trail.failed(self._facts, error)

    def _record(self) -> None:
        self._warnings += tell_end(self._recorders, self._trail, self._at_position)

    def _at_position(self) -> RunFacts:
        return replace_facts(self._facts, audit=self._trail.position())

    def _take_counts(self) -> None:
        flow = self._flow
        self._facts = replace_facts(
            self._facts,
            steps=flow.steps(),
            input_records=flow.input_records,
            output_records=flow.output_records,
            removed_records=flow.removed_records,
            rejected_records=flow.rejections.count,
        )

    def _result(self, error: TidewaiterError | None) -> PipelineResult:
        facts, flow, config = self._facts, self._flow, self._config
        done = error is None
        return PipelineResult(
            success=done,
            run_id=facts.run_id,
            input_records=facts.input_records,
            output_records=facts.output_records if done else 0,
            rejected_records=facts.rejected_records,
            removed_records=facts.removed_records,
            input_hash=flow.input_sha256 if done else "",
            output_hash=facts.output.sha256 if done and facts.output is not None else "",
            duration_ms=round((time.monotonic() - self._began) * 1000, 3),
            errors=() if error is None else (facts.error or str(error),),
            warnings=self._warnings,
            rejections=tuple(flow.rejections.shown),
            steps=tuple(
                StepResult(
                    step.name, step.kind, step.records_in, step.records_out, step.removed, step.rejected,
                    step.hash_before, step.hash_after,
                )
                for step in facts.steps
            ),
            output_path=Path(config.output_path),
            rejected_path=Path(facts.rejected.path) if done and facts.rejected is not None else None,
            audit_path=None if config.audit_path is None else Path(config.audit_path),
            contract="" if flow.contract is None else flow.contract.text.decode(),
            exit_code=EXIT_CLEAN if error is None else error.exit_code,
            in_place=self._published,
        )  # fmt: skip


def replace_facts(facts: RunFacts, **changes: object) -> RunFacts:
    """Return `facts` with `changes`."""
    return msgspec.structs.replace(facts, **changes)
