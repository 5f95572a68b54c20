"""Whom to trust, as C2SP tlog-policy writes it: logs, witnesses, groups of them, and the quorum.

Owns: the policy's text and the judgement of a checkpoint under it. Leaves to `notes` whether a signature holds.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.tlog.checkpoints import parse_tree_head
from tidewaiter.core.tlog.cosignatures import COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44
from tidewaiter.core.tlog.notes import ED25519, Note, NoteError, VerifierKey, parse_vkey, verified
from tidewaiter.core.tlog.texts import decode_number, shown

_LOG_TYPES: Final = (ED25519, COSIGNATURE_ML_DSA_44)
_WITNESS_TYPES: Final = (COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44)
_NOT_ALLOWED: Final = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")
_NONE: Final = "none"
_FORMS: Final = {
    "log": "log VKEY [URL]",
    "witness": "witness NAME VKEY [URL]",
    "group": "group NAME all|any|NUMBER NAME...",
    "quorum": "quorum NAME",
}


class PolicyLog(Struct, frozen=True):
    """A log whose checkpoints count. The key's name is the log's origin."""

    key: VerifierKey
    url: str | None


class PolicyWitness(Struct, frozen=True):
    """A witness under its name in the policy; `url` is where checkpoints are submitted, `line` where it says so."""

    name: str
    key: VerifierKey
    url: str | None
    line: int


class PolicyGroup(Struct, frozen=True):
    """Stands for a checkpoint when at least `threshold` of its members do: witnesses and groups defined before it."""

    name: str
    threshold: int
    members: tuple[str, ...]


class Judgement(Struct, frozen=True):
    """What signed a checkpoint: the key of a known log, the witnesses, and whether these make the quorum.

    `quorum` says nothing about the log.
    """

    log: VerifierKey | None
    witnesses: tuple[str, ...]
    quorum: bool


class TrustPolicy(Struct, frozen=True):
    """A policy. `quorum` names a witness or group; None asks for no witness."""

    logs: tuple[PolicyLog, ...]
    witnesses: tuple[PolicyWitness, ...]
    groups: tuple[PolicyGroup, ...]
    quorum: str | None

    def judge(self, note: Note) -> Judgement:
        """Return what the policy makes of a checkpoint.

        Raises NoteError when the note is no checkpoint, or when a signature of a known key does not hold.
        """
        origin = parse_tree_head(note.text).origin
        logs = {log.key for log in self.logs if log.key.name == origin}
        signers = verified(note, [*logs, *(witness.key for witness in self.witnesses)])
        witnesses = tuple(witness.name for witness in self.witnesses if witness.key in signers)
        standing = set(witnesses)
        for group in self.groups:
            if len(standing.intersection(group.members)) >= group.threshold:
                standing.add(group.name)
        return Judgement(
            log=next((key for key in signers if key in logs), None),
            witnesses=witnesses,
            quorum=self.quorum is None or self.quorum in standing,
        )


def parse_policy(data: bytes, file: str) -> TrustPolicy:
    """Return the policy in a file; `file` is its name in messages. Raises ConfigError with the line."""
    reading = _Reading()
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            if found := _NOT_ALLOWED.search(line):
                raise NoteError(f"control character {found[0][0]:#04x}")
            words = [word.decode("utf-8", "backslashreplace") for word in line.split()]
            if words and not words[0].startswith("#"):
                reading.take(number, words[0], words[1:])
        except NoteError as error:
            raise ConfigError(f"{file}:{number}: {error}") from None
    if not reading.has_quorum:
        raise ConfigError(
            f"{file}: a policy has exactly one quorum line, found none", hint="`quorum none` asks for none"
        )
    return TrustPolicy(tuple(reading.logs), tuple(reading.witnesses), tuple(reading.groups), reading.quorum)


class _Reading:
    """A policy as far as it was read."""

    def __init__(self) -> None:
        self.logs: list[PolicyLog] = []
        self.witnesses: list[PolicyWitness] = []
        self.groups: list[PolicyGroup] = []
        self.quorum: str | None = None
        self.has_quorum = False
        self._defined: set[str] = set()
        self._grouped: set[str] = set()

    def take(self, line: int, keyword: str, words: list[str]) -> None:
        """Take one line, by its number. Raises NoteError."""
        match keyword, words:
            case "log", [vkey, *url] if len(url) <= 1:
                self._log(_key(vkey, _LOG_TYPES, "log"), *url)
            case "witness", [name, vkey, *url] if len(url) <= 1:
                self._witness(line, name, _key(vkey, _WITNESS_TYPES, "witness"), *url)
            case "group", [name, threshold, _, *_]:
                self._group(name, threshold, tuple(words[2:]))
            case "quorum", [name]:
                self._quorum(name)
            case _:
                form = _FORMS.get(keyword)
                allowed = f"write: {form}" if form else f"a line begins with {', '.join(_FORMS)} or #"
                raise NoteError(f"{shown(keyword)}: {allowed}")

    def _log(self, key: VerifierKey, url: str | None = None) -> None:
        if any(log.key.public == key.public for log in self.logs):
            raise NoteError(f"log: {shown(key.name)}: another log line has the same public key")
        self.logs.append(PolicyLog(key, url))

    def _witness(self, line: int, name: str, key: VerifierKey, url: str | None = None) -> None:
        self._define(name)
        if any(witness.key.public == key.public for witness in self.witnesses):
            raise NoteError(f"witness: {shown(name)}: another witness line has the same public key")
        self.witnesses.append(PolicyWitness(name, key, url, line))

    def _group(self, name: str, threshold: str, members: tuple[str, ...]) -> None:
        for member in members:
            self._known(member)
            if member in self._grouped:
                raise NoteError(f"group: {shown(member)} is a member of a group already")
            self._grouped.add(member)
        self._define(name)
        counted = {"any": 1, "all": len(members)}.get(threshold)
        needed = decode_number(threshold.encode(), "group") if counted is None else counted
        if not 1 <= needed <= len(members):
            raise NoteError(f"group: {shown(name)} asks for {needed} of {len(members)} members")
        self.groups.append(PolicyGroup(name, needed, members))

    def _quorum(self, name: str) -> None:
        if self.has_quorum:
            raise NoteError("quorum: a policy has exactly one quorum line, this is the second")
        if name != _NONE:
            self._known(name)
            self.quorum = name
        self.has_quorum = True

    def _define(self, name: str) -> None:
        if name == _NONE or name in self._defined:
            raise NoteError(f"the name {shown(name)} is taken")
        self._defined.add(name)

    def _known(self, name: str) -> None:
        if name not in self._defined:
            raise NoteError(f"the name {shown(name)} is not defined on a line before")


def _key(vkey: str, types: tuple[int, ...], what: str) -> VerifierKey:
    key = parse_vkey(vkey)
    if key.type not in types:
        allowed = " or ".join(f"{kind:#04x}" for kind in types)
        raise NoteError(f"{what}: {shown(key.name)}: expected a key of type {allowed}, found {key.type:#04x}")
    return key
