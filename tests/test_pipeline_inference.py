"""Inferring a contract: it accepts every record it was inferred from, and promises no more than all of them show."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Final

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from table_contracts import frame_of
from tidewaiter.core.contract import TableContract, compile_contract
from tidewaiter.core.pipelines.columns import ROW, ROW_DTYPE, schema_of
from tidewaiter.core.pipelines.inference import Inference, contract_name
from tidewaiter.core.pipelines.validation import Validator


def inferred(*frames: pl.DataFrame, typed: bool = False) -> TableContract:
    """Return the contract of an input that comes in `frames`, compiled from its text."""
    columns = tuple(name for name in frames[0].columns if name != ROW)
    inference = Inference(columns, schema_of(frames[0]) if typed else None)
    for frame in frames:
        inference.add(frame)
    return compile_contract(inference.contract("t").encode(), "t.toml", for_stream=False)


def kind_of(*cells: str) -> str:
    """Return the type, and a ? where it is optional, of a column of texts."""
    (field,) = inferred(frame_of([{"x": cell} for cell in cells])).fields
    return f"{field.kind}{f'({field.scale})' if field.kind == 'decimal' else ''}{'' if field.required else '?'}"


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (("1", "-2", "0"), "integer"),
        (("1", "", "3"), "integer?"),
        (("007", "1"), "string"),
        (("+1",), "string"),
        (("1", "2.5", "3.25"), "decimal(2)"),
        (("1.50", "20"), "decimal(2)"),
        (("01.5",), "string"),
        (("1e5", "2"), "string"),
        (("12345678901234567890", "1"), "string"),
        (("12345678901234567890", "1.5"), "decimal(1)"),
        (("9" * 30, "0." + "1" * 10), "string"),
        (("0." + "1" * 19,), "string"),
        (("true", "false"), "boolean"),
        (("true", "False"), "string"),
        (("0", "1"), "integer"),
        (("2026-01-31", "2024-02-29"), "date"),
        (("2026-01-31", "2026-02-30"), "string"),
        (("31/01/2026",), "string"),
        (("2026-01-31", "2026-01-31T00:00:00Z"), "string"),
        (("2026-01-31T10:00:00Z", "2026-01-31T10:00:00.5+01:00"), "timestamp"),
        (("2026-01-31T10:00:00",), "string"),
        (("", ""), "string?"),
        (("x", "1"), "string"),
    ],
)
def test_a_type_is_given_only_where_every_value_has_it(cells: tuple[str, ...], kind: str) -> None:
    """Leading zeros, long numbers and dates of other shapes stay texts: nothing is lost by reading them."""
    assert kind_of(*cells) == kind
    assert kind_of(*reversed(cells)) == kind


CELLS: Final = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "007",
        "1.5",
        "2.25",
        "9" * 25,
        "true",
        "false",
        "2026-01-31",
        "2026-01-31T10:00:00Z",
        "1e3",
        "x",
        'é\n"',
    ]
)


@given(
    st.lists(st.fixed_dictionaries({"a": CELLS, "b b": CELLS, "__c": CELLS}), min_size=1, max_size=12),
    st.integers(1, 5),
)
@settings(deadline=None, max_examples=150)
def test_an_inferred_contract_accepts_its_input_however_it_was_cut(rows: list[dict[str, str]], size: int) -> None:
    """The round trip: every record passes, and frames and their order change nothing."""
    frame = frame_of(rows)
    contract = inferred(frame)
    batch = Validator(contract, ("a", "b b", "__c")).check(frame)
    assert batch.rejected == ()
    assert batch.frame.height == len(rows)
    slices = list(frame.iter_slices(size))
    assert inferred(*slices).text == contract.text == inferred(*reversed(slices)).text


def test_the_contract_says_what_it_was_inferred_from() -> None:
    """A reader sees that nobody wrote it, and how much it has seen."""
    inference = Inference(("id", "Ünit price", "__x", "x"))
    inference.add(frame_of([{"id": "1", "Ünit price": "1.5", "__x": "", "x": "y"}] * 3))
    assert inference.contract("sample_input") == (
        """\
# Inferred from 3 records: every one of them meets it. Read it, tighten it, and pin it.
# Identifiers made of digits (of a patient, a provider, a place) are best a string: no one adds them up.
# Amounts are written with all decimals of their column.
# Reference: config/README.md, Contracts.

contract = "sample_input"
version = 1
unknown_fields = "refuse"

[field]
id = { type = "integer" }
"Ünit price" = { type = "decimal", scale = 1 }
x_3 = { type = "string", required = false, from = "__x" }
x = { type = "string" }
"""
    )


def test_an_input_without_records_gives_optional_texts() -> None:
    """A header alone is a contract, too."""
    (field,) = inferred(frame_of([{"x": "1"}]).clear()).fields
    assert (field.kind, field.required) == ("string", False)


def test_a_text_longer_than_usual_is_still_accepted() -> None:
    """The usual limit of a text is lifted for a column that has a longer one."""
    frame = frame_of([{"x": "é" * 70_000}])
    contract = inferred(frame)
    assert contract.fields[0].max_length == 70_000
    assert Validator(contract, ("x",)).check(frame).rejected == ()


def test_columns_with_types_keep_them() -> None:
    """Parquet says what its columns are: texts of digits stay texts there."""
    frame = pl.DataFrame(
        {
            ROW: pl.Series([1, 2], dtype=ROW_DTYPE),
            "text": ["1", "2"],
            "whole": [1, None],
            "amount": pl.Series([Decimal("1.50"), Decimal("2.00")], dtype=pl.Decimal(38, 4)),
            "ratio": [0.5, 1e300],
            "flag": [True, False],
            "day": [dt.date(2026, 1, 1), None],
            "at": pl.Series([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)] * 2, dtype=pl.Datetime("us", "UTC")),
        }
    )
    contract = inferred(frame, typed=True)
    assert [(each.name, each.kind, each.scale, each.required) for each in contract.fields] == [
        ("text", "string", 0, True), ("whole", "integer", 0, False), ("amount", "decimal", 4, True),
        ("ratio", "float", 0, True), ("flag", "boolean", 0, True), ("day", "date", 0, False),
        ("at", "timestamp", 0, True),
    ]  # fmt: skip
    batch = Validator(contract, tuple(frame.columns[1:]), schema_of(frame)).check(frame)
    assert batch.rejected == ()
    assert batch.frame.equals(frame)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("data/sample_input.csv", "sample_input"),
        ("Claims 2026-01.csv.gz", "claims_2026_01"),
        ("-", "input"),
        ("a\\b.tsv", "b"),
        ("dir/part-*.parquet", "part"),
    ],
)
def test_a_contract_is_named_for_its_file(file: str, name: str) -> None:
    """The name is made of letters, digits and _."""
    assert contract_name(file) == name
