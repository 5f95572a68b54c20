"""The AML pack, and a ruleset with every construct, through whatever befalls a run: the output is byte-identical.

Compared are all four projections, the counts, and what could not be decided; the audit log must hold each line once.
The same disturbances befall the money-flow rules in test_exactly_once and test_killed; here it is the rules' memory
that must come through them, every kind of it.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from crash_scenes import (
    EVERY,
    PACK,
    PROJECTIONS,
    SCENES,
    Scene,
    accepted,
    assert_same,
    finish,
    forget_snapshots,
    insufficient,
    totals,
)
from naive_comparison import MARK, POLICY, Written, as_given, assert_agree, evaluate_whole
from naive_rules import evaluate_stream
from rigs import daemon
from rigs.compare import projection_bytes
from rigs.daemon import Following, none_of
from rigs.kill import KillPoint, Launcher, every_point
from rigs.load import joined, killed_under_load
from rigs.power_loss import RecordingDisk
from rigs.tmpfs import quick_directory
from support import run_cli
from tidewaiter.core.engine import Engine
from tidewaiter.core.errors import EXIT_CLEAN
from tidewaiter.core.framing import Block
from tidewaiter.core.ledger import Ledger
from tidewaiter.core.scenarios import state_cells
from tidewaiter.core.scenarios.state import CELLS, empty_cell
from tidewaiter.core.snapshot import decode, encode, freeze
from tidewaiter.shell.settings import Overrides
from tidewaiter.shell.settings_file import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios import Ruleset

LONG: Final = (pytest.mark.long, pytest.mark.timeout(7200))
SEGMENTS: Final = {PACK: 12_000, EVERY: 60_000}
"""Segment sizes, in bytes, that make a handful of them."""


@dataclass(frozen=True)
class Ground:
    """A scene on the disk: its stream, and the state directory of an undisturbed run."""

    scene: Scene
    stream: Path
    whole: Path


@pytest.fixture(scope="module")
def grounds() -> Iterator[dict[Scene, Ground]]:
    """The scenes, each run through once, at once."""
    with quick_directory() as place:
        found = {}
        for number, scene in enumerate(SCENES):
            ground = Ground(scene, place / str(number) / "in" / "events.jsonl", place / str(number) / "whole")
            ground.stream.parent.mkdir(parents=True)
            ground.stream.write_bytes(scene.data)
            scene.succeed(ground.stream, ground.whole)
            assert daemon.actions(ground.whole)["batch.committed"] == 1
            found[scene] = ground
        yield found


@pytest.fixture(params=SCENES, ids=[scene.name for scene in SCENES])
def ground(request: pytest.FixtureRequest, grounds: dict[Scene, Ground]) -> Ground:
    """Each of the scenes in turn."""
    return grounds[request.param]


@pytest.fixture
def place() -> Iterator[Path]:
    """A quick directory of the test's own."""
    with quick_directory() as path:
        yield path


@pytest.fixture
def small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few keys already be swept, take turns, and fill several parts of a snapshot, as many do."""
    monkeypatch.setattr(state_cells, "SMALL", 2)
    monkeypatch.setattr(state_cells, "CHUNK_KEYS", 3)
    monkeypatch.setattr(state_cells, "PURGE_WINDOWS", 1)


# -- the scenes are worth it -------------------------------------------------------------------------------------------


def test_the_undisturbed_run_is_right(ground: Ground) -> None:
    """It says what the plain evaluator says; every live or shadow scenario has a line, and lines of each kind exist."""
    scene = ground.scene
    contract, ruleset = scene.load()
    lines = accepted(scene, ground.whole)
    whole = evaluate_whole(contract, ruleset, [line for _, line in lines])
    files = {name: (scene.rules.parent / name).read_text(encoding="utf-8") for name in scene.lists}
    texts = [path.read_text(encoding="utf-8") for path in (scene.rules, scene.contract)]
    assert_agree(
        whole, evaluate_stream(texts[0], files, texts[1], as_given([line for _, line in lines], contract.time_field))
    )
    events = {
        name: [(flag["event_id"], flag["rule_name"]) for flag in map(json.loads, projection.splitlines())]
        for name in PROJECTIONS[:3]
        for projection in [projection_bytes(ground.whole, name)]
    }
    for name, found in events.items():
        again = [json.loads(record) for projection, record in whole.records if projection == name]
        assert found == [(flag["event_id"], flag["rule_name"]) for flag in again]
    assert insufficient(ground.whole) == dict(whole.insufficient)
    running = {item.id for item in ruleset.scenarios if item.status in {"live", "shadow"}}
    running |= {item.id for item in ruleset.typologies}
    assert {rule for found in events.values() for _, rule in found} == running
    count = totals(ground.whole)
    assert all(count[kind] > 2 for kind in ("json", "contract", "duplicate", "order", "flags", "suppressed"))
    assert (count["shadow_flags"] > 9) == (scene is EVERY)


def test_every_kind_of_memory_is_in_it(grounds: dict[Scene, Ground]) -> None:
    """The ruleset with every construct has every kind of cell, and what each of the language's tables can say."""
    _, ruleset = EVERY.load()
    assert {cell.spec.kind for cell in ruleset.new_state().cells.values()} == set(CELLS)
    text = EVERY.rules.read_text(encoding="utf-8")
    functions = ("count", "sum", "min", "max", "distinct", "last", "since_previous", "since_first")
    words = [f'fn = "{name}' for name in functions]
    words += ["of=[", "of = [", 'window = "day"', "offset", "last = ", "cap", "warmup", "default", "p.low <=", "reuse",
              "within", "segment.partner = { low", "segment.foreign = { where", 'repeat = "edge"', "cooldown", "match",
              "column", "in list.", "not in list.", "[typology.", "bands", "utc_offset", "a.", "subject", "step",
              *(f'status = "{status}"' for status in ("live", "draft", "shadow", "retired"))]  # fmt: skip
    assert [word for word in words if word not in text] == []
    assert totals(grounds[EVERY].whole)["shadow_suppressed"] > 2


def test_no_cell_could_be_lost_unnoticed(ground: Ground) -> None:
    """Were a cell left out of a snapshot, the output would differ; of the pack at least one of each kind."""
    contract, ruleset = ground.scene.load()
    lines = [line for _, line in accepted(ground.scene, ground.whole)]
    whole = evaluate_whole(contract, ruleset, lines)
    unnoticed = {cell.spec.digest: cell.spec for cell in ruleset.new_state().cells.values()}
    kinds = {spec.kind for spec in unnoticed.values()}
    eventful = sorted({json.loads(record)["event_id"] for _, record in whole.records})
    numbers = {json.loads(line)[contract.id_field]: number for number, line in enumerate(lines)}
    cuts = [numbers[event] for event in eventful if numbers[event]]
    random.Random(1).shuffle(cuts)
    for cut in cuts:
        engine, before = Engine(contract, ruleset, POLICY), Written()
        offset = _evaluate(engine, before, lines[:cut], 0)
        snapshot = b"".join(encode(freeze(engine, Ledger(), MARK)))
        until = lines[cut : cut + 10]
        expected = Written()
        _evaluate(_restored(contract, ruleset, snapshot), expected, until, offset)
        assert expected.records == whole.records[len(before.records) :][: len(expected.records)]
        for digest, spec in list(unnoticed.items()):
            poorer = _restored(contract, ruleset, snapshot, without=digest)
            got = Written()
            _evaluate(poorer, got, until, offset)
            if got != expected:
                del unnoticed[digest]
                kinds.discard(spec.kind)
        if not unnoticed:
            break
    assert kinds == set()
    assert ground.scene is PACK or [spec.label for spec in unnoticed.values()] == []


def _restored(contract: Contract, ruleset: Ruleset, packed: bytes, without: str = "") -> Engine:
    """Return an engine from a snapshot in which one cell is empty."""
    snapshot = decode(packed)
    assert snapshot is not None
    engine = Engine(contract, ruleset, POLICY)
    snapshot.load_into(engine)
    if without:
        cell = engine.rules.cells[without]
        engine.rules.cells[without] = empty_cell(cell.spec)
        engine.rules.cells[without].start = cell.start
        engine.load_rules(engine.rules)
    return engine


def _evaluate(engine: Engine, written: Written, lines: list[bytes], offset: int) -> int:
    """Evaluate lines in one batch; return the offset behind them."""
    data = b"".join(line + b"\n" for line in lines)
    done = engine.evaluate(Block(offset, data), 0, "events.jsonl")
    written.records += done.records
    written.insufficient.update(done.insufficient)
    return offset + len(data)


# -- batches and chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_bytes", [0, 700, 9000, pytest.param(1, marks=LONG), pytest.param(97, marks=LONG)])
@pytest.mark.usefixtures("small_cells")
def test_batch_size_changes_nothing(ground: Ground, place: Path, batch_bytes: int) -> None:
    """From one line at a time (0: reads are as long as the shortest line) to a dozen; everything at once is `whole`."""
    scene = ground.scene
    scene.succeed(ground.stream, place / "state", batch_bytes=batch_bytes or min(map(len, scene.lines)))
    assert_same(place / "state", ground.whole)
    batches = daemon.actions(place / "state")["batch.committed"]
    assert batches > 7
    assert batch_bytes or batches == len(scene.lines)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=LONG) for seed in range(2, 30))])
async def test_random_chunks_while_it_follows(ground: Ground, place: Path, seed: int) -> None:
    """The same bytes arrive in random pieces that split lines and characters, while the file is being followed."""
    rng = random.Random(seed)
    data, at = ground.scene.data, 0
    live = place / "in" / "events.jsonl"
    live.parent.mkdir()
    settings = ground.scene.settings(
        live, place / "state", batch_bytes=rng.choice((97, 5000, 1 << 20)), snapshot_events=rng.choice((7, 50))
    )
    async with Following(settings) as following:
        with live.open("ab", buffering=0) as file:
            while at < len(data):
                size = rng.choice((1, 2, 3, rng.randrange(1, 600), rng.randrange(1, 8000)))
                file.write(data[at : at + size])
                at += size
                if rng.random() < 0.3:
                    await following.reaches(data.rfind(b"\n", 0, min(at, len(data))) + 1)
        await following.reaches(len(data))
    assert_same(place / "state", ground.whole)


# -- restarts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("starts", [5, pytest.param(60, marks=LONG)])
@pytest.mark.parametrize("how", ["snapshot", "older snapshot", "replay", "reviewed", "reviewed, replay"])
@pytest.mark.usefixtures("small_cells")
def test_restarts_change_nothing(ground: Ground, place: Path, how: str, starts: int) -> None:
    """Started again after every third batch: from its snapshot, from the one before, or by replaying from the archive.

    `reviewed`: each start finds rules that say the same in other words, and every cell is carried over.
    """
    scene = _with_rules_of_its_own(ground.scene, place)
    stream, state = place / "in" / "events.jsonl", place / "state"
    stream.parent.mkdir()
    size = -(-len(scene.lines) // starts)
    for start in range(1, starts + 1):
        stream.write_bytes(b"".join(ground.scene.lines[: size * start]))
        if "reviewed" in how:
            with scene.rules.open("a") as file:
                file.write(f"# reviewed {start}\n")
        if start > 1 and how not in {"snapshot", "reviewed"}:
            forget_snapshots(state, keep_older="older" in how)
            assert len(list((state / "snapshots").iterdir())) == ("older" in how)
        batch_bytes = size * len(scene.data) // len(scene.lines) // 3
        # one after each batch or two, and one at the end
        scene.succeed(stream, state, batch_bytes=batch_bytes, snapshot_events=size // 6)
    assert_same(state, ground.whole)
    found = daemon.actions(state)
    assert found["batch.committed"] > 2 * starts
    assert found["decision.recorded"] == (starts if "reviewed" in how else 1)
    decisions = daemon.entries(state, "decision.recorded")
    assert [decision.get("started_empty") or [] for decision in decisions[1:]] == [[]] * (len(decisions) - 1)


def _with_rules_of_its_own(scene: Scene, place: Path) -> Scene:
    """Copy the ruleset with its lists into `place`, where they can be changed."""
    copied = replace(scene, rules=place / "config" / "rules" / scene.rules.name)
    copied.rules.parent.mkdir(parents=True)
    shutil.copy(scene.rules, copied.rules)
    for name in scene.lists:
        target = copied.rules.parent / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(scene.rules.parent / name, target)
    return copied


# -- power loss and kill -----------------------------------------------------------------------------------------------


def _busy(scene: Scene) -> dict[str, Any]:
    """Return options for a run with a dozen batches, segments that are sealed, and snapshots in between."""
    return {
        "batch_bytes": len(scene.data) // 12, "segment_bytes": SEGMENTS[scene], "snapshot_events": 80,
    }  # fmt: skip


@pytest.mark.parametrize(("states", "samples"), [(14, 1), pytest.param(2000, 3, marks=LONG)])
def test_power_loss_after_any_operation(ground: Ground, place: Path, states: int, samples: int) -> None:
    """From whatever a power loss leaves, the run ends with the same output."""
    scene, root = ground.scene, place / "disk"
    root.mkdir()
    disk = RecordingDisk(root)
    scene.succeed(ground.stream, root / "state", disk, **_busy(scene))
    assert_same(root / "state", ground.whole)
    found = daemon.actions(root / "state")
    assert found["projection.sealed"] > 1
    assert len(list((root / "state" / "snapshots").iterdir())) == 2
    rng, problems = random.Random(3), list[str]()
    # of each operation there are two states and the samples
    chosen = {index for index in range(len(disk.ops)) if rng.random() < states / (2 + samples) / len(disk.ops)}
    count = 0
    for crash in disk.history.every_crash(rng, samples, at=lambda index, _op: index in chosen):
        count += 1
        tree = crash.materialise(place / "crashed")
        finish(scene.settings(ground.stream, tree / "state", **_busy(scene)), ground.whole, crash.name, problems)
        shutil.rmtree(tree)
    assert count >= 6
    none_of(problems)


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """The process that forks the daemons."""
    with Launcher(preload=["rigs.daemon"]) as started:
        yield started


@pytest.mark.parametrize(
    ("scene", "kills"), [(PACK, 8), pytest.param(PACK, 0, marks=LONG), pytest.param(EVERY, 0, marks=LONG)],
)  # fmt: skip
def test_killed_at_any_write_like_call_and_in_recovery(
    grounds: dict[Scene, Ground], place: Path, launcher: Launcher, scene: Scene, kills: int
) -> None:
    """Killed at a call of the run, then in the recovery from that, with and without snapshots; the third start ends."""
    ground = grounds[scene]
    arguments = {"stream": str(ground.stream), **scene.options(**_busy(scene))}
    counted = launcher.run(daemon.ONCE, {**arguments, "state": str(place / "count")}, calls=place / "calls")
    assert counted.status == EXIT_CLEAN, counted
    calls = (place / "calls").read_text().splitlines()
    assert any("suppressed-" in call for call in calls), "nothing was sealed"
    assert any("snapshots/snapshot-" in call for call in calls)
    rng, problems = random.Random(kills), list[str]()
    points = every_point(calls)
    killed = again = 0
    for number, point in enumerate(rng.sample(points, kills) if kills else points):
        state = place / "state"
        killed += launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, point).killed
        if number % 3 and (state / "snapshots").exists():
            forget_snapshots(state, keep_older=number % 3 == 1)
        second = KillPoint(rng.randrange(1, 40), "middle")
        again += launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, second).killed
        name = f"killed {point.where} {point.at} ({calls[point.at - 1]}), then at {second.at}"
        finish(scene.settings(ground.stream, state, **_busy(scene)), ground.whole, name, problems)
        shutil.rmtree(state)
    none_of(problems)
    assert killed > 0.9 * (kills or len(points))
    assert again > 3


@pytest.mark.parametrize(("kills", "rate"), [(3, 1000), pytest.param(150, 1500, marks=LONG)])
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_under_load_with_rotation(tmp_path: Path, kills: int, rate: int) -> None:
    """The command line program runs the pack and is killed again and again while transfers come in and are rotated."""
    rng = random.Random(kills)
    live, state = tmp_path / "in" / "events.jsonl", tmp_path / "state"
    config = PACK.config(
        tmp_path / "config", live, state, state='segment_bytes = "100KiB"\nsnapshot_events = 200',
        batch='max_bytes = "64KiB"',
    )  # fmt: skip
    transfers = ("--profile", "transfers-demo", "--users", "60")
    files = killed_under_load(config, live, state, rng, kills=kills, rate=rate, generate=transfers)
    PACK.succeed(joined(files, tmp_path / "everything" / "events.jsonl"), tmp_path / "whole")
    assert_same(state, tmp_path / "whole")
    assert totals(state)["flags"] > 50
    assert totals(state)["suppressed"] > 50


# -- surroundings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scene", "surroundings"),
    [
        (PACK, {"PYTHONHASHSEED": "0", "TZ": "Asia/Kathmandu", "LC_ALL": "C"}),
        (PACK, {"PYTHONHASHSEED": "random", "TZ": "UTC-14", "LC_ALL": "POSIX", "PYTHONUTF8": "0"}),
        (EVERY, {"PYTHONHASHSEED": "4242", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}),
    ],
)
def test_hash_seed_time_zone_and_locale_change_nothing(
    grounds: dict[Scene, Ground], tmp_path: Path, scene: Scene, surroundings: dict[str, str]
) -> None:
    """The command line program gives the same bytes in other surroundings, with a restart in the middle."""
    stream = tmp_path / "in" / "events.jsonl"
    stream.parent.mkdir()
    config = scene.config(tmp_path / "config", stream, tmp_path / "state")
    for part in (scene.lines[: len(scene.lines) // 2], scene.lines):
        stream.write_bytes(b"".join(part))
        ended = run_cli("run", "--config", config, "--once", env=surroundings)
        assert ended.returncode == EXIT_CLEAN, ended.stderr
    assert_same(tmp_path / "state", grounds[scene].whole)


# -- a change of rules -------------------------------------------------------------------------------------------------

ADDED: Final = """
[scenario.ADD-01]
typology = "added"
version = 1
severity = "low"
when = "earlier >= 2"
measure = "earlier"
threshold = "2"
cooldown = "3d"
"""
NEW_METRIC: Final = 'earlier = { fn = "count", by = "account", window = "20d", offset = "1d" }'
REACH_DAYS: Final = 21
FREED: Final = ("XB,", "XF,")
"""Rows of the list of countries that go: one country of the first half of the stream, one of the second."""


class Change:
    """The pack with a new scenario and shorter lists from the middle of the stream on; `whole` is undisturbed."""

    def __init__(self, place: Path, before: Path) -> None:
        """`before` is the state directory of the shipped rules over the whole stream."""
        self.place = place
        self.before = before
        self.scene = _with_rules_of_its_own(PACK, place)
        self.stream = place / "in" / "events.jsonl"
        self.stream.parent.mkdir()
        self.half = PACK.lines[: len(PACK.lines) // 2]
        self.options: dict[str, Any] = {
            "batch_bytes": len(PACK.data) // 12,
            "segment_bytes": SEGMENTS[PACK],
            "snapshot_events": 60,
        }
        self.stream.write_bytes(b"".join(self.half))
        self.run("half")
        self.stream.write_bytes(PACK.data)
        self.change()
        self.whole = shutil.copytree(place / "half", place / "whole")
        self.run("whole")

    def change(self) -> None:
        """Put the new rules and lists in the place of the old ones."""
        text = self.scene.rules.read_text(encoding="utf-8")
        self.scene.rules.write_text(text.replace("[metric]\n", f"[metric]\n{NEW_METRIC}\n", 1) + ADDED)
        countries = self.scene.rules.parent / self.scene.lists[0]
        rows = countries.read_text(encoding="utf-8").splitlines(keepends=True)
        countries.write_text("".join(row for row in rows if not row.startswith(FREED)))

    def run(self, name: str, scene: Scene | None = None) -> None:
        """Run to the end in the state directory `name`."""
        (scene or self.scene).succeed(self.stream, self.place / name, **self.options)

    @property
    def at(self) -> int:
        """The offset at which the new rules take force."""
        return len(b"".join(self.half))


@pytest.fixture(scope="module")
def change(grounds: dict[Scene, Ground]) -> Iterator[Change]:
    """A change of the pack's rules, undisturbed."""
    with quick_directory() as place:
        yield Change(place, grounds[PACK].whole)


def _flags(state: Path, *rules: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for name in PROJECTIONS[:2] for line in projection_bytes(state, name).splitlines()]
    return [flag for flag in found if flag["rule_name"] in rules]


def test_a_change_of_rules_keeps_what_says_the_same(change: Change) -> None:
    """Scenarios that say the same go on with their memory; what is new begins without any, and says so."""
    old, new = (
        {item.id: item.digest for item in ruleset.scenarios} | {item.id: item.digest for item in ruleset.typologies}
        for _, ruleset in (PACK.load(), change.scene.load())
    )
    same = [name for name in old if old[name] == new[name]]
    other = [name for name in old if old[name] != new[name]]
    assert sorted(other) == ["HRC-01", "PAS-01", "REP-01"]  # those that the list is about, and what counts them
    assert _flags(change.whole, *same) == _flags(change.before, *same)
    after = [flag for flag in _flags(change.whole, *same) if flag["offset"] >= change.at]
    assert len({flag["rule_name"] for flag in after}) > 5
    # without a memory of the first half they would say something else
    fresh = change.place / "fresh" / "events.jsonl"
    fresh.parent.mkdir()
    fresh.write_bytes(b"".join(PACK.lines[len(change.half) :]))
    change.scene.succeed(fresh, change.place / "fresh state")
    assert [flag["flag_id"] for flag in _flags(change.place / "fresh state", *same)] != [
        flag["flag_id"] for flag in after
    ]
    assert any("country XB" in flag["reason"] for flag in _flags(change.whole, "HRC-01"))
    assert any("country XF" in flag["reason"] for flag in _flags(change.before, "HRC-01"))
    assert not any("country XF" in flag["reason"] for flag in _flags(change.whole, "HRC-01"))
    # the old list is in force before the change, the new one behind it
    risky, listed = _flags(change.whole, "HRC-01"), PACK.lists[0]
    old_list, new_list = (
        decision["decisions"]["lists"][listed] for decision in daemon.entries(change.whole, "decision.recorded")
    )
    assert old_list != new_list
    assert {flag["lists"]["high_risk_country"] for flag in risky if flag["offset"] < change.at} == {old_list}
    assert {flag["lists"]["high_risk_country"] for flag in risky if flag["offset"] >= change.at} == {new_list}


def test_a_new_metric_starts_insufficient(change: Change) -> None:
    """Until its window was filled since it came into force, its scenario is counted as undecided and never flags."""
    decision = daemon.entries(change.whole, "decision.recorded")[-1]
    assert "metric earlier" in decision["started_empty"]
    assert not {f"metric {name}" for name in ("idle", "age", "baseline_90d", "in_1d")} & set(decision["started_empty"])
    given = as_given([line for _, line in accepted(PACK, change.whole)], "booked_at")
    offsets = [offset for offset, _ in accepted(PACK, change.whole)]
    after = [event.effective for offset, event in zip(offsets, given, strict=True) if offset >= change.at]
    undecided = [time for time in after if (time - after[0]).days < REACH_DAYS]
    assert 10 < len(undecided) < len(after) - 10
    assert insufficient(change.whole)["ADD-01"] == len(undecided)
    flagged = {flag["offset"] for flag in _flags(change.whole, "ADD-01")}
    assert flagged
    assert min(flagged) >= offsets[len(offsets) - len(after) + len(undecided)]


async def test_a_reload_changes_the_same(change: Change, place: Path) -> None:
    """The same change by SIGHUP, between two batches of a daemon that goes on: the cells are handed over in memory."""
    scene = _with_rules_of_its_own(PACK, place)
    live, state = place / "in" / "events.jsonl", place / "state"
    live.parent.mkdir()
    live.write_bytes(b"".join(change.half))
    config = scene.config(place / "config", live, state, batch='max_bytes = "4KiB"')
    async with Following(load_settings(config, Overrides())) as following:
        await following.reaches(change.at)
        for name in (scene.rules.name, *scene.lists):
            shutil.copy(change.scene.rules.parent / name, scene.rules.parent / name)
        following.supervisor._reload()
        await following.until(lambda: daemon.log_events(state, "config.reloaded"), "the reload")
        with live.open("ab") as file:
            file.write(b"".join(PACK.lines[len(change.half) :]))
        await following.reaches(len(PACK.data))
    assert_same(state, change.whole)


def test_a_change_of_rules_is_replayed_from_the_archive(change: Change, place: Path) -> None:
    """Both halves are derived again under the rules and lists that were in force, whatever the files say now."""
    state = shutil.copytree(change.whole, place / "state")
    third = _with_rules_of_its_own(PACK, place)
    text = third.rules.read_text(encoding="utf-8").replace('"15000.00"', '"150.00"')
    third.rules.write_text(text)
    (third.rules.parent / third.lists[0]).write_text("code\nNL\n")
    forget_snapshots(state)
    third.succeed(change.stream, state, **change.options)
    assert_same(state, change.whole)
    assert daemon.actions(state)["decision.recorded"] == 3


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=LONG)])
def test_a_change_of_rules_may_be_killed_at_any_moment(
    change: Change, place: Path, launcher: Launcher, every: int
) -> None:
    """Killed around the decision, and again in the replay from the archive: the third start ends with the same."""
    arguments = {"stream": str(change.stream), **change.scene.options(**change.options)}
    state = shutil.copytree(change.place / "half", place / "state")
    counted = launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, calls=place / "calls")
    assert counted.status == EXIT_CLEAN, counted
    assert_same(state, change.whole)
    calls = (place / "calls").read_text().splitlines()
    stored = [at for at, call in enumerate(calls, 1) if "/rules/" in call]
    assert stored
    points = [point for point in every_point(calls) if every == 1 or stored[0] - 8 <= point.at <= stored[-1] + 16]
    rng, problems, outcomes = random.Random(every), list[str](), Counter[bool]()
    for number, point in enumerate(points[::every]):
        shutil.rmtree(state)
        shutil.copytree(change.place / "half", state)
        outcomes[launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, point).killed] += 1
        if number % 2:
            forget_snapshots(state)
        second = KillPoint(rng.randrange(1, 30), "middle")
        launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, second)
        name = f"killed {point.where} {point.at} ({calls[point.at - 1]}), then at {second.at}"
        finish(change.scene.settings(change.stream, state, **change.options), change.whole, name, problems)
    none_of(problems)
    assert outcomes[True] > 3
