"""The entries of a commit chained by a process that does nothing else: the two texts, and its answers.

Owns: how `core.chaining.chain_entries` is asked for and answered. Leaves to `edges.chain_worker` the asking. The
process keeps nothing between two questions and writes nothing but its answers:

    question   index, number of entries, bytes of the kinds, bytes of the texts; head; kinds, kind of each; texts
    answer     bytes of the entries, of the longest; head; the entries

Kinds and texts are UTF-8, with a newline between two of them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from tidewaiter.core.chaining import FRAME_BYTES, Chained, chain_entries
from tidewaiter.edges.worker_main import answer_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

QUESTION: Final = struct.Struct("<QQQQ64s")
ANSWER: Final = struct.Struct("<QQ64s")


def question(head: str, index: int, kinds: Sequence[str], kind_of: bytes, texts: bytes) -> bytes:
    """Return the text that asks for `chain_entries`, all but `texts`, which are sent behind it."""
    kinds_text = "\n".join(kinds).encode()
    return QUESTION.pack(index, len(kind_of), len(kinds_text), len(texts), head.encode()) + kinds_text + kind_of


def answered_bytes(index: int, kinds: Sequence[str], kind_of: bytes, texts: bytes) -> int:
    """Return how long the entries are that `chain_entries` returns, to the byte."""
    count = len(kind_of)
    lengths = [len(kind.encode()) for kind in kinds]
    first, last = len(str(index)), len(str(index + count - 1))
    digits = count * first if first == last else sum(len(str(number)) for number in range(index, index + count))
    own = len(texts) - (count - 1)  # without the newlines between them
    return own + digits + count * FRAME_BYTES + sum(kind_of.count(n) * length for n, length in enumerate(lengths))


def answer(chained: Chained) -> bytes:
    """Return the text that answers a question."""
    return ANSWER.pack(len(chained.data), chained.longest, chained.head.encode()) + chained.data


def _answer_next(file: BinaryIO) -> bytes | None:
    begin = file.read(QUESTION.size)
    if len(begin) < QUESTION.size:
        return None
    index, count, kinds_bytes, text_bytes, head = QUESTION.unpack(begin)
    kinds = file.read(kinds_bytes).decode().split("\n")
    kind_of = file.read(count)
    return answer(chain_entries(head.decode(), index, kinds, kind_of, file.read(text_bytes)))


def serve() -> None:
    """Answer until nobody asks any more."""
    answer_all(_answer_next)
