"""The measuring tool starts, names what it measures, and refuses what it does not know; no figure is judged here."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support import PATIENCE, REPOSITORY, cli_environment
from tidewaiter.core.scenarios.state_cells import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

KEPT_FOR_EVER = ("metric idle", "metric age")
"""What the pack never forgets of an account: when it was last and when it was first seen."""


def bench(*arguments: str, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the tool behind `scripts/bench` to its end."""
    return run([sys.executable, "-m", "bench_tool", *arguments], extra)


def run(command: Sequence[str], extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that sees the tool's modules, with `extra` in its environment."""
    environment = cli_environment({"PYTHONPATH": f"{REPOSITORY / 'daemon'}:{REPOSITORY / 'scripts'}", **(extra or {})})
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_the_help_names_every_figure() -> None:
    """A reader of the table in tests/README.md finds the name of each measure in the help."""
    done = bench("--help")
    assert done.returncode == 0, done.stderr
    for name in ("throughput_quiet", "throughput_mix", "latency_1k", "idle_cpu", "memory", "restart", "cost_by_users"):
        assert name in done.stdout
    for name in (*RULE_FIGURES, "compared"):
        assert name in done.stdout


def test_an_unknown_figure_is_a_usage_error() -> None:
    """A misspelt name measures nothing and exits 2."""
    done = bench("throughput_quite")
    assert done.returncode == 2
    assert "throughput_quite" in done.stderr


# Holds 64 MB and half a second of processor time in a process of its own; a line ends that one, another the first.
PARENT = """
import subprocess, sys
busy = "import time\\nheld = b'1' * (64 << 20)\\nwhile time.process_time() < 0.5: pass\\nprint(flush=True)\\ninput()"
with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE) as child:
    input()
    child.communicate(b"\\n")
print(flush=True)
input()
"""


def test_what_a_daemon_takes_includes_the_processes_that_it_starts() -> None:
    """Memory counts while they are there, processor time for ever: moving work to another process saves neither."""
    program = (
        "import subprocess, sys; from pathlib import Path; from bench_tool.daemon import Daemon\n"
        "daemon = Daemon([], Path(), Path())\n"
        f"command = [sys.executable, '-c', {PARENT!r}]\n"
        "with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:\n"
        "    daemon._process = process\n"
        "    for _ in range(2):\n"
        "        process.stdout.readline()\n"
        "        print(daemon.memory('VmRSS') >> 20, daemon.memory('VmHWM') >> 20, daemon.cpu_seconds())\n"
        "        process.stdin.write(b'\\n')\n"
    )
    done = run([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    during, behind = ([float(word) for word in line.split()] for line in done.stdout.splitlines())
    assert min(during[:2]) > 64 > max(behind[:2])
    assert min(during[2], behind[2]) >= 0.5


# What each measure of rules prints; with --tiny it takes seconds and says nothing about speed.
FUNCTIONS = ("count", "sum", "max", "distinct", "offset_sum", "last")
TOLD = ("", "_control", "_work")  # of each: its time, a control's time, its work
RULE_FIGURES = {
    "pack": ("pack", "pack_cpu"),
    "shared_metrics": ("shared_metrics", "shared_metrics_engine"),
    "cost_by_window": tuple(f"cost_by_window_{name}{told}" for name in FUNCTIONS for told in TOLD),
    "cost_by_keys": tuple(f"cost_by_keys_{name}{told}" for name in FUNCTIONS for told in TOLD),
    "pack_memory": ("pack_memory", "pack_memory_idle", "pack_memory_history", "pack_memory_history_idle"),
}


@pytest.fixture(scope="module")
def figures_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """Return what makes a measure on tiny input, once, and returns its figures; nothing may be left behind."""

    @functools.cache
    def made(measure: str) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp(measure)
        done = bench(measure, "--tiny", "--dir", str(folder))
        assert done.returncode == 0, done.stderr
        assert not list(folder.iterdir())
        return [json.loads(line) for line in done.stdout.splitlines()]

    return made


@pytest.mark.parametrize("measure", RULE_FIGURES)
def test_a_measure_of_rules_prints_its_figures(measure: str, figures_of: Callable[[str], list[dict[str, Any]]]) -> None:
    """Each can be made, and every figure says what it was made of and how."""
    figures = figures_of(measure)
    assert [figure["name"] for figure in figures] == list(RULE_FIGURES[measure])
    for figure in figures:
        assert isinstance(figure["value"], float | int)
        assert figure["command"] == f"scripts/bench {measure} --tiny"
        assert {"interpreter", "machine", "floor", "detail"} <= figure.keys()
        assert figure["file"]["events"] > 0


def test_the_pack_is_measured_with_its_floor_and_its_share_of_flags(
    figures_of: Callable[[str], list[dict[str, Any]]],
) -> None:
    """The promise is at least 0.07 of bare decoding while under 1 % of the events are flagged."""
    figure = figures_of("pack")[0]
    assert (figure["floor"], figure["holds"], figure["detail"]["aim"]) == (0.07, "at least", 0.1)
    assert 0 < figure["detail"]["flag_share"] < 0.01


@pytest.mark.parametrize("measure", ["cost_by_window", "cost_by_keys"])
def test_time_and_work_have_a_floor_of_their_own_and_the_control_none(
    measure: str, figures_of: Callable[[str], list[dict[str, Any]]]
) -> None:
    """A reader sees which verdict is whose; nothing is judged by what it takes less the control."""
    for time, control, work in zip(*[iter(figures_of(measure))] * 3, strict=True):
        assert (time["floor"], control["floor"], work["floor"]) == (1.25, None, 1.25)
        assert time["detail"]["control_ratio"] == control["value"]
        assert time["detail"]["floor_is_for"] != work["detail"]["floor_is_for"]
        assert all(each > 0 for each in (*time["detail"]["cpu_us"], *work["detail"]["bytecodes"]))


def test_idle_accounts_are_swept_and_the_figure_shows_it(figures_of: Callable[[str], list[dict[str, Any]]]) -> None:
    """After 220 idle days what is left is never forgotten, or in a cell too small to be worth a look."""
    detail = figures_of("pack_memory")[1]["detail"]
    accounts = detail["accounts"]
    assert detail["keys_filled"] > 10 * accounts
    assert detail["keys_idle"] < 3 * accounts
    assert detail["objects_idle"] < detail["objects_filled"] / 2
    filled, idle = (detail[f"keys_of_each_cell_{when}"] for when in ("filled", "idle"))
    swept = [cell for cell, number in filled.items() if number > SMALL and cell not in KEPT_FOR_EVER]
    assert len(swept) > 5
    assert all(idle[cell] <= 1 for cell in swept)
    assert all(idle[cell] == accounts + 1 for cell in KEPT_FOR_EVER)


def test_all_contenders_agree_and_absent_libraries_are_said(tmp_path: Path) -> None:
    """The loop, and the queries where their libraries are there, find the engine's flags; what is left out is named."""
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    done = bench("compared", "--tiny", "--dir", str(tmp_path), extra=offline)
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in map(json.loads, done.stdout.splitlines())}
    for rules in ("money_flow", "windowed"):
        engine = figures[f"compared_{rules}_engine"]["detail"]
        assert figures[f"compared_{rules}_loop"]["detail"]["flags"] == engine["flags"]
        assert all(engine["flags"].values())
        for library in ("duckdb", "polars"):
            figure = figures.get(f"compared_{rules}_{library}")
            if figure is None:
                assert f"left out, not installable: {library}" in done.stderr or f", {library}:" in done.stderr
            else:
                assert "not incremental" in figure["detail"]["does_not_do"]


def test_a_contender_that_finds_other_flags_is_no_comparison(tmp_path: Path) -> None:
    """Costs are compared only between those that give the same answer; otherwise the measure fails and says so."""
    program = (
        "import sys; from bench_tool import naive_loop, __main__\n"
        "from bench_tool.bench import Bench\n"
        "from bench_tool.measures import comparison\n"
        "ask = Bench.python\n"
        "def other(self, module, *rest, **more):\n"
        "    answer = ask(self, module, *rest, **more)\n"
        "    return answer.replace(b'\"velocity\": ', b'\"velocity\": 9') if 'naive' in module else answer\n"
        "Bench.python = other\n"
        "comparison._libraries = lambda bench: (None, [])\n"
        f"sys.exit(__main__.main(['compared', '--tiny', '--dir', {str(tmp_path)!r}]))\n"
    )
    done = run([sys.executable, "-c", program])
    assert done.returncode == 1
    assert "money_flow: loop found" in done.stderr
    assert not done.stdout
