"""The daemon as it is, but for the tree over its audit log: no tiles, no checkpoints, no signatures.

Started as ``python -m bench_tool.without_tree ARGUMENTS`` with the arguments of ``tidewaiter``: what signing costs is
the difference to it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from tidewaiter.shell import supervisor
from tidewaiter.shell.commands.app import main
from tidewaiter.shell.evidence import Evidence

if TYPE_CHECKING:
    from tidewaiter.core.tlog.notes import SigningKey
    from tidewaiter.edges.journal import Journal
    from tidewaiter.edges.recovery import Recovered


class NoTree(Evidence):
    """Follows nothing."""

    async def check(self, recovered: Recovered) -> None:
        """Look at nothing."""

    async def open(self, journal: Journal, keys: list[SigningKey]) -> None:  # noqa: ARG002 - nothing is signed
        """Know where the commits are, and leave them."""
        self._opened = journal

    async def run(self) -> None:
        """Wait to be cancelled."""
        await asyncio.Event().wait()

    async def finish(self) -> None:
        """Sign nothing."""
        self.close()


if __name__ == "__main__":
    vars(supervisor)["Evidence"] = NoTree  # the one place where the supervisor takes it from
    sys.exit(main())
