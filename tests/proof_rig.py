"""What the tests of audit, prove and bundle share: a signed log of several runs, and VERIFY.md followed to the letter.

`make_log` runs the real daemon three times over a growing stream, as its users do: from a configuration file, with a
list, and with a change of rules in between (the log of `evidence_rig` has one ruleset). `follow` is a third party: it
runs the fenced sh blocks of a page and has coreutils, find, grep and openssl, nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from evidence_rig import KEY, ORIGIN, write_key
from pure_core import line, lines
from support import PATIENCE, REPOSITORY, run_cli

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EVENTS: Final = 60
RULES: Final = """
ruleset = "mine"
version = {version}
contract = "money_flow/1"

[list.watched]
file = "watched, of March.txt"

[metric]
seen = {{ fn = "count", by = "user_id", window = "10s" }}

[scenario.burst]
typology = "velocity"
version = {version}
severity = "high"
on = "amount > 5 or user_id in list.watched"
when = "seen >= 2"
measure = "seen"
threshold = "2"
"""
CONFIG: Final = """
[stream]
path = "../events.jsonl"
[state]
dir = "../state"
segment_bytes = "8KiB"
[batch]
max_bytes = "2KiB"
[contract]
file = "{contract}"
[rules]
file = "r.toml"
[evidence]
origin = "{origin}"
"""
TOOLS: Final = (
    "base64", "cat", "comm", "cut", "find", "grep", "head", "mktemp", "mv", "od", "paste", "rm", "sha256sum", "sort",
    "split", "tail", "tr", "uniq", "wc",
)  # fmt: skip
"""What the pages use of coreutils, findutils and grep."""


@dataclass(frozen=True)
class Log:
    """A log with its configuration: `folder` holds config/, state/ and events.jsonl."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def config(self) -> Path:
        return self.folder / "config" / "tidewaiter.toml"

    @property
    def segments(self) -> list[Path]:
        return sorted((self.state / "audit").glob("audit-*.jsonl"))

    @property
    def audit(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.segments)

    def copy(self, target: Path) -> Log:
        """Return a log of its own, to be damaged."""
        shutil.copytree(self.folder, target, dirs_exist_ok=True)
        return Log(target)

    def run(self, first: int, last: int) -> None:
        """Append events and run the daemon to the end of the stream."""
        with (self.folder / "events.jsonl").open("ab") as file:
            file.write(
                lines(*(line(number, amount=number + 0.5, user_id=f"u{number % 5}") for number in range(first, last)))
            )
        done = run_cli("run", "--once", "--config", self.config, cwd=self.folder)
        assert done.returncode == 0, done.stderr.decode()


def make_log(folder: Path, *, signed: bool = True) -> Log:
    """Return a log of three runs, each with a checkpoint at its end; the second one begins with other rules."""
    log = Log(folder)
    log.config.parent.mkdir()
    contract = REPOSITORY / "config" / "contracts" / "money_flow.toml"
    config = CONFIG.format(contract=contract, origin=ORIGIN)
    if signed:
        write_key(folder / "key", KEY)
        config += f'key = "{folder / "key"}"\n'
    log.config.write_text(config)
    (log.config.parent / "watched, of March.txt").write_text("u1\n")
    for at in range(3):
        (log.config.parent / "r.toml").write_text(RULES.format(version=1 if at == 0 else 2))
        log.run(EVENTS * at // 3, EVENTS * (at + 1) // 3)
    return log


def blocks(page: Path) -> list[str]:
    """Return the commands of a page, block by block."""
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def follow(
    folder: Path, tools: Path, commands: Sequence[str] | None = None, *, everything: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the blocks of VERIFY.md in `folder` one after the other, as a shell of its own, until one fails.

    The only programs there are lie in `tools`, which is filled first, unless `everything` may be used. Skips the test
    where the machine lacks one.
    """
    if not tools.exists():
        tools.mkdir()
        for name in (*TOOLS, "openssl", "sh"):
            found = shutil.which(name)
            if found is None:
                pytest.skip(f"{name} is not installed")
            (tools / name).symlink_to(found)
    given = blocks(folder / "VERIFY.md") if commands is None else commands
    script = "".join(f"{{\n{block.strip()}\n}} || exit 1\n" for block in given)
    path = os.environ["PATH"] if everything else os.fspath(tools)
    with tempfile.TemporaryDirectory(dir=tools.parent) as work:
        done = subprocess.run(
            [os.fspath(tools / "sh"), "-c", script],
            cwd=folder, env={"PATH": path, "TMPDIR": work},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert not os.listdir(work), "the page left files behind"  # noqa: PTH208 - names are enough
    return done


def bundled(log: Log, out: Path, *arguments: str, signed: bool = True) -> Path:
    """Make a bundle, unpack it beside the file, and return where it lies."""
    where = ["--config", str(log.config)] if signed else ["--state-dir", str(log.state)]
    done = run_cli("bundle", "--out", out, *where, *arguments, cwd=log.folder.parent)
    assert done.returncode == 0, done.stderr.decode()
    with zipfile.ZipFile(out) as archive:
        archive.extractall(out.with_suffix(""))
    return out.with_suffix("")


def sum_anew(folder: Path) -> None:
    """Make up the list of files anew, as somebody who changed one does."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    listed = [name for name in names if not name.startswith("SHA256SUMS")]
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in listed]
    (folder / "SHA256SUMS").write_text("".join(sums))


def edit(folder: Path, pattern: str, old: bytes, new: bytes) -> None:
    """Replace something, once, in the last file of that name that has it."""
    path = [path for path in sorted(folder.glob(pattern)) if old in path.read_bytes()][-1]
    path.write_bytes(path.read_bytes().replace(old, new, 1))
