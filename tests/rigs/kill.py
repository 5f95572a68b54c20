"""SIGKILL at a chosen write-like call, or at a random moment, and start again.

Owns: `KillingDisk`, the driver that runs a Python function with it in a process of its own (``python -m rigs.kill
JSON``), and the loops that start, are killed and start again. Leaves to the tests the function and the comparison.

SIGKILL loses no page cache: what was written is there for the next start. For what a power loss leaves see
`power_loss`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, TypeVar

from support import PATIENCE
from tidewaiter.edges.durable import Disk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping, Sequence

Where = Literal["before", "middle", "after"]
KILLED: Final = -signal.SIGKILL
T = TypeVar("T")
# What the service manager says to the process that runs the tests is not meant for the one under test.
_NOT_INHERITED: Final = ("INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


@dataclass(frozen=True, slots=True)
class KillPoint:
    """Die at the `at`-th write-like call (from 1): before it, after it, or with half of the bytes written.

    Only a pwrite of two bytes or more has a middle; other calls with ``middle`` die after the call.
    """

    at: int
    where: Where = "before"


class KillingDisk(Disk):
    """A disk that counts its write-like calls, may log them to a file, and kills its own process at one of them."""

    def __init__(self, point: KillPoint | None = None, calls: Path | None = None) -> None:
        """Without `point`, only count; `calls` gets one line ``PRIMITIVE PATH`` for each call, before it is made."""
        super().__init__()
        self.point = point
        self.count = 0
        self._lock = threading.Lock()
        self._paths: dict[int, Path] = {}
        self._log = calls.open("a", encoding="utf-8", buffering=1) if calls is not None else None

    def _open(self, path: Path, flags: int) -> int:
        fd = self._at("open", path, lambda: super(KillingDisk, self)._open(path, flags))
        self._paths[fd] = path
        return fd

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        def half() -> None:
            Disk._pwrite(self, fd, data[: len(data) // 2], offset)

        return self._at("pwrite", self._paths[fd], lambda: super(KillingDisk, self)._pwrite(fd, data, offset), half)

    def _fdatasync(self, fd: int) -> None:
        self._at("fdatasync", self._paths[fd], lambda: super(KillingDisk, self)._fdatasync(fd))

    def _fsync(self, fd: int) -> None:
        self._at("fsync", self._paths[fd], lambda: super(KillingDisk, self)._fsync(fd))

    def _ftruncate(self, fd: int, length: int) -> None:
        self._at("ftruncate", self._paths[fd], lambda: super(KillingDisk, self)._ftruncate(fd, length))

    def _replace(self, source: Path, target: Path) -> None:
        self._at("replace", target, lambda: super(KillingDisk, self)._replace(source, target))

    def _unlink(self, path: Path) -> None:
        self._at("unlink", path, lambda: super(KillingDisk, self)._unlink(path))

    def _rmdir(self, path: Path) -> None:
        self._at("rmdir", path, lambda: super(KillingDisk, self)._rmdir(path))

    def _mkdir(self, path: Path) -> None:
        self._at("mkdir", path, lambda: super(KillingDisk, self)._mkdir(path))

    def _fsync_directory(self, path: Path) -> None:
        self._at("fsync_directory", path, lambda: super(KillingDisk, self)._fsync_directory(path))

    def _at(self, primitive: str, path: Path, call: Callable[[], T], half: Callable[[], None] | None = None) -> T:
        with self._lock:
            self.count += 1
            if self._log is not None:
                self._log.write(f"{primitive} {path}\n")
            here = self.point is not None and self.count == self.point.at
        if here and self.point is not None:
            if self.point.where == "before":
                _die()
            if self.point.where == "middle" and half is not None:
                half()
                _die()
        result = call()
        if here:
            _die()
        return result


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # the signal may reach this thread a moment later


# -- the driver --------------------------------------------------------------------------------------------------------


def driver(
    target: str, arguments: Mapping[str, Any], point: KillPoint | None = None, calls: Path | None = None
) -> list[str]:
    """Return the command that calls `target` (``module:function``) with ``disk=KillingDisk`` and `arguments`.

    `arguments` must be JSON. The function returns the exit status; None is 0.
    """
    return [sys.executable, "-m", "rigs.kill", json.dumps(_job(target, arguments, point, calls))]


def _job(target: str, arguments: Mapping[str, Any], point: KillPoint | None, calls: Path | None) -> dict[str, Any]:
    return {
        "target": target,
        "arguments": dict(arguments),
        "point": asdict(point) if point is not None else None,
        "calls": str(calls) if calls is not None else None,
    }


def environment(**changes: str) -> dict[str, str]:
    """Return the environment for `driver`: this one, with `changes` and the source roots on the module path."""
    here = Path(__file__).resolve().parents[1]
    roots = [str(here), str(here.parent / "daemon"), *filter(None, [os.environ.get("PYTHONPATH")])]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_INHERITED and not name.startswith(("TIDEWAITER_", "PYTEST_"))
    }
    return {**inherited, "PYTHONPATH": os.pathsep.join(roots), **changes}


def main(arguments: Sequence[str]) -> int:
    """Run one job of `driver`, or serve a `Launcher` (``--serve MODULE…``)."""
    if arguments[0] == "--serve":
        for module in arguments[1:]:
            importlib.import_module(module)
        return _serve()
    return _run_job(json.loads(arguments[0]))


def _run_job(job: dict[str, Any]) -> int:
    module, _, name = job["target"].partition(":")
    function = getattr(importlib.import_module(module), name)
    point = KillPoint(**job["point"]) if job["point"] else None
    disk = KillingDisk(point, Path(job["calls"]) if job["calls"] else None)
    return function(disk=disk, **job["arguments"]) or 0


def _serve() -> int:
    """Fork a child for each job line on standard input; answer with its number and exit status, or minus the signal."""
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(job)
        _, status = os.waitpid(pid, 0)
        print(job["number"], os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the answer
    return 0


def _child(job: dict[str, Any]) -> NoReturn:
    status = 1
    try:
        signal.alarm(int(PATIENCE))
        output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            status = _run_job(job)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - whatever it is, the test shall read it
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


# -- the loops ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one process ended: exit status, or minus the signal; its standard error."""

    status: int
    stderr: str

    @property
    def killed(self) -> bool:
        """Tell whether SIGKILL ended it."""
        return self.status == KILLED


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Outcome:
    """Run to the end, `timeout` seconds at most."""
    done = subprocess.run(
        command, env=env or environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
    return Outcome(done.returncode, done.stderr)


def count_calls(target: str, arguments: Mapping[str, Any], calls: Path) -> list[str]:
    """Run once undisturbed and return its write-like calls as lines ``PRIMITIVE PATH``; `calls` is a scratch file."""
    calls.unlink(missing_ok=True)
    outcome = run(driver(target, arguments, calls=calls))
    assert outcome.status == 0, outcome.stderr
    return calls.read_text(encoding="utf-8").splitlines()


def every_point(calls: Sequence[str]) -> list[KillPoint]:
    """Return the kill points that differ: before each of the logged calls, and in the middle of each write."""
    points = []
    for number, call in enumerate(calls, start=1):
        points.append(KillPoint(number, "before"))
        if call.startswith("pwrite "):
            points.append(KillPoint(number, "middle"))
    return points


def run_until_done(
    make_command: Callable[[KillPoint | None], Sequence[str]],
    points: Iterable[KillPoint],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = PATIENCE,
) -> list[Outcome]:
    """Start once for each kill point, then once without; return how each ended.

    Asserts that a run with a kill point was killed or had nothing left to do there (exit 0), and that the last one
    ended with 0.
    """
    return _checked([run(make_command(point), env=env, timeout=timeout) for point in (*points, None)])


def _checked(outcomes: list[Outcome]) -> list[Outcome]:
    for outcome in outcomes[:-1]:
        assert outcome.killed or outcome.status == 0, f"exit {outcome.status}: {outcome.stderr}"
    assert outcomes[-1].status == 0, f"exit {outcomes[-1].status}: {outcomes[-1].stderr}"
    return outcomes


class Launcher:
    """Runs jobs of `driver` in children forked from one process that has done the imports: some ten times faster.

    What is decided at the start of Python, PYTHONHASHSEED say, is the same for all of them.
    """

    def __init__(self, preload: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        """Start the process, in environment `env`, with the modules `preload` imported."""
        self._place = tempfile.TemporaryDirectory(prefix="launcher-")
        self._jobs = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rigs.kill", "--serve", *preload],
            env=env or environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._place.cleanup()

    def run(
        self,
        target: str,
        arguments: Mapping[str, Any],
        point: KillPoint | None = None,
        *,
        calls: Path | None = None,
    ) -> Outcome:
        """Run one job to its end; SIGALRM ends one that hangs. `stderr` has standard output too."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = Path(self._place.name) / "output"
        self._jobs += 1
        job = {**_job(target, arguments, point, calls), "number": self._jobs, "output": str(output)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        number = status = 0
        while number != self._jobs:  # what a test that was cut short did not wait for is not this job's answer
            answer = self._process.stdout.readline()
            assert answer, "the launcher died"
            number, status = map(int, answer.split())
        return Outcome(status, output.read_text(encoding="utf-8", errors="replace"))

    def run_until_done(self, target: str, arguments: Mapping[str, Any], points: Iterable[KillPoint]) -> list[Outcome]:
        """Do what the function `run_until_done` does."""
        return _checked([self.run(target, arguments, point) for point in (*points, None)])


def random_kills(
    command: Sequence[str],
    n: int,
    rng: random.Random,
    min_ms: float,
    max_ms: float,
    *,
    env: Mapping[str, str] | None = None,
    between: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Start `command` `n` times and kill -9 it between `min_ms` and `max_ms` milliseconds later.

    `between` is called with the number of the kill after each one. A process that ended by itself is returned with its
    own status: the caller judges.
    """
    outcomes = []
    for number in range(n):
        process = subprocess.Popen(
            command, env=env or environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(min_ms, max_ms) / 1000)
        process.kill()
        _, stderr = process.communicate()
        outcomes.append(Outcome(process.returncode, stderr))
        if between is not None:
            between(number)
    return outcomes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
