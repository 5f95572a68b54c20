"""What rules cost: sharing a metric, and whether a metric's cost grows with its window or with the number of keys.

An engine's compiled function in a process of its own (`bench_tool.rule_costs`); reading, decoding and screening are not
in the time, so that what grows cannot hide behind what does not. Processor time, the sides in turn. Made-up transfers:
the accounts take turns in a mixed order, so with many keys nearly every one is a miss of the processor's cache. That is
in the figure, since it is in life.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from bench_tool.bench import PACK_CONTRACT
from bench_tool.figures import Figure, median
from bench_tool.made_transfers import Rounds
from bench_tool.measures.flatness import FLAT
from bench_tool.rule_costs import Job

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from bench_tool.bench import Bench

Setting = TypeVar("Setting")
SHARED: Final = 1.5
SCENARIOS: Final = 12
WINDOWS: Final = {"1m": 60, "1h": 3600, "1d": 86_400, "30d": 2_592_000, "90d": 7_776_000}
LASTS: Final = (10, 100, 1000, 5000)
KEYS: Final = (1_000, 10_000, 100_000, 1_000_000)
_HOUR_US: Final = 3_600_000_000
_DAYS: Final = 200
_BURST: Final = 8
_GAP_US: Final = 5_000_000
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


def _over(function: str, extent: str, offset: str = "") -> str:
    """Return a ruleset with one metric over `extent` (``window = …`` or ``last = …``) that never flags."""
    fn, never, _ = FUNCTIONS[function]
    shifted = f', offset = "{offset}"' if offset else ""
    metric = f'[metric]\nm = {{ fn = "{fn}", by = "account", {extent}{shifted} }}\n'
    return _HEAD + metric + _scenario("one", f"m > {never}", "m", never)


def _nothing() -> str:
    """Return a ruleset that only compares: what the loop over the events costs."""
    return _HEAD + _scenario("one", f"amount > {_AMOUNT}", "amount", _AMOUNT)


def _cost(bench: Bench, rulesets: Mapping[str, str], rounds: Rounds, timed_from: int) -> dict[str, dict[str, Any]]:
    job = Job(str(PACK_CONTRACT), dict(rulesets), rounds, timed_from)
    answer: dict[str, dict[str, Any]] = json.loads(
        bench.python("bench_tool.rule_costs", msgspec.json.encode(job).decode())
    )
    return answer


def _facts(rounds: Rounds, timed_from: int) -> dict[str, Any]:
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
    texts["none"] = _nothing()
    repetitions = 1 if bench.tiny else 3
    answers = [_cost(bench, texts, rounds, events // 2) for _ in range(repetitions)]
    costs = {name: [answer[name]["cpu_us"] for answer in answers] for name in texts}
    detail: dict[str, Any] = {f"{name}_cpu_us": each for name, each in costs.items()}
    detail["ratios"] = ratios = [twelve / one for twelve, one in zip(costs["twelve"], costs["one"], strict=True)]
    detail["taken_off"] = "reading, decoding and screening; the loop over the events (none_cpu_us) is in both sides"
    detail["each_more_scenario_ns"] = (median(costs["twelve"]) - median(costs["one"])) / (SCENARIOS - 1) * 1000
    detail["hits"] = sum(answer[name]["hits"] for answer in answers for name in texts)
    yield Figure(
        "shared_metrics", median(ratios), "times the cost of one scenario", SHARED, "at most",
        _facts(rounds, events // 2), detail,
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


# -- growth ------------------------------------------------------------------------------------------------------------


def by_window(bench: Bench) -> Iterator[Figure]:
    """A hundred accounts over 200 days; what counts is the second half, when the longest window is full.

    Every account has bursts of eight events within 40 seconds: so a window of a minute holds up to eight, one of 90
    days some thousand, and every event enters and leaves once. A window that never holds more than the current event
    is cheaper than all of them, since most functions have a short way for it; it is told beside, as `alone`.
    """
    events = bench.sized(1_000_000, 100_000, 3_200)
    bursts = events // 100 // _BURST
    pause = _DAYS * 24 * _HOUR_US / bursts - _BURST * _GAP_US
    rounds = Rounds(100, events, _GAP_US / 100, burst=_BURST, pause_us=pause)
    for function, (_, _, offset) in FUNCTIONS.items():
        texts = {window: _over(function, f'window = "{window}"', offset) for window in _ends(bench, WINDOWS)}
        alone = {"alone": _over(function, 'window = "1s"', offset)}
        every = alone | texts
        yield _growth(bench, f"cost_by_window_{function}", every, dict.fromkeys(every, rounds), events // 2)
    most = events // 2 // 100
    texts = {
        f"last={last}": _over("sum", f"last = {last}")
        for last in _ends(bench, [last for last in LASTS if last <= most])
    }
    yield _growth(bench, "cost_by_window_last", texts, dict.fromkeys(texts, rounds), events // 2)


def by_keys(bench: Bench) -> Iterator[Figure]:
    """Every account once an hour of event time, however many there are, and a window that holds three of its events.

    The same number of events counts for each number of keys: the last round of the most keys.
    """
    largest = bench.sized(KEYS[-1], 100_000, 4_000)
    numbers = _ends(bench, [number for number in KEYS if number < largest] + [largest])
    timed = largest
    for function, (_, _, offset) in FUNCTIONS.items():
        text = _over(function, 'window = "150m"', "1h" if offset else "")
        yield _by_keys(bench, f"cost_by_keys_{function}", text, numbers, timed)
    yield _by_keys(bench, "cost_by_keys_last", _over("sum", "last = 3"), numbers, timed)


def _ends(bench: Bench, settings: Iterable[Setting]) -> list[Setting]:
    """Return the settings, or the first and the last of them for trying out."""
    everything = list(settings)
    return [everything[0], everything[-1]] if bench.tiny else everything


def _by_keys(bench: Bench, name: str, text: str, numbers: list[int], timed: int) -> Figure:
    # four rounds fill every window, the offset's too; then the timed ones
    rounds = {f"{number}": Rounds(number, 4 * number + timed, _HOUR_US / number) for number in numbers}
    return _growth(bench, name, dict.fromkeys(rounds, text), rounds, None, timed)


def _growth(
    bench: Bench,
    name: str,
    texts: Mapping[str, str],
    rounds: Mapping[str, Rounds],
    timed_from: int | None,
    timed: int = 0,
) -> Figure:
    """Return the cost of the last setting ÷ that of the first; each in a process of its own, in turn."""
    costs: dict[str, list[float]] = {setting: [] for setting in texts}
    loops: dict[str, list[float]] = {setting: [] for setting in texts}
    keys: dict[str, int] = {}
    for _ in range(1 if bench.quick else 3):
        for setting, text in texts.items():
            begin = rounds[setting].events - timed if timed_from is None else timed_from
            answer = _cost(bench, {"metric": text, "none": _nothing()}, rounds[setting], begin)
            costs[setting].append(answer["metric"]["cpu_us"])
            loops[setting].append(answer["none"]["cpu_us"])
            keys[setting] = answer["metric"]["keys"]
    middle = {setting: median(each) for setting, each in costs.items()}
    loop = {setting: median(each) for setting, each in loops.items()}
    smallest, largest = next(setting for setting in middle if setting != "alone"), list(middle)[-1]
    facts = _facts(rounds[largest], rounds[largest].events - timed if timed_from is None else timed_from)
    return Figure(
        name, middle[largest] / middle[smallest], f"times the cost with {smallest}", FLAT, "at most", facts,
        {
            "settings": list(texts), "cpu_us": list(middle.values()), "all_cpu_us": list(costs.values()),
            "loop_alone_cpu_us": list(loop.values()),
            "ratio_less_loop": (middle[largest] - loop[largest]) / max(middle[smallest] - loop[smallest], 1e-9),
            "ratio_in_loops": middle[largest] / loop[largest] / (middle[smallest] / loop[smallest]),
            "most_by_least": max(middle.values()) / min(middle.values()),
            "keys_held": list(keys.values()),
            "taken_off": "reading, decoding and screening; the loop over the events is in",
        },
    )  # fmt: skip
