"""The text of a ruleset and where everything in it stands, so that an error points at file, line and column.

Owns: parsing the TOML and finding the place of every key and value again. Leaves to `syntax` which keys there are, and
to `expressions` what stands inside a quoted expression.

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

MAX_RULESET_BYTES: Final = 1 << 20
Path = tuple[str | int, ...]

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE: Final = re.compile(r"[^,\]}\n#]*")
_BLANK: Final = re.compile(r"[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_TOML_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_ESCAPE_LENGTH: Final = {"u": 6, "U": 10}


class DecimalText(str):
    """A TOML number with a point, kept as written: binary floating point never touches an amount."""

    __slots__ = ()


class _Mark(NamedTuple):
    """Where a key stands and where its value begins; `content` is the first character inside a string's quotes."""

    key: int
    value: int
    quote: str = ""
    content: int = 0


class Source:
    """A ruleset file: its parsed `data`, and errors that point into its text."""

    def __init__(self, text: bytes, file: str) -> None:
        """Parse `text`. Raises ConfigError naming the line and column where it is not TOML."""
        self.file = file
        self._marks: dict[Path, _Mark] | None = None
        if len(text) > MAX_RULESET_BYTES:
            raise ConfigError(f"{file}: is {len(text)} bytes long", hint=f"a ruleset has at most {MAX_RULESET_BYTES}")
        try:
            self.text = text.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = text.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{file}:{line}: byte {error.start} is not UTF-8", hint="save it as UTF-8") from None
        try:
            self.data: dict[str, Any] = tomllib.loads(self.text, parse_float=DecimalText)
        except tomllib.TOMLDecodeError as error:
            raise self._not_toml(str(error)) from None
        except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
            raise ConfigError(f"{file}: cannot be read: {error}", hint="make it simpler") from None

    def line(self, *path: str | int) -> int:
        """Return the 1-based line on which the key `path` stands."""
        return self.text.count("\n", 0, self._mark(path).key) + 1

    def error(
        self, path: Path, problem: str, *, hint: str = "", at: int | None = None, key: bool = False
    ) -> ConfigError:
        """Return the error for `path`, pointing at its value, at character `at` of it, or at the `key` itself."""
        mark = self._mark(path)
        offset = mark.key if key else mark.value if at is None else self._inside(mark, at)
        return self._at(offset, f"{'.'.join(map(str, path))}: {problem}", hint)

    def unknown(self, path: Path, name: str, allowed: Iterable[str]) -> ConfigError:
        """Return the error for the key `name`, which is none of `allowed`, naming the nearest of them."""
        names = list(allowed)
        return self.error((*path, name), "unknown key", hint=nearest(name, names), key=True)

    def _at(self, offset: int, message: str, hint: str) -> ConfigError:
        start = self.text.rfind("\n", 0, offset) + 1
        end = self.text.find("\n", offset)
        shown = self.text[start : len(self.text) if end < 0 else end]
        line, column = self.text.count("\n", 0, offset) + 1, offset - start + 1
        # a tab before the caret must be as wide as the tab above it
        caret = "".join("\t" if character == "\t" else " " for character in shown[: column - 1]) + "^"
        picture = f"\n    {shown}\n    {caret}"
        where = f"{self.file}:{line}:{column}: {message}"
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
        return self._at(offset, f"is not TOML: {message[: place.start()]}", "")

    def _mark(self, path: Path) -> _Mark:
        if self._marks is None:
            self._marks = _Scan(self.text).marks
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
            while continued := re.compile(r"\\[ \t]*\n\s*").match(self.text, offset):
                offset = continued.end()
            if index == 0:
                return offset
            escaped = self.text[offset] == "\\"
            offset += _ESCAPE_LENGTH.get(self.text[offset + 1], 2) if escaped else 1
            index -= 1


class _Scan:
    """One walk over a text that is known to be TOML; `marks` says where each key and value stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.marks: dict[Path, _Mark] = {}
        self._elements: dict[Path, int] = {}
        table: Path = ()
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

    def _header(self) -> Path:
        brackets = 2 if self.text.startswith("[[", self.position) else 1
        self.position += brackets
        path = self._keys()
        self.position += brackets
        if brackets == 1:
            return path
        self._elements[path] = self._elements.get(path, -1) + 1
        return (*path, self._elements[path])

    def _pair(self, table: Path) -> None:
        start = self.position
        path = table + self._keys()
        self._mark(path[:-1], _Mark(start, start))
        self.position += 1  # =
        self._skip(_BLANK)
        self._value(path, start)

    def _mark(self, path: Path, mark: _Mark) -> None:
        """Note the first place of `path` and of the tables around it that have no header of their own."""
        for length in range(1, len(path) + 1):
            self.marks.setdefault(path[:length], mark)

    def _keys(self) -> Path:
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

    def _value(self, path: Path, key: int) -> None:
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

    def _sequence(self, path: Path, closing: str) -> None:
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


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return the hint for a name that is none of `allowed`: the nearest one, then all of them."""
    names = list(allowed)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    listed = ", ".join(names) or "none"
    return f"did you mean {near[0]!r}? allowed: {listed}" if near else f"allowed: {listed}"
