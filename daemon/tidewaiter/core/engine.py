"""One ordered pass over a block of lines: decode, screen, evaluate; the effects come back as data.

Owns: the order of these three, the text of a rejection, and the counts. Leaves to `consumer` which bytes are offered,
to `edges.journal` the persistence of what comes back, and to the ruleset what a flag is.

Invariants:
- The flags of a line depend on the lines before it and on the decisions in force, never on how lines were grouped.
- A block that halts half-way has changed the state by exactly the lines before the halt, and says how many bytes those
  are; the caller commits them and stops.
- Whoever cannot commit what came back keeps it and tries again, or ends the process: evaluating twice is not possible.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from itertools import accumulate, repeat
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.audit import Counts, Halt
from tidewaiter.core.contract import QUOTED_TIME_LENGTH, OriginalText
from tidewaiter.core.decoding import BOM, LineFault, cut_lines, decode_at_once, decode_lines_singly
from tidewaiter.core.framing import PREVIEW_BYTES, Block, LongLine
from tidewaiter.core.screening import Policy, Screening

if TYPE_CHECKING:
    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios import Ruleset, RuleState
    from tidewaiter.core.scenarios.generating import Hit
    from tidewaiter.core.screening import Admitted

ENGINE: Final = "tidewaiter-engine/2"
"""The evaluation's version: changed whenever the same bytes under the same decisions could give other flags."""
PART_BYTES: Final = 1 << 17
"""How much is decoded and evaluated at a time: what a part needs stays in the processor's cache (measured: a third
faster than 4 MiB at a time). No result depends on it."""
ENGINE_DIGEST: Final = hashlib.sha256(ENGINE.encode()).hexdigest()

_projection_of: Final = itemgetter(0)


class Evaluation(Struct, gc=False):
    """The effects of one piece of the stream, in the order in which they are to be persisted.

    `records` are (projection, line without its newline) in stream order; `size` is how many bytes of the piece they
    account for; `halt` says that the stream stops right behind them. `insufficient` counts for each scenario the events
    at which it could not be decided; scenarios without any are left out.
    """

    records: list[tuple[str, str]]
    counts: Counts
    size: int
    last_event_time: str | None
    halt: Halt | None
    insufficient: dict[str, int] = {}


class Rejection(Struct, frozen=True):
    """One line of rejections.jsonl: where the line stands, how long it is, its hash, and why it was not evaluated."""

    offset: int
    length: int
    sha256: str
    kind: str
    reason: str
    field: str
    event_id: str | None
    preview: str


class Engine:
    """Contract, ruleset and policy in force, with the state of one stream."""

    def __init__(self, contract: Contract, ruleset: Ruleset, policy: Policy) -> None:
        """Start empty; `screening` and `rules` may be filled from a snapshot before the first evaluation."""
        self.contract = contract
        self.ruleset = ruleset
        self.policy = policy
        self.screening = Screening(contract, policy, ruleset.money_columns)
        self.rules: RuleState = ruleset.new_state()
        self._evaluate = ruleset.bind(self.rules)
        self._time_of = attrgetter(contract.time_field)
        self._ingest_of = attrgetter(contract.ingest_field) if contract.ingest_field else None

    @property
    def entries(self) -> int:
        """How many ids and keys are kept, some keys counted twice: what a snapshot costs is proportional to it."""
        return len(self.screening.seen) + self.rules.entries()

    def load_rules(self, state: RuleState) -> None:
        """Go on with `state`."""
        self.rules = state
        self._evaluate = self.ruleset.bind(state)

    def successor(self, contract: Contract, ruleset: Ruleset, policy: Policy) -> tuple[Engine, list[str]]:
        """Return an engine under new decisions that keeps what is unchanged, and the metrics that start empty."""
        engine = Engine(contract, ruleset, policy)
        state, started_empty = ruleset.adopt_state(self.rules)
        engine.load_rules(state)
        engine.screening.effective = self.screening.effective
        if policy.duplicate_horizon == self.policy.duplicate_horizon:
            engine.screening.seen = self.screening.seen
        else:
            engine.screening.seen = self.screening.seen.rehorizon(policy.duplicate_horizon)
        return engine, started_empty

    def evaluate(self, piece: Block | LongLine, start: int, segment: str) -> Evaluation:
        """Evaluate the next piece. `start` is the global offset of its segment's first byte, `segment` its name."""
        if isinstance(piece, LongLine):
            return self._evaluate_long_line(piece, start, segment, halted=self.policy.invalid == "halt")
        records: list[tuple[str, str]] = []
        counts, size, halt = Counts(), 0, None
        while size < len(piece.data) and halt is None:
            end = piece.data.rfind(b"\n", size, size + PART_BYTES) + 1 or piece.data.index(b"\n", size) + 1
            whole = size == 0 and end == len(piece.data)
            part = piece if whole else Block(piece.offset + size, piece.data[size:end])
            done, halt = self._evaluate_part(part, start, segment, records, counts)
            size += done
        if self.ruleset.only_flags:
            counts.flags = len(records) - counts.rejected
        else:
            number = Counter(map(_projection_of, records))
            counts.flags, counts.suppressed = number["flags"], number["suppressed"]
            counts.shadow_flags = number["shadow_flags"]
            counts.shadow_suppressed = sum(self.ruleset.take_silenced(self.rules).values())
        insufficient = self.ruleset.take_insufficient(self.rules)
        return Evaluation(records, counts, size, utc_text(self.screening.effective), halt, insufficient)

    def _evaluate_part(
        self, part: Block, start: int, segment: str, records: list[tuple[str, str]], counts: Counts
    ) -> tuple[int, Halt | None]:
        """Evaluate some lines, adding to `records` and `counts`; return how many bytes are done, and a halt."""
        lines = _Lines(part, start)
        events = decode_at_once(self.contract, part.data, lines.cut)
        if events is not None:
            entries, admitted = events, self.screening.screen_events(events)
        else:
            entries = decode_lines_singly(self.contract, lines.cut, at_start=part.offset == 0)
            admitted = self.screening.screen(entries)
        hits = self._evaluate(admitted.events, admitted.times, *admitted.money)
        flags = self._flags(hits, admitted, lines)
        only_flags, projections = self.ruleset.only_flags, self.ruleset.projections
        names = repeat("flags") if only_flags else [projections[hit[1]] for hit in hits]
        counts.evaluated += len(admitted.events)
        counts.admitted += admitted.admitted_late
        if not admitted.faults:
            counts.events_read += len(entries)
            records += zip(names, flags, strict=False)
            return len(part.data), None
        read, size, halt = len(entries), len(part.data), None
        faults = admitted.faults
        if admitted.halt is not None:
            _, fault = faults.pop()
            read = admitted.halt
            size = lines.offset(read) - lines.base
            halt = lines.halt(read, fault, segment)
        counts.events_read += read
        counts.rejected += len(faults)
        for _, fault in faults:
            setattr(counts, fault.kind, getattr(counts, fault.kind) + 1)
        numbers = range(len(entries)) if admitted.lines is None else admitted.lines
        merged = [(numbers[hit[0]], name, record) for hit, name, record in zip(hits, names, flags, strict=False)]
        merged += [(line, "rejections", self._rejection(lines, line, fault, entries[line])) for line, fault in faults]
        merged.sort(key=itemgetter(0))  # stable: the flags of one line keep their order
        records += [(projection, record) for _, projection, record in merged]
        return size, halt

    def _flags(self, hits: list[Hit], admitted: Admitted, lines: _Lines) -> list[str]:
        """Return the record of each hit."""
        flags: list[str] = []
        decode = self.contract.quoting_decoder.decode
        renderers = self.ruleset.renderers(escaping=b"\\" in lines.block.data)
        events, numbers = admitted.events, admitted.lines
        # all of them at once, where many are asked for
        offset_of = lines.offsets().__getitem__ if len(hits) * 6 > len(lines.cut) else lines.offset
        last, event, offset, text = -1, None, 0, OriginalText("")
        for hit in hits:
            at = hit[0]
            if at != last:
                last, event = at, events[at]
                line = at if numbers is None else numbers[at]
                offset = offset_of(line)
                content = lines.cut[line] if line else lines.content(0)  # only the first may begin with a mark
                try:
                    text = decode(content)
                except msgspec.ValidationError:
                    text = self._shortened(event, self.contract.original_text(content))
            flags.append(renderers[hit[1]](hit, event, text, offset))
        return flags

    def _shortened(self, event: Any, text: OriginalText) -> OriginalText:  # noqa: ANN401 - a compiled Struct
        """Return the texts of the event's times; one with more decimals than anybody quotes as it was read."""
        event_time, ingest_time = text.event_time, text.ingest_time
        if len(event_time) > QUOTED_TIME_LENGTH:
            event_time = _text_as_read(self._time_of(event))
        if ingest_time is not None and len(ingest_time) > QUOTED_TIME_LENGTH and self._ingest_of is not None:
            ingest_time = _text_as_read(self._ingest_of(event))
        return OriginalText(event_time, ingest_time)

    def reject_tail(self, piece: LongLine, start: int) -> Evaluation:
        """Return the rejection of a closed segment's unterminated tail; no policy can halt on it."""
        return self._evaluate_long_line(piece, start, "", halted=False)

    def _evaluate_long_line(self, piece: LongLine, start: int, segment: str, *, halted: bool) -> Evaluation:
        fault = LineFault("framing", piece.reason)
        halt = Halt(
            kind=fault.kind, offset=start + piece.offset, length=piece.length, sha256=piece.sha256,
            reason=fault.reason, segment=segment, local_offset=piece.offset,
        )  # fmt: skip
        return Evaluation(
            records=[] if halted else [("rejections", long_line_rejection(piece, start, fault))],
            counts=Counts() if halted else Counts(events_read=1, rejected=1, framing=1),
            size=0 if halted else piece.size,
            last_event_time=utc_text(self.screening.effective),
            halt=halt if halted else None,
        )

    def _rejection(self, lines: _Lines, line: int, fault: LineFault, entry: object) -> str:
        event_id = None if isinstance(entry, LineFault) else str(getattr(entry, self.contract.id_field))
        return rejection_line(lines.raw(line), lines.offset(line), fault, event_id)


def rejection_line(raw: bytes, offset: int, fault: LineFault, event_id: str | None) -> str:
    """Return the line of rejections.jsonl for the line `raw` (without newline) at the global `offset`."""
    rejection = Rejection(
        offset=offset,
        length=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        kind=fault.kind,
        reason=fault.reason,
        field=fault.field,
        event_id=event_id,
        preview=_preview(raw[:PREVIEW_BYTES]),
    )
    return msgspec.json.encode(rejection).decode()


def long_line_rejection(piece: LongLine, start: int, fault: LineFault) -> str:
    """Return the line of rejections.jsonl for a line whose content was not kept; `start` is its segment's offset."""
    rejection = Rejection(
        offset=start + piece.offset, length=piece.length, sha256=piece.sha256, kind=fault.kind,
        reason=fault.reason, field="", event_id=None, preview=_preview(piece.preview),
    )  # fmt: skip
    return msgspec.json.encode(rejection).decode()


def utc_text(time: dt.datetime | None) -> str | None:
    """Return `time` as UTC text with microseconds, the same on every machine."""
    return None if time is None else time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def _text_as_read(time: dt.datetime) -> str:
    """Return the text of a time as it was read, without the decimals that were not."""
    try:
        return str(utc_text(time))
    except OverflowError:  # an ingest time at the very end of the calendar, in another zone
        return time.isoformat(timespec="microseconds")


def _preview(raw: bytes) -> str:
    """Return the first bytes of a line, printable ASCII as it is and everything else escaped."""
    return raw.decode("latin-1").encode("unicode_escape").decode("ascii")


class _Lines:
    """The lines of one block and where they stand."""

    def __init__(self, block: Block, start: int) -> None:
        self.base = start + block.offset
        self.block = block
        self._start = start
        self.cut = cut_lines(block.data)
        self._last = (0, self.base)

    def raw(self, line: int) -> bytes:
        """Return the line's bytes without its newline."""
        return self.cut[line].removesuffix(b"\n")

    def offset(self, line: int) -> int:
        """Return the global offset of the line's first byte; cheapest when asked in rising order."""
        last, offset = self._last
        if line != last:
            if line < last:
                last, offset = 0, self.base
            offset += sum(map(len, self.cut[last:line]))
            self._last = (line, offset)
        return offset

    def offsets(self) -> list[int]:
        """Return the global offsets of the first bytes of all lines, and of what follows."""
        return list(accumulate(map(len, self.cut), initial=self.base))

    def content(self, line: int) -> bytes:
        """Return what of the line was decoded, white space behind it included."""
        return self.cut[line].removeprefix(BOM) if line == 0 and self.block.offset == 0 else self.cut[line]

    def halt(self, line: int, fault: LineFault, segment: str) -> Halt:
        """Return the halt at `line`."""
        raw = self.raw(line)
        offset = self.offset(line)
        return Halt(
            kind=fault.kind,
            offset=offset,
            length=len(raw),
            sha256=hashlib.sha256(raw).hexdigest(),
            reason=f"{fault.reason}: {fault.field}" if fault.field else fault.reason,
            segment=segment,
            local_offset=offset - self._start,
        )
