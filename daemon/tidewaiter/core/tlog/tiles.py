"""Tiles: the hashes of the tree as tlog-tiles lays them out, and the tree that grows tile by tile.

Owns: which hashes stand in which tile, and the right edge that is all a growing tree needs to remember. Leaves to
`merkle` what the hashes mean, and to `edges.tree_files` where tiles are stored.

A tile of level L holds up to 256 hashes of tree level 8 L. Only full tiles are hashed into the level above; what is
left over at each level is the right edge, the partial tiles of this size.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from tidewaiter.core.tlog.merkle import EMPTY_ROOT, HASH_BYTES, Node, node_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["HASH_BYTES", "WIDTH", "Tile", "TileTree", "full_tiles", "reader", "right_edge", "tile_of"]

WIDTH: Final = 256
_HEIGHT: Final = 8
_TILE_BYTES: Final = WIDTH * HASH_BYTES
_CACHED: Final = 64  # a proof in a tree of 2**32 leaves touches at most eight


class Tile(NamedTuple):
    """One tile; `width` counts its hashes, below 256 it is a partial one."""

    level: int
    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs here
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Where it is kept, relative to the log: ``tile/0/x001/x234/067.p/5``."""
        digits = f"{self.index:d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        partial = f".p/{self.width}" if self.width < WIDTH else ""
        return f"tile/{self.level}/{number}{partial}"


def tile_of(level: int, index: int, size: int) -> tuple[Tile, int, int]:
    """Return the tile from which a tree of `size` leaves makes node (level, index), and there first hash and number.

    Raises ValueError when the tree has no such complete subtree.
    """
    if level < 0 or index < 0 or (index + 1) << level > size:
        raise ValueError(f"a tree of {size} leaves has no complete subtree {index} of level {level}")
    tile_level, height = divmod(level, _HEIGHT)
    number, first = divmod(index << height, WIDTH)
    width = min(WIDTH, (size >> (_HEIGHT * tile_level)) - number * WIDTH)
    return Tile(tile_level, number, width), first, 1 << height


def right_edge(size: int) -> list[Tile]:
    """Return the partial tiles of a tree of this size, lowest level first."""
    edge = []
    level, count = 0, size
    while count:
        count, width = divmod(count, WIDTH)
        if width:
            edge.append(Tile(level, count, width))
        level += 1
    return edge


def full_tiles(before: int, size: int) -> list[Tile]:
    """Return the tiles that become full while a tree grows from `before` to `size` leaves, lowest level first."""
    tiles = []
    first, behind, level = before // WIDTH, size // WIDTH, 0
    while behind:
        tiles += [Tile(level, index) for index in range(first, behind)]
        first, behind, level = first // WIDTH, behind // WIDTH, level + 1
    return tiles


class TileTree:
    """A tree that leaves are appended to. It remembers its right edge: at most 255 hashes a level."""

    __slots__ = ("_levels", "size")

    def __init__(self) -> None:
        """Begin with the empty tree."""
        self.size = 0
        self._levels: list[bytes] = []

    @classmethod
    def load(cls, size: int, read: Callable[[Tile], bytes]) -> TileTree:
        """Return the tree of `size` leaves out of its partial tiles. Raises ValueError when one has another length."""
        tree = cls()
        tree.size = size
        for tile in right_edge(size):
            tree._levels += [b""] * (tile.level - len(tree._levels))
            tree._levels.append(_checked(tile, read(tile)))
        return tree

    def extend(self, leaf_hashes: Sequence[bytes]) -> list[tuple[Tile, bytes]]:
        """Append leaves; return the full tiles this completed with their bytes, lowest level first."""
        before, self.size = self.size, self.size + len(leaf_hashes)
        full: list[bytes] = []
        level, arriving = 0, b"".join(leaf_hashes)
        while arriving:
            if level == len(self._levels):
                self._levels.append(b"")
            data = self._levels[level] + arriving
            end = len(data) - len(data) % _TILE_BYTES
            full += [data[at : at + _TILE_BYTES] for at in range(0, end, _TILE_BYTES)]
            self._levels[level] = data[end:]
            arriving = b"".join(_folded(data[:end], _HEIGHT)) if end else b""
            level += 1
        return list(zip(full_tiles(before, self.size), full, strict=True))

    def edge(self) -> list[tuple[Tile, bytes]]:
        """Return the partial tiles of the present size with their bytes, lowest level first."""
        return [(tile, self._levels[tile.level]) for tile in right_edge(self.size)]

    def root(self) -> bytes:
        """Return the root of the present size."""
        found: bytes | None = None
        for data in self._levels:
            end = len(data)
            while end:  # complete subtrees from the right: the lowest bit of the width is the smallest
                count = end // HASH_BYTES
                height = (count & -count).bit_length() - 1
                begin = end - (HASH_BYTES << height)
                (left,) = _folded(data[begin:end], height)
                found = left if found is None else node_hash(left, found)
                end = begin
        return EMPTY_ROOT if found is None else found


def reader(size: int, read: Callable[[Tile], bytes]) -> Node:
    """Return the nodes of the tree of `size` leaves, made out of its tiles. Keeps the tiles read last.

    The node function raises ValueError for nodes that are not in the tree, and for tiles of another length.
    """
    kept: dict[Tile, bytes] = {}

    def node(level: int, index: int) -> bytes:
        tile, first, count = tile_of(level, index, size)
        if (data := kept.pop(tile, None)) is None:
            data = _checked(tile, read(tile))
        kept[tile] = data
        if len(kept) > _CACHED:
            del kept[next(iter(kept))]
        begin = first * HASH_BYTES
        (found,) = _folded(data[begin : begin + count * HASH_BYTES], level % _HEIGHT)
        return found

    return node


def _checked(tile: Tile, data: bytes) -> bytes:
    if len(data) != tile.width * HASH_BYTES:
        raise ValueError(f"{tile.path}: expected {tile.width * HASH_BYTES} bytes, found {len(data)}")
    return data


def _folded(data: bytes, height: int) -> list[bytes]:
    """Return the hashes of the complete subtrees `height` levels above. The hot path of a growing tree."""
    sha256 = hashlib.sha256
    hashes = [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
    for _ in range(height):
        each = iter(hashes)
        hashes = [sha256(b"\x01" + left + right).digest() for left, right in zip(each, each, strict=True)]
    return hashes
