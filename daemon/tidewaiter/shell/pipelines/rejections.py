"""What becomes of rejected records: the run halts, they are kept in a file of their own, or they are counted only.

Owns: the policy ``on_invalid``, the first rejections in words, and the order of the rejected records in their file.
Leaves to the stages which records are rejected and why, and to `edges.tables.output` how the file gets its name.

Invariant: neither the record that halts a run nor the order in the file depends on where batches end. The file holds
the rejections of the first stage in the order of its rows, then those of the second, and so on.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.errors import SourceHalt

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

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
    ) -> None:
        """`locate` says where a record of the input is; `spool` gives a directory for what memory cannot hold.

        `renumbered` are the steps whose rows are numbered anew, by an aggregate before them.
        """
        self.count = 0
        self.shown: list[str] = []
        self._policy, self._locate, self._spool = policy, locate, spool
        self._renumbered = renumbered
        self._pending: list[tuple[int, Rejected]] = []
        self._kept: dict[int, _Kept] = {}

    @property
    def keeps(self) -> bool:
        """Whether the records are to be kept."""
        return self._policy == "quarantine"

    def take(self, stage: int, rejected: tuple[Rejected, ...]) -> None:
        """Take what the stage of this number rejected, in the order of its rows."""
        if not rejected:
            return
        self.count += len(rejected)
        room = SHOWN - len(self.shown)
        if self._policy == "halt":
            self._pending += [(stage, each) for each in rejected]
            return
        self.shown += [self.in_words(each) for each in rejected[: max(room, 0)]]
        if self.keeps:
            kept = self._kept.setdefault(stage, _Kept(self._spool, stage))
            kept.add(b"".join(_encoder.encode(each) + b"\n" for each in rejected))

    def settle(self, place: Callable[[int], int | None] = lambda row: row) -> None:
        """Halt where a record was rejected: called when all stages have seen the same rows. Raises SourceHalt.

        `place` says at which place a row came, where rows do not come in the order of their numbers.
        """
        if not self._pending:
            return
        first = sorted(self._pending, key=lambda each: (place(each[1].row) or 0, each[0]))
        self.shown = [self.in_words(each) for _, each in first[:SHOWN]]
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
        """Yield what is to be kept, in pieces, in the order of the stages."""
        for stage in sorted(self._kept):
            yield from self._kept[stage].pieces()

    def close(self) -> None:
        """Let the scratch files go."""
        for kept in self._kept.values():
            kept.close()


class _Kept:
    """JSON lines of one stage: in memory as long as they are few, then in a scratch file."""

    def __init__(self, spool: Callable[[], Path], stage: int) -> None:
        self._spool, self._stage = spool, stage
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    def add(self, lines: bytes) -> None:
        self._memory += lines
        if len(self._memory) > _IN_MEMORY:
            # if we die here, the scratch file goes with its directory
            if self._file is None:
                self._file = (self._spool() / f"rejected-{self._stage}.jsonl").open("w+b")
            self._file.write(self._memory)
            self._memory.clear()

    def pieces(self) -> Iterator[bytes]:
        if self._file is not None:
            self._file.flush()
            self._file.seek(0)
            while piece := self._file.read(_PIECE):
                yield piece
        if self._memory:
            yield bytes(self._memory)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
