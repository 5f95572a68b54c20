"""Exactly once, by the whole daemon: whatever it goes through, the flags are byte-identical to an undisturbed run's.

Rejections are compared as well, and the audit log must hold each line once. The journal alone goes through many more
states in test_commit_protocol.
"""

from __future__ import annotations

import gc
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from rigs import daemon
from rigs.daemon import Following, make_settings, make_stream, none_of
from rigs.faulty_disk import Fault, FaultyDisk
from rigs.power_loss import RecordingDisk
from rigs.tmpfs import quick_directory
from stream_rig import rotate
from tidewaiter.core.errors import EXIT_CLEAN, TidewaiterError
from tidewaiter.shell.consumer import Consumer
from tidewaiter.shell.settings import Overrides
from tidewaiter.shell.settings_file import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.settings import Settings

LONG = (pytest.mark.long, pytest.mark.timeout(7200))


@pytest.fixture
def place() -> Iterator[Path]:
    """A quick directory of the test's own."""
    with quick_directory() as path:
        yield path


def segments_of(stream: Path, sizes: tuple[int, ...]) -> None:
    """Cut the stream into rotated files at line ends: `sizes` are the lines of the older ones, the oldest first."""
    lines = stream.read_bytes().splitlines(keepends=True)
    stream.unlink()
    for size in sizes:
        stream.write_bytes(b"".join(lines[:size]))
        lines = lines[size:]
        rotate(stream)
    stream.write_bytes(b"".join(lines))


# -- batches and chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_bytes", "events"),
    [
        (1, 60), (7, 200), (300, 1000), (4096, 3000), (100_000, 3000), (1 << 26, 3000),
        pytest.param(1, 3000, marks=LONG), pytest.param(7, 3000, marks=LONG),
    ],
)  # fmt: skip
def test_batch_size_changes_nothing(place: Path, batch_bytes: int, events: int) -> None:
    """From one byte at a time to the whole file at once."""
    stream = make_stream(place / "in" / "events.jsonl", events)
    daemon.succeed(make_settings(stream, place / "whole"))
    daemon.succeed(make_settings(stream, place / "state", batch_bytes=batch_bytes))
    daemon.assert_same(place / "state", place / "whole")
    found = daemon.actions(place / "state")
    assert found["flag.emitted"] > 5
    assert found["event.rejected"] > 1
    assert (found["batch.committed"] == 1) == (batch_bytes > stream.stat().st_size)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=LONG) for seed in range(2, 40))])
async def test_random_chunks_while_it_follows(place: Path, seed: int) -> None:
    """The same bytes arrive in random pieces that split lines and characters, while the file is being followed."""
    rng = random.Random(seed)
    source = make_stream(place / "source.jsonl", 1200)
    daemon.run(make_settings(source, place / "whole"))
    data, at = source.read_bytes(), 0
    live = place / "in" / "events.jsonl"
    live.parent.mkdir()
    settings = make_settings(live, place / "state", batch_bytes=rng.choice((97, 5000, 1 << 20)))
    async with Following(settings) as following:
        with live.open("ab", buffering=0) as file:
            while at < len(data):
                size = rng.choice((1, 2, 3, rng.randrange(1, 600), rng.randrange(1, 20_000)))
                file.write(data[at : at + size])
                at += size
                if rng.random() < 0.5:
                    await following.reaches(data.rfind(b"\n", 0, min(at, len(data))) + 1)
        await following.reaches(len(data))
    daemon.assert_same(place / "state", place / "whole")


# -- power loss --------------------------------------------------------------------------------------------------------


class Scene:
    """A run over three segments with everything in it that writes: snapshots, sealing, a reload of the rules."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        stream = make_stream(place / "in" / "events.jsonl", 170)
        daemon.succeed(make_settings(stream, place / "whole"))
        segments_of(stream, (60, 50))
        self.stream = stream
        self.root = place / "disk"
        self.root.mkdir()
        self.config = daemon.write_config(
            place / "config", stream, self.root / "state",
            state='segment_bytes = "8KiB"\nsnapshot_events = 20', batch='max_bytes = "4500B"',
        )  # fmt: skip
        self.config.write_text(self.config.read_text().replace('"json"', '"none"'))
        self._monkeypatch = monkeypatch

    def settings(self, state: Path) -> Settings:
        """Return the settings for a run in `state`."""
        return load_settings(self.config, Overrides(state_dir=state))

    def reload_at(self, boundary: int) -> None:
        """Change the rules' text, not their meaning, and ask for a reload at this batch boundary, once."""
        original, passed = Consumer._between_batches, [0]

        async def between(consumer: Consumer) -> None:
            passed[0] += 1
            if passed[0] == boundary:
                with (self.config.parent / "rules.toml").open("a") as file:
                    file.write("# reviewed\n")
                consumer.reload.set()
            await original(consumer)

        self._monkeypatch.setattr(Consumer, "_between_batches", between)

    def finish(self, state: Path, name: str, problems: list[str]) -> None:
        """Start again, to the end, and note what is then missing or refused."""
        try:
            ended = daemon.run(self.settings(state))
            assert ended.status == EXIT_CLEAN, ended
            daemon.assert_same(state, self.place / "whole")
        except (AssertionError, TidewaiterError, OSError, ExceptionGroup) as error:
            problems.append(f"{name}: {error!s:.600}")


@pytest.fixture
def scene(place: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The scene of a power loss."""
    return Scene(place, monkeypatch)


@pytest.mark.parametrize(("share", "samples"), [(0.12, 1), pytest.param(1.0, 8, marks=LONG)])
def test_power_loss_after_any_operation(scene: Scene, share: float, samples: int) -> None:
    """From whatever a power loss leaves of snapshots, segments, sealing and a reload, the run ends alike."""
    disk = RecordingDisk(scene.root)
    scene.reload_at(5)
    daemon.succeed(scene.settings(scene.root / "state"), disk)
    daemon.assert_same(scene.root / "state", scene.place / "whole")
    found = daemon.actions(scene.root / "state")
    assert found["decision.recorded"] == 2
    assert found["segment.closed"] == 2
    assert found["projection.sealed"] >= 1
    assert found["audit.segment_opened"] > 2
    assert len(list((scene.root / "state" / "snapshots").iterdir())) == 2
    rng, problems = random.Random(3), list[str]()
    chosen = {index for index in range(len(disk.ops)) if rng.random() < share}
    count = 0
    for crash in disk.history.every_crash(rng, samples, at=lambda index, _op: index in chosen):
        count += 1
        tree = crash.materialise(scene.place / "crashed")
        scene.finish(tree / "state", crash.name, problems)
        shutil.rmtree(tree)
    assert count > 80
    none_of(problems)


class _Killed(BaseException):
    """Stands for SIGKILL: nothing behind it is done."""


class StoppingDisk(FaultyDisk):
    """A disk that lets only so many calls through; in this process, so that the inner disk's memory survives."""

    def __init__(self, inner: Disk, calls: int) -> None:
        super().__init__((), inner)
        self.left = calls

    def _judge(self, primitive: Any, paths: Any) -> tuple[str, Fault | None]:
        with self._lock:
            self.left -= 1
            if self.left < 0:
                raise _Killed
        return super()._judge(primitive, paths)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=LONG)])
def test_power_loss_after_a_kill(scene: Scene, step: int) -> None:
    """What a killed run left readable but unsynced is synced by the next one before it counts on it."""
    undisturbed = FaultyDisk()
    daemon.succeed(scene.settings(scene.root / "state"), undisturbed)
    shutil.rmtree(scene.root / "state")
    problems: list[str] = []
    numbers = [*range(60), *range(60, len(undisturbed.calls), step)] if step > 1 else range(len(undisturbed.calls))
    for calls in numbers:
        recorder = RecordingDisk(scene.root)
        state = scene.root / "state"
        try:
            whole = daemon.run(scene.settings(state), StoppingDisk(recorder, calls))
        except _Killed:
            pass
        else:  # a snapshot waits for the one being written: a run may make a few calls less than the one before
            assert whole.status == EXIT_CLEAN, whole
            assert calls > len(undisturbed.calls) * 3 // 4, "it should have been killed long before its end"
            shutil.rmtree(state)
            continue
        # a future that nobody asked is reported when it is collected, with a traceback; CPython 3.11 parses source for
        # that, and must not be parsing rules at the same time (python/cpython#106905)
        gc.collect()
        name = f"killed before call {calls} ({undisturbed.calls[calls].primitive} {undisturbed.calls[calls].path.name})"
        ended = daemon.run(scene.settings(state), recorder)
        if ended.status != EXIT_CLEAN:
            problems.append(f"{name}: {ended}")
        # nothing that was not synced is kept: what the second run confirmed must be there
        last = len(recorder.ops) - 1
        crash = recorder.history.crash_states(random.Random(1), last, samples=0)[0]
        tree = crash.materialise(scene.place / "crashed")
        try:
            assert daemon.committed(tree / "state") == daemon.committed(state)
            daemon.assert_same(tree / "state", scene.place / "whole")
        except (AssertionError, OSError) as error:
            problems.append(f"{name}, {crash.name}: {error!s:.400}")
        shutil.rmtree(tree)
        shutil.rmtree(state)
    none_of(problems)


def test_directory_of_a_killed_run_is_synced_before_it_is_counted_on(tmp_path: Path) -> None:
    """A directory whose name was in memory only when its maker was killed outlives a power loss once it is used."""
    recorder = RecordingDisk(tmp_path)
    recorder._mkdir(tmp_path / "made")  # killed before the sync of its parent
    recorder.make_directory(tmp_path / "made")
    recorder.replace_file(tmp_path / "made" / "kept", b"1")
    crash = recorder.history.crash_states(random.Random(1), len(recorder.ops) - 1, samples=0)[0]
    assert (crash.materialise(tmp_path.with_name("crashed")) / "made" / "kept").read_bytes() == b"1"
    count = len(recorder.ops)
    recorder.make_directory(tmp_path / "made")
    assert len(recorder.ops) == count, "once is enough"
