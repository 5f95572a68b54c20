"""The same rules on the same data in other hands: a loop of rule objects, and one query in duckdb or polars.

Two rulesets over the money-flow mix: the shipped one, and one with a count and a sum over windows. All must find the
same number of flags. The engine runs in process; the daemon's figures with disk and audit log are `throughput_mix`.

Where a query wins, it does what the engine does not: it sees the whole file at once, sorts it by user and takes all
cores. And it does not do what the engine does: decide at each event with what is known then, keep state for the next
one, stop at an invalid line or a duplicate, go on after a crash, and write flags with evidence. Each figure says so.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from bench_tool.bench import CONTRACT, RULES
from bench_tool.daemon import MeasureFailed
from bench_tool.figures import Figure, median
from bench_tool.one_shot import LIBRARIES
from bench_tool.packages import libraries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench_tool.bench import Bench, StreamFile

_WINDOWED: Final = """
ruleset = "windowed"
version = 1
contract = "money_flow/1"
[metric]
deposits = { fn = "count", by = "user_id", window = "10s", where = "event_type == 'deposit_completed'" }
paid_in = { fn = "sum(amount)", by = "user_id", window = "1h", where = "event_type == 'deposit_completed'" }
[scenario.velocity]
typology = "velocity"
version = 1
severity = "high"
on = "event_type == 'deposit_completed'"
when = "deposits > 5"
measure = "deposits"
threshold = "5"
[scenario.total]
typology = "large_total"
version = 1
severity = "high"
on = "event_type == 'deposit_completed'"
when = "paid_in > '5000.00'"
measure = "paid_in"
threshold = "'5000.00'"
"""
_LACKS: Final = {
    "engine": "in process: no disk, no audit log; screening and the flags' full text are in",
    "loop": "clean lines only: no screening, exact state for a restart, durability, evidence",
    "duckdb": "the whole file at once: not incremental, no screening, no state kept, not durable, no evidence",
    "polars": "the whole file at once: not incremental, no screening, no state kept, not durable, no evidence",
}
Answer = dict[str, Any]


def compared(bench: Bench) -> Iterator[Figure]:
    """All contenders in turn over one file, ruleset by ruleset."""
    stream = bench.generated(bench.sized(1_000_000, 200_000, 5_000), "money-flow")
    windowed = bench.new_folder("rules") / "windowed.toml"
    windowed.write_text(_WINDOWED, encoding="utf-8")
    packages, there = _libraries(bench)
    for rules, file in (("money_flow", RULES), ("windowed", windowed)):
        contenders = _contenders(bench, stream, rules, file, packages, there)
        answers: dict[str, list[Answer]] = {name: [] for name in contenders}
        for _ in range(1 if bench.tiny else 3):
            for name, ask in contenders.items():
                answers[name].append(json.loads(ask()))
        wanted = answers["engine"][0]["flags"]
        for name, each in answers.items():
            if any(answer["flags"] != wanted for answer in each):
                raise MeasureFailed(f"{rules}: {name} found {each[0]['flags']}, the engine {wanted}")
        for name, each in answers.items():
            yield _figure(f"compared_{rules}_{name}", name, stream, each, answers["engine"])


def _contenders(
    bench: Bench, stream: StreamFile, rules: str, file: Path, packages: Path | None, there: list[str]
) -> dict[str, Callable[[], bytes]]:
    path = str(stream.path)

    def ask(library: str) -> Callable[[], bytes]:
        return lambda: bench.python("bench_tool.one_shot", library, path, rules, str(stream.events), packages=packages)

    return {
        "engine": lambda: bench.python("bench_tool.engine_run", path, str(CONTRACT), str(file)),
        "loop": lambda: bench.python("bench_tool.naive_loop", path, rules),
        **{library: ask(library) for library in there},
    }


def _figure(name: str, who: str, stream: StreamFile, answers: list[Answer], engine: list[Answer]) -> Figure:
    whole = "engine" if who == "engine" else "whole"
    wall, cpu = (median([answer[whole][clock] for answer in answers]) for clock in ("wall_us", "cpu_us"))
    own_wall, own_cpu = (median([answer["engine"][clock] for answer in engine]) for clock in ("wall_us", "cpu_us"))
    parts = {
        f"{part}_cpu_us": median([answer[part]["cpu_us"] for answer in answers])
        for part in ("decoding", "reading", "rules")
        if part in answers[0]
    }
    detail = {
        "cpu_us": cpu, "all_wall_us": [answer[whole]["wall_us"] for answer in answers], **parts,
        "times_the_engine": wall / own_wall, "times_the_engine_by_processor_time": cpu / own_cpu,
        "flags": answers[0]["flags"], "does_not_do": _LACKS[who],
    }  # fmt: skip
    if "version" in answers[0]:
        detail["version"] = answers[0]["version"]
    return Figure(name, wall, "us for an event", None, file=stream.facts(), detail=detail)


def _libraries(bench: Bench) -> tuple[Path | None, list[str]]:
    return libraries(bench, LIBRARIES, "compared")
