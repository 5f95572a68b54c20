"""`tidewaiter audit`: exact bytes out, whole units only, and the same answers beside a running daemon."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Raw

from proof_rig import Log, make_log
from support import COMMAND, PATIENCE, cli_environment, run_cli, started_cli, wait_until
from tidewaiter.core import audit
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.edges.lock import StateLock
from tidewaiter.shell import audit_reading
from tidewaiter.shell.audit_reading import Reader, Wanted, entry_at, tail, utc_text
from tidewaiter.shell.commands import app
from tidewaiter.shell.flag_search import find_flags

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A finished log; not to be changed."""
    return make_log(tmp_path_factory.mktemp("log"))


@pytest.fixture
def own(log: Log, tmp_path: Path) -> Log:
    """A copy of it."""
    return log.copy(tmp_path / "own")


def said(capsysbinary: pytest.CaptureFixture[bytes], *arguments: object, code: int = 0, nothing: bool = False) -> bytes:
    """Return what the command prints; one line on standard error for an error, or where `nothing` matches."""
    assert app.main(["audit", *map(str, arguments)]) == code
    captured = capsysbinary.readouterr()
    assert captured.err.count(b"\n") == (code != 0 or nothing), captured.err
    assert captured.err.startswith(b"tidewaiter: nothing matches; ") == nothing
    return captured.err if code else captured.out


def entries(data: bytes) -> list[dict[str, Any]]:
    """Return the entries of exported lines."""
    return [json.loads(text) for text in data.splitlines()]


# -- export --------------------------------------------------------------------------------------------------------


def test_an_export_gives_the_exact_bytes_of_all_segments(log: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """So its lines can be hashed; to a file or to standard output alike."""
    assert len(log.segments) > 5
    assert said(capsysbinary, "export", "--state-dir", log.state) == log.audit
    out = log.folder / "out.jsonl"
    said(capsysbinary, "export", "--state-dir", log.state, "--out", out)
    assert out.read_bytes() == log.audit
    assert b"is there already" in said(capsysbinary, "export", "--state-dir", log.state, "--out", out, code=2)
    out.unlink()


def test_json_and_csv_hold_every_entry(log: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """One array; one table whose columns are the same for every entry."""
    wanted = entries(log.audit)
    assert json.loads(said(capsysbinary, "export", "--state-dir", log.state, "--format", "json")) == wanted
    text = said(capsysbinary, "export", "--state-dir", log.state, "--format", "csv").decode()
    table = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["index"] for row in table] == [str(entry["index"]) for entry in wanted]
    assert [row["action"] for row in table] == [entry["action"] for entry in wanted]
    assert None not in {cell for row in table for cell in row.values()}
    none = ("--format", "json", "--action", "no.such.action")
    assert json.loads(said(capsysbinary, "export", "--state-dir", log.state, *none, nothing=True)) == []


def test_numbers_in_a_table_stand_as_they_were_written(
    tmp_path: Path, log: Log, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """500.00 stays 500.00, and a number that no float holds keeps its digits."""
    own = log.copy(tmp_path / "own")
    context = audit.EntryContext("2026-01-01T00:00:00.000000Z", "run", "engine")
    record = b'{"flag_id":"x","amount":500.00,"exact":12345678901234567890.10}'
    chain = audit.Chain(10**6, "0" * 64)
    lines = [chain.entry(context, "flag.emitted", {"record": Raw(record)}), chain.entry(context, "audit.idle")]
    own.segments[-1].write_bytes(own.segments[-1].read_bytes() + b"".join(lines))
    text = said(capsysbinary, "export", "--state-dir", own.state, "--format", "csv", "--run", "run").decode()
    flag, idle = csv.DictReader(io.StringIO(text, newline=""))
    assert flag["details"] == f'{{"record":{record.decode()}}}'
    assert idle["details"] == ""


@pytest.mark.parametrize("command", ["tail", "export"])
def test_what_matches_nothing_is_said(log: Log, capsysbinary: pytest.CaptureFixture[bytes], command: str) -> None:
    """On standard error, with what there is, and the actions where one was asked for that is none; exit 0."""
    every = entries(log.audit)
    for options, actions in ((("--action", "flag.emited"), True), (("--from", "2100-01-01"), False)):
        assert app.main(["audit", command, "--state-dir", str(log.state), *options]) == 0
        captured = capsysbinary.readouterr()
        assert captured.out == b""
        text = captured.err.decode()
        assert f"nothing matches; the log has entries 0 to {len(every) - 1}, from {every[0]['timestamp']}" in text
        assert ("batch.committed, decision.recorded, flag.emitted" in text) == actions
        assert text.count("\n") == 1


def test_a_period_that_ends_before_it_begins_is_refused(log: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Exit 2: nobody takes an empty export for a quiet month."""
    for end in ("2026-03-01", "2026-02-01"):
        for command in ("tail", "export"):
            options = ("--state-dir", log.state, "--from", "2026-03-01", "--to", end)
            assert b"is not before --to" in said(capsysbinary, command, *options, code=2)


def test_a_terminal_shows_one_readable_line_for_each_entry(
    log: Log, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index, time, action and what matters, cut to the width; --json gives the exact lines there too."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda _self: True)
    rows = said(capsysbinary, "tail", "--state-dir", log.state, "-n", "500").decode().splitlines()
    assert len(rows) == log.audit.count(b"\n")
    assert all(len(row) <= 79 for row in rows)
    assert not any("{" in row for row in rows)
    for entry, row in zip(entries(log.audit), rows, strict=True):
        assert row.split()[0] == str(entry["index"])
        assert row.split()[3] == entry["action"]
        if entry["action"] == "flag.emitted":
            assert f"{entry['record']['flag_id']}  high" in row
        if entry["action"] == "batch.committed":
            assert f"{entry['counts']['events_read']} events, {entry['counts']['flags']} flags" in row
    assert said(capsysbinary, "tail", "--state-dir", log.state, "-n", "500", "--json") == log.audit


def test_a_table_holds_no_formulas(own: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """An actor of that name is shown behind an apostrophe."""
    last = own.segments[-1]
    line = audit.Chain(10**6, "0" * 64).entry(
        audit.EntryContext("2026-01-01T00:00:00.000000Z", "run", "=1+2"), "decision.recorded", {"reason": "@x"}
    )
    last.write_bytes(last.read_bytes() + line)
    text = said(capsysbinary, "export", "--state-dir", own.state, "--format", "csv", "--actor", "=1+2").decode()
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["actor"] == "'=1+2"
    assert json.loads(row["details"]) == {"reason": "@x"}


def test_filters_choose_by_time_action_run_and_actor(log: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Each alone and together; --from is included, --to is not."""
    every = entries(log.audit)
    runs = list(dict.fromkeys(entry["run_id"] for entry in every))
    begin = next(entry["timestamp"] for entry in every if entry["run_id"] == runs[1])
    end = next(entry["timestamp"] for entry in every if entry["run_id"] == runs[2])

    def chosen(*options: str) -> list[int]:
        return [entry["index"] for entry in entries(said(capsysbinary, "export", "--state-dir", log.state, *options))]

    second = [entry["index"] for entry in every if entry["run_id"] == runs[1]]
    assert chosen("--run", runs[1]) == second == chosen("--from", begin, "--to", end)
    both = [entry["index"] for entry in every if entry["action"] in ("run.started", "run.ended")]
    assert chosen("--action", "run.started", "--action", "run.ended") == both
    assert chosen("--actor", "engine", "--run", runs[1]) == [
        entry["index"] for entry in every if entry["actor"] == "engine" and entry["run_id"] == runs[1]
    ]
    assert b"--to soon: is no point in time" in said(capsysbinary, "export", "--to", "soon", code=2)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("2026-03-09", "2026-03-09T00:00:00.000000Z"),
        ("2026-03-09T12:00:00+02:00", "2026-03-09T10:00:00.000000Z"),
        ("2026-03-09T12:00:00.5Z", "2026-03-09T12:00:00.500000Z"),
        ("0009-03-09", "0009-03-09T00:00:00.000000Z"),
    ],
)
def test_times_are_compared_as_the_log_writes_them(written: str, text: str) -> None:
    """Without an offset they are UTC."""
    assert utc_text(written, "--from") == text


def test_a_reader_that_goes_away_ends_the_export_quietly(log: Log) -> None:
    """As `head` does; nobody is told of an error."""
    with subprocess.Popen(
        [*COMMAND, "audit", "export", "--state-dir", os.fspath(log.state), "--format", "json"],
        env=cli_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 0


def test_a_full_disk_behind_standard_output_is_one_line(log: Log) -> None:
    """Nobody takes half an export for a whole one: exit 2."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [*COMMAND, "audit", "export", "--state-dir", os.fspath(log.state)],
            env=cli_environment(), stdout=full, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(b"tidewaiter: standard output: No space left on device")
    assert done.stderr.count(b"\n") == 1


# -- while the daemon writes ---------------------------------------------------------------------------------------


def test_only_whole_units_count(own: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """A batch without its batch.committed and a torn line are not there yet; the lock is not asked for."""
    whole = own.audit
    context = audit.EntryContext("2026-01-01T00:00:00.000000Z", "run", "engine")
    newest = entries(whole)[-1]["index"]
    chain = audit.Chain(newest + 1, "0" * 64)
    records = b"".join([chain.entry(context, "flag.emitted", {"record": {"flag_id": "x"}}) for _ in range(3)])
    with own.segments[-1].open("ab") as file, StateLock(own.state / "lock"):
        file.write(records)
        file.flush()
        assert said(capsysbinary, "export", "--state-dir", own.state) == whole
        shown = said(capsysbinary, "tail", "--state-dir", own.state, "-n", "1", "--json")
        assert entries(shown)[0]["index"] == newest
        end = chain.entry(context, "batch.committed", {})
        file.write(end[:-1])
        file.flush()
        assert said(capsysbinary, "export", "--state-dir", own.state) == whole
        file.write(end[-1:])
    assert said(capsysbinary, "export", "--state-dir", own.state) == whole + records + end


def test_following_shows_what_comes_until_interrupted(own: Log, tmp_path: Path) -> None:
    """Across the seal of a segment; Ctrl-C ends it with exit code 0."""
    out = tmp_path / "followed.jsonl"
    before = own.audit
    with (
        out.open("wb") as file,
        started_cli(
            "audit", "tail", "-n", "2", "--follow", "--json", "--state-dir", own.state, stdout=file
        ) as process,
    ):  # fmt: skip
        wait_until(lambda: out.read_bytes().count(b"\n") == 2, what="the last two entries")
        own.run(60, 90)
        added = own.audit[len(before) :]
        assert len(added) > 3 * 8192
        wait_until(lambda: out.read_bytes().endswith(added), what="what the daemon added")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert out.read_bytes() == b"".join(before.splitlines(keepends=True)[-2:]) + added


def test_a_reader_goes_on_where_it_stopped(own: Log) -> None:
    """Every entry once, also one that was torn the time before."""
    reader = Reader(own.state)
    whole = own.audit
    assert b"".join(entry.line for entry in reader.read()) == whole
    line = audit.Chain(10**6, "0" * 64).entry(audit.EntryContext("t", "r", "a"), "audit.idle")
    for part in (line[:50], line[50:]):
        assert not list(reader.read())
        with own.segments[-1].open("ab") as file:
            file.write(part)
    assert [entry.line for entry in reader.read()] == [line]


def test_a_line_that_is_no_entry_is_refused(own: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Exit 4 with file and byte: nothing is passed on as if it were the log."""
    path = own.segments[2]
    path.write_bytes(path.read_bytes().replace(b'"action"', b'"acti\xff"', 1))
    text = said(capsysbinary, "export", "--state-dir", own.state, "--out", own.folder / "x", code=4)
    assert f"{path}: byte 0: is no audit entry".encode() in text
    assert not (own.folder / "x").exists()
    assert not list(own.folder.glob(".*"))


# -- tail and show -------------------------------------------------------------------------------------------------


def test_the_last_entries_are_found_however_rare(log: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """The newest N of those that pass the filters, oldest first; fewer where there are fewer."""
    every = entries(log.audit)
    started = [entry["index"] for entry in every if entry["action"] == "run.started"]
    for count in (0, 1, 2, 3, 50):
        shown = said(capsysbinary, "tail", "--state-dir", log.state, "--action", "run.started", "-n", count, "--json")
        assert [entry["index"] for entry in entries(shown)] == started[-count:] * bool(count)
    rows = said(capsysbinary, "tail", "--state-dir", log.state).decode().splitlines()
    assert [int(row.split()[0]) for row in rows] == [entry["index"] for entry in every[-10:]]
    assert "run.ended" in rows[-1]


def test_any_entry_is_found_by_its_index(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """By halving the segment, whatever part of it the entry stands in; and there is none before, between or behind."""
    monkeypatch.setattr(audit_reading, "_NARROW", 64)
    lines = log.audit.splitlines(keepends=True)
    indices = list(range(len(lines)))
    for index in random.Random(1).sample(indices, 60) + indices[:3] + indices[-3:]:
        entry = entry_at(log.state, index)
        assert entry.line == lines[index]
        with entry.path.open("rb") as file:
            file.seek(entry.offset)
            assert file.readline() == entry.line
    for index in (-1, len(lines), 10**9):
        with pytest.raises(ConfigError, match=f"its entries are 0 to {len(lines) - 1}"):
            entry_at(log.state, index)


def test_an_entry_is_shown_with_its_place_and_hashes(log: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """By index or as the flag's; --json gives the exact line."""
    lines = log.audit.splitlines(keepends=True)
    index, flag = next((at, json.loads(text)) for at, text in enumerate(lines) if b"flag.emitted" in text)
    flag_id = flag["record"]["flag_id"]
    for which in (index, flag_id):
        assert said(capsysbinary, "show", which, "--state-dir", log.state, "--json") == lines[index]
        text = said(capsysbinary, "show", which, "--state-dir", log.state).decode()
        assert hashlib.sha256(lines[index]).hexdigest() in text
        assert hashlib.sha256(b"\0" + lines[index]).hexdigest() in text
        assert f'"flag_id": "{flag_id}"' in text
    assert b"there is no flag nope" in said(capsysbinary, "show", "nope", "--state-dir", log.state, code=2)
    assert b"there is no entry 99999" in said(capsysbinary, "show", "99999", "--state-dir", log.state, code=2)


def test_every_flag_leads_to_its_entry(log: Log) -> None:
    """Its batch is the one whose range holds the event."""
    found = 0
    for text in log.audit.splitlines():
        entry = json.loads(text)
        if entry["action"] == "flag.emitted":
            (flag,) = find_flags(log.state, entry["record"]["flag_id"])
            pair = audit_reading.entries_of(log.state, flag)
            assert pair.flag.line == text + b"\n"
            first = pair.committed.position.start + pair.committed.first
            assert first <= flag.offset < pair.committed.offset
            assert pair.flag.head.index < pair.batch.head.index
            found += 1
    assert found > 20


def test_nothing_in_an_entry_moves_the_terminal(own: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Escape sequences of an actor's name are written out."""
    line = audit.Chain(10**6, "0" * 64).entry(audit.EntryContext("t", "r", "\x1b]0;x\x07\u202e"), "audit.idle")
    with own.segments[-1].open("ab") as file:
        file.write(line)
    text = said(capsysbinary, "tail", "--state-dir", own.state, "-n", "1").decode()
    assert "\\x1b]0;x\\x07\\u202e" in text


def test_what_is_not_there_is_one_line(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Exit 2, and what to do."""
    (tmp_path / "empty").mkdir()
    for place, what in (("gone", b"there is no such state directory"), ("empty", b"is no state directory")):
        for command in (("tail",), ("show", "1"), ("show", "a:b"), ("export",)):
            assert what in said(capsysbinary, *command, "--state-dir", tmp_path / place, code=2)


def test_a_segment_that_cannot_be_read_is_one_line(own: Log, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Exit 2 with its name, not a traceback."""
    path = own.segments[-1]
    path.unlink()
    path.mkdir()
    for command in (("tail",), ("show", "1000000"), ("export", "--format", "csv")):
        text = said(capsysbinary, *command, "--state-dir", own.state, code=2)
        assert f"{path}: cannot be read: Is a directory".encode() in text


def test_a_tail_reads_little_of_a_long_log(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last entries of an unfiltered log cost as many as are shown, and those of an unfinished unit."""
    read = 0
    original = audit_reading.head_of

    def counted(path: Path, offset: int, line: bytes) -> audit.EntryHead:
        nonlocal read
        read += 1
        return original(path, offset, line)

    monkeypatch.setattr(audit_reading, "head_of", counted)
    monkeypatch.setattr(audit_reading, "_NARROW", 64)
    tail(log.state, 5, Wanted())
    assert read < 40
    with pytest.raises(IntegrityRefusal):
        original(log.segments[0], 0, b"{}\n")


def test_the_command_line_starts_without_the_parts_it_does_not_need() -> None:
    """Help is shown without importing cryptography."""
    code = "import sys, tidewaiter.shell.commands.app; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=cli_environment(), check=False).returncode == 0
    assert b"--follow" in run_cli("audit", "tail", "--help").stdout
