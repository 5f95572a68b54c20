"""The stages of a run: each counts what goes in and out of it, and may hash the rows that come out.

Owns: the counts and their reconciliation, and the thread that hashes. Leaves to `running` the order of the stages, to
`rejections` what becomes of a rejected record, and to `edges.tables.digest` what is hashed.

Invariants:
- For each stage, in = out + removed + rejected; what goes into a stage came out of the one before. Anything else is a
  defect of this program: IntegrityRefusal, and no output.
- Only a step that is there to remove rows removes any. None adds any, but for the one row that an aggregate by nothing
  makes of no rows.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final, Self

from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.edges.tables.digest import StageDigest
from tidewaiter.shell.pipelines.facts import StepFacts

if TYPE_CHECKING:
    from types import TracebackType

    import polars as pl

    from tidewaiter.core.pipelines.columns import Schema
    from tidewaiter.shell.pipelines.facts import TableFacts

READ: Final = "read"
VALIDATE: Final = "validate"
_REMOVING: Final = ("filter", "deduplicate", "join", "aggregate")
"""Kinds of steps after which there may be fewer rows without one being rejected."""
_WAITING: Final = 2
"""Frames that may wait to be hashed: what bounds the memory."""


class Hashing:
    """A thread that hashes frames in the order they come: SHA-256 lets other threads run meanwhile."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[StageDigest, pl.DataFrame] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="stage-digests", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join()

    def take(self, digest: StageDigest, frame: pl.DataFrame) -> None:
        """Hash `frame` soon. Raises what an earlier one raised."""
        self._raise()
        self._queue.put((digest, frame))

    def finish(self) -> None:
        """Wait until everything is hashed. Raises what that raised."""
        self._queue.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            digest, frame = job
            try:
                if self._error is None:
                    digest.update(frame)
            except BaseException as error:  # noqa: BLE001 - told to whoever waits
                self._error = error
            finally:
                del job, frame
                self._queue.task_done()
        self._queue.task_done()


class Stage:
    """The validation or one step: counts in records, and the digest of the rows that came out."""

    def __init__(
        self,
        number: int,
        name: str,
        kind: str,
        schema: Schema,
        *,
        hashing: Hashing | None,
        says: str = "",
        files: tuple[TableFacts, ...] = (),
        one_of_none: bool = False,
    ) -> None:
        """`schema` is that of the rows that come out; without `hashing` they are not hashed.

        `one_of_none` says that of no rows there comes one: the step is an aggregate by nothing.
        """
        self.number, self.name, self.kind, self.schema = number, name, kind, schema
        self.records_in = self.records_out = self.rejected = 0
        self._one_of_none = one_of_none
        self.says, self.files = says, files
        self._hashing = hashing
        self._digest = None if hashing is None else StageDigest(schema)

    def came_out(self, frame: pl.DataFrame) -> None:
        """Count, and hash, rows that came out."""
        self.records_out += frame.height
        if self._hashing is not None and self._digest is not None and frame.height:
            self._hashing.take(self._digest, frame)

    @property
    def made(self) -> int:
        """Records that came out of nothing: the one of an aggregate by nothing that no record came into."""
        return int(self._one_of_none and (self.records_in, self.records_out) == (0, 1))

    @property
    def removed(self) -> int:
        """Records that came in, did not come out, and were not rejected."""
        return self.records_in + self.made - self.records_out - self.rejected

    def facts(self, hash_before: str) -> StepFacts:
        """Return what there is to tell, when all rows have come out."""
        return StepFacts(
            number=self.number,
            name=self.name,
            kind=self.kind,
            records_in=self.records_in,
            records_out=self.records_out,
            removed=self.removed,
            rejected=self.rejected,
            hash_before=hash_before,
            hash_after="" if self._digest is None else self._digest.hexdigest(),
            says=self.says,
            columns=columns_of(self.schema),
            files=self.files,
        )

    def reconcile(self, came_in: int) -> None:
        """Check the counts; `came_in` is what the stage before says it let out. Raises IntegrityRefusal."""
        if self.records_in != came_in:
            raise _lost(self.name, f"{came_in} records were let in, {self.records_in} arrived")
        if self.removed < 0 or (self.removed and self.kind not in _REMOVING):
            counts = f"{self.records_in} in, {self.records_out} out, {self.rejected} rejected"
            raise _lost(self.name, f"{counts}: {abs(self.removed)} {'lost' if self.removed > 0 else 'too many'}")


def reconcile(read: int, stages: list[Stage], written: int) -> None:
    """Check each stage against the one before, and the whole: records `read` and `written`. Raises IntegrityRefusal."""
    out = read
    for stage in stages:
        stage.reconcile(out)
        out = stage.records_out
    if out != written:
        raise _lost("write", f"{out} records came to the output, {written} were written")
    gone = sum(stage.removed + stage.rejected for stage in stages)
    made = sum(stage.made for stage in stages)
    if read + made != written + gone:
        raise _lost("the run", f"{read} records read, {written} written, {gone} removed or rejected")


def columns_of(schema: Schema) -> tuple[tuple[str, str], ...]:
    """Return names and types as text."""
    return tuple((name, str(column)) for name, column in schema.items())


def _lost(where: str, what: str) -> IntegrityRefusal:
    return IntegrityRefusal(
        f"{where}: the records do not add up: {what}; nothing was put in place",
        hint="this is a defect of tidewaiter: please report it with the pipeline file",
    )
