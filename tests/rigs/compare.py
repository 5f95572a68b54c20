"""Compare what two runs wrote.

Owns: reading a projection (`flags`, `rejections`) as the promise defines it, the concatenation of its sealed parts and
the open file, and saying where two of them part.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SHOWN = 400


def projection_bytes(state_dir: Path, name: str) -> bytes:
    """Return the sealed parts ``NAME-<20 digits>.jsonl`` in order, then ``NAME.jsonl``; missing files are empty."""
    sealed = re.compile(rf"{re.escape(name)}-\d{{20}}\.jsonl")
    parts = sorted(path for path in state_dir.glob(f"{name}-*.jsonl") if sealed.fullmatch(path.name))
    current = state_dir / f"{name}.jsonl"
    if current.exists():
        parts.append(current)
    return b"".join(part.read_bytes() for part in parts)


def assert_same_projection(name: str, got: Path, expected: Path) -> None:
    """Assert that two state directories hold the same projection; the message shows the first line that differs."""
    left, right = projection_bytes(got, name), projection_bytes(expected, name)
    if left != right:
        raise AssertionError(f"{name}: {first_difference(left, right)}")


def assert_same_flags(got: Path, expected: Path) -> None:
    """Assert that two state directories hold the same flags, byte for byte."""
    assert_same_projection("flags", got, expected)


def first_difference(got: bytes, expected: bytes) -> str:
    """Describe where two texts part: byte, line, and both lines."""
    at = next(
        (number for number, (one, other) in enumerate(zip(got, expected, strict=False)) if one != other),
        min(len(got), len(expected)),
    )
    line = got.count(b"\n", 0, at)
    pairs = itertools.zip_longest(got.splitlines(), expected.splitlines(), fillvalue=b"(nothing)")
    left, right = next(itertools.islice(pairs, line, None), (b"(nothing)", b"(nothing)"))
    return (
        f"{len(got)} bytes instead of {len(expected)}, first difference at byte {at}, line {line + 1}:\n"
        f"  got      {left[:_SHOWN]!r}\n  expected {right[:_SHOWN]!r}"
    )
