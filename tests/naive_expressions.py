"""Conditions and quantities of rules, worked out by walking their text.

Owns: reading an expression, three-valued logic, arithmetic and comparison. Every number is an exact fraction: money in
major units, durations in seconds. Unknown is None. Shares no code with the product and checks nothing: what comes here
has been accepted by `tidewaiter check`.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Value = Fraction | str | bool | None

SECONDS: Final = {
    "us": Fraction(1, 1_000_000), "ms": Fraction(1, 1_000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3_600),
    "d": Fraction(86_400),
}  # fmt: skip
DURATION: Final = re.compile(r"(\d+)(us|ms|s|m|h|d)")


@dataclass(frozen=True)
class NamedList:
    """A list of texts; with `prefix` a text is in it if it starts with an entry."""

    entries: tuple[str, ...]
    prefix: bool

    def holds(self, text: str) -> bool:
        """Say whether `text` is in the list."""
        return any(text.startswith(entry) if self.prefix else text == entry for entry in self.entries)


@dataclass(frozen=True)
class Scope:
    """What an expression can name: `name` gives fields and metrics, `earlier` the fields of the first event (`a.x`)."""

    name: Callable[[str], Value]
    lists: Mapping[str, NamedList]
    params: Mapping[str, Value] = field(default_factory=dict)
    earlier: Mapping[str, Value] = field(default_factory=dict)


@functools.cache
def parse(text: str) -> ast.expr:
    """Return the expression; it may run over several lines."""
    return ast.parse(f"({text}\n)", mode="eval").body


def number(value: Value) -> Fraction | None:
    """Return what is meant by a number, an amount written as text, or a duration ('90d'), in seconds."""
    if isinstance(value, str):
        found = DURATION.fullmatch(value)
        return int(found[1]) * SECONDS[found[2]] if found else Fraction(Decimal(value))
    assert not isinstance(value, bool)
    return value


def evaluate(text: str, scope: Scope) -> Value:
    """Return the value of the expression `text`."""
    return _value(parse(text), scope)


def nodes(texts: Iterable[str]) -> Iterator[ast.AST]:
    """Yield every part of every expression."""
    for text in texts:
        yield from ast.walk(parse(text))


def _value(node: ast.expr, scope: Scope) -> Value:  # noqa: PLR0911 - one return for each form
    match node:
        case ast.Constant(value=float() as decimal):
            return Fraction(repr(decimal))
        case ast.Constant(value=int() as whole):
            return Fraction(whole)
        case ast.Constant(value=str() as text):
            return text
        case ast.Name(id="true" | "false"):
            return node.id == "true"
        case ast.Name():
            return scope.name(node.id)
        case ast.Attribute(value=ast.Name(id="p"), attr=param):
            return scope.params[param]
        case ast.Attribute(value=ast.Name(id="a"), attr=name):
            return scope.earlier[name]
        case ast.BoolOp(op=ast.And()):
            return every(_truth(part, scope) for part in node.values)
        case ast.BoolOp(op=ast.Or()):
            return negated(every(negated(_truth(part, scope)) for part in node.values))
        case ast.UnaryOp(op=ast.Not()):
            return negated(_truth(node.operand, scope))
        case ast.UnaryOp(op=ast.USub()):
            value = number(_value(node.operand, scope))
            return None if value is None else -value
        case ast.BinOp():
            return _calculated(node.op, number(_value(node.left, scope)), number(_value(node.right, scope)))
        case ast.Compare():
            operands = [node.left, *node.comparators]
            pairs = zip(operands, node.ops, operands[1:], strict=False)
            return every(_compared(left, how, right, scope) for left, how, right in pairs)
    raise AssertionError(ast.dump(node))


def _truth(node: ast.expr, scope: Scope) -> bool | None:
    value = _value(node, scope)
    assert value is None or isinstance(value, bool)
    return value


def every(parts: Iterable[bool | None]) -> bool | None:
    """Return the three-valued conjunction: one false makes it false, else one unknown makes it unknown."""
    seen = list(parts)
    if False in seen:
        return False
    return None if None in seen else True


def negated(value: bool | None) -> bool | None:
    """Return the three-valued negation."""
    return None if value is None else not value


def _calculated(how: ast.operator, left: Fraction | None, right: Fraction | None) -> Fraction | None:
    if left is None or right is None:
        return None
    match how:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Mod():
            return left % right
    raise AssertionError(how)


def _compared(left_node: ast.expr, how: ast.cmpop, right_node: ast.expr, scope: Scope) -> bool | None:
    left = _value(left_node, scope)
    if isinstance(how, ast.In | ast.NotIn):
        found = _among(left, right_node, scope)
        return negated(found) if isinstance(how, ast.NotIn) else found
    right = _value(right_node, scope)
    if left is None or right is None:
        return None
    if isinstance(left, Fraction) or isinstance(right, Fraction):
        return _ordered(number(left), how, number(right))
    return left == right if isinstance(how, ast.Eq) else left != right


def _among(left: Value, right_node: ast.expr, scope: Scope) -> bool | None:
    if left is None:
        return None
    if isinstance(right_node, ast.Attribute):  # list.NAME
        assert isinstance(left, str)
        return scope.lists[right_node.attr].holds(left)
    assert isinstance(right_node, ast.Tuple)
    choices = [_value(each, scope) for each in right_node.elts]
    if isinstance(left, Fraction):
        return left in [number(choice) for choice in choices]
    return left in choices


def _ordered(left: Fraction | None, how: ast.cmpop, right: Fraction | None) -> bool:
    assert left is not None
    assert right is not None
    match how:
        case ast.Eq():
            return left == right
        case ast.NotEq():
            return left != right
        case ast.Lt():
            return left < right
        case ast.LtE():
            return left <= right
        case ast.Gt():
            return left > right
        case ast.GtE():
            return left >= right
    raise AssertionError(how)
