"""Watch the processes that compute beside the interpreter lock, and spoil what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidewaiter.edges import worker

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    import pytest

LOUD: Final = "import sys; sys.stdin.buffer.read(28); sys.stdout.buffer.write(b'x' * 9999); sys.stdout.flush(); "
NONSENSE: Final = {
    "noise": LOUD + "sys.stdin.buffer.read()",
    "noise and its end": LOUD,
    "its end": "import sys; sys.stdin.buffer.read(28)",
    "its end at once": "raise SystemExit(3)",
    "nothing": "import sys; sys.stdin.buffer.read()",
}
"""Programs that no question is answered by."""


def spoiled(module: str, change: str) -> str:
    """Return a program that serves as `module` does (``m``) after the statements `change`."""
    begin = f"import sys; sys.path.insert(0, sys.argv[1]); from tidewaiter.edges import {module} as m; "
    return f"{begin}{change}; m.serve()"


def run_instead(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let processes that are started from now on run `program`."""
    monkeypatch.setattr(worker, "_COMMAND", ("-I", "-S", "-B", "-c", program, worker._COMMAND[-1]))


def note_started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Return the processes that are started from now on."""
    processes: list[subprocess.Popen[bytes]] = []
    start = worker._started

    def noted(*arguments: object) -> subprocess.Popen[bytes]:
        processes.append(start(*arguments))  # type: ignore[arg-type]  # what the product hands on
        return processes[-1]

    monkeypatch.setattr(worker, "_started", noted)
    return processes


def ended(processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Return whether each has ended and was waited for."""
    return all(process.returncode is not None for process in processes)


def gone(pid: int) -> bool:
    """Return whether a process has ended; its place may stay until whoever takes in orphans has looked."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
