"""What a traversal means to a person: what has to be made again, and what a graph holds.

Owns: `Impact` and `Summary`, and how they are counted. Leaves to `core.lineage.graph` the traversal.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tidewaiter.core.lineage.records import EdgeKind, Node, NodeKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tidewaiter.core.lineage.graph import LineageGraph

MADE: Final[frozenset[NodeKind]] = frozenset({"file", "table", "flags"})
"""The kinds of nodes that somebody keeps and would have to make again."""


class Impact(Struct, frozen=True):
    """What follows from a change of `start`.

    `affected` are all nodes that anything leads to from there, nearest first; `destinations` those of them that would
    have to be made again. `runs` are the runs that made them, `transformations` how often each was applied. `records`
    counts the edges on the way, `depth` is the number of edges to the farthest node.
    """

    start: list[Node]
    affected: list[Node]
    destinations: list[Node]
    runs: list[str]
    transformations: dict[str, int]
    by_kind: dict[str, int]
    records: int
    depth: int


def impact_of(graph: LineageGraph, start: Iterable[int], edges: Collection[EdgeKind]) -> Impact:
    """Return what follows from a change of these nodes."""
    begin = sorted(set(start))
    reached = graph.downstream(begin, edges)
    numbers = reached.records()
    led_to = {reached.end[number] for number in numbers}
    affected = [graph.nodes[node] for node in reached.nodes if node in led_to]
    records = [graph.records[number] for number in numbers]
    runs = dict.fromkeys(record.run_id for record in records if record.run_id)
    runs.update(dict.fromkeys(node.location for node in affected if node.kind == "run"))
    return Impact(
        start=[graph.nodes[node] for node in begin],
        affected=affected,
        destinations=[node for node in affected if node.kind in MADE],
        runs=list(runs),
        transformations=dict(Counter(record.transformation for record in records if record.transformation)),
        by_kind=dict(Counter(node.kind for node in affected)),
        records=len(records),
        depth=max(reached.distance.values(), default=0),
    )


class Summary(Struct, frozen=True):
    """What a graph holds. `first` and `last` are the times of the oldest and newest record (UTC).

    `sources` are the nodes that data goes out of and nothing is known to have made, `results` those that data goes into
    and nothing is known to read. `unbalanced` counts the records whose input is not output plus filtered: joins
    and aggregates, or records that were lost.
    """

    records: int
    nodes: int
    locations: int
    by_kind: dict[str, int]
    by_edge: dict[str, int]
    transformations: dict[str, int]
    runs: int
    sources: int
    results: int
    balanced: int
    unbalanced: int
    first: dt.datetime | None
    last: dt.datetime | None


def summary_of(graph: LineageGraph) -> Summary:
    """Count everything."""
    records = graph.records
    data = [graph.ends(record) for record in records if record.edge == "data"]
    read, made = {source for source, _ in data}, {destination for _, destination in data}
    known = Counter(record.balanced for record in records)
    return Summary(
        records=len(records),
        nodes=len(graph.nodes),
        locations=len({node.location for node in graph.nodes}),
        by_kind=dict(Counter(node.kind for node in graph.nodes)),
        by_edge=dict(Counter(record.edge for record in records)),
        transformations=dict(Counter(record.transformation for record in records if record.transformation)),
        runs=len({record.run_id for record in records if record.run_id}),
        sources=len(read - made),
        results=len(made - read),
        balanced=known[True],
        unbalanced=known[False],
        first=min((record.timestamp for record in records), default=None),
        last=max((record.timestamp for record in records), default=None),
    )
