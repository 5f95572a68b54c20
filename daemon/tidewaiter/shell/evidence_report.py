"""How much of the audit log its checkpoints cover, for somebody who looks at the state directory.

Owns: `read_evidence`. Believes the files as they are: whether they tell the truth is for `shell.verify`.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from msgspec import Struct

from tidewaiter.core.errors import IntegrityRefusal
from tidewaiter.core.tlog.checkpoints import parse_tree_head
from tidewaiter.core.tlog.notes import NoteError, parse_note
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.shell.log_keys import read_log_keys

if TYPE_CHECKING:
    from pathlib import Path


class EvidenceReport(Struct, frozen=True):
    """The log's name, the entries under its newest checkpoint and under the newest that witnesses cosigned.

    `signed_by` are the names and ids of the keys that signed the newest, none in a log without a key; `witnesses` are
    those of the keys that cosigned. `covered_at` and `witnessed_at` (UTC text) are when the two files were written.
    `key_revoked`: the log is not signed because its newest key was revoked. None stands for what is not there.
    """

    origin: str | None = None
    covered: int | None = None
    signed_by: list[str] = []
    witnessed: int | None = None
    witnesses: list[str] = []
    covered_at: str | None = None
    witnessed_at: str | None = None
    key_revoked: bool = False


def read_evidence(state: Path) -> EvidenceReport:
    """Return what the checkpoints of `state` say; a damaged one counts as none."""
    files = TreeFiles(state)
    try:
        head = files.head()
    except IntegrityRefusal:
        head = None
    newest, witnessed = _signers(files.newest_signed()), _signers(files.witnessed())
    return EvidenceReport(
        origin=head.origin if head is not None else None,
        covered=head.size if head is not None else None,
        signed_by=newest[1],
        witnessed=witnessed[0],
        witnesses=[name for name in witnessed[1] if name not in newest[1]],
        covered_at=_written(files.path / "checkpoint"),
        witnessed_at=_written(files.path / "witnessed"),
        # only a log that was signed once is looked into
        key_revoked=not newest[1] and files.last_signed() is not None and _newest_key_is_revoked(state),
    )


def _newest_key_is_revoked(state: Path) -> bool:
    keys = read_log_keys(state).keys
    return bool(keys) and keys[-1].revoked_after is not None


def _written(path: Path) -> str | None:
    try:
        seconds = path.stat().st_mtime
    except OSError:
        return None
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _signers(data: bytes | None) -> tuple[int | None, list[str]]:
    if data is None:
        return None, []
    try:
        note = parse_note(data)
        size = parse_tree_head(note.text).size
    except NoteError:
        return None, []
    return size, [f"{signature.name}+{signature.key_id.hex()}" for signature in note.signatures]
