"""What a lineage of a million edges costs: building the graph, loading it from disk, recording, and asking.

In a process of its own (`bench_tool.lineage_run`). Building begins with the records in memory, as they come from a
file, and ends with a graph that can be asked in both directions. What is asked for is everything that a file was made
from: of all answers in all families the one that 95 in a hundred do not exceed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bench_tool.figures import Figure, median, percentile
from bench_tool.lineage_run import Job
from bench_tool.measures.footprint import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_tool.bench import Bench

BUILD_S: Final = 3.0
ANCESTORS_MS: Final = 50.0
_SHARE: Final = 95


def lineage(bench: Bench) -> Iterator[Figure]:
    """Build, load, record and ask."""
    families, files = bench.sized(50, 10, 2), bench.sized(9_999, 9_999, 500)
    job = Job(families, files, str(bench.new_folder("lineage")), 1 if bench.tiny else 3)
    answer = json.loads(bench.python("bench_tool.lineage_run", msgspec.json.encode(job).decode()))
    made_by = f"{families} families of {files + 1} files, each made from two of the 20 before it"
    facts: dict[str, Any] = {"name": None, "bytes": answer["bytes"], "edges": answer["edges"], "made_by": made_by}
    detail: dict[str, Any] = {
        "edges": answer["edges"], "nodes": answer["nodes"], "build_s": answer["build"], "load_s": answer["load"],
        "build_cpu_s": answer["build_cpu"], "load_cpu_s": answer["load_cpu"],
        "record_us": answer["record_us"], "record_all_us": answer["record_all_us"],
        "peak_mb": answer["peak_bytes"] / MEGABYTE, "file_mb": answer["bytes"] / MEGABYTE,
    }  # fmt: skip
    million = 1e6 / answer["edges"]
    yield Figure(
        "lineage_build", median(answer["build"]) * million, "s for 1M edges", BUILD_S, file=facts, detail=detail
    )
    yield Figure(
        "lineage_load", median(answer["load"]) * million, "s for 1M edges from disk", file=facts, detail=detail
    )
    yield Figure("lineage_record", answer["record_us"], "µs for one record in memory", file=facts, detail=detail)
    asked = {"answer_nodes": answer["answer_nodes"], "answer_records": answer["answer_records"]}
    asked |= {"median_ms": median(answer["ancestors"]) * 1e3, "answers": len(answer["ancestors"])}
    asked |= {"median_cpu_ms": median(answer["ancestors_cpu"]) * 1e3}
    slowest = percentile(answer["ancestors"], _SHARE)
    yield Figure(
        "lineage_ancestors", slowest * 1e3, "ms for all ancestors of a file", ANCESTORS_MS,
        file=facts, detail=asked,
    )  # fmt: skip
