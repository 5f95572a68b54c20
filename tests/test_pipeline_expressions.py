"""Expressions of pipelines: what each function and operator gives, exactly, and what is refused before any row."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from decimal import Decimal
from typing import Any

import pytest

from expression_demo import GROUND, KEY, SCHEMA, fail, results_of, rows, type_of, value
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.columns import STRING
from tidewaiter.core.pipelines.expressions import compile_expression
from tidewaiter.core.pipelines.validation import Validator

# -- functions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cell", "expected"),
    [
        ("upper(s)", "straße é", "STRASSE É"),
        ("lower(s)", "ÀB I", "àb i"),  # no language's rules: I is i in Turkey too
        ("trim(s)", " \t a b\n ", "a b"),
        ("length(s)", "aé€😀", 4),
        ("length(s)", "", 0),
        ("left(s, 2)", "€uro", "€u"),
        ("left(s, 9)", "€uro", "€uro"),
        ("left(s, 0)", "€uro", ""),
        ("right(s, 2)", "€uro", "ro"),
        ("right(s, 9)", "€uro", "€uro"),
        ("right(s, 0)", "€uro", ""),
        ("substring(s, 1, 2)", "€uro", "€u"),
        ("substring(s, 2, 2)", "€uro", "ur"),
        ("substring(s, 4, 9)", "€uro", "o"),
        ("substring(s, 5, 9)", "€uro", ""),
        ("replace(s, '.', '')", "1.2.3", "123"),  # a text, not a pattern
        ("replace(s, 'a', '$0')", "aba", "$0b$0"),
        ("concat(s, '-', s)", "x", "x-x"),
        ("s + '/' + s", "x", "x/x"),
        ("pad_left(s, 4, '0')", "é7", "00é7"),
        ("pad_left(s, 4, '0')", "12345", "12345"),
        ("lookup(s, 'countries', 'risk')", "GB", 1),
        ("lookup(s, 'countries', 'risk')", "FR", None),
        ("lookup(s, 'countries', 'risk')", "DE", None),
        ("lookup(s, 'countries', 'tax')", "GB", Decimal("0.2")),
        ("lookup(s, 'empty', 'risk')", "GB", None),
        ("s in list.countries", "GB", True),
        ("s not in list.countries", "GB", False),
        ("s in list.countries", "DE", False),
        ("coalesce(s, 'none')", None, "none"),
        ("coalesce(s, 'none')", "", ""),
        ("is_null(s)", None, True),
        ("is_null(s)", "", False),
        ("is_set(s)", None, False),
        ("is_set(s)", "", True),
    ],
)
def test_a_function_on_texts_gives_what_it_says(text: str, cell: str | None, expected: object) -> None:
    """Characters are counted, not bytes; places count from 1; null is not the empty text."""
    assert value(text, s=cell) == expected


@pytest.mark.parametrize(
    ("text", "cells", "expected"),
    [
        ("year(born)", {"born": dt.date(2024, 2, 29)}, 2024),
        ("quarter(born)", {"born": dt.date(2024, 4, 1)}, 2),
        ("month(born)", {"born": dt.date(2024, 2, 29)}, 2),
        ("day(born)", {"born": dt.date(2024, 2, 29)}, 29),
        ("weekday(born)", {"born": dt.date(2024, 1, 1)}, 1),  # a Monday
        ("weekday(born)", {"born": dt.date(2024, 1, 7)}, 7),
        ("date_of(at)", {"at": dt.datetime(2026, 1, 31, 23, 59, 59, 999_999, dt.UTC)}, dt.date(2026, 1, 31)),
        ("date_of(at)", {"at": dt.datetime(1969, 12, 31, 23, 59, tzinfo=dt.UTC)}, dt.date(1969, 12, 31)),
        ("year(at)", {"at": dt.datetime(1969, 12, 31, 23, 59, tzinfo=dt.UTC)}, 1969),
        ("days_between(born, on)", {"born": dt.date(2024, 2, 28), "on": dt.date(2024, 3, 1)}, 2),
        ("days_between(born, on)", {"born": dt.date(2024, 3, 1), "on": dt.date(2024, 2, 28)}, -2),
        ("days_between('2026-01-01', on)", {"on": dt.date(2026, 1, 1)}, 0),
        ("min_of(born, on)", {"born": dt.date(2024, 3, 1), "on": dt.date(2024, 2, 28)}, dt.date(2024, 2, 28)),
        ("max_of(born, '2025-01-01')", {"born": dt.date(2024, 3, 1)}, dt.date(2025, 1, 1)),
        ("text(born)", {"born": dt.date(33, 3, 1)}, "0033-03-01"),
    ],
)
def test_a_function_on_days_gives_what_it_says(text: str, cells: dict[str, Any], expected: object) -> None:
    """Parts of dates, whole days between two, and the day of a timestamp in UTC."""
    assert value(text, **cells) == expected


@pytest.mark.parametrize(
    ("born", "on", "expected"),
    [
        ((2000, 5, 17), (2018, 5, 16), 17),
        ((2000, 5, 17), (2018, 5, 17), 18),
        ((2000, 5, 17), (2000, 5, 17), 0),
        ((2004, 2, 29), (2022, 2, 28), 17),
        ((2004, 2, 29), (2022, 3, 1), 18),  # a year without 29 February
        ((2004, 2, 29), (2024, 2, 28), 19),
        ((2004, 2, 29), (2024, 2, 29), 20),
        ((2003, 3, 1), (2024, 2, 29), 20),
    ],
)
def test_age_counts_completed_years(born: tuple[int, int, int], on: tuple[int, int, int], expected: int) -> None:
    """Who was born on 29 February completes a year on 1 March where that day is missing."""
    assert value("age_at(born, on)", born=dt.date(*born), on=dt.date(*on)) == expected


def test_a_day_before_birth_is_a_problem_of_its_row() -> None:
    """There is no negative age, and none is invented."""
    frame = rows({"born": dt.date(2000, 1, 2), "on": dt.date(2000, 1, 1)}, {"on": dt.date(2000, 1, 1)})
    results, problems = results_of("age_at(born, on)", frame)
    assert (problems, results[1]) == (["age_at: the day lies before the date of birth", None], None)


@pytest.mark.parametrize(
    ("amount", "even", "up"),
    [
        ("0.05", "0.0", "0.1"), ("0.15", "0.2", "0.2"), ("0.25", "0.2", "0.3"), ("-0.05", "0.0", "-0.1"),
        ("-0.15", "-0.2", "-0.2"), ("-0.25", "-0.2", "-0.3"), ("0.24", "0.2", "0.2"), ("0.26", "0.3", "0.3"),
        ("-0.24", "-0.2", "-0.2"), ("-0.26", "-0.3", "-0.3"), ("0.00", "0.0", "0.0"),
        ("9" * 36 + ".99", "1" + "0" * 36 + ".0", "1" + "0" * 36 + ".0"),
    ],
)  # fmt: skip
def test_a_half_is_rounded_to_the_even_neighbour_or_away_from_zero(amount: str, even: str, up: str) -> None:
    """round() and round_half_up() differ on halves only, on both sides of zero, and cannot overflow."""
    assert value("round(amount, 1)", amount=Decimal(amount)) == Decimal(even)
    assert value("round_half_up(amount, 1)", amount=Decimal(amount)) == Decimal(up)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("amount + rate", "decimal(4)", "12.6250"),
        ("amount - rate", "decimal(4)", "12.3750"),
        ("amount * n", "decimal(2)", "-87.50"),
        ("amount * rate", "decimal(6)", "1.562500"),
        ("amount * 0.5", "decimal(3)", "6.250"),
        ("amount + 1", "decimal(2)", "13.50"),
        ("1 - amount", "decimal(2)", "-11.50"),
        ("-amount", "decimal(2)", "-12.50"),
        ("abs(-amount)", "decimal(2)", "12.50"),
        ("round(amount, 4)", "decimal(4)", "12.5000"),
        ("round(n, 2)", "decimal(2)", "-7.00"),
        ("round(amount * rate, 2)", "decimal(2)", "1.56"),
        ("n * n", "integer", 49),
        ("n + 2 * 3", "integer", -1),
        ("n % 5", "integer", 3),
        ("abs(n)", "integer", 7),
        ("min_of(amount, rate, 3)", "decimal(4)", "0.1250"),
        ("max_of(n, 3)", "integer", 3),
        ("coalesce(m, 1.5)", "decimal(1)", "1.5"),
        ("coalesce(amount, '0.505')", "decimal(3)", "12.500"),
        ("if_else(k, amount, 0)", "decimal(2)", "12.50"),
        ("if_else(not k, amount, rate)", "decimal(4)", "0.1250"),
        ("if_else(k, nothing(), n)", "integer", None),
        ("text(amount)", "string", "12.50"),
        ("text(n)", "string", "-7"),
        ("text(k)", "string", "true"),
        ("column('two words')", "string", "w"),
        ("1.5", "decimal(1)", "1.5"),
        ("-3", "integer", -3),
        ("'x'", "string", "x"),
    ],
)
def test_an_operation_keeps_every_decimal(text: str, kind: str, expected: object) -> None:
    """The scale of a result is known before any row, and holds it exactly."""
    cells = {"amount": Decimal("12.50"), "rate": Decimal("0.1250"), "n": -7, "k": True, "two words": "w"}
    assert type_of(text) == kind
    assert value(text, **cells) == (Decimal(str(expected)) if kind.startswith("decimal") else expected)


def test_a_keyed_hash_is_hmac_sha_256_in_hexadecimal() -> None:
    """Anyone with the key can compute it again."""
    frame = rows({"s": "Müller"}, {}, {"s": "Müller"}, {"s": ""})
    hashes = [hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest() for text in ("Müller", "")]
    assert results_of("keyed_hash(s, 'people')", frame)[0] == [hashes[0], None, hashes[0], hashes[1]]
    assert results_of("keyed_hash(s, 'people')", rows({}))[0] == [None]
    assert results_of("keyed_hash(s, 'people')", rows())[0] == []


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cells", "expected"),
    [
        ("amount > '0.00'", {"amount": Decimal("0.01")}, True),
        ("amount > 0.005", {"amount": Decimal("0.01")}, True),
        ("amount > 0.01", {"amount": Decimal("0.01")}, False),
        ("amount < 0.015", {"amount": Decimal("0.01")}, True),
        ("amount >= 0.005", {"amount": Decimal("0.00")}, False),
        ("amount <= -0.005", {"amount": Decimal("0.00")}, False),
        ("amount <= -0.005", {"amount": Decimal("-0.01")}, True),
        ("amount == 0.001", {"amount": Decimal("0.00")}, False),
        ("amount != 0.001", {"amount": Decimal("0.00")}, True),
        ("0.005 < amount", {"amount": Decimal("0.01")}, True),
        ("0 <= amount <= n", {"amount": Decimal("3.00"), "n": 3}, True),
        ("amount > '99999999999999999999999999999999999999'", {"amount": Decimal("9" * 36 + ".99")}, False),
        ("amount > '-99999999999999999999999999999999999999'", {"amount": Decimal("-" + "9" * 36 + ".99")}, True),
        ("amount == rate", {"amount": Decimal("0.10"), "rate": Decimal("0.1000")}, True),
        ("amount < rate", {"amount": Decimal("0.10"), "rate": Decimal("0.1001")}, True),
        ("amount < rate", {"amount": Decimal("-" + "9" * 36 + ".99"), "rate": Decimal("-" + "9" * 34)}, True),
        ("n < 6.5", {"n": 6}, True),
        ("n == 6.5", {"n": 6}, False),
        ("n * n > 48.9", {"n": 7}, True),
        ("f > 0.1", {"f": 0.1}, False),
        ("f >= 0.1", {"f": 0.1}, True),
        ("s == 'a'", {"s": "A"}, False),
        ("s in ('a', 'b')", {"s": "b"}, True),
        ("s not in ('a', 'b')", {"s": "c"}, True),
        ("amount in (1.5, '2.00', 3.001)", {"amount": Decimal("2.00")}, True),
        ("amount in (1.5, '2.00', 3.001)", {"amount": Decimal("3.00")}, False),
        ("n in (1, 2)", {"n": 2}, True),
        ("born in ('2024-02-29',)", {"born": dt.date(2024, 2, 29)}, True),
        ("born >= '2024-02-29'", {"born": dt.date(2024, 2, 29)}, True),
        ("at == '2026-01-31T11:00:00+01:00'", {"at": dt.datetime(2026, 1, 31, 10, tzinfo=dt.UTC)}, True),
        ("at in ('2026-01-31T10:00:00.5Z',)", {"at": dt.datetime(2026, 1, 31, 10, 0, 0, 500_000, dt.UTC)}, True),
        ("at < '2026-01-31T10:00:00.000001Z'", {"at": dt.datetime(2026, 1, 31, 10, tzinfo=dt.UTC)}, True),
        ("k == false", {"k": True}, False),
        ("k and not (n > 1 or m > 1)", {"k": True, "n": 1, "m": 1}, True),
    ],
)
def test_a_condition_is_exact(text: str, cells: dict[str, Any], expected: object) -> None:
    """Constants are compared as written, however many decimals they have, and without overflow."""
    assert value(text, **cells) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n > 1", None),
        ("n == 1.5", None),
        ("n != 1.5", None),
        ("s in ('a',)", None),
        ("s not in ('a',)", None),
        ("amount in (1.005,)", None),
        ("n > 1 and false", False),
        ("n > 1 and true", None),
        ("n > 1 or true", True),
        ("n > 1 or false", None),
        ("not n > 1", None),
        ("n + 1 > 0", None),
        ("is_null(n) and not is_set(n + 1)", True),
        ("upper(s) + 'x'", None),
        ("if_else(n > 1, 'a', 'b')", None),
        ("coalesce(n, m, 3)", 3),
        ("min_of(n, 3)", None),
        ("lookup(s, 'countries', 'risk')", None),
        ("age_at(born, on)", None),
        ("round(amount, 0)", None),
    ],
)
def test_null_is_unknown(text: str, expected: object) -> None:
    """Kleene's logic in conditions; everything else with null gives null."""
    assert value(text) is expected if expected is not None else value(text) is None


# -- refused before any row --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amont > 1", "0: there is no column 'amont' here: did you mean 'amount'?"),
        ("nothing() == amount", "0: nothing() cannot be compared: write is_null(x) or is_set(x)"),
        ("uper(s)", "0: there is no function 'uper': did you mean 'upper'?"),
        ("upper(s, t)", "0: upper takes 1 argument, not 2: write upper(text)"),
        ("concat(s)", "0: concat takes at least 2 arguments, not 1"),
        ("upper(amount)", "6: must be a string, not decimal(2): write upper(text)"),
        ("left(s, -1)", "8: must be a whole number from 0 to 10000"),
        ("left(s, n)", "8: must be a whole number from 0 to 10000"),
        ("substring(s, 0, 1)", "13: must be a whole number from 1 to 10000"),
        ("round(amount, 19)", "14: must be a whole number from 0 to 18"),
        ("pad_left(s, 3, '00')", "15: must be one character"),
        ("replace(s, '', 'x')", "11: cannot be replaced: it is empty"),
        ("if_else(n, 1, 2)", "8: must be a condition, not integer"),
        ("if_else(k, 1, 'x')", "14: 'x' is no integer"),
        ("coalesce(n, s)", "12: is string, and stands beside integer"),
        ("min_of(s, t)", "0: strings have no order here"),
        ("age_at(born, '2026-02-30')", "13: '2026-02-30' is no date: write '2026-01-31'"),
        ("born > '31.01.2026'", "7: '31.01.2026' is no date: write '2026-01-31'"),
        ("at > '2026-01-31T10:00:00'", "5: '2026-01-31T10:00:00' is no timestamp: write a time with its offset"),
        ("at > born", "5: is date, and stands beside timestamp: date_of(x)"),
        ("s < 'b'", "0: strings have no order here"),
        ("s == 1", "5: cannot stand beside string"),
        ("n == '1'", "5: '1' is no integer: numbers stand without quotes"),
        ("n == s", "5: is string, and stands beside integer"),
        ("amount > 'x'", "9: 'x' is no decimal"),
        ("k > false", "0: booleans have no order here"),
        ("k == 1", "5: cannot stand beside boolean"),
        ("k in (true,)", "0: `in` is not for a boolean"),
        ("s in (t,)", "6: `in` needs constants"),
        ("n in list.countries", "0: code of list.countries is string, this is integer"),
        ("s in list.country", "5: there is no list 'country'"),
        ("f * 2", "0: cannot be computed with: it is a float: floats are not exact"),
        ("f > amount", "4: is decimal(2), and stands beside float"),
        ("s * 2", "0: cannot be computed with: it is a string"),
        ("amount % 2", "0: % takes an integer by a positive number"),
        ("n % m", "0: % takes an integer by a positive number"),
        ("n % 0", "0: % takes an integer by a positive number"),
        ("n / 2", "0: Div is not allowed: there is no division"),
        ("rate * rate * rate * rate * rate", "0: the product would have 20 decimals: a decimal has at most 18"),
        ("n and k", "0: 'and' needs conditions; this is an integer"),
        ("p.limit > 1", "0: a name has no point in it here"),
        ("keyed_hash(s, 'peple')", "14: there is no key 'peple': did you mean 'people'?"),
        ("keyed_hash(s, 'short')", "14: the key 'short' has 3 bytes: at least 16"),
        ("lookup(s, 'country', 'risk')", "10: there is no list 'country'"),
        ("lookup(s, 'countries', 'rsk')", "23: the list 'countries' has no column 'rsk': did you mean 'risk'?"),
        ("lookup(n, 'countries', 'risk')", "7: code of the list 'countries' is string, this is integer"),
        ("lookup(s, 'twice', 'code')", "10: code of the list 'twice' has 'A' more than once"),
        ("upper(text=s)", "0: Call is not allowed"),
        ("s.upper()", "0: Call is not allowed"),
        ("[s for s in t]", "0: ListComp is not allowed: allowed: and or not, comparisons"),
        ("class == 'x'", "0: 'class' is no plain name here: write column('class')"),
        ("s == 'from' and (from == 1)", "17: 'from' is no plain name here: write column('from')"),
        ("not is", "4: 'is' is no plain name here: write column('is')"),
        ("s == 'class' s", "0: is not an expression: invalid syntax"),
        ("words > 1", "0: there is no column 'words' here: did you mean 'two words'?"),
        ("min_of(" * 12 + "n" + ", 1)" * 12, "0: is too large: derive its parts in a step before"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_where_it_stands(text: str, message: str) -> None:
    """The error names the character of the expression and what to write instead."""
    with pytest.raises(ConfigError) as refused:
        compile_expression(text, {**SCHEMA, "is": STRING}, fail, ground=GROUND)
    assert str(refused.value).startswith(message)


def test_a_check_of_a_contract_says_the_same() -> None:
    """With the place in the contract's file."""
    text = "contract = 'c'\nversion = 1\n[field]\nclass = { type = 'string' }\n[check.a]\nwhen = \"class == 'x'\"\n"
    contract = compile_contract(text.encode(), "c.toml", for_stream=False)
    with pytest.raises(ConfigError, match=r"^c.toml:6:9: check.a.when: 'class' is no plain .*write column\('class'\)"):
        Validator(contract, ("class",), None)


def test_a_column_named_like_a_word_of_the_grammar_is_reached_by_its_name() -> None:
    """What the error tells to write is what works."""
    compiled = compile_expression("column('class') == 'x'", {"class": STRING}, fail)
    assert compiled.names == {"class"}
