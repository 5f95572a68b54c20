"""One Python function for a whole ruleset, written from its plan.

Owns: the generated text and how it is compiled. Leaves to `planning` what is computed when, and to `state` the cells
the function works on.

Safe by construction: from the ruleset come only attribute names, which the contract has declared and `checking` found
to be plain identifiers, constants, written with `repr`, and in comments names of a narrow alphabet; every other name in
the text is made here from a number. The function has no builtins beyond the few passed in. It raises nothing: each
operation in it is total on the types that the contract guarantees (`%` has a positive constant on its right; the
difference of two times cannot overflow).
"""

from __future__ import annotations

from collections import Counter, deque
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.scenarios.planning import Block, MetricStep, Plan, ScenarioStep
from tidewaiter.core.scenarios.state import LIST_LIMIT, CountCell, EdgeCell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidewaiter.core.scenarios.terms import Term

Hit = tuple[Any, ...]  # (index of the event, index of the scenario, metric_value, threshold, values of its metrics...)

_BUILTINS: Final[dict[str, Any]] = {
    "zip": zip,
    "range": range,
    "len": len,
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "datetime": datetime,
}
_LOOSE: Final = 0
_PRECEDENCE: Final = {
    "or": 1,
    "and": 2,
    "not": 3,
    "compare": 4,
    "in": 4,
    "not in": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "%": 6,
    "negate": 7,
}
_TIGHT: Final = 9


def generate_source(plan: Plan, title: str) -> str:
    """Return the text of ``bind(cells)``, which returns ``evaluate(events, times, *money columns)``."""
    return _Writer(plan).source(title)


def compile_source(source: str, name: str) -> Callable[[Sequence[CountCell | EdgeCell]], Callable[..., list[Hit]]]:
    """Compile a text made by `generate_source`."""
    names: dict[str, Any] = {"__builtins__": {}, **_BUILTINS}
    exec(compile(source, f"<ruleset {name}>", "exec"), names)  # noqa: S102 - the text is ours: see the module's head
    bind: Callable[..., Any] = names["bind"]
    return bind


class _Writer:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lines: list[str] = []
        self.depth = 0
        self.used: Counter[str] = Counter()
        self.cached: frozenset[str] = frozenset()

    def source(self, title: str) -> str:
        self.body(title)  # once to count the uses of each field ...
        self.cached = frozenset(name for name, uses in self.used.items() if uses > 1)
        self.lines, self.depth = [], 0
        self.body(title)  # ... and once with the fields that are used more than once read only once
        return "\n".join(self.lines) + "\n"

    def put(self, *lines: str) -> None:
        self.lines += ["    " * self.depth + line if line else "" for line in lines]

    # -- terms ---------------------------------------------------------------------------------------------------------

    def field(self, name: str) -> str:
        if name in self.plan.money_columns:
            return f"f_{name}"
        self.used[name] += 1
        return f"f_{name}" if name in self.cached else f"event.{name}"

    def term(self, term: Term, around: int = _LOOSE) -> str:
        own = _PRECEDENCE.get("or" if term.op == "flagged" else term.op, _TIGHT)
        text = self.bare(term, own)
        return f"({text})" if own <= around else text

    def bare(self, term: Term, own: int) -> str:
        match term.op:
            case "const":
                # a negative constant is bracketed so that it stands like a name
                return f"({term.value!r})" if isinstance(term.value, int) and term.value < 0 else repr(term.value)
            case "field":
                return self.field(str(term.value))
            case "metric":
                return f"n{self.plan.cell_of[str(term.value)]}"
            case "flagged":
                ids = term.value if isinstance(term.value, tuple) else ()
                return " or ".join(f"h{self.plan.index_of[item]}" for item in dict.fromkeys(ids))
            case "not":
                return f"not {self.term(term.args[0], own)}"
            case "negate":
                return f"-{self.term(term.args[0], own)}"
            case "compare":
                operators = term.value if isinstance(term.value, tuple) else ()
                rest = (f" {op} {self.term(arg, own)}" for op, arg in zip(operators, term.args[1:], strict=True))
                return self.term(term.args[0], own) + "".join(rest)
            case "in" | "not in":
                items = ", ".join(self.term(arg) for arg in term.args[1:])
                return f"{self.term(term.args[0], own)} {term.op} {{{items}}}"  # a set of constants is built only once
        # `and` and `or` chain; the left operand of arithmetic needs no brackets at the same level
        first = self.term(term.args[0], own if term.op in ("and", "or") else own - 1)
        return first + "".join(f" {term.op} {self.term(arg, own)}" for arg in term.args[1:])

    # -- the function --------------------------------------------------------------------------------------------------

    def body(self, title: str) -> None:
        columns = [f"column_{name}" for name in self.plan.money_columns]
        self.put(f"# {title}", "# One pass over the events in stream order; h: scenario held, n: metric's value.", "")
        self.put("def bind(cells):")
        self.depth = 1
        counts = [cell for cell, spec in enumerate(self.plan.cells) if spec.kind == "count"]
        edges = [cell for cell, spec in enumerate(self.plan.cells) if spec.kind == "edge"]
        self.put(*(f"c{cell} = cells[{cell}]  # {self.plan.cells[cell].label}" for cell in counts + edges), "")
        self.put(f"def evaluate({', '.join(['events', 'times', *columns])}):")
        self.depth = 2
        self.put("hits = []", "emit = hits.append")
        for cell in counts:
            self.put(f"w{cell}, turn{cell} = c{cell}.window, c{cell}.turn")
            self.put(f"young{cell}, deadline{cell} = c{cell}.young, c{cell}.deadline")
            self.put(f"young_get{cell}, old_get{cell} = young{cell}.get, c{cell}.old.get")
        self.put(*(f"latched{cell} = c{cell}.latched" for cell in edges))
        targets = ["i", "event", "t", *(f"f_{name}" for name in self.plan.money_columns)]
        self.put(f"for {', '.join(targets)} in zip(range(len(events)), {', '.join(['events', 'times', *columns])}):")
        self.depth = 3
        self.put(*(f"f_{name} = event.{name}" for name in sorted(self.cached)))
        for block in self.plan.blocks:
            self.block(block)
        self.depth = 2
        self.put("return hits")
        self.depth = 1
        self.put("", "return evaluate")

    def block(self, block: Block) -> None:
        if block.guard is None:
            for step in block.steps:
                self.step(step)
            return
        held = [
            step.index for step in block.steps if isinstance(step, ScenarioStep) and step.index in self.plan.counted
        ]
        self.put(*(f"h{index} = False" for index in held))
        self.put(f"if {self.term(block.guard)}:")
        self.depth += 1
        for step in block.steps:
            self.step(step)
        self.depth -= 1
        elsewhere = [step for step in block.steps if isinstance(step, MetricStep) and step.always]
        if elsewhere:
            self.put("else:")
            self.depth += 1
            for step in elsewhere:
                self.read(step)
            self.depth -= 1

    def step(self, step: MetricStep | ScenarioStep) -> None:
        if isinstance(step, MetricStep):
            self.update(step)
        else:
            self.scenario(step)

    def find(self, step: MetricStep) -> int:
        """Say how the held times `v` of the key `k` are found: in the young half, else in the old one."""
        cell = step.cell
        self.put(f"# {self.plan.cells[cell].label}, line {step.metric.line}")
        self.put(f"if t > deadline{cell}:")
        self.put(f"    young{cell}, old{cell}, deadline{cell} = turn{cell}(t)")
        self.put(f"    young_get{cell}, old_get{cell} = young{cell}.get, old{cell}.get")
        self.put(f"k = {self.field(step.metric.by)}", f"v = young_get{cell}(k)")
        return cell

    def update(self, step: MetricStep) -> None:
        cell = self.find(step)
        n, young, w = f"n{cell}", f"young{cell}", f"w{cell}"
        self.put(
            "if v is None:",
            f"    v = old_get{cell}(k)",
            "    if v is not None:",
            f"        {young}[k] = v",
            "if v is None:",
            f"    {young}[k] = t",
            f"    {n} = 1",
            "elif v.__class__ is datetime:",
            f"    if t - v > {w}:",
            f"        {young}[k] = t",
            f"        {n} = 1",
            "    else:",
            f"        {young}[k] = (v, t)",
            f"        {n} = 2",
            "elif v.__class__ is tuple:",
            "    first, second = v",
            f"    if t - second > {w}:",
            f"        {young}[k] = t",
            f"        {n} = 1",
            f"    elif t - first > {w}:",
            f"        {young}[k] = (second, t)",
            f"        {n} = 2",
            "    else:",
            f"        {young}[k] = [first, second, t]",
            f"        {n} = 3",
            "else:",
            "    v.append(t)",
            f"    while t - v[0] > {w}:",
            "        del v[0]",
            f"    {n} = len(v)",
            f"    if {n} > {LIST_LIMIT} and v.__class__ is list:",
            f"        {young}[k] = deque(v)",
        )

    def read(self, step: MetricStep) -> None:
        """The value at an event that is not the metric's own: nothing is added."""
        cell = self.find(step)
        n, w = f"n{cell}", f"w{cell}"
        self.put(
            "if v is None:",
            f"    v = old_get{cell}(k)",
            "if v is None:",
            f"    {n} = 0",
            "elif v.__class__ is datetime:",
            f"    {n} = 0 if t - v > {w} else 1",
            "elif v.__class__ is tuple:",
            f"    {n} = 2 if t - v[0] <= {w} else 1 if t - v[1] <= {w} else 0",
            "else:",
            f"    while len(v) > 1 and t - v[0] > {w}:",
            "        del v[0]",
            f"    {n} = len(v) if t - v[0] <= {w} else 0",
        )

    def scenario(self, step: ScenarioStep) -> None:
        scenario, index = step.scenario, step.index
        self.put(f"# scenario {scenario.decl.id} version {scenario.decl.version}, line {scenario.line}")
        condition = self.term(step.rest) if step.rest else ""
        values = [str(index), self.term(scenario.measure), self.term(scenario.threshold)]
        values += [f"n{self.plan.cell_of[name]}" for name in scenario.metrics]
        emit = f"emit((i, {', '.join(values)}))"
        if index in self.plan.counted:
            self.put(f"h{index} = {condition or True}")
            condition = condition and f"h{index}"
        if step.latch is None:
            self.put(*([f"if {condition}:", f"    {emit}"] if condition else [emit]))
            return
        self.put(f"if {condition}:")  # with "edge" nothing of `when` goes into the guard
        latched = f"latched{step.latch}"
        self.put(
            f"    k = {self.field(scenario.subject)}",
            f"    if k not in {latched}:",
            f"        {latched}.add(k)",
            f"        {emit}",
            "else:",
            f"    {latched}.discard({self.field(scenario.subject)})",
        )
