"""How long a snapshot keeps a batch waiting, seen from outside: the gaps between commits.

A state with all users held is loaded by a start, then a writer appends 1,000 events/s and a snapshot falls due; each
repetition is a start of its own. The figure is the longest time between two consecutive commits (fdatasyncs of the
audit log) that touches the time from the copy of the state to the rename of the snapshot; what the daemon says of
its own standstill, and the gaps at other times, stand beside it. Only when a snapshot falls due is set, to a number of
events that comes within a repetition: by the shipped settings one of 2M ids is taken a minute or two behind the start.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bench_tool.bench import CONFIG, log_lines, log_size, wait_for_offset
from bench_tool.daemon import MeasureFailed, environment
from bench_tool.figures import Figure, percentile
from bench_tool.measures.footprint import WINDOW_NS
from bench_tool.measures.latency import read_syncs
from bench_tool.streams import START_US, seconds_of
from bench_tool.writer import Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench_tool.bench import Bench

STALL_MS: Final = 50.0
_RATE: Final = 1_000
_DUE_SHARE: Final = 0.4  # of a repetition's events; behind twice as many one would be taken without copying ahead
_EDGE_SECONDS: Final = 0.01  # the log rounds to a millisecond
_DEADLINE: Final = 90.0


def at_100k(bench: Bench) -> Iterator[Figure]:
    """100k users with two deposits each; first with their own ids alone, then with 2M ids in the duplicate horizon."""
    yield from _stall(bench, "snapshot_100k", 100_000, 200_000, STALL_MS)
    if not bench.quick:
        yield from _stall(bench, "snapshot_100k_2m_ids", 100_000, 2_000_000, STALL_MS)


def at_1m(bench: Bench) -> Iterator[Figure]:
    """1M users with two deposits each; nothing is promised about them."""
    users = 300_000 if bench.quick else 1_000_000
    yield from _stall(bench, "snapshot_1m", users, 2 * users, None)


def _stall(bench: Bench, name: str, users: int, ids: int, floor: float | None) -> Iterator[Figure]:
    folder = bench.new_folder(name)
    fill = bench.rounds(users, ids, deposits=2 * users, step_ns=WINDOW_NS // ids)
    stream, state = folder / "live.jsonl", folder / "state"
    shutil.copyfile(fill.path, stream)
    with bench.daemon(stream, state) as daemon:
        wait_for_offset(daemon, stream.stat().st_size)
        daemon.stop()
    events = _RATE * (12 if bench.quick else 25)
    config = _config(folder, int(events * _DUE_SHARE))
    gaps: list[float] = []
    others: list[float] = []
    snapshots: list[dict[str, Any]] = []
    for repetition in range(1 if bench.quick else 3):
        first = ids + repetition * events
        start = START_US + WINDOW_NS // 1000 + repetition * events * 10
        job = Job(
            str(stream), str(folder / "written"), _RATE, events, first, users, fill.seed, start_us=start, step_us=10
        )
        inside, outside, told = _one(bench, folder, config, job)
        gaps += inside
        others += outside
        snapshots += told
    detail = {
        "users": users, "ids": ids, "snapshots": len(snapshots),
        "told_stalled_ms": [each["stalled_ms"] for each in snapshots],
        "snapshot_seconds": [each["seconds"] for each in snapshots],
        "gap_during_p50_ms": percentile(gaps, 50), "gap_during_p99_ms": percentile(gaps, 99),
        "gap_otherwise_p50_ms": percentile(others, 50), "gap_otherwise_p99_ms": percentile(others, 99),
        "gap_otherwise_max_ms": max(others), "live_events_per_s": _RATE,
    }  # fmt: skip
    yield Figure(name, max(gaps), "ms between commits", floor, "at most", fill.facts(), detail)


def _config(folder: Path, events: int) -> Path:
    """Return the shipped configuration with a snapshot behind so many events, or a second as the pace allows it."""
    path = folder / "tidewaiter.toml"
    pace = f'[state]\nsnapshot_interval = "1s"\nsnapshot_events = {events}\n'
    text = CONFIG.read_text(encoding="utf-8").replace("[state]\n", pace, 1)
    path.write_text(text.replace('"contracts/', f'"{CONFIG.parent}/contracts/').replace(
        '"rules/', f'"{CONFIG.parent}/rules/'), encoding="utf-8")  # fmt: skip
    return path


def _one(bench: Bench, folder: Path, config: Path, job: Job) -> tuple[list[float], list[float], list[dict[str, Any]]]:
    """Return the gaps (ms) during a snapshot and otherwise, and what the log says of the snapshots."""
    state, timed = folder / "state", folder / "timed"
    skip = log_size(state)
    wall_less_monotonic = time.time() - time.monotonic()
    command = [sys.executable, "-m", "bench_tool.writer", msgspec.json.encode(job).decode()]
    with bench.daemon(folder / "live.jsonl", state, timed=timed, config=config) as daemon:
        ready = time.monotonic()
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as writer:
            try:
                writer.communicate(timeout=_DEADLINE)
            finally:
                writer.kill()
        last_live = time.monotonic()
        wait_for_offset(daemon, (folder / "live.jsonl").stat().st_size)
        daemon.stop()
    told = [
        each
        for each in log_lines(state, ["snapshot.written"], skip)
        if seconds_of(each["timestamp"]) - wall_less_monotonic < last_live
    ]
    if not told:
        raise MeasureFailed(f"no snapshot was written while {job.events} events came in")
    windows = []
    for each in told:
        end = seconds_of(each["timestamp"]) - wall_less_monotonic
        windows.append((end - float(each["seconds"]) - _EDGE_SECONDS, end + _EDGE_SECONDS))
    ends = [at / 1e9 for at in read_syncs(timed, "audit-").ended]
    # between the first and the last commit of the live part; before and behind it nothing is to be committed
    live = _live_part([at for at in ends if ready < at < last_live])
    inside: list[float] = []
    outside: list[float] = []
    for one, two in pairwise(live):
        during = any(one < end and two > begin for begin, end in windows)
        (inside if during else outside).append((two - one) * 1e3)
    return inside, outside, told


def _live_part(ends: list[float]) -> list[float]:
    """Leave out the entries of the start, before the writer's first event: it makes its lines first."""
    for at in range(len(ends) - 1, 0, -1):
        if ends[at] - ends[at - 1] > 1.0 and at < len(ends) // 2:
            return ends[at:]
    return ends
