"""The Merkle tree over the audit log, kept by following the audit files, and the checkpoints of it.

Owns: how far the tree has come, reading committed entries into it, and when its files are consistent enough for a
checkpoint. Leaves to `core.tlog` the mathematics, to `edges.tree_growing` hashing the entries, to `edges.tree_worker`
the process that does so for large ranges, to `edges.tree_files` the files, to `edges.journal` what is committed, and
to `shell.evidence` the pace and the keys. All methods but `at_rest` block; they are meant for a thread of their own.

The tree lags behind the commits and never leads: it reads the audit files only up to a mark, where everything is
durable. What it keeps in memory are the partial tiles of the right edge: at most 255 hashes a level. It is a pure
function of the audit log, so a start takes the last checkpoint's tiles and goes on from there; what a checkpoint covers
was durable before it, so an audit log that ends before the last checkpoint was cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.tlog.checkpoints import TreeHead
from tidewaiter.core.tlog.merkle import leaf_hash
from tidewaiter.core.tlog.notes import Note
from tidewaiter.core.tlog.tiles import HASH_BYTES, WIDTH, Tile, TileTree, reader, right_edge
from tidewaiter.edges.journal import first_index, last_entry
from tidewaiter.edges.recovery import audit_segments
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.edges.tree_growing import CHUNK_BYTES, RESTORE, grow
from tidewaiter.edges.tree_worker import TreeWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tidewaiter.core.ledger import AuditMark
    from tidewaiter.core.tlog.merkle import Node
    from tidewaiter.core.tlog.notes import SigningKey
    from tidewaiter.edges.durable import Disk

ASIDE_BYTES: Final = 4 << 20
"""From here on a range is worth a process of its own, which takes as long to start as this takes to hash."""
_TILES_AT_ONCE: Final = 64


class TreeFollower:
    """The tree of one state directory. `size` entries are in it, `published` of them under a checkpoint."""

    def __init__(self, disk: Disk, state: Path, origin: str, mark: AuditMark) -> None:
        """Take up the tree of the last checkpoint; `mark` is the end of the audit log.

        Raises IntegrityRefusal where tiles, checkpoint and audit log do not belong together.
        """
        self.files = TreeFiles(state)
        self.origin = origin
        self._disk = disk
        self._state = state
        head = self.files.head()
        if head is not None:
            _refuse_other_origin(self.files, head, origin)
            self.files.refuse_cut_log(head, mark.index)
        size = head.size if head is not None else 0
        self._tree = TileTree.load(size, self.files.read_tile)
        if head is not None and self._tree.root() != head.root:
            raise IntegrityRefusal(
                f"{self.files.path}: the tiles give another root than the checkpoint of size {size}: "
                f"expected {head.root.hex()}, found {self._tree.root().hex()}",
                hint=RESTORE,
            )
        self.published = self.files.published()
        self._unwritten: list[tuple[Tile, bytes]] = []
        self._kept = set(right_edge(size))
        self._segment, self._offset = self._find(mark)
        self._worker = TreeWorker()

    def close(self) -> None:
        """End the process that large ranges were asked of, where there is one."""
        self._worker.close()

    @property
    def size(self) -> int:
        """How many entries are in the tree."""
        return self._tree.size

    def at_rest(self, mark: AuditMark) -> bool:
        """Return whether nothing is to be done: `mark` is under a checkpoint, and no process waits to be ended.

        The one method that looks at nothing but memory: it may be asked on any thread while no other method runs.
        """
        return self.published == self.size == mark.index and not self._worker.running

    def node(self) -> Node:
        """Return how the published tree's hashes are looked up, for proofs."""
        return reader(self.published, self.files.read_tile)

    # -- growing -------------------------------------------------------------------------------------------------

    def catch_up(self, mark: AuditMark, stopped: Callable[[], bool] = lambda: False) -> None:
        """Take in every entry up to `mark`; full tiles are durable afterwards. Returns early once `stopped()`."""
        self._worker.rest()
        self._write_full()  # what a full disk has refused; a checkpoint would say that it is there
        segments = audit_segments(self._state)
        while (self._segment, self._offset) != (mark.segment, mark.length) and not stopped():
            path = self._state / "audit" / self._segment
            last = self._segment == mark.segment
            end = mark.length if last else path.stat().st_size
            self._take_in(path, end, stopped)
            if last or self._offset < end:
                break
            self._segment, self._offset = next(later.name for later in segments if later.name > self._segment), 0

    def _take_in(self, path: Path, end: int, stopped: Callable[[], bool]) -> None:
        aside = end - self._offset >= ASIDE_BYTES
        while self._offset < end and not stopped():
            grown = self._worker.grow(self._tree, str(path), self._offset, end, stopped) if aside else None
            if grown is None:
                if aside and stopped():
                    break
                grown = grow(self._tree, str(path), self._offset, min(end, self._offset + CHUNK_BYTES))
            self._tree, self._offset = grown.tree, grown.reached
            self._unwritten += grown.tiles
            if len(self._unwritten) >= _TILES_AT_ONCE:
                self._write_full()
        self._write_full()

    def _write_full(self) -> None:
        """Make the full tiles durable; where the disk is full they stay with us, and it is tried again.

        If we die here, the next start takes these entries in again and writes the same tiles.
        """
        self.files.write_tiles(self._disk, self._unwritten)
        self.files.drop_partials(self._disk, [tile for tile, _ in self._unwritten])
        self._unwritten = []

    def publish(self, signers: Sequence[SigningKey], now: int) -> bytes | None:
        """Write a checkpoint of the tree as it is and return it; None where the last one says the same.

        In this order: partial tiles, checkpoint. `now`, in seconds since 1970, stands in signatures of kinds that carry
        a time. If we die in between, the checkpoint before stands and its tiles are there.
        """
        if self.size == self.published:
            return None
        text = TreeHead(self.origin, self.size, self._tree.root()).text()
        self._write_edge()
        # a note without a signature is none: what an unsigned log keeps ends with the blank line
        note = Note(text, tuple(key.sign(text, now) for key in signers)).encode() if signers else text + b"\n"
        self.files.write_checkpoint(self._disk, note, signed=bool(signers))
        self.published = self.size
        return note

    def keep(self) -> None:
        """Note how far the tree has come where there is no time to reach the end of the log; the next start goes on."""
        if self.size > self.published:
            self._write_full()
            self._write_edge()
            self.files.write_progress(self._disk, TreeHead(self.origin, self.size, self._tree.root()))

    def _write_edge(self) -> None:
        edge = self._tree.edge()
        self.files.write_tiles(self._disk, [(tile, data) for tile, data in edge if tile not in self._kept])
        self._kept = {tile for tile, _ in edge}

    # -- where the tree stands in the audit log ------------------------------------------------------------------

    def _find(self, mark: AuditMark) -> tuple[str, int]:
        """Return the segment and the byte at which the first entry that is not in the tree begins.

        The entry before it must be the tree's last one. Raises IntegrityRefusal where it is another.
        """
        segments = audit_segments(self._state)
        if self.size == 0:
            if not segments or first_index(segments[0]) != 0:
                raise IntegrityRefusal(
                    f"{self.files.path}: there is no tree, and the audit log's first segments are gone",
                    hint="restore them: the tree is made of every entry from the first",
                )
            return segments[0].name, 0
        holding = [path for path in segments if first_index(path) < self.size]
        if not holding:
            raise IntegrityRefusal(f"{self._state / 'audit'}: entry {self.size - 1} is missing", hint=RESTORE)
        path = holding[-1]
        last = path.name == mark.segment
        end = mark.length if last else path.stat().st_size
        # the last segment is looked through from its end: there the tree stops, but for what a crash left behind
        begin = self._back(path, end, mark.index - self.size) if last else self._forth(path, self.size)
        before = last_entry(path, begin)
        tile = Tile(0, (self.size - 1) // WIDTH, (self.size - 1) % WIDTH + 1)
        kept = self.files.read_tile(tile)[-HASH_BYTES:]
        if leaf_hash(before) != kept:
            raise IntegrityRefusal(
                f"{path}: byte {begin - len(before)}: entry {self.size - 1} is not the one in the tree: "
                f"expected leaf hash {kept.hex()}, found {leaf_hash(before).hex()}",
                hint=RESTORE,
            )
        return path.name, begin

    def _back(self, path: Path, end: int, entries: int) -> int:
        """Return where the last `entries` entries before byte `end` begin."""
        with path.open("rb") as file:
            at, left = end, entries + 1  # the newline before the first of them ends the entry before it
            while at > 0:
                begin = max(0, at - CHUNK_BYTES)
                file.seek(begin)
                data = file.read(at - begin)
                found = data.count(b"\n")
                if found >= left:
                    place = len(data)
                    for _ in range(left):
                        place = data.rindex(b"\n", 0, place)
                    return begin + place + 1
                at, left = begin, left - found
        raise IntegrityRefusal(f"{path}: holds fewer entries than its place in the log says", hint=RESTORE)

    def _forth(self, path: Path, index: int) -> int:
        """Return where entry `index` begins, or the end of the file for the first of the next one."""
        at, left = 0, index - first_index(path)
        with path.open("rb") as file:
            while left:
                data = file.read(CHUNK_BYTES)
                found = data.count(b"\n")
                if not data:
                    raise IntegrityRefusal(f"{path}: holds fewer entries than its successor's name says", hint=RESTORE)
                if found >= left:
                    place = -1
                    for _ in range(left):
                        place = data.index(b"\n", place + 1)
                    return at + place + 1
                at, left = at + len(data), left - found
        return at


def _refuse_other_origin(files: TreeFiles, head: TreeHead, origin: str) -> None:
    if head.origin != origin:
        raise IntegrityRefusal(
            f"{files.path / 'checkpoint'}: is of the log {head.origin}, the audit log is {origin}", hint=RESTORE
        )
