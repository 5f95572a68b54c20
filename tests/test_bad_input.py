"""Bad input among good: no crash, no skipped neighbour, and each line an event or a rejection that proves itself."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pure_core import CONTRACT_TEXT, HALT, LIMIT, RULES_TEXT, Outcome, line, lines, new_engine, run_stream
from support import REPOSITORY, cli_environment, run_cli
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.decoding import BOM
from tidewaiter.core.scenarios import load_ruleset
from tidewaiter.core.screening import Policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IGNORING: Final = compile_contract(CONTRACT_TEXT.replace(b'"refuse"', b'"ignore"'), "ignoring.toml")
IGNORING_RULES: Final = load_ruleset(RULES_TEXT, "rules.toml", IGNORING)
TOLERANT: Final = Policy("quarantine", "quarantine", "admit", max_forward_jump=3_600_000_000)
"""A bad line that turns out to be an event, up to an hour ahead, must not make its neighbours late."""
DEPTHS: Final = (65, 1000, 100_000, 500_000)


def ids_flagged(outcome: Outcome) -> list[str]:
    """Return the events that the amount rule flagged, in order."""
    return [flag["event_id"] for flag in outcome.flags if flag["rule_name"] == "threshold"]


def good(number: int) -> bytes:
    """Return an event that is flagged, so that its evaluation shows."""
    return line(number, event_id=f"good{number}", user_id=f"user{number}", amount=600)


def among_good(*items: bytes, ignoring: bool = False) -> Outcome:
    """Evaluate the items, each between two good events, and check everything that holds for any item."""
    parts = [good(0)]
    for number, item in enumerate(items, 1):
        parts += [item, good(number)]
    data = lines(*parts)
    engine = new_engine(TOLERANT, contract=IGNORING, rules=IGNORING_RULES) if ignoring else new_engine(TOLERANT)
    outcome = run_stream(engine, data, range(0, len(data), 100_003))
    neighbours = [f"good{number}" for number in range(len(items) + 1)]
    assert [name for name in ids_flagged(outcome) if name in neighbours] == neighbours
    assert outcome.size == len(data)
    assert outcome.counts.events_read == data.count(b"\n")
    assert outcome.counts.events_read == outcome.counts.evaluated + outcome.counts.rejected
    assert outcome.counts.rejected == len(outcome.rejections)
    for rejection in outcome.rejections:
        at = rejection["offset"]
        raw = data[at : data.index(b"\n", at)]
        assert at == 0 or data[at - 1 : at] == b"\n"
        assert rejection["length"] == len(raw)
        assert rejection["sha256"] == hashlib.sha256(raw).hexdigest()
        assert rejection["reason"]
        assert rejection["kind"] in ("framing", "json", "contract", "duplicate", "order")
    for _, record in outcome.records:
        assert len(record) < 20_000
        assert "Traceback" not in record
    return outcome


def rejected(item: bytes, *, ignoring: bool = False) -> tuple[str, str, str]:
    """Return kind, reason and field of the only rejection."""
    (rejection,) = among_good(item, ignoring=ignoring).rejections
    return rejection["kind"], rejection["reason"], rejection["field"]


# -- collections of bad JSON -------------------------------------------------------------------------------------------


def torture_files(shared_data: Path, pattern: str) -> list[Path]:
    """Return the torture files of a pattern; the test is skipped where there are none."""
    found = sorted((shared_data / "json_torture").rglob(pattern))
    if not found:
        pytest.skip(f"no torture files {pattern} under {shared_data}")
    return found


def test_every_torture_file_is_an_event_or_a_rejection(shared_data: Path) -> None:
    """Every file of the collection as it stands: nothing crashes, nothing before or behind it is lost."""
    files = [path for path in torture_files(shared_data, "*") if path.is_file()]
    assert len(files) > 300
    for path in files:
        among_good(path.read_bytes())
    among_good(*(path.read_bytes() for path in files))


def test_what_must_not_be_json_is_rejected_as_no_json(shared_data: Path) -> None:
    """Every file that no JSON parser may accept is a framing or JSON fault, as a line and inside an ignored field."""
    for path in torture_files(shared_data, "n_*.json"):
        content = path.read_bytes()
        if b"\n" in content:
            continue  # more than one line; some of them are JSON
        kinds = {rejection["kind"] for rejection in among_good(content).rejections}
        assert kinds and kinds <= {"framing", "json"}, path.name  # noqa: PT018 - one statement on one file
        if content.strip():  # nothing at all is no member either
            (rejection,) = among_good(line(1)[:-1] + b', "note": ' + content + b"}", ignoring=True).rejections
            assert rejection["kind"] in ("framing", "json"), path.name


def test_what_must_be_json_is_read_as_json(shared_data: Path) -> None:
    """Every file that each JSON parser must accept breaks the contract at most, and is welcome in an ignored field."""
    for path in torture_files(shared_data, "y_*.json"):
        content = path.read_bytes().rstrip(b"\n")
        if b"\n" in content:
            continue
        assert {rejection["kind"] for rejection in among_good(content).rejections} == {"contract"}, path.name
        outcome = among_good(line(1)[:-1] + b', "note": ' + content + b"}", ignoring=True)
        assert outcome.rejections == [], path.name


def test_naughty_strings_are_ids_like_any_other(shared_data: Path) -> None:
    """Strings that break other programs, as user and event ids: flagged under exactly their own text."""
    (path,) = torture_files(shared_data, "blns.json")
    naughty = [text for text in json.loads(path.read_bytes()) if text.strip() and len(text) <= 128]
    assert len(naughty) > 400
    unique = list(dict.fromkeys(naughty))
    for ascii_only in (True, False):
        items = [
            json.dumps(json.loads(line(0, event_id=text, user_id=text, amount=700)), ensure_ascii=ascii_only).encode()
            for text in unique
        ]
        outcome = run_stream(new_engine(), lines(*items))
        assert outcome.counts.evaluated == len(unique)
        assert ids_flagged(outcome) == unique
        assert [flag["user_id"] for flag in outcome.flags if flag["rule_name"] == "threshold"] == unique


# -- one by one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item", [b"\x00", b"\x00" * 4096, good(7) + b"\x00", b"\x00" + good(7), good(7).replace(b"user7", b"us\x00r7")]
)
def test_nul_bytes_are_a_framing_fault(item: bytes) -> None:
    """A zero page, or one zero byte anywhere in an otherwise good line."""
    assert rejected(item) == ("framing", "NUL byte", "")


def test_a_byte_order_mark_is_dropped_at_the_beginning_and_rejected_elsewhere() -> None:
    """The first line of a segment is an event with or without it."""
    outcome = run_stream(new_engine(), BOM + lines(good(0), good(1)))
    assert ids_flagged(outcome) == ["good0", "good1"]
    assert rejected(BOM + good(7)) == ("json", "not valid JSON", "")


def test_windows_line_ends_are_dropped() -> None:
    """A stream of CRLF lines gives the events, and the flags but for their offsets, of one with LF lines."""
    items = [good(number) for number in range(5)]
    unix, windows = run_stream(new_engine(), lines(*items)), run_stream(new_engine(), b"\r\n".join([*items, b""]))
    assert windows.counts == unix.counts
    assert [flag | {"offset": 0} for flag in windows.flags] == [flag | {"offset": 0} for flag in unix.flags]


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"])
@pytest.mark.parametrize("ignoring", [False, True])
def test_invalid_utf8_is_a_framing_fault_wherever_it_stands(bad: bytes, ignoring: bool) -> None:
    """In an id, in an ignored field, and between the members."""
    for item in (good(7).replace(b"user7", bad), good(7)[:-1] + b', "note": "' + bad + b'"}', good(7) + bad):
        assert rejected(item, ignoring=ignoring) == ("framing", f"invalid UTF-8 at byte {item.index(bad)}", "")


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"":', b"")])
def test_nesting_bombs_are_rejected_in_no_time(depth: int, opening: bytes, closing: bytes) -> None:
    """As a line and as a member, closed or not, declared or ignored."""
    bomb = opening * (depth // opening.count(b"[") if opening == b"[" else depth // 2 + 65) + b"1" + closing * depth
    assert len(bomb) <= LIMIT or depth > 100_000
    kind, reason, _ = rejected(bomb[: LIMIT - 1])
    assert (kind, reason) == ("json", "nested deeper than 64")
    member = (good(7)[:-1] + b', "note": ' + bomb)[: LIMIT - 1] + b"}"
    assert rejected(member, ignoring=True)[:2] == ("json", "nested deeper than 64")


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "1e999999999", "9" * 400, "9" * 5000, "0." + "0" * 400 + "1", "1e-400", "-0", "1e15"]
)
def test_huge_and_tiny_amounts_are_out_of_bounds(number: str) -> None:
    """Beyond a double, beyond the bounds, or too small to be anything but zero."""
    item = good(7).replace(b"600", number.encode())
    assert rejected(item) == ("contract", "not an amount within the bounds", "amount")


def test_a_huge_number_in_an_ignored_field_is_ignored() -> None:
    """Nobody reads it, so nobody minds."""
    outcome = among_good(good(7)[:-1] + b', "note": ' + b"9" * 100_000 + b"}", ignoring=True)
    assert outcome.rejections == []


def test_of_duplicate_keys_the_last_counts() -> None:
    """One event, one value; and a value that is not allowed does not hide behind a later one."""
    twice = good(7).replace(b'"amount": 600', b'"amount": 1, "amount": 800')
    assert [flag["metric_value"] for flag in among_good(twice).flags if flag["event_id"] == "good7"] == [800]
    hidden = good(7).replace(b'"amount": 600', b'"amount": "600", "amount": 600')
    assert rejected(hidden) == ("contract", "not an amount within the bounds", "amount")


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"nan", b"0x10", b"1_000", b"+1", b".5", b"1,5"])
def test_what_only_looks_like_a_number_is_no_json(text: bytes) -> None:
    """The spellings that lenient parsers accept."""
    assert rejected(good(7).replace(b"600", text)) == ("json", "not valid JSON", "")


def edited(**fields: Any) -> Callable[[int], bytes]:
    """Return a maker of good events with some fields replaced."""
    return lambda number: json.dumps(json.loads(good(number)) | fields).encode()


@pytest.mark.parametrize(
    ("make", "reason", "field"),
    [
        (edited(event_id=" "), "only white space", "event_id"),
        (edited(event_id="\t\u3000"), "only white space", "event_id"),
        (edited(user_id="\u00a0 "), "only white space", "user_id"),
        (edited(user_id=""), "not a text of 1 to 128 characters", "user_id"),
        (edited(event_time="2026-03-09T12:00:07"), "not an RFC 3339 time with a UTC offset", "event_time"),
        (edited(ingest_time="2026-03-09 12:00:07"), "not an RFC 3339 time with a UTC offset", "ingest_time"),
        (edited(event_time="2026-03-09T12:00:12.000001Z"), "later than ingest_time by more than the allowed skew",
         "event_time"),
        (edited(event_time="2126-03-09T12:00:00Z", ingest_time="2126-03-09T12:00:00Z"),
         "further ahead of the stream than max_forward_jump", "event_time"),
        (edited(event_time="9999-12-31T23:59:59.999999-23:59", ingest_time="9999-12-31T23:59:59.999999-23:59"),
         "not in the years 1000 to 8999", "event_time"),
        (edited(event_time="0001-01-01T00:00:00+23:59"), "not in the years 1000 to 8999", "event_time"),
        (edited(amount=600.001), "more than 2 decimals", "amount"),
        (edited(amount=0.005), "more than 2 decimals", "amount"),
        (edited(amount=1000000.01), "not an amount within the bounds", "amount"),
        (edited(amount=None), "not an amount within the bounds", "amount"),
        (edited(amount=True), "not an amount within the bounds", "amount"),
        (edited(currency="gbp"), "not one of the allowed values", "currency"),
        (edited(note=1), "field not declared by the contract", "note"),
    ],
)  # fmt: skip
def test_what_breaks_the_contract_is_rejected_by_its_field(
    make: Callable[[int], bytes], reason: str, field: str
) -> None:
    """Blank ids, naive times, times from the future and the end of the calendar, odd pence, wrong types."""
    assert rejected(make(7)) == ("contract", reason, field)


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-12:00", "0999-12-31T23:59:59Z"]
)
def test_a_stream_that_begins_at_the_end_of_the_calendar_goes_on(time: str) -> None:
    """As the first event of all, before there is an effective time, such a time crashes nothing and sets nothing."""
    first = line(0, event_time=time, ingest_time="9999-12-31T23:59:59Z")
    outcome = run_stream(new_engine(), lines(first, good(1)))
    assert ids_flagged(outcome) == ["good1"]
    assert outcome.last_event_time == "2026-03-09T12:00:01.000000Z"


@pytest.mark.parametrize("time", ["2026-03-09T14:00:07+02:00", "2026-03-09t12:00:07z", "2026-03-09 12:00:07.5-00:00"])
def test_times_of_every_allowed_spelling_are_events(time: str) -> None:
    """Other offsets, small letters, a space, decimals."""
    assert among_good(edited(event_id="odd", event_time=time, ingest_time="2026-03-09T12:00:30Z")(0)).rejections == []


# -- anything ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_bytes_leave_their_neighbours_alone(items: list[bytes]) -> None:
    """Whatever stands between two good lines."""
    among_good(*items)


@given(st.lists(st.tuples(st.integers(0, 1000), st.binary(min_size=1, max_size=3)), max_size=4), st.booleans())
def test_any_change_to_a_good_line_leaves_its_neighbours_alone(
    changes: list[tuple[int, bytes]], ignoring: bool
) -> None:
    """Bytes written over, put into or torn out of an event."""
    item = edited(event_id="victim", user_id="victim")(0)
    for at, extra in changes:
        place = at % (len(item) + 1)
        item = item[:place] + extra + item[place + len(extra) * (at % 2) :]
    among_good(item, ignoring=ignoring)


@pytest.mark.parametrize(
    "item", [b"", b"torn", good(0), b"\x00", b"[" * 100_000, edited(amount=0.001)(7), BOM + good(7)]
)
def test_a_halt_stands_exactly_at_the_bad_line(item: bytes) -> None:
    """Everything before it is evaluated, nothing behind it, and leaving it out lets the rest go on."""
    before, after = lines(good(0), good(1)), lines(good(8), good(9))
    data = before + item + b"\n" + after
    engine = new_engine(HALT)
    outcome = run_stream(engine, data)
    assert ids_flagged(outcome) == ["good0", "good1"]
    assert outcome.size == len(before)
    assert outcome.halt is not None
    assert (outcome.halt.offset, outcome.halt.sha256) == (len(before), hashlib.sha256(item).hexdigest())
    rest = run_stream(engine, after, offset=len(before) + outcome.halt.length + 1)
    assert ids_flagged(rest) == ["good8", "good9"]


# -- the whole program -------------------------------------------------------------------------------------------------

MIB: Final = 1 << 20
MEASURED: Final = """
import re, sys
from tidewaiter.shell.commands.app import main
try:
    status = main(sys.argv[1:])
finally:
    with open("/proc/self/status") as file:
        print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1])
sys.exit(status)
"""


def run_once(stream: Path, state: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run the daemon over the whole stream."""
    return run_cli("run", stream, "--once", "--state-dir", state, *options, cwd=REPOSITORY)


def objects(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a projection, parsed."""
    return [json.loads(text) for text in path.read_bytes().splitlines()]


def test_the_daemon_reads_every_torture_file_to_the_end(shared_data: Path, tmp_path: Path) -> None:
    """The whole collection as one stream: exit 0, no traceback, the flags and rejections that the engine gives."""
    items = [path.read_bytes() for path in torture_files(shared_data, "*") if path.is_file()]
    data = lines(good(0), *(part for number, item in enumerate(items, 1) for part in (item, good(number))))
    stream, state = tmp_path / "events.jsonl", tmp_path / "state"
    stream.write_bytes(data)
    policies = [option for kind in ("invalid", "duplicate", "order") for option in (f"--policy-{kind}", "quarantine")]
    done = run_once(stream, state, *policies)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    expected = run_stream(new_engine(), data)
    assert objects(state / "flags.jsonl") == expected.flags
    assert objects(state / "rejections.jsonl") == expected.rejections
    report = json.loads((state / "reports" / "validation_report.json").read_bytes())
    assert report["reconciled"] is True
    assert report["counts"]["events_read"] == data.count(b"\n")


def test_a_halted_daemon_stops_at_the_line_and_goes_on_after_skip(tmp_path: Path) -> None:
    """Exit 3 at each bad line with everything before it committed; `skip` of exactly that line lets it go on."""
    bad = {3: b"torn", 7: good(1)}
    parts = [bad.get(number, good(number)) for number in range(10)]
    stream, state = tmp_path / "events.jsonl", tmp_path / "state"
    stream.write_bytes(lines(*parts))
    whole = run_stream(new_engine(), lines(*parts))
    for number, item in bad.items():
        at = len(lines(*parts[:number]))
        for _ in range(2 if number == 3 else 1):  # stopping at the same line again changes nothing
            done = run_once(stream, state)
            assert done.returncode == 3
            last = done.stderr.splitlines()[-1]
            assert last.startswith(b"tidewaiter: events.jsonl: halted at byte %d " % at)
            assert b"skip --position %d " % at in last
            checkpoint = json.loads((state / "checkpoint.json").read_bytes())
            assert checkpoint["commit"]["offset"] == at
            assert checkpoint["halt"]["sha256"] == hashlib.sha256(item).hexdigest()
            assert objects(state / "flags.jsonl") == [flag for flag in whole.flags if flag["offset"] < at]
            report = json.loads((state / "reports" / "validation_report.json").read_bytes())
            assert (report["status"], report["halt"]["offset"], report["reconciled"]) == ("failed", at, True)
        decided = ("--reason", "not an event", "--actor", "A. N. Other", "--state-dir", state, stream)
        assert run_cli("skip", "--position", str(at), *decided, cwd=REPOSITORY).returncode == 0
    assert run_once(stream, state).returncode == 0
    assert objects(state / "flags.jsonl") == whole.flags
    left_out = objects(state / "rejections.jsonl")
    assert [(item["offset"], item["sha256"]) for item in left_out] == [
        (item["offset"], item["sha256"]) for item in whole.rejections
    ]
    assert {item["kind"] for item in left_out} == {"operator"}


@pytest.mark.parametrize("mib", [64, pytest.param(1024, marks=[pytest.mark.long])], ids="{}MiB".format)
def test_the_daemon_reads_past_a_huge_line_in_bounded_memory(mib: int, tmp_path: Path) -> None:
    """A line of 64 MiB (1 GiB in the long run) between events: rejected with its hash, for 16 MiB of memory."""
    peaks = []
    digest = hashlib.sha256()
    for size in (0, mib):
        stream, state = tmp_path / f"events{size}.jsonl", tmp_path / f"state{size}"
        with stream.open("wb") as file:
            file.write(lines(good(0), good(1)))
            for _ in range(size):
                file.write(b"x" * MIB)
                digest.update(b"x" * MIB)
            file.write(lines(b"" if size else b"torn", good(2)))
        options = ("--once", "--state-dir", state, "--policy-invalid", "quarantine")
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "run", stream, *options],
            cwd=REPOSITORY,
            env=cli_environment(),
            capture_output=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        stream.unlink()
        peaks.append(int(done.stdout.split()[-1]) * 1024)
        assert [flag["event_id"] for flag in objects(state / "flags.jsonl")] == ["good0", "good1", "good2"]
    (rejection,) = objects(tmp_path / f"state{mib}" / "rejections.jsonl")
    assert (rejection["offset"], rejection["length"]) == (len(lines(good(0), good(1))), mib * MIB)
    assert (rejection["reason"], rejection["sha256"]) == ("line over the limit", digest.hexdigest())
    assert peaks[1] - peaks[0] < 16 * MIB
