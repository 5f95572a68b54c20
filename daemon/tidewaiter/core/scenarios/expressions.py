"""From the text of a condition to a small tree: the standard library's `ast` under an allow-list.

Owns: which constructs there are and the limits on size and depth. Leaves to `checking` what names mean and whether
types fit. The Python grammar is used for its familiar precedence only; the text is never compiled or run.

Allowed: and, or, not; == != < <= > >= (chains too); + - * %; `in` and `not in` a list of constants; names; `p.name`;
whole and decimal numbers, quoted texts, true and false. All else is refused by the fall-through, so that a construct
that a later Python adds is refused too. Backslashes and non-ASCII names are refused, so that a text means what it
shows.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tidewaiter.core.errors import ConfigError

MAX_LENGTH: Final = 2000
MAX_DEPTH: Final = 50
ALLOWED: Final = "allowed: and or not, comparisons, + - * %, in (...), fields, metrics, p.NAME, numbers, 'texts'"

Fail = Callable[[str, str, int], ConfigError]  # problem, hint, character of the text

_NUMBER: Final = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,9})?\Z")
_COMPARISONS: Final[dict[type[ast.cmpop], str]] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_ARITHMETIC: Final[dict[type[ast.operator], str]] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Mod: "%"}
_REFUSED: Final[dict[type[ast.AST], str]] = {
    ast.Call: "functions cannot be called here; aggregates are declared under [metric]",
    ast.Div: "there is no division; multiply the other side instead: a * 4 >= b * 3",
    ast.FloorDiv: "there is no division; multiply the other side instead: a * 4 >= b * 3",
    ast.Pow: "there is no power",
    ast.Attribute: "only p.NAME may have a point in it",
    ast.JoinedStr: "texts are plain: 'abc'",
}


@dataclass(frozen=True)
class Node:
    """One construct; `op` names it, `at` is the character of the text it begins at.

    number (Fraction), text, truth, name, param carry `value`; compare carries its operators; the rest only `args`.
    """

    op: str
    at: int
    args: tuple[Node, ...] = ()
    value: Fraction | str | bool | tuple[str, ...] | None = None


def parse_number(text: str) -> Fraction | None:
    """Return the exact value of a plain decimal such as ``-1_000.25``, None if `text` is not one."""
    plain = text.replace("_", "")
    sign, plain = (-1, plain[1:]) if plain.startswith("-") else (1, plain)
    return sign * Fraction(plain) if _NUMBER.match(plain) else None


def parse_expression(text: str, fail: Fail) -> Node:
    """Return the tree of `text`. Raises what `fail` returns for anything that is not allowed."""
    return _Reader(text, fail).node(_python_tree(text, fail))


def parse_function(text: str, fail: Fail) -> tuple[str, ...] | None:
    """Read a metric's `fn`: None for ``count``, the scenario ids for ``count(flags, of=['a', 'b'])``."""
    allowed = "allowed: count, count(flags, of=['ID', ...])"
    tree = _python_tree(text, fail)
    match tree:
        case ast.Name(id="count"):
            return None
        case ast.Call(
            func=ast.Name(id="count"),
            args=[ast.Name(id="flags")],
            keywords=[ast.keyword(arg="of", value=ast.List(elts=[_, *_] as items) | ast.Tuple(elts=[_, *_] as items))],
        ):
            ids = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]
            if len(ids) == len(items):
                return tuple(ids)
    raise fail("is not a function of metrics", allowed, 0)


def _python_tree(text: str, fail: Fail) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise fail(f"is {len(text)} characters long", f"at most {MAX_LENGTH}", 0)
    if "\\" in text:
        raise fail("a backslash is not allowed", ALLOWED, text.index("\\"))
    if not text.strip():
        raise fail("is empty", ALLOWED, 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # `1or 2` and the like only warn; here they are mistakes
            # brackets let an expression run over several lines
            tree = ast.parse(f"({text}\n)", mode="eval").body
    except SyntaxError as error:
        at = _character(text, error.lineno or 1, None, (error.offset or 1) - 1)
        raise fail(f"is not an expression: {error.msg}", ALLOWED, at) from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise fail(f"is not an expression: {error}", ALLOWED, 0) from None
    if tree.lineno == 1 and tree.col_offset == 0:  # our bracket was closed by the text: `a) or (b`, or opens a tuple
        raise fail("is not one expression", ALLOWED, 0)
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
    raise fail("is nested too deeply", f"at most {MAX_DEPTH} levels", 0)


def _character(text: str, line: int, byte: int | None, column: int = 0) -> int:
    """Return the character of `text` for a line and UTF-8 byte (or character `column`) of the bracketed text."""
    lines = text.split("\n")
    if line > len(lines):  # the closing bracket
        return max(len(text) - 1, 0)
    row = line - 1
    shift = 1 if row == 0 else 0  # the bracket
    if byte is not None:
        column = len((("(" * shift) + lines[row]).encode()[:byte].decode("utf-8", "ignore"))
    return min(sum(len(before) + 1 for before in lines[:row]) + max(column - shift, 0), max(len(text) - 1, 0))


class _Reader:
    """Turns the allowed part of a Python tree into Nodes."""

    def __init__(self, text: str, fail: Fail) -> None:
        self.text, self.fail = text, fail

    def at(self, tree: ast.expr) -> int:
        return _character(self.text, tree.lineno, tree.col_offset)

    def written(self, tree: ast.expr) -> str:
        return self.text[self.at(tree) : _character(self.text + " ", tree.end_lineno or 1, tree.end_col_offset)]

    def refuse(self, tree: ast.AST, near: ast.expr) -> ConfigError:
        why = _REFUSED.get(type(tree), ALLOWED)
        return self.fail(f"{type(tree).__name__} is not allowed", why, self.at(near))

    def node(self, tree: ast.expr) -> Node:
        at = self.at(tree)
        match tree:
            case ast.BoolOp(op=op, values=values):
                return Node("and" if isinstance(op, ast.And) else "or", at, tuple(map(self.node, values)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Node("not", at, (self.node(operand),))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Node("negate", at, (self.node(operand),))
            case ast.BinOp(left=left, op=op, right=right):
                if type(op) not in _ARITHMETIC:
                    raise self.refuse(op, tree)
                return Node(_ARITHMETIC[type(op)], at, (self.node(left), self.node(right)))
            case ast.Compare():
                return self.comparison(tree, at)
            case ast.Attribute(value=ast.Name(id="p"), attr=attr):
                if self.written(tree) != f"p.{attr}":
                    raise self.fail("is not a usable parameter name", "write p.NAME in plain letters", at)
                return Node("param", at, value=attr)
            case ast.Name(id=name):
                if self.written(tree) != name:  # Python reads look-alike letters as plain ones
                    raise self.fail(f"{self.written(tree)!r} is not a usable name", "use plain letters", at)
                if name in ("true", "false"):
                    return Node("truth", at, value=name == "true")
                return Node("name", at, value=name)
            case ast.Constant():
                return self.constant(tree, at)
        raise self.refuse(tree, tree)

    def constant(self, tree: ast.Constant, at: int) -> Node:
        value = tree.value
        if isinstance(value, bool):
            return Node("truth", at, value=value)
        if isinstance(value, str):
            if self.written(tree)[1:-1] != value:  # prefixes, triple quotes, and 'a' 'b' that reads as 'ab'
                raise self.fail("is not a plain text", "write 'abc'", at)
            return Node("text", at, value=value)
        number = parse_number(self.written(tree)) if isinstance(value, int | float) else None
        if number is None:
            hint = "write plain digits, at most 18 before the point and 9 after it"
            raise self.fail("is not a number that can be used here", hint, at)
        return Node("number", at, value=number)

    def comparison(self, tree: ast.Compare, at: int) -> Node:
        member = [op for op in tree.ops if isinstance(op, ast.In | ast.NotIn)]
        if member:
            if len(tree.ops) > 1:
                raise self.fail("`in` cannot stand in a chain of comparisons", "join the parts with `and`", at)
            items = tree.comparators[0]
            if not isinstance(items, ast.Tuple | ast.List) or not items.elts:
                hint = "write in ('a', 'b'); a list of one needs its comma: in ('a',)"
                raise self.fail("`in` needs a list of constants", hint, self.at(items))
            inside = (self.node(tree.left), *map(self.node, items.elts))
            return Node("in" if isinstance(member[0], ast.In) else "not in", at, inside)
        for op in tree.ops:
            if type(op) not in _COMPARISONS:
                raise self.refuse(op, tree)
        operands = (self.node(tree.left), *map(self.node, tree.comparators))
        return Node("compare", at, operands, tuple(_COMPARISONS[type(op)] for op in tree.ops))
