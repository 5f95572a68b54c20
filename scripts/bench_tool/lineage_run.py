"""A lineage of many edges, built, loaded and asked, in a process of its own.

Started as ``python -m bench_tool.lineage_run JSON`` with the members of `Job`; prints one line of JSON. The edges are
of families: in each, every file was made from two of the files before it, so that the last one has all of them as
ancestors. The families grow in turn, as those of many pipelines do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidewaiter.core.lineage.graph import LineageGraph
from tidewaiter.core.lineage.records import Derivation, LineageRecord, Node
from tidewaiter.shell.lineage import LineageTracker, utc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PARENTS: Final = 2
_REACH: Final = 20
_RECORDED: Final = 100_000


class Job(msgspec.Struct):
    """How many families of how many files, where the file is to be, and how often each is timed."""

    families: int
    files: int
    folder: str
    repetitions: int


def _node(family: int, number: int) -> Node:
    location = f"s3://warehouse/family-{family:04d}/part-{number:06d}.parquet"
    return Node("file", location, hashlib.sha256(location.encode()).hexdigest())


def records(job: Job) -> Iterator[LineageRecord]:
    """Yield the edges, each with nodes of its own, as they come from a file."""
    chance = random.Random(1)  # noqa: S311 - made-up edges, the same each time
    now = utc()
    for number in range(1, job.files + 1):
        for family in range(job.families):
            parents = {number - 1, max(0, number - chance.randrange(2, _REACH))}
            for parent in sorted(parents):
                said = Derivation(
                    source=_node(family, parent), destination=_node(family, number), transformation="normalize",
                    input_records=1000, output_records=950, records_filtered=50, run_id=f"run-{family}-{number}",
                )  # fmt: skip
                yield said.recorded(said.lineage_id(), now)


def main(arguments: Sequence[str]) -> int:
    """Build, save, load and ask, and tell how long that took; seconds."""
    job = msgspec.json.decode(arguments[0], type=Job)
    edges = list(records(job))
    answer: dict[str, Any] = {"edges": len(edges)}
    graph = LineageGraph()
    for _ in range(job.repetitions):
        graph = LineageGraph()
        with timed(answer, "build"):
            graph.add(edges)
            answer["nodes"] = len(graph.nodes)  # numbers and links
    for family in range(job.families):
        last = graph.at(_node(family, job.files).location)
        for _ in range(job.repetitions):
            with timed(answer, "ancestors"):
                found = graph.upstream(last)
                answer["answer_records"] = len([graph.records[number] for number in found.records()])
            answer["answer_nodes"] = len(found.nodes)
    path = Path(job.folder) / "lineage_graph.jsonl"
    with LineageTracker(path, durable=False) as tracker:
        began = time.perf_counter()
        said = [_said(edge) for edge in edges[:_RECORDED]]
        tracker.record_all(said)
        answer["record_all_us"] = (time.perf_counter() - began) / len(said) * 1e6
    single = LineageTracker()
    began = time.perf_counter()
    for edge in edges[:_RECORDED]:
        single.record(
            source_location=edge.source.location, source_hash=edge.source.hash, transformation="normalize",
            destination_location=edge.destination.location, destination_hash=edge.destination.hash,
            input_records=1000, output_records=950, records_filtered=50,
        )  # fmt: skip
    answer["record_us"] = (time.perf_counter() - began) / min(len(edges), _RECORDED) * 1e6
    whole = LineageTracker()
    whole.graph.add(edges)
    whole.save(path)
    for _ in range(job.repetitions):
        loaded = LineageTracker()
        with timed(answer, "load"):
            loaded.load(path)
            loaded.graph.nodes  # noqa: B018 - numbers and links
    answer["bytes"] = path.stat().st_size
    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(answer))
    return 0


@contextlib.contextmanager
def timed(answer: dict[str, Any], name: str) -> Iterator[None]:
    """Add to the answer how long the block took, and how long the processor was busy with it."""
    began, began_cpu = time.perf_counter(), time.process_time()
    yield
    answer.setdefault(name, []).append(time.perf_counter() - began)
    answer.setdefault(f"{name}_cpu", []).append(time.process_time() - began_cpu)


def _said(edge: LineageRecord) -> Derivation:
    return Derivation(**{name: getattr(edge, name) for name in Derivation.__struct_fields__})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
