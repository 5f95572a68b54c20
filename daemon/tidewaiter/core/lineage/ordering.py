"""The order of what a traversal found: each node behind those that lead to it, whatever circles there are.

Owns: sorting, and finding circles (Tarjan's algorithm, without recursion, so that no depth is too great). Leaves to
`core.lineage.graph` what leads where.

A circle's nodes stand together, nearest first, where the whole of it may stand. Of nodes that may come next, the
nearest comes first, and of equally near ones that with the lowest number: the order depends on the graph alone.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def in_order(
    distance: Mapping[int, int], steps: Mapping[int, Sequence[int]], end: Sequence[int], waiting: dict[int, int]
) -> list[int]:
    """Return the nodes in their order.

    `steps` has for each of them the records that lead on from it, `end[record]` is where to, itself perhaps;
    `waiting`, which is used up, has how many lead to each of them from others.
    """
    order = _sort(distance, steps, end, waiting)
    if len(order) == len(waiting):
        return order
    # what still waits is in a circle or behind one; each circle is made one node, named after its nearest
    left = {node: [end[number] for number in steps[node]] for node, count in waiting.items() if count > 0}
    name = {node: node for node in distance}
    members = {}
    for group in components(left):
        if len(group) > 1:
            group.sort(key=lambda node: (distance[node], node))
            members[group[0]] = group
            name.update(dict.fromkeys(group, group[0]))
    joined: dict[int, list[int]] = {node: [] for node in name.values()}
    for node, numbers in steps.items():
        joined[name[node]] += numbers
    ends = {number: name[end[number]] for numbers in steps.values() for number in numbers}
    waiting = dict.fromkeys(joined, 0)
    for node, numbers in joined.items():
        for number in numbers:
            waiting[ends[number]] += ends[number] != node
    order = _sort(distance, joined, ends, waiting)
    return [node for one in order for node in members.get(one, (one,))]


def _sort(
    distance: Mapping[int, int],
    steps: Mapping[int, Sequence[int]],
    end: Sequence[int] | Mapping[int, int],
    waiting: dict[int, int],
) -> list[int]:
    """Return the nodes that wait for no circle, in their order; the others are still above 0 in `waiting` then."""
    # one number for distance and node compares faster than two
    ready = [distance[node] << 32 | node for node, count in waiting.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        node = heapq.heappop(ready) & 0xFFFFFFFF
        order.append(node)
        for number in steps[node]:
            other = end[number]
            waiting[other] = count = waiting[other] - 1
            if not count:  # below 0 is the node itself
                heapq.heappush(ready, distance[other] << 32 | other)
    return order


def components(leads: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Return the strongly connected components: the nodes that can all be reached from each other.

    `leads` has every node, and for each the nodes of `leads` that it leads to.
    """
    found: list[list[int]] = []
    index: dict[int, int] = {}
    low: dict[int, int] = {}  # without what has its component already
    open_nodes: list[int] = []
    for root in leads:
        if root in index:
            continue
        way = [(root, iter(leads[root]))]
        index[root] = low[root] = len(index)
        open_nodes.append(root)
        while way:
            node, others = way[-1]
            for other in others:
                if other not in index:
                    index[other] = low[other] = len(index)
                    open_nodes.append(other)
                    way.append((other, iter(leads[other])))
                    break
                if other in low and index[other] < low[node]:
                    low[node] = index[other]
            else:
                way.pop()
                if low[node] < index[node]:
                    above = way[-1][0]
                    low[above] = min(low[above], low[node])
                    continue
                group = [open_nodes.pop()]
                while group[-1] != node:
                    group.append(open_nodes.pop())
                for one in group:
                    del low[one]
                found.append(group)
    return found
