"""``python -m tidewaiter.pipeline`` and the command ``pipeline``: the same as ``tidewaiter pipeline``."""

from __future__ import annotations

import sys

from tidewaiter.shell.commands.app import main as tidewaiter


def main() -> int:
    """Run ``tidewaiter pipeline`` with the arguments of this process and return the exit code."""
    return tidewaiter(["pipeline", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
