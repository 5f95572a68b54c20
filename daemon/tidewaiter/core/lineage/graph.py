"""The graph in memory: numbered nodes and records, and the ways through them.

Owns: the numbering, who made what from what, and traversals in an order that is always the same. Leaves to
`core.lineage.impact` what a traversal means to a person, to `edges.lineage_file` where records come from.

Nodes and records are numbered in the order in which they were first seen. The records into a node, and out of it, are
chains of numbers in arrays: `_into[node]` is the newest record, `_into_older[record]` the one before it, -1 the end;
so a record costs four bytes in each direction. The nodes at a location are such a chain, too. Nothing has a list for
each node: it would make the garbage collector go through all of them in the midst of a question. Adding only takes a
record's id; the first question after it numbers and links what is new, in one go.

Nothing recurses, and every node is visited once: neither depth nor a circle (a file that was updated in place, with the
same hash or by way of others) can trap a question.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from itertools import count, islice, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from msgspec.structs import force_setattr

from tidewaiter.core.lineage.ordering import in_order
from tidewaiter.core.lineage.records import EDGE_KINDS, FOLLOWED, again, whole_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from tidewaiter.core.lineage.records import EdgeKind, LineageRecord, Node

_NONE: Final = -1
_ID: Final = attrgetter("lineage_id")
_EDGE: Final = attrgetter("edge")
_MANY: Final = 4
_NUMBER_OF: Final[dict[str, int]] = {kind: number for number, kind in enumerate(EDGE_KINDS)}


class LineageGraph:
    """Records, found by id and by place, and followed in both directions. Not for several threads at once."""

    def __init__(self) -> None:
        """Start empty."""
        self.records: list[LineageRecord] = []
        self._by_id: dict[str, LineageRecord] = {}
        self._repeated: dict[str, int] = {}
        # what only `_index` changes
        self._nodes: list[Node] = []
        self._node_numbers: defaultdict[Node, int] = defaultdict(count().__next__)
        self._source = array("i")
        self._destination = array("i")
        self._kind = bytearray()
        self._into = array("i")
        self._into_older = array("i")
        self._out_of = array("i")
        self._out_of_older = array("i")
        self._located = 0
        self._at: dict[str, int] = {}
        self._at_node = array("i")
        self._at_older = array("i")

    # -- adding ----------------------------------------------------------------------------------------------------

    def add(self, records: Iterable[LineageRecord]) -> int:
        """Add records in their order and return how many were new: one whose id is known is the same record."""
        new = list(records)
        known = self._by_id
        by_id = dict(zip(map(_ID, new), new, strict=True))
        if len(by_id) != len(new) or not known.keys().isdisjoint(by_id):
            by_id = {}
            for record in new:
                if record.lineage_id not in known:
                    by_id.setdefault(record.lineage_id, record)
            new = list(by_id.values())
        if known:
            known.update(by_id)
        else:  # spares the copy of a whole file's ids
            self._by_id = by_id
        self.records += new
        return len(new)

    def add_read(self, records: Iterable[LineageRecord]) -> int:
        """Add records that nobody else has, as they come from a file; else as `add`.

        Equal nodes become one: of what a file holds of a graph the most is the same few nodes again.
        """
        begin = len(self.records)
        added = self.add(records)
        nodes = self.nodes
        for record, source, destination in zip(
            self.records[begin:], self._source[begin:], self._destination[begin:], strict=True
        ):
            force_setattr(record, "source", nodes[source])
            force_setattr(record, "destination", nodes[destination])
        return added

    def add_one(self, record: LineageRecord) -> None:
        """Add a record with an id that is known to be free."""
        self._by_id[record.lineage_id] = record
        self.records.append(record)

    def _index(self) -> None:
        """Number and link the records that were added since."""
        begin = len(self._source)
        if begin == len(self.records):
            return
        new = self.records[begin:] if begin else self.records
        numbers = self._node_numbers
        sources: list[int] = []
        destinations: list[int] = []
        source, destination = sources.append, destinations.append
        for record in new:  # a defaultdict numbers each node when it is first looked up
            source(numbers[record.source])
            destination(numbers[record.destination])
        fresh = len(numbers) - len(self._nodes)
        self._nodes += [*islice(reversed(numbers), fresh)][::-1]
        self._kind += bytes(map(_NUMBER_OF.__getitem__, map(_EDGE, new)))
        self._source.fromlist(sources)
        self._destination.fromlist(destinations)
        _link(self._into, self._into_older, destinations, fresh)
        _link(self._out_of, self._out_of_older, sources, fresh)

    def free_id(self, lineage_id: str) -> str:
        """Return `lineage_id`, or that of the next repetition where it is taken."""
        if lineage_id not in self._by_id:
            return lineage_id
        number = self._repeated.get(lineage_id, 2)
        while again(lineage_id, number) in self._by_id:
            number += 1
        self._repeated[lineage_id] = number
        return again(lineage_id, number)

    # -- finding ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.records)

    def record(self, lineage_id: str) -> LineageRecord | None:
        """Return the record with this id."""
        return self._by_id.get(lineage_id)

    @property
    def nodes(self) -> list[Node]:
        """Every node, by its number."""
        self._index()
        return self._nodes

    def at(self, location: str, hash_: str | None = None) -> list[int]:
        """Return the nodes at a location, or with this hash there, in their order; parts belong to their file."""
        nodes = self.nodes
        for number, node in enumerate(islice(nodes, self._located, None), self._located):
            own = node.location
            self._locate(own, number)
            if (whole := whole_of(node)) != own:
                self._locate(whole, number)
        self._located = len(nodes)
        there = [self._at_node[entry] for entry in self._chain(self._at.get(location, _NONE), self._at_older)]
        return [number for number in reversed(there) if hash_ is None or nodes[number].hash == hash_]

    def _locate(self, location: str, number: int) -> None:
        self._at_older.append(self._at.get(location, _NONE))
        self._at[location] = len(self._at_node)
        self._at_node.append(number)

    def locations(self) -> Collection[str]:
        """Return every location, each once, in the order in which they were first seen."""
        self.at("")
        return self._at.keys()

    def from_nodes(self, nodes: Iterable[int]) -> list[LineageRecord]:
        """Return the records whose source is one of these nodes, in their order."""
        self._index()
        return self._sorted(number for node in nodes for number in self._chain(self._out_of[node], self._out_of_older))

    def to_nodes(self, nodes: Iterable[int]) -> list[LineageRecord]:
        """Return the records whose destination is one of these nodes, in their order."""
        self._index()
        return self._sorted(number for node in nodes for number in self._chain(self._into[node], self._into_older))

    def ends(self, record: LineageRecord) -> tuple[int, int]:
        """Return the numbers of a record's source and destination."""
        self._index()
        return self._node_numbers[record.source], self._node_numbers[record.destination]

    def numbers(self, records: Iterable[LineageRecord | None]) -> Iterator[int]:
        """Yield the numbers of these records, each found among those with its destination."""
        for record in records:
            if record is not None:
                _, destination = self.ends(record)
                there = self._chain(self._into[destination], self._into_older)
                yield next(number for number in there if self.records[number].lineage_id == record.lineage_id)

    def _sorted(self, numbers: Iterable[int]) -> list[LineageRecord]:
        return [self.records[number] for number in sorted(set(numbers))]

    @staticmethod
    def _chain(newest: int, older: array[int]) -> Iterator[int]:
        while newest >= 0:
            yield newest
            newest = older[newest]

    # -- following -------------------------------------------------------------------------------------------------

    def upstream(self, start: Iterable[int], edges: Collection[EdgeKind] = FOLLOWED) -> Reached:
        """Follow the edges of these kinds backwards, from the nodes of `start` to all they were made from."""
        return self._follow(start, edges, self._into, self._into_older, self._source)

    def downstream(self, start: Iterable[int], edges: Collection[EdgeKind] = FOLLOWED) -> Reached:
        """Follow the edges of these kinds forwards, from the nodes of `start` to all that was made from them."""
        return self._follow(start, edges, self._out_of, self._out_of_older, self._destination)

    def path(self, start: Iterable[int], goal: Iterable[int], edges: Collection[EdgeKind] = FOLLOWED) -> list[int]:
        """Return the records of a shortest way forwards from `start` to `goal`, none where there is none.

        Of several, the one that leaves each node by the oldest record. The way from a node to itself is empty.
        """
        self._index()
        goals = set(goal)
        allowed = self._allowed(edges)
        came: dict[int, int] = dict.fromkeys(start, _NONE)
        nodes = list(came)
        for node in nodes:
            if node in goals:
                return self._back(node, came)
            for number in reversed(list(self._chain(self._out_of[node], self._out_of_older))):
                other = self._destination[number]
                if allowed[self._kind[number]] and other not in came:
                    came[other] = number
                    nodes.append(other)
        return []

    def _back(self, node: int, came: dict[int, int]) -> list[int]:
        way = []
        while (number := came[node]) >= 0:
            way.append(number)
            node = self._source[number]
        return way[::-1]

    @staticmethod
    def _allowed(edges: Collection[EdgeKind]) -> list[bool]:
        return [kind in edges for kind in EDGE_KINDS]

    def _follow(
        self, start: Iterable[int], edges: Collection[EdgeKind], newest: array[int], older: array[int], end: array[int]
    ) -> Reached:
        """Visit all that can be reached, nearest first, with the records on the way."""
        self._index()
        allowed = self._allowed(edges)
        kinds = self._kind
        level = sorted(set(start))
        seen = set(level)
        nodes: list[int] = []
        levels: list[int] = []
        found = [_NONE]  # so that a slice can go backwards to its beginning
        ends: list[int] = []
        begin = [0]
        loops: list[int] = []
        while level:
            nodes += level
            levels.append(len(nodes))
            farther = []
            for node in level:
                number = newest[node]
                while number >= 0:
                    if allowed[kinds[number]]:
                        found.append(number)
                        other = end[number]
                        ends.append(other)
                        if other not in seen:
                            seen.add(other)
                            farther.append(other)
                        elif other == node:
                            loops.append(len(begin) - 1)
                    number = older[number]
                begin.append(len(ends))
            farther.sort()
            level = farther
        rank = dict(zip(nodes, count(), strict=False))
        order = in_order(begin, [rank[other] for other in ends], loops)
        return Reached(rank, levels, order, begin, found, end)


def _link(newest: array[int], older: array[int], ends: list[int], fresh: int) -> None:
    """Link new records, that end at these nodes, to the chains of all nodes, of which so many are new ones."""
    newest.extend(array("i", [_NONE]) * fresh)
    many = len(ends) * _MANY > len(newest)  # a list is quicker than an array, but all of it has to be copied
    begin: list[int] | array[int] = newest.tolist() if many else newest
    links: list[int] = []
    link = links.append
    for number, node in enumerate(ends, len(older)):
        link(begin[node])
        begin[node] = number
    older.fromlist(links)
    if many:
        newest[:] = array("i", begin)


class Reached:
    """What a traversal found: `nodes` in their order, the start first, and the records by the node they were found at.

    A node comes behind all through which it was reached, except within a circle; of what is left open, the nearest
    and then the oldest is first. `end[record]` is where a record leads to.

    Few objects hold all of it: a list for each node would make a large answer wait for the garbage collector.
    """

    def __init__(
        self, rank: dict[int, int], levels: list[int], order: list[int], begin: list[int], found: list[int],
        end: array[int],
    ) -> None:  # fmt: skip
        """`rank` has the nearest first, ``levels[n]`` of them no farther than `n` edges; `order` has their ranks.

        The records on the way on from the node of rank `n` are ``found[begin[n + 1] : begin[n] : -1]``.
        """
        nearest = list(rank)
        self.nodes = [nearest[n] for n in order]
        self.end = end
        self._rank = rank
        self._levels = levels
        self._order = order
        self._begin = begin
        self._found = found

    @property
    def distance(self) -> dict[int, int]:
        """How many edges away each node is, by the shortest way, the nearest first."""
        distance: dict[int, int] = {}
        nearest = iter(self._rank)
        for edges, (first, last) in enumerate(pairwise([0, *self._levels])):
            distance.update(dict.fromkeys(islice(nearest, last - first), edges))
        return distance

    def steps(self, node: int) -> list[int]:
        """Return the records that lead on from a node, oldest first."""
        rank = self._rank[node]
        return self._found[self._begin[rank + 1] : self._begin[rank] : -1]

    def records(self) -> list[int]:
        """Return the records on the way, nearest first: each behind all through which it was reached."""
        begin, found = self._begin, self._found
        numbers: list[int] = []
        for rank in self._order:
            numbers += found[begin[rank + 1] : begin[rank] : -1]
        return numbers
