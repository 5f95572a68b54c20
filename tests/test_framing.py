"""Where lines end: the same lines however the bytes arrive, and bounded memory however long a line is."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pure_core import chunks, content_of
from tidewaiter.core.framing import PREVIEW_BYTES, Block, Framer, LongLine
from tidewaiter.core.position import SegmentCursor

TOO_LONG: Final = "line over the limit"
UNTERMINATED: Final = "unterminated line at the end of a closed segment"
MIB: Final = 1 << 20

tokens = st.sampled_from([b"\n", b"\r", b"\0", b"a", b"bc", b"\xc3\xa9", b"\xff", b"0123456789"])
streams = st.lists(tokens).map(b"".join)
cut_places = st.lists(st.integers(0, 200), max_size=30)


def pieces_of(data: bytes, cuts: list[int], limit: int, offset: int = 0) -> list[Block | LongLine]:
    """Return the pieces of a segment that ends after `data`, fed in chunks; checks what every piece must keep."""
    framer = Framer(offset, limit)
    pieces: list[Block | LongLine] = []
    fed = offset
    for chunk in chunks(data, cuts):
        framer.feed(chunk)
        fed += len(chunk)
        while (piece := framer.next_piece()) is not None:
            pieces.append(piece)
        assert framer.offset + framer.pending == fed
    if (tail := framer.finish()) is not None:
        pieces.append(tail)
    assert framer.pending == 0
    assert framer.next_piece() is None
    return pieces


def expected_content(data: bytes, limit: int, offset: int = 0) -> list[tuple[object, ...]]:
    """Say again what the lines of a closed segment are."""
    found: list[tuple[object, ...]] = []
    for number, text in enumerate(parts := data.split(b"\n")):
        last = number == len(parts) - 1
        if (last and text) or len(text) > limit:
            reason = UNTERMINATED if last else TOO_LONG
            found.append((offset, len(text), hashlib.sha256(text).hexdigest(), text[:PREVIEW_BYTES], reason))
        elif not last:
            found.append((offset, text))
        offset += len(text) + 1
    return found


@given(streams, cut_places, st.integers(1, 12), st.integers(0, 1000))
def test_any_split_gives_the_same_lines(data: bytes, cuts: list[int], limit: int, offset: int) -> None:
    """Whatever the chunks, the lines are those of splitting the whole at its newlines, each at its own offset."""
    assert content_of(pieces_of(data, cuts, limit, offset)) == expected_content(data, limit, offset)


def test_every_split_point_of_one_stream_gives_the_same_lines() -> None:
    """Cut at each single byte, at each pair of bytes, and after every byte: nothing changes."""
    data = b"one\n\ntwo\r\nx" + "é€".encode() + b"\n" + b"0123456789abcdef\n" + b"last\n0123456789\nrest"
    expected = expected_content(data, 10)
    assert content_of(pieces_of(data, list(range(len(data))), 10)) == expected
    for one in range(len(data)):
        for other in range(one, len(data)):
            assert content_of(pieces_of(data, [one, other], 10)) == expected


@given(streams, cut_places, st.integers(1, 12))
def test_pieces_cover_the_bytes_without_gap_or_overlap(data: bytes, cuts: list[int], limit: int) -> None:
    """Sizes and range hashes of the pieces, put together, are the bytes that were fed."""
    at = 0
    for piece in pieces_of(data, cuts, limit):
        assert piece.offset == at
        if isinstance(piece, Block):
            assert piece.data == data[at : at + len(piece.data)]
            assert piece.data.endswith(b"\n")
            at += len(piece.data)
        else:
            assert piece.range_sha256 == hashlib.sha256(data[at : at + piece.size]).hexdigest()
            at += piece.size
    assert at == len(data)


@given(st.binary(max_size=3000), st.lists(st.integers(0, 9000), max_size=8), st.integers(0, 6000))
def test_a_long_line_leaves_the_same_identity_as_its_bytes(start: bytes, cuts: list[int], length: int) -> None:
    """Head and tail of a dropped line put the segment's running identity where all of its bytes would have put it."""
    before = start.replace(b"\n", b"")[:5] + b"\n"
    data = before + start.replace(b"\n", b".") + b"z" * length + b"\n"
    whole = SegmentCursor("s", 1, 1, 0)
    whole.advance(data)
    running = SegmentCursor("s", 1, 1, 0)
    for piece in pieces_of(data, cuts, 10):
        if isinstance(piece, Block):
            running.advance(piece.data)
        else:
            running.advance_past(piece.size, piece.head, piece.tail)
    assert running.position == whole.position


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_line_of_exactly_the_limit_is_kept_and_one_byte_more_is_not(step: int) -> None:
    """The limit counts the line's bytes without its newline."""
    limit = 100
    data = b"a" * limit + b"\n" + b"b" * (limit + 1) + b"\n" + b"c" * limit + b"\n"
    found = content_of(pieces_of(data, list(range(0, len(data), step)), limit))
    assert found == [
        (0, b"a" * limit),
        (101, 101, hashlib.sha256(b"b" * 101).hexdigest(), b"b" * PREVIEW_BYTES, TOO_LONG),
        (203, b"c" * limit),
    ]


def test_lines_on_both_sides_of_a_long_one_in_the_same_chunk_are_kept() -> None:
    """A long line costs nothing but itself: what stands before and behind it in the chunk is delivered."""
    short, long = b"short\n" * 50, b"x" * 200 + b"\n"
    pieces = pieces_of(short + long + short + long + long + short, [], 100)
    assert [isinstance(piece, LongLine) for piece in pieces] == [False, True, False, True, True, False]


def test_a_partial_last_line_waits_for_its_newline() -> None:
    """No piece contains a line without its newline, however long nothing follows."""
    framer = Framer(0, 100)
    framer.feed(b"whole\npart")
    assert framer.next_piece() == Block(0, b"whole\n")
    for _ in range(3):
        assert framer.next_piece() is None
    assert (framer.offset, framer.pending) == (6, 4)
    framer.feed(b"ial\n")
    assert framer.next_piece() == Block(6, b"partial\n")


def test_the_unterminated_tail_of_an_ended_segment_is_named() -> None:
    """What has no newline at the end is a piece of its own with length and hash; a whole last line leaves nothing."""
    (piece,) = pieces_of(b"torn", [2], 100)
    assert isinstance(piece, LongLine)
    assert (piece.offset, piece.length, piece.size, piece.reason) == (0, 4, 4, UNTERMINATED)
    assert piece.sha256 == piece.range_sha256 == hashlib.sha256(b"torn").hexdigest()
    (piece,) = pieces_of(b"x" * 500, [200], 100)
    assert isinstance(piece, LongLine)
    assert (piece.length, piece.size, piece.reason) == (500, 500, UNTERMINATED)
    assert pieces_of(b"whole\n", [], 100) == [Block(0, b"whole\n")]
    assert pieces_of(b"", [], 100) == []


def test_only_newlines_end_a_line() -> None:
    """Carriage returns, NUL bytes, byte order marks and Unicode separators are left for decoding to judge."""
    text = b"\xef\xbb\xbf{}\r\n\0\r\x0b\x0c\x1c\x1e\x85" + "\u2028\u2029".encode() + b"\n\r\n"
    first, second, third, _ = text.split(b"\n")
    assert content_of(pieces_of(text, [], 100)) == [(0, first), (7, second), (len(text) - 2, third)]


@pytest.mark.parametrize("mib", [64, pytest.param(1024, marks=[pytest.mark.long])], ids="{}MiB".format)
def test_a_huge_line_passes_in_bounded_memory(mib: int) -> None:
    """A line of 64 MiB (1 GiB in the long run) takes a few chunks of memory, and its length and hash are exact."""
    chunk = b"x" * MIB
    digest = hashlib.sha256()
    framer = Framer(0, MIB)
    tracemalloc.start()
    try:
        for _ in range(mib):
            framer.feed(chunk)
            digest.update(chunk)
            assert framer.next_piece() is None
        framer.feed(b"end\nnext\n")
        piece = framer.next_piece()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    digest.update(b"end")
    assert isinstance(piece, LongLine)
    assert (piece.length, piece.sha256) == (mib * MIB + 3, digest.hexdigest())
    assert framer.next_piece() == Block(piece.size, b"next\n")
    assert peak < 6 * MIB
