"""The list files of a ruleset: found beside it, in force by digest, and replayed from the archive alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigs import daemon
from rigs.daemon import Following, make_settings, make_stream, none_of
from rigs.kill import Launcher, every_point
from rigs.tmpfs import quick_directory
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_INTEGRITY, EXIT_USAGE, ConfigError, TidewaiterError
from tidewaiter.core.scenarios.lists import MAX_LIST_BYTES
from tidewaiter.shell import governing
from tidewaiter.shell.governing import from_settings
from tidewaiter.shell.settings import Overrides
from tidewaiter.shell.settings_file import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.shell.settings import Settings

RULES: Final = """\
ruleset = "watching"
version = 1
contract = "money_flow/1"

[list.watched]
file = "lists/watched.txt"

[list.channels]
file = "lists/channels.csv"
column = "channel"

[metric]
seen = { fn = "count", by = "user_id", window = "1h", where = "user_id in list.watched" }

[scenario.watched]
typology = "watchlist"
version = 1
severity = "high"
when = "user_id in list.watched and channel in list.channels"
measure = "seen"
threshold = "1"
"""
CHANNELS: Final = "channel,why\nweb,anonymous\napi,automatic\n"
EVENTS: Final = 120


@pytest.fixture
def place() -> Iterator[Path]:
    """A quick directory with a stream, and a ruleset with two lists beside it."""
    with quick_directory() as path:
        make_stream(path / "in" / "events.jsonl", EVENTS, bad=0)
        write_rules(path)
        yield path


def users(place: Path) -> list[str]:
    """Return the users of the stream, sorted."""
    lines = (place / "in" / "events.jsonl").read_bytes().splitlines()
    return sorted({json.loads(line)["user_id"] for line in lines})


def write_rules(place: Path, watched: list[str] | None = None) -> None:
    """Write the ruleset; `watched` are the users on its list, else the first third."""
    (place / "rules" / "lists").mkdir(parents=True, exist_ok=True)
    (place / "rules" / "rules.toml").write_text(RULES)
    everybody = users(place)
    watch(place, watched or everybody[: len(everybody) // 3])
    (place / "rules" / "lists" / "channels.csv").write_text(CHANNELS)


def watch(place: Path, names: list[str]) -> None:
    """Change the list on the disk."""
    (place / "rules" / "lists" / "watched.txt").write_text("# watched\n" + "".join(f"{name}\n" for name in names))


def settings_for(place: Path, name: str, **changes: Any) -> Settings:
    """Return settings for a run of some ten batches in the state directory `name`."""
    return make_settings(
        place / "in" / "events.jsonl", place / name, rules=place / "rules" / "rules.toml", batch_bytes=4000, **changes
    )


def digest(content: bytes) -> str:
    """Return the name of `content` in the archive."""
    return hashlib.sha256(content).hexdigest()


def flagged(state: Path) -> list[str]:
    """Return the users of the flags, each once, sorted."""
    return sorted({json.loads(line)["user_id"] for line in (state / "flags.jsonl").read_bytes().splitlines()})


# -- reading them ------------------------------------------------------------------------------------------------------


def test_lists_are_found_beside_the_ruleset_and_stand_in_the_decisions(place: Path) -> None:
    """Paths are relative to the ruleset; each content is archived and recorded by its digest before it governs."""
    state = place / "state"
    daemon.succeed(settings_for(place, "state"))
    contents = {
        path: (place / "rules" / path).read_bytes() for path in ("lists/watched.txt", "lists/channels.csv")
    }  # fmt: skip
    (decision,) = daemon.entries(state, "decision.recorded")
    assert decision["decisions"]["lists"] == {path: digest(content) for path, content in contents.items()}
    for content in contents.values():
        assert (state / "rules" / digest(content)).read_bytes() == content
    for commit in daemon.entries(state, "batch.committed"):
        assert commit["decisions"] == decision["decisions"]
    assert flagged(state) == users(place)[: len(users(place)) // 3]
    assert from_settings(settings_for(place, "state")).ruleset.files == contents


def spoil(path: Path, how: str) -> None:
    """Put something in the place of a list that is none."""
    path.unlink()
    match how:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "large":
            with path.open("wb") as file:
                file.truncate(MAX_LIST_BYTES + 1)
        case "circle":
            path.symlink_to(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("missing", "No such file or directory"),
        ("directory", "is a directory"),
        ("pipe", "is not a regular file"),
        ("large", f"is {MAX_LIST_BYTES + 1} bytes long; a list has at most {MAX_LIST_BYTES}"),
        ("circle", "Too many levels of symbolic links"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_at_the_line_that_names_it(place: Path, how: str, what: str) -> None:
    """Exit 2 before anything is touched; the message has the ruleset's line and column, and the path that was tried."""
    path = place / "rules" / "lists" / "channels.csv"
    spoil(path, how)
    ended = daemon.run(settings_for(place, "state"))
    assert ended.status == EXIT_USAGE
    first, _, picture = ended.message.partition("\n")
    assert first.startswith(
        f"{place / 'rules' / 'rules.toml'}:9:8: list.channels.file: {path}: the list cannot be read:"
    )
    assert what in first
    assert 'file = "lists/channels.csv"' in picture
    assert not (place / "state").exists()


@pytest.mark.parametrize("written", ['"a\\u0000b"', '""', '"."'])
def test_a_path_that_cannot_be_one_is_refused(place: Path, written: str) -> None:
    """No path reaches the system as a traceback."""
    rules = place / "rules" / "rules.toml"
    rules.write_text(RULES.replace('"lists/watched.txt"', written))
    with pytest.raises(ConfigError, match=r"rules\.toml:6:8: list\.watched\.file: "):
        from_settings(settings_for(place, "state"))


def test_paths_that_would_outgrow_an_audit_entry_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand in every commit: the list that is one too many is named."""
    monkeypatch.setattr(governing, "MAX_LIST_NAMES", 150)
    with pytest.raises(ConfigError, match=r"rules\.toml:9:8: list\.channels\.file: is one path too many"):
        from_settings(settings_for(place, "state"))


# -- a list that changes -----------------------------------------------------------------------------------------------


def half_and_half(place: Path, name: str, then: list[str]) -> Path:
    """Evaluate half of the stream, let `then` be watched, evaluate the rest; stopped cleanly in between."""
    stream = place / "in" / "events.jsonl"
    lines = stream.read_bytes().splitlines(keepends=True)
    stream.write_bytes(b"".join(lines[: len(lines) // 2]))
    daemon.succeed(settings_for(place, name))
    shutil.copytree(place / name, place / f"{name} half")
    stream.write_bytes(b"".join(lines))
    watch(place, then)
    daemon.succeed(settings_for(place, name))
    return place / name


def test_a_changed_list_takes_force_behind_what_was_read_before(place: Path) -> None:
    """One more decision; the flags before it are the old list's, those behind it the new one's."""
    last = users(place)[-2:]
    before = (place / "rules" / "lists" / "watched.txt").read_bytes()
    whole = half_and_half(place, "whole", last)
    decisions = daemon.entries(whole, "decision.recorded")
    assert [each["decisions"]["lists"]["lists/watched.txt"] for each in decisions] == [
        digest(before), digest((place / "rules" / "lists" / "watched.txt").read_bytes()),
    ]  # fmt: skip
    assert decisions[0]["decisions"]["ruleset"] == decisions[1]["decisions"]["ruleset"]
    assert decisions[1]["started_empty"], "the metric says something else now"
    half = (place / "whole half" / "flags.jsonl").read_bytes()
    rest = (whole / "flags.jsonl").read_bytes().removeprefix(half)
    assert {json.loads(line)["user_id"] for line in rest.splitlines()} == set(last)


def test_a_list_that_changed_after_a_crash_is_replayed_from_the_archive(place: Path) -> None:
    """Without a snapshot everything is derived again: under the list that was in force, wherever its file is now."""
    last = users(place)[-2:]
    whole = half_and_half(place, "whole", last)
    state = shutil.copytree(place / "whole half", place / "state")
    for snapshot in (state / "snapshots").iterdir():
        snapshot.unlink()
    daemon.succeed(settings_for(place, "state"))
    daemon.assert_same(state, whole)
    for snapshot in (state / "snapshots").iterdir():
        snapshot.unlink()
    daemon.succeed(settings_for(place, "state"))  # now over the change itself
    daemon.assert_same(state, whole)


def test_a_change_of_lists_may_be_killed_at_any_moment(place: Path) -> None:
    """Killed before any call of the start that adopts a new list, or half-way through a write, the next ends alike."""
    whole = half_and_half(place, "whole", users(place)[-2:])
    arguments = {
        "stream": str(place / "in" / "events.jsonl"), "batch_bytes": 4000,
        "rules": str(place / "rules" / "rules.toml"),
    }  # fmt: skip
    state = shutil.copytree(place / "whole half", place / "state")
    problems: list[str] = []
    with Launcher(preload=["rigs.daemon"]) as launcher:
        counted = launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, calls=place / "calls")
        assert counted.status == EXIT_CLEAN
        calls = (place / "calls").read_text().splitlines()
        stored = [at for at, call in enumerate(calls, 1) if "/rules/" in call]
        assert stored
        for point in every_point(calls):
            if not stored[0] - 8 <= point.at <= stored[-1] + 12:
                continue
            shutil.rmtree(state)
            shutil.copytree(place / "whole half", state)
            outcome = launcher.run(daemon.ONCE, {**arguments, "state": str(state)}, point)
            try:
                assert outcome.killed, outcome
                ended = daemon.run(settings_for(place, "state"))
                assert ended.status == EXIT_CLEAN, ended
                daemon.assert_same(state, whole)
            except (AssertionError, TidewaiterError, OSError) as error:
                problems.append(f"killed {point.where} {point.at} ({calls[point.at - 1]}): {error!s:.500}")
    none_of(problems)


def test_an_archived_list_that_is_gone_is_refused(place: Path) -> None:
    """What has to be replayed under it cannot be: exit 4 names the file; the list on the disk is no substitute."""
    archived = digest((place / "rules" / "lists" / "watched.txt").read_bytes())
    half_and_half(place, "whole", users(place)[-2:])
    state = place / "whole"
    for snapshot in (state / "snapshots").iterdir():
        snapshot.unlink()
    (state / "rules" / archived).unlink()
    ended = daemon.run(settings_for(place, "whole"))
    assert ended.status == EXIT_INTEGRITY
    assert f"rules/{archived}: is missing" in ended.message


async def test_a_reload_notices_a_changed_list(place: Path) -> None:
    """SIGHUP reads the lists again: another content is a decision, the same none, a missing file is refused."""
    stream = place / "in" / "events.jsonl"
    lines = stream.read_bytes().splitlines(keepends=True)
    half = b"".join(lines[: len(lines) // 2])
    stream.write_bytes(half)
    state, last = place / "state", users(place)[-2:]
    path = place / "rules" / "lists" / "watched.txt"
    config = daemon.write_config(place / "config", stream, state, batch='max_bytes = "4000B"')
    config.write_text(config.read_text().replace('"json"', '"none"').replace('"rules.toml"', '"../rules/rules.toml"'))
    async with Following(load_settings(config, Overrides())) as following:
        await following.reaches(len(half))

        async def reloaded(event: str, times: int) -> None:
            following.supervisor._reload()
            await following.until(lambda: len(daemon.log_events(state, event)) == times, event)

        await reloaded("config.reloaded", 1)
        assert len(daemon.entries(state, "decision.recorded")) == 1
        watched = path.read_bytes()
        path.unlink()
        await reloaded("config.refused", 1)
        (refused,) = daemon.log_events(state, "config.refused")
        assert "list.watched.file" in refused["error"]
        path.write_bytes(watched)
        watch(place, last)
        await reloaded("config.reloaded", 2)
        stream.write_bytes(b"".join(lines))
        await following.reaches(stream.stat().st_size)
    assert len(daemon.entries(state, "decision.recorded")) == 2
    write_rules(place)
    whole = place / "whole"
    stream.write_bytes(half)
    daemon.succeed(settings_for(place, "whole"))
    stream.write_bytes(b"".join(lines))
    watch(place, last)
    daemon.succeed(settings_for(place, "whole"))
    daemon.assert_same(state, whole)
