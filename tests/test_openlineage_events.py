"""OpenLineage events and their facets against the specification, and what they must never say."""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from openlineage_rig import FACETS, RUN_EVENT, SPEC, events, facets_of, official, problems, restated
from rigs.daemon import entries, make_settings, make_stream, run, succeed
from tidewaiter.core.openlineage.column_lineage import follow
from tidewaiter.core.openlineage.datasets import Assertion, Column, ColumnLineage, Dataset, Digest, Origin
from tidewaiter.core.openlineage.events import SCHEMA_URL, AuditLog, Job, RunEvent, encode, run_uuid
from tidewaiter.core.openlineage.facets import CUSTOM_SCHEMAS, STANDARD
from tidewaiter.shell.openlineage_settings import OpenLineagePart

if TYPE_CHECKING:
    from pathlib import Path

    from referencing import Registry

RUN = run_uuid(1_767_225_600_000, "tidewaiter", "stream.events", "run-1")
SHA = "ab" * 32
INPUT = Dataset(
    name="/data/in.csv",
    columns=(Column("id", "string", "who"), Column("amount", "decimal(2)")),
    version=SHA,
    digest=Digest(SHA, first=5, length=10),
    format="csv",
    records=7,
    bytes=10,
    files=1,
    nulls={"amount": 2},
    quality=True,
    assertions=(Assertion("contract", 3), Assertion("order", 0, halts=True)),
)
LINEAGE = ColumnLineage({"total": (Origin("/data/in.csv", "amount", "AGGREGATION"),)}, (Origin("/x", "id", "JOIN"),))
OUTPUT = Dataset(
    name="/data/out.parquet", columns=(Column("total", "decimal(2)"),), version="9", digest=Digest(SHA),
    format="parquet", records=1, bytes=9, files=1, lineage=LINEAGE,
)  # fmt: skip
FULL = RunEvent(
    type="FAIL", time="2026-01-01T00:00:00.000000Z", run=RUN, run_id="run-1",
    job=Job("tidewaiter", "stream.events", streaming=True), inputs=(INPUT,), outputs=(OUTPUT,), error="exit status 3",
    nominal=("2026-01-01T00:00:00Z", None), audit=AuditLog("log.example/events", 12, SHA),
)  # fmt: skip


@pytest.fixture(params=["restated", "official"])
def specification(request: pytest.FixtureRequest) -> Registry[Any]:
    """The specification in our words, and the official schemas where they are there."""
    if request.param == "restated":
        return restated()
    folder = request.getfixturevalue("shared_data") / "openlineage"
    if not folder.is_dir():
        pytest.skip(f"the official JSON Schemas are not there: {folder}")
    return official(folder)


def test_every_facet_follows_the_schema_that_it_names(specification: Registry[Any]) -> None:
    """An event with everything that can be said is valid, and so is each facet under its own `_schemaURL`."""
    event = json.loads(encode(FULL, "0.1.0"))
    assert problems(event, specification) == []
    said = {facet["_schemaURL"].rpartition("/")[2] for _, facet in facets_of(event)}
    assert said == {*STANDARD, *CUSTOM_SCHEMAS}


def test_the_least_event_is_valid(specification: Registry[Any]) -> None:
    """Nothing but what runs: no dataset, no facet about one."""
    least = RunEvent(type="START", time=FULL.time, run=RUN, run_id="run-1", job=Job("n", "j", streaming=False))
    assert problems(json.loads(encode(least, "0.1.0")), specification) == []


def test_a_wrong_event_is_found_out(specification: Registry[Any]) -> None:
    """The check is one: wrong types, missing members, a time and an id that are none."""
    for where, key, wrong in (
        ((), "eventTime", "yesterday"), ((), "eventType", "STARTED"), (("run",), "runId", "run-1"),
        (("job", "facets", "jobType"), "integration", 3), (("run", "facets", "errorMessage"), "message", None),
        (("inputs", 0, "inputFacets", "inputStatistics"), "rowCount", "7"),
        (("inputs", 0, "facets", "tidewaiter_contentDigest"), "value", "XY"),
    ):  # fmt: skip
        event = json.loads(encode(FULL, "0.1.0"))
        place: Any = event
        for step in where:
            place = place[step]
        place[key] = wrong
        assert problems(event, specification), (where, key)


def test_what_is_restated_is_what_the_specification_says(shared_data: Path) -> None:
    """Versions, members and required ones of each facet agree with the official schema."""
    if not (shared_data / "openlineage").is_dir():
        pytest.skip("the official JSON Schemas are not there")
    assert {name: version for name, (version, _) in FACETS.items()} == STANDARD
    assert SCHEMA_URL == RUN_EVENT
    for name, (version, ours) in FACETS.items():
        document = json.loads((shared_data / "openlineage" / f"{name}.json").read_bytes())
        assert document["$id"] == f"{SPEC}/facets/{version}/{name}.json"
        theirs = document["$defs"][name]["allOf"][1]
        assert sorted(ours["required"]) == sorted(theirs.get("required", []))
        assert ours["properties"].keys() <= theirs["properties"].keys()


def test_the_same_event_is_the_same_bytes() -> None:
    """One line, sorted keys, no space: what is hashed is what is sent."""
    line = encode(FULL, "0.1.0")
    assert line == encode(FULL, "0.1.0")
    assert line.count(b"\n") == 1
    event = json.loads(line)
    assert json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" == line


def test_a_run_has_one_id_and_runs_sort_by_their_beginning() -> None:
    """A UUID of version 7, made from the time and the names: another name is another run, a later time a later one."""
    one = uuid.UUID(run_uuid(1_767_225_600_000, "n", "j", "r"))
    assert (one.version, one.variant) == (7, uuid.RFC_4122)
    assert one.int >> 80 == 1_767_225_600_000
    assert str(one) == run_uuid(1_767_225_600_000, "n", "j", "r")
    assert str(one) != run_uuid(1_767_225_600_000, "n", "j", "s")
    assert str(one) < run_uuid(1_767_225_600_001, "n", "j", "a")


def test_the_kind_of_job_says_when_it_emits() -> None:
    """A stream tells once a minute, a pipeline when it begins and ends; both add up over their events."""
    facets = {}
    for streaming in (True, False):
        event = RunEvent(type="START", time=FULL.time, run=RUN, run_id="r", job=Job("n", "j", streaming=streaming))
        facets[streaming] = json.loads(encode(event, "1"))["job"]["facets"]["jobType"]
    assert (facets[True]["processingType"], facets[False]["processingType"]) == ("STREAMING", "BATCH")
    assert facets[True]["emissionPattern"] == {
        "eventTrigger": "PERIODIC", "eventContentMode": "ACCUMULATIVE", "windowDuration": 60,
    }  # fmt: skip
    assert facets[False]["emissionPattern"] == {"eventTrigger": "EVENT_BASED", "eventContentMode": "ACCUMULATIVE"}


def test_the_daemon_s_own_events_are_valid(specification: Registry[Any], tmp_path: Path) -> None:
    """Those of a clean run, of one that halts, and the schema, counts, version and digests that they give."""
    stream = make_stream(tmp_path / "events.jsonl", 200)
    state = tmp_path / "state"
    settings = make_settings(stream, state)
    settings = settings.__class__(**{**vars(settings), "openlineage": OpenLineagePart()})
    succeed(settings)
    start, complete = events(state / "lineage.jsonl")
    for event in (start, complete):
        assert problems(event, specification) == []
        assert event["inputs"][0]["name"] == str(stream)
        assert [one["name"] for one in event["outputs"]] == [
            str(state / "flags.jsonl"), str(state / "rejections.jsonl"),
        ]  # fmt: skip
    assert start["run"]["runId"] == complete["run"]["runId"]
    batch = entries(state, "batch.committed")[-1]
    read = complete["inputs"][0]
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == batch["totals"]["events_read"]
    assert read["inputFacets"]["inputStatistics"]["size"] == stream.stat().st_size
    assert read["facets"]["version"]["datasetVersion"] == str(stream.stat().st_size)
    assert read["facets"]["tidewaiter_contentDigest"]["value"] == batch["sha256"]
    failed = {
        each["assertion"]: int(each["actual"]) for each in read["inputFacets"]["dataQualityAssertions"]["assertions"]
    }
    assert sum(failed.values()) == batch["totals"]["rejected"]
    flags = complete["outputs"][0]
    assert flags["outputFacets"]["outputStatistics"]["rowCount"] == batch["totals"]["flags"]
    assert flags["facets"]["tidewaiter_contentDigest"]["value"] == batch["projections"]["flags"]["sha256"]
    quoted = json.loads((state / "flags.jsonl").read_bytes().splitlines()[0])
    assert list(quoted) == [each["name"] for each in flags["facets"]["schema"]["fields"]]
    refused = json.loads((state / "rejections.jsonl").read_bytes().splitlines()[0])
    assert list(refused) == [each["name"] for each in complete["outputs"][1]["facets"]["schema"]["fields"]]


def test_no_event_quotes_data(tmp_path: Path) -> None:
    """A halt's reason may name a value; the event names the run log, where that belongs."""
    stream = make_stream(tmp_path / "events.jsonl", 20, bad=0, duplicates=0, disorder=0)
    with stream.open("a", encoding="utf-8") as file:
        file.write('{"event_id": "SECRET-7", "channel": "SECRET-7"}\n')
    state = tmp_path / "state"
    settings = make_settings(stream, state, invalid="halt")
    settings = settings.__class__(**{**vars(settings), "openlineage": OpenLineagePart()})
    assert run(settings).status == 3
    text = (state / "lineage.jsonl").read_text(encoding="utf-8")
    assert "SECRET-7" not in text
    last = events(state / "lineage.jsonl")[-1]
    assert last["eventType"] == "FAIL"
    message = last["run"]["facets"]["errorMessage"]["message"]
    named = re.fullmatch(r"exit status 3; the run log (run_.*\.json) says why", message)
    assert named is not None
    assert (state / "runs" / named[1]).exists()


# -- columns -----------------------------------------------------------------------------------------------------------

STEPS: list[tuple[str, dict[str, Any], str]] = [
    ("filter", {"where": "kind in ('a', 'kind') and column('the day') > 3"}, ""),
    ("derive", {"columns": {"total": "amount * quantity", "one": "1"}}, ""),
    ("rename", {"columns": {"id": "who"}}, ""),
    ("join", {"on": {"country": "code"}, "take": {"risk": "country_risk"}}, "/lists/countries.csv"),
    ("select", {"columns": ["who", "total", "country_risk", "one"]}, ""),
    ("cast", {"columns": {"country_risk": "integer"}}, ""),
    ("sort", {"by": [["total", True]]}, ""),
    ("aggregate", {"by": ["who"], "columns": {"n": "count()", "sum": "sum(total)"}}, ""),
]
COLUMNS = ["id", "amount", "quantity", "kind", "country", "the day"]


def test_columns_are_followed_through_every_kind_of_step() -> None:
    """Which inputs each column of the output is made of, and which decide which rows there are."""
    found = follow(["/in.csv"], COLUMNS, STEPS)
    assert found is not None
    assert {name: [(each.column, each.kind) for each in origins] for name, origins in found.columns.items()} == {
        "who": [("id", "IDENTITY")], "n": [], "sum": [("amount", "AGGREGATION"), ("quantity", "AGGREGATION")],
    }  # fmt: skip
    assert [(each.dataset, each.column, each.kind) for each in found.rows] == [
        ("/in.csv", "kind", "FILTER"), ("/in.csv", "the day", "FILTER"), ("/in.csv", "country", "JOIN"),
        ("/lists/countries.csv", "code", "JOIN"), ("/in.csv", "amount", "SORT"), ("/in.csv", "quantity", "SORT"),
        ("/in.csv", "id", "GROUP_BY"),
    ]  # fmt: skip
    before = follow(["/in.csv"], COLUMNS, STEPS[:6])
    assert before is not None
    assert [(each.dataset, each.column, each.kind) for each in before.columns["country_risk"]] == [
        ("/lists/countries.csv", "risk", "TRANSFORMATION")
    ]


@pytest.mark.parametrize(
    "step", [("unheard", {}), ("select", {"columns": ["gone"]}), ("filter", {"where": "1 +"}), ("cast", {})]
)
def test_what_is_not_understood_is_not_told(step: tuple[str, dict[str, Any]]) -> None:
    """A step of a later version, or a declaration that does not fit: no arrows at all instead of wrong ones."""
    assert follow(["/in.csv"], COLUMNS, [(*step, "")]) is None
