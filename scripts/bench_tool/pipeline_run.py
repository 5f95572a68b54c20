"""The same three transforms over one file of sales: as a pipeline, in pandas, or in polars.

Started as ``python -m bench_tool.pipeline_run WHO INPUT OUTPUT``; prints one line of JSON. Reading and writing the file
are in the time, importing the library is not. All keep the sales over 10.00 of five countries, make the total and the
channel in capitals, and write four columns. Peak memory is that of the whole process.

``plain`` has a contract that says the types and nothing else, and no audit log, so that rows are not hashed; ``full``
has bounds, an enum, a pattern and a timestamp to check, the hash of the rows behind each step, and an audit log.
``sorted`` is ``full`` with a sort and sums for each customer behind it. ``recorded`` is ``full`` with a lineage file,
and tells the seconds that audit log and lineage took; ``unrecorded`` is the same with neither.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench_tool.in_process import Clock
from bench_tool.sales_rows import COUNTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIBRARIES: Final = ("pandas", "polars")
_KEPT: Final = COUNTRIES[:5]
_COLUMNS: Final = ["id", "customer", "total", "channel"]
_PLAIN: Final = """
contract = "sales"
version = 1
unknown_fields = "ignore"
[field]
id = { type = "string" }
customer = { type = "string" }
country = { type = "string" }
amount = { type = "money", scale = 2 }
quantity = { type = "integer" }
channel = { type = "string" }
"""
_FULL: Final = """
contract = "sales"
version = 1
unknown_fields = "refuse"
[field]
id = { type = "string", pattern = "sale-[0-9]{10}" }
customer = { type = "string", min_length = 1, max_length = 64 }
booked = { type = "timestamp" }
country = { type = "enum", values = [COUNTRIES] }
amount = { type = "money", scale = 2, at_least = "0.00", at_most = "1000000.00" }
quantity = { type = "integer", at_least = 0, at_most = 1000 }
channel = { type = "string", max_length = 16 }
"""
_STEPS: Final = """
pipeline = "sales"
version = 1
[[step]]
filter = "amount > '10.00' and country in (KEPT)"
[[step]]
derive = { total = "amount * quantity", channel = "upper(channel)" }
[[step]]
select = ["id", "customer", "total", "channel"]
"""
_SORTED: Final = """
[[step]]
sort = ["-total", "id"]
[[step]]
aggregate = { by = ["customer"], n = "count()", total = "sum(total)" }
"""


def as_pipeline(source: Path, output: Path, how: str) -> int:
    """Run the pipeline and return the records written."""
    from tidewaiter.pipeline import PipelineConfig, run_pipeline  # noqa: PLC0415 - not in the others' processes

    words = {
        "COUNTRIES": ", ".join(f'"{each}"' for each in COUNTRIES),
        "KEPT": ", ".join(f"'{each}'" for each in _KEPT),
    }
    texts = {"contract.toml": _PLAIN if how == "plain" else _FULL, "steps.toml": _STEPS}
    if how == "sorted":
        texts["steps.toml"] += _SORTED
    for name, text in texts.items():
        for word, said in words.items():
            text = text.replace(word, said)  # noqa: PLW2901 - the text with its words filled in
        output.with_name(name).write_text(text, encoding="utf-8")
    result = run_pipeline(
        PipelineConfig(
            input_path=source,
            output_path=output,
            audit_path=None if how in ("plain", "unrecorded") else output.with_name("audit.jsonl"),
            lineage_path=output.with_name("lineage.jsonl") if how == "recorded" else None,
            pipeline=output.with_name("steps.toml"),
            contract=output.with_name("contract.toml"),
        )
    )
    if not result.success:
        raise SystemExit("; ".join(result.errors))
    return result.output_records


class Recording:
    """The seconds that a run spends in its audit log and its lineage: opening, reading, writing, making durable."""

    def __init__(self) -> None:
        """Watch the calls of the run's thread to both; one within another counts once."""
        from tidewaiter.shell.audit_logger import AuditLogger  # noqa: PLC0415 - not in the others' processes
        from tidewaiter.shell.lineage_recording import LineageRecorder  # noqa: PLC0415
        from tidewaiter.shell.pipelines import running  # noqa: PLC0415
        from tidewaiter.shell.pipelines.trail import Trail  # noqa: PLC0415

        self.seconds = 0.0
        self._within = False
        for owner, names in (
            (AuditLogger, ("__init__", "log_start", "log_complete", "log_failed", "close")),
            (LineageRecorder, ("check", "started", "ended")),
            (Trail, ("started", "read", "step", "written", "noted", "completed", "position")),
            (running, ("recorders_of", "recover")),
        ):
            for name in names:
                setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - those of any call
            if self._within:
                return call(*arguments, **named)
            self._within = True
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - began
                self._within = False

        return timed


def in_pandas(source: Path, output: Path) -> int:
    """Do it as one does in pandas: amounts are doubles, rounded."""
    pandas: Any = importlib.import_module("pandas")
    rows = pandas.read_csv(source, usecols=["id", "customer", "country", "amount", "quantity", "channel"])
    rows = rows[(rows["amount"] > 10) & rows["country"].isin(_KEPT)]  # noqa: PLR2004 - as the pipeline says
    rows = rows.assign(total=(rows["amount"] * rows["quantity"]).round(2), channel=rows["channel"].str.upper())
    rows[_COLUMNS].to_csv(output, index=False, float_format="%.2f")
    return len(rows)


def in_polars(source: Path, output: Path) -> int:
    """Do it as one does in polars, in its streaming engine, with amounts as exact decimals."""
    pl: Any = importlib.import_module("polars")
    rows = pl.scan_csv(source, schema_overrides={"amount": pl.Decimal(38, 2)})
    rows = rows.filter((pl.col("amount") > 10) & pl.col("country").is_in(_KEPT))  # noqa: PLR2004 - as the pipeline says
    rows = rows.with_columns(total=pl.col("amount") * pl.col("quantity"), channel=pl.col("channel").str.to_uppercase())
    rows.select(_COLUMNS).sink_csv(output)
    return 0


def main(arguments: Sequence[str]) -> int:
    """Do it once, and print what that took."""
    who, source, output = arguments[0], Path(arguments[1]), Path(arguments[2])
    runs: dict[str, Callable[[], int]] = {
        "pandas": lambda: in_pandas(source, output),
        "polars": lambda: in_polars(source, output),
    }
    if who in LIBRARIES:
        version = importlib.import_module(who).__version__
    else:
        version = importlib.import_module("tidewaiter").__version__
        importlib.import_module("tidewaiter.pipeline")
        importlib.import_module("polars")
    recording = Recording() if who == "recorded" else None
    clock = Clock()
    clock.timed(runs.get(who) or (lambda: as_pipeline(source, output, who)), events=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with output.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) - 1
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    answer = {
        "wall_s": clock.wall, "cpu_s": clock.cpu, "peak_bytes": peak, "records": lines, "sha256": digest,
        "version": version, "recording_s": recording.seconds if recording is not None else None,
    }  # fmt: skip
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
