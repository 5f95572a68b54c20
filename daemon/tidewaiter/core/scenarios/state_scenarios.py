"""What scenarios and typologies remember for each subject: edge latches, cooldowns, and candidates of `after`.

Owns: these cells and when what is in them means nothing any more. Leaves to `generating_scenarios` the code that fills
them: it must keep the forms described here.
"""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidewaiter.core.scenarios import state_cells
from tidewaiter.core.scenarios.state_cells import BEGINNING, Cell, CellSpec, Generations, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KEYS: Final[msgspec.msgpack.Decoder[list[str]]] = msgspec.msgpack.Decoder(list[str])


class EdgeCell(Cell):
    """The subjects of something with `repeat = "edge"` that were flagged and not yet re-armed.

    `spec.idle_with` names the cell of a metric whose idleness makes a latch meaningless: the next event that is looked
    at would re-arm it anyway (proved by `planning`).
    """

    __slots__ = ("_pending", "_swept", "latched")

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec)
        self.latched: set[str] = set()
        self._pending: list[str] = []
        self._swept = BEGINNING

    def sweep(self, effective: datetime, budget: int, cells: Mapping[str, Cell]) -> int:
        """Forget latches that mean nothing any more, looking at no more than `budget`; return how many were."""
        metric = cells.get(self.spec.idle_with)
        if not isinstance(metric, Generations):
            return 0
        pause = state_cells.PURGE_WINDOWS * metric.reach
        if not self._pending and self.latched and effective - self._swept > pause:
            self._swept, self._pending = effective, list(self.latched)
        seen = 0
        while self._pending and seen < budget:
            key = self._pending.pop()
            seen += 1
            if metric.is_idle(key, effective):
                self.latched.discard(key)
        return seen

    def keys(self) -> int:
        """Return how many subjects are latched."""
        return len(self.latched)

    def copy(self) -> set[str]:
        """Return the latched subjects; later events do not show in it."""
        return self.latched.copy()

    def parts(self, content: set[str]) -> Iterator[list[str]]:
        """Yield the subjects."""
        keys = iter(content)
        while some := list(islice(keys, state_cells.CHUNK_KEYS)):
            yield some

    def restore(self, part: msgspec.Raw) -> None:
        """Take back a part."""
        self.latched.update(_KEYS.decode(part))


class CooldownCell(Generations):
    """When the cooldown of each subject ends; a hit before that is suppressed."""

    __slots__ = ()
    packed = datetime

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec, spec.window)

    def touched(self, held: datetime) -> datetime:
        """Return the time of the flag."""
        return held - self.reach


class AfterCell(Generations):
    """The newest candidate of each key: ``(time, value of a.x, ...)``; it counts within the window after its time."""

    __slots__ = ()
    packed = tuple[datetime, list[Value | None]]
    consumed = True

    def __init__(self, spec: CellSpec) -> None:
        """Hold nothing yet."""
        super().__init__(spec, spec.window)

    def touched(self, held: tuple[Any, ...]) -> datetime:
        """Return its time."""
        time: datetime = held[0]
        return time

    def pack(self, held: tuple[Any, ...]) -> Any:  # noqa: ANN401 - each cell its own
        """Return time and values."""
        return held[0], held[1:]

    def unpack(self, packed: tuple[datetime, list[Value | None]]) -> tuple[Any, ...]:
        """Return time and values in one."""
        return (packed[0], *packed[1])
