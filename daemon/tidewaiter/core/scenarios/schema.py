"""The ruleset file as JSON Schema, for editors: completion, hover texts, and red lines under what is misspelt.

Owns: what an editor is told about each key. Leaves to `syntax` which keys there are, from whose tables the schema is
built: a key that is new there and unknown here fails at once. What a schema cannot say (names, types, units inside
conditions) `tidewaiter check` says.
"""

from __future__ import annotations

from typing import Any, Final

from tidewaiter.core.scenarios import syntax, tables

LENGTH: Final = "^(0|[1-9][0-9]{0,8})[smhd]$"
UTC_OFFSET: Final = "^[+-]([01][0-9]|2[0-3]):[0-5][0-9]$"

_LENGTH_HINT: Final = "a whole number and s, m, h or d, for example '24h'"
_ID: Final[dict[str, Any]] = {"type": "string", "pattern": tables.SCENARIO_ID.pattern.replace(r"\Z", "$")}


def _text(description: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON Schema
    return {"type": "string", "description": description, **more}


def _condition(description: str) -> dict[str, Any]:
    return _text(f"{description}, for example \"amount >= p.limit and channel == 'cash'\"", minLength=1, maxLength=2000)


def _length(description: str) -> dict[str, Any]:
    return _text(f"{description}: {_LENGTH_HINT}", pattern=LENGTH)


def _whole(description: str, least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most, "description": description}


def _list(description: str, item: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most, "uniqueItems": True,
            "description": description}  # fmt: skip


def _one_of(description: str, values: tuple[str, ...]) -> dict[str, Any]:
    return {"enum": list(values), "description": description}


def _constant(description: str) -> dict[str, Any]:
    return {"type": ["string", "number", "boolean"], "description": description}


def _table(keys: tuple[str, ...], known: dict[str, dict[str, Any]], required: tuple[str, ...]) -> dict[str, Any]:
    """Return the schema of a table with exactly `keys`. Raises KeyError for one that `known` does not describe."""
    return {
        "type": "object",
        "properties": {key: known[key] for key in keys},
        "required": list(required),
        "additionalProperties": False,
    }


def _named(description: str, item: dict[str, Any], pattern: str, most: int) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "patternProperties": {pattern.replace(r"\Z", "$"): item},
        "additionalProperties": False,
        "maxProperties": most,
    }


_VERSION: Final = _whole("count it up with every change", 1, 2**31 - 1)
_SEVERITY: Final = _one_of("how much a flag matters", syntax.SEVERITIES)
_STATUS: Final = _one_of("draft and retired never run; shadow runs beside, into shadow_flags.jsonl", syntax.STATUSES)
_REPEAT: Final = _one_of("every: a flag at each event; edge: one when it becomes true", syntax.REPEATS)
_COOLDOWN: Final = _length("after a flag, hits of the same subject are suppressed for so long")
_REASON: Final = _text("a sentence for the reader, with {metric}, {field}, {p.NAME}, {a.FIELD}", maxLength=1000)

LIST: Final[dict[str, dict[str, Any]]] = {
    "file": _text("a .txt or .csv file, relative to the ruleset", pattern=r"^[^/\\][^\\]*\.(txt|csv)$"),
    "match": _one_of("exact: the value is an entry; prefix: it begins with one", syntax.MATCHES),
    "column": _text("which column of a .csv file"),
}
METRIC: Final[dict[str, dict[str, Any]]] = {
    "fn": _text(
        "count, sum(F), min(F), max(F), distinct(F), last(F), since_previous, since_first, count(flags, of=['ID']), "
        "sum(F, of=['ID'])"
    ),
    "by": {
        "oneOf": [_text("a field"), _list("fields", {"type": "string"}, syntax.MAX_BY)],
        "description": "a value of its own for each value of this field, or of these fields together",
    },
    "window": {
        "anyOf": [{"const": "day"}, _length("how far back")],
        "description": f"the closed interval that ends at the event: {_LENGTH_HINT}; or 'day', from local midnight",
    },
    "offset": _length("shifts the window back by so much"),
    "last": _whole("the last so many matching events instead of a window", 1, syntax.MAX_KEPT),
    "where": _condition("which events are counted"),
    "cap": _whole("values above it all count as it: bounds memory", 1, syntax.MAX_KEPT),
    "warmup": _length("since_first is unknown for keys first seen within so long after the metric began"),
    "default": _constant("the value where there is none"),
}
AFTER: Final[dict[str, dict[str, Any]]] = {
    "where": _condition("which earlier event is looked for"),
    "within": _length("how long ago it may be"),
    "by": _text("the field both events share; default: the subject"),
    "reuse": {"type": "boolean", "description": "true: an earlier event may serve several hits"},
}
BAND: Final[dict[str, dict[str, Any]]] = {
    "at_least": _constant("the band's lower end, included"),
    "below": _constant("the band's upper end, not included"),
    "points": _whole("what a value in this band is worth", -syntax.MAX_POINTS, syntax.MAX_POINTS),
    "reason": _text("why, for the reader", maxLength=1000),
}
SCORE: Final[dict[str, dict[str, Any]]] = {
    "value": _text("what falls into the bands; default: the measure"),
    "bands": {
        "type": "array",
        "items": _table(syntax.BAND_KEYS, BAND, ("points",)),
        "minItems": 1,
        "maxItems": syntax.MAX_BANDS,
        "description": "from the lowest up, each beginning where the one before it ends",
    },
}
SCENARIO: Final[dict[str, dict[str, Any]]] = {
    "title": _text("what it looks for", maxLength=1000),
    "typology": {**_ID, "description": "the kind of behaviour, for coverage reports"},
    "risk_ref": _text("which entry of the risk assessment it covers", maxLength=1000),
    "version": _VERSION,
    "severity": _SEVERITY,
    "status": _STATUS,
    "subject": _text("the field a flag is about; default: the contract's subject"),
    "on": {
        "oneOf": [
            _condition("which events are looked at"),
            _table(("of",), {"of": _list("earlier scenarios", _ID, syntax.MAX_SCENARIOS)}, ("of",)),
        ],
        "description": "which events are looked at: a condition, or { of = ['ID'] }: those at which one of these held",
    },
    "when": _condition("the condition"),
    "params": _named(
        "named constants, used as p.NAME", _constant("a parameter"), tables.NAME.pattern, syntax.MAX_PARAMS
    ),
    "segment": _named(
        "populations with parameters of their own; the first that matches wins",
        {
            "type": "object",
            "properties": {"where": _condition("who belongs to it; default: the subject is in the list of its name")},
            "additionalProperties": _constant("the parameter's value for this population"),
        },
        tables.NAME.pattern,
        syntax.MAX_SEGMENTS,
    ),
    "measure": _text("what is shown as metric_value"),
    "threshold": {"type": ["string", "number"], "description": "what is shown as threshold, beside the measure"},
    "window": _length("what the flag shows as window"),
    "repeat": _REPEAT,
    "cooldown": _COOLDOWN,
    "after": {**_table(syntax.AFTER_KEYS, AFTER, ("where", "within")), "description": "what must have come before"},
    "reason": _REASON,
    "score": {**_table(syntax.SCORE_KEYS, SCORE, ("bands",)), "description": "points, for typologies"},
    "tests": {
        "oneOf": [{"type": "string"}, _list("files", {"type": "string"}, syntax.MAX_SCENARIOS)],
        "description": "transcript files, relative to the ruleset; tidewaiter rules test runs them",
    },
}
TYPOLOGY: Final[dict[str, dict[str, Any]]] = {
    "title": _text("what it looks for", maxLength=1000),
    "version": _VERSION,
    "severity": _SEVERITY,
    "status": _STATUS,
    "threshold": _whole("how many points flag", -(10**12), 10**12),
    "weights": _named(
        "what each scenario's points count for", _whole("weight", 1, syntax.MAX_WEIGHT), tables.SCENARIO_ID.pattern,
        syntax.MAX_SCENARIOS,
    ),
    "repeat": _REPEAT,
    "cooldown": _COOLDOWN,
    "reason": _REASON,
}  # fmt: skip
RULESET: Final[dict[str, dict[str, Any]]] = {
    "ruleset": _text("the name of the ruleset", pattern=tables.NAME.pattern.replace(r"\Z", "$")),
    "version": _VERSION,
    "contract": _text("the contract it is written for, for example 'money_flow/1'"),
    "title": _text("what it is"),
    "utc_offset": _text("the local time of windows 'day', for example '+01:00'", pattern=UTC_OFFSET),
    "field": _named(
        "derived truth values", _condition("a condition over fields"), tables.NAME.pattern, syntax.MAX_FIELDS
    ),
    "list": _named(
        "lists of values", _table(syntax.LIST_KEYS, LIST, ("file",)), tables.NAME.pattern, syntax.MAX_LISTS
    ),
    "metric": _named(
        "what is counted, summed, remembered", _table(syntax.METRIC_KEYS, METRIC, ("fn", "by")), tables.NAME.pattern,
        syntax.MAX_METRICS,
    ),
    "scenario": _named(
        "what is flagged",
        _table(syntax.SCENARIO_KEYS, SCENARIO, ("typology", "version", "severity", "when", "measure", "threshold")),
        tables.SCENARIO_ID.pattern, syntax.MAX_SCENARIOS,
    ),
    "typology": _named(
        "scenarios taken together",
        _table(syntax.TYPOLOGY_KEYS, TYPOLOGY, ("version", "severity", "threshold", "weights")),
        tables.SCENARIO_ID.pattern, syntax.MAX_TYPOLOGIES,
    ),
}  # fmt: skip


def ruleset_schema() -> dict[str, Any]:
    """Return the schema of a ruleset file: JSON Schema draft 7, which is what editors of TOML understand."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "urn:tidewaiter:ruleset",
        "title": "tidewaiter ruleset",
        **_table(syntax.RULESET_KEYS, RULESET, ("ruleset", "version", "contract", "scenario")),
    }
