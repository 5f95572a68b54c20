"""What goes into the stream reader and what comes out of it.

Owns: the settings and the results of `edges.stream.Stream`. Leaves all behaviour to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

from tidewaiter.core.position import ClosedSegment
from tidewaiter.core.segment_findings import Evidence

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Which stream, and how it is read.

    `directory` says whether `path` names a directory of segments; None asks the file system, and takes a path that
    does not exist yet for a file. A path that was given with a slash at its end is a directory.
    """

    path: Path
    rotate_grace_us: int = 5_000_000
    read_bytes: int = 1 << 20
    directory: bool | None = None


class Data(Struct, frozen=True):
    """Bytes of the current segment, at least one, that follow those of the `Data` before."""

    data: bytes


class Idle(Struct, frozen=True):
    """Nothing to read now.

    `caught_up`: all that exists was delivered. `lag_bytes`: what exists behind the read position, in all segments; a
    compressed segment counts with its compressed size. `successor`: the next segment exists and the grace is running.
    `busy`: a compressed file is being looked through in steps; read again without waiting. `waiting_for`: a file that
    is not whole or not there yet, and has to be before reading goes on.
    """

    caught_up: bool
    lag_bytes: int
    successor: bool
    busy: bool = False
    waiting_for: str = ""


class SegmentEnd(Struct, frozen=True):
    """The segment ended after `length` bytes, all of them delivered; `closed` is what has to be recorded of it."""

    length: int
    closed: ClosedSegment


class Notice(Struct, frozen=True):
    """Something that an operator may want to know and that changes nothing.

    `kind`: renamed, identity_changed, deleted (it is read to its end), or copy (a file is a copy of the segment).
    """

    kind: str
    evidence: Evidence
