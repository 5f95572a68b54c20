"""From the text of a condition to a small tree: the standard library's `ast` under an allow-list.

Owns: which constructs there are and the limits on size and depth. Leaves to `checking` what names mean and whether
types fit. The Python grammar is used for its familiar precedence only; the text is never compiled or run.

Allowed: and, or, not; == != < <= > >= (chains too); + - * %; `in` and `not in` a list of constants or `list.name`;
names; `p.name`; `a.name`; whole and decimal numbers, quoted texts, true and false; calls of functions where the caller
has any. All else is refused by the fall-through, so that a construct that a later Python adds is refused too.
Backslashes, control characters and non-ASCII names are refused, so that a text means what it shows.

Also here: the texts of functions (`count`, `sum(f)`, `count(flags, of=[...])`), of durations and of reasons
("{near} deposits"), each with its own small grammar.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.toml_source import nearest

MAX_LENGTH: Final = 2000
MAX_DEPTH: Final = 50
ALLOWED: Final = (
    "allowed: and or not, comparisons, + - * %, in (...), in list.NAME, "
    "fields, metrics, p.NAME, a.NAME, numbers, 'texts'"
)
FUNCTIONS: Final = (
    "count", "sum", "min", "max", "distinct", "last", "since_previous", "since_first",
)  # fmt: skip
MAX_MICROSECONDS: Final = 100 * 366 * 86_400_000_000

Fail = Callable[[str, str, int], ConfigError]  # problem, hint, character of the text

_ALLOWED_FUNCTIONS: Final = (
    "allowed: count, sum(F), min(F), max(F), distinct(F), last(F), since_previous, since_first, "
    "count(flags, of=['ID', ...]), sum(F, of=['ID', ...])"
)
_BARE: Final = ("count", "since_previous", "since_first")
_DURATION: Final = re.compile(r"(0|[1-9][0-9]{0,17})(us|ms|s|m|h|d)\Z")
_MICROSECONDS: Final = {
    "us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000,
}  # fmt: skip
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLACEHOLDER: Final = re.compile(r"(?:([pa])\.)?([A-Za-z][A-Za-z0-9_]*)\Z")
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
    ast.Attribute: "only p.NAME, a.NAME and, after `in`, list.NAME may have a point in them",
    ast.JoinedStr: "texts are plain: 'abc'",
}


@dataclass(frozen=True)
class Node:
    """One construct; `op` names it, `at` is the character of the text it begins at.

    number (Fraction), text, truth, name, param, earlier, list carry `value`; compare carries its operators, call the
    name of its function; listed and not listed have the left side and the list as `args`; the rest have only `args`.
    """

    op: str
    at: int
    args: tuple[Node, ...] = ()
    value: Fraction | str | bool | tuple[str, ...] | None = None

    def walk(self) -> Iterator[Node]:
        """Yield this node and everything in it."""
        yield self
        for arg in self.args:
            yield from arg.walk()


@dataclass(frozen=True)
class Function:
    """What a metric computes: `field` is what is aggregated, `of` the scenarios whose events count (None: any event).

    Each name comes with the character of the text it begins at.
    """

    name: str
    field: tuple[str, int] | None = None
    of: tuple[tuple[str, int], ...] | None = None


def parse_number(text: str) -> Fraction | None:
    """Return the exact value of a plain decimal such as ``-1_000.25``, None if `text` is not one."""
    plain = text.replace("_", "")
    sign, plain = (-1, plain[1:]) if plain.startswith("-") else (1, plain)
    return sign * Fraction(plain) if _NUMBER.match(plain) else None


def parse_expression(text: str, fail: Fail, *, calls: bool = False) -> Node:
    """Return the tree of `text`. Raises what `fail` returns for anything that is not allowed.

    With `calls`, functions may be called with arguments in order: ``upper(country)``; the caller knows which there are.
    """
    return _Reader(text, fail, calls=calls).node(_python_tree(text, fail))


def parse_duration(text: str) -> int | None:
    """Return the microseconds of a text such as ``90d`` or ``1500ms``, None if it is none (or over 100 years)."""
    match = _DURATION.match(text)
    value = int(match[1]) * _MICROSECONDS[match[2]] if match else None
    return value if value is not None and value <= MAX_MICROSECONDS else None


def parse_function(text: str, fail: Fail) -> Function:
    """Read a metric's `fn`. Raises what `fail` returns for anything that is none."""
    tree = _python_tree(text, fail)
    reader = _Reader(text, fail)
    match tree:
        case ast.Name():
            name = reader.plain_name(tree)
            if name in _BARE:
                return Function(name)
            if name in FUNCTIONS:
                raise fail(f"{name} needs a field", f"write {name}(FIELD)", 0)
        case ast.Call(func=ast.Name() as func, args=arguments, keywords=keywords):
            name = reader.plain_name(func)
            if name in FUNCTIONS:
                return _call(reader, tree, name, arguments, keywords)
        case _:
            raise fail("is not a function of metrics", _ALLOWED_FUNCTIONS, 0)
    raise fail(f"there is no function {name!r}", nearest(name, FUNCTIONS, listing=_ALLOWED_FUNCTIONS), reader.at(tree))


def _call(
    reader: _Reader, tree: ast.expr, name: str, arguments: list[ast.expr], keywords: list[ast.keyword]
) -> Function:
    form = {"count": "count, or count(flags, of=['ID', ...])", "sum": "sum(FIELD), or sum(FIELD, of=['ID', ...])"}
    usage = f"write {form.get(name, name if name in _BARE else f'{name}(FIELD)')}"
    if name in ("since_previous", "since_first") or len(arguments) != 1:
        raise reader.fail("has other arguments than it can have", usage, reader.at(tree))
    if not isinstance(arguments[0], ast.Name):
        raise reader.fail("a function takes the name of a field", usage, reader.at(arguments[0]))
    first = (reader.plain_name(arguments[0]), reader.at(arguments[0]))
    of: tuple[tuple[str, int], ...] | None = None
    for word in keywords:
        if word.arg != "of" or name not in form or of is not None:
            raise reader.fail(f"does not take {word.arg or '**'}", usage, reader.at(word.value))
        of = _ids(reader, word.value, usage)
    if name == "count":
        if first[0] != "flags" or of is None:
            raise reader.fail("counts events, not a field", usage, first[1])
        return Function(name, None, of)
    return Function(name, first, of)


def _ids(reader: _Reader, tree: ast.expr, usage: str) -> tuple[tuple[str, int], ...]:
    items = tree.elts if isinstance(tree, ast.List | ast.Tuple) else []
    nodes = [reader.node(item) for item in items]
    ids = tuple((node.value, node.at) for node in nodes if node.op == "text" and isinstance(node.value, str))
    if not ids or len(ids) != len(nodes):
        raise reader.fail("`of` is a list of scenario ids", usage, reader.at(tree))
    for place, (item, at) in enumerate(ids):
        if item in [before for before, _ in ids[:place]]:
            raise reader.fail(f"{item} is named twice", "name it once", at)
    return ids


def parse_template(text: str, fail: Fail) -> tuple[str | Node, ...]:
    """Return the pieces of a reason text: plain texts and, for ``{x}``, ``{p.x}`` and ``{a.x}``, nodes in turn."""
    allowed = "allowed in braces: a field, a metric, p.NAME, a.NAME; a brace itself is written twice: {{ }}"
    if bad := _CONTROL.search(text):
        raise fail("a control character is not allowed", allowed, bad.start())
    pieces: list[str | Node] = [""]

    def literal(more: str) -> None:
        if isinstance(pieces[-1], str):
            pieces[-1] += more
        else:
            pieces.append(more)

    at = 0
    while at < len(text):
        character = text[at]
        if character not in "{}":
            literal(character)
        elif text[at : at + 2] in ("{{", "}}"):
            literal(character)
            at += 1
        else:
            end = text.find("}", at)
            if character == "}" or end < 0:
                raise fail("has a brace without its partner", allowed, at)
            match = _PLACEHOLDER.match(text[at + 1 : end])
            if match is None:
                raise fail(f"{{{text[at + 1 : end]}}} cannot be filled in", allowed, at)
            op = {"p": "param", "a": "earlier"}.get(match[1], "name")
            pieces.append(Node(op, at + 1, value=match[2]))
            at = end
        at += 1
    return tuple(piece for piece in pieces if piece != "")


def _python_tree(text: str, fail: Fail) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise fail(f"is {len(text)} characters long", f"at most {MAX_LENGTH}", 0)
    if "\\" in text:
        raise fail("a backslash is not allowed", ALLOWED, text.index("\\"))
    if bad := _CONTROL.search(text):
        raise fail("a control character is not allowed", ALLOWED, bad.start())
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

    def __init__(self, text: str, fail: Fail, *, calls: bool = False) -> None:
        self.text, self.fail, self.calls = text, fail, calls

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
            case ast.Attribute(value=ast.Name(id="p" | "a" as base), attr=attr):
                if self.written(tree) != f"{base}.{attr}":
                    raise self.fail("is not a usable name", f"write {base}.NAME in plain letters", at)
                return Node("param" if base == "p" else "earlier", at, value=attr)
            case ast.Attribute(value=ast.Name(id="list")):
                raise self.fail("a list stands only after `in`", "for example: country in list.high_risk", at)
            case ast.Name():
                name = self.plain_name(tree)
                if name in ("true", "false"):
                    return Node("truth", at, value=name == "true")
                return Node("name", at, value=name)
            case ast.Constant():
                return self.constant(tree, at)
            case ast.Call(func=ast.Name() as func, args=arguments, keywords=[]) if self.calls:
                return Node("call", at, tuple(map(self.node, arguments)), self.plain_name(func))
        raise self.refuse(tree, tree)

    def plain_name(self, tree: ast.Name) -> str:
        if self.written(tree) != tree.id:  # Python reads look-alike letters as plain ones
            raise self.fail(f"{self.written(tree)!r} is not a usable name", "use plain letters", self.at(tree))
        return tree.id

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
            word = "in" if isinstance(member[0], ast.In) else "not in"
            if isinstance(items, ast.Attribute) and isinstance(items.value, ast.Name) and items.value.id == "list":
                return self.listed(tree.left, items, word, at)
            if not isinstance(items, ast.Tuple | ast.List) or not items.elts:
                hint = "write in ('a', 'b') or in list.NAME; a list of one needs its comma: in ('a',)"
                raise self.fail("`in` needs a list of constants", hint, self.at(items))
            inside = (self.node(tree.left), *map(self.node, items.elts))
            return Node(word, at, inside)
        for op in tree.ops:
            if type(op) not in _COMPARISONS:
                raise self.refuse(op, tree)
        operands = (self.node(tree.left), *map(self.node, tree.comparators))
        return Node("compare", at, operands, tuple(_COMPARISONS[type(op)] for op in tree.ops))

    def listed(self, left: ast.expr, right: ast.Attribute, word: str, at: int) -> Node:
        if self.written(right) != f"list.{right.attr}":
            raise self.fail("is not a usable name", "write list.NAME in plain letters", self.at(right))
        named = Node("list", self.at(right), value=right.attr)
        return Node("listed" if word == "in" else "not listed", at, (self.node(left), named))
