"""The Python API of lineage and its file: recording, asking, several processes, crashes, and what runs record."""

from __future__ import annotations

import csv
import datetime as dt
import errno
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from msgspec import structs

import tidewaiter
from rigs.faulty_disk import Fault, FaultyDisk
from rigs.power_loss import RecordingDisk
from rigs.tmpfs import quick_directory
from support import cli_environment
from tidewaiter import ConfigError, DurabilityError, IntegrityRefusal, LineageTracker, NoSpace
from tidewaiter.core.lineage.records import Derivation, Node
from tidewaiter.edges import lineage_file
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.lineage_file import AT_RISK, HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

NORMALIZE: Final[dict[str, Any]] = {
    "source_type": "file", "source_location": "s3://bucket/input.csv", "source_hash": "abc123",
    "transformation": "normalize", "destination_type": "file", "destination_location": "s3://bucket/output.csv",
    "destination_hash": "def456", "input_records": 1000, "output_records": 950, "records_filtered": 50,
}  # fmt: skip


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory."""
    with quick_directory() as path:
        yield path


def step(number: int) -> Derivation:
    """Return the edge from version `number` of a file to the next one."""
    nodes = [Node("file", "ledger.csv", hashlib.sha256(b"%d" % each).hexdigest()) for each in (number, number + 1)]
    return Derivation(source=nodes[0], destination=nodes[1], transformation="post", run_id=f"run-{number}")


def ids_in(path: Path) -> list[str]:
    """Return the ids that a reader finds."""
    reader = LineageTracker()
    reader.load(path)
    return [record.lineage_id for record in reader.graph.records]


# -- recording and asking ----------------------------------------------------------------------------------------------


def test_a_record_says_what_was_recorded() -> None:
    """Every member comes back, the time is UTC, and counts that add up are balanced."""
    lineage = LineageTracker(clock=lambda: dt.datetime(2026, 1, 31, tzinfo=dt.UTC))
    record = lineage.record(**NORMALIZE, run_id="r", contract="c/1", metadata={"by": ["me"]})
    assert {name: getattr(record, name) for name in NORMALIZE} == NORMALIZE
    assert (record.run_id, record.contract, record.metadata, record.edge) == ("r", "c/1", {"by": ["me"]}, "data")
    assert (record.timestamp, record.balanced) == (dt.datetime(2026, 1, 31, tzinfo=dt.UTC), True)
    assert lineage.get_lineage(record.lineage_id) is record
    assert lineage.get_lineage("nobody") is None
    assert LineageTracker().record(**NORMALIZE | {"records_filtered": 49}).balanced is False
    assert LineageTracker().record(**NORMALIZE | {"output_records": None}).balanced is None


def test_ancestors_descendants_and_impact_go_along_the_versions() -> None:
    """A file with another hash is another version: what was made from it came from something else."""
    lineage = LineageTracker()
    first = lineage.record(source_location="a", source_hash="1", destination_location="b", destination_hash="1")
    other = lineage.record(source_location="a", source_hash="2", destination_location="b", destination_hash="2")
    last = lineage.record(source_location="b", source_hash="1", destination_location="c", destination_hash="1")
    assert lineage.get_ancestors(last.lineage_id) == [first]
    assert lineage.get_descendants(first.lineage_id) == [last]
    assert lineage.get_descendants(other.lineage_id) == []
    assert lineage.get_by_source("a") == [first, other]
    assert lineage.get_by_source("a", "2") == [other]
    assert lineage.get_by_destination("b", hash="1") == [first]
    assert [str(node) for node in lineage.impact_analysis("a").destinations] == ["b@1", "b@2", "c@1"]
    assert [str(node) for node in lineage.impact_analysis("a", "1").destinations] == ["b@1", "c@1"]
    assert [str(node) for node in lineage.impact_analysis(first.lineage_id).affected] == ["c@1"]
    assert (lineage.summary().records, len(lineage)) == (3, 3)


def test_a_file_updated_in_place_is_not_its_own_ancestor() -> None:
    """With the same hash before and after, a question about it still ends."""
    lineage = LineageTracker()
    touch = lineage.record(source_location="a", source_hash="1", destination_location="a", destination_hash="1")
    update = lineage.record(source_location="a", source_hash="1", destination_location="a", destination_hash="2")
    back = lineage.record(source_location="a", source_hash="2", destination_location="a", destination_hash="1")
    assert lineage.get_ancestors(touch.lineage_id) == [back, update]
    assert lineage.get_descendants(update.lineage_id) == [back, touch]


def test_ids_depend_on_what_was_said_and_on_nothing_else() -> None:
    """Two trackers give the same ids; what is recorded again is a record of its own."""
    one, two = LineageTracker(), LineageTracker()
    ids = [one.record(**NORMALIZE).lineage_id for _ in range(3)]
    assert ids == [two.record(**NORMALIZE).lineage_id for _ in range(3)]
    assert ids[1:] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    said = [step(1), step(2), step(1)]
    assert [record.lineage_id for record in one.record_all(said)] == [each.lineage_id() for each in said[:2]]
    assert one.record_all(said) == one.record_all(said)
    assert len(one) == 5


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ({"input_records": -1}, ValueError, "input_records: -1 is negative"),
        ({"output_records": 1.0}, TypeError, "output_records: must be an int, not float"),
        ({"records_filtered": True}, TypeError, "records_filtered: must be an int, not bool"),
        ({"source_type": "fiel"}, ValueError, "source_type: 'fiel' is unknown: allowed are file, table"),
        ({"edge": "x"}, ValueError, "edge: 'x' is unknown"),
        ({"source_location": ""}, ValueError, "source_location: is empty"),
        ({"destination_location": None}, ValueError, "destination_location: is empty"),
        ({"destination_hash": b"1"}, TypeError, "destination_hash: must be a text, not bytes"),
        ({"source_location": "\ud800"}, ValueError, "source_location: holds half of a surrogate pair"),
        ({"metadata": {"at": Path()}}, TypeError, "metadata.at: PosixPath is no JSON value"),
        ({"metadata": [1]}, TypeError, "metadata: must be a dict"),
    ],
)
def test_what_cannot_be_recorded_is_refused_by_name(
    members: dict[str, Any], error: type[Exception], message: str
) -> None:
    """And nothing is recorded then."""
    lineage = LineageTracker()
    with pytest.raises(error, match=message):
        lineage.record(**NORMALIZE | members)
    assert len(lineage) == 0


def test_unknown_names_are_told() -> None:
    """Ids, locations, edges and formats that do not exist raise ValueError with the name."""
    lineage = LineageTracker()
    record = lineage.record(**NORMALIZE)
    for call in (
        lambda: lineage.get_ancestors("nobody"),
        lambda: lineage.impact_analysis("nobody"),
        lambda: lineage.get_descendants(record.lineage_id, edges=["nobody"]),  # type: ignore[list-item]
        lambda: lineage.export(format="nobody"),  # type: ignore[call-overload]
        lambda: lineage.export_graph("nobody"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="nobody"):
            call()
    with pytest.raises(ValueError, match="in memory"):
        lineage.save()


def test_exports_hold_every_record(place: Path) -> None:
    """JSON and CSV have the members by name, JSON lines are the file's; a formula in a cell is harmless."""
    lineage = LineageTracker()
    lineage.record(**NORMALIZE)
    lineage.record(source_location="=1+1", destination_location="b", metadata={"a": 1})
    assert [row["source_location"] for row in json.loads(lineage.export())] == ["s3://bucket/input.csv", "=1+1"]
    rows = list(csv.DictReader(io.StringIO(lineage.export(format="csv"))))
    assert [(row["source_location"], row["input_records"], row["metadata"]) for row in rows] == [
        ("s3://bucket/input.csv", "1000", ""), ("'=1+1", "", '{"a":1}'),
    ]  # fmt: skip
    lineage.export(place / "out.csv", "csv")
    assert (place / "out.csv").read_text() == lineage.export(format="csv").replace("\r\n", "\n")
    lineage.save(place / "saved.jsonl")
    assert (place / "saved.jsonl").read_text() == HEAD.decode() + lineage.export(format="jsonl")
    assert json.loads(LineageTracker().export()) == []


def test_the_package_gives_the_names_when_asked() -> None:
    """Importing the package alone loads neither the graph nor anything else of lineage."""
    code = "import sys, tidewaiter; print([n for n in sys.modules if 'lineage' in n]); tidewaiter.LineageTracker"
    ended = subprocess.run([sys.executable, "-c", code], env=cli_environment(), capture_output=True, check=True)
    assert ended.stdout == b"[]\n"
    assert {"LineageTracker", "LineageRecord"} <= set(tidewaiter.__all__)


def test_threads_lose_nothing(place: Path) -> None:
    """Four threads record into one file; every record is there once, and the ids are all different."""
    with LineageTracker(place / "l.jsonl", durable=False) as lineage:

        def work() -> None:
            for _ in range(50):
                lineage.record(**NORMALIZE)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(ids_in(place / "l.jsonl"))) == 200


# -- the file ----------------------------------------------------------------------------------------------------------


def test_what_was_recorded_is_there_again(place: Path) -> None:
    """A second tracker goes on where the first ended, with the same answers and the ids that follow."""
    path = place / "deep" / "l.jsonl"
    with LineageTracker(path) as lineage:
        first = lineage.record(**NORMALIZE, metadata={"a": [1, {"b": None}]})
        last = lineage.record(source_location="s3://bucket/output.csv", source_hash="def456", destination_location="c")
    with LineageTracker(path) as again:
        assert again.get_ancestors(last.lineage_id) == [first]
        assert again.record(**NORMALIZE, metadata={"a": [1, {"b": None}]}).lineage_id == f"{first.lineage_id}-2"
        assert again.notices == []
    assert len(ids_in(path)) == 3
    with pytest.raises(ValueError, match="closed"):
        again.record(**NORMALIZE)


def test_load_merges_and_save_replaces(place: Path) -> None:
    """Records with known ids are the same records; a tracker with a file keeps there what it loaded."""
    one, two = LineageTracker(), LineageTracker(place / "two.jsonl")
    one.record_all(map(step, range(6)))
    two.record_all(map(step, range(3, 9)))
    one.save(place / "one.jsonl")
    assert two.load(place / "one.jsonl") == 3
    assert two.load(place / "one.jsonl") == 0
    two.close()
    assert len(ids_in(place / "two.jsonl")) == 9
    assert one.load(place / "two.jsonl") == 3
    one.save(place / "one.jsonl")
    assert sorted(ids_in(place / "one.jsonl")) == sorted(ids_in(place / "two.jsonl"))


def test_what_is_read_shares_its_nodes(place: Path) -> None:
    """Two records of one file that name the same version hold one node, read by a tracker or merged into one."""
    path = place / "l.jsonl"
    with LineageTracker(path) as lineage:
        said = lineage.record_all([step(0), step(1), step(1)])
    with LineageTracker(path) as again:
        merged = LineageTracker()
        assert merged.load(path) == 2
        for reader in (again, merged):
            first, second = reader.graph.records
            assert [first, second] == said[:2]
            assert first.destination is second.source


def test_20_000_edges_are_found_again(place: Path) -> None:
    """A history of 20,000 versions, written in one call, is read in blocks and followed to its beginning."""
    path = place / "l.jsonl"
    with LineageTracker(path, durable=False) as lineage:
        records = lineage.record_all(map(step, range(20_000)))
    reader = LineageTracker()
    assert reader.load(path) == 20_000
    assert reader.get_ancestors(records[-1].lineage_id) == records[-2::-1]


def test_another_writer_is_refused_and_readers_are_not(place: Path) -> None:
    """In the same process and in another; a reader sees what was recorded so far."""
    path = place / "l.jsonl"
    with LineageTracker(path) as lineage:
        lineage.record(**NORMALIZE)
        with pytest.raises(ConfigError, match="being written by another LineageTracker"):
            LineageTracker(path)
        with pytest.raises(ConfigError, match="being written"):
            LineageTracker().save(path)
        code = f"from tidewaiter import LineageTracker as T; t = T(); print(t.load({str(path)!r})); T({str(path)!r})"
        ended = subprocess.run([sys.executable, "-c", code], env=cli_environment(), capture_output=True, check=False)
        assert ended.stdout == b"1\n"
        assert b"being written by another LineageTracker" in ended.stderr
        lineage.record(**NORMALIZE)
    assert len(ids_in(path)) == 2


def test_a_writer_waits_for_another_as_long_as_it_was_told(place: Path) -> None:
    """It goes on as soon as the other one closes the file."""
    path = place / "l.jsonl"
    first = LineageTracker(path)
    closing = threading.Timer(0.05, first.close)
    closing.start()
    with LineageTracker(path, wait_s=30) as second:
        second.record(**NORMALIZE)
    closing.join()
    assert len(ids_in(path)) == 1


def test_a_reader_sees_whole_records_while_they_are_written(place: Path) -> None:
    """Whatever is there of the last line, a reader finds the records before it and no error."""
    path = place / "l.jsonl"
    with LineageTracker(path) as lineage:
        lineage.record_all(map(step, range(3)))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        ends = [sum(map(len, lines[: number + 1])) for number in range(1, 4)]
        assert len(ids_in(path)) == sum(end <= length for end in ends)


def test_a_torn_last_line_is_cut_and_kept_aside(place: Path) -> None:
    """A writer says so, keeps the bytes beside the file, and goes on behind the last whole record."""
    path = place / "l.jsonl"
    with LineageTracker(path) as lineage:
        records = lineage.record_all(map(step, range(3)))
    whole = path.read_bytes()
    for left in (whole[:-1], whole[:-200] + bytes(200), whole[:-200] + bytes(199) + b"\n", whole[:-200]):
        path.write_bytes(left)
        with LineageTracker(path) as again:
            assert "an interrupted write left" in again.notices[0]
            assert again.record_all([step(2)])[0].lineage_id == records[2].lineage_id
        assert ids_in(path) == [record.lineage_id for record in records]
        aside = next(place.glob("l.jsonl.torn-*"))
        assert left.endswith(aside.read_bytes())
        aside.unlink()


@pytest.mark.parametrize(
    "content", [b"hello\n", b'{"lineage_graph":1', b"\xff\xfe", b'{"prev":"0"}\n', b'{"lineage_graph":2}\n', b"\n"]
)
def test_what_is_no_lineage_file_is_left_alone(place: Path, content: bytes) -> None:
    """Neither a writer nor a reader nor `save` touches another file; a beginning of the first line is one's own."""
    path = place / "l.jsonl"
    path.write_bytes(content)
    own = HEAD.startswith(content)
    if own:
        assert ids_in(path) == []
        LineageTracker(path).close()
        assert path.read_bytes() == HEAD
        return
    for call in (LineageTracker, LineageTracker().load, LineageTracker().save):
        with pytest.raises(ConfigError, match=r"is no lineage file|version 2"):
            call(path)
    assert path.read_bytes() == content


def test_a_line_that_is_no_record_is_refused_where_it_stands(place: Path) -> None:
    """Nothing is skipped: the byte is named."""
    path = place / "l.jsonl"
    with LineageTracker(path) as lineage:
        lineage.record_all(map(step, range(3)))
    lines = path.read_bytes().splitlines(keepends=True)
    for bad in (b"{}\n", b"nothing\n", lines[1].replace(b'"ledger.csv"', b"7"), b"\xff\n", b"[" * 5000 + b"\n"):
        path.write_bytes(b"".join([*lines[:2], bad, *lines[2:]]))
        with pytest.raises(IntegrityRefusal, match=f"byte {len(lines[0]) + len(lines[1])}: "):
            ids_in(path)


@pytest.mark.parametrize(("number", "told"), [(0, True), (2_900, True), (10, False)])
def test_a_changed_record_near_the_end_is_refused_when_the_file_is_opened(
    place: Path, number: int, *, told: bool
) -> None:
    """Opening looks at the first line and the last 64 KiB; of the middle, whoever reads the file is told."""
    path = place / "l.jsonl"
    with LineageTracker(path, durable=False) as lineage:
        lineage.record_all(map(step, range(3_000)))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = lines[number].replace(b"lineage_", b"linebge_")
    changed = b"".join(lines)
    path.write_bytes(changed)
    if told:
        with pytest.raises(ConfigError if number == 0 else IntegrityRefusal, match=rf"{path}"):
            LineageTracker(path)
    else:
        with LineageTracker(path) as opened, pytest.raises(IntegrityRefusal, match="no record of lineage"):
            len(opened)
    assert path.read_bytes() == changed


def test_zeros_in_the_midst_of_a_long_file_are_damage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further back than an interrupted write can reach, they are refused instead of being taken for the end."""
    path = place / "l.jsonl"
    with LineageTracker(path) as lineage:
        lineage.record_all(map(step, range(20)))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], bytes(10) + b"\n", *lines[2:]]))
    assert len(ids_in(path)) == 1
    monkeypatch.setattr(lineage_file, "AT_RISK", 1000)
    with pytest.raises(IntegrityRefusal, match="is no record"):
        ids_in(path)


def test_somebody_elses_writing_is_noticed(place: Path) -> None:
    """A file that grew, or was replaced, is not written to again."""
    path = place / "l.jsonl"
    lineage = LineageTracker(path)
    lineage.record(**NORMALIZE)
    with path.open("ab") as file:
        file.write(b"x\n")
    with pytest.raises(IntegrityRefusal, match="somebody else wrote to it"):
        lineage.record(**NORMALIZE)
    path.rename(place / "other")
    with pytest.raises(IntegrityRefusal, match="renamed, removed or replaced"):
        lineage.record(**NORMALIZE)
    lineage.close()


def test_a_forked_process_cannot_record(place: Path) -> None:
    """Its copy of the end would not move with the file's."""
    lineage = LineageTracker(place / "l.jsonl")
    lineage.record(**NORMALIZE)
    child = os.fork()
    if not child:
        try:
            lineage.record(**NORMALIZE)
        except ConfigError as error:
            os._exit(0 if "forked process" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lineage.close()


def test_a_full_disk_leaves_whole_records_and_recording_goes_on(place: Path) -> None:
    """Nothing of a record that found room for its first bytes only is left, in the file or in memory."""
    path = place / "l.jsonl"
    full = Fault("pwrite", pattern="l.jsonl", nth=3, errno=errno.ENOSPC, short=10)
    lineage = LineageTracker(path, disk=FaultyDisk([full]))
    lineage.record(**NORMALIZE)
    with pytest.raises(NoSpace):
        lineage.record(**NORMALIZE)
    assert path.read_bytes().endswith(b"}\n")
    assert ids_in(path) == [record.lineage_id for record in lineage.graph.records]
    assert lineage.record(**NORMALIZE).lineage_id.endswith("-2")
    assert len(ids_in(path)) == 2
    lineage.close()


def test_a_sync_that_failed_is_told_every_time(place: Path) -> None:
    """It is not known what is on the disk, so nothing is recorded until somebody opens the file again."""
    lineage = LineageTracker(place / "l.jsonl", disk=FaultyDisk([Fault("fdatasync", nth=1)]))
    for _ in range(2):
        with pytest.raises(DurabilityError, match="fsync failed"):
            lineage.record(**NORMALIZE)
    lineage.close()
    with LineageTracker(place / "l.jsonl") as again:
        again.record(**NORMALIZE)


def test_each_call_is_durable_unless_asked_otherwise(place: Path) -> None:
    """One sync for each call, or one at `save` and at `close`, and always one for what may be lost at most."""

    class Counting(Disk):
        syncs = 0

        def _fdatasync(self, fd: int) -> None:
            self.syncs += 1
            super()._fdatasync(fd)

    for durable, expected in ((True, [1, 2, 2]), (False, [0, 0, 1])):
        disk = Counting()
        lineage = LineageTracker(place / f"{durable}.jsonl", durable=durable, disk=disk)
        counts = []
        for _ in range(2):
            lineage.record(**NORMALIZE)
            counts.append(disk.syncs)
        lineage.save()
        assert [*counts, disk.syncs] == expected
        lineage.close()
        assert disk.syncs == expected[-1]
    lineage = LineageTracker(place / "much.jsonl", durable=False, disk=(disk := Counting()))
    for _ in range(3):
        lineage.record(**NORMALIZE, metadata={"much": "x" * (AT_RISK // 2)})
    assert disk.syncs == 2
    with pytest.raises(ValueError, match="a record is longer"):
        lineage.record(**NORMALIZE, metadata={"much": "x" * AT_RISK})
    lineage.close()
    assert len(ids_in(place / "much.jsonl")) == 3


def test_all_that_a_failed_sync_lost_is_written_again(place: Path) -> None:
    """However much was appended at once: whoever opens the file reads it, and a power loss later leaves it there."""
    root = place / "disk"
    root.mkdir()
    recorder = RecordingDisk(root)
    path = root / "l.jsonl"
    lineage = LineageTracker(path, disk=FaultyDisk([Fault("fdatasync")], recorder))
    with pytest.raises(DurabilityError):
        lineage.record_all([structs.replace(step(number), metadata={"much": "x" * 5_000}) for number in range(50)])
    lineage.close()
    with LineageTracker(path, disk=recorder) as again:
        again.record_all([step(99)])
    crash = recorder.history.crash_states(random.Random(1), len(recorder.ops) - 1, samples=0)[0]
    left = crash.materialise(place / "crashed") / "l.jsonl"
    assert len(ids_in(path)) == 51
    assert left.read_bytes() == path.read_bytes()


def test_power_loss_after_any_operation(place: Path) -> None:
    """Whatever is left of names, sizes and pages: what was acknowledged is there, in order, and recording goes on."""
    root = place / "disk"
    root.mkdir()
    disk = RecordingDisk(root, page=64)
    path = root / "l.jsonl"
    acknowledged: list[tuple[int, int]] = []
    lineage = LineageTracker(path, disk=disk)
    for number in range(4):
        lineage.record_all([step(2 * number), step(2 * number + 1)])
        acknowledged.append((len(disk.ops), 2 * number + 2))
    lineage.close()
    expected = [step(number).lineage_id() for number in range(8)]
    rng = random.Random(5)
    for number, crash in enumerate(disk.history.every_crash(rng, samples=3)):
        left = crash.materialise(place / f"crashed-{number}") / "l.jsonl"
        with LineageTracker(left) as again:
            found = [record.lineage_id for record in again.graph.records]
            again.record_all([step(99)])
        sure = max((count for ops, count in acknowledged if ops <= crash.at + 1), default=0)
        assert found == expected[: len(found)]
        assert len(found) >= sure
        assert ids_in(left) == [*found, step(99).lineage_id()]
