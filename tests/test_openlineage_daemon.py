"""The daemon's OpenLineage events: when they are told, how they stand against the audit log, what a crash leaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from openlineage_rig import events, hang, problems, restated, serving, status, take, told
from rigs.daemon import (
    Following,
    actions,
    assert_consistent,
    entries,
    log_events,
    make_settings,
    make_stream,
    run,
    succeed,
)
from rigs.kill import KILLED, Launcher, count_calls, every_point
from rigs.tmpfs import quick_directory
from stopwatch import Stopwatch
from tidewaiter.core.errors import EXIT_INTEGRITY
from tidewaiter.core.openlineage.facets import RUNNING_SECONDS
from tidewaiter.edges.durable import Disk
from tidewaiter.shell.openlineage_settings import OpenLineagePart
from tidewaiter.shell.verify import Verdict, Wanted, verify
from tidewaiter.shell.verify_trust import Given

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.shell.settings import Settings

TARGET = "test_openlineage_daemon:told_once"


def settings_for(place: Path, part: OpenLineagePart | None = None, events: int = 120, **changes: Any) -> Settings:
    """Return settings of a daemon that tells its lineage, over a stream of its own."""
    stream = place / "events.jsonl"
    if not stream.exists():
        make_stream(stream, events)
    made = make_settings(stream, place / "state", **changes)
    return replace(made, openlineage=part or OpenLineagePart())


def told_once(disk: Disk, place: str, segment_bytes: int = 256 << 20) -> int:
    """Run to the end of the stream in `place`; a target of `rigs.kill`."""
    return run(settings_for(Path(place), segment_bytes=segment_bytes), disk).status


def assert_vouched(state: Path) -> list[dict[str, Any]]:
    """Assert that every line of the events has its entry, in order, and is what that says; return the entries."""
    lines = [line + b"\n" for line in all_lines(state)]
    found = entries(state, "lineage.emitted")
    at = 0
    for entry, line in zip(found, lines, strict=True):
        assert (entry["first"], entry["length"]) == (at, len(line))
        assert hashlib.sha256(line).hexdigest() == entry["sha256"]
        event = json.loads(line)
        assert (event["eventType"], event["run"]["runId"]) == (entry["event"], entry["run"])
        at += entry["length"]
    return found


def runs(state: Path) -> list[list[str]]:
    """Return the kinds of the events of each run, in order, and assert that each began once and ended once."""
    by_run: dict[str, list[str]] = {}
    for event in assert_vouched(state):
        by_run.setdefault(event["run"], []).append(event["event"])
    for kinds in by_run.values():
        assert kinds[0] == "START"
        assert sum(kind in ("COMPLETE", "FAIL") for kind in kinds) == 1
        assert kinds[-1] in ("COMPLETE", "FAIL")
    return list(by_run.values())


def emitted(state: Path) -> list[str]:
    """Return the kinds of the events that have an entry."""
    return [str(entry["event"]) for entry in entries(state, "lineage.emitted")]


class Quiet:
    """Watches a verification without looking."""

    def add(self, phase: str, done: int, total: int) -> None: ...


def verified(state: Path) -> Verdict:
    """Verify it."""
    return verify(Wanted(state, None, Given()), Quiet())


# -- when --------------------------------------------------------------------------------------------------------------


def test_without_the_section_nothing_is_written(tmp_path: Path) -> None:
    """Telling others what runs is somebody's decision."""
    settings = replace(settings_for(tmp_path), openlineage=None)
    succeed(settings)
    assert not (settings.state.dir / "lineage.jsonl").exists()
    assert not actions(settings.state.dir)["lineage.emitted"]


def test_a_run_is_told_at_its_beginning_and_its_end(tmp_path: Path) -> None:
    """START when it is about to read, COMPLETE behind its run.ended; each run has an id of its own."""
    settings = settings_for(tmp_path)
    for _ in range(2):
        succeed(settings)
    state = settings.state.dir
    assert runs(state) == [["START", "COMPLETE"], ["START", "COMPLETE"]]
    order = [entry["action"] for entry in entries(state, "run.started", "run.ended", "lineage.emitted")]
    assert order == ["run.started", "lineage.emitted", "run.ended", "lineage.emitted"] * 2
    assert_consistent(state)


def test_a_run_that_halts_fails(tmp_path: Path) -> None:
    """FAIL, with the exit status and nothing of the data."""
    settings = settings_for(tmp_path, invalid="halt")
    assert run(settings).status == 3
    assert runs(settings.state.dir) == [["START", "FAIL"]]
    (failed,) = [each for each in events(settings.state.dir / "lineage.jsonl") if each["eventType"] == "FAIL"]
    assert failed["run"]["facets"]["errorMessage"]["message"].startswith("exit status 3; ")


async def test_a_run_is_told_to_go_on_at_most_once_a_minute(tmp_path: Path) -> None:
    """And only if something was committed since: an idle hour is silent."""
    settings = settings_for(tmp_path, poll_us=20_000)
    stream = settings.stream.path
    more = stream.read_bytes()
    async with Following(settings) as daemon:
        clock = [0.0]
        daemon.supervisor.lineage._clock = lambda: clock[0]
        await daemon.reaches(len(more))
        file = settings.state.dir / "lineage.jsonl"
        lineage = daemon.supervisor.lineage
        lineage._told = (0.0, 0)

        def due() -> bool:
            assert daemon.supervisor.journal is not None
            return lineage.due(daemon.supervisor.journal.ledger)

        for minute in range(1, 4):
            clock[0] = minute * RUNNING_SECONDS - 0.1
            with stream.open("ab") as writer:
                writer.write(more)
            await daemon.reaches(len(more) * (minute + 1))
            assert emitted(settings.state.dir).count("RUNNING") == minute - 1
            clock[0] += 0.1
            await daemon.until(lambda: not due() and emitted(settings.state.dir)[-1] == "RUNNING", "RUNNING")
            assert emitted(settings.state.dir).count("RUNNING") == minute
        clock[0] += 3600
        assert not due()
    assert runs(settings.state.dir) == [["START", "RUNNING", "RUNNING", "RUNNING", "COMPLETE"]]
    for event in events(settings.state.dir / "lineage.jsonl"):
        assert problems(event, restated()) == []
    read = [each["inputs"][0]["inputFacets"].get("inputStatistics", {}).get("size", 0) for each in events(file)]
    assert read == [0, *(len(more) * number for number in (2, 3, 4, 4))]


# -- crashes -----------------------------------------------------------------------------------------------------------


class Dying(Disk):
    """A disk that kills its process at one call on one file: before or after it."""

    def __init__(self, name: str, begins: bytes, *, after: bool) -> None:
        super().__init__()
        self._name, self._begins, self._after = name, begins, after
        self._of: dict[int, str] = {}

    def _open(self, path: Path, flags: int) -> int:
        fd = super()._open(path, flags)
        self._of[fd] = path.name
        return fd

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        meant = self._of.get(fd, "").startswith(self._name) and self._begins in bytes(data)
        if meant and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        count = super()._pwrite(fd, data, offset)
        if meant:
            os.kill(os.getpid(), signal.SIGKILL)
        return count


def dying_once(disk: Disk, place: str, name: str, contains: str, after: bool) -> int:
    """Run until a write to the file `name` that contains this text; a target of `rigs.kill`."""
    return run(settings_for(Path(place)), Dying(name, contains.encode(), after=after)).status


def die(launcher: Launcher, place: Path, name: str, contains: str, *, after: bool) -> None:
    """Have a daemon die there."""
    arguments = {"place": str(place), "name": name, "contains": contains, "after": after}
    assert launcher.run("test_openlineage_daemon:dying_once", arguments).status == KILLED


@pytest.fixture
def quick() -> Iterator[Path]:
    """A directory in memory."""
    with quick_directory() as path:
        yield path


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """A process that has imported the daemon."""
    with Launcher(["test_openlineage_daemon"]) as started:
        yield started


def test_a_crash_at_every_write_is_told_at_the_next_start(quick: Path, launcher: Launcher) -> None:
    """Whatever call it dies at: each run that began is told to have failed, or completed, exactly once."""
    (quick / "count").mkdir()
    make_stream(quick / "count" / "events.jsonl", 12)
    calls = count_calls(TARGET, {"place": str(quick / "count")}, quick / "calls")
    points = [
        point for point in every_point(calls)
        if "lineage" in calls[point.at - 1] or (point.at > 1 and "lineage" in calls[point.at - 2])
    ]  # fmt: skip
    assert len(points) > 10
    for number, point in enumerate(points):
        place = quick / str(number)
        place.mkdir()
        (place / "events.jsonl").write_bytes((quick / "count" / "events.jsonl").read_bytes())
        died = launcher.run(TARGET, {"place": str(place)}, point)
        assert died.status == KILLED, (point, calls[point.at - 1])
        settings = settings_for(place)
        succeed(settings)
        found = runs(settings.state.dir)
        assert found[-1] == ["START", "COMPLETE"], point
        assert all(kinds in (["START", "FAIL"], ["START", "COMPLETE"]) for kinds in found), (point, found)
        assert_consistent(settings.state.dir)


def test_a_run_that_died_fails_at_the_next_start(tmp_path: Path, launcher: Launcher) -> None:
    """FAIL has the id of the run that died, comes before the next START, and says what is known of it."""
    settings = settings_for(tmp_path)
    die(launcher, tmp_path, "flags.jsonl", "flag_id", after=True)
    succeed(settings)
    state = settings.state.dir
    assert told(state / "lineage.jsonl") == ["START", "FAIL", "START", "COMPLETE"]
    died, failed, began, _ = events(state / "lineage.jsonl")
    assert died["run"]["runId"] == failed["run"]["runId"] != began["run"]["runId"]
    assert "crash" in failed["run"]["facets"]["errorMessage"]["message"]
    statistics = failed["inputs"][0]["inputFacets"]["inputStatistics"]
    assert statistics["size"] == settings.stream.path.stat().st_size
    assert problems(failed, restated()) == []


@pytest.mark.parametrize("kind", ["START", "COMPLETE"])
def test_a_run_that_died_before_its_entry_is_told_again(tmp_path: Path, launcher: Launcher, kind: str) -> None:
    """The line without an entry goes; what is told instead is what the next start knows to be true."""
    settings = settings_for(tmp_path)
    die(launcher, tmp_path, "audit-", f'"event":"{kind}"', after=False)
    succeed(settings)
    expected = [["START", "COMPLETE"]] if kind == "START" else [["START", "COMPLETE"]] * 2
    assert runs(settings.state.dir) == expected


class Full(Disk):
    """A disk that has no room for events, for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0
        self._of: dict[int, str] = {}

    def _open(self, path: Path, flags: int) -> int:
        fd = super()._open(path, flags)
        self._of[fd] = path.name
        return fd

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if self._of.get(fd) == "lineage.jsonl" and self.left > 0:
            self.left -= 1
            if self.left % 2:
                return super()._pwrite(fd, data[:10], offset)
            raise OSError(28, "No space left on device")
        return super()._pwrite(fd, data, offset)


async def test_a_full_disk_delays_an_event_and_tells_it_once(tmp_path: Path) -> None:
    """The commits go on when there is room again, and so does the event, whole and once."""
    settings = settings_for(tmp_path, poll_us=20_000)
    disk = Full()
    async with Following(settings, disk) as daemon:
        await daemon.reaches(settings.stream.path.stat().st_size)
        disk.left = 4
        daemon.supervisor.lineage._told = (-1e9, 0)
        await daemon.until(lambda: "RUNNING" in emitted(settings.state.dir), "RUNNING")
    assert runs(settings.state.dir) == [["START", "RUNNING", "COMPLETE"]]
    assert log_events(settings.state.dir, "disk.full")


def test_a_part_that_is_full_is_sealed(tmp_path: Path) -> None:
    """As the projections are: the events are those of all parts, and a restart goes on behind them."""
    settings = settings_for(tmp_path, segment_bytes=8_000)
    for _ in range(4):
        succeed(settings)
    state = settings.state.dir
    assert len(list(state.glob("lineage-*.jsonl"))) > 1
    assert runs(state) == [["START", "COMPLETE"]] * 4
    assert not verified(state).findings
    with serving() as server:
        succeed(replace(settings, openlineage=server.part()))
    assert server.taken == all_lines(state)
    oldest = min(state.glob("lineage-*.jsonl"))
    oldest.write_bytes(oldest.read_bytes().replace(b"START", b"STARS"))
    found = verified(state).first
    assert found is not None
    assert (found.check, found.file, found.offset) == ("lineage", str(oldest), 0)
    oldest.unlink()
    assert [(each.kind, each.check) for each in verified(state).findings] == [("missing", "lineage")]
    (state / "openlineage_cursor.json").unlink()
    with serving() as again:
        succeed(replace(settings, openlineage=again.part()))
    assert again.taken == all_lines(state)  # from the oldest that is left


def all_lines(state: Path) -> list[bytes]:
    """Return the events of all parts."""
    parts = [*sorted(state.glob("lineage-*.jsonl")), state / "lineage.jsonl"]
    return b"".join(path.read_bytes() for path in parts).splitlines()


# -- the file against the audit log ------------------------------------------------------------------------------------


def test_verify_accepts_the_events_and_finds_every_change(tmp_path: Path) -> None:
    """Another byte, a line that was cut, one that was added, and a file that is gone."""
    settings = settings_for(tmp_path)
    succeed(settings)
    state, file = settings.state.dir, settings.state.dir / "lineage.jsonl"
    whole = file.read_bytes()
    assert not verified(state).findings
    first = whole.index(b"\n") + 1
    for changed, where in (
        (whole.replace(b"COMPLETE", b"COMPLETF"), first), (whole[:first], first), (whole + whole[:first], len(whole)),
        (whole.replace(b"START", b"STARS"), 0),
    ):  # fmt: skip
        file.write_bytes(changed)
        verdict = verified(state)
        assert verdict.exit_status == EXIT_INTEGRITY
        found = verdict.first
        assert found is not None
        assert (found.check, found.file, found.offset) == ("lineage", str(file), where)
    file.write_bytes(whole)
    file.unlink()
    assert [(each.kind, each.check) for each in verified(state).findings] == [("missing", "lineage")]


def test_a_line_without_an_entry_is_remarked_and_replaced(tmp_path: Path, launcher: Launcher) -> None:
    """What a crash between line and entry leaves is no tampering; verify says so and the next event replaces it."""
    settings = settings_for(tmp_path)
    die(launcher, tmp_path, "audit-", "lineage.emitted", after=False)
    state = settings.state.dir
    assert told(state / "lineage.jsonl") == ["START"]
    assert not entries(state, "lineage.emitted")
    verdict = verified(state)
    assert not [each for each in verdict.findings if each.check == "lineage"]
    assert any("has no entry (yet)" in note for note in verdict.notes)
    succeed(settings)
    assert runs(state) == [["START", "COMPLETE"]]
    assert log_events(state, "openlineage.line_without_entry")


@pytest.mark.parametrize("change", ["cut", "changed", "added"])
def test_a_start_refuses_events_that_were_changed_by_hand(tmp_path: Path, change: str) -> None:
    """Exit 4, before anything is written."""
    settings = settings_for(tmp_path)
    succeed(settings)
    file = settings.state.dir / "lineage.jsonl"
    data = file.read_bytes()
    changed = {"cut": data[:-5], "changed": data.replace(b"COMPLETE", b"COMPLETF"), "added": data * 2}
    file.write_bytes(changed[change])
    before = len(entries(settings.state.dir))
    ended = run(settings)
    assert ended.status == EXIT_INTEGRITY
    assert str(file) in ended.message
    assert len(entries(settings.state.dir)) == before


# -- shipping ----------------------------------------------------------------------------------------------------------


def test_events_arrive_as_they_were_written(tmp_path: Path) -> None:
    """The same bytes, in order; a restart ships what is new."""
    with serving() as server:
        settings = settings_for(tmp_path, server.part())
        for number in (2, 4):
            succeed(settings)
            lines = (settings.state.dir / "lineage.jsonl").read_bytes().splitlines()
            assert len(lines) == number
            assert server.taken == lines


async def test_a_server_that_hangs_delays_no_commit_and_no_stop(tmp_path: Path) -> None:
    """Commits go on beside it, a stop waits for it for seconds only, and the next start ships all of it."""
    with serving(hang) as server, ExitStack() as stack:
        settings = settings_for(tmp_path, server.part(timeout_us=60_000_000), poll_us=20_000)
        stream = settings.stream.path
        more = stream.read_bytes()
        async with Following(settings) as daemon:
            await daemon.until(lambda: server.asked, "an attempt")
            for number in range(2, 6):
                with Stopwatch() as watch:
                    with stream.open("ab") as writer:
                        writer.write(more)
                    await daemon.reaches(len(more) * number)
                assert watch.seconds < 2
            stopping = stack.enter_context(Stopwatch())
        assert stopping.seconds < 8
        assert server.taken == []
        assert told(settings.state.dir / "lineage.jsonl") == ["START", "COMPLETE"]
        server.answer = take
        succeed(settings)
        assert server.taken == (settings.state.dir / "lineage.jsonl").read_bytes().splitlines()


def test_a_kill_loses_no_event_on_its_way(tmp_path: Path, launcher: Launcher) -> None:
    """Killed at each write of the cursor: everything arrives, in order, and only the event at hand twice."""
    with serving() as server:
        make_stream(tmp_path / "count" / "events.jsonl", 12)
        arguments = {"place": str(tmp_path / "count"), "url": server.url}
        calls = count_calls("test_openlineage_daemon:shipped_once", arguments, tmp_path / "calls")
        points = [point for point in every_point(calls) if "cursor" in calls[point.at - 1]]
        assert points
        for number, point in enumerate(points):
            server.taken.clear()
            place = tmp_path / str(number)
            place.mkdir()
            (place / "events.jsonl").write_bytes((tmp_path / "count" / "events.jsonl").read_bytes())
            arguments = {"place": str(place), "url": server.url}
            launcher.run("test_openlineage_daemon:shipped_once", arguments, point)
            assert shipped_once(Disk(), **arguments) == 0
            lines = (place / "state" / "lineage.jsonl").read_bytes().splitlines()
            assert list(dict.fromkeys(server.taken)) == lines, point
            assert len(server.taken) <= len(lines) + 1, point


def shipped_once(disk: Disk, place: str, url: str) -> int:
    """Run to the end of the stream in `place` and ship to `url`; a target of `rigs.kill`."""
    return run(settings_for(Path(place), OpenLineagePart(url=url)), disk).status


def test_a_refused_event_is_kept_in_the_state_directory(tmp_path: Path) -> None:
    """Beside the events, with how the server answered; the run is none the worse for it."""
    with serving(status(422)) as server:
        settings = settings_for(tmp_path, server.part())
        succeed(settings)
    state = settings.state.dir
    kept = [json.loads(line) for line in (state / "lineage_refused.jsonl").read_bytes().splitlines()]
    assert [each["event"] for each in kept] == events(state / "lineage.jsonl")
    assert len(log_events(state, "openlineage.refused")) == 2
