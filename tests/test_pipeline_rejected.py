"""The records that a pipeline rejects: what is kept of each, how many there may be, and what is left of older ones."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tidewaiter.core.errors import EXIT_CLEAN, EXIT_HALTED, EXIT_USAGE, ConfigError
from tidewaiter.pipeline import Pipeline, PipelineConfig, PipelineResult, run_pipeline
from tidewaiter.shell.commands.app import main

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = "id,value\n1,10\n2,20\n"
CONTRACT = 'contract = "c"\nversion = 1\n[field]\nid = { type = "integer" }\nvalue = { type = "integer" }\n'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an own directory, the current one, with an input and its contract."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text(SAMPLE)
    (tmp_path / "c.toml").write_text(CONTRACT)
    return tmp_path


def run(**changes: Any) -> PipelineResult:
    """Run a pipeline that keeps rejected records."""
    told: dict[str, Any] = {
        "input_path": "in.csv",
        "output_path": "out.csv",
        "contract": "c.toml",
        "on_invalid": "quarantine",
    }
    return run_pipeline(PipelineConfig(**(told | changes)))


def kept(place: Path) -> list[dict[str, Any]]:
    """Return the rejected records."""
    return [json.loads(line) for line in (place / "out.csv.rejected.jsonl").read_bytes().splitlines()]


def test_a_rejected_record_says_which_file_it_is_in(place: Path) -> None:
    """With several inputs the line has the file as it was given and the row there, counted behind the header."""
    (place / "d").mkdir()
    for name in ("a.csv", "b.csv"):
        (place / "d" / name).write_text(SAMPLE + "3,x\n4\n")
    assert run(input_path=["d/a.csv", "d/b.csv"]).success
    assert [(each["row"], each["file"], each["file_row"], each["step"]) for each in kept(place)] == [
        (4, "d/a.csv", 4, "read"),
        (8, "d/b.csv", 4, "read"),
        (3, "d/a.csv", 3, "validate"),
        (7, "d/b.csv", 3, "validate"),
    ]


def test_a_row_that_an_aggregate_made_is_in_no_file(place: Path) -> None:
    """Its row is one of what the aggregate gives, and file and row in it are null."""
    (place / "in.csv").write_text("id,value\n1,9223372036854775807\n")
    steps = Pipeline("p").aggregate(by=["id"], most="max(value)").derive(more="most * 1000")
    assert run(pipeline=steps).success
    (line,) = kept(place)
    assert (line["row"], line["file"], line["file_row"]) == (1, None, None)


def test_the_bytes_of_a_rejected_record_are_unambiguous(place: Path) -> None:
    r"""A byte that is no UTF-8 is in base64, the text ``\xe9`` is text, and both lines have length and hash."""
    records = [b"1,2,\xe9", b"1,2,\\xe9"]
    (place / "in.csv").write_bytes(b"id,value\n" + b"\n".join(records) + b"\n")
    assert run().success
    first, second = kept(place)
    assert "record" not in first
    assert base64.b64decode(first["record_base64"]) == records[0]
    assert second["record"] == "1,2,\\xe9"
    assert "record_base64" not in second
    for line, raw in zip((first, second), records, strict=True):
        assert (line["length"], line["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert "truncated" not in line


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
def test_a_cut_record_is_marked(place: Path, name: str) -> None:
    """Of a record that is too long to be held the beginning is kept, with its whole length and a mark, and no hash."""
    long = "1," + "é" * (1 << 20)
    begin = SAMPLE if name == "in.csv" else '{"id":1,"value":10}\n'
    (place / name).write_text(begin + long + "\n")
    assert run(input_path=name).success
    (line,) = kept(place)
    assert line["truncated"] is True
    assert line["length"] == len(long.encode())
    assert 0 < len(line["record"].encode()) < line["length"]
    assert "sha256" not in line


@pytest.mark.parametrize("policy", ["halt", "drop"])
def test_old_rejected_records_do_not_outlive_their_output(place: Path, policy: str) -> None:
    """A run that succeeds without keeping records removes those of the run before, and its trail says so."""
    (place / "in.csv").write_text(SAMPLE + "3,x\n")
    assert run().success
    digest = hashlib.sha256((place / "out.csv.rejected.jsonl").read_bytes()).hexdigest()
    assert not run(on_invalid="halt").success
    assert (place / "out.csv.rejected.jsonl").exists()
    (place / "in.csv").write_text(SAMPLE)
    assert run(on_invalid=policy, audit_path="a.jsonl").success
    assert not (place / "out.csv.rejected.jsonl").exists()
    entries = [json.loads(line) for line in (place / "a.jsonl").read_bytes().splitlines()]
    (write,) = (entry for entry in entries if entry.get("stage") == "write")
    assert write["details"]["removes"] == {"file": str(place / "out.csv.rejected.jsonl"), "sha256": digest}


def test_a_file_of_somebody_else_is_not_removed(place: Path) -> None:
    """What does not look like rejected records stays, whatever its name."""
    (place / "out.csv.rejected.jsonl").write_text('{"mine":1}\n')
    assert run(on_invalid="drop").success
    assert (place / "out.csv.rejected.jsonl").read_text() == '{"mine":1}\n'


@pytest.mark.parametrize(
    ("most", "passes"), [(2, True), ("1", False), (0, False), ("50%", True), ("49.9%", False), ("100%", True)]
)
@pytest.mark.parametrize("policy", ["quarantine", "drop"])
def test_too_many_rejected_records_fail_the_run(place: Path, most: int | str, *, passes: bool, policy: str) -> None:
    """More than max_rejected, a number or a share of the input's records, and the previous output stays; exit 3."""
    (place / "out.csv").write_text("previous")
    (place / "in.csv").write_text(SAMPLE + "x,3\n4\n")
    result = run(max_rejected=most, on_invalid=policy)
    assert (result.success, result.exit_code) == (passes, EXIT_CLEAN if passes else EXIT_HALTED)
    if not passes:
        assert f"more than {most} of the records were rejected" in result.errors[0]
        assert sorted(path.name for path in place.iterdir()) == ["c.toml", "in.csv", "out.csv"]
        assert (place / "out.csv").read_text() == "previous"


@pytest.mark.parametrize("most", ["-1", "5 %", "101%", "many", -1, 1.5])
def test_a_limit_that_is_none_is_refused(most: Any) -> None:
    """A number of records or a percentage up to 100, or nothing."""
    with pytest.raises(ConfigError, match="max_rejected"):
        run(max_rejected=most)


def test_the_limit_is_an_option(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--max-rejected makes quarantine fail instead of leaving a header only."""
    (place / "in.csv").write_text("id,value\nx,y\n")
    told = ["pipeline", "-i", "in.csv", "-o", "out.csv", "--contract", "c.toml", "--on-invalid", "quarantine"]
    assert main([*told, "--no-audit", "--max-rejected", "5%"]) == EXIT_HALTED
    shown = capsys.readouterr().err
    assert "rejected: in.csv: row 1" in shown
    assert "more than 5% of the records were rejected" in shown
    assert main([*told, "--no-audit", "--max-rejected", "lots"]) == EXIT_USAGE
    assert not (place / "out.csv").exists()
