"""From the last snapshot to the commit point: the state of the rules, derived again from the input.

Owns: feeding the committed ranges to an engine under the decisions recorded for them, and the proof that it flags,
suppresses and shadows exactly what it did. So every restart is a check of determinism. Leaves to `edges.recovery` what
was committed, to `edges.stream` the bytes, and to the supervisor what happens when the proof fails.

How the input was cut into batches changes no flag; so batches that follow each other are evaluated together, while the
next bytes are read and these are hashed on other threads. What comes of them is compared batch by batch.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

from tidewaiter.core.audit import BatchCommitted, Decision, Decisions, ProjectionMark, running_hash
from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.framing import Framer
from tidewaiter.core.ledger import EMPTY_MARK
from tidewaiter.shell.governing import Governing, from_archive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
    from pathlib import Path

    from tidewaiter.core.engine import Engine
    from tidewaiter.core.snapshot import Snapshot
    from tidewaiter.edges.recovery import Recovered
    from tidewaiter.edges.stream import Stream

CHUNK_BYTES: Final = 1 << 20
DERIVED: Final = ("flags", "suppressed", "shadow_flags")
"""The projections that follow from input and decisions alone: rejections also come from operators and segment ends."""
_STATE_LOSS = "state_loss"
WAYS_OUT = (
    "run the version that wrote the state, restore the missing segment, or start with --accept-state-loss "
    "(recorded; the rules then begin with empty memory)"
)


async def rebuild(
    recovered: Recovered, governing: Governing, state: Path, stream: Stream, *, alive: Callable[[int], None]
) -> tuple[Engine, Governing]:
    """Return the engine as it was at the last commit, with what governed it then.

    `governing` is used where it is what was in force; `alive` is called with the global offset as the replay goes on.
    Raises IntegrityRefusal where the input differs, is gone, or gives other flags.
    """
    collecting = gc.isenabled()
    gc.disable()  # millions of keys come up, none of them in a cycle, and each collection would walk through them
    try:
        return await _rebuild(recovered, governing, state, stream, alive)
    finally:
        if collecting:
            gc.enable()


async def _rebuild(
    recovered: Recovered, governing: Governing, state: Path, stream: Stream, alive: Callable[[int], None]
) -> tuple[Engine, Governing]:
    timeline, snapshot = recovered.timeline, recovered.snapshot
    marks: dict[str, ProjectionMark] = {}
    if snapshot is not None:
        marks = snapshot.header.ledger.projections
        if snapshot.header.ledger.decisions is None:
            snapshot = None  # taken before the first decision: nothing was in force, so nothing is in its memory
    losses = [at for at, step in enumerate(timeline) if isinstance(step, Decision) and step.decision == _STATE_LOSS]
    if losses:  # what was committed before is accepted as it is, and nothing in memory comes from it
        before, timeline, snapshot = timeline[: losses[-1]], timeline[losses[-1] :], None
        marks = next((step.projections for step in reversed(before) if isinstance(step, BatchCommitted)), marks)
    in_force = _decisions_at_start(recovered, timeline, snapshot)
    if in_force is None:
        return governing.engine(), governing
    current = _governing(in_force, governing, state)
    engine = current.engine()
    if snapshot is not None:
        try:
            snapshot.load_into(engine)
        except KeyError as error:
            raise IntegrityRefusal(
                f"{state / 'snapshots'}: the snapshot at entry {snapshot.header.audit.index} lacks memory that the "
                f"rules in force need: {error.args[0]}",
                hint=WAYS_OUT,
            ) from error
    steps = list(_stretches(timeline))
    async with aclosing(_read_ahead(stream, [step for step in steps if isinstance(step, _Stretch)])) as chunks:
        for step in steps:
            if isinstance(step, Decision):
                # one by one, also where nothing was evaluated between two: what is new each time begins empty
                if step.decisions is not None and _rules_of(step.decisions) != _rules_of(in_force):
                    in_force = step.decisions
                    current = _governing(in_force, governing, state)
                    engine, _ = engine.successor(current.contract, current.ruleset, current.policy)
                continue
            if isinstance(step, _Stretch):
                _compare(step, marks, await _replay(engine, step, chunks))
                step = step.batches[-1]  # noqa: PLW2901 - where we are now
            marks = step.projections
            alive(step.offset)
    return engine, current


class _Stretch(NamedTuple):
    """Batches of one segment, each beginning where the one before ended."""

    batches: list[BatchCommitted]

    @property
    def first(self) -> int:
        return self.batches[0].first

    @property
    def end(self) -> int:
        return self.batches[-1].position.offset

    def goes_on_with(self, batch: BatchCommitted) -> bool:
        last = self.batches[-1].position
        here = batch.position
        return (
            (last.start, last.segment, last.offset) == (here.start, here.segment, batch.first)
            and here.offset - self.first <= CHUNK_BYTES
        )  # fmt: skip


def _stretches(timeline: Iterable[BatchCommitted | Decision]) -> Iterator[_Stretch | BatchCommitted | Decision]:
    """Put evaluated batches together, at most CHUNK_BYTES of them; everything else stays what and where it is."""
    stretch: _Stretch | None = None
    for step in timeline:
        batch = step if isinstance(step, BatchCommitted) and step.cause == "batch" else None
        if stretch is not None and batch is not None and stretch.goes_on_with(batch):
            stretch.batches.append(batch)
            continue
        if stretch is not None:
            yield stretch
        stretch = None if batch is None else _Stretch([batch])
        if batch is None:
            yield step
    if stretch is not None:
        yield stretch


async def _read_ahead(stream: Stream, stretches: list[_Stretch]) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of the stretches in pieces of at most CHUNK_BYTES, the next one being read meanwhile."""
    ranges = [
        (each.batches[-1].position, at, min(at + CHUNK_BYTES, each.end))
        for each in stretches
        for at in range(each.first, each.end, CHUNK_BYTES)
    ]
    reading: asyncio.Task[bytes] | None = None
    try:
        for number, wanted in enumerate(ranges):
            data = await (stream.read_range(*wanted) if reading is None else reading)
            reading = None
            if number + 1 < len(ranges):
                reading = asyncio.create_task(stream.read_range(*ranges[number + 1]), name="replay-read-ahead")
            yield data
    finally:
        if reading is not None:  # whoever closes the stream must find it at rest
            await asyncio.wait([reading])
            reading.exception()


def _compare(stretch: _Stretch, marks: dict[str, ProjectionMark], derived: dict[str, list[bytes]]) -> None:
    """Compare what was derived with what was committed, batch by batch. Raises IntegrityRefusal."""
    done = dict.fromkeys(derived, 0)
    for batch in stretch.batches:
        for projection, records in derived.items():
            before_it, expected = (each.get(projection, EMPTY_MARK).sha256 for each in (marks, batch.projections))
            begin = done[projection]
            # a batch has as many as it had; if there are more in all, the last one has them
            end = begin + getattr(batch.counts, projection) if batch is not stretch.batches[-1] else len(records)
            done[projection] = end
            digest = running_hash(before_it, b"".join(records[begin:end])) if begin < end else before_it
            if digest != expected:
                raise IntegrityRefusal(
                    f"replay of the stream up to byte {batch.offset} gives other {projection} than were committed: "
                    f"expected running hash {expected}, found {digest}",
                    hint=WAYS_OUT,
                )
        marks = batch.projections


def _decisions_at_start(
    recovered: Recovered, timeline: list[BatchCommitted | Decision], snapshot: Snapshot | None
) -> Decisions | None:
    if snapshot is not None and snapshot.header.ledger.decisions is not None:
        return snapshot.header.ledger.decisions
    # the snapshot before the first decision, or none: nothing was evaluated before what comes first here
    return next((step.decisions for step in timeline if step.decisions is not None), recovered.ledger.decisions)


def _rules_of(decisions: Decisions) -> tuple[str, str, str, dict[str, str]]:
    """The digests that choose contract, ruleset with its lists, and policy; the engine is the one that runs."""
    return decisions.config, decisions.contract, decisions.ruleset, decisions.lists


def _governing(decisions: Decisions, current: Governing, state: Path) -> Governing:
    same = _rules_of(decisions) == _rules_of(current.decisions)
    return current if same else from_archive(state, decisions)


async def _replay(engine: Engine, stretch: _Stretch, chunks: AsyncGenerator[bytes, None]) -> dict[str, list[bytes]]:
    """Evaluate the stretch once more and return what comes of it, for each of `DERIVED`."""
    position = stretch.batches[-1].position
    framer = Framer(stretch.first, engine.policy.line_limit)
    hashes = _Hashes(stretch)
    lines: dict[str, list[bytes]] = {projection: [] for projection in DERIVED}
    for _ in range(stretch.first, stretch.end, CHUNK_BYTES):
        data = await anext(chunks)
        hashing = asyncio.get_running_loop().run_in_executor(None, hashes.take, data)
        await asyncio.sleep(0)  # the next piece is asked for before this one keeps us busy
        try:
            framer.feed(data)
            while (piece := framer.next_piece()) is not None:
                evaluation = engine.evaluate(piece, position.start, position.segment.name)
                engine.rules.forget_some(engine.screening.effective)
                for projection, record in evaluation.records:
                    if projection in lines:
                        lines[projection].append(f"{record}\n".encode())
                if evaluation.halt is not None:
                    raise IntegrityRefusal(
                        f"replay halts at byte {evaluation.halt.offset} of the stream, where it had not: "
                        f"{evaluation.halt.reason}",
                        hint=WAYS_OUT,
                    )
        finally:
            await hashing  # bytes that are not what was read explain whatever came of them
    return lines


class _Hashes:
    """Compares the bytes of a stretch with the SHA-256 of each of its batches."""

    def __init__(self, stretch: _Stretch) -> None:
        self._batches = iter(stretch.batches)
        self._batch = next(self._batches)
        self._at = stretch.first
        self._digest = hashlib.sha256()

    def take(self, data: bytes) -> None:
        """Take the next bytes. Raises IntegrityRefusal. Lets other threads go on."""
        rest = memoryview(data)
        while rest:
            position = self._batch.position
            part = rest[: position.offset - self._at]
            self._digest.update(part)
            self._at += len(part)
            rest = rest[len(part) :]
            if self._at < position.offset:
                continue
            if self._digest.hexdigest() != self._batch.sha256:
                raise IntegrityRefusal(
                    f"{position.segment.name}: bytes {self._batch.first} to {position.offset} are not what was read: "
                    f"expected SHA-256 {self._batch.sha256}, found {self._digest.hexdigest()}",
                    hint="restore the segment; the stream must be append-only",
                )
            self._batch = next(self._batches, self._batch)
            self._digest = hashlib.sha256()
