"""How somebody who holds an old key of a log gets to the one that signs now, by what the old one signed.

Owns: the entries that let a key take over, each with a proof to a checkpoint that the key before it signed. Leaves to
`shell.log_proofs` which signatures count, and to `shell.bundle_page` the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.tlog.merkle import inclusion_proof, leaf_hash, root_of_inclusion
from tidewaiter.core.tlog.proofs import LogProof
from tidewaiter.shell.audit_reading import entry_at
from tidewaiter.shell.log_proofs import read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tidewaiter.core.tlog.merkle import Node
    from tidewaiter.core.tlog.notes import Note
    from tidewaiter.shell.audit_reading import Entry
    from tidewaiter.shell.log_proofs import LogKey


@dataclass(frozen=True)
class Succession:
    """An entry in which a key takes over; the proof is for the first checkpoint behind it that the old key signed."""

    entry: Entry
    proof: LogProof


def successions(
    state: Path, keys: Sequence[LogKey], notes: Iterable[Note], size: int, node: Node
) -> tuple[list[Succession], list[str]]:
    """Return those of the log's `keys` (newest first) within `size` entries, and what to say where there is none.

    `notes` are all checkpoints, the oldest first; `node` is that of the tree. Raises IntegrityRefusal.
    """
    waiting = [(old, new) for new, old in pairwise(keys) if new.named.from_index < size][::-1]
    found: dict[str, Note] = {}
    for note in notes if waiting else ():
        for old, new in waiting:
            if new.named.vkey in found or not any(each.key_id == old.verifier.key_id for each in note.signatures):
                continue
            signed = read_checkpoint(note, [old.verifier], state / "tlog" / "checkpoints")
            if signed.keys and new.named.from_index < signed.head.size <= size and old.counts(signed.head.size):
                found[new.named.vkey] = note
        if len(found) == len(waiting):
            break
    made, gone = [], []
    for old, new in waiting:
        try:
            if (signed_by_old := found.get(new.named.vkey)) is None:
                raise ConfigError(f"the key {old.named.vkey} signed no checkpoint of it that counts")
            made.append(_succession(state, entry_at(state, new.named.from_index), signed_by_old, node))
        except ConfigError as error:
            gone.append(f"nothing leads to the key {new.named.vkey} from the one before it: {error.message}")
    return made, gone


def _succession(state: Path, entry: Entry, note: Note, node: Node) -> Succession:
    checkpoint = read_checkpoint(note, (), state / "tlog" / "checkpoints")
    head, index = checkpoint.head, entry.head.index
    hashes = inclusion_proof(index, head.size, node)
    if root_of_inclusion(leaf_hash(entry.line), index, head.size, hashes) != head.root:
        raise IntegrityRefusal(
            f"{entry.path}: byte {entry.offset}: entry {index} is not the one that the checkpoint of {head.size} "
            "entries covers",
            hint="see what differs: tidewaiter verify",
        )
    return Succession(entry, LogProof(index, tuple(hashes), note.encode()))
