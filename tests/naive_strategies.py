"""Made-up rulesets and streams for the contract `differential.toml`.

Owns: the TOML of a ruleset with every construct of the language in it, most of which `check` accepts, and events whose
times and amounts meet windows, thresholds and midnights exactly. Leaves conditions to `naive_conditions`.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hypothesis import strategies as st

from naive_conditions import (
    CONSTANTS,
    ENUMS,
    NUMBERS,
    OPTIONAL,
    TEXTS,
    TRUTHS,
    Draw,
    Params,
    Words,
    chance,
    comparand,
    condition,
    param_value,
    params_in,
    pick,
    quantity,
)

# A parameter in a metric's `where` makes it a template; these may stand there, each in its own comparison.
TEMPLATES: Final = {
    "least": ("money2", "amount >= p.least"),
    "most_risk": ("integer", "risk <= p.most_risk"),
    "abroad": ("text:country", "country != p.abroad"),
}
WINDOWS: Final = ("2s", "1s", "3s", "5s", "10s")
BY: Final = (
    ("account",), ("account",), ("account",), ("branch",), ("account", "branch"), ("channel",), ("party",), ("device",),
    ("currency", "account"), ("account", "currency"),
)  # fmt: skip
FILES: Final = {
    "lists/watch.txt": "# watched\nNO\n a \n\nD\n",
    "lists/codes.csv": 'note,code\nfirst,N\n"second, quoted",d1\n',
}
LISTS: Final = (
    '[list.watch]\nfile = "lists/watch.txt"\n',
    '[list.codes]\nfile = "lists/codes.csv"\nmatch = "prefix"\ncolumn = "code"\n',
)
UTC_OFFSETS: Final = {"+00:00": 0, "+01:00": 60, "-05:30": -330, "+05:45": 345}
STEPS: Final = (1000, 0, 0, 0, 0, 500, 1000, 2000, 3000, 5000, 0, -1000)


@dataclass(frozen=True)
class Case:
    """A ruleset, the lists beside it, and a stream."""

    rules: str
    files: dict[str, str]
    lines: list[bytes]
    seed: int  # of the places where the stream is cut

    def __repr__(self) -> str:
        """Show it so that it can be pasted into a file."""
        stream = "\n".join(line.decode() for line in self.lines)
        return f"\n{self.rules}\n-- events --\n{stream}\n"


@dataclass
class MetricDraft:
    """A metric as drawn: its line, the kind of its value, and who may use it."""

    name: str
    line: str
    kind: str
    cap: int | None = None
    templates: tuple[str, ...] = ()
    shadow: bool = False


@dataclass
class Draft:
    """A ruleset in the making.

    `known`: it uses no field that may be absent; `bare`: its metrics and scenarios have few settings. With both next to
    nothing is unknown, and scenarios have one variant: the engine has shorter ways for that.
    """

    known: bool = False
    bare: bool = False
    derived: dict[str, str] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    metrics: dict[str, MetricDraft] = field(default_factory=dict)
    scenarios: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    shadow: list[str] = field(default_factory=list)
    scored: list[str] = field(default_factory=list)

    def words(self) -> Words:
        """Return what conditions over fields may use."""
        words = Words(truths=(*TRUTHS, *self.derived), lists=self.lists)
        return words.always_there() if self.known else words

    def some(self, *fields: str) -> list[str]:
        """Return those of `fields` that may be used."""
        return [field for field in fields if not (self.known and field in OPTIONAL)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a ruleset and a stream.

    All choices are drawn through one `Random`: drawn as nested strategies, two of three examples would be copies of
    others with a part repeated, which is what Hypothesis does to parts that it can tell apart.
    """
    below = draw(st.randoms(use_true_random=False)).randrange
    utc_offset = pick(below, list(UTC_OFFSETS))
    rules = _ruleset(below, utc_offset)
    numbers = [(below(2**23), below(2**23)) for _ in range(5 + below(8) * pick(below, (1, 2, 5)))]
    return Case(rules, FILES, _stream(numbers, utc_offset), below(1_000))


# -- events ------------------------------------------------------------------------------------------------------------


class _Digits:
    """A drawn number, taken apart into choices: one draw for many of them is fast."""

    def __init__(self, number: int) -> None:
        self.number = number

    def of(self, options: Any) -> Any:
        """Return one of `options`."""
        self.number, digit = divmod(self.number, len(options))
        return options[digit]


def _stream(numbers: list[tuple[int, int]], utc_offset: str) -> list[bytes]:
    """Return events around a local midnight."""
    midnight = dt.datetime(2026, 3, 10, tzinfo=dt.UTC) - dt.timedelta(minutes=UTC_OFFSETS[utc_offset])
    time = midnight - dt.timedelta(seconds=4)
    lines = []
    for place, (first, second) in enumerate(numbers):
        keys, values = _Digits(first), _Digits(second)
        step = dt.timedelta(milliseconds=keys.of(STEPS))
        at = time + step
        time = max(time, at)
        event: dict[str, Any] = {
            "id": f"e{place}",
            "at": at.isoformat(timespec="milliseconds"),
            "account": keys.of("aab"),
            "branch": keys.of("xy"),
            "channel": keys.of(TEXTS["channel"]),
            "currency": keys.of(("EUR", "EUR", "USD")),
            "amount": values.of((10.0, 10.01, 20.0, 50.5, -5.0, 100.0, 9.99)),
            "foreign": keys.of((True, False)),
            "country": keys.of(TEXTS["country"]),
            "verified": keys.of((True, False, None)),
            "party": keys.of((*TEXTS["party"], None)),
            "fee": values.of((0.5, 0.001, 1.125, None)),
            "risk": values.of((1, 2, 0, -1, 5, None)),
            "level": values.of((1, 0, 2, 3, None)),
            "units": values.of((1, 2, 0, -1, 3)),
            "meta": values.of(
                (None, {}, {"device": {}}, {"device": {"id": "d1"}, "trust": 1}, {"device": {"id": "d2"}})
            ),
        }
        if event["meta"] is not None and values.of((True, False)):
            event["meta"] = {**event["meta"], "trust": values.of((0, 2, 5))}
        # absent is absent; a null that is written out means the same
        kept = {
            key: value
            for key, value in event.items()
            if value is not None or (key in {"party", "risk"} and values.of((True, False)))
        }
        lines.append(json.dumps(kept).encode())
    return lines


# -- rulesets ----------------------------------------------------------------------------------------------------------


def _ruleset(draw: Draw, utc_offset: str) -> str:
    draft = Draft(known=chance(draw, 2), bare=chance(draw, 3))
    lists = pick(draw, ((), LISTS[:1], LISTS[1:], LISTS))
    draft.lists = tuple(re.findall(r"list\.(\w+)", "".join(lists)))
    for number in range(pick(draw, (0, 1, 2))):
        draft.derived[f"d{number}"] = condition(draw, draft.words(), 1)
    for _ in range(pick(draw, (1, 2, 3, 4))):
        _add_metric(draw, draft, of=())
    for _ in range(pick(draw, (1, 2, 3))):
        _add_scenario(draw, draft)
        named = [*draft.live, *draft.shadow]
        if named and chance(draw, 2):
            _add_metric(draw, draft, of=tuple(dict.fromkeys(pick(draw, named) for _ in range(2))))
    typologies = [_typology(draw, draft, number) for number in range(pick(draw, (1, 1, 2)))] if draft.scored else []
    derived = "".join(f"{name} = {toml(text)}\n" for name, text in draft.derived.items())
    metrics = "".join(f"{metric.line}\n" for metric in draft.metrics.values())
    return "\n".join([
        f'ruleset = "made_up"\nversion = 1\ncontract = "differential/1"\nutc_offset = "{utc_offset}"',
        *(["[field]", derived] if derived else []),
        *lists,
        "[metric]",
        metrics,
        *draft.scenarios,
        *typologies,
    ])  # fmt: skip


def toml(text: str) -> str:
    """Return `text` as a TOML string."""
    return json.dumps(text)


def inline(table: dict[str, str]) -> str:
    """Return a table of TOML values in one line."""
    return f"{{ {', '.join(f'{key} = {value}' for key, value in table.items())} }}"


def _add_metric(draw: Draw, draft: Draft, of: tuple[str, ...]) -> None:
    name = f"m{len(draft.metrics)}"
    fns = (
        ("count", "sum") if of else ("count", "sum", "min", "max", "distinct", "last", "since_previous", "since_first")
    )
    fn = pick(draw, fns)
    by = pick(draw, [keys for keys in BY if len(draft.some(*keys)) == len(keys)])
    table: dict[str, str] = {}
    column, kind = _column(draw, draft, fn)
    inside = [column] if column else []
    if of:
        inside = [*(inside or ["flags"]), f"of=[{', '.join(repr(each) for each in of)}]"]
    table["fn"] = toml(f"{fn}({', '.join(inside)})" if inside else fn)
    table["by"] = toml(by[0]) if len(by) == 1 else json.dumps(list(by))
    metric = MetricDraft(name, "", kind, shadow=any(each in draft.shadow for each in of))
    _range(draw, metric, fn, table, countable=not of)
    where, templates = ([], ()) if draft.bare and chance(draw, 2) else _where(draw, draft)
    metric.templates = templates
    if column == "amount" and "currency" not in by and fn in {"sum", "min", "max", "last"}:
        where.insert(0, "currency == 'EUR'")
    if where:
        table["where"] = toml(" and ".join(where))
    if metric.cap is None and not draft.bare and chance(draw, 4):
        table["default"] = _default(draw, kind)
    metric.line = f"{name} = {inline(table)}"
    draft.metrics[name] = metric


def _column(draw: Draw, draft: Draft, fn: str) -> tuple[str, str]:
    """Draw what is aggregated, and return the kind of the metric's value."""
    if fn == "count" or fn.startswith("since"):
        return "", "duration" if fn != "count" else "integer"
    numbers = draft.some("amount", "units", "amount", "units", "risk", "fee", "level", "trust")
    if fn in {"sum", "min", "max"}:
        column = pick(draw, numbers)
        return column, NUMBERS[column]
    if fn == "distinct":
        return pick(draw, draft.some("party", "country", "channel", "device", *numbers)), "integer"
    column = pick(draw, draft.some("party", "country", "channel", "foreign", "verified", *numbers))
    return column, NUMBERS.get(column) or ("truth" if column in TRUTHS else f"text:{column}")


def _range(draw: Draw, metric: MetricDraft, fn: str, table: dict[str, str], *, countable: bool) -> None:
    """Draw which of the events a metric looks at."""
    if fn == "since_first":
        if chance(draw, 2):
            table["warmup"] = toml(pick(draw, ("2s", "3s", "1s")))
        return
    if fn == "since_previous" or (fn == "last" and chance(draw, 2)):
        return
    shape = pick(draw, ("window", "window", "window", "offset", "offset", "day", "last", "last"))
    if shape == "last" and fn in {"sum", "min", "max", "distinct"} and countable:
        table["last"] = str(pick(draw, (2, 3, 1)))
        return
    table["window"] = toml("day" if shape == "day" else pick(draw, WINDOWS))
    if shape == "offset":
        table["offset"] = toml(pick(draw, ("1s", "2s", "3s")))
    if fn in {"count", "distinct"} and chance(draw, 4):
        metric.cap = pick(draw, (2, 3, 1, 4))
        table["cap"] = str(metric.cap)


def _where(draw: Draw, draft: Draft) -> tuple[list[str], tuple[str, ...]]:
    """Draw the conjuncts of a metric's condition, and return them with the parameters in them."""
    conjuncts = [f"({condition(draw, draft.words(), 1)})"] if chance(draw, 3) else []
    if chance(draw, 4):
        name = pick(draw, [name for name in TEMPLATES if not (draft.known and name == "most_risk")])
        conjuncts.append(TEMPLATES[name][1])
        return conjuncts, (name,)
    return conjuncts, ()


def _default(draw: Draw, kind: str) -> str:
    if kind == "truth":
        return pick(draw, ("true", "false"))
    return param_value(draw, kind)


def _add_scenario(draw: Draw, draft: Draft) -> None:
    number = len(draft.scenarios)
    identity = f"s{number}"
    status = pick(draw, ("live", "live", "live", "live", "shadow", "shadow", "draft", "retired"))
    usable = [metric for metric in draft.metrics.values() if status == "shadow" or not metric.shadow]
    # two or three are looked at closely, the newest more often than not: it may count flags
    chosen = {metric.name: metric for metric in ([pick(draw, usable) for _ in range(2)] if usable else [])}
    chosen |= {metric.name: metric for metric in usable[-1:]}
    params = Params({name: (TEMPLATES[name][0], param_value(draw, TEMPLATES[name][0]))
                     for metric in chosen.values() for name in metric.templates})  # fmt: skip
    fields = replace(draft.words(), params=params)
    table: dict[str, str] = {"typology": '"made_up"', "version": "1", "severity": '"low"', "status": toml(status)}
    subject = pick(draw, draft.some("account", "account", "account", "branch", "party"))
    if subject != "account":
        table["subject"] = toml(subject)
    earlier = [*draft.live, *(draft.shadow if status == "shadow" else ())]
    settled = _on(draw, table, fields, earlier)
    with_after = chance(draw, 4)
    if with_after:
        settled.append(_after(draw, table, fields))
    params.fixed = params_in(settled)
    words = _all_words(fields, chosen)
    words = words.with_earlier(draft.words()) if with_after else words
    when = "level >= 0" if chance(draw, 5) else condition(draw, words, pick(draw, (0, 1, 2, 2)))
    kind = words.numbers[pick(draw, list(words.numbers))]
    measure, threshold = quantity(draw, words, kind), comparand(draw, words, kind)
    table |= {"when": toml(when), "measure": toml(measure), "threshold": toml(threshold)}
    texts = [*settled, when, measure, threshold]
    if not chance(draw, 4):
        texts.append(_reason(draw, table, words, [name for name in chosen if name not in words.capped]))
    if chance(draw, 2):
        texts.append(_score(draw, table, words, kind))
        if status in {"live", "shadow"}:
            draft.scored.append(identity)
    texts += [metric.line for name, metric in chosen.items() if any(re.search(rf"\b{name}\b", text) for text in texts)]
    params.keep_used(texts)
    if params.values:
        table["params"] = inline({name: value for name, (_, value) in params.values.items()})
    _repeat(draw, table)
    segments = _segments(draw, draft, params, subject)
    lines = "".join(f"{key} = {value}\n" for key, value in (table | segments).items())
    draft.scenarios.append(f"[scenario.{identity}]\n{lines}")
    if status in {"live", "shadow"}:
        (draft.live if status == "live" else draft.shadow).append(identity)


def _all_words(fields: Words, chosen: dict[str, MetricDraft]) -> Words:
    """Return the words of fields and of the chosen metrics."""
    numbers, texts, truths, capped = {}, dict(fields.texts), fields.truths, {}
    for name, metric in chosen.items():
        if metric.cap is not None:
            capped[name] = metric.cap
        elif metric.kind.startswith("text:"):
            texts = {name: metric.kind.removeprefix("text:"), **texts}
        elif metric.kind == "truth":
            truths = (name, *truths)
        else:
            numbers[name] = metric.kind
    return replace(fields, numbers=numbers | fields.numbers, texts=texts, truths=truths, capped=capped)


def _on(draw: Draw, table: dict[str, str], fields: Words, earlier: list[str]) -> list[str]:
    """Draw which events are looked at, and return the condition, if it is one."""
    shape = draw(6)
    if shape == 5 and earlier:
        table["on"] = inline({"of": json.dumps(list(dict.fromkeys(pick(draw, earlier) for _ in range(2))))})
    elif shape in {3, 4}:
        text = condition(draw, fields, 1)
        table["on"] = toml(text)
        return [text]
    return []


def _after(draw: Draw, table: dict[str, str], fields: Words) -> str:
    where = condition(draw, fields, 1)
    after = {"where": toml(where), "within": toml(pick(draw, ("3s", "1s", "5s", "2s", "1m")))}
    if chance(draw, 3):
        after["by"] = toml(pick(draw, ("branch", "party", "channel", "country")))
    if chance(draw, 2):
        after["reuse"] = pick(draw, ("true", "false"))
    table["after"] = inline(after)
    return where


def _reason(draw: Draw, table: dict[str, str], words: Words, metrics: list[str]) -> str:
    """Draw a reason that shows all of `metrics`: then a flag tells every value, whatever the condition uses."""
    names = [*words.numbers, *words.texts, *words.truths]
    known = [f"p.{name}" for name in words.params.values] if words.params else []
    shown = [pick(draw, known or names), pick(draw, names), *metrics]
    text = "saw {{braced}} " + ", ".join(f"{{{name}}}" for name in shown)
    table["reason"] = toml(text)
    return text


def _score(draw: Draw, table: dict[str, str], words: Words, measured: str) -> str:
    """Draw bands, for the measure (of the kind `measured`) or a value of their own, and return that value."""
    own_value = chance(draw, 2)
    kind = words.numbers[pick(draw, list(words.numbers))] if own_value else measured
    value = quantity(draw, words, kind) if own_value else ""
    bounds = [text.strip("'") for text in CONSTANTS[kind]]
    chosen = {pick(draw, bounds) for _ in range(pick(draw, (1, 2, 3)))}
    ascending = sorted(chosen, key=_size)
    quoted = ascending if kind == "integer" else [f'"{text}"' for text in ascending]
    if chance(draw, 2):
        quoted = ["", *quoted]
    if chance(draw, 2) or len(quoted) == 1:
        quoted = [*quoted, ""]
    bands = []
    for place, (low, high) in enumerate(itertools.pairwise(quoted)):
        band = {
            "at_least": low,
            "below": high,
            "points": str(pick(draw, (10, 5, 20, -3, 0))),
            "reason": f'"band {place}"',
        }
        bands.append(inline({key: text for key, text in band.items() if text}))
    table["score"] = inline(({"value": toml(value)} if value else {}) | {"bands": f"[{', '.join(bands)}]"})
    return value


def _size(text: str) -> float:
    """Return a bound's size, for sorting; durations in seconds."""
    for unit, factor in (("ms", 0.001), ("s", 1), ("m", 60)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def _repeat(draw: Draw, table: dict[str, str]) -> None:
    if chance(draw, 2):
        table["repeat"] = pick(draw, ('"edge"', '"edge"', '"every"'))
    if chance(draw, 2):
        table["cooldown"] = toml(pick(draw, ("3s", "2s", "1s", "5s")))


def _segments(draw: Draw, draft: Draft, params: Params, subject: str) -> dict[str, str]:
    """Draw populations with their own parameters."""
    free = [name for name in params.values if name not in params.fixed]
    segments = {}
    for name in ("first", "second")[: pick(draw, (0, 1, 2)) if free and not draft.bare else 0]:
        chosen = dict.fromkeys(pick(draw, free) for _ in range(2))
        own = {param: param_value(draw, params.values[param][0]) for param in chosen}
        if name == "second" and draft.lists and subject not in ENUMS and chance(draw, 2):
            segments[f"segment.{pick(draw, draft.lists)}"] = inline(own)
        else:
            where = condition(draw, draft.words(), 1)
            segments[f"segment.{name}"] = inline({"where": toml(where), **own})
    return segments


def _typology(draw: Draw, draft: Draft, number: int) -> str:
    shadow = any(each in draft.shadow for each in draft.scored)
    live = [each for each in draft.scored if each in draft.live]
    named = live if live and (not shadow or chance(draw, 2)) else draft.scored
    status = "live" if named is live else pick(draw, ("shadow", "draft"))
    if chance(draw, 6):
        status = "retired"
    weights = {each: str(pick(draw, (1, 2, 3))) for each in [pick(draw, named), *named]}
    table = {
        "version": "1",
        "severity": '"high"',
        "status": toml(status),
        "threshold": str(pick(draw, (10, 5, -60, 20, -3))),
        "weights": inline(weights),
    }
    _repeat(draw, table)
    if chance(draw, 2):
        table["reason"] = toml("points for {account}: {amount} {risk}")
    lines = "".join(f"{key} = {value}\n" for key, value in table.items())
    return f"[typology.t{number}]\n{lines}"
