"""Holding a rate: when the next event is due, and the clocks that are asked.

Owns: the absolute schedule of a producer, and the one place where producers read a clock or wait. Leaves to
`shell.producer` and `shell.generate_file` what is written when something is due.

The schedule is absolute: a late tick is made up for by the next one, so that the rate holds over any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass
from typing import Protocol

TICK_SECONDS = 0.02
"""Between two appends at least: 50 wake-ups a second cost next to nothing, and 20 ms are below what a person sees."""


class Clock(Protocol):
    """What a producer asks of time; tests crank their own by hand."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    def wall_us(self) -> int:
        """Return the wall clock, microseconds since 1970 (UTC)."""

    def sleep(self, seconds: float) -> None:
        """Wait, blocking the thread."""

    async def pause(self, seconds: float, stop: asyncio.Event) -> None:
        """Wait without blocking the loop, at most until `stop` is set."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def wall_us(self) -> int:
        """Return the wall clock, microseconds since 1970 (UTC)."""
        return time.time_ns() // 1000

    def sleep(self, seconds: float) -> None:
        """Wait, blocking the thread."""
        time.sleep(seconds)

    async def pause(self, seconds: float, stop: asyncio.Event) -> None:
        """Wait without blocking the loop, at most until `stop` is set."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()


@dataclass(slots=True)
class Schedule:
    """Event i, counted from 0, is due at `origin` + i / `rate` (monotonic seconds, events a second)."""

    rate: float
    origin: float
    issued: int = 0

    def due(self, now: float) -> int:
        """Return how many events are due and not issued yet."""
        return max(math.floor((now - self.origin) * self.rate) + 1 - self.issued, 0)

    def age_us(self, index: int, now: float) -> int:
        """Return how many microseconds ago event `index` was due."""
        return max(int((now - self.origin - index / self.rate) * 1_000_000), 0)

    def wait(self, now: float) -> float:
        """Return the seconds to wait for the next event that is not issued, at least one tick."""
        return max(self.origin + self.issued / self.rate - now, TICK_SECONDS)

    def restart(self, now: float) -> None:
        """Owe nothing: the next event is due now."""
        self.origin, self.issued = now, 0


def live_times(schedule: Schedule | None, count: int, now: float, wall_us: int, last_us: int) -> list[int]:
    """Return wall-clock event times (microseconds since 1970) for the next `count` events, none before `last_us`.

    Each is the moment at which the schedule had the event due; without a schedule all happen now.
    """
    times: list[int] = []
    for index in range(count):
        age = 0 if schedule is None else schedule.age_us(schedule.issued + index, now)
        last_us = max(wall_us - age, last_us)
        times.append(last_us)
    return times
