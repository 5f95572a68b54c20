"""Whether a metric's cost for an event grows with its window or with the number of keys; three figures for each metric.

- The time (`cost_by_keys_count`): processor time of the compiled function, in a process of its own
  (`bench_tool.rule_costs`). Reading, decoding and screening are not in it, so that what grows cannot hide behind what
  does not. The accounts take turns in a mixed order, so with many keys nearly every one is a miss of the processor's
  cache. That is in the figure, since it is in life.
- What a control takes (`…_control`), in turns with it in the same process, on the same events: a bare dictionary with,
  for each account, a list of as many times (and amounts) as the window holds. What it grows by, anything grows by that
  remembers so much; it is no floor's.
- The work (`…_work`): bytecodes, elements moved and keys forgotten for an event, counted (`bench_tool.rule_work`). The
  same on every machine.

The same floor stands at the time and at the work: the work says whether the promise holds that a cost does not grow,
the time what that is worth on a machine with caches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from bench_tool.bench import PACK_CONTRACT
from bench_tool.figures import Figure, median
from bench_tool.made_transfers import Rounds
from bench_tool.measures.flatness import FLAT
from bench_tool.measures.rule_costs import FUNCTIONS, cost, facts_of, nothing, over
from bench_tool.rule_costs import Control
from bench_tool.rule_work import Job

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from bench_tool.bench import Bench

Setting = TypeVar("Setting")
WINDOWS: Final = {"1m": 60, "1h": 3600, "1d": 86_400, "30d": 2_592_000, "90d": 7_776_000}
LASTS: Final = (10, 100, 1000, 5000)
KEYS: Final = (1_000, 10_000, 100_000, 1_000_000)
ALONE: Final = "alone"
_SECOND_US: Final = 1_000_000
_HOUR_US: Final = 3600 * _SECOND_US
_DAY_US: Final = 24 * _HOUR_US
_DAYS: Final = 200
_BURST: Final = 8
_GAP_US: Final = 5 * _SECOND_US
_COUNTED: Final = 4_000  # events, for each setting; of few accounts all
_TOGETHER: Final = 3  # metrics in a process: with a million keys each holds up to 700 MB
_FLOOR_OF_TIME: Final = "the time as it is, caches and memory included: control_* says what of it nobody can avoid"
_FLOOR_OF_WORK: Final = "the promise itself: what is done for an event"


@dataclass(frozen=True)
class Case:
    """A ruleset under one setting, the events it sees, what a control remembers of them, and where work is counted."""

    text: str
    rounds: Rounds
    timed_from: int
    control: Control
    counted: tuple[Rounds, int]


def by_window(bench: Bench) -> Iterator[Figure]:
    """A hundred accounts over 200 days; what counts is the second half, when the longest window is full.

    Every account has bursts of eight events within 40 seconds: so a window of a minute holds up to eight, one of 90
    days some thousand, and every event enters and leaves once. A window that never holds more than the current event
    is cheaper than all of them, since most functions have a short way for it; it is told beside, as `alone`.
    """
    events = bench.sized(1_000_000, 100_000, 3_200)
    bursts = events // 100 // _BURST
    pause = _DAYS * _DAY_US / bursts - _BURST * _GAP_US
    rounds = Rounds(100, events, _GAP_US / 100, burst=_BURST, pause_us=pause)
    windows = {ALONE: 1} | {window: WINDOWS[window] for window in _ends(bench, WINDOWS)}
    # what is done for an event is the same whoever else has events: two accounts are enough, and all of it is counted
    some = 100 if bench.tiny else 2
    counted = (
        msgspec.structs.replace(rounds, accounts=some, events=events // 100 * some, step_us=_GAP_US / some),
        events // 200 * some,
    )
    cases: dict[str, dict[str, Case]] = {}
    for function, (_, _, offset) in FUNCTIONS.items():
        cases[function] = {}
        for name, seconds in windows.items():
            text = over(function, f'window = "{seconds}s"', offset)
            span = seconds * _SECOND_US + (_DAY_US if offset else 0)
            period = _BURST * _GAP_US + pause
            back = _held(_DAY_US, _BURST, _GAP_US, period) if offset else 0
            control = Control(_held(span, _BURST, _GAP_US, period), function != "count", back)
            cases[function][name] = Case(text, rounds, events // 2, control, counted)
    most = events // 2 // 100
    cases["last"] = {
        f"last={last}": Case(over("sum", f"last = {last}"), rounds, events // 2, Control(last, amounts=False), counted)
        for last in _ends(bench, [last for last in LASTS if last <= most])
    }
    yield from _growths(bench, "cost_by_window", cases)


def by_keys(bench: Bench) -> Iterator[Figure]:
    """Every account once an hour of event time, however many there are, and a window that holds three of its events.

    What counts is two and a half rounds, in which every key goes from one generation to the next once; with few keys
    more of them.
    """
    largest = bench.sized(KEYS[-1], 100_000, 4_000)
    numbers = _ends(bench, [number for number in KEYS if number < largest] + [largest])
    cases: dict[str, dict[str, Case]] = {}
    for function in (*FUNCTIONS, "last"):
        offset = "1h" if function == "offset_sum" else ""
        text = over("sum", "last = 3") if function == "last" else over(function, 'window = "150m"', offset)
        control = Control(4 if offset else 3, function not in ("count", "last"), back=1 if offset else 0)
        cases[function] = {}
        for number in numbers:
            # four rounds fill every window, the offset's too; then the timed ones
            fill, timed = 4 * number, max(5 * number // 2, largest // 4)
            rounds = Rounds(number, fill + timed, _HOUR_US / number)
            cases[function][f"{number}"] = Case(text, rounds, fill, control, (rounds, fill))
    yield from _growths(bench, "cost_by_keys", cases)


def _ends(bench: Bench, settings: Iterable[Setting]) -> list[Setting]:
    """Return the settings, or the first and the last of them for trying out."""
    everything = list(settings)
    return [everything[0], everything[-1]] if bench.tiny else everything


def _held(span: int, burst: int, gap: float, period: float) -> int:
    """Return how many events of an account `span` holds: bursts every `period`, with an event every `gap` in them."""
    whole, rest = divmod(span, period)
    return int(whole) * burst + min(burst, int(rest // gap) + 1)


def _growths(bench: Bench, name: str, cases: Mapping[str, Mapping[str, Case]]) -> Iterator[Figure]:
    """Yield the three figures for each metric: with the last setting ÷ with the first."""
    work = _counted(bench, cases)
    for metric, settings in cases.items():
        yield from _timed(bench, f"{name}_{metric}", settings)
        yield _work(f"{name}_{metric}_work", settings, work[metric])


def _first_and_last(settings: Mapping[str, Any]) -> tuple[str, str]:
    compared = [setting for setting in settings if setting != ALONE]
    return compared[0], compared[-1]


# -- time --------------------------------------------------------------------------------------------------------------


def _timed(bench: Bench, name: str, settings: Mapping[str, Case]) -> Iterator[Figure]:
    """Yield the metric's time and the control's; each setting in a process of its own, in turn."""
    answers: dict[str, list[dict[str, dict[str, Any]]]] = {setting: [] for setting in settings}
    for repetition in range(1 if bench.quick else 3):
        for setting, case in settings.items():
            if repetition and case.rounds.accounts >= KEYS[-1]:
                continue  # one takes a minute, and longer than the machine's moods last
            texts = {"metric": case.text, "loop": nothing()}
            answers[setting].append(cost(bench, texts, case.rounds, case.timed_from, case.control))
    sides = {
        side: {setting: median([answer[side]["cpu_us"] for answer in each]) for setting, each in answers.items()}
        for side in ("metric", "loop", "control")
    }
    metric, loop, control = sides["metric"], sides["loop"], sides["control"]
    smallest, largest = _first_and_last(settings)
    facts = facts_of(settings[largest].rounds, settings[largest].timed_from)
    unit = f"times the cost with {smallest}"
    yield Figure(
        name, metric[largest] / metric[smallest], unit, FLAT, "at most", facts,
        {
            "settings": list(settings), "cpu_us": list(metric.values()),
            "all_cpu_us": [[answer["metric"]["cpu_us"] for answer in each] for each in answers.values()],
            "loop_alone_cpu_us": list(loop.values()), "control_cpu_us": list(control.values()),
            "control_ratio": control[largest] / control[smallest],
            "ratio_less_loop": (metric[largest] - loop[largest]) / max(metric[smallest] - loop[smallest], 1e-9),
            "ratio_in_loops": metric[largest] / loop[largest] / (metric[smallest] / loop[smallest]),
            "control_ratio_in_loops": control[largest] / loop[largest] / (control[smallest] / loop[smallest]),
            "most_by_least": max(metric.values()) / min(metric.values()),
            "keys_held": [each[-1]["metric"]["keys"] for each in answers.values()],
            "floor_is_for": _FLOOR_OF_TIME,
            "taken_off": "reading, decoding and screening; the loop over the events is in",
        },
    )  # fmt: skip
    yield Figure(
        f"{name}_control", control[largest] / control[smallest], unit, None, "at most", facts,
        {
            "settings": list(settings), "cpu_us": list(control.values()),
            "is": [case.control.what() for case in settings.values()],
        },
    )  # fmt: skip


# -- work --------------------------------------------------------------------------------------------------------------


def _counted(bench: Bench, cases: Mapping[str, Mapping[str, Case]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what each metric does for an event under each setting; those with the same events are counted together."""
    together: dict[tuple[str, Rounds, int], dict[str, str]] = {}
    for metric, settings in cases.items():
        for setting, case in settings.items():
            together.setdefault((setting, *case.counted), {})[metric] = case.text
    work: dict[str, dict[str, dict[str, Any]]] = {metric: {} for metric in cases}
    for (setting, rounds, begin), texts in together.items():
        one_in = max(1, (rounds.events - begin) // _COUNTED) if rounds.accounts >= KEYS[0] else 1
        for first in range(0, len(texts), _TOGETHER):
            some = dict(islice(texts.items(), first, first + _TOGETHER))
            job = Job(str(PACK_CONTRACT), some, rounds, begin, one_in)
            answer = json.loads(bench.python("bench_tool.rule_work", msgspec.json.encode(job).decode()))
            for metric, each in answer.items():
                work[metric][setting] = each
    return work


def _work(name: str, settings: Mapping[str, Case], work: Mapping[str, Mapping[str, Any]]) -> Figure:
    parts = ("bytecodes", "moved", "forgetting")
    whole = {setting: sum(work[setting][part] for part in parts) for setting in settings}
    smallest, largest = _first_and_last(settings)
    return Figure(
        name, whole[largest] / whole[smallest], f"times the work with {smallest}", FLAT, "at most",
        facts_of(*settings[largest].counted),
        {
            "settings": list(settings), "work": list(whole.values()),
            **{part: [work[setting][part] for setting in settings] for part in parts},
            "called_in_c": sorted({each for setting in settings for each in work[setting]["called"]}),
            "counted_events": [work[setting]["events"] for setting in settings],
            "floor_is_for": _FLOOR_OF_WORK,
        },
    )  # fmt: skip
