"""The daemon's witnesses: asked for cosignatures on its checkpoints, beside everything else.

Owns: whom to ask, for how long, how often again, and what a witness's "no" means for the daemon. Leaves the protocol to
`edges.witness_client`, and which checkpoints to show and where to keep them to `shell.evidence`.

Every witness is asked on a thread of its own, and nobody waits for one longer than `PATIENCE_SECONDS`: one that hangs
keeps its own thread busy, and is asked again after a pause that grows. A witness that cannot be reached is a warning;
one that has cosigned more than this log has, or something else, is the proof that this log was rolled back or forked.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.tlog.checkpoints import parse_tree_head
from tidewaiter.core.tlog.merkle import consistency_proof
from tidewaiter.core.tlog.notes import Note, parse_note
from tidewaiter.core.tlog.policies import parse_policy
from tidewaiter.edges.logs import get_logger
from tidewaiter.edges.witness_client import (
    TIMEOUT_SECONDS,
    WitnessAhead,
    WitnessClient,
    WitnessError,
    WitnessRefused,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    from tidewaiter.core.tlog.merkle import Node
    from tidewaiter.core.tlog.notes import Signature

log = get_logger()

PATIENCE_SECONDS: Final = 2.5
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
_LAST_SECONDS: Final = 0.2
_HINT: Final = (
    "look for another daemon that writes this log, or for an older copy of the state directory that was put in place, "
    "and restore the newest one"
)


class _Question(threading.Thread):
    """One checkpoint shown to one witness; a daemon thread, so that no witness can hold up the end of the process."""

    def __init__(self, client: WitnessClient, note: bytes, size: int, node: Node) -> None:
        super().__init__(name="cosigning", daemon=True)
        self.size = size
        self.error: Exception | None = None
        self.signatures: Sequence[Signature] = ()
        self._client = client
        self._note = note
        self._node = node

    def run(self) -> None:
        try:
            self.signatures = self._client.cosign(
                self._note, self.size, lambda old: consistency_proof(old, self.size, self._node)
            )
        except Exception as error:  # noqa: BLE001 - raised again by whoever asked
            self.error = error


class _Witness:
    """One witness and how it is doing: the question it has not answered yet, and when to ask again."""

    def __init__(self, name: str, url: str, client: WitnessClient) -> None:
        self.name = name
        self.url = url
        self._client = client
        self._question: _Question | None = None
        self._pause = 0.0
        self._not_before = 0.0

    def ask(self, note: bytes, size: int, node: Node, now: float) -> bool:
        """Begin to ask, where it is time to and the last question is over. Raises what that one's late answer says."""
        if now < self._not_before:
            return False
        if self._question is not None and self._question.is_alive():
            self._client.abandon()  # it had its time and the pause
            return False
        self.answer(now)
        if now < self._not_before:
            return False
        self._question = _Question(self._client, note, size, node)
        self._question.start()
        return True

    def answer(self, now: float, patience: float = 0.0) -> Sequence[Signature]:
        """Return the cosignatures on the checkpoint asked for last, none where it gave none within `patience`.

        Raises IntegrityRefusal.
        """
        question = self._question
        if question is None:
            return ()
        question.join(patience)
        if question.is_alive():
            self._failed(f"gives no answer within {PATIENCE_SECONDS} s", now)
            return ()
        self._question = None
        match question.error:
            case None:
                if self._pause:
                    log.info("witness.reached", witness=self.name)
                self._pause = self._not_before = 0.0
                return question.signatures
            case WitnessAhead() | WitnessRefused():
                raise IntegrityRefusal(
                    f"witness {self.name} ({self.url}) {question.error}; it was shown the checkpoint of "
                    f"{question.size} entries: this log was rolled back or forked",
                    hint=_HINT,
                )
            case IntegrityRefusal():  # the tree's own files, which the proof is made of
                raise question.error
            case WitnessError():
                self._failed(str(question.error), now)
            case error:  # whatever it is: no answer may end the daemon
                self._failed(f"{type(error).__name__}: {error}", now)
        return ()

    def _failed(self, reason: str, now: float) -> None:
        if not self._pause:  # once, not at every try
            log.warning("witness.unreachable", witness=self.name, url=self.url, reason=reason)
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._not_before = now + self._pause

    def close(self) -> None:
        if self._question is not None:
            self._client.abandon()
            self._question.join(_LAST_SECONDS)
        self._client.close()


class Cosigning:
    """The witnesses of one log. Used by one thread at a time."""

    def __init__(
        self,
        witnesses: Sequence[tuple[str, str, WitnessClient]],
        *,
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`witnesses`: name, URL and client of each."""
        self._witnesses = [_Witness(*one) for one in witnesses]
        self._patience = patience
        self._clock = clock

    @classmethod
    def of(cls, policy: Path | None) -> Self | None:
        """Return the witnesses with a URL in a tlog-policy file, None where there are none. Raises ConfigError."""
        if policy is None:
            return None
        try:
            data = policy.read_bytes()
        except OSError as error:
            raise ConfigError(f"{policy}: cannot be read: {error.strerror}", hint="see evidence.policy") from error
        witnesses: list[tuple[str, str, WitnessClient]] = []
        for one in parse_policy(data, str(policy)).witnesses:
            if one.url is None:
                continue
            try:
                client = WitnessClient(one.url, one.key, timeout=TIMEOUT_SECONDS)
            except ConfigError as error:
                raise ConfigError(f"{policy}:{one.line}: {error.message}", hint=error.hint) from error
            witnesses.append((one.name, one.url, client))
        return cls(witnesses) if witnesses else None

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Name and URL of each witness."""
        return [(one.name, one.url) for one in self._witnesses]

    def check_at_start(self, note: bytes, node: Node) -> None:
        """Show the newest signed checkpoint to every witness; `node` gives the hashes of its tree.

        Raises IntegrityRefusal where one of them has cosigned more of this log, or something else. One that cannot be
        reached within `PATIENCE_SECONDS` is warned about only.
        """
        self._ask(note, node)

    def collect(self, note: bytes, node: Node) -> bytes | None:
        """Return the signed checkpoint `note` with the cosignatures that came within `PATIENCE_SECONDS`, or None.

        Raises IntegrityRefusal as `check_at_start` does: a witness that was away then can say so later.
        """
        signatures = self._ask(note, node)
        if not signatures:
            return None
        shown = parse_note(note)
        return Note(shown.text, (*shown.signatures, *signatures)).encode()

    def close(self) -> None:
        """Let go of the witnesses; what they still answer is not waited for."""
        for witness in self._witnesses:
            witness.close()

    def _ask(self, note: bytes, node: Node) -> list[Signature]:
        size = parse_tree_head(parse_note(note).text).size
        now = self._clock()
        asked = [witness for witness in self._witnesses if witness.ask(note, size, node, now)]
        end = time.monotonic() + self._patience
        found: list[Signature] = []
        for witness in asked:
            found.extend(witness.answer(self._clock(), max(0.0, end - time.monotonic())))
        return found
