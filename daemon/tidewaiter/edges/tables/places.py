"""Which files an input is: one file, the files of a directory or of a pattern, several paths, or standard input.

Owns: finding them and their order, which is that of the bytes of their names. Leaves to `decompressing` the files
themselves, and to `sources` whether they go together.

Of a directory or a pattern, hidden files and what runs themselves leave beside their outputs (``*.audit.jsonl``,
``*.rejected.jsonl``) are passed over, the latter two where the other files are no JSON Lines; anything else must be a
table.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from tidewaiter.core.errors import ConfigError, DurabilityError
from tidewaiter.core.pipelines.table_format import TableFormat, known_format
from tidewaiter.edges.tables.decompressing import InputFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STDIN: Final = "-"
_STDIN_COPY: Final = "standard-input"
_COPY_BYTES: Final = 1 << 20
_LEFT_BY_RUNS: Final = (".audit.jsonl", ".rejected.jsonl")
_JSON_LINES: Final = (".jsonl", ".ndjson")
_COMPRESSED: Final = (".gz", ".zst", ".zstd")


def find_files(
    places: Path | Sequence[Path] | str,
    said: TableFormat,
    *,
    spill: Path | None,
    max_ratio: int,
    stdin: BinaryIO | None = None,
) -> list[InputFile]:
    """Return the files of the input in reading order, at least one; several paths stay in the order given.

    Raises ConfigError where there is none, where one is named twice, or where its format is unknown.
    """
    if isinstance(places, (str, Path)):
        if str(places) == STDIN:
            return [_copy_of_stdin(said, spill, max_ratio, stdin or sys.stdin.buffer)]
        paths = expand(Path(places))
    else:
        paths = [path for place in places for path in expand(Path(place))]
    if not paths:
        raise ConfigError("the input names no file", hint="give at least one")
    _refuse_twice(paths)
    return [InputFile(path, known_format(str(path), said), max_ratio=max_ratio) for path in paths]


def expand(place: Path) -> list[Path]:
    """Return the files that one place stands for. Raises ConfigError where it holds none, or one in two forms."""
    if place.is_dir():
        paths = _tables(each for each in place.iterdir() if not each.name.startswith("."))
        if not paths:
            raise ConfigError(f"{place}: the directory holds no files", hint="check the input's path")
        for each in paths:
            if each.is_dir():
                hint = f"name the files by a pattern, such as {place}/**/*.csv"
                raise ConfigError(f"{each}: a directory within the input's directory", hint=hint)
        return paths
    if glob.has_magic(str(place)) and not place.exists():
        found = glob.glob(str(place), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
        paths = _tables(path for each in found if not (path := Path(each)).is_dir())
        if not paths:
            raise ConfigError(f"{place}: no file matches", hint="check the pattern")
        return paths
    return [place]


def _tables(paths: Iterable[Path]) -> list[Path]:
    """Return what was found in the order of the names, without what runs leave beside their outputs."""
    found = sorted(paths, key=os.fsencode)
    others = [path for path in found if not path.name.endswith(_LEFT_BY_RUNS)]
    if any(not _plain(path).endswith(_JSON_LINES) for path in others):
        found = others
    seen: dict[str, Path] = {}
    for path in found:
        first = seen.setdefault(_plain(path), path)
        if first is not path:
            hint = "its records would count twice: remove one of them, or name the files"
            raise ConfigError(f"{path}: the same table as {first}, compressed otherwise", hint=hint)
    return found


def _plain(path: Path) -> str:
    """Return the name of a file without what its compression adds."""
    name = str(path)
    return next((name.removesuffix(each) for each in _COMPRESSED if name.endswith(each)), name)


def _refuse_twice(paths: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        first = seen.setdefault(path.resolve(), path)
        if first is not path:
            hint = "its records would count twice"
            raise ConfigError(f"{path}: is the same file as {first}, named twice in the input", hint=hint)


def _copy_of_stdin(said: TableFormat, spill: Path | None, max_ratio: int, stdin: BinaryIO) -> InputFile:
    """Copy standard input into the directory `spill`: only a file can be hashed, counted and read twice."""
    form = known_format("standard input", said)
    if spill is None:
        raise ConfigError("standard input: no directory to copy it to", hint="name a directory for temporary files")
    path = spill / _STDIN_COPY
    try:
        with path.open("xb") as copy:
            shutil.copyfileobj(stdin, copy, _COPY_BYTES)
    except OSError as error:
        hint = "free some space, or name another directory for temporary files"
        raise DurabilityError(f"{path}: standard input cannot be copied: {error.strerror}", hint=hint) from error
    return InputFile(path, form, name="standard input", max_ratio=max_ratio)
