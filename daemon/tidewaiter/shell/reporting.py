"""What people and the service manager are told while the daemon works.

Owns: the summary once a second, STATUS, the progress display, the log lines of commits and rejections, and the
alarm for silence. Leaves to the consumer everything that happens; nothing here changes what is committed.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.decoding import UNDECLARED
from tidewaiter.core.engine import Evaluation, Rejection
from tidewaiter.edges.logs import get_logger

if TYPE_CHECKING:
    from tidewaiter.core.ledger import Ledger
    from tidewaiter.edges.service_manager import ServiceManager
    from tidewaiter.shell.settings import Progress

log = get_logger()

_LOGGED_REJECTIONS: Final = 20
_rejection: Final = msgspec.json.Decoder(Rejection)


class Reporter:
    """Tells how far the daemon is; `once` means that the end of the stream is known."""

    def __init__(self, services: ServiceManager, progress: Progress, ledger: Ledger, *, once: bool) -> None:
        """`ledger` is the state at the start of the run."""
        now = time.monotonic()
        self.silent = False
        self._services = services
        self._progress = progress
        self._once = once
        self._first, self._began = ledger.totals, now
        self._last, self._last_at = ledger.totals, now
        self._rate = 0.0
        self._last_data = now

    def data_arrived(self) -> bool:
        """Note that bytes arrived; return True if that ends a silence."""
        self._last_data = time.monotonic()
        ended, self.silent = self.silent, False
        return ended

    def quiet_seconds(self, ledger: Ledger, alarm_us: int | None) -> float:
        """Return how long nothing need be told while nothing arrives; 0 until the last summary says so."""
        if self._rate or ledger.totals.events_read != self._last.events_read:
            return 0.0
        if alarm_us is None or self.silent:
            return math.inf
        return self._last_data + alarm_us / 1e6 - time.monotonic()

    def silence_begins(self, alarm_us: int | None) -> float | None:
        """Return for how many seconds nothing arrived, if that is an alarm that was not raised yet."""
        seconds = time.monotonic() - self._last_data
        if alarm_us is None or self.silent or seconds * 1e6 < alarm_us:
            return None
        self.silent = True
        self._services.status(f"SILENT: nothing arrived for {seconds:.0f} s")
        return seconds

    def committed(self, evaluation: Evaluation, ledger: Ledger) -> None:
        """Log a commit at debug and its rejections; a flood of them is summed up."""
        counts = evaluation.counts
        log.debug(
            "batch.committed", offset=ledger.global_offset, events=counts.events_read, flags=counts.flags,
            rejected=counts.rejected,
        )  # fmt: skip
        if not counts.rejected:
            return
        rejected = [record for projection, record in evaluation.records if projection == "rejections"]
        lines = [_rejection.decode(record) for record in rejected]
        for line in lines[:_LOGGED_REJECTIONS]:
            # a field that the contract does not know is the stream's own text, and stays out of the log
            field = {"field": line.field} if line.reason != UNDECLARED else {}
            log.warning("event.rejected", offset=line.offset, kind=line.kind, reason=line.reason, **field)
        rest = lines[_LOGGED_REJECTIONS:]
        if rest:
            kinds = dict(Counter(line.kind for line in rest))
            log.warning("event.rejected", more=len(rest), first_offset=rest[0].offset, kinds=kinds)

    def summarise(self, ledger: Ledger, lag_bytes: int, *, now: bool = False) -> None:
        """Once a second (or `now`) STATUS, and a log line if events flowed; the progress display each time."""
        seconds = time.monotonic() - self._last_at
        if seconds >= 1.0 or now:
            self._summarise(ledger, lag_bytes, seconds)
        self._show(ledger, lag_bytes)

    def _summarise(self, ledger: Ledger, lag_bytes: int, seconds: float) -> None:
        totals, before = ledger.totals, self._last
        self._last, self._last_at = totals, time.monotonic()
        events = totals.events_read - before.events_read
        rate = self._rate = events / max(seconds, 1e-6)
        position = ledger.global_offset
        if not self.silent:
            self._services.status(
                f"at byte {position}, lag {lag_bytes} bytes, {rate:.0f} events/s, {totals.flags} flags"
            )
        if events:
            log.info(
                "progress", position=position, lag_bytes=lag_bytes, events_per_s=round(rate, 1),
                flags=totals.flags - before.flags, rejected=totals.rejected - before.rejected,
            )  # fmt: skip

    def _show(self, ledger: Ledger, lag_bytes: int) -> None:
        totals, first, position, rate = ledger.totals, self._first, ledger.global_offset, self._rate
        if self._once:  # a bar shows the speed of the whole run
            rate = (totals.events_read - first.events_read) / max(time.monotonic() - self._began, 1e-6)
        self._progress.update(
            position=position,
            total_bytes=position + lag_bytes if self._once else None,
            events=totals.events_read - first.events_read,
            events_per_s=rate,
            flags=totals.flags - first.flags,
            rejected=totals.rejected - first.rejected,
            lag_bytes=lag_bytes,
        )
