"""Signed notes and their keys: C2SP signed-note v1.0.0.

Owns: the bytes of notes, signature lines, verifier keys and signing keys, and whether a signature holds. Leaves to
`checkpoints` what a text says, to `cosignatures` what types 0x04 and 0x06 sign, and to `policies` whom to trust.

A note is taken in one spelling only. The text must not be believed before a signature of a trusted key was verified.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from tidewaiter.core.tlog.cosignatures import (
    COSIGNATURE_ED25519,
    COSIGNATURE_ML_DSA_44,
    cosigned_message,
    split_timestamp,
    with_timestamp,
)
from tidewaiter.core.tlog.texts import NoteError, decode_base64, decoded, encode_base64, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

try:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

    ML_DSA: Final = True
except ImportError:  # an older library: keys of type 0x06 are refused with a message
    ML_DSA = False  # type: ignore[misc]

__all__ = [
    "COSIGNATURE_ED25519",
    "COSIGNATURE_ML_DSA_44",
    "ED25519",
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "ML_DSA",
    "Note",
    "NoteError",
    "Signature",
    "SigningKey",
    "VerifierKey",
    "parse_note",
    "parse_notes",
    "parse_signatures",
    "parse_skey",
    "parse_vkey",
    "public_pem",
    "signing_key",
    "verified",
]

ED25519: Final = 0x01
MAX_SIGNATURES: Final = 100
MAX_NOTE_BYTES: Final = 1_000_000

_DASH: Final = "— ".encode()
_KEY_ID_BYTES: Final = 4
_SEED_BYTES: Final = 32
_PUBLIC_BYTES: Final = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_ML_DSA_44: 1312}
_KEY_ID: Final = re.compile("[0-9a-f]{8}")
_PRIVATE: Final = "PRIVATE+KEY+"


class Signature(Struct, frozen=True):
    """One signature line. `blob` is what follows the key id; for cosignatures it begins with the timestamp."""

    name: str
    key_id: bytes
    blob: bytes

    def line(self) -> bytes:
        """Return the line, newline included."""
        return b"%b%b %b\n" % (_DASH, self.name.encode(), encode_base64(self.key_id + self.blob))


class Note(Struct, frozen=True):
    """A text, its last newline included, and its signatures."""

    text: bytes
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return self.text + b"\n" + b"".join(signature.line() for signature in self.signatures)


class VerifierKey(Struct, frozen=True):
    """A public key under a name; `str()` gives the vkey."""

    name: str
    type: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name, newline, type, public key)."""
        return hashlib.sha256(b"%b\n%c%b" % (self.name.encode(), self.type, self.public)).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        """Return the vkey."""
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(bytes([self.type]) + self.public).decode()}"

    def verifies(self, text: bytes, signature: Signature) -> bool:
        """Say whether the signature is this key's and holds for the note text.

        Raises NoteError when this type cannot be checked here.
        """
        if (signature.name, signature.key_id) != (self.name, self.key_id):
            return False
        public = _public_key(self.type, self.public)
        message, bare = text, signature.blob
        try:
            if self.type != ED25519:
                timestamp, bare = split_timestamp(signature.blob)
                message = cosigned_message(self.type, self.name, timestamp, text)
            public.verify(bare, message)
        except (InvalidSignature, NoteError):
            return False
        return True


class SigningKey:
    """A private key under a name. Only `encode` gives the secret away."""

    __slots__ = ("_private", "_seed", "name", "verifier")

    def __init__(self, name: str, seed: bytes, kind: int = ED25519) -> None:
        """Derive the key of type `kind` from 32 secret bytes. Raises NoteError."""
        _checked_name(name)
        if len(seed) != _SEED_BYTES:
            raise NoteError(f"a private key has {_SEED_BYTES} bytes, found {len(seed)}")
        self.name = name
        self._seed = seed
        self._private = _private_key(kind, seed)
        self.verifier = VerifierKey(name, kind, self._private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        """Return the public part only."""
        return f"SigningKey({self.verifier})"

    def sign(self, text: bytes, timestamp: int | None = None) -> Signature:
        """Return the signature of a note text; cosignatures need the `timestamp` in seconds since 1970.

        Raises NoteError for texts that cannot be signed.
        """
        _checked_text(text)
        kind = self.verifier.type
        if kind == ED25519:
            return Signature(self.name, self.verifier.key_id, self._private.sign(text))
        if timestamp is None:
            raise NoteError(f"a cosignature of {shown(self.name)} needs a timestamp")
        message = cosigned_message(kind, self.name, timestamp, text)
        return Signature(self.name, self.verifier.key_id, with_timestamp(timestamp, self._private.sign(message)))

    def encode(self) -> str:
        """Return the secret text: ``PRIVATE+KEY+name+key id+base64(type, seed)``."""
        secret = encode_base64(bytes([self.verifier.type]) + self._seed).decode()
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{secret}"


def signing_key(name: str, seed: bytes, type: int = ED25519) -> SigningKey:  # noqa: A002 - the specification's word
    """Return the key of this type that is derived from 32 secret bytes. Raises NoteError."""
    return SigningKey(name, seed, type)


def parse_vkey(text: str) -> VerifierKey:
    """Return the key that a vkey stands for. Raises NoteError."""
    name, key_id, key = _split_key(text, "verifier key")
    kind, public = key[0], key[1:]
    if kind not in _PUBLIC_BYTES:
        raise NoteError(f"verifier key of {shown(name)}: signature type {kind:#04x} is not known here")
    if len(public) != _PUBLIC_BYTES[kind]:
        raise NoteError(
            f"verifier key of {shown(name)}: type {kind:#04x} has {_PUBLIC_BYTES[kind]} bytes, found {len(public)}"
        )
    _public_key(kind, public)
    found = VerifierKey(name, kind, public)
    if found.key_id.hex() != key_id:
        raise NoteError(f"verifier key of {shown(name)}: expected key id {found.key_id.hex()}, found {key_id}")
    return found


def parse_skey(text: str) -> SigningKey:
    """Return the key that `SigningKey.encode` wrote. Raises NoteError, whose message keeps the secret."""
    if not text.startswith(_PRIVATE):
        raise NoteError(f"a private key begins with {_PRIVATE}")
    name, key_id, secret = _split_key(text.removeprefix(_PRIVATE), "private key", secret=True)
    found = SigningKey(name, secret[1:], secret[0])
    if found.verifier.key_id.hex() != key_id:
        raise NoteError(f"private key of {shown(name)}: the key id does not fit the key")
    return found


def public_pem(key: VerifierKey) -> bytes:
    """Return the public key as SubjectPublicKeyInfo PEM, as openssl reads it. Raises NoteError."""
    return _public_key(key.type, key.public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def parse_note(data: bytes, *, unsigned: bool = False) -> Note:
    """Return the note that is exactly these bytes; `unsigned` allows one without signatures. Raises NoteError."""
    if len(data) > MAX_NOTE_BYTES:
        raise NoteError(f"a note of {len(data)} bytes; {MAX_NOTE_BYTES} is the most")
    decoded(data)
    at = data.rfind(b"\n\n")
    if at < 0:
        raise NoteError("no empty line between text and signatures")
    signatures = parse_signatures(data[at + 2 :])
    if not signatures and not unsigned:
        raise NoteError("the note has no signature")
    return Note(data[: at + 1], signatures)


def parse_notes(data: bytes) -> Iterator[tuple[Note, int]]:
    """Yield each note of a file of notes, with the offset behind it; the texts have no empty lines.

    Stops in front of a torn last one: one that ends too early, or was not written (zeros). Raises NoteError.
    """
    begin = 0
    while (end := _end_of_note(data, begin)) is not None:
        try:
            note = parse_note(data[begin:end])
        except NoteError as error:
            if b"\x00" in data[begin:] and data.find(b"\n\n", end) < 0:
                return
            raise NoteError(f"the note at byte {begin}: {error}") from None
        yield note, end
        begin = end


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Return the signatures of lines as they stand behind a note's text. Raises NoteError."""
    *lines, rest = data.split(b"\n")
    if rest:
        raise NoteError("the last signature line does not end with a newline")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"{len(lines)} signatures; {MAX_SIGNATURES} are the most")
    return tuple(_parse_signature(line, f"signature {number}") for number, line in enumerate(lines, 1))


def verified(note: Note, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
    """Return those of the keys that signed the note, in the order of their signatures.

    Signatures of other keys are ignored. Raises NoteError when a signature of one of the keys does not hold.
    """
    known = {(key.name, key.key_id): key for key in keys}
    found: dict[VerifierKey, None] = {}
    for number, signature in enumerate(note.signatures, 1):
        if (key := known.get((signature.name, signature.key_id))) is None:
            continue
        if not key.verifies(note.text, signature):
            raise NoteError(f"signature {number}, of {shown(key.name)}, does not hold for this text")
        found[key] = None
    return list(found)


def _end_of_note(data: bytes, begin: int) -> int | None:
    """Return where the note ends that begins there, None when it is not complete."""
    end = data.find(b"\n\n", begin) + 2
    if end == 1:
        return None
    first = end
    while data.startswith(_DASH, end):
        end = data.find(b"\n", end) + 1
        if not end:
            return None
    rest = data[end : end + len(_DASH)]
    torn = _DASH.startswith(rest) and (rest or end == first)
    return None if torn else end


def _parse_signature(line: bytes, what: str) -> Signature:
    name, space, text = line.removeprefix(_DASH).partition(b" ")
    if not line.startswith(_DASH) or not space:
        raise NoteError(f"{what}: expected a dash, a name and base64, found {shown(line)}")
    blob = decode_base64(text, what)
    if len(blob) <= _KEY_ID_BYTES:
        raise NoteError(f"{what}: {len(blob)} bytes are too short for a key id and a signature")
    return Signature(_checked_name(decoded(name)), blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:])


def _checked_text(text: bytes) -> None:
    decoded(text)
    if not text.endswith(b"\n"):
        raise NoteError("the text of a note ends with a newline")


def _checked_name(name: str) -> str:
    if not name or "+" in name or any(character.isspace() or character < " " for character in name):
        raise NoteError(f"a key name has no spaces, plus or control characters and is not empty, found {shown(name)}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise NoteError(f"a key name is UTF-8 text, found {shown(name)}") from None
    return name


def _split_key(text: str, what: str, *, secret: bool = False) -> tuple[str, str, bytes]:
    parts = text.split("+", 2)
    if len(parts) != 3:  # noqa: PLR2004 - name, key id, key
        raise NoteError(f"a {what} is name+key id+base64" + ("" if secret else f", found {shown(text)}"))
    name, key_id, key = _checked_name(parts[0]), parts[1], parts[2]
    if not _KEY_ID.fullmatch(key_id):
        raise NoteError(f"{what} of {shown(name)}: a key id is eight lower-case hexadecimal digits")
    try:
        data = decode_base64(key.encode(), what)
    except (NoteError, UnicodeEncodeError):
        raise NoteError(f"{what} of {shown(name)}: not base64 in its canonical form") from None
    if not data:
        raise NoteError(f"{what} of {shown(name)}: the key is empty")
    return name, key_id, data


def _unsupported(kind: int) -> NoteError:
    if kind == COSIGNATURE_ML_DSA_44:
        return NoteError("signature type 0x06 needs a `cryptography` library with ML-DSA-44; this one has none")
    return NoteError(f"signature type {kind:#04x} is not known here")


def _private_key(kind: int, seed: bytes) -> Ed25519PrivateKey | MLDSA44PrivateKey:
    if kind in {ED25519, COSIGNATURE_ED25519}:
        return Ed25519PrivateKey.from_private_bytes(seed)
    if kind == COSIGNATURE_ML_DSA_44 and ML_DSA:
        try:
            return MLDSA44PrivateKey.from_seed_bytes(seed)
        except UnsupportedAlgorithm:
            pass
    raise _unsupported(kind)


@lru_cache(maxsize=64)  # the history of a log is verified under few keys
def _public_key(kind: int, public: bytes) -> Ed25519PublicKey | MLDSA44PublicKey:
    if kind in {ED25519, COSIGNATURE_ED25519}:
        return Ed25519PublicKey.from_public_bytes(public)
    if kind == COSIGNATURE_ML_DSA_44 and ML_DSA:
        try:
            return MLDSA44PublicKey.from_public_bytes(public)
        except UnsupportedAlgorithm:
            pass
    raise _unsupported(kind)
