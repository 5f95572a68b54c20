"""The witness's memory: what is durable before it answers, what it refuses to start with, and how it is run."""

from __future__ import annotations

import errno
import itertools
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rigs.faulty_disk import Fault, FaultyDisk
from rigs.kill import Launcher, every_point
from rigs.witness import NAME, Log, Place, Running, check_by_hand, listening, post, state_of
from support import PATIENCE, REPOSITORY, run_cli
from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal
from tidewaiter.edges.durable import Disk
from tidewaiter.shell import witness

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigs.faulty_disk import Primitive


def cosign_twice(disk: Disk, root: str) -> int:
    """Answer two requests and write what was answered to a file: a target for `rigs.kill`."""
    log = Log("log.example/points")
    place = Place.make(Path(root), [log])
    state = state_of(place, log, disk=disk)
    for old, size in ((0, 3), (3, 7)):
        answer = state.add_checkpoint(log.request(old, size))
        with (place.root / "answers").open("ab") as file:
            file.write(b"%d\n" % size if answer.status == 200 else b"%d %b" % (answer.status, answer.body))
    return 0


def test_killed_at_every_call_no_answer_is_forgotten(tmp_path: Path) -> None:
    """Wherever it dies, the next start knows at least what was answered, and cosigns what goes on from there."""
    target = "test_witness_state:cosign_twice"
    log = Log("log.example/points")
    with Launcher(["test_witness_state"]) as launcher:
        calls = tmp_path / "calls"
        launcher.run(target, {"root": str(tmp_path / "whole")}, calls=calls)
        points = every_point(calls.read_text(encoding="utf-8").splitlines())
        assert len(points) > 20
        for number, point in enumerate(points):
            root = tmp_path / str(number)
            assert launcher.run(target, {"root": str(root)}, point).killed
            place = Place.make(root, [log])
            answered = max(map(int, _lines(root / "answers")), default=0)
            state = state_of(place, log)
            size = state.sizes.get(log.origin, 0)
            assert answered <= size, point
            assert state.add_checkpoint(log.request(size, 9)).status == 200
            assert state.add_checkpoint(Log(log.origin, fork=2).request(9, 12)).status == 422


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def test_a_failed_fsync_ends_it_without_an_answer(tmp_path: Path) -> None:
    """What the disk did not confirm is not cosigned, nor is anything after it: the process must start again (5)."""
    log = Log("log.example/disk")
    place = Place.make(tmp_path, [log])
    primitives: tuple[Primitive, ...] = ("fsync", "fsync_directory", "replace")
    for primitive in primitives:
        state_of(place, log)
        disk = FaultyDisk([Fault(primitive, "*/checkpoints*")])
        state = state_of(place, log, disk=disk)
        size = state.sizes.get(log.origin, 0)
        for _ in range(2):
            with pytest.raises(DurabilityError) as raised:
                state.add_checkpoint(log.request(size, size + 2))
            assert raised.value.exit_code == 5
        assert disk.failures
        assert not disk.syncs_retried()
        assert state_of(place, log).sizes.get(log.origin, 0) in {size, size + 2}


def test_a_disk_failure_ends_the_process_with_5(tmp_path: Path) -> None:
    """The client gets a 500, and whoever runs the server is told to end it."""
    log = Log("log.example/fails")
    place = Place.make(tmp_path, [log])
    state_of(place, log)
    state = state_of(place, log, disk=FaultyDisk([Fault("fsync", "*/checkpoints/*")]))
    with listening(state) as (url, errors):
        assert post(url, log.request(0, 3)).status == 500
    assert [error.exit_code for error in errors] == [5]


def test_a_full_disk_passes(tmp_path: Path) -> None:
    """No space: nothing is cosigned (503), and once there is space it goes on by itself."""
    log = Log("log.example/full")
    place = Place.make(tmp_path, [log])
    state_of(place, log)
    state = state_of(place, log, disk=FaultyDisk([Fault("pwrite", "*/checkpoints/*", errno=errno.ENOSPC)]))
    with listening(state) as (url, errors):
        assert [post(url, log.request(0, 3)).status for _ in range(2)] == [503, 200]
    assert not errors


DAMAGE: dict[str, Callable[[Place, Log], object]] = {
    "empty": lambda place, log: place.kept(log).write_bytes(b""),
    "cut": lambda place, log: place.kept(log).write_bytes(place.kept(log).read_bytes()[:-30]),
    "smaller": lambda place, log: place.kept(log).write_bytes(
        place.kept(log).read_bytes().replace(log.text(9), log.text(5))
    ),
    "without our cosignature": lambda place, log: place.kept(log).write_bytes(log.note(9)),
    "of another log": lambda place, log: shutil.copy(place.kept(Log("log.example/other")), place.kept(log)),
    "no owner": lambda place, log: (place.state / "witness").unlink(),
    "owner damaged": lambda place, log: (place.state / "witness").write_bytes(b"\0" * 60),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused(tmp_path: Path, damage: str) -> None:
    """Exit 4, naming the file: a witness that guessed what it saw would be worth nothing."""
    log, other = Log("log.example/damaged"), Log("log.example/other")
    place = Place.make(tmp_path, [log, other])
    state = state_of(place, log, other)
    for one in (log, other):
        assert state.add_checkpoint(one.request(0, 9)).status == 200
    DAMAGE[damage](place, log)
    with pytest.raises(IntegrityRefusal) as raised:
        state_of(place, log, other)
    assert str(place.state) in raised.value.message


def test_a_half_made_file_is_no_damage(tmp_path: Path) -> None:
    """What a crash leaves of a write, under a temporary name, is written over."""
    log = Log("log.example/temporary")
    place = Place.make(tmp_path, [log])
    state_of(place, log).add_checkpoint(log.request(0, 9))
    kept = place.kept(log)
    kept.with_name(f".{kept.name}.tmp").write_bytes(b"half")
    assert state_of(place, log).add_checkpoint(log.request(9, 11)).status == 200


def test_the_state_of_another_witness_is_refused(tmp_path: Path) -> None:
    """Exit 2: a new key makes a new witness, and that one has seen nothing."""
    log = Log("log.example/two")
    place = Place.make(tmp_path, [log])
    state_of(place, log)
    with pytest.raises(ConfigError, match="belongs to the witness"):
        state_of(Place.make(tmp_path, [log], "witness.example/w2"), log)


def test_the_clock_gives_the_time_of_the_cosignature(tmp_path: Path) -> None:
    """The timestamp is the witness's own time in seconds."""
    log = Log("log.example/time")
    place = Place.make(tmp_path, [log])
    answer = state_of(place, log, seconds=1_679_315_147).add_checkpoint(log.request(0, 3))
    assert check_by_hand(str(place.key.verifier), log.text(3), answer.body) == [1_679_315_147]


def test_while_one_request_is_persisted_no_other_is_judged(tmp_path: Path) -> None:
    """The race of the specification: a smaller tree judged before and persisted after a larger one."""
    log = Log("log.example/race")
    place = Place.make(tmp_path, [log])
    state_of(place, log)
    writing, go = threading.Event(), threading.Event()

    class Slow(Disk):
        def _fsync(self, fd: int) -> None:
            writing.set()
            assert go.wait(PATIENCE)
            super()._fsync(fd)

    state = state_of(place, log, disk=Slow())
    with ThreadPoolExecutor(2) as threads:
        larger = threads.submit(state.add_checkpoint, log.request(0, 20))
        assert writing.wait(PATIENCE)
        smaller = threads.submit(state.add_checkpoint, log.request(0, 10))
        go.set()
        assert (larger.result(PATIENCE).status, smaller.result(PATIENCE).body) == (200, b"20\n")
    assert state_of(place, log).sizes == {log.origin: 20}


# -- the command -------------------------------------------------------------------------------------------------------


def test_new_makes_a_key_and_prints_its_vkey(tmp_path: Path) -> None:
    """The key is of the cosigning type, in a file for its owner alone, and never overwritten."""
    path = tmp_path / "key"
    done = run_cli("witness", "new", "--key", path, "--name", NAME)
    assert done.returncode == 0, done.stderr
    vkey = done.stdout.decode().strip()
    assert re.fullmatch(rf"{NAME}\+[0-9a-f]{{8}}\+B[A-Za-z0-9+/]{{43}}", vkey), "type 0x04"
    assert path.stat().st_mode & 0o777 == 0o600
    assert run_cli("witness", "new", "--key", path, "--name", NAME).returncode == 2
    assert run_cli("witness", "new", "--key", tmp_path / "other", "--name", "two words").returncode == 2


def test_serve_ends_with_the_exit_code_of_what_is_wrong(tmp_path: Path) -> None:
    """2 for a log's key, a policy without logs, an address that is none or not ours; 4 for damaged state."""
    log = Log("log.example/codes")
    place = Place.make(tmp_path, [log])
    state_of(place, log).add_checkpoint(log.request(0, 3))

    def serve(**changes: str | Path) -> int:
        options = {"state-dir": place.state, "key": tmp_path / "key", "policy": tmp_path / "policy", **changes}
        words = itertools.chain.from_iterable((f"--{name}", value) for name, value in options.items())
        done = run_cli("witness", "serve", *words)
        assert b"Traceback" not in done.stderr
        return done.returncode

    (tmp_path / "log-key").write_text(log.key.encode(), encoding="utf-8")
    (tmp_path / "log-key").chmod(0o600)
    (tmp_path / "empty").write_text("quorum none\n", encoding="utf-8")
    assert serve(key=tmp_path / "log-key", **{"state-dir": tmp_path / "fresh"}) == 2
    assert not (tmp_path / "fresh").exists()
    assert serve(policy=tmp_path / "empty") == 2
    assert serve(listen="8650") == 2
    assert serve(listen="192.0.2.1:0") == 2
    place.kept(log).write_bytes(b"")
    assert serve(listen="127.0.0.1:0") == 4


def test_one_directory_has_one_witness(tmp_path: Path) -> None:
    """A second process on the same state directory is refused with 2; it would cosign behind the first one's back."""
    log = Log("log.example/lock")
    place = Place.make(tmp_path, [log])
    with Running(place):
        done = run_cli("witness", "serve", "--state-dir", place.state, "--key", tmp_path / "key",
                       "--policy", tmp_path / "policy", "--listen", "127.0.0.1:0")  # fmt: skip
    assert done.returncode == 2
    assert b"in use by another tidewaiter" in done.stderr


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:8650", ("127.0.0.1", 8650)), ("[::1]:1", ("::1", 1)), ("localhost:0", ("localhost", 0))],
)
def test_addresses_are_understood(listen: str, address: tuple[str, int]) -> None:
    """HOST:PORT, with brackets around an IPv6 address."""
    assert witness.parse_address(listen) == address


@pytest.mark.parametrize("listen", ["", ":1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:٣"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    """Exit 2 with the form expected."""
    with pytest.raises(ConfigError, match="HOST:PORT"):
        witness.parse_address(listen)


# -- the unit ----------------------------------------------------------------------------------------------------------


def test_the_unit_is_as_closed_as_the_daemons_but_for_the_network() -> None:
    """Every directive of the daemon's sandbox stands in the witness's unit, except what keeps it off the network."""
    daemon, ours = (
        dict(re.findall(r"^([A-Za-z]+)=(.*)$", text.partition("# --- sandbox")[2], re.MULTILINE))
        for text in (
            (REPOSITORY / "systemd" / unit).read_text(encoding="utf-8")
            for unit in ("tidewaiter.service", "tidewaiter-witness.service")
        )
    )
    differing = {key for key in daemon.keys() | ours.keys() if daemon.get(key) != ours.get(key)}
    assert differing == {"PrivateNetwork", "RestrictAddressFamilies", "IPAddressAllow", "InaccessiblePaths"}


def test_the_units_exposure_is_at_most_one() -> None:
    """`systemd-analyze security --offline` rates it 1.0 or better: it has a network, and nothing else."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager",
         str(REPOSITORY / "systemd/tidewaiter-witness.service")],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is older than 250: no --offline")
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure[1]) <= 1.0
