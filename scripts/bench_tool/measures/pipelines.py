"""A batch pipeline over a table of sales: beside pandas and polars doing the same three transforms, and in memory.

Each run is a process of its own, in turn with the others. What pandas and polars do not do: keep to a contract, count
and reconcile each step, hash the rows behind it, keep an audit log, and put the output in place in one step, durably.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench_tool.daemon import MeasureFailed
from bench_tool.figures import Figure, median
from bench_tool.packages import libraries
from bench_tool.pipeline_run import LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench_tool.bench import Bench

_SEED = 1
_PANDAS_FLOOR = 3.0
_POLARS_FLOOR = 0.5
_MEMORY_FLOOR = 500 << 20
_AUDIT_FLOOR = 0.05
Answer = dict[str, Any]


def plain(bench: Bench) -> Iterator[Figure]:
    """Types only, no audit log: how many times as fast as pandas and polars."""
    yield from _beside(bench, "plain", {"pandas": _PANDAS_FLOOR, "polars": _POLARS_FLOOR})


def full(bench: Bench) -> Iterator[Figure]:
    """Validation, hashes behind each step and an audit log: the same."""
    yield from _beside(bench, "full", {})


def memory(bench: Bench) -> Iterator[Figure]:
    """The peak memory of a process, over a file and over one ten times as long."""
    sizes = [bench.sized(each, each // 10, each // 100) for each in (500_000, 5_000_000)]
    for how in ("full", "sorted"):
        peaks = [_run(bench, how, _sales(bench, rows))["peak_bytes"] for rows in sizes]
        detail = {"rows": sizes, "peak_bytes": peaks, "times_the_smaller": peaks[1] / peaks[0]}
        name = "pipeline_memory" if how == "full" else f"pipeline_memory_{how}"
        yield Figure(
            name, peaks[1] / (1 << 20), "MiB", _MEMORY_FLOOR / (1 << 20), "at most", _facts(bench, sizes[1]), detail
        )


def audit_share(bench: Bench) -> Iterator[Figure]:
    """The share of a run's time that audit log and lineage take; hashes of files and rows are made by other threads.

    Beside it the same run with neither, whose rows are not hashed behind each step.
    """
    rows = bench.sized(5_000_000, 500_000, 5_000)
    source = _sales(bench, rows)
    runs: dict[str, list[Answer]] = {"recorded": [], "unrecorded": []}
    for _ in range(1 if bench.tiny else 3):
        for how, each in runs.items():
            each.append(_run(bench, how, source))
    shares = [answer["recording_s"] / answer["wall_s"] for answer in runs["recorded"]]
    detail = {
        "shares": shares,
        "recording_s": median([answer["recording_s"] for answer in runs["recorded"]]),
        **{f"{how}_{what}": median([answer[what] for answer in each])
           for how, each in runs.items() for what in ("wall_s", "cpu_s")},
    }  # fmt: skip
    yield Figure(
        "pipeline_audit_share", median(shares), "of a run", _AUDIT_FLOOR, "at most", _facts(bench, rows), detail
    )


def _beside(bench: Bench, how: str, floors: dict[str, float]) -> Iterator[Figure]:
    rows = bench.sized(5_000_000, 500_000, 5_000)
    source = _sales(bench, rows)
    packages, there = libraries(bench, LIBRARIES, f"pipeline_{how}")
    answers: dict[str, list[Answer]] = {who: [] for who in (how, *there)}
    for _ in range(1 if bench.tiny else 3):
        for who, each in answers.items():
            each.append(_run(bench, who, source, packages))
    for who, each in answers.items():
        if {answer["records"] for answer in each} != {answers[how][0]["records"]}:
            raise MeasureFailed(f"{who} wrote {each[0]['records']} records, the pipeline {answers[how][0]['records']}")
    own = _seconds(answers[how])
    facts = _facts(bench, rows)
    yield Figure(f"pipeline_{how}", own, "s", None, file=facts, detail=_detail(answers[how]))
    for who in there:
        detail = _detail(answers[who]) | {
            "same_bytes": answers[who][0]["sha256"] == answers[how][0]["sha256"],
            "does_not_do": "contract, reconciliation, hashes, audit log, output in one step and durable",
        }
        ratio = _seconds(answers[who]) / own
        yield Figure(f"pipeline_{how}_to_{who}", ratio, "times as fast", floors.get(who), "at least", facts, detail)


def _run(bench: Bench, who: str, source: Path, packages: Path | None = None) -> Answer:
    folder = bench.new_folder(who)
    answer: Answer = json.loads(
        bench.python("bench_tool.pipeline_run", who, str(source), str(folder / "out.csv"), packages=packages)
    )
    return answer


def _sales(bench: Bench, rows: int) -> Path:
    folder = bench.folder / "streams"
    folder.mkdir(exist_ok=True)
    path = folder / f"sales-{rows}.csv"
    if not path.exists():
        bench.python("bench_tool.sales_rows", str(path), str(rows), str(_SEED))
    return path


def _facts(bench: Bench, rows: int) -> dict[str, Any]:
    path = _sales(bench, rows)
    made_by = "python -m bench_tool.sales_rows"
    return {"name": path.name, "bytes": path.stat().st_size, "events": rows, "seed": _SEED, "made_by": made_by}


def _seconds(answers: list[Answer]) -> float:
    return median([answer["wall_s"] for answer in answers])


def _detail(answers: list[Answer]) -> dict[str, Any]:
    return {
        "wall_s": _seconds(answers),
        "all_wall_s": [answer["wall_s"] for answer in answers],
        "cpu_s": median([answer["cpu_s"] for answer in answers]),
        "peak_mib": max(answer["peak_bytes"] for answer in answers) / (1 << 20),
        "records": answers[0]["records"],
        "version": answers[0]["version"],
    }
