"""The places log lines go to: a file, and stderr as a terminal, a pipe or the journal's socket.

Owns: opening, following and closing them, what is lost there, and the form of a line for people. Leaves what a line
says, and its form as JSON, to `logs`.

Invariants:
- No method of a sink raises, and none waits for a reader or for space: what cannot be written is dropped and counted.
- A line that stayed unfinished is ended before the next one, so that lines never run into each other.
- What reaches a terminal is escaped: nothing in it is obeyed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from tidewaiter.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FILE_MODE: Final = 0o640
DIRECTORY_MODE: Final = 0o750
CHECK_SECONDS: Final = 1.0
"""How often, at most, a write asks whether the file's name still stands for the open file (logrotate)."""

_PRIORITY: Final = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>", "critical": b"<2>"}
_PIPE_BUF: Final = 4096  # what a pipe, socket or terminal that polls as writable takes without blocking


class Sink(Protocol):
    """One place for log lines. No method raises."""

    dropped: int

    def write(self, entry: Mapping[str, Any], line: bytes) -> None:
        """Take one entry; `line` is the same as JSON, with its newline."""

    def reopen(self) -> None:
        """Open the place anew."""

    def close(self) -> None:
        """Close it."""


class FileSink:
    """Appends lines to a file and follows its name: a renamed or removed file is replaced by a new one."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Open `path`, creating it and its directory. Raises ConfigError where that is not allowed."""
        self.dropped = 0
        self._path = path
        self._clock = clock
        self._fd = -1
        self._torn = False
        self._checked = clock()
        try:
            self._open()
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}:
                raise ConfigError(
                    f"{path}: the log cannot be written: {error.strerror}", hint="check its directory's permissions"
                ) from error

    def write(self, entry: Mapping[str, Any], line: bytes) -> None:  # noqa: ARG002 - see Sink
        """See Sink. If we die here, any part of the line may be in the file; the next open ends it with a newline."""
        now = self._clock()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            if not self._is_current():
                self.reopen()
        if self._torn:
            line = b"\n" + line
        try:
            written = os.write(self._fd, line)
        except OSError:
            self.dropped += 1
            return
        self._torn = written < len(line)
        self.dropped += self._torn

    def reopen(self) -> None:
        """See Sink. Where the new file cannot be opened, the old one is kept: better there than nowhere."""
        with contextlib.suppress(OSError):
            self._open()

    def close(self) -> None:
        """See Sink."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_current(self) -> bool:
        try:
            named, opened = os.stat(self._path), os.fstat(self._fd)  # noqa: PTH116 - a system call as such
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    def _open(self) -> None:
        directory = self._path.parent
        if not directory.is_dir():
            directory.mkdir(DIRECTORY_MODE, parents=True)
            directory.chmod(DIRECTORY_MODE)  # whatever the umask: the group may read the logs
        # O_NONBLOCK matters for a FIFO in the file's place, which would block; O_RDWR allows a look at the last byte.
        flags = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
            os.fchmod(fd, FILE_MODE)
        except FileExistsError:
            fd = os.open(self._path, flags | os.O_CREAT, FILE_MODE)
        status = os.fstat(fd)
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self._torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        self.close()
        self._fd = fd


class StreamSink:
    """Writes to stderr, be it a terminal, a pipe or the journal's socket, and never waits for its reader."""

    def __init__(
        self,
        fd: int,
        *,
        console: bool,
        prefix: bool,
        skips: frozenset[str] = frozenset(),
        above: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Use a duplicate of `fd`; `console` chooses text for people, `prefix` the journal's priorities.

        `skips` and `above` are for the console alone: see `logs.configure`.
        """
        self.dropped = 0
        self._prefix = prefix
        self._skips = skips
        self._above = above
        self._torn = False
        self._poll = select.poll()
        self._render = _console(colors=os.isatty(fd) and not os.environ.get("NO_COLOR")) if console else None
        try:
            self._fd = os.dup(fd)  # not inheritable; and what happens to `fd` later is nobody's log line
            self._poll.register(self._fd, select.POLLOUT)
        except OSError:
            self._fd = -1

    def write(self, entry: Mapping[str, Any], line: bytes) -> None:
        """See Sink."""
        try:
            if self._render is not None:
                if entry.get("event") in self._skips and entry.get("level") in ("debug", "info"):
                    return
                line = self._render(entry)
                if self._above is not None:
                    line = self._above(line)
            elif self._prefix:
                line = _PRIORITY.get(str(entry.get("level")), b"<6>") + line
            if not self._send(b"\n" + line if self._torn else line):
                self.dropped += 1
        except Exception:  # noqa: BLE001 - a line about a problem must not become one
            self.dropped += 1

    def reopen(self) -> None:
        """See Sink; there is nothing to open anew."""

    def close(self) -> None:
        """See Sink."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _send(self, line: bytes) -> bool:
        """Write what fits without blocking; remember a line that stayed unfinished."""
        sent = 0
        while sent < len(line):
            if self._fd < 0 or not self._poll.poll(0):
                break
            sent += os.write(self._fd, line[sent : sent + _PIPE_BUF])
        if sent:
            self._torn = sent < len(line)
        return sent == len(line)


def _console(*, colors: bool) -> Callable[[Mapping[str, Any]], bytes]:
    renderer = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=20)

    def render(entry: Mapping[str, Any]) -> bytes:
        shown = {key: _printable(value) for key, value in entry.items() if value is not None}
        if "exception" in shown:
            shown["exception"] = "\n".join(_printable(line) for line in str(entry["exception"]).split("\n"))
        return (str(renderer(None, str(entry.get("level")), shown)) + "\n").encode(errors="backslashreplace")

    return render


def _printable(value: object) -> Any:  # noqa: ANN401 - text is changed, anything else is passed on
    """Text with everything a terminal could obey escaped."""
    if isinstance(value, bool | int | float):
        return value
    text = text_of(value)
    return text if text.isprintable() else repr(text)[1:-1]


def text_of(value: object) -> str:
    """Return `value` as text, or the name of its type where even that fails; never raises."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a repr that raises is somebody's value
        return f"<{type(value).__name__}>"
