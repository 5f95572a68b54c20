"""Entries of an audit log as Python values: one schema for what the daemon writes and what pipelines log.

Owns: `AuditEntry` and what the members of a line become in it, and `AuditReader`, which reads a file that the daemon or
an AuditLogger writes. Leaves to `core.audit` the line, to `edges.audit_file` the chain, to `shell.audit_tables` the
summary and the CSV, and to `shell.audit_logger` the writing.

What the daemon's entries carry beside the common members is in `details`; `stage`, `status` and so on are None there.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from tidewaiter.core import audit
from tidewaiter.edges.audit_file import Break, Walk, refusal
from tidewaiter.shell import audit_tables

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from tidewaiter.edges.audit_file import End
    from tidewaiter.shell.audit_tables import AuditSummary

STARTED: Final = "started"
COMPLETED: Final = "completed"
FAILED: Final = "failed"


class StepMembers(Struct, frozen=True, omit_defaults=True):
    """What an entry of a pipeline says behind the members that every entry begins with; what is None is not written.

    `duration_ms` is in milliseconds; the hashes are SHA-256 (hex) by custom, but any text may be one.
    """

    entry_id: str
    stage: str
    status: str
    resource: str | None = None
    record_count: int | None = None
    input_hash: str | None = None
    output_hash: str | None = None
    duration_ms: float | None = None
    details: dict[str, Any] = {}


class AuditEntry(Struct, frozen=True):
    """One entry. `timestamp` is aware and UTC, `duration_ms` in milliseconds.

    `run_id` is the run of the daemon, or the pipeline's id; `entry_id` is ``<run_id>-<index>``. `status` is
    ``started``, ``completed`` or ``failed`` for what a pipeline logged.
    """

    prev: str
    index: int
    timestamp: Annotated[dt.datetime, Meta(tz=True)]
    level: str
    run_id: str
    actor: str
    action: str
    entry_id: str = ""
    stage: str | None = None
    status: str | None = None
    resource: str | None = None
    record_count: int | None = None
    input_hash: str | None = None
    output_hash: str | None = None
    duration_ms: float | None = None
    details: dict[str, Any] = {}


_COMMON: Final = AuditEntry.__struct_fields__[: AuditEntry.__struct_fields__.index("entry_id")]
"""What every entry begins with."""
_entry: Final = msgspec.json.Decoder(AuditEntry)
_members: Final = msgspec.json.Decoder(dict[str, Any])


def decode_entry(line: bytes) -> AuditEntry:
    """Return the entry of one line, of the daemon's or of a pipeline's. Raises ValueError for what is none.

    `details` are for reading: a number that the daemon wrote as 500.00 is 500.0 here. The exact bytes are the line's.
    """
    try:
        entry = _entry.decode(line)
        if entry.entry_id:
            return entry
        others = {name: value for name, value in _members.decode(line).items() if name not in _COMMON}
    except (*audit.UNREADABLE, RecursionError) as error:
        raise ValueError(f"is no entry: {error}") from error
    common = {name: getattr(entry, name) for name in _COMMON}
    return AuditEntry(**common, entry_id=f"{entry.run_id}-{entry.index}", details=others)


class ChainCheck(Struct, frozen=True):
    """What a check of the whole chain found; true if it is intact.

    `entries` and `length` (bytes) are how far it was followed, `head` the digest of the last line there. Where it is
    broken, `bad_index` is the first entry that does not fit, `offset` the byte it begins at, `expected` and `found`
    what should be and what is there, `reason` all in words. `incomplete` counts the bytes of a last line without its
    newline: one that is being written, or whose writer died.
    """

    intact: bool
    entries: int
    length: int
    head: str
    bad_index: int | None = None
    offset: int | None = None
    expected: str | None = None
    found: str | None = None
    reason: str = ""
    incomplete: int = 0

    def __bool__(self) -> bool:
        return self.intact


class AuditReader:
    """Reads one audit file, while it is being written and while it is not; a segment of the daemon's as well."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Nothing is opened yet."""
        self.path = Path(path).absolute()

    def read_all(self) -> Iterator[AuditEntry]:
        """Yield every entry, oldest first, each checked to continue the chain; a last line without newline is left out.

        Raises IntegrityRefusal, naming the byte, where the chain is broken, and ConfigError for an unreadable file.
        """
        walk = self._walk(self._end())
        for offset, line in walk:
            try:
                entry = decode_entry(line)
            except ValueError as error:
                broken = Break(walk.index - 1, offset, "an entry", "something else", str(error))
                raise refusal(self.path, broken) from error
            yield entry
        if walk.broken is not None and not _incomplete(walk):
            raise refusal(self.path, walk.broken)

    def verify_chain_integrity(self) -> ChainCheck:
        """Check every line from the first. What is intact may still have been cut at its end, or be written anew.

        Only something kept elsewhere shows that: the `head` of an earlier check, or the AuditLogger that writes it.
        """
        end = self._end()
        walk = self._walk(end)
        for _ in walk:
            pass
        incomplete = 0 if walk.broken is None else _incomplete(walk)
        broken = None if incomplete else walk.broken
        if broken is None and end is not None and (walk.length, walk.head) != (end.length, end.head):
            broken = Break(
                walk.index - 1, walk.last, f"{end.length} bytes up to digest {end.head}",
                f"{walk.length} bytes up to digest {walk.head}", "or one before it is not what was written",
            )  # fmt: skip
        so_far = ChainCheck(broken is None, walk.index, walk.length, walk.head, incomplete=incomplete)
        if broken is None:
            return so_far
        return msgspec.structs.replace(
            so_far, bad_index=broken.index, offset=broken.offset, expected=broken.expected, found=broken.found,
            reason=refusal(self.path, broken).message,
        )  # fmt: skip

    def export_csv(self, path: str | os.PathLike[str]) -> int:
        """Write all entries to a CSV file, which appears as a whole or not at all, and return how many there are.

        Raises as `read_all` does, and DurabilityError.
        """
        return audit_tables.export_csv(self.read_all(), Path(path))

    def get_summary(self) -> AuditSummary:
        """Count the entries by status, action and run, and add up the durations. Raises as `read_all` does."""
        return audit_tables.summarise(self.read_all())

    def _end(self) -> End | None:
        """Return where the file is known to end; a reader does not know."""
        return None

    def _walk(self, end: End | None) -> Walk:
        return Walk(self.path, end.length if end is not None else None)


def _incomplete(walk: Walk) -> int:
    """Return the length of a last line that only lacks its end."""
    rest = walk.path.stat().st_size - walk.length
    if rest > audit.MAX_ENTRY_BYTES:
        return 0
    with walk.path.open("rb") as file:
        file.seek(walk.length)
        return 0 if b"\n" in file.read(rest) else rest
