"""One Python function for a whole ruleset, written from its plan.

Owns: the frame of the function, its blocks, and how its text is compiled. Leaves to `planning` what is computed when,
to `generating_terms`, `generating_metrics` and `generating_scenarios` what stands in a block, and to the `state` rooms
the cells the function works on.

Safe by construction: from the ruleset come only attribute paths, which the contract has declared, constants, written
with `repr`, and in comments names of a narrow alphabet; every other name in the text is made here, from a number or
from a field's name behind ``f_``. The function has no builtins beyond the few passed in. It raises nothing: each
operation in it is total on the types that the contract guarantees (`%` has a positive constant on its right; times
lie so far from the ends of the calendar that no window reaches them).
"""

from __future__ import annotations

from bisect import bisect
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.scenarios.generating_metrics import MetricWriter
from tidewaiter.core.scenarios.generating_page import Page
from tidewaiter.core.scenarios.generating_scenarios import ScenarioWriter
from tidewaiter.core.scenarios.generating_terms import AND, Terms
from tidewaiter.core.scenarios.planning import MetricStep, Plan, ScenarioStep, StoreStep, TypologyStep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.model import LoadedList
    from tidewaiter.core.scenarios.planning import Block, Step

Hit = tuple[Any, ...]  # (index of the event, outcome, metric_value, threshold, values of its metrics...): see `flags`

_BUILTINS: Final[dict[str, Any]] = {
    "zip": zip,
    "range": range,
    "len": len,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "OrderedDict": OrderedDict,
    "datetime": datetime,
    "timedelta": timedelta,
    "bisect": bisect,
}
_KINDS_OF_SCENARIOS: Final = ("edge", "cooldown", "after")


def generate_source(plan: Plan, contract: Contract, title: str) -> tuple[str, tuple[str, ...]]:
    """Return the text of ``bind(cells, lists, insufficient, silenced)``, and the names of the `lists` in order.

    ``bind`` returns ``evaluate(events, times, *money columns)``.
    """
    terms = Terms(plan, contract)
    _Writer(plan, terms).source(title)  # once to count the uses of each field ...
    terms.cached = frozenset(name for name, uses in terms.used.items() if uses > 1)
    text = _Writer(plan, terms).source(
        title
    )  # ... and once with the fields that are used more than once read only once
    return text, tuple(terms.lists)


def compile_source(source: str, name: str) -> Callable[..., Callable[..., list[Hit]]]:
    """Compile a text made by `generate_source`; return ``bind``."""
    names: dict[str, Any] = {"__builtins__": {}, **_BUILTINS}
    exec(compile(source, f"<ruleset {name}>", "exec"), names)  # noqa: S102 - the text is ours: see the module's head
    bind: Callable[..., Any] = names["bind"]
    return bind


def list_tests(lists: Mapping[str, LoadedList], names: Sequence[str]) -> list[Any]:
    """Return what the function asks about membership: the entries, or for prefixes a test."""
    return [_prefix_test(lists[name].entries) if lists[name].prefix else lists[name].entries for name in names]


def _prefix_test(entries: frozenset[str]) -> Callable[[str], bool]:
    """Return whether a text begins with one of `entries`; the cost grows with their different lengths only."""
    lengths = sorted({len(entry) for entry in entries})

    def begins(text: str) -> bool:
        return any(text[:length] in entries for length in lengths[: bisect(lengths, len(text))])

    return begins


class _Writer:
    def __init__(self, plan: Plan, terms: Terms) -> None:
        self.plan, self.terms = plan, terms
        self.metrics = MetricWriter(plan, terms)
        self.scenarios = ScenarioWriter(plan, terms, self.metrics)

    def source(self, title: str) -> str:
        body = Page(3)
        for block in self.plan.blocks:
            self.block(body, block)
        top = Page(3)
        self.beginning_of_event(top)
        page = Page()
        page.put(f"# {title}", "# One pass over the events in stream order; h: scenario held, n: metric's value.", "")
        with page.under("def bind(cells, lists, insufficient, silenced):"):
            self.constants(page)
            columns = [f"column_{name}" for name in self.plan.money_columns]
            with page.under(f"def evaluate({', '.join(['events', 'times', *columns])}):"):
                self.locals(page)
                targets = ["i", "event", "t", *(f"f_{name}" for name in self.plan.money_columns)]
                page.put(
                    f"for {', '.join(targets)} in zip(range(len(events)), {', '.join(['events', 'times', *columns])}):"
                )
                page.lines += top.lines + body.lines or ["            pass"]  # nothing in it runs: all drafts
                for number, name in sorted(self.scenarios.lost.items()):
                    page.put(f"if lost{number}:")
                    page.put(f"    insufficient[{name!r}] = insufficient.get({name!r}, 0) + lost{number}")
                for number, name in sorted(self.scenarios.muted.items()):
                    page.put(f"if mute{number}:", f"    silenced[{name!r}] = silenced.get({name!r}, 0) + mute{number}")
                page.put("return hits")
            page.put("", "return evaluate")
        return page.text()

    # -- around the loop -----------------------------------------------------------------------------------------------

    def constants(self, page: Page) -> None:
        """Write what never changes, and where everything is."""
        page.put(*(f"c{cell} = cells[{cell}]  # {spec.label}" for cell, spec in enumerate(self.plan.cells)))
        page.put(*(f"list{number} = lists[{number}]  # {name}" for name, number in self.terms.lists.items()))
        page.put("microsecond = timedelta(microseconds=1)")
        for value, number in self.terms.durations.items():
            page.put(f"span{number} = timedelta(microseconds={value})")
        for index in sorted(self.plan.scored):
            bands = self.plan.checked.scenarios[index].bands
            edges = [band.at_least for band in bands[:1] if band.at_least is not None]
            edges += [band.below for band in bands if band.below is not None]
            numbers: list[int | None] = list(range(len(bands)))
            numbers = [None] * (bands[0].at_least is not None) + numbers + [None] * (bands[-1].below is not None)
            page.put(f"edges{index} = {tuple(edges)!r}", f"bands{index} = {tuple(numbers)!r}")
        page.put("")

    def locals(self, page: Page) -> None:
        """Write what is looked up once for each call."""
        page.put("hits = []", "if not events:", "    return hits", "emit = hits.append", "t = times[0]")
        page.put("for cell in cells:", "    cell.begin(t)")
        for cell, spec in enumerate(self.plan.cells):
            (self.scenarios if spec.kind in _KINDS_OF_SCENARIOS else self.metrics).locals(page, cell)
        days = self.days()
        if days:
            page.put(f"midnight = c{days[0]}.end")
        page.put(*(f"l{number} = list{number}" for number in self.terms.lists.values()))
        page.put(*(f"u{number} = span{number}" for number in self.terms.durations.values()))
        page.put("us = microsecond")
        page.put(*(f"lost{number} = 0" for number in sorted(self.scenarios.lost)))
        page.put(*(f"mute{number} = 0" for number in sorted(self.scenarios.muted)))

    def days(self) -> list[int]:
        """Return the cells of calendar-day metrics; all have the same days."""
        return [cell for cell, spec in enumerate(self.plan.cells) if spec.kind == "day"]

    def beginning_of_event(self, page: Page) -> None:
        """Write what is done for each event before the blocks."""
        if self.days():
            self.metrics.midnight(page, self.days())
        page.put(*(f"f_{name} = event.{self.terms.contract.attribute(name)}" for name in sorted(self.terms.cached)))
        for number, term in self.terms.derived.values():
            page.put(f"b{number} = {self.terms.value(term)}")
        lazy = [f"n{cell} = " for cell, step in self.metrics.steps.items() if step.lazy]
        held = [f"h{index} = " for index in sorted(self.plan.counted)]
        scored = [f"s{index} = " for index in sorted(self.plan.scored)]
        for names, value in ((lazy, "..."), (held, "False"), (scored, "None")):
            if names:
                page.put("".join(names) + value)

    # -- blocks --------------------------------------------------------------------------------------------------------

    def block(self, page: Page, block: Block) -> None:
        self.metrics.records.begin_block(guarded=bool(block.guard))
        around = 0 if len(block.guard) == 1 else AND
        tests = [self.terms.condition(part, around=around) for part in block.guard]
        with page.under(f"if {' and '.join(tests)}:" if tests else ""):
            for step in block.steps:
                self.step(page, step, block)

    def step(self, page: Page, step: Step, block: Block) -> None:
        match step:
            case MetricStep():
                self.metrics.update(page, step)
            case ScenarioStep():
                self.scenarios.scenario(page, step, block.guard)
            case StoreStep():
                self.scenarios.store(page, step)
            case TypologyStep():
                self.scenarios.typology(page, step)
