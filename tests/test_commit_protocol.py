"""The journal and its recovery alone, with made-up batches: what was committed survives, and is never written twice.

The same promises are tested on the whole daemon in test_exactly_once and test_faults; here thousands of states are
cheap.
"""

from __future__ import annotations

import errno
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from rigs.compare import assert_same_projection, projection_bytes
from rigs.faulty_disk import Fault, FaultyDisk, Primitive
from rigs.kill import KillPoint, Launcher, every_point
from rigs.power_loss import RecordingDisk
from rigs.tmpfs import PAGE, quick_directory, small_disk
from tidewaiter.core import audit
from tidewaiter.core.audit import Counts, Decisions
from tidewaiter.core.commits import Draft
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_DURABILITY, DurabilityError, TidewaiterError
from tidewaiter.core.ledger import decode_checkpoint
from tidewaiter.core.position import Position, SegmentId
from tidewaiter.edges.durable import Disk, NoSpace, SyncFailed
from tidewaiter.edges.journal import Journal
from tidewaiter.edges.recovery import prepare_directories, recover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH_BYTES: Final = 100
SHAPES: Final = (
    (1, 0, 0, 0), (0, 0, 0, 0), (0, 1, 0, 1), (3, 2, 1, 0), (40, 0, 0, 0), (0, 30, 2, 50), (2, 1, 1, 1), (1, 1, 50, 0),
)  # fmt: skip
"""Lines of each projection in the batches, over and over: none, few, and enough to cross pages."""
DECISIONS: Final = Decisions("0" * 64, "0" * 64, "0" * 64, "0" * 64)
SMALL_SEGMENTS: Final = 6000
TARGET: Final = "test_commit_protocol:write_batches"


def draft(number: int) -> Draft:
    """Return batch `number`, a function of the number alone."""
    records = [
        (
            projection,
            json.dumps({"record": f"{projection} {number}.{item} é", "pad": "x" * (item * 37 % 200)}),
        )
        for projection, count in zip(audit.PROJECTIONS, SHAPES[number % len(SHAPES)], strict=True)
        for item in range(count)
    ]
    position = Position(SegmentId("events.jsonl", 1, 1, 0, ""), 0, (number + 1) * BATCH_BYTES, 0, "")
    return Draft(
        cause="batch",
        records=records,
        counts=Counts(),
        position=position,
        first=number * BATCH_BYTES,
        range_sha256=hashlib.sha256(b"%d" % number).hexdigest(),
        last_event_time=None,
        decisions=DECISIONS,
        insufficient={"large": number} if number % 3 == 1 else {},
    )


def resume(disk: Disk, state: Path, segment_bytes: int) -> Journal:
    """Recover `state` and return its journal, ready for the next batch."""
    prepare_directories(disk, state)
    found = recover(disk, state)
    return Journal(
        disk,
        state,
        found.ledger,
        found.mark,
        run_id="run",
        now=lambda: "2026-01-01T00:00:00Z",
        segment_bytes=segment_bytes,
        origin="example.org/log",
    )


def write_batches(
    disk: Disk,
    state: str,
    batches: int,
    segment_bytes: int = SMALL_SEGMENTS,
    committed: Callable[[int], object] = id,
    *,
    talk: bool = False,
) -> int:
    """Bring `state` to hold `batches` batches, going on where it stands; return an exit status."""
    try:
        journal = resume(disk, Path(state), segment_bytes)
        try:
            journal.record(audit.RUN_STARTED, {})
            for number in range(journal.ledger.global_offset // BATCH_BYTES, batches):
                journal.commit(draft(number))
                committed(number)
            journal.materialise()
            journal.record(audit.RUN_ENDED, {})
            journal.write_checkpoint()
        finally:
            journal.close()
    except TidewaiterError as error:
        if talk:
            print(error, file=sys.stderr)  # noqa: T201 - read by the tests of the launcher
        return error.exit_code
    return EXIT_CLEAN


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory: thousands of syncs need not wait for a disk."""
    with quick_directory() as path:
        yield path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with 16 batches, written without any disturbance."""
    state = tmp_path_factory.mktemp("whole") / "state"
    assert write_batches(Disk(), str(state), 16) == EXIT_CLEAN
    expected = [record for number in range(16) for record in draft(number).records]
    for name in audit.PROJECTIONS:
        lines = "".join(f"{record}\n" for projection, record in expected if projection == name)
        assert projection_bytes(state, name) == lines.encode()
    assert len(list((state / "audit").glob("audit-*.jsonl"))) > 2
    for name in audit.PROJECTIONS:
        assert list(state.glob(f"{name}-*.jsonl")), name
    assert len(list(state.glob("flags-*.jsonl"))) > 1
    return state


def assert_complete(state: Path, whole: Path) -> None:
    """Assert that the projections are those of the undisturbed run, and that the audit log holds each line once."""
    for name, action in audit.PROJECTIONS.items():
        assert_same_projection(name, state, whole)
        segments = sorted((state / "audit").glob("audit-*.jsonl"))
        lines = [line for path in segments for line in path.read_bytes().splitlines(keepends=True)]
        records = [audit.record_of(line) for line in lines if (head := audit.read_head(line)) and head.action == action]
        assert b"".join(records) == projection_bytes(whole, name)
    checkpoint = decode_checkpoint((state / "checkpoint.json").read_bytes())
    assert checkpoint is not None
    assert checkpoint.commit is not None
    assert checkpoint.commit.offset == 16 * BATCH_BYTES
    totals = checkpoint.commit.totals
    assert [totals.flags, totals.suppressed, totals.shadow_flags] == [
        projection_bytes(whole, name).count(b"\n") for name in ("flags", "suppressed", "shadow_flags")
    ]
    assert checkpoint.insufficient == {"large": 1 + 4 + 7 + 10 + 13}


def finish(state: Path, whole: Path, name: str, problems: list[str]) -> None:
    """Start again, to the end, and note what is then missing or refused."""
    try:
        if not state.exists():
            state.mkdir(parents=True)
        journal = resume(Disk(), state, SMALL_SEGMENTS)
        journal.close()
        assert write_batches(Disk(), str(state), 16) == EXIT_CLEAN
        assert_complete(state, whole)
    except (AssertionError, TidewaiterError, OSError) as error:
        problems.append(f"{name}: {error!s:.600}")


def none_of(problems: list[str]) -> None:
    """Assert that there are no problems; the message has the first few."""
    assert not problems, "\n".join([f"{len(problems)} problems, the first:", *problems[:8]])


def test_a_projection_without_new_lines_costs_no_sync(tmp_path: Path) -> None:
    """A batch syncs the audit log and the projections that it adds to, and nothing else but the checkpoint."""
    disk = FaultyDisk()
    journal = resume(disk, tmp_path / "state", 1 << 20)
    for number, shape in enumerate(SHAPES):
        at = len(disk.calls)
        journal.commit(draft(number))
        journal.materialise()
        synced = [call.path.name for call in disk.calls[at:] if call.primitive == "fdatasync"]
        grown = [f"{name}.jsonl" for name, count in zip(audit.PROJECTIONS, shape, strict=True) if count]
        assert synced == [journal.mark.segment, *grown]
        opened = [call.path.name for call in disk.calls[at:] if call.primitive == "open"]
        assert opened == [".checkpoint.json.tmp"]
    journal.close()


# -- power loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [2, pytest.param(40, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_power_loss_after_every_operation(tmp_path: Path, whole: Path, samples: int) -> None:
    """From whatever a power loss leaves after any operation, the run ends with the same projections."""
    root = tmp_path / "disk"
    root.mkdir()
    disk = RecordingDisk(root)
    acknowledged: list[int] = []
    assert write_batches(disk, str(root / "state"), 16, committed=lambda _: acknowledged.append(len(disk.ops) - 1)) == 0
    problems: list[str] = []
    for number, crash in enumerate(disk.history.every_crash(random.Random(samples), samples)):
        state = crash.materialise(tmp_path / str(number)) / "state"
        promised = sum(at <= crash.at for at in acknowledged)
        if promised:
            journal = resume(Disk(), state, SMALL_SEGMENTS)
            journal.close()
            if journal.ledger.global_offset < promised * BATCH_BYTES:
                problems.append(f"{crash.name}: {journal.ledger.global_offset} instead of {promised} batches")
        finish(state, whole, crash.name, problems)
    none_of(problems)


def test_power_loss_during_recovery(tmp_path: Path, whole: Path) -> None:
    """A second power loss while the first is being recovered from loses nothing either."""
    root = tmp_path / "disk"
    root.mkdir()
    disk = RecordingDisk(root)
    assert write_batches(disk, str(root / "state"), 16) == EXIT_CLEAN
    rng = random.Random(5)
    first = rng.sample(list(disk.history.every_crash(rng, samples=2)), 12)
    problems: list[str] = []
    for number, crash in enumerate(first):
        place = crash.materialise(tmp_path / f"first{number}")
        again = RecordingDisk(place)
        resume(again, place / "state", SMALL_SEGMENTS).close()
        for inner, second in enumerate(again.history.every_crash(rng, samples=1)):
            state = second.materialise(tmp_path / f"second{number}.{inner}") / "state"
            finish(state, whole, f"{crash.name}; then {second.name}", problems)
    none_of(problems)


# -- kill --------------------------------------------------------------------------------------------------------------


def test_kill_at_every_write_like_call(tmp_path: Path, whole: Path) -> None:
    """Killed before any call of sixteen batches, or half-way through any write, the next start ends alike."""
    arguments = {"state": str(tmp_path / "count" / "state"), "batches": 16, "talk": True}
    problems: list[str] = []
    with Launcher(preload=["test_commit_protocol"]) as launcher:
        assert launcher.run(TARGET, arguments, calls=tmp_path / "calls").status == EXIT_CLEAN
        for point in every_point((tmp_path / "calls").read_text().splitlines()):
            state = tmp_path / f"{point.at}{point.where}" / "state"
            outcome = launcher.run(TARGET, {"state": str(state), "batches": 16, "talk": True}, point)
            assert outcome.killed, outcome
            finish(state, whole, f"killed {point.where} call {point.at}", problems)
    none_of(problems)


def test_killed_again_during_recovery(tmp_path: Path, whole: Path) -> None:
    """Killed in a batch, then at every call of the recovery from that, each in the state the last one left."""
    with Launcher(preload=["test_commit_protocol"]) as launcher:
        state = tmp_path / "state"
        arguments = {"state": str(state), "batches": 16, "talk": True}
        assert launcher.run(TARGET, arguments, KillPoint(90, "middle")).killed
        outcomes = launcher.run_until_done(TARGET, arguments, [KillPoint(at, "middle") for at in range(1, 40)])
    assert sum(outcome.killed for outcome in outcomes) >= 20
    assert_complete(state, whole)


# -- failing calls -----------------------------------------------------------------------------------------------------


def undisturbed_counts(tmp_path: Path) -> FaultyDisk:
    """Return the record of an undisturbed run, to count calls in."""
    disk = FaultyDisk()
    (tmp_path / "count").mkdir()
    assert write_until_full(disk, tmp_path / "count" / "state") == EXIT_CLEAN
    return disk


@pytest.mark.parametrize(
    ("code", "persisted"),
    [
        (errno.EIO, False),
        (errno.ENOSPC, True),
        pytest.param(errno.EIO, True, marks=pytest.mark.long),
        pytest.param(errno.ENOSPC, False, marks=pytest.mark.long),
    ],
)
def test_failed_sync_ends_the_run_and_recovers(tmp_path: Path, whole: Path, code: int, persisted: bool) -> None:
    """Each fsync and fdatasync of a run in turn fails: exit 5, no retry, and all lost pages are written again."""
    counts = undisturbed_counts(tmp_path)
    problems: list[str] = []
    primitives: tuple[Primitive, ...] = ("fdatasync", "fsync", "fsync_directory")
    for primitive in primitives:
        for nth in range(1, counts.count(primitive) + 1):
            place = tmp_path / f"{primitive}{nth}"
            place.mkdir()
            recorder = RecordingDisk(place)
            disk = FaultyDisk([Fault(primitive, nth=nth, errno=code, persisted=persisted)], recorder)
            name = f"{primitive} {nth}"
            if write_batches(disk, str(place / "state"), 16) != EXIT_DURABILITY:
                problems.append(f"{name}: not exit 5")
            problems += [f"{name}: retried {call}" for call in disk.syncs_retried()]
            at = len(recorder.ops) - 1
            for number, crash in enumerate(recorder.history.crash_states(random.Random(nth), at, samples=0)):
                state = crash.materialise(tmp_path / f"{primitive}{nth}.{number}") / "state"
                finish(state, whole, f"{name}, {crash.name}", problems)
            finish(place / "state", whole, f"{name}, started again", problems)
    none_of(problems)


def test_nothing_is_written_after_a_failed_sync(tmp_path: Path) -> None:
    """Once a sync has failed, every further step of the same journal fails without touching the disk."""
    for nth in range(1, undisturbed_counts(tmp_path).count("fdatasync") + 1):
        disk = FaultyDisk([Fault("fdatasync", nth=nth)])
        journal = resume(disk, tmp_path / str(nth), SMALL_SEGMENTS)
        try:
            journal.record(audit.RUN_STARTED, {})
            for number in range(16):
                journal.commit(draft(number))
                journal.materialise()
        except SyncFailed:
            pass
        at = len(disk.calls)
        steps: tuple[Callable[[], None], ...] = (
            journal.materialise,
            lambda: journal.commit(draft(16)),  # noqa: B023 - called in this round
            lambda: journal.record(audit.RUN_ENDED, {}),  # noqa: B023
            journal.write_checkpoint,
        )
        for step in steps:
            with pytest.raises(DurabilityError):
                step()
        assert disk.calls[at:] == []
        journal.close()


@pytest.mark.parametrize("short", [None, 1, 700])
def test_full_disk_at_each_write(tmp_path: Path, whole: Path, short: int | None) -> None:
    """Each write in turn finds the disk full, at once or after some bytes; with space again the same call succeeds."""
    counts = undisturbed_counts(tmp_path)
    problems: list[str] = []
    for nth in range(1, counts.count("pwrite") + 1):
        state = tmp_path / str(nth) / "state"
        disk = FaultyDisk([Fault("pwrite", nth=nth, errno=errno.ENOSPC, short=short)])
        for _ in range(3):
            if write_until_full(disk, state) == EXIT_CLEAN:
                break
        else:
            problems.append(f"write {nth}: never came to the end")
        if short is None and not disk.failures:
            problems.append(f"write {nth}: was not failed")
        finish(state, whole, f"write {nth}", problems)
    none_of(problems)


def test_no_room_for_a_new_file(tmp_path: Path, whole: Path) -> None:
    """Each creation of a file in turn finds the disk full; with space again the run goes on to the same end."""
    counts = undisturbed_counts(tmp_path)
    problems: list[str] = []
    for nth in range(1, counts.count("open") + 1):
        state = tmp_path / str(nth) / "state"
        state.parent.mkdir()
        disk = FaultyDisk([Fault("open", nth=nth, errno=errno.ENOSPC)])
        try:  # a start may give up; a journal at work must go on
            if not any(write_until_full(disk, state) == EXIT_CLEAN for _ in range(2)):
                problems.append(f"open {nth}: never came to the end")
        except (AssertionError, DurabilityError) as error:
            problems.append(f"open {nth} ({disk.failures[0].path.name}): {error}")
        finish(state, whole, f"open {nth} ({disk.failures})", problems)
    none_of(problems)


def write_until_full(disk: Disk, state: Path) -> int:
    """Write the batches, trying each step again when it finds the disk full, as the consumer does."""

    def insist(step: Callable[[], None]) -> None:
        for _ in range(5):
            try:
                return step()
            except NoSpace:
                continue
        raise AssertionError("the space did not return")

    try:
        journal = resume(disk, state, SMALL_SEGMENTS)
    except NoSpace as error:
        return error.exit_code
    try:
        insist(lambda: journal.record(audit.RUN_STARTED, {}))
        for number in range(journal.ledger.global_offset // BATCH_BYTES, 16):
            following = draft(number)
            insist(lambda following=following: journal.commit(following))  # type: ignore[misc]
        insist(journal.materialise)
    finally:
        journal.close()
    return EXIT_CLEAN


@pytest.mark.root
def test_really_full_disk_at_every_page(tmp_path: Path, whole: Path) -> None:
    """On a small tmpfs with room for ever more pages, a full disk stops the run; with space again it ends the same."""
    problems: list[str] = []
    with small_disk(tmp_path, 512 * PAGE) as small:
        for leave in range(60):
            state = small.path / f"{leave}"
            small.fill(leave=leave)
            status = write_batches(Disk(), str(state), 16)
            small.free()
            if status not in {EXIT_CLEAN, EXIT_DURABILITY}:
                problems.append(f"{leave} pages free: exit {status}")
            finish(state, whole, f"{leave} pages free", problems)
            for path in sorted(state.rglob("*"), reverse=True):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
    none_of(problems)


def test_times_in_the_log_never_go_back(tmp_path: Path) -> None:
    """Where the clock was set back, also between two runs, the log's time stands until the clock has caught up."""
    state = tmp_path / "state"
    for times in (["09", "08", "10"], ["07", "11"]):
        prepare_directories(Disk(), state)
        found = recover(Disk(), state)
        clock = iter(times if found.mark else ["09", *times])
        journal = Journal(
            Disk(), state, found.ledger, found.mark,
            run_id="run", now=lambda clock=clock: f"2026-01-01T{next(clock)}:00:00.000000Z",  # type: ignore[misc]
            segment_bytes=1 << 20, origin="example.org/log",
        )  # fmt: skip
        for _ in times:
            journal.record("stream.silent", {})
        journal.close()
    lines = b"".join(path.read_bytes() for path in sorted((state / "audit").iterdir())).splitlines()
    hours = [head.timestamp[11:13] for line in lines if (head := audit.read_head(line)) is not None]
    assert hours == ["09", "09", "09", "10", "10", "11"]
