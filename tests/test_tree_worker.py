"""The process that hashes a backlog for the tree: it changes no byte, and whatever becomes of it, nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs

from rigs import daemon
from rigs.daemon import make_settings, make_stream
from rigs.faulty_disk import Fault, FaultyDisk
from rigs.tmpfs import quick_directory
from rigs.tree import assert_whole
from rigs.workers import NONSENSE, ended, gone, note_started, run_instead, spoiled
from support import PATIENCE, cli_environment, wait_until
from test_commit_protocol import draft, resume
from tidewaiter.core.errors import EXIT_DURABILITY, IntegrityRefusal
from tidewaiter.core.tlog.notes import signing_key
from tidewaiter.core.tlog.tiles import TileTree
from tidewaiter.edges import tree_follower, tree_worker, worker
from tidewaiter.edges.durable import Disk, NoSpace
from tidewaiter.edges.lock import StateLock, probe
from tidewaiter.edges.tree_follower import TreeFollower
from tidewaiter.edges.tree_growing import grow
from tidewaiter.edges.tree_worker import TreeWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidewaiter.core.ledger import AuditMark

KEY: Final = signing_key("example.org/log", bytes(range(32)))
SEGMENT_BYTES: Final = 300_000
BATCHES: Final = 600


@pytest.fixture(scope="module")
def audit() -> Iterator[tuple[Path, AuditMark]]:
    """Return a state directory without a tree: some 2,900 entries in several segments, and where they end."""
    with quick_directory() as place:
        journal = resume(Disk(), place / "state", SEGMENT_BYTES)
        for number in range(BATCHES):
            journal.commit(draft(number))
        journal.close()
        yield place / "state", journal.mark


@pytest.fixture
def state(tmp_path: Path, audit: tuple[Path, AuditMark]) -> Path:
    """Return a state directory with the same audit log, and none of the tree's files yet."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "audit").symlink_to(audit[0] / "audit")
    return tmp_path / "state"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Make every range large, ask for little at once, and return the processes that are started from now on."""
    monkeypatch.setattr(tree_follower, "ASIDE_BYTES", 1)
    monkeypatch.setattr(tree_worker, "_ASKED_BYTES", 100_000)
    return note_started(monkeypatch)


def follow(state: Path, mark: AuditMark, stopped: Callable[[], bool] = lambda: False) -> dict[Path, bytes]:
    """Make the tree up to `mark` and a checkpoint of it; return its files."""
    follower = TreeFollower(Disk(), state, KEY.name, mark)
    try:
        follower.catch_up(mark, stopped)
        assert follower.size == mark.index
        follower.publish([KEY], 0)
    finally:
        follower.close()
    assert_whole(state)
    return {path.relative_to(state): path.read_bytes() for path in (state / "tlog").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def expected(audit: tuple[Path, AuditMark]) -> dict[Path, bytes]:
    """Return the files of the tree that a thread makes alone."""
    return follow(*audit)


# -- the same tree -----------------------------------------------------------------------------------------------------


def test_the_process_changes_no_byte_of_the_tree(
    state: Path, audit: tuple[Path, AuditMark], expected: dict[Path, bytes], started: list[subprocess.Popen[bytes]]
) -> None:
    """Tiles, checkpoint and signatures are those of a tree that was made without it, across segments and questions."""
    with capture_logs() as logged:
        assert follow(state, audit[1]) == expected
    assert len(expected) > 10
    assert len(list((state / "audit").iterdir())) > 2
    assert (len(started), ended(started), logged) == (1, True, [])


def test_small_ranges_start_no_process(state: Path, audit: tuple[Path, AuditMark], expected: dict[Path, bytes],
                                       started: list[subprocess.Popen[bytes]],
                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """A live stream has a tree without it."""
    monkeypatch.setattr(tree_follower, "ASIDE_BYTES", SEGMENT_BYTES * 2)
    assert follow(state, audit[1]) == expected
    assert started == []


@pytest.mark.parametrize("asked", [70_000, 1 << 20])
def test_any_range_is_answered_like_the_function_itself(
    audit: tuple[Path, AuditMark], monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    """Whatever was in the tree before, and wherever a range ends, both give the same tree, tiles and place."""
    monkeypatch.setattr(tree_worker, "_ASKED_BYTES", asked)
    path = str(max((audit[0] / "audit").iterdir(), key=lambda path: path.stat().st_size))
    end = Path(path).stat().st_size
    asking = TreeWorker()
    try:
        for leaves in (0, 1, 255, 256, 65_535, 65_536):
            here, there = TileTree(), TileTree()
            for tree in (here, there):
                tree.extend([bytes(32)] * leaves)
            at = 0
            while at < end:
                found = asking.grow(there, path, at, end, lambda: False)
                made = grow(here, path, at, min(end, at + asked))
                assert found is not None
                assert (found.tiles, found.reached) == (made.tiles, made.reached)
                assert (found.tree.size, found.tree.edge()) == (here.size, here.edge())
                there, at = found.tree, found.reached
    finally:
        asking.close()


def test_a_range_without_the_end_of_an_entry_is_refused(tmp_path: Path) -> None:
    """A file that is shorter than the log says, or has lost its newlines, is damaged; the tree is as before."""
    path = tmp_path / "audit"
    path.write_bytes(b'{"a":1}\n{"b"')
    tree = TileTree()
    for begin, end in ((0, 100), (8, 12)):
        with pytest.raises(IntegrityRefusal, match="ends there, expected"):
            grow(tree, str(path), begin, end)
        assert tree.size == 0
    assert grow(tree, str(path), 0, 12).reached == 8


# -- trouble -----------------------------------------------------------------------------------------------------------

SPOILED: Final = {
    "half an answer": "a = m.answer; m.answer = lambda *b: a(*b)[:-1]",
    "another digest": "m.digest = lambda *a: bytes(32)",
    "too far": "a = m.answer; m.answer = lambda s, g: a(s, g._replace(reached=1 << 40))",
    "an error": "m.grow = None",
}
PROGRAMS: Final = NONSENSE | {name: spoiled("tree_growing", change) for name, change in SPOILED.items()}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_nonsense_is_given_up_and_the_thread_makes_the_tree(
    state: Path, audit: tuple[Path, AuditMark], expected: dict[Path, bytes], started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch, program: str,
) -> None:  # fmt: skip
    """Whatever it answers, if anything: one warning, no second try, the same bytes, no process left."""
    run_instead(monkeypatch, program)
    monkeypatch.setattr(tree_worker, "_ANSWER_SECONDS", 0.3)
    with capture_logs() as logged:
        assert follow(state, audit[1]) == expected
    assert [line["event"] for line in logged] == ["worker.lost"]
    assert logged[0]["log_level"] == "warning"
    assert (len(started), ended(started)) == (1, True)


def test_a_process_that_cannot_be_started_is_done_without(
    state: Path, audit: tuple[Path, AuditMark], expected: dict[Path, bytes], started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where a sandbox forbids it, say."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with capture_logs() as logged:
        assert follow(state, audit[1]) == expected
    assert [line["event"] for line in logged] == ["worker.lost"]
    assert "/nonexistent/python" in logged[0]["error"]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_or_stopped_on_the_way_it_is_done_without(
    state: Path, audit: tuple[Path, AuditMark], expected: dict[Path, bytes], started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch, blow: signal.Signals,
) -> None:  # fmt: skip
    """What it had answered counts, the thread takes in the rest; a process that stands still is not waited for."""
    monkeypatch.setattr(tree_worker, "_ANSWER_SECONDS", 0.3)
    looks = count()

    def strike() -> bool:
        if started and next(looks) == 2:
            started[0].send_signal(blow)
        return False

    with capture_logs() as logged:
        assert follow(state, audit[1], strike) == expected
    assert [line["event"] for line in logged] == ["worker.lost"]
    assert (len(started), ended(started)) == (1, True)


def test_what_it_cannot_take_in_is_refused_in_the_same_words(
    tmp_path: Path, audit: tuple[Path, AuditMark], started: list[subprocess.Popen[bytes]]
) -> None:
    """It ends at damage without a word; the thread meets the same damage and says so."""
    state, mark = tmp_path / "cut", audit[1]
    shutil.copytree(audit[0] / "audit", state / "audit")
    last = state / "audit" / mark.segment
    last.write_bytes(last.read_bytes()[:-10])
    follower = TreeFollower(Disk(), state, KEY.name, mark)
    with pytest.raises(IntegrityRefusal, match=f"{mark.segment}.*ends there, expected {mark.length}"):
        follower.catch_up(mark)
    follower.close()
    assert (len(started), ended(started)) == (1, True)


def test_tiles_that_a_full_disk_refused_are_there_before_a_checkpoint_says_so(
    state: Path, audit: tuple[Path, AuditMark], expected: dict[Path, bytes]
) -> None:
    """They were refused behind the last entry: the next look has nothing to take in, and writes them all the same."""
    mark = audit[1]
    refused: list[int] = []

    class Full(Disk):
        def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            if follower.size == mark.index and not refused:
                refused.append(fd)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super()._pwrite(fd, data, offset)

    follower = TreeFollower(Full(), state, KEY.name, mark)
    with pytest.raises(NoSpace):
        follower.catch_up(mark)
    follower.catch_up(mark)
    follower.publish([KEY], 0)
    follower.close()
    assert_whole(state)
    assert {path: (state / path).read_bytes() for path in expected} == expected


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_stop_does_not_wait_for_an_answer(
    state: Path, audit: tuple[Path, AuditMark], expected: dict[Path, bytes], started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The process ends with its question; it is no fault, and the next range starts another."""
    follower = TreeFollower(Disk(), state, KEY.name, audit[1])
    with capture_logs() as logged, monkeypatch.context() as silent:
        run_instead(silent, NONSENSE["nothing"])
        follower.catch_up(audit[1], lambda: bool(started))
        assert (follower.size, len(started), ended(started)) == (0, 1, True)
    follower.keep()
    follower.close()
    assert follow(state, audit[1]) == expected
    assert (len(started), ended(started), logged) == (2, True, [])


def test_an_idle_process_is_ended_and_started_again(
    state: Path, audit: tuple[Path, AuditMark], started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is given back when the backlog is over."""
    follower = TreeFollower(Disk(), state, KEY.name, audit[1])
    try:
        follower.catch_up(audit[1])
        follower.catch_up(audit[1])
        follower.publish([], 0)
        assert not ended(started)
        assert not follower.at_rest(audit[1]), "or nobody would end the process"
        monkeypatch.setattr(worker, "_IDLE_SECONDS", 0)
        follower.catch_up(audit[1])
        assert ended(started)
        assert follower.at_rest(audit[1])
        path = str(min((state / "audit").iterdir()))
        assert follower._worker.grow(TileTree(), path, 0, 100_000, lambda: False) is not None
        assert (len(started), ended(started)) == (2, False)
    finally:
        follower.close()
    assert ended(started)


HOLDER: Final = """
import os, sys
from pathlib import Path
from tidewaiter.core.tlog.tiles import TileTree
from tidewaiter.edges.lock import StateLock
from tidewaiter.edges.tree_worker import TreeWorker
lock = StateLock(Path(sys.argv[1])).acquire()
inherited = os.open(sys.argv[1] + ".other", os.O_CREAT | os.O_RDWR)
os.set_inheritable(inherited, True)
asking = TreeWorker()
while True:
    assert asking.grow(TileTree(), sys.argv[2], 0, 100_000, lambda: False) is not None
    print(asking._process.pid, flush=True)
    sys.stdin.readline()
"""


def test_the_process_holds_nothing_and_outlives_signals_but_not_the_daemon(
    tmp_path: Path, audit: tuple[Path, AuditMark]
) -> None:
    """One socket, no lock, no socket's name; what is sent to all processes of a service leaves it; SIGKILL does not."""
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(lock), str(min((audit[0] / "audit").iterdir()))]
    environment = cli_environment({"NOTIFY_SOCKET": "/nowhere", "CREDENTIALS_DIRECTORY": "/secret"})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdin is not None and holder.stdout is not None  # noqa: PT018 - both are pipes
        pid = int(holder.stdout.readline())
        place = Path(f"/proc/{pid}")
        targets = {name: os.readlink(place / "fd" / name) for name in os.listdir(place / "fd")}  # noqa: PTH115, PTH208
        assert sorted(targets) == ["0", "1", "2"]
        assert [targets[name].partition(":")[0] for name in "012"] == ["socket", "socket", "/dev/null"]
        variables = (place / "environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in variables
        assert b"CREDENTIALS_DIRECTORY" not in variables
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        assert os.getpgid(pid) == pid, "Ctrl-C goes to the daemon's group"
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        assert int(holder.stdout.readline()) == pid
        assert probe(lock) == holder.pid
        holder.kill()
        holder.wait(PATIENCE)
        wait_until(lambda: gone(pid), what="its end")
    with StateLock(lock):
        assert probe(lock) == os.getpid()


@pytest.mark.parametrize("fails", [False, True])
def test_a_daemon_leaves_no_process_behind(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], *, fails: bool
) -> None:
    """However a run ends, the process was ended and waited for; the tree is whole where the run was."""
    stream = make_stream(tmp_path / "in" / "events.jsonl", 2_000)
    settings = make_settings(stream, tmp_path / "state", segment_bytes=100_000, batch_bytes=20_000)
    if fails:
        disk = FaultyDisk([Fault("fsync", "*/tile/0/0??", errno=errno.EIO)])
        assert daemon.run(settings, disk).status == EXIT_DURABILITY
    else:
        daemon.succeed(settings)
        assert_whole(settings.state.dir)
    assert started
    assert ended(started)  # two, where the end came while the first was asked
