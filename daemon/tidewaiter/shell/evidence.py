"""The daemon's side of the evidence: the tree that follows its commits, and when a checkpoint of it is signed.

Owns: the pace, the keys that sign, and what the daemon does when key, tree and audit log do not belong together. Leaves
to `edges.tree_follower` the tree and its files, to `core.key_decisions` which keys sign, to `shell.cosigning` the
witnesses, and to the supervisor when it begins and ends.

A commit never waits for any of this: the tree has a thread of its own and reads what is durable. A checkpoint covers
whole batches only, for the journal's mark stands behind one.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from tidewaiter.core.audit import KeyRecorded
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.key_decisions import INTRODUCED, decide, keys_to_sign_with
from tidewaiter.edges.durable import NoSpace
from tidewaiter.edges.key_files import find_key_file, read_key_file
from tidewaiter.edges.logs import get_logger
from tidewaiter.edges.tree_follower import TreeFollower
from tidewaiter.shell.cosigning import Cosigning
from tidewaiter.shell.log_names import generated_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tidewaiter.core.key_decisions import KeyInForce
    from tidewaiter.core.ledger import AuditMark, Ledger
    from tidewaiter.core.tlog.notes import SigningKey
    from tidewaiter.edges.durable import Disk
    from tidewaiter.edges.journal import Journal
    from tidewaiter.edges.recovery import Recovered
    from tidewaiter.shell.settings import EvidencePart, Settings

log = get_logger()
T = TypeVar("T")

PACE_SECONDS: Final = 0.8
"""How often the tree looks for new entries: a checkpoint follows its commit within this and the time of writing it."""
IDLE_SECONDS: Final = 600.0
"""After so long without an entry the log gets one, so that no time without a checkpoint can be filled in later."""
_LAST_WORK_SECONDS: Final = 5.0
"""How long a stop may go on catching up; what is left is taken in at the next start."""
_RETRY_SECONDS: Final = 5.0


def signing_keys(evidence: EvidencePart) -> list[SigningKey]:
    """Return the private keys that the settings or the service manager name; none where there are none.

    Raises ConfigError for a file that cannot be used, or that others can read.
    """
    path = find_key_file(evidence.key) if evidence.signed else None
    return [] if path is None else read_key_file(path)


def origin_for(settings: Settings, keys: Sequence[SigningKey]) -> str:
    """Return what a log that begins now is called: as its key, as the settings say, or a name of its own.

    Raises ConfigError where key and settings disagree.
    """
    wanted = settings.evidence.origin
    name = keys[-1].name if keys else wanted
    if wanted is not None and name != wanted:
        raise ConfigError(
            f"evidence.origin is {wanted}, the key that is to sign is called {name}",
            hint="a log's key bears the log's name: make one with `tidewaiter keys new`",
        )
    return name or generated_origin(settings.stream.name)


def refuse_other_origin(origin: str, evidence: EvidencePart) -> None:
    """Raise ConfigError where the settings call the log something else than it is called."""
    if evidence.origin not in (None, origin):
        raise ConfigError(
            f"evidence.origin is {evidence.origin}, the log is called {origin}",
            hint="a log's name is fixed when it begins: leave the setting out",
        )


def key_to_introduce(ledger: Ledger, keys: Sequence[SigningKey]) -> KeyRecorded | None:
    """Return the entry that names the log's first key, None where it has one or there is none."""
    if ledger.keys or not keys:
        return None
    wanted = KeyRecorded(INTRODUCED, str(keys[-1].verifier), reason="first start with a key")
    return decide(ledger.keys, wanted, origin=ledger.origin, size=ledger.index)


def in_force(named: Sequence[KeyInForce], keys: Sequence[SigningKey], now: str, published: int) -> list[SigningKey]:
    """Return those of `keys` that the log wants to be signed with at `now` (UTC text).

    `published` entries are under its last checkpoint.
    """
    wanted = keys_to_sign_with(named, now, published=published)
    return [key for key in keys if str(key.verifier) in wanted]


def refuse_without_key(named: Sequence[KeyInForce], keys: Sequence[SigningKey], now: str) -> None:
    """Raise ConfigError where the log's newest key should sign and is not among `keys`: it would go on with less."""
    newest = named[-1].vkey if named else None
    if newest in keys_to_sign_with(named, now) and newest not in {str(key.verifier) for key in keys}:
        raise ConfigError(
            f"the log's key {newest} is not there",
            hint="name its file under [evidence] key; if it is lost, say so: tidewaiter keys revoke, then keys rotate",
        )


class Evidence:
    """The tree and its checkpoints beside one running daemon."""

    def __init__(self, disk: Disk, state: Path, part: EvidencePart, now: Callable[[], str]) -> None:
        """`now` gives UTC text."""
        self._disk = disk
        self._state = state
        self._part = part
        self._now = now
        self._opened: Journal | None = None
        self._thread = ThreadPoolExecutor(1, "evidence")
        self._follower: TreeFollower | None = None
        self._keys: list[SigningKey] = []
        self._cosigning: Cosigning | None = None
        self._witnesses: Cosigning | None = None
        self._witness_thread = ThreadPoolExecutor(1, "witnesses")
        self._asking: asyncio.Future[bytes | None] | None = None
        self._newest: bytes | None = None
        self._shown: bytes | None = None
        self._ending = False
        self._key_absent = self._unsigned = False
        self._held = False
        self._written = asyncio.Event()
        self._moved_at = time.monotonic()
        self._moved_to = -1

    async def check(self, recovered: Recovered) -> None:
        """Take up the tree where the last checkpoint left it, and ask the witnesses whether they know it so.

        Nothing is written before that. Raises IntegrityRefusal where tree, audit log and witnesses do not belong
        together, ConfigError for a policy that cannot be used.
        """
        self._witnesses = self._cosigning = Cosigning.of(self._part.policy)
        if recovered.mark is None or not recovered.ledger.origin:
            return
        await self._aside(self._thread, self._follow, recovered.ledger.origin, recovered.mark)
        assert self._follower is not None  # noqa: S101 - just set
        if self._cosigning is not None and (last := self._follower.files.last_signed()) is not None:
            await self._aside(self._witness_thread, self._cosigning.check_at_start, last, self._follower.node())

    async def open(self, journal: Journal, keys: list[SigningKey]) -> None:
        """Begin to follow `journal`, whose key entries are written. Raises IntegrityRefusal."""
        self._opened = journal
        self._keys = keys
        if self._follower is None:
            await self._aside(self._thread, self._follow, journal.ledger.origin, journal.mark)

    def _follow(self, origin: str, mark: AuditMark) -> None:
        self._follower = TreeFollower(self._disk, self._state, origin, mark)

    @property
    def _journal(self) -> Journal:
        assert self._opened is not None  # noqa: S101 - opened before anything is asked
        return self._opened

    def hold(self, check: asyncio.Future[None]) -> None:
        """Sign nothing of a log that never had a checkpoint until a `check` of it has found nothing."""
        self._held = True

        def release(done: asyncio.Future[None]) -> None:
            self._held = done.cancelled() or done.exception() is not None

        check.add_done_callback(release)

    @property
    def idle(self) -> bool:
        """Whether nothing was written into the log for so long that it should get a sign of life."""
        index = self._journal.ledger.index
        if index != self._moved_to:
            self._moved_to, self._moved_at = index, time.monotonic()
        return time.monotonic() - self._moved_at >= IDLE_SECONDS

    def written(self) -> None:
        """Take note that something may have been written into the log."""
        self._written.set()

    async def run(self) -> None:
        """Follow the commits until cancelled. Raises what the disk or the tree refuse."""
        pause = PACE_SECONDS
        while True:
            await asyncio.sleep(pause)
            self._written.clear()  # before the look: what is written behind it has another one
            try:
                if not self._at_rest():
                    await asyncio.shield(self._aside(self._thread, self._advance, lambda: self._ending))
                await self._ask_witnesses()
                shown = self._cosigning is None or self._newest in (None, self._shown)
                if shown and self._asking is None and self._at_rest():
                    await self._written.wait()  # a log that stands still is not looked at
                pause = PACE_SECONDS
            except NoSpace as error:  # the commits do not depend on it
                log.error("evidence.disk_full", error=str(error))
                self._shown = None  # a cosignature that could not be kept is asked for again
                pause = _RETRY_SECONDS

    def _at_rest(self) -> bool:
        return self._follower is not None and self._follower.at_rest(self._journal.mark)

    async def _ask_witnesses(self) -> None:
        """Keep what they answered, and show them the newest checkpoint. Raises IntegrityRefusal where one knows better.

        One question at a time, on a thread of its own: neither a commit nor a checkpoint waits for a witness.
        """
        follower = self._follower
        if self._cosigning is None or follower is None:
            return
        if self._asking is not None:
            if not self._asking.done():
                return
            answered, self._asking = self._asking, None
            try:
                cosigned = answered.result()
            except IntegrityRefusal:
                self._cosigning = None  # it has said so; the end of the run need not hear it again
                raise
            if cosigned is None:
                self._shown = None if not self._ending else self._shown  # asked again when the witness's pause is over
            else:
                await self._aside(self._thread, follower.files.write_witnessed, self._disk, cosigned)
        if self._newest is not None and self._newest != self._shown:
            self._shown = self._newest
            self._asking = self._aside(self._witness_thread, self._cosigning.collect, self._newest, follower.node())

    async def finish(self) -> None:
        """Bring the tree to the end of the audit log and sign it, as far as there is time; nothing runs afterwards."""
        self._ending = True
        deadline = time.monotonic() + _LAST_WORK_SECONDS
        if self._follower is not None and self._opened is not None:
            if self._asking is not None:
                await asyncio.wait([self._asking])
            try:
                await self._aside(self._thread, self._advance, lambda: time.monotonic() > deadline)
                if self._follower.size != self._journal.mark.index:
                    await self._aside(self._thread, self._follower.keep)
                for _ in range(2):  # show the last checkpoint, then keep the answer
                    await self._ask_witnesses()
                    if self._asking is not None:
                        await asyncio.wait([self._asking])
            except NoSpace as error:  # the next start goes on from the checkpoint before
                log.error("evidence.disk_full", error=str(error))
        self.close()

    def close(self) -> None:
        """Wait for the thread's last work, and end the process beside it."""
        self._ending = True
        self._thread.shutdown()
        if self._follower is not None:
            self._follower.close()
        if self._witnesses is not None:
            self._witnesses.close()
        self._witness_thread.shutdown(wait=False)

    def _signers(self, size: int) -> list[SigningKey] | None:
        """Return the keys to sign a tree of `size` entries with now; None where the log has one that is not to be had.

        A key that took over is looked for in its file; where that is the service manager's copy, made at the start, the
        one before goes on as long as it may.
        """
        # a key that was named behind these entries does not sign them
        named, now = [key for key in self._journal.ledger.keys if key.from_index < size], self._now()
        try:
            refuse_without_key(named, self._keys, now)
        except ConfigError:
            try:
                keys = signing_keys(self._part)
                refuse_without_key(named, keys, now)
                self._keys, self._key_absent = keys, False
            except ConfigError as error:
                if not self._key_absent:
                    log.warning("evidence.key_absent", error=str(error))
                self._key_absent = True
        published = self._follower.published if self._follower is not None else 0
        found = in_force(named, self._keys, now, published)
        if not found and keys_to_sign_with(named, now):
            if not self._unsigned:
                log.error("evidence.unsigned", size=size)
            self._unsigned = True
            return None
        self._unsigned = False
        return found

    def _advance(self, stopped: Callable[[], bool]) -> None:
        follower = self._follower
        assert follower is not None  # noqa: S101 - opened before
        mark = self._journal.mark  # behind a whole batch or a standalone entry
        follower.catch_up(mark, stopped)
        if follower.size != mark.index or (self._held and not follower.published):
            return
        keys = self._signers(mark.index)
        if keys is None:
            return
        note = follower.publish(keys, int(time.time()))
        if note is not None:
            log.debug("evidence.checkpoint", size=follower.size, signed=bool(keys))
            self._newest = note if keys else None

    def _aside(self, thread: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Run `work` on a thread, with this task's words in its log lines."""
        context = contextvars.copy_context()
        return asyncio.get_running_loop().run_in_executor(thread, context.run, work, *arguments)
