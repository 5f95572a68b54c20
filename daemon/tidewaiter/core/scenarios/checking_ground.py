"""What expressions stand on: fields, derived fields, lists, names of metrics, parameters, and what may stand where.

Owns: which fields rules can use and as what, the places of expressions, and parameters as they are used. Leaves to
`checking_expressions` what an expression makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.contract import MAX_ID_LENGTH
from tidewaiter.core.scenarios.expressions import parse_number
from tidewaiter.core.scenarios.terms import BOOLEAN, INTEGER, NUMBER, OPEN, STRING, TEXT, Term, Type
from tidewaiter.core.toml_source import DecimalText, KeyPath, TomlSource, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidewaiter.core.contract import Contract, Field
    from tidewaiter.core.scenarios.expressions import Node
    from tidewaiter.core.scenarios.model import LoadedList
    from tidewaiter.core.scenarios.tables import Param

GROUPING: Final = ("string", "enum")


@dataclass
class Ground:
    """The contract, the lists, the derived fields so far, and the names of the metrics."""

    source: TomlSource
    contract: Contract
    lists: dict[str, LoadedList] = field(default_factory=dict)
    derived: dict[str, Term] = field(default_factory=dict)
    metric_names: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)  # derived fields that are not read yet
    nodes: dict[KeyPath, Node] = field(default_factory=dict)

    def fields(self, *kinds: str) -> list[str]:
        """Return the names of the usable fields of the contract, of these kinds or of all."""
        return [
            item.name for item in self.contract.fields if usable(item) is None and (not kinds or item.kind in kinds)
        ]

    def grouping(self, path: KeyPath, name: str) -> None:
        """Raise ConfigError where `name` is no field that events can be grouped by."""
        fits = self.fields(*GROUPING)
        if name not in fits:
            raise self.source.error(path, f"{name!r} is not a field to group by", hint=nearest(name, fits))


@dataclass(frozen=True)
class Place:
    """What may not be named in one kind of place, and why: an empty text allows it."""

    metrics: str = ""
    params: str = ""
    earlier: str = ""


_FIELDS_ONLY: Final = "fields, derived fields and lists"
_NOT_HERE: Final = "`a.` stands for the event found by `after`; it can be read in when, measure, threshold and reason"
DERIVED: Final = Place(
    f"a derived field knows {_FIELDS_ONLY} only", "a derived field has no parameters: write the value itself", _NOT_HERE
)
WHERE: Final = Place("a metric's `where` knows fields only, no other metrics", earlier=_NOT_HERE)
ON: Final = Place(
    "`on` says which events are looked at and knows fields only; put the metric into `when`", earlier=_NOT_HERE
)
AFTER: Final = Place("`after.where` knows fields only; put the metric into `when`", earlier=_NOT_HERE)
POPULATION: Final = Place(
    f"a segment's `where` knows {_FIELDS_ONLY} only",
    "a segment's `where` has no parameters: write the value itself",
    _NOT_HERE,
)
CONDITION: Final = Place()


def usable(item: Field) -> str | None:
    """Return why a field cannot be used in rules, None if it can."""
    if item.kind == "timestamp":
        return "is a time; time is said with windows only"
    if not item.name.isascii() or not item.name.isidentifier() or item.name.startswith("_"):
        return "has a name that rules cannot say"
    return None


def type_of(item: Field) -> Type:
    """Return the type of a usable field."""
    if item.kind == "enum":
        return Type("enum", values=item.values)
    if item.kind == "money":
        return Type("money", scale=item.scale)
    return {"string": STRING, "integer": INTEGER, "boolean": BOOLEAN}[item.kind]


def may_be_absent(item: Field) -> bool:
    """Whether an event may come without a value of this field."""
    return not item.required and item.default is None


def unbounded(item: Field) -> tuple[str, str] | None:
    """Return why a field cannot be shown in a flag, whose size is bounded, and what to do; None if it can."""
    if item.kind != "string" or (item.max_length is not None and item.max_length <= MAX_ID_LENGTH):
        return None
    length = "of any length" if item.max_length is None else f"{item.max_length} characters long"
    hint = f"give the field max_length = {MAX_ID_LENGTH} or less in the contract"
    return f"{item.name} may be {length}, too long to be shown in a flag", hint


class Params:
    """The parameters of a scenario in one variant: which were used, and as what. None: they are not known yet."""

    def __init__(self, values: Mapping[str, Param] | None, origins: Mapping[str, KeyPath] | None = None) -> None:
        """`origins` says where a segment gives a parameter its own value."""
        self.open = values is None
        self.values: Mapping[str, Param] = values or {}
        self.origins: Mapping[str, KeyPath] = origins or {}
        self.used: dict[str, tuple[Type, Any] | None] = {}

    def term(self, name: str) -> Term:
        """Return the parameter as a constant whose type is still open."""
        self.used.setdefault(name, None)
        if self.open:
            return Term("const", OPEN)
        value = self.values[name]
        if isinstance(value, bool):
            return Term("const", BOOLEAN, value=value)
        if isinstance(value, int):
            return Term("const", NUMBER, value=Fraction(value))
        if isinstance(value, DecimalText) and (number := parse_number(value)) is not None:
            return Term("const", NUMBER, value=number)
        return Term("const", TEXT, value=str(value))

    def resolved(self) -> dict[str, tuple[Type, Any]]:
        """Return each parameter with the type it is used as; one used only inside arithmetic stays as written."""
        found: dict[str, tuple[Type, Any]] = {}
        for name, value in self.values.items():
            as_written = BOOLEAN if isinstance(value, bool) else TEXT if type(value) is str else NUMBER
            found[name] = self.used.get(name) or (as_written, str(value) if isinstance(value, str) else value)
        return found

    def shown(self, name: str) -> Term:
        """Return the parameter as it is shown in a text: a constant of the type it is used as, or as written."""
        kind, value = self.resolved()[name]
        if kind == NUMBER:
            kind, value = (INTEGER, value) if isinstance(value, int) else (TEXT, value)
        return Term("const", kind, value=value)
