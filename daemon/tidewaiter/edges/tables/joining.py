"""Rows brought together with the row of a reference list that has the same key.

Owns: the list in memory or, where it is large, list and rows in parts on disk, that no key is in the list twice, and
what becomes of rows without partner. Leaves to `shell.pipelines` reading and typing the list.

Rows come out in the order in which they came. A null is no key: a row with one has no partner, and a row of the list
with one is nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.batches import Batch, Rejected, quoted, records_as_text
from tidewaiter.core.pipelines.columns import ROW
from tidewaiter.edges.tables.partitions import ARRIVAL, HIDDEN, LEVELS, Fold, Held, Scatter, numbered, sliced
from tidewaiter.edges.tables.sorting import Runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tidewaiter.core.pipelines.columns import Schema
    from tidewaiter.core.pipelines.steps import Join
    from tidewaiter.edges.tables.spill import SpillDirectory

_AT: Final = f"{HIDDEN}row"
_AGAIN: Final = f"{HIDDEN}again"
_FOUND: Final = f"{HIDDEN}found"
_REJECTED_AT_ONCE: Final = 4096


class Joining:
    """One join: its step, and the columns before and after it."""

    def __init__(self, step: Join, before: Schema, after: Schema, spill: SpillDirectory, memory_bytes: int) -> None:
        """The list and the rows held come to `memory_bytes` at most."""
        self._step = step
        self._before = before
        self._after = after
        self._spill = spill
        self._memory = memory_bytes
        self._left = list(step.on)
        self._right = [f"{HIDDEN}key{place}" for place in range(len(step.on))]
        self._taken = {f"{HIDDEN}take{place}": new for place, new in enumerate(step.take.values())}

    def run(self, frames: Iterable[pl.DataFrame], reference: Iterable[pl.DataFrame]) -> Iterator[Batch]:
        """Yield the rows of `frames` with what the list `reference` gives them.

        Raises ConfigError where two rows of the list have the same key.
        """
        fold = Fold(self._right, self._by_key, self._spill, self._memory // 2)
        for rows in reference:
            fold.add(self._by_key(self._listed(rows)))
        if fold.spilled:
            joined = self._in_parts(frames, fold)
        else:
            partners = next(fold.results(), None)
            if partners is None:
                partners = self._no_list()
            self._refuse_twice(partners)
            joined = (self._with_partners(rows, partners) for rows in frames)
        for rows in joined:
            yield from self._finished(rows)

    # -- the list ------------------------------------------------------------------------------------------------------

    def _listed(self, rows: pl.DataFrame) -> pl.DataFrame:
        keys = [pl.col(name).alias(key) for name, key in zip(self._step.on.values(), self._right, strict=True)]
        taken = [pl.col(name).alias(new) for name, new in zip(self._step.take, self._taken, strict=True)]
        again = pl.lit(None, dtype=pl.UInt64).alias(_AGAIN)
        listed = rows.select(*keys, *taken, pl.col(ROW).cast(pl.UInt64).alias(_AT), again)
        return listed.drop_nulls(self._right)

    def _no_list(self) -> pl.DataFrame:
        """Return a list without rows."""
        keys = {key: self._before[name].dtype for name, key in zip(self._left, self._right, strict=True)}
        taken = {new: self._after[name].dtype for new, name in self._taken.items()}
        return pl.DataFrame(schema={**keys, **taken, _AT: pl.UInt64, _AGAIN: pl.UInt64})

    def _by_key(self, listed: pl.DataFrame) -> pl.DataFrame:
        """Return the first row of each key, with the number of the second one."""
        second = pl.min_horizontal(pl.col(_AT).slice(1, 1).first(), pl.col(_AGAIN).min())
        firsts = [pl.col(name).first() for name in (*self._taken, _AT)]
        return listed.group_by(self._right).agg(*firsts, second.alias(_AGAIN))

    def _refuse_twice(self, partners: pl.DataFrame) -> None:
        """Raise ConfigError for the first row of the list whose key an earlier row has."""
        twice = partners.filter(pl.col(_AGAIN).is_not_null()).sort(_AGAIN).head(1)
        if len(twice):
            values = [f"{name} = {quoted(twice[key].cast(pl.String)[0])}" for name, key in self._names()]
            places = f"rows {twice[_AT][0]} and {twice[_AGAIN][0]}"
            problem = f"{self._step.file}: {places} have the same key: {', '.join(values)}"
            raise ConfigError(problem, hint="a reference list has one row for each key: remove one of them")

    def _names(self) -> Iterable[tuple[str, str]]:
        return zip(self._step.on.values(), self._right, strict=True)

    # -- rows and list on disk -----------------------------------------------------------------------------------------

    def _in_parts(self, frames: Iterable[pl.DataFrame], fold: Fold) -> Iterator[pl.DataFrame]:
        listed = self._spill.part()
        first_twice: pl.DataFrame | None = None
        for partners in fold.results():
            twice = partners.filter(pl.col(_AGAIN).is_not_null()).sort(_AGAIN).head(1)
            if len(twice) and (first_twice is None or twice[_AGAIN][0] < first_twice[_AGAIN][0]):
                first_twice = twice
            for piece in sliced(partners, self._memory // 4):
                listed.append(piece)
        if first_twice is not None:
            self._refuse_twice(first_twice)
        runs = Runs(((ARRIVAL, False),), self._spill, self._memory)
        self._join_parts(listed.read(), numbered(frames), runs, 0)
        listed.remove()
        yield from runs.merged()

    def _join_parts(
        self, listed: Iterator[pl.DataFrame], frames: Iterable[pl.DataFrame], runs: Runs, level: int
    ) -> None:
        """Add to `runs` the rows of `frames` with their partners, in one run where the list fits into memory."""
        held = Held()
        for rows in listed:
            held.add(rows)
            if held.size > self._memory // 2 and level < LEVELS:
                break
        else:
            partners = held.take() if held else self._no_list()
            runs.add(self._with_partners(rows, partners) for rows in frames)
            return
        right = Scatter(self._right, self._spill, self._memory, level)
        right.add(held.take())
        for rows in listed:
            right.add(rows)
        right_parts = right.parts()
        left = Scatter(self._left, self._spill, self._memory, level)
        for rows in frames:
            left.add(rows)
        for right_part, left_part in zip(right_parts, left.parts(), strict=True):
            if len(left_part):
                self._join_parts(right_part.read(), left_part.read(), runs, level + 1)
            right_part.remove()
            left_part.remove()

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _with_partners(self, rows: pl.DataFrame, partners: pl.DataFrame) -> pl.DataFrame:
        found = partners.drop(_AT, _AGAIN).with_columns(pl.lit(value=True).alias(_FOUND))
        return rows.join(found, left_on=self._left, right_on=self._right, how="left", maintain_order="left")

    def _finished(self, rows: pl.DataFrame) -> Iterator[Batch]:
        after = [ROW, *self._before, *(pl.col(new).alias(name) for new, name in self._taken.items())]
        if self._step.missing == "null":
            yield Batch(rows.select(after))
            return
        alone = pl.col(_FOUND).is_null()
        kept = rows.filter(~alone).select(after)
        missed = rows.filter(alone) if self._step.missing == "reject" else rows.clear()
        yield Batch(kept, self._rejected(missed.head(_REJECTED_AT_ONCE)))
        for rest in missed.slice(_REJECTED_AT_ONCE).iter_slices(_REJECTED_AT_ONCE):
            yield Batch(kept.clear(), self._rejected(rest))

    def _rejected(self, rows: pl.DataFrame) -> tuple[Rejected, ...]:
        if not len(rows):
            return ()
        records = records_as_text(rows, self._before)
        keys = ", ".join(self._step.on.values())
        column = self._left[0] if len(self._left) == 1 else None
        rejected = []
        for row, record in zip(rows[ROW].to_list(), records, strict=True):
            values = [value for name in self._left if (value := record[name]) is not None]
            known = len(values) == len(self._left)
            problem = f"{self._step.file} has no row with this {keys}" if known else "has no key: it is null"
            value = quoted(", ".join(values)) if known else None
            rejected.append(Rejected(row, column, problem, value, record, self._step.name))
        return tuple(rejected)
