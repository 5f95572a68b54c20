"""The measures of batch pipelines can be made, and compare only what gives the same answer. No figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support import PATIENCE, REPOSITORY, cli_environment

if TYPE_CHECKING:
    from pathlib import Path

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}


def bench(place: Path, *names: str, start: str = "") -> subprocess.CompletedProcess[str]:
    """Run the tool in `place`, `start` before it, so small that it takes seconds."""
    program = f"import sys; from bench_tool import __main__\n{start}\nsys.exit(__main__.main(sys.argv[1:]))"
    roots = f"{REPOSITORY / 'daemon'}:{REPOSITORY / 'scripts'}"
    return subprocess.run(
        [sys.executable, "-c", program, *names, "--tiny", "--dir", str(place)],
        env=cli_environment({"PYTHONPATH": roots, **OFFLINE}),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["plain", "full"])
def test_pipelines_are_compared_with_what_is_there(tmp_path: Path, how: str) -> None:
    """The same bytes come out of polars; pandas is compared with where it is there, and named where it is left out."""
    done = bench(tmp_path, f"pipeline_{how}")
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = {figure["name"]: figure for figure in map(json.loads, done.stdout.splitlines())}
    own = figures[f"pipeline_{how}"]["detail"]
    polars = figures[f"pipeline_{how}_to_polars"]
    assert polars["detail"]["same_bytes"]
    assert 0 < polars["detail"]["records"] == own["records"] < 5000
    assert polars["floor"] == (0.5 if how == "plain" else None)
    pandas = figures.get(f"pipeline_{how}_to_pandas")
    assert pandas is not None or "left out, not installable: pandas" in done.stderr


def test_the_memory_of_pipelines_is_measured_at_two_sizes(tmp_path: Path) -> None:
    """With the steps alone, and with a sort and sums behind them."""
    done = bench(tmp_path, "pipeline_memory")
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert [figure["name"] for figure in figures] == ["pipeline_memory", "pipeline_memory_sorted"]
    for figure in figures:
        assert len(figure["detail"]["peak_bytes"]) == len(figure["detail"]["rows"]) == 2
        assert figure["floor"] == 500


def test_the_share_of_the_records_is_measured(tmp_path: Path) -> None:
    """Audit log and lineage take some of a run's time; the run with neither stands beside it."""
    done = bench(tmp_path, "pipeline_audit_share")
    assert done.returncode == 0, done.stderr
    (figure,) = [json.loads(line) for line in done.stdout.splitlines()]
    detail = figure["detail"]
    assert figure["name"] == "pipeline_audit_share"
    assert figure["floor"] == 0.05
    assert 0 < detail["recording_s"] < detail["recorded_wall_s"]
    assert figure["value"] == pytest.approx(detail["recording_s"] / detail["recorded_wall_s"], rel=1e-2)
    assert detail["unrecorded_wall_s"] > 0


def test_a_contender_that_writes_other_rows_is_no_comparison(tmp_path: Path) -> None:
    """Times are compared only between those that wrote as many records; otherwise the measure fails and says so."""
    start = (
        "from bench_tool.measures import pipelines\n"
        "run = pipelines._run\n"
        "def other(bench, who, *rest):\n"
        "    return run(bench, who, *rest) | ({'records': 1} if who == 'polars' else {})\n"
        "pipelines._run = other"
    )
    done = bench(tmp_path, "pipeline_plain", start=start)
    assert done.returncode == 1
    assert "polars wrote 1 records" in done.stderr
    assert not done.stdout
