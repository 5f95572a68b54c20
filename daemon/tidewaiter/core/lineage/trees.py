"""What a traversal found as a tree of lines, for a terminal.

Owns: the lines. Leaves to `core.lineage.graph` what is found, to `shell.commands` how wide a terminal is.

A graph is no tree: what stands under a node is shown where it is reached first, elsewhere ``…`` refers to it. So the
number of lines is the number of edges, and a circle ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidewaiter.core.lineage.pictures import counts_of
from tidewaiter.core.lineage.records import EDGE_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.core.lineage.graph import LineageGraph, Reached
    from tidewaiter.core.lineage.records import LineageRecord, Node

_SHOWN: Final = {"data": "", "config": "config", "state": "state"}


def tree_lines(graph: LineageGraph, reached: Reached, depth: int | None = None) -> Iterator[str]:
    """Yield a line for each node at which the traversal began, and below it for each record, to `depth` edges deep."""
    shown: set[int] = set()
    led_to = {reached.end[number] for number in reached.records()}
    starts = [node for node, distance in reached.distance.items() if distance == 0]
    tops = [node for node in starts if node not in led_to]
    for start in [*tops, *(node for node in starts if node in led_to)]:  # those in a circle come last
        if start in shown:
            continue
        yield name_of(graph.nodes[start])
        yield from _below(graph, reached, start, shown, depth)


def _below(graph: LineageGraph, reached: Reached, start: int, shown: set[int], depth: int | None) -> Iterator[str]:
    def records_at(node: int) -> list[int]:  # what it is made of before what governed that
        return sorted(reached.steps(node), key=lambda number: EDGE_KINDS.index(graph.records[number].edge))

    shown.add(start)
    way = [iter(records_at(start))]
    left = [len(reached.steps(start))]
    if depth == 0 and left[0]:
        yield f"└─ … {left[0]:,} more"
        return
    while way:
        number = next(way[-1], None)
        if number is None:
            way.pop()
            left.pop()
            continue
        left[-1] -= 1
        lead = "".join("│  " if more else "   " for more in left[:-1])
        node = reached.end[number]
        below = reached.steps(node)
        again = node in shown
        refers = "  … above" if again and below else ""
        yield f"{lead}{'├─' if left[-1] else '└─'} {name_of(graph.nodes[node])}{by(graph.records[number])}{refers}"
        if again or not below:
            shown.add(node)
            continue
        if depth is not None and len(way) >= depth:
            yield f"{lead}{'│  ' if left[-1] else '   '}└─ … {len(below):,} more"
            continue
        shown.add(node)
        way.append(iter(records_at(node)))
        left.append(len(below))


def name_of(node: Node) -> str:
    """Return a node the way a person names it, with its kind unless that is a file."""
    return str(node) if node.kind == "file" else f"{node.kind} {node}"


def by(record: LineageRecord) -> str:
    """Return what was done on the way, in brackets; nothing where nothing is known."""
    said = [_SHOWN[record.edge], record.transformation, counts_of(record)]
    words = " · ".join(word for word in said if word)
    return f"  [{words}]" if words else ""
