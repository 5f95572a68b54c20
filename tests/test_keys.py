"""The keys of a log: rotation and revocation, by a running daemon or without one, and what is shown of them."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import pytest
from typer.testing import CliRunner

from rigs import daemon
from support import wait_until
from tidewaiter.core import audit
from tidewaiter.core.audit import Halt, KeyRecorded
from tidewaiter.core.errors import EXIT_HALTED, EXIT_USAGE, ConfigError
from tidewaiter.edges import inbox
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.inbox import Answer, Request
from tidewaiter.edges.journal import Journal
from tidewaiter.edges.key_files import (
    CREDENTIAL,
    CREDENTIALS_VARIABLE,
    add_key,
    create_key_file,
    make_key,
    read_key_file,
)
from tidewaiter.edges.lock import StateLock
from tidewaiter.edges.recovery import recover
from tidewaiter.shell import deciding, keys, log_keys
from tidewaiter.shell.answering import answer_requests
from tidewaiter.shell.commands.keys import keys as command
from tidewaiter.shell.log_names import utc_now
from tidewaiter.shell.log_proofs import trusted_keys
from tidewaiter.shell.os_user import os_user
from tidewaiter.shell.settings import EvidencePart, Overrides
from tidewaiter.shell.settings_file import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.shell.settings import Settings

ORIGIN = "example.com/log"
WEEK = dt.timedelta(days=7)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file with one key."""
    path = tmp_path / "log.key"
    create_key_file(Disk(), path, make_key(ORIGIN), None)
    return path


@pytest.fixture
def settings(tmp_path: Path, file: Path) -> Settings:
    """A log that the key of `file` signs, made by a daemon that is not running any more."""
    stream = daemon.make_stream(tmp_path / "in" / "events.jsonl", 30)
    made = replace(daemon.make_settings(stream, tmp_path / "state"), evidence=EvidencePart(key=file))
    daemon.succeed(made)
    return made


def vkeys(path: Path) -> list[str]:
    """The vkeys of a key file, in its order."""
    return [str(key.verifier) for key in read_key_file(path)]


def recorded(settings: Settings) -> list[dict[str, Any]]:
    """What the audit log says about keys."""
    return daemon.entries(settings.state.dir, audit.KEY_RECORDED)


def rotate(settings: Settings, file: Path | None = None) -> str:
    """Let a new key take over."""
    return keys.rotate(settings, file, WEEK, "once a year", "J. Doe")


def revoke(settings: Settings, named: str, index: int) -> str:
    """Take the trust from a key."""
    return keys.revoke(settings, named, index, "stolen", "J. Doe")


class RunningDaemon:
    """What a daemon does about its inbox: it holds the lock, and looks in when it is told to."""

    def __init__(self, settings: Settings) -> None:
        self.state = settings.state.dir
        self.lock = StateLock(self.state / "lock")
        self.disk = Disk()

    def __enter__(self) -> Self:
        self.lock.acquire()
        recovered = recover(self.disk, self.state)
        self.journal = Journal(
            self.disk, self.state, recovered.ledger, recovered.mark,
            run_id="run", now=utc_now, segment_bytes=256 << 20, origin="never used",
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()
        self.lock.release()

    def serve(self, ask: Callable[[], str]) -> str:
        """Answer until `ask`, called in a thread of its own, has returned."""
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(ask)

            def look() -> bool:
                answer_requests(self.disk, self.journal)
                return asked.done()

            wait_until(look)
            return asked.result()


# -- rotation ------------------------------------------------------------------------------------------------------


def test_rotation_keeps_the_old_key_and_is_recorded(settings: Settings, file: Path) -> None:
    """The file holds both; the entry names both, until when both sign, and who decided in both senses."""
    (old,) = vkeys(file)
    said = rotate(settings)
    kept, new = vkeys(file)
    entry = recorded(settings)[-1]
    assert kept == old
    assert (entry["decision"], entry["vkey"], entry["replaces"]) == ("rotated", new, old)
    assert (entry["actor"], entry["os_user"], entry["reason"]) == ("J. Doe", os_user(), "once a year")
    together = dt.datetime.fromisoformat(entry["both_until"]) - dt.datetime.fromisoformat(entry["timestamp"])
    assert WEEK - dt.timedelta(minutes=2) < together <= WEEK
    assert said.startswith(f"recorded: {new} takes over from {old}")
    assert "No daemon is running: the next one signs with it" in said
    assert said.endswith(f"vkey: {new}")
    assert file.stat().st_mode & 0o777 == 0o600
    daemon.succeed(settings)


def test_rotation_goes_on_after_a_crash(settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is in the file and the log does not know it: the same command takes that one, and makes no other."""

    def die(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(deciding, "decide", die)
        with pytest.raises(KeyboardInterrupt):
            rotate(settings)
    between = vkeys(file)
    assert len(between) == 2
    assert [entry["decision"] for entry in recorded(settings)] == ["introduced"]
    daemon.succeed(settings)  # a start in between signs with the old one
    rotate(settings)
    assert vkeys(file) == between
    assert recorded(settings)[-1]["vkey"] == between[1]


def test_refused_rotation_leaves_the_file_as_it_is(settings: Settings, tmp_path: Path, file: Path) -> None:
    """No log, no key in it, another file than the daemon's: nothing is made that nothing will ever name."""
    before = file.read_bytes()
    unsigned = replace(settings, state=replace(settings.state, dir=tmp_path / "unsigned"), evidence=EvidencePart())
    other = tmp_path / "other.key"
    create_key_file(Disk(), other, make_key(ORIGIN), None)
    cases = [
        (unsigned, file, "has no key yet"),
        (settings, other, "the daemon has its keys in"),
        (replace(settings, evidence=EvidencePart()), None, "--key is missing"),
    ]
    for given, path, said in cases:
        with pytest.raises(ConfigError, match=said):
            rotate(given, path)
    daemon.succeed(unsigned)
    with pytest.raises(ConfigError, match="has no key yet"):
        rotate(unsigned, file)
    assert file.read_bytes() == before


def test_key_of_another_log_cannot_take_over(settings: Settings, file: Path) -> None:
    """Its name is not this log's: every verifier would refuse what it signs."""
    add_key(Disk(), file, make_key("example.com/other"), (), None)
    with pytest.raises(ConfigError, match=r"its name is example\.com/other"):
        rotate(settings)


def test_rotation_takes_out_what_will_never_sign_again(settings: Settings, file: Path) -> None:
    """A revoked key is not kept to be stolen again; a person's comments stay."""
    file.write_text(f"# the log's keys\n{file.read_text()}")
    rotate(settings)
    old, second = vkeys(file)
    revoke(settings, old, 2)
    rotate(settings)
    assert vkeys(file)[0] == second
    assert len(vkeys(file)) == 2
    assert file.read_text().startswith("# the log's keys\n")


def test_old_key_stays_in_the_file_until_the_hand_over_is_under_a_checkpoint(settings: Settings, file: Path) -> None:
    """Two rotations while no daemon runs, the first one's period over: the next start needs the signatures of all."""
    (first,) = vkeys(file)
    keys.rotate(settings, file, dt.timedelta(0), "once a year", "J. Doe")
    rotate(settings)
    assert vkeys(file)[0] == first
    daemon.succeed(settings)
    rotate(settings)
    assert first not in vkeys(file)


def test_credential_is_not_written(settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is systemd's copy: a key that is added there is gone with the service."""
    credential = file.rename(file.with_name(CREDENTIAL))
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(credential.parent))
    with pytest.raises(ConfigError, match="systemd's copy"):
        rotate(replace(settings, evidence=EvidencePart()), credential)


# -- revocation ----------------------------------------------------------------------------------------------------


def test_revocation_is_recorded_by_key_id_too(settings: Settings, file: Path) -> None:
    """The id is what `keys show` has and what a signature carries; with no key left it says what to do."""
    (old,) = vkeys(file)
    said = revoke(settings, old.split("+")[1], 2)
    entry = recorded(settings)[-1]
    assert (entry["decision"], entry["vkey"], entry["last_trusted_index"]) == ("revoked", old, 2)
    assert (entry["actor"], entry["os_user"], entry["reason"]) == ("J. Doe", os_user(), "stolen")
    assert "counts up to index 2" in said
    assert "WARNING: this was the key in force. From now on the log is not signed" in said
    assert "keys rotate" in said


def test_revocation_warns_only_where_it_leaves_the_log_without_a_key(settings: Settings, file: Path) -> None:
    """Not of a key that was replaced; of a new one, though the one before it still signs for a while."""
    rotate(settings)
    old, new = vkeys(file)
    assert "From the end of the key before it on the log is not signed" in revoke(settings, new, -1)
    assert "WARNING" not in revoke(settings, old, -1)


def test_rotation_past_a_key_that_systemd_hands_over_asks_for_a_restart(settings: Settings, file: Path) -> None:
    """The running daemon has a copy from its start: only with `evidence.key` does it find the new key by itself."""
    unnamed = replace(settings, evidence=EvidencePart())
    with RunningDaemon(settings) as running:
        assert "restart it, and it signs with the new one" in running.serve(lambda: rotate(unnamed, file))


def test_unknown_key_is_not_revoked(settings: Settings) -> None:
    """A slip of the pen takes no trust from anybody."""
    for named in ("00000000", f"{ORIGIN}+00000000+AAAA", ""):
        with pytest.raises(ConfigError, match="is no key of this log"):
            revoke(settings, named, 2)
    (vkey,) = vkeys(settings.evidence.key or settings.state.dir)
    with pytest.raises(ConfigError, match="is no index of this log"):
        revoke(settings, vkey, 10_000)
    with pytest.raises(ConfigError, match="signed nothing before entry"):
        revoke(settings, vkey, recorded(settings)[0]["index"] - 1)
    assert [entry["decision"] for entry in recorded(settings)] == ["introduced"]


def test_log_goes_on_after_its_key_was_lost(settings: Settings, file: Path, run: Callable[..., str]) -> None:
    """No start without the key, and no silence about it: revoked, a new one made, and that one takes over."""
    (old,) = vkeys(file)
    file.unlink()
    assert daemon.run(settings).status == EXIT_USAGE
    revoke(settings, old, recorded(settings)[-1]["index"])
    run("new", "--key", file, "--state-dir", settings.state.dir)
    assert "both sign" not in rotate(settings)
    daemon.succeed(settings)
    entry = recorded(settings)[-1]
    assert (entry["decision"], entry["replaces"], [entry["vkey"]]) == ("rotated", old, vkeys(file))


# -- while the daemon runs -----------------------------------------------------------------------------------------


def test_running_daemon_records_what_it_is_handed(settings: Settings, file: Path) -> None:
    """Both decisions reach the log of a daemon that holds the lock, with the account of whoever asked."""
    with RunningDaemon(settings) as running:
        said = running.serve(lambda: rotate(settings))
        old, new = vkeys(file)
        assert said.startswith(f"recorded: {new} takes over from {old}")
        assert "The running daemon signs with it from now on." in said
        assert "is revoked" in running.serve(lambda: revoke(settings, old, 2))
        assert running.journal.ledger.keys[0].revoked_after == 2
    entries = recorded(settings)
    assert [entry["decision"] for entry in entries] == ["introduced", "rotated", "revoked"]
    assert [entry["os_user"] for entry in entries[1:]] == [os_user()] * 2
    assert all(entry["request"] for entry in entries[1:])
    assert not any((settings.state.dir / inbox.DIRECTORY).iterdir())


def test_refusal_of_a_running_daemon_is_an_error_here(settings: Settings, file: Path) -> None:
    """The command ends as if it had found out itself."""
    (old,) = vkeys(file)
    with RunningDaemon(settings) as running, pytest.raises(ConfigError, match="is no index of this log"):
        running.serve(lambda: revoke(settings, old, 10_000))


@pytest.mark.parametrize(
    ("kind", "members", "said"),
    [
        ("lunch", {}, "is no kind of request"),
        ("key", {}, "required field"),
        ("key", {"decision": "rotated", "vkey": 7}, "Expected `str`"),
        ("key", {"decision": "rotated", "vkey": "a vkey"}, "is no key"),
        ("key", {"decision": "revoked", "vkey": "", "last_trusted_index": 1}, "is no key"),
        ("skip", {"position": 1}, "no halt is pending"),
    ],
)
def test_request_the_daemon_cannot_follow_is_answered(
    settings: Settings, kind: str, members: dict[str, Any], said: str
) -> None:
    """Whoever may write into the inbox can ask anything; nothing ends the daemon or reaches the log."""
    with RunningDaemon(settings) as running:
        before = running.journal.mark
        asked: list[Answer | None] = []

        def ask() -> str:
            asked.append(inbox.ask(Disk(), running.state, Request("1", kind, members, "me"), lambda: False))
            return ""

        running.serve(ask)
        (answer,) = asked
        assert answer is not None
        assert not answer.ok
        assert said in answer.message
        assert running.journal.mark == before


def test_daemon_that_dies_before_its_answer_does_nothing_twice(
    settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision is in the log with the request's id: the next daemon answers, and the log has it once."""
    new = make_key(vkeys(file)[0].partition("+")[0])
    members = {"decision": "rotated", "vkey": str(new.verifier), "both_until": "2999-01-01T00:00:00.000000Z"}
    path = settings.state.dir / inbox.DIRECTORY / "1.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"id": "1", "kind": "key", "members": members, "actor": "me"}))

    class Dead(Disk):
        def replace_file(self, path: Path, data: bytes) -> None:
            if path.suffix == ".answer":
                raise KeyboardInterrupt
            super().replace_file(path, data)

    with RunningDaemon(settings) as running, pytest.raises(KeyboardInterrupt):
        answer_requests(Dead(), running.journal)
    with RunningDaemon(settings) as running:
        assert answer_requests(running.disk, running.journal) == []
        assert answer_requests(running.disk, running.journal) == []
    assert json.loads(path.with_suffix(".answer").read_bytes())["ok"] is True
    assert [entry["decision"] for entry in recorded(settings)] == ["introduced", "rotated"]


def test_daemon_that_ends_while_it_is_asked_leaves_the_decision_to_the_command(settings: Settings, file: Path) -> None:
    """The lock is free before anybody answered: the command takes it and records the decision itself, once."""
    running = RunningDaemon(settings)
    with ThreadPoolExecutor(1) as thread:
        with running:
            asked = thread.submit(revoke, settings, vkeys(file)[0], 2)
            wait_until(lambda: list((settings.state.dir / inbox.DIRECTORY).glob("*.json")))
        assert "is revoked" in asked.result()
    assert [entry["decision"] for entry in recorded(settings)] == ["introduced", "revoked"]
    assert recorded(settings)[-1]["request"] is None


def test_decision_of_a_daemon_that_ended_before_its_answer_is_found_in_the_log(
    settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command takes the lock, finds its request decided, and says so instead of deciding again."""
    (old,) = vkeys(file)

    def ask(_disk: Disk, _state: Path, request: Request, gone: Callable[[], bool]) -> Answer | None:
        wanted = KeyRecorded("revoked", old, last_trusted_index=1, request=request.id)
        running.journal.record(audit.KEY_RECORDED, wanted)
        running.__exit__()
        assert gone()
        return None

    monkeypatch.setattr(inbox, "ask", ask)
    with RunningDaemon(settings) as running:
        assert revoke(settings, old, 2).startswith("recorded by the daemon")
    assert [entry["decision"] for entry in recorded(settings)] == ["introduced", "revoked"]


# -- skip while the daemon runs ------------------------------------------------------------------------------------


def test_skip_asks_a_running_daemon_which_knows_of_no_halt(settings: Settings) -> None:
    """A daemon that reads on has nothing to skip: that is the answer, not that it is in the way."""
    with RunningDaemon(settings) as running, pytest.raises(ConfigError, match="no halt is pending"):
        running.serve(lambda: daemon.skip(settings, 0))


def test_skip_goes_on_by_itself_when_the_daemon_halts_again(settings: Settings) -> None:
    """A daemon on its way into the same halt says nothing; as soon as it has ended, the decision is recorded."""
    running = RunningDaemon(settings)
    with ThreadPoolExecutor(1) as thread:
        with running:
            at = running.journal.ledger.global_offset
            halt = Halt("gap", at, 0, "", "a segment is missing", "events.jsonl", 0, evidence={"expected": 1})
            running.journal.record(audit.STREAM_HALTED, halt)
            running.journal.write_checkpoint()
            asked = thread.submit(daemon.skip, settings, at)
            wait_until(lambda: list((settings.state.dir / inbox.DIRECTORY).glob("*.json")))
            assert answer_requests(running.disk, running.journal) == []
            assert not asked.done()
        assert "is accepted" in asked.result()
    entry = daemon.entries(settings.state.dir, audit.DECISION_RECORDED)[-1]
    assert (entry["decision"], entry["actor"], entry["os_user"]) == ("gap", "tester", os_user())


def test_skipped_line_says_whose_account_it_came_from(tmp_path: Path) -> None:
    """The batch that leaves a line out has the name that was given, and the account that the kernel knows."""
    stream = daemon.make_stream(tmp_path / "in" / "events.jsonl", 5, bad=0.0, duplicates=0.0, disorder=0.0)
    at = stream.stat().st_size
    with stream.open("ab") as end:
        end.write(b"no event\n")
    settings = daemon.make_settings(stream, tmp_path / "state", invalid="halt")
    assert daemon.run(settings).status == EXIT_HALTED
    daemon.skip(settings, at)
    entry = daemon.entries(settings.state.dir, audit.BATCH_COMMITTED)[-1]
    assert (entry["cause"], entry["actor"], entry["os_user"]) == ("skip", "tester", os_user())


# -- showing, and the command --------------------------------------------------------------------------------------


@pytest.fixture
def run() -> Callable[..., str]:
    """Call `tidewaiter keys …` and return what it printed; errors come through."""

    def call(*arguments: str | Path) -> str:
        found = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.stdout

    return call


def test_show_tells_how_each_key_stands(settings: Settings, file: Path, run: Callable[..., str]) -> None:
    """Who signs, until when, and how far a revoked key counts, while a daemon holds the lock."""
    rotate(settings)
    old, new = vkeys(file)
    revoke(settings, old, 3)
    with RunningDaemon(settings):
        shown = json.loads(run("show", "--state-dir", settings.state.dir, "--json"))
        table = run("show", "--state-dir", settings.state.dir)
    first, second = shown["keys"]
    assert shown["origin"] == old.partition("+")[0]
    assert (first["vkey"], first["state"], first["signs"], first["revoked_after"]) == (old, "revoked", False, 3)
    assert (second["vkey"], second["state"], second["signs"], second["until"]) == (new, "in force", True, None)
    assert [first["from_index"], second["from_index"]] == [entry["index"] for entry in recorded(settings)[:2]]
    assert old in table
    assert new in table
    assert "counts up to entry 3" in table


def test_show_believes_no_text_that_looks_like_an_entry(settings: Settings, file: Path) -> None:
    """A record that quotes a key entry, and an entry that is not complete yet, are no decisions."""
    segment = max((settings.state.dir / "audit").glob("audit-*.jsonl"))
    before = log_keys.read_log_keys(settings.state.dir)
    with segment.open("ab") as end:
        end.write(
            b'{"prev":"","index":9,"timestamp":"","level":"info","run_id":"","actor":"","action":"event.rejected",'
            b'"record":{"action":"key.recorded","decision":"introduced","vkey":"x"}}\n'
            b'{"prev":"","index":10,"timestamp":"","run_id":"","actor":"","action":"key.recorded",'
            b'"decision":"introduced","vkey":"y"}'
        )
    assert log_keys.read_log_keys(settings.state.dir) == before
    assert [key.vkey for key in before.keys] == vkeys(file)


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_entries_are_found_wherever_a_block_ends(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """The log is read in blocks; no entry is lost at their ends."""
    rotate(settings)
    whole = log_keys.read_log_keys(settings.state.dir)
    shutil.rmtree(settings.state.dir / "snapshots")  # so that all of it is read
    monkeypatch.setattr(log_keys, "_BLOCK_BYTES", block)
    assert log_keys.read_log_keys(settings.state.dir) == whole
    assert len(whole.keys) == 2


def test_keys_of_a_log_whose_oldest_segments_were_removed_are_known(tmp_path: Path, file: Path) -> None:
    """The key stands in an entry that retention took away: the older snapshot knows it, and a rotation builds on it."""
    stream = daemon.make_stream(tmp_path / "in" / "events.jsonl", 200)
    made = daemon.make_settings(
        stream, tmp_path / "kept", segment_bytes=1 << 13, snapshot_events=50, batch_bytes=1 << 11
    )
    settings = replace(made, evidence=EvidencePart(key=file))
    daemon.succeed(settings)
    whole = log_keys.read_log_keys(settings.state.dir)
    rotate(settings)
    older = min((settings.state.dir / "snapshots").iterdir()).stem.removeprefix("snapshot-")
    segments = sorted((settings.state.dir / "audit").iterdir())
    needed = max(path for path in segments if path.stem.removeprefix("audit-") < older)
    for segment in segments[: segments.index(needed)]:
        segment.unlink()
    assert len(segments) - segments.index(needed) < len(segments)
    assert whole.vkeys == set(vkeys(file)[:1])
    assert log_keys.read_log_keys(settings.state.dir).vkeys == set(vkeys(file))
    assert [str(key) for key in trusted_keys(settings.state.dir)] == vkeys(file)[::-1]
    revoke(settings, vkeys(file)[0], -1)
    assert [key.revoked_after for key in log_keys.read_log_keys(settings.state.dir).keys] == [-1, None]
    for damaged in (settings.state.dir / "snapshots").iterdir():
        damaged.write_bytes(b"no snapshot")
    assert log_keys.read_log_keys(settings.state.dir).origin == ORIGIN


def test_new_key_bears_the_name_of_the_log_that_is_there(
    settings: Settings, file: Path, tmp_path: Path, run: Callable[..., str]
) -> None:
    """Its first line is the vkey; another name for this log is refused, a log elsewhere needs nothing but a name."""
    path = tmp_path / "second.key"
    out = run("new", "--key", path, "--state-dir", settings.state.dir)
    assert out.splitlines()[0] == vkeys(path)[0]
    assert vkeys(path)[0].partition("+")[0] == ORIGIN
    assert "PRIVATE+KEY" not in out
    with pytest.raises(ConfigError, match=f"the log is called {ORIGIN}"):
        run("new", "--key", tmp_path / "third.key", "--state-dir", settings.state.dir, "--name", "example.com/other")
    out = run("new", "--key", tmp_path / "third.key", "--name", "example.com/other")
    assert out.startswith("example.com/other+")
    with pytest.raises(ConfigError, match="is there already"):
        run("new", "--key", file, "--name", ORIGIN)


def test_new_key_of_a_log_to_come_gets_a_name_of_its_own(
    tmp_path: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two logs never share a name by accident: host, stream and a random part; unless the settings name it."""
    monkeypatch.chdir(tmp_path)
    stream = '[stream]\nname = "tides"\npath = "x"\n'
    (tmp_path / "t.toml").write_text(stream)
    (tmp_path / "named.toml").write_text(f'{stream}[evidence]\norigin = "example.com/mine"\n')
    names = [
        run("new", "--key", tmp_path / f"{number}.key", "--config", "t.toml").partition("+")[0] for number in range(2)
    ]
    assert names[0] != names[1]
    assert all(name.split("/")[-2] == "tides" for name in names)
    assert run("new", "--key", tmp_path / "named.key", "--config", "named.toml").startswith("example.com/mine+")


def test_new_key_is_explained_beside_the_vkey_and_not_in_it(tmp_path: Path) -> None:
    """What goes to standard output is a vkey and nothing else: it can be redirected into the file that is held."""
    path = tmp_path / "log.key"
    found = CliRunner().invoke(command, ["new", "--key", str(path), "--name", ORIGIN], catch_exceptions=False)
    assert found.stdout == f"{vkeys(path)[0]}\n"
    assert str(path) in found.stderr
    assert "PRIVATE+KEY" not in found.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["new", "--name", ORIGIN, "--key"],
        ["rotate", "--reason", "x", "--actor", "me", "--config", "t.toml", "--key"],
        ["revoke", "--last-trusted-index", "1", "--reason", "x", "--actor", "me", "--config", "t.toml"],
    ],
)
def test_key_that_is_given_instead_of_its_file_is_not_shown(
    tmp_path: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """What is printed ends in terminals and journals: the message says what is wanted and nothing of what was given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.toml").write_text('[stream]\npath = "x"\n')
    secret = make_key(ORIGIN).encode()
    with pytest.raises(ConfigError, match="is a private key itself") as refused:
        run(*arguments, secret)
    assert secret[20:] not in str(refused.value)
    assert secret.split("+", 4)[4][:12] not in str(refused.value)
    assert "name the file that holds it" in refused.value.hint


def test_key_in_the_settings_is_not_shown(tmp_path: Path) -> None:
    """`evidence.key` wants a file; the message has file and line, and nothing of the key."""
    secret = make_key(ORIGIN).encode()
    (tmp_path / "t.toml").write_text(f'[stream]\npath = "x"\n[evidence]\nkey = "{secret}"\n')
    with pytest.raises(ConfigError, match=r"t\.toml:4:\d+: evidence\.key: is a private key itself") as refused:
        load_settings(tmp_path / "t.toml", Overrides(), need_files=False)
    assert secret.split("+", 4)[4][:12] not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rotate", "--reason", " ", "--actor", "me"], "--reason is empty"),
        (["rotate", "--reason", "x", "--actor", ""], "--actor is empty"),
        (["rotate", "--reason", "x", "--actor", "me", "--both-for", "soon"], "--both-for"),
        (["rotate", "--reason", "x", "--actor", "me", "--both-for", "0s"], "--both-for"),
        (["revoke", "x", "--last-trusted-index", "1", "--reason", "x" * 1001, "--actor", "me"], "--reason is"),
    ],
)
def test_decision_needs_words_and_a_time(run: Callable[..., str], arguments: list[str], said: str) -> None:
    """The audit log keeps who and why; a time that is no time changes nothing."""
    with pytest.raises(ConfigError, match=said):
        run(*arguments)


def test_account_without_a_name_is_its_number() -> None:
    """An account that was removed, or lives in another container, is still told apart."""
    assert os_user(0) == "0 (root)"
    assert os_user(3_999_999_999) == "3999999999"
