"""Application logs: always JSON, always in order, and never in the daemon's way."""

from __future__ import annotations

import ast
import asyncio
import errno
import json
import logging
import os
import re
import select
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.contextvars import clear_contextvars

from support import PATIENCE, REPOSITORY, cli_environment
from tidewaiter.core.errors import ConfigError
from tidewaiter.edges import logs
from tidewaiter.edges.log_sinks import FileSink, StreamSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidewaiter.edges.logs import Logs

LINE = b'{"event":"progress"}\n'
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@pytest.fixture
def configured() -> Iterator[Callable[..., Logs]]:
    """`logs.configure`, undone at the end of the test together with what was bound."""
    made: list[Logs] = []

    def configure(log_file: Path | None, **options: Any) -> Logs:
        made.append(logs.configure(log_file, **({"stderr": "none"} | options)))
        return made[-1]

    yield configure
    for one in made:
        one.close()
    clear_contextvars()


def entries(text: Path | bytes) -> list[dict[str, Any]]:
    """Parse JSON lines."""
    data = text.read_bytes() if isinstance(text, Path) else text
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


# -- one line ----------------------------------------------------------------------------------------------------------


def test_line_is_json_with_keys_in_order(tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """Timestamp, level, event, run_id and stream come first, the others by name."""
    configured(tmp_path / "log" / "t.jsonl")
    log = logs.get_logger()
    log.info("daemon.started", zulu=1, alpha="x")
    logs.bind(run_id="r1", stream="events")
    log.warning("stream.silent", seconds=3.5)
    first, second = entries(tmp_path / "log" / "t.jsonl")
    assert list(first) == ["timestamp", "level", "event", "run_id", "stream", "alpha", "zulu"]
    assert (first["run_id"], first["stream"]) == (None, None)
    assert TIMESTAMP.fullmatch(first["timestamp"])
    assert {**second, "timestamp": ""} == {
        "timestamp": "",
        "level": "warning",
        "event": "stream.silent",
        "run_id": "r1",
        "stream": "events",
        "seconds": 3.5,
    }


async def test_tasks_and_threads_inherit_what_is_bound(tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """Run id and stream are in the lines of every task and thread started after they were bound."""
    configured(tmp_path / "t.jsonl")
    logs.bind(run_id="r1", stream="events")

    async def task() -> None:
        logs.get_logger().info("progress")

    await asyncio.create_task(task())
    await asyncio.to_thread(logs.get_logger().info, "progress")
    assert [entry["run_id"] for entry in entries(tmp_path / "t.jsonl")] == ["r1", "r1"]


@pytest.mark.parametrize(
    "hostile",
    [
        'line\nbreak\r"quote\\',
        "\x1b[2J\x00\x07",
        "\x7f\x9b31m\u2028\u202e\u2066\u200b",
        "ascii only \x7f",
        "\udc80 lone surrogate",
        b"\xff\x00",
        float("nan"),
        2**200,
        {1: {2: object()}},
        ValueError("oops"),
    ],
)
def test_hostile_values_stay_inside_their_string(hostile: object) -> None:
    """Whatever a value is, the line is one line of JSON without anything a terminal would obey."""
    line = logs.encode({"event": "progress", "value": hostile})
    assert line.count(b"\n") == 1
    text = line.decode()[:-1]
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069]", text)
    assert json.loads(text)["event"] == "progress"


@given(st.text())
def test_text_survives_the_escapes(value: str) -> None:
    """Reading a line back gives the very text that was logged."""
    assert json.loads(logs.encode({"value": value}))["value"] == value


def test_values_that_cannot_be_shown_are_named_by_type() -> None:
    """A value that cannot even be turned into text does not cost the line."""

    class Bad:
        def __str__(self) -> str:
            raise RuntimeError

    cycle: list[Any] = []
    cycle.append(cycle)
    entry = json.loads(logs.encode({"event": "progress", "bad": Bad(), "cycle": cycle}))
    assert entry["bad"] == "<Bad>"
    assert entry["cycle"] == "[[...]]"


def test_exception_becomes_a_field(tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """A traceback is one string in one line."""
    configured(tmp_path / "t.jsonl")
    try:
        raise KeyError("x\ny")
    except KeyError:
        logs.get_logger().exception("daemon.failed")
    (entry,) = entries(tmp_path / "t.jsonl")
    assert entry["level"] == "error"
    assert entry["exception"].startswith("Traceback")
    assert "exc_info" not in entry


def test_level_decides_and_can_change(tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """Loggers made earlier follow a new level after a reload of the configuration."""
    log = logs.get_logger()
    first = configured(tmp_path / "t.jsonl", level="warning")
    log.info("progress")
    log.error("daemon.failed")
    first.close()
    configured(tmp_path / "t.jsonl", level="debug")
    log.debug("batch.committed")
    assert [entry["level"] for entry in entries(tmp_path / "t.jsonl")] == ["error", "debug"]


def test_nothing_is_printed_before_configuration(capfd: pytest.CaptureFixture[str]) -> None:
    """A command that logs nothing keeps its stdout and stderr clean, whatever the edges have to say."""
    structlog.reset_defaults()
    logs.get_logger().error("daemon.failed")
    assert capfd.readouterr() == ("", "")


def test_libraries_join_in_from_warning_up(tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """Warnings of asyncio, watchfiles and Python itself are lines of the same form; their chatter is not."""
    mine = configured(tmp_path / "t.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("watchfiles.main").info("%d change detected", 1)
        logging.getLogger("asyncio").warning("took %.1f s", 0.3)
        warnings.warn("old\nthing", DeprecationWarning, stacklevel=1)
        try:
            raise OSError("gone")
        except OSError:
            logging.getLogger("asyncio").exception("never retrieved")
    misfit = logging.LogRecord("asyncio", logging.WARNING, "", 0, "bad %d", ("format",), None)
    next(handler for handler in logging.getLogger().handlers if type(handler).__module__ == logs.__name__).emit(misfit)
    asyncio_line, python_line, error_line, misfit_line = entries(tmp_path / "t.jsonl")
    assert misfit_line["message"] == "bad %d"
    assert (asyncio_line["event"], asyncio_line["logger"]) == ("library.message", "asyncio")
    assert (asyncio_line["level"], asyncio_line["message"]) == ("warning", "took 0.3 s")
    assert "old\nthing" in python_line["message"]
    assert (error_line["level"], "OSError: gone" in error_line["exception"]) == ("error", True)
    mine.close()
    logging.getLogger("asyncio").debug("after")
    assert not any(type(handler).__module__ == logs.__name__ for handler in logging.getLogger().handlers)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_file_and_directory_are_readable_by_the_group(tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """Whatever the umask of the service, the group may read the logs and nobody else may."""
    former = os.umask(0o077)
    try:
        configured(tmp_path / "log" / "t.jsonl")
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "log" / "t.jsonl").stat().st_mode) == 0o640


def test_rotated_file_is_replaced_within_a_second(tmp_path: Path) -> None:
    """After logrotate renamed the file, lines go on in the old one for at most a second, then in a new one."""
    now = 100.0
    path = tmp_path / "t.jsonl"
    sink = FileSink(path, clock=lambda: now)
    sink.write({}, LINE)
    path.rename(tmp_path / "t.jsonl.1")
    now += 0.5
    sink.write({}, LINE)
    assert not path.exists()
    now += 0.5
    sink.write({}, LINE)
    assert path.read_bytes() == LINE
    assert (tmp_path / "t.jsonl.1").read_bytes() == LINE * 2
    sink.close()


def test_reopen_follows_the_name_at_once(tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """SIGHUP after logrotate needs no waiting."""
    path = tmp_path / "t.jsonl"
    mine = configured(path)
    logs.get_logger().info("progress", n=1)
    path.rename(tmp_path / "t.jsonl.1")
    mine.reopen()
    logs.get_logger().info("progress", n=2)
    assert [entry["n"] for entry in entries(path)] == [2]


def test_old_file_is_kept_where_no_new_one_can_be_made(tmp_path: Path) -> None:
    """When the directory is gone for good, lines go on in the file that is open."""
    directory = tmp_path / "log"
    sink = FileSink(directory / "t.jsonl")
    directory.rename(tmp_path / "moved")
    directory.write_bytes(b"in the way")
    sink.reopen()
    sink.write({}, LINE)
    assert (tmp_path / "moved" / "t.jsonl").read_bytes() == LINE
    assert sink.dropped == 0
    sink.close()


def test_torn_last_line_is_ended_first(tmp_path: Path) -> None:
    """A line that a crash cut short spoils only itself."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(LINE + b'{"half')
    sink = FileSink(path)
    sink.write({}, LINE)
    sink.write({}, LINE)
    sink.close()
    assert path.read_bytes() == LINE + b'{"half\n' + LINE * 2


def test_full_disk_costs_lines_and_says_so_later(
    tmp_path: Path, configured: Callable[..., Logs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC and a short write lose lines, which are counted; the first line after them says how many."""
    path = tmp_path / "t.jsonl"
    mine = configured(path)
    log = logs.get_logger()
    real = os.write

    def full(fd: int, data: bytes) -> NoReturn:
        raise OSError(errno.ENOSPC, "full")

    log.info("progress", n=1)
    monkeypatch.setattr(os, "write", full)
    log.info("progress", n=2)
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
    log.info("progress", n=3)
    monkeypatch.setattr(os, "write", real)
    assert mine.dropped == 2
    log.info("progress", n=4)
    log.info("progress", n=5)
    lines = path.read_bytes().split(b"\n")
    assert len(lines[1]) == 10
    good = [json.loads(line) for line in lines if line and len(line) != 10]
    assert [entry.get("n") for entry in good] == [1, 4, None, 5]
    assert (good[2]["event"], good[2]["lines"]) == ("log.dropped", 2)


def test_full_device_does_not_stop_the_start(configured: Callable[..., Logs]) -> None:
    """A log that cannot take a single byte is no reason to stop watching the stream."""
    mine = configured(Path("/dev/full"))
    logs.get_logger().info("progress")
    assert mine.dropped == 1


def test_full_disk_at_the_start_is_survived(
    tmp_path: Path, configured: Callable[..., Logs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log file that cannot be created for lack of space is created once there is some."""
    real = os.open

    def full(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "full")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
    mine = configured(tmp_path / "t.jsonl")
    logs.get_logger().info("progress")
    assert mine.dropped == 1
    monkeypatch.setattr(os, "open", real)
    mine.reopen()
    logs.get_logger().info("progress")
    assert [entry["event"] for entry in entries(tmp_path / "t.jsonl")] == ["progress", "log.dropped"]


def test_fifo_without_reader_does_not_block(tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """A named pipe in the log's place is filled, then lines are dropped; nothing ever waits."""
    os.mkfifo(tmp_path / "t.jsonl")
    mine = configured(tmp_path / "t.jsonl")
    for _ in range(200):
        logs.get_logger().info("progress", filler="x" * 1000)
    assert mine.dropped > 0


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_forbidden_file_is_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Missing permission is said at the start, naming the file."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match=r"t\.jsonl: the log cannot be written"):
        FileSink(tmp_path / "t.jsonl")


def test_directory_in_the_files_place_is_a_configuration_error(tmp_path: Path) -> None:
    """What can never become a log file is said at the start."""
    with pytest.raises(ConfigError, match="cannot be written"):
        FileSink(tmp_path)


def test_threads_do_not_mix_their_lines(tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """Lines written at the same time stay whole, and none is missing."""
    configured(tmp_path / "t.jsonl")
    log = logs.get_logger()
    threads = [threading.Thread(target=lambda: [log.info("progress") for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries(tmp_path / "t.jsonl")) == 400


# -- stderr ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """A pipe as [read end, write end]; a test that closes one sets it to -1."""
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        if fd >= 0:
            os.close(fd)


def test_stderr_is_json_where_it_is_no_terminal(pipe: list[int], configured: Callable[..., Logs]) -> None:
    """A pipe gets JSON lines without a prefix."""
    configured(None, stderr="auto", stderr_fd=pipe[1])
    logs.get_logger().info("progress", n=1)
    assert entries(os.read(pipe[0], 10_000))[0]["n"] == 1


@pytest.mark.parametrize(
    ("level", "prefix"), [("debug", b"<7>"), ("info", b"<6>"), ("warning", b"<4>"), ("error", b"<3>")]
)
def test_journal_gets_priorities(
    pipe: list[int],
    configured: Callable[..., Logs],
    monkeypatch: pytest.MonkeyPatch,
    level: str,
    prefix: bytes,
) -> None:
    """Where JOURNAL_STREAM names the very pipe, each line starts with the priority of its level."""
    status = os.fstat(pipe[1])
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    configured(None, stderr="auto", stderr_fd=pipe[1], level="debug")
    getattr(logs.get_logger(), level)("progress")
    data = os.read(pipe[0], 10_000)
    assert data[:3] == prefix
    assert entries(data[3:])[0]["level"] == level


def test_journal_of_somebody_else_is_not_ours(pipe: list[int]) -> None:
    """JOURNAL_STREAM inherited by a process whose stderr was redirected since does not count."""
    status = os.fstat(pipe[1])
    assert not logs.under_journald(pipe[1], {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
    assert not logs.under_journald(pipe[1], {})
    assert not logs.under_journald(9999, {"JOURNAL_STREAM": "1:1"})


def test_console_leaves_out_and_lifts_up_what_it_is_told(
    tmp_path: Path, pipe: list[int], configured: Callable[..., Logs]
) -> None:
    """Beside something drawn the summaries are left out, and lines stand above; the file has everything as it is."""
    configured(
        tmp_path / "t.jsonl",
        stderr="console",
        stderr_fd=pipe[1],
        console_skips=frozenset({"progress", "stream.silent"}),
        console_above=lambda line: b"<" + line + b">",
    )
    log = logs.get_logger()
    log.info("progress")
    log.warning("stream.silent")
    log.info("daemon.ready")
    shown = os.read(pipe[0], 100_000).decode()
    assert "progress" not in shown
    assert re.fullmatch(r"<[^<>]*stream\.silent[^<>]*\n><[^<>]*daemon\.ready[^<>]*\n>", shown)
    assert [entry["event"] for entry in entries(tmp_path / "t.jsonl")] == ["progress", "stream.silent", "daemon.ready"]


def test_terminal_gets_text_it_does_not_obey(configured: Callable[..., Logs], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal lines are for people; what came from outside cannot move the cursor or break the line."""
    monkeypatch.setenv("NO_COLOR", "1")
    outer, inner = os.openpty()
    try:
        configured(None, stderr="auto", stderr_fd=inner)
        logs.get_logger().info("event.rejected", reason="\x1b[2J\nfake line\x9b", n=3)
        try:
            raise ValueError("\x1b]0;title\x07")
        except ValueError:
            logs.get_logger().exception("daemon.failed")
        data = b""
        while data.count(b"title") < 2 and select.select([outer], [], [], 10.0)[0]:
            data += os.read(outer, 100_000)
        shown = data.decode()
    finally:
        os.close(outer)
        os.close(inner)
    assert "event.rejected" in shown
    assert "n=3" in shown
    assert "Traceback" in shown
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", shown)
    assert "\nfake" not in shown


def test_reader_that_left_is_survived(pipe: list[int], tmp_path: Path, configured: Callable[..., Logs]) -> None:
    """EPIPE on stderr costs that line there; the file still gets it."""
    mine = configured(tmp_path / "t.jsonl", stderr="json", stderr_fd=pipe[1])
    os.close(pipe[0])
    pipe[0] = -1
    logs.get_logger().info("progress")
    assert mine.dropped == 1
    assert len(entries(tmp_path / "t.jsonl")) == 1


def test_reader_that_stopped_reading_does_not_block(pipe: list[int], configured: Callable[..., Logs]) -> None:
    """A full pipe drops lines instead of waiting; when it is read again, lines are whole again."""
    mine = configured(None, stderr="json", stderr_fd=pipe[1])
    for _ in range(30):
        logs.get_logger().info("progress", filler="x" * 9_000)
    assert 0 < mine.dropped < 30
    kept = os.read(pipe[0], 1 << 20)
    logs.get_logger().info("daemon.stopping")
    lines = (kept + os.read(pipe[0], 1 << 20)).splitlines()
    broken = [line for line in lines if not line.endswith(b"}")]
    assert len(broken) <= 1
    assert [json.loads(line)["event"] for line in lines[-2:]] == ["daemon.stopping", "log.dropped"]


def test_closed_stderr_is_survived(configured: Callable[..., Logs]) -> None:
    """A descriptor that is not open counts every line as lost, and nothing else happens."""
    fd = os.dup(0)
    os.close(fd)
    mine = configured(None, stderr="auto", stderr_fd=fd)
    logs.get_logger().info("progress")
    assert mine.dropped == 1


def test_file_opened_in_place_of_stderr_stays_clean(tmp_path: Path) -> None:
    """Started with stderr closed, the daemon never writes log lines into a file that got number 2."""
    program = (
        "import os, sys\n"
        "from tidewaiter.edges import logs\n"
        "logs.configure(None, stderr='json')\n"
        f"fd = os.open({str(tmp_path / 'precious')!r}, os.O_RDWR | os.O_CREAT)\n"
        "logs.get_logger().error('daemon.failed')\n"
        "sys.exit(10 if fd <= 2 else 0)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        ["sh", "-c", '"$@" 0<&- 1>&- 2>&-', "sh", *command], env=cli_environment(), check=False, timeout=PATIENCE
    )
    assert done.returncode == 0
    assert (tmp_path / "precious").read_bytes() == b""


def test_sink_outlives_the_descriptor_it_was_given(pipe: list[int]) -> None:
    """Whoever closes or replaces stderr later cannot redirect log lines into another file."""
    sink = StreamSink(pipe[1], console=False, prefix=False)
    os.close(pipe[1])
    pipe[1] = -1
    sink.write({}, LINE)
    assert os.read(pipe[0], 100) == LINE
    sink.close()


# -- the table ---------------------------------------------------------------------------------------------------------

_METHODS = {"debug", "info", "warning", "error", "critical", "exception"}
_LOGGERS = {"log", "_log", "logger", "_logger"}


def logged_events() -> Iterator[tuple[str, ast.Call]]:
    """Yield place and call of every line of code that logs."""
    for path in sorted((REPOSITORY / "daemon" / "tidewaiter").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS):
                continue
            receiver = node.func.value
            name = receiver.id if isinstance(receiver, ast.Name) else getattr(receiver, "attr", "")
            if name in _LOGGERS or (isinstance(receiver, ast.Call) and "get_logger" in ast.unparse(receiver.func)):
                yield f"{path.relative_to(REPOSITORY)}:{node.lineno}", node


def test_every_logged_event_is_documented() -> None:
    """Each event name in the code is written out and in the table that operators read."""
    found = list(logged_events())
    assert found
    for place, call in found:
        event = call.args[0] if call.args else None
        assert isinstance(event, ast.Constant), f"{place}: write the event's name out, as a string"
        assert event.value in logs.EVENTS, f"{place}: add {event.value!r} to EVENTS in edges/logs.py"


def test_no_logged_field_hides_a_key_of_the_line() -> None:
    """A field named like one of the line's own keys would be lost."""
    for place, call in logged_events():
        names = {keyword.arg for keyword in call.keywords}
        assert not names & {"timestamp", "level", "event", "exception"}, f"{place}: rename that field"


def test_event_names_have_one_form() -> None:
    """Names are lower-case words with dots, so that tools can select groups; meanings are one line."""
    for name, meaning in logs.EVENTS.items():
        assert re.fullmatch(r"[a-z]+(\.[a-z_]+)?", name)
        assert meaning
        assert "\n" not in meaning
