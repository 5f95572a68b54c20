"""Rows held against a contract: texts become values, and rows that break it are taken out, each with its reasons.

Owns: which columns a contract finds in an input, what of a column does not fit, and the words for it. Leaves to
`text_values` and `column_values` how a value is read, to `contract_checks` conditions over several columns and sums of
digits, to `core.contract_fields` what a field admits (its msgspec type), and to the runner what a rejection means.

Every value is judged by the field's own msgspec type, but not every value is converted: converting a million numbers
one by one costs more than all the rest of a pipeline. What a field asks is either monotone, so that the extremes of a
column answer for all of it (bounds: the least and the greatest; lengths: the shortest and the longest text), or a
matter of the distinct values alone (enums). If the representatives pass, so does every value they stand for; only where
one fails is the column looked at again, by distinct values and lengths or against the limits, to find the rows exactly.
Both ways give the same rows (a test judges each value by itself). Bounds of amounts and dates are compared as whole
numbers of minor units and days, which have more digits than msgspec's bounds hold. Patterns are polars' own, whose time
does not depend on the text.

Invariants: what is wrong with a row depends on that row alone; a row is rejected at most once, and says everything that
is wrong with it, up to PROBLEMS_TOLD, in the contract's order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import polars as pl

from tidewaiter.core.contract_bounds import KEYS, value_range
from tidewaiter.core.contract_fields import field_type
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.batches import Batch, Rejected, quoted, records_as_text
from tidewaiter.core.pipelines.column_values import column_type, read_values, readable
from tidewaiter.core.pipelines.columns import ROW, STRING, ColumnType, Schema
from tidewaiter.core.pipelines.contract_checks import Conditions, code_faults
from tidewaiter.core.pipelines.expression_types import NO_GROUND, Ground
from tidewaiter.core.pipelines.text_values import not_of_form
from tidewaiter.core.screening import EARLIEST, LATEST
from tidewaiter.core.toml_source import TomlSource, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from tidewaiter.core.contract import Field, TableContract

STEP: Final = "validate"
PROBLEMS_TOLD: Final = 5
_BLANK: Final = r"^\s*$"
_ENUM_TOLD: Final = 10
_BOUND_WORDS: Final = {"above": "above", "at_least": "at least", "below": "below", "at_most": "at most"}

Fault = tuple[pl.Series, str]
"""The rows that are wrong in one way (true; null counts as false), and what to say of them."""


class Validator:
    """Rows of an input with given columns, held against a contract.

    `schema` are the columns that come out, in the input's order under the contract's names; optional columns that the
    input does not have come last, all null or their default.
    """

    schema: Schema

    def __init__(
        self,
        contract: TableContract,
        columns: tuple[str, ...],
        given: Schema | None = None,
        lists: Mapping[str, AbstractSet[str]] | None = None,
        *,
        ground: Ground = NO_GROUND,
    ) -> None:
        """`columns` are those of the input, in order, and `given` their types (None: all texts).

        `lists` are the entries of the lists that the contract refers to, by the names of the fields.
        Raises ConfigError where columns are missing, unknown, or of a type that cannot become what is declared.
        """
        self._contract = contract
        self._source = TomlSource(contract.text, contract.file)
        self._given = dict.fromkeys(columns, STRING) if given is None else {name: given[name] for name in columns}
        self._check_columns()
        self.schema = {}
        for name, had in self._given.items():
            field = contract.by_source.get(name)
            self.schema[field.name if field else name] = column_type(field) if field else had
        absent = [field for field in contract.fields if field.source not in self._given]
        self.schema.update({field.name: column_type(field) for field in absent})
        self._columns = tuple(
            _Column(contract, self._source, field, self._given.get(field.source, column_type(field)), lists or {})
            for field in contract.fields
        )
        self._conditions = Conditions(contract, self._source, self.schema, ground)

    def _check_columns(self) -> None:
        contract = self._contract
        for field in contract.fields:
            had = self._given.get(field.source)
            if had is None and field.required:
                raise ConfigError(
                    f"{contract.file}: field.{field.name}: the input has no column {field.source!r}",
                    hint=nearest(field.source, self._given, listing=f"it has {', '.join(self._given)}"),
                )
            if had is not None and not readable(had, column_type(field)):
                raise ConfigError(
                    f"{contract.file}: field.{field.name}: the column {field.source!r} is {had}, which cannot become "
                    f"{field.kind}",
                    hint=f"declare it as {had.kind}, and cast it in a step",
                )
        for name in self._given:
            if name in contract.by_source:
                continue
            if contract.unknown_fields == "refuse":
                hint = nearest(name, contract.by_source, listing="declare it, or say unknown_fields = 'ignore'")
                raise ConfigError(f"{contract.file}: the input has a column {name!r} that is not declared", hint=hint)
            if name in contract.by_name:
                problem = f"the input has a column {name!r} beside {contract.by_name[name].source!r}"
                raise ConfigError(f"{contract.file}: field.{name}: {problem}", hint="give the field another name")

    def check(self, frame: pl.DataFrame) -> Batch:
        """Return the rows of `frame` that meet the contract, as values, and the others rejected."""
        found: dict[str, pl.Series] = {ROW: frame[ROW]}
        faults: list[tuple[Field | None, pl.Series, str]] = []
        values: dict[str, pl.Series] = {}
        for column in self._columns:
            field = column.field
            if field.source in self._given:
                values[field.name], wrong = column.read(frame[field.source])
                faults += [(field, mask, problem) for mask, problem in wrong]
            else:
                values[field.name] = pl.repeat(
                    field.default, frame.height, dtype=self.schema[field.name].dtype, eager=True
                )
        for name in self.schema:
            found[name] = values[name] if name in values else frame[name]
        typed = pl.DataFrame(found)
        clean = ~_any([mask for _, mask, _ in faults], frame.height) if faults else None
        faults += (
            (field, mask if clean is None else mask & clean, problem)
            for field, mask, problem in self._conditions.faults(typed)
        )
        bad = _any([mask for _, mask, _ in faults], frame.height) if faults else None
        if bad is None or not bad.any():
            return Batch(typed)
        return Batch(typed.filter(~bad), self._rejections(frame, bad, faults))

    def _rejections(
        self, frame: pl.DataFrame, bad: pl.Series, faults: Sequence[tuple[Field | None, pl.Series, str]]
    ) -> tuple[Rejected, ...]:
        rows = frame.filter(bad)
        held = zip(*(mask.filter(bad).fill_null(value=False).to_list() for _, mask, _ in faults), strict=True)
        said: dict[tuple[bool, ...], tuple[str | None, str]] = {}  # rows that are wrong in the same ways are told alike
        rejected = []
        for row, record, which in zip(rows[ROW].to_list(), records_as_text(rows, self._given), held, strict=True):
            if which not in said:
                said[which] = _told(
                    [(field, text) for (field, _, text), holds in zip(faults, which, strict=True) if holds]
                )
            column, problem = said[which]
            value = quoted(record.get(column)) if column else None
            rejected.append(Rejected(row, column, problem, value, record, STEP))
        return tuple(rejected)


class _Column:
    """One declared column: its values, and what is wrong with them."""

    def __init__(
        self,
        contract: TableContract,
        source: TomlSource,
        field: Field,
        had: ColumnType,
        lists: Mapping[str, AbstractSet[str]],
    ) -> None:
        self.field = field
        self._had = had
        self._type = column_type(field)
        self._admits = admits(field)
        self._written = source.data["field"][field.name]
        self._is_role = field.name in (contract.id_field, contract.subject_field)
        self._is_time = field.name == contract.time_field
        if field.pattern is not None:
            _try_pattern(source, field.name, field.pattern)
        self._entries: pl.Series | None = None
        if field.reference is not None:
            if field.name not in lists:
                where = f"{contract.file}: field.{field.name}.list"
                raise ConfigError(f"{where}: {field.reference.file} was not read", hint="read it, and give its entries")
            self._entries = pl.Series(sorted(lists[field.name]), dtype=pl.String)

    def read(self, cells: pl.Series) -> tuple[pl.Series, list[Fault]]:
        """Return the column's values, null where there is none, and the rows that are wrong."""
        field = self.field
        values = read_values(cells, self._had, self._type).rename(field.name)
        faults: list[Fault] = []
        if values.null_count() != cells.null_count():
            faults.append((values.is_null() & cells.is_not_null(), self._not_of_form()))
        if field.required and cells.null_count():
            faults.append((cells.is_null(), "is missing"))
        faults += ((mask, problem) for mask, problem in self._faults(values) if mask.any())
        if field.default is not None:
            values = values.fill_null(field.default)
        return values, faults

    def _not_of_form(self) -> str:
        return not_of_form(self._type)

    def _faults(self, values: pl.Series) -> Iterator[Fault]:
        field = self.field
        if values.len() == values.null_count():
            return
        match field.kind:
            case "integer" | "money" | "decimal" | "date":
                units = values.to_physical()
                if not (self._admits(units.min()) and self._admits(units.max())):
                    lowest, highest = _range_of(field)
                    yield (units < lowest) | (units > highest), f"is not {self._bounds()}"
            case "enum":
                distinct = values.unique().drop_nulls().to_list()
                refused = [value for value in distinct if not self._admits(value)]
                if refused:
                    told = ", ".join(field.values[:_ENUM_TOLD]) + (", …" if len(field.values) > _ENUM_TOLD else "")
                    yield values.is_in(refused), f"is not one of the allowed values: {told}"
            case "string":
                yield from self._text_faults(values)
            case "timestamp" if self._is_time:
                outside = (values < EARLIEST) | (values >= LATEST)
                yield outside, f"is not in the years {EARLIEST.year} to {LATEST.year - 1}"
            case _:
                pass

    def _text_faults(self, values: pl.Series) -> Iterator[Fault]:
        field = self.field
        if not self._surely_within_lengths(values):
            lengths = values.str.len_chars()
            shortest, longest = lengths.arg_min(), lengths.arg_max()
            if not all(self._admits(values[place]) for place in (shortest, longest) if place is not None):
                one_of_each = lengths.arg_unique().to_list()
                refused = [lengths[place] for place in one_of_each if not self._admits(values[place] or "")]
                yield lengths.is_in(refused), f"does not have {self._lengths()} characters"
        if self._is_role:
            yield values.str.contains(_BLANK), "is only white space"
        if field.pattern is not None:
            yield ~values.str.contains(field.pattern), f"does not have the form {self._written['pattern']}"
        if self._entries is not None and field.reference is not None:
            yield ~values.is_in(self._entries.implode()), f"is not in {field.reference.file}"
        if field.check is not None:
            yield code_faults(values, field.check)

    def _surely_within_lengths(self, values: pl.Series) -> bool:
        """Return whether the bytes alone show that no text is too short or too long; they are quicker to count."""
        sizes = values.str.len_bytes()
        least, most = sizes.min(), sizes.max()
        if not isinstance(least, int) or not isinstance(most, int):
            return True
        longest = self.field.max_length
        # a character has one to four bytes
        return (least + 3) // 4 >= self.field.min_length and (longest is None or most <= longest)

    def _lengths(self) -> str:
        return f"{self.field.min_length} to {self.field.max_length}"

    def _bounds(self) -> str:
        parts = [f"{words} {self._written[key]}" for key, words in _BOUND_WORDS.items() if key in self._written]
        if self.field.kind == "money" and len(parts) < len(("lower", "upper")):
            parts.append("within 10^15 minor units")
        return " and ".join(parts)


def _try_pattern(source: TomlSource, name: str, pattern: str) -> None:
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError:
        hint = "repeat less inside of repeats"
        raise source.error(("field", name, "pattern"), "makes too large a machine", hint=hint) from None


def admits(field: Field) -> Callable[[Any], bool]:
    """Return what tells whether `field` admits one value: of amounts the minor units, of dates the day's number."""
    if field.kind in ("money", "decimal", "date"):
        lowest, highest = _range_of(field)
        return lambda value: lowest <= value <= highest
    kind = field_type(msgspec.structs.replace(field, pattern=None))

    def judge(value: Any) -> bool:  # noqa: ANN401 - a value of the column
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return False
        return True

    return judge


def _range_of(field: Field) -> tuple[int, int]:
    return value_range(field.kind, **{key: getattr(field, key) for key in KEYS})


def _any(masks: Sequence[pl.Series], height: int) -> pl.Series:
    """Return in which rows one of `masks` is true."""
    found = pl.repeat(value=False, n=height, eager=True)
    for mask in masks:
        found |= mask.fill_null(value=False)
    return found


def _told(faults: Sequence[tuple[Field | None, str]]) -> tuple[str | None, str]:
    """Return the first column that is wrong, and all problems of a row as one text, one of each column."""
    seen: list[Field] = []
    texts: list[str] = []
    for field, problem in faults:
        if field is None or field not in seen:
            texts.append(problem if not texts or field is None else f"{field.source}: {problem}")
            seen += [field] if field else []
    if len(texts) > PROBLEMS_TOLD:
        texts[PROBLEMS_TOLD:] = [f"{len(texts) - PROBLEMS_TOLD} more"]
    first = faults[0][0]
    return first.source if first else None, "; also ".join(texts)
