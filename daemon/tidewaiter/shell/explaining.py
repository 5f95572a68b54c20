"""Why there is a flag: what was asked, what the numbers were, and the events that made them.

Owns: `explain`, which puts together the flag, the rules in force at its place in the stream, the events read again from
the stream, and its neighbours. Reads only. Leaves to `shell.flag_search` finding things in the state directory, to
`shell.history` reading the stream, to `core.scenarios.probes` which events a metric took in, and to
`shell.commands.explain` how it is shown.

Units: times are microseconds since 1970.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.audit import UNREADABLE
from tidewaiter.core.decoding import BOM, cut_lines
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.scenarios.probes import BEFORE, MATCHED, Probe, Probing
from tidewaiter.core.scenarios.readable import conjuncts, filled, one_line
from tidewaiter.core.screening import EPOCH, MICROSECOND
from tidewaiter.core.toml_source import DecimalText, TomlSource
from tidewaiter.shell.flag_search import Found, batch_at, neighbours, the_flag
from tidewaiter.shell.governing import Governing, from_archive
from tidewaiter.shell.history import Gone, History, time_reader
from tidewaiter.shell.state_owner import read_owner, refuse_no_state
from tidewaiter.shell.state_report import committed

if TYPE_CHECKING:
    from tidewaiter.core.audit import BatchCommitted, Decisions
    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.model import Checked, CheckedScenario, Metric, Variant
    from tidewaiter.core.scenarios.terms import Type
    from tidewaiter.shell.state_report import Target

SCAN_BYTES: Final = 256 << 20
"""How much of the stream before the flag is read again at most; some seconds for each 100 MiB."""
UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Event:
    """An event of the stream: where it stands, its effective time, and its fields as texts."""

    offset: int
    time: int
    id: str
    fields: dict[str, str]


@dataclass
class Taken:
    """A metric of the flag, and the events that it took in; `begin` and `end` bound them in time, None: no bound."""

    name: str
    said: str
    value: str
    key: str
    begin: int | None
    end: int
    events: list[Event] = field(default_factory=list)


@dataclass
class Explanation:
    """Everything that is known about a flag. `conditions` are (what, as written, with numbers)."""

    found: Found
    governing: Governing | None
    decisions: Decisions | None
    rule: dict[str, Any]
    conditions: list[tuple[str, str, str]] = field(default_factory=list)
    event: Event | None = None
    before: Event | None = None
    taken: list[Taken] = field(default_factory=list)
    shown_fields: tuple[str, ...] = ()
    in_seconds: bool = False  # what is measured is a duration
    hidden: frozenset[str] = frozenset()
    began: Found | None = None
    suppressed: list[Found] = field(default_factory=list)
    follows: Found | None = None
    notes: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)

    def against(self, flag: dict[str, Any]) -> str:
        """Return what was measured for a flag of this scenario, and the threshold, each with its unit."""
        values = [flag["metric_value"], flag["threshold"]]
        texts = [length_text(each) if self.in_seconds and each is not None else _written(each) for each in values]
        return " against ".join(texts)


def explain(target: Target, flag_id: str) -> Explanation:
    """Return why the flag is there. Raises ConfigError where there is no such flag, or nothing to look into."""
    state = target.state
    if not state.is_dir():
        raise ConfigError(f"{state}: there is no such state directory", hint="name it with --state-dir")
    try:
        refuse_no_state(state)
        return _explain(target, flag_id)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or state}: cannot be read: {error.strerror}",
            hint="run this as a member of the file's group",
        ) from error


def _explain(target: Target, flag_id: str) -> Explanation:
    state = target.state
    found = the_flag(state, flag_id)
    batch = batch_at(state, found.offset)
    decisions = None if batch is None else batch.decisions
    told = Explanation(found, None, decisions, {})
    told.began, told.suppressed, told.follows = neighbours(state, found)
    if batch is None or decisions is None:
        told.notes.append("the audit log does not reach back to this flag, so the rules in force are not known")
        return told
    try:
        governing = told.governing = from_archive(state, decisions)
    except IntegrityRefusal as refusal:
        told.notes.append(refusal.message)
        return told
    source = TomlSource(governing.ruleset.text, governing.ruleset.file, exact=True)
    rule = found.flag["rule_name"]
    told.rule = source.data.get("scenario", {}).get(rule) or source.data.get("typology", {}).get(rule) or {}
    contract = governing.contract
    told.hidden = frozenset({contract.id_field, contract.time_field, contract.ingest_field or ""})
    told.derived = source.data.get("field", {})
    checked = governing.ruleset.checked
    scenario = next((each for each in checked.scenarios if each.decl.id == rule), None)
    variant = None if scenario is None else variant_of(scenario, found)
    told.values = _numbers(told, variant, checked)
    told.in_seconds = variant is not None and variant.measure.type.kind == "duration"
    owner = read_owner(state)
    stream = target.stream or (None if owner is None else state.__class__(owner.path))
    if stream is None:
        told.notes.append("where the stream is, nobody said: name it as STREAM")
    else:
        ledger, closed = committed(state)
        history = History(stream, closed, ledger.commit.position if ledger.commit is not None else None)
        _Reading(told, governing, history, source, batch).read()
    for event, prefix in ((told.event, ""), (told.before, "a.")):
        if event is not None:
            told.values |= _quoted(governing.contract, event, prefix)
    _fill_conditions(told)
    return told


# -- the events ----------------------------------------------------------------------------------------------------


class _Reading:
    """Reads the flag's event, and the events before it that its metrics took in, again from the stream."""

    def __init__(
        self, told: Explanation, governing: Governing, history: History, source: TomlSource, batch: BatchCommitted
    ) -> None:
        """`batch` is the one in which the flag's event was committed."""
        self.told, self.governing, self.history, self.source = told, governing, history, source
        self.batch = batch
        self.contract, self.checked = governing.contract, governing.ruleset.checked
        self.flag = told.found.flag
        rule = self.flag["rule_name"]
        self.scenario = next((each for each in self.checked.scenarios if each.decl.id == rule), None)
        self.id_of = attrgetter(self.contract.attribute(self.contract.id_field))

    def read(self) -> None:
        told = self.told
        first, last = self.batch.position.start + self.batch.first, self.batch.offset
        try:
            line = self.history.line_at(told.found.offset)
            same = self.history.digest(first, last) == self.batch.sha256
        except Gone as gone:
            told.notes.append(f"the events cannot be shown: {gone}")
            return
        try:
            own = self.contract.decoder.decode(line.removeprefix(BOM).rstrip(b"\r\n"))
        except (*UNREADABLE, RecursionError):
            own = None
        if own is None or self.id_of(own) != self.flag["event_id"]:
            where = f"byte {told.found.offset:,} does not hold the flag's event any more"
            told.notes.append(f"the events cannot be shown: the stream was changed since it was read: {where}")
            return
        if not same:
            where = f"bytes {first:,} to {last:,} are not those that were committed with the flag"
            told.notes.append(f"the stream was changed since it was read, so do not trust the events shown: {where}")
        time = (attrgetter(self.contract.time_field)(own) - EPOCH) // MICROSECOND
        told.event = self.event(told.found.offset, time, own)
        if self.scenario is None:
            return
        variant = variant_of(self.scenario, told.found)
        metrics = [self.checked.metrics[key] for key in variant.metrics]
        told.shown_fields = self.worth_showing(metrics)
        self.scan(self.scenario, metrics, own, time, len(line))

    def event(self, offset: int, time: int, event: object) -> Event:
        return Event(offset, time, str(self.id_of(event)), field_texts(self.contract, event))

    def scan(self, scenario: CheckedScenario, metrics: list[Metric], own: Any, time: int, length: int) -> None:  # noqa: ANN401 - a compiled Struct
        """Run the stretch of the stream before the flag through probes for its metrics."""
        told, history, end = self.told, self.history, self.told.found.offset + length
        wanted = [Probe(MATCHED, metric.key) for metric in metrics]
        back = [self.lookback(metric) for metric in metrics]
        if scenario.after is not None:
            wanted.append(Probe(BEFORE, scenario.decl.id))
            back.append(scenario.after.within)
        if not wanted:
            return
        longest = None if None in back else max(each for each in back if each is not None)
        begin = 0
        if longest is not None:
            begin = history.since(end, time_reader(self.contract.time_field), time - longest)
        if end - begin > SCAN_BYTES:
            begin = end - SCAN_BYTES
            told.notes.append(f"only the last {SCAN_BYTES >> 20} MiB of the stream before the flag were read again")
        gone = history.gone_between(begin, end)
        if gone:
            told.notes.append(f"gone, so without their events: {', '.join(gone)}")
        keys = {probe: self.key_reader(probe) for probe in wanted}
        own_keys = {probe: read(own) for probe, read in keys.items()}
        matched: dict[Probe, list[Event]] = {probe: [] for probe in wanted}
        ruleset, policy = self.governing.ruleset, self.governing.policy
        probing = Probing(ruleset, self.contract, policy, wanted, alone=True)
        try:
            for offset, data in history.blocks(begin, end):
                starts = _line_offsets(offset, data)
                for line, event, at, probe in probing.hits(data, at_start=history.begins_segment(offset)):
                    if keys[probe](event) == own_keys[probe]:
                        moment = (at - EPOCH) // MICROSECOND
                        matched[probe].append(self.event(starts[line], moment, event))
        except Gone as missing:
            told.notes.append(f"not all events could be read: {missing}")
        reached = max((each.time for events in matched.values() for each in events), default=time)
        self.take(metrics, matched, max(time, reached))
        if scenario.after is not None:
            earlier = [each for each in matched[wanted[-1]] if each.offset < told.found.offset]
            told.before = earlier[-1] if earlier else None

    def key_reader(self, probe: Probe) -> Any:  # noqa: ANN401 - an attrgetter
        if probe.kind == MATCHED:
            return attrgetter(*(self.contract.attribute(name) for name in self.checked.metrics[probe.of].by))
        after = next(each.after for each in self.checked.scenarios if each.decl.id == probe.of)
        assert after is not None  # noqa: S101 - only asked for where there is one
        return attrgetter(self.contract.attribute(after.by))

    def lookback(self, metric: Metric) -> int | None:
        """Return how far back an event can matter to the metric, None without a bound."""
        if metric.window is None:
            return None
        reach = metric.window + metric.offset
        behind: list[int | None] = [0]
        for term in metric.where.walk() if metric.where else ():
            if term.op == "flagged" and isinstance(term.value, tuple):
                counted = [each for each in self.checked.scenarios if each.decl.id in term.value]
                behind += [each.after.within for each in counted if each.after is not None]
                behind += [
                    self.lookback(self.checked.metrics[key])
                    for each in counted for variant in each.variants for key in variant.metrics
                ]  # fmt: skip
        return None if None in behind else reach + max(each for each in behind if each is not None)

    def take(self, metrics: list[Metric], matched: dict[Probe, list[Event]], time: int) -> None:
        raw = self.source.data.get("metric", {})
        shown = self.flag.get("metrics", {})
        event = self.told.event
        for metric in metrics:
            begin, end = bounds(metric, time)
            events = [each for each in matched[Probe(MATCHED, metric.key)] if begin is None or each.time >= begin]
            events = [each for each in events if each.time < end or (each.time == end and not metric.offset)]
            if metric.field is not None:
                events = [each for each in events if each.fields.get(metric.field) != UNKNOWN]
            if metric.fn == "since_first":
                events = events[:1]
            elif metric.fn == "since_previous":
                events = [each for each in events if each.offset < self.told.found.offset][-1:]
            elif metric.fn == "last":
                events = events[-1:]
            elif metric.last:
                events = events[-metric.last :]
            key = ", ".join(f"{name} {event.fields[name]}" for name in metric.by) if event is not None else ""
            value = _written(shown.get(metric.name), metric.type).strip("'")
            self.told.taken.append(Taken(metric.name, metric_text(raw[metric.name]), value, key, begin, end, events))

    def worth_showing(self, metrics: list[Metric]) -> tuple[str, ...]:
        """Return the fields that the scenario and its metrics read, in the order of the contract."""
        scenario = self.scenario
        assert scenario is not None  # noqa: S101 - the caller has one
        variant = variant_of(scenario, self.told.found)
        after = scenario.after
        terms = [scenario.on, after.where if after else None, variant.when, variant.measure]
        terms += [metric.where for metric in metrics]
        read = {name for term in terms if term is not None for name in term.names("field")}
        read |= {name for term in terms if term is not None for name in term.names("earlier")}
        read |= {name for metric in metrics for name in (*metric.by, metric.field) if name is not None}
        read -= self.told.hidden
        return tuple(each.name for each in self.contract.fields if each.name in read)


def variant_of(scenario: CheckedScenario, found: Found) -> Variant:
    """Return the scenario as it stood for the flag's subject."""
    segment = found.flag.get("segment")
    return next((each for each in scenario.variants if each.segment == segment), scenario.variants[-1])


def bounds(metric: Metric, time: int) -> tuple[int | None, int]:
    """Return where the metric's window begins and ends for an event at `time`; None: it has no beginning."""
    if metric.day:
        local = time + metric.utc_offset * 1_000_000
        return local // 86_400_000_000 * 86_400_000_000 - metric.utc_offset * 1_000_000, time
    end = time - metric.offset
    return (None if metric.window is None else end - metric.window), end


def _line_offsets(offset: int, data: bytes) -> list[int]:
    starts = []
    for line in cut_lines(data):
        starts.append(offset)
        offset += len(line)
    return starts


# -- texts ---------------------------------------------------------------------------------------------------------


def field_texts(contract: Contract, event: object) -> dict[str, str]:
    """Return the fields of an event as a person writes them; money with exactly its decimals."""
    texts: dict[str, str] = {}
    for each in contract.fields:
        value = attrgetter(contract.attribute(each.name))(event)
        if value is None:
            texts[each.name] = UNKNOWN
        elif each.kind == "money":
            texts[each.name] = f"{value:.{each.scale}f}"  # the nearest double to that amount: it gives its digits back
        elif isinstance(value, bool):
            texts[each.name] = "true" if value else "false"
        elif isinstance(value, dt.datetime):
            texts[each.name] = value.isoformat()
        else:
            texts[each.name] = str(value)
    return texts


def length_text(seconds: object) -> str:
    """Return a duration that a flag gives in seconds, exactly, as people say it: ``1d 2h 3m 4.5s``."""
    whole, _, decimals = str(seconds).partition(".")
    sign, rest, parts = "-" if whole.startswith("-") else "", abs(int(whole)), []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if rest >= size:
            parts.append(f"{rest // size}{unit}")
            rest %= size
    if rest or decimals or not parts:
        parts.append(f"{rest}.{decimals}s" if decimals else f"{rest}s")
    return sign + " ".join(parts)


def metric_text(table: dict[str, Any]) -> str:
    """Return a metric as it is written, on one line."""

    def text(value: object) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        return str(value) if isinstance(value, int | DecimalText) else one_line(str(value))

    return ", ".join(f"{key} {text(value)}" for key, value in table.items())


def _fill_conditions(told: Explanation) -> None:
    """Put the numbers into the scenario's own words."""
    rule = told.rule
    values = told.values
    derived = told.derived

    def numbers(text: str) -> str:
        return filled(text, _Values(values, derived))

    on = rule.get("on")
    texts = [("on", part) for part in conjuncts(on)] if isinstance(on, str) else []
    if isinstance(on, dict):
        told.conditions.append(("on", f"one of {', '.join(on.get('of', ()))} held", ""))
    if isinstance(rule.get("after"), dict):
        after = rule["after"]
        said = f"{one_line(after['where'])}, within {after['within']}"
        told.conditions.append(("after", said, _earlier(told)))
    texts += [("when", part) for part in conjuncts(rule.get("when", ""))] if rule.get("when") else []
    for what, part in texts:
        text = numbers(part)
        told.conditions.append((what, part, text[1:-1] if part in derived else text))


def _earlier(told: Explanation) -> str:
    """Return the event that came before, how long before, and its fields that the scenario and its metrics read."""
    before, event = told.before, told.event
    if before is None or event is None:
        return ""
    ago = (Decimal(event.time - before.time) / 1_000_000).normalize()
    fields = ", ".join(f"{name} {before.fields[name]}" for name in told.shown_fields)
    return f"{before.id}, {length_text(f'{ago:f}')} before: {fields}"


class _Values(dict[str, str]):
    """The texts of names, in which a derived field is what it stands for, in brackets, with its numbers."""

    def __init__(self, values: dict[str, str], derived: dict[str, str]) -> None:
        super().__init__(values)
        for name, text in derived.items():  # one may stand in those below it, never above
            self[name] = f"({filled(one_line(text), self)})"


def _numbers(told: Explanation, variant: Variant | None, checked: Checked) -> dict[str, str]:
    """Return the text of each parameter, metric, field and ``a.`` field at the flag's event."""
    flag = told.found.flag
    kinds = {name: kind for name, (kind, _) in variant.params.items()} if variant is not None else {}
    keys = variant.metrics if variant is not None else ()
    metrics = {checked.metrics[key].name: checked.metrics[key].type for key in keys}
    values = {f"p.{name}": _written(value, kinds.get(name)) for name, value in flag.get("parameters", {}).items()}
    return values | {name: _written(value, metrics.get(name)) for name, value in flag.get("metrics", {}).items()}


def _quoted(contract: Contract, event: Event, prefix: str = "") -> dict[str, str]:
    """Return the fields of an event as conditions write them."""
    values: dict[str, str] = {}
    for each in contract.fields:
        text = event.fields[each.name]
        quoted = each.kind in ("string", "enum") and text != UNKNOWN
        values[f"{prefix}{each.name}"] = f"'{text}'" if quoted else text
    return values


def _written(value: object, kind: Type | None = None) -> str:
    """Return a value of a flag as a condition writes it."""
    if value is None:
        return UNKNOWN
    if kind is not None and kind.kind == "duration":
        return f"'{length_text(value)}'"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}'" if isinstance(value, str) and not isinstance(value, DecimalText) else str(value)
