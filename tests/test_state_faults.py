"""A state directory that is not what the daemon left: it recovers what a crash explains, and refuses the rest.

Also what changes between a crash and the restart: the rules, the engine, the policy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from rigs import daemon
from rigs.daemon import Following, make_settings, make_stream, none_of
from rigs.tmpfs import quick_directory
from tidewaiter.core import audit
from tidewaiter.core.engine import Engine
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_DURABILITY, EXIT_HALTED, EXIT_INTEGRITY, EXIT_USAGE
from tidewaiter.core.scenarios.state import RuleState
from tidewaiter.edges.durable import Disk
from tidewaiter.shell import governing as governing_module
from tidewaiter.shell import replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidewaiter.shell.settings import Settings

EVENTS = 400


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A quick directory with a stream and what an undisturbed run makes of it."""
    with quick_directory() as path:
        make_stream(path / "in" / "events.jsonl", EVENTS)
        daemon.succeed(settings_for(path, "whole"))
        half(path)
        yield path


def settings_for(place: Path, name: str, **changes: Any) -> Settings:
    """Return settings for a run of some twenty batches in the state directory `name`."""
    return make_settings(place / "in" / "events.jsonl", place / name, **{"batch_bytes": 5000, **changes})


def half(place: Path) -> None:
    """Make `half`: two runs over the first parts of the stream, so with two snapshots; half of the stream is left."""
    stream = place / "in" / "events.jsonl"
    lines = stream.read_bytes().splitlines(keepends=True)
    for part in (len(lines) // 4, len(lines) // 2):
        stream.write_bytes(b"".join(lines[:part]))
        daemon.succeed(settings_for(place, "half"))
    # killed in the middle of what comes next: without a snapshot
    stream.write_bytes(b"".join(lines[: len(lines) * 3 // 4]))
    shutil.copytree(place / "half", place / "keep")
    daemon.succeed(settings_for(place, "half"))
    for snapshot in (place / "half" / "snapshots").iterdir():
        snapshot.unlink()
    for snapshot in (place / "keep" / "snapshots").iterdir():
        shutil.copy(snapshot, place / "half" / "snapshots")
    shutil.rmtree(place / "keep")
    stream.write_bytes(b"".join(lines))


@pytest.fixture
def state(place: Path) -> Iterator[Path]:
    """A state directory behind three quarters of the stream, with snapshots at one quarter and one half."""
    target = shutil.copytree(place / "half", place / "state")
    yield target
    shutil.rmtree(target)


def assert_goes_on(place: Path, state: Path, **changes: Any) -> None:
    """Assert that a start goes on to the end, with the flags of the undisturbed run."""
    ended = daemon.run(settings_for(place, state.name, **changes))
    assert ended.status == EXIT_CLEAN, ended
    daemon.assert_same(state, place / "whole")


def assert_refused(place: Path, state: Path, *words: str) -> str:
    """Assert that a start is refused with exit 4 and these words, and changes neither audit log nor projections."""

    def contents() -> dict[str, bytes]:
        paths = [*state.glob("audit/*.jsonl"), *state.glob("*.jsonl")]
        return {path.name: path.read_bytes() for path in paths if path.name != "lineage_graph.jsonl"}

    before = contents()
    messages = []
    for _ in range(2):
        ended = daemon.run(settings_for(place, state.name))
        assert ended.status == EXIT_INTEGRITY, ended
        for word in words:
            assert word in ended.message, ended.message
        messages.append(ended.message)
    after = contents()
    for name, content in before.items():
        assert after[name].startswith(content), f"{name} was changed"
        added = after[name][len(content) :]
        assert not added or {json.loads(line)["action"] for line in added.splitlines()} <= {"run.started", "run.ended"}
    return messages[0]


def last_segment(state: Path) -> Path:
    """Return the open audit segment."""
    return max((state / "audit").glob("audit-*.jsonl"))


def last_batch(state: Path) -> tuple[int, int]:
    """Return where the last batch begins and ends in the audit segment; everything behind it is cut off.

    The tree goes with it: a checkpoint that covers a batch is written when the batch is durable, and not cut any more.
    """
    shutil.rmtree(state / "tlog")
    path = last_segment(state)
    lines = path.read_bytes().splitlines(keepends=True)
    actions = [json.loads(line)["action"] for line in lines]
    end = max(at for at, action in enumerate(actions) if action == "batch.committed") + 1
    begin = end - 1
    while actions[begin - 1] in {"flag.emitted", "event.rejected"}:
        begin -= 1
    path.write_bytes(b"".join(lines[:end]))
    return sum(map(len, lines[:begin])), sum(map(len, lines[:end]))


def cut_last_batch_from_projections(state: Path) -> None:
    """Bring checkpoint and projections to where they are when the daemon dies in the last batch's audit write."""
    commits = daemon.entries(state, "batch.committed")
    for name in ("flags", "rejections"):
        mark = commits[-2]["projections"].get(name, {"length": 0})
        path = state / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[: mark["length"]])
    (state / "checkpoint.json").unlink()


# -- torn and cut ------------------------------------------------------------------------------------------------------


def test_audit_torn_at_every_byte_of_its_last_batch(place: Path, state: Path) -> None:
    """Whatever part of the last batch is there, it is cut and kept aside, or adopted whole; the end is the same."""
    begin, end = last_batch(state)
    cut_last_batch_from_projections(state)
    whole = last_segment(state).read_bytes()
    lines = whole[begin:end].count(b"\n")
    assert lines > 2
    step = 97
    cuts = sorted({*range(begin, end, step), *range(end - 5, end + 1), begin + 1})
    template = shutil.copytree(state, place / "template")
    problems: list[str] = []
    for cut in cuts:
        shutil.rmtree(state)
        shutil.copytree(template, state)
        last_segment(state).write_bytes(whole[:cut])
        try:
            assert_goes_on(place, state)
            torn = list((state / "audit" / "torn").glob("*.torn"))
            notes = daemon.entries(state, "audit.tail_cut")
            if begin < cut < end:
                assert [path.read_bytes() for path in torn] == [whole[begin:cut]]
                assert [(note["offset"], note["length"]) for note in notes] == [(begin, cut - begin)]
            else:
                assert (torn, notes) == ([], [])
        except AssertionError as error:
            problems.append(f"cut at {cut} of {begin}-{end}: {error!s:.500}")
    shutil.rmtree(template)
    none_of(problems)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_audit_torn_at_really_every_byte(place: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each single byte of the last batch, one after the other."""
    begin, end = last_batch(state)
    cut_last_batch_from_projections(state)
    whole = last_segment(state).read_bytes()
    template = shutil.copytree(state, place / "template")
    for cut in range(begin, end + 1):
        shutil.rmtree(state)
        shutil.copytree(template, state)
        last_segment(state).write_bytes(whole[:cut])
        assert_goes_on(place, state)
    shutil.rmtree(template)


def test_entries_of_a_batch_without_its_commit_do_not_count(place: Path, state: Path) -> None:
    """All flags and rejections of a batch are there, whole and chained, but not its batch.committed: not adopted."""
    last_batch(state)
    cut_last_batch_from_projections(state)
    path = last_segment(state)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert_goes_on(place, state)
    assert len(daemon.entries(state, "audit.tail_cut")) == 1


@pytest.mark.parametrize("garbage", [b"\0" * 3000, b"{}\n", b"\n", b'{"prev":"', b"\xff" * 10])
def test_garbage_behind_the_audit_log_is_cut(place: Path, state: Path, garbage: bytes) -> None:
    """What a power loss leaves behind the end, zeros above all, is cut and kept aside."""
    path = last_segment(state)
    path.write_bytes(path.read_bytes() + garbage)
    assert_goes_on(place, state)
    assert [kept.read_bytes() for kept in (state / "audit" / "torn").iterdir()] == [garbage]


# -- tampering ---------------------------------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    """Change one bit of the file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "where", ["before the older snapshot", "before the newer snapshot", "behind both", "at the end"]
)
def test_flipped_bit_in_the_audit_log_is_refused(place: Path, state: Path, where: str) -> None:
    """One bit anywhere before the last batch: exit 4 with file and offset of the entry."""
    path = last_segment(state)
    lines = path.read_bytes().splitlines(keepends=True)
    marks = sorted(int(found.name[9:29]) for found in (state / "snapshots").iterdir())
    at = {
        "before the older snapshot": marks[0] // 2, "before the newer snapshot": (marks[0] + marks[1]) // 2,
        "behind both": (marks[1] + len(lines)) // 2, "at the end": len(lines) - 1,
    }[where]  # fmt: skip
    start = sum(map(len, lines[:at]))
    flip(path, start + len(lines[at]) // 2)
    message = assert_refused(place, state, path.name)
    offsets = [start, start + len(lines[at])]  # a broken chain shows at the next entry
    assert any(str(offset) in message for offset in offsets), (offsets, message)


def test_newest_snapshot_corrupt_falls_back(place: Path, state: Path) -> None:
    """The older snapshot serves, the replay is longer, and the damaged one is kept under another name, and recorded."""
    newest = max((state / "snapshots").iterdir())
    flip(newest, newest.stat().st_size // 2)
    assert_goes_on(place, state)
    assert newest.with_suffix(".damaged").exists()
    assert [entry["file"] for entry in daemon.entries(state, "snapshot.damaged")] == [newest.name]


def test_snapshot_cut_short_falls_back(place: Path, state: Path) -> None:
    """A snapshot of zeros or without its end is damaged as well."""
    older, newest = sorted((state / "snapshots").iterdir())
    newest.write_bytes(bytes(newest.stat().st_size))
    older.write_bytes(older.read_bytes()[:-1])
    assert_goes_on(place, state)


def test_all_snapshots_missing_replays_from_the_beginning(place: Path, state: Path) -> None:
    """Without any snapshot everything is derived again from the input."""
    for path in (state / "snapshots").iterdir():
        path.unlink()
    assert_goes_on(place, state)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not JSON\n"])
def test_checkpoint_missing_or_damaged_is_rebuilt(place: Path, state: Path, content: bytes | None) -> None:
    """checkpoint.json is a convenience: the audit log has it all."""
    path = state / "checkpoint.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert_goes_on(place, state)
    assert daemon.committed(state) == (place / "in" / "events.jsonl").stat().st_size


def test_checkpoint_ahead_of_the_audit_log_is_refused(place: Path, state: Path) -> None:
    """An audit log that ends before the checkpoint has lost committed entries."""
    path = last_segment(state)
    lines = path.read_bytes().splitlines(keepends=True)
    ends = [at for at, line in enumerate(lines, 1) if json.loads(line)["action"] == "batch.committed"]
    path.write_bytes(b"".join(lines[: ends[-2]]))
    assert_refused(place, state, "checkpoint.json", "ahead of the audit log")


def test_audit_log_that_ends_inside_what_the_checkpoint_covers_is_refused(place: Path, state: Path) -> None:
    """A torn end before the checkpoint's place is no interrupted write."""
    path = last_segment(state)
    path.write_bytes(path.read_bytes()[:-3000])
    assert_refused(place, state, path.name, "not the rest of an interrupted write")


def test_audit_log_missing_is_refused(place: Path, state: Path) -> None:
    """Flags without an audit log are not taken for a new state directory."""
    shutil.rmtree(state / "audit")
    assert_refused(place, state, "no audit log")


@pytest.mark.parametrize("name", ["flags", "rejections"])
@pytest.mark.parametrize("how", ["edited", "shortened", "lengthened", "line removed", "emptied", "removed"])
def test_projection_changed_by_hand_is_refused(place: Path, state: Path, name: str, how: str) -> None:
    """Flags and rejections must be what the audit log says; the message names the file."""
    path = state / f"{name}.jsonl"
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    middle = len(lines) * 3 // 4
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes({
            "edited": data.replace(b'"', b"'", 1), "shortened": data[: len(data) // 2], "lengthened": data + b"x\n",
            "line removed": b"".join(lines[:middle] + lines[middle + 1 :]), "emptied": b"",
        }[how])  # fmt: skip
    assert_refused(place, state, f"{name}.jsonl")


@pytest.mark.parametrize("torn", [b"", b'{"prev":"'])
def test_audit_log_cut_behind_a_snapshot_is_refused_without_a_checkpoint(place: Path, state: Path, torn: bytes) -> None:
    """A snapshot is written when its place in the audit log is durable: an end before it is no crash's doing."""
    older, newest = sorted(int(found.name[9:29]) for found in (state / "snapshots").iterdir())
    path = last_segment(state)
    lines = path.read_bytes().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines]
    (batch, *_) = [entry for entry in entries[older:newest] if entry["action"] == "batch.committed"]
    path.write_bytes(b"".join(lines[: batch["index"] + 1]) + torn)
    for name in ("flags", "rejections"):
        projection = state / f"{name}.jsonl"
        projection.write_bytes(projection.read_bytes()[: batch["projections"][name]["length"]])
    (state / "checkpoint.json").unlink()
    assert_refused(place, state, path.name, f"a snapshot covers it up to entry {newest}")


def test_audit_log_chained_anew_behind_a_snapshot_is_refused_without_a_checkpoint(place: Path, state: Path) -> None:
    """An entry is changed and every `prev` behind it made to fit: the newer snapshot knows another chain head."""
    older, newest = sorted(int(found.name[9:29]) for found in (state / "snapshots").iterdir())
    path = last_segment(state)
    lines = path.read_bytes().splitlines(keepends=True)
    at = next(at for at in range(older + 2, newest) if b'"action":"batch.committed"' in lines[at])
    lines[at] = lines[at].replace(b'"actor":"engine"', b'"actor":"nobody"')
    assert b"nobody" in lines[at]
    for after in range(at + 1, len(lines)):
        head = hashlib.sha256(lines[after - 1]).hexdigest().encode()
        lines[after] = lines[after].replace(json.loads(lines[after])["prev"].encode(), head, 1)
    path.write_bytes(b"".join(lines))
    (state / "checkpoint.json").unlink()
    assert_refused(place, state, path.name, f"does not agree with a snapshot at entry {newest}")


# -- what governs changes ----------------------------------------------------------------------------------------------


def changed_rules(place: Path, old: str, new: str) -> Path:
    """Return a copy of the shipped rules with one change."""
    text = daemon.RULES.read_text(encoding="utf-8")
    assert old in text
    path = place / "changed.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def assert_flags_before_unchanged(place: Path, state: Path, before: bytes) -> None:
    """Assert that flags up to the old end are those of the undisturbed run, and that there are others behind them."""
    after = (state / "flags.jsonl").read_bytes()
    whole = (place / "whole" / "flags.jsonl").read_bytes()
    assert after.startswith(before)
    assert whole.startswith(before)
    assert after != whole
    daemon.assert_consistent(state)


def test_rules_changed_between_crash_and_restart(place: Path, state: Path) -> None:
    """The replay goes by the recorded rules; the new ones take force behind it, as a decision with their digest."""
    before = (state / "flags.jsonl").read_bytes()
    rules = changed_rules(place, 'limit = "500.00"', 'limit = "100.00"')
    daemon.succeed(settings_for(place, "state", rules=rules))
    assert_flags_before_unchanged(place, state, before)
    decisions = daemon.entries(state, "decision.recorded")
    assert [entry["decision"] for entry in decisions] == ["governing", "governing"]
    assert decisions[0]["decisions"]["ruleset"] != decisions[1]["decisions"]["ruleset"]
    assert "metric deposits" not in decisions[1]["started_empty"]
    # and back again after a crash right there: the state of each time is derived again
    for path in (state / "snapshots").iterdir():
        path.unlink()
    daemon.succeed(settings_for(place, "state"))


def test_rules_changed_there_and_back_without_an_event(place: Path, state: Path) -> None:
    """New metrics begin empty after a change; a replay without snapshots finds the same, though nothing was read."""
    other = changed_rules(place, 'window = "10s"', 'window = "20s"')
    stream = place / "in" / "events.jsonl"
    lines = stream.read_bytes().splitlines(keepends=True)
    try:
        stream.write_bytes(b"".join(lines[: len(lines) * 3 // 4]))
        daemon.succeed(settings_for(place, "state", rules=other))
        daemon.succeed(settings_for(place, "state"))
        stream.write_bytes(b"".join(lines[: len(lines) * 7 // 8]))
        daemon.succeed(settings_for(place, "state"))
        for path in (state / "snapshots").iterdir():
            path.unlink()
    finally:
        stream.write_bytes(b"".join(lines))
    daemon.succeed(settings_for(place, "state"))
    daemon.assert_consistent(state)


def test_policy_changed_between_crash_and_restart(place: Path, state: Path) -> None:
    """The replay goes by the recorded policy; with another duplicate horizon ids are still known."""
    daemon.succeed(settings_for(place, "state", order="admit", duplicate_horizon=3_600_000_000))
    for path in (state / "snapshots").iterdir():
        path.unlink()
    ended = daemon.run(settings_for(place, "state", order="admit", duplicate_horizon=3_600_000_000))
    assert ended.status == EXIT_CLEAN, ended
    counts = daemon.entries(state, "batch.committed")[-1]["totals"]
    assert counts["admitted"] > 0
    assert counts["order"] > 0
    daemon.assert_consistent(state)


def test_archived_rules_missing_is_refused_with_the_ways_out(place: Path, state: Path) -> None:
    """Without the texts of the decision in force there is no replay."""
    entry = daemon.entries(state, "decision.recorded")[0]
    (state / "rules" / entry["decisions"]["ruleset"]).unlink()
    rules = changed_rules(place, 'limit = "500.00"', 'limit = "100.00"')
    ended = daemon.run(settings_for(place, "state", rules=rules))
    assert ended.status == EXIT_INTEGRITY, ended
    assert "--accept-state-loss" in ended.message


@pytest.fixture
def engine_2(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes this another engine version."""

    def change() -> None:
        name = "tidewaiter-engine/next"
        monkeypatch.setattr(governing_module, "ENGINE", name)
        monkeypatch.setattr(governing_module, "ENGINE_DIGEST", governing_module.archive_digest(name.encode()))

    return change


def test_new_engine_with_the_same_results_goes_on(place: Path, state: Path, engine_2: Callable[[], None]) -> None:
    """The replay under another engine version gives what was committed: it takes force as a recorded decision."""
    engine_2()
    assert_goes_on(place, state)
    decisions = daemon.entries(state, "decision.recorded")
    assert len(decisions) == 2
    assert decisions[0]["decisions"]["engine"] != decisions[1]["decisions"]["engine"]


def make_engine_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this engine flag differently, as a changed version would."""
    original = Engine._flags

    def flags(engine: Engine, *of: Any) -> list[str]:
        return [record.replace('"high"', '"top"') for record in original(engine, *of)]

    monkeypatch.setattr(Engine, "_flags", flags)


def test_new_engine_with_other_results_is_refused_until_accepted(
    place: Path, state: Path, engine_2: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replay differs: exit 4 naming the ways out; --accept-state-loss goes on, and is recorded with who and why."""
    before = (state / "flags.jsonl").read_bytes()
    engine_2()
    make_engine_differ(monkeypatch)
    assert_refused(place, state, "gives other flags", "--accept-state-loss", "run the version that wrote the state")
    ended = daemon.run(
        settings_for(place, "state"), accept_state_loss=True, reason="new version reviewed", actor="tester"
    )
    assert ended.status == EXIT_CLEAN, ended
    assert_flags_before_unchanged(place, state, before)
    decision = daemon.entries(state, "decision.recorded")[-1]
    assert (decision["decision"], decision["actor"], decision["reason"]) == (
        "state_loss", "tester", "new version reviewed",
    )  # fmt: skip
    # the next start does not need what is gone
    assert daemon.run(settings_for(place, "state")).status == EXIT_CLEAN
    counted = daemon.entries(state, "batch.committed")[-1]["totals"]
    assert counted["events_read"] == len((place / "in" / "events.jsonl").read_bytes().splitlines())


@pytest.mark.parametrize("at_once", [1, 4_000, 12_000, 1 << 20])
def test_replay_does_not_depend_on_how_much_is_evaluated_at_once(
    place: Path, state: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Batches are put together up to a bound, a batch beyond it is cut, and what comes of them is the same."""
    for path in (state / "snapshots").iterdir():
        path.unlink()
    seen: list[int] = []
    original = replay._replay
    monkeypatch.setattr(replay, "CHUNK_BYTES", at_once)

    async def counted(engine: Engine, stretch: Any, chunks: Any) -> Any:
        seen.append(len(stretch.batches))
        return await original(engine, stretch, chunks)

    monkeypatch.setattr(replay, "_replay", counted)
    batches = [entry["first"] for entry in daemon.entries(state, "batch.committed") if entry["cause"] == "batch"]
    assert_goes_on(place, state)
    assert sum(seen) == len(batches)
    # a run of the fixture read on where the one before had ended: to the next start nothing tells them apart
    assert max(seen) == {1: 1, 4_000: 1, 12_000: 2, 1 << 20: len(batches)}[at_once]


def test_replay_forgets_idle_keys_as_it_goes(place: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs a sweep to be forgotten must not pile up over a whole stream."""
    for path in (state / "snapshots").iterdir():
        path.unlink()
    swept: list[int] = []

    def sweep(_state: RuleState, _effective: object, budget: int) -> int:
        swept.append(budget)
        return 0

    original = replay._replay

    async def watched(engine: Engine, stretch: Any, chunks: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(RuleState, "sweep", sweep)
            return await original(engine, stretch, chunks)

    monkeypatch.setattr(replay, "_replay", watched)
    assert_goes_on(place, state)
    assert swept
    assert min(swept) > 0


@pytest.mark.parametrize("batch_bytes", [300, 5000])
@pytest.mark.parametrize("how", ["changed", "one less", "one more", "one more at the end"])
def test_replay_that_differs_names_the_first_batch(
    place: Path, monkeypatch: pytest.MonkeyPatch, how: str, batch_bytes: int
) -> None:
    """One flag of the whole replay is another one, is missing or is there twice: its batch is found among all.

    One more behind the last of them is found as well.
    """
    state = place / "differs"
    dead = DeadDisk(audit.RUN_ENDED)
    daemon.run(settings_for(place, state.name, batch_bytes=batch_bytes), disk=dead)
    for path in (state / "snapshots").iterdir():
        path.unlink()
    flagged = [entry for entry in daemon.entries(state, "batch.committed") if entry["counts"]["flags"]]
    chosen = (state / "flags.jsonl").read_text().splitlines()[-1 if how == "one more at the end" else 20]
    original = Engine._flags

    def flags(engine: Engine, hits: list[Any], *of: Any) -> list[str]:
        found = original(engine, hits, *of)
        for at, record in enumerate(found):
            if record == chosen:
                put = {"changed": [record.replace("1", "2")], "one less": []}.get(how, [record] * 2)
                found[at : at + 1], hits[at : at + 1] = put, [hits[at]] * len(put)
                break
        return found

    monkeypatch.setattr(Engine, "_flags", flags)
    wrong = next(entry for entry in flagged if entry["totals"]["flags"] > 20)
    if how == "one more" and wrong["totals"]["flags"] == 21:  # the one behind it begins with what is too much
        wrong = flagged[flagged.index(wrong) + 1]
    found = assert_refused(place, state, "gives other flags")
    assert f"up to byte {wrong['offset']} gives" in found or how == "one more at the end"
    shutil.rmtree(state)


def test_crash_after_an_accepted_state_loss(
    place: Path, state: Path, engine_2: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the snapshot behind a state loss is damaged, the recorded decision still explains the flags behind it."""
    engine_2()
    make_engine_differ(monkeypatch)
    accepted: dict[str, Any] = {"accept_state_loss": True, "reason": "reviewed", "actor": "tester"}
    assert daemon.run(settings_for(place, "state"), **accepted).status == EXIT_CLEAN
    for path in (state / "snapshots").iterdir():
        path.unlink()
    ended = daemon.run(settings_for(place, "state"))
    assert ended.status == EXIT_CLEAN, ended


class DeadDisk(Disk):
    """A disk on which no entry can be written once `action` is about to be: what is left is as after a crash."""

    def __init__(self, action: str) -> None:
        super().__init__()
        self.dead = False
        self._action = f'"action":"{action}"'.encode()

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        self.dead = self.dead or self._action in bytes(data)
        if self.dead:
            raise OSError(errno.EIO, "dead")
        return super()._pwrite(fd, data, offset)


def test_snapshot_from_before_the_first_decision_gives_no_memory(place: Path) -> None:
    """Killed between the first snapshot and the first decision, then started with other rules: that one serves none."""
    state = place / "undecided"
    ended = daemon.run(settings_for(place, "undecided"), DeadDisk("decision.recorded"))
    assert ended.status == EXIT_DURABILITY, ended
    undecided = next((state / "snapshots").iterdir())
    kept = undecided.read_bytes()
    rules = changed_rules(place, 'window = "10s"', 'window = "20s"')
    daemon.succeed(settings_for(place, "undecided", rules=rules))
    flags = (state / "flags.jsonl").read_bytes()
    for path in (state / "snapshots").iterdir():  # as after a kill, and with the newer one damaged
        path.unlink()
    undecided.write_bytes(kept)
    daemon.succeed(settings_for(place, "undecided", rules=rules))
    assert (state / "flags.jsonl").read_bytes() == flags
    daemon.assert_consistent(state)


def test_snapshot_without_a_memory_the_rules_need_is_refused_with_the_ways_out(
    place: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that does not fit the rules in force is no traceback."""
    original = Engine.load_rules

    def load_rules(engine: Engine, rules: RuleState) -> None:
        rules.cells.popitem()
        original(engine, rules)

    monkeypatch.setattr(Engine, "load_rules", load_rules)
    ended = daemon.run(settings_for(place, "state"))
    assert ended.status == EXIT_INTEGRITY, ended
    assert "lacks memory" in ended.message
    assert "--accept-state-loss" in ended.message


def test_crash_between_the_rejected_tail_and_the_closing_of_its_segment(tmp_path: Path) -> None:
    """The segment had ended: the rest of the line, written later, is late bytes, as without the crash."""
    live = make_stream(tmp_path / "in" / "events.jsonl", 60)
    rotated = live.with_name("events.jsonl.1")
    lines = live.read_bytes().splitlines(keepends=True)
    rotated.write_bytes(b"".join(lines[:30]) + lines[30][:40])
    live.write_bytes(b"".join(lines[31:]))
    daemon.succeed(make_settings(live, tmp_path / "whole"))
    settings = make_settings(live, tmp_path / "state")
    ended = daemon.run(settings, DeadDisk("segment.closed"))
    assert ended.status == EXIT_DURABILITY, ended
    assert daemon.entries(tmp_path / "state")[-1]["cause"] == "unterminated"
    shutil.copytree(tmp_path / "state", tmp_path / "undisturbed")
    with rotated.open("ab") as file:
        file.write(lines[30][40:])
    halted = daemon.run(settings)
    assert (halted.status, "now has" in halted.message) == (EXIT_HALTED, True), halted
    assert len(daemon.entries(tmp_path / "state", "event.rejected")) == len([
        record for record in daemon.entries(tmp_path / "whole", "event.rejected")
        if record["record"]["offset"] <= rotated.stat().st_size - len(lines[30][40:])
    ])  # fmt: skip
    rotated.write_bytes(b"".join(lines[:30]) + lines[30][:40])
    daemon.succeed(make_settings(live, tmp_path / "undisturbed"))
    daemon.assert_same(tmp_path / "undisturbed", tmp_path / "whole")
    members = ("segment", "start", "length", "tail_len", "tail_sha256")
    closed = [
        [[entry[name] for name in members] for entry in daemon.entries(tmp_path / state, "segment.closed")]
        for state in ("whole", "undisturbed")
    ]
    assert closed[0] == closed[1]


def test_input_gone_is_refused_with_the_ways_out(place: Path, state: Path) -> None:
    """Where the stream before the commit point is gone, nothing can be derived again."""
    aside = place / "aside"
    (place / "in").rename(aside)
    try:
        other = make_stream(place / "in" / "events.jsonl", 500, seed=8)
        ended = daemon.run(make_settings(other, state))
        assert ended.status != EXIT_CLEAN, ended
    finally:
        shutil.rmtree(place / "in")
        aside.rename(place / "in")


async def test_second_daemon_on_one_state_directory(place: Path) -> None:
    """The second one exits with 2, says which process holds the directory, and touches nothing."""
    settings = settings_for(place, "shared")
    async with Following(settings) as following:
        await following.reaches(settings.stream.path.stat().st_size)
        ended = daemon.run(settings)
        assert ended.status == EXIT_USAGE, ended
        assert "in use by" in ended.message
    daemon.assert_same(place / "shared", place / "whole")
