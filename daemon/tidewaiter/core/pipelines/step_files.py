"""Reading a pipeline file: TOML to declarations.

Owns: the keys of the file, which values each may have, and errors that point into it. Leaves to `planning` whether the
steps fit the columns of the input, and to `shell.pipelines` the files that the pipeline names.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.columns import KINDS as TYPE_KINDS
from tidewaiter.core.pipelines.columns import MAX_SCALE, ColumnType, parse_type
from tidewaiter.core.pipelines.steps import (
    COMPOSED,
    KEEP,
    KINDS,
    MISSING,
    ON_INVALID,
    Aggregate,
    Cast,
    Deduplicate,
    Derive,
    Filter,
    Join,
    KeySource,
    ListSource,
    PipelineFile,
    Rename,
    Select,
    Sort,
    Step,
    StepsFail,
    default_name,
    unplaced,
)
from tidewaiter.core.pipelines.table_format import (
    COMPRESSIONS,
    ENCODINGS,
    FORMATS,
    MAX_RATIO_HINT,
    TableFormat,
    plain_encoding,
)
from tidewaiter.core.toml_source import KeyPath, Table, TomlSource, kind_of, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TOP: Final = ("pipeline", "version", "title", "contract", "on_invalid", "input", "output", "step", "keys", "list")
_CHOICES: Final = {"format": FORMATS, "compression": COMPRESSIONS}
_OUTPUT: Final = ("format", "compression", "delimiter", "header")
_INPUT: Final = (*_OUTPUT, "quote", "encoding", "columns", "max_ratio")
_TYPES: Final = ", ".join("decimal(2)" if kind == "decimal" else kind for kind in TYPE_KINDS)


class _Source(TomlSource):
    """A pipeline file whose errors name steps as those of planning do: by number, from 1, and name."""

    def error(
        self, path: KeyPath, problem: str, *, hint: str = "", at: int | None = None, key: bool = False
    ) -> ConfigError:
        """Return the error ``FILE:LINE:COLUMN: step 1 (name): a.b: problem``; a composed pipeline has no place."""
        error = super().error(path, "", hint=hint, at=at, key=key)
        where = "" if self.file == COMPOSED else error.message.removesuffix(f": {'.'.join(map(str, path))}: ")
        step = ""
        if path[0] == "step" and len(path) > 1 and isinstance(path[1], int):
            step, path = f"step {path[1] + 1}{self._name(path[1])}", path[2:]
        keys = ".".join(str(each + 1 if isinstance(each, int) else each) for each in path)
        return ConfigError(": ".join(filter(None, (where, step, keys, problem))), hint=hint)

    def _name(self, number: int) -> str:
        data = self.data["step"][number]
        kinds = [key for key in data if key in KINDS] if isinstance(data, dict) else []
        name = data.get("name", default_name(number + 1, kinds[0])) if len(kinds) == 1 else None
        return f" ({name})" if isinstance(name, str) else ""


def read_pipeline(text: bytes, file: str) -> PipelineFile:
    """Return what the pipeline file `text` says; `file` is its name in errors. Raises ConfigError at a fault."""
    source = _Source(text, file, exact=True)
    top = Table(source, (), source.data)
    top.only(_TOP)
    version: int = top.take("version", int)
    if version < 1:
        raise top.error("version", f"{version} is not a version", hint="versions count from 1")
    return PipelineFile(
        name=_word(top, "pipeline"),
        version=version,
        title=top.take("title", str, ""),
        contract=_word(top, "contract") if "contract" in top.data else None,
        on_invalid=top.one_of("on_invalid", ON_INVALID, "halt"),
        input=_table_format(top, "input", _INPUT),
        output=_table_format(top, "output", _OUTPUT),
        steps=_steps(top),
        keys={name: _key(table) for name, table in _tables(top, "keys", '{ file = "…" }')},
        lists={name: _list(table) for name, table in _tables(top, "list", '{ file = "…", key = "…" }')},
        text=text,
        digest=hashlib.sha256(text).hexdigest(),
        file=file,
    )


def places(pipeline: PipelineFile) -> StepsFail:
    """Return how errors about the steps of `pipeline` are made: each points at file, line and column.

    Those of a composed pipeline name the step only.
    """
    if pipeline.file == COMPOSED:
        return unplaced(pipeline.steps)

    def fail(number: int, keys: tuple[str, ...], problem: str, hint: str, at: int | None) -> ConfigError:
        source = TomlSource(pipeline.text, pipeline.file, exact=True)
        path: KeyPath = ("step", number)
        inside: Any = source.data["step"][number]
        for key in keys:  # an element of a list is named by its text: select = ["id"]
            if isinstance(inside, list):
                path = (*path, next((place for place, each in enumerate(inside) if str(each).lstrip("-") == key), 0))
                inside = None
            else:
                path = (*path, key)
                inside = inside.get(key) if isinstance(inside, dict) else None
        error = source.error(path, "", at=at)
        name = pipeline.steps[number].name
        where = error.message.split(": ", 1)[0]
        return ConfigError(
            f"{where}: {': '.join(filter(None, (f'step {number + 1} ({name})', '.'.join(keys), problem)))}", hint=hint
        )

    return fail


def _tables(top: Table, name: str, form: str) -> Iterable[tuple[str, Table]]:
    tables = Table(top.source, (name,), top.take(name, dict, {}), noun="a table")
    for key, value in tables.data.items():
        yield key, Table(top.source, (name, key), value, noun=f"a table {form}")


def _key(table: Table) -> KeySource:
    table.only(("file", "credential"))
    if len(table.data) != 1:
        raise table.source.error(table.path, "must name one place", hint='write { file = "…" } or { credential = "…" }')
    name = next(iter(table.data))
    return KeySource(**{name: _word(table, name)})


def _list(table: Table) -> ListSource:
    table.only(("file", "key"))
    return ListSource(file=_word(table, "file"), key=_word(table, "key"))


def _table_format(top: Table, name: str, allowed: tuple[str, ...]) -> TableFormat:
    table = Table(top.source, (name,), top.take(name, dict, {}))
    table.only(allowed)
    said: dict[str, Any] = {}
    for key in table.data:
        if key == "encoding":
            said[key] = plain_encoding(table.take(key, str))
            if said[key] not in ENCODINGS:
                raise table.error(key, f"{said[key]!r} is not allowed", hint=nearest(said[key], ENCODINGS))
        elif key in _CHOICES:
            said[key] = table.one_of(key, _CHOICES[key])
        elif key == "columns":
            said[key] = _names(table, key)
        elif key == "max_ratio":
            said[key] = table.take(key, int)
            if said[key] < 1:
                raise table.error(key, f"{said[key]} is no ratio", hint=MAX_RATIO_HINT)
        else:
            said[key] = table.take(key, bool if key == "header" else str)
    return TableFormat(**said)


def _steps(top: Table) -> tuple[Step, ...]:
    steps: list[Step] = []
    for place, data in enumerate(top.take("step", list, [])):
        table = Table(top.source, ("step", place), data, noun="a table: write [[step]]")
        table.only(("name", *KINDS))
        kinds = [key for key in table.data if key != "name"]
        if len(kinds) != 1:
            problem = "does nothing" if not kinds else f"does more than one thing: {' and '.join(kinds)}"
            hint = f"each [[step]] has one of: {', '.join(KINDS)}" if not kinds else "write one [[step]] for each"
            raise table.source.error((*table.path, *kinds[1:2]), problem, hint=hint, key=True)
        kind = kinds[0]
        name = _word(table, "name") if "name" in table.data else default_name(place + 1, kind)
        if name in [each.name for each in steps]:
            problem = f"another step is called {name!r}"
            raise table.error("name", problem, hint="give each step its own name")
        steps.append(_READERS[kind](table, name))
    return tuple(steps)


def _filter(table: Table, name: str) -> Step:
    return Filter(name, table.take("filter", str))


def _derive(table: Table, name: str) -> Step:
    return Derive(name, _texts(_inner(table, "derive", '{ total = "amount * quantity" }')))


def _select(table: Table, name: str) -> Step:
    return Select(name, _names(table, "select"))


def _rename(table: Table, name: str) -> Step:
    return Rename(name, _texts(_inner(table, "rename", '{ old = "new" }')))


def _cast(table: Table, name: str) -> Step:
    inner = _inner(table, "cast", '{ amount = "decimal(2)" }')
    columns: dict[str, ColumnType] = {}
    for column, text in _texts(inner).items():
        found = parse_type(text)
        if found is None:
            hint = nearest(text, TYPE_KINDS, listing=f"allowed: {_TYPES}, with at most {MAX_SCALE} decimals")
            if text.lower().startswith("decimal"):
                hint = f"say how many decimals it has, 0 to {MAX_SCALE}: decimal(2)"
            raise inner.error(column, f"there is no type {text!r}", hint=hint)
        columns[column] = found
    return Cast(name, columns)


def _deduplicate(table: Table, name: str) -> Step:
    inner = _inner(table, "deduplicate", '{ by = ["id"], keep = "first" }', ("by", "keep"))
    return Deduplicate(name, _names(inner, "by"), inner.one_of("keep", KEEP, "first"))


def _join(table: Table, name: str) -> Step:
    form = '{ file = "lists/countries.csv", on = { country = "code" }, take = ["risk"] }'
    inner = _inner(table, "join", form, ("file", "on", "take", "missing"))
    on = _texts(_inner(inner, "on", '{ country = "code" }'))
    if isinstance(inner.data.get("take"), list):
        take = {column: column for column in _names(inner, "take")}
    else:
        take = _texts(_inner(inner, "take", '["risk"] or { risk = "country_risk" }'))
    return Join(name, _word(inner, "file"), on, take, inner.one_of("missing", MISSING, "null"))


def _sort(table: Table, name: str) -> Step:
    by: list[tuple[str, bool]] = []
    for place, text in enumerate(_names(table, "sort")):
        column = text.removeprefix("-")
        if not column or column in [before for before, _ in by]:
            raise table.source.error((*table.path, "sort", place), f"{text!r} cannot be sorted by", hint="once each")
        by.append((column, text != column))
    return Sort(name, tuple(by))


def _aggregate(table: Table, name: str) -> Step:
    inner = _inner(table, "aggregate", '{ by = ["customer"], total = "sum(amount)" }')
    columns = {column: inner.take(column, str) for column in inner.data if column != "by"}
    return Aggregate(name, _names(inner, "by", empty=True) if "by" in inner.data else (), columns)


_READERS: Final[dict[str, Callable[[Table, str], Step]]] = {
    "filter": _filter,
    "derive": _derive,
    "select": _select,
    "rename": _rename,
    "cast": _cast,
    "deduplicate": _deduplicate,
    "join": _join,
    "sort": _sort,
    "aggregate": _aggregate,
}


def _inner(table: Table, name: str, form: str, allowed: tuple[str, ...] = ()) -> Table:
    """Return the table under `name`, which is written as `form` shows and is not empty."""
    if name not in table.data:
        raise table.error(name, "is missing", hint=f"write {name} = {form}", key=True)
    inner = Table(table.source, (*table.path, name), table.data[name], noun="a table", hint=f"write {name} = {form}")
    if not inner.data:
        raise table.error(name, "is empty", hint=f"write {name} = {form}")
    if allowed:
        inner.only(allowed)
    return inner


def _texts(table: Table) -> dict[str, str]:
    return {name: table.take(name, str) for name in table.data}


def _word(table: Table, name: str) -> str:
    text: str = table.take(name, str)
    if not text.strip():
        raise table.error(name, "is empty", hint="it must be a text")
    return text


def _names(table: Table, name: str, *, empty: bool = False) -> tuple[str, ...]:
    """Return the list of different names under `name`."""
    names: list[str] = []
    for place, each in enumerate(table.take(name, list)):
        if not isinstance(each, str) or not each:
            problem = "is empty" if each == "" else f"must be text in quotes, not {kind_of(each)}"
            raise table.source.error((*table.path, name, place), problem, hint="it must be the name of a column")
        if each in names:
            raise table.source.error((*table.path, name, place), f"{each!r} is named twice", hint="name it once")
        names.append(each)
    if not names and not empty:
        raise table.error(name, "is empty", hint="name at least one column")
    return tuple(names)
