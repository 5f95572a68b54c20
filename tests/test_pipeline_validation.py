"""Holding rows against a contract: which texts are values, what is said of others, and that batches change nothing."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any, Final

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from table_contracts import HEAD, checked, frame_of, problems, shipped_validator, table_contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.columns import ROW, ColumnType, parse_type
from tidewaiter.core.pipelines.text_values import form_of, not_of_form, read_texts
from tidewaiter.core.pipelines.validation import PROBLEMS_TOLD, Validator

FIELDS: Final = """\
[field]
id = { type = "string", min_length = 1, max_length = 8 }
amount = { type = "money", above = "0", at_most = "1000.00" }
kind = { type = "enum", values = ["a", "b"], required = false, default = "a" }
day = { type = "date", at_least = "2026-01-01", required = false }
count = { type = "integer", at_least = -5, below = 5, required = false }
"""
COLUMNS: Final = ("id", "amount", "kind", "day", "count")
ROWS: Final = {"id": "x", "amount": "1.00", "kind": "a", "day": "2026-02-01", "count": "1"}


def refusal(fields: str, columns: tuple[str, ...], types: dict[str, ColumnType] | None = None, **named: Any) -> str:
    """Return what a contract says of columns that cannot be held against it."""
    with pytest.raises(ConfigError) as caught:
        Validator(table_contract(fields, **named), columns, types)
    assert caught.value.hint
    return str(caught.value)


# -- the forms of texts ------------------------------------------------------------------------------------------------

FORMS: Final = {
    "integer": (
        ["0", "-0", "7", "-12", "9223372036854775807", "-9223372036854775807"],
        ["+1", " 1", "1 ", "007", "1_000", "1,000", "1.0", "1e3", "0x1", "٣", "-", "9223372036854775808", "1\n",
         "-9223372036854775808"],
    ),
    "decimal(2)": (
        ["0", "5", "5.1", "-5.12", "9" * 36 + ".99", "-0.00"],
        ["5.123", "5.", ".5", "+5", "1e3", "1,5", "NaN", "inf", "05.10", "9" * 37, "5.1.1", "", "$5", "5.100"],
    ),
    "decimal(0)": (["5", "-5"], ["5.0", "5."]),
    "float": (["1", "-1.5", "1e3", "1.5E-7"], ["1.", ".5", "inf", "nan", "1e999", "0x1p3", "1_0"]),
    "boolean": (["true", "false"], ["True", "FALSE", "1", "0", "yes", "t", " true"]),
    "date": (
        ["2026-01-31", "2024-02-29", "0001-01-01", "9999-12-31"],
        ["31/01/2026", "01/31/2026", "2026/01/31", "20260131", "2026-1-31", "2026-02-30", "2026-01-31T00:00:00Z",
         "31.01.2026", "Jan 31 2026", "46053", "0000-01-01", "2026-13-01", "+2026-01-01", "12026-01-01"],
    ),
    "timestamp": (
        ["2026-01-31T10:00:00Z", "2026-01-31T10:00:00.5Z", "2026-01-31T10:00:00.123456+01:00",
         "2026-01-31T10:00:00-23:59", "2026-01-31T10:00:00.1234560Z", "0001-01-01T00:00:00Z"],
        ["2026-01-31T10:00:00", "2026-01-31 10:00:00Z", "2026-01-31", "2026-01-31T10:00Z", "2026-01-31T10:00:60Z",
         "2026-01-31T24:00:00Z", "2026-01-31t10:00:00z", "2026-01-31T10:00:00+0100", "2026-01-31T10:00:00.1234567Z",
         "2026-02-30T10:00:00Z", "2026-01-31T10:00:00+24:00", "1769853600", "0001-01-01T00:00:00+01:00",
         "9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00Z", "31/01/2026 10:00"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_one_form_of_each_type_is_read_and_all_others_are_refused(name: str) -> None:
    """Dates of many shapes, numbers with signs, spaces, separators and exponents: no guess, no silent null or cut."""
    column = parse_type(name)
    assert column is not None
    good, bad = FORMS[name]
    values = read_texts(pl.Series("x", [*good, None, *bad], dtype=pl.String), column)
    assert values.dtype == column.dtype
    assert values[: len(good)].null_count() == 0
    assert values[len(good) :].to_list() == [None] * (len(bad) + 1)
    # each text alone is read as it is among others
    for text in (*good, *bad):
        alone = read_texts(pl.Series("x", [text]), column)[0]
        assert (alone is not None) == (text in good), text


def test_what_a_text_must_be_is_said_with_an_example_that_is_one() -> None:
    """The refusal of a date or an amount shows a text that would be read."""
    for name in ("decimal(0)", "decimal(1)", "decimal(2)", "decimal(4)", "date", "timestamp"):
        column = parse_type(name)
        assert column is not None
        example = not_of_form(column).rpartition("such as ")[2]
        assert read_texts(pl.Series([example]), column).null_count() == 0


def test_times_become_utc_and_keep_their_microseconds() -> None:
    """An offset is taken into account, whichever way the rest of the column is written."""
    batch = checked("[field]\nt = { type = 'timestamp' }", "t", "2026-01-31T10:00:00+01:00", "2026-01-31T10:00:00.25Z")
    assert batch.frame["t"].to_list() == [
        dt.datetime(2026, 1, 31, 9, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 31, 10, 0, 0, 250_000, tzinfo=dt.UTC),
    ]


@given(st.one_of(st.text("0123456789-+.eE ", max_size=12), st.decimals(allow_nan=False, allow_infinity=False).map(str)))
@settings(deadline=None, max_examples=300)
def test_a_decimal_that_is_read_is_what_the_text_says(text: str) -> None:
    """No text is read as another amount than decimal arithmetic reads it: nothing is rounded, cut or wrapped."""
    value = read_texts(pl.Series([text]), ColumnType("decimal", 3))[0]
    if value is not None:
        assert Decimal(str(value)) == Decimal(text)
    elif re.fullmatch(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,3})?", text):
        pytest.fail("a text of the form was not read")


@given(st.lists(st.one_of(st.none(), st.text("0019+-eExX._ ", max_size=7), st.integers(0, 10**7).map(str)), max_size=4))
@settings(deadline=None, max_examples=500)
def test_an_integer_that_is_read_is_what_the_text_says(texts: list[str | None]) -> None:
    """Small ones are told by their length alone: signs, zeros before them and exponents are refused all the same."""
    plain = re.compile(r"-?(0|[1-9][0-9]*)\Z")
    expected = [int(text) if text is not None and plain.match(text) else None for text in texts]
    assert read_texts(pl.Series(texts, dtype=pl.String), ColumnType("integer")).to_list() == expected


@given(st.datetimes(min_value=dt.datetime(2, 1, 1), max_value=dt.datetime(9998, 1, 1)), st.integers(-1439, 1439))  # noqa: DTZ001 - the offset is drawn beside it
@settings(deadline=None)
def test_a_time_that_is_read_is_what_the_text_says(moment: dt.datetime, minutes: int) -> None:
    """Any time with any offset is the instant that Python's own reader finds."""
    text = moment.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes))).isoformat()
    assert read_texts(pl.Series([text]), ColumnType("timestamp"))[0] == dt.datetime.fromisoformat(text)


def test_forms_as_patterns_agree_with_reading() -> None:
    """What `form_of` tells is what reading looks at, for all but the calendar and the 64 bits."""
    for name in ("integer", "decimal(2)", "float", "boolean"):
        column = parse_type(name)
        assert column is not None
        good, bad = FORMS[name]
        assert all(re.search(form_of(column), text) for text in good)
        assert not any(
            re.search(form_of(column), text) for text in bad if len(text) < 19 and text not in ("1\n", "1e999")
        )


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_values_come_out_in_the_inputs_order_with_the_contracts_types() -> None:
    """Columns keep their order, absent optional ones come last with their default, ROW stays first."""
    columns = ("count", "id", "amount")
    validator = Validator(table_contract(FIELDS), columns)
    frame = frame_of([{"count": "3", "id": "x", "amount": "1.5"}, {"count": "", "id": "y", "amount": "2"}])
    batch = validator.check(frame)
    assert list(validator.schema) == ["count", "id", "amount", "kind", "day"]
    assert {name: str(kind) for name, kind in validator.schema.items()} == {
        "count": "integer", "id": "string", "amount": "decimal(2)", "kind": "string", "day": "date",
    }  # fmt: skip
    assert batch.frame.schema == {ROW: pl.UInt64(), **{name: kind.dtype for name, kind in validator.schema.items()}}
    assert batch.frame.rows() == [(1, 3, "x", Decimal("1.50"), "a", None), (2, None, "y", Decimal("2.00"), "a", None)]


def test_a_default_stands_in_for_an_empty_cell() -> None:
    """The column need not be absent for its default to be used, and a cell that is wrong is no empty one."""
    fields = "[field]\na = { type = 'integer', required = false, default = 7 }"
    batch = checked(fields, "a", "", "1", "x")
    assert batch.frame["a"].to_list() == [7, 1]
    assert [each.row for each in batch.rejected] == [3]


def test_a_field_reads_the_column_that_from_names() -> None:
    """`from` is the header as it stands, dots and spaces included; faults name that header."""
    fields = "[field]\npatient = { type = 'integer', from = 'Patient No. (a.b)' }"
    batch = checked(fields, "Patient No. (a.b)", "1", "x")
    assert batch.frame.columns == [ROW, "patient"]
    assert problems(batch) == [(2, "Patient No. (a.b)", "is not an integer of 64 bits")]
    assert batch.rejected[0].record == {"Patient No. (a.b)": "x"}


def test_an_empty_frame_keeps_its_columns() -> None:
    """A table of no rows is valid."""
    batch = Validator(table_contract(FIELDS), COLUMNS).check(frame_of([ROWS]).clear())
    assert batch.rejected == ()
    assert batch.frame.columns == [ROW, *COLUMNS]


def test_undeclared_columns_pass_as_they_are_where_the_contract_ignores_them() -> None:
    """`unknown_fields = "ignore"` takes nothing away from the table."""
    contract = table_contract("[field]\na = { type = 'integer' }", HEAD + "unknown_fields = 'ignore'\n")
    batch = Validator(contract, ("b", "a")).check(frame_of([{"b": "x", "a": "1"}]))
    assert batch.frame.rows() == [(1, "x", 1)]


# -- columns that cannot be held against it ----------------------------------------------------------------------------


def test_missing_undeclared_and_unfitting_columns_are_refused_before_any_row() -> None:
    """A wrong table is one clear error that names the column, not a million rejections."""
    assert "field.amount: the input has no column 'amount'" in refusal(FIELDS, ("id", "amuont"))
    assert "did you mean 'amuont'" in refusal(FIELDS, ("id", "amuont"))
    assert "a column 'extra' that is not declared" in refusal(FIELDS, (*COLUMNS, "extra"))
    wrong = {"id": ColumnType("integer"), "amount": ColumnType("string")}
    assert "the column 'id' is integer, which cannot become string" in refusal(FIELDS, ("id", "amount"), wrong)
    beside = "[field]\na = { type = 'integer', from = 'x' }"
    head = HEAD + "unknown_fields = 'ignore'\n"
    assert "has a column 'a' beside 'x'" in refusal(beside, ("a", "x"), head=head)


def test_a_list_that_was_not_read_is_refused() -> None:
    """A contract with a list is never applied without it."""
    assert "lists/x.csv was not read" in refusal(
        "[field]\na = { type = 'string', list = 'lists/x.csv', column = 'code' }", ("a",)
    )


# -- rejections --------------------------------------------------------------------------------------------------------


def test_a_row_is_rejected_once_and_says_everything_that_is_wrong() -> None:
    """The first problem in the contract's order stands with its column, the others follow with theirs."""
    bad = {"id": "", "amount": "0", "kind": "c", "day": "2025-12-31", "count": "5"}
    batch = Validator(table_contract(FIELDS), COLUMNS).check(frame_of([ROWS, bad, ROWS]))
    (rejected,) = batch.rejected
    assert (rejected.row, rejected.column, rejected.value) == (2, "id", None)
    assert rejected.problem == (
        "is missing; also amount: is not above 0 and at most 1000.00; also kind: is not one of the allowed values: a, b"
        "; also day: is not at least 2026-01-01; also count: is not at least -5 and below 5"
    )
    assert len(rejected.problem.split("; also ")) == PROBLEMS_TOLD
    assert rejected.record == {name: cell or None for name, cell in bad.items()}


def test_more_problems_than_are_told_are_counted() -> None:
    """A row that is wrong everywhere stays one short line."""
    fields = "[field]\n" + "".join(f"c{number} = {{ type = 'integer' }}\n" for number in range(9))
    columns = tuple(f"c{number}" for number in range(9))
    batch = Validator(table_contract(fields), columns).check(frame_of([dict.fromkeys(columns, "x")]))
    assert batch.rejected[0].problem.endswith("c4: is not an integer of 64 bits; also 4 more")


def test_a_long_value_is_quoted_in_part() -> None:
    """A rejection has a bounded size."""
    (rejected,) = checked("[field]\na = { type = 'string', max_length = 3 }", "a", "x" * 1000).rejected
    assert rejected.value == "x" * 200 + "…"
    assert rejected.problem == "does not have 0 to 3 characters"


@given(st.lists(st.text("xé\U0001f600", max_size=6), max_size=4), st.integers(0, 4), st.integers(0, 4))
@settings(deadline=None)
def test_lengths_count_characters(texts: list[str], least: int, more: int) -> None:
    """A text is as long as it has characters, whatever bytes they take."""
    fields = f"[field]\na = {{ type = 'string', min_length = {least}, max_length = {least + more} }}"
    batch = Validator(table_contract(fields), ("a",)).check(
        pl.DataFrame({ROW: range(len(texts)), "a": texts}, schema={ROW: pl.UInt64, "a": pl.String})
    )
    assert batch.frame["a"].to_list() == [text for text in texts if least <= len(text) <= least + more]


CELLS: Final = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["", "x", "y" * 8, "z" * 9, "é" * 8]),
        "amount": st.sampled_from(["", "0", "0.01", "1000", "1000.01", "1.234", "-1", "abc"]),
        "kind": st.sampled_from(["", "a", "b", "c"]),
        "day": st.sampled_from(["", "2026-01-01", "2025-12-31", "01/02/2026"]),
        "count": st.sampled_from(["", "-5", "-6", "4", "5", "1.0"]),
    }
)


@given(st.lists(CELLS, min_size=1, max_size=30), st.integers(1, 30))
@settings(deadline=None, max_examples=60)
def test_where_batches_begin_and_end_changes_nothing(rows: list[dict[str, str]], cut: int) -> None:
    """Rows all at once, in two batches, and one by one give the same values and the same rejections."""
    validator = Validator(table_contract(FIELDS), COLUMNS)
    frame = frame_of(rows)
    whole = validator.check(frame)
    for size in (cut, 1):
        parts = [validator.check(part) for part in frame.iter_slices(size)]
        assert tuple(each for part in parts for each in part.rejected) == whole.rejected
        assert pl.concat([part.frame for part in parts]).equals(whole.frame)
    assert whole.frame.height + len(whole.rejected) == len(rows)
    assert [each.row for each in whole.rejected] == sorted({each.row for each in whole.rejected})


# -- what else a contract asks -----------------------------------------------------------------------------------------


def test_patterns_hold_for_the_whole_text_and_their_time_does_not_depend_on_it() -> None:
    """A pattern that makes engines that backtrack hang for ages is over at once."""
    fields = "[field]\na = { type = 'string', pattern = '(a+)+b|x' }"
    batch = checked(fields, "a", "aab", "a" * 50_000, "x", "xx", "x\n")
    assert [each.row for each in batch.rejected] == [2, 4, 5]


def test_a_pattern_too_large_to_be_matched_is_refused_before_any_row() -> None:
    """Repeats inside of repeats multiply: the engine's limit is a fault of the contract, not of a record."""
    fields = "[field]\na = { type = 'string', pattern = '((([^a]{255}){255}){255})' }"
    assert "field.a.pattern: makes too large a machine" in refusal(fields, ("a",))


def test_a_list_names_the_texts_that_are_allowed() -> None:
    """Membership is exact: case and spaces count."""
    contract = table_contract("[field]\na = { type = 'string', list = 'x.txt', required = false }")
    batch = Validator(contract, ("a",), None, {"a": {"one", "two"}}).check(
        frame_of([{"a": cell} for cell in ("one", "One", "", "two ")])
    )
    assert problems(batch) == [(2, "a", "is not in x.txt"), (4, "a", "is not in x.txt")]


def test_luhn_digits_of_any_length_are_checked() -> None:
    """Numbers of 2 to 19 digits, longer ones and other texts refused."""
    fields = "[field]\na = { type = 'string', check = 'luhn' }"
    batch = checked(
        fields, "a", "18", "4242424242424242", "79927398713", "79927398710", "1", "4" * 20, "4242-4242", "0" * 19
    )
    assert [each.row for each in batch.rejected] == [4, 5, 6, 7]


CHECKS: Final = """\
[field]
a = { type = "decimal", scale = 2, required = false }
b = { type = "decimal", scale = 2, required = false }
note = { type = "string", required_when = "a > '10.00'" }
[check]
a_over_b = { when = "a >= b" }
"""


def test_conditions_reject_where_false_and_never_where_unknown() -> None:
    """A check with an absent value is unknown; what must be there is said with required and required_when."""
    rows = [
        {"a": "1.00", "b": "2.00", "note": ""},
        {"a": "", "b": "2.00", "note": ""},
        {"a": "3.00", "b": "2.00", "note": ""},
        {"a": "10.01", "b": "", "note": ""},
        {"a": "10.01", "b": "20", "note": ""},
    ]
    batch = Validator(table_contract(CHECKS), ("a", "b", "note")).check(frame_of(rows))
    assert problems(batch) == [
        (1, None, "does not hold: a_over_b: a >= b"),
        (4, "note", "is missing, and required when a > '10.00'"),
        (5, "note", "is missing, and required when a > '10.00'; also does not hold: a_over_b: a >= b"),
    ]


def test_an_absent_column_that_a_row_needs_is_told_by_its_name() -> None:
    """Absent columns are empty ones of every type; a condition may still require them."""
    fields = """\
[field]
a = { type = "integer" }
b = { type = "decimal", required_when = "a > 1" }
c = { type = "timestamp", required = false }
d = { type = "boolean", required = false, default = true }
e = { type = "float", required = false }
f = { type = "money", at_least = "0", required = false }
"""
    batch = Validator(table_contract(fields), ("a",)).check(frame_of([{"a": "1"}, {"a": "2"}]))
    assert problems(batch) == [(2, "b", "is missing, and required when a > 1")]
    assert batch.frame.rows() == [(1, 1, None, None, True, None, None)]


def test_an_amount_beyond_what_money_holds_is_told_so() -> None:
    """A bound that nobody wrote is said, too."""
    batch = checked("[field]\nf = { type = 'money', at_least = '0' }", "f", "10000000000000.00", "10000000000000.01")
    assert problems(batch) == [(2, "f", "is not at least 0 and within 10^15 minor units")]


def test_a_row_with_wrong_values_is_not_judged_by_conditions_too() -> None:
    """A value that could not be read is no reason to call a condition broken."""
    fields = "[field]\na = { type = 'integer', required = false }\n[check]\nset = { when = \"is_set(a)\" }"
    batch = checked(fields, "a", "x", "", "1")
    assert problems(batch) == [(1, "a", "is not an integer of 64 bits"), (2, None, "does not hold: set: is_set(a)")]


def test_a_condition_that_cannot_be_computed_rejects_the_row() -> None:
    """An amount that overflows is a rejected record, never a condition that silently holds."""
    fields = "[field]\na = { type = 'integer' }\n[check]\ntwice = { when = \"a * a >= a\" }"
    batch = checked(fields, "a", "2", "9223372036854775807")
    assert [each.row for each in batch.rejected] == [2]
    assert batch.rejected[0].problem.startswith("twice: a * a >= a: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a >", "t.toml:4:19: check.one.when: "),
        ("a", "check.one.when: is integer, not a condition"),
        ("x > 1", "check.one.when: "),
        ("a == 'x'", "check.one.when: "),
    ],
)
def test_a_condition_that_is_none_is_refused_with_its_place_in_the_contract(text: str, words: str) -> None:
    """Conditions are typed against the columns before any row is read."""
    fields = f"[check]\none = {{ when = \"{text}\" }}\n[field]\na = {{ type = 'integer' }}\n"
    assert words in refusal(fields, ("a",))


# -- inputs with types -------------------------------------------------------------------------------------------------


def typed(values: pl.Series, had: ColumnType, field: str) -> list[tuple[int, Any]]:
    """Return rows and values that a column of an input with types keeps."""
    contract = table_contract(f"[field]\nx = {field}")
    frame = pl.DataFrame([pl.Series(ROW, range(1, len(values) + 1), dtype=pl.UInt64), values.alias("x")])
    batch = Validator(contract, ("x",), {"x": had}).check(frame)
    assert batch.frame.height + len(batch.rejected) == len(values)
    return [(row, value) for row, value in batch.frame.rows()]


def test_typed_columns_become_what_is_declared_only_without_loss() -> None:
    """Integers, decimals and doubles of Parquet become amounts where they are exact; other rows are rejected."""
    integer, decimal4, double = ColumnType("integer"), ColumnType("decimal", 4), ColumnType("float")
    money = "{ type = 'money', scale = 2 }"
    assert typed(pl.Series([1, -7]), integer, money) == [(1, Decimal("1.00")), (2, Decimal("-7.00"))]
    fine = pl.Series([Decimal("1.2500"), Decimal("1.2501"), Decimal("-0.01")], dtype=pl.Decimal(38, 4))
    assert typed(fine, decimal4, money) == [(1, Decimal("1.25")), (3, Decimal("-0.01"))]
    doubles = pl.Series([0.1, 12.345, 1e300, float("nan"), float("inf"), -4503599627370.49, 0.29])
    assert typed(doubles, double, money) == [
        (1, Decimal("0.10")), (6, Decimal("-4503599627370.49")), (7, Decimal("0.29")),
    ]  # fmt: skip
    assert typed(pl.Series([1.0, 1.5]), double, "{ type = 'integer' }") == [(1, 1)]
    edges = pl.Series([-(2**63), 1 - 2**63, 2**63 - 1])
    assert typed(edges, integer, "{ type = 'integer' }") == [(2, 1 - 2**63), (3, 2**63 - 1)]
    narrow = pl.Series([Decimal("1.25")], dtype=pl.Decimal(10, 2))
    assert typed(narrow, ColumnType("decimal", 2), money) == [(1, Decimal("1.25"))]
    whole = pl.Series([Decimal("5.0000"), Decimal("5.1000")], dtype=pl.Decimal(38, 4))
    assert typed(whole, decimal4, "{ type = 'integer' }") == [(1, 5)]
    assert typed(doubles[:4], double, "{ type = 'float' }") == [(1, 0.1), (2, 12.345), (3, 1e300)]


def test_doubles_are_compared_by_division_rounded_once() -> None:
    """0.3 is three tenths: a quotient by way of the inverse, 0.30000000000000004, would refuse it."""
    tenths = pl.Series([number / 10 for number in range(-1000, 1000)])
    assert len(typed(tenths, ColumnType("float"), "{ type = 'decimal', scale = 1 }")) == len(tenths)


@given(st.integers(-(10**15), 10**15), st.integers(0, 8))
@settings(deadline=None)
def test_every_amount_survives_being_a_double(units: int, scale: int) -> None:
    """Amounts up to 10^15 minor units are read back from the double that JSON or Parquet made of them."""
    value = units / 10**scale
    assert value == float(Decimal(units).scaleb(-scale))
    (found,) = typed(pl.Series([value]), ColumnType("float"), f"{{ type = 'decimal', scale = {scale} }}")
    assert found[1] == Decimal(units).scaleb(-scale)


def test_a_decimal_of_38_digits_does_not_wrap_when_it_gets_more_decimals() -> None:
    """An amount that does not fit the declared scale is rejected, not another amount."""
    large = pl.Series([Decimal(10) ** 35, Decimal(1)], dtype=pl.Decimal(38, 0))
    assert typed(large, ColumnType("decimal"), "{ type = 'decimal', scale = 4 }") == [(2, Decimal("1.0000"))]


def test_a_contract_of_the_stream_judges_a_table_alike() -> None:
    """The money-flow contract holds for a table of its events."""
    rows = [
        {"event_id": f"e{number}", "user_id": "u", "event_time": "2026-03-09T12:00:00Z", "channel": "web",
         "ingest_time": "2026-03-09T12:00:00+00:00", "event_type": "deposit_completed", "amount": amount,
         "currency": "GBP"}
        for number, amount in enumerate(["0.01", "1000000.00", "1000000.01", "0"])
    ]  # fmt: skip
    batch = shipped_validator("money_flow", tuple(rows[0])).check(frame_of(rows))
    assert [each.row for each in batch.rejected] == [3, 4]
