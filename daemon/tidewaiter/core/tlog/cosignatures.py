"""What a cosignature signs: the messages of C2SP tlog-cosignature, types 0x04 (Ed25519) and 0x06 (ML-DSA-44).

Owns: the message and the timestamp in front of the signature. Leaves to `notes` the keys and signature lines.
"""

from __future__ import annotations

from typing import Final

from tidewaiter.core.tlog.checkpoints import parse_tree_head
from tidewaiter.core.tlog.texts import MAX_NUMBER, NoteError

COSIGNATURE_ED25519: Final = 0x04
COSIGNATURE_ML_DSA_44: Final = 0x06

_TIMESTAMP_BYTES: Final = 8
_MAX_NAME_BYTES: Final = 255


def cosigned_message(kind: int, cosigner: str, timestamp: int, text: bytes) -> bytes:
    """Return what a cosigner signs at `timestamp` (seconds since 1970) for the checkpoint with this text.

    Raises NoteError when the text is no checkpoint, or when a name or the timestamp is out of range.
    """
    head = parse_tree_head(text)
    if not 0 <= timestamp <= MAX_NUMBER:
        raise NoteError(f"a cosignature's timestamp is out of range: {timestamp}")
    if kind == COSIGNATURE_ED25519:
        return b"cosignature/v1\ntime %d\n" % timestamp + text
    return b"".join(
        (
            b"subtree/v1\n\x00",
            _prefixed(cosigner, "cosigner's name"),
            timestamp.to_bytes(8),
            _prefixed(head.origin, "log's origin"),
            (0).to_bytes(8),
            head.size.to_bytes(8),
            head.root,
        )
    )


def with_timestamp(timestamp: int, signature: bytes) -> bytes:
    """Return the blob of a cosignature."""
    return timestamp.to_bytes(_TIMESTAMP_BYTES) + signature


def split_timestamp(blob: bytes) -> tuple[int, bytes]:
    """Return when (seconds since 1970) a cosignature was made, and the bare signature."""
    return int.from_bytes(blob[:_TIMESTAMP_BYTES]), blob[_TIMESTAMP_BYTES:]


def _prefixed(name: str, what: str) -> bytes:
    data = name.encode()
    if not 1 <= len(data) <= _MAX_NAME_BYTES:
        raise NoteError(f"the {what} has {len(data)} bytes; an ML-DSA-44 cosignature takes 1 to {_MAX_NAME_BYTES}")
    return len(data).to_bytes(1) + data
