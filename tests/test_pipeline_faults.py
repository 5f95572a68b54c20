"""What goes wrong in a pipeline beside the data: a disk that refuses, a defect, an interruption, a run that died."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest

from rigs.faulty_disk import Fault, FaultyDisk
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_DURABILITY, EXIT_INTEGRITY, ConfigError
from tidewaiter.core.pipelines.transforms import transform
from tidewaiter.edges.durable import NoSpace
from tidewaiter.pipeline import Pipeline, PipelineConfig, PipelineResult, run_pipeline
from tidewaiter.shell.audit_logger import AuditLogger
from tidewaiter.shell.pipelines import flowing, running
from tidewaiter.shell.pipelines.facts import FAILED, Note, RunFacts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.edges.durable import Disk

PREVIOUS = b"what was there before\n"
STEPS = Pipeline("p").derive(double="amount * 2").filter("double > '3.00'")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return an own directory with an input and a previous output."""
    (tmp_path / "in.csv").write_text("id,amount\n1,1.00\n2,2.00\n3,x\n4,4.00\n")
    (tmp_path / "contract.toml").write_text(
        'contract = "c"\nversion = 1\n[field]\nid = { type = "integer" }\namount = { type = "decimal", scale = 2 }\n'
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "out.csv").write_bytes(PREVIOUS)
    return tmp_path


def run(place: Path, disk: Disk | None = None, **changes: Any) -> PipelineResult:
    """Run a pipeline over the files of `place`."""
    told: dict[str, Any] = {
        "input_path": place / "in.csv",
        "output_path": place / "out" / "out.csv",
        "audit_path": place / "audit.jsonl",
        "contract": place / "contract.toml",
        "pipeline": STEPS,
        "on_invalid": "quarantine",
    }
    return run_pipeline(PipelineConfig(**(told | changes)), disk=disk)


def ends(place: Path) -> list[tuple[str, str]]:
    """Return status and error of the entries that begin and end a run."""
    entries = [json.loads(line) for line in (place / "audit.jsonl").read_bytes().splitlines()]
    return [
        (entry["status"], entry["details"].get("error", "")) for entry in entries if entry.get("stage") == "pipeline"
    ]


def assert_previous(place: Path) -> None:
    """Assert that the previous output, and nothing else, is there."""
    assert [path.name for path in (place / "out").iterdir()] == ["out.csv"]
    assert (place / "out" / "out.csv").read_bytes() == PREVIOUS


@pytest.mark.parametrize(
    "fault",
    [
        Fault("pwrite", ".out.csv.tmp", errno=errno.ENOSPC),
        Fault("pwrite", ".out.csv.tmp", nth=2),
        Fault("fsync", ".out.csv.tmp"),
        Fault("pwrite", ".out.csv.rejected.jsonl.tmp", errno=errno.ENOSPC),
        Fault("fsync", ".out.csv.rejected.jsonl.tmp"),
        Fault("replace", "out.csv.rejected.jsonl"),
        Fault("pwrite", "audit.jsonl", nth=3, errno=errno.ENOSPC),
    ],
    ids=lambda fault: f"{fault.primitive}-{fault.pattern}-{fault.nth}",
)
def test_a_disk_that_refuses_leaves_the_previous_output(place: Path, fault: Fault) -> None:
    """Exit 5 and a reason in result and trail; the same run succeeds when the disk is well."""
    disk = FaultyDisk([fault])
    result = run(place, disk)
    assert disk.failures
    assert (result.success, result.exit_code) == (False, EXIT_DURABILITY)
    assert result.errors
    assert_previous(place)
    assert [status for status, _ in ends(place)] == ["started", "failed"]
    assert run(place).success
    assert (place / "out" / "out.csv").read_text() == "id,amount,double\n2,2.00,4.00\n4,4.00,8.00\n"


def test_an_audit_log_that_cannot_be_begun_starts_nothing(place: Path) -> None:
    """Without room for the first entry there is no run, and the error says so."""
    result = run(place, FaultyDisk([Fault("pwrite", "audit.jsonl", errno=errno.ENOSPC, times=9)]))
    assert (result.success, result.exit_code) == (False, EXIT_DURABILITY)
    assert_previous(place)


def test_a_failure_that_cannot_be_recorded_is_recorded_by_the_next_run(place: Path) -> None:
    """A disk that stays full: the first reason is told, and the next run ends what the log shows without an end."""
    disk = FaultyDisk([Fault("pwrite", "audit.jsonl", nth=4, errno=errno.ENOSPC, times=99)])
    result = run(place, disk)
    assert (result.success, result.exit_code) == (False, EXIT_DURABILITY)
    assert [status for status, _ in ends(place)] == ["started"]
    assert run(place).success
    found = ends(place)
    assert [status for status, _ in found] == ["started", "failed", "started", "completed"]
    assert "its output is not in place" in found[1][1]


def lose(take: Callable[..., Any]) -> Callable[..., Any]:
    """Return a transform that loses the first row of every batch of a derive."""

    def losing(planned: Any, frame: Any) -> Any:
        found, rejected = take(planned, frame)
        return (found[1:] if planned.step.kind == "derive" else found), rejected

    return losing


def test_a_lost_record_is_never_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is not there to remove rows, and does, is a defect: no output, exit 4, and the counts are named."""
    monkeypatch.setattr(flowing, "transform", lose(transform))
    result = run(place)
    assert (result.success, result.exit_code) == (False, EXIT_INTEGRITY)
    assert "1_derive: the records do not add up: 3 in, 2 out, 0 rejected: 1 lost" in result.errors[0]
    assert_previous(place)


def test_an_interrupted_run_is_recorded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C goes on to the caller; the trail has a failed run, and nothing half-written is left."""

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(flowing, "transform", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(place)
    assert_previous(place)
    assert ends(place)[-1] == ("failed", "KeyboardInterrupt")


class Refusing:
    """A recorder that cannot write at the end of a complete run."""

    name = "refusing"
    what = "the record"

    def check(self) -> None: ...

    def __init__(self) -> None:
        self.ends: list[RunFacts] = []

    def started(self, facts: RunFacts) -> Note | None:
        return None

    def ended(self, facts: RunFacts) -> Note | None:
        self.ends.append(facts)
        raise NoSpace("elsewhere: no space")


def test_a_recorder_that_fails_after_publication_is_a_warning(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is in place by then: the run succeeded, and result and trail say what was not recorded."""
    refusing = Refusing()
    monkeypatch.setattr(running, "recorders_of", lambda *_: (refusing, refusing))
    result = run(place)
    assert (result.success, result.exit_code, result.errors) == (True, EXIT_CLEAN, ())
    assert result.warnings == ("the record was not recorded: elsewhere: no space",) * 2
    assert (place / "out" / "out.csv").read_bytes() != PREVIOUS
    assert [status for status, _ in ends(place)] == ["started", "completed"]
    entries = [json.loads(line) for line in (place / "audit.jsonl").read_bytes().splitlines()]
    refused = [entry for entry in entries if entry.get("stage") == "refusing"]
    assert [(entry["status"], entry["details"]["error"]) for entry in refused] == [
        ("failed", "elsewhere: no space")
    ] * 2


def test_a_run_that_died_is_told_to_the_recorders(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run records it as failed, removes its temporary file, and tells what the log knows of it."""
    (place / "out" / ".other.csv.tmp").write_text("half a ta")
    with AuditLogger(place / "audit.jsonl") as logger:
        details = {"inputs": ["a.csv"], "temporary": [str(place / "out" / "other.csv")], "spill": str(place / "out")}
        logger.log_start("dead", "pipeline", "run", details=details)
        logger.log_complete("another", "their", "own", record_count=1)
    refusing = Refusing()
    monkeypatch.setattr(running, "recorders_of", lambda *_: (refusing,))
    monkeypatch.setattr(Refusing, "ended", lambda self, facts: self.ends.append(facts))
    assert run(place).success
    dead, own = refusing.ends
    assert (dead.run_id, dead.status, [file.path for file in dead.inputs]) == ("dead", FAILED, ["a.csv"])
    assert own.run_id != "dead"
    assert sorted(path.name for path in (place / "out").iterdir()) == ["out.csv", "out.csv.rejected.jsonl"]


def test_two_runs_cannot_share_an_audit_log(place: Path) -> None:
    """While a run writes to an audit log, another is refused, and does nothing."""
    with AuditLogger(place / "audit.jsonl"), pytest.raises(ConfigError, match="being written by another"):
        run(place)
    assert_previous(place)
