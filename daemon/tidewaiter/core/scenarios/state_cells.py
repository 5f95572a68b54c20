"""What all cells have in common: their specification, how idle keys are forgotten, and how keys go into a snapshot.

Owns: `CellSpec`, the interface `Cell`, `Generations`, the base of every cell whose keys matter for a limited time, and
the `Shelf` on which such cells keep them. Leaves to `state_windows`, `state_runs`, `state_keyed` and `state_scenarios`
what is kept for a key, to `planning` which cells share a shelf, and to `state` the whole of it.

Idle keys go by generations: `young` holds the keys touched since the last turn, `old` those before it. When more than
`reach` (the window, or whatever else makes a key matter) has passed since a turn, everything in `old` means nothing any
more and is dropped as a whole. So a key costs memory (and cache) only while it matters; `sweep` frees what was dropped
bit by bit. Turns happen between evaluations only: no result depends on when, for what is dropped has no effect.

A cell has a shelf of its own, or shares one with others by the same fields: then a key has one record, a list with a
place for each of the cells (None for nothing), so that an event finds all that is kept for its key with one look, in
one place of memory. A record matters as long as any of its places does.

Invariants: every time in `old` was effective at or before the last turn; `deadline` is the last turn plus the reach;
neither turning nor sweeping changes any result. Times never go back. A record is the same object in both halves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

SMALL: Final = 2048  # a cell with so few keys is in the processor's cache anyway and is not turned
PURGE_WINDOWS: Final = 16  # how often, in windows, the few keys of small cells and latches are looked through
CHUNK_KEYS: Final = 2000
BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
END: Final = datetime.max.replace(tzinfo=UTC)

Key = str | tuple[str, ...]  # of one field, or of several
Value = bool | int | str  # of an aggregated field


def later(time: datetime, span: timedelta) -> datetime:
    """Return `time` and `span` together; the end of the calendar where it would be beyond it."""
    try:
        return time + span
    except OverflowError:
        return END


@dataclass(frozen=True)
class CellSpec:
    """State to be kept. Durations in microseconds, `utc_offset` in seconds; 0 for none.

    `kind` names the class of the cell (`state.CELLS`), `fn` the aggregate; `idle_with` see `state_scenarios.EdgeCell`.
    """

    kind: str
    digest: str
    label: str
    fn: str = ""
    window: int = 0
    offset: int = 0
    last: int = 0
    cap: int = 0
    warmup: int = 0
    utc_offset: int = 0
    idle_with: str = ""


class Cell(ABC):
    """What is remembered under one digest. `start` is the effective time of the first event it could see."""

    __slots__ = ("spec", "start")

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        self.spec = spec
        self.start: datetime | None = None

    def begin(self, time: datetime) -> None:
        """Prepare for events from `time` on."""
        if self.start is None:
            self.start = time

    def sweep(self, effective: datetime, budget: int, cells: Mapping[str, Cell]) -> int:  # noqa: ARG002 - see below
        """Forget what means nothing any more, looking at no more than `budget` keys; return how many were looked at.

        Here: everything matters for ever.
        """
        return 0

    def is_idle(self, key: Key, effective: datetime) -> bool:  # noqa: ARG002 - see below
        """Whether what is kept for `key` means nothing any more. Here: never."""
        return False

    @abstractmethod
    def keys(self) -> int:
        """Return how many keys are held."""

    @abstractmethod
    def copy(self) -> Any:  # noqa: ANN401 - each cell its own
        """Return what is held; later events do not show in it."""

    @abstractmethod
    def parts(self, content: Any) -> Iterator[Any]:  # noqa: ANN401 - each cell its own
        """Yield what `copy` returned as MessagePack-able values of at most CHUNK_KEYS keys each."""

    @abstractmethod
    def restore(self, part: msgspec.Raw) -> None:
        """Take back one of the `parts`. Raises msgspec.DecodeError or ValueError for anything else."""


class Keyed(Cell):
    """A cell that keeps something for each key, packed into the type `packed` for a snapshot."""

    __slots__ = ()
    packed: ClassVar[Any]
    _decoders: ClassVar[dict[Any, msgspec.msgpack.Decoder[Any]]] = {}

    def pack(self, held: Any) -> Any:  # noqa: ANN401 - each cell its own
        """Return what is kept for one key as MessagePack can say it."""
        return held

    def unpack(self, packed: Any) -> Any:  # noqa: ANN401 - each cell its own
        """Return what `pack` was given. Raises ValueError for what cannot be."""
        return packed

    @abstractmethod
    def insert(self, key: Any, held: Any) -> None:  # noqa: ANN401 - each cell its own
        """Keep `held` for `key`."""

    def parts(self, content: dict[Any, Any]) -> Iterator[Any]:
        """Yield (keys, what is kept for each of them)."""
        keys = iter(content)
        pack = self.pack
        while some := list(islice(keys, CHUNK_KEYS)):
            yield some, [pack(content[key]) for key in some]

    def restore(self, part: msgspec.Raw) -> None:
        """Take back a part."""
        kind = type(self)
        decoder = self._decoders.get(kind)
        if decoder is None:
            form: Any = tuple[list[str | tuple[str, ...]], list[kind.packed]]  # type: ignore[name-defined]
            decoder = self._decoders[kind] = msgspec.msgpack.Decoder(form)
        keys, held = decoder.decode(part)
        for key, packed in zip(keys, held, strict=True):
            self.insert(key, self.unpack(packed))


class Shelf:
    """What one cell, or several together, keep by key; see the module's head."""

    __slots__ = ("_dead", "_pending", "_purged", "cells", "deadline", "now", "old", "reach", "young")

    def __init__(self, *cells: Generations) -> None:
        """Hold nothing yet. With one cell, what stands under a key is its own; with several, a record."""
        self.cells = cells
        self.reach = max(cell.reach for cell in cells)
        self.young: dict[Any, Any] = {}
        self.old: dict[Any, Any] = {}
        self.deadline = self.now = BEGINNING  # `now`: when the newest batch began
        self._dead: list[dict[Any, Any]] = []
        self._pending: list[Any] = []
        self._purged = BEGINNING

    def begin(self, time: datetime) -> None:
        """Begin a new generation at `time` if it is past the deadline."""
        self.now = time
        if time > self.deadline:
            self._turn(time)

    def _turn(self, time: datetime) -> None:
        if self.old:
            self._dead = [*self._dead[-2:], self.old]  # freed bit by bit by `sweep`; at once if nobody sweeps
        if len(self.young) <= SMALL:
            self.old = {}
        else:
            self.old, self.young, self._pending = self.young, {}, []
        self.deadline = later(time, self.reach)

    def sweep(self, effective: datetime, budget: int) -> int:
        """Free dropped keys, and drop idle ones if there are few; return how many were looked at."""
        seen = 0
        while self._dead and seen < budget:
            dead = self._dead[0]
            if len(dead) <= budget - seen:
                seen += len(self._dead.pop(0))
            else:
                for _ in range(budget - seen):
                    dead.popitem()
                seen = budget
        if seen >= budget:
            return seen
        if effective > self.deadline:
            self._turn(effective)
        if not self._pending and len(self.young) <= SMALL and effective - self._purged > PURGE_WINDOWS * self.reach:
            self._purged, self._pending = effective, list(self.young)
        young, touched = self.young, self.cells[0].touched if len(self.cells) == 1 else self._touched
        while self._pending and seen < budget:
            key = self._pending.pop()
            held = young.get(key)
            seen += 1
            if held is not None and effective - touched(held) > self.reach:
                del young[key]
        return seen

    def _touched(self, record: list[Any]) -> datetime:
        times = [cell.touched(held) for cell, held in zip(self.cells, record, strict=True) if held is not None]
        return max(times, default=BEGINNING)

    def find(self, key: Hashable) -> Any:  # noqa: ANN401 - each cell its own
        """Return what stands under `key`, None for nothing."""
        found = self.young.get(key)
        return self.old.get(key) if found is None else found

    def put(self, key: Any, slot: int | None, held: Any) -> None:  # noqa: ANN401 - each cell its own
        """Keep `held` for the cell at `slot` (None: the only one); it counts as old from the next turn on."""
        if slot is None:
            self.young[key] = held
            return
        record = self.find(key) or [None] * len(self.cells)
        self.young[key] = record
        record[slot] = held

    def content(self, slot: int | None) -> dict[Any, Any]:
        """Return what the cell at `slot` keeps by key, in a dictionary of its own."""
        everything = {**self.old, **self.young}
        if slot is None:
            return everything
        return {key: record[slot] for key, record in everything.items() if record[slot] is not None}


class Generations(Keyed):
    """A cell whose keys matter for `reach` after they were last touched; see the module's head."""

    __slots__ = ("reach", "shelf", "slot")

    def __init__(self, spec: CellSpec, reach: int) -> None:
        """`reach` in microseconds."""
        super().__init__(spec)
        self.reach = timedelta(microseconds=reach)
        self.shelf = Shelf(self)
        self.slot: int | None = None

    @abstractmethod
    def touched(self, held: Any) -> datetime:  # noqa: ANN401 - each cell its own
        """Return the time from which on the reach of `held` is counted."""

    def copied(self, held: dict[Any, Any]) -> dict[Any, Any]:
        """Return `held`, a dictionary of its own, with what can change in it replaced by copies."""
        return held

    def begin(self, time: datetime) -> None:
        """Prepare for events from `time` on."""
        super().begin(time)
        self.shelf.begin(time)

    def sweep(self, effective: datetime, budget: int, cells: Mapping[str, Cell]) -> int:  # noqa: ARG002 - its own suffice
        """Free dropped keys, and drop idle ones of a small cell; of those that share a shelf, the first does it."""
        return 0 if self.slot else self.shelf.sweep(effective, budget)

    def find(self, key: Hashable) -> Any:  # noqa: ANN401 - each cell its own
        """Return what is kept for `key`, None for nothing."""
        found = self.shelf.find(key)
        return found if found is None or self.slot is None else found[self.slot]

    def is_idle(self, key: Key, effective: datetime) -> bool:
        """Whether what is kept for `key` means nothing any more."""
        held = self.find(key)
        return held is None or effective - self.touched(held) > self.reach

    def keys(self) -> int:
        """Return how many keys are held."""
        return len(self.shelf.content(self.slot))

    def copy(self) -> dict[Any, Any]:
        """Return what is held; later events do not show in it. In a shared record, what is idle is left out."""
        content = self.shelf.content(self.slot)
        if self.slot is not None:
            touched, reach, now = self.touched, self.reach, self.shelf.now
            content = {key: held for key, held in content.items() if now - touched(held) <= reach}
        return self.copied(content)

    def insert(self, key: Any, held: Any) -> None:  # noqa: ANN401 - each cell its own
        """Keep `held` for `key`; it counts as old from the next turn on."""
        self.shelf.put(key, self.slot, held)


def put_together(cells: Sequence[Generations]) -> None:
    """Let `cells` share a shelf, or the only one have its own; takes a look at each key unless it is so already."""
    if cells[0].shelf.cells == tuple(cells):
        return
    shelf = Shelf(*cells)
    slots: list[int | None] = [None] if len(cells) == 1 else list(range(len(cells)))
    for cell, slot in zip(cells, slots, strict=True):
        for key, held in cell.shelf.content(cell.slot).items():
            shelf.put(key, slot, held)
        cell.shelf, cell.slot = shelf, slot
