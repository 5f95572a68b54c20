"""The audit log's hash chain over many entries at once: the hot path of a commit.

Owns: the loop that gives each entry its place behind the one before. Leaves to `core.audit` what stands in an entry.
Imports next to nothing: `edges.chain_serving` runs the same function in a process of its own.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Chaining = Callable[[str, int, Sequence[str], bytes, bytes], "Chained"]
    """The signature of `chain_entries`."""

FRAME_BYTES: Final = len(b'{"prev":"","index":}\n') + 2 * hashlib.sha256().digest_size
"""What a line takes beside its index, the text of its kind, and its own text."""


class Chained(NamedTuple):
    """The lines of some entries, one behind the other, the digest (hex) of the last, and the longest's bytes."""

    data: bytes
    head: str
    longest: int


def chain_entries(head: str, index: int, kinds: Sequence[str], kind_of: bytes, texts: bytes) -> Chained:
    """Return the entries that follow on `index` entries, of which the last has the digest `head` (hex); at least one.

    The line of an entry is prev, index, the text of its kind, its own text, and the end. Its kind is
    ``kinds[kind_of[n]]``; `texts` are UTF-8, with a newline between two and none elsewhere.
    """
    sha256 = hashlib.sha256
    lines: list[bytes] = []
    append = lines.append
    for kind, text in zip(map(kinds.__getitem__, kind_of), texts.decode().split("\n"), strict=True):
        line = f'{{"prev":"{head}","index":{index}{kind}{text}}}\n'.encode()
        head = sha256(line).hexdigest()
        index += 1
        append(line)
    return Chained(b"".join(lines), head, max(map(len, lines)))
