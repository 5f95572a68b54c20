"""Stopping a run from outside: at once where rows flow, and never between two writes that belong together.

Owns: the wish to stop and when it is granted. Leaves to `commands.pipeline` the signals, and to `running` saying where
a run may be stopped. Only for the main thread: that is where signal handlers run.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stopped(BaseException):
    """The run was told to stop; its text says by what."""


class Stopping:
    """The wish to stop: `ask` may be called by a signal handler at any time."""

    def __init__(self) -> None:
        """Nobody wishes anything yet."""
        self.why = ""
        self._granted = False

    def ask(self, why: str) -> None:
        """Stop the run as soon as it may be. Raises Stopped where it may be at once."""
        self.why = self.why or why
        self._grant()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Let the run be stopped within the block. Raises Stopped."""
        self._granted = True
        try:
            self._grant()
            yield
        finally:
            self._granted = False

    def _grant(self) -> None:
        if self.why and self._granted:
            self._granted = False  # once: what tidies up is not disturbed
            raise Stopped(f"stopped by {self.why}")
