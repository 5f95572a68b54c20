"""The zip of a bundle: the same bytes for the same evidence, whole or not there at all.

Owns: the members' order, times and modes, their sums, and the signature of the sums. Leaves to `shell.bundle` what is
in it, and to `shell.new_file` how a file appears. Members are written one block at a time. SHA256SUMS and its signature
come last, for they are of all the others; the directory of the zip is sorted.
"""

from __future__ import annotations

import hashlib
import zipfile
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from tidewaiter.core.audit import PROJECTIONS, record_of
from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.tlog.notes import public_pem
from tidewaiter.core.tlog.texts import encode_hashes
from tidewaiter.edges import archive
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.shell.new_file import new_file
from tidewaiter.shell.prove import PAGE, SUMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tidewaiter.core.tlog.notes import SigningKey
    from tidewaiter.core.tlog.proofs import LogProof
    from tidewaiter.core.tlog.tiles import Tile
    from tidewaiter.shell.audit_reading import Entry
    from tidewaiter.shell.bundle import Bundle

SIGNATURE: Final = f"{SUMS}.sig"
_BLOCK_BYTES: Final = 1 << 20
_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
_FLAG: Final = f',"action":"{PROJECTIONS["flags"]}","record":'.encode()
_FLAG_WITHIN: Final = 2048  # room for the name of an actor


def write(bundle: Bundle, page: str, key: SigningKey | None, out: Path, progress: Callable[[int, int], None]) -> None:
    """Write the bundle to the new file `out`; `key` signs the sums. `progress` is told bytes done and in all.

    Raises ConfigError, IntegrityRefusal and DurabilityError.
    """
    total = 2 * sum(part.length for part in bundle.parts)
    with new_file(out, "--out") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        zipped = _Zipped(target, bundle.ends, lambda done: progress(min(done, total), total))
        # sorted by name alone: contents are read when they are written
        for name, content in sorted([*_members(bundle), (PAGE, [page.encode()])], key=itemgetter(0)):
            zipped.add(name, content)
        sums = zipped.sums()
        zipped.add(SUMS, [sums])
        if key is not None:
            zipped.add(SIGNATURE, [key.sign(sums).blob])
        target.filelist.sort(key=lambda info: info.filename)


class _Zipped:
    """A zip that is being written, and the sums of what is in it."""

    def __init__(self, target: zipfile.ZipFile, timestamp: str, progress: Callable[[int], None]) -> None:
        """`timestamp` (UTC text, that of the last entry) is the time of all members."""
        self._target = target
        self._time = tuple(int(timestamp[at : at + size]) for at, size in _DIGITS)
        self._progress = progress
        self._sums: list[tuple[str, str]] = []
        self._done = 0

    def add(self, name: str, content: Iterable[bytes]) -> None:
        info = zipfile.ZipInfo(name, self._time)  # type: ignore[arg-type]
        info.compress_type = zipfile.ZIP_STORED if name.startswith("tile/") else zipfile.ZIP_DEFLATED
        info.external_attr, info.create_system = _MODE, _UNIX
        digest = hashlib.sha256()
        with self._target.open(info, "w", force_zip64=True) as member:
            for block in content:
                member.write(block)
                digest.update(block)
                self._done += len(block)
                self._progress(self._done)
        self._sums.append((name, digest.hexdigest()))

    def sums(self) -> bytes:
        return "".join(f"{digest}  {name}\n" for name, digest in sorted(self._sums)).encode()


_DIGITS: Final = ((0, 4), (5, 2), (8, 2), (11, 2), (14, 2), (17, 2))
"""Year, month, day, hour, minute and second in a UTC text."""


def _members(bundle: Bundle) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield name and content of each member but the page and the sums."""
    files = TreeFiles(bundle.state)
    for part in bundle.parts:
        yield f"audit/{part.path.name}", _stretch(part.path, 0, part.length)
    yield "flags.jsonl", _flags(bundle)
    yield "checkpoint", [bundle.newest.note.encode()]
    if bundle.witnessed is not None:
        yield "witnessed", [bundle.witnessed.note.encode()]
    yield "checkpoints", _stretch(files.path / "checkpoints", *bundle.listed)
    for one in bundle.kept:
        yield kept_name(one.head.size), [one.note.encode()]
    for old, new, proof in zip(bundle.kept[:-1], bundle.kept[1:], bundle.links, strict=True):
        head = b"consistency\n%d %d\n" % (old.head.size, new.head.size)
        yield link_name(old.head.size, new.head.size), [head + encode_hashes(proof)]
    for name, hashes in zip(("left", "right"), bundle.beside, strict=True):
        yield f"range/{name}", [encode_hashes(hashes)]
    for tile in bundle.tiles:
        yield tile.path, _tile(files, tile)
    for digest in bundle.in_force:
        yield f"rules/{digest}", _archived(bundle.state, digest)
    for name in (*bundle.covered, *bundle.uncovered):
        yield name, _stretch(bundle.state / name, 0, (bundle.state / name).stat().st_size)
    for each in bundle.taken_over:
        yield from _proved(f"keys/{each.entry.head.index:020d}", each.entry, each.proof)
    if bundle.before is not None:
        yield from _proved("before", *bundle.before)
    if bundle.keys:
        yield "log.vkey", [f"{key.verifier}\n".encode() for key in bundle.keys]
    if bundle.signer is not None:
        yield "log.pem", [public_pem(bundle.signer)]


def _proved(name: str, entry: Entry, proof: LogProof) -> Iterator[tuple[str, Iterable[bytes]]]:
    yield f"{name}.jsonl", [entry.line]
    yield f"{name}.tlog-proof", [proof.encode()]


def _tile(files: TreeFiles, tile: Tile) -> Iterator[bytes]:
    yield files.read_tile(tile)


def _archived(state: Path, digest: str) -> Iterator[bytes]:
    yield archive.load(state, digest)


def kept_name(size: int) -> str:
    """Return the member of a checkpoint that is linked by proofs."""
    return f"kept/{size:020d}"


def link_name(old: int, new: int) -> str:
    """Return the member of the proof that leads from one checkpoint to the next."""
    return f"consistency/{old:020d}-{new:020d}"


def _stretch(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """Yield the bytes [begin, end) of the file."""
    if begin == end:
        return
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end and (block := file.read(min(_BLOCK_BYTES, end - begin))):
            yield block
            begin += len(block)
    if begin < end:
        raise IntegrityRefusal(f"{path}: ends at byte {begin}, expected {end}", hint="it was cut meanwhile")


def _flags(bundle: Bundle) -> Iterator[bytes]:
    for part in bundle.parts:
        for line in part.lines():
            if line.find(_FLAG, 0, _FLAG_WITHIN) >= 0:
                yield record_of(line)
