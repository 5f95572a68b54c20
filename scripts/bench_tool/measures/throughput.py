"""Durable events per second of the whole daemon, as a share of bare decoding.

Both sides read the same file in processes of their own, in turn (A B A B …), so that what else the machine does falls
on both. The daemon's time runs from READY to the moment when the last batch, its flags and its checkpoint are durable,
by its own log: start-up is off, the snapshot of the orderly end too (those written while events flow are in). Its
processor time is that of the process less that of a run over one event, so it contains that last snapshot.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from bench_tool.bench import CONFIG, CONTRACT, PACK_CONTRACT, PACK_RULES
from bench_tool.daemon import MeasureFailed
from bench_tool.figures import Figure, median

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench_tool.bench import Bench, StreamFile

PACK_SHARE: Final = 0.07
PACK_AIM: Final = 0.10


def quiet(bench: Bench) -> Iterator[Figure]:
    """Under 1 % of the events flagged."""
    stream = bench.generated(200_000 if bench.quick else 1_000_000, "quiet")
    return _throughput(bench, "throughput_quiet", stream, bench.generated(1, "quiet"), 0.22)


def mix(bench: Bench) -> Iterator[Figure]:
    """Some 29 % of the events flagged."""
    stream = bench.generated(200_000 if bench.quick else 1_000_000, "money-flow")
    return _throughput(bench, "throughput_mix", stream, bench.generated(1, "money-flow"), 0.15)


def pack(bench: Bench) -> Iterator[Figure]:
    """The AML pack over account transfers, with the policy's defaults; under 1 % of the events flagged."""
    stream = bench.generated(bench.sized(1_000_000, 200_000, 5_000), "transfers")
    config = bench.config(PACK_CONTRACT, PACK_RULES)
    one = bench.generated(1, "transfers")
    return _throughput(bench, "pack", stream, one, PACK_SHARE, aim=PACK_AIM, contract=PACK_CONTRACT, config=config)


def _throughput(
    bench: Bench,
    name: str,
    stream: StreamFile,
    one_event: StreamFile,
    floor: float,
    *,
    aim: float | None = None,
    contract: Path = CONTRACT,
    config: Path = CONFIG,
) -> Iterator[Figure]:
    one = bench.once(one_event.path, config)
    daemon, bare = [], []
    for _ in range(1 if bench.tiny else 3 if bench.quick else 5):
        daemon.append(bench.once(stream.path, config))
        bare.append(_bare(bench, stream, contract))
    events = stream.events
    flags = {path.stem: _lines(path) for path in sorted(daemon[-1].state.glob("*.jsonl"))}
    ratios = [theirs[0] / ours.durable for ours, theirs in zip(daemon, bare, strict=True)]
    yield Figure(
        name, median(ratios), "of bare decode", floor, "at least", stream.facts(),
        {
            **({} if aim is None else {"aim": aim}),
            "runs": len(ratios), "ratio_of_best": min(each[0] for each in bare) / min(each.durable for each in daemon),
            "ratios": ratios,
            "daemon_events_per_s_median": events / median([each.durable for each in daemon]),
            "daemon_events_per_s_best": events / min(each.durable for each in daemon),
            "bare_events_per_s_median": events / median([each[0] for each in bare]),
            "bare_events_per_s_best": events / min(each[0] for each in bare),
            "wall_ratio_less_one_event_run": median([each[0] for each in bare])
            / (median([each.wall for each in daemon]) - one.wall),
            "one_event_run_s": one.wall,
            "flag_share": flags["flags"] / events, "records": flags,
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


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _bare(bench: Bench, stream: StreamFile, contract: Path) -> tuple[float, float]:
    answer = json.loads(bench.python("bench_tool.bare_decode", str(stream.path), str(contract)))
    if answer["events"] != stream.events:
        raise MeasureFailed(f"{stream.path.name}: {answer['events']} events decoded, not {stream.events}")
    return float(answer["seconds"]), float(answer["cpu"])
