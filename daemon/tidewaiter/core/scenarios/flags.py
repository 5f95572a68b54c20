"""One line of flags.jsonl from one hit.

Owns: the keys of a flag, their order, and how values are written. Leaves to `generating` when there is a hit, and to
the engine the original texts of the event's times and the position of its line.

The line is compact JSON with a newline. Money is a JSON number with exactly the field's decimals, written from the
whole number of minor units. All that is the same for every flag of a scenario is written once, when the ruleset is
loaded.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.scenarios.checking import CheckedScenario
    from tidewaiter.core.scenarios.generating import Hit
    from tidewaiter.core.scenarios.terms import Type

_FIRST_METRIC: Final = 4  # of a hit: index, scenario, metric_value, threshold, then the metrics

encode: Final = msgspec.json.Encoder().encode


def money_text(units: int, scale: int) -> str:
    """Return minor `units` as a decimal number with exactly `scale` decimals."""
    if scale == 0:
        return str(units)
    whole, rest = divmod(abs(units), 10**scale)
    return f"{'-' if units < 0 else ''}{whole}.{rest:0{scale}d}"


def value_text(kind: Type, value: Any) -> str:  # noqa: ANN401 - int, str or bool, as `kind` says
    """Return a value of the type `kind` as JSON; a number that has no unit stays as it was written."""
    if kind.kind == "money":
        return money_text(value, kind.scale)
    if kind.kind == "number":
        return str(value).replace("_", "")
    return encode(value).decode()


def make_renderer(
    scenario: CheckedScenario, digest: str, id_field: str
) -> Callable[[Hit, Any, str, str | None, int], bytes]:
    """Return ``render(hit, event, event_time_text, ingest_time_text, offset)`` for the flags of `scenario`."""
    decl = scenario.decl
    kind = scenario.measure.type
    constant = scenario.threshold.op == "const"
    threshold = value_text(kind, scenario.threshold.value) if constant else ""
    params = ",".join(f"{_quoted(name)}:{value_text(*value)}" for name, value in scenario.params.items())
    to_user = f':{decl.id}","user_id":'.encode()
    to_value = f',"rule_name":"{decl.id}","metric_value":'.encode()
    to_threshold = f',"threshold":{threshold}'.encode()
    to_event = f',"window":{scenario.window},"event_id":'.encode()
    to_metrics = (
        f',"scenario_version":{decl.version},"severity":"{decl.severity}","typology":"{decl.typology}",'
        f'"parameters":{{{params}}},"metrics":{{'
    ).encode()
    end = f',"scenario_digest":"{digest}"}}\n'.encode()
    ids = attrgetter(id_field, scenario.subject)
    number = _number_writer(kind)
    metrics = _metrics_writer(scenario.metrics)

    def render(hit: Hit, event: Any, event_time: str, ingest_time: str | None, offset: int) -> bytes:  # noqa: ANN401 - a compiled Struct
        event_id, subject = ids(event)
        quoted = encode(event_id)
        time = encode(event_time)
        # joining bytes is the quickest way: three times as quick as formatting whole numbers into them
        return b"".join((
            b'{"flag_id":', quoted[:-1], to_user, encode(subject), to_value, number(hit[2]),
            to_threshold, b"" if constant else number(hit[3]), to_event, quoted,
            b',"event_time":', time, b',"ingest_time":', time if ingest_time == event_time else encode(ingest_time),
            to_metrics, metrics(hit) if metrics else b"", b'},"offset":', encode(offset), end,
        ))  # fmt: skip

    return render


def _quoted(name: str) -> str:
    return encode(name).decode()


def _number_writer(kind: Type) -> Callable[[int], bytes]:
    if kind.kind != "money" or kind.scale == 0:
        return encode
    scale = kind.scale
    unit: int = 10**scale
    if scale > 3:  # noqa: PLR2004 - a table of all fractions is worth its memory up to here
        return lambda units: money_text(units, scale).encode()
    fractions = [f".{rest:0{scale}d}".encode() for rest in range(unit)]

    def write(units: int) -> bytes:
        if units < 0:
            return money_text(units, scale).encode()
        return encode(units // unit) + fractions[units % unit]

    return write


def _metrics_writer(names: tuple[str, ...]) -> Callable[[Hit], bytes] | None:
    if not names:
        return None
    labels = [f"{',' if place else ''}{_quoted(name)}:".encode() for place, name in enumerate(names)]
    first = labels[0]
    if len(labels) == 1:
        return lambda hit: first + encode(hit[_FIRST_METRIC])
    return lambda hit: b"".join(
        part for label, value in zip(labels, hit[_FIRST_METRIC:], strict=True) for part in (label, encode(value))
    )
