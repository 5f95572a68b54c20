"""The projection files (flags.jsonl, rejections.jsonl and so on) and their sealed parts.

Owns: the naming of parts and reading them as one byte sequence. The open part is ``NAME.jsonl``; a sealed part is
``NAME-<20 digits>.jsonl``, the digits being the offset of its first byte in the whole projection. Leaves to
`edges.journal` the writing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def open_part(state: Path, projection: str) -> Path:
    """Return the file that is being appended to."""
    return state / f"{projection}.jsonl"


def sealed_part(state: Path, projection: str, base: int) -> Path:
    """Return the file of the complete part that begins at byte `base` of the projection."""
    return state / f"{projection}-{base:020d}.jsonl"


def sealed_bases(state: Path, projection: str) -> list[int]:
    """Return where the sealed parts on the disk begin, in order."""
    prefix = len(projection) + 1
    digits = 20
    found = [path.stem[prefix:] for path in state.glob(f"{projection}-*.jsonl")]
    return sorted(int(text) for text in found if len(text) == digits and text.isdigit())


def read_range(state: Path, projection: str, base: int, first: int, last: int) -> bytes:
    """Return bytes [first, last) of the projection whose open part begins at `base`, fewer if some are missing."""
    starts = [*(start for start in sealed_bases(state, projection) if start < base), base]
    pieces = []
    for at, start in enumerate(starts):
        end = starts[at + 1] if at + 1 < len(starts) else last
        if end <= first or start >= last:
            continue
        path = open_part(state, projection) if start == base else sealed_part(state, projection, start)
        try:
            with path.open("rb") as file:
                file.seek(max(first, start) - start)
                pieces.append(file.read(min(last, end) - max(first, start)))
        except FileNotFoundError:
            break
    return b"".join(pieces)
