"""The output of a followed input: committed to the audit log slice by slice, then appended.

Owns: what a commit says, finding the newest one of an output, the order of log and files, and putting right what a
crash left. Leaves to `shell.audit_logger` the log, to `edges.tables.appending` the files, to `deriving` what a slice
comes to, and to `following` when.

    stream/commit completed   `resource` is the output, `record_count` the records appended; `input_hash` is the SHA-256
                              of the input's bytes, `output_hash` the running hash of the output; `details` is `Commit`

Invariants: the commits of one output follow each other without a gap, in the input and in the output; a file is only
written where a commit says so, and never before it is durable.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.edges.tables.appending import AppendedFile, Extent
from tidewaiter.shell.audit_entries import decode_entry
from tidewaiter.shell.pipelines.trail import lines_backwards

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.audit_logger import AuditLogger
    from tidewaiter.shell.pipelines.deriving import Derived

STREAM: Final = "stream"
_COMMIT: Final = "commit"
_MARK: Final = b'"action":"commit"'


class Slice(Struct, frozen=True):
    """Bytes `begin` to `end` of the input, their SHA-256 (hex), and the number of records before them and in them."""

    file: str
    begin: int
    end: int
    sha256: str
    before: int = 0
    records: int = 0


class Commit(Struct, frozen=True):
    """One slice: where it came from, and what was appended for it; number 0 is what stands before all records.

    `governed` is the digest of what the output depends on. `kept` is of the file of rejected records. `removed` and
    `rejected` count records of the slice, `written` those of the output so far.
    """

    number: int
    governed: str
    input: Slice
    output: Extent
    kept: Extent
    removed: int
    rejected: int
    written: int

    @property
    def records(self) -> int:
        """Records of the input so far."""
        return self.input.before + self.input.records


class CommittedOutput:
    """The output and the file of rejected records, as far as they are committed; `last` is the newest commit."""

    def __init__(
        self, logger: AuditLogger, run_id: str, output: Path, governed: str, disk: Disk, *, keeps: bool
    ) -> None:
        """Open the files, making them where they are missing; `keeps` says whether rejected records are kept.

        Raises ConfigError where the output is somebody else's, or was begun under another digest than `governed`,
        IntegrityRefusal for a commit that cannot be understood, and DurabilityError.
        """
        self._logger, self._run_id, self._path, self._governed = logger, run_id, output, governed
        self.last = _find(logger.path, str(output))
        self.kept_path = output.with_name(f"{output.name}.rejected.jsonl")
        if self.last is not None and self.last.governed != governed:
            raise ConfigError(
                f"{output}: was begun under another pipeline, contract or format",
                hint="go on with those, or begin an output of another name",
            )
        with contextlib.ExitStack() as opened:
            self._output = AppendedFile(output, disk)
            opened.callback(self._output.close)
            self._kept: AppendedFile | None = None
            if keeps or (self.last is not None and self.last.kept.end):
                self._kept = AppendedFile(self.kept_path, disk)
                opened.callback(self._kept.close)
            if self.last is None:
                for file in (self._output, self._kept):
                    if file is not None and file.length:
                        hint = "name a new file, or the audit log that it was begun with"
                        raise ConfigError(f"{file.path}: is there already, and was not begun as a stream", hint=hint)
            self._opened = opened.pop_all()
        self._keeps = keeps

    @property
    def length(self) -> int:
        """Bytes of the output that are committed."""
        return 0 if self.last is None else self.last.output.end

    def put_right(self, text: bytes, derive: Callable[[bytes, Commit], Derived]) -> str:
        """Make the files what the last commit says, and return what was done, in words.

        `text` are the bytes of the input that it names, and `derive` what they come to. Raises IntegrityRefusal where
        they are not those bytes, or come to something else, or where the files lack more than this commit's bytes.
        """
        last = self.last
        if last is None:
            return ""
        if len(text) != last.input.end - last.input.begin or hashlib.sha256(text).hexdigest() != last.input.sha256:
            raise IntegrityRefusal(
                f"{last.input.file}: bytes {last.input.begin} to {last.input.end} are not those that were read before",
                hint="is it another file? restore it, or begin an output of another name",
            )
        done: list[str] = []
        files = [(self._output, last.output)] + ([(self._kept, last.kept)] if self._kept is not None else [])
        if any(file.needs(extent) for file, extent in files):
            derived = derive(text, last)
            both = (derived.output, derived.rejected_lines() if last.kept.end > last.kept.begin else b"")
            for (file, extent), data in zip(files, both, strict=False):
                if not extent.holds(data):
                    raise IntegrityRefusal(
                        f"{file.path}: bytes {extent.begin} to {extent.end} are missing, and the input comes to others",
                        hint="start once with the versions and lists of the run before: its audit entry names them",
                    )
                if file.needs(extent):
                    file.write(extent, data)
                    done.append(f"{file.path}: bytes {extent.begin} to {extent.end} were written again")
        for file, extent in files:
            if cut := file.settle(extent.end):
                done.append(f"{file.path}: {cut} bytes that nothing vouches for were cut")
        return "; ".join(done)

    def commit(self, source: Slice, derived: Derived) -> None:
        """Commit what a slice came to, and append it. Raises DurabilityError."""
        last = self.last
        lines = derived.rejected_lines() if self._keeps else b""
        commit = Commit(
            number=0 if last is None else last.number + 1,
            governed=self._governed,
            input=source,
            output=(Extent() if last is None else last.output).then(derived.output),
            kept=(Extent() if last is None else last.kept).then(lines),
            removed=derived.removed,
            rejected=len(derived.rejected),
            written=derived.written + (0 if last is None else last.written),
        )
        # If we die in here, the entry is whole, or is cut by the next start; the files are as they were.
        self._logger.log_complete(
            self._run_id,
            STREAM,
            _COMMIT,
            resource=str(self._path),
            record_count=derived.written,
            input_hash=source.sha256,
            output_hash=commit.output.after,
            details=msgspec.to_builtins(commit),
        )
        # From here on the slice counts. If we die before its bytes are there, `put_right` writes them again.
        self.last = commit
        self._output.write(commit.output, derived.output)
        if self._kept is not None:
            self._kept.write(commit.kept, lines)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of the whole output, as sha256sum prints it."""
        return self._output.sha256()

    def close(self) -> None:
        """Let the files go."""
        self._opened.close()


def _find(log: Path, output: str) -> Commit | None:
    """Return the newest commit of `output` in the audit file `log`. Raises IntegrityRefusal."""
    for line in lines_backwards(log):
        if _MARK not in line:
            continue
        entry = decode_entry(line)
        if (entry.stage, entry.action, entry.resource) == (STREAM, _COMMIT, output):
            return _commit(f"{log}: entry {entry.index}", entry.details)
    return None


def _commit(where: str, details: dict[str, Any]) -> Commit:
    try:
        return msgspec.convert(details, Commit)
    except msgspec.ValidationError as error:
        hint = "was it written by another version? begin an output of another name"
        raise IntegrityRefusal(f"{where} is no commit of a stream: {error}", hint=hint) from error
