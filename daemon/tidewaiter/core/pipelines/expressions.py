"""From the text of an expression to columns: the grammar of scenario conditions, with functions, over typed columns.

Owns: names, constants, and/or/not, comparisons, membership and arithmetic. Leaves to `scenarios.expressions` the
grammar, to `functions` the calls, to `mixing` which types may stand together, and to `numbers` exact arithmetic.

Null means unknown: a comparison with it is unknown, `and`, `or` and `not` follow Kleene (false and unknown is false,
true or unknown is true), and arithmetic with it gives null. is_null(), is_set() and coalesce() ask for it.
"""

from __future__ import annotations

import keyword
import operator
import re
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.pipelines import numbers
from tidewaiter.core.pipelines.columns import BOOLEAN, INTEGER, STRING, Schema
from tidewaiter.core.pipelines.constants import as_constant
from tidewaiter.core.pipelines.expression_types import (
    NO_GROUND,
    Compiled,
    Ground,
    Part,
    Setting,
    made,
)
from tidewaiter.core.pipelines.functions import call, column_part
from tidewaiter.core.pipelines.mixing import EXACT, alike, common_type
from tidewaiter.core.scenarios.expressions import ALLOWED, Fail, Node, parse_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tidewaiter.core.errors import ConfigError

MAX_WEIGHT: Final = 20_000
_ALLOWED: Final = (
    "allowed: and or not, comparisons, + - * %, in (...), in list.NAME, columns, numbers, 'texts', true, false, and "
    "functions such as upper(x)"
)
_OPERATORS: Final[dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MIRRORED: Final = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_UNORDERED: Final = ("string", "boolean")
_TEXT_OR_WORD: Final = re.compile(r"'[^']*'?|\"[^\"]*\"?|[^\W\d]\w*")
_NO_EXPRESSION: Final = "is not an expression"
_FEW: Final = 8
"""So many texts are found quicker by comparing a column with each than by looking its texts up among them."""
_OWN_WORDS: Final = frozenset(("and", "or", "not", "in", "is", "if", "else", "True", "False", "None"))
"""Words that a person may well have meant as such; every other keyword of Python can only be the name of a column."""


def compile_expression(text: str, schema: Schema, fail: Fail, *, ground: Ground = NO_GROUND) -> Compiled:
    """Return `text` compiled for rows with the columns `schema`.

    Raises what `fail` makes of (problem, hint, character of the text) for the first fault.
    """
    part = _part(parsed(text, fail, schema), Setting(schema, fail, ground))
    if part.weight > MAX_WEIGHT:
        raise fail("is too large", "derive its parts in a step before", 0)
    return Compiled(part.stored, part.type, part.problems, part.names)


def parsed(text: str, fail: Fail, columns: Collection[str] = ()) -> Node:
    """Return the tree of `text`, with functions; `columns` are those that it may name.

    Raises what `fail` makes of the first fault, also of a column whose name is a word of the grammar: ``class``.
    """

    def said(problem: str, hint: str, at: int) -> ConfigError:
        hint = _ALLOWED if hint == ALLOWED else hint
        for match in _TEXT_OR_WORD.finditer(text) if problem.startswith(_NO_EXPRESSION) else ():
            word = match[0]
            if keyword.iskeyword(word) and (word in columns or word not in _OWN_WORDS):
                return fail(f"{word!r} is no plain name here", f"write column({word!r})", match.start())
        return fail(problem, hint, at)

    return parse_expression(text, said, calls=True)


def _part(node: Node, setting: Setting) -> Part:
    """Return the part that `node` stands for; one that reads no column is a constant, whatever it is made of."""
    part = _read(node, setting)
    if part.names or part.type is None or part.constant is not None:
        return part
    if part.weight > MAX_WEIGHT:
        raise setting.fail("is too large", "write what it gives", node.at)
    found = pl.select(part.stored.alias("value"), *(bad.alias(str(n)) for n, (bad, _) in enumerate(part.problems)))
    for place, (_, problem) in enumerate(part.problems):
        if found[str(place)][0]:
            raise setting.fail(problem, "", node.at)
    value = found["value"][0]
    if isinstance(value, Decimal) or (isinstance(value, int) and part.type == INTEGER):
        return numbers.constant(Fraction(value), part.type, node.at)
    constant = value if isinstance(value, str | bool) else None
    return Part(pl.lit(found["value"]).first(), part.type, node.at, constant)


def _read(node: Node, setting: Setting) -> Part:
    match node.op:
        case "name":
            return column_part(str(node.value), node.at, setting)
        case "number" if isinstance(node.value, Fraction):
            column = numbers.number_type(node.value)
            if column is None:
                raise setting.fail("is not a number that can be used here", "use fewer digits", node.at)
            return numbers.constant(node.value, column, node.at)
        case "text":
            return Part(pl.lit(str(node.value)), STRING, node.at, str(node.value))
        case "truth":
            return Part(pl.lit(node.value is True), BOOLEAN, node.at, node.value is True)
        case "and" | "or" | "not":
            return _logic(node, setting)
        case "compare":
            return _comparison(node, setting)
        case "in" | "not in" | "listed" | "not listed":
            return _membership(node, setting)
        case "negate":
            return numbers.negated(_number(_part(node.args[0], setting), setting), node.at)
        case "+" | "-" | "*" | "%":
            return _arithmetic(node, setting)
        case "call":
            return call(str(node.value), node, tuple(_part(arg, setting) for arg in node.args), setting)
    raise setting.fail("a name has no point in it here", _ALLOWED, node.at)  # p.x, a.x


def _logic(node: Node, setting: Setting) -> Part:
    parts = [_part(arg, setting) for arg in node.args]
    for part in parts:
        if part.type != BOOLEAN:
            raise setting.fail(f"{node.op!r} needs conditions; this is {_a(part)}", "compare it: x > 0", part.at)
    if node.op == "not":
        return made(node.at, ~parts[0].expr, BOOLEAN, *parts)
    joined = reduce(operator.and_ if node.op == "and" else operator.or_, (part.expr for part in parts))
    return made(node.at, joined, BOOLEAN, *parts)


def _comparison(node: Node, setting: Setting) -> Part:
    parts = [_part(arg, setting) for arg in node.args]
    words = node.value if isinstance(node.value, tuple) else ()
    pairs = [_compared(op, left, right, setting) for op, left, right in zip(words, parts, parts[1:], strict=False)]
    return made(node.at, reduce(operator.and_, (pair.expr for pair in pairs)), BOOLEAN, *pairs)


def _compared(op: str, left: Part, right: Part, setting: Setting) -> Part:
    for part in (left, right):
        if part.type is None:
            raise setting.fail("nothing() cannot be compared", "write is_null(x) or is_set(x)", part.at)
    if left.constant is not None and right.constant is None:
        left, right, op = right, left, _MIRRORED[op]
    if right.constant is not None and left.kind in EXACT:
        value = as_constant(right, left, setting)
        if isinstance(value, Fraction):
            return made(left.at, numbers.compared(op, left, value), BOOLEAN, left)
    column = common_type((left, right), setting)
    if column.kind in _UNORDERED and op not in ("==", "!="):
        raise setting.fail(f"{column.kind}s have no order here", "only == and != compare them", left.at)
    if column.kind == "decimal":  # polars compares decimals of different scales exactly
        sides = [part.stored.cast(pl.Decimal(38, 0)) if part.type == INTEGER else part.stored for part in (left, right)]
        return made(left.at, _OPERATORS[op](*sides), BOOLEAN, left, right)
    same = alike((left, right), column, setting)
    return made(left.at, _OPERATORS[op](same[0].stored, same[1].stored), BOOLEAN, *same)


def _membership(node: Node, setting: Setting) -> Part:
    left = _part(node.args[0], setting)
    if left.type is None or left.kind in ("boolean", "float"):
        raise setting.fail(f"`in` is not for {_a(left)}", "compare it with ==", left.at)
    if node.op in ("listed", "not listed"):
        expr = left.stored.is_in(_listed(node.args[1], left, setting).implode())
    else:
        expr = _one_of(left, [_part(arg, setting) for arg in node.args[1:]], setting)
    return made(node.at, ~expr if node.op.startswith("not") else expr, BOOLEAN, left)


def _one_of(left: Part, items: Sequence[Part], setting: Setting) -> pl.Expr:
    """Return the condition that `left` is one of the constants `items`."""
    values = []
    for item in items:
        if item.constant is None:
            raise setting.fail("`in` needs constants", "write in ('a', 'b')", item.at)
        values.append(as_constant(item, left, setting))
    if left.kind in EXACT:
        exact = [numbers.compared("==", left, value) for value in values if isinstance(value, Fraction)]
        return reduce(operator.or_, exact)
    if left.type == STRING and left.weight == 1 and len(values) <= _FEW:
        return reduce(operator.or_, [left.stored == pl.lit(value) for value in values])
    return left.stored.is_in(pl.Series(values, dtype=left.type.dtype if left.type else None).implode())


def _listed(node: Node, left: Part, setting: Setting) -> pl.Series:
    """Return what the reference list that `node` names has in the column that is looked up."""
    name = str(node.value)
    found = setting.ground.lists.get(name)
    if found is None:
        raise setting.fail(f"there is no list {name!r}", "declare it: [list]", node.at)
    if found.schema[found.key] != left.type:
        problem = f"{found.key} of list.{name} is {found.schema[found.key]}, this is {left.type}"
        raise setting.fail(problem, "cast one to the other", left.at)
    return found.frame[found.key].drop_nulls()


def _arithmetic(node: Node, setting: Setting) -> Part:
    left, right = (_part(arg, setting) for arg in node.args)
    if node.op == "+" and left.type == STRING and right.type == STRING:
        return made(node.at, left.expr + right.expr, STRING, left, right)
    left, right = _number(left, setting), _number(right, setting)
    if node.op == "*":
        return numbers.multiplied(left, right, node.at, setting)
    if node.op != "%":
        return numbers.added(node.op, left, right, node.at, setting)
    divisor = right.constant
    if left.type != INTEGER or right.type != INTEGER or not isinstance(divisor, Fraction) or divisor <= 0:
        raise setting.fail("% takes an integer by a positive number", "for example: account % 97", node.at)
    return numbers.remainder(left, int(divisor), node.at)


def _number(part: Part, setting: Setting) -> Part:
    if part.kind in EXACT:
        return part
    hint = "numbers stand without quotes" if isinstance(part.constant, str) else "cast it to integer or decimal(n)"
    if part.kind == "float":
        hint = "floats are not exact: cast it to decimal(n)"
    if part.type is None:
        hint = "leave it out"
    raise setting.fail(f"cannot be computed with: it is {_a(part)}", hint, part.at)


def _a(part: Part) -> str:
    return "nothing" if part.type is None else f"a {part.type}" if part.kind != "integer" else "an integer"
