"""Suppressed and shadow flags and undecided scenarios: committed, recovered and counted as flags are.

The daemon with rules that make some of each, disturbed in the ways of test_killed and test_exactly_once.
"""

from __future__ import annotations

import json
import random
import shutil
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigs import daemon
from rigs.compare import projection_bytes
from rigs.daemon import Following, make_settings, make_stream, none_of
from rigs.kill import KillPoint, Launcher, every_point
from rigs.power_loss import RecordingDisk
from rigs.tmpfs import quick_directory
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_INTEGRITY, TidewaiterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidewaiter.shell.settings import Settings

LONG: Final = (pytest.mark.long, pytest.mark.timeout(7200))
RULES: Final = """\
ruleset = "more"
version = 1
contract = "money_flow/1"

[metric]
gap = { fn = "since_previous", by = "user_id" }
deposits = { fn = "count", by = "user_id", window = "10s", where = "event_type == 'deposit_completed'" }

[scenario.busy]
typology = "velocity"
version = 1
severity = "high"
when = "deposits >= 2"
measure = "deposits"
threshold = "2"
cooldown = "2s"

[scenario.quick]
typology = "velocity"
version = 1
severity = "low"
status = "shadow"
when = "gap < '50ms'"
measure = "gap"
threshold = "'50ms'"

[scenario.slow]
typology = "dormancy"
version = 1
severity = "low"
when = "gap >= '200ms'"
measure = "gap"
threshold = "'200ms'"
"""
PROJECTIONS: Final = ("flags", "suppressed", "shadow_flags")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A quick directory with a stream, the rules, and what an undisturbed run makes of them."""
    with quick_directory() as path:
        make_stream(path / "in" / "events.jsonl", 150)
        (path / "rules.toml").write_text(RULES)
        daemon.succeed(settings_for(path, path / "whole"))
        for name in PROJECTIONS:
            assert projection_bytes(path / "whole", name).count(b"\n") > 5, name
        daemon.assert_consistent(path / "whole")
        assert set(insufficient(path / "whole")) == {"quick", "slow"}
        yield path


def options(place: Path, **changes: Any) -> dict[str, Any]:
    """Return what settings are made of, apart from stream and state directory; some ten batches, small segments."""
    return {"rules": str(place / "rules.toml"), "batch_bytes": 5000, "segment_bytes": 9000, **changes}


def settings_for(place: Path, state: Path, **changes: Any) -> Settings:
    """Return settings for a run of the rules in `state`."""
    return make_settings(place / "in" / "events.jsonl", state, **options(place, **changes))


def insufficient(state: Path) -> dict[str, int]:
    """Return the cumulated counts of the checkpoint; they must be the sums of the batches'."""
    total: dict[str, int] = {}
    for commit in daemon.entries(state, "batch.committed"):
        assert all(commit["insufficient"].values())
        for name, number in commit["insufficient"].items():
            total[name] = total.get(name, 0) + number
    found: dict[str, int] = json.loads((state / "checkpoint.json").read_bytes())["insufficient"]
    assert found == total
    return found


def assert_same(state: Path, whole: Path) -> None:
    """Assert that projections and counts are those of the undisturbed run."""
    daemon.assert_same(state, whole)
    assert insufficient(state) == insufficient(whole)
    totals = json.loads((state / "checkpoint.json").read_bytes())["commit"]["totals"]
    for name in PROJECTIONS:
        assert totals[name] == projection_bytes(whole, name).count(b"\n"), name


def finish(place: Path, state: Path, name: str, problems: list[str]) -> None:
    """Start again, to the end, and note what is then missing or refused."""
    try:
        ended = daemon.run(settings_for(place, state))
        assert ended.status == EXIT_CLEAN, ended
        assert_same(state, place / "whole")
    except (AssertionError, TidewaiterError, OSError) as error:
        problems.append(f"{name}: {error!s:.600}")


def test_each_line_goes_where_its_scenario_says(place: Path) -> None:
    """Flags of the live ones, held back ones until when, and shadow ones; each with its action in the audit log."""
    whole = place / "whole"
    names = {name: {json.loads(line)["rule_name"] for line in projection_bytes(whole, name).splitlines()}
             for name in PROJECTIONS}  # fmt: skip
    assert names == {"flags": {"busy", "slow"}, "suppressed": {"busy"}, "shadow_flags": {"quick"}}
    for line in projection_bytes(whole, "suppressed").splitlines():
        assert list(json.loads(line))[-1] == "suppressed_until"
    found = daemon.actions(whole)
    assert found["flag.suppressed"] == projection_bytes(whole, "suppressed").count(b"\n")
    assert found["flag.shadowed"] == projection_bytes(whole, "shadow_flags").count(b"\n")
    report = json.loads((whole / "reports" / "validation_report.json").read_bytes())
    assert report["counts"]["flags_suppressed"] == found["flag.suppressed"]
    assert report["counts"]["flags_shadowed"] == found["flag.shadowed"]
    assert report["insufficient"] == insufficient(whole)
    (run,) = (json.loads(path.read_bytes()) for path in (whole / "runs").iterdir())
    assert (run["flags_suppressed"], run["flags_shadowed"]) == (found["flag.suppressed"], found["flag.shadowed"])


@pytest.mark.parametrize("batch_bytes", [400, 1700, 1 << 20])
def test_no_batch_size_changes_a_byte_or_a_sum(place: Path, tmp_path: Path, batch_bytes: int) -> None:
    """Projections and cumulated counts are the same for any grouping."""
    state = tmp_path / "state"
    daemon.succeed(settings_for(place, state, batch_bytes=batch_bytes))
    assert_same(state, place / "whole")


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=LONG)])
def test_killed_at_any_write_like_call_and_again(place: Path, step: int) -> None:
    """Killed at a call of the run, then somewhere in the recovery from that: the third start ends alike."""
    arguments = {"stream": str(place / "in" / "events.jsonl"), **options(place)}
    rng, problems = random.Random(step), list[str]()
    with Launcher(preload=["rigs.daemon"]) as launcher:
        counted = launcher.run(daemon.ONCE, {**arguments, "state": str(place / "count")}, calls=place / "calls")
        assert counted.status == EXIT_CLEAN
        calls = (place / "calls").read_text().splitlines()
        assert any("suppressed-" in call for call in calls), "nothing was sealed"
        for point in every_point(calls)[rng.randrange(step) :: step]:
            state = place / "state"
            launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, point)
            launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, KillPoint(rng.randrange(1, 50), "middle"))
            finish(place, state, f"killed {point.where} {point.at} ({calls[point.at - 1]})", problems)
            shutil.rmtree(state)
    none_of(problems)


@pytest.mark.parametrize(("share", "samples"), [(0.05, 1), pytest.param(1.0, 4, marks=LONG)])
def test_power_loss_after_any_operation(place: Path, tmp_path: Path, share: float, samples: int) -> None:
    """From whatever a power loss leaves the run ends with the same projections and sums."""
    root = place / "disk"
    root.mkdir()
    disk = RecordingDisk(root)
    daemon.succeed(settings_for(place, root / "state"), disk)
    rng, problems = random.Random(11), list[str]()
    chosen = {index for index in range(len(disk.ops)) if rng.random() < share}
    for crash in disk.history.every_crash(rng, samples, at=lambda index, _op: index in chosen):
        tree = crash.materialise(tmp_path / "crashed")
        finish(place, tree / "state", crash.name, problems)
        shutil.rmtree(tree)
    shutil.rmtree(root)
    none_of(problems)


@pytest.mark.parametrize("projection", ["suppressed", "shadow_flags"])
def test_an_edited_projection_is_refused(place: Path, tmp_path: Path, projection: str) -> None:
    """A changed, shorter or longer file contradicts the audit log: exit 4 names it."""
    changes: list[Callable[[bytes], bytes]] = [
        lambda data: data.replace(b'"severity":"', b'"severity":" ', 1),
        lambda data: data[:-1],
        lambda data: data + b"{}\n",
    ]
    for number, change in enumerate(changes):
        state = tmp_path / str(number)
        daemon.succeed(settings_for(place, state, segment_bytes=1 << 20))
        path = state / f"{projection}.jsonl"
        path.write_bytes(change(path.read_bytes()))
        ended = daemon.run(settings_for(place, state, segment_bytes=1 << 20))
        assert ended.status == EXIT_INTEGRITY
        assert f"{projection}.jsonl" in ended.message


@pytest.mark.parametrize("projection", ["suppressed", "shadow_flags"])
def test_what_the_replay_derives_must_be_what_was_committed(
    place: Path, tmp_path: Path, projection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rule engine that holds back or shadows something else is refused like one that flags something else."""
    from tidewaiter.core.engine import Engine  # noqa: PLC0415 - only here

    state = tmp_path / "state"
    daemon.succeed(settings_for(place, state))
    for snapshot in (state / "snapshots").iterdir():
        snapshot.unlink()
    original = Engine.evaluate

    def evaluate(*arguments: Any) -> Any:
        evaluation = original(*arguments)
        evaluation.records = [
            (name, line.replace('"severity":"', '"severity":"x') if name == projection else line)
            for name, line in evaluation.records
        ]
        return evaluation

    monkeypatch.setattr(Engine, "evaluate", evaluate)
    ended = daemon.run(settings_for(place, state))
    assert ended.status == EXIT_INTEGRITY
    assert f"gives other {projection} than were committed" in ended.message


async def test_a_daemon_that_follows_gives_the_same(place: Path, tmp_path: Path) -> None:
    """Fed line by line with stops in between: the projections of one run to the end."""
    data = (place / "in" / "events.jsonl").read_bytes()
    stream, state = tmp_path / "in" / "events.jsonl", tmp_path / "state"
    stream.parent.mkdir()
    stream.write_bytes(b"")
    settings = make_settings(stream, state, **options(place))
    ends = [data.index(b"\n", len(data) * part // 3 - 1) + 1 for part in (1, 2)] + [len(data)]
    at = 0
    for end in ends:
        async with Following(settings) as following:
            while at < end:
                size = min(random.Random(at).randrange(1, 3000), end - at)
                with stream.open("ab") as file:
                    file.write(data[at : at + size])
                at += size
            await following.reaches(end)
    assert_same(state, place / "whole")
