"""A range of an audit file taken into the tree: on the spot, or asked of a process that does nothing else.

Owns: `grow`, the one function that reads entries, hashes them as leaves and folds tiles; and `serve`, the process that
answers with its results. Leaves to `core.tlog` the mathematics, to `edges.tree_worker` the asking, and to
`edges.tree_follower` which range is due and what becomes of the tiles.

The process is started for a backlog and must be cheap to start: this module imports next to nothing. It keeps nothing
between two questions and writes nothing but its answers; a question carries all that an answer depends on:

    question   begin, end, size of the tree, length of the path; the path; the tree's right edge
    answer     the byte reached, the new size; the tiles that became full; the new right edge; SHA-256 over all of both
"""

from __future__ import annotations

import hashlib
import os
import struct
from io import BytesIO
from typing import TYPE_CHECKING, Final, NamedTuple

from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.tlog.tiles import HASH_BYTES, Tile, TileTree, full_tiles, right_edge
from tidewaiter.edges.worker_main import answer_all

if TYPE_CHECKING:
    from typing import BinaryIO

CHUNK_BYTES: Final = 1 << 20
QUESTION: Final = struct.Struct("<QQQI")
ANSWER: Final = struct.Struct("<QQ")
DIGEST_BYTES: Final = 32
RESTORE: Final = "restore the state directory from a back-up; `tidewaiter verify` says what else differs"
"""What to do where tree and audit log do not belong together."""


class Grown(NamedTuple):
    """The tree behind a range, the tiles that became full in it, and the byte behind its last whole entry."""

    tree: TileTree
    tiles: list[tuple[Tile, bytes]]
    reached: int


def grow(tree: TileTree, path: str, begin: int, end: int) -> Grown:
    """Take the whole entries in bytes `begin` to `end` of an audit file into `tree`, which is changed.

    Raises IntegrityRefusal where the file ends before `end`, or where no entry does; the tree is as before then.
    """
    sha256 = hashlib.sha256
    leaves: list[bytes] = []
    rest = b""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib alone takes as long to import as all of this
        file.seek(begin)
        at = begin
        while at < end:
            read = file.read(min(CHUNK_BYTES, end - at))
            if not read:
                break
            at += len(read)
            lines = BytesIO(rest + read).readlines()
            rest = b"" if read.endswith(b"\n") else lines.pop()
            # RFC 6962 section 2.1: a leaf's hash is that of a zero byte and the entry, here a line with its newline
            leaves += [sha256(b"\0" + line).digest() for line in lines]
    if at < end or not leaves:
        raise IntegrityRefusal(
            f"{path}: byte {at - len(rest)}: ends there, expected {end}",
            hint=RESTORE,
        )
    return Grown(tree, tree.extend(leaves), at - len(rest))


# -- the two texts -----------------------------------------------------------------------------------------------------


def question(tree: TileTree, path: str, begin: int, end: int) -> bytes:
    """Return the text that asks for `grow`."""
    name = os.fsencode(path)
    return QUESTION.pack(begin, end, tree.size, len(name)) + name + _edge(tree)


def read_question(file: BinaryIO) -> tuple[bytes, TileTree, str, int, int] | None:
    """Return the next question, as it stands there and taken apart; None where the other side has gone."""
    text = file.read(QUESTION.size)
    if len(text) < QUESTION.size:
        return None
    begin, end, size, length = QUESTION.unpack(text)
    name, edge = file.read(length), file.read(edge_bytes(size))
    return text + name + edge, _tree(size, edge), os.fsdecode(name), begin, end


def answer(asked: bytes, grown: Grown) -> bytes:
    """Return the text that answers `asked`."""
    text = b"".join((
        ANSWER.pack(grown.reached, grown.tree.size),
        *(data for _, data in grown.tiles),
        _edge(grown.tree),
    ))  # fmt: skip
    return text + digest(asked, text)


def body_bytes(before: int, size: int) -> int:
    """Return how much follows the head of an answer in which a tree grows from `before` to `size` leaves."""
    return sum(tile.width for tile in full_tiles(before, size)) * HASH_BYTES + edge_bytes(size) + DIGEST_BYTES


def read_body(body: bytes, before: int, size: int, reached: int) -> Grown:
    """Return what an answer says, whose digest was found to be right."""
    tiles, at = [], 0
    for tile in full_tiles(before, size):
        tiles.append((tile, body[at : at + tile.width * HASH_BYTES]))
        at += tile.width * HASH_BYTES
    return Grown(_tree(size, body[at:]), tiles, reached)


def digest(asked: bytes, text: bytes) -> bytes:
    """Return what an answer ends with."""
    return hashlib.sha256(asked + text).digest()


def edge_bytes(size: int) -> int:
    """Return how long the right edge of a tree is."""
    return sum(tile.width for tile in right_edge(size)) * HASH_BYTES


def _edge(tree: TileTree) -> bytes:
    return b"".join(data for _, data in tree.edge())


def _tree(size: int, edge: bytes) -> TileTree:
    file = BytesIO(edge)
    return TileTree.load(size, lambda tile: file.read(tile.width * HASH_BYTES))


# -- the process -------------------------------------------------------------------------------------------------------


def _answer_next(file: BinaryIO) -> bytes | None:
    asked = read_question(file)
    if asked is None:
        return None
    text, tree, path, begin, end = asked
    return answer(text, grow(tree, path, begin, end))


def serve() -> None:
    """Answer until nobody asks any more, or until a range cannot be taken in."""
    answer_all(_answer_next)
