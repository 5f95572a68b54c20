"""``python -m tidewaiter``: the same as the command ``tidewaiter``."""

from __future__ import annotations

import sys

from tidewaiter.shell.commands.app import main

if __name__ == "__main__":
    sys.exit(main())
