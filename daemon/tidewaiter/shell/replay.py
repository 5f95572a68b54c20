"""From the last snapshot to the commit point: the state of the rules, derived again from the input.

Owns: feeding the committed ranges to an engine under the decisions recorded for them, and the proof that it flags,
suppresses and shadows exactly what it did. So every restart is a check of determinism. Leaves to `edges.recovery` what
was committed, to `edges.stream` the bytes, and to the supervisor what happens when the proof fails.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from tidewaiter.core.audit import BatchCommitted, Decision, Decisions, ProjectionMark, running_hash
from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.framing import Framer
from tidewaiter.core.ledger import EMPTY_MARK
from tidewaiter.shell.governing import Governing, from_archive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.core.engine import Engine
    from tidewaiter.core.snapshot import Snapshot
    from tidewaiter.edges.recovery import Recovered
    from tidewaiter.edges.stream import Stream

CHUNK_BYTES = 1 << 20
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
    for step in timeline:
        if isinstance(step, Decision):
            # one by one, also where nothing was evaluated between two: what is new each time begins empty
            if step.decisions is not None and _rules_of(step.decisions) != _rules_of(in_force):
                in_force = step.decisions
                current = _governing(in_force, governing, state)
                engine, _ = engine.successor(current.contract, current.ruleset, current.policy)
            continue
        if step.cause == "batch":
            for projection, data in (await _replay(engine, step, stream)).items():
                before_it, expected = (each.get(projection, EMPTY_MARK).sha256 for each in (marks, step.projections))
                digest = running_hash(before_it, data) if data else before_it
                if digest != expected:
                    raise IntegrityRefusal(
                        f"replay of the stream up to byte {step.offset} gives other {projection} than were committed: "
                        f"expected running hash {expected}, found {digest}",
                        hint=WAYS_OUT,
                    )
        marks = step.projections
        alive(step.offset)
    return engine, current


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


async def _replay(engine: Engine, batch: BatchCommitted, stream: Stream) -> dict[str, bytes]:
    """Evaluate the batch's range once more and return what comes of it, for each of `DERIVED`."""
    position = batch.position
    framer = Framer(batch.first, engine.policy.line_limit)
    digest = hashlib.sha256()
    lines: dict[str, list[bytes]] = {projection: [] for projection in DERIVED}
    for at in range(batch.first, position.offset, CHUNK_BYTES):
        data = await stream.read_range(position, at, min(at + CHUNK_BYTES, position.offset))
        digest.update(data)
        framer.feed(data)
        while (piece := framer.next_piece()) is not None:
            evaluation = engine.evaluate(piece, position.start, position.segment.name)
            for projection, record in evaluation.records:
                if projection in lines:
                    lines[projection].append(record)
            if evaluation.halt is not None:
                raise IntegrityRefusal(
                    f"replay halts at byte {evaluation.halt.offset} of the stream, where it had not: "
                    f"{evaluation.halt.reason}",
                    hint=WAYS_OUT,
                )
    if digest.hexdigest() != batch.sha256:
        raise IntegrityRefusal(
            f"{position.segment.name}: bytes {batch.first} to {position.offset} are not what was read: "
            f"expected SHA-256 {batch.sha256}, found {digest.hexdigest()}",
            hint="restore the segment; the stream must be append-only",
        )
    return {projection: b"".join(records) for projection, records in lines.items()}
