"""What a contract declares about each field: its kind, bounds, default, and where in a line its value stands.

Owns: the keys of ``[field]``, a field as a value, and the msgspec type that admits exactly its values. Leaves to
`contract_shape` how fields make up an object, and to `contract` which of them are the id, the time and the subject.
"""

from __future__ import annotations

import datetime as dt
import keyword
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from tidewaiter.core.toml_source import Table, TomlSource, nearest

KINDS: Final = ("string", "enum", "money", "integer", "boolean", "timestamp")
MAX_MINOR_UNITS: Final = 10**15
MAX_SCALE: Final = 8
MAX_STEPS: Final = 8
"""How deep in a line a value may stand: keys from the outermost object to the value."""
_CURRENCY: Final = "currency"
_CURRENCY_KINDS: Final = ("string", "enum")
_INT64: Final = 2**63 - 1
_COMMON: Final = ("type", "required", "default", "title", "from")
_KEYS_OF: Final = {
    "string": ("min_length", "max_length"),
    "enum": ("values",),
    "money": ("scale", "currency", "above", "at_least", "below", "at_most"),
    "integer": ("above", "at_least", "below", "at_most"),
    "boolean": (),
    "timestamp": (),
}


class Field(Struct, frozen=True):
    """One declared field. `scale` is the number of decimals of a money field; bounds are in the field's own unit
    (minor units for money); `values` are the allowed texts of an enum in file order. `currency` is the field that says
    what a money field is counted in, None where none does.

    `source` is where the value stands in a line, its keys joined by dots; `path` is where it stands in the compiled
    event, attributes joined by dots: what `operator.attrgetter` takes, and what Python source may say.
    """  # noqa: D205 - one paragraph reads better than a forced summary line

    name: str
    kind: str
    required: bool = True
    default: str | int | bool | None = None
    scale: int = 0
    values: tuple[str, ...] = ()
    min_length: int = 0
    max_length: int | None = None
    above: int | None = None
    at_least: int | None = None
    below: int | None = None
    at_most: int | None = None
    currency: str | None = None
    source: str = ""
    path: str = ""

    @property
    def may_be_negative(self) -> bool:
        """Whether the bounds admit a value under zero."""
        return not ((self.above is not None and self.above >= 0) or (self.at_least is not None and self.at_least >= 0))


def read_fields(source: TomlSource, tables: dict[str, object]) -> tuple[Field, ...]:
    """Return the declared fields in file order, currencies resolved. Raises ConfigError."""
    fields = [_read_field(source, key, value) for key, value in tables.items()]
    by_name = {field.name: field for field in fields}
    return tuple(_with_currency(source, field, by_name) if field.kind == "money" else field for field in fields)


def _read_field(source: TomlSource, name: str, data: object) -> Field:
    path = ("field", name)
    # ASCII only: Python reads look-alike letters in generated source as plain ones, and would ask for another field
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or name.startswith("_") or name == "p":
        hint = "use letters a to z, digits and _, not p, not a Python keyword; `from` says what lines call it"
        raise source.error(path, "is not a usable field name", hint=hint, key=True)
    table = Table(source, path, data, hint="for example { type = 'string', max_length = 64 }")
    kind = table.one_of("type", KINDS)
    table.only((*_COMMON, *_KEYS_OF[kind]))
    required = table.take("required", bool, default=True)
    scale = table.take("scale", int, 2) if kind == "money" else 0
    if not 0 <= scale <= MAX_SCALE:
        raise table.error("scale", f"{scale} decimals are not supported", hint=f"allowed: 0 to {MAX_SCALE}")
    for one, other in (("above", "at_least"), ("below", "at_most")):
        if one in table.data and other in table.data:
            raise table.error(other, f"cannot stand beside {one}", hint="keep one of the two", key=True)
    bounds = {key: _bound(table, key, kind, scale) for key in ("above", "at_least", "below", "at_most")}
    values = _values(table) if kind == "enum" else ()
    if kind == "money":
        if bounds["below"] is None and bounds["at_most"] is None:
            bounds["at_most"] = MAX_MINOR_UNITS
        if bounds["above"] is None and bounds["at_least"] is None:
            bounds["at_least"] = -MAX_MINOR_UNITS
    _refuse_empty_range(table, bounds, MAX_MINOR_UNITS if kind == "money" else _INT64)
    min_length = table.take("min_length", int, 0) if kind == "string" else 0
    max_length = table.take("max_length", int, 65_535) if kind == "string" else None
    if kind == "string" and max_length is not None and not 0 <= min_length <= max_length:
        raise source.error(path, "min_length is above max_length", hint="swap them")
    currency = table.take("currency", str, None) if kind == "money" else None
    place = _place(table) if "from" in table.data else name
    field = Field(
        name=name, kind=kind, required=required, scale=scale, values=values,
        min_length=min_length, max_length=max_length, **bounds, currency=currency, source=place, path="",
    )  # fmt: skip
    return _with_default(table, field)


def _place(table: Table) -> str:
    """Return the keys under which the value stands, joined by dots."""
    place: str = table.take("from", str)
    steps = place.split(".")
    hint = f"keys joined by dots, 1 to {MAX_STEPS} of them, for example 'src.nameDest'"
    if len(steps) > MAX_STEPS:
        raise table.error("from", f"{place!r} has {len(steps)} keys", hint=hint)
    if not all(steps):
        raise table.error("from", f"{place!r} has an empty key", hint=hint)
    return place


def _with_currency(source: TomlSource, field: Field, by_name: dict[str, Field]) -> Field:
    """Return the money `field` with the currency it is counted in: the field it names, else one called `currency`."""
    if field.currency is None:
        usual = by_name.get(_CURRENCY)
        found = _CURRENCY if usual is not None and usual.kind in _CURRENCY_KINDS else None
        return msgspec.structs.replace(field, currency=found)
    usable = [name for name, other in by_name.items() if other.kind in _CURRENCY_KINDS]
    if field.currency not in by_name:
        problem = f"names no declared field: {field.currency!r}"
    elif field.currency not in usable:
        problem = f"{field.currency} must be a string or enum field"
    else:
        return field
    raise source.error(("field", field.name, "currency"), problem, hint=nearest(field.currency, usable))


def _with_default(table: Table, field: Field) -> Field:
    if "default" not in table.data:
        return field
    if field.required:
        raise table.error("default", "a required field has no default", hint="add required = false", key=True)
    value = table.data["default"]
    if field.kind in ("money", "timestamp"):
        raise table.error(
            "default", f"a {field.kind} has no default", hint="leave it out: absent stays unknown", key=True
        )
    try:
        msgspec.convert(value, field_type(field))
    except msgspec.ValidationError as error:
        raise table.error("default", str(error), hint="give a value the field itself would accept") from error
    return msgspec.structs.replace(field, default=value)


def _bound(table: Table, key: str, kind: str, scale: int) -> int | None:
    if key not in table.data:
        return None
    value = table.data[key]
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InvalidOperation
        units = Decimal(value).scaleb(scale)
    except ArithmeticError:  # no number at all, or one beyond what Decimal can scale
        hint = "write money as text, for example '1000000.00'" if kind == "money" else "write a whole number"
        raise table.error(key, f"{value!r} is not an amount", hint=hint) from None
    if units != units.to_integral_value() or abs(units) > (MAX_MINOR_UNITS if kind == "money" else _INT64):
        raise table.error(key, f"{value!r} is out of range", hint=f"at most {scale} decimals and 10^15 minor units")
    return int(units)


def _refuse_empty_range(table: Table, bounds: dict[str, int | None], largest: int) -> None:
    """Raise ConfigError where no value meets both bounds, so that every event would be rejected."""
    above, at_least, below, at_most = (bounds[key] for key in ("above", "at_least", "below", "at_most"))
    lowest = above + 1 if above is not None else -largest if at_least is None else at_least
    highest = below - 1 if below is not None else largest if at_most is None else at_most
    if lowest > highest:
        given = [key for key in ("above", "at_least", "below", "at_most") if key in table.data]
        said = " and ".join(f"{key} {table.data[key]}" for key in given)
        raise table.error(given[0], f"no value can be {said}", hint="give bounds with a value between them")


def _values(table: Table) -> tuple[str, ...]:
    values = table.take("values", list)
    if not values or not all(isinstance(value, str) and value for value in values) or len(set(values)) != len(values):
        raise table.error("values", "must be distinct, non-empty texts", hint="for example ['web', 'mobile']")
    return tuple(values)


def field_type(field: Field) -> Any:  # noqa: ANN401 - a type annotation is built
    """Return the annotated type that admits exactly the values of `field`."""
    limits: dict[str, Any] = {}
    for key, meta in (("above", "gt"), ("at_least", "ge"), ("below", "lt"), ("at_most", "le")):
        value = getattr(field, key)
        if value is not None:
            # the quotient of two integers is the double nearest to the exact amount
            limits[meta] = value / 10**field.scale if field.kind == "money" else value
    match field.kind:
        case "string":
            return Annotated[str, Meta(min_length=field.min_length, max_length=field.max_length)]
        case "enum":
            return Literal[field.values]
        case "money":
            return Annotated[float, Meta(**limits)]
        case "integer":
            limits = {**({} if "gt" in limits else {"ge": limits.get("ge", -_INT64)}), **limits}
            limits = {**({} if "lt" in limits else {"le": limits.get("le", _INT64)}), **limits}
            return Annotated[int, Meta(**limits)]
        case "boolean":
            return bool
        case _:
            return Annotated[dt.datetime, Meta(tz=True)]


def member_of(field: Field) -> Any:  # noqa: ANN401 - a defstruct member
    """Return the member of a Struct that holds `field`; absent is the default or None."""
    kind = field_type(field)
    if field.required:
        return (field.name, kind)
    if field.default is not None:
        return (field.name, kind, field.default)
    return (field.name, kind | None, None)
