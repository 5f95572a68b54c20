"""Metrics: what each function takes, and a template's instances for the parameters of the scenarios that use it.

Owns: which keys go with which function, types of results, when a metric may be unknown, the currency rule, defaults,
and the instances of templates. Leaves to `checking_expressions` the condition in `where`, to `checking_scenarios` who
uses a metric, and to `planning` which metrics say the same.

A metric whose `where` names a parameter is a template. Each scenario variant that uses it gets the instance for its own
values; variants with equal values share one. Keys are ``name``, ``name#2``, ... in the order of first use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tidewaiter.core.scenarios.checking_expressions import Scope
from tidewaiter.core.scenarios.checking_ground import (
    GROUPING,
    WHERE,
    Ground,
    Params,
    may_be_absent,
    type_of,
    unbounded,
    usable,
)
from tidewaiter.core.scenarios.expressions import Function, parse_duration, parse_function, parse_number
from tidewaiter.core.scenarios.model import Metric
from tidewaiter.core.scenarios.syntax import MAX_METRICS
from tidewaiter.core.scenarios.tables import MAX_NUMBER
from tidewaiter.core.scenarios.terms import BOOLEAN, DURATION, INTEGER, Term, conjunction
from tidewaiter.core.toml_source import KeyPath, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tidewaiter.core.contract import Field
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.scenarios.syntax import MetricDecl
    from tidewaiter.core.scenarios.terms import Type

_TOTALS: Final = ("integer", "money")
_KINDS: Final = {
    "sum": _TOTALS,
    "min": _TOTALS,
    "max": _TOTALS,
    "distinct": (*GROUPING, *_TOTALS),
    "last": (*GROUPING, *_TOTALS, "boolean"),
}
_SINCE: Final = ("since_previous", "since_first")
_OF_MONEY: Final = ("sum", "min", "max", "last")  # distinct counts values, whatever they are worth
_TIMES: Final = {  # which of the keys that say a time or number go with a function
    "count": ("window", "offset", "cap"),
    "sum": ("window", "offset", "last"),
    "min": ("window", "offset", "last"),
    "max": ("window", "offset", "last"),
    "distinct": ("window", "offset", "last", "cap"),
    "last": ("window", "offset"),
    "since_previous": (),
    "since_first": ("warmup",),
}


@dataclass
class _Template:
    """A metric whose `where` waits for parameters; `flagged` is what `of` adds to it."""

    decl: MetricDecl
    base: Metric
    params: tuple[str, ...]
    flagged: tuple[Term, ...]
    instances: list[Metric]


class Metrics:
    """The metrics of a ruleset, and the instances that its scenarios asked for so far."""

    def __init__(self, ground: Ground, utc_offset: int | None, ids: Sequence[str]) -> None:
        """`ids` are the scenarios that `of` may name; `utc_offset` in seconds, None if the file says none."""
        self.ground, self.utc_offset, self.ids = ground, utc_offset, list(ids)
        self.of: dict[str, tuple[str, ...]] = {}  # by name
        self._plain: dict[str, Metric] = {}
        self._templates: dict[str, _Template] = {}

    # -- what a scenario uses ------------------------------------------------------------------------------------------

    def instance(self, name: str, params: Params, *, user: str, fail: Callable[[str, str], ConfigError]) -> Metric:
        """Return the metric `name` for these parameters of the scenario `user`; `fail` blames the use."""
        template = self._templates.get(name)
        if template is None:
            return self._plain[name]
        for param in template.params:
            if param not in params.values:
                hint = f"add {param} to params; it stands in the metric's `where`"
                raise fail(f"the metric {name} needs the parameter p.{param}", hint)
        where = self.condition(template.decl, params, template.flagged, about=f"for scenario {user}: ")
        for metric in template.instances:
            if metric.where == where:
                return metric
        number = len(template.instances) + 1
        if sum(len(each.instances) for each in self._templates.values()) + len(self._plain) >= MAX_METRICS:
            hint = f"at most {MAX_METRICS}: a metric with parameters forks for each different value of them"
            raise fail(f"with {name} for {user} the rules need too many metrics", hint)
        metric = replace(template.base, key=name if number == 1 else f"{name}#{number}", where=where)
        template.instances.append(metric)
        return metric

    def all(self) -> dict[str, Metric]:
        """Return every metric that is not a template and every instance by key, in file order."""
        found: dict[str, Metric] = {}
        for name in self.ground.metric_names:
            instances = self._templates[name].instances if name in self._templates else [self._plain[name]]
            found |= {metric.key: metric for metric in instances}
        return found

    def mark(self) -> dict[str, int]:
        """Return how many instances there are, to go back to with `forget`."""
        return {name: len(template.instances) for name, template in self._templates.items()}

    def forget(self, mark: dict[str, int]) -> None:
        """Drop the instances made since `mark`: a scenario that is only checked leaves nothing behind."""
        for name, template in self._templates.items():
            del template.instances[mark[name] :]

    def keys(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return these keys in file order."""
        wanted = set(names)
        return tuple(key for key in self.all() if key in wanted)

    # -- what a metric says --------------------------------------------------------------------------------------------

    def add(self, decl: MetricDecl) -> None:
        """Check a metric by itself; a template is checked with its parameters left open."""
        path: KeyPath = ("metric", decl.name)
        ground = self.ground
        function = parse_function(decl.fn, self._failing((*path, "fn")))
        self.of[decl.name] = self._counted((*path, "fn"), function)
        self._fits(path, decl, function)
        item = self._field((*path, "fn"), function)
        kind = INTEGER
        if function.name in _SINCE:
            kind = DURATION
        elif item is not None and function.name != "distinct":
            kind = type_of(item)
        for name in decl.by:
            ground.grouping((*path, "by"), name)
        flagged = (Term("flagged", BOOLEAN, value=self.of[decl.name]),) if function.of is not None else ()
        opened = Params(None)
        where = self.condition(decl, opened, flagged)
        if item is not None and item.kind == "money" and function.name in _OF_MONEY:
            self._one_currency(path, decl, item, where)
        always = function.name in ("count", "distinct") and not decl.offset and not decl.last
        by_absent = any(may_be_absent(ground.contract.by_name[name]) for name in decl.by)
        metric = Metric(
            key=decl.name,
            name=decl.name,
            fn=function.name,
            type=kind,
            by=decl.by,
            field=item.name if item else None,
            where=where,
            window=decl.window,
            day=decl.day,
            utc_offset=(self.utc_offset or 0) if decl.day else 0,
            offset=decl.offset,
            last=decl.last,
            cap=decl.cap,
            warmup=decl.warmup,
            default=self._default((*path, "default"), decl, kind, item),
            line=ground.source.line(*path),
            unknowable=decl.default is None and (by_absent or not always),
        )
        if opened.used:
            self._templates[decl.name] = _Template(decl, metric, tuple(opened.used), flagged, [])
        else:
            self._plain[decl.name] = metric

    def condition(self, decl: MetricDecl, params: Params, flagged: tuple[Term, ...], about: str = "") -> Term | None:
        """Return all that an event must meet to be counted."""
        parts = flagged
        if decl.where is not None:
            path = ("metric", decl.name, "where")
            scope = Scope(self.ground, path, decl.where, WHERE, params=params, about=about)
            parts += scope.condition().conjuncts
        return conjunction(parts)

    def _failing(self, path: KeyPath) -> Callable[[str, str, int], ConfigError]:
        return lambda problem, hint, at: self.ground.source.error(path, problem, hint=hint, at=at)

    def _counted(self, path: KeyPath, function: Function) -> tuple[str, ...]:
        for name, at in function.of or ():
            if name not in self.ids:
                hint = nearest(name, self.ids)
                raise self.ground.source.error(path, f"there is no scenario {name!r}", hint=hint, at=at)
        return tuple(name for name, _ in function.of or ())

    def _field(self, path: KeyPath, function: Function) -> Field | None:
        if function.field is None:
            return None
        name, at = function.field
        kinds = _KINDS[function.name]
        item = self.ground.contract.by_name.get(name)
        if item is None or item.kind not in kinds or usable(item):
            problem = f"there is no field {name!r}"
            if item is not None:
                what = "is a time" if item.kind == "timestamp" else usable(item) or f"is {type_of(item)}"
                problem = f"{name} {what}, which {function.name} cannot take"
            hint = nearest(name, self.ground.fields(*kinds))
            raise self.ground.source.error(path, problem, hint=hint, at=at)
        if function.name == "last" and (why := unbounded(item)):
            raise self.ground.source.error(path, why[0], hint=why[1], at=at)
        return item

    def _fits(self, path: KeyPath, decl: MetricDecl, function: Function) -> None:
        """Refuse keys that say nothing about this function, and combinations that contradict each other."""
        source, name = self.ground.source, function.name
        given = {
            "window": decl.window,
            "offset": decl.offset,
            "last": decl.last,
            "cap": decl.cap,
            "warmup": decl.warmup,
        }
        for key, value in given.items():
            if value and key not in _TIMES[name]:
                allowed = ", ".join(_TIMES[name]) or "none of window, offset, last, cap, warmup"
                raise source.error((*path, key), f"{name} takes no {key}", hint=f"allowed: {allowed}", key=True)
        if decl.last and (decl.window or decl.offset):
            key = "window" if decl.window else "offset"
            hint = "the last N events, or those of a time: keep one of the two"
            raise source.error((*path, key), "cannot stand beside last", hint=hint, key=True)
        if decl.cap and decl.last:
            raise source.error(
                (*path, "cap"), "cannot stand beside last", hint="last itself keeps no more than N events", key=True
            )
        if name not in ("last", *_SINCE) and not decl.window and not decl.last:
            hint = "for example '10s', '24h', 'day'" + (" or last = 10 in its place" if "last" in _TIMES[name] else "")
            raise source.error((*path, "window"), "is missing", hint=hint, key=True)
        if decl.offset and (decl.day or not decl.window):
            what = "cannot shift a calendar day" if decl.day else "needs a window to shift"
            hint = "write the window as a length, for example '24h'"
            raise source.error((*path, "offset"), what, hint=hint, key=True)
        if decl.day and self.utc_offset is None:
            hint = "say at the top of the file where the day begins: utc_offset = '+01:00'"
            raise source.error((*path, "window"), "a day needs a time zone", hint=hint)

    def _one_currency(self, path: KeyPath, decl: MetricDecl, item: Field, where: Term | None) -> None:
        """Money of several currencies cannot be added or ordered: the currency must be the same for a whole key."""
        name = getattr(item, "currency", None)
        currency = self.ground.contract.by_name.get(name) if name else None
        if currency is None or len(currency.values) == 1 or name in decl.by:
            return
        for part in where.said if where else ():
            pinned = part.op == "in" or (part.op == "compare" and part.value == ("==",))
            sides = {each.op: each.value for each in part.args}
            # as many parts as sides: not a chain, not a list of several
            if pinned and len(part.args) == len(sides) and "const" in sides and sides.get("field") == name:
                return
        example = currency.values[0] if currency.values else "EUR"
        ways = (
            f"add {name} to `by`; or pin it in `where`: {name} == '{example}'; or let the contract allow one value only"
        )
        problem = f"{item.name} may be in several currencies"
        raise self.ground.source.error((*path, "fn"), problem, hint=ways, at=0)

    def _default(self, path: KeyPath, decl: MetricDecl, kind: Type, item: Field | None) -> int | str | bool | None:
        value = decl.default
        if value is None:
            return None
        error = self.ground.source.error
        if kind.kind == "boolean" or isinstance(value, bool):
            if kind.kind == "boolean" and isinstance(value, bool):
                return value
            raise error(path, f"must be {kind}", hint="in the type of the metric")
        if kind.kind in _TOTALS:
            text = isinstance(value, str)
            number = parse_number(str(value)) if kind.kind == "money" or not text else None
            units = None if number is None else number * 10**kind.scale
            if units is None or units.denominator != 1 or abs(units) > MAX_NUMBER:
                raise error(path, f"must be {kind}", hint="0 or '0.00'" if kind.kind == "money" else "for example 0")
            return int(units)
        if kind.kind == "duration":
            time = parse_duration(value) if isinstance(value, str) else None
            if time is None:
                raise error(path, "must be a duration", hint="for example '90d', '1500ms'")
            return time
        if not isinstance(value, str):
            raise error(path, f"must be {kind}", hint="in quotes")
        if item is not None and item.max_length is not None and len(value) > item.max_length:
            hint = f"at most {item.max_length}, as {item.name} itself"
            raise error(path, f"is {len(value)} characters long", hint=hint)
        if kind.values and value not in kind.values:
            raise error(path, f"{value!r} is not a value of the field", hint=nearest(value, kind.values))
        return value
