"""The stream over real files: what is refused, what halts, and what an operator is told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stream_rig import GRACE, OPENED, Reader, append, compress, lines, member, other_user, rotate
from tidewaiter.core.errors import ConfigError, IntegrityRefusal, SourceHalt
from tidewaiter.core.segment_findings import StreamHalt, StreamRefusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    """Close what a test opened."""
    yield
    while OPENED:
        await OPENED.pop().close()


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """The live file of a rotated stream, in an own directory; it does not exist yet."""
    directory = tmp_path / "stream"
    directory.mkdir()
    return directory / "events.jsonl"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [False, True])
async def test_truncated_below_the_offset_is_refused(live: Path, down: bool) -> None:
    """A file that shrank below what was read is not the same stream."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    os.truncate(live, 1500)
    with pytest.raises(IntegrityRefusal, match="has only 1500 bytes") as refusal:
        await (reader.restart() if down else reader.drain())
    assert isinstance(refusal.value, StreamRefusal)
    assert refusal.value.evidence == {
        "kind": "truncated", "file": "events.jsonl", "offset": len(lines(0, 300)),
        "global_offset": len(lines(0, 300)), "expected_size": len(lines(0, 300)), "found_size": 1500,
    }  # fmt: skip


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("header", [b"", b"#" * 2000 + b"\n"])
async def test_rewritten_in_place_is_refused(live: Path, down: bool, header: bytes) -> None:
    """Other bytes before the offset are refused, while idle and at the start, whatever the first bytes are."""
    append(live, header + lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    changed = header + lines(0, 300, "other")
    live.write_bytes(changed[: len(header + lines(0, 300))])
    os.utime(live, ns=(1, 1))
    with pytest.raises(IntegrityRefusal, match="rewritten") as refusal:
        await (reader.restart() if down else reader.drain())
    assert isinstance(refusal.value, StreamRefusal)
    assert refusal.value.evidence["expected_sha256"] != refusal.value.evidence["found_sha256"]


async def test_copytruncate_that_grew_past_the_offset_is_refused(live: Path) -> None:
    """A truncated file that is longer again than what was read is found by the bytes before the offset."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    live.write_bytes(lines(1000, 2000))
    with pytest.raises(IntegrityRefusal, match="rewritten"):
        await reader.drain()
    assert reader.data == lines(0, 300)


async def test_copytruncate_with_a_writer_at_its_old_place_is_refused(live: Path) -> None:
    """A writer without O_APPEND leaves zeros where the old bytes were."""
    with live.open("wb") as writer:
        writer.write(lines(0, 300))
        writer.flush()
        reader = await Reader(live).start()
        await reader.drain()
        os.truncate(live, 0)
        writer.write(lines(300, 400))
    with pytest.raises(IntegrityRefusal, match="rewritten"):
        await reader.drain()


async def test_copytruncate_while_down_is_refused(live: Path) -> None:
    """The content is in a copy and the file itself starts anew: bytes may have been lost between the two."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    member(live, ".1").write_bytes(live.read_bytes())
    live.write_bytes(lines(300, 310))
    with pytest.raises(StreamRefusal, match="copytruncate") as refusal:
        await reader.restart()
    assert refusal.value.evidence["copy"] == "events.jsonl.1"


async def test_copytruncate_while_running_is_refused_and_its_copy_is_no_segment(live: Path) -> None:
    """The copy appears first and is known as one, half done too; then the truncation is found."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    for part in (2000, len(lines(0, 300))):
        member(live, ".1").write_bytes(lines(0, 300)[:part])
        assert (await reader.drain()).caught_up
    assert reader.notices == ["copy"]
    live.write_bytes(lines(300, 310))
    with pytest.raises(IntegrityRefusal, match="truncated"):
        await reader.drain()


# -- gaps --------------------------------------------------------------------------------------------------------------


async def test_segment_deleted_while_down_is_a_gap(live: Path) -> None:
    """The file of the position is gone: halt, name it, and say what is there."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(300, 310))
    member(live, ".1").unlink()
    with pytest.raises(SourceHalt, match=r"events.jsonl: .* is gone; the stream now has events.jsonl") as halt:
        await reader.restart()
    assert isinstance(halt.value, StreamHalt)
    assert halt.value.kind == "gap"
    assert halt.value.evidence["offset"] == len(lines(0, 300))
    assert halt.value.evidence["exists"] == "events.jsonl"
    assert halt.value.accepted[0].length == len(lines(0, 300))


async def test_accepted_gap_goes_on_with_the_oldest_unread_segment(live: Path) -> None:
    """After the operator's decision reading goes on at the beginning of what is there, at the next global offset."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(300, 310))
    member(live, ".1").unlink()
    with pytest.raises(StreamHalt) as halt:
        await reader.restart()
    reader.closed.extend(halt.value.accepted)
    reader.cursor = None
    await reader.restart(accept_gap=halt.value.evidence)
    await reader.settle()
    assert reader.data == lines(0, 310)
    assert reader.stream.cursor().start == len(lines(0, 300))


async def test_deleted_after_it_was_closed_is_no_gap(live: Path) -> None:
    """Closed segments may go."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(300, 310))
    await reader.settle()
    member(live, ".1").unlink()
    await reader.restart()
    rotate(live)
    append(live, lines(310, 320))
    await reader.settle()
    assert reader.data == lines(0, 320)


async def test_hole_in_the_numbers_is_a_gap_once_the_rotation_is_over(live: Path) -> None:
    """A missing number is waited for as long as a rotation may take; then it halts, behind the segment before it."""
    member(live, ".4").write_bytes(lines(0, 2))
    member(live, ".1").write_bytes(lines(6, 8))
    append(live, lines(8, 10))
    reader = await Reader(live, wall_ahead=60).start()
    idle = await reader.drain()
    assert idle.waiting_for == "events.jsonl.3"
    assert len(reader.ends) == 1
    reader.clock.pass_by(GRACE)
    with pytest.raises(StreamHalt, match=r"events.jsonl.3, events.jsonl.2: not there and never read") as halt:
        await reader.drain()
    assert halt.value.evidence["missing"] == 2
    await reader.restart(accept_gap=halt.value.evidence)
    await reader.settle()
    assert reader.data == lines(0, 2) + lines(6, 10)


async def test_accepted_gap_covers_no_other_gap(live: Path) -> None:
    """A decision holds for the hole it was made on, also when a rotation renames all; not for a larger one."""
    member(live, ".5").write_bytes(lines(0, 2))
    for number in (3, 2, 1):
        member(live, f".{number}").write_bytes(lines(8 - 2 * number, 10 - 2 * number))
    append(live, lines(8, 10))
    reader = await Reader(live).start()
    with pytest.raises(StreamHalt, match=r"events.jsonl.4: not there") as halt:
        await reader.drain(final=True)
    accepted = halt.value.evidence
    for number in (5, 3, 2, 1):
        member(live, f".{number}").rename(member(live, f".{number + 10}"))
    for number in (15, 13, 12, 11):
        member(live, f".{number}").rename(member(live, f".{number - 9}"))
    live.rename(member(live, ".1"))
    append(live, lines(10, 12))
    member(live, ".4").rename(aside := live.with_name("aside"))
    await reader.restart(accept_gap=accepted)
    with pytest.raises(StreamHalt, match=r"events.jsonl.5, events.jsonl.4: not there"):
        await reader.drain(final=True)
    aside.rename(member(live, ".4"))
    await reader.restart(accept_gap=accepted)
    await reader.drain(final=True)
    assert reader.data == lines(0, 12)


async def test_hole_that_closes_is_no_gap(live: Path) -> None:
    """While a rotation renames, a number is missing for a moment."""
    member(live, ".2").write_bytes(lines(0, 2))
    append(live, lines(2, 4))
    reader = await Reader(live, wall_ahead=60).start()
    idle = await reader.drain()
    assert idle.waiting_for == "events.jsonl.1"
    live.rename(member(live, ".1"))
    append(live, lines(4, 6))
    await reader.settle()
    assert reader.data == lines(0, 6)


async def test_hole_is_a_gap_at_once_in_batch_mode(live: Path) -> None:
    """Nothing is waited for where nothing is expected to come."""
    member(live, ".3").write_bytes(lines(0, 2))
    append(live, lines(2, 4))
    reader = await Reader(live).start()
    with pytest.raises(StreamHalt, match=r"events.jsonl.2, events.jsonl.1"):
        await reader.drain(final=True)


async def test_unread_segment_that_vanishes_while_running_is_a_gap(live: Path) -> None:
    """A successor that was seen with bytes in it and is gone is missed, after the segment before it ended."""
    append(live, lines(0, 2))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(2, 4))
    await reader.drain()
    rotate(live)
    append(live, lines(4, 6))
    await reader.drain()
    member(live, ".1").unlink()
    reader.clock.pass_by(GRACE)
    assert (await reader.drain()).waiting_for == "events.jsonl.1"
    reader.clock.pass_by(GRACE)
    with pytest.raises(StreamHalt, match=r"events.jsonl.1: not there and never read") as halt:
        await reader.drain()
    assert halt.value.kind == "gap"
    assert len(reader.ends) == 1


async def test_unread_segment_that_is_compressed_while_running_is_no_gap(live: Path) -> None:
    """An unread segment that comes back under another inode is still the same."""
    append(live, lines(0, 2))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(2, 400))
    rotate(live)
    append(live, lines(400, 406))
    await reader.drain()
    compress(member(live, ".1"))
    await reader.settle()
    assert reader.data == lines(0, 406)


async def test_empty_position_whose_file_is_gone_is_a_gap(live: Path) -> None:
    """A file known by its inode alone may have got bytes before it went."""
    append(live, b"")
    reader = await Reader(live).start()
    await reader.drain()
    reader.cursor = reader.stream.cursor()
    append(live, b"")
    keep = live.open("rb")
    live.unlink()
    append(live, lines(0, 2))
    with keep, pytest.raises(StreamHalt, match="is gone"):
        await reader.restart()


# -- late bytes and segments out of order ------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
async def test_bytes_in_a_closed_segment_halt(live: Path, down: bool, compressed: bool) -> None:
    """A closed segment never grows: halt, with both lengths."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    rotate(live)
    append(live, lines(300, 310))
    await reader.settle()
    append(member(live, ".1"), lines(800, 801))
    if compressed:
        compress(member(live, ".1"))
    with pytest.raises(StreamHalt, match="was closed with") as halt:
        await (reader.restart() if down else reader.drain())
    assert halt.value.kind == "late_bytes"
    assert halt.value.evidence["offset"] == len(lines(0, 300))
    assert halt.value.evidence["found_size"] == len(lines(0, 300)) + len(lines(800, 801))
    reader.closed = list(halt.value.accepted)
    await reader.restart()
    assert (await reader.settle()).caught_up
    assert reader.data == lines(0, 310)


async def test_late_bytes_are_found_without_a_change_of_names(live: Path) -> None:
    """A quiet directory is not listed, but its closed segments are looked at in turn."""
    for number in range(20, 0, -1):
        member(live, f".{number}").write_bytes(lines(100 * number, 100 * number + 3))
    append(live, lines(0, 2))
    reader = await Reader(live, wall_ahead=60).start()
    await reader.drain()
    assert len(reader.ends) == 20
    append(member(live, ".13"), b"late")
    with pytest.raises(StreamHalt, match=r"events.jsonl.13: the segment was closed"):
        await reader.idle_about(times=4)


@pytest.mark.parametrize("down", [False, True])
async def test_new_segment_before_the_current_one_halts(live: Path, down: bool) -> None:
    """A file that sorts before what is being read and was never read is not passed over."""
    member(live, "-20240102").write_bytes(lines(0, 2))
    append(live, lines(2, 4))
    reader = await Reader(live).start()
    await reader.settle()
    member(live, "-20240101").write_bytes(lines(900, 902))
    with pytest.raises(StreamHalt, match=r"events.jsonl-20240101: .* sorts before events.jsonl") as halt:
        await (reader.restart() if down else reader.drain())
    assert halt.value.kind == "segment_before"
    reader.closed.extend(halt.value.accepted)
    await reader.restart()
    assert (await reader.settle()).caught_up
    assert reader.data == lines(0, 4)


async def test_new_segment_that_begins_like_a_closed_one_is_read(live: Path) -> None:
    """The same first lines do not make an old segment of a new one, nor do the inodes of deleted ones."""
    append(live, lines(0, 1))
    reader = await Reader(live).start()
    for round_ in range(3):
        await reader.drain()
        rotate(live)
        append(live, lines(0, 1))
        await reader.settle()
        for old in live.parent.glob("events.jsonl.*"):
            old.unlink()
        append(live, lines(round_, round_ + 1, "more"))
        await reader.settle()
    assert reader.segments == [lines(0, 1)] + [lines(0, 1) + lines(n, n + 1, "more") for n in range(3)]


# -- errors of the operator --------------------------------------------------------------------------------------------


async def test_unreadable_stream_is_one_line_at_the_start(live: Path) -> None:
    """Permission denied: exit 2, what and what to do."""
    append(live, lines(0, 2))
    live.chmod(0)
    with other_user(live.parent), pytest.raises(ConfigError, match="cannot be read: Permission denied") as error:
        await Reader(live).start()
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    live.chmod(0o644)
    live.parent.chmod(0o600)
    with other_user(live.parent, 0o600), pytest.raises(ConfigError, match="Permission denied"):
        await Reader(live).start()


async def test_something_that_is_no_file_is_an_error(live: Path) -> None:
    """A pipe cannot be read again after a restart."""
    os.mkfifo(live)
    with pytest.raises(ConfigError, match="is not a regular file"):
        await Reader(live).start()


async def test_file_where_a_directory_was_named_is_an_error(live: Path) -> None:
    """A slash at the end of a file's name."""
    append(live, b"")
    with pytest.raises(ConfigError, match="is no directory"):
        await Reader(live, directory=True).start()


async def test_numbered_and_dated_files_together_are_an_error(live: Path) -> None:
    """Their order would be a guess."""
    member(live, ".1").write_bytes(lines(0, 1))
    member(live, "-20240101").write_bytes(lines(0, 1))
    with pytest.raises(ConfigError, match="have no order"):
        await Reader(live).start()


async def test_segment_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """A name that no record can say is a configuration error which shows the name escaped."""
    (tmp_path / os.fsdecode(b"seg\xff.jsonl")).write_bytes(lines(0, 2))
    with pytest.raises(ConfigError, match=r"seg\\xff\.jsonl: the name of this segment is not valid UTF-8"):
        await Reader(tmp_path).start()


async def test_segment_left_out_before_the_first_commit_has_no_place_in_the_stream(tmp_path: Path) -> None:
    """What was never read does not move the beginning of what is; when it grows it is asked about again."""
    (tmp_path / "b.jsonl").write_bytes(lines(0, 2))
    reader = await Reader(tmp_path).start()
    await reader.drain()
    (tmp_path / "a.jsonl").write_bytes(lines(7, 9))
    with pytest.raises(StreamHalt) as halt:
        await reader.settle()
    reader.closed.extend(halt.value.accepted)
    reader.cursor = None
    await reader.stream.close()
    reader.stream = reader.new_stream()
    await reader.stream.start(None, reader.closed, None)
    await reader.stream.read()
    assert (reader.stream.cursor().name, reader.stream.cursor().start) == ("b.jsonl", 0)
    append(tmp_path / "a.jsonl", lines(9, 10))
    await reader.stream.close()
    reader.stream = reader.new_stream()
    with pytest.raises(StreamHalt, match="was closed with"):
        await reader.stream.start(None, reader.closed, None)


async def test_empty_segment_with_late_bytes_is_not_taken_for_its_successor(live: Path) -> None:
    """Both begin at the same global offset, and may even end at the same one: content tells them apart."""
    append(live, b"")
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(0, 2))
    await reader.settle()
    append(member(live, ".1"), lines(2, 4))
    with pytest.raises(StreamHalt, match="was closed with 0 bytes") as halt:
        await reader.restart()
    assert halt.value.evidence["closed_index"] == 0
    reader.closed[0] = halt.value.accepted[0]
    await reader.restart()
    await reader.drain()
    position = reader.stream.cursor().position
    assert (position.start, position.offset) == (0, len(lines(0, 2)))
    end = len(lines(0, 2))
    assert await reader.stream.read_range(position, 0, end) == lines(0, 2)
    assert await reader.stream.read_range(reader.closed[0], 0, end) == lines(2, 4)
    append(live, lines(4, 6))
    await reader.settle()
    assert reader.data == lines(0, 2) + lines(4, 6)
