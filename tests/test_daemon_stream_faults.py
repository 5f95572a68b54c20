"""The stream misbehaves under the whole daemon: rotated, renamed, truncated, rewritten, gone, late, spoilt.

Which file is which is tested more closely in test_stream and test_stream_faults; here what counts is the flags, the
exit code, and that the operator's way out is open.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from rigs import daemon
from rigs.daemon import Following, make_settings, make_stream
from rigs.tmpfs import quick_directory
from stopwatch import Stopwatch
from stream_rig import compress, member, rotate, swap
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_HALTED, EXIT_INTEGRITY, ConfigError, IntegrityRefusal
from tidewaiter.edges import inbox, waker
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.inbox import Request
from tidewaiter.shell import consumer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from tidewaiter.shell.settings import Settings


class Place:
    """A stream that a test lays out piece by piece, and the result of the same bytes in one file."""

    def __init__(self, root: Path, events: int = 400) -> None:
        self.root = root
        source = make_stream(root / "source" / "events.jsonl", events)
        self.lines = source.read_bytes().splitlines(keepends=True)
        self.data = source.read_bytes()
        self.whole = root / "whole"
        daemon.succeed(make_settings(source, self.whole))
        self.live = root / "in" / "events.jsonl"
        self.live.parent.mkdir()
        self.state = root / "state"

    def settings(self, **changes: Any) -> Settings:
        """Return the settings of the daemon under test."""
        return make_settings(self.live, self.state, **{"batch_bytes": 7000, **changes})

    def append(self, first: int, last: int, path: Path | None = None) -> int:
        """Append lines; the position behind them in the stream is returned."""
        with (path or self.live).open("ab") as file:
            file.write(b"".join(self.lines[first:last]))
        return self.position(last)

    def position(self, line: int) -> int:
        """Return where a line begins in the stream."""
        return sum(map(len, self.lines[:line]))

    def run(self, **changes: Any) -> daemon.Ended:
        """Run to the end of what is there."""
        return daemon.run(self.settings(**changes))

    def assert_all(self) -> None:
        """Assert that every line of the stream had its effect, once."""
        daemon.assert_same(self.state, self.whole)


@pytest.fixture
def place() -> Iterator[Place]:
    """A quick directory of the test's own."""
    with quick_directory() as path:
        yield Place(path)


# -- rotation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_rotation_while_running(place: Place, times: int) -> None:
    """Renamed and created anew, once and three times in a row, while the daemon follows."""
    cuts = [100 + 80 * number for number in range(times)]
    async with Following(place.settings()) as following:
        first = 0
        for cut in cuts:
            end = place.append(first, cut)
            if cut == cuts[0]:
                await following.reaches(end)
            rotate(place.live)
            first = cut
        await following.reaches(place.append(first, len(place.lines)))
    place.assert_all()
    assert daemon.actions(place.state)["segment.closed"] == times


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("compressed", [False, True])
def test_rotation_while_down(place: Place, times: int, compressed: bool) -> None:
    """Rotated once and three times between two runs, with the older files compressed too."""
    place.append(0, 100)
    assert place.run().status == EXIT_CLEAN
    for number in range(times):
        place.append(100 + 60 * number, 160 + 60 * number)
        rotate(place.live)
        if compressed:
            compress(member(place.live, ".1"))
    place.append(100 + 60 * times, len(place.lines))
    assert place.run().status == EXIT_CLEAN
    place.assert_all()


async def test_writer_keeps_writing_the_rotated_file(place: Place) -> None:
    """What is appended to the renamed file within the grace is read before the new file."""
    place.append(0, 100)
    async with Following(place.settings(grace_us=4_000_000)) as following:
        await following.reaches(place.position(100))
        rotate(place.live)
        place.append(200, 400)
        await asyncio.sleep(0.3)
        await following.reaches(place.append(100, 150, member(place.live, ".1")))
        await asyncio.sleep(0.3)
        await following.reaches(place.append(150, 200, member(place.live, ".1")))
        await following.reaches(place.append(400, len(place.lines)))
    place.assert_all()


def test_unterminated_tail_of_a_rotated_file_is_a_rejection(place: Place) -> None:
    """Half a line at the end of a closed segment is recorded as one, and the next segment begins behind it."""
    place.append(0, 100)
    with place.live.open("ab") as file:
        file.write(b'{"half": ')
    rotate(place.live)
    place.append(100, 200)
    assert place.run().status == EXIT_CLEAN
    rejected = [json.loads(line) for line in (place.state / "rejections.jsonl").read_bytes().splitlines()]
    tail = next(line for line in rejected if line["preview"] == '{"half": ')
    assert (tail["offset"], tail["length"]) == (place.position(100), 9)
    assert daemon.committed(place.state) == place.position(200) + 9
    daemon.assert_consistent(place.state)


def test_unterminated_last_line_is_reported_and_waits(place: Place) -> None:
    """With --once half a line at the end exits 3; completed, it is evaluated like any other."""
    place.append(0, 100)
    with place.live.open("ab") as file:
        file.write(place.lines[100][:50])
    ended = place.run()
    assert ended.status == EXIT_HALTED
    assert "no newline" in ended.message
    with place.live.open("ab") as file:
        file.write(place.lines[100][50:])
    place.append(101, len(place.lines))
    assert place.run().status == EXIT_CLEAN
    place.assert_all()


async def test_file_that_appears_late(place: Place) -> None:
    """The stream does not exist yet when the daemon starts."""
    async with Following(place.settings()) as following:
        await following.until(lambda: daemon.log_events(place.state, "daemon.ready"))
        await asyncio.sleep(0.2)
        await following.reaches(place.append(0, len(place.lines)))
    place.assert_all()


async def test_symlink_swap(place: Place) -> None:
    """The stream's name is a symbolic link that is pointed to the next file."""
    first, second = member(place.live, "-a"), member(place.live, "-b")
    place.append(0, 150, first)
    place.live.symlink_to(first.name)
    async with Following(place.settings()) as following:
        await following.reaches(place.position(150))
        place.append(150, 300, second)
        swap(place.live, second)
        await following.reaches(place.position(300))
        await following.reaches(place.append(300, len(place.lines), second))
    place.assert_all()


# -- what is not the same stream ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("how", ["truncated", "rewritten", "rewritten longer", "copytruncate", "emptied"])
async def test_changed_before_the_position_is_refused(place: Place, how: str, running: bool) -> None:
    """Bytes that were read and are no longer there: exit 4 with the evidence, while running and at the next start."""
    place.append(0, 200)
    following = Following(place.settings(poll_us=50_000))
    if running:
        await following.__aenter__()
        await following.reaches(place.position(200))
    else:
        assert place.run().status == EXIT_CLEAN
    data = place.live.read_bytes()
    if how == "copytruncate":
        member(place.live, ".1").write_bytes(data)
    changed = {
        "truncated": data[: len(data) // 2], "rewritten": data.replace(b"GBP", b"EUR"),
        "rewritten longer": b"x" + data, "copytruncate": b"", "emptied": b"",
    }[how]  # fmt: skip
    with place.live.open("r+b") as file:
        file.write(changed)
        file.truncate()
    ended = await following.ended() if running else place.run()
    assert ended.status == EXIT_INTEGRITY, ended
    assert "events.jsonl" in ended.message
    before = daemon.actions(place.state)["batch.committed"]
    assert place.run().status == EXIT_INTEGRITY
    assert daemon.actions(place.state)["batch.committed"] == before
    place.live.write_bytes(data)
    member(place.live, ".1").unlink(missing_ok=True)
    place.append(200, len(place.lines))
    assert place.run().status == EXIT_CLEAN
    place.assert_all()


def test_inode_reused_with_the_same_header(place: Place) -> None:
    """A new file with the old one's inode and first bytes is not taken for the old one: the old one is read on."""
    header = b"".join(place.lines[:10])
    place.append(0, 150)
    assert place.run().status == EXIT_CLEAN
    old = place.live.read_bytes()
    inode = place.live.stat().st_ino
    member(place.live, ".1.gz").write_bytes(gzip.compress(old + b"".join(place.lines[150:200])))
    with place.live.open("r+b") as file:  # the same inode
        file.write(header + b"".join(place.lines[200:]))
        file.truncate()
    assert place.live.stat().st_ino == inode
    assert len(header) > 1024
    assert place.run().status == EXIT_CLEAN
    assert daemon.committed(place.state) == len(place.data) + len(header)
    totals = daemon.entries(place.state, "batch.committed")[-1]["totals"]
    assert totals["events_read"] == len(place.lines) + 10
    daemon.assert_consistent(place.state)


# -- gaps and what comes too late --------------------------------------------------------------------------------------


def assert_halted(place: Place, *words: str, **changes: Any) -> int:
    """Assert that a start halts, and the next one at the same place without a second entry; return the position."""
    endings = [place.run(**changes) for _ in range(3)]
    for ended in endings:
        assert ended.status == EXIT_HALTED, ended
        for word in words:
            assert word in ended.message, ended.message
    halts = daemon.entries(place.state, "stream.halted")
    assert len({entry["offset"] for entry in halts}) == len(halts), "the same halt was recorded twice"
    assert f"tidewaiter skip --position {halts[-1]['offset']} --reason" in endings[-1].message
    report = json.loads((place.state / "reports" / "validation_report.json").read_bytes())
    assert report["status"] == "failed"
    assert report["halt"]["offset"] == halts[-1]["offset"]
    return int(halts[-1]["offset"])


def test_segment_deleted_while_down_is_a_loud_gap(place: Place) -> None:
    """A segment vanished unread: exit 3, until an operator's decision; then it goes on behind the gap."""
    place.append(0, 100)
    assert place.run().status == EXIT_CLEAN
    rotate(place.live)
    place.append(100, 200)
    rotate(place.live)
    place.append(200, len(place.lines))
    member(place.live, ".2").unlink()
    position = assert_halted(place)
    with pytest.raises(ConfigError, match="the pending halt is at position"):
        daemon.skip(place.settings(), position + 1)
    assert "accepted" in daemon.skip(place.settings(), position)
    assert place.run().status == EXIT_CLEAN
    decision = daemon.entries(place.state, "decision.recorded")[-1]
    assert (decision["decision"], decision["actor"], decision["reason"]) == ("gap", "tester", "seen by a test")
    totals = daemon.entries(place.state, "batch.committed")[-1]["totals"]
    assert totals["events_read"] == len(place.lines)
    daemon.assert_consistent(place.state)
    assert place.run().status == EXIT_CLEAN


def test_unread_segment_deleted_between_two_others(place: Place) -> None:
    """The position's file is read to its end, then the hole behind it halts, and a decision goes over it."""
    place.append(0, 100)
    assert place.run().status == EXIT_CLEAN
    rotate(place.live)
    place.append(100, 200)
    rotate(place.live)
    place.append(200, 300)
    rotate(place.live)
    place.append(300, len(place.lines))
    member(place.live, ".2").unlink()
    position = assert_halted(place)
    assert position == place.position(100)
    daemon.skip(place.settings(), position)
    assert place.run().status == EXIT_CLEAN
    totals = daemon.entries(place.state, "batch.committed")[-1]["totals"]
    assert totals["events_read"] == len(place.lines) - 100
    daemon.assert_consistent(place.state)
    assert place.run().status == EXIT_CLEAN


@pytest.mark.parametrize("what", ["late bytes in a closed segment", "a segment that sorts before"])
def test_what_comes_too_late_halts_until_accepted(place: Place, what: str) -> None:
    """Bytes where nothing is read any more are never left out in silence."""
    place.append(0, 100)
    rotate(place.live)
    place.append(100, 200)
    assert place.run().status == EXIT_CLEAN
    older = member(place.live, ".1")
    if what.startswith("late"):
        with older.open("ab") as file:
            file.write(b'{"late": 1}\n')
    else:
        member(place.live, ".2").write_bytes(b'{"strange": 1}\n' * 3)
    place.append(200, 300)
    position = assert_halted(place)
    daemon.skip(place.settings(), position)
    assert place.run().status == EXIT_CLEAN
    place.append(300, len(place.lines))
    assert place.run().status == EXIT_CLEAN
    place.assert_all()


def test_accepted_gap_does_not_cover_a_later_one(place: Place) -> None:
    """What vanishes between the decision and the next start halts again, with what is missing now."""
    place.append(0, 100, member(place.live, ".5"))
    for number, first in ((3, 150), (2, 200), (1, 250)):
        place.append(first, first + 50, member(place.live, f".{number}"))
    place.append(300, len(place.lines))
    position = assert_halted(place, "events.jsonl.4: not there")
    daemon.skip(place.settings(), position)
    member(place.live, ".3").unlink()
    ended = place.run()
    assert (ended.status, "events.jsonl.4, events.jsonl.3: not there" in ended.message) == (EXIT_HALTED, True)
    daemon.skip(place.settings(), position)
    assert place.run().status == EXIT_CLEAN
    totals = daemon.entries(place.state, "batch.committed")[-1]["totals"]
    assert totals["events_read"] == len(place.lines) - 100


def test_late_bytes_accepted_in_an_empty_segment_are_not_its_successor(place: Place) -> None:
    """The closed successor keeps its record: it is not read a second time."""
    place.append(0, 0, member(place.live, ".1"))
    place.append(0, 100)
    assert place.run().status == EXIT_CLEAN
    rotate(place.live)
    place.append(0, 0)
    assert place.run().status == EXIT_CLEAN
    with member(place.live, ".2").open("ab") as file:
        file.write(b'{"late": 1}\n')
    daemon.skip(place.settings(), assert_halted(place, "was closed with 0 bytes"))
    assert place.run().status == EXIT_CLEAN
    place.append(100, len(place.lines))
    assert place.run().status == EXIT_CLEAN
    place.assert_all()


async def test_segment_deleted_while_it_is_read(place: Place) -> None:
    """An unlinked file is read to its end, as long as the daemon has it open."""
    place.append(0, 150)
    async with Following(place.settings()) as following:
        await following.reaches(place.position(150))
        with place.live.open("ab") as writer:
            place.live.unlink()
            writer.write(b"".join(place.lines[150:200]))
            writer.flush()
            await following.reaches(place.position(200))
        await following.reaches(place.append(200, len(place.lines)))
    place.assert_all()


# -- notifications -----------------------------------------------------------------------------------------------------


UNTIL_LOOKS = 2.5
"""Until the speed has been told to be none, and for a second behind a change of the directory, all passes are whole."""


async def _never(_directory: Path) -> AsyncGenerator[set[Any], None]:
    await asyncio.Event().wait()
    yield set()


async def test_all_notifications_dropped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher never says a word: what is appended and rotated is found by stat, well within a second.

    No whole pass helps, only looks; and a look finds what is handed in, too.
    """
    monkeypatch.setattr(waker, "_watch", _never)
    monkeypatch.setattr(consumer, "QUIET_SECONDS", 1e9)
    async with Following(place.settings()) as following:
        await following.reaches(place.append(0, 100))
        await asyncio.sleep(UNTIL_LOOKS)
        await following.reaches(place.append(100, 200), 1.5)
        rotate(place.live)
        await following.reaches(place.append(200, len(place.lines)), 4)
        await asyncio.sleep(UNTIL_LOOKS)
        request = Request(inbox.new_id(), "skip", {"position": 1}, "me")
        asking = asyncio.create_task(asyncio.to_thread(inbox.ask, Disk(), place.state, request, lambda: False))
        await following.until(asking.done, "an answer", 3)
        answer = await asking
        assert answer is not None
        assert "no halt is pending" in answer.message
    place.assert_all()


async def test_quiet_stream_is_a_sign_of_life(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look that finds nothing new feeds the watchdog: it may want more of them than there are whole passes."""
    monkeypatch.setattr(consumer, "QUIET_SECONDS", 1e9)
    fed: list[bool] = []
    async with Following(place.settings(poll_us=20_000)) as following:
        await following.reaches(place.append(0, len(place.lines)))
        await asyncio.sleep(UNTIL_LOOKS)
        monkeypatch.setattr(following.supervisor.services, "watchdog_interval", lambda: 0.01)
        monkeypatch.setattr(following.supervisor.services, "watchdog", lambda: fed.append(True))
        await following.until(lambda: len(fed) > 5, "the watchdog's food", 3)
    place.assert_all()


async def test_silence_is_told_in_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm falls between two whole passes, and is raised at the next look all the same."""
    monkeypatch.setattr(consumer, "QUIET_SECONDS", 1e9)
    async with Following(place.settings(poll_us=20_000, alarm_us=3_000_000)) as following:
        await following.reaches(place.append(0, 100))
        with Stopwatch() as watch:
            await following.until(lambda: daemon.log_events(place.state, "stream.silent"), "the alarm", 30)
        assert watch.seconds < 3.9
    (told,) = daemon.log_events(place.state, "stream.silent")
    assert told["seconds"] >= 3


async def test_watcher_dies_and_is_recreated(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notifier's thread dies again and again: it is logged once, events go on, and a new one is made."""
    born = 0

    async def dying(directory: Path) -> AsyncGenerator[set[Any], None]:
        nonlocal born
        born += 1
        yield {1}
        raise RuntimeError("the watcher's thread died")

    monkeypatch.setattr(waker, "_watch", dying)
    async with Following(place.settings(poll_us=100_000)) as following:
        await following.reaches(place.append(0, 100))
        await following.until(lambda: born >= 3, "a third watcher")
        await following.reaches(place.append(100, len(place.lines)))
    place.assert_all()
    lost = daemon.log_events(place.state, "watcher.lost")
    assert [line["error"] for line in lost] == ["RuntimeError: the watcher's thread died"]


# -- halts and decisions about lines -----------------------------------------------------------------------------------


@pytest.fixture
def halting() -> Iterator[Place]:
    """A stream without a fault but three bad lines, two of them next to each other."""
    with quick_directory() as path:
        place = Place(path)
        shutil.rmtree(path / "source")
        source = make_stream(path / "source" / "events.jsonl", 300, bad=0, duplicates=0, disorder=0)
        place.lines = source.read_bytes().splitlines(keepends=True)
        for at in (100, 200, 201):
            place.lines.insert(at, b'{"event_id": 1}\n')
        place.live.write_bytes(b"".join(place.lines))
        shutil.rmtree(place.whole)
        daemon.succeed(make_settings(place.live, place.whole))
        yield place


@pytest.mark.parametrize("batch_bytes", [100, 7000, 1 << 20])
def test_halt_is_exactly_at_the_line_and_skip_goes_on(halting: Place, batch_bytes: int) -> None:
    """Everything before the line is committed; a restart halts there again; the decision leaves out just that line."""
    place = halting
    for number in (100, 200, 201):
        position = assert_halted(place, "event_id", invalid="halt", batch_bytes=batch_bytes)
        assert position == place.position(number) == daemon.committed(place.state)
        daemon.skip(place.settings(invalid="halt"), position)
        with pytest.raises(ConfigError, match="no halt is pending"):
            daemon.skip(place.settings(invalid="halt"), position)
    assert place.run(invalid="halt", batch_bytes=batch_bytes).status == EXIT_CLEAN
    assert len(daemon.entries(place.state, "stream.halted")) == 3
    daemon.assert_consistent(place.state)
    assert (place.state / "flags.jsonl").read_bytes() == (place.whole / "flags.jsonl").read_bytes()
    rejected = [json.loads(line) for line in (place.state / "rejections.jsonl").read_bytes().splitlines()]
    assert [(line["kind"], line["offset"]) for line in rejected] == [
        ("operator", place.position(number)) for number in (100, 200, 201)
    ]
    # and all of it once more from the beginning
    for path in (place.state / "snapshots").iterdir():
        path.unlink()
    assert place.run(invalid="halt").status == EXIT_CLEAN


def test_skip_through_leaves_out_a_range(halting: Place) -> None:
    """One decision covers every line up to the position, good ones too."""
    place = halting
    position = assert_halted(place, invalid="halt")
    daemon.skip(place.settings(invalid="halt"), position, place.position(202))
    assert place.run(invalid="halt").status == EXIT_CLEAN
    totals = daemon.entries(place.state, "batch.committed")[-1]["totals"]
    assert totals["operator"] == 102
    assert totals["events_read"] == len(place.lines)
    assert totals["events_read"] == totals["evaluated"] + totals["rejected"]
    daemon.assert_consistent(place.state)


def test_skip_of_a_line_that_has_changed_is_refused(halting: Place) -> None:
    """The decision was about other bytes."""
    place = halting
    position = assert_halted(place, invalid="halt")
    data = place.live.read_bytes()
    place.live.write_bytes(data[:position] + data[position:].replace(b": 1}", b": 2}", 1))
    with pytest.raises(IntegrityRefusal, match="is not the one that halted"):
        daemon.skip(place.settings(invalid="halt"), position)


def test_policy_changed_after_a_halt_goes_on(halting: Place) -> None:
    """With `quarantine` the same line is a rejection; the change is a decision at exactly that position."""
    place = halting
    position = assert_halted(place, invalid="halt")
    assert place.run(invalid="quarantine").status == EXIT_CLEAN
    place.assert_all()
    decisions = daemon.entries(place.state, "decision.recorded")
    assert [entry["decision"] for entry in decisions] == ["governing", "governing"]
    commits = daemon.entries(place.state, "batch.committed")
    at = next(commit for commit in commits if commit["index"] > decisions[1]["index"])
    assert at["position"]["start"] + at["first"] == position
    for path in (place.state / "snapshots").iterdir():
        path.unlink()
    assert place.run(invalid="quarantine").status == EXIT_CLEAN


def test_quarantine_counts_every_kind(place: Place) -> None:
    """The report's counts are those of the stream: invalid, duplicate and late lines, and nothing else is missing."""
    place.append(0, len(place.lines))
    assert place.run().status == EXIT_CLEAN
    counts = json.loads((place.state / "reports" / "validation_report.json").read_bytes())["counts"]
    assert counts["events_read"] == len(place.lines)
    failures = ("json_parse_failures", "contract_failures", "duplicate_failures", "ordering_failures")
    assert counts["events_read"] - counts["events_valid"] == sum(counts[name] for name in failures)
    assert all(counts[name] > 0 for name in failures), counts
