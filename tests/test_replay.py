"""`tidewaiter replay`: the bytes of a live run, in a directory of its own, resumable, never where something lives."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import types
from typing import TYPE_CHECKING

import pytest

from pure_core import line, lines
from support import PATIENCE, REPOSITORY, run_cli, started_cli, wait_until
from tidewaiter.core.errors import ConfigError
from tidewaiter.shell.commands import app
from tidewaiter.shell.settings import NoProgress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tidewaiter.shell.settings import RunOptions, Settings

EVENTS = 400
PROJECTIONS = ("flags.jsonl", "rejections.jsonl")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a configuration and a history of which every tenth line is no event."""
    monkeypatch.delenv("TIDEWAITER_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    shipped = REPOSITORY / "config"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tidewaiter.toml").write_text(
        '[stream]\npath = "../in/events.jsonl"\n'
        f'[contract]\nfile = "{shipped / "contracts" / "money_flow.toml"}"\n'
        '[rules]\nfile = "rules.toml"\n[policy]\ninvalid = "quarantine"\n[batch]\nmax_bytes = "4KiB"\n'
        '[state]\ndir = "../var/{stream}"\n'
    )
    shutil.copy(shipped / "rules" / "money_flow.toml", tmp_path / "config" / "rules.toml")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "events.jsonl").write_bytes(history(0, EVENTS))
    return tmp_path


def history(first: int, last: int) -> bytes:
    """Return the lines of the events from `first` up to `last`."""
    return lines(*(b"{}" if each % 10 == 9 else line(each, amount=each % 7 * 100 + 1.5) for each in range(first, last)))


def projections(state: Path) -> dict[str, bytes]:
    """Return what a run wrote for its readers."""
    return {name: (state / name).read_bytes() for name in PROJECTIONS}


@pytest.fixture
def live(here: Path) -> dict[str, bytes]:
    """The projections of a live run over the history; its state directory is gone."""
    done = run_cli("run", "--once", "--state-dir", "live", cwd=here)
    assert done.returncode == 0, done.stderr.decode()
    found = projections(here / "live")
    assert found["flags.jsonl"].count(b"\n") > EVENTS / 4
    assert found["rejections.jsonl"].count(b"\n") == EVENTS / 10
    return found


def replay(here: Path, *arguments: str | Path) -> str:
    """Run `tidewaiter replay`, which must end well, and return what it said on standard error."""
    done = run_cli("replay", *arguments, cwd=here)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    return done.stderr.decode()


def refused(capsys: pytest.CaptureFixture[str], here: Path, *arguments: str | Path) -> str:
    """Return the one line that `replay` refuses with; nothing was written."""
    before = sorted(here.rglob("*"))
    assert app.main(["replay", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert sorted(here.rglob("*")) == before
    return said.err


# -- the same bytes ------------------------------------------------------------------------------------------------


def test_a_replay_writes_the_bytes_of_a_live_run(here: Path, live: dict[str, bytes]) -> None:
    """Flags and rejections are the same; the configured state directory does not even come into being."""
    replay(here, "in/events.jsonl", "--rules", "config/rules.toml", "--out", "out")
    assert projections(here / "out") == live
    assert not (here / "var").exists()
    assert json.loads((here / "out" / "replay.json").read_bytes())["streams"] == [str(here / "in" / "events.jsonl")]


@pytest.mark.parametrize("names", [["a.jsonl", "b.jsonl", "c.jsonl"], ["z.log", "y.jsonl.1", "x"]])
def test_several_files_are_one_stream_in_the_order_named(
    here: Path, live: dict[str, bytes], names: Sequence[str]
) -> None:
    """Whatever they are called: positions go on from file to file."""
    for name, first in zip(names, (0, 150, 300), strict=True):
        (here / "in" / name).write_bytes(history(first, min(first + 150, EVENTS)))
    replay(here, *(f"in/{name}" for name in names), "--out", "out")
    assert projections(here / "out") == live


def test_a_directory_is_one_stream(here: Path, live: dict[str, bytes]) -> None:
    """As `run` reads it: its segments in the order of their names."""
    (here / "parts").mkdir()
    (here / "parts" / "2025.jsonl").write_bytes(history(0, 150))
    (here / "parts" / "2026.jsonl").write_bytes(history(150, EVENTS))
    replay(here, "parts", "--out", "out")
    assert projections(here / "out") == live


def test_the_rotated_files_of_a_stream_come_with_it(here: Path, live: dict[str, bytes]) -> None:
    """A single file is a stream as `run` sees it."""
    (here / "in" / "events.jsonl.1").write_bytes(history(0, 150))
    (here / "in" / "events.jsonl").write_bytes(history(150, EVENTS))
    replay(here, "in/events.jsonl", "--out", "out")
    assert projections(here / "out") == live


# -- to be gone on with --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "several"), [(signal.SIGINT, True), (signal.SIGKILL, False)])
def test_a_replay_that_was_stopped_goes_on(here: Path, number: signal.Signals, several: bool) -> None:
    """Ctrl-C ends it with exit 0 and says what is left; after it, or a kill, the same command gives the same bytes."""
    events = 40_000
    config = here / "config" / "tidewaiter.toml"
    config.write_text(config.read_text().replace("4KiB", "32KiB"))
    (here / "in" / "events.jsonl").write_bytes(history(0, events))
    replay(here, "in/events.jsonl", "--out", "whole")
    files = ["in/events.jsonl"]
    if several:
        files = ["in/a.jsonl", "in/b.jsonl"]
        (here / "in" / "a.jsonl").write_bytes(history(0, 30_000))
        (here / "in" / "b.jsonl").write_bytes(history(30_000, events))
    out, errors = here / "out", here / "errors"
    with errors.open("wb") as said, started_cli("replay", *files, "--out", out, cwd=here, stderr=said) as process:
        wait_until((out / "checkpoint.json").exists, what="the first commit")
        wait_until(lambda: (out / "flags.jsonl").exists() and (out / "flags.jsonl").stat().st_size, what="a flag")
        process.send_signal(number)
        code = process.wait(PATIENCE)
    assert code == (0 if number == signal.SIGINT else -signal.SIGKILL)
    assert (out / "flags.jsonl").stat().st_size < (here / "whole" / "flags.jsonl").stat().st_size
    if number == signal.SIGINT:
        last = errors.read_text().splitlines()[-1]
        assert last.startswith("stopped before the end, ")
        assert last.endswith(" bytes are left; the same command goes on")
    assert "stopped before the end" not in replay(here, *files, "--out", out)
    assert projections(out) == projections(here / "whole")


def test_a_replay_goes_on_with_nothing_else(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another stream, another order of files, other rules, contract or policy are refused, each by its name."""
    (here / "in" / "other.jsonl").write_bytes(history(0, 10))
    replay(here, "in/events.jsonl", "--out", "out")
    same = ("in/events.jsonl", "--out", "out")
    assert "was begun for the stream" in refused(capsys, here, "in/events.jsonl", "in/other.jsonl", "--out", "out")
    other = refused(capsys, here, "in/other.jsonl", "--stream-name", "events", "--out", "out")
    assert f"was begun for the stream {here}/in/events.jsonl, not {here}/in/other.jsonl" in other
    assert "belongs to stream events" in refused(capsys, here, "in/other.jsonl", "--out", "out")
    assert "was begun under another policy: name a new --out" in refused(capsys, here, *same, "--policy-order", "admit")
    rules = here / "config" / "rules.toml"
    rules.write_text(rules.read_text().replace("500.00", "501.00"))
    assert "was begun under other rules: name a new --out" in refused(capsys, here, *same)


def test_a_replay_that_died_before_its_first_entry_goes_on(here: Path, live: dict[str, bytes]) -> None:
    """What stands there then is its mark alone, which is no folder of somebody else's."""
    replay(here, "in/events.jsonl", "--out", "out")
    for path in (here / "out").iterdir():
        if path.name != "replay.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    replay(here, "in/events.jsonl", "--out", "out")
    assert projections(here / "out") == live


# -- never where something lives -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("live", "live: is a live state directory"),
        ("live/audit/sub", "lies in the state directory"),
        ("var", "holds the live state directory"),
        ("var/events", "is the live state directory"),
        ("var/events/deep/er", "lies in the live state directory"),
        ("var/other", "is the live state directory"),
        ("config", "is not empty and no state directory"),
        ("in", "holds the stream"),
        ("link", "is the live state directory"),
    ],
)
def test_no_live_state_is_written(
    here: Path, live: dict[str, bytes], capsys: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    """Neither one that is there nor the place where `run` would make it, nor below, nor above, nor by another name."""
    (here / "link").symlink_to("var/events")
    shutil.copy(here / "in" / "events.jsonl", here / "in" / "other.jsonl")
    stream = "in/other.jsonl" if out == "var/other" else "in/events.jsonl"
    text = refused(capsys, here, stream, "--out", out)
    assert said in text
    assert projections(here / "live") == live


def test_no_daemon_goes_on_with_a_replay(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a replay wrote is nobody's live state."""
    replay(here, "in/events.jsonl", "--out", "out")
    for command in ("run", "check"):
        assert app.main([command, "in/events.jsonl", "--state-dir", "out"]) == 2
        assert "holds what a replay wrote, no live state" in capsys.readouterr().err
    assert app.main(["status", "--state-dir", "out"]) == 0
    assert "reconciled" in capsys.readouterr().out


def test_a_mark_that_no_replay_wrote_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged one, and one of a later format."""
    (here / "out").mkdir()
    for text in ("{", '{"format":"tidewaiter-replay/9","streams":[],"decisions":{}}'):
        (here / "out" / "replay.json").write_text(text)
        before = (here / "out" / "replay.json").read_bytes()
        assert app.main(["replay", "in/events.jsonl", "--out", "out"]) == 2
        assert "replay.json: " in capsys.readouterr().err
        assert (here / "out" / "replay.json").read_bytes() == before


def test_a_replay_writes_through_no_link_of_somebody_else(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands where its links to several files go is refused, unless it is exactly these links."""
    (here / "in" / "events.jsonl.1").write_bytes(history(0, 10))
    (here / "in" / "events.jsonl").write_bytes(history(10, 20))
    same = ("in/events.jsonl.1", "in/events.jsonl", "--out", "out")
    replay(here, *same)
    segments = here / "out" / "segments"
    first, *_ = sorted(segments.iterdir())
    first.unlink()
    first.symlink_to(here / "in" / "events.jsonl")
    assert f"{first}: is no link that this replay made: name a new --out" in refused(capsys, here, *same)
    first.unlink()
    shutil.copy(here / "in" / "events.jsonl.1", first)
    assert f"{first}: is no link that this replay made" in refused(capsys, here, *same)
    first.unlink()
    (segments / "000009-more.jsonl").symlink_to(here / "in" / "events.jsonl")
    assert "000009-more.jsonl: is no link that this replay made" in refused(capsys, here, *same)
    shutil.rmtree(segments)
    (here / "victim").mkdir()
    segments.symlink_to(here / "victim")
    assert f"{segments}: is no directory that a replay made" in refused(capsys, here, *same)
    segments.unlink()
    replay(here, *same)


# -- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        (["in/gone.jsonl"], "gone.jsonl does not exist: correct the path\n"),
        (["in/events.jsonl", "in/gone.jsonl"], "cannot be read: No such file"),
        (["in/events.jsonl", "in"], "is a directory: name one directory, or several files"),
        (["in/events.jsonl", "in/./events.jsonl"], "is named twice"),
        (["in/events.jsonl", "in/events.jsonl.1"], "are not in their order: name"),
    ],
)
def test_files_that_make_no_history_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], streams: list[str], said: str
) -> None:
    """One line that says what to do."""
    (here / "in" / "events.jsonl.1").write_bytes(history(0, 10))
    assert said in refused(capsys, here, *streams, "--out", "out")


@pytest.mark.parametrize("several", [False, True])
def test_a_halted_replay_says_how_to_go_on(here: Path, several: bool) -> None:
    """Exit 3; the command in the message leaves the line out, then the same replay ends."""
    (here / "in" / "a.jsonl").write_bytes(history(0, 12))
    (here / "in" / "b.jsonl").write_bytes(history(12, 15))
    files = ["in/a.jsonl", "in/b.jsonl"] if several else ["in/a.jsonl"]
    command = ["replay", *files, "--out", "out", "--policy-invalid", "halt"]
    done = run_cli(*command, cwd=here)
    assert done.returncode == 3
    said = done.stderr.decode().splitlines()[-1]
    assert "replay into a new --out with another policy, or leave it out and go on: tidewaiter skip " in said
    skip = said.partition(": tidewaiter ")[2].removesuffix(" --reason … --actor …").split()
    assert run_cli(*skip, "--reason", "x", "--actor", "y", cwd=here).returncode == 0
    done = run_cli(*command, cwd=here)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads((here / "out" / "checkpoint.json").read_bytes())["commit"]["totals"]["operator"] == 1


# -- the run it asks for -------------------------------------------------------------------------------------------


def test_a_replay_is_a_run_to_the_end_whose_rules_stay(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option reaches the supervisor; SIGHUP would change nothing; no producer is started."""
    seen: list[tuple[Settings, RunOptions]] = []

    def run(settings: Settings, options: RunOptions) -> int:
        seen.append((settings, options))
        return 5

    module = types.ModuleType("supervisor")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tidewaiter.shell.supervisor", module)
    monkeypatch.setattr("tidewaiter.shell.commands.replay.bytes_left", lambda _: None)
    file = here / "config" / "tidewaiter.toml"
    file.write_text(file.read_text() + '[producer]\nkind = "generator"\n')
    policies = ["--policy-invalid", "halt", "--policy-duplicate", "quarantine", "--policy-order", "admit"]
    options = ["--config", "config/tidewaiter.toml", "--stream-name", "mine", "--log-level", "error"]
    assert app.main(["replay", "in/events.jsonl", "-o", "out", *policies, *options]) == 5
    ((settings, asked),) = seen
    assert (settings.stream.name, settings.state.dir, settings.log.level) == ("mine", here / "out", "error")
    assert (settings.policy.invalid, settings.policy.duplicate, settings.policy.order) == (
        "halt", "quarantine", "admit",
    )  # fmt: skip
    assert settings.producer is None
    assert asked.once
    assert isinstance(asked.progress, NoProgress)
    with pytest.raises(ConfigError, match="keeps its rules to its end"):
        settings.reload()
