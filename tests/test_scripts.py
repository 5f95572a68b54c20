"""The scripts that set up and start the daemon, with a Python that only pretends: nothing is downloaded here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from support import PATIENCE, REPOSITORY, wait_until

if TYPE_CHECKING:
    from pathlib import Path

# Stands for the system's Python and for the one of .venv. It writes down what it is asked to do.
FAKE_PYTHON = r"""#!/bin/bash
me=$(readlink -f -- "$0")
log=@LOG@
case "$*" in
  *"-m venv "*)
    printf 'venv\n' >>"$log"
    folder=${*: -1}
    mkdir -p "$folder/bin"
    cp -- "$me" "$folder/bin/python"
    ;;
  *"-m pip "*--editable*)
    printf 'project\n' >>"$log"
    [[ -e @ROOT@/fail ]] && exit 1
    printf '#!/bin/bash\nprintf "%%s\\n" "$PWD" "$@"\n[[ -n ${WAIT:-} ]] && exec sleep 60\nexit 42\n' \
      >"${me%/*}/tidewaiter"
    chmod +x "${me%/*}/tidewaiter"
    ;;
  *"-m pip "*) printf 'packages\n' >>"$log" ;;
  *ensurepip*) printf '%s\n' "@ANSWER@ $me" ;;
esac
"""


class Clone:
    """A copy of the scripts with a pretended Python, in a folder whose name has a space."""

    def __init__(self, root: Path) -> None:
        self.root = root / "a clone"
        self.bin = root / "bin"
        self.log = root / "log"
        self.log.touch()
        self.bin.mkdir()
        (self.root / "scripts").mkdir(parents=True)
        for name in ("setup", "run", "constraints.txt", "constraints-dev.txt"):
            shutil.copy(REPOSITORY / "scripts" / name, self.root / "scripts" / name)
        shutil.copy(REPOSITORY / "pyproject.toml", self.root)
        for tool in ("bash", "dirname", "readlink", "sha256sum", "flock", "env", "mkdir", "cp", "chmod", "rm", "sleep"):
            found = shutil.which(tool)
            assert found is not None
            (self.bin / tool).symlink_to(found)

    def put_python(self, name: str = "python3.11", answer: str = "good 3.11") -> None:
        """Put a pretended Python on the PATH that answers the search with `answer`."""
        text = FAKE_PYTHON.replace("@LOG@", f"'{self.log}'").replace("@ROOT@", f"'{self.root}'")
        (self.bin / name).write_text(text.replace("@ANSWER@", answer), encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def start(self, *arguments: str, cwd: Path | None = None, wait: bool = False) -> subprocess.Popen[str]:
        environment = {"PATH": str(self.bin), "WAIT": "1" if wait else ""}
        return subprocess.Popen(
            [self.root / "scripts" / "run", *arguments],
            cwd=cwd or self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
        """Run scripts/run and return exit code, stdout and stderr."""
        with self.start(*arguments, cwd=cwd) as process:
            out, err = process.communicate(timeout=PATIENCE)
            return process.returncode, out, err

    @property
    def steps(self) -> list[str]:
        """What the pretended Python was asked to do, in order."""
        return self.log.read_text(encoding="utf-8").split()


ALL_STEPS = ["venv", "packages", "project"]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """Make a copy of the scripts with a Python 3.11 that pretends."""
    clone = Clone(tmp_path)
    clone.put_python()
    return clone


def test_run_passes_everything_on(clone: Clone, tmp_path: Path) -> None:
    """The caller's folder and options and the exit code go through untouched; the configuration is the clone's."""
    code, out, err = clone.run("a stream.jsonl", "--once", "--state-dir", "state", cwd=tmp_path)
    configuration = f"{clone.root}/config/tidewaiter.toml"
    expected = [str(tmp_path), "run", "--config", configuration, "a stream.jsonl", "--once", "--state-dir", "state"]
    assert out.splitlines() == expected
    assert code == 42
    assert len(err.splitlines()) == 1
    assert "setting up" in err


def test_run_sets_up_once(clone: Clone) -> None:
    """A second start does nothing but start."""
    clone.run()
    code, _, err = clone.run()
    assert (code, err) == (42, "")
    assert clone.steps == ALL_STEPS


def test_run_finds_the_clone_through_a_link(clone: Clone, tmp_path: Path) -> None:
    """A symbolic link to scripts/run starts the clone that it points into."""
    link = tmp_path / "tidewaiter-demo"
    link.symlink_to(clone.root / "scripts" / "run")
    done = subprocess.run(
        [link], env={"PATH": str(clone.bin)}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert f"{clone.root}/config/tidewaiter.toml" in done.stdout


def test_signals_reach_the_daemon(clone: Clone) -> None:
    """scripts/run becomes the daemon: no shell stands between it and SIGTERM."""
    clone.run()
    with clone.start(wait=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the daemon is there
        wait_until(lambda: b"sleep" in _command_line(process.pid), what="the process being the daemon")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_two_first_starts_set_up_once(clone: Clone) -> None:
    """Two starts at the same moment make one .venv, and both go on."""
    with clone.start() as one, clone.start() as two:
        one.communicate(timeout=PATIENCE)
        two.communicate(timeout=PATIENCE)
        assert (one.returncode, two.returncode) == (42, 42)
    assert clone.steps == ALL_STEPS


def test_a_half_finished_set_up_is_thrown_away(clone: Clone) -> None:
    """What an interrupted or failed set-up left is removed; the next start begins from nothing."""
    (clone.root / "fail").touch()
    code, _, err = clone.run()
    assert code == 2
    assert "could not be installed" in err
    leftover = clone.root / ".venv" / "leftover"
    leftover.touch()
    (clone.root / "fail").unlink()
    assert clone.run()[0] == 42
    assert clone.steps == ALL_STEPS * 2
    assert not leftover.exists()


def test_changed_pins_are_installed(clone: Clone) -> None:
    """New constraints are installed into the .venv there is."""
    clone.run()
    with (clone.root / "scripts" / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert clone.run()[0] == 42
    assert clone.steps == [*ALL_STEPS, "packages", "project"]


def test_a_moved_clone_is_set_up_again(clone: Clone) -> None:
    """A .venv does not survive a move of its clone, so it is made anew."""
    clone.run()
    clone.root = clone.root.rename(clone.root.with_name("moved"))
    assert clone.run()[0] == 42
    assert clone.steps == ALL_STEPS * 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, "no Python 3.11 or newer found"),
        ("old 3.9", "is 3.9"),
        ("bare 3.11", "apt-get install python3.11-venv"),
    ],
)
def test_an_unusable_python_is_one_clear_line(tmp_path: Path, answer: str | None, expected: str) -> None:
    """No Python, an old one, or one without venv: exit 2 and one line that says what to install."""
    clone = Clone(tmp_path)
    if answer is not None:
        clone.put_python("python3", answer)
    code, out, err = clone.run()
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert expected in err
    assert not (clone.root / ".venv").exists()


def test_a_stand_in_that_fails_is_passed_over(clone: Clone) -> None:
    """A version manager's stand-in for a Python that is not there does not stop the search."""
    (clone.bin / "python3.14").write_text("#!/bin/bash\necho 'not installed' >&2\nexit 127\n", encoding="utf-8")
    (clone.bin / "python3.14").chmod(0o755)
    assert clone.run()[0] == 42


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:  # noqa: PTH123 - unbuffered: it may end meanwhile
            return file.read()
    except OSError:
        return b""


def test_the_scripts_are_programs() -> None:
    """Everything a reader is told to start can be started."""
    for name in ("scripts/run", "scripts/test", "scripts/check", "scripts/setup", ".ci/run"):
        assert os.access(REPOSITORY / name, os.X_OK), name
