"""Whose state directory it is: one directory belongs to one stream, and is nothing else's folder.

Owns: ``stream.json`` with the stream's name and path, and the refusals before anything is created. Leaves to
`edges.recovery` whether what lies in the directory is sound, and to `edges.lock` that one daemon works in it.

A stream is known by its name. One that was moved or restored to another path keeps its name and its state directory;
whether its bytes are the same, reading it shows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.audit import PROJECTIONS
from tidewaiter.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.edges.durable import Disk

OWNER_FILE: Final = "stream.json"
EVIDENCE: Final = (
    OWNER_FILE, "checkpoint.json", *(f"{name}.jsonl" for name in PROJECTIONS), "snapshots", "runs", "reports",
)  # fmt: skip
"""Names that only a daemon makes. Where one of them stands without ``audit/``, recovery refuses what it must."""
REPLAY_FILE: Final = "replay.json"
"""Marks the output of `tidewaiter replay`, which no daemon that watches a stream may go on with."""
REPLAY_SEGMENTS: Final = "segments"
"""The files of such a replay in order, as links, where several were named."""
_MAY_STAND_BEFORE: Final = frozenset({"log", "lock", "lost+found", REPLAY_FILE, REPLAY_SEGMENTS})


class Owner(Struct, frozen=True):
    """The stream that a state directory belongs to; `path` is where it was at the last start."""

    name: str
    path: str


def read_owner(state: Path) -> Owner | None:
    """Return the stream `state` belongs to; None where no start has said so yet, or not in words one can read."""
    try:
        return msgspec.json.decode((state / OWNER_FILE).read_bytes(), type=Owner)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def refuse_other_stream(state: Path, name: str) -> None:
    """Raise ConfigError where `state` belongs to a stream of another name than `name`."""
    owner = read_owner(state)
    if owner is not None and owner.name != name:
        raise ConfigError(
            f"{state}: belongs to stream {owner.name} ({owner.path}), not {name}",
            hint=f"use another --state-dir; if it is the same stream, --stream-name {owner.name}",
        )


def claim(disk: Disk, state: Path, name: str, path: Path) -> None:
    """Record that `state` belongs to the stream `name` at `path`; the caller holds the lock.

    Raises ConfigError where it belongs to another stream. If we die here, the directory belongs to whom it belonged
    before, or to nobody yet: nothing of the stream was read.
    """
    refuse_other_stream(state, name)
    owner = Owner(name, str(path))
    if read_owner(state) != owner:
        disk.replace_file(state / OWNER_FILE, msgspec.json.format(msgspec.json.encode(owner), indent=2) + b"\n")


def check_state_usable(state: Path, name: str, *, replay: bool = False) -> None:
    """Raise ConfigError where a start for the stream `name` could not use `state`; creates and changes nothing.

    `replay`: it is the output of a replay that is to go on; a daemon never takes such a directory.
    """
    refuse_foreign_folder(state)
    if not replay and (state / REPLAY_FILE).exists():
        raise ConfigError(f"{state}: holds what a replay wrote, no live state", hint="use another --state-dir")
    refuse_other_stream(state, name)
    place = state
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ConfigError(f"{place}: is not a directory", hint="name a directory")
    if not os.access(place, os.W_OK | os.X_OK):
        problem = "is not writable" if place == state else f"cannot be created: {place} is not writable"
        raise ConfigError(
            f"{state}: {problem} for this user", hint="start it as the user who owns it, or choose another"
        )


def refuse_foreign_folder(state: Path) -> None:
    """Raise ConfigError where `state` is a folder of somebody else's files."""
    names = _names(state)
    if names and "audit" not in names and not names.intersection(EVIDENCE):
        raise ConfigError(
            f"{state}: is not empty and no state directory: it holds {min(names)}", hint="name an empty or a new folder"
        )


def refuse_no_state(state: Path) -> None:
    """Raise ConfigError where `state`, an existing directory, has no audit log to report on."""
    names = _names(state)
    if "audit" in names:
        if "checkpoint.json" not in names or any((state / "audit").glob("audit-*.jsonl")):
            return
        lost = "audit/ is empty"
    elif names.intersection(EVIDENCE):
        lost = "audit/ is missing"
    else:
        raise ConfigError(
            f"{state}: is no state directory",
            hint="name it with --state-dir, or start the daemon first: tidewaiter run",
        )
    raise ConfigError(f"{state}: {lost}, so nothing here can be trusted", hint="restore the audit log from a back-up")


def _names(state: Path) -> frozenset[str]:
    """Return what lies in `state` and is not there before a first start; nothing where that cannot be seen."""
    try:
        return frozenset(os.listdir(state)) - _MAY_STAND_BEFORE  # noqa: PTH208 - names are all that is needed
    except OSError:
        return frozenset()
