"""The commit as data: what is prepared, what is read back, and which bytes count after a crash."""

from __future__ import annotations

import copy
import hashlib
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pure_core import CONTEXT, CONTRACT_TEXT, DECISIONS, QUARANTINE, RULES_TEXT, Outcome, draft, evaluate_lines, line
from tidewaiter.core import audit
from tidewaiter.core.audit import (
    Counts,
    Decision,
    Decisions,
    EntryContext,
    Halt,
    ProjectionSealed,
    record_of,
    running_hash,
)
from tidewaiter.core.commits import Prepared, prepare, prepare_entry
from tidewaiter.core.contract import MAX_ID_LENGTH, compile_contract
from tidewaiter.core.engine import Engine
from tidewaiter.core.ledger import EMPTY_MARK, AuditMark, Ledger, decode_checkpoint, encode_checkpoint, units
from tidewaiter.core.position import ClosedSegment, Position, SegmentId
from tidewaiter.core.scenarios import load_ruleset
from tidewaiter.core.scenarios.syntax import MAX_SCENARIOS
from tidewaiter.shell.governing import MAX_LIST_NAMES, named

if TYPE_CHECKING:
    from collections.abc import Iterable

CLOSED: Final = ClosedSegment(SegmentId("events.jsonl.1", 1, 2, 5, "ab"), 0, 700, 4, "cd")
STREAM_HALT: Final = Halt("json", 700, 4, "e" * 64, "not valid JSON", "events.jsonl", 700)
GOVERNED: Final = Decisions("1" * 64, "2" * 64, "3" * 64, "4" * 64)
WORST_CHARACTERS: Final = ("\x01", "\U0001f600", "\\", '"', "é")

records = st.lists(
    st.tuples(
        st.sampled_from(sorted(audit.PROJECTIONS)),
        st.text(max_size=20).map(lambda text: json.dumps({"record": text})),
    ),
    max_size=5,
)
standalone = st.sampled_from([
    (audit.RUN_STARTED, {"version": "1"}),
    (audit.RUN_ENDED, {"status": "success"}),
    (audit.STREAM_HALTED, STREAM_HALT),
    (audit.SEGMENT_CLOSED, CLOSED),
    (audit.DECISION_RECORDED, Decision("rules", "changed", GOVERNED, started_empty=["deposits"])),
    (audit.DECISION_RECORDED, Decision("gap", "lost", accepted=[CLOSED])),
    (audit.DECISION_RECORDED, Decision("late_bytes", "known", accepted=[CLOSED])),
    (audit.PROJECTION_SEALED, ProjectionSealed("flags", "flags-0.jsonl", 0, 50)),
    ("stream.silent", {"seconds": 5, "record": {"a": 1}}),
])  # fmt: skip
steps = st.lists(st.one_of(records, standalone), max_size=8)


def batch(ledger: Ledger, items: list[tuple[str, str]], number: int = 0) -> Prepared:
    """Prepare a batch with the given records; its counts are what the records say."""
    rejected = sum(1 for projection, _ in items if projection == "rejections")
    outcome = Outcome(
        items, Counts(events_read=rejected + 3, evaluated=3, rejected=rejected, json=rejected), 100 + number
    )
    return prepare(ledger, draft(outcome, first=ledger.global_offset), CONTEXT)


def write(taken: list[Any], ledger: Ledger | None = None) -> tuple[Ledger, list[Prepared]]:
    """Prepare each step on top of the one before."""
    ledger = ledger if ledger is not None else Ledger()
    commits = []
    for number, step in enumerate(taken):
        context = EntryContext(CONTEXT.timestamp, f"run{number}", "daemon")
        commits.append(batch(ledger, step, number) if isinstance(step, list) else prepare_entry(ledger, context, *step))
        ledger = commits[-1].ledger
    return ledger, commits


def log_of(commits: list[Prepared]) -> list[bytes]:
    """Return the audit lines of the commits."""
    return [text for commit in commits for text in lines_of(commit)]


def lines_of(commit: Prepared) -> list[bytes]:
    """Return the audit lines of one commit."""
    return commit.data.splitlines(keepends=True)


def read_back(log: Iterable[bytes]) -> tuple[Ledger, int]:
    """Fold what is adopted of an audit log from its beginning; return the ledger and how many bytes were adopted."""
    ledger, size = Ledger(), 0
    for unit in units(log, 0, audit.GENESIS):
        ledger.apply(unit)
        size += unit.size
    return ledger, size


# -- preparing ---------------------------------------------------------------------------------------------------------


@given(steps, records)
def test_preparing_leaves_the_ledger_as_it_is(taken: list[Any], items: list[tuple[str, str]]) -> None:
    """Memory stays behind the disk: until it is told so, nothing of a commit shows in the ledger it was made from."""
    ledger, _ = write(taken)
    before = copy.deepcopy(ledger)
    for step in (items, *(one for one in taken if not isinstance(one, list))):
        write([step], ledger)
        assert ledger == before


@given(steps)
def test_reading_the_lines_back_gives_the_ledger_that_was_prepared(taken: list[Any]) -> None:
    """There is one way to arrive at a state: what the writer holds is what a reader of its log finds."""
    ledger, commits = write(taken)
    log = log_of(commits)
    found, size = read_back(log)
    assert found == ledger
    assert size == sum(map(len, log))
    assert found.index == len(log)
    assert found.head == (hashlib.sha256(log[-1]).hexdigest() if log else audit.GENESIS)


@given(steps)
def test_every_line_carries_its_index_and_the_digest_of_the_line_before(taken: list[Any]) -> None:
    """The chain, checked with nothing but json and SHA-256."""
    head = "0" * 64
    for index, text in enumerate(log_of(write(taken)[1])):
        assert text.startswith(b'{"prev":"')
        assert text.endswith(b"}\n")
        assert text.count(b"\n") == 1
        entry = json.loads(text, object_pairs_hook=lambda pairs: pairs)
        assert [name for name, _ in entry[:7]] == ["prev", "index", "timestamp", "level", "run_id", "actor", "action"]
        assert [value for _, value in entry[:2]] == [head, index]
        head = hashlib.sha256(text).hexdigest()


@given(steps)
def test_every_projection_can_be_rebuilt_from_the_audit_log_alone(taken: list[Any]) -> None:
    """The embedded records are the projections' exact bytes; lengths and running hashes of each commit agree."""
    ledger, commits = write(taken)
    for projection, action in audit.PROJECTIONS.items():
        whole, digest = b"", ""
        for commit in commits:
            embedded = b"".join(record_of(text) for text in lines_of(commit) if json.loads(text)["action"] == action)
            assert commit.appended.get(projection, b"") == embedded
            if commit.before:
                assert commit.before[projection].length == len(whole)
            if embedded:
                digest = hashlib.sha256(bytes.fromhex(digest) + embedded).hexdigest()
            whole += embedded
        assert ledger.mark(projection).length == len(whole)
        assert ledger.mark(projection).sha256 == digest


def test_the_running_hash_can_be_resumed_at_any_batch() -> None:
    """``h = SHA256(h_previous || batch bytes)``, from nothing."""
    first = running_hash("", b"one\n")
    assert first == hashlib.sha256(b"one\n").hexdigest()
    assert running_hash(first, b"two\n") == hashlib.sha256(bytes.fromhex(first) + b"two\n").hexdigest()


# -- adopting ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(steps.filter(len), st.data())
def test_a_torn_log_is_adopted_up_to_the_last_whole_unit(taken: list[Any], data: st.DataObject) -> None:
    """Cut at any byte: whole batches and entries before it count, records without their batch.committed do not."""
    _, commits = write(taken)
    log = b"".join(log_of(commits))
    cut = data.draw(st.integers(0, len(log)))
    found, size = read_back(BytesIO(log[:cut]))
    ends = [0]
    for commit in commits:
        ends.append(ends[-1] + len(commit.data))
    whole = max(end for end in ends if end <= cut)
    assert size == whole
    assert found == ([Ledger()] + [commit.ledger for commit in commits])[ends.index(whole)]


def test_every_byte_of_a_torn_batch_is_left_out() -> None:
    """Cut inside the last batch at each of its bytes: the batch before it stands, nothing of this one."""
    _, commits = write([[("flags", '{"n":1}')], [("flags", '{"n":2}'), ("rejections", '{"n":3}')]])
    first, last = (commit.data for commit in commits)
    for cut in range(len(last)):
        found, size = read_back(BytesIO(first + last[:cut]))
        assert (found, size) == (commits[0].ledger, len(first))


@settings(max_examples=100)
@given(steps.filter(len), st.data())
def test_a_changed_byte_stops_adoption_right_behind_its_line(taken: list[Any], data: st.DataObject) -> None:
    """Flip any bit: nothing behind the changed line is adopted, and everything before its unit is."""
    _, commits = write(taken)
    whole = b"".join(log_of(commits))
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    found, size = read_back(BytesIO(changed))
    end_of_line = whole.index(b"\n", at) + 1
    unit_start = 0
    for commit in commits:
        if unit_start + len(commit.data) > at:
            break
        unit_start += len(commit.data)
    assert unit_start <= size <= end_of_line
    if size > unit_start:  # the entry still reads, but the next one must carry another digest
        assert size == end_of_line
        assert found.head != hashlib.sha256(whole[whole.rfind(b"\n", 0, end_of_line - 1) + 1 : end_of_line]).hexdigest()


@pytest.mark.parametrize("change", ["dropped", "doubled", "swapped", "renumbered", "unchained", "blank"])
def test_a_missing_or_moved_entry_stops_adoption_there(change: str) -> None:
    """The chain breaks at exactly the entry that is not the next one."""
    _, commits = write([("note", {"n": number}) for number in range(6)])
    log = log_of(commits)
    expected = sum(map(len, log[:3]))
    if change == "dropped":
        del log[3]
    elif change == "doubled":
        log.insert(3, log[2])
    elif change == "swapped":
        log[3], log[4] = log[4], log[3]
    elif change == "renumbered":
        log[3] = log[3].replace(b'"index":3', b'"index":4')
    elif change == "unchained":
        log[3] = log[3].replace(log[3][9:73], b"0" * 64)
    else:
        log.insert(3, b"\n")
    ledger, size = read_back(log)
    assert size == expected
    assert ledger.index == 3


def test_adoption_can_begin_at_any_mark() -> None:
    """A snapshot's index and head are enough to go on from; another head is no beginning."""
    _, commits = write([[("flags", '{"n":1}')], ("note", {}), [("flags", '{"n":2}')]])
    after = commits[1].ledger
    rest = lines_of(commits[2])
    ledger = copy.deepcopy(after)
    for unit in units(rest, after.index, after.head):
        ledger.apply(unit)
    assert ledger == commits[2].ledger
    assert list(units(rest, after.index, commits[0].ledger.head)) == []
    assert list(units(rest, after.index + 1, after.head)) == []


# -- what entries mean -------------------------------------------------------------------------------------------------


def test_a_batch_moves_the_position_adds_the_counts_and_resolves_a_halt() -> None:
    """`read` is `evaluated` and `rejected` in the totals as in each batch."""
    ledger, _ = write([[("flags", "{}")], (audit.STREAM_HALTED, STREAM_HALT)])
    assert ledger.halt == STREAM_HALT
    ledger, _ = write([[("rejections", "{}")]], ledger)
    assert ledger.halt is None
    assert ledger.totals == Counts(events_read=7, evaluated=6, flags=1, rejected=1, json=1)
    assert ledger.commit is not None
    assert ledger.previous is not None
    assert ledger.previous.offset == 100
    assert ledger.global_offset == ledger.commit.offset == 200
    assert ledger.position == ledger.commit.position


def test_what_could_not_be_decided_is_summed_over_the_batches() -> None:
    """Each batch adds to the scenarios that it names; a ledger that was handed on does not change."""
    ledger = Ledger()
    sums = []
    for number, counts in enumerate([{"a": 1}, {}, {"b": 2, "a": 3}]):
        batch = draft(Outcome(size=10), first=10 * number)
        prepared = prepare(ledger, msgspec.structs.replace(batch, insufficient=counts), CONTEXT)
        assert prepared.ledger.commit is not None
        assert prepared.ledger.commit.insufficient == counts
        ledger = prepared.ledger
        sums.append(ledger)
    assert [each.insufficient for each in sums] == [{"a": 1}, {"a": 1}, {"a": 4, "b": 2}]
    mark = AuditMark("audit.jsonl", 1, ledger.index, ledger.head)
    checkpoint = decode_checkpoint(encode_checkpoint(ledger, mark, "now"))
    assert checkpoint is not None
    assert checkpoint.insufficient == {"a": 4, "b": 2}


def test_a_commit_s_entry_has_room_for_every_scenario_and_list() -> None:
    """As many scenarios as a ruleset may have, all undecided, and lists with the longest paths: within the bound."""
    undecided = {f"{number:064}": 10**9 for number in range(MAX_SCENARIOS)}
    room, lists = MAX_LIST_NAMES, dict[str, str]()
    while (room := room - len(msgspec.json.encode({(path := f"\x01{len(lists):040}"): "f" * 64}))) >= 0:
        lists[path] = "f" * 64
    outcome = Outcome(size=10**15, counts=Counts(*[10**15] * len(Counts.__struct_fields__)))
    decisions = msgspec.structs.replace(DECISIONS, lists=lists)
    position = Position(SegmentId("\x01" * 255, 10**9, 10**18, 1024, "f" * 64), 10**15, 10**15, 4096, "f" * 64)
    batch = msgspec.structs.replace(
        draft(outcome), insufficient=undecided, decisions=decisions, position=position, reason="r" * 1000
    )
    assert prepare(Ledger(), batch, CONTEXT).longest <= audit.MAX_ENTRY_BYTES


def test_what_starts_empty_is_named_as_far_as_there_is_room() -> None:
    """A change of everything in the largest of rulesets still fits an entry; the rest is counted."""
    few = ["metric a", "scenario b"]
    assert named(few) == few
    many = [f"metric {number:064}" for number in range(3000)]
    told = named(many)
    assert told[:-1] == many[: len(told) - 1]
    assert told[-1] == f"and {3000 - len(told) + 1} more"
    decision = Decision("governing", "reload", DECISIONS, started_empty=told)
    assert (
        prepare_entry(Ledger(), CONTEXT, audit.DECISION_RECORDED, decision).longest < audit.MAX_ENTRY_BYTES // 2 + 2000
    )


def test_an_older_version_s_entries_read_as_those_of_empty_projections() -> None:
    """Without the members that came later: no lists, nothing suppressed or undecided, and marks at the beginning."""
    counts = {name: 0 for name in Counts.__struct_fields__ if name not in {"suppressed", "shadow_flags"}}
    counts["flags"] = 2
    ledger = Ledger()
    prepared = prepare(ledger, draft(Outcome(size=10)), CONTEXT)
    old = json.loads(prepared.data.splitlines()[-1])
    old["counts"] = old["totals"] = counts
    for name in ("suppressed", "shadow_flags"):
        del old["projections"][name]
    del old["insufficient"], old["decisions"]["lists"]
    (unit,) = units([json.dumps(old, separators=(",", ":")).encode() + b"\n"], 0, ledger.head)
    ledger.apply(unit)
    assert ledger.commit is not None
    assert (ledger.totals, ledger.insufficient) == (Counts(flags=2), {})
    assert ledger.mark("suppressed") == EMPTY_MARK
    assert ledger.commit.decisions.lists == {}
    after = prepare(ledger, draft(Outcome([("suppressed", "{}")], size=5), first=10), CONTEXT).ledger
    assert after.mark("suppressed").length == 3
    assert after.totals == Counts(flags=2, suppressed=1)


def test_between_two_segments_there_is_a_next_start_and_no_position() -> None:
    """Closing a segment remembers it with its length; the next batch begins the next one."""
    ledger, _ = write([[], (audit.SEGMENT_CLOSED, CLOSED)])
    assert ledger.closed == [CLOSED]
    assert (ledger.position, ledger.next_start, ledger.global_offset) == (None, 700, 700)
    ledger, _ = write([[]], ledger)
    assert ledger.next_start is None
    assert ledger.closed == [CLOSED]


def test_an_accepted_gap_is_held_with_its_evidence_until_something_behind_it_was_read() -> None:
    """The decision is for one gap: a batch or a closed segment, also an empty one, ends it."""
    evidence: dict[str, str | int] = {"kind": "gap", "missing": 1}
    ledger, _ = write([(audit.DECISION_RECORDED, Decision("gap", "lost", evidence=evidence))])
    assert ledger.gap_accepted == evidence
    assert write([[]], ledger)[0].gap_accepted is None
    assert write([(audit.SEGMENT_CLOSED, CLOSED)], ledger)[0].gap_accepted is None


def test_accepted_late_bytes_take_the_place_of_the_segment_that_grew() -> None:
    """An empty segment and its successor have the same start, and may have had the same name."""
    empty = msgspec.structs.replace(CLOSED, segment=SegmentId(CLOSED.segment.name, 1, 3, 0, ""), length=0, tail_len=0)
    grown = msgspec.structs.replace(empty, length=9)
    decision = Decision("late_bytes", "known", accepted=[grown], evidence={"closed_index": 0})
    closed = [(audit.SEGMENT_CLOSED, empty), (audit.SEGMENT_CLOSED, CLOSED)]
    ledger, _ = write([*closed, (audit.DECISION_RECORDED, decision)])
    assert ledger.closed == [grown, CLOSED]


def test_a_run_is_open_between_its_start_and_its_end() -> None:
    """So the next start knows which run crashed."""
    ledger, _ = write([(audit.RUN_STARTED, {}), []])
    assert ledger.open_run == "run0"
    assert write([(audit.RUN_ENDED, {})], ledger)[0].open_run is None


def test_sealing_moves_the_base_of_the_open_part_only() -> None:
    """The projection's length and hash go on over its parts."""
    ledger, _ = write([[("flags", "{}")], (audit.PROJECTION_SEALED, ProjectionSealed("flags", "flags-0.jsonl", 0, 3))])
    mark = ledger.mark("flags")
    assert (mark.length, mark.base) == (3, 3)
    ledger, commits = write([[("flags", "[]")]], ledger)
    assert (ledger.mark("flags").length, ledger.mark("flags").base) == (6, 3)
    assert commits[0].before["flags"] == mark


def test_new_decisions_are_in_force_from_their_entry_on() -> None:
    """A decision with digests replaces those of the last batch."""
    ledger, _ = write([[]])
    assert ledger.decisions == DECISIONS
    ledger, _ = write([(audit.DECISION_RECORDED, Decision("rules", "changed", GOVERNED))], ledger)
    assert ledger.decisions == GOVERNED


def test_entries_of_a_later_version_change_nothing() -> None:
    """What an entry means is known by its action; an unknown one only lengthens the chain."""
    before, _ = write([[("flags", "{}")]])
    after, _ = write([("future.thing", {"halt": True, "commit": 1})], before)
    assert msgspec.structs.replace(after, index=before.index, head=before.head) == before


# -- the checkpoint ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_reads_back_and_a_damaged_one_is_none() -> None:
    """The last batch.committed, materialised; cut or of another format, it is rebuilt from the audit log."""
    ledger, _ = write([[("flags", "{}")], (audit.STREAM_HALTED, STREAM_HALT)])
    mark = AuditMark("audit-0.jsonl", 500, ledger.index, ledger.head)
    data = encode_checkpoint(ledger, mark, CONTEXT.timestamp)
    checkpoint = decode_checkpoint(data)
    assert checkpoint is not None
    assert (checkpoint.audit, checkpoint.commit, checkpoint.decisions) == (mark, ledger.commit, DECISIONS)
    assert checkpoint.halt == STREAM_HALT
    for cut in range(len(data) - 2):
        assert decode_checkpoint(data[:cut]) is None
    assert decode_checkpoint(data.replace(b"checkpoint/1", b"checkpoint/2")) is None


# -- how large an entry can be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", WORST_CHARACTERS)
def test_no_entry_exceeds_its_bound_with_the_longest_ids(character: str) -> None:
    """Ids of 1,024 characters that JSON writes longest, times of many decimals, and previews of unprintable bytes."""
    contract = compile_contract(
        CONTRACT_TEXT.replace(b"max_length = 128", b"max_length = %d" % MAX_ID_LENGTH), "long.toml"
    )
    engine = Engine(contract, load_ruleset(RULES_TEXT, "rules.toml", contract), QUARANTINE)
    worst = character * MAX_ID_LENGTH
    longest = "2026-03-09T12:00:00." + "1" * 70_000 + "Z"
    known = line(0, event_id=worst, user_id=worst, amount=1_000_000, event_time=longest, ingest_time=longest)
    outcome = evaluate_lines(
        engine,
        known,
        known,
        line(1, user_id=worst, event_time=longest),
        line(2, **{character * 70_000: 1}),
        character.encode() * 1000,
        b'\x01\xff\\"' * 10_000,
    )
    assert (len(outcome.flags), len(outcome.rejections)) == (1, 4)
    prepared = prepare(Ledger(), draft(outcome), CONTEXT)
    assert prepared.longest == max(map(len, lines_of(prepared))) <= audit.MAX_ENTRY_BYTES
