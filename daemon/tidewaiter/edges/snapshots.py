"""The snapshot files: writing one beside the running engine, finding the newest that counts, keeping two.

Owns: ``snapshots/snapshot-<20 digits audit index>.tws``. Leaves to `core.snapshot` the bytes. Two are kept: where the
newest is damaged, the one before it serves. So no file refers to another: what two have in common is copied, and looked
at on the way, for a damaged byte must not be passed on.
"""

from __future__ import annotations

import contextlib
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Final

from tidewaiter.core import snapshot
from tidewaiter.core.audit import Document
from tidewaiter.core.errors import DurabilityError
from tidewaiter.core.snapshot import Changed, IdFrames
from tidewaiter.edges.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.core.snapshot import Frozen, Snapshot
    from tidewaiter.edges.durable import Disk

log = get_logger()

KEPT: Final = 2

SYNCED_BYTES: Final = snapshot.BLOCK_BYTES
"""A snapshot is written out bit by bit: one large fsync at its end would keep the commits' small ones waiting."""

_COPIED_BYTES: Final = 2 << 20
"""To read and to hash so much takes the interpreter three times, however much it is; more of it shows in the memory."""


def snapshot_files(state: Path) -> list[Path]:
    """Return the snapshot files, newest first."""
    return sorted((state / "snapshots").glob("snapshot-*.tws"), reverse=True)


class SnapshotFiles:
    """Writes the snapshots of one state directory, each with what it has in common with the one before."""

    def __init__(self, disk: Disk, state: Path) -> None:
        """Nothing is known of the snapshots that are there."""
        self._disk = disk
        self._state = state
        self._newest: Path | None = None
        self._ids = IdFrames()

    def write(self, frozen: Frozen) -> Document:
        """Write `frozen` durably and drop the files beyond the newest two; return what the new one is.

        Blocks; meant for a thread of its own.

        Raises NoSpace and other DurabilityErrors; what was written of it is removed then, as far as that can be done.
        """
        directory = self._state / "snapshots"
        target = directory / f"snapshot-{frozen.header.audit.index:020d}.tws"
        temporary = directory / f".{target.name}.tmp"
        ids, self._ids = self._ids, IdFrames()
        try:
            try:
                digest, length = _write(self._disk, temporary, frozen, ids, self._newest)
            except (Changed, OSError):  # somebody did something to the newest, or its disk; this one is as it should be
                log.warning("snapshot.changed", file=self._newest.name if self._newest is not None else "")
                digest, length = _write(self._disk, temporary, frozen, ids, None)
            self._disk.rename(temporary, target)
        except DurabilityError:
            with contextlib.suppress(DurabilityError):  # the next start removes what stays
                self._disk.unlink(temporary)
            raise
        self._newest, self._ids = target, ids
        for old in snapshot_files(self._state)[KEPT:]:
            self._disk.unlink(old)
        return Document(target.relative_to(self._state).as_posix(), digest, length)


def _write(disk: Disk, path: Path, frozen: Frozen, ids: IdFrames, newest: Path | None) -> tuple[str, int]:
    """Write and sync; return the SHA-256 (hex) and the length of what was written.

    `ids` says where the ids stand in `newest`, and afterwards, where they stand in this one.

    Raises Changed or OSError where `newest` is not what was written.
    """
    whole = hashlib.sha256()
    fd = disk.open(path)
    try:
        disk.truncate(fd, 0, path)
        offset = synced = 0
        for data in snapshot.encode(frozen, whole, ids, None if newest is None else partial(_bytes_of, newest)):
            for at in range(0, len(data), SYNCED_BYTES):
                # If we die here, a leftover temporary file is found, which the next start removes.
                part = memoryview(data)[at : at + SYNCED_BYTES]
                disk.write_at(fd, part, offset, path)
                offset += len(part)
                if offset - synced >= SYNCED_BYTES:
                    disk.datasync(fd, path)
                    synced = offset
        disk.sync(fd, path)
    finally:
        disk.close(fd)
    return whole.hexdigest(), offset


def _bytes_of(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """Yield these bytes of a file, fewer where it ends before."""
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while begin < end and (data := file.read(min(_COPIED_BYTES, end - begin))):
            begin += len(data)
            yield data


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
