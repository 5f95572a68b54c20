"""``tidewaiter pipeline`` as a person runs it: files, exit codes, what is printed, and what verifies it afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import PATIENCE, REPOSITORY, cli_environment, run_cli
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_HALTED, EXIT_UNANCHORED, EXIT_USAGE
from tidewaiter.shell.commands.app import main
from tidewaiter.shell.commands.pipeline_shown import PipelineBar
from tidewaiter.shell.lineage import LineageTracker

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = "id,value,category\n1,10,A\n2,20,B\n3,30,A\n4,40,C\n5,50,B\n"
PIPELINE = """
pipeline = "sample"
version = 1
on_invalid = "quarantine"
[[step]]
filter = "category != 'C'"
[[step]]
derive = { double = "value * 2" }
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an own directory, the current one, with the sample and a pipeline file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text(SAMPLE)
    (tmp_path / "pipeline.toml").write_text(PIPELINE)
    return tmp_path


def pipeline(*arguments: str) -> int:
    """Run the command in this process."""
    return main(["pipeline", *arguments])


def actions(audit: Path) -> list[str]:
    """Return the actions of an audit log."""
    return [json.loads(line)["action"] for line in audit.read_bytes().splitlines()]


def test_the_sample_needs_no_configuration(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Input, output and audit log are enough; the inferred contract and a summary are on standard error."""
    assert pipeline("-i", "in.csv", "-o", "out/out.csv", "-a", "out/audit.jsonl") == EXIT_CLEAN
    shown = capsys.readouterr()
    assert shown.out == ""
    assert 'value = { type = "integer" }' in shown.err
    assert "--save-contract" in shown.err
    assert "5 records in, 5 out, 0 removed, 0 rejected" in shown.err
    assert hashlib.sha256((place / "out" / "out.csv").read_bytes()).hexdigest() in shown.err
    assert actions(place / "out" / "audit.jsonl")[1:] == ["run", "read", "validate", "write", "run"]


@pytest.mark.parametrize(
    "command", [["-m", "tidewaiter.pipeline"], ["-m", "tidewaiter", "pipeline"]], ids=["module", "subcommand"]
)
def test_the_command_has_more_than_one_name(place: Path, command: list[str]) -> None:
    """The module runs what the subcommand runs."""
    done = subprocess.run(
        [sys.executable, *command, "-i", "in.csv", "-o", "out.csv", "--no-audit", "-q"],
        env=cli_environment(), capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (EXIT_CLEAN, b"")
    assert (place / "out.csv").read_text() == SAMPLE


def test_verify_accepts_the_trail(place: Path) -> None:
    """The audit log of pipelines is one that `verify --audit` follows: intact, and anchored nowhere else."""
    for _ in range(2):
        assert pipeline("-i", "in.csv", "-o", "out.csv", "--config", "pipeline.toml", "-q") == EXIT_CLEAN
    done = run_cli("verify", "--audit", place / "out.csv.audit.jsonl")
    assert done.returncode == EXIT_UNANCHORED, done.stderr
    data = (place / "out.csv.audit.jsonl").read_bytes().replace(b'"record_count":5', b'"record_count":6', 1)
    (place / "out.csv.audit.jsonl").write_bytes(data)
    assert run_cli("verify", "--audit", place / "out.csv.audit.jsonl").returncode not in (EXIT_CLEAN, EXIT_UNANCHORED)


def test_a_pipeline_file_is_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step is in the summary with its counts; the policy of the file keeps what it rejects."""
    with (place / "in.csv").open("a") as file:
        file.write("6,x\n")
    assert pipeline("-i", "in.csv", "-o", "out.csv", "-c", "pipeline.toml") == EXIT_CLEAN
    assert (place / "out.csv").read_text().splitlines()[0] == "id,value,category,double"
    told = capsys.readouterr().err
    assert "1_filter  5 in, 4 out, 1 removed" in told
    assert "rejected: in.csv: row 6" in told
    assert "out.csv.rejected.jsonl" in told
    assert (place / "out.csv.rejected.jsonl").read_bytes().count(b"\n") == 1


def test_an_option_goes_before_the_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--on-invalid halt overrules the file: one line names file and row and what to do, and the exit code is 3."""
    (place / "out.csv").write_text("previous")
    with (place / "in.csv").open("a") as file:
        file.write("6,x\n")
    arguments = ("-i", "in.csv", "-o", "out.csv", "-c", "pipeline.toml", "--on-invalid", "halt", "-q")
    assert pipeline(*arguments) == EXIT_HALTED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tidewaiter: in.csv: row 6: ")
    assert "--on-invalid" in line
    assert (place / "out.csv").read_text() == "previous"


def test_ten_rejections_are_shown_and_the_rest_counted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flood of rejected records does not flood the screen."""
    with (place / "in.csv").open("a") as file:
        file.write("6,x\n" * 33)
    assert pipeline("-i", "in.csv", "-o", "out.csv", "--on-invalid", "drop") == EXIT_CLEAN
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rejected: ")]
    assert len(told) == 11
    assert told[-1] == "rejected: 23 more"


def test_the_inferred_contract_is_saved_and_pinned(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What --save-contract writes is what was printed, and --contract takes it."""
    assert pipeline("-i", "in.csv", "-o", "a.csv", "--save-contract", "contract.toml") == EXIT_CLEAN
    assert (place / "contract.toml").read_text().rstrip() in capsys.readouterr().err
    assert pipeline("-i", "in.csv", "-o", "b.csv", "--contract", "contract.toml") == EXIT_CLEAN
    assert "inferred" not in capsys.readouterr().err
    (place / "in.csv").write_text(SAMPLE.replace("30", "thirty"))
    assert pipeline("-i", "in.csv", "-o", "b.csv", "--contract", "contract.toml") == EXIT_HALTED
    assert "in.csv: row 3: column value: " in capsys.readouterr().err


def test_standard_input_to_standard_output(place: Path) -> None:
    """A pipe in and a pipe out: the output comes only when the run has succeeded."""
    arguments = (
        "pipeline",
        "-i",
        "-",
        "-o",
        "-",
        "--input-format",
        "csv",
        "--output-format",
        "jsonl",
        "--no-audit",
        "-q",
    )
    done = run_cli(*arguments, stdin=SAMPLE.encode())
    assert done.stdout.splitlines()[0] == b'{"id":1,"value":10,"category":"A"}'
    assert (done.returncode, done.stderr) == (EXIT_CLEAN, b"")
    done = run_cli(*arguments, stdin=SAMPLE.encode() + b"6\n")
    assert (done.returncode, done.stdout) == (EXIT_HALTED, b"")
    assert b"standard input: row 6" in done.stderr


def test_the_dialect_of_the_input_can_be_told(place: Path) -> None:
    """Delimiter, encoding and a missing header are options."""
    (place / "in.txt").write_bytes("1;Müller\n2;Weiß\n".encode("latin-1"))
    told = ("--input-format", "csv", "--delimiter", ";", "--no-header", "--encoding", "latin-1")
    assert pipeline("-i", "in.txt", "-o", "out.csv", *told, "-q") == EXIT_CLEAN
    assert (place / "out.csv").read_text() == "column_1,column_2\n1,Müller\n2,Weiß\n"


def test_lineage_and_openlineage_are_recorded(place: Path) -> None:
    """Both options leave their file, the trail has the hash of what was written, and the output's origin is known."""
    told = ("--lineage", "l/graph.jsonl", "--openlineage", "l/events.jsonl")
    assert pipeline("-i", "in.csv", "-o", "out.csv", "-a", "audit.jsonl", *told, "-q") == EXIT_CLEAN
    assert actions(place / "audit.jsonl")[-4:] == ["write", "record_lineage", "openlineage", "run"]
    events = [json.loads(line)["eventType"] for line in (place / "l" / "events.jsonl").read_bytes().splitlines()]
    assert events == ["START", "COMPLETE"]
    with LineageTracker(place / "l" / "graph.jsonl") as lineage:
        (record,) = lineage.get_by_destination(str(place / "out.csv"))
        sources = {each.source_location for each in lineage.get_ancestors(record.lineage_id)}
    assert str(place / "in.csv") in sources


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-i", "in.csv", "-o", "out.csv", "-c", "nowhere.toml"), "nowhere.toml"),
        (("-i", "in.csv", "-o", "-", "--output-format", "csv"), "--audit FILE or --no-audit"),
        (("-i", "in.csv", "-o", "out.csv", "-a", "x", "--no-audit"), "--no-audit"),
        (("-i", "in.csv", "-o", "out.xlsx"), "out.xlsx"),
    ],
)
def test_wrong_options_exit_with_2_and_write_nothing(
    place: Path, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what is wrong; nothing is left behind."""
    before = sorted(place.iterdir())
    assert pipeline(*arguments) == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert sorted(place.iterdir()) == before


def test_the_bar_shows_bytes_records_and_the_time_left() -> None:
    """A person at a terminal sees how much is read, how many records that were, and how long the rest takes."""
    now = [0.0]
    out = io.StringIO()
    bar = PipelineBar(out, lambda: now[0])
    now[0] = 2.0
    bar.show(bytes_read=25, bytes_total=100, records=1234, rejected=2)
    bar.close()
    assert "25%" in out.getvalue()
    assert "1,234 records  2 rejected  6 s left" in out.getvalue()


@pytest.mark.parametrize("module", ["tidewaiter.shell.supervisor", "tidewaiter.shell.commands.app"])
def test_the_daemon_does_not_pay_for_polars(module: str) -> None:
    """Neither the daemon nor the table of commands loads polars."""
    code = f"import sys, {module}; sys.exit('polars' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=cli_environment(), check=False, timeout=PATIENCE)
    assert done.returncode == 0


def test_the_entry_points_are_there() -> None:
    """The distribution installs `pipeline` beside `tidewaiter`."""
    assert 'pipeline = "tidewaiter.pipeline.__main__:main"' in (REPOSITORY / "pyproject.toml").read_text()
