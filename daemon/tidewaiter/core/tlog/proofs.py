"""The proof that one entry is in a log, to be checked offline: C2SP tlog-proof@v1.

Owns: the proof's text. Leaves to `merkle` whether it leads to the root, to `notes` and `policies` whether the
checkpoint inside counts: it is carried as it is.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from tidewaiter.core.tlog.texts import (
    NoteError,
    decode_base64,
    decode_hashes,
    decode_number,
    encode_base64,
    encode_hashes,
    shown,
    split_head,
)

_TITLE: Final = b"c2sp.org/tlog-proof@v1"
_EXTRA: Final = b"extra "
_INDEX: Final = b"index "


class LogProof(Struct, frozen=True):
    """Entry `index` is in the tree of `checkpoint` (a note's bytes); `extra` is not authenticated by anything."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Return the proof's bytes."""
        extra = b"" if self.extra is None else b"%b%b\n" % (_EXTRA, encode_base64(self.extra))
        head = b"%b\n%b%b%d\n" % (_TITLE, extra, _INDEX, self.index)
        return head + encode_hashes(self.hashes) + b"\n" + self.checkpoint


def parse_proof(data: bytes) -> LogProof:
    """Return the proof that is exactly these bytes. Raises NoteError."""
    lines, checkpoint = split_head(data)
    if lines.pop(0) != _TITLE:
        raise NoteError(f"the first line of a proof is {_TITLE.decode()}")
    extra = None
    if lines and lines[0].startswith(_EXTRA):
        extra = decode_base64(lines.pop(0).removeprefix(_EXTRA), "extra data")
    if not lines or not lines[0].startswith(_INDEX):
        raise NoteError(f"expected the index line, found {shown(lines[0]) if lines else 'the end'}")
    index = decode_number(lines.pop(0).removeprefix(_INDEX), "index")
    return LogProof(index, decode_hashes(lines), checkpoint, extra)
