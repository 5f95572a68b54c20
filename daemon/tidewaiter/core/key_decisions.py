"""The log's keys and the decisions on them: which are allowed, what each changes, and who signs now.

Owns: the life of a key, from the decision that names it to the one that takes its trust away. Leaves to `core.audit`
the entry, to `core.ledger` the fold that keeps the list, to `core.tlog.notes` what a key is, and to `shell.keys` whose
decision it is. The daemon and ``tidewaiter keys`` both come through here, so they cannot differ.

Keys are named by their vkeys; times are UTC text with microseconds, which sorts as it reads. A key that signs no more
stays in the list: old checkpoints are verified with it.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.core.audit import KeyRecorded

INTRODUCED: Final = "introduced"
ROTATED: Final = "rotated"
REVOKED: Final = "revoked"
_UTC: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


class KeyInForce(Struct, frozen=True):
    """A key the log has named. It signs from entry `from_index` on, until `until` (UTC text) once another took over.

    `revoked_after`: its signatures on trees larger than this index + 1 count no more; -1: none ever counts.
    """

    vkey: str
    from_index: int
    until: str | None = None
    revoked_after: int | None = None


def decide(keys: Sequence[KeyInForce], wanted: KeyRecorded, *, origin: str, size: int) -> KeyRecorded:
    """Return the decision to record, completed: `wanted` names its key and what its kind needs.

    `size` is the number of entries so far. Raises ConfigError where the decision is not allowed as the keys stand.
    """
    match wanted.decision:
        case "introduced":
            return _introduced(keys, wanted, origin)
        case "rotated":
            return _rotated(keys, wanted, origin)
        case "revoked":
            return _revoked(keys, wanted, size)
    raise ConfigError(f"{wanted.decision}: is no decision on a key", hint=f"{INTRODUCED}, {ROTATED} or {REVOKED}")


def apply(keys: Sequence[KeyInForce], record: KeyRecorded, index: int) -> list[KeyInForce]:
    """Return the keys after the entry `index` recorded this decision."""
    if record.decision == REVOKED:
        after = record.last_trusted_index
        return [msgspec.structs.replace(key, revoked_after=after) if key.vkey == record.vkey else key for key in keys]
    changed = [
        msgspec.structs.replace(key, until=record.both_until)
        if key.vkey == record.replaces and record.both_until is not None
        else key
        for key in keys
    ]
    return [*changed, KeyInForce(record.vkey, index)]


def signs(key: KeyInForce, now: str) -> bool:
    """Return whether checkpoints are to carry a signature of this key at `now` (UTC text)."""
    return key.revoked_after is None and (key.until is None or now < key.until)


def keys_to_sign_with(keys: Sequence[KeyInForce], now: str, published: int | None = None) -> set[str]:
    """Return the vkeys that sign at `now` (UTC text); empty: the log has no key that counts.

    `published` is the number of entries under a checkpoint so far. A key whose successor was named behind those signs
    once more, whatever the time: the first checkpoint that tells of the rotation is to have both signatures.
    """
    wanted = {key.vkey for key in keys if signs(key, now)}
    if published is not None:
        handed_over = [old for old, new in pairwise(keys) if new.from_index >= published]
        wanted |= {key.vkey for key in handed_over if key.revoked_after is None}
    return wanted


def _introduced(keys: Sequence[KeyInForce], wanted: KeyRecorded, origin: str) -> KeyRecorded:
    if keys:
        raise ConfigError(
            f"{wanted.vkey}: the log has a key already: {keys[-1].vkey}",
            hint="put that one back, or let a new one take over: tidewaiter keys rotate",
        )
    _refuse_other_name(wanted.vkey, origin)
    return msgspec.structs.replace(wanted, replaces=None, both_until=None, last_trusted_index=None)


def _rotated(keys: Sequence[KeyInForce], wanted: KeyRecorded, origin: str) -> KeyRecorded:
    if not keys:
        raise ConfigError(
            f"{origin}: the log has no key yet that another could take over from",
            hint="start the daemon once with the key you have; without one, make it: tidewaiter keys new",
        )
    old = keys[-1]
    if any(key.vkey == wanted.vkey for key in keys):
        raise ConfigError(f"{wanted.vkey}: is a key of the log already", hint="see `tidewaiter keys show`")
    _refuse_other_name(wanted.vkey, origin)
    if old.revoked_after is not None:
        return msgspec.structs.replace(wanted, replaces=old.vkey, both_until=None, last_trusted_index=None)
    if wanted.both_until is None or not _UTC.fullmatch(wanted.both_until):
        raise ConfigError(
            f"{wanted.both_until}: is no time until when both keys sign", hint="UTC as 2026-01-31T00:00:00.000000Z"
        )
    return msgspec.structs.replace(wanted, replaces=old.vkey, last_trusted_index=None)


def _revoked(keys: Sequence[KeyInForce], wanted: KeyRecorded, size: int) -> KeyRecorded:
    key = next((key for key in keys if key.vkey == wanted.vkey), None)
    if key is None:
        raise ConfigError(f"{wanted.vkey}: is no key of this log", hint="see `tidewaiter keys show`")
    last = wanted.last_trusted_index
    if last is None or not -1 <= last < size:
        raise ConfigError(f"{last}: is no index of this log", hint=f"-1 (nothing signed with it counts) to {size - 1}")
    if -1 < last < key.from_index:
        raise ConfigError(
            f"{last}: {wanted.vkey} signed nothing before entry {key.from_index}",
            hint=f"{key.from_index} or more; -1 where nothing that was signed with it counts",
        )
    if key.revoked_after is not None and key.revoked_after <= last:
        raise ConfigError(
            f"{wanted.vkey}: is revoked after index {key.revoked_after} already",
            hint="trust that was taken away does not come back; a lower index would take away more",
        )
    return msgspec.structs.replace(wanted, replaces=None, both_until=None)


def _refuse_other_name(vkey: str, origin: str) -> None:
    name = vkey.partition("+")[0]
    if name != origin:
        raise ConfigError(f"{vkey}: its name is {name}, the log's is {origin}", hint="a log's key bears the log's name")
