"""Stream mode: an input that grows is followed, each record is appended once, and a kill changes no byte."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rigs.faulty_disk import Fault, FaultyDisk
from rigs.kill import Launcher, environment, every_point
from rigs.tmpfs import quick_directory
from support import PATIENCE, wait_until
from tidewaiter import AuditReader
from tidewaiter.core.errors import EXIT_DURABILITY, EXIT_HALTED, EXIT_INTEGRITY, ConfigError
from tidewaiter.core.pipelines.table_format import TableFormat
from tidewaiter.edges.durable import Disk
from tidewaiter.shell.pipelines.config import PipelineConfig
from tidewaiter.shell.pipelines.following import follow_pipeline
from tidewaiter.shell.pipelines.running import run_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidewaiter.shell.pipelines.result import PipelineResult

CONTRACT = """
contract = "sale"
version = 1
unknown_fields = "refuse"
[field]
id = { type = "string", min_length = 1 }
amount = { type = "money", scale = 2 }
quantity = { type = "integer" }
note = { type = "string", required = false }
"""
STEPS = """
pipeline = "sales"
version = 1
contract = "contract.toml"
[[step]]
filter = "quantity > 0"
[[step]]
derive = { total = "amount * quantity" }
[[step]]
select = ["id", "total", "note"]
"""
SORTED = """
[[step]]
select = ["id"]
[[step]]
name = "newest"
sort = ["id"]
"""
HEADER = "id,amount,quantity,note\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A quick directory with a contract and a pipeline file."""
    with quick_directory() as path:
        (path / "contract.toml").write_text(CONTRACT)
        (path / "steps.toml").write_text(STEPS)
        yield path


def records(count: int, *, bad: bool = True, first: int = 0) -> list[str]:
    """Return records as CSV; of ten, one has a line break, one is ragged and one has no amount."""
    made = []
    for number in range(first, first + count):
        kind = number % 10
        note = f'"line one\nline {number}"' if kind == 3 else f"note {number}"
        amount = "much" if bad and kind == 5 else f"{number}.25"
        made.append(f"id-{number},{amount},{number % 4},{note}{',more' if bad and kind == 8 else ''}\n")
    return made


def as_json(line: str) -> str:
    """Return a sound record as a JSON line."""
    name, amount, quantity, note = line.rstrip("\n").split(",", 3)
    return f'{{"id":"{name}","amount":{amount},"quantity":{quantity},"note":{json.dumps(note)}}}\n'


def config(place: Path, **said: Any) -> PipelineConfig:
    """Return the configuration of a stream in `place`."""
    members: dict[str, Any] = {
        "input_path": place / "in.csv", "output_path": place / "out.csv", "audit_path": place / "audit.jsonl",
        "pipeline": place / "steps.toml", "mode": "stream", "on_invalid": "quarantine", "batch_bytes": 1024,
        **said,
    }  # fmt: skip
    return PipelineConfig(**members)


class Ears:
    """Hears what a run has to tell."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def inferred(self, contract: str, saved: str) -> None: ...

    def progressed(self, *, bytes_read: int, bytes_total: int, records: int, rejected: int) -> None: ...

    def warned(self, text: str) -> None: ...

    def recovered(self, text: str) -> None:
        self.told.append(text)


def follow(
    place: Path,
    disk: Disk | None = None,
    go_on: Callable[[], bool] = lambda: False,
    ears: Ears | None = None,
    **said: Any,
) -> PipelineResult:
    """Follow until there is nothing new."""
    return follow_pipeline(
        config(place, **said), watch=ears or Ears(), disk=disk or Disk(), go_on=go_on,
        clock=lambda: 0.0, pause=lambda _: asyncio.sleep(0),
    )  # fmt: skip


def batch(place: Path, name: str = "batch.csv", **said: Any) -> bytes:
    """Return what a batch run over the same input writes."""
    done = run_pipeline(config(place, output_path=place / name, audit_path=None, **{**said, "mode": "batch"}))
    assert done.success, done.errors
    return (place / name).read_bytes()


def commits(place: Path) -> list[dict[str, Any]]:
    """Return the commits of the audit log, having checked that they follow each other."""
    reader = AuditReader(place / "audit.jsonl")
    assert reader.verify_chain_integrity()
    found = [entry.details for entry in reader.read_all() if entry.stage == "stream"]
    for before, after in itertools.pairwise(found):
        assert after["number"] == before["number"] + 1
        assert after["input"]["begin"] == before["input"]["end"]
        assert after["input"]["before"] == before["input"]["before"] + before["input"]["records"]
        for file in ("output", "kept"):
            assert after[file]["begin"] == before[file]["end"]
            assert after[file]["before"] == before[file]["after"]
    return found


def rejected_rows(place: Path) -> list[int]:
    """Return the numbers of the rejected records, as they were kept."""
    return [json.loads(line)["row"] for line in (place / "out.csv.rejected.jsonl").read_text().splitlines()]


# -- the same as a batch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_output_is_that_of_a_batch_however_the_input_grows(place: Path, seed: int) -> None:
    """Written byte by byte, record by record or all at once, over several runs: the same output and rejections."""
    rng = random.Random(seed)
    whole = (HEADER + "".join(records(120))).encode()
    at = len(HEADER)
    (place / "in.csv").write_bytes(whole[:at])

    def grow() -> bool:
        nonlocal at
        if at == len(whole) or rng.random() < 0.2:
            return False
        end = min(len(whole), at + rng.choice((1, 7, 300, 2500)))
        with (place / "in.csv").open("ab") as file:
            file.write(whole[at:end])
        at = end
        return True

    taken = 0
    while at < len(whole) or taken < 120:
        result = follow(place, go_on=grow, batch_bytes=rng.choice((1024, 2048, 1 << 20)))
        assert result.success
        assert result.input_records == result.output_records + result.removed_records + result.rejected_records
        taken += result.input_records
    assert (place / "out.csv").read_bytes() == batch(place)
    assert rejected_rows(place) == [number + 1 for number in range(120) if number % 10 in (5, 8)]
    assert commits(place)[-1]["written"] == 120 - 24 - len(
        [n for n in range(120) if n % 10 not in (5, 8) and not n % 4]
    )


@pytest.mark.parametrize(
    ("source", "target"),
    [("in.jsonl", "out.csv"), ("in.csv", "out.jsonl"), ("in.jsonl", "out.jsonl"), ("in.csv", "out.tsv")],
)
def test_every_text_format_can_be_followed_and_appended_to(place: Path, source: str, target: str) -> None:
    """JSON lines and delimited text, either way."""
    lines = [line for line in records(60, bad=False) if '"' not in line]
    text = [as_json(line) for line in lines] if source == "in.jsonl" else [HEADER, *lines]
    (place / source).write_text("".join(text[:20]))
    said: dict[str, Any] = {"input_path": place / source, "output_path": place / target}
    assert follow(place, **said).success
    with (place / source).open("a") as file:
        file.writelines(text[20:])
    assert follow(place, **said).success
    assert (place / target).read_bytes() == batch(place, f"batch{Path(target).suffix}", input_path=place / source)
    assert len((place / target).read_bytes().splitlines()) > 30


def test_an_input_without_header_and_one_with_a_mark_can_be_followed(place: Path) -> None:
    """Columns named by the configuration; a byte order mark before the header is no part of it."""
    lines = "".join(records(30, bad=False))
    said = TableFormat(header=False, columns=("id", "amount", "quantity", "note"))
    (place / "in.csv").write_text(lines)
    assert follow(place, input_format=said).success
    (place / "in.csv").write_bytes(b"\xef\xbb\xbf" + (HEADER + lines).encode())
    other: dict[str, Any] = {"output_path": place / "marked.csv"}
    assert follow(place, **other).success
    assert (place / "marked.csv").read_bytes() == (place / "out.csv").read_bytes() != b""


@pytest.mark.parametrize("unfinished", ["id-9,1.00,1,no", 'id-9,1.00,1,"no\nend\n', "id-9"])
def test_a_record_without_its_end_waits(place: Path, unfinished: str) -> None:
    """A line without line feed and a quote that is not closed are not taken, however often they are looked at."""
    (place / "in.csv").write_text(HEADER + "".join(records(2)) + unfinished)
    looks = iter([True, False])
    result = follow(place, go_on=lambda: next(looks))
    assert (result.input_records, result.success) == (2, True)
    with (place / "in.csv").open("a") as file:
        file.write('"\n' if '"' in unfinished else ",1.00,1,x\n" if "," not in unfinished else "\n")
    assert follow(place).input_records == 1
    assert (place / "out.csv").read_bytes() == batch(place)


# -- bad records -------------------------------------------------------------------------------------------------------


def test_halt_commits_up_to_the_bad_record(place: Path) -> None:
    """All before it is in the output, it is named, again at the next start; with another policy the stream goes on."""
    (place / "in.csv").write_text(HEADER + "".join(records(40)))
    for again in (False, True):
        result = follow(place, on_invalid="halt", batch_bytes=1 << 20)
        assert (result.success, result.exit_code) == (False, EXIT_HALTED)
        assert "row 6: column amount" in result.errors[0]
        assert result.input_records == (0 if again else 5)
        assert commits(place)[-1]["input"]["records"] == 5
    assert follow(place, on_invalid="drop").success
    assert (place / "out.csv").read_bytes() == batch(place)
    assert not (place / "out.csv.rejected.jsonl").exists()


# -- kill -9, full disks -----------------------------------------------------------------------------------------------


def followed(disk: Disk, place: str) -> int:
    """Follow until there is nothing new; for a process that is killed."""
    return follow(Path(place), disk).exit_code


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)], ids=["every third call", "every call"])
@pytest.mark.parametrize("grown", [False, True], ids=["from the beginning", "going on"])
def test_a_kill_at_any_call_changes_no_byte(place: Path, grown: bool, every: int) -> None:
    """Killed at each write-like call and in the middle of each write, and started again: the same files to the byte."""
    lines = records(45)
    (place / "in.csv").write_text(HEADER + "".join(lines))
    expected = batch(place)
    files = ("out.csv", "out.csv.rejected.jsonl", "audit.jsonl")
    with Launcher([__name__]) as launcher:
        target, arguments, calls = f"{__name__}:followed", {"place": str(place)}, place / "calls"

        def begin() -> None:
            for name in files:
                (place / name).unlink(missing_ok=True)
            if grown:
                (place / "in.csv").write_text(HEADER + "".join(lines[:20]))
                assert launcher.run(target, arguments).status == 0
                (place / "in.csv").write_text(HEADER + "".join(lines))

        begin()
        assert launcher.run(target, arguments, calls=calls).status == 0
        kept = (place / files[1]).read_bytes()
        assert (place / files[0]).read_bytes() == expected
        points = every_point(calls.read_text().splitlines())
        assert len(points) > 20
        for point in points[::every]:
            begin()
            outcome = launcher.run(target, arguments, point)
            assert outcome.killed, outcome.stderr
            outcome = launcher.run(target, arguments)
            assert outcome.status == 0, (point, outcome.stderr)
            assert (place / files[0]).read_bytes() == expected, point
            assert (place / files[1]).read_bytes() == kept, point
            commits(place)
            runs = [entry.status for entry in AuditReader(place / "audit.jsonl").read_all() if entry.action == "run"]
            assert runs.count("started") == runs.count("completed") + runs.count("failed"), point


def test_the_audit_log_is_durable_before_the_output_is_written(place: Path) -> None:
    """Before each write to the output, the last call on the audit log is a sync, and none of the output is unsynced."""
    (place / "in.csv").write_text(HEADER + "".join(records(120)))
    disk = FaultyDisk()
    assert follow(place, disk).success
    latest: dict[str, str] = {}
    written = 0
    for call in disk.calls:
        if call.primitive == "pwrite":
            if call.path.name == "out.csv":
                assert latest["audit.jsonl"] == "fdatasync"
                written += 1
            elif call.path.name == "audit.jsonl":
                assert latest.get("out.csv") != "pwrite"
        latest[call.path.name] = call.primitive
    assert written > 3


@pytest.mark.parametrize("name", ["out.csv", "out.csv.rejected.jsonl", "audit.jsonl"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(place: Path, name: str, nth: int) -> None:
    """Half a write and no more: exit 5, and when there is room again nothing is missing and nothing is there twice."""
    (place / "in.csv").write_text(HEADER + "".join(records(120)))
    disk = FaultyDisk([Fault("pwrite", name, nth=nth, errno=errno.ENOSPC, short=9, times=1 << 30)])
    result = follow(place, disk)
    assert (result.success, result.exit_code) == (False, EXIT_DURABILITY)
    assert follow(place).success
    assert (place / "out.csv").read_bytes() == batch(place)
    commits(place)


# -- what is not what it was -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["nothing", "a part", "zeros"])
def test_what_a_run_that_broke_off_did_not_write_is_written_again(place: Path, left: str) -> None:
    """Of the last commit any part may be there when no run said that all of it is: it is derived again, and told."""
    (place / "in.csv").write_text(HEADER + "".join(records(40)))
    disk = FaultyDisk([Fault("pwrite", "out.csv", nth=2, errno=errno.ENOSPC, short=9, times=1 << 30)])
    assert follow(place, disk).exit_code == EXIT_DURABILITY
    last = commits(place)[-1]["output"]
    assert last["begin"] + 9 == (place / "out.csv").stat().st_size < last["end"]
    if left != "a part":
        os.truncate(place / "out.csv", last["begin"])
    if left == "zeros":
        os.truncate(place / "out.csv", last["end"])
    ears = Ears()
    assert follow(place, ears=ears).success
    assert (place / "out.csv").read_bytes() == batch(place)
    assert ears.told[0].startswith(f"{place}/out.csv: bytes {last['begin']} to {last['end']} were written again")


def changed(path: Path) -> None:
    """Change one digit at the end."""
    path.write_bytes(path.read_bytes()[:-2] + b"!\n")


@pytest.mark.parametrize(
    ("how", "code", "part"),
    [
        (lambda path: path.rename(f"{path}.1"), EXIT_HALTED, "was removed or renamed at byte"),
        (lambda path: (path.rename(f"{path}.1"), path.write_text(HEADER * 500)), EXIT_HALTED, "was replaced at byte"),
        (lambda path: os.truncate(path, 50), EXIT_INTEGRITY, "ends at byte 50"),
    ],
    ids=["removed", "replaced", "cut"],
)
def test_an_input_that_is_another_one_ends_the_run(
    place: Path, how: Callable[[Path], object], code: int, part: str
) -> None:
    """While it is followed: taken away, replaced, or cut below what was read."""
    (place / "in.csv").write_text(HEADER + "".join(records(40)))
    looks = 0

    def go_on() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            how(place / "in.csv")
        return looks < 3

    result = follow(place, go_on=go_on)
    assert (result.success, result.exit_code) == (False, code)
    assert part in result.errors[0]


@pytest.mark.parametrize("how", [changed, lambda path: os.truncate(path, 300)], ids=["changed", "cut"])
def test_an_input_that_is_another_one_at_the_next_start_is_refused(place: Path, how: Callable[[Path], object]) -> None:
    """The bytes of the last commit are looked at again before anything is read or written."""
    (place / "in.csv").write_text(HEADER + "".join(records(40)))
    follow(place)
    before = (place / "out.csv").read_bytes()
    how(place / "in.csv")
    result = follow(place)
    assert result.exit_code == EXIT_INTEGRITY
    assert (place / "out.csv").read_bytes() == before


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ({"output_path": "out.parquet"}, "parquet"),
        ({"output_path": "out.csv.gz"}, "gzip"),
        ({"output_path": "-", "output_format": TableFormat(format="csv"), "on_invalid": "drop"}, "output_path"),
        ({"input_path": "-", "input_format": TableFormat(format="csv")}, "input_path"),
        ({"input_path": ["in.csv", "in2.csv"]}, "input_path"),
        ({"input_path": "in.csv.gz"}, "gzip"),
        ({"input_path": "none.csv"}, "cannot be read"),
        ({"input_path": "empty.csv"}, "no whole header"),
        ({"input_format": TableFormat(encoding="latin-1")}, "latin-1"),
        ({"audit_path": None}, "audit_path"),
        ({"pipeline": None}, "contract"),
        ({"pipeline": "sorted.toml"}, "step 2 'newest': sort is not possible in stream mode"),
        ({"output_path": "theirs.csv"}, "is there already"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    place: Path, said: dict[str, Any], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a byte is written: formats, steps and files that need the whole input, and whose output is somebody's."""
    monkeypatch.chdir(place)
    for name, text in {
        "in.csv": HEADER, "in.csv.gz": "", "in2.csv": HEADER, "empty.csv": "id,amo", "theirs.csv": "data",
        "sorted.toml": STEPS[: STEPS.index("[[step]]")] + SORTED,
    }.items():  # fmt: skip
        (place / name).write_text(text)
    with pytest.raises(ConfigError, match=part):
        follow(place, **said)
    assert not (place / "out.csv").exists()
    assert (place / "theirs.csv").read_text() == "data"


def test_an_output_is_gone_on_with_only_under_what_began_it(place: Path) -> None:
    """Another pipeline, contract or output format would make one file of two: refused; so is a second run beside."""
    (place / "in.csv").write_text(HEADER + "".join(records(10)))
    follow(place)
    before = (place / "out.csv").read_bytes()
    (place / "steps.toml").write_text(STEPS.replace('"id", "total", "note"', '"id", "total"'))
    with pytest.raises(ConfigError, match="was begun under another pipeline"):
        follow(place)
    (place / "steps.toml").write_text(STEPS)
    with pytest.raises(ConfigError, match="was begun under another pipeline"):
        follow(place, output_format=TableFormat(delimiter=";"))

    def beside() -> bool:
        with pytest.raises(ConfigError, match="written by another AuditLogger"):
            follow(place)
        with pytest.raises(ConfigError, match="is being written by another run"):
            follow(place, audit_path=place / "other.jsonl")
        return False

    assert follow(place, go_on=beside).success
    assert (place / "out.csv").read_bytes() == before


# -- a process ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_cleanly(place: Path, number: signal.Signals) -> None:
    """What grows is appended within moments; SIGTERM and SIGINT end with 0; the next run goes on behind."""
    (place / "in.csv").write_text(HEADER + "".join(records(10)))
    code = (
        "import sys, test_pipeline_stream as t; from pathlib import Path; "
        f"sys.exit(t.follow(Path({str(place)!r}), go_on=lambda: True).exit_code)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=environment())
    try:
        output = place / "out.csv"
        wait_until(lambda: output.exists() and b"id-9" in output.read_bytes())
        with (place / "in.csv").open("a") as file:
            file.writelines(records(10, first=10))
        wait_until(lambda: b"id-19" in output.read_bytes())
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    entries = list(AuditReader(place / "audit.jsonl").read_all())
    assert (entries[-1].action, entries[-1].status, entries[-1].record_count) == ("run", "completed", 12)
    assert follow(place).input_records == 0
    assert output.read_bytes() == batch(place)
