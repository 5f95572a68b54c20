"""A process that appends events at a steady rate, as a service that logs would: one write for each event.

Started as ``python -m bench_tool.writer JSON`` with the members of `Job`. It writes to `out` one line of JSON ``[id,
nanoseconds]`` for each event that is to be flagged: the monotonic clock right behind its write. The schedule is
absolute: what was late is made up for at once. Lines are made beforehand, so that writing is all it does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from bench_tool.streams import live_lines

if TYPE_CHECKING:
    from collections.abc import Sequence


class Job(msgspec.Struct):
    """What to write. Without `start_us` (microseconds since 1970) events happen when they are written.

    `step_us` is the event time from one to the next, by default what the rate says.
    """

    stream: str
    out: str
    rate: float
    events: int
    first: int
    users: int
    seed: int
    flagged_every: int | None = None
    start_us: int | None = None
    step_us: int | None = None


def main(arguments: Sequence[str]) -> int:
    """Write the events, then tell when."""
    job = msgspec.json.decode(arguments[0], type=Job)
    start = time.time_ns() // 1000 if job.start_us is None else job.start_us
    step = 1e6 / job.rate if job.step_us is None else job.step_us
    times = [start + int(at * step) for at in range(job.events)]
    lines = list(live_lines(job.seed, job.users, job.first, times, job.flagged_every))
    written: list[tuple[str, int]] = []
    fd = os.open(job.stream, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    interval = 1e9 / job.rate
    origin = time.monotonic_ns()
    for at, (line, flagged) in enumerate(lines):
        early = origin + int(at * interval) - time.monotonic_ns()
        if early > 0:
            time.sleep(early / 1e9)
        os.write(fd, line)
        if flagged is not None:
            written.append((flagged, time.monotonic_ns()))
    late = time.monotonic_ns() - origin - int((job.events - 1) * interval)
    os.close(fd)
    with open(job.out, "w", encoding="utf-8") as file:  # noqa: PTH123 - a plain name from the caller
        file.writelines(json.dumps(row) + "\n" for row in written)
    print(json.dumps({"late_ms": late / 1e6}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
