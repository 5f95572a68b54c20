"""What rules cost: sharing a metric.

An engine's compiled function in a process of its own (`bench_tool.rule_costs`); reading, decoding and screening are not
in the time, so that what grows cannot hide behind what does not. Processor time, the sides in turn. Leaves to
`rule_growth` whether a cost grows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bench_tool.bench import PACK_CONTRACT
from bench_tool.figures import Figure, median
from bench_tool.made_transfers import Rounds
from bench_tool.rule_costs import Control, Job

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench_tool.bench import Bench

SHARED: Final = 1.5
SCENARIOS: Final = 12
_HOUR_US: Final = 3_600_000_000
_HEAD: Final = 'ruleset = "made"\nversion = 1\ncontract = "account_transfers/1"\n'
_AMOUNT: Final = "'900000000.00'"  # what no sum of made-up transfers reaches
# A function over a window, its value's bound that is never reached, and its offset.
FUNCTIONS: Final = {
    "count": ("count", "1000000000", ""),
    "sum": ("sum(amount)", _AMOUNT, ""),
    "max": ("max(amount)", _AMOUNT, ""),
    "distinct": ("distinct(counterparty)", "1000000000", ""),
    "offset_sum": ("sum(amount)", _AMOUNT, "1d"),
}


def _scenario(name: str, when: str, value: str, never: str) -> str:
    return (
        f'[scenario.{name}]\ntypology = "made"\nversion = 1\nseverity = "low"\nwhen = "{when}"\n'
        f'measure = "{value}"\nthreshold = "{never}"\n'
    )


def over(function: str, extent: str, offset: str = "") -> str:
    """Return a ruleset with one metric over `extent` (``window = …`` or ``last = …``) that never flags."""
    fn, never, _ = FUNCTIONS[function]
    shifted = f', offset = "{offset}"' if offset else ""
    metric = f'[metric]\nm = {{ fn = "{fn}", by = "account", {extent}{shifted} }}\n'
    return _HEAD + metric + _scenario("one", f"m > {never}", "m", never)


def nothing() -> str:
    """Return a ruleset that only compares: what the loop over the events costs."""
    return _HEAD + _scenario("one", f"amount > {_AMOUNT}", "amount", _AMOUNT)


def cost(
    bench: Bench, rulesets: Mapping[str, str], rounds: Rounds, timed_from: int, control: Control | None = None
) -> dict[str, dict[str, Any]]:
    """Return what `bench_tool.rule_costs` says about them."""
    job = Job(str(PACK_CONTRACT), dict(rulesets), rounds, timed_from, control)
    answer: dict[str, dict[str, Any]] = json.loads(
        bench.python("bench_tool.rule_costs", msgspec.json.encode(job).decode())
    )
    return answer


def facts_of(rounds: Rounds, timed_from: int) -> dict[str, Any]:
    """Return what an answer says about its input."""
    return {"name": None, "events": rounds.events, "timed": rounds.events - timed_from, "made_by": rounds.what()}


# -- sharing -----------------------------------------------------------------------------------------------------------


def shared_metrics(bench: Bench) -> Iterator[Figure]:
    """One count, and one or twelve scenarios with thresholds of their own that read it at every event."""
    events = bench.sized(1_000_000, 200_000, 4_000)
    # the least favourable metric, the cheapest there is: one event in each window, and keys that fit the cache
    rounds = Rounds(1_000, events, 48 * _HOUR_US / 1_000)
    metric = '[metric]\nm = { fn = "count", by = "account", window = "24h" }\n'
    texts = {
        name: _HEAD + metric + "".join(_scenario(f"s{n}", f"m > {1000 + n}", "m", str(1000 + n)) for n in range(count))
        for name, count in (("one", 1), ("twelve", SCENARIOS))
    }
    texts["none"] = nothing()
    repetitions = 1 if bench.tiny else 3
    answers = [cost(bench, texts, rounds, events // 2) for _ in range(repetitions)]
    costs = {name: [answer[name]["cpu_us"] for answer in answers] for name in texts}
    detail: dict[str, Any] = {f"{name}_cpu_us": each for name, each in costs.items()}
    detail["ratios"] = ratios = [twelve / one for twelve, one in zip(costs["twelve"], costs["one"], strict=True)]
    detail["taken_off"] = "reading, decoding and screening; the loop over the events (none_cpu_us) is in both sides"
    detail["each_more_scenario_ns"] = (median(costs["twelve"]) - median(costs["one"])) / (SCENARIOS - 1) * 1000
    detail["hits"] = sum(answer[name]["hits"] for answer in answers for name in texts)
    yield Figure(
        "shared_metrics", median(ratios), "times the cost of one scenario", SHARED, "at most",
        facts_of(rounds, events // 2), detail,
    )  # fmt: skip
    yield _with_engine(bench, texts)


def _with_engine(bench: Bench, texts: Mapping[str, str]) -> Figure:
    """Return the same for a whole engine in process over a file: decoding, screening and flags are in."""
    stream = bench.generated(bench.sized(1_000_000, 100_000, 5_000), "transfers")
    folder = bench.new_folder("rules")
    files = [folder / f"{name}.toml" for name in ("one", "twelve")]
    for path in files:
        path.write_text(texts[path.stem], encoding="utf-8")
    rows = bench.python("bench_tool.engine_run", str(stream.path), str(PACK_CONTRACT), *map(str, files)).splitlines()
    one, twelve = (json.loads(row) for row in rows)
    return Figure(
        "shared_metrics_engine", twelve["engine"]["cpu_us"] / one["engine"]["cpu_us"], "times the cost of one scenario",
        SHARED, "at most", stream.facts(),
        {
            "one": {part: one[part]["cpu_us"] for part in ("engine", "decoding", "rules")},
            "twelve": {part: twelve[part]["cpu_us"] for part in ("engine", "decoding", "rules")},
            "taken_off": "nothing but reading the file; microseconds of processor time for an event",
        },
    )  # fmt: skip
