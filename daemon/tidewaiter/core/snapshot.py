"""The snapshot format: everything a start needs so that it does not have to begin at the first event.

Owns: the bytes of a snapshot, versioned and hashed. Leaves to `edges.snapshots` files and retention, to the ruleset the
inside of its own state, and to recovery the question which snapshot counts.

Format 1: the line ``tidewaiter-snapshot/1``; then frames of a 4-byte little-endian length and that many bytes of
MessagePack; then a zero length and the SHA-256 of everything before it. The first frame is the `Header`; each further
one is a pair of a tag and its content: ``["ids", n, [id, …]]`` for a chunk of the n-th set of the duplicate horizon, or
``["rules", 0, bytes]`` for a slice of the ruleset's state. The oldest ids come first: so the next snapshot, but for one
behind the end of a period, begins with the same frames, and they are copied from file to file.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.audit import UNREADABLE
from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.ledger import AuditMark, Ledger
from tidewaiter.core.scenarios import FrozenState
from tidewaiter.core.scenarios.state_format_1 import is_format_1, read_format_1
from tidewaiter.core.screening import EPOCH, MICROSECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidewaiter.core.engine import Engine

MAGIC: Final = b"tidewaiter-snapshot/1\n"
_SLICE: Final = 2_000
BLOCK_BYTES: Final = 1 << 20


class Header(Struct, frozen=True):
    """What was committed when the state was taken. `effective` (since 1970) and `horizon` in microseconds."""

    audit: AuditMark
    ledger: Ledger
    effective: int | None
    horizon: int
    period: int


class Frozen(Struct, gc=False):
    """The state at a batch boundary, copied so shallowly that the engine may go on at once.

    `ids` are the chunks of each set, current period first. In one `life` of them, and one period, nothing becomes of
    them but that chunks of that period are added.
    """

    header: Header
    life: object
    ids: list[list[list[str]]]
    rules: FrozenState


def freeze(engine: Engine, ledger: Ledger, mark: AuditMark) -> Frozen:
    """Take the engine's state as of the last commit; about 0.2 microseconds per key."""
    period, ids = engine.screening.seen.freeze()
    effective = engine.screening.effective
    header = Header(
        audit=mark,
        ledger=ledger,
        effective=None if effective is None else (effective - EPOCH) // MICROSECOND,
        horizon=engine.policy.duplicate_horizon,
        period=period,
    )
    return Frozen(header, engine.screening.seen.life, ids, engine.rules.freeze())


class IdFrames(Struct):
    """Where the frames of ids stand in a snapshot's file, for the one after it; empty before the first.

    They take the bytes from `begin` up to `end`, whose SHA-256 is `sha256`, and hold `chunks` chunks: those that there
    were in this `life` of the ids, when `period` was the current one.
    """

    life: object = None
    period: int = 0
    chunks: int = 0
    begin: int = 0
    end: int = 0
    sha256: bytes = b""

    def begins(self, frozen: Frozen) -> bool:
        """Return whether the frames of `frozen` begin with these: no set has got another number, or was forgotten."""
        return self.life is frozen.life and self.period == frozen.header.period


class Changed(Exception):  # noqa: N818 - named for what happened
    """The frames that were to be copied are not as they were written."""


def encode(
    frozen: Frozen,
    whole: hashlib._Hash | None = None,
    ids: IdFrames | None = None,
    written: Callable[[int, int], Iterator[bytes]] | None = None,
) -> Iterator[bytes]:
    """Yield the snapshot's bytes in blocks of about BLOCK_BYTES, the last one with the hash of all before it.

    `whole`, a new SHA-256, is left with that of all that was yielded. `ids` says where the frames of ids stand in the
    file of the snapshot before, and afterwards, where they stand in this one; `written` yields the bytes of that file
    from one place up to another. The bytes are the same without them; encoding millions of ids takes seconds of the
    interpreter's time.

    No step takes long, so that another thread can run in between; and there are few blocks, because whoever hashes or
    writes one lets the interpreter go and then has to wait for it.

    Raises Changed, where what `written` yields is not what it was: nothing that was yielded is of use then.
    """
    digest = hashlib.sha256() if whole is None else whole
    parts: list[bytes] = []
    size = 0
    for part in _parts(frozen, ids, written):
        parts.append(part)
        size += len(part)
        if size >= BLOCK_BYTES:
            block = part if len(parts) == 1 else b"".join(parts)
            parts, size = [], 0
            digest.update(block)
            yield block
    block = b"".join(parts)
    digest.update(block)
    end = bytes(4) + digest.digest()
    digest.update(end)
    yield block + end


def _parts(
    frozen: Frozen, ids: IdFrames | None, written: Callable[[int, int], Iterator[bytes]] | None
) -> Iterator[bytes]:
    """Yield the bytes before the end mark, in parts of any size up to BLOCK_BYTES and a frame, or as `written` does."""
    header = b"".join((MAGIC, *_framed(msgspec.msgpack.encode(frozen.header))))
    yield header
    begin = end = len(header)
    of_ids = hashlib.sha256()
    copied = 0
    if ids is not None and written is not None and ids.begins(frozen):
        for block in written(ids.begin, ids.end):
            of_ids.update(block)
            end += len(block)
            yield block
        if of_ids.digest() != ids.sha256:
            raise Changed
        copied = ids.chunks
    for block in _blocks(_id_frames(frozen.ids, copied)):
        of_ids.update(block)
        end += len(block)
        yield block
    if ids is not None:
        ids.life, ids.period, ids.chunks = frozen.life, frozen.header.period, sum(map(len, frozen.ids))
        ids.begin, ids.end, ids.sha256 = begin, end, of_ids.digest()
    yield from _blocks(msgspec.msgpack.encode(["rules", 0, part]) for part in frozen.rules.encode_chunks())


def _id_frames(ids: list[list[list[str]]], first: int) -> Iterator[bytes]:
    """Yield the frames of the chunks from the `first` on, oldest set first."""
    pack = msgspec.msgpack.encode
    numbered = ((number, chunk) for number in reversed(range(len(ids))) for chunk in ids[number])
    for number, chunk in islice(numbered, first, None):
        for at in range(0, len(chunk), _SLICE):
            yield pack(["ids", number, chunk[at : at + _SLICE]])


def _framed(frame: bytes) -> tuple[bytes, bytes]:
    return len(frame).to_bytes(4, "little"), frame


def _blocks(frames: Iterator[bytes]) -> Iterator[bytes]:
    """Yield frames, with their lengths, in blocks of about BLOCK_BYTES."""
    parts: list[bytes] = []
    size = 0
    for frame in frames:
        parts += _framed(frame)
        size += 4 + len(frame)
        if size >= BLOCK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


class Snapshot(Struct):
    """A snapshot whose bytes are as they were written; what is inside is decoded only when it is needed.

    `data` is empty where the header is all that is needed, and behind `load_into`.
    """

    header: Header
    data: bytes

    def load_into(self, engine: Engine) -> None:
        """Give the engine the state of the snapshot; contract, ruleset and policy must be those it was taken under.

        The bytes are given back. Raises IntegrityRefusal for contents that this version does not understand.
        """
        ids: list[list[list[str]]] = [[], [], []]
        data, self.data = self.data, b""
        frames = _split(data)
        next(frames)
        contents = map(_tagged.decode, frames)
        first: list[bytes] = []
        try:
            for tag, number, content in contents:
                if tag != "ids":  # the rules stand behind the ids, and are decoded one by one
                    first.append(content)
                    break
                ids[number].append(content)
            rules = chain(first, map(itemgetter(2), contents))
            old = is_format_1(first)
            state = read_format_1(list(rules), engine.ruleset) if old else FrozenState.decode(rules)
        except (*UNREADABLE, IndexError) as error:
            raise IntegrityRefusal(
                "a snapshot is of a version that is not understood", hint="run the version that wrote it"
            ) from error
        screening = engine.screening
        micros = self.header.effective
        screening.effective = None if micros is None else EPOCH + dt.timedelta(microseconds=micros)
        screening.seen.load(self.header.period, ids)
        engine.load_rules(state)


def decode_header(data: bytes) -> Header | None:
    """Return the header without reading the rest, or None where the bytes are no snapshot of this format."""
    try:
        return msgspec.msgpack.decode(next(_split(data)), type=Header)
    except (*UNREADABLE, StopIteration):
        return None


def decode(data: bytes) -> Snapshot | None:
    """Return the snapshot, or None where a single bit of it is not as it was written."""
    end = len(data) - 36
    if (
        end < len(MAGIC)
        or data[end : end + 4] != bytes(4)
        or hashlib.sha256(memoryview(data)[:end]).digest() != data[end + 4 :]
    ):
        return None
    header = decode_header(data)
    return None if header is None else Snapshot(header, data)


_tagged: Final[msgspec.msgpack.Decoder[tuple[str, int, Any]]] = msgspec.msgpack.Decoder(tuple[str, int, Any])


def _split(data: bytes) -> Iterator[memoryview]:
    """Yield the frames; stops at the end mark or where the bytes end."""
    view = memoryview(data)
    if not data.startswith(MAGIC):
        return
    at = len(MAGIC)
    while at + 4 <= len(data):
        length = int.from_bytes(view[at : at + 4], "little")
        if length == 0:
            return
        yield view[at + 4 : at + 4 + length]
        at += 4 + length
