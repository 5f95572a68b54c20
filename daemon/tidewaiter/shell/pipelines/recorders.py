"""Who else keeps a record of a run: the lineage and OpenLineage.

Owns: which recorders a configuration asks for, and what becomes of one that fails when the run has ended. Leaves to
each what it records and where.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tidewaiter.core.errors import ConfigError, TidewaiterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.pipelines.config import PipelineConfig
    from tidewaiter.shell.pipelines.facts import Recorder, RunFacts
    from tidewaiter.shell.pipelines.trail import Trail


def recorders_of(config: PipelineConfig, disk: Disk) -> tuple[Recorder, ...]:
    """Return the recorders that `config` asks for, in the order in which they are told.

    Raises ConfigError and IntegrityRefusal where one of them could not keep a record; nothing was written then.
    """
    recorders: list[Recorder] = []
    if config.lineage_path is not None:
        from tidewaiter.shell.lineage_recording import LineageRecorder  # noqa: PLC0415 - only who records pays for it

        recorders.append(LineageRecorder(config.lineage_path, disk=disk))
    if config.openlineage_path is not None:
        from tidewaiter.shell.openlineage_batch import OpenLineageRecorder  # noqa: PLC0415 - the same

        recorders.append(OpenLineageRecorder(Path(config.openlineage_path).absolute(), disk, config.openlineage))
    elif config.openlineage is not None:
        raise ConfigError("openlineage: there is no file for the events", hint="say openlineage_path as well")
    for recorder in recorders:
        recorder.check()
    return tuple(recorders)


def tell_end(recorders: Iterable[Recorder], trail: Trail, facts: Callable[[], RunFacts]) -> tuple[str, ...]:
    """Tell each recorder that the run ended, log its note, and return what a person has to be warned of.

    A recorder that fails is such a warning, with an entry of its own: what it does not record happened all the same.
    Raises what the audit log refuses.
    """
    warnings: list[str] = []
    for recorder in recorders:
        try:
            note = recorder.ended(facts())
        except TidewaiterError as error:
            warnings.append(f"{recorder.what} was not recorded: {error}")
            trail.not_noted(recorder.name, error)
            continue
        if note is not None:
            trail.noted(recorder.name, note)
            warnings += [note.warning] * bool(note.warning)
    return tuple(warnings)
