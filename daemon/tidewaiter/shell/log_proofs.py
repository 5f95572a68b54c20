"""Checkpoints and proofs as commands hand them out: read from ``tlog/``, and checked before anybody gets them.

Owns: which checkpoint covers an entry, which of the log's keys signed it, and the proof that leads to it. Leaves to
`edges.tree_files` the files and to `core.tlog` the mathematics. A proof reads the few tiles it needs, however long the
log is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.merkle import inclusion_proof, leaf_hash, node_hash, root_of_inclusion
from tidewaiter.core.tlog.notes import NoteError, parse_note, parse_vkey, verified
from tidewaiter.core.tlog.proofs import LogProof
from tidewaiter.core.tlog.tiles import reader
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.shell.log_keys import read_log_keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tidewaiter.core.key_decisions import KeyInForce
    from tidewaiter.core.tlog.merkle import Node
    from tidewaiter.core.tlog.notes import Note, VerifierKey
    from tidewaiter.shell.audit_reading import Entry

_HINT = "see what differs: tidewaiter verify"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and the log's own keys that signed it, the newest first; none: it is unsigned."""

    head: TreeHead
    note: Note
    keys: tuple[VerifierKey, ...]

    @property
    def witnesses(self) -> list[str]:
        """The names under which others signed it as well."""
        own = {(key.name, key.key_id) for key in self.keys}
        return [each.name for each in self.note.signatures if (each.name, each.key_id) not in own]


@dataclass(frozen=True)
class LogKey:
    """A key of the log, and what the log says about it."""

    verifier: VerifierKey
    named: KeyInForce

    def counts(self, size: int) -> bool:
        """Return whether its signature on a tree of that size counts."""
        return self.named.revoked_after is None or size <= self.named.revoked_after + 1


def log_keys(state: Path) -> list[LogKey]:
    """Return the log's keys as it names them, the newest first. Raises IntegrityRefusal where it names what is none."""
    try:
        return [LogKey(parse_vkey(key.vkey), key) for key in reversed(read_log_keys(state).keys)]
    except NoteError as error:
        raise IntegrityRefusal(f"the audit log names a key that is none: {error}", hint=_HINT) from error


def trusted_keys(state: Path) -> list[VerifierKey]:
    """Return those that it did not revoke. Raises IntegrityRefusal."""
    return [key.verifier for key in log_keys(state) if key.named.revoked_after is None]


def read_checkpoint(note: Note, keys: Sequence[VerifierKey], file: Path) -> Checkpoint:
    """Return what a note says. Raises IntegrityRefusal where it is no checkpoint, or a signature of `keys` is wrong."""
    try:
        signed = verified(note, keys)
        return Checkpoint(parse_tree_head(note.text), note, tuple(key for key in keys if key in signed))
    except NoteError as error:
        raise IntegrityRefusal(f"{file}: is no checkpoint of this log: {error}", hint=_HINT) from error


def checkpoint_in(files: TreeFiles, name: str, keys: Sequence[VerifierKey]) -> Checkpoint | None:
    """Return the newest checkpoint ("checkpoint") or the newest that witnesses signed ("witnessed"), if there is one.

    Raises IntegrityRefusal.
    """
    data = files.witnessed() if name == "witnessed" else files.newest()
    if data is None:
        return None
    try:
        note = parse_note(data, unsigned=True)
    except NoteError as error:
        raise IntegrityRefusal(f"{files.path / name}: {error}", hint=_HINT) from error
    return read_checkpoint(note, keys, files.path / name)


def newest_checkpoint(state: Path, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Return the newest checkpoint. Raises ConfigError where there is none."""
    newest = checkpoint_in(TreeFiles(state), "checkpoint", keys)
    if newest is None:
        raise ConfigError(f"{state}: its log has no checkpoint yet", hint="start the daemon; it makes the first")
    return newest


def covering(state: Path, index: int, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Return the newest checkpoint that covers the entry: one that witnesses signed, else any.

    Raises ConfigError where there is none.
    """
    witnessed = checkpoint_in(TreeFiles(state), "witnessed", keys)
    if witnessed is not None and witnessed.head.size > index:
        return witnessed
    newest = newest_checkpoint(state, keys)
    if newest.head.size > index:
        return newest
    raise ConfigError(
        f"{state}: no checkpoint covers entry {index} yet, the newest ends before entry {newest.head.size}",
        hint="the daemon writes one within a second: try again, or start it if it is down",
    )


def proof_of(state: Path, entry: Entry, checkpoint: Checkpoint) -> LogProof:
    """Return the proof that the entry is in the checkpoint's tree. Raises IntegrityRefusal where it is not."""
    head, index = checkpoint.head, entry.head.index
    files = TreeFiles(state)
    try:
        proof = inclusion_proof(index, head.size, reader(head.size, files.read_tile))
    except ValueError as error:
        raise IntegrityRefusal(f"{files.path}: {error}", hint=_HINT) from error
    if root_of_inclusion(leaf_hash(entry.line), index, head.size, proof) != head.root:
        raise IntegrityRefusal(
            f"{entry.path}: byte {entry.offset}: entry {index} is not the one that the checkpoint of {head.size} "
            "entries covers, or the tiles are not",
            hint=_HINT,
        )
    return LogProof(index, tuple(proof), checkpoint.note.encode())


def hashes_beside(first: int, end: int, size: int, node: Node) -> tuple[list[bytes], list[bytes]]:
    """Return the hashes left and right of the entries [first, end) that lead, with them, to the root of `size` entries.

    Both lowest level first. They are those of the proofs of the first and the last of these entries, each on its side.
    """
    left, right = iter(inclusion_proof(first, size, node)), iter(inclusion_proof(end - 1, size, node))
    at, last, count = first, end - 1, size
    before, behind = [], []
    while count > 1:
        if at & 1 or at + 1 < count:
            found = next(left)
            before += [found] if at & 1 else []
        if last & 1 or last + 1 < count:
            found = next(right)
            behind += [] if last & 1 else [found]
        at, last, count = at >> 1, last >> 1, (count + 1) >> 1
    return before, behind


class RootOf:
    """The root of a tree of which a stretch of entries comes in one by one; the rest of it comes from `node`."""

    def __init__(self, first: int, size: int, node: Node) -> None:
        """Begin behind the first `first` entries of a tree of `size`."""
        self._size = size
        self._node = node
        self._parts: list[tuple[int, bytes]] = []  # complete subtrees, from the left
        self._end = 0
        self._fill(first)

    def take(self, line: bytes) -> None:
        """Take the next entry."""
        self._push(0, leaf_hash(line))

    def root(self) -> bytes:
        """Return the root, with whatever of the tree is behind the entries taken."""
        self._fill(self._size)
        found = self._parts[-1][1]
        for _, part in reversed(self._parts[:-1]):
            found = node_hash(part, found)
        return found

    def _fill(self, end: int) -> None:
        while self._end < end:
            level = min((end - self._end).bit_length(), (self._end & -self._end or end).bit_length()) - 1
            self._push(level, self._node(level, self._end >> level))

    def _push(self, level: int, found: bytes) -> None:
        self._end += 1 << level
        while self._parts and self._parts[-1][0] == level:
            found = node_hash(self._parts.pop()[1], found)
            level += 1
        self._parts.append((level, found))
