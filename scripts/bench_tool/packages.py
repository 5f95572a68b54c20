"""Libraries to compare with that are not there by themselves.

Owns: installing them for one call, beside the daemon's packages and not among them; they are removed with the other
files of the call. Leaves to the measures which they need, and what to do without.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from bench_tool.bench import DEADLINE
from bench_tool.daemon import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench_tool.bench import Bench

PINS: Final = REPOSITORY / "scripts" / "constraints-bench.txt"


def libraries(bench: Bench, wanted: Sequence[str], measure: str) -> tuple[Path | None, list[str]]:
    """Return where the libraries are (None: where all packages are) and which are there; what is not is said."""
    there = [name for name in wanted if importlib.util.find_spec(name) is not None]
    if len(there) == len(wanted):
        return None, there
    folder = bench.new_folder("packages")
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", *options, "--require-hashes", "--no-deps", "-r", str(PINS)]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        reason = f"pip took more than {DEADLINE:.0f} s"
    else:
        if ended.returncode == 0:
            return folder, list(wanted)
        reason = "".join(ended.stderr.decode(errors="replace").strip().splitlines()[-1:]) or f"pip: {ended.returncode}"
    absent = ", ".join(name for name in wanted if name not in there)
    print(f"scripts/bench: {measure}: left out, not installable: {absent}: {reason}", file=sys.stderr)
    return None, there
