"""What the README shows of pipelines, done literally: each command, and what it prints."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import PATIENCE, REPOSITORY, cli_environment, run_cli
from tidewaiter.core.errors import EXIT_USAGE
from tidewaiter.core.pipelines.samples import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

VARIES = re.compile(r" in [0-9.]+ s$| run [0-9a-f-]{36};")
"""How long a run took, and what it is called."""


def section_of(title: str) -> str:
    """Return the README's section of this title."""
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def shown(section: str) -> list[tuple[str, list[str]]]:
    """Return the commands that a section shows, each with the lines that it prints."""
    text = "".join(re.findall(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    commands = [each.splitlines() for each in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    return [(command, lines) for command, *lines in commands]


@pytest.fixture(scope="module")
def section() -> str:
    """The README's section about pipelines."""
    return section_of("Batch pipelines")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the shipped configuration and the program."""
    path = tmp_path
    shutil.copytree(REPOSITORY / "config", path / "config")
    (path / "bin").mkdir()
    program = path / "bin" / "tidewaiter"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tidewaiter "$@"\n')
    program.chmod(0o755)
    return path


def run(place: Path, command: str) -> str:
    """Return what a shell says to a command; both streams."""
    environment = cli_environment()
    environment["PATH"] = f"{place / 'bin'}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env=environment,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        text=True,
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout + done.stderr


def test_every_command_prints_what_is_shown(section: str, place: Path) -> None:
    """Line by line; an ellipsis stands for lines left out, and what varies from run to run is left aside."""
    commands = shown(section)
    assert len(commands) >= 7
    for command, lines in commands:
        said = [VARIES.sub("", line) for line in run(place, command).splitlines()]
        for line in lines:
            assert line == "…" or VARIES.sub("", line) in said, (command, line, said)
    assert (place / "out" / "totals.csv.rejected.jsonl").read_bytes().count(b"\n") == 2


def test_every_question_about_the_lineage_gets_the_answer_that_is_shown(section: str, place: Path) -> None:
    """Over what the section before recorded, line by line and in order; an ellipsis stands for whatever varies."""
    for command, _ in shown(section):
        if command.startswith("tidewaiter samples") or "--lineage" in command:
            run(place, command)
    commands = shown(section_of("Lineage: what was made from what"))
    assert len(commands) >= 6
    for command, lines in commands:
        form = "\n".join(re.escape(line).replace("…", "(?s:.*)" if line == "…" else ".*") for line in lines)
        said = run(place, command).rstrip("\n")
        assert re.fullmatch(form, said), (command, said)
    assert (place / "totals.dot").read_text().startswith("digraph lineage {")


def run_program(place: Path, program: str) -> str:
    """Run lines of Python to their end, in silence, and return what they printed."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place,
        env=cli_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_lineage_program_runs(place: Path) -> None:
    """The Python lines of the section, as they stand."""
    section = section_of("Lineage: what was made from what")
    (program,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    program += "print(len(ancestors), impact.destinations, summary.records)\n"
    run_program(place, program)


def test_the_python_program_runs(section: str, place: Path) -> None:
    """It reads the lines that a command before it made, and tells of success, counts and hash."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    run(place, "tidewaiter samples claim_line --out lines.csv --number 200")
    words = run_program(place, program).split()
    output = (place / "out" / "big.parquet").read_bytes()
    assert words[:2] == ["True", "496"]
    assert words[3] == hashlib.sha256(output).hexdigest()
    assert words[-1] == "()"


@pytest.mark.parametrize("table", sorted(SAMPLES))
def test_samples_meet_their_contract(table: str, tmp_path: Path) -> None:
    """The same bytes for the same seed, all of them accepted; a file that is there is left alone."""
    first, second = (tmp_path / name for name in ("first.csv", "second.csv"))
    for path in (first, second):
        assert run_cli("samples", table, "--out", path, "--number", "50", "--seed", "7").returncode == 0
    assert first.read_bytes() == second.read_bytes()
    contract = REPOSITORY / "config" / "contracts" / f"{table}.toml"
    done = run_cli("pipeline", "-q", "-i", first, "-o", tmp_path / "out.csv", "--no-audit", "--contract", contract)
    assert (done.returncode, done.stderr) == (0, b"")
    assert run_cli("samples", table, "--out", first).returncode == EXIT_USAGE


def test_samples_are_csv_files_only(tmp_path: Path) -> None:
    """A name that promises another format is refused, and nothing is written."""
    done = run_cli("samples", "claim", "--out", tmp_path / "claims.jsonl")
    assert done.returncode == EXIT_USAGE
    assert b"the table is written as CSV: name a file that ends in .csv" in done.stderr
    assert list(tmp_path.iterdir()) == []
