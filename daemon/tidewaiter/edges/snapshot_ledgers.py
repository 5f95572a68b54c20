"""The committed state that each snapshot begins with, for somebody who does not need the rest of it.

Owns: reading the head of the snapshot files. Leaves to `core.snapshot` the format and to `edges.snapshots` the whole
files: importing those brings the engine along, and a snapshot may be large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.audit import UNREADABLE
from tidewaiter.core.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC: Final = b"tidewaiter-snapshot/1\n"
_LARGEST_HEADER: Final = 64 << 20


class _Head(Struct, frozen=True):
    """The part of `core.snapshot.Header` that is needed here."""

    ledger: Ledger


_head: Final = msgspec.msgpack.Decoder(_Head)


def snapshot_ledgers(state: Path) -> list[tuple[str, Ledger]]:
    """Return name and committed state of the snapshots, newest first; damaged ones are left out."""
    found: list[tuple[str, Ledger]] = []
    for path in sorted((state / "snapshots").glob("snapshot-*.tws"), reverse=True):
        try:
            with path.open("rb") as file:
                opening = file.read(len(_MAGIC) + 4)
                length = int.from_bytes(opening[len(_MAGIC) :], "little")
                head = _head.decode(file.read(min(length, _LARGEST_HEADER)))
        except (FileNotFoundError, *UNREADABLE):  # replaced by a newer one meanwhile, or damaged
            continue
        if opening.startswith(_MAGIC):
            found.append((path.name, head.ledger))
    return found
