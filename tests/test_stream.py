"""The stream over real files: every way a file can grow, be rotated, renamed or compressed without losing a byte."""

from __future__ import annotations

import gzip
import os
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import zstandard

from stream_rig import GRACE, OPENED, Reader, append, compress, lines, member, rotate, swap
from tidewaiter.core.segment_findings import StreamHalt, StreamRefusal
from tidewaiter.edges import segment_files
from tidewaiter.edges.stream import Data, Idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
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


# -- growing -----------------------------------------------------------------------------------------------------------


async def test_appended_bytes_are_delivered_in_order(live: Path) -> None:
    """What is appended between two reads comes next, and nothing comes twice."""
    append(live, lines(0, 3))
    reader = await Reader(live).start()
    await reader.drain()
    append(live, lines(3, 7))
    idle = await reader.drain()
    assert reader.data == lines(0, 7)
    assert idle == Idle(caught_up=True, lag_bytes=0, successor=False)


async def test_partial_last_line_continues_across_a_restart(live: Path) -> None:
    """Bytes are bytes: half a line is delivered, and its other half after the restart."""
    append(live, lines(0, 3) + b'{"half": ')
    reader = await Reader(live).start()
    await reader.drain()
    append(live, b"1}\n")
    await reader.restart()
    await reader.drain()
    assert reader.data == lines(0, 3) + b'{"half": 1}\n'


async def test_large_file_comes_in_bounded_blocks(live: Path) -> None:
    """No read returns more than was asked for."""
    append(live, lines(0, 5000))
    reader = await Reader(live, read_bytes=1000).start()
    first = await reader.step()
    assert isinstance(first, Data)
    assert len(first.data) == 1000
    assert reader.stream.lag_bytes == len(lines(0, 5000)) - 1000
    await reader.drain()
    assert reader.data == lines(0, 5000)


async def test_file_that_appears_late_is_waited_for(live: Path) -> None:
    """A stream may be watched before its writer starts."""
    reader = await Reader(live).start()
    assert await reader.drain() == Idle(caught_up=True, lag_bytes=0, successor=False)
    assert not reader.stream.is_open
    append(live, lines(0, 2))
    await reader.drain()
    assert reader.data == lines(0, 2)


async def test_missing_directory_is_waited_for(tmp_path: Path) -> None:
    """A directory that is created or mounted later is no error."""
    path = tmp_path / "later" / "events.jsonl"
    reader = Reader(path)
    await reader.start()
    assert (await reader.drain()).caught_up
    path.parent.mkdir()
    append(path, lines(0, 2))
    await reader.drain()
    assert reader.data == lines(0, 2)


async def test_restart_waits_for_the_directory_of_a_known_position(live: Path) -> None:
    """A file system that is mounted late is not a gap."""
    append(live, lines(0, 2))
    reader = await Reader(live).start()
    await reader.drain()
    away = live.parent.with_name("away")
    live.parent.rename(away)
    await reader.restart()
    idle = await reader.drain()
    assert not idle.caught_up
    assert idle.waiting_for == "events.jsonl"
    away.rename(live.parent)
    append(live, lines(2, 4))
    await reader.drain()
    assert reader.data == lines(0, 4)


async def test_at_the_end_the_directory_is_left_alone_until_it_is_time(live: Path) -> None:
    """A hot reader at the end of the file pays for one fstat, not for a listing."""
    append(live, lines(0, 2))
    reader = await Reader(live).start()
    await reader.drain()
    looks = 0
    look = reader.stream._survey.look

    async def counted() -> Any:
        nonlocal looks
        looks += 1
        return await look()

    reader.stream._survey.look = counted  # type: ignore[method-assign]
    for _ in range(100):
        await reader.step()
    assert looks == 0
    reader.clock.pass_by(0.06)
    await reader.step()
    assert looks == 1


async def test_quiet_directory_is_not_listed_again(live: Path) -> None:
    """While no name in the directory changes, an idle look costs a few stats; every ten seconds it is listed anyway."""
    append(live, lines(0, 2))
    reader = await Reader(live, wall_ahead=60).start()
    await reader.drain()
    listings = 0
    listed = segment_files.list_files

    def counted(*arguments: Any) -> Any:
        nonlocal listings
        listings += 1
        return listed(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_files, "list_files", counted)
        for _ in range(50):
            reader.clock.pass_by(0.1)
            await reader.step()
        assert listings == 0
        append(member(live, ".1"), b"")
        reader.clock.pass_by(0.1)
        await reader.step()
        assert listings == 1
        reader.clock.pass_by(11)
        await reader.step()
        assert listings == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda live: append(live, b"x"),
        lambda live: append(member(live, ".1"), lines(2, 3)),
        lambda live: live.rename(member(live, ".1")),
        lambda live: live.unlink(),
        lambda live: os.truncate(live, 3),
        lambda live: live.write_bytes(lines(4, 6)),
        lambda live: live.parent.rename(live.parent.with_name("moved")),
    ],
    ids=["append", "older file", "rename", "delete", "truncate", "rewrite", "move directory"],
)
async def test_look_without_reading_finds_every_change(live: Path, change: Callable[[Path], object]) -> None:
    """A stream that stands still is known to; whatever happens to its files calls for a read."""
    append(live, lines(0, 2))
    reader = await Reader(live, wall_ahead=60).start()
    assert not reader.stream.unchanged()
    await reader.drain()
    assert reader.stream.unchanged()
    assert reader.stream.unchanged()
    change(live)
    assert not reader.stream.unchanged()


async def test_closed_segment_that_grew_is_not_passed_over(live: Path) -> None:
    """What a look has found the read behind it finds as well, however many closed segments there are."""
    for number in range(12):
        append(live, lines(number, number + 1))
        rotate(live)
    append(live, lines(12, 13))
    reader = await Reader(live, wall_ahead=60).start()
    await reader.settle()
    assert len(reader.closed) == 12
    append(member(live, ".5"), b"late\n")
    for _ in range(12):
        if not reader.stream.unchanged():
            break
    with pytest.raises(StreamHalt, match="was closed with"):
        await reader.stream.read(rescan=True)


async def test_look_without_reading_is_not_believed_for_ever(live: Path) -> None:
    """Every ten seconds the directory is to be listed, whatever its times say."""
    append(live, lines(0, 2))
    reader = await Reader(live, wall_ahead=60).start()
    await reader.drain()
    reader.clock.pass_by(9)
    assert reader.stream.unchanged()
    reader.clock.pass_by(2)
    assert not reader.stream.unchanged()
    await reader.drain()
    assert reader.stream.unchanged()


async def test_cancelled_read_loses_nothing(live: Path) -> None:
    """A read that is cancelled while its thread reads delivers the same bytes next time."""
    append(live, lines(0, 2000))
    reader = await Reader(live, read_bytes=512).start()
    for _ in range(20):
        await reader.cancel_a_read()
    await reader.drain()
    assert reader.data == lines(0, 2000)


async def test_cancelled_read_of_a_compressed_segment_loses_nothing(live: Path) -> None:
    """Decompression that went on in its thread is taken by the next read."""
    member(live, ".1.gz").write_bytes(gzip.compress(lines(0, 2000)))
    reader = await Reader(live, read_bytes=512).start()
    await reader.step(rescan=True)
    for _ in range(20):
        await reader.cancel_a_read()
    await reader.drain()
    assert reader.data == lines(0, 2000)


# -- first start and order ---------------------------------------------------------------------------------------------


async def test_first_start_begins_with_the_oldest_segment(live: Path) -> None:
    """Numbered, plain and compressed, then the live file."""
    member(live, ".10").write_bytes(lines(0, 2))
    for number in range(4, 10):
        member(live, f".{number}").write_bytes(lines(100 - number, 101 - number))
    member(live, ".3.gz").write_bytes(gzip.compress(lines(4, 6)))
    member(live, ".2.zst").write_bytes(zstandard.compress(lines(6, 8)))
    member(live, ".1").write_bytes(lines(8, 10))
    append(live, lines(10, 12))
    reader = await Reader(live).start()
    idle = await reader.settle()
    middle = b"".join(lines(100 - number, 101 - number) for number in range(9, 3, -1))
    assert reader.data == lines(0, 2) + middle + lines(4, 12)
    assert idle.caught_up
    assert [end.closed.start for end in reader.ends] == [
        sum(map(len, reader.segments[:at])) for at in range(len(reader.ends))
    ]


async def test_dated_segments_are_read_in_the_order_of_their_dates(live: Path) -> None:
    """Dates sort before the live file, the oldest first."""
    member(live, "-20240102.gz").write_bytes(gzip.compress(lines(2, 4)))
    member(live, "-20240101").write_bytes(lines(0, 2))
    append(live, lines(4, 6))
    reader = await Reader(live).start()
    await reader.settle()
    assert reader.data == lines(0, 6)


async def test_directory_is_read_in_name_order(tmp_path: Path) -> None:
    """Segments of a directory; temporary and hidden files are none."""
    for name, data in {
        "b.json": lines(2, 4), "a.jsonl": lines(0, 2), "c.ndjson.tmp": b"x", ".d.jsonl": b"x", "e.jsonl.part": b"x",
        "notes.txt": b"x",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    (tmp_path / "c.ndjson.gz").write_bytes(gzip.compress(lines(4, 6)))
    (tmp_path / "d.jsonl").mkdir()
    reader = Reader(tmp_path)
    await reader.start()
    await reader.settle()
    assert reader.data == lines(0, 6)
    (tmp_path / "f.jsonl").write_bytes(lines(6, 8))
    await reader.settle()
    assert reader.data == lines(0, 8)
    assert len(reader.ends) == 3


async def test_directory_that_does_not_exist_yet_is_waited_for_when_named_as_one(tmp_path: Path) -> None:
    """A path with a slash at its end is a directory before it exists."""
    path = tmp_path / "segments"
    reader = Reader(path, directory=True)
    await reader.start()
    assert (await reader.drain()).caught_up
    path.mkdir()
    (path / "a.jsonl").write_bytes(lines(0, 2))
    await reader.drain()
    assert reader.data == lines(0, 2)


async def test_plain_wins_over_compressed(live: Path) -> None:
    """While gzip works, both exist: the plain one is read, once."""
    member(live, ".1").write_bytes(lines(0, 2))
    member(live, ".1.gz").write_bytes(gzip.compress(lines(0, 2))[:10])
    append(live, lines(2, 4))
    reader = await Reader(live).start()
    await reader.settle()
    assert reader.data == lines(0, 4)


@pytest.mark.parametrize("encoding", ["gz", "zst"])
async def test_incomplete_compressed_segment_is_waited_for(live: Path, encoding: str) -> None:
    """A file that is still being copied is not read, however long it takes."""
    whole = gzip.compress(lines(0, 500)) if encoding == "gz" else zstandard.compress(lines(0, 500))
    copy = member(live, f".1.{encoding}")
    reader = await Reader(live).start()
    append(live, lines(500, 502))
    for cut in (0, 3, 20, len(whole) - 1):
        copy.write_bytes(whole[:cut])
        if cut == 0:
            await reader.restart()
        reader.clock.pass_by(60)
        idle = await reader.drain()
        assert not idle.caught_up
        assert idle.waiting_for == copy.name
        assert reader.data == b""
    copy.write_bytes(whole)
    reader.clock.pass_by(60)
    await reader.settle()
    assert reader.data == lines(0, 502)


async def test_compressed_members_and_frames_are_one_content(live: Path) -> None:
    """Several gzip members, zero padding, several frames and a skippable one."""
    member(live, ".2.gz").write_bytes(gzip.compress(lines(0, 2)) + gzip.compress(lines(2, 4)) + bytes(20))
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    member(live, ".1.zst").write_bytes(
        zstandard.compress(lines(4, 6)) + skippable + zstandard.compress(lines(6, 8)) + skippable
    )
    append(live, lines(8, 10))
    reader = await Reader(live).start()
    await reader.settle()
    assert reader.data == lines(0, 10)


@pytest.mark.parametrize("encoding", ["gz", "zst"])
async def test_compression_bomb_comes_in_bounded_blocks(live: Path, encoding: str) -> None:
    """What a small file claims to hold does not decide how much memory it gets."""
    bomb = gzip.compress(bytes(8 << 20)) if encoding == "gz" else zstandard.compress(bytes(8 << 20))
    member(live, f".1.{encoding}").write_bytes(bomb)
    reader = Reader(live, read_bytes=4096)
    await reader.stream.start(None, [])
    sizes: list[int] = []
    while isinstance(result := await reader.stream.read(), Data) and len(sizes) < 100:
        sizes.append(len(result.data))
    assert len(sizes) == 100
    assert max(sizes) <= 4096


@pytest.mark.parametrize("encoding", ["gz", "zst"])
async def test_damaged_compressed_segment_is_refused(live: Path, encoding: str) -> None:
    """A flipped bit is not a file that will become whole."""
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    whole = gzip.compress(os.urandom(3000)) if encoding == "gz" else compressor.compress(os.urandom(3000))
    member(live, f".1.{encoding}").write_bytes(whole[:1500] + bytes([whole[1500] ^ 255]) + whole[1501:])
    reader = await Reader(live, wall_ahead=60).start()
    with pytest.raises(StreamRefusal, match="cannot be decompressed") as refusal:
        await reader.drain()
    assert refusal.value.kind == "corrupt"
    assert refusal.value.evidence["file"] == f"events.jsonl.1.{encoding}"


# -- rotation while running --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_rotation_while_running(live: Path, times: int) -> None:
    """Rename and create, once and several times between two reads: nothing lost, nothing twice."""
    append(live, lines(0, 3))
    reader = await Reader(live).start()
    await reader.drain()
    for number in range(times):
        append(live, lines(3 + 10 * number, 10 + 10 * number))
        rotate(live)
        append(live, lines(10 + 10 * number, 13 + 10 * number))
    idle = await reader.settle()
    assert reader.data == lines(0, 3 + 10 * times)
    assert len(reader.ends) == times
    assert idle.caught_up
    assert reader.notices.count("renamed") == 1


@pytest.mark.parametrize("times", [1, 3])
async def test_rotation_while_down(live: Path, times: int) -> None:
    """The position's file is found under its new name, and what follows it in order."""
    append(live, lines(0, 3))
    reader = await Reader(live).start()
    await reader.drain()
    for number in range(times):
        append(live, lines(3 + 10 * number, 10 + 10 * number))
        rotate(live)
        append(live, lines(10 + 10 * number, 13 + 10 * number))
    await reader.restart()
    idle = await reader.settle()
    assert reader.data == lines(0, 3 + 10 * times)
    assert len(reader.ends) == times
    assert idle.caught_up


async def test_writer_that_keeps_the_rotated_file_restarts_the_grace(live: Path) -> None:
    """The renamed file ends only after a whole grace without growth."""
    append(live, lines(0, 2))
    reader = await Reader(live).start()
    await reader.drain()
    with live.open("ab") as writer:
        rotate(live)
        append(live, lines(100, 102))
        for number in range(2, 5):
            idle = await reader.drain()
            assert idle.successor
            assert not idle.caught_up
            reader.clock.pass_by(GRACE - 0.1)
            writer.write(lines(number, number + 1))
            writer.flush()
        await reader.drain()
        reader.clock.pass_by(GRACE - 0.1)
        assert isinstance(await reader.step(rescan=True), Idle)
        assert not reader.ends
        reader.clock.pass_by(0.1)
    await reader.drain()
    assert reader.segments == [lines(0, 5), lines(100, 102)]
    assert reader.ends[0].length == len(lines(0, 5))


async def test_grace_begins_when_the_successor_appears(live: Path) -> None:
    """A long quiet segment does not end in the moment of its rotation: its writer may not know yet."""
    append(live, lines(0, 2))
    reader = await Reader(live).start()
    await reader.drain()
    reader.clock.pass_by(3600)
    rotate(live)
    append(live, b"")
    assert (await reader.drain()).successor
    assert not reader.ends
    reader.clock.pass_by(GRACE)
    await reader.drain()
    assert len(reader.ends) == 1


async def test_old_rotated_files_need_no_grace(live: Path) -> None:
    """A catch-up over old segments does not wait for each."""
    for number in (3, 2, 1):
        member(live, f".{number}").write_bytes(lines(10 - number, 11 - number))
    append(live, lines(10, 11))
    reader = await Reader(live, wall_ahead=60).start()
    await reader.drain()
    assert len(reader.ends) == 3
    assert reader.data == lines(7, 11)


async def test_final_read_ends_each_segment_at_once(live: Path) -> None:
    """Batch mode knows no grace; the end of the last segment is the end."""
    member(live, ".1").write_bytes(lines(0, 2))
    append(live, lines(2, 4))
    reader = await Reader(live).start()
    idle = await reader.drain(final=True)
    assert idle == Idle(caught_up=True, lag_bytes=0, successor=False)
    assert reader.data == lines(0, 4)
    assert len(reader.ends) == 1


async def test_empty_new_file_is_a_successor_and_known_by_its_inode(live: Path) -> None:
    """A created file without bytes ends the old segment; rotated before its first byte, it is still itself."""
    append(live, lines(0, 2))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, b"")
    await reader.settle()
    assert len(reader.ends) == 1
    rotate(live)
    append(member(live, ".1"), lines(2, 4))
    append(live, lines(4, 6))
    await reader.settle()
    assert reader.data == lines(0, 6)
    assert [end.length for end in reader.ends] == [len(lines(0, 2)), len(lines(2, 4))]


async def test_empty_segment_ends_with_nothing(live: Path) -> None:
    """A rotated file without a byte is a segment of length 0."""
    member(live, ".2").write_bytes(lines(0, 2))
    member(live, ".1").write_bytes(b"")
    append(live, lines(2, 4))
    reader = await Reader(live).start()
    await reader.settle()
    assert reader.data == lines(0, 4)
    assert [end.length for end in reader.ends] == [len(lines(0, 2)), 0]
    await reader.restart()
    assert (await reader.settle()).caught_up
    assert reader.data == lines(0, 4)


async def test_file_deleted_while_reading_is_read_to_its_end(live: Path) -> None:
    """The open file outlives its name; a successor ends it."""
    append(live, lines(0, 1000))
    reader = await Reader(live, read_bytes=100).start()
    await reader.step()
    live.unlink()
    await reader.settle()
    assert reader.data == lines(0, 1000)
    assert not reader.ends
    assert "deleted" in reader.notices
    append(live, lines(1000, 1002))
    await reader.settle()
    assert reader.data == lines(0, 1002)
    assert reader.ends[0].length == len(lines(0, 1000))


async def test_symlink_swap_while_running_and_while_down(live: Path) -> None:
    """The name moves on to another file; the old one is read to its end first, though no name of the stream is left."""
    first, second, third = (live.parent / f"part-{number}" for number in range(3))
    append(first, lines(0, 2))
    live.symlink_to(first.name)
    reader = await Reader(live).start()
    await reader.drain()
    append(first, lines(2, 4))
    append(second, lines(4, 6))
    swap(live, second)
    await reader.settle()
    assert reader.data == lines(0, 6)
    append(second, lines(6, 8))
    append(third, lines(8, 10))
    swap(live, third)
    await reader.restart()
    await reader.settle()
    assert reader.data == lines(0, 10)
    assert len(reader.ends) == 2


async def test_compressed_while_being_read_is_not_read_twice(live: Path) -> None:
    """The open file and its compressed form are one segment, and so is the closed one."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(300, 302))
    await reader.drain()
    compress(member(live, ".1"))
    await reader.settle()
    assert reader.data == lines(0, 302)
    assert len(reader.ends) == 1
    rotate(live)
    append(live, lines(302, 304))
    await reader.settle()
    compress(member(live, ".1"))
    await reader.settle()
    await reader.restart()
    assert (await reader.settle()).caught_up
    assert reader.data == lines(0, 304)


async def test_file_replaced_by_a_longer_copy_is_read_on(live: Path) -> None:
    """A synchronised copy gets a new inode with each transfer; its content says that it is the same segment."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    copy = live.with_name("copy")
    copy.write_bytes(lines(0, 400))
    copy.rename(live)
    await reader.drain()
    assert reader.data == lines(0, 400)
    assert reader.notices == ["identity_changed"]
    assert reader.stream.hints()[2] == live.stat().st_ino


async def test_file_that_is_being_compressed_away_is_not_ended_before_that_is_done(live: Path) -> None:
    """The name is gone and something unfinished is there: it may be ours, and longer than what we hold open."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(310, 320))
    whole = gzip.compress(lines(0, 310))
    member(live, ".1").unlink()
    for cut in (5, len(whole) - 4):
        member(live, ".1.gz").write_bytes(whole[:cut])
        idle = await reader.settle()
        assert idle.waiting_for == "events.jsonl.1.gz"
        assert not reader.ends
    member(live, ".1.gz").write_bytes(whole)
    await reader.settle()
    assert reader.segments == [lines(0, 310), lines(310, 320)]


async def test_listing_that_missed_a_renamed_file_is_not_believed(live: Path) -> None:
    """Listing and renaming at once can miss a file: nothing is refused before the same is seen twice."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(300, 310))
    true_listing = segment_files.list_files
    listings = 0

    def misses_some(*arguments: Any) -> Any:
        nonlocal listings
        listings += 1
        found = true_listing(*arguments)
        hidden = {1: "events.jsonl.1", 2: "events.jsonl"}.get(listings)
        return msgspec.structs.replace(found, files=tuple(file for file in found.files if file.name != hidden))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_files, "list_files", misses_some)
        patch.setattr(segment_files, "find_by_key", lambda *_: None)
        await reader.restart()
        await reader.settle()
    assert reader.data == lines(0, 310)


async def test_position_that_looks_like_the_end_of_a_closed_segment_is_not_taken_for_it(live: Path) -> None:
    """Two segments begin with the same line, one is closed after it: the other one is ours, also under a new inode."""
    header = lines(0, 1, "header")
    append(live, header)
    reader = await Reader(live).start()
    rotate(live)
    append(live, header)
    await reader.settle()
    append(live, lines(0, 5))
    compress(live).rename(member(live, ".0.gz"))
    await reader.restart()
    await reader.settle()
    assert reader.segments == [header, header + lines(0, 5)]


async def test_new_segment_like_a_deleted_one_is_read_after_a_restart(live: Path) -> None:
    """What stands after the newest closed segment is new, though its content was all there before."""
    append(live, lines(0, 1))
    reader = await Reader(live).start()
    for text in ("second", "third"):
        rotate(live)
        append(live, lines(0, 9, text))
        await reader.settle()
    rotate(live)
    append(live, b"")
    await reader.settle()
    member(live, ".3").unlink()
    append(live, lines(0, 1))
    reader.cursor = None
    await reader.restart()
    await reader.settle()
    assert reader.segments[-1] == lines(0, 1)


async def test_renaming_without_end_is_waited_out(live: Path) -> None:
    """While names do not come to rest nothing is decided, at the start as well; then all is as it was."""
    append(live, lines(0, 3))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(3, 6))

    def moved(*_: Any) -> Any:
        raise segment_files.Moved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_files, "read_heads", moved)
        idle = await reader.drain()
        assert not idle.caught_up
        assert idle.waiting_for == "events.jsonl"
        await reader.restart()
        assert not (await reader.drain()).caught_up
    await reader.settle()
    assert reader.data == lines(0, 6)


# -- rotation while down -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
async def test_renumbering_while_down(live: Path, compressed: bool) -> None:
    """Our segment was the live file, then .1, then .3, perhaps compressed: it is found by content."""
    append(live, lines(0, 500))
    reader = await Reader(live).start()
    await reader.drain()
    await reader.stream.close()
    append(live, lines(500, 600))
    rotate(live)
    append(live, lines(600, 610))
    rotate(live)
    if compressed:
        compress(member(live, ".2"))
    append(live, lines(610, 620))
    rotate(live)
    append(live, lines(620, 630))
    await reader.restart()
    idle = await reader.settle()
    assert reader.data == lines(0, 630)
    assert idle.caught_up
    assert ("identity_changed" if compressed else "renamed") in reader.notices


async def test_restart_between_two_segments(live: Path) -> None:
    """After a segment was closed and nothing of the next was read, the next one is begun, at its global offset."""
    append(live, lines(0, 3))
    reader = await Reader(live).start()
    await reader.drain()
    rotate(live)
    append(live, lines(3, 6))
    await reader.drain()
    reader.clock.pass_by(GRACE)
    while not reader.ends:
        await reader.step(rescan=True)
    await reader.restart()
    await reader.drain()
    assert reader.data == lines(0, 6)
    assert reader.stream.cursor().start == len(lines(0, 3))


async def test_changed_inode_with_the_same_content_is_accepted_and_reported(live: Path) -> None:
    """A restored backup has other inodes."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    content = live.read_bytes()
    copy = live.with_name("copy")
    copy.write_bytes(content + lines(300, 310))
    copy.rename(live)
    await reader.restart()
    await reader.drain()
    assert reader.data == lines(0, 310)
    assert "identity_changed" in reader.notices


async def test_inode_reused_with_the_same_header_is_not_ours(live: Path) -> None:
    """The file with our inode and our first kilobyte is another one; ours is found by head and tail."""
    header = b"#" * 2000 + b"\n"
    append(live, header + lines(0, 300))
    reader = await Reader(live).start()
    await reader.drain()
    ours = live.read_bytes()
    append(live, b"")
    inode = live.stat().st_ino
    member(live, ".1.gz").write_bytes(gzip.compress(ours + lines(300, 310)))
    live.write_bytes(header + lines(900, 1300))
    assert live.stat().st_ino == inode
    await reader.restart()
    await reader.settle()
    assert reader.segments == [ours + lines(300, 310), header + lines(900, 1300)]


async def test_reading_on_in_the_middle_of_a_compressed_segment(live: Path) -> None:
    """A position inside a compressed segment survives a restart."""
    member(live, ".1.gz").write_bytes(gzip.compress(lines(0, 5000)))
    append(live, lines(5000, 5002))
    reader = await Reader(live, read_bytes=10_000).start()
    await reader.step()
    await reader.step()
    await reader.restart()
    await reader.step()
    await reader.restart()
    await reader.settle()
    assert reader.data == lines(0, 5002)


# -- reading again -----------------------------------------------------------------------------------------------------


async def test_committed_ranges_are_read_again(live: Path) -> None:
    """Ranges of closed, compressed and current segments, after a restart, and of an open file without a name."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    rotate(live)
    append(live, lines(300, 600))
    await reader.settle()
    rotate(live)
    append(live, lines(600, 900))
    await reader.settle()
    compress(member(live, ".2"))
    await reader.restart()
    await reader.drain()
    starts = [0, len(lines(0, 300)), len(lines(0, 600))]
    again = b""
    for start, content in zip(starts, reader.segments, strict=True):
        for first in range(0, len(content), 700):
            last = min(first + 700, len(content))
            again += await reader.stream.read_range(start, first, last)
    assert again == lines(0, 900)
    assert await reader.stream.read_range(reader.closed[0], 5, 50) == lines(0, 300)[5:50]
    live.unlink()
    assert await reader.stream.read_range(starts[2], 5, 50) == lines(600, 900)[5:50]


async def test_committed_range_that_is_gone_is_refused(live: Path) -> None:
    """What cannot be read again is said, with the place."""
    append(live, lines(0, 300))
    reader = await Reader(live).start()
    rotate(live)
    append(live, lines(300, 310))
    await reader.settle()
    member(live, ".1").unlink()
    with pytest.raises(StreamRefusal, match="cannot be read again") as refusal:
        await reader.stream.read_range(reader.closed[0], 0, 10)
    assert refusal.value.evidence["first"] == 0


# -- in any order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
async def test_any_mixture_of_rotation_compression_and_restarts_loses_nothing(live: Path, seed: int) -> None:
    """A seeded writer, rotator and operator do what they may in any order; each byte comes once, in order."""
    chance = random.Random(seed)
    append(live, b"")
    reader = await Reader(live, read_bytes=chance.choice([64, 1000, 1 << 20])).start()
    written = 0
    history: list[str] = []
    for _ in range(60):
        action = chance.choice(["append", "append", "append", "rotate", "compress", "read", "read", "time", "restart"])
        history.append(action)
        if action == "append":
            more = chance.randrange(1, 200)
            append(live, lines(written, written + more))
            written += more
        elif action == "rotate" and live.stat().st_size:
            rotate(live)
            append(live, b"")
        elif action == "compress":
            plain = [found for found in live.parent.glob("events.jsonl.*") if found.suffix != ".gz"]
            if plain:
                compress(chance.choice(plain))
        elif action == "read":
            for _ in range(chance.randrange(5)):
                await reader.step(rescan=chance.random() < 0.5)
        elif action == "time":
            reader.clock.pass_by(chance.choice([0.06, GRACE]))
        elif action == "restart":
            await reader.restart()
    await reader.settle()
    assert reader.data == lines(0, written), history
