"""The functions of pipeline expressions: their names, what they take, and finding and checking a call.

Owns: the table of functions, the checks on arguments, and the functions on any type (conditions, null, columns). Leaves
to `functions_text`, `functions_days` and `functions_numbers` what the others compute.

All are pure: the same arguments give the same value, whatever the clock, the locale or the rows around.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.pipelines import functions_days as days
from tidewaiter.core.pipelines import functions_numbers as amounts
from tidewaiter.core.pipelines import functions_text as texts
from tidewaiter.core.pipelines.columns import BOOLEAN, Schema
from tidewaiter.core.pipelines.expression_types import Part, Problems, Setting, made, problems_of
from tidewaiter.core.pipelines.function_arguments import Call, check
from tidewaiter.core.pipelines.mixing import alike, common_type
from tidewaiter.core.toml_source import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.scenarios.expressions import Node


@dataclass(frozen=True)
class Function:
    """A function: how it is written, what each argument must be (see `function_arguments`), and what it computes.

    With `more`, the last kind of argument may be repeated.
    """

    usage: str
    takes: tuple[str, ...]
    build: Callable[[Call], Part]
    more: bool = False


def column_part(name: str, at: int, setting: Setting) -> Part:
    """Return the column `name` as a part. Raises ConfigError where there is none."""
    column = setting.schema.get(name)
    if column is None:
        raise setting.fail(f"there is no column {name!r} here", _near(name, setting.schema), at)
    return Part(pl.col(name), column, at, names=frozenset((name,)))


def call(name: str, node: Node, args: tuple[Part, ...], setting: Setting) -> Part:
    """Return what the function `name` makes of `args`. Raises ConfigError where it cannot take them."""
    function = _FUNCTIONS.get(name)
    if function is None:
        listing = f"functions: {', '.join(_FUNCTIONS)}"
        raise setting.fail(f"there is no function {name!r}", nearest(name, _FUNCTIONS, listing=listing), node.at)
    takes = function.takes
    if function.more and len(args) > len(takes):
        takes += takes[-1:] * (len(args) - len(takes))
    if len(args) != len(takes):
        few = "at least " if function.more else ""
        takes_them = f"{name} takes {few}{len(function.takes)} argument{'' if len(function.takes) == 1 else 's'}"
        raise setting.fail(f"{takes_them}, not {len(args)}", f"write {function.usage}", node.at)
    checked = tuple(check(arg, kind, function.usage, setting) for arg, kind in zip(args, takes, strict=True))
    return function.build(Call(name, node.at, checked, setting))


def _near(name: str, schema: Schema) -> str:
    strange = [each for each in schema if not each.isidentifier() or not each.isascii()]
    hint = nearest(name, schema)
    return f"{hint}; a name with spaces or signs is written column('{strange[0]}')" if strange else hint


def _column(called: Call) -> Part:
    return column_part(called.word(0), called.args[0].at, called.setting)


def _is_null(called: Call) -> Part:
    part = called.args[0]
    return made(called.at, part.expr.is_null(), BOOLEAN, part)


def _is_set(called: Call) -> Part:
    part = called.args[0]
    return made(called.at, part.expr.is_not_null(), BOOLEAN, part)


def _nothing(called: Call) -> Part:
    return Part(pl.lit(None), None, called.at)


def _coalesce(called: Call) -> Part:
    column = common_type(called.args, called.setting)
    parts = alike(called.args, column, called.setting)
    problems = list(parts[0].problems)
    for place, part in enumerate(parts[1:], 1):  # what is not looked at has no problem
        needed = reduce(or_, (before.expr.is_not_null() for before in parts[:place]))
        problems += [(problem & ~needed, text) for problem, text in part.problems]
    expr = pl.coalesce(*(part.stored for part in parts))
    return replace(made(called.at, expr, column, *parts, copies=2), problems=tuple(problems))


def _if_else(called: Call) -> Part:
    condition = called.args[0]
    column = common_type(called.args[1:], called.setting)
    then, other = alike(called.args[1:], column, called.setting)
    problems: Problems = (
        *problems_of(condition),
        *((problem & condition.expr, text) for problem, text in then.problems),
        *((problem & ~condition.expr, text) for problem, text in other.problems),
    )
    expr = pl.when(condition.expr).then(then.stored).when(~condition.expr).then(other.stored)
    return replace(made(called.at, expr, column, condition, condition, then, other), problems=problems)


_FUNCTIONS: Final[dict[str, Function]] = {
    "upper": Function("upper(text)", ("string",), texts.upper),
    "lower": Function("lower(text)", ("string",), texts.lower),
    "trim": Function("trim(text)", ("string",), texts.trim),
    "length": Function("length(text)", ("string",), texts.length),
    "left": Function("left(text, 3)", ("string", "count"), texts.left),
    "right": Function("right(text, 3)", ("string", "count"), texts.right),
    "substring": Function("substring(text, 1, 3)", ("string", "place", "count"), texts.substring),
    "replace": Function("replace(text, '-', '')", ("string", "word", "word"), texts.replace),
    "concat": Function("concat(text, text, …)", ("string", "string"), texts.concat, more=True),
    "pad_left": Function("pad_left(text, 8, '0')", ("string", "count", "word"), texts.pad_left),
    "text": Function("text(x)", ("writable",), texts.text),
    "keyed_hash": Function("keyed_hash(text, 'key_name')", ("string", "word"), texts.keyed_hash),
    "lookup": Function("lookup(x, 'list_name', 'column')", ("key", "word", "word"), texts.lookup),
    "year": Function("year(date)", ("day",), days.year),
    "quarter": Function("quarter(date)", ("day",), days.quarter),
    "month": Function("month(date)", ("day",), days.month),
    "day": Function("day(date)", ("day",), days.day),
    "weekday": Function("weekday(date)", ("day",), days.weekday),
    "date_of": Function("date_of(timestamp)", ("timestamp",), days.date_of),
    "age_at": Function("age_at(birth_date, date)", ("date", "date"), days.age_at),
    "days_between": Function("days_between(date, date)", ("date", "date"), days.days_between),
    "round": Function("round(x, 2)", ("number", "scale"), amounts.round_half_even),
    "round_half_up": Function("round_half_up(x, 2)", ("number", "scale"), amounts.round_half_up),
    "abs": Function("abs(x)", ("number",), amounts.absolute_value),
    "min_of": Function("min_of(x, y, …)", ("ordered", "ordered"), amounts.min_of, more=True),
    "max_of": Function("max_of(x, y, …)", ("ordered", "ordered"), amounts.max_of, more=True),
    "is_null": Function("is_null(x)", ("any",), _is_null),
    "is_set": Function("is_set(x)", ("any",), _is_set),
    "coalesce": Function("coalesce(x, y, …)", ("any", "any"), _coalesce, more=True),
    "if_else": Function("if_else(condition, x, y)", ("condition", "any", "any"), _if_else),
    "nothing": Function("nothing()", (), _nothing),
    "column": Function("column('name with spaces')", ("word",), _column),
}
