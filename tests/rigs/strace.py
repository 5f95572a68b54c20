"""See or fail the system calls of a whole command from outside, without its help.

Owns: running a command under strace(1), with faults injected by the kernel's tracing, and reading its output. Leaves to
the tests what the calls should have been. Where strace is missing or tracing is not permitted, the test is skipped
with the reason.

An injected error means "failed and not persisted": the system call is not made.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from rigs.kill import Outcome, environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

WRITE_LIKE: Final = (
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "splice", "copy_file_range",
    "open", "openat", "openat2", "creat", "truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "sync_file_range",
    "msync", "mmap", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
    "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "mknod", "mknodat", "chmod", "fchmod", "fchmodat",
    "chown", "fchown", "fchownat", "lchown", "setxattr", "fsetxattr",
)  # fmt: skip
"""System calls that can change a file or make it durable; see `_changes` for open and mmap."""

_LINE = re.compile(r"(?P<time>\d+\.\d+) (?P<name>\w+)\((?P<arguments>.*?)\)\s+= (?P<result>.*)")
_DESCRIPTOR = re.compile(r"\b\d+<(?P<path>(?:[^<>\\]|\\.)*)>")
_QUOTED = re.compile(r'(?:(?:\b\d+|\bAT_FDCWD)<(?P<base>[^<>]*)>, )?"(?P<path>(?:[^"\\]|\\.)*)"')
_WRITABLE = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND")


@dataclass(frozen=True, slots=True)
class SystemCall:
    """One write-like system call that touched the tree watched."""

    name: str
    paths: tuple[Path, ...]
    """Absolute paths in the arguments, those outside of the tree included."""
    result: str
    line: str
    """As strace printed it."""

    @property
    def failed(self) -> bool:
        """Tell whether it returned an error."""
        return self.result.startswith("-1")


@cache
def unavailable() -> str | None:
    """Return why strace cannot be used here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return f"strace is not permitted here: {probe.stderr.strip()}"
    return None


def need_strace() -> None:
    """Skip the test, with the reason, where strace cannot be used."""
    if (reason := unavailable()) is not None:
        pytest.skip(reason)


def run_injected(
    command: Sequence[str],
    injections: Sequence[str],
    *,
    paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> Outcome:
    """Run `command` with strace's injections, like ``fdatasync:error=EIO:when=3`` or ``pwrite64:signal=KILL:when=2``.

    `when` counts in each thread apart. With `paths`, only calls that touch exactly these absolute paths count and
    fail. A signal is delivered at entry of the call.
    """
    need_strace()
    # "+" follows new threads and processes; strace passes the status or signal of the command on as its own.
    options = ["-f", "-qq", "-o", "/dev/null", *(f"--inject={injection}" for injection in injections)]
    calls = sorted({name for injection in injections for name in injection.split(":")[0].split(",")})
    options += ["-e", f"trace={','.join(calls)}"]
    for path in paths:
        options += ["-P", str(path)]
    done = subprocess.run(
        ["strace", *options, "--", *command],
        env=env or environment(), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return Outcome(done.returncode, done.stderr)


def write_like_calls(
    command: Sequence[str], tree: Path, *, env: Mapping[str, str] | None = None, timeout: float = 120
) -> tuple[Outcome, list[SystemCall]]:
    """Run `command` and return how it ended and its write-like calls inside the directory `tree`, in order of time."""
    need_strace()
    with tempfile.TemporaryDirectory(prefix="strace-") as place:
        # One file for each thread: a line is never split by another thread's.
        options = [
            "-ff",
            "-qq",
            "-ttt",
            "-y",
            "-s",
            "0",
            "-e",
            f"trace=chdir,fchdir,{','.join(WRITE_LIKE)}",
            "-o",
            f"{place}/calls",
        ]
        done = subprocess.run(
            ["strace", *options, "--", *command],
            env=env or environment(), capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        lines = [line for file in Path(place).iterdir() for line in file.read_text(errors="replace").splitlines()]
    lines.sort(key=lambda line: line.partition(" ")[0])
    return Outcome(done.returncode, done.stderr), list(_parse(lines, tree))


def _parse(lines: Iterable[str], tree: Path) -> Iterator[SystemCall]:
    here = Path.cwd()  # of all processes alike: good enough for a command that changes it once, at its start
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        name, arguments, result = match["name"], match["arguments"], match["result"]
        paths = [Path(found["path"]) for found in _DESCRIPTOR.finditer(arguments)]
        paths += [here / (found["base"] or "") / found["path"] for found in _QUOTED.finditer(arguments)]
        if name in {"chdir", "fchdir"}:
            here = paths[-1]
        elif _changes(name, arguments) and any(path.is_relative_to(tree) for path in paths):
            yield SystemCall(name, tuple(paths), result, line)


def _changes(name: str, arguments: str) -> bool:
    if name in {"open", "openat", "openat2"}:
        return _WRITABLE.search(arguments) is not None
    if name == "mmap":
        return "MAP_SHARED" in arguments and "PROT_WRITE" in arguments
    return True


_PRIMITIVES: Final = {
    "open": "openat", "pwrite": "pwrite64", "fdatasync": "fdatasync", "fsync": "fsync", "ftruncate": "ftruncate",
    "replace": "rename", "unlink": "unlink", "rmdir": "rmdir", "mkdir": "mkdir", "fsync_directory": "fsync",
}  # fmt: skip


def past_disk(calls: Sequence[SystemCall], disk_calls: Sequence[str]) -> list[SystemCall]:
    """Return the system calls that no line of a `KillingDisk` log accounts for, each line accounting for one.

    A line is ``PRIMITIVE PATH``. The order is not compared, since threads write the log before they make the call.
    """
    allowed = Counter[tuple[str, str]]()
    for line in disk_calls:
        primitive, _, path = line.partition(" ")
        allowed[_PRIMITIVES[primitive], path] += 1
    past = []
    for call in calls:
        key = (call.name, str(call.paths[-1]))  # a rename's target comes last
        if allowed[key]:
            allowed[key] -= 1
        else:
            past.append(call)
    return past
