"""The producer task: going on after the last persisted event, holding its rate, rotation and a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import json
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from support import PATIENCE
from tidewaiter.core.errors import ConfigError, DurabilityError
from tidewaiter.core.money_flow_generator import MoneyFlowGenerator, number_of
from tidewaiter.shell.appending_file import ROTATION_GRACE_SECONDS, TAIL_BYTES, AppendingFile
from tidewaiter.shell.generate_file import GenerateOptions, generate
from tidewaiter.shell.producer import BEHIND_SECONDS, GROUP_EVENTS, ProducerSettings, produce

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOON_US = 1_795_262_400_000_000  # 2026-11-21T12:00:00+00:00


@dataclass
class HandClock:
    """Time moves only while the producer pauses; `events` are called when their second comes, the last one stops it."""

    until: float
    events: dict[float, Callable[[], object]] = field(default_factory=dict)
    now: float = 0.0
    wall_shift_us: int = 0
    pauses: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def wall_us(self) -> int:
        return NOON_US + self.wall_shift_us + round(self.now * 1_000_000)

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    async def pause(self, seconds: float, stop: asyncio.Event) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        for due in sorted(second for second in self.events if second <= self.now):
            self.events.pop(due)()
        if self.now >= self.until:
            stop.set()
        await asyncio.sleep(0)


@dataclass
class ListLog:
    """A logger that keeps what it is told."""

    entries: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def info(self, event: str, *_args: object, **kw: object) -> None:
        self.entries.append((event, kw))

    warning = info

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.entries]

    def of(self, name: str) -> dict[str, object]:
        return next(fields for entry, fields in self.entries if entry == name)


class SmallDisk(AppendingFile):
    """A file on a disk with `room` bytes for it; a write that does not fit is cut short, the next one fails."""

    def __init__(self, path: Path, room: int, error: int = errno.ENOSPC) -> None:
        super().__init__(path)
        self.room = room
        self.error = error

    def _write(self, fd: int, data: bytes) -> int:
        left = self.room - os.fstat(fd).st_size
        if left <= 0:
            raise OSError(self.error, os.strerror(self.error))
        return os.write(fd, data[:left])


async def run(path: Path, until: float = 1.0, *, file: AppendingFile | None = None, clock: HandClock | None = None,
              **settings: Any) -> ListLog:  # fmt: skip
    """Run the producer for `until` seconds of hand-cranked time and return its log."""
    log = ListLog()
    clock = clock or HandClock(until)
    await produce(ProducerSettings(path, **settings), log=log, clock=clock, stop=asyncio.Event(), file=file)
    return log


def events_of(*paths: Path) -> list[dict[str, Any]]:
    """Return the events in the files; fails where one does not end in a whole line."""
    data = b"".join(path.read_bytes() for path in paths)
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def numbers_of(*paths: Path) -> list[int]:
    """Return the event numbers in the files."""
    numbers = [number_of(event["event_id"]) for event in events_of(*paths)]
    assert None not in numbers
    return [number for number in numbers if number is not None]


def micros(event: dict[str, Any]) -> int:
    """Return the event time in microseconds since 1970."""
    return round(dt.datetime.fromisoformat(event["event_time"]).timestamp() * 1_000_000)


def rotate(path: Path, old: Path) -> None:
    """Do what a rotation tool does: rename and create."""
    path.rename(old)
    path.touch()


def unbroken(numbers: list[int]) -> bool:
    """Say whether the numbers go up by one each."""
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_a_new_stream_is_created_with_its_directory(tmp_path: Path) -> None:
    """File and parents are made; events come at the rate, now, each with a number of its own."""
    path = tmp_path / "var" / "stream" / "events.jsonl"
    log = await run(path, 2.0, rate=100)
    events = events_of(path)
    assert len(events) == pytest.approx(200, abs=3)
    assert unbroken(numbers_of(path))
    assert [micros(event) - NOON_US for event in events] == pytest.approx(
        [10_000 * k for k in range(len(events))], abs=20
    )
    assert log.names == ["producer.started", "producer.stopped"]
    assert log.of("producer.stopped")["events"] == len(events)


async def test_a_second_start_goes_on_after_the_last_event(tmp_path: Path) -> None:
    """Numbers continue without a gap, times never go back even if the wall clock did."""
    path = tmp_path / "events.jsonl"
    await run(path, 1.0)
    first = events_of(path)
    log = await run(path, clock=HandClock(1.0, wall_shift_us=-3_600_000_000))
    events = events_of(path)
    assert events[: len(first)] == first
    assert len(events) > len(first) + 50
    assert unbroken(numbers_of(path))
    assert log.of("producer.started")["continued"] is True
    assert {micros(event) for event in events[len(first) :]} == {micros(first[-1])}


async def test_going_on_reads_only_the_end_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of the file does not matter: at most two blocks are read, whatever is before."""
    path = tmp_path / "events.jsonl"
    generate(GenerateOptions(out=path, events=5000))
    asked = 0
    pread = os.pread

    def count(fd: int, length: int, offset: int) -> bytes:
        nonlocal asked
        asked += length
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", count)
    await run(path, 0.1)
    assert asked <= 2 * TAIL_BYTES < path.stat().st_size / 5
    assert numbers_of(path)[5000] == 5000


@pytest.mark.parametrize("cut", [1, 5, 20, 30, 200])
async def test_its_own_partial_line_is_removed(tmp_path: Path, cut: int) -> None:
    """What a killed producer left unfinished is cut and logged, and its number is used again."""
    path = tmp_path / "events.jsonl"
    await run(path, 0.5)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:cut])
    log = await run(path, 0.5)
    assert path.read_bytes().startswith(whole)
    assert unbroken(numbers_of(path))
    assert log.of("producer.partial_line_removed")["bytes"] == cut


async def test_a_line_of_zeros_from_a_power_loss_is_removed(tmp_path: Path) -> None:
    """A page that never reached the disk reads as zeros and is no line."""
    path = tmp_path / "events.jsonl"
    await run(path, 0.5)
    with path.open("ab") as file:
        file.write(bytes(3 * TAIL_BYTES))
    log = await run(path, 0.5)
    assert log.of("producer.partial_line_removed")["bytes"] == 3 * TAIL_BYTES
    assert unbroken(numbers_of(path))


async def test_a_foreign_partial_line_is_refused(tmp_path: Path) -> None:
    """An unfinished line of another program is not cut: the daemon says so and stops."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"id": 7')
    with pytest.raises(ConfigError, match="not written by this producer"):
        await run(path)
    assert path.read_bytes() == b'{"id": 7'


@pytest.mark.parametrize("seed", [1, 2])
async def test_ids_never_repeat_on_a_file_without_own_events(tmp_path: Path, seed: int) -> None:
    """Behind a foreign line numbering goes on at the wall clock's microseconds, above everything used before."""
    path = tmp_path / "events.jsonl"
    generate(GenerateOptions(out=path, events=10, seed=3, start="2030-01-01T00:00:00Z"))
    await run(path, 0.5, seed=seed)
    fresh = events_of(path)[10:]
    assert numbers_of(path)[10] == NOON_US
    assert min(map(micros, fresh)) >= micros(events_of(path)[9])
    path.unlink()
    await run(path, clock=HandClock(1.0, wall_shift_us=1_000_000), seed=seed)
    assert not {event["event_id"] for event in events_of(path)} & {event["event_id"] for event in fresh}


async def test_an_empty_file_after_a_rotation_continues_the_old_one(tmp_path: Path) -> None:
    """Rotated while down: numbers and times follow those of NAME.1."""
    path, old = tmp_path / "events.jsonl", tmp_path / "events.jsonl.1"
    await run(path, 0.5)
    path.rename(old)
    path.touch()
    await run(path, clock=HandClock(0.5, wall_shift_us=-60_000_000))
    assert unbroken(numbers_of(old, path))
    assert micros(events_of(path)[0]) == micros(events_of(old)[-1])


async def test_a_rotation_is_followed(tmp_path: Path) -> None:
    """After rename and create the new file gets everything further, no event is lost or torn."""
    path, old = tmp_path / "events.jsonl", tmp_path / "events.jsonl.1"
    clock = HandClock(2.0, {1.0: lambda: rotate(path, old)})
    log = await run(path, clock=clock)
    assert len(events_of(old)) == pytest.approx(100, abs=3)
    assert len(events_of(path)) == pytest.approx(100, abs=3)
    assert unbroken(numbers_of(old, path))
    assert log.names == ["producer.started", "producer.stream_replaced", "producer.stopped"]


def test_the_other_half_of_a_line_stays_in_its_file(tmp_path: Path) -> None:
    """A rotation between the halves of a line is followed only behind that line."""
    path, old = tmp_path / "events.jsonl", tmp_path / "events.jsonl.1"
    with AppendingFile(path) as file:
        file.open()
        file.append(b"one ")
        rotate(path, old)
        assert file.follow(0.0) is None
        file.append(b"line\n")
        assert file.follow(0.0) is not None
        file.append(b"next\n")
    assert (old.read_bytes(), path.read_bytes()) == (b"one line\n", b"next\n")


async def test_three_rotations_in_a_row_are_followed(tmp_path: Path) -> None:
    """Each new file is found, and together they hold every event once."""
    path = tmp_path / "events.jsonl"
    olds = [tmp_path / f"old.{number}" for number in range(3)]
    clock = HandClock(2.0, {0.5 * i + 0.5: partial(rotate, path, old) for i, old in enumerate(olds)})
    await run(path, clock=clock)
    assert unbroken(numbers_of(*olds, path))
    assert all(events_of(old) for old in olds)


async def test_a_renamed_file_is_written_until_the_new_one_is_there(tmp_path: Path) -> None:
    """Between rename and create the old file goes on for the grace; then the producer makes the new one itself."""
    path, old = tmp_path / "events.jsonl", tmp_path / "old"
    log = await run(path, clock=HandClock(3.0, {1.0: lambda: path.rename(old)}))
    assert len(events_of(old)) == pytest.approx(100 + 100 * ROTATION_GRACE_SECONDS, abs=6)
    assert unbroken(numbers_of(old, path))
    assert "producer.stream_replaced" in log.names


async def test_a_deleted_file_is_made_again_at_once(tmp_path: Path) -> None:
    """Nothing is written to a file that has no name any more."""
    path = tmp_path / "events.jsonl"
    await run(path, clock=HandClock(2.0, {1.0: path.unlink}))
    assert len(events_of(path)) == pytest.approx(100, abs=4)


async def test_a_new_file_that_is_not_ours_yet_is_waited_for(tmp_path: Path) -> None:
    """A rotation tool needs a moment to finish the new file: what cannot be opened stops the producer only later."""
    path, old = tmp_path / "events.jsonl", tmp_path / "old"

    def replace_with_directory() -> None:
        path.rename(old)
        path.mkdir()

    def finish() -> None:
        path.rmdir()
        path.touch()

    log = await run(path, clock=HandClock(2.0, {0.5: replace_with_directory, 1.0: finish}))
    assert unbroken(numbers_of(old, path))
    assert log.names[-1] == "producer.stopped"
    old.unlink()
    with pytest.raises(ConfigError):
        await run(path, clock=HandClock(5.0, {0.5: replace_with_directory}))


async def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """It backs off, says so once, then finishes the line it was in: no event is torn, repeated or out of order."""
    path = tmp_path / "events.jsonl"
    file = SmallDisk(path, 5000)

    def room() -> None:
        assert path.stat().st_size == 5000
        file.room = 10**9

    clock = HandClock(30.0, {20.0: room})
    log = await run(path, clock=clock, file=file)
    assert unbroken(numbers_of(path))
    assert log.names == ["producer.started", "producer.disk_full", "producer.disk_free", "producer.stopped"]
    assert len(events_of(path)) < 100 + 10 * 105 + 100  # what was due meanwhile is not made up for
    assert max(clock.pauses) == 5.0


async def test_a_disk_full_at_the_start_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be created for want of space is tried again."""
    path = tmp_path / "events.jsonl"
    bare_open = os.open
    failures = iter([OSError(errno.ENOSPC, "No space left on device")] * 2)

    def fail(name: Any, flags: int, *rest: Any, **more: Any) -> int:
        if name == path and (error := next(failures, None)) is not None:
            raise error
        return bare_open(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", fail)
    log = await run(path)
    assert log.names[:3] == ["producer.disk_full", "producer.disk_free", "producer.started"]
    assert unbroken(numbers_of(path))


async def test_stopped_on_a_full_disk_nothing_half_written_stays(tmp_path: Path) -> None:
    """A stop during the wait cuts the half line; the next start goes on behind the last whole one."""
    path = tmp_path / "events.jsonl"
    log = await run(path, 5.0, file=SmallDisk(path, 5000))
    assert events_of(path)
    assert 4000 < path.stat().st_size < 5000
    assert log.names[-1] == "producer.stopped"
    await run(path)
    assert unbroken(numbers_of(path))


async def test_a_failing_disk_ends_the_daemon(tmp_path: Path) -> None:
    """An I/O error is not waited for: it is raised, and what was half-written is cut."""
    path = tmp_path / "events.jsonl"
    with pytest.raises(DurabilityError, match="Input/output error"):
        await run(path, file=SmallDisk(path, 5000, errno.EIO))
    assert events_of(path)


async def test_cancellation_waits_for_the_write_in_flight(tmp_path: Path) -> None:
    """A cancelled producer ends only when its write has returned, and leaves whole lines."""
    path = tmp_path / "events.jsonl"
    entered, let_go = threading.Event(), threading.Event()

    class SlowDisk(AppendingFile):
        def _write(self, fd: int, data: bytes) -> int:
            count = os.write(fd, data if entered.is_set() else data[:100])
            entered.set()
            assert let_go.wait(PATIENCE)
            return count

    task = asyncio.create_task(run(path, 10**6, file=SlowDisk(path)))
    await asyncio.to_thread(entered.wait, 10)
    for _ in range(3):  # impatience changes nothing
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(events_of(path)) == 1


async def test_cancelled_at_any_moment_only_whole_lines_stay(tmp_path: Path) -> None:
    """Cancelled after any number of steps of the loop, the file ends in a newline and goes on without a gap."""
    path = tmp_path / "events.jsonl"
    for steps in range(40):
        task = asyncio.create_task(run(path, 10**6, rate=5000))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        events_of(*[path] * path.exists())
    numbers = numbers_of(path)
    assert sorted(set(numbers)) == numbers


async def test_the_loop_is_not_blocked_by_a_slow_disk(tmp_path: Path) -> None:
    """While a write hangs, other tasks run."""
    path = tmp_path / "events.jsonl"
    entered, let_go = threading.Event(), threading.Event()

    class SlowDisk(AppendingFile):
        def _write(self, fd: int, data: bytes) -> int:
            entered.set()
            assert let_go.wait(PATIENCE)
            return os.write(fd, data)

    task = asyncio.create_task(run(path, 0.1, file=SlowDisk(path)))
    await asyncio.to_thread(entered.wait, 10)
    await asyncio.sleep(0)  # would hang here
    let_go.set()
    await task
    assert events_of(path)


async def test_ready_comes_after_the_partial_line_is_gone(tmp_path: Path) -> None:
    """Whoever waits for `ready` finds whole lines only."""
    path = tmp_path / "events.jsonl"
    await run(path, 0.5)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event_id": "')
    ready, stop = asyncio.Event(), asyncio.Event()
    settings = ProducerSettings(path, rate=0.001)
    task = asyncio.create_task(produce(settings, log=ListLog(), stop=stop, ready=ready))
    await asyncio.wait_for(ready.wait(), 10)
    assert path.read_bytes().startswith(whole)
    assert path.read_bytes().endswith(b"\n")
    stop.set()
    await asyncio.wait_for(task, 10)


async def test_the_rate_is_held_in_ticks(tmp_path: Path) -> None:
    """At a high rate a tick carries what the schedule demands; at a low one nothing wakes up for nothing."""
    fast = HandClock(2.0)
    await run(tmp_path / "fast", clock=fast, rate=20_000)
    assert len(events_of(tmp_path / "fast")) == pytest.approx(40_000, abs=500)
    assert len(fast.pauses) <= 101
    slow = HandClock(100.0)
    await run(tmp_path / "slow", clock=slow, rate=0.1)
    assert len(events_of(tmp_path / "slow")) == 10
    assert len(slow.pauses) == 10


async def test_a_long_sleep_of_the_machine_is_not_made_up_for(tmp_path: Path) -> None:
    """After a suspend the stream is not flooded with what would have happened."""
    path = tmp_path / "events.jsonl"
    clock = HandClock(10_000.0, {5.0: lambda: setattr(clock, "now", 9_999.0)})
    log = await run(path, clock=clock, rate=1000)
    assert "producer.behind" in log.names
    assert len(events_of(path)) < 1000 * (5 + 1 + BEHIND_SECONDS) + GROUP_EVENTS


@pytest.mark.parametrize("settings", [{"rate": 0}, {"rate": float("nan")}, {"profile": "loud"}, {"users": 0}])
async def test_settings_out_of_range_are_named(tmp_path: Path, settings: dict[str, Any]) -> None:
    """A wrong setting ends in one line that names it."""
    with pytest.raises(ConfigError, match=f"producer {next(iter(settings))}"):
        await run(tmp_path / "events.jsonl", **settings)


async def test_the_events_are_those_of_the_seed(tmp_path: Path) -> None:
    """Event k is what the generator says, but for its time."""
    path = tmp_path / "events.jsonl"
    await run(path, seed=42, users=77)
    generator = MoneyFlowGenerator(42, 77)
    for number, event in zip(numbers_of(path), events_of(path), strict=True):
        assert json.loads(generator.lines(number, [micros(event)])[0]) == event


async def test_on_the_real_clock_it_stops_at_once(tmp_path: Path) -> None:
    """With the machine's clock and loop: events appear, and `stop` ends it without waiting for the next event."""
    path = tmp_path / "events.jsonl"
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(produce(ProducerSettings(path, rate=0.01), log=ListLog(), stop=stop, ready=ready))
    await asyncio.wait_for(ready.wait(), 10)
    stop.set()
    await asyncio.wait_for(task, 10)
    assert len(events_of(path)) <= 1
