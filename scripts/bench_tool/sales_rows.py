"""A made-up table of sales as delimited text, of any length: the same rows for the same number and seed.

Started as ``python -m bench_tool.sales_rows FILE ROWS SEED``. A row has some 65 bytes; most rows pass the filter of
`bench_tool.pipeline_run`, some do not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNTRIES: Final = ("GB", "FR", "DE", "ES", "NL", "US", "JP", "KR")
_CHANNELS: Final = ("web", "branch", "partner", "phone")
_AT_ONCE: Final = 1 << 18
_FIRST: Final = 1_767_225_600_000_000
"""2026-01-01, in microseconds."""


def write(path: Path, rows: int, seed: int) -> None:
    """Write the table."""
    with path.open("wb") as file:
        for begin in range(0, rows, _AT_ONCE):
            frame = _rows(begin, min(_AT_ONCE, rows - begin), seed)
            frame.write_csv(file, include_header=begin == 0, datetime_format="%Y-%m-%dT%H:%M:%SZ")


def _rows(begin: int, count: int, seed: int) -> pl.DataFrame:
    number = pl.int_range(begin, begin + count, dtype=pl.Int64, eager=True)

    def drawn(what: int, below: int) -> pl.Series:
        # a hash of the row's number, so that a row does not depend on those before it
        mixed = (number + seed * 1_000_003 + what * 7_919) * 2_654_435_761 % 4_294_967_291
        return mixed * (mixed % 65_521 + what) % 2_147_483_647 % below

    def one_of(what: int, words: Sequence[str]) -> pl.Series:
        return pl.Series(list(words)).gather(drawn(what, len(words)))

    return pl.DataFrame(
        {
            "id": pl.select(pl.format("sale-{}", (number + 1).cast(pl.String).str.zfill(10))).to_series(),
            "customer": pl.select(pl.format("customer-{}", drawn(1, 200_000))).to_series(),
            "booked": (number * 1_000_000 + _FIRST).cast(pl.Datetime("us")),
            "country": one_of(2, COUNTRIES),
            "amount": _amounts(drawn(3, 100_000_000)),
            "quantity": drawn(4, 12),
            "channel": one_of(5, _CHANNELS),
        }
    )


def _amounts(cents: pl.Series) -> pl.Series:
    """Return whole cents as text with two decimals."""
    rest = (cents % 100).cast(pl.String).str.zfill(2)
    return pl.select(pl.format("{}.{}", cents // 100, rest)).to_series()


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
