"""Exact arithmetic on columns: integers and decimals computed as 128-bit whole numbers, with every overflow seen.

Owns: sums, products, remainders, rounding, and constants among numbers. Leaves to `expressions` which types may stand
together.

polars wraps integers silently, rounds products of decimals, and fails a whole batch where one decimal overflows. Here
each result comes with a condition that is true where it does not fit, and is exact where that is not true.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Final

import polars as pl

from tidewaiter.core.pipelines.columns import INTEGER, MAX_SCALE, PRECISION, ColumnType
from tidewaiter.core.pipelines.expression_types import (
    MAX_DIGITS,
    Part,
    Problems,
    Setting,
    in_digits,
    made,
)

MAX_INTEGER: Final = 2**63 - 1
_SURELY_WRAPPED: Final = 1.5e38  # between 10**38 and 2**127: a double is exact enough to tell the two apart
_ROOM: Final = {"integer": "an integer has 64 bits", "decimal": f"a decimal has {PRECISION} digits"}


def number_type(value: Fraction) -> ColumnType | None:
    """Return the smallest type that holds the constant `value`; None where it has too many decimals or digits."""
    if value.denominator == 1 and -MAX_INTEGER <= value <= MAX_INTEGER:
        return INTEGER
    scale = next((each for each in range(MAX_SCALE + 1) if (value * 10**each).denominator == 1), None)
    return None if scale is None or abs(value * 10**scale) > MAX_DIGITS else ColumnType("decimal", scale)


def constant(value: Fraction, column: ColumnType, at: int) -> Part:
    """Return the number `value`, which fits exactly, as a part of type `column`."""
    return Part(pl.lit(int(value * 10**column.scale), dtype=pl.Int128), column, at, value, broad=True)


def out_of_room(whole: pl.Expr, column: ColumnType, what: str) -> Problems:
    """Return the problem of a result `whole` (Int128, not wrapped or wrapped once) that `column` cannot hold."""
    if column == INTEGER:
        return ((~whole.is_between(-MAX_INTEGER - 1, MAX_INTEGER), _unfit(what, column)),)
    return ((~in_digits(whole), _unfit(what, column)),)


def _unfit(what: str, column: ColumnType) -> str:
    return f"{what} does not fit: {_ROOM[column.kind]}"


def widened(part: Part, scale: int, setting: Setting) -> Part:
    """Return the number `part` as a decimal of `scale`, which is not less than its own."""
    column = ColumnType("decimal", scale)
    if part.type == column:
        return part
    if isinstance(part.constant, Fraction):
        if abs(part.constant * 10**scale) > MAX_DIGITS:
            hint = f"{column} has {PRECISION - scale} digits before the point"
            raise setting.fail("is too large here", hint, part.at)
        return constant(part.constant, column, part.at)
    factor = 10 ** (scale - (part.type.scale if part.type else 0))
    problems: Problems = ()
    if part.type != INTEGER:  # 64 bits and 18 decimals always fit
        unfit = ~in_digits(part.whole, MAX_DIGITS // factor)
        problems = ((unfit, f"the value with {scale} decimals does not fit: {_ROOM['decimal']}"),)
    expr = part.whole * pl.lit(factor, dtype=pl.Int128)
    return made(part.at, expr, column, part, problems=problems, broad=True)


def added(op: str, left: Part, right: Part, at: int, setting: Setting) -> Part:
    """Return ``left + right`` or ``left - right``, as the `op` says: an integer, or a decimal of the larger scale."""
    column = INTEGER
    if left.type != INTEGER or right.type != INTEGER:
        scale = max(part.type.scale for part in (left, right) if part.type)
        left, right = widened(left, scale, setting), widened(right, scale, setting)
        column = ColumnType("decimal", scale)
    expr = left.whole + right.whole if op == "+" else left.whole - right.whole
    # two values of 38 digits wrap past 2**127 by so little that they land outside 38 digits on the other side
    problems = out_of_room(expr, column, "the sum" if op == "+" else "the difference")
    return made(at, expr, column, left, right, problems=problems, broad=True)


def multiplied(left: Part, right: Part, at: int, setting: Setting) -> Part:
    """Return ``left * right``: an integer, or a decimal whose scale is the sum of both."""
    scale = sum(part.type.scale for part in (left, right) if part.type)
    if scale > MAX_SCALE:
        hint = f"a decimal has at most {MAX_SCALE}: round(…, n) or cast one side first"
        raise setting.fail(f"the product would have {scale} decimals", hint, at)
    whole = left.type == INTEGER and right.type == INTEGER
    column = INTEGER if whole else ColumnType("decimal", scale)
    expr = left.whole * right.whole
    problems = out_of_room(expr, column, "the product")
    if not whole:  # it may have wrapped to anything
        size = left.whole.cast(pl.Float64) * right.whole.cast(pl.Float64)
        problems = ((size.abs() >= _SURELY_WRAPPED, problems[0][1]), *problems)
    return made(at, expr, column, left, right, problems=problems, broad=True)


def negated(part: Part, at: int) -> Part:
    """Return ``-part``."""
    if isinstance(part.constant, Fraction) and part.type is not None:
        return constant(-part.constant, part.type, at)
    return _one_number(_minus(part.whole), "the negative", part, at)


def absolute(part: Part, at: int) -> Part:
    """Return the value of `part` without its sign."""
    return _one_number(part.whole.abs(), "the value", part, at)


def _one_number(expr: pl.Expr, what: str, part: Part, at: int) -> Part:
    """Return `expr`, a number of the size of `part`: a decimal has the same room on both sides of 0."""
    problems = out_of_room(expr, INTEGER, what) if part.type == INTEGER else ()
    return made(at, expr, part.type or INTEGER, part, problems=problems, broad=True)


def remainder(left: Part, divisor: int, at: int) -> Part:
    """Return ``left % divisor``, from 0 up to the positive `divisor`, for negative integers too."""
    return made(at, left.stored % pl.lit(divisor, dtype=pl.Int64), INTEGER, left)


def rounded(part: Part, scale: int, at: int, setting: Setting, *, half_up: bool) -> Part:
    """Return `part` as a decimal of `scale`: halves to the even neighbour, or with `half_up` away from zero."""
    had = part.type.scale if part.type else 0
    if had <= scale:
        return replace(widened(part, scale, setting), at=at, constant=None)
    column = ColumnType("decimal", scale)
    whole = part.whole
    step, half = (pl.lit(value, dtype=pl.Int128) for value in (10 ** (had - scale), 10 ** (had - scale) // 2))
    if half_up:
        size = (whole.abs() + half) // step
        expr = pl.when(whole < 0).then(_minus(size)).otherwise(size)
    else:  # // and % round towards minus infinity, so that a half is always the same remainder
        above = (whole + half) // step
        odd_half = (whole % step == half) & (above % pl.lit(2, dtype=pl.Int128) == 1)
        expr = above - odd_half.cast(pl.Int128)
    # a tenth of anything in 128 bits has at most 38 digits
    return made(at, expr.reinterpret(dtype=column.dtype), column, part, copies=4)


def _minus(whole: pl.Expr) -> pl.Expr:
    """Return `whole` with the other sign; polars has no sign for 128 bits."""
    return pl.lit(0, dtype=pl.Int128) - whole


def compared(op: str, part: Part, value: Fraction) -> pl.Expr:
    """Return the condition ``part op value`` for a number column and a constant of any number of decimals, exactly."""
    scaled = value * 10 ** (part.type.scale if part.type else 0)
    whole, fits = scaled.numerator // scaled.denominator, scaled.denominator == 1
    column = part.whole if part.broad or part.type != INTEGER else part.expr
    if not fits and op in ("==", "!="):
        return pl.when(column.is_not_null()).then(pl.lit(op == "!="))
    if abs(whole) > MAX_DIGITS:  # no column has such a value: the order is known
        whole, fits = (2**127 - 1 if whole > 0 else -(2**127)), True
    limit = pl.lit(whole, dtype=pl.Int128 if part.broad or part.type != INTEGER else pl.Int64)
    match op:
        case "==":
            return column == limit
        case "!=":
            return column != limit
        case "<":
            return column < limit if fits else column <= limit
        case "<=":
            return column <= limit
        case ">":
            return column > limit
    return column >= limit if fits else column > limit
