"""What a checked ruleset is: the shape between `checking` and `planning`.

Owns: the checked forms of metrics, scenarios, typologies and lists. Leaves to `checking` how they are made, to
`planning` what is shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidewaiter.core.scenarios.syntax import ScenarioDecl, TypologyDecl
    from tidewaiter.core.scenarios.terms import Term, Type


@dataclass(frozen=True)
class Metric:
    """A checked metric with every parameter filled in.

    Times in microseconds, `utc_offset` in seconds; 0 or None: not said.
    `key` tells the instances of a template apart (``near_n``, ``near_n#2``, ...); `name` is as written.
    """

    key: str
    name: str
    fn: str  # count, sum, min, max, distinct, last, since_previous, since_first
    type: Type
    by: tuple[str, ...]  # field names
    field: str | None  # what is aggregated
    where: Term | None  # includes Term("flagged") for of=[...]
    window: int | None  # None: last=N, since_*, or for ever; with `day` 24 h, the most it can be
    day: bool  # window = "day"
    utc_offset: int
    offset: int
    last: int
    cap: int
    warmup: int
    default: int | str | bool | None  # in the metric's own unit
    line: int
    unknowable: bool = False  # whether it may have no value at an event


@dataclass(frozen=True)
class Variant:
    """A scenario as it stands for one population; the last variant of a scenario is for everybody else."""

    segment: str | None
    population: Term | None  # None only for the last
    when: Term
    measure: Term
    threshold: Term
    params: dict[str, tuple[Type, Any]]  # resolved, money in minor units, durations in microseconds
    metrics: tuple[str, ...]  # keys, in file order: all read by when, measure, threshold, reason, score
    reason: tuple[str | Term, ...]  # () for none; text pieces and terms in turn
    score_value: Term | None


@dataclass(frozen=True)
class Band:
    """Values in [at_least, below), None for open, in the score value's own unit."""

    at_least: int | None
    below: int | None
    points: int
    reason: str


@dataclass(frozen=True)
class After:
    """The sequence condition; `within` in microseconds; `fields` are those read as a.x."""

    where: Term
    within: int
    by: str
    reuse: bool
    fields: tuple[str, ...]


@dataclass(frozen=True)
class CheckedScenario:
    """A checked scenario that runs (live or shadow)."""

    decl: ScenarioDecl
    subject: str
    on: Term | None
    after: After | None
    variants: tuple[Variant, ...]
    window: int  # seconds, as shown
    cooldown: int  # microseconds, 0 for none
    bands: tuple[Band, ...]
    lists: tuple[str, ...]  # names of the lists its own terms, its metrics and the scenarios it counts use, sorted
    line: int


@dataclass(frozen=True)
class CheckedTypology:
    """A checked typology that runs."""

    decl: TypologyDecl
    subject: str
    weights: dict[str, int]
    threshold: int
    cooldown: int
    reason: tuple[str | Term, ...]
    line: int


@dataclass(frozen=True)
class LoadedList:
    """A list as loaded: `digest` is the SHA-256 (hex) of the file's bytes."""

    name: str
    file: str
    prefix: bool
    entries: frozenset[str]
    digest: str


@dataclass(frozen=True)
class Checked:
    """A checked ruleset, in file order.

    `metrics` by key; `skipped` are the ids of draft and retired scenarios and typologies, with their status.
    """

    metrics: dict[str, Metric]
    scenarios: tuple[CheckedScenario, ...]
    typologies: tuple[CheckedTypology, ...]
    lists: dict[str, LoadedList]
    skipped: dict[str, str] = field(default_factory=dict)
