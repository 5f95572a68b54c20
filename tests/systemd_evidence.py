"""Keys and a witness under a real systemd: the steps of the drill that are about evidence.

Owns: an instance of the template whose log is signed and witnessed, set up with the words of the operator's guide, and
what happens to both. Leaves everything else to tests/systemd_drill.py, and judging to tests/test_systemd.py.
"""

from __future__ import annotations

import grp
import pwd
import re
import shutil
from pathlib import Path
from typing import Any, Final

from systemd_tools import (
    REPOSITORY,
    SPOOL,
    STATE,
    UNIT,
    WITNESS,
    configure,
    drop_in,
    make_stream,
    run,
    show,
    tidewaiter,
    wait_for,
)

SIGNED: Final = "tidewaiter@signed.service"
EVENTS: Final = 3_000
LOG_KEY: Final = Path("/etc/credstore/tidewaiter-log-key.signed")
COPIES: Final = Path("/run/credentials")
CONFIG: Final = Path("/etc/tidewaiter/signed.toml")
WITNESS_KEY: Final = Path("/etc/tidewaiter-witness/witness.key")


class Evidence:
    """The steps, in the order of their methods; each adds to `facts`."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.state = STATE / "signed"
        self.stream = SPOOL / "signed/events.jsonl"
        self.lines: list[bytes] = []

    def start_witness(self) -> None:
        """Start the witness without a key, then with one."""
        run("systemctl", "start", WITNESS, check=False)
        wait_for("the end of a witness without a key", lambda: show(WITNESS, "ActiveState") == "failed")
        self.facts["witness_without_key"] = [show(WITNESS, "ExecMainStatus"), show(WITNESS, "NRestarts")]
        made = tidewaiter("witness", "new", "--key", WITNESS_KEY, "--name", "witness.example.org/w1")
        self.facts["witness_vkey"] = made.stdout.split()[0]
        made = tidewaiter("keys", "new", "--key", LOG_KEY, "--name", "bank.example/transfers")
        self.facts["log_vkey"] = made.stdout.split()[0]
        WITNESS_KEY.with_name("logs.policy").write_text(f"log {self.facts['log_vkey']}\nquorum none\n")
        run("systemctl", "start", WITNESS)
        self.facts["witness_process"] = Path(f"/proc/{show(WITNESS, 'MainPID')}/status").read_text()
        self.facts["witness_uid"] = pwd.getpwnam("tidewaiter-witness").pw_uid

    def sign(self) -> None:
        """Start a daemon that finds a key in the credential store, and may reach the witness and nothing else."""
        self.facts["unsigned_checkpoint"] = (STATE / "tlog/checkpoint").read_text()
        self.stream.parent.mkdir()
        self.stream.parent.chmod(0o755)
        make_stream(self.stream)
        source = Path("/tmp/signed.jsonl")  # the guest's own
        tidewaiter("generate", "--out", source, "--events", str(EVENTS), "--seed", "11")
        self.lines = source.read_bytes().splitlines(keepends=True)
        policy = Path("/etc/tidewaiter/witnesses.policy")
        policy.write_text(f"witness w1 {self.facts['witness_vkey']} http://127.0.0.1:8650/\nquorum w1\n")
        configure(CONFIG.stem, self.stream, self.state, f'\n[evidence]\npolicy = "{policy.name}"\n')
        drop_in(SIGNED, "witness", network_as_the_guide_opens_it())
        run("systemctl", "daemon-reload")
        self._feed(EVENTS // 2)
        run("systemctl", "start", SIGNED)
        self.facts["witnessed"] = [self._cosigned()]
        self.facts["key_readers"] = self._key_readers()

    def roll_back(self) -> None:
        """Keep a copy, go on with another key and a restarted witness, then put the copy in place."""
        arguments = ("--config", CONFIG, "--key", LOG_KEY, "--reason", "once a year", "--actor", "the drill")
        said = tidewaiter("keys", "rotate", *arguments).stdout
        self.facts["rotated_vkey"] = said.rpartition("vkey: ")[2].strip()
        run("systemctl", "stop", SIGNED)
        older = Path("/tmp/older")
        run("cp", "-a", self.state, older)
        run("systemctl", "restart", WITNESS)
        self._feed(EVENTS)
        run("systemctl", "start", SIGNED)
        self.facts["witnessed"].append(self._cosigned())
        run("systemctl", "stop", SIGNED)
        shutil.rmtree(self.state)
        run("cp", "-a", older, self.state)
        self.facts["start_after_roll_back"] = run("systemctl", "start", SIGNED, check=False).returncode
        # a unit that waits for its restart is not "failed"
        wait_for("the refusal", lambda: show(SIGNED, "ActiveState") == "failed")
        self.facts["roll_back"] = [show(SIGNED, "Result"), show(SIGNED, "ExecMainStatus"), show(SIGNED, "NRestarts")]
        self.facts["witness_state"] = show(WITNESS, "ActiveState")

    def _feed(self, events: int) -> None:
        """Let the stream hold so many of the events."""
        self.stream.write_bytes(b"".join(self.lines[:events]))

    def _cosigned(self) -> dict[str, str]:
        """Return checkpoint and cosigned checkpoint, once all that was fed is read and the witness has seen it."""
        found: dict[str, str] = {}

        def done() -> bool:
            entries = (self.state / "audit/audit-00000000000000000000.jsonl").read_text()
            for name in ("checkpoint", "witnessed"):
                file = self.state / "tlog" / name
                found[name] = file.read_text() if file.exists() else ""
            sizes = {text.partition("\n")[2].partition("\n")[0] for text in found.values()}
            return f'"offset":{self.stream.stat().st_size},' in entries and sizes == {str(entries.count("\n"))}

        wait_for("a cosigned checkpoint of all that was fed", done)
        return found

    def _key_readers(self) -> dict[str, list[str]]:
        """Return who can read which of the two files with the log's key, in the namespace each of them lives in."""
        daemon, group = pwd.getpwnam("tidewaiter"), str(grp.getgrnam("tidewaiter").gr_gid)
        witness = pwd.getpwnam("tidewaiter-witness").pw_uid
        people = {
            "its daemon": (SIGNED, daemon.pw_uid, group),
            "another daemon": (UNIT, daemon.pw_uid, group),
            "the witness": (WITNESS, witness, group),
            "an auditor": (None, 65534, group),
            "a stranger": (None, 65534, "65534"),
        }
        readers: dict[str, list[str]] = {}
        for file in (LOG_KEY, COPIES / SIGNED / "tidewaiter-log-key"):
            for who, (unit, uid, gid) in people.items():
                inside = [] if unit is None else ["nsenter", "--mount", f"--target={show(unit, 'MainPID')}"]
                person = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
                done = run(*inside, *person, "head", "-c1", file, check=False)
                if done.returncode == 0:
                    readers.setdefault(str(file), []).append(who)
        return readers


def network_as_the_guide_opens_it() -> str:
    """Return the drop-in that the operator's guide shows, for a witness on this machine."""
    guide = (REPOSITORY / "systemd/README.md").read_text()
    shown = re.search(r"```ini\n# systemctl edit tidewaiter\n([^`]*PrivateNetwork=no[^`]*)```", guide)
    assert shown is not None
    return shown[1].replace("192.0.2.7", "127.0.0.1")
