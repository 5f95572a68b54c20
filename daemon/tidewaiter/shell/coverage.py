"""A whole history through `core.scenarios.coverage`, in memory.

Owns: reading the files of a stream that may be nobody's yet, file by file, cut into lines. Leaves to `shell.history`
opening them and to the core everything that is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewaiter.core.framing import Block, Framer
from tidewaiter.core.scenarios.coverage import Coverage
from tidewaiter.shell.history import read_files

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.shell.governing import Governing
    from tidewaiter.shell.settings import Progress


def cover(governing: Governing, stream: Path, progress: Progress | None) -> Coverage:
    """Return the counts over all of `stream`. Raises ConfigError where it cannot be read."""
    coverage = Coverage(governing.ruleset, governing.contract, governing.policy)
    position, total = 0, 0
    files = list(read_files(stream))
    total = sum(size for _, size, _ in files)
    for _, _, content in files:
        framer = Framer(0, governing.policy.line_limit)
        for data in content:
            framer.feed(data)
            position += len(data)
            while (piece := framer.next_piece()) is not None:
                if isinstance(piece, Block):
                    coverage.feed(piece.data, at_start=piece.offset == 0)
            if progress is not None:
                progress.update(
                    position=position, total_bytes=max(total, position), events=coverage.lines, events_per_s=0.0,
                    flags=0, rejected=coverage.lines - coverage.events, lag_bytes=max(total - position, 0),
                )  # fmt: skip
    return coverage
