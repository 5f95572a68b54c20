"""Lineage and OpenLineage beside a run: what is found wrong before it, and what only afterwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from rigs.faulty_disk import Fault, FaultyDisk
from rigs.tmpfs import quick_directory
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_INTEGRITY, EXIT_UNANCHORED, ConfigError
from tidewaiter.edges.lineage_file import HEAD
from tidewaiter.pipeline import PipelineConfig, PipelineResult, run_pipeline
from tidewaiter.shell.commands.app import main
from tidewaiter.shell.lineage import LineageTracker
from tidewaiter.shell.lineage_recording import LineageRecorder
from tidewaiter.shell.openlineage_settings import OpenLineagePart

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREVIOUS: Final = b"what was there before\n"
NOBODY: Final = "http://127.0.0.1:9"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory with an input and a previous output."""
    with quick_directory() as path:
        (path / "in.csv").write_text("id,amount\n1,1.00\n2,2.00\n")
        (path / "out.csv").write_bytes(PREVIOUS)
        yield path


def run(place: Path, **changes: Any) -> PipelineResult:
    """Copy the input of `place`; `disk` is the run's disk, the others are members of its configuration."""
    disk = changes.pop("disk", None)
    told: dict[str, Any] = {
        "input_path": place / "in.csv", "output_path": place / "out.csv", "audit_path": place / "audit.jsonl",
    }  # fmt: skip
    return run_pipeline(PipelineConfig(**(told | changes)), disk=disk)


def stages(place: Path, stage: str) -> list[dict[str, Any]]:
    """Return the entries of one stage."""
    entries = [json.loads(line) for line in (place / "audit.jsonl").read_bytes().splitlines()]
    return [entry for entry in entries if entry.get("stage") == stage]


def assert_untouched(place: Path, file: Path, text: bytes) -> None:
    """Assert that the previous output is there, that the file is what it was, and that no run began."""
    assert (place / "out.csv").read_bytes() == PREVIOUS
    assert file.read_bytes() == text
    assert not (place / "audit.jsonl").exists()


@pytest.mark.parametrize("option", ["lineage_path", "openlineage_path"])
@pytest.mark.parametrize(
    "text", [b"junk", b"junk\n", b'{"a":1}\n', b"\n", b'{"producer":7}\n', b"\xff\n", b"[" * 99_999]
)
def test_a_foreign_file_stops_the_run_before_it_begins(place: Path, option: str, text: bytes) -> None:
    """A file that neither lineage nor events are in is named and left alone, and so is the previous output."""
    file = place / "junk.txt"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=r"junk\.txt"):
        run(place, **{option: file})
    assert_untouched(place, file, text)


@pytest.mark.parametrize("option", ["lineage_path", "openlineage_path"])
def test_the_input_is_no_file_for_records(place: Path, option: str) -> None:
    """Naming the input by mistake appends nothing to it."""
    file = place / "in.csv"
    text = file.read_bytes()
    with pytest.raises(ConfigError, match=r"in\.csv"):
        run(place, **{option: file})
    assert_untouched(place, file, text)


@pytest.mark.parametrize("option", ["lineage_path", "openlineage_path"])
@pytest.mark.parametrize("name", ["directory", "in.csv/below"])
def test_a_place_that_cannot_be_written_stops_the_run_before_it_begins(place: Path, option: str, name: str) -> None:
    """A directory, or a file in the way of one, is found before the output is replaced."""
    (place / "directory").mkdir()
    with pytest.raises(ConfigError, match=name):
        run(place, **{option: place / name})
    assert (place / "out.csv").read_bytes() == PREVIOUS


def test_a_lineage_with_a_changed_record_stops_the_run_before_it_begins(place: Path) -> None:
    """Exit 4 with the byte, the previous output is there, and nothing is appended."""
    file = place / "graph.jsonl"
    assert run(place, lineage_path=file, audit_path=place / "other.jsonl").success
    (place / "out.csv").write_bytes(PREVIOUS)
    text = file.read_bytes().replace(b"lineage_id", b"linebge_id", 1)
    file.write_bytes(text)
    result = run(place, lineage_path=file)
    assert (result.success, result.exit_code) == (False, EXIT_INTEGRITY)
    assert f"graph.jsonl: byte {len(HEAD)}: " in result.errors[0]
    assert_untouched(place, file, text)


def test_a_lineage_that_cannot_be_written_at_the_end_is_a_warning(place: Path) -> None:
    """The output is in place, the run succeeded, and result and audit log say what is missing."""
    disk = FaultyDisk([Fault("pwrite", "graph.jsonl", times=99)])
    result = run(place, disk=disk, lineage_path=place / "graph.jsonl", openlineage_path=place / "events.jsonl")
    assert disk.failures
    assert (result.success, result.exit_code, result.errors) == (True, EXIT_CLEAN, ())
    (warning,) = result.warnings
    assert warning.startswith("the lineage was not recorded: ")
    assert (place / "out.csv").read_bytes() != PREVIOUS
    (entry,) = stages(place, "record_lineage")
    assert entry["status"] == "failed"
    assert "graph.jsonl" in entry["details"]["error"]
    assert [each["status"] for each in stages(place, "openlineage")] == ["completed"] * 2
    assert stages(place, "pipeline")[-1]["status"] == "completed"
    assert main(["verify", "--audit", str(place / "audit.jsonl")]) == EXIT_UNANCHORED


def test_a_lineage_that_somebody_else_holds_at_the_end_is_a_warning(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the end another program may have opened it: what the run made is not taken back."""
    file = place / "graph.jsonl"
    monkeypatch.setattr("tidewaiter.shell.lineage_recording.check_appendable", lambda *_: None)
    monkeypatch.setattr(LineageRecorder.__init__, "__kwdefaults__", {"disk": None, "wait_s": 0.0})
    with LineageTracker(file):
        result = run(place, lineage_path=file)
    assert result.success
    assert "being written by another" in result.warnings[0]


def test_events_that_nobody_takes_are_told(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, even when quiet, and the same in the audit log; the next run counts on."""
    events = place / "ol.jsonl"
    arguments = ["-i", str(place / "in.csv"), "-o", str(place / "out.csv"), "-a", str(place / "audit.jsonl"), "-q"]
    told = ["--openlineage", str(events), "--openlineage-url", NOBODY]
    for number in (2, 4):
        assert main(["pipeline", *arguments, *told]) == EXIT_CLEAN
        line = f"{number} events not delivered to {NOBODY}; kept in {events}, the next run sends them"
        assert capfd.readouterr().err == f"tidewaiter: warning: {line}\n"
        assert stages(place, "openlineage")[-1]["details"]["warning"] == line
    result = run(place, openlineage_path=events, openlineage=OpenLineagePart(url=NOBODY))
    assert (result.success, len(result.warnings)) == (True, 1)


@pytest.mark.parametrize("left", [b"", b'{"eventTi', b'{"eventTime":"2026-01', b"\0\0\0"])
def test_events_go_on_behind_what_a_writer_that_died_left(place: Path, left: bytes) -> None:
    """The rest of a first line is no foreign file: the next run cuts it."""
    events = place / "ol.jsonl"
    events.write_bytes(left)
    assert run(place, openlineage_path=events).success
    assert run(place, openlineage_path=events).success
    assert len([json.loads(line) for line in events.read_bytes().splitlines()]) == 4
