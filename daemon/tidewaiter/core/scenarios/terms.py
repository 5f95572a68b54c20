"""Typed terms: what a checked expression is, in one shape for planning and generating.

Owns: the types of the language and the term tree. Leaves to `checking` how a term is made, to `planning` what it means
for identity (digests), and to `generating` what it becomes in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction


@dataclass(frozen=True)
class Type:
    """boolean, integer, money (of `scale` decimals), string, enum (of `values`); number and text are constants that
    have not yet met the field they are compared with.
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
            "number": "a number",
            "text": "a text",
        }[self.kind]

    @property
    def label(self) -> str:
        """The part of the type that gives a stored value its meaning, as it enters digests."""
        return f"money({self.scale})" if self.kind == "money" else self.kind


BOOLEAN: Final = Type("boolean")
INTEGER: Final = Type("integer")
STRING: Final = Type("string")
NUMBER: Final = Type("number")
TEXT: Final = Type("text")


@dataclass(frozen=True)
class Term:
    """A typed node, told apart by `op`.

    const: `value` is an int (minor units for money), str or bool (a Fraction while the type is number);
    field, metric: `value` is the name; flagged: `value` is the ids of scenarios of which one must have held;
    not, and, or, negate, + - * %, in, not in: `args`; compare: `args` and, in `value`, the operators between them.
    """

    op: str
    type: Type
    args: tuple[Term, ...] = ()
    value: Fraction | int | str | bool | tuple[str, ...] | None = None

    def walk(self) -> Iterator[Term]:
        """Yield this term and everything in it."""
        yield self
        for arg in self.args:
            yield from arg.walk()

    def names(self, op: str) -> set[str]:
        """Return the names of the fields (`op` "field") or metrics ("metric") in this term."""
        return {str(term.value) for term in self.walk() if term.op == op}

    @property
    def conjuncts(self) -> tuple[Term, ...]:
        """The parts that must all hold."""
        if self.op != "and":
            return (self,)
        return tuple(part for arg in self.args for part in arg.conjuncts)


def conjunction(parts: tuple[Term, ...]) -> Term | None:
    """Return the term that holds when all `parts` do; None for no parts (always)."""
    return parts[0] if len(parts) == 1 else Term("and", BOOLEAN, parts) if parts else None
