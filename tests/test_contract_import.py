"""Contracts from JSON Schema and pydantic: what is said comes out the same, and what cannot be said is refused."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, Final

import pytest

from table_contracts import CONTRACTS, frame_of, problems
from tidewaiter.core.contract import TableContract, compile_contract, json_schema
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.contract_import import contract_from_json_schema, contract_from_pydantic
from tidewaiter.core.pipelines.validation import Validator

SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A payment",
    "type": "object",
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": 8},
        "iban": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{4,30}$", "description": "of the payer"},
        "amount": {"type": "number", "multipleOf": 0.01, "exclusiveMinimum": 0, "maximum": 1000.5},
        "count": {"type": "integer", "minimum": 1, "exclusiveMaximum": 10},
        "booked": {"type": "string", "format": "date-time"},
        "day": {"type": ["string", "null"], "format": "date"},
        "channel": {"enum": ["web", "branch"]},
        "kind": {"$ref": "#/$defs/Kind"},
        "urgent": {"type": "boolean", "default": False},
        "rate": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "__note": {"type": "string"},
    },
    "required": ["id", "amount", "count", "booked", "channel", "kind"],
    "additionalProperties": False,
    "$defs": {"Kind": {"type": "string", "const": "sepa"}},
}
ROW: Final = {
    "id": "p1", "iban": "GB1234", "amount": "1000.50", "count": "9", "booked": "2026-01-01T00:00:00Z", "day": "",
    "channel": "web", "kind": "sepa", "urgent": "", "rate": "0.5", "__note": "",
}  # fmt: skip


def imported(schema: dict[str, Any]) -> TableContract:
    """Return the contract of a schema, compiled from its text."""
    return compile_contract(contract_from_json_schema(schema, "payment").encode(), "payment.toml", for_stream=False)


def refusal(change: dict[str, Any], top: dict[str, Any] | None = None) -> str:
    """Return what the schema is refused with when its property `x` is `change`."""
    schema = {"type": "object", "properties": {"x": change}, **(top or {})}
    with pytest.raises(ConfigError) as caught:
        contract_from_json_schema(schema, "payment")
    assert caught.value.hint
    return str(caught.value)


def test_a_json_schema_becomes_the_contract_that_says_the_same() -> None:
    """Every keyword of the subset is in the contract's text."""
    assert contract_from_json_schema(SCHEMA, "payment") == (
        """\
# Made from a JSON Schema. Reference: config/README.md, Contracts.

contract = "payment"
version = 1
title = "A payment"
unknown_fields = "refuse"

[field]
id = { type = "string", min_length = 1, max_length = 8 }
iban = { type = "string", pattern = "^[A-Z]{2}[0-9]{4,30}$", required = false, title = "of the payer" }
amount = { type = "decimal", scale = 2, above = "0", at_most = "1000.5" }
count = { type = "integer", at_least = 1, below = 10 }
booked = { type = "timestamp" }
day = { type = "date", required = false }
channel = { type = "enum", values = ["web", "branch"] }
kind = { type = "enum", values = ["sepa"] }
urgent = { type = "boolean", required = false, default = false }
rate = { type = "float", required = false }
note = { type = "string", required = false, from = "__note" }
"""
    )


def test_an_imported_contract_holds_records_to_the_schema() -> None:
    """A good record passes; each keyword refuses what breaks it."""
    bad = {
        "id": "123456789", "iban": "gb1234", "amount": "1000.51", "count": "10", "booked": "2026-01-01", "day": "x",
        "channel": "api", "kind": "swift", "urgent": "yes", "rate": "high",
    }  # fmt: skip
    rows = [ROW, *(ROW | {name: value} for name, value in bad.items())]
    batch = Validator(imported(SCHEMA), tuple(ROW)).check(frame_of(rows))
    assert [(row, column) for row, column, _ in problems(batch)] == list(enumerate(bad, 2))
    assert batch.frame.rows()[0][-3:] == (False, 0.5, None)


@pytest.mark.parametrize("name", ["patient", "diagnosis", "claim_line"])
def test_a_contract_comes_back_from_its_own_json_schema(name: str) -> None:
    """What the export tells is what the import reads: types, bounds, lengths and patterns."""
    first = compile_contract((CONTRACTS / f"{name}.toml").read_bytes(), name, for_stream=False)
    schema = json_schema(first)
    again = imported(copy.deepcopy(schema))
    assert json_schema(again)["properties"] == schema["properties"]
    assert json_schema(again)["required"] == schema["required"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "object", "properties": {}}, "$.properties.x.type: is object"),
        ({"type": "array"}, "$.properties.x.type: is array"),
        ({"type": ["string", "integer"]}, "$.properties.x.type: is ['string', 'integer']"),
        ({}, "$.properties.x.type: is missing"),
        ({"type": "string", "format": "email"}, "$.properties.x.format: email cannot be said"),
        ({"type": "string", "format": "date", "minLength": 3}, "$.properties.x.minLength: cannot be said"),
        ({"type": "string", "pattern": "abc"}, "$.properties.x.pattern: describes a part of the text"),
        ({"type": "string", "pattern": "^a|b$"}, "$.properties.x.pattern: describes a part of the text"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "$.properties.x.pattern: '(' cannot stand here"),
        ({"type": "string", "contentEncoding": "base64"}, "$.properties.x.contentEncoding: cannot be said"),
        ({"type": "number", "minimum": 0}, "$.properties.x: a number with bounds but any number of decimals"),
        ({"type": "number", "multipleOf": 0.05}, "$.properties.x.multipleOf: 0.05 cannot be said"),
        ({"type": "integer", "multipleOf": 5}, "$.properties.x.multipleOf: 5 cannot be said"),
        ({"type": "integer", "minimum": 0.5}, "$.properties.x.at_least: 0.5 is no whole number"),
        ({"type": "integer", "minimum": True}, "$.properties.x.minimum: True is no number"),
        ({"enum": ["a", 1]}, "$.properties.x.enum: has other values than texts"),
        ({"enum": []}, "$.properties.x.enum: has other values than texts"),
        ({"oneOf": [{"type": "string"}]}, "$.properties.x."),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "$.properties.x.anyOf: allows several types"),
        ({"anyOf": [{"type": "number"}, {"type": "string"}]}, "is a decimal with any number of decimals"),
        ({"$ref": "other.json"}, "$.properties.x.$ref: other.json leads nowhere here"),
        (
            {"type": "string", "format": "date", "default": "2026-01-01"},
            "$.properties.x.default: a date has no default",
        ),
        ({"not": {"type": "string"}}, "$.properties.x."),
    ],
)
def test_what_a_contract_cannot_say_is_refused_with_the_path_of_the_keyword(change: dict[str, Any], words: str) -> None:
    """Nothing is dropped silently: a contract that says less than its schema would let bad records through."""
    assert words in refusal(change)


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"type": "array"}, "$.type: is not object"),
        ({"additionalProperties": {"type": "string"}}, "$.additionalProperties: is a schema of its own"),
        ({"required": ["y"]}, "$.required: 'y' is not among the properties"),
        ({"minProperties": 1}, "$.minProperties: cannot be said"),
        ({"allOf": []}, "$.allOf: cannot be said"),
        ({"properties": {"x": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}}, "leads back to itself"),
    ],
)
def test_what_a_record_cannot_be_is_refused_with_the_path_of_the_keyword(top: dict[str, Any], words: str) -> None:
    """Conditions over the whole record have no place in the subset."""
    assert words in refusal({"type": "string"}, top)


@pytest.mark.parametrize(
    "nullable", [{"type": ["integer", "null"]}, {"anyOf": [{"type": "null"}, {"type": "integer"}]}]
)
def test_a_required_property_that_may_be_null_is_optional(nullable: dict[str, Any]) -> None:
    """A table has one way to leave a value out: an empty cell."""
    contract = imported({"type": "object", "properties": {"x": nullable}, "required": ["x"]})
    assert [(field.kind, field.required) for field in contract.fields] == [("integer", False)]


def test_undeclared_properties_are_ignored_where_the_schema_allows_them() -> None:
    """JSON Schema allows them unless it says otherwise."""
    schema = {"type": "object", "properties": {"x": {"type": "string"}}}
    assert imported(schema).unknown_fields == "ignore"


# -- pydantic ----------------------------------------------------------------------------------------------------------


class ClaimLine:
    """A stand-in for a pydantic model: the schema that version 2 gives, and the digits that it does not give."""

    model_fields: Final = {
        "number": SimpleNamespace(validation_alias=None, alias="line", metadata=[SimpleNamespace(ge=1)]),
        "charge": SimpleNamespace(
            validation_alias=None, alias=None, metadata=[SimpleNamespace(max_digits=10, decimal_places=2)]
        ),
        "rate": SimpleNamespace(validation_alias=None, alias=None, metadata=[SimpleNamespace(decimal_places=4)]),
    }

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """Return what pydantic makes of such a model."""
        return {
            "title": "ClaimLine",
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "line": {"title": "Line", "type": "integer", "minimum": 1},
                "charge": {"anyOf": [{"type": "number", "minimum": 0.0}, {"type": "string"}], "title": "Charge"},
                "rate": {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}], "default": None},
                "color": {"$ref": "#/$defs/Color"},
                "key": {"type": "string", "format": "uuid"},
            },
            "required": ["line", "charge", "color", "key"],
            "$defs": {"Color": {"enum": ["red", "blue"], "title": "Color", "type": "string"}},
        }


def test_a_pydantic_model_becomes_a_contract() -> None:
    """Aliases are the columns, a Decimal's digits are its scale and bounds, an Enum lists its values."""
    text = contract_from_pydantic(ClaimLine)
    assert 'contract = "claim_line"' in text
    contract = compile_contract(text.encode(), "claim_line.toml", for_stream=False)
    line, charge, rate, color, key = contract.fields
    assert (line.name, line.kind, line.at_least) == ("line", "integer", 1)
    assert (charge.kind, charge.scale, charge.at_least, charge.below) == ("decimal", 2, 0, 10**10)
    assert (rate.kind, rate.scale, rate.required, rate.below) == ("decimal", 4, False, None)
    assert (color.values, key.required) == (("red", "blue"), True)
    assert contract_from_pydantic(ClaimLine, "lines").count('contract = "lines"') == 1


@pytest.mark.parametrize(
    ("schema", "name", "message"),
    [
        ("x", "p", "schema: must be a dict, as json.load gives it, not str"),
        ([], "p", "schema: must be a dict, as json.load gives it, not list"),
        ({}, 5, "name: must be a text, not int"),
        ({"type": "object", "properties": {"a": True}}, "p", r"p: \$\.properties\.a: is no schema"),
    ],
)
def test_what_is_no_schema_is_refused(schema: object, name: object, message: str) -> None:
    """Anything but a dict and a text is a clear error, never one of Python's own."""
    with pytest.raises(ConfigError, match=message):
        contract_from_json_schema(schema, name)  # type: ignore[arg-type]


def test_what_is_no_pydantic_model_is_refused() -> None:
    """A class without a schema is a clear error."""
    with pytest.raises(ConfigError, match="is no pydantic model"):
        contract_from_pydantic(dict)


def test_the_real_library_gives_the_schema_that_is_imported() -> None:
    """Where pydantic is installed, a model of its own goes all the way."""
    pydantic = pytest.importorskip("pydantic")
    from decimal import Decimal  # noqa: PLC0415 - beside the model

    model = pydantic.create_model(
        "Payment",
        id=(str, pydantic.Field(min_length=1, max_length=8)),
        amount=(Decimal, pydantic.Field(max_digits=8, decimal_places=2, gt=0)),
        note=(str | None, None),
    )
    contract = compile_contract(contract_from_pydantic(model).encode(), "p.toml", for_stream=False)
    assert [(field.name, field.kind, field.required) for field in contract.fields] == [
        ("id", "string", True), ("amount", "decimal", True), ("note", "string", False),
    ]  # fmt: skip
    assert (contract.by_name["amount"].above, contract.by_name["amount"].below) == (0, 10**8)
