"""The event generator: what event k is, what `generate` puts into a file, and how it misbehaves on request."""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import uuid
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import cli_environment
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.decoding import decode_block
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.money_flow_generator import (
    BLOCK_EVENTS,
    MAX_NUMBER,
    MONEY_FLOW,
    PROFILES,
    QUIET,
    MoneyFlowGenerator,
    last_event,
    may_be_own,
    number_of,
)
from tidewaiter.core.screening import Policy, Screening
from tidewaiter.core.stream_faults import INVALID, FaultRates, StreamFaults
from tidewaiter.edges.durable import NoSpace
from tidewaiter.shell.appending_file import AppendingFile
from tidewaiter.shell.generate_file import GenerateOptions, Summary, generate

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

START = 1_773_057_600_000_000  # 2026-03-09T12:00:00+00:00
FIRST_LINE = (
    '{"event_id": "7b5d62ca-7ae7-823a-8a23-e77aca625d7b", "user_id": "user_09619", '
    '"event_time": "2026-03-09T12:00:00.000000+00:00", "ingest_time": "2026-03-09T12:00:00.000000+00:00", '
    '"event_type": "deposit_completed", "amount": 187.06, "currency": "GBP", "channel": "mobile"}\n'
)
CONTRACT = b"""\
contract = "money_flow"
version = 1
title = "Money flow"
id = "event_id"
time = "event_time"
ingest_time = "ingest_time"
subject = "user_id"
unknown_fields = "refuse"
[field]
event_id = { type = "string", min_length = 1, max_length = 128 }
user_id = { type = "string", min_length = 1, max_length = 128 }
event_time = { type = "timestamp" }
ingest_time = { type = "timestamp" }
event_type = { type = "enum", values = ["deposit_completed", "withdrawal_requested", "withdrawal_completed"] }
amount = { type = "money", scale = 2, above = "0", at_most = "1000000.00" }
currency = { type = "enum", values = ["GBP"] }
channel = { type = "enum", values = ["web", "mobile", "api"] }
"""


class HandClock:
    """A clock that only moves when someone waits; `wall_us` moves with it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wall_us(self) -> int:
        return START + int((self.now - 1000.0) * 1_000_000)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def pause(self, seconds: float, stop: asyncio.Event) -> None:
        raise NotImplementedError


def times(count: int, rate: int = 100, first: int = 0) -> range:
    """Return event times `rate` to a second."""
    step = 1_000_000 // rate
    return range(START + first * step, START + (first + count) * step, step)


def flags_per_event(lines: Iterable[str]) -> float:
    """Return how many flags the three money-flow rules give per event, by a plain reading of the rules."""
    deposits: defaultdict[str, deque[dt.datetime]] = defaultdict(deque)
    flagged: defaultdict[str, deque[dt.datetime]] = defaultdict(deque)
    repeating: set[str] = set()
    count = flags = 0
    for line in lines:
        event = json.loads(line)
        count += 1
        user, time = event["user_id"], dt.datetime.fromisoformat(event["event_time"])
        hits = int(event["amount"] > 500)
        if event["event_type"] == "deposit_completed":
            window = deposits[user]
            window.append(time)
            while time - window[0] > dt.timedelta(seconds=10):
                window.popleft()
            hits += len(window) > 5
        flags += hits
        if hits:
            window = flagged[user]
            window.append(time)
            while time - window[0] > dt.timedelta(seconds=300):
                window.popleft()
            if len(window) <= 3:
                repeating.discard(user)
            elif user not in repeating:
                repeating.add(user)
                flags += 1
    return flags / count


def reasons(data: bytes) -> Counter[str]:
    """Return how many lines of `data` the contract, the duplicate check and the order check refuse, by kind."""
    contract = compile_contract(CONTRACT, "money_flow.toml")
    policy = Policy(invalid="quarantine", duplicate="quarantine", order="quarantine")
    screening = Screening(contract, policy, ["amount"])
    admitted = screening.screen(decode_block(contract, data, at_start=True))
    kinds = Counter(fault.kind for _, fault in admitted.faults)
    return Counter(invalid=kinds["framing"] + kinds["json"] + kinds["contract"], duplicate=kinds["duplicate"],
                   order=kinds["order"], good=len(admitted.events))  # fmt: skip


# -- events ------------------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_seed_never_change() -> None:
    """The first line and the digest of 10,000 are pinned: a change would break every recorded drill."""
    text = "".join(MoneyFlowGenerator(1, 10_000).lines(0, times(10_000)))
    assert text.startswith(FIRST_LINE)
    assert (
        hashlib.sha256(text.encode("ascii")).hexdigest()
        == "3b5370081327b543a8404b593d06db4ba3da98b42bc10d0c7d266a6b7c7773d0"
    )


def test_ids_and_draws_can_be_rebuilt_from_the_description() -> None:
    """A reader who knows only the module's description gets the same id, user and channel."""
    number, seed, users = 1000, 7, 300
    block, at = divmod(number, 256)
    data = hashlib.shake_128(f"tidewaiter:money-flow:{seed}:{block}".encode()).digest(256 * 32)
    drawn = data[8 * at : 8 * at + 8]
    h, t = drawn.hex(), (int.from_bytes(drawn[::-1], "big") ^ number).to_bytes(8, "big").hex()
    expected = f"{h[:8]}-{h[8:12]}-8{h[12]}{h[13]}{h[15]}-{'89ab'[int(h[14], 16) % 4]}{t[1:4]}-{t[4:]}"
    draws = [int.from_bytes(data[256 * 8 + 24 * at + 4 * i :][:4], "little") for i in range(6)]
    event = json.loads(MoneyFlowGenerator(seed, users, QUIET).lines(number, times(1))[0])
    assert event["event_id"] == expected
    assert event["user_id"] == f"user_{draws[1] * users >> 32:05d}"
    assert event["channel"] == ("web", "mobile", "api")[draws[5] * 3 >> 32]


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "TZ": "Pacific/Chatham"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
)
def test_bytes_do_not_depend_on_the_environment(environment: dict[str, str]) -> None:
    """Hash seed, time zone and locale change no byte."""
    code = (
        "import sys; from tidewaiter.core.money_flow_generator import MoneyFlowGenerator as G;"
        f"sys.stdout.write(''.join(G(3, 500).lines(0, range({START}, {START} + 700, 1))))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], env=cli_environment(environment), capture_output=True, check=True
    )
    assert output.stdout.decode() == "".join(MoneyFlowGenerator(3, 500).lines(0, range(START, START + 700)))


def test_lines_have_the_form_of_the_money_flow_pipeline() -> None:
    """Each line is what json.dumps makes of the event: ASCII, that order of keys, amounts without a trailing zero."""
    for line in MoneyFlowGenerator(5, 10_000).lines(0, times(2000)):
        event = json.loads(line)
        assert json.dumps(event) + "\n" == line
        assert list(event) == [
            "event_id", "user_id", "event_time", "ingest_time", "event_type", "amount", "currency", "channel",
        ]  # fmt: skip
        assert uuid.UUID(event["event_id"]).version == 8
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", event["event_time"])
        assert event["event_time"] == event["ingest_time"]


def test_lines_have_the_form_of_the_reference_sample(shared_data: Path) -> None:
    """A generated line differs from one of the sample only in its values."""

    def shape(line: str) -> str:
        return re.sub(
            r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+\.\d{1,2}\b|\d|web|mobile|api|\w+_(?:completed|requested)", "#", line
        )

    with (shared_data / "sample_stream.jsonl").open(encoding="ascii") as file:
        sample = {re.sub("#+", "#", shape(next(file))) for _ in range(500)}
    made = {re.sub("#+", "#", shape(line)) for line in MoneyFlowGenerator(1, 10_000).lines(0, times(500))}
    assert made == sample


@given(st.integers(0, MAX_NUMBER - 3 * BLOCK_EVENTS), st.lists(st.integers(0, 2 * BLOCK_EVENTS), max_size=4))
def test_event_k_is_the_same_wherever_one_starts(first: int, cuts: list[int]) -> None:
    """Any way of cutting a range of events into calls gives the same lines."""
    count = 2 * BLOCK_EVENTS
    when = times(count)
    whole = MoneyFlowGenerator(11, 50).lines(first, when)
    edges = [0, *sorted(cuts), count]
    parts = [
        line
        for begin, end in itertools.pairwise(edges)
        for line in MoneyFlowGenerator(11, 50).lines(first + begin, when[begin:end])
    ]
    assert parts == whole


@given(st.integers(0, MAX_NUMBER), st.integers())
def test_an_id_carries_its_number(number: int, seed: int) -> None:
    """The number of an event is read back from its id, for any seed."""
    assert number_of(MoneyFlowGenerator(seed, 10).event_id(number)) == number


@given(st.uuids(version=4) | st.text(max_size=40))
def test_foreign_ids_are_not_taken_for_own(foreign: uuid.UUID | str) -> None:
    """An id of another maker carries no number, whatever it looks like."""
    assert number_of(str(foreign)) is None


def test_the_mix_is_that_of_the_money_flow_generator() -> None:
    """75/15/10 % types, 35 % from hot users, 85 % of amounts up to 200, the rest up to 1,000, within 1 %."""
    events = [json.loads(line) for line in MoneyFlowGenerator(2, 10_000).lines(0, times(30_000))]
    types = Counter(event["event_type"] for event in events)
    assert [round(types[name] / 30_000, 2) for name in ("deposit_completed", "withdrawal_requested")] == [0.75, 0.15]
    small = [event["amount"] for event in events if event["amount"] <= 200]
    assert len(small) / 30_000 == pytest.approx(0.85, abs=0.01)
    assert (min(small), max(event["amount"] for event in events)) == pytest.approx((1.0, 1000.0), abs=0.5)
    hot = 0
    for turn in range(100):
        users = Counter(event["user_id"] for event in events[300 * turn : 300 * turn + 300])
        hot += sum(count for _, count in users.most_common(MONEY_FLOW.hot_users))
    assert hot / 30_000 == pytest.approx(0.35, abs=0.01)


@pytest.mark.parametrize("rate", [30, 98, 300])
def test_the_default_mix_gives_the_flags_of_the_reference_sample(rate: int) -> None:
    """About 29 % flags an event with the three rules, hardly depending on the rate."""
    lines = MoneyFlowGenerator(7, 10_000).lines(0, times(20_000, rate))
    assert flags_per_event(lines) == pytest.approx(0.29, abs=0.01)


def test_the_quiet_profile_gives_hardly_any_flags() -> None:
    """Under 1 % flags an event, but some."""
    assert 0 < flags_per_event(MoneyFlowGenerator(7, 10_000, QUIET).lines(0, times(20_000))) < 0.01


def test_users_are_bounded() -> None:
    """Only the users asked for appear, and nonsense is refused."""
    events = MoneyFlowGenerator(1, 3).lines(0, times(500))
    assert {json.loads(line)["user_id"] for line in events} == {"user_00000", "user_00001", "user_00002"}
    with pytest.raises(ValueError, match="users must be"):
        MoneyFlowGenerator(1, 0)


@given(st.integers(0, 300))
def test_any_part_of_an_own_line_is_recognised(length: int) -> None:
    """A line cut anywhere, or cut and padded with the zeros of a lost page, may be an own one."""
    line = MoneyFlowGenerator(1, 10).lines(5, times(1))[0].encode()[:length]
    assert may_be_own(line)
    assert may_be_own(line + bytes(4096))


@pytest.mark.parametrize("part", [b"{", b'{"event_id": "63277744-81b5-4568-8ead', b'{"id": 1}', b"user,amount"])
def test_a_part_of_another_line_is_recognised_too(part: bytes) -> None:
    """What another maker left unterminated is not ours to cut; one brace alone cannot be told apart."""
    assert may_be_own(part) == (part == b"{")


def test_the_last_event_is_found_behind_faults() -> None:
    """Duplicates, late, future and broken lines at the end hide neither the number nor the time."""
    generator = MoneyFlowGenerator(1, 10)
    lines = [line.encode() for line in generator.lines(0, times(10))]
    future = INVALID["future_timestamp"](lines[9].decode())
    tail = b"".join([*lines, future, lines[3], b"\n", b'{"event_id": 5}\n', lines[8][:100] + b"\n", b"[1]\n"])
    last = last_event(tail, generator)
    assert (last.number, last.micros) == (9, START + 90_000)
    assert last_event(tail, MoneyFlowGenerator(2, 10)).number is None
    assert last_event(b"", generator).micros is None


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", INVALID)
def test_each_kind_of_invalid_line_is_refused(kind: str) -> None:
    """Every way of being invalid is one that the money-flow contract refuses, as exactly one line."""
    for line in MoneyFlowGenerator(1, 10).lines(0, times(50)):
        spoilt = INVALID[kind](line)
        assert spoilt.endswith(b"\n")
        assert spoilt.count(b"\n") == 1
        assert reasons(spoilt) == Counter(invalid=1, duplicate=0, order=0, good=0)


def test_each_kind_of_invalid_line_occurs() -> None:
    """With every line spoilt, none of the ways is left out."""
    lines = MoneyFlowGenerator(1, 10).lines(0, times(1000))
    faults = StreamFaults(1, FaultRates(invalid=1.0))
    made = {line for lines in faults.apply(0, times(1000), lines) for line in lines}
    assert faults.invalid == 1000
    for kind, spoil in INVALID.items():
        assert any(spoil(line) in made for line in lines), kind


@pytest.mark.parametrize("time_rate", [1000, 0.05])
def test_the_summary_counts_what_a_reader_finds(tmp_path: Path, time_rate: float) -> None:
    """Invalid, duplicate and late lines are as many as the screening of the real daemon refuses."""
    out = tmp_path / "events.jsonl"
    summary = generate(
        GenerateOptions(out=out, events=20_000, time_rate=time_rate, bad=0.02, duplicates=0.03, disorder=0.01)
    )
    found = reasons(out.read_bytes())
    assert min(summary.invalid, summary.duplicates, summary.late) > 100
    assert found["invalid"] == summary.invalid
    assert found["duplicate"] == summary.duplicates
    assert found["order"] == summary.late
    assert summary.lines == found.total() == summary.events + summary.duplicates
    assert summary.bytes == out.stat().st_size


def test_a_file_without_faults_is_good_throughout(tmp_path: Path) -> None:
    """Without misbehaviour the daemon's screening refuses nothing."""
    for profile in PROFILES:
        out = tmp_path / profile
        generate(GenerateOptions(out=out, events=5000, profile=profile))
        assert reasons(out.read_bytes()) == Counter(good=5000, invalid=0, duplicate=0, order=0)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_the_same_at_any_pace(tmp_path: Path) -> None:
    """At once, at a rate, and with lines in two halves: the same bytes, faults included."""

    def made(name: str, **options: Any) -> bytes:
        out = tmp_path / name
        generate(GenerateOptions(out=out, bad=0.05, duplicates=0.05, disorder=0.05, **options), clock=HandClock())
        return out.read_bytes()

    at_once = made("a", events=500, time_rate=50)
    assert made("b", events=500, rate=50) == at_once
    assert made("c", seconds=10, rate=50) == at_once
    assert made("d", events=500, time_rate=50, partial="halves") == at_once
    assert made("e", events=500, rate=50, partial="halves") == at_once


def test_going_on_gives_the_same_file_as_one_call(tmp_path: Path) -> None:
    """Three calls on one file give the bytes of a single one, also at a rate that is no whole number."""
    for count in (300, 1, 699):
        generate(GenerateOptions(out=tmp_path / "a", events=count, time_rate=0.7))
    summary = generate(GenerateOptions(out=tmp_path / "b", events=1000, time_rate=0.7))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert summary.first == 0


def test_a_partial_last_line_is_left_and_removed_by_the_next_call(tmp_path: Path) -> None:
    """`partial` leaves half of the next event; going on removes it first."""
    out, whole = tmp_path / "a", tmp_path / "b"
    generate(GenerateOptions(out=whole, events=30))
    generate(GenerateOptions(out=out, events=20, partial="last"))
    data = out.read_bytes()
    assert whole.read_bytes().startswith(data)
    assert data.count(b"\n") == 20
    assert not data.endswith(b"\n")
    generate(GenerateOptions(out=out, events=10))
    assert out.read_bytes() == whole.read_bytes()


def test_only_whole_lines_are_ever_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write call carries whole lines, unless halves are asked for: then each pair of calls does."""
    writes: list[bytes] = []

    def record(_: AppendingFile, fd: int, data: bytes) -> int:
        writes.append(data)
        return os.write(fd, data)

    monkeypatch.setattr(AppendingFile, "_write", record)
    generate(GenerateOptions(out=tmp_path / "a", events=10_000, bad=0.1, rotate_events=900))
    assert all(data.endswith(b"\n") for data in writes)
    writes.clear()
    generate(GenerateOptions(out=tmp_path / "b", events=30_000, partial="halves"))
    assert not any(data.endswith(b"\n") for data in writes[::2])
    assert all(data.endswith(b"\n") for data in writes[1::2])


@pytest.mark.parametrize("limit", [{"rotate_events": 70}, {"rotate_bytes": 20_000}])
def test_rotation_shifts_older_files_and_loses_nothing(tmp_path: Path, limit: dict[str, int]) -> None:
    """The rotated files, oldest first, are the file that would have been; each ends in a whole line."""
    whole, out = tmp_path / "whole", tmp_path / "events.jsonl"
    generate(GenerateOptions(out=whole, events=500, duplicates=0.1))
    summary = generate(GenerateOptions(out=out, events=500, duplicates=0.1, **limit))  # type: ignore[arg-type] # see CLI
    files = [*sorted(tmp_path.glob("events.jsonl.*"), key=lambda path: -int(path.suffix[1:])), out]
    assert len(files) == summary.rotations + 1 > 4
    assert b"".join(path.read_bytes() for path in files) == whole.read_bytes()
    for path in files[:-1]:
        data = path.read_bytes()
        assert data.endswith(b"\n")
        assert data.count(b"\n") == 70 or len(data) >= 20_000 > len(data) - 600


def test_going_on_after_a_rotation_looks_at_the_rotated_file(tmp_path: Path) -> None:
    """An empty new file is no reason to begin at event 0 again: the ids would come twice."""
    out = tmp_path / "events.jsonl"
    generate(GenerateOptions(out=out, events=50))
    out.rename(tmp_path / "events.jsonl.1")
    assert generate(GenerateOptions(out=out, events=10)).first == 50


def test_time_never_goes_back_behind_a_foreign_event(tmp_path: Path) -> None:
    """Behind lines of another maker the events begin at 0, but not before the last of those."""
    out = tmp_path / "events.jsonl"
    foreign = INVALID["future_timestamp"](MoneyFlowGenerator(9, 9).lines(0, times(1))[0]).replace(
        b'"ingest_time": "2', b'"ingest_time": "3'
    )
    out.write_bytes(foreign)
    summary = generate(GenerateOptions(out=out, events=2))
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert summary.first == 0
    assert [line["event_time"][:4] for line in lines] == ["3026"] * 3
    assert lines[1]["event_time"] >= lines[0]["event_time"]


def test_a_foreign_unterminated_line_is_left_alone(tmp_path: Path) -> None:
    """A file that another program has not finished is refused, not cut."""
    out = tmp_path / "events.jsonl"
    out.write_bytes(b'{"id": 1}\n{"id": 2}')
    with pytest.raises(ConfigError, match="has no newline"):
        generate(GenerateOptions(out=out, events=1))
    assert out.read_bytes() == b'{"id": 1}\n{"id": 2}'


def test_two_producers_on_one_file_are_refused(tmp_path: Path) -> None:
    """The second producer of a file ends with a clear message and writes nothing."""
    with AppendingFile(tmp_path / "a") as file:
        file.open()
        with pytest.raises(ConfigError, match="another producer"):
            generate(GenerateOptions(out=tmp_path / "a", events=1))
    assert generate(GenerateOptions(out=tmp_path / "a", events=1)).lines == 1


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_only_regular_files_are_written(tmp_path: Path, kind: str) -> None:
    """A directory or a named pipe is refused at once."""
    out = tmp_path / "out"
    out.mkdir() if kind == "directory" else os.mkfifo(out)
    with pytest.raises(ConfigError, match=str(out)):
        generate(GenerateOptions(out=out, events=1))


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up in the middle of a line, that part is cut off again and the error says so."""
    out = tmp_path / "a"
    room = 5000

    def fill(_: AppendingFile, fd: int, data: bytes) -> int:
        left = room - os.fstat(fd).st_size
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data[:left])

    monkeypatch.setattr(AppendingFile, "_write", fill)
    with pytest.raises(NoSpace, match=r"a: No space left on device at byte 5000"):
        generate(GenerateOptions(out=out, events=100))
    data = out.read_bytes()
    assert data.endswith(b"\n")
    assert 4000 < len(data) < 5000


def test_a_rate_is_held_by_an_absolute_schedule(tmp_path: Path) -> None:
    """1,000 events at 50 a second take 20 seconds, in waits of at least a tick; late ticks do not add up."""
    clock = HandClock()
    summary = generate(GenerateOptions(out=tmp_path / "a", events=1000, rate=50), clock=clock)
    assert summary.seconds == pytest.approx(999 / 50, abs=0.05)
    assert min(clock.waits) >= 0.02 - 1e-9
    fast = HandClock()
    summary = generate(GenerateOptions(out=tmp_path / "b", seconds=2, rate=10_000), clock=fast)
    assert summary.events == 20_000
    assert summary.seconds == pytest.approx(2, abs=0.05)
    assert len(fast.waits) <= 101


def test_live_events_happen_now(tmp_path: Path) -> None:
    """With `live` the event time is the wall clock at which the schedule had the event due."""
    out = tmp_path / "a"
    generate(
        GenerateOptions(out=out, events=200, rate=1000, live=True, start="2000-01-01T00:00:00Z"), clock=HandClock()
    )
    seen = [json.loads(line)["event_time"] for line in out.read_bytes().splitlines()]
    micros = [int(dt.datetime.fromisoformat(time).timestamp() * 1e6) - START for time in seen]
    assert micros == pytest.approx([1000 * k for k in range(200)], abs=20)


def test_progress_and_the_finishing_line(tmp_path: Path) -> None:
    """Progress is reported up to the total; the last line names events, bytes and seconds."""
    seen: list[tuple[int, int]] = []
    summary = generate(
        GenerateOptions(out=tmp_path / "a", events=10_000), lambda done, total: seen.append((done, total))
    )
    assert seen == [(4096, 10_000), (8192, 10_000), (10_000, 10_000)]
    assert summary.text.startswith(f"{tmp_path}/a: 10,000 events, {summary.bytes:,} bytes in ")
    text = Summary(Path("x"), 5, 4, 5, 99, 2.0, invalid=1, duplicates=1, late=0, rotations=2).text
    assert text == "x: 4 events from event 5 on, 99 bytes in 2.0 s (2 events/s); 1 invalid, 1 duplicate, 2 rotations"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "how many events"),
        ({"events": 1, "seconds": 1}, "how many events"),
        ({"seconds": 1}, "--seconds needs a rate"),
        ({"seconds": float("nan"), "rate": 1}, "--seconds"),
        ({"events": 0}, "--events"),
        ({"events": 1, "rate": 0}, "--rate"),
        ({"events": 1, "rate": float("inf")}, "--rate"),
        ({"events": 1, "time_rate": -1}, "--time-rate"),
        ({"events": 1, "bad": 1.1}, "--bad"),
        ({"events": 1, "duplicates": -0.1}, "--duplicates"),
        ({"events": 1, "disorder": float("nan")}, "--disorder"),
        ({"events": 1, "users": 0}, "--users"),
        ({"events": 1, "profile": "loud"}, "--profile"),
        ({"events": 1, "partial": "first"}, "--partial"),
        ({"events": 1, "rotate_events": 0}, "--rotate-events"),
        ({"events": 1, "start": "yesterday"}, "--start"),
        ({"events": 1, "start": "2026-03-09T12:00:00"}, "no time zone"),
        ({"events": 10**9, "time_rate": 0.001}, "year 9999"),
    ],
)
def test_options_out_of_range_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Each wrong option ends in one line that names it, before a byte is written."""
    with pytest.raises(ConfigError, match=message) as raised:
        generate(GenerateOptions(out=tmp_path / "a", **options))
    assert raised.value.hint
    assert not (tmp_path / "a").exists() or (tmp_path / "a").stat().st_size == 0
