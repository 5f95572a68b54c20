"""Functions on dates and timestamps. See `functions` for how each is written.

Owns: what they compute. A timestamp's year, month and day are those in UTC. Null gives null.

A completed year of age is reached on the day and month of birth. Who was born on 29 February reaches it, in a year
without that day, on 1 March.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from tidewaiter.core.pipelines.columns import DATE, INTEGER
from tidewaiter.core.pipelines.expression_types import Part, made

if TYPE_CHECKING:
    from tidewaiter.core.pipelines.function_arguments import Call


def year(called: Call) -> Part:
    """The calendar year."""
    return _integer(called, called.args[0].stored.dt.year())


def quarter(called: Call) -> Part:
    """The quarter of the year, 1 to 4."""
    return _integer(called, called.args[0].stored.dt.quarter())


def month(called: Call) -> Part:
    """The month, 1 to 12."""
    return _integer(called, called.args[0].stored.dt.month())


def day(called: Call) -> Part:
    """The day of the month, 1 to 31."""
    return _integer(called, called.args[0].stored.dt.day())


def weekday(called: Call) -> Part:
    """The day of the week, 1 Monday to 7 Sunday."""
    return _integer(called, called.args[0].stored.dt.weekday())


def date_of(called: Call) -> Part:
    """The day of a timestamp, in UTC."""
    part = called.args[0]
    return made(called.at, part.stored.dt.date(), DATE, part)


def age_at(called: Call) -> Part:
    """The years completed from birth to a day. A day before birth is a problem of its row."""
    birth, on = called.args
    born, day = birth.stored, on.stored
    years = day.dt.year().cast(pl.Int64) - born.dt.year().cast(pl.Int64)
    before = _day_of_year(day) < _day_of_year(born)
    problem = (day < born, "age_at: the day lies before the date of birth")
    return made(called.at, years - before.cast(pl.Int64), INTEGER, birth, on, problems=(problem,), copies=2)


def days_between(called: Call) -> Part:
    """The days from the first date to the second; negative where the second is earlier."""
    first, second = called.args
    days = second.stored.to_physical().cast(pl.Int64) - first.stored.to_physical().cast(pl.Int64)
    return made(called.at, days, INTEGER, first, second)


def _day_of_year(day: pl.Expr) -> pl.Expr:
    """Return a number that orders the days of any year by month and day."""
    return day.dt.month().cast(pl.Int64) * 100 + day.dt.day().cast(pl.Int64)


def _integer(called: Call, expr: pl.Expr) -> Part:
    return made(called.at, expr.cast(pl.Int64), INTEGER, *called.args)
