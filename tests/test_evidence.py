"""The daemon's evidence: when it signs, with which keys, what it hashes into the log, and what it refuses to sign."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from rigs import daemon
from rigs.faulty_disk import Fault, FaultyDisk
from rigs.tree import assert_prefixes, assert_whole, held
from rigs.witness import Log, Place, Running
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_DURABILITY, EXIT_INTEGRITY, EXIT_USAGE, IntegrityRefusal
from tidewaiter.core.tlog.notes import parse_note, parse_notes, parse_vkey, signing_key, verified
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.journal import Journal
from tidewaiter.edges.key_files import read_key_file
from tidewaiter.edges.recovery import recover
from tidewaiter.edges.tree_follower import TreeFollower
from tidewaiter.shell import evidence, keys
from tidewaiter.shell.log_names import utc_now
from tidewaiter.shell.replay_output import replay_settings
from tidewaiter.shell.settings import EvidencePart, Overrides

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.shell.settings import Settings

ORIGIN = "bank.example/transfers"


def write_key(path: Path, name: str = ORIGIN, seed: bytes = bytes(32)) -> Path:
    """Write a key file, replacing one that is there."""
    path.write_text(f"{signing_key(name, seed).encode()}\n", encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A small stream, and a key; nothing has run yet."""
    stream = daemon.make_stream(tmp_path / "in" / "events.jsonl", 200)
    key = write_key(tmp_path / "log.key")
    return replace(daemon.make_settings(stream, tmp_path / "state"), evidence=EvidencePart(key=key))


def having(settings: Settings, **part: Any) -> Settings:
    """Return the settings with another [evidence]."""
    return replace(settings, evidence=replace(settings.evidence, **part))


def everything(state: Path) -> dict[str, bytes]:
    """Return the content of every file, but for the application's log and the lock."""
    kept = (path for path in sorted(state.rglob("*")) if path.is_file() and path.parent.name != "log")
    return {str(path.relative_to(state)): path.read_bytes() for path in kept if path.name != "lock"}


def checkpoints(state: Path) -> list[Any]:
    """Return every signed checkpoint."""
    return [note for note, _ in parse_notes((state / "tlog" / "checkpoints").read_bytes())]


# -- signing -----------------------------------------------------------------------------------------------------------


def test_a_run_ends_under_a_signed_checkpoint_of_every_entry(settings: Settings) -> None:
    """After a clean stop nothing is outside the tree, the run's own end included; the next run goes on from there."""
    for _ in range(3):
        daemon.succeed(settings)
        assert_whole(settings.state.dir)
    note = parse_note((settings.state.dir / "tlog" / "checkpoint").read_bytes())
    assert len(verified(note, [signing_key(ORIGIN, bytes(32)).verifier])) == 1
    introduced = daemon.entries(settings.state.dir, "key.recorded")
    assert [entry["decision"] for entry in introduced] == ["introduced"]


async def test_a_live_log_is_signed_within_a_second_and_at_batch_ends_only(settings: Settings) -> None:
    """While it runs, checkpoints follow the commits, and each ends with a batch or a standalone entry."""
    state = settings.state.dir
    stream = settings.stream.path
    lines = stream.read_bytes().splitlines(keepends=True)
    stream.write_bytes(b"".join(lines[:50]))
    async with daemon.Following(settings) as running:
        for upto in (50, 120, 200):
            stream.write_bytes(b"".join(lines[:upto]))
            await running.reaches(len(b"".join(lines[:upto])))
            journal = running.supervisor.journal
            assert journal is not None
            index = journal.ledger.index
            await running.until(lambda: held(state) and held(state)[-1].size >= index, "a checkpoint")  # noqa: B023
    records = {"flag.emitted", "event.rejected"}
    entries = daemon.entries(state)
    for one in held(state):
        assert entries[one.size - 1]["action"] not in records, "signed inside a batch"
    times = [entry["timestamp"] for entry in entries]
    assert times == sorted(times)


def test_the_origin_is_fixed_by_entry_zero_and_repeated_in_every_segment(settings: Settings) -> None:
    """The log's name does not change with the settings, and stands wherever a segment begins."""
    small = replace(settings, state=replace(settings.state, segment_bytes=8 << 10))
    small = replace(small, batch_bytes=8 << 10)
    daemon.succeed(small)
    opened = daemon.entries(settings.state.dir, "audit.segment_opened")
    assert len(opened) > 2
    assert {entry["origin"] for entry in opened} == {ORIGIN}
    assert opened[0]["index"] == 0


def test_a_log_without_key_has_a_name_of_its_own_and_is_not_signed(settings: Settings) -> None:
    """Two logs of the same stream on the same machine are called differently; neither claims a signature."""
    names = []
    for number in range(2):
        state = settings.state.dir.with_name(f"unsigned{number}")
        daemon.succeed(replace(having(settings, key=None), state=replace(settings.state, dir=state)))
        names.append(daemon.entries(state, "audit.segment_opened")[0]["origin"])
        assert_whole(state)
        assert not (state / "tlog" / "checkpoints").exists()
        assert daemon.entries(state, "key.recorded") == []
    assert names[0] != names[1]
    assert all("/events/" in name for name in names)


def test_a_key_may_come_later_if_it_bears_the_log_s_name(settings: Settings, tmp_path: Path) -> None:
    """A log that began unsigned is signed from the first start with a key on, from its first entry on."""
    daemon.succeed(having(settings, key=None, origin="bank.example/late"))
    refused = daemon.run(settings)
    assert (refused.status, "bank.example/late" in refused.message) == (EXIT_USAGE, True), refused
    daemon.succeed(having(settings, key=write_key(tmp_path / "late.key", "bank.example/late")))
    assert_whole(settings.state.dir)
    assert len(checkpoints(settings.state.dir)) == 1


@pytest.mark.parametrize("put", ["nothing", "another"])
def test_a_signed_log_does_not_go_on_without_its_key(settings: Settings, tmp_path: Path, put: str) -> None:
    """A key that was taken away or exchanged is refused before anything is written."""
    daemon.succeed(settings)
    before = everything(settings.state.dir)
    key = write_key(tmp_path / "other.key", seed=bytes(31) + b"\1") if put == "another" else None
    ended = daemon.run(having(settings, key=key))
    assert (ended.status, "is not there" in ended.message) == (EXIT_USAGE, True), ended
    assert everything(settings.state.dir) == before


async def test_a_rotation_is_signed_by_both_keys_at_once(settings: Settings) -> None:
    """The first checkpoint that covers the entry of a rotation carries the old key's signature and the new one's."""
    state = settings.state.dir
    assert settings.evidence.key is not None
    async with daemon.Following(settings) as running:
        await running.reaches(settings.stream.path.stat().st_size)
        await running.until((state / "tlog" / "checkpoints").exists, "a checkpoint")
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(keys.rotate, settings, None, dt.timedelta(days=7), "once a year", "J. Doe")
            await running.until(asked.done, "the answer")
            assert "takes over" in asked.result()
        rotated = daemon.entries(state, "key.recorded")[-1]
        await running.until(lambda: held(state)[-1].size > rotated["index"], "the checkpoint behind it")
    first = next(note for note in checkpoints(state) if int(note.text.split(b"\n")[1]) > rotated["index"])
    both = [key.verifier for key in read_key_file(settings.evidence.key)]
    assert [str(key) for key in verified(first, both)] == [str(key) for key in both]
    assert {str(parse_vkey(rotated["vkey"])), rotated["replaces"]} == {str(key) for key in both}
    assert rotated["os_user"].startswith("0 (")


# -- what is hashed into the log ---------------------------------------------------------------------------------------


def documents(state: Path) -> dict[str, Any]:
    """Return the newest digest that the log has of each document."""
    found = {}
    for entry in daemon.entries(state):
        for document in [*entry.get("documents", []), *([entry["document"]] if "document" in entry else [])]:
            found[document["file"]] = document
    return found


def test_run_logs_report_and_snapshots_are_hashed_into_the_log(settings: Settings) -> None:
    """Each of these files is, byte for byte, what an entry says of it."""
    state = settings.state.dir
    daemon.succeed(settings)
    found = documents(state)
    files = [*(state / "runs").iterdir(), *(state / "reports").iterdir(), *(state / "snapshots").iterdir()]
    assert len(files) >= 3
    for path in files:
        data = path.read_bytes()
        assert found[str(path.relative_to(state))]["sha256"] == hashlib.sha256(data).hexdigest(), path
        assert found[str(path.relative_to(state))]["length"] == len(data)


def test_a_crashed_run_s_log_is_hashed_when_the_next_start_closes_it(settings: Settings) -> None:
    """Also where it died between its last word in the run log and the entry that ends the run."""
    state = settings.state.dir
    ended = daemon.run(settings, FaultyDisk([Fault("fsync", ".validation_report.json.tmp")]))
    assert ended.status == EXIT_DURABILITY, ended
    assert daemon.entries(state, "run.ended") == []
    daemon.succeed(settings)
    first, second = sorted((state / "runs").iterdir(), key=lambda path: json.loads(path.read_bytes())["started_at"])
    assert [json.loads(path.read_bytes())["status"] for path in (first, second)] == ["failed", "success"]
    for path in (first, second):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert documents(state)[str(path.relative_to(state))]["sha256"] == sha256


async def test_a_log_that_stands_still_gets_a_sign_of_life(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time without an entry there is one, and a checkpoint over it, so that silence cannot be filled in."""
    monkeypatch.setattr(evidence, "IDLE_SECONDS", 0.3)
    state = settings.state.dir
    async with daemon.Following(settings) as running:
        await running.until(lambda: len(daemon.entries(state, "audit.idle")) >= 2, "two signs of life")
        index = daemon.entries(state, "audit.idle")[0]["index"]
        await running.until(lambda: any(one.size > index for one in held(state)), "a checkpoint over the first")


async def test_a_log_that_stands_still_does_not_wake_the_tree_s_thread(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all is under a checkpoint nobody even looks; the next commit still gets its checkpoint."""
    monkeypatch.setattr(evidence, "PACE_SECONDS", 0.01)
    passes: list[int] = []
    looks: list[bool] = []
    advance, at_rest = evidence.Evidence._advance, TreeFollower.at_rest

    def counted(self: evidence.Evidence, stopped: Any) -> None:
        passes.append(1)
        advance(self, stopped)

    def seen(self: TreeFollower, mark: Any) -> bool:
        looks.append(at_rest(self, mark))
        return looks[-1]

    monkeypatch.setattr(evidence.Evidence, "_advance", counted)
    monkeypatch.setattr(TreeFollower, "at_rest", seen)
    state, stream = settings.state.dir, settings.stream.path
    whole = stream.read_bytes()
    half = b"".join(whole.splitlines(keepends=True)[:50])
    stream.write_bytes(half)
    async with daemon.Following(settings) as running:
        for upto in (half, whole):
            stream.write_bytes(upto)
            await running.reaches(len(upto))
            journal = running.supervisor.journal
            assert journal is not None
            index = journal.ledger.index
            await running.until(lambda: held(state) and held(state)[-1].size >= index, "a checkpoint")  # noqa: B023
            await running.until(lambda: looks[-1], "a look that finds nothing to do")
            before, passed = len(looks), len(passes)
            await asyncio.sleep(0.2)  # twenty looks, if anybody looked
            assert len(looks) <= before + 2
            assert looks[-1]
            assert len(passes) == passed


# -- witnesses ---------------------------------------------------------------------------------------------------------


def witnessed(settings: Settings, place: Place, url: str) -> Settings:
    """Return the settings with this witness."""
    policy = place.root / "daemon.policy"
    policy.write_text(f"witness w1 {place.key.verifier} {url}\nquorum w1\n", encoding="utf-8")
    return having(settings, policy=policy)


def place_for(tmp_path: Path) -> Place:
    """Make a witness that knows the log's key."""
    log = Log(ORIGIN)
    log.key = signing_key(ORIGIN, bytes(32))
    return Place.make(tmp_path / "witness", [log])


def put_back(backup: Path, state: Path) -> None:
    """Put an older copy in the place of the state directory."""
    shutil.rmtree(state)
    shutil.copytree(backup, state)


def test_the_newest_checkpoint_is_cosigned_at_the_stop(settings: Settings, tmp_path: Path) -> None:
    """What a run leaves is witnessed to its last entry."""
    place = place_for(tmp_path)
    with Running(place) as running:
        asked = witnessed(settings, place, running.url)
        for _ in range(2):
            daemon.succeed(asked)
        assert running.stop() == EXIT_CLEAN
    note = parse_note((settings.state.dir / "tlog" / "witnessed").read_bytes())
    assert len(verified(note, [place.key.verifier])) == 1
    assert int(note.text.split(b"\n")[1]) == len(daemon.entries(settings.state.dir))


def test_a_log_behind_its_witness_is_refused_and_left_alone(settings: Settings, tmp_path: Path) -> None:
    """An older copy of the state directory does not start, and nothing in it is changed."""
    place = place_for(tmp_path)
    state = settings.state.dir
    with Running(place) as running:
        asked = witnessed(settings, place, running.url)
        daemon.succeed(asked)
        shutil.copytree(state, tmp_path / "backup")
        daemon.succeed(asked)
        put_back(tmp_path / "backup", state)
        before = everything(state)
        ended = daemon.run(asked)
        assert (ended.status, "rolled back or forked" in ended.message) == (EXIT_INTEGRITY, True), ended
        assert everything(state) == before


def test_a_fork_behind_the_witness_s_back_is_found_when_it_is_back(settings: Settings, tmp_path: Path) -> None:
    """A copy that went on differently while nobody could cosign it ends as soon as the witness sees it."""
    place = place_for(tmp_path)
    state = settings.state.dir
    with Running(place) as running:
        daemon.succeed(witnessed(settings, place, running.url))
        shutil.copytree(state, tmp_path / "backup")
        daemon.succeed(witnessed(settings, place, running.url))
        running.stop()
    put_back(tmp_path / "backup", state)
    for _ in range(3):
        daemon.succeed(having(settings, policy=None))
    with Running(place) as running:
        ended = daemon.run(witnessed(settings, place, running.url))
    assert (ended.status, "rolled back or forked" in ended.message) == (EXIT_INTEGRITY, True), ended
    assert_prefixes(state, held(tmp_path / "backup"))


def test_a_rolled_back_log_is_found_though_its_newest_checkpoint_is_not_signed(
    settings: Settings, tmp_path: Path
) -> None:
    """Striking out the signature of the newest checkpoint hides nothing: the last one that was signed is shown."""
    place = place_for(tmp_path)
    state = settings.state.dir
    with Running(place) as running:
        asked = witnessed(settings, place, running.url)
        daemon.succeed(asked)
        shutil.copytree(state, tmp_path / "backup")
        daemon.succeed(asked)
        put_back(tmp_path / "backup", state)
        newest = state / "tlog" / "checkpoint"
        newest.write_bytes(newest.read_bytes().partition(b"\n\n")[0] + b"\n\n")
        before = everything(state)
        ended = daemon.run(asked)
    assert (ended.status, "rolled back or forked" in ended.message) == (EXIT_INTEGRITY, True), ended
    assert everything(state) == before


# -- what is no part of the log ----------------------------------------------------------------------------------------


def test_a_replay_is_not_signed_and_bears_another_name(settings: Settings, tmp_path: Path) -> None:
    """Signed with the log's key, under its name, it would be a fork of the log."""
    config = daemon.write_config(
        tmp_path / "config", settings.stream.path, settings.state.dir, evidence='key = "log.key"'
    )  # fmt: skip
    write_key(config.with_name("log.key"))
    loaded = replay_settings([settings.stream.path], config, Overrides(state_dir=tmp_path / "out"))
    daemon.succeed(loaded)
    assert not (tmp_path / "out" / "tlog" / "checkpoints").exists()
    assert daemon.entries(tmp_path / "out", "audit.segment_opened")[0]["origin"] != ORIGIN
    assert daemon.entries(tmp_path / "out", "key.recorded") == []


def test_a_name_that_is_not_the_log_s_is_refused(settings: Settings) -> None:
    """A setting that cannot take force is said, not ignored."""
    daemon.succeed(settings)
    ended = daemon.run(having(settings, origin="bank.example/other"))
    assert (ended.status, "is called bank.example/transfers" in ended.message) == (EXIT_USAGE, True), ended


def test_what_recovery_cut_is_recorded_though_the_start_is_refused(settings: Settings) -> None:
    """The torn end of a crash is gone from the log with the first look at it, so the log says so at once."""
    state = settings.state.dir
    daemon.succeed(settings)
    last = max((state / "audit").glob("audit-*.jsonl"))
    with last.open("ab") as file:
        file.write(b'{"prev":"')
    assert daemon.run(having(settings, key=None)).status == EXIT_USAGE
    assert [entry["length"] for entry in daemon.entries(state, "audit.tail_cut")] == [9]
    daemon.succeed(settings)
    assert len(daemon.entries(state, "audit.tail_cut")) == 1
    assert_whole(state)


def test_a_rotation_long_before_the_next_start_is_still_signed_by_both(settings: Settings) -> None:
    """The time in which both sign may be over by then: the hand-over itself stands under both signatures."""
    daemon.succeed(settings)
    keys.rotate(settings, None, dt.timedelta(microseconds=1), "in a hurry", "J. Doe")
    daemon.succeed(settings)
    assert settings.evidence.key is not None
    both = [key.verifier for key in read_key_file(settings.evidence.key)]
    rotated = daemon.entries(settings.state.dir, "key.recorded")[-1]["index"]
    covering = [note for note in checkpoints(settings.state.dir) if int(note.text.split(b"\n")[1]) > rotated]
    assert len(verified(covering[0], both)) == 2
    daemon.succeed(settings)
    assert len(checkpoints(settings.state.dir)[-1].signatures) == 1


def test_more_crashed_runs_than_an_entry_has_room_for_are_closed_one_start_after_the_other(settings: Settings) -> None:
    """Run logs that nobody closed never make an entry that is too long."""
    daemon.succeed(settings)
    runs = settings.state.dir / "runs"
    made = json.loads(next(iter(runs.iterdir())).read_bytes())
    for number in range(400):
        text = json.dumps({**made, "run_id": f"made-up-{number:04}-{'x' * 20}", "status": "running"})
        (runs / f"run_made-up-{number:04}-{'x' * 20}.json").write_text(text, encoding="utf-8")
    for _ in range(5):
        daemon.succeed(settings)
    assert max(map(len, daemon.audit_lines(settings.state.dir))) < 65_535
    assert not [path for path in runs.iterdir() if json.loads(path.read_bytes())["status"] == "running"]


def test_an_entry_that_nobody_could_read_back_is_never_written(settings: Settings) -> None:
    """The bound on an entry holds whoever makes it."""
    daemon.succeed(settings)
    recovered = recover(Disk(), settings.state.dir)
    journal = Journal(
        Disk(), settings.state.dir, recovered.ledger, recovered.mark,
        run_id="run", now=utc_now, segment_bytes=1 << 30, origin=ORIGIN,
    )  # fmt: skip
    before = daemon.audit_lines(settings.state.dir)
    with pytest.raises(IntegrityRefusal, match="too long"):
        journal.record("stream.silent", {"text": "x" * 65_536})
    journal.close()
    assert daemon.audit_lines(settings.state.dir) == before
