"""`tidewaiter verify` on sound logs in all their states, and its command: options, exit codes, pictures.

Leaves to `test_adversary` what is noticed when somebody changes a log.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import gzip
import io
import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer
from typer.testing import CliRunner

import evidence_rig as rig
from evidence_rig import KEY, Home, flip, lines_of, write_lines
from rigs import daemon
from rigs.daemon import Following, make_stream
from rigs.faulty_disk import Fault, FaultyDisk
from tidewaiter import AuditLogger
from tidewaiter.core import audit
from tidewaiter.core.errors import EXIT_HALTED, ConfigError
from tidewaiter.core.tlog.notes import parse_note
from tidewaiter.edges.journal import segment_name
from tidewaiter.edges.lock import StateLock
from tidewaiter.shell import keys, verify_tree
from tidewaiter.shell.commands import verify as command
from tidewaiter.shell.verify import Verdict, Wanted, verify, verify_file
from tidewaiter.shell.verify_files import Beside
from tidewaiter.shell.verify_findings import LISTED, TAMPERED, Findings
from tidewaiter.shell.verify_log import AuditFile, pin
from tidewaiter.shell.verify_table import ATTACKS, COVERED, NOT_COVERED, UP_TO
from tidewaiter.shell.verify_trust import read_given

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.shell.settings import Settings

VKEY: Final = str(KEY.verifier)


class Unwatched:
    """Nobody looks at the progress."""

    def add(self, phase: str, done: int, total: int) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A copy of the finished state directory."""
    return rig.fresh(tmp_path)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """The log's private key."""
    rig.write_key(tmp_path / "key", KEY)
    return tmp_path / "key"


def check(state: Path, stream: Path | None = None, **given: Any) -> Verdict:
    """Verify, with the pinned key unless something else is given; `replay`, `since_time`, `until` are options."""
    options = {name: given.pop(name) for name in ("replay", "until") if name in given}
    begin = given.pop("begin", "")
    held = {"key": VKEY, "policy": None, "since": None} if not given else {"key": None, "policy": None, "since": None}
    return verify(Wanted(state, stream, read_given(**(held | given)), since=begin, **options), Unwatched())


def assert_intact(found: Verdict, status: int = 0) -> None:
    """Assert that nothing was found."""
    assert (found.findings, found.exit_status) == ([], status), found.notes


# -- sound logs, however they came about -------------------------------------------------------------------------------


def test_a_stream_of_compressed_segments_is_hashed_and_replayed(tmp_path: Path, key_file: Path) -> None:
    """A compressed segment counts by its content; a change in it is found, and a missing one is named."""
    lines = lines_of(make_stream(tmp_path / "all.jsonl", 900))
    stream = tmp_path / "in"
    stream.mkdir()
    (stream / "1.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[:300])))
    (stream / "2.jsonl").write_bytes(b"".join(lines[300:600]) + b'{"unterminated":')
    (stream / "3.jsonl").write_bytes(b"".join(lines[600:]))
    state = tmp_path / "state"
    daemon.succeed(rig.settings(stream, state, key_file))
    found = check(state, replay=True)
    assert_intact(found)
    assert found.input_bytes == sum(map(len, lines)) + len(b'{"unterminated":')
    for wrong in ([*lines[:200], *lines[201:300]], [*lines[:300], lines[0]]):
        (stream / "1.jsonl.gz").write_bytes(gzip.compress(b"".join(wrong)))
        found = check(state)
        assert (found.exit_status, {each.check for each in found.findings}) == (4, {"input"})
    (stream / "1.jsonl.gz").unlink()
    found = check(state)
    assert (found.exit_status, [each.check for each in found.findings]) == (7, ["input"])
    assert "1.jsonl.gz" in found.findings[0].file


def test_a_halt_that_an_operator_resolved_is_replayed(tmp_path: Path, key_file: Path) -> None:
    """The line that was left out belongs to the input, and to no flag."""
    stream = make_stream(tmp_path / "events.jsonl", 200, bad=0, duplicates=0, disorder=0)
    lines = lines_of(stream)
    write_lines(stream, [*lines[:100], b"no event\n", *lines[100:]])
    settings = rig.settings(stream, tmp_path / "state", key_file, invalid="halt")
    assert daemon.run(settings).status == EXIT_HALTED
    assert_intact(check(settings.state.dir, replay=True))
    daemon.skip(settings, sum(map(len, lines[:100])))
    found = check(settings.state.dir, replay=True)
    assert (found.exit_status, found.findings) == (6, [])  # nothing has signed the decision yet
    daemon.succeed(settings)
    assert_intact(check(settings.state.dir, replay=True))


async def test_a_log_that_grows_is_verified_up_to_where_it_was(tmp_path: Path, key_file: Path) -> None:
    """What the running daemon writes meanwhile is no finding, whatever it is in the middle of."""
    lines = lines_of(make_stream(tmp_path / "all.jsonl", 3000))
    stream = tmp_path / "events.jsonl"
    write_lines(stream, lines[:100])
    settings = rig.settings(stream, tmp_path / "state", key_file, poll_us=2_000)
    async with Following(settings) as following:
        await following.reaches(stream.stat().st_size)
        await following.until((settings.state.dir / "tlog" / "checkpoint").exists)
        for at in range(100, 3000, 290):
            with stream.open("ab") as file:
                file.write(b"".join(lines[at : at + 290]))
            assert_intact(await asyncio.to_thread(check, settings.state.dir))
    assert_intact(await asyncio.to_thread(check, settings.state.dir, replay=True))


def test_a_report_that_a_run_replaced_meanwhile_is_looked_up_behind_the_end(home: Home) -> None:
    """The entry that names its new digest was written after the verification began."""
    ended = daemon.entries(home.older, audit.RUN_ENDED)[-1]
    document = next(each for each in ended["documents"] if each["file"].startswith("reports/"))
    recorded = audit.Document(**document)
    files = [
        AuditFile(file.path, (home.older / "audit" / file.path.name).stat().st_size, file.first)
        for file in pin(home.state)
        if (home.older / "audit" / file.path.name).exists()
    ]
    beside = Beside(home.state, Findings(), alive=False)
    path = home.state / recorded.file
    assert beside._digest(path, recorded, files) == recorded.sha256
    flip(path, 10)
    assert beside._digest(path, recorded, files) != recorded.sha256


@pytest.mark.parametrize(
    ("primitive", "pattern"),
    [("fdatasync", "*audit-*"), ("fdatasync", "*flags*"), ("replace", "*checkpoint.json*"), ("pwrite", "*tlog*")],
)
@pytest.mark.parametrize("nth", [3, 7, 12])
def test_what_a_crash_leaves_is_no_tampering(
    tmp_path: Path, key_file: Path, primitive: Any, pattern: str, nth: int
) -> None:
    """Wherever the disk failed, nothing contradicts; nothing may have signed the last entries, or any."""
    stream = make_stream(tmp_path / "events.jsonl", 600)
    settings = rig.settings(stream, tmp_path / "state", key_file)
    disk = FaultyDisk([Fault(primitive, pattern, nth=nth, errno=errno.EIO, times=1 << 30)])
    daemon.run(settings, disk)
    found = check(settings.state.dir)
    assert {each.check for each in found.findings} <= {"checkpoints"}  # the first one was not written yet
    assert found.exit_status in {0, 6, 7}
    daemon.succeed(settings)
    assert_intact(check(settings.state.dir, replay=True))


def test_a_torn_tile_that_no_checkpoint_needs_is_no_tampering(home: Home) -> None:
    """A crash between a partial tile and its checkpoint leaves such a file for good."""
    edge = max((home.state / "tlog" / "tile" / "0").glob("*.p/*"))
    (edge.parent / "1").write_bytes(b"torn")
    assert_intact(check(home.state))


@pytest.mark.parametrize("begun", [b"", b'{"prev":"'])
def test_a_segment_that_was_only_just_made_is_no_tampering(home: Home, begun: bytes) -> None:
    """The daemon, or a crash, may leave it without its first entry; the checkpoint misses one that was emptied."""
    path = home.state / "audit" / segment_name(len(daemon.audit_lines(home.state)))
    path.write_bytes(begun)
    assert_intact(check(home.state))
    home.segments()[-2].write_bytes(b"")
    assert check(home.state).exit_status == 4
    path.unlink()
    assert check(home.state).exit_status == 4


def test_removed_oldest_segments_leave_the_rest_provable(home: Home) -> None:
    """Their leaves stand in the tiles: the tree, and whatever comes behind, is checked all the same."""
    home.segments()[0].unlink()
    found = check(home.state)
    assert {each.kind for each in found.findings} == {"missing"}
    assert (found.exit_status, found.anchored) == (7, found.entries)
    assert {each.kind for each in check(home.state, key=None).findings} == {"missing"}
    path = home.segments()[1]
    lines = lines_of(path)
    lines[5] = lines[5].replace("ü".encode(), "ö".encode()).replace(b'"cause":"batch"', b'"cause":"Batch"')
    write_lines(path, lines)
    assert check(home.state).exit_status == 4


def test_only_the_input_of_the_given_time_is_hashed(home: Home) -> None:
    """A segment that is retired, or changed, outside that time is not asked for."""
    flip(home.stream, 1000)
    assert check(home.state).exit_status == 4
    begins = [entry["timestamp"] for entry in daemon.entries(home.state, audit.RUN_STARTED)]
    later = check(home.state, begin=begins[1])
    assert_intact(later)
    assert 0 < later.input_bytes < home.stream.stat().st_size
    assert check(home.state, until=begins[1]).exit_status == 4


def test_a_large_log_has_its_tree_in_a_process_of_its_own(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the same."""
    monkeypatch.setattr(verify_tree, "ASIDE_BYTES", 0)
    assert_intact(check(home.state))
    flip(home.state / "tlog" / "tile" / "0" / "001", 0)
    assert [each.check for each in check(home.state).findings] == ["tiles"]


# -- keys --------------------------------------------------------------------------------------------------------------


def rotated(home: Home) -> tuple[Settings, str]:
    """Let a new key take over, with more of the stream signed by both; return the new vkey."""
    settings = home.settings()
    said = keys.rotate(settings, None, dt.timedelta(days=1), "yearly", "tester")
    with home.stream.open("ab") as file:
        file.write(make_stream(home.place / "more.jsonl", 200, seed=11, start="2027-01-01T00:00:00Z").read_bytes())
    daemon.succeed(settings)
    return settings, said.rpartition("vkey: ")[2]


def test_trust_goes_on_to_the_key_that_a_rotation_names(home: Home) -> None:
    """Whoever pinned the old key verifies what the new one signed, and the other way round."""
    settings, new = rotated(home)
    keys.revoke(settings, VKEY, len(daemon.audit_lines(home.state)) - 1, "retired", "tester")
    daemon.succeed(settings)
    newest = parse_note((home.state / "tlog" / "checkpoint").read_bytes())
    assert len(newest.signatures) == 1
    for vkey in (VKEY, new):
        found = check(home.state, key=vkey)
        assert_intact(found)
        assert found.anchored == found.entries
    assert_intact(check(home.state, since=home.older / "tlog" / "checkpoint"))


def test_a_revoked_key_does_not_count_behind_its_last_index(home: Home) -> None:
    """What it signed up to there stands; a key that came behind that is trusted by nobody who pinned the old one."""
    last = int((home.older / "tlog" / "checkpoint").read_bytes().splitlines()[1]) - 1
    settings = home.settings()
    keys.revoke(settings, VKEY, last, "stolen", "tester")
    keys.rotate(settings, None, dt.timedelta(days=1), "stolen", "tester")
    daemon.succeed(settings)
    found = check(home.state)
    assert (found.exit_status, found.findings, found.anchored) == (6, [], last + 1)
    assert {row.covered for row in found.table if row.attack == "edit"} == {UP_TO}


def test_without_a_key_in_force_unsigned_checkpoints_are_no_tampering(home: Home) -> None:
    """The revocation of the only key is in the log; what comes behind is not signed until another takes over."""
    settings, size = home.settings(), len(daemon.audit_lines(home.state))
    keys.revoke(settings, VKEY, size - 1, "stolen", "tester")
    daemon.succeed(settings)
    assert (home.state / "tlog" / "checkpoint").read_bytes().endswith(b"\n\n")
    for given in ({"key": VKEY}, {"since": home.older / "tlog" / "checkpoint"}):
        found = check(home.state, **given)
        assert_intact(found, 6)
        assert found.anchored == size
        assert f"entries {size:,} to {found.entries - 1:,} are not anchored" in found.notes[-1]
        assert "without a signature" in found.notes[-1]
    new = keys.rotate(settings, None, dt.timedelta(days=1), "stolen", "tester").rpartition("vkey: ")[2]
    for vkey in (VKEY, new):
        assert_intact(check(home.state, key=vkey), 6)
    daemon.succeed(settings)
    assert_intact(check(home.state, key=new))
    assert_intact(check(home.state), 6)


def test_a_key_that_has_yet_to_sign_is_no_tampering(home: Home) -> None:
    """A rotation named it while the daemon was down: the next start signs with it, as with the old one."""
    said = keys.rotate(home.settings(), None, dt.timedelta(days=1), "yearly", "tester")
    new = said.rpartition("vkey: ")[2]
    found = check(home.state, key=new)
    assert_intact(found, 6)
    assert "no checkpoint that counts is signed by it" in found.notes[0]
    daemon.succeed(home.settings())
    assert_intact(check(home.state, key=new))


# -- how far -----------------------------------------------------------------------------------------------------------


def test_the_verdict_says_how_far_the_log_is_anchored(home: Home) -> None:
    """Everything that is held reaches to the end; entries that a later command left behind it are named."""
    last = len(daemon.audit_lines(home.state)) - 1
    rig.cosign(home.state, int(dt.datetime.now(dt.UTC).timestamp()))
    policy = rig.write_policy(home.place)
    ways: list[dict[str, Any]] = [{"key": VKEY}, {"since": home.checkpoint()}, {"policy": policy}]
    for given in ways:
        assert check(home.state, **given).verdict == f"intact, and anchored outside up to entry {last:,} of {last:,}"
    keys.rotate(home.settings(), None, dt.timedelta(days=1), "yearly", "tester")
    for given in ways:
        found = check(home.state, **given)
        assert_intact(found, 6)
        assert found.verdict == f"intact, but anchored outside only up to entry {last:,} of {found.entries - 1:,}"
        assert "behind every checkpoint" in found.notes[0]


def test_entries_under_a_checkpoint_that_does_not_count_are_not_anchored(home: Home) -> None:
    """Signed is not cosigned, and what a key signs that nothing vouches for anchors nothing."""
    rig.cosign(home.state, int(dt.datetime.now(dt.UTC).timestamp()))
    last = len(daemon.audit_lines(home.state)) - 1
    rotated(home)
    found = check(home.state, policy=rig.write_policy(home.place))
    assert_intact(found, 6)
    assert found.verdict == f"intact, but anchored outside only up to entry {last:,} of {found.entries - 1:,}"
    assert f"entries {last + 1:,} to {found.entries - 1:,} are not anchored" in found.notes[0]
    assert "have not cosigned" in found.notes[0]


def test_what_a_running_daemon_has_just_written_may_still_be_unsigned(home: Home) -> None:
    """It is about to sign the entries of the last minute; without it they wait for nobody."""
    keys.rotate(home.settings(), None, dt.timedelta(days=1), "yearly", "tester")
    with StateLock(home.state / "lock"):
        found = check(home.state)
    assert_intact(found)
    assert found.verdict.endswith("the daemon has just written the others")
    assert_intact(check(home.state), 6)


def test_a_checkpoint_inside_the_state_directory_is_not_outside(home: Home) -> None:
    """It is refused under whatever name: whoever rewrites the log rewrites it too."""
    own = home.state / "tlog" / "checkpoint"
    symbolic, hard = home.place / "symbolic", home.place / "hard"
    symbolic.symlink_to(own)
    hard.hardlink_to(own)
    for file in (own, symbolic, hard):
        with pytest.raises(ConfigError, match=r"inside the state directory.*kept elsewhere"):
            check(home.state, since=file)


# -- policies and held checkpoints -------------------------------------------------------------------------------------


def test_a_policy_counts_only_checkpoints_with_its_quorum(home: Home) -> None:
    """Without a cosignature nothing is anchored; with one, the log is up to there."""
    policy = rig.write_policy(home.place)
    assert_intact(check(home.state, policy=policy), 6)
    rig.cosign(home.state, int(dt.datetime.now(dt.UTC).timestamp()))
    found = check(home.state, policy=policy)
    assert_intact(found)
    assert {row.covered for row in found.table} == {COVERED, UP_TO}
    policy.write_text(f"log {VKEY}\nquorum none\n", encoding="ascii")
    assert_intact(check(home.state, policy=policy))


def test_a_held_checkpoint_that_nobody_signed_anchors_nothing(home: Home) -> None:
    """An unsigned log continues it, and that is said; a held checkpoint that was changed is refused."""
    held = home.checkpoint()
    held.write_bytes(held.read_bytes().partition(b"\n\n")[0] + b"\n\n")
    found = check(home.state, since=held)
    assert (found.exit_status, found.findings) == (6, [])
    assert "anchors nothing" in " ".join(found.notes)
    data = (home.state / "tlog" / "checkpoint").read_bytes()
    held.write_bytes(data.replace(b"\n\n", b"\nmore\n\n"))
    with pytest.raises(ConfigError, match="does not hold"):
        check(home.state, key=VKEY, since=held)


def test_a_log_without_a_key_says_so(tmp_path: Path) -> None:
    """It is intact, and nobody stands for it; a held copy of its checkpoint still shows a rewrite."""
    stream = make_stream(tmp_path / "events.jsonl", 200)
    settings = rig.settings(stream, tmp_path / "state", None)
    daemon.succeed(settings)
    found = check(settings.state.dir, key=None)
    assert_intact(found, 6)
    assert found.signed is None
    assert "the log is not signed" in found.notes
    assert {row.covered for row in found.table} == {NOT_COVERED}


# -- one file ----------------------------------------------------------------------------------------------------------


def test_a_file_of_the_python_api_is_verified(tmp_path: Path) -> None:
    """Chain and indexes; an edit is found at its entry."""
    path = tmp_path / "audit.jsonl"
    with AuditLogger(path) as logger:
        for _ in range(5):
            logger.log_start("pipeline-1", "read", "read_csv")
            logger.log_complete("pipeline-1", "read", "read_csv", record_count=3)
    given = read_given(None, None, None)
    found = verify_file(path, given, Unwatched())
    assert (found.exit_status, found.findings, found.entries) == (6, [], 11)
    lines = lines_of(path)
    write_lines(path, [*lines[:4], lines[4].replace(b"read_csv", b"raed_csv"), *lines[5:]])
    found = verify_file(path, given, Unwatched())
    assert (found.exit_status, found.first.index if found.first else None) == (4, 4)


def test_what_is_no_audit_log_is_refused(tmp_path: Path) -> None:
    """One line says so; a log whose first line was changed is still one."""
    given, path = read_given(None, None, None), tmp_path / "audit.jsonl"
    for text in ("# tidewaiter\n\nsome text\n", "", '{"a": 1}\n' * 300):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="is no audit log"):
            verify_file(path, given, Unwatched())
    path.unlink()
    with AuditLogger(path) as logger:
        logger.log_start("pipeline-1", "read", "read_csv")
        logger.log_complete("pipeline-1", "read", "read_csv", record_count=3)
    lines = lines_of(path)
    for changed in ([b"x" + lines[0], *lines[1:]], lines[1:]):
        write_lines(path, changed)
        assert verify_file(path, given, Unwatched()).exit_status == 4


def test_a_segment_alone_is_no_directory(home: Home) -> None:
    """A key has nothing to vouch for there; the first one is intact, the entries before a later one are missing."""
    for path, status in zip(home.segments(), (6, 7, 7), strict=False):
        found = verify_file(path, read_given(VKEY, None, None), Unwatched())
        assert (found.exit_status, {each.kind for each in found.findings} - {"missing"}) == (status, set())
        notes = " ".join(found.notes)
        assert "--key and --policy are of no use here" in notes
        assert f"tidewaiter verify --state-dir {home.state}" in notes


def test_the_table_of_a_file_speaks_of_the_file(tmp_path: Path) -> None:
    """It has no directory, no keys and no daemon."""
    path = tmp_path / "audit.jsonl"
    with AuditLogger(path) as logger:
        logger.log_start("pipeline-1", "read", "read_csv")
    found = verify_file(path, read_given(None, None, None), Unwatched())
    said = " ".join([*(row.why for row in found.table), *found.notes])
    assert not [word for word in ("directory", "daemon", "checkpoint", "witness") if word in said]


# -- the command -------------------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> Any:
    """Run the command as a user does, without the outermost program."""
    app = typer.Typer()
    app.command()(command.verify)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_verdict_findings_and_table(home: Home) -> None:
    """The exit code is the verdict's; a finding says entry, file, byte, what was expected and what is there."""
    done = run("--state-dir", home.state, "--key", VKEY)
    assert done.exit_code == 0
    assert all(attack in done.output for attack in ATTACKS)
    assert run("--state-dir", home.state).exit_code == 6
    flip(home.state / "flags.jsonl", 40)
    done = run("--state-dir", home.state, "--key", VKEY)
    assert done.exit_code == 4
    for text in ("TAMPERED", "flags.jsonl", "expected", "found"):
        assert text in done.output


def test_the_command_prints_json(home: Home) -> None:
    """One object with everything in it."""
    done = run("--state-dir", home.state, "--since", home.older / "tlog" / "checkpoint", "--json", "--replay")
    found = json.loads(done.output)
    assert (done.exit_code, found["exit_status"], found["findings"]) == (0, 0, [])
    assert [row["attack"] for row in found["table"]] == list(ATTACKS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--key", "no vkey"],
        ["--key", VKEY, "--policy", "policy"],
        ["--policy", "policy"],
        ["--since", "nothing"],
        ["--since", "events.jsonl"],
        ["--from", "yesterday"],
        ["--audit", "nothing"],
        ["--audit", "events.jsonl", "--replay"],
        ["--state-dir", "nothing"],
    ],
)
def test_wrong_usage_is_refused_in_words(home: Home, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A ConfigError says what is wrong; nothing is verified."""
    monkeypatch.chdir(home.place)
    (home.place / "policy").write_text("quorum w1\n", encoding="ascii")
    if "--audit" not in arguments and "--state-dir" not in arguments:
        arguments = [*arguments, "--state-dir", "state"]
    done = run(*arguments)
    assert isinstance(done.exception, ConfigError)


def test_a_wrong_key_is_not_looked_for_beside_the_log() -> None:
    """What stands in the state directory proves nothing, so the hint does not lead there."""
    with pytest.raises(ConfigError) as refused:
        read_given("no vkey", None, None)
    assert "handed" in refused.value.hint
    assert "keys show" not in refused.value.hint


def test_a_terminal_is_shown_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar for each phase, and nothing where nobody looks."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    for out, seen in ((Terminal(), True), (io.StringIO(), False)):
        watcher = command._Watcher(out)
        watcher.add("audit log", 50, 100)
        watcher.add("audit log", 50, 100)
        watcher.add("input", 10, 10)
        watcher.close()
        assert ("audit log" in out.getvalue()) == seen
        assert ("100%" in out.getvalue()) == seen


def test_very_many_findings_are_counted(tmp_path: Path) -> None:
    """The first of each kind are listed, the others are in the sum; the lowest index comes first."""
    findings = Findings()
    for index in range(LISTED + 5, 0, -1):
        findings.tampered("chain", "moved", tmp_path, index=index)
    assert (len(findings.listed), findings.unlisted, findings.count(TAMPERED)) == (LISTED, 5, LISTED + 5)
    assert findings.first is not None
    assert findings.first.index == 6


def test_nothing_is_written(home: Home, tmp_path: Path) -> None:
    """Verifying a copy that is read-only works, and leaves every byte as it was."""
    shutil.copytree(home.state, tmp_path / "before")
    check(home.state, replay=True)
    before = {path.relative_to(tmp_path / "before"): path for path in (tmp_path / "before").rglob("*")}
    after = {path.relative_to(home.state): path for path in home.state.rglob("*")}
    assert before.keys() == after.keys()
    assert all(path.is_dir() or path.read_bytes() == after[name].read_bytes() for name, path in before.items())
