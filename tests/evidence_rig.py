"""A finished, signed state directory, and the hands of somebody who changes it afterwards.

Owns: making one state directory of several audit segments, checkpoints, snapshots and two runs, once for the process;
copies of it; rewriting a log so that everything in it agrees again (`forge`); cosigning. Leaves to the tests what is
changed, and what must be noticed.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from rigs import daemon
from rigs.daemon import make_settings, make_stream
from tidewaiter.core import audit
from tidewaiter.core.audit import BatchCommitted, running_hash
from tidewaiter.core.ledger import AuditMark, Ledger, encode_checkpoint, units
from tidewaiter.core.tlog.notes import Note, SigningKey, parse_note, signing_key
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.journal import segment_name
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.edges.tree_follower import TreeFollower
from tidewaiter.shell.settings import EvidencePart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidewaiter.shell.settings import Settings

ORIGIN: Final = "bank.example/log"
KEY: Final = signing_key(ORIGIN, bytes(range(32)))
OTHER_KEY: Final = signing_key(ORIGIN, bytes(range(1, 33)))
WITNESS: Final = signing_key("witness.example/w1", bytes(range(2, 34)), 0x04)
EVENTS: Final = 3000
FIRST_RUN: Final = 1800
"""So many events were there at the end of the first run."""
_PREV: Final = len('{"prev":"","index":') + 64


@dataclass(frozen=True)
class Home:
    """A state directory with its stream. `older` is the state as it was after the first run."""

    place: Path

    @property
    def state(self) -> Path:
        return self.place / "state"

    @property
    def older(self) -> Path:
        return self.place / "older"

    @property
    def stream(self) -> Path:
        return self.place / "events.jsonl"

    @property
    def key_file(self) -> Path:
        return self.place / "key"

    @property
    def tree(self) -> TreeFiles:
        return TreeFiles(self.state)

    def segments(self) -> list[Path]:
        """Return the audit segments in order."""
        return sorted((self.state / "audit").glob("audit-*.jsonl"))

    def settings(self, state: Path | None = None) -> Settings:
        """Return the settings that it was made with."""
        return settings(self.stream, state or self.state, self.key_file)

    def checkpoint(self, name: str = "held") -> Path:
        """Return a copy of the newest checkpoint, held outside."""
        held = self.place / name
        shutil.copy(self.state / "tlog" / "checkpoint", held)
        return held


def settings(stream: Path, state: Path, key: Path | None, **changes: Any) -> Settings:
    """Return settings of a daemon that signs with `key`, with small segments and many batches and snapshots."""
    made = make_settings(
        stream, state, **{"segment_bytes": 100_000, "batch_bytes": 20_000, "snapshot_events": 500, **changes}
    )
    return replace(made, evidence=EvidencePart(key=key))


def fresh(place: Path) -> Home:
    """Return a copy of the finished state directory in `place`, to do with as one likes."""
    shutil.copytree(_master(), place / "home", symlinks=True)
    home = Home(place / "home")
    for state in (home.state, home.older):
        owner = json.loads((state / "stream.json").read_bytes())
        (state / "stream.json").write_text(json.dumps({**owner, "path": str(home.stream)}), encoding="utf-8")
    return home


@cache
def _master() -> Path:
    place = Path(tempfile.mkdtemp(prefix="tidewaiter-evidence-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    home = Home(place)
    write_key(home.key_file, KEY)
    make_stream(home.stream, EVENTS)
    whole = home.stream.read_bytes()
    home.stream.write_bytes(b"".join(whole.splitlines(keepends=True)[:FIRST_RUN]))
    daemon.succeed(home.settings())
    shutil.copytree(home.state, home.older)
    home.stream.write_bytes(whole)
    daemon.succeed(home.settings())
    return place


def write_key(path: Path, key: SigningKey) -> None:
    """Write a key file as `tidewaiter keys new` leaves one."""
    path.write_text(key.encode() + "\n", encoding="ascii")
    path.chmod(0o600)


# -- lines -------------------------------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[bytes]:
    """Return the lines of a file with their newlines."""
    return path.read_bytes().splitlines(keepends=True)


def write_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Put lines in place of a file's content."""
    path.write_bytes(b"".join(lines))


def flip(path: Path, offset: int) -> None:
    """Change one bit of one byte."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


# -- a log made to agree with itself again -----------------------------------------------------------------------------


def forge(
    state: Path, change: Callable[[int, bytes], bytes | None], keys: Sequence[SigningKey], *, agree: bool = True
) -> None:
    """Rewrite the whole state directory so that everything agrees: chain, batches, projections, tree, checkpoints.

    `change` gets the index and line of each entry and returns what stands in its place, of which prev and index are
    filled in, or None to leave the entry out with all that follow. Records keep their lengths. The log ends up with one
    checkpoint, signed with `keys`. Snapshots go: nothing needs them. With `agree` False, what batches and the
    beginnings of segments say is left as `change` made it.
    """
    segments = sorted((state / "audit").glob("audit-*.jsonl"))
    ledger, head, index = Ledger(), audit.GENESIS, 0
    projections: dict[str, list[bytes]] = {name: [] for name in audit.PROJECTIONS}
    actions = {action: name for name, action in audit.PROJECTIONS.items()}
    batch: dict[str, bytes] = dict.fromkeys(audit.PROJECTIONS, b"")
    before: tuple[str | None, int] = (None, 0)
    mark, going = AuditMark("", 0, 0, head), True
    for path in segments:
        written = []
        for line in lines_of(path) if going else ():
            changed = change(index, line)
            if changed is None:
                going = False
                break
            entry = audit.read_head(changed)
            assert entry is not None
            if entry.action == audit.SEGMENT_OPENED and agree:
                changed = _with(changed, predecessor=before[0], predecessor_length=before[1])
            elif entry.action in actions:
                name = actions[entry.action]
                batch[name] += audit.record_of(changed)
            elif entry.action == audit.BATCH_COMMITTED:
                changed = _recommitted(changed, ledger, batch) if agree else changed
                for name, data in batch.items():
                    projections[name].append(data)
                batch = dict.fromkeys(audit.PROJECTIONS, b"")
            body = changed[_PREV + len(str(entry.index)) :]
            changed = b'{"prev":"%b","index":%d%b' % (head.encode(), index, body)
            if entry.action not in actions:
                ledger.apply(next(units([changed], index, head)))
            head, index = hashlib.sha256(changed).hexdigest(), index + 1
            written.append(changed)
        path.unlink()
        if written:
            target = path.with_name(segment_name(index - len(written)))
            write_lines(target, written)
            before = (target.name, target.stat().st_size)
            mark = AuditMark(target.name, before[1], index, head)
    _rewrite_projections(state, {name: b"".join(parts) for name, parts in projections.items()})
    (state / "checkpoint.json").write_bytes(encode_checkpoint(ledger, mark, "2026-01-01T00:00:00.000000Z"))
    for path in (state / "snapshots").iterdir():
        path.unlink()
    sign_anew(state, ledger.origin, mark, keys)


def _with(line: bytes, **members: Any) -> bytes:
    return msgspec.json.encode(json.loads(line) | members) + b"\n"


def _recommitted(line: bytes, ledger: Ledger, batch: dict[str, bytes]) -> bytes:
    commit = msgspec.json.decode(line, type=BatchCommitted)
    marks = {}
    for name, mark in commit.projections.items():
        old = ledger.mark(name)
        digest = running_hash(old.sha256, batch[name]) if batch[name] else old.sha256
        marks[name] = msgspec.structs.replace(mark, length=old.length + len(batch[name]), sha256=digest)
    return _with(line, projections=msgspec.to_builtins(marks))


def _rewrite_projections(state: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        parts = sorted(state.glob(f"{name}-*.jsonl"))
        bases = [int(path.stem[len(name) + 1 :]) for path in parts]
        for path, base in zip(parts, bases, strict=True):
            size = path.stat().st_size
            path.write_bytes(content[base : base + size])
            if base + size > len(content):  # cut before it was sealed
                path.rename(state / f"{name}.jsonl")
        sealed = sum(path.stat().st_size for path in parts if path.exists())
        (state / f"{name}.jsonl").write_bytes(content[sealed:])


def sign_anew(state: Path, origin: str, mark: AuditMark, keys: Sequence[SigningKey]) -> None:
    """Make tree, tiles and one checkpoint anew."""
    shutil.rmtree(state / "tlog", ignore_errors=True)
    follower = TreeFollower(Disk(), state, origin, mark)
    follower.catch_up(mark)
    follower.publish(keys, 0)


# -- witnesses ---------------------------------------------------------------------------------------------------------


def cosign(state: Path, at: int, witness: SigningKey = WITNESS) -> Path:
    """Have the newest checkpoint cosigned at `at` (seconds since 1970); return what the witness holds of it."""
    note = parse_note((state / "tlog" / "checkpoint").read_bytes())
    cosigned = Note(note.text, (*note.signatures, witness.sign(note.text, at)))
    TreeFiles(state).write_witnessed(Disk(), cosigned.encode())
    held = state.parent / f"held-by-witness-{at}"
    held.write_bytes(cosigned.encode())
    return held


def write_policy(place: Path, log: SigningKey = KEY, witness: SigningKey = WITNESS) -> Path:
    """Write a policy that asks for one witness."""
    path = place / "policy"
    path.write_text(f"log {log.verifier}\nwitness w1 {witness.verifier}\nquorum w1\n", encoding="utf-8")
    return path
