"""Shipping OpenLineage events: a server that fails, hangs and comes back loses nothing and holds nothing up."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any, Final

import pytest

from openlineage_rig import Server, drip, hang, serving, status, take, take_and_break
from rigs.faulty_disk import Fault, FaultyDisk
from stopwatch import Stopwatch
from support import wait_until
from tidewaiter.core.errors import ConfigError
from tidewaiter.edges import logs
from tidewaiter.edges.durable import Disk, NoSpace, SyncFailed
from tidewaiter.edges.openlineage_client import LineageClient
from tidewaiter.edges.openlineage_file import append_event, read_plain
from tidewaiter.edges.openlineage_outbox import Outbox
from tidewaiter.shell.openlineage_settings import CREDENTIAL, OpenLineagePart, client_of
from tidewaiter.shell.openlineage_shipping import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Shipping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Hours:
    """A clock that is turned by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Place:
    """A file of events and what ships it."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.file, self.root, self.disk, self.clock = root / "lineage.jsonl", root, disk or Disk(), Hours()
        self.shipping: Shipping | None = None
        self.client: LineageClient | None = None

    def add(self, count: int, size: int = 0) -> None:
        """Write events that are numbered on from those that are there."""
        begin = self.file.read_bytes().count(b"\n") if self.file.exists() else 0
        for number in range(begin, begin + count):
            append_event(Disk(), self.file, json.dumps({"n": number, "x": "y" * size}).encode() + b"\n")

    @property
    def lines(self) -> list[bytes]:
        """What is to arrive."""
        return self.file.read_bytes().splitlines()

    @property
    def end(self) -> int:
        """Where the file ends."""
        return self.file.stat().st_size

    def connect(self, server: Server, timeout: float = 2.0) -> Shipping:
        """Begin as a start does: with the cursor on the disk."""
        client = self.client = LineageClient(server.url, None, timeout=timeout)
        self.shipping = Shipping(self.outbox(), client, timeout, self.clock)
        return self.shipping

    def outbox(self) -> Outbox:
        """Return what is left to ship, as it stands on the disk."""
        return Outbox(
            self.disk, self.root / "cursor.json", self.root / "refused.jsonl",
            lambda first, last: read_plain(self.file, first, last),
        )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Three events that nobody has seen."""
    made = Place(tmp_path)
    made.add(3)
    return made


def test_every_event_arrives_once_and_in_order(place: Place) -> None:
    """The bytes are those of the file, on the path where servers of OpenLineage take them, as JSON."""
    with serving() as server:
        shipping = place.connect(server)
        assert shipping.ship(place.end)
        place.add(2, size=200_000)  # more than is read at once
        assert shipping.ship(place.end)
        assert shipping.ship(place.end)
        shipping.close()
    assert server.taken == place.lines
    assert set(server.paths) == {"/api/v1/lineage"}
    assert {each["Content-Type"] for each in server.headers} == {"application/json"}
    assert (place.outbox().cursor.offset, place.outbox().cursor.sent) == (place.end, 5)


def test_only_what_the_caller_vouches_for_is_sent(place: Place) -> None:
    """A line behind the given end has no audit entry yet; a restart may cut it."""
    with serving() as server:
        shipping = place.connect(server)
        assert shipping.ship(len(place.lines[0]) + 1)
        assert server.taken == place.lines[:1]
        shipping.close()


BAD: dict[str, Callable[..., None]] = {
    "500": status(500), "503": status(503), "429": status(429), "408": status(408), "401": status(401),
    "404": status(404), "301": status(301), "hangs": hang, "drips": drip,
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_nothing_is_lost_when_the_server_fails_and_recovers(place: Place, what: str) -> None:
    """It is asked again when the pause is over, from the event that it did not take; then all come in order."""
    with serving(BAD[what]) as server:
        shipping = place.connect(server, timeout=0.3 if what in ("hangs", "drips") else 10)
        with Stopwatch() as watch:
            assert not shipping.ship(place.end)
        assert watch.seconds < 5
        assert not shipping.ship(place.end)  # not before the pause is over
        assert len(server.asked) == 1
        assert place.outbox().cursor.offset == 0
        server.answer = take

        def all_there() -> bool:
            place.clock.now += 1000
            return shipping.ship(place.end)

        wait_until(all_there, what="the server has them")
        shipping.close()
    assert list(dict.fromkeys(server.taken)) == place.lines  # a slow machine may be asked twice
    assert not (place.root / "refused.jsonl").exists()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 20"])
def test_a_connection_that_breaks_in_the_answer_sends_the_event_again(place: Place, answer: bytes) -> None:
    """Whether it was taken cannot be known: at least once means the same bytes a second time, and no other twice."""
    with serving(take_and_break(answer)) as server:
        shipping = place.connect(server)
        assert not shipping.ship(place.end)
        server.answer = take
        place.clock.now += 10
        assert shipping.ship(place.end)
        shipping.close()
    first, *others = place.lines
    assert server.taken == [first, first, *others]


def test_an_answer_counts_as_soon_as_its_status_is_there(place: Place) -> None:
    """What a server says behind it, whole or not, is of no interest."""
    with serving(take_and_break(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\n{")) as server:
        shipping = place.connect(server)
        assert shipping.ship(place.end)
        shipping.close()
    assert server.taken == place.lines


def test_nobody_there_is_asked_less_and_less(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    """Pauses double up to five minutes, always the same; one warning when it goes and one line when it is back."""
    asked_at: list[float] = []

    def count(server: Server, handler: Any, body: bytes) -> None:
        asked_at.append(place.clock.now)
        status(503)(server, handler, body)

    configured = logs.configure(None, stderr="json", journald=False)
    try:
        with serving(count) as server:
            shipping = place.connect(server)
            for second in range(1200):
                place.clock.now = float(second)
                shipping.ship(place.end)
            assert asked_at == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811, 1111]
            server.answer = take
            place.clock.now += LONGEST_PAUSE_SECONDS
            assert shipping.ship(place.end)
            place.add(1)
            place.clock.now += FIRST_PAUSE_SECONDS / 10
            assert shipping.ship(place.end)
            shipping.close()
    finally:
        configured.close()
    told = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert told == ["openlineage.unreachable", "openlineage.reached"]


@pytest.mark.parametrize("code", [400, 409, 413, 422])
def test_an_event_that_no_server_wants_is_set_aside(place: Place, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    """It is kept with the answer, counted and logged, and those behind it go on."""
    poison = place.lines[1]

    def choosy(server: Server, handler: Any, body: bytes) -> None:
        (status(code) if body == poison else take)(server, handler, body)

    configured = logs.configure(None, stderr="json", journald=False)
    try:
        with serving(choosy) as server:
            shipping = place.connect(server)
            assert shipping.ship(place.end)
            shipping.close()
    finally:
        configured.close()
    assert server.taken == [place.lines[0], place.lines[2]]
    (kept,) = [json.loads(line) for line in (place.root / "refused.jsonl").read_bytes().splitlines()]
    assert (kept["event"], kept["status"], kept["offset"]) == (json.loads(poison), code, len(place.lines[0]) + 1)
    cursor = place.outbox().cursor
    assert (cursor.offset, cursor.sent, cursor.refused) == (place.end, 2, 1)
    (logged,) = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (logged["event"], logged["status"], logged["refused"]) == ("openlineage.refused", code, 1)


LEFT: Final[dict[str, Callable[[bytes], bytes]]] = {
    "whole": lambda line: line,
    "torn": lambda line: line[:-20],
    "zeros": lambda line: bytes(len(line)),
    "zeros and more": lambda line: bytes(len(line) + 4096),
    "nothing": lambda line: b"",
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_a_refused_event_that_no_sync_confirmed_is_written_again(place: Place, left: Callable[[bytes], bytes]) -> None:
    """Whatever a failed sync and a power loss left of its line, it stands in the list once, behind those before it."""
    outbox = place.outbox()
    outbox.set_aside(place.lines[0] + b"\n", 400, "2026-01-01T00:00:00Z")
    before = (place.root / "refused.jsonl").read_bytes()
    failing = Outbox(
        FaultyDisk([Fault("fsync", "refused.jsonl")]), outbox._path, outbox._refused, outbox._read
    )  # fmt: skip
    with pytest.raises(SyncFailed):
        failing.set_aside(place.lines[1] + b"\n", 400, "2026-01-01T00:00:01Z")
    line = (place.root / "refused.jsonl").read_bytes()[len(before) :]
    (place.root / "refused.jsonl").write_bytes(before + left(line))
    again = place.outbox()
    assert again.next(place.end) == place.lines[1] + b"\n"
    again.set_aside(place.lines[1] + b"\n", 400, "2026-01-01T00:00:01Z")
    assert (place.root / "refused.jsonl").read_bytes() == before + line
    assert place.outbox().cursor.refused == 2


def test_refused_events_that_somebody_took_out_stay_out(place: Place) -> None:
    """The list may be moved away once they are dealt with: the next one begins it anew."""
    place.outbox().set_aside(place.lines[0] + b"\n", 400, "2026-01-01T00:00:00Z")
    (place.root / "refused.jsonl").unlink()
    place.outbox().set_aside(place.lines[1] + b"\n", 400, "2026-01-01T00:00:01Z")
    (kept,) = [json.loads(line) for line in (place.root / "refused.jsonl").read_bytes().splitlines()]
    assert kept["event"] == json.loads(place.lines[1])


def test_a_cursor_of_the_version_before_has_its_refused_events_kept(place: Place) -> None:
    """It does not say how much of the list is durable: the next one goes behind all that is there."""
    (place.root / "refused.jsonl").write_bytes(b"{}\n")
    (place.root / "cursor.json").write_bytes(
        b'{"offset":0,"sent":7,"refused":1,"format":"tidewaiter-openlineage-cursor/1"}\n'
    )
    place.outbox().set_aside(place.lines[0] + b"\n", 400, "2026-01-01T00:00:00Z")
    assert (place.root / "refused.jsonl").read_bytes().startswith(b'{}\n{"offset":0,')
    assert place.outbox().cursor.refused == 2


def test_a_restart_goes_on_from_the_cursor(place: Place) -> None:
    """What was taken before is not sent again."""
    with serving() as server:
        shipping = place.connect(server)
        assert shipping.ship(len(place.lines[0]) + 1)
        shipping.close()
        again = place.connect(server)
        assert again.ship(place.end)
        again.close()
    assert server.taken == place.lines


class Refusing(Disk):
    """A disk that has no room for the cursor."""

    full = True

    def _replace(self, source: Path, target: Path) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super()._replace(source, target)


def test_an_answer_whose_cursor_was_lost_means_the_same_bytes_again(tmp_path: Path) -> None:
    """A crash or a full disk between the answer and the cursor: sent twice, never skipped."""
    disk = Refusing()
    place = Place(tmp_path, disk)
    place.add(2)
    with serving() as server:
        shipping = place.connect(server)
        with pytest.raises(NoSpace):
            shipping.ship(place.end)
        shipping.close()
        disk.full = False
        again = place.connect(server)
        assert again.ship(place.end)
        again.close()
    assert server.taken == [place.lines[0], *place.lines]


def test_a_cursor_that_is_none_or_ahead_is_put_right(place: Place) -> None:
    """Damaged: all is sent again. Ahead of a file that was put back: what comes from here on is sent."""
    with serving() as server:
        (place.root / "cursor.json").write_bytes(b'{"offset": "far"}')
        shipping = place.connect(server)
        assert shipping.ship(place.end)
        shipping.close()
        assert server.taken == place.lines
        place.file.write_bytes(place.lines[0] + b"\n")
        again = place.connect(server)
        assert again.ship(place.end)
        place.add(1)
        assert again.ship(place.end)
        again.close()
    assert server.taken[3:] == place.lines[1:]


@pytest.mark.parametrize("script", [hang, drip, status(503)])
def test_the_last_attempt_is_bounded_and_takes_no_heed_of_the_pause(place: Place, script: Callable[..., None]) -> None:
    """At a stop everything is tried once more, for so many seconds at most."""
    with serving(script) as server:
        shipping = place.connect(server, timeout=30)
        with Stopwatch() as watch:
            assert not shipping.ship_last(place.end, 0.4)
        assert watch.seconds < 2
        server.answer = take
        assert shipping.ship_last(place.end, 5)
        shipping.close()
    assert server.taken == place.lines


def test_a_stop_takes_over_the_attempt_that_is_under_way(place: Place) -> None:
    """The event that a slow server is about to take is not sent a second time."""
    asked: list[bool] = []

    def slow(server: Server, handler: Any, body: bytes) -> None:
        wait_until(lambda: asked, what="the stop")
        take(server, handler, body)

    with serving(slow) as server:
        shipping = place.connect(server)
        assert not shipping.ship(place.end, stopped=lambda: bool(server.asked))
        asked.append(True)
        assert shipping.ship_last(place.end, 5)
        shipping.close()
    assert server.taken == place.lines


# -- the server and its key --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["ftp://h/", "h:80", "http://", "http://h:x", "http://u:pw@h/", "http://[::1", "http://h/#f"]
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    """Exit 2; a password in it is not shown."""
    with pytest.raises(ConfigError) as raised:
        LineageClient(url, None, timeout=1)
    assert "pw@" not in str(raised.value)


def test_the_key_comes_from_a_file_that_only_its_owner_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent as a bearer token; a file open to others, an empty one, and one that is missing are refused."""
    key = tmp_path / "key"
    key.write_text("s3cret-token\n", encoding="utf-8")
    key.chmod(0o600)
    with serving() as server:
        client = client_of(OpenLineagePart(url=f"{server.url}/ingest?tenant=7", api_key_file=key))
        assert client is not None
        client.send(b"{}")
        client.close()
        assert server.headers[0]["Authorization"] == "Bearer s3cret-token"
        assert server.paths == ["/ingest?tenant=7"]
        assert "tenant" not in client.shown
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        key.rename(tmp_path / CREDENTIAL)
        handed = client_of(OpenLineagePart(url=server.url))
        assert handed is not None
        handed.send(b"{}")
        handed.close()
        assert server.headers[1]["Authorization"] == "Bearer s3cret-token"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    (tmp_path / CREDENTIAL).rename(key)
    part = OpenLineagePart(url="http://127.0.0.1:1", api_key_file=key)
    for mode, text in ((0o640, "s3cret-token"), (0o604, "s3cret-token"), (0o600, ""), (0o600, "s3cret token")):
        key.write_text(text, encoding="utf-8")
        key.chmod(mode)
        with pytest.raises(ConfigError) as raised:
            client_of(part)
        assert "s3cret" not in str(raised.value), stat.filemode(mode)
    with pytest.raises(ConfigError) as raised:
        client_of(OpenLineagePart(url="http://127.0.0.1:1", api_key_file=tmp_path / "s3cret-token"))
    assert "s3cret" not in str(raised.value)


def test_a_key_does_not_cross_a_network_unencrypted() -> None:
    """Over plain HTTP only to this machine."""
    LineageClient("http://localhost:1", "k", timeout=1)
    LineageClient("http://[::1]:1", "k", timeout=1)
    LineageClient("https://lineage.example", "k", timeout=1)
    LineageClient("http://lineage.example", None, timeout=1)
    with pytest.raises(ConfigError, match="unencrypted"):
        LineageClient("http://lineage.example", "k", timeout=1)
