"""The command line: what each command says and does, and that every mistake is one line and its exit code.

What the daemon itself does is tested elsewhere; here `run` and `skip` hand over to stand-ins.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

from support import cli_environment, run_cli
from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal, SourceHalt
from tidewaiter.shell.commands import app, progress
from tidewaiter.shell.commands import run as run_command
from tidewaiter.shell.settings import NoProgress, RunOptions, Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = ("run", "status", "check", "skip", "generate")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Path:
    """A current directory with a working configuration of its own, and its stream."""
    monkeypatch.delenv("TIDEWAITER_CONFIG", raising=False)
    monkeypatch.delenv("TIDEWAITER_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "events.jsonl").write_text("")
    (tmp_path / "config").mkdir()
    shipped = repository / "config"
    (tmp_path / "config" / "tidewaiter.toml").write_text(
        '[stream]\npath = "../in/events.jsonl"\n'
        f'[contract]\nfile = "{shipped / "contracts" / "money_flow.toml"}"\n'
        f'[rules]\nfile = "{shipped / "rules" / "money_flow.toml"}"\n'
    )
    return tmp_path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, RunOptions]]:
    """What the supervisor's stand-in was asked to run; it ends with exit code 0."""
    seen: list[tuple[Settings, RunOptions]] = []

    def run(settings: Settings, options: RunOptions) -> int:
        seen.append((settings, options))
        return 0

    stand_in(monkeypatch, "tidewaiter.shell.supervisor", run=run)
    return seen


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was said on standard error, which must be one line of the program's and nothing else."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("tidewaiter: ")
    assert "Traceback" not in said.err
    return said.err


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    """Put a module of that name in the place of the real one."""
    module = types.ModuleType(name)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)


# -- the frame -----------------------------------------------------------------------------------------------------


def test_the_package_runs_as_a_module_and_tells_its_version() -> None:
    """`python -m tidewaiter --version` answers with exit 0."""
    done = run_cli("--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"tidewaiter ")


def test_the_version_needs_neither_the_engine_nor_the_terminal_library() -> None:
    """Answering quickly means importing little."""
    code = (
        "import sys; from tidewaiter.shell.commands.app import main; main(['--version']);"
        "print(sorted({'rich.console','asyncio','watchfiles','structlog','msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli_environment(), capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_s_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help ends with a command line that can be copied."""
    assert app.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"tidewaiter {command}" in text.split("Example")[-1]


def test_help_lists_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """The first page says what there is."""
    assert app.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    assert "3 halted by a data policy" in " ".join(text.split())


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["run", "--polcy"], ["run", "--policy-order", "maybe"], ["skip"], ["skip", "--position", "x"], []],
)
def test_a_wrong_command_line_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors have the documented exit code and no traceback."""
    assert app.main(arguments) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


def test_shell_completion_can_be_shown() -> None:
    """Typer's completion works for the installed name."""
    done = run_cli("--show-completion", "bash")
    assert b"_TIDEWAITER_COMPLETE" in done.stdout or done.returncode == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a", hint="b"), 2),
        (SourceHalt("a", hint="b"), 3),
        (IntegrityRefusal("a", hint="b"), 4),
        (DurabilityError("a\nc", hint="b"), 5),
        (BaseExceptionGroup("tasks", [ValueError("x"), ExceptionGroup("more", [SourceHalt("a", hint="b")])]), 3),
    ],
)
def test_a_known_error_is_one_line_with_its_exit_code(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    """Message and hint, nothing else; also where tasks failed together."""

    def run(settings: Settings, options: RunOptions) -> int:
        raise error

    stand_in(monkeypatch, "tidewaiter.shell.supervisor", run=run)
    assert app.main(["run"]) == code
    assert one_line(capsys) in ("tidewaiter: a: b\n", "tidewaiter: a c: b\n")


def test_an_unexpected_error_is_one_line_and_a_traceback_only_on_request(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, the kind of error, and how to see more."""

    def run(settings: Settings, options: RunOptions) -> int:
        raise ValueError("surprise")

    stand_in(monkeypatch, "tidewaiter.shell.supervisor", run=run)
    assert app.main(["run"]) == 1
    assert "unexpected error: ValueError: surprise: please report it; TIDEWAITER_DEBUG=1" in one_line(capsys)
    monkeypatch.setenv("TIDEWAITER_DEBUG", "1")
    assert app.main(["run"]) == 1
    assert "Traceback" in capsys.readouterr().err


# -- what goes wrong before a start --------------------------------------------------------------------------------


def spoil(old: str, new: str) -> Callable[[Path], None]:
    """Return an action that replaces `old` in the configuration."""

    def act(here: Path) -> None:
        file = here / "config" / "tidewaiter.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return act


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("act", "said"),
    [
        pytest.param(
            lambda here: (here / "config" / "tidewaiter.toml").unlink(), "does not exist: name the conf", id="missing"
        ),
        pytest.param(
            lambda here: [
                (here / "config" / "tidewaiter.toml").unlink(),
                (here / "config" / "tidewaiter.toml").mkdir(),
            ],
            "cannot be read: Is a directory",
            id="unreadable",
        ),
        pytest.param(spoil("[contract]", "[contract"), "line 3", id="bad-toml"),
        pytest.param(spoil("path =", "pth ="), "config/tidewaiter.toml:2: stream.pth: unknown key", id="unknown-key"),
        pytest.param(spoil('"../in/events.jsonl"', "5"), ":2: stream.path: must be a string", id="wrong-type"),
        pytest.param(spoil("[contract]", 'poll_interval = "x"\n[contract]'), "is not a duration", id="bad-duration"),
        pytest.param(spoil("[rules]", '[policy]\norder = "stop"\n[rules]'), 'unknown value "stop"', id="bad-policy"),
        pytest.param(spoil("contracts/", "contract/"), "money_flow.toml does not exist: name the con", id="contract"),
        pytest.param(spoil("rules/", "rule/"), "money_flow.toml does not exist: name the rules", id="rules"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_2(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, act: Callable[[Path], object], said: str
) -> None:
    """`run` and `check` refuse the same things in the same words, and nothing was written."""
    act(here)
    before = sorted(here.rglob("*"))
    assert app.main([command]) == 2
    assert said in one_line(capsys)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone/x.jsonl"], "its directory does not exist: create"),
        (["in/loop.jsonl"], "cannot be read: Too many levels of symbolic links: check the path"),
        (["--state-dir", "in/events.jsonl/x"], "in/events.jsonl: is not a directory: name a directory"),
        (["--accept-state-loss"], "is a recorded decision: add --reason TEXT and --actor NAME"),
        (["--reason", "x"], "use them with --accept-state-loss only"),
        (["--stream-name", "a/b"], '--stream-name: "a/b" is not a stream name'),
    ],
)
def test_run_refuses_what_cannot_work(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Each is one line that says what to do, and exit 2."""
    (here / "in" / "loop.jsonl").symlink_to("loop.jsonl")
    assert app.main(["run", "--once", *arguments]) == 2
    assert said in one_line(capsys)


# -- run -----------------------------------------------------------------------------------------------------------


def test_run_hands_over_what_the_command_line_says(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option reaches the supervisor, and its exit code comes back."""
    seen: list[tuple[Settings, RunOptions]] = []

    def run(settings: Settings, options: RunOptions) -> int:
        seen.append((settings, options))
        return 3

    stand_in(monkeypatch, "tidewaiter.shell.supervisor", run=run)
    identity = ["in/events.jsonl", "--once", "--state-dir", "state", "--stream-name", "mine", "--log-level", "error"]
    policies = ["--policy-invalid", "quarantine", "--policy-duplicate", "quarantine", "--policy-order", "admit"]
    decision = ["--accept-state-loss", "--reason", "lost disk", "--actor", "J. Doe"]
    code = app.main(["run", *identity, *policies, *decision])
    assert code == 3
    ((settings, options),) = seen
    assert settings.stream.path == here / "in" / "events.jsonl"
    assert (settings.stream.name, settings.state.dir, settings.log.level) == ("mine", here / "state", "error")
    policy = settings.policy
    assert (policy.invalid, policy.duplicate, policy.order) == ("quarantine", "quarantine", "admit")
    assert (options.once, options.accept_state_loss, options.reason, options.actor) == (
        True,
        True,
        "lost disk",
        "J. Doe",
    )
    assert isinstance(options.progress, NoProgress)


def test_once_starts_no_producer(here: Path, runs: list[tuple[Settings, RunOptions]]) -> None:
    """Reading to the end has an end only if nobody appends."""
    file = here / "config" / "tidewaiter.toml"
    file.write_text(file.read_text() + '[producer]\nkind = "generator"\n')
    assert app.main(["run"]) == 0
    assert app.main(["run", "--once"]) == 0
    assert [settings.producer is None for settings, _ in runs] == [False, True]


def test_run_makes_the_directory_of_a_produced_stream(here: Path, runs: list[tuple[Settings, RunOptions]]) -> None:
    """A fresh clone has none, and the watcher wants one."""
    file = here / "config" / "tidewaiter.toml"
    file.write_text(file.read_text().replace("../in/", "../made/here/") + '[producer]\nkind = "generator"\n')
    assert app.main(["run"]) == 0
    assert (here / "made" / "here").is_dir()
    assert len(runs) == 1


def test_the_configuration_may_come_from_the_environment(
    here: Path, runs: list[tuple[Settings, RunOptions]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TIDEWAITER_CONFIG stands for --config, which wins, and the last --config wins over the ones before."""
    other = here / "config" / "other.toml"
    other.write_text((here / "config" / "tidewaiter.toml").read_text())
    monkeypatch.setenv("TIDEWAITER_CONFIG", str(other))
    assert app.main(["run"]) == 0
    assert app.main(["run", "--config", "x.toml", "--config", "config/tidewaiter.toml"]) == 0
    assert [settings.file for settings, _ in runs] == [other, here / "config" / "tidewaiter.toml"]


class Terminal(io.StringIO):
    """Something that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_fits_who_is_looking(
    here: Path, runs: list[tuple[Settings, RunOptions]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar for --once and a line otherwise on a terminal; nothing in a pipe, on a dumb terminal, or beside JSON."""
    assert app.main(["run"]) == 0
    settings = runs[0][0]
    assert isinstance(run_command.choose_progress(settings, once=True), NoProgress)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(run_command.choose_progress(settings, once=True), progress.Bar)
    assert isinstance(run_command.choose_progress(settings, once=False), progress.LiveLine)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(run_command.choose_progress(settings, once=False), NoProgress)


def figures(position: int, total: int | None = None, lag: int = 0) -> dict[str, Any]:
    """Return arguments for `update`."""
    return {
        "position": position, "total_bytes": total, "events": position // 200, "events_per_s": 1234.5,
        "flags": 7, "rejected": 2, "lag_bytes": lag,
    }  # fmt: skip


def test_the_live_line_is_rewritten_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, never wider than the terminal, redrawn at most ten times a second, left standing at the end."""
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    now = [0.0]
    line = progress.LiveLine("events", out, lambda: now[0])
    line.update(**figures(200_000, lag=3 << 20))
    line.update(**figures(200_001))
    now[0] = 0.2
    line.update(**figures(400_000))
    line.close()
    line.close()
    drawn = out.getvalue().split("\r\x1b[K")
    assert len(drawn) == 3
    assert drawn[1].startswith("events  at 200,000  3.0 MiB behind  1,000 events")
    assert drawn[1].endswith("\r"), "the cursor waits at the beginning, where a log line may come"
    assert len(drawn[1]) == 60
    assert "up to date" in drawn[2]
    assert drawn[2].endswith("\r\n")


def test_the_bar_ends_at_the_end_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows share and figures, draws the last update whenever it comes, and leaves the cursor below."""
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    bar = progress.Bar(out, lambda: 0.0)
    bar.update(**figures(500, 1000))
    bar.update(**figures(600, 1000))
    bar.update(**figures(1000, 1000))
    bar.close()
    bar.close()
    text = out.getvalue()
    assert " 50%" in text
    assert " 60%" not in text
    assert "100%" in text
    assert "7 flags  2 rejected" in text
    assert text.endswith(("\n", "\x1b[?25h"))


# -- skip ----------------------------------------------------------------------------------------------------------


def test_skip_hands_over_and_prints_the_record(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Position, reason and actor reach the decision; its sentence is printed."""
    seen: list[tuple[Any, ...]] = []

    def skip(settings: Settings, *given: object) -> str:
        seen.append((settings.state.dir, *given))
        return "recorded"

    stand_in(monkeypatch, "tidewaiter.shell.skip", skip=skip)
    decided = ["--reason", " known test event ", "--actor", "J. Doe"]
    assert app.main(["skip", "--position", "48213", *decided]) == 0
    assert app.main(["skip", "--position", "10", "--through", "20", "--state-dir", "s", *decided]) == 0
    assert seen == [
        (here / "var" / "events", 48213, None, "known test event", "J. Doe"),
        (here / "s", 10, 20, "known test event", "J. Doe"),
    ]
    assert capsys.readouterr().out == "recorded\nrecorded\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--position", "5", "--reason", " ", "--actor", "me"], "--reason is empty"),
        (["--position", "5", "--reason", "x", "--actor", ""], "--actor is empty"),
        (["--position", "5", "--through", "5", "--reason", "x", "--actor", "me"], "--through 5 is not after"),
    ],
)
def test_a_decision_needs_words_and_a_range(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """An empty reason is no reason."""
    stand_in(monkeypatch, "tidewaiter.shell.skip", skip=lambda *given: "never")
    assert app.main(["skip", *arguments]) == 2
    assert said in one_line(capsys)


# -- check ---------------------------------------------------------------------------------------------------------


def test_check_says_what_it_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Contract, ruleset, scenarios and policies in a few lines, and a warning for what is seldom meant."""
    assert app.main(["check"]) == 0
    text = capsys.readouterr().out
    assert "money_flow version 1" in text
    assert "invalid halt, duplicate halt (horizon 1d), order halt" in text
    for scenario in ("threshold", "velocity", "repetition"):
        assert scenario in text.lower()
    assert "silence_alarm is off" in text
    assert text.rstrip().endswith("accepted")
    assert not (here / "var").exists()


def test_check_warns_of_a_missing_stream_directory(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no error of the configuration, but a start would fail."""
    assert app.main(["check", "gone/x.jsonl"]) == 0
    assert "does not exist: a start would fail" in capsys.readouterr().out


def test_check_prints_the_generated_function(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What reviewers read is Python, alone, so that it can be piped."""
    assert app.main(["check", "--print-python"]) == 0
    compile(capsys.readouterr().out, "printed", "exec")


def test_check_prints_the_contract_as_json_schema(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The schema is one JSON document with the contract's fields."""
    assert app.main(["check", "--json-schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["title"] == "money_flow/1"
    assert "amount" in schema["properties"]


@pytest.mark.parametrize("option", ["--contract", "--rules"])
def test_check_names_file_and_line_of_a_broken_file(
    here: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """Contract and rules are read as a start would read them."""
    (here / "broken.toml").write_text("nonsense = 1\n")
    assert app.main(["check", option, "broken.toml"]) == 2
    assert re.search(r"broken\.toml:1(:1)?: nonsense: unknown key", one_line(capsys))


def test_a_wrong_rule_is_pictured_on_a_terminal_only(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person sees where; a log keeps its one line."""
    (here / "broken.toml").write_text("nonsense = 1\n")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert app.main(["check", "--rules", "broken.toml"]) == 2
    assert terminal.getvalue().endswith("\n    nonsense = 1\n    ^\n")


# -- generate ------------------------------------------------------------------------------------------------------


def test_generate_writes_the_same_bytes_for_the_same_seed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is whole lines, a function of the options; the summary goes to standard error."""
    for name in ("a", "b"):
        assert app.main(["generate", "--out", name, "--events", "500", "--seed", "7", "--bad", "0.1"]) == 0
    data = (here / "a").read_bytes()
    assert data == (here / "b").read_bytes()
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 500
    said = capsys.readouterr()
    assert said.out == ""
    assert "500 events" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--events", "5", "--seconds", "5"],
        ["--events", "0"],
        ["--events", "5", "--bad", "2"],
        ["--events", "5", "--users", "0"],
        ["--events", "5", "--start", "yesterday"],
    ],
)
def test_generate_refuses_what_makes_no_sense(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Out of range or contradictory: one line, exit 2, no file."""
    assert app.main(["generate", "--out", "x", *arguments]) == 2
    assert "--" in one_line(capsys)
    assert not (here / "x").exists()
