"""Hand-cranked stand-ins for the edges: nothing in them takes real time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tidewaiter.edges.waker import never

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeWaker:
    """A `Waker` whose time passes only when the test says so.

    `waits` lists the time-outs asked for, in seconds. A test turns the crank with `kick` (wake up) and `elapse`
    (the time-out passes); both wait, if need be, until somebody waits here, unless that is what is tested.
    """

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._kicked = False
        self._elapsed = False
        self._turned = asyncio.Event()
        self._waiting = asyncio.Event()

    async def wait(
        self,
        timeout: float,  # noqa: ASYNC109 - the interface of Waker
        unchanged: Callable[[], bool] = never,
        looks: int = 1,
    ) -> bool:
        """See Waker. All looks pass as one."""
        self.waits.append(timeout)
        self._elapsed = False
        await asyncio.sleep(0)
        self._waiting.set()
        try:
            while not self._kicked and not self._elapsed:
                self._turned.clear()
                await self._turned.wait()
        finally:
            self._waiting.clear()
        woken, self._kicked = self._kicked, False
        return woken

    def kick(self) -> None:
        self._kicked = True
        self._turned.set()

    async def waiting(self) -> None:
        """Return once somebody waits, that is once the code under test has nothing left to do."""
        async with asyncio.timeout(10):
            await self._waiting.wait()

    async def elapse(self) -> None:
        """Let the time-out of the wait in progress, or of the next one, pass."""
        await self.waiting()
        self._elapsed = True
        self._turned.set()
        self._waiting.clear()
