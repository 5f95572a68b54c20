"""Typed reading of settings: one section of the configuration file, key by key, and numbers with units.

Owns: the converters from TOML values to numbers (durations to integer microseconds, sizes to bytes) and `Section`.
Leaves to `core.toml_source` parsing and finding places, and to `shell.settings` which sections and keys there are.

Invariant: every key of a section was either taken or is an error; a misspelt setting never falls back to its default.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from tidewaiter.core.toml_source import Table, kind_of, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.toml_source import TomlSource

T = TypeVar("T")

_DURATION_UNITS: Final = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_SIZE_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_QUANTITY: Final = re.compile(r"(\d{1,18})\s*([A-Za-z]+)", re.ASCII)


class BadValue(Exception):  # noqa: N818 - never leaves this module's callers; it becomes a ConfigError with a place
    """A converter did not accept a value; `allowed` says what it would accept."""

    def __init__(self, what: str, allowed: str) -> None:
        """Take `what`, which goes on the sentence "KEY: …", and `allowed`, which becomes the hint."""
        super().__init__(what)
        self.what = what
        self.allowed = allowed


class Section:
    """One table of the configuration file, read key by key."""

    def __init__(self, source: TomlSource, name: str) -> None:
        """Open the table `name`, empty where the file has none. Raises ConfigError where it is no table."""
        self.present = name in source.data
        self._table = Table(source, (name,), source.data.get(name, {}), noun="a section", hint=f"write [{name}]")
        self._known: list[str] = []

    def take(self, key: str, convert: Callable[[object], T], default: T) -> T:
        """Return the converted value of `key`, or `default`. Raises ConfigError naming what is allowed."""
        self._known.append(key)
        if key not in self._table.data:
            return default
        try:
            return convert(self._table.data[key])
        except BadValue as bad:
            raise self.error(key, bad.what, bad.allowed) from bad

    def error(self, key: str, what: str, hint: str) -> ConfigError:
        """Return a ConfigError about `key` of this section."""
        return self._table.error(key, what, hint=hint)

    def finish(self) -> None:
        """Raise ConfigError for the first key that nobody took, naming the nearest known one."""
        self._table.only(self._known, quote='"')


# -- converters --------------------------------------------------------------------------------------------------


def text(value: object) -> str:
    """Accept a string that is not empty."""
    if not isinstance(value, str):
        raise BadValue(f"must be a string, not {kind_of(value)}", "put it in quotes")
    if not value.strip():
        raise BadValue("is empty", "write a value or remove the line")
    return value


def choice(*allowed: str) -> Callable[[object], str]:
    """Return a converter that accepts exactly one of `allowed`."""
    listing = "allowed: " + ", ".join(f'"{one}"' for one in allowed)

    def convert(value: object) -> str:
        if not isinstance(value, str):
            raise BadValue(f"must be a string, not {kind_of(value)}", listing)
        if value not in allowed:
            raise BadValue(f'unknown value "{value}"', nearest(value, allowed, quote='"', listing=listing))
        return value

    return convert


def integer(low: int, high: int) -> Callable[[object], int]:
    """Return a converter that accepts an integer from `low` to `high`."""
    allowed = f"allowed: an integer from {low} to {high}"

    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValue(f"must be an integer, not {kind_of(value)}", allowed)
        if not low <= value <= high:
            raise BadValue(f"{value} is out of range", allowed)
        return value

    return convert


def number(low: float, high: float) -> Callable[[object], float]:
    """Return a converter that accepts a finite number above `low` and at most `high`."""
    allowed = f"allowed: a number above {low:g} and at most {high:g}"

    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadValue(f"must be a number, not {kind_of(value)}", allowed)
        if not low < value <= high:
            raise BadValue(f"{value} is out of range", allowed)
        return float(value)

    return convert


def duration(low: str, high: str) -> Callable[[object], int]:
    """Return a converter from a duration such as ``"5s"`` to integer microseconds, from `low` to `high`."""
    return _quantity(_DURATION_UNITS, "a duration", "5s", low, high)


def size(low: str, high: str) -> Callable[[object], int]:
    """Return a converter from a size such as ``"1MiB"`` to bytes, from `low` to `high`."""
    return _quantity(_SIZE_UNITS, "a size", "1MiB", low, high)


def duration_text(microseconds: int) -> str:
    """Return the shortest exact text of a duration, as the configuration would write it."""
    return _shortest(microseconds, _DURATION_UNITS, "0s")


def size_text(count: int) -> str:
    """Return the shortest exact text of a number of bytes, as the configuration would write it."""
    return _shortest(count, _SIZE_UNITS, "0B")


def _shortest(value: int, units: dict[str, int], zero: str) -> str:
    if value == 0:
        return zero
    name, factor = next((name, factor) for name, factor in reversed(units.items()) if value % factor == 0)
    return f"{value // factor}{name}"


def _quantity(units: dict[str, int], noun: str, example: str, low: str, high: str) -> Callable[[object], int]:
    form = f'{noun} is an integer and one of {", ".join(units)}, for example "{example}"'
    floor, ceiling = _parse(low, units), _parse(high, units)

    def convert(value: object) -> int:
        if not isinstance(value, str):
            raise BadValue(f"must be {noun} in quotes, not {kind_of(value)}", form)
        parsed = _parse(value, units)
        if parsed is None:
            raise BadValue(f'"{value}" is not {noun}', form)
        if floor is None or ceiling is None or not floor <= parsed <= ceiling:
            raise BadValue(f'"{value}" is out of range', f'allowed: "{low}" to "{high}"')
        return parsed

    return convert


def _parse(value: str, units: dict[str, int]) -> int | None:
    match = _QUANTITY.fullmatch(value.strip())
    if match is None or match.group(2) not in units:
        return None
    return int(match.group(1)) * units[match.group(2)]
