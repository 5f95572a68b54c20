"""A file that a command makes for somebody: all of it or nothing, and nothing that was there is overwritten.

Owns: the temporary file beside it, and what is said where it cannot be made. Leaves to `edges.durable` the order of the
system calls, and to its callers what is written.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.durable import Disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def new_file(path: Path, option: str) -> Iterator[BinaryIO]:
    """Give a file to write to, which becomes `path`, durably, when the block ends well; else nothing stays.

    `option` is the one that named it. If we die here, ``.NAME.tmp`` is left, which the same command overwrites. Raises
    ConfigError where it cannot be made, and DurabilityError.
    """
    disk = Disk()
    if os.path.lexists(path):
        raise ConfigError(f"{option} {path}: is there already", hint="name a new file")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no directory {path.parent}", hint="create it first")
    temporary = path.with_name(f".{path.name}.tmp")
    fd = disk.open(temporary)
    try:
        disk.truncate(fd, 0, temporary)
        with os.fdopen(fd, "r+b", closefd=False) as file:
            yield file
        disk.sync(fd, temporary)
        disk.rename(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise ConfigError(f"{option} {path}: {error.strerror or error}", hint="free some space") from error
        raise
    finally:
        disk.close(fd)
