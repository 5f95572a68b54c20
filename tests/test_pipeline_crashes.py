"""kill -9 at every write-like call of a pipeline: the previous output or the new one, and a record of the failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rigs import kill
from rigs.kill import KillPoint, Launcher
from tidewaiter.shell.audit_logger import AuditLogger
from tidewaiter.shell.lineage import LineageTracker
from tidewaiter.shell.pipelines.composing import Pipeline
from tidewaiter.shell.pipelines.config import PipelineConfig
from tidewaiter.shell.pipelines.running import run_pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.edges.durable import Disk

PREVIOUS = b"what was there before\n"
STEPS = Pipeline("claims").filter("amount > '10.00'").derive(double="amount * 2").sort("-amount", "id")
PRELOAD = ["test_pipeline_crashes", "tidewaiter.shell.lineage_recording", "tidewaiter.shell.openlineage_batch"]
FEW, MANY = 60, 3000
"""Records that stay in memory, and records that are spilled."""


def run(disk: Disk, place: str) -> int:
    """Run the pipeline in `place`; called in the process that is killed."""
    folder = Path(place)
    result = run_pipeline(
        PipelineConfig(
            input_path=folder / "in.csv",
            output_path=folder / "out" / "out.csv",
            audit_path=folder / "audit.jsonl",
            lineage_path=folder / "lineage_graph.jsonl",
            openlineage_path=folder / "lineage.jsonl",
            pipeline=STEPS,
            on_invalid="quarantine",
            contract=folder / "contract.toml",
            memory_bytes=1 << 16,
            batch_bytes=1 << 14,
        ),
        disk=disk,
    )
    assert result.success, result.errors
    return result.exit_code


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """Return a process that has done the imports, from which each run is forked."""
    with Launcher(PRELOAD) as process:
        yield process


def prepare(place: Path, records: int) -> Path:
    """Write an input of some records, of which every ninth is wrong, and a previous output."""
    (place / "out").mkdir(parents=True)
    lines = ["id,customer,amount"]
    lines += [f"{n},C{n % 900},{'abc' if n % 9 == 5 else f'{n * 3 % 50}.{n % 100:02}'}" for n in range(records)]
    (place / "in.csv").write_text("\n".join(lines) + "\n")
    (place / "contract.toml").write_text(
        'contract = "claims"\nversion = 1\n[field]\nid = { type = "integer" }\ncustomer = { type = "string" }\n'
        'amount = { type = "decimal", scale = 2 }\n'
    )
    (place / "out" / "out.csv").write_bytes(PREVIOUS)
    return place


def entries(place: Path) -> list[dict[str, Any]]:
    """Return the entries of the audit log."""
    return [json.loads(line) for line in (place / "audit.jsonl").read_bytes().splitlines()]


def runs(place: Path) -> dict[str, list[str]]:
    """Return, for each run in the audit log, the statuses of its beginning and its end."""
    found: dict[str, list[str]] = {}
    for entry in entries(place):
        if entry.get("stage") == "pipeline":
            found.setdefault(entry["run_id"], []).append(entry["status"])
    return found


def assert_nothing_is_left(place: Path) -> None:
    """Assert that beside outputs and audit log nothing is there."""
    assert sorted(path.name for path in (place / "out").iterdir()) == ["out.csv", "out.csv.rejected.jsonl"]


def died_at(place: Path, launcher: Launcher, point: KillPoint, whole: bytes, problems: list[str]) -> None:
    """Kill a run at `point`, look at what is there, run again, and note what is wrong with either."""
    name = f"{point.at} {point.where}"
    outcome = launcher.run("test_pipeline_crashes:run", {"place": str(place)}, point)
    output = place / "out" / "out.csv"
    try:
        assert outcome.killed, f"exit {outcome.status}: {outcome.stderr[-400:]}"
        there = output.read_bytes()
        assert there in (PREVIOUS, whole), "a mixture"
        again = launcher.run("test_pipeline_crashes:run", {"place": str(place)})
        assert again.status == 0, again.stderr[-600:]
        assert output.read_bytes() == whole
        assert_nothing_is_left(place)
        assert AuditLogger(place / "audit.jsonl").verify_chain_integrity()
        *before, last = runs(place).values()
        assert last == ["started", "completed"]
        assert all(each in (["started", "failed"], ["started", "completed"]) for each in before), before
        told = [entry["details"]["error"] for entry in entries(place) if entry.get("status") == "failed"]
        in_place = ["its output is in place" in each for each in told]
        assert in_place in ([], [there == whole]), told
        with LineageTracker(place / "lineage_graph.jsonl") as lineage:
            assert lineage.get_by_destination(str(output))
        events = [json.loads(line) for line in (place / "lineage.jsonl").read_bytes().splitlines()]
        started = [event["run"]["runId"] for event in events if event["eventType"] == "START"]
        ended = [event["run"]["runId"] for event in events if event["eventType"] in ("COMPLETE", "FAIL")]
        assert set(started) <= set(ended)
    except AssertionError as error:
        problems.append(f"{name}: {error!s:.600}")


def calls_of(place: Path, launcher: Launcher) -> tuple[list[str], bytes]:
    """Run undisturbed, and return the write-like calls and the output."""
    log = place / "calls"
    outcome = launcher.run("test_pipeline_crashes:run", {"place": str(place)}, calls=log)
    assert outcome.status == 0, outcome.stderr
    return log.read_text().splitlines(), (place / "out" / "out.csv").read_bytes()


def test_kill_at_every_write_like_call(tmp_path: Path, launcher: Launcher) -> None:
    """Killed before any call, or half-way through any write: one of two outputs, a record of it, and a good re-run."""
    calls, whole = calls_of(prepare(tmp_path / "whole", FEW), launcher)
    problems: list[str] = []
    for number, point in enumerate(kill.every_point(calls)):
        died_at(prepare(tmp_path / str(number), FEW), launcher, point, whole, problems)
    assert problems == []


@pytest.mark.parametrize("every", [60, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_kill_while_rows_are_spilled(every: int, tmp_path: Path, launcher: Launcher) -> None:
    """A run that was killed while it sorted on disk leaves no scratch files behind its successor."""
    calls, whole = calls_of(prepare(tmp_path / "whole", MANY), launcher)
    problems: list[str] = []
    points = [point for point in kill.every_point(calls) if "spill" in calls[point.at - 1]]
    assert points, "nothing was spilled"
    for number, point in enumerate(points[1::every]):
        died_at(prepare(tmp_path / str(number), MANY), launcher, point, whole, problems)
    assert problems == []
