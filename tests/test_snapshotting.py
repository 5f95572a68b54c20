"""The pace of snapshots: what bounds the replay of a crash, and what bounds the time that goes into writing."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigs.faulty_disk import FaultyDisk
from tidewaiter.core.audit import Counts, Document
from tidewaiter.core.ledger import AuditMark, Ledger
from tidewaiter.shell import snapshotting
from tidewaiter.shell.settings import StatePart
from tidewaiter.shell.snapshotting import SECONDS_PER_ENTRY, Snapshotting

if TYPE_CHECKING:
    from pathlib import Path

EVENTS: Final = 1_000
INTERVAL: Final = 60.0


class Paced:
    """Snapshots of a state with so many ids and keys, each written in the time it is said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, state: Path, entries: int) -> None:
        """Begin at second 0 with nothing read."""
        self.now = 0.0
        self.seconds = entries * SECONDS_PER_ENTRY
        self.ahead = [True]
        rules = SimpleNamespace(copy_ahead=lambda _budget: self.ahead.pop() if len(self.ahead) > 1 else self.ahead[0])
        self.engine: Any = SimpleNamespace(entries=entries, rules=rules)
        monkeypatch.setattr(snapshotting, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(snapshotting, "freeze", lambda _engine, ledger, _mark: self._frozen(ledger))
        monkeypatch.setattr(snapshotting, "SnapshotFiles", lambda *_: SimpleNamespace(write=self._write))
        pace = StatePart(dir=state, snapshot_events=EVENTS, snapshot_interval_us=int(INTERVAL * 1e6))
        self.snapshots = Snapshotting(FaultyDisk(), state, pace, ThreadPoolExecutor(1), 0)

    @staticmethod
    def _frozen(ledger: Ledger) -> Any:
        return SimpleNamespace(header=SimpleNamespace(ledger=ledger))

    def _write(self, *_: object) -> Document:
        self.now += self.seconds
        return Document("snapshots/snapshot", "0" * 64, 1)

    def due(self, second: float, events: int) -> bool:
        """Whether one is due at that second behind so many events."""
        self.now = second
        return self.snapshots.due(Ledger(totals=Counts(events_read=events)), self.engine)

    def take(self, events: int) -> None:
        """Take one now and wait until it is written."""

        async def taken() -> None:
            ledger = Ledger(index=events, totals=Counts(events_read=events))
            self.snapshots.take(self.engine, ledger, AuditMark("audit", 1, events, "0" * 64))
            await self.snapshots.settled()

        asyncio.run(taken())


def test_a_cheap_snapshot_is_taken_after_snapshot_events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However fast they come; without events never."""
    paced = Paced(monkeypatch, tmp_path, entries=100)
    assert not paced.due(0.5, EVENTS - 1)
    assert paced.due(0.5, EVENTS)
    paced.take(EVENTS)
    assert not paced.due(0.9, 2 * EVENTS - 1)
    assert paced.due(0.9, 2 * EVENTS)
    assert not paced.due(10 * INTERVAL, EVENTS)


def test_a_dear_snapshot_leaves_half_of_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Behind `snapshot_events` it waits until twice what it takes has passed, and never beyond twice as many."""
    paced = Paced(monkeypatch, tmp_path, entries=2_000_000)
    assert paced.seconds == pytest.approx(1.0)
    assert not paced.due(1.9, EVENTS)
    assert paced.due(2.1, EVENTS)
    paced.take(EVENTS)
    assert not paced.due(4.0, 3 * EVENTS - 1)
    assert paced.due(4.0, 3 * EVENTS)
    assert paced.due(4.2, 2 * EVENTS)


def test_a_slow_stream_pays_two_per_cent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Behind the interval alone it waits until fifty times what it takes has passed."""
    paced = Paced(monkeypatch, tmp_path, entries=4_000_000)
    assert not paced.due(INTERVAL + 1, 1)
    assert not paced.due(99, EVENTS - 1)
    assert paced.due(101, 1)
    assert not paced.due(101, 0)
    assert Paced(monkeypatch, tmp_path, entries=100).due(INTERVAL + 1, 1)


def test_the_pace_follows_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A disk that takes ten times as long makes snapshots rarer; a state too small to tell does not."""
    for entries, then in ((200_000, False), (9_000, True)):
        paced = Paced(monkeypatch, tmp_path, entries)
        paced.seconds *= 10
        assert paced.due(1.0, EVENTS)
        paced.take(EVENTS)
        assert paced.due(1.5, 2 * EVENTS) is then


def test_a_snapshot_waits_until_most_is_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Bit by bit between the batches; but not beyond what a crash may replay."""
    paced = Paced(monkeypatch, tmp_path, entries=100)
    paced.ahead = [True, False, False]
    asked = [(paced.due(1.0, EVENTS), paced.snapshots.under_way) for _ in range(3)]
    assert asked == [(False, True), (False, True), (True, False)], "a stream that stands still goes on copying"
    paced.ahead = [False]
    assert not paced.due(1.0, 2 * EVENTS - 1)
    assert paced.due(1.0, 2 * EVENTS)
    paced.take(2 * EVENTS)
    assert not paced.snapshots.under_way
