"""What the daemon takes of a machine: processor time while nothing happens, memory while much is remembered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bench_tool.bench import wait_for_offset
from bench_tool.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_tool.bench import Bench, StreamFile

MEGABYTE: Final = 1_000_000
FIXED_BYTES: Final = 400 * MEGABYTE
BYTES_PER_ID: Final = 120
IDLE_PERCENT: Final = 0.5
WINDOW_NS: Final = 8_000_000_000
"""All that is to be held lies within the 10 s of the velocity rule."""
_SETTLE_SECONDS: Final = 5.0


def idle_cpu(bench: Bench) -> Iterator[Figure]:
    """Watch a stream that was read to its end and does not grow."""
    stream = bench.generated(1_000, "quiet")
    state = bench.new_folder("state")
    seconds = 10.0 if bench.quick else 30.0
    with bench.daemon(stream.path, state) as daemon:
        wait_for_offset(daemon, stream.size)
        time.sleep(_SETTLE_SECONDS)
        began, before = time.monotonic(), daemon.cpu_seconds()
        time.sleep(seconds)
        used, passed = daemon.cpu_seconds() - before, time.monotonic() - began
        daemon.stop()
    detail = {"seconds": passed, "cpu_s": used, "clock": "utime + stime of /proc, in steps of a clock tick"}
    yield Figure("idle_cpu", used / passed * 100, "% of a core", IDLE_PERCENT, "at most", stream.facts(), detail)


class _Memory(NamedTuple):
    """Bytes: when ready, at the end, the most until then, and the most with the orderly stop."""

    ready: int
    end: int
    peak: int
    peak_with_stop: int


def memory(bench: Bench) -> Iterator[Figure]:
    """Two deposits of every user inside the velocity window; then as many events that leave only their ids."""
    users = 100_000 if bench.quick else 1_000_000
    ids = 2 * users
    step = WINDOW_NS // ids
    held = bench.rounds(users, ids, deposits=ids, step_ns=step)
    only_ids = bench.rounds(users, ids, deposits=0, step_ns=step)
    full, bare = _measured(bench, held), _measured(bench, only_ids)
    floor = (FIXED_BYTES + BYTES_PER_ID * ids) / MEGABYTE
    detail: dict[str, Any] = {
        "users": users, "ids": ids, "id_length": 36,
        "bytes_per_user": (full.end - bare.end) / users,
        "bytes_per_id": (bare.end - bare.ready) / ids,
        "ready_mb": full.ready / MEGABYTE, "end_mb": full.end / MEGABYTE, "peak_mb": full.peak / MEGABYTE,
        "peak_with_stop_mb": full.peak_with_stop / MEGABYTE, "floor_is": "400 MB + 120 B per id, MB = 10^6 B",
    }  # fmt: skip
    yield Figure("memory_end", full.end / MEGABYTE, "MB resident", floor, "at most", held.facts(), detail)
    yield Figure("memory_peak", full.peak_with_stop / MEGABYTE, "MB resident", floor, "at most", held.facts(), detail)


def _measured(bench: Bench, stream: StreamFile) -> _Memory:
    state = bench.new_folder("state")
    empty = bench.new_folder("live") / stream.path.name
    empty.touch()
    with bench.daemon(empty, state) as daemon:
        ready = daemon.memory("VmRSS")
        with empty.open("ab") as target, stream.path.open("rb") as source:
            while data := source.read(1 << 20):
                target.write(data)
        wait_for_offset(daemon, stream.size)
        time.sleep(_SETTLE_SECONDS)  # a snapshot may be under way
        end, peak = daemon.memory("VmRSS"), daemon.memory("VmHWM")
        daemon.stop()
    return _Memory(ready, end, peak, max(peak, daemon.peak_bytes))
