"""Failing disks under the whole daemon: it says so, ends with its exit code or waits, and goes on exactly."""

from __future__ import annotations

import asyncio
import errno
import random
import shutil
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigs import daemon, strace
from rigs.daemon import Following, make_settings, make_stream, none_of
from rigs.faulty_disk import FOREVER, Fault, FaultyDisk, Primitive
from rigs.kill import environment
from rigs.power_loss import RecordingDisk
from rigs.tmpfs import PAGE, quick_directory, small_disk
from support import COMMAND
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_DURABILITY, TidewaiterError
from tidewaiter.edges.durable import Disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.shell.settings import Settings

LONG = (pytest.mark.long, pytest.mark.timeout(7200))


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A quick directory for the tests of this file, with a stream and what an undisturbed run makes of it."""
    with quick_directory() as path:
        make_stream(path / "in" / "events.jsonl", 200)
        daemon.succeed(settings_for(path, "whole"))
        yield path


def settings_for(place: Path, name: str, **changes: Any) -> Settings:
    """Return settings for a run of a dozen batches, with sealing, in the state directory `name`."""
    return make_settings(
        place / "in" / "events.jsonl", place / name, **{"batch_bytes": 5000, "segment_bytes": 20_000, **changes}
    )


def finish(place: Path, name: str, problems: list[str], why: str) -> None:
    """Start again with a disk that works, and note what is then missing or refused."""
    try:
        ended = daemon.run(settings_for(place, name))
        assert ended.status == EXIT_CLEAN, ended
        daemon.assert_same(place / name, place / "whole")
    except (AssertionError, TidewaiterError, OSError) as error:
        problems.append(f"{why}: {error!s:.600}")


# -- fsync -------------------------------------------------------------------------------------------------------------

SYNCED: Final[dict[str, tuple[Primitive, str]]] = {
    "audit": ("fdatasync", "*/audit/audit-*.jsonl"),
    "new audit segment": ("fsync", "*/audit/audit-*.jsonl"),
    "audit directory": ("fsync_directory", "*/audit"),
    "flags": ("fdatasync", "flags.jsonl"),
    "rejections": ("fdatasync", "rejections.jsonl"),
    "checkpoint": ("fsync", ".checkpoint.json.tmp"),
    "snapshot": ("fsync", ".snapshot-*.tmp"),
    "snapshot directory": ("fsync_directory", "*/snapshots"),
    "run log": ("fsync", ".run_*.json.tmp"),
    "rules archive": ("fsync", "*/rules/.*.tmp"),
    "report": ("fsync", ".validation_report.json.tmp"),
    "state directory": ("fsync_directory", "*/faulty"),
}  # fmt: skip


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("what", SYNCED)
def test_failed_fsync_ends_the_run_and_recovers(place: Path, what: str, code: int) -> None:
    """The first, a middle and the last sync of each file fails: exit 5, no retry on it, and an exact recovery."""
    primitive, pattern = SYNCED[what]
    counting = FaultyDisk()
    daemon.succeed(settings_for(place, "faulty"), counting)
    shutil.rmtree(place / "faulty")
    total = counting.count(primitive, pattern)
    assert total > 0
    problems: list[str] = []
    for nth in sorted({1, total // 2 + 1, total}):
        for persisted in (False, True):
            disk = FaultyDisk([Fault(primitive, pattern, nth=nth, errno=code, persisted=persisted)])
            ended = daemon.run(settings_for(place, "faulty"), disk)
            why = f"{what}, sync {nth} of {total}, persisted: {persisted}"
            if disk.failures:
                if ended.status != EXIT_DURABILITY or "fsync failed" not in ended.message:
                    problems.append(f"{why}: {ended}")
            elif nth != total:
                problems.append(f"{why}: was not failed")
            problems += [f"{why}: tried again: {call}" for call in disk.syncs_retried()]
            finish(place, "faulty", problems, why)
            shutil.rmtree(place / "faulty")
    none_of(problems)


def test_nothing_that_a_failed_sync_lost_is_counted_on(place: Path) -> None:
    """Each sync of any file in turn fails and loses its pages; a power loss behind the next run finds all it built on.

    Counted as lost are the pages of files; a directory's names are only taken for not confirmed.
    """
    counting = FaultyDisk()
    daemon.succeed(settings_for(place, "faulty"), counting)
    shutil.rmtree(place / "faulty")
    problems: list[str] = []
    syncs: tuple[Primitive, ...] = ("fdatasync", "fsync", "fsync_directory")
    for primitive in syncs:
        for nth in range(1, counting.count(primitive) + 1):
            root = place / "recorded"
            root.mkdir()
            recorder = RecordingDisk(root)
            disk = FaultyDisk([Fault(primitive, nth=nth)], recorder)
            ended = daemon.run(settings_for(place, "recorded/state"), disk)
            name = f"{primitive} {nth}"
            if disk.failures:  # a run may sync a little less often than the one before it: checkpoints keep a pace
                name += f" of {disk.failures[0].path.name}"
                if ended.status != EXIT_DURABILITY:
                    problems.append(f"{name}: {ended}")
            daemon.succeed(settings_for(place, "recorded/state"), recorder)
            crash = recorder.history.crash_states(random.Random(nth), len(recorder.ops) - 1, samples=0)[0]
            crash.materialise(place / "crashed")
            try:
                assert daemon.committed(place / "crashed/state") == daemon.committed(root / "state")
                daemon.assert_same(place / "crashed/state", place / "whole")
            except (AssertionError, OSError) as error:
                problems.append(f"{name}, {crash.name}: {error!s:.400}")
            finish(place, "crashed/state", problems, name)
            shutil.rmtree(place / "crashed")
            shutil.rmtree(root)
    none_of(problems)


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_real_system_call_fails(tmp_path: Path, place: Path, call: str) -> None:
    """The kernel's own fdatasync or fsync fails in the command line program: one line, exit 5, exact recovery."""
    stream = place / "in" / "events.jsonl"
    config = daemon.write_config(
        tmp_path / "config", stream, tmp_path / "state", batch='max_bytes = "5000B"', state='segment_bytes = "20000B"'
    )
    command = [*COMMAND, "run", "--config", str(config), "--once"]
    ended = strace.run_injected(command, [f"{call}:error=EIO:when=4"], env=environment(NO_COLOR="1"))
    assert ended.status == EXIT_DURABILITY, ended
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("tidewaiter: ")
    assert "fsync failed: Input/output error" in last
    problems: list[str] = []
    daemon.succeed(make_settings(stream, tmp_path / "state", batch_bytes=5000, segment_bytes=20_000))
    daemon.assert_same(tmp_path / "state", place / "whole")
    none_of(problems)


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=LONG)])
@pytest.mark.parametrize("short", [None, 1, 100])
def test_full_disk_at_any_write_waits_for_space(place: Path, step: int, short: int | None) -> None:
    """A write finds the disk full twice, at once or after some bytes; the run goes on by itself, or ends with 5."""
    counting = FaultyDisk()
    daemon.succeed(settings_for(place, "faulty"), counting)
    shutil.rmtree(place / "faulty")
    problems: list[str] = []
    gave_up = 0
    for nth in range(1, counting.count("pwrite") + 1, step):
        disk = FaultyDisk([Fault("pwrite", nth=nth, errno=errno.ENOSPC, times=1, short=short)])
        ended = daemon.run(settings_for(place, "faulty"), disk)
        name = disk.failures[0].path.name if disk.failures else "nothing"
        gave_up += ended.status == EXIT_DURABILITY
        if ended.status not in {EXIT_CLEAN, EXIT_DURABILITY}:
            problems.append(f"write {nth} ({name}): {ended}")
        if ended.status and name == "flags.jsonl":
            problems.append(f"write {nth} ({name}): gave up though the commit stands: {ended}")
        finish(place, "faulty", problems, f"write {nth} ({name})")
        shutil.rmtree(place / "faulty")
    assert gave_up < counting.count("pwrite") / step / 3, "a start or a stop may give up, a daemon at work may not"
    none_of(problems)


def test_short_writes_are_continued(place: Path) -> None:
    """Every write is cut short by the system; what is written is the same."""

    class ShortDisk(Disk):
        def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            return super()._pwrite(fd, data[:37], offset)

    daemon.succeed(settings_for(place, "short"), ShortDisk())
    daemon.assert_same(place / "short", place / "whole")


@pytest.mark.root
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=LONG)])
def test_really_full_disk_at_each_page(tmp_path: Path, place: Path, step: int) -> None:
    """A tmpfs fills up while the daemon works; when space returns it goes on, with the identical result."""
    problems: list[str] = []
    with small_disk(tmp_path, 1024 * PAGE) as small:
        for leave in range(24, 110, step):
            state = small.path / "state"
            settings = make_settings(
                place / "in" / "events.jsonl", state, batch_bytes=5000, segment_bytes=20_000, snapshot_events=30
            )
            small.fill(leave=leave)
            timer = threading.Timer(0.6, small.free)
            timer.start()
            ended = daemon.run(settings)
            timer.join()
            if ended.status not in {EXIT_CLEAN, EXIT_DURABILITY}:
                problems.append(f"{leave} pages: {ended}")
            try:
                daemon.succeed(settings)
                daemon.assert_same(state, place / "whole")
            except AssertionError as error:
                problems.append(f"{leave} pages: {error!s:.600}")
            shutil.rmtree(state)
    none_of(problems)


async def test_full_disk_is_told_and_survived_while_following(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is full the daemon stays, says so in STATUS and log, feeds the watchdog, and then goes on."""
    settings = settings_for(place, "full")
    fault = Fault("pwrite", "audit-*.jsonl", nth=6, errno=errno.ENOSPC, times=FOREVER)
    size = settings.stream.path.stat().st_size
    async with Following(settings, FaultyDisk([fault])) as following:
        said: list[str] = []
        fed: list[float] = []
        await following.until(lambda: following.supervisor.consumer)
        monkeypatch.setattr(following.supervisor.services, "status", said.append)
        await following.until(lambda: any("DISK FULL" in text for text in said), "STATUS")
        monkeypatch.setattr(following.supervisor.services, "watchdog", lambda: fed.append(0))
        await following.until(lambda: fed, "the watchdog")
        assert following.offset < size
        fault.times = 0
        await following.reaches(size)
    daemon.assert_same(place / "full", place / "whole")
    assert [line["event"] for line in daemon.log_events(place / "full", "disk.full", "disk.recovered")] == [
        "disk.full", "disk.recovered",
    ]  # fmt: skip


async def test_stop_while_the_disk_is_full(place: Path) -> None:
    """SIGTERM while the disk is full ends the daemon within seconds; nothing committed is lost."""
    settings = settings_for(place, "stopped")
    fault = Fault("pwrite", "audit-*.jsonl", nth=6, errno=errno.ENOSPC, times=FOREVER)
    following = Following(settings, FaultyDisk([fault]))
    await following.__aenter__()
    await following.until(lambda: daemon.log_events(place / "stopped", "disk.full"))
    following.supervisor._stop(15)
    ended = await following.ended(5)
    assert ended.status in {EXIT_CLEAN, EXIT_DURABILITY}
    problems: list[str] = []
    await asyncio.to_thread(finish, place, "stopped", problems, "stopped")
    none_of(problems)
