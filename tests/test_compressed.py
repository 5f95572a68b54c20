"""Compressed segments as bytes: whole, cut, damaged, in bounded memory."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
import zstandard

from tidewaiter.edges.compressed import Damaged, NotWhole, Scan, declared_length, open_reader, walk_frames

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.chain_of_segments import Encoding

CONTENT = b"".join(b'{"event": %d}\n' % number for number in range(400))


def pack(encoding: Encoding, content: bytes) -> bytes:
    """Compress as the command-line tools do."""
    if encoding == "gz":
        return gzip.compress(content)
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def read_all(path: Path, encoding: Encoding, limit: int = 1000) -> bytes:
    """Return the content, read in blocks."""
    with path.open("rb", buffering=0) as raw:
        reader = open_reader(raw, encoding)
        content = b""
        while data := reader.read(limit):
            assert len(data) <= limit
            content += data
        return content


@pytest.mark.parametrize("encoding", ["gz", "zst"])
@pytest.mark.parametrize("limit", [1, 7, 1000, 1 << 20])
def test_content_does_not_depend_on_the_block_size(tmp_path: Path, encoding: Encoding, limit: int) -> None:
    """Members and frames in one file follow each other."""
    path = tmp_path / "file"
    path.write_bytes(pack(encoding, CONTENT) + pack(encoding, b"") + pack(encoding, CONTENT))
    assert read_all(path, encoding, limit) == CONTENT * 2


@pytest.mark.parametrize("encoding", ["gz", "zst"])
def test_file_cut_at_any_byte_is_not_whole(tmp_path: Path, encoding: Encoding) -> None:
    """Except between two members, where nothing tells the cut from the end."""
    path = tmp_path / "file"
    one = pack(encoding, CONTENT)
    both = one + pack(encoding, CONTENT[:50])
    for cut in range(len(both)):
        path.write_bytes(both[:cut])
        if cut == len(one):
            assert read_all(path, encoding) == CONTENT
        else:
            with pytest.raises(NotWhole):
                read_all(path, encoding)


@pytest.mark.parametrize("encoding", ["gz", "zst"])
def test_damage_is_never_taken_for_content(tmp_path: Path, encoding: Encoding) -> None:
    """A flipped byte anywhere gives an error or, in a header field that changes nothing, the true content."""
    path = tmp_path / "file"
    whole = pack(encoding, CONTENT)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            assert read_all(path, encoding) == CONTENT
        except (Damaged, NotWhole):
            continue


def test_zstandard_blocks_of_every_kind_are_walked(tmp_path: Path) -> None:
    """Raw, repeated and compressed blocks, with and without checksum, size and skippable frames."""
    path = tmp_path / "file"
    streaming = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    frames = [
        zstandard.compress(bytes(300_000)),
        zstandard.compress(bytes(range(256)) * 2),
        streaming.compress(CONTENT) + streaming.flush(),
        b"\x5f\x2a\x4d\x18\x03\x00\x00\x00abc",
        zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT),
    ]
    path.write_bytes(b"".join(frames))
    with path.open("rb", buffering=0) as raw:
        walk_frames(raw.fileno())
    assert read_all(path, "zst") == bytes(300_000) + bytes(range(256)) * 2 + CONTENT * 2


@pytest.mark.parametrize(("encoding", "rubbish"), [("gz", b"rubbish"), ("zst", b"rubbish")])
def test_rubbish_after_the_content_is_damage(tmp_path: Path, encoding: Encoding, rubbish: bytes) -> None:
    """Bytes that are neither a member nor padding are not dropped silently."""
    path = tmp_path / "file"
    path.write_bytes(pack(encoding, CONTENT) + rubbish)
    with pytest.raises(Damaged):
        read_all(path, encoding)


@pytest.mark.parametrize("encoding", ["gz", "zst"])
def test_declared_length_is_that_of_the_content(tmp_path: Path, encoding: Encoding) -> None:
    """What the file says about itself saves decompressing it."""
    path = tmp_path / "file"
    path.write_bytes(pack(encoding, CONTENT))
    with path.open("rb", buffering=0) as raw:
        assert declared_length(raw.fileno(), encoding) == len(CONTENT)


@pytest.mark.parametrize("encoding", ["gz", "zst"])
@pytest.mark.parametrize("budget", [1, 1000, 1 << 20])
def test_scan_finds_the_bytes_before_each_mark(tmp_path: Path, encoding: Encoding, budget: int) -> None:
    """In steps of any size: length, head, tail, and what lies before the marks that the file reaches."""
    path = tmp_path / "file"
    content = CONTENT * 300
    path.write_bytes(pack(encoding, content))
    places = {0, 1, 13, 4096, 5000, 1 << 20, len(content) - 1, len(content)}
    marks = [(place, min(place, 4096)) for place in places] + [(len(content) + 1, 4096)]
    scan = Scan(path.open("rb", buffering=0), encoding, marks)
    while not scan.step(budget):
        assert not scan.whole
    assert scan.whole
    assert scan.length == len(content)
    assert (scan.head, scan.tail) == (content[:1024], content[-4096:])
    assert scan.tails == {place: content[max(place - 4096, 0) : place] for place in places}
