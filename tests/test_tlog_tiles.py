"""Tiles: where tlog-tiles puts each hash, however the leaves arrive."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewaiter.core.tlog.merkle import EMPTY_ROOT, inclusion_proof, node_hash, root_hash, root_of_inclusion
from tidewaiter.core.tlog.tiles import HASH_BYTES, WIDTH, Tile, TileTree, full_tiles, reader, right_edge, tile_of

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST: Final = 70_000
LEAVES: Final = [hashlib.sha256(b"%d" % number).digest() for number in range(LARGEST)]


def levels_of(leaves: list[bytes]) -> list[list[bytes]]:
    """Return all complete subtrees, level by level, made pair by pair."""
    found = [leaves]
    while len(found[-1]) > 1:
        below = found[-1]
        found.append([node_hash(a, b) for a, b in zip(below[::2], below[1::2], strict=False)])
    return found


NODES: Final = levels_of(LEAVES)


def node(level: int, index: int) -> bytes:
    """Return the nodes of the tree without tiles."""
    return NODES[level][index]


def stored(size: int, *, cuts: tuple[int, ...] = ()) -> tuple[TileTree, dict[Tile, bytes]]:
    """Return a grown tree and its full and last partial tiles; the leaves arrive in pieces that end at the cuts."""
    tree = TileTree()
    files: dict[Tile, bytes] = {}
    for low, high in zip((0, *cuts), (*cuts, size), strict=True):
        files |= dict(tree.extend(LEAVES[low:high]))
    return tree, files | dict(tree.edge())


def expected_tiles(size: int) -> dict[Tile, bytes]:
    """Return every tile of a tree by the formula of the specification."""
    found, level = {}, 0
    while count := size >> (8 * level):
        for index in range(-(-count // WIDTH)):
            hashes = NODES[8 * level][index * WIDTH : min(count, (index + 1) * WIDTH)]
            found[Tile(level, index, len(hashes))] = b"".join(hashes)
        level += 1
    return found


def recorded(files: dict[Tile, bytes]) -> tuple[list[Tile], Callable[[Tile], bytes]]:
    """Return a function that reads tiles and the list of what it was asked for."""
    asked: list[Tile] = []

    def read(tile: Tile) -> bytes:
        asked.append(tile)
        return files[tile]

    return asked, read


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 0, 5), "tile/0/000.p/5"),
        (Tile(1, 999), "tile/1/999"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(3, 1_234_067, 255), "tile/3/x001/x234/067.p/255"),
        (Tile(0, 10**9), "tile/0/x001/x000/x000/000"),
    ],
)
def test_paths(tile: Tile, path: str) -> None:
    """Paths are those of the specification."""
    assert tile.path == path


def test_the_example_of_the_specification() -> None:
    """A tree of 70,000 leaves has the tiles that tlog-tiles counts."""
    _, files = stored(70_000)
    assert sum(tile.level == 0 and tile.width == WIDTH for tile in files) == 273
    assert right_edge(70_000) == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert right_edge(256) == [Tile(1, 0, 1)]
    assert right_edge(0) == []
    assert files == expected_tiles(70_000)


def test_the_empty_tree() -> None:
    """A tree without leaves has the empty root and no tiles."""
    tree = TileTree()
    assert (tree.size, tree.root(), tree.edge(), tree.extend([])) == (0, EMPTY_ROOT, [], [])


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 65_792, 70_000])
def test_one_tree_however_the_leaves_arrive(size: int) -> None:
    """In one piece or in pieces across tiles: same tiles, same root."""
    tree, files = stored(size)
    assert (tree.size, tree.root()) == (size, root_hash(size, node))
    assert files == expected_tiles(size)
    pieces, piece_files = stored(size, cuts=(size // 3, size * 2 // 3))
    assert (pieces.root(), piece_files) == (tree.root(), files)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 300, 512, 65_536, 65_792, 66_000])
def test_a_tree_goes_on_where_it_was_stored(size: int) -> None:
    """Resumed from its partial tiles, a tree grows as the one that was never put down."""
    tree, files = stored(size)
    resumed = TileTree.load(size, files.__getitem__)
    assert (resumed.root(), resumed.edge()) == (tree.root(), tree.edge())
    more = LEAVES[size : size + 3000]
    assert resumed.extend(more) == tree.extend(more)
    assert (resumed.root(), resumed.edge()) == (tree.root(), tree.edge())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=8))
def test_any_pieces_give_the_same_tree(pieces: list[int]) -> None:
    """Leaves in pieces of any sizes give full tiles in order and the root of RFC 6962 after each."""
    tree, full = TileTree(), []
    for count in pieces:
        full += [tile for tile, _ in tree.extend(LEAVES[tree.size : tree.size + count])]
        assert tree.root() == root_hash(tree.size, node)
        assert [tile for tile, _ in tree.edge()] == right_edge(tree.size)
    assert sorted(full) == full_tiles(0, tree.size)
    for level in (0, 1):
        indexes = [tile.index for tile in full if tile.level == level]
        assert indexes == list(range(tree.size >> (8 * (level + 1))))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nodes_come_out_of_tiles(data: st.DataObject) -> None:
    """Roots, proofs and all nodes of a tree of any size can be made out of its tiles."""
    size = data.draw(st.one_of(st.integers(1, 600), st.integers(65_000, 66_500)))
    index = data.draw(st.integers(0, size - 1))
    tiled = reader(size, expected_tiles(size).__getitem__)
    assert root_hash(size, tiled) == root_hash(size, node)
    proof = inclusion_proof(index, size, tiled)
    assert root_of_inclusion(LEAVES[index], index, size, proof) == root_hash(size, node)
    level = data.draw(st.integers(0, size.bit_length() - 1))
    place = data.draw(st.integers(0, (size >> level) - 1))
    assert tiled(level, place) == node(level, place)


def test_a_proof_reads_one_tile_a_level_and_the_edge() -> None:
    """A proof in a large tree reads each tile once, few in all, and the next proof nearby reads none."""
    asked, read = recorded(stored(70_000)[1])
    tiled = reader(70_000, read)
    inclusion_proof(12_345, 70_000, tiled)
    assert len(asked) == len(set(asked)) <= 5
    asked.clear()
    inclusion_proof(12_346, 70_000, tiled)
    assert asked == []


def test_which_tile_holds_a_node() -> None:
    """Nodes between tile levels are made of the hashes below them in one tile."""
    assert tile_of(0, 5, 70_000) == (Tile(0, 0), 5, 1)
    assert tile_of(7, 3, 70_000) == (Tile(0, 1), 128, 128)
    assert tile_of(8, 272, 70_000) == (Tile(1, 1, 17), 16, 1)
    assert tile_of(9, 1, 1024) == (Tile(1, 0, 4), 2, 2)
    assert tile_of(16, 0, 70_000) == (Tile(2, 0, 1), 0, 1)


@pytest.mark.parametrize(("level", "index"), [(0, 600), (8, 2), (9, 1), (-1, 0), (0, -1)])
def test_nodes_outside_the_tree_are_refused(level: int, index: int) -> None:
    """What is no complete subtree of this size has no hash."""
    with pytest.raises(ValueError, match="no complete subtree"):
        reader(600, stored(600)[1].__getitem__)(level, index)


@pytest.mark.parametrize("cut", [0, 1, HASH_BYTES])
def test_tiles_of_another_length_are_refused(cut: int) -> None:
    """A tile that is too short or too long is named, on loading as on reading."""

    def read(tile: Tile) -> bytes:
        return bytes(tile.width * HASH_BYTES - cut) if cut else bytes(tile.width * HASH_BYTES + 1)

    with pytest.raises(ValueError, match=r"tile/0/002\.p/88: expected 2816 bytes"):
        TileTree.load(600, read)
    with pytest.raises(ValueError, match=r"tile/1/000\.p/2: expected 64 bytes"):
        reader(600, read)(8, 0)
