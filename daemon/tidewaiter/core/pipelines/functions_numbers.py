"""Functions on numbers, and the least and greatest of several values. See `functions` for how each is written.

Owns: what they compute, exactly; leaves to `numbers` the arithmetic. Null gives null, in min_of() and max_of() too.
"""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

import polars as pl

from tidewaiter.core.pipelines import numbers
from tidewaiter.core.pipelines.expression_types import Part, made
from tidewaiter.core.pipelines.mixing import alike, common_type

if TYPE_CHECKING:
    from tidewaiter.core.pipelines.function_arguments import Call


def round_half_even(called: Call) -> Part:
    """The number with so many decimals; what lies half-way goes to the even neighbour."""
    return numbers.rounded(called.args[0], called.count(1), called.at, called.setting, half_up=False)


def round_half_up(called: Call) -> Part:
    """The number with so many decimals; what lies half-way goes away from zero."""
    return numbers.rounded(called.args[0], called.count(1), called.at, called.setting, half_up=True)


def absolute_value(called: Call) -> Part:
    """The number without its sign."""
    return numbers.absolute(called.args[0], called.at)


def min_of(called: Call) -> Part:
    """The least of the values; null where one of them is."""
    return _extreme(called, least=True)


def max_of(called: Call) -> Part:
    """The greatest of the values; null where one of them is."""
    return _extreme(called, least=False)


def _extreme(called: Call, *, least: bool) -> Part:
    column = common_type(called.args, called.setting)
    if column.kind == "string":
        raise called.setting.fail("strings have no order here", "compare numbers, dates or timestamps", called.at)
    parts = alike(called.args, column, called.setting)
    values = [part.stored for part in parts]
    found = pl.min_horizontal(*values) if least else pl.max_horizontal(*values)
    known = reduce(and_, (value.is_not_null() for value in values))
    return made(called.at, pl.when(known).then(found), column, *parts, copies=4)
