"""Reasons and scores: the texts and points that go with a scenario's flag.

Owns: what may be filled into a reason, and the bands of a score. Leaves to `expressions` the grammar of the braces and
to `checking_expressions` what the names mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidewaiter.core.scenarios.checking_ground import unbounded
from tidewaiter.core.scenarios.expressions import Node, parse_duration, parse_number, parse_template
from tidewaiter.core.scenarios.model import Band
from tidewaiter.core.scenarios.tables import MAX_NUMBER

if TYPE_CHECKING:
    from tidewaiter.core.scenarios.checking_expressions import Scope
    from tidewaiter.core.scenarios.syntax import ScoreDecl
    from tidewaiter.core.scenarios.tables import Param
    from tidewaiter.core.scenarios.terms import Term, Type
    from tidewaiter.core.toml_source import KeyPath, TomlSource

MAX_PLACEHOLDERS: Final = 30


def check_reason(scope: Scope) -> tuple[str | Term, ...]:
    """Return the pieces of the reason text in `scope`: plain texts, and terms to be filled in."""
    pieces: list[str | Term] = []
    for piece in parse_template(scope.text, scope.fail):
        if isinstance(piece, str):
            pieces.append(piece)
            continue
        pieces.append(_shown(scope, piece))
        if sum(not isinstance(each, str) for each in pieces) > MAX_PLACEHOLDERS:
            raise scope.fail("fills in too much", f"at most {MAX_PLACEHOLDERS} names in braces", piece.at)
    return tuple(pieces)


def _shown(scope: Scope, node: Node) -> Term:
    term = scope.term(node)
    if node.op == "param" and scope.params is not None:
        return scope.params.shown(str(node.value))
    if term.op in ("field", "earlier"):
        item = scope.ground.contract.by_name[str(term.value)]
        if problem := unbounded(item):
            raise scope.fail(*problem, node.at)
    return term


def check_bands(source: TomlSource, path: KeyPath, score: ScoreDecl, kind: Type) -> tuple[Band, ...]:
    """Return the bands of a score whose value is of the type `kind`: ascending, each beginning where the last ended."""
    bands: list[Band] = []
    for place, decl in enumerate(score.bands):
        here = (*path, "bands", place)
        last = place == len(score.bands) - 1
        low = _limit(source, (*here, "at_least"), decl.at_least, kind, optional=place == 0)
        high = _limit(source, (*here, "below"), decl.below, kind, optional=last)
        if bands and low != bands[-1].below:
            hint = f"write at_least = {_written(score.bands[place - 1].below)}: bands leave no gap and do not overlap"
            raise source.error((*here, "at_least"), "is not where the band before it ends", hint=hint)
        if low is not None and high is not None and low >= high:
            raise source.error((*here, "below"), "is not above at_least", hint="a band is [at_least, below)")
        bands.append(Band(low, high, decl.points, decl.reason))
    return tuple(bands)


def _limit(source: TomlSource, path: KeyPath, value: Param | None, kind: Type, *, optional: bool) -> int | None:
    if value is None:
        if optional:
            return None
        which = "first band may leave out at_least" if path[-1] == "at_least" else "last band may leave out below"
        raise source.error(path, "is missing", hint=f"only the {which}", key=True)
    if kind.kind == "duration":
        found = parse_duration(value) if isinstance(value, str) else None
        hint = "for example '90d', '1500ms'"
    else:
        number = None
        if not isinstance(value, bool) and (kind.kind == "money" or isinstance(value, int)):
            number = parse_number(str(value))
        units = None if number is None else number * 10**kind.scale
        fits = units is not None and units.denominator == 1 and abs(units) <= MAX_NUMBER
        found = units.numerator if units is not None and fits else None
        hint = "in the unit of the score's value"
    if found is None:
        raise source.error(path, f"must be {kind}", hint=hint)
    return found


def _written(value: Param | None) -> str:
    return f"'{value}'" if type(value) is str else str(value)
