"""Durable events per second of the whole daemon, as a share of bare decoding.

Both sides read the same file in processes of their own, in turn (A B A B …), so that what else the machine does falls
on both. The daemon's time runs from READY to the moment when the last batch, its flags and its checkpoint are durable,
by its own log: start-up is off, the snapshot of the orderly end too (those written while events flow are in). Its
processor time is that of the process less that of a run over one event, so it contains that last snapshot.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bench_tool.bench import CONTRACT
from bench_tool.daemon import MeasureFailed
from bench_tool.figures import Figure, median

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_tool.bench import Bench, StreamFile


def quiet(bench: Bench) -> Iterator[Figure]:
    """Under 1 % of the events flagged."""
    return _throughput(bench, "throughput_quiet", "quiet", 0.22)


def mix(bench: Bench) -> Iterator[Figure]:
    """Some 29 % of the events flagged."""
    return _throughput(bench, "throughput_mix", "money-flow", 0.15)


def _throughput(bench: Bench, name: str, profile: str, floor: float) -> Iterator[Figure]:
    stream = bench.generated(200_000 if bench.quick else 1_000_000, profile)
    one = bench.once(bench.generated(1, profile).path)
    daemon, bare = [], []
    for _ in range(3 if bench.quick else 5):
        daemon.append(bench.once(stream.path))
        bare.append(_bare(bench, stream))
    events = stream.events
    ratios = [theirs[0] / ours.durable for ours, theirs in zip(daemon, bare, strict=True)]
    yield Figure(
        name, median(ratios), "of bare decode", floor, "at least", stream.facts(),
        {
            "runs": len(ratios), "ratio_of_best": min(each[0] for each in bare) / min(each.durable for each in daemon),
            "ratios": ratios,
            "daemon_events_per_s_median": events / median([each.durable for each in daemon]),
            "daemon_events_per_s_best": events / min(each.durable for each in daemon),
            "bare_events_per_s_median": events / median([each[0] for each in bare]),
            "bare_events_per_s_best": events / min(each[0] for each in bare),
            "wall_ratio_less_one_event_run": median([each[0] for each in bare])
            / (median([each.wall for each in daemon]) - one.wall),
            "one_event_run_s": one.wall,
            "start_up_off": "from daemon.ready to the last progress line of the log",
        },
    )  # fmt: skip
    cpu = [(each.cpu - one.cpu) for each in daemon]
    yield Figure(
        f"{name}_cpu", median([theirs[1] / ours for ours, theirs in zip(cpu, bare, strict=True)]),
        "of bare decode's processor time", None, "at least", stream.facts(),
        {
            "daemon_cpu_us_per_event": median(cpu) / events * 1e6,
            "bare_cpu_us_per_event": median([each[1] for each in bare]) / events * 1e6,
            "cores_used": median([ours / each.durable for ours, each in zip(cpu, daemon, strict=True)]),
            "start_up_off": "less the processor time of a run over one event; the last snapshot is in",
        },
    )  # fmt: skip


def _bare(bench: Bench, stream: StreamFile) -> tuple[float, float]:
    answer = json.loads(bench.python("bench_tool.bare_decode", str(stream.path), str(CONTRACT)))
    if answer["events"] != stream.events:
        raise MeasureFailed(f"{stream.path.name}: {answer['events']} events decoded, not {stream.events}")
    return float(answer["seconds"]), float(answer["cpu"])
