"""Every step of a pipeline typed against the columns before it, before any row is read.

Owns: which columns a step may name, and which columns come out of it. Leaves to `expressions` what a formula means,
to `aggregates` the columns after joins and aggregates, and to `transforms` and `edges.tables` running the steps.

Invariant: a pipeline that was planned fails on rows only, never on its own text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidewaiter.core.pipelines.columns import BOOLEAN, ROW, Schema
from tidewaiter.core.pipelines.expression_types import NO_GROUND, Compiled, Ground
from tidewaiter.core.pipelines.expressions import compile_expression
from tidewaiter.core.pipelines.step_casts import castable
from tidewaiter.core.pipelines.steps import (
    KEEP,
    MISSING,
    Aggregate,
    Cast,
    Deduplicate,
    Derive,
    Filter,
    Join,
    Rename,
    Select,
    Sort,
    Step,
    StepFail,
    StepsFail,
    unplaced,
)
from tidewaiter.core.toml_source import nearest

if TYPE_CHECKING:
    from tidewaiter.core.errors import ConfigError

ReferenceSchema = Callable[[str], Schema]
"""Returns the columns of the reference list in the file that a join names. Raises ConfigError where there is none."""


@dataclass(frozen=True)
class PlannedStep:
    """A step, the columns before and after it, and its compiled expressions: by column, a filter's under ``where``."""

    step: Step
    before: Schema
    after: Schema
    compiled: Mapping[str, Compiled] = field(default_factory=dict)


def plan(
    steps: Sequence[Step],
    schema: Schema,
    fail: StepsFail | None = None,
    *,
    ground: Ground = NO_GROUND,
    reference_schema: ReferenceSchema | None = None,
) -> tuple[PlannedStep, ...]:
    """Return `steps` planned for an input with the columns `schema`.

    `fail` makes the errors (`step_files.places` for a file); `ground` holds the keys and lists of expressions;
    `reference_schema` is asked for the columns of a join's list. Raises ConfigError at the first fault.
    """
    fail = fail or unplaced(steps)
    planned: list[PlannedStep] = []
    names: set[str] = set()
    for number, step in enumerate(steps):
        at_step = _fail_of(fail, number)
        if step.name in names:
            raise at_step((), f"another step is called {step.name!r}", "give each step its own name", None)
        names.add(step.name)
        planned.append(_planned(step, schema, at_step, ground, reference_schema))
        schema = planned[-1].after
        if not schema:
            raise at_step((), "no column is left", "keep at least one", None)
    return tuple(planned)


def _fail_of(fail: StepsFail, number: int) -> StepFail:
    return lambda keys, problem, hint, at: fail(number, keys, problem, hint, at)


def _planned(
    step: Step, schema: Schema, fail: StepFail, ground: Ground, reference_schema: ReferenceSchema | None
) -> PlannedStep:
    match step:
        case Filter():
            compiled = _compile(step.where, schema, fail, ("filter",), ground)
            if compiled.type != BOOLEAN:
                raise fail(("filter",), f"is {compiled.kind}, not a condition", "write a comparison: amount > 0", 0)
            return PlannedStep(step, schema, schema, {"where": compiled})
        case Derive():
            return _derived(step, schema, fail, ground)
        case Select():
            check_names(step.columns, schema, fail, "select")
            return PlannedStep(step, schema, {name: schema[name] for name in step.columns})
        case Rename():
            return PlannedStep(step, schema, _renamed(step, schema, fail))
        case Cast():
            check_names(step.columns, schema, fail, "cast")
            for name, wanted in step.columns.items():
                if not castable(schema[name], wanted):
                    problem = f"{name} is {schema[name]} and cannot become {wanted}"
                    raise fail(("cast", name), problem, "derive what is meant", None)
            return PlannedStep(step, schema, {name: step.columns.get(name, had) for name, had in schema.items()})
        case Deduplicate():
            check_names(step.by, schema, fail, "deduplicate", "by")
            check_choice(step.keep, KEEP, fail, "deduplicate", "keep")
            return PlannedStep(step, schema, schema)
        case Sort():
            check_names([name for name, _ in step.by], schema, fail, "sort")
            return PlannedStep(step, schema, schema)
        case Join():
            return _joined(step, schema, fail, reference_schema)
        case Aggregate():
            from tidewaiter.core.pipelines.aggregates import aggregate_schema  # noqa: PLC0415 - it uses this module

            check_names(step.by, schema, fail, "aggregate", "by", empty=True)
            return PlannedStep(step, schema, aggregate_schema(step, schema, fail))


def check_names(names: Iterable[str], schema: Schema, fail: StepFail, *keys: str, empty: bool = False) -> None:
    """Raise ConfigError unless `names` are different columns of `schema`, at least one of them."""
    seen: set[str] = set()
    for name in names:
        if name not in schema:
            raise fail((*keys, name), f"there is no column {name!r} here", nearest(name, schema), None)
        if name in seen:
            raise fail((*keys, name), f"{name!r} is named twice", "name it once", None)
        seen.add(name)
    if not seen and not empty:
        raise fail(keys, "is empty", "name at least one column", None)


def check_new_name(name: str, fail: StepFail, *keys: str) -> None:
    """Raise ConfigError where a column cannot be called `name`."""
    if not name.strip() or name == ROW or any(character in name for character in "\0\r\n"):
        raise fail(keys, f"a column cannot be called {name!r}", "choose another name", None)


def check_choice(value: str, allowed: Sequence[str], fail: StepFail, *keys: str) -> None:
    """Raise ConfigError unless `value` is one of the words `allowed`."""
    if value not in allowed:
        raise fail(keys, f"{value!r} is not allowed", nearest(value, allowed), None)


def _compile(text: str, schema: Schema, fail: StepFail, keys: tuple[str, ...], ground: Ground) -> Compiled:
    def at_text(problem: str, hint: str, at: int) -> ConfigError:
        return fail(keys, problem, hint, at)

    return compile_expression(text, schema, at_text, ground=ground)


def _derived(step: Derive, schema: Schema, fail: StepFail, ground: Ground) -> PlannedStep:
    compiled: dict[str, Compiled] = {}
    after = dict(schema)
    if not step.columns:
        raise fail(("derive",), "is empty", "name at least one column", None)
    for name, text in step.columns.items():
        keys = ("derive", name)
        check_new_name(name, fail, *keys)
        compiled[name] = _compile(text, schema, fail, keys, ground)
        found = compiled[name].type
        if found is None:
            raise fail(keys, "has no type", "say which: if_else(false, amount, nothing())", 0)
        after[name] = found
    return PlannedStep(step, schema, after, compiled)


def _renamed(step: Rename, schema: Schema, fail: StepFail) -> Schema:
    check_names(step.columns, schema, fail, "rename")
    after: Schema = {}
    for old, column in schema.items():
        new = step.columns.get(old, old)
        if old in step.columns:
            check_new_name(new, fail, "rename", old)
        clash = next((each for each in step.columns if step.columns[each] == new), old) if new in after else None
        if clash is not None:
            raise fail(("rename", clash), f"two columns would be called {new!r}", "rename or drop the other", None)
        after[new] = column
    return after


def _joined(step: Join, schema: Schema, fail: StepFail, reference_schema: ReferenceSchema | None) -> PlannedStep:
    from tidewaiter.core.pipelines.aggregates import join_schema  # noqa: PLC0415 - it uses this module

    check_names(step.on, schema, fail, "join", "on")
    check_choice(step.missing, MISSING, fail, "join", "missing")
    for old, new in step.take.items():
        check_new_name(new, fail, "join", "take", old)
    if reference_schema is None:
        raise fail(("join", "file"), "no reference list can be read here", "", None)
    return PlannedStep(step, schema, join_schema(step, schema, reference_schema(step.file), fail))
