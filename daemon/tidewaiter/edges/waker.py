"""Wake-ups: "something may have changed, look again", and nothing more.

Owns: the only use of watchfiles. Leaves to `edges.stream` what the stream's files look like now, and to
`shell.consumer` when to read.

Invariants:
- A wake-up carries no payload. What a notification says is never trusted: the library drops queue overflows in
  silence, and a name may mean another file by the time it is read. The reader looks at the files themselves.
- Wake-ups are coalesced: any number of them before or during a wait end one wait. One that arrives between two waits
  ends the next one at once.
- A notification is only a short cut. Whoever waits passes the longest time it may stay blind (`stat` interval, default
  0.5 s) and looks again after that time whatever happens here; so a dead watcher costs latency, never an event. Such
  a look may be a comparison of the files' times, made in the timer: behind half a second of rest nothing is in the
  processor's caches, and a pass through everything takes several times as long.
- The parent directory is watched, not the file: a watch on a file is dead after rotation, and cannot be set before
  the file appears.

Latency and CPU. The library's thread looks at its queue every `STEP_MS` and needs a second look to see that a burst
is over, so the first wake-up after idle comes one to two steps after the append, up to 50 ms, for 40 looks a second:
0.32 % of a core. A step of 20 ms costs a quarter more, one of 10 ms 0.8 %, one of 1 ms 3.6 %. Therefore the consumer
must not wait here while the stream is hot: it polls the file for about a millisecond between reads, as network drivers
do, and comes back to `wait` only when a few polls in a row found nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import watchfiles

from tidewaiter.edges.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

log = get_logger()

STEP_MS: Final = 25
"""How often the library looks at its queue: see the module's header for what it costs."""
DEBOUNCE_MS: Final = 1
"""A burst is not awaited beyond the second look: under steady changes of many files a wake-up comes every 50 ms."""
TICK_MS: Final = 5_000
"""How often the watcher reports that it is alive while nothing happens; then the directory's identity is checked.

Each time ends one call on the library's thread and begins another. A directory that was replaced is read within the
`stat` interval all the same; until the next tick its appends are found by that, not by a notification.
"""
SETTLED_SECONDS: Final = 5.0
"""A watcher that lived this long is well; dying earlier counts as one more failure of the same streak."""
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0


def never() -> bool:
    """Tell that nobody knows whether something has changed."""
    return False


class Waker(Protocol):
    """What the consumer waits on while the stream is quiet."""

    async def wait(
        self,
        timeout: float,  # noqa: ASYNC109 - a time-out is the second normal answer, no error
        unchanged: Callable[[], bool] = never,
        looks: int = 1,
    ) -> bool:
        """Return True once woken, False after `timeout` seconds; always lets other tasks run at least once.

        With more `looks` than one it is False after so many times `timeout` seconds, or as soon as `unchanged()`, which
        is asked each time but the last, does not say True. Raises what it raises.
        """

    def kick(self) -> None:
        """Wake whoever waits, or else end the next wait at once. Only from the event loop's thread; never blocks."""


class FileWaker:
    """Wakes when anything in one directory changes.

    `run` is the watcher: the supervisor owns it as a task of its own; it never returns and only cancellation ends it.
    Without it, `wait` still keeps time. One task waits at a time.
    """

    def __init__(
        self,
        directory: Path,
        *,
        watch: Callable[[Path], AsyncGenerator[set[Any], None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`directory` holds the stream; `watch`, `clock` (seconds) and `pause` (seconds) are there for tests.

        `watch` yields a set after each burst of changes, and an empty one as a sign of life after `TICK_MS` without.
        """
        self._directory = directory
        self._watch = _watch if watch is None else watch
        self._clock = clock
        self._pause = pause
        self._kicked = False
        self._waiting: asyncio.Future[None] | None = None
        self._streak = 0

    async def wait(
        self,
        timeout: float,  # noqa: ASYNC109 - see Waker
        unchanged: Callable[[], bool] = never,
        looks: int = 1,
    ) -> bool:
        """See Waker."""
        await asyncio.sleep(0)  # a stream of kicks must not starve the other tasks
        if not self._kicked and timeout > 0:
            loop = asyncio.get_running_loop()
            waiting = self._waiting = loop.create_future()
            timer = loop.call_later(timeout, _look, waiting, timeout, unchanged, looks - 1)
            try:
                await waiting
            finally:
                timer.cancel()
        woken, self._kicked = self._kicked, False
        return woken

    def kick(self) -> None:
        """See Waker."""
        self._kicked = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    @property
    def failures(self) -> int:
        """How many times in a row the watcher has died; 0 while it is well."""
        return self._streak

    async def run(self) -> NoReturn:
        """Watch for ever: a watcher that dies is recreated after a pause that grows to `LONGEST_PAUSE_SECONDS`.

        Each streak of failures is logged once at its start and once when it is over.
        """
        while True:
            why = await self._watch_until_lost()
            self._streak += 1
            if self._streak == 1:
                log.warning("watcher.lost", directory=str(self._directory), error=why)
            self.kick()  # whatever ended the watcher may have been a change
            await self._pause(min(FIRST_PAUSE_SECONDS * 2 ** min(self._streak - 1, 16), LONGEST_PAUSE_SECONDS))

    async def _watch_until_lost(self) -> str:
        """Turn changes into wake-ups until that ends; return why."""
        born = self._clock()
        try:
            watched = _identity(self._directory)  # before the watch is set, so that no replacement falls in between
            async with contextlib.aclosing(self._watch(self._directory)) as bursts:
                async for burst in bursts:
                    if burst:
                        self.kick()
                    if _identity(self._directory) != watched:
                        return "the directory was replaced"
                    if self._streak and self._clock() - born >= SETTLED_SECONDS:
                        log.info("watcher.recreated", directory=str(self._directory), failures=self._streak)
                        self._streak = 0
                        self.kick()  # for what happened while nobody watched
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in the library's Rust part is not an Exception
            return _reason(error)
        return "the watcher ended"


def _look(waiting: asyncio.Future[None], timeout: float, unchanged: Callable[[], bool], left: int) -> None:
    """End a wait or begin its next part, in the timer itself: to wake a task takes as long as the look."""
    if waiting.done():
        return
    try:
        if left and unchanged():
            waiting.get_loop().call_later(timeout, _look, waiting, timeout, unchanged, left - 1)
        else:
            waiting.set_result(None)
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        waiting.set_exception(error)


class _Stop(list[None]):
    """What ends a watch. The library asks at each look; an event of Python's own would make the look a tenth dearer."""

    is_set = list.__len__

    def set(self) -> None:
        """Let the library's thread return."""
        self.append(None)


def _watch(directory: Path) -> AsyncGenerator[set[Any], None]:
    return watchfiles.awatch(
        directory,
        watch_filter=None,
        recursive=False,
        step=STEP_MS,
        debounce=DEBOUNCE_MS,
        rust_timeout=TICK_MS,
        stop_event=_Stop(),
        yield_on_timeout=True,
        debug=False,  # or an environment variable could make the library print to stdout
    )


def _identity(directory: Path) -> tuple[int, int]:
    """Device and inode of the directory the name stands for now; a watch stays with the old one when that changes."""
    status = os.stat(directory)  # noqa: PTH116 - one system call, the same as Path.stat
    return status.st_dev, status.st_ino


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):  # the library runs inside a task group
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
