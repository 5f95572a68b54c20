"""What one would write first: a list of rule objects, each asked about each event, in pure Python.

Started as ``python -m bench_tool.naive_loop FILE RULES`` with RULES one of `RULES`; prints one line of JSON. It reads a
line with `json`, its time with `fromisoformat`, and asks every rule; a rule keeps a deque for each user. It decides as
the engine does on clean data, and knows nothing of invalid lines, duplicates, order, restarts or evidence.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench_tool.in_process import Clock, parts, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Event = dict[str, Any]


class Rule:
    """Looks at every event; `held` says of the others of the same event which have flagged it."""

    name = ""

    def evaluate(self, event: Event, held: list[str]) -> dict[str, Any] | None:
        """Return a flag or None."""
        raise NotImplementedError

    def flag(self, event: Event, value: float, threshold: float) -> dict[str, Any]:
        """Return the flag's members."""
        return {
            "flag_id": f"{event['event_id']}:{self.name}", "user_id": event["user_id"], "rule_name": self.name,
            "metric_value": value, "threshold": threshold, "event_id": event["event_id"],
            "event_time": event["event_time"], "ingest_time": event["ingest_time"],
        }  # fmt: skip


class Threshold(Rule):
    """An amount above the limit."""

    name = "threshold"

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def evaluate(self, event: Event, held: list[str]) -> dict[str, Any] | None:  # noqa: ARG002 - one of several rules
        """Return a flag or None."""
        return self.flag(event, event["amount"], self.limit) if event["amount"] > self.limit else None


class Velocity(Rule):
    """Many deposits within a time."""

    name = "velocity"

    def __init__(self, window: float, most: int) -> None:
        self.window, self.most = dt.timedelta(seconds=window), most
        self.times: defaultdict[str, deque[dt.datetime]] = defaultdict(deque)

    def evaluate(self, event: Event, held: list[str]) -> dict[str, Any] | None:  # noqa: ARG002 - one of several rules
        """Return a flag or None."""
        if event["event_type"] != "deposit_completed":
            return None
        times, now = self.times[event["user_id"]], event["time"]
        times.append(now)
        while now - times[0] > self.window:
            times.popleft()
        return self.flag(event, len(times), self.most) if len(times) > self.most else None


class Repetition(Rule):
    """A user flagged again and again; once, until that is over."""

    name = "repetition"

    def __init__(self, window: float, most: int) -> None:
        self.window, self.most = dt.timedelta(seconds=window), most
        self.times: defaultdict[str, deque[dt.datetime]] = defaultdict(deque)
        self.latched: set[str] = set()

    def evaluate(self, event: Event, held: list[str]) -> dict[str, Any] | None:
        """Return a flag or None."""
        if not held:
            return None
        user, now = event["user_id"], event["time"]
        times = self.times[user]
        times.append(now)
        while now - times[0] > self.window:
            times.popleft()
        if len(times) <= self.most:
            self.latched.discard(user)
            return None
        if user in self.latched:
            return None
        self.latched.add(user)
        return self.flag(event, len(times), self.most)


class Total(Rule):
    """Deposits of more than a limit together within a time; in cents, since sums of floats drift."""

    name = "total"

    def __init__(self, window: float, limit: int) -> None:
        self.window, self.limit = dt.timedelta(seconds=window), limit
        self.kept: defaultdict[str, deque[tuple[dt.datetime, int]]] = defaultdict(deque)
        self.sums: defaultdict[str, int] = defaultdict(int)

    def evaluate(self, event: Event, held: list[str]) -> dict[str, Any] | None:  # noqa: ARG002 - one of several rules
        """Return a flag or None."""
        if event["event_type"] != "deposit_completed":
            return None
        user, now, cents = event["user_id"], event["time"], round(event["amount"] * 100)
        kept = self.kept[user]
        kept.append((now, cents))
        self.sums[user] += cents
        while now - kept[0][0] > self.window:
            self.sums[user] -= kept.popleft()[1]
        total = self.sums[user]
        return self.flag(event, total / 100, self.limit / 100) if total > self.limit else None


RULES: Final[dict[str, Callable[[], list[Rule]]]] = {
    "money_flow": lambda: [Threshold(500.0), Velocity(10, 5), Repetition(300, 3)],
    "windowed": lambda: [Velocity(10, 5), Total(3600, 500_000)],
}


def main(arguments: Sequence[str]) -> int:
    """Evaluate the file and print what that took."""
    file, name = arguments
    rules = RULES[name]()
    reading, asking = Clock(), Clock()
    found: Counter[str] = Counter()
    settle()
    for part in parts(Path(file)):
        lines = part.data.splitlines()
        events = reading.timed(_read, lines, events=len(lines))
        found.update(asking.timed(_ask, rules, events, events=len(lines)))
    whole = Clock(reading.wall + asking.wall, reading.cpu + asking.cpu, reading.events)
    answer = {"whole": whole.facts(), "reading": reading.facts(), "rules": asking.facts(), "flags": found}
    print(json.dumps(answer, sort_keys=True))
    return 0


def _read(lines: list[bytes]) -> list[Event]:
    events = []
    for line in lines:
        event = json.loads(line)
        event["time"] = dt.datetime.fromisoformat(event["event_time"])
        events.append(event)
    return events


def _ask(rules: list[Rule], events: list[Event]) -> list[str]:
    names = []
    for event in events:
        held: list[str] = []
        for rule in rules:
            flag = rule.evaluate(event, held)
            if flag is not None:
                json.dumps(flag)
                held.append(rule.name)
        names += held
    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
