"""How a table lies in a file: its format, its compression, and the dialect of delimited text.

Owns: the words for it, shared by the pipeline file, the command line and the Python API, and what a file's name says.
Leaves to `edges.tables` reading and writing.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from tidewaiter.core.errors import ConfigError

FORMATS: Final = ("csv", "tsv", "jsonl", "parquet", "arrow")
COMPRESSIONS: Final = ("none", "gzip", "zstd")
ENCODINGS: Final = ("utf-8", "latin-1", "windows-1252", "utf-16")
_ALIASES: Final = {
    "utf8": "utf-8", "latin1": "latin-1", "iso-8859-1": "latin-1", "cp1252": "windows-1252", "utf16": "utf-16",
}  # fmt: skip
DELIMITED: Final = ("csv", "tsv")
MAX_RATIO_HINT: Final = "max_ratio is a whole number from 1: bytes that may come out of one compressed byte"
_BY_SUFFIX: Final = {
    "csv": "csv", "tsv": "tsv", "tab": "tsv", "jsonl": "jsonl", "ndjson": "jsonl",
    "parquet": "parquet", "pq": "parquet", "arrow": "arrow", "ipc": "arrow", "feather": "arrow",
}  # fmt: skip
_COMPRESSED: Final = {"gz": "gzip", "zst": "zstd", "zstd": "zstd"}


class TableFormat(Struct, frozen=True):
    """What a person said about a file; None where nothing was said.

    `columns` names those of a table without header. `max_ratio` is how many bytes may come out of one byte of a
    compressed input before it is refused as a bomb.
    """

    format: str | None = None
    compression: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    header: bool | None = None
    encoding: str | None = None
    columns: tuple[str, ...] | None = None
    max_ratio: int | None = None


class KnownFormat(Struct, frozen=True):
    """The same with every question answered; `columns` stays None where the file itself names them."""

    format: str
    compression: str
    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    encoding: str = "utf-8"
    columns: tuple[str, ...] | None = None


def plain_encoding(word: str) -> str:
    """Return the name of the encoding that `word` is another name of, such as ``UTF8``; else `word` itself."""
    plain = word.lower().replace("_", "-")
    return _ALIASES.get(plain, plain if plain in ENCODINGS else word)


def known_format(name: str, said: TableFormat = TableFormat()) -> KnownFormat:  # noqa: B008 - frozen
    """Return how the file called `name` is read or written; what was `said` goes before what the name says.

    Raises ConfigError where neither says the format, where a word is not known, or where the parts do not go together.
    """
    encoding = None if said.encoding is None else plain_encoding(said.encoding)
    for key, word, words in (
        ("format", said.format, FORMATS), ("compression", said.compression, COMPRESSIONS),
        ("encoding", encoding, ENCODINGS),
    ):  # fmt: skip
        if word not in (None, *words):
            raise ConfigError(f"{name}: {key} {word!r} is not known", hint=f"one of {', '.join(words)}")
    if said.max_ratio is not None and (type(said.max_ratio) is not int or said.max_ratio < 1):
        raise ConfigError(f"{name}: max_ratio {said.max_ratio!r} cannot be used", hint=MAX_RATIO_HINT)
    steps = name.lower().rsplit("/", 1)[-1].split(".")[1:]
    compression = said.compression
    if steps and steps[-1] in _COMPRESSED:
        compression = compression or _COMPRESSED[steps.pop()]
    form = said.format or (_BY_SUFFIX.get(steps[-1]) if steps else None)
    if form is None:
        hint = f"name a file that ends in one of {', '.join('.' + each for each in _BY_SUFFIX)}, or say the format"
        raise ConfigError(f"{name}: its name does not tell how it is written", hint=hint)
    if form in ("parquet", "arrow") and compression not in (None, "none"):
        hint = "leave the compression out: the format compresses by itself"
        raise ConfigError(f"{name}: a {form} file is not compressed as a whole", hint=hint)
    if form not in DELIMITED:
        for key in ("delimiter", "quote", "header", "encoding", "columns"):
            if getattr(said, key) is not None:
                raise ConfigError(f"{name}: {key} means nothing for {form}", hint="it is for csv and tsv")
    delimiter = said.delimiter or ("\t" if form == "tsv" else ",")
    quote = '"' if said.quote is None else said.quote
    for key, value in (("delimiter", delimiter), ("quote", quote)):
        if len(value) != 1 or not value.isascii() or value in "\r\n\0":
            raise ConfigError(f"{name}: {key} {value!r} cannot be used", hint="one ASCII character")
    if delimiter == quote:
        raise ConfigError(f"{name}: delimiter and quote are both {quote!r}", hint="choose two characters")
    return KnownFormat(
        format=form,
        compression=compression or "none",
        delimiter=delimiter,
        quote=quote,
        header=True if said.header is None else said.header,
        encoding=encoding or "utf-8",
        columns=said.columns,
    )
