"""How long after its append an event's flag is durable.

A writer process notes the monotonic clock right behind the write of each event that will be flagged; the daemon's disk
notes it right behind each fdatasync of flags.jsonl. A flag is durable with the first sync that found the file long
enough to hold it. The commit point (fdatasync of the audit log) comes earlier and is told beside.

Beside it stands what an fdatasync costs on the same file system with nothing else going on: 4 KiB appended and synced.
"""

from __future__ import annotations

import bisect
import json
import os
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from bench_tool.bench import wait_for_offset
from bench_tool.daemon import MeasureFailed
from bench_tool.figures import Figure, percentile
from bench_tool.streams import live_lines
from bench_tool.writer import Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench_tool.bench import Bench

USERS: Final = 1_000_000
"""So many that at 10,000 events/s only the amounts cause flags."""
FAST_DISK_MS: Final = 0.3
"""The floors hold where fdatasync's own p50 is at most this."""
P50_MS: Final = 3.0
P99_MS: Final = 30.0
AFTER_IDLE_MS: Final = 60.0
_SEED: Final = 7


def at_50(bench: Bench) -> Iterator[Figure]:
    """Every event is flagged."""
    return _latency(bench, "latency_50", 50, 1, floors=(None, P99_MS))


def at_1k(bench: Bench) -> Iterator[Figure]:
    """Every tenth event is flagged."""
    return _latency(bench, "latency_1k", 1_000, 10, floors=(P50_MS, P99_MS))


def at_10k(bench: Bench) -> Iterator[Figure]:
    """Every tenth event is flagged."""
    return _latency(bench, "latency_10k", 10_000, 10, floors=(P50_MS, P99_MS))


class _Syncs(NamedTuple):
    """Each: when done (ns), length of the file then, and how long it took (ns)."""

    ended: list[int]
    length: list[int]
    took: list[int]

    def done(self, length: int) -> int:
        """Return when a file of at least `length` bytes was durable."""
        return self.ended[bisect.bisect_left(self.length, length)]


def read_syncs(timed: Path, prefix: str) -> _Syncs:
    """Return the syncs of the files whose names begin with `prefix`."""
    rows = [json.loads(row) for row in timed.read_bytes().splitlines()]
    rows = [row for row in rows if row[0].startswith(prefix)]
    return _Syncs([row[2] for row in rows], [row[3] for row in rows], [row[2] - row[1] for row in rows])


def own_fdatasync(folder: Path, count: int = 500) -> dict[str, float]:
    """Return p50 and p99 (ms) of an fdatasync behind an append of 4 KiB, one after another."""
    path = folder / "fdatasync"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    took = []
    for _ in range(count):
        os.write(fd, b"x" * 4096)
        began = time.monotonic_ns()
        os.fdatasync(fd)
        took.append((time.monotonic_ns() - began) / 1e6)
    os.close(fd)
    path.unlink()
    return {"fdatasync_p50_ms": percentile(took, 50), "fdatasync_p99_ms": percentile(took, 99)}


def _latency(
    bench: Bench, name: str, rate: int, every: int, *, floors: tuple[float | None, float | None]
) -> Iterator[Figure]:
    folder = bench.new_folder(name)
    stream, state, timed, written = (folder / part for part in ("live.jsonl", "state", "timed", "written"))
    stream.touch()
    disk = own_fdatasync(folder)
    events = rate * (8 if bench.quick else 30)
    job = Job(str(stream), str(written), rate, events, 0, USERS, _SEED, flagged_every=every)
    with bench.daemon(stream, state, timed=timed) as daemon:
        writer = json.loads(bench.python("bench_tool.writer", msgspec.json.encode(job).decode()))
        wait_for_offset(daemon, stream.stat().st_size)
        daemon.stop()
    latencies, commits = _matched(state, timed, [json.loads(row) for row in written.read_bytes().splitlines()])
    flags, audit = read_syncs(timed, "flags"), read_syncs(timed, "audit-")
    detail: dict[str, Any] = {
        "p50_ms": percentile(latencies, 50), "p90_ms": percentile(latencies, 90), "p99_ms": percentile(latencies, 99),
        "max_ms": max(latencies), "flags": len(latencies), **disk,
        "commit_point_p50_ms": percentile(commits, 50), "commit_point_p99_ms": percentile(commits, 99),
        "fdatasync_in_daemon_p50_ms": percentile(audit.took + flags.took, 50) / 1e6,
        "fdatasync_in_daemon_p99_ms": percentile(audit.took + flags.took, 99) / 1e6,
        "writer_late_ms": writer["late_ms"], "floor_holds_if": f"fdatasync_p50_ms <= {FAST_DISK_MS}",
    }  # fmt: skip
    fast = disk["fdatasync_p50_ms"] <= FAST_DISK_MS
    what = f"{events} events at {rate}/s, one write each, every {every}. above the threshold"
    facts = {"name": stream.name, "bytes": stream.stat().st_size, "events": events, "seed": _SEED, "made_by": what}
    yield Figure(f"{name}_p50", detail["p50_ms"], "ms", floors[0] if fast else None, "at most", facts, detail)
    yield Figure(f"{name}_p99", detail["p99_ms"], "ms", floors[1] if fast else None, "at most", facts, detail)


def after_idle(bench: Bench) -> Iterator[Figure]:
    """One event after two seconds in which nothing happened, again and again."""
    folder = bench.new_folder("after_idle")
    stream, state, timed = (folder / part for part in ("live.jsonl", "state", "timed"))
    stream.touch()
    disk = own_fdatasync(folder)
    repetitions = 5 if bench.quick else 20
    written: list[tuple[str, int]] = []
    with bench.daemon(stream, state, timed=timed) as daemon:
        fd = os.open(stream, os.O_WRONLY | os.O_APPEND)
        for number in range(repetitions):
            now = time.time_ns() // 1000
            line, event_id = next(live_lines(_SEED, USERS, number, [now], 1))
            time.sleep(2.0)
            os.write(fd, line)
            written.append((str(event_id), time.monotonic_ns()))
        os.close(fd)
        wait_for_offset(daemon, stream.stat().st_size)
        daemon.stop()
    latencies, _ = _matched(state, timed, written)
    facts = {
        "name": stream.name, "bytes": stream.stat().st_size, "events": repetitions, "seed": _SEED,
        "made_by": "one event every 2 s, each above the threshold",
    }  # fmt: skip
    detail: dict[str, Any] = {"p50_ms": percentile(latencies, 50), "repetitions": repetitions, **disk}
    yield Figure("after_idle_max", max(latencies), "ms", AFTER_IDLE_MS, "at most", facts, detail)


def _matched(state: Path, timed: Path, written: list[tuple[str, int]]) -> tuple[list[float], list[float]]:
    """Return the milliseconds from each write to its durable flag, and to its commit point."""
    flags = _ends(state / "flags.jsonl", "event_id", lambda row: row)
    entries = _ends(
        next((state / "audit").glob("audit-*.jsonl")), "event_id",
        lambda row: row.get("record", {}) if row["action"] == "flag.emitted" else {},
    )  # fmt: skip
    flag_syncs, audit_syncs = read_syncs(timed, "flags"), read_syncs(timed, "audit-")
    if len(written) > len(flags):
        raise MeasureFailed(f"{len(written)} flags were expected, {len(flags)} were found")
    latencies = [(flag_syncs.done(flags[event_id]) - at) / 1e6 for event_id, at in written]
    commits = [(audit_syncs.done(entries[event_id]) - at) / 1e6 for event_id, at in written]
    return latencies, commits


def _ends(path: Path, key: str, record: Any) -> dict[str, int]:  # noqa: ANN401 - a function of a decoded line
    """Return where the first line of each event ends in the file."""
    ends: dict[str, int] = {}
    end = 0
    for row in path.read_bytes().splitlines(keepends=True):
        end += len(row)
        found = record(json.loads(row)).get(key)
        if found is not None:
            ends.setdefault(found, end)
    return ends
