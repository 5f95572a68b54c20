"""Opening the file that a record of runs will be appended to, to look whether it can be, without making or changing it.

Owns: that look. Leaves to `lineage_file` and `openlineage_file` whether what is in the file is theirs.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from tidewaiter.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def open_existing(path: Path) -> int:
    """Return a descriptor of the file for reading and writing, -1 where there is none and one could be made.

    Raises ConfigError for what is no regular file, cannot be written, or cannot be made. The caller closes it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        _check_can_be_made(path)
        return -1
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be opened for writing: {error.strerror}", hint="check its permissions, or name another"
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(f"{path}: is not a regular file", hint="name a file")
    return fd


def _check_can_be_made(path: Path) -> None:
    """Look at the nearest directory above that exists: what is missing below it is made."""
    above = path.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{path}: cannot be made: {above} is no directory that can be written", hint="name another place"
        )
