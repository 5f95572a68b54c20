"""A pipeline composed in Python: the same declarations as in a pipeline file, and the file's text for them.

Owns: `Pipeline`. Leaves to `core.pipelines.step_files` what a declaration means and which are wrong: a composed
pipeline is read from its own text, so that it has a digest, can be saved, and means what its file would mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from tidewaiter.core.pipelines.expressions import parsed
from tidewaiter.core.pipelines.step_files import read_pipeline
from tidewaiter.core.pipelines.steps import COMPOSED, Derive, Filter, unplaced

if TYPE_CHECKING:
    from pathlib import Path

_Value = str | int | bool | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Steps in order. Each method returns a new pipeline with one more step and changes nothing.

        Pipeline("claims").filter("amount > '0.00'").derive(total="amount * quantity").select("id", "total")

    What a pipeline file could not say, and a filter or derive that is no expression, is refused at once: ConfigError,
    or TypeError for a value that is none of TOML's. Whether names and types of columns fit is checked when a run
    begins, against the contract: ConfigError. Both name the step.
    """

    name: str = "pipeline"
    version: int = 1
    title: str = ""
    on_invalid: str | None = None
    _steps: tuple[dict[str, _Value], ...] = field(default=(), repr=False)
    _keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    _lists: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    def filter(self, where: str) -> Self:
        """Keep the rows for which the condition holds."""
        return self._with("filter", where)

    def derive(self, **columns: str) -> Self:
        """Add columns, or give columns another value, by expressions over those there are."""
        return self._with("derive", columns)

    def select(self, *columns: str) -> Self:
        """Keep these columns, in this order."""
        return self._with("select", columns)

    def rename(self, **columns: str) -> Self:
        """Give columns other names: ``old="new"``."""
        return self._with("rename", columns)

    def cast(self, **columns: str) -> Self:
        """Give columns another type: ``quantity="decimal(2)"``. A value that does not fit is a rejected record."""
        return self._with("cast", columns)

    def deduplicate(self, *by: str, keep: str = "first") -> Self:
        """Keep the first or the last row of those that are equal in the columns `by`."""
        return self._with("deduplicate", {"by": by, "keep": keep})

    def join(
        self,
        file: str | Path,
        *,
        on: Mapping[str, str] | Sequence[str],
        take: Mapping[str, str] | Sequence[str],
        missing: str = "null",
    ) -> Self:
        """Take columns from a reference file: `on` is own column to its column, `take` its column to the new name.

        `missing`: ``null``, ``reject`` or ``drop``, for a row without a partner.
        """
        same = on if isinstance(on, Mapping | str) else {each: each for each in on}
        return self._with("join", {"file": os.fspath(file), "on": same, "take": take, "missing": missing})

    def sort(self, *keys: str) -> Self:
        """Put the rows in order; ``-booked`` is descending. Rows with equal keys keep their order."""
        return self._with("sort", keys)

    def aggregate(self, *, by: Sequence[str], **columns: str) -> Self:
        """Make one row of each group: ``total="sum(amount)"``."""
        return self._with("aggregate", {"by": by, **columns})

    def with_key(self, name: str, *, file: str | Path | None = None, credential: str | None = None) -> Self:
        """Give keyed_hash() a secret, from a file or from a credential of the service manager."""
        said = {"file": None if file is None else os.fspath(file), "credential": credential}
        return replace(self, _keys={**self._keys, name: {key: value for key, value in said.items() if value}})

    def with_list(self, name: str, file: str | Path, *, key: str) -> Self:
        """Give lookup() a reference list: a table, and its column that is looked up."""
        return replace(self, _lists={**self._lists, name: {"file": os.fspath(file), "key": key}})

    def named(self, name: str) -> Self:
        """Give the last step a name, by which results and audit entries call it. Raises ValueError without a step."""
        if not self._steps:
            raise ValueError("there is no step to name yet")
        named = replace(self, _steps=(*self._steps[:-1], {**self._steps[-1], "name": name}))
        _check_last(named.to_toml())
        return named

    def to_toml(self) -> str:
        """Return the pipeline file that says the same."""
        lines = [f"pipeline = {_toml(self.name)}", f"version = {_toml(self.version)}"]
        if self.title:
            lines.append(f"title = {_toml(self.title)}")
        if self.on_invalid is not None:
            lines.append(f"on_invalid = {_toml(self.on_invalid)}")
        for title, tables in (("keys", self._keys), ("list", self._lists)):
            if tables:
                lines += ["", f"[{title}]", *(f"{_key(key)} = {_toml(value)}" for key, value in tables.items())]
        for step in self._steps:
            lines += ["", "[[step]]", *(f"{_key(key)} = {_toml(value)}" for key, value in step.items())]
        return "\n".join(lines) + "\n"

    def _with(self, kind: str, value: _Value) -> Self:
        more = replace(self, _steps=(*self._steps, {kind: value}))
        _check_last(more.to_toml())
        return more


def _check_last(text: str) -> None:
    """Raise ConfigError for what is wrong with the last step of a composed pipeline, whatever the columns are."""
    steps = read_pipeline(text.encode(), COMPOSED).steps
    texts: dict[tuple[str, ...], str] = {}
    match steps[-1]:
        case Filter(where=where):
            texts = {("filter",): where}
        case Derive(columns=columns):
            texts = {("derive", name): each for name, each in columns.items()}
    for keys, each in texts.items():
        parsed(each, partial(unplaced(steps), len(steps) - 1, keys))


def _toml(value: object) -> str:
    """Return `value` as TOML writes it. Raises TypeError for what a pipeline never holds."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return _text(value)
        case Mapping():
            return f"{{ {', '.join(f'{_key(key)} = {_toml(each)}' for key, each in value.items())} }}"
        case Sequence():
            return f"[{', '.join(map(_toml, value))}]"
    raise TypeError(f"{value!r}: a pipeline holds texts, lists and tables, not {type(value).__name__}")


def _text(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which only TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _text(name)
