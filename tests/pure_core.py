"""What the tests of the pure core share: the shipped contract and rules, events as lines, and running a whole stream.

Nothing here touches the disk except for reading `config/`. `run_stream` does with an `Engine` what the consumer does,
without any of its edges: chunk, frame, evaluate, stop at a halt.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from support import REPOSITORY
from tidewaiter.core.audit import Counts, Decisions, EntryContext, Halt
from tidewaiter.core.commits import Draft
from tidewaiter.core.contract import Contract, compile_contract
from tidewaiter.core.engine import Engine
from tidewaiter.core.framing import Block, Framer, LongLine
from tidewaiter.core.position import Position, SegmentId
from tidewaiter.core.scenarios import Ruleset, load_ruleset
from tidewaiter.core.screening import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tidewaiter.core.engine import Evaluation

CONTRACT_TEXT: Final = (REPOSITORY / "config" / "contracts" / "money_flow.toml").read_bytes()
RULES_TEXT: Final = (REPOSITORY / "config" / "rules" / "money_flow.toml").read_bytes()
CONTRACT: Final[Contract] = compile_contract(CONTRACT_TEXT, "money_flow.toml")
RULES: Final[Ruleset] = load_ruleset(RULES_TEXT, "rules.toml", CONTRACT)

QUARANTINE: Final = Policy(invalid="quarantine", duplicate="quarantine", order="quarantine")
HALT: Final = Policy()
START: Final = dt.datetime(2026, 3, 9, 12, 0, tzinfo=dt.UTC)
LIMIT: Final = 1 << 20
SEGMENT: Final = "events.jsonl"
DECISIONS: Final = Decisions("0" * 64, "0" * 64, "0" * 64, "0" * 64)
CONTEXT: Final = EntryContext("2026-03-09T12:00:00.000000Z", "run", "engine")


def line(number: int = 0, **fields: Any) -> bytes:
    """Return the event `number` (one second apart) as a line without its newline; `fields` replace or, None, drop."""
    time = (START + dt.timedelta(seconds=number)).isoformat()
    event: dict[str, Any] = {
        "event_id": f"e{number}",
        "user_id": f"u{number % 3}",
        "event_time": time,
        "ingest_time": time,
        "event_type": "deposit_completed",
        "amount": 10.5,
        "currency": "GBP",
        "channel": "web",
    } | fields
    return json.dumps({key: value for key, value in event.items() if value is not None}).encode()


def lines(*items: bytes) -> bytes:
    """Return the items as lines of a stream, newlines included."""
    return b"".join(item + b"\n" for item in items)


def chunks(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Yield `data` in pieces, cut at the offsets `cuts` that lie inside it."""
    at = 0
    for cut in sorted({cut for cut in cuts if 0 < cut < len(data)}):
        yield data[at:cut]
        at = cut
    yield data[at:]


@dataclass
class Outcome:
    """What a run wrote: records as (projection, bytes), counts, bytes accounted for, and the halt it ended in."""

    records: list[tuple[str, str]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    size: int = 0
    halt: Halt | None = None
    last_event_time: str | None = None
    insufficient: dict[str, int] = field(default_factory=dict)

    def add(self, evaluation: Evaluation) -> None:
        """Take the effects of one more piece."""
        self.records += evaluation.records
        self.counts = self.counts.plus(evaluation.counts)
        self.size += evaluation.size
        self.halt = evaluation.halt
        self.last_event_time = evaluation.last_event_time
        for scenario, number in evaluation.insufficient.items():
            self.insufficient[scenario] = self.insufficient.get(scenario, 0) + number

    @property
    def flags(self) -> list[dict[str, Any]]:
        """The flags, parsed."""
        return [json.loads(record) for projection, record in self.records if projection == "flags"]

    @property
    def rejections(self) -> list[dict[str, Any]]:
        """The rejections, parsed."""
        return [json.loads(record) for projection, record in self.records if projection == "rejections"]


def assert_same_outcome(got: Outcome, expected: Outcome) -> None:
    """Assert that two runs did the same; names the first record that differs, as a diff of all takes minutes."""
    for name in ("halt", "size", "counts", "last_event_time"):
        assert getattr(got, name) == getattr(expected, name), name
    for number, pair in enumerate(itertools.zip_longest(got.records, expected.records)):
        if pair[0] != pair[1]:
            message = f"record {number}:\n  got      {pair[0]!r}\n  expected {pair[1]!r}"
            raise AssertionError(message)


def new_engine(policy: Policy = QUARANTINE, *, contract: Contract = CONTRACT, rules: Ruleset = RULES) -> Engine:
    """Return an engine with empty state."""
    return Engine(contract, rules, policy)


def run_stream(
    engine: Engine, data: bytes, cuts: Sequence[int] = (), *, offset: int = 0, start: int = 0, limit: int = LIMIT
) -> Outcome:
    """Evaluate `data`, which stands at `offset` of a segment at global `start`, in chunks; stop at a halt."""
    framer = Framer(offset, limit)
    outcome = Outcome()
    for chunk in chunks(data, cuts):
        framer.feed(chunk)
        while (piece := framer.next_piece()) is not None:
            outcome.add(engine.evaluate(piece, start, SEGMENT))
            if outcome.halt is not None:
                return outcome
    return outcome


def evaluate_lines(engine: Engine, *items: bytes) -> Outcome:
    """Evaluate the items as the only lines of a stream, in one block."""
    return run_stream(engine, lines(*items))


def content_of(pieces: Iterable[Block | LongLine]) -> list[tuple[Any, ...]]:
    """Return what pieces say: (offset, line) for each, or (offset, length, sha256, preview, reason) for a long one."""
    found: list[tuple[Any, ...]] = []
    for piece in pieces:
        if isinstance(piece, LongLine):
            found.append((piece.offset, piece.length, piece.sha256, piece.preview, piece.reason))
            continue
        at = piece.offset
        for text in piece.data.split(b"\n")[:-1]:
            found.append((at, text))
            at += len(text) + 1
    return found


def draft(outcome: Outcome, *, first: int = 0) -> Draft:
    """Return the commit of an outcome, at a made-up position of one segment."""
    offset = first + outcome.size
    return Draft(
        cause="batch",
        records=outcome.records,
        counts=outcome.counts,
        position=Position(SegmentId(SEGMENT, 1, 2, 0, ""), 0, offset, 0, ""),
        first=first,
        range_sha256=hashlib.sha256(b"%d" % offset).hexdigest(),
        last_event_time=outcome.last_event_time,
        decisions=DECISIONS,
    )
