"""The bytes of one file of an input: hashed as they lie there, decompressed in bounded memory, and held to be constant.

Owns: opening, the SHA-256 of the file's own bytes, noticing that the file changed while it was read, and refusing
decompression bombs. Leaves to `edges.compressed` the formats, and to the table modules what the bytes mean.

A bomb is a file of which more than `max_ratio` bytes come out for each byte that went in, once more than BOMB_BYTES
came out: delimited text seldom compresses better than 50:1, and small files may do as they like.
"""

from __future__ import annotations

import hashlib
import io
import stat
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tidewaiter.core.errors import ConfigError, SourceHalt
from tidewaiter.edges.compressed import Damaged, NotWhole, open_reader

if TYPE_CHECKING:
    import os
    from collections.abc import Generator
    from pathlib import Path

    from tidewaiter.core.pipelines.table_format import KnownFormat

MAX_RATIO: Final = 200
BOMB_BYTES: Final = 100 << 20
READ_BYTES: Final = 1 << 20
_ENCODINGS: Final[dict[str, Literal["gz", "zst"]]] = {"gzip": "gz", "zstd": "zst"}


class Stamp(NamedTuple):
    """What tells one state of a file from another, without reading it. Times in nanoseconds, sizes in bytes."""

    device: int
    inode: int
    size: int
    modified: int


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp in the answer of a stat call."""
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class _HashedFile(io.FileIO):
    """An unbuffered file that hashes and counts what is read from it, once and in order."""

    def __init__(self, file: InputFile) -> None:
        super().__init__(file.path)
        self.digest = hashlib.sha256()
        self._of = file

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) or b""
        self.digest.update(data)
        self._of.bytes_read += len(data)
        return data


class InputFile:
    """One file of an input. `name` is how messages call it; `sha256` is known when it was read to its end once."""

    def __init__(self, path: Path, form: KnownFormat, *, name: str = "", max_ratio: int = MAX_RATIO) -> None:
        """Look at the file. Raises ConfigError where it is none that can be read."""
        self.path = path
        self.form = form
        self.name = name or str(path)
        self.max_ratio = max_ratio
        self.bytes_read = 0
        self.sha256: str | None = None
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{self.name}: is not a regular file", hint='"-" reads standard input')
            with path.open("rb"):
                pass
        except OSError as error:
            raise ConfigError(
                f"{self.name}: cannot be read: {error.strerror}", hint="check the input's path"
            ) from error
        self.stamp = stamp_of(status)

    @property
    def length(self) -> int:
        """Bytes of the file as they lie there."""
        return self.stamp.size

    def check_unchanged(self) -> None:
        """Raise SourceHalt if the file is another one than when it was first looked at, or was written to."""
        try:
            now = stamp_of(self.path.stat())
        except OSError:
            raise self._changed("was removed") from None
        if now[:2] != self.stamp[:2]:
            raise self._changed("was replaced")
        if now != self.stamp:
            raise self._changed(f"was written to ({self.stamp.size} bytes before, {now.size} now)")

    def _changed(self, how: str) -> SourceHalt:
        hint = "nothing was put out; run again when no one writes to the input"
        return SourceHalt(f"{self.name}: {how} while it was read", hint=hint)

    def content(self, size: int = READ_BYTES) -> Generator[bytes]:
        """Return the decompressed content in parts of 1 to `size` bytes; at its end `sha256` is known.

        Raises SourceHalt where the file is damaged, cut short, a decompression bomb, or changed meanwhile.
        """
        self.bytes_read = 0
        self.check_unchanged()
        try:
            with _HashedFile(self) as raw:
                encoding = _ENCODINGS.get(self.form.compression)
                yield from _plain(raw, size) if encoding is None else self._decompressed(raw, encoding, size)
                self.check_unchanged()
                if self.bytes_read != self.length:
                    raise self._changed(f"gave {self.bytes_read} bytes of {self.length}")
                self.sha256 = raw.digest.hexdigest()
        except OSError as error:
            raise SourceHalt(f"{self.name}: cannot be read: {error.strerror}", hint="check the disk") from error

    def _decompressed(self, raw: _HashedFile, encoding: Literal["gz", "zst"], size: int) -> Generator[bytes]:
        reader = open_reader(raw, encoding)
        kind = self.form.compression
        out = 0
        try:
            while data := reader.read(min(size, READ_BYTES)):
                out += len(data)
                if out > BOMB_BYTES and out > self.max_ratio * max(raw.tell(), 1):
                    much = f"{raw.tell()} compressed bytes gave {out} bytes, more than {self.max_ratio}:1"
                    raise SourceHalt(
                        f"{self.name}: {much}",
                        hint="a decompression bomb is not read; if it is none, decompress it, or say what it may be: "
                        "max_ratio in [input] of the pipeline file",
                    )
                yield data
        except NotWhole:
            where = f"at compressed byte {self.length}"
            hint = "copy it again"
            raise SourceHalt(f"{self.name}: the {kind} file is cut short: it ends {where}", hint=hint) from None
        except Damaged as error:
            message = f"{self.name}: the {kind} file is damaged at compressed byte {error.at}: {error.why}"
            raise SourceHalt(message, hint="copy it again, or check how it was compressed") from None

    def hash_whole(self) -> None:
        """Read the file to its end for its digest alone; for formats that are not read in order."""
        for _ in self.content():
            pass


def _plain(raw: _HashedFile, size: int) -> Generator[bytes]:
    while data := raw.read(size):
        yield data
