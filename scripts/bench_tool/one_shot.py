"""The same question as one query over the whole file, in duckdb or polars.

Started as ``python -m bench_tool.one_shot LIBRARY FILE RULES EVENTS``; prints one line of JSON. Reading
the file is in the time (as decoding is in the engine's), importing the library is not. Both take all cores they find.

A query sees the file as it is: nothing is kept for the next event, nothing is durable, invalid lines end it, and a flag
is an id and a rule's name. Events of one user at the same microsecond would count each other; the engine counts those
before it by position. The money-flow data has none, and the numbers of flags are compared.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from bench_tool.in_process import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIBRARIES: Final = ("duckdb", "polars")
# What both rulesets count: deposits of the user up to now. Amounts as whole cents, as the engine has them.
_EVENTS: Final = """
  events AS (
    SELECT row_number() OVER () AS line, event_id, user_id, event_time, event_type = 'deposit_completed' AS deposit,
      CAST(round(amount * 100) AS BIGINT) AS cents
    FROM read_json($file, format = 'newline_delimited', columns = {
      event_id: 'VARCHAR', user_id: 'VARCHAR', event_time: 'TIMESTAMP', event_type: 'VARCHAR', amount: 'DOUBLE'})
  )"""
_PAST: Final = (
    "OVER (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL {} SECONDS PRECEDING AND CURRENT ROW)"
)
_QUERIES: Final = {
    "money_flow": f"""
WITH {_EVENTS},
  counted AS (SELECT *, count(*) FILTER (deposit) {_PAST.format(10)} AS deposits FROM events),
  held AS (SELECT *, cents > 50000 AS threshold, deposit AND deposits > 5 AS velocity FROM counted),
  looked AS (SELECT *, count(*) {_PAST.format(300)} > 3 AS often FROM held WHERE threshold OR velocity),
  judged AS (
    SELECT *, often AND NOT coalesce(lag(often) OVER (PARTITION BY user_id ORDER BY line), FALSE) AS repetition
    FROM looked
  )
SELECT event_id, 'threshold' AS rule_name FROM judged WHERE threshold
UNION ALL SELECT event_id, 'velocity' FROM judged WHERE velocity
UNION ALL SELECT event_id, 'repetition' FROM judged WHERE repetition""",  # noqa: S608 - made of this module's own texts
    "windowed": f"""
WITH {_EVENTS},
  counted AS (
    SELECT *, count(*) {_PAST.format(10)} AS deposits, sum(cents) {_PAST.format(3600)} AS total
    FROM events WHERE deposit
  )
SELECT event_id, 'velocity' AS rule_name FROM counted WHERE deposits > 5
UNION ALL SELECT event_id, 'total' FROM counted WHERE total > 500000""",  # noqa: S608 - the same
}


def in_duckdb(file: str, rules: str) -> dict[str, int]:
    """Return the number of flags of each rule; they are in a table in memory by then."""
    duckdb: Any = importlib.import_module("duckdb")
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE flags AS {_QUERIES[rules]}", {"file": file})
    return dict(connection.execute("SELECT rule_name, count(*) FROM flags GROUP BY rule_name ORDER BY 1").fetchall())


def in_polars(file: str, rules: str) -> dict[str, int]:
    """Return the number of flags of each rule; they are in a frame by then."""
    pl: Any = importlib.import_module("polars")
    text = ("event_id", "user_id", "event_time", "ingest_time", "event_type", "currency", "channel")
    events = pl.scan_ndjson(file, schema={**dict.fromkeys(text, pl.String), "amount": pl.Float64}).select(
        "event_id",
        "user_id",
        pl.col("event_time").str.to_datetime(time_unit="us", time_zone="UTC"),
        deposit=pl.col("event_type") == "deposit_completed",
        cents=(pl.col("amount") * 100).round().cast(pl.Int64),
        one=pl.lit(1, dtype=pl.Int64),
    )

    def past(what: Any, seconds: int) -> Any:  # noqa: ANN401 - expressions of a library without its types here
        return what.rolling_sum_by("event_time", f"{seconds}s", closed="both").over("user_id")

    if rules == "money_flow":
        counted = events.with_columns(deposits=past(pl.col("deposit").cast(pl.Int64), 10))
        held = counted.with_columns(
            threshold=pl.col("cents") > 50_000,  # noqa: PLR2004 - as the ruleset says
            velocity=pl.col("deposit") & (pl.col("deposits") > 5),  # noqa: PLR2004
        )
        looked = held.filter(pl.col("threshold") | pl.col("velocity")).with_columns(often=past(pl.col("one"), 300) > 3)  # noqa: PLR2004
        before = pl.col("often").shift(1, fill_value=False).over("user_id")
        judged = looked.with_columns(repetition=pl.col("often") & ~before)
        names = ["threshold", "velocity", "repetition"]
    else:
        deposits = events.filter("deposit")
        judged = deposits.with_columns(
            velocity=past(pl.col("one"), 10) > 5,  # noqa: PLR2004 - as the ruleset says
            total=past(pl.col("cents"), 3600) > 500_000,  # noqa: PLR2004
        )
        names = ["velocity", "total"]
    flags = judged.unpivot(on=names, index="event_id", variable_name="rule_name").filter("value").collect()
    return dict(flags.group_by("rule_name").len().sort("rule_name").rows())


_RUNS: Final[dict[str, Callable[[str, str], dict[str, int]]]] = {"duckdb": in_duckdb, "polars": in_polars}


def main(arguments: Sequence[str]) -> int:
    """Ask, and print what that took."""
    library, file, rules, events = arguments
    version = importlib.import_module(library).__version__
    clock = Clock()
    flags = clock.timed(_RUNS[library], file, rules, events=int(events))
    print(json.dumps({"whole": clock.facts(), "version": version, "flags": flags}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
