"""The daemon as it is, on a disk that notes when each fdatasync was done.

Started as ``python -m bench_tool.timed_daemon STREAM STATE CONFIG OUT``; follows STREAM until SIGTERM and then writes
to OUT one line of JSON for each fdatasync of the audit log and of the flags: name, begin and end (nanoseconds of the
monotonic clock, the same in every process), length of the file. Noting costs one fstat and one append to a list.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tidewaiter.edges.durable import Disk
from tidewaiter.shell.settings import Overrides, RunOptions
from tidewaiter.shell.settings_file import load_settings
from tidewaiter.shell.supervisor import run

if TYPE_CHECKING:
    from collections.abc import Sequence


class TimedDisk(Disk):
    """Notes the fdatasyncs of the audit log and of the flags."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[tuple[str, int, int, int]] = []
        self._names: dict[int, str] = {}

    def _open(self, path: Path, flags: int) -> int:
        fd = super()._open(path, flags)
        self._names[fd] = path.name
        return fd

    def _fdatasync(self, fd: int) -> None:
        began = time.monotonic_ns()
        super()._fdatasync(fd)
        ended = time.monotonic_ns()
        name = self._names[fd]
        if name.startswith(("audit-", "flags")):
            # one thread writes: the length is that of what has just been made durable
            self.syncs.append((name, began, ended, os.fstat(fd).st_size))


def main(arguments: Sequence[str]) -> int:
    """Follow the stream, then tell."""
    stream, state, config, out = map(Path, arguments)
    settings = load_settings(config, Overrides(stream=stream, state_dir=state))
    disk = TimedDisk()
    code = run(settings, RunOptions(), disk=disk)
    with out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(sync) + "\n" for sync in disk.syncs)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
