"""Reading TOML that a person wrote, so that every complaint points at file, line and column.

Owns: parsing the text, finding the place of every key and value again, the typed look-ups that settings, contracts and
rulesets share, and the hint that names the nearest allowed name. Leaves to its callers which keys there are and what
they mean, and to `scenarios.expressions` what stands inside a quoted expression.

`tomllib` gives no positions, so a second, small scan of the same text finds them. The scan runs only after tomllib has
accepted the text and therefore need not judge it; it knows strings (all four kinds, with escapes), comments, tables,
inline tables and arrays, which is all that is needed to tell where a value begins and which character of the file is
the n-th character of a string.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidewaiter.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

KeyPath = tuple[str | int, ...]

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE: Final = re.compile(r"[^,\]}\n#]*")
_BLANK: Final = re.compile(r"[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_JOINED_LINES: Final = re.compile(r"\\[ \t]*\n\s*")
_TOML_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_CUT_SHORT: Final = re.compile(r"""[=(,\[ ]["]$""")  # a condition that ended where a text in it began: "x == "
_ESCAPE_LENGTH: Final = {"u": 6, "U": 10}


class DecimalText(str):
    """A TOML number with a point, kept as written: binary floating point never touches an amount."""

    __slots__ = ()


_WANTED: Final = {str: "text in quotes", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}
_FOUND: Final[dict[type, str]] = {
    str: "a string",
    int: "an integer",
    bool: "a boolean",
    float: "a decimal number",
    DecimalText: "a decimal number",
    list: "an array",
    dict: "a table",
}


class _Mark(NamedTuple):
    """Where a key stands and where its value begins; `content` is the first character inside a string's quotes."""

    key: int
    value: int
    quote: str = ""
    content: int = 0


class TomlSource:
    """One TOML file: its parsed `data`, and errors that point into its text.

    With `pictures`, errors end with the line in question and a caret under the column. With `exact`, a number with a
    point is a DecimalText.
    """

    def __init__(self, text: bytes, file: str, *, pictures: bool = False, exact: bool = False) -> None:
        """Parse `text`. Raises ConfigError, with the line and column where it is not UTF-8 or not TOML."""
        self.file = file
        self._pictures = pictures
        try:
            self.text = text.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            self.text = text[: error.start].decode("utf-8").replace("\r\n", "\n")
            what = f"byte {error.start} is not UTF-8"
            raise self._at(len(self.text), what, "save the file as UTF-8") from None
        try:
            self.data: dict[str, Any] = tomllib.loads(self.text, parse_float=DecimalText if exact else float)
            self._marks = _Scan(self.text).marks
        except tomllib.TOMLDecodeError as error:
            raise self._not_toml(str(error)) from None
        except ValueError as error:  # what int() says of a number with thousands of digits
            raise ConfigError(f"{file}: is not valid TOML: {error}", hint="correct the syntax") from None
        except RecursionError:
            raise ConfigError(f"{file}: is nested too deeply", hint="flatten it") from None

    def line(self, *path: str | int) -> int:
        """Return the 1-based line on which the key `path` stands, or the nearest table around it."""
        return self.text.count("\n", 0, self._mark(path).key) + 1

    def error(
        self, path: KeyPath, problem: str, *, hint: str = "", at: int | None = None, key: bool = False
    ) -> ConfigError:
        """Return the error ``FILE:LINE:COLUMN: a.b.c: problem`` for `path`.

        It points at the value, at character `at` of it, or at the `key` itself; where there is no such key, at the
        nearest table around it.
        """
        mark = self._mark(path)
        offset = mark.key if key else mark.value if at is None else self._inside(mark, at)
        return self._at(offset, f"{'.'.join(map(str, path))}: {problem}", hint)

    def _at(self, offset: int, message: str, hint: str) -> ConfigError:
        start = self.text.rfind("\n", 0, offset) + 1
        line, column = self.text.count("\n", 0, offset) + 1, offset - start + 1
        where = f"{self.file}:{line}:{column}: {message}"
        if not self._pictures:
            return ConfigError(where, hint=hint)
        end = self.text.find("\n", offset)
        shown = self.text[start : len(self.text) if end < 0 else end]
        # a tab before the caret must be as wide as the tab above it
        caret = "".join("\t" if character == "\t" else " " for character in shown[: column - 1]) + "^"
        picture = f"\n    {shown}\n    {caret}"
        # the picture goes last, so that message and hint stay one readable line
        return ConfigError(where, hint=hint + picture) if hint else ConfigError(where + picture)

    def _not_toml(self, message: str) -> ConfigError:
        place = _TOML_PLACE.search(message)
        if place is None:
            return ConfigError(f"{self.file}: is not TOML: {message}")
        lines = self.text.split("\n")
        line = int(place[1]) if place[1] else len(lines)
        column = int(place[2]) if place[2] else len(lines[-1]) + 1
        offset = sum(len(text) + 1 for text in lines[: line - 1]) + column - 1
        hint = ""
        if _CUT_SHORT.search(lines[line - 1][: column - 1]) and '"' in lines[line - 1][column - 1 :]:
            hint = "a text inside a text in double quotes stands in single quotes: \"x == 'y'\""
        return self._at(offset, f"is not TOML: {message[: place.start()]}", hint)

    def _mark(self, path: KeyPath) -> _Mark:
        while path and path not in self._marks:
            path = path[:-1]
        return self._marks.get(path, _Mark(0, 0))

    def _inside(self, mark: _Mark, index: int) -> int:
        """Return the file offset of character `index` of the string at `mark`."""
        if not mark.quote:
            return mark.value
        offset = mark.content
        if mark.quote[0] == "'":
            return offset + index
        while True:
            # an escaped line end, with the white space after it, stands for no character at all
            while joined := _JOINED_LINES.match(self.text, offset):
                offset = joined.end()
            if index == 0:
                return offset
            escaped = self.text[offset] == "\\"
            offset += _ESCAPE_LENGTH.get(self.text[offset + 1], 2) if escaped else 1
            index -= 1


class Table:
    """Typed look-ups in the table at `path` of a file. A key that is not known is an error, never ignored."""

    def __init__(
        self, source: TomlSource, path: KeyPath, data: object, *, noun: str = "a table", hint: str = ""
    ) -> None:
        """Raise ConfigError where `data`, which stands at `path`, is no table: it must be `noun`."""
        if not isinstance(data, dict):
            raise source.error(path, f"must be {noun}, not {kind_of(data)}", hint=hint)
        self.source = source
        self.path = path
        self.data: dict[str, Any] = data

    def error(self, name: str, problem: str, *, hint: str = "", key: bool = False) -> ConfigError:
        """Return the error about the value of `name`, or about the `key` itself."""
        return self.source.error((*self.path, name), problem, hint=hint, key=key)

    def only(self, allowed: Iterable[str], *, quote: str = "'") -> None:
        """Raise ConfigError for the first key that is none of `allowed`, naming the nearest of them in `quote`s."""
        names = list(allowed)
        for name in self.data:
            if name not in names:
                raise self.error(name, "unknown key", hint=nearest(name, names, quote=quote), key=True)

    def take(self, name: str, kind: type, default: Any = ...) -> Any:  # noqa: ANN401 - TOML values are untyped until here
        """Return the value of `name`, of exactly the type `kind`; `default`, or an error where there is none."""
        if name not in self.data:
            if default is not ...:
                return default
            raise self.error(name, "is missing", hint=f"it must be {_WANTED[kind]}", key=True)
        value = self.data[name]
        if type(value) is not kind:  # a boolean is no number here, and a DecimalText no text
            raise self.error(name, f"must be {_WANTED[kind]}, not {kind_of(value)}")
        return value

    def one_of(self, name: str, allowed: Iterable[str], default: Any = ...) -> str:  # noqa: ANN401 - a str or "required"
        """Return the text of `name`, which must be one of `allowed`."""
        names = list(allowed)
        if default is ... and name not in self.data:
            raise self.error(name, "is missing", hint=f"allowed: {', '.join(names)}", key=True)
        value: str = self.take(name, str, default)
        if value not in names:
            raise self.error(name, f"{value!r} is not allowed", hint=nearest(value, names))
        return value


def nearest(name: str, allowed: Iterable[str], *, quote: str = "'", listing: str = "") -> str:
    """Return the hint for a name that is none of `allowed`: the nearest one in `quote`s, then all, or `listing`."""
    names = list(allowed)
    close = difflib.get_close_matches(name.lower(), [each.lower() for each in names], 1, 0.5)
    near = next((each for each in names if close and each.lower() == close[0]), None)
    listing = listing or f"allowed: {', '.join(names) or 'none'}"
    return listing if near is None else f"did you mean {quote}{near}{quote}? {listing}"


def kind_of(value: object) -> str:
    """Return the TOML word for a value's type, with its article."""
    return _FOUND.get(type(value), "a date or time")


class _Scan:
    """One walk over a text that is known to be TOML; `marks` says where each key and value stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.marks: dict[KeyPath, _Mark] = {}
        self._elements: dict[KeyPath, int] = {}
        table: KeyPath = ()
        while self._skip(_GAP) < len(text):
            start = self.position
            if text[start] == "[":
                table = self._header()
                self._mark(table, _Mark(start, start))
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.position)
        self.position = match.end() if match else self.position
        return self.position

    def _header(self) -> KeyPath:
        brackets = 2 if self.text.startswith("[[", self.position) else 1
        self.position += brackets
        path = self._keys()
        self.position += brackets
        if brackets == 1:
            return path
        self._elements[path] = self._elements.get(path, -1) + 1
        return (*path, self._elements[path])

    def _pair(self, table: KeyPath) -> None:
        start = self.position
        path = table + self._keys()
        self._mark(path[:-1], _Mark(start, start))
        self.position += 1  # =
        self._skip(_BLANK)
        self._value(path, start)

    def _mark(self, path: KeyPath, mark: _Mark) -> None:
        """Note the first place of `path` and of the tables around it that have no header of their own."""
        for length in range(1, len(path) + 1):
            self.marks.setdefault(path[:length], mark)

    def _keys(self) -> KeyPath:
        parts: list[str] = []
        while True:
            start = self._skip(_BLANK)
            if self.text[start] in "\"'":
                self._string()
                parts.append(next(iter(tomllib.loads(self.text[start : self.position] + "=0"))))
            else:
                parts.append(self.text[start : self._skip(_BARE_KEY)])
            if self.text[self._skip(_BLANK)] != ".":
                return tuple(parts)
            self.position += 1

    def _value(self, path: KeyPath, key: int) -> None:
        start, first = self.position, self.text[self.position]
        if first in "\"'":
            quote, content = self._string()
            self.marks[path] = _Mark(key, start, quote, content)
            return
        self.marks[path] = _Mark(key, start)
        if first == "[":
            self._sequence(path, "]")
        elif first == "{":
            self._sequence(path, "}")
        else:
            self._skip(_BARE_VALUE)

    def _sequence(self, path: KeyPath, closing: str) -> None:
        self.position += 1
        number = 0
        while self.text[self._skip(_GAP)] != closing:
            if self.text[self.position] == ",":
                self.position += 1
            elif closing == "}":
                self._pair(path)
            else:
                self._value((*path, number), self.position)
                number += 1
        self.position += 1

    def _string(self) -> tuple[str, int]:
        """Step over the string here; return its quotes and where its content begins."""
        mark = self.text[self.position]
        quote = mark * 3 if self.text.startswith(mark * 3, self.position) else mark
        self.position += len(quote)
        content = self.position + (len(quote) > 1 and self.text.startswith("\n", self.position))
        while not self.text.startswith(quote, self.position):
            self.position += 2 if mark == '"' and self.text[self.position] == "\\" else 1
        self.position += len(quote)
        extra = 0  # up to two quotes may stand right before the closing three
        while len(quote) > 1 and extra < 2 and self.text.startswith(mark, self.position):  # noqa: PLR2004 - said above
            self.position, extra = self.position + 1, extra + 1
        return quote, content
