"""What the tests of the stream share: a consumer that keeps what it got, and the ways files are rotated.

The clock is turned by hand; nothing here waits.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from typing import TYPE_CHECKING, Any

from tidewaiter.edges.stream import Data, Idle, SegmentEnd, Stream, StreamSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.position import ClosedSegment, Position, SegmentCursor

GRACE = 5.0
OPENED: list[Stream] = []


class Clock:
    """A monotonic clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Reader:
    """A consumer that keeps what was delivered, and what it would have recorded."""

    def __init__(self, path: Path, *, wall_ahead: float = 0.0, **settings: Any) -> None:
        self.clock = Clock()
        self.path = path
        self.settings = StreamSettings(path=path, **settings)
        self.wall_ahead = wall_ahead
        self.stream = self.new_stream()
        self.data = b""
        self.segments: list[bytes] = []
        self.ends: list[SegmentEnd] = []
        self.closed: list[ClosedSegment] = []
        self.cursor: SegmentCursor | None = None
        self.fresh = True
        self.notices: list[str] = []

    def new_stream(self) -> Stream:
        stream = Stream(self.settings, clock=self.clock, wall=lambda: time.time_ns() + int(self.wall_ahead * 1e9))
        OPENED.append(stream)
        return stream

    async def start(self, **options: Any) -> Reader:
        await self.stream.start(None, [], None, **options)
        return self

    async def restart(self, **options: Any) -> Reader:
        """Stop, and start again from what was recorded, as the consumer would."""
        await self.stream.close()
        self.stream = self.new_stream()
        position: Position | None = None
        next_start: int | None = None
        if self.cursor is not None:
            position = self.cursor.position
        elif self.closed:
            next_start = self.closed[-1].start + self.closed[-1].length
        self.fresh = True
        await self.stream.start(position, self.closed, next_start, **options)
        return self

    async def step(self, **options: Any) -> Data | Idle | SegmentEnd:
        nothing = bool(options.get("rescan")) and self.stream.unchanged()
        result = await self.stream.read(**options)
        # what a look says without reading must be so whatever is tested
        assert not nothing or (isinstance(result, Idle) and result.caught_up and not result.successor)
        if isinstance(result, Data):
            if self.fresh:
                opened = self.stream.cursor()
                if self.cursor is not None:
                    assert (opened.start, opened.offset) == (self.cursor.start, self.cursor.offset)
                    assert (opened.head, opened.tail) == (self.cursor.head, self.cursor.tail)
                self.cursor = opened
                self.fresh = False
                if opened.offset == 0:
                    self.segments.append(b"")
            assert self.cursor is not None
            self.cursor.advance(result.data)
            self.data += result.data
            if self.segments:
                self.segments[-1] += result.data
        elif isinstance(result, SegmentEnd):
            self.ends.append(result)
            self.closed.append(result.closed)
            self.cursor = None
            self.fresh = True
        self.notices += [notice.kind for notice in self.stream.take_notices()]
        return result

    async def idle_about(self, times: int) -> None:
        """Read now and then, with nothing heard of."""
        for _ in range(times):
            self.clock.pass_by(0.1)
            await self.step()

    async def cancel_a_read(self) -> None:
        """Begin to read and be cancelled before anything was delivered."""
        task = asyncio.ensure_future(self.step())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def drain(self, **options: Any) -> Idle:
        """Read until there is nothing to read; the clock stands."""
        for _ in range(1000):
            result = await self.step(rescan=True, **options)
            if isinstance(result, Idle) and not result.busy:
                return result
        raise AssertionError("the stream never became idle")

    async def settle(self) -> Idle:
        """Read, and let the grace pass, until nothing more happens."""
        for _ in range(50):
            before = (self.data, len(self.ends))
            idle = await self.drain()
            self.clock.pass_by(GRACE)
            idle = await self.drain()
            if (self.data, len(self.ends)) == before:
                return idle
        raise AssertionError("the stream never settled")


def lines(first: int, last: int, text: str = "event") -> bytes:
    """Return numbered lines."""
    return b"".join(b'{"%b": %d}\n' % (text.encode(), number) for number in range(first, last))


def append(path: Path, data: bytes) -> None:
    """Append, creating the file."""
    with path.open("ab") as file:
        file.write(data)


def member(path: Path, suffix: str) -> Path:
    """Return the name of a rotated file."""
    return path.with_name(path.name + suffix)


def compress(path: Path) -> Path:
    """Compress as gzip does: the new file is whole before the old name goes."""
    target = member(path, ".gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return target


def rotate(path: Path) -> None:
    """Renumber and rename as logrotate does; nobody creates the new file."""
    numbers = sorted(
        (int(found.name.removeprefix(path.name + ".").removesuffix(".gz")), found)
        for found in path.parent.glob(path.name + ".*")
    )
    for number, found in reversed(numbers):
        suffix = ".gz" if found.name.endswith(".gz") else ""
        found.rename(member(path, f".{number + 1}{suffix}"))
    path.rename(member(path, ".1"))


def swap(live: Path, target: Path) -> None:
    """Point the symlink to another file, all or nothing."""
    temporary = live.with_name("next")
    temporary.symlink_to(target.name)
    temporary.rename(live)


class other_user:  # noqa: N801 - used like a function
    """Root may read everything: become nobody for a moment."""

    def __init__(self, directory: Path, mode: int = 0o755) -> None:
        self.directory, self.mode = directory, mode

    def __enter__(self) -> None:
        for parent in (self.directory, *self.directory.parents):
            if parent.stat().st_uid == os.geteuid() and parent.parts[-1].startswith(("pytest", "test_", "stream")):
                parent.chmod(0o755)
        self.directory.chmod(self.mode)
        self.root = os.geteuid() == 0
        if self.root:
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if self.root:
            os.seteuid(0)
        self.directory.chmod(0o755)
