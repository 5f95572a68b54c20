"""Decisions handed to a running daemon: done once or not at all, in the name of whoever left them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tidewaiter.core.errors import ConfigError
from tidewaiter.edges import inbox
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.inbox import Answer, Request, ask, give_answer, new_id, take, waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUMBER = "00000000000000000001-aaaa"
LATER = "00000000000000000002-aaaa"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with an empty inbox."""
    (tmp_path / inbox.DIRECTORY).mkdir()
    return tmp_path


def request(number: str = NUMBER, **members: Any) -> Request:
    """What a command asks for."""
    return Request(number, "key", members, "J. Doe")


def put(state: Path, number: str = NUMBER, **changes: Any) -> Path:
    """Leave a request as the command does, with `changes`; None leaves a member out."""
    content = {"id": number, "kind": "key", "members": {}, "actor": "J. Doe", **changes}
    path = state / inbox.DIRECTORY / f"{number}.json"
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return path


def files(state: Path) -> list[str]:
    """What lies in the inbox."""
    return sorted(path.name for path in (state / inbox.DIRECTORY).iterdir())


def answer(state: Path, number: str = NUMBER) -> dict[str, Any]:
    """What was answered."""
    found: dict[str, Any] = json.loads((state / inbox.DIRECTORY / f"{number}.answer").read_bytes())
    return found


class Asker:
    """A command that asks, whose pauses are what the daemon does next; time passes only in them."""

    def __init__(self, state: Path, *steps: Callable[[], object], gone: Callable[[], bool] = lambda: False) -> None:
        self.state = state
        self.steps = list(steps)
        self.gone = gone
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        """Let the daemon do its next step."""
        self.now += seconds
        if self.steps:
            self.steps.pop(0)()

    def ask(self, **members: Any) -> Answer | None:
        """Ask and wait."""
        return ask(
            Disk(), self.state, request(**members), self.gone, deadline=1.0, clock=lambda: self.now, sleep=self.sleep
        )


# -- asking --------------------------------------------------------------------------------------------------------


def test_request_reaches_the_daemon_and_its_answer_comes_back(state: Path) -> None:
    """What was asked for arrives as it was, with the account of who asked; nothing is left behind."""
    seen: list[Request] = []

    def daemon() -> None:
        seen.extend(take(Disk(), state, None))
        give_answer(Disk(), state, NUMBER, Answer(ok=True, message="recorded"))

    assert Asker(state, lambda: None, daemon).ask(a=1, b="ü") == Answer(ok=True, message="recorded")
    assert seen == [Request(NUMBER, "key", {"a": 1, "b": "ü"}, "J. Doe", os.geteuid())]
    assert files(state) == []


def test_request_that_nobody_answers_is_withdrawn(state: Path) -> None:
    """After the deadline the command gives up, and no daemon that starts later finds anything to do."""
    with pytest.raises(ConfigError, match=r"did not answer within 1 s; the request was withdrawn") as refused:
        Asker(state).ask()
    assert "status" in refused.value.hint
    assert files(state) == []


def test_answer_in_the_last_moment_counts(state: Path) -> None:
    """Between the last look and the withdrawal the daemon may have decided: that is said, not the deadline."""
    asker = Asker(state)

    class Slow(Disk):
        def _unlink(self, path: Path) -> None:
            if path.suffix == ".json" and path.exists():
                give_answer(Disk(), state, NUMBER, Answer(ok=True, message="just now"))
            super()._unlink(path)

    found = ask(Slow(), state, request(), lambda: False, deadline=0.0, clock=lambda: 1.0, sleep=asker.sleep)
    assert found == Answer(ok=True, message="just now")
    assert files(state) == []


def test_command_that_is_interrupted_takes_its_request_back(state: Path) -> None:
    """Ctrl-C while waiting leaves nothing that the daemon would still do."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Asker(state, interrupt).ask()
    assert files(state) == []


def test_command_stops_waiting_for_a_daemon_that_is_gone(state: Path) -> None:
    """It can take the lock itself then; its request must not be done as well."""
    gone = iter([False, True])
    assert Asker(state, gone=lambda: next(gone)).ask() is None
    assert files(state) == []


def test_request_is_durable_before_its_name_can_be_seen(state: Path) -> None:
    """A machine that dies leaves a whole request or none, never half of one that is answered as broken."""
    calls: list[str] = []

    class Watching(Disk):
        def _fsync(self, fd: int) -> None:
            calls.append("fsync")
            super()._fsync(fd)

        def _replace(self, source: Path, target: Path) -> None:
            calls.append("rename")
            super()._replace(source, target)

        def _fsync_directory(self, path: Path) -> None:
            calls.append("fsync directory")
            super()._fsync_directory(path)

    ask(Watching(), state, request(), lambda: True)
    assert calls == ["fsync directory", "fsync", "rename", "fsync directory"]  # the inbox itself comes first


def test_request_of_root_can_be_read_by_the_daemon(state: Path) -> None:
    """Whatever umask the asking shell has: the file keeps its owner, which says who asked, and lets the daemon read."""
    modes: list[int] = []
    before = os.umask(0o077)
    try:
        asker = Asker(state, lambda: modes.append((state / inbox.DIRECTORY / f"{NUMBER}.json").stat().st_mode & 0o777))
        with pytest.raises(ConfigError):
            asker.ask()
    finally:
        os.umask(before)
    assert modes == [0o644]


def test_later_ids_sort_behind_earlier_ones() -> None:
    """Requests are taken in the order in which they were left."""
    numbers = [new_id() for _ in range(100)]
    assert [number[:20] for number in numbers] == sorted(number[:20] for number in numbers)


# -- taking --------------------------------------------------------------------------------------------------------


def test_requests_are_taken_in_order_and_answered_ones_are_not(state: Path) -> None:
    """The oldest first; what has its answer waits for its command only."""
    put(state, LATER)
    put(state, NUMBER)
    assert [one.id for one in take(Disk(), state, None)] == [NUMBER, LATER]
    give_answer(Disk(), state, NUMBER, Answer(ok=True, message="recorded"))
    assert [one.id for one in take(Disk(), state, NUMBER)] == [LATER]


def test_request_decided_before_a_crash_is_only_answered(state: Path) -> None:
    """The audit log has its id, the daemon died before the answer: it is told so, and nothing is done again."""
    put(state)
    assert take(Disk(), state, NUMBER) == []
    assert answer(state) == {"ok": True, "message": "recorded"}
    assert files(state) == [f"{NUMBER}.answer", f"{NUMBER}.json"]


def test_only_a_request_without_an_answer_waits(state: Path) -> None:
    """The look at each batch boundary costs nothing more where there is nothing to decide."""
    assert not waiting(state)
    (state / inbox.DIRECTORY / f".{NUMBER}.json.tmp").touch()
    (state / inbox.DIRECTORY / "README").touch()
    assert not waiting(state)
    put(state)
    assert waiting(state)
    give_answer(Disk(), state, NUMBER, Answer(ok=True, message="recorded"))
    assert not waiting(state)


def test_daemon_without_an_inbox_has_nothing_to_do(tmp_path: Path) -> None:
    """The directory is made by whoever asks first."""
    assert not waiting(tmp_path)
    assert take(Disk(), tmp_path, None) == []


def test_who_asked_is_the_owner_of_the_file(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says who made the file; what the file says about it is refused."""
    path = put(state)
    real = os.fstat

    def owned_by_somebody(fd: int) -> os.stat_result:
        found = list(real(fd))
        found[4] = 4711
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", owned_by_somebody)
    assert [one.uid for one in take(Disk(), state, None)] == [4711]
    put(state, uid=0)
    assert take(Disk(), state, None) == []
    assert answer(state)["ok"] is False
    assert not path.exists()


@pytest.mark.parametrize("kind", ["link", "dangling", "second name", "pipe", "directory", "large", "other name"])
def test_what_is_no_plain_small_file_is_left_alone(state: Path, tmp_path: Path, kind: str) -> None:
    """Neither followed nor opened for ever nor read to its end; it is not even answered."""
    path = put(state, NUMBER)
    elsewhere = tmp_path / "elsewhere.json"
    match kind:
        case "link":
            path.rename(elsewhere)
            path.symlink_to(elsewhere)
        case "dangling":
            path.unlink()
            path.symlink_to(elsewhere)
        case "second name":
            elsewhere.hardlink_to(path)
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "directory":
            path.unlink()
            path.mkdir()
        case "large":
            put(state, members={"x": "y" * inbox.MAX_BYTES})
        case "other name":
            path.rename(path.with_name(f"{NUMBER}.json.bak"))
    before = files(state)
    assert take(Disk(), state, None) == []
    assert files(state) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no request"),
        (b"{", "is no request"),
        (b"\xff", "is no request"),
        (b"[" * 5000, "is no request"),
        (b"[]", "is no request"),
        (b'{"id":"%s","kind":"key","members":{}}' % NUMBER.encode(), "is no request"),
        (b'{"id":"%s","kind":"key","members":[],"actor":"me"}' % NUMBER.encode(), "is no request"),
        (b'{"id":"%s","kind":"key","members":{},"actor":"me"}' % LATER.encode(), "is the request"),
        (b'{"id":"%s","kind":"key","members":{},"actor":" "}' % NUMBER.encode(), "who decided"),
        (b'{"id":"%s","kind":"key","members":{},"actor":"%s"}' % (NUMBER.encode(), b"x" * 129), "who decided"),
    ],
)
def test_broken_request_is_answered_and_removed(state: Path, content: bytes, said: str) -> None:
    """Half a file, another shape, another request's id, nobody's name: the next look does not meet it again."""
    (state / inbox.DIRECTORY / f"{NUMBER}.json").write_bytes(content)
    put(state, LATER)
    assert [one.id for one in take(Disk(), state, None)] == [LATER]
    assert answer(state)["ok"] is False
    assert said in answer(state)["message"]
    assert f"{NUMBER}.json" not in files(state)


def test_what_nobody_waits_for_any_more_is_removed_and_not_done(state: Path) -> None:
    """A command that was killed left a request, an answer or both: a decision of last week is not taken today."""
    left = [put(state), put(state, LATER)]
    give_answer(Disk(), state, LATER, Answer(ok=True, message="recorded"))
    left.append(state / inbox.DIRECTORY / f"{LATER}.answer")
    for path in left:
        os.utime(path, (1_000_000.0, 1_000_000.0))
    just = 1_000_000.0 + inbox.FORGOTTEN_SECONDS
    assert [one.id for one in take(Disk(), state, None, now=lambda: just)] == [NUMBER]
    assert take(Disk(), state, None, now=lambda: just + 1) == []
    assert files(state) == []
