"""Who else keeps a record of a run: the lineage and OpenLineage.

Owns: which recorders a configuration asks for. Leaves to each what it records and where.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tidewaiter.core.errors import ConfigError

if TYPE_CHECKING:
    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.pipelines.config import PipelineConfig
    from tidewaiter.shell.pipelines.facts import Recorder


def recorders_of(config: PipelineConfig, disk: Disk) -> tuple[Recorder, ...]:
    """Return the recorders that `config` asks for, in the order in which they are told. Raises ConfigError."""
    recorders: list[Recorder] = []
    if config.lineage_path is not None:
        from tidewaiter.shell.lineage_recording import LineageRecorder  # noqa: PLC0415 - only who records pays for it

        recorders.append(LineageRecorder(config.lineage_path, disk=disk))
    if config.openlineage_path is not None:
        from tidewaiter.shell.openlineage_batch import OpenLineageRecorder  # noqa: PLC0415 - the same

        recorders.append(OpenLineageRecorder(Path(config.openlineage_path).absolute(), disk, config.openlineage))
    elif config.openlineage is not None:
        raise ConfigError("openlineage: there is no file for the events", hint="say openlineage_path as well")
    return tuple(recorders)
