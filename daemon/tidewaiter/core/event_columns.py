"""One field of many events as a list, made by a comprehension that knows the field's name.

Owns: the texts of these comprehensions and compiling them. Leaves to `contract` which fields there are, and to
`screening` what their values must be.

A comprehension that was compiled with the attribute's name in it takes half the time of `map` over an `attrgetter`
(measured: 0.03 against 0.06 µs an event), and there are half a dozen fields to take. Nothing but attribute paths of a
compiled contract, which are identifiers joined by dots, and numbers gets into a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidewaiter.core.contract import Field

Column = Callable[[Sequence[Any]], list[Any]]


def column_of(path: str) -> Column:
    """Return what lists the values at the attribute `path` of events."""
    return _compiled(f"[event.{path} for event in events]")


def minor_units_of(field: Field) -> Column:
    """Return what lists the amounts of a money field in minor units, None where there is none.

    An amount that has more decimals than the field's scale is left out: the list is then shorter than the events. Half
    a unit more and cut downwards is what rounding gives for every amount below 10**15 units that is exact at all.
    """
    factor = float(10**field.scale)
    units = f"floor(value * {factor} + 0.5)"
    exact = f"units / {factor} == value"
    if not field.required:
        units, exact = f"None if value is None else {units}", f"value is None or {exact}"
    # a `for` over a tuple of one is an assignment, with names that are local
    values = f"for value in (event.{field.path},) for units in ({units},)"
    return _compiled(f"[units for event in events {values} if {exact}]")


def _compiled(comprehension: str) -> Column:
    made: Column = eval(f"lambda events: {comprehension}", {"floor": floor})  # noqa: S307 - the text is ours: see the module's head
    return made
