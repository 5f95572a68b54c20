"""The tree over the audit log: what it says, what a crash leaves of it, and what it refuses."""

from __future__ import annotations

import errno
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rigs.faulty_disk import Fault, FaultyDisk
from rigs.kill import Launcher, every_point
from rigs.power_loss import RecordingDisk
from rigs.tmpfs import quick_directory
from rigs.tree import Held, assert_prefixes, assert_whole, held, leaves, root_of
from test_commit_protocol import BATCH_BYTES, SMALL_SEGMENTS, draft, none_of, resume
from tidewaiter.core.errors import EXIT_CLEAN, IntegrityRefusal, TidewaiterError
from tidewaiter.core.tlog.notes import parse_note, signing_key, verified
from tidewaiter.edges.durable import Disk, NoSpace, SyncFailed
from tidewaiter.edges.tree_follower import TreeFollower

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidewaiter.core.tlog.notes import SigningKey

TARGET = "test_tree_follower:grow"
KEY = signing_key("example.org/log", bytes(range(32)))
BATCHES = 12


def follow(disk: Disk, state: Path, batches: int, every: int, keys: list[SigningKey]) -> None:
    """Bring the state to hold so many batches, with a checkpoint after `every` of them and at the end."""
    journal = resume(disk, state, SMALL_SEGMENTS)
    try:
        follower = TreeFollower(disk, state, journal.ledger.origin, journal.mark)
        for number in range(journal.ledger.global_offset // BATCH_BYTES, batches):
            journal.commit(draft(number))
            journal.materialise()
            if number % every == every - 1:
                follower.catch_up(journal.mark)
                follower.publish(keys, 0)
        follower.catch_up(journal.mark)
        follower.publish(keys, 0)
    finally:
        journal.close()


def grow(disk: Disk, state: str, batches: int) -> int:
    """Follow with the key, and return an exit status."""
    try:
        follow(disk, Path(state), batches, 3, [KEY])
    except TidewaiterError as error:
        return error.exit_code
    return EXIT_CLEAN


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory: thousands of syncs need not wait for a disk."""
    with quick_directory() as path:
        yield path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a signed tree over some 700 entries in several segments."""
    follow(Disk(), tmp_path / "state", 150, 3, [KEY])
    return tmp_path / "state"


def reopen(state: Path) -> TreeFollower:
    """Start again."""
    journal = resume(Disk(), state, SMALL_SEGMENTS)
    journal.close()
    return TreeFollower(Disk(), state, journal.ledger.origin, journal.mark)


# -- what it says ------------------------------------------------------------------------------------------------------


def test_every_checkpoint_is_the_tree_over_the_entries_so_far(state: Path) -> None:
    """The roots are those of RFC 6962 over the exact lines, across audit segments, tiles and levels."""
    assert len(leaves(state)) > 512
    assert len(list((state / "audit").glob("audit-*.jsonl"))) > 3
    assert len(held(state)) > 50
    assert_whole(state)


def test_checkpoints_are_signed_notes_of_the_origin(state: Path) -> None:
    """The newest checkpoint verifies under the key, and says the log's name."""
    note = parse_note((state / "tlog" / "checkpoint").read_bytes())
    assert verified(note, [KEY.verifier]) == [KEY.verifier]
    assert note.text.startswith(b"example.org/log\n")


def test_without_a_key_there_is_a_tree_and_no_signature(tmp_path: Path) -> None:
    """The unsigned tree is the same, its newest checkpoint says so by ending with the blank line."""
    state = tmp_path / "state"
    follow(Disk(), state, 20, 3, [])
    assert (state / "tlog" / "checkpoint").read_bytes().endswith(b"\n\n")
    assert not (state / "tlog" / "checkpoints").exists()
    assert_whole(state)


def test_going_on_makes_the_same_tiles_as_one_go(tmp_path: Path, state: Path) -> None:
    """Where a run stopped in between leaves no trace in any full tile, nor in the last root."""
    again = tmp_path / "again"
    shutil.copytree(state, again)
    shutil.rmtree(again / "tlog")
    follower = reopen(again)
    journal = resume(Disk(), again, SMALL_SEGMENTS)
    follower.catch_up(journal.mark)
    follower.publish([KEY], 0)
    journal.close()
    full = sorted(path.relative_to(state) for path in (state / "tlog" / "tile").rglob("*") if ".p" not in str(path))
    assert [path for path in full if (state / path).is_file()]
    for path in full:
        if (state / path).is_file():
            assert (again / path).read_bytes() == (state / path).read_bytes(), path


def test_a_checkpoint_says_nothing_twice(state: Path) -> None:
    """Where nothing was committed, nothing is written."""
    before = (state / "tlog" / "checkpoints").read_bytes()
    follower = reopen(state)
    assert follower.publish([KEY], 0) is None
    assert (state / "tlog" / "checkpoints").read_bytes() == before


# -- crashes -----------------------------------------------------------------------------------------------------------


def finish(state: Path, name: str, problems: list[str], before: list[Held]) -> None:
    """Go on to the end, and note where a checkpoint that somebody holds is no prefix any more."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        before += held(state)
        follow(Disk(), state, BATCHES, 3, [KEY])
        assert_whole(state)
        assert_prefixes(state, before)
    except (AssertionError, TidewaiterError, OSError) as error:
        problems.append(f"{name}: {error!s:.600}")


def test_killed_at_every_write_like_call_held_checkpoints_stay_prefixes(tmp_path: Path) -> None:
    """Killed before any call of tiles or checkpoints, or half-way through a write, the next start goes on from it."""
    arguments = {"state": str(tmp_path / "count" / "state"), "batches": BATCHES}
    problems: list[str] = []
    with Launcher(preload=["test_tree_follower"]) as launcher:
        assert launcher.run(TARGET, arguments, calls=tmp_path / "calls").status == EXIT_CLEAN
        calls = (tmp_path / "calls").read_text().splitlines()
        tree_calls = {at for at, call in enumerate(calls, 1) if "/tlog" in call}
        assert len(tree_calls) > 60
        for point in every_point(calls):
            if point.at not in tree_calls:
                continue  # tests/test_commit_protocol.py kills at those
            state = tmp_path / f"{point.at}{point.where}" / "state"
            assert launcher.run(TARGET, {"state": str(state), "batches": BATCHES}, point).killed
            finish(state, f"killed {point.where} call {point.at}: {calls[point.at - 1]}", problems, [])
    none_of(problems)


@pytest.mark.parametrize("samples", [1, pytest.param(30, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_power_loss_never_takes_back_a_signed_entry(tmp_path: Path, samples: int) -> None:
    """What a stranger could have copied at the time of a power loss is a prefix of whatever the log becomes."""
    root = tmp_path / "disk"
    root.mkdir()
    disk = RecordingDisk(root)
    published: list[tuple[int, Held]] = []

    state = root / "state"
    journal = resume(disk, state, SMALL_SEGMENTS)
    follower = TreeFollower(disk, state, journal.ledger.origin, journal.mark)
    for number in range(BATCHES):
        journal.commit(draft(number))
        journal.materialise()
        if number % 3 == 2:
            follower.catch_up(journal.mark)
            follower.publish([KEY], 0)
            published.append((len(disk.ops) - 1, held(state)[-1]))
    journal.close()
    problems: list[str] = []
    for number, crash in enumerate(disk.history.every_crash(random.Random(samples), samples)):
        found = crash.materialise(tmp_path / str(number)) / "state"
        before = [one for at, one in published if at <= crash.at]
        finish(found, crash.name, problems, before)
        shutil.rmtree(tmp_path / str(number))
    none_of(problems)


@pytest.mark.parametrize("times", [1, 2])
def test_no_tile_and_no_note_that_a_failed_sync_lost_is_counted_on(tmp_path: Path, times: int) -> None:
    """Each fsync below tlog/ in turn fails and loses its pages; a power loss after the next run finds all it says.

    The second time the next run fails, too, where it first syncs the same file, and the one behind it counts.
    """
    batches, every = 120, 40  # with two full tiles, of which one was partial under a checkpoint
    counting = FaultyDisk()
    follow(counting, tmp_path / "count" / "state", batches, every, [KEY])
    problems: list[str] = []
    failed = counting.count("fsync", "*/tlog/*")
    assert counting.count("fsync", "*/tlog/tile/0/00[01]") == 2
    for nth in range(1, failed + 1):
        root = tmp_path / "disk"
        root.mkdir()
        recorder = RecordingDisk(root, page=64)
        disk = FaultyDisk([Fault("fsync", "*/tlog/*", nth=nth)], recorder)
        with pytest.raises(SyncFailed):
            follow(disk, root / "state", batches, every, [KEY])
        name = f"fsync {nth} of {failed}: {disk.failures[0].path.relative_to(root)}"
        problems += [f"{name}: tried again: {call}" for call in disk.syncs_retried()]
        if times > 1:
            with suppress(SyncFailed):  # a file of another name, where the tree has another size now
                follow(FaultyDisk([Fault("fsync", f"*{disk.failures[0].path.name}")], recorder), root / "state",
                       batches, every, [KEY])  # fmt: skip
        follow(recorder, root / "state", batches, every, [KEY])
        before = held(root / "state")
        # nothing that was not synced is kept
        crash = recorder.history.crash_states(random.Random(nth), len(recorder.ops) - 1, 0)[0]
        found = crash.materialise(tmp_path / "crashed") / "state"
        try:
            assert_whole(found)
            assert_prefixes(found, before)
        except (AssertionError, OSError) as error:
            problems.append(f"{name}, {crash.name}: {error!s:.300}")
        finish(found, f"{name}, {crash.name}", problems, before)
        shutil.rmtree(tmp_path / "crashed")
        shutil.rmtree(root)
    none_of(problems)


def test_a_full_tile_is_not_touched_while_the_checkpoint_needs_it(tmp_path: Path) -> None:
    """Dead behind a full tile that took the place of partial ones: made again, with any power loss on the way."""
    root = tmp_path / "disk"
    root.mkdir()
    state = root / "state"
    follow(Disk(), state, 20, 20, [KEY])
    journal = resume(Disk(), state, SMALL_SEGMENTS)
    tree = TreeFollower(Disk(), state, journal.ledger.origin, journal.mark)
    for number in range(20, 60):
        journal.commit(draft(number))
    journal.materialise()
    tree.catch_up(journal.mark)  # and never publishes it
    journal.close()
    assert tree.published // 256 < tree.size // 256
    recorder = RecordingDisk(root, page=64)
    follow(recorder, state, 60, 60, [KEY])
    problems: list[str] = []
    for number, crash in enumerate(recorder.history.every_crash(random.Random(1), samples=1)):
        found = crash.materialise(tmp_path / str(number)) / "state"
        try:
            follow(Disk(), found, 62, 3, [KEY])
            assert_whole(found)
        except (AssertionError, TidewaiterError, OSError) as error:
            problems.append(f"{crash.name}: {error!s:.300}")
        shutil.rmtree(tmp_path / str(number))
    none_of(problems)


# -- refusals ----------------------------------------------------------------------------------------------------------


def cut_audit(state: Path) -> None:
    """Cut the last entry, which a checkpoint covers."""
    last = max((state / "audit").glob("audit-*.jsonl"))
    lines = last.read_bytes().splitlines(keepends=True)
    (state / "checkpoint.json").unlink()
    last.write_bytes(b"".join(lines[:-1]))


def other_tile(state: Path) -> None:
    """Change one bit in the partial tile of the newest checkpoint."""
    path = newest_partial(state)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def short_tile(state: Path) -> None:
    """Cut the partial tile of the newest checkpoint."""
    path = newest_partial(state)
    path.write_bytes(path.read_bytes()[:-1])


def no_tile(state: Path) -> None:
    """Remove it."""
    newest_partial(state).unlink()


def no_checkpoint(state: Path) -> None:
    """Put something else in the place of the newest checkpoint."""
    (state / "tlog" / "checkpoint").write_bytes(b"nothing\n\n")


def other_log(state: Path) -> None:
    """Put another log's name into both checkpoints."""
    for name in ("checkpoint", "checkpoints"):
        path = state / "tlog" / name
        path.write_bytes(path.read_bytes().replace(b"example.org/log\n", b"example.org/lag\n"))


def newest_partial(state: Path) -> Path:
    """Return the level-0 partial tile of the newest checkpoint."""
    size = len(leaves(state))
    return state / "tlog" / "tile" / "0" / f"{size // 256:03d}.p" / str(size % 256)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_audit, "covers"),
        (other_tile, "another root"),
        (short_tile, "bytes long"),
        (no_tile, "is missing"),
        (no_checkpoint, "is no checkpoint"),
        (other_log, "is of the log example.org/lag"),
    ],
)
def test_what_no_crash_explains_is_refused(state: Path, damage: Callable[[Path], None], said: str) -> None:
    """Tiles, checkpoint and audit log that do not belong together stop the start, with the file that shows it."""
    damage(state)
    with pytest.raises(IntegrityRefusal, match=said):
        reopen(state)


def test_another_last_entry_than_the_signed_one_is_refused(state: Path) -> None:
    """A restored back-up that went on differently has another entry where the tree ended."""
    follower = reopen(state)
    journal = resume(Disk(), state, SMALL_SEGMENTS)
    journal.close()
    last = state / "audit" / journal.mark.segment
    data = last.read_bytes()
    at = data.rindex(b'"timestamp":"2026')
    last.write_bytes(data[:at] + data[at:].replace(b'"timestamp":"2026', b'"timestamp":"2025'))
    with pytest.raises(IntegrityRefusal, match="is not the one in the tree"):
        TreeFollower(Disk(), state, follower.origin, journal.mark)


def test_the_root_rig_agrees_with_known_answers() -> None:
    """The rig's own root of no, one and three leaves is that of the RFC."""
    assert root_of([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    one, two, three = (bytes([number]) * 32 for number in (1, 2, 3))
    assert root_of([one]) == one
    assert root_of([one, two, three]) == root_of([root_of([one, two]), three])


def test_the_torn_end_of_all_checkpoints_goes_however_long_it_is(state: Path) -> None:
    """What an interrupted write left behind the last whole note is not there any more behind the next one."""
    path = state / "tlog" / "checkpoints"
    whole = path.read_bytes()
    path.write_bytes(whole + b"example.org/log\n" + b"9" * 4000)
    follower = reopen(state)
    journal = resume(Disk(), state, SMALL_SEGMENTS)
    journal.commit(draft(150))
    follower.catch_up(journal.mark)
    note = follower.publish([KEY], 0)
    journal.close()
    assert note is not None
    assert path.read_bytes() == whole + note


# -- a full disk, readers, and no time ---------------------------------------------------------------------------------


def go_on(disk: Disk, state: Path, numbers: range, tree: TreeFollower | None = None) -> TreeFollower:
    """Commit further batches through the real disk, and follow them through `disk`."""
    journal = resume(Disk(), state, SMALL_SEGMENTS)
    tree = tree or TreeFollower(disk, state, journal.ledger.origin, journal.mark)
    for number in numbers:
        journal.commit(draft(number))
    journal.materialise()
    journal.close()
    tree.catch_up(journal.mark)
    tree.publish([KEY], 0)
    return tree


def test_a_tile_that_a_checkpoint_needs_is_never_written_again(state: Path) -> None:
    """Whoever reads the tiles of the last checkpoint at this moment, or starts from them, finds them whole."""
    before = {path for path in (state / "tlog" / "tile").rglob("*") if path.is_file()}
    assert any("/1/" in str(path) for path in before)
    disk = FaultyDisk()
    tree = go_on(disk, state, range(150, 152))
    go_on(disk, state, range(152, 154), tree)
    written = {call.path for call in disk.calls if call.primitive in {"pwrite", "ftruncate"}}
    assert any("/tile/" in str(path) for path in written)
    assert not written & before
    assert_whole(state)


def test_a_full_disk_while_tiles_are_written_takes_nothing_in_twice(tmp_path: Path) -> None:
    """What could not be written is written when there is space, and the tree is the same."""
    state = tmp_path / "state"
    follow(Disk(), state, 100, 100, [KEY])
    journal = resume(Disk(), state, SMALL_SEGMENTS)
    disk = FaultyDisk([Fault("pwrite", "*/tile/0/0??", errno=errno.ENOSPC, times=2)])
    tree = TreeFollower(disk, state, journal.ledger.origin, journal.mark)
    for number in range(100, 300):
        journal.commit(draft(number))
    journal.materialise()
    journal.close()
    for _ in range(2):
        with pytest.raises(NoSpace):
            tree.catch_up(journal.mark)
    tree.catch_up(journal.mark)
    tree.publish([KEY], 0)
    assert_whole(state)


def test_a_stop_on_the_way_keeps_how_far_the_tree_came(tmp_path: Path) -> None:
    """Where the end of the log is never reached in one go, the next start goes on, and nothing is signed on the way."""
    state = tmp_path / "state"
    journal = resume(Disk(), state, SMALL_SEGMENTS)
    for number in range(200):
        journal.commit(draft(number))
    journal.materialise()
    journal.close()
    sizes = [0]
    tree = TreeFollower(Disk(), state, journal.ledger.origin, journal.mark)
    for _ in range(50):
        tree = TreeFollower(Disk(), state, journal.ledger.origin, journal.mark)
        assert (tree.size, tree.published) == (sizes[-1], 0)
        looks = iter([False] * 5)
        tree.catch_up(journal.mark, lambda looks=looks: next(looks, True))  # type: ignore[misc]
        if tree.size == journal.mark.index:
            break
        tree.keep()
        sizes.append(tree.size)
    assert len(sizes) > 3
    assert sizes == sorted(set(sizes))
    assert not (state / "tlog" / "checkpoints").exists()
    tree.publish([KEY], 0)
    assert_whole(state)
    assert not (state / "tlog" / "progress").exists()


def test_a_torn_note_that_lost_its_beginning_is_cut_like_any_other(state: Path) -> None:
    """After a power loss the first page of the last note may be zeros while its end is there."""
    path = state / "tlog" / "checkpoints"
    whole = path.read_bytes()
    note = whole[whole.rindex(b"example.org/log\n") - 80 :]
    path.write_bytes(whole + bytes(60) + note[60:])
    go_on(Disk(), state, range(150, 151))
    assert path.read_bytes().startswith(whole + b"example.org/log\n")
    go_on(Disk(), state, range(151, 152))
    assert_whole(state)
