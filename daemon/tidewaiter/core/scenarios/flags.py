"""One line of flags.jsonl (or suppressed.jsonl, shadow_flags.jsonl) from one hit.

Owns: the keys of a flag, their order, how values are written, and how long a flag can become. Leaves to `generating`
when there is a hit, and to the engine the original texts of the event's times and the position of its line.

The line is compact JSON, here without its newline. Money is a JSON number with exactly the field's decimals, written
from the whole number of minor units; a duration is one of seconds. What is unknown is null. All that is the same for
every flag of a scenario is written once, when the ruleset is loaded.

A hit is ``(index of the event, outcome, metric_value, threshold, metrics..., what the reason tells..., bands of a
typology's scenarios..., end of the cooldown)``, the last only where it is suppressed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidewaiter.core.contract import QUOTED_TIME_LENGTH, OriginalText
from tidewaiter.core.scenarios.terms import INTEGER, MAX_DIGITS, Term, Type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios.generating import Hit
    from tidewaiter.core.scenarios.model import Band

Render = Callable[["Hit", Any, OriginalText, int], str]
Write = Callable[[Any], str]
Tail = Callable[["Hit"], str]

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


def make_renderer(form: Form, contract: Contract, *, escaping: bool) -> Render:
    """Return ``render(hit, event, text, offset)`` for the flags of one outcome; `text` are the event's times.

    The function is written for the outcome and compiled: most of a flag is constant, and an f-string is the quickest
    way (joining bytes takes twice as long). What the ruleset says gets into its text only as the literals that `repr`
    makes of texts. Without `escaping` the texts of the event are written as they are: for lines without a backslash,
    which is what every character that JSON escapes must be written with.
    """
    names: dict[str, Any] = {"escaped": _escaped, "quoted": _quoted, "until": lambda hit: utc_text(hit[-1])}
    names["more"] = more = _more_writer(form)

    def text(of: str, *, required: bool = True) -> list[str]:
        if not required:
            return [f"f'{{quoted({of})}}'"]
        return ["'\"'", f"f'{{escaped({of})}}'" if escaping else f"f'{{{of}}}'", "'\"'"]

    def value(kind: Type, hit: str, name: str) -> str:
        if kind.kind == "integer":
            return f"f'{{\"null\" if {hit} is None else {hit}}}'"
        names[name] = _writer(kind)
        return f"f'{{{name}({hit})}}'"

    threshold = [] if form.is_constant else [value(form.measure, "hit[3]", "threshold")]
    metrics: list[str] = []
    for place, (name, kind, _) in enumerate(form.metrics):
        metrics += [repr(f"{',' if place else ''}{_quoted(name)}:")]
        metrics += [value(kind, f"hit[{FIRST_METRIC + place}]", f"metric_{place}")]
    subject = text(f"event.{contract.attribute(form.subject)}", required=contract.by_name[form.subject].required)
    pieces = [
        repr('{"flag_id":"'), "f'{key}'", repr(f':{form.id}","user_id":'), *subject,
        repr(f',"rule_name":"{form.id}","metric_value":'), value(form.measure, "hit[2]", "measure"),
        repr(f',"threshold":{form.threshold_text if form.is_constant else ""}'), *threshold,
        repr(f',"window":{form.window},"event_id":"'), "f'{key}'", repr('","event_time":'), *text("text.event_time"),
        repr(',"ingest_time":'), *text("text.ingest_time", required=contract.ingest_field is not None and not escaping),
        repr(f',"scenario_version":{form.version},"severity":"{form.severity}","typology":"{form.typology}",'
             f'"parameters":{form.parameters},"metrics":{{'), *metrics, repr("}"),
        *(["f'{more(hit)}'"] if more else []), repr(',"offset":'), "f'{offset}'",
        repr(f',"scenario_digest":"{form.digest}"'),
        *([repr(',"suppressed_until":"'), "f'{until(hit)}'", repr('"')] if form.suppressed else []),
        repr("}"),
    ]  # fmt: skip
    key = f"event.{contract.attribute(contract.id_field)}"
    source = f"""
def render(hit, event, text, offset):
    key = {f"escaped({key})" if escaping else key}
    return {" ".join(pieces)}
"""
    exec(compile(source, f"<flags of {form.id}>", "exec"), names)  # noqa: S102 - see above
    render: Render = names["render"]
    return render


def _quoted(value: Any) -> str:  # noqa: ANN401 - whatever JSON can say
    """Return any value as JSON."""
    return encode(value).decode()


def _escaped(text: str) -> str:
    """Return a text as JSON without its quotes."""
    return encode(text)[1:-1].decode()


def _writer(kind: Type) -> Write:
    """Return what writes a value of a type, null where it is unknown."""
    if kind.kind == "duration":
        return lambda value: "null" if value is None else seconds_text(value)
    if kind.kind != "money" or kind.scale == 0:
        return _quoted
    scale = kind.scale
    unit: int = 10**scale
    if scale > 3:  # noqa: PLR2004 - a table of all fractions is worth its memory up to here
        return lambda units: "null" if units is None else money_text(units, scale)
    fractions = [f".{rest:0{scale}d}" for rest in range(unit)]

    def write(units: int | None) -> str:
        if units is None:
            return "null"
        if units < 0:
            return money_text(units, scale)
        return f"{units // unit}{fractions[units % unit]}"

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
    return lambda hit: "".join([part(hit) for part in parts])


def _fixed(text: str) -> Tail:
    return lambda _: text


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

    def write(hit: Hit) -> str:
        text = "".join([text if at < 0 else told_text(kind, hit[at]) for text, kind, at in steps])
        return f',"reason":{_quoted(text)}'

    return write


def _score_writer(bands: Sequence[tuple[str, int, tuple[Band, ...]]], place: int) -> Tail:
    """Return what writes the score of a typology; the numbers of the bands begin at `place` of the hit."""
    texts = [
        [
            _quoted({"scenario": name, "points": weight * band.points, "reason": band.reason})
            for band in bands_of_scenario
        ]
        for name, weight, bands_of_scenario in bands
    ]

    def write(hit: Hit) -> str:
        numbers = hit[place : place + len(texts)]
        found = [each[number] for each, number in zip(texts, numbers, strict=True) if number is not None]
        return f',"score":[{",".join(found)}]'

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
