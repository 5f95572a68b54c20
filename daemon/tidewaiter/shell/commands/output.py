"""Where a command writes what it was asked for: a new file, or standard output.

Owns: ending quietly where a reader goes away, and one clear line where there is no room. Leaves the bytes to the
commands.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def output(out: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Give what writes to a new file or to standard output, where a reader that goes away ends the command quietly."""
    if out is not None:
        from tidewaiter.shell.new_file import new_file

        with new_file(out, "--out") as file:
            yield file.write
        return
    try:
        yield _to_stdout
        _to_stdout(b"")
    except BrokenPipeError:
        # what is still buffered has nowhere to go, at the interpreter's end neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _to_stdout(data: bytes) -> None:
    """Write; without data, see to it that all is written. Raises BrokenPipeError, ConfigError."""
    from tidewaiter.core.errors import ConfigError

    try:
        if data:
            sys.stdout.buffer.write(data)
        else:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ConfigError(f"standard output: {error.strerror}", hint="free some space, or name another file") from error
