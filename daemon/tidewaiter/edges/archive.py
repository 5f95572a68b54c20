"""The contents behind the digests of the decision timeline: ``rules/<sha256>``, written once, never changed.

Owns: storing and reading back governing texts (contract, ruleset, policy) by their SHA-256. A decision entry is written
only after its contents are durable here, so a replay never depends on files that somebody edits.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tidewaiter.core.errors import IntegrityRefusal

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.edges.durable import Disk


def store(disk: Disk, state: Path, content: bytes) -> str:
    """Keep `content` durably and return its digest. If we die here, the file is whole or absent."""
    digest = hashlib.sha256(content).hexdigest()
    path = state / "rules" / digest
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            disk.sync_directory(path.parent)  # a start that was killed may have left the name in memory only
            return digest
    except FileNotFoundError:
        pass
    disk.replace_file(path, content)
    return digest


def load(state: Path, digest: str) -> bytes:
    """Return the content of `digest`. Raises IntegrityRefusal where it is missing or not what its name says."""
    path = state / "rules" / digest
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityRefusal(
            f"{path}: is missing; the events since the last snapshot were evaluated under it",
            hint="restore it from a back-up, or start with --accept-state-loss",
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise IntegrityRefusal(f"{path}: was changed: found {found}", hint="restore it from a back-up")
    return content
