"""The contract file of a pipeline: what it may say beyond a stream's, what it refuses, and what a stream refuses."""

from __future__ import annotations

import re
from typing import Any, Final

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from table_contracts import HEAD, table_contract
from tidewaiter.core.contract import TableContract, compile_contract, json_schema
from tidewaiter.core.contract_codes import CODE_FORMS
from tidewaiter.core.contract_fields import Reference
from tidewaiter.core.contract_pattern import PatternError, plain_pattern
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.validation import admits

STREAM: Final = """\
contract = "bank"
version = 3
id = "key"
time = "at"
subject = "who"
[field]
key = { type = "string", min_length = 1, max_length = 64 }
who = { type = "string", min_length = 1, max_length = 64 }
at = { type = "timestamp" }
"""


def refusal(text: str, *, for_stream: bool = False) -> str:
    """Return the error that a contract is refused with; it says what to do."""
    with pytest.raises(ConfigError) as caught:
        compile_contract(text.encode(), "t.toml") if for_stream else table_contract(text, "")
    assert caught.value.hint
    return str(caught.value)


def test_the_roles_are_optional_and_names_are_free() -> None:
    """A table needs no id, time or subject, and its columns may be called anything."""
    contract = table_contract(
        "[field]\n'Customer No.' = { type = 'string' }\nclass = { type = 'integer', from = 'a.b.' }"
    )
    assert (contract.id_field, contract.time_field, contract.subject_field) == ("", "", "")
    assert list(contract.by_name) == ["Customer No.", "class"]
    assert list(contract.by_source) == ["Customer No.", "a.b."]
    assert contract.label == "t/1"


def test_a_streams_contract_is_a_contract_of_a_pipeline() -> None:
    """The same file serves both; its roles are kept."""
    contract = compile_contract(STREAM.encode(), "t.toml", for_stream=False)
    assert isinstance(contract, TableContract)
    assert (contract.id_field, contract.time_field, contract.subject_field) == ("key", "at", "who")
    assert contract.digest == compile_contract(STREAM.encode(), "t.toml").digest


def test_everything_that_a_field_may_say_is_read() -> None:
    """Decimals, dates, patterns, lists, checks and conditions."""
    contract = table_contract(
        """\
[field]
rate = { type = "decimal", scale = 12, above = "0", at_most = "1.5" }
day = { type = "date", at_least = "1970-01-02", at_most = "2026-12-31" }
code = { type = "string", pattern = "[A-Z]{2}", list = "lists/codes.csv", column = "code", check = "hcpcs" }
note = { type = "string", required_when = "rate > 1", list = "notes.txt" }
ratio = { type = "float", required = false }
[check]
one = { when = "rate < 2", title = "small" }
two = { when = "rate > 0" }
"""
    )
    rate, day, code, note, ratio = contract.fields
    assert (rate.scale, rate.above, rate.at_most) == (12, 0, 1_500_000_000_000)
    assert (day.at_least, day.at_most) == (1, 20_818)
    assert (code.pattern, code.check, code.required) == ("^(?:[A-Z]{2})$", "hcpcs", True)
    assert (note.required, note.required_when, ratio.required) == (False, "rate > 1", False)
    assert [(each.name, each.when, each.title) for each in contract.checks] == [
        ("one", "rate < 2", "small"), ("two", "rate > 0", ""),
    ]  # fmt: skip
    assert (code.reference, note.reference) == (Reference("lists/codes.csv", "code"), Reference("notes.txt"))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("{ type = 'decimal', scale = 19 }", "scale: 19 decimals are not supported: allowed: 0 to 18"),
        ("{ type = 'decimal', scale = 2, at_most = '1.234' }", "at_most: '1.234' is out of range"),
        ("{ type = 'decimal', at_most = 1.5 }", "at_most: 1.5 is not an amount: write decimal as text"),
        ("{ type = 'decimal', above = '5', below = '5.01' }", "no value can be above 5 and below 5.01"),
        ("{ type = 'decimal', above = '5', at_least = '5' }", "cannot stand beside above"),
        ("{ type = 'date', at_least = '01/02/2026' }", "is not a date of the form YYYY-MM-DD"),
        ("{ type = 'date', at_least = 2026-01-02 }", "is not a date of the form YYYY-MM-DD, as text"),
        ("{ type = 'date', above = '2026-01-02' }", "above: unknown key"),
        ("{ type = 'date', at_least = '2026-01-02', at_most = '2026-01-01' }", "no value can be"),
        ("{ type = 'date', required = false, default = '2026-01-02' }", "a date has no default"),
        ("{ type = 'float', at_least = 1 }", "at_least: unknown key"),
        ("{ type = 'double' }", "type: 'double' is not allowed"),
        ("{ type = 'string', pattern = '(?=a)' }", "t.toml:4:35: field.x.pattern: '(' cannot stand here"),
        ("{ type = 'string', pattern = 'ab(c' }", "field.x.pattern: '(' is not closed"),
        ("{ type = 'integer', pattern = 'a' }", "pattern: unknown key"),
        ("{ type = 'string', list = 'x.csv' }", "which column of it?"),
        ("{ type = 'string', list = 'x.xls', column = 'a' }", "cannot be read so"),
        ("{ type = 'string', list = 'x.txt', column = 'a' }", "cannot be read so"),
        ("{ type = 'string', column = 'a' }", "names a column of no list"),
        ("{ type = 'string', check = 'nhs' }", "check: 'nhs' is not allowed"),
        ("{ type = 'string', required = true, required_when = 'a' }", "required_when says when"),
        ("{ type = 'string', required = false, default = 'x', check = 'cpt' }", "cannot stand in for"),
    ],
)
def test_what_a_field_cannot_say_is_refused_with_its_place(field: str, words: str) -> None:
    """File, line, column, key and what is allowed."""
    assert words in refusal(f"{HEAD}[field]\nx = {field}\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[field]\n__row = { type = 'string' }", "is not a usable column name"),
        ("[field]\n'' = { type = 'string' }", "is not a usable column name"),
        ("[field]\na = { type = 'string' }\nb = { type = 'string', from = 'a' }", "reads the same column as a"),
        ("id = 'a'\n[field]\na = { type = 'integer' }", "id: a must be a required string field"),
        ("[field]\na = { type = 'string' }\n[check]\nx = { if = 'a' }", "check.x.if: unknown key"),
        ("[field]\na = { type = 'string' }\n[check]\nx = { title = 'a' }", "check.x.when: is missing"),
        ("[field]\na = { type = 'string' }\n[check]\nx = 'a'", "check.x: must be a table"),
        ("checks = 1\n[field]\na = { type = 'string' }", "checks: unknown key: did you mean 'check'?"),
    ],
)
def test_what_a_contract_cannot_say_is_refused_with_its_place(text: str, words: str) -> None:
    """Names that collide, roles that do not fit, and checks that are none."""
    assert words in refusal(HEAD + text)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("x = { type = 'decimal' }", "t.toml:10:14: field.x.type: decimal is for pipelines"),
        ("x = { type = 'date' }", "date is for pipelines"),
        ("x = { type = 'string', pattern = 'a' }", "pattern: is for pipelines: a stream's contract cannot have it"),
        ("x = { type = 'string', list = 'a.txt' }", "list: is for pipelines"),
        ("x = { type = 'string', check = 'cpt' }", "check: is for pipelines"),
        ("x = { type = 'integer', required_when = 'a' }", "required_when: is for pipelines"),
        ("[check]\nx = { when = 'a' }", "check: is for pipelines"),
        ("'a b' = { type = 'string' }", "is not a usable field name"),
    ],
)
def test_a_stream_refuses_what_is_for_pipelines(more: str, words: str) -> None:
    """The daemon never runs with a rule that it would not apply."""
    assert words in refusal(STREAM + more, for_stream=True)


def test_the_json_schema_tells_patterns_dates_and_decimals() -> None:
    """What JSON Schema can say of a pipeline's contract is in its export."""
    schema: dict[str, Any] = json_schema(
        table_contract(
            "[field]\na = { type = 'string', pattern = '[A-Z]{2}' }\nb = { type = 'date' }\n"
            "c = { type = 'decimal', scale = 3, at_least = '0.5' }\n"
            "d = { type = 'float', required = false, from = 'D' }"
        )
    )
    assert schema["properties"] == {
        "a": {"type": "string", "minLength": 0, "maxLength": 65_535, "pattern": "^(?:[A-Z]{2})$"},
        "b": {"type": "string", "format": "date"},
        "c": {"type": "number", "minimum": 0.5, "multipleOf": 0.001},
        "D": {"type": "number"},
    }
    assert schema["required"] == ["a", "b", "c"]


# -- patterns ----------------------------------------------------------------------------------------------------------

GOOD_PATTERNS: Final = (
    "[A-Z]{2}", r"^\d{3}-\d{2}$", "a|b", "(?:ab|c)+x?", "[^a-z]*", r"[\w.-]+@[\w-]+\.[a-z]{2,}", r"\$\d+", r"a\\$",
    "é+", "[é-ü]", ".*", "a{2}b{3,}", "[-a]", "[a-]", "x y#z", r"[\]\[]", r"\s*", "(a+)+",
)  # fmt: skip
BAD_PATTERNS: Final = (
    "", "(?=a)", "(?!a)b", "(?<=a)b", "(?i)a", "(?P<n>a)", r"(a)\1", r"\bword", r"\p{L}", r"\x41", "a**", "a*?", "*a",
    "(*a)", "a|*", "[z-a]", "[]", "[^]", "[a", "(a", "a)", "a{3,2}", "a{256}", "a{,3}", "[a&&b]", "[a--b]",
    "[[:alpha:]]", "a$b", "a^", "{", "x" * 501, r"[\d-x]",
)  # fmt: skip


@pytest.mark.parametrize("written", GOOD_PATTERNS)
@given(text=st.text("abAB019xyz-_.@$\\[]#é\u00fc \t\n", max_size=6))
@settings(deadline=None, max_examples=40)
def test_both_engines_read_a_pattern_alike(written: str, text: str) -> None:
    """Polars' engine and Python's give the same answer, and the whole text counts."""
    pattern = plain_pattern(written)
    with_polars = pl.Series([text]).str.contains(pattern)[0]
    assert with_polars == bool(re.fullmatch(pattern.removesuffix("$"), text))


@pytest.mark.parametrize("written", BAD_PATTERNS)
def test_a_pattern_that_engines_read_differently_or_slowly_is_refused(written: str) -> None:
    """No looking around, no referring back, no lazy repeats, no flags, nothing that only one engine knows."""
    with pytest.raises(PatternError) as caught:
        plain_pattern(written)
    assert caught.value.hint
    assert 0 <= caught.value.at <= len(written)


@given(st.text(r"ab[]()\{}dws.*+?|^$-,019&~", max_size=12))
@settings(deadline=None, max_examples=500)
def test_every_pattern_is_refused_or_read_by_both_engines(written: str) -> None:
    """There is no pattern that is accepted at load and fails on the first row."""
    try:
        pattern = plain_pattern(written)
    except PatternError:
        return
    for text in ("", "a", "ab", "b]", "d\n", "0-1"):
        assert pl.Series([text]).str.contains(pattern)[0] == bool(re.fullmatch(pattern.removesuffix("$"), text))


# -- codes and values --------------------------------------------------------------------------------------------------

CODES: Final = {
    "icd10cm": (["E11.9", "E119", "A00", "C4A.0", "Z3A.01", "S72.001A", "T88.0XXA", "F32.A", "U07.1", "M1A"],
                ["e11.9", "E1", "1E1", "E11.", "E11.12345", "E1C", "EE1", "E11 9", "E11.9\n", "E11-9"]),
    "icd10pcs": (["0DTJ4ZZ", "XW033E5", "B020ZZZ"], ["0DTJ4Z", "0DTJ4ZZZ", "0DTI4ZZ", "0DTO4ZZ", "EDTJ4ZZ", "0dtj4zz"]),
    "hcpcs": (["J1815", "A0428", "V5364"], ["W1234", "J181", "J18155", "11815", "j1815"]),
    "cpt": (["10001", "0001F", "0042T", "0001U", "0001M", "0001A"], ["1000", "100011", "0001G", "A0001", "0001f"]),
    "npi_luhn": (["1234567893", "1245319599"], ["1234567890", "123456789", "12345678933", "3234567893", "123456789x"]),
    "luhn": (["18", "79927398713"], ["19", "7992739871", "x18", "1"]),
}  # fmt: skip


@pytest.mark.parametrize("check", CODES)
def test_codes_are_told_by_their_form(check: str) -> None:
    """The forms of medicine's codes, digit sums included: good and bad ones of each."""
    from tidewaiter.core.pipelines.contract_checks import code_faults  # noqa: PLC0415

    good, bad = CODES[check]
    wrong, words = code_faults(pl.Series([*good, *bad]), check)
    assert wrong.to_list() == [False] * len(good) + [True] * len(bad)
    assert words == f"is not {CODE_FORMS[check].words}"


def test_every_form_of_codes_is_tested_here() -> None:
    """A check that is added without good and bad codes fails."""
    assert set(CODES) == set(CODE_FORMS)


def test_amounts_beyond_64_bits_are_compared_exactly() -> None:
    """A bound of 38 digits is one, to the last of them."""
    (field,) = table_contract(
        "[field]\na = { type = 'decimal', scale = 18, at_most = '12345678901234567890.5' }"
    ).fields
    limit = 12_345_678_901_234_567_890_500_000_000_000_000_000
    assert [admits(field)(limit), admits(field)(limit + 1)] == [True, False]
