"""What the rules remember between events: all cells of a ruleset, and how they are copied, written and read again.

Owns: the state as a whole, the sharing of a sweep's budget, and the snapshot form. Leaves to the `state_…` rooms
the cells, to the `generating` rooms the code that fills them, to `planning` their identity, and to `core.snapshot`
the file.
"""

from __future__ import annotations

import gc
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.scenarios.state_cells import BEGINNING, Cell, CellSpec, Shelved, put_together
from tidewaiter.core.scenarios.state_keyed import DayCell, KeptCell, SinceCell
from tidewaiter.core.scenarios.state_runs import OffsetCell, RingCell, RunCell
from tidewaiter.core.scenarios.state_scenarios import AfterCell, CooldownCell, EdgeCell
from tidewaiter.core.scenarios.state_windows import CountCell, DistinctCell, LatestCell, ShiftedCell, SumCell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tidewaiter.core.scenarios.planning import Plan

FORMAT: Final = "tidewaiter.rule-state/2"
CELLS: Final[dict[str, Callable[[CellSpec], Cell]]] = {
    "count": CountCell,
    "sum": SumCell,
    "distinct": DistinctCell,
    "latest": LatestCell,
    "shifted": ShiftedCell,
    "run": RunCell,
    "offset": OffsetCell,
    "ring": RingCell,
    "since": SinceCell,
    "kept": KeptCell,
    "day": DayCell,
    "edge": EdgeCell,
    "cooldown": CooldownCell,
    "after": AfterCell,
}

SWEEP_KEYS: Final = 2_000
"""How many idle keys are looked at after each piece; a tenth of a millisecond."""


class RuleState:
    """All cells of a ruleset, by the digest of what they remember.

    `insufficient` and `silenced` count, by scenario, what was seen since they were last taken: events at which it could
    not be decided, and flags of a shadow scenario that its cooldown held back.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        """Cells in any order."""
        self.cells: dict[str, Cell] = {cell.spec.digest: cell for cell in cells}
        self.insufficient: dict[str, int] = {}
        self.silenced: dict[str, int] = {}
        self._next = 0

    def forget_some(self, effective: datetime | None) -> None:
        """Do a little of `sweep`, which who evaluates a stream does behind each piece: or idle keys are kept."""
        if effective is not None:
            self.sweep(effective, SWEEP_KEYS)

    def sweep(self, effective: datetime, budget: int) -> int:
        """Forget idle keys as of `effective`, looking at no more than `budget`; return how many were looked at.

        No later result changes, whenever and however often this is called.
        """
        cells = list(self.cells.values())
        seen = 0
        for turn in range(len(cells)):
            if seen >= budget:
                # those that had no turn come first the next time
                self._next += turn
                break
            cell = cells[(self._next + turn) % len(cells)]
            seen += cell.sweep(effective, budget - seen, self.cells)
        return seen

    def copy_ahead(self, budget: int) -> bool:
        """Copy part of what `freeze` has to, at most `budget` keys; return whether there was less than that left."""
        for cell in self.cells.values():
            budget -= cell.copy_ahead(budget)
            if budget <= 0:
                return False
        return True

    def freeze(self) -> FrozenState:
        """Return a copy as of now, to be encoded while events go on."""
        now = max((cell.shelf.now for cell in self.cells.values() if isinstance(cell, Shelved)), default=BEGINNING)
        return FrozenState([(cell, cell.start, cell.copy()) for cell in self.cells.values()], now)

    def keys(self) -> int:
        """Return how many keys are held, for tests; looks at each of them."""
        return sum(cell.keys() for cell in self.cells.values())

    def entries(self) -> int:
        """Return how many keys are held, those that stand in two places counted twice; costs nothing."""
        return sum(cell.entries() for cell in self.cells.values())


class _Header(msgspec.Struct, array_like=True):
    format: str
    cells: list[tuple[CellSpec, datetime | None]]


class _Part(msgspec.Struct, array_like=True):
    cell: int
    body: msgspec.Raw


_ENCODER: Final = msgspec.msgpack.Encoder()
_HEADER: Final = msgspec.msgpack.Decoder(_Header)
_PART: Final = msgspec.msgpack.Decoder(_Part)


class FrozenState:
    """A copy of the rule state at one position."""

    def __init__(self, cells: Sequence[tuple[Cell, datetime | None, Any]], now: datetime) -> None:
        """Cells, of which only what never changes is used, with their start and what they held at `now`."""
        self._cells, self._now = cells, now

    def encode_chunks(self) -> Iterator[bytes]:
        """Yield the state as MessagePack texts: a header, then parts of CHUNK_KEYS keys, so that no step takes long.

        Times are MessagePack timestamps: integers, exact to the microsecond, in UTC.
        """
        yield _ENCODER.encode(_Header(FORMAT, [(cell.spec, start) for cell, start, _ in self._cells]))
        for number, (cell, _, content) in enumerate(self._cells):
            for part in cell.parts(cell.without_idle(content, self._now)):
                yield _ENCODER.encode((number, part))

    @staticmethod
    def decode(chunks: Iterable[bytes]) -> RuleState:
        """Read what `encode_chunks` wrote, chunk by chunk. Raises IntegrityRefusal for anything else."""
        source = iter(chunks)
        collecting = gc.isenabled()
        gc.disable()  # nothing here becomes garbage, and a collection walks all that was read so far
        try:
            header = _HEADER.decode(next(source, b""))
            if header.format != FORMAT:
                raise IntegrityRefusal(f"rule state is {header.format!r}", hint=f"this version reads {FORMAT}")
            cells = []
            for spec, start in header.cells:
                cell = empty_cell(spec)
                cell.start = start
                cells.append(cell)
            for chunk in source:
                part = _PART.decode(chunk)
                cells[part.cell].restore(part.body)
        except (msgspec.DecodeError, LookupError, ValueError, TypeError) as error:
            raise IntegrityRefusal(f"rule state cannot be read: {error}", hint="use the older snapshot") from error
        finally:
            if collecting:
                gc.enable()
        return RuleState(cells)


def empty_cell(spec: CellSpec) -> Cell:
    """Return a cell of the kind that `spec` asks for."""
    return CELLS[spec.kind](spec)


def arranged(state: RuleState, plan: Plan) -> list[Cell]:
    """Return the cells of `state` in the order of the plan, sharing the shelves that it says."""
    cells = [state.cells[spec.digest] for spec in plan.cells]
    groups = [[cells[number] for number in record.cells] for record in plan.records]
    shared = {id(cell) for group in groups for cell in group}
    groups += [[cell] for cell in cells if id(cell) not in shared]
    for group in groups:
        members = [cell for cell in group if isinstance(cell, Shelved)]
        if members:
            put_together(members)
    return cells
