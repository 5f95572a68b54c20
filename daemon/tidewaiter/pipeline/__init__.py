"""Batch pipelines for Python programs: ``run_pipeline(PipelineConfig(...))`` gives a `PipelineResult`.

    from tidewaiter.pipeline import Pipeline, PipelineConfig, run_pipeline
    result = run_pipeline(PipelineConfig(input_path="data/input.csv", output_path="data/output.csv",
                                         audit_path="logs/audit.jsonl"))
    result.success, result.output_records, result.output_hash

The same on the command line is ``tidewaiter pipeline``, ``pipeline`` or ``python -m tidewaiter.pipeline``.
"""

from __future__ import annotations

from tidewaiter.core.pipelines.contract_import import contract_from_json_schema, contract_from_pydantic
from tidewaiter.core.pipelines.table_format import TableFormat
from tidewaiter.shell.pipelines.composing import Pipeline
from tidewaiter.shell.pipelines.config import PipelineConfig
from tidewaiter.shell.pipelines.result import PipelineResult, StepResult
from tidewaiter.shell.pipelines.running import run_pipeline

__all__ = [
    "Pipeline",
    "PipelineConfig",
    "PipelineResult",
    "StepResult",
    "TableFormat",
    "contract_from_json_schema",
    "contract_from_pydantic",
    "run_pipeline",
]
