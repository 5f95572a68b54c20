"""The rigs themselves: each must notice its fault, on a small user of `Disk` that lacks one precaution."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from rigs import example, kill, strace
from rigs.compare import assert_same_flags, projection_bytes
from rigs.faulty_disk import FOREVER, Fault, FaultyDisk
from rigs.kill import KillPoint
from rigs.power_loss import PAGE, CrashState, RecordingDisk, SyncDirectory
from rigs.tmpfs import small_disk
from tidewaiter.core.errors import EXIT_DURABILITY
from tidewaiter.edges.durable import Disk, NoSpace, SyncFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Long enough that a line crosses pages now and then.
ENTRIES = [f"entry {number} " + "x" * (number * 700 % 5000) for number in range(6)]


# -- power loss --------------------------------------------------------------------------------------------------------


def acknowledged_after(disk: RecordingDisk, directory: Path, sabotage: str = "") -> list[int]:
    """Write ENTRIES and return, for each, the index of the last operation before it was acknowledged."""
    ledger = example.Ledger(disk, directory, sabotage)
    indices = []
    for entry in ENTRIES:
        ledger.add(entry)
        indices.append(len(disk.ops) - 1)
    ledger.close()
    return indices


def losses(root: Path, scratch: Path, sabotage: str = "") -> list[str]:
    """Return what every crash state of a run, and of the recovery from it, lost or invented."""
    disk = RecordingDisk(root)
    acknowledged = acknowledged_after(disk, root / "state", sabotage)
    found = []
    for number, state in enumerate(disk.history.every_crash(random.Random(1), samples=4)):
        place = state.materialise(scratch / str(number)) / "state"
        promised = sum(index <= state.at for index in acknowledged)
        again = Disk()
        if not place.is_dir():
            again.make_directory(place)
        total = place / "total"
        if total.exists() and total.read_bytes() != str(len(ENTRIES)).encode():
            found.append(f"{state.name}: total is {total.read_bytes()!r}")
        ledger = example.Ledger(again, place, sabotage)
        if ledger.entries != ENTRIES[: len(ledger.entries)] or len(ledger.entries) < promised:
            found.append(f"{state.name}: {len(ledger.entries)} entries instead of {promised}")
        again.close(ledger.fd)
    return found


def test_careful_user_loses_nothing_in_any_crash_state(tmp_path: Path) -> None:
    """With every precaution taken, no state after any operation misses an acknowledged entry."""
    (tmp_path / "disk").mkdir()
    assert losses(tmp_path / "disk", tmp_path / "states") == []


@pytest.mark.parametrize("sabotage", ["no datasync", "no directory sync", "rename unsynced"])
def test_missing_precaution_is_seen_in_some_crash_state(tmp_path: Path, sabotage: str) -> None:
    """Leaving out a data sync, a directory sync, or the sync before a rename shows as a loss."""
    (tmp_path / "disk").mkdir()
    assert losses(tmp_path / "disk", tmp_path / "states", sabotage)


def states_of(disk: RecordingDisk, samples: int = 60) -> dict[str, CrashState]:
    """Return the crash states after the last operation by the last part of their names."""
    states = disk.history.crash_states(random.Random(2), len(disk.ops) - 1, samples)
    return {state.name.rpartition(": ")[2]: state for state in states}


def test_unsynced_pages_are_lost_one_by_one(tmp_path: Path) -> None:
    """Of three pages written without a sync each may be there or zeros, and the file may have any of its sizes."""
    disk = RecordingDisk(tmp_path)
    fd = disk.open(tmp_path / "file")
    disk.sync_directory(tmp_path)
    disk.write_at(fd, b"a" * PAGE + b"b" * PAGE + b"c" * 100, 0, tmp_path / "file")
    contents = {state.tree["file"] for state in states_of(disk).values()}
    assert {b"", b"a" * PAGE + b"b" * PAGE + b"c" * 100, bytes(2 * PAGE + 100), b"a" * PAGE} <= contents
    assert b"a" * PAGE + bytes(PAGE) + b"c" * 100 in contents
    disk.datasync(fd, tmp_path / "file")
    assert len(states_of(disk)) == 1
    disk.close(fd)


def test_unsynced_page_shows_an_earlier_version(tmp_path: Path) -> None:
    """A page written twice after a sync is found as synced, as after the first or as after the second write."""
    (tmp_path / "file").write_bytes(b"old")
    disk = RecordingDisk(tmp_path)
    fd = disk.open(tmp_path / "file")
    disk.write_at(fd, b"one", 0, tmp_path / "file")
    disk.write_at(fd, b"two", 0, tmp_path / "file")
    assert {state.tree["file"] for state in states_of(disk).values()} == {b"old", b"one", b"two"}
    disk.close(fd)


def test_writing_inside_a_file_never_shortens_it(tmp_path: Path) -> None:
    """A page of a durable file that is written again may be found old or new, at the same length."""
    (tmp_path / "file").write_bytes(b"a" * (2 * PAGE))
    disk = RecordingDisk(tmp_path)
    fd = disk.open(tmp_path / "file")
    disk.write_at(fd, b"b" * PAGE, 0, tmp_path / "file")
    found = {state.tree["file"] for state in states_of(disk).values()}
    assert found == {b"a" * (2 * PAGE), b"b" * PAGE + b"a" * PAGE}
    disk.close(fd)


def test_cut_is_found_done_or_undone(tmp_path: Path) -> None:
    """Before its sync a truncation may be found undone with the old bytes; after it the old bytes never come back."""
    (tmp_path / "file").write_bytes(b"abcdef")
    disk = RecordingDisk(tmp_path)
    fd = disk.open(tmp_path / "file")
    disk.truncate(fd, 3, tmp_path / "file")
    found = {state.tree["file"] for state in states_of(disk).values()}
    assert {b"abc", b"abcdef"} <= found
    disk.sync(fd, tmp_path / "file")
    disk.truncate(fd, 6, tmp_path / "file")
    assert {state.tree["file"] for state in states_of(disk).values()} == {b"abc", b"abc\0\0\0"}
    disk.close(fd)


def test_fsync_of_a_file_does_not_make_its_name_durable(tmp_path: Path) -> None:
    """A new file that was synced may be missing until its directory was synced too."""
    disk = RecordingDisk(tmp_path)
    fd = disk.open(tmp_path / "file")
    disk.write_at(fd, b"data", 0, tmp_path / "file")
    disk.sync(fd, tmp_path / "file")
    assert {tuple(state.tree.items()) for state in states_of(disk).values()} == {(), (("file", b"data"),)}
    disk.sync_directory(tmp_path)
    assert [state.tree for state in states_of(disk).values()] == [{"file": b"data"}]
    disk.close(fd)


def test_rename_is_seen_or_not_and_unlink_too(tmp_path: Path) -> None:
    """Directory operations since the last directory sync are found in any subset."""
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "gone").write_bytes(b"gone")
    disk = RecordingDisk(tmp_path)
    disk._replace(tmp_path / "old", tmp_path / "new")
    disk.unlink(tmp_path / "gone")
    assert {frozenset(state.tree) for state in states_of(disk).values()} == {
        frozenset({"old", "gone"}), frozenset({"new", "gone"}), frozenset({"old"}), frozenset({"new"}),
    }  # fmt: skip
    assert states_of(disk)["only the last operation"].tree == {"old": b"old"}


def test_directory_whose_name_is_lost_takes_its_files_along(tmp_path: Path) -> None:
    """What is in a directory is found only if the directory itself is."""
    disk = RecordingDisk(tmp_path)
    disk._mkdir(tmp_path / "a")
    fd = disk.open(tmp_path / "a" / "file")
    disk.sync(fd, tmp_path / "a" / "file")
    disk.sync_directory(tmp_path / "a")
    assert {frozenset(state.tree) for state in states_of(disk).values()} == {frozenset(), frozenset({"a", "a/file"})}
    disk.close(fd)


def test_sync_after_a_failed_sync_lies(tmp_path: Path) -> None:
    """After a failed sync a second one reports success, but the pages are durable only if written again."""
    disk = FaultyDisk([Fault("fdatasync")], RecordingDisk(tmp_path))
    recorder = disk.inner
    assert isinstance(recorder, RecordingDisk)
    path = tmp_path / "file"
    fd = disk.open(path)
    disk.sync_directory(tmp_path)
    disk.write_at(fd, b"data", 0, path)
    with pytest.raises(SyncFailed):
        disk.datasync(fd, path)
    disk.datasync(fd, path)
    assert states_of(recorder)["nothing kept"].tree == {"file": bytes(4)}
    disk.write_at(fd, b"data", 0, path)
    disk.datasync(fd, path)
    assert [state.tree for state in states_of(recorder).values()] == [{"file": b"data"}]
    disk.close(fd)


def test_crash_states_repeat_for_a_seed(tmp_path: Path) -> None:
    """The same seed draws the same states, so that a failure can be looked at again."""
    (tmp_path / "disk").mkdir()
    disk = RecordingDisk(tmp_path / "disk")
    acknowledged_after(disk, tmp_path / "disk" / "state")
    runs = [
        [(state.name, state.digest()) for state in disk.history.every_crash(random.Random(7), samples=3)] for _ in "12"
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) > 15


def test_only_chosen_operations_are_crashed(tmp_path: Path) -> None:
    """A campaign may look at, say, directory syncs only."""
    (tmp_path / "disk").mkdir()
    disk = RecordingDisk(tmp_path / "disk")
    acknowledged_after(disk, tmp_path / "disk" / "state")
    states = disk.history.every_crash(random.Random(1), 2, at=lambda _index, op: isinstance(op, SyncDirectory))
    assert {type(disk.ops[state.at]) for state in states if state.at >= 0} == {SyncDirectory}


# -- failing calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_failed_sync_is_reported_in_both_forms(tmp_path: Path, *, persisted: bool, code: int) -> None:
    """The caller sees the same failure whether the data reached the disk or not, and its next start recovers."""
    recorder = RecordingDisk(tmp_path)
    disk = FaultyDisk([Fault("fdatasync", "journal", nth=3, errno=code, persisted=persisted)], recorder)
    assert example.write_all(disk, str(tmp_path / "state"), ENTRIES) == EXIT_DURABILITY
    assert disk.syncs_retried() == []
    assert [(call.path.name, call.outcome) for call in disk.failures] == [("journal", errno.errorcode[code])]
    tree = states_of(recorder)["nothing kept"].tree["state/journal"]
    assert tree is not None
    assert (b"entry 2" in tree) == persisted
    assert example.write_all(Disk(), str(tmp_path / "state"), ENTRIES) == 0
    assert example.read_entries(tmp_path / "state") == ENTRIES


def test_retried_sync_is_noticed(tmp_path: Path) -> None:
    """A caller that asks the same descriptor again is caught."""
    disk = FaultyDisk([Fault("fdatasync", "journal", nth=2)])
    assert example.write_all(disk, str(tmp_path), ENTRIES, "retry sync") == 0
    assert len(disk.syncs_retried()) == len(ENTRIES) - 1


@pytest.mark.parametrize("short", [0, 1, 5])
def test_short_write_then_full_disk(tmp_path: Path, short: int) -> None:
    """A write that stops after some bytes and then finds the disk full leaves a stump, which the caller cuts."""
    disk = FaultyDisk([Fault("pwrite", "journal", nth=2, errno=errno.ENOSPC, short=short, times=2)])
    ledger = example.Ledger(disk, tmp_path)
    ledger.add("first")
    for _ in range(2 if short else 1):
        with pytest.raises(NoSpace):
            ledger.add("second")
        assert (tmp_path / "journal").stat().st_size == ledger.end
    disk.plan.clear()
    ledger.add("second")
    ledger.close()
    assert example.read_entries(tmp_path) == ["first", "second"]


def test_short_write_alone_is_continued(tmp_path: Path) -> None:
    """A one-byte write is no failure: the rest follows."""
    disk = FaultyDisk([Fault("pwrite", "journal", nth=1, errno=0, short=1)])
    assert example.write_all(disk, str(tmp_path), ENTRIES) == 0
    assert [call.outcome for call in disk.calls if call.primitive == "pwrite"][:2] == ["short", "ok"]
    assert example.read_entries(tmp_path) == ENTRIES


def test_space_returns_after_some_failures(tmp_path: Path) -> None:
    """The plan can give the space back after a number of failures."""
    disk = FaultyDisk([Fault("pwrite", "*/journal", nth=1, errno=errno.ENOSPC, times=3)])
    ledger = example.Ledger(disk, tmp_path)
    for _ in range(3):
        with pytest.raises(NoSpace):
            ledger.add("first")
    ledger.add("first")
    assert len(disk.failures) == 3
    assert any(call.primitive == "fdatasync" for call in disk.after_failure())
    ledger.close()


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("primitive", ["open", "ftruncate", "replace", "unlink", "mkdir", "fsync_directory"])
def test_every_other_primitive_can_fail_in_both_forms(tmp_path: Path, primitive: str, *, persisted: bool) -> None:
    """An operation that fails was done or not done, as planned."""
    (tmp_path / "there").write_bytes(b"there")
    disk = FaultyDisk([Fault(primitive, times=FOREVER, persisted=persisted)])  # type: ignore[arg-type]
    inner_fd = Disk().open(tmp_path / "there")
    disk._open_files[inner_fd] = (1, tmp_path / "there")
    calls: dict[str, Callable[[], object]] = {
        "open": lambda: disk._open(tmp_path / "new", os.O_RDWR | os.O_CREAT),
        "ftruncate": lambda: disk._ftruncate(inner_fd, 1),
        "replace": lambda: disk._replace(tmp_path / "there", tmp_path / "new"),
        "unlink": lambda: disk._unlink(tmp_path / "there"),
        "mkdir": lambda: disk._mkdir(tmp_path / "new"),
        "fsync_directory": lambda: disk._fsync_directory(tmp_path),
    }
    before = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match="Input/output error"):
        calls[primitive]()
    after = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert (before != after) == (persisted and primitive != "fsync_directory")
    disk.close(inner_fd)


def test_count_tells_how_often_to_fail(tmp_path: Path) -> None:
    """An undisturbed run tells how many calls a plan can go through."""
    disk = FaultyDisk()
    assert example.write_all(disk, str(tmp_path), ENTRIES) == 0
    assert disk.count("fdatasync", "journal") == len(ENTRIES)
    assert disk.count("replace", "total") == 1


# -- kill --------------------------------------------------------------------------------------------------------------


def ledger_command(directory: Path, point: KillPoint | None = None, *, sabotage: str = "") -> list[str]:
    """Return the command that writes two entries, killed at `point`."""
    arguments = {"directory": str(directory), "entries": ENTRIES[:2], "sabotage": sabotage}
    return kill.driver("rigs.example:write_all", arguments, point)


def test_kill_at_every_write_like_call(tmp_path: Path) -> None:
    """Killed at each call of a run in turn, the next start finishes with the same bytes."""
    arguments = {"directory": str(tmp_path / "whole"), "entries": ENTRIES[:2]}
    calls = kill.count_calls("rigs.example:write_all", arguments, tmp_path / "calls")
    first = ["fsync_directory", "mkdir", "fsync_directory", "open", "fsync_directory"]
    assert [call.split()[0] for call in calls][:5] == first
    points = [*kill.every_point(calls), KillPoint(len(calls), "after")]
    assert len(points) > len(calls) + 2
    with kill.Launcher(preload=["rigs.example"]) as launcher:
        for number, point in enumerate(points):
            place = {"directory": str(tmp_path / str(number)), "entries": ENTRIES[:2]}
            outcomes = launcher.run_until_done("rigs.example:write_all", place, [point])
            assert outcomes[0].killed
            assert (tmp_path / str(number) / "journal").read_bytes() == (tmp_path / "whole" / "journal").read_bytes()


def test_launcher_tells_status_and_standard_error(tmp_path: Path) -> None:
    """A function that refuses is reported with its status and message, one that raises with its traceback."""
    (tmp_path / "file").write_bytes(b"")
    with kill.Launcher(preload=["rigs.example"]) as launcher:
        outcome = launcher.run("rigs.example:write_all", {"directory": str(tmp_path / "file"), "entries": []})
        assert (outcome.status, outcome.stderr.count("\n")) == (2, 1)
        outcome = launcher.run("rigs.example:write_all", {})
        assert outcome.status == 1
        assert "TypeError" in outcome.stderr


def test_kill_in_the_middle_leaves_half_of_the_bytes(tmp_path: Path) -> None:
    """The middle of a write is a torn line; a user that doesn't cut it is caught."""
    point = KillPoint(6, "middle")
    assert kill.run(ledger_command(tmp_path / "a", point)).killed
    torn = (tmp_path / "a" / "journal").read_bytes()
    assert 0 < len(torn) < len(example._line("0:" + ENTRIES[0]))
    outcomes = kill.run_until_done(partial(ledger_command, tmp_path / "a"), [point, point])
    assert outcomes[-1].status == 0
    assert example.read_entries(tmp_path / "a") == ENTRIES[:2]


def test_random_kills_end_early_or_late(tmp_path: Path) -> None:
    """Commands are killed at random moments, and one that ends by itself keeps its own status."""
    seen: list[int] = []
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    outcomes = kill.random_kills(sleeper, 3, random.Random(3), 1, 40, between=seen.append)
    assert [outcome.killed for outcome in outcomes] == [True] * 3
    assert seen == [0, 1, 2]
    outcomes = kill.random_kills([sys.executable, "-c", "raise SystemExit(7)"], 1, random.Random(3), 20_000, 20_000)
    assert [outcome.status for outcome in outcomes] == [7]


# -- strace ------------------------------------------------------------------------------------------------------------


def test_strace_fails_the_chosen_sync(tmp_path: Path) -> None:
    """An injected EIO on the second fdatasync ends the command with its durability status."""
    command = ledger_command(tmp_path / "state")
    outcome = strace.run_injected(command, ["fdatasync:error=EIO:when=2"])
    assert outcome.status == EXIT_DURABILITY, outcome.stderr
    assert "fsync failed" in outcome.stderr
    assert example.read_entries(tmp_path / "state") == ENTRIES[:2]


def test_strace_kills_at_a_call_on_one_path_only(tmp_path: Path) -> None:
    """Restricted to a path, only calls on it count."""
    journal = tmp_path / "state" / "journal"
    outcome = strace.run_injected(ledger_command(journal.parent), ["pwrite64:signal=KILL:when=2"], paths=[journal])
    assert outcome.killed, outcome
    assert len(example.read_entries(journal.parent)) in {1, 2}


def test_strace_sees_the_same_calls_as_the_disk(tmp_path: Path) -> None:
    """What the kernel saw below the directory is exactly what went through Disk: nothing writes past it."""
    log = tmp_path / "calls"
    arguments = {"directory": str(tmp_path / "state"), "entries": ENTRIES[:3]}
    outcome, calls = strace.write_like_calls(
        kill.driver("rigs.example:write_all", arguments, calls=log), tmp_path / "state"
    )
    assert outcome.status == 0, outcome.stderr
    assert strace.past_disk(calls, log.read_text().splitlines()) == []


def test_strace_sees_a_write_past_the_disk(tmp_path: Path) -> None:
    """A file written without Disk is found, with a relative path too; reading is not writing."""
    (tmp_path / "state").mkdir()
    script = (
        "import os; os.chdir(os.environ['PLACE']); open('state/a', 'w').write('x'); open('state/a').read();"
        "d = os.open('state', os.O_RDONLY); os.rename('a', 'b', src_dir_fd=d, dst_dir_fd=d); os.unlink('state/b')"
    )
    outcome, calls = strace.write_like_calls(
        [sys.executable, "-c", script], tmp_path / "state", env=kill.environment(PLACE=str(tmp_path))
    )
    assert outcome.status == 0, outcome.stderr
    assert [call.name for call in calls] == ["openat", "write", "renameat", "unlink"]
    assert len(strace.past_disk(calls, [])) == 4


# -- a full disk -------------------------------------------------------------------------------------------------------


def test_small_disk_is_really_full_and_space_returns(tmp_path: Path) -> None:
    """A write on the full tmpfs fails with ENOSPC; after free() it succeeds; the mount is gone at the end."""
    with small_disk(tmp_path, 64 * PAGE) as small:
        small.fill(leave=2)
        assert small.free_pages == 2
        ledger = example.Ledger(Disk(), small.path / "state")
        ledger.add("x" * (PAGE // 2))
        with pytest.raises(NoSpace):
            ledger.add("x" * (2 * PAGE))
        small.free()
        ledger.add("x" * (2 * PAGE))
        assert len(example.read_entries(small.path / "state")) == 2
        ledger.disk.close(ledger.fd)
        place = small.path
    assert not place.exists()


def test_small_disk_is_unmounted_when_the_test_fails(tmp_path: Path) -> None:
    """An exception inside, with a file still open, leaves no mount behind."""
    with contextlib.ExitStack() as held:

        def fail() -> None:
            with small_disk(tmp_path, 64 * PAGE) as small:
                held.enter_context((small.path / "held").open("wb"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
    assert list(tmp_path.iterdir()) == []


# -- comparison --------------------------------------------------------------------------------------------------------


def test_projection_is_its_sealed_parts_and_the_open_file(tmp_path: Path) -> None:
    """Sealed parts come first, in order of their numbers; other names do not count."""
    for name, content in {
        "flags-00000000000000000010.jsonl": b"2\n",
        "flags-00000000000000000000.jsonl": b"1\n",
        "flags.jsonl": b"3\n",
        "flags-1.jsonl": b"no\n",
        ".flags.jsonl.tmp": b"no\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    assert projection_bytes(tmp_path, "flags") == b"1\n2\n3\n"
    assert projection_bytes(tmp_path, "rejections") == b""


def test_difference_names_byte_and_line(tmp_path: Path) -> None:
    """The message shows the first line that differs, also where one side just ends."""
    for name, content in {"a": b"1\n2\n3\n", "b": b"1\n2\n", "c": b"1\nX\n3\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "flags.jsonl").write_bytes(content)
    with pytest.raises(AssertionError, match="first difference at byte 2, line 2"):
        assert_same_flags(tmp_path / "a", tmp_path / "c")
    with pytest.raises(AssertionError, match="byte 4, line 3"):
        assert_same_flags(tmp_path / "b", tmp_path / "a")
    assert_same_flags(tmp_path / "a", tmp_path / "a")
