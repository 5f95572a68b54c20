"""What the first release wrote into its snapshots, read into the state of today.

Owns: the format ``tidewaiter.rule-state/1``: counts over a window and edge latches, under digests that were worked out
in another way. Leaves to `state` what is written today.

What it named stays the same: the ruleset that was in force is in the archive, so each cell of that time is the one of
the metric or scenario of the same name in that very text.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.scenarios.state_scenarios import EdgeCell
from tidewaiter.core.scenarios.state_windows import CountCell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.core.scenarios.ruleset import Ruleset
    from tidewaiter.core.scenarios.state import RuleState
    from tidewaiter.core.scenarios.state_cells import Cell

FORMAT: Final = "tidewaiter.rule-state/1"
_SECOND: Final = 1_000_000


class _Old(msgspec.Struct, array_like=True):
    """A cell as it was named: ``count`` of "metric NAME" over `window` seconds, or ``edge`` of "scenario ID"."""

    kind: str
    digest: str
    label: str
    window: int
    idle_with: str


class _Header(msgspec.Struct, array_like=True):
    format: str
    cells: list[_Old]


class _Format(msgspec.Struct, array_like=True):
    format: str


class _Part(msgspec.Struct, array_like=True):
    cell: int
    latched: list[str] = []
    one: list[str] = []
    one_held: list[datetime] = []
    two: list[str] = []
    two_held: list[tuple[datetime, datetime]] = []
    many: list[str] = []
    many_held: list[list[datetime]] = []


_format: Final = msgspec.msgpack.Decoder(_Format)
_header: Final = msgspec.msgpack.Decoder(_Header)
_part: Final = msgspec.msgpack.Decoder(_Part)


def is_format_1(chunks: Sequence[bytes]) -> bool:
    """Return whether `chunks`, the slices of a state, are in this format."""
    try:
        return bool(chunks) and _format.decode(chunks[0]).format == FORMAT
    except msgspec.DecodeError:
        return False


def read_format_1(chunks: Sequence[bytes], ruleset: Ruleset) -> RuleState:
    """Return the state in `chunks` as `ruleset` keeps it, which was in force when they were written.

    Raises IntegrityRefusal where they are not what they say they are, or belong to another ruleset.
    """
    state = ruleset.new_state()
    try:
        cells = [_cell_of(old, ruleset, state) for old in _header.decode(chunks[0]).cells]
        for chunk in chunks[1:]:
            part = _part.decode(chunk)
            _restore(cells[part.cell], part)
    except (msgspec.DecodeError, LookupError, ValueError) as error:
        raise IntegrityRefusal(f"rule state cannot be read: {error}", hint="use the older snapshot") from error
    return state


def _cell_of(old: _Old, ruleset: Ruleset, state: RuleState) -> Cell:
    name = old.label.partition(" ")[2]
    if old.kind == "count":
        # under its name, for metrics that say the same share a cell
        spec = ruleset.plan.cells[ruleset.plan.cell_of[name]]
        if spec.kind != "count" or spec.window != old.window * _SECOND:
            raise ValueError(f"{old.label} is not what it was")
    else:
        spec = {spec.label: spec for spec in ruleset.plan.cells if spec.kind == "edge"}[old.label]
    return state.cells[spec.digest]


def _restore(cell: Cell, part: _Part) -> None:
    if isinstance(cell, EdgeCell):
        cell.latched.update(part.latched)
    elif isinstance(cell, CountCell):
        for keys, held in ((part.one, part.one_held), (part.two, part.two_held)):
            cell.shelf.young.update(zip(keys, held, strict=True))
        if not all(part.many_held):
            raise ValueError("a key without times")
        many = [[1, *held] for held in part.many_held]
        cell.shelf.young.update(zip(part.many, many, strict=True))
