"""Rows on disk while a step waits: bounded memory, private files, nothing left behind, and no wrong byte read back."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from blocking_load import STEPS
from blocking_rig import in_frames, planned, run, schema_of
from support import PATIENCE, REPOSITORY, cli_environment
from tidewaiter.core.errors import ConfigError, DurabilityError
from tidewaiter.core.pipelines.steps import Sort
from tidewaiter.edges.durable import Disk, NoSpace
from tidewaiter.edges.tables import spill as spilling
from tidewaiter.edges.tables.blocking import blocking
from tidewaiter.edges.tables.spill import LOCK, PREFIX, SpillDirectory, remove_leftovers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FRAME = pl.DataFrame({"a": [1, 2, None], "b": ["x", None, "a text that is longer than twelve bytes"]})
NUMBERS = schema_of(number="integer")
ROWS = [(number * 7 % 1000,) for number in range(1000)]
BY_NUMBER = planned(Sort("s", (("number", False),)), NUMBERS)


def load(*words: str, environment: Mapping[str, str] | None = None) -> list[list[str]]:
    """Run `blocking_load.py` and return the words of its lines."""
    paths = os.pathsep.join([str(REPOSITORY / "daemon"), str(REPOSITORY / "tests")])
    command = [sys.executable, str(REPOSITORY / "tests" / "blocking_load.py"), *words]
    variables = cli_environment(environment) | {"PYTHONPATH": paths}
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr
    return [line.split() for line in ended.stdout.splitlines()]


# -- memory and sameness -----------------------------------------------------------------------------------------------


def grown(step: str, *counts: str) -> None:
    """Run `step` with 8 MiB of memory over so many rows, then twice as many; its memory must not grow."""
    (_, once), (spilled, twice) = load("memory", step, str(8 << 20), *counts)
    assert int(twice) < 450
    assert int(twice) - int(once) < 60
    assert int(spilled) > 10 or step == "few of many"


@pytest.mark.parametrize("step", ["sort", "distinct"])
def test_memory_is_bounded_and_does_not_grow_with_the_input(step: str) -> None:
    """With 8 MiB allowed, 75 and 150 MB of rows take about the same memory, far below 450 MiB."""
    grown(step, "600000", "1200000")


def test_rows_that_a_filter_left_do_not_hold_the_others_in_memory() -> None:
    """One row of 500 comes in: what is held is the size of these rows, not of all that were read."""
    grown("few of many", "2500000", "5000000")


@pytest.mark.long
@pytest.mark.parametrize("step", list(STEPS))
def test_memory_is_bounded_for_every_step(step: str) -> None:
    """The same for each step, with 150 and 300 MB."""
    grown(step, "1400000", "2800000")


def test_threads_hash_seeds_frames_and_memory_change_nothing() -> None:
    """Each step gives the same rows in the same order with 1 and 2 threads, small and large frames and memory."""
    settings = [
        ("1", "1", 1 << 30, 6000),
        ("2", "2", 200_000, 1371),
        ("1", "3", 100_000, 3000),
        ("2", "4", 1 << 30, 500),
    ]
    found = [
        load("digest", str(memory), str(size), environment={"POLARS_MAX_THREADS": threads, "PYTHONHASHSEED": seed})
        for threads, seed, memory, size in settings
    ]
    assert len(found[0]) == len(STEPS)
    assert all(each == found[0] for each in found)


def test_few_files_are_open_at_once(tmp_path: Path) -> None:
    """Many files of rows are made with room for five more descriptors only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(each) for each in os.listdir("/proc/self/fd"))  # noqa: PTH208 - the names
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, hard))
    try:
        rows, _, spilled = run(BY_NUMBER, in_frames(ROWS, NUMBERS, 20), tmp_path, 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [row[1] for row in rows] == list(range(1000))
    assert spilled


# -- the directory -----------------------------------------------------------------------------------------------------


def test_the_directory_is_private_made_when_needed_and_gone_at_the_end(tmp_path: Path) -> None:
    """Nothing is made before the first rows are put on disk, nobody else can look in, and an error removes it too."""
    with pytest.raises(KeyError), SpillDirectory(tmp_path) as spill:  # noqa: PT012 - what happens inside is the point
        assert list(tmp_path.iterdir()) == []
        part = spill.part()
        part.append(FRAME)
        (made,) = tmp_path.iterdir()
        assert made.name.startswith(PREFIX)
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        assert spill.written == sum(path.stat().st_size for path in made.glob("*.rows")) > 0
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_part_gives_back_what_was_put_there(tmp_path: Path) -> None:
    """Frames come back in order, any number of times; a removed part has none."""
    with SpillDirectory(tmp_path) as spill:
        part, other = spill.part(), spill.part()
        for start in range(3):
            part.append(FRAME.slice(start, 1))
            other.append(FRAME)
        for _ in range(2):
            assert_frame_equal(pl.concat(part.read()), FRAME)
        assert_frame_equal(part.at(2), FRAME.tail(1))
        part.remove()
        assert list(part.read()) == []
        assert len(list(other.read())) == 3


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    """A directory is a leftover from the moment its process is gone, however it went."""
    script = (
        "import pathlib, sys\nimport polars as pl\nfrom tidewaiter.edges.tables.spill import SpillDirectory\n"
        "spill = SpillDirectory(pathlib.Path(sys.argv[1]))\nspill.part().append(pl.DataFrame({'a': [1]}))\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env=cli_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (left,) = tmp_path.iterdir()
        assert remove_leftovers(tmp_path) == []
        assert sorted(path.name for path in left.iterdir()) == ["1.rows", LOCK]
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=PATIENCE)
    with SpillDirectory(tmp_path) as spill:
        spill.part().append(FRAME)
        assert remove_leftovers(tmp_path) == [left]
        assert list(tmp_path.iterdir()) == [spill.path]


def test_only_spill_directories_are_taken_for_leftovers(tmp_path: Path) -> None:
    """A file, a link and a directory with something else in it stay; a half-removed directory goes."""
    (tmp_path / f"{PREFIX}file").write_text("mine")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(precious)
    tree = tmp_path / f"{PREFIX}tree"
    (tree / "sub").mkdir(parents=True)
    half = tmp_path / f"{PREFIX}half"
    half.mkdir()
    assert remove_leftovers(tmp_path) == [half]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{PREFIX}file", f"{PREFIX}link", f"{PREFIX}tree", "precious",
    ]  # fmt: skip
    assert (precious / LOCK).exists()
    assert remove_leftovers(tmp_path / "missing") == []


def test_a_directory_taken_away_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making a directory and locking it, another run may take it for a leftover; then a new one is made."""
    locked = spilling._locked
    taken: list[Path] = []

    def taken_first(fd: int) -> bool:
        if not taken:
            (path,) = tmp_path.iterdir()
            taken.append(path)
            shutil.rmtree(path)
        return locked(fd)

    monkeypatch.setattr(spilling, "_locked", taken_first)
    with SpillDirectory(tmp_path) as spill:
        part = spill.part()
        part.append(FRAME)
        assert_frame_equal(pl.concat(part.read()), FRAME)
        assert spill.path not in taken


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A missing directory is a mistake of configuration, said with its path."""
    with SpillDirectory(tmp_path / "missing") as spill, pytest.raises(ConfigError, match="missing: temporary files"):
        spill.part()


# -- disks that fail ---------------------------------------------------------------------------------------------------


class FullDisk(Disk):
    """Has room for so many bytes, and refuses to be synced."""

    def __init__(self, room: int, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self.room = room
        self.number = number

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if self.room <= 0:
            raise OSError(self.number, os.strerror(self.number))
        done = super()._pwrite(fd, data[: self.room], offset)
        self.room -= done
        return done

    def _fsync(self, fd: int) -> None:
        raise AssertionError("what is spilled is never synced")

    _fdatasync = _fsync

    def _fsync_directory(self, path: Path) -> None:
        raise AssertionError("nor is its directory")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EIO, DurabilityError)])
def test_a_disk_that_fails_ends_the_step_and_leaves_nothing(
    tmp_path: Path, number: int, kind: type[DurabilityError]
) -> None:
    """A full or broken disk is named with the file, exit 5, and what was spilled so far is gone."""
    disk = FullDisk(20_000, number)
    with pytest.raises(kind) as caught, SpillDirectory(tmp_path, disk) as spill:
        list(blocking(BY_NUMBER, in_frames(ROWS, NUMBERS, 10), spill, memory_bytes=100))
    assert str(tmp_path) in caught.value.message
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_spilling_never_syncs(tmp_path: Path) -> None:
    """With room enough, the same disk, which fails at any sync, serves a whole sort."""
    with SpillDirectory(tmp_path, FullDisk(1 << 30)) as spill:
        batches = list(blocking(BY_NUMBER, in_frames(ROWS, NUMBERS, 100), spill, memory_bytes=2000))
    assert sum(len(batch.frame) for batch in batches) == 1000


@pytest.mark.parametrize("fault", ["bit", "cut", "gone"])
def test_rows_that_changed_on_disk_are_never_used(tmp_path: Path, fault: str) -> None:
    """A flipped bit, a short file and a missing one end the step, named."""
    with SpillDirectory(tmp_path) as spill:
        part = spill.part()
        part.append(FRAME)
        assert spill.path is not None
        (path,) = spill.path.glob("*.rows")
        data: Any = bytearray(path.read_bytes())
        if fault == "bit":
            data[len(data) // 2] ^= 1
        path.unlink() if fault == "gone" else path.write_bytes(data[:-1] if fault == "cut" else data)
        with pytest.raises(DurabilityError, match=r"1\.rows"):
            list(part.read())
