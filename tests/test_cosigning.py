"""The log's side of a witness: what its answers mean, that none of them holds anything up, and what is kept of them."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from rigs.witness import NOW, Log, Place, check_by_hand, listening, post, state_of
from stopwatch import Stopwatch
from support import wait_until
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.tlog.notes import parse_note, signing_key
from tidewaiter.edges import logs
from tidewaiter.edges.witness_client import (
    WitnessAhead,
    WitnessClient,
    WitnessNotConfigured,
    WitnessRefused,
    WitnessUnreachable,
)
from tidewaiter.shell.cosigning import FIRST_PAUSE_SECONDS, Cosigning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidewaiter.core.tlog.notes import Signature, VerifierKey

KEY = signing_key("witness.example/scripted", bytes(32), 0x04)


@pytest.fixture
def client_of(request: pytest.FixtureRequest) -> Callable[..., WitnessClient]:
    """Make clients that are closed at the end of the test."""

    def make(url: str, key: VerifierKey = KEY.verifier, timeout: float = 2.0) -> WitnessClient:
        client = WitnessClient(url, key, timeout=timeout)
        request.addfinalizer(client.close)
        return client

    return make


def cosign(client: WitnessClient, log: Log, size: int) -> list[Signature]:
    """Ask as the daemon does."""
    return client.cosign(log.note(size), size, lambda old: list(log.proof(old, size)))


@contextmanager
def scripted(*answers: Callable[[socket.socket], object]) -> Iterator[str]:
    """Be a server that does with each connection what its script says, the last one again and again."""
    ending = threading.Event()
    opened: list[socket.socket] = []

    def serve() -> None:
        for number in range(1000):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if ending.is_set():
                connection.close()
                return
            opened.append(connection)
            threading.Thread(target=run, args=(answers[min(number, len(answers) - 1)], connection)).start()

    def run(answer: Callable[[socket.socket], object], connection: socket.socket) -> None:
        with connection:
            try:
                answer(connection)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ending.set()
            for connection in opened:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def read_request(connection: socket.socket) -> bytes:
    """Read one request and return its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += _received(connection)
    return body


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionResetError
    return data


def answering(status: int, body: bytes, *headers: bytes) -> Callable[[socket.socket], object]:
    """Return the script that answers every request on a connection like this."""
    lines = (b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *headers)

    def answer(connection: socket.socket) -> None:
        while True:
            read_request(connection)
            connection.sendall(b"\r\n".join((*lines, b"", body)))

    return answer


def sending(data: bytes) -> Callable[[socket.socket], object]:
    """Return the script that sends these bytes for an answer, and closes."""

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(data)

    return answer


def hanging(connection: socket.socket) -> None:
    """Take everything and say nothing."""
    while connection.recv(1 << 16):
        pass


def dripping(connection: socket.socket) -> None:
    """Answer a byte at a time, for ever: no single read times out."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    connection.settimeout(0.05)
    while True:
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            connection.sendall(b"A")


# -- one witness -------------------------------------------------------------------------------------------------------


def test_the_client_goes_on_from_what_the_witness_knows(
    tmp_path: Path, client_of: Callable[..., WitnessClient]
) -> None:
    """It keeps the size in mind, takes a new one from a 409, and what it returns verifies by hand."""
    log = Log("log.example/client")
    place = Place.make(tmp_path, [log])
    with listening(state_of(place, log)) as (url, _):
        client = client_of(url, place.key.verifier)
        vkey = str(place.key.verifier)
        for size in (3, 7, 7):
            (cosignature,) = cosign(client, log, size)
            assert check_by_hand(vkey, log.text(size), cosignature.line()) == [NOW]
        post(url, log.request(7, 9))  # somebody else was there
        (cosignature,) = cosign(client, log, 12)
        assert check_by_hand(vkey, log.text(12), cosignature.line()) == [NOW]
        (cosignature,) = cosign(client_of(f"{url}/", place.key.verifier), log, 12)


def test_a_witness_that_has_seen_more_is_ahead(tmp_path: Path, client_of: Callable[..., WitnessClient]) -> None:
    """The log was rolled back: the client says to how many entries the witness has put its name."""
    log = Log("log.example/ahead")
    place = Place.make(tmp_path, [log])
    with listening(state_of(place, log)) as (url, _):
        client = client_of(url, place.key.verifier)
        cosign(client, log, 12)
        for asked in (client, client_of(url, place.key.verifier)):
            with pytest.raises(WitnessAhead) as raised:
                cosign(asked, log, 5)
            assert raised.value.size == 12


def test_a_forked_log_is_refused(tmp_path: Path, client_of: Callable[..., WitnessClient]) -> None:
    """The same size with another root, and a larger tree of another history."""
    log = Log("log.example/forked")
    place = Place.make(tmp_path, [log])
    with listening(state_of(place, log)) as (url, _):
        cosign(client_of(url, place.key.verifier), log, 12)
        for size in (12, 20):
            with pytest.raises(WitnessRefused):
                cosign(client_of(url, place.key.verifier), Log(log.origin, fork=8), size)


def test_a_witness_that_does_not_know_the_log_or_its_key_says_so(
    tmp_path: Path, client_of: Callable[..., WitnessClient]
) -> None:
    """404 and 403 are the operator's to put right; they are no evidence against the log."""
    log = Log("log.example/known")
    place = Place.make(tmp_path, [log])
    with listening(state_of(place, log)) as (url, _):
        with pytest.raises(WitnessNotConfigured, match="404"):
            cosign(client_of(url, place.key.verifier), Log("log.example/unknown"), 3)
        note = log.note(3, signing_key(log.origin, bytes(32)))
        with pytest.raises(WitnessNotConfigured, match="403"):
            client_of(url, place.key.verifier).cosign(note, 3, lambda _: [])


LOG = Log("log.example/scripted")
OTHER = signing_key("witness.example/other", bytes(range(32)), 0x04)
SAME_NAME = signing_key(KEY.name, bytes(range(32)), 0x04)
GOOD = KEY.sign(LOG.text(5), NOW).line()
SIZE = b"Content-Type: text/x.tlog.size"
UNUSABLE: dict[str, Callable[[socket.socket], object]] = {
    "closes": lambda connection: None,
    "closes after the request": read_request,
    "hangs": hanging,
    "is no HTTP": sending(b"\0" * 1000),
    "500": answering(500, b""),
    "503": answering(503, b"busy\n"),
    "301": answering(301, b"", b"Location: http://127.0.0.1:1/"),
    "400": answering(400, b"no\n"),
    "empty": answering(200, b""),
    "garbage": answering(200, b"\xff\x00garbage"),
    "a name and no signature": answering(200, f"— {KEY.name} AAAA\n".encode()),
    "cut": answering(200, GOOD[:-5]),
    "shorter than announced": sending(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + GOOD[:50]),
    "another key": answering(200, OTHER.sign(LOG.text(5), NOW).line()),
    "another key of that name": answering(200, SAME_NAME.sign(LOG.text(5), NOW).line()),
    "on another checkpoint": answering(200, KEY.sign(LOG.text(6), NOW).line()),
    "one that holds and one that does not": answering(200, GOOD + KEY.sign(LOG.text(6), NOW).line()),
    "a text of its own": answering(200, b"\n\n" + GOOD),
    "endless": answering(200, b"A" * (1 << 20)),
    "endless headers": sending(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000),
    "a negative chunk size": sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc"),
    "a chunk size that is no number": sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\nabc"),
    "409 without a size": answering(409, b"", SIZE),
    "409 with no number": answering(409, b"-4\n", SIZE),
    "409 with a long number": answering(409, b"9" * 5000 + b"\n", SIZE),
    "409 of another type": answering(409, b"9\n"),
    "409 again and again": answering(409, b"4\n", SIZE),
}


@pytest.mark.parametrize("answer", UNUSABLE)
def test_what_is_no_cosignature_is_unreachable(answer: str, client_of: Callable[..., WitnessClient]) -> None:
    """Whatever a server does instead of cosigning, in bounded time: it is asked again later, and nothing is kept."""
    with scripted(UNUSABLE[answer]) as url:
        client = client_of(url, KEY.verifier, timeout=0.3)
        with Stopwatch() as watch, pytest.raises(WitnessUnreachable):
            cosign(client, LOG, 5)
        assert watch.seconds < 3


def test_nobody_there_is_unreachable(client_of: Callable[..., WitnessClient]) -> None:
    """A port that is closed and a name that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "https://127.0.0.1:1/prefix", f"http://{'a' * 70}.invalid"):
        with pytest.raises(WitnessUnreachable):
            cosign(client_of(url, KEY.verifier, timeout=1), LOG, 5)


def test_cosignatures_of_strangers_are_left_out(client_of: Callable[..., WitnessClient]) -> None:
    """An answer may have several lines; only the known key's counts."""
    lines = OTHER.sign(LOG.text(5), NOW).line() + GOOD
    with scripted(answering(200, lines)) as url:
        assert [one.line() for one in cosign(client_of(url, KEY.verifier), LOG, 5)] == [GOOD]


def test_a_connection_that_was_closed_meanwhile_is_opened_again(client_of: Callable[..., WitnessClient]) -> None:
    """Servers end idle connections: the next checkpoint is submitted on a new one."""

    def once(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD)

    with scripted(once) as url:
        client = client_of(url, KEY.verifier)
        for _ in range(3):
            assert [one.line() for one in cosign(client, LOG, 5)] == [GOOD]


@pytest.mark.parametrize(
    "url", ["ftp://h/", "h:80", "http://", "http://h:x", "http://h:99999", "http://u:p@h/", "http://[::1"]
)
def test_what_is_no_url_of_a_witness_is_refused(url: str, client_of: Callable[..., WitnessClient]) -> None:
    """A wrong line in the policy is the configuration's fault, exit 2."""
    with pytest.raises(ConfigError):
        client_of(url, KEY.verifier)


# -- all witnesses -----------------------------------------------------------------------------------------------------


class Hours:
    """A clock that is turned by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cosigning(request: pytest.FixtureRequest) -> Callable[..., Cosigning]:
    """Make collectors for witnesses at these URLs; they are closed at the end of the test."""

    def make(
        *witnesses: tuple[str, VerifierKey], clock: Callable[[], float] = time.monotonic, patience: float = 1.0
    ) -> Cosigning:
        named = [(f"w{number}", url, WitnessClient(url, key, timeout=5)) for number, (url, key) in enumerate(witnesses)]
        collector = Cosigning(named, patience=patience, clock=clock)
        request.addfinalizer(collector.close)
        return collector

    return make


def test_the_note_comes_back_with_every_cosignature(tmp_path: Path, cosigning: Callable[..., Cosigning]) -> None:
    """The log's signature first, then those of the witnesses; the text is the same."""
    log = Log("log.example/two")
    first, second = Place.make(tmp_path / "1", [log], "w.example/1"), Place.make(tmp_path / "2", [log], "w.example/2")
    with listening(state_of(first, log)) as (one, _), listening(state_of(second, log)) as (two, _):
        asked = cosigning((one, first.key.verifier), (two, second.key.verifier))
        asked.check_at_start(log.note(2), log.node)
        for size in (5, 9):
            found = asked.collect(log.note(size), log.node)
            assert found is not None
            note = parse_note(found)
            assert note.text == log.text(size)
            assert [signature.name for signature in note.signatures] == [log.origin, "w.example/1", "w.example/2"]
            for place, signature in zip((first, second), note.signatures[1:], strict=True):
                check_by_hand(str(place.key.verifier), note.text, signature.line())


@pytest.mark.parametrize("script", [hanging, dripping])
def test_a_witness_that_hangs_does_not_hold_up_the_other(
    tmp_path: Path, script: Callable[..., object], cosigning: Callable[..., Cosigning]
) -> None:
    """The cosignatures that arrive in time come back; the witness that hangs is left out until its pause is over."""
    log = Log("log.example/hangs")
    place = Place.make(tmp_path, [log])
    with listening(state_of(place, log)) as (good, _), scripted(script) as bad:
        asked = cosigning((bad, KEY.verifier), (good, place.key.verifier), patience=0.5)
        took = []
        for size in (3, 4, 5):
            began = time.monotonic()
            found = asked.collect(log.note(size), log.node)
            took.append(time.monotonic() - began)
            assert found is not None
            assert [one.name for one in parse_note(found).signatures] == [log.origin, place.key.name]
        assert took[0] < 1.5
        assert max(took[1:]) < 0.4


def test_a_witness_that_hung_is_asked_again(tmp_path: Path, cosigning: Callable[..., Cosigning]) -> None:
    """A call that drips for ever is ended, so that it does not keep the witness from being asked when it is back."""
    log = Log("log.example/back")
    place = Place.make(tmp_path, [log])

    def forward(connection: socket.socket) -> None:
        answer = post(real, read_request(connection))
        connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (answer.status, len(answer.body)))
        connection.sendall(answer.body)

    clock = Hours()
    with listening(state_of(place, log)) as (real, _), scripted(dripping, forward) as url:
        asked = cosigning((url, place.key.verifier), clock=clock, patience=0.3)
        assert asked.collect(log.note(3), log.node) is None

        def cosigned() -> bool:
            clock.now += 100
            return asked.collect(log.note(4), log.node) is not None

        wait_until(cosigned, what="a cosignature")


def test_an_unreachable_witness_is_asked_less_and_less(
    capfd: pytest.CaptureFixture[str], cosigning: Callable[..., Cosigning]
) -> None:
    """Pauses double up to a minute; one warning when it goes and one line when it is back."""
    asked_at: list[float] = []
    clock = Hours()
    up = threading.Event()

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        asked_at.append(clock.now)
        if up.is_set():
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD)

    configured = logs.configure(None, stderr="json", journald=False)
    try:
        with scripted(answer) as url:
            asked = cosigning((url, KEY.verifier), clock=clock)
            for second in range(200):
                clock.now = float(second)
                assert asked.collect(LOG.note(5), LOG.node) is None
            assert asked_at == [0, 1, 3, 7, 15, 31, 63, 123, 183]
            up.set()
            clock.now = 1000
            assert asked.collect(LOG.note(5), LOG.node) is not None
            clock.now += FIRST_PAUSE_SECONDS / 10
            assert asked.collect(LOG.note(5), LOG.node) is not None
    finally:
        configured.close()
    events = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert events == ["witness.unreachable", "witness.reached"]


def test_a_start_behind_the_witness_is_refused(tmp_path: Path, cosigning: Callable[..., Cosigning]) -> None:
    """Exit 4, naming the witness and both sizes: the state directory was rolled back."""
    log = Log("log.example/behind")
    place = Place.make(tmp_path, [log])
    with listening(state_of(place, log)) as (url, _):
        cosigning((url, place.key.verifier)).check_at_start(log.note(12), log.node)
        with pytest.raises(IntegrityRefusal, match=r"w0 .* cosigned 12 entries.* 5 entries") as raised:
            cosigning((url, place.key.verifier)).check_at_start(log.note(5), log.node)
        assert raised.value.exit_code == 4


def test_a_start_with_a_fork_is_refused(tmp_path: Path, cosigning: Callable[..., Cosigning]) -> None:
    """Exit 4: a restored back-up that went its own way, larger by now than what the witness saw."""
    log = Log("log.example/restored")
    place = Place.make(tmp_path, [log])
    fork = Log(log.origin, fork=8)
    with listening(state_of(place, log)) as (url, _):
        cosigning((url, place.key.verifier)).check_at_start(log.note(12), log.node)
        with pytest.raises(IntegrityRefusal, match="forked"):
            cosigning((url, place.key.verifier)).check_at_start(fork.note(30), fork.node)


def test_a_witness_that_was_away_at_the_start_can_still_refuse(
    tmp_path: Path, cosigning: Callable[..., Cosigning]
) -> None:
    """Unreachable at the start is a warning; when it is back it is asked, and a roll-back shows."""
    log = Log("log.example/later")
    place = Place.make(tmp_path, [log])
    state = state_of(place, log)
    state.add_checkpoint(log.request(0, 12))
    clock = Hours()

    def gone(connection: socket.socket) -> None:
        read_request(connection)

    def back(connection: socket.socket) -> None:
        verdict = state.add_checkpoint(read_request(connection))
        head = b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % (verdict.status, verdict.content_type.encode(), len(verdict.body)) + verdict.body)

    with scripted(gone, back) as url:
        asked = cosigning((url, place.key.verifier), clock=clock)
        asked.check_at_start(log.note(5), log.node)
        clock.now += 10
        with pytest.raises(IntegrityRefusal):
            asked.collect(log.note(6), log.node)


class Failing(WitnessClient):
    """A client in which an answer sets off an error that nobody thought of, or the tree is found damaged."""

    error: Exception = LookupError("what nobody thought of")

    def cosign(self, note: bytes, size: int, proof_from: Callable[[int], list[bytes]]) -> list[Signature]:
        raise self.error


def test_an_error_nobody_thought_of_is_unreachable_and_damage_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever asking raises ends nothing and is named in the log; that our own tree is damaged ends the daemon."""
    client = Failing("http://127.0.0.1:1", KEY.verifier)
    configured = logs.configure(None, stderr="json", journald=False)
    try:
        assert Cosigning([("w", "http://127.0.0.1:1", client)]).collect(LOG.note(5), LOG.node) is None
    finally:
        configured.close()
    (told,) = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (told["event"], told["reason"]) == ("witness.unreachable", "LookupError: what nobody thought of")
    client.error = IntegrityRefusal("a tile is missing")
    with pytest.raises(IntegrityRefusal, match="a tile is missing"):
        Cosigning([("w", "http://127.0.0.1:1", client)]).collect(LOG.note(5), LOG.node)


def test_the_policy_says_whom_to_ask(tmp_path: Path) -> None:
    """Witness lines with a URL are asked; without any there is nobody; a URL that is none is exit 2, with its line."""
    policy = tmp_path / "policy"
    vkey = KEY.verifier

    def of(*lines: str) -> Cosigning | None:
        policy.write_text("\n".join([*lines, "quorum none", ""]), encoding="utf-8")
        return Cosigning.of(policy)

    assert Cosigning.of(None) is None
    assert of(f"witness w {vkey}") is None
    assert of(f"witness w {vkey} http://127.0.0.1:1/") is not None
    for url in ("ftp://127.0.0.1:1/", "http://[::1"):
        with pytest.raises(ConfigError, match=rf"^{re.escape(str(policy))}:2: {re.escape(url)}: "):
            of("# whom to ask", f"witness w {vkey} {url}")
    with pytest.raises(ConfigError):
        Cosigning.of(tmp_path / "missing")
