"""The evidence of a period in one file: what belongs into a bundle, gathered and checked before it is written.

Owns: which audit segments, checkpoints, proofs, tiles, rules, run logs and reports a period needs, and that the entries
lead to the root of the newest checkpoint. Leaves to `shell.bundle_file` the zip, to `shell.bundle_page` VERIFY.md, and
to `shell.log_proofs` the proofs. Reads only; what is beyond the newest checkpoint is left out.

Memory does not grow with the period: entries are read line by line, and at most KEPT checkpoints are linked by proofs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core import audit
from tidewaiter.core.audit import BatchCommitted, Decision, Decisions, Document
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.tlog.merkle import consistency_proof, is_consistent
from tidewaiter.core.tlog.notes import NoteError, parse_notes
from tidewaiter.core.tlog.tiles import WIDTH, Tile, reader, right_edge, tile_of
from tidewaiter.edges.journal import first_index
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.shell.audit_reading import Entry, entry_at, governing_before, head_of, segments_of
from tidewaiter.shell.bundle_keys import Succession, successions
from tidewaiter.shell.log_proofs import (
    Checkpoint,
    LogKey,
    RootOf,
    checkpoint_in,
    hashes_beside,
    log_keys,
    newest_checkpoint,
    proof_of,
    read_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidewaiter.core.tlog.notes import Note, VerifierKey
    from tidewaiter.core.tlog.proofs import LogProof
    from tidewaiter.shell.audit_reading import Wanted

KEPT: Final = 64
"""So many checkpoints of a period are linked by proofs at most; all of them are in the bundle."""
_BLOCK_BYTES: Final = 1 << 20
_HINT: Final = "see what differs: tidewaiter verify"


class _Documented(Struct, frozen=True):
    documents: list[Document] = []


_batch: Final = msgspec.json.Decoder(BatchCommitted)
_decision: Final = msgspec.json.Decoder(Decision)
_documented: Final = msgspec.json.Decoder(_Documented)


@dataclass(frozen=True)
class Part:
    """An audit segment, or its first `length` bytes, where more of it is not covered by a checkpoint yet."""

    path: Path
    length: int

    def lines(self) -> Iterator[bytes]:
        """Yield its entries."""
        left = self.length
        with self.path.open("rb") as file:
            while left > 0 and (line := file.readline()):
                left -= len(line)
                yield line


@dataclass
class Bundle:
    """What a bundle holds. Entries [`first`, `end`); `kept` are checkpoints of growing size, the newest is the last.

    `listed` is the stretch of ``tlog/checkpoints`` with all checkpoints of the period, in bytes. `in_force` are the
    archived contents: digest and what it was; `before` is the entry before the first that says what was in force then.
    `log_keys` are the newest first. `covered` are run logs and reports whose digests the entries give, `uncovered` the
    others.
    """

    state: Path
    wanted: Wanted
    parts: list[Part]
    first: int
    end: int
    newest: Checkpoint
    witnessed: Checkpoint | None
    log_keys: list[LogKey]
    taken_over: list[Succession] = field(default_factory=list)
    before: tuple[Entry, LogProof] | None = None
    kept: list[Checkpoint] = field(default_factory=list)
    listed: tuple[int, int] = (0, 0)
    beside: tuple[list[bytes], list[bytes]] = ([], [])
    links: list[list[bytes]] = field(default_factory=list)
    begins: str = ""
    ends: str = ""
    flags: int = 0
    in_force: dict[str, str] = field(default_factory=dict)
    covered: list[str] = field(default_factory=list)
    uncovered: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def signer(self) -> VerifierKey | None:
        """The newest of the keys that signed the newest checkpoint."""
        return self.newest.keys[0] if self.newest.keys else None

    @property
    def keys(self) -> list[LogKey]:
        """The keys that somebody needs who checks it: that one first, and no revoked one that signed nothing here."""
        signed = {key for each in self.kept for key in each.keys}
        wanted = [key for key in self.log_keys if key.named.revoked_after is None or key.verifier in signed]
        return sorted(wanted, key=lambda key: (key.verifier != self.signer, key.named.revoked_after is not None))

    @property
    def tiles(self) -> list[Tile]:
        """The tiles that proofs of these entries in the newest tree are made of, in order."""
        size = self.newest.head.size
        found = set(right_edge(size))
        level, first, last = 0, self.first, self.end - 1
        while size >> (8 * level):
            last = min(last, (size >> (8 * level)) - 1)
            found |= {
                tile_of(8 * level, number * WIDTH, size)[0] for number in range(first // WIDTH, last // WIDTH + 1)
                if number * WIDTH < size >> (8 * level)
            }  # fmt: skip
            level, first, last = level + 1, first // WIDTH, last // WIDTH
        return sorted(found)


def gather(state: Path, wanted: Wanted, progress: Callable[[int, int], None]) -> Bundle:
    """Return the bundle of the whole audit segments that reach into the period.

    `progress` is told bytes done and in all. Raises ConfigError where there is nothing to bundle, IntegrityRefusal
    where the entries are not those of the newest checkpoint.
    """
    keys = log_keys(state)
    trusted = [key.verifier for key in keys if key.named.revoked_after is None]
    newest = newest_checkpoint(state, trusted)
    parts = _parts(state, wanted, newest.head.size)
    first = first_index(parts[0].path)
    later = [path for path in segments_of(state) if path.name > parts[-1].path.name]
    end = min(newest.head.size, first_index(later[0]) if later else newest.head.size)
    witnessed = checkpoint_in(TreeFiles(state), "witnessed", trusted)
    bundle = Bundle(state, wanted, parts, first, end, newest, witnessed, keys)
    _read_entries(bundle, progress)
    _add_proofs(bundle)
    return bundle


def _parts(state: Path, wanted: Wanted, size: int) -> list[Part]:
    segments = [path for path in segments_of(state) if first_index(path) < size]
    if not segments:
        raise IntegrityRefusal(f"{state / 'audit'}: lacks entries that the checkpoint of {size} covers", hint=_HINT)
    begins = [_first_time(path) for path in segments]
    ends = [*begins[1:], "~"]  # behind every time
    inside = [
        at for at in range(len(segments))
        if (not wanted.end or begins[at] < wanted.end) and (not wanted.begin or ends[at] >= wanted.begin)
    ]  # fmt: skip
    if not inside:
        raise ConfigError(
            f"{state}: has no entries of that period",
            hint=f"its entries begin at {begins[0]}, see: tidewaiter audit tail",
        )
    chosen = segments[inside[0] : inside[-1] + 1]
    parts = [Part(path, path.stat().st_size) for path in chosen]
    if chosen[-1] == segments[-1]:
        parts[-1] = Part(chosen[-1], _end_of(state, size - 1, chosen[-1]))
    return parts


def _first_time(path: Path) -> str:
    with path.open("rb") as file:
        return head_of(path, 0, file.readline()).timestamp


def _end_of(state: Path, index: int, segment: Path) -> int:
    try:
        last = entry_at(state, index)
    except ConfigError as error:
        raise IntegrityRefusal(
            f"{state / 'audit'}: lacks entry {index}, which the newest checkpoint covers", hint=_HINT
        ) from error
    return last.offset + len(last.line) if last.path == segment else segment.stat().st_size


# -- entries -------------------------------------------------------------------------------------------------------


def _read_entries(bundle: Bundle, progress: Callable[[int, int], None]) -> None:
    """Read every entry once: recompute the root, and note what the entries name."""
    head = bundle.newest.head
    node = reader(head.size, TreeFiles(bundle.state).read_tile)
    done, total = 0, sum(part.length for part in bundle.parts)
    runs: set[str] = set()
    documents: dict[str, str] = {}
    index, asked_for = bundle.first, 0
    try:
        root = RootOf(bundle.first, head.size, node)
        for part in bundle.parts:
            offset = 0
            for line in part.lines():
                root.take(line)
                entry = Entry(part.path, offset, head_of(part.path, offset, line), line)
                if entry.head.index != index:
                    break
                _note(bundle, entry, runs, documents)
                asked_for += bundle.wanted.takes(entry.head)
                offset += len(line)
                index += 1
                if index % 1024 == 0:
                    progress(done + offset, total)
            done += part.length
        if index != bundle.end or root.root() != head.root:
            raise IntegrityRefusal(
                f"{bundle.state / 'audit'}: entries {bundle.first} to {bundle.end - 1} are not those that the "
                f"checkpoint of {head.size} entries covers, or the tiles are not",
                hint=_HINT,
            )
        bundle.beside = hashes_beside(bundle.first, bundle.end, head.size, node)
    except ValueError as error:
        raise IntegrityRefusal(f"{bundle.state / 'tlog'}: {error}", hint=_HINT) from error
    if not asked_for:
        raise ConfigError(
            f"{bundle.state}: has no entries of that period that a checkpoint covers",
            hint=f"those nearest to it are of {bundle.begins} to {bundle.ends}",
        )
    progress(total, total)
    _add_documents(bundle, runs, documents)


def _note(bundle: Bundle, entry: Entry, runs: set[str], documents: dict[str, str]) -> None:
    head = entry.head
    bundle.begins = bundle.begins or head.timestamp
    bundle.ends = head.timestamp
    runs.add(head.run_id)
    if head.action == audit.PROJECTIONS["flags"]:
        bundle.flags += 1
    elif head.action == audit.BATCH_COMMITTED:
        _in_force(bundle, _batch.decode(entry.line).decisions)
    elif head.action == audit.DECISION_RECORDED:
        _in_force(bundle, _decision.decode(entry.line).decisions)
    elif head.action in (audit.RUN_STARTED, audit.RUN_ENDED):
        documents |= {each.file: each.sha256 for each in _documented.decode(entry.line).documents}


def _in_force(bundle: Bundle, decisions: Decisions | None) -> None:
    if decisions is None:
        return
    named = {
        decisions.config: "policy", decisions.contract: "contract", decisions.ruleset: "ruleset",
        decisions.engine: "engine", **{digest: f"list {path}" for path, digest in decisions.lists.items()},
    }  # fmt: skip
    for digest, what in named.items():
        if digest in bundle.in_force:
            continue
        if (bundle.state / "rules" / digest).exists():
            bundle.in_force[digest] = what
        elif (note := f"rules/{digest}, a {what} in force, is missing") not in bundle.notes:
            bundle.notes.append(note)


def _add_documents(bundle: Bundle, runs: set[str], documents: dict[str, str]) -> None:
    files = [path for path in sorted((bundle.state / "runs").glob("run_*.json")) if path.stem[len("run_") :] in runs]
    for path in [*files, *sorted((bundle.state / "reports").glob("*.json"))]:
        name = path.relative_to(bundle.state).as_posix()
        if hashlib.sha256(path.read_bytes()).hexdigest() == documents.get(name):
            bundle.covered.append(name)
            continue
        bundle.uncovered.append(name)
        if name in documents and path.parent.name == "runs":
            bundle.notes.append(f"{name} is not what the log recorded of it: it was changed, or closed anew")


# -- checkpoints ---------------------------------------------------------------------------------------------------


def _add_proofs(bundle: Bundle) -> None:
    """Choose the checkpoints to keep, and link each to the next and the last to the newest."""
    head, files = bundle.newest.head, TreeFiles(bundle.state)
    node = reader(head.size, files.read_tile)
    _add_before(bundle)
    notes = (note for note, _, _ in _notes(files.path / "checkpoints"))
    bundle.taken_over, gone = successions(bundle.state, bundle.log_keys, notes, head.size, node)
    bundle.notes += gone
    bundle.kept = [*_kept(bundle, files), bundle.newest]
    for old, new in zip(bundle.kept[:-1], bundle.kept[1:], strict=True):
        proof = consistency_proof(old.head.size, new.head.size, node)
        if not is_consistent(old.head.size, old.head.root, new.head.size, new.head.root, proof):
            raise IntegrityRefusal(
                f"{files.path / 'checkpoints'}: the checkpoint of {old.head.size} entries is not of this log's tree",
                hint=_HINT,
            )
        bundle.links.append(proof)


def _add_before(bundle: Bundle) -> None:
    """Add what was in force when the period began."""
    if not bundle.first:
        return
    found = governing_before(bundle.state, bundle.parts[0].path)
    if found is None:
        bundle.notes.append("the audit log does not reach back to what was in force at the beginning")
        return
    entry, decisions = found
    bundle.before = entry, proof_of(bundle.state, entry, bundle.newest)
    _in_force(bundle, decisions)


def _kept(bundle: Bundle, files: TreeFiles) -> list[Checkpoint]:
    """Return checkpoints of the period, evenly thinned: the first and the last are among them, the newest is not.

    The one before the period comes first.
    """
    kept: list[Checkpoint] = []
    every, seen, last = 1, 0, None
    before: Checkpoint | None = None
    path = files.path / "checkpoints"
    for note, begin, end in _notes(path):
        found = read_checkpoint(note, (), path)
        if found.head.size <= bundle.first:
            before = found
        if not bundle.first < found.head.size <= bundle.end:
            continue
        bundle.listed = (bundle.listed[0] if bundle.listed[1] else begin, end)
        if (last is not None and found.head.size <= last.head.size) or found.head.size >= bundle.newest.head.size:
            continue  # the same once more, with cosignatures
        last = found
        if seen % every == 0:
            kept.append(found)
            if len(kept) == KEPT:
                kept, every = kept[::2], every * 2
        seen += 1
    if last is not None and kept[-1] is not last:
        kept.append(last)
    if before is not None:
        kept.insert(0, before)  # the end of what the bundle of the time before showed
    checked = [
        read_checkpoint(each.note, [key.verifier for key in bundle.log_keys if key.counts(each.head.size)], path)
        for each in kept
    ]
    return [each for each in checked if each.keys]  # not those of a key that was revoked before


def _notes(path: Path) -> Iterator[tuple[Note, int, int]]:
    """Yield the notes of the file with where each begins and ends, reading a little at a time."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        data, start = b"", 0
        while block := file.read(_BLOCK_BYTES):
            data += block
            found = list(_parsed(data, path))
            begin = 0
            for note, end in found[:-1]:  # the last one may go on in the next block
                yield note, start + begin, start + end
                begin = end
            data, start = data[begin:], start + begin
        begin = 0
        for note, end in _parsed(data, path):
            yield note, start + begin, start + end
            begin = end


def _parsed(data: bytes, path: Path) -> Iterator[tuple[Note, int]]:
    try:
        yield from parse_notes(data)
    except NoteError as error:
        raise IntegrityRefusal(f"{path}: {error}", hint=_HINT) from error
