r"""How a value stands in a text: the one form of each type, wherever a pipeline reads text as a value.

Owns: the forms, reading a column of texts, and what to say of a text of another form. Leaves to `validation` which
column has which type, and to `edges.tables` how values are written.

| type | form |
|---|---|
| integer | digits, ``-`` before them where negative; no ``+``, spaces, separators, leading zeros; under 2^63 |
| decimal(n) | the same, then at most n decimals behind a point; no exponent; at most 38 - n digits before the point |
| float | a JSON number, finite |
| boolean | ``true`` or ``false`` |
| date | ``2026-01-31``, of the years 0001 to 9999 |
| timestamp | RFC 3339 with ``T`` and an offset (``Z`` or ``+01:00``), at most microseconds; no leap second |

These are JSON's forms of numbers, so a record means the same in CSV and in JSON lines. polars reads more (``+5``,
``1e3``, a third decimal that it cuts off, second 60), so a form is always looked at before a text is read.

Invariant: what a text is read as depends on the text alone, never on the texts around it.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

import polars as pl

if TYPE_CHECKING:
    from tidewaiter.core.pipelines.columns import ColumnType

_WHOLE: Final = "-?(?:0|[1-9][0-9]*)"
_DAY: Final = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_FORMS: Final = {
    "integer": f"^{_WHOLE}$",
    "float": f"^{_WHOLE}(?:\\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$",
    "date": f"^{_DAY}$",
    "timestamp": (
        f"^{_DAY}T[0-9]{{2}}:[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{{1,6}}0{{0,3}})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"
    ),
}
_WORDS: Final = {
    "string": "is not a text",
    "integer": "is not an integer of 64 bits",
    "float": "is not a finite number",
    "boolean": "is not true or false",
    "date": "is not a date of the form YYYY-MM-DD, such as 2026-01-31",
    "timestamp": "is not a time of RFC 3339 with an offset, such as 2026-01-31T10:00:00Z",
}
_SECONDS_ONLY: Final = "%Y-%m-%dT%H:%M:%SZ"
_FEW_DIGITS: Final = 10**6
_NO_OPPOSITE: Final = -(2**63)
_FIRST: Final = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
_LAST: Final = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)


def form_of(column: ColumnType) -> str:
    """Return the form of a text that is a `column` as a pattern of polars' engine; of a boolean or string, too."""
    match column.kind:
        case "string":
            return ""
        case "boolean":
            return "^(?:true|false)$"
        case "decimal":
            fraction = f"(?:\\.[0-9]{{1,{column.scale}}})?" if column.scale else ""
            return f"^{_WHOLE}{fraction}$"
        case kind:
            return _FORMS[kind]


def not_of_form(column: ColumnType) -> str:
    """Return what to say of a text that is no `column`."""
    if column.kind == "decimal":
        decimals = f"at most {column.scale} decimal{'s' * (column.scale > 1)}" if column.scale else "no decimals"
        return f"is not an amount with {decimals}, such as {'1234.56'[: 4 + bool(column.scale) + min(column.scale, 2)]}"
    return _WORDS[column.kind]


def read_texts(texts: pl.Series, column: ColumnType) -> pl.Series:
    """Return the values of `texts`, null where one is null or no text of a `column`."""
    if column.kind == "string":
        return texts
    if column.kind == "boolean":
        return _where(texts, texts.is_in(["true", "false"]), texts == "true")
    if column.kind == "integer" and _are_digits_of(values := texts.cast(pl.Int64, strict=False), texts):
        return values
    fits = texts.str.contains(form_of(column))
    match column.kind:
        case "date":
            return within_years(_where(texts, fits, texts.str.to_date("%Y-%m-%d", strict=False, cache=False)))
        case "timestamp":
            return _timestamps(texts, fits)
        case "integer":
            return with_opposites(_where(texts, fits, texts.cast(pl.Int64, strict=False)))
        case "float":
            return finite(_where(texts, fits, texts.cast(pl.Float64, strict=False)))
        case _:
            return _where(texts, fits, texts.cast(column.dtype, strict=False))


def _are_digits_of(values: pl.Series, texts: pl.Series) -> bool:
    """Return whether `texts` are surely the digits of `values`, small integers that polars read from them.

    polars reads a sign, then digits. Where a text is no longer than the digits of a value from 0 up, it can only be
    these: a sign or a zero before them would make it longer. That takes a third of the time of a pattern.
    """
    least, most = values.min(), values.max()
    if not isinstance(least, int) or not isinstance(most, int) or not 0 <= least <= most < _FEW_DIGITS:
        return False
    digits = pl.repeat(1, len(values), dtype=pl.UInt32, eager=True)
    bound = 10
    while bound <= most:
        digits += (values >= bound).cast(pl.UInt32)
        bound *= 10
    return values.null_count() == texts.null_count() and bool((texts.str.len_bytes() == digits).all())


def with_opposites(values: pl.Series) -> pl.Series:
    """Return integers, null where one is -2^63, whose opposite has more than 64 bits: contracts do not admit it."""
    least = values.min()
    return values if least is None or least != _NO_OPPOSITE else _where(values, values != _NO_OPPOSITE, values)


def finite(values: pl.Series) -> pl.Series:
    """Return floats, null where one is no finite number."""
    return _where(values, values.is_finite(), values)


def within_years(values: pl.Series) -> pl.Series:
    """Return dates or timestamps, null where one is not in the years 1 to 9999 (polars has more)."""
    if values.dtype == pl.Date:
        first, last = _FIRST.date(), _LAST.date()
        if values.len() == values.null_count() or bool((values >= first).all() and (values <= last).all()):
            return values
        return _where(values, (values >= first) & (values <= last), values)
    if values.len() == values.null_count() or bool((values >= _FIRST).all() and (values <= _LAST).all()):
        return values
    return _where(values, (values >= _FIRST) & (values <= _LAST), values)


def _where(texts: pl.Series, fits: pl.Series, values: pl.Series) -> pl.Series:
    """Return `values`, null where not `fits`; the usual column, of which all fit, costs one look."""
    if fits.all(ignore_nulls=True):
        return values.rename(texts.name)
    kept = pl.select(pl.when(fits).then(values)).to_series()
    return kept.rename(texts.name)


def _timestamps(texts: pl.Series, fits: pl.Series) -> pl.Series:
    """Return `texts` as timestamps: whole seconds in UTC at once, those with fractions and offsets apart."""
    plain = fits & (texts.str.len_bytes() == len("2026-01-31T10:00:00Z"))
    quick = texts.str.to_datetime(_SECONDS_ONLY, strict=False, cache=False, time_unit="us").dt.replace_time_zone("UTC")
    values = _where(texts, plain, quick)
    other = (fits & ~plain).fill_null(value=False)
    if other.any():
        rest = texts.filter(other).str.to_datetime("%+", strict=False, cache=False, time_unit="us", time_zone="UTC")
        values = values.scatter(other.arg_true(), rest)
    return within_years(values)
