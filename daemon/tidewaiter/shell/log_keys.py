"""What a log says about the keys that sign it, for somebody who is not the daemon.

Owns: reading name and keys out of the state directory, and how each of them stands. Leaves to `core.key_decisions` what
a decision changes, and to `shell.keys` making one. Believes the files: what to trust comes from outside.

Where there is a snapshot, its state is the base and only what follows is read: the audit log may be long, and its
oldest segments may have been removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import KeyRecorded, SegmentOpened, read_head
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.key_decisions import KeyInForce, apply, signs
from tidewaiter.core.ledger import Ledger
from tidewaiter.edges.snapshot_ledgers import snapshot_ledgers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK_BYTES: Final = 1 << 20
_MARKER: Final = b'"action":"%b"' % audit.KEY_RECORDED.encode()
_opened: Final = msgspec.json.Decoder(SegmentOpened)
_recorded: Final = msgspec.json.Decoder(KeyRecorded)


class LogKeys(Struct, frozen=True):
    """A log's name ("": it has none yet) and its keys, in the order in which the log named them."""

    origin: str
    keys: list[KeyInForce]

    @property
    def vkeys(self) -> set[str]:
        """The verifier keys of all of them."""
        return {key.vkey for key in self.keys}


class ShownKey(Struct, frozen=True):
    """A key as a person sees it. `state` is in force, rotated out or revoked; with `signs`, new checkpoints are signed.

    `until` and `revoked_after` are as in KeyInForce.
    """

    vkey: str
    key_id: str
    state: str
    signs: bool
    from_index: int
    until: str | None
    revoked_after: int | None


def read_log_keys(state: Path) -> LogKeys:
    """Return what the log says about its keys; verifies nothing, works while the daemon writes."""
    snapshots = snapshot_ledgers(state)
    # the older one, as at a start: retention keeps what follows it
    base = snapshots[-1][1] if snapshots else Ledger()
    origin, keys = base.origin, base.keys
    for segment in _segments_from(state, base.index):
        origin = origin or _origin_of(segment)
        for line in _lines_with(segment, _MARKER):
            head = read_head(line)
            if head is not None and head.action == audit.KEY_RECORDED and head.index >= base.index:
                keys = apply(keys, _recorded.decode(line), head.index)
    return LogKeys(origin, keys)


def shown_keys(log: LogKeys, now: str) -> list[ShownKey]:
    """Return the log's keys as they stand at `now` (UTC text)."""
    return [
        ShownKey(
            key.vkey, _key_id(key.vkey), _state(key), signs(key, now), key.from_index, key.until, key.revoked_after
        )
        for key in log.keys
    ]


def find_vkey(log: LogKeys, named: str) -> str:
    """Return the vkey that `named`, a vkey or its key id, stands for. Raises ConfigError."""
    found = [vkey for vkey in log.vkeys if named in (vkey, _key_id(vkey))]
    if len(found) != 1:
        what = "is no key of this log" if not found else "is the key id of several keys"
        raise ConfigError(f"{named}: {what}", hint="give a vkey as `tidewaiter keys show` has it")
    return found[0]


def _segments_from(state: Path, index: int) -> list[Path]:
    """Return the audit segments that may hold entry `index` or later ones; a segment is named by its first entry."""
    segments = sorted((state / "audit").glob("audit-*.jsonl"))
    begun = sum(path.name <= f"audit-{index:020d}.jsonl" for path in segments)
    return segments[max(begun - 1, 0) :]


def _origin_of(segment: Path) -> str:
    with segment.open("rb") as file:
        line = file.readline(audit.MAX_ENTRY_BYTES + 1)
    try:
        return _opened.decode(line).origin
    except audit.UNREADABLE:
        return ""


def _lines_with(path: Path, marker: bytes) -> Iterator[bytes]:
    """Yield the complete lines that hold `marker`; a torn last one has not been written yet."""
    rest = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            whole, _, rest = (rest + block).rpartition(b"\n")
            if marker in whole:
                yield from (line for line in whole.split(b"\n") if marker in line)


def _key_id(vkey: str) -> str:
    return vkey.split("+", 2)[1]


def _state(key: KeyInForce) -> str:
    if key.revoked_after is not None:
        return "revoked"
    return "in force" if key.until is None else "rotated out"
