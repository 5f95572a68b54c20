"""Running aggregates, one object for each key, and the cells that keep them: min, max, the last N, and some offsets.

Owns: the aggregates, each of which adds a value and drops old ones in constant time on average, and what the cells make
of them. Leaves to `state_windows` what is common enough to be worth code in line.

Every aggregate holds its times and values in one form for snapshots: two lists of equal length, oldest first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from datetime import datetime, timedelta
from typing import Any, Final

from tidewaiter.core.scenarios.state_cells import BEGINNING, END, CellSpec, Generations, Key, Keyed, Value, later

Columns = tuple[list[datetime], list[Value]]


class Run(ABC):
    """An aggregate over times and values that come at its end and go at its beginning."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.items: deque[tuple[datetime, Any]] = deque()

    @abstractmethod
    def push(self, time: datetime, value: Any) -> None:  # noqa: ANN401 - a number for most
        """Add the newest value."""

    @abstractmethod
    def drop(self, limit: datetime) -> None:
        """Drop everything from before `limit`."""

    @abstractmethod
    def value(self) -> Value | None:
        """Return the aggregate, None for nothing."""

    def newest(self) -> datetime:
        """Return the time of the newest value, or the beginning of times."""
        return self.items[-1][0] if self.items else BEGINNING

    def columns(self) -> Columns:
        """Return times and values."""
        return [time for time, _ in self.items], [value for _, value in self.items]


class MinRun(Run):
    """The least: `items` are those values that are less than all after them, so the first is the least."""

    __slots__ = ()

    def push(self, time: datetime, value: int) -> None:
        """Add a value."""
        items = self.items
        while items and items[-1][1] >= value:
            items.pop()
        items.append((time, value))

    def drop(self, limit: datetime) -> None:
        """Drop everything from before `limit`."""
        items = self.items
        while items and items[0][0] < limit:
            items.popleft()

    def value(self) -> int | None:
        """Return the least, None for nothing."""
        return self.items[0][1] if self.items else None


class MaxRun(MinRun):
    """The greatest: `items` are those values that are greater than all after them."""

    __slots__ = ()

    def push(self, time: datetime, value: int) -> None:
        """Add a value."""
        items = self.items
        while items and items[-1][1] <= value:
            items.pop()
        items.append((time, value))


class DistinctRun(Run):
    """How many different values, at most `cap`: the newest are kept, with the time each was last seen."""

    __slots__ = ("cap", "seen")

    def __init__(self, cap: int) -> None:
        """`cap` is 0 for none."""
        self.seen: OrderedDict[Value, datetime] = OrderedDict()
        self.cap = cap

    def push(self, time: datetime, value: Value) -> None:
        """Add a value."""
        self.seen[value] = time
        self.seen.move_to_end(value)
        if 0 < self.cap < len(self.seen):
            self.seen.popitem(last=False)

    def drop(self, limit: datetime) -> None:
        """Drop everything last seen before `limit`."""
        seen = self.seen
        while seen and seen[next(iter(seen))] < limit:
            seen.popitem(last=False)

    def value(self) -> int:
        """Return how many there are."""
        return len(self.seen)

    def newest(self) -> datetime:
        """Return the newest time, or the beginning of times."""
        return self.seen[next(reversed(self.seen))] if self.seen else BEGINNING

    def columns(self) -> Columns:
        """Return times and values."""
        return list(self.seen.values()), list(self.seen)


def empty_run(spec: CellSpec) -> Run:
    """Return the aggregate for a metric."""
    match spec.fn:
        case "min":
            return MinRun()
        case "max":
            return MaxRun()
        case "distinct":
            return DistinctRun(spec.cap)
    raise ValueError(f"nothing aggregates {spec.fn!r}")


def filled(run: Run, columns: Columns) -> Run:
    """Return `run` with times and values pushed into it."""
    for time, value in zip(*columns, strict=True):
        run.push(time, value)
    return run


class RunCell(Generations):
    """A metric over a window without an offset."""

    __slots__ = ("window",)
    packed = Columns

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec, spec.window)
        self.window = self.reach

    def add(self, key: Key, time: datetime, value: Value) -> Value | None:
        """Add an event; return the metric at it."""
        run = self.shelf.young.get(key)
        if run is None:
            run = self.shelf.old.get(key)
            if run is None:
                run = empty_run(self.spec)
            self.shelf.young[key] = run
        run.push(time, value)
        run.drop(time - self.window)
        result: Value | None = run.value()
        return result

    def read(self, key: Key, time: datetime) -> Value | None:
        """Return the metric at an event of `time` that is not its own."""
        run = self.find(key)
        if run is None:
            return _NOTHING.get(self.spec.fn)
        run.drop(time - self.window)
        result: Value | None = run.value()
        return result

    def touched(self, held: Run) -> datetime:
        """Return the newest time."""
        return held.newest()

    def copied(self, held: list[Any]) -> list[Any]:
        """Return times and values for each key."""
        return [run.columns() for run in held]

    def unpack(self, packed: Columns) -> Run:
        """Return the aggregate."""
        return filled(empty_run(self.spec), packed)


class Shifted:
    """An aggregate that looks at events only when they have become old: `pending` are those still too young."""

    __slots__ = ("pending", "run")

    def __init__(self, run: Run) -> None:
        """Hold nothing that is too young."""
        self.run = run
        self.pending: deque[tuple[datetime, Any]] = deque()


class OffsetCell(Generations):
    """Min, max or distinct over [t - offset - window, t - offset); unknown until its past reaches so far back."""

    __slots__ = ("_known", "_offset", "_window")
    packed = tuple[Columns, Columns]

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec, spec.offset + spec.window)
        self._offset = timedelta(microseconds=spec.offset)
        self._window = timedelta(microseconds=spec.window)
        self._known = END

    def begin(self, time: datetime) -> None:
        """Prepare for events from `time` on."""
        super().begin(time)
        self._known = later(self.start or time, self.reach)

    def add(self, key: Key, time: datetime, value: Value) -> Value | None:
        """Add an event; return the metric at it."""
        held = self.shelf.young.get(key)
        if held is None:
            held = self.shelf.old.get(key)
            if held is None:
                held = Shifted(empty_run(self.spec))
            self.shelf.young[key] = held
        held.pending.append((time, value))
        return self._value(held, time)

    def read(self, key: Key, time: datetime) -> Value | None:
        """Return the metric at an event of `time` that is not its own."""
        held = self.find(key)
        if held is None:
            return None if time < self._known else _NOTHING.get(self.spec.fn)
        return self._value(held, time)

    def _value(self, held: Shifted, time: datetime) -> Value | None:
        border = time - self._offset
        pending, run = held.pending, held.run
        while pending and pending[0][0] < border:
            run.push(*pending.popleft())
        run.drop(border - self._window)
        return None if time < self._known else run.value()

    def touched(self, held: Shifted) -> datetime:
        """Return the newest time."""
        return held.pending[-1][0] if held.pending else held.run.newest()

    def copied(self, held: list[Any]) -> list[Any]:
        """Return times and values for each key: those too young, then those in the window."""
        return [
            (([time for time, _ in each.pending], [value for _, value in each.pending]), each.run.columns())
            for each in held
        ]

    def unpack(self, packed: tuple[Columns, Columns]) -> Shifted:
        """Return both."""
        pending, run = packed
        held = Shifted(filled(empty_run(self.spec), run))
        held.pending.extend(zip(*pending, strict=True))
        return held


_NOTHING: Final = {"distinct": 0}  # the other aggregates of nothing are unknown


class Ring:
    """The last values of a key, oldest first, with their aggregate; unknown until there are `size`."""

    __slots__ = ("best", "count", "counts", "total", "values")

    def __init__(self, size: int) -> None:
        """Hold nothing yet."""
        self.values: deque[Any] = deque(maxlen=size)
        self.total = 0
        self.count = 0  # how many were ever added
        self.best: deque[tuple[int, int]] = deque()  # (count, value): see MinRun and MaxRun
        self.counts: dict[Value, int] = {}


class RingCell(Keyed):
    """A metric over the last N of its events, by key, for ever."""

    __slots__ = ("_add", "held")
    packed = list[Value]

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec)
        self.held: dict[Any, Ring] = {}
        self._add = {"sum": _ring_sum, "min": _ring_min, "max": _ring_max, "distinct": _ring_distinct}[spec.fn]

    def add(self, key: Key, time: datetime, value: Value) -> Value | None:  # noqa: ARG002 - as the other cells
        """Add an event; return the metric at it."""
        ring = self.held.get(key)
        if ring is None:
            ring = self.held[key] = Ring(self.spec.last)
        self._add(ring, value)
        return self._value(ring)

    def read(self, key: Key, time: datetime) -> Value | None:  # noqa: ARG002 - as the other cells
        """Return the metric at an event that is not its own."""
        ring = self.held.get(key)
        return None if ring is None else self._value(ring)

    def _value(self, ring: Ring) -> Value | None:
        if len(ring.values) < self.spec.last:
            return None
        match self.spec.fn:
            case "sum":
                return ring.total
            case "distinct":
                return len(ring.counts)
        return ring.best[0][1]

    def keys(self) -> int:
        """Return how many keys are held."""
        return len(self.held)

    def copy(self) -> dict[Any, Any]:
        """Return the values for each key."""
        return {key: list(ring.values) for key, ring in self.held.items()}

    def unpack(self, packed: list[Value]) -> Ring:
        """Return the values with their aggregate."""
        ring = Ring(self.spec.last)
        for value in packed:
            self._add(ring, value)
        return ring

    def insert(self, key: Any, held: Ring) -> None:  # noqa: ANN401 - a Key
        """Keep `held` for `key`."""
        self.held[key] = held


def _ring_sum(ring: Ring, value: Any) -> None:  # noqa: ANN401 - a number
    values = ring.values
    if len(values) == values.maxlen:
        ring.total -= values[0]
    values.append(value)
    ring.total += value


def _ring_min(ring: Ring, value: Any) -> None:  # noqa: ANN401 - a number
    best = ring.best
    while best and best[-1][1] >= value:
        best.pop()
    _ring_best(ring, value)


def _ring_max(ring: Ring, value: Any) -> None:  # noqa: ANN401 - a number
    best = ring.best
    while best and best[-1][1] <= value:
        best.pop()
    _ring_best(ring, value)


def _ring_best(ring: Ring, value: int) -> None:
    ring.values.append(value)
    ring.count += 1
    ring.best.append((ring.count, value))
    if ring.best[0][0] <= ring.count - (ring.values.maxlen or 0):
        ring.best.popleft()


def _ring_distinct(ring: Ring, value: Any) -> None:  # noqa: ANN401 - a Value
    values, counts = ring.values, ring.counts
    if len(values) == values.maxlen:
        gone = values[0]
        counts[gone] -= 1
        if not counts[gone]:
            del counts[gone]
    values.append(value)
    counts[value] = counts.get(value, 0) + 1
