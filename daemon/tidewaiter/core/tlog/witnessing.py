"""What a witness is asked and how it judges: add-checkpoint of C2SP tlog-witness v1.0.0.

Owns: the request's text, and the judgement as a function of the request and what the witness knows of the log. Leaves
to `edges.witness_server` to persist an accepted head and cosign it, one request of a log at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.merkle import EMPTY_ROOT, is_consistent
from tidewaiter.core.tlog.notes import Note, NoteError, VerifierKey, parse_note, verified
from tidewaiter.core.tlog.texts import decode_hashes, decode_number, encode_hashes, shown, split_head

if TYPE_CHECKING:
    from collections.abc import Callable

OK: Final = 200
BAD_REQUEST: Final = 400
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
CONFLICT: Final = 409
UNPROCESSABLE: Final = 422
SIZE_TYPE: Final = "text/x.tlog.size"

_OLD: Final = b"old "


class AddCheckpoint(Struct, frozen=True):
    """The request: a checkpoint (a note's bytes), and the proof that the tree of `old` leaves is a prefix of its."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """Return the request's body."""
        return b"%b%d\n%b\n%b" % (_OLD, self.old, encode_hashes(self.proof), self.note)


class KnownLog(Struct, frozen=True):
    """A log the witness looks after: the keys it signs with, and the head the witness cosigned last."""

    keys: tuple[VerifierKey, ...]
    latest: TreeHead | None


class Verdict(Struct, frozen=True):
    """The answer. With status 200, `head` is to be made durable and then cosigned, `note` is what carried it.

    `inconsistent` says why a checkpoint that the log signed does not go with the one cosigned, "" where it may.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    head: TreeHead | None = None
    note: Note | None = None
    inconsistent: str = ""


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Return the request in a body; its note is not looked into. Raises NoteError."""
    (first, *proof), note = split_head(body)
    if not first.startswith(_OLD):
        raise NoteError(f"expected the old size, found {shown(first)}")
    return AddCheckpoint(decode_number(first.removeprefix(_OLD), "old size"), decode_hashes(proof), note)


def judge(body: bytes, known: Callable[[str], KnownLog | None]) -> Verdict:
    """Return what a witness answers; `known` returns what it knows of an origin, None for logs that are not its."""
    try:
        request = parse_add_checkpoint(body)
        note = parse_note(request.note)
        head = parse_tree_head(note.text)
    except NoteError as error:
        return _refusal(BAD_REQUEST, str(error))
    if (log := known(head.origin)) is None:
        return _refusal(NOT_FOUND, "this log is not known here")
    try:
        signed = verified(note, log.keys)
    except NoteError as error:
        return _refusal(FORBIDDEN, str(error))
    if not signed:
        return _refusal(FORBIDDEN, "no signature of a key of this log")
    latest = log.latest or TreeHead(head.origin, 0, EMPTY_ROOT)
    # whatever it asks for: a log that has less than it had, or something else, was rolled back or forked
    contradiction = _contradiction(latest, head)
    if request.old > head.size:
        reason = f"the old size {request.old} is larger than the checkpoint's {head.size}"
        return _refusal(BAD_REQUEST, reason, contradiction)
    if request.old != latest.size:
        return Verdict(CONFLICT, b"%d\n" % latest.size, SIZE_TYPE, inconsistent=contradiction)
    if not is_consistent(latest.size, latest.root, head.size, head.root, request.proof):
        reason = f"no proof that the tree of {latest.size} leaves is a prefix of this one"
        return _refusal(UNPROCESSABLE, reason, reason)
    return Verdict(OK, head=head, note=note)


def _contradiction(latest: TreeHead, head: TreeHead) -> str:
    if head.size < latest.size:
        return f"a tree of {head.size} leaves is smaller than that of {latest.size} that was cosigned"
    if head.size == latest.size and head.root != latest.root:
        return f"the tree of {latest.size} leaves that was cosigned has another root"
    return ""


def _refusal(status: int, reason: str, inconsistent: str = "") -> Verdict:
    return Verdict(status, reason.encode("utf-8", "backslashreplace") + b"\n", inconsistent=inconsistent)
