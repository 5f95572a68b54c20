"""`tidewaiter status` on state directories as a daemon leaves them: what it says, and that it leaves them alone."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import types
from typing import TYPE_CHECKING

import msgspec
import pytest

from support import REPOSITORY, cli_environment
from tidewaiter.core import audit
from tidewaiter.core.audit import Counts, Decisions, Halt
from tidewaiter.core.commits import Draft
from tidewaiter.core.engine import Rejection
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.ledger import Ledger
from tidewaiter.core.position import ClosedSegment, SegmentCursor
from tidewaiter.core.screening import Policy
from tidewaiter.core.snapshot import MAGIC, Header
from tidewaiter.edges.archive import store
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.journal import Journal
from tidewaiter.edges.lock import StateLock
from tidewaiter.edges.recovery import prepare_directories
from tidewaiter.edges.service_manager import ServiceManager
from tidewaiter.shell.commands import app
from tidewaiter.shell.commands.options import plain, show
from tidewaiter.shell.commands.status import prometheus
from tidewaiter.shell.reporting import Reporter
from tidewaiter.shell.settings import NoProgress
from tidewaiter.shell.state_owner import claim
from tidewaiter.shell.state_report import Report, Target, read_report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOW = dt.datetime(2026, 3, 9, 12, 0, 0, tzinfo=dt.UTC)
LINE = b'{"event": "one hundred bytes of event, more or less, so that there is something to count in the lag"}\n'


class Made:
    """A state directory made by the daemon's own journal, with a clock that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.stream = folder / "events.jsonl"
        self.stream.write_bytes(LINE * 100)
        self.disk = Disk()
        self.now = NOW - dt.timedelta(seconds=200)  # the log's times do not go back
        prepare_directories(self.disk, self.state)
        (self.state / "lock").touch()
        self.policy = Policy(order="admit")
        digest = store(self.disk, self.state, msgspec.json.encode(self.policy, order="sorted"))
        self.decisions = Decisions(digest, "c" * 64, "d" * 64, "e" * 64)
        self.journal = Journal(
            self.disk,
            self.state,
            Ledger(),
            None,
            run_id="run",
            now=self.time,
            segment_bytes=1 << 30,
            origin="example.org/log",
        )
        self.cursor = self.cursor_of(self.stream, 0)
        self.journal.record(audit.RUN_STARTED, {})
        self.now = NOW - dt.timedelta(seconds=30)

    def time(self) -> str:
        """The wall clock, as the daemon writes it."""
        return self.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def cursor_of(self, path: Path, start: int) -> SegmentCursor:
        """Return a cursor at the beginning of a segment."""
        status = path.stat()
        return SegmentCursor(path.name, status.st_dev, status.st_ino, start)

    def commit(
        self,
        lines: int,
        *,
        flags: int = 0,
        others: Sequence[str] = (),
        insufficient: dict[str, int] | None = None,
        **rejected: int,
    ) -> None:
        """Commit the next `lines` lines of the segment, `rejected` of them by kind; `others` are projections."""
        first = self.cursor.offset
        self.cursor.advance(LINE * lines)
        total = sum(rejected.values())
        self.journal.commit(
            Draft(
                cause="batch",
                records=[*(("flags", f'{{"flag":{at}}}') for at in range(flags)), *((to, "{}") for to in others)],
                counts=Counts(events_read=lines, evaluated=lines - total, flags=flags, rejected=total, **rejected),
                position=self.cursor.position,
                first=first,
                range_sha256="f" * 64,
                last_event_time="2026-03-09T11:59:00.000000+00:00",
                decisions=self.decisions,
                insufficient=insufficient or {},
            )
        )

    def rotate(self) -> Path:
        """Close the segment, give its file another name, and begin the next one with ten lines."""
        old = self.stream.with_name("events.jsonl.1")
        self.stream.rename(old)
        at = self.cursor.position
        closed = ClosedSegment(at.segment, at.start, at.offset, at.tail_len, at.tail_sha256)
        self.journal.record(audit.SEGMENT_CLOSED, closed)
        self.stream.write_bytes(LINE * 10)
        self.cursor = self.cursor_of(self.stream, at.start + at.offset)
        return old

    def snapshot(self) -> None:
        """Write a snapshot's header as of the last commit, the way the daemon names it; two are kept."""
        header = Header(audit=self.journal.mark, ledger=self.journal.ledger, effective=None, horizon=1, period=0)
        frame = msgspec.msgpack.encode(header)
        name = f"snapshot-{self.journal.mark.index:020d}.tws"
        body = MAGIC + len(frame).to_bytes(4, "little") + frame + bytes(4)
        (self.state / "snapshots" / name).write_bytes(body + hashlib.sha256(body).digest())
        for path in sorted((self.state / "snapshots").iterdir())[:-2]:
            path.unlink()

    def report(self, name: str | None = "events", *, stream: bool = True) -> Report:
        """Return the report at NOW, with or without being told where the stream is."""
        return read_report(Target(self.state, name, self.stream if stream else None), NOW)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A fresh state directory and a stream of 100 lines."""
    return Made(tmp_path)


def listing(folder: Path) -> list[tuple[str, int, int, bytes]]:
    """Return everything about a folder that a reader must not change."""
    return [
        (str(path), path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    ]


# -- what is in it -------------------------------------------------------------------------------------------------


def test_position_lag_and_counts_are_those_of_the_last_commit(made: Made) -> None:
    """Bytes are exact; the lag in events is estimated from the mean line."""
    made.commit(30, flags=4)
    made.commit(10, flags=1, json=2, duplicate=1)
    made.journal.materialise()
    report = made.report()
    size = len(LINE)
    assert report.position.offset == report.position.segment_offset == 40 * size
    assert report.position.segment == "events.jsonl"
    assert (report.lag_bytes, report.lag_events_estimate) == (60 * size, 60)
    assert (report.counts.events_read, report.counts.evaluated, report.counts.flags) == (40, 37, 5)
    assert report.reconciliation.balanced
    assert (report.reconciliation.read, report.reconciliation.rejected) == (40, 3)
    assert report.policies == made.policy
    assert report.last_commit == made.time()
    assert report.last_event_time == "2026-03-09T11:59:00.000000+00:00"
    assert report.projections["flags"].length == (made.state / "flags.jsonl").stat().st_size


def test_the_audit_log_counts_where_the_checkpoint_lags_behind(made: Made) -> None:
    """A commit is a commit before the checkpoint says so."""
    made.commit(30)
    made.journal.materialise()
    made.now = NOW - dt.timedelta(seconds=1)
    made.commit(20)  # its checkpoint is not written
    report = made.report()
    assert report.position.offset == 50 * len(LINE)
    assert report.last_commit == made.time()


@pytest.mark.parametrize("torn", [b"", b'{"prev":"', b'{"prev":"00","index":9}\n'])
def test_a_torn_or_foreign_tail_does_not_count(made: Made, torn: bytes) -> None:
    """What a crash left behind the last whole unit is ignored, as recovery would."""
    made.commit(30)
    made.journal.materialise()
    audit_file = made.state / "audit" / made.journal.mark.segment
    with audit_file.open("ab") as file:
        file.write(torn)
    assert made.report().position.offset == 30 * len(LINE)


def test_a_missing_checkpoint_is_no_obstacle(made: Made) -> None:
    """The checkpoint is a convenience; all of it stands in the audit log."""
    made.commit(30, flags=2)
    made.journal.materialise()
    whole = made.report()
    (made.state / "checkpoint.json").unlink()
    again = msgspec.structs.replace(made.report(), state_free_bytes=whole.state_free_bytes)  # others write meanwhile
    assert msgspec.structs.asdict(again) == msgspec.structs.asdict(whole)


def test_counts_that_do_not_add_up_are_said(made: Made) -> None:
    """Reconciliation is a check, not a sum: what does not balance is shown as such."""
    made.commit(10)
    made.journal.materialise()
    file = made.state / "checkpoint.json"
    file.write_bytes(file.read_bytes().replace(b'"totals":{"events_read":10', b'"totals":{"events_read":11'))
    assert not made.report().reconciliation.balanced


def test_rates_are_those_of_the_last_minute(made: Made) -> None:
    """Older batches do not count, and a stream that stands still has rate zero."""
    made.now = NOW - dt.timedelta(seconds=90)
    made.commit(50, flags=9)
    made.now = NOW - dt.timedelta(seconds=59)
    made.commit(30, flags=6)
    made.commit(12)
    rates = made.report().rates
    assert (rates.window_s, rates.events_per_s, rates.flags_per_s) == (60.0, 0.7, 0.1)
    assert rates.bytes_per_s == round(42 * len(LINE) / 60, 3)
    later = read_report(Target(made.state, "events", made.stream), NOW + dt.timedelta(hours=1))
    assert later.rates.events_per_s == 0.0


def test_rates_say_how_much_of_the_minute_they_cover(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the audit log of a minute is larger than the budget, the window is shorter and is said."""
    for second in range(10):
        made.now = NOW - dt.timedelta(seconds=20 - second)
        made.commit(10)
    monkeypatch.setattr("tidewaiter.shell.state_report.RATE_BUDGET", 5000)
    rates = made.report().rates
    assert 10 < rates.window_s < 20
    assert round(rates.events_per_s * rates.window_s) in range(10, 100, 10), "whole batches, and not all of them"


def test_the_last_commit_is_that_of_the_last_batch(made: Made) -> None:
    """A restart writes the checkpoint anew, and commits nothing."""
    made.commit(10)
    committed = made.time()
    made.now = NOW + dt.timedelta(days=1)
    made.journal.record(audit.RUN_ENDED, {})
    made.journal.write_checkpoint()
    assert made.report().last_commit == committed


def test_a_new_state_directory_is_not_an_error(made: Made) -> None:
    """Before the first commit everything is at its beginning."""
    report = made.report()
    assert (report.position.offset, report.position.segment, report.lag_bytes) == (0, None, 100 * len(LINE))
    assert report.lag_events_estimate is None
    assert report.last_commit is None
    assert report.reconciliation.balanced


def test_a_missing_state_directory_says_what_to_do(tmp_path: Path) -> None:
    """There is nothing to report about; exit 2."""
    with pytest.raises(ConfigError, match=r"there is no such state directory: name it with --state-dir"):
        read_report(Target(tmp_path / "x", "x", None), NOW)


@pytest.mark.parametrize(
    ("arguments", "way"),
    [(["s.jsonl", "--state-dir", "d"], "leave STREAM out: --state-dir is enough"), (["s.jsonl"], "pass --state-dir")],
)
def test_without_a_configuration_the_state_directory_is_enough(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    way: str,
) -> None:
    """Who has none is told so."""
    monkeypatch.delenv("TIDEWAITER_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert app.main(["status", *arguments]) == 2
    assert f"does not exist: name the configuration with --config FILE, or {way}" in capsys.readouterr().err


def test_a_folder_that_is_no_state_directory_is_not_reported_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was read there, which is not the same as balanced; exit 2, and nothing is written."""
    (tmp_path / "cfg" / "rules").mkdir(parents=True)
    assert app.main(["status", "--state-dir", str(tmp_path / "cfg")]) == 2
    assert "cfg: is no state directory: name it with --state-dir" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "cfg").iterdir()] == ["rules"]


@pytest.mark.parametrize("left", [True, False])
def test_a_lost_audit_log_is_said(made: Made, *, left: bool) -> None:
    """Without the audit log the other files are no evidence, and no sum of theirs is shown."""
    made.commit(30)
    made.journal.materialise()
    made.journal.write_checkpoint()
    for path in (made.state / "audit").glob("*.jsonl"):
        path.unlink()
    if not left:
        (made.state / "audit").rmdir()
    said = "audit/ is empty" if left else "audit/ is missing"
    with pytest.raises(ConfigError, match=rf"{said}, so nothing here can be trusted: restore the audit log"):
        made.report()


def test_the_owner_s_name_serves_where_nobody_named_the_stream(made: Made) -> None:
    """The state directory knows whose it is."""
    claim(made.disk, made.state, "mine", made.stream)
    assert made.report(None, stream=False).stream == "mine"
    assert made.report("other").stream == "other"


@pytest.mark.parametrize(("blocks", "full"), [(100, True), (4095, True), (4096, False)])
def test_a_full_disk_is_shown(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, blocks: int, full: bool
) -> None:
    """Free space stands in every form of the report; below 16 MiB a warning stands beside it."""
    real = os.statvfs(made.state)
    fake = os.statvfs_result((4096, 4096, *real[2:3], blocks + 50, blocks, *real[5:]))
    monkeypatch.setattr("tidewaiter.shell.state_report.os.statvfs", lambda _path: fake)
    assert app.main(["status", "--state-dir", str(made.state)]) == 0
    text = capsys.readouterr().out
    assert "free space" in text
    assert ("DISK FULL?" in text) is full
    assert made.report().state_free_bytes == blocks * 4096
    assert f'tidewaiter_state_free_bytes{{stream="events"}} {blocks * 4096}\n' in prometheus(made.report())
    monkeypatch.setattr("tidewaiter.shell.state_report.os.statvfs", _refused)
    assert made.report().state_free_bytes is None
    assert "free_bytes" not in prometheus(made.report())


def _refused(_path: object) -> os.statvfs_result:
    raise OSError


# -- segments ------------------------------------------------------------------------------------------------------


def test_what_was_held_back_shadowed_or_undecided_is_told(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Since the beginning, from the checkpoint and the audit log behind it; what there is none of is not mentioned."""
    made.commit(3)
    made.journal.materialise()
    assert app.main(["status", "--state-dir", str(made.state)]) == 0
    assert not re.search("^(suppressed|shadow flags|insufficient)", capsys.readouterr().out, re.MULTILINE)
    made.commit(4, flags=1, others=["suppressed", "suppressed", "shadow_flags"], insufficient={"a": 2})
    made.journal.materialise()
    made.commit(4, others=["shadow_flags"], insufficient={"b": 1200, "a": 1})
    report = made.report()
    assert (report.counts.flags, report.counts.suppressed, report.counts.shadow_flags) == (1, 2, 2)
    assert report.insufficient == {"a": 3, "b": 1200}
    file = tmp_path / "figures.prom"
    assert app.main(["status", "--state-dir", str(made.state), "--textfile", str(file)]) == 0
    lines = file.read_text().splitlines()
    assert 'tidewaiter_flags_suppressed_total{stream="state"} 2' in lines
    assert 'tidewaiter_flags_shadowed_total{stream="state"} 2' in lines
    assert 'tidewaiter_scenario_insufficient_total{stream="state",scenario="b"} 1200' in lines
    assert app.main(["status", "--state-dir", str(made.state)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"suppressed +2\n", told)
    assert re.search(r"shadow flags +2\n", told)
    assert re.search(r"insufficient +b at 1,200 events, a at 3 events\n", told)
    (made.state / "checkpoint.json").unlink()
    assert made.report().insufficient == {"a": 3, "b": 1200}


def test_lag_goes_on_over_a_rotation(made: Made) -> None:
    """What waits in the rotated file and in the new one counts."""
    made.commit(30)
    made.stream.rename(made.stream.with_name("events.jsonl.1"))
    made.stream.write_bytes(LINE * 10)
    assert made.report().lag_bytes == 80 * len(LINE)


def test_between_two_segments_only_the_next_ones_wait(made: Made) -> None:
    """A closed segment has nothing left, whether its file is still there or not."""
    made.commit(100)
    old = made.rotate()
    assert made.report().position.offset == 100 * len(LINE)
    assert made.report().lag_bytes == 10 * len(LINE)
    old.unlink()
    assert made.report().lag_bytes == 10 * len(LINE)


def test_a_lost_segment_makes_the_lag_unknown(made: Made) -> None:
    """No number is better than a wrong one."""
    made.commit(30)
    made.stream.unlink()
    made.stream.write_bytes(b"something else\n" * 100)
    assert made.report().lag_bytes is None
    assert made.report().lag_events_estimate is None


def test_a_segment_may_be_deleted_once_it_lies_before_the_older_snapshot(made: Made) -> None:
    """Not before, for a damaged newest snapshot means replaying from the older one."""
    made.commit(50)
    made.snapshot()
    made.commit(50)
    old = made.rotate()
    made.commit(5)
    made.snapshot()
    assert made.report().deletable == [], "the newer snapshot lies behind it, the older one does not"
    made.commit(5)
    made.snapshot()
    report = made.report()
    assert report.deletable == [str(old)]
    assert [one.offset for one in report.snapshots] == [110 * len(LINE), 105 * len(LINE)]
    packed = old.with_name(old.name + ".gz")
    packed.write_bytes(gzip.compress(old.read_bytes()))
    old.write_bytes(old.read_bytes() + b"late\n")
    assert made.report().deletable == [str(packed)], "a file that grew is not the closed segment"


def test_the_segment_being_read_may_not_be_deleted(made: Made) -> None:
    """Two snapshots in its middle do not make it superfluous."""
    made.commit(10)
    made.snapshot()
    made.commit(10)
    made.snapshot()
    assert made.report().deletable == []


# -- halts, runs, the lock -----------------------------------------------------------------------------------------


def test_a_pending_halt_is_shown_with_its_position(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator sees where, why, and the command that decides; the next commit resolves it."""
    made.commit(10)
    halt = Halt("json", 10 * len(LINE), 7, "a" * 64, "not JSON", "events.jsonl", 10 * len(LINE))
    made.journal.record(audit.STREAM_HALTED, halt)
    assert made.report().halt == halt
    message = f"events.jsonl: halted at byte {halt.offset} of the stream: json: not JSON: change the policy"
    log = {"run_id": "r1", "status": "failed", "started_at": "x", "stream": str(made.stream), "error": message}
    (made.state / "runs" / "run_r1.json").write_text(json.dumps(log))
    assert app.main(["status", "--state-dir", str(made.state)]) == 0
    text = capsys.readouterr().out
    assert f"json at {halt.offset}" in text
    assert text.count("not JSON") == 1, "the halt is told once"
    assert "r1 failed, started x\n" in text
    assert f"tidewaiter skip --position {halt.offset}" in text
    made.commit(1, operator=1)
    assert made.report().halt is None


def test_the_last_run_names_the_stream(made: Made) -> None:
    """A state directory alone is enough to find the lag."""
    made.commit(10)
    log = {"run_id": "r1", "status": "success", "started_at": "x", "stream": str(made.stream), "error": None}
    (made.state / "runs" / "run_r1.json").write_text(json.dumps(log))
    report = made.report(None, stream=False)
    assert (report.stream, report.stream_path) == ("events", str(made.stream))
    assert report.lag_bytes == 90 * len(LINE)
    assert report.last_run == log


def test_whether_the_daemon_runs_is_asked_of_the_lock(made: Made) -> None:
    """Held: alive with its pid; let go: not. The question itself does not disturb the holder."""
    assert (made.report().alive, made.report().pid) == (False, None)
    with StateLock(made.state / "lock"):
        report = made.report()
        assert (report.alive, report.pid) == (True, os.getpid())
        assert made.report().alive
    assert not made.report().alive


# -- how it is shown -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--json"], ["--textfile", "out.prom"]])
def test_status_changes_nothing(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    """It reads: not a byte, time or name in the state directory or beside the stream is another afterwards."""
    made.commit(30, flags=3)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = listing(made.state), made.stream.stat().st_mtime_ns
    assert app.main(["status", "--state-dir", str(made.state), *options]) == 0
    assert (listing(made.state), made.stream.stat().st_mtime_ns) == before


def test_json_is_one_object_with_the_report(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts get every figure under its name."""
    made.commit(30, flags=3)
    assert app.main(["status", "--state-dir", str(made.state), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    report = json.loads(said.out)
    assert report["position"]["offset"] == 30 * len(LINE)
    assert report["reconciliation"] == {"read": 30, "evaluated": 30, "rejected": 0, "balanced": True}
    assert report["alive"] is False


def test_the_text_for_people_says_what_matters(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers with separators, the estimate called one, and no control characters in a pipe."""
    monkeypatch.setenv("COLUMNS", "160")
    made.commit(30, flags=3, json=1)
    assert app.main(["status", str(made.stream), "--state-dir", str(made.state), *config(made)]) == 0
    text = capsys.readouterr().out
    assert "not running" in text
    assert f"{70 * len(LINE):,} bytes, about 70 events (estimated from the mean line)" in text
    assert "30 read = 29 evaluated + 1 rejected, balanced" in text
    assert "1 json" in text
    assert "order admit" in text
    assert "\x1b" not in text


def config(made: Made) -> list[str]:
    """Return options that stand for a configuration whose contract and rules do not matter here."""
    file = made.folder / "tidewaiter.toml"
    file.write_text("[log]\nlevel = 'info'\n")
    return ["--config", str(file)]


def test_the_text_file_is_prometheus_text_readable_for_the_collector(made: Made, tmp_path: Path) -> None:
    """Every sample has its help and type; the file is replaced whole and readable for others."""
    made.commit(30, flags=3, json=1, contract=2)
    target = tmp_path / "tidewaiter.prom"
    target.write_text("old")
    assert app.main(["status", "--state-dir", str(made.state), "--textfile", str(target)]) == 0
    text = target.read_text()
    samples = {}
    typed: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            typed.add(line.split()[2])
        elif not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            samples[name] = float(value)
            assert name.split("{")[0] in typed
    label = 'stream="state"'
    assert samples[f"tidewaiter_position_bytes{{{label}}}"] == 30 * len(LINE)
    assert samples[f"tidewaiter_events_read_total{{{label}}}"] == 30
    assert samples[f"tidewaiter_events_evaluated_total{{{label}}}"] == 27
    assert samples[f'tidewaiter_events_rejected_total{{{label},kind="contract"}}'] == 2
    assert samples[f"tidewaiter_flags_total{{{label}}}"] == 3
    assert samples[f"tidewaiter_up{{{label}}}"] == 0
    assert samples[f"tidewaiter_halted{{{label}}}"] == 0
    assert samples[f"tidewaiter_last_commit_timestamp_seconds{{{label}}}"] == (NOW.timestamp() - 30)
    assert not [name for name in samples if "lag_bytes" in name], "an unknown lag is left out, never 0"
    assert target.stat().st_mode & 0o004 or os.umask(os.umask(0)) & 0o004  # unless the caller's umask forbids it
    assert sorted(path.name for path in tmp_path.iterdir() if "prom" in path.name) == ["tidewaiter.prom"]


def test_a_text_file_that_cannot_be_written_is_named(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message speaks of that file and its directory, not of a temporary name or the state directory."""
    target = tmp_path / "gone" / "x.prom"
    assert app.main(["status", "--state-dir", str(made.state), "--textfile", str(target)]) == 2
    said = capsys.readouterr().err
    assert f"--textfile {target}: cannot be written: No such file or directory: {target.parent} must exist" in said
    assert ".tmp" not in said


def test_a_flood_of_rejections_is_summed_up(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty are logged one by one; one more line says where the others begin and of what kind they are."""
    lines: list[dict[str, object]] = []
    monkeypatch.setattr("tidewaiter.shell.reporting.log.warning", lambda event, **rest: lines.append(rest))
    monkeypatch.setattr("tidewaiter.shell.reporting.log.debug", lambda event, **rest: None)
    kinds = ["json"] * 20 + ["order", "contract", "order"]
    records = [
        msgspec.json.encode(
            Rejection(
                offset=at * 10, length=10, sha256="0" * 64, kind=kind, reason="r", field="", event_id=None, preview="",
            )
        )
        for at, kind in enumerate(kinds)
    ]  # fmt: skip
    evaluation = types.SimpleNamespace(
        counts=Counts(rejected=23), records=[("rejections", record) for record in records]
    )
    reporter = Reporter(ServiceManager({}), NoProgress(), Ledger(), once=False)
    reporter.committed(evaluation, Ledger())  # type: ignore[arg-type]
    assert len(lines) == 21
    assert lines[-1] == {"more": 3, "first_offset": 200, "kinds": {"order": 2, "contract": 1}}


def test_nothing_of_a_halt_moves_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What a status quotes is written out where it is no plain text."""
    show(plain("a\x1b[2J\u202e\r[red]b"))
    assert capsys.readouterr().out == "a\\x1b[2J\\u202e\\r[red]b\n"


def test_every_command_shows_what_it_quotes_in_one_way() -> None:
    """No module takes rich's own escape, which leaves control characters as they are."""
    folder = REPOSITORY / "daemon" / "tidewaiter" / "shell" / "commands"
    assert {path.name for path in folder.glob("*.py") if "markup import" in path.read_text()} == {"options.py"}


def test_a_stream_s_name_cannot_break_the_metrics(made: Made) -> None:
    """Quotes, backslashes and line ends in a label are escaped."""
    text = prometheus(made.report(name='a"b\\c\nd'))
    assert 'stream="a\\"b\\\\c\\nd"' in text
    assert all(line.startswith(("#", "tidewaiter_")) for line in text.splitlines())


def test_status_imports_no_more_than_it_needs(made: Made) -> None:
    """It is run every few seconds by collectors: no event loop, no watcher, no logging library."""
    code = (
        "import sys; from tidewaiter.shell.commands.app import main;"
        f"main(['status', '--json', '--state-dir', {str(made.state)!r}]);"
        "heavy = {'asyncio', 'watchfiles', 'structlog', 'aiofiles', 'rich.console', 'tidewaiter.core.engine'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli_environment(), capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"[]"
