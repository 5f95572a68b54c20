"""The bounds of a contract's field, read from what a person wrote into whole numbers.

Owns: ``above``, ``at_least``, ``below``, ``at_most``, their units, and that some value meets them all. Leaves to
`contract_fields` which kinds have bounds.
"""

from __future__ import annotations

import datetime as dt
from decimal import Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidewaiter.core.toml_source import Table

INT64: Final = 2**63 - 1
MAX_MINOR_UNITS: Final = 10**15
MAX_DECIMAL_UNITS: Final = 10**38 - 1
EPOCH_DAY: Final = dt.date(1970, 1, 1).toordinal()
KEYS: Final = ("above", "at_least", "below", "at_most")
_EXACT: Final = Context(prec=60)
_RANGES: Final = {
    "money": (-MAX_MINOR_UNITS, MAX_MINOR_UNITS),
    "decimal": (-MAX_DECIMAL_UNITS, MAX_DECIMAL_UNITS),
    "date": (dt.date.min.toordinal() - EPOCH_DAY, dt.date.max.toordinal() - EPOCH_DAY),
}
_INTEGERS: Final = (-INT64, INT64)


def read_bounds(table: Table, kind: str, scale: int) -> dict[str, int | None]:
    """Return the bounds in the field's own unit: minor units of amounts, days since 1970-01-01. Raises ConfigError."""
    for one, other in (("above", "at_least"), ("below", "at_most")):
        if one in table.data and other in table.data:
            raise table.error(other, f"cannot stand beside {one}", hint="keep one of the two", key=True)
    bounds = {key: _day(table, key) if kind == "date" else _units(table, key, kind, scale) for key in KEYS}
    if kind == "money":
        if bounds["below"] is None and bounds["at_most"] is None:
            bounds["at_most"] = MAX_MINOR_UNITS
        if bounds["above"] is None and bounds["at_least"] is None:
            bounds["at_least"] = -MAX_MINOR_UNITS
    lowest, highest = value_range(kind, **bounds)
    if lowest > highest:
        given = [key for key in KEYS if key in table.data]
        said = " and ".join(f"{key} {table.data[key]}" for key in given)
        raise table.error(given[0], f"no value can be {said}", hint="give bounds with a value between them")
    return bounds


def value_range(
    kind: str, *, above: int | None, at_least: int | None, below: int | None, at_most: int | None
) -> tuple[int, int]:
    """Return the lowest and the highest value that meets the bounds of a field of this kind."""
    least, most = _RANGES.get(kind, _INTEGERS)
    lowest = above + 1 if above is not None else least if at_least is None else at_least
    highest = below - 1 if below is not None else most if at_most is None else at_most
    return lowest, highest


def _units(table: Table, key: str, kind: str, scale: int) -> int | None:
    if key not in table.data:
        return None
    value = table.data[key]
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InvalidOperation
        units = Decimal(value).scaleb(scale, _EXACT)
    except ArithmeticError:  # no number at all, or one beyond what Decimal can scale
        hint = "write a whole number" if kind == "integer" else f"write {kind} as text, for example '1000000.00'"
        raise table.error(key, f"{value!r} is not an amount", hint=hint) from None
    least, most = _RANGES.get(kind, _INTEGERS)
    if units != units.to_integral_value() or not least <= units <= most:
        digits = "38 digits" if kind == "decimal" else "10^15 minor units"
        raise table.error(key, f"{value!r} is out of range", hint=f"at most {scale} decimals and {digits}")
    return int(units)


def _day(table: Table, key: str) -> int | None:
    if key not in table.data:
        return None
    value = table.data[key]
    try:
        if not isinstance(value, str) or len(value) != len("2026-01-31"):
            raise ValueError(value)
        return dt.date.fromisoformat(value).toordinal() - EPOCH_DAY
    except ValueError:
        problem = f"{str(value)!r} is not a date of the form YYYY-MM-DD, as text"
        raise table.error(key, problem, hint="write '2026-01-31'") from None
