"""Typed terms: what a checked expression is, in one shape for planning and generating.

Owns: the types of the language and the term tree. Leaves to the rooms of `checking` how a term is made, to `planning`
what it means for identity (digests), and to `generating` what it becomes in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

MAX_BITS: Final = 1024
"""No quantity that is accepted can grow beyond this many bits (309 digits), whatever the stream holds."""
MAX_DIGITS: Final = 309


@dataclass(frozen=True)
class Type:
    """boolean, integer, money (of `scale` decimals), string, enum (of `values`), duration (microseconds); number and
    text are constants that have not yet met what they are compared with, open is a parameter of a template.
    """  # noqa: D205 - one paragraph reads better than a forced summary line

    kind: str
    scale: int = 0
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        return {
            "boolean": "a truth value",
            "integer": "a whole number",
            "money": f"money with {self.scale} decimals",
            "string": "a text",
            "enum": "one of " + ", ".join(self.values),
            "duration": "a duration",
            "number": "a number",
            "text": "a text",
            "open": "a parameter",
        }[self.kind]

    @property
    def label(self) -> str:
        """The part of the type that gives a stored value its meaning, as it enters digests."""
        return f"money({self.scale})" if self.kind == "money" else self.kind


BOOLEAN: Final = Type("boolean")
INTEGER: Final = Type("integer")
STRING: Final = Type("string")
DURATION: Final = Type("duration")
NUMBER: Final = Type("number")
TEXT: Final = Type("text")
OPEN: Final = Type("open")
CHAIN: Final = "chain"
"""The value of an ``and`` that was written as one chain of comparisons."""


@dataclass(frozen=True)
class Term:
    """A typed node, told apart by `op`.

    const: `value` is an int (minor units for money, microseconds for durations), str or bool (a Fraction while the type
    is number); field: `value` is the name; derived: the name, with what it stands for in `args`; metric: its key;
    earlier: the name of a field of the earlier event (``a.x``); flagged: the ids of scenarios of which one must have
    held; listed, not listed: `args` is the left side, `value` the list's name; not, and, or, negate, + - * %, in,
    not in: `args`; compare: `args` and, in `value`, the operators between them.

    `absent` is set on a field, metric or earlier that may have no value.
    """

    op: str
    type: Type
    args: tuple[Term, ...] = ()
    value: Fraction | int | str | bool | tuple[str, ...] | None = None
    absent: bool = False

    @cached_property
    def unknowable(self) -> bool:
        """Whether the value may be unknown (None) at run time."""
        return self.absent or any(arg.unknowable for arg in self.args)

    @cached_property
    def depth(self) -> int:
        """How many levels there are, those of derived fields included."""
        return 1 + max((arg.depth for arg in self.args), default=0)

    @cached_property
    def size(self) -> int:
        """How many terms there are as generated: a derived field counts with all that it stands for, and a condition
        that may be unknown and is itself compared counts twice, for it is said twice.
        """  # noqa: D205 - one paragraph reads better than a forced summary line
        twice = self.op in ("compare", "in", "not in")
        return 1 + sum(
            arg.size * (2 if twice and arg.args and arg.type == BOOLEAN and arg.unknowable else 1) for arg in self.args
        )

    def walk(self) -> Iterator[Term]:
        """Yield this term and everything in it."""
        yield self
        for arg in self.args:
            yield from arg.walk()

    def names(self, op: str) -> set[str]:
        """Return the names of the fields (`op` "field") or the keys of the metrics ("metric") in this term."""
        return {str(term.value) for term in self.walk() if term.op == op}

    def lists(self) -> set[str]:
        """Return the names of the lists in this term."""
        return self.names("listed") | self.names("not listed")

    @property
    def conjuncts(self) -> tuple[Term, ...]:
        """The parts that must all hold, as they were written: a chain of comparisons is one of them."""
        if self.op != "and" or self.value == CHAIN:
            return (self,)
        return tuple(part for arg in self.args for part in arg.conjuncts)

    @property
    def said(self) -> tuple[Term, ...]:
        """The parts that must all hold, derived fields taken for what they stand for."""
        if self.op == "derived":
            return self.args[0].said
        return (self,) if self.op != "and" else tuple(part for arg in self.args for part in arg.said)


def conjunction(parts: tuple[Term, ...]) -> Term | None:
    """Return the term that holds when all `parts` do; None for no parts (always)."""
    return parts[0] if len(parts) == 1 else Term("and", BOOLEAN, parts) if parts else None
