"""A batch pipeline as a Python program runs it: what comes out, what is recorded of it, and what bad input does."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest

from support import REPOSITORY
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_HALTED, ConfigError
from tidewaiter.pipeline import Pipeline, PipelineConfig, PipelineResult, TableFormat, run_pipeline
from tidewaiter.shell.pipelines import running
from tidewaiter.shell.pipelines.facts import Note, RunFacts

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.edges.durable import Disk

SAMPLE = REPOSITORY.parent / "shared" / "data" / "sample_input.csv"
CLAIMS = "id,customer,amount,country\n1,A,10.00,GB\n2,B,20.50,FR\n3,A,5.25,GB\n4,C,7.00,DE\n5,B,1.00,FR\n6,D,99.99,GB\n"
CONTRACT = """
contract = "claims"
version = 1
[field]
id = { type = "integer" }
customer = { type = "string" }
amount = { type = "decimal", scale = 2, at_least = "0.00" }
country = { type = "enum", values = ["GB", "FR", "DE"] }
"""
CSV = TableFormat(format="csv")
STEPS = Pipeline("claims").filter("country != 'DE'").derive(double="amount * 2").select("id", "customer", "double")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an own directory, the current one, with an input, its contract, and a previous output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text(CLAIMS)
    (tmp_path / "contract.toml").write_text(CONTRACT)
    return tmp_path


def run(place: Path, disk: Disk | None = None, **changes: Any) -> PipelineResult:
    """Run a pipeline over the files of `place`."""
    told: dict[str, Any] = {
        "input_path": place / "in.csv",
        "output_path": place / "out" / "out.csv",
        "audit_path": place / "audit.jsonl",
        "contract": place / "contract.toml",
    }
    return run_pipeline(PipelineConfig(**(told | changes)), disk=disk)


def spoil(place: Path, *lines: str) -> None:
    """Append lines to the input."""
    with (place / "in.csv").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def trail(place: Path) -> list[dict[str, Any]]:
    """Return the entries of the audit log behind its first."""
    return [json.loads(line) for line in (place / "audit.jsonl").read_bytes().splitlines()][1:]


def sha256(path: Path) -> str:
    """Return what sha256sum says."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    """Return what is in a directory, hidden files included."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_the_sample_runs_without_any_configuration(tmp_path: Path) -> None:
    """A file with a header is enough: the contract is inferred, and the hashes are those of the files."""
    source = SAMPLE
    if not source.exists():
        source = tmp_path / "sample_input.csv"
        source.write_text("id,value,category\n1,10,A\n2,20,B\n3,30,A\n4,40,C\n5,50,B\n")
    result = run_pipeline(
        PipelineConfig(
            input_path=source,
            output_path=tmp_path / "data" / "output.csv",
            audit_path=tmp_path / "logs" / "audit.jsonl",
        )
    )
    assert result.success
    assert (result.input_records, result.output_records, result.errors) == (5, 5, ())
    assert result.output_hash == sha256(tmp_path / "data" / "output.csv")
    assert result.input_hash == sha256(source)
    assert result.duration_ms > 0
    assert 'value = { type = "integer" }' in result.contract


def test_the_steps_are_run_in_order_and_counted(place: Path) -> None:
    """Each step's rows come in from the one before, and every count of the result adds up."""
    result = run(place, pipeline=STEPS)
    assert (place / "out" / "out.csv").read_text() == (
        "id,customer,double\n1,A,20.00\n2,B,41.00\n3,A,10.50\n5,B,2.00\n6,D,199.98\n"
    )
    assert [
        (step.name, step.kind, step.records_in, step.out, step.removed, step.rejected) for step in result.steps
    ] == [
        ("validate", "validate", 6, 6, 0, 0),
        ("1_filter", "filter", 6, 5, 1, 0),
        ("2_derive", "derive", 5, 5, 0, 0),
        ("3_select", "select", 5, 5, 0, 0),
    ]
    assert (result.input_records, result.output_records, result.removed_records) == (6, 5, 1)
    assert result.exit_code == EXIT_CLEAN
    assert names(place / "out") == ["out.csv"]


def test_the_hashes_of_the_steps_are_a_chain(place: Path) -> None:
    """What came out of a step is what went into the next, and the digest can be made again with other tools."""
    result = run(place, pipeline=STEPS)
    steps = result.steps
    assert result.success
    assert steps[0].hash_before == sha256(place / "in.csv")
    assert [step.hash_before for step in steps[1:]] == [step.hash_after for step in steps[:-1]]
    rows = '1,"A",20.00\n2,"B",41.00\n3,"A",10.50\n5,"B",2.00\n6,"D",199.98\n'
    text = f'"id:integer","customer:string","double:decimal(2)"\n{rows}'
    assert steps[-1].hash_after == hashlib.sha256(text.encode()).hexdigest()


def test_a_composed_pipeline_is_its_own_file(place: Path) -> None:
    """The text of a composed pipeline, run as a file, is the same pipeline: digest, bytes and hashes."""
    composed = (
        STEPS.deduplicate("customer", keep="last")
        .named('the "last"')
        .sort("-double", "id")
        .aggregate(by=["customer"], n="count()")
    )
    (place / "pipeline.toml").write_text(composed.to_toml())
    first = run(place, pipeline=composed)
    second = run(place, pipeline=place / "pipeline.toml", output_path=place / "second.csv")
    assert first.errors == second.errors == ()
    assert (
        (place / "second.csv").read_bytes()
        == (place / "out" / "out.csv").read_bytes()
        == b"customer,n\nA,1\nB,1\nD,1\n"
    )
    assert first.steps == second.steps
    digests = {entry["details"]["pipeline"]["sha256"] for entry in trail(place) if entry["status"] == "started"}
    assert digests == {sha256(place / "pipeline.toml")}


def test_composing_changes_nothing_that_is_there() -> None:
    """Each method gives a new pipeline."""
    one = Pipeline("p").filter("a > 1")
    text = one.to_toml()
    one.sort("a")
    assert one.to_toml() == text


def test_a_reference_list_is_read_typed_and_hashed(place: Path) -> None:
    """A join's list comes from its own file, its keys have the type of the column, and its hash is in the trail."""
    (place / "names.csv").write_text("number,name\n1,one\n3,three\n")
    joined = Pipeline("p").join("names.csv", on={"id": "number"}, take=["name"], missing="drop").select("id", "name")
    result = run(place, pipeline=joined)
    assert result.errors == ()
    assert (place / "out" / "out.csv").read_text() == "id,name\n1,one\n3,three\n"
    (entry,) = (entry for entry in trail(place) if entry["action"] == "join")
    assert entry["details"]["files"] == {str(place / "names.csv"): sha256(place / "names.csv")}
    (place / "names.csv").write_text("number,name\nx,one\n")
    with pytest.raises(ConfigError, match=r"names.csv: row 1: column number: 'x'"):
        run(place, pipeline=joined)


def test_several_files_are_one_input(place: Path) -> None:
    """A pattern's files are read in the order of their names, each is in the trail, and the input's hash names all."""
    (place / "more.csv").write_text("id,customer,amount,country\n7,E,1.00,DE\n")
    (place / "in.csv").rename(place / "a_in.csv")
    (place / "more.csv").rename(place / "b_in.csv")
    result = run(place, input_path=str(place / "?_in.csv"))
    assert (result.input_records, result.output_records) == (7, 7)
    read = [(entry["resource"], entry["record_count"]) for entry in trail(place) if entry["action"] == "read"]
    assert read == [(str(place / "a_in.csv"), 6), (str(place / "b_in.csv"), 1)]
    listed = "".join(f"{sha256(place / name)}  {place / name}\n" for name in ("a_in.csv", "b_in.csv"))
    assert result.input_hash == hashlib.sha256(listed.encode()).hexdigest()


def test_an_inferred_contract_can_be_saved_and_pinned(place: Path) -> None:
    """The saved contract is the one that governed the run, and with it the next run gives the same bytes."""
    first = run(place, contract=None, save_contract=place / "inferred.toml")
    assert (place / "inferred.toml").read_text() == first.contract
    second = run(place, contract=place / "inferred.toml")
    assert (first.output_hash, first.steps) == (second.output_hash, second.steps)
    digests = [entry["details"]["contract"]["sha256"] for entry in trail(place) if entry["status"] == "started"]
    assert digests == [sha256(place / "inferred.toml")] * 2


def test_without_an_audit_log_nothing_but_files_is_hashed(place: Path) -> None:
    """No audit path: no file is made for it, and the steps have counts but no hashes."""
    result = run(place, audit_path=None, pipeline=STEPS)
    assert result.output_hash == sha256(place / "out" / "out.csv")
    assert {step.hash_after for step in result.steps} == {""}
    assert names(place) == ["contract.toml", "in.csv", "out"]


def test_a_file_can_be_replaced_by_what_is_made_of_it(place: Path) -> None:
    """Input and output may be one file: it is read to its end before the new one takes its name."""
    before = sha256(place / "in.csv")
    result = run(place, output_path=place / "in.csv", pipeline=Pipeline("p").filter("id > 4"))
    assert (place / "in.csv").read_text() == "id,customer,amount,country\n5,B,1.00,FR\n6,D,99.99,GB\n"
    assert (result.input_hash, result.output_hash) == (before, sha256(place / "in.csv"))


def test_an_output_among_the_files_of_a_pattern_is_refused(place: Path) -> None:
    """The second run would read what the first one wrote."""
    told: dict[str, Any] = {"input_path": str(place / "*.csv"), "output_path": place / "out.csv"}
    assert run(place, **told).success
    with pytest.raises(ConfigError, match="the output is one of the files of the input"):
        run(place, **told)


def test_keys_and_lists_of_expressions_come_from_files(place: Path) -> None:
    """A keyed hash needs the secret, a lookup its list; both are named beside the steps."""
    (place / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    (place / "secret").chmod(0o600)
    (place / "risk.csv").write_text("code,risk\nGB,low\nFR,high\n")
    steps = (
        Pipeline("p")
        .with_key("pseudonyms", file="secret")
        .with_list("risk", "risk.csv", key="code")
        .derive(who="keyed_hash(customer, 'pseudonyms')", risk="lookup(country, 'risk', 'risk')")
        .select("who", "risk")
    )
    result = run(place, pipeline=steps)
    assert result.errors == ()
    first, *_ = (place / "out" / "out.csv").read_text().splitlines()[1:]
    wanted = hmac.new(b"0123456789abcdef0123456789abcdef", b"A", "sha256").hexdigest()
    assert first == f"{wanted},low"


def test_a_key_file_that_others_can_read_is_refused(place: Path) -> None:
    """The secret of a keyed hash must be closed to everybody but its owner, as other private keys must."""
    (place / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    (place / "secret").chmod(0o644)
    steps = Pipeline("p").with_key("k", file="secret").derive(who="keyed_hash(customer, 'k')")
    with pytest.raises(ConfigError, match=r"others can get at the key \(mode 0644\)"):
        run(place, pipeline=steps)
    (place / "secret").chmod(0o600)
    assert run(place, pipeline=steps).success


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_the_trail_of_a_run(place: Path) -> None:
    """Start, read, validate, each transform, write, complete: with counts and with hashes before and after."""
    result = run(place, pipeline=STEPS, actor="alice")
    entries = trail(place)
    assert [(entry["stage"], entry["action"], entry["status"]) for entry in entries] == [
        ("pipeline", "run", "started"),
        ("read", "read", "completed"),
        ("validate", "validate", "completed"),
        ("transform", "filter", "completed"),
        ("transform", "derive", "completed"),
        ("transform", "select", "completed"),
        ("write", "write", "completed"),
        ("pipeline", "run", "completed"),
    ]
    assert {(entry["run_id"], entry["actor"]) for entry in entries} == {(result.run_id, "alice")}
    start, read, _, removing, *_, write, complete = entries
    assert start["details"]["versions"].keys() >= {"python", "tidewaiter", "polars", "msgspec"}
    assert start["details"]["inputs"] == [str(place / "in.csv")]
    assert start["details"]["contract"]["sha256"] == sha256(place / "contract.toml")
    assert (read["record_count"], read["output_hash"]) == (6, sha256(place / "in.csv"))
    assert (removing["resource"], removing["record_count"]) == ("1_filter", 5)
    assert removing["details"]["records_in"] == 6
    assert removing["details"]["removed"] == 1
    assert write["input_hash"] == entries[-3]["output_hash"] == result.steps[-1].hash_after
    assert (write["record_count"], write["output_hash"]) == (5, sha256(place / "out" / "out.csv"))
    assert (complete["input_hash"], complete["output_hash"]) == (result.input_hash, result.output_hash)


def test_the_configuration_has_one_digest(place: Path) -> None:
    """Two runs under the same files have the same digest of what governs them; another policy is another digest."""
    for policy in ("halt", "halt", "drop"):
        run(place, pipeline=STEPS, on_invalid=policy)
    digests = [entry["details"]["config"] for entry in trail(place) if entry["status"] == "started"]
    assert digests[0] == digests[1] != digests[2]


class Listening:
    """A recorder that keeps what it is told."""

    name = "listening"

    def __init__(self) -> None:
        self.told: list[RunFacts] = []

    def started(self, facts: RunFacts) -> Note | None:
        self.told.append(facts)
        return None

    def ended(self, facts: RunFacts) -> Note | None:
        self.told.append(facts)
        return Note("elsewhere", "ab" * 32)


def test_recorders_are_told_all_facts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start and at the end, with files, steps, contract and audit position; their note is in the trail."""
    listening = Listening()
    monkeypatch.setattr(running, "recorders_of", lambda *_: (listening,))
    run(place, pipeline=STEPS)
    begun, ended = listening.told
    assert (begun.status, ended.status, begun.run_id) == ("running", "complete", ended.run_id)
    assert [(file.path, file.sha256, file.records) for file in ended.inputs] == [
        (str(place / "in.csv"), sha256(place / "in.csv"), 6)
    ]
    assert ended.output is not None
    assert (ended.output.sha256, ended.output.columns[-1]) == (
        sha256(place / "out" / "out.csv"),
        ("double", "decimal(2)"),
    )
    assert [step.kind for step in ended.steps] == ["validate", "filter", "derive", "select"]
    assert ended.contract is not None
    assert ended.contract.label == "claims/1"
    lines = (place / "audit.jsonl").read_bytes().splitlines(keepends=True)
    assert ended.audit is not None
    assert hashlib.sha256(lines[ended.audit.index]).hexdigest() == ended.audit.head
    assert [entry["action"] for entry in trail(place)][-2:] == ["listening", "run"]


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_bad_record_halts_the_run_and_nothing_changes(place: Path) -> None:
    """Under halt the error names file, row and column; the previous output stays, and the trail says why."""
    run(place)
    before = (place / "out" / "out.csv").read_bytes()
    spoil(place, "7,E,abc,GB", "8,E,1.00,XX")
    result = run(place)
    assert (result.success, result.exit_code, result.output_hash) == (False, EXIT_HALTED, "")
    assert "in.csv: row 7: column amount" in result.errors[0]
    assert "'abc'" in result.errors[0]
    assert len(result.rejections) == 2
    assert (place / "out" / "out.csv").read_bytes() == before
    assert names(place / "out") == ["out.csv"]
    last = trail(place)[-1]
    assert (last["stage"], last["status"], last["level"]) == ("pipeline", "failed", "error")
    assert "row 7: column amount" in last["details"]["error"]


@pytest.mark.parametrize("batch_bytes", [1 << 10, 1 << 20])
def test_the_same_record_halts_a_run_whatever_the_batches(place: Path, batch_bytes: int) -> None:
    """A record that a later step rejects goes before a later record that an earlier step rejects."""
    spoil(place, *(f"{n},A,{'9' * 35 if n == 40 else '1'}.00,GB" for n in range(7, 60)), *["60,A,abc,GB"] * 50)
    (place / "contract.toml").write_text(CONTRACT.replace(', at_least = "0.00"', "").replace("decimal", "decimal"))
    result = run(place, pipeline=Pipeline("p").derive(x="amount * 1000"), batch_bytes=batch_bytes)
    assert "row 40: column x" in result.errors[0]


def test_the_first_bad_record_after_a_sort_is_the_first_in_its_order(place: Path) -> None:
    """Behind a sort the rows come in its order, whatever their numbers; behind an aggregate they have new numbers."""
    big = ["A", "B", "C"]
    spoil(place, *(f"{7 + n},{name},{'9' * 35}.0{n},GB" for n, name in enumerate(big)))
    (place / "contract.toml").write_text(CONTRACT.replace(', at_least = "0.00"', ""))
    after = Pipeline("p").sort("-amount").derive(x="amount * 1000")
    assert "in.csv: row 9: column x" in run(place, pipeline=after).errors[0]
    grouped = Pipeline("p").aggregate(by=["customer"], most="max(amount)").derive(x="most * 1000")
    assert "row 1 of what the aggregate gives: column x" in run(place, pipeline=grouped).errors[0]


def test_nothing_is_lost_in_quarantine(place: Path) -> None:
    """Every record is in the output, was removed by a step, or is in the file of rejected records, with its reason."""
    spoil(place, "7,E,abc,GB", "8,E", "9,E,-1.00,GB", "10,E,3.00,DE")
    result = run(place, pipeline=STEPS, on_invalid="quarantine")
    assert result.success
    assert (result.input_records, result.output_records, result.removed_records, result.rejected_records) == (
        10,
        5,
        2,
        3,
    )
    rejected = place / "out" / "out.csv.rejected.jsonl"
    assert result.rejected_path == rejected
    found = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert [(each["row"], each["step"]) for each in found] == [(8, "read"), (7, "validate"), (9, "validate")]
    assert found[1]["record"] == {"id": "7", "customer": "E", "amount": "abc", "country": "GB"}
    write = next(entry for entry in trail(place) if entry["action"] == "write")
    assert write["details"]["rejected"] == {"file": str(rejected), "sha256": sha256(rejected), "records": 3}
    assert len(result.rejections) == 3


def test_many_rejected_records_are_kept_in_order(place: Path) -> None:
    """More than fit in memory, in the order of the stages and of the rows, whatever the batches; ten are told."""
    spoil(place, *(f"{n},{'E' * 500},{'abc' if n % 2 else '5'},GB" for n in range(7, 8000)))
    first = run(place, on_invalid="quarantine", batch_bytes=1 << 14)
    kept = (place / "out" / "out.csv.rejected.jsonl").read_bytes()
    second = run(place, on_invalid="quarantine", batch_bytes=1 << 20)
    assert first.rejected_records == second.rejected_records == kept.count(b"\n") == 3997
    assert (place / "out" / "out.csv.rejected.jsonl").read_bytes() == kept
    assert len(first.rejections) == 10
    assert names(place / "out") == ["out.csv", "out.csv.rejected.jsonl"]


def test_dropped_records_are_counted(place: Path) -> None:
    """Under drop the rejected records are in the counts and in the trail, and nowhere else."""
    spoil(place, "7,E,abc,GB")
    result = run(place, on_invalid="drop")
    assert (result.success, result.input_records, result.output_records, result.rejected_records) == (True, 7, 6, 1)
    assert names(place / "out") == ["out.csv"]
    assert trail(place)[-1]["details"]["rejected_records"] == 1


def test_an_unreadable_input_is_recorded(place: Path) -> None:
    """An empty file where a header must be is bad data: the run is in the trail, and failed."""
    (place / "in.csv").write_text("")
    result = run(place)
    assert (result.success, result.exit_code) == (False, EXIT_HALTED)
    assert [entry["status"] for entry in trail(place)] == ["started", "failed"]


# -- wrong configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "later"}, "mode: 'later'"),
        ({"on_invalid": "ignore"}, "on_invalid: 'ignore'"),
        ({"input_path": ()}, "input_path: names no file"),
        ({"contract": "nowhere.toml"}, r"nowhere\.toml: the contract cannot be read"),
        ({"pipeline": "nowhere.toml"}, r"nowhere\.toml: the pipeline cannot be read"),
        ({"output_path": "out.unknown"}, r"out\.unknown"),
        ({"memory_bytes": 5}, "memory_bytes: 5"),
        ({"spill_directory": "nowhere"}, "nowhere: spill_directory is no directory"),
        ({"audit_path": "out/out.csv"}, "audit_path: is the same file as output_path"),
        ({"save_contract": "c.toml"}, "the contract is given already"),
        ({"pipeline": Pipeline("p").select("nobody")}, "there is no column 'nobody'"),
        ({"pipeline": Pipeline("p").filter("amount")}, r"^step 1 \(1_filter\): filter"),
        ({"output_path": "-", "on_invalid": "quarantine", "output_format": CSV}, "quarantine has no place"),
        ({"output_path": "-"}, "its name does not tell"),
    ],
)
def test_wrong_configuration_is_refused_before_anything_is_written(
    place: Path, changes: dict[str, Any], words: str
) -> None:
    """ConfigError says what is wrong; neither output nor audit log nor any directory is there afterwards."""
    before = names(place)
    with pytest.raises(ConfigError, match=words):
        run(place, **changes)
    assert names(place) == before
