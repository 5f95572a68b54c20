"""The OpenLineage events of a state directory against the audit log: each line that an entry names is there, unchanged.

Owns: comparing lineage.jsonl and its sealed parts with the ``lineage.emitted`` entries, in their order. Leaves to
`shell.verify_log` the entries, and to `core.openlineage` what the lines say.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO, Final

from tidewaiter.core.openlineage.events import TERMINAL
from tidewaiter.edges.openlineage_file import NAME, read_state
from tidewaiter.edges.projections import open_part, sealed_bases, sealed_part

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.audit import LineageEmitted
    from tidewaiter.shell.verify_findings import Findings
    from tidewaiter.shell.verify_log import LogPass

CHECK: Final = "lineage"


class LineageCheck:
    """Takes the entries in order; `finish` when there are no more."""

    def __init__(self, state: Path, findings: Findings) -> None:
        """Look at how long the file is before the audit log is read: what is written later is no finding."""
        self._state = state
        self._findings = findings
        self._path = open_part(state, NAME)
        self._size = self._path.stat().st_size if self._path.exists() else 0
        self._last: LineageEmitted | None = None
        self._absent = 0
        self._file: BinaryIO | None = None
        self._taken = 0
        self._differing: list[tuple[LineageEmitted, int, bytes]] = []

    def take(self, event: LineageEmitted, index: int) -> None:
        """Compare the line that entry `index` is about."""
        before = self._last
        if before is not None and event.first != before.end:
            self._findings.tampered(
                CHECK, f"entry {index} is about another line than the next", self._path, index=index,
                offset=event.first - event.base, expected=f"byte {before.end}", found=f"byte {event.first}",
            )  # fmt: skip
        if before is None or before.base != event.base:
            self._end_part(sealed=True)
            sealed = sealed_part(self._state, NAME, event.base)
            self._file = _opened(sealed) or _opened(self._path)
        self._last = event
        self._taken += 1
        line = b""
        if self._file is not None:
            self._file.seek(event.first - event.base)
            line = self._file.read(event.length)
        if hashlib.sha256(line).hexdigest() != event.sha256:
            self._differing.append((event, index, line))

    def _end_part(self, *, sealed: bool) -> None:
        """Judge the events of one part; `sealed`: another part came behind it."""
        last = self._last
        if last is not None:
            path = sealed_part(self._state, NAME, last.base)
            if not path.exists():
                path = self._path
            if self._file is None or (sealed and path == self._path):  # it was removed; the open part is another
                self._absent += self._taken
            else:
                for event, index, line in self._differing:
                    self._findings.tampered(
                        CHECK, f"is not the line that entry {index} is about", path, index=index,
                        offset=event.first - event.base, expected=f"SHA-256 {event.sha256}",
                        found=f"SHA-256 {hashlib.sha256(line).hexdigest()}" if line else "its end",
                    )  # fmt: skip
        if self._file is not None:
            self._file.close()
        self._file, self._taken, self._differing = None, 0, []

    def finish(self, log: LogPass) -> None:
        """Judge the last part, and what stands behind the last line that has an entry."""
        self._end_part(sealed=False)
        if self._absent:
            self._findings.missing(CHECK, f"it or older parts are gone, with {self._absent} events", self._path)
        last = self._last
        base, end = (last.base, last.end) if last is not None else (0, 0)
        if end and base in sealed_bases(self._state, NAME):
            base = end
        length = end - base
        if self._size <= length:
            return
        _, rest = read_state(self._state, end, base + self._size)
        # a daemon that was about to write the entry, or died before it could
        told = last is not None and last.event in TERMINAL and log.ledger.open_run is None
        if b"\n" not in rest[:-1] and not told:
            self._findings.note(f"{self._path}: the last line has no entry (yet): the next event takes its place")
            return
        self._findings.tampered(
            CHECK, "is longer than the audit log accounts for", self._path, offset=length, expected=f"{length} bytes",
            found=f"{self._size} bytes",
        )  # fmt: skip


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
