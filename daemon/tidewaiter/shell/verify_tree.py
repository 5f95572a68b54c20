"""The audit log read as the leaves of its tree: roots at the sizes that were asked for, and every tile compared.

Owns: one pass over the audit segments that computes the tree anew, and the comparison with the tiles on the disk.
Leaves to `core.tlog` the arithmetic, to `shell.verify_trust` which roots were signed, and to `shell.verify_log` what
the entries say. It is a pass of its own, so that it can be a process of its own: it takes as long as everything else.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.tlog.tiles import HASH_BYTES, WIDTH, Tile, TileTree, right_edge
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.shell.verify_findings import Findings
from tidewaiter.shell.verify_log import AuditFile, line_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ASIDE_BYTES: Final = 32 << 20
"""An audit log of this size is worth a process of its own."""


class TreeTask(Struct, frozen=True):
    """What to compute: the roots at `sizes`; the tiles are compared for the tree of `size` leaves (0: there are none).

    `state` is None for a log that keeps no tiles.
    """

    state: Path | None
    files: list[AuditFile]
    sizes: list[int]
    size: int


class TreeResult(Struct):
    """The number of leaves, their root, and the roots at the sizes that the log reaches.

    `root` is None where the first leaves are gone, tiles included.
    """

    findings: Findings
    leaves: int = 0
    root: bytes | None = None
    roots: dict[int, bytes] = {}


def begin_tree(task: TreeTask) -> Callable[[], TreeResult]:
    """Begin the pass, in a process of its own where that is worth it; the returned call waits for its result."""
    if sum(file.size for file in task.files) < ASIDE_BYTES:
        return lambda: check_tree(task)
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    result: Future[TreeResult] = pool.submit(check_tree, task)
    pool.shutdown(wait=False)
    return result.result


def check_tree(task: TreeTask) -> TreeResult:
    """Compute the tree. What is wrong with the tiles is among the findings."""
    result = TreeResult(Findings())
    try:
        tree = _tree_before(task)
    except (IntegrityRefusal, ValueError) as error:
        result.findings.missing(
            "tree", f"the first entries and the tiles that stand for them are gone: {error}", "tlog"
        )
        return result
    tiles = None if task.state is None else _Tiles(TreeFiles(task.state), task, result.findings)
    wanted = sorted({size for size in (*task.sizes, task.size) if size >= tree.size}, reverse=True)
    for hashes in _leaves(task.files):
        done = 0
        while done < len(hashes):
            part = hashes[done : done + wanted[-1] - tree.size] if wanted else hashes[done:]
            full = tree.extend(part)
            done += len(part)
            if tiles is not None:
                tiles.compare(full)
            while wanted and wanted[-1] == tree.size:
                size = wanted.pop()
                result.roots[size] = tree.root()
                if tiles is not None and size == task.size:
                    tiles.compare_edge(tree.edge())
    result.leaves, result.root = tree.size, tree.root()
    if 0 in task.sizes:
        result.roots[0] = TileTree().root()
    return result


def _tree_before(task: TreeTask) -> TileTree:
    """Return the tree of the leaves that come before the first file."""
    first = task.files[0].first if task.files else 0
    if first <= 0:
        return TileTree()
    if task.state is None:
        raise ValueError("there are none")
    return TileTree.load(first, TreeFiles(task.state).read_tile)


def _leaves(files: list[AuditFile]) -> Iterator[list[bytes]]:
    sha256 = hashlib.sha256
    for file in files:
        for _, lines, _ in line_blocks(file):
            yield [sha256(b"\x00" + line).digest() for line in lines]


class _Tiles:
    """Compares the tiles of the tree of `size` leaves; larger ones are still being written."""

    def __init__(self, files: TreeFiles, task: TreeTask, findings: Findings) -> None:
        self._files, self._size, self._sizes, self._findings = files, task.size, task.sizes, findings

    def compare(self, tiles: list[tuple[Tile, bytes]]) -> None:
        for tile, data in tiles:
            if (tile.index + 1) * WIDTH ** (tile.level + 1) <= self._size:
                self._compare(tile, data)

    def compare_edge(self, tiles: list[tuple[Tile, bytes]]) -> None:
        """Compare the right edge, and the partial tiles that older checkpoints left beside it.

        A partial tile that no checkpoint needs is what a crash left: it may be torn.
        """
        for tile, data in tiles:
            self._compare(tile, data)
        edge = {(tile.level, tile.index): data for tile, data in tiles}
        for tile in {tile for size in self._sizes for tile in right_edge(size)}:
            whole = edge.get((tile.level, tile.index), b"")
            if tile.width * HASH_BYTES < len(whole) and (self._files.path / tile.path).exists():
                self._compare(tile, whole[: tile.width * HASH_BYTES])

    def _compare(self, tile: Tile, data: bytes) -> None:
        path = self._files.path / tile.path
        try:
            found = self._files.read_tile(tile)
        except IntegrityRefusal as refusal:
            what = refusal.message.removeprefix(f"{path}: ")
            if path.exists():
                self._findings.tampered("tiles", what, path, index=_leaf(tile, 0))
            else:
                self._findings.missing("tiles", what, path, index=_leaf(tile, 0))
            return
        except OSError as error:
            self._findings.missing("tiles", f"cannot be read: {error.strerror}", path)
            return
        if found == data:
            return
        at = next(place for place in range(tile.width) if _hash(found, place) != _hash(data, place))
        what = f"leaf {_leaf(tile, at)}" if tile.level == 0 else f"hash {at}"
        self._findings.tampered(
            "tiles", f"{what} of the tile is not what the audit log gives", path, index=_leaf(tile, at),
            offset=at * HASH_BYTES, expected=_hash(data, at).hex(), found=_hash(found, at).hex(),
        )  # fmt: skip


def _leaf(tile: Tile, place: int) -> int | None:
    """Return which leaf stands there; a hash of a higher level stands for very many."""
    return tile.index * WIDTH + place if tile.level == 0 else None


def _hash(data: bytes, place: int) -> bytes:
    return data[place * HASH_BYTES : (place + 1) * HASH_BYTES]
