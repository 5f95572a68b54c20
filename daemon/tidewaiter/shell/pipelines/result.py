"""What a run of a pipeline came to.

Owns: the values that a caller gets. Leaves to `running` filling them in, and to `commands.pipeline` showing them.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from tidewaiter.core.errors import EXIT_CLEAN


class StepResult(Struct, frozen=True):
    """One step: `kind` is ``validate`` or the key of the pipeline file; the counts are records.

    `records_in` is `out` + `removed` + `rejected`; rows that an aggregate or a deduplicate folds into others count as
    removed. The hashes are of the rows before and after; empty where there is no audit log.
    """

    name: str
    kind: str
    records_in: int
    out: int
    removed: int
    rejected: int
    hash_before: str = ""
    hash_after: str = ""


class PipelineResult(Struct, frozen=True):
    r"""The run; `success` tells whether the output is in place.

    `input_hash` is the SHA-256 of the input file, or of ``<hash>  <path>\n`` for each where there are several;
    `output_hash` that of the output file's bytes. Without success the hashes are empty and `errors` says why, one
    text each; `warnings` say what failed beside the output: a lineage not recorded, events not delivered. `exit_code`
    is what the command ends with. `rejections` are the first of `rejected_records` in words. `duration_ms` is in
    milliseconds. `rejected_path` is where the rejected records are kept, None where they are not.
    """

    success: bool
    run_id: str
    input_records: int = 0
    output_records: int = 0
    rejected_records: int = 0
    removed_records: int = 0
    input_hash: str = ""
    output_hash: str = ""
    duration_ms: float = 0.0
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    rejections: tuple[str, ...] = ()
    steps: tuple[StepResult, ...] = ()
    output_path: Path | None = None
    rejected_path: Path | None = None
    audit_path: Path | None = None
    contract: str = ""
    exit_code: int = EXIT_CLEAN
    in_place: bool = False
