"""Which files a pipeline may read and write: none of them twice, but for an input that is replaced by its output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tidewaiter.core.errors import EXIT_CLEAN, EXIT_HALTED, EXIT_USAGE
from tidewaiter.shell.commands.app import main

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = "id,value\n1,10\n2,20\n"
CONTRACT = 'contract = "c"\nversion = 1\n[field]\nid = { type = "integer" }\nvalue = { type = "integer" }\n'
JOINING = (
    'pipeline = "p"\nversion = 1\n[list.risk]\nfile = "risk.csv"\nkey = "id"\n[keys.k]\nfile = "secret"\n'
    '[[step]]\njoin = { file = "ref.csv", on = { id = "id" }, take = ["name"], missing = "null" }\n'
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an own directory, the current one, with an input and a pipeline file that names a list."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text(SAMPLE)
    (tmp_path / "ref.csv").write_text("id,name\n1,one\n")
    (tmp_path / "risk.csv").write_text("id,risk\n1,low\n")
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "p.toml").write_text(JOINING)
    return tmp_path


def state(place: Path) -> dict[str, bytes]:
    """Return all files of a directory."""
    return {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("-i out.csv.rejected.jsonl -o out.csv --on-invalid quarantine", ("rejected records", "input_path")),
        ("-i out.csv.rejected.jsonl -o out.csv", ("rejected records", "input_path")),
        ("-i .out.csv.tmp -o out.csv --input-format csv", ("temporary file of output_path", "input_path")),
        ("-i in.csv -o out.csv -a out.csv.rejected.jsonl", ("audit_path", "rejected records")),
        ("-i in.csv -o out.csv -a in.csv", ("audit_path", "input_path")),
        ("-i in.csv -o out.csv -a .out.csv.tmp", ("audit_path", "temporary file of output_path")),
        ("-i in.csv -o out.csv --save-contract in.csv", ("save_contract", "input_path")),
        ("-i in.csv -o out.csv --save-contract out.csv", ("save_contract", "output_path")),
        ("-i in.csv -o out.csv --openlineage in.csv", ("openlineage_path", "input_path")),
        ("-i in.csv -o out.csv --lineage in.csv", ("lineage_path", "input_path")),
        ("-i in.csv -o out.csv --lineage l.jsonl --openlineage l.jsonl", ("lineage_path", "openlineage_path")),
        ("-i in.csv -o e.cursor.json --output-format csv --openlineage e.jsonl", ("cursor", "output_path")),
        ("-i in.csv -o out.csv -a e.refused.jsonl --openlineage e.jsonl", ("refused", "audit_path")),
        ("-i in.csv -o ref.csv -c p.toml", ("output_path", "list of step")),
        ("-i in.csv -o risk.csv -c p.toml", ("output_path", "list.risk")),
        ("-i in.csv -o out.csv -a secret -c p.toml", ("audit_path", "keys.k")),
        ("-i in.csv -o out.csv -a p.toml -c p.toml", ("audit_path", "pipeline")),
        ("-i in.csv -o linked.csv --on-invalid drop -a hard.csv", ("audit_path", "input_path")),
        ("-i ?n.csv -i ref.csv -o in.csv", ("in.csv", "one of the files of the input")),
    ],
)
def test_no_file_is_written_that_is_read_or_written_as_another(
    place: Path, arguments: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 before anything is written, in one line that names both; links are one file with what they stand for."""
    os.link(place / "in.csv", place / "hard.csv")
    if "tmp" in arguments:
        (place / ".out.csv.tmp").write_text(SAMPLE)
    if "-i out.csv" in arguments:
        (place / "out.csv.rejected.jsonl").write_text('{"id":1}\n')
    before = state(place)
    assert main(["pipeline", *arguments.split()]) == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert state(place) == before


def test_a_contract_is_no_output(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A contract that lies where the rejected records would go stays what it is."""
    (place / "q.csv.rejected.jsonl").write_text(CONTRACT)
    before = state(place)
    told = ["pipeline", "-i", "in.csv", "-o", "q.csv", "--contract", "q.csv.rejected.jsonl"]
    assert main([*told, "--on-invalid", "quarantine"]) == EXIT_USAGE
    assert "contract" in capsys.readouterr().err
    assert state(place) == before


def test_an_input_may_be_replaced_by_its_output(place: Path) -> None:
    """Input and output may be one file, by a link too, where it is the only input."""
    (place / "link.csv").symlink_to("in.csv")
    assert main(["pipeline", "-i", "in.csv", "-o", "link.csv", "--no-audit", "-q"]) == EXIT_CLEAN
    assert (place / "link.csv").is_symlink()


def test_a_saved_contract_overwrites_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--save-contract names a new file; what is there is refused before anything is written."""
    (place / "c.toml").write_text("mine")
    before = state(place)
    assert main(["pipeline", "-i", "in.csv", "-o", "out.csv", "--save-contract", "c.toml"]) == EXIT_USAGE
    assert "name a new file" in capsys.readouterr().err
    assert state(place) == before


def test_a_failed_run_saves_no_contract(place: Path) -> None:
    """The inferred contract is written when the run has succeeded, and nothing of it is left otherwise."""
    told = ["pipeline", "-i", "in.csv", "-o", "out.csv", "--save-contract", "c.toml", "--no-audit", "-q"]
    (place / "in.csv").write_text(SAMPLE + "3\n")
    before = state(place)
    assert main(told) == EXIT_HALTED
    assert state(place) == before
    (place / "in.csv").write_text(SAMPLE)
    assert main(told) == EXIT_CLEAN
    assert state(place).keys() - before.keys() == {"out.csv", "c.toml"}


def test_one_table_in_two_forms_is_not_read_twice(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that holds a.csv and a.csv.gz would give every record twice: refused, naming both."""
    (place / "d").mkdir()
    for name in ("a.csv", "a.csv.gz"):
        (place / "d" / name).write_text(SAMPLE)
    for given in ("d", "d/a.*"):
        assert main(["pipeline", "-i", given, "-o", "out.csv", "--no-audit"]) == EXIT_USAGE
        told = capsys.readouterr().err
        assert "d/a.csv.gz" in told
        assert "d/a.csv," in told


@pytest.mark.parametrize("given", ["d", "d/*"])
def test_what_runs_leave_in_a_directory_is_no_input(place: Path, given: str) -> None:
    """Audit logs and rejected records beside CSV files are passed over, by directory and by pattern."""
    (place / "d").mkdir()
    (place / "d" / "a.csv").write_text(SAMPLE)
    (place / "d" / "a.csv.audit.jsonl").write_text("{}\n")
    (place / "d" / "a.csv.rejected.jsonl").write_text("{}\n")
    assert main(["pipeline", "-i", given, "-o", "out.csv", "--no-audit", "-q"]) == EXIT_CLEAN
    assert (place / "out.csv").read_text() == SAMPLE
