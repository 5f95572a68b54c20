"""Writes on the journal's thread that outlast a full disk, and the watchdog that must not notice.

Owns: waiting for space and saying so, and how often the service manager is told that the daemon is alive. Leaves to
`edges.journal` what is written, and to the consumer in which order.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from tidewaiter.edges.durable import NoSpace
from tidewaiter.edges.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from tidewaiter.edges.service_manager import ServiceManager

log = get_logger()

RETRY_SECONDS: Final = (0.1, 5.0)
"""First and longest pause between attempts while the disk is full."""


class Persisting:
    """The journal's thread as the consumer uses it; `stop` is set when the daemon is to end."""

    def __init__(
        self, thread: Executor, services: ServiceManager, stop: asyncio.Event, written: Callable[[], None]
    ) -> None:
        """One call at a time runs on `thread`; `written` is called, on the event loop, behind each."""
        self._thread = thread
        self._services = services
        self._stop = stop
        self._written = written
        self._watchdog_at = 0.0

    def alive(self) -> None:
        """Feed the watchdog after real progress or a verified idle pass, as often as it wants."""
        now = time.monotonic()
        if now >= self._watchdog_at:
            self._services.watchdog()
            self._watchdog_at = now + (self._services.watchdog_interval() or 1.0)

    async def done(self, call: Callable[[], None]) -> None:
        """Return when `call` has run; while the disk is full, wait and try again until told to stop.

        Raises NoSpace then, and whatever else the call raises.
        """
        loop = asyncio.get_running_loop()
        delay, longest = RETRY_SECONDS
        full = False
        while True:
            try:
                await asyncio.shield(loop.run_in_executor(self._thread, call))
            except NoSpace as error:
                if not full:
                    log.error("disk.full", error=str(error))
                full = True
                self._services.status(f"DISK FULL: {error.message}")
                self.alive()
                if self._stop.is_set():
                    raise
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._stop.wait()
                delay = min(delay * 2, longest)
            else:
                if full:
                    log.info("disk.recovered")
                return
            finally:
                self._written()  # a step that found the disk full may have committed before
