"""Everything that somebody could do to a finished state directory, and what `verify` says of it.

Each test is one attack. It is detected (exit 4, or 7 where files are gone), or theory says that it cannot be without
something held outside: then the table says so, and a checkpoint or cosignature that was held outside detects it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import random
import shutil
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

import evidence_rig as rig
from evidence_rig import KEY, OTHER_KEY, Home, flip, forge, lines_of, write_lines
from rigs import daemon
from rigs.daemon import make_stream
from tidewaiter.core import audit
from tidewaiter.core.snapshot import MAGIC, decode_header
from tidewaiter.core.tlog.checkpoints import TreeHead
from tidewaiter.core.tlog.notes import Note, parse_note, signing_key
from tidewaiter.edges.lock import StateLock
from tidewaiter.shell import keys
from tidewaiter.shell.verify import Verdict, Wanted, verify
from tidewaiter.shell.verify_table import COVERED, ENTRY_ATTACKS, NOT_COVERED, UP_TO
from tidewaiter.shell.verify_trust import read_given

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VKEY: Final = str(KEY.verifier)
INTACT, TAMPERED, UNANCHORED, UNDECIDABLE = 0, 4, 6, 7


class Unwatched:
    """Nobody looks at the progress."""

    def add(self, phase: str, done: int, total: int) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A copy of the finished state directory."""
    return rig.fresh(tmp_path)


def verdict(
    home: Home,
    *,
    key: str | None = None,
    since: Path | None = None,
    policy: Path | None = None,
    state: Path | None = None,
    **options: Any,
) -> Verdict:
    """Return what a verification says of the state directory, given what is held outside."""
    given = read_given(key, policy, since)
    return verify(Wanted(state or home.state, options.pop("stream", home.stream), given, **options), Unwatched())


def row(found: Verdict, attack: str) -> str:
    """Return what the table says about an attack."""
    return next(each.covered for each in found.table if each.attack == attack)


def checks(found: Verdict) -> set[str]:
    """Return which checks found a contradiction."""
    return {each.check for each in found.findings if each.kind == "tampered"}


def middle(home: Home) -> tuple[Path, list[bytes], int, int]:
    """Return a segment in the middle, its lines, the place of a flag in it, and the index of that entry."""
    path = home.segments()[len(home.segments()) // 2]
    lines = lines_of(path)
    place = next(at for at, line in enumerate(lines) if at > 20 and b'"action":"flag.emitted"' in line)
    entry = audit.read_head(lines[place])
    assert entry is not None
    return path, lines, place, entry.index


def an_hour_off(line: bytes, hours: int) -> bytes:
    """Return the entry with a time that many hours later."""
    entry = audit.read_head(line)
    assert entry is not None
    time = dt.datetime.fromisoformat(entry.timestamp) + dt.timedelta(hours=hours)
    return line.replace(entry.timestamp.encode(), time.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode(), 1)


def now() -> int:
    """Return the time in seconds since 1970: the log was written a moment ago."""
    return int(dt.datetime.now(dt.UTC).timestamp())


def change_a_flag(line: bytes) -> bytes:
    """Return the entry with another user flagged, of the same length, where it is a flag."""
    return line.replace("ü".encode(), "ö".encode()) if b'"action":"flag.emitted"' in line else line


def rewritten(home: Home, since: int = 1000) -> Callable[[int, bytes], bytes]:
    """Return a change that makes every flag from entry `since` on somebody else's."""
    return lambda index, line: change_a_flag(line) if index >= since else line


# -- nothing was done --------------------------------------------------------------------------------------------------


def test_an_untouched_log_is_intact(home: Home) -> None:
    """Each thing held outside anchors it, and without one it is said to be anchored by nothing."""
    assert verdict(home).exit_status == UNANCHORED
    found = verdict(home, key=VKEY, replay=True)
    assert (found.exit_status, found.findings, found.notes) == (INTACT, [], [])
    assert found.anchored == found.entries == found.signed
    assert verdict(home, since=home.checkpoint()).exit_status == INTACT
    rig.cosign(home.state, now())
    assert verdict(home, policy=rig.write_policy(home.place)).exit_status == INTACT


# -- entries -----------------------------------------------------------------------------------------------------------


def test_an_edited_entry_is_found_at_its_index_and_byte(home: Home) -> None:
    """The finding names the entry, its file and offset, and both digests."""
    path, lines, place, index = middle(home)
    before = lines[place]
    lines[place] = change_a_flag(before)
    write_lines(path, lines)
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert found.first is not None
    assert (found.first.index, found.first.file) == (index, str(path))
    assert found.first.offset == sum(map(len, lines[:place]))
    assert found.first.expected == f"SHA-256 {hashlib.sha256(before).hexdigest()}"
    assert found.first.found == f"SHA-256 {hashlib.sha256(lines[place]).hexdigest()}"
    assert {"chain", "tiles", "projections", "checkpoints"} <= checks(found)


def test_the_last_entry_edited_is_found_though_none_follows_it(home: Home) -> None:
    """Tree and checkpoint.json cover it."""
    path = home.segments()[-1]
    lines = lines_of(path)
    lines[-1] = lines[-1].replace(b'"success"', b'"sucCess"')
    write_lines(path, lines)
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert {"checkpoint", "checkpoints"} <= checks(found)


def test_an_inserted_entry_is_found(home: Home) -> None:
    """It has the index of the one that it pushed away."""
    path, lines, place, index = middle(home)
    write_lines(path, [*lines[: place + 1], lines[place], *lines[place + 1 :]])
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert found.first is not None
    assert found.first.index in {index, index + 1}


def test_a_deleted_entry_is_found(home: Home) -> None:
    """Its index is missing."""
    path, lines, place, index = middle(home)
    write_lines(path, lines[:place] + lines[place + 1 :])
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert found.first is not None
    assert found.first.index == index
    assert found.first.offset == sum(map(len, lines[:place]))


def test_reordered_entries_are_found(home: Home) -> None:
    """Two neighbours that changed places break the chain at the first of them."""
    path, lines, place, index = middle(home)
    lines[place], lines[place + 1] = lines[place + 1], lines[place]
    write_lines(path, lines)
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert found.first is not None
    assert found.first.index == index


@pytest.mark.parametrize("torn", [False, True])
def test_a_cut_log_is_found_by_what_covers_more(home: Home, torn: bool) -> None:
    """The newest checkpoint and checkpoint.json are ahead of it, wherever it was cut."""
    path = home.segments()[-1]
    lines = lines_of(path)
    write_lines(path, [*lines[:-3], lines[-3][:50]] if torn else lines[:-3])
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert {"checkpoint", "checkpoints"} <= checks(found)
    for first in (found.first, found.findings[0]):  # not the files that follow from the entries that are gone
        assert first is not None
        assert "it was cut or rolled back" in first.what


def test_swapped_segments_are_found(home: Home) -> None:
    """The names of two segments say which entries they begin with."""
    one, other = home.segments()[1:3]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert verdict(home, key=VKEY).exit_status == TAMPERED


@pytest.mark.parametrize(("place", "expected"), [(0, UNDECIDABLE), (2, TAMPERED), (-1, TAMPERED)])
def test_a_removed_segment_is_found(home: Home, place: int, expected: int) -> None:
    """The oldest may have been retired, and is named as missing; nothing retires one in the middle or at the end."""
    path = home.segments()[place]
    path.unlink()
    found = verdict(home, key=VKEY)
    assert found.exit_status == expected
    if expected == UNDECIDABLE:
        assert any(each.kind == "missing" and "entries 0 to" in each.what for each in found.findings)


def test_garbage_is_a_finding_and_never_a_traceback(home: Home) -> None:
    """Bytes that are no entry, no UTF-8 and no line are reported like any other change."""
    path = home.segments()[2]
    data = path.read_bytes()
    path.write_bytes(data[:5000] + b"\xff\x00\n{}\n[[[[\r\n" + b"x" * 70_000 + data[5000:])
    for name in ("checkpoint.json", "tlog/checkpoint", "tlog/checkpoints", "stream.json"):
        (home.state / name).write_bytes(b"\xff\x00{")
    for path in (home.state / "snapshots").iterdir():
        path.write_bytes(b"\x00")
    assert verdict(home, key=VKEY, replay=True).exit_status == TAMPERED


# -- what lies beside it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tile/0/000", "tile/0/003", "edge"])
def test_an_edited_tile_is_found(home: Home, name: str) -> None:
    """The finding names the leaf whose hash was changed."""
    tlog = home.state / "tlog"
    path = max((tlog / "tile" / "0").glob("*.p/*")) if name == "edge" else tlog / name
    flip(path, 5 * 32)
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"tiles"})
    assert found.first is not None
    assert (found.first.file, found.first.offset) == (str(path), 160)
    assert found.first.index == 256 * int(path.parent.stem if name == "edge" else path.name) + 5


def test_an_edited_checkpoint_is_found(home: Home) -> None:
    """Another root fits neither the tree nor the signature."""
    path = home.state / "tlog" / "checkpoint"
    note = parse_note(path.read_bytes())
    head = TreeHead(rig.ORIGIN, json.loads(home.segments()[-1].read_bytes().splitlines()[-1])["index"] + 1, bytes(32))
    path.write_bytes(Note(head.text(), note.signatures).encode())
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert {"checkpoints", "signatures"} <= checks(found)


def test_an_edited_older_checkpoint_is_found(home: Home) -> None:
    """All of them are verified, not only the newest."""
    path = home.state / "tlog" / "checkpoints"
    lines = lines_of(path)
    lines[1] = b"%d\n" % (int(lines[1]) + 1)
    write_lines(path, lines)
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"checkpoints", "signatures"})


def test_an_edited_checkpoint_json_is_found(home: Home) -> None:
    """It must say what the audit log says at its place."""
    path = home.state / "checkpoint.json"
    checkpoint = json.loads(path.read_bytes())
    checkpoint["commit"]["totals"]["flags"] -= 1
    path.write_text(json.dumps(checkpoint), encoding="utf-8")
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"checkpoint"})


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("change", ["edit", "cut", "append"])
def test_an_edited_flag_is_found(home: Home, sealed: bool, change: str) -> None:
    """The audit log has every line of the projections, sealed parts included."""
    path = min(home.state.glob("flags-*.jsonl")) if sealed else home.state / "flags.jsonl"
    lines = lines_of(path)
    if change == "edit":
        lines[3] = change_a_flag(b'"action":"flag.emitted"' + lines[3])[23:]
    write_lines(path, {"edit": lines, "cut": lines[:-1], "append": [*lines, lines[0]]}[change])
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"projections"})
    assert found.first is not None
    assert found.first.file == str(path)
    if change == "edit":
        assert found.first.index is not None
        record = audit.record_of(daemon.audit_lines(home.state)[found.first.index])
        assert (record[:20], len(record)) == (lines[3][:20], len(lines[3]))
        assert sum(map(len, lines[:3])) <= (found.first.offset or 0) < sum(map(len, lines[:4]))


def test_an_edited_run_log_is_found(home: Home) -> None:
    """Its digest was recorded when it was closed."""
    path = min((home.state / "runs").glob("run_*.json"))
    path.write_bytes(path.read_bytes().replace(b'"flags_emitted": ', b'"flags_emitted":  '))
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"documents"})
    assert found.first is not None
    assert found.first.file == str(path)


def test_an_edited_validation_report_is_found(home: Home) -> None:
    """The newest recorded digest counts: each run replaces the report of the one before."""
    path = home.state / "reports" / "validation_report.json"
    path.write_bytes(path.read_bytes().replace(b"true", b"True"))
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"documents"})


def test_an_edited_archived_ruleset_is_found(home: Home) -> None:
    """Its name is its digest, and the decisions name it."""
    path = next(path for path in (home.state / "rules").iterdir() if b"threshold" in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"threshold", b"Threshold", 1))
    found = verdict(home, key=VKEY, replay=True)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"archive"})


def test_a_foreign_file_among_the_archived_texts_is_named_as_one(home: Home) -> None:
    """No entry names it, so no text was changed."""
    (home.state / "rules" / "aaaa").write_text("x\n", encoding="ascii")
    found = verdict(home, key=VKEY)
    assert [each.what for each in found.findings] == [
        "is a file that no entry names, and its name is not its own digest"
    ]


def test_a_missing_tile_is_named_once(home: Home) -> None:
    """The finding's file is its path."""
    path = home.state / "tlog" / "tile" / "0" / "001"
    path.unlink()
    found = verdict(home, key=VKEY)
    assert [(each.file, each.what) for each in found.findings] == [(str(path), "is missing")]


def test_removed_checkpoints_are_said_to_be_gone(home: Home) -> None:
    """A log that names a key is not called unsigned because its signatures were removed."""
    shutil.rmtree(home.state / "tlog")
    notes = " ".join(verdict(home, key=VKEY).notes)
    assert "its checkpoints are gone" in notes
    assert "the log is not signed" not in notes


@pytest.mark.parametrize("what", ["rules", "runs", "reports", "tlog"])
def test_what_was_removed_is_named(home: Home, what: str) -> None:
    """Files that are gone leave the verification undecided, unless something else contradicts."""
    shutil.rmtree(home.state / what)
    found = verdict(home)
    assert found.exit_status == UNDECIDABLE
    assert {each.kind for each in found.findings} == {"missing"}
    flip(home.state / "flags.jsonl", 20)
    assert verdict(home).exit_status == TAMPERED


@pytest.mark.parametrize("consistent", [False, True])
def test_an_edited_snapshot_is_found(home: Home, consistent: bool) -> None:
    """Also where its own hash was computed again: the audit log has the digest of the file."""
    recorded = {
        document["file"]
        for entry in daemon.entries(home.state, audit.SNAPSHOT_RECORDED)
        for document in [entry["document"]]
    }
    path = next(path for path in (home.state / "snapshots").iterdir() if f"snapshots/{path.name}" in recorded)
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    if consistent:
        data[-32:] = hashlib.sha256(data[:-36]).digest()
    path.write_bytes(data)
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert "documents" in checks(found)


def test_an_edited_input_segment_is_found(home: Home) -> None:
    """The range that holds the change is named by its entry and its first byte."""
    flip(home.stream, 400_000)
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"input"})
    assert found.first is not None
    assert found.first.offset is not None
    assert 400_000 - 30_000 < found.first.offset <= 400_000


def test_a_cut_input_segment_is_found(home: Home) -> None:
    """It is shorter than what was read of it."""
    home.stream.write_bytes(home.stream.read_bytes()[:400_000])
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"input"})


def test_a_removed_input_segment_is_missing(home: Home) -> None:
    """It is named; what it held cannot be decided."""
    home.stream.unlink()
    found = verdict(home, key=VKEY)
    assert found.exit_status == UNDECIDABLE
    assert [each.check for each in found.findings] == ["input"]


def test_no_change_of_a_byte_anywhere_goes_unnoticed(home: Home) -> None:
    """One byte changed, put in or taken out, or a file cut, in any file that says something: each is tampering."""
    # checkpoint.json says nothing that the audit log does not, but for the time it was written
    # lineage_graph.jsonl is for asking; what it tells of the log stands in the log
    said_elsewhere = {"log", "lock", "stream.json", "checkpoint.json", "lineage_graph.jsonl"}
    rng = random.Random(4)
    files = [path for path in sorted(home.state.rglob("*")) if path.is_file() and path.stat().st_size]
    files = [path for path in files if path.relative_to(home.state).parts[0] not in said_elsewhere]
    unnoticed = []
    for path in (rng.choice(files) for _ in range(60)):
        before = path.read_bytes()
        at = rng.randrange(len(before))
        after = {
            "flip": before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :],
            "insert": before[:at] + b"0" + before[at:],
            "delete": before[:at] + before[at + 1 :],
            "cut": before[:at],
        }
        kind = rng.choice(sorted(after))
        path.write_bytes(after[kind])
        if verdict(home, key=VKEY).exit_status != TAMPERED:
            unnoticed.append((path, kind, at, before[max(0, at - 20) : at + 20]))
        path.write_bytes(before)
    assert unnoticed == []


# -- with the power to sign --------------------------------------------------------------------------------------------


def test_a_substituted_key_is_found_by_whoever_pinned_the_right_one(home: Home) -> None:
    """Without one the log agrees with itself, and nothing is covered."""
    held = home.checkpoint()

    def substitute(index: int, line: bytes) -> bytes:
        return line.replace(VKEY.encode(), str(OTHER_KEY.verifier).encode())

    forge(home.state, substitute, [OTHER_KEY])
    found = verdict(home)
    assert (found.exit_status, found.findings) == (UNANCHORED, [])
    assert {row(found, attack) for attack in ENTRY_ATTACKS} == {NOT_COVERED}
    assert checks(verdict(home, key=VKEY)) == {"signatures"}
    assert checks(verdict(home, policy=rig.write_policy(home.place))) == {"signatures"}
    assert checks(verdict(home, since=held)) == {"checkpoints"}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b'"totals":{"events_read":', b'"totals":{"events_read":1', "does not agree with the entries before"),
        (b'"flags":{"length":', b'"flags":{"length":1', "does not agree with the entries before"),
        (b'"predecessor_length":', b'"predecessor_length":1', "another predecessor"),
        (b'"first":', b'"first":1', "do not follow on each other"),
    ],
)
def test_entries_that_contradict_each_other_are_found_though_signed(
    home: Home, before: bytes, after: bytes, said: str
) -> None:
    """What a batch or the beginning of a segment says must follow from what stands before it."""
    found_in = next(
        index for index, line in enumerate(daemon.audit_lines(home.state)) if index > 1000 and before in line
    )
    forge(
        home.state, lambda index, line: line.replace(before, after) if index == found_in else line, [KEY], agree=False
    )
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert any(each.index == found_in and said in each.what for each in found.findings)


def test_a_checkpoint_of_another_log_is_found(home: Home) -> None:
    """Each one bears the log's name."""
    head = TreeHead("other.example/log", 1000, bytes(32))
    with (home.state / "tlog" / "checkpoints").open("ab") as file:
        file.write(Note(head.text(), (KEY.sign(head.text()),)).encode())
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert any(each.expected == rig.ORIGIN and each.found == head.origin for each in found.findings)


def test_the_key_of_another_log_is_not_its_key(home: Home) -> None:
    """The log bears the name of its key."""
    found = verdict(home, key=str(signing_key("other.example/log", bytes(32)).verifier))
    assert checks(found) == {"signatures"}
    assert found.findings[0].expected == "other.example/log"


def test_a_removed_checkpoint_is_found(home: Home) -> None:
    """The newest one is the last of all."""
    path = home.state / "tlog" / "checkpoints"
    newest = (home.state / "tlog" / "checkpoint").read_bytes()
    path.write_bytes(path.read_bytes().removesuffix(newest))
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"checkpoints"})


def test_a_snapshot_whose_header_was_changed_is_found(home: Home) -> None:
    """What it says was committed follows from the audit log, whatever digests say."""
    path = max((home.state / "snapshots").iterdir())
    data = path.read_bytes()
    header = decode_header(data)
    assert header is not None
    header.ledger.totals.flags += 1
    end = len(MAGIC) + 4 + int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "little")
    frame = msgspec.msgpack.encode(header)
    content = MAGIC + len(frame).to_bytes(4, "little") + frame + data[end:-36]
    path.write_bytes(content + bytes(4) + hashlib.sha256(content).digest())
    found = verdict(home, key=VKEY)
    assert found.exit_status == TAMPERED
    assert "snapshots" in checks(found)


def test_a_signature_of_a_key_that_the_log_does_not_name_is_found(home: Home) -> None:
    """The log names its key before anything is signed with it."""
    note = parse_note((home.state / "tlog" / "checkpoint").read_bytes())
    other = Note(note.text, (OTHER_KEY.sign(note.text),)).encode()
    (home.state / "tlog" / "checkpoint").write_bytes(other)
    (home.state / "tlog" / "checkpoints").write_bytes(other)
    found = verdict(home)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"signatures"})


def test_removed_signatures_are_found(home: Home) -> None:
    """The log names a key that was to sign: it does not become unsigned, whoever looks."""
    forge(home.state, lambda _, line: line, [])
    for key in (None, VKEY):
        found = verdict(home, key=key)
        assert (found.exit_status, checks(found)) == (TAMPERED, {"signatures"})


def test_a_restored_back_up_that_goes_on_otherwise_is_a_fork(home: Home, tmp_path: Path) -> None:
    """The key signs both histories: only a checkpoint of the other one, held outside, tells."""
    held = home.checkpoint()
    begin = home.stream.read_bytes().splitlines(keepends=True)[: rig.FIRST_RUN]
    other = make_stream(tmp_path / "other.jsonl", 400, seed=9, start="2027-01-01T00:00:00Z").read_bytes()
    home.stream.write_bytes(b"".join(begin) + other)
    shutil.rmtree(home.state)
    shutil.copytree(home.older, home.state)
    daemon.succeed(home.settings())
    found = verdict(home, key=VKEY)
    assert (found.exit_status, row(found, "fork")) == (INTACT, NOT_COVERED)
    assert "checkpoints" in checks(verdict(home, since=held))
    assert verdict(home, since=home.older / "tlog" / "checkpoint").exit_status == INTACT


def test_a_rollback_to_an_older_signed_state_needs_a_newer_checkpoint(home: Home) -> None:
    """Nothing in an older state says that there was a newer one."""
    held = home.checkpoint()
    found = verdict(home, key=VKEY, state=home.older)
    assert found.exit_status == INTACT
    assert (row(found, "rollback"), row(found, "truncation")) == (NOT_COVERED, NOT_COVERED)
    found = verdict(home, key=VKEY, since=held, state=home.older)
    assert found.exit_status == TAMPERED
    assert "rolled back" in next(each.what for each in found.findings)
    seen = rig.cosign(home.state, now())  # what a witness hands out
    found = verdict(home, policy=rig.write_policy(home.place), since=seen)
    assert (found.exit_status, row(found, "rollback")) == (INTACT, COVERED)
    assert verdict(home, policy=rig.write_policy(home.place), since=seen, state=home.older).exit_status == TAMPERED


def test_a_rewrite_signed_with_the_stolen_key_needs_a_held_checkpoint(home: Home) -> None:
    """It agrees with itself in everything; what was signed before is held elsewhere, or cosigned."""
    held, older = home.checkpoint(), home.older / "tlog" / "checkpoint"
    rig.cosign(home.state, now())
    policy = rig.write_policy(home.place)
    found = verdict(home, policy=policy)
    assert (found.exit_status, row(found, "stolen-key rewrite")) == (INTACT, COVERED)
    forge(home.state, rewritten(home), [KEY])
    found = verdict(home, key=VKEY)
    assert (found.exit_status, found.findings) == (INTACT, [])
    assert row(found, "stolen-key rewrite") == NOT_COVERED
    assert checks(verdict(home, since=held)) == {"checkpoints"}
    assert checks(verdict(home, since=older)) == {"checkpoints"}
    found = verdict(home, policy=policy)  # no witness cosigns it
    assert (found.exit_status, row(found, "stolen-key rewrite")) == (UNANCHORED, NOT_COVERED)
    assert checks(verdict(home, key=VKEY, replay=True)) == {"replay"}


def test_a_rewrite_behind_the_held_checkpoint_is_not_covered(home: Home) -> None:
    """The table says up to which entry it is."""
    older = home.older / "tlog" / "checkpoint"
    size = int(older.read_bytes().splitlines()[1])
    forge(home.state, rewritten(home, since=size), [KEY])
    found = verdict(home, since=older)
    assert (found.exit_status, row(found, "stolen-key rewrite")) == (INTACT, UP_TO)
    assert next(each.entries for each in found.table if each.attack == "stolen-key rewrite") == size


def test_an_unsigned_checkpoint_of_another_tree_is_found(home: Home) -> None:
    """Also where signed ones stand behind it, and no key was to sign it."""
    settings = home.settings()
    keys.revoke(settings, VKEY, len(daemon.audit_lines(home.state)) - 1, "stolen", "tester")
    daemon.succeed(settings)
    path = home.state / "tlog" / "checkpoint"
    lines = lines_of(path)
    write_lines(path, [*lines[:2], b"A" * 43 + b"=\n", *lines[3:]])
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"checkpoints"})


def test_a_rewrite_that_keeps_the_cosigned_checkpoint_contradicts_it(home: Home) -> None:
    """The witness saw another tree of that size."""
    held = rig.cosign(home.state, now())
    kept = (home.state / "tlog" / "witnessed").read_bytes()
    forge(home.state, rewritten(home), [KEY])
    (home.state / "tlog" / "witnessed").write_bytes(kept)
    policy = rig.write_policy(home.place)
    assert verdict(home, policy=policy).exit_status == TAMPERED
    assert verdict(home, policy=policy, since=held).exit_status == TAMPERED


def test_entries_whose_times_go_back_were_back_dated(home: Home) -> None:
    """Also where everything was signed anew."""
    forge(home.state, lambda index, line: an_hour_off(line, -1) if index >= 1500 else line, [KEY])
    found = verdict(home, key=VKEY)
    assert (found.exit_status, checks(found)) == (TAMPERED, {"time"})
    assert found.first is not None
    assert found.first.index == 1500


def test_a_log_dated_back_as_a_whole_needs_a_held_checkpoint(home: Home) -> None:
    """With the key and every entry an hour earlier, nothing inside contradicts."""
    held = home.checkpoint()
    forge(home.state, lambda _, line: an_hour_off(line, -1), [KEY])
    found = verdict(home, key=VKEY)
    assert (found.exit_status, row(found, "back-dating")) == (INTACT, NOT_COVERED)
    assert checks(verdict(home, since=held)) == {"checkpoints"}


@pytest.mark.parametrize("hours", [2, -2])
def test_times_at_odds_with_the_witnesses_are_found(home: Home, hours: int) -> None:
    """What was cosigned was written before, and what was not there yet was written after."""
    cut = int((home.older / "tlog" / "checkpoint").read_bytes().splitlines()[1])
    lines = [line for path in home.segments() for line in lines_of(path)]
    entry = audit.read_head(lines[cut - 1])
    assert entry is not None
    at = dt.datetime.fromisoformat(entry.timestamp) + dt.timedelta(hours=hours)
    note = parse_note((home.older / "tlog" / "checkpoint").read_bytes())
    signature = rig.WITNESS.sign(note.text, int(at.timestamp()))
    with (home.state / "tlog" / "checkpoints").open("ab") as file:
        file.write(Note(note.text, (*note.signatures, signature)).encode())
    found = verdict(home, policy=rig.write_policy(home.place))
    assert (found.exit_status, checks(found)) == (TAMPERED, {"time"})
    assert found.first is not None
    assert found.first.index == (cut if hours > 0 else cut - 1)


def test_entries_appended_without_a_signature_are_not_anchored(home: Home) -> None:
    """They continue the chain, and no daemon that is running would have left them so for an hour."""
    path = home.segments()[-1]
    lines = lines_of(path)
    entry = audit.read_head(lines[-1])
    assert entry is not None
    forge(home.state, lambda _, line: an_hour_off(line, -1), [KEY])
    lines = lines_of(home.segments()[-1])
    body = lines[-1].partition(b',"timestamp"')
    more = b'{"prev":"%b","index":%d,"timestamp"%b' % (
        hashlib.sha256(lines[-1]).hexdigest().encode(), entry.index + 1, body[2],
    )  # fmt: skip
    write_lines(path, [*lines, more])
    for running in (contextlib.nullcontext(), StateLock(home.state / "lock")):
        with running:
            found = verdict(home, key=VKEY)
        assert (found.exit_status, found.findings) == (UNANCHORED, [])
        assert f"entry {entry.index + 1:,} is not anchored: behind every checkpoint" in found.notes[0]
        assert found.verdict.endswith(f"anchored outside only up to entry {entry.index:,} of {entry.index + 1:,}")
        assert row(found, "insertion") == UP_TO
