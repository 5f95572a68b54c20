"""Decisions on the keys that sign a log: making the first, letting a new one take over, taking trust away.

Owns: the order of each of these on the disk, and what the person who decided is told. Leaves to `core.key_decisions`
what is allowed, to `edges.key_files` the private keys, to `shell.log_keys` which keys the log has, to `shell.deciding`
the way into the log.

A new key is in the key file before the log names it: a daemon that is told of it finds it there. If the command dies
between the two, the same command takes the key that is there already.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from tidewaiter.core.audit import KeyRecorded
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.key_decisions import REVOKED, ROTATED, keys_to_sign_with
from tidewaiter.core.tlog.notes import ED25519
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.key_files import (
    add_key,
    create_key_file,
    is_credential,
    make_key,
    read_key_file,
    refuse_key_itself,
)
from tidewaiter.edges.lock import probe
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.shell import deciding
from tidewaiter.shell.answering import KEY, record_key
from tidewaiter.shell.log_keys import find_vkey, read_log_keys
from tidewaiter.shell.os_user import owner_for

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.tlog.notes import SigningKey
    from tidewaiter.shell.log_keys import LogKeys
    from tidewaiter.shell.settings import Settings


def new_key(file: Path, name: str) -> str:
    """Make a key in a new key file and return its vkey. Raises ConfigError where the file is there already."""
    refuse_key_itself("--key", file)
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
        _add(path, key, settings.state.dir, log, _text(now))
    said = deciding.decide(settings, KEY, wanted, actor, lambda journal, decider: record_key(journal, wanted, decider))
    return f"{said}\n{_who_signs(settings)}\n{_AFTER_ROTATION}\nvkey: {key.verifier}"


def revoke(settings: Settings, named: str, last_trusted_index: int, reason: str, actor: str) -> str:
    """Take the trust from the key `named` (vkey or key id) behind an index and return what was done.

    Raises ConfigError.
    """
    refuse_key_itself("VKEY", named)
    log = read_log_keys(settings.state.dir)
    wanted = KeyRecorded(REVOKED, find_vkey(log, named), reason, last_trusted_index=last_trusted_index)
    said = deciding.decide(settings, KEY, wanted, actor, lambda journal, decider: record_key(journal, wanted, decider))
    if wanted.vkey != log.keys[-1].vkey:
        return said
    others = keys_to_sign_with(log.keys, _text(dt.datetime.now(dt.UTC))) - {wanted.vkey}
    since = "the end of the key before it on" if others else "now on"
    return (
        f"{said}\nWARNING: this was the key in force. From {since} the log is not signed, until a "
        "new one takes over: tidewaiter keys rotate"
    )


_AFTER_ROTATION: Final = "Give the new vkey to everybody who keeps the old one, before the old key stops signing."


def _who_signs(settings: Settings) -> str:
    """Return when the new key begins to sign."""
    if probe(settings.state.dir / "lock") is None:
        return "No daemon is running: the next one signs with it from its start on."
    if settings.evidence.key is not None:
        return "The running daemon signs with it from now on."
    return (
        "The running daemon has its keys from systemd as they were when it started: restart it, and it signs with the "
        "new one."
    )


def _add(path: Path, key: SigningKey, state: Path, log: LogKeys, now: str) -> None:
    """Put the key into the key file, and take out those of this log that will never sign again."""
    retired = log.vkeys - keys_to_sign_with(log.keys, now, published=TreeFiles(state).published())
    # If we die behind this, the key waits in the file, and the next rotation takes it.
    add_key(Disk(), path, key, retired, owner_for(path))


def _key_file(given: Path | None, configured: Path | None) -> Path:
    path = given or configured
    refuse_key_itself("--key", given)
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
