"""The process that chains large commits: it changes no byte, and whatever becomes of it, nothing is lost."""

from __future__ import annotations

import errno
import random
import signal
import sys
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs

from rigs import daemon
from rigs.daemon import make_settings, make_stream
from rigs.faulty_disk import Fault, FaultyDisk
from rigs.tree import assert_whole
from rigs.workers import NONSENSE, ended, note_started, run_instead, spoiled
from test_commit_protocol import draft, resume
from tidewaiter.core.chaining import chain_entries
from tidewaiter.core.errors import EXIT_DURABILITY
from tidewaiter.edges import chain_worker, worker
from tidewaiter.edges.chain_worker import ChainWorker
from tidewaiter.edges.durable import Disk, NoSpace

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

SEGMENT_BYTES: Final = 20_000
BATCHES: Final = 40
HEAD: Final = "ab" * 32


def write(state: Path, disk: Disk | None = None) -> dict[str, bytes]:
    """Commit some batches, again where the disk was full, and return the files they leave."""
    journal = resume(disk or Disk(), state, SEGMENT_BYTES)
    try:
        for number in range(BATCHES):
            try:
                journal.commit(draft(number))
            except NoSpace:
                journal.commit(draft(number))
        journal.materialise()
    finally:
        journal.close()
    return {str(path.relative_to(state)): path.read_bytes() for path in state.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the state directory of a daemon that chains by itself."""
    return write(tmp_path_factory.mktemp("alone") / "state")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Make every commit large, and return the processes that are started from now on."""
    monkeypatch.setattr(chain_worker, "_ASIDE_ENTRIES", 1)
    return note_started(monkeypatch)


# -- the same bytes ----------------------------------------------------------------------------------------------------


def test_the_process_changes_no_byte(
    tmp_path: Path, expected: dict[str, bytes], started: list[subprocess.Popen[bytes]]
) -> None:
    """Audit log, projections and checkpoint are those of a daemon without it, across segments."""
    with capture_logs() as logged:
        assert write(tmp_path / "state") == expected
    assert sum(name.startswith("audit/") for name in expected) > 2
    assert (len(started), ended(started), logged) == (1, True, [])


def test_any_entries_are_answered_like_the_function_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in them, and wherever the index gets another digit; the answer may be larger than any buffer."""
    monkeypatch.setattr(chain_worker, "_ASIDE_ENTRIES", 1)
    processes = note_started(monkeypatch)
    asking = ChainWorker()
    chance = random.Random(7)
    try:
        asking.chain(HEAD, 0, ["-"], b"\0", b"")  # starts the process
        for index in (0, 1, 9, 99_998, 2**40):
            for count, longest in ((1, 0), (1, 50), (3, 20), (700, 60), (3_000, 2_000)):
                kinds = [f',"kind":"{name}",' for name in ("a", "b é", "")]
                kind_of = bytes(chance.choices(range(3), k=count))
                texts = ["é\U0001f600x"[number % 3] * chance.randint(0, longest) for number in range(count)]
                texts[-1] += "end"
                found = asking.chain(HEAD, index, kinds, kind_of, "\n".join(texts).encode())
                assert found == chain_entries(HEAD, index, kinds, kind_of, "\n".join(texts).encode())
        assert asking.running
    finally:
        asking.close()
    assert (len(processes), ended(processes)) == (1, True)


def test_small_commits_start_no_process(
    tmp_path: Path, expected: dict[str, bytes], started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live stream is committed without it."""
    monkeypatch.setattr(chain_worker, "_ASIDE_ENTRIES", 1_000)
    assert write(tmp_path / "state") == expected
    assert started == []


def test_the_first_large_commit_does_not_wait_for_the_process_to_come_up(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is chained here; one that never answers is met by the next."""
    run_instead(monkeypatch, NONSENSE["nothing"])
    monkeypatch.setattr(chain_worker, "_ANSWER_SECONDS", 0.2)
    asking = ChainWorker()
    try:
        with capture_logs() as logged:
            first = asking.chain(HEAD, 5, ["k"], b"\0", b"t")
            assert (len(started), ended(started), logged) == (1, False, [])
            assert asking.chain(HEAD, 5, ["k"], b"\0", b"t") == first == chain_entries(HEAD, 5, ["k"], b"\0", b"t")
    finally:
        asking.close()
    assert [line["event"] for line in logged] == ["worker.lost"]
    assert "no answer in 0" in logged[0]["error"]


# -- trouble -----------------------------------------------------------------------------------------------------------

ANSWER: Final = "a = m.answer; m.answer = lambda c: a(c._replace({}) if c.data.count(b'\\n') > 1 else c)"
SPOILED: Final = {
    "half an answer": "a = m.answer; m.answer = lambda c: a(c)[:-1]",
    "another head": ANSWER.format("head='0' * 64"),
    "more in between": ANSWER.format("data=c.data.replace(b'pad', b'padd', 1)"),
    "another beginning": ANSWER.format("data=b'[' + c.data[1:]"),
    "another end": "h = m.chain_entries; m.chain_entries = lambda *a: h(*a[:4], a[4][:-1] + b'x')",
    "more than there is memory for": "p = m.ANSWER; m.answer = lambda c: p.pack(1 << 60, 1, b'0' * 64)",
    "an error": "m.chain_entries = None",
}  # fmt: skip
PROGRAMS: Final = NONSENSE | {name: spoiled("chain_serving", change) for name, change in SPOILED.items()}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_nonsense_is_given_up_and_the_commit_is_chained_here(
    tmp_path: Path, expected: dict[str, bytes], started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch,
    program: str,
) -> None:  # fmt: skip
    """Whatever it answers, if anything: one warning, no second try, the same bytes, no process left."""
    run_instead(monkeypatch, program)
    monkeypatch.setattr(chain_worker, "_ANSWER_SECONDS", 0.3)
    with capture_logs() as logged:
        assert write(tmp_path / "state") == expected
    assert [(line["event"], line["log_level"]) for line in logged] == [("worker.lost", "warning")]
    assert (len(started), ended(started)) == (1, True)


def test_a_process_that_cannot_be_started_is_done_without(
    tmp_path: Path, expected: dict[str, bytes], started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a sandbox forbids it, say."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with capture_logs() as logged:
        assert write(tmp_path / "state") == expected
    assert [line["event"] for line in logged] == ["worker.lost"]
    assert "/nonexistent/python" in logged[0]["error"]
    assert started == []


def test_a_process_that_stands_still_with_a_long_question_is_given_up(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the question, more than any socket holds, nor the answer is waited for without end."""
    monkeypatch.setattr(chain_worker, "_ANSWER_SECONDS", 0.3)
    texts = b"\n".join([b"x" * 1_000] * 5_000)
    expected = chain_entries(HEAD, 0, ["k"], bytes(5_000), texts)
    asking = ChainWorker()
    try:
        with capture_logs() as logged:
            assert asking.chain(HEAD, 0, ["k"], bytes(5_000), texts) == expected
            started[0].send_signal(signal.SIGSTOP)
            assert asking.chain(HEAD, 0, ["k"], bytes(5_000), texts) == expected
    finally:
        asking.close()
    assert [line["event"] for line in logged] == ["worker.lost"]
    assert ended(started)


SLOW: Final = """
import os, time
def write(data, pieces, pause):
    view = memoryview(data)
    while view:
        time.sleep(pause)
        view = view[os.write(1, view[: len(data) // pieces + 1]) :]
def serve():
    while (text := m._answer_next(m.sys.stdin.buffer)) is not None:
        write(text, {pieces}, {pause})
time.sleep(0.3)
m.sys = __import__("sys")
m.serve = serve
"""


@pytest.mark.parametrize(("pieces", "pause", "lost"), [(3, 0.15, 0), (3_000, 0.02, 1)])
def test_an_answer_in_pieces_is_waited_for_but_not_for_ever(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, pieces: int, pause: float, lost: int
) -> None:
    """It is put together where it comes in time; one that drips is given up though something always comes."""
    run_instead(monkeypatch, spoiled("chain_serving", f"exec({SLOW.format(pieces=pieces, pause=pause)!r})"))
    texts = b"\n".join([b"x" * 1_000] * 2_000)
    expected = chain_entries(HEAD, 0, ["k"], bytes(2_000), texts)
    asking = ChainWorker()
    try:
        with capture_logs() as logged:
            for _ in range(2):
                assert asking.chain(HEAD, 0, ["k"], bytes(2_000), texts) == expected
    finally:
        asking.close()
    assert [line["event"] for line in logged] == ["worker.lost"] * lost
    assert ended(started)


def test_commits_beyond_any_usual_batch_are_chained_here(started: list[subprocess.Popen[bytes]]) -> None:
    """Their copies would cost more than the process saves."""
    asking = ChainWorker()
    texts = b"\n".join([b"x"] * 20_001)
    assert asking.chain(HEAD, 0, ["k"], bytes(20_001), texts) == chain_entries(HEAD, 0, ["k"], bytes(20_001), texts)
    assert started == []


def test_an_error_of_ours_in_the_middle_of_an_answer_ends_the_process(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of that answer must not be met by the next question."""
    asking = ChainWorker()
    asking.chain(HEAD, 0, ["k"], b"\0", b"t")
    monkeypatch.setattr(worker.Worker, "receive", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        asking.chain(HEAD, 0, ["k"], b"\0", b"t")
    assert ended(started)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_or_stopped_on_the_way_it_is_done_without(
    tmp_path: Path, expected: dict[str, bytes], started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch,
    blow: signal.Signals,
) -> None:  # fmt: skip
    """What it had answered counts; a process that stands still is not waited for."""
    monkeypatch.setattr(chain_worker, "_ANSWER_SECONDS", 0.3)

    class Striking(Disk):
        def _fdatasync(self, fd: int) -> None:
            super()._fdatasync(fd)
            self.syncs = getattr(self, "syncs", 0) + 1
            if self.syncs == BATCHES:
                started[0].send_signal(blow)

    with capture_logs() as logged:
        assert write(tmp_path / "state", Striking()) == expected
    assert [line["event"] for line in logged] == ["worker.lost"]
    assert (len(started), ended(started)) == (1, True)


def test_a_commit_that_found_the_disk_full_is_asked_for_again(
    tmp_path: Path, expected: dict[str, bytes], started: list[subprocess.Popen[bytes]]
) -> None:
    """The process keeps nothing: the second answer follows on the same head as the first."""
    fault = Fault("pwrite", "*/audit/*", nth=15, errno=errno.ENOSPC)
    disk = FaultyDisk([fault])
    with capture_logs() as logged:
        assert write(tmp_path / "state", disk) == expected
    assert fault.seen > fault.nth
    assert (len(started), ended(started), logged) == (1, True, [])


# -- the end -----------------------------------------------------------------------------------------------------------


def test_an_idle_process_is_ended_and_started_again(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is given back when the backlog is over."""
    journal = resume(Disk(), tmp_path / "state", SEGMENT_BYTES)
    try:
        journal.commit(draft(0))
        journal.rest()
        assert not ended(started)
        monkeypatch.setattr(worker, "_IDLE_SECONDS", 0)
        journal.rest()
        assert ended(started)
        journal.commit(draft(1))
        assert (len(started), ended(started)) == (2, False)
    finally:
        journal.close()
    assert ended(started)


@pytest.mark.parametrize("fails", [False, True])
def test_a_daemon_leaves_no_process_behind(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], *, fails: bool
) -> None:
    """However a run ends, the process was ended and waited for; log and tree are whole where the run was."""
    stream = make_stream(tmp_path / "in" / "events.jsonl", 2_000)
    settings = make_settings(stream, tmp_path / "state", batch_bytes=20_000)
    if fails:
        disk = FaultyDisk([Fault("fdatasync", "*/audit/*", nth=9, errno=errno.EIO)])
        assert daemon.run(settings, disk).status == EXIT_DURABILITY
    else:
        daemon.succeed(settings)
        assert_whole(settings.state.dir)
    assert (len(started), ended(started)) == (1, True)


async def test_a_daemon_that_follows_gives_the_process_back_when_it_has_caught_up(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended by an idle look, not by the end of the daemon."""
    monkeypatch.setattr(worker, "_IDLE_SECONDS", 0)
    stream = make_stream(tmp_path / "in" / "events.jsonl", 500)
    async with daemon.Following(make_settings(stream, tmp_path / "state", batch_bytes=20_000)) as running:
        await running.until(lambda: started and ended(started), "the end of the process")
