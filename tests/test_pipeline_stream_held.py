"""Stream mode holds its output against its commits: nobody else's bytes are signed off, cut or overwritten."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from rigs.faulty_disk import Fault, FaultyDisk
from rigs.power_loss import RecordingDisk
from rigs.tmpfs import quick_directory
from test_pipeline_stream import CONTRACT, HEADER, STEPS, Ears, batch, commits, config, follow, records
from tidewaiter import AuditReader
from tidewaiter.core.errors import EXIT_DURABILITY, EXIT_HALTED, EXIT_INTEGRITY, ConfigError
from tidewaiter.shell.audit_logger import AuditLogger
from tidewaiter.shell.pipelines.running import run_pipeline
from tidewaiter.shell.pipelines.stream_commits import refuse_stream_output, stream_output_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEPT = "out.csv.rejected.jsonl"


@pytest.fixture
def place() -> Iterator[Path]:
    """A quick directory with a stream that ran twice, over several commits, and was stopped."""
    with quick_directory() as path:
        (path / "contract.toml").write_text(CONTRACT)
        (path / "steps.toml").write_text(STEPS)
        (path / "in.csv").write_text(HEADER + "".join(records(60)))
        assert follow(path).success
        grow(path, 60)
        assert follow(path).success
        yield path


def grow(place: Path, first: int) -> None:
    """Let the input grow by ten records."""
    with (place / "in.csv").open("a") as file:
        file.writelines(records(10, first=first))


def refused(place: Path, name: str) -> str:
    """Return why a start is refused, having checked that it changes neither the file `name` nor any commit."""
    before, known = (place / name).read_bytes(), commits(place)
    result = follow(place)
    assert (result.success, result.exit_code) == (False, EXIT_INTEGRITY)
    assert ((place / name).read_bytes(), commits(place)) == (before, known)
    last = list(AuditReader(place / "audit.jsonl").read_all())[-1]
    assert (last.action, last.status) == ("run", "failed")
    return result.errors[0]


def flipped(path: Path, at: int) -> None:
    """Change one byte of a file in place."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("name", "member"), [("out.csv", "output"), (KEPT, "kept")])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_an_edited_output_is_not_signed_off(place: Path, name: str, member: str, which: int) -> None:
    """One byte of any commit, the first or the last, in the output or the rejected records: exit 4, with the range."""
    grow(place, 70)
    found = [commit for commit in commits(place) if commit[member]["begin"] < commit[member]["end"]][which]
    extent = found[member]
    flipped(place / name, extent["begin"] + 3)
    said = f"{place / name}: bytes {extent['begin']} to {extent['end']} are not those that were written"
    assert said in refused(place, name)
    assert said in refused(place, name)
    flipped(place / name, extent["begin"] + 3)
    assert follow(place).success
    assert (place / "out.csv").read_bytes() == batch(place)


@pytest.mark.parametrize("name", ["out.csv", KEPT])
def test_what_was_written_behind_the_output_is_not_cut(place: Path, name: str) -> None:
    """A commit comes before its bytes, so what lies behind the last one is somebody's: exit 4, and it stays."""
    grow(place, 70)
    end = (place / name).stat().st_size
    with (place / name).open("a") as file:
        file.write("a note\n")
    assert f"bytes {end} to {end + 7} are not the stream's" in refused(place, name)


@pytest.mark.parametrize("name", ["out.csv", KEPT])
def test_what_was_cut_from_a_finished_output_is_not_made_up(place: Path, name: str) -> None:
    """The last run said that all was there; a file that is shorter by one byte is refused."""
    end = (place / name).stat().st_size
    os.truncate(place / name, end - 1)
    assert f"ends at byte {end - 1}, but bytes up to {end}" in refused(place, name)


@pytest.mark.parametrize("longer", [True, False])
def test_the_result_of_a_batch_is_not_destroyed(place: Path, longer: bool) -> None:
    """A batch run put its output under the name, shorter or longer than the stream's: refused, and the run is named."""
    (place / "other.csv").write_text(HEADER + "".join(records(200 if longer else 5, first=500)))
    # with a log of its own, nobody can know that the file is a stream's
    said = config(place, mode="batch", input_path=place / "other.csv", audit_path=place / "batch.jsonl")
    assert run_pipeline(said).success
    grow(place, 70)
    assert "out.csv: " in refused(place, "out.csv")


def test_a_batch_in_between_leaves_nothing_to_write_again(place: Path) -> None:
    """A run broke off while it wrote, then a batch run wrote the file: that is named, and not overwritten."""
    grow(place, 70)
    disk = FaultyDisk([Fault("pwrite", "out.csv", errno=errno.ENOSPC, short=9, times=1 << 30)])
    assert follow(place, disk).exit_code == EXIT_DURABILITY
    with AuditLogger(str(place / "audit.jsonl")) as logger:
        logger.log_complete("batch-1", "write", "write", resource=str(place / "out.csv"))
    assert "run batch-1 of " in refused(place, "out.csv")


def test_what_was_written_again_is_confirmed_by_that_run(place: Path) -> None:
    """A run broke off, the next one put its last commit right and ended well, with none of its own: no edit passes."""
    grow(place, 70)
    disk = FaultyDisk([Fault("pwrite", "out.csv", errno=errno.ENOSPC, short=9, times=1 << 30)])
    assert follow(place, disk).exit_code == EXIT_DURABILITY
    assert follow(place).input_records == 0
    flipped(place / "out.csv", commits(place)[-1]["output"]["begin"] + 3)
    assert "are not those that were written" in refused(place, "out.csv")


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("name", ["out.csv", KEPT, "audit.jsonl"])
def test_what_a_failed_sync_lost_is_written_again(place: Path, tmp_path: Path, name: str, nth: int) -> None:
    """Its bytes are in memory, and no later sync says that they are nowhere else: a power loss finds all the same."""
    grow(place, 70)
    recorder = RecordingDisk(place, page=64)
    assert follow(place, FaultyDisk([Fault("fdatasync", name, nth)], recorder)).exit_code == EXIT_DURABILITY
    assert follow(place, recorder).success
    crash = recorder.history.crash_states(random.Random(1), len(recorder.ops) - 1, samples=0)[0]
    found = crash.materialise(tmp_path / "crashed")
    for file in ("out.csv", KEPT, "audit.jsonl"):
        assert (found / file).read_bytes() == (place / file).read_bytes(), file


def test_a_run_that_halted_had_written_what_came_before(place: Path) -> None:
    """A bad record ends the run after its last commit was appended: an edit of that one is refused, too."""
    grow(place, 70)
    assert follow(place, on_invalid="halt").exit_code == EXIT_HALTED
    flipped(place / "out.csv", commits(place)[-1]["output"]["begin"] + 3)
    assert "are not those that were written" in refused(place, "out.csv")


def test_what_was_edited_while_it_was_followed_is_not_signed_off(place: Path) -> None:
    """The hash of the end is that of what was committed, not of what lies there, and the next start refuses."""
    whole = batch(place)

    def go_on() -> bool:
        flipped(place / "out.csv", 30)
        return False

    result = follow(place, go_on=go_on)
    assert result.output_hash == hashlib.sha256(whole).hexdigest()
    assert "are not those that were written" in refused(place, "out.csv")


def test_progress_is_shown_while_the_output_is_compared(place: Path) -> None:
    """Both files count, up to their last byte."""
    seen: list[tuple[int, int]] = []

    class Looking(Ears):
        def progressed(self, *, bytes_read: int, bytes_total: int, records: int, rejected: int) -> None:
            seen.append((bytes_read, bytes_total))

    assert follow(place, ears=Looking()).success
    total = sum((place / name).stat().st_size for name in ("out.csv", KEPT))
    assert seen[-1] == (total, total)


def test_a_stream_in_the_audit_log_is_known_by_its_output(place: Path) -> None:
    """Whoever is about to replace a file can ask whether a stream of the same audit log writes it."""
    found = stream_output_of(place / "audit.jsonl", str(place / "out.csv"))
    assert found is not None
    assert found.output.end == (place / "out.csv").stat().st_size
    assert stream_output_of(place / "audit.jsonl", str(place / "other.csv")) is None
    refuse_stream_output(place / "audit.jsonl", str(place / "other.csv"))
    with pytest.raises(ConfigError, match=r"out\.csv: a stream of \S+/in\.csv appends to it"):
        refuse_stream_output(place / "audit.jsonl", str(place / "out.csv"))


@pytest.mark.parametrize("size", [300, 5])
def test_another_input_is_named_as_another(place: Path, size: int) -> None:
    """Both inputs are in the message, which is not about bytes of a file that was not given; nothing is written."""
    (place / "f.csv").write_text(HEADER + "".join(records(size, first=1000)))
    known = commits(place)
    with pytest.raises(ConfigError, match=r"this output was begun from \S+/in\.csv; \S+/f\.csv is another input"):
        follow(place, input_path=place / "f.csv")
    assert commits(place) == known


def test_an_input_of_another_name_is_gone_on_with(place: Path) -> None:
    """The same file, moved: its bytes are those that were read."""
    grow(place, 70)
    (place / "in.csv").rename(place / "moved.csv")
    result = follow(place, input_path=place / "moved.csv")
    assert (result.success, result.input_records) == (True, 10)


@pytest.mark.parametrize("name", ["out.csv", KEPT])
def test_a_file_that_is_gone_is_not_made_anew(place: Path, name: str) -> None:
    """Refused, and no empty file stands in its place, however often it is tried."""
    (place / name).unlink()
    for _ in range(2):
        result = follow(place)
        assert result.exit_code == EXIT_INTEGRITY
        assert f"{place / name}: is missing" in result.errors[0]
        assert not (place / name).exists()


def test_nothing_is_made_beside_an_output_that_is_refused(place: Path) -> None:
    """A file that is there already, under an audit log that does not know it, gets no companion."""
    (place / "theirs.csv").write_text("data")
    with pytest.raises(ConfigError, match="is there already"):
        follow(place, output_path=place / "theirs.csv", audit_path=place / "new.jsonl")
    assert not (place / "theirs.csv.rejected.jsonl").exists()
