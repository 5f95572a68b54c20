"""What a run has to say about itself, as edges of lineage: of a batch pipeline, and of the daemon.

Owns: which nodes and edges a run becomes. Leaves to `shell.pipelines` and the daemon the facts, to `shell.lineage`
where they are kept.

A batch run: each input file goes by data edges through the run's steps, in their order, to the output, rejected
records to their file. Contract and pipeline file configure the run, the run its steps, a reference file the step that
reads it: config edges. The audit log's entry and, for a stream, the run before are state edges.

A stream run says once what it runs under, and then, for each part of a segment, what came of it; never per batch.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.lineage.records import Derivation, Node, entry_of, part_of
from tidewaiter.edges.lineage_file import check_appendable, lines_of
from tidewaiter.shell.lineage import LineageTracker
from tidewaiter.shell.pipelines.facts import FAILED, Note

if TYPE_CHECKING:
    from tidewaiter.core.lineage.records import LineageRecord, NodeKind
    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.pipelines.facts import Governing, RunFacts, StepFacts, TableFacts

_WAIT_S: Final = 30.0
_ERROR_CHARACTERS: Final = 1000


class Part(Struct, frozen=True):
    """The bytes [first, last) of a file: a segment of the stream, or of flags or quarantine; offsets over the whole.

    `sha256` is of these bytes; empty where nobody has read them as a whole. `records` counts its lines.
    """

    location: str
    first: int
    last: int
    sha256: str = ""
    records: int | None = None


class Entry(Struct, frozen=True):
    """An entry of an audit log: its file, its index over the whole log, and the SHA-256 of its line."""

    location: str
    index: int
    sha256: str = ""


class Configured(Struct, frozen=True):
    """A file that a run was configured with, its SHA-256, and what it calls itself."""

    location: str
    sha256: str
    name: str = ""


class StreamRun(Struct, frozen=True):
    """A run of the daemon: what it runs under, where its audit log begins, and the run whose state it goes on from."""

    run_id: str
    stream: str
    contract: Configured
    ruleset: Configured
    lists: tuple[Configured, ...] = ()
    previous_run: str = ""
    audit: Entry | None = None


class StreamSegment(Struct, frozen=True):
    """What a run made of one part of one segment.

    `flags` and `quarantine` are what of these files came of it, None where nothing did; `audit` is the entry that
    accounts for its end.
    """

    run_id: str
    read: Part
    flags: Part | None = None
    quarantine: Part | None = None
    audit: Entry | None = None


# -- the daemon ----------------------------------------------------------------------------------------------------


def record_stream_run(tracker: LineageTracker, run: StreamRun) -> list[LineageRecord]:
    """Record what a run of the daemon runs under, once, at its start. Raises as `LineageTracker.record` does."""
    node = Node("run", run.run_id)
    said = {"run_id": run.run_id, "contract": run.contract.name, "metadata": {"stream": run.stream}}
    edges = [
        _config(Node("contract", run.contract.location, run.contract.sha256), node, said),
        _config(Node("ruleset", run.ruleset.location, run.ruleset.sha256), node, said),
        *(_config(Node("file", each.location, each.sha256), node, said) for each in run.lists),
    ]
    if run.previous_run:
        edges.append(_state(Node("run", run.previous_run), node, said))
    if run.audit is not None:
        edges.append(_state(node, _entry(run.audit), said))
    return tracker.record_all(edges)


def record_stream_segment(tracker: LineageTracker, segment: StreamSegment) -> list[LineageRecord]:
    """Record one part of a segment that was read, and what came of it. Raises as `LineageTracker.record` does."""
    run = Node("run", segment.run_id)
    said: dict[str, Any] = {"run_id": segment.run_id}
    read = _part(segment.read, "slice")
    edges = [_state(read, run, said)]
    for part, transformation in ((segment.flags, "screen"), (segment.quarantine, "quarantine")):
        if part is not None:
            made = _part(part, "flags" if part is segment.flags else "slice")
            edges += [
                Derivation(
                    source=read, destination=made, transformation=transformation, input_records=segment.read.records,
                    output_records=part.records, **said,
                ),
                _config(run, made, said),
            ]  # fmt: skip
    if segment.audit is not None:
        edges.append(_state(read, _entry(segment.audit), said))
    return tracker.record_all(edges)


def _part(part: Part, kind: NodeKind) -> Node:
    return Node(kind, part_of(part.location, part.first, part.last), part.sha256)


def _entry(entry: Entry) -> Node:
    return Node("audit", entry_of(entry.location, entry.index), entry.sha256)


def _config(source: Node, destination: Node, said: dict[str, Any]) -> Derivation:
    return Derivation(source=source, destination=destination, edge="config", **said)


def _state(source: Node, destination: Node, said: dict[str, Any]) -> Derivation:
    return Derivation(source=source, destination=destination, edge="state", **said)


# -- batch pipelines -----------------------------------------------------------------------------------------------


class LineageRecorder:
    """Keeps the lineage of runs in a file, for the runner; looks at it before a run and opens it when one has ended."""

    name = "record_lineage"
    what = "the lineage"

    def __init__(self, path: str | os.PathLike[str], *, disk: Disk | None = None, wait_s: float = _WAIT_S) -> None:
        """Another run may be writing the same file: each waits up to `wait_s` seconds for the other to end."""
        self.path = Path(path).absolute()
        self._disk = disk
        self._wait_s = wait_s

    def check(self) -> None:
        """Raise ConfigError or IntegrityRefusal where the lineage could not be appended to; nothing is written."""
        check_appendable(self.path, self._wait_s)

    def started(self, facts: RunFacts) -> Note | None:  # noqa: ARG002 - a run has no lineage before it has read anything
        """Note nothing."""
        return None

    def ended(self, facts: RunFacts) -> Note | None:
        """Record the run, complete or failed. Raises ConfigError (no lineage file, still being written) and so on."""
        with LineageTracker(self.path, wait_s=self._wait_s, disk=self._disk) as tracker:
            try:
                records = record_run(tracker, facts)
            except ValueError as error:  # a path that is no text, a record without end
                raise ConfigError(f"{self.path}: this run cannot be recorded: {error}") from error
            notices = tracker.notices
        if not records:
            return None
        details: dict[str, Any] = {"records": len(records)}
        if notices:
            details["notices"] = notices
        return Note(str(self.path), hashlib.sha256(lines_of(records)).hexdigest(), details)


def record_run(tracker: LineageTracker, facts: RunFacts) -> list[LineageRecord]:
    """Record a run that ended; of one that failed, what it had done, and no output.

    Raises as `LineageTracker.record` does.
    """
    return tracker.record_all(_Run(facts).edges())


class _Run:
    """The edges of one batch run, in the order in which they came to be."""

    def __init__(self, facts: RunFacts) -> None:
        self._facts = facts
        self._failed = facts.status == FAILED
        self._run = Node("run", facts.run_id)
        self._said: dict[str, Any] = {
            "run_id": facts.run_id,
            "contract": facts.contract.label if facts.contract is not None else "",
        }
        steps = [step for step in facts.steps if not self._failed or step.hash_after or step.records_in]
        self._steps = [(step, self._step_node(step)) for step in steps]

    def edges(self) -> list[Derivation]:
        """Return them all."""
        return [*self._configuration(), *self._data(), *self._rejected(), *self._audit()]

    def _configuration(self) -> list[Derivation]:
        facts = self._facts
        said = {**self._said, "metadata": {"status": facts.status}}
        edges = []
        if facts.contract is not None:
            edges.append(_config(_governing("contract", facts.contract), self._run, said))
        if facts.pipeline is not None:
            edges.append(_config(_governing("pipeline", facts.pipeline), self._run, said))
        for step, node in self._steps:
            edges.append(_config(self._run, node, self._said))
            edges += [_config(_file(file), node, self._said) for file in step.files]
        if not self._steps and facts.output is not None and not self._failed:
            edges.append(_config(self._run, _file(facts.output), self._said))
        return edges

    def _data(self) -> list[Derivation]:
        facts = self._facts
        output = None if self._failed or facts.output is None else _file(facts.output)
        inputs = [_file(table) for table in facts.inputs]
        if not self._steps:
            if output is None:  # what was read has no other trace than the run itself
                return [_state(node, self._run, self._said) for node in inputs]
            return [
                self._edge(node, output, "copy", table.records, table.records, 0)
                for node, table in zip(inputs, facts.inputs, strict=True)
            ]
        first, node = self._steps[0]
        edges = []
        for source, table in zip(inputs, facts.inputs, strict=True):
            if len(inputs) == 1:
                edges.append(self._step_edge(source, node, first))
            else:  # what became of the records of one of several files nobody counts
                edges.append(self._edge(source, node, first.name, table.records, None, None))
        for step, after in self._steps[1:]:
            edges.append(self._step_edge(node, after, step))
            node = after
        if output is not None and facts.output is not None:
            edges.append(self._edge(node, output, "write", facts.output.records, facts.output.records, 0))
        return edges

    def _rejected(self) -> list[Derivation]:
        table = self._facts.rejected
        if table is None or self._failed:
            return []
        file = _file(table)
        return [
            self._edge(node, file, "reject", None, step.rejected, None) for step, node in self._steps if step.rejected
        ]

    def _audit(self) -> list[Derivation]:
        audit = self._facts.audit
        if audit is None:
            return []
        metadata: dict[str, Any] = {"status": self._facts.status}
        if self._facts.error:
            metadata["error"] = self._facts.error[:_ERROR_CHARACTERS]
        entry = Node("audit", entry_of(_absolute(audit.path), audit.index), audit.head)
        return [_state(self._run, entry, {**self._said, "metadata": metadata})]

    def _step_node(self, step: StepFacts) -> Node:
        number = f"{step.number}_"
        name = step.name if step.name.startswith(number) else number + step.name
        return Node("transform", f"{self._facts.run_id}/{name}", step.hash_after)

    def _step_edge(self, source: Node, destination: Node, step: StepFacts) -> Derivation:
        removed = step.removed + step.rejected
        return self._edge(source, destination, step.name, step.records_in, step.records_out, removed)

    def _edge(
        self, source: Node, destination: Node, name: str, taken: int | None, given: int | None, filtered: int | None
    ) -> Derivation:
        return Derivation(
            source=source, destination=destination, transformation=name, input_records=taken, output_records=given,
            records_filtered=filtered, **self._said,
        )  # fmt: skip


def _governing(kind: NodeKind, text: Governing) -> Node:
    return Node(kind, _absolute(text.file) if text.file else text.label, text.sha256)


def _file(table: TableFacts) -> Node:
    return Node("file", _absolute(table.path), table.sha256)


def _absolute(path: str) -> str:
    """Return the same file's name for a run in another directory; a URL and standard input have none."""
    return path if path == "-" or "://" in path else os.path.abspath(path)  # noqa: PTH100 - keeps symbolic links
