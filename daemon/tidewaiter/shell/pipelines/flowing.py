"""The way of the rows: read, validate, each step, write; in one pass, batch by batch.

Owns: the chain of generators and what is known when it has run dry. Leaves to `stages` counting, reconciling and
hashing, to `rejections` what becomes of a rejected record, to `edges.tables` files and everything that needs the whole
input, to `core.pipelines` what happens to a batch, and to `running` when the output gets its name.

Invariant: nothing is visible under the output's name before `publish`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.contract import TableContract, compile_contract
from tidewaiter.core.pipelines.columns import ROW
from tidewaiter.core.pipelines.inference import Inference, contract_name
from tidewaiter.core.pipelines.steps import BLOCKING, Aggregate, Join
from tidewaiter.core.pipelines.table_format import DELIMITED
from tidewaiter.core.pipelines.transforms import transform
from tidewaiter.core.pipelines.validation import Validator
from tidewaiter.edges.tables.blocking import blocking
from tidewaiter.edges.tables.output import Output, Replacement
from tidewaiter.edges.tables.prefetching import prefetched
from tidewaiter.edges.tables.sources import Source
from tidewaiter.edges.tables.spill import SpillDirectory, remove_leftovers
from tidewaiter.edges.tables.writers import check_writable
from tidewaiter.shell.pipelines.config import STANDARD, absolute
from tidewaiter.shell.pipelines.facts import StepFacts, TableFacts
from tidewaiter.shell.pipelines.references import hashed
from tidewaiter.shell.pipelines.rejections import MostRejected, Rejections, is_ours
from tidewaiter.shell.pipelines.stages import READ, VALIDATE, Hashing, Stage, columns_of, reconcile

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import polars as pl

    from tidewaiter.core.pipelines.batches import Batch, Rejected
    from tidewaiter.core.pipelines.columns import Schema
    from tidewaiter.core.pipelines.planning import PlannedStep
    from tidewaiter.edges.durable import Disk
    from tidewaiter.edges.tables.output import Written
    from tidewaiter.shell.pipelines.preparing import Governed

INFERRED: Final = "inferred"
_BEGINNING: Final = 1 << 16
_VALUE: Final = re.compile(r"[+-]?[0-9]+([.,][0-9]+)*|[0-9]{4}-[0-9]{2}-[0-9]{2}.*")
"""A name of a column that looks like a number or a date."""


class Flow:
    """The rows of one run. First `open`, then `run`, then `publish` or `abandon`; `close` in any case."""

    def __init__(self, governed: Governed, disk: Disk, progressed: Callable[..., None]) -> None:
        self._governed, self._disk, self._progressed = governed, disk, progressed
        self._config = governed.config
        self._source: Source | None = None
        self._spill: SpillDirectory | None = None
        self._validator: Validator | None = None
        self._planned: tuple[PlannedStep, ...] = ()
        self._stages: list[Stage] = []
        self._output: Output | None = None
        self._rejected: Replacement | None = None
        self._saved: Replacement | None = None
        self._stale: Path | None = None
        self._rejected_at_read: dict[str, int] = {}
        self._opened = contextlib.ExitStack()
        self.contract: TableContract | None = governed.contract
        self.inferred = False
        self._renumbered: set[str] = set()
        self._arrived: pl.DataFrame | None = None
        self._done = False
        most = self._config.max_rejected
        self.rejections = Rejections(
            governed.on_invalid, self._locate, self._scratch, self._renumbered,
            place=self._file_of, most=None if most is None else MostRejected(most), disk=disk,
        )  # fmt: skip
        self.fits = True
        """Whether the steps fit the columns: False while that is found out, and where they do not."""
        self.rows_sha256 = ""
        self.output_records = 0

    # -- before the run ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the input, find its contract, and type the steps. Raises ConfigError, SourceHalt and DurabilityError.

        Nothing is written but a copy of standard input, which can be read once only.
        """
        place = self._spill_place()
        remove_leftovers(place)
        self._spill = self._opened.enter_context(SpillDirectory(place, self._disk))
        inputs = self._config.inputs
        contract = self.contract
        self._source = Source(
            STANDARD if inputs == (STANDARD,) else [Path(each) for each in inputs],
            self._governed.input_said,
            spill=self._scratch() if inputs == (STANDARD,) else None,
            batch_bytes=self._config.batch_bytes,
            expected=self._governed.expected,
            ignore_unknown=contract is not None and contract.unknown_fields == "ignore",
        )
        if contract is None:
            contract = self.contract = self._infer(self._source)
            self.inferred = True
        self._validator = Validator(contract, self._source.columns, self._source.schema, self._governed.lists)
        self.fits = False
        self._planned = self._governed.plan(self._validator.schema)
        schema = self._planned[-1].after if self._planned else self._validator.schema
        check_writable(self._governed.output, os.fspath(self._config.output_path), schema)
        self.fits = True
        kinds = [planned.step.kind for planned in self._planned]
        first = kinds.index("aggregate") if "aggregate" in kinds else len(kinds)
        self._renumbered.update(planned.step.name for planned in self._planned[first + 1 :])

    def _infer(self, source: Source) -> TableContract:
        inference = Inference(source.columns, source.schema)
        with closing(source.batches()) as batches:
            for batch in batches:
                inference.add(batch.frame)
                # the input is read twice: this is the first half
                self._progressed(
                    bytes_read=source.bytes_read, bytes_total=2 * source.bytes_total, records=0, rejected=0
                )
        name = contract_name(self._config.inputs[0])
        return compile_contract(inference.contract(name).encode(), f"{name} ({INFERRED})", for_stream=False)

    def _spill_place(self) -> Path:
        if self._config.spill_directory is not None:
            return Path(self._config.spill_directory)
        if os.fspath(self._config.output_path) == STANDARD:
            return Path(tempfile.gettempdir())
        place = self._config.output.resolve().parent
        # the output's directory is made with the output: a run that cannot read its input leaves none
        return next(each for each in (place, *place.parents) if each.is_dir())

    def _scratch(self) -> Path:
        spill = self._spill
        if spill is None:
            raise AssertionError("scratch files before `open`")
        if spill.path is None:
            spill.part()
        assert spill.path is not None  # noqa: S101 - a part makes it
        return spill.path

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self, *, hashing: bool) -> tuple[TableFacts, TableFacts | None]:
        """Take all rows to the output, durable under its temporary name; return what it and the rejected file hold.

        Raises SourceHalt, IntegrityRefusal, NoSpace and DurabilityError.
        """
        assert self._validator is not None  # noqa: S101 - `open` came first
        with Hashing() as thread:
            self._make_stages(thread if hashing else None)
            schema = self._stages[-1].schema
            path = os.fspath(self._config.output_path)
            # If we die from here on, temporary files are left, which nobody reads and the next run overwrites.
            self._output = Output(
                STANDARD if path == STANDARD else Path(path), self._governed.output, schema, self._disk
            )
            if self.rejections.keeps:
                self._rejected = Replacement(self.rejected_path, self._disk)
            self._begin_contract()
            with closing(self._chain()) as frames:
                for frame in frames:
                    self._settle()
                    self._output.write(frame)
            self._settle()
            self.rejections.check(self.input_records)
            written = self._output.finish()
            thread.finish()
        self.output_records = written.records
        self.rows_sha256 = self._stages[-1].facts("").hash_after
        reconcile(sum(file.records or 0 for file in self.inputs()), self._stages, written.records)
        self._done = True
        return self._output_facts(written, schema), self._finish_rejected()

    def _make_stages(self, hashing: Hashing | None) -> None:
        assert self._source is not None and self._validator is not None  # noqa: S101, PT018 - `open` came first
        self._stages = [
            Stage(-1, READ, READ, {}, hashing=None),
            Stage(0, VALIDATE, VALIDATE, self._validator.schema, hashing=hashing),
        ]
        for number, planned in enumerate(self._planned, 1):
            step = planned.step
            says = msgspec.json.encode({step.kind: msgspec.to_builtins(step)}).decode()
            files = (self._governed.references.files[step.file],) if isinstance(step, Join) else ()
            self._stages.append(
                Stage(
                    number, step.name, step.kind, planned.after, hashing=hashing, says=says, files=files,
                    one_of_none=isinstance(step, Aggregate) and not step.by,
                )
            )  # fmt: skip

    def _chain(self) -> Generator[pl.DataFrame]:
        frames = self._validated(*self._stages[:2])
        for stage, planned in zip(self._stages[2:], self._planned, strict=True):
            if isinstance(planned.step, BLOCKING):
                frames = self._blocked(stage, planned, frames)
            else:
                frames = self._transformed(stage, planned, frames)
        return frames

    def _checked(self) -> Generator[tuple[tuple[Rejected, ...], int, Batch]]:
        """Return of each batch what was rejected at reading, how many rows were read, and these as values."""
        assert self._source is not None and self._validator is not None  # noqa: S101, PT018 - `open` came first
        with closing(self._source.batches()) as batches:
            for batch in batches:
                yield batch.rejected, batch.frame.height, self._validator.check(batch.frame)
                del batch

    def _validated(self, read: Stage, stage: Stage) -> Generator[pl.DataFrame]:
        """Return the rows that meet the contract; a thread of its own finds the next while the steps work on these."""
        source = self._source
        assert source is not None  # noqa: S101 - `open` came first
        with closing(prefetched(self._checked(), depth=1)) as batches:
            for not_read, height, (found, rejected) in batches:
                read.records_in += height + len(not_read)
                read.rejected += len(not_read)
                read.records_out += height
                self.rejections.take(read.number, not_read)
                for each in not_read:
                    path = str(source.locate(each.row)[0])
                    self._rejected_at_read[path] = self._rejected_at_read.get(path, 0) + 1
                stage.records_in += height
                stage.rejected += len(rejected)
                self.rejections.take(stage.number, rejected)
                stage.came_out(found)
                yield found
                before = source.bytes_total if self.inferred else 0
                self._progressed(
                    bytes_read=before + source.bytes_read, bytes_total=before + source.bytes_total,
                    records=read.records_in, rejected=self.rejections.count,
                )  # fmt: skip

    def _transformed(
        self, stage: Stage, planned: PlannedStep, frames: Generator[pl.DataFrame]
    ) -> Generator[pl.DataFrame]:
        with closing(frames):
            for frame in frames:
                stage.records_in += frame.height
                found, rejected = transform(planned, frame)
                stage.rejected += len(rejected)
                self.rejections.take(stage.number, rejected)
                stage.came_out(found)
                yield found

    def _blocked(self, stage: Stage, planned: PlannedStep, frames: Generator[pl.DataFrame]) -> Generator[pl.DataFrame]:
        assert self._spill is not None  # noqa: S101 - `open` came first

        def incoming() -> Iterator[pl.DataFrame]:
            for frame in frames:
                self._settle()  # all stages before have seen the same rows
                stage.records_in += frame.height
                yield frame

        with closing(frames):
            step, memory = planned.step, self._config.memory_bytes
            rows = (self._governed.references.join_rows(step, planned.before),) if isinstance(step, Join) else ()
            for frame, rejected in blocking(planned, incoming(), self._spill, memory_bytes=memory, reference=rows):
                stage.rejected += len(rejected)
                self.rejections.take(stage.number, rejected)
                stage.came_out(frame)
                self._arrived = frame
                yield frame

    def _settle(self) -> None:
        self.rejections.settle(self._place)

    def _place(self, row: int) -> int | None:
        """Return at which place a row came into the steps behind the last blocking one."""
        return row if self._arrived is None else self._arrived[ROW].index_of(row)

    # -- its end -------------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Give the rejected records and the output their names, in this order. Raises DurabilityError."""
        # If we die between the two, the rejected file is that of a run that failed: its audit entry says so.
        if self._rejected is not None:
            self._rejected.publish()
        assert self._output is not None  # noqa: S101 - `run` came first
        self._output.publish()

    def publish_beside(self) -> None:
        """Bring what lies beside the output in step with it. Raises DurabilityError.

        Under another policy than quarantine, rejected records of a run before are removed: the output is no longer its.
        An inferred contract gets its name.
        """
        # If we die here, the rejected records of a run before are still there: the next run that succeeds removes them.
        if self._stale is not None:
            self._disk.unlink(self._stale)
            self._disk.sync_directory(self._stale.parent)
        # If we die here, the contract is not saved: `recover` removes what was to become it.
        if self._saved is not None:
            self._saved.publish()

    def abandon(self) -> None:
        """Remove what was begun."""
        if self._output is not None:
            self._output.abandon()
        for begun in (self._rejected, self._saved):
            if begun is not None:
                begun.abandon()

    def close(self) -> None:
        """Let everything go that is scratch."""
        self.rejections.close()
        self._opened.close()

    def _begin_contract(self) -> None:
        """Make an inferred contract ready that is to be saved."""
        if self._config.save_contract is not None and self.inferred and self.contract is not None:
            self._saved = Replacement(Path(self._config.save_contract), self._disk, overwrite=False)
            self._saved.write(self.contract.text)
            self._saved.finish()

    def stale(self) -> TableFacts | None:
        """Return the file of rejected records that `publish` will remove: that of a run before, and nobody else's."""
        path = self.rejected_path
        if self.rejections.keeps or os.fspath(self._config.output_path) == STANDARD or not path.is_file():
            return None
        facts = hashed(path)
        with path.open("rb") as file:
            if not is_ours(file.readline(_BEGINNING)):
                return None
        self._stale = path
        return TableFacts(absolute(path), facts.sha256)

    def _finish_rejected(self) -> TableFacts | None:
        if self._rejected is None:
            return None
        for piece in self.rejections.lines():
            self._rejected.write(piece)
        sha256, length = self._rejected.finish()
        path = absolute(self.rejected_path)
        return TableFacts(path, sha256, self.rejections.count, length, "jsonl")

    def _output_facts(self, written: Written, schema: Schema) -> TableFacts:
        path = os.fspath(self._config.output_path)
        return TableFacts(
            path if path == STANDARD else absolute(path), written.sha256, written.records, written.length,
            self._governed.output.format, columns_of(schema),
        )  # fmt: skip

    # -- what there is to tell -----------------------------------------------------------------------------------------

    @property
    def rejected_path(self) -> Path:
        """Where rejected records are kept."""
        output = self._config.output
        return output.with_name(f"{output.name}.rejected.jsonl")

    def leftovers(self) -> dict[str, object]:
        """Return what the next run looks for if this one dies: files with a temporary beside them, and a place."""
        files = [absolute(self.rejected_path)] if self.rejections.keeps else []
        if os.fspath(self._config.output_path) != STANDARD:
            files.append(absolute(self._config.output))
        if self._config.save_contract is not None:
            files.append(absolute(self._config.save_contract))
        return {"temporary": files, "spill": None if self._spill is None else absolute(self._spill.place)}

    @property
    def input_records(self) -> int:
        """Records of the input so far, rejected ones included."""
        return self._stages[0].records_in if self._stages else 0

    @property
    def removed_records(self) -> int:
        """Records that steps removed, where the run came to its end."""
        return sum(stage.removed for stage in self._stages) if self._done else 0

    @property
    def input_sha256(self) -> str:
        """The hash of the input file, or that of the list of all hashes, as sha256sum prints it."""
        files = self.inputs()
        if len(files) == 1:
            return files[0].sha256
        return hashlib.sha256("".join(f"{file.sha256}  {file.path}\n" for file in files).encode()).hexdigest()

    def inputs(self) -> tuple[TableFacts, ...]:
        """Return the input files, with what is known of them by now."""
        if self._source is None:
            return tuple(TableFacts(each) for each in self._config.inputs)
        columns = () if self._validator is None else columns_of(self._validator.schema)
        standard = self._config.inputs == (STANDARD,)
        return tuple(
            TableFacts(
                STANDARD if standard else absolute(file.path), file.sha256 or "", file.records or 0, file.length,
                file.format.format, columns,
            )
            for file in self._source.files
        )  # fmt: skip

    def rejected_of(self, path: str) -> int:
        """Return how many records of one file could not be read as records."""
        return sum(count for file, count in self._rejected_at_read.items() if absolute(file) == path)

    def steps(self) -> tuple[StepFacts, ...]:
        """Return the validation and the steps, with what is known by now."""
        before, found = self.input_sha256 if self._source is not None else "", []
        for stage in self._stages[1:]:
            found.append(stage.facts(before))
            before = found[-1].hash_after
        return tuple(found)

    def warning(self) -> str:
        """Return what may be wrong with the header of an input whose contract was inferred, or nothing."""
        said = self._governed.input_said
        if self._source is None or not self.inferred or said.header is not None or said.columns is not None:
            return ""
        file = self._source.files[0]
        odd = next((name for name in self._source.columns if _VALUE.fullmatch(name)), None)
        if odd is None or file.format.format not in DELIMITED:
            return ""
        return (
            f"{self._name(file.path)}: its first record was taken as the header, but {odd!r} looks like a value: "
            "if it has no header, say --no-header"
        )

    def _file_of(self, row: int) -> tuple[str, int]:
        """Return the file of a record, as it was given, and its number there."""
        if self._source is None:
            raise AssertionError("a record before `open`")
        path, number = self._source.locate(row)
        return STANDARD if self._config.inputs == (STANDARD,) else str(path), number

    def _name(self, path: Path) -> str:
        return "standard input" if self._config.inputs == (STANDARD,) else str(path)

    def _locate(self, row: int) -> str:
        """Return the place of a record in words."""
        if self._source is None:
            return f"row {row}"
        path, number = self._source.locate(row)
        return f"{self._name(path)}: row {number}"
