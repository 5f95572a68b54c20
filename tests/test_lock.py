"""One daemon for each state directory, and a way to see which one without disturbing it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from support import PATIENCE, cli_environment
from tidewaiter.core.errors import EXIT_USAGE, ConfigError
from tidewaiter.edges import lock as module
from tidewaiter.edges.lock import StateLock, probe

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLDER = """
import sys
from pathlib import Path
from tidewaiter.edges.lock import StateLock
held = StateLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""
PROBER = """
import sys
from pathlib import Path
from tidewaiter.edges.lock import probe
print(probe(Path(sys.argv[1])))
"""

# The parent stays the holder for the child, and for a third process after the child has tried and failed.
FORKER = """
import os, subprocess, sys
from pathlib import Path
from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.lock import StateLock, probe
path = Path(sys.argv[1])
held = StateLock(path).acquire()
print(os.getpid(), flush=True)
if os.fork() == 0:
    try:
        StateLock(path).acquire()
    except ConfigError as error:
        print(error.message)
    print(probe(path), flush=True)
    os._exit(0)
os.wait()
third = "import sys; from pathlib import Path; from tidewaiter.edges.lock import probe; print(probe(Path(sys.argv[1])))"
seen = subprocess.run([sys.executable, "-c", third, str(path)], capture_output=True, check=True).stdout
print(int(seen) - os.getpid())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the lock file belongs."""
    return tmp_path / "lock"


@contextlib.contextmanager
def other_daemon(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock inside the block."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        env=cli_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def seen_from_outside(path: Path) -> str:
    """Return what another process finds out about the lock."""
    done = subprocess.run(
        [sys.executable, "-c", PROBER, str(path)],
        env=cli_environment(),
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    return done.stdout.decode().strip()


def test_second_daemon_is_refused_with_the_pid_of_the_first(path: Path) -> None:
    """Two daemons on one state directory: the second says who is there and exits 2."""
    with other_daemon(path) as first:
        with pytest.raises(ConfigError, match=f"in use by another tidewaiter \\(pid {first.pid}\\)") as refused:
            StateLock(path).acquire()
        assert refused.value.exit_code == EXIT_USAGE
        assert str(path.parent) in refused.value.message
        assert probe(path) == first.pid


def test_lock_ends_with_its_process(path: Path) -> None:
    """After kill -9 the next daemon starts at once; no file has to be removed."""
    with other_daemon(path) as first:
        first.kill()
        first.wait()
        assert probe(path) is None
        with StateLock(path):
            assert seen_from_outside(path) == str(os.getpid())
    assert path.exists()


def test_released_lock_is_free(path: Path) -> None:
    """Letting go makes room for the next one; doing it twice is harmless."""
    lock = StateLock(path).acquire()
    lock.release()
    lock.release()
    assert probe(path) is None
    with other_daemon(path) as other:
        assert probe(path) == other.pid


def test_probing_ones_own_lock_keeps_it(path: Path) -> None:
    """The process that holds the lock may probe it: closing a second descriptor would have dropped it."""
    with StateLock(path):
        assert probe(path) == os.getpid()
        assert seen_from_outside(path) == str(os.getpid())


def test_second_lock_in_one_process_is_refused_and_keeps_the_first(path: Path) -> None:
    """The kernel would grant a process the same lock twice; this module does not, whatever name is used."""
    with StateLock(path) as first:
        os.link(path, path.with_name("other-name"))
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        for again in (first, StateLock(path), StateLock(path.with_name("other-name"))):
            with pytest.raises(ConfigError, match=f"in use by this very process \\(pid {os.getpid()}\\)"):
                again.acquire()
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
        assert seen_from_outside(path) == str(os.getpid())


def test_name_that_becomes_the_held_file_late_keeps_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the look at the name came too early, the second descriptor is not closed."""
    opened: list[int] = []
    real = module._open

    def open_and_note(name: Path) -> int:
        opened.append(real(name))
        return opened[-1]

    with StateLock(path):
        monkeypatch.setattr(module, "_identity", lambda _: None)
        monkeypatch.setattr(module, "_open", open_and_note)
        with pytest.raises(ConfigError, match="this very process"):
            StateLock(path).acquire()
        assert seen_from_outside(path) == str(os.getpid())
    os.close(opened[0])


def test_forked_child_does_not_think_it_holds_the_lock(path: Path) -> None:
    """Locks are not inherited: a child sees the parent as the holder, is refused, and takes nothing away."""
    done = subprocess.run(
        [sys.executable, "-c", FORKER, str(path)],
        env=cli_environment(),
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    parent, refusal, in_child, afterwards = done.stdout.decode().splitlines()
    assert f"(pid {parent})" in refusal
    assert in_child == parent
    assert afterwards == "0"


def test_probe_finds_nobody_where_nothing_is(path: Path) -> None:
    """A state directory that was never used, or does not exist, has no holder, and probing creates nothing."""
    assert probe(path) is None
    assert probe(path.parent / "missing" / "lock") is None
    assert not path.exists()


def test_lock_file_replaced_meanwhile_is_not_trusted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that lost its name between opening and locking guards nothing: the new file is locked."""
    real = module._open
    calls = 0

    def open_and_replace(name: Path) -> int:
        nonlocal calls
        calls += 1
        fd = real(name)
        if calls == 1:
            name.unlink()
        return fd

    monkeypatch.setattr(module, "_open", open_and_replace)
    with StateLock(path):
        assert calls == 2
        assert seen_from_outside(path) == str(os.getpid())


def test_holder_that_leaves_between_two_looks_is_no_obstacle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, but nobody there when asked who it was: try again."""
    real = fcntl.lockf
    answers = [OSError(errno.EAGAIN, "busy"), OSError(errno.EACCES, "busy")]

    def lockf(fd: int, operation: int) -> None:
        if answers:
            raise answers.pop()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with StateLock(path):
        assert probe(path) == os.getpid()


def test_lock_that_always_changes_hands_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying again has an end."""

    def lockf(fd: int, operation: int) -> NoReturn:
        raise OSError(errno.EAGAIN, "busy")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(ConfigError, match="changes hands"):
        StateLock(path).acquire()


def test_holder_in_another_container_is_still_a_holder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel cannot name the holder, the answer is not "nobody"."""
    with other_daemon(path):
        answer = module._FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        monkeypatch.setattr(fcntl, "fcntl", lambda *_: answer)
        assert probe(path) == module.HIDDEN_PID
        with pytest.raises(ConfigError, match=r"in use by another tidewaiter \(in a container\)"):
            StateLock(path).acquire()


def test_group_may_read_the_lock_file(path: Path) -> None:
    """Whoever may read the logs may see whether the daemon runs; the descriptor is not inherited."""
    former = os.umask(0)
    try:
        with StateLock(path) as lock:
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
            assert not os.get_inheritable(lock._fd)
    finally:
        os.umask(former)


def test_missing_state_directory_is_a_configuration_error(path: Path) -> None:
    """The lock does not create directories."""
    with pytest.raises(ConfigError, match="state directory does not exist"):
        StateLock(path.parent / "missing" / "lock").acquire()


@pytest.mark.root
def test_lock_that_root_makes_belongs_to_the_owner_of_its_directory(path: Path) -> None:
    """Root's `skip` in the daemon's directory must not leave a lock that the daemon cannot take."""
    os.chown(path.parent, 1234, 4321)
    with StateLock(path):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)
    os.chown(path, 5, 6)
    with StateLock(path):  # one that was there stays whose it is
        assert (path.stat().st_uid, path.stat().st_gid) == (5, 6)


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink"])
def test_anything_but_a_regular_file_is_refused(path: Path, kind: str) -> None:
    """Only a plain file under its own name can be the lock."""
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(ConfigError):
        StateLock(path).acquire()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_missing_permission_is_a_configuration_error(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Neither taking nor probing ends in a traceback; both say what to check."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match="cannot be opened") as refused:
        StateLock(path).acquire()
    assert refused.value.hint
    with pytest.raises(ConfigError, match="cannot tell whether a daemon runs") as refused:
        probe(path)
    assert refused.value.hint


def test_file_system_without_locks_is_a_configuration_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system cannot lock, the daemon does not run unguarded."""

    def lockf(fd: int, operation: int) -> NoReturn:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(ConfigError, match="cannot be locked: no locks available") as refused:
        StateLock(path).acquire()
    assert "local file system" in refused.value.hint
