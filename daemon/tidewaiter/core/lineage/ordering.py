"""The order of what a traversal found: each node behind those that lead to it, whatever circles there are.

Owns: sorting, and finding circles (Tarjan's algorithm, without recursion, so that no depth is too great). Leaves to
`core.lineage.graph` what leads where.

A circle's nodes stand together, nearest first, where the whole of it may stand. Of nodes that may come next, the
nearest comes first, and of equally near ones that with the lowest number: the order depends on the graph alone.

Nodes are named here by their ranks in that preference, 0 first. Those that rank `i` leads to are
``to[begin[i]:begin[i + 1]]``, itself perhaps: two flat lists, of which a large answer leaves the garbage collector no
more to go through than a small one.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def in_order(begin: Sequence[int], to: Sequence[int], loops: Sequence[int]) -> list[int]:
    """Return the ranks in their order; `loops` names a rank for each time that it leads to itself."""
    waiting = _counted(to, len(begin) - 1)
    for rank in loops:
        waiting[rank] -= 1
    order = _sort(begin, to, waiting, {})
    if len(order) == len(waiting):
        return order
    # what still waits is in a circle or behind one; each circle is made one node, named after its nearest
    members = {}
    name = list(range(len(waiting)))
    for circle in circles(begin, to, [rank for rank, count in enumerate(waiting) if count > 0]):
        circle.sort()
        members[circle[0]] = circle
        for rank in circle:
            name[rank] = circle[0]
    for rank in loops:
        if name[rank] == rank:
            members.setdefault(rank, [rank])
    to = [name[other] for other in to]
    waiting = _counted(to, len(waiting))
    for first, circle in members.items():
        for rank in circle:
            waiting[first] -= to[begin[rank] : begin[rank + 1]].count(first)
        for rank in circle[1:]:
            waiting[rank] = 1  # for nobody: it comes with the first
    return _sort(begin, to, waiting, members)


def _counted(to: Sequence[int], size: int) -> list[int]:
    """Return how often each rank is led to."""
    counts = [0] * size
    for other in to:
        counts[other] += 1
    return counts


def _sort(
    begin: Sequence[int], to: Sequence[int], waiting: list[int], members: Mapping[int, Sequence[int]]
) -> list[int]:
    """Return the ranks that wait for no circle, in their order; the others are still above 0 in `waiting` then.

    `waiting` counts how often a rank is led to by others; `members` has all that come with a rank.
    """
    ready = [rank for rank, count in enumerate(waiting) if not count]  # in order, so a heap
    order: list[int] = []
    while ready:
        rank = heapq.heappop(ready)
        if rank in members:
            order += members[rank]
            leads: Sequence[int] = [other for one in members[rank] for other in to[begin[one] : begin[one + 1]]]
        else:
            order.append(rank)
            leads = to[begin[rank] : begin[rank + 1]]
        for other in leads:
            waiting[other] = count = waiting[other] - 1
            if not count:  # below 0 is the rank itself
                heapq.heappush(ready, other)
    return order


def circles(begin: Sequence[int], to: Sequence[int], among: Iterable[int]) -> list[list[int]]:
    """Return the circles: ranks, two or more, that can all be reached from each other, as many as there are.

    `among` has all that its ranks lead to.
    """
    found: list[list[int]] = []
    size = len(begin) - 1
    place = [0] * size  # when a rank was met, from 1; behind all others once its circle is known
    low = [0] * size  # the first place that it leads back to
    following = list(begin)
    met = 0
    open_ranks: list[int] = []
    for root in among:
        way = [] if place[root] else [root]
        while way:
            rank = way[-1]
            if not place[rank]:
                met += 1
                place[rank] = low[rank] = met
                open_ranks.append(rank)
            lowest = low[rank]
            for at in range(following[rank], begin[rank + 1]):
                there = place[to[at]]
                if not there:
                    following[rank] = at + 1
                    low[rank] = lowest
                    way.append(to[at])
                    break
                if there < lowest:  # noqa: PLR1730 - min() takes several times as long
                    lowest = there
            else:
                way.pop()
                if lowest < place[rank]:
                    low[way[-1]] = min(low[way[-1]], lowest)
                    continue
                group = [open_ranks.pop()]
                while group[-1] != rank:
                    group.append(open_ranks.pop())
                for one in group:
                    place[one] = size + 1
                if len(group) > 1:
                    found.append(group)
    return found
