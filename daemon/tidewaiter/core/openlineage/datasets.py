"""What OpenLineage is told about datasets and their columns, before any of it is JSON.

Owns: the values that callers fill in. Leaves to `facets` how each becomes a facet, and to `events` the event.

Every value is optional but where a dataset is: what is not known is left out of the event, never guessed.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

FILE: Final = "file"
"""The namespace of files of this machine; their name is the absolute path."""
SHA256: Final = "sha-256"
RUNNING_SHA256: Final = "tidewaiter-running-sha-256"
"""``h = SHA256(h_previous || batch)`` over the batches of an append-only file, as in ``batch.committed``."""


class Column(Struct, frozen=True):
    """A column and its type, in the words of the contract."""

    name: str
    type: str
    description: str | None = None


class Digest(Struct, frozen=True):
    """The digest (hex) of a dataset's bytes: of all of them, or of [`first`, `first` + `length`)."""

    value: str
    algorithm: str = SHA256
    first: int | None = None
    length: int | None = None


class Assertion(Struct, frozen=True):
    """A check of the data: of `actual` records that failed it none were `expected`.

    `halts`: one of them ends the run; otherwise they are set aside.
    """

    name: str
    actual: int
    halts: bool = False


class Origin(Struct, frozen=True):
    """A column of an input that goes into a column of the output.

    `kind` is ``IDENTITY``, ``TRANSFORMATION`` or ``AGGREGATION``; for what decides about whole rows ``FILTER``,
    ``JOIN``, ``GROUP_BY`` or ``SORT``.
    """

    dataset: str
    column: str
    kind: str
    namespace: str = FILE


class ColumnLineage(Struct, frozen=True):
    """Where the columns of an output come from; `rows` decide which rows there are, and in which order."""

    columns: dict[str, tuple[Origin, ...]]
    rows: tuple[Origin, ...] = ()


class Dataset(Struct, frozen=True, kw_only=True):
    """An input or output. `records`, `bytes` and `files` count what this run read or wrote.

    `version` names the state of the data: a content digest, or how far an append-only file reaches. `nulls` counts
    empty values by column; `format` is csv, json, parquet and so on.
    """

    name: str
    namespace: str = FILE
    columns: tuple[Column, ...] = ()
    version: str | None = None
    digest: Digest | None = None
    format: str | None = None
    records: int | None = None
    bytes: int | None = None
    files: int | None = None
    nulls: dict[str, int] = {}
    quality: bool = False
    assertions: tuple[Assertion, ...] = ()
    lineage: ColumnLineage | None = None
