"""From the encoding of a delimited file to UTF-8, part by part.

Owns: byte order marks and the encodings. Leaves to `csv_records` finding the record that holds an undecodable byte:
what cannot be decoded is handed on as bytes that are no UTF-8 either, so that exactly its record is refused.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_UTF16_MARKS: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF32_MARKS: Final = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_SINGLE_BYTES: Final = {"latin-1": "latin-1", "windows-1252": "cp1252"}
_NO_UTF8: Final = b"\xff"
"""Stands for half a character at the end of a UTF-16 file; no byte of any UTF-8 text."""


def to_utf8(parts: Iterator[bytes], encoding: str, name: str) -> Generator[bytes]:
    """Return the content of the file called `name` in UTF-8, without a byte order mark; an empty part may come.

    Raises ConfigError where the file begins with the mark of another encoding, or that of UTF-32.
    """
    first = b""
    for part in parts:
        first += part
        if len(first) >= len(codecs.BOM_UTF32_LE):
            break
    if first.startswith(_UTF32_MARKS):  # that of UTF-16 may begin it
        problem = "begins with the byte order mark of UTF-32, which is not supported"
        raise ConfigError(f"{name}: {problem}", hint=f"convert it: iconv -f UTF-32 -t UTF-8 {name}")
    if encoding != "utf-16" and first[:2] in _UTF16_MARKS:
        _refuse_mark(name, "UTF-16", encoding, "utf-16")
    if first.startswith(codecs.BOM_UTF8):
        if encoding != "utf-8":
            _refuse_mark(name, "UTF-8", encoding, "utf-8")
        first = first[len(codecs.BOM_UTF8) :]
    if encoding == "utf-8":
        yield first
        yield from parts
    elif encoding == "utf-16":
        yield from _from_utf16(first, parts)
    else:
        codec = _SINGLE_BYTES[encoding]
        # Python hands an unknown byte on as a lone surrogate, and back as that byte: a stray one in UTF-8
        yield first.decode(codec, "surrogateescape").encode("utf-8", "surrogateescape")
        for part in parts:
            yield part.decode(codec, "surrogateescape").encode("utf-8", "surrogateescape")


def _refuse_mark(name: str, mark: str, said: str, hint: str) -> None:
    raise ConfigError(
        f"{name}: begins with the byte order mark of {mark}, but is read as {said}", hint=f'say encoding = "{hint}"'
    )


def _from_utf16(first: bytes, parts: Iterator[bytes]) -> Generator[bytes]:
    codec = _UTF16_MARKS.get(first[:2])
    decoder = codecs.getincrementaldecoder(codec or "utf-16-le")("surrogatepass")
    yield _recode(decoder.decode(first[2:] if codec else first))
    for part in parts:
        yield _recode(decoder.decode(part))
    if decoder.getstate()[0]:
        yield _NO_UTF8


def _recode(text: str) -> bytes:
    """Return `text` in UTF-8, half pairs as bytes that are no UTF-8."""
    return text.encode("utf-8", "surrogatepass")
