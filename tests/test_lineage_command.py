"""``tidewaiter lineage``: what a person, a script and a program that draws are shown."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Final

import pytest

from support import run_cli
from tidewaiter import LineageTracker
from tidewaiter.edges.lineage_file import HEAD
from tidewaiter.shell.commands.app import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HASHES: Final = {name: name[0] * 64 for name in ("input", "lists", "output", "report")}


@pytest.fixture
def lineage(tmp_path: Path) -> LineageTracker:
    """An input and a list make an output, that makes a report; the contract governs both; one run follows another."""
    tracker = LineageTracker(tmp_path / "lineage_graph.jsonl", durable=False)
    for source, destination, edge, name, counts in (
        ("lists", "output", "config", "", (None, None, None)),
        ("input", "output", "data", "normalize", (1000, 950, 50)),
        ("output", "report", "data", "total", (950, 3, None)),
    ):
        tracker.record(
            source_location=str(tmp_path / source), source_hash=HASHES[source], transformation=name,
            destination_location=str(tmp_path / destination), destination_hash=HASHES[destination],
            edge=edge,  # type: ignore[arg-type]
            input_records=counts[0], output_records=counts[1], records_filtered=counts[2], run_id=f"run-{destination}",
        )  # fmt: skip
    tracker.record(
        source_type="run", source_location="run-output", destination_type="run", destination_location="run-report",
        edge="state",
    )  # fmt: skip
    tracker.close()
    return tracker


@pytest.fixture
def call(
    lineage: LineageTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command where the lineage is, and return code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["lineage", *arguments])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_ancestors_are_a_tree_into_the_past(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """A relative name means the file here; what data came from stands before what governed it."""
    code, out, err = call("ancestors", "report")
    assert (code, err) == (0, "")
    assert out.replace(f"{tmp_path}/", "").splitlines() == [
        "report@rrrrrrrrrrrr",
        "└─ output@oooooooooooo  [total · 950 in, 3 out]",
        "   ├─ input@iiiiiiiiiiii  [normalize · 1,000 in, 950 out, 50 filtered]",
        "   └─ lists@llllllllllll  [config]",
    ]
    assert "lists" not in call("ancestors", "report", "--edges", "data")[1]
    assert "… 1 more" in call("ancestors", "report", "--depth", "1", "--edges", "data")[1]


def test_descendants_and_path_go_forwards(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """By location, by version, by run and by a record's id; where no way leads, the exit code is 1."""
    assert "report@" in call("descendants", "input@iiii")[1]
    code, out, _ = call("path", "lists", "report")
    assert (code, out.count("→")) == (0, 2)
    assert call("path", "report", "input")[0] == 1
    assert "no way leads from report to input by data and config edges" in call("path", "report", "input")[2]
    assert "are the same" in call("path", "input", "input")[1]
    assert "run run-report  [state]" in call("descendants", "run-output", "--edges", "state")[1]
    record = json.loads(call("descendants", "input", "--json")[1].splitlines()[0])
    code, out, err = call("ancestors", record["lineage_id"])
    assert out.startswith(f"{record['lineage_id']}: {tmp_path}/input@iiiiiiiiiiii → {tmp_path}/output@")
    assert "nothing is recorded beyond that" in err


def test_json_gives_the_lines_of_the_file(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Nearest first, byte for byte."""
    lines = (tmp_path / "lineage_graph.jsonl").read_text().splitlines()[1:]
    assert call("ancestors", "report", "--json")[1].splitlines() == [lines[2], lines[0], lines[1]]
    assert call("path", "input", "report", "--json")[1].splitlines() == [lines[1], lines[2]]
    assert call("export")[1].splitlines() == lines
    assert call("export", "--of", "output", "--edges", "data")[1].splitlines() == [lines[1], lines[2]]


def test_impact_says_what_to_make_again(call: Callable[..., tuple[int, str, str]]) -> None:
    """For people the files and runs, for a script everything."""
    _, out, _ = call("impact", "lists")
    assert [line.split()[0] for line in out.splitlines()] == [
        "changed", "affected", "make", out.splitlines()[3].split()[0], "runs", "run-report", "through", "farthest",
    ]  # fmt: skip
    answer = json.loads(call("impact", "lists", "--json")[1])
    assert [node["hash"] for node in answer["destinations"]] == [HASHES["output"], HASHES["report"]]
    assert (answer["runs"], answer["depth"]) == (["run-output", "run-report"], 2)
    assert "nothing" in call("impact", "report")[1]


def test_the_summary_counts(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """An empty lineage has one, too."""
    answer = json.loads(call("summary", "--json")[1])
    assert (answer["records"], answer["nodes"], answer["by_edge"]) == (4, 6, {"data": 2, "config": 1, "state": 1})
    assert "4: 2 data, 1 config, 1 state" in call("summary")[1]
    (tmp_path / "lineage_graph.jsonl").write_bytes(HEAD)
    code, out, _ = call("summary")
    assert (code, out.split()[:2]) == (0, ["records", "0"])


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("dot", "digraph"),
        ("mermaid", "flowchart"),
        ("graphml", "<?xml"),
        ("graph", '{"nodes":[{"id":0'),
        ("json", "[\n{"),
    ],
)
def test_the_graph_is_exported_for_others(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, form: str, begins: str
) -> None:
    """To standard output or a new file, which is never overwritten."""
    _, out, _ = call("export", "--format", form)
    assert out.startswith(begins)
    assert call("export", "--format", form, "--out", "new")[0] == 0
    assert (tmp_path / "new").read_text() == out
    assert call("export", "--format", form, "--out", "new")[0] == 2


def test_a_table_is_for_spreadsheets(call: Callable[..., tuple[int, str, str]]) -> None:
    """One row for each record."""
    rows = list(csv.DictReader(io.StringIO(call("export", "--format", "csv")[1])))
    assert [row["transformation"] for row in rows] == ["", "normalize", "total", ""]


def test_errors_say_what_to_do(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """An unknown name, version, edge or file ends with code 2 and what was near."""
    for arguments, said in (
        (["ancestors", "reprot"], "did you mean run-report"),
        (["ancestors", "report@abcd"], "report is known with the hashes rrrrrrrrrrrr"),
        (["ancestors", "report", "--edges", "data,stat"], "no kind of edge: did you mean"),
        (["summary", "--file", "nowhere"], "nowhere: cannot be read"),
        (["summary", "--state-dir", "nowhere"], "no lineage was recorded there"),
        (["summary", "--state-dir", ".", "--file", "x"], "name one of them"),
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        assert said in err
    (tmp_path / "lineage_graph.jsonl").unlink()
    assert "none in the current directory" in call("summary")[2]


def test_a_record_that_is_being_written_is_left_out_and_told(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """The rest is shown; a line in the midst that is no record is refused with code 4."""
    path = tmp_path / "lineage_graph.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    code, out, err = call("summary", "--state-dir", ".")
    assert (code, out.split()[1]) == (0, "3:")
    assert "no whole record" in err
    path.write_bytes(whole + b"x\n")
    assert call("summary")[0] == 4


def test_names_cannot_command_the_terminal(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Control characters in a location are shown as text everywhere."""
    with LineageTracker(tmp_path / "lineage_graph.jsonl") as tracker:
        tracker.record(source_location="\x1b[31mred", destination_location="[bold]x\ny", transformation="\x07")
    for command in ("ancestors", "descendants", "impact"):
        for name in ("\x1b[31mred", "[bold]x\ny"):
            code, out, _ = call(command, name)
            assert code == 0
            assert not set("\x1b\x07") & set(out)
    assert "[bold]x\\ny" in call("impact", "\x1b[31mred")[1]


def test_the_command_runs_as_a_program(lineage: LineageTracker, tmp_path: Path) -> None:
    """With the file named, from any directory."""
    assert lineage.path is not None
    ended = run_cli("lineage", "ancestors", tmp_path / "report", "--file", lineage.path)
    assert (ended.returncode, ended.stdout.count(b"\n")) == (0, 4)
