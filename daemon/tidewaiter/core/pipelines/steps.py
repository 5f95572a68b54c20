"""What a pipeline is asked to do: its steps as declarations, in the words of the pipeline file.

Owns: one value for each kind of step, what a whole pipeline file says, and the names of steps. Leaves to `step_files`
reading TOML, to `planning` whether the steps fit the columns, and to `transforms` and `edges.tables` running them.

Invariant: a declaration says everything about its step; nothing else in a run may change what the step does, except the
content of the files that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from msgspec import Struct

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.columns import ColumnType
from tidewaiter.core.pipelines.table_format import TableFormat

ON_INVALID: Final = ("halt", "quarantine", "drop")
KEEP: Final = ("first", "last")
MISSING: Final = ("null", "reject", "drop")
COMPOSED: Final = "<Pipeline>"
"""The `file` of a pipeline composed in Python: errors about it name steps, for nobody has seen its text."""
KINDS: Final = ("filter", "derive", "select", "rename", "cast", "deduplicate", "join", "sort", "aggregate")

StepFail = Callable[[tuple[str, ...], str, str, int | None], ConfigError]
"""Makes the error about one step: (keys below the step, problem, hint, character of the text there or None).

The keys are those of the file: ``("derive", "total")``, ``("join", "on", "country")``; () is the step as a whole.
"""
StepsFail = Callable[[int, tuple[str, ...], str, str, int | None], ConfigError]
"""The same for a whole pipeline: the step's number comes first, from 0."""


class Filter(Struct, frozen=True):
    """Keep the rows for which the condition `where` is true; not those for which it is false or unknown."""

    kind: ClassVar[str] = "filter"
    name: str
    where: str


class Derive(Struct, frozen=True):
    """Set each of `columns` to the value of its expression, which sees the row as it came into the step.

    A column that exists keeps its place; a new one goes to the end.
    """

    kind: ClassVar[str] = "derive"
    name: str
    columns: dict[str, str]


class Select(Struct, frozen=True):
    """Keep `columns`, in this order, and drop all others."""

    kind: ClassVar[str] = "select"
    name: str
    columns: tuple[str, ...]


class Rename(Struct, frozen=True):
    """Give columns new names, by their old ones; they keep their places."""

    kind: ClassVar[str] = "rename"
    name: str
    columns: dict[str, str]


class Cast(Struct, frozen=True):
    """Turn columns into other types; a value that has none in the new type rejects its row."""

    kind: ClassVar[str] = "cast"
    name: str
    columns: dict[str, ColumnType]


class Deduplicate(Struct, frozen=True):
    """Of the rows that agree in the columns `by`, keep the first or the last."""

    kind: ClassVar[str] = "deduplicate"
    name: str
    by: tuple[str, ...]
    keep: str = "first"


class Join(Struct, frozen=True):
    """Bring in columns of a reference list: its row whose columns `on.values()` equal the row's `on.keys()`.

    `take` maps columns of the list to the names they get. `missing` says what becomes of a row without partner.
    """

    kind: ClassVar[str] = "join"
    name: str
    file: str
    on: dict[str, str]
    take: dict[str, str]
    missing: str = "null"


class Sort(Struct, frozen=True):
    """Put the rows in order: (column, descending) by weight; equal rows keep their order; nulls come last."""

    kind: ClassVar[str] = "sort"
    name: str
    by: tuple[tuple[str, bool], ...]


class Aggregate(Struct, frozen=True):
    """One row for each different value of the columns `by`, in their order; `columns` are texts such as sum(amount)."""

    kind: ClassVar[str] = "aggregate"
    name: str
    by: tuple[str, ...]
    columns: dict[str, str]


Step = Filter | Derive | Select | Rename | Cast | Deduplicate | Join | Sort | Aggregate
BLOCKING: Final = (Deduplicate, Join, Sort, Aggregate)
"""Steps that `transforms` cannot do row by row: `edges.tables` runs them."""


class KeySource(Struct, frozen=True):
    """Where the secret of keyed_hash() stands: in a file, or in a credential handed over by the service manager."""

    file: str | None = None
    credential: str | None = None


class ListSource(Struct, frozen=True):
    """The reference list of lookup(): a table in a file, and its column that is looked up."""

    file: str
    key: str


class PipelineFile(Struct, frozen=True):
    """All that a pipeline file says. Names of files are relative to the folder of `file`; `digest` is SHA-256 hex."""

    name: str
    version: int
    title: str = ""
    contract: str | None = None
    on_invalid: str = "halt"
    input: TableFormat = TableFormat()
    output: TableFormat = TableFormat()
    steps: tuple[Step, ...] = ()
    keys: dict[str, KeySource] = {}
    lists: dict[str, ListSource] = {}
    text: bytes = b""
    digest: str = ""
    file: str = ""


def default_name(number: int, kind: str) -> str:
    """Return the name of the step at place `number`, from 1, that was given none."""
    return f"{number}_{kind}"


def unplaced(steps: Sequence[Step]) -> StepsFail:
    """Return how errors about steps are made that stand in no file: by number and name."""

    def fail(number: int, keys: tuple[str, ...], problem: str, hint: str, at: int | None) -> ConfigError:
        character = None if at is None else f"character {at + 1}"
        where = (f"step {number + 1} ({steps[number].name})", ".".join(keys), character, problem)
        return ConfigError(": ".join(filter(None, where)), hint=hint)

    return fail
