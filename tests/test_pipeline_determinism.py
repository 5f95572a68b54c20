"""Same input, same configuration: the same bytes and the same hashes, whatever the machine does."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support import PATIENCE, cli_environment
from tidewaiter.pipeline import Pipeline

if TYPE_CHECKING:
    from pathlib import Path

PIPELINE = (
    Pipeline("everything", on_invalid="quarantine")
    .filter("amount >= '0.10'")
    .cast(quantity="decimal(2)")
    .derive(total="amount * quantity", channel="upper(channel)")
    .join("names.csv", on={"channel": "code"}, take={"name": "channel_name"}, missing="reject")
    .rename(booked="at")
    .deduplicate("id", keep="last")
    .sort("-total", "customer")
    .deduplicate("customer", "channel")
    .select("customer", "channel_name", "total", "at")
    .aggregate(by=["customer"], n="count()", total="sum(total)", last="max(at)", kinds="distinct(channel_name)")
)
CONTRACT = """
contract = "claims"
version = 1
[field]
id = { type = "integer" }
customer = { type = "string" }
booked = { type = "timestamp" }
channel = { type = "string" }
amount = { type = "decimal", scale = 2 }
quantity = { type = "integer", required = false }
"""
RECORDS = 1500


def write_files(place: Path) -> None:
    """Write an input in which every thirteenth record is wrong somewhere, and what governs the run."""
    rng = random.Random(7)
    lines = ["id,customer,booked,channel,amount,quantity"]
    for number in range(RECORDS):
        cells = [
            str(number % 1400),
            rng.choice(["Äpfel", "naïve, quoted", "ΩMEGA", "C1", "c1", "\u0131", "İ"]) + str(number % 90),
            f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}T{rng.randrange(24):02}:00:00+0{number % 3}:00",
            rng.choice(["web", "ßtraße", "api", "gone" if number % 13 == 0 else "web"]),
            "abc" if number % 13 == 5 else f"{rng.randrange(90)}.{rng.randrange(100):02}",
            rng.choice(["", "1", "250"]),
        ]
        lines.append(",".join(f'"{cell}"' if "," in cell else cell for cell in cells))
        if number % 500 == 499:
            lines.append("ragged,record")
    (place / "in.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (place / "contract.toml").write_text(CONTRACT)
    (place / "names.csv").write_text("code,name\nWEB,web channel\nAPI,machines\nSSTRASSE,street\n")
    (place / "pipeline.toml").write_text(PIPELINE.to_toml(), encoding="utf-8")


RUN = """
import sys
from pathlib import Path
from tidewaiter.pipeline import PipelineConfig, run_pipeline
place, name = Path(sys.argv[1]), sys.argv[2]
result = run_pipeline(PipelineConfig(
    input_path=place / "in.csv", output_path=place / name / "out.csv", audit_path=place / name / "audit.jsonl",
    pipeline=place / "pipeline.toml", contract=place / "contract.toml",
    batch_bytes=int(sys.argv[3]), memory_bytes=int(sys.argv[4]),
))
sys.exit(" ".join(result.errors) or result.exit_code)
"""
"""Run the pipeline once, in a process of its own: threads, hash seed and locale are settled when one begins."""


def run(place: Path, name: str, sizes: tuple[int, int], settings: dict[str, str]) -> None:
    """Run the pipeline with these bytes of a batch and of memory, in this environment."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(place), name, *map(str, sizes)],
        env=cli_environment(settings), capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def said(place: Path) -> list[tuple[Any, ...]]:
    """Return what the audit log says of the data, without times and names of runs."""
    found = []
    for line in (place / "audit.jsonl").read_bytes().splitlines()[1:]:
        entry = json.loads(line)
        details = {
            key: value
            for key, value in entry["details"].items()
            if key in ("records_in", "removed", "rejected", "config")
        }
        if isinstance(details.get("rejected"), dict):
            del details["rejected"]["file"]
        found.append(
            (entry["action"], entry.get("record_count"), entry.get("input_hash"), entry.get("output_hash"), details)
        )
    return found


@pytest.mark.parametrize("runs", [6, pytest.param(49, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_one_output_whatever_the_machine_does(runs: int, tmp_path: Path) -> None:
    """Batch sizes, memory, threads, hash seeds, locales and time zones leave no trace in any byte or hash."""
    write_files(tmp_path)
    run(tmp_path, "first", (1 << 24, 1 << 27), {})
    wanted = said(tmp_path / "first")
    kinds = [action for action, *_ in wanted]
    assert {"filter", "cast", "derive", "join", "rename", "deduplicate", "sort", "select", "aggregate"} <= set(kinds)
    rng = random.Random(runs)
    for number in range(runs):
        name = str(number)
        settings = {
            "POLARS_MAX_THREADS": str(rng.choice([1, 2, 3, 8])),
            "PYTHONHASHSEED": str(rng.randrange(1 << 32)),
            "LC_ALL": rng.choice(["C", "C.UTF-8", "POSIX", "tr_TR.UTF-8", "de_DE.UTF-8"]),
            "TZ": rng.choice(["UTC", "Asia/Kathmandu", "America/St_Johns"]),
        }
        sizes = rng.choice([1 << 12, 9000, 1 << 14, 77_777, 1 << 24]), rng.choice([1 << 16, 1 << 18, 1 << 27])
        run(tmp_path, name, sizes, settings)
        for file in ("out.csv", "out.csv.rejected.jsonl"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "first" / file).read_bytes(), (settings, sizes)
        assert said(tmp_path / name) == wanted, (settings, sizes)
