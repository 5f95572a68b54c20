"""The contract: what an event of the stream must look like, compiled to a msgspec Struct.

Owns: the contract file format (reference: config/README.md), its compilation, the reading of one line, and the export
as JSON Schema. Leaves to `decoding` the many-lines fast path, to `screening` what a Struct cannot say (money with too
many decimals, blank ids, times from the future), and to the engine what happens to a line that fails.

Money is a JSON number. It is read as the nearest IEEE-754 double (RFC 8259 section 6) and accepted when that double is
the nearest one to an amount with at most `scale` decimals; from then on it is an integer of minor units. Bounds keep
every amount below 10**15 minor units, so that two amounts never share a double.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import keyword
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from tidewaiter.core.toml_source import Table, TomlSource, nearest

KINDS: Final = ("string", "enum", "money", "integer", "boolean", "timestamp")
MAX_MINOR_UNITS: Final = 10**15
MAX_SCALE: Final = 8
MAX_ID_LENGTH: Final = 1024
NESTING_LIMIT: Final = 64
QUOTED_TIME_LENGTH: Final = 64
"""The longest original text of a time, in characters, that a flag quotes: the size of an audit entry is bounded."""
_INT64: Final = 2**63 - 1
_TOP_KEYS: Final = (
    "contract", "version", "title", "description", "id", "time", "ingest_time", "subject", "unknown_fields", "field",
)  # fmt: skip
_COMMON: Final = ("type", "required", "default", "title")
_KEYS_OF: Final = {
    "string": ("min_length", "max_length"),
    "enum": ("values",),
    "money": ("scale", "above", "at_least", "below", "at_most"),
    "integer": ("above", "at_least", "below", "at_most"),
    "boolean": (),
    "timestamp": (),
}


class Field(Struct, frozen=True):
    """One declared field. `scale` is the number of decimals of a money field; bounds are in the field's own unit
    (minor units for money); `values` are the allowed texts of an enum in file order.
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

    @property
    def may_be_negative(self) -> bool:
        """Whether the bounds admit a value under zero."""
        return not ((self.above is not None and self.above >= 0) or (self.at_least is not None and self.at_least >= 0))


class OriginalText(Struct, gc=False):
    """The texts of an accepted line that a flag quotes as they stood in the stream."""

    event_time: str
    ingest_time: str | None = None


@dataclass(frozen=True)
class Contract:
    """A compiled contract; `event_type` has one attribute per field, absent optional fields are their default or None.

    `digest` is the SHA-256 (hex) of the file's bytes.
    """

    name: str
    version: int
    text: bytes
    digest: str
    file: str
    fields: tuple[Field, ...]
    by_name: dict[str, Field]
    id_field: str
    time_field: str
    ingest_field: str | None
    subject_field: str
    unknown_fields: str
    event_type: type[Struct]
    decoder: msgspec.json.Decoder[Any]
    text_decoder: msgspec.json.Decoder[Any]

    @property
    def label(self) -> str:
        """Name and version as a ruleset refers to them: ``money_flow/1``."""
        return f"{self.name}/{self.version}"

    def original_text(self, line: bytes) -> OriginalText:
        """Return the texts of an already accepted line that a flag quotes."""
        text: OriginalText = self.text_decoder.decode(line)
        return text


def compile_contract(text: bytes, file: str) -> Contract:
    """Compile the contract file `text`. Raises ConfigError naming file, line, column, key and what is allowed."""
    source = TomlSource(text, file)
    top = Table(source, (), source.data)
    top.only(_TOP_KEYS)
    name = top.take("contract", str)
    version = top.take("version", int)
    unknown = top.one_of("unknown_fields", ("refuse", "ignore"), "refuse")
    tables = top.take("field", dict)
    if not tables:
        raise top.error("field", "declares no field", hint="add a line such as: amount = { type = 'money', scale = 2 }")
    fields = tuple(_field(source, key, value) for key, value in tables.items())
    by_name = {field.name: field for field in fields}

    def role(key: str, kinds: tuple[str, ...]) -> str:
        target: str = top.take(key, str)
        if target not in by_name:
            raise top.error(key, f"names no declared field: {target!r}", hint=nearest(target, by_name))
        field = by_name[target]
        if field.kind not in kinds or not field.required:
            raise top.error(key, f"{target} must be a required {' or '.join(kinds)} field", hint="change its type")
        # ids and subjects are embedded in audit entries, whose size is bounded
        if field.kind == "string" and not (field.min_length >= 1 and (field.max_length or 0) <= MAX_ID_LENGTH):
            raise source.error(
                ("field", target),
                f"as the {key} it must have 1 to {MAX_ID_LENGTH} characters",
                hint=f"set min_length to at least 1 and max_length to at most {MAX_ID_LENGTH}",
            )
        return target

    id_field, time_field = role("id", ("string",)), role("time", ("timestamp",))
    subject_field = role("subject", ("string",))
    ingest_field = role("ingest_time", ("timestamp",)) if "ingest_time" in top.data else None
    if ingest_field == time_field:
        raise top.error("ingest_time", f"is the same field as time: {time_field}", hint="leave ingest_time out")
    event_type = msgspec.defstruct(
        "Event",
        [_member(field) for field in sorted(fields, key=lambda field: not field.required)],
        gc=False,
        forbid_unknown_fields=unknown == "refuse",
        module=__name__,
    )
    names = {"event_time": time_field}
    members: list[Any] = [("event_time", str)]
    namespace: dict[str, Any] = {}
    if ingest_field is not None:
        names["ingest_time"] = ingest_field
        members.append(("ingest_time", str))
    else:
        namespace["ingest_time"] = None  # an attribute of the class: no key of a line can set it
    text_type = msgspec.defstruct("OriginalText", members, rename=names, namespace=namespace, gc=False, module=__name__)
    return Contract(
        name=name,
        version=version,
        text=text,
        digest=hashlib.sha256(text).hexdigest(),
        file=file,
        fields=fields,
        by_name=by_name,
        id_field=id_field,
        time_field=time_field,
        ingest_field=ingest_field,
        subject_field=subject_field,
        unknown_fields=unknown,
        event_type=event_type,
        decoder=msgspec.json.Decoder(event_type),
        text_decoder=msgspec.json.Decoder(text_type),
    )


def _field(source: TomlSource, name: str, data: object) -> Field:
    path = ("field", name)
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or name == "p":
        raise source.error(
            path, "is not a usable field name", hint="use letters, digits and _, not p, not a Python keyword", key=True
        )
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
    field = Field(
        name=name, kind=kind, required=required, scale=scale, values=values,
        min_length=min_length, max_length=max_length, **bounds,
    )  # fmt: skip
    return _with_default(table, field)


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
        msgspec.convert(value, _type_of(field))
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


def _type_of(field: Field) -> Any:  # noqa: ANN401 - a type annotation is built
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


def _member(field: Field) -> Any:  # noqa: ANN401 - a defstruct member
    kind = _type_of(field)
    if field.required:
        return (field.name, kind)
    if field.default is not None:
        return (field.name, kind, field.default)
    return (field.name, kind | None, None)


def json_schema(contract: Contract) -> dict[str, Any]:
    """Return the contract as JSON Schema 2020-12; money bounds are in major units, as they stand in the stream."""
    properties: dict[str, Any] = {}
    for field in contract.fields:
        schema = msgspec.json.schema(_type_of(field))
        if field.kind == "money":
            schema["multipleOf"] = float(f"1e-{field.scale}")
        properties[field.name] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:tidewaiter:contract:{contract.name}:{contract.version}",
        "title": contract.label,
        "type": "object",
        "properties": properties,
        "required": [field.name for field in contract.fields if field.required],
        "additionalProperties": contract.unknown_fields == "ignore",
    }
