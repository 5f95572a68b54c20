"""The built-in producer: generated events, appended to the stream file at a steady rate, as a task of the daemon.

Owns: going on after the last persisted event, the ticks, and what a full disk or a rotation means for them. Leaves to
`core.money_flow_generator` the events, to `shell.appending_file` the file, to `shell.supervisor` starting and ending
it. The consumer knows it only by the file.

Going on: the last whole lines of the file (or, while it is empty, of NAME.1) tell the number of the last own event and
the latest event time, whatever the length of the file. Where they hold no own event (new file, other seed, other
origin) the numbering goes on at the wall clock's microseconds since 1970: above every number used before, as long as
fewer than a million events a second were made, so that no id ever comes twice. Event times are the wall clock, but
never before the last one.

Log events: producer.started, producer.partial_line_removed, producer.stream_replaced, producer.disk_full,
producer.disk_free, producer.behind, producer.stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.money_flow_generator import MAX_USERS, PROFILES, MoneyFlowGenerator, last_event
from tidewaiter.edges.durable import NoSpace
from tidewaiter.shell.appending_file import AppendingFile
from tidewaiter.shell.pacing import Schedule, SystemClock, live_times

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.shell.appending_file import Opened
    from tidewaiter.shell.pacing import Clock

MAX_RATE: Final = 1_000_000.0
GROUP_EVENTS: Final = 20_000
"""At most so many events (5 MB) in one append: bounded memory, and a stop is never further away than that."""
BEHIND_SECONDS: Final = 5.0
"""A source this late (suspended machine, rate too high) does not flood the stream: what is older is not owed."""
FIRST_BACKOFF_SECONDS: Final = 0.1
LAST_BACKOFF_SECONDS: Final = 5.0
T = TypeVar("T")


class Log(Protocol):
    """The part of a structlog logger that is used."""

    def info(self, event: str, *args: Any, **kw: Any) -> Any:  # noqa: ANN401 - structlog's own signature
        """Log what is normal."""

    def warning(self, event: str, *args: Any, **kw: Any) -> Any:  # noqa: ANN401 - structlog's own signature
        """Log what someone should know."""


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """What to append where: `rate` in events per second, `users` user ids, `profile` one of PROFILES."""

    path: Path
    rate: float = 100.0
    users: int = 10_000
    seed: int = 1
    profile: str = "money-flow"


async def produce(
    settings: ProducerSettings,
    *,
    log: Log,
    stop: asyncio.Event | None = None,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
    file: AppendingFile | None = None,
) -> None:
    """Append events until `stop` is set or the task is cancelled; either way nothing half-written stays.

    `ready` is set once the file is open, its partial last line gone: a consumer that starts afterwards never sees that
    line. Raises ConfigError for settings out of range or a file that cannot be appended to, and DurabilityError where
    the disk fails; a full disk is waited for.
    """
    if not 0 < settings.rate <= MAX_RATE:
        raise ConfigError(f"producer rate {settings.rate} is out of range", hint=f"above 0, at most {MAX_RATE:,.0f}")
    if settings.profile not in PROFILES:
        raise ConfigError(f"producer profile {settings.profile!r} is unknown", hint=f"one of {', '.join(PROFILES)}")
    if not 1 <= settings.users <= MAX_USERS:
        raise ConfigError(f"producer users {settings.users} is out of range", hint=f"1 to {MAX_USERS:,}")
    stop = asyncio.Event() if stop is None else stop
    producer = _Producer(
        settings, log, stop, SystemClock() if clock is None else clock, file or AppendingFile(settings.path)
    )
    try:
        await producer.start()
        if ready is not None:
            ready.set()
        while not stop.is_set():
            await producer.tick()
    finally:
        producer.end()


class _Producer:
    """The state between two ticks. The generator and the file are used by one thread at a time."""

    def __init__(
        self, settings: ProducerSettings, log: Log, stop: asyncio.Event, clock: Clock, file: AppendingFile
    ) -> None:
        self.settings = settings
        self.log = log
        self.stop = stop
        self.clock = clock
        self.file = file
        self.generator = MoneyFlowGenerator(settings.seed, settings.users, PROFILES[settings.profile])
        self.schedule = Schedule(settings.rate, clock.monotonic())
        self.number = 0
        self.last_us = 0
        self.events = 0
        self.started = False

    async def start(self) -> None:
        """Open the file and find out where to go on."""
        opened = await self._despite_full_disk(self.file.open)
        if opened is None:
            return
        last = last_event(opened.tail, self.generator)
        own = last.number is not None
        self.number = self.clock.wall_us() if last.number is None else last.number + 1
        self.last_us = last.micros or 0
        self._note_removed(opened)
        self.started = True
        self.log.info(
            "producer.started", path=str(self.file.path), rate=self.settings.rate, seed=self.settings.seed,
            profile=self.settings.profile, next_event=self.number, continued=own, offset=self.file.length,
        )  # fmt: skip
        self.schedule.restart(self.clock.monotonic())

    async def tick(self) -> None:
        """Append what is due, then wait for the next event or the next tick, whichever is later."""
        now = self.clock.monotonic()
        due = self.schedule.due(now)
        if due > self.settings.rate * BEHIND_SECONDS + GROUP_EVENTS:
            self.log.warning("producer.behind", events_not_made=due)
            self.schedule.restart(now)
            due = 1
        if due:
            await self._append(min(due, GROUP_EVENTS), now)
        if due <= GROUP_EVENTS:
            await self.clock.pause(self.schedule.wait(self.clock.monotonic()), self.stop)

    def end(self) -> None:
        """Cut what is half-written and close; the last words are logged."""
        try:
            # If we die here, the next start removes the partial line.
            self.file.withdraw()
        finally:
            self.file.close()
            if self.started:
                self.log.info("producer.stopped", events=self.events, next_event=self.number, offset=self.file.length)

    async def _append(self, count: int, now: float) -> None:
        times = live_times(self.schedule, count, now, self.clock.wall_us(), self.last_us)
        number = self.number
        handed_over = False

        def work() -> Opened | None:
            """Follow a rotation, then hand the lines over; called again after a full disk, go on where it stopped."""
            nonlocal handed_over
            if handed_over:
                self.file.flush()
                return None
            replaced = self.file.follow(now)
            handed_over = True
            self.file.append("".join(self.generator.lines(number, times)).encode("ascii"))
            return replaced

        # The numbers are used up even if the append fails or is cancelled: an id may be left out, never repeated.
        self.number += count
        self.last_us = times[-1]
        self.schedule.issued += count
        identity = self.file.identity
        opened = await self._despite_full_disk(work)
        self.events += count
        if self.file.identity != identity:
            self.log.info("producer.stream_replaced", path=str(self.file.path), offset=self.file.length)
        if opened is not None:
            self._note_removed(opened)

    def _note_removed(self, opened: Opened) -> None:
        if opened.removed:
            self.log.warning("producer.partial_line_removed", path=str(self.file.path), bytes=opened.removed)

    async def _despite_full_disk(self, call: Callable[[], T]) -> T | None:
        """Return what `call` returns, calling again and again while the disk is full; None when stopped meanwhile."""
        backoff = 0.0
        while not (backoff and self.stop.is_set()):
            try:
                result = await _in_thread(call)
            except NoSpace as error:
                if not backoff:
                    self.log.warning("producer.disk_full", error=str(error))
                backoff = min(max(backoff * 2, FIRST_BACKOFF_SECONDS), LAST_BACKOFF_SECONDS)
                await self.clock.pause(backoff, self.stop)
                continue
            if backoff:
                # What was due meanwhile is not owed: a source that could not write made no events.
                self.schedule.restart(self.clock.monotonic())
                self.log.info("producer.disk_free", path=str(self.file.path))
            return result
        return None


async def _in_thread(call: Callable[[], T]) -> T:
    """Run a blocking `call` beside the loop; a cancellation takes effect only when it has returned."""
    task = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # The thread cannot be stopped, and a write in flight must not meet a closed descriptor.
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: whoever cancels wants the end, and the next start finds the same fault
        raise
