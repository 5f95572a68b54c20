"""Which files a run writes and which it reads: no file is both, but for an input that is replaced by the output.

Owns: the list of them, those beside the named ones included, and the comparison. Leaves to `preparing` when it is made,
and to `edges.tables.places` which files an input is.

Invariant: two files are one if their real paths are, or if they are hard links of one another.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.steps import Join
from tidewaiter.edges.tables.places import expand
from tidewaiter.shell.pipelines.composing import Pipeline
from tidewaiter.shell.pipelines.config import STANDARD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.core.contract import TableContract
    from tidewaiter.core.pipelines.steps import PipelineFile
    from tidewaiter.shell.pipelines.config import PipelineConfig

_OUTPUT = "output_path"
_INPUT = "input_path"


class _Named(NamedTuple):
    """A file, and what of the configuration names it."""

    what: str
    path: Path


def refuse_shared(
    config: PipelineConfig, pipeline: PipelineFile | None, contract: TableContract | None, home: Path
) -> None:
    """Raise ConfigError, naming both, where a file that the run writes is another one that it writes or reads.

    `home` is what the names in the pipeline file are relative to. Only an output that is the one input passes.
    """
    written: dict[object, _Named] = {}
    for named in _written(config):
        for identity in _identities(named.path):
            _refuse(written.get(identity), named)
        written.update(dict.fromkeys(_identities(named.path), named))
    inputs = list(_inputs(config))
    in_place = len(inputs) == 1 and config.mode == "batch"
    for named in [*inputs, *_governing(config, pipeline, contract, home)]:
        for identity in _identities(named.path):
            other = written.get(identity)
            if other is None or named.what != _INPUT or other.what != _OUTPUT:
                _refuse(named, other)
            elif not in_place:
                hint = "write it elsewhere, or name the files of the input"
                raise ConfigError(f"{other.path}: the output is one of the files of the input", hint=hint)


def _refuse(one: _Named | None, other: _Named | None) -> None:
    if one is not None and other is not None:
        both = f"{other.path}" if one.path == other.path else f"{other.path} and {one.path}"
        raise ConfigError(f"{other.what}: is the same file as {one.what}: {both}", hint="name two files")


def _identities(path: Path) -> Iterator[object]:
    """Yield what makes two names one file: the real path and, where a file is there, its place on the disk."""
    yield os.path.realpath(path)
    with contextlib.suppress(OSError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            yield status.st_dev, status.st_ino


# -- what is written ---------------------------------------------------------------------------------------------------


def _written(config: PipelineConfig) -> Iterator[_Named]:
    if os.fspath(config.output_path) != STANDARD:
        output = config.output
        yield from _replaced(_OUTPUT, output)
        yield from _replaced("the file of rejected records", output.with_name(f"{output.name}.rejected.jsonl"))
    if config.audit_path is not None:
        yield _Named("audit_path", Path(config.audit_path))
    if config.save_contract is not None:
        yield from _replaced("save_contract", Path(config.save_contract))
    if config.lineage_path is not None:
        yield from _replaced("lineage_path", Path(config.lineage_path))
    if config.openlineage_path is not None:
        events = Path(config.openlineage_path)
        yield _Named("openlineage_path", events)
        yield from _replaced("the cursor of openlineage_path", events.with_name(f"{events.stem}.cursor.json"))
        yield _Named("the lock of openlineage_path", events.with_name(f"{events.stem}.cursor.lock"))
        yield _Named("the refused events of openlineage_path", events.with_name(f"{events.stem}.refused.jsonl"))


def _replaced(what: str, path: Path) -> Iterator[_Named]:
    """Yield a file that is replaced, and the one that takes its place."""
    yield _Named(what, path)
    target = Path(os.path.realpath(path))
    yield _Named(f"the temporary file of {what}", target.with_name(f".{target.name}.tmp"))


# -- what is read ------------------------------------------------------------------------------------------------------


def _inputs(config: PipelineConfig) -> Iterator[_Named]:
    for given in config.inputs:
        if given == STANDARD:
            continue
        try:
            found = expand(Path(given))
        except ConfigError:  # told, and recorded, when the input is opened
            found = [Path(given)]
        for path in found:
            yield _Named(_INPUT, path)


def _governing(
    config: PipelineConfig, pipeline: PipelineFile | None, contract: TableContract | None, home: Path
) -> Iterator[_Named]:
    if config.pipeline is not None and not isinstance(config.pipeline, Pipeline):
        yield _Named("pipeline", Path(config.pipeline))
    if contract is not None:
        yield _Named("contract", Path(contract.file))
        for field in contract.fields:
            if field.reference is not None:
                yield _Named(f"the list of {field.name}", Path(contract.file).parent / field.reference.file)
    if pipeline is None:
        return
    for step in pipeline.steps:
        if isinstance(step, Join):
            yield _Named(f"the list of step {step.name}", home / step.file)
    for name, source in pipeline.lists.items():
        yield _Named(f"list.{name}", home / source.file)
    for name, key in pipeline.keys.items():
        if key.file is not None:
            yield _Named(f"keys.{name}", home / key.file)
