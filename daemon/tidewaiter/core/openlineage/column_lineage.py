"""Which columns of the inputs each column of a pipeline's output is made of, from the declarations of its steps.

Owns: following columns through the steps. Leaves to `core.pipelines` what a step computes: here only the names in its
expressions count, which is what OpenLineage asks for.

Where something is not known, a step that is no longer understood or a declaration that is not there, nothing is told at
all: a wrong arrow is worse than none.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.openlineage.datasets import ColumnLineage, Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IDENTITY: Final = "IDENTITY"
TRANSFORMATION: Final = "TRANSFORMATION"
AGGREGATION: Final = "AGGREGATION"
_WEIGHT: Final = {IDENTITY: 0, TRANSFORMATION: 1, AGGREGATION: 2}
_COLUMN: Final = "column"
"""The function that names a column whose name is no identifier."""

_Sources = dict[tuple[str, str], str]
"""(dataset, column) and the strongest thing that happened to it on the way."""


def follow(
    inputs: Sequence[str], columns: Iterable[str], steps: Iterable[tuple[str, dict[str, Any], str]]
) -> ColumnLineage | None:
    """Return where the columns behind all `steps` come from, None where that is not known.

    `inputs` are the datasets that have `columns`; a step is its kind, its declaration, and the reference list that it
    reads, if any.
    """
    trace = _Trace({name: {(each, name): IDENTITY for each in inputs} for name in columns})
    try:
        for kind, declaration, reference in steps:
            trace.take(kind, declaration, reference)
    except (KeyError, TypeError, ValueError, SyntaxError, RecursionError, AttributeError):
        return None
    return ColumnLineage({name: _origins(sources) for name, sources in trace.columns.items()}, tuple(trace.rows))


class _Trace:
    """The columns as they are behind the steps so far."""

    def __init__(self, columns: dict[str, _Sources]) -> None:
        self.columns = columns
        self.rows: dict[Origin, None] = {}

    def take(self, kind: str, said: dict[str, Any], reference: str) -> None:
        columns = self.columns
        match kind:
            case "filter":
                self._decides("FILTER", self._names(said["where"]))
            case "derive":
                made = {name: self._made(self._names(text), TRANSFORMATION) for name, text in said["columns"].items()}
                self.columns = {**columns, **made}
            case "select":
                self.columns = {name: columns[name] for name in said["columns"]}
            case "rename":
                self.columns = {said["columns"].get(name, name): sources for name, sources in columns.items()}
            case "cast":
                self.columns = {**columns, **{name: self._made([name], TRANSFORMATION) for name in said["columns"]}}
            case "deduplicate":
                self._decides("GROUP_BY", said["by"])
            case "sort":
                self._decides("SORT", [name for name, _ in said["by"]])
            case "join":
                self._decides("JOIN", said["on"])
                self._add_rows("JOIN", {(reference, theirs): IDENTITY for theirs in said["on"].values()})
                taken = {ours: {(reference, theirs): IDENTITY} for theirs, ours in said["take"].items()}
                self.columns = {**columns, **taken}
            case "aggregate":
                self._decides("GROUP_BY", said["by"])
                made = {name: self._made(self._names(text), AGGREGATION) for name, text in said["columns"].items()}
                self.columns = {**{name: columns[name] for name in said["by"]}, **made}
            case _:
                raise ValueError(kind)

    def _names(self, text: str) -> list[str]:
        """Return the columns that an expression names, in their order."""
        found: dict[str, None] = {}
        for node in ast.walk(ast.parse(text.strip(), mode="eval")):
            if isinstance(node, ast.Name) and node.id in self.columns:
                found[node.id] = None
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == _COLUMN:
                found.update(
                    {
                        each.value: None
                        for each in node.args
                        if isinstance(each, ast.Constant) and each.value in self.columns
                    }
                )
        return list(found)

    def _made(self, names: Iterable[str], kind: str) -> _Sources:
        made: _Sources = {}
        for name in names:
            for source, before in self.columns[name].items():
                made[source] = max(made.get(source, IDENTITY), before, kind, key=_WEIGHT.__getitem__)
        return made

    def _decides(self, kind: str, names: Iterable[str]) -> None:
        for name in names:
            self._add_rows(kind, self.columns[name])

    def _add_rows(self, kind: str, sources: _Sources) -> None:
        self.rows.update({Origin(dataset, column, kind): None for dataset, column in sources})


def _origins(sources: _Sources) -> tuple[Origin, ...]:
    return tuple(Origin(dataset, column, kind) for (dataset, column), kind in sources.items())
