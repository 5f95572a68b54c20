"""Constants written as text, read as what the column beside them holds: '0.00', '2026-01-31', '2026-01-31T10:00:00Z'.

Owns: the forms of decimals, dates and timestamps in expressions. Leaves to `mixing` which types may stand together.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidewaiter.core.pipelines.columns import ColumnType
    from tidewaiter.core.pipelines.expression_types import Part, Setting

Value = Fraction | str | bool | date | datetime | float

_DECIMAL: Final = re.compile(r"-?[0-9]{1,38}(\.[0-9]{1,38})?", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)
_FORMS: Final = {
    "decimal": "write plain digits: 0.5 or '0.50'",
    "integer": "numbers stand without quotes",
    "date": "write '2026-01-31'",
    "timestamp": "write a time with its offset from UTC: '2026-01-31T10:00:00Z'",
}


def read_text(text: str, column: ColumnType) -> Value | None:
    """Return the value of the type `column` that the constant `text` stands for; None where it stands for none."""
    try:
        match column.kind:
            case "string":
                return text
            case "decimal":
                return Fraction(text) if _DECIMAL.fullmatch(text) else None
            case "date":
                return date.fromisoformat(text) if _DATE.fullmatch(text) else None
            case "timestamp":
                return datetime.fromisoformat(text).astimezone(UTC) if _TIMESTAMP.fullmatch(text) else None
    except (ValueError, OverflowError):  # 30 February, minute 60, and the year 10000 in UTC
        return None
    return None


def as_constant(part: Part, beside: Part, setting: Setting) -> Value:
    """Return the constant `part` as a value of the type of `beside`. Raises ConfigError where it is none."""
    value, column = part.constant, beside.type
    if value is None or column is None:
        raise setting.fail("is not a constant", "write a number or a 'text'", part.at)
    if isinstance(value, str):
        found = read_text(value, column)
        if found is None:
            raise setting.fail(
                f"{value!r} is no {column.kind}", _FORMS.get(column.kind, "write true or false"), part.at
            )
        return found
    if isinstance(value, bool) == (column.kind == "boolean") and column.kind in (
        "boolean",
        "integer",
        "decimal",
        "float",
    ):
        return float(value) if column.kind == "float" else value
    hint = _FORMS.get(column.kind, "write a 'text' in quotes")
    raise setting.fail(f"cannot stand beside {column}", hint, part.at)
