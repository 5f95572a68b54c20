"""A log in memory, a witness in a process of its own, and the few HTTP calls between them.

Owns: growing a log, signing its checkpoints, starting and ending a witness on loopback. Leaves to the tests what is
sent and what must come back. `rigs.kill` starts a witness, so that it can be told at which write-like call to die.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import signal
import subprocess
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from rigs.kill import KillPoint, driver, environment
from support import PATIENCE, wait_until
from tidewaiter.core.tlog.checkpoints import TreeHead
from tidewaiter.core.tlog.merkle import consistency_proof, leaf_hash, node_hash, root_hash
from tidewaiter.core.tlog.notes import Note, SigningKey, signing_key
from tidewaiter.core.tlog.witnessing import AddCheckpoint
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.witness_server import WitnessServer
from tidewaiter.edges.witness_state import WitnessState
from tidewaiter.shell import witness

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tidewaiter.core.errors import TidewaiterError

SERVE: Final = "rigs.witness:serve"
NAME: Final = "witness.example/w1"
NOW: Final = 1_700_000_000


class Log:
    """A log whose entries are made up; another `fork` has other entries from that size on."""

    def __init__(self, origin: str, *, fork: int | None = None) -> None:
        self.origin = origin
        self.key = signing_key(origin, hashlib.sha256(origin.encode()).digest())
        self._fork = fork

    def node(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree."""
        if level:
            return node_hash(self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1))
        other = self._fork is not None and index >= self._fork
        return leaf_hash(b"entry %d%b\n" % (index, b" of a fork" if other else b""))

    def text(self, size: int) -> bytes:
        """Return the text of the checkpoint of that size."""
        return TreeHead(self.origin, size, root_hash(size, self.node)).text()

    def note(self, size: int, *signers: SigningKey) -> bytes:
        """Return the checkpoint, signed by the log's key or by `signers` instead."""
        text = self.text(size)
        return Note(text, tuple(key.sign(text, 1) for key in signers or (self.key,))).encode()

    def proof(self, old: int, size: int) -> tuple[bytes, ...]:
        """Return the consistency proof."""
        return tuple(consistency_proof(old, size, self.node)) if 0 < old < size else ()

    def request(self, old: int, size: int) -> bytes:
        """Return a correct request to go on from `old`."""
        return AddCheckpoint(old=old, proof=self.proof(old, size), note=self.note(size)).encode()

    @property
    def monitored(self) -> str:
        """Where a witness serves its newest checkpoint of this log."""
        return f"/{hashlib.sha256(self.origin.encode()).hexdigest()}/checkpoint"


# -- the files of a witness --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a witness keeps its state, key and policy."""

    root: Path
    key: SigningKey

    @classmethod
    def make(cls, root: Path, logs: Iterable[Log], name: str = NAME) -> Self:
        """Write key and policy of a witness for these logs."""
        root.mkdir(parents=True, exist_ok=True)
        key = signing_key(name, hashlib.sha256(name.encode()).digest(), 0x04)
        (root / "key").write_text(f"{key.encode()}\n", encoding="utf-8")
        (root / "key").chmod(0o600)
        lines = [f"log {log.key.verifier}" for log in logs]
        (root / "policy").write_text("\n".join([*lines, "quorum none", ""]), encoding="utf-8")
        return cls(root, key)

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.root / "state"

    def kept(self, log: Log) -> Path:
        """Return the file with the newest checkpoint of a log."""
        return self.state / "checkpoints" / log.monitored.split("/")[1]

    @property
    def options(self) -> witness.WitnessOptions:
        """What the witness is told: it listens on a port that is free."""
        return witness.WitnessOptions(
            state=self.state, key=self.root / "key", policy=self.root / "policy", listen="127.0.0.1:0"
        )


def serve(disk: Disk, root: str, name: str = NAME) -> int:
    """Run the witness of a `Place`: a target for `rigs.kill`."""
    return witness.serve(Place(Path(root), signing_key(name, bytes(32), 0x04)).options, disk=disk)


def state_of(place: Place, *logs: Log, disk: Disk | None = None, seconds: int = NOW) -> WitnessState:
    """Return the state of a witness in this process; its clock stands."""
    (disk or Disk()).make_directory(place.state)
    known = {log.origin: (log.key.verifier,) for log in logs}
    return WitnessState(disk or Disk(), place.state, place.key, known, lambda: seconds)


@contextmanager
def listening(
    state: WitnessState, *, request_seconds: float = 10, connections: int = 10
) -> Iterator[tuple[str, list[TidewaiterError]]]:
    """Answer in this process, with other limits; give the URL and the errors that would end the process."""
    errors: list[TidewaiterError] = []
    with WitnessServer(
        ("127.0.0.1", 0), state, errors.append, request_seconds=request_seconds, connections=connections
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.url, errors
        finally:
            server.shutdown()
            thread.join()


# -- a process ---------------------------------------------------------------------------------------------------------


class Running:
    """A witness in a process of its own; leaving the block kills it if it still runs."""

    def __init__(self, place: Place, point: KillPoint | None = None, calls: Path | None = None) -> None:
        """With `point`, it dies there; `calls` gets its write-like calls."""
        self._place = place
        self._command = driver(SERVE, {"root": str(place.root)}, point, calls)
        self._stderr = place.root / "stderr"
        self.url = ""

    def __enter__(self) -> Self:
        with self._stderr.open("wb") as file:
            self.process = subprocess.Popen(
                self._command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file
            )
        try:
            wait_until(lambda: self.events("witness.started") or self.process.poll() is not None, what="the witness")
            assert self.process.poll() is None, self._stderr.read_text(encoding="utf-8")
        except BaseException:
            self.__exit__()
            raise
        self.url = self.events("witness.started")[0]["url"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # does nothing to one that has ended
        self.process.wait()

    def stop(self) -> int:
        """End it as systemd does; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        lines = self._stderr.read_bytes().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"\n")]
        return [entry for entry in entries if entry["event"] == name]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    content_type: str | None


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> Answer:
    """Make one request on a connection, which stays open where the server lets it."""
    connection.request(method, path, body)
    response = connection.getresponse()
    return Answer(response.status, response.read(), response.getheader("Content-Type"))


def connect(url: str, timeout: float = 10) -> http.client.HTTPConnection:
    """Return a connection to a witness."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


def post(url: str, body: bytes) -> Answer:
    """Submit a checkpoint on a connection of its own."""
    with closing(connect(url)) as connection:
        return ask(connection, "POST", "/add-checkpoint", body)


def get(url: str, path: str) -> Answer:
    """Look something up on a connection of its own."""
    with closing(connect(url)) as connection:
        return ask(connection, "GET", path)


# -- the specifications, read once more --------------------------------------------------------------------------------


def check_by_hand(vkey: str, text: bytes, lines: bytes) -> Sequence[int]:
    """Verify cosignature lines with nothing but the specifications' words and `cryptography`; return their times.

    Raises InvalidSignature.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - nothing else here may use it
        Ed25519PublicKey,
    )

    name, key_id, encoded = vkey.split("+", 2)
    key = base64.b64decode(encoded)
    assert key[0] == 0x04
    assert hashlib.sha256(name.encode() + b"\n" + key).digest()[:4].hex() == key_id
    times = []
    for line in lines.decode().splitlines():
        dash, signer, signature = line.split(" ")
        blob = base64.b64decode(signature, validate=True)
        assert (dash, signer, blob[:4].hex(), len(blob)) == ("—", name, key_id, 4 + 8 + 64)
        seconds = int.from_bytes(blob[4:12], "big")
        message = b"cosignature/v1\n" + f"time {seconds}\n".encode() + text
        Ed25519PublicKey.from_public_bytes(key[1:]).verify(blob[12:], message)
        times.append(seconds)
    return times
