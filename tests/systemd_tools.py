"""What the drill's steps are made of: commands, waiting, drop-ins, and the installing of the shipped units.

Owns: `install`, as the operator's guide says it, and the configuration of one instance. Leaves what happens then to
tests/systemd_drill.py and tests/systemd_evidence.py.

The package index is out of reach in the guest, so the virtual environment is made of the packages that the tests run
with. `PYTHONPATH` plays no part: the unit's `python -I` would ignore it.
"""

from __future__ import annotations

import grp
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from packaging.requirements import Requirement

from stopwatch import Stopwatch

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

REPOSITORY: Final = Path(__file__).resolve().parent.parent
OPT: Final = Path("/opt/tidewaiter")
STATE: Final = Path("/var/lib/tidewaiter")
SPOOL: Final = Path("/var/spool/feed")
UNIT: Final = "tidewaiter.service"
WITNESS: Final = "tidewaiter-witness.service"
# A shared libpython is looked for where it was built, which the sandbox may hide; the service must take this one.
LIBRARY: Final = "[Service]\nEnvironment=LD_LIBRARY_PATH=/opt/tidewaiter/python/lib\n"
TRANSIENT: Final = 30.0  # how long anything may take that takes a few seconds at most, as a stopwatch counts it
HUNG: Final = 200.0

# The loop hangs for real: a signal handler that never returns holds the main thread in Python code, as an endless rule
# or a blocked call would. Installed through a .pth file, so that the shipped code knows nothing of it.
HANG: Final = """
import signal, time
def _hang(number, frame):
    while True:
        time.sleep(1)
signal.signal(signal.SIGUSR2, _hang)
"""


# -- small tools -------------------------------------------------------------------------------------------------


def run(*command: str | Path, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it with its output as text."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=HUNG, **more
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


def wait_for(what: str, predicate: Callable[[], object], seconds: float = TRANSIENT) -> float:
    """Return after how many seconds `predicate()` became true; AssertionError when it did not."""
    with Stopwatch() as watch:
        while not predicate():
            if watch.seconds > seconds:
                raise AssertionError(f"{what}: not within {seconds} s")
            time.sleep(0.02)
    return watch.seconds


def show(unit: str, name: str) -> str:
    """Return one property of a unit."""
    return run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()


def size(path: Path) -> int:
    """Return the size of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def ignores(place: Path, number: signal.Signals) -> bool:
    """Return whether the process at `place` below /proc ignores a signal."""
    mask = re.findall(r"^SigIgn:\t(\w+)$", (place / "status").read_text(), re.MULTILINE)[0]
    return bool(int(mask, 16) & 1 << number - 1)


def children(pid: int) -> list[int]:
    """Return the processes that a process started and that are still there."""
    return [
        int(word)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for word in (task / "children").read_text(encoding="ascii").split()
    ]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- installing --------------------------------------------------------------------------------------------------


def needed_distributions(requirements: list[str]) -> set[str]:
    """Return the names of the distributions that `requirements` need, themselves included."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += [Requirement(text) for text in importlib.metadata.requires(name) or []]
    return found


def reachable_python() -> Path:
    """Return this Python at a place that the service can see: ProtectHome= hides what lives in somebody's home."""
    base = Path(sys.base_prefix)
    if not any(base.is_relative_to(hidden) for hidden in ("/root", "/home", "/run", "/tmp")):
        return base / "bin" / f"python3.{sys.version_info.minor}"
    place = OPT / "python"
    place.mkdir(parents=True)
    run("mount", "--bind", base, place)
    for unit in (UNIT, "tidewaiter@.service", WITNESS):
        drop_in(unit, "python", LIBRARY)
    return place / "bin" / f"python3.{sys.version_info.minor}"


def drop_in(unit: str, name: str, text: str) -> None:
    """Write one drop-in, as `systemctl edit` would."""
    folder = Path(f"/etc/systemd/system/{unit}.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.conf").write_text(text)


def install(package: Path) -> None:
    """Put the virtual environment at /opt/tidewaiter/venv, then everything else with scripts/install-service."""
    OPT.mkdir(parents=True)
    python = reachable_python()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(python.parent.parent / "lib")}
    run(python, "-I", "-m", "venv", "--without-pip", OPT / "venv", env=environment)
    site = OPT / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for name in sorted(needed_distributions(project["dependencies"])):
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            source, target = Path(str(distribution.locate_file(file))), site / str(file)
            if ".." not in file.parts and source.is_file():  # no scripts, and no bytecode that was never made
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    shutil.copytree(package, site / "tidewaiter", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = site / f"tidewaiter-{project['version']}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: tidewaiter\nVersion: {project['version']}\n")
    (site / "hang_on_request.py").write_text(HANG)
    (site / "hang_on_request.pth").write_text("import hang_on_request\n")
    run(OPT / "venv/bin/python", "-I", "-m", "compileall", "-q", site, env=environment)
    run(REPOSITORY / "scripts/install-service", "--without-packages")


def tidewaiter(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the installed command as the operator would, as root."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(OPT / "python/lib"), "NO_COLOR": "1"}
    return run(OPT / "venv/bin/python", "-I", "-m", "tidewaiter", *arguments, check=check, env=environment)


# -- a stream and its daemon ------------------------------------------------------------------------------------


def make_stream(path: Path) -> None:
    """Create an empty stream that only root and the group `feed` may read."""
    path.touch()
    os.chown(path, 0, grp.getgrnam("feed").gr_gid)
    path.chmod(0o640)


def configure(name: str, stream: Path, state: Path, policies: str = "") -> Path:
    """Write the configuration of one instance and return its place."""
    text = (REPOSITORY / "systemd/service.toml").read_text()
    text = text.replace("/var/spool/tidewaiter/events.jsonl", str(stream))
    text = text.replace('dir = "/var/lib/tidewaiter"', f'dir = "{state}"')
    file = Path(f"/etc/tidewaiter/{name}.toml")
    file.write_text(text + policies)
    file.chmod(0o640)
    os.chown(file, 0, grp.getgrnam("tidewaiter").gr_gid)
    return file
