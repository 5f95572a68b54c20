"""Columns, keys and lists for tests of pipeline expressions, and what an expression gives for rows of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.columns import BOOLEAN, DATE, FLOAT, INTEGER, STRING, TIMESTAMP, ColumnType, Schema
from tidewaiter.core.pipelines.expression_types import Ground, Reference
from tidewaiter.core.pipelines.expressions import compile_expression

TWO = ColumnType("decimal", 2)
SCHEMA: Schema = {
    "amount": TWO, "rate": ColumnType("decimal", 4), "n": INTEGER, "m": INTEGER, "s": STRING, "t": STRING,
    "f": FLOAT, "k": BOOLEAN, "born": DATE, "on": DATE, "at": TIMESTAMP, "two words": STRING,
}  # fmt: skip
KEY = b"0123456789abcdef"
GROUND = Ground(
    {"people": KEY, "short": b"abc"},
    {
        "countries": Reference(
            {"code": STRING, "risk": INTEGER, "tax": ColumnType("decimal", 1)},
            pl.DataFrame(
                {"code": ["GB", "FR", None], "risk": [1, None, 9], "tax": [Decimal("0.2"), Decimal("0.5"), None]},
                schema={"code": pl.String, "risk": pl.Int64, "tax": pl.Decimal(38, 1)},
            ),
            "code",
        ),
        "twice": Reference({"code": STRING}, pl.DataFrame({"code": ["A", "A"]}), "code"),
        "empty": Reference(
            {"code": STRING, "risk": INTEGER}, pl.DataFrame(schema={"code": pl.String, "risk": pl.Int64}), "code"
        ),
    },
)


def fail(problem: str, hint: str, at: int) -> ConfigError:
    """Return the error at character `at`."""
    return ConfigError(f"{at}: {problem}", hint=hint)


def rows(*values: dict[str, Any]) -> pl.DataFrame:
    """Return rows of SCHEMA; what is not given is null."""
    dtypes = {name: column.dtype for name, column in SCHEMA.items()}
    return pl.DataFrame({name: [row.get(name) for row in values] for name in SCHEMA}, schema=dtypes)


def value(text: str, **cells: Any) -> Any:
    """Return what `text` gives for one row, which must have no problem."""
    results, problems = results_of(text, rows(cells))
    assert problems == [None]
    return results[0]


def results_of(text: str, frame: pl.DataFrame) -> tuple[list[Any], list[str | None]]:
    """Return what `text` gives for each row, and its first problem; the type must be the one that was promised."""
    compiled = compile_expression(text, SCHEMA, fail, ground=GROUND)
    assert compiled.type is not None
    values = frame.with_columns(x=compiled.expr)["x"]
    assert values.dtype == compiled.type.dtype
    found: list[str | None] = [None] * len(frame)
    for condition, problem in reversed(compiled.problems):
        for place, bad in enumerate(frame.with_columns(x=condition)["x"].to_list()):
            found[place] = problem if bad else found[place]
    return values.to_list(), found


def type_of(text: str) -> str:
    """Return the type of `text`."""
    return compile_expression(text, SCHEMA, fail, ground=GROUND).kind
