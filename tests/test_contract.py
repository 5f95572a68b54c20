"""The contract file: what it compiles to, what it refuses and how it says so, and what counts as an exact amount."""

from __future__ import annotations

import hashlib
import keyword
import re
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pure_core import CONTRACT, CONTRACT_TEXT, line
from tidewaiter.core.contract import (
    MAX_ID_LENGTH,
    MAX_MINOR_UNITS,
    MAX_SCALE,
    NESTING_LIMIT,
    Contract,
    compile_contract,
    json_schema,
)
from tidewaiter.core.decoding import LineFault, decode_block
from tidewaiter.core.errors import EXIT_USAGE, ConfigError
from tidewaiter.core.screening import Policy, Screening, exact_minor_units

HEAD: Final = """\
contract = "bank"
version = 3
id = "key"
time = "at"
subject = "who"
"""
FIELDS: Final = """\
[field]
key = { type = "string", min_length = 1, max_length = 64 }
who = { type = "string", min_length = 1, max_length = 64 }
at = { type = "timestamp" }
"""
BASE: Final = '{"key": "k", "who": "w", "at": "2026-03-09T12:00:00Z"'


def compiled(fields: str = "", head: str = HEAD) -> Contract:
    """Compile a small contract with further `fields`."""
    return compile_contract((head + FIELDS + fields).encode(), "bank.toml")


def decoded(contract: Contract, members: str = "") -> Any:
    """Decode an event of the small contract with further `members`."""
    return contract.decoder.decode((BASE + (", " + members if members else "") + "}").encode())


def refusal(text: str | bytes) -> ConfigError:
    """Return the error that the contract file `text` is refused with."""
    with pytest.raises(ConfigError) as caught:
        compile_contract(text if isinstance(text, bytes) else text.encode(), "bank.toml")
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value


# -- what it compiles to -----------------------------------------------------------------------------------------------


def test_the_shipped_contract_names_its_roles_and_fields() -> None:
    """The money-flow contract v1: eight fields in file order, and which of them is the id, the time and the subject."""
    assert CONTRACT.label == "money_flow/1"
    assert [field.name for field in CONTRACT.fields] == [
        "event_id", "user_id", "event_time", "ingest_time", "event_type", "amount", "currency", "channel",
    ]  # fmt: skip
    roles = (CONTRACT.id_field, CONTRACT.time_field, CONTRACT.ingest_field, CONTRACT.subject_field)
    assert roles == ("event_id", "event_time", "ingest_time", "user_id")
    assert CONTRACT.digest == hashlib.sha256(CONTRACT_TEXT).hexdigest()
    assert CONTRACT.unknown_fields == "refuse"
    event = CONTRACT.decoder.decode(line(1))
    assert (event.event_id, event.amount, event.event_time.isoformat()) == ("e1", 10.5, "2026-03-09T12:00:01+00:00")


def test_an_event_is_not_tracked_by_the_garbage_collector() -> None:
    """Millions of events would make the collector scan them again and again."""
    assert CONTRACT.event_type.__struct_config__.gc is False


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ('x = { type = "string", max_length = 3 }', ['""', '"abc"', r'"\ud83d\ude00ab"'], ['"abcd"', "1", "null"]),
        ('x = { type = "string", min_length = 2 }', ['"ab"'], ['"a"', '""']),
        ('x = { type = "enum", values = ["a", "b"] }', ['"a"', '"b"'], ['"A"', '""', "0", "null"]),
        ('x = { type = "boolean" }', ["true", "false"], ["1", '"true"', "null"]),
        ('x = { type = "integer" }', ["0", "-5", str(2**63 - 1)], ["1.5", "1.0", str(2**63), '"1"', "true"]),
        ('x = { type = "integer", at_least = 1, at_most = 9 }', ["1", "9"], ["0", "10"]),
        ('x = { type = "integer", above = 1, below = 9 }', ["2", "8"], ["1", "9"]),
        ('x = { type = "timestamp" }', ['"2026-01-01T00:00:00+05:30"'], ['"2026-01-01T00:00:00"', "1", '"2026-01-01"']),
        ('x = { type = "money", scale = 2, above = "0", at_most = "10.05" }', ["0.01", "10.05", "1"], ["0", "10.06"]),
        ('x = { type = "money", scale = 0, at_least = "-5", below = "5" }', ["-5", "4"], ["-6", "5", '"4"', "null"]),
        ('x = { type = "money" }', [str(10**13), str(-(10**13))], ["1e14", "-1e14", "1e999", str(10**400)]),
    ],
)
def test_each_kind_of_field_admits_its_bounds_and_nothing_beyond(field: str, good: list[str], bad: list[str]) -> None:
    """Bounds, lengths and values hold at their edges; another JSON type is never converted."""
    contract = compiled(field)
    for value in good:
        decoded(contract, f'"x": {value}')
    for value in bad:
        with pytest.raises(msgspec.ValidationError):
            decoded(contract, f'"x": {value}')
    with pytest.raises(msgspec.ValidationError, match="missing"):
        decoded(contract)


@pytest.mark.parametrize(
    ("field", "absent"),
    [
        ('x = { type = "string", required = false }', None),
        ('x = { type = "string", required = false, default = "d" }', "d"),
        ('x = { type = "enum", values = ["a"], required = false, default = "a" }', "a"),
        ('x = { type = "boolean", required = false, default = false }', False),
        ('x = { type = "integer", required = false, default = 7 }', 7),
        ('x = { type = "money", required = false }', None),
        ('x = { type = "timestamp", required = false }', None),
    ],
)
def test_an_absent_optional_field_is_its_default_or_unknown(field: str, absent: object) -> None:
    """Absent gives the default; where there is none, absent and null are both None."""
    contract = compiled(field)
    assert decoded(contract).x == absent
    if absent is None:
        assert decoded(contract, '"x": null').x is None


def test_unknown_fields_are_refused_or_ignored_as_declared() -> None:
    """`refuse` is the default; with `ignore` the event is the same as without them."""
    with pytest.raises(msgspec.ValidationError, match="unknown"):
        decoded(compiled(), '"y": 1')
    assert decoded(compiled(head='unknown_fields = "ignore"\n' + HEAD), '"y": [1, {"z": null}]').key == "k"


def test_the_original_texts_are_those_of_the_line() -> None:
    """A flag quotes the times as they stood in the stream, however they were written."""
    text = CONTRACT.original_text(
        line(event_time="2026-03-09T12:00:00.5Z", ingest_time="2026-03-09 13:00:01.500000+01:00")
    )
    assert text.event_time == "2026-03-09T12:00:00.5Z"
    assert text.ingest_time == "2026-03-09 13:00:01.500000+01:00"


def test_without_an_ingest_time_no_member_of_a_line_can_pose_as_one() -> None:
    """Ignored members, whatever their names, never reach the quoted texts."""
    contract = compiled(head='unknown_fields = "ignore"\n' + HEAD)
    hostile = (BASE + r', "ingest_time": 5, "\u0000never": 5, "event_time": [], "event_id": {}}').encode()
    contract.decoder.decode(hostile)
    text = contract.original_text(hostile)
    assert (text.event_time, text.ingest_time) == ("2026-03-09T12:00:00Z", None)


def test_the_json_schema_says_what_the_contract_says() -> None:
    """Export as JSON Schema 2020-12: required fields, bounds in major units, decimals, and unknown fields."""
    schema = json_schema(CONTRACT)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert schema["required"] == [field.name for field in CONTRACT.fields]
    amount = schema["properties"]["amount"]
    assert amount["exclusiveMinimum"] == 0
    assert amount["maximum"] == 1_000_000
    assert amount["multipleOf"] == 0.01
    assert schema["properties"]["currency"]["enum"] == ["GBP"]
    assert schema["properties"]["event_id"]["maxLength"] == 128
    assert schema["properties"]["event_time"]["format"] == "date-time"


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("version = 1", "bank.toml:1:1: contract", "is missing"),
        (HEAD.replace("version = 3", "version = true") + FIELDS, "bank.toml:2:11: version",
         "must be a whole number, not a boolean"),
        (HEAD.replace("version", "versoin") + FIELDS, "bank.toml:2:1: versoin", "unknown key: did you mean 'version'?"),
        (HEAD, "field", "is missing"),
        (HEAD + "[field]", "bank.toml:6:1: field", "declares no field"),
        (HEAD.replace('"key"', '"ke"') + FIELDS, "bank.toml:3:6: id", "names no declared field: 'ke'"),
        (HEAD.replace('"at"', '"who"') + FIELDS, "bank.toml:4:8: time", "must be a required timestamp"),
        (HEAD.replace('"who"', '"at"') + FIELDS, "bank.toml:5:11: subject", "must be a required string"),
        ('ingest_time = "who"\n' + HEAD + FIELDS, "bank.toml:1:15: ingest_time", "must be a required timestamp"),
        ('ingest_time = "at"\n' + HEAD + FIELDS, "bank.toml:1:15: ingest_time", "same field as time"),
        ('unknown_fields = "drop"\n' + HEAD + FIELDS, "bank.toml:1:18: unknown_fields", "allowed: refuse, ignore"),
        (HEAD + FIELDS.replace('at = { type = "timestamp" }', "at = 5"), "bank.toml:9:6: field.at", "must be a table"),
        (HEAD + FIELDS + "x = {}", "bank.toml:10:1: field.x.type", "is missing"),
        (HEAD + FIELDS + 'x = { type = "float" }', "bank.toml:10:14: field.x.type", "allowed: string, enum, money"),
        (HEAD + FIELDS + 'x = { type = "string", scale = 2 }', "bank.toml:10:24: field.x.scale", "unknown key"),
        (HEAD + FIELDS + 'x = { type = "string", min_length = 3, max_length = 2 }', "field.x", "min_length is above"),
        (HEAD + FIELDS + 'x = { type = "string", min_length = -1 }', "field.x", "min_length"),
        (HEAD + FIELDS + 'x = { type = "enum", values = [] }', "bank.toml:10:31: field.x.values",
         "distinct, non-empty"),
        (HEAD + FIELDS + 'x = { type = "enum", values = ["a", "a"] }', "field.x.values", "distinct, non-empty"),
        (HEAD + FIELDS + 'x = { type = "enum", values = ["a", 1] }', "field.x.values", "distinct, non-empty"),
        (HEAD + FIELDS + 'x = { type = "money", scale = 9 }', "bank.toml:10:31: field.x.scale", "allowed: 0 to 8"),
        (HEAD + FIELDS + 'x = { type = "money", scale = -1 }', "field.x.scale", "allowed: 0 to 8"),
        (HEAD + FIELDS + 'x = { type = "money", at_most = 10.5 }', "field.x.at_most", "write money as text"),
        (HEAD + FIELDS + 'x = { type = "money", at_most = "ten" }', "field.x.at_most", "write money as text"),
        (HEAD + FIELDS + 'x = { type = "money", at_most = "10.005" }', "field.x.at_most", "at most 2 decimals"),
        (HEAD + FIELDS + 'x = { type = "money", at_most = "1e14" }', "field.x.at_most", "10^15 minor units"),
        (HEAD + FIELDS + 'x = { type = "money", at_most = "NaN" }', "field.x.at_most", "out of range"),
        (HEAD + FIELDS + 'x = { type = "money", at_most = "sNaN" }', "field.x.at_most", "not an amount"),
        (HEAD + FIELDS + 'x = { type = "money", at_most = "Infinity" }', "field.x.at_most", "out of range"),
        (HEAD + FIELDS + 'x = { type = "money", at_most = "1e999999" }', "field.x.at_most", "not an amount"),
        (HEAD + FIELDS + 'x = { type = "money", above = "0", at_least = "1" }', "field.x.at_least", "beside above"),
        (HEAD + FIELDS + 'x = { type = "integer", below = 5, at_most = 5 }', "field.x.at_most", "beside below"),
        (HEAD + FIELDS + 'x = { type = "money", above = "2", at_most = "1" }', "x.above", "be above 2 and at_most 1"),
        (HEAD + FIELDS + 'x = { type = "money", above = "1", at_most = "1" }', "x.above", "give bounds with a value"),
        (HEAD + FIELDS + 'x = { type = "money", above = "0", below = "0.01" }', "x.above", "no value can be"),
        (HEAD + FIELDS + 'x = { type = "integer", at_least = 9, below = 9 }', "x.at_least", "can be at_least 9"),
        (HEAD + FIELDS + 'x = { type = "integer", above = 9223372036854775807 }', "x.above", "no value can be above"),
        (HEAD + FIELDS + 'x = { type = "integer", at_most = true }', "field.x.at_most", "write a whole number"),
        (HEAD + FIELDS + 'x = { type = "integer", at_most = 9223372036854775808 }', "field.x.at_most", "out of range"),
        (HEAD + FIELDS + 'x = { type = "integer", default = 1 }', "field.x.default", "add required = false"),
        (HEAD + FIELDS + 'x = { type = "integer", required = false, default = "1" }', "field.x.default", "Expected"),
        (HEAD + FIELDS + 'x = { type = "integer", required = false, default = 9, at_most = 8 }', "default", "<= 8"),
        (HEAD + FIELDS + 'x = { type = "money", required = false, default = 1 }', "field.x.default", "leave it out"),
        (HEAD + FIELDS + 'class = { type = "boolean" }', "bank.toml:10:1: field.class", "not a usable field name"),
        (HEAD + FIELDS + '"a-b" = { type = "boolean" }', "field.a-b", "not a usable field name"),
        (HEAD + FIELDS + '"\u00aab" = { type = "boolean" }', "field.\u00aab", "letters a to z"),
        (HEAD + FIELDS + '"\u00e9t\u00e9" = { type = "boolean" }', "field.\u00e9t\u00e9", "letters a to z"),
        (HEAD + FIELDS + '_x = { type = "boolean" }', "field._x", "not a usable field name"),
        (HEAD + FIELDS + 'p = { type = "boolean" }', "field.p", "not a usable field name"),
        (HEAD + FIELDS.replace("max_length = 64", "max_length = 1025", 1), "bank.toml:7:7: field.key", "at most 1024"),
        (HEAD + FIELDS.replace("min_length = 1, ", "", 1), "bank.toml:7:7: field.key", "min_length to at least 1"),
        (HEAD + FIELDS.replace("max_length = 64 }\nat", "max_length = 2000 }\nat"), "field.who", "at most 1024"),
        ("contract = x\n", "bank.toml:1:12: is not TOML", "Invalid value"),
        ("version = " + "9" * 5000, "bank.toml: is not valid TOML", "correct the syntax"),
        ("a = " + "[" * 5000, "bank.toml: is n", ""),
    ],
)  # fmt: skip
def test_a_wrong_contract_is_refused_by_file_line_column_and_key(text: str, where: str, what: str) -> None:
    """Each mistake is one line that says where it stands and what is allowed there."""
    message = str(refusal(text))
    assert where in message
    assert what in message
    assert "\n" not in message
    assert message.startswith("bank.toml:")


def test_a_contract_that_is_no_utf8_is_refused_by_its_byte() -> None:
    """The first byte that is not UTF-8 is named."""
    assert "bank.toml:1:12: byte 11 is not UTF-8" in str(refusal(b'contract = \xff"x"'))


def test_the_longest_id_is_accepted() -> None:
    """An id may be declared with exactly the longest length that an audit entry has room for."""
    text = FIELDS.replace("max_length = 64", f"max_length = {MAX_ID_LENGTH}")
    assert compile_contract((HEAD + text).encode(), "bank.toml").by_name["key"].max_length == MAX_ID_LENGTH


# -- values inside objects ---------------------------------------------------------------------------------------------

NESTED: Final = """\
payer = { type = "string", from = "src.nameOrig", max_length = 8 }
payee = { type = "string", from = "dst.nameDest", required = false }
bank = { type = "enum", values = ["a", "b"], from = "dst.bank.id", required = false, default = "a" }
amount = { type = "money", from = "src.amount" }
fee = { type = "money", from = "dst.fee", required = false }
odd = { type = "integer", from = "strange key`.1 - at `", required = false }
renamed = { type = "boolean", from = "class", required = false }
"""
SRC: Final = '"src": {"nameOrig": "C1", "amount": 1.5}'


def value(contract: Contract, event: Any, name: str) -> Any:
    """Return the field `name` of `event`, by its attribute path."""
    return attrgetter(contract.attribute(name))(event)


def values_of(members: str) -> dict[str, Any]:
    """Return the nested fields of an event with `members`."""
    contract = compiled(NESTED)
    event = decoded(contract, members)
    return {name: value(contract, event, name) for name in contract.by_name if name not in {"key", "who", "at"}}


NOTHING: Final = {
    "payer": "C1", "payee": None, "bank": "a", "amount": 1.5, "fee": None, "odd": None, "renamed": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("members", "given_values"),
    [
        (SRC, {}),
        (SRC + ', "dst": {}', {}),
        (SRC + ', "dst": null', {}),
        (SRC + ', "dst": {"bank": null, "fee": null, "nameDest": null}, "strange key`": null', {}),
        (SRC + ', "dst": {"bank": {"id": "b"}, "nameDest": "M9"}', {"bank": "b", "payee": "M9"}),
        (SRC + ', "dst": {"fee": -0.25}, "class": true', {"fee": -0.25, "renamed": True}),
        (SRC + ', "strange key`": {"1 - at `": 7}', {"odd": 7}),
    ],
)
def test_a_field_inside_an_object_is_read_wherever_it_stands(members: str, given_values: dict[str, Any]) -> None:
    """Keys become attributes; an object that is absent or null is one without fields, so no path fails."""
    assert values_of(members) == NOTHING | given_values


def test_an_attribute_path_can_stand_in_python_source() -> None:
    """Whatever the keys are called, the path is identifiers joined by dots."""
    contract = compiled(NESTED)
    for field in contract.fields:
        assert contract.attribute(field.name) == field.path
        assert all(step.isidentifier() and not keyword.iskeyword(step) for step in field.path.split("."))
    assert contract.attribute("payer") == "_src.payer"
    assert contract.attribute("key") == "key"
    assert contract.attribute("renamed") == "renamed"
    assert contract.by_name["bank"].source == "dst.bank.id"


@pytest.mark.parametrize(
    ("members", "reason", "field"),
    [
        ("", "required field is missing", "src"),
        ('"src": {"amount": 1}', "required field is missing", "src.nameOrig"),
        ('"src": null', "not an object", "src"),
        ('"src": [1]', "not an object", "src"),
        (SRC + ', "dst": {"bank": 1}', "not an object", "dst.bank"),
        (SRC + ', "dst": {"bank": {"id": "c"}}', "not one of the allowed values", "dst.bank.id"),
        (SRC + ', "dst": {"bank": {"id": null}}', "not one of the allowed values", "dst.bank.id"),
        (SRC.replace("C1", "C12345678"), "not a text of 0 to 8 characters", "src.nameOrig"),
        (SRC.replace("1.5", '"1"'), "not an amount within the bounds", "src.amount"),
        (SRC.replace("1.5", "1.005"), "more than 2 decimals", "src.amount"),
        (SRC.replace("1.5", '1.5, "x": 1'), "field not declared by the contract", "src.x"),
        (SRC + ', "dst": {"bank": {"nameDest": 1}}', "field not declared by the contract", "dst.bank.nameDest"),
        (SRC + ', "payer": "C1"', "field not declared by the contract", "payer"),
        (SRC + ', "dst": {"nameDest": "` - at `$.src"}, "class": 3', "not true or false", "class"),
        (SRC + ', "strange key`": {"1 - at `": "x"}', "not a whole number within the bounds", "strange key`.1 - at `"),
        (SRC + ', "class": 3', "not true or false", "class"),
    ],
)
def test_a_line_that_violates_a_nested_field_is_told_where(members: str, reason: str, field: str) -> None:
    """The rejection names the keys from the outermost object to the value, as the line has them."""
    contract = compiled(NESTED)
    text = (BASE + (", " + members if members else "") + "}\n").encode()
    (entry,) = decode_block(contract, text, at_start=True)
    if not isinstance(entry, LineFault):
        ((_, entry),) = Screening(contract, Policy(), ()).screen([entry]).faults
    assert (entry.kind, entry.reason, entry.field) == ("contract", reason, field)


def test_unknown_members_of_an_object_are_ignored_where_those_of_the_line_are() -> None:
    """`unknown_fields` holds at every depth, and nesting counts from the line on, however many objects lie in it."""
    contract = compiled(NESTED, head='unknown_fields = "ignore"\n' + HEAD)
    inside = f'"src": {{"nameOrig": "C1", "amount": 1, "x": {"[" * (NESTING_LIMIT - 2)}{"]" * (NESTING_LIMIT - 2)}}}'
    good = (BASE + ", " + inside + "}\n").encode()
    deep = good.replace(b"[]", b"[[]]")
    entries = decode_block(contract, good * 99 + deep + good, at_start=True)
    assert [number for number, entry in enumerate(entries) if isinstance(entry, LineFault)] == [99]
    assert entries[99].reason == f"nested deeper than {NESTING_LIMIT}"
    assert value(contract, entries[100], "payer") == "C1"


def test_objects_that_every_event_has_do_not_slow_its_block_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard against deep nesting leaves a block of ordinary nested events to the fast path."""
    monkeypatch.setattr("tidewaiter.core.decoding.decode_lines_singly", None)
    contract = compiled(NESTED, head='unknown_fields = "ignore"\n' + HEAD)
    plain = (BASE + ", " + SRC + "}\n").encode()
    full = (BASE + ", " + SRC + ', "dst": {"bank": {"id": "b"}, "more": [1, {}]}}\n').encode()
    assert len(decode_block(contract, plain * 500, at_start=True)) == 500
    assert len(decode_block(contract, full * 500, at_start=True)) == 500


def test_the_subject_may_lie_in_an_object() -> None:
    """Its object is then required, and blank ones are found there as well."""
    contract = compiled(head=HEAD.replace('"who"', '"payer"'), fields=NESTED.replace("from", "min_length = 1, from", 1))
    assert contract.subject_field == "payer"
    line = (BASE + ", " + SRC.replace("C1", " ") + "}").encode()
    ((_, fault),) = Screening(contract, Policy(), ()).screen([contract.decoder.decode(line)]).faults
    assert (fault.reason, fault.field) == ("only white space", "src.nameOrig")


def test_absent_money_is_no_amount_in_the_column() -> None:
    """A column of optional money holds None where it is absent, in bulk and one by one; zero stays zero."""
    contract = compiled(NESTED)
    texts = [BASE.replace('"k"', f'"k{number}"') for number in range(3)]
    members = [SRC, SRC + ', "dst": {"fee": 0}', SRC + ', "dst": {"fee": -1.25}']
    events = [contract.decoder.decode(f"{a}, {b}}}".encode()) for a, b in zip(texts, members, strict=True)]
    for again in ([], [events[0]]):  # a duplicate makes it judge each event by itself
        admitted = Screening(contract, Policy(duplicate="quarantine"), ("fee", "amount")).screen([*events, *again])
        assert [list(column) for column in admitted.money] == [[None, 0, -125], [150, 150, 150]]


@pytest.mark.parametrize(
    ("fields", "currency"),
    [
        ('m = { type = "money" }', None),
        ('m = { type = "money" }\ncurrency = { type = "string" }', "currency"),
        ('currency = { type = "enum", values = ["X"], required = false }\nm = { type = "money" }', "currency"),
        ('m = { type = "money" }\ncurrency = { type = "integer" }', None),
        (
            'm = { type = "money", currency = "unit" }\ncurrency = { type = "string" }\nunit = { type = "string" }',
            "unit",
        ),
    ],
)
def test_money_knows_its_currency(fields: str, currency: str | None) -> None:
    """The field it names; else the one called `currency`, if that is a text; else none."""
    assert compiled(fields).by_name["m"].currency == currency
    assert compiled(fields).by_name["key"].currency is None


@pytest.mark.parametrize(
    ("fields", "where", "what"),
    [
        ('x = { type = "boolean", from = "" }', "bank.toml:10:32: field.x.from", "has an empty key"),
        ('x = { type = "boolean", from = "a..b" }', "bank.toml:10:32: field.x.from", "keys joined by dots, 1 to 8"),
        ('x = { type = "boolean", from = "a.b.c.d.e.f.g.h.i" }', "field.x.from", "has 9 keys"),
        ('x = { type = "boolean", from = 3 }', "bank.toml:10:32: field.x.from", "must be text"),
        ('x = { type = "boolean", from = "key" }', "bank.toml:10:32: field.x.from", "same value as key: key"),
        ('x = { type = "boolean", from = "a.b" }\ny = { type = "boolean", from = "a.b" }',
         "bank.toml:11:32: field.y.from", "reads the same value as x: a.b"),
        ('a = { type = "boolean" }\ny = { type = "boolean", from = "a.b" }',
         "bank.toml:11:32: field.y.from", "looks inside a, which a reads as a value"),
        ('y = { type = "boolean", from = "a.b.c" }\na = { type = "boolean" }',
         "bank.toml:11:1: field.a", "reads a, inside which y looks for a.b.c"),
        ('x = { type = "money", currency = "curency" }\ncurrency = { type = "string" }',
         "bank.toml:10:34: field.x.currency", "did you mean 'currency'? allowed: key, who, currency"),
        ('x = { type = "money", currency = "at" }', "bank.toml:10:34: field.x.currency", "must be a string or enum"),
        ('x = { type = "integer", currency = "who" }', "bank.toml:10:25: field.x.currency", "unknown key"),
        ('x = { type = "boolean", form = "a.b" }', "bank.toml:10:25: field.x.form", "did you mean 'from'?"),
    ],
)  # fmt: skip
def test_a_wrong_place_or_currency_is_refused(fields: str, where: str, what: str) -> None:
    """Two fields never read the same value, nor one a value in which another looks; the later one is named."""
    message = str(refusal(HEAD + FIELDS + fields))
    assert where in message
    assert what in message


@pytest.mark.parametrize("role", ["id", "time", "ingest_time"])
def test_id_and_times_stand_at_the_top_of_the_line(role: str) -> None:
    """What makes an event and what a flag quotes is never looked for inside."""
    name = {"id": "key", "time": "at", "ingest_time": "got"}[role]
    fields = FIELDS.replace(f"{name} = {{", f'{name} = {{ from = "a.b",') + 'got = { type = "timestamp" }\n'
    text = (
        'ingest_time = "got"\n'
        + HEAD
        + fields.replace("got = {", 'got = { from = "a.b",' if name == "got" else "got = {")
    )
    assert f"field.{name}.from: the {role} must stand at the top of the line" in str(refusal(text))


def test_the_json_schema_says_where_values_stand() -> None:
    """Objects are objects, required where one of their fields is, and closed as the line is."""
    schema = json_schema(compiled(NESTED))
    assert schema["required"] == ["key", "who", "at", "src"]
    source, target = schema["properties"]["src"], schema["properties"]["dst"]
    assert (source["type"], source["required"], source["additionalProperties"]) == (
        "object", ["nameOrig", "amount"], False,
    )  # fmt: skip
    assert source["properties"]["nameOrig"]["maxLength"] == 8
    assert target["required"] == []
    assert target["properties"]["bank"]["properties"]["id"]["enum"] == ["a", "b"]
    assert "payer" not in schema["properties"]
    assert json_schema(compiled(NESTED, 'unknown_fields = "ignore"\n' + HEAD))["properties"]["dst"][
        "additionalProperties"
    ]


# -- money -------------------------------------------------------------------------------------------------------------


@given(st.integers(-MAX_MINOR_UNITS, MAX_MINOR_UNITS), st.integers(0, MAX_SCALE))
def test_every_amount_within_bounds_survives_the_double(units: int, scale: int) -> None:
    """Any amount below 10^15 minor units, written as decimal JSON, comes back as exactly these units."""
    text = str(Decimal(units).scaleb(-scale))
    assert exact_minor_units(msgspec.json.decode(text, type=float), scale) == units


@given(st.integers(-(10**12), 10**12), st.integers(0, 3), st.integers(1, 9))
def test_every_amount_with_too_many_decimals_is_seen(units: int, scale: int, digit: int) -> None:
    """One decimal more than declared is never rounded away."""
    text = str(Decimal(units * 10 + digit).scaleb(-scale - 1))
    assert exact_minor_units(float(text), scale) is None


@pytest.mark.parametrize(
    ("text", "units"),
    [("0.1", 10), ("0.07", 7), ("1.005", None), ("0.001", None), ("-0.0", 0), ("1e2", 10000), ("1E-2", 1),
     ("4.35", 435), ("1e-300", None), ("500.00", 50000), ("0.30000000000000004", None),
     ("9999999999999.99", 999999999999999)],
)  # fmt: skip
def test_amounts_that_binary_fractions_get_wrong(text: str, units: int | None) -> None:
    """Amounts that a float product would miss by one unit are exact."""
    assert exact_minor_units(float(text), 2) == units


def test_messages_carry_no_python_names() -> None:
    """A refusal speaks of the file, not of classes and types of the implementation."""
    message = str(refusal(HEAD + FIELDS + 'x = { type = "money", at_most = [1] }'))
    assert not re.search(r"Decimal|InvalidOperation|object at", message)
