"""The daemon's side of the inbox: decisions that commands hand over, recorded at a batch boundary and answered.

Owns: which kinds of requests there are, how often they are looked for, and what the daemon does with each. Leaves to
`edges.inbox` the files, to `core.key_decisions` what is allowed, to the consumer when they are answered, and to
`shell.evidence` the keys themselves.

A skip is never recorded here: a halt that is pending stops the daemon, and then the command that asks takes the lock.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import KeyRecorded
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.key_decisions import REVOKED, decide
from tidewaiter.core.tlog.notes import NoteError, parse_vkey
from tidewaiter.edges.inbox import Answer, give_answer, take, waiting
from tidewaiter.shell.os_user import os_user

if TYPE_CHECKING:
    from tidewaiter.edges.durable import Disk
    from tidewaiter.edges.inbox import Request
    from tidewaiter.edges.journal import Journal

KEY: Final = "key"
SKIP: Final = "skip"
MAX_REASON: Final = 1000
LOOK_SECONDS: Final = 0.25
"""How often the inbox is looked into."""


class Decider(Struct, frozen=True):
    """Who decided: the `actor` by his own account, the `os_user` by the kernel's, as "1000 (alice)".

    `request` is the id of the inbox request that it came with.
    """

    actor: str
    os_user: str
    request: str | None = None


class Requests:
    """The inbox of a running daemon."""

    def __init__(self, disk: Disk, journal: Journal) -> None:
        self._disk = disk
        self._journal = journal
        self._look_at = 0.0

    def waiting(self) -> bool:
        """Return whether one was found that has no answer; between two looks, no. Cheap enough for each pass."""
        now = time.monotonic()
        if now >= self._look_at and not waiting(self._journal.state):
            self._look_at = now + LOOK_SECONDS
        return now >= self._look_at

    def answer(self) -> list[str]:
        """Do what `answer_requests` does."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        return answer_requests(self._disk, self._journal)


def answer_requests(disk: Disk, journal: Journal) -> list[str]:
    """Take what waits in the inbox, one by one: record, then answer. Return the kinds that were recorded.

    The journal must be at rest; blocks. Raises as the journal does, and may then be called again.
    """
    recorded: list[str] = []
    for request in take(disk, journal.state, journal.ledger.answered):
        try:
            said = _record(journal, request)
        except (ConfigError, IntegrityRefusal) as refusal:
            give_answer(disk, journal.state, request.id, Answer(ok=False, message=str(refusal)))
            continue
        if said is not None:
            recorded.append(request.kind)
            # If we die here, the next start finds the request's id in the ledger and answers it.
            give_answer(disk, journal.state, request.id, Answer(ok=True, message=said))
    return recorded


def record_key(journal: Journal, wanted: KeyRecorded, decider: Decider) -> str:
    """Record a decision on a key and return it as a sentence. Raises ConfigError where it is not allowed."""
    try:
        parse_vkey(wanted.vkey)
    except NoteError as error:
        raise ConfigError(f"{wanted.vkey}: is no key: {error}", hint="see `tidewaiter keys show`") from error
    ledger = journal.ledger
    record = msgspec.structs.replace(
        decide(ledger.keys, wanted, origin=ledger.origin, size=ledger.index),
        os_user=decider.os_user,
        request=decider.request,
    )
    journal.record(audit.KEY_RECORDED, record, actor=decider.actor)
    journal.write_checkpoint()
    if record.decision == REVOKED:
        return f"recorded: {record.vkey} is revoked; what it signed counts up to index {record.last_trusted_index}"
    both = f"; both sign until {record.both_until}" if record.both_until else ""
    return f"recorded: {record.vkey} takes over from {record.replaces}{both}"


def _record(journal: Journal, request: Request) -> str | None:
    """Return what was recorded; None where it cannot be said yet, and the request waits. Raises ConfigError."""
    if request.kind == SKIP:
        if journal.ledger.halt is not None:
            return None  # either the daemon gets past the halt, or it ends there and the command goes on by itself
        raise ConfigError(f"{journal.state}: no halt is pending", hint="see `tidewaiter status`")
    if request.kind != KEY:
        raise ConfigError(f"{request.kind[:64]}: is no kind of request", hint=f"{KEY} or {SKIP}")
    try:
        wanted = msgspec.convert(request.members, KeyRecorded)
    except msgspec.ValidationError as error:
        raise ConfigError(f"request {request.id}: {error}", hint="ask with `tidewaiter keys`") from error
    if len(wanted.reason) > MAX_REASON:
        raise ConfigError(f"request {request.id}: its reason is {len(wanted.reason)} characters long")
    return record_key(journal, wanted, Decider(request.actor, os_user(request.uid), request.id))
