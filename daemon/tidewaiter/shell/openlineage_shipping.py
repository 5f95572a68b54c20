"""Shipping OpenLineage events to a server, beside everything else: in order, at least once, and less and less eagerly.

Owns: how long an attempt may take, when the next one is made, and what is logged. Leaves the protocol to
`edges.openlineage_client`, and how far it came to `edges.openlineage_outbox`.

Each attempt runs on a thread of its own that nobody waits for longer than the timeout: a server that hangs or drips
keeps that thread busy and nothing else. Pauses after failures double up to `LONGEST_PAUSE_SECONDS`, without chance.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from tidewaiter.edges.logs import get_logger
from tidewaiter.edges.openlineage_client import Refused, Unreachable
from tidewaiter.shell.log_names import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.edges.openlineage_client import LineageClient
    from tidewaiter.edges.openlineage_outbox import Outbox

log = get_logger()

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 300.0
_GIVEN_UP_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 0.1


class _Attempt(threading.Thread):
    """One event on its way; a daemon thread, so that no server can hold up the end of the process."""

    def __init__(self, client: LineageClient, event: bytes) -> None:
        super().__init__(name="openlineage", daemon=True)
        self.event = event
        self.error: Exception | None = None
        self.given_up = False
        self._client = client

    def run(self) -> None:
        try:
            self._client.send(self.event.rstrip(b"\n"))
        except Exception as error:  # noqa: BLE001 - looked at by whoever waits
            self.error = error

    def give_up(self) -> bool:
        """End it, however slowly the server answers; return whether it has ended."""
        self.given_up = True
        self._client.abandon()
        self.join(_GIVEN_UP_SECONDS)
        return not self.is_alive()


class Shipping:
    """The way from one outbox to one server. Used by one thread at a time."""

    def __init__(
        self, outbox: Outbox, client: LineageClient, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`timeout` in seconds is for one event; `clock` says when a pause is over."""
        self.outbox = outbox
        self._client = client
        self._timeout = timeout
        self._clock = clock
        self._pause = 0.0
        self._not_before = 0.0
        self._attempt: _Attempt | None = None

    def ship(self, end: int, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Send what lies before byte `end`, until all is dealt with, `stopped()`, or an attempt fails.

        Return whether all is dealt with. An attempt that is under way when `stopped()` is left to `ship_last`. Raises
        what the disk refuses about the cursor.
        """
        while (event := self.outbox.next(end)) is not None:
            if stopped() or self._clock() < self._not_before or not self._ship_one(event, self._timeout, stopped):
                return False
        return True

    def ship_last(self, end: int, seconds: float) -> bool:
        """Send what there is before the process ends, for `seconds` at most, and whatever the last pause says."""
        deadline = time.monotonic() + seconds
        while (event := self.outbox.next(end)) is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not self._ship_one(event, min(left, self._timeout), lambda: False):
                return False
        return True

    def close(self) -> None:
        """Let go of the server; what it still answers is not waited for."""
        attempt = self._attempt
        if attempt is None or not attempt.is_alive() or attempt.give_up():
            self._client.close()

    def _ship_one(self, event: bytes, patience: float, stopped: Callable[[], bool]) -> bool:
        """Return whether the event is dealt with."""
        attempt = self._attempt
        if attempt is not None and attempt.is_alive() and attempt.given_up and not attempt.give_up():
            self._failed("has still not ended the attempt before")
            return False
        if attempt is None or attempt.given_up or attempt.event != event:
            attempt = self._attempt = _Attempt(self._client, event)
            attempt.start()
        deadline = time.monotonic() + patience
        while attempt.is_alive() and not stopped() and (left := deadline - time.monotonic()) > 0:
            attempt.join(min(left, _LOOK_SECONDS))
        if attempt.is_alive():
            if not stopped():
                self._failed(f"gives no answer within {patience:.1f} s")
                attempt.give_up()
            return False
        self._attempt = None
        return self._dealt_with(event, attempt.error)

    def _dealt_with(self, event: bytes, error: Exception | None) -> bool:
        match error:
            case None:
                self.outbox.sent(event)
            case Refused():
                refused = self.outbox.cursor.refused + 1
                offset, status = self.outbox.cursor.offset, error.status
                log.error("openlineage.refused", url=self._client.shown, offset=offset, status=status, refused=refused)
                self.outbox.set_aside(event, status, utc_now())
            case Unreachable():
                self._failed(str(error))
                return False
            case _:  # whatever it is: no answer may end the daemon
                self._failed(f"{type(error).__name__}: {error}")
                return False
        if self._pause:
            log.info("openlineage.reached", url=self._client.shown)
        self._pause = self._not_before = 0.0
        return True

    def _failed(self, reason: str) -> None:
        if not self._pause:  # once, not at every try
            log.warning(
                "openlineage.unreachable", url=self._client.shown, reason=reason, offset=self.outbox.cursor.offset
            )
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._not_before = self._clock() + self._pause
