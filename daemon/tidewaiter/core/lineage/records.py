"""What lineage is made of: nodes with an identity, and records that say which node was made from which.

Owns: the kinds of nodes and edges, how a place within a file is written, what a record may say, and its id. Leaves to
`core.lineage.graph` what follows from many of them, to `edges.lineage_file` the file.

Invariants: a node is its kind, location and hash. A file with another hash is another node, a version; nothing
is guessed about a hash that is not known (an empty text), so it is a version of its own. The id of a record is taken
from what it says and not from when: the first 20 hexadecimal digits of the SHA-256 of its members.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct

NodeKind = Literal[
    "file", "table", "slice", "flags", "run", "transform", "contract", "pipeline", "ruleset", "audit"
]  # fmt: skip
EdgeKind = Literal["data", "config", "state"]
NODE_KINDS: Final[tuple[NodeKind, ...]] = get_args(NodeKind)
EDGE_KINDS: Final[tuple[EdgeKind, ...]] = get_args(EdgeKind)
FOLLOWED: Final[frozenset[EdgeKind]] = frozenset({"data", "config"})
"""The edges that a question follows unless it says otherwise."""
_ID_DIGITS: Final = 20
_SHOWN_HASH: Final = 12


class Node(Struct, frozen=True, array_like=True, gc=False):
    """Something that lineage knows: what kind of thing, where it is, and which version of it.

    A `file`, a `table` of a database, a `slice` of a stream's segment, a slice of `flags`, a `run`, a `transform` of a
    run, a `contract`, a `pipeline` file, a `ruleset`, or a position in an `audit` log.
    """

    kind: NodeKind
    location: str
    hash: str = ""

    def __str__(self) -> str:
        """Return the way a person names it: the location, and ``@`` with the beginning of the hash."""
        return f"{self.location}@{self.hash[:_SHOWN_HASH]}" if self.hash else self.location


class LineageRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One edge of the graph: `destination` was made from `source`, or under it (config), or goes on from it (state).

    `timestamp` is when it was recorded (UTC), and no part of the id. Counts are of records; None is not known.
    """

    lineage_id: str
    timestamp: Annotated[dt.datetime, Meta(tz=True)]
    source: Node
    destination: Node
    edge: EdgeKind = "data"
    transformation: str = ""
    input_records: Annotated[int, Meta(ge=0)] | None = None
    output_records: Annotated[int, Meta(ge=0)] | None = None
    records_filtered: Annotated[int, Meta(ge=0)] | None = None
    run_id: str = ""
    contract: str = ""
    metadata: dict[str, Any] = {}

    @property
    def source_type(self) -> str:
        """The kind of the source."""
        return self.source.kind

    @property
    def source_location(self) -> str:
        """Where the source is."""
        return self.source.location

    @property
    def source_hash(self) -> str:
        """The source's version; empty where it is not known."""
        return self.source.hash

    @property
    def destination_type(self) -> str:
        """The kind of the destination."""
        return self.destination.kind

    @property
    def destination_location(self) -> str:
        """Where the destination is."""
        return self.destination.location

    @property
    def destination_hash(self) -> str:
        """The destination's version; empty where it is not known."""
        return self.destination.hash

    @property
    def balanced(self) -> bool | None:
        """Whether what came in is what went out and what was filtered; None where one of the three is not known.

        A join or an aggregate makes another number of records than it reads, so this is a fact, not a fault.
        """
        if self.input_records is None or self.output_records is None or self.records_filtered is None:
            return None
        return self.input_records == self.output_records + self.records_filtered


class Derivation(Struct, frozen=True, kw_only=True, gc=False):
    """What somebody has to say about one edge; a record without its id and its time."""

    source: Node
    destination: Node
    edge: EdgeKind = "data"
    transformation: str = ""
    input_records: int | None = None
    output_records: int | None = None
    records_filtered: int | None = None
    run_id: str = ""
    contract: str = ""
    metadata: dict[str, Any] = {}

    def lineage_id(self) -> str:
        """Return the id that these members have."""
        said = (
            self.source, self.destination, self.edge, self.transformation, self.input_records, self.output_records,
            self.records_filtered, self.run_id, self.contract, self.metadata,
        )  # fmt: skip
        return hashlib.sha256(_members.encode(said)).hexdigest()[:_ID_DIGITS]

    def recorded(self, lineage_id: str, timestamp: dt.datetime) -> LineageRecord:
        """Return it as a record."""
        return LineageRecord(
            lineage_id=lineage_id, timestamp=timestamp, source=self.source, destination=self.destination,
            edge=self.edge, transformation=self.transformation, input_records=self.input_records,
            output_records=self.output_records, records_filtered=self.records_filtered, run_id=self.run_id,
            contract=self.contract, metadata=self.metadata,
        )  # fmt: skip


_members: Final = msgspec.json.Encoder(order="deterministic")


def again(lineage_id: str, number: int) -> str:
    """Return the id of a record that says what others said before; `number` counts from 2."""
    return f"{lineage_id}-{number}"


# -- places within a file ----------------------------------------------------------------------------------------------


def part_of(location: str, first: int, last: int) -> str:
    """Return the location of the bytes [first, last) of a file or segment."""
    return f"{location}[{first}:{last}]"


def entry_of(location: str, index: int) -> str:
    """Return the location of one entry of an audit log."""
    return f"{location}[{index}]"


def whole_of(node: Node) -> str:
    """Return the location of the file that a node is a part of; its own location where it is none."""
    if node.kind in {"slice", "flags", "audit"} and node.location.endswith("]"):
        return node.location.rpartition("[")[0] or node.location
    return node.location
