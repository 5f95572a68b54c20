"""``tidewaiter verify``: what the state directory claims, checked against itself and against what is held outside.

Owns: the order of the checks, and what their findings mean together (`Verdict`). Leaves each check to its room: the log
(`verify_log`), its tree (`verify_tree`), whose word it is (`verify_trust`), the files beside it (`verify_files`), the
input (`verify_input`), the flags derived again (`verify_replay`), and the table (`verify_table`). Reads only, takes no
lock, and works beside a running daemon: what it writes after the beginning is no part of the verification.

Order: what can only be behind the audit log is looked at first, then the log up to where it ends at that moment, then
everything else is compared with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from tidewaiter.core.audit import MAX_ENTRY_BYTES, SEGMENT_OPENED, read_head
from tidewaiter.core.errors import EXIT_CLEAN, EXIT_INTEGRITY, EXIT_UNANCHORED, EXIT_UNDECIDABLE, ConfigError
from tidewaiter.core.key_decisions import REVOKED
from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.notes import NoteError, verified
from tidewaiter.edges.lock import probe
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.shell.state_owner import read_owner, refuse_no_state
from tidewaiter.shell.verify_files import Beside
from tidewaiter.shell.verify_findings import MISSING, TAMPERED, Finding, Findings
from tidewaiter.shell.verify_input import InputRanges
from tidewaiter.shell.verify_lineage import LineageCheck
from tidewaiter.shell.verify_log import AuditFile, Collector, LogPass, pin
from tidewaiter.shell.verify_replay import Timeline, check_replay
from tidewaiter.shell.verify_table import Row, table
from tidewaiter.shell.verify_tree import TreeResult, TreeTask, begin_tree
from tidewaiter.shell.verify_trust import Anchors, Checkpoints, Given, compare_head, read_vkey, refuse_own

if TYPE_CHECKING:
    from tidewaiter.core.audit import BatchCommitted, Decision, KeyRecorded

_SEGMENT: Final = re.compile(r"audit-[0-9]{20}\.jsonl")


@dataclass(frozen=True)
class Wanted:
    """What to verify. `since` and `until` (UTC text, may be empty) choose the batches whose input is hashed."""

    state: Path
    stream: Path | None
    given: Given
    since: str = ""
    until: str = ""
    replay: bool = False


class Verdict(Struct, frozen=True):
    """What came of it. `log` is the log's name, `head` the root (hex) over all `entries`, None where it is unknown."""

    exit_status: int
    verdict: str
    state: str
    log: str
    entries: int
    head: str | None
    audit_bytes: int
    input_bytes: int
    signed: int | None
    anchored: int | None
    findings: list[Finding]
    unlisted: int
    first: Finding | None
    table: list[Row]
    notes: list[str]


class Watcher(Protocol):
    """Is told how far the work is."""

    def add(self, phase: str, done: int, total: int) -> None:
        """`done` more bytes of `total` of a phase are done."""


def verify(wanted: Wanted, watcher: Watcher) -> Verdict:
    """Verify a state directory. Raises ConfigError where there is none, or where it cannot be read at all."""
    state = wanted.state
    if not state.is_dir():
        raise ConfigError(f"{state}: there is no such state directory", hint="name it with --state-dir")
    try:
        refuse_no_state(state)
        refuse_own(wanted.given, state)
        return _Verification(wanted, watcher).run()
    except OSError as error:
        raise ConfigError(
            f"{error.filename or state}: cannot be read: {error.strerror}",
            hint="run this as a member of the file's group",
        ) from error


def verify_file(path: Path, given: Given, watcher: Watcher) -> Verdict:
    """Verify an audit log that is one file, such as `tidewaiter.AuditLogger` writes. Raises ConfigError."""
    findings = Findings()
    try:
        file = AuditFile(path, path.stat().st_size, _first_of(path))
        log = LogPass([file], findings, stops=(), collector=_told(watcher, file.size), named=False)
        log.run()
        held = _head_of(given)
        sizes = [] if held is None else [held.size]
        tree = begin_tree(TreeTask(None, [file], sizes, 0))() if not file.first else TreeResult(findings)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint="name an audit file") from error
    if log.torn:
        findings.note(f"{path}: {len(log.torn)} bytes behind the last whole entry are ignored")
    if file.first:
        what = f"begins with entry {file.first}: those before stand in other files, verify the directory as a whole"
        findings.missing("chain", what, path, index=file.first)
    _note_segment(path, given, findings)
    anchors = Anchors(log.index, given=["since"] if held is not None else [], alone=True)
    anchors.held = _held(given, tree, findings, log.keys)
    return _verdict(str(path), log, tree, anchors, findings, file.size, 0)


def _first_of(path: Path) -> int:
    """Return the index of the first entry. Raises ConfigError for a file that is no audit log at all.

    One that begins with anything else, but goes on as an audit log, was changed at its beginning: it begins at 0.
    """
    with path.open("rb") as file:
        first, second = (read_head(file.readline(MAX_ENTRY_BYTES + 1)) for _ in range(2))
    if first is None and second is None:
        raise ConfigError(
            f"{path}: is no audit log: neither of its first lines is an audit entry", hint="name an audit file"
        )
    return first.index if first is not None and first.action == SEGMENT_OPENED else 0


def _note_segment(path: Path, given: Given, findings: Findings) -> None:
    """Say what verifying a file alone cannot do."""
    if given.log_keys and given.since is None:
        findings.note(
            "--key and --policy are of no use here: a file alone holds no checkpoint that they could vouch for"
        )
    if _SEGMENT.fullmatch(path.name):
        findings.note(
            f"{path} is a segment of a daemon's log; its checkpoints stand beside it. Verify the directory instead: "
            f"tidewaiter verify --state-dir {path.parent.parent} --key VKEY"
        )


class _Verification:
    def __init__(self, wanted: Wanted, watcher: Watcher) -> None:
        self.wanted, self.watcher = wanted, watcher
        self.findings = Findings()
        self.timeline = Timeline()
        self.ranges = InputRanges(self.findings, wanted.since, wanted.until)

    def run(self) -> Verdict:
        state, findings, given = self.wanted.state, self.findings, self.wanted.given
        alive = probe(state / "lock") is not None
        beside = Beside(state, findings, alive=alive)
        lineage = LineageCheck(state, findings)
        checkpoints = Checkpoints(TreeFiles(state), findings)
        files = pin(state)
        held = _head_of(given)
        sizes = checkpoints.sizes | {checkpoints.size}
        total = sum(file.size for file in files)
        keeps_tiles = state if (state / "tlog").is_dir() else None
        heads = sizes if held is None else sizes | {held.size}
        result = begin_tree(TreeTask(keeps_tiles, files, sorted(heads), checkpoints.size))
        stops = beside.stops | (sizes | {size + 1 for size in sizes} if given.policy is not None else set())
        collector = _told(self.watcher, total)
        collector.batch, collector.decision, collector.lineage = self._batch, self._decision, lineage.take
        log = LogPass(files, findings, stops=stops, projections=beside.projections(), collector=collector)
        log.run()
        stream = self._stream()
        done = self.ranges.bytes
        # before the tree is waited for, which another process still computes
        self.ranges.check(stream, log.ledger.closed, lambda count: self.watcher.add("input", count, done))
        tree = result()
        for each in tree.findings.listed:
            findings.take(each)
        for note in tree.findings.notes:
            findings.note(note)
        anchors = self._trust(checkpoints, log, tree)
        beside.judge(log, files)
        lineage.finish(log)
        if log.first:
            what = f"entries 0 to {log.first - 1} are gone: older audit segments were removed"
            findings.missing("chain", what, state / "audit", index=0)
        if log.torn and not alive:
            findings.note(
                f"{len(log.torn)} bytes behind the last whole entry are what a crash left; the next start cuts them"
            )
        if self.wanted.replay:
            self._replay(log, stream)
        return _verdict(str(state), log, tree, anchors, findings, total, self.ranges.bytes, alive=alive)

    def _batch(self, batch: BatchCommitted, index: int, time: str) -> None:
        self.ranges.add(batch, index, time)
        if self.wanted.replay:
            self.timeline.batch(batch, index, time)

    def _decision(self, decision: Decision, index: int) -> None:
        if self.wanted.replay:
            self.timeline.decision(decision, index)

    def _trust(self, checkpoints: Checkpoints, log: LogPass, tree: TreeResult) -> Anchors:
        given, findings, origin = self.wanted.given, self.findings, log.ledger.origin
        checkpoints.compare(tree, origin)
        complete = log.first == 0
        if complete:
            checkpoints.check_unsigned(log.keys)
        checkpoints.verify(given, [key.vkey for key in log.ledger.keys], tree.roots, complete=complete)
        anchors = checkpoints.anchor(given, log.keys, log.index, _held(given, tree, findings, log.keys))
        checkpoints.check_cosigned_times(log.stops)
        pinned = {str(key) for key in given.log_keys if key.name == origin}
        excused = {record.vkey for _, record in log.keys if record.decision == REVOKED}
        for key in log.ledger.keys:  # the newest key may have to wait for a restart before it signs
            if key is log.ledger.keys[-1] or key.from_index >= checkpoints.size:
                excused.add(key.vkey)
        if given.log_keys and not pinned:
            findings.tampered(
                "signatures", "the log's name is not that of the pinned key", checkpoints.path,
                expected=" or ".join(sorted({key.name for key in given.log_keys})), found=origin,
            )  # fmt: skip
        elif pinned & excused and not anchors.vouched and checkpoints.newest is not None:
            findings.note("the log names the pinned key, but no checkpoint that counts is signed by it (yet)")
        elif pinned and not anchors.vouched and complete and checkpoints.newest is not None:
            findings.tampered(
                "signatures", "no checkpoint of this log is signed by the pinned key: the key was exchanged, the "
                "signatures were removed, or another key was pinned", checkpoints.path / "checkpoint",
                expected=" or ".join(sorted(pinned)), found=_named(checkpoints),
            )  # fmt: skip
        if origin and checkpoints.newest is None:
            what = "is missing: it was removed, or none was written yet"
            if log.keys:
                findings.note("the log names a key, but its checkpoints are gone: no signature stands for it")
            findings.missing("checkpoints", what, checkpoints.path / "checkpoint")
        return anchors

    def _stream(self) -> Path | None:
        owner = read_owner(self.wanted.state)
        return Path(owner.path) if self.wanted.stream is None and owner is not None else self.wanted.stream

    def _replay(self, log: LogPass, stream: Path | None) -> None:
        if any(each.check == "archive" for each in self.findings.listed):
            self.findings.note("nothing was derived again: the archived rules are not all as they were")
            return
        reached = 0

        def alive(offset: int) -> None:
            nonlocal reached
            self.watcher.add("replay", offset - reached, log.ledger.global_offset)
            reached = offset

        check_replay(self.wanted.state, stream, log.ledger, self.timeline, self.findings, alive)


def _told(watcher: Watcher, total: int) -> Collector:
    return Collector(progress=lambda count: watcher.add("audit log", count, total))


def _head_of(given: Given) -> TreeHead | None:
    return None if given.since is None else parse_tree_head(given.since.text)


def _held(given: Given, tree: TreeResult, findings: Findings, keys: list[tuple[int, KeyRecorded]]) -> int | None:
    """Return how far the held checkpoint stands for the log: its size, where the log continues it and it is signed."""
    head = _head_of(given)
    if head is None or given.since is None or not compare_head(head, tree, findings, given.since_file, 0):
        return None
    # what the held root covers names the log's keys as surely as the root itself
    named = {read_vkey(record.vkey) for index, record in keys if index < head.size}
    vouched = {key for key in named if key is not None} | given.log_keys
    try:
        signed = bool(verified(given.since, vouched)) or (
            given.policy is not None and given.policy.quorum is not None and given.policy.judge(given.since).quorum
        )
    except NoteError as error:
        raise ConfigError(
            f"{given.since_file}: {error}", hint="this copy of the checkpoint was changed; use another"
        ) from error
    if not signed:
        findings.note(
            f"{given.since_file}: the log continues it, but no key of the log, and none that was given, signed it: it "
            "anchors nothing"
        )
        return None
    return head.size


def _anchored(log: LogPass, anchors: Anchors, findings: Findings, *, alive: bool) -> tuple[int, str]:
    """Return the exit code and the verdict's words for a log in which nothing contradicts."""
    reach = anchors.outside or 0
    how_far = f"up to entry {reach - 1:,} of {log.index - 1:,}"
    if reach and reach >= log.index:
        return EXIT_CLEAN, f"intact, and anchored outside {how_far}"
    if reach and alive and log.recent is not None and log.recent <= reach:  # the next checkpoint is due
        return EXIT_CLEAN, f"intact, and anchored outside {how_far}: the daemon has just written the others"
    if anchors.given and (anchors.covered or anchors.alone) and not findings.count(TAMPERED):
        _note_unanchored(log, anchors, findings)
    if not reach:
        return EXIT_UNANCHORED, "intact, but not anchored outside"
    return EXIT_UNANCHORED, f"intact, but anchored outside only {how_far}"


def _note_unanchored(log: LogPass, anchors: Anchors, findings: Findings) -> None:
    """Say of the entries that nothing outside stands for what does stand for them."""
    reach, covered, last = anchors.outside or 0, anchors.covered, log.index - 1
    if reach < covered:
        by = "which no key signed that you gave, or that what you gave vouches for"
        if (anchors.signed or 0) < covered:
            by = "without a signature that counts"
        elif "policy" in anchors.given and (anchors.signed or 0) > reach:
            by = "which the policy's witnesses have not cosigned, or whose key it does not name"
        findings.note(f"{_entries(reach, covered - 1)} not anchored: under a checkpoint {by}")
    if covered <= last:
        why = "behind every checkpoint: left by a crash or an operator's command, or appended by somebody else"
        if anchors.alone:
            why = "behind the held checkpoint" if reach else "nothing that was given stands for this file"
        findings.note(f"{_entries(max(covered, reach), last)} not anchored: {why}")


def _entries(first: int, last: int) -> str:
    return f"entry {first:,} is" if first == last else f"entries {first:,} to {last:,} are"


def _named(checkpoints: Checkpoints) -> str:
    names = {f"{each.name}+{each.key_id.hex()}" for one in checkpoints.signed for each in one.note.signatures}
    return ", ".join(sorted(names)) or "no signature"


def _verdict(
    state: str,
    log: LogPass,
    tree: TreeResult,
    anchors: Anchors,
    findings: Findings,
    audit_bytes: int,
    input_bytes: int,
    *,
    alive: bool = False,
) -> Verdict:
    """`alive`: a daemon works in the directory."""
    if anchors.signed is None and not log.keys and not anchors.alone:
        findings.note("the log is not signed")
    status, words = _anchored(log, anchors, findings, alive=alive)
    if findings.count(MISSING):
        status, words = EXIT_UNDECIDABLE, "undecidable: files are missing"
    if findings.count(TAMPERED):
        status, words = EXIT_INTEGRITY, "TAMPERED"
    return Verdict(
        exit_status=status,
        verdict=words,
        state=state,
        log=log.ledger.origin,
        entries=log.index,
        head=None if tree.root is None else tree.root.hex(),
        audit_bytes=audit_bytes,
        input_bytes=input_bytes,
        signed=anchors.signed,
        anchored=anchors.outside,
        findings=findings.ordered,
        unlisted=findings.unlisted,
        first=findings.first,
        table=table(anchors),
        notes=findings.notes,
    )
