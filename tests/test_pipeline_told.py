"""What ``tidewaiter pipeline`` tells and records where a run does not come to its end, and where an input is odd."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tidewaiter.core.errors import EXIT_CLEAN, EXIT_HALTED, EXIT_USAGE
from tidewaiter.core.pipelines.transforms import transform
from tidewaiter.shell.commands.app import main
from tidewaiter.shell.pipelines import flowing
from tidewaiter.shell.pipelines.stopping import Stopped, Stopping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLE = "id,value\n1,10\n2,20\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an own directory, the current one, with an input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text(SAMPLE)
    (tmp_path / "p.toml").write_text('pipeline = "p"\nversion = 1\n[[step]]\nfilter = "id > 0"\n')
    return tmp_path


def pipeline(*arguments: str) -> int:
    """Run the command in this process."""
    return main(["pipeline", *arguments])


def ends(audit: Path) -> list[tuple[str, str]]:
    """Return status and error of the entries that begin and end a run."""
    entries = [json.loads(line) for line in audit.read_bytes().splitlines()]
    return [
        (entry["status"], entry["details"].get("error", "")) for entry in entries if entry.get("stage") == "pipeline"
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,id\n1,2\n", "both called id"),
        (b"id,\n1,2\n", "has no name"),
        (b"a,b\n1,2\n", "in.csv"),
        (b"i\xe9,value\n1,2\n", "cannot be read"),
        (None, "in.csv"),
    ],
    ids=["twice", "empty", "other columns", "encoding", "missing"],
)
def test_an_input_that_does_not_fit_is_recorded(place: Path, content: bytes | None, words: str) -> None:
    """Whatever the input has instead of what it should: exit 2, and the audit log has a run that failed, and why."""
    (place / "c.toml").write_text(
        'contract = "c"\nversion = 1\n[field]\nid = { type = "integer" }\nvalue = { type = "integer" }\n'
    )
    (place / "in.csv").unlink()
    if content is not None:
        (place / "in.csv").write_bytes(content)
    assert pipeline("-i", "in.csv", "-o", "out.csv", "--contract", "c.toml") == EXIT_USAGE
    (begun, _), (end, error) = ends(place / "out.csv.audit.jsonl")
    assert (begun, end) == ("started", "failed")
    assert words in error


def test_a_run_without_input_makes_no_output_directory(place: Path) -> None:
    """The directory of the output comes with the output; an audit log elsewhere has the run all the same."""
    assert pipeline("-i", "nowhere.csv", "-o", "out/deep/out.csv") == EXIT_USAGE
    assert not (place / "out").exists()
    assert pipeline("-i", "nowhere.csv", "-o", "out/deep/out.csv", "-a", "logs/a.jsonl") == EXIT_USAGE
    assert not (place / "out").exists()
    assert [status for status, _ in ends(place / "logs" / "a.jsonl")] == ["started", "failed"]


def sending(number: int, wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """Return a transform before which this process gets a signal."""

    def signalled(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return wrapped(*arguments)

    return signalled


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_as_failed(
    place: Path, number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM and Ctrl-C: one line, the exit code of the signal, a failed run in the trail, and no temporary file."""
    before = signal.getsignal(number)
    monkeypatch.setattr(flowing, "transform", sending(number, transform))
    assert pipeline("-i", "in.csv", "-o", "out.csv", "-c", "p.toml", "-q") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"tidewaiter: stopped by {number.name}; there is no output"
    assert ends(place / "out.csv.audit.jsonl")[1:] == [("failed", f"stopped by {number.name}")]
    assert sorted(path.name for path in place.iterdir()) == ["in.csv", "out.csv.audit.jsonl", "p.toml"]
    assert signal.getsignal(number) is before


def test_a_wish_to_stop_waits_until_it_may_be_granted() -> None:
    """Outside of the blocks that allow it nothing is raised; the next block raises at once, and only once."""
    stopping = Stopping()
    stopping.ask("SIGTERM")
    with pytest.raises(Stopped, match="stopped by SIGTERM"), stopping.allowed():
        pytest.fail("the block was entered")
    stopping.ask("SIGTERM")


def test_a_failed_run_without_a_previous_output_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing "is what it was before" where nothing was, nor on standard output."""
    (place / "in.csv").write_text(SAMPLE + "3\n")
    assert pipeline("-i", "in.csv", "-o", "out.csv", "--no-audit") == EXIT_HALTED
    assert "records; there is no output" in capsys.readouterr().err
    assert pipeline("-i", "in.csv", "-o", "-", "--output-format", "csv", "--no-audit") == EXIT_HALTED
    assert "records; there is no output" in capsys.readouterr().err
    (place / "out.csv").write_text("previous")
    assert pipeline("-i", "in.csv", "-o", "out.csv", "--no-audit") == EXIT_HALTED
    assert "out.csv is what it was before" in capsys.readouterr().err


def test_records_that_cannot_be_read_are_in_the_summary(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The counts of the steps begin with those of reading, where it rejected any."""
    (place / "in.csv").write_text(SAMPLE + "3\n")
    assert pipeline("-i", "in.csv", "-o", "out.csv", "--on-invalid", "drop", "--no-audit") == EXIT_CLEAN
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    at = lines.index("read 3 in, 2 out, 1 rejected")
    assert lines[at + 1] == "validate 2 in, 2 out"


@pytest.mark.parametrize("first", ["1,10", "a,2026-01-31", "x,-1.50"])
def test_a_record_that_is_taken_as_the_header_is_warned_of(
    place: Path, first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number or a date as the name of a column suggests --no-header; with it, and under a contract, all is quiet."""
    (place / "in.csv").write_text(f"{first}\n2,20\n")
    told = ("-i", "in.csv", "-o", "out.csv", "--no-audit")
    assert pipeline(*told) == EXIT_CLEAN
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert "say --no-header" in warning
    assert pipeline(*told, "--no-header") == EXIT_CLEAN
    (place / "in.csv").write_text(SAMPLE)
    assert pipeline(*told) == EXIT_CLEAN
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("word", ["utf8", "UTF-8", "cp1252", "iso-8859-1", "latin1"])
def test_the_usual_words_for_an_encoding_and_a_tab_are_taken(place: Path, word: str) -> None:
    r"""--delimiter takes ``\t`` as a tab, and --encoding the names that other tools use."""
    text = "id\tname\n1\té\n"
    (place / "in.csv").write_bytes(text.encode(word))
    told = ("--delimiter", "\\t", "--encoding", word, "--no-audit", "-q")
    assert pipeline("-i", "in.csv", "-o", "out.csv", *told) == EXIT_CLEAN
    assert (place / "out.csv").read_text() == "id,name\n1,é\n"


def test_an_unknown_encoding_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and the line lists those that are known."""
    assert pipeline("-i", "in.csv", "-o", "out.csv", "--no-audit", "--encoding", "ebcdic") == EXIT_USAGE
    assert "windows-1252" in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == ["in.csv", "p.toml"]
