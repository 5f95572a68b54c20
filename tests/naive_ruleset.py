"""A ruleset, its lists and its contract, read from their texts as an analyst reads them.

Owns: the tables of TOML as plain records. Leaves evaluation to `naive_rules`. Shares no code with the product and
checks nothing.
"""

from __future__ import annotations

import csv
import io
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from naive_expressions import NamedList, Value, number

if TYPE_CHECKING:
    from collections.abc import Mapping

Microseconds = int
MICROSECONDS_OF_A_DAY = 86_400 * 1_000_000


@dataclass(frozen=True)
class Field:
    """A field of the contract; `path` is where its value stands in the input; `kind` as in `naive_kinds`."""

    name: str
    kind: str
    path: tuple[str, ...]
    default: Value


@dataclass(frozen=True)
class Contract:
    """The fields of an event, and which of them are its id and its subject."""

    fields: tuple[Field, ...]
    id_field: str
    subject: str


@dataclass(frozen=True)
class Metric:
    """A metric as written; `fn` without its arguments, `field` what it aggregates, `of` the scenarios it counts."""

    name: str
    fn: str
    field: str | None
    of: frozenset[str]
    by: tuple[str, ...]
    where: str
    window: Microseconds | None
    day: bool
    offset: Microseconds
    last: int | None
    cap: int | None
    warmup: Microseconds
    default: Value


@dataclass(frozen=True)
class Segment:
    """A population, as a condition, and its own parameters."""

    name: str
    where: str
    params: Mapping[str, Value]


@dataclass(frozen=True)
class After:
    """The event that must have come first."""

    where: str
    within: Microseconds
    by: str
    reuse: bool


@dataclass(frozen=True)
class Band:
    """Points for a value from `at_least` up to but not including `below`; None: without bound."""

    at_least: Fraction | None
    below: Fraction | None
    points: int
    reason: str


@dataclass(frozen=True)
class Scenario:
    """A scenario that runs. `on` is a condition, or the ids of which one must have held."""

    id: str
    shadow: bool
    subject: str
    on: str | frozenset[str]
    when: str
    after: After | None
    params: Mapping[str, Value]
    segments: tuple[Segment, ...]
    measure: str
    threshold: str
    edge: bool
    cooldown: Microseconds
    reason: str | None
    score_value: str | None
    bands: tuple[Band, ...]
    table: Mapping[str, Any]


@dataclass(frozen=True)
class Typology:
    """A typology that runs."""

    id: str
    shadow: bool
    threshold: int
    weights: Mapping[str, int]
    edge: bool
    cooldown: Microseconds
    reason: str | None
    table: Mapping[str, Any]


@dataclass(frozen=True)
class Ruleset:
    """What is evaluated: in file order, without drafts and what is retired."""

    derived: Mapping[str, str]
    lists: Mapping[str, NamedList]
    metrics: Mapping[str, Metric]
    scenarios: tuple[Scenario, ...]
    typologies: tuple[Typology, ...]
    utc_offset: Microseconds


def read_contract(text: str) -> Contract:
    """Read a contract; timestamps are left out, no rule can use them."""
    top = tomllib.loads(text)
    fields = []
    for name, table in top["field"].items():
        if table["type"] == "timestamp":
            continue
        kind = f"money{table.get('scale', 2)}" if table["type"] == "money" else table["type"]
        fields.append(Field(
            name=name,
            kind="text" if kind in {"string", "enum"} else kind,
            path=tuple(table.get("from", name).split(".")),
            default=constant(table.get("default")),
        ))  # fmt: skip
    return Contract(tuple(fields), top["id"], top["subject"])


def read_ruleset(text: str, files: Mapping[str, str], contract: Contract) -> Ruleset:
    """Read a ruleset and the lists it names."""
    top = tomllib.loads(text, parse_float=Decimal)
    kinds = {field.name: field.kind for field in contract.fields}
    scenarios = [
        _scenario(name, table, contract.subject) for name, table in top.get("scenario", {}).items() if runs(table)
    ]
    return Ruleset(
        derived=top.get("field", {}),
        lists={name: _list(table, files[table["file"]]) for name, table in top.get("list", {}).items()},
        metrics={name: _metric(name, table, kinds) for name, table in top.get("metric", {}).items()},
        scenarios=tuple(scenarios),
        typologies=tuple(_typology(name, table) for name, table in top.get("typology", {}).items() if runs(table)),
        utc_offset=_utc_offset(top.get("utc_offset", "+00:00")),
    )


def runs(table: Mapping[str, Any]) -> bool:
    """Say whether a scenario or typology is evaluated at all."""
    return table.get("status", "live") in {"live", "shadow"}


def constant(value: Any) -> Value:
    """Return a value of a TOML file: numbers as fractions, the rest as it is."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return Fraction(value)
    assert value is None or isinstance(value, bool | str)
    return value


def microseconds(text: str) -> Microseconds:
    """Return a duration such as '90d'."""
    seconds = number(text)
    assert seconds is not None
    return int(seconds * 1_000_000)


def _utc_offset(text: str) -> Microseconds:
    hours, minutes = text[1:].split(":")
    size = (int(hours) * 60 + int(minutes)) * 60 * 1_000_000
    return -size if text[0] == "-" else size


def _list(table: Mapping[str, Any], text: str) -> NamedList:
    if "column" in table:
        rows = csv.DictReader(io.StringIO(text, newline=""))
        entries = [row[table["column"]] for row in rows]
    else:
        stripped = [line.strip() for line in text.splitlines()]
        entries = [line for line in stripped if line and not line.startswith("#")]
    return NamedList(tuple(entries), table.get("match") == "prefix")


def _metric(name: str, table: Mapping[str, Any], kinds: Mapping[str, str]) -> Metric:
    fn, _, rest = table["fn"].partition("(")
    arguments, _, named = rest.removesuffix(")").partition("of=")
    field = arguments.strip().strip(",").strip()
    by, window, default = table["by"], table.get("window"), constant(table.get("default"))
    if isinstance(default, str) and (fn != "last" or kinds[field] != "text"):
        default = number(default)  # an amount or a duration
    return Metric(
        name=name,
        fn=fn,
        field=None if field in {"", "flags"} else field,
        of=frozenset(each.strip(" []'\"") for each in named.split(",") if each.strip(" []")),
        by=(by,) if isinstance(by, str) else tuple(by),
        where=table.get("where", "true"),
        window=None if window in {None, "day"} else microseconds(window),
        day=window == "day",
        offset=microseconds(table.get("offset", "0s")),
        last=table.get("last"),
        cap=table.get("cap"),
        warmup=microseconds(table.get("warmup", "0s")),
        default=default,
    )


def _scenario(name: str, table: Mapping[str, Any], contract_subject: str) -> Scenario:
    subject = table.get("subject", contract_subject)
    on = table.get("on", "true")
    score = table.get("score", {})
    segments = [
        Segment(
            name=segment,
            where=own.get("where", f"{subject} in list.{segment}"),
            params={key: constant(value) for key, value in own.items() if key != "where"},
        )
        for segment, own in table.get("segment", {}).items()
    ]
    return Scenario(
        id=name,
        shadow=table.get("status") == "shadow",
        subject=subject,
        on=on if isinstance(on, str) else frozenset(on["of"]),
        when=table["when"],
        after=_after(table["after"], subject) if "after" in table else None,
        params={key: constant(value) for key, value in table.get("params", {}).items()},
        segments=tuple(segments),
        measure=expression(table["measure"]),
        threshold=expression(table["threshold"]),
        edge=table.get("repeat") == "edge",
        cooldown=microseconds(table.get("cooldown", "0s")),
        reason=table.get("reason"),
        score_value=expression(score.get("value", table["measure"])) if score else None,
        bands=tuple(_band(band) for band in score.get("bands", ())),
        table=table,
    )


def expression(value: Any) -> str:
    """Return an expression that may have been written as a bare number, or as an amount in a text."""
    if not isinstance(value, str):
        return str(value)
    try:
        number(value)
    except ArithmeticError:
        return value
    return f"'{value}'"


def _after(table: Mapping[str, Any], subject: str) -> After:
    return After(table["where"], microseconds(table["within"]), table.get("by", subject), table.get("reuse", False))


def _band(table: Mapping[str, Any]) -> Band:
    at_least, below = (number(constant(table.get(key))) for key in ("at_least", "below"))
    return Band(at_least, below, table["points"], table["reason"])


def _typology(name: str, table: Mapping[str, Any]) -> Typology:
    return Typology(
        id=name,
        shadow=table.get("status") == "shadow",
        threshold=table["threshold"],
        weights=table["weights"],
        edge=table.get("repeat") == "edge",
        cooldown=microseconds(table.get("cooldown", "0s")),
        reason=table.get("reason"),
        table=table,
    )
