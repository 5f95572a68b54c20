"""Metrics in Python: what is set up, how an event is added, how a value is read.

Owns: the code in line of the common kinds, which must keep the forms that `state_windows` and `state_keyed` describe,
and the calls of the others. Leaves to `generating` under which guard it stands.

Adding an event leaves the metric's value at this event in ``n3`` (3 being its cell). Where the value may be asked for
at other events too, ``n3`` is set to ``...`` first, and whoever needs it reads it then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewaiter.core.scenarios.generating_records import Records
from tidewaiter.core.scenarios.planning import LASTING, MetricStep
from tidewaiter.core.scenarios.planning_digests import is_optional
from tidewaiter.core.scenarios.state_windows import LIST_LIMIT, SPARE

if TYPE_CHECKING:
    from tidewaiter.core.scenarios.generating_page import Page
    from tidewaiter.core.scenarios.generating_terms import Terms
    from tidewaiter.core.scenarios.planning import Plan
    from tidewaiter.core.scenarios.state_cells import CellSpec

_WINDOWS = ("count", "sum", "distinct", "latest", "shifted")  # kinds with a window and code in line


class MetricWriter:
    """Writes the metrics of one ruleset."""

    def __init__(self, plan: Plan, terms: Terms) -> None:
        """Write nothing yet."""
        self.plan, self.terms = plan, terms
        self.steps: dict[int, MetricStep] = {}
        self.keys: dict[int, frozenset[str]] = {}  # of the blocks they stand in
        self.records = Records(plan)
        for block in plan.blocks:
            for step in block.steps:
                if isinstance(step, MetricStep):
                    self.steps[step.cell], self.keys[step.cell] = step, block.key

    # -- set up --------------------------------------------------------------------------------------------------------

    def locals(self, page: Page, cell: int) -> None:
        """Write what is looked up once for each call."""
        spec = self.plan.cells[cell]
        if spec.kind in _WINDOWS or spec.kind in LASTING:
            self.records.locals(page, cell)
            if spec.kind == "shifted":
                page.put(f"o{cell}, known{cell} = c{cell}.offset, c{cell}.known")
        elif spec.kind == "day":
            page.put(f"held{cell} = c{cell}.held", f"held_get{cell} = held{cell}.get")
        else:
            page.put(f"add{cell} = c{cell}.add")
        if spec.kind == "distinct":
            page.put(f"drop{cell} = c{cell}.drop")
        if spec.kind == "since" and spec.warmup:
            page.put(f"known{cell} = c{cell}.known")
        if self.steps[cell].lazy:
            page.put(f"read{cell} = c{cell}.read")
            if self.records.place(cell):
                page.put(f"value{cell} = c{cell}.value")

    def midnight(self, page: Page, cells: list[int]) -> None:
        """Write what happens when the day of the calendar-day metrics ends."""
        with page.under("if t >= midnight:"):
            for cell in cells:
                page.put(
                    f"midnight = c{cell}.roll(t)", f"held{cell} = c{cell}.held", f"held_get{cell} = held{cell}.get"
                )

    # -- an event of its own -------------------------------------------------------------------------------------------

    def simple(self, page: Page, text: str, name: str) -> str:
        """Return `text` if it is a plain name, else write it into `name`."""
        if text.isidentifier():
            return text
        page.put(f"{name} = {text}")
        return name

    def key(self, page: Page, step: MetricStep) -> str:
        """Write how the key is made, if it has to be; return its name."""
        parts = [self.terms.field(name) for name in step.metric.by]
        return self.simple(page, parts[0] if len(parts) == 1 else f"({', '.join(parts)})", "k")

    def update(self, page: Page, step: MetricStep) -> None:
        """Write how the event at hand is added."""
        cell, metric = step.cell, step.metric
        spec = self.plan.cells[cell]
        page.put(f"# {spec.label}, line {metric.line}")
        target = self.records.here(cell)
        key = "" if target else self.key(page, step)
        value = self.simple(page, self.terms.field(metric.field), "x") if metric.field is not None else "0"
        if spec.kind in _WINDOWS:
            self.window(page, step, key, value)
        elif spec.kind in LASTING:
            found, target = f"young_get{cell}({key})", f"young{cell}[{key}]"
            if self.records.place(cell):
                found = target = self.records.make_sure(page, cell, key, lasting=True)
            if spec.kind == "since":
                _since(page, cell, found, target, spec)
            else:
                page.put(f"{target} = n{cell} = {value}")
        elif spec.kind == "day":
            _day(page, cell, key, value, spec)
        else:
            page.put(f"n{cell} = add{cell}({key}, t, {value})")

    def window(self, page: Page, step: MetricStep, key: str, value: str) -> None:
        """Write how the event at hand is added to a metric over a window; `key` may be "" where its record is found."""
        cell, spec = step.cell, self.plan.cells[step.cell]
        if self.records.place(cell):
            target = self.records.make_sure(page, cell, key, lasting=True)
            if spec.kind != "latest":
                page.put(f"v = {target}")
        else:
            target = f"young{cell}[{key}]"
            if spec.kind != "latest":
                self.find(page, cell, key, moved="v is not None" if spec.kind == "count" else "v.__class__ is list")
        match spec.kind:
            case "count":
                _count(page, cell, target, spec.cap)
            case "sum":
                _sum(page, cell, target, value)
            case "distinct":
                _distinct(page, cell, target, value, spec.cap)
            case "latest":
                page.put(f"{target} = (t, {value})", f"n{cell} = {value}")
            case _:
                _shifted(page, cell, target, value, spec)

    def find(self, page: Page, cell: int, key: str, *, moved: str) -> None:
        """Write how what is held of a key is found: in the young half, else in the old one.

        What is `moved` becomes young at once; the rest is put there anew in any case.
        """
        page.put(
            f"v = young_get{cell}({key})",
            "if v is None:",
            f"    v = old_get{cell}({key})",
            f"    if {moved}:",
            f"        young{cell}[{key}] = v",
        )

    # -- any event -----------------------------------------------------------------------------------------------------

    def read(self, page: Page, cell: int) -> None:
        """Write how the value is read, unless it is known already."""
        step = self.steps[cell]
        parts = [self.terms.field(name) for name in step.metric.by]
        key = parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
        absent = [
            f"{self.terms.field(name)} is None" for name in step.metric.by if is_optional(self.terms.contract, name)
        ]
        here = self.records.here(cell)
        text = f"value{cell}({here}, t)" if here else f"read{cell}({key}, t)"
        with page.under(f"if n{cell} is ...:"):
            page.put(f"n{cell} = None if {' or '.join(absent)} else {text}" if absent else f"n{cell} = {text}")


def _count(page: Page, cell: int, target: str, cap: int) -> None:
    n, w = f"n{cell}", f"w{cell}"
    page.put(
        "if v is None:",
        f"    {target} = t",
        f"    {n} = 1",
    )
    if cap == 1:
        page.put("else:", f"    {target} = t", f"    {n} = 1")
        return
    page.put(
        "elif v.__class__ is datetime:",
        f"    if t - v > {w}:",
        f"        {target} = t",
        f"        {n} = 1",
        "    else:",
        f"        {target} = (v, t)",
        f"        {n} = 2",
        "elif v.__class__ is tuple:",
        "    first, second = v",
        f"    if t - second > {w}:",
        f"        {target} = t",
        f"        {n} = 1",
        f"    elif t - first > {w}:",
        f"        {target} = (second, t)",
        f"        {n} = 2",
        "    else:",
    )
    if cap == 2:  # noqa: PLR2004 - the newest two
        page.put(f"        {target} = (second, t)", f"        {n} = 2")
        return
    page.put(
        f"        {target} = [1, first, second, t]",
        f"        {n} = 3",
        "else:",
        "    v.append(t)",
        "    j = v[0]",
        f"    if t - v[j] > {w}{f' or len(v) - j > {cap}' if cap else ''}:",
        "        j += 1",
        f"        while t - v[j] > {w}:",
        "            j += 1",
        f"        if j > {SPARE} and j + j > len(v):",
        "            del v[1:j]",
        "            j = 1",
        "        v[0] = j",
        f"    {n} = len(v) - j",
    )


def _sum(page: Page, cell: int, target: str, value: str) -> None:
    n, w = f"n{cell}", f"w{cell}"
    page.put(
        "if v is None:",
        f"    {target} = (t, {value})",
        f"    {n} = {value}",
        "elif v.__class__ is tuple:",
        "    first, d = v",
        f"    if t - first > {w}:",
        f"        {target} = (t, {value})",
        f"        {n} = {value}",
        "    else:",
        f"        {n} = d + {value}",
        f"        {target} = [{n}, 2, first, d, t, {value}]",
        "else:",
        "    v.append(t)",
        f"    v.append({value})",
        f"    {n} = v[0] + {value}",
        "    j = v[1]",
        f"    if t - v[j] > {w}:",
        f"        {n} -= v[j + 1]",
        "        j += 2",
        f"        while t - v[j] > {w}:",
        f"            {n} -= v[j + 1]",
        "            j += 2",
        "        if j + 2 == len(v):",
        f"            {target} = (t, {value})",
        f"        elif j > {SPARE} and j + j > len(v):",
        "            del v[2:j]",
        "            j = 2",
        "        v[1] = j",
        f"    v[0] = {n}",
    )


def _distinct(page: Page, cell: int, target: str, value: str, cap: int) -> None:
    n, w = f"n{cell}", f"w{cell}"
    if cap == 1:
        page.put(f"{target} = (t, {value})", f"{n} = 1")
        return
    page.put(
        "if v is None:",
        f"    {target} = (t, {value})",
        f"    {n} = 1",
        "elif v.__class__ is tuple:",
        "    first, d = v",
        f"    if d == {value} or t - first > {w}:",
        f"        {target} = (t, {value})",
        f"        {n} = 1",
        "    else:",
        f"        {target} = [first, {{d: first, {value}: t}}]",
        f"        {n} = 2",
        "else:",
        "    d = v[1]",
        f"    if {value} in d:",
        f"        del d[{value}]",
        f"    d[{value}] = t",
        f"    if t - v[0] > {w}{f' or len(d) > {cap}' if cap else ''}:",
        f"        drop{cell}(v, t)",
        f"    {n} = len(d)",
        f"    if {n} == 1:",
        f"        {target} = (t, {value})",
        f"    elif {n} > {LIST_LIMIT} and d.__class__ is dict:",
        "        v[1] = OrderedDict(d)",
    )


def _shifted(page: Page, cell: int, target: str, value: str, spec: CellSpec) -> None:
    n, counted, summed = f"n{cell}", spec.fn == "count", spec.fn == "sum"
    step = 1 if counted else 2
    page.put(
        "if v is None:",
        f"    {target} = v = [0, 3, 3, t{'' if counted else ', ' + value}]",
        "else:",
        "    v.append(t)",
        *([] if counted else [f"    v.append({value})"]),
        "j = v[2]",
        f"if t - v[j] > o{cell}:",
        f"    while t - v[j] > o{cell}:",
        *(["        v[0] += v[j + 1]"] if summed else []),
        f"        j += {step}",
        "    v[2] = j",
        f"if t < known{cell}:",
        f"    {n} = None  # and nothing can have left the window",
        "else:",
        "    first = v[1]",
        f"    if t - v[first] > w{cell}:",
        f"        while t - v[first] > w{cell}:",
        *(["            v[0] -= v[first + 1]"] if summed else []),
        f"            first += {step}",
        f"        if first > {SPARE} and first + first > len(v):",
        "            del v[3:first]",
        "            j += 3 - first",
        "            first = 3",
        "            v[2] = j",
        "        v[1] = first",
    )
    if counted:
        result = "j - first" if not spec.cap else f"j - first if j - first < {spec.cap} else {spec.cap}"
        page.put(f"    {n} = {result}")
    else:
        page.put(f"    {n} = None if j == first else v[{'0' if summed else 'j - 1'}]")


def _since(page: Page, cell: int, found: str, target: str, spec: CellSpec) -> None:
    page.put(f"v = {found}")
    if spec.fn == "since_previous":
        page.put(f"n{cell} = None if v is None else t - v", f"{target} = t")
        return
    page.put("if v is None:", f"    {target} = v = t")
    page.put(f"n{cell} = None if v < known{cell} else t - v" if spec.warmup else f"n{cell} = t - v")


def _day(page: Page, cell: int, key: str, value: str, spec: CellSpec) -> None:
    n, held, get = f"n{cell}", f"held{cell}", f"held_get{cell}"
    match spec.fn:
        case "count" if spec.cap:
            page.put(f"{n} = {get}({key}, 0)", f"if {n} < {spec.cap}:", f"    {n} += 1", f"    {held}[{key}] = {n}")
        case "count":
            page.put(f"{held}[{key}] = {n} = {get}({key}, 0) + 1")
        case "sum":
            page.put(f"{held}[{key}] = {n} = {get}({key}, 0) + {value}")
        case "min" | "max":
            operator = "<" if spec.fn == "min" else ">"
            page.put(f"{n} = {get}({key})", f"if {n} is None or {value} {operator} {n}:")
            page.put(f"    {held}[{key}] = {n} = {value}")
        case "distinct":
            page.put(f"v = {get}({key})", "if v is None:", f"    {held}[{key}] = v = {{}}")
            page.put(*([f"if len(v) < {spec.cap}:", f"    v[{value}] = None"] if spec.cap else [f"v[{value}] = None"]))
            page.put(f"{n} = len(v)")
        case _:
            page.put(f"{held}[{key}] = {n} = {value}")
