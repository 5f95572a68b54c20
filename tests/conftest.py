"""What all tests share: the reference data, what the machine must have for some of them, and Hypothesis' settings.

Leaves to `support` the helpers that tests call by name.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

import proof_rig

if TYPE_CHECKING:
    from proof_rig import Log

REPOSITORY = Path(__file__).resolve().parent.parent

# Deadlines measure the machine, not the code; pytest-timeout bounds each test. A failure in CI must be repeatable from
# its output alone, so there the examples are always the same.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what this machine cannot do."""
    if item.get_closest_marker("systemd") is not None:
        missing = _missing_for_systemd()
        if missing:
            pytest.skip(f"a real systemd cannot be booted here: {missing}")
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        pytest.skip("needs root: it mounts or makes namespaces")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the clone."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the reference streams and torture files; tests that need it are skipped where it is absent.

    It is `$TIDEWAITER_SHARED_DATA`, or `shared/data` beside the clone.
    """
    named = os.environ.get("TIDEWAITER_SHARED_DATA")
    path = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"the reference data is not there: {path} (set TIDEWAITER_SHARED_DATA)")
    return path


# -- a finished log, for what is handed to others ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A finished log; not to be changed."""
    return proof_rig.make_log(tmp_path_factory.mktemp("log"))


@pytest.fixture
def own(log: Log, tmp_path: Path) -> Log:
    """A copy of it."""
    return log.copy(tmp_path / "own")


@pytest.fixture(scope="module")
def unpacked(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of everything in it, unpacked; not to be changed. Beside it lies the zip."""
    return proof_rig.bundled(log, tmp_path_factory.mktemp("bundle") / "all.zip")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only programs that the checks of a third party find."""
    return tmp_path_factory.mktemp("tools") / "bin"


def _missing_for_systemd() -> str:
    """Return what booting a real systemd in a namespace lacks on this machine, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if not any(Path(folder, "systemd").exists() for folder in ("/lib/systemd", "/usr/lib/systemd")):
        return "systemd is not installed"
    for tool in ("unshare", "nsenter", "setpriv", "mount", "systemctl"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    kernel = Path("/proc/filesystems").read_text(encoding="ascii").split()
    for filesystem in ("overlay", "cgroup2"):
        if filesystem not in kernel:
            return f"the kernel offers no {filesystem}"
    return ""
