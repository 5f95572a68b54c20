"""A small user of `Disk`, correct unless told otherwise, on which the rigs are tested.

`Ledger` keeps numbered entries in ``journal`` and, on `close`, their count in ``total``. An entry counts once `add` has
returned. Each sabotage leaves out one precaution; a rig that does not notice is broken.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from tidewaiter.core.errors import TidewaiterError
from tidewaiter.edges.durable import NoSpace, SyncFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tidewaiter.edges.durable import Disk

SABOTAGES = ("no datasync", "no directory sync", "retry sync", "forget to cut", "rename unsynced")


class Ledger:
    """Entries that survive anything, in `directory`."""

    def __init__(self, disk: Disk, directory: Path, sabotage: str = "") -> None:
        """Recover: adopt the readable entries, cut the rest, rewrite and sync what was adopted."""
        self.disk, self.path, self.sabotage = disk, directory / "journal", sabotage
        disk.make_directory(directory)
        self.fd = disk.open(self.path)
        if sabotage != "no directory sync":
            disk.sync_directory(directory)
        self.entries, self.end = _read(self.path)
        size = self.path.stat().st_size
        if size > self.end and sabotage != "forget to cut":
            disk.truncate(self.fd, self.end, self.path)
        # What was readable may not be on the disk: only rewriting makes the pages dirty again.
        if size:
            disk.write_at(self.fd, self.path.read_bytes()[: self.end], 0, self.path)
            disk.datasync(self.fd, self.path)

    def add(self, text: str) -> None:
        """Append one entry; durable on return. Raises NoSpace with nothing changed, SyncFailed with all in doubt."""
        line = _line(f"{len(self.entries)}:{text}")
        try:
            self.disk.write_at(self.fd, line, self.end, self.path)
        except NoSpace:
            if self.sabotage != "forget to cut":
                self.disk.truncate(self.fd, self.end, self.path)
            raise
        if self.sabotage != "no datasync":
            try:
                self.disk.datasync(self.fd, self.path)
            except SyncFailed:
                if self.sabotage != "retry sync":
                    raise
                self.disk.datasync(self.fd, self.path)
        self.end += len(line)
        self.entries.append(text)

    def close(self) -> None:
        """Write the total and let go of the file."""
        total, data = self.path.with_name("total"), str(len(self.entries)).encode()
        if self.sabotage == "rename unsynced":
            temporary = total.with_name(".total.tmp")
            fd = self.disk.open(temporary)
            self.disk.write_at(fd, data, 0, temporary)
            self.disk.close(fd)
            self.disk.rename(temporary, total)
        else:
            self.disk.replace_file(total, data)
        self.disk.close(self.fd)


def read_entries(directory: Path) -> list[str]:
    """Return the entries that recovery would adopt, without touching anything."""
    path = directory / "journal"
    return _read(path)[0] if path.exists() else []


def write_all(disk: Disk, directory: str, entries: Iterable[str], sabotage: str = "") -> int:
    """Bring a ledger to hold `entries`, going on where an earlier run stopped; return an exit status."""
    try:
        ledger = Ledger(disk, Path(directory), sabotage)
        for text in list(entries)[len(ledger.entries) :]:
            ledger.add(text)
        ledger.close()
    except TidewaiterError as error:
        print(error, file=sys.stderr)  # noqa: T201 - stands for the command line program
        return error.exit_code
    return 0


def _line(text: str) -> bytes:
    data = text.encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _read(path: Path) -> tuple[list[str], int]:
    """Return the entries of the valid beginning and its length in bytes."""
    entries: list[str] = []
    end = 0
    for line in path.read_bytes().splitlines(keepends=True):
        number, _, text = line[9:-1].decode(errors="replace").partition(":")
        if line != _line(f"{number}:{text}") or number != str(len(entries)):
            break
        entries.append(text)
        end += len(line)
    return entries, end
