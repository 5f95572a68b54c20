"""The output of a followed input: committed to the audit log slice by slice, then appended.

Owns: what a commit says, finding those of an output, the order of log and files, and holding the files against their
commits. Leaves to `shell.audit_logger` the log, to `edges.tables.appending` the files, to `deriving` what a slice comes
to, and to `following` when.

    stream/commit completed   `resource` is the output, `record_count` the records appended; `input_hash` is the SHA-256
                              of the input's bytes, `output_hash` the running hash of the output; `details` is `Commit`

Invariants: the commits of one output follow each other without a gap, in the input and in the output; a file is only
written where a commit says so, and never before it is durable; what somebody else wrote is never cut, overwritten or
signed off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.errors import ConfigError, IntegrityRefusal, SourceHalt
from tidewaiter.edges.tables.appending import AppendedFile, Extent
from tidewaiter.shell.audit_entries import COMPLETED, STARTED, decode_entry
from tidewaiter.shell.pipelines.trail import RUN, WRITE, lines_backwards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.audit_entries import AuditEntry
    from tidewaiter.shell.audit_logger import AuditLogger
    from tidewaiter.shell.pipelines.deriving import Derived

STREAM: Final = "stream"
_COMMIT: Final = "commit"
_RUN: Final = (RUN, "run")
_MARK: Final = b'"action":"commit"'
_MARKS: Final = (_MARK, b'"action":"run"', b'"action":"write"')


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

    @property
    def extents(self) -> tuple[Extent, Extent]:
        """What was appended to the output, and to the file of rejected records."""
        return self.output, self.kept


class _History(Struct, frozen=True):
    """What the audit log says of an output: its newest commit, and what came after that.

    `settled`: a run said that the bytes of the commit are there, or a run in batch mode wrote a file of this name
    since; the latter is `replaced`, in words.
    """

    last: Commit
    settled: bool
    replaced: str


class CommittedOutput:
    """The output and the file of rejected records, as far as they are committed; `last` is the newest commit."""

    def __init__(
        self, logger: AuditLogger, run_id: str, output: Path, governed: str, disk: Disk, *, keeps: bool
    ) -> None:
        """Open the files; they are made where nothing of them is committed. `keeps`: rejected records are kept.

        Raises ConfigError where the output is somebody else's, or was begun under another digest than `governed`,
        IntegrityRefusal for a commit that cannot be understood or a file that is missing, and DurabilityError.
        """
        self._logger, self._run_id, self._path, self._governed = logger, run_id, output, governed
        self._history = _history(logger.path, str(output))
        self.last = last = None if self._history is None else self._history.last
        self.kept_path = output.with_name(f"{output.name}.rejected.jsonl")
        self._keeps = keeps
        if last is not None and last.governed != governed:
            raise ConfigError(
                f"{output}: was begun under another pipeline, contract or format",
                hint="go on with those, or begin an output of another name",
            )
        paths = [output, self.kept_path] if keeps or (last is not None and last.kept.end) else [output]
        for path, extent in [] if last is None else zip(paths, last.extents, strict=False):
            if extent.end and not os.path.lexists(path):
                raise self._refusal(path, f"is missing: bytes 0 to {extent.end} were written and confirmed")
        with contextlib.ExitStack() as opened:
            files: dict[Path, AppendedFile] = {}
            # What is there comes first, so that nothing is made when it is refused.
            for path in sorted(paths, key=lambda path: not os.path.lexists(path)):
                files[path] = AppendedFile(path, disk)
                opened.callback(files[path].close)
                if last is None and files[path].length:
                    hint = "name a new file, or the audit log that it was begun with"
                    raise ConfigError(f"{path}: is there already, and was not begun as a stream", hint=hint)
            self._files = [files[path] for path in paths]
            self._opened = opened.pop_all()

    @property
    def length(self) -> int:
        """Bytes of both files that are committed."""
        return 0 if self.last is None else sum(extent.end for extent in self.last.extents)

    def put_right(
        self, text: bytes, derive: Callable[[bytes, Commit], Derived], told: Callable[[int], None] = lambda _: None
    ) -> str:
        """Hold the files against their commits, write again what a run that broke off did not, and say so in words.

        `text` are the bytes of the input that the last commit names, and `derive` what they come to; `told` gets how
        many bytes were looked at, part by part. Raises IntegrityRefusal, with nothing changed, where the input's bytes
        are not those or come to something else, and where a file is not what its commits say. Only the bytes of the
        last commit may differ, and only while no run has said that they are there: it broke off while it wrote them.
        """
        history = self._history
        if history is None:
            return ""
        last = history.last
        if not is_of(last.input, text):
            raise IntegrityRefusal(
                f"{last.input.file}: bytes {last.input.begin} to {last.input.end} are not those that were read before",
                hint="is it another file? restore it, or begin an output of another name",
            )
        for file, extent in self._of(last):
            confirmed = extent.end if history.settled else extent.begin
            if file.length < confirmed:
                said = f"ends at byte {file.length}, but bytes up to {confirmed} were written and confirmed"
                raise self._refusal(file.path, said)
            if file.length > extent.end:
                # A commit comes before its bytes: what lies behind the last one was never this stream's.
                raise self._refusal(file.path, f"bytes {extent.end} to {file.length} are not the stream's")
        unwritten: list[tuple[AppendedFile, Extent]] = []
        for commit in _commits(self._logger.path, str(self._path), last):
            unwritten = [each for each in self._of(commit) if not each[0].confirm(each[1], told)]
            if unwritten and (history.settled or commit.number < last.number):
                file, extent = unwritten[0]
                said = f"bytes {extent.begin} to {extent.end} are not those that were written (commit {commit.number})"
                raise self._refusal(file.path, said)
        self._write_again(unwritten, derive(text, last) if unwritten else None)
        for file, extent in self._of(last):
            file.settle(extent.end if history.settled else extent.begin, extent.end)
        return "; ".join(f"{file.path}: bytes {at.begin} to {at.end} were written again" for file, at in unwritten)

    def _of(self, commit: Commit) -> list[tuple[AppendedFile, Extent]]:
        return list(zip(self._files, commit.extents, strict=False))

    def _write_again(self, unwritten: list[tuple[AppendedFile, Extent]], derived: Derived | None) -> None:
        both = {} if derived is None else {self._path: derived.output, self.kept_path: derived.rejected_lines()}
        for file, extent in unwritten:
            if not extent.holds(both[file.path]):
                raise IntegrityRefusal(
                    f"{file.path}: bytes {extent.begin} to {extent.end} are missing, and the input comes to others",
                    hint="start once with the versions and lists of the run before: its audit entry names them",
                )
        for file, extent in unwritten:
            file.write(extent, both[file.path])

    def _refusal(self, path: Path, what: str) -> IntegrityRefusal:
        """Return the error for a file that is not what its commits say."""
        replaced = "" if self._history is None else self._history.replaced
        return IntegrityRefusal(
            f"{path}: {what}{replaced and f'; {replaced}'}",
            hint="restore it from a back-up, or begin an output of another name; nothing was changed",
        )

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
        for (file, extent), data in zip(self._of(commit), (derived.output, lines), strict=False):
            file.write(extent, data)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of the output as it was committed: sha256sum prints it, if nobody else wrote."""
        return self._files[0].sha256()

    def close(self) -> None:
        """Let the files go."""
        self._opened.close()


def is_of(source: Slice, text: bytes) -> bool:
    """Tell whether `text` are the bytes that were read."""
    return len(text) == source.end - source.begin and hashlib.sha256(text).hexdigest() == source.sha256


def stream_output_of(log: Path, output: str) -> Commit | None:
    """Return the newest commit of `output`, an absolute path, in the audit file `log`; None if it is no stream's.

    The lock of the log must be held. Raises IntegrityRefusal.
    """
    history = _history(log, output)
    return None if history is None else history.last


def refuse_stream_output(log: Path, output: str) -> None:
    """Refuse to replace `output`, an absolute path, where the audit file `log` has it as a stream's: ConfigError.

    For a run in batch mode, before it writes anything. The lock of the log must be held.
    """
    if (commit := stream_output_of(log, output)) is not None:
        raise ConfigError(
            f"{output}: a stream of {commit.input.file} appends to it, says {log}: a batch run would destroy that",
            hint="name another output; to give the stream up, move its output and its audit log away",
        )


def _history(log: Path, output: str) -> _History | None:
    """Return what the audit file `log` says of `output`, from its end back to the newest commit."""
    ended: dict[str | None, str] = {}
    settled, replaced = False, ""
    for line in lines_backwards(log):
        if not any(mark in line for mark in _MARKS):
            continue
        entry = decode_entry(line)
        what = entry.stage, entry.action
        if what == (STREAM, _COMMIT) and entry.resource == output:
            # A run halts at bad data only when what came before is written.
            settled = settled or ended.get(entry.run_id) in (COMPLETED, SourceHalt.__name__)
            return _History(_commit(f"{log}: entry {entry.index}", entry.details), settled, replaced)
        if what == (WRITE, WRITE) and output in _names(entry):
            settled, replaced = True, replaced or f"run {entry.run_id} of {entry.timestamp:%Y-%m-%dT%H:%M:%SZ} wrote it"
        elif what == _RUN and entry.status == STARTED:
            ours = (entry.details.get("mode"), entry.details.get("output")) == (STREAM, output)
            settled = settled or (ours and ended.get(entry.run_id) == COMPLETED)
        elif what == _RUN:
            ended[entry.run_id] = str(entry.details.get("error_type", entry.status))
    return None


def _names(entry: AuditEntry) -> tuple[str | None, ...]:
    """Return the files that a batch run was about to put in place."""
    return entry.resource, (entry.details.get("rejected") or {}).get("file")


def _commits(log: Path, output: str, last: Commit) -> Iterator[Commit]:
    """Yield the commits of `output` up to `last`, the first one first. Raises IntegrityRefusal where one is missing."""
    due, at, kept = 0, Extent(), Extent()
    with log.open("rb") as lines:
        for line in lines:
            entry = decode_entry(line) if _MARK in line else None
            if entry is None or (entry.stage, entry.action, entry.resource) != (STREAM, _COMMIT, output):
                continue
            commit = _commit(f"{log}: entry {entry.index}", entry.details)
            if commit.number != due or not (commit.output.follows(at) and commit.kept.follows(kept)):
                hint = "restore the audit log, or begin an output of another name"
                raise IntegrityRefusal(f"{log}: entry {entry.index} does not follow commit {due - 1}", hint=hint)
            yield commit
            due, at, kept = due + 1, commit.output, commit.kept
            if commit.number == last.number:
                return


def _commit(where: str, details: dict[str, Any]) -> Commit:
    try:
        return msgspec.convert(details, Commit)
    except msgspec.ValidationError as error:
        hint = "was it written by another version? begin an output of another name"
        raise IntegrityRefusal(f"{where} is no commit of a stream: {error}", hint=hint) from error
