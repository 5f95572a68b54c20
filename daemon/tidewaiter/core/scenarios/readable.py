"""Conditions as people read them: cut into the parts that must all hold, with numbers in the place of names, and terms
written as text again.

Owns: working on the text of a condition that was accepted, and writing that of a term. Leaves to `expressions` what is
accepted, to `terms` what it means; the parts stand in the order of `Term.conjuncts`.
"""  # noqa: D205 - one sentence

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

from tidewaiter.core.scenarios.flags import told_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidewaiter.core.scenarios.terms import Term

# quoted texts and numbers first, so that nothing in them is taken for a name
_TOKEN: Final = re.compile(
    r"(?P<text>'[^']*'|\"[^\"]*\")|(?P<space>(?:\s|#[^\n]*)+)|(?P<number>[0-9][0-9_.]*)"
    r"|(?P<name>(?:[pa]\.|list\.)?[A-Za-z_]\w*)"
)
_WORDS: Final = frozenset({"and", "or", "not", "in", "true", "false"})


def one_line(text: str) -> str:
    """Return the condition on one line, without its remarks."""
    return _TOKEN.sub(lambda found: " " if found["space"] else found[0], text).strip()


def conjuncts(text: str) -> tuple[str, ...]:
    """Return the parts of an accepted condition that must all hold, each on one line."""
    source = f"({text}\n)"
    found: list[str] = []
    todo: list[ast.expr] = [ast.parse(source, mode="eval").body]
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            todo[:0] = node.values
        else:
            found.append(one_line(ast.get_source_segment(source, node) or ""))
    return tuple(found)


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return the condition with the value of each name that `values` has: a field, a metric, ``p.x`` or ``a.x``."""

    def value(found: re.Match[str]) -> str:
        name = found["name"]
        return values.get(name, name) if name and name not in _WORDS else found[0]

    return _TOKEN.sub(value, text)


def names(text: str) -> tuple[str, ...]:
    """Return the names in an accepted condition, each once, in the order they come."""
    found = (match["name"] for match in _TOKEN.finditer(text))
    return tuple(dict.fromkeys(name for name in found if name and name not in _WORDS))


_STRENGTH: Final = {"or": 1, "and": 2, "not": 3, "+": 5, "-": 5, "*": 6, "%": 6, "negate": 7}
_COMPARED: Final = 4  # how strongly comparison and membership bind
_ALONE: Final = 8


def term_text(term: Term, needed: int = 0) -> str:
    """Return a term as a condition says it; a derived field and a metric by their names.

    `needed` is how strongly it must bind to need no brackets: 2 as a part of ``and``.
    """
    compared = term.op in _MEMBERSHIP or term.op == "compare"
    strength = _STRENGTH.get(term.op, _COMPARED if compared else _ALONE)
    inside = [strength + (compared or (at > 0 and term.op in "+-*%")) for at in range(len(term.args))]
    args = [term_text(arg, least) for arg, least in zip(term.args, inside, strict=True)]
    match term.op:
        case "const":
            text = _constant(term)
        case "field" | "derived" | "metric":
            text = str(term.value)
        case "earlier":
            text = f"a.{term.value}"
        case "present":
            text = f"{term.value} is there"
        case "flagged":
            text = f"held({', '.join(term.value if isinstance(term.value, tuple) else ())})"
        case "listed" | "not listed":
            text = f"{args[0]} {_MEMBERSHIP[term.op]} list.{term.value}"
        case "in" | "not in":
            text = f"{args[0]} {term.op} ({', '.join(args[1:])})"
        case "compare":
            operators = term.value if isinstance(term.value, tuple) else ()
            text = args[0] + "".join(f" {sign} {arg}" for sign, arg in zip(operators, args[1:], strict=True))
        case "not":
            text = f"not {args[0]}"
        case "negate":
            text = f"-{args[0]}"
        case _:
            text = f" {term.op} ".join(args)
    return f"({text})" if strength < needed else text


def _constant(term: Term) -> str:
    if term.type.kind == "duration" and isinstance(term.value, int):
        size, unit = next((size, unit) for size, unit in _UNITS if term.value % size == 0)
        return f"'{term.value // size}{unit}'"
    quoted = isinstance(term.value, str) and term.type.kind != "number"
    return f"'{term.value}'" if quoted else told_text(term.type, term.value)


_UNITS: Final = (
    (86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms"), (1, "us"),
)  # fmt: skip
_MEMBERSHIP: Final = {"in": "in", "not in": "not in", "listed": "in", "not listed": "not in"}
