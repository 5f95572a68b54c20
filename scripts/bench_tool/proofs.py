"""How long an inclusion proof takes in a large tree, out of its tiles on the disk.

Started as ``python -m bench_tool.proofs FOLDER ENTRIES PROOFS``; prints one line of JSON. Tiles are written with
made-up leaf hashes: a proof reads hashes, never entries. Each proof begins with nothing in memory but what the kernel
kept.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidewaiter.core.tlog.merkle import inclusion_proof, root_of_inclusion
from tidewaiter.core.tlog.tiles import TileTree, reader
from tidewaiter.edges.tree_files import TreeFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tidewaiter.core.tlog.tiles import Tile

_PART: Final = 1 << 16


def main(arguments: Sequence[str]) -> int:
    """Write the tiles, then time proofs of entries drawn by lot, and check each."""
    folder, entries, proofs = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    files = TreeFiles(folder)
    tree = TileTree()
    for first in range(0, entries, _PART):
        _write(files, tree.extend([_leaf(at) for at in range(first, min(first + _PART, entries))]))
    _write(files, tree.edge())
    root, rng = tree.root(), random.Random(1)  # noqa: S311 - drawn by lot, the same each time
    seconds: list[float] = []
    proof: list[bytes] = []
    for _ in range(proofs):
        index = rng.randrange(entries)
        began = time.perf_counter()
        proof = inclusion_proof(index, entries, reader(entries, files.read_tile))
        seconds.append(time.perf_counter() - began)
        if root_of_inclusion(_leaf(index), index, entries, proof) != root:
            raise ValueError(f"the proof of entry {index} leads to another root")
    print(json.dumps({"seconds": seconds, "hashes": len(proof)}))
    return 0


def _leaf(index: int) -> bytes:
    return hashlib.sha256(index.to_bytes(8, "big")).digest()


def _write(files: TreeFiles, tiles: Iterable[tuple[Tile, bytes]]) -> None:
    for tile, data in tiles:
        path = files.path / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
