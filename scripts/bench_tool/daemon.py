"""A daemon in a process of its own, as a service manager sees it.

Owns: start, READY, signals, and what /proc says about the process and those that it started itself. Leaves to `bench`
what it is started with.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

START_DEADLINE: Final = 300.0
STOP_DEADLINE: Final = 120.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")
REPOSITORY: Final = Path(__file__).resolve().parents[2]
_NOT_INHERITED: Final = (
    "INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC",
    "PYTHONDONTWRITEBYTECODE",  # what is installed keeps its compiled modules: starting is not compiling
)  # fmt: skip
_numbers: Final = count(1)


class MeasureFailed(Exception):  # noqa: N818 - named for what happened
    """A measure could not be made; says why."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment of what is started: this tree's code, nothing that was meant for this process alone."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_INHERITED and not name.startswith("TIDEWAITER_")
    }
    code = os.pathsep.join(str(REPOSITORY / part) for part in ("scripts", "daemon"))
    return kept | {"PYTHONPATH": code} | more


class Daemon:
    """One process. Inside the block it is READY, which took `start_seconds`; behind it, it has ended."""

    def __init__(self, command: Sequence[str], state: Path, folder: Path) -> None:
        """`folder` takes what it says on standard error."""
        self.state = state
        self.start_seconds = 0.0
        self.peak_bytes = 0
        self._command = list(command)
        self._errors = folder / f"daemon-{next(_numbers)}.err"
        self._folder = folder

    def __enter__(self) -> Self:
        # a name in the abstract namespace: no file, and no limit on the length of the folder's name
        address = f"tidewaiter-bench-{os.getpid()}-{self._errors.stem}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, self._errors.open("wb") as errors:
            listener.bind("\0" + address)
            began = time.monotonic()
            self._process = subprocess.Popen(
                self._command, env=environment(NOTIFY_SOCKET="@" + address), cwd=self._folder,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip
            try:
                self._wait_until_ready(listener, began + START_DEADLINE)
            except BaseException:
                self.kill()
                raise
            self.start_seconds = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        if self.running():
            self.kill()

    def _wait_until_ready(self, listener: socket.socket, end: float) -> None:
        listener.settimeout(0.2)
        while True:
            try:
                if b"READY=1" in listener.recv(4096):
                    return
            except TimeoutError:
                pass
            if not self.running():
                raise MeasureFailed(f"the daemon ended before READY: {self.last_words()}")
            if time.monotonic() > end:
                raise MeasureFailed(f"the daemon was not READY in {START_DEADLINE:.0f} s")

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """Return the end of what it said on standard error."""
        rows = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"exit {self._process.poll()}: {rows[-1] if rows else 'no message'}"

    def stop(self) -> None:
        """End it in order and wait. Raises MeasureFailed unless it exits with 0."""
        of_others = sum(_memory(pid, "VmHWM") for pid in _children(self.pid))
        self._process.send_signal(signal.SIGTERM)
        _, status, usage = _wait4(self._process.pid, STOP_DEADLINE)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.peak_bytes = int(usage) * 1024 + of_others
        if self._process.returncode:
            raise MeasureFailed(f"the daemon did not stop in order: {self.last_words()}")

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait(STOP_DEADLINE)

    def cpu_seconds(self) -> float:
        """Return user and system time so far, in steps of a clock tick; what its own processes took counts."""
        # utime, stime, and those of the children that it waited for
        pids = (self.pid, *_children(self.pid))
        return sum(int(ticks) for pid in pids for ticks in _stat(pid)[11:15]) / _TICKS

    def memory(self, name: str) -> int:
        """Return VmRSS or VmHWM in bytes, its own processes included: a page that they share counts for each."""
        return sum(_memory(pid, name) for pid in (self.pid, *_children(self.pid)))


def _stat(pid: int) -> list[str]:
    """Return what /proc/PID/stat says behind the name: state, parent …; nothing of a process that has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children(pid: int) -> list[int]:
    """Return the processes that `pid` started and that have not ended."""
    pids = [int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()]
    return [each for each in pids if (says := _stat(each))[1:2] == [str(pid)] and says[0] != "Z"]


def _memory(pid: int, name: str) -> int:
    if not _stat(pid):  # one of the daemon's own processes has just ended
        return 0
    for row in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        key, _, value = row.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise MeasureFailed(f"/proc says no {name}")


def _wait4(pid: int, seconds: float) -> tuple[int, int, float]:
    """Return pid, status and the largest resident set in KiB, once the process has ended."""
    end = time.monotonic() + seconds
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return found, status, usage.ru_maxrss
        if time.monotonic() > end:
            raise MeasureFailed(f"the daemon did not stop in {seconds:.0f} s")
        time.sleep(0.005)
