"""The lineage of data for Python programs: what was made from what, recorded and asked, in memory or in a file.

Owns: what may be recorded and how it is checked, when the file is read, and one thread at a time. Leaves to
`core.lineage` the graph and its answers, to `edges.lineage_file` the file, to `shell.lineage_export` the formats, and
to `shell.lineage_recording` what a run of tidewaiter has to say.

    lineage = LineageTracker("lineage_graph.jsonl")
    record = lineage.record(source_location="input.csv", source_hash="abc...", transformation="normalize",
                            destination_location="output.csv", destination_hash="def...", input_records=1000)
    ancestors = lineage.get_ancestors(record.lineage_id)
"""

from __future__ import annotations

import datetime as dt
import operator
import os
import threading
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, overload

from tidewaiter.core.lineage.graph import LineageGraph
from tidewaiter.core.lineage.impact import impact_of, summary_of
from tidewaiter.core.lineage.pictures import picture_of
from tidewaiter.core.lineage.records import EDGE_KINDS, FOLLOWED, NODE_KINDS, Derivation, Node
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.lineage_file import LineageFile, Reading, lines_of, replace_with
from tidewaiter.shell.json_values import plain, text
from tidewaiter.shell.lineage_export import exported

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from types import TracebackType

    from tidewaiter.core.lineage.impact import Impact, Summary
    from tidewaiter.core.lineage.pictures import PictureFormat
    from tidewaiter.core.lineage.records import EdgeKind, LineageRecord, NodeKind
    from tidewaiter.shell.lineage_export import ExportFormat

DEFAULT_NAME: Final = "lineage_graph.jsonl"
"""The name of a lineage file where nobody gave it one: in a state directory, or in the current directory."""
_PART: Final = 10_000
_KINDS: Final = frozenset(NODE_KINDS)


def utc() -> dt.datetime:
    """Return the time now."""
    return dt.datetime.now(dt.UTC)


class LineageTracker:
    """Records what was made from what, and answers questions about it. For all threads of one process.

    A node is a kind, a location and a hash; two hashes at one location are two versions of it. Questions follow the
    edges of the kinds in `edges`, data and config unless they say otherwise. Records come nearest first, each behind
    all through which it was reached; of what that leaves open, the oldest first.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        durable: bool = True,
        wait_s: float = 0.0,
        clock: Callable[[], dt.datetime] = utc,
        disk: Disk | None = None,
    ) -> None:
        """Keep everything in memory, or open the file `path`, or make it, and append to it; it is read when needed.

        `durable`: what was recorded is on the disk when the call returns; without, after `save()` or `close()`. Where
        another writer has the file, wait up to `wait_s` seconds. Opening looks at the first line and the last ones; a
        line between them that is no record is refused when it is read. `clock` and `disk` are replaced in tests only.
        Raises ConfigError (another writer, no permission, no lineage file), IntegrityRefusal and DurabilityError.
        """
        self.path = None if path is None else Path(path).absolute()
        self._clock = clock
        self._disk = disk or Disk()
        self._thread = threading.RLock()
        self._graph: LineageGraph | None = LineageGraph() if self.path is None else None
        self._file: LineageFile | None = None
        if self.path is not None:
            self._file = LineageFile(self.path, self._disk, durable=durable, wait_s=wait_s)

    @property
    def notices(self) -> list[str]:
        """What an interrupted write had left in the file, and where it was moved to; nothing as a rule."""
        return [] if self._file is None else list(self._file.notices)

    @property
    def graph(self) -> LineageGraph:
        """The graph; reads the file where that was not done yet. Raises ConfigError and IntegrityRefusal."""
        with self._thread:
            if self._graph is None:
                graph = LineageGraph()
                if self.path is not None:
                    for records in Reading(self.path):
                        graph.add_read(records)
                self._graph = graph
            return self._graph

    def __len__(self) -> int:
        return len(self.graph)

    # -- recording -------------------------------------------------------------------------------------------------

    def record(  # noqa: PLR0913 - one parameter for each member of a record
        self,
        *,
        source_location: str | os.PathLike[str],
        destination_location: str | os.PathLike[str],
        source_type: NodeKind = "file",
        source_hash: str | None = None,
        destination_type: NodeKind = "file",
        destination_hash: str | None = None,
        transformation: str = "",
        edge: EdgeKind = "data",
        input_records: int | None = None,
        output_records: int | None = None,
        records_filtered: int | None = None,
        run_id: str = "",
        contract: str = "",
        metadata: Mapping[str, object] | None = None,
    ) -> LineageRecord:
        """Record that one thing was made from another, and return the record.

        Its id depends on what was said and not on when; what is said again gets the same id with ``-2``, ``-3`` behind.
        Counts that do not add up are recorded as they are, see `LineageRecord.balanced`. Raises TypeError and
        ValueError for what cannot be recorded, ConfigError in a forked process, IntegrityRefusal where somebody else
        wrote to the file, and DurabilityError; nothing is recorded then.
        """
        if edge not in EDGE_KINDS:
            raise ValueError(f"edge: {edge!r} is unknown: allowed are {', '.join(EDGE_KINDS)}")
        said = Derivation(
            source=_node(source_type, source_location, source_hash, "source"),
            destination=_node(destination_type, destination_location, destination_hash, "destination"),
            edge=edge,
            transformation=_text(transformation, "transformation"),
            input_records=_count(input_records, "input_records"),
            output_records=_count(output_records, "output_records"),
            records_filtered=_count(records_filtered, "records_filtered"),
            run_id=_text(run_id, "run_id"),
            contract=_text(contract, "contract"),
            metadata={} if metadata is None else _metadata(metadata),
        )
        content = said.lineage_id()
        with self._thread:
            graph = self.graph if self._graph is None else self._graph
            record = said.recorded(graph.free_id(content), self._clock())
            if self.path is not None:
                self._append([record])
            graph.add_one(record)
        return record

    def record_all(self, said: Iterable[Derivation]) -> list[LineageRecord]:
        """Record many edges, in one write, and return their records; what is known already is not recorded again.

        It does not read the file, whose later reader takes the first of two equal records. Raises as `record` does.
        """
        with self._thread:
            now = self._clock()
            wanted = {(lineage_id := each.lineage_id()): each.recorded(lineage_id, now) for each in said}
            graph = self._graph
            known = {} if graph is None else {name: found for name in wanted if (found := graph.record(name))}
            new = [record for name, record in wanted.items() if name not in known]
            if self.path is not None and new:
                self._append(new)
            if graph is not None:
                graph.add(new)
        return [known.get(name, record) for name, record in wanted.items()]

    def _append(self, records: list[LineageRecord]) -> None:
        if self._file is None:
            raise ValueError(f"{self.path}: the lineage file is closed")
        self._file.append(lines_of(records))

    # -- asking ----------------------------------------------------------------------------------------------------

    def get_lineage(self, lineage_id: str) -> LineageRecord | None:
        """Return the record with this id; None where there is none."""
        return self.graph.record(lineage_id)

    def get_by_source(
        self,
        location: str | os.PathLike[str],
        hash: str | None = None,  # noqa: A002 - the name of the member
    ) -> list[LineageRecord]:
        """Return the records whose source is at a location, or with this hash there, in the order of recording.

        What is part of a file (a slice, an entry of an audit log) is found at the file's location, too.
        """
        with self._thread:
            return self.graph.from_nodes(self.graph.at(os.fspath(location), hash))

    def get_by_destination(
        self,
        location: str | os.PathLike[str],
        hash: str | None = None,  # noqa: A002 - the name of the member
    ) -> list[LineageRecord]:
        """Return the records whose destination is at a location, or with this hash there; else as `get_by_source`."""
        with self._thread:
            return self.graph.to_nodes(self.graph.at(os.fspath(location), hash))

    def get_ancestors(self, lineage_id: str, edges: Collection[EdgeKind] = FOLLOWED) -> list[LineageRecord]:
        """Return the records that the source of this one came from, theirs, and so on; never the record itself.

        Raises ValueError for an unknown id.
        """
        with self._thread:
            record = self._known(lineage_id)
            source, _ = self.graph.ends(record)
            return self._others(self.graph.upstream([source], _kinds(edges)).records(), record)

    def get_descendants(self, lineage_id: str, edges: Collection[EdgeKind] = FOLLOWED) -> list[LineageRecord]:
        """Return the records that came from the destination of this one, theirs, and so on; else as `get_ancestors`."""
        with self._thread:
            record = self._known(lineage_id)
            _, destination = self.graph.ends(record)
            return self._others(self.graph.downstream([destination], _kinds(edges)).records(), record)

    def impact_analysis(
        self,
        what: str | os.PathLike[str],
        hash: str | None = None,  # noqa: A002 - the name of the member
        edges: Collection[EdgeKind] = FOLLOWED,
    ) -> Impact:
        """Return what would have to be made again if `what` changed: a location, every version of it, or a record.

        Of a record, named by its id, it is what follows from its destination. Raises ValueError where nothing is known
        of `what`.
        """
        name = os.fspath(what)
        with self._thread:
            record = self.graph.record(name)
            start = self.graph.at(name, hash) if record is None else [self.graph.ends(record)[1]]
            if not start:
                raise ValueError(
                    f"{name}: no record has this id or names this location{' with this hash' * bool(hash)}"
                )
            return impact_of(self.graph, start, _kinds(edges))

    def summary(self) -> Summary:
        """Count what there is."""
        with self._thread:
            return summary_of(self.graph)

    def _known(self, lineage_id: str) -> LineageRecord:
        record = self.graph.record(lineage_id)
        if record is None:
            raise ValueError(f"{lineage_id}: no record has this id")
        return record

    def _others(self, numbers: Iterable[int], record: LineageRecord) -> list[LineageRecord]:
        records = self.graph.records
        return [found for number in numbers if (found := records[number]) is not record]

    # -- giving out ------------------------------------------------------------------------------------------------

    @overload
    def export(self, path: None = None, format: ExportFormat = "json") -> str: ...
    @overload
    def export(self, path: str | os.PathLike[str], format: ExportFormat = "json") -> None: ...
    def export(
        self,
        path: str | os.PathLike[str] | None = None,
        format: ExportFormat = "json",  # noqa: A002 - the field's word
    ) -> str | None:
        """Return all records as a text: a JSON array, JSON lines, or a table (csv); with `path`, write it there.

        The file appears as a whole or not at all. Raises ValueError for an unknown format, and DurabilityError.
        """
        with self._thread:
            parts = exported(self.graph.records, format)
            if path is None:
                return b"".join(parts).decode()
            self._disk.replace_parts(Path(path), parts)
            return None

    def export_graph(self, format: PictureFormat = "dot") -> str:  # noqa: A002 - the field's word
        """Return the graph for a program that draws: dot (Graphviz), mermaid, json or graphml.

        Raises ValueError for an unknown format.
        """
        with self._thread:
            return picture_of(self.graph, format)

    # -- the file --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str] | None = None) -> None:
        """Make durable what was recorded; with `path`, write all of it to that lineage file, which it replaces.

        Raises ValueError where there is no file, ConfigError (`path` is something else, or is being written) and
        DurabilityError.
        """
        with self._thread:
            if path is not None and Path(path).absolute() != self.path:
                replace_with(Path(path).absolute(), self._disk, self._parts())
            elif self._file is not None:
                self._file.sync()
            else:
                raise ValueError("this lineage is in memory: name the file to save it in")

    def load(self, path: str | os.PathLike[str]) -> int:
        """Add the records of another lineage file, and return how many were new; ids that are known are the same.

        A method of a tracker, not of the class: ``LineageTracker(path)`` is what opens a file, and reads it when asked;
        ``LineageTracker().load(path)`` reads one into memory that somebody else may be writing.

        It takes no lock, so somebody may be writing the file: a last line without its end is left out. Raises
        ConfigError (unreadable, no lineage file) and IntegrityRefusal (a line is no record).
        """
        with self._thread:
            graph = self.graph
            before = len(graph)
            for records in Reading(Path(path).absolute()):
                if self.path is not None:
                    new = [record for record in records if graph.record(record.lineage_id) is None]
                    self._append(new)
                graph.add_read(records)
            return len(graph) - before

    def close(self) -> None:
        """Let the file go; what was recorded is durable then in any case. Asking stays possible."""
        with self._thread:
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None and self._file is not None:
            self._file.release()

    def _parts(self) -> Iterator[bytes]:
        remaining = iter(self.graph.records)
        while part := list(islice(remaining, _PART)):
            yield lines_of(part)


# -- what may be recorded ------------------------------------------------------------------------------------------


def _node(kind: NodeKind, location: str | os.PathLike[str], hash_: str | None, name: str) -> Node:
    if kind not in _KINDS:
        raise ValueError(f"{name}_type: {kind!r} is unknown: allowed are {', '.join(NODE_KINDS)}")
    if type(location) is not str and isinstance(location, os.PathLike):
        location = os.fspath(location)
    if not location:
        raise ValueError(f"{name}_location: is empty")
    return Node(kind, _text(location, name, "_location"), "" if hash_ is None else _text(hash_, name, "_hash"))


def _text(value: object, name: str, ending: str = "") -> str:
    """Return a text; most are plain ASCII, which needs no further look."""
    if type(value) is str and value.isascii():
        return value
    return text(value, name + ending)


def _count(value: object, name: str) -> int | None:
    """Return a count; what another library calls an integer is one."""
    if value is None or (type(value) is int and value >= 0):
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: must be an int, not {type(value).__name__}")
    count = operator.index(value)
    if count < 0:
        raise ValueError(f"{name}: {count} is negative")
    return count


def _metadata(value: object) -> dict[str, object]:
    said = plain(value, "metadata")
    if not isinstance(said, dict):
        raise TypeError(f"metadata: must be a dict, not {type(value).__name__}")
    return said


def _kinds(edges: Collection[EdgeKind]) -> Collection[EdgeKind]:
    unknown = [edge for edge in edges if edge not in EDGE_KINDS]
    if unknown:
        raise ValueError(f"edges: {unknown[0]!r} is unknown: allowed are {', '.join(EDGE_KINDS)}")
    return edges
