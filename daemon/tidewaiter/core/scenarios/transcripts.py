"""Transcripts: short made-up histories, each with the flags that one scenario must give on it, and no others.

Owns: the format of a transcript file (reference: config/README.md, "Transcripts"), the lines its events become, and
running them through the engine, each transcript alone and from an empty state. Leaves to the contract what an event
must look like, to `probes` what the metrics were meanwhile, and to `shell.commands.rules` which files there are and how
an outcome is shown.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.decoding import LineFault, decode_lines_singly
from tidewaiter.core.engine import Engine
from tidewaiter.core.framing import Block
from tidewaiter.core.scenarios.flags import FIRST_METRIC, told_text
from tidewaiter.core.scenarios.probes import (
    CAME_BEFORE,
    CONJUNCT,
    LOOKED_AT,
    NOT_LOOKED_AT,
    NOT_TRUE,
    VALUES,
    Probe,
    Probing,
)
from tidewaiter.core.scenarios.readable import conjuncts
from tidewaiter.core.screening import Policy, exact_minor_units
from tidewaiter.core.toml_source import DecimalText, KeyPath, Table, TomlSource, kind_of, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tidewaiter.core.contract import Contract, Field
    from tidewaiter.core.scenarios.model import CheckedScenario
    from tidewaiter.core.scenarios.ruleset import Ruleset

MAX_EVENTS: Final = 10_000
MAX_TRANSCRIPT_BYTES: Final = 8 << 20
"""How long a file of transcripts may be."""
BEGINNING: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_KEYS: Final = ("scenario", "title", "expect", "defaults", "events")
_AT, _ID = "at", "id"
_PART: Final = re.compile(r"([0-9]{1,9})(us|ms|s|m|h|d)")
_WHOLE: Final = re.compile(rf"(?:\s*{_PART.pattern})+\s*")
_MICROSECONDS: Final = {
    "us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000,
}  # fmt: skip
UNKNOWN: Final = "unknown"
_LATEST: Final = 100 * 366 * 86_400_000_000
_DECIMAL: Final = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?")
# An account may be silent for years in a transcript; everything else is refused as strictly as by default.
_POLICY: Final = Policy(max_forward_jump=_LATEST)
SHOWN: Final = ("flags", "shadow_flags")
"""The projections whose records are flags: a suppressed hit is none."""


class _Flag(Struct, frozen=True):
    """What matters here of a flag."""

    rule_name: str
    event_id: str


_flag: Final = msgspec.json.Decoder(_Flag)


@dataclass(frozen=True)
class Transcript:
    """One history: `data` are its events as lines, `ids` and `times` (as written) theirs, `expect` in their order."""

    scenario: str
    title: str
    expect: tuple[str, ...]
    ids: tuple[str, ...]
    times: tuple[str, ...]
    data: bytes
    file: str
    line: int


@dataclass(frozen=True)
class Outcome:
    """What came of a transcript: the ids that its scenario flagged, and why the engine stopped where it did."""

    transcript: Transcript
    flagged: tuple[str, ...]
    halt: str = ""

    @property
    def passed(self) -> bool:
        """Whether exactly the expected events were flagged."""
        return not self.halt and self.flagged == self.transcript.expect

    @property
    def missed(self) -> tuple[str, ...]:
        """The ids that were to be flagged and were not."""
        return tuple(each for each in self.transcript.expect if each not in self.flagged)

    @property
    def surplus(self) -> tuple[str, ...]:
        """The ids that were flagged and were not to be."""
        return tuple(each for each in self.flagged if each not in self.transcript.expect)


def read_transcripts(text: bytes, file: str, contract: Contract, scenarios: Iterable[str]) -> tuple[Transcript, ...]:
    """Return the transcripts of a file; `scenarios` are the ids they may be for. Raises ConfigError with the place."""
    source = TomlSource(text, file, pictures=True, exact=True)
    top = Table(source, (), source.data)
    top.only(("transcript",))
    if isinstance(top.data.get("transcript"), dict):
        raise top.error("transcript", "must be a list, not a table", hint="write [[transcript]], in two brackets")
    items = top.take("transcript", list, [])
    known = list(scenarios)
    return tuple(_Reader(source, ("transcript", at), item, contract, known).read() for at, item in enumerate(items))


def run_transcript(transcript: Transcript, contract: Contract, ruleset: Ruleset) -> Outcome:
    """Evaluate the events of a transcript, and nothing else, under `ruleset`."""
    evaluation = Engine(contract, ruleset, _POLICY).evaluate(Block(0, transcript.data), 0, transcript.file)
    flags = [_flag.decode(record) for projection, record in evaluation.records if projection in SHOWN]
    halt = evaluation.halt
    stopped = ""
    if halt is not None:
        number = transcript.data.count(b"\n", 0, halt.offset)
        stopped = f"{transcript.ids[number]} is no valid event here: {halt.kind}: {halt.reason}"
    return Outcome(transcript, tuple(each.event_id for each in flags if each.rule_name == transcript.scenario), stopped)


@dataclass(frozen=True)
class Inside:
    """What went on at each event of a transcript: one row for each, one column for each metric and condition."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def values_of(transcript: Transcript, contract: Contract, ruleset: Ruleset) -> Inside:
    """Return the values of the scenario's metrics at each event, and which of its conditions were true, false, unknown.

    Nothing for a typology, which has neither, for events that were not evaluated, and for conditions that were not
    looked at: behind an `on` that was not true, or of the fields of an earlier event that was not there.
    """
    scenario = next((each for each in ruleset.checked.scenarios if each.decl.id == transcript.scenario), None)
    if scenario is None:
        return Inside((), ((),) * len(transcript.ids))
    name, texts = scenario.decl.id, conjuncts(scenario.decl.when)
    values, looked_at = Probe(VALUES, name), Probe(LOOKED_AT, name)
    parts = [Probe(CONJUNCT, name, number) for number in range(len(texts))]
    before = [Probe(CAME_BEFORE, name)] if scenario.after is not None else []
    false = [Probe(NOT_TRUE, name, number) for number in range(len(texts))]
    if isinstance(scenario.decl.on, str):  # that others held is true or false, never unknown
        false.append(Probe(NOT_LOOKED_AT, name))
    probing = Probing(ruleset, contract, _POLICY, [values, looked_at, *before, *parts, *false])
    admitted, hits = probing.evaluate(transcript.data, at_start=True)
    hit_at: dict[int, set[Probe]] = {}
    shown: dict[int, dict[str, str]] = {}
    names = list(dict.fromkeys(
        ruleset.checked.metrics[key].name for variant in scenario.variants for key in variant.metrics
    ))  # fmt: skip
    for hit in hits:
        outcome = probing.outcomes[hit[1]]
        probe = probing.meaning.get(outcome.id)
        if probe is None:
            continue
        at = hit[0] if admitted.lines is None else admitted.lines[hit[0]]
        hit_at.setdefault(at, set()).add(probe)
        if probe == values:
            metrics = [ruleset.checked.metrics[key] for key in scenario.variants[outcome.variant].metrics]
            shown[at] = {
                metric.name: told_text(metric.type, value)
                for metric, value in zip(metrics, hit[FIRST_METRIC:], strict=True)
            }
    columns = (*names, *(["on"] if scenario.decl.on is not None else []), *(["after"] if before else []), *texts)
    rows = tuple(
        (
            *(shown.get(at, {}).get(each, "") for each in names),
            *(_judged(scenario, hit_at[at]) if at in shown else [""] * (len(columns) - len(names))),
        )
        for at in range(len(transcript.ids))
    )
    return Inside(columns, rows)


def _judged(scenario: CheckedScenario, hit: set[Probe]) -> Iterator[str]:
    """Yield what `on`, `after` and each part of `when` were at the event at which the probes `hit`."""
    name, on = scenario.decl.id, scenario.decl.on
    looked_at, came_before = Probe(LOOKED_AT, name) in hit, Probe(CAME_BEFORE, name) in hit
    if on is not None:
        false = isinstance(on, tuple) or Probe(NOT_LOOKED_AT, name) in hit
        yield "true" if looked_at else "false" if false else UNKNOWN
    if scenario.after is not None:
        yield ("true" if came_before else "false") if looked_at else ""
    for number, part in enumerate(scenario.variants[-1].when.conjuncts):
        if not looked_at or (part.names("earlier") and not came_before):
            yield ""
        elif Probe(CONJUNCT, name, number) in hit:
            yield "true"
        else:
            yield "false" if Probe(NOT_TRUE, name, number) in hit else UNKNOWN


class _Reader:
    """One pass over one transcript."""

    def __init__(
        self, source: TomlSource, path: KeyPath, data: object, contract: Contract, scenarios: list[str]
    ) -> None:
        self.source, self.path, self.contract, self.scenarios = source, path, contract, scenarios
        self.table = Table(source, path, data, hint=f"with the keys {', '.join(_KEYS)}")
        fixed = {contract.id_field: _ID, contract.time_field: _AT}
        self.fields = {field.name: field for field in contract.fields if field.name not in fixed}
        self.fixed = fixed

    def read(self) -> Transcript:
        table = self.table
        table.only(_KEYS)
        scenario = table.take("scenario", str)
        if scenario not in self.scenarios:
            raise table.error(
                "scenario", f"the ruleset has no scenario {scenario!r}", hint=nearest(scenario, self.scenarios)
            )
        defaults = self._members(("defaults",), table.take("defaults", dict, {}))
        items = table.take("events", list)
        if not 1 <= len(items) <= MAX_EVENTS:
            raise table.error("events", f"{len(items)} events", hint=f"1 to {MAX_EVENTS}")
        ids: list[str] = []
        times: list[str] = []
        lines: list[bytes] = []
        before = 0
        for at, item in enumerate(items):
            path = (*self.path, "events", at)
            event = Table(self.source, path, item, hint="for example { at = '1h', amount = '9000.00' }")
            offset = self._offset(event)
            if offset < before:
                raise event.error(_AT, "is before the event above it", hint="name the events in the order they come")
            before = offset
            times.append(str(event.data[_AT]))
            ids.append(self._id(event, f"e{at + 1}", ids))
            lines.append(self._line(path, event, ids[-1], before, defaults))
        return Transcript(
            scenario=scenario,
            title=table.take("title", str, ""),
            expect=self._expected(ids),
            ids=tuple(ids),
            times=tuple(times),
            data=b"".join(line + b"\n" for line in lines),
            file=self.source.file,
            line=self.source.line(*self.path),
        )

    def _offset(self, event: Table) -> int:
        text = event.take(_AT, str)
        total = -1
        if _WHOLE.fullmatch(text):
            total = sum(int(number) * _MICROSECONDS[unit] for number, unit in _PART.findall(text))
        if not 0 <= total <= _LATEST:
            hint = "the time since the beginning: whole numbers with us, ms, s, m, h or d: '0s', '90m', '1d 12h'"
            raise event.error(_AT, f"{text!r} is not a time", hint=hint)
        return total

    def _id(self, event: Table, default: str, known: list[str]) -> str:
        value: str = event.take(_ID, str, default)
        if value in known:
            raise event.error(_ID, f"{value!r} is the id of an event above", hint="ids default to e1, e2, …")
        return value

    def _expected(self, ids: list[str]) -> tuple[str, ...]:
        expect = self.table.take("expect", list)
        for at, item in enumerate(expect):
            if not isinstance(item, str) or item not in ids:
                hint = nearest(item, ids) if isinstance(item, str) else "name events by their ids in quotes"
                raise self.source.error((*self.path, "expect", at), f"{item!r} is no id of these events", hint=hint)
        return tuple(each for each in ids if each in expect)

    # -- events ------------------------------------------------------------------------------------------------------

    def _members(self, path: KeyPath, data: object, *also: str) -> dict[str, msgspec.Raw]:
        """Return the fields of the table at `path` as JSON; a money amount keeps exactly its digits."""
        table = Table(self.source, (*self.path, *path), data)
        for name, said in self.fixed.items():
            if name in table.data and name not in also:
                raise table.error(name, f"is said by {said!r}", hint=f"write {said} = … in the event", key=True)
        table.only((*also, *self.fields))
        return {name: self._value(table, self.fields[name]) for name in table.data if name in self.fields}

    def _value(self, table: Table, field: Field) -> msgspec.Raw:
        value = table.data[field.name]
        if field.kind == "money":
            text = str(value).replace("_", "")
            if isinstance(value, bool) or not isinstance(value, str | int) or not _DECIMAL.fullmatch(text):
                raise table.error(field.name, "is not an amount", hint="major units, for example '9000.00'")
            if exact_minor_units(float(text), field.scale) is None:
                raise table.error(field.name, f"has more than {field.scale} decimals")
            return msgspec.Raw(text.encode())
        kind = {"integer": int, "boolean": bool}.get(field.kind, str)
        if field.kind == "timestamp" and isinstance(value, dt.datetime):
            value = value.isoformat()
        if type(value) is not kind or isinstance(value, DecimalText):
            wanted = {"integer": "a whole number", "boolean": "true or false"}.get(field.kind, "text in quotes")
            raise table.error(field.name, f"must be {wanted}, not {kind_of(value)}")
        return msgspec.Raw(msgspec.json.encode(value))

    def _line(self, path: KeyPath, event: Table, event_id: str, offset: int, defaults: dict[str, msgspec.Raw]) -> bytes:
        time = msgspec.Raw(msgspec.json.encode(_time_text(offset)))
        own = self._members(path[len(self.path) :], event.data, _AT, _ID)
        contract = self.contract
        fixed = {contract.id_field: msgspec.Raw(msgspec.json.encode(event_id)), contract.time_field: time}
        ingest = {contract.ingest_field: time} if contract.ingest_field else {}
        values = {**ingest, **defaults, **own, **fixed}
        line = msgspec.json.encode(_nested(contract, values))
        (entry,) = decode_lines_singly(contract, [line], at_start=False)
        if isinstance(entry, LineFault):
            field = contract.by_source.get(entry.field)
            name = field.name if field is not None else entry.field
            where = (*self.path, "defaults") if name in defaults and name not in own else path
            key = (*where, name) if name in values else where
            problem = entry.reason if name in values else f"{entry.reason}: {name}"
            raise self.source.error(key, problem, hint=f"see the contract {contract.file}")
        return line


def _nested(contract: Contract, values: dict[str, msgspec.Raw]) -> dict[str, Any]:
    """Return the object of a line: each value where the contract says it stands."""
    line: dict[str, Any] = {}
    for field in contract.fields:
        if field.name in values:
            *around, key = field.source.split(".")
            place = line
            for step in around:
                place = place.setdefault(step, {})
            place[key] = values[field.name]
    return line


def _time_text(offset: int) -> str:
    time = BEGINNING + dt.timedelta(microseconds=offset)
    return f"{time:%Y-%m-%dT%H:%M:%S}" + (f".{time.microsecond:06}" if time.microsecond else "") + "Z"
