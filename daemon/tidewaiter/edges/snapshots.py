"""The snapshot files: writing one beside the running engine, finding the newest that counts, keeping two.

Owns: ``snapshots/snapshot-<20 digits audit index>.tws``. Leaves to `core.snapshot` the bytes. Two are kept: where the
newest is damaged, the one before it serves.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Final

from tidewaiter.core import snapshot
from tidewaiter.core.audit import Document
from tidewaiter.core.errors import DurabilityError

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.snapshot import Frozen, Snapshot
    from tidewaiter.edges.durable import Disk

KEPT: Final = 2

SYNCED_BYTES: Final = snapshot.BLOCK_BYTES
"""A snapshot is written out bit by bit: one large fsync at its end would keep the commits' small ones waiting."""


def snapshot_files(state: Path) -> list[Path]:
    """Return the snapshot files, newest first."""
    return sorted((state / "snapshots").glob("snapshot-*.tws"), reverse=True)


def write_snapshot(disk: Disk, state: Path, frozen: Frozen) -> Document:
    """Write `frozen` durably and drop the files beyond the newest two; return what the new one is.

    Blocks; meant for a thread of its own.

    Raises NoSpace and other DurabilityErrors; what was written of it is removed then, as far as that can be done.
    """
    directory = state / "snapshots"
    target = directory / f"snapshot-{frozen.header.audit.index:020d}.tws"
    temporary = directory / f".{target.name}.tmp"
    try:
        digest, length = _write(disk, temporary, frozen)
        disk.rename(temporary, target)
    except DurabilityError:
        with contextlib.suppress(DurabilityError):  # the next start removes what stays
            disk.unlink(temporary)
        raise
    for old in snapshot_files(state)[KEPT:]:
        disk.unlink(old)
    return Document(target.relative_to(state).as_posix(), digest, length)


def _write(disk: Disk, path: Path, frozen: Frozen) -> tuple[str, int]:
    """Write and sync; return the SHA-256 (hex) and the length of what was written."""
    whole = hashlib.sha256()
    fd = disk.open(path)
    try:
        disk.truncate(fd, 0, path)
        offset = synced = 0
        for data in snapshot.encode(frozen, whole):
            # If we die here, a leftover temporary file is found, which the next start removes.
            disk.write_at(fd, data, offset, path)
            offset += len(data)
            if offset - synced >= SYNCED_BYTES:
                disk.datasync(fd, path)
                synced = offset
        disk.sync(fd, path)
    finally:
        disk.close(fd)
    return whole.hexdigest(), offset


def read_snapshots(state: Path) -> list[tuple[Path, Snapshot | None]]:
    """Return the snapshot files, newest first, each checked, or None where it is damaged.

    Only the newest that is whole keeps its bytes: nobody needs the state of another one.
    """
    found: list[tuple[Path, Snapshot | None]] = []
    whole = False
    for path in snapshot_files(state):
        read = snapshot.decode(path.read_bytes())
        if read is not None and whole:
            read.data = b""
        whole = whole or read is not None
        found.append((path, read))
    return found


def remove_leftovers(disk: Disk, state: Path) -> None:
    """Remove temporary files that a crash left behind."""
    for path in (state / "snapshots").glob(".snapshot-*.tmp"):
        disk.unlink(path)
