"""Cells of metrics over a window that are updated by code in line: count, sum, distinct, last.

Owns: what they keep for a key, and their value at an event that is not their own. Leaves to `generating_metrics` the
code that adds an event: it must keep the forms described here.

- count: the times within the window. A bare datetime for one, a pair for two, for more ``[place, time, time, ...]``,
  where `place` is that of the oldest time within the window; what stands before it is dropped from time to time, so
  that no event pays for more than its own. One or two are the rule, and cost 90 and 230 bytes with the key.
- sum: ``(time, value)`` for one; for more ``[total, place, time, value, time, value, ...]``, `place` as for a count.
- distinct: ``(time, value)`` for one; for more ``[oldest, {value: last time}]`` in the order of the times, where
  `oldest` is not after the first of them. An OrderedDict beyond LIST_LIMIT, where a plain one would look for its first
  entry ever longer.
- last: ``(time, value)``.
- shifted (count, sum and last with an offset): ``[total, place, border, time, value, time, value, ...]``, for count
  without the values and the total. From `place` to before `border` stands what is within the window, behind it what is
  still too young for it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from datetime import datetime, timedelta
from itertools import compress
from typing import Any, Final

import msgspec

from tidewaiter.core.scenarios.state_cells import BEGINNING, CellSpec, Generations, Key, Value, later

LIST_LIMIT: Final = 32
SPARE: Final = 8  # up to this place, what has left the window may stay in a list

Held = datetime | tuple[datetime, datetime] | list[Any]


class InlineCell(Generations):
    """A cell that is updated by code in line."""

    __slots__ = ()

    @abstractmethod
    def value(self, held: Any, time: datetime) -> Value | None:  # noqa: ANN401 - as the cell keeps it
        """Return the metric at an event of `time` that is not its own; `held` is None for a key without any."""

    def read(self, key: Key, time: datetime) -> Value | None:
        """Return the metric at an event of `time` that is not its own."""
        return self.value(self.find(key), time)


class WindowCell(InlineCell):
    """A cell of a metric over a window; `window` is inclusive."""

    __slots__ = ("window",)

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec, spec.window)
        self.window = self.reach


class _CountPart(msgspec.Struct, array_like=True):
    """Keys with one, two and more times apart, so that the decoder makes what the cell holds."""

    one: list[str | tuple[str, ...]] = []
    one_held: list[datetime] = []
    two: list[str | tuple[str, ...]] = []
    two_held: list[tuple[datetime, datetime]] = []
    many: list[str | tuple[str, ...]] = []
    many_held: list[list[datetime]] = []


_COUNT_PART: Final = msgspec.msgpack.Decoder(_CountPart)


class CountCell(WindowCell):
    """The times of a metric's events by key, the newest `spec.cap` of them where there is a cap."""

    __slots__ = ()

    def touched(self, held: Held) -> datetime:
        """Return the newest time."""
        newest: datetime = held if isinstance(held, datetime) else held[-1]
        return newest

    def value(self, held: Any, time: datetime) -> int:  # noqa: ANN401 - as the cell keeps it
        """Return the count at an event of `time` that is not counted."""
        if held is None:
            return 0
        window = self.window
        if held.__class__ is datetime:
            return 0 if time - held > window else 1
        if held.__class__ is tuple:
            return 2 if time - held[0] <= window else 1 if time - held[1] <= window else 0
        if time - held[-1] > window:
            return 0  # it stays as it is: the next event of its own drops it
        place: int = held[0]
        while time - held[place] > window:
            place += 1
        held[0] = place
        return len(held) - place

    def copied(self, held: list[Any]) -> list[Any]:
        """Return `held` with lists of its own, of the times within the window at the last look; few have any."""
        kinds = list(map(type, held))
        if list in kinds:
            for at in compress(range(len(held)), [kind is list for kind in kinds]):
                held[at] = held[at][held[at][0] :]
        return held

    def part(self, keys: list[Any], held: list[Any]) -> _CountPart:
        """Return the keys by how many times they have."""
        kinds = set(map(type, held))
        if kinds == {datetime}:
            return _CountPart(one=keys, one_held=held)
        if kinds == {tuple}:
            return _CountPart(two=keys, two_held=held)
        part = _CountPart()
        for key, each in zip(keys, held, strict=True):
            if isinstance(each, datetime):
                part.one.append(key)
                part.one_held.append(each)
            elif isinstance(each, tuple):
                part.two.append(key)
                part.two_held.append(each)
            else:
                part.many.append(key)
                part.many_held.append(each)
        return part

    def restore(self, part: msgspec.Raw) -> None:
        """Take back a part of what a copy held."""
        read = _COUNT_PART.decode(part)
        self.shelf.young.update(zip(read.one, read.one_held, strict=True))
        self.shelf.young.update(zip(read.two, read.two_held, strict=True))
        if not all(read.many_held):
            raise ValueError("a key without times")
        many = [[1, *held] for held in read.many_held]
        self.shelf.young.update(zip(read.many, many, strict=True))


class SumCell(WindowCell):
    """Times and amounts of a metric's events by key, with their running total."""

    __slots__ = ()
    packed = tuple[list[datetime], list[int]]

    def touched(self, held: Any) -> datetime:  # noqa: ANN401 - a pair or a list
        """Return the newest time."""
        newest: datetime = held[-2]  # of a pair too
        return newest

    def value(self, held: Any, time: datetime) -> int | None:  # noqa: ANN401 - as the cell keeps it
        """Return the sum at an event of `time` that is not counted, None for nothing."""
        if held is None or time - held[-2] > self.window:
            return None  # it stays as it is: the next event of its own drops it
        if held.__class__ is tuple:
            only: int = held[1]
            return only
        place = held[1]
        while time - held[place] > self.window:
            held[0] -= held[place + 1]
            place += 2
        held[1] = place
        total: int = held[0]
        return total

    def copied(self, held: list[Any]) -> list[Any]:
        """Return `held` with lists of its own."""
        return [each[:] for each in held]  # of a pair this is the pair itself

    def pack(self, held: Any) -> Any:  # noqa: ANN401 - a pair or a list
        """Return times and amounts within the window as of the last look."""
        if isinstance(held, tuple):
            return held[:1], held[1:]
        place = held[1]
        return held[place::2], held[place + 1 :: 2]

    def unpack(self, packed: tuple[list[datetime], list[int]]) -> Any:  # noqa: ANN401 - a pair or a list
        """Return the list with its total."""
        times, values = packed
        if len(times) == len(values) == 1:
            return times[0], values[0]
        held: list[Any] = [sum(values), 2]
        for pair in zip(times, values, strict=True):
            held += pair
        if not times:
            raise ValueError("a key without times")
        return held


class DistinctCell(WindowCell):
    """The values of a metric's events by key, with the time each was last seen; the newest `spec.cap` of them."""

    __slots__ = ()
    packed = tuple[list[datetime], list[Value]]

    def touched(self, held: Any) -> datetime:  # noqa: ANN401 - a pair or a list
        """Return the newest time."""
        if isinstance(held, tuple):
            time: datetime = held[0]
            return time
        values = held[1]
        newest: datetime = values[next(reversed(values))]
        return newest

    def drop(self, held: list[Any], time: datetime) -> None:
        """Drop what has left the window at `time`, and values beyond the cap; the newest stays."""
        values, window, cap = held[1], self.window, self.spec.cap
        while True:
            value = next(iter(values))
            oldest = values[value]
            if len(values) == 1 or (time - oldest <= window and not 0 < cap < len(values)):
                break
            del values[value]
        held[0] = oldest

    def value(self, held: Any, time: datetime) -> int:  # noqa: ANN401 - as the cell keeps it
        """Return how many values there are at an event of `time` that is not counted."""
        if held is None or time - self.touched(held) > self.window:
            return 0
        if held.__class__ is tuple:
            return 1
        if time - held[0] > self.window:
            self.drop(held, time)
        return len(held[1])

    def copied(self, held: list[Any]) -> list[Any]:
        """Return `held` with dictionaries of its own."""
        return [each if each.__class__ is tuple else [each[0], each[1].copy()] for each in held]

    def pack(self, held: Any) -> Any:  # noqa: ANN401 - a pair or a list
        """Return times and values."""
        if isinstance(held, tuple):
            return held[:1], held[1:]
        return list(held[1].values()), list(held[1])

    def unpack(self, packed: tuple[list[datetime], list[Value]]) -> Any:  # noqa: ANN401 - a pair or a list
        """Return the dictionary in the order of its times."""
        times, values = packed
        if not times:
            raise ValueError("a key without times")
        if len(times) == len(values) == 1:
            return times[0], values[0]
        pairs = zip(values, times, strict=True)
        return [times[0], OrderedDict(pairs) if len(times) > LIST_LIMIT else dict(pairs)]


class LatestCell(WindowCell):
    """The newest value of a metric's field within the window, by key."""

    __slots__ = ()
    packed = tuple[datetime, Value]

    def touched(self, held: tuple[datetime, Value]) -> datetime:
        """Return its time."""
        return held[0]

    def value(self, held: Any, time: datetime) -> Value | None:  # noqa: ANN401 - as the cell keeps it
        """Return the value at an event of `time`, None for nothing."""
        return None if held is None or time - held[0] > self.window else held[1]


class ShiftedCell(InlineCell):
    """Times and values by key of a metric over [t - offset - window, t - offset).

    Its value is unknown before `known`: its own past must reach so far back.
    """

    __slots__ = ("_step", "offset")
    packed = tuple[list[datetime], list[Value]]

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec, spec.offset + spec.window)
        self.offset = timedelta(microseconds=spec.offset)
        self._step = 1 if spec.fn == "count" else 2

    @property
    def known(self) -> datetime:
        """The time from which on the value is known."""
        return later(self.start or BEGINNING, self.reach)

    def touched(self, held: list[Any]) -> datetime:
        """Return the newest time."""
        newest: datetime = held[-self._step]
        return newest

    def value(self, held: Any, time: datetime) -> Value | None:  # noqa: ANN401 - as the cell keeps it
        """Return the metric at an event of `time` that is not its own."""
        if time < self.known:
            return None
        if held is None or time - self.touched(held) > self.reach:
            return 0 if self.spec.fn == "count" else None
        place, border = held[1], held[2]
        step, size = self._step, len(held)
        while border < size and time - held[border] > self.offset:
            held[0] += held[border + 1] if self.spec.fn == "sum" else 0
            border += step
        while time - held[place] > self.reach:
            held[0] -= held[place + 1] if self.spec.fn == "sum" else 0
            place += step
        held[1], held[2] = place, border
        if self.spec.fn == "count":
            count: int = border - place
            return min(count, self.spec.cap or count)
        if place == border:
            return None
        value: Value = held[0 if self.spec.fn == "sum" else border - 1]
        return value

    def copied(self, held: list[Any]) -> list[Any]:
        """Return `held` with lists of its own."""
        return [each[:] for each in held]

    def pack(self, held: list[Any]) -> Any:  # noqa: ANN401 - each cell its own
        """Return times, and values if there are any."""
        place, step = held[1], self._step
        return held[place::step], held[place + 1 :: step] if step > 1 else ()

    def unpack(self, packed: tuple[list[datetime], list[Value]]) -> list[Any]:
        """Return the list as if all of it were too young."""
        times, values = packed
        if not times:
            raise ValueError("a key without times")
        if self._step == 1:
            return [0, 3, 3, *times]
        held: list[Any] = [0, 3, 3]
        for pair in zip(times, values, strict=True):
            held += pair
        return held
