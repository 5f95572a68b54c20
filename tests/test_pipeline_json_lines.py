"""JSON Lines as an input: exact numbers, types that are meant, and the same answer line by line and block by block."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tidewaiter.core.errors import ConfigError, SourceHalt
from tidewaiter.core.pipelines.columns import (
    BOOLEAN,
    DATE,
    FLOAT,
    INTEGER,
    STRING,
    TIMESTAMP,
    ColumnType,
    Schema,
)
from tidewaiter.edges.tables.json_numbers import decimal_text, digits_of
from tidewaiter.edges.tables.json_records import JsonRecords
from tidewaiter.edges.tables.sources import Source

if TYPE_CHECKING:
    from tidewaiter.core.pipelines.batches import Rejected

TORTURE: Final = Path(__file__).resolve().parents[2] / "shared/data/json_torture/nst_JSONTestSuite/test_parsing"
NO_AMOUNT: Final = "does not fit in decimal(2): more than 2 decimals, or too many digits"
DECIMAL: Final = ColumnType("decimal", 2)
SCHEMA: Final[Schema] = {
    "text": STRING, "count": INTEGER, "amount": DECIMAL, "ratio": FLOAT, "flag": BOOLEAN, "day": DATE, "at": TIMESTAMP,
}  # fmt: skip


def read(
    tmp_path: Path, content: bytes, expected: Schema | None = None, **more: Any
) -> tuple[list[tuple[Any, ...]], list[Rejected], Source]:
    """Return the rows, the rejections and the source."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    source = Source(path, expected=expected, **more)
    batches = list(source.batches())
    return [row for batch in batches for row in batch.frame.rows()], [e for b in batches for e in b.rejected], source


def test_values_come_with_the_types_that_are_expected(tmp_path: Path) -> None:
    """Every kind is read as it is meant; absent keys and null are null; dates stay texts for the contract."""
    lines = (
        b'{"text":"a\\n\\u00e9","count":-9223372036854775808,"amount":12.50,"ratio":1e-7,"flag":true,'
        b'"day":"2026-01-31","at":"2026-01-31T10:00:00Z"}\r\n'
        b'{"amount":1234567890123456789012345678901234.56,"text":null}\n'
        b'{"flag":false,"amount":-1.5e1,"ratio":3,"text":""}'
    )
    rows, rejected, source = read(tmp_path, lines, SCHEMA)
    assert rejected == []
    assert rows == [
        (1, "a\né", -(2**63), Decimal("12.50"), 1e-7, True, "2026-01-31", "2026-01-31T10:00:00Z"),
        (2, None, None, Decimal("1234567890123456789012345678901234.56"), None, None, None, None),
        (3, "", None, Decimal("-15.00"), 3.0, False, None, None),
    ]
    assert source.schema == SCHEMA | {"day": STRING, "at": STRING}


@pytest.mark.parametrize(
    ("line", "column", "problem"),
    [
        (b'{"count":"12"}', "count", "a text, where integer is expected: write the number without quotes"),
        (b'{"count":1.0}', "count", "a number, where integer is expected: write it without a point or an exponent"),
        (b'{"count":9223372036854775808}', "count", "does not fit in 64 bits"),
        (b'{"count":' + b"9" * 5000 + b"}", "count", "does not fit in 64 bits"),
        (b'{"amount":"1.50"}', "amount", "a text, where decimal(2) is expected: write the number without quotes"),
        (b'{"amount":1.505}', "amount", NO_AMOUNT),
        (b'{"amount":1e99999999999999999999}', "amount", NO_AMOUNT),
        (b'{"ratio":1e999}', "ratio", "does not fit in a float"),
        (b'{"ratio":"x"}', "ratio", "a text, where float is expected"),
        (b'{"flag":1}', "flag", "an integer, where boolean is expected"),
        (b'{"text":5}', "text", "an integer, where a text is expected"),
        (b'{"text":{"a":1}}', "text", "holds an object: values within values are not read"),
        (b'{"text":[1]}', "text", "holds a list: values within values are not read"),
        (b'{"at":5}', "at", "an integer, where a text is expected"),
        (b'{"other":5}', "other", "a key that is not expected"),
        (b'{"text":"a"', None, "not valid JSON"),
        (b'{"text":"a"} {"text":"b"}', None, "not valid JSON"),
        (b'{"text":"\\ud800"}', None, "not valid JSON"),
        (b'["a"]', None, "not an object"),
        (b"", None, "a blank line"),
        (b'{"text":"\0"}', None, "a NUL byte after 9 bytes of the line"),
        (b'{"text":"\xff"}', None, "byte 0xff after 9 bytes of the line cannot be decoded"),
        (b'{"text":' + b"[" * 65 + b"]" * 65 + b"}", None, "nested deeper than 64"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_rejected_alone(tmp_path: Path, line: bytes, column: str, problem: str) -> None:
    """The rejection names the column and the reason and holds the line; the lines around it are rows."""
    rows, rejected, _ = read(tmp_path, b'{"count":1}\n' + line + b'\n{"count":3}\n', SCHEMA)
    assert [(row[0], row[2]) for row in rows] == [(1, 1), (3, 3)]
    assert [(each.row, each.column, each.problem, each.record) for each in rejected] == [
        (2, column, problem, line.decode("utf-8", "backslashreplace"))
    ]


def test_unknown_keys_are_left_out_where_that_is_said(tmp_path: Path) -> None:
    """Ignored keys may hold anything that is JSON, nested values included."""
    deep = b"[" * 65 + b"]" * 65
    content = b'{"count":1,"more":{"a":[1]}}\n{"count":2,"more":"\xff"}\n{"count":3,"more":' + deep + b"}\n"
    rows, rejected, _ = read(tmp_path, content, {"count": INTEGER}, ignore_unknown=True)
    assert (rows, [each.row for each in rejected]) == ([(1, 1)], [2, 3])


def test_a_line_over_the_limit_is_rejected_alone(tmp_path: Path) -> None:
    """A line of more than 1 MiB is named with its length, wherever a block ends in it."""
    content = b'{"count":1}\n{"text":"' + b"x" * (1 << 20) + b'"}\n{"count":3}\n'
    for batch_bytes in (1 << 10, 1 << 24):
        rows, rejected, _ = read(tmp_path, content, SCHEMA, batch_bytes=batch_bytes)
        assert [row[0] for row in rows] == [1, 3]
        assert [each.problem for each in rejected] == ["a record of 1048587 bytes: more than 1048576 are not read"]


def test_without_expectations_the_columns_are_found(tmp_path: Path) -> None:
    """Keys in the order they come, whole numbers as integers, others as decimals; what is nested is rejected."""
    content = (
        b'{"id":"a","n":1,"x":1,"big":12345678901234567890,"never":null}\n'
        b'{"id":"b","n":2,"x":2.505,"flag":true,"small":1e-20}\nno json\n{"id":"c","nested":[1]}\n'
    )
    rows, rejected, source = read(tmp_path, content)
    assert source.schema == {
        "id": STRING, "n": INTEGER, "x": ColumnType("decimal", 3), "big": ColumnType("decimal"), "never": STRING,
        "flag": BOOLEAN, "small": FLOAT, "nested": STRING,
    }  # fmt: skip
    assert rows == [
        (1, "a", 1, Decimal("1.000"), Decimal(12345678901234567890), None, None, None, None),
        (2, "b", 2, Decimal("2.505"), None, None, True, 1e-20, None),
    ]
    assert [(each.row, each.column) for each in rejected] == [(3, None), (4, "nested")]


@pytest.mark.parametrize("gap", [0, 50_000])
@pytest.mark.parametrize(("one", "other"), [(b'"1"', b"1"), (b"1", b'"1"'), (b"true", b"1.5")])
def test_a_column_of_several_kinds_is_refused(tmp_path: Path, one: bytes, other: bytes, gap: int) -> None:
    """Numbers among texts are not guessed at, however far apart they are."""
    content = b'{"x":' + one + b"}\n" + b'{"x":null}\n' * gap + b'{"x":' + other + b"}\n"
    with pytest.raises(ConfigError, match=r"x is .* in one record and .* in another: say in a contract"):
        read(tmp_path, content)


def test_a_type_found_late_holds_for_all(tmp_path: Path) -> None:
    """Decimals and digits that come in later blocks widen the type of the column."""
    content = b'{"x":1}\n' * 100_000 + b'{"x":0.125}\n' + b'{"x":123456789012345678}\n' * 50_000
    rows, rejected, source = read(tmp_path, content)
    assert source.schema == {"x": ColumnType("decimal", 3)}
    assert (len(rows), rejected) == (150_001, [])
    assert rows[-1] == (150_001, Decimal("123456789012345678.000"))
    numbers = [b"0.25", b"1" + b"0" * 29, b"0.25", b"0.125e-9"]
    blocks = [b'{"x":%b,"pad":"%b"}\n' % (number, b"x" * 10_000) * 250 for number in numbers]
    assert read(tmp_path, b"".join(blocks))[2].schema == {"x": FLOAT, "pad": STRING}


def test_an_empty_file_is_a_table_without_records(tmp_path: Path) -> None:
    """No lines are no records; the columns are those expected."""
    rows, rejected, source = read(tmp_path, b"", SCHEMA)
    assert (rows, rejected, source.columns) == ([], [], tuple(SCHEMA))
    with pytest.raises(SourceHalt, match=r"in\.jsonl: holds no record that tells the columns"):
        read(tmp_path, b"")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (b"", "column 1 has no name"),
        (b"__row", "column 1 is called __row"),
        (rb"a\u0000", r"column 1 is called a\\0, with a NUL"),
    ],
)
def test_keys_that_name_no_column_are_refused(tmp_path: Path, key: bytes, message: str) -> None:
    """A key without text, or with the name of the record's number, cannot be a column."""
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, b'{"' + key + b'":1}\n')


def test_short_bad_lines_take_bounded_memory(tmp_path: Path) -> None:
    """A block of blank lines comes in batches of some thousand rejections, numbered on."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n" * 100_000)
    batches = list(Source(path, expected=SCHEMA).batches())
    assert max(len(batch.rejected) for batch in batches) <= 1 << 14
    assert [each.row for batch in batches for each in batch.rejected] == list(range(1, 100_001))


def test_short_lines_of_a_wide_table_take_bounded_memory(tmp_path: Path) -> None:
    """Records that lack most of many columns come in batches of so many values."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"{}\n" * 2_200)
    batches = list(Source(path, expected={f"c{number}": STRING for number in range(2_000)}).batches())
    assert max(len(batch.frame) for batch in batches) <= (1 << 21) // 2_000
    assert sum(len(batch.frame) for batch in batches) == 2_200


@pytest.mark.parametrize("key", ['a"b', "a\\b", "a\nb", "a\x1fb"])
def test_keys_that_json_writes_with_escapes_are_columns(tmp_path: Path, key: str) -> None:
    """A quote, a backslash or a line break in a key breaks nothing, with a contract and without."""
    content = json.dumps({key: 1, "b": "x"}).encode() + b"\n"
    for schema in (None, {key: INTEGER, "b": STRING}):
        rows, rejected, source = read(tmp_path, content, schema)
        assert (rows, rejected, source.columns) == ([(1, 1, "x")], [], (key, "b"))


@pytest.mark.parametrize("zero", ["-0", "-0.0", "-0e0", "0"])
def test_the_sign_of_zero_does_not_depend_on_the_neighbours(tmp_path: Path, zero: str) -> None:
    """A zero in a float column is the same whether its block goes at once or line by line."""
    line = b'{"x":%b}\n' % zero.encode()
    alone, beside = (read(tmp_path, content, {"x": FLOAT})[0] for content in (line, line + b"bad\n"))
    assert repr(alone) == repr(beside) == repr([(1, 0.0 if zero in ("-0", "0") else -0.0)])


@pytest.mark.parametrize("number", ["0.1234567890123456789", "1e400", "123456789012345678901234567890.1234567891"])
def test_numbers_that_lose_digits_as_floats_are_not_inferred(tmp_path: Path, number: str) -> None:
    """Without a contract, a number that no column holds exactly is an error that names record and column."""
    content = b'{"x":1e-30}\n' * 3 + b"\n" + b'{"x":%b}\n' % number.encode()
    with pytest.raises(ConfigError, match=rf"in\.jsonl: record 5: x is {number}: neither a decimal nor a float"):
        read(tmp_path, content)


def test_the_least_integer_is_found_wherever_it_stands(tmp_path: Path) -> None:
    """An integer of 19 digits widens the column also where it comes late and has no absolute value in 64 bits."""
    least = b'{"x":-9223372036854775808}\n'
    for content in (least + b'{"x":1}\n' * 200_000, b'{"x":1}\n' * 200_000 + least):
        assert read(tmp_path, content)[2].schema == {"x": ColumnType("decimal")}


MANY: Final = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(
    number=st.one_of(
        st.decimals(allow_nan=False, allow_infinity=False).map(str),
        st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    ),
    scale=st.integers(0, 18),
)
@example(number="9" * 20, scale=18)
@example(number="1" + "0" * 20, scale=18)
@example(number="-1e35", scale=2)
@example(number="1e36", scale=2)
@example(number="0.010e-2", scale=4)
@example(number="-0.0e999", scale=0)
def test_amounts_are_exact_or_refused(number: str, scale: int) -> None:
    """The decimal text of a number has its value and the scale; None only where no such decimal exists."""
    digits = digits_of(number)
    assert digits is not None
    text = decimal_text(digits, scale)
    sign, coefficient, exponent = Decimal(number).as_tuple()
    value = (-1 if sign else 1) * int("".join(map(str, coefficient)))
    units = value * 10 ** (int(exponent) + scale) if int(exponent) + scale >= 0 else None
    if units is None:
        quotient, rest = divmod(value, 10 ** -(int(exponent) + scale))
        units = None if rest else quotient
    if units is None or abs(units) >= 10**38:
        assert text is None
    else:
        assert text is not None
        assert int(text.replace(".", "")) == units
        assert len(text.rpartition(".")[2]) == scale or not scale


line = st.one_of(
    st.dictionaries(
        st.sampled_from(["text", "count", "amount", "flag", "other"]),
        st.one_of(
            st.none(), st.booleans(), st.integers(-5, 2**64), st.text('aé\\"\n', max_size=3),
            st.sampled_from([1.5, 1.25, 1.125, 1e300, [1], {"a": 1}]),
        ),
        max_size=3,
    ).map(lambda value: json.dumps(value, ensure_ascii=False).encode()),
    st.sampled_from([b"", b" ", b"{}", b"{} ", b" {}", b"{}{}", b"[1]", b"{", b"}", b'{"text":', b'"a"}', b"{\xff}"]),
    st.just(b"{}\r"),
)  # fmt: skip


@MANY
@given(lines=st.lists(line, min_size=1, max_size=8), ignore=st.booleans())
def test_blocks_and_single_lines_give_the_same(lines: list[bytes], ignore: bool) -> None:
    """The reading of a block is that of its lines one by one, rows and rejections."""
    schema = {name: column for name, column in SCHEMA.items() if column not in (DATE, TIMESTAMP)}
    records = JsonRecords(schema, ignore_unknown=ignore)
    text = b"".join(each + b"\n" for each in lines)
    (fast,), slow = records.batches(text, 1), records.singly(text, 1)
    assert fast.frame.equals(slow.frame)
    assert fast.frame.schema == slow.frame.schema
    assert fast.rejected == slow.rejected
    assert len(slow.frame) + len(slow.rejected) == len(lines)


@pytest.mark.skipif(not TORTURE.is_dir(), reason="the JSON test suite is not here")
def test_torture_files_as_values_never_break_a_neighbour(tmp_path: Path) -> None:
    """Whatever stands in a line, valid JSON or not, the lines before and after it are rows."""
    for path in sorted(TORTURE.iterdir()):
        content = path.read_bytes().replace(b"\n", b" ")
        text = b'{"text":"before"}\n{"text":' + content + b'}\n{"text":"after"}\n'
        rows, rejected, _ = read(tmp_path, text, {"text": STRING})
        assert (rows[0][1], rows[-1][1]) == ("before", "after"), path.name
        assert len(rows) + len(rejected) == 3, path.name
        if path.name.startswith("n_") and content.strip():
            assert len(rejected) == 1, path.name
