"""The shipped units: what they say, and what they do under a real systemd.

The drill (tests/systemd_drill.py and tests/systemd_evidence.py) runs once, in a guest whose PID 1 is systemd; the tests
judge what it wrote down.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import PATIENCE, REPOSITORY
from tidewaiter.core import errors
from tidewaiter.core.tlog.checkpoints import parse_tree_head
from tidewaiter.core.tlog.notes import parse_note, parse_vkey, verified
from tidewaiter.shell.settings import Overrides
from tidewaiter.shell.settings_file import load_settings

UNITS = REPOSITORY / "systemd"
GUEST = REPOSITORY / "tests/systemd_guest.sh"
DRILL = REPOSITORY / "tests/systemd_drill.py"
GUIDE = UNITS / "README.md"
DAEMONS = ("tidewaiter.service", "tidewaiter@.service")
CAP_SYS_ADMIN = 1 << 21
EXIT_CREDENTIALS = 243  # systemd.exec(5): the credentials of a unit could not be set up
# What is not JSON: the last line of a command that failed, for people, and what the interpreter itself writes when the
# watchdog aborts it: where each thread stood.
PLAIN = re.compile(
    r"tidewaiter: |Fatal Python error: |(Current thread|Thread) 0x|  File |  \.\.\.|Extension modules: |$|  <"
)


def directives(unit: str) -> dict[str, list[str]]:
    """Return what a unit file says: key -> values in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text(encoding="utf-8").splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith(("#", ";", "[")):
            found.setdefault(key, []).append(value)
    return found


# -- what the units say ------------------------------------------------------------------------------------------


def test_the_template_differs_from_the_single_unit_only_in_names() -> None:
    """Both units are one sandbox: a line hardened in one of them alone would be a hole in the other."""
    single, template = (directives(unit) for unit in DAEMONS)
    differing = {key for key in single.keys() | template.keys() if single.get(key) != template.get(key)}
    assert differing == {
        "Description", "RequiresMountsFor", "ExecStart", "SyslogIdentifier", "StateDirectory", "LoadCredential",
    }  # fmt: skip
    for key in differing - {"Description"}:
        shown = (
            template[key][0]
            .replace("tidewaiter@%i", "tidewaiter")
            .replace("/tidewaiter/%i.toml", "/tidewaiter/tidewaiter.toml")
            .replace("tidewaiter-log-key.%i", "tidewaiter-log-key")
        )
        assert shown.replace("tidewaiter/%i", "tidewaiter") == single[key][0]


def test_exit_codes_that_need_a_person_are_not_restarted() -> None:
    """RestartPreventExitStatus= names exactly usage, halt and integrity, and a key that systemd could not hand over."""
    halted = dict.fromkeys(DAEMONS, f"{errors.EXIT_HALTED} ")
    for unit in (*DAEMONS, "tidewaiter-witness.service"):
        assert directives(unit)["RestartPreventExitStatus"] == [
            f"{errors.EXIT_USAGE} {halted.get(unit, '')}{errors.EXIT_INTEGRITY} {EXIT_CREDENTIALS}"
        ]
        assert directives(unit)["Restart"] == ["on-failure"]
        assert directives(unit)["RestartForceExitStatus"] == ["SIGHUP"]


def test_install_service_installs_every_unit_and_enables_none() -> None:
    """A unit that is shipped is installed, the witness's too; which of them run is for the operator to say."""
    script = (REPOSITORY / "scripts/install-service").read_text(encoding="utf-8")
    listed = re.search(r"^for unit in (.*); do$", script, re.MULTILINE)
    assert listed is not None
    assert sorted(listed[1].split()) == sorted(file.name for file in UNITS.glob("*.service"))
    assert not re.search(r"systemctl[^\n]* (enable|start|restart)\b(?!.*\\n')", script)


@pytest.mark.parametrize("unit", DAEMONS)
def test_exposure_is_at_most_one_half(unit: str) -> None:
    """`systemd-analyze security --offline` rates the sandbox at 0.5 or better."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, "LC_ALL": "C"},
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is older than 250: no --offline")
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure[1]) <= 0.5


def test_the_configuration_of_the_service_is_accepted(tmp_path: Path) -> None:
    """What install-service puts into /etc/tidewaiter is read without complaint, beside the shipped rules."""
    shutil.copytree(REPOSITORY / "config", tmp_path / "etc")
    shutil.copy(UNITS / "service.toml", tmp_path / "etc/tidewaiter.toml")
    settings = load_settings(tmp_path / "etc/tidewaiter.toml", Overrides())
    assert settings.producer is None
    assert settings.state.dir == Path("/var/lib/tidewaiter")


# -- what the guide says -----------------------------------------------------------------------------------------


def test_the_guide_explains_every_exit_code() -> None:
    """The table of exit codes has one row for each, those of `verify` included, no more."""
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    rows = {int(code) for code in re.findall(r"^\| `(\d)` \|", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)}
    assert rows == codes


def test_the_guide_names_every_log_event() -> None:
    """The table of log events and the events that can be logged are the same list."""
    from tidewaiter.edges.logs import EVENTS  # noqa: PLC0415 - that it exists is part of the test

    section = GUIDE.read_text(encoding="utf-8").partition("\n## Log events\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([a-z_.]+)` \|", section, flags=re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == set(EVENTS)


# -- what the units do -------------------------------------------------------------------------------------------


class Seen:
    """What the drill wrote down."""

    def __init__(self, folder: Path) -> None:
        self.facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        self.journal: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    def messages(self) -> list[tuple[dict[str, Any], str]]:
        """Return what daemon and witness themselves wrote to the journal: entry and message."""
        return [
            (entry, text_of(entry["MESSAGE"]))
            for entry in self.journal
            if entry.get("_TRANSPORT") == "stdout"
            and re.match(r"tidewaiter(@|-witness$|$)", entry.get("SYSLOG_IDENTIFIER", ""))
        ]


def text_of(message: str | list[int]) -> str:
    """Return a journal message as text; the journal shows what is not UTF-8 as a list of bytes."""
    return message if isinstance(message, str) else bytes(message).decode(errors="replace")


def cannot_boot() -> str:
    """Return why no guest can be booted here, found by trying what it needs; nothing when it can."""
    effective = re.search(
        r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE
    )
    if effective is None or not int(effective[1], 16) & CAP_SYS_ADMIN:
        return "no CAP_SYS_ADMIN"
    script = (
        "t=$(mktemp -d) && mount -t tmpfs tmpfs $t && mkdir $t/up $t/work $t/root && "
        "mount -t overlay overlay -o lowerdir=/,upperdir=$t/up,workdir=$t/work $t/root && "
        "mkdir $t/cgroup && mount -t cgroup2 cgroup2 $t/cgroup; e=$?; umount -l $t; rmdir $t; exit $e"
    )
    command = ["unshare", "--mount", "--pid", "--fork", "--ipc", "--net", "--uts", "--cgroup", "sh", "-c", script]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"the trial ended with {done.returncode}"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Boot the guest, run the drill in it once, and return what it saw."""
    reason = cannot_boot()
    if reason:
        pytest.skip(f"a real systemd cannot be booted here: {reason}")
    folder = tmp_path_factory.mktemp("drill")
    hidden = [Path(place) for place in ("/tmp", "/run", "/dev/shm")]
    package = Path(os.environ.get("TIDEWAITER_DRILL_PACKAGE", REPOSITORY / "daemon/tidewaiter"))
    needed = {REPOSITORY, package, Path(sys.prefix), Path(sys.base_prefix)}
    environment = {
        **os.environ,
        "WRITABLE": str(folder),
        "READABLE": " ".join(str(path) for path in needed if any(path.is_relative_to(place) for place in hidden)),
    }
    done = subprocess.run(
        [str(GUEST), sys.executable, "-B", str(DRILL), str(folder), "--package", str(package)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    if done.returncode != 0:
        journal = folder / "journal.txt"
        pytest.fail(
            f"the drill ended with {done.returncode}\n{done.stdout}{done.stderr}\n"
            + (journal.read_text(encoding="utf-8") if journal.exists() else ""),
            pytrace=False,
        )
    return Seen(folder)


@pytest.mark.systemd
class TestUnderSystemd:
    """One boot, many questions."""

    def test_start_returns_when_the_daemon_is_ready(self, seen: Seen) -> None:
        """`systemctl start` waits for READY, and flags appear in the state directory."""
        assert seen["state_after_start"] == "active"
        assert seen["first_flags_seconds"] < 10
        assert re.search(r"lag \d+ bytes", seen["status_text"])

    def test_the_sandbox_holds(self, seen: Seen) -> None:
        """The daemon runs as its own user, without a capability, under seccomp."""
        process = seen["process"]
        assert re.search(rf"^Uid:(\t{seen['service_uid']}){{4}}$", process, re.MULTILINE)
        assert re.search(r"^CapBnd:\t0+$", process, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", process, re.MULTILINE)
        assert re.search(r"^Seccomp:\t2$", process, re.MULTILINE)

    def test_hung_loop_is_restarted_by_the_watchdog(self, seen: Seen) -> None:
        """A loop that hangs ends by SIGABRT, leaves in the journal where it stood, and the next process goes on."""
        assert 2 <= seen["hang_restart_seconds"] < 20
        text = "\n".join(text_of(entry["MESSAGE"]) for entry in seen.journal)
        assert "Watchdog timeout (limit 10s)!" in text
        assert "Fatal Python error: Aborted" in text
        assert "in _hang" in text

    def test_killed_daemon_resumes(self, seen: Seen) -> None:
        """SIGKILL under load is followed by a restart that goes on."""
        assert seen["kill_restart_seconds"] < 10

    def test_flags_equal_those_of_an_uninterrupted_run(self, seen: Seen) -> None:
        """After hang, kill, stop, reload and two rotations the flags are the bytes of one quiet pass."""
        assert seen["reference_flags"] > 1_000
        assert seen["rotations"] == 2
        assert "late" not in seen.facts
        assert seen["flags"][0] == seen["flags"][1]

    def test_stop_under_load_is_quick_and_clean(self, seen: Seen) -> None:
        """`systemctl stop` ends with exit 0 well within five seconds, and the next start is quick."""
        assert seen["stop_result"] == ["success", "0", "inactive"]
        assert seen["stop_seconds"] < 5
        assert seen["second_start_seconds"] < 5

    def test_reload_keeps_the_process_and_refuses_a_broken_configuration(self, seen: Seen) -> None:
        """SIGHUP is served by the same process, and a configuration that is not accepted leaves the old in force."""
        assert seen["reload_same_process"]

    def test_state_is_readable_for_the_group_only(self, seen: Seen) -> None:
        """Auditors read flags and logs as members of the group; others don't."""
        for name in ("flags.jsonl", "tidewaiter.jsonl"):
            assert seen[f"auditor_reads_{name}"]
            assert not seen[f"stranger_reads_{name}"]

    def test_halt_stays_down_and_raises_the_alarm(self, seen: Seen) -> None:
        """Exit 3 is not restarted; the OnFailure= unit says so at priority crit."""
        assert seen["halt"] == ["exit-code", "3", "0"]
        assert seen["halt_failure_unit"] == "success"
        alarms = [entry for entry in seen.journal if entry.get("SYSLOG_IDENTIFIER") == "tidewaiter-failure"]
        assert {alarm["PRIORITY"] for alarm in alarms} == {"2"}
        told = [alarm["MESSAGE"].partition(";")[0] for alarm in alarms]
        # the unit that was killed and restarted is not among them: it never stayed down
        assert told == [
            "tidewaiter@second.service stays down: exit-code, exit status 3",
            "tidewaiter@third.service stays down: exit-code, exit status 2",
            "tidewaiter@signed.service stays down: exit-code, exit status 4",
        ]

    def test_backlog_has_processes_beside_the_daemon_in_its_sandbox(self, seen: Seen) -> None:
        """They start under the same user and seccomp, have one socket each, and end with the daemon."""
        assert seen["worker_modules"] == ["tidewaiter.edges.chain_serving", "tidewaiter.edges.tree_growing"]
        for process in seen["worker_processes"]:
            assert re.search(rf"^Uid:(\t{seen['service_uid']}){{4}}$", process, re.MULTILINE)
            assert re.search(r"^Seccomp:\t2$", process, re.MULTILINE)
        assert seen["worker_ends"] == [["socket", "socket", "/dev/null"]] * 2
        assert seen["worker_left"] == [False, False]
        assert seen["worker_stop"] == ["success", "0"]
        assert not any("worker.lost" in text for _, text in seen.messages())

    def test_skip_lets_a_halted_stream_go_on(self, seen: Seen) -> None:
        """The operator's guide works: skip as root, start again, one rejection, files keep their owner."""
        assert seen["rejections"] == 1
        assert seen["skip_keeps_owner"]

    def test_missing_configuration_is_not_restarted(self, seen: Seen) -> None:
        """A start that cannot succeed fails at once, with exit 2."""
        assert seen["misconfigured"] == [True, "2", "0"]

    def test_status_agrees_with_what_was_fed(self, seen: Seen) -> None:
        """`tidewaiter status --json` tells that all is read."""
        status = seen["status"]
        assert status["alive"]
        assert status["lag_bytes"] == 0
        assert status["reconciliation"]["balanced"]
        assert status["counts"]["events_read"] == seen["events"]
        assert status["counts"]["flags"] == seen["reference_flags"]

    def test_figures_for_prometheus_are_written_by_the_units_of_the_guide(self, seen: Seen) -> None:
        """The timer's service runs as shown, and another user may read the file."""
        assert re.search(r"^tidewaiter_up\{.*\} 1$", seen["figures"], re.MULTILINE)
        assert re.search(r"^tidewaiter_lag_bytes\{.*\} 0$", seen["figures"], re.MULTILINE)
        assert seen["figures_mode"] == "0o644"

    def test_systemd_understands_every_unit(self, seen: Seen) -> None:
        """`systemd-analyze verify` finds nothing to say about what was installed."""
        assert set(seen["verified"]) >= {*DAEMONS, "tidewaiter-failure@.service", "tidewaiter-witness.service"}
        assert seen["complaints"] == []

    def test_log_without_a_key_is_not_signed(self, seen: Seen) -> None:
        """A missing key file is no error: the unit starts, and the checkpoint says what it is worth."""
        assert parse_note(seen["unsigned_checkpoint"].encode(), unsigned=True).signatures == ()

    def test_key_in_the_credential_store_signs_the_log(self, seen: Seen) -> None:
        """Put there and nothing else done, the key's signature is on the checkpoint and gives the log its name."""
        note = parse_note(seen["witnessed"][0]["checkpoint"].encode())
        key = parse_vkey(seen["log_vkey"])
        assert verified(note, [key]) == [key]
        assert parse_tree_head(note.text).origin == "bank.example/transfers"

    def test_key_that_takes_over_signs_after_a_restart(self, seen: Seen) -> None:
        """`keys rotate` as root reaches the running daemon in its sandbox; systemd's next copy has both keys."""
        note = parse_note(seen["witnessed"][1]["checkpoint"].encode())
        keys = [parse_vkey(seen[name]) for name in ("log_vkey", "rotated_vkey")]
        assert verified(note, keys) == keys

    def test_key_is_read_by_its_daemon_only(self, seen: Seen) -> None:
        """Not another daemon of the same user, nor a member of the group, nor the witness; the file is root's alone."""
        copy = "/run/credentials/tidewaiter@signed.service/tidewaiter-log-key"
        assert seen["key_readers"] == {copy: ["its daemon"]}

    def test_witness_runs_in_its_sandbox(self, seen: Seen) -> None:
        """It is ready under a user of its own, without a capability, under seccomp."""
        process = seen["witness_process"]
        assert re.search(rf"^Uid:(\t{seen['witness_uid']}){{4}}$", process, re.MULTILINE)
        assert seen["witness_uid"] != seen["service_uid"]
        assert re.search(r"^CapBnd:\t0+$", process, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", process, re.MULTILINE)
        assert re.search(r"^Seccomp:\t2$", process, re.MULTILINE)

    def test_witness_without_a_key_stays_down(self, seen: Seen) -> None:
        """The manager says that it found none, and does not try again every two seconds."""
        assert seen["witness_without_key"] == [str(EXIT_CREDENTIALS), "0"]

    def test_witness_cosigns_what_a_daemon_in_its_sandbox_shows_it(self, seen: Seen) -> None:
        """With the network opened as the guide says, before and after a restart of the witness: it forgets nothing."""
        keys = [parse_vkey(seen[name]) for name in ("log_vkey", "witness_vkey")]
        notes = [parse_note(pair["witnessed"].encode()) for pair in seen["witnessed"]]
        assert [verified(note, keys) for note in notes] == [keys, keys]
        first, second = (parse_tree_head(note.text).size for note in notes)
        logged = [json.loads(text) for entry, text in seen.messages() if "witness.started" in text]
        assert logged[0]["sizes"] == {}
        assert first <= logged[-1]["sizes"].get("bank.example/transfers", 0) < second

    def test_rolled_back_state_is_refused_and_stays_down(self, seen: Seen) -> None:
        """The witness has seen more: exit 4, no restart, and the witness is none the worse for it."""
        assert seen["start_after_roll_back"] != 0
        assert seen["roll_back"] == ["exit-code", str(errors.EXIT_INTEGRITY), "0"]
        assert seen["witness_state"] == "active"
        assert any("rolled back or forked" in text for _, text in seen.messages())

    def test_journal_is_json_with_priorities(self, seen: Seen) -> None:
        """`journalctl -o json` parses; each message of the daemon is JSON, its level the journal's priority."""
        messages = seen.messages()
        logged = [(entry, json.loads(text)) for entry, text in messages if not PLAIN.match(text)]
        assert len(logged) > 10
        priorities = {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2"}
        for entry, message in logged:
            assert entry["PRIORITY"] == priorities[message["level"]]
            assert message["event"]
