"""From a configuration to a run that can begin: files read, names resolved, every step typed.

Owns: which files a run is governed by, and what of the configuration goes before what. Leaves to
`core.pipelines.step_files` and `core.contract` what the files say, to `core.pipelines.planning` whether the steps fit,
and to `running` the run.

Invariant: nothing has been written when this raises ConfigError.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tidewaiter import __version__
from tidewaiter.core.contract import TableContract, compile_contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.column_values import column_type
from tidewaiter.core.pipelines.expression_types import Ground
from tidewaiter.core.pipelines.planning import PlannedStep, plan
from tidewaiter.core.pipelines.step_files import places, read_pipeline
from tidewaiter.core.pipelines.steps import COMPOSED, Join, PipelineFile
from tidewaiter.core.pipelines.table_format import KnownFormat, TableFormat, known_format
from tidewaiter.edges.tables.writers import check_writable, versions
from tidewaiter.shell.pipelines.composing import Pipeline
from tidewaiter.shell.pipelines.config import STANDARD
from tidewaiter.shell.pipelines.facts import Governing
from tidewaiter.shell.pipelines.paths import refuse_shared
from tidewaiter.shell.pipelines.references import References, contract_lists, fingerprints, read_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidewaiter.core.pipelines.columns import Schema
    from tidewaiter.shell.pipelines.config import PipelineConfig
    from tidewaiter.shell.pipelines.facts import TableFacts


@dataclass(frozen=True)
class Governed:
    """What a run is governed by, before its input was looked at: all of it is in `digest`.

    `lists` are the entries of the contract's lists, `list_files` the files they were in.
    """

    config: PipelineConfig
    pipeline: PipelineFile | None
    contract: TableContract | None
    on_invalid: str
    input_said: TableFormat
    output: KnownFormat
    references: References
    ground: Ground
    lists: Mapping[str, frozenset[str]]
    list_files: Mapping[str, TableFacts]

    def plan(self, schema: Schema) -> tuple[PlannedStep, ...]:
        """Return the steps typed for rows of these columns. Raises ConfigError."""
        if self.pipeline is None:
            return ()
        lists: list[Schema] = []
        for number, step in enumerate(self.pipeline.steps):
            if isinstance(step, Join):
                before = self._planned(number, schema, lists)
                lists.append(self.references.join_schema(step, before[-1].after if before else schema))
        return self._planned(len(self.pipeline.steps), schema, lists)

    def _planned(self, count: int, schema: Schema, lists: list[Schema]) -> tuple[PlannedStep, ...]:
        """Plan the first `count` steps; `lists` are the columns of the lists of their joins, in order."""
        assert self.pipeline is not None  # noqa: S101 - there are steps
        following = iter(lists)
        return plan(
            self.pipeline.steps[:count],
            schema,
            places(self.pipeline),
            ground=self.ground,
            reference_schema=lambda _: next(following),
        )

    @property
    def expected(self) -> Schema | None:
        """The columns that the contract expects of the input; None where it is to be inferred."""
        if self.contract is None:
            return None
        return {field.source: column_type(field) for field in self.contract.fields}

    @property
    def pipeline_facts(self) -> Governing | None:
        """The pipeline file, as the audit log names it."""
        if self.pipeline is None:
            return None
        file = "" if self.pipeline.file == COMPOSED else self.pipeline.file
        label = f"{self.pipeline.name}/{self.pipeline.version}"
        return Governing(label, self.pipeline.digest, file, self.pipeline.text.decode())

    def digest(self, contract_sha256: str) -> str:
        """Return the SHA-256 of everything that the output depends on beside the input's bytes."""
        said = {
            "pipeline": None if self.pipeline is None else self.pipeline.digest,
            "contract": contract_sha256,
            "on_invalid": self.on_invalid,
            "input": self.input_said,
            "output": self.output,
            "files": {name: file.sha256 for name, file in sorted(self.references.files.items())},
            "lists": {name: file.sha256 for name, file in sorted(self.list_files.items())},
            "keys": fingerprints(self.ground),
            "versions": dict(library_versions()),
        }
        return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def govern(config: PipelineConfig) -> Governed:
    """Read what governs the run that `config` asks for. Raises ConfigError; nothing is written."""
    config.check()
    if config.spill_directory is not None and not Path(config.spill_directory).is_dir():
        raise ConfigError(f"{config.spill_directory}: spill_directory is no directory", hint="make it, or name another")
    pipeline, home = _pipeline(config)
    contract = _contract(config, pipeline, home)
    if contract is not None and config.save_contract is not None:
        hint = "leave save_contract out: only an inferred contract is saved"
        raise ConfigError(f"{config.save_contract}: the contract is given already: {contract.file}", hint=hint)
    refuse_shared(config, pipeline, contract, home)
    if config.save_contract is not None and os.path.lexists(config.save_contract):
        raise ConfigError(f"save_contract: {config.save_contract}: is there already", hint="name a new file")
    output_said = _merged(config.output_format, None if pipeline is None else pipeline.output)
    name = "standard output" if os.fspath(config.output_path) == STANDARD else os.fspath(config.output_path)
    output = known_format(name, output_said)
    check_writable(output, name)
    said_policy = "halt" if pipeline is None else pipeline.on_invalid
    if (config.on_invalid or said_policy) == "quarantine" and os.fspath(config.output_path) == STANDARD:
        raise ConfigError("on_invalid: quarantine has no place beside standard output", hint="name an output file")
    references = References(home)
    ground = Ground() if pipeline is None else references.ground(pipeline)
    lists, list_files = ({}, {}) if contract is None else contract_lists(contract)
    return Governed(
        config=config,
        pipeline=pipeline,
        contract=contract,
        on_invalid=config.on_invalid or said_policy,
        input_said=_merged(config.input_format, None if pipeline is None else pipeline.input),
        output=output,
        references=references,
        ground=ground,
        lists=lists,
        list_files=list_files,
    )


def library_versions() -> tuple[tuple[str, str], ...]:
    """Return the versions that the bytes of an output may depend on."""
    own = {"tidewaiter": __version__, "python": platform.python_version(), "msgspec": msgspec.__version__}
    return tuple(sorted({**own, **versions()}.items()))


def contract_facts(contract: TableContract, *, inferred: bool) -> Governing:
    """Return a contract as the audit log names it."""
    return Governing(contract.label, contract.digest, "" if inferred else contract.file, contract.text.decode())


# -- the files ---------------------------------------------------------------------------------------------------------


def _pipeline(config: PipelineConfig) -> tuple[PipelineFile | None, Path]:
    """Return the pipeline and the folder its names are relative to."""
    given = config.pipeline
    if given is None:
        return None, Path()
    if isinstance(given, Pipeline):
        return read_pipeline(given.to_toml().encode(), COMPOSED), Path()
    path = Path(given)
    return read_pipeline(read_file(path, "pipeline"), str(path)), path.parent


def _contract(config: PipelineConfig, pipeline: PipelineFile | None, home: Path) -> TableContract | None:
    if config.contract is not None:
        path = Path(config.contract)
    elif pipeline is not None and pipeline.contract is not None:
        path = home / pipeline.contract
    else:
        return None
    return compile_contract(read_file(path, "contract"), str(path), for_stream=False)


def _merged(said: TableFormat, file: TableFormat | None) -> TableFormat:
    """Return what was said where anything was, else what the pipeline file says."""
    if file is None:
        return said
    given: dict[str, Any] = {name: value for name, value in msgspec.structs.asdict(said).items() if value is not None}
    if "format" in given and given["format"] != file.format:
        file = TableFormat(
            compression=file.compression, max_ratio=file.max_ratio
        )  # its dialect was meant for another format
    return msgspec.structs.replace(file, **given)
