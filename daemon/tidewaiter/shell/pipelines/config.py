"""What a run of a pipeline is told: files, pipeline, contract and policy, in Python and from the command line alike.

Owns: `PipelineConfig` and the checks that need nothing but itself. Leaves to `preparing` reading the files that it
names, to `paths` whether these are different ones, and to `commands.pipeline` the options that become one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.batches import BATCH_BYTES
from tidewaiter.core.pipelines.table_format import TableFormat
from tidewaiter.edges.tables.partitions import MEMORY_BYTES
from tidewaiter.shell.pipelines.rejections import MostRejected

if TYPE_CHECKING:
    from tidewaiter.shell.openlineage_settings import OpenLineagePart
    from tidewaiter.shell.pipelines.composing import Pipeline

MODES: Final = ("batch", "stream")
ON_INVALID: Final = ("halt", "quarantine", "drop")
STANDARD: Final = "-"
"""The path of standard input or output."""
_LEAST_MEMORY: Final = 1 << 16
_LEAST_BATCH: Final = 1 << 10
_NOTHING_SAID: Final = TableFormat()


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """A run from `input_path` to `output_path`.

    `input_path`: a file, a directory, a glob pattern, several of them, or ``-`` for standard input. `output_path`: the
    file that appears when the run has succeeded, or ``-``. `audit_path`: the audit log that the run is appended to;
    None for a run without one, whose steps are counted and reconciled but not hashed. `pipeline`: a pipeline file or a
    `Pipeline`; None to write what was read. `contract`: a contract file, which goes before the one that the pipeline
    file names; without either the contract is inferred from the input. `save_contract`: a new file, where an
    inferred one is written when the run has succeeded. `lineage_path`: the lineage file to record the run in;
    `openlineage_path`: the file of OpenLineage events, which are shipped where `openlineage` names a server.

    `mode`: ``batch``, or ``stream`` to follow the input. `on_invalid`: ``halt``, ``quarantine`` or ``drop``, instead of
    what the pipeline file says (halt where it says nothing). `max_rejected`: how many records may be rejected, as a
    number or as a share of the input's records, ``5%``; more than that fails the run, None never does. `input_format`
    and `output_format`: what the names of the files do not tell, instead of what the pipeline file says.
    `spill_directory`: where data larger than memory goes, beside the output by default. `memory_bytes`: what a sort,
    join, aggregate or deduplicate may hold before it spills; `batch_bytes`: of how much input text a batch is made;
    neither changes the output. `actor`: who is responsible, for the audit log; by default the account of the operating
    system.
    """

    input_path: str | Path | Sequence[str | Path]
    output_path: str | Path
    audit_path: str | Path | None = None
    pipeline: str | Path | Pipeline | None = None
    contract: str | Path | None = None
    save_contract: str | Path | None = None
    lineage_path: str | Path | None = None
    openlineage_path: str | Path | None = None
    openlineage: OpenLineagePart | None = None
    mode: str = "batch"
    on_invalid: str | None = None
    max_rejected: int | str | None = None
    input_format: TableFormat = _NOTHING_SAID
    output_format: TableFormat = _NOTHING_SAID
    spill_directory: str | Path | None = None
    memory_bytes: int = MEMORY_BYTES
    batch_bytes: int = BATCH_BYTES
    actor: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input paths as texts, as they were given."""
        given = self.input_path
        several = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
        return tuple(os.fspath(each) for each in several)

    @property
    def output(self) -> Path:
        """The output path."""
        return Path(self.output_path)

    def check(self) -> None:
        """Raise ConfigError for what is wrong whatever the files say."""
        _one_of("mode", self.mode, MODES)
        if self.on_invalid is not None:
            _one_of("on_invalid", self.on_invalid, ON_INVALID)
        if not self.inputs or not all(self.inputs):
            raise ConfigError("input_path: names no file", hint="give a file, a directory, a pattern, or - for stdin")
        if not os.fspath(self.output_path):
            raise ConfigError("output_path: names no file", hint="give a file, or - for standard output")
        if STANDARD in self.inputs and len(self.inputs) > 1:
            raise ConfigError("input_path: standard input and files together", hint="read either")
        self._check_most()
        for name, least in (("memory_bytes", _LEAST_MEMORY), ("batch_bytes", _LEAST_BATCH)):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name}: {value!r} cannot be used", hint=f"a whole number of bytes from {least} on")

    def _check_most(self) -> None:
        if self.max_rejected is None:
            return
        try:
            MostRejected(self.max_rejected)
        except ValueError:
            hint = "a number of records, or a share of them such as 5%"
            raise ConfigError(f"max_rejected: {self.max_rejected!r} cannot be used", hint=hint) from None
        if self.mode == "stream":
            hint = "leave it out: the records of a stream never end"
            raise ConfigError("max_rejected: is for batch mode", hint=hint)


def absolute(path: str | Path) -> str:
    """Return a path as records name it, whatever the current directory is; ``-`` stays."""
    return STANDARD if os.fspath(path) == STANDARD else str(Path(path).absolute())


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: {value!r} is not known", hint=f"one of {', '.join(allowed)}")
