"""How the fields of a contract lie in a line: one object, with others inside where a field's `from` says so.

Owns: the tree of objects, the Structs compiled from it, and its JSON Schema. Leaves to `contract_fields` the fields.

An object inside is required if and only if one of its fields is. One that may be absent (or null, as an absent value
may be) is then an object whose fields are all absent: reading a path never fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import force_setattr

from tidewaiter.core.contract_fields import Field, field_type, member_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from msgspec import Struct

    from tidewaiter.core.toml_source import TomlSource

_PLAIN_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


@dataclass
class Shape:
    """An object of a line: what stands under each of its keys. `place` is its keys joined by dots, "" for the line."""

    place: str = ""
    members: dict[str, Field | Shape] = field(default_factory=dict)

    @property
    def required(self) -> bool:
        """Whether a line without it is no event of the contract."""
        return any(member.required for member in self.members.values())

    def objects(self) -> Iterator[Shape]:
        """Yield the objects inside, at any depth."""
        for member in self.members.values():
            if isinstance(member, Shape):
                yield member
                yield from member.objects()

    def first_field(self) -> Field:
        """Return the field that was declared first of those inside."""
        member = next(iter(self.members.values()))
        return member.first_field() if isinstance(member, Shape) else member

    def attribute(self, key: str) -> str:
        """Return the attribute of the compiled Struct that holds what stands under `key`."""
        member = self.members[key]
        if not isinstance(member, Shape):
            return member.name  # unique in the whole contract; never begins with _
        if _PLAIN_KEY.match(key):
            return f"_{key}"
        return f"_{list(self.members).index(key)}"


def shape_of(source: TomlSource, fields: Sequence[Field]) -> Shape:
    """Return the object that holds `fields`. Raises ConfigError where two of them cannot both be there."""
    top = Shape()
    for item in fields:
        steps = item.source.split(".")
        shape = top
        for depth, key in enumerate(steps[:-1], 1):
            inner = shape.members.setdefault(key, Shape(".".join(steps[:depth])))
            if isinstance(inner, Field):
                raise _collision(source, item, f"looks inside {inner.source}, which {inner.name} reads as a value")
            shape = inner
        other = shape.members.setdefault(steps[-1], item)
        if isinstance(other, Shape):
            first = other.first_field()
            raise _collision(source, item, f"reads {item.source}, inside which {first.name} looks for {first.source}")
        if other is not item:
            raise _collision(source, item, f"reads the same value as {other.name}: {item.source}")
    return top


def _collision(source: TomlSource, item: Field, problem: str) -> Exception:
    path = ("field", item.name)
    hint = "give each field a value of its own with from = '...'"
    if item.source == item.name:  # as good as written: the error points at the field
        return source.error(path, problem, hint=hint, key=True)
    return source.error((*path, "from"), problem, hint=hint)


def paths_of(shape: Shape, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield each field's name with its attribute path."""
    for key, member in shape.members.items():
        path = before + shape.attribute(key)
        if isinstance(member, Shape):
            yield from paths_of(member, path + ".")
        else:
            yield member.name, path


def compile_shape(shape: Shape, *, forbid_unknown_fields: bool, module: str) -> type[Struct]:
    """Return the Struct of the line. Members that are required come first, in file order."""
    members: list[Any] = []
    rename: dict[str, str] = {}
    empty: dict[str, Struct] = {}
    for key, member in sorted(shape.members.items(), key=lambda item: not item[1].required):
        attribute = shape.attribute(key)
        if attribute != key:
            rename[attribute] = key
        if isinstance(member, Field):
            members.append(member_of(member))
            continue
        inner = compile_shape(member, forbid_unknown_fields=forbid_unknown_fields, module=module)
        if member.required:
            members.append((attribute, inner))
        else:
            empty[attribute] = inner()
            members.append((attribute, inner | None, empty[attribute]))
    return msgspec.defstruct(
        "Event" if not shape.place else "Object",
        members,
        rename=rename or None,
        namespace={"__post_init__": _filling(empty)} if empty else None,
        gc=False,
        frozen=bool(shape.place),  # those that stand for absent ones are shared
        forbid_unknown_fields=forbid_unknown_fields,
        module=module,
    )


def _filling(empty: dict[str, Struct]) -> Callable[[Struct], None]:
    """Return what puts an empty object in the place of null; it runs for each event."""
    if len(empty) == 1:
        ((name, nothing),) = empty.items()

        def fill_one(event: Struct) -> None:
            if getattr(event, name) is None:
                force_setattr(event, name, nothing)

        return fill_one

    def fill(event: Struct) -> None:
        for name, nothing in empty.items():
            if getattr(event, name) is None:
                force_setattr(event, name, nothing)

    return fill


def schema_of(shape: Shape, *, additional: bool) -> dict[str, Any]:
    """Return the object as JSON Schema; money bounds are in major units, as they stand in the stream."""
    properties: dict[str, Any] = {}
    for key, member in shape.members.items():
        if isinstance(member, Shape):
            properties[key] = schema_of(member, additional=additional)
            continue
        properties[key] = msgspec.json.schema(field_type(member))
        if member.kind in ("money", "decimal"):
            properties[key]["multipleOf"] = float(f"1e-{member.scale}")
    return {
        "type": "object",
        "properties": properties,
        "required": [key for key, member in shape.members.items() if member.required],
        "additionalProperties": additional,
    }
