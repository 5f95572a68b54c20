"""A blocking step over made-up rows in a process of its own: how much memory it takes, and what comes out.

`blocking_load.py memory STEP BYTES ROWS…` runs the step over each number of rows and prints the process' highest memory
after each, in MiB; `blocking_load.py digest BYTES SIZE` prints a digest of the rows that come out of every step.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

from blocking_rig import planned, schema_of
from tidewaiter.core.pipelines.columns import ROW, ROW_DTYPE
from tidewaiter.core.pipelines.steps import Aggregate, Deduplicate, Join, Sort, Step
from tidewaiter.edges.tables.blocking import blocking
from tidewaiter.edges.tables.spill import SpillDirectory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SCHEMA: Final = schema_of(
    id="integer", who="string", amount="decimal(2)", at="timestamp", note="string", flag="boolean"
)
STEPS: Final[dict[str, Step]] = {
    "sort": Sort("s", (("amount", True), ("who", False))),
    "skewed sort": Sort("s", (("flag", False),)),
    "few of many": Sort("s", (("amount", False),)),
    "deduplicate": Deduplicate("d", ("note",)),
    "deduplicate last": Deduplicate("d", ("who", "flag"), "last"),
    "aggregate": Aggregate("a", ("note",), {"n": "count()", "total": "sum(amount)", "end": "last(who)"}),
    "distinct": Aggregate("a", ("flag",), {"n": "count()", "notes": "distinct(note)", "first": "first(note)"}),
    "join": Join("j", "list.csv", {"note": "note"}, {"who": "who_else"}),
}


def frames(rows: int, size: int = 1 << 17, *, few: bool = False) -> Iterator[pl.DataFrame]:
    """Yield made-up rows: all notes differ, there are 50,000 people; `few` keeps one row of 500."""
    for start in range(0, rows, size):
        number = pl.int_range(start + 1, min(start + size, rows) + 1, dtype=ROW_DTYPE, eager=True).alias(ROW)
        mixed = pl.col(ROW).cast(pl.Int64) * 7919 % 1_000_003
        frame = number.to_frame().select(
            ROW,
            (pl.col(ROW).cast(pl.Int64) * 15_485_863 % 2_000_003).alias("id"),
            pl.format("someone {}", mixed % 50_000).alias("who"),
            mixed.cast(pl.Decimal(38, 2)).alias("amount"),
            pl.from_epoch(mixed, "s").dt.cast_time_unit("us").dt.replace_time_zone("UTC").alias("at"),
            pl.format("a note about row {}, which no other has", pl.col(ROW)).alias("note"),
            (mixed % 2 == 0).alias("flag"),
        )
        yield frame.filter(pl.col(ROW) % 500 == 0) if few else frame


def run(step: Step, rows: Iterable[pl.DataFrame], reference: Iterable[pl.DataFrame], memory: int) -> tuple[str, int]:
    """Return a digest of the rows that come out, and the number of bytes spilled."""
    digest = hashlib.sha256()
    plan = planned(step, SCHEMA, SCHEMA)
    with tempfile.TemporaryDirectory() as place, SpillDirectory(Path(place)) as spill:
        for batch in blocking(plan, rows, spill, memory_bytes=memory, reference=reference):
            digest.update(batch.frame.write_csv(include_header=False).encode())
        return digest.hexdigest(), spill.written


def peak_mib() -> int:
    """Return the most memory this program has held; getrusage would count that of the process that started it, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM:"))


def main(what: str, *words: str) -> None:
    """Do what the command line says."""
    if what == "memory":
        name, memory, *counts = words
        for count in map(int, counts):
            rows = frames(count, few=name == "few of many")
            _, spilled = run(STEPS[name], rows, frames(count // 2), int(memory))
            print(spilled >> 20, peak_mib())  # noqa: T201
        return
    memory, size = words
    for name, step in STEPS.items():
        digest, _ = run(step, frames(6000, int(size)), frames(3000, int(size)), int(memory))
        print(name, digest)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
