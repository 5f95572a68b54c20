"""The contract: what an event of the stream must look like, compiled to a msgspec Struct.

Owns: the file's top-level keys, the roles of its fields, the reading of one line, and the export as JSON Schema
(reference: config/README.md). Leaves to `contract_fields` what is declared for each field, to `contract_shape` the
objects they lie in, to `decoding` the many-lines fast path, to `screening` what a Struct cannot say (money with too
many decimals, blank ids, times from the future), and to the engine what happens to a line that fails.

The same file serves pipelines, whose records are rows: there the roles are optional, fields are columns under any name,
and a contract may ask more (`TableContract`). Holding rows against it is `pipelines.validation`.

Money is a JSON number. It is read as the nearest IEEE-754 double (RFC 8259 section 6) and accepted when that double is
the nearest one to an amount with at most `scale` decimals; from then on it is an integer of minor units. Bounds keep
every amount below 10**15 minor units, so that two amounts never share a double.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, overload

import msgspec
from msgspec import Struct

from tidewaiter.core.contract_bounds import MAX_MINOR_UNITS
from tidewaiter.core.contract_fields import MAX_SCALE, Field, read_fields
from tidewaiter.core.contract_shape import Shape, compile_shape, paths_of, schema_of, shape_of
from tidewaiter.core.toml_source import Table, TomlSource, nearest

__all__ = [
    "MAX_ID_LENGTH",
    "MAX_MINOR_UNITS",
    "MAX_SCALE",
    "NESTING_LIMIT",
    "QUOTED_TIME_LENGTH",
    "Check",
    "Contract",
    "Declared",
    "Field",
    "OriginalText",
    "TableContract",
    "compile_contract",
    "json_schema",
]

MAX_ID_LENGTH: Final = 1024
NESTING_LIMIT: Final = 64
QUOTED_TIME_LENGTH: Final = 64
"""The longest original text of a time, in characters, that a flag quotes: the size of an audit entry is bounded."""
_TOP_KEYS: Final = (
    "contract", "version", "title", "description", "id", "time", "ingest_time", "subject", "unknown_fields", "field",
)  # fmt: skip


class OriginalText(Struct, gc=False):
    """The texts of an accepted line that a flag quotes as they stood in the stream."""

    event_time: str
    ingest_time: str | None = None


class Check(Struct, frozen=True):
    """A condition over the columns of a record that may not be false: its name, the condition as written, its title."""

    name: str
    when: str
    title: str = ""


@dataclass(frozen=True)
class Declared:
    """What contracts of streams and of pipelines have in common.

    `digest` is the SHA-256 (hex) of the file's bytes. `by_source` are the fields by the keys they stand under, joined
    by dots, or by the names of the input's columns.
    """

    name: str
    version: int
    text: bytes
    digest: str
    file: str
    fields: tuple[Field, ...]
    by_name: dict[str, Field]
    by_source: dict[str, Field]
    unknown_fields: str

    @property
    def label(self) -> str:
        """Name and version as a ruleset refers to them: ``money_flow/1``."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class TableContract(Declared):
    """A contract for the rows of a table: fields are columns. Those without a role have an empty name there."""

    id_field: str
    time_field: str
    subject_field: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Contract(Declared):
    """A compiled contract. An event has each field at the attribute path of the field; absent ones are None or default.

    `objects` are the objects that fields lie in, in the words of `by_source`, `required_objects` how many of them every
    event has.
    """

    shape: Shape
    objects: frozenset[str]
    required_objects: int
    id_field: str
    time_field: str
    ingest_field: str | None
    subject_field: str
    event_type: type[Struct]
    decoder: msgspec.json.Decoder[Any]
    text_decoder: msgspec.json.Decoder[Any]
    quoting_decoder: msgspec.json.Decoder[Any]
    """As `text_decoder`, but refuses texts that are too long to be quoted."""

    def attribute(self, name: str) -> str:
        """Return the attribute path of the field `name` in an event, dotted where it lies in an object."""
        return self.by_name[name].path

    def original_text(self, line: bytes) -> OriginalText:
        """Return the texts of an already accepted line that a flag quotes, however long they are."""
        text: OriginalText = self.text_decoder.decode(line)
        return text


@overload
def compile_contract(text: bytes, file: str) -> Contract: ...


@overload
def compile_contract(text: bytes, file: str, *, for_stream: Literal[True]) -> Contract: ...


@overload
def compile_contract(text: bytes, file: str, *, for_stream: Literal[False]) -> TableContract: ...


def compile_contract(text: bytes, file: str, *, for_stream: bool = True) -> Contract | TableContract:
    """Compile the contract file `text`. Raises ConfigError naming file, line, column, key and what is allowed."""
    source = TomlSource(text, file)
    top = Table(source, (), source.data)
    if for_stream and "check" in top.data:
        hint = "leave it out, or say it in a scenario"
        raise top.error("check", "is for pipelines: a stream's contract cannot have it", hint=hint, key=True)
    top.only(_TOP_KEYS if for_stream else (*_TOP_KEYS, "check"))
    name = top.take("contract", str)
    version = top.take("version", int)
    unknown = top.one_of("unknown_fields", ("refuse", "ignore"), "refuse")
    tables = top.take("field", dict)
    if not tables:
        raise top.error("field", "declares no field", hint="add a line such as: amount = { type = 'money', scale = 2 }")
    fields = read_fields(source, tables, for_stream=for_stream)
    digest = hashlib.sha256(text).hexdigest()
    if not for_stream:
        roles = _Roles(source, top, {field.name: field for field in fields}, for_stream=False)
        time_field = roles.take("time", "timestamp")
        roles.take_ingest_time(time_field)
        return TableContract(
            name=name,
            version=version,
            text=text,
            digest=digest,
            file=file,
            fields=fields,
            by_name=roles.by_name,
            by_source=_columns(source, fields),
            unknown_fields=unknown,
            id_field=roles.take("id", "string"),
            time_field=time_field,
            subject_field=roles.take("subject", "string"),
            checks=_checks(source, top),
        )
    shape = shape_of(source, fields)
    paths = dict(paths_of(shape))
    fields = tuple(msgspec.structs.replace(field, path=paths[field.name]) for field in fields)
    by_name = {field.name: field for field in fields}
    roles = _Roles(source, top, by_name, for_stream=True)
    id_field, time_field = roles.take("id", "string"), roles.take("time", "timestamp")
    subject_field = roles.take("subject", "string")
    ingest_field = roles.take_ingest_time(time_field)
    event_type = compile_shape(shape, forbid_unknown_fields=unknown == "refuse", module=__name__)
    return Contract(
        name=name,
        version=version,
        text=text,
        digest=digest,
        file=file,
        fields=fields,
        by_name=by_name,
        by_source={field.source: field for field in fields},
        shape=shape,
        objects=frozenset(each.place for each in shape.objects()),
        required_objects=sum(1 for each in shape.objects() if each.required),
        id_field=id_field,
        time_field=time_field,
        ingest_field=ingest_field,
        subject_field=subject_field,
        unknown_fields=unknown,
        event_type=event_type,
        decoder=msgspec.json.Decoder(event_type),
        text_decoder=_text_decoder(time_field, ingest_field, str),
        quoting_decoder=_text_decoder(
            time_field, ingest_field, Annotated[str, msgspec.Meta(max_length=QUOTED_TIME_LENGTH)]
        ),
    )


class _Roles:
    """The fields that a contract gives a part to: the id, the time, the subject."""

    def __init__(self, source: TomlSource, top: Table, by_name: dict[str, Field], *, for_stream: bool) -> None:
        self._source = source
        self._top = top
        self.by_name = by_name
        self._for_stream = for_stream

    def take(self, key: str, kind: str) -> str:
        """Return the name of the field with the role `key`, empty where a pipeline's contract names none."""
        if not self._for_stream and key not in self._top.data:
            return ""
        target: str = self._top.take(key, str)
        if target not in self.by_name:
            raise self._top.error(key, f"names no declared field: {target!r}", hint=nearest(target, self.by_name))
        field = self.by_name[target]
        if field.kind != kind or not field.required:
            raise self._top.error(key, f"{target} must be a required {kind} field", hint="change its type")
        if self._for_stream and key != "subject" and field.source != target:
            raise self._source.error(
                ("field", target, "from"),
                f"the {key} must stand at the top of the line, under its own name",
                hint=f"leave it out, and call the field {field.source}" if "." not in field.source else "leave it out",
            )
        # ids and subjects are embedded in audit entries, whose size is bounded
        if field.kind == "string" and not (field.min_length >= 1 and (field.max_length or 0) <= MAX_ID_LENGTH):
            raise self._source.error(
                ("field", target),
                f"as the {key} it must have 1 to {MAX_ID_LENGTH} characters",
                hint=f"set min_length to at least 1 and max_length to at most {MAX_ID_LENGTH}",
            )
        return target

    def take_ingest_time(self, time_field: str) -> str | None:
        """Return the field that says when an event came in, which is another than its time; None without one."""
        if "ingest_time" not in self._top.data:
            return None
        ingest_field = self.take("ingest_time", "timestamp")
        if ingest_field == time_field:
            raise self._top.error(
                "ingest_time", f"is the same field as time: {time_field}", hint="leave ingest_time out"
            )
        return ingest_field


def _text_decoder(time_field: str, ingest_field: str | None, kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - str, or str with a bound
    names = {"event_time": time_field}
    members = [("event_time", kind)]
    namespace: dict[str, Any] = {}
    if ingest_field is not None:
        names["ingest_time"] = ingest_field
        members.append(("ingest_time", kind))
    else:
        namespace["ingest_time"] = None  # an attribute of the class: no key of a line can set it
    text_type = msgspec.defstruct("OriginalText", members, rename=names, namespace=namespace, gc=False, module=__name__)
    return msgspec.json.Decoder(text_type)


def _columns(source: TomlSource, fields: tuple[Field, ...]) -> dict[str, Field]:
    """Return the fields by the columns they read. Raises ConfigError where two read the same one."""
    found: dict[str, Field] = {}
    for field in fields:
        other = found.setdefault(field.source, field)
        if other is not field:
            hint = "give each field a column of its own with from = '...'"
            raise source.error(("field", field.name, "from"), f"reads the same column as {other.name}", hint=hint)
    return found


def _checks(source: TomlSource, top: Table) -> tuple[Check, ...]:
    found = []
    for name, data in top.take("check", dict, {}).items():
        table = Table(source, ("check", name), data, hint="for example when = 'total == net + tax'")
        table.only(("when", "title"))
        found.append(Check(name, table.take("when", str), table.take("title", str, "")))
    return tuple(found)


def json_schema(contract: Contract | TableContract) -> dict[str, Any]:
    """Return the contract as JSON Schema 2020-12; money bounds are in major units, as they stand in the stream.

    Of what only pipelines check, patterns and dates are told; lists, sums of digits and conditions cannot be.
    """
    shape = contract.shape if isinstance(contract, Contract) else Shape(members=dict(contract.by_source))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:tidewaiter:contract:{contract.name}:{contract.version}",
        "title": contract.label,
        **schema_of(shape, additional=contract.unknown_fields == "ignore"),
    }
