"""The value of a metric at an event, worked out anew each time from the whole history of its key."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from naive_expressions import NamedList, Scope, Value, evaluate
from naive_ruleset import MICROSECONDS_OF_A_DAY, Microseconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from naive_ruleset import Metric


@dataclass
class Past:
    """An event with all that later ones may ask about it.

    `time` is its effective time, `fields` has contract and derived fields (unknown: None), `held` the scenarios that
    held at it so far, `points` what typologies add up.
    """

    position: int
    time: Microseconds
    fields: Mapping[str, Value]
    held: set[str] = field(default_factory=set)
    points: dict[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What a metric's value depends on besides history: parameters of the variant, lists, the first event's time."""

    params: Mapping[str, Value]
    lists: Mapping[str, NamedList]
    start: Microseconds
    utc_offset: Microseconds


def metric_value(metric: Metric, here: Past, history: Sequence[Past] | None, setting: Setting) -> Value:
    """Return the metric at the event `here`, the last of its key's `history`; None for a key that is not known."""
    value = None if history is None else _aggregate(metric, here, history, setting)
    if value is None:
        return metric.default
    if metric.cap is not None:
        assert isinstance(value, Fraction)
        return min(value, Fraction(metric.cap))
    return value


def _counts(metric: Metric, past: Past, setting: Setting) -> bool:
    """Say whether the event is one the metric is about."""
    if metric.of and not metric.of & past.held:
        return False
    if metric.field is not None and past.fields[metric.field] is None:
        return False
    return evaluate(metric.where, Scope(past.fields.__getitem__, setting.lists, setting.params)) is True


def _in_range(metric: Metric, time: Microseconds, now: Microseconds, setting: Setting) -> bool:
    """Say whether an event of `time` lies within the metric's window at an event of the time `now`."""
    if metric.day:
        local = now + setting.utc_offset
        midnight = local - local % MICROSECONDS_OF_A_DAY - setting.utc_offset
        return midnight <= time
    if metric.window is None:
        return True
    if metric.offset:
        return now - metric.offset - metric.window <= time < now - metric.offset
    return now - metric.window <= time


def _aggregate(metric: Metric, here: Past, history: Sequence[Past], setting: Setting) -> Value:  # noqa: PLR0911 - one for each function
    if metric.offset and metric.window is not None and setting.start > here.time - metric.offset - metric.window:
        return None
    ranged = [past for past in history if _in_range(metric, past.time, here.time, setting)]
    events = [past for past in ranged if _counts(metric, past, setting)]
    if metric.fn == "since_previous":
        before = [past for past in events if past is not here]
        return Fraction(here.time - before[-1].time, 1_000_000) if before else None
    if metric.fn == "since_first":
        if not events or events[0].time < setting.start + metric.warmup:
            return None
        return Fraction(here.time - events[0].time, 1_000_000)
    if metric.fn == "count":
        return Fraction(len(events))
    if metric.last is not None:
        if len(events) < metric.last:
            return None
        events = events[-metric.last :]
    values = [past.fields[str(metric.field)] for past in events]
    if metric.fn == "distinct":
        return Fraction(len(set(values)))
    if not values:
        return None
    if metric.fn == "last":
        return values[-1]
    numbers = [value for value in values if isinstance(value, Fraction)]
    if metric.fn == "sum":
        return sum(numbers, Fraction())
    return min(numbers) if metric.fn == "min" else max(numbers)
