"""Typed look-ups of what only ruleset files have: names, versions, whole numbers in a range, durations, parameters.

Owns: the shape of names and of lengths of time, and the limits on sizes. Leaves to `syntax` which keys each table has.
"""

from __future__ import annotations

import keyword
import re
from typing import Any, Final

from tidewaiter.core.scenarios.expressions import parse_number
from tidewaiter.core.toml_source import DecimalText, KeyPath, Table, TomlSource

MAX_NUMBER: Final = 10**18
RESERVED: Final = frozenset({"p", "true", "false", "flags", "list", "a"})
NAME_RULE: Final = "lower-case letters, digits and _, beginning with a letter, at most 64"
ID_RULE: Final = "letters, digits, - and _, beginning with a letter, at most 64"
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
SCENARIO_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")
MICROSECONDS: Final = 1_000_000
_LENGTH: Final = re.compile(r"(0|[1-9][0-9]{0,8})([smhd])\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_SECONDS: Final = 100 * 366 * 86400
_UTC_OFFSET: Final = re.compile(r"([+-])([01][0-9]|2[0-3]):([0-5][0-9])\Z")

Param = str | int | bool | DecimalText


class RulesTable(Table):
    """Look-ups of what only rulesets have."""

    def __init__(self, source: TomlSource, path: KeyPath, data: object, keys: tuple[str, ...]) -> None:
        """Raise ConfigError where `data` is no table, or has a key that is none of `keys`."""
        super().__init__(source, path, data, hint=f"with the keys {', '.join(keys)}")
        self.only(keys)

    def version(self) -> int:
        """Return the `version`, which everything that is versioned must have."""
        value: int = self.take("version", int)
        if not 1 <= value < 2**31:
            raise self.error("version", "must be a whole number from 1 up")
        return value

    def whole(self, key: str, least: int, most: int, default: Any = ...) -> Any:  # noqa: ANN401 - int, or the default
        """Return a whole number from `least` to `most`."""
        value = self.take(key, int, default)
        if key in self.data and not least <= value <= most:
            raise self.error(key, f"{value} is out of range", hint=f"allowed: {least} to {most}")
        return value

    def seconds(self, key: str, *, least: int, default: Any = ...) -> int | None:  # noqa: ANN401 - None or "required"
        """Return a length of time in seconds, at least `least` of them."""
        if type(self.data.get(key)) is int:
            raise self.error(key, "must be text in quotes, not an integer", hint='with its unit, for example "72h"')
        text = self.take(key, str, default)
        if text is None:
            return None
        match = _LENGTH.match(text)
        seconds = int(match[1]) * _SECONDS[match[2]] if match else -1
        if not least <= seconds <= _MAX_SECONDS:
            hint = f"a whole number and s, m, h or d, from {least}s to 100 years, for example '10s', '5m', '24h', '90d'"
            raise self.error(key, f"{text!r} is not a duration", hint=hint)
        return seconds

    def length(self, key: str) -> int:
        """Return a length of time of at least a second in microseconds, 0 if the key is not there."""
        return (self.seconds(key, least=1, default=None) or 0) * MICROSECONDS

    def matching(self, key: str, pattern: re.Pattern[str], rule: str) -> str:
        """Return a text that matches `pattern`; `rule` says so in words."""
        value: str = self.take(key, str)
        if not pattern.match(value):
            raise self.error(key, f"{value!r} is not a usable name", hint=rule)
        return value

    def brief(self, key: str, most: int, default: Any = "") -> Any:  # noqa: ANN401 - str, or the default
        """Return a text of at most `most` characters."""
        value = self.take(key, str, default)
        if isinstance(value, str) and len(value) > most:
            raise self.error(key, f"is {len(value)} characters long", hint=f"at most {most}")
        return value

    def utc_offset(self, key: str) -> int | None:
        """Return a time zone offset such as ``+01:00`` in seconds, None if the key is not there."""
        text = self.take(key, str, None)
        if text is None:
            return None
        match = _UTC_OFFSET.match(text)
        if match is None:
            raise self.error(
                key, f"{text!r} is not an offset from UTC", hint="for example '+01:00', '-05:30', '+00:00'"
            )
        seconds = int(match[2]) * 3600 + int(match[3]) * 60
        return -seconds if match[1] == "-" else seconds

    def names(self, key: str, what: str, most: int) -> tuple[str, ...]:
        """Return a list of 1 to `most` distinct texts; one text alone counts as a list of one."""
        value = self.data[key]
        items = [value] if type(value) is str else value
        if not isinstance(items, list) or not items or not all(type(item) is str and item for item in items):
            raise self.error(key, f"must be {what}")
        for place, item in enumerate(items):
            if item in items[:place]:
                raise self.source.error((*self.path, key, place), f"{item} is named twice", hint="name it once")
        if len(items) > most:
            raise self.error(key, f"{len(items)} are too many", hint=f"at most {most}")
        return tuple(items)


def check_name(source: TomlSource, path: KeyPath) -> None:
    """Raise ConfigError where the last key of `path` cannot be a name in conditions."""
    name = str(path[-1])
    if not NAME.match(name) or keyword.iskeyword(name) or name in RESERVED:
        hint = f"{NAME_RULE}; not {', '.join(sorted(RESERVED))}, not a word such as and, or, in"
        raise source.error(path, "is not a usable name", hint=hint, key=True)


def check_id(source: TomlSource, path: KeyPath, what: str) -> None:
    """Raise ConfigError where the last key of `path` cannot be the id of a scenario or typology."""
    if not SCENARIO_ID.match(str(path[-1])):
        raise source.error(path, f"is not a usable {what} id", hint=ID_RULE, key=True)


def constant(source: TomlSource, path: KeyPath, value: object, *, longest: int) -> Param:
    """Return a number, text or truth value, a decimal number without underscores: as JSON has it, wherever it is shown.

    Raises ConfigError for anything else, for a number that expressions do not know either, and for a too long one.
    """
    if not isinstance(value, str | int):
        raise source.error(path, "must be a number, a text or a truth value")
    if isinstance(value, str) and len(value) > longest:
        raise source.error(path, f"is {len(value)} characters long", hint=f"at most {longest}")
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise source.error(path, "is too large a number", hint=f"at most {MAX_NUMBER}")
    if isinstance(value, DecimalText):
        if parse_number(value) is None:
            hint = "write plain digits, at most 18 before the point and 9 after it"
            raise source.error(path, f"{value} is not a number that can be used here", hint=hint)
        return DecimalText(value.replace("_", ""))
    return value
