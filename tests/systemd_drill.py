"""The drill that tests/test_systemd.py runs inside the guest, as root, under a real systemd as PID 1.

Owns: installing the shipped unit as the operator's guide says, feeding a stream without pause, and everything that
happens to the daemon meanwhile. Leaves keys and witness to tests/systemd_evidence.py, and judging to the test: a step
writes down what it saw, and `facts.json` in the output directory holds it all. A step that waits in vain ends the
drill, with the journal in `journal.txt`.
"""

from __future__ import annotations

import argparse
import grp
import json
import os
import pwd
import random
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stopwatch import Stopwatch
from systemd_evidence import SIGNED, Evidence
from systemd_tools import (
    LIBRARY,
    REPOSITORY,
    SPOOL,
    STATE,
    UNIT,
    WITNESS,
    children,
    configure,
    drop_in,
    ignores,
    install,
    make_stream,
    run,
    sha256,
    show,
    size,
    tidewaiter,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# What the guide tells an operator to put into a drop-in.
LOCAL: Final = (
    "[Unit]\nRequiresMountsFor=/var/spool/feed\nOnFailure=tidewaiter-failure@%n.service\n"
    "[Service]\nSupplementaryGroups=feed\n"
)
SECOND: Final = "tidewaiter@second.service"
BEHIND: Final = "tidewaiter@behind.service"
EVENTS: Final = 40_000
WORKERS: Final = 2  # one chains, one hashes for the tree
MANY_EVENTS: Final = 150_000  # their audit log is some 30 MB
PIECE_BYTES: Final = 16_384
PIECE_SECONDS: Final = 0.04  # 400 kB/s, so that every blow falls while events flow


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
        run("systemctl", "start", UNIT)
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
        with Stopwatch() as watch:
            run("systemctl", "stop", UNIT)
        self.facts["stop_seconds"] = watch.seconds
        self.facts["stop_result"] = [show(UNIT, "Result"), show(UNIT, "ExecMainStatus"), show(UNIT, "ActiveState")]
        self.feeder.rotate()
        with Stopwatch() as watch:
            run("systemctl", "start", UNIT)
        self.facts["second_start_seconds"] = watch.seconds
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

    def catch_up(self) -> None:
        """Let an instance find a long stream: the processes for its backlog start in the sandbox, and end."""
        stream = SPOOL / "behind/events.jsonl"
        stream.parent.mkdir()
        stream.parent.chmod(0o755)
        tidewaiter("generate", "--out", stream, "--events", str(MANY_EVENTS), "--seed", "8")
        stream.chmod(0o644)
        configure("behind", stream, STATE / "behind")
        run("systemctl", "start", BEHIND)
        main = int(show(BEHIND, "MainPID"))
        wait_for("the processes for a backlog", lambda: len(children(main)) == WORKERS)
        places = [Path(f"/proc/{child}") for child in children(main)]
        for place in places:
            wait_for("its deaf ear", partial(ignores, place, signal.SIGTERM))
        self.facts["worker_modules"] = sorted((place / "cmdline").read_text().split("\0")[-2] for place in places)
        self.facts["worker_processes"] = [(place / "status").read_text() for place in places]
        self.facts["worker_ends"] = [
            [str((place / "fd" / name).readlink()).partition(":")[0] for name in "012"] for place in places
        ]
        for place in places:
            os.kill(int(place.name), signal.SIGTERM)  # as to every process of a control group
        run("systemctl", "stop", BEHIND)
        self.facts["worker_left"] = [place.exists() for place in places]
        self.facts["worker_stop"] = [show(BEHIND, "Result"), show(BEHIND, "ExecMainStatus")]

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

    def verify_units(self) -> None:
        """Let systemd itself judge the installed units, drop-ins included."""
        units = sorted(str(file) for file in Path("/etc/systemd/system").glob("tidewaiter*.service"))
        said = run("systemd-analyze", "verify", "--man=no", *units, check=False)
        self.facts["verified"] = [Path(unit).name for unit in units]
        self.facts["complaints"] = [line for line in said.stderr.splitlines() if "tidewaiter" in line]

    def keep_journal(self) -> None:
        """Write down what the journal holds, as a log shipper would read it."""
        units = (UNIT, SECOND, BEHIND, SIGNED, WITNESS, "tidewaiter-failure@*")
        journal = run("journalctl", "--no-pager", "-o", "json", *(f"--unit={unit}" for unit in units))
        (self.out / "journal.jsonl").write_text(journal.stdout)


def main() -> int:
    """Run the drill; 0 when every step came to its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--package", type=Path, default=REPOSITORY / "daemon/tidewaiter")
    arguments = parser.parse_args()
    drill = Drill(arguments.out, arguments.package)
    evidence = Evidence(drill.facts)
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
        ("catch up", drill.catch_up),
        ("misconfigured", drill.misconfigured),
        ("witness", evidence.start_witness),
        ("sign", evidence.sign),
        ("roll back", evidence.roll_back),
        ("verify units", drill.verify_units),
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
