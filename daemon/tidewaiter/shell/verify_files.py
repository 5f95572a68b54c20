"""What lies beside the audit log, against it: projections, checkpoint, snapshots, documents, archived texts.

Owns: reading these files before the log is read (`Beside`), so that what a running daemon writes meanwhile is no
finding, and judging them afterwards. Leaves to `edges.prefix_check` comparing projections, and to `core.snapshot` and
`core.ledger` what the files say.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core import audit
from tidewaiter.core.audit import read_head
from tidewaiter.core.ledger import Checkpoint, decode_checkpoint, units
from tidewaiter.core.snapshot import Header, decode
from tidewaiter.edges.prefix_check import Difference, ProjectionCheck
from tidewaiter.edges.projections import open_part, sealed_bases, sealed_part
from tidewaiter.edges.snapshots import snapshot_files
from tidewaiter.shell.verify_log import documents_of, line_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.core.audit import Document
    from tidewaiter.shell.verify_findings import Findings
    from tidewaiter.shell.verify_log import AuditFile, LogPass, Stop

_TRIES: Final = 5
_PAUSE_S: Final = 0.2
_SHOWN: Final = 400
_MARKER_WITHIN: Final = 2048  # room for the name of an actor
_MARKERS: Final = {name: f',"action":"{action}","record":'.encode() for name, action in audit.PROJECTIONS.items()}
_COMMITTED: Final = f',"action":"{audit.BATCH_COMMITTED}",'.encode()
_LEDGER_FIELDS: Final = ("commit", "previous", "totals", "projections", "decisions", "closed", "next_start", "halt")


class Beside:
    """The files beside the audit log, looked at before it."""

    def __init__(self, state: Path, findings: Findings, *, alive: bool) -> None:
        """`alive`: a daemon works in the directory."""
        self.state, self._findings, self._alive = state, findings, alive
        self._sizes = {name: _reach(state, name) for name in audit.PROJECTIONS}
        self._differences: list[Difference] = []
        self._checkpoint = self._read_checkpoint()
        self._snapshots = self._read_snapshots()

    def _read_checkpoint(self) -> Checkpoint | None:
        path = self.state / "checkpoint.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self._findings.missing("checkpoint", "is missing", path)
            return None
        try:
            checkpoint = decode_checkpoint(data)
        except RecursionError:
            checkpoint = None
        if checkpoint is None:
            self._findings.tampered("checkpoint", "is no checkpoint", path, offset=0)
        return checkpoint

    def _read_snapshots(self) -> list[tuple[Path, Header | None]]:
        found = []
        for path in snapshot_files(self.state):
            try:
                snapshot = decode(path.read_bytes())
            except FileNotFoundError:  # a newer one has taken its place
                continue
            except RecursionError:
                snapshot = None
            found.append((path, None if snapshot is None else snapshot.header))
        return found

    @property
    def stops(self) -> set[int]:
        """Behind how many entries the log's state is needed."""
        marks = {header.audit.index for _, header in self._snapshots if header is not None}
        return marks | ({self._checkpoint.audit.index} if self._checkpoint is not None else set())

    def projections(self) -> ProjectionCheck:
        """Return what is to be told the records of the audit log."""
        projections = self._checkpoint.commit.projections if self._checkpoint and self._checkpoint.commit else {}
        bases = {name: mark.base for name, mark in projections.items()}
        self._compared = ProjectionCheck(self.state, lambda name: bases.get(name, 0), self._differences.append)
        return self._compared

    # -- afterwards ----------------------------------------------------------------------------------------------

    def judge(self, log: LogPass, files: list[AuditFile]) -> None:
        """Compare everything with the log that was read."""
        self._judge_projections(log, files)
        self._judge_checkpoint(log)
        self._judge_snapshots(log)
        self._judge_documents(log, files)
        self._judge_archive(log)

    def _judge_projections(self, log: LogPass, files: list[AuditFile]) -> None:
        """A crash, and the running daemon, leave at most the last batch unwritten: that much may be missing."""
        ledger, differing = log.ledger, []
        for each in self._differences:
            confirmed = ledger.previous.projections.get(each.projection) if ledger.previous is not None else None
            length = confirmed.length if confirmed is not None and ledger.open_run is not None else 0
            unwritten = not each.found.strip(b"\0")  # a power loss may leave zeros
            if ledger.open_run is not None and unwritten and each.offset >= length:
                self._findings.note(f"{each.file}: the last batch is not written there yet; the next start writes it")
                continue
            differing.append(each)
        records = _entries_at(files, {(each.projection, each.offset) for each in differing})
        for each in differing:
            part, base = self._part(each.projection, each.offset, log)
            index = records.get((each.projection, each.offset))
            what = "differs from the audit log" if index is None else f"differs from the record in entry {index}"
            self._findings.tampered(
                "projections", what, part, index=index, offset=each.offset - base, expected=_shown(each.wanted),
                found=_shown(each.found) or "its end",
            )  # fmt: skip
        for name, absent in self._compared.absent.items():
            if absent:
                self._findings.missing("projections", "older parts are gone; the audit log has their lines", name)
        for (name, base), end in log.sealed.items():
            part = sealed_part(self.state, name, base)
            if part.exists() and base + part.stat().st_size > end:
                self._findings.tampered(
                    "projections", "is longer than it was when it was sealed", part, offset=end - base,
                    expected=f"{end - base} bytes", found=f"{part.stat().st_size} bytes",
                )  # fmt: skip
        for name, size in self._sizes.items():
            mark = ledger.mark(name)
            if size is not None and size > mark.length and log.ledger.index:
                self._findings.tampered(
                    "projections", "is longer than the audit log accounts for", open_part(self.state, name),
                    offset=mark.length - mark.base, expected=f"{mark.length} bytes in all", found=f"{size} bytes",
                )  # fmt: skip

    def _part(self, name: str, offset: int, log: LogPass) -> tuple[Path, int]:
        """Return the file that holds byte `offset` of a projection, and where in it the file begins."""
        ends = {
            base: base + sealed_part(self.state, name, base).stat().st_size for base in sealed_bases(self.state, name)
        }
        ends |= {base: end for (each, base), end in log.sealed.items() if each == name}
        for base, end in ends.items():
            if base <= offset < end:
                return sealed_part(self.state, name, base), base
        return open_part(self.state, name), max(ends.values(), default=0)

    def _judge_checkpoint(self, log: LogPass) -> None:
        checkpoint, path = self._checkpoint, self.state / "checkpoint.json"
        if checkpoint is None:
            return
        stop = self._stop(checkpoint.audit.index, log, "checkpoint", path)
        if stop is None:
            return
        ledger = stop.ledger
        for name, wanted, found in (
            ("audit", stop.mark, checkpoint.audit),
            ("commit", ledger.commit, checkpoint.commit),
            ("decisions", ledger.decisions, checkpoint.decisions),
            ("halt", ledger.halt, checkpoint.halt),
        ):
            if wanted != found:
                self._findings.tampered(
                    "checkpoint", f"its {name} is not what the audit log says at entry {checkpoint.audit.index}", path,
                    index=checkpoint.audit.index - 1, expected=_text(wanted), found=_text(found),
                )  # fmt: skip

    def _judge_snapshots(self, log: LogPass) -> None:
        for path, header in self._snapshots:
            if header is None:
                self._findings.tampered("snapshots", "is damaged", path, offset=0)
                continue
            stop = self._stop(header.audit.index, log, "snapshots", path)
            if stop is None:
                continue
            if header.audit != stop.mark:
                self._findings.tampered(
                    "snapshots", "was taken of another log", path, index=header.audit.index - 1,
                    expected=_text(stop.mark), found=_text(header.audit),
                )  # fmt: skip
            for name in _LEDGER_FIELDS:
                wanted, found = getattr(stop.ledger, name), getattr(header.ledger, name)
                if wanted != found:
                    self._findings.tampered(
                        "snapshots", f"its {name} is not what the audit log says there", path,
                        index=header.audit.index - 1, expected=_text(wanted), found=_text(found),
                    )  # fmt: skip
            if path.relative_to(self.state).as_posix() not in log.documents:
                self._findings.note(f"{path}: the audit log names no digest of it; only its header could be compared")

    def _stop(self, index: int, log: LogPass, check: str, path: Path) -> Stop | None:
        stop = log.stops.get(index)
        if stop is None and index > log.index:
            self._findings.tampered(
                check, f"is of entry {index}, the audit log ends at entry {log.index}: it was cut or rolled back", path,
                index=log.index, expected=f"{index} entries", found=f"{log.index} entries",
            )  # fmt: skip
        elif stop is None and index > 0:
            self._findings.note(f"{path}: is of entry {index}, before the first that is left; it could not be compared")
        return stop

    # -- documents and archived texts ----------------------------------------------------------------------------

    def _judge_documents(self, log: LogPass, files: list[AuditFile]) -> None:
        for name, (index, document) in log.documents.items():
            path = self.state / name
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                self._findings.tampered("documents", f"entry {index} names a file outside: {name}", path, index=index)
                continue
            found = self._digest(path, document, files)
            if found is None:
                if not name.startswith("snapshots/"):  # the daemon keeps the newest ones only
                    self._findings.missing(
                        "documents", f"is missing; entry {index} names its digest", path, index=index
                    )
            elif found != document.sha256:
                self._findings.tampered(
                    "documents", f"is not what was recorded when it was closed (entry {index})", path, index=index,
                    expected=f"SHA-256 {document.sha256}", found=f"SHA-256 {found}",
                )  # fmt: skip
        for path in sorted((self.state / "runs").glob("run_*.json")):
            name = f"runs/{path.name}"
            run = path.stem.removeprefix("run_")
            if name in log.documents or run == log.ledger.open_run:
                continue
            self._findings.note(f"{path}: no entry names its digest, so it is not covered")

    def _digest(self, path: Path, document: Document, files: list[AuditFile]) -> str | None:
        """Return the file's SHA-256 (hex), or that of `document` where the daemon has replaced it since."""
        found = file_digest(path)
        for attempt in range(_TRIES if self._alive else 1):
            if found == document.sha256:
                return found
            if any(each.file == document.file and each.sha256 == found for each in _later_documents(files)):
                return document.sha256
            if attempt + 1 < _TRIES and self._alive:
                time.sleep(_PAUSE_S)
            found = file_digest(path)
        return found

    def _judge_archive(self, log: LogPass) -> None:
        rules = self.state / "rules"
        for digest, index in log.governing.items():
            if not (rules / digest).is_file():
                self._findings.missing(
                    "archive", f"is missing; entry {index} was evaluated under it", rules / digest, index=index
                )
        for path in sorted(rules.iterdir()) if rules.is_dir() else ():
            if path.name.startswith(".") or not path.is_file():
                continue
            found = file_digest(path)
            if found is not None and found != path.name:
                named_in = log.governing.get(path.name)
                what = "is not what its name says: the text was changed"
                if named_in is None:
                    what = "is a file that no entry names, and its name is not its own digest"
                self._findings.tampered(
                    "archive", what, path, index=named_in,
                    expected=None if named_in is None else f"SHA-256 {path.name}", found=f"SHA-256 {found}",
                )  # fmt: skip


def _entries_at(files: list[AuditFile], places: set[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Return the entries whose records hold these bytes of these projections.

    A pass of its own over the log, made only where something differs.
    """
    found: dict[tuple[str, int], int] = {}
    ends = dict.fromkeys(audit.PROJECTIONS, 0)
    begun = not files or files[0].first <= 0
    for line in (line for file in files for _, lines, _ in line_blocks(file) for line in lines) if places else ():
        if not begun:  # the segments before are gone: what the first batch says is where the next records begin
            if _COMMITTED in line[:_MARKER_WITHIN] and (entry := read_head(line)) is not None:
                begun, unit = True, next(iter(units([line], entry.index, entry.prev)), None)
                if unit is not None and isinstance(unit.members, audit.BatchCommitted):
                    ends |= {name: mark.length for name, mark in unit.members.projections.items()}
            continue
        for name, marker in _MARKERS.items():
            if marker in line[:_MARKER_WITHIN]:
                begin, ends[name] = ends[name], ends[name] + len(audit.record_of(line))
                held = [place for place in places if place[0] == name and begin <= place[1] < ends[name]]
                if held and (entry := read_head(line)) is not None:
                    found |= dict.fromkeys(held, entry.index)
    return found


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 (hex) of a file, None where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _later_documents(files: list[AuditFile]) -> Iterator[Document]:
    """Yield the documents that entries name which were written since the files were looked at."""
    if not files:
        return
    last = files[-1]
    for path in sorted(last.path.parent.glob("audit-*.jsonl")):
        if path.name < last.path.name:
            continue
        with path.open("rb") as file:
            file.seek(last.size if path.name == last.path.name else 0)
            for line in file:
                if b'"document' in line:
                    try:
                        yield from documents_of.decode(line).all()
                    except audit.UNREADABLE:
                        continue


def _reach(state: Path, name: str) -> int | None:
    """Return where the projection ends, None where a part is just being sealed, or none is there."""
    bases = sealed_bases(state, name)
    try:
        base = bases[-1] + sealed_part(state, name, bases[-1]).stat().st_size if bases else None
        size = open_part(state, name).stat().st_size
    except FileNotFoundError:
        return None
    if base is None or bases != sealed_bases(state, name):
        return size if base is None else None
    return base + size


def _shown(data: bytes) -> str:
    line = data.split(b"\n", 1)[0][:_SHOWN]
    return line.decode("utf-8", "backslashreplace")


def _text(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
