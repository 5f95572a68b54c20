"""A state directory that an older version wrote: a start with this one goes on, or refuses without changing anything.

``older_states/VERSION.tar.gz`` holds what that version left of a stream of some 120 lines, with the stream, its
contract and rules: ``clean`` after two clean stops, at lines 40 and 80; ``crashed`` the same with the snapshot at line
40 alone, as if it had been killed at line 80. Both ran with ``batch_bytes=4000`` and everything quarantined.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigs import daemon
from rigs.compare import projection_bytes
from rigs.daemon import make_settings, none_of
from rigs.kill import Launcher, every_point
from rigs.tmpfs import quick_directory
from tidewaiter.core import audit
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_INTEGRITY, TidewaiterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.shell.settings import Settings

STATES: Final = Path(__file__).parent / "older_states"
VERSIONS: Final = sorted(path.name.removesuffix(".tar.gz") for path in STATES.glob("*.tar.gz"))
FILTERED: Final[dict[str, Any]] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not before 3.11.4
NEW_PROJECTIONS: Final = ("suppressed", "shadow_flags")


@pytest.fixture(params=VERSIONS)
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A quick directory with what an older version left."""
    with quick_directory() as path, tarfile.open(STATES / f"{request.param}.tar.gz") as archive:
        archive.extractall(path, **FILTERED)  # noqa: S202 - made by ourselves, kept beside this file
        for folder in (path / "clean", path / "crashed"):
            (folder / "log").mkdir(exist_ok=True)
        yield path


def settings_for(place: Path, state: Path) -> Settings:
    """Return settings that read the rest of the stream under the rules that were in force."""
    return make_settings(
        place / "events.jsonl", state,
        batch_bytes=4000, contract=place / "contract.toml", rules=place / "rules.toml",
    )  # fmt: skip


def flags_of(data: bytes) -> list[dict[str, Any]]:
    """Return the flags in `data`, without the digests of their scenarios: those may change with the version."""
    return [{key: value for key, value in json.loads(line).items() if key != "scenario_digest"} for line in
            data.splitlines()]  # fmt: skip


def assert_went_on(place: Path, state: Path, before: bytes) -> None:
    """Assert that what was there stayed, and what came is what a run of this version makes of the whole stream."""
    whole = place / "whole"
    if not whole.exists():
        daemon.succeed(settings_for(place, whole))
    after = projection_bytes(state, "flags")
    assert after.startswith(before)
    assert flags_of(after) == flags_of(projection_bytes(whole, "flags"))
    assert projection_bytes(state, "rejections") == projection_bytes(whole, "rejections")
    for name in NEW_PROJECTIONS:
        assert (state / f"{name}.jsonl").read_bytes() == b""
    daemon.assert_consistent(state)
    commit = json.loads((state / "checkpoint.json").read_bytes())["commit"]
    assert set(commit["projections"]) == set(audit.PROJECTIONS)
    assert commit["totals"]["events_read"] == (place / "events.jsonl").read_bytes().count(b"\n")


def test_a_cleanly_stopped_state_goes_on(place: Path) -> None:
    """The files and members that it lacks are those of empty projections."""
    state = place / "clean"
    before = (state / "flags.jsonl").read_bytes()
    assert before.count(b"\n") > 20
    assert not any((state / f"{name}.jsonl").exists() for name in NEW_PROJECTIONS)
    daemon.succeed(settings_for(place, state))
    assert_went_on(place, state, before)
    daemon.succeed(settings_for(place, state))
    assert_went_on(place, state, before)


def test_an_upgrade_may_be_killed_at_any_moment(place: Path) -> None:
    """Killed before any call of the first start with this version, or half-way through a write, the next goes on."""
    before = (place / "clean" / "flags.jsonl").read_bytes()
    arguments = {
        "stream": str(place / "events.jsonl"), "batch_bytes": 4000,
        "contract": str(place / "contract.toml"), "rules": str(place / "rules.toml"),
    }  # fmt: skip
    state = shutil.copytree(place / "clean", place / "state")
    problems: list[str] = []
    with Launcher(preload=["rigs.daemon"]) as launcher:
        counted = launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, calls=place / "calls")
        assert counted.status == EXIT_CLEAN
        calls = (place / "calls").read_text().splitlines()
        start = next(at for at, call in enumerate(calls) if call.endswith("shadow_flags.jsonl"))
        points = [point for point in every_point(calls) if point.at <= start + 12 or point.at % 7 == 0]
        for point in points:
            shutil.rmtree(state)
            shutil.copytree(place / "clean", state)
            outcome = launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, point)
            try:
                assert outcome.killed or outcome.status == EXIT_CLEAN, outcome
                ended = daemon.run(settings_for(place, state))
                assert ended.status == EXIT_CLEAN, ended
                assert_went_on(place, state, before)
            except (AssertionError, TidewaiterError, OSError) as error:
                problems.append(f"killed {point.where} {point.at} ({calls[point.at - 1]}): {error!s:.500}")
    none_of(problems)


def test_a_crashed_state_goes_on_or_is_refused_untouched(place: Path) -> None:
    """What was committed must be derived again; where the version would write other bytes, it says so and stops."""
    state = place / "crashed"
    before = {path.name: path.read_bytes() for path in state.glob("*.jsonl")}
    ended = daemon.run(settings_for(place, state))
    if ended.status == EXIT_CLEAN:
        assert_went_on(place, state, before["flags.jsonl"])
        return
    assert ended.status == EXIT_INTEGRITY, ended
    assert "gives other flags than were committed" in ended.message
    assert "run the version that wrote the state" in ended.message
    for name, content in before.items():
        assert (state / name).read_bytes() == content
