"""What a contract declares about each field: its kind, bounds, default, and where in a line its value stands.

Owns: the keys of ``[field]``, a field as a value, and the msgspec type that admits exactly its values. Leaves to
`contract_shape` how fields make up an object, to `contract` which of them are the id, the time and the subject, and to
`contract_bounds` reading bounds.

Some kinds and keys are for pipelines only: they take a whole column, a second file, or time without a promise.
"""

from __future__ import annotations

import datetime as dt
import keyword
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from tidewaiter.core.contract_bounds import INT64, read_bounds
from tidewaiter.core.contract_codes import CODE_FORMS
from tidewaiter.core.contract_pattern import PatternError, plain_pattern
from tidewaiter.core.toml_source import Table, TomlSource, nearest

KINDS: Final = ("string", "enum", "money", "integer", "boolean", "timestamp")
TABLE_KINDS: Final = (*KINDS, "decimal", "date", "float")
"""The kinds of a pipeline's columns."""
MAX_SCALE: Final = 8
MAX_DECIMAL_SCALE: Final = 18
MAX_STEPS: Final = 8
"""How deep in a line a value may stand: keys from the outermost object to the value."""
_CURRENCY: Final = "currency"
_CURRENCY_KINDS: Final = ("string", "enum")
_COMMON: Final = ("type", "required", "default", "title", "from")
_BOUNDS: Final = ("above", "at_least", "below", "at_most")
_KEYS_OF: Final = {
    "string": ("min_length", "max_length"),
    "enum": ("values",),
    "money": ("scale", "currency", *_BOUNDS),
    "integer": _BOUNDS,
    "boolean": (),
    "timestamp": (),
    "decimal": ("scale", *_BOUNDS),
    "date": ("at_least", "at_most"),
    "float": (),
}
_TABLE_KEYS: Final = ("required_when",)
_TABLE_KEYS_OF: Final = {"string": ("pattern", "list", "column", "check")}
_FOR_PIPELINES: Final = "is for pipelines: a stream's contract cannot have it"
_STREAM_HINT: Final = "leave it out, or check it in a pipeline or a scenario"


class Reference(Struct, frozen=True):
    """A list of texts kept in a file of its own, relative to the contract; `column` is None for a file of lines."""

    file: str
    column: str | None = None


class Field(Struct, frozen=True):
    """One declared field. `scale` is the number of decimals of a money field; bounds are in the field's own unit
    (minor units for money); `values` are the allowed texts of an enum in file order. `currency` is the field that says
    what a money field is counted in, None where none does.

    `source` is where the value stands in a line, its keys joined by dots; `path` is where it stands in the compiled
    event, attributes joined by dots: what `operator.attrgetter` takes, and what Python source may say. In a pipeline
    `source` is the name of the input's column and `path` is empty; bounds of a date are days since 1970-01-01.

    `pattern` is as both engines read it; `check` is a name of CODE_FORMS; `required_when` is a condition as written.
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
    pattern: str | None = None
    reference: Reference | None = None
    check: str | None = None
    required_when: str | None = None

    @property
    def may_be_negative(self) -> bool:
        """Whether the bounds admit a value under zero."""
        return not ((self.above is not None and self.above >= 0) or (self.at_least is not None and self.at_least >= 0))


def read_fields(source: TomlSource, tables: dict[str, object], *, for_stream: bool = True) -> tuple[Field, ...]:
    """Return the declared fields in file order, currencies resolved. Raises ConfigError."""
    fields = [_read_field(source, key, value, for_stream=for_stream) for key, value in tables.items()]
    by_name = {field.name: field for field in fields}
    return tuple(_with_currency(source, field, by_name) if field.kind == "money" else field for field in fields)


def _read_field(source: TomlSource, name: str, data: object, *, for_stream: bool) -> Field:
    path = ("field", name)
    _check_name(source, name, for_stream=for_stream)
    table = Table(source, path, data, hint="for example { type = 'string', max_length = 64 }")
    kind = table.one_of("type", TABLE_KINDS if table.data.get("type") in TABLE_KINDS or not for_stream else KINDS)
    if for_stream:
        if kind not in KINDS:
            raise table.error("type", f"{kind} {_FOR_PIPELINES}", hint=f"allowed: {', '.join(KINDS)}")
        for key in (*_TABLE_KEYS, *_TABLE_KEYS_OF.get(kind, ())):
            if key in table.data:
                raise table.error(key, _FOR_PIPELINES, hint=_STREAM_HINT, key=True)
        table.only((*_COMMON, *_KEYS_OF[kind]))
    else:
        table.only((*_COMMON, *_KEYS_OF[kind], *_TABLE_KEYS, *_TABLE_KEYS_OF.get(kind, ())))
    required_when = table.take("required_when", str, None)
    required = table.take("required", bool, default=required_when is None)
    if required and required_when is not None:
        raise table.error("required", "is true, and required_when says when", hint="keep one of the two", key=True)
    scale = table.take("scale", int, 2) if kind in ("money", "decimal") else 0
    most = MAX_SCALE if kind == "money" else MAX_DECIMAL_SCALE
    if not 0 <= scale <= most:
        raise table.error("scale", f"{scale} decimals are not supported", hint=f"allowed: 0 to {most}")
    bounds = read_bounds(table, kind, scale)
    values = _values(table) if kind == "enum" else ()
    min_length = table.take("min_length", int, 0) if kind == "string" else 0
    max_length = table.take("max_length", int, 65_535) if kind == "string" else None
    if kind == "string" and max_length is not None and not 0 <= min_length <= max_length:
        raise source.error(path, "min_length is above max_length", hint="swap them")
    currency = table.take("currency", str, None) if kind == "money" else None
    place = name
    if "from" in table.data:
        place = _place(table) if for_stream else table.take("from", str)
    field = Field(
        name=name, kind=kind, required=required, scale=scale, values=values,
        min_length=min_length, max_length=max_length, **bounds, currency=currency, source=place, path="",
        pattern=_pattern(table), reference=_reference(table), check=_check(table), required_when=required_when,
    )  # fmt: skip
    return _with_default(table, field)


def _check_name(source: TomlSource, name: str, *, for_stream: bool) -> None:
    if for_stream:
        # ASCII only: Python reads look-alike letters in generated source as plain ones, and would ask for another field
        plain = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
        if not plain or name.startswith("_") or name == "p":
            hint = "use letters a to z, digits and _, not p, not a Python keyword; `from` says what lines call it"
            raise source.error(("field", name), "is not a usable field name", hint=hint, key=True)
    elif not name or name.startswith("__"):
        hint = "it is not empty and does not begin with __; `from` says what the input calls it"
        raise source.error(("field", name), "is not a usable column name", hint=hint, key=True)


def _pattern(table: Table) -> str | None:
    written = table.take("pattern", str, None)
    if written is None:
        return None
    try:
        return plain_pattern(written)
    except PatternError as error:
        raise table.source.error((*table.path, "pattern"), str(error), hint=error.hint, at=error.at) from None


def _reference(table: Table) -> Reference | None:
    if "list" not in table.data:
        if "column" in table.data:
            raise table.error("column", "names a column of no list", hint="add list = 'lists/x.csv'", key=True)
        return None
    file = table.take("list", str)
    column = table.take("column", str, None)
    if file.endswith(".csv") and column is None:
        raise table.error("list", "which column of it?", hint="add column = '…'", key=True)
    if not file.endswith((".csv", ".txt")) or (file.endswith(".txt") and column is not None):
        hint = "a .csv with a column, or a .txt of one entry a line"
        raise table.error("list", f"{file!r} cannot be read so", hint=hint)
    return Reference(file, column)


def _check(table: Table) -> str | None:
    return table.one_of("check", CODE_FORMS) if "check" in table.data else None


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
    if field.kind in ("money", "timestamp", "decimal", "date", "float"):
        hint = "leave it out: absent stays unknown"
        raise table.error("default", f"a {field.kind} has no default", hint=hint, key=True)
    if field.required_when is not None or field.reference is not None or field.check is not None:
        raise table.error("default", "cannot stand in for what a list, check or condition asks", hint="leave it out")
    try:
        msgspec.convert(value, field_type(field))
    except msgspec.ValidationError as error:
        raise table.error("default", str(error), hint="give a value the field itself would accept") from error
    return msgspec.structs.replace(field, default=value)


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
            limits[meta] = value / 10**field.scale if field.kind in ("money", "decimal") else value
    match field.kind:
        case "string":
            return Annotated[str, Meta(min_length=field.min_length, max_length=field.max_length, pattern=field.pattern)]
        case "enum":
            return Literal[field.values]
        case "money" | "decimal":
            return Annotated[float, Meta(**limits)]
        case "integer":
            limits = {**({} if "gt" in limits else {"ge": limits.get("ge", -INT64)}), **limits}
            limits = {**({} if "lt" in limits else {"le": limits.get("le", INT64)}), **limits}
            return Annotated[int, Meta(**limits)]
        case "boolean":
            return bool
        case "float":
            return float
        case "date":
            return dt.date
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
