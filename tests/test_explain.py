"""`tidewaiter explain`: the rules of the time, the numbers, the events behind them, and what is gone is said."""

from __future__ import annotations

import gzip
import json
import os
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from pure_core import line, lines
from support import REPOSITORY, enter_configured, run_cli
from tidewaiter.edges.lock import StateLock
from tidewaiter.shell import flag_search, history
from tidewaiter.shell.commands import app
from tidewaiter.shell.commands.explain import LINE_WIDTH, time_line
from tidewaiter.shell.explaining import Event, Explanation, explain, length_text
from tidewaiter.shell.history import Gone, History, time_reader
from tidewaiter.shell.state_report import Target, committed

if TYPE_CHECKING:
    from pathlib import Path

RULES = """
ruleset = "mine"
version = {version}
contract = "money_flow/1"

[field]
deposit = "event_type == 'deposit_completed'"
small = "deposit and amount < 50"

[list.watched]
file = "watched.txt"

[metric]
seen = {{ fn = "count", by = "user_id", window = "10s", where = "small and channel != 'api'" }}
spent = {{ fn = "sum(amount)", by = "user_id", window = "10s", where = "small and channel != 'api'" }}
first = {{ fn = "since_first", by = "user_id" }}

[scenario.burst]
title = "Several small deposits"
typology = "velocity"
risk_ref = "RA-7"
version = 1
severity = "high"
on = "small"
when = "seen >= p.n and spent > 10 and first < p.young"
params = {{ n = {n}, young = "1h" }}
segment.watched = {{ where = "user_id in list.watched", n = 2 }}
measure = "seen"
threshold = "p.n"
cooldown = "5s"
reason = "{{seen}} deposits"

[scenario.quick]
typology = "sequence"
version = 1
severity = "low"
status = "shadow"
on = "event_type == 'withdrawal_completed'"
after = {{ where = "deposit and amount >= p.least", within = "1m" }}
when = "amount <= a.amount"
params = {{ least = "40.00" }}
measure = "amount"
threshold = "p.least"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a configuration whose parts are sealed early."""
    files = {"r.toml": RULES.format(version=1, n=3), "watched.txt": "rich\n"}
    more = '[state]\ndir = "../state"\nsegment_bytes = "4KiB"\n[batch]\nmax_bytes = "2KiB"\n'
    enter_configured(tmp_path, monkeypatch, files, more)
    return tmp_path


def run(here: Path, *arguments: str) -> None:
    """Read the stream to its end."""
    done = run_cli("run", "--once", *arguments, cwd=here)
    assert done.returncode == 0, done.stderr.decode()


def flags(here: Path, kind: str = "flags") -> list[dict[str, Any]]:
    """Return the flags of a projection, sealed parts first."""
    parts = [*sorted((here / "state").glob(f"{kind}-*.jsonl")), here / "state" / f"{kind}.jsonl"]
    return [json.loads(text) for part in parts for text in part.read_bytes().splitlines()]


def told(here: Path, flag_id: str) -> Explanation:
    """Return the explanation of a flag."""
    return explain(Target(here / "state", None, None), flag_id)


def shown(capsys: pytest.CaptureFixture[str], flag_id: str, *arguments: str, code: int = 0) -> str:
    """Return what the command shows; one line on standard error for an error."""
    assert app.main(["explain", flag_id, *arguments]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") == (code != 0)
    return captured.out + captured.err


def small_deposits(count: int, **more: Any) -> list[bytes]:
    """Return deposits of one user, one a second, with an amount that tells them apart."""
    return [line(at, user_id="u", amount=at + 5.5, **more) for at in range(count)]


# -- what is told --------------------------------------------------------------------------------------------------


def test_a_flag_is_explained_with_its_numbers_and_events(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scenario, conditions as written and with numbers, each metric with its events on a time line."""
    api = line(1, event_id="other", user_id="u", amount=7, channel="api")
    stranger = line(1, event_id="stranger", user_id="v", amount=7)
    first, second, third, *_ = small_deposits(3)
    (here / "events.jsonl").write_bytes(lines(first, second, api, stranger, third))
    run(here)
    text = shown(capsys, "e2:burst")
    rows = [" ".join(row.split()) for row in text.splitlines()]
    assert "flag e2:burst" in rows
    assert "scenario burst version 1: Several small deposits" in rows
    assert "high, velocity, risk RA-7" in rows
    assert "user_id u, event_type deposit_completed, amount 7.50, currency GBP, channel web" in rows
    assert "flagged 3 against 3" in rows
    assert "reason 3 deposits" in rows
    assert any(row.startswith("ruleset mine version 1, ") for row in rows)
    assert any(row.startswith("list watched ") for row in rows)
    assert "on small ('deposit_completed' == 'deposit_completed') and 7.50 < 50" in rows
    assert "when seen >= p.n 3 >= 3" in rows
    assert "spent > 10 19.50 > 10" in rows
    assert "first < p.young '2s' < '1h'" in rows
    assert "seen = 3 for user_id u" in rows
    assert "2026-03-09 12:00:00 e0 u deposit_completed 5.50 web" in rows
    assert "> 2026-03-09 12:00:02 e2 u deposit_completed 7.50 web" in rows
    assert "the same events as seen" in rows
    assert "first = 2s for user_id u" in rows
    assert not [row for row in rows if "other" in row or "stranger" in row]
    assert "|-----------------------------------------------1-----1-----#|" in text


def test_suppressed_neighbours_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the flag, those its cooldown held back; from one of these, the flag and the others."""
    (here / "events.jsonl").write_bytes(lines(*small_deposits(9)))
    run(here)
    assert [flag["flag_id"] for flag in flags(here)] == ["e2:burst", "e7:burst"]
    whole = told(here, "e2:burst")
    assert whole.began is None
    assert [each.flag["event_id"] for each in whole.suppressed] == ["e3", "e4", "e5", "e6"]
    assert whole.follows is not None
    assert whole.follows.flag["event_id"] == "e7"
    one = told(here, "e4:burst")
    assert one.began is not None
    assert one.began.flag["event_id"] == "e2"
    assert [each.flag["event_id"] for each in one.suppressed] == ["e3", "e5", "e6"]
    text = shown(capsys, "e4:burst")
    assert "e4:burst, suppressed by the cooldown" in text
    assert "until 2026-03-09T12:00:07.000000Z" in text
    assert "suppressed in the same cooldown: 3" in text
    assert "held 5 against 3" in " ".join(text.split())
    assert "next flag of the same subject: e7:burst" in text
    last = told(here, "e7:burst")
    assert [each.flag["event_id"] for each in last.suppressed] == ["e8"]
    assert last.began is None


def test_a_sequence_names_the_event_that_came_before(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its fields stand as a.x in the conditions; shadow flags are found too."""
    small, large = line(0, user_id="u", amount=20), line(1, user_id="u", amount=45)
    out = line(30, user_id="u", amount=44, event_type="withdrawal_completed")
    (here / "events.jsonl").write_bytes(lines(small, large, out))
    run(here)
    text = " ".join(shown(capsys, "e30:quick").split())
    assert "e30:quick, of a shadow scenario" in text
    assert "within 1m e1, 29s before: event_type deposit_completed, amount 45.00" in text
    assert "amount <= a.amount 44.00 <= 45.00" in text


def test_a_measured_duration_has_its_unit(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the conditions below it have."""
    rules = here / "config" / "r.toml"
    text = rules.read_text().replace('measure = "seen"\nthreshold = "p.n"', 'measure = "first"\nthreshold = "p.young"')
    rules.write_text(text)
    (here / "events.jsonl").write_bytes(lines(*small_deposits(3)))
    run(here)
    assert "flagged 2s against 1h" in " ".join(shown(capsys, "e2:burst").split())


def test_a_segment_s_own_parameters_are_used(here: Path) -> None:
    """The values are those of the flag's population."""
    (here / "events.jsonl").write_bytes(lines(*(line(at, user_id="rich", amount=9) for at in range(2))))
    run(here)
    whole = told(here, "e1:burst")
    assert whole.found.flag["segment"] == "watched"
    assert ("when", "seen >= p.n", "2 >= 2") in whole.conditions


# -- the past ------------------------------------------------------------------------------------------------------


def test_an_old_flag_is_explained_by_the_rules_of_its_time(here: Path) -> None:
    """Found in sealed parts, with the rules, and the list, that were in force at its place in the stream."""
    events = [line(at, user_id=f"u{at // 6}", amount=9) for at in range(120)]
    (here / "events.jsonl").write_bytes(lines(*events))
    run(here)
    (here / "config" / "r.toml").write_text(RULES.format(version=2, n=5))
    (here / "config" / "watched.txt").write_text("rich\nricher\n")
    more = [line(at, user_id=f"u{at // 6}", amount=9) for at in range(120, 240)]
    (here / "events.jsonl").write_bytes(lines(*events, *more))
    run(here)
    found = flags(here)
    assert len(list((here / "state").glob("flags-*.jsonl"))) >= 3
    assert len(list((here / "state" / "audit").glob("audit-*.jsonl"))) >= 6
    for flag in found:
        whole = told(here, flag["flag_id"])
        assert whole.notes == []
        assert whole.governing is not None
        assert whole.governing.ruleset.version == (1 if flag["offset"] < len(lines(*events)) else 2)
        assert whole.governing.ruleset.plan.digests.closures["burst"] == flag["scenario_digest"]
        assert whole.governing.ruleset.checked.lists["watched"].digest == flag["lists"]["watched"]
        assert [len(taken.events) for taken in whole.taken] == [flag["metric_value"], flag["metric_value"], 1]
    assert {flag["threshold"] for flag in found} == {3, 5}


def test_every_flag_of_the_pack_is_made_of_its_events(tmp_path: Path) -> None:
    """Counts and sums worked out from the events that are shown are the values in the flag."""
    config = REPOSITORY / "config"
    stream, state = tmp_path / "t.jsonl", tmp_path / "state"
    made = ["--profile", "transfers-demo", "--events", "4000", "--seed", "3", "--users", "60"]
    assert run_cli("generate", "--out", stream, *made).returncode == 0
    contract = config / "contracts" / "account_transfers.toml"
    rules: list[str | Path] = ["--rules", config / "rules" / "aml_core.toml", "--contract", contract]
    done = run_cli("run", stream, "--once", "--state-dir", state, *rules, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    found = [json.loads(text, parse_float=Decimal) for text in (state / "flags.jsonl").read_bytes().splitlines()]
    by_rule: dict[str, list[dict[str, Any]]] = {}
    for flag in found:
        by_rule.setdefault(flag["rule_name"], []).append(flag)
    assert len(by_rule) >= 8
    checked = 0
    for flag in [each for some in by_rule.values() for each in (*some[:2], *some[-2:])]:
        whole = explain(Target(state, None, None), flag["flag_id"])
        assert whole.governing is not None
        assert whole.notes == []
        assert whole.event is not None
        metrics = {each.name: each for each in whole.governing.ruleset.checked.metrics.values()}
        for taken in whole.taken:
            metric, value = metrics[taken.name], flag["metrics"][taken.name]
            if metric.fn == "count":
                assert len(taken.events) == value
            elif metric.fn == "distinct" and metric.field is not None:
                assert min(len({each.fields[metric.field] for each in taken.events}), metric.cap or 10**9) == value
            elif metric.fn == "sum" and metric.field is not None and value is not None:
                assert sum(Decimal(each.fields[metric.field]) for each in taken.events) == value
            elif metric.fn == "since_previous" and value is not None:
                assert taken.end - taken.events[-1].time == value * 1_000_000
            elif metric.fn == "since_first":
                assert taken.end - taken.events[0].time == value * 1_000_000
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("compressed", [False, True])
def test_events_are_read_from_the_segments_they_stand_in(here: Path, compressed: bool) -> None:
    """Across a rotation, plain or compressed since."""
    events = small_deposits(3)
    (here / "events.jsonl.1").write_bytes(lines(*events[:2]))
    (here / "events.jsonl").write_bytes(lines(*events[2:]))
    run(here)
    if compressed:
        (here / "events.jsonl.1.gz").write_bytes(gzip.compress((here / "events.jsonl.1").read_bytes()))
        (here / "events.jsonl.1").unlink()
    whole = told(here, "e2:burst")
    assert whole.notes == []
    assert [each.id for each in whole.taken[0].events] == ["e0", "e1", "e2"]


def test_a_segment_that_is_gone_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Part of the events, or all: what is known is shown all the same."""
    events = small_deposits(3)
    (here / "events.jsonl.1").write_bytes(lines(*events[:2]))
    (here / "events.jsonl").write_bytes(lines(*events[2:]))
    run(here)
    (here / "events.jsonl.1").unlink()
    text = shown(capsys, "e2:burst", "--state-dir", "state")
    assert "note: gone, so without their events: events.jsonl.1" in text
    assert "2026-03-09 12:00:02" in text
    (here / "events.jsonl").unlink()
    text = shown(capsys, "e2:burst", "--state-dir", "state")
    assert "note: the events cannot be shown: the segment events.jsonl, which held byte " in text
    assert "seen >= p.n" in text
    assert "3 >= 3" in text


def test_a_stream_that_was_moved_can_be_named(here: Path) -> None:
    """Segments are known by their content."""
    (here / "events.jsonl").write_bytes(lines(*small_deposits(3)))
    run(here)
    (here / "moved").mkdir()
    (here / "events.jsonl").rename(here / "moved" / "events.jsonl")
    assert told(here, "e2:burst").event is None
    whole = explain(Target(here / "state", None, here / "moved" / "events.jsonl"), "e2:burst")
    assert whole.event is not None
    assert app.main(["explain", "e2:burst", "--state-dir", "state", "--stream", "moved/events.jsonl"]) == 0


def test_a_stream_that_was_changed_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its event is shown only while it is the flag's; a changed byte anywhere in the batch is told beside it."""
    others = [
        line(-at, event_id=f"other{at}", user_id="v") for at in range(6, 1, -1)
    ]  # a segment goes by its beginning
    events = [*others, *small_deposits(3)]
    stream = here / "events.jsonl"
    stream.write_bytes(lines(*events))
    run(here)
    whole = stream.read_bytes()
    for old, new in (
        (b'"e2"', b'"e9"'),
        (b'"GBP"', b'"xxx"'),
        (b'"e2"', b'"\xff\xff'),
        (b'{"event_id"', b'{"\n"\n_id"'),
    ):
        stream.write_bytes(whole[: whole.rindex(old)] + new + whole[whole.rindex(old) + len(old) :])
        text = shown(capsys, "e2:burst", "--state-dir", "state")
        assert "note: the events cannot be shown: the stream was changed since it was read: byte " in text
        assert "2026-03-09 12:00:02" not in text
    for number in (5, 7):
        old = b'"amount": %d.5' % number
        stream.write_bytes(whole.replace(old, b'"amount": 9.5'))
        text = shown(capsys, "e2:burst", "--state-dir", "state")
        note = f"the stream was changed since it was read, so do not trust the events shown: bytes 0 to {len(whole):,} "
        assert note in text
        assert "9.50" in text


def test_nothing_of_a_stream_moves_the_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, line ends and marks of direction in an event are written out, in errors too."""
    bad = "u\x1b]0;x\x07\x9b2J\u202e\n[red]"
    events = [line(at, user_id=bad, amount=at + 5.5, event_id=f"e{at}\x1b") for at in range(3)]
    (here / "events.jsonl").write_bytes(lines(*events))
    run(here)
    text = shown(capsys, "e2\x1b:burst")
    assert r"u\x1b]0;x\x07\x9b2J\u202e\n[red]" in text
    text += shown(capsys, "e2\x1b", code=2)
    assert not set(text) & set("\x1b\x07\x9b\u202e")


def test_rules_that_the_archive_lost_are_said(here: Path) -> None:
    """The flag itself is shown, and what is missing."""
    (here / "events.jsonl").write_bytes(lines(*small_deposits(3)))
    run(here)
    whole = told(here, "e2:burst")
    assert whole.decisions is not None
    (here / "state" / "rules" / whole.decisions.ruleset).unlink()
    whole = told(here, "e2:burst")
    assert "is missing" in whole.notes[0]
    assert whole.found.flag["flag_id"] == "e2:burst"


# -- what is not there, and who else is ----------------------------------------------------------------------------


def test_what_is_not_there_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and what to do."""
    (here / "events.jsonl").write_bytes(lines(*small_deposits(3)))
    run(here)
    for flag_id, arguments, said in (
        ("e2:brst", [], "there is no flag e2:brst: a flag_id is EVENT_ID:SCENARIO, as in flags.jsonl"),
        ("e2\udcff", [], r"e2\udcff is not UTF-8, so no flag_id: copy it from flags.jsonl"),
        ("e2", [], "there is no flag e2: flags of this event: e2:burst"),
        ("e2:burst", ["--state-dir", "gone"], "gone: there is no such state directory"),
        ("e2:burst", ["--state-dir", "config"], "config: is no state directory"),
        ("e2:burst", ["--config", "gone.toml"], "gone.toml: does not exist"),
    ):
        assert said in shown(capsys, flag_id, *arguments, code=2)


def test_it_only_reads_and_needs_no_lock(here: Path) -> None:
    """It works beside the daemon that holds the lock, and changes nothing; a line that is being written is not seen."""
    (here / "events.jsonl").write_bytes(lines(*small_deposits(3)))
    run(here)
    with (here / "state" / "flags.jsonl").open("ab") as file:
        file.write(b'{"flag_id":"e9:burst","user_id":"u","rule_na')
    before = {path: (os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in sorted(here.rglob("*"))}  # noqa: PTH116
    with StateLock(here / "state" / "lock"):
        assert run_cli("explain", "e2:burst", "--state-dir", "state", cwd=here).returncode == 0
        assert run_cli("explain", "e9:burst", "--state-dir", "state", cwd=here).returncode == 2
    assert {path: (os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in sorted(here.rglob("*"))} == before  # noqa: PTH116


# -- the parts -----------------------------------------------------------------------------------------------------


def test_the_decisions_of_any_byte_are_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever part of the audit log holds the batch, halving finds the one that a walk finds."""
    monkeypatch.setattr(flag_search, "_NARROW", 64)
    (here / "events.jsonl").write_bytes(lines(*(line(at, amount=at + 1) for at in range(200))))
    run(here)
    state = here / "state"
    batches = []
    for path in sorted((state / "audit").glob("*.jsonl")):
        entries = [json.loads(text) for text in path.read_bytes().splitlines()]
        batches += [(path, entry) for entry in entries if entry["action"] == "batch.committed"]
    assert len(batches) > 10
    for path, entry in batches:
        for offset in (entry["first"], entry["offset"] - 1):
            with flag_search._mapped(path) as text:
                assert text is not None
                found = flag_search._first_beyond(text, offset)
            assert found is not None
            assert found[1].offset == entry["offset"]
            assert flag_search.batch_at(state, offset) is not None
    assert flag_search.batch_at(state, batches[-1][1]["offset"]) is None


def test_the_stretch_before_a_flag_begins_early_enough(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving skips most of a long stream and never a line that is needed."""
    monkeypatch.setattr(history, "_NARROW", 256)
    monkeypatch.setattr(history, "BLOCK_BYTES", 1024)
    (here / "events.jsonl").write_bytes(lines(*(line(at) for at in range(300))))
    run(here)
    ledger, closed = committed(here / "state")
    assert ledger.commit is not None
    past = History(here / "events.jsonl", closed, ledger.commit.position)
    time_of = time_reader("event_time")
    end = ledger.global_offset
    for at in (0, 1, 150, 298, 299):
        wanted = time_of(line(at))
        assert wanted is not None
        begin = past.since(end, time_of, wanted)
        taken = b"".join(data for _, data in past.blocks(begin, end))
        assert line(at) in taken
        assert taken.endswith(lines(line(299)))
        assert begin == 0 or len(taken) < (300 - at) * 300 + 2048
    assert past.line_at(0) == lines(line(0))
    with pytest.raises(Gone, match="lies in no segment"):
        past.line_at(end)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), ("0.5", "0.5s"), (90, "1m 30s"), (86_400, "1d"), ("17377401.633", "201d 3h 3m 21.633s"), (-60, "-1m")],
)
def test_a_duration_is_told_exactly(seconds: object, text: str) -> None:
    """In the largest units that fit."""
    assert length_text(seconds) == text


def test_a_time_line_shows_where_events_lie() -> None:
    """How many at one place, up to nine; the flag's own as #; ends included."""
    events = [Event(offset, time, "e", {}) for offset, time in enumerate([0, 0, 50, *[59] * 12, 100])]
    text = time_line(0, 100, events, own=15)
    assert len(text) == LINE_WIDTH + 2
    assert text[1] == "2"
    assert text[-2] == "#"
    assert text.count("+") == 1
    assert time_line(5, 5, [Event(0, 5, "e", {})], own=0)[1] == "#"
