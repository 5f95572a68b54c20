"""What a witness has seen of each log: judged, persisted and cosigned under one lock.

Owns: the witness's state directory, ``STATE/witness`` (its verifier key) and ``STATE/checkpoints/ORIGIN_HASH`` (the
newest checkpoint it cosigned of one log, a signed note with the log's signatures and its own). Leaves the judgement
itself to `core.tlog.witnessing`, HTTP to `edges.witness_server`, and the lock file to `shell.witness`.

Invariants:
- A cosignature leaves this module only after the checkpoint it stands for is durable. If we die in between, the log
  asks again, and the same size with the same root is cosigned again.
- Nothing is judged while another checkpoint is being persisted, so two requests cannot cross and roll a log back.
- What is kept verifies under the witness's own key; a file that does not is damage and refused at the start.
"""

from __future__ import annotations

import hashlib
import re
import threading
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal
from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.notes import Note, NoteError, parse_note, parse_vkey, verified
from tidewaiter.core.tlog.witnessing import OK, KnownLog, Verdict, judge
from tidewaiter.edges.durable import NoSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tidewaiter.core.tlog.notes import SigningKey, VerifierKey
    from tidewaiter.edges.durable import Disk

OWNER_FILE: Final = "witness"
CHECKPOINTS: Final = "checkpoints"
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_HINT: Final = "restore the state directory from a back-up; a witness that forgot what it saw would cosign a fork"


class _Seen(Struct, frozen=True):
    head: TreeHead
    note: bytes


def origin_hash(origin: str) -> str:
    """Return the name of a log in the monitoring interface: the SHA-256 of its origin, lower-case hex."""
    return hashlib.sha256(origin.encode()).hexdigest()


class WitnessState:
    """The newest checkpoint of each log, on the disk and in memory. Its methods may be called from any thread."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        key: SigningKey,
        logs: Mapping[str, tuple[VerifierKey, ...]],
        clock: Callable[[], int],
    ) -> None:
        """`logs` has the keys of each origin it knows; `clock` gives POSIX seconds for the cosignatures.

        The caller holds the lock of `directory`. Raises ConfigError where it belongs to another witness,
        IntegrityRefusal where it is damaged.
        """
        self._disk = disk
        self._directory = directory / CHECKPOINTS
        self._key = key
        self._logs = logs
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = False
        disk.make_directory(self._directory)
        names = sorted(path.name for path in self._directory.iterdir() if _HASH.fullmatch(path.name))
        self._claim(directory / OWNER_FILE, new=not names)
        self._seen = {name: self._load(name) for name in names}

    @property
    def sizes(self) -> dict[str, int]:
        """The size of the newest checkpoint of each origin."""
        return {seen.head.origin: seen.head.size for seen in self._seen.values()}

    def add_checkpoint(self, body: bytes) -> Verdict:
        """Judge one add-checkpoint request; a 200 is durable when this returns.

        Raises DurabilityError where the disk did not take it: nothing was cosigned then. After a failed fsync every
        later call raises, too: only a new start knows what is on the disk.
        """
        with self._lock:
            if self._failed:
                raise DurabilityError("the disk did not confirm an earlier checkpoint", hint="start again")
            verdict = judge(body, self._known)
            if verdict.note is None or verdict.head is None:  # not a 200
                return verdict
            return self._cosign(verdict.note, verdict.head)

    def checkpoint(self, hash_: str) -> bytes | None:
        """Return the newest cosigned checkpoint of the log with this origin hash, a signed note."""
        seen = self._seen.get(hash_)
        return None if seen is None else seen.note

    def close(self) -> None:
        """Let the checkpoint in hand become durable; nothing is cosigned afterwards."""
        with self._lock:
            self._failed = True

    def _known(self, origin: str) -> KnownLog | None:
        keys = self._logs.get(origin)
        if keys is None:
            return None
        seen = self._seen.get(origin_hash(origin))
        return KnownLog(keys=keys, latest=None if seen is None else seen.head)

    def _cosign(self, note: Note, head: TreeHead) -> Verdict:
        trusted = {(key.name, key.key_id) for key in verified(note, self._logs[head.origin])}
        cosignature = self._key.sign(note.text, self._clock())
        signatures = [one for one in note.signatures if (one.name, one.key_id) in trusted]
        kept = Note(text=note.text, signatures=(*signatures, cosignature)).encode()
        name = origin_hash(head.origin)
        self._failed = True  # an error below that is not known to have left the old file in place stays one
        try:
            # If we die here, the disk has the old checkpoint or the new one, and nobody has the cosignature.
            self._disk.replace_file(self._directory / name, kept)
        except NoSpace:
            self._failed = False
            raise
        self._failed = False
        self._seen[name] = _Seen(head=head, note=kept)
        return Verdict(OK, body=cosignature.line(), head=head)

    # -- the start -----------------------------------------------------------------------------------------------

    def _load(self, name: str) -> _Seen:
        path = self._directory / name
        try:
            data = path.read_bytes()
            note = parse_note(data)
            head = parse_tree_head(note.text)
            if not verified(note, [self._key.verifier]):
                raise NoteError(f"it has no cosignature of {self._key.name}")
        except (NoteError, OSError) as error:
            raise IntegrityRefusal(f"{path}: is no checkpoint this witness cosigned: {error}", hint=_HINT) from error
        if origin_hash(head.origin) != name:
            raise IntegrityRefusal(f"{path}: is a checkpoint of another log, {head.origin}", hint=_HINT)
        return _Seen(head=head, note=data)

    def _claim(self, path: Path, *, new: bool) -> None:
        """Make the directory this witness's own. If we die before, the next start does it; nothing was cosigned."""
        ours = str(self._key.verifier)
        try:
            found = path.read_bytes().decode("ascii", "backslashreplace").rstrip("\n")
        except FileNotFoundError:
            if not new:
                raise IntegrityRefusal(f"{path}: is missing beside checkpoints", hint=_HINT) from None
            self._disk.replace_file(path, f"{ours}\n".encode())
            return
        try:
            parse_vkey(found)
        except NoteError as error:
            raise IntegrityRefusal(f"{path}: is no verifier key: {error}", hint=_HINT) from error
        if found != ours:
            raise ConfigError(
                f"{path}: the directory belongs to the witness {found}, the key is that of {ours}",
                hint="a witness with a new key is a new witness: give it a directory of its own",
            )
