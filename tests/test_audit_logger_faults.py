"""The audit log of a pipeline through kills, power loss, failing disks and tampering.

What was acknowledged is there once; what an interrupted write left is cut, kept aside and recorded; everything else is
refused. What the API does when nothing goes wrong is in test_audit_logger.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from rigs.faulty_disk import Fault, FaultyDisk
from rigs.kill import Launcher, every_point
from rigs.power_loss import RecordingDisk
from rigs.tmpfs import quick_directory
from support import run_cli
from tidewaiter import AuditLogger, AuditReader
from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal
from tidewaiter.edges.durable import Disk, NoSpace, SyncFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEPS = 4
TARGET = "test_audit_logger_faults:log_steps"


@pytest.fixture
def place() -> Iterator[Path]:
    """A quick directory of the test's own."""
    with quick_directory() as path:
        yield path


@pytest.fixture
def path(place: Path) -> Path:
    """A log of four steps, closed."""
    log_steps(Disk(), str(place / "audit.jsonl"))
    return place / "audit.jsonl"


def log_steps(disk: Disk, path: str, acknowledged: Callable[[int], None] = lambda _number: None) -> None:
    """Log four steps, each so long that it takes more than a page, and say after each that it was."""
    with AuditLogger(path, disk=disk) as log:
        done = len([entry for entry in log.read_all() if entry.stage])
        for number in range(done, STEPS):
            log.log_complete("run", "stage", "act", record_count=number, details={"text": "x" * 5000})
            acknowledged(number)


def steps_in(path: Path) -> list[int | None]:
    """Return the numbers of the steps that are logged."""
    return [entry.record_count for entry in AuditReader(path).read_all() if entry.stage]


def actions_in(path: Path) -> list[str]:
    """Return the actions of all entries."""
    return [entry.action for entry in AuditReader(path).read_all()]


def lines_of(path: Path) -> list[bytes]:
    """Return the lines as they stand."""
    return path.read_bytes().splitlines(keepends=True)


# -- an interrupted write ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hole", [False, True], ids=["cut short", "pages that were never written"])
def test_an_interrupted_last_line_is_cut_and_recorded(path: Path, hole: bool) -> None:
    """Whatever part of the last line is there, it is kept aside, cut, and the log says so; the rest stays."""
    whole, last = path.read_bytes(), lines_of(path)[-1]
    begin = len(whole) - len(last)
    for kept in (1, 2, 8, 70, 100, 4096 - begin % 4096, len(last) - 2):
        rest = last[:kept] + bytes(len(last) - kept - 1) + b"\n" if hole else last[:kept]
        path.write_bytes(whole[:begin] + rest)
        AuditLogger(path).close()
        assert steps_in(path) == list(range(STEPS - 1))
        aside = path.with_name(f"audit.jsonl.torn-{begin}")
        assert aside.read_bytes() == rest
        *_, cut = AuditReader(path).read_all()
        assert cut.action == "audit.tail_cut"
        assert (cut.details["segment"], cut.details["offset"], cut.details["length"]) == (path.name, begin, len(rest))
        assert cut.details["sha256"] == hashlib.sha256(rest).hexdigest()
        assert path.read_bytes().startswith(whole[:begin])
        aside.unlink()


def test_a_log_that_died_in_its_first_line_begins_again(path: Path) -> None:
    """A first line that is not whole holds nothing: the log begins anew."""
    first = lines_of(path)[0]
    for kept in range(len(first)):
        path.write_bytes(first[:kept])
        AuditLogger(path).close()
        assert actions_in(path) == ["audit.segment_opened", "audit.tail_cut"][: 2 if kept else 1]


def test_a_reader_leaves_an_incomplete_last_line_out(path: Path) -> None:
    """A line that is being written, or was interrupted, is not shown and does not break the chain."""
    path.write_bytes(path.read_bytes()[:-10])
    assert steps_in(path) == list(range(STEPS - 1))
    check = AuditReader(path).verify_chain_integrity()
    assert check
    assert check.incomplete == path.stat().st_size - check.length > 0


# -- tampering ---------------------------------------------------------------------------------------------------------


def edited(lines: list[bytes]) -> list[bytes]:
    """Change one digit of entry 2."""
    return [lines[0], lines[1], lines[2].replace(b'"record_count":1', b'"record_count":7'), *lines[3:]]


@pytest.mark.parametrize(
    ("tamper", "bad_index"),
    [
        (edited, 2),
        (lambda lines: [*lines[:2], *lines[3:]], 2),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 2),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 1),
        (lambda lines: lines[1:], 0),
        (lambda lines: [*lines[:-1], lines[-1].replace(b'"index":4', b'"index":5')], 4),
        (lambda lines: [*lines[:2], b'{"a":1}\n', *lines[2:]], 2),
        (lambda lines: [*lines, b"x" * 70_000], 5),
        (lambda lines: [*lines[:-1], lines[-1][:50] + b"\n"], 4),
        (lambda lines: [*lines[:-1], lines[-1][:50] + bytes(50) + b"\n" + lines[-1]], 4),
    ],
    ids=[
        "edit", "delete", "insert", "reorder", "no beginning", "renumber", "foreign line", "endless line", "short line",
        "two torn",
    ],
)  # fmt: skip
def test_a_broken_chain_is_refused(path: Path, tamper: Callable[[list[bytes]], list[bytes]], bad_index: int) -> None:
    """A changed file is refused by entry and byte, by the writer and the readers alike, and left as it is."""
    lines = tamper(lines_of(path))
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    check = AuditReader(path).verify_chain_integrity()
    assert not check
    assert check.bad_index == bad_index
    offset = sum(len(line) for line in lines[:bad_index])
    assert check.offset == offset
    assert f"byte {offset}: entry {bad_index} " in check.reason
    assert str(check.expected) in check.reason
    assert str(check.found) in check.reason
    with pytest.raises(IntegrityRefusal, match=f"byte {offset}: entry {bad_index} "):
        list(AuditReader(path).read_all())
    with pytest.raises(IntegrityRefusal, match=f"byte {offset}: entry {bad_index} "):
        AuditLogger(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_verify_agrees(path: Path) -> None:
    """`tidewaiter verify --audit` finds intact what the API finds intact, and blames the same entry and byte."""
    path.write_bytes(path.read_bytes()[:-10])
    AuditLogger(path).close()
    intact = run_cli("verify", "--audit", path, "--json")
    verdict = json.loads(intact.stdout)
    assert (intact.returncode, verdict["findings"]) == (6, [])
    assert verdict["entries"] == AuditReader(path).verify_chain_integrity().entries == STEPS + 1
    assert verdict["log"] == json.loads(lines_of(path)[0])["origin"]
    for tamper in (edited, lambda lines: [*lines[:2], *lines[3:]], lambda lines: [lines[0], lines[2], lines[1]]):
        path.write_bytes(b"".join(tamper(lines_of(path))))
        check = AuditReader(path).verify_chain_integrity()
        tampered = run_cli("verify", "--audit", path, "--json")
        first = json.loads(tampered.stdout)["first"]
        assert tampered.returncode == 4
        assert (first["index"], first["offset"]) == (check.bad_index, check.offset)


def test_the_writer_notices_a_rewritten_end(place: Path) -> None:
    """A chain that is whole but not the one that was written is found by who wrote it."""
    path = place / "audit.jsonl"
    with AuditLogger(path) as log:
        log.log_complete("run", "stage", "act", record_count=1)
        path.write_bytes(path.read_bytes().replace(b'"record_count":1', b'"record_count":2'))
        assert AuditReader(path).verify_chain_integrity()  # a reader cannot know
        check = log.verify_chain_integrity()
        assert not check
        assert (check.bad_index, check.offset) == (1, len(lines_of(path)[0]))


@pytest.mark.parametrize("content", [b"id,value\n1,2\n", b"notes", b"\x89PNG\r\n\x1a\n\0\0", b"\n"])
def test_a_file_of_another_kind_is_refused(place: Path, content: bytes) -> None:
    """A file that is no audit log is not touched."""
    path = place / "input.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no audit log"):
        AuditLogger(path)
    assert path.read_bytes() == content
    with pytest.raises(ConfigError):
        AuditLogger(place)


def appended(path: Path) -> None:
    """Write behind the last line."""
    with path.open("ab") as file:
        file.write(b"{}\n")


def renamed(path: Path) -> None:
    """Do what logrotate does."""
    path.rename(path.with_suffix(".1"))


def replaced(path: Path) -> None:
    """Do what an editor does when it saves."""
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").rename(path)


@pytest.mark.parametrize("change", [appended, renamed, replaced, lambda path: path.unlink()])
def test_changes_by_others_are_noticed_before_the_next_entry(place: Path, change: Callable[[Path], None]) -> None:
    """A file that somebody else writes to, renames, replaces or removes gets no further entry."""
    path = place / "audit.jsonl"
    with AuditLogger(path) as log:
        log.log_start("run", "stage", "act")
        change(path)
        with pytest.raises(IntegrityRefusal, match=r"somebody else wrote to it|was renamed, removed or replaced"):
            log.log_complete("run", "stage", "act")


def test_a_forked_process_cannot_write(place: Path) -> None:
    """A child process that inherited the logger is refused, and the parent's chain stays whole."""
    path = place / "audit.jsonl"
    with AuditLogger(path) as log:
        pid = os.fork()
        if pid == 0:
            try:
                log.log_start("run", "stage", "act")
            except ConfigError as error:
                os._exit(17 if "a forked process cannot write to it" in str(error) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
        log.log_start("run", "stage", "act")
        assert log.verify_chain_integrity().entries == 2


# -- failing calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", [None, 1, 3000])
def test_a_full_disk_appends_nothing(place: Path, short: int | None) -> None:
    """A full disk is reported, leaves no half line, and logging goes on when there is room again."""
    path = place / "audit.jsonl"
    disk = FaultyDisk()
    with AuditLogger(path, disk=disk) as log:
        log.log_start("run", "stage", "act")
        before = path.read_bytes()
        disk.plan.append(Fault("pwrite", errno=errno.ENOSPC, short=short))
        with pytest.raises(NoSpace):
            log.log_complete("run", "stage", "act", details={"text": "x" * 5000})
        assert path.read_bytes() == before
        assert log.log_complete("run", "stage", "act").duration_ms is not None
        assert log.verify_chain_integrity().entries == 3
    assert disk.syncs_retried() == []


@pytest.mark.parametrize("primitive", ["pwrite", "fdatasync"])
@pytest.mark.parametrize("persisted", [False, True])
def test_an_unconfirmed_write_ends_the_logger(place: Path, primitive: Any, persisted: bool) -> None:
    """After a write that the disk did not confirm no more is logged and no sync retried; the next opening goes on."""
    path = place / "audit.jsonl"
    disk = FaultyDisk()
    log = AuditLogger(path, disk=disk)
    log.log_start("run", "stage", "one")
    disk.plan.append(Fault(primitive, persisted=persisted))
    for _ in range(2):
        with pytest.raises(DurabilityError, match=r"write failed|fsync failed"):
            log.log_start("run", "stage", "two")
    log.close()
    assert disk.syncs_retried() == []
    with AuditLogger(path) as again:
        again.log_start("run", "stage", "three")
    assert actions_in(path) in (
        ["audit.segment_opened", "one", "three"], ["audit.segment_opened", "one", "two", "three"],
    )  # fmt: skip


def test_a_failing_call_at_the_opening_is_reported(place: Path) -> None:
    """Each call of a first opening may fail: the error is the disk's, and the next opening succeeds."""
    counting = FaultyDisk()
    AuditLogger(place / "count" / "audit.jsonl", disk=counting).close()
    for number, call in enumerate(counting.calls):
        path = place / str(number) / "audit.jsonl"
        nth = sum(1 for other in counting.calls[: number + 1] if other.primitive == call.primitive)
        with pytest.raises((DurabilityError, ConfigError)):
            AuditLogger(path, disk=FaultyDisk([Fault(call.primitive, nth=nth)]))
        with AuditLogger(path) as log:
            assert log.verify_chain_integrity().entries == 1


class InterruptedDisk(Disk):
    """A disk at whose write or sync of an entry the user presses Ctrl-C, once."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def _interrupt(self, where: str) -> None:
        if where == self.where:
            self.where = ""
            raise KeyboardInterrupt

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if self.where == "middle" and offset:
            super()._pwrite(fd, data[:10], offset)
        self._interrupt("middle" if offset else "")
        written = super()._pwrite(fd, data, offset)
        self._interrupt("after" if offset else "")
        return written


@pytest.mark.parametrize(("where", "actions"), [("middle", ["two"]), ("after", ["one", "two"])])
def test_an_interrupted_call_counts_once_or_not_at_all(place: Path, where: str, actions: list[str]) -> None:
    """After Ctrl-C within a call its entry is in the log if it was written as a whole, and logging goes on."""
    path = place / "audit.jsonl"
    with AuditLogger(path, disk=InterruptedDisk(where)) as log:
        with pytest.raises(KeyboardInterrupt):
            log.log_start("run", "stage", "one")
        log.log_start("run", "stage", "two")
        assert log.verify_chain_integrity()
    assert actions_in(path)[1:] == actions


def test_each_call_is_durable_unless_asked_otherwise(place: Path) -> None:
    """By default an entry is synced before the call returns; without, closing makes all durable at once."""
    for durable, syncs in ((True, [1, 2, 3]), (False, [0, 0, 0])):
        disk = FaultyDisk()
        path = place / f"{durable}.jsonl"
        log = AuditLogger(path, durable=durable, disk=disk)
        opened = disk.count("fdatasync")
        assert disk.count("fsync_directory") == 2  # of the folder that was there, and of the new name in it
        for done in syncs:
            log.log_start("run", "stage", "act")
            assert disk.count("fdatasync") - opened == done
        log.close()
        assert disk.calls[-1].primitive == "fdatasync"


# -- kills and power loss ----------------------------------------------------------------------------------------------


def log_and_tell(disk: Disk, path: str, told: str) -> None:
    """Log four steps, and tell the file `told` after each."""

    def tell(number: int) -> None:
        with open(told, "a", encoding="utf-8") as file:  # noqa: PTH123 - a path as text
            file.write(f"{number}\n")

    log_steps(disk, path, tell)


def test_killed_at_every_write_like_call(place: Path) -> None:
    """Killed anywhere, half-way through a write too, what was acknowledged is there once, and the next run goes on."""
    target = "test_audit_logger_faults:log_and_tell"
    with Launcher(preload=["test_audit_logger_faults"]) as launcher:
        arguments = {"path": str(place / "count" / "a.jsonl"), "told": str(place / "told")}
        assert launcher.run(target, arguments, calls=place / "calls").status == 0
        for point in every_point((place / "calls").read_text().splitlines()):
            root = place / f"{point.at}{point.where}"
            root.mkdir()
            path, told = root / "logs" / "a.jsonl", root / "told"
            assert launcher.run(target, {"path": str(path), "told": str(told)}, point).killed
            acknowledged = [int(line) for line in told.read_text().split()] if told.exists() else []
            log_steps(Disk(), str(path))
            assert acknowledged == list(range(len(acknowledged)))
            assert steps_in(path) == list(range(STEPS)), point
            assert actions_in(path).count("audit.tail_cut") <= 1
            shutil.rmtree(root)


def test_power_loss_after_any_operation(place: Path) -> None:
    """Whatever a power loss leaves of names, sizes and pages, no acknowledged entry is lost; the next run goes on."""
    root = place / "disk"
    root.mkdir()
    disk = RecordingDisk(root)
    marks: list[int] = []
    log_steps(disk, str(root / "logs" / "a.jsonl"), lambda _number: marks.append(len(disk.ops)))
    rng, count = random.Random(3), 0
    for number, crash in enumerate(disk.history.every_crash(rng, samples=3)):
        crashed = crash.materialise(place / f"crashed{number}")
        acknowledged = sum(1 for mark in marks if mark <= crash.at + 1)
        again = RecordingDisk(crashed)
        log_steps(again, str(crashed / "logs" / "a.jsonl"))
        check_after_crash(crashed / "logs" / "a.jsonl", acknowledged, crash.name)
        for second in again.history.every_crash(rng, samples=1):
            path = second.materialise(place / "twice") / "logs" / "a.jsonl"
            log_steps(Disk(), str(path))
            check_after_crash(path, acknowledged, f"{crash.name}, then {second.name}")
            shutil.rmtree(place / "twice")
            count += 1
    assert count > 150


def check_after_crash(path: Path, acknowledged: int, name: str) -> None:
    """All steps are there once, and the acknowledged ones before anything was cut."""
    assert steps_in(path) == list(range(STEPS)), name
    kept = ["audit.segment_opened", *["act"] * acknowledged]
    assert not acknowledged or actions_in(path)[: len(kept)] == kept, name


def test_a_failed_opening_leaves_the_file_to_others(path: Path) -> None:
    """Where an opening is refused, or its logger is forgotten, the lock is gone."""
    with pytest.raises(SyncFailed):
        AuditLogger(path, disk=FaultyDisk([Fault("fsync")]))
    with pytest.raises(ValueError, match="is called"):
        AuditLogger(path, origin="another")
    forgotten = AuditLogger(path)
    del forgotten
    gc.collect()
    AuditLogger(path).close()
