"""The stopwatch that promises about time are judged by."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from stopwatch import Stopwatch
from support import wait_until

CHILD = """
from stopwatch import Stopwatch
with Stopwatch() as watch:
    print("running", flush=True)
    input()
    print(watch.seconds, flush=True)
"""


def test_a_stopwatch_counts_until_its_block_ends() -> None:
    """What comes behind the block adds nothing."""
    with Stopwatch() as watch:
        wait_until(lambda: watch.seconds >= 0.1)
    counted = watch.seconds
    with Stopwatch() as other:
        wait_until(lambda: other.seconds >= 0.1)
    assert watch.seconds == counted


def test_a_process_that_stands_still_counts_nothing() -> None:
    """Stopped for as long as this one counts a second, it counts what it ran for alone."""
    with (
        subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child,
        Stopwatch() as watch,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == b"running\n"
        os.kill(child.pid, signal.SIGSTOP)
        stopped = watch.seconds
        wait_until(lambda: watch.seconds >= stopped + 1)
        os.kill(child.pid, signal.SIGCONT)
        out, _ = child.communicate(b"\n", timeout=60)
    assert float(out) < 0.5
