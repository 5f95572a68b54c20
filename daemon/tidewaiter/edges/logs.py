"""Application logs: one JSON line for each thing worth knowing, in a file and on stderr.

Owns: the form of log lines, which of them are wanted, and the table of event names. Leaves the writing to `log_sinks`,
and the evidence to the audit log (`edges.journal`): log lines are for people and their tools; they are not fsynced,
nothing is ever read back from them, and no event data beyond ids belongs in them.

Invariants:
- Logging never raises, and never stops the daemon: a line that cannot be written (disk full, stderr closed, a reader
  that no longer reads) is dropped and counted.
- A line is JSON with the keys timestamp, level, event, run_id, stream in this order, then the others by name. Text of
  others stands inside JSON strings only; what a terminal would obey is escaped.
- `event` is a name from `EVENTS`, always written out where it is logged, so that the operator's table is complete.
- Nothing goes to stdout, and nothing anywhere before `configure`.

Synchronous on purpose: at one summary a second a write costs less than handing it over, and lines keep their order.
Standard-library logging (asyncio, watchfiles, warnings) joins in as `library.message` from level warning up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, cast

import msgspec
import structlog
from structlog.contextvars import bind_contextvars, get_contextvars

from tidewaiter.core.invisible import INVISIBLE
from tidewaiter.edges.log_sinks import FileSink, StreamSink, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

    from tidewaiter.edges.log_sinks import Sink

EVENTS: Final[dict[str, str]] = {
    "daemon.started": "the process runs and has its configuration; nothing has been read yet",
    "daemon.ready": "recovery is done and the stream is being followed",
    "daemon.stopping": "a stop was asked for; the batch in hand is being finished",
    "daemon.stopped": "everything is committed and closed; carries the exit status",
    "daemon.failed": "an error ended the daemon; carries its message and the exit status",
    "recovery.started": "the audit log is read from the last checkpoint on",
    "recovery.tail_cut": "the rest of an interrupted write was cut from the audit log and kept in audit/torn/",
    "recovery.finished": "state, projections and audit log agree; carries what was replayed, rewritten and cut",
    "segment.opened": "reading of a segment of the stream began or was taken up again",
    "segment.closed": "a segment was closed for good, with its final length",
    "stream.rotated": "the stream goes on in a new segment",
    "stream.halted": "a data policy or a gap stopped the stream; an operator's decision is needed",
    "stream.silent": "nothing arrived for the configured time",
    "stream.resumed": "events arrive again after silence",
    "event.rejected": "a line was not evaluated; carries position and reason, never the line",
    "progress": "summary, once a second while events flow: position, lag_bytes, events_per_s, flags",
    "segment.noticed": "a file of the stream was renamed, deleted, copied or got another inode; nothing is lost by it",
    "batch.committed": "a batch is durable (level debug)",
    "snapshot.written": "a snapshot of the rule state was written",
    "snapshot.changed": "a snapshot is not as it was written; the next one was written without it",
    "snapshot.refused": "a snapshot is damaged or of an unknown version; the older one is used",
    "decision.recorded": "configuration, contract, rules, a skip or another decision took force in the audit log",
    "config.reloaded": "changed configuration was accepted",
    "config.refused": "changed configuration was not accepted; the old goes on",
    "disk.full": "a write found the disk full; reading stops until there is space",
    "disk.recovered": "there is space again; reading goes on",
    "watcher.lost": "file notifications failed; the stream is polled meanwhile",
    "watcher.recreated": "file notifications work again",
    "producer.started": "the producer appends to the stream, after the last event on the disk",
    "producer.behind": "the producer could not keep its rate; the events it owed are not made",
    "producer.partial_line_removed": "the producer cut off its own unfinished last line",
    "producer.stream_replaced": "the stream was rotated; the producer goes on in the new file",
    "producer.disk_full": "the producer found the disk full; it waits for space",
    "producer.disk_free": "there is space again; the producer goes on",
    "producer.stopped": "the producer appends no more; carries how many events it made",
    "key.introduced": "the log's first key is named in the audit log; carries its verifier key",
    "key.recorded": "a decision on a key of the log was taken from the inbox and recorded",
    "evidence.checkpoint": "a checkpoint was written (level debug); carries its size and whether it is signed",
    "evidence.key_absent": "the log's newest key cannot be read; the one before signs as long as it may",
    "evidence.unsigned": "no key that may sign is there any more: no checkpoint until one is",
    "worker.lost": "a process that works beside the daemon behind a backlog is given up; a thread does its work",
    "clock.behind": "the clock is behind the last entry of the audit log, whose times stand until it has caught up",
    "evidence.disk_full": "tiles or checkpoint found the disk full; commits go on, and it is tried again",
    "witness.started": "the witness listens; carries its URL and key, the logs it knows and the sizes it cosigned",
    "witness.stopped": "the witness was asked to end and did",
    "witness.exposed": "the witness listens on an address that others reach, in plain HTTP",
    "witness.cosigned": "the witness cosigned a checkpoint; carries origin and size",
    "witness.refused": "the witness did not cosign; carries the HTTP status and the reason",
    "witness.inconsistent": "a validly signed checkpoint does not go on from the one cosigned; carries the note",
    "witness.connection_lost": "a client of the witness was cut off or went away (level debug)",
    "witness.request_failed": "a request ended in an unexpected error; the witness goes on",
    "witness.unreachable": "a witness gave the daemon no cosignature; it is asked again after growing pauses",
    "witness.reached": "a witness gives cosignatures again",
    "openlineage.reached": "the lineage server takes events again",
    "openlineage.unreachable": "the lineage server took no event; it is asked again after growing pauses",
    "openlineage.refused": "the lineage server does not want an event, which is set aside; those behind it go on",
    "openlineage.cursor_damaged": "the cursor of shipped events cannot be read; events are sent again",
    "openlineage.cursor_ahead": "the cursor stands behind the end of the events; it goes back there",
    "openlineage.events_missing": "events that were not shipped are gone with their file",
    "openlineage.line_without_entry": "a crash left an event's line without its audit entry; it was never shipped",
    "openlineage.run_closed": "the run before had no end in the events; it was told now",
    "openlineage.disk_full": "an event or the cursor could not be written for want of space",
    "log.dropped": "log lines could not be written for a while; carries how many so far",
    "library.message": "a warning or error of a library; carries its logger and its message",
}
"""Every event name that is logged, and what it means. A test compares this with the code."""

Level = Literal["debug", "info", "warning", "error", "critical"]
StderrMode = Literal["auto", "json", "console", "none"]

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_FIRST_KEYS: Final = ("timestamp", "level", "event", "run_id", "stream")
_LIBRARY_LOGGERS_LEVEL: Final = logging.WARNING


def get_logger() -> FilteringBoundLogger:
    """Return a logger for a module; lines logged before `configure` go nowhere."""
    if not structlog.is_configured():
        _say_nothing()
    return cast("FilteringBoundLogger", structlog.get_logger())


def bind(*, run_id: str, stream: str) -> None:
    """Put run id and stream's name into every later line of this context and of the tasks started from it."""
    bind_contextvars(run_id=run_id, stream=stream)


class Logs:
    """The place log lines go to; made by `configure`."""

    def __init__(self, sinks: list[Sink]) -> None:
        """`sinks` each take the finished entry; `configure` chooses them."""
        self._sinks = sinks
        self._lock = threading.RLock()
        self._undo: Callable[[], None] = _nothing
        self._told: dict[int, int] = {}

    @property
    def dropped(self) -> int:
        """How many lines were lost, counted once for each place they should have gone to."""
        return sum(sink.dropped for sink in self._sinks)

    def reopen(self) -> None:
        """Open the log file again under its name (SIGHUP, after logrotate); never raises."""
        with self._lock:
            for sink in self._sinks:
                sink.reopen()

    def close(self) -> None:
        """Close what `configure` opened and give the standard library's logging back; later lines go nowhere."""
        with self._lock:
            self._undo()
            self._undo = _nothing
            _say_nothing()
            for sink in self._sinks:
                sink.close()
            self._sinks = []

    def write(self, entry: Mapping[str, Any]) -> None:
        """Hand an ordered entry to every sink; whatever goes wrong is the sink's to count."""
        line = encode(entry)
        with self._lock:
            for sink in self._sinks:
                lost = sink.dropped
                sink.write(entry, line)
                if sink.dropped == lost > self._told.get(id(sink), 0):
                    self._told[id(sink)] = lost
                    notice = arrange("warning", {"event": "log.dropped", "lines": lost}, get_contextvars())
                    sink.write(notice, encode(notice))

    def _process(self, _logger: WrappedLogger, method: str, event_dict: EventDict) -> NoReturn:
        self.write(arrange(method, event_dict, get_contextvars()))
        raise structlog.DropEvent


def configure(
    log_file: Path | None,
    *,
    stderr: StderrMode = "auto",
    level: Level = "info",
    journald: bool | None = None,
    stderr_fd: int = 2,
    console_skips: frozenset[str] = frozenset(),
    console_above: Callable[[bytes], bytes] | None = None,
) -> Logs:
    """Send log lines of `level` and above to `log_file` and to stderr; may be called again, after closing the former.

    `stderr` "auto" means the console renderer on a terminal and JSON otherwise. `journald` says whether JSON lines on
    stderr get the priority prefix of the journal; None finds out. The console leaves out events of level info and below
    that are named in `console_skips`, and passes each line through `console_above` where something is drawn below it.
    Call it before other files are opened: it makes sure that descriptors 0 to 2 are taken, so that no file of the
    daemon can ever be mistaken for stderr. Raises ConfigError where the log file cannot be used; a full disk is no
    reason.
    """
    _fill_standard_descriptors()
    sinks: list[Sink] = []
    if log_file is not None:
        sinks.append(FileSink(log_file))
    if stderr != "none":
        console = stderr == "console" or (stderr == "auto" and os.isatty(stderr_fd))
        prefix = under_journald(stderr_fd) if journald is None else journald
        sinks.append(
            StreamSink(
                stderr_fd, console=console, prefix=prefix and not console, skips=console_skips, above=console_above
            )
        )
    logs = Logs(sinks)
    structlog.configure(
        processors=[logs._process],  # noqa: SLF001 - private to this module
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,  # or a new level would not reach the modules' loggers
    )
    logs._undo = _adopt_standard_logging(logs)  # noqa: SLF001 - private to this module
    return logs


def under_journald(fd: int, environment: Mapping[str, str] | None = None) -> bool:
    """Whether `fd` is the very stream the service manager connected to the journal (JOURNAL_STREAM = device:inode)."""
    text = (os.environ if environment is None else environment).get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return text == f"{status.st_dev}:{status.st_ino}"


# -- one entry ---------------------------------------------------------------------------------------------------------


def arrange(level: str, event_dict: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry with its keys in order; an exception becomes the text of its traceback."""
    entry: dict[str, Any] = {
        "timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z",
        "level": level,
        "event": event_dict.get("event"),
        "run_id": event_dict.get("run_id", context.get("run_id")),
        "stream": event_dict.get("stream", context.get("stream")),
    }
    others = {**context, **event_dict}
    if (error := _exception(others.pop("exc_info", None))) is not None:
        others["exception"] = "".join(traceback.format_exception(error)).rstrip("\n")
    for key in sorted(others):
        if key not in _FIRST_KEYS:
            entry[key] = others[key]
    return entry


def encode(entry: Mapping[str, Any]) -> bytes:
    """Return the entry as one line of JSON with its newline; whatever the values are, this does not raise."""
    try:
        line = _ENCODER.encode(entry)
    except Exception:  # noqa: BLE001 - lone surrogates, cycles, a repr that raises: all are somebody's value
        line = json.dumps({str(key): _text(value) for key, value in entry.items()}).encode()
    if not line.isascii():
        # JSON allows what some terminals obey or hide: C1 controls, line separators, marks of writing direction.
        line = INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode()).encode()
    return line.replace(b"\x7f", b"\\u007f") + b"\n"


def _exception(value: object) -> BaseException | None:
    if isinstance(value, BaseException):
        return value
    if isinstance(value, tuple):
        return value[1] if len(value) > 1 and isinstance(value[1], BaseException) else None
    return sys.exc_info()[1] if value else None


def _text(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else text_of(value)


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_text)


# -- the standard library's logging ------------------------------------------------------------------------------------


class _Adopted(logging.Handler):
    def __init__(self, logs: Logs) -> None:
        super().__init__(_LIBRARY_LOGGERS_LEVEL)
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            level = next((name for name in reversed(_LEVELS) if record.levelno >= _LEVELS[name]), "debug")
            try:
                message = record.getMessage()
            except Exception:  # noqa: BLE001 - a format that does not fit its arguments is still worth reading
                message = str(record.msg)
            fields: dict[str, Any] = {"event": "library.message", "logger": record.name, "message": message}
            if record.exc_info:
                fields["exc_info"] = record.exc_info
            self._logs.write(arrange(level, fields, get_contextvars()))


def _adopt_standard_logging(logs: Logs) -> Callable[[], None]:
    """Route the root logger and Python's warnings into `logs`; return what undoes that."""
    root = logging.getLogger()
    handler = _Adopted(logs)
    former = root.level
    root.addHandler(handler)
    root.setLevel(_LIBRARY_LOGGERS_LEVEL)
    logging.captureWarnings(capture=True)

    def undo() -> None:
        root.removeHandler(handler)
        root.setLevel(former)
        logging.captureWarnings(capture=False)

    return undo


def _fill_standard_descriptors() -> None:
    """Put /dev/null where stdin, stdout or stderr were closed; the lowest free number is what open returns."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def _say_nothing() -> None:
    """Let log lines go nowhere: structlog's own default prints to stdout, and fails where that is closed."""
    structlog.configure(processors=[_drop], logger_factory=structlog.ReturnLoggerFactory())


def _drop(_logger: WrappedLogger, _method: str, _event_dict: EventDict) -> NoReturn:
    raise structlog.DropEvent


def _nothing() -> None:
    pass
