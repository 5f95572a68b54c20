"""A person's decision on its way into the audit log: through the running daemon, or under the lock where none runs.

Owns: which of the two ways, and opening and closing the state directory for the second. Leaves to `edges.inbox` how a
request travels, to `shell.answering` the daemon's side, and to `shell.skip` and `shell.keys` what is decided.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import msgspec

from tidewaiter.core.errors import ConfigError
from tidewaiter.edges import inbox
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.inbox import Request
from tidewaiter.edges.journal import Journal
from tidewaiter.edges.lock import StateLock, probe
from tidewaiter.edges.recovery import prepare_directories, recover
from tidewaiter.shell.answering import Decider
from tidewaiter.shell.evidence import origin_for, signing_keys
from tidewaiter.shell.log_names import utc_now
from tidewaiter.shell.os_user import os_user, owner_for
from tidewaiter.shell.state_owner import refuse_other_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from msgspec import Struct

    from tidewaiter.shell.settings import Settings


def decide(
    settings: Settings, kind: str, members: Struct, actor: str, record: Callable[[Journal, Decider], str]
) -> str:
    """Have the decision recorded and return what was done, as one sentence.

    A running daemon is handed `kind` and `members`; where none runs, or it ends meanwhile, `record` is called. Raises
    ConfigError where the decision is refused.
    """
    state = settings.state.dir
    if not (state / "audit").is_dir():
        raise ConfigError(f"{state}: is no state directory", hint="name it with --state-dir or --config")
    refuse_other_stream(state, settings.stream.name)
    lock = state / "lock"
    disk = Disk(owner_for(state))
    request = Request(inbox.new_id(), kind, msgspec.to_builtins(members), actor)
    if probe(lock) is not None:
        answer = inbox.ask(disk, state, request, gone=lambda: probe(lock) is None)
        if answer is not None:
            if not answer.ok:
                raise ConfigError(answer.message)
            return answer.message
    prepare_directories(disk, state)
    with StateLock(lock):
        return _decide_alone(disk, settings, request, record)


def _decide_alone(disk: Disk, settings: Settings, request: Request, record: Callable[[Journal, Decider], str]) -> str:
    """Record the decision in the state directory, which is locked."""
    state = settings.state.dir
    recovered = recover(disk, state)
    ledger = recovered.ledger
    if recovered.mark is None:
        raise ConfigError(f"{state}: the log has not begun yet", hint="start the daemon first: tidewaiter run")
    if ledger.answered == request.id:
        return "recorded by the daemon before it ended"
    journal = Journal(
        disk, state, ledger, recovered.mark,
        run_id=f"{request.kind}-{secrets.token_hex(6)}", now=utc_now, segment_bytes=settings.state.segment_bytes,
        origin=ledger.origin or origin_for(settings, signing_keys(settings.evidence)),
    )  # fmt: skip
    try:
        for action, members in recovered.notes:
            journal.record(action, dict(members))
        return record(journal, Decider(request.actor, os_user()))
    finally:
        journal.close()
