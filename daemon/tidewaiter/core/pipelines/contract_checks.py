"""What a contract asks across columns, and of the digits of a code.

Owns: conditions that may not be false (``[check.NAME]``), columns that are required under one (``required_when``), and
the sums of digits of ``check = "…"``. Leaves the language of conditions to `expressions`, and the forms of codes to
`core.contract_codes`.

A condition with something unknown in it (null) is unknown, and rejects nothing: what must be there is said with
``required``. One that cannot be computed for a row, because an amount in it does not fit, rejects the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.contract_codes import CODE_FORMS
from tidewaiter.core.pipelines.columns import BOOLEAN, Schema
from tidewaiter.core.pipelines.expressions import compile_expression

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.core.contract import Field, TableContract
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.pipelines.expression_types import Compiled, Ground
    from tidewaiter.core.toml_source import KeyPath, TomlSource

_LUHN_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


class Conditions:
    """The conditions of a contract over the columns of `schema`, compiled."""

    def __init__(self, contract: TableContract, source: TomlSource, schema: Schema, ground: Ground) -> None:
        """Raise ConfigError, pointing into the contract, for a condition that is none."""
        self._checks = [
            (check, _condition(source, ("check", check.name, "when"), check.when, schema, ground))
            for check in contract.checks
        ]
        self._required = [
            (field, _condition(source, ("field", field.name, "required_when"), field.required_when, schema, ground))
            for field in contract.fields
            if field.required_when is not None
        ]

    def faults(self, typed: pl.DataFrame) -> Iterator[tuple[Field | None, pl.Series, str]]:
        """Yield the rows of `typed` that are wrong in one way, where there are any, with the column if it is one's."""
        for field, when in self._required:
            yield from _impossible(typed, field, when, f"required_when: {field.required_when}")
            missing = typed.select(when.expr.fill_null(value=False) & pl.col(field.name).is_null()).to_series()
            if missing.any():
                yield field, missing, f"is missing, and required when {field.required_when}"
        for check, when in self._checks:
            told = f"{check.name}: {check.title or check.when}"
            yield from _impossible(typed, None, when, told)
            broken = typed.select(~when.expr.fill_null(value=True)).to_series()
            if broken.any():
                yield None, broken, f"does not hold: {told}"


def _condition(source: TomlSource, path: KeyPath, text: str, schema: Schema, ground: Ground) -> Compiled:
    def fail(problem: str, hint: str, at: int) -> ConfigError:
        return source.error(path, problem, hint=hint, at=at)

    compiled = compile_expression(text, schema, fail, ground=ground)
    if compiled.type != BOOLEAN:
        raise fail(f"is {compiled.kind}, not a condition", "write a comparison: total == net + tax", 0)
    return compiled


def _impossible(
    typed: pl.DataFrame, field: Field | None, when: Compiled, told: str
) -> Iterator[tuple[Field | None, pl.Series, str]]:
    for condition, problem in when.problems:
        rows = typed.select(condition).to_series()
        if rows.any():
            yield field, rows, f"{told}: {problem}"


def code_faults(texts: pl.Series, check: str) -> tuple[pl.Series, str]:
    """Return which of `texts` are no code of the form `check` (true), and what to say of them."""
    form = CODE_FORMS[check]
    fits = texts.str.contains(form.pattern)
    if form.luhn is not None:
        fits &= _luhn_sum(texts, form.luhn) % 10 == 0
    return ~fits, f"is not {form.words}"


def _luhn_sum(texts: pl.Series, prefix: str) -> pl.Series:
    """Return the Luhn sums of `texts`, which are digits (at most 19), as if `prefix` stood before each.

    A digit's place is counted from the right, so all texts are read at once as numbers, place by place. The prefix has
    an even number of digits before it only if the text has an even number of digits, as an NPI has.
    """
    numbers = texts.cast(pl.UInt64, strict=False)
    doubled = pl.Series(_LUHN_DOUBLED, dtype=pl.UInt64)
    longest = texts.str.len_bytes().max()
    total = numbers * 0
    for place in range(min(int(str(longest or 0)), 19)):
        digits = numbers // 10**place % 10
        total += digits if place % 2 == 0 else doubled.gather(digits.fill_null(0))
    # the text's last digit is at place 0, so the prefix begins at the place after an NPI's ten digits
    return total + sum(
        _LUHN_DOUBLED[int(digit)] if place % 2 else int(digit) for place, digit in enumerate(reversed(prefix))
    )
