"""A contract for an input that has none: what all of its values have in common, written as a contract file.

Owns: the type that a column of texts can have, and the text of the contract. Leaves the forms of texts to
`text_values`, holding the input against the result to `validation`, and reading every record to the caller: a contract
from the first thousand would halt at the first that is different.

The result is cautious: a type is given only where every value has it, nothing is bounded (what came today is no limit
for tomorrow), and numbers that would lose something as numbers stay texts: leading zeros, more than 64 bits without a
point, exponents. A column with an absent value is optional; one with none but absent values is an optional text.

Invariants: the contract compiles and accepts every record it was inferred from; the order and the sizes of the frames
change nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.columns import BOOLEAN, DATE, FLOAT, INTEGER, MAX_SCALE, PRECISION, TIMESTAMP, ColumnType
from tidewaiter.core.pipelines.text_values import form_of, read_texts

if TYPE_CHECKING:
    import polars as pl

    from tidewaiter.core.pipelines.columns import Schema

_MAX_LENGTH: Final = 65_535
_FIRST_LOOK: Final = 256
_NO_OPPOSITE: Final = -(2**63)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_PLAIN: Final = {"integer": INTEGER, "boolean": BOOLEAN, "date": DATE, "timestamp": TIMESTAMP}
_ANY_DECIMAL: Final = form_of(ColumnType("decimal", MAX_SCALE))
_NAME: Final = re.compile(r"[^A-Za-z0-9_]+")


class Inference:
    """The contract of an input, found frame by frame."""

    def __init__(self, columns: tuple[str, ...], given: Schema | None = None) -> None:
        """`columns` are those of the input, in order; `given` their types, None where texts are to be understood."""
        self._columns = {name: _Column(given[name] if given else None) for name in columns}
        self._records = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Look at the records of `frame`. Raises ConfigError for values that no contract accepts."""
        self._records += frame.height
        for name, column in self._columns.items():
            if column.given == FLOAT and not frame[name].is_finite().all():
                hint = "give a contract: a record without a finite number there is rejected then"
                raise ConfigError(f"column {name}: holds NaN or an infinite number", hint=hint)
            column.add(frame[name])

    def contract(self, name: str) -> str:
        """Return the text of the contract called `name`, version 1."""
        records = f"{self._records} record{'s' * (self._records != 1)}"
        lines = [
            f"# Inferred from {records}: every one of them meets it. Read it, tighten it, and pin it.",
            "# Identifiers made of digits (of a patient, a provider, a place) are best a string: no one adds them up.",
            "# Amounts are written with all decimals of their column.",
            "# Reference: config/README.md, Contracts.",
            "",
            f"contract = {toml_text(name)}",
            "version = 1",
            'unknown_fields = "refuse"',
            "",
            "[field]",
        ]
        taken = set(self._columns)
        for number, (source, column) in enumerate(self._columns.items(), 1):
            own = source if usable_name(source) else _free_name(source, number, taken)
            keys = column.keys()
            if own != source:
                keys["from"] = toml_text(source)
            lines.append(f"{toml_key(own)} = {{ {', '.join(f'{key} = {value}' for key, value in keys.items())} }}")
        return "\n".join(lines) + "\n"


def contract_name(file: str) -> str:
    """Return the name of the contract inferred from `file`: ``data/sample_input.csv.gz`` gives ``sample_input``."""
    stem = file.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].split(".", 1)[0]
    return _NAME.sub("_", stem).strip("_").lower() or "input"


def toml_text(text: str) -> str:
    """Return `text` as a TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(name: str) -> str:
    """Return `name` as a TOML key."""
    return name if _BARE_KEY.match(name) else toml_text(name)


def usable_name(name: str) -> bool:
    """Return whether a field of a pipeline's contract can have this name."""
    return bool(name) and not name.startswith("__")


def _free_name(source: str, number: int, taken: set[str]) -> str:
    name = source.lstrip("_") or f"column_{number}"
    while name in taken:
        name = f"{name}_{number}"
    taken.add(name)
    return name


@dataclass
class _Column:
    """What the values of one column have had in common so far."""

    given: ColumnType | None
    optional: bool = False
    seen: bool = False
    length: int = 0
    kinds: list[str] = field(default_factory=lambda: ["integer", "decimal", "boolean", "date", "timestamp"])
    scale: int = 0
    whole: int = 0
    pointed: bool = False

    def add(self, cells: pl.Series) -> None:
        self.optional |= cells.null_count() > 0
        if cells.null_count() == cells.len():
            return
        self.seen = True
        if self.given == INTEGER and cells.min() == _NO_OPPOSITE:
            self.given = ColumnType("decimal")  # no integer of a pipeline: it has no absolute value in 64 bits
        if self.given is None or self.given.kind == "string":
            self.length = max(self.length, _largest(cells.str.len_chars()))
        if self.given is None and self.kinds:
            first = cells.drop_nulls().head(_FIRST_LOOK)
            self.kinds = [kind for kind in self.kinds if _all_are(first, kind)]
            self.kinds = [kind for kind in self.kinds if _all_are(cells, kind)]
            if "decimal" in self.kinds:
                self._measure(cells)

    def _measure(self, texts: pl.Series) -> None:
        digits = texts.str.strip_prefix("-")
        point = digits.str.find(".", literal=True)
        lengths = digits.str.len_bytes()
        self.pointed |= point.null_count() < point.len()
        self.scale = max(self.scale, _largest(lengths - point - 1))
        self.whole = max(self.whole, _largest(point.fill_null(lengths)))

    def keys(self) -> dict[str, str]:
        """Return the keys of the field, values as TOML."""
        found = self.given or self._type()
        keys = {"type": f'"{found.kind}"'}
        if found.kind == "decimal":
            keys["scale"] = str(found.scale)
        if self.length > _MAX_LENGTH:
            keys["max_length"] = str(self.length)
        if self.optional or not self.seen:
            keys["required"] = "false"
        return keys

    def _type(self) -> ColumnType:
        if self.seen:
            for kind, plain in _PLAIN.items():
                if kind in self.kinds:
                    return plain
            # whole numbers of more than 64 bits are numbers of accounts and the like
            if "decimal" in self.kinds and self.pointed and self.whole + self.scale <= PRECISION:
                return ColumnType("decimal", self.scale)
        return ColumnType("string")


def _all_are(texts: pl.Series, kind: str) -> bool:
    if kind == "decimal":
        return bool(texts.str.contains(_ANY_DECIMAL).all())
    return read_texts(texts, _PLAIN[kind]).null_count() == texts.null_count()


def _largest(numbers: pl.Series) -> int:
    found = numbers.max()
    return 0 if found is None else int(str(found))
