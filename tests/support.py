"""Helpers that tests call by name: the command line as a user runs it, and waiting for another process.

Nothing here is a fixture, and nothing here sleeps longer than it must.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pytest

REPOSITORY: Final = Path(__file__).resolve().parent.parent
COMMAND: Final = (sys.executable, "-m", "tidewaiter")

# How long anything may take before it counts as hung, in seconds: far from what it takes, even where the machine stands
# still for seconds. What a test promises about time it says itself.
PATIENCE: Final = 200.0
_POLL_SECONDS: Final = 0.005
# What the service manager says to the process that runs the tests is not meant for the daemon under test.
_NOT_INHERITED: Final = ("INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


def cli_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a command under test: this tree's code, no service manager, no colours, wide lines."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_INHERITED and not name.startswith(("TIDEWAITER_", "PYTEST_"))
    }
    environment |= {
        "PYTHONPATH": str(REPOSITORY / "daemon"),
        "NO_COLOR": "1",
        "TERM": "dumb",
        "COLUMNS": "200",
    }
    return environment | dict(extra or {})


def enter_configured(place: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], more: str = "") -> None:
    """Make `place` the current directory, with a configuration for ./events.jsonl under the shipped contract.

    The configuration is in config/, with `files` beside it, of which r.toml has the rules; `more` are further sections.
    """
    monkeypatch.delenv("TIDEWAITER_CONFIG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(place)
    (place / "config").mkdir()
    (place / "config" / "tidewaiter.toml").write_text(
        '[stream]\npath = "../events.jsonl"\n'
        f'[contract]\nfile = "{REPOSITORY / "config" / "contracts" / "money_flow.toml"}"\n[rules]\nfile = "r.toml"\n'
        f"{more}"
    )
    for name, text in files.items():
        (place / "config" / name).write_text(text)


def run_cli(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    deadline: float = PATIENCE,
) -> subprocess.CompletedProcess[bytes]:
    """Run `tidewaiter ARGUMENTS` to its end and return exit code, stdout and stderr as bytes.

    `env` adds to the environment. A command still running after `deadline` seconds is killed: TimeoutExpired.
    """
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=cli_environment(env),
        input=stdin,
        capture_output=True,
        timeout=deadline,
        check=False,
    )


@contextlib.contextmanager
def started_cli(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start `tidewaiter ARGUMENTS` and leave it running inside the block; whatever still runs at its end is killed.

    A pipe must be read by the test; a file is safer for a daemon that logs much.
    """
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=cli_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )
    with process:  # waits, and closes pipes
        try:
            yield process
        finally:
            process.kill()  # does nothing to one that has ended


def wait_until(predicate: Callable[[], object], deadline: float = PATIENCE, what: str = "the condition") -> None:
    """Return as soon as `predicate()` is true; fail the test when it is not within `deadline` seconds.

    Pauses are counted, not time: while the machine stands still, so does the count. For other processes and threads
    only: code in this process is cranked by hand instead.
    """
    pauses = 0
    while not predicate():
        if pauses * _POLL_SECONDS > deadline:
            message = f"{what} did not come true within {deadline} s"
            raise AssertionError(message)
        time.sleep(_POLL_SECONDS)
        pauses += 1


async def wait_until_async(
    predicate: Callable[[], object], deadline: float = PATIENCE, what: str = "the condition"
) -> None:
    """Do as `wait_until` and let the event loop run meanwhile."""
    pauses = 0
    while not predicate():
        if pauses * _POLL_SECONDS > deadline:
            message = f"{what} did not come true within {deadline} s"
            raise AssertionError(message)
        await asyncio.sleep(_POLL_SECONDS)
        pauses += 1
