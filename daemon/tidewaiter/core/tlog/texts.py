"""How the log's texts are spelled: one way each, and everything else is refused.

Owns: characters, base64 and decimals of notes, checkpoints, proofs and witness requests. Leaves to its neighbours what
the texts say. A text that could be spelled in two ways would have two hashes.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Final

from tidewaiter.core.tlog.merkle import HASH_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PROOF_HASHES: Final = 63
MAX_NUMBER: Final = 2**63 - 1

_DECIMAL: Final = re.compile(rb"0|[1-9][0-9]{0,18}")
_CONTROL: Final = re.compile(rb"[\x00-\x09\x0b-\x1f]")
_SHOWN: Final = 40


class NoteError(ValueError):
    """A note, checkpoint, key or proof that is not what it should be; the message says what is wrong."""


def shown(value: bytes | str) -> str:
    """Return a short, printable form of untrusted text for a message."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def decoded(data: bytes) -> str:
    """Return UTF-8 text without control characters other than newline. Raises NoteError."""
    if found := _CONTROL.search(data):
        raise NoteError(f"byte {found.start()}: control character {found[0][0]:#04x}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoteError(f"byte {error.start}: not UTF-8") from None


def encode_base64(data: bytes) -> bytes:
    """Return the base64 text of RFC 4648 section 4."""
    return b2a_base64(data, newline=False)


def decode_base64(text: bytes, what: str) -> bytes:
    """Return the bytes of the one base64 text that stands for them; `what` names it. Raises NoteError."""
    try:
        data = a2b_base64(text, strict_mode=True)
    except Base64Error:
        raise NoteError(f"{what}: not base64: {shown(text)}") from None
    if encode_base64(data) != text:
        raise NoteError(f"{what}: base64 that is not canonical: {shown(text)}")
    return data


def decode_hash(text: bytes, what: str) -> bytes:
    """Return the 32 bytes of a hash in base64. Raises NoteError."""
    data = decode_base64(text, what)
    if len(data) != HASH_BYTES:
        raise NoteError(f"{what}: expected {HASH_BYTES} bytes, found {len(data)}")
    return data


def decode_number(text: bytes, what: str) -> int:
    """Return a decimal without leading zeros, at most 2**63 - 1. Raises NoteError."""
    if not _DECIMAL.fullmatch(text) or (number := int(text)) > MAX_NUMBER:
        raise NoteError(f"{what}: expected a decimal number without leading zeros below 2**63, found {shown(text)}")
    return number


def split_head(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines before the first empty line and the bytes behind it: a head and its note. Raises NoteError."""
    head, blank, rest = data.partition(b"\n\n")
    if not blank:
        raise NoteError("no empty line in front of the checkpoint")
    return head.split(b"\n"), rest


def encode_hashes(hashes: Sequence[bytes]) -> bytes:
    """Return one line per hash."""
    return b"".join(encode_base64(value) + b"\n" for value in hashes)


def decode_hashes(lines: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the hashes of a proof, one a line. Raises NoteError."""
    if len(lines) > MAX_PROOF_HASHES:
        raise NoteError(f"{len(lines)} hashes in a proof; {MAX_PROOF_HASHES} are the most a tree can need")
    return tuple(decode_hash(line, f"proof hash {number}") for number, line in enumerate(lines, 1))
