"""What the tests of contracts of pipelines share: compiling one, rows as a frame, and holding them against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import polars as pl

from support import REPOSITORY
from tidewaiter.core.contract import TableContract, compile_contract
from tidewaiter.core.pipelines.columns import ROW, ROW_DTYPE
from tidewaiter.core.pipelines.validation import Validator
from tidewaiter.shell.pipelines.references import contract_lists

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidewaiter.core.pipelines.batches import Batch
    from tidewaiter.core.pipelines.columns import Schema

CONTRACTS: Final = REPOSITORY / "config" / "contracts"
HEAD: Final = 'contract = "t"\nversion = 1\n'


def table_contract(text: str, head: str = HEAD) -> TableContract:
    """Compile a contract of a pipeline from its fields and checks."""
    return compile_contract((head + text).encode(), "t.toml", for_stream=False)


def frame_of(rows: Sequence[Mapping[str, Any]], first: int = 1) -> pl.DataFrame:
    """Return texts as a reader gives them, numbered from `first`; an empty text is an empty cell."""
    columns = list(rows[0])
    data = {name: [row[name] or None for row in rows] for name in columns}
    numbers = pl.Series(ROW, range(first, first + len(rows)), dtype=ROW_DTYPE)
    return pl.DataFrame([numbers, *(pl.Series(name, data[name], dtype=pl.String) for name in columns)])


def checked(fields: str, column: str, *cells: str | None) -> Batch:
    """Hold a column of texts against a contract."""
    frame = frame_of([{column: cell} for cell in cells])
    return Validator(table_contract(fields), (column,)).check(frame)


def problems(batch: Batch) -> list[tuple[int, str | None, str]]:
    """Return row, column and problem of what was rejected."""
    return [(each.row, each.column, each.problem) for each in batch.rejected]


def shipped(name: str) -> TableContract:
    """Return a shipped contract."""
    file = CONTRACTS / f"{name}.toml"
    return compile_contract(file.read_bytes(), str(file), for_stream=False)


def shipped_validator(name: str, columns: tuple[str, ...], given: Schema | None = None) -> Validator:
    """Return a Validator of a shipped contract, its lists read."""
    contract = shipped(name)
    return Validator(contract, columns, given, contract_lists(contract)[0])
