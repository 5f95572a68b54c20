"""Finding out which of the stream's files is which, by looking into no more of them than is needed.

Owns: the listing, and what is known of each listed file: its head, whether a compressed one is whole, which closed
segment it is. Leaves the rules to `core.chain_of_segments`, to `edges.recorded_position` finding the segment of a
recorded position, and to `edges.stream` what follows from the answers.

Invariants:
- What was learned of a file counts while device, inode, size and modification time are the same.
- A look costs one `stat` for each file; files are opened when they are new, or changed and in question.
- A compressed file is nothing until it is whole. Each call does a bounded part of that work; `busy` says there is more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidewaiter.core import segment_findings as findings
from tidewaiter.core.chain_of_segments import (
    FileKey,
    Head,
    Label,
    Member,
    Naming,
    Probe,
    Record,
    digest,
    fits_head,
    judge,
    last_of,
    order_chain,
    record_of,
    unlikeness,
)
from tidewaiter.core.position import TAIL_BYTES, ClosedSegment, SegmentId
from tidewaiter.edges import segment_files as files
from tidewaiter.edges.compressed import Damaged, NotWhole, Scan, declared_length, walk_frames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

Version = tuple[int, int, int, int]

_CALM_LISTINGS: Final = 3  # a listing during which names changed may miss a file; it is made again this often
_ATTEMPTS: Final = 20  # looks while somebody renames
_SCAN_BYTES: Final = 64 << 20
_RESCAN_FACTOR: Final = 10  # a file that keeps growing is looked through again after ten times what it took


class _Scanning:
    """A pass over a compressed file, and the state of the file it holds for."""

    def __init__(self, version: Version, scan: Scan) -> None:
        self.version = version
        self.scan = scan
        self.steps = files.InOrder()
        self.seconds = 0.0


class Survey:
    """What is known about the stream's files. `waiting_for` names a file that is not whole yet."""

    def __init__(
        self, directory: Path, naming: Naming, grace_us: int, clock: Callable[[], float], wall: Callable[[], int]
    ) -> None:
        """`clock` is monotonic, in seconds; `wall` is the time of day in nanoseconds, compared with files' times."""
        self.directory = directory
        self.naming = naming
        self.stamp: tuple[int, int, int] | None = None
        self.members: tuple[Member, ...] = ()
        self.closed_files: dict[int, Member] = {}
        self.copies: list[Member] = []
        self.busy = False
        self.waiting_for = ""
        self.hurry = False
        self._grace_us = grace_us
        self._clock = clock
        self._wall = wall
        self.closed: list[ClosedSegment] = []
        self._records: list[Record] = []
        self._by_head: dict[int, dict[str, list[Record]]] = {}
        self._by_key: dict[FileKey, list[Record]] = {}
        self._claimed: dict[FileKey, tuple[Version, int]] = {}
        self._heads: dict[FileKey, tuple[Version, Head]] = {}
        self._scans: dict[FileKey, _Scanning] = {}
        self._not_before: dict[FileKey, float] = {}
        self._damaged_since: dict[Version, float] = {}

    # -- the closed segments -------------------------------------------------------------------------------------------

    def add_closed(self, closed: ClosedSegment, member: Member | None = None) -> None:
        """Take a segment as read to its end; `member` is its file, as it is now."""
        record = record_of(closed, len(self.closed))
        self.closed.append(closed)
        self._records.append(record)
        if record.segment.head_len:
            table = self._by_head.setdefault(record.segment.head_len, {})
            table.setdefault(record.segment.head_sha256, []).append(record)
        self._by_key.setdefault(record.key, []).append(record)
        if member is not None:
            self._claimed[member.file.key] = (member.file.version, record.index)
            self.closed_files[record.index] = member

    def last_closed(self) -> tuple[ClosedSegment, Member | None] | None:
        """Return the newest closed segment and its file, if that is still there."""
        newest = last_of(self._records)
        return None if newest is None else (self.closed[newest.index], self.closed_files.get(newest.index))

    # -- listing -------------------------------------------------------------------------------------------------------

    async def confirmed(self, look: Callable[[], Awaitable[None]]) -> None:
        """Look until nobody renames meanwhile; believe a halt only when the same listing shows it twice.

        Raises Moved if it does not come to rest: there is nothing to be said now.
        """
        seen: list[tuple[str, FileKey]] | None = None
        for _ in range(_ATTEMPTS):
            try:
                await look()
            except files.Moved:
                seen = None
            except (findings.StreamHalt, findings.StreamRefusal):
                listed = [(member.file.name, member.file.key) for member in self.members]
                if listed == seen:
                    raise
                seen = listed
            else:
                return
        raise files.Moved

    async def look(self) -> tuple[Member, ...]:
        """List the files. Raises ConfigError if that cannot be done."""
        listing = await files.run(files.list_files, self.directory, self.naming)
        for _ in range(_CALM_LISTINGS):
            if files.directory_stamp(self.directory) == listing.stamp:
                break
            listing = await files.run(files.list_files, self.directory, self.naming)
        self.stamp = listing.stamp
        self.members = order_chain(self.naming, listing.files)
        keys = {member.file.key for member in self.members}
        for forgotten in (self._heads, self._claimed, self._not_before):
            for key in [key for key in forgotten if key not in keys]:
                del forgotten[key]
        for key in [key for key in self._scans if key not in keys]:
            await self._drop_scan(key)
        self.busy = False
        self.waiting_for = ""
        return self.members

    async def close(self) -> None:
        """Let go of all files."""
        for key in list(self._scans):
            await self._drop_scan(key)

    def heads(self) -> dict[FileKey, Head]:
        """Return the known heads."""
        return {key: head for key, (_, head) in self._heads.items()}

    async def learn_heads(self, members: Sequence[Member]) -> None:
        """Read the beginnings that are not known. Raises Moved, ConfigError."""
        unknown = []
        for member in members:
            known = self._heads.get(member.file.key)
            if known is None or known[0] != member.file.version:
                unknown.append(member)
        if not unknown:
            return
        for member, head in zip(unknown, await files.run(files.read_heads, self.directory, unknown), strict=True):
            if head is None:
                raise files.Moved
            self._heads[member.file.key] = (member.file.version, head)

    # -- looking into a file -------------------------------------------------------------------------------------------

    async def probe(self, member: Member, records: list[Record]) -> Probe | None:
        """Return what the file holds at the ends of `records`; None if it is compressed and not whole yet.

        Of a compressed file that declares the length of a closed segment, only head and length are compared:
        decompressing all closed segments at each start would take too long.
        """
        path = self.directory / member.file.name
        if not member.name.encoding:
            return await files.run(files.probe_plain, path, member.file.key, records)
        if records and all(record.exact for record in records):
            declared = await files.run(self._declared_length, member)
            for record in records:
                if declared is not None and declared % (1 << 32) == record.length % (1 << 32):
                    return Probe(length=record.length, tails={})
        scan = await self._scanned(member, records)
        return None if scan is None else Probe(length=scan.length, tails=scan.tails)

    async def is_whole(self, member: Member) -> bool:
        """Return whether a file can be read from its beginning to its end."""
        if not member.name.encoding:
            return True
        if member.name.encoding == "zst":
            try:
                await files.run(self._walk, member)
            except NotWhole:
                self.wait_for(member)
                return False
            except Damaged as damage:
                self._judge_damage(member, damage)
                return False
            return True
        return await self._scanned(member, []) is not None

    def wait_for(self, member: Member) -> None:
        """Note that nothing can be said of this file before it is whole."""
        self.waiting_for = self.waiting_for or member.file.name

    async def describe(self, member: Member, start: int) -> ClosedSegment | None:
        """Return the whole file as a segment that begins at `start`; None if it cannot be told now."""
        name, size = member.file.name, member.file.size
        if member.name.encoding:
            scan = await self._scanned(member, [])
            if scan is None:
                return None
            head, tail, size = scan.head, scan.tail, scan.length
        else:
            head, tail = await files.run(self._ends, member)
        return ClosedSegment(
            segment=SegmentId(
                name=name,
                dev=member.file.dev,
                ino=member.file.ino,
                head_len=len(head),
                head_sha256=digest(head) if head else "",
            ),
            start=start,
            length=size,
            tail_len=len(tail),
            tail_sha256=digest(tail) if tail else "",
        )

    def _ends(self, member: Member) -> tuple[bytes, bytes]:
        head = files.read_head(self.directory / member.file.name, member).data[: member.file.size]
        at = Record(
            segment=SegmentId("", 0, 0, 0, ""),
            start=0,
            length=member.file.size,
            tail_len=min(TAIL_BYTES, member.file.size),
            tail_sha256="",
            exact=True,
        )
        return head, files.probe_plain(self.directory / member.file.name, member.file.key, [at]).tails[at.length]

    def _declared_length(self, member: Member) -> int | None:
        with files.open_raw(self.directory / member.file.name, member.file.key) as raw:
            return declared_length(raw.fileno(), member.name.encoding)

    def _walk(self, member: Member) -> None:
        with files.open_raw(self.directory / member.file.name, member.file.key) as raw:
            walk_frames(raw.fileno())

    async def _scanned(self, member: Member, records: list[Record]) -> Scan | None:
        """Return the finished pass over a whole compressed file, or None after some more of it."""
        key, version = member.file.key, member.file.version
        marks = frozenset(record.mark for record in records)
        scanning = self._scans.get(key)
        if scanning is None or scanning.version != version or not marks <= scanning.scan.marks:
            if scanning is not None:
                marks |= scanning.scan.marks
                await self._drop_scan(key)
            if not self.hurry and self._clock() < self._not_before.get(key, float("-inf")):
                self.wait_for(member)
                return None
            path = self.directory / member.file.name
            scanning = _Scanning(version, await files.run(files.begin_scan, path, member, marks))
            self._scans[key] = scanning
        scan = scanning.scan
        if not scan.finished:
            began = self._clock()
            finished = await scanning.steps.run(scan.step, _SCAN_BYTES)
            scanning.seconds += self._clock() - began
            if not finished:
                self.busy = True
                self.wait_for(member)
                return None
            self._not_before[key] = self._clock() + _RESCAN_FACTOR * scanning.seconds
        if scan.whole:
            return scan
        if scan.damage is not None:
            self._judge_damage(member, scan.damage)
        self.wait_for(member)
        return None

    async def _drop_scan(self, key: FileKey) -> None:
        scanning = self._scans.pop(key)
        await scanning.steps.settle()
        scanning.scan.close()

    def _judge_damage(self, member: Member, damage: Damaged) -> None:
        """Raise StreamRefusal (corrupt) unless the file was written a moment ago: then it may become whole."""
        self.wait_for(member)
        since = self._damaged_since.setdefault(member.file.version, self._clock())
        quiet = self._wall() - member.file.changed_ns >= self._grace_us * 1_000
        if self.hurry or quiet or (self._clock() - since) * 1_000_000 >= self._grace_us:
            raise findings.corrupt(member.file.name, damage.why, damage.at)

    # -- which is which ------------------------------------------------------------------------------------------------

    async def label(self, members: Sequence[Member], current: Record | None, key: FileKey | None) -> list[Label]:
        """Return what each file is. `current` is the segment being read and `key` its open file.

        Where no name stands for the open file any more, a file with the same content is the current one. Raises
        StreamHalt (late_bytes), StreamRefusal (corrupt), Moved.
        """
        place = next((at for at, member in enumerate(members) if member.file.key == key), None)
        labels: list[Label | None] = [None] * len(members)
        taken: set[int] = set()
        self.copies = []
        self.closed_files = {}
        for at, member in enumerate(members):
            claimed = self._claimed.get(member.file.key)
            if at == place:
                labels[at] = "current"
            elif claimed is not None and claimed[0] == member.file.version:
                labels[at] = self._claim(member, self._records[claimed[1]], taken)
        longer: dict[int, tuple[Record, int]] = {}
        open_questions = [at for at, label in enumerate(labels) if label is None]
        await self.learn_heads([members[at] for at in open_questions])
        anchor = place
        if place is None:
            anchor = await self._find_newest(members, labels, taken, longer)
        # A file under its own inode first: a copy of it must not take its place.
        for at in sorted(open_questions, key=lambda at: members[at].file.key not in self._by_key):
            if labels[at] is None:
                before = anchor is None or at < anchor
                labels[at] = await self._label_one(members[at], current, taken, longer, at, before=before, named=place)
        await self._judge_longer(members, labels, longer, anchor)
        return [label or "new" for label in labels]

    def candidates(self, member: Member, head: Head, taken: AbstractSet[int] = frozenset()) -> list[Record]:
        """Return the closed segments that the file may be, the likeliest first, without those in `taken`."""
        same_file = self._by_key.get(member.file.key, [])
        found = {record.index: record for record in same_file if not record.segment.head_len}
        for length, table in self._by_head.items():
            if len(head.data) >= length:
                found |= {record.index: record for record in table.get(digest(head.data[:length]), ())}
        usable = [record for at, record in found.items() if at not in taken]
        usable.sort(key=lambda record: unlikeness(record, member))
        return usable

    async def _find_newest(
        self,
        members: Sequence[Member],
        labels: list[Label | None],
        taken: set[int],
        longer: dict[int, tuple[Record, int]],
    ) -> int | None:
        """Return the place of the newest closed segment's file, from which on everything is new; None if it is gone."""
        newest = last_of(self._records)
        if newest is None:
            return None
        for at in sorted(range(len(members)), key=lambda at: unlikeness(newest, members[at])):
            member = members[at]
            claimed = self._claimed.get(member.file.key)
            if labels[at] == "closed" and claimed is not None and claimed[1] == newest.index:
                return at
            if labels[at] is not None or not fits_head(newest, member, self._heads[member.file.key][1]):
                continue
            probe = await self.probe(member, [newest])
            verdict = judge(newest, probe) if probe is not None else "other"
            if verdict == "ours":
                labels[at] = self._claim(member, newest, taken)
                return at
            if verdict == "long" and probe is not None:
                longer[at] = (newest, probe.length)
                labels[at] = "new"
                return at
        return None

    async def _label_one(
        self,
        member: Member,
        current: Record | None,
        taken: set[int],
        longer: dict[int, tuple[Record, int]],
        at: int,
        *,
        before: bool,
        named: int | None,
    ) -> Label:
        head = self._heads[member.file.key][1]
        # After the place of the stream everything is new: a new segment may begin like an old one, or have its inode.
        records = self.candidates(member, head, taken) if before else []
        own = None
        maybe_current = current is not None and (before or named is None)
        if current is not None and maybe_current and current.segment.head_len and fits_head(current, member, head):
            own = current
            records.insert(0, own)
        if not records:
            if head.certain:
                return "new"
            self.wait_for(member)
            return "waiting"
        probe = await self.probe(member, records)
        if probe is None:
            return "waiting"
        for record in records:
            verdict = judge(record, probe)
            if record is own:
                if verdict == "ours":
                    if named is None:
                        return "current"
                    self.copies.append(member)
                    return "copy"
                if verdict == "short" and named is not None and await self._is_beginning(member, record):
                    self.copies.append(member)
                    return "copy"
            elif verdict == "ours":
                return self._claim(member, record, taken)
            elif verdict == "long":
                longer.setdefault(at, (record, probe.length))
        return "new"

    def _claim(self, member: Member, record: Record, taken: set[int]) -> Label:
        """Take the file for that segment."""
        taken.add(record.index)
        self._claimed[member.file.key] = (member.file.version, record.index)
        self.closed_files[record.index] = member
        return "left_out" if record.left_out else "closed"

    async def _is_beginning(self, copy: Member, current: Record) -> bool:
        """Return whether an unfinished copy ends with the bytes that the current segment has at that place."""
        original = next((member for member in self.members if member.file.key == current.key), None)
        if original is None or copy.name.encoding or original.name.encoding:
            return False
        _, tail = await files.run(self._ends, copy)
        end = Record(
            segment=current.segment,
            start=0,
            length=copy.file.size,
            tail_len=len(tail),
            tail_sha256=digest(tail),
            exact=False,
        )
        path = self.directory / original.file.name
        return judge(end, await files.run(files.probe_plain, path, original.file.key, [end])) == "ours"

    async def _judge_longer(
        self,
        members: Sequence[Member],
        labels: list[Label | None],
        longer: dict[int, tuple[Record, int]],
        anchor: int | None,
    ) -> None:
        """Raise StreamHalt (late_bytes) for a closed segment that grew.

        A file that only begins like a closed segment, and stands after the place of the stream, is a new segment.
        """
        for at, (record, length) in longer.items():
            # A file that was left out before anything was read stands at no place: it is known by its content alone.
            if labels[at] == "new" and (at <= anchor if anchor is not None else record.left_out):
                found = await self.describe(members[at], record.start)
                raise findings.late_bytes(members[at], record, length, found)
