"""What a ruleset file may contain: its tables and keys, read into declarations.

Owns: the names of the keys, their TOML types, the shape of identifiers and durations. Leaves to `expressions` the text
of conditions and to `checking` whether names, types and units fit together.

A key that is not known is an error that names the nearest one: a misspelt `treshold` must never be ignored.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from typing import Any, Final

from tidewaiter.core.toml_source import DecimalText, KeyPath, Table, TomlSource

MAX_METRICS: Final = 500
MAX_SCENARIOS: Final = 500
SEVERITIES: Final = ("low", "medium", "high", "critical")
STATUSES: Final = ("live",)
REPEATS: Final = ("every", "edge")
RESERVED: Final = frozenset({"p", "true", "false", "flags", "list", "a"})

_RULESET_KEYS: Final = ("ruleset", "version", "contract", "title", "metric", "scenario")
_METRIC_KEYS: Final = ("fn", "by", "window", "where")
_SCENARIO_KEYS: Final = (
    "title",
    "typology",
    "risk_ref",
    "version",
    "severity",
    "status",
    "subject",
    "on",
    "when",
    "params",
    "measure",
    "threshold",
    "window",
    "repeat",
)
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_SCENARIO_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")
_DURATION: Final = re.compile(r"(0|[1-9][0-9]{0,8})([smhd])\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_SECONDS: Final = 100 * 366 * 86400

Param = str | int | bool | DecimalText


@dataclass(frozen=True)
class MetricDecl:
    """A metric as written; `window` in seconds."""

    name: str
    fn: str
    by: str
    window: int
    where: str | None


@dataclass(frozen=True)
class ScenarioDecl:
    """A scenario as written; `on` is an expression, the ids of earlier scenarios, or None for every event."""

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


@dataclass(frozen=True)
class RulesetDecl:
    """A whole file as written, in file order."""

    name: str
    version: int
    contract: str
    metrics: tuple[MetricDecl, ...]
    scenarios: tuple[ScenarioDecl, ...]


class _Table(Table):
    """Look-ups of what only rulesets have."""

    def version(self) -> int:
        value: int = self.take("version", int)
        if not 1 <= value < 2**31:
            raise self.error("version", "must be a whole number from 1 up")
        return value

    def seconds(self, key: str, *, least: int, default: Any = ...) -> int | None:  # noqa: ANN401 - None or "required"
        text = self.take(key, str, default)
        if text is None:
            return None
        match = _DURATION.match(text)
        seconds = int(match[1]) * _SECONDS[match[2]] if match else -1
        if not least <= seconds <= _MAX_SECONDS:
            hint = "a whole number and s, m, h or d, at most 100 years, for example '10s', '5m', '24h', '90d'"
            raise self.error(key, f"{text!r} is not a duration", hint=hint)
        return seconds

    def matching(self, key: str, pattern: re.Pattern[str], rule: str) -> str:
        value: str = self.take(key, str)
        if not pattern.match(value):
            raise self.error(key, f"{value!r} is not a usable name", hint=rule)
        return value


def read_ruleset(source: TomlSource) -> RulesetDecl:
    """Return the declarations of the file. Raises ConfigError for an unknown key, a missing one, or a wrong type."""
    top = _table(source, (), source.data, _RULESET_KEYS)
    name = top.matching("ruleset", _NAME, "lower-case letters, digits and _, beginning with a letter")
    version = top.version()
    contract = top.take("contract", str)
    top.take("title", str, "")
    metrics = top.take("metric", dict, {})
    scenarios = top.take("scenario", dict)
    for key, table, limit in (("metric", metrics, MAX_METRICS), ("scenario", scenarios, MAX_SCENARIOS)):
        if len(table) > limit:
            raise source.error((key,), f"{len(table)} are too many", hint=f"at most {limit}")
    if not scenarios:
        raise source.error(("scenario",), "names no scenario", hint="add a table [scenario.ID]")
    return RulesetDecl(
        name=name,
        version=version,
        contract=contract,
        metrics=tuple(_metric(source, key, value) for key, value in metrics.items()),
        scenarios=tuple(_scenario(source, key, value) for key, value in scenarios.items()),
    )


def _table(source: TomlSource, path: KeyPath, data: object, keys: tuple[str, ...]) -> _Table:
    table = _Table(source, path, data, hint=f"with the keys {', '.join(keys)}")
    table.only(keys)
    return table


def _metric(source: TomlSource, name: str, data: object) -> MetricDecl:
    path = ("metric", name)
    if not _NAME.match(name) or keyword.iskeyword(name) or name in RESERVED:
        hint = f"lower-case letters, digits and _, beginning with a letter; not {', '.join(sorted(RESERVED))}"
        raise source.error(path, "is not a usable name", hint=hint, key=True)
    table = _table(source, path, data, _METRIC_KEYS)
    return MetricDecl(
        name=name,
        fn=table.take("fn", str),
        by=table.take("by", str),
        window=table.seconds("window", least=1) or 0,
        where=table.take("where", str, None),
    )


def _scenario(source: TomlSource, name: str, data: object) -> ScenarioDecl:
    path = ("scenario", name)
    if not _SCENARIO_ID.match(name):
        hint = "letters, digits, - and _, beginning with a letter, at most 64"
        raise source.error(path, "is not a usable scenario id", hint=hint, key=True)
    table = _table(source, path, data, _SCENARIO_KEYS)
    return ScenarioDecl(
        id=name,
        title=table.take("title", str, ""),
        typology=table.matching("typology", _SCENARIO_ID, "letters, digits, - and _, beginning with a letter"),
        risk_ref=table.take("risk_ref", str, ""),
        version=table.version(),
        severity=table.one_of("severity", SEVERITIES),
        status=table.one_of("status", STATUSES, "live"),
        subject=table.take("subject", str, None),
        on=_on(source, path, table),
        when=table.take("when", str),
        params=_params(source, path, table.take("params", dict, {})),
        measure=table.take("measure", str),
        threshold=_threshold(source, path, table),
        window=table.seconds("window", least=0, default=None),
        repeat=table.one_of("repeat", REPEATS, "every"),
    )


def _on(source: TomlSource, path: KeyPath, table: _Table) -> str | tuple[str, ...] | None:
    value = table.data.get("on")
    if value is None or type(value) is str:  # a DecimalText is no expression
        return value
    ids = _table(source, (*path, "on"), value, ("of",)).data.get("of")
    if not isinstance(ids, list) or not ids or not all(isinstance(item, str) for item in ids):
        raise source.error(
            (*path, "on", "of"), "must be a list of scenario ids", hint="for example { of = ['a', 'b'] }"
        )
    return tuple(ids)


def _params(source: TomlSource, path: KeyPath, data: dict[str, Any]) -> dict[str, Param]:
    for name, value in data.items():
        if not _NAME.match(name) or keyword.iskeyword(name):
            hint = "lower-case letters, digits and _, beginning with a letter"
            raise source.error((*path, "params", name), "is not a usable name", hint=hint, key=True)
        if not isinstance(value, str | int):
            raise source.error((*path, "params", name), "must be a number, a text or a truth value")
    return data


def _threshold(source: TomlSource, path: KeyPath, table: _Table) -> str:
    value = table.data.get("threshold")
    if isinstance(value, bool) or not isinstance(value, str | int):
        what = "is missing" if value is None else "must be a number or an expression in quotes"
        raise source.error((*path, "threshold"), what, hint="for example 5, '500.00' or 'p.limit'", key=value is None)
    return str(value)
