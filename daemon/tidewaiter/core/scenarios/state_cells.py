"""What all cells have in common: their specification, how idle keys are forgotten, and how keys go into a snapshot.

Owns: `CellSpec`, the interface `Cell`, the bases of cells whose keys matter for ever (`Shelved`) or for a limited time
(`Generations`), and the `Shelf` on which such cells keep them. Leaves to `state_windows`, `state_runs`, `state_keyed`
and `state_scenarios` what is kept for a key, to `planning` which cells share a shelf, and to `state` the whole of it.

Idle keys go by generations: `young` holds the keys touched since the last turn, `old` those before it. When more than
`reach` (the window, or whatever else makes a key matter) has passed since a turn, everything in `old` means nothing any
more and is dropped as a whole. So a key costs memory (and cache) only while it matters; `sweep` frees what was dropped
bit by bit. Turns happen between evaluations only: no result depends on when, for what is dropped has no effect.

A cell has a shelf of its own, or shares one with others by the same fields: then a key has one record, a list with a
place for each of the cells (None for nothing), so that an event finds all that is kept for its key with one look, in
one place of memory. A record matters as long as any of its places does. Where some matter for ever, their places come
last and there are no generations: of a key that is idle otherwise the sweep keeps only these, at rest in `resting`.

Invariants: every time in `old` was effective at or before the last turn; `deadline` is the last turn plus the reach;
neither turning nor sweeping changes any result. Times never go back. A record is the same object in both halves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import compress, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

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

    def entries(self) -> int:
        """Return how many keys are held at most; costs nothing."""
        return self.keys()

    def copy_ahead(self, budget: int) -> int:  # noqa: ARG002 - see below
        """Copy some of what the next `copy` returns, at most `budget` keys; return how many. Here: nothing."""
        return 0

    @abstractmethod
    def copy(self) -> Any:  # noqa: ANN401 - each cell its own
        """Return what is held; later events do not show in it."""

    def without_idle(self, content: Any, now: datetime) -> Any:  # noqa: ANN401, ARG002 - each cell its own
        """Return what `copy` returned without what means nothing any more at `now`. Here: all of it."""
        return content

    @abstractmethod
    def parts(self, content: Any) -> Iterator[Any]:  # noqa: ANN401 - each cell its own
        """Yield what `copy` returned as MessagePack-able values of at most CHUNK_KEYS keys each."""

    @abstractmethod
    def restore(self, part: msgspec.Raw) -> None:
        """Take back one of the `parts`. Raises msgspec.DecodeError or ValueError for anything else."""


Half = tuple[list[Any], list[Any]]  # keys, and what is held for each of them


def pieces(keys: Iterable[Any], held: Iterable[Any]) -> Iterator[Half]:
    """Yield keys and what is held for them, CHUNK_KEYS at a time."""
    keys, held = iter(keys), iter(held)
    while some := list(islice(keys, CHUNK_KEYS)):
        yield some, list(islice(held, CHUNK_KEYS))


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

    def part(self, keys: list[Any], held: list[Any]) -> Any:  # noqa: ANN401 - each cell its own
        """Return keys, and what is kept for each of them, as `restore` takes them back."""
        return keys, list(map(self.pack, held))

    def parts(self, content: Any) -> Iterator[Any]:  # noqa: ANN401 - what `copy` returned
        """Yield what `part` makes of the keys."""
        for keys, held in pieces(content, content.values()):
            yield self.part(keys, held)

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

    __slots__ = (
        "_dead", "_limited", "_pending", "_purged", "cells", "deadline", "now", "old", "reach", "resting", "young",
    )  # fmt: skip

    def __init__(self, *cells: Shelved) -> None:
        """Hold nothing yet. With one cell, what stands under a key is its own; with several, a record."""
        self.cells = cells
        self._limited = [cell for cell in cells if isinstance(cell, Generations)]
        self.reach = max((cell.reach for cell in self._limited), default=timedelta.max)
        self.young: dict[Any, Any] = {}
        self.old: dict[Any, Any] = {}
        self.resting: dict[Any, tuple[Any, ...]] = {}
        self.now = BEGINNING  # when the newest batch began
        self.deadline = BEGINNING if len(self._limited) == len(cells) else END
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
        if len(self._limited) < len(self.cells):
            return self._rest(effective, budget) if self._limited else 0
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
        young, touched = self.young, self._limited[0].touched if len(self.cells) == 1 else self._touched
        while self._pending and seen < budget:
            key = self._pending.pop()
            held = young.get(key)
            seen += 1
            if held is not None and effective - touched(held) > self.reach:
                del young[key]
        return seen

    def _touched(self, record: list[Any]) -> datetime:
        """Return the newest time in a record."""
        held = zip(self._limited, record, strict=False)  # places that matter for ever come last
        return max([cell.touched(each) for cell, each in held if each is not None], default=BEGINNING)

    def _rest(self, effective: datetime, budget: int) -> int:
        """Keep of idle records only what matters for ever; return how many were looked at."""
        if not self._pending and effective - self._purged > self.reach:
            self._purged, self._pending = effective, list(self.young)
        young, limited, seen = self.young, len(self._limited), 0
        while self._pending and seen < budget:
            key = self._pending.pop()
            record = young[key]
            seen += 1
            if effective - self._touched(record) > self.reach:
                self.resting[key] = tuple(record[limited:])
                del young[key]
        return seen

    def find(self, key: Hashable) -> Any:  # noqa: ANN401 - each cell its own
        """Return what stands under `key` in one of the halves, None for nothing."""
        found = self.young.get(key)
        return self.old.get(key) if found is None else found

    def held(self, key: Hashable, slot: int | None) -> Any:  # noqa: ANN401 - each cell its own
        """Return what the cell at `slot` (None: the only one) keeps for `key`, None for nothing."""
        found = self.find(key)
        if slot is None:
            return found
        if found is not None:
            return found[slot]
        place = slot - len(self._limited)
        return self.resting[key][place] if place >= 0 and key in self.resting else None

    def record(self, key: Hashable) -> list[Any]:
        """Return the record of a key, which stands in the young half from now on."""
        record: list[Any] | None = self.find(key)
        if record is None:
            lasting = self.resting.pop(key, None) or [None] * (len(self.cells) - len(self._limited))
            record = [*[None] * len(self._limited), *lasting]
        self.young[key] = record
        return record

    def put(self, key: Any, slot: int | None, held: Any) -> None:  # noqa: ANN401 - each cell its own
        """Keep `held` for the cell at `slot`; it counts as old from the next turn on."""
        if slot is None:
            self.young[key] = held
        else:
            self.record(key)[slot] = held

    def content(self, slot: int | None) -> dict[Any, Any]:
        """Return what the cell at `slot` keeps by key, in a dictionary of its own."""
        everything = {**self.old, **self.young}
        keys, held = _column(everything, everything.values(), slot)
        idle_keys, idle = self.at_rest(slot)
        return dict(zip(keys + idle_keys, held + idle, strict=True))

    def newer(self, slot: int | None) -> Half:
        """Return what the cell at `slot` keeps by key in the young half."""
        return _column(self.young, self.young.values(), slot)

    def at_rest(self, slot: int | None) -> Half:
        """Return what the cell at `slot` keeps by key of records that are idle."""
        if slot is None or slot < len(self._limited):
            return [], []
        return _column(self.resting, self.resting.values(), slot - len(self._limited))


def _column(keys: Iterable[Any], held: Iterable[Any], slot: int | None) -> Half:
    """Return keys and what stands under them; with a `slot` what their records have there, if anything."""
    if slot is None:
        return list(keys), list(held)
    column = list(map(itemgetter(slot), held))
    there = [each is not None for each in column]
    return list(compress(keys, there)), list(compress(column, there))


class _Ahead:
    """What was copied so far of the old half `of` of a shelf."""

    __slots__ = ("_held", "_keys", "_slot", "half", "of")

    def __init__(self, of: dict[Any, Any], slot: int | None) -> None:
        self.of = of
        self.half: Half = ([], [])
        self._slot = slot
        self._keys, self._held = iter(of), iter(of.values())

    def go_on(self, budget: int, copied: Callable[[list[Any]], list[Any]]) -> int:
        """Copy up to so many keys more; return how many were looked at."""
        some = list(islice(self._keys, budget))
        keys, held = _column(some, islice(self._held, budget), self._slot)
        self.half[0].extend(keys)
        self.half[1].extend(copied(held))
        return len(some)


class Shelved(Keyed):
    """A cell that keeps its keys on a shelf; here: for ever."""

    __slots__ = ("_ahead", "shelf", "slot")
    consumed: ClassVar[bool] = False  # whether events take keys away, from either half

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec)
        self.shelf = Shelf(self)
        self.slot: int | None = None
        self._ahead: _Ahead | None = None

    def find(self, key: Hashable) -> Any:  # noqa: ANN401 - each cell its own
        """Return what is kept for `key`, None for nothing."""
        return self.shelf.held(key, self.slot)

    def keys(self) -> int:
        """Return how many keys are held."""
        return len(self.shelf.content(self.slot))

    def entries(self) -> int:
        """Return how many keys are held at most: a key in both halves counts twice."""
        shelf = self.shelf
        return len(shelf.old) + len(shelf.young) + (0 if self.slot is None else len(shelf.resting))

    def copied(self, held: list[Any]) -> list[Any]:
        """Return `held`, a list of its own, with what can change in it replaced by copies."""
        return held

    def copy_ahead(self, budget: int) -> int:
        """Copy some keys of the old half: nothing is added to it, and what is touched stands in the young one.

        Not where events take something away from it: what was copied before that would be there again.
        """
        old = self.shelf.old
        if any(cell.consumed for cell in self.shelf.cells):
            return 0
        if self._ahead is None or self._ahead.of is not old:
            self._ahead = _Ahead(old, self.slot)
        return self._ahead.go_on(budget, self.copied)

    def copy(self) -> tuple[Half, Half]:
        """Return the old half and the young one; later events do not show in them.

        They are put together only when they are written: looking each key up would keep the stream waiting.
        """
        shelf, ahead = self.shelf, self._ahead
        self._ahead = None
        if ahead is None or ahead.of is not shelf.old:
            ahead = _Ahead(shelf.old, self.slot)
        ahead.go_on(len(shelf.old), self.copied)
        older, (keys, held) = ahead.half, shelf.newer(self.slot)
        resting = shelf.at_rest(self.slot)
        return (older[0] + resting[0], older[1] + resting[1]), (keys, self.copied(held))

    def parts(self, content: tuple[Half, Half]) -> Iterator[Any]:
        """Yield what `part` makes of the keys; what the young half holds of a key is what counts."""
        old, young = content
        newer: set[Any] = set()
        if old[0]:
            for keys, _ in pieces(*young):
                newer.update(keys)
        for keys, held in pieces(*old):
            pairs = [(key, each) for key, each in zip(keys, held, strict=True) if key not in newer]
            if pairs:
                yield self.part([key for key, _ in pairs], [each for _, each in pairs])
        for keys, held in pieces(*young):
            yield self.part(keys, held)

    def insert(self, key: Any, held: Any) -> None:  # noqa: ANN401 - each cell its own
        """Keep `held` for `key`; it counts as old from the next turn on."""
        self.shelf.put(key, self.slot, held)

    def begin(self, time: datetime) -> None:
        """Prepare for events from `time` on."""
        super().begin(time)
        self.shelf.begin(time)

    def sweep(self, effective: datetime, budget: int, cells: Mapping[str, Cell]) -> int:  # noqa: ARG002 - its own suffice
        """Free dropped keys, and drop idle ones of a small cell; of those that share a shelf, the first does it."""
        return 0 if self.slot else self.shelf.sweep(effective, budget)


class Generations(Shelved):
    """A cell whose keys matter for `reach` after they were last touched; see the module's head."""

    __slots__ = ("reach",)

    def __init__(self, spec: CellSpec, reach: int) -> None:
        """`reach` in microseconds."""
        self.reach = timedelta(microseconds=reach)
        super().__init__(spec)

    @abstractmethod
    def touched(self, held: Any) -> datetime:  # noqa: ANN401 - each cell its own
        """Return the time from which on the reach of `held` is counted."""

    def is_idle(self, key: Key, effective: datetime) -> bool:
        """Whether what is kept for `key` means nothing any more."""
        held = self.find(key)
        return held is None or effective - self.touched(held) > self.reach

    def without_idle(self, content: tuple[Half, Half], now: datetime) -> tuple[Half, Half]:
        """Return what `copy` returned, of a shared record without what is idle: that may be old."""
        if self.slot is None:
            return content
        return self._still_counting(content[0], now), self._still_counting(content[1], now)

    def _still_counting(self, half: Half, now: datetime) -> Half:
        touched, reach, (keys, held) = self.touched, self.reach, half
        there = [now - touched(each) <= reach for each in held]
        return list(compress(keys, there)), list(compress(held, there))


def put_together(cells: Sequence[Shelved]) -> None:
    """Let `cells` share a shelf, or the only one have its own; takes a look at each key unless it is so already."""
    if cells[0].shelf.cells == tuple(cells):
        return
    shelf = Shelf(*cells)
    slots: list[int | None] = [None] if len(cells) == 1 else list(range(len(cells)))
    for cell, slot in zip(cells, slots, strict=True):
        for key, held in cell.shelf.content(cell.slot).items():
            shelf.put(key, slot, held)
    for cell, slot in zip(cells, slots, strict=True):
        cell.shelf, cell.slot = shelf, slot
