"""The files of the log's tree: tiles in the layout of C2SP tlog-tiles, and the checkpoints.

Owns: ``tlog/`` in the state directory: where its files are, reading them, and the order in which they are written.
Leaves to `core.tlog` what a tile and a checkpoint are, and to `edges.tree_follower` which of them are due.

    tlog/tile/<level>/<index>[.p/<width>]   tiles; partial ones for every size that a checkpoint was written for
    tlog/checkpoint                         the newest checkpoint; without a key: its text alone
    tlog/checkpoints                        every signed checkpoint, one behind the other
    tlog/witnessed                          the newest checkpoint that witnesses cosigned
    tlog/progress                           how far a tree came that was not made to the end of the log yet: a tree head

Everything here can be derived again from the audit log, but for the signatures: so nothing refers to a tile before it
is durable, and a checkpoint stands in ``checkpoints`` before it becomes ``checkpoint``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.notes import NoteError, parse_note, parse_notes
from tidewaiter.core.tlog.tiles import HASH_BYTES, Tile
from tidewaiter.edges.tree_growing import RESTORE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tidewaiter.core.tlog.notes import Note
    from tidewaiter.edges.durable import Disk

_OPEN_AT_ONCE: Final = 64
_LAST_BYTES: Final = 256 << 10
"""How much of ``checkpoints`` is looked at for the last one: a note with a hundred signatures has some 15 KiB."""
_BETWEEN_NOTES: Final = re.compile(rb"^\xe2\x80\x94 [^\n]*\n(?!\xe2\x80\x94 )", re.MULTILINE)


class _LastNotes(NamedTuple):
    """Whole notes from the end of all checkpoints, the last one's bytes, and where it ends in the file."""

    notes: list[Note]
    last: bytes
    end: int


class TreeFiles:
    """The tree's files of one state directory."""

    def __init__(self, state: Path) -> None:
        """Nothing is read yet, and nothing need be there."""
        self.path = state / "tlog"
        self._settled = False  # whether all that stands in ``checkpoints`` is known to be durable

    # -- reading -------------------------------------------------------------------------------------------------

    def read_tile(self, tile: Tile) -> bytes:
        """Return the hashes of a tile: `width` times 32 bytes. Raises IntegrityRefusal where they are not there.

        Where a partial tile is gone, the first hashes of the full one that took its place serve.
        """
        wanted = tile.width * HASH_BYTES
        full = tile._replace(width=Tile._field_defaults["width"])
        for candidate in (tile, full):
            try:
                data = (self.path / candidate.path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            if len(data) != candidate.width * HASH_BYTES:
                raise IntegrityRefusal(
                    f"{self.path / candidate.path}: is {len(data)} bytes long, expected {candidate.width * HASH_BYTES}",
                    hint=RESTORE,
                )
            return data[:wanted]
        raise IntegrityRefusal(f"{self.path / tile.path}: is missing", hint=RESTORE)

    def newest(self) -> bytes | None:
        """Return the newest checkpoint, as it stands in its file; None where there is none."""
        return _read(self.path / "checkpoint")

    def published(self) -> int:
        """Return how many entries are under a checkpoint."""
        newest = self.newest()
        return 0 if newest is None else self._head_of(newest, "checkpoint").size

    def newest_signed(self) -> bytes | None:
        """Return the newest checkpoint where it is signed."""
        newest = self.newest()
        return None if newest is None or newest.endswith(b"\n\n") else newest

    def last_signed(self) -> bytes | None:
        """Return the last checkpoint that was signed, also where the newest is not."""
        return self._last_notes().last or None

    def witnessed(self) -> bytes | None:
        """Return the newest checkpoint that was cosigned; None where there is none."""
        return _read(self.path / "witnessed")

    def signed(self) -> Iterator[tuple[Note, int]]:
        """Yield every signed checkpoint, oldest first, with the offset behind it; a torn last one is left out."""
        yield from parse_notes(_read(self.path / "checkpoints") or b"")

    def head(self) -> TreeHead | None:
        """Return the largest tree whose tiles are all there. Raises IntegrityRefusal for a damaged checkpoint."""
        heads = []
        progress = _read(self.path / "progress")
        if progress is not None:
            heads.append(self._head_of(progress, "progress"))
        newest = self.newest()
        if newest is not None:
            heads.append(self._head_of(newest, "checkpoint"))
        path = self.path / "checkpoints"
        try:
            heads.extend(parse_tree_head(note.text) for note in self._last_notes().notes)
        except NoteError as error:
            raise IntegrityRefusal(f"{path}: one of the last notes: {error}", hint=RESTORE) from error
        return max(heads, key=lambda head: head.size, default=None)

    def _head_of(self, data: bytes, name: str) -> TreeHead:
        try:
            # the text of an unsigned checkpoint stands alone, with the blank line that ends it
            text = data[:-1] if data.endswith(b"\n\n") else parse_note(data).text
            return parse_tree_head(text)
        except NoteError as error:
            raise IntegrityRefusal(f"{self.path / name}: is no checkpoint: {error}", hint=RESTORE) from error

    def refuse_cut_log(self, head: TreeHead, entries: int) -> None:
        """Raise IntegrityRefusal where an audit log of so many entries has lost some that the checkpoint covers.

        They were durable before the checkpoint was written: no crash explains it.
        """
        if entries < head.size:
            raise IntegrityRefusal(
                f"{self.path / 'checkpoint'}: covers {head.size} entries, the audit log has {entries}",
                hint="it was cut; restore the state directory from a back-up; nothing was changed",
            )

    # -- writing -------------------------------------------------------------------------------------------------

    def write_tiles(self, disk: Disk, tiles: Iterable[tuple[Tile, bytes]]) -> None:
        """Make tiles durable. If we die here, some are whole, torn or absent: no checkpoint needs them yet."""
        todo = list(tiles)
        for at in range(0, len(todo), _OPEN_AT_ONCE):
            self._write_some(disk, todo[at : at + _OPEN_AT_ONCE])

    def _write_some(self, disk: Disk, tiles: list[tuple[Tile, bytes]]) -> None:
        # Behind a catch-up these calls are the tree thread's way to the interpreter and away from it again, some
        # thousand times: each one that is left out is one less that the stream waits for.
        todo = [(self.path / tile.path, data) for tile, data in tiles]
        directories = sorted({path.parent for path, _ in todo})
        for directory in directories:
            disk.make_directory(directory)
        there: list[tuple[Path, bytes]] = []
        opened: list[tuple[int, Path]] = []
        try:
            # all are written before the first is synced: one journal commit of the file system then serves several
            for path, data in todo:
                fd = disk.create(path)
                if fd is None:
                    there.append((path, data))
                    continue
                opened.append((fd, path))
                disk.write_at(fd, data, 0, path)
            for fd, path in opened:
                disk.sync(fd, path)
        finally:
            for fd, _ in opened:
                disk.close(fd)
        # What was there may be in memory only: after a sync that failed, the next one of the same pages says nothing.
        # And a reader, or the checkpoint before, may need it at this moment. So it gets a new file in its place.
        for path, data in there:
            disk.replace_file(path, data)
        for directory in directories:
            disk.sync_directory(directory)

    def drop_partials(self, disk: Disk, tiles: Iterable[Tile]) -> None:
        """Remove the partial tiles of full `tiles`, which are durable and hold all they did.

        If we die here, some are left; the next start makes the full tile again, and comes here.
        """
        for tile in tiles:
            directory = (self.path / tile._replace(width=1).path).parent
            if directory.is_dir():
                for partial in sorted(directory.iterdir()):
                    disk.unlink(partial)
                disk.remove_directory(directory)

    def write_checkpoint(self, disk: Disk, note: bytes, *, signed: bool) -> None:
        """Append a signed checkpoint to all of them, then make it the newest; an unsigned one only becomes the newest.

        If we die in between, the next start takes the last of all checkpoints as the newest.
        """
        disk.make_directory(self.path)
        if signed:
            self.append_checkpoint(disk, note)
        disk.replace_file(self.path / "checkpoint", note)
        disk.unlink(self.path / "progress")

    def write_progress(self, disk: Disk, head: TreeHead) -> None:
        """Note how far the tiles reach, at no place for a checkpoint. If we die here, the note before stands."""
        disk.make_directory(self.path)
        disk.replace_file(self.path / "progress", head.text() + b"\n")

    def append_checkpoint(self, disk: Disk, note: bytes) -> None:
        """Append a note behind the last whole one. If we die here, a torn one is found; the next takes its place.

        Before the first, the last whole one is written once more and synced: where its sync failed, it is in memory
        only, and no other sync would say so.
        """
        path = self.path / "checkpoints"
        existed = path.exists()
        there = self._last_notes()
        fd = disk.open(path)
        try:
            if existed and path.stat().st_size != there.end:
                disk.truncate(fd, there.end, path)
            if there.last and not self._settled:  # alone: two that are not confirmed would be one too many next time
                disk.write_at(fd, there.last, there.end - len(there.last), path)
                disk.sync(fd, path)
            disk.write_at(fd, note, there.end, path)
            disk.sync(fd, path)
            self._settled = True
        finally:
            disk.close(fd)
        if not existed:
            disk.sync_directory(path.parent)

    def _last_notes(self) -> _LastNotes:
        """Return the last whole notes of all checkpoints, at least one where there is any.

        Behind them is at most a torn one. Raises IntegrityRefusal for damage that no interrupted write explains.
        """
        path = self.path / "checkpoints"
        try:
            with path.open("rb") as file:
                start = max(0, file.seek(0, 2) - _LAST_BYTES)
                file.seek(start)
                data = file.read()
        except FileNotFoundError:
            return _LastNotes([], b"", 0)
        if start and (boundary := _BETWEEN_NOTES.search(data)) is not None:
            start, data = start + boundary.end(), data[boundary.end() :]
        try:
            found = list(parse_notes(data))
        except NoteError as error:
            raise IntegrityRefusal(f"{path}: behind byte {start}: {error}", hint=RESTORE) from error
        ends = [0, 0, *(end for _, end in found)]
        return _LastNotes([note for note, _ in found], data[ends[-2] : ends[-1]], start + ends[-1])

    def write_witnessed(self, disk: Disk, note: bytes) -> None:
        """Keep a cosigned checkpoint, among all and as the newest that was cosigned."""
        self.append_checkpoint(disk, note)
        disk.replace_file(self.path / "witnessed", note)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
