"""A disk that fails on a plan: this call, on that file, the N-th time, in the way named.

Owns: `Fault` (one line of the plan), `FaultyDisk` and its record of every call. Leaves to the inner disk the real work:
around a `RecordingDisk` a sync that fails without persisting is also noted there, so that crash states know the pages
as clean but lost.

Each failure exists in both forms that a caller cannot tell apart: failed and not persisted (nothing was done), failed
but persisted (it was done, then reported as failed).
"""

from __future__ import annotations

import errno as errors
import fnmatch
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from rigs.power_loss import RecordingDisk
from tidewaiter.edges.durable import Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

Primitive = Literal[
    "open", "pwrite", "fdatasync", "fsync", "ftruncate", "replace", "unlink", "rmdir", "mkdir", "fsync_directory"
]
PRIMITIVES: Final[tuple[Primitive, ...]] = (
    "open", "pwrite", "fdatasync", "fsync", "ftruncate", "replace", "unlink", "rmdir", "mkdir", "fsync_directory",
)  # fmt: skip
SYNCS: Final = frozenset({"fdatasync", "fsync"})
FOREVER: Final = 1 << 62
T = TypeVar("T")


@dataclass(slots=True)
class Fault:
    """Fail the `nth` call of `primitive` (counted from 1) on paths that match `pattern`, and `times` - 1 more.

    `pattern` is matched against the whole path and against the file name, as a shell would; ``*`` crosses slashes. A
    rename matches with either name. With `short`, the `nth` pwrite writes only that many bytes and says so; what fails
    are the `times` calls behind it (none if `errno` is 0). With `persisted`, the call is made and then fails.
    """

    primitive: Primitive
    pattern: str = "*"
    nth: int = 1
    errno: int = errors.EIO
    times: int = 1
    persisted: bool = False
    short: int | None = None
    seen: int = field(default=0, init=False)
    """Calls that matched so far."""

    def outcome(self, primitive: Primitive, paths: Iterable[Path]) -> Literal["ok", "short", "fail"]:
        """Count one call and say what shall become of it."""
        if primitive != self.primitive or not any(
            fnmatch.fnmatchcase(name, self.pattern) for path in paths for name in (str(path), path.name)
        ):
            return "ok"
        self.seen += 1
        past = self.seen - self.nth
        if self.short is not None:
            if past == 0:
                return "short"
            past -= 1
        return "fail" if self.errno and 0 <= past < self.times else "ok"


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it was answered."""

    primitive: Primitive
    path: Path
    handle: int
    """Number of the open() that gave the descriptor; 0 where there is none. Descriptors are used again, these not."""
    outcome: str
    """``ok``, ``short``, or the name of the error."""


class FaultyDisk(Disk):
    """`inner`, failing as planned; `calls` has every call in order of its answer."""

    def __init__(self, plan: Iterable[Fault] = (), inner: Disk | None = None) -> None:
        """The first fault of the plan that answers a call decides; all of them count it."""
        super().__init__()
        self.plan = list(plan)
        self.inner = inner or Disk()
        self.calls: list[Call] = []
        self._lock = threading.Lock()
        self._open_files: dict[int, tuple[int, Path]] = {}
        self._handles = 0

    # -- what tests ask ------------------------------------------------------------------------------------------

    @property
    def failures(self) -> list[Call]:
        """The calls that failed, short writes not counted."""
        return [call for call in self.calls if call.outcome not in {"ok", "short"}]

    def after_failure(self) -> list[Call]:
        """Return the calls behind the first failure."""
        for number, call in enumerate(self.calls):
            if call.outcome not in {"ok", "short"}:
                return self.calls[number + 1 :]
        return []

    def syncs_retried(self) -> list[Call]:
        """Return the syncs that were tried on a descriptor after one on it had failed: there must be none."""
        failed, retried = set[int](), []
        for call in self.calls:
            if call.primitive in SYNCS:
                if call.handle in failed:
                    retried.append(call)
                if call.outcome != "ok":
                    failed.add(call.handle)
        return retried

    def count(self, primitive: Primitive, pattern: str = "*") -> int:
        """Count the calls of `primitive` on paths that match, for choosing `nth`."""
        probe = Fault(primitive, pattern)
        for call in self.calls:
            probe.outcome(call.primitive, (call.path,))
        return probe.seen

    # -- the bare calls ------------------------------------------------------------------------------------------

    def close(self, fd: int) -> None:
        """Close, never failing."""
        self.inner.close(fd)

    def _open(self, path: Path, flags: int) -> int:
        def undo(fd: int) -> None:
            self.inner.close(fd)

        fd = self._do("open", 0, (path,), lambda: self.inner._open(path, flags), undo)
        with self._lock:
            self._handles += 1
            self._open_files[fd] = (self._handles, path)
        return fd

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        handle, path = self._open_files[fd]
        outcome, fault = self._judge("pwrite", (path,))
        if outcome == "short" and fault is not None and fault.short is not None:
            self._note("pwrite", path, handle, "short")
            return self.inner._pwrite(fd, data[: fault.short], offset) if fault.short else 0
        if outcome == "fail" and fault is not None:
            if fault.persisted:
                self.inner._pwrite(fd, data, offset)
            raise self._failure("pwrite", path, handle, fault)
        self._note("pwrite", path, handle, "ok")
        return self.inner._pwrite(fd, data, offset)

    def _fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd, self.inner._fdatasync)

    def _fsync(self, fd: int) -> None:
        self._sync("fsync", fd, self.inner._fsync)

    def _sync(self, primitive: Primitive, fd: int, call: Callable[[int], None]) -> None:
        handle, path = self._open_files[fd]
        outcome, fault = self._judge(primitive, (path,))
        if outcome == "fail" and fault is not None:
            if fault.persisted:
                call(fd)
            elif isinstance(self.inner, RecordingDisk):
                self.inner.sync_failed(fd)
            raise self._failure(primitive, path, handle, fault)
        call(fd)
        self._note(primitive, path, handle, "ok")

    def _ftruncate(self, fd: int, length: int) -> None:
        handle, path = self._open_files[fd]
        self._do("ftruncate", handle, (path,), lambda: self.inner._ftruncate(fd, length))

    def _replace(self, source: Path, target: Path) -> None:
        self._do("replace", 0, (target, source), lambda: self.inner._replace(source, target))

    def _unlink(self, path: Path) -> None:
        self._do("unlink", 0, (path,), lambda: self.inner._unlink(path))

    def _rmdir(self, path: Path) -> None:
        self._do("rmdir", 0, (path,), lambda: self.inner._rmdir(path))

    def _mkdir(self, path: Path) -> None:
        self._do("mkdir", 0, (path,), lambda: self.inner._mkdir(path))

    def _fsync_directory(self, path: Path) -> None:
        self._do("fsync_directory", 0, (path,), lambda: self.inner._fsync_directory(path))

    # -- the plan ------------------------------------------------------------------------------------------------

    def _do(
        self,
        primitive: Primitive,
        handle: int,
        paths: tuple[Path, ...],
        call: Callable[[], T],
        undo: Callable[[T], None] = lambda _result: None,
    ) -> T:
        outcome, fault = self._judge(primitive, paths)
        if outcome == "fail" and fault is not None:
            if fault.persisted:
                undo(call())
            raise self._failure(primitive, paths[0], handle, fault)
        result = call()
        self._note(primitive, paths[0], handle, "ok")
        return result

    def _judge(self, primitive: Primitive, paths: tuple[Path, ...]) -> tuple[str, Fault | None]:
        with self._lock:
            answers = [(fault.outcome(primitive, paths), fault) for fault in self.plan]
        return next(((outcome, fault) for outcome, fault in answers if outcome != "ok"), ("ok", None))

    def _failure(self, primitive: Primitive, path: Path, handle: int, fault: Fault) -> OSError:
        self._note(primitive, path, handle, errors.errorcode[fault.errno])
        return OSError(fault.errno, os.strerror(fault.errno), str(path))

    def _note(self, primitive: Primitive, path: Path, handle: int, outcome: str) -> None:
        with self._lock:
            self.calls.append(Call(primitive, path, handle, outcome))
