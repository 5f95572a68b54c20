"""The snapshot: an engine that comes out of one goes on as the one that went in, and no damaged one is believed."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pure_core import (
    CONTEXT,
    HALT,
    QUARANTINE,
    Outcome,
    assert_same_outcome,
    draft,
    evaluate_lines,
    line,
    lines,
    new_engine,
    run_stream,
)
from rigs.faulty_disk import Fault, FaultyDisk, Primitive
from rigs.tmpfs import quick_directory
from tidewaiter.core import snapshot
from tidewaiter.core.commits import prepare
from tidewaiter.core.errors import DurabilityError
from tidewaiter.core.ledger import AuditMark, Ledger
from tidewaiter.core.screening import Policy
from tidewaiter.core.snapshot import MAGIC, decode, decode_header, encode, freeze
from tidewaiter.edges.snapshots import SnapshotFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidewaiter.core.engine import Engine

MARK: Final = AuditMark("audit-00000000000000000000.jsonl", 1234, 5, "a" * 64)
SHORT: Final = Policy("quarantine", "quarantine", "admit", duplicate_horizon=7_000_001)


def mark(index: int) -> AuditMark:
    """Return where a log of so many entries ends: no two snapshots have one in common."""
    return AuditMark(MARK.segment, MARK.length, index, MARK.head)


def taken(engine: Engine, ledger: Ledger | None = None) -> bytes:
    """Return the snapshot of an engine as one text."""
    return b"".join(encode(freeze(engine, ledger if ledger is not None else Ledger(), MARK)))


def restored(data: bytes, policy: Policy) -> Engine:
    """Return a new engine with the state of a snapshot."""
    found = decode(data)
    assert found is not None
    engine = new_engine(policy)
    found.load_into(engine)
    return engine


def event(number: int, second: float) -> bytes:
    """Return an event of one of two busy users, with an id that comes back now and then."""
    time = f"2026-03-09T12:{int(second) // 60:02}:{second % 60:06.3f}+00:00"
    return line(number, event_id=f"e{number % 29}", user_id=f"u{number % 2}", event_time=time, ingest_time=time,
                amount=600 if number % 3 else 20)  # fmt: skip


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.25, 1.0, 4.0, 30.0]), min_size=24, max_size=60),
    st.integers(0, 24),
    st.sampled_from([QUARANTINE, HALT, SHORT]),
)
def test_an_engine_from_a_snapshot_goes_on_as_if_nothing_happened(gaps: list[float], at: int, policy: Policy) -> None:
    """Taken behind any event: the rest of the stream gives the same records, counts and times, byte for byte."""
    items, second = [], 0.0
    for number, gap in enumerate(gaps):
        second += gap
        items.append(event(number, second))
    engine = new_engine(policy)
    before = run_stream(engine, lines(*items[:at]))
    data = taken(engine)
    expected = run_stream(engine, lines(*items[at:]), offset=before.size)
    assert_same_outcome(run_stream(restored(data, policy), lines(*items[at:]), offset=before.size), expected)


def test_taking_a_snapshot_twice_gives_the_same_state() -> None:
    """A snapshot of a restored engine holds what the first one held."""
    engine = new_engine(SHORT)
    evaluate_lines(engine, *(event(number, number * 0.7) for number in range(40)))
    again = restored(taken(engine), SHORT)
    first, second = decode(taken(engine)), decode(taken(again))
    assert first is not None
    assert second is not None
    assert first.header == second.header
    assert list(again.screening.seen) != []
    assert set(again.screening.seen) == set(engine.screening.seen)


def test_events_after_the_freeze_do_not_show_in_the_snapshot() -> None:
    """The copy is taken at a batch boundary; encoding it later, while events go on, changes nothing."""
    engine = new_engine()
    evaluate_lines(engine, *(event(number, number) for number in range(10)))
    expected = taken(engine)
    frozen = freeze(engine, Ledger(), MARK)
    evaluate_lines(engine, *(event(number, number) for number in range(10, 25)))
    assert b"".join(encode(frozen)) == expected


def test_the_header_is_the_committed_state() -> None:
    """Audit mark, ledger, effective time and horizon, readable without the rest."""
    engine = new_engine(SHORT)
    outcome: Outcome = evaluate_lines(engine, line(0, amount=600), b"torn", line(1))
    ledger = prepare(Ledger(), draft(outcome), CONTEXT).ledger
    data = taken(engine, ledger)
    header = decode_header(data)
    found = decode(data)
    assert header is not None
    assert found is not None
    assert found.header == header
    assert (header.audit, header.ledger, header.horizon) == (MARK, ledger, SHORT.duplicate_horizon)
    assert header.effective == 1_773_057_601_000_000
    assert decode_header(data[: len(MAGIC) + 3]) is None


def test_an_empty_engine_has_a_snapshot_too() -> None:
    """Before the first event there is no effective time, and none afterwards."""
    engine = restored(taken(new_engine()), QUARANTINE)
    assert engine.screening.effective is None
    assert len(engine.screening.seen) == 0
    assert evaluate_lines(engine, line(-100)).counts.evaluated == 1


def sample() -> bytes:
    """Return a snapshot with ids and rule state in it."""
    engine = new_engine(SHORT)
    evaluate_lines(engine, *(event(number, number * 0.5) for number in range(30)))
    return taken(engine)


def test_no_single_flipped_bit_is_believed() -> None:
    """One bit in each byte of the frame and of a sample of the rest: the snapshot does not count."""
    data = sample()
    assert decode(data) is not None
    rng = random.Random(5)
    ends = [*range(60), *range(len(data) - 60, len(data))]
    for at in [*ends, *rng.sample(range(len(data)), min(len(data), 600))]:
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        assert decode(bytes(changed)) is None, at


def test_no_cut_or_lengthened_snapshot_is_believed() -> None:
    """Missing bytes, zero bytes in the place of a page, and bytes behind the end."""
    data = sample()
    for cut in [*range(80), *range(80, len(data), 37), len(data) - 1]:
        assert decode(data[:cut]) is None
    assert decode(data + b"\0") is None
    assert decode(data[:100] + bytes(100) + data[200:]) is None
    assert decode(bytes(len(data))) is None


def test_a_snapshot_of_another_format_is_none() -> None:
    """Intact by its own hash, but not ours to read."""
    body = sample()[: -(4 + 32)].replace(b"snapshot/1", b"snapshot/2", 1)
    assert decode(body + bytes(4) + hashlib.sha256(body).digest()) is None
    assert decode_header(body) is None


def test_a_large_state_is_written_in_short_frames_and_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame holds more than 2,000 ids, so that another thread can run in between; all of them come back.

    How the frames are put together to be hashed and written does not show in the bytes.
    """
    engine = new_engine()
    assert engine.screening.seen.add_new([f"id{number}" for number in range(7_001)], 3)
    frozen = freeze(engine, Ledger(), MARK)
    (data,) = encode(frozen)
    frames = data.split(b"\xa3ids")
    assert len(frames) == 1 + 4
    assert max(map(len, frames)) < 30_000
    monkeypatch.setattr(snapshot, "BLOCK_BYTES", 10_000)
    whole = hashlib.sha256()
    blocks = list(encode(frozen, whole))
    assert len(blocks) == 4
    assert b"".join(blocks) == data
    assert whole.digest() == hashlib.sha256(data).digest()
    again = restored(data, QUARANTINE)
    assert set(again.screening.seen) == set(engine.screening.seen)


STEPS: Final = st.lists(
    st.sampled_from(["one", "some", "many", "next period", "three periods", "reloaded", "horizon", "failed"]),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_what_is_copied_from_the_snapshot_before_does_not_show(steps: list[str]) -> None:
    """Whatever was added, forgotten or taken over between two snapshots, each has the bytes that it has by itself."""
    engine = new_engine()
    period, number = 100, 0
    with quick_directory() as state:
        (state / "snapshots").mkdir()
        files = SnapshotFiles(FaultyDisk(), state)
        for index, step in enumerate(["many", *steps]):
            seen = engine.screening.seen
            period += {"next period": 1, "three periods": 3}.get(step, 0)
            if step == "reloaded":
                engine = restored(taken(engine), QUARANTINE)
            elif step == "horizon":
                engine.screening.seen = seen.rehorizon(engine.policy.duplicate_horizon)
            elif step == "one":
                seen.add(f"id{number}", period)
            else:
                count = {"many": 1_500, "some": 3}.get(step, 20)
                assert seen.add_new([f"id{each}" for each in range(number, number + count)], period)
            period = engine.screening.seen.freeze()[0]
            number += 2_000
            frozen = freeze(engine, Ledger(), mark(index))
            if step == "failed":
                files._disk = FaultyDisk([Fault("pwrite", errno=errno.ENOSPC)])
                with pytest.raises(DurabilityError):
                    files.write(frozen)
                files._disk = FaultyDisk()
            with capture_logs() as logged:
                assert (state / files.write(frozen).file).read_bytes() == b"".join(encode(frozen))
            assert logged == []


@pytest.mark.parametrize("how", ["another engine", "taken over"])
def test_other_ids_are_not_taken_for_those_of_the_snapshot_before(tmp_path: Path, how: str) -> None:
    """As many of them, in the same period, but others."""
    (tmp_path / "snapshots").mkdir()
    files = SnapshotFiles(FaultyDisk(), tmp_path)
    engine, other = new_engine(), new_engine()
    for each, name in ((engine, "one"), (other, "other")):
        assert each.screening.seen.add_new([f"{name} {number}" for number in range(1_000)], 3)
    files.write(freeze(engine, Ledger(), mark(1)))
    if how == "taken over":
        engine.screening.seen.load(*other.screening.seen.freeze())
        other = engine
    frozen = freeze(other, Ledger(), mark(2))
    with capture_logs() as logged:
        assert (tmp_path / files.write(frozen).file).read_bytes() == b"".join(encode(frozen))
    assert logged == []


def test_ids_that_stand_in_the_snapshot_before_are_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are most of a snapshot behind a catch-up, and encoding them takes the interpreter from the stream."""
    encoded: list[str] = []
    frames = snapshot._id_frames

    def counted(ids: list[list[list[str]]], first: int) -> Iterator[bytes]:
        encoded.extend(event_id for chunks in list(reversed(ids)) for chunk in chunks for event_id in chunk)
        del encoded[: sum(map(len, [chunk for chunks in reversed(ids) for chunk in chunks][:first]))]
        return frames(ids, first)

    monkeypatch.setattr(snapshot, "_id_frames", counted)
    engine = new_engine()
    with quick_directory() as state:
        (state / "snapshots").mkdir()
        files = SnapshotFiles(FaultyDisk(), state)
        for index, expected in enumerate([2_000, 5, 0, 7]):
            assert engine.screening.seen.add_new([f"{index} {each}" for each in range(expected)], 3)
            encoded.clear()
            files.write(freeze(engine, Ledger(), mark(index)))
            assert len(encoded) == expected


def flipped(path: Path) -> None:
    """Change a bit among the ids."""
    data = bytearray(path.read_bytes())
    data[data.index(b"id1999")] ^= 1
    path.write_bytes(data)


DAMAGES: Final[dict[str, Callable[[Path], object]]] = {
    "a flipped bit": flipped,
    "cut short": lambda path: os.truncate(path, 5_000),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_not_copied_into_the_next_snapshot(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """What the disk lost of the newest is in memory still: the next one is whole, and somebody is told."""
    (tmp_path / "snapshots").mkdir()
    engine = new_engine()
    files = SnapshotFiles(FaultyDisk(), tmp_path)
    assert engine.screening.seen.add_new([f"id{number}" for number in range(3_000)], 3)
    newest = tmp_path / files.write(freeze(engine, Ledger(), MARK)).file
    damage(newest)
    assert engine.screening.seen.add_new([f"id{number}" for number in range(3_000, 6_000)], 3)
    frozen = freeze(engine, Ledger(), mark(MARK.index + 1))
    with capture_logs() as logged:
        written = tmp_path / files.write(frozen).file
    assert written.read_bytes() == b"".join(encode(frozen))
    assert [(each["event"], each["file"]) for each in logged] == [("snapshot.changed", newest.name)]
    with capture_logs() as logged:
        files.write(freeze(engine, Ledger(), mark(MARK.index + 2)))
    assert logged == []


@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
def test_a_snapshot_that_fails_leaves_nothing_behind(tmp_path: Path, call: Primitive) -> None:
    """On a full disk every try would else keep the space that the next one needs."""
    (tmp_path / "snapshots").mkdir()
    frozen = freeze(new_engine(), Ledger(), MARK)
    with pytest.raises(DurabilityError):
        SnapshotFiles(FaultyDisk([Fault(call, errno=errno.ENOSPC)]), tmp_path).write(frozen)
    assert list((tmp_path / "snapshots").iterdir()) == []
    written = SnapshotFiles(FaultyDisk(), tmp_path).write(frozen)
    data = (tmp_path / written.file).read_bytes()
    assert (written.length, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())
