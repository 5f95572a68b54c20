"""What a run writes, counts and says of itself: true whatever lies in its way, and the same whatever the batches."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from rigs.faulty_disk import Fault, FaultyDisk
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_DURABILITY, EXIT_HALTED, ConfigError
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.tables.output import Replacement
from tidewaiter.pipeline import Pipeline, PipelineConfig, PipelineResult, run_pipeline
from tidewaiter.shell.commands.pipeline_shown import show_result
from tidewaiter.shell.pipelines import rejections

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = 'contract = "c"\nversion = 1\n[field]\nid = { type = "integer" }\nf = { type = "float", required = false }\n'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an own directory, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(place: Path, text: str, disk: Disk | None = None, *, contract: str = "", **changes: Any) -> PipelineResult:
    """Run a pipeline over a CSV file that holds `text`."""
    (place / "in.csv").write_text(text)
    told: dict[str, Any] = {"input_path": "in.csv", "output_path": "out.csv", "on_invalid": "quarantine"}
    if contract:
        (place / "contract.toml").write_text(contract)
        told["contract"] = "contract.toml"
    return run_pipeline(PipelineConfig(**(told | changes)), disk=disk)


def ends(place: Path) -> list[str]:
    """Return the status of the entries that begin and end a run."""
    entries = [json.loads(line) for line in (place / "audit.jsonl").read_bytes().splitlines()]
    return [entry["status"] for entry in entries if entry.get("stage") == "pipeline"]


# -- what lies where the temporary file is to be -----------------------------------------------------------------------


def put(kind: str, temporary: Path, victim: Path) -> None:
    """Put something under the name of the temporary file."""
    match kind:
        case "symbolic link":
            temporary.symlink_to(victim)
        case "link to nothing":
            temporary.symlink_to(victim.with_name("nothing"))
        case "hard link":
            temporary.hardlink_to(victim)
        case _:
            os.mkfifo(temporary)


@pytest.mark.parametrize("kind", ["symbolic link", "link to nothing", "hard link", "pipe"])
def test_a_link_in_place_of_the_temporary_file_is_not_followed(place: Path, kind: str) -> None:
    """Nobody's file is written to by way of ``.NAME.tmp``, and the output is a file of its own."""
    victim = place / "victim"
    victim.write_bytes(b"precious")
    put(kind, place / ".out.csv.tmp", victim)
    assert run(place, "id\n1\n").success
    assert victim.read_bytes() == b"precious"
    status = (place / "out.csv").lstat()
    assert (stat.S_ISREG(status.st_mode), status.st_nlink) == (True, 1)
    assert sorted(path.name for path in place.iterdir()) == ["in.csv", "out.csv", "out.csv.rejected.jsonl", "victim"]


def test_a_temporary_file_that_got_a_second_name_is_still_that_of_its_run(place: Path) -> None:
    """A backup that links files does not make a second run take the file away from the first."""
    first = Replacement(place / "t.csv", Disk())
    first.write(b"first")
    (place / "backup").hardlink_to(place / ".t.csv.tmp")
    with pytest.raises(ConfigError, match="another run"):
        Replacement(place / "t.csv", Disk())
    first.finish()
    first.publish()
    assert (place / "t.csv").read_bytes() == b"first"


def test_what_cannot_be_taken_away_is_said(place: Path) -> None:
    """A directory under the name of the temporary file is a wrong configuration, not a defect."""
    (place / ".out.csv.tmp").mkdir()
    with pytest.raises(ConfigError, match=r"out\.csv: cannot be written: Is a directory"):
        run(place, "id\n1\n")


# -- zero has no sign --------------------------------------------------------------------------------------------------

SIZES = [(1 << 25, 8 << 20), (1 << 16, 1024), (1 << 16, 50_000)]
OTHERS = "".join(f"{number},{number}.5\n" for number in range(2, 3000))
ZEROS = f"id,f\n1,-0.0\n1,0.0\n{OTHERS}1,0.0\n1,-0.0\n"


@pytest.mark.parametrize(
    ("by", "columns"),
    [(("id",), {"least": "min(f)", "most": "max(f)"}), (("f",), {"n": "count()"}), ((), {"n": "distinct(f)"})],
)
def test_zero_has_no_sign_in_an_aggregate(place: Path, by: tuple[str, ...], columns: dict[str, str]) -> None:
    """The least, the greatest and the groups of 0.0 and -0.0 do not depend on batches and memory."""
    found = set()
    for memory, batch in SIZES:
        steps = Pipeline("p").aggregate(by=list(by), **columns)
        result = run(place, ZEROS, contract=NUMBERS, pipeline=steps, memory_bytes=memory, batch_bytes=batch)
        assert result.success
        found.add((place / "out.csv").read_text())
    assert len(found) == 1
    assert "-0.0" not in found.pop()


def test_a_deduplicate_takes_both_zeros_for_one(place: Path) -> None:
    """Which of 0.0 and -0.0 stays is that of the first row, whatever the batches and the memory."""
    found = set()
    for memory, batch in SIZES:
        steps = Pipeline("p").deduplicate("f")
        assert run(place, ZEROS, contract=NUMBERS, pipeline=steps, memory_bytes=memory, batch_bytes=batch).success
        found.add((place / "out.csv").read_text())
    assert len(found) == 1
    assert found.pop().startswith("id,f\n1,-0.0\n2,2.5\n")


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["id,f\n1,1.5\n2,2.5\n", "id,f\n"])
def test_an_aggregate_of_nothing_by_nothing_is_one_row(place: Path, text: str) -> None:
    """Its one row came of no record: the counts of step and run add up all the same."""
    steps = Pipeline("p").filter("id > 5").aggregate(by=[], n="count()", least="min(f)")
    result = run(place, text, contract=NUMBERS, pipeline=steps, audit_path="audit.jsonl")
    assert (result.success, result.errors) == (True, ())
    assert (place / "out.csv").read_text() == "n,least\n0,\n"
    last = result.steps[-1]
    assert (last.records_in, last.out, last.removed, last.rejected) == (0, 1, 0, 0)
    assert result.removed_records == result.input_records


def test_a_step_after_it_may_remove_that_row(place: Path) -> None:
    """The row made of nothing is counted where it goes."""
    steps = Pipeline("p").filter("id > 5").aggregate(by=[], n="count()").filter("n > 0")
    result = run(place, "id,f\n1,1.5\n", contract=NUMBERS, pipeline=steps)
    assert (result.success, result.output_records, result.removed_records) == (True, 0, 2)


# -- what csv can hold -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["string", "integer", "float", "boolean", "date", "timestamp"])
@pytest.mark.parametrize("batch_bytes", [1024, 8 << 20])
def test_a_table_of_one_column_comes_back(place: Path, kind: str, batch_bytes: int) -> None:
    """Nulls at its beginning, in its middle and at its end are nulls again, and empty texts are texts."""
    texts = {
        "string": ["x", ""], "integer": ["5"], "float": ["0.5"], "boolean": ["true"], "date": ["2026-01-31"],
        "timestamp": ["2026-01-31T10:00:00Z"],
    }[kind]  # fmt: skip
    values = [None, None, *texts, None, *texts, None] * 200
    pl.DataFrame({"a": pl.Series(values, dtype=pl.String)}).write_parquet(place / "in.parquet")
    contract = f'contract = "c"\nversion = 1\n[field]\na = {{ type = "{kind}", required = false }}\n'
    (place / "contract.toml").write_text(contract)
    steps = Pipeline("p").cast(a=kind) if kind != "string" else None
    made = 'contract = "c"\nversion = 1\n[field]\na = { type = "string", required = false }\n'
    (place / "made.toml").write_text(made)
    told: dict[str, Any] = {"contract": "made.toml", "pipeline": steps, "batch_bytes": batch_bytes}
    first = run_pipeline(PipelineConfig(input_path="in.parquet", output_path="a.csv", **told))
    assert first.success, first.errors
    told = {"contract": "contract.toml", "batch_bytes": batch_bytes}
    second = run_pipeline(PipelineConfig(input_path="a.csv", output_path="b.parquet", **told))
    assert (second.success, second.output_records) == (True, len(values)), second.errors
    assert pl.read_parquet(place / "b.parquet")["a"].is_null().to_list() == [value is None for value in values]


def test_a_nul_is_not_written_to_csv(place: Path) -> None:
    """A text that no CSV reader takes back, ours included, halts the run; row and column are named."""
    frame = pl.DataFrame({"id": list(range(1, 5)), "a": ["x", "y", "y", "\0"], "b": ["x", "y", "nul\0", None]})
    frame.write_parquet(place / "in.parquet")
    for name in ("out.csv", "out.tsv"):
        result = run(place, "", input_path="in.parquet", output_path=name)
        assert (result.success, result.exit_code) == (False, EXIT_HALTED)
        assert f"row 3: b: a NUL character cannot be written as {name[-3:]}" in result.errors[0]
    assert run(place, "", input_path="in.parquet", output_path="out.jsonl").success


def test_a_nul_in_the_name_of_a_column_is_refused_before_the_run(place: Path) -> None:
    """A header that no CSV reader takes back is a wrong configuration, said before anything is written."""
    contract = 'contract = "c"\nversion = 1\n[field]\n"a\\u0000b" = { type = "integer", from = "id" }\n'
    with pytest.raises(ConfigError, match=r"out\.csv: column 'a\\x00b': csv cannot hold the NUL"):
        run(place, "id\n1\n", contract=contract, audit_path="audit.jsonl")
    assert sorted(path.name for path in place.iterdir()) == ["contract.toml", "in.csv"]
    assert run(place, "id\n1\n", contract=contract, output_path="out.jsonl").success


# -- disks that refuse -------------------------------------------------------------------------------------------------

BAD = "id,f\n" + "".join(f"x,{number}\n" for number in range(300))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_under_the_rejected_is_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Exit 5 with the reason in result and trail, and no traceback; nothing is left behind."""
    monkeypatch.setattr(rejections, "_IN_MEMORY", 100)
    disk = FaultyDisk([Fault("pwrite", "rejected-0.jsonl", errno=code, times=99)])
    (place / "spill").mkdir()
    changes: dict[str, Any] = {
        "contract": NUMBERS,
        "audit_path": "audit.jsonl",
        "spill_directory": "spill",
        "batch_bytes": 1024,
    }
    result = run(place, BAD, disk, **changes)
    assert disk.failures
    assert (result.success, result.exit_code) == (False, EXIT_DURABILITY)
    assert "rejected-0.jsonl" in result.errors[0]
    assert ends(place) == ["started", "failed"]
    assert not list((place / "spill").iterdir())
    assert run(place, BAD, **changes).exit_code == EXIT_CLEAN
    kept = [json.loads(line) for line in (place / "out.csv.rejected.jsonl").read_bytes().splitlines()]
    assert [each["row"] for each in kept] == list(range(1, 301))


def test_an_event_that_cannot_be_written_ends_in_the_trail(place: Path) -> None:
    """A recorder that fails when a run begins stops it: the trail has its end, and the previous output stays."""
    (place / "out.csv").write_bytes(b"previous")
    disk = FaultyDisk([Fault("pwrite", "events.jsonl", errno=errno.ENOSPC, times=99)])
    result = run(place, "id\n1\n", disk, audit_path="audit.jsonl", openlineage_path="events.jsonl")
    assert (result.success, result.exit_code) == (False, EXIT_DURABILITY)
    assert "No space left" in result.errors[0]
    assert ends(place) == ["started", "failed"]
    assert (place / "out.csv").read_bytes() == b"previous"


# -- what a person reads -----------------------------------------------------------------------------------------------


def test_a_line_break_in_a_path_is_no_line_of_the_summary(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name cannot make the summary say what was not the case."""
    odd = "out\n9 records in, 9 out\x1b.csv"
    result = run(place, "id\n1\nx,y\n", output_path=odd, audit_path=f"{odd}.audit", contract="")
    assert result.success
    show_result(result, quiet=False)
    said = capsys.readouterr().err
    assert "out\\n9 records in, 9 out\\x1b.csv  SHA-256" in said
    assert not any(line.startswith("9 records in, 9 out") for line in said.splitlines())


@pytest.mark.parametrize("policy", ["quarantine", "drop"])
def test_the_first_rejections_are_the_same_whatever_the_batches(place: Path, policy: str) -> None:
    """Ten are told, by stage and row, even where an early batch is rejected by a late stage."""
    lines = [f"{number},{'9e200' if number % 5 else 'x'}" for number in range(1, 400)]
    lines[300] = "too,many,cells"
    steps = Pipeline("p").cast(f="decimal(2)")
    told = set()
    for batch in (1024, 3000, 8 << 20):
        text = "id,f\n" + "\n".join(lines) + "\n"
        result = run(place, text, contract=NUMBERS, pipeline=steps, on_invalid=policy, batch_bytes=batch)
        assert result.rejected_records > 300
        told.add(result.rejections)
    assert len(told) == 1
    found = told.pop()
    assert len(found) == rejections.SHOWN
    assert found[0].startswith("in.csv: row 301:")
    assert found[1].startswith("in.csv: row 5:")


def test_a_float_has_one_spelling(place: Path) -> None:
    """A rejected record has the digits that the output has for the same value."""
    values = [1e-7, 1.5e16, 0.00001, 1e300, -0.0]
    pl.DataFrame({"id": [1] * len(values), "f": values}).write_parquet(place / "in.parquet")
    contract = NUMBERS.replace('"integer"', '"integer", at_most = 0')
    run(place, "", input_path="in.parquet", contract=contract)
    kept = [json.loads(line) for line in (place / "out.csv.rejected.jsonl").read_bytes().splitlines()]
    run(place, "", input_path="in.parquet", contract=NUMBERS)
    written = [line.split(",")[1] for line in (place / "out.csv").read_text().splitlines()[1:]]
    assert [each["record"]["f"] for each in kept] == written
