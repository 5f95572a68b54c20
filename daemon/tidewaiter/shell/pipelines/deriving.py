"""What a slice of a followed input comes to: the bytes to append, the records rejected, and the counts.

Owns: taking a slice through reading, validation and the steps, and refusing what cannot be done slice by slice. Leaves
to `edges.tables.growing` the records, to `stages` reconciling, and to `following` when a slice counts.

Invariant: the bytes depend on the records and on what governs the run alone, so a slice that is derived again gives the
same ones; and those of two slices, one after the other, are those of both in one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.batches import Rejected
from tidewaiter.core.pipelines.steps import BLOCKING
from tidewaiter.core.pipelines.table_format import DELIMITED
from tidewaiter.core.pipelines.transforms import transform
from tidewaiter.core.pipelines.validation import Validator
from tidewaiter.edges.tables.row_text import header_line
from tidewaiter.edges.tables.writers import check_writable, rows_text
from tidewaiter.shell.pipelines.rejections import rejected_line
from tidewaiter.shell.pipelines.stages import READ, VALIDATE, Stage, reconcile

if TYPE_CHECKING:
    import polars as pl

    from tidewaiter.edges.tables.growing import RecordReader
    from tidewaiter.shell.pipelines.preparing import Governed

_ROW_BY_ROW: Final = "a followed input goes record by record: filter, derive, select, rename and cast can be used"


class Derived(Struct, frozen=True):
    """`output` is to be appended; `rejected` are in the order of the input; `stages` have the counts of the slice."""

    output: bytes
    rejected: tuple[Rejected, ...]
    records: int
    written: int
    stages: tuple[Stage, ...]

    @property
    def removed(self) -> int:
        """Records that the steps removed."""
        return sum(stage.removed for stage in self.stages)

    def rejected_lines(self) -> bytes:
        """Return the rejected records as JSON lines."""
        return b"".join(rejected_line(each, None, each.row) for each in self.rejected)


class Deriving:
    """The steps of a run, ready for any slice of its input."""

    def __init__(self, governed: Governed, reader: RecordReader) -> None:
        """Type the steps. Raises ConfigError, also for a step or a format that needs the whole input."""
        if governed.output.format not in (*DELIMITED, "jsonl") or governed.output.compression != "none":
            said = f"{governed.output.format}, compression {governed.output.compression}"
            hint = "csv, tsv and jsonl without compression can be appended to"
            raise ConfigError(f"{governed.config.output}: {said}: cannot be appended to", hint=hint)
        if governed.contract is None:
            hint = "infer one from a sample in batch mode, with --save-contract, and name it with --contract"
            raise ConfigError(
                "contract: a followed input needs one: what is still to come cannot be looked at", hint=hint
            )
        if governed.pipeline is not None:
            for number, step in enumerate(governed.pipeline.steps, 1):
                if isinstance(step, BLOCKING):
                    what = f"{governed.pipeline.file}: step {number} {step.name!r}: {step.kind}"
                    raise ConfigError(f"{what} is not possible in stream mode", hint=_ROW_BY_ROW)
        self._reader = reader
        self._form = governed.output
        self._validator = Validator(governed.contract, reader.columns, reader.schema, governed.lists)
        self._planned = governed.plan(self._validator.schema)
        self.schema = self._planned[-1].after if self._planned else self._validator.schema
        check_writable(governed.output, str(governed.config.output), self.schema)

    def beginning(self) -> Derived:
        """Return what stands before all records: the header, where there is one."""
        with_header = self._form.format in DELIMITED and self._form.header
        header = header_line(list(self.schema), delimiter=self._form.delimiter, quote=self._form.quote)
        return Derived(header if with_header else b"", (), 0, 0, self.stages())

    def derive(self, text: bytes, first_row: int) -> Derived:
        """Return what the whole records `text` come to, the first of which has the number `first_row`.

        Raises SourceHalt for a value that the output cannot hold, IntegrityRefusal where the counts do not add up.
        """
        read, validated, *steps = stages = self.stages()
        output: list[bytes] = []
        rejected: list[Rejected] = []
        for batch in self._reader.batches(text, first_row):
            read.records_in += batch.frame.height + len(batch.rejected)
            frame = _pass(read, batch, rejected)
            validated.records_in += frame.height
            frame = _pass(validated, self._validator.check(frame), rejected)
            for stage, planned in zip(steps, self._planned, strict=True):
                stage.records_in += frame.height
                frame = _pass(stage, transform(planned, frame), rejected)
            if frame.height:
                output.append(rows_text(frame, self._form, self.schema))
        written = stages[-1].records_out
        reconcile(read.records_in, list(stages), written)
        rejected.sort(key=lambda each: each.row)
        return Derived(b"".join(output), tuple(rejected), read.records_in, written, stages)

    def whole(self, text: bytes) -> int:
        """Return how many bytes at the beginning of `text` are whole records."""
        return self._reader.whole(text)

    def upto(self, text: bytes, first_row: int, row: int) -> bytes:
        """Return the records of `text` before the one with the number `row`."""
        return text[: self._reader.end_of(text, row - first_row)]

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages, with nothing counted yet."""
        steps = (
            Stage(number, planned.step.name, planned.step.kind, planned.after, hashing=None)
            for number, planned in enumerate(self._planned, 1)
        )
        return (
            Stage(-1, READ, READ, {}, hashing=None),
            Stage(0, VALIDATE, VALIDATE, self._validator.schema, hashing=None),
            *steps,
        )


def _pass(stage: Stage, found: tuple[pl.DataFrame, tuple[Rejected, ...]], rejected: list[Rejected]) -> pl.DataFrame:
    """Count what came out of a stage, keep what it rejected, and return the rows."""
    frame, refused = found
    stage.rejected += len(refused)
    stage.records_out += frame.height
    rejected += refused
    return frame
