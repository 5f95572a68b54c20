"""The OpenLineage events of a pipeline's run: what they say, where they stand, and that they get in nobody's way."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from openlineage_rig import events, hang, problems, restated, serving, status, take, told
from rigs.faulty_disk import Fault, FaultyDisk
from rigs.power_loss import RecordingDisk
from stopwatch import Stopwatch
from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.durable import Disk, SyncFailed
from tidewaiter.edges.openlineage_file import append_event
from tidewaiter.shell.openlineage_batch import MOST_TRACED, OpenLineageRecorder
from tidewaiter.shell.openlineage_settings import OpenLineagePart
from tidewaiter.shell.pipelines.facts import (
    COMPLETE,
    FAILED,
    RUNNING,
    AuditPosition,
    Governing,
    RunFacts,
    StepFacts,
    TableFacts,
)

if TYPE_CHECKING:
    from pathlib import Path

RUN = "0198c6a2-6a5c-4e0e-9d4e-3c7f5e5f5a01"
IN, OUT, LIST = "/data/in.csv", "/data/out.parquet", "/lists/countries.csv"
SHA = "cd" * 32
COLUMNS = (("id", "string"), ("amount", "decimal(2)"), ("country", "string"))


def declared(kind: str, **said: object) -> str:
    """Return a step's declaration as a run tells it."""
    return json.dumps({kind: {"name": kind, **said}})


STARTED = RunFacts(
    run_id=RUN, status=RUNNING, started_at="2026-01-31T10:00:00.000000Z", inputs=(TableFacts(IN),),
    output=TableFacts(OUT, format="parquet"), pipeline=Governing("claims_daily/3", SHA),
    audit=AuditPosition("/logs/audit.jsonl", 4, SHA),
)  # fmt: skip
ENDED = msgspec.structs.replace(
    STARTED, status=COMPLETE, ended_at="2026-01-31T10:00:05.000000Z",
    inputs=(TableFacts(IN, SHA, 10, 500, "csv", COLUMNS),), output=TableFacts(OUT, SHA, 7, 90, "parquet"),
    rejected=TableFacts(f"{OUT}.rejected.jsonl", SHA, 2, 80, "jsonl"),
    steps=(
        StepFacts(0, "validate", "validate", 10, 8, 0, 2, columns=COLUMNS),
        StepFacts(1, "1_filter", "filter", 8, 7, 1, says=declared("filter", where="amount > '0'"), columns=COLUMNS),
        StepFacts(
            2, "2_join", "join", 7, 7, files=(TableFacts(LIST, SHA, 3, 30, "csv"),),
            says=declared("join", file=LIST, on={"country": "code"}, take={"risk": "risk"}, missing="null"),
            columns=(*COLUMNS, ("risk", "string")),
        ),
    ),
    input_records=10, output_records=7, removed_records=1, rejected_records=2,
)  # fmt: skip
FAILURE = msgspec.structs.replace(
    STARTED, status=FAILED, ended_at="2026-01-31T10:00:05.000000Z", error="row 5, column amount: 'SECRET' is no number",
    output=None,
)  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file that runs tell."""
    return tmp_path / "logs" / "lineage.jsonl"


def test_a_run_is_told_when_it_begins_and_when_it_ends(file: Path) -> None:
    """START and COMPLETE, valid, with the same run and job; each note names the line that was written."""
    recorder = OpenLineageRecorder(file, Disk())
    notes = [recorder.started(STARTED), recorder.ended(ENDED)]
    data = file.read_bytes()
    for note, kind in zip(notes, ("START", "COMPLETE"), strict=True):
        line = data[note.details["first"] :][: note.details["length"]]
        assert (note.resource, note.details["event"]) == (str(file), kind)
        assert hashlib.sha256(line).hexdigest() == note.sha256
    start, complete = events(file)
    for event in (start, complete):
        assert problems(event, restated()) == []
        assert (event["run"]["runId"], event["job"]["name"]) == (RUN, "pipeline.claims_daily")
        assert event["job"]["facets"]["jobType"]["processingType"] == "BATCH"
    assert (start["eventTime"], complete["eventTime"]) == (STARTED.started_at, ENDED.ended_at)
    assert start["inputs"] == [{"namespace": "file", "name": IN, "facets": {}, "inputFacets": {}}]


def test_the_end_tells_schema_version_counts_quality_digest_and_columns(file: Path) -> None:
    """Of each input, the reference lists among them, of the output, and of what was rejected."""
    OpenLineageRecorder(file, Disk()).ended(ENDED)
    (event,) = events(file)
    read, reference = event["inputs"]
    assert [each["name"] for each in read["facets"]["schema"]["fields"]] == ["id", "amount", "country"]
    assert read["facets"]["version"]["datasetVersion"] == SHA
    assert read["facets"]["tidewaiter_contentDigest"]["value"] == SHA
    statistics = read["inputFacets"]["inputStatistics"]
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (10, 500, 1)
    assert read["inputFacets"]["dataQualityMetrics"]["rowCount"] == 10
    (checked,) = read["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (checked["assertion"], checked["success"], checked["actual"]) == ("contract", False, "2")
    assert reference["name"] == LIST
    written, rejected = event["outputs"]
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 7
    assert [each["name"] for each in written["facets"]["schema"]["fields"]] == ["id", "amount", "country", "risk"]
    fields = written["facets"]["columnLineage"]["fields"]
    assert [(each["name"], each["field"]) for each in fields["risk"]["inputFields"]] == [(LIST, "risk")]
    assert [(each["name"], each["field"]) for each in fields["amount"]["inputFields"]] == [(IN, "amount")]
    assert rejected["name"] == f"{OUT}.rejected.jsonl"
    assert event["run"]["facets"]["tidewaiter_auditLog"]["log"] == "/logs/audit.jsonl"
    assert event["run"]["facets"]["tidewaiter_auditLog"]["entries"] == 5


def test_a_failure_is_told_without_its_data(file: Path) -> None:
    """FAIL, and where the reason stands."""
    OpenLineageRecorder(file, Disk()).ended(FAILURE)
    assert told(file) == ["FAIL"]
    assert b"SECRET" not in file.read_bytes()
    (event,) = events(file)
    assert problems(event, restated()) == []
    assert "/logs/audit.jsonl" in event["run"]["facets"]["errorMessage"]["message"]


def test_standard_input_unnamed_pipelines_and_many_inputs_have_their_names(file: Path) -> None:
    """A pipe is no file; a run without a pipeline file is named by its output; no arrows from very many inputs."""
    recorder = OpenLineageRecorder(file, Disk())
    many = tuple(TableFacts(f"/data/{number}.csv", SHA, 1, 1, "csv", COLUMNS) for number in range(MOST_TRACED + 1))
    pipes = msgspec.structs.replace(ENDED, inputs=(TableFacts("-"),), output=TableFacts("-"), pipeline=None)
    recorder.ended(pipes)
    recorder.ended(msgspec.structs.replace(ENDED, pipeline=None, inputs=many, audit=None))
    piped, other = events(file)
    for event in (piped, other):
        assert problems(event, restated()) == []
    assert [(each["namespace"], each["name"]) for each in (piped["inputs"][0], piped["outputs"][0])] == [
        ("stdio", "stdin"), ("stdio", "stdout"),
    ]  # fmt: skip
    assert (piped["job"]["name"], other["job"]["name"]) == ("pipeline.unnamed", "pipeline.out")
    assert "columnLineage" not in other["outputs"][0]["facets"]


def test_what_a_writer_that_died_left_is_cut(file: Path) -> None:
    """Half a line, however long, goes when the next event comes; whole ones stay."""
    append_event(Disk(), file, b'{"whole": 1}\n')
    with file.open("ab") as half:
        half.write(b'{"half": "' + b"x" * 200_000)
    assert append_event(Disk(), file, b'{"next": 2}\n') == len(b'{"whole": 1}\n')
    assert file.read_bytes() == b'{"whole": 1}\n{"next": 2}\n'


@pytest.mark.parametrize("times", [1, 2])
def test_an_event_that_a_failed_sync_lost_is_written_again(tmp_path: Path, times: int) -> None:
    """It stands in memory as a whole line, so the next event counts on it: after a power loss both are there.

    However often it fails, no second event comes behind one that is not confirmed.
    """
    (tmp_path / "disk").mkdir()
    recorder = RecordingDisk(tmp_path / "disk", page=64)
    file = tmp_path / "disk" / "lineage.jsonl"
    lines = [b'{"n": %d, "x": "%b"}\n' % (number, b"y" * 200) for number in range(5)]
    append_event(recorder, file, lines[0])
    for line in lines[1 : 1 + times]:
        with pytest.raises(SyncFailed):
            append_event(FaultyDisk([Fault("fsync", nth=1 if line is lines[2] else 2)], recorder), file, line)
    for line in lines[1 + times :]:
        append_event(recorder, file, line)
    crash = recorder.history.crash_states(random.Random(1), len(recorder.ops) - 1, samples=0)[0]
    assert file.read_bytes() == b"".join(line for line in lines if times == 1 or line is not lines[2])
    assert crash.materialise(tmp_path / "crashed").joinpath(file.name).read_bytes() == file.read_bytes()


class Noting(Disk):
    """A disk that notes its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        self.made.append("write")
        return super()._pwrite(fd, data, offset)

    def _fsync(self, fd: int) -> None:
        self.made.append("sync")
        super()._fsync(fd)

    def _fsync_directory(self, path: Path) -> None:
        self.made.append("sync directory")
        super()._fsync_directory(path)


def test_an_event_is_durable_when_it_is_noted(file: Path) -> None:
    """The file is synced, and its name: the audit entry that follows speaks of what is there."""
    disk = Noting()
    OpenLineageRecorder(file, disk).started(STARTED)
    assert disk.made[-3:] == ["write", "sync", "sync directory"]


def test_events_are_shipped_at_the_end_of_a_run(file: Path) -> None:
    """All that is there, once; a run after a server's failure takes the rest with it."""
    with serving() as server:
        recorder = OpenLineageRecorder(file, Disk(), server.part())
        recorder.started(STARTED)
        assert server.taken == []
        recorder.ended(ENDED)
        assert server.taken == file.read_bytes().splitlines()
        server.answer = status(503)
        recorder.ended(FAILURE)
        assert len(server.taken) == 2
        server.answer = take
        again = OpenLineageRecorder(file, Disk(), server.part())
        again.started(STARTED)
        again.ended(ENDED)
        assert server.taken == file.read_bytes().splitlines()


def test_a_server_that_hangs_costs_a_run_seconds_and_nothing_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event is in the file, the note is given, and the time is bounded."""
    monkeypatch.setattr("tidewaiter.shell.openlineage_batch.LAST_SECONDS", 0.3)
    with serving(hang) as server:
        recorder = OpenLineageRecorder(file, Disk(), server.part(timeout_us=60_000_000))
        with Stopwatch() as watch:
            assert recorder.ended(ENDED).details["event"] == "COMPLETE"
        assert watch.seconds < 3
    assert told(file) == ["COMPLETE"]


def test_a_server_that_is_none_stops_the_run_before_it_begins(file: Path) -> None:
    """Exit 2, and nothing is written."""
    with pytest.raises(ConfigError):
        OpenLineageRecorder(file, Disk(), OpenLineagePart(url="lineage.example"))
    assert not file.parent.exists()
