"""Record what was asked of the disk, then build directory trees as they may be found after a power loss.

Owns: `RecordingDisk`, which does the real work and keeps a log of it, and `History`, which draws crash states from the
log. Leaves to the tests: what to run, and what must hold after recovery from each state.

The model follows the *abstract persistence model* of Pillai et al., "All File Systems Are Not Created Equal" (ALICE,
OSDI '14), set to the weakest promises; failed syncs follow Rebello et al., "Can Applications Recover from fsync
Failures?" (USENIX ATC '20). A state it builds may be impossible on a given file system; one that a file system with
whole-page writes can leave behind should not be missing:

- Data belongs to the inode, not to the name. Between two syncs each 4 KiB page may be found in any of the versions it
  went through, each page on its own. A page that was not kept shows its last synced content, and zeros beyond the last
  synced size.
- The file size may be found as last synced, as after any later write or cut, or ending with any kept page.
- fsync and fdatasync make the file's data and size durable, as far as they were written before the call began. They do
  not make its name durable.
- Creating, renaming, removing a name and making a directory are one operation each, seen or not seen; any subset of
  those since the last fsync of the directory may be found. A name may therefore show up with an empty or zero file.
- A sync that failed without persisting leaves the pages clean: a later sync reports success and makes the size
  durable, but not these pages, unless they were written again.
- Not modelled: a torn page (choose a smaller `page` for that), a rename from one directory to another (refused), bits
  that rot, and files written past this disk, for example under ``log/``: these are not in the crash states.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tidewaiter.edges.durable import Disk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

PAGE = 4096
ROOT = 0


# -- the log -----------------------------------------------------------------------------------------------------------
# `node` numbers a file or directory for its whole life; inode numbers would be used again by the file system.


@dataclass(frozen=True, slots=True)
class Write:
    """`data` was written to a file at `offset`."""

    node: int
    offset: int
    data: bytes
    label: str


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file was cut or extended to `length` bytes."""

    node: int
    length: int
    label: str


@dataclass(frozen=True, slots=True)
class Sync:
    """A file's operations with an index below `covers` were made durable; if not `persisted`, the sync failed."""

    node: int
    covers: int
    persisted: bool
    label: str


@dataclass(frozen=True, slots=True)
class Link:
    """`name` in `directory` now means `node`; `old_name` (of a rename) is gone."""

    directory: int
    name: str
    node: int
    old_name: str | None
    is_directory: bool
    label: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """`name` in `directory` is gone."""

    directory: int
    name: str
    label: str


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    """A directory's operations with an index below `covers` were made durable."""

    directory: int
    covers: int
    label: str


Op = Write | Truncate | Sync | Link | Unlink | SyncDirectory


class RecordingDisk(Disk):
    """A disk that works for real and logs every operation below `root`, from any thread.

    What `root` holds at the start counts as durable. An operation outside `root` is refused with AssertionError.
    """

    def __init__(self, root: Path, *, page: int = PAGE) -> None:
        """Take stock of `root`, which must exist; `page` is the unit that is kept or lost as a whole, in bytes."""
        super().__init__()
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow the symlinks that tests set up
        self.history = History(page)
        self._lock = threading.Lock()
        self._names: dict[int, dict[str, int]] = {ROOT: {}}
        self._nodes = ROOT
        self._open_files: dict[int, tuple[int, str]] = {}
        self._take_stock(self.root, ROOT)

    @property
    def ops(self) -> Sequence[Op]:
        """Everything done so far, in order."""
        return self.history.ops

    def sync_failed(self, fd: int) -> None:
        """Note that a sync of `fd` failed and persisted nothing: its pages count as clean from now on."""
        with self._lock:
            node, label = self._open_files[fd]
            self._add(Sync(node, len(self.history.ops), persisted=False, label=f"failed sync {label}"))

    # -- the bare calls ------------------------------------------------------------------------------------------
    # Changes are made and logged under the lock, so that the log has their order; syncs run outside of it.

    def _open(self, path: Path, flags: int) -> int:
        with self._lock:
            directory, name, label = self._place(path)
            fd = super()._open(path, flags)
            node = self._names[directory].get(name)
            if node is None:
                if not flags & os.O_CREAT:
                    raise AssertionError(f"{label} was not made through this disk")
                node = self._new_node()
                self._names[directory][name] = node
                self._add(Link(directory, name, node, None, is_directory=False, label=f"create {label}"))
            if flags & os.O_TRUNC:
                self._add(Truncate(node, 0, f"truncate {label} to 0"))
            self._open_files[fd] = (node, label)
            return fd

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        with self._lock:
            node, label = self._open_files[fd]
            count = super()._pwrite(fd, data, offset)
            self._add(Write(node, offset, bytes(data[:count]), f"write {label} {offset}+{count}"))
            return count

    def _ftruncate(self, fd: int, length: int) -> None:
        with self._lock:
            node, label = self._open_files[fd]
            super()._ftruncate(fd, length)
            self._add(Truncate(node, length, f"truncate {label} to {length}"))

    def _fdatasync(self, fd: int) -> None:
        self._sync(fd, super()._fdatasync, "fdatasync")

    def _fsync(self, fd: int) -> None:
        self._sync(fd, super()._fsync, "fsync")

    def _sync(self, fd: int, call: Callable[[int], None], word: str) -> None:
        with self._lock:
            node, label = self._open_files[fd]
            covers = len(self.history.ops)
        call(fd)
        with self._lock:
            self._add(Sync(node, covers, persisted=True, label=f"{word} {label}"))

    def _replace(self, source: Path, target: Path) -> None:
        with self._lock:
            directory, old_name, old_label = self._place(source)
            target_directory, name, label = self._place(target)
            if directory != target_directory:
                raise AssertionError(f"rename from one directory to another is not modelled: {old_label} to {label}")
            super()._replace(source, target)
            node = self._names[directory].pop(old_name)
            self._names[directory][name] = node
            is_directory = node in self._names
            self._add(Link(directory, name, node, old_name, is_directory, f"rename {old_label} to {label}"))

    def _unlink(self, path: Path) -> None:
        with self._lock:
            directory, name, label = self._place(path)
            super()._unlink(path)
            self._names[directory].pop(name, None)
            self._add(Unlink(directory, name, f"unlink {label}"))

    def _rmdir(self, path: Path) -> None:
        with self._lock:
            directory, name, label = self._place(path)
            super()._rmdir(path)
            self._names[directory].pop(name, None)
            self._add(Unlink(directory, name, f"rmdir {label}"))

    def _mkdir(self, path: Path) -> None:
        with self._lock:
            directory, name, label = self._place(path)
            super()._mkdir(path)
            node = self._new_node()
            self._names[node] = {}
            self._names[directory][name] = node
            self._add(Link(directory, name, node, None, is_directory=True, label=f"mkdir {label}"))

    def _fsync_directory(self, path: Path) -> None:
        if Path(os.path.abspath(path)) == self.root.parent:  # noqa: PTH100 - see __init__
            super()._fsync_directory(path)  # the name of the root itself is taken for durable
            return
        with self._lock:
            parts = self._parts(path)
            directory, covers = self._walk(parts), len(self.history.ops)
        super()._fsync_directory(path)
        with self._lock:
            self._add(SyncDirectory(directory, covers, f"fsync directory {'/'.join(parts) or '.'}"))

    # -- book-keeping --------------------------------------------------------------------------------------------

    def _take_stock(self, path: Path, node: int) -> None:
        for entry in sorted(path.iterdir()):
            child = self._new_node()
            if entry.is_dir():
                self._names[node][entry.name] = child
                self._names[child] = {}
                self.history.start_directory(node, entry.name, child)
                self._take_stock(entry, child)
            elif entry.is_file():
                self._names[node][entry.name] = child
                self.history.start_file(node, entry.name, child, entry.read_bytes())

    def _parts(self, path: Path) -> tuple[str, ...]:
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - see __init__
        if not absolute.is_relative_to(self.root):
            raise AssertionError(f"{absolute} is outside of the recorded {self.root}")
        return absolute.relative_to(self.root).parts

    def _walk(self, parts: Sequence[str]) -> int:
        node = ROOT
        for part in parts:
            if part not in self._names[node]:
                raise AssertionError(f"directory {'/'.join(parts)} was not made through this disk")
            node = self._names[node][part]
        return node

    def _place(self, path: Path) -> tuple[int, str, str]:
        parts = self._parts(path)
        return self._walk(parts[:-1]), parts[-1], "/".join(parts)

    def _new_node(self) -> int:
        self._nodes += 1
        return self._nodes

    def _add(self, op: Op) -> None:
        self.history.ops.append(op)


# -- what may be found -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Version:
    """A page as it was after operation `op`, when the file had `size` bytes."""

    op: int
    content: bytes
    size: int
    lost: bool = False


@dataclass(slots=True)
class _File:
    """What is surely on the disk of a file, and what may be."""

    pages: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    current: bytearray = field(default_factory=bytearray)
    versions: dict[int, list[_Version]] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def change(self, index: int, first: int, last: int, page: int) -> None:
        """Note new versions of the pages that hold bytes `first` to `last` (excluded) of `current`."""
        size = len(self.current)
        for number in range(first // page, (last + page - 1) // page):
            content = bytes(self.current[number * page : (number + 1) * page]).ljust(page, b"\0")
            self.versions.setdefault(number, []).append(_Version(index, content, size))
        if size != (self.sizes[-1][1] if self.sizes else self.size):
            self.sizes.append((index, size))

    def sync(self, covers: int) -> None:
        """Make the newest version before `covers` the durable one, unless a failed sync lost it."""
        for number in list(self.versions):
            before = [version for version in self.versions[number] if version.op < covers]
            if before and not before[-1].lost:
                self.pages[number] = before[-1].content
                self.versions[number] = self.versions[number][len(before) :]
                if not self.versions[number]:
                    del self.versions[number]
        done = [size for op, size in self.sizes if op < covers]
        if done:
            self.size = done[-1]
            self.sizes = self.sizes[len(done) :]

    def lose(self, covers: int) -> None:
        """Mark what was written before `covers` as clean though it is not on the disk."""
        for number, versions in self.versions.items():
            self.versions[number] = [
                _Version(version.op, version.content, version.size, lost=version.lost or version.op < covers)
                for version in versions
            ]


@dataclass(frozen=True, slots=True)
class CrashState:
    """One tree that may be found after a power loss just after operation `at` (-1: before the first)."""

    at: int
    name: str
    tree: dict[str, bytes | None]
    """Relative path to content; None for a directory."""

    def materialise(self, target: Path) -> Path:
        """Build the tree in `target`, which must be missing or empty; returns `target`."""
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise AssertionError(f"{target} is not empty")
        for path in sorted(self.tree):
            content = self.tree[path]
            if content is None:
                (target / path).mkdir()
            else:
                (target / path).write_bytes(content)
        return target

    def digest(self) -> bytes:
        """Tell equal trees by equal digests."""
        total = hashlib.sha256()
        for path in sorted(self.tree):
            content = self.tree[path]
            total.update(repr((path, None if content is None else len(content))).encode())
            total.update(content or b"")
        return total.digest()


@dataclass(slots=True)
class _Keep:
    """The three choices that make a crash state out of what is certain and what is possible."""

    version: Callable[[list[_Version]], _Version | None]
    size: Callable[[_File, list[int]], int]
    entry: Callable[[int], bool]


class History:
    """The operations of a `RecordingDisk` and the trees that a power loss among them may leave."""

    def __init__(self, page: int = PAGE) -> None:
        """Start with an empty root directory."""
        self.page = page
        self.ops: list[Op] = []
        self._start: list[tuple[int, str, int, bytes | None]] = []

    def start_directory(self, directory: int, name: str, node: int) -> None:
        """Add a directory that was there before the first operation."""
        self._start.append((directory, name, node, None))

    def start_file(self, directory: int, name: str, node: int, content: bytes) -> None:
        """Add a file that was there before the first operation."""
        self._start.append((directory, name, node, content))

    def crash_states(self, rng: random.Random, at: int, samples: int = 4) -> list[CrashState]:
        """Return the corner cases and `samples` random states of a power loss just after operation `at`."""
        replay = _Replay(self)
        for index in range(at + 1):
            replay.apply(index, self.ops[index])
        return _distinct(replay.draw(rng, samples), set())

    def every_crash(
        self, rng: random.Random, samples: int = 4, at: Callable[[int, Op], bool] = lambda _index, _op: True
    ) -> Iterator[CrashState]:
        """Yield the states of `crash_states` for every operation that `at` accepts, each distinct tree once."""
        replay, seen = _Replay(self), set[bytes]()
        yield from _distinct(replay.draw(rng, 0), seen)
        for index, op in enumerate(list(self.ops)):
            replay.apply(index, op)
            if at(index, op):
                yield from _distinct(replay.draw(rng, samples), seen)

    def start(self) -> list[tuple[int, str, int, bytes | None]]:
        """Return what was there before the first operation: directory, name, node, content."""
        return self._start


class _Replay:
    """The model: applies operations one by one and draws states in between."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.page = history.page
        self.last = -1
        self.files: dict[int, _File] = {}
        self.entries: dict[int, dict[str, int]] = {ROOT: {}}
        self.pending: dict[int, list[tuple[int, Link | Unlink]]] = {ROOT: []}
        for directory, name, node, content in history.start():
            self.entries[directory][name] = node
            if content is None:
                self.entries[node], self.pending[node] = {}, []
            else:
                file = self.files[node] = _File(size=len(content), current=bytearray(content))
                for number in range((len(content) + self.page - 1) // self.page):
                    part = content[number * self.page : (number + 1) * self.page]
                    file.pages[number] = part.ljust(self.page, b"\0")

    def apply(self, index: int, op: Op) -> None:
        self.last = index
        if isinstance(op, Write):
            file, end = self.files[op.node], op.offset + len(op.data)
            old = len(file.current)
            if end > old:
                file.current.extend(bytes(end - old))
            file.current[op.offset : end] = op.data
            file.change(index, min(op.offset, old), end, self.page)
        elif isinstance(op, Truncate):
            file, old = self.files[op.node], len(self.files[op.node].current)
            del file.current[op.length :]
            file.current.extend(bytes(op.length - len(file.current)))
            file.change(index, min(op.length, old), max(op.length, old), self.page)
        elif isinstance(op, Sync):
            if op.persisted:
                self.files[op.node].sync(op.covers)
            else:
                self.files[op.node].lose(op.covers)
        elif isinstance(op, SyncDirectory):
            waiting = self.pending[op.directory]
            for at, change in waiting:
                if at < op.covers:
                    _change(self.entries[op.directory], change)
            self.pending[op.directory] = [(at, change) for at, change in waiting if at >= op.covers]
        else:
            self.pending[op.directory].append((index, op))
            if isinstance(op, Link) and op.old_name is None:
                if op.is_directory:
                    self.entries[op.node], self.pending[op.node] = {}, []
                else:
                    self.files[op.node] = _File()

    def draw(self, rng: random.Random, samples: int) -> Iterator[CrashState]:
        """Yield the corner cases, then random states."""
        none: Callable[[list[_Version]], None] = lambda _versions: None  # noqa: E731 - reads as a word below
        newest: Callable[[list[_Version]], _Version] = lambda versions: versions[-1]  # noqa: E731
        synced: Callable[[_File, list[int]], int] = lambda file, _ends: file.size  # noqa: E731
        grown: Callable[[_File, list[int]], int] = lambda file, _ends: len(file.current)  # noqa: E731
        yield self._state("nothing kept", _Keep(none, synced, lambda _op: False))
        yield self._state("everything kept", _Keep(newest, grown, lambda _op: True))
        yield self._state("only the last operation", self._only_last())
        yield self._state("only directory operations", _Keep(none, synced, lambda _op: True))
        yield self._state("only data", _Keep(newest, grown, lambda _op: False))
        yield self._state("sizes and names, but no data", _Keep(none, grown, lambda _op: True))
        for number in range(samples):
            yield self._state(f"random {number}", self._random(rng, rng.choice((0.1, 0.5, 0.9))))

    def _only_last(self) -> _Keep:
        def version(versions: list[_Version]) -> _Version | None:
            return versions[-1] if versions[-1].op == self.last else None

        def size(file: _File, _ends: list[int]) -> int:
            return file.sizes[-1][1] if file.sizes and file.sizes[-1][0] == self.last else file.size

        return _Keep(version, size, lambda op: op == self.last)

    @staticmethod
    def _random(rng: random.Random, share: float) -> _Keep:
        def version(versions: list[_Version]) -> _Version | None:
            return rng.choice(versions) if rng.random() < share else None

        def size(file: _File, ends: list[int]) -> int:
            sizes = [file.size, *(size for _, size in file.sizes)]
            # Writing inside a file never makes it shorter: only what grew can end with a kept page.
            return rng.choice([*sizes, *(end for end in ends if end >= min(sizes))])

        return _Keep(version, size, lambda _op: rng.random() < share)

    def _state(self, name: str, keep: _Keep) -> CrashState:
        tree: dict[str, bytes | None] = {}
        self._fill(tree, "", ROOT, keep, {})
        label = self.history.ops[self.last].label if self.last >= 0 else "the start"
        return CrashState(self.last, f"after {self.last} ({label}): {name}", tree)

    def _fill(
        self, tree: dict[str, bytes | None], prefix: str, node: int, keep: _Keep, images: dict[int, bytes]
    ) -> None:
        entries = dict(self.entries[node])
        for index, change in self.pending[node]:
            if keep.entry(index):
                _change(entries, change)
        for name, child in sorted(entries.items()):
            if child in self.entries:
                tree[prefix + name] = None
                self._fill(tree, f"{prefix}{name}/", child, keep, images)
            else:
                if child not in images:
                    images[child] = self._image(self.files[child], keep)
                tree[prefix + name] = images[child]

    def _image(self, file: _File, keep: _Keep) -> bytes:
        pages, ends = dict(file.pages), list[int]()
        for number, versions in sorted(file.versions.items()):
            kept = keep.version(versions)
            if kept is not None:
                pages[number] = kept.content
                ends.append(min((number + 1) * self.page, kept.size))
        size = keep.size(file, ends)
        zeros = bytes(self.page)
        return b"".join(pages.get(number, zeros) for number in range((size + self.page - 1) // self.page))[:size]


def _change(entries: dict[str, int], op: Link | Unlink) -> None:
    if isinstance(op, Unlink):
        entries.pop(op.name, None)
        return
    if op.old_name is not None and entries.get(op.old_name) == op.node:
        del entries[op.old_name]
    entries[op.name] = op.node


def _distinct(states: Iterator[CrashState], seen: set[bytes]) -> list[CrashState]:
    fresh = []
    for state in states:
        digest = state.digest()
        if digest not in seen:
            seen.add(digest)
            fresh.append(state)
    return fresh
