"""From the start of the process to READY, with 1M users in memory.

After a clean stop the snapshot stands at the last commit. After SIGKILL everything behind the last snapshot is read and
evaluated again, and must give the flags that were committed; the kill comes right behind a catch-up at full speed, when
much is to be evaluated again: up to `snapshot_events` and what comes while a snapshot is written. The files are in the
page cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bench_tool.bench import log_lines, log_size, wait_for_offset
from bench_tool.figures import Figure, median
from bench_tool.measures.footprint import WINDOW_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_tool.bench import Bench

READY_SECONDS: Final = 5.0


def restart(bench: Bench) -> Iterator[Figure]:
    """First after SIGKILL, then after a clean stop of the same daemon."""
    users = 100_000 if bench.quick else 1_000_000
    stream = bench.rounds(users, 2 * users, deposits=2 * users, step_ns=WINDOW_NS // (2 * users))
    state = bench.new_folder("state")
    repetitions = 2 if bench.quick else 3
    with bench.daemon(stream.path, state) as daemon:
        wait_for_offset(daemon, stream.size)
        daemon.kill()
    offsets = [0, *(int(row["offset"]) for row in log_lines(state, ["snapshot.written"]))]
    again = stream.events * (stream.size - max(offsets)) // stream.size
    killed: list[float] = []
    told: list[dict[str, Any]] = []
    for _ in range(repetitions):
        skip = log_size(state)
        with bench.daemon(stream.path, state) as daemon:
            killed.append(daemon.start_seconds)
            daemon.kill()
        row = log_lines(state, ["recovery.finished"], skip)[-1]
        told.append({key: value for key, value in row.items() if key.startswith("replayed") or key == "seconds"})
    with bench.daemon(stream.path, state) as daemon:
        daemon.stop()
    clean: list[float] = []
    for _ in range(repetitions):
        with bench.daemon(stream.path, state) as daemon:
            clean.append(daemon.start_seconds)
            daemon.stop()
    detail: dict[str, Any] = {"users": users, "ids": stream.events}
    yield Figure(
        "restart_clean", max(clean), "s to READY", READY_SECONDS, "at most", stream.facts(),
        {**detail, "median_s": median(clean), "all_s": clean},
    )  # fmt: skip
    yield Figure(
        "restart_killed", max(killed), "s to READY", READY_SECONDS, "at most", stream.facts(),
        {
            **detail, "median_s": median(killed), "all_s": killed, "events_evaluated_again": again,
            "recovery_finished": told,
        },
    )  # fmt: skip
