"""Reading TOML that a person wrote, so that every complaint can point at file, line and column.

Owns: parsing with the standard library's `tomllib`, finding the line of a key again (tomllib keeps no positions), and
the typed, typo-aware look-ups that contracts and rulesets share. Leaves to its callers what the keys mean.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Any

from tidewaiter.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEADER = re.compile(r"^\s*\[+\s*([^\]]+?)\s*\]+")
_BARE_OR_QUOTED = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)\s*(\.|$|(?==))""")


def _dotted(text: str) -> list[str]:
    """Split a TOML key such as ``a."b.c".d`` into its parts."""
    parts, position = [], 0
    while match := _BARE_OR_QUOTED.match(text, position):
        parts.append(match[1].strip("\"'"))
        position = match.end()
        if match[2] != ".":
            break
    return parts


class TomlSource:
    """One TOML text with its file name; knows where its keys stand."""

    def __init__(self, text: bytes, file: str) -> None:
        """Parse `text`. Raises ConfigError with the line and column that tomllib names."""
        self.file = file
        try:
            self.text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: byte {error.start} is not UTF-8", hint="save the file as UTF-8") from error
        try:
            self.data: dict[str, Any] = tomllib.loads(self.text)
        except ValueError as error:  # TOMLDecodeError, and what int() says of a number with thousands of digits
            raise ConfigError(f"{file}: is not valid TOML: {error}", hint="correct the syntax at that place") from error
        except RecursionError as error:
            raise ConfigError(f"{file}: is nested too deeply", hint="flatten it") from error

    def line(self, *path: str) -> int:
        """Return the 1-based line where the key `path` is set, or the nearest enclosing one; 1 if nothing is found."""
        wanted = list(path)
        table: list[str] = []
        best, best_depth = 1, 0
        for number, line in enumerate(self.text.splitlines(), 1):
            stripped = line.strip()
            if not stripped or stripped.startswith("#"):
                continue
            if (header := _HEADER.match(line)) and "=" not in stripped.split("]")[0]:
                table = _dotted(header[1])
                here = table
            elif "=" in line:
                here = table + _dotted(line.split("=", 1)[0].strip())
            else:
                continue
            depth = len(here)
            if depth <= len(wanted) and here == wanted[:depth] and depth > best_depth:
                best, best_depth = number, depth
            if best_depth == len(wanted):
                break
        return best

    def error(self, path: Iterable[str], what: str, *, hint: str = "") -> ConfigError:
        """Return the ConfigError for the key `path`: ``FILE:LINE: a.b.c: what``."""
        keys = list(path)
        return ConfigError(f"{self.file}:{self.line(*keys)}: {'.'.join(keys) or 'file'}: {what}", hint=hint)

    def refuse_unknown(self, path: tuple[str, ...], table: dict[str, Any], allowed: Iterable[str]) -> None:
        """Raise ConfigError for the first key of `table` that is not `allowed`, naming the nearest allowed one."""
        names = sorted(allowed)
        for key in table:
            if key not in names:
                near = difflib.get_close_matches(key, names, 1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise self.error((*path, key), "unknown key", hint=f"{hint}allowed: {', '.join(names)}")

    def get(self, path: tuple[str, ...], table: dict[str, Any], key: str, kind: type, default: Any = ...) -> Any:  # noqa: ANN401 - TOML values are untyped until here
        """Return `table[key]`, which must be of `kind`; `default` where absent, or an error where there is none."""
        if key not in table:
            if default is ...:
                raise self.error((*path, key), "is missing", hint=f"add it as a {kind.__name__}")
            return default
        value = table[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error((*path, key), f"must be a {kind.__name__}, not {value!r}", hint="")
        return value
