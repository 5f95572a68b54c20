"""The work of ``tidewaiter generate``: seeded events into a file, at once or at a rate, with faults on request.

Owns: the options and their limits, the event times, and what goes wrong with files on purpose (lines in two halves, a
partial last line, rotation). Leaves to `core.money_flow_generator` and `core.account_transfers_generator` the lines, to
`core.stream_faults` spoiling them, to `shell.appending_file` every write, and to `shell.commands` options as text and
what a person sees.

Invariants:
- A file written from nothing is byte-identical for the same options, at whatever pace; only `live` reads the wall
  clock.
- On a file that already ends in events of the same seed the numbering goes on, and event times never go back: two
  calls for 500 events give the same file as one for 1,000 (faults that look back at earlier lines excepted).
- Transfers have days of their own: nothing but `start` moves them, and what would spoil or shift them is refused.
- Unless `partial` asks for it, nothing but whole lines is ever in the file.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from tidewaiter.core.account_transfers_generator import (
    MAX_ACCOUNTS,
    TRANSFER_PROFILES,
    AccountTransfersGenerator,
    TransferCursor,
)
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.money_flow_generator import (
    MAX_USERS,
    MONEY_FLOW,
    PROFILES,
    MoneyFlowGenerator,
    draw_bytes,
    last_event,
)
from tidewaiter.core.stream_faults import FaultRates, StreamFaults
from tidewaiter.shell.appending_file import AppendingFile
from tidewaiter.shell.pacing import Schedule, SystemClock, live_times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.pacing import Clock

PARTIAL_CHOICES: Final = ("none", "last", "halves", "both")
DEFAULT_START: Final = "2026-03-09T12:00:00+00:00"
TRANSFERS_START: Final = "2026-01-01T00:00:00+00:00"
DEFAULT_TIME_RATE: Final = 100.0
MAX_RATE: Final = 1_000_000.0
GROUP_EVENTS: Final = 4096  # about 1.1 MB a write: the cost of the call disappears, the progress still moves
HALVES_GROUP_EVENTS: Final = 16
HALVES_PAUSE_SECONDS: Final = 0.005
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LAST_US: Final = (dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC) - _EPOCH) // dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What to generate. Exactly one of `events` and `seconds` says how much; `seconds` needs `rate`.

    `rate` is in events per second; given, the events are written at that pace, and event k happens k / rate after
    `start`. Without it they are written at once, `time_rate` (default 100) events to a second of event time.
    `start` defaults to DEFAULT_START, for transfers to TRANSFERS_START. The profiles of TRANSFER_PROFILES make account
    transfers of `users` accounts with times of their own: no `time_rate`, no `live`, no faults. `live` takes the wall
    clock as event time instead (and so cannot repeat a file). `bad`, `duplicates` and `disorder` are shares of events,
    0 to 1. `partial` is one of PARTIAL_CHOICES: leave half a line at the end, write lines in two halves, or both.
    `rotate_events` and `rotate_bytes` rename the file once it holds that many (counted in lines; bytes: at least).
    """

    out: Path
    events: int | None = None
    rate: float | None = None
    seconds: float | None = None
    seed: int = 1
    users: int = 10_000
    start: str | None = None
    profile: str = "money-flow"
    time_rate: float | None = None
    live: bool = False
    bad: float = 0.0
    duplicates: float = 0.0
    disorder: float = 0.0
    partial: str = "none"
    rotate_events: int | None = None
    rotate_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written: `first` is the number of the first event; `lines` and `bytes` include the faults.

    `late` of the events and `duplicates` more lines come out of order or again; `invalid` lines took an event's place.
    Transfers are not numbered through: `first_day` is the day of the first one, None for money-flow events.
    """

    path: Path
    first: int
    events: int
    lines: int
    bytes: int
    seconds: float
    invalid: int = 0
    duplicates: int = 0
    late: int = 0
    rotations: int = 0
    first_day: int | None = None

    @property
    def text(self) -> str:
        """The finishing line for a person."""
        faults = [
            f"{count:,} {name}"
            for count, name in (
                (self.invalid, "invalid"),
                (self.duplicates, "duplicate" if self.duplicates == 1 else "duplicates"),
                (self.late, "late"),
                (self.rotations, "rotation" if self.rotations == 1 else "rotations"),
            )
            if count
        ]
        pace = f" ({self.events / self.seconds:,.0f} events/s)" if self.seconds > 0 else ""
        origin = f" from event {self.first:,} on" if self.first else ""
        origin += f" from day {self.first_day:,} on" if self.first_day else ""
        events = "1 event" if self.events == 1 else f"{self.events:,} events"
        return f"{self.path}: {events}{origin}, {self.bytes:,} bytes in {self.seconds:.1f} s{pace}" + (
            f"; {', '.join(faults)}" if faults else ""
        )


def generate(
    options: GenerateOptions,
    progress: Callable[[int, int], None] | None = None,
    *,
    clock: Clock | None = None,
    disk: Disk | None = None,
) -> Summary:
    """Generate as `options` say; `progress` is told (events done, events in all) after each group.

    Raises ConfigError for options that are out of range or a file that cannot be appended to, and DurabilityError where
    the disk refuses; the file then ends in a whole line.
    """
    total = _total(options)
    start = _start_us(options)
    clock = SystemClock() if clock is None else clock
    began = clock.monotonic()
    with AppendingFile(options.out, disk) as file:
        found = file.open()
        work = _Work(options, file, clock, start, found.tail)
        try:
            work.run(total, progress)
        except BaseException:
            file.withdraw()
            raise
    return work.summary(clock.monotonic() - began)


class _Work:
    """One call of `generate`, between opening the file and closing it."""

    def __init__(self, options: GenerateOptions, file: AppendingFile, clock: Clock, start: int, tail: bytes) -> None:
        self.options = options
        self.file = file
        self.clock = clock
        self.transfers: TransferCursor | None = None
        profile = TRANSFER_PROFILES.get(options.profile)
        if profile is not None:
            generator = AccountTransfersGenerator(options.seed, options.users, profile)
            self.transfers = TransferCursor(generator, start, tail)
            tail = b""
        self.generator = MoneyFlowGenerator(options.seed, options.users, PROFILES.get(options.profile, MONEY_FLOW))
        rates = FaultRates(options.bad, options.duplicates, options.disorder)
        self.faults = StreamFaults(options.seed, rates) if rates else None
        last = last_event(tail, self.generator)
        self.first = 0 if last.number is None else last.number + 1
        self.last_us = last.micros or 0
        self.step = 1_000_000 / _exact(options.rate or options.time_rate or DEFAULT_TIME_RATE)
        # The same options go on exactly as if never interrupted; anything else is shifted: time never goes back.
        self.start = start + max(self.last_us - start - int(self.first * self.step), 0)
        self.schedule = None if options.rate is None else Schedule(options.rate, clock.monotonic())
        self.halves = options.partial in {"halves", "both"}
        self.lines = 0
        self.bytes = 0
        self.rotations = 0
        self.in_file = 0

    def run(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        """Write `total` events, and half of the next if asked to."""
        if self.transfers is None and self.start + int((self.first + total) * self.step) > _LAST_US:
            raise _after_the_end()
        group = HALVES_GROUP_EVENTS if self.halves else GROUP_EVENTS
        whole = self.faults is None and self.options.rotate_events is None and self.options.rotate_bytes is None
        done = 0
        while done < total:
            count = self._await_due(min(total - done, group))
            number = self.first + done
            times, texts = self._events(number, count)
            if whole:
                self._append("".join(texts).encode("ascii"), number)
                self.lines += count
            elif self.faults is None:
                self._write_lines((text.encode("ascii") for text in texts), number)
            else:
                spoilt = self.faults.apply(number, times, texts)
                self._write_lines((line for lines in spoilt for line in lines), number)
            done += count
            if progress is not None:
                progress(done, total)
        if self.options.partial in {"last", "both"}:
            number = self.first + total
            following = self._events(number, 1)[1][0].encode("ascii")
            self.bytes += len(following) // 2
            self.file.append(following[: len(following) // 2])

    def summary(self, seconds: float) -> Summary:
        """Return what was written in `seconds`."""
        faults = self.faults
        total = _total(self.options)
        return Summary(
            path=self.options.out,
            first=self.first,
            events=total,
            lines=self.lines,
            bytes=self.bytes,
            seconds=seconds,
            invalid=0 if faults is None else faults.invalid,
            duplicates=0 if faults is None else faults.duplicates,
            late=0 if faults is None else faults.late,
            rotations=self.rotations,
            first_day=None if self.transfers is None else self.transfers.first_day,
        )

    def _await_due(self, most: int) -> int:
        """Wait until the schedule has events due and return how many to write now, at most `most`."""
        if self.schedule is None:
            return most
        while (due := self.schedule.due(now := self.clock.monotonic())) == 0:
            self.clock.sleep(self.schedule.wait(now))
        return min(due, most)

    def _events(self, number: int, count: int) -> tuple[Sequence[int], list[str]]:
        """Return times and lines of events `number` and up, and count them as issued; transfers keep their times."""
        if self.transfers is None:
            times = self._times(number, count)
            return times, self.generator.lines(number, times)
        if self.schedule is not None:
            self.schedule.issued += count
        try:
            return (), self.transfers.take(count)
        except ValueError as error:
            raise _after_the_end() from error

    def _times(self, number: int, count: int) -> Sequence[int]:
        """Return the times of events `number` and up, and count them as issued."""
        if self.options.live:
            now, wall = self.clock.monotonic(), self.clock.wall_us()
            times: Sequence[int] = live_times(self.schedule, count, now, wall, self.last_us)
            self.last_us = times[-1]
        else:
            over, under = self.step.as_integer_ratio()
            if under == 1:
                times = range(self.start + number * over, self.start + (number + count) * over, over)
            else:
                times = [self.start + k * over // under for k in range(number, number + count)]
        if self.schedule is not None:
            self.schedule.issued += count
        return times

    def _write_lines(self, lines: Iterable[bytes], number: int) -> None:
        """Write lines one file at a time: a full file is renamed when there is one more line to write."""
        limit_events, limit_bytes = self.options.rotate_events, self.options.rotate_bytes
        group: list[bytes] = []
        length = self.file.length
        for line in lines:
            if (limit_events is not None and self.in_file >= limit_events) or (
                limit_bytes is not None and length >= limit_bytes
            ):
                self._append(b"".join(group), number)
                group = []
                self.file.rotate()
                self.rotations += 1
                self.in_file = length = 0
            group.append(line)
            length += len(line)
            self.in_file += 1
            self.lines += 1
        self._append(b"".join(group), number)

    def _append(self, data: bytes, number: int) -> None:
        """Append whole lines, at once or with a break inside one of them."""
        self.bytes += len(data)
        if self.halves and len(data) > 2:  # noqa: PLR2004 - two bytes can be two blank lines: no line to break
            drawn = int.from_bytes(draw_bytes("halves", self.options.seed, number, 4), "little")
            cut = 1 + (drawn * (len(data) - 2) >> 32)
            cut += data[cut - 1 : cut] == b"\n"
            self.file.append(data[:cut])
            if self.schedule is not None:
                self.clock.sleep(HALVES_PAUSE_SECONDS)
            data = data[cut:]
        self.file.append(data)


def _exact(rate: float) -> Fraction:
    """Return the decimal number that was meant: 0.1 is one tenth."""
    return Fraction(str(rate))


def _after_the_end() -> ConfigError:
    return ConfigError("the last event time would be after the year 9999", hint="start earlier, or write fewer")


def _refuse_for_transfers(options: GenerateOptions) -> None:
    """Raise ConfigError for an option that would have no effect, or another one, on transfers."""
    for name, given in (
        ("time-rate", options.time_rate is not None),
        ("live", options.live),
        ("bad", bool(options.bad)),
        ("duplicates", bool(options.duplicates)),
        ("disorder", bool(options.disorder)),
    ):
        if given:
            hint = f"leave it out, or choose a profile of {', '.join(PROFILES)}"
            raise ConfigError(f"--{name} does not go with --profile {options.profile}", hint=hint)
    if not 1 <= options.users <= MAX_ACCOUNTS:
        raise ConfigError(f"--users: {options.users} accounts are out of range", hint=f"give 1 to {MAX_ACCOUNTS:,}")


def _total(options: GenerateOptions) -> int:
    """Return how many events there will be, after checking every option. Raises ConfigError."""
    for name, rate in (("rate", options.rate), ("time-rate", options.time_rate)):
        if rate is not None and not 0 < rate <= MAX_RATE:
            raise ConfigError(f"--{name}: {rate} is out of range", hint=f"above 0, at most {MAX_RATE:,.0f} events/s")
    for name, share in (("bad", options.bad), ("duplicates", options.duplicates), ("disorder", options.disorder)):
        if not 0 <= share <= 1:
            raise ConfigError(f"--{name}: {share} is not a share of the events", hint="give a number from 0 to 1")
    for name, count in (
        ("events", options.events),
        ("rotate-events", options.rotate_events),
        ("rotate-bytes", options.rotate_bytes),
    ):
        if count is not None and count < 1:
            raise ConfigError(f"--{name}: {count} is out of range", hint="give 1 or more")
    if not 1 <= options.users <= MAX_USERS:
        raise ConfigError(f"--users: {options.users} is out of range", hint=f"give 1 to {MAX_USERS:,}")
    for name, value, allowed in (
        ("profile", options.profile, (*PROFILES, *TRANSFER_PROFILES)),
        ("partial", options.partial, PARTIAL_CHOICES),
    ):
        if value not in allowed:
            raise ConfigError(f"--{name}: {value!r} is unknown", hint=f"choose one of {', '.join(allowed)}")
    if options.profile in TRANSFER_PROFILES:
        _refuse_for_transfers(options)
    if (options.events is None) == (options.seconds is None):
        raise ConfigError("how many events is not clear", hint="give either --events, or --rate and --seconds")
    if options.seconds is None:
        return options.events or 0
    if options.rate is None:
        raise ConfigError("--seconds needs a rate", hint="add --rate, or give --events instead")
    if not 0 < options.seconds < float("inf"):
        raise ConfigError(f"--seconds: {options.seconds} is out of range", hint="give a number above 0")
    return max(int(_exact(options.rate) * _exact(options.seconds)), 1)


def _start_us(options: GenerateOptions) -> int:
    default = TRANSFERS_START if options.profile in TRANSFER_PROFILES else DEFAULT_START
    text = default if options.start is None else options.start
    try:
        start = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--start: {text!r} is not a time", hint=f"write it like {DEFAULT_START}") from error
    if start.tzinfo is None:
        raise ConfigError(f"--start: {text!r} has no time zone", hint=f"write it like {DEFAULT_START}")
    return (start - _EPOCH) // dt.timedelta(microseconds=1)
