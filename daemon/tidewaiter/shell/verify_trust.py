"""Whose word the log's checkpoints are: signatures, cosignatures, a checkpoint held outside, and how far each reaches.

Owns: reading every signed checkpoint, comparing its root with the tree, and `Anchors`, the sizes up to which somebody
outside stands for the log. Leaves to `core.tlog` notes and policies, and to `shell.verify_table` what an anchor covers.

Keys that stand in the state directory anchor nothing: whoever writes there can put in others. They only have to agree
with what they signed. Trust begins with a key, a policy or a checkpoint that the caller holds; it goes on to every key
that an entry below a trusted signature names. A revocation takes trust away wherever it is recorded.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.key_decisions import REVOKED, KeyInForce, apply
from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.cosignatures import split_timestamp
from tidewaiter.core.tlog.notes import Note, NoteError, VerifierKey, parse_note, parse_notes, parse_vkey, verified
from tidewaiter.core.tlog.policies import TrustPolicy, parse_policy
from tidewaiter.shell.verify_log import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidewaiter.core.audit import KeyRecorded
    from tidewaiter.edges.tree_files import TreeFiles
    from tidewaiter.shell.verify_findings import Findings
    from tidewaiter.shell.verify_log import Stop
    from tidewaiter.shell.verify_tree import TreeResult

_END_OF_NOTE: Final = re.compile(rb"^\xe2\x80\x94 [^\n]*\n(?!\xe2\x80\x94 )", re.MULTILINE)
COSIGNED_WITHIN: Final = dt.timedelta(seconds=60)
"""How far the clocks of log and witness may differ, and how long a cosignature may take."""


@dataclass(frozen=True)
class Given:
    """What the caller holds: a key or a policy, and a checkpoint. `since_file` names the latter in messages."""

    key: VerifierKey | None = None
    policy: TrustPolicy | None = None
    since: Note | None = None
    since_file: str = ""

    @property
    def log_keys(self) -> set[VerifierKey]:
        """The log's keys that the caller trusts."""
        if self.policy is not None:
            return {log.key for log in self.policy.logs}
        return set() if self.key is None else {self.key}


def read_given(key: str | None, policy: Path | None, since: Path | None) -> Given:
    """Read what the caller holds. Raises ConfigError."""
    if key is not None and policy is not None:
        raise ConfigError("--key and --policy are both given", hint="a policy names the log's key on its `log` line")
    held = None
    try:
        pinned = None if key is None else parse_vkey(key.strip())
    except NoteError as error:
        raise ConfigError(
            f"--key: {error}",
            hint="give the vkey that you were handed when the key was made, as NAME+ID+KEY; what "
            "stands beside the log proves nothing",
        ) from error
    trust = None if policy is None else parse_policy(_content(policy, "--policy"), str(policy))
    if since is not None:
        data = _content(since, "--since")
        try:
            held = parse_note(data, unsigned=True)
            parse_tree_head(held.text)
        except NoteError as error:
            raise ConfigError(f"{since}: is no checkpoint: {error}", hint="keep a copy of tlog/checkpoint") from error
    given = Given(pinned, trust, held, str(since or ""))
    if held is not None and given.log_keys:
        _refuse_foreign(given)
    return given


def _content(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be read: {error.strerror}", hint="correct the path") from error


def _refuse_foreign(given: Given) -> None:
    assert given.since is not None  # noqa: S101 - the caller looked
    try:
        verified(given.since, given.log_keys)
    except NoteError as error:
        raise ConfigError(
            f"{given.since_file}: {error}", hint="this copy of the checkpoint was changed; use another"
        ) from error


def refuse_own(given: Given, state: Path) -> None:
    """Raise ConfigError where the held checkpoint is a file of the state directory itself: it holds nothing outside."""
    if given.since is None:
        return
    held = Path(given.since_file)
    own = [state / "tlog" / name for name in ("checkpoint", "checkpoints", "witnessed")]
    if held.resolve().is_relative_to(state.resolve()) or any(each.exists() and held.samefile(each) for each in own):
        raise ConfigError(
            f"--since {held}: lies inside the state directory: whoever rewrites the log rewrites it too",
            hint="give a checkpoint that was kept elsewhere: a copy mailed at the time, or what a witness holds",
        )


@dataclass(frozen=True)
class Checkpoint:
    """A signed checkpoint of the log: where it stands, its tree head, and who signed it.

    `quorum`: enough of the policy's witnesses stand for it; `cosigned` is when (seconds since 1970) the last did.
    """

    file: str
    offset: int
    head: TreeHead
    note: Note
    signers: frozenset[str] = frozenset()
    quorum: bool = False
    cosigned: int | None = None


@dataclass
class Anchors:
    """How far the log is anchored, in entries; `size` is all that was read.

    `signed`: by any key; `pinned`: by a key the caller trusts; `held`: by the checkpoint he holds; `witnessed`: by a
    quorum, at `witnessed_at` (seconds since 1970) the last time. None: by none. `covered`: by any checkpoint, signed or
    not. `given` are the kinds asked for. `trusted` are the keys (vkeys) that count, `vouched` says that one of them
    signed anything.
    """

    size: int
    signed: int | None = None
    pinned: int | None = None
    held: int | None = None
    witnessed: int | None = None
    witnessed_at: int | None = None
    covered: int = 0
    given: list[str] = field(default_factory=list)
    trusted: set[str] = field(default_factory=set)
    vouched: bool = False
    alone: bool = False
    """The log is one file, without checkpoints of its own."""

    @property
    def outside(self) -> int | None:
        """How far anything from outside reaches."""
        reached = [each for each in (self.pinned, self.held, self.witnessed) if each is not None]
        return max(reached, default=None)


class Checkpoints:
    """The checkpoints of a log as they were when the verification began."""

    def __init__(self, files: TreeFiles, findings: Findings) -> None:
        """Read the files; what cannot be read as checkpoints is a finding."""
        self.path = files.path
        self._findings = findings
        self.signed: list[Checkpoint] = []
        self.newest: TreeHead | None = None
        self._unsigned = False
        self._complete = True
        newest, witnessed = files.newest(), files.witnessed()
        for note, begin in self._notes(files.path / "checkpoints"):
            self._take(note, "checkpoints", begin)
        listed = {checkpoint.note.text for checkpoint in self.signed}
        for name, data in (("checkpoint", newest), ("witnessed", witnessed)):
            if data is not None:
                self._take_single(name, data, listed)
        self.signed.sort(key=lambda each: each.head.size)

    @property
    def sizes(self) -> set[int]:
        """The sizes of all trees that a checkpoint stands for, signed or not."""
        return {head.size for _, _, head in self._heads()}

    @property
    def size(self) -> int:
        """The largest of them."""
        return max(self.sizes, default=0)

    def _notes(self, path: Path) -> Iterator[tuple[Note, int]]:
        """Yield each note and where it begins; a damaged one is a finding, and is gone over."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        begin = 0
        while begin < len(data):
            start = begin
            try:
                for note, end in parse_notes(data[start:]):
                    yield note, begin
                    begin = start + end
            except NoteError as error:
                self._findings.tampered("checkpoints", f"a checkpoint cannot be read: {error}", path, offset=begin)
                behind = _END_OF_NOTE.search(data, begin)
                if behind is None:
                    return
                begin = behind.end()
                continue
            if begin < len(data):
                self._findings.note(f"{path}: a torn checkpoint at its end is ignored")
            return

    def _take(self, note: Note, name: str, offset: int) -> TreeHead | None:
        try:
            head = parse_tree_head(note.text)
        except NoteError as error:
            self._findings.tampered("checkpoints", f"a note is no checkpoint: {error}", self.path / name, offset=offset)
            return None
        if note.signatures:
            self.signed.append(Checkpoint(str(self.path / name), offset, head, note))
        return head

    def _take_single(self, name: str, data: bytes, listed: set[bytes]) -> None:
        try:
            note = parse_note(data, unsigned=True)
        except NoteError as error:
            self._findings.tampered("checkpoints", f"is no checkpoint: {error}", self.path / name, offset=0)
            return
        head = self._take(note, name, 0)
        if name == "checkpoint":
            self.newest, self._unsigned = head, not note.signatures
        if head is not None and note.text not in listed and note.signatures:
            self._findings.tampered(
                "checkpoints", f"the checkpoint of {head.size} entries is not among all signed ones", self.path / name,
                index=head.size - 1 if head.size else None, offset=0,
            )  # fmt: skip

    # -- against the tree ----------------------------------------------------------------------------------------

    def compare(self, tree: TreeResult, origin: str) -> None:
        """Compare origin, size and root of every checkpoint with the log."""
        for file, offset, head in self._heads():
            if origin and head.origin != origin:
                self._findings.tampered(
                    "checkpoints", "a checkpoint is of another log", file, offset=offset, expected=origin,
                    found=head.origin,
                )  # fmt: skip
            compare_head(head, tree, self._findings, file, offset)

    def _heads(self) -> Iterator[tuple[str, int, TreeHead]]:
        for each in self.signed:
            yield each.file, each.offset, each.head
        if self.newest is not None and self._unsigned:
            yield str(self.path / "checkpoint"), 0, self.newest

    # -- signatures ----------------------------------------------------------------------------------------------

    def check_unsigned(self, keys: list[tuple[int, KeyRecorded]]) -> None:
        """Check that the newest checkpoint lacks a signature only where the log had no key that was to sign it.

        `keys` are all entries on keys. A decision that was taken while the checkpoint was made may stand behind it.
        """
        head = self.newest
        if head is None or not self._unsigned:
            return
        named: list[KeyInForce] = []
        behind = [index for index, _ in keys if index >= head.size]
        for index, record in keys:
            if index in behind and not _any_signs(named):
                return
            named = apply(named, record, index)
        if _any_signs(named):
            self._findings.tampered(
                "signatures", "the newest checkpoint has no signature, though the log names a key that was to sign it",
                self.path / "checkpoint", offset=0, expected=" or ".join(key.vkey for key in named if _signs(key)),
                found="no signature",
            )  # fmt: skip

    def verify(self, given: Given, recorded: list[str], roots: dict[int, bytes], *, complete: bool) -> None:
        """Verify the signatures of the keys that are given or that the log names (`recorded`).

        `complete`: the log is there from its first entry, so that it names all its keys. A signature that does not hold
        is a finding. Those of checkpoints whose root is not the log's count for nothing.
        """
        keys = {str(key): key for key in given.log_keys}
        for vkey in recorded:
            key = read_vkey(vkey)
            if key is None:
                self._findings.tampered("signatures", f"the log names a key that is none: {vkey}", self.path)
            else:
                keys.setdefault(vkey, key)
        self._complete = complete
        self.signed = [self._verified(each, keys, given.policy, roots) for each in self.signed]

    def _verified(
        self, checkpoint: Checkpoint, keys: dict[str, VerifierKey], policy: TrustPolicy | None, roots: dict[int, bytes]
    ) -> Checkpoint:
        head, note = checkpoint.head, checkpoint.note
        place = (checkpoint.file, checkpoint.offset, head.size - 1 if head.size else None)
        known = [key for key in keys.values() if key.name == head.origin]
        try:
            signers = frozenset(map(str, verified(note, known)))
            quorum, cosigned = False, None
            if policy is not None:
                judgement = policy.judge(note)
                quorum = judgement.quorum
                cosigned = _cosigned_at(note, policy, set(judgement.witnesses))
        except NoteError as error:
            self._findings.tampered("signatures", str(error), place[0], offset=place[1], index=place[2])
            return checkpoint
        if not signers and self._complete:
            self._findings.tampered(
                "signatures", "a checkpoint is signed by no key of the log", place[0], offset=place[1], index=place[2],
                expected=", ".join(sorted(map(str, known))) or "a key that the log names",
                found=", ".join(f"{each.name}+{each.key_id.hex()}" for each in note.signatures),
            )  # fmt: skip
        if roots.get(head.size) != head.root:
            return checkpoint
        return Checkpoint(checkpoint.file, checkpoint.offset, head, note, signers, quorum, cosigned)

    # -- trust ---------------------------------------------------------------------------------------------------

    def anchor(self, given: Given, keys: list[tuple[int, KeyRecorded]], size: int, held: int | None) -> Anchors:
        """Return how far the log is anchored. `keys` are the entries on keys, `held` how far the held checkpoint is."""
        anchors = Anchors(size, held=held, covered=self.size, trusted={str(key) for key in given.log_keys})
        anchors.given = [
            name
            for name, there in (("key", given.key), ("policy", given.policy), ("since", given.since))
            if there is not None
        ]
        counts: dict[str, int] = {}
        for _, record in keys:
            if record.decision == REVOKED and record.last_trusted_index is not None:
                limit = record.last_trusted_index + 1
                counts[record.vkey] = min(counts.get(record.vkey, limit), limit)
        valid = [
            (each, {vkey for vkey in each.signers if each.head.size <= counts.get(vkey, each.head.size)})
            for each in self.signed
        ]
        anchors.signed = max((each.head.size for each, signers in valid if signers), default=None)
        policy = given.policy
        witnesses = policy is not None and policy.quorum is not None
        any_log = policy is not None and not policy.logs
        while True:
            trusted = [each for each, signers in valid if signers & anchors.trusted]
            anchors.vouched = bool(trusted)
            if witnesses:  # under a policy, the log's own signature alone is not enough
                cosigned = [each for each in (self.signed if any_log else trusted) if each.quorum]
                anchors.witnessed = max((each.head.size for each in cosigned), default=None)
                anchors.witnessed_at = max((each.cosigned or 0 for each in cosigned), default=None)
            else:
                anchors.pinned = max((each.head.size for each in trusted), default=None)
            reach = anchors.outside or 0
            named = {record.vkey for index, record in keys if index < reach and record.decision != REVOKED}
            if named <= anchors.trusted:
                return anchors
            anchors.trusted |= named

    def check_cosigned_times(self, stops: dict[int, Stop]) -> None:
        """Compare the times of entries with those at which witnesses cosigned the tree up to them."""
        for each in self.signed:
            if each.cosigned is None:
                continue
            at = dt.datetime.fromtimestamp(each.cosigned, dt.UTC)
            for size, wrong in ((each.head.size, 1), (each.head.size + 1, -1)):
                stop = stops.get(size)
                time = None if stop is None else parse_time(stop.time)
                if stop is None or time is None or (time - at) * wrong <= COSIGNED_WITHIN:
                    continue
                said = "was there already" if wrong > 0 else "was not there yet"
                self._findings.tampered(
                    "time", f"entry {size - 1} gives a time at odds with its witnesses: it {said} when they cosigned",
                    self.path.parent / "audit" / stop.mark.segment, index=size - 1,
                    expected=f"{'before' if wrong > 0 else 'after'} {at.isoformat()}, give or take a minute",
                    found=stop.time,
                )  # fmt: skip
                break


def compare_head(head: TreeHead, tree: TreeResult, findings: Findings, file: str, offset: int) -> bool:
    """Compare a tree head with the log's own tree; what differs is a finding."""
    if tree.root is None:
        return False
    if head.size > tree.leaves:
        findings.tampered(
            "checkpoints", f"a checkpoint covers {head.size} entries, the log has {tree.leaves}: it was cut or rolled "
            "back", file, index=tree.leaves, offset=offset, expected=f"{head.size} entries",
            found=f"{tree.leaves} entries",
        )  # fmt: skip
        return False
    root = tree.roots.get(head.size)
    if root is None:  # before the first entry that is left
        return False
    if root != head.root:
        findings.tampered(
            "checkpoints", f"the first {head.size} entries are not those that the checkpoint covers", file,
            index=head.size - 1, offset=offset, expected=f"root {head.root.hex()}", found=f"root {root.hex()}",
        )  # fmt: skip
    return root == head.root


def _signs(key: KeyInForce) -> bool:
    # whether the old key of a rotation still signed depends on the moment: it need not have
    return key.revoked_after is None and key.until is None


def _any_signs(keys: list[KeyInForce]) -> bool:
    return any(_signs(key) for key in keys)


def read_vkey(text: str) -> VerifierKey | None:
    """Return the key that an entry names, None where it is none."""
    try:
        return parse_vkey(text)
    except NoteError:
        return None


def _cosigned_at(note: Note, policy: TrustPolicy, names: set[str]) -> int | None:
    keys = {(each.key.name, each.key.key_id) for each in policy.witnesses if each.name in names}
    times = [split_timestamp(each.blob)[0] for each in note.signatures if (each.name, each.key_id) in keys]
    return max(times, default=None)
