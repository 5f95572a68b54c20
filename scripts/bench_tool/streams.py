"""Made-up streams beyond what `tidewaiter generate` makes: lines of the same form, for chosen users at chosen times.

Owns: their lines. The ids are those of the generator, UUIDs of 36 characters.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from tidewaiter.core.money_flow_generator import MoneyFlowGenerator, Profile, iso_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_US: Final = 1_772_000_000_000_000
_BUFFERED_LINES: Final = 5_000
# The shipped threshold is 500.00.
NEVER_FLAGGED: Final = Profile(name="small", hot=0, hot_users=1, hot_events=300, bands=((1000, 100, 50_000),))
ALWAYS_FLAGGED: Final = Profile(name="large", hot=0, hot_users=1, hot_events=300, bands=((1000, 50_001, 100_000),))


def write_rounds(path: Path, *, users: int, events: int, deposits: int, step_ns: int, seed: int) -> None:
    """Write `events` events, `step_ns` nanoseconds apart, user after user; the last `deposits` of them are deposits."""
    ids = MoneyFlowGenerator(seed, users)
    first_deposit = events - deposits
    with path.open("w", encoding="ascii", newline="") as file:
        for first in range(0, events, _BUFFERED_LINES):
            lines = []
            for number in range(first, min(first + _BUFFERED_LINES, events)):
                time = iso_time(START_US + number * step_ns // 1000)
                kind = "deposit_completed" if number >= first_deposit else "withdrawal_requested"
                lines.append(
                    f'{{"event_id": "{ids.event_id(number)}", "user_id": "user_{number % users:05d}", '
                    f'"event_time": "{time}", "ingest_time": "{time}", "event_type": "{kind}", '
                    f'"amount": {1 + number % 499}.25, "currency": "GBP", "channel": "web"}}\n'
                )
            file.writelines(lines)


def live_lines(
    seed: int, users: int, first: int, times: list[int], flagged_every: int | None
) -> Iterator[tuple[bytes, str | None]]:
    """Yield the lines of events `first`, … at `times` (microseconds since 1970), with the id of those to be flagged.

    Every `flagged_every`-th has an amount above the threshold; the others are below it.
    """
    quiet, loud = (MoneyFlowGenerator(seed, users, profile) for profile in (NEVER_FLAGGED, ALWAYS_FLAGGED))
    for at, time in enumerate(times):
        number = first + at
        if flagged_every is not None and at % flagged_every == 0:
            yield loud.lines(number, [time])[0].encode(), loud.event_id(number)
        else:
            yield quiet.lines(number, [time])[0].encode(), None


def seconds_of(timestamp: str) -> float:
    """Return the seconds since 1970 of a time in a log or audit entry."""
    return dt.datetime.fromisoformat(timestamp).timestamp()
