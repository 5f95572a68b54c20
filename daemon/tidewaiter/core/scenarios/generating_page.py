"""The page that the generated function is written on.

Owns: lines and indentation. Leaves to the other `generating` rooms what is written.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Page:
    """Lines of Python at a depth of indentation."""

    def __init__(self, depth: int = 0) -> None:
        """Begin with nothing at `depth`."""
        self.lines: list[str] = []
        self.depth = depth

    def put(self, *lines: str) -> None:
        """Write lines, each at the depth reached and however deeper it is itself."""
        self.lines += ["    " * self.depth + line if line else "" for line in lines]

    @contextmanager
    def under(self, head: str) -> Iterator[None]:
        """Write `head` (nothing for "") and what follows below it."""
        if not head:
            yield
            return
        self.put(head)
        self.depth += 1
        yield
        self.depth -= 1

    def text(self) -> str:
        """Return what is written."""
        return "\n".join(self.lines) + "\n"
