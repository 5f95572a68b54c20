"""What runs leave in the lineage: of a batch pipeline, complete or failed, and of the daemon."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from rigs.tmpfs import quick_directory
from tidewaiter import ConfigError, LineageTracker
from tidewaiter.core.lineage.records import EDGE_KINDS, Node
from tidewaiter.shell.lineage_recording import (
    Configured,
    Entry,
    LineageRecorder,
    Part,
    StreamRun,
    StreamSegment,
    record_run,
    record_stream_run,
    record_stream_segment,
)
from tidewaiter.shell.pipelines.facts import (
    COMPLETE,
    FAILED,
    AuditPosition,
    Governing,
    RunFacts,
    StepFacts,
    TableFacts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter import LineageRecord

STEPS: Final = (
    StepFacts(0, "0_validate", "validate", 1000, 990, 0, 10, "i", "v"),
    StepFacts(1, "adults", "filter", 990, 900, 90, 0, "v", "f"),
    StepFacts(2, "2_join", "join", 900, 900, 0, 0, "f", "j", files=(TableFacts("/d/countries.csv", "c"),)),
)
RUN: Final = RunFacts(
    run_id="run-1", status=COMPLETE, started_at="2026-01-31T10:00:00.000000Z",
    inputs=(TableFacts("/d/in.csv", "i", 1000),), output=TableFacts("/d/out.csv", "o", 900), steps=STEPS,
    rejected=TableFacts("/d/out.csv.rejected.jsonl", "r", 10),
    contract=Governing("claim/1", "k", "/c/claim.toml"), pipeline=Governing("claims/3", "p", "/c/claims.toml"),
    audit=AuditPosition("/d/audit.jsonl", 14, "a"),
)  # fmt: skip


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory."""
    with quick_directory() as path:
        yield path


def edges(records: list[LineageRecord], kind: str) -> list[tuple[str, str]]:
    """Return sources and destinations of the records of one kind."""
    return [(str(record.source), str(record.destination)) for record in records if record.edge == kind]


# -- batch pipelines ---------------------------------------------------------------------------------------------------


def test_a_run_leads_from_its_inputs_through_its_steps_to_its_output() -> None:
    """Each step with its counts, what configured it, where its rejected records are, and the audit log's entry."""
    records = record_run(LineageTracker(), RUN)
    assert edges(records, "data") == [
        ("/d/in.csv@i", "run-1/0_validate@v"),
        ("run-1/0_validate@v", "run-1/1_adults@f"),
        ("run-1/1_adults@f", "run-1/2_join@j"),
        ("run-1/2_join@j", "/d/out.csv@o"),
        ("run-1/0_validate@v", "/d/out.csv.rejected.jsonl@r"),
    ]
    assert edges(records, "config") == [
        ("/c/claim.toml@k", "run-1"),
        ("/c/claims.toml@p", "run-1"),
        ("run-1", "run-1/0_validate@v"),
        ("run-1", "run-1/1_adults@f"),
        ("run-1", "run-1/2_join@j"),
        ("/d/countries.csv@c", "run-1/2_join@j"),
    ]
    assert edges(records, "state") == [("run-1", "/d/audit.jsonl[14]@a")]
    moved = [record for record in records if record.edge == "data" and record.destination.kind == "transform"]
    assert [(each.input_records, each.output_records, each.records_filtered) for each in moved] == [
        (1000, 990, 10), (990, 900, 90), (900, 900, 0),
    ]  # fmt: skip
    assert all(each.balanced and each.run_id == "run-1" and each.contract == "claim/1" for each in moved)


def test_a_failed_run_is_recorded_without_an_output() -> None:
    """The steps it reached are there, the output that was not made is not, and the error is."""
    reached = (STEPS[0], StepFacts(1, "adults", "filter"))
    facts = msgspec.structs.replace(RUN, status=FAILED, steps=reached, error="row 7: no number")
    records = record_run(LineageTracker(), facts)
    assert edges(records, "data") == [("/d/in.csv@i", "run-1/0_validate@v")]
    assert records[-1].metadata == {"status": FAILED, "error": "row 7: no number"}
    assert not any("out.csv" in str(record.destination) for record in records)
    early = msgspec.structs.replace(facts, steps=(), contract=None, pipeline=None)
    assert edges(record_run(LineageTracker(), early), "state") == [
        ("/d/in.csv@i", "run-1"), ("run-1", "/d/audit.jsonl[14]@a"),
    ]  # fmt: skip


def test_several_inputs_all_lead_to_the_first_step() -> None:
    """Each with its own records; a run without steps copies them."""
    both = (TableFacts("/d/1.csv", "1", 600), TableFacts("/d/2.csv", "2", 400))
    records = record_run(LineageTracker(), msgspec.structs.replace(RUN, inputs=both))
    assert edges(records, "data")[:2] == [("/d/1.csv@1", "run-1/0_validate@v"), ("/d/2.csv@2", "run-1/0_validate@v")]
    assert [record.input_records for record in records if record.source.kind == "file"][:2] == [None, 600]
    bare = record_run(LineageTracker(), msgspec.structs.replace(RUN, inputs=both, steps=(), rejected=None))
    assert edges(bare, "data") == [("/d/1.csv@1", "/d/out.csv@o"), ("/d/2.csv@2", "/d/out.csv@o")]
    assert ("run-1", "/d/out.csv@o") in edges(bare, "config")


def test_runs_meet_in_the_files_they_share(place: Path) -> None:
    """The next run reads what the first one wrote: its output goes back to the first input and to both contracts."""
    path = place / "l.jsonl"
    after = msgspec.structs.replace(
        RUN, run_id="run-2", inputs=(TableFacts("/d/out.csv", "o", 900),), output=TableFacts("/d/report.csv", "x", 9),
        steps=(STEPS[1],), rejected=None, contract=Governing("total/1", "t", "/c/total.toml"),
    )  # fmt: skip
    for facts in (RUN, after):
        LineageRecorder(path).ended(facts)
    lineage = LineageTracker()
    lineage.load(path)
    written = lineage.get_by_destination("/d/report.csv")[0]
    sources = {str(record.source) for record in lineage.get_ancestors(written.lineage_id)}
    assert {"/d/in.csv@i", "/d/countries.csv@c", "/c/claim.toml@k", "/c/total.toml@t"} <= sources
    impact = lineage.impact_analysis("/c/claim.toml")
    assert [node.location for node in impact.destinations if "rejected" not in node.location] == [
        "/d/out.csv", "/d/report.csv",
    ]  # fmt: skip
    assert impact.runs == ["run-1", "run-2"]


def test_the_recorder_notes_what_it_wrote(place: Path) -> None:
    """The hash is that of the very lines, and the same run told twice is there once for whoever reads it."""
    path = place / "l.jsonl"
    recorder = LineageRecorder(path)
    assert recorder.started(RUN) is None
    note = recorder.ended(RUN)
    assert note is not None
    written = path.read_bytes().split(b"\n", 1)[1]
    assert (note.resource, note.sha256) == (str(path), hashlib.sha256(written).hexdigest())
    assert note.details == {"records": written.count(b"\n")}
    recorder.ended(RUN)
    lineage = LineageTracker()
    assert lineage.load(path) == written.count(b"\n")
    path.write_bytes(path.read_bytes()[:-5])
    again = recorder.ended(RUN)
    assert again is not None
    assert "an interrupted write left" in again.details["notices"][0]


def test_runs_that_end_together_wait_for_each_other(place: Path) -> None:
    """Four recorders of one file lose nothing; one that may not wait says who is in the way."""
    path = place / "l.jsonl"
    runs = [msgspec.structs.replace(RUN, run_id=f"run-{number}") for number in range(4)]
    threads = [threading.Thread(target=LineageRecorder(path).ended, args=(facts,)) for facts in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lineage = LineageTracker()
    lineage.load(path)
    assert lineage.summary().runs == 4
    with LineageTracker(path), pytest.raises(ConfigError, match="being written"):
        LineageRecorder(path, wait_s=0).ended(RUN)


# -- the daemon --------------------------------------------------------------------------------------------------------


def test_a_flag_goes_back_to_its_segment_and_to_the_rules() -> None:
    """The daemon's runs go on from each other by state edges, which a question for data and config leaves out."""
    lineage = LineageTracker()
    contract, rules = Configured("/c/flow.toml", "k", "flow/1"), Configured("/c/rules.toml", "r")
    for number in (1, 2):
        run = StreamRun(
            f"run-{number}", "flow", contract, rules, lists=(Configured("/c/codes.csv", "l"),),
            previous_run="run-1" if number == 2 else "", audit=Entry("/s/audit/a.jsonl", number, "a"),
        )  # fmt: skip
        record_stream_run(lineage, run)
        record_stream_segment(
            lineage,
            StreamSegment(
                run.run_id, Part(f"/in/{number}.jsonl", 0, 900, "s", 9), flags=Part("/s/flags.jsonl", 0, 50, "f", 2),
                quarantine=Part("/s/quarantine.jsonl", 0, 10, "q", 1), audit=Entry("/s/audit/a.jsonl", 7, "b"),
            ),
        )  # fmt: skip
    screened = lineage.get_by_source("/in/1.jsonl")
    flags = next(record for record in screened if record.transformation == "screen")
    assert (flags.source, flags.destination) == (
        Node("slice", "/in/1.jsonl[0:900]", "s"), Node("flags", "/s/flags.jsonl[0:50]", "f"),
    )  # fmt: skip
    assert (flags.input_records, flags.output_records) == (9, 2)
    graph = lineage.graph
    up = graph.upstream(graph.at("/s/flags.jsonl"))
    kinds = {graph.nodes[node].kind for node in up.nodes}
    assert kinds == {"flags", "slice", "run", "contract", "ruleset", "file"}
    assert [str(node) for node in lineage.impact_analysis("/c/rules.toml").destinations] == ["/s/flags.jsonl[0:50]@f"]
    first, second = graph.at("run-1")[0], graph.at("run-2")[0]
    assert not graph.path([first], [second])
    assert graph.path([first], [second], EDGE_KINDS)
    assert len(record_stream_segment(lineage, StreamSegment("run-3", Part("/in/3.jsonl", 0, 9)))) == 1
