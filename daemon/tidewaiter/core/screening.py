"""What a line's own shape cannot say: exact money, blank ids, the future, duplicates, and order.

Owns: the checks between decoding and evaluation, in the order contract, duplicate, order; the effective time; and the
ids of the duplicate horizon. Leaves to the engine what a policy does with a fault, and to the ruleset what an event
means.

There are two ways through. The bulk way asks a handful of whole-batch questions at C speed; when every answer is
"nothing unusual", the batch is admitted as it stands. Otherwise each event is judged by itself. Both give the same
result for the same events (a test feeds every split), because the bulk way only ever answers "no fault at all".

Only evaluated events advance the effective time or register an id.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter, le
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tidewaiter.core.decoding import LineFault
from tidewaiter.core.event_columns import column_of, minor_units_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.core.contract import Contract

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND: Final = dt.timedelta(microseconds=1)
EARLIEST: Final = dt.datetime(1000, 1, 1, tzinfo=dt.UTC)
LATEST: Final = dt.datetime(9000, 1, 1, tzinfo=dt.UTC)
"""Event times from EARLIEST up to but not including LATEST: every sum with a lookback or an offset stays a date."""
_FORGET_PER_CALL: Final = 20_000
_SMALL_CHUNK: Final = 512


class Policy(Struct, frozen=True):
    """What governs screening, besides the contract; part of the decision timeline. Durations in microseconds."""

    invalid: str = "halt"
    duplicate: str = "halt"
    order: str = "halt"
    duplicate_horizon: int = 86_400_000_000
    allowed_skew: int = 5_000_000
    max_forward_jump: int = 2_592_000_000_000
    line_limit: int = 1 << 20


class Admitted(Struct, gc=False):
    """The events of a batch that are evaluated, in order, as columns of equal length.

    `lines` are their line numbers within the batch (None: all lines, 0, 1, 2 …), `times` their effective times,
    `money` the amounts of each money column in minor units. `faults` are the other lines, with their numbers, up to
    `halt`: the line number where a `halt` policy stopped, or None.
    """

    events: Sequence[Any]
    lines: Sequence[int] | None
    times: Sequence[dt.datetime]
    money: list[Sequence[int | None]]
    faults: list[tuple[int, LineFault]]
    admitted_late: int
    halt: int | None


class SeenIds:
    """The ids of evaluated events, kept for at least the duplicate horizon of event time, at most 1.5 times that.

    Time is cut into periods of half a horizon; the current period and the two before it are kept. So an id is found
    exactly within the horizon, a look-up costs at most three set probes, and forgetting costs nothing per event.
    """

    def __init__(self, horizon: int) -> None:
        """`horizon` is in microseconds of event time."""
        self.width = max((horizon + 1) // 2, 1)  # rounded up: two widths must cover the horizon
        self._period = -(1 << 62)
        # Current period first. Beside each set its ids stand once more, in chunks that never change once they are
        # there: a snapshot takes the chunks as they are, where copying a large set would stall the stream.
        self._sets: list[set[str]] = [set(), set(), set()]
        self._chunks: list[list[list[str]]] = [[], [], []]
        self._tail: list[str] = []
        self.life = object()  # another one where the chunks are others, rather than more
        self._forgotten: list[tuple[set[str], list[list[str]]]] = []

    def period_of(self, time: dt.datetime) -> int:
        """Return the number of the period that holds `time`."""
        return (time - EPOCH) // MICROSECOND // self.width

    def __len__(self) -> int:
        """Return how many ids are kept."""
        return sum(map(len, self._sets))

    def _within_reach(self, period: int) -> list[set[str]]:
        """Return the sets that count when judged from `period`; looking never forgets anything."""
        return self._sets[: max(len(self._sets) - max(period - self._period, 0), 0)]

    def contains(self, event_id: str, period: int) -> bool:
        """Return whether `event_id` was seen, judged from within `period`."""
        return any(event_id in seen for seen in self._within_reach(period))

    def add_new(self, ids: list[str], period: int, *, expected: bool = False) -> bool:
        """Register `ids` of `period` if none was seen and none is in it twice; otherwise change nothing.

        `ids` is kept as it is and must not change any more. `expected` says that all of them will be new, but for once
        in the life of the process: then the current period is not asked first, and made again from its chunks if need
        be. For most of the time goes into waiting for the memory that a set larger than the caches lies in.
        """
        new = set(ids)  # from one set to another no hash is made again, and the look-ups overlap
        within_reach = self._within_reach(period)
        expected = expected and period == self._period
        if len(new) != len(ids) or not all(seen.isdisjoint(new) for seen in within_reach[1 if expected else 0 :]):
            return False
        self._move_to(period)
        seen = self._sets[0]
        before = len(seen)
        seen |= new
        if len(seen) - before != len(ids):
            self._sets[0] = set(chain.from_iterable([self._tail, *self._chunks[0]]))
            return False
        if len(ids) >= _SMALL_CHUNK:
            self._chunks[0].append(ids)
        else:
            self._tail += ids
            self._seal_tail(_SMALL_CHUNK)
        return True

    def add_new_of_periods(self, parts: Sequence[tuple[list[str], int]]) -> bool:
        """Register ids of several periods, in rising order, if all are new; else change nothing.

        An id that occurs twice so far apart that both count is left to be judged singly, too.
        """
        together = [event_id for ids, _ in parts for event_id in ids]
        if len(set(together)) != len(together):
            return False
        for ids, period in parts:
            if not all(seen.isdisjoint(ids) for seen in self._within_reach(period)):
                return False
        for ids, period in parts:
            self.add_new(ids, period)
        return True

    def add(self, event_id: str, period: int) -> None:
        """Register the id of an evaluated event, which `contains` has just denied, in `period`."""
        self._move_to(period)
        self._sets[0].add(event_id)
        self._tail.append(event_id)
        self._seal_tail(_SMALL_CHUNK)

    def _seal_tail(self, least: int) -> None:
        if len(self._tail) >= least:
            self._chunks[0].append(self._tail)
            self._tail = []

    def _move_to(self, period: int) -> None:
        """Begin `period`, if it is new; a period never goes back."""
        if period <= self._period:
            return
        self._seal_tail(1)
        for _ in range(min(period - self._period, len(self._sets))):
            self._sets.insert(0, set())
            self._chunks.insert(0, [])
            self._forgotten.append((self._sets.pop(), self._chunks.pop()))
        self._period = period

    def forget_some(self) -> None:
        """Release part of what has left the horizon, little by little: dropping a big set at once would stall."""
        while self._forgotten:
            old, chunks = self._forgotten[-1]
            released = 0
            while chunks and released < _FORGET_PER_CALL:
                chunk = chunks.pop()  # a snapshot that is being written may hold it a little longer
                old.difference_update(chunk)
                released += len(chunk)
            if chunks:
                return
            self._forgotten.pop()

    def freeze(self) -> tuple[int, list[list[list[str]]]]:
        """Return the period and the chunks of ids, current period first; costs next to nothing."""
        self._seal_tail(1)
        return self._period, [list(chunks) for chunks in self._chunks]

    def retire(self) -> None:
        """Give back the memory that look-ups need: from here on only `freeze` works, for the last snapshot."""
        self._sets = [set(), set(), set()]

    def load(self, period: int, chunks: Sequence[list[list[str]]]) -> None:
        """Take over what `freeze` gave; the chunks become this object's own."""
        self._period = period
        self.life = object()
        self._chunks = list(chunks)
        self._sets = [set(chain.from_iterable(each)) for each in chunks]

    def rehorizon(self, horizon: int) -> SeenIds:
        """Return these ids under another horizon: what was kept counts as seen in the current period."""
        new = SeenIds(horizon)
        if self._period > -(1 << 62):
            _, kept = self.freeze()
            new._period = (self._period + 1) * self.width // new.width
            new._chunks[0] = [chunk for chunks in reversed(kept) for chunk in chunks]
            new._sets[0] = set(chain.from_iterable(new._chunks[0]))
        return new

    def __iter__(self) -> Iterator[str]:
        """Iterate over all kept ids, in no order."""
        for seen in self._sets:
            yield from seen


class Screening:
    """The stateful checks of one stream; `effective` is the time that never goes back (None before the first event)."""

    def __init__(self, contract: Contract, policy: Policy, money_columns: Sequence[str]) -> None:
        """`money_columns` are the money fields whose minor units the ruleset reads, in its order."""
        self.contract = contract
        self.policy = policy
        self.effective: dt.datetime | None = None
        self.seen = SeenIds(policy.duplicate_horizon)
        self._horizon = dt.timedelta(microseconds=policy.duplicate_horizon)
        self._skew = dt.timedelta(microseconds=policy.allowed_skew)
        self._jump = dt.timedelta(microseconds=policy.max_forward_jump)
        self._id_of = attrgetter(contract.id_field)
        self._time_of = attrgetter(contract.time_field)
        self._subject_of = attrgetter(contract.attribute(contract.subject_field))
        self._ingest_of = attrgetter(contract.ingest_field) if contract.ingest_field else None
        # every money field is checked; only the ruleset's columns are handed on
        self._money = [(field, attrgetter(field.path)) for field in contract.fields if field.kind == "money"]
        self._columns = list(money_columns)
        self._ids_of = column_of(contract.id_field)
        self._times_of = column_of(contract.time_field)
        self._subjects_of = column_of(contract.attribute(contract.subject_field))
        self._ingests_of = column_of(contract.ingest_field) if contract.ingest_field else None
        self._units_of = [(field.name, minor_units_of(field)) for field, _ in self._money]

    def screen(self, entries: Sequence[Any]) -> Admitted:
        """Judge the entries of one batch (events or LineFaults, one per line) and register those to be evaluated."""
        if LineFault not in set(map(type, entries)):
            return self.screen_events(entries)
        self.seen.forget_some()
        return self._one_by_one(entries)

    def screen_events(self, events: Sequence[Any]) -> Admitted:
        """Do what `screen` does where every entry is known to be an event."""
        self.seen.forget_some()
        admitted = self._bulk(events) if events else None
        return admitted if admitted is not None else self._one_by_one(events)

    # -- the bulk way --------------------------------------------------------------------------------------------

    def _bulk(self, events: Sequence[Any]) -> Admitted | None:
        times = self._times_of(events)
        first, last = times[0], times[-1]
        effective = self.effective if self.effective is not None else first
        in_order = first >= effective and times == sorted(times)
        if not in_order or first < EARLIEST or last >= LATEST:
            return None
        try:
            if self._ingests_of is not None and not all(map(le, times, self._ingests_of(events))):
                return None
            if last > effective + self._jump:
                return None
        except OverflowError:  # a time near year 9999; judged singly
            return None
        ids = self._ids_of(events)
        if any(map(str.isspace, ids)) or any(map(str.isspace, self._subjects_of(events))):
            return None
        columns = {}
        for name, units_of in self._units_of:
            columns[name] = units_of(events)
            if len(columns[name]) != len(events):  # some amount is not exact
                return None
        period = self.seen.period_of(first)
        if self.seen.period_of(last) == period:
            if not self.seen.add_new(ids, period, expected=self.policy.duplicate == "halt"):
                return None
        elif not self.seen.add_new_of_periods(self._by_period(ids, times)):
            return None
        self.effective = last
        return Admitted(
            events=events, lines=None, times=times, money=[columns[name] for name in self._columns],
            faults=[], admitted_late=0, halt=None,
        )  # fmt: skip

    def _by_period(self, ids: list[str], times: list[dt.datetime]) -> list[tuple[list[str], int]]:
        """Return the ids cut where a new period begins, each part with its period; `times` are in order."""
        parts = []
        start = 0
        while start < len(ids):
            period = self.seen.period_of(times[start])
            end = bisect_left(times, period + 1, lo=start, key=self.seen.period_of)
            parts.append((ids[start:end], period))
            start = end
        return parts

    # -- one by one ----------------------------------------------------------------------------------------------

    def _one_by_one(self, entries: Sequence[Any]) -> Admitted:
        events: list[Any] = []
        lines: list[int] = []
        times: list[dt.datetime] = []
        money: dict[str, list[int | None]] = {field.name: [] for field, _ in self._money}
        faults: list[tuple[int, LineFault]] = []
        late = 0
        halt = None
        for line, entry in enumerate(entries):
            amounts: dict[str, int | None] = {}
            fault = entry if isinstance(entry, LineFault) else self._judge(entry, amounts)
            if fault is not None:
                faults.append((line, fault))
                if self._halts(fault):
                    halt = line
                    break
                continue
            time = self._time_of(entry)
            if self.effective is None or time >= self.effective:
                self.effective = time
            else:
                late += 1
            events.append(entry)
            lines.append(line)
            times.append(self.effective)
            for name, amount in amounts.items():
                money[name].append(amount)
            # registered under the effective time: the period never goes back
            self.seen.add(self._id_of(entry), self.seen.period_of(self.effective))
        return Admitted(
            events=events, lines=lines, times=times, money=[money[name] for name in self._columns],
            faults=faults, admitted_late=late, halt=halt,
        )  # fmt: skip

    def _halts(self, fault: LineFault) -> bool:
        if fault.kind == "duplicate":
            return self.policy.duplicate == "halt"
        if fault.kind == "order":
            return self.policy.order == "halt"
        return self.policy.invalid == "halt"

    def _judge(self, event: Any, amounts: dict[str, int | None]) -> LineFault | None:  # noqa: ANN401 - a compiled Struct; one return per reason
        contract, policy = self.contract, self.policy
        if self._id_of(event).isspace():
            return LineFault("contract", "only white space", contract.id_field)
        if self._subject_of(event).isspace():
            return LineFault("contract", "only white space", contract.by_name[contract.subject_field].source)
        for field, amount_of in self._money:
            value = amount_of(event)
            amount = None if value is None else exact_minor_units(value, field.scale)
            if amount is None and value is not None:
                return LineFault("contract", f"more than {field.scale} decimals", field.source)
            amounts[field.name] = amount
        time = self._time_of(event)
        if not EARLIEST <= time < LATEST:
            return LineFault("contract", f"not in the years {EARLIEST.year} to {LATEST.year - 1}", contract.time_field)
        if self._ingest_of is not None and _later(time, self._ingest_of(event), self._skew):
            return LineFault(
                "contract", f"later than {contract.ingest_field} by more than the allowed skew", contract.time_field
            )
        effective = self.effective
        if effective is not None and _later(time, effective, self._jump):
            return LineFault("contract", "further ahead of the stream than max_forward_jump", contract.time_field)
        now = time if effective is None or time >= effective else effective
        if self.seen.contains(self._id_of(event), self.seen.period_of(now)):
            return LineFault("duplicate", "id already seen within the duplicate horizon", contract.id_field)
        if effective is not None and time < effective:
            if policy.order != "admit":
                return LineFault("order", "earlier than an event before it", contract.time_field)
            if _later(effective, time, self._horizon):
                return LineFault("order", "later than the duplicate horizon allows to admit", contract.time_field)
        return None


def _later(time: dt.datetime, reference: dt.datetime, allowed: dt.timedelta) -> bool:
    """Return whether `time` is after `reference` by more than `allowed`; never overflows."""
    return time - reference > allowed


def exact_minor_units(value: float, scale: int) -> int | None:
    """Return the amount in minor units, or None if `value` is not the double nearest to one with `scale` decimals."""
    units = round(value * 10**scale)
    return units if units / 10**scale == value else None
