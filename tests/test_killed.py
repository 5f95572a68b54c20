"""kill -9 at any moment, any number of times: the flags end byte-identical to an undisturbed run's.

A kill loses no page cache; what a power loss leaves is in test_exactly_once.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rigs import daemon, strace
from rigs.daemon import make_settings, make_stream, none_of
from rigs.kill import KillPoint, Launcher, driver, every_point
from rigs.load import joined, killed_under_load
from rigs.tmpfs import quick_directory
from support import run_cli
from tidewaiter.core.errors import EXIT_CLEAN, TidewaiterError
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.key_files import create_key_file, make_key

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = (pytest.mark.long, pytest.mark.timeout(7200))
PRELOAD = ["rigs.daemon"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A quick directory for the tests of this file."""
    with quick_directory() as path:
        yield path


@pytest.fixture(scope="module")
def arguments(place: Path) -> dict[str, Any]:
    """A run of three batches, as arguments of `rigs.daemon.once`; only the state directory is missing."""
    stream = make_stream(place / "in" / "events.jsonl", 60)
    options: dict[str, Any] = {
        "stream": str(stream),
        "batch_bytes": stream.stat().st_size // 3 + 400,
        "segment_bytes": 7000,
    }
    assert daemon.once(state=str(place / "whole"), disk=Disk(), **options) == EXIT_CLEAN
    found = daemon.actions(place / "whole")
    assert found["batch.committed"] == 3
    assert found["flag.emitted"] > 5
    return options


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """The process that forks the daemons."""
    with Launcher(preload=PRELOAD) as started:
        yield started


def finish(arguments: dict[str, Any], state: Path, whole: Path, name: str, problems: list[str]) -> None:
    """Start again, to the end, and note what is then missing or refused."""
    settings = make_settings(
        Path(arguments["stream"]), state,
        batch_bytes=arguments["batch_bytes"], segment_bytes=arguments["segment_bytes"],
    )  # fmt: skip
    try:
        ended = daemon.run(settings)
        assert ended.status == EXIT_CLEAN, ended
        daemon.assert_same(state, whole)
    except (AssertionError, TidewaiterError, OSError) as error:
        problems.append(f"{name}: {error!s:.600}")


def test_kill_at_every_write_like_call(place: Path, launcher: Launcher, arguments: dict[str, Any]) -> None:
    """Killed before any call of a run of three batches, half-way through any write, or after the last call."""
    log = place / "calls"
    assert launcher.run(daemon.ONCE, {**arguments, "state": str(place / "count")}, calls=log).status == EXIT_CLEAN
    calls = log.read_text().splitlines()
    problems: list[str] = []
    killed = 0
    for point in [*every_point(calls), KillPoint(len(calls), "after")]:
        state = place / f"{point.at}{point.where}"
        outcome = launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, point)
        # the order of two threads is not always the same: a run may have a few calls less
        assert outcome.killed or (outcome.status == EXIT_CLEAN and point.at > len(calls) - 6), outcome
        killed += outcome.killed
        finish(arguments, state, place / "whole", f"killed {point.where} {point.at} ({calls[point.at - 1]})", problems)
        shutil.rmtree(state)
    assert killed > 80
    none_of(problems)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=LONG)])
def test_killed_again_during_recovery(place: Path, launcher: Launcher, arguments: dict[str, Any], step: int) -> None:
    """Killed in a batch, again in the recovery from that, and a third time in the one after that."""
    log = place / "calls"
    first = place / "first"
    log.unlink(missing_ok=True)
    assert launcher.run(daemon.ONCE, {**arguments, "state": str(first)}, calls=log).status == EXIT_CLEAN
    calls = log.read_text().splitlines()
    writes = {
        name: [at for at, call in enumerate(calls, 1) if call.startswith("pwrite") and name in call]
        for name in ("audit/", "flags.jsonl", "checkpoint", "snapshots/")
    }
    rng, problems = random.Random(step), list[str]()
    twice = 0
    for name, numbers in writes.items():
        shutil.rmtree(first)
        point = KillPoint(numbers[len(numbers) // 2], "middle")
        assert launcher.run(daemon.ONCE, {**arguments, "state": str(first)}, point).killed
        shutil.copytree(first, place / "recovered")
        log.unlink()
        again = launcher.run(daemon.ONCE, {**arguments, "state": str(place / "recovered")}, calls=log)
        assert again.status == EXIT_CLEAN
        shutil.rmtree(place / "recovered")
        for second in every_point(log.read_text().splitlines())[rng.randrange(step) :: step]:
            state = shutil.copytree(first, place / "again")
            twice += launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, second).killed
            third = KillPoint(rng.randrange(1, 40), "middle")
            launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, third)
            finish(arguments, state, place / "whole", f"killed in {name}, then {second}, then {third}", problems)
            shutil.rmtree(state)
    shutil.rmtree(first)
    assert twice > 20
    none_of(problems)


@pytest.mark.parametrize(("kills", "rate"), [(12, 3000), pytest.param(300, 1000, marks=LONG)])
@pytest.mark.timeout(1800)
def test_kill_at_random_moments_under_load_with_rotation(tmp_path: Path, kills: int, rate: int) -> None:
    """The command line program is killed again and again while a writer appends and rotates, also while it is down."""
    rng = random.Random(kills)
    live, state = tmp_path / "in" / "events.jsonl", tmp_path / "state"
    config = daemon.write_config(
        tmp_path / "config", live, state, state='segment_bytes = "200KiB"\nsnapshot_events = 1000',
        batch='max_bytes = "64KiB"', evidence='key = "log.key"',
    )  # fmt: skip
    create_key_file(Disk(), config.with_name("log.key"), make_key("example.org/log"), None)
    spoilt = ("--users", "50", "--bad", "0.01", "--duplicates", "0.01", "--disorder", "0.01")
    files = killed_under_load(config, live, state, rng, kills=kills, rate=rate, generate=spoilt)
    assert len(files) > 3
    everything = joined(files, tmp_path / "everything" / "events.jsonl")
    daemon.succeed(make_settings(everything, tmp_path / "whole"))
    daemon.assert_same(state, tmp_path / "whole")
    assert len(list(state.glob("flags-*.jsonl"))) > 1


@pytest.mark.parametrize(
    "surroundings",
    [
        {"PYTHONHASHSEED": "0", "TZ": "Asia/Kathmandu", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "4242", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        {"PYTHONHASHSEED": "random", "TZ": "UTC-14", "LC_ALL": "POSIX", "PYTHONUTF8": "0"},
    ],
)
def test_hash_seed_time_zone_and_locale_change_nothing(tmp_path: Path, surroundings: dict[str, str]) -> None:
    """The command line program gives the same bytes in other surroundings, with a restart in the middle."""
    stream = make_stream(tmp_path / "in" / "events.jsonl", 2000)
    daemon.succeed(make_settings(stream, tmp_path / "whole"))
    lines = stream.read_bytes().splitlines(keepends=True)
    config = daemon.write_config(tmp_path / "config", stream, tmp_path / "state")
    for part in (lines[:1000], lines):
        stream.write_bytes(b"".join(part))
        ended = run_cli("run", "--config", config, "--once", env=surroundings)
        assert ended.returncode == EXIT_CLEAN, ended.stderr
    daemon.assert_same(tmp_path / "state", tmp_path / "whole")


def test_only_disk_writes_in_the_state_directory(tmp_path: Path) -> None:
    """What the kernel saw below the state directory, logs and lock apart, is exactly what went through Disk."""
    stream = make_stream(tmp_path / "in" / "events.jsonl", 200)
    state, log = tmp_path / "state", tmp_path / "calls"
    arguments = {"stream": str(stream), "state": str(state), "batch_bytes": 20_000, "segment_bytes": 9000}
    outcome, calls = strace.write_like_calls(driver(daemon.ONCE, arguments, calls=log), state)
    assert outcome.status == EXIT_CLEAN, outcome.stderr
    past = strace.past_disk(calls, log.read_text().splitlines())
    apart = (state / "lock", state / "log")
    assert [call for call in past if not any(path.is_relative_to(one) for path in call.paths for one in apart)] == []
    assert len(calls) > 100
