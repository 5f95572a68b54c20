"""Names, types and units: from expressions to terms that cannot fail when they run.

Owns: what a name means in which place, which types go together, constants in minor units, and the parameters as
resolved. Leaves to `planning` what is computed when.

Rules:
- money meets only money of the same scale, or a constant in major units; money x money has no unit;
- money x a whole number, and every sum of equals, keeps its unit; `%` takes a positive constant;
- an enum is compared with its own values only; texts and truth values know == and != (and `in`) only;
- an optional field without a default may be absent, and no condition may depend on it in this release;
- constants are folded exactly, so that a term has no constant arithmetic left.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.scenarios.expressions import Node, parse_expression, parse_function, parse_number
from tidewaiter.core.scenarios.terms import BOOLEAN, INTEGER, NUMBER, STRING, TEXT, Term, Type, conjunction
from tidewaiter.core.toml_source import DecimalText, KeyPath, TomlSource, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tidewaiter.core.contract import Contract, Field
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.scenarios.syntax import MetricDecl, Param, RulesetDecl, ScenarioDecl

MAX_CONSTANT: Final = 10**18
_ORDERED: Final = ("integer", "money")
_GROUPING: Final = ("string", "enum")


@dataclass(frozen=True)
class Metric:
    """A checked metric: how many events with `where` there were of the same `by` within `window` seconds."""

    name: str
    by: str
    window: int
    where: Term | None
    line: int


@dataclass(frozen=True)
class CheckedScenario:
    """A checked scenario; `params` are resolved: name to (type, value), money in minor units."""

    decl: ScenarioDecl
    subject: str
    on: Term | None
    when: Term
    measure: Term
    threshold: Term
    window: int
    params: dict[str, tuple[Type, Any]]
    metrics: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Checked:
    """A checked ruleset, in file order."""

    metrics: dict[str, Metric]
    scenarios: tuple[CheckedScenario, ...]


def check_ruleset(decl: RulesetDecl, source: TomlSource, contract: Contract) -> Checked:
    """Check `decl` against `contract`. Raises ConfigError at the first thing that does not fit."""
    label = f"{contract.name}/{contract.version}"
    if decl.contract != label:
        problem = f"the rules are written for {decl.contract!r}, the contract in force is {label!r}"
        raise source.error(
            ("contract",), problem, hint=f"use the contract file of {decl.contract}, or rules for {label}"
        )
    checker = _Checker(decl, source, contract)
    metrics = {item.name: checker.metric(item) for item in decl.metrics}
    return Checked(metrics, tuple(checker.scenario(item, metrics) for item in decl.scenarios))


class _Checker:
    def __init__(self, decl: RulesetDecl, source: TomlSource, contract: Contract) -> None:
        self.source, self.contract = source, contract
        self.metric_names = [item.name for item in decl.metrics]
        self.ids = [item.id for item in decl.scenarios]

    def metric(self, decl: MetricDecl) -> Metric:
        path: KeyPath = ("metric", decl.name)
        if decl.name in self.contract.by_name:
            raise self.source.error(path, "is also the name of a field", hint="choose another name", key=True)
        fn_path = (*path, "fn")
        of = parse_function(decl.fn, lambda problem, hint, at: self.source.error(fn_path, problem, hint=hint, at=at))
        parts: tuple[Term, ...] = ()
        if of is not None:
            self.known_ids(fn_path, of, self.ids)
            parts = (Term("flagged", BOOLEAN, value=of),)
        if decl.where is not None:
            scope = _Scope(self, (*path, "where"), decl.where, no_metric="a metric's `where` knows fields only")
            parts += scope.condition().conjuncts
        self.grouping((*path, "by"), decl.by)
        return Metric(decl.name, decl.by, decl.window, conjunction(parts), self.source.line(*path))

    def scenario(self, decl: ScenarioDecl, metrics: Mapping[str, Metric]) -> CheckedScenario:
        path: KeyPath = ("scenario", decl.id)
        subject = decl.subject if decl.subject is not None else self.contract.subject_field
        self.grouping((*path, "subject"), subject)
        params = _Params(decl.params)
        earlier = self.ids[: self.ids.index(decl.id)]
        on: Term | None = None
        if isinstance(decl.on, tuple):
            self.known_ids((*path, "on", "of"), decl.on, earlier)
            on = Term("flagged", BOOLEAN, value=decl.on)
        elif decl.on is not None:
            reason = "`on` says which events are looked at and knows fields only; put the metric into `when`"
            on = _Scope(self, (*path, "on"), decl.on, params, no_metric=reason).condition()
        when = _Scope(self, (*path, "when"), decl.when, params).condition()
        measure = _Scope(self, (*path, "measure"), decl.measure, params).quantity()
        threshold = _Scope(self, (*path, "threshold"), decl.threshold, params).quantity(measure.type)
        for name in decl.params:
            if name not in params.used:
                hint = f"use it as p.{name}, or remove it"
                raise self.source.error((*path, "params", name), "is never used", hint=hint, key=True)
        used = when.names("metric") | measure.names("metric") | threshold.names("metric")
        for name in metrics:
            if name in used:
                self.counts_earlier(path, metrics[name], earlier)
        shown = max((metrics[name].window for name in measure.names("metric")), default=0)
        return CheckedScenario(
            decl=decl,
            subject=subject,
            on=on,
            when=when,
            measure=measure,
            threshold=threshold,
            window=shown if decl.window is None else decl.window,
            params=params.resolved(),
            metrics=tuple(name for name in metrics if name in used),
            line=self.source.line(*path),
        )

    def counts_earlier(self, path: KeyPath, metric: Metric, earlier: list[str]) -> None:
        """A metric that counts flags may be used only after the scenarios it counts: so there are no cycles."""
        for part in metric.where.conjuncts if metric.where else ():
            for counted in part.value if isinstance(part.value, tuple) and part.op == "flagged" else ():
                if counted not in earlier:
                    problem = f"uses the metric {metric.name}, which counts flags of {counted}"
                    raise self.source.error((*path, "when"), problem, hint=f"{counted} must stand earlier in the file")

    def known_ids(self, path: KeyPath, ids: tuple[str, ...], allowed: list[str]) -> None:
        for item in ids:
            if item in allowed:
                continue
            if item in self.ids:
                raise self.source.error(path, f"{item} does not stand earlier in the file", hint=nearest("", allowed))
            raise self.source.error(path, f"there is no scenario {item!r}", hint=nearest(item, allowed))

    def grouping(self, path: KeyPath, name: str) -> None:
        fits = [item.name for item in self.contract.fields if item.kind in _GROUPING and usable(item) is None]
        if name not in fits:
            raise self.source.error(path, f"{name!r} is not a field to group by", hint=nearest(name, fits))


def usable(field: Field) -> str | None:
    """Return why `field` cannot be used in rules, None if it can."""
    if field.kind == "timestamp":
        return "is a time; time is said with windows only"
    if not field.required and field.default is None:
        return "is optional and has no default, so it may be absent"
    if not field.name.isascii() or not field.name.isidentifier() or field.name.startswith("_"):
        return "has a name that rules cannot say"
    return None


class _Params:
    """The parameters of a scenario: which were used, and as what."""

    def __init__(self, values: Mapping[str, Param]) -> None:
        self.values = values
        self.used: dict[str, tuple[Type, Any] | None] = {}

    def term(self, name: str) -> Term:
        """Return the parameter as a constant whose type is still open."""
        self.used.setdefault(name, None)
        value = self.values[name]
        if isinstance(value, bool):
            return Term("const", BOOLEAN, value=value)
        if isinstance(value, int):
            return Term("const", NUMBER, value=Fraction(value))
        if isinstance(value, DecimalText) and (number := parse_number(value)) is not None:
            return Term("const", NUMBER, value=number)
        return Term("const", TEXT, value=str(value))

    def resolved(self) -> dict[str, tuple[Type, Any]]:
        """Return each parameter with the type it is used as; one used only inside arithmetic stays as written."""
        found: dict[str, tuple[Type, Any]] = {}
        for name, value in self.values.items():
            as_written = BOOLEAN if isinstance(value, bool) else TEXT if type(value) is str else NUMBER
            found[name] = self.used.get(name) or (as_written, str(value) if isinstance(value, str) else value)
        return found


class _Scope:
    """One expression, where it stands, and which names it may use."""

    def __init__(
        self, checker: _Checker, path: KeyPath, text: str, params: _Params | None = None, *, no_metric: str = ""
    ) -> None:
        self.checker, self.path, self.text, self.params, self.no_metric = checker, path, text, params, no_metric

    def fail(self, problem: str, hint: str, at: int) -> ConfigError:
        return self.checker.source.error(self.path, problem, hint=hint, at=at)

    def condition(self) -> Term:
        node = parse_expression(self.text, self.fail)
        return self.boolean(node)

    def quantity(self, wanted: Type | None = None) -> Term:
        """Return a whole number or money; of the type `wanted`, or else not a mere constant."""
        node = parse_expression(self.text, self.fail)
        term = self.term(node)
        if wanted is not None:
            return self.coerce(node, term, wanted)
        if term.type.kind not in _ORDERED:
            raise self.fail(f"is {term.type}", "needs a field, a metric or arithmetic with one", node.at)
        return term

    def boolean(self, node: Node) -> Term:
        term = self.term(node)
        if term.type != BOOLEAN:
            raise self.fail(f"is {term.type}, not a condition", "compare it with something", node.at)
        return term

    def term(self, node: Node) -> Term:  # noqa: PLR0911 - one return per construct
        match node.op:
            case "and" | "or":
                return Term(node.op, BOOLEAN, tuple(map(self.boolean, node.args)))
            case "not":
                return Term("not", BOOLEAN, (self.boolean(node.args[0]),))
            case "number":
                return Term("const", NUMBER, value=node.value)
            case "text":
                return Term("const", TEXT, value=node.value)
            case "truth":
                return Term("const", BOOLEAN, value=node.value)
            case "param":
                return self.param(node)
            case "name":
                return self.name(node)
            case "compare":
                return self.compare(node)
            case "in" | "not in":
                return self.member(node)
            case "negate":
                return self.negate(node)
        return self.arithmetic(node)

    # -- names ---------------------------------------------------------------------------------------------------------

    def name(self, node: Node) -> Term:
        name, contract = str(node.value), self.checker.contract
        field = contract.by_name.get(name)
        if field is not None:
            if why := usable(field):
                raise self.fail(f"{name} {why}", "choose another field", node.at)
            kinds: dict[str, Callable[[], Type]] = {
                "string": lambda: STRING,
                "enum": lambda: Type("enum", values=field.values),
                "money": lambda: Type("money", scale=field.scale),
                "integer": lambda: INTEGER,
                "boolean": lambda: BOOLEAN,
            }
            return Term("field", kinds[field.kind](), value=name)
        if name in self.checker.metric_names:
            if self.no_metric:
                raise self.fail(f"{name} is a metric", self.no_metric, node.at)
            return Term("metric", INTEGER, value=name)
        raise self.fail(f"there is nothing called {name!r}", self.known(name), node.at)

    def known(self, name: str) -> str:
        if self.params is not None and name in self.params.values:
            return f"a parameter is written p.{name}"
        for field in self.checker.contract.fields:
            if name in field.values:
                return f"a text needs quotes: '{name}'"
        fields = [field.name for field in self.checker.contract.fields if usable(field) is None]
        return nearest(name, fields if self.no_metric else fields + self.checker.metric_names)

    def param(self, node: Node) -> Term:
        name = str(node.value)
        if self.params is None:
            raise self.fail("a metric has no parameters in this release", "write the value itself", node.at)
        if name not in self.params.values:
            raise self.fail(f"there is no parameter {name!r}", nearest(name, self.params.values), node.at)
        return self.params.term(name)

    # -- types ---------------------------------------------------------------------------------------------------------

    def coerce(self, node: Node, term: Term, wanted: Type) -> Term:
        """Return `term` as `wanted`, a constant in its unit. Raises where they do not go together."""
        kind, have = wanted.kind, term.type
        if have == wanted or (have.kind in _GROUPING and kind in _GROUPING):
            return self.remember(node, term)
        if have == TEXT and kind == "enum" and term.value not in wanted.values:
            raise self.fail(
                f"{term.value!r} is not a value of the field", nearest(str(term.value), wanted.values), node.at
            )
        if have == TEXT and kind in _GROUPING:
            return self.remember(node, Term("const", wanted, value=term.value))
        number = self.number(term)
        if number is not None and (kind == "money" or (kind == "integer" and have == NUMBER)):
            units = number * 10**wanted.scale
            if units.denominator != 1:
                what = f"has more than {wanted.scale} decimals" if kind == "money" else "is not a whole number"
                raise self.fail(what, "multiply the other side instead" if kind == "integer" else "round it", node.at)
            return self.remember(node, Term("const", wanted, value=self.bounded(node, units).numerator))
        if have.kind == kind == "money":
            raise self.fail(f"is {have}, the other side is {wanted}", "money of one scale goes together", node.at)
        hint = "whole numbers are written without quotes" if have == TEXT and kind == "integer" else ""
        raise self.fail(f"is {have}, but {wanted} is needed here", hint or "compare like with like", node.at)

    def remember(self, node: Node, term: Term) -> Term:
        """Note as what a parameter is used; it cannot be two things."""
        if node.op == "param" and self.params is not None:
            name = str(node.value)
            shown = Type(term.type.kind, term.type.scale)  # the values of an enum do not matter to the parameter
            before = self.params.used.get(name)
            if before is not None and before != (shown, term.value):
                raise self.fail(f"p.{name} is {before[0]} elsewhere and {shown} here", "use two parameters", node.at)
            self.params.used[name] = (shown, term.value)
        return term

    def number(self, term: Term) -> Fraction | None:
        """Return the value of a constant that is a number, or a text that reads as one."""
        if term.op != "const":
            return None
        if term.type == TEXT:
            return parse_number(str(term.value))
        return term.value if isinstance(term.value, Fraction) else None

    def bounded(self, node: Node, value: Fraction) -> Fraction:
        if abs(value) > MAX_CONSTANT:
            raise self.fail("is too large a number", f"at most {MAX_CONSTANT} (money: minor units)", node.at)
        return value

    def pair(self, node: Node, left: Node, right: Node) -> tuple[Term, Term]:
        """Return both sides as one type; one of them must depend on the event."""
        one, two = self.term(left), self.term(right)
        if one.op == "const" and two.op == "const":
            raise self.fail("compares two constants", "one side must be a field or a metric", node.at)
        if one.op == "const":
            return self.coerce(left, one, two.type), two
        return one, self.coerce(right, two, one.type)

    def compare(self, node: Node) -> Term:
        operators = node.value if isinstance(node.value, tuple) else ()
        pairs = [self.pair(node, left, right) for left, right in pairwise(node.args)]  # a chain compares neighbours
        for (left, right), operator, at in zip(pairs, operators, node.args[1:], strict=True):
            if operator not in ("==", "!=") and left.type.kind not in _ORDERED:
                raise self.fail(f"`{operator}` does not order {left.type}", "use == or !=", at.at)
            if "enum" in (left.type.kind, right.type.kind):
                self.overlap(node, left, right)
        if all(one[1] == two[0] for one, two in pairwise(pairs)):
            return Term("compare", BOOLEAN, (pairs[0][0], *(right for _, right in pairs)), operators)
        # a constant in the middle of a chain can be money to its left and a whole number to its right
        parts = (Term("compare", BOOLEAN, pair, (op,)) for pair, op in zip(pairs, operators, strict=True))
        return Term("and", BOOLEAN, tuple(parts))

    def overlap(self, node: Node, left: Term, right: Term) -> None:
        """Two enums without a common value are never equal: a mistake."""
        if left.type.values and right.type.values and not set(left.type.values) & set(right.type.values):
            raise self.fail("the two fields have no value in common", "compare like with like", node.at)

    def member(self, node: Node) -> Term:
        left = self.term(node.args[0])
        if left.op == "const":
            raise self.fail("compares two constants", "the left side must be a field or a metric", node.at)
        items: list[Term] = []
        for item in node.args[1:]:
            term = self.coerce(item, self.term(item), left.type)
            if term.op != "const":
                raise self.fail("a list holds constants only", "join comparisons with `or`", item.at)
            items.append(term)
        return Term(node.op, BOOLEAN, (left, *items))

    def negate(self, node: Node) -> Term:
        term = self.term(node.args[0])
        number = self.number(term) if term.type == NUMBER else None
        if number is not None:
            return Term("const", NUMBER, value=-number)
        if term.type.kind not in _ORDERED:
            raise self.fail(f"`-` does not work on {term.type}", "", node.at)
        return Term("negate", term.type, (term,))

    def arithmetic(self, node: Node) -> Term:
        left, right = node.args
        one, two = self.term(left), self.term(right)
        if one.op == "const" and two.op == "const":
            return self.fold(node, one, two)
        for side, term in ((left, one), (right, two)):
            if term.op != "const" and term.type.kind not in _ORDERED:
                raise self.fail(f"`{node.op}` does not work on {term.type}", "", side.at)
        if node.op == "*":
            if one.type.kind == two.type.kind == "money":
                raise self.fail("money times money has no unit", "multiply by a whole number", node.at)
            one = self.coerce(left, one, INTEGER) if one.op == "const" else one
            two = self.coerce(right, two, INTEGER) if two.op == "const" else two
            return Term("*", two.type if two.type.kind == "money" else one.type, (one, two))
        if node.op == "%":
            two = self.coerce(right, two, one.type) if one.op != "const" else two
            if two.op != "const" or not isinstance(two.value, int) or two.value <= 0:
                raise self.fail("`%` needs a positive constant on its right", "a number or p.NAME", right.at)
            return Term("%", one.type, (one, two))
        one, two = self.pair(node, left, right)
        return Term(node.op, one.type, (one, two))

    def fold(self, node: Node, one: Term, two: Term) -> Term:
        """Return the exact value of arithmetic on constants, still without a unit."""
        a, b = self.number(one), self.number(two)
        if a is None or b is None:
            raise self.fail(f"`{node.op}` works on numbers", "", node.at)
        if node.op == "%" and b <= 0:
            raise self.fail("`%` needs a positive constant on its right", "a number or p.NAME", node.at)
        value = a + b if node.op == "+" else a - b if node.op == "-" else a * b if node.op == "*" else a % b
        return Term("const", NUMBER, value=self.bounded(node, value))
