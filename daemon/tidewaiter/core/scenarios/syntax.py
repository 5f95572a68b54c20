"""What a ruleset file may contain: its tables and keys, read into declarations.

Owns: the declarations, the names of the keys, their TOML types. Leaves to `tables` the shape of names and durations, to
`expressions` the text of conditions and to `checking` whether names, types and units fit together.

A key that is not known is an error that names the nearest one: a misspelt `treshold` must never be ignored.
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field
from typing import Any, Final

from tidewaiter.core.scenarios.tables import (
    ID_RULE,
    MICROSECONDS,
    NAME,
    NAME_RULE,
    SCENARIO_ID,
    Param,
    RulesTable,
    check_id,
    check_name,
    constant,
)
from tidewaiter.core.toml_source import KeyPath, TomlSource, kind_of

MAX_FIELDS: Final = 200
MAX_LISTS: Final = 50
MAX_METRICS: Final = 500
MAX_SCENARIOS: Final = 500
MAX_TYPOLOGIES: Final = 100
MAX_SEGMENTS: Final = 20
MAX_PARAMS: Final = 100
MAX_BANDS: Final = 50
MAX_BY: Final = 5
MAX_KEPT: Final = 10_000  # the largest `last` and `cap`
MAX_POINTS: Final = 10**6
MAX_WEIGHT: Final = 1000
MAX_TEXT: Final = 1000
MAX_PARAM: Final = 1 << 20  # what fits a flag is found when all its parts are known
SEVERITIES: Final = ("low", "medium", "high", "critical")
STATUSES: Final = ("draft", "shadow", "live", "retired")
RUNNING: Final = ("shadow", "live")
REPEATS: Final = ("every", "edge")
MATCHES: Final = ("exact", "prefix")

RULESET_KEYS: Final = (
    "ruleset", "version", "contract", "title", "utc_offset", "field", "list", "metric", "scenario", "typology",
)  # fmt: skip
LIST_KEYS: Final = ("file", "match", "column")
METRIC_KEYS: Final = ("fn", "by", "window", "offset", "last", "where", "cap", "warmup", "default")
SCENARIO_KEYS: Final = (
    "title", "typology", "risk_ref", "version", "severity", "status", "subject", "on", "when", "params", "segment",
    "measure", "threshold", "window", "repeat", "cooldown", "after", "reason", "score", "tests",
)  # fmt: skip
AFTER_KEYS: Final = ("where", "within", "by", "reuse")
SCORE_KEYS: Final = ("value", "bands")
BAND_KEYS: Final = ("at_least", "below", "points", "reason")
TYPOLOGY_KEYS: Final = (
    "title", "version", "severity", "status", "threshold", "weights", "repeat", "cooldown", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class ListDecl:
    """A list as written; `column` is None for a file of lines."""

    name: str
    file: str
    prefix: bool
    column: str | None


@dataclass(frozen=True)
class MetricDecl:
    """A metric as written; times in microseconds, 0 or None where not said; `window` of a day is 24 h and `day`."""

    name: str
    fn: str
    by: tuple[str, ...]
    window: int | None
    day: bool
    offset: int
    last: int
    where: str | None
    cap: int
    warmup: int
    default: Param | None


@dataclass(frozen=True)
class SegmentDecl:
    """A population with its own parameters; `where` None: the subject is in the list of the segment's name."""

    name: str
    where: str | None
    params: dict[str, Param]


@dataclass(frozen=True)
class AfterDecl:
    """A sequence as written; `within` in microseconds."""

    where: str
    within: int
    by: str | None
    reuse: bool


@dataclass(frozen=True)
class BandDecl:
    """A band as written, its limits still without a unit."""

    at_least: Param | None
    below: Param | None
    points: int
    reason: str


@dataclass(frozen=True)
class ScoreDecl:
    """A score as written; `value` None: the measure."""

    value: str | None
    bands: tuple[BandDecl, ...]


@dataclass(frozen=True)
class ScenarioDecl:
    """A scenario as written; `on` is an expression, the ids of earlier scenarios, or None for every event.

    `window` in seconds, `cooldown` in microseconds (0: none).
    """

    id: str
    title: str
    typology: str
    risk_ref: str
    version: int
    severity: str
    status: str
    subject: str | None
    on: str | tuple[str, ...] | None
    when: str
    params: dict[str, Param]
    measure: str
    threshold: str
    window: int | None
    repeat: str
    segments: tuple[SegmentDecl, ...] = ()
    cooldown: int = 0
    after: AfterDecl | None = None
    reason: str | None = None
    score: ScoreDecl | None = None
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class TypologyDecl:
    """A typology as written; `cooldown` in microseconds (0: none)."""

    id: str
    title: str
    version: int
    severity: str
    status: str
    threshold: int
    weights: dict[str, int]
    repeat: str
    cooldown: int
    reason: str | None


@dataclass(frozen=True)
class RulesetDecl:
    """A whole file as written, in file order; `fields` are the derived ones, `utc_offset` is in seconds."""

    name: str
    version: int
    contract: str
    metrics: tuple[MetricDecl, ...]
    scenarios: tuple[ScenarioDecl, ...]
    title: str = ""
    utc_offset: int | None = None
    fields: dict[str, str] = field(default_factory=dict)
    lists: tuple[ListDecl, ...] = ()
    typologies: tuple[TypologyDecl, ...] = ()


def read_ruleset(source: TomlSource) -> RulesetDecl:
    """Return the declarations of the file. Raises ConfigError for an unknown key, a missing one, or a wrong type."""
    top = RulesTable(source, (), source.data, RULESET_KEYS)
    name = top.matching("ruleset", NAME, NAME_RULE)
    version = top.version()
    contract = top.take("contract", str)
    title = top.take("title", str, "")
    utc_offset = top.utc_offset("utc_offset")
    limits = {"field": MAX_FIELDS, "list": MAX_LISTS, "metric": MAX_METRICS, "typology": MAX_TYPOLOGIES}
    tables = {key: top.take(key, dict, {}) for key in limits} | {"scenario": top.take("scenario", dict)}
    for key, limit in (*limits.items(), ("scenario", MAX_SCENARIOS)):
        if len(tables[key]) > limit:
            raise source.error((key,), f"{len(tables[key])} are too many", hint=f"at most {limit}")
    if not tables["scenario"]:
        raise source.error(("scenario",), "names no scenario", hint="add a table [scenario.ID]")
    return RulesetDecl(
        name=name,
        version=version,
        contract=contract,
        title=title,
        utc_offset=utc_offset,
        fields={key: _derived(source, key, value) for key, value in tables["field"].items()},
        lists=tuple(_list(source, key, value) for key, value in tables["list"].items()),
        metrics=tuple(_metric(source, key, value) for key, value in tables["metric"].items()),
        scenarios=tuple(_scenario(source, key, value) for key, value in tables["scenario"].items()),
        typologies=tuple(_typology(source, key, value) for key, value in tables["typology"].items()),
    )


def _derived(source: TomlSource, name: str, value: object) -> str:
    path = ("field", name)
    check_name(source, path)
    if type(value) is not str:
        hint = "for example: cash_in = \"kind == 'deposit'\"; a nested value of the input is named in the contract"
        raise source.error(path, f"must be a condition in quotes, not {kind_of(value)}", hint=hint)
    return value


def _list(source: TomlSource, name: str, data: object) -> ListDecl:
    path = ("list", name)
    check_name(source, path)
    table = RulesTable(source, path, data, LIST_KEYS)
    file: str = table.take("file", str)
    suffix = file.rpartition(".")[2]
    if suffix not in ("txt", "csv") or len(file) > MAX_TEXT:
        raise table.error("file", f"{file!r} is not a list file", hint="allowed: a path that ends in .txt or .csv")
    if file.startswith("/") or "\\" in file or not file.isprintable():
        hint = "a path relative to the ruleset file, for example 'lists/high_risk.txt'"
        raise table.error("file", f"{file!r} is not a usable path", hint=hint)
    if suffix == "txt" and "column" in table.data:
        raise table.error("column", "a .txt file has no columns", hint="leave it out, or use a .csv file", key=True)
    column = table.take("column", str) if suffix == "csv" else None
    return ListDecl(name, file, table.one_of("match", MATCHES, "exact") == "prefix", column)


def _metric(source: TomlSource, name: str, data: object) -> MetricDecl:
    path = ("metric", name)
    check_name(source, path)
    table = RulesTable(source, path, data, METRIC_KEYS)
    fn = table.take("fn", str)
    if "by" not in table.data:
        raise table.error("by", "is missing", hint="it must be a field, or a list of fields", key=True)
    day = table.data.get("window") == "day"
    window = 86_400 if day else table.seconds("window", least=1, default=None)
    default = table.data.get("default")
    return MetricDecl(
        name=name,
        fn=fn,
        by=table.names("by", "a field, or a list of fields, for example 'user' or ['user', 'country']", MAX_BY),
        window=None if window is None else window * MICROSECONDS,
        day=day,
        offset=table.length("offset"),
        last=table.whole("last", 1, MAX_KEPT, 0),
        where=table.take("where", str, None),
        cap=table.whole("cap", 1, MAX_KEPT, 0),
        warmup=table.length("warmup"),
        default=None if default is None else constant(source, (*path, "default"), default, longest=MAX_TEXT),
    )


def _scenario(source: TomlSource, name: str, data: object) -> ScenarioDecl:
    path = ("scenario", name)
    check_id(source, path, "scenario")
    table = RulesTable(source, path, data, SCENARIO_KEYS)
    params = _params(source, (*path, "params"), table.take("params", dict, {}))
    return ScenarioDecl(
        id=name,
        title=table.brief("title", MAX_TEXT),
        typology=table.matching("typology", SCENARIO_ID, ID_RULE),
        risk_ref=table.brief("risk_ref", MAX_TEXT),
        version=table.version(),
        severity=table.one_of("severity", SEVERITIES),
        status=table.one_of("status", STATUSES, "live"),
        subject=table.take("subject", str, None),
        on=_on(source, path, table),
        when=table.take("when", str),
        params=params,
        measure=table.take("measure", str),
        threshold=_threshold(table),
        window=table.seconds("window", least=0, default=None),
        repeat=table.one_of("repeat", REPEATS, "every"),
        segments=_segments(source, path, table.take("segment", dict, {})),
        cooldown=table.length("cooldown"),
        after=_after(source, path, table.data.get("after")),
        reason=table.brief("reason", MAX_TEXT, None),
        score=_score(source, path, table.data.get("score")),
        tests=table.names("tests", "a list of transcript files", MAX_SCENARIOS) if "tests" in table.data else (),
    )


def _on(source: TomlSource, path: KeyPath, table: RulesTable) -> str | tuple[str, ...] | None:
    value = table.data.get("on")
    if value is None or type(value) is str:  # a DecimalText is no expression
        return value
    inner = RulesTable(source, (*path, "on"), value, ("of",))
    if not isinstance(inner.data.get("of"), list):
        raise inner.error("of", "must be a list of scenario ids", hint="for example { of = ['a', 'b'] }")
    return inner.names("of", "a list of scenario ids", MAX_SCENARIOS)


def _params(source: TomlSource, path: KeyPath, data: dict[str, Any]) -> dict[str, Param]:
    if len(data) > MAX_PARAMS:
        raise source.error(path, f"{len(data)} are too many", hint=f"at most {MAX_PARAMS}")
    for name in data:
        if not NAME.match(name) or keyword.iskeyword(name) or name == "where":
            raise source.error((*path, name), "is not a usable name", hint=f"{NAME_RULE}; not where", key=True)
    return {name: constant(source, (*path, name), value, longest=MAX_PARAM) for name, value in data.items()}


def _segments(source: TomlSource, path: KeyPath, data: dict[str, Any]) -> tuple[SegmentDecl, ...]:
    if len(data) > MAX_SEGMENTS:
        raise source.error((*path, "segment"), f"{len(data)} are too many", hint=f"at most {MAX_SEGMENTS}")
    found = []
    for name, values in data.items():
        here = (*path, "segment", name)
        check_name(source, here)
        if not isinstance(values, dict):
            hint = "for example { where = \"channel == 'branch'\", n = 8 }"
            raise source.error(here, f"must be a table, not {kind_of(values)}", hint=hint)
        where = values.get("where")
        if where is not None and type(where) is not str:
            raise source.error((*here, "where"), f"must be a condition in quotes, not {kind_of(where)}")
        own = {key: value for key, value in values.items() if key != "where"}
        found.append(SegmentDecl(name, where, _params(source, here, own)))
    return tuple(found)


def _after(source: TomlSource, path: KeyPath, data: object) -> AfterDecl | None:
    if data is None:
        return None
    table = RulesTable(source, (*path, "after"), data, AFTER_KEYS)
    within = table.seconds("within", least=0) or 0
    return AfterDecl(
        where=table.take("where", str),
        within=within * MICROSECONDS,
        by=table.take("by", str, None),
        reuse=table.take("reuse", bool, default=False),
    )


def _score(source: TomlSource, path: KeyPath, data: object) -> ScoreDecl | None:
    if data is None:
        return None
    table = RulesTable(source, (*path, "score"), data, SCORE_KEYS)
    rows = table.take("bands", list)
    if not 1 <= len(rows) <= MAX_BANDS:
        raise table.error("bands", f"has {len(rows)} bands", hint=f"allowed: 1 to {MAX_BANDS}")
    bands = []
    for place, row in enumerate(rows):
        here = (*table.path, "bands", place)
        band = RulesTable(source, here, row, BAND_KEYS)
        limits = {
            key: None
            if band.data.get(key) is None
            else constant(source, (*here, key), band.data[key], longest=MAX_TEXT)
            for key in ("at_least", "below")
        }
        points = band.whole("points", -MAX_POINTS, MAX_POINTS)
        bands.append(BandDecl(**limits, points=points, reason=band.brief("reason", MAX_TEXT)))
    return ScoreDecl(table.take("value", str, None), tuple(bands))


def _threshold(table: RulesTable) -> str:
    value = table.data.get("threshold")
    if isinstance(value, bool) or not isinstance(value, str | int):
        what = "is missing" if value is None else "must be a number or an expression in quotes"
        raise table.error("threshold", what, hint="for example 5, '500.00' or 'p.limit'", key=value is None)
    return str(value)


def _typology(source: TomlSource, name: str, data: object) -> TypologyDecl:
    path = ("typology", name)
    check_id(source, path, "typology")
    table = RulesTable(source, path, data, TYPOLOGY_KEYS)
    weights = table.take("weights", dict)
    if not weights:
        raise table.error("weights", "names no scenario", hint="for example { fan_in = 2, fan_out = 1 }")
    inner = RulesTable(source, (*path, "weights"), weights, tuple(weights))
    return TypologyDecl(
        id=name,
        title=table.brief("title", MAX_TEXT),
        version=table.version(),
        severity=table.one_of("severity", SEVERITIES),
        status=table.one_of("status", STATUSES, "live"),
        threshold=table.whole("threshold", -(10**12), 10**12),
        weights={key: inner.whole(key, 1, MAX_WEIGHT) for key in weights},
        repeat=table.one_of("repeat", REPEATS, "every"),
        cooldown=table.length("cooldown"),
        reason=table.brief("reason", MAX_TEXT, None),
    )
