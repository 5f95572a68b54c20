"""Functions on texts, keyed hashes and look-ups. See `functions` for how each is written.

Owns: what they compute. Characters are Unicode code points; upper() and lower() follow Unicode without any language's
rules; trim() takes white space off both ends; places count from 1. Null gives null.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.pipelines.columns import INTEGER, STRING
from tidewaiter.core.pipelines.expression_types import Part, made
from tidewaiter.core.toml_source import nearest

if TYPE_CHECKING:
    from tidewaiter.core.pipelines.function_arguments import Call

MIN_KEY_BYTES: Final = 16
"""A shorter secret could be found by trying."""


def upper(called: Call) -> Part:
    """The text in capitals."""
    return _text(called, called.args[0].stored.str.to_uppercase())


def lower(called: Call) -> Part:
    """The text in small letters."""
    return _text(called, called.args[0].stored.str.to_lowercase())


def trim(called: Call) -> Part:
    """The text without white space at its ends."""
    return _text(called, called.args[0].stored.str.strip_chars())


def length(called: Call) -> Part:
    """How many characters there are."""
    part = called.args[0]
    return made(called.at, part.stored.str.len_chars().cast(pl.Int64), INTEGER, part)


def left(called: Call) -> Part:
    """The first characters; the whole text where it is shorter."""
    return _text(called, called.args[0].stored.str.slice(0, called.count(1)))


def right(called: Call) -> Part:
    """The last characters; the whole text where it is shorter."""
    count = called.count(1)
    text = called.args[0].stored
    return _text(called, text.str.tail(count) if count else text.str.slice(0, 0))


def substring(called: Call) -> Part:
    """So many characters from a place on, or what there is of them."""
    return _text(called, called.args[0].stored.str.slice(called.count(1) - 1, called.count(2)))


def replace(called: Call) -> Part:
    """The text with each occurrence of one text replaced by another."""
    if not called.word(1):
        raise called.setting.fail("cannot be replaced: it is empty", "name the text to replace", called.args[1].at)
    return _text(called, called.args[0].stored.str.replace_all(called.word(1), called.word(2), literal=True))


def concat(called: Call) -> Part:
    """The texts one after the other; null where one of them is."""
    return _text(called, pl.concat_str([part.stored for part in called.args]))


def pad_left(called: Call) -> Part:
    """The text with a character put before it until it is so long; a longer one is left as it is."""
    if len(called.word(2)) != 1:
        raise called.setting.fail("must be one character", "write pad_left(text, 8, '0')", called.args[2].at)
    return _text(called, called.args[0].stored.str.pad_start(called.count(1), called.word(2)))


def text(called: Call) -> Part:
    """A value as it is written to a file: 1.50, true, 2026-01-31."""
    part = called.args[0]
    return _text(called, part.stored.dt.to_string("%Y-%m-%d") if part.kind == "date" else part.stored.cast(pl.String))


def keyed_hash(called: Call) -> Part:
    """HMAC-SHA-256 of the text's UTF-8 bytes under a secret key, in 64 hexadecimal digits."""
    name, at = called.word(1), called.args[1].at
    key = called.setting.ground.keys.get(name)
    if key is None:
        hint = nearest(name, called.setting.ground.keys, listing="declare it under [keys]")
        raise called.setting.fail(f"there is no key {name!r}", hint, at)
    if len(key) < MIN_KEY_BYTES:
        raise called.setting.fail(f"the key {name!r} has {len(key)} bytes", f"at least {MIN_KEY_BYTES}", at)

    def hashed(column: pl.Series) -> pl.Series:
        different = column.drop_nulls().unique()
        digests = [hmac.digest(key, value.encode(), "sha256").hex() for value in different.to_list()]
        return column.replace_strict(
            different, pl.Series(digests, dtype=pl.String), default=None, return_dtype=pl.String
        )

    part = called.args[0]
    return _text(called, part.stored.map_batches(hashed, return_dtype=pl.String, is_elementwise=True))


def lookup(called: Call) -> Part:
    """What a column of a reference list has where its key is the value; null where no key is."""
    part, name, column = called.args[0], called.word(1), called.word(2)
    found = called.setting.ground.lists.get(name)
    if found is None:
        hint = nearest(name, called.setting.ground.lists, listing="declare it: [list]")
        raise called.setting.fail(f"there is no list {name!r}", hint, called.args[1].at)
    if column not in found.schema:
        hint = nearest(column, found.schema)
        raise called.setting.fail(f"the list {name!r} has no column {column!r}", hint, called.args[2].at)
    if found.schema[found.key] != part.type:
        problem = f"{found.key} of the list {name!r} is {found.schema[found.key]}, this is {part.type}"
        raise called.setting.fail(problem, "cast one to the other", part.at)
    known = found.frame.filter(pl.col(found.key).is_not_null())
    again = known.filter(pl.col(found.key).is_duplicated())
    if len(again):
        problem = f"{found.key} of the list {name!r} has {str(again[found.key][0])!r} more than once"
        raise called.setting.fail(problem, "each key must stand in it once", called.args[1].at)
    wanted = found.schema[column]
    if not len(known):
        return made(called.at, pl.when(part.stored.is_null()).then(pl.lit(None, dtype=wanted.dtype)), wanted, part)
    expr = part.stored.replace_strict(known[found.key], known[column], default=None, return_dtype=wanted.dtype)
    return made(called.at, expr, wanted, part)


def _text(called: Call, expr: pl.Expr) -> Part:
    return made(called.at, expr, STRING, *called.args)
