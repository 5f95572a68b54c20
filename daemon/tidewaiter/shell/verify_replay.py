"""Every flag derived again from the input, under the decisions that were recorded for it.

Owns: putting together the timeline that `shell.replay` works through, and what its refusals mean for a verification.
Leaves to `shell.replay` the work.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tidewaiter.core.audit import BatchCommitted, Decision
from tidewaiter.core.engine import ENGINE_DIGEST
from tidewaiter.core.errors import IntegrityRefusal, TidewaiterError
from tidewaiter.edges.recovery import Recovered
from tidewaiter.edges.stream import Stream, StreamSettings
from tidewaiter.shell.governing import from_archive
from tidewaiter.shell.replay import rebuild

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.core.audit import Decisions
    from tidewaiter.core.ledger import Ledger
    from tidewaiter.shell.verify_findings import Findings


class Timeline:
    """The batches and decisions of a log, in order."""

    def __init__(self) -> None:
        self.steps: list[BatchCommitted | Decision] = []

    def batch(self, batch: BatchCommitted, _index: int, _time: str) -> None:
        """Take a batch."""
        self.steps.append(batch)

    def decision(self, decision: Decision, _index: int) -> None:
        """Take a decision that changes what governs."""
        if decision.decisions is not None:
            self.steps.append(decision)

    @property
    def first(self) -> Decisions | None:
        """What was in force first."""
        return next((step.decisions for step in self.steps if step.decisions is not None), None)

    @property
    def engines(self) -> set[str]:
        """The digests of the engines that made the flags."""
        return {step.decisions.engine for step in self.steps if step.decisions is not None}


def check_replay(
    state: Path,
    stream: Path | None,
    ledger: Ledger,
    timeline: Timeline,
    findings: Findings,
    alive: Callable[[int], None],
) -> None:
    """Derive every flag again. `alive` is called with the global offset reached."""
    first = timeline.first
    if first is None:
        return
    if stream is None or not (stream.exists() or stream.parent.is_dir()):
        findings.missing("replay", "the stream is not there, so nothing can be derived again", stream or "the stream")
        return
    if any(isinstance(step, Decision) and step.decision == "state_loss" for step in timeline.steps):
        findings.note("the replay begins behind the last accepted loss of state: no flag before it is derived again")
    try:
        asyncio.run(_replay(state, stream, ledger, timeline, first, alive))
    except IntegrityRefusal as refusal:
        if timeline.engines != {ENGINE_DIGEST}:
            findings.missing(
                "replay",
                f"{refusal.message}; another version of the engine was at work: run that one to decide",
                stream,
            )
        else:
            findings.tampered("replay", refusal.message, stream)
    except TidewaiterError as error:
        findings.missing("replay", error.message, stream)


async def _replay(
    state: Path, path: Path, ledger: Ledger, timeline: Timeline, first: Decisions, alive: Callable[[int], None]
) -> None:
    stream = Stream(StreamSettings(path=path))
    try:
        await stream.start(ledger.position, ledger.closed, ledger.next_start, accept_gap=ledger.gap_accepted)
        recovered = Recovered(ledger, None, timeline=list(timeline.steps))
        await rebuild(recovered, from_archive(state, first), state, stream, alive=alive)
    finally:
        await stream.close()
