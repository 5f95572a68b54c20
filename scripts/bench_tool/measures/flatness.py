"""Whether an event costs the same however many users there are, and however much of the stream is behind it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from bench_tool.figures import Figure, median
from bench_tool.streams import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench_tool.bench import Bench, StreamFile

FLAT: Final = 1.25
"""A cost counts as flat if it grows by no more than a quarter."""
FEW, MANY = 10_000, 1_000_000
_ROUND_NS: Final = 6_000_000_000
_SPAN_BYTES: Final = 100_000_000


def by_users(bench: Bench) -> Iterator[Figure]:
    """Users at random, 100 events/s of event time; then all users in turn, so that each is held in the window."""
    events = 200_000 if bench.quick else 1_000_000
    few, many = (bench.generated(events, "quiet", users=users) for users in (FEW, MANY))
    yield _compared(bench, "cost_by_users", few, many, {})
    users = MANY // 10 if bench.quick else MANY
    # a round of all users takes 6 s: one or two deposits of each are within the 10 s of the velocity rule
    few, many = (
        bench.rounds(count, 3 * users, deposits=3 * users, step_ns=_ROUND_NS // count) for count in (FEW, users)
    )
    yield _compared(bench, "cost_by_users_held", few, many, {"held_users": [FEW, users]})


def _compared(bench: Bench, name: str, few: StreamFile, many: StreamFile, detail: dict[str, Any]) -> Figure:
    costs: list[list[float]] = [[], []]
    for _ in range(2 if bench.quick else 3):
        for cost, stream in zip(costs, (few, many), strict=True):
            cost.append(bench.once(stream.path).durable / stream.events * 1e6)
    return Figure(
        name, median(costs[1]) / median(costs[0]), "times the cost with 10k users", FLAT, "at most", many.facts(),
        {
            **detail, "few_us_per_event": costs[0], "many_us_per_event": costs[1],
            "ratio_of_best": min(costs[1]) / min(costs[0]), "few_file": few.facts(),
        },
    )  # fmt: skip


def by_position(bench: Bench) -> Iterator[Figure]:
    """The first and the last 100 MB of one run over 2 GB, by the times in the audit log; the first MB is left out."""
    if bench.quick:
        return
    stream = bench.generated(7_500_000, "quiet")
    rates = _rates(bench.once(stream.path).state, stream.size)
    first, last = rates[0], rates[-1]
    yield Figure(
        "cost_by_position", first / last, "times the cost of the first 100 MB", FLAT, "at most", stream.facts(),
        {"first_events_per_s": first, "last_events_per_s": last, "events_per_s_each_100_mb": rates},
    )  # fmt: skip


def _rates(state: Path, size: int) -> list[float]:
    """Return the events per second of each 100 MB behind the first MB, and of the last 100 MB."""
    points: list[tuple[int, int, float]] = []  # byte, events so far, seconds
    for path in sorted((state / "audit").glob("audit-*.jsonl")):
        with path.open("rb") as file:
            for row in file:
                if b'"action":"batch.committed"' in row:
                    entry = json.loads(row)
                    points.append((entry["offset"], entry["totals"]["events_read"], seconds_of(entry["timestamp"])))
    begins = [*range(1_000_000, size - 2 * _SPAN_BYTES, _SPAN_BYTES), size - _SPAN_BYTES]
    rates = []
    for begin in begins:
        span = [point for point in points if begin <= point[0] <= begin + _SPAN_BYTES]
        rates.append((span[-1][1] - span[0][1]) / (span[-1][2] - span[0][2]))
    return rates
