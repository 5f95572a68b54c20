"""The digest of rows: a stranger with a CSV tool and sha256sum gets the same, and batches make no difference."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import struct
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from tidewaiter.core.pipelines.columns import ColumnType, Schema, parse_type
from tidewaiter.edges.tables.digest import StageDigest

TYPES = ("string", "integer", "decimal(2)", "decimal(0)", "float", "boolean", "date", "timestamp")
TEXTS = ("", "a", 'quo"te', "two\nlines", "cr\rhere", "comma, too", " lead", "=1+1", "é€𝄞", "\0", "null", '""')
MOMENTS = tuple(
    dt.datetime.fromisoformat(f"{text}+00:00")
    for text in (
        "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999", "1969-12-31T23:59:59", "1970-01-01T00:00:00",
        "2026-01-31T10:00:00.500000", "2024-02-29T00:00:00.000001",
    )
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, 0.1, 1e16, 9999999999999998.0, 1e-5, 9.9e-6, 1.5e300, 5e-324, -123456.789, 2.0**53)


def schema(*types: str) -> Schema:
    """Return columns c0, c1, … of these types."""
    found = [parse_type(each) for each in types]
    return {f"c{place}": column for place, column in enumerate(found) if column is not None}


def some_value(kind: str, rng: random.Random) -> Any:
    """Return a value of this type, or None."""
    if rng.random() < 0.15:
        return None
    if kind == "string":
        return rng.choice(TEXTS)
    if kind == "integer":
        return rng.choice((0, -1, 2**63 - 1, -(2**63), rng.randrange(-1000, 1000)))
    if kind.startswith("decimal"):
        scale = int(kind[8])
        digits = rng.choice((0, 5, -5, 10**37 - 1, rng.randrange(-(10**9), 10**9)))
        sign, abs_digits = int(digits < 0), tuple(int(digit) for digit in str(abs(digits)))
        return Decimal((sign, abs_digits, -scale))
    if kind == "float":
        bits: float = struct.unpack("<d", struct.pack("<Q", rng.getrandbits(62)))[0]
        return rng.choice((*FLOATS, bits, rng.random() * 10.0 ** rng.randrange(-8, 18)))
    if kind == "boolean":
        return rng.random() < 0.5
    moment = rng.choice(
        (*MOMENTS, dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=rng.randrange(10**10)))
    )
    return moment.date() if kind == "date" else moment


def frame(columns: Schema, rows: list[list[Any]]) -> pl.DataFrame:
    """Return these rows as a frame with ROW."""
    data = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
    found = pl.DataFrame(data, schema={name: column.dtype for name, column in columns.items()})
    return found.with_row_index("__row", 1)


def digest(columns: Schema, *frames: pl.DataFrame) -> str:
    """Return the digest of these batches."""
    found = StageDigest(columns)
    for each in frames:
        found.update(each)
    return found.hexdigest()


# -- what a stranger writes who has only the description ---------------------------------------------------------------


def stranger_cell(kind: str, value: Any) -> str:
    """Spell a value as the description has it."""
    if value is None:
        return ""
    if kind == "integer":
        return str(value)
    if kind.startswith("decimal"):
        return format(value, "f")
    if kind == "float":
        return stranger_float(value)
    if kind == "boolean":
        text = "true" if value else "false"
    elif kind == "date":
        text = f"{value.year:04}-{value.month:02}-{value.day:02}"
    elif kind == "timestamp":
        text = value.replace(tzinfo=None, microsecond=0).isoformat()
        if value.microsecond % 1000:
            text += f".{value.microsecond:06}"
        elif value.microsecond:
            text += f".{value.microsecond // 1000:03}"
        text += "Z"
    else:
        text = value
    return '"' + text.replace('"', '""') + '"'


def stranger_float(value: float) -> str:
    """Spell the shortest digits: plain between 1e-5 and 1e16, else with an exponent."""
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    if value == 0 or 1e-5 <= abs(value) < 1e16:
        text = format(Decimal(repr(value)), "f")
        return text if "." in text else f"{text}.0"
    assert isinstance(exponent, int)
    shown = "".join(str(digit) for digit in digits)
    short = shown.rstrip("0") or "0"
    power = exponent + len(shown) - 1
    mantissa = short[0] + ("." + short[1:] if len(short) > 1 else "")
    return f"{'-' if sign else ''}{mantissa}e{'+' if power > 0 else ''}{power}"


def stranger_digest(types: tuple[str, ...], rows: list[list[Any]]) -> str:
    """Return the digest as the description has it."""
    lines = [",".join(f'"c{place}:{kind}"' for place, kind in enumerate(types))]
    lines += [",".join(stranger_cell(kind, value) for kind, value in zip(types, row, strict=True)) for row in rows]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


# -- the promises ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_stranger_computes_the_same_digest(seed: int) -> None:
    """The description is enough: pure Python over the same values gives the same digest, for every type."""
    rng = random.Random(seed)
    rows = [[some_value(kind, rng) for kind in TYPES] for _ in range(rng.choice((1, 7, 400)))]
    columns = schema(*TYPES)
    assert digest(columns, frame(columns, rows)) == stranger_digest(TYPES, rows)


@pytest.mark.parametrize("kind", TYPES)
def test_a_table_of_one_column_has_a_line_for_each_row(kind: str) -> None:
    """A null alone in its row is an empty line, and counts."""
    rng = random.Random(3)
    rows = [[None], [some_value(kind, rng)], [None], [None]]
    columns = schema(kind)
    assert digest(columns, frame(columns, rows)) == stranger_digest((kind,), rows)


def test_where_batches_end_changes_nothing() -> None:
    """Rows in one batch, in many, with empty ones between, or out of many chunks have one digest."""
    rng = random.Random(5)
    columns = schema(*TYPES)
    whole = frame(columns, [[some_value(kind, rng) for kind in TYPES] for _ in range(500)])
    expected = digest(columns, whole)
    for _ in range(5):
        cuts = sorted(rng.sample(range(500), 6))
        batches = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, 500], strict=True)]
        assert digest(columns, *batches, whole[:0]) == expected
        assert digest(columns, pl.concat(batches, rechunk=False)) == expected


def test_dates_far_apart_and_close_together_are_spelled_alike() -> None:
    """How a date is spelled does not depend on the other dates of its batch."""
    columns = schema("date", "timestamp")
    rows = [[dt.date(2026, 1, day), dt.datetime(2026, 1, day, 12, tzinfo=dt.UTC)] for day in range(1, 29)]
    far = [[dt.date(1, 1, 1), dt.datetime(9999, 12, 31, tzinfo=dt.UTC)]]
    together, apart = frame(columns, rows + far), (frame(columns, rows), frame(columns, far))
    assert digest(columns, together) == digest(columns, *apart) == stranger_digest(("date", "timestamp"), rows + far)


def test_rows_that_differ_have_digests_that_differ() -> None:
    """Null and empty text, a comma moved over a cell's edge, order, names and types: each makes another digest."""
    two = schema("string", "string")
    renamed: Schema = {"c0": ColumnType("string"), "c9": ColumnType("string")}
    found = [
        digest(two, frame(two, [["a", "b"], ["c", "d"]])),
        digest(two, frame(two, [["c", "d"], ["a", "b"]])),
        digest(renamed, frame(renamed, [["a", "b"], ["c", "d"]])),
        *(
            digest(two, frame(two, [row]))
            for row in (["a", None], ["a", ""], [None, "a"], ['a","', "b"], ["a", '","b'], ["a\nb", "c"], ["a", "b\nc"])
        ),
        digest(schema("integer"), frame(schema("integer"), [[1]])),
        digest(schema("decimal(0)"), frame(schema("decimal(0)"), [[Decimal(1)]])),
        digest(schema("decimal(2)"), frame(schema("decimal(2)"), [[Decimal("1.00")]])),
        digest(schema("string"), frame(schema("string"), [["1"]])),
        digest(schema("integer")),
    ]
    assert len(set(found)) == len(found)


def test_only_the_columns_of_the_schema_count() -> None:
    """The hidden number of a row, and columns that are not in the schema, change nothing."""
    columns = schema("integer", "string")
    plain = frame(columns, [[1, "a"], [2, "b"]])
    other = plain.with_columns(pl.lit(7).alias("more"), pl.lit(9).cast(pl.UInt64).alias("__row"))
    assert digest(columns, other.select("more", "c1", "__row", "c0")) == digest(columns, plain)
