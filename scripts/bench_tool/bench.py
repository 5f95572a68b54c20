"""The workshop of one call: its folder, the files it made, and the processes it starts.

Owns: made-up streams, the daemon as a process, and reading what it left. Every wait has a deadline, and whatever was
started is ended with it. Leaves to `measures` what is asked of them.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench_tool import streams
from bench_tool.daemon import REPOSITORY, Daemon, MeasureFailed, environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONFIG: Final = REPOSITORY / "config" / "tidewaiter.toml"
CONTRACT: Final = REPOSITORY / "config" / "contracts" / "money_flow.toml"
RULES: Final = REPOSITORY / "config" / "rules" / "money_flow.toml"
PACK_CONTRACT: Final = REPOSITORY / "config" / "contracts" / "account_transfers.toml"
PACK_RULES: Final = REPOSITORY / "config" / "rules" / "aml_core.toml"
DEADLINE: Final = 900.0
"""No single run takes longer, in seconds."""


@dataclass(frozen=True)
class StreamFile:
    """A made-up stream: where it is and what it is made of."""

    path: Path
    events: int
    seed: int
    what: str

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.path.stat().st_size

    def facts(self) -> dict[str, Any]:
        """Return what an answer says about its input."""
        return {
            "name": self.path.name, "bytes": self.size, "events": self.events, "seed": self.seed, "made_by": self.what,
        }  # fmt: skip


@dataclass(frozen=True)
class Once:
    """One `tidewaiter run --once`, from outside and from its own log. Seconds.

    `durable` runs from READY to the moment when the last batch and its projections were on the disk.
    """

    wall: float
    cpu: float
    durable: float
    state: Path


class Bench:
    """One call of the tool."""

    def __init__(self, folder: Path, *, quick: bool, tiny: bool = False) -> None:
        """Work in `folder`, which the caller removes. `tiny` is for trying out whether a measure can be made."""
        self.folder = folder
        self.quick = quick or tiny
        self.tiny = tiny
        self._made = 0

    def sized(self, full: int, quick: int, tiny: int) -> int:
        """Return how much is to be done."""
        return tiny if self.tiny else quick if self.quick else full

    def new_folder(self, name: str) -> Path:
        """Return a new, empty folder."""
        self._made += 1
        path = self.folder / f"{self._made:03d}-{name}"
        path.mkdir()
        return path

    def tidy(self) -> None:
        """Remove everything but the streams, which another measure may read too."""
        for path in self.folder.iterdir():
            if path.is_dir() and path.name != "streams":
                shutil.rmtree(path, ignore_errors=True)

    # -- streams -----------------------------------------------------------------------------------------------------

    def generated(self, events: int, profile: str, *, users: int = 10_000, seed: int = 1) -> StreamFile:
        """Return the file that `tidewaiter generate` makes."""
        options = ["--events", str(events), "--profile", profile, "--users", str(users), "--seed", str(seed)]
        path = self._stream_path(f"{profile}-{events}-of-{users}-users.jsonl")
        if not path.exists():
            self.python("tidewaiter", "generate", "--out", str(path), *options)
        return StreamFile(path, events, seed, f"tidewaiter generate {' '.join(options)}")

    def rounds(self, users: int, events: int, *, deposits: int, step_ns: int, seed: int = 1) -> StreamFile:
        """Return a file in which all users take turns; the last `deposits` events are deposits, the others are not."""
        path = self._stream_path(f"rounds-{events}-of-{users}-users-{deposits}-deposits-{step_ns}ns.jsonl")
        if not path.exists():
            streams.write_rounds(path, users=users, events=events, deposits=deposits, step_ns=step_ns, seed=seed)
        what = f"{events} events of {users} users in turn, {step_ns} ns apart, the last {deposits} of them deposits"
        return StreamFile(path, events, seed, what)

    def _stream_path(self, name: str) -> Path:
        folder = self.folder / "streams"
        folder.mkdir(exist_ok=True)
        return folder / name

    # -- processes ---------------------------------------------------------------------------------------------------

    def python(self, module: str, *arguments: str, packages: Path | None = None) -> bytes:
        """Run a module to its end and return what it printed. Raises MeasureFailed.

        `packages` is a folder with further packages.
        """
        command = [sys.executable, "-m", module, *arguments]
        variables = environment()
        if packages is not None:
            variables["PYTHONPATH"] += f"{os.pathsep}{packages}"
        try:
            ended = subprocess.run(
                command, env=variables, capture_output=True, timeout=DEADLINE, check=False, cwd=self.folder
            )
        except subprocess.TimeoutExpired:
            raise MeasureFailed(f"{module} took more than {DEADLINE:.0f} s") from None
        if ended.returncode:
            last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise MeasureFailed(f"{module} ended with {ended.returncode}: {''.join(last)}")
        return ended.stdout

    def config(self, contract: Path, rules: Path) -> Path:
        """Return settings with this contract and these rules, and the defaults for everything else."""
        path = self.new_folder("config") / "tidewaiter.toml"
        files = {"contract": contract, "rules": rules}
        path.write_text(
            "".join(f"[{name}]\nfile = {json.dumps(str(file))}\n" for name, file in files.items()), encoding="utf-8"
        )
        return path

    def once(self, stream: Path, config: Path = CONFIG, module: str = "tidewaiter") -> Once:
        """Read `stream` to its end with a new state directory; `module` takes the arguments of ``tidewaiter``."""
        state = self.new_folder("state")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        self.python(module, "run", str(stream), "--once", "--state-dir", str(state), "--config", str(config))
        wall = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Once(wall, cpu, durable_seconds(state), state)

    def daemon(self, stream: Path, state: Path, *, timed: Path | None = None, config: Path = CONFIG) -> Daemon:
        """Return a daemon that follows `stream`; use it in a with block.

        `timed` is where it writes, at its end, when each sync was done (`bench_tool.timed_daemon`).
        """
        if timed is not None:
            arguments = ["bench_tool.timed_daemon", str(stream), str(state), str(config), str(timed)]
        else:
            arguments = ["tidewaiter", "run", str(stream), "--state-dir", str(state), "--config", str(config)]
        return Daemon([sys.executable, "-m", *arguments], state, self.folder)


# -- what a run left behind --------------------------------------------------------------------------------------------


def log_lines(state: Path, events: Sequence[str], skip: int = 0) -> list[dict[str, Any]]:
    """Return the lines of the daemon's log with one of these event names, leaving out its first `skip` bytes."""
    with (state / "log" / "tidewaiter.jsonl").open("rb") as file:
        file.seek(skip)
        rows = [json.loads(row) for row in file]
    return [row for row in rows if row["event"] in events]


def log_size(state: Path) -> int:
    """Return how long the daemon's log is."""
    path = state / "log" / "tidewaiter.jsonl"
    return path.stat().st_size if path.exists() else 0


def durable_seconds(state: Path) -> float:
    """Return the seconds from READY to the last progress line, which is logged behind the last materialised batch."""
    ready = log_lines(state, ["daemon.ready"])[-1]
    progress = log_lines(state, ["progress"])
    if not progress:
        return 0.0
    return streams.seconds_of(progress[-1]["timestamp"]) - streams.seconds_of(ready["timestamp"])


def offset_of(state: Path) -> int:
    """Return how many bytes of the stream the checkpoint accounts for."""
    try:
        commit = json.loads((state / "checkpoint.json").read_bytes())["commit"]
    except FileNotFoundError:
        return 0
    return int(commit["offset"]) if commit else 0


def wait_for_offset(daemon: Daemon, offset: int) -> None:
    """Return once the daemon's checkpoint has reached `offset`. Raises MeasureFailed."""
    end = time.monotonic() + DEADLINE
    while offset_of(daemon.state) < offset:
        if not daemon.running():
            raise MeasureFailed(f"the daemon ended: {daemon.last_words()}")
        if time.monotonic() > end:
            raise MeasureFailed(f"the daemon did not reach byte {offset} in {DEADLINE:.0f} s")
        time.sleep(0.01)
