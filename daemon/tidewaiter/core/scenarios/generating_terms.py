"""Terms in Python: values, and conditions that may be unknown.

Owns: the text of an expression. Leaves to `generating_scenarios` and `generating_metrics` where it stands, and to
`checking` that it cannot fail.

What may be unknown is None, and a condition on it is said with a test for None in front, so that the text is ordinary
two-valued Python: "it is true", "it is false", "it is not false" and "it is not true" are four different texts, and
Kleene's logic is in how they combine. What cannot be unknown is said plainly.

Names in the text: ``f_NAME`` a field that is read more than once, ``n3`` the value of the metric in cell 3, ``b1`` a
derived field, ``h2`` scenario 2 held, ``a3`` the candidate of an `after`, ``l0`` a list, ``u0`` a duration.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from tidewaiter.core.scenarios.terms import BOOLEAN, Term

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.planning import Plan

LOOSE: Final = 0
TIGHT: Final = 9
AND: Final = 2
_OR, _NOT, _COMPARE = 1, 3, 4
_PRECEDENCE: Final = {
    "or": _OR,
    "flagged": _OR,
    "and": AND,
    "not": _NOT,
    "present": _COMPARE,
    "compare": _COMPARE,
    "in": _COMPARE,
    "not in": _COMPARE,
    "listed": _COMPARE,
    "not listed": _COMPARE,
    "+": 5,
    "-": 5,
    "*": 6,
    "%": 6,
    "negate": 7,
}
_LEAVES: Final = ("field", "derived", "metric", "earlier")
_LOGIC: Final = ("and", "or", "not")


def bracketed(text: str, own: int, around: int) -> str:
    """Return `text`, whose loosest operator is `own`, as it can stand beside an operator `around`."""
    return f"({text})" if own <= around else text


class Terms:
    """The texts of one ruleset's terms, and what they need around them."""

    def __init__(self, plan: Plan, contract: Contract) -> None:
        """Nothing was said yet."""
        self.plan, self.contract = plan, contract
        self.used: Counter[str] = Counter()  # how often each field was said
        self.cached: frozenset[str] = frozenset()  # fields that are read once, at the beginning of an event
        self.derived: dict[str, tuple[int, Term]] = {}  # those in use, in the order in which they are computed
        self.lists: dict[str, int] = {}
        self.durations: dict[int, int] = {}  # microseconds -> number
        self.candidate = ""  # of the `after` at hand
        self.candidate_fields: tuple[str, ...] = ()
        self.sure: frozenset[str] = frozenset()  # metrics that have a value wherever the text at hand is reached
        self._spare = 0

    # -- values --------------------------------------------------------------------------------------------------------

    def field(self, name: str) -> str:
        """Return the text of a field."""
        if name in self.plan.money_columns:
            return f"f_{name}"
        self.used[name] += 1
        return f"f_{name}" if name in self.cached else f"event.{self.contract.attribute(name)}"

    def metric(self, key: str) -> str:
        """Return the name that holds a metric's value as its cell gives it, without its default."""
        return f"n{self.plan.cell_of[key]}"

    def leaf(self, term: Term) -> str:
        """Return the text of a field, derived field, metric or field of the candidate."""
        name = str(term.value)
        match term.op:
            case "field":
                return self.field(name)
            case "derived":
                if name not in self.derived:
                    for inner in term.args[0].walk():  # those that it needs come first
                        if inner.op == "derived":
                            self.leaf(inner)
                    self.derived[name] = len(self.derived), term.args[0]
                return f"b{self.derived[name][0]}"
            case "earlier":
                return f"{self.candidate}[{self.candidate_fields.index(name) + 1}]"
        metric = self.plan.checked.metrics[name]
        text = self.metric(name)
        if metric.type.kind == "duration":
            text = f"({text} // us)"
        if metric.default is not None and name not in self.sure:
            return f"({metric.default!r} if {self.metric(name)} is None else {text})"
        return text

    def constant(self, value: object) -> str:
        """Return the text of a constant."""
        # a negative constant is bracketed so that it stands like a name
        return f"({value!r})" if isinstance(value, int) and value < 0 else repr(value)

    def plain(self, term: Term, around: int = LOOSE) -> str:
        """Return the text of a term none of whose values is unknown (as far as the text is reached)."""
        own = _PRECEDENCE.get(term.op, TIGHT)
        return bracketed(self._bare(term, own), own, around)

    def _bare(self, term: Term, own: int) -> str:  # noqa: PLR0911 - one return per construct
        match term.op:
            case "const":
                return self.constant(term.value)
            case "spare":
                return str(term.value)
            case "field" | "derived" | "metric" | "earlier":
                return self.leaf(term)
            case "flagged":
                ids = term.value if isinstance(term.value, tuple) else ()
                return " or ".join(f"h{self.plan.index_of[item]}" for item in dict.fromkeys(ids))
            case "present":
                return f"{self.field(str(term.value))} is not None"
            case "not":
                return f"not {self.plain(term.args[0], own)}"
            case "negate":
                return f"-{self.plain(term.args[0], own)}"
            case "compare":
                return self._compare(term, own)
            case "in" | "not in":
                items = ", ".join(self.plain(arg) for arg in term.args[1:])
                return f"{self.plain(term.args[0], own)} {term.op} {{{items}}}"  # a set of constants is built only once
            case "listed" | "not listed":
                return self._listed(term, own)
        # `and` and `or` chain; the left operand of arithmetic needs no brackets at the same level
        first = self.plain(term.args[0], own if term.op in ("and", "or") else own - 1)
        return first + "".join(f" {term.op} {self.plain(arg, own)}" for arg in term.args[1:])

    def _compare(self, term: Term, own: int) -> str:
        operators = term.value if isinstance(term.value, tuple) else ()
        if all(self._is_span(arg) for arg in term.args):  # times are compared as they are, sparing a division
            texts = [self._span(arg) for arg in term.args]
        else:
            texts = [self.plain(arg, own) for arg in term.args]
        return texts[0] + "".join(f" {op} {text}" for op, text in zip(operators, texts[1:], strict=True))

    def _is_span(self, term: Term) -> bool:
        return term.type.kind == "duration" and term.op in ("const", "metric")

    def _span(self, term: Term) -> str:
        if term.op == "const":
            return self._duration(term.value)
        default = self.plan.checked.metrics[str(term.value)].default
        text = self.metric(str(term.value))
        return (
            text
            if default is None or term.value in self.sure
            else f"({self._duration(default)} if {text} is None else {text})"
        )

    def _duration(self, value: object) -> str:
        number = self.durations.setdefault(int(str(value)), len(self.durations))
        return f"u{number}"

    def _listed(self, term: Term, own: int) -> str:
        name = str(term.value)
        number = self.lists.setdefault(name, len(self.lists))
        if self.plan.checked.lists[name].prefix:
            text = f"l{number}({self.plain(term.args[0])})"
            return text if term.op == "listed" else f"not {text}"
        return f"{self.plain(term.args[0], own)} {'in' if term.op == 'listed' else 'not in'} l{number}"

    # -- what may be unknown -------------------------------------------------------------------------------------------

    def is_open(self, term: Term) -> bool:
        """Whether a term may be unknown here."""
        return term.op == "present" or (term.unknowable and any(True for _ in self._unknowns(term)))

    def value(self, term: Term) -> str:
        """Return the text of a value; None where it is unknown."""
        if not self.is_open(term) or (term.op in _LEAVES and term.type.kind != "duration"):
            return self.plain(term)
        if term.type == BOOLEAN:
            return f"True if {self.condition(term)} else None if {self.condition(term, lenient=True)} else False"
        return f"None if {' or '.join(self.missing(term))} else {self.plain(term)}"

    def missing(self, term: Term) -> list[str]:
        """Return a test for None of each value in a term that may be unknown, each once."""
        return [f"{text} is None" for text in dict.fromkeys(self._unknowns(term))]

    def _unknowns(self, term: Term) -> Iterable[str]:
        for arg in (term,) if term.op in _LEAVES else term.args:
            if arg.op == "metric" and arg.unknowable:
                if arg.value not in self.sure:
                    yield self.metric(str(arg.value))
            elif arg.op in _LEAVES and arg.unknowable:
                yield self.leaf(arg)
            elif arg.unknowable:
                yield from self._unknowns(arg)

    def unknown(self, term: Term) -> list[str]:
        """Return tests of which one holds where a condition that is not false is unknown."""
        if term.op == "compare" and len(term.args) == 2 and not any(arg.type == BOOLEAN for arg in term.args):  # noqa: PLR2004 - no chain
            return self.missing(term)
        if term.op in _LEAVES:
            return [f"{self.leaf(term)} is None"]
        return [self.condition(term, want=False, lenient=True, around=_OR)]

    def condition(self, term: Term, *, want: bool = True, lenient: bool = False, around: int = LOOSE) -> str:
        """Return a text that is true exactly where `term` is `want`; or may be, for all that is known, if `lenient`."""
        if not self.is_open(term):
            return self.plain(term, around) if want else bracketed(f"not {self.plain(term, _NOT)}", _NOT, around)
        match term.op:
            case "not":
                return self.condition(term.args[0], want=not want, lenient=lenient, around=around)
            case "and" | "or":
                joiner = "and" if (term.op == "and") is want else "or"
                own = _PRECEDENCE[joiner]
                parts = [self.condition(arg, want=want, lenient=lenient, around=own) for arg in term.args]
                return bracketed(f" {joiner} ".join(parts), own, around)
            case "present":  # unknown where the field is absent, else true
                if want:
                    return "True" if lenient else bracketed(f"{self.field(str(term.value))} is not None", 4, around)
                return bracketed(f"{self.field(str(term.value))} is None", 4, around) if lenient else "False"
        if term.op in _LEAVES:
            name = self.leaf(term)
            if want is not lenient:
                return name if want else bracketed(f"not {name}", _NOT, around)
            return bracketed(f"{name} is {'not False' if want else 'False'}", _COMPARE, around)
        return self._strict(term, want=want, lenient=lenient, around=around)

    def _strict(self, term: Term, *, want: bool, lenient: bool, around: int) -> str:
        """Say a condition that is unknown as soon as one of its values is."""
        if term.op == "compare" and len(term.args) > 2:  # noqa: PLR2004 - a chain: neighbours are compared
            operators = term.value if isinstance(term.value, tuple) else ()
            pairs = zip(term.args, term.args[1:], operators, strict=False)
            parts = tuple(Term("compare", BOOLEAN, (left, right), (operator,)) for left, right, operator in pairs)
            return self.condition(Term("and", BOOLEAN, parts), want=want, lenient=lenient, around=around)
        tests, args = [], []
        for arg in term.args:
            if arg.type == BOOLEAN and arg.op not in _LEAVES and self.is_open(arg):  # (a < b) == c
                self._spare += 1
                tests.append(f"(v{self._spare} := {self.value(arg)}) is None")
                args.append(Term("spare", BOOLEAN, value=f"v{self._spare}"))
            else:
                tests += self.missing(arg) if arg.unknowable else []
                args.append(arg)
        bare = Term(term.op, term.type, tuple(args), term.value)
        joiner = "or" if lenient else "and"
        own = _PRECEDENCE[joiner]
        if not lenient:
            tests = [text.removesuffix("None") + "not None" for text in tests]
        said = self.plain(bare, own) if want else f"not {self.plain(bare, _NOT)}"
        return bracketed(f" {joiner} ".join([*dict.fromkeys(tests), said]), own, around)
