"""What a person names in a graph: a location, one version of it, a run, or a record.

Owns: how such a name is understood, and what is said about one that means nothing. Leaves to `core.lineage.graph` the
nodes.

A name is tried as a record's id, as a location, as ``location@hash`` with the beginning of a hash, as a run's id, and
as the beginning of one that only one run has, in this order.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.lineage.records import LineageRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tidewaiter.core.lineage.graph import LineageGraph

_SHORTEST_HASH: Final = 4
_SHORTEST_RUN: Final = 6
_NEAREST: Final = 3
_COMPARED: Final = 3_000
"""Of more locations than these, only the newest are compared; those that end with the name are always found."""


class Found(Struct, frozen=True):
    """What a name stands for: the nodes from which one goes up, and down.

    Of a `record` these are its source and its destination; of anything else they are the same.
    """

    up: tuple[int, ...]
    down: tuple[int, ...]
    record: LineageRecord | None = None


def find(graph: LineageGraph, names: Sequence[str]) -> Found:
    """Return what is named; `names` are ways to write the same thing, of which the first that means something counts.

    Raises ConfigError, naming the nearest locations, or the runs whose ids begin so.
    """
    for name in names:
        if (record := graph.record(name)) is not None:
            source, destination = graph.ends(record)
            return Found((source,), (destination,), record)
        if nodes := graph.at(name):
            return _both(nodes)
    for name in names:
        location, at, start = name.rpartition("@")
        if at and len(start) >= _SHORTEST_HASH:
            nodes = [node for node in graph.at(location) if graph.nodes[node].hash.startswith(start)]
            if nodes:
                return _both(nodes)
    of_run = [graph.ends(record)[1] for record in graph.records if record.run_id == names[0]]
    if of_run:
        return _both(dict.fromkeys(of_run))
    if len(names[0]) >= _SHORTEST_RUN and (runs := _runs(graph, names[0])):
        if len(runs) > 1:
            said = f"{', '.join(runs[-_NEAREST:])}{', and others' if len(runs) > _NEAREST else ''}"
            raise ConfigError(f"{names[0]}: {len(runs):,} runs begin so", hint=f"give more of the id: {said}")
        return find(graph, runs)
    raise ConfigError(f"{names[0]}: no record names this", hint=_hint(graph, names))


def _runs(graph: LineageGraph, start: str) -> list[str]:
    """Return the runs whose ids begin so, in the order in which they were first seen."""
    recorded = (record.run_id for record in graph.records)
    known = (node.location for node in graph.nodes if node.kind == "run")
    return list(dict.fromkeys(name for name in (*recorded, *known) if name.startswith(start)))


def _both(nodes: Iterable[int]) -> Found:
    both = tuple(nodes)
    return Found(both, both)


def _hint(graph: LineageGraph, names: Sequence[str]) -> str:
    for name in names:
        location, at, _ = name.rpartition("@")
        if at and (nodes := graph.at(location)):
            versions = ", ".join(graph.nodes[node].hash[:12] or "(unknown)" for node in nodes[-_NEAREST:])
            return f"{location} is known with the hashes {versions}{', and others' if len(nodes) > _NEAREST else ''}"
    location, at, _ = names[0].rpartition("@")
    near = nearest_locations(graph, location if at else names[0])
    if not near:
        return "name a location, location@hash, a run or a record's id; tidewaiter lineage summary says what there is"
    return f"did you mean {' or '.join(near)}?"


def nearest_locations(graph: LineageGraph, name: str) -> list[str]:
    """Return the few locations that are most like `name`: those that end with it, then those that read alike."""
    locations: Iterable[str] = graph.locations()
    last = name.rpartition("/")[2]
    ending = [place for place in locations if place.endswith("/" + last)]
    compared = list(locations)[-_COMPARED:]
    alike = difflib.get_close_matches(name, compared, _NEAREST, 0.6)
    by_last = {place.rpartition("/")[2]: place for place in compared}
    alike += [by_last[part] for part in difflib.get_close_matches(last, list(by_last), _NEAREST, 0.7)]
    return list(dict.fromkeys([*ending[-_NEAREST:], *alike]))[:_NEAREST]
