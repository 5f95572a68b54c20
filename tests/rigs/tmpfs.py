"""A small file system of its own that can really be full, and a directory in memory for what only has to be quick.

Owns: mounting a tmpfs in a private place below the test's directory, filling it to the last page and making room again,
and unmounting it whatever happens; where the quick directory is. Only root can mount; elsewhere the test is skipped
with the reason.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = 4096
_FILLER: Final = ".filler"


class SmallDisk:
    """A mounted tmpfs; its unit of space is a page of 4,096 bytes."""

    def __init__(self, path: Path) -> None:
        """`path` is the mount point."""
        self.path = path

    @property
    def free_pages(self) -> int:
        """Pages that can still be written."""
        return os.statvfs(self.path).f_bavail

    def fill(self, *, leave: int = 0) -> None:
        """Take all space but `leave` pages."""
        filler = self.path / _FILLER
        with filler.open("ab", buffering=0) as file:
            pages = max(0, self.free_pages - leave)
            if pages:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, pages * PAGE)

    def free(self) -> None:
        """Give the space back that `fill` took."""
        (self.path / _FILLER).unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(parent: Path, size: int, *, inodes: int = 0) -> Iterator[SmallDisk]:
    """Mount a tmpfs of `size` bytes in a new directory below `parent`; skip the test where that is not possible.

    `inodes` bounds the number of files, 0 for no bound.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    place = parent / "small_disk"
    place.mkdir(mode=0o700)
    options = f"size={size},mode=0700,nr_inodes={inodes}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tidewaiter-test", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        place.rmdir()
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(place)
    finally:
        # A file still open elsewhere must not leave the mount behind: then detach it now and free it later.
        if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode != 0:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


@contextlib.contextmanager
def quick_directory() -> Iterator[Path]:
    """Give a directory in memory where the machine has one: a campaign of thousands of syncs need not wait for them.

    What a sync promises is modelled by `power_loss`; a real one adds nothing but time.
    """
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30 else None
    with tempfile.TemporaryDirectory(prefix="tidewaiter-", dir=parent) as place:
        yield Path(place)
