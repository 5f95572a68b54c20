"""The measuring tool starts, names what it measures, and refuses what it does not know; no figure is judged here."""

from __future__ import annotations

import subprocess
import sys

from support import REPOSITORY, cli_environment


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tool behind `scripts/bench` to its end."""
    environment = cli_environment({"PYTHONPATH": f"{REPOSITORY / 'daemon'}:{REPOSITORY / 'scripts'}"})
    command = [sys.executable, "-m", "bench_tool", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_help_names_every_figure() -> None:
    """A reader of the table in tests/README.md finds the name of each measure in the help."""
    done = bench("--help")
    assert done.returncode == 0, done.stderr
    for name in ("throughput_quiet", "throughput_mix", "latency_1k", "idle_cpu", "memory", "restart", "cost_by_users"):
        assert name in done.stdout


def test_an_unknown_figure_is_a_usage_error() -> None:
    """A misspelt name measures nothing and exits 2."""
    done = bench("throughput_quite")
    assert done.returncode == 2
    assert "throughput_quite" in done.stderr
