"""Which file is which: the order of the stream's files, and what a listing says about the segments already read.

Owns: the names that belong to a stream and their order, the comparison of a file with a recorded segment, and what is
before, at and after the place where the stream stands. Leaves to `core.segment_findings` the words for what must not
be, to `edges.segment_files` listing and reading, and to `edges.survey` asking in the right order.

Rules:
- Files are ordered by name (rotated ones by number, or by date), the live file last; never by time.
- A segment is its content (head and tail hashes over decompressed bytes). Device and inode are hints.
- A recorded segment is matched by at most one file.
- Nothing is guessed: what fits no rule is a halt or a refusal that carries its evidence.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec import Struct

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.position import ClosedSegment, Position, SegmentId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FileKey: TypeAlias = tuple[int, int]
Encoding: TypeAlias = Literal["", "gz", "zst"]
Label: TypeAlias = Literal["closed", "left_out", "current", "copy", "waiting", "new"]
Verdict: TypeAlias = Literal["ours", "other", "short", "long"]

_NUMBER: Final = re.compile(r"\.([0-9]{1,5})")
_DATE: Final = re.compile(r"[-.]([0-9]{4}-?[0-9]{2}[0-9TZ:_.+-]*)")
_PLAIN_SUFFIXES: Final = (".jsonl", ".json", ".ndjson")
_ENCODING_ORDER: Final[tuple[Encoding, ...]] = ("", "gz", "zst")


# -- names and order ---------------------------------------------------------------------------------------------------


class FileStat(Struct, frozen=True):
    """One line of a directory listing; times in nanoseconds."""

    name: str
    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def key(self) -> FileKey:
        """What finds the same file under another name."""
        return (self.dev, self.ino)

    @property
    def version(self) -> tuple[int, int, int, int]:
        """Changes whenever the content may have changed."""
        return (self.dev, self.ino, self.size, self.mtime_ns)

    @property
    def changed_ns(self) -> int:
        """The last write, rename or change of attributes."""
        return max(self.mtime_ns, self.ctime_ns)


class MemberName(Struct, frozen=True):
    """What a file's name says: `stem` is the name without compression suffix, `number` its place in a rotation."""

    stem: str
    encoding: Encoding
    order: tuple[int, int, str]
    number: int | None = None
    dated: bool = False


class Member(Struct, frozen=True):
    """One file of the chain."""

    name: MemberName
    file: FileStat


class Naming(Struct, frozen=True):
    """Which names belong to the stream: a live file with its rotated predecessors, or (`live` empty) a directory.

    `compressed` allows the live file itself to be compressed, because it was asked for by such a name.
    """

    live: str
    compressed: bool = False

    def parse(self, name: str) -> MemberName | None:
        """Return what the name says, or None for a file that is not part of the stream."""
        stem, encoding = _split_encoding(name)
        if not self.live:
            if name.startswith(".") or not stem.endswith(_PLAIN_SUFFIXES):
                return None
            return MemberName(stem=stem, encoding=encoding, order=(0, 0, stem))
        if not stem.startswith(self.live):
            return None
        rest = stem[len(self.live) :]
        if not rest:
            if encoding and not self.compressed:
                return None
            return MemberName(stem=stem, encoding=encoding, order=(1, 0, ""))
        if number := _NUMBER.fullmatch(rest):
            value = int(number[1])
            return MemberName(stem=stem, encoding=encoding, order=(0, -value, rest), number=value)
        if date := _DATE.fullmatch(rest):
            return MemberName(stem=stem, encoding=encoding, order=(0, 0, date[1]), dated=True)
        return None


def naming_of(name: str, *, directory: bool) -> Naming:
    """Return the naming of the stream whose path ends in `name`."""
    if directory:
        return Naming(live="")
    stem, encoding = _split_encoding(name)
    return Naming(live=stem, compressed=bool(encoding))


def order_chain(naming: Naming, files: Iterable[FileStat]) -> tuple[Member, ...]:
    """Return the files of the stream, the oldest first.

    Of a member that is there plain and compressed, the plain one counts. A file with several names (hard links, or a
    rename that happened during the listing) counts once, at its newest place. Raises ConfigError if numbered and
    dated files are mixed: their order would be a guess.
    """
    by_stem: dict[str, Member] = {}
    for file in files:
        name = naming.parse(file.name)
        if name is None:
            continue
        other = by_stem.get(name.stem)
        if other is None or _ENCODING_ORDER.index(name.encoding) < _ENCODING_ORDER.index(other.name.encoding):
            by_stem[name.stem] = Member(name=name, file=file)
    members = sorted(by_stem.values(), key=lambda member: member.name.order)
    _refuse_mixed(members)
    newest = {member.file.key: at for at, member in enumerate(members)}
    return tuple(member for at, member in enumerate(members) if newest[member.file.key] == at)


def _split_encoding(name: str) -> tuple[str, Encoding]:
    if name.endswith(".gz"):
        return name[:-3], "gz"
    if name.endswith(".zst"):
        return name[:-4], "zst"
    return name, ""


def _refuse_mixed(members: Sequence[Member]) -> None:
    numbered = next((member for member in members if member.name.number is not None), None)
    dated = next((member for member in members if member.name.dated), None)
    if numbered is not None and dated is not None:
        raise ConfigError(
            f"{numbered.file.name} and {dated.file.name}: numbered and dated files of one stream have no order",
            hint="rename them to one scheme, or name a directory whose files sort in the order they were written",
        )


# -- identity ----------------------------------------------------------------------------------------------------------


class Head(Struct, frozen=True):
    """The first <= 1 KiB of a file's content; `certain` is False while a compressed file does not show them yet."""

    data: bytes
    certain: bool = True


class Record(Struct, frozen=True):
    """A segment that was read up to `length`; `exact` if it ended there. `index` counts the closed ones, else -1."""

    segment: SegmentId
    start: int
    length: int
    tail_len: int
    tail_sha256: str
    exact: bool
    index: int = -1

    @property
    def left_out(self) -> bool:
        """Whether it is a file that an operator accepted as no part of the stream."""
        return self.start < 0

    @property
    def key(self) -> FileKey:
        """Device and inode it had when it was read."""
        return (self.segment.dev, self.segment.ino)

    @property
    def mark(self) -> tuple[int, int]:
        """The place and the size of the bytes that the tail hash covers: they end at the first, which is `length`."""
        return (self.length, self.tail_len)


def record_of(read: Position | ClosedSegment, index: int = -1) -> Record:
    """Return what a file must hold to be this segment."""
    closed = isinstance(read, ClosedSegment)
    return Record(
        segment=read.segment,
        start=read.start,
        length=read.length if isinstance(read, ClosedSegment) else read.offset,
        tail_len=read.tail_len,
        tail_sha256=read.tail_sha256,
        exact=closed,
        index=index,
    )


class Probe(Struct, frozen=True):
    """What was found in a file: its length (decompressed), and the bytes before some of the records' ends.

    A place that is not in `tails` was not looked at.
    """

    length: int
    tails: dict[int, bytes]


def fits_head(record: Record, member: Member, head: Head) -> bool:
    """Return whether the file may be the recorded segment, by its beginning alone."""
    return begins_like(record.segment, member.file.key, head.data)


def begins_like(segment: SegmentId, key: FileKey, head: bytes) -> bool:
    """Return whether a file with this key and these first bytes may be the segment."""
    if segment.head_len == 0:
        return (segment.dev, segment.ino) == key
    return digest(head[: segment.head_len]) == segment.head_sha256


def unlikeness(record: Record, member: Member) -> tuple[bool, bool]:
    """Return how little the hints say that the file is the segment, for sorting the likeliest first."""
    return (member.file.key != record.key, member.file.name != record.segment.name)


def ends_at(closed: ClosedSegment, position: Position) -> bool:
    """Return whether the position is the end of the closed segment: the same bytes, not only the same place.

    An empty segment and its successor begin at the same global offset.
    """
    return (
        (closed.start, closed.length) == (position.start, position.offset)
        and (closed.tail_len, closed.tail_sha256) == (position.tail_len, position.tail_sha256)
        and closed.segment.head_sha256 == position.segment.head_sha256
    )


def last_of(records: Sequence[Record]) -> Record | None:
    """Return the segment that was closed last; what is no part of the stream has no place in it."""
    read = [record for record in records if not record.left_out]
    return max(read, key=lambda record: (record.start, record.index), default=None)


def judge(record: Record, probe: Probe) -> Verdict:
    """Return whether the probed file is the recorded segment, of those whose head fits.

    `short`: it ends before the recorded length. `long`: it is the segment, and has bytes after its recorded end.
    """
    if probe.length < record.length:
        return "short"
    tail = probe.tails.get(record.length)
    if tail is not None and record.tail_len and digest(tail[-record.tail_len :]) != record.tail_sha256:
        return "other"
    if record.exact and probe.length > record.length:
        return "long"
    return "ours"


def digest(data: bytes) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


# -- the chain ---------------------------------------------------------------------------------------------------------


class Layout(Struct, frozen=True):
    """The chain around the segment being read (`current`, None if its file has no name in the chain)."""

    strangers: tuple[Member, ...]
    current: Member | None
    later: tuple[Member, ...]


def arrange(members: Sequence[Member], labels: Sequence[Label]) -> Layout:
    """Return the chain around the current segment; without one, around the last closed one.

    `strangers` are files with bytes in them that were never read and sort before that place: a halt.
    """
    place = -1
    for at, label in enumerate(labels):
        if label == "current":
            place = at
            break
        if label == "closed":
            place = at
    current = members[place] if place >= 0 and labels[place] == "current" else None
    strangers = [member for at, member in enumerate(members[: place + 1]) if labels[at] == "new" and member.file.size]
    later = [member for at, member in enumerate(members) if at > place and labels[at] in ("new", "waiting")]
    return Layout(strangers=tuple(strangers), current=current, later=tuple(later))


def missing_between(before: Member | None, after: Member, live: str) -> tuple[str, ...]:
    """Return the names that a numbered rotation must have had between two neighbours, and which are not there.

    It holds only once the rotation is over: while it renames, there is a hole for a moment.
    """
    if before is None or before.name.number is None:
        return ()
    if after.name.number is not None:
        last = after.name.number + 1
    elif after.name.stem == live:
        last = 1
    else:
        return ()
    return tuple(f"{live}.{number}" for number in range(before.name.number - 1, last - 1, -1))


def vanished(
    seen: Mapping[FileKey, tuple[Member, bytes]], members: Sequence[Member], heads: Mapping[FileKey, Head]
) -> tuple[list[FileKey], list[FileKey]]:
    """Return which unread segments, seen before with some content, are gone; and for which that is not decided yet.

    One that came back under another inode (it was compressed, or replaced by a copy) is not gone.
    """
    listed = {member.file.key for member in members}
    present = {key: head for key, head in heads.items() if key in listed}
    undecided = any(not head.certain for head in present.values())
    gone: list[FileKey] = []
    unclear: list[FileKey] = []
    for key, (member, begins) in seen.items():
        # The inode alone says little: that of a file which was compressed may already belong to another one.
        same = present.get(key)
        if not begins or member.file.size == 0 or (same is not None and same.data.startswith(begins)):
            continue
        if not any(head.data.startswith(begins) for head in present.values()):
            (unclear if undecided else gone).append(key)
    return gone, unclear


def grace_over(now: float, grew_at: float, successor_since: float, grace_us: int) -> bool:
    """Return whether the segment has not grown for the grace since a successor exists; times in seconds."""
    return (now - max(grew_at, successor_since)) * 1_000_000 >= grace_us


def long_quiet(wall_ns: int, current: FileStat, later: Sequence[Member], grace_us: int) -> bool:
    """Return whether the file system's own times say that the grace is over, so that a catch-up needs no waiting.

    The segment was neither written nor renamed for that long, and its successor is as old or has itself a successor.
    """
    limit = wall_ns - grace_us * 1_000
    return current.changed_ns <= limit and bool(later) and (len(later) > 1 or later[0].file.changed_ns <= limit)
