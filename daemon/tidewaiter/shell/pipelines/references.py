"""The reference files that a pipeline and its contract name: lists of joins and of lookup(), lists of a contract, keys.

Owns: finding and reading them, hashing them, and the types of their columns. Leaves to `core.pipelines.functions` which
keys and lists will do, to `edges.tables.sources` the formats, to `core.scenarios.lists` the lists of contracts, and to
`preparing` which are needed.

The columns of a reference list are texts, but for the keys of a join: those have the type of the column that they are
held against. A step may cast what was taken.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.batches import quoted
from tidewaiter.core.pipelines.columns import ROW, STRING
from tidewaiter.core.pipelines.expression_types import Ground, Reference
from tidewaiter.core.pipelines.text_values import not_of_form, read_texts
from tidewaiter.core.scenarios.lists import read_list
from tidewaiter.core.scenarios.syntax import ListDecl
from tidewaiter.edges.key_files import read_closed
from tidewaiter.edges.tables.sources import read_reference
from tidewaiter.shell.pipelines.config import absolute
from tidewaiter.shell.pipelines.facts import TableFacts

if TYPE_CHECKING:
    import polars as pl

    from tidewaiter.core.contract import TableContract
    from tidewaiter.core.pipelines.columns import Schema
    from tidewaiter.core.pipelines.steps import Join, KeySource, PipelineFile

_FINGERPRINT: Final = b"tidewaiter key fingerprint"


class References:
    """The reference files of one pipeline; `files` are those read so far, by the name that the pipeline file gives."""

    def __init__(self, home: Path) -> None:
        """Names are relative to `home`."""
        self.files: dict[str, TableFacts] = {}
        self._home = home
        self._tables: dict[str, pl.DataFrame] = {}

    def table(self, name: str) -> pl.DataFrame:
        """Return the rows of a list, all texts, ROW first. Raises ConfigError."""
        if name not in self._tables:
            path = self._home / name
            before = hashed(path)
            self._tables[name] = read_reference(path)
            if hashed(path).sha256 != before.sha256:
                raise ConfigError(f"{path}: changed while it was read", hint="put it in place by renaming it")
            self.files[name] = before
        return self._tables[name]

    def join_schema(self, step: Join, schema: Schema) -> Schema:
        """Return the columns of a join's list, for rows with the columns `schema`."""
        keys = {key: schema[own] for own, key in step.on.items() if own in schema}
        return {name: keys.get(name, STRING) for name in self.table(step.file).columns if name != ROW}

    def join_rows(self, step: Join, schema: Schema) -> pl.DataFrame:
        """Return the rows of a join's list as `join_schema` types them.

        Raises ConfigError for a key of another form.
        """
        table = self.table(step.file)
        for own, key in step.on.items():
            texts, wanted = table[key], schema[own]
            values = read_texts(texts, wanted)
            if values.null_count() != texts.null_count():
                bad = table.filter(values.is_null() & texts.is_not_null())
                raise ConfigError(
                    f"{self._home / step.file}: row {bad[ROW][0]}: column {key}: {quoted(bad[key][0])!r} "
                    f"{not_of_form(wanted)}, as {own} is",
                    hint="correct the list, or cast the column to string before the join",
                )
            table = table.with_columns(values.alias(key))
        return table

    def ground(self, pipeline: PipelineFile) -> Ground:
        """Return the keys and lists that the pipeline's expressions may use. Raises ConfigError."""
        keys = {name: _secret(source, self._home) for name, source in pipeline.keys.items()}
        lists: dict[str, Reference] = {}
        for name, source in pipeline.lists.items():
            frame = self.table(source.file).drop(ROW)
            where = f"{pipeline.file}: list.{name}"
            if source.key not in frame.columns:
                raise ConfigError(
                    f"{where}.key: {self._home / source.file} has no column {source.key!r}",
                    hint=f"it has {', '.join(frame.columns)}",
                )
            lists[name] = Reference(dict.fromkeys(frame.columns, STRING), frame, source.key)
        return Ground(keys, lists)


def fingerprints(ground: Ground) -> dict[str, str]:
    """Return what tells one key from another and gives none away, by name."""
    return {name: hmac.digest(key, _FINGERPRINT, "sha256").hex()[:16] for name, key in sorted(ground.keys.items())}


def contract_lists(contract: TableContract) -> tuple[dict[str, frozenset[str]], dict[str, TableFacts]]:
    """Return the entries of the lists that a contract refers to, by field, and the files by the names it gives them.

    Names are relative to the contract's file. Raises ConfigError.
    """
    lists: dict[str, frozenset[str]] = {}
    files: dict[str, TableFacts] = {}
    for field in contract.fields:
        if field.reference is None:
            continue
        path = Path(contract.file).parent / field.reference.file
        content = read_file(path, "list")
        found = read_list(
            ListDecl(field.name, field.reference.file, prefix=False, column=field.reference.column), content, str(path)
        )
        lists[field.name] = found.entries
        files[field.reference.file] = TableFacts(absolute(path), found.digest, len(found.entries), len(content))
    return lists, files


def read_file(path: Path, what: str) -> bytes:
    """Return the bytes of a small file. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, what, error) from error


def hashed(path: Path) -> TableFacts:
    """Return a file with its hash and length. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return TableFacts(absolute(path), digest, bytes=os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise _unreadable(path, "reference file", error) from error


def _secret(source: KeySource, home: Path) -> bytes:
    if source.credential is not None:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            hint = "LoadCredential= of the service hands it over; or name a file"
            raise ConfigError(f"credential {source.credential}: no service manager handed one over", hint=hint)
        path = Path(folder) / source.credential
    else:
        path = home / (source.file or "")
    hint = "let another take its place"
    return read_closed(path, "key", credential=source.credential is not None, hint=hint).rstrip(b"\r\n")


def _unreadable(path: Path, what: str, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: the {what} cannot be read: {error.strerror}", hint="check path and permissions")
