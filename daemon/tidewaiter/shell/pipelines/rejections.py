"""What becomes of rejected records: the run halts, they are kept in a file of their own, or they are counted only.

Owns: the policy ``on_invalid``, the first rejections in words, and the order of the rejected records in their file.
Leaves to the stages which records are rejected and why, and to `edges.tables.output` how the file gets its name.

Invariant: neither the record that halts a run, nor the rejections that are told in words, nor the order in the file
depends on where batches end. The file holds the rejections of the first stage in the order of its rows, then those of
the second, and so on.

A line of it is a JSON object: `row`, the number of the record in the whole input, from 1 (the first one behind the
header); `file`, as it was given, and `file_row`, its number in that file, counted in the same way (both null where the
row is one that an aggregate made, and `file` in stream mode, which has one input; ``-`` is standard
input); `column`, `problem`, `value`; `record`, its cells as texts
by column, or the raw text of what is no record; and `step`. For raw text there are `length`, in bytes of UTF-8, and
`sha256` of these bytes; of what is too long to be held, `record` is the beginning only, ``truncated`` is true and there
is no hash. Bytes that are not UTF-8 are in `record_base64` instead of `record`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidewaiter.core.errors import DurabilityError, SourceHalt
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.tables.line_blocks import RejectedText

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from tidewaiter.core.pipelines.batches import Rejected

SHOWN: Final = 10
"""So many rejections are told in words."""
_IN_MEMORY: Final = 1 << 20
_PIECE: Final = 1 << 20
_encoder: Final = msgspec.json.Encoder()


class Rejections:
    """The rejected records of a run, by stage. `count` is how many there are, `shown` the first of them in words."""

    def __init__(
        self,
        policy: str,
        locate: Callable[[int], str],
        spool: Callable[[], Path],
        renumbered: Collection[str] = (),
        *,
        place: Callable[[int], tuple[str, int]] | None = None,
        most: MostRejected | None = None,
        disk: Disk | None = None,
    ) -> None:
        """`locate` says in words where a record of the input is; `spool` gives a directory for what memory cannot hold.

        `renumbered` are the steps whose rows are numbered anew, by an aggregate before them. `place` gives file and
        number in it; `most` is how many there may be.
        """
        self.count = 0
        self._shown: dict[int, list[str]] = {}
        self._disk = disk or Disk()
        self._policy, self._locate, self._spool = policy, locate, spool
        self._renumbered = renumbered
        self._place, self._most = place, most
        self._pending: list[tuple[int, Rejected]] = []
        self._kept: dict[int, _Kept] = {}

    @property
    def keeps(self) -> bool:
        """Whether the records are to be kept."""
        return self._policy == "quarantine"

    @property
    def shown(self) -> list[str]:
        """The first rejections in words: by stage, and by row within a stage, as in the file."""
        return [words for stage in sorted(self._shown) for words in self._shown[stage]][:SHOWN]

    def take(self, stage: int, rejected: tuple[Rejected, ...]) -> None:
        """Take what the stage of this number rejected, in the order of its rows. Raises NoSpace and DurabilityError."""
        if not rejected:
            return
        self.count += len(rejected)
        if self._policy == "halt":
            self._pending += [(stage, each) for each in rejected]
            return
        shown = self._shown.setdefault(stage, [])
        shown += map(self.in_words, rejected[: SHOWN - len(shown)])
        if self.keeps:
            kept = self._kept.setdefault(stage, _Kept(self._spool, stage, self._disk))
            kept.add(b"".join(self._line(each) for each in rejected))
        if self._most is not None and self._most.number is not None and self.count > self._most.number:
            raise self._most.error()

    def check(self, records: int) -> None:
        """Fail where too many of the `records` of the input were rejected. Raises SourceHalt."""
        if self._most is not None and self._most.exceeded(self.count, records):
            raise self._most.error()

    def _line(self, rejected: Rejected) -> bytes:
        file: str | None = None
        number: int | None = None
        if self._place is not None and rejected.step not in self._renumbered:
            file, number = self._place(rejected.row)
        return rejected_line(rejected, file, number)

    def settle(self, place: Callable[[int], int | None] = lambda row: row) -> None:
        """Halt where a record was rejected: called when all stages have seen the same rows. Raises SourceHalt.

        `place` says at which place a row came, where rows do not come in the order of their numbers.
        """
        if not self._pending:
            return
        first = sorted(self._pending, key=lambda each: (place(each[1].row) or 0, each[0]))
        self._shown = {0: [self.in_words(each) for _, each in first[:SHOWN]]}
        raise SourceHalt(
            self.shown[0],
            hint="correct the record, or choose what becomes of such records: --on-invalid quarantine or drop",
        )

    def in_words(self, rejected: Rejected) -> str:
        """Return one rejection as a person reads it: file, row, column, problem, value."""
        column = "" if rejected.column is None else f"column {rejected.column}: "
        value = "" if rejected.value is None else f": {rejected.value!r}"
        anew = rejected.step in self._renumbered
        where = f"row {rejected.row} of what the aggregate gives" if anew else self._locate(rejected.row)
        return f"{where}: {column}{rejected.problem}{value} (step {rejected.step})"

    def lines(self) -> Iterator[bytes]:
        """Yield what is to be kept, in pieces, in the order of the stages. Raises DurabilityError."""
        for stage in sorted(self._kept):
            yield from self._kept[stage].pieces()

    def close(self) -> None:
        """Let the scratch files go."""
        for kept in self._kept.values():
            kept.close()


class MostRejected:
    """How many rejected records a run may have: a `number`, or a share of the records of the input, ``5%``."""

    def __init__(self, said: int | str) -> None:
        """Raises ValueError where `said` is neither."""
        self._said = str(said)
        self.number: int | None = None
        self._percent = Decimal(0)
        if re.fullmatch(r"[0-9]{1,18}", self._said):
            self.number = int(self._said)
        elif re.fullmatch(r"[0-9]{1,3}([.][0-9]{1,9})?%", self._said) and Decimal(self._said[:-1]) <= _ALL:
            self._percent = Decimal(self._said[:-1])
        else:
            raise ValueError(self._said)

    def exceeded(self, rejected: int, records: int) -> bool:
        """Return whether `rejected` of `records` are more than that."""
        return rejected > self.number if self.number is not None else rejected * _ALL > self._percent * records

    def error(self) -> SourceHalt:
        """Return what is said then; the same whatever the batches."""
        return SourceHalt(
            f"more than {self._said} of the records were rejected: the output would not be what it should",
            hint="look at the input, or allow more: --max-rejected",
        )


_ALL: Final = Decimal(100)


def rejected_line(rejected: Rejected, file: str | None, file_row: int | None) -> bytes:
    """Return a rejected record as a line of the file of rejected records."""
    line: dict[str, Any] = {
        "row": rejected.row, "file": file, "file_row": file_row,
        "column": rejected.column, "problem": rejected.problem, "value": rejected.value, "record": rejected.record,
        "step": rejected.step,
    }  # fmt: skip
    if isinstance(rejected, RejectedText):
        line["length"] = rejected.length
        if rejected.length > len(rejected.raw):
            line["truncated"] = True
        else:
            line["sha256"] = hashlib.sha256(rejected.raw).hexdigest()
        if not rejected.is_text:
            del line["record"]
            line["record_base64"] = base64.b64encode(rejected.raw).decode()
    return _encoder.encode(line) + b"\n"


def is_ours(beginning: bytes) -> bool:
    """Return whether a file that begins like this is one of rejected records."""
    return re.match(rb'\{"row":[0-9]+,"(file|column)":.*"problem":"', beginning) is not None


class _Kept:
    """JSON lines of one stage: in memory as long as they are few, then in a scratch file."""

    def __init__(self, spool: Callable[[], Path], stage: int, disk: Disk) -> None:
        self._spool, self._stage, self._disk = spool, stage, disk
        self._memory = bytearray()
        self._path = Path()
        self._fd = -1
        self._size = 0

    def add(self, lines: bytes) -> None:
        self._memory += lines
        if len(self._memory) > _IN_MEMORY:
            # if we die here, the scratch file goes with its directory
            if self._fd < 0:
                self._path = self._spool() / f"rejected-{self._stage}.jsonl"
                self._fd = self._disk.open(self._path)
            self._disk.write_at(self._fd, bytes(self._memory), self._size, self._path)
            self._size += len(self._memory)
            self._memory.clear()

    def pieces(self) -> Iterator[bytes]:
        for at in range(0, self._size, _PIECE):
            try:
                piece = os.pread(self._fd, _PIECE, at)
            except OSError as error:
                problem = f"{self._path}: cannot be read back: {error.strerror}"
                raise DurabilityError(problem, hint="check the disk, then run it again") from error
            yield piece
        if self._memory:
            yield bytes(self._memory)

    def close(self) -> None:
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1
