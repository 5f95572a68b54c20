"""Large commits chained by a process of their own, beside the interpreter lock.

Owns: when that is worth it, and what an answer must be like to be believed. Leaves to `core.chaining` the chain, to
`edges.chain_serving` the texts, and to `edges.worker` the process.

Behind a catch-up with many flags, chaining their entries takes a seventh of the time that the interpreter has, and
takes it from the thread that evaluates. The process is asked for one commit at a time and knows nothing between two;
at any trouble it is given up, and the same function runs here: the bytes are the same, nothing is lost but time.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from tidewaiter.core.chaining import Chained, chain_entries
from tidewaiter.edges.chain_serving import ANSWER, answered_bytes, question
from tidewaiter.edges.worker import Lost, Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

_ASIDE_ENTRIES: Final = 1_000
"""From here on a commit is worth asking for: it takes some 2 ms to chain."""
_MOST_ENTRIES: Final = 20_000
"""Above this the copies on the way cost more than the process saves; a batch of the usual size has a tenth of it."""
_ANSWER_SECONDS: Final = 2.0
"""A hundred times what a commit takes, and well below the interval of the watchdog, which nobody feeds meanwhile."""


class ChainWorker(Worker):
    """Chains, here or there. All methods are called by one thread at a time."""

    def __init__(self) -> None:
        super().__init__("tidewaiter.edges.chain_serving", _ANSWER_SECONDS)

    def chain(self, head: str, index: int, kinds: Sequence[str], kind_of: bytes, texts: bytes) -> Chained:
        """Return what `chain_entries` does with this. The first large commit starts the process and is done here."""
        if _ASIDE_ENTRIES <= len(kind_of) <= _MOST_ENTRIES:
            started = self.running
            chained = self.ask(lambda: self._ask(head, index, kinds, kind_of, texts) if started else None)
            if chained is not None:
                return chained
        return chain_entries(head, index, kinds, kind_of, texts)

    def _ask(self, head: str, index: int, kinds: Sequence[str], kind_of: bytes, texts: bytes) -> Chained:
        self.send(question(head, index, kinds, kind_of, texts))
        self.send(texts)
        size, longest, last = ANSWER.unpack(self.receive(ANSWER.size))
        if size != answered_bytes(index, kinds, kind_of, texts):
            raise Lost(f"it answered {size} bytes")
        data = self.receive(size)
        line = data[data.rfind(b"\n", 0, -1) + 1 :]
        if not (
            data.startswith(b'{"prev":"%b","index":%d%b' % (head.encode(), index, kinds[kind_of[0]].encode()))
            and line.endswith(b"%b}\n" % texts[texts.rfind(b"\n") + 1 :])
            and hashlib.sha256(line).hexdigest().encode() == last
        ):
            raise Lost("its answer is not what was asked for")
        return Chained(data, last.decode(), longest)
