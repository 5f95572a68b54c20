"""The contract: what an event of the stream must look like, compiled to a msgspec Struct.

Owns: the file's top-level keys, the roles of its fields, the reading of one line, and the export as JSON Schema
(reference: config/README.md). Leaves to `contract_fields` what is declared for each field, to `contract_shape` the
objects they lie in, to `decoding` the many-lines fast path, to `screening` what a Struct cannot say (money with too
many decimals, blank ids, times from the future), and to the engine what happens to a line that fails.

Money is a JSON number. It is read as the nearest IEEE-754 double (RFC 8259 section 6) and accepted when that double is
the nearest one to an amount with at most `scale` decimals; from then on it is an integer of minor units. Bounds keep
every amount below 10**15 minor units, so that two amounts never share a double.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.contract_fields import MAX_MINOR_UNITS, MAX_SCALE, Field, read_fields
from tidewaiter.core.contract_shape import Shape, compile_shape, paths_of, schema_of, shape_of
from tidewaiter.core.toml_source import Table, TomlSource, nearest

__all__ = [
    "MAX_ID_LENGTH",
    "MAX_MINOR_UNITS",
    "MAX_SCALE",
    "NESTING_LIMIT",
    "QUOTED_TIME_LENGTH",
    "Contract",
    "Field",
    "OriginalText",
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


@dataclass(frozen=True)
class Contract:
    """A compiled contract. An event has each field at the attribute path of the field; absent ones are None or default.

    `digest` is the SHA-256 (hex) of the file's bytes. `by_source` are the fields by the keys they stand under, joined
    by dots; `objects` are the objects that fields lie in, in the same words, `required_objects` how many of them every
    event has.
    """

    name: str
    version: int
    text: bytes
    digest: str
    file: str
    fields: tuple[Field, ...]
    by_name: dict[str, Field]
    by_source: dict[str, Field]
    shape: Shape
    objects: frozenset[str]
    required_objects: int
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

    def attribute(self, name: str) -> str:
        """Return the attribute path of the field `name` in an event, dotted where it lies in an object."""
        return self.by_name[name].path

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
    fields = read_fields(source, tables)
    shape = shape_of(source, fields)
    paths = dict(paths_of(shape))
    fields = tuple(msgspec.structs.replace(field, path=paths[field.name]) for field in fields)
    by_name = {field.name: field for field in fields}

    def role(key: str, kinds: tuple[str, ...]) -> str:
        target: str = top.take(key, str)
        if target not in by_name:
            raise top.error(key, f"names no declared field: {target!r}", hint=nearest(target, by_name))
        field = by_name[target]
        if field.kind not in kinds or not field.required:
            raise top.error(key, f"{target} must be a required {' or '.join(kinds)} field", hint="change its type")
        if key != "subject" and field.source != target:
            raise source.error(
                ("field", target, "from"),
                f"the {key} must stand at the top of the line, under its own name",
                hint=f"leave it out, and call the field {field.source}" if "." not in field.source else "leave it out",
            )
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
    event_type = compile_shape(shape, forbid_unknown_fields=unknown == "refuse", module=__name__)
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
        text_decoder=msgspec.json.Decoder(text_type),
    )


def json_schema(contract: Contract) -> dict[str, Any]:
    """Return the contract as JSON Schema 2020-12; money bounds are in major units, as they stand in the stream."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:tidewaiter:contract:{contract.name}:{contract.version}",
        "title": contract.label,
        **schema_of(contract.shape, additional=contract.unknown_fields == "ignore"),
    }
