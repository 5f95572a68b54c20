"""One line of flags.jsonl (or suppressed.jsonl, shadow_flags.jsonl) from one hit.

Owns: the keys of a flag, their order, how values are written, and how long a flag can become. Leaves to `generating`
when there is a hit, and to the engine the original texts of the event's times and the position of its line.

The line is compact JSON with a newline. Money is a JSON number with exactly the field's decimals, written from the
whole number of minor units; a duration is one of seconds. What is unknown is null. All that is the same for every flag
of a scenario is written once, when the ruleset is loaded.

A hit is ``(index of the event, outcome, metric_value, threshold, metrics..., what the reason tells..., bands of a
typology's scenarios..., end of the cooldown)``, the last only where it is suppressed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidewaiter.core.contract import QUOTED_TIME_LENGTH
from tidewaiter.core.scenarios.terms import INTEGER, MAX_DIGITS, Term, Type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.generating import Hit
    from tidewaiter.core.scenarios.model import Band

Render = Callable[["Hit", Any, str, str | None, int], bytes]
Write = Callable[[Any], bytes]
Tail = Callable[["Hit"], bytes]

FIRST_METRIC: Final = 4  # of a hit: index, outcome, metric_value, threshold, then the metrics
LONGEST_NUMBER: Final = MAX_DIGITS + 2
LONGEST_METRIC: Final = 42
"""A sum has at most 40 digits: an amount is below 10^15 minor units, and no stream has 10^18 events."""
_ESCAPED: Final = 6  # bytes that JSON takes at most for a character
_UNBOUNDED: Final = 1 << 20  # a text without a bound does not fit any entry
_SECOND: Final = 1_000_000

encode: Final = msgspec.json.Encoder().encode


def money_text(units: int, scale: int) -> str:
    """Return minor `units` as a decimal number with exactly `scale` decimals."""
    if scale == 0:
        return str(units)
    whole, rest = divmod(abs(units), 10**scale)
    return f"{'-' if units < 0 else ''}{whole}.{rest:0{scale}d}"


def seconds_text(micros: int) -> str:
    """Return a duration in seconds, exactly, with as few decimals as will do."""
    whole, rest = divmod(abs(micros), _SECOND)
    decimals = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if micros < 0 else ''}{whole}{decimals}"


def value_text(kind: Type, value: Any) -> str:  # noqa: ANN401 - int, str or bool, as `kind` says
    """Return a value of the type `kind` as JSON; a number that has no unit as `tables.constant` left it."""
    if value is None:
        return "null"
    if kind.kind == "money":
        return money_text(value, kind.scale)
    if kind.kind == "duration":
        return seconds_text(value)
    if kind.kind == "number":
        return str(value)
    return encode(value).decode()


def told_text(kind: Type, value: Any) -> str:  # noqa: ANN401 - int, str or bool, as `kind` says
    """Return a value as a reason tells it."""
    if value is None:
        return "unknown"
    if isinstance(value, str) and kind.kind != "number":
        return value
    return value_text(kind, value) + ("s" if kind.kind == "duration" else "")


def utc_text(time: datetime) -> str:
    """Return `time` as UTC text with microseconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


@dataclass(frozen=True)
class Form:
    """What the flags of one outcome are made of.

    `metrics` are names, types, and how many characters a text of that type may have, in the order of the hit.
    `parameters` is JSON, `segment` too (None where there are no segments), `lists` are the digests of their files,
    `bands` those of a typology's scenarios with their weights.
    """

    id: str
    version: int
    severity: str
    typology: str
    subject: str
    digest: str
    window: int
    measure: Type
    threshold: Term | None
    parameters: str
    metrics: tuple[tuple[str, Type, int], ...]
    segment: str | None = None
    reason: tuple[str | Term, ...] = ()
    lists: Mapping[str, str] | None = None
    bands: tuple[tuple[str, int, tuple[Band, ...]], ...] | None = None
    suppressed: bool = False

    @property
    def told(self) -> int:
        """How many values of the hit the reason tells."""
        return sum(isinstance(piece, Term) and piece.op != "const" for piece in self.reason)

    @property
    def is_constant(self) -> bool:
        """Whether the threshold is the same for every flag."""
        return self.threshold is not None and self.threshold.op == "const"

    @property
    def threshold_text(self) -> str:
        """A constant threshold as JSON."""
        return value_text(self.measure, self.threshold.value) if self.threshold is not None else ""


def make_renderer(form: Form, contract: Contract) -> Render:
    """Return ``render(hit, event, event_time_text, ingest_time_text, offset)`` for the flags of one outcome.

    The function is written for the outcome and compiled: most of a flag is constant, and joining bytes is the quickest
    way (three times as quick as formatting whole numbers into them). What the ruleset says gets into its text only as
    the literals that `repr` makes of bytes.
    """
    names: dict[str, Any] = {"encode": encode, "join": b"".join, "until": lambda hit: utc_text(hit[-1]).encode()}
    names["more"] = more = _more_writer(form)

    def value(kind: Type, hit: str, name: str) -> str:
        names[name] = _writer(kind)
        return f"{name}({hit})"

    threshold = [] if form.is_constant else [value(form.measure, "hit[3]", "threshold")]
    metrics: list[str] = []
    for place, (name, kind, _) in enumerate(form.metrics):
        metrics += [_literal(f"{',' if place else ''}{_quoted(name)}:")]
        metrics += [value(kind, f"hit[{FIRST_METRIC + place}]", f"metric_{place}")]
    pieces = [
        _literal('{"flag_id":'), "quoted[:-1]", _literal(f':{form.id}","user_id":'),
        f"encode(event.{contract.attribute(form.subject)})", _literal(f',"rule_name":"{form.id}","metric_value":'),
        value(form.measure, "hit[2]", "measure"),
        _literal(f',"threshold":{form.threshold_text if form.is_constant else ""}'), *threshold,
        _literal(f',"window":{form.window},"event_id":'), "quoted", _literal(',"event_time":'), "time",
        _literal(',"ingest_time":'), "time if ingest_time == event_time else encode(ingest_time)",
        _literal(f',"scenario_version":{form.version},"severity":"{form.severity}","typology":"{form.typology}",'
                 f'"parameters":{form.parameters},"metrics":{{'), *metrics, _literal("}"),
        *(["more(hit)"] if more else []), _literal(',"offset":'), "encode(offset)",
        _literal(f',"scenario_digest":"{form.digest}"'),
        *([_literal(',"suppressed_until":"'), "until(hit)", _literal('"')] if form.suppressed else []),
        _literal("}\n"),
    ]  # fmt: skip
    source = f"""
def render(hit, event, event_time, ingest_time, offset):
    quoted = encode(event.{contract.attribute(contract.id_field)})
    time = encode(event_time)
    return join(({", ".join(pieces)}))
"""
    exec(compile(source, f"<flags of {form.id}>", "exec"), names)  # noqa: S102 - see above
    render: Render = names["render"]
    return render


def _literal(text: str) -> str:
    return repr(text.encode())


def _quoted(text: str) -> str:
    return encode(text).decode()


def _writer(kind: Type) -> Write:
    """Return what writes a value of a type, null where it is unknown."""
    if kind.kind == "duration":
        return lambda value: b"null" if value is None else seconds_text(value).encode()
    if kind.kind != "money" or kind.scale == 0:
        return encode
    scale = kind.scale
    unit: int = 10**scale
    if scale > 3:  # noqa: PLR2004 - a table of all fractions is worth its memory up to here
        return lambda units: b"null" if units is None else money_text(units, scale).encode()
    fractions = [f".{rest:0{scale}d}".encode() for rest in range(unit)]

    def write(units: int | None) -> bytes:
        if units is None:
            return b"null"
        if units < 0:
            return money_text(units, scale).encode()
        return encode(units // unit) + fractions[units % unit]

    return write


def _more_writer(form: Form) -> Tail | None:
    """Return what writes everything from the end of the metrics to the offset, None where there is nothing more."""
    parts: list[Tail] = []
    if form.segment is not None:
        parts.append(_fixed(f',"segment":{form.segment}'))
    place = FIRST_METRIC + len(form.metrics)
    if form.reason:
        parts.append(_reason_writer(form.reason, place))
    if form.lists:
        texts = ",".join(f'{_quoted(name)}:"{digest}"' for name, digest in form.lists.items())
        parts.append(_fixed(f',"lists":{{{texts}}}'))
    if form.bands is not None:
        parts.append(_score_writer(form.bands, place + form.told))
    if not parts:
        return None
    return lambda hit: b"".join([part(hit) for part in parts])


def _fixed(text: str) -> Tail:
    data = text.encode()
    return lambda _: data


def _reason_writer(pieces: Sequence[str | Term], place: int) -> Tail:
    """Return what writes the reason; the values it tells begin at `place` of the hit."""
    steps: list[tuple[str, Type, int]] = []
    for piece in pieces:
        if isinstance(piece, str):
            steps.append((piece, INTEGER, -1))
        elif piece.op == "const":
            steps.append((told_text(piece.type, piece.value), INTEGER, -1))
        else:
            steps.append(("", piece.type, place))
            place += 1

    def write(hit: Hit) -> bytes:
        text = "".join([text if at < 0 else told_text(kind, hit[at]) for text, kind, at in steps])
        return b',"reason":' + encode(text)

    return write


def _score_writer(bands: Sequence[tuple[str, int, tuple[Band, ...]]], place: int) -> Tail:
    """Return what writes the score of a typology; the numbers of the bands begin at `place` of the hit."""
    texts = [
        [
            encode({"scenario": name, "points": weight * band.points, "reason": band.reason})
            for band in bands_of_scenario
        ]
        for name, weight, bands_of_scenario in bands
    ]

    def write(hit: Hit) -> bytes:
        numbers = hit[place : place + len(texts)]
        found = [each[number] for each, number in zip(texts, numbers, strict=True) if number is not None]
        return b',"score":[' + b",".join(found) + b"]"

    return write


# -- how long a flag can become ----------------------------------------------------------------------------------------


def longest_flag(form: Form, contract: Contract, texts: Mapping[str, int]) -> int:
    """Return an upper bound of a flag's length in bytes, over all events that the contract accepts.

    A character takes at most six bytes in JSON, a time text has at most `QUOTED_TIME_LENGTH` characters; keys, numbers
    and digests that every flag has take less than a thousand bytes. `texts` says how many characters the text of a
    metric may have, by key.
    """
    ids = 2 * (contract.by_name[contract.id_field].max_length or 0) + longest_text(form.subject, contract)
    own = form.id, form.id, form.severity, form.typology
    length = 1000 + _ESCAPED * (ids + 2 * QUOTED_TIME_LENGTH + sum(map(len, own)))
    length += len(form.parameters.encode()) + 2 * LONGEST_NUMBER
    length += sum(_ESCAPED * (len(name) + characters) + 10 + LONGEST_METRIC for name, _, characters in form.metrics)
    length += len(form.segment.encode()) + 20 if form.segment is not None else 0
    for piece in form.reason:
        if isinstance(piece, str):
            length += _ESCAPED * len(piece)
        elif piece.op == "const":
            length += _ESCAPED * len(told_text(piece.type, piece.value))
        elif piece.type.kind in ("string", "enum"):
            name = str(piece.value)
            length += _ESCAPED * (texts.get(name, 0) if piece.op == "metric" else longest_text(name, contract)) + 10
        else:
            length += LONGEST_METRIC + 10
    length += sum(_ESCAPED * len(name) + 80 for name in form.lists or ())
    for name, _, bands in form.bands or ():
        length += _ESCAPED * (len(name) + max((len(band.reason) for band in bands), default=0)) + 80
    return length


def longest_text(field: str, contract: Contract) -> int:
    """Return how many characters a field may have, 0 for one that is no text."""
    found = contract.by_name[field]
    if found.kind == "enum":
        return max(map(len, found.values))
    return (found.max_length or _UNBOUNDED) if found.kind == "string" else 0
