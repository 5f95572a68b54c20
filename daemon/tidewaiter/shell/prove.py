"""The proof of one flag: everything that somebody needs to check it who has neither the log nor tidewaiter.

Owns: what belongs to it, and writing the folder. Leaves to `shell.audit_reading` finding entries, to `shell.log_proofs`
the proofs, and to `shell.prove_page` the words and commands of VERIFY.md.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.tlog.notes import public_pem
from tidewaiter.edges import archive
from tidewaiter.edges.durable import Disk
from tidewaiter.shell.audit_reading import decision_before, entries_of, segments_of
from tidewaiter.shell.flag_search import the_flag
from tidewaiter.shell.history import Gone, History
from tidewaiter.shell.log_proofs import covering, proof_of, trusted_keys
from tidewaiter.shell.state_owner import read_owner
from tidewaiter.shell.state_report import committed

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.audit import BatchCommitted
    from tidewaiter.shell.audit_reading import Entry, FlagEntries
    from tidewaiter.shell.flag_search import Found
    from tidewaiter.shell.log_proofs import Checkpoint
    from tidewaiter.shell.state_report import Target

SUMS: Final = "SHA256SUMS"
PAGE: Final = "VERIFY.md"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass
class Proved:
    """What goes into the folder, by file name, and what there is to say about it.

    `archived` are the files of what was in force, with the name under which the batch.committed gives their digests.
    """

    found: Found
    entries: FlagEntries
    checkpoint: Checkpoint
    files: dict[str, bytes] = field(default_factory=dict)
    archived: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def batch(self) -> BatchCommitted:
        """The batch in which the flag's event was evaluated."""
        return self.entries.committed


def prove(target: Target, flag_id: str) -> Proved:
    """Return the proof of a flag, checked.

    Raises ConfigError where there is no such flag or no checkpoint covers it yet, IntegrityRefusal where the log does
    not hold what it should.
    """
    state = target.state
    segments_of(state)
    found = the_flag(state, flag_id)
    entries = entries_of(state, found)
    proved = Proved(found, entries, covering(state, entries.batch.head.index, trusted_keys(state)))
    _add_entry(proved, state, "entry", entries.flag)
    _add_entry(proved, state, "batch", entries.batch)
    decision = decision_before(state, entries.batch, proved.batch.decisions)
    if decision is not None:
        _add_entry(proved, state, "decision", decision)
    else:
        proved.notes.append("the audit log does not reach back to the decision that put the rules into force")
    _add_slice(proved, target)
    _add_archived(proved, state)
    if proved.checkpoint.keys:
        key = proved.checkpoint.keys[0]
        proved.files["log.vkey"] = f"{key}\n".encode()
        proved.files["log.pem"] = public_pem(key)
    return proved


def write(proved: Proved, page: str, out: Path) -> None:
    """Write the folder, the sums last: without them it is not whole. Raises ConfigError and DurabilityError."""
    disk = Disk()
    files = {**proved.files, PAGE: page.encode()}
    files[SUMS] = b"".join(
        b"%b  %b\n" % (hashlib.sha256(data).hexdigest().encode(), name.encode()) for name, data in sorted(files.items())
    )
    disk.make_directory(out)
    if any(out.iterdir()):
        raise ConfigError(f"--out {out}: is not empty", hint="name a new directory")
    for name, data in files.items():
        disk.make_directory((out / name).parent)
        disk.replace_file(out / name, data)


def _add_entry(proved: Proved, state: Path, name: str, entry: Entry) -> None:
    proved.files[f"{name}.jsonl"] = entry.line
    proved.files[f"{name}.tlog-proof"] = proof_of(state, entry, proved.checkpoint).encode()


def _add_slice(proved: Proved, target: Target) -> None:
    """Add the bytes of the stream that the batch covers, where they are still what was committed."""
    batch = proved.batch
    first = batch.position.start + batch.first
    owner = read_owner(target.state)
    stream = target.stream or (None if owner is None else target.state.__class__(owner.path))
    try:
        if stream is None:
            raise Gone("where the stream is, nobody said: name it with --stream")
        ledger, closed = committed(target.state)
        history = History(stream, closed, ledger.commit.position if ledger.commit is not None else None)
        data = b"".join(data for _, data in history.blocks(first, batch.offset))
        if hashlib.sha256(data).hexdigest() == batch.sha256:
            proved.files["slice.jsonl"] = data
            return
        gone = ", ".join(history.gone_between(first, batch.offset))
        raise Gone(f"the segment {gone} is gone" if gone else f"bytes {first:,} to {batch.offset:,} were changed since")
    except Gone as missing:
        proved.notes.append(f"without the input: {missing}")


def _add_archived(proved: Proved, state: Path) -> None:
    decisions = proved.batch.decisions
    wanted = [
        ("ruleset", decisions.ruleset, "ruleset.toml"),
        ("contract", decisions.contract, "contract.toml"),
        ("config", decisions.config, "policy.json"),
        ("engine", decisions.engine, "engine.txt"),
    ]
    wanted += [
        (path, digest, f"lists/{number}-{_UNSAFE.sub('_', path.rsplit('/', 1)[-1])}")
        for number, (path, digest) in enumerate(sorted(decisions.lists.items()), start=1)
    ]
    for member, digest, file in wanted:
        try:
            proved.files[file] = archive.load(state, digest)
            proved.archived.append((member, file))
        except IntegrityRefusal:
            proved.notes.append(f"without {file}: {state / 'rules' / digest} is missing or was changed")
