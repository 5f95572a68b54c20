"""What an expression is compiled to, its parts on the way there, and the ground it stands on.

Owns: the values that `expressions`, `functions`, `numbers` and `planning` share. Leaves to them what the parts of an
expression mean.

Invariant: a compiled expression never gives a wrong value: where `problems` has a true condition for a row, its value
for that row means nothing and the row must be rejected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.pipelines.columns import INTEGER, PRECISION, ColumnType, Schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidewaiter.core.scenarios.expressions import Fail

MAX_DIGITS: Final = 10**PRECISION - 1
Problems = tuple[tuple[pl.Expr, str], ...]
"""Pairs: a condition that is true for a row whose value cannot be computed, and what to say about it.

A condition that is null for a row says nothing against it.
"""


@dataclass(frozen=True)
class Reference:
    """A reference list for lookup(): its columns, its rows, and the column that is looked up (each value once)."""

    schema: Schema
    frame: pl.DataFrame
    key: str


@dataclass(frozen=True)
class Ground:
    """What expressions may use beside the row: secret `keys` for keyed_hash() and reference `lists` for lookup()."""

    keys: Mapping[str, bytes] = field(default_factory=dict)
    lists: Mapping[str, Reference] = field(default_factory=dict)


NO_GROUND: Final = Ground()


@dataclass(frozen=True)
class Compiled:
    """An expression ready to run.

    `type` is None for the bare nothing(), which is null in any column. `names` are the columns that are read.
    """

    expr: pl.Expr
    type: ColumnType | None
    problems: Problems = ()
    names: frozenset[str] = frozenset()

    @property
    def kind(self) -> str:
        """The type in words."""
        return "nothing" if self.type is None else str(self.type)


@dataclass(frozen=True)
class Part:
    """A part of an expression, which begins at character `at`.

    `constant` is what a constant stands for. A `broad` part is a number as Int128: an integer, or a decimal times ten
    to the power of its scale; so numbers are computed, and nothing wraps that `problems` would not show.
    `weight` is about how many operations it takes: some parts stand in the expression more than once.
    """

    expr: pl.Expr
    type: ColumnType | None
    at: int
    constant: Fraction | str | bool | None = None
    problems: Problems = ()
    names: frozenset[str] = frozenset()
    broad: bool = False
    weight: int = 1

    @property
    def kind(self) -> str:
        """The type's kind, ``nothing`` for nothing()."""
        return "nothing" if self.type is None else self.type.kind

    @property
    def stored(self) -> pl.Expr:
        """The part in the polars type of its column type; null where it does not fit, which `problems` tell."""
        if not self.broad or self.type is None:
            return self.expr
        if self.type == INTEGER:
            return self.expr.cast(pl.Int64, strict=False)
        # polars refuses the whole column for one value of 39 digits
        fitting = self.expr if isinstance(self.constant, Fraction) else pl.when(in_digits(self.expr)).then(self.expr)
        return fitting.reinterpret(dtype=self.type.dtype)

    @property
    def whole(self) -> pl.Expr:
        """The number as Int128."""
        if self.broad:
            return self.expr
        return self.expr.cast(pl.Int128) if self.type == INTEGER else self.expr.to_physical()


@dataclass(frozen=True)
class Setting:
    """What an expression is compiled in."""

    schema: Schema
    fail: Fail
    ground: Ground


def in_digits(whole: pl.Expr, limit: int = MAX_DIGITS) -> pl.Expr:
    """Return the condition that a number of type Int128 is not over `limit`, with either sign."""
    return whole.is_between(pl.lit(-limit, dtype=pl.Int128), pl.lit(limit, dtype=pl.Int128))


def problems_of(*parts: Part) -> Problems:
    """Return the problems of all `parts`, each once."""
    found: list[tuple[pl.Expr, str]] = []
    for part in parts:
        found += [pair for pair in part.problems if not any(pair[0] is other for other, _ in found)]
    return tuple(found)


def names_of(*parts: Part) -> frozenset[str]:
    """Return the columns that `parts` read."""
    return frozenset().union(*(part.names for part in parts))


def made(
    at: int,
    expr: pl.Expr,
    column: ColumnType,
    *parts: Part,
    problems: Problems = (),
    broad: bool = False,
    copies: int = 1,
) -> Part:
    """Return the part `expr` of type `column` that is made of `parts`, each of which stands in it `copies` times."""
    weight = 1 + copies * sum(part.weight for part in parts)
    return Part(expr, column, at, None, (*problems_of(*parts), *problems), names_of(*parts), broad, weight)
