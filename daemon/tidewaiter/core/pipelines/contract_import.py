"""A contract from a schema that is already there: JSON Schema, or a pydantic model by way of the schema it gives.

Owns: the subset of JSON Schema 2020-12 that a flat record can have, and the contract's text. Leaves whether that text
is a contract to `core.contract`, which compiles it at once.

What a contract cannot say exactly is refused with the path of the keyword, never left out; titles, descriptions,
examples and the like say nothing about values. Three things are the same in a table where JSON tells them apart: a
property that is absent, one that is null, and, for a column without a ``maxLength``, a text over 65,535 characters is
refused. A number needs ``multipleOf`` 0.01 and the like to become a decimal; without it, and without bounds, it is a
float.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from tidewaiter.core.contract import compile_contract
from tidewaiter.core.contract_fields import MAX_DECIMAL_SCALE
from tidewaiter.core.contract_pattern import PatternError, plain_pattern
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.inference import toml_key, toml_text, usable_name

_SAYS_NOTHING: Final = frozenset(
    ["$schema", "$id", "$comment", "$defs", "title", "description", "examples", "deprecated", "readOnly", "writeOnly"]
)
_TOP: Final = {"type", "properties", "required", "additionalProperties"}
_BOUNDS: Final = {
    "exclusiveMinimum": "above", "minimum": "at_least", "exclusiveMaximum": "below", "maximum": "at_most",
}  # fmt: skip
_KEYWORDS: Final[dict[str, frozenset[str]]] = {
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "integer": frozenset((*_BOUNDS, "multipleOf")),
    "number": frozenset((*_BOUNDS, "multipleOf")),
    "boolean": frozenset(),
}
_FORMATS: Final = {"date": "date", "date-time": "timestamp"}
_UUID: Final = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ONE_TYPE: Final = "one type, and null beside it where it may be absent"
_CALLED: Final = 'contract_from_json_schema(schema, "payment")'
_REFERENCE: Final = "#/$defs/"

Schema = Mapping[str, Any]


def contract_from_json_schema(schema: Schema, name: str) -> str:
    """Return the text of the contract called `name` that admits the records of `schema`, an object of plain values.

    Raises ConfigError naming the path of the first keyword that a contract cannot say.
    """
    for what, value, kind in (("schema", schema, Mapping), ("name", name, str)):
        if not isinstance(value, kind):
            wanted = "a text" if kind is str else "a dict, as json.load gives it"
            raise ConfigError(f"{what}: must be {wanted}, not {type(value).__name__}", hint=_CALLED)
    return _Import(schema, name).text()


def contract_from_pydantic(model: Any, name: str | None = None) -> str:  # noqa: ANN401 - a class of a library not needed here
    """Return the contract of a pydantic model (version 2) under its aliases; called as the class is, without a `name`.

    Raises ConfigError where `model` is none, or asks what a contract cannot say.
    """
    made = getattr(model, "model_json_schema", None)
    if not callable(made):
        raise ConfigError(f"{model!r} is no pydantic model", hint="give the class itself, of pydantic version 2")
    schema = made()
    # the schema does not tell the digits of a Decimal; the model's fields do
    for field_name, info in getattr(model, "model_fields", {}).items():
        given = schema["properties"].get(info.validation_alias or info.alias or field_name, {})
        options = [option for option in given.get("anyOf", ()) if option.get("type") == "number"]
        if options:
            options[0].update(_digits(options[0], info.metadata))
    return contract_from_json_schema(schema, name or _WORD_START.sub("_", model.__name__).lower())


def _digits(option: Schema, metadata: list[Any]) -> dict[str, Decimal]:
    """Return what ``max_digits`` and ``decimal_places`` among `metadata` say, as keywords for `option`."""
    places = [found for each in metadata if (found := getattr(each, "decimal_places", None)) is not None]
    digits = [found for each in metadata if (found := getattr(each, "max_digits", None)) is not None]
    if not places:
        return {}
    said = {"multipleOf": Decimal(1).scaleb(-places[0])}
    if digits:
        limit = Decimal(1).scaleb(digits[0] - places[0])
        if not {"maximum", "exclusiveMaximum"} & option.keys():
            said["exclusiveMaximum"] = limit
        if not {"minimum", "exclusiveMinimum"} & option.keys():
            said["exclusiveMinimum"] = -limit
    return said


class _Import:
    """One schema on its way to a contract."""

    def __init__(self, schema: Schema, name: str) -> None:
        self._schema = schema
        self._name = name
        self._defs: Schema = schema.get("$defs", {})

    def _refuse(self, path: str, problem: str, hint: str) -> ConfigError:
        return ConfigError(f"{self._name}: {path}: {problem}", hint=hint)

    def text(self) -> str:
        schema = self._schema
        self._only("$", schema, _TOP)
        if schema.get("type") != "object":
            raise self._refuse("$.type", "is not object", "a contract describes a record of named values")
        extra = schema.get("additionalProperties", True)
        if not isinstance(extra, bool):
            raise self._refuse("$.additionalProperties", "is a schema of its own", "say true or false")
        required = schema.get("required", [])
        properties = schema.get("properties", {})
        for missing in (each for each in required if each not in properties):
            raise self._refuse("$.required", f"{missing!r} is not among the properties", "describe it")
        lines = [
            "# Made from a JSON Schema. Reference: config/README.md, Contracts.",
            "",
            f"contract = {toml_text(self._name)}",
            "version = 1",
            *([f"title = {toml_text(str(schema['title']))}"] if "title" in schema else []),
            f'unknown_fields = "{"ignore" if extra else "refuse"}"',
            "",
            "[field]",
        ]
        for number, (name, given) in enumerate(properties.items(), 1):
            own = name if usable_name(name) else name.lstrip("_") or f"column_{number}"
            keys = self._field(f"$.properties.{name}", given, required=name in required)
            if own != name:
                keys["from"] = toml_text(name)
            lines.append(f"{toml_key(own)} = {{ {', '.join(f'{key} = {value}' for key, value in keys.items())} }}")
        text = "\n".join(lines) + "\n"
        compile_contract(text.encode(), self._name, for_stream=False)
        return text

    def _only(self, path: str, schema: Schema, allowed: frozenset[str] | set[str]) -> None:
        for key in schema:
            if key not in allowed and key not in _SAYS_NOTHING:
                raise self._refuse(
                    f"{path}.{key}", "cannot be said in a contract", f"allowed: {', '.join(sorted(allowed))}"
                )

    def _field(self, path: str, given: Schema, *, required: bool) -> dict[str, str]:
        """Return the keys of one field, values as TOML."""
        if not isinstance(given, Mapping):
            raise self._refuse(path, "is no schema", 'describe the property: {"type": "string"}')
        default = given.get("default")
        title = given.get("description", given.get("title"))
        schema, nullable = self._resolved(path, {key: value for key, value in given.items() if key != "default"})
        keys = self._enum(path, schema) if "enum" in schema or "const" in schema else self._plain(path, schema)
        if nullable or not required:
            keys["required"] = "false"
        if default is not None:
            if keys["type"] not in ('"string"', '"enum"', '"integer"', '"boolean"'):
                raise self._refuse(f"{path}.default", f"a {keys['type'][1:-1]} has no default", "leave it out")
            keys["default"] = toml_text(default) if isinstance(default, str) else str(default).lower()
            keys["required"] = "false"
        if isinstance(title, str):
            keys["title"] = toml_text(title)
        return keys

    def _resolved(self, path: str, schema: Schema) -> tuple[Schema, bool]:
        """Return the schema itself, references followed, and whether null is allowed beside it."""
        nullable = False
        for _ in range(len(self._defs) + 2):
            if "$ref" in schema:
                target = str(schema["$ref"])
                name = target.removeprefix(_REFERENCE)
                if not target.startswith(_REFERENCE) or name not in self._defs:
                    raise self._refuse(f"{path}.$ref", f"{target} leads nowhere here", "only #/$defs/NAME is followed")
                schema = {**self._defs[name], **{key: value for key, value in schema.items() if key != "$ref"}}
                continue
            if "anyOf" in schema:
                options = [each for each in schema["anyOf"] if each.get("type") != "null"]
                nullable |= len(options) < len(schema["anyOf"])
                rest = {key: value for key, value in schema.items() if key != "anyOf"}
                self._only(path, rest, frozenset())
                schema = self._one_of(path, options)
                continue
            kinds = schema.get("type")
            if isinstance(kinds, list):
                plain = [kind for kind in kinds if kind != "null"]
                if len(plain) != 1:
                    raise self._refuse(f"{path}.type", f"is {kinds}", _ONE_TYPE)
                return {**schema, "type": plain[0]}, nullable or len(plain) < len(kinds)
            return schema, nullable
        raise self._refuse(f"{path}.$ref", "leads back to itself", "refer to a type")

    def _one_of(self, path: str, options: list[Schema]) -> Schema:
        if len(options) == 1:
            return options[0]
        texts = [each for each in options if each.get("type") == "string"]
        numbers = [each for each in options if each.get("type") == "number"]
        if len(options) == 2 and texts and numbers:  # noqa: PLR2004 - pydantic's Decimal: a number, or the same as text
            if "multipleOf" in numbers[0]:
                return numbers[0]
            hint = "say how many: Field(decimal_places=2)"
            raise self._refuse(f"{path}.anyOf", "is a decimal with any number of decimals", hint)
        raise self._refuse(f"{path}.anyOf", "allows several types", _ONE_TYPE)

    def _enum(self, path: str, schema: Schema) -> dict[str, str]:
        self._only(path, schema, {"enum", "const", "type"})
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not values or not all(isinstance(value, str) and value for value in values):
            raise self._refuse(f"{path}.enum", "has other values than texts", "an enum lists texts that are not empty")
        return {"type": '"enum"', "values": f"[{', '.join(map(toml_text, values))}]"}

    def _plain(self, path: str, schema: Schema) -> dict[str, str]:
        kind = schema.get("type")
        if kind not in _KEYWORDS:
            problem = "is missing" if kind is None else f"is {kind}"
            raise self._refuse(f"{path}.type", problem, f"allowed: {', '.join(_KEYWORDS)}, or an enum of texts")
        self._only(path, schema, {"type", *_KEYWORDS[kind]})
        match kind:
            case "string":
                return self._string(path, schema)
            case "boolean":
                return {"type": '"boolean"'}
            case _:
                return self._number(path, schema)

    def _string(self, path: str, schema: Schema) -> dict[str, str]:
        form, pattern = schema.get("format"), schema.get("pattern")
        if form in _FORMATS:
            self._only(path, schema, {"type", "format"})
            return {"type": f'"{_FORMATS[form]}"'}
        if form == "uuid" and pattern is None:
            pattern = _UUID
        elif form is not None:
            raise self._refuse(
                f"{path}.format", f"{form} cannot be said in a contract", "allowed: date, date-time, uuid"
            )
        keys = {"type": '"string"'}
        for keyword, key in (("minLength", "min_length"), ("maxLength", "max_length")):
            if keyword in schema:
                keys[key] = str(int(schema[keyword]))
        if pattern is not None:
            if not (pattern.startswith("^") and pattern.endswith("$")) or _open_choice(pattern):
                hint = "a contract's pattern describes the whole text: write ^(?:…)$"
                raise self._refuse(f"{path}.pattern", "describes a part of the text", hint)
            try:
                plain_pattern(pattern)
            except PatternError as error:
                raise self._refuse(f"{path}.pattern", str(error), error.hint) from None
            keys["pattern"] = toml_text(pattern)
        return keys

    def _number(self, path: str, schema: Schema) -> dict[str, str]:
        scale = None
        if "multipleOf" in schema:
            step = self._exact(f"{path}.multipleOf", schema["multipleOf"])
            scale = next((n for n in range(MAX_DECIMAL_SCALE + 1) if step == Decimal(1).scaleb(-n)), None)
            if scale is None or (schema["type"] == "integer" and scale):
                raise self._refuse(f"{path}.multipleOf", f"{step} cannot be said", "allowed: 1, 0.1, 0.01 and so on")
        bounds = {
            key: self._exact(f"{path}.{keyword}", schema[keyword])
            for keyword, key in _BOUNDS.items()
            if keyword in schema
        }
        if schema["type"] == "integer":
            return {"type": '"integer"', **{key: self._whole(f"{path}.{key}", value) for key, value in bounds.items()}}
        if scale is None:
            if bounds:
                hint = "say multipleOf 0.01 and the like: bounds are of exact amounts"
                raise self._refuse(path, "a number with bounds but any number of decimals", hint)
            return {"type": '"float"'}
        return {
            "type": '"decimal"',
            "scale": str(scale),
            **{key: toml_text(f"{value:f}") for key, value in bounds.items()},
        }

    def _exact(self, path: str, value: object) -> Decimal:
        """Return a number of the schema as it was written, where it came through a double, too."""
        try:
            if isinstance(value, bool):
                raise InvalidOperation
            return Decimal(str(value)).normalize()
        except InvalidOperation:
            raise self._refuse(path, f"{value!r} is no number", "write a number") from None

    def _whole(self, path: str, value: Decimal) -> str:
        if value != value.to_integral_value():
            raise self._refuse(path, f"{value} is no whole number", "an integer's bounds are whole numbers")
        return str(int(value))


def _open_choice(pattern: str) -> bool:
    """Return whether ``^`` and ``$`` belong to parts of a choice only, as in ``^a|b$``."""
    depth, escaped, in_class = 0, False, False
    for character in pattern:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and depth == 0:
            return True
    return False
