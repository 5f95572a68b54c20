"""Cells that keep one value for each key: for ever (since_previous, since_first, last), or for a calendar day.

Owns: what they keep, their value at an event that is not their own, and where a day ends. Leaves to
`generating_metrics` the code that adds an event: it must keep the forms described here.

- since_previous: the time of the newest event; since_first: of the first; last: the newest value. Never forgotten.
- by the day: the running count, sum, least, greatest or newest value; for distinct, a dictionary with the values as its
  keys, at most `cap` of them. All of it is dropped when the day ends, so nothing has to leave a window.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidewaiter.core.scenarios import state_cells
from tidewaiter.core.scenarios.state_cells import BEGINNING, END, Cell, CellSpec, Key, Keyed, Shelved, Value, later

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_INT64: Final = 2**63
_DAY_PART: Final[msgspec.msgpack.Decoder[tuple[datetime, list[str | tuple[str, ...]], list[Value | list[Value]]]]] = (
    msgspec.msgpack.Decoder(tuple[datetime, list[str | tuple[str, ...]], list[Value | list[Value]]])
)


class SinceCell(Shelved):
    """The time of the first or of the newest event of each key; a first time means something from `known` on."""

    __slots__ = ()
    packed = datetime

    @property
    def known(self) -> datetime:
        """A key first seen before this may be any age."""
        return later(self.start or BEGINNING, timedelta(microseconds=self.spec.warmup))

    def value(self, held: datetime | None, time: datetime) -> timedelta | None:
        """Return the time since, at an event that is not the metric's own."""
        if held is None or (self.spec.warmup and held < self.known):
            return None
        return time - held

    def read(self, key: Key, time: datetime) -> timedelta | None:
        """Return the same by the key."""
        return self.value(self.find(key), time)


class KeptCell(Shelved):
    """The newest value of a field of each key, however old."""

    __slots__ = ()
    packed = Value

    def value(self, held: Value | None, time: datetime) -> Value | None:  # noqa: ARG002 - as the other cells
        """Return the value, None for nothing."""
        return held

    def read(self, key: Key, time: datetime) -> Value | None:
        """Return the same by the key."""
        return self.value(self.find(key), time)


class DayCell(Keyed):
    """A metric over the current calendar day; `end` is when that day ends."""

    __slots__ = ("_dead", "_shift", "end", "held")

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec)
        self.held: dict[Any, Any] = {}
        self.end = BEGINNING
        self._shift = timedelta(seconds=spec.utc_offset)
        self._dead: dict[Any, Any] = {}

    def roll(self, time: datetime) -> datetime:
        """Begin a new day if `time` is not in the current one; return when the day of `time` ends."""
        if time >= self.end:
            if self.held:
                self._dead = self.held  # freed bit by bit by `sweep`
            self.held = {}
            days = (time - _EPOCH + self._shift) // _DAY
            try:
                self.end = _EPOCH + (days + 1) * _DAY - self._shift
            except OverflowError:  # no later time can be told from this one
                self.end = END
        return self.end

    def begin(self, time: datetime) -> None:
        """Prepare for events from `time` on."""
        super().begin(time)
        self.roll(time)

    def read(self, key: Key, time: datetime) -> Value | None:  # noqa: ARG002 - as the other cells
        """Return the metric at an event of the current day that is not its own."""
        held = self.held.get(key)
        if held is None:
            return 0 if self.spec.fn in ("count", "distinct") else None
        value: Value = len(held) if self.spec.fn == "distinct" else held
        return value

    def sweep(self, effective: datetime, budget: int, cells: Mapping[str, Cell]) -> int:  # noqa: ARG002 - its own suffice
        """Free the keys of days that are over."""
        if effective >= self.end:
            self.roll(effective)
        seen = min(budget, len(self._dead))
        if seen == len(self._dead):
            self._dead = {}
        else:
            for _ in range(seen):
                self._dead.popitem()
        return seen

    def keys(self) -> int:
        """Return how many keys are held."""
        return len(self.held)

    def insert(self, key: Any, held: Any) -> None:  # noqa: ANN401 - each cell its own
        """Keep `held` for `key`."""
        self.held[key] = held

    def copy(self) -> tuple[datetime, dict[Any, Any]]:
        """Return what is held, with the end of its day; later events do not show in it."""
        if self.spec.fn == "distinct":
            return self.end, {key: list(values) for key, values in self.held.items()}
        return self.end, self.held.copy()

    def parts(self, content: Any) -> Iterator[Any]:  # noqa: ANN401 - what `copy` returned
        """Yield the end of the day, keys, and what is kept for them; sums beyond 64 bits as text."""
        end, held = content  # type: tuple[datetime, dict[Any, Any]]
        keys = iter(held)
        while some := list(islice(keys, state_cells.CHUNK_KEYS)):
            values = [held[key] for key in some]
            if self.spec.fn == "sum":
                values = [value if -_INT64 <= value < _INT64 else str(value) for value in values]
            yield end, some, values

    def restore(self, part: msgspec.Raw) -> None:
        """Take back a part."""
        self.end, keys, values = _DAY_PART.decode(part)
        if self.spec.fn == "sum":
            values = [int(value) for value in values if not isinstance(value, list)]
        for key, value in zip(keys, values, strict=True):
            self.held[key] = dict.fromkeys(value) if isinstance(value, list) else value
