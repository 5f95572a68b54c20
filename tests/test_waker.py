"""The waker: wake-ups are coalesced and never lost, and a dead watcher costs latency, never the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from fakes import FakeWaker
from support import PATIENCE, cli_environment, wait_until_async
from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.waker import FileWaker, Waker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

CHANGES = {"something"}
SIGN_OF_LIFE: set[Any] = set()
END = object()


class Panic(BaseException):
    """Stands for a panic in the library's Rust part, which is not an Exception."""


class Watch:
    """A watcher cranked by hand, its clock and its pauses."""

    def __init__(self) -> None:
        self.started = 0
        self.closed = 0
        self.now = 0.0
        self.pauses: list[float] = []
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, directory: Path) -> AsyncGenerator[set[Any], None]:
        self.started += 1
        try:
            while (item := await self._queue.get()) is not END:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.closed += 1

    async def feed(self, *items: object) -> None:
        """Let the watcher do these things, and whoever looks at it react."""
        for item in items:
            self._queue.put_nowait(item)
        await settle()

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


WATCHING = """
import asyncio, contextlib, pathlib, sys
from tidewaiter.edges import waker
waker.TICK_MS = 3_600_000
async def main():
    task = asyncio.create_task(waker.FileWaker(pathlib.Path(sys.argv[1])).run())
    await asyncio.sleep(0.2)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    print("cancelled", flush=True)
asyncio.run(main())
"""


async def settle() -> None:
    """Let all tasks that can go on do so."""
    for _ in range(200):
        await asyncio.sleep(0)


@pytest.fixture
def watch() -> Watch:
    """The watcher to crank."""
    return Watch()


@pytest.fixture
async def waker(tmp_path: Path, watch: Watch) -> AsyncIterator[FileWaker]:
    """A FileWaker that runs with the cranked watcher."""
    waker = FileWaker(tmp_path, watch=watch, clock=lambda: watch.now, pause=watch.pause)
    async with running(waker):
        await settle()
        yield waker


@contextlib.asynccontextmanager
async def running(waker: FileWaker) -> AsyncIterator[asyncio.Task[object]]:
    """Run the waker's task inside the block."""
    task: asyncio.Task[object] = asyncio.create_task(waker.run(), name="waker")
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def names(logged: list[Any]) -> list[str]:
    """Return the event names."""
    return [entry["event"] for entry in logged]


async def test_wake_up_between_waits_is_kept(tmp_path: Path) -> None:
    """A kick while nobody waits ends the next wait at once."""
    waker = FileWaker(tmp_path)
    waker.kick()
    assert await waker.wait(60.0) is True


async def test_wake_ups_are_coalesced(tmp_path: Path) -> None:
    """Any number of kicks ends one wait, not several."""
    waker = FileWaker(tmp_path)
    for _ in range(5):
        waker.kick()
    assert await waker.wait(60.0) is True
    assert await waker.wait(0.001) is False


async def test_wake_up_ends_a_wait_in_progress(tmp_path: Path) -> None:
    """Whoever waits already is woken."""
    waker = FileWaker(tmp_path)
    waiting = asyncio.create_task(waker.wait(60.0))
    await settle()
    assert not waiting.done()
    waker.kick()
    assert await waiting is True


async def test_time_out_needs_no_watcher(tmp_path: Path) -> None:
    """Without a running watcher the wait still ends, so that polling goes on."""
    assert await FileWaker(tmp_path / "missing").wait(0.001) is False
    assert await FileWaker(tmp_path / "missing").wait(0.0) is False


async def test_looks_prolong_the_wait(tmp_path: Path) -> None:
    """While nothing has changed the wait goes on, but not beyond the number of looks; the last one asks nobody."""
    answers = [True, True, True]
    assert await FileWaker(tmp_path).wait(0.001, answers.pop, 3) is False
    assert answers == [True]


async def test_a_look_that_finds_a_change_ends_the_wait(tmp_path: Path) -> None:
    """What was not notified is found at the next look, long before the last one."""
    answers = [True, False, True]
    assert await FileWaker(tmp_path).wait(0.001, answers.pop, 1_000_000) is False
    assert answers == [True]


async def test_a_look_that_fails_is_told_to_whoever_waits(tmp_path: Path) -> None:
    """An error does not end up with the event loop, where nobody would stop for it."""

    def refuse() -> bool:
        raise ConfigError("the stream cannot be read")

    with pytest.raises(ConfigError, match="cannot be read"):
        await FileWaker(tmp_path).wait(0.001, refuse, 2)


async def test_no_look_behind_the_end_of_a_wait(tmp_path: Path) -> None:
    """Woken or cancelled, whoever waited is not asked any more."""
    waker = FileWaker(tmp_path)
    asked: list[float] = []

    def look() -> bool:
        asked.append(time.monotonic())
        return True

    for woken in (True, False):
        waiting = asyncio.create_task(waker.wait(0.001, look, 1_000_000))
        await wait_until_async(lambda: asked, what="a look")
        if woken:
            waker.kick()
        else:
            waiting.cancel()
        await asyncio.wait([waiting])
        asked.clear()
        assert await waker.wait(0.01) is False
        assert asked == []


async def test_steady_wake_ups_starve_nobody(tmp_path: Path) -> None:
    """A wait that could end at once still lets the other tasks run."""
    waker = FileWaker(tmp_path)
    other = asyncio.create_task(asyncio.sleep(0))
    for _ in range(3):
        waker.kick()
        await waker.wait(60.0)
    assert other.done()


async def test_cancelled_wait_leaves_the_wake_up(tmp_path: Path) -> None:
    """A wake-up that comes after a cancelled wait belongs to the next one."""
    waker = FileWaker(tmp_path)
    waiting = asyncio.create_task(waker.wait(60.0))
    await settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    waker.kick()
    assert await waker.wait(60.0) is True


async def test_changes_wake_and_signs_of_life_do_not(waker: FileWaker, watch: Watch) -> None:
    """Only a burst of changes is a wake-up; the watcher's sign of life is none."""
    await watch.feed(SIGN_OF_LIFE)
    assert await waker.wait(0.001) is False
    await watch.feed(CHANGES, CHANGES)
    assert await waker.wait(0.001) is True
    assert await waker.wait(0.001) is False


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        (OSError("inotify limit"), "OSError: inotify limit"),
        (Panic("rust"), "Panic: rust"),
        (ExceptionGroup("tasks", [RuntimeError("thread")]), "RuntimeError: thread"),
        (END, "the watcher ended"),
    ],
)
async def test_dead_watcher_is_recreated(waker: FileWaker, watch: Watch, death: object, reason: str) -> None:
    """However the watcher dies, it is logged, somebody looks at the stream, and another one takes its place."""
    with capture_logs() as logged:
        await watch.feed(death)
    assert names(logged) == ["watcher.lost"]
    assert logged[0]["error"] == reason
    assert waker.failures == 1
    assert watch.started == 2
    assert await waker.wait(0.001) is True
    await watch.feed(CHANGES)
    assert await waker.wait(0.001) is True


async def test_streak_of_failures_is_logged_once_with_bounded_pauses(waker: FileWaker, watch: Watch) -> None:
    """A watcher that dies again and again makes one line, and pauses that double up to a limit."""
    with capture_logs() as logged:
        await watch.feed(*[OSError("no")] * 9)
        assert names(logged) == ["watcher.lost"]
        assert watch.pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
        watch.now += 5.0
        await watch.feed(SIGN_OF_LIFE, SIGN_OF_LIFE)
        assert names(logged) == ["watcher.lost", "watcher.recreated"]
        assert logged[1]["failures"] == 9
        assert waker.failures == 0
        await watch.feed(END)
    assert names(logged) == ["watcher.lost", "watcher.recreated", "watcher.lost"]
    assert watch.pauses[-1] == 0.1


async def test_short_lived_watcher_does_not_end_the_streak(waker: FileWaker, watch: Watch) -> None:
    """A watcher that works for a moment and dies again is no recovery: no new lines, no shorter pauses."""
    with capture_logs() as logged:
        for _ in range(4):
            await watch.feed(CHANGES, END)
    assert names(logged) == ["watcher.lost"]
    assert watch.pauses == [0.1, 0.2, 0.4, 0.8]


async def test_end_of_a_streak_wakes(waker: FileWaker, watch: Watch) -> None:
    """What happened while nobody watched is looked at when the watcher is back."""
    await watch.feed(END)
    assert await waker.wait(0.001) is True
    watch.now += 5.0
    await watch.feed(SIGN_OF_LIFE)
    assert await waker.wait(0.001) is True


async def test_missing_directory_is_awaited(tmp_path: Path, watch: Watch) -> None:
    """A directory that is not there yet is tried again; once it appears it is watched."""
    directory = tmp_path / "late"
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            directory.mkdir()
        await asyncio.sleep(0)

    waker = FileWaker(directory, watch=watch, clock=lambda: 0.0, pause=pause)
    with capture_logs() as logged:
        async with running(waker):
            await settle()
            assert watch.started == 1
            assert pauses == [0.1, 0.2, 0.4]
            await waker.wait(0.001)
            await watch.feed(CHANGES)
            assert await waker.wait(0.001) is True
    assert names(logged) == ["watcher.lost"]


@pytest.mark.parametrize("replaced", [True, False])
async def test_replaced_or_removed_directory_is_noticed(
    tmp_path: Path, watch: Watch, waker: FileWaker, replaced: bool
) -> None:
    """A watch stays with the directory it was set on, so a new one under the same name needs a new watch."""
    tmp_path.rename(tmp_path.with_name("old"))
    if replaced:
        tmp_path.mkdir()
    with capture_logs() as logged:
        await watch.feed(SIGN_OF_LIFE)
    assert names(logged) == ["watcher.lost"]
    assert ("was replaced" if replaced else "FileNotFoundError") in logged[0]["error"]
    assert watch.closed == 1
    assert await waker.wait(0.001) is True


async def test_cancellation_ends_the_watcher(tmp_path: Path, watch: Watch) -> None:
    """Stopping is the only way out of `run`, and it closes the watch."""
    waker = FileWaker(tmp_path, watch=watch, pause=watch.pause)
    async with running(waker) as task:
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert watch.closed == 1
    assert watch.pauses == []


async def test_real_notifications_wake(tmp_path: Path) -> None:
    """Appending, creating and rotating wake a real watcher; reading the stream does not."""
    stream = tmp_path / "events.jsonl"
    waker = FileWaker(tmp_path)
    async with running(waker):

        async def woken_by_append(seconds: float) -> bool:
            with stream.open("ab") as file:
                file.write(b"{}\n")
            return await waker.wait(seconds)

        async with asyncio.timeout(PATIENCE):
            while not await woken_by_append(0.5):  # the first ones may come before the watch is set
                pass
            while await waker.wait(0.1):
                pass
            for _ in range(5):
                stream.read_bytes()
            assert await waker.wait(0.2) is False
            stream.rename(tmp_path / "events.jsonl.1")
            assert await waker.wait(PATIENCE) is True
            assert await woken_by_append(PATIENCE) is True
        assert waker.failures == 0


async def test_real_watcher_follows_a_replaced_directory(tmp_path: Path) -> None:
    """Appends in a directory that took the place of the watched one wake again."""
    directory = tmp_path / "stream"
    directory.mkdir()
    waker = FileWaker(directory)
    async with running(waker):
        await wait_until_async(lambda: waker._kicked or not (directory / "a").write_bytes(b"\n"), what="a watch")
        directory.rename(tmp_path / "old")
        directory.mkdir()
        await wait_until_async(lambda: waker.failures == 1, what="noticing the replacement")
        async with asyncio.timeout(PATIENCE):
            woken = False
            while not woken:
                while await waker.wait(0.05):
                    pass
                (directory / "a").write_bytes(b"\n")
                woken = await waker.wait(0.5)


def test_real_watcher_stops_at_once(tmp_path: Path) -> None:
    """A process that has cancelled its watcher ends, however long the library's thread may wait for a change."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHING, str(tmp_path)],
        env=cli_environment(), stdout=subprocess.PIPE, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert done.stdout == b"cancelled\n"


async def test_fake_is_a_waker() -> None:
    """The hand-cranked waker keeps the promises of the real one, without a clock."""
    fake = FakeWaker()
    waker: Waker = fake
    waker.kick()
    waker.kick()
    assert await waker.wait(0.5) is True
    waiting = asyncio.create_task(waker.wait(0.7))
    await fake.elapse()
    assert await waiting is False
    waiting = asyncio.create_task(waker.wait(0.9))
    await fake.waiting()
    waker.kick()
    assert await waiting is True
    assert fake.waits == [0.5, 0.7, 0.9]
