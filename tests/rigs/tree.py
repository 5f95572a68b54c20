"""Check the log's tree against the audit files, by RFC 6962 as it is written down and by nothing of the product.

Owns: the root over the first n entries, and whether checkpoints that somebody holds still are what the log says.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Held(NamedTuple):
    """A checkpoint as somebody outside keeps it."""

    origin: str
    size: int
    root: bytes


def leaves(state: Path) -> list[bytes]:
    """Return the leaf hashes of every whole audit entry, oldest first."""
    data = b"".join(path.read_bytes() for path in sorted((state / "audit").glob("audit-*.jsonl")))
    lines = data.splitlines(keepends=True)
    return [hashlib.sha256(b"\0" + line).digest() for line in lines if line.endswith(b"\n")]


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash of RFC 6962 section 2.1 over leaf hashes."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    half = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root_of(hashes[:half]) + root_of(hashes[half:])).digest()


def held(state: Path) -> list[Held]:
    """Return what a stranger who copied the checkpoints of this state directory holds; a torn last one is none."""
    found = []
    for name in ("checkpoints", "checkpoint", "witnessed"):
        path = state / "tlog" / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = text.split("\n")
        for at, line in enumerate(lines[:-1]):
            signed = line == "" and at >= 3 and (lines[at + 1].startswith("— ") or name == "checkpoint")
            complete = signed and at + 2 <= len(lines) - (name == "checkpoints")
            if signed and complete:
                found.append(Held(lines[at - 3], int(lines[at - 2]), base64.b64decode(lines[at - 1])))
    return found


def assert_prefixes(state: Path, checkpoints: Sequence[Held]) -> None:
    """Assert that every checkpoint held is a prefix of the log as it is now."""
    hashes = leaves(state)
    for one in checkpoints:
        assert one.size <= len(hashes), f"{one.size} entries were signed, {len(hashes)} are there"
        assert root_of(hashes[: one.size]) == one.root, f"the first {one.size} entries are not those that were signed"


def assert_whole(state: Path) -> None:
    """Assert that the newest checkpoint covers every entry, and that each level-0 hash stands in its tile."""
    newest = [one for one in held(state) if one.size == max(one.size for one in held(state))]
    hashes = leaves(state)
    assert newest, "there is no checkpoint"
    assert newest[0].size == len(hashes), f"{newest[0].size} of {len(hashes)} entries are covered"
    assert_prefixes(state, held(state))
    for first in range(0, len(hashes), 256):
        full = state / "tlog" / "tile" / "0" / numbered(first // 256)
        partial = full.with_name(f"{full.name}.p")
        width = min(256, len(hashes) - first)
        path = full if width == 256 else partial / str(width)
        assert path.read_bytes() == b"".join(hashes[first : first + width]), path
        if width == 256:
            assert not partial.exists(), "a full tile makes its partial ones superfluous"


def numbered(tile: int) -> str:
    """Return how C2SP tlog-tiles writes a tile's number: in groups of three digits, all but the last behind an x."""
    text = f"{tile % 1000:03d}"
    while tile := tile // 1000:
        text = f"x{tile % 1000:03d}/{text}"
    return text
