"""The Python API of the audit log: what is logged, how it is read back, checked and shown, and what is refused.

Kills, power loss and failing disks are in test_audit_logger_faults.
"""

from __future__ import annotations

import csv
import datetime as dt
import enum
import hashlib
import itertools
import json
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from rigs.tmpfs import quick_directory
from support import cli_environment
from tidewaiter import AuditEntry, AuditLogger, AuditReader
from tidewaiter.core.audit import (
    MAX_ENTRY_BYTES,
    BatchCommitted,
    Chain,
    Counts,
    Decisions,
    EntryContext,
    RunEnded,
    read_head,
)
from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal
from tidewaiter.core.position import Position, SegmentId
from tidewaiter.edges.durable import NoSpace
from tidewaiter.shell import audit_logger, audit_tables
from tidewaiter.shell.audit_tables import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN, STAGE, ACTION = "pipeline-123", "read", "read_csv"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is; the directory is not there yet."""
    return tmp_path / "logs" / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[AuditLogger]:
    """A new log, quick because it is not durable."""
    with AuditLogger(path, actor="tester", durable=False) as logger:
        yield logger


def lines_of(path: Path) -> list[bytes]:
    """Return the lines as they stand."""
    return path.read_bytes().splitlines(keepends=True)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipeline logs with three lines, and reads back what happened, when, and how it ended."""
    monkeypatch.chdir(tmp_path)
    audit = AuditLogger("logs/audit.jsonl")
    audit.log_start("pipeline-123", "read", "read_csv")
    audit.log_complete("pipeline-123", "read", "read_csv", record_count=1000)
    for entry in audit.read_all():
        print(f"{entry.timestamp}: {entry.action} - {entry.status}")  # noqa: T201 - the example
    audit.close()
    shown = capsys.readouterr().out
    assert [line.partition("+00:00: ")[2] for line in shown.splitlines()] == [
        "audit.segment_opened - None", "read_csv - started", "read_csv - completed",
    ]  # fmt: skip
    assert bool(audit.verify_chain_integrity())


def test_lines_are_those_of_the_daemon(log: AuditLogger, path: Path) -> None:
    """Each line begins with the members of every audit entry, and with the SHA-256 of the line before."""
    log.log_start(RUN, STAGE, ACTION)
    log.log_failed(RUN, STAGE, ACTION, error="no such file")
    lines = lines_of(path)
    assert [list(json.loads(line))[:7] for line in lines] == [
        ["prev", "index", "timestamp", "level", "run_id", "actor", "action"]
    ] * 3
    heads = ["0" * 64, *(hashlib.sha256(line).hexdigest() for line in lines)]
    assert [json.loads(line)["prev"] for line in lines] == heads[:-1]
    opened = json.loads(lines[0])
    assert (opened["action"], opened["index"], opened["origin"]) == ("audit.segment_opened", 0, log.origin)
    assert opened["format"] == "tidewaiter-audit/1"
    assert all(read_head(line) is not None for line in lines)


def test_every_member_is_read_back(log: AuditLogger) -> None:
    """What a step says is in the entry that is returned, and in the one that is read."""
    returned = log.log_complete(
        RUN, STAGE, ACTION, resource="s3://bucket/in.csv", record_count=1000, input_hash="ab" * 32,
        output_hash="cd" * 32, duration_ms=12.5, details={"dialect": {"separator": ";"}, "columns": ("id", "value")},
    )  # fmt: skip
    *_, read = log.read_all()
    assert read == returned
    assert (read.run_id, read.stage, read.action, read.status) == (RUN, STAGE, ACTION, "completed")
    assert (read.resource, read.record_count, read.duration_ms) == ("s3://bucket/in.csv", 1000, 12.5)
    assert (read.input_hash, read.output_hash, read.actor, read.level) == ("ab" * 32, "cd" * 32, "tester", "info")
    assert read.details == {"dialect": {"separator": ";"}, "columns": ["id", "value"]}
    assert read.entry_id == f"{RUN}-{read.index}"
    assert read.timestamp.utcoffset() == dt.timedelta(0)


texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
members = st.fixed_dictionaries(
    {},
    optional={
        "resource": texts, "record_count": st.integers(0, 1 << 70), "input_hash": texts, "output_hash": texts,
        "duration_ms": st.floats(0, 1e12), "details": st.dictionaries(texts, values, max_size=5),
    },
)  # fmt: skip
names = texts.filter(bool)
actions = names.filter(lambda name: name not in audit_logger._RESERVED and not name.startswith("audit."))


@settings(max_examples=100)
@given(
    st.lists(st.tuples(names, names, actions, st.sampled_from(["start", "complete", "failed"]), members), max_size=5)
)
def test_what_was_logged_is_what_is_read_back(calls: list[tuple[str, str, str, str, dict[str, Any]]]) -> None:
    """Whatever a step says that JSON can hold comes back as it was, and the chain stays whole."""
    with quick_directory() as place:
        path = place / "a.jsonl"
        with AuditLogger(path, durable=False) as log:
            for run, stage, action, kind, said in calls:
                getattr(log, f"log_{kind}")(run, stage, action, **said)
        entries = list(AuditReader(path).read_all())[1:]
        assert AuditReader(path).verify_chain_integrity()
        assert len(path.read_bytes().splitlines()) == len(calls) + 1
    assert len(entries) == len(calls)
    for entry, (run, stage, action, _, said) in zip(entries, calls, strict=True):
        assert (entry.run_id, entry.stage, entry.action) == (run, stage, action)
        for name, value in said.items():
            assert json.dumps(getattr(entry, name)) == json.dumps(value)


def test_durations_are_measured(log: AuditLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's duration is from its start to its end by a clock that is never set, for each step its own."""
    clock = itertools.count(100.0, 0.25)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    log.log_start(RUN, STAGE, "one")  # asked at 100.00, begun at 100.25
    log.log_start(RUN, STAGE, "two")  # 100.50, 100.75
    assert log.log_complete(RUN, STAGE, "one").duration_ms == 750.0
    assert log.log_failed(RUN, STAGE, "two").duration_ms == 500.0
    assert log.log_complete(RUN, STAGE, "two").duration_ms is None
    assert log.log_complete("other run", STAGE, "one", duration_ms=3).duration_ms == 3.0


def test_a_failure_has_its_own_level_and_says_why(log: AuditLogger) -> None:
    """log_failed is of level error; an exception leaves its type and text, shortened, and what UTF-8 cannot hold."""
    entry = log.log_failed(RUN, STAGE, ACTION, error=ValueError("bad \udcff row" + "x" * 100_000), details={"row": 7})
    assert (entry.level, entry.status) == ("error", "failed")
    assert entry.details["row"] == 7
    assert entry.details["error_type"] == "ValueError"
    assert entry.details["error"].startswith("bad \\udcff rowxx")
    assert entry.details["error"].endswith("… (100,014 characters)")
    assert list(log.read_all())[-1] == entry


def test_step_logs_start_and_end(log: AuditLogger) -> None:
    """A step is logged when it begins and when it ends, with what became known in between."""
    with log.step(RUN, STAGE, ACTION, resource="in.csv") as step:
        step.record_count = 3
        step.details["separator"] = ";"
    with pytest.raises(KeyError), log.step(RUN, "write", "write_csv"):
        raise KeyError("id")
    entries = list(log.read_all())[1:]
    assert [(e.action, e.status) for e in entries] == [
        (ACTION, "started"), (ACTION, "completed"), ("write_csv", "started"), ("write_csv", "failed"),
    ]  # fmt: skip
    assert (entries[1].resource, entries[1].record_count, entries[1].details) == ("in.csv", 3, {"separator": ";"})
    assert entries[1].duration_ms is not None
    assert entries[3].details == {"error": "'id'", "error_type": "KeyError"}


def test_actor_is_the_account_unless_named(tmp_path: Path) -> None:
    """Without an actor the entries name the account of the operating system."""
    with AuditLogger(tmp_path / "a.jsonl", durable=False) as log:
        assert log.log_start(RUN, STAGE, ACTION).actor.split()[0].isdigit()


# -- what is refused ---------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    """No JSON value."""

    RED = 1


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"details": {"amount": Decimal("1.00")}}, TypeError, "details.amount: Decimal is no JSON value"),
        ({"details": {"rows": [1, {"at": dt.datetime.now(dt.UTC)}]}}, TypeError, r"details.rows\[1\].at: datetime"),
        ({"details": {"raw": b"x"}}, TypeError, "details.raw: bytes"),
        ({"details": {"colour": Colour.RED}}, TypeError, "details.colour: Colour"),
        ({"details": {"columns": {"a"}}}, TypeError, "details.columns: set"),
        ({"details": {1: "a"}}, TypeError, "the key 1 is no text"),
        ({"details": [1]}, TypeError, "details: must be a dict, not list"),
        ({"details": {"ratio": float("nan")}}, ValueError, "details.ratio: nan is no JSON number"),
        ({"details": {"ratio": float("inf")}}, ValueError, "details.ratio: inf is no JSON number"),
        ({"details": {"loop": LOOP}}, ValueError, "more than 100 levels deep"),
        ({"details": {"name": "\ud800"}}, ValueError, "details.name: holds half of a surrogate pair"),
        ({"duration_ms": float("nan")}, ValueError, "duration_ms: nan"),
        ({"duration_ms": -1}, ValueError, "duration_ms: -1 is no length of time"),
        ({"record_count": 1.5}, TypeError, "record_count: must be an int, not float"),
        ({"record_count": True}, TypeError, "record_count: must be an int, not bool"),
        ({"record_count": -1}, ValueError, "record_count: -1 is negative"),
        ({"resource": Path("in.csv")}, TypeError, "resource: must be a text, not PosixPath"),
        ({"records": 1}, TypeError, "unknown: records; known are resource, record_count"),
    ],
)
def test_what_json_cannot_hold_is_refused(
    log: AuditLogger, path: Path, said: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A value that could not be read back as it was is refused by name, and nothing is written."""
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        log.log_complete(RUN, STAGE, ACTION, **said)
    assert path.read_bytes() == before
    assert log.log_complete(RUN, STAGE, ACTION).index == 1


@pytest.mark.parametrize("names", [("", STAGE, ACTION), (RUN, "", ACTION), (RUN, STAGE, "")])
def test_names_must_be_there(log: AuditLogger, names: tuple[str, str, str]) -> None:
    """A step without run, stage or action is refused."""
    with pytest.raises(ValueError, match="is empty"):
        log.log_start(*names)


@pytest.mark.parametrize("action", ["batch.committed", "flag.emitted", "key.recorded", "audit.tail_cut", "audit.mine"])
def test_the_daemons_actions_are_refused(log: AuditLogger, action: str) -> None:
    """A pipeline cannot write what the daemon and its checks would take for a commit, a flag or a key."""
    with pytest.raises(ValueError, match="is an action of the daemon"):
        log.log_start(RUN, STAGE, action)


def test_an_entry_has_at_most_65535_bytes(log: AuditLogger, path: Path) -> None:
    """The longest entry fits to the byte; one more is refused with its size and the limit, and nothing is written."""
    log.log_start(RUN, STAGE, ACTION, details={"text": ""})
    room = MAX_ENTRY_BYTES - len(lines_of(path)[-1])
    log.log_start(RUN, STAGE, ACTION, details={"text": "x" * room})
    assert len(lines_of(path)[-1]) == MAX_ENTRY_BYTES
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"would be 65,536 bytes long, at most 65,535"):
        log.log_start(RUN, STAGE, ACTION, details={"text": "x" * (room + 1)})
    assert path.read_bytes() == before
    assert log.verify_chain_integrity().entries == 3


# -- one writer --------------------------------------------------------------------------------------------------------


def test_the_second_writer_gets_a_clear_error(log: AuditLogger, path: Path) -> None:
    """A file has one writer, within a process and between processes; reading it goes on."""
    with pytest.raises(ConfigError, match="is being written by another AuditLogger"):
        AuditLogger(path)
    code = f"from tidewaiter import AuditLogger; AuditLogger({str(path)!r})"
    other = subprocess.run(
        [sys.executable, "-c", code], env=cli_environment(), capture_output=True, text=True, check=False
    )
    assert other.returncode == 1
    assert "is being written by another AuditLogger" in other.stderr
    log.log_start(RUN, STAGE, ACTION)
    assert len(list(AuditReader(path).read_all())) == 2


def test_the_next_writer_goes_on(path: Path) -> None:
    """When the first writer is closed, or forgotten, the next continues the chain under the log's name."""
    with AuditLogger(path, durable=False) as first:
        origin = first.origin
        first.log_start(RUN, STAGE, ACTION)
    with pytest.raises(ValueError, match="the audit log is closed"):
        first.log_start(RUN, STAGE, ACTION)
    forgotten = AuditLogger(path, durable=False)
    forgotten.log_complete(RUN, STAGE, ACTION)
    del forgotten
    with AuditLogger(path, durable=False) as last:
        assert last.origin == origin
        assert last.log_start(RUN, STAGE, ACTION).index == 3
        assert last.verify_chain_integrity().entries == 4


def test_a_log_keeps_its_name(path: Path) -> None:
    """A new log gets the name that is asked for, and no other afterwards."""
    with AuditLogger(path, origin="example.org/etl", durable=False) as log:
        assert log.origin == "example.org/etl"
    with pytest.raises(ValueError, match=r"is called example.org/etl, not example.org/other"):
        AuditLogger(path, origin="example.org/other")
    AuditLogger(path, origin="example.org/etl").close()


def test_threads_share_one_logger(log: AuditLogger) -> None:
    """From several threads each entry stands in the log once, and the chain is whole."""

    def work(number: int) -> None:
        for step in range(40):
            log.log_complete(f"run-{number}", STAGE, ACTION, record_count=step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(entry.run_id, entry.record_count) for entry in log.read_all()][1:]
    assert sorted(found) == sorted((f"run-{number}", step) for number in range(6) for step in range(40))
    assert log.verify_chain_integrity().entries == 241


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_daemons_entries_are_read(tmp_path: Path) -> None:
    """A segment of the daemon is read with the same schema: what a step has is None, the rest is in the details."""
    context = EntryContext("2026-11-22T05:18:12.816119Z", "20261122T051812-64080bdd", "engine")
    chain = Chain(296, "ab" * 32)
    position = Position(SegmentId("demo.jsonl", 1, 2, 3, "cd" * 32), 0, 5, 5, "ef" * 32)
    committed = BatchCommitted(
        "batch", position, 0, 5, "12" * 32, Counts(), Counts(), {}, Decisions("", "", "", ""), None
    )  # fmt: skip
    path = tmp_path / "audit-00000000000000000296.jsonl"
    opened = chain.entry(context, "audit.segment_opened", {"predecessor": "audit-0.jsonl", "predecessor_length": 9})
    record = Raw(b'{"flag_id":"e1:velocity","metric_value":500.00}')
    ended = RunEnded("success", 0, None, [])
    path.write_bytes(
        b"".join(
            [
                opened,
                chain.entry(context, "flag.emitted", {"record": record}),
                chain.entry(context, "batch.committed", committed),
                chain.entry(context, "run.ended", ended),
            ]
        )
    )
    first, flag, batch, last = AuditReader(path).read_all()
    assert (first.index, first.prev) == (296, "ab" * 32)
    assert flag == AuditEntry(
        prev=hashlib.sha256(opened).hexdigest(), index=297, action="flag.emitted", level="info", actor="engine",
        timestamp=dt.datetime(2026, 11, 22, 5, 18, 12, 816119, tzinfo=dt.UTC), run_id="20261122T051812-64080bdd",
        entry_id="20261122T051812-64080bdd-297", details={"record": {"flag_id": "e1:velocity", "metric_value": 500.0}},
    )  # fmt: skip
    assert batch.details["counts"]["events_read"] == 0
    assert (last.status, last.details["status"]) == (None, "success")
    assert AuditReader(path).verify_chain_integrity()
    with pytest.raises(ConfigError, match="does not begin with an audit log's entry 0"):
        AuditLogger(path)


def test_a_state_directory_is_left_to_its_daemon(tmp_path: Path) -> None:
    """The daemon's own segments are never opened for writing, whether it runs or not."""
    path = tmp_path / "audit" / "audit-00000000000000000000.jsonl"
    with AuditLogger(path, durable=False):
        pass
    (tmp_path / "stream.json").write_text("{}")
    with pytest.raises(ConfigError, match="belongs to a daemon's state directory"):
        AuditLogger(path)
    assert len(list(AuditReader(path).read_all())) == 1


@pytest.mark.parametrize("home", ["stream.json", "audit/audit-00000000000000000124.jsonl"])
@pytest.mark.parametrize("name", ["flags.jsonl", "rejections.jsonl", "audit/audit.jsonl"])
def test_no_file_of_a_state_directory_gets_an_entry(tmp_path: Path, home: str, name: str) -> None:
    """An empty projection looks like a new log; with an entry in it the daemon would not start again."""
    (tmp_path / "audit").mkdir()
    (tmp_path / home).write_bytes(b"{}\n")
    path = tmp_path / name
    path.touch()
    link = tmp_path.parent / f"{tmp_path.name}-link.jsonl"
    link.symlink_to(path)
    for named in (path, link):
        with pytest.raises(ConfigError, match="belongs to a daemon's state directory"):
            AuditLogger(named)
    assert path.read_bytes() == b""


def test_logs_may_lie_in_a_directory_called_audit(tmp_path: Path) -> None:
    """Only what a daemon made is a daemon's: names with a date, and another directory of that name, are nobody's."""
    for _ in range(2):
        for path in (tmp_path / "audit" / "audit-20261122.jsonl", tmp_path / "audit.jsonl"):
            with AuditLogger(path, durable=False) as log:
                log.log_start("r1", STAGE, ACTION)


def test_file_with_a_second_name_is_refused(tmp_path: Path) -> None:
    """A hard link to an audit segment lies anywhere and looks like any file; what is in it stays."""
    segment = tmp_path / "state.jsonl"
    with AuditLogger(segment, durable=False):
        pass
    before = segment.read_bytes()
    link = tmp_path / "mine" / "audit.jsonl"
    link.parent.mkdir()
    link.hardlink_to(segment)
    with pytest.raises(ConfigError, match="has 2 names"):
        AuditLogger(link)
    assert segment.read_bytes() == before


@pytest.mark.parametrize("name", ["a", "a/audit.jsonl"])
def test_links_in_a_circle_are_refused(tmp_path: Path, name: str) -> None:
    """Neither a file nor a directory is there: a fault of the path that was given."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="cannot be"):
        AuditLogger(tmp_path / name)


def test_summary_counts(log: AuditLogger) -> None:
    """The summary counts by status, action and run, adds up durations, and names what was never ended."""
    log.log_start("r1", STAGE, ACTION)
    log.log_complete("r1", STAGE, ACTION, duration_ms=10)
    log.log_complete("r1", STAGE, ACTION, duration_ms=30)
    log.log_start("r2", STAGE, ACTION)
    log.log_start("r2", "write", "write_csv")
    log.log_failed("r2", "write", "write_csv", duration_ms=5)
    summary = log.get_summary()
    assert summary.entries == 7
    assert summary.by_status == {"started": 3, "completed": 2, "failed": 1}
    assert summary.by_action == {"audit.segment_opened": 1, ACTION: 4, "write_csv": 2}
    assert (summary.by_run["r1"], summary.by_run["r2"]) == (3, 3)
    durations = summary.durations[ACTION]
    assert (durations.count, durations.total_ms, durations.least_ms, durations.most_ms) == (2, 40, 10, 30)
    assert summary.unfinished == [("r2", STAGE, ACTION)]
    times = [entry.timestamp for entry in log.read_all()]
    assert (summary.first, summary.last) == (times[0], times[-1])


@pytest.mark.parametrize("part", [1000, 3])
def test_csv_holds_every_entry_and_no_formula(
    log: AuditLogger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """The CSV has fixed columns; a cell that a spreadsheet would calculate has an apostrophe before it."""
    monkeypatch.setattr(audit_tables, "_PART", part)
    hostile = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1"]
    for text in hostile:
        log.log_complete(text, text, text, resource=text, input_hash=text, details={text: text})
    log.log_complete(RUN, STAGE, ACTION, resource='a,"b"\nc', record_count=2, duration_ms=1.5)
    out = tmp_path / "out.csv"
    assert log.export_csv(out) == len(hostile) + 2
    with out.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    for row, entry in zip(rows, log.read_all(), strict=True):
        cells = dict(zip(header, row, strict=True))
        assert not any(cell.startswith(tuple("=+-@\t\r\n\uff1d")) for cell in row)
        for name in ("run_id", "stage", "action", "resource", "input_hash", "actor", "entry_id"):
            assert cells[name].removeprefix("'") == (getattr(entry, name) or "")
        assert json.loads(cells["details"] or "{}") == entry.details
        assert dt.datetime.fromisoformat(cells["timestamp"]) == entry.timestamp
        assert cells["record_count"] == ("2" if entry.record_count else "")
    assert rows[-1][header.index("duration_ms")] == "1.5"


def test_csv_appears_as_a_whole(log: AuditLogger, path: Path, tmp_path: Path) -> None:
    """An export that fails leaves the one before it, and nothing else."""
    out = tmp_path / "out.csv"
    log.export_csv(out)
    before = out.read_bytes()
    with path.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(IntegrityRefusal):
        AuditReader(path).export_csv(out)
    assert out.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path.parent, out]


# -- the package -------------------------------------------------------------------------------------------------------


def test_importing_the_package_costs_nothing() -> None:
    """`import tidewaiter` loads nothing else; AuditLogger loads neither the command line nor the daemon."""
    code = (
        "import sys, tidewaiter\n"
        "assert not [m for m in sys.modules if m.startswith(('tidewaiter.', 'msgspec'))]\n"
        "from tidewaiter import AuditLogger\n"
        "print([m for m in ('asyncio', 'typer', 'rich', 'structlog', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=cli_environment(), capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_errors_that_are_raised_can_be_caught_by_their_names() -> None:
    """They are the package's own, so that a program need not know where in it they live."""
    import tidewaiter  # noqa: PLC0415 - the module itself is looked at

    for error in (ConfigError, DurabilityError, IntegrityRefusal, NoSpace):
        assert getattr(tidewaiter, error.__name__) is error
    for name in tidewaiter.__all__:
        assert getattr(tidewaiter, name) is not None


def test_unknown_names_are_attribute_errors() -> None:
    """What the package does not have is said as Python says it."""
    import tidewaiter  # noqa: PLC0415 - the module itself is looked at

    with pytest.raises(AttributeError, match="has no attribute 'AuditLoger'"):
        tidewaiter.AuditLoger  # type: ignore[attr-defined]  # noqa: B018 - asking is the test
