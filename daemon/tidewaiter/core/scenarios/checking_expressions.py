"""Names, types and units: from one expression to a term that cannot fail when it runs.

Owns: what a name means, which types go together, constants in their unit. Leaves to `checking_ground` what may stand
where, to `checking_metrics` what a metric is and to `checking_scenarios` which expressions there are.

Rules:
- money meets only money of the same scale, or a constant in major units; money x money has no unit;
- money x a whole number, and every sum of equals, keeps its unit; `%` takes a positive constant;
- a duration meets durations only, and is added and subtracted only;
- an enum is compared with its own values only; texts and truth values know == and != (and `in`) only;
- constants are folded exactly, so that a term has no constant arithmetic left;
- no quantity can grow beyond MAX_BITS, so that it can always be written down;
- a metric with a `cap` stands only in comparisons that the cap cannot change.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tidewaiter.core.scenarios.checking_ground import GROUPING, Ground, Params, Place, may_be_absent, type_of, usable
from tidewaiter.core.scenarios.expressions import MAX_DEPTH, Node, parse_duration, parse_expression, parse_number
from tidewaiter.core.scenarios.tables import MAX_NUMBER
from tidewaiter.core.scenarios.terms import (
    BOOLEAN,
    CHAIN,
    DURATION,
    INTEGER,
    MAX_BITS,
    NUMBER,
    OPEN,
    STRING,
    TEXT,
    Term,
    Type,
)
from tidewaiter.core.toml_source import KeyPath, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.scenarios.model import Metric

MAX_PARTS: Final = 2000
ORDERED: Final = ("integer", "money", "duration")
_LEAF_BITS: Final = {"field": 64, "earlier": 64, "metric": 128}  # a sum of 2**63 values of 64 bits
_FLIPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


class Scope:
    """One expression, where it stands, and which names it may use.

    `metric` finds a metric that is named at a node; `earlier` collects the fields read as ``a.x``, None where there is
    no earlier event.
    """

    def __init__(
        self,
        ground: Ground,
        path: KeyPath,
        text: str,
        place: Place,
        *,
        params: Params | None = None,
        metric: Callable[[str, Node, Scope], Metric] | None = None,
        earlier: set[str] | None = None,
        about: str = "",
    ) -> None:
        """`about` goes before every problem: for whom a shared text is read."""
        self.ground, self.path, self.text, self.place = ground, path, text, place
        self.params, self.find_metric, self.earlier_names, self.about = params, metric, earlier, about
        self.terms: dict[int, Term] = {}  # by the id of the node
        self.caps: dict[str, int] = {}  # by key
        self.compared: set[int] = set()  # ids of the nodes that stand directly in a comparison

    def fail(self, problem: str, hint: str, at: int) -> ConfigError:
        """Return the error at character `at` of the text."""
        return self.ground.source.error(self.path, self.about + problem, hint=hint, at=at)

    def blame(self, node: Node, problem: str, hint: str) -> ConfigError:
        """Return the error about what `node` says: it points at the segment where that gave the value."""
        origin = self.params.origins.get(str(node.value)) if node.op == "param" and self.params else None
        return (
            self.fail(problem, hint, node.at)
            if origin is None
            else self.ground.source.error(origin, problem, hint=hint)
        )

    def node(self) -> Node:
        """Return the tree of the text; it is parsed once."""
        found = self.ground.nodes.get(self.path)
        if found is None:
            found = self.ground.nodes[self.path] = parse_expression(self.text, self.fail)
        return found

    def condition(self) -> Term:
        """Return a truth value."""
        return self.sized(self.boolean(self.node()))

    def quantity(self, wanted: Type | None = None) -> Term:
        """Return a whole number, money or a duration; of the type `wanted`, or else not a mere constant."""
        node = self.node()
        term = self.sized(self.term(node))
        if wanted is not None:
            return self.coerce(node, term, wanted)
        if term.type.kind not in ORDERED or term.op == "const":
            raise self.fail(f"is {term.type}", "needs a field, a metric or arithmetic with one", node.at)
        return term

    def sized(self, term: Term) -> Term:
        """Return `term` unless it, with the derived fields in it, is too much to be worked with."""
        if term.depth > MAX_DEPTH:
            raise self.fail("is nested too deeply with its derived fields", f"at most {MAX_DEPTH} levels", 0)
        if term.size > MAX_PARTS:
            raise self.fail(f"has {term.size} parts with its derived fields", f"at most {MAX_PARTS}", 0)
        return term

    def boolean(self, node: Node) -> Term:
        """Return a truth value."""
        term = self.term(node)
        if term.type not in (BOOLEAN, OPEN):
            raise self.fail(f"is {term.type}, not a condition", "compare it with something", node.at)
        return self.remember(node, term) if term.op == "const" else term

    def term(self, node: Node) -> Term:
        """Return the typed form of any node; it is found once, however often it is asked for."""
        found = self.terms.get(id(node))
        if found is None:
            found = self.terms[id(node)] = self.typed(node)
        return found

    def typed(self, node: Node) -> Term:  # noqa: PLR0911 - one return per construct
        """Find the typed form of a node."""
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
            case "earlier":
                return self.earlier(node)
            case "name":
                return self.name(node)
            case "compare":
                return self.compare(node)
            case "in" | "not in":
                return self.member(node)
            case "listed" | "not listed":
                return self.listed(node)
            case "negate":
                return self.negate(node)
        return self.arithmetic(node)

    # -- names ---------------------------------------------------------------------------------------------------------

    def name(self, node: Node) -> Term:
        """Return what a bare name stands for."""
        name, ground = str(node.value), self.ground
        item = ground.contract.by_name.get(name)
        if item is not None:
            if why := usable(item):
                raise self.fail(f"{name} {why}", "choose another field", node.at)
            return Term("field", type_of(item), value=name, absent=may_be_absent(item))
        if name in ground.derived:
            return ground.derived[name]
        if name in ground.metric_names:
            if self.place.metrics:
                raise self.fail(f"{name} is a metric", self.place.metrics, node.at)
            return self.metric(name, node)
        raise self.fail(f"there is nothing called {name!r}", self.known(name), node.at)

    def metric(self, name: str, node: Node) -> Term:
        """Return a metric; one with a cap only where it is compared."""
        if self.find_metric is None:
            raise self.fail(f"{name} is a metric", "name a field", node.at)
        found = self.find_metric(name, node, self)
        if found.cap:
            self.caps[found.key] = found.cap
            if id(node) not in self.compared:
                problem = f"{name} has a cap, so it can only be compared with a constant or a parameter"
                raise self.fail(problem, "remove the cap, or use a metric without one here", node.at)
        return Term("metric", found.type, value=found.key, absent=found.unknowable)

    def earlier(self, node: Node) -> Term:
        """Return a field of the earlier event."""
        name = str(node.value)
        if self.place.earlier:
            raise self.fail(f"a.{name} cannot be read here", self.place.earlier, node.at)
        if self.earlier_names is None:
            hint = "declare it: after = { where = \"...\", within = '1d' }"
            raise self.fail(f"a.{name} needs an earlier event", hint, node.at)
        item = self.ground.contract.by_name.get(name)
        if item is None:
            raise self.fail(f"the earlier event has no field {name!r}", nearest(name, self.ground.fields()), node.at)
        if why := usable(item):
            raise self.fail(f"{name} {why}", "choose another field", node.at)
        self.earlier_names.add(name)
        return Term("earlier", type_of(item), value=name, absent=may_be_absent(item))

    def known(self, name: str) -> str:
        """Return the hint for a name that stands for nothing."""
        if self.params is not None and name in self.params.values:
            return f"a parameter is written p.{name}"
        if name in self.ground.lists:
            return f"a list is written list.{name}, after `in`"
        if name in self.ground.later:
            return f"a derived field knows those above it only: move {name} up"
        for item in self.ground.contract.fields:
            if name in item.values:
                return f"a text needs quotes: '{name}'"
        names = self.ground.fields() + list(self.ground.derived)
        hint = nearest(name, names if self.place.metrics else names + self.ground.metric_names)
        text = f"if it is a text: '{name}'"
        return f"{hint}; {text}" if hint.startswith("did you") else f"{text}; {hint}"

    def param(self, node: Node) -> Term:
        """Return a parameter, its type still open."""
        name = str(node.value)
        if self.params is None:
            raise self.fail(f"p.{name} cannot be used here", self.place.params or "write the value itself", node.at)
        if not self.params.open and name not in self.params.values:
            raise self.fail(f"there is no parameter {name!r}", nearest(name, self.params.values), node.at)
        return self.params.term(name)

    # -- types ---------------------------------------------------------------------------------------------------------

    def coerce(self, node: Node, term: Term, wanted: Type) -> Term:
        """Return `term` as `wanted`, a constant in its unit. Raises where they do not go together."""
        kind, have = wanted.kind, term.type
        if have == wanted or (have.kind in GROUPING and kind in GROUPING):
            return self.remember(node, term)
        if have == OPEN:
            return Term("const", wanted)
        if have == TEXT and kind == "enum" and term.value not in wanted.values:
            hint = nearest(str(term.value), wanted.values)
            raise self.blame(node, f"{term.value!r} is not a value of the field", hint)
        if have == TEXT and kind in GROUPING:
            return self.remember(node, Term("const", wanted, value=term.value))
        if have == TEXT and kind == "duration":
            return self.remember(node, Term("const", DURATION, value=self.duration(node, str(term.value))))
        number = self.number(term)
        if number is not None and (kind == "money" or (kind == "integer" and have == NUMBER)):
            units = number * 10**wanted.scale
            if units.denominator != 1:
                what = f"has more than {wanted.scale} decimals" if kind == "money" else "is not a whole number"
                raise self.blame(node, what, "multiply the other side instead" if kind == "integer" else "round it")
            return self.remember(node, Term("const", wanted, value=self.bounded(node, units).numerator))
        if have.kind == kind == "money":
            raise self.fail(f"is {have}, the other side is {wanted}", "money of one scale goes together", node.at)
        hint = "compare like with like"
        if have == TEXT and kind == "integer":
            hint = "whole numbers are written without quotes"
        if have == NUMBER and kind == "duration":
            hint = "a duration is written in quotes, with its unit: '90d', '1500ms'"
        raise self.blame(node, f"is {have}, but {wanted} is needed here", hint)

    def remember(self, node: Node, term: Term) -> Term:
        """Note as what a parameter is used; it cannot be two things."""
        if node.op == "param" and self.params is not None and not self.params.open:
            name = str(node.value)
            shown = STRING if term.type.kind in GROUPING else term.type  # the values of an enum do not matter here
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

    def duration(self, node: Node, text: str) -> int:
        """Return the microseconds of a text."""
        value = parse_duration(text)
        if value is None:
            hint = "a whole number and us, ms, s, m, h or d, at most 100 years, for example '90d', '1500ms'"
            raise self.blame(node, f"{text!r} is not a duration", hint)
        return value

    def bounded(self, node: Node, value: Fraction) -> Fraction:
        """Return `value` unless it is too large for a constant."""
        if abs(value) > MAX_NUMBER:
            raise self.blame(node, "is too large a number", f"at most {MAX_NUMBER} (money: minor units)")
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
        """Return a comparison, or the conjunction of those of a chain."""
        operators = node.value if isinstance(node.value, tuple) else ()
        self.compared.update(map(id, node.args))
        pairs = [self.pair(node, left, right) for left, right in pairwise(node.args)]  # a chain compares neighbours
        for (left, right), operator, nodes in zip(pairs, operators, pairwise(node.args), strict=True):
            if operator not in ("==", "!=") and left.type.kind not in ORDERED:
                raise self.fail(f"`{operator}` does not order {left.type}", "use == or !=", nodes[1].at)
            if "enum" in (left.type.kind, right.type.kind):
                self.overlap(node, left, right)
            self.saturation(left, operator, right, nodes[1])
            self.saturation(right, _FLIPPED.get(operator, operator), left, nodes[0])
        if all(one[1] == two[0] for one, two in pairwise(pairs)):
            return Term("compare", BOOLEAN, (pairs[0][0], *(right for _, right in pairs)), operators)
        # a constant in the middle of a chain can be money to its left and a whole number to its right
        parts = (Term("compare", BOOLEAN, pair, (op,)) for pair, op in zip(pairs, operators, strict=True))
        return Term("and", BOOLEAN, tuple(parts), CHAIN)

    def overlap(self, node: Node, left: Term, right: Term) -> None:
        """Two enums without a common value are never equal: a mistake."""
        if left.type.values and right.type.values and not set(left.type.values) & set(right.type.values):
            raise self.fail("the two fields have no value in common", "compare like with like", node.at)

    def saturation(self, left: Term, operator: str, right: Term, at: Node) -> None:
        """A capped metric `left` may only meet constants that all values from the cap up meet alike."""
        cap = self.caps.get(str(left.value)) if left.op == "metric" else None
        if cap is None:
            return
        name = str(left.value).partition("#")[0]
        if right.op != "const" or not isinstance(right.value, int):
            hint = "compare it with a constant or a parameter, or remove the cap"
            raise self.fail(f"{name} has a cap, which could change this comparison", hint, at.at)
        largest = cap if operator in (">=", "<") else cap - 1
        if right.value > largest:
            problem = f"{name} stops at its cap {cap}, so `{operator} {right.value}` could be wrong"
            raise self.blame(at, problem, f"compare with at most {largest}, or raise the cap")

    def member(self, node: Node) -> Term:
        """Return membership in a list of constants."""
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

    def listed(self, node: Node) -> Term:
        """Return membership in a declared list."""
        side, named = node.args
        left, name = self.term(side), str(named.value)
        if name not in self.ground.lists:
            raise self.fail(f"there is no list {name!r}", nearest(name, self.ground.lists), named.at)
        if left.op == "const" or left.type.kind not in GROUPING:
            what = "is a constant" if left.op == "const" else f"is {left.type}"
            raise self.fail(what, "a list is asked for a string or enum field, or a metric of one", side.at)
        return Term(node.op, BOOLEAN, (left,), value=name)

    # -- arithmetic ----------------------------------------------------------------------------------------------------

    def negate(self, node: Node) -> Term:
        """Return a quantity with its sign changed."""
        term = self.term(node.args[0])
        number = self.number(term) if term.type == NUMBER else None
        if number is not None:
            return Term("const", NUMBER, value=-number)
        if term.type == OPEN:
            return term
        if term.type.kind not in ("integer", "money"):
            raise self.fail(f"`-` does not work on {term.type}", "it works on numbers and money", node.at)
        return Term("negate", term.type, (term,))

    def arithmetic(self, node: Node) -> Term:
        """Return a sum, difference, product or remainder."""
        left, right = node.args
        one, two = self.term(left), self.term(right)
        if one.op == "const" and two.op == "const":
            return self.fold(node, one, two)
        fits = ORDERED if node.op in ("+", "-") else ("integer", "money")
        for side, term in ((left, one), (right, two)):
            if term.op != "const" and term.type.kind not in fits:
                raise self.fail(
                    f"`{node.op}` does not work on {term.type}", f"it works on {' and '.join(fits)}", side.at
                )
        if node.op == "*":
            if one.type.kind == two.type.kind == "money":
                raise self.fail("money times money has no unit", "multiply by a whole number", node.at)
            one = self.coerce(left, one, INTEGER) if one.op == "const" else one
            two = self.coerce(right, two, INTEGER) if two.op == "const" else two
            return self.written(node, Term("*", two.type if two.type.kind == "money" else one.type, (one, two)))
        if node.op == "%":
            return self.remainder(right, one, two)
        one, two = self.pair(node, left, right)
        return self.written(node, Term(node.op, one.type, (one, two)))

    def written(self, node: Node, term: Term) -> Term:
        """Return `term` unless it could become too long to be written down."""
        if bits(term) > MAX_BITS:
            raise self.fail("multiplies too much: the result could have over 300 digits", "use fewer factors", node.at)
        return term

    def remainder(self, right: Node, one: Term, two: Term) -> Term:
        """Return `one` modulo the positive constant `two`, which stands at `right`."""
        known = two.type != OPEN
        two = self.coerce(right, two, one.type) if one.op != "const" else two
        if two.op != "const" or (known and (not isinstance(two.value, int) or two.value <= 0)):
            raise self.blame(right, "`%` needs a positive constant on its right", "a number or p.NAME")
        return Term("%", one.type, (one, two))

    def fold(self, node: Node, one: Term, two: Term) -> Term:
        """Return the exact value of arithmetic on constants, still without a unit."""
        if OPEN in (one.type, two.type):
            return Term("const", OPEN)
        if node.op in ("+", "-") and (time := self.fold_durations(node, one, two)) is not None:
            return time
        a, b = self.number(one), self.number(two)
        if a is None or b is None:
            raise self.fail(f"`{node.op}` works on numbers", "write both sides as numbers", node.at)
        if node.op == "%" and b <= 0:
            raise self.fail("`%` needs a positive constant on its right", "a number or p.NAME", node.at)
        value = a + b if node.op == "+" else a - b if node.op == "-" else a * b if node.op == "*" else a % b
        return Term("const", NUMBER, value=self.bounded(node, value))

    @staticmethod
    def fold_durations(node: Node, one: Term, two: Term) -> Term | None:
        """Return the sum or difference of two constant durations, None if they are none."""
        parts = []
        for term in (one, two):
            text = parse_duration(str(term.value)) if term.type == TEXT else None
            value = term.value if term.type == DURATION else text
            if not isinstance(value, int):
                return None
            parts.append(value)
        a, b = parts
        return Term("const", DURATION, value=a + b if node.op == "+" else a - b)


def bits(term: Term) -> int:
    """Return how many bits a quantity may need, whatever the stream holds."""
    sizes = [bits(arg) for arg in term.args]
    match term.op:
        case "const":
            return abs(term.value).bit_length() if isinstance(term.value, int) else 64
        case "*":
            return sum(sizes)
        case "+" | "-":
            return max(sizes) + 1
        case "negate":
            return sizes[0]
        case "%":
            return sizes[1]
    return _LEAF_BITS.get(term.op, 64)
