"""The command line: what each command says and does, and that every mistake is one line and its exit code.

What the daemon itself does is tested elsewhere; here `run` and `skip` hand over to stand-ins.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import select
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

from support import COMMAND, PATIENCE, cli_environment, run_cli
from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal, SourceHalt
from tidewaiter.edges.durable import Disk
from tidewaiter.shell.commands import app, progress
from tidewaiter.shell.commands import run as run_command
from tidewaiter.shell.settings import NoProgress, RunOptions, Settings
from tidewaiter.shell.state_owner import claim, read_owner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = ("run", "status", "check", "skip", "generate", "explain", "replay", "rules")


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


def claimed(here: Path, name: str, path: str) -> Path:
    """Return a state directory under `here` that belongs to the stream `name` at `path`."""
    state = here / "state"
    (state / "audit").mkdir(parents=True, exist_ok=True)
    claim(Disk(), state, name, here / path)
    return state


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
    """A person's shell, which it finds among its parents, gets what it has to source."""
    command = ["bash", "-c", '"$@"; exit $?', "bash", *COMMAND, "--show-completion"]
    done = subprocess.run(command, env=cli_environment(), capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"_TIDEWAITER_COMPLETE" in done.stdout


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
            lambda here: (here / "config" / "tidewaiter.toml").unlink(),
            "does not exist: name the configuration with --config FILE, or pass STREAM, --contract and --rules",
            id="missing",
        ),
        pytest.param(
            lambda here: [
                (here / "config" / "tidewaiter.toml").unlink(),
                (here / "config" / "tidewaiter.toml").mkdir(),
            ],
            "cannot be read: Is a directory",
            id="unreadable",
        ),
        pytest.param(spoil("[contract]", "[contract"), "config/tidewaiter.toml:3:10: is not TOML", id="bad-toml"),
        pytest.param(spoil("path =", "pth ="), "config/tidewaiter.toml:2:1: stream.pth: unknown key", id="unknown-key"),
        pytest.param(spoil('"../in/events.jsonl"', "5"), ":2:8: stream.path: must be a string", id="wrong-type"),
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
        (["--state-dir", "config"], "config: is not empty and no state directory: it holds tidewaiter.toml: name an"),
        (["in/evnts.jsonl"], "in/evnts.jsonl does not exist: correct the path; without --once the daemon waits for it"),
        (["in/segments/"], "in/segments does not exist: correct the path"),
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
    before = sorted(here.rglob("*"))
    assert app.main(["run", "--once", *arguments]) == 2
    assert said in one_line(capsys)
    assert sorted(here.rglob("*")) == before


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


def test_a_stream_may_come_late_or_be_between_two_files(here: Path, runs: list[tuple[Settings, RunOptions]]) -> None:
    """The daemon waits for a file; `--once` is content with the older files of a rotation."""
    assert app.main(["run", "in/later.jsonl"]) == 0
    (here / "in" / "later.jsonl.1").write_text("")
    assert app.main(["run", "in/later.jsonl", "--once"]) == 0
    assert len(runs) == 2


@pytest.mark.parametrize("command", [["run"], ["run", "--once"], ["check"]])
def test_a_state_directory_takes_one_stream(
    here: Path, runs: list[tuple[Settings, RunOptions]], capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Another stream is refused before anything is written; the same one may have moved."""
    state = claimed(here, "events", "in/events.jsonl")
    (here / "in" / "other.jsonl").write_text("")
    before = sorted(here.rglob("*"))
    assert app.main([*command, "in/other.jsonl", "--state-dir", str(state)]) == 2
    said = one_line(capsys)
    assert f"{state}: belongs to stream events ({here}/in/events.jsonl), not other: use another --state-dir" in said
    assert sorted(here.rglob("*")) == before
    assert runs == []
    (here / "moved").mkdir()
    (here / "in" / "events.jsonl").replace(here / "moved" / "events.jsonl")
    assert app.main([*command, "moved/events.jsonl", "--state-dir", str(state)]) == 0


def test_a_claim_is_kept_and_follows_a_move(here: Path) -> None:
    """The first stream owns the directory; a move changes its path only, another stream nothing."""
    state = claimed(here, "events", "in/events.jsonl")
    with pytest.raises(ConfigError, match="belongs to stream events"):
        claim(Disk(), state, "other", here / "in" / "other.jsonl")
    claimed(here, "events", "moved/events.jsonl")
    owner = read_owner(state)
    assert owner is not None
    assert (owner.name, owner.path) == ("events", str(here / "moved" / "events.jsonl"))
    (state / "stream.json").write_text("{")
    assert read_owner(state) is None


@pytest.mark.parametrize("name", ["log", "lost+found", "checkpoint.json"])
def test_a_folder_that_may_be_a_state_directory_is_left_to_the_start(
    here: Path, runs: list[tuple[Settings, RunOptions]], name: str
) -> None:
    """What stands there before a first start is no obstacle; whether an audit log was lost, recovery judges."""
    (here / "state" / name).mkdir(parents=True)
    assert app.main(["run", "--state-dir", "state"]) == 0
    assert len(runs) == 1


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
    assert len(drawn) == 4
    assert drawn[3] == drawn[2].removesuffix("\r") + "\n", "whatever was echoed over the line is gone, and it ends"
    assert drawn[1].startswith("events  at 200,000  3.0 MiB behind  1,000 events")
    assert drawn[1].endswith("\r"), "the cursor waits at the beginning, where a log line may come"
    assert len(drawn[1]) == 60
    assert "up to date" in drawn[2]
    assert drawn[2].endswith("\r")


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
    assert text.endswith("2 rejected\n")
    assert text.count("\n") == 1, "the bar is drawn in one row"


@pytest.mark.parametrize("kind", [progress.Bar, lambda out, clock: progress.LiveLine("events", out, clock)])
def test_log_lines_stand_above_what_is_drawn(
    kind: Callable[..., progress.Bar | progress.LiveLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log line takes the row of the drawing, which follows below it; where nothing is drawn it stays as it is."""
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    shown = kind(out, lambda: 0.0)
    assert shown.above(b"line\n") == b"line\n"
    shown.update(**figures(500, 1000))
    row = out.getvalue().removeprefix("\r\x1b[K").removesuffix("\r")
    assert shown.above(b"line\n") == b"\r\x1b[Kline\n" + row.encode() + b"\r"
    shown.close()
    assert shown.above(b"line\n") == b"line\n"


@pytest.mark.parametrize("kind", [progress.Bar, lambda out, clock: progress.LiveLine("events", out, clock)])
def test_a_run_ends_with_a_summary(
    kind: Callable[..., progress.Bar | progress.LiveLine], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line says what came of the run and where the flags are; once."""
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    now = [0.0]
    shown = kind(out, lambda: now[0])
    shown.update(**figures(500_000, 1_000_000))
    now[0] = 2.5
    flags = str(here / "var" / "events" / "flags.jsonl")
    shown.ended(position=1_000_000, events=5_000, flags=1, rejected=2, flags_file=flags)
    shown.close()
    shown.close()
    text = out.getvalue()
    assert text.endswith("5,000 events, 1 flag, 2 rejected in 2.5 s; flags in var/events/flags.jsonl\n")
    assert text.count("flags in") == 1
    assert isinstance(shown, progress.LiveLine) or "100%" in text


def test_a_run_at_a_terminal_is_a_bar_below_its_log_and_a_summary(here: Path) -> None:
    """No summary lines in the log, one bar at the end, and the last line names the figures and the file of flags."""
    assert run_cli("generate", "--out", str(here / "e.jsonl"), "--events", "2000").returncode == 0
    outer, inner = os.openpty()
    environment = cli_environment() | {"TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "tidewaiter", "run", "e.jsonl", "--once"]
    with subprocess.Popen(command, env=environment, cwd=here, stdin=inner, stdout=inner, stderr=inner) as process:
        os.close(inner)
        data = b""
        while select.select([outer], [], [], 30.0)[0]:
            try:
                data += os.read(outer, 100_000)
            except OSError:  # the other side is closed
                break
        assert process.wait(PATIENCE) == 0
    os.close(outer)
    # what stays to be seen of each row is what was written after it was last cleared
    rows = [row.split("\x1b[K")[-1].strip() for row in data.decode().split("\n")]
    assert not any("progress" in row for row in rows)
    assert sum("%" in row for row in rows) == 1
    assert "daemon.stopped" in rows[-4]
    assert rows[-3].startswith("100%")
    assert re.fullmatch(r"2,000 events, \d+ flags, 0 rejected in \d+\.\d s; flags in var/e/flags\.jsonl", rows[-2])


def test_a_terminal_that_is_gone_stops_nothing() -> None:
    """Drawing fails once and is left alone from then on: the daemon goes on without anybody looking."""

    class Gone(Terminal):
        asked = 0

        def write(self, text: str, /) -> int:
            self.asked += 1
            raise OSError(5, "Input/output error")

    out = Gone()
    now = [0.0]
    line = progress.LiveLine("events", out, lambda: now[0])
    for second in range(3):
        now[0] = second
        line.update(**figures(1000))
    line.close()
    assert out.asked == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (185, "3:05"), (3785, "1:03:05")]
)
def test_the_time_left_is_said_in_whole_seconds(seconds: float, text: str) -> None:
    """Short for a bar."""
    assert progress.duration_text(seconds) == text


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


def test_check_shows_lists_statuses_and_forks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a ruleset brings along, what of it runs, and why a metric is kept twice."""
    rules = here / "rules" / "mine.toml"
    (here / "lists").mkdir()
    (here / "lists" / "vips.txt").write_text("# very important\nu1\nu2\n")
    rules.parent.mkdir()
    head = 'typology = "t"\nversion = 1\nseverity = "low"\nmeasure = "amount"\nthreshold = "0.01"\n'
    rules.write_text(
        'ruleset = "mine"\nversion = 4\ncontract = "money_flow/1"\n'
        '[list.vip]\nfile = "../lists/vips.txt"\nmatch = "prefix"\n'
        '[metric]\nlarge = { fn = "count", by = "user_id", window = "1h", where = "amount >= p.limit" }\n'
        f'[scenario.tried]\n{head}status = "shadow"\nwhen = "amount > 5"\n'
        f'[scenario.planned]\n{head}status = "draft"\nwhen = "amount > 6"\n'
        f'[scenario.gone]\n{head}status = "retired"\nwhen = "amount > 7"\n'
        f'[scenario.often]\n{head}when = "large > 2"\nparams = {{ limit = "10.00" }}\n'
        '[scenario.often.segment.vip]\nwhere = "user_id in list.vip"\nlimit = "100.00"\n'
    )
    assert app.main(["check", "--rules", str(rules)]) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"^ruleset +mine version 4, 4 scenarios: 1 live, 1 shadow, 1 draft, 1 retired\n +rules/mine\.toml\n",
        text,
        re.MULTILINE,
    )
    digest = hashlib.sha256((here / "lists" / "vips.txt").read_bytes()).hexdigest()
    assert re.search(rf"^list +vip, 2 prefixes\n +lists/vips\.txt\n +{digest}\n", text, re.MULTILINE)
    assert re.search(r"^forks +large, once for each parameter value: ", text, re.MULTILINE)
    assert "for often segment vip" in text
    assert re.search(
        r" often .* live .* tried .* shadow .* planned .* draft: not run .* gone .* retired: not run", text, re.DOTALL
    )
    (here / "lists" / "vips.txt").unlink()
    assert app.main(["check", "--rules", str(rules)]) == 2
    assert "mine.toml:5:8: list.vip.file: " in capsys.readouterr().err


def test_check_takes_the_policies_of_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with overrides can be checked before it starts."""
    policies = ["--policy-invalid", "quarantine", "--policy-duplicate", "quarantine", "--policy-order", "admit"]
    assert app.main(["check", "--stream-name", "mine", *policies]) == 0
    text = capsys.readouterr().out
    assert "invalid quarantine, duplicate quarantine (horizon 1d), order admit" in text
    assert re.search(r"^stream +mine: ", text, re.MULTILINE)


def test_nothing_is_wrapped_in_a_pipe(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no person looks, a value stands on one line however long it is, without blanks behind it."""
    monkeypatch.setenv("COLUMNS", "40")
    (here / ("x" * 90)).mkdir()
    assert app.main(["check", str(here / ("x" * 90) / "y.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r"stream +y: x{90}/y\.jsonl", line) for line in lines)
    assert any("jump 30d" in line and "invalid halt" in line for line in lines)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone/x.jsonl"], "gone/x.jsonl: its directory does not exist: create"),
        (["--state-dir", "in/events.jsonl/x"], "in/events.jsonl: is not a directory"),
        (["--state-dir", "in/events.jsonl"], "in/events.jsonl: is not a directory"),
        (["--state-dir", "config"], "config: is not empty and no state directory"),
    ],
)
def test_check_fails_where_a_start_would(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """What it accepts can be started; asked for the function or the schema only, it does not look at the places."""
    (here / "in" / "x.jsonl").write_text("")
    stream = [] if arguments[0] != "--state-dir" else ["in/x.jsonl"]
    assert app.main(["check", *stream, *arguments]) == 2
    assert said in one_line(capsys)
    assert app.main(["check", *stream, *arguments, "--json-schema"]) == 0


def test_check_warns_of_a_stream_that_is_not_there_yet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A start would wait for it."""
    assert app.main(["check", "in/later.jsonl"]) == 0
    assert "later.jsonl does not exist yet: the daemon will wait for it" in capsys.readouterr().out


def test_a_missing_choice_names_what_is_allowed(
    here: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forgot it need not look it up."""
    shipped = repository / "config" / "rules" / "money_flow.toml"
    (here / "rules.toml").write_text(re.sub(r"(?m)^severity = .*\n", "", shipped.read_text(), count=1))
    assert app.main(["check", "--rules", "rules.toml"]) == 2
    assert "severity: is missing: allowed: low, medium, high" in one_line(capsys)


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
def test_check_names_the_place_in_a_broken_file(here: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    """Contract and rules are read as a start would read them: file, line and column."""
    (here / "broken.toml").write_text("nonsense = 1\n")
    assert app.main(["check", option, "broken.toml"]) == 2
    assert re.search(r"broken\.toml:1:1: nonsense: unknown key", one_line(capsys))


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
        ["--events", "5", "--seed", "-3"],
        ["--events", "5", "--seed", str(2**63)],
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
