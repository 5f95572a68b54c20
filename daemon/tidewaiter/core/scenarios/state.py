"""What the scenarios remember between events, and how it is copied, written and read again.

Owns: the cells, their snapshot form, and the forgetting of idle keys. Leaves to `generating` the code that fills them,
to `planning` their identity, and to `core.snapshot` the file.

A count cell keeps, per key, the times of the events within the window: a bare datetime for one, a pair for two, a list
for more, a deque beyond LIST_LIMIT. One or two are the rule, and cost 90 and 230 bytes with the key; a deque drops
expired times from its front in constant time, so the cost of an event does not grow with the window.

Idle keys go by generations: `young` holds the keys touched since the last turn, `old` those before it. At the first
event more than one window after a turn, everything in `old` has left the window and is dropped as a whole. So a key
costs memory (and cache) only while it matters; `sweep` frees what was dropped bit by bit.

Invariants: every time in `old` was effective before the last turn; `deadline` is the last turn plus the window; neither
turning nor sweeping changes any count. Times never go back.
"""

from __future__ import annotations

import gc
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.scenarios.planning import CellSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LIST_LIMIT: Final = 32
SMALL: Final = 2048  # a cell with so few keys is in the processor's cache anyway and is not turned
PURGE_WINDOWS: Final = 16  # how often, in windows, the few keys of small cells and latches are looked through
CHUNK_KEYS: Final = 2000
FORMAT: Final = "tidewaiter.rule-state/1"

Held = datetime | tuple[datetime, datetime] | list[datetime] | deque[datetime]
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
_END: Final = datetime.max.replace(tzinfo=UTC)


def _last(held: Held) -> datetime:
    return held if isinstance(held, datetime) else held[-1]


class CountCell:
    """The times of a metric's events by key; `window` is inclusive."""

    __slots__ = ("_dead", "_pending", "_purged", "deadline", "old", "spec", "window", "young")

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        self.spec = spec
        self.window = timedelta(seconds=spec.window)
        self.young: dict[str, Held] = {}
        self.old: dict[str, Held] = {}
        self.deadline = _BEGINNING
        self._dead: list[dict[str, Held]] = []
        self._pending: list[str] = []
        self._purged = _BEGINNING

    def turn(self, time: datetime) -> tuple[dict[str, Held], dict[str, Held], datetime]:
        """Begin a new generation at `time`, which is past the deadline; return young, old and deadline."""
        if self.old:
            self._dead = [*self._dead[-2:], self.old]  # freed bit by bit by `sweep`; at once if nobody sweeps
        if len(self.young) <= SMALL:
            self.old = {}
        else:
            self.old, self.young, self._pending = self.young, {}, []
        try:
            self.deadline = time + self.window
        except OverflowError:  # no later time can be told from this one
            self.deadline = _END
        return self.young, self.old, self.deadline

    def sweep(self, effective: datetime, budget: int) -> int:
        """Free dropped keys and drop idle ones of a small cell, looking at no more than `budget`; return how many."""
        seen = 0
        while self._dead and seen < budget:
            if len(self._dead[0]) <= budget - seen:
                seen += len(self._dead.pop(0))
            else:
                self._dead[0].popitem()
                seen += 1
        if seen >= budget:
            return seen
        if effective > self.deadline:
            self.turn(effective)
        if not self._pending and len(self.young) <= SMALL and effective - self._purged > PURGE_WINDOWS * self.window:
            self._purged, self._pending = effective, list(self.young)
        young = self.young
        while self._pending and seen < budget:
            key = self._pending.pop()
            held = young.get(key)
            seen += 1
            if held is not None and effective - _last(held) > self.window:
                del young[key]
        return seen

    def is_idle(self, key: str, effective: datetime) -> bool:
        """Whether nothing of `key` is within the window any more."""
        held = self.young.get(key) or self.old.get(key)
        return held is None or effective - _last(held) > self.window

    def copy(self) -> dict[str, Held]:
        """Return what is held; later events do not show in it."""
        held = {**self.old, **self.young}
        for key, value in held.items():
            if value.__class__ is list or value.__class__ is deque:
                held[key] = list(value)
        return held

    def restore(self, part: _Part) -> None:
        """Take back a part of what a copy held; all of it counts as old from the next turn on."""
        self.young.update(zip(part.one, part.one_held, strict=True))
        self.young.update(zip(part.two, part.two_held, strict=True))
        many = [deque(held) if len(held) > LIST_LIMIT else held for held in part.many_held]
        if not all(many):
            raise ValueError("a key without times")
        self.young.update(zip(part.many, many, strict=True))


class EdgeCell:
    """The subjects of a `repeat = "edge"` scenario that were flagged and not yet re-armed.

    `spec.idle_with` names the count cell whose idleness makes a latch meaningless: the next event that is looked at
    would re-arm it anyway (proved by `planning`).
    """

    __slots__ = ("_pending", "_swept", "latched", "spec")

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        self.spec = spec
        self.latched: set[str] = set()
        self._pending: list[str] = []
        self._swept = _BEGINNING

    def sweep(self, effective: datetime, budget: int, count: CountCell | None) -> int:
        """Forget latches that mean nothing any more, looking at no more than `budget`; return how many were."""
        if count is None:
            return 0
        if not self._pending and self.latched and effective - self._swept > PURGE_WINDOWS * count.window:
            self._swept, self._pending = effective, list(self.latched)
        seen = 0
        while self._pending and seen < budget:
            key = self._pending.pop()
            seen += 1
            if count.is_idle(key, effective):
                self.latched.discard(key)
        return seen

    def copy(self) -> set[str]:
        """Return the latched subjects; later events do not show in it."""
        return self.latched.copy()

    def restore(self, part: _Part) -> None:
        """Take back a part of what a copy held."""
        self.latched.update(part.latched)


class RuleState:
    """All cells of a ruleset, by the digest of what they remember."""

    def __init__(self, cells: Iterable[CountCell | EdgeCell]) -> None:
        """Cells in any order."""
        self.cells: dict[str, CountCell | EdgeCell] = {cell.spec.digest: cell for cell in cells}
        self._next = 0

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
            if isinstance(cell, CountCell):
                seen += cell.sweep(effective, budget - seen)
            else:
                count = self.cells.get(cell.spec.idle_with)
                seen += cell.sweep(effective, budget - seen, count if isinstance(count, CountCell) else None)
        return seen

    def freeze(self) -> FrozenState:
        """Return a copy as of now, to be encoded while events go on (about 0.1 microseconds per key)."""
        return FrozenState([(cell.spec, cell.copy()) for cell in self.cells.values()])

    def keys(self) -> int:
        """Return how many keys are held, for status and tests."""
        return sum(
            len({**cell.old, **cell.young}) if isinstance(cell, CountCell) else len(cell.latched)
            for cell in self.cells.values()
        )


class _Header(msgspec.Struct, array_like=True):
    format: str
    cells: list[tuple[str, str, str, int, str]]


class _Part(msgspec.Struct, array_like=True):
    """A part of one cell. Keys with one, two and more times apart, so that the decoder makes what the cell holds."""

    cell: int
    latched: list[str] = []
    one: list[str] = []
    one_held: list[datetime] = []
    two: list[str] = []
    two_held: list[tuple[datetime, datetime]] = []
    many: list[str] = []
    many_held: list[list[datetime]] = []


_ENCODER: Final = msgspec.msgpack.Encoder()
_HEADER: Final = msgspec.msgpack.Decoder(_Header)
_PART: Final = msgspec.msgpack.Decoder(_Part)


class FrozenState:
    """A copy of the rule state at one position."""

    def __init__(self, cells: Sequence[tuple[CellSpec, dict[str, Held] | set[str]]]) -> None:
        """Cells with what they held."""
        self._cells = cells

    def encode_chunks(self) -> Iterator[bytes]:
        """Yield the state as MessagePack texts: a header, then parts of CHUNK_KEYS keys, so that no step takes long.

        Times are MessagePack timestamps: integers, exact to the microsecond, in UTC.
        """
        specs = [(spec.kind, spec.digest, spec.label, spec.window, spec.idle_with) for spec, _ in self._cells]
        yield _ENCODER.encode(_Header(FORMAT, specs))
        for number, (_, content) in enumerate(self._cells):
            keys = iter(content)
            while part := list(islice(keys, CHUNK_KEYS)):
                yield _ENCODER.encode(_part_of(number, part, content))

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
            cells = [empty_cell(CellSpec(*fields)) for fields in header.cells]
            for chunk in source:
                part = _PART.decode(chunk)
                cells[part.cell].restore(part)
        except (msgspec.DecodeError, IndexError, ValueError) as error:
            raise IntegrityRefusal(f"rule state cannot be read: {error}", hint="use the older snapshot") from error
        finally:
            if collecting:
                gc.enable()
        return RuleState(cells)


def empty_cell(spec: CellSpec) -> CountCell | EdgeCell:
    """Return a cell of the kind that `spec` asks for."""
    return CountCell(spec) if spec.kind == "count" else EdgeCell(spec)


def _part_of(number: int, keys: list[str], content: dict[str, Held] | set[str]) -> _Part:
    if isinstance(content, set):
        return _Part(number, latched=keys)
    part = _Part(number)
    for key in keys:
        held = content[key]
        if isinstance(held, datetime):
            part.one.append(key)
            part.one_held.append(held)
        elif isinstance(held, tuple):
            part.two.append(key)
            part.two_held.append(held)
        else:
            part.many.append(key)
            part.many_held.append(list(held))
    return part
