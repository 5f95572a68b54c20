"""The daemon as an operator meets it: stopping, reloading, its logs and reports, starting again.

Here it runs as the command line program, in a process of its own, unless a test says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import signal
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigs import daemon
from rigs.daemon import Following, make_settings, make_stream
from stopwatch import Stopwatch
from support import PATIENCE, run_cli, started_cli, wait_until, wait_until_async
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_HALTED, EXIT_INTEGRITY, DurabilityError
from tidewaiter.core.money_flow_generator import MoneyFlowGenerator, number_of
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.recovery import Recovered, recover
from tidewaiter.shell import supervisor
from tidewaiter.shell.settings import RunOptions

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

LOAD: Final = 40_000
"""Events of a stream that keeps the daemon busy for some seconds."""


@pytest.fixture(scope="module")
def busy_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream that is not read in a moment."""
    return make_stream(tmp_path_factory.mktemp("busy") / "events.jsonl", LOAD, users=2000)


class Program:
    """The running program and what it has written."""

    def __init__(self, process: subprocess.Popen[bytes], state: Path, stderr: Path) -> None:
        self.process, self.state, self.stderr = process, state, stderr

    def log(self, *names: str) -> list[dict[str, Any]]:
        """Return the log lines with these names of this process."""
        return [line for line in daemon.log_events(self.state, *names) if line["run_id"] == self.run_id]

    @property
    def run_id(self) -> str:
        started = [line for line in daemon.log_events(self.state, "daemon.started") if line["pid"] == self.process.pid]
        return str(started[-1]["run_id"]) if started else ""

    def until(self, name: str, deadline: float = PATIENCE) -> dict[str, Any]:
        """Wait for a log line and return it."""

        def there() -> object:
            assert self.process.poll() is None, f"ended before {name}: {self.stderr.read_text()}"
            return self.log(name)

        wait_until(there, deadline, name)
        return self.log(name)[-1]

    def reaches(self, offset: int, deadline: float = PATIENCE) -> None:
        """Wait until the checkpoint has this position."""

        def there() -> bool:
            assert self.process.poll() is None, self.stderr.read_text()
            return (self.state / "checkpoint.json").exists() and daemon.committed(self.state) >= offset

        wait_until(there, deadline, f"position {offset}")

    def end(self, deadline: float = 5.0) -> int:
        """Wait for its end and return the exit status."""
        return self.process.wait(deadline)


@contextlib.contextmanager
def running(config: Path, state: Path) -> Iterator[Program]:
    """Start the program and leave it running."""
    stderr = config.parent / "stderr"
    with stderr.open("ab") as file, started_cli("run", "--config", config, stderr=file) as process:
        yield Program(process, state, stderr)


def run_logs(state: Path) -> list[dict[str, Any]]:
    """Return the run logs in order of their start."""
    return sorted(
        (json.loads(path.read_bytes()) for path in (state / "runs").iterdir()), key=lambda log: log["started_at"]
    )


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_at_full_load(tmp_path: Path, busy_stream: Path, number: signal.Signals) -> None:
    """The batch in hand is finished, everything is closed, exit 0, within 5 s; the next run goes on exactly."""
    state = tmp_path / "state"
    config = daemon.write_config(tmp_path, busy_stream, state, batch='max_bytes = "8KiB"')
    with running(config, state) as program:
        program.reaches(500_000)
        with Stopwatch() as watch:
            program.process.send_signal(number)
            assert program.end() == EXIT_CLEAN
        assert watch.seconds < 5
        assert daemon.committed(state) < busy_stream.stat().st_size, "it was not busy any more"
    daemon.assert_consistent(state)
    assert run_logs(state)[-1]["status"] == "success"
    assert run_logs(state)[-1]["final_offset"] == daemon.committed(state)
    assert [line["exit_status"] for line in daemon.log_events(state, "daemon.stopped")] == [0]
    ended = daemon.entries(state, "run.ended")
    assert [(entry["status"], entry["exit_status"]) for entry in ended] == [("success", 0)]
    newest = max((state / "snapshots").iterdir())
    assert int(newest.name[9:29]) > daemon.entries(state, "batch.committed")[-1]["index"], "a stop takes a snapshot"
    daemon.succeed(make_settings(busy_stream, state))
    daemon.succeed(make_settings(busy_stream, tmp_path / "whole"))
    daemon.assert_same(state, tmp_path / "whole")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_second_signal_ends_at_once_and_loses_nothing(
    tmp_path: Path, busy_stream: Path, second: signal.Signals
) -> None:
    """Asked twice, or killed while it stops: the next run goes on exactly."""
    state = tmp_path / "state"
    config = daemon.write_config(tmp_path, busy_stream, state, batch='max_bytes = "8KiB"')
    with running(config, state) as program:
        program.reaches(500_000)
        program.process.send_signal(signal.SIGTERM)
        program.process.send_signal(second)
        # where both are pending, the kernel delivers the lower number first: either may be the one that ends it
        assert program.end() in {EXIT_CLEAN, -second, -signal.SIGTERM}
    lines = busy_stream.read_bytes().splitlines(keepends=True)[:8_000]
    small = tmp_path / "small" / "events.jsonl"
    small.parent.mkdir()
    small.write_bytes(b"".join(lines))
    daemon.succeed(make_settings(busy_stream, state))
    daemon.assert_consistent(state)
    flags = (state / "flags.jsonl").read_bytes()
    daemon.succeed(make_settings(small, tmp_path / "whole"))
    assert flags.startswith((tmp_path / "whole" / "flags.jsonl").read_bytes())
    assert daemon.entries(state, "batch.committed")[-1]["totals"]["events_read"] == len(
        busy_stream.read_bytes().splitlines()
    )


def test_stop_before_it_is_ready(tmp_path: Path, busy_stream: Path) -> None:
    """Asked to stop while it replays: exit 0, and the next start is none the worse for it."""
    state = tmp_path / "state"
    config = daemon.write_config(tmp_path, busy_stream, state)
    daemon.succeed(make_settings(busy_stream, state))
    for path in (state / "snapshots").iterdir():
        path.unlink()
    with running(config, state) as program:
        program.until("recovery.started")
        program.process.terminate()
        assert program.end() == EXIT_CLEAN
    before = (state / "flags.jsonl").read_bytes()
    daemon.succeed(make_settings(busy_stream, state))
    daemon.assert_consistent(state)
    assert (state / "flags.jsonl").read_bytes() == before


# -- reload ------------------------------------------------------------------------------------------------------------


def test_reload(tmp_path: Path) -> None:
    """SIGHUP: what is not accepted is refused and the old goes on; a change is a decision behind a snapshot."""
    live, state = tmp_path / "in" / "events.jsonl", tmp_path / "state"
    source = make_stream(tmp_path / "source.jsonl", 600)
    lines = source.read_bytes().splitlines(keepends=True)
    live.parent.mkdir()
    live.write_bytes(b"".join(lines[:200]))
    config = daemon.write_config(tmp_path / "config", live, state)
    rules = tmp_path / "config" / "rules.toml"
    text = rules.read_text()
    with running(config, state) as program:
        program.reaches(live.stat().st_size)
        program.until("daemon.ready")
        # a broken file
        rules.write_text(text.replace("amount > p.limit", "amount > p.limt"))
        program.process.send_signal(signal.SIGHUP)
        refused = program.until("config.refused")
        assert "rules.toml" in refused["error"]
        with live.open("ab") as file:
            file.write(b"".join(lines[200:300]))
        program.reaches(live.stat().st_size)
        assert len(daemon.entries(state, "decision.recorded")) == 1
        # one that is accepted
        rules.write_text(text.replace('"500.00"', '"100.00"'))
        program.process.send_signal(signal.SIGHUP)
        program.until("config.reloaded")
        changed_at = live.stat().st_size
        with live.open("ab") as file:
            file.write(b"".join(lines[300:]))
        program.reaches(live.stat().st_size)
        # one that changes what only a restart can
        config.write_text(config.read_text().replace('"300ms"', '"400ms"'))
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(program.log("config.refused")) == 2)
        assert "rotate_grace" in program.log("config.refused")[-1]["error"]
        config.write_text(config.read_text().replace('"400ms"', '"300ms"'))
        # killed: the replay goes over the decision
        program.process.kill()
    _, decision = daemon.entries(state, "decision.recorded")
    assert decision["decision"] == "governing"
    assert (state / "rules" / decision["decisions"]["ruleset"]).read_text() == rules.read_text()
    names = sorted(path.name for path in (state / "snapshots").iterdir())
    assert int(names[-1][9:29]) <= decision["index"], "the snapshot is taken before the decision"
    for path in (state / "snapshots").iterdir():
        path.unlink()
    assert run_cli("run", "--config", config, "--once").returncode == EXIT_CLEAN
    daemon.assert_consistent(state)
    assert len(daemon.entries(state, "decision.recorded")) == 2
    before = tmp_path / "before" / "events.jsonl"
    before.parent.mkdir()
    before.write_bytes(source.read_bytes()[:changed_at])
    daemon.succeed(make_settings(before, tmp_path / "old"))
    old, flags = (tmp_path / "old" / "flags.jsonl").read_bytes(), (state / "flags.jsonl").read_bytes()
    assert flags.startswith(old)
    limits = {json.loads(line)["threshold"] for line in flags[len(old) :].splitlines() if b":threshold" in line}
    assert limits == {100}


# -- logs --------------------------------------------------------------------------------------------------------------


def test_application_log_survives_logrotate(tmp_path: Path) -> None:
    """The log file is renamed away: after a moment, or SIGHUP, lines go to a new one; none is lost."""
    live, state = tmp_path / "in" / "events.jsonl", tmp_path / "state"
    make_stream(live, 100)
    config = daemon.write_config(tmp_path / "config", live, state)
    log = state / "log" / "tidewaiter.jsonl"
    with running(config, state) as program:
        program.until("daemon.ready")
        program.reaches(live.stat().st_size)
        run_id = program.run_id
        log.rename(state / "log" / "tidewaiter.jsonl.1")
        program.process.send_signal(signal.SIGHUP)
        wait_until(log.exists)
        program.process.terminate()
        assert program.end() == EXIT_CLEAN
    lines = [
        json.loads(line)
        for name in ("tidewaiter.jsonl.1", "tidewaiter.jsonl")
        for line in (state / "log" / name).read_bytes().splitlines()
    ]
    names = [line["event"] for line in lines if line["run_id"] == run_id]
    assert names[0] == "daemon.started"
    assert names[-1] == "daemon.stopped"
    assert {line["stream"] for line in lines} == {"events"}
    on_stderr = [json.loads(line)["event"] for line in program.stderr.read_bytes().splitlines()]
    assert on_stderr == names


async def test_silence_is_an_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing arrives for the configured time: log, STATUS and audit entry, once; and the end of it is told too."""
    live, state = tmp_path / "in" / "events.jsonl", tmp_path / "state"
    source = make_stream(tmp_path / "source.jsonl", 60).read_bytes()
    live.parent.mkdir()
    live.write_bytes(source[: source.index(b"\n") + 1])
    said: list[str] = []
    async with Following(make_settings(live, state, alarm_us=400_000, poll_us=100_000)) as following:
        monkeypatch.setattr(following.supervisor.services, "status", said.append)
        await following.until(lambda: daemon.entries(state, "stream.silent"), "the alarm")
        assert any(text.startswith("SILENT") for text in said)
        await following.reaches(following.offset)
        with live.open("ab") as file:
            file.write(source[source.index(b"\n") + 1 :])
        await following.reaches(len(source))
        await following.until(lambda: daemon.entries(state, "stream.resumed"))
    assert 1 <= len(daemon.entries(state, "stream.silent")) <= 3
    assert daemon.log_events(state, "stream.silent")[0]["level"] == "warning"
    daemon.assert_consistent(state)


# -- signals during a start --------------------------------------------------------------------------------------------


async def test_stop_while_the_disk_is_full_during_the_start(tmp_path: Path) -> None:
    """The first decision does not fit on the disk: a stop ends the waiting, though nothing is ready yet."""
    stream, state = make_stream(tmp_path / "in" / "events.jsonl", 50), tmp_path / "state"

    class FullAtTheDecision(Disk):
        full = False

        def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            self.full = self.full or b'"action":"decision.recorded"' in bytes(data)
            if self.full:
                raise OSError(errno.ENOSPC, "full")
            return super()._pwrite(fd, data, offset)

    settings = make_settings(stream, state)
    full = supervisor._Supervisor(settings, RunOptions(), FullAtTheDecision())
    running_daemon = asyncio.create_task(full.run())
    await wait_until_async(lambda: daemon.log_events(state, "disk.full"))
    assert full.consumer is None
    full._stop(signal.SIGTERM)
    with pytest.raises(DurabilityError):
        await asyncio.wait_for(running_daemon, 5)
    daemon.succeed(settings)
    daemon.assert_consistent(state)


async def test_reload_asked_for_during_the_start_is_done_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP while the daemon recovers is not lost: the configuration is read again when it runs."""
    stream, state = make_stream(tmp_path / "in" / "events.jsonl", 50), tmp_path / "state"
    following, loop = Following(make_settings(stream, state)), asyncio.get_running_loop()
    seen: list[object] = []

    def hang_up() -> None:
        seen.append(following.supervisor.consumer)
        following.supervisor._reload()

    def recover_meanwhile(disk: Disk, directory: Path) -> Recovered:
        loop.call_soon_threadsafe(hang_up)
        return recover(disk, directory)

    monkeypatch.setattr(supervisor, "recover", recover_meanwhile)
    async with following:
        # settings made directly have no file: that it was looked for is what shows
        await following.until(lambda: daemon.log_events(state, "config.reloaded", "config.refused"))
    assert seen == [None]


# -- what a run leaves -------------------------------------------------------------------------------------------------


def test_run_log_from_running_to_success(tmp_path: Path) -> None:
    """The run log says `running` while it runs, and at the end what was read and flagged."""
    stream, state = make_stream(tmp_path / "in" / "events.jsonl", 300), tmp_path / "state"
    config = daemon.write_config(tmp_path / "config", stream, state)
    with running(config, state) as program:
        program.until("daemon.ready")
        (log,) = run_logs(state)
        assert (log["status"], log["ended_at"], log["resume_offset"]) == ("running", None, 0)
        program.reaches(stream.stat().st_size)
        program.process.terminate()
        assert program.end() == EXIT_CLEAN
    (log,) = run_logs(state)
    flags = (state / "flags.jsonl").read_bytes().count(b"\n")
    rejected = (state / "rejections.jsonl").read_bytes().count(b"\n")
    lines = stream.read_bytes().count(b"\n")
    assert log | {
        "status": "success", "contract": "money_flow", "contract_version": 1, "stream": str(stream),
        "final_offset": stream.stat().st_size, "events_read": lines, "events_valid": lines - rejected,
        "flags_emitted": flags, "error": None,
    } == log  # fmt: skip
    assert log["started_at"] < log["ended_at"]
    assert log["run_id"] == daemon.entries(state, "run.started")[0]["run_id"]


def test_crashed_run_is_closed_as_failed_by_the_next_start(tmp_path: Path) -> None:
    """A killed run's log still says `running`; the next start closes it, and counts only its own events."""
    stream, state = make_stream(tmp_path / "in" / "events.jsonl", 300), tmp_path / "state"
    config = daemon.write_config(tmp_path / "config", stream, state)
    with running(config, state) as program:
        program.reaches(stream.stat().st_size)
        program.process.kill()
    assert [log["status"] for log in run_logs(state)] == ["running"]
    assert run_cli("run", "--config", config, "--once").returncode == EXIT_CLEAN
    crashed, after = run_logs(state)
    assert crashed["status"] == "failed"
    assert "crash" in crashed["error"]
    lines = stream.read_bytes().count(b"\n")
    rejected = (state / "rejections.jsonl").read_bytes().count(b"\n")
    commit = [entry for entry in daemon.entries(state, "batch.committed") if entry["run_id"] == crashed["run_id"]][-1]
    assert crashed | {
        "final_offset": stream.stat().st_size, "events_read": lines, "events_valid": lines - rejected,
        "flags_emitted": (state / "flags.jsonl").read_bytes().count(b"\n"), "events_rejected": rejected,
        "ended_at": commit["timestamp"],
    } == crashed  # fmt: skip
    assert crashed["ended_at"] < crashed["closed_at"]
    assert (after["closed_at"], after["totals_at_start"]["events_read"]) == (None, lines)
    assert (after["status"], after["events_read"], after["resume_offset"]) == ("success", 0, stream.stat().st_size)
    assert daemon.entries(state, "run.started")[-1]["crashed_runs"] == [crashed["run_id"]]


def mark_as_crashed(log: Path) -> None:
    """Make a run log what a killed run leaves."""
    unknown = {"status": "running", "ended_at": None, "final_offset": None, "error": None}
    counts = dict.fromkeys(["events_read", "events_valid", "flags_emitted", "events_rejected"], 0)
    log.write_text(json.dumps(json.loads(log.read_bytes()) | unknown | counts), encoding="utf-8")


def test_figures_of_a_crashed_run_are_its_own(tmp_path: Path) -> None:
    """Neither the runs before it nor an operator's decision behind the crash count; unknown times stay unknown."""
    stream, state = make_stream(tmp_path / "in" / "events.jsonl", 300, bad=0), tmp_path / "state"
    lines = stream.read_bytes().splitlines(keepends=True)
    stream.write_bytes(b"".join(lines[:100]))
    settings = make_settings(stream, state, invalid="halt")
    daemon.succeed(settings)
    (first,) = (state / "runs").iterdir()
    halted_at = sum(map(len, lines[:200]))
    stream.write_bytes(b"".join([*lines[:200], b"{}\n", *lines[200:]]))
    assert daemon.run(settings).status == EXIT_HALTED
    (second,) = {*(state / "runs").iterdir()} - {first}
    for path in (first, second):  # two that nobody closed: only the newest can be told from the audit log
        mark_as_crashed(path)
    daemon.skip(settings, halted_at)
    daemon.succeed(settings)
    older, crashed, after = run_logs(state)
    assert (crashed["resume_offset"], crashed["final_offset"]) == (sum(map(len, lines[:100])), halted_at)
    assert (crashed["status"], crashed["events_read"], crashed["ended_at"]) == ("failed", 100, None)
    assert (older["status"], older["final_offset"], older["events_read"]) == ("failed", None, 0)
    assert older["closed_at"] == crashed["closed_at"]
    assert crashed["closed_at"] is not None
    assert (after["status"], after["events_read"]) == ("success", len(lines) - 200)


def test_validation_report(tmp_path: Path) -> None:
    """Policies, counts by kind, checkpoint, last event time, and the error of a halt."""
    stream, state = make_stream(tmp_path / "in" / "events.jsonl", 400), tmp_path / "state"
    ended = daemon.run(make_settings(stream, state, order="admit"))
    assert ended.status == EXIT_CLEAN
    report = json.loads((state / "reports" / "validation_report.json").read_bytes())
    assert report["policies"]["order"] == "admit"
    assert report["policies"]["invalid"] == "quarantine"
    counts = report["counts"]
    assert counts["admitted_late_events"] > 0
    assert counts["ordering_failures"] == 0
    kinds = [json.loads(line)["kind"] for line in (state / "rejections.jsonl").read_bytes().splitlines()]
    assert counts["events_rejected"] == len(kinds) == counts["events_read"] - counts["events_valid"]
    assert counts["contract_failures"] == kinds.count("contract")
    assert counts["duplicate_failures"] == kinds.count("duplicate")
    assert counts["json_parse_failures"] == kinds.count("json") + kinds.count("framing")
    assert report["checkpoint"]["offset"] == stream.stat().st_size
    times = [json.loads(line)["event_time"] for line in (state / "flags.jsonl").read_bytes().splitlines()]
    assert report["last_event_time"][:19] >= max(times)[:19]
    assert (report["status"], report["error"], report["halt"], report["reconciled"]) == ("success", None, None, True)
    ended = daemon.run(make_settings(stream, tmp_path / "halted", invalid="halt", duplicate="halt", order="halt"))
    assert ended.status == EXIT_HALTED
    report = json.loads((tmp_path / "halted" / "reports" / "validation_report.json").read_bytes())
    assert report["status"] == "failed"
    assert report["error"] in ended.message
    assert report["halt"]["offset"] == report["checkpoint"]["offset"] == daemon.committed(tmp_path / "halted")


def test_refusal_is_one_line_with_exit_4(tmp_path: Path) -> None:
    """The command line program says what differs, and shows no traceback."""
    stream, state = make_stream(tmp_path / "in" / "events.jsonl", 100), tmp_path / "state"
    config = daemon.write_config(tmp_path / "config", stream, state)
    daemon.succeed(make_settings(stream, state))
    with (state / "flags.jsonl").open("ab") as file:
        file.write(b"x")
    ended = run_cli("run", "--config", config, "--once")
    assert ended.returncode == EXIT_INTEGRITY
    last = ended.stderr.decode().splitlines()[-1]
    assert last.startswith(f"tidewaiter: {state / 'flags.jsonl'}")
    assert b"Traceback" not in ended.stderr


# -- starting again ----------------------------------------------------------------------------------------------------


def test_ready_within_a_second_after_a_clean_stop(tmp_path: Path, busy_stream: Path) -> None:
    """The snapshot of the stop makes the replay of the next start empty; the log tells how long it took."""
    state = tmp_path / "state"
    config = daemon.write_config(tmp_path, busy_stream, state)
    daemon.succeed(make_settings(busy_stream, state))
    seconds = []
    for _ in range(3):  # the machine may be busy
        with running(config, state) as program:
            seconds.append(program.until("daemon.ready")["seconds"])
            program.process.terminate()
            assert program.end() == EXIT_CLEAN
    assert min(seconds) < 1


def test_demo_mode_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """With the built-in producer: started, stopped, killed, started; its events follow each other, each once."""
    live, state = tmp_path / "in" / "events.jsonl", tmp_path / "state"
    config = daemon.write_config(
        tmp_path / "config", live, state, producer='kind = "generator"\nrate = 2000\nusers = 40\nseed = 5'
    )
    for ending in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        before = live.stat().st_size if live.exists() else 0
        with running(config, state) as program:
            program.reaches(before + 200_000)
            program.process.send_signal(ending)
            assert program.end() == (EXIT_CLEAN if ending != signal.SIGKILL else -ending)
        with live.open("ab") as file:
            file.write(b'{"event_id": "')  # as if it had died in the middle of a line
    ended = run_cli("run", "--config", config, "--once")
    assert ended.returncode == EXIT_HALTED, ended.stderr
    data = live.read_bytes()[: -len(b'{"event_id": "')]
    live.write_bytes(data)
    assert run_cli("run", "--config", config, "--once").returncode == EXIT_CLEAN
    generator = MoneyFlowGenerator(5, 40)
    ids = [json.loads(line)["event_id"] for line in data.splitlines()]
    numbers = [number_of(event_id) for event_id in ids]
    first = numbers[0]
    assert first is not None
    assert numbers == list(range(first, first + len(ids)))
    assert ids[-1] == generator.event_id(first + len(ids) - 1)
    daemon.succeed(make_settings(live, tmp_path / "whole"))
    daemon.assert_same(state, tmp_path / "whole")
    assert daemon.entries(state, "event.rejected") == []
