"""The product and the plain evaluator over the same stream, and whether they say the same.

Owns: reading a stream as the plain evaluator wants it, driving the engine over batches with snapshots, restores and
sweeps in between, and the comparison of what came out, record by record. Everything the product writes is read back
from its bytes.
"""

from __future__ import annotations

import datetime as dt
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from naive_kinds import Number
from naive_rules import Given, Outcome, Result
from tidewaiter.core.engine import Engine
from tidewaiter.core.framing import Block
from tidewaiter.core.ledger import AuditMark, Ledger
from tidewaiter.core.screening import Policy
from tidewaiter.core.snapshot import decode, encode, freeze

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios import Ruleset

# Late events are evaluated at the time already reached; nothing is rejected, so that both see every line.
POLICY: Final = Policy(order="admit")
MARK: Final = AuditMark("audit-00000000000000000000.jsonl", 1234, 5, "a" * 64)
COMPARED: Final = ("flag_id", "user_id", "rule_name", "event_id", "offset", "metric_value", "threshold", "metrics",
                   "segment", "reason", "suppressed_until")  # fmt: skip


@dataclass
class Written:
    """What the product wrote: (projection, line) in order, and the scenarios it could not decide, with counts."""

    records: list[tuple[str, str]] = field(default_factory=list)
    insufficient: Counter[str] = field(default_factory=Counter)


def as_given(lines: Iterable[bytes], time_field: str) -> list[Given]:
    """Return the lines as the plain evaluator reads them; the effective time never goes back."""
    found: list[Given] = []
    offset = 0
    for line in lines:
        event = json.loads(line, parse_float=Decimal)
        time = dt.datetime.fromisoformat(event[time_field])
        found.append(Given(event, offset, max(time, found[-1].effective) if found else time))
        offset += len(line) + 1
    return found


def evaluate_whole(contract: Contract, ruleset: Ruleset, lines: Sequence[bytes]) -> Written:
    """Evaluate a stream in one batch."""
    written = Written()
    _take(Engine(contract, ruleset, POLICY), written, lines, 0)
    return written


def evaluate_in_pieces(contract: Contract, ruleset: Ruleset, lines: Sequence[bytes], seed: int) -> Written:
    """Evaluate a stream in batches, with a sweep or another engine from a snapshot between them, as `seed` says."""
    rng = random.Random(seed)
    engine, written = Engine(contract, ruleset, POLICY), Written()
    place = offset = 0
    while place < len(lines):
        longest = len(lines) // 40 or 1
        batch = lines[place : place + longest * rng.choice((1, 1, 2, 3, 5, 8))]
        _take(engine, written, batch, offset)
        place += len(batch)
        offset += sum(len(line) + 1 for line in batch)
        between = rng.choice(("nothing", "sweep", "sweep", "restore", "both"))
        assert engine.screening.effective is not None
        if between in {"sweep", "both"}:
            engine.rules.sweep(engine.screening.effective, rng.choice((1, 3, 1000)))
        if between in {"restore", "both"}:
            snapshot = decode(b"".join(encode(freeze(engine, Ledger(), MARK))))
            assert snapshot is not None
            engine = Engine(contract, ruleset, POLICY)
            snapshot.load_into(engine)
    return written


def _take(engine: Engine, written: Written, lines: Sequence[bytes], offset: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    done = engine.evaluate(Block(offset, data), 0, "events.jsonl")
    assert done.halt is None, done.halt
    assert done.counts.evaluated == len(lines)
    written.records += done.records
    written.insufficient.update(done.insufficient)


def assert_agree(written: Written, result: Result) -> None:
    """Assert that both say the same about every event; names the first record that differs."""
    got = [_of_record(projection, line) for projection, line in written.records]
    expected = [_of_outcome(outcome) for outcomes in result.outcomes for outcome in outcomes]
    for place in range(max(len(got), len(expected))):
        one, other = (each[place] if place < len(each) else None for each in (got, expected))
        if one != other:
            raise AssertionError(f"record {place}:\n  product {one}\n  plain   {other}")
    assert written.insufficient == result.insufficient


def assert_same_bytes(written: Written, whole: Written) -> None:
    """Assert that a stream in pieces gave what it gives as a whole."""
    for place, (one, other) in enumerate(zip(written.records, whole.records, strict=False)):
        if one != other:
            raise AssertionError(f"record {place}:\n  in pieces {one}\n  as a whole {other}")
    assert len(written.records) == len(whole.records)
    assert written.insufficient == whole.insufficient


def _of_record(projection: str, line: str) -> dict[str, Any]:
    flag = json.loads(line, parse_float=Number, parse_int=Number)
    found = {"projection": projection} | {key: flag.get(key) for key in COMPARED}
    # the points of a typology, scenario by scenario
    return found | {"score": flag.get("score") if isinstance(flag.get("score"), list) else None}


def _of_outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "projection": outcome.projection,
        "flag_id": f"{outcome.event_id}:{outcome.rule}",
        "user_id": outcome.subject,
        "rule_name": outcome.rule,
        "event_id": outcome.event_id,
        "offset": Number(str(outcome.offset)),
        "metric_value": outcome.metric_value,
        "threshold": outcome.threshold,
        "metrics": dict(outcome.metrics),
        "segment": outcome.segment,
        "reason": outcome.reason,
        "suppressed_until": outcome.suppressed_until,
        "score": None if outcome.score is None else [dict(part) for part in outcome.score],
    }
