"""The drill that tests/test_systemd.py runs inside the guest, as root, under a real systemd as PID 1.

Owns: installing the shipped unit as the operator's guide says, feeding a stream without pause, and everything that
happens to the daemon meanwhile. Leaves judging to the test: each step writes down what it saw, and `facts.json` in the
output directory holds it all. A step that waits in vain ends the drill, with the journal in `journal.txt`.

The package index is out of reach in the guest, so the virtual environment is made of the packages that the tests run
with. `PYTHONPATH` plays no part: the unit's `python -I` would ignore it.
"""

from __future__ import annotations

import argparse
import grp
import hashlib
import importlib.metadata
import json
import os
import pwd
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY: Final = Path(__file__).resolve().parent.parent
OPT: Final = Path("/opt/tidewaiter")
STATE: Final = Path("/var/lib/tidewaiter")
SPOOL: Final = Path("/var/spool/feed")
# A shared libpython is looked for where it was built, which the sandbox may hide; the service must take this one.
LIBRARY: Final = "[Service]\nEnvironment=LD_LIBRARY_PATH=/opt/tidewaiter/python/lib\n"
# What the guide tells an operator to put into a drop-in.
LOCAL: Final = (
    "[Unit]\nRequiresMountsFor=/var/spool/feed\nOnFailure=tidewaiter-failure@%n.service\n"
    "[Service]\nSupplementaryGroups=feed\n"
)
UNIT: Final = "tidewaiter.service"
SECOND: Final = "tidewaiter@second.service"
EVENTS: Final = 40_000
PIECE_BYTES: Final = 16_384
PIECE_SECONDS: Final = 0.04  # 400 kB/s, so that every blow falls while events flow
TRANSIENT: Final = 30.0  # how long anything may take that takes a few seconds at most

# The loop hangs for real: a signal handler that never returns holds the main thread in Python code, as an endless rule
# or a blocked call would. Installed through a .pth file, so that the shipped code knows nothing of it.
HANG: Final = """
import signal, time
def _hang(number, frame):
    while True:
        time.sleep(1)
signal.signal(signal.SIGUSR2, _hang)
"""


# -- small tools -------------------------------------------------------------------------------------------------


def run(*command: str | Path, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it with its output as text."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=TRANSIENT, **more
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


def wait_for(what: str, predicate: Callable[[], object], seconds: float = TRANSIENT) -> float:
    """Return after how many seconds `predicate()` became true; AssertionError when it did not."""
    start = time.monotonic()
    while not predicate():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.02)
    return time.monotonic() - start


def show(unit: str, name: str) -> str:
    """Return one property of a unit."""
    return run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()


def size(path: Path) -> int:
    """Return the size of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- installing --------------------------------------------------------------------------------------------------


def needed_distributions(requirements: list[str]) -> set[str]:
    """Return the names of the distributions that `requirements` need, themselves included."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += [Requirement(text) for text in importlib.metadata.requires(name) or []]
    return found


def reachable_python() -> Path:
    """Return this Python at a place that the service can see: ProtectHome= hides what lives in somebody's home."""
    base = Path(sys.base_prefix)
    if not any(base.is_relative_to(hidden) for hidden in ("/root", "/home", "/run", "/tmp")):
        return base / "bin" / f"python3.{sys.version_info.minor}"
    place = OPT / "python"
    place.mkdir(parents=True)
    run("mount", "--bind", base, place)
    drop_in(UNIT, "python", LIBRARY)
    drop_in("tidewaiter@.service", "python", LIBRARY)
    return place / "bin" / f"python3.{sys.version_info.minor}"


def drop_in(unit: str, name: str, text: str) -> None:
    """Write one drop-in, as `systemctl edit` would."""
    folder = Path(f"/etc/systemd/system/{unit}.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.conf").write_text(text)


def install(package: Path) -> None:
    """Put the virtual environment at /opt/tidewaiter/venv, then everything else with scripts/install-service."""
    OPT.mkdir(parents=True)
    python = reachable_python()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(python.parent.parent / "lib")}
    run(python, "-I", "-m", "venv", "--without-pip", OPT / "venv", env=environment)
    site = OPT / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for name in sorted(needed_distributions(project["dependencies"])):
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            source, target = Path(str(distribution.locate_file(file))), site / str(file)
            if ".." not in file.parts and source.is_file():  # no scripts, and no bytecode that was never made
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    shutil.copytree(package, site / "tidewaiter", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = site / f"tidewaiter-{project['version']}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: tidewaiter\nVersion: {project['version']}\n")
    (site / "hang_on_request.py").write_text(HANG)
    (site / "hang_on_request.pth").write_text("import hang_on_request\n")
    run(OPT / "venv/bin/python", "-I", "-m", "compileall", "-q", site, env=environment)
    run(REPOSITORY / "scripts/install-service", "--without-packages")


def tidewaiter(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the installed command as the operator would, as root."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(OPT / "python/lib"), "NO_COLOR": "1"}
    return run(OPT / "venv/bin/python", "-I", "-m", "tidewaiter", *arguments, check=check, env=environment)


# -- the stream --------------------------------------------------------------------------------------------------


class Feeder(threading.Thread):
    """Appends prepared events to the stream in pieces that split lines anywhere, and never pauses for the daemon."""

    def __init__(self, events: bytes, stream: Path) -> None:
        super().__init__(name="feeder", daemon=True)
        self.rotations = 0
        self.position = 0
        self._events = events
        self._stream = stream
        self._rotate = threading.Event()
        self._hurry = threading.Event()
        self._random = random.Random(7)

    def rotate(self) -> None:
        """Rename the stream and begin a new file, as logrotate with `create` does, at the end of a line."""
        before = self.rotations
        self._rotate.set()
        wait_for("a rotation", lambda: self.rotations > before)

    def finish(self) -> None:
        """Append what is left without further pauses."""
        self._hurry.set()
        self.join()

    def run(self) -> None:
        """Append until everything is there."""
        while self.position < len(self._events):
            end = min(self.position + self._random.randrange(1, 2 * PIECE_BYTES), len(self._events))
            rotate = self._rotate.is_set()
            if rotate:
                end = self._events.index(b"\n", end - 1) + 1
            with self._stream.open("ab") as file:
                file.write(self._events[self.position : end])
            self.position = end
            if rotate:
                self._rotate.clear()
                self._renumber()
                self.rotations += 1
            if not self._hurry.is_set():
                time.sleep(PIECE_SECONDS)

    def _renumber(self) -> None:
        for number in range(self.rotations, 0, -1):
            self._stream.with_name(f"{self._stream.name}.{number}").rename(
                self._stream.with_name(f"{self._stream.name}.{number + 1}")
            )
        self._stream.rename(self._stream.with_name(f"{self._stream.name}.1"))
        make_stream(self._stream)


def make_stream(path: Path) -> None:
    """Create an empty stream that only root and the group `feed` may read."""
    path.touch()
    os.chown(path, 0, grp.getgrnam("feed").gr_gid)
    path.chmod(0o640)


def configure(name: str, stream: Path, state: Path, policies: str = "") -> Path:
    """Write the configuration of one instance and return its place."""
    text = (REPOSITORY / "systemd/service.toml").read_text()
    text = text.replace("/var/spool/tidewaiter/events.jsonl", str(stream))
    text = text.replace('dir = "/var/lib/tidewaiter"', f'dir = "{state}"')
    file = Path(f"/etc/tidewaiter/{name}.toml")
    file.write_text(text + policies)
    file.chmod(0o640)
    os.chown(file, 0, grp.getgrnam("tidewaiter").gr_gid)
    return file


# -- the drill ---------------------------------------------------------------------------------------------------


class Drill:
    """The steps, in the order of their names in `main`; each adds to `facts`."""

    def __init__(self, out: Path, package: Path) -> None:
        self.out = out
        self.package = package
        self.facts: dict[str, Any] = {}
        self.flags = STATE / "flags.jsonl"
        self.reference = Path("/tmp/reference")  # the guest's own
        self.events = b""
        self.feeder = Feeder(b"", self.flags)

    def prepare(self) -> None:
        """Install, make the events, and find out what an uninterrupted run of them flags."""
        install(self.package)
        run("groupadd", "--system", "feed")
        SPOOL.mkdir(parents=True)
        os.chown(SPOOL, 0, grp.getgrnam("feed").gr_gid)
        SPOOL.chmod(0o750)
        make_stream(SPOOL / "events.jsonl")
        for unit in (UNIT, "tidewaiter@.service"):
            drop_in(unit, "local", LOCAL)
        run("systemctl", "daemon-reload")
        config = configure("tidewaiter", SPOOL / "events.jsonl", STATE)
        self.reference.mkdir()
        source = self.reference / "all.jsonl"
        tidewaiter("generate", "--out", source, "--events", str(EVENTS), "--seed", "7")
        self.events = source.read_bytes()
        tidewaiter("run", source, "--once", "--config", config, "--state-dir", self.reference / "state")
        self.facts["events"] = self.events.count(b"\n")
        self.facts["reference_flags"] = (self.reference / "state/flags.jsonl").read_text().count("\n")

    def start(self) -> None:
        """Start the shipped unit and let events flow."""
        begin = time.monotonic()
        run("systemctl", "start", UNIT)
        self.facts["start_seconds"] = time.monotonic() - begin
        self.facts["state_after_start"] = show(UNIT, "ActiveState")
        self.feeder = Feeder(self.events, SPOOL / "events.jsonl")
        self.feeder.start()
        self.facts["first_flags_seconds"] = wait_for("flags", lambda: size(self.flags) > 0)
        wait_for("the lag in STATUS", lambda: re.search(r"lag \d+ bytes", show(UNIT, "StatusText")))
        self.facts["status_text"] = show(UNIT, "StatusText")
        self.facts["process"] = Path(f"/proc/{show(UNIT, 'MainPID')}/status").read_text()
        self.facts["service_uid"] = pwd.getpwnam("tidewaiter").pw_uid

    def more_flags(self, after: str) -> None:
        """Wait until the daemon has written further flags."""
        before = size(self.flags)
        wait_for(f"flags after {after}", lambda: size(self.flags) > before)

    def restarted(self, how: int, what: str) -> None:
        """Send a signal to the main process and wait for the next one to be ready."""
        restarts = int(show(UNIT, "NRestarts"))
        os.kill(int(show(UNIT, "MainPID")), how)
        seconds = wait_for(
            f"a restart after {what}",
            lambda: int(show(UNIT, "NRestarts")) > restarts and show(UNIT, "ActiveState") == "active",
        )
        self.facts[f"{what}_restart_seconds"] = seconds
        self.more_flags(what)

    def rotate(self) -> None:
        """Rotate the stream while the daemon watches it."""
        self.feeder.rotate()

    def reload(self) -> None:
        """Reload: as it is, with a configuration that is refused, and with the old one back."""
        pid = show(UNIT, "MainPID")
        config = Path("/etc/tidewaiter/tidewaiter.toml")
        good = config.read_text()
        for name, text in (("same", good), ("broken", good + "\n[stream_of_consciousness]\n"), ("back", good)):
            config.write_text(text)
            run("systemctl", "reload", UNIT)
            self.more_flags(f"the {name} reload")
        self.facts["reload_same_process"] = show(UNIT, "MainPID") == pid

    def stop_and_start(self) -> None:
        """Stop under load, rotate while down, and start."""
        begin = time.monotonic()
        run("systemctl", "stop", UNIT)
        self.facts["stop_seconds"] = time.monotonic() - begin
        self.facts["stop_result"] = [show(UNIT, "Result"), show(UNIT, "ExecMainStatus"), show(UNIT, "ActiveState")]
        self.feeder.rotate()
        begin = time.monotonic()
        run("systemctl", "start", UNIT)
        self.facts["second_start_seconds"] = time.monotonic() - begin
        self.more_flags("the second start")

    def finish(self) -> None:
        """Let the stream end, and compare with the uninterrupted run."""
        self.feeder.finish()
        expected = self.reference / "state/flags.jsonl"
        try:
            wait_for("the last flags", lambda: size(self.flags) >= size(expected), seconds=20)
        except AssertionError as late:
            self.facts["late"] = str(late)
        self.facts["flags"] = [sha256(self.flags), sha256(expected)]
        self.facts["rotations"] = self.feeder.rotations
        status = tidewaiter("status", "--json", "--config", "/etc/tidewaiter/tidewaiter.toml")
        self.facts["status"] = json.loads(status.stdout)

    def figures(self) -> None:
        """Write figures for Prometheus with the very units that the guide shows."""
        guide = (REPOSITORY / "systemd/README.md").read_text()
        for name, text in re.findall(
            r"```ini\n# /etc/systemd/system/(tidewaiter-figures\.\w+)\n(.*?)```", guide, re.DOTALL
        ):
            Path("/etc/systemd/system", name).write_text(text)
            if name.endswith(".service"):
                drop_in(name, "python", LIBRARY)
        place = Path("/var/lib/prometheus/node-exporter")
        place.mkdir(parents=True)
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "tidewaiter-figures.timer")
        run("systemctl", "start", "tidewaiter-figures.service")
        self.facts["figures"] = (place / "tidewaiter.prom").read_text()
        self.facts["figures_mode"] = oct((place / "tidewaiter.prom").stat().st_mode & 0o777)

    def readers(self) -> None:
        """Read the state as a member of the daemon's group, and as nobody in particular."""
        group = str(grp.getgrnam("tidewaiter").gr_gid)
        for name, groups in (("auditor", ["--groups", group]), ("stranger", ["--clear-groups"])):
            for file in (self.flags, STATE / "log/tidewaiter.jsonl"):
                done = run("setpriv", "--reuid=65534", "--regid=65534", *groups, "head", "-c1", file, check=False)
                self.facts[f"{name}_reads_{file.name}"] = done.returncode == 0

    def halt(self) -> None:
        """Let an instance of the template halt at a bad line, resolve that as the guide says, and go on."""
        stream = SPOOL / "second/events.jsonl"
        stream.parent.mkdir()
        stream.parent.chmod(0o755)
        make_stream(stream)
        lines = self.events.splitlines(keepends=True)[:3_000]
        stream.write_bytes(b"".join(lines[:2_000]) + b"this is no event\n" + b"".join(lines[2_000:]))
        state = STATE / "second"
        config = configure("second", stream, state)
        run("systemctl", "start", SECOND, check=False)
        wait_for("the halt", lambda: show(SECOND, "ActiveState") == "failed")
        time.sleep(3)  # longer than RestartSec=
        self.facts["halt"] = [show(SECOND, "Result"), show(SECOND, "ExecMainStatus"), show(SECOND, "NRestarts")]
        self.facts["halt_failure_unit"] = show(f"tidewaiter-failure@{SECOND}.service", "Result")
        before = size(state / "flags.jsonl")
        position = sum(map(len, lines[:2_000]))
        done = tidewaiter(
            "skip", "--config", config, "--position", str(position), "--reason", "test line", "--actor", "the drill"
        )
        self.facts["skip"] = done.stdout
        self.facts["skip_keeps_owner"] = {path.stat().st_uid for path in state.rglob("*")} == {
            pwd.getpwnam("tidewaiter").pw_uid
        }
        run("systemctl", "start", SECOND)
        wait_for("flags after the skip", lambda: size(state / "flags.jsonl") > before)
        self.facts["rejections"] = (state / "rejections.jsonl").read_text().count("\n")
        run("systemctl", "stop", SECOND)

    def misconfigured(self) -> None:
        """Start an instance that has no configuration at all."""
        done = run("systemctl", "start", "tidewaiter@third.service", check=False)
        alarm = "tidewaiter-failure@tidewaiter@third.service.service"
        wait_for("the alarm", lambda: show(alarm, "ExecMainExitTimestamp") and show(alarm, "ActiveState") == "inactive")
        self.facts["misconfigured"] = [
            done.returncode != 0,
            show("tidewaiter@third.service", "ExecMainStatus"),
            show("tidewaiter@third.service", "NRestarts"),
        ]

    def keep_journal(self) -> None:
        """Write down what the journal holds, as a log shipper would read it."""
        journal = run("journalctl", "--no-pager", "-o", "json", "-u", UNIT, "-u", SECOND, "-u", "tidewaiter-failure@*")
        (self.out / "journal.jsonl").write_text(journal.stdout)


def main() -> int:
    """Run the drill; 0 when every step came to its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--package", type=Path, default=REPOSITORY / "daemon/tidewaiter")
    arguments = parser.parse_args()
    drill = Drill(arguments.out, arguments.package)
    steps: list[tuple[str, Callable[[], None]]] = [
        ("prepare", drill.prepare),
        ("start", drill.start),
        ("hang", lambda: drill.restarted(signal.SIGUSR2, "hang")),
        ("kill", lambda: drill.restarted(signal.SIGKILL, "kill")),
        ("rotate", drill.rotate),
        ("reload", drill.reload),
        ("stop and start", drill.stop_and_start),
        ("finish", drill.finish),
        ("figures", drill.figures),
        ("readers", drill.readers),
        ("halt", drill.halt),
        ("misconfigured", drill.misconfigured),
        ("journal", drill.keep_journal),
    ]
    timings = drill.facts["timings"] = {}
    try:
        for name, step in steps:
            begin = time.monotonic()
            step()
            timings[name] = round(time.monotonic() - begin, 2)
    except (AssertionError, OSError, subprocess.SubprocessError):
        traceback.print_exc()
        journal = run("journalctl", "--no-pager", "-n", "200", check=False).stdout
        (drill.out / "journal.txt").write_text(journal)
        return 1
    finally:
        (drill.out / "facts.json").write_text(json.dumps(drill.facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
