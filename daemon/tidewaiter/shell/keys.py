"""The keys that sign a log: making the first, letting a new one take over, taking trust away, and showing them all.

Owns: the order of each of these on the disk, and what the audit log says about keys as a reader sees it. Leaves to
`core.key_decisions` what is allowed, to `edges.key_files` the private keys, to `shell.deciding` the way into the log.

A new key is in the key file before the log names it: a daemon that is told of it finds it there. If the command dies
between the two, the same command takes the key that is there already.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import KeyRecorded, SegmentOpened, read_head
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.key_decisions import REVOKED, ROTATED, KeyInForce, apply, signs
from tidewaiter.core.tlog.notes import ED25519
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.key_files import add_key, create_key_file, is_credential, make_key, read_key_file
from tidewaiter.edges.recovery import audit_segments
from tidewaiter.shell import deciding
from tidewaiter.shell.answering import KEY, record_key
from tidewaiter.shell.os_user import owner_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.core.tlog.notes import SigningKey
    from tidewaiter.shell.settings import Settings

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


# -- reading -----------------------------------------------------------------------------------------------------


def read_log_keys(state: Path) -> LogKeys:
    """Return what the audit log says about its keys; verifies nothing, works while the daemon writes."""
    origin = ""
    keys: list[KeyInForce] = []
    for segment in audit_segments(state):
        origin = origin or _origin_of(segment)
        for line in _lines_with(segment, _MARKER):
            head = read_head(line)
            if head is not None and head.action == audit.KEY_RECORDED:
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


# -- deciding ----------------------------------------------------------------------------------------------------


def new_key(file: Path, name: str) -> str:
    """Make a key in a new key file and return its vkey. Raises ConfigError where the file is there already."""
    key = make_key(name)
    create_key_file(Disk(), file, key, _owner(file))
    return str(key.verifier)


def rotate(settings: Settings, file: Path | None, both_for: dt.timedelta, reason: str, actor: str) -> str:
    """Let a new key take over and return what was done. `file` is the key file, by default that of the settings.

    The key before it signs as well for `both_for`. Raises ConfigError.
    """
    path = _key_file(file, settings.evidence.key)
    log = read_log_keys(settings.state.dir)
    if not log.keys:
        raise ConfigError(
            f"{settings.state.dir}: the log has no key yet that another could take over from",
            hint="start the daemon once with the key you have; without one, make it: tidewaiter keys new",
        )
    held = read_key_file(path)
    waiting = [key for key in held if str(key.verifier) not in log.vkeys and key.verifier.type == ED25519]
    key = waiting[-1] if waiting else make_key(log.origin)
    now = dt.datetime.now(dt.UTC)
    wanted = KeyRecorded(ROTATED, str(key.verifier), reason, both_until=_text(now + both_for))
    if not waiting:
        _add(path, key, log, _text(now))
    said = deciding.decide(settings, KEY, wanted, actor, lambda journal, decider: record_key(journal, wanted, decider))
    return f"{said}\n{_AFTER_ROTATION}\nvkey: {key.verifier}"


def revoke(settings: Settings, named: str, last_trusted_index: int, reason: str, actor: str) -> str:
    """Take the trust from the key `named` (vkey or key id) behind an index and return what was done.

    Raises ConfigError.
    """
    log = read_log_keys(settings.state.dir)
    wanted = KeyRecorded(REVOKED, find_vkey(log, named), reason, last_trusted_index=last_trusted_index)
    said = deciding.decide(settings, KEY, wanted, actor, lambda journal, decider: record_key(journal, wanted, decider))
    left = any(key.signs and key.vkey != wanted.vkey for key in shown_keys(log, _text(dt.datetime.now(dt.UTC))))
    return said if left else f"{said}\nNo key signs now: let a new one take over with `tidewaiter keys rotate`."


_AFTER_ROTATION: Final = (
    "A running daemon signs with it from now on; one that has its key from systemd's LoadCredential= once it is "
    "restarted.\nGive the new vkey to everybody who keeps the old one, before the old key stops signing."
)


def _add(path: Path, key: SigningKey, log: LogKeys, now: str) -> None:
    """Put the key into the key file, and take out those of this log that will never sign again."""
    retired = {each.vkey for each in log.keys if not signs(each, now)}
    # If we die behind this, the key waits in the file, and the next rotation takes it.
    add_key(Disk(), path, key, retired, owner_for(path))


def _key_file(given: Path | None, configured: Path | None) -> Path:
    path = given or configured
    if path is None:
        raise ConfigError(
            "--key is missing: the settings name no key file",
            hint="with systemd's LoadCredential= it is the file that is named there",
        )
    if configured is not None and path.resolve() != configured.resolve():
        raise ConfigError(f"--key {path}: the daemon has its keys in {configured}", hint="leave --key out")
    if is_credential(path):
        raise ConfigError(f"{path}: is systemd's copy of the key", hint="name the file that LoadCredential= names")
    return path


def _owner(file: Path) -> tuple[int, int] | None:
    try:
        return owner_for(file.parent)
    except OSError as error:
        raise ConfigError(f"{file.parent}: {error.strerror}", hint="create it, readable for nobody else") from error


def _text(time: dt.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
