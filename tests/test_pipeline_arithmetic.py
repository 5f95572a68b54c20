"""Arithmetic of pipelines: exact against fractions, and nothing wraps, rounds or becomes null in silence."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expression_demo import results_of, rows, value

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = 2**63 - 1
MOST = Decimal("9" * 36 + ".99")
WRAPS = Decimal(f"{2**120}e-2")
"""Times 256 it is 0 in 128 bits."""
TOO_WIDE = Decimal("1" + "0" * 34)
"""The least amount for which four decimals are two too many."""


@pytest.mark.parametrize(
    ("text", "cells", "problem"),
    [
        ("n + m", {"n": LARGE, "m": 1}, "the sum does not fit: an integer has 64 bits"),
        ("n - m", {"n": -LARGE, "m": 2}, "the difference does not fit: an integer has 64 bits"),
        ("n * m", {"n": 2**32, "m": 2**31}, "the product does not fit: an integer has 64 bits"),
        ("n * m", {"n": -LARGE - 1, "m": -1}, "the product does not fit: an integer has 64 bits"),
        ("-n", {"n": -LARGE - 1}, "the negative does not fit: an integer has 64 bits"),
        ("abs(n)", {"n": -LARGE - 1}, "the value does not fit: an integer has 64 bits"),
        ("amount + amount", {"amount": MOST}, "the sum does not fit: a decimal has 38 digits"),
        ("amount - n", {"amount": MOST.copy_negate(), "n": 1}, "the difference does not fit: a decimal has 38 digits"),
        ("amount * n", {"amount": MOST, "n": 2}, "the product does not fit: a decimal has 38 digits"),
        ("amount * n", {"amount": MOST, "n": LARGE}, "the product does not fit: a decimal has 38 digits"),
        ("amount * amount", {"amount": MOST}, "the product does not fit: a decimal has 38 digits"),
        ("amount * n", {"amount": WRAPS, "n": 256}, "the product does not fit: a decimal has 38 digits"),
        ("amount + rate", {"amount": MOST}, "the value with 4 decimals does not fit: a decimal has 38 digits"),
        ("round(amount, 3)", {"amount": MOST}, "the value with 3 decimals does not fit: a decimal has 38 digits"),
        ("round(amount, 4)", {"amount": TOO_WIDE}, "the value with 4 decimals does not fit: a decimal has 38 digits"),
        ("n * m > 0", {"n": LARGE, "m": LARGE}, "the product does not fit: an integer has 64 bits"),
        ("is_set(n * m)", {"n": LARGE, "m": LARGE}, "the product does not fit: an integer has 64 bits"),
        ("amount * amount > rate", {"amount": MOST}, "the product does not fit: a decimal has 38 digits"),
        ("coalesce(n * m, 1)", {"n": LARGE, "m": 2}, "the product does not fit: an integer has 64 bits"),
        ("if_else(k, n * m, 0)", {"n": LARGE, "m": 2, "k": True}, "the product does not fit: an integer has 64 bits"),
    ],
)  # fmt: skip
def test_a_result_that_does_not_fit_is_a_problem(text: str, cells: dict[str, Any], problem: str) -> None:
    """Nothing wraps, nothing becomes null in silence, and the rows beside are not touched."""
    fine = {"n": 1, "m": 1, "amount": Decimal(1), "rate": Decimal(1), "k": True}
    results, problems = results_of(text, rows(cells, fine))
    assert problems == [problem, None]
    assert results[1] is not None


@pytest.mark.parametrize(
    ("text", "cells", "expected"),
    [
        ("n + m", {"n": LARGE, "m": 0}, LARGE),
        ("n - m", {"n": -LARGE, "m": 1}, -LARGE - 1),
        ("amount + 0", {"amount": MOST}, MOST),
        ("amount * n", {"amount": MOST, "n": -1}, MOST.copy_negate()),
        ("if_else(k, n * m, 0)", {"n": LARGE, "m": 2, "k": False}, 0),
        ("if_else(k, 0, n * m)", {"n": LARGE, "m": 2, "k": True}, 0),
        ("round(amount, 4)", {"amount": Decimal("9" * 34 + ".99")}, Decimal("9" * 34 + ".99")),
        ("coalesce(s, text(n * m))", {"n": LARGE, "m": 2, "s": "x"}, "x"),
    ],
)
def test_what_just_fits_or_is_not_asked_for_is_no_problem(text: str, cells: dict[str, Any], expected: object) -> None:
    """The limits themselves are values; a branch that is not taken cannot reject its row."""
    assert value(text, **cells) == expected


# -- against a naive evaluator -----------------------------------------------------------------------------------------


class DoesNotFitError(Exception):
    """A value outside its type."""


@dataclass
class Term:
    """A number as text, its scale (None: an integer), and what it is for a row."""

    text: str
    scale: int | None
    of: Callable[[dict[str, Any]], Fraction | None]


def fit(number: Fraction | None, scale: int | None) -> Fraction | None:
    """Return `number`, which must fit."""
    if number is not None:
        high, low = (LARGE, -LARGE - 1) if scale is None else (10**38 - 1, 1 - 10**38)
        if not low <= number * 10 ** (scale or 0) <= high:
            raise DoesNotFitError
    return number


def join(op: str, left: Term, right: Term) -> Term:
    """Return the term ``left op right``."""
    scales = [each.scale for each in (left, right) if each.scale is not None]
    scale = (sum(scales) if op == "*" else max(scales)) if scales else None

    def of(row: dict[str, Any]) -> Fraction | None:
        first, second = left.of(row), right.of(row)
        if op != "*":
            first, second = fit(first, scale), fit(second, scale)
        if first is None or second is None:
            return None
        return fit({"+": first + second, "-": first - second, "*": first * second}[op], scale)

    return Term(f"({left.text} {op} {right.text})", scale, of)


def name_term(name: str, scale: int | None) -> Term:
    """Return a column as a term."""
    return Term(name, scale, lambda row: None if row[name] is None else Fraction(row[name]))


NAMES = [name_term("amount", 2), name_term("rate", 4), name_term("n", None), name_term("m", None)]
CONSTANTS = [Term("3", None, lambda _: Fraction(3)), Term("0.25", 2, lambda _: Fraction(1, 4))]
TERMS = st.recursive(
    st.sampled_from(NAMES + CONSTANTS),
    lambda inner: st.builds(join, st.sampled_from("+-*"), inner, inner),
    max_leaves=4,
)


def decimals(scale: int) -> st.SearchStrategy[Decimal | None]:
    """Return amounts near zero and near the limit."""
    most = 10**38 - 1
    whole = st.one_of(st.integers(-1000, 1000), st.integers(-most, most), st.sampled_from([most, -most, most // 2]))
    return st.none() | whole.map(lambda number: Decimal(f"{number}e-{scale}"))


INTEGERS = st.none() | st.integers(-100, 100) | st.sampled_from([LARGE, -LARGE - 1, 2**32]) | st.integers(-LARGE, LARGE)
ROWS = st.fixed_dictionaries({"amount": decimals(2), "rate": decimals(4), "n": INTEGERS, "m": INTEGERS})


@settings(max_examples=150, deadline=None)
@given(TERMS, TERMS, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), st.lists(ROWS, min_size=1, max_size=4))
def test_any_arithmetic_agrees_with_fractions(left: Term, right: Term, op: str, cells: list[dict[str, Any]]) -> None:
    """Value, null or problem: the same as exact fractions say, for every row."""
    frame = rows(*cells)
    sums, sum_problems = results_of(left.text, frame)
    truths, truth_problems = results_of(f"{left.text} {op} {right.text}", frame)
    compare = {
        "<": Fraction.__lt__, "<=": Fraction.__le__, "==": Fraction.__eq__, "!=": Fraction.__ne__,
        ">": Fraction.__gt__, ">=": Fraction.__ge__,
    }[op]  # fmt: skip
    for place, row in enumerate(cells):
        try:
            expected = left.of(row)
        except DoesNotFitError:
            assert sum_problems[place] is not None
            assert truth_problems[place] is not None
            continue
        assert sum_problems[place] is None
        assert (None if sums[place] is None else Fraction(sums[place])) == expected
        try:
            other = right.of(row)
        except DoesNotFitError:
            assert truth_problems[place] is not None
            continue
        assert truth_problems[place] is None
        assert truths[place] == (None if expected is None or other is None else compare(expected, other))
