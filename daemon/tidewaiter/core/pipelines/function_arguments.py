"""What the arguments of a function may be, and a call whose arguments were checked.

Owns: the kinds of arguments and the words for them. Leaves to `functions` which function takes which.

Kinds: string, date, timestamp, number (integer or decimal), condition, any; day (date or timestamp), ordered (what has
an order), writable (what text() writes), key (what can be looked up); and constants: word ('text'), count (from 0),
place (from 1), scale (0 to 18).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import polars as pl

from tidewaiter.core.pipelines.columns import DATE, MAX_SCALE, STRING, TIMESTAMP, ColumnType
from tidewaiter.core.pipelines.constants import as_constant
from tidewaiter.core.pipelines.expression_types import Part, Setting
from tidewaiter.core.pipelines.mixing import alike
from tidewaiter.core.pipelines.step_casts import WRITABLE

MAX_COUNT: Final = 10_000
"""The largest place or length in a text."""

_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "string": ("string",),
    "date": ("date",),
    "timestamp": ("timestamp",),
    "day": ("date", "timestamp"),
    "number": ("integer", "decimal"),
    "condition": ("boolean",),
    "ordered": ("integer", "decimal", "date", "timestamp", "string"),  # string: a constant beside a date
    "writable": WRITABLE,
    "key": ("string", "integer", "date"),
    "any": ("string", "integer", "decimal", "float", "boolean", "date", "timestamp", "nothing"),
}
_COUNTS: Final = {"count": (0, MAX_COUNT), "place": (1, MAX_COUNT), "scale": (0, MAX_SCALE)}
_FROM_TEXT: Final[dict[str, ColumnType]] = {"date": DATE, "timestamp": TIMESTAMP}
_WORDS: Final = {
    "day": "a date or a timestamp",
    "number": "an integer or a decimal",
    "condition": "a condition",
    "ordered": "a number, a date or a timestamp",
    "writable": "a string, an integer, a decimal, a boolean or a date",
    "key": "a string, an integer or a date",
}


@dataclass(frozen=True)
class Call:
    """A call of the function `name`, which stands at character `at`, with arguments of the right kinds."""

    name: str
    at: int
    args: tuple[Part, ...]
    setting: Setting

    def word(self, place: int) -> str:
        """Return the constant text at `place`."""
        return str(self.args[place].constant)

    def count(self, place: int) -> int:
        """Return the constant whole number at `place`."""
        value = self.args[place].constant
        return int(value) if isinstance(value, Fraction) else 0


def check(part: Part, kind: str, usage: str, setting: Setting) -> Part:
    """Return the argument `part` as what `kind` says. Raises ConfigError, with the `usage`, where it is not."""
    hint = f"write {usage}"
    if kind == "word":
        if not isinstance(part.constant, str):
            raise setting.fail("must be a text in quotes", hint, part.at)
        return part
    if kind in _COUNTS:
        low, high = _COUNTS[kind]
        value = part.constant
        if not isinstance(value, Fraction) or value.denominator != 1 or not low <= value <= high:
            raise setting.fail(f"must be a whole number from {low} to {high}", hint, part.at)
        return part
    if isinstance(part.constant, str) and kind in _FROM_TEXT:
        column = _FROM_TEXT[kind]
        as_constant(part, Part(pl.lit(None), column, part.at), setting)
        return alike((part,), column, setting)[0]
    if part.type is None and kind == "string":
        return alike((part,), STRING, setting)[0]
    if part.kind not in _KINDS[kind]:
        found = "nothing" if part.type is None else str(part.type)
        raise setting.fail(f"must be {_WORDS.get(kind, f'a {kind}')}, not {found}", hint, part.at)
    return part
