"""The witness: what it answers, what it remembers, and that it never cosigns two histories of one log."""

from __future__ import annotations

import base64
import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from rigs.kill import KILLED, KillPoint
from rigs.witness import Answer, Log, Place, Running, ask, check_by_hand, connect, get, listening, post, state_of
from stopwatch import Stopwatch
from support import PATIENCE, wait_until
from tidewaiter.core.tlog.merkle import EMPTY_ROOT
from tidewaiter.core.tlog.notes import Note, Signature, parse_note, signing_key
from tidewaiter.core.tlog.witnessing import AddCheckpoint
from tidewaiter.edges.witness_server import BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


NOW = 1_700_000_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Place, Iterator[Log]]]:
    """A real witness process, and logs that it knows, each to be used by one test."""
    logs = [Log(f"log.example/{number}") for number in range(32)]
    place = Place.make(tmp_path_factory.mktemp("witness"), logs)
    with Running(place) as running:
        yield running, place, iter(logs)
        assert running.stop() == 0, "SIGTERM ends it cleanly"


@pytest.fixture
def url(served: tuple[Running, Place, Iterator[Log]]) -> str:
    """Where the process listens."""
    return served[0].url


@pytest.fixture
def log(served: tuple[Running, Place, Iterator[Log]]) -> Log:
    """A log that the witness knows and has not seen yet."""
    return next(served[2])


@pytest.fixture
def vkey(served: tuple[Running, Place, Iterator[Log]]) -> str:
    """The witness's verifier key."""
    return str(served[1].key.verifier)


# -- what it answers ---------------------------------------------------------------------------------------------------


def test_a_consistent_checkpoint_is_cosigned(url: str, log: Log, vkey: str) -> None:
    """200: the first checkpoint of a log and one that goes on from it; the cosignatures verify by hand."""
    for old, size in ((0, 3), (3, 7), (7, 8)):
        before = int(time.time())
        answer = post(url, log.request(old, size))
        assert answer.status == 200
        (seconds,) = check_by_hand(vkey, log.text(size), answer.body)
        assert before <= seconds <= time.time()


def test_an_empty_log_is_cosigned(url: str, log: Log, vkey: str) -> None:
    """A tree of size zero has the root of the empty tree, and what follows needs no proof."""
    check_by_hand(vkey, log.text(0), post(url, log.request(0, 0)).body)
    check_by_hand(vkey, log.text(5), post(url, log.request(0, 5)).body)


def test_the_same_checkpoint_is_cosigned_again(url: str, log: Log, vkey: str) -> None:
    """A log whose answer was lost asks again: same size, same root, no proof."""
    post(url, log.request(0, 6))
    check_by_hand(vkey, log.text(6), post(url, log.request(6, 6)).body)


def test_extension_lines_are_cosigned_as_they_are(url: str, log: Log, vkey: str) -> None:
    """The message has the whole text of the checkpoint."""
    text = log.text(4) + b"extension\n"
    answer = post(url, AddCheckpoint(old=0, proof=(), note=Note(text, (log.key.sign(text),)).encode()).encode())
    check_by_hand(vkey, text, answer.body)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.removeprefix(b"old 3\n"),
        lambda body: body.replace(b"old 3\n", b"old 03\n"),
        lambda body: body.replace(b"old 3\n", b"old -3\n"),
        lambda body: body.replace(b"old 3\n", b"old 99999999999999999999\n"),
        lambda body: body.replace(b"old 3\n", b"old 9\n"),
        lambda body: body.replace(b"old 3\n", b"OLD 3\n"),
        lambda body: body.replace(b"\n\nlog", b"\nlog"),
        lambda body: body.replace(b"old 3\n", b"old 3\n" + 63 * b"A" * 43 + b"=\n"),
        lambda body: body.replace(b"old 3\n", b"old 3\n" + 64 * (43 * b"A" + b"=\n")),
        lambda body: body.partition("\n—".encode())[0],
        lambda body: body[:-1],
        lambda body: body.replace(b"\n7\n", b"\n07\n"),
        lambda body: body.replace(b"\n7\n", b"\n7\n\x01\n"),
        lambda body: b"",
        lambda body: b"\xff" * 100,
        lambda body: b"\n" * BODY_BYTES,
    ],
)  # fmt: skip
def test_what_is_no_request_is_400(url: str, log: Log, change: Callable[[bytes], bytes]) -> None:
    """400: malformed old size, proof or note, or an old size above the checkpoint's; nothing is remembered."""
    assert post(url, change(log.request(3, 7))).status == 400
    assert get(url, log.monitored).status == 404


def test_a_note_of_another_key_is_403(url: str, log: Log) -> None:
    """403: no signature of a key of this log, whatever name the key has."""
    strangers = (signing_key(log.origin, bytes(32)), signing_key("log.example/stranger", bytes(32)))
    for stranger in strangers:
        request = AddCheckpoint(old=0, proof=(), note=log.note(3, stranger))
        assert post(url, request.encode()).status == 403


def test_a_broken_signature_of_the_key_is_403(url: str, log: Log) -> None:
    """403: name and id are those of the log's key but the signature does not hold, even beside one that does."""
    good = parse_note(log.note(3)).signatures[0]
    bad = Signature(good.name, good.key_id, bytes(64))
    for signatures in ((bad,), (good, bad), (bad, good)):
        note = Note(log.text(3), signatures).encode()
        assert post(url, AddCheckpoint(old=0, proof=(), note=note).encode()).status == 403


def test_an_unknown_log_is_404(url: str) -> None:
    """404: an origin that is in no line of the policy, however well signed."""
    assert post(url, Log("log.example/unknown").request(0, 3)).status == 404


def test_another_old_size_is_409_with_the_right_one(url: str, log: Log) -> None:
    """409: the size of the newest cosigned checkpoint as text/x.tlog.size, zero where there is none."""
    assert post(url, log.request(3, 7)) == Answer(409, b"0\n", "text/x.tlog.size")
    post(url, log.request(0, 6))
    for old, size in ((0, 6), (0, 7), (5, 7), (7, 7)):
        assert post(url, log.request(old, size)) == Answer(409, b"6\n", "text/x.tlog.size")


def test_a_log_that_was_rolled_back_is_not_cosigned(
    url: str, log: Log, served: tuple[Running, Place, Iterator[Log]]
) -> None:
    """An older checkpoint, though signed, gets no cosignature, what was cosigned stays, and an error is logged."""
    post(url, log.request(0, 10))
    kept = get(url, log.monitored)
    assert post(url, log.request(5, 5)) == Answer(409, b"10\n", "text/x.tlog.size")
    assert post(url, AddCheckpoint(old=10, proof=(), note=log.note(6)).encode()).status == 400
    fork = Log(log.origin, fork=8)
    assert post(url, fork.request(4, 10)) == Answer(409, b"10\n", "text/x.tlog.size")
    assert get(url, log.monitored) == kept
    found = [
        entry for entry in served[0].events("witness.inconsistent") if entry["checkpoint"].startswith(f"{log.origin}\n")
    ]
    assert [entry["level"] for entry in found] == ["error"] * 3
    assert [entry["checkpoint"] for entry in found] == [
        note.decode() for note in (log.note(5), log.note(6), fork.note(10))
    ]


def test_a_log_that_guessed_the_old_size_wrong_is_no_alarm(
    url: str, log: Log, served: tuple[Running, Place, Iterator[Log]]
) -> None:
    """After a restart it does not know where the witness is: a checkpoint that goes on from there is told the size."""
    post(url, log.request(0, 10))
    for old, size in ((0, 10), (3, 12)):
        assert post(url, log.request(old, size)).status == 409
    assert post(url, log.request(10, 12)).status == 200
    assert not [
        entry for entry in served[0].events("witness.inconsistent") if entry["checkpoint"].startswith(f"{log.origin}\n")
    ]
    assert len([entry for entry in served[0].events("witness.refused") if "10 entries" in entry["reason"]]) >= 2


def test_a_fork_is_422(url: str, log: Log, served: tuple[Running, Place, Iterator[Log]]) -> None:
    """422: another root for the same size, or a larger tree that the cosigned one is no prefix of; it is logged."""
    post(url, log.request(0, 10))
    fork = Log(log.origin, fork=8)
    for old, size in ((10, 10), (10, 12), (10, 20)):
        assert post(url, fork.request(old, size)).status == 422
    assert get(url, log.monitored).body.startswith(log.text(10))
    found = [entry["checkpoint"] for entry in served[0].events("witness.inconsistent")]
    assert fork.note(12).decode() in found


def test_a_wrong_proof_is_422(url: str, log: Log) -> None:
    """422: hashes missing, too many, in another order, or any at all where none is needed."""
    post(url, log.request(0, 6))
    proof = log.proof(6, 11)
    wrong = ((), proof[:-1], (*proof, proof[0]), tuple(reversed(proof)), (bytes(32), *proof[1:]))
    for hashes in wrong:
        assert post(url, AddCheckpoint(old=6, proof=hashes, note=log.note(11)).encode()).status == 422
    assert post(url, AddCheckpoint(old=6, proof=proof[:1], note=log.note(6)).encode()).status == 422
    assert post(url, log.request(6, 11)).status == 200


def test_a_first_checkpoint_takes_no_proof(url: str, log: Log) -> None:
    """422: the empty tree is a prefix of any, so a proof from it is none; and it has one root only."""
    assert post(url, AddCheckpoint(old=0, proof=(bytes(32),), note=log.note(5)).encode()).status == 422
    text = log.text(0).replace(_base64(EMPTY_ROOT), _base64(bytes(32)))
    note = Note(text, (log.key.sign(text),)).encode()
    assert post(url, AddCheckpoint(old=0, proof=(), note=note).encode()).status == 422


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data)


def test_of_many_requests_at_once_one_is_cosigned(url: str, log: Log) -> None:
    """Twenty forks of one log at the same moment: one gets a cosignature, the others a conflict."""
    post(url, log.request(0, 4))
    requests = [Log(log.origin, fork=4 + number % 4).request(4, 8 + number) for number in range(20)]
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(lambda body: post(url, body), requests))
    assert sorted(answer.status for answer in answers) == [200] + 19 * [409]
    (cosigned,) = (number for number, answer in enumerate(answers) if answer.status == 200)
    assert {answer.body for answer in answers if answer.status == 409} == {b"%d\n" % (8 + cosigned)}


def test_monitors_get_what_was_cosigned(url: str, log: Log, vkey: str) -> None:
    """The newest checkpoint with the log's signature and the witness's; signatures of strangers are left out."""
    assert get(url, log.monitored).status == 404
    stranger = signing_key("stranger.example", bytes(32))
    answer = post(url, AddCheckpoint(old=0, proof=(), note=log.note(3, stranger, log.key)).encode())
    found = get(url, log.monitored)
    assert found.status == 200
    assert found.body == log.note(3) + answer.body
    check_by_hand(vkey, log.text(3), answer.body)


def test_a_connection_is_kept(url: str, log: Log) -> None:
    """Several requests, refused ones among them, are answered on one connection."""
    with closing(connect(url)) as connection:
        connection.connect()
        used = connection.sock
        statuses = [
            ask(connection, "POST", "/add-checkpoint", body).status
            for body in (b"", log.request(3, 5), log.request(0, 3), log.request(3, 5))
        ]
        assert statuses == [400, 409, 200, 200]
        assert connection.sock is used


# -- limits ------------------------------------------------------------------------------------------------------------


def exchange(url: str, data: bytes) -> bytes:
    """Send bytes as they are and return everything that comes back until the server closes."""
    with closing(connect(url)) as connection:
        connection.connect()
        assert connection.sock is not None
        try:
            connection.sock.sendall(data)
            return b"".join(iter(lambda: connection.sock.recv(1 << 16), b""))
        except ConnectionResetError:  # it closed while we were sending
            return b""


POST = b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (POST + b"Content-Length: %d\r\n\r\n" % (BODY_BYTES + 1), 413),
        (POST + b"Content-Length: 99999999999\r\n\r\n", 400),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (POST + b"\r\n", 411),
        (POST + b"A: " + (65 << 10) * b"a" + b"\r\n\r\n", 431),
        (POST + 200 * b"A: b\r\n" + b"\r\n", 431),
        (POST + 80 * (b"A: " + 1000 * b"a" + b"\r\n") + b"\r\n", 431),
        (b"GET /" + (65 << 10) * b"a" + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /add-checkpoint HTTP/1.1\r\n\r\n", 405),
        (b"POST /" + 64 * b"0" + b"/checkpoint HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"POST /elsewhere HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"DELETE /add-checkpoint HTTP/1.1\r\n\r\n", 501),
        (b"GET / HTTP/9\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_what_is_too_large_or_not_for_it_is_refused(url: str, request_: bytes, status: int) -> None:
    """The request is refused by its head alone, and the connection ends."""
    answer = exchange(url, request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]


def test_a_client_that_drips_is_cut_off(tmp_path: Path) -> None:
    """A request has so much time as a whole: a byte now and then does not extend it, in its head or its body."""
    log = Log("log.example/slow")
    with listening(state_of(Place.make(tmp_path, [log]), log), request_seconds=0.3) as (url, _):
        for head in (b"", POST + b"Content-Length: 1000\r\n\r\n"):
            with closing(connect(url)) as connection:
                connection.connect()
                assert connection.sock is not None
                connection.sock.sendall(head)
                began = time.monotonic()
                connection.sock.settimeout(0.02)
                with Stopwatch() as watch:
                    while watch.seconds < 5:
                        try:
                            connection.sock.sendall(b"a")
                            if not connection.sock.recv(1):
                                break
                        except TimeoutError:
                            continue
                        except ConnectionError:
                            break
                assert time.monotonic() - began > 0.2
                assert watch.seconds < 2


def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    """Idle connections take places, not threads without end; when one goes, the next is let in."""
    log = Log("log.example/many")
    with listening(state_of(Place.make(tmp_path, [log]), log), connections=2, request_seconds=30) as (url, _):
        with closing(connect(url)) as first, closing(connect(url)) as second:
            for connection in (first, second):
                assert ask(connection, "GET", log.monitored).status == 404  # it has its thread
            assert exchange(url, b"").startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: get_status(url, log) == 404, what="a free place")


def get_status(url: str, log: Log) -> int:
    """Return the status of one look-up; zero where the connection was reset behind the answer."""
    try:
        return get(url, log.monitored).status
    except (ConnectionError, http.client.HTTPException):
        return 0


# -- what it remembers -------------------------------------------------------------------------------------------------


def test_a_restart_remembers(tmp_path: Path) -> None:
    """SIGTERM ends it with 0; the next start serves the same bytes and refuses a fork and a roll-back."""
    log = Log("log.example/kept")
    place = Place.make(tmp_path, [log])
    with Running(place) as running:
        post(running.url, log.request(0, 9))
        kept = get(running.url, log.monitored)
        assert running.stop() == 0
    with Running(place) as running:
        assert running.events("witness.started")[0]["sizes"] == {log.origin: 9}
        assert get(running.url, log.monitored) == kept
        assert post(running.url, Log(log.origin, fork=5).request(9, 12)).status == 422
        assert post(running.url, log.request(4, 4)).body == b"9\n"
        assert post(running.url, log.request(9, 12)).status == 200


def test_killed_between_the_disk_and_the_reply(tmp_path: Path) -> None:
    """Kill -9 when the checkpoint is durable and the answer is not sent: the log asks again and is cosigned."""
    log = Log("log.example/killed")
    place = Place.make(tmp_path, [log])
    calls = tmp_path / "calls"
    with Running(place, calls=calls) as running:
        post(running.url, log.request(0, 3))
        before = len(calls.read_text(encoding="utf-8").splitlines())
        post(running.url, log.request(3, 4))
        each = len(calls.read_text(encoding="utf-8").splitlines()) - before
    place = Place.make(tmp_path / "again", [log])
    with Running(place, KillPoint(before + each, "after")) as running:
        assert post(running.url, log.request(0, 3)).status == 200
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            post(running.url, log.request(3, 7))
        assert running.process.wait(PATIENCE) == KILLED
    with Running(place) as running:
        assert post(running.url, log.request(3, 7)) == Answer(409, b"7\n", "text/x.tlog.size")
        answer = post(running.url, log.request(7, 7))
        check_by_hand(str(place.key.verifier), log.text(7), answer.body)
