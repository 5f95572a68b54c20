"""`tidewaiter prove`: a folder that a stranger checks with coreutils and openssl, and that stands no change."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from evidence_rig import KEY, ORIGIN, OTHER_KEY, WITNESS
from proof_rig import Log, blocks, follow, make_log, sum_anew
from support import run_cli
from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.merkle import inclusion_proof, leaf_hash, root_hash, root_of_inclusion
from tidewaiter.core.tlog.notes import Note, parse_note, parse_vkey, signing_key, verified
from tidewaiter.core.tlog.proofs import parse_proof
from tidewaiter.core.tlog.tiles import TileTree
from tidewaiter.edges.lock import StateLock
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.shell import foreign_checks
from tidewaiter.shell.audit_reading import entry_at
from tidewaiter.shell.commands import app
from tidewaiter.shell.log_proofs import RootOf, hashes_beside, newest_checkpoint, proof_of

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.core.tlog.tiles import Tile


def a_flag(log: Log, number: int = 20) -> str:
    """Return the id of a flag in the log."""
    return str(re.findall(rb'"flag_id":"([^"]*)"', log.audit)[number].decode())


def proved(log: Log, flag_id: str, out: Path, *arguments: str) -> Path:
    """Write the folder and return it."""
    done = run_cli("prove", flag_id, "--out", out, "--state-dir", log.state, *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return out


@pytest.fixture(scope="module")
def folder(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The proof of one flag; not to be changed."""
    return proved(log, a_flag(log), tmp_path_factory.mktemp("proof") / "out")


# -- what is in it -------------------------------------------------------------------------------------------------


def test_the_folder_holds_exact_bytes_and_proofs_that_verify(log: Log, folder: Path) -> None:
    """Entry, batch and decision are lines of the log; each proof leads to the root that the log's key signed."""
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "SHA256SUMS", "VERIFY.md", "batch.jsonl", "batch.tlog-proof", "contract.toml", "decision.jsonl",
        "decision.tlog-proof", "engine.txt", "entry.jsonl", "entry.tlog-proof", "lists/1-watched__of_March.txt",
        "log.pem", "log.vkey", "policy.json", "ruleset.toml", "slice.jsonl",
    ]  # fmt: skip
    lines = log.audit.splitlines(keepends=True)
    for name in ("entry", "batch", "decision"):
        line = (folder / f"{name}.jsonl").read_bytes()
        proof = parse_proof((folder / f"{name}.tlog-proof").read_bytes())
        assert lines[proof.index] == line
        note = parse_note(proof.checkpoint)
        assert verified(note, [parse_vkey((folder / "log.vkey").read_text().strip())]) == [KEY.verifier]
        head = parse_tree_head(note.text)
        assert head.origin == ORIGIN
        assert root_of_inclusion(leaf_hash(line), proof.index, head.size, proof.hashes) == head.root
    names = ("entry", "batch", "decision")
    entry, batch, decision = (json.loads((folder / f"{name}.jsonl").read_bytes()) for name in names)
    assert entry["record"]["flag_id"] == a_flag(log)
    assert decision["decisions"] == batch["decisions"]
    assert hashlib.sha256((folder / "slice.jsonl").read_bytes()).hexdigest() == batch["sha256"]
    assert hashlib.sha256((folder / "ruleset.toml").read_bytes()).hexdigest() == batch["decisions"]["ruleset"]
    assert (folder / "lists" / "1-watched__of_March.txt").read_text() == "u1\n"


def test_the_decision_is_the_one_in_force_then(log: Log, tmp_path: Path) -> None:
    """A flag of the first run shows the first rules, a later one the rules that came after."""
    for number, version in ((0, "version = 1"), (-1, "version = 2")):
        out = proved(log, a_flag(log, number), tmp_path / version[-1])
        assert version in (out / "ruleset.toml").read_text()
        decided = json.loads((out / "decision.jsonl").read_bytes())["decisions"]["ruleset"]
        assert decided == hashlib.sha256((out / "ruleset.toml").read_bytes()).hexdigest()


def test_a_stranger_accepts_it(folder: Path, tools: Path) -> None:
    """Following VERIFY.md to the letter, with coreutils and openssl only, in sh and in bash."""
    done = follow(folder, tools)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"checking with {KEY.verifier}" in done.stdout
    assert "all files are as listed" in done.stdout
    assert done.stdout.count("Signature Verified Successfully") == 3
    for text in (
        "entry.jsonl is entry",
        "slice.jsonl is the file that batch",
        "ruleset.toml is the file that decision",
        '"event_id": "e',
    ):
        assert text in done.stdout
    text = (folder / "VERIFY.md").read_text()
    assert all(len(row) <= 130 for row in text.splitlines() if not row.startswith(("|", "holds", "names")))
    commands = " &&\n".join(f"{{\n{block}}}" for block in blocks(folder / "VERIFY.md"))
    assert subprocess.run(["bash", "-c", commands], cwd=folder, capture_output=True, check=False).returncode == 0


def changed(text: bytes, old: bytes, new: bytes) -> bytes:
    """Return the text with its first `old` replaced, which must be there."""
    assert old in text
    return text.replace(old, new, 1)


def flipped(line: bytes) -> bytes:
    """Return the base64 line with another hash in it."""
    raw = base64.b64decode(line)
    return base64.b64encode(bytes([raw[0] ^ 1]) + raw[1:])


EDITS = {
    "entry": ("entry.jsonl", b'"severity":"high"', b'"severity":"low"'),
    "batch": ("batch.jsonl", b'"cause":"batch"', b'"cause":"match"'),
    "decision": ("decision.jsonl", b'"decision":"governing"', b'"decision":"governinG"'),
    "slice": ("slice.jsonl", b'"amount": ', b'"amount": 1'),
    "ruleset": ("ruleset.toml", b'"seen >= 2"', b'"seen >= 1"'),
    "list": ("lists/1-watched__of_March.txt", b"u1", b"u2"),
}


EXCHANGES = {
    "another flag's entry": ("entry", "batch"),
    "an entry that is no batch": ("batch", "entry"),
    "an entry that is no decision": ("decision", "entry"),
    "a batch for the decision": ("decision", "batch"),
}
"""Which entry of the log stands in whose place, with the proof that it is in the log."""


def forge(folder: Path, what: str) -> None:
    """Change one thing, as somebody who wants to deceive does."""
    path = folder / "entry.tlog-proof"
    proof = path.read_bytes().split(b"\n")
    root = proof.index(b"") + 3
    match what:
        case "index":
            proof[1] = b"index %d" % (int(proof[1].split()[1]) ^ 1)
        case "proof":
            proof[2] = flipped(proof[2])
        case "proof shortened":
            del proof[3]
        case "root":
            proof[root] = flipped(proof[root])
        case "signature":
            head, _, blob = proof[-2].rpartition(b" ")
            raw = base64.b64decode(blob)
            proof[-2] = head + b" " + base64.b64encode(raw[:-1] + bytes([raw[-1] ^ 1]))
        case "signatures cut off":
            del proof[-2]
        case "another key's log":
            resign(folder)
            return
        case _ if what in EXCHANGES:
            put, taken = EXCHANGES[what]
            for name in ("jsonl", "tlog-proof"):
                (folder / f"{put}.{name}").write_bytes((folder / f"{taken}.{name}").read_bytes())
            return
        case _:
            name, old, new = EDITS[what]
            (folder / name).write_bytes(changed((folder / name).read_bytes(), old, new))
            return
    path.write_bytes(b"\n".join(proof))


def resign(folder: Path) -> None:
    """Give each proof a tree of one entry of its own, signed with a key of the same name."""
    for path in folder.glob("*.tlog-proof"):
        line = path.with_suffix(".jsonl").read_bytes()
        text = TreeHead(ORIGIN, 1, leaf_hash(line)).text()
        note = Note(text, (OTHER_KEY.sign(text),)).encode()
        path.write_bytes(b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + note)


FORGERIES = [
    "index", "proof", "proof shortened", "root", "signature", "signatures cut off", "another key's log",
    *EXCHANGES,
]  # fmt: skip


@pytest.mark.parametrize("what", [*EDITS, *FORGERIES])
def test_a_stranger_refuses_every_forgery(folder: Path, tools: Path, tmp_path: Path, what: str) -> None:
    """With the sums made up anew as well, so that it is the proof that fails and not the list."""
    forged = tmp_path / "forged"
    subprocess.run(["cp", "-r", os.fspath(folder), os.fspath(forged)], check=True)
    forge(forged, what)
    done = follow(forged, tools)
    assert done.returncode != 0
    assert "FAILED" in done.stdout
    sum_anew(forged)
    done = follow(forged, tools)
    assert done.returncode != 0
    assert "all files are as listed" in done.stdout
    assert "NOT VERIFIED" in done.stderr


def test_the_decision_for_other_rules_is_refused(log: Log, tools: Path, tmp_path: Path) -> None:
    """It is a decision of this log; but what it put into force are not the rules in the folder."""
    early, late = (proved(log, a_flag(log, number), tmp_path / str(number)) for number in (0, -1))
    for name in ("decision.jsonl", "decision.tlog-proof"):
        (late / name).write_bytes((early / name).read_bytes())
    sum_anew(late)
    done = follow(late, tools)
    assert done.returncode != 0
    assert 'decision.jsonl does not say "decisions":' in done.stderr


def test_another_batch_of_the_log_is_refused(log: Log, tools: Path, tmp_path: Path) -> None:
    """Its range is not the one that slice.jsonl holds."""
    early, late = (proved(log, a_flag(log, number), tmp_path / str(number)) for number in (0, -1))
    for name in ("batch.jsonl", "batch.tlog-proof"):
        (late / name).write_bytes((early / name).read_bytes())
    sum_anew(late)
    done = follow(late, tools)
    assert done.returncode != 0
    assert "batch.jsonl does not say" in done.stderr


def test_a_file_that_the_list_does_not_name_is_refused(folder: Path, tools: Path, tmp_path: Path) -> None:
    """Whatever it is called, hidden ones too: nothing vouches for it."""
    for number, name in enumerate(("more.toml", ".hidden", "lists/2-x", "SHA256SUMS.more", "a b")):
        added = tmp_path / str(number)
        subprocess.run(["cp", "-r", os.fspath(folder), os.fspath(added)], check=True)
        (added / name).touch()
        done = follow(added, tools)
        assert done.returncode != 0
        assert f"SHA256SUMS does not list {name}" in done.stderr


def test_the_page_says_what_a_folder_cannot_show(folder: Path) -> None:
    """Windows reach back further than the input in it: deriving the flag again takes the whole stream."""
    text = (folder / "VERIFY.md").read_text()
    assert "tidewaiter replay" not in text
    assert "takes the whole stream: `tidewaiter verify --replay`" in text


def test_a_key_in_the_folder_is_not_taken_for_the_one_held(folder: Path, tools: Path, tmp_path: Path) -> None:
    """A folder that is made up with a key of its own passes only as long as nobody compares the key."""
    forged = tmp_path / "forged"
    subprocess.run(["cp", "-r", os.fspath(folder), os.fspath(forged)], check=True)
    (forged / "log.vkey").write_text(f"{OTHER_KEY.verifier}\n")
    resign(forged)
    functions, _, *rest = blocks(forged / "VERIFY.md")
    assert follow(forged, tools, [functions, *rest]).returncode == 0
    (tmp_path / "held.vkey").write_text(f"{KEY.verifier}\n")
    done = follow(forged, tools, [functions, *rest])
    assert done.returncode != 0
    assert "is not signed by" in done.stderr


# -- which checkpoint ----------------------------------------------------------------------------------------------


def test_a_checkpoint_that_a_witness_signed_is_preferred(own: Log, tools: Path, tmp_path: Path) -> None:
    """As long as it covers the flag; the witness's key checks it with the same function."""
    older = [note for note, _ in TreeFiles(own.state).signed()][1]
    cosigned = Note(older.text, (*older.signatures, WITNESS.sign(older.text, 1_790_000_000)))
    (own.state / "tlog" / "witnessed").write_bytes(cosigned.encode())
    out = proved(own, a_flag(own, 0), tmp_path / "out")
    assert parse_proof((out / "entry.tlog-proof").read_bytes()).checkpoint == cosigned.encode()
    assert "signed by the log and by witness.example/w1" in (out / "VERIFY.md").read_text()
    assert follow(out, tools).returncode == 0
    commands = [*blocks(out / "VERIFY.md"), f"included entry.jsonl entry.tlog-proof '{WITNESS.verifier}'"]
    assert follow(out, tools, commands).returncode == 0
    other = signing_key(WITNESS.name, b"\x0a" * 32, 0x04).verifier
    assert follow(out, tools, [*commands, f"included entry.jsonl entry.tlog-proof '{other}'"]).returncode != 0
    late = proved(own, a_flag(own, -1), tmp_path / "late")
    assert b"witness.example" not in parse_proof((late / "entry.tlog-proof").read_bytes()).checkpoint


def test_a_log_without_a_key_gives_a_proof_that_says_so(tmp_path: Path, tools: Path) -> None:
    """The entry belongs to the tree; who vouches for the root is said: nobody."""
    (tmp_path / "log").mkdir()
    log = make_log(tmp_path / "log", signed=False)
    done = run_cli("prove", a_flag(log), "--out", tmp_path / "out", "--state-dir", log.state)
    assert b"not signed: the log has no key" in done.stdout
    out = tmp_path / "out"
    assert not (out / "log.vkey").exists()
    assert "**This log has no key.**" in (out / "VERIFY.md").read_text()
    assert follow(out, tools).returncode == 0
    forge(out, "entry")
    functions, _, *rest = blocks(out / "VERIFY.md")
    assert "entry.jsonl is not entry" in follow(out, tools, [functions, *rest]).stderr


def test_a_flag_that_no_checkpoint_covers_yet_is_not_proved(own: Log, tmp_path: Path) -> None:
    """Exit 2, and what to wait for."""
    first = next(note for note, _ in TreeFiles(own.state).signed())
    (own.state / "tlog" / "checkpoint").write_bytes(first.encode())
    done = run_cli("prove", a_flag(own, -1), "--out", tmp_path / "out", "--state-dir", own.state)
    assert done.returncode == 2
    assert b"no checkpoint covers entry" in done.stderr
    (own.state / "tlog" / "checkpoint").unlink()
    done = run_cli("prove", a_flag(own), "--out", tmp_path / "out", "--state-dir", own.state)
    assert b"its log has no checkpoint yet" in done.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_is_proved_from_a_log_that_was_changed(own: Log, tmp_path: Path) -> None:
    """Exit 4 for an entry, a tile or a checkpoint that does not fit the others."""
    flag_id = a_flag(own, 0)
    entry = next(path for path in own.segments if flag_id.encode() in path.read_bytes())
    tile = own.state / "tlog" / "tile" / "0" / "000"
    if not tile.exists():
        tile = max((own.state / "tlog" / "tile" / "0" / "000.p").iterdir(), key=lambda path: int(path.name))
    note = own.state / "tlog" / "checkpoint"
    for path, old, new in (
        (entry, b'"severity":"high"', b'"severity":"nigh"'),
        (tile, tile.read_bytes()[:32], b"\0" * 32),
        (note, b"\n%d\n" % newest_checkpoint(own.state, []).head.size, b"\n9\n"),
    ):
        before = path.read_bytes()
        path.write_bytes(changed(before, old, new))
        done = run_cli("prove", flag_id, "--out", tmp_path / "out", "--state-dir", own.state)
        path.write_bytes(before)
        assert done.returncode == 4, (path, done.stdout)
        assert not (tmp_path / "out").exists()
    assert run_cli("prove", flag_id, "--out", tmp_path / "out", "--state-dir", own.state).returncode == 0


# -- what is gone, and who else is there ---------------------------------------------------------------------------


def test_what_is_gone_is_said_and_the_rest_is_proved(own: Log, tools: Path, tmp_path: Path) -> None:
    """Input, archived rules, or the segments with the decision."""
    flag_id = a_flag(own, -1)
    batch = json.loads((proved(own, flag_id, tmp_path / "whole") / "batch.jsonl").read_bytes())
    (own.folder / "events.jsonl").unlink()
    (own.state / "rules" / batch["decisions"]["ruleset"]).unlink()
    decided = max(path for path in own.segments if b'"action":"decision.recorded"' in path.read_bytes())
    for path in own.segments:
        if path <= decided:
            path.unlink()
    out = proved(own, flag_id, tmp_path / "out", "--stream", str(own.folder / "events.jsonl"))
    text = (out / "VERIFY.md").read_text()
    for said in ("without the input: the segment", "without ruleset.toml: ", "does not reach back to the decision"):
        assert said in text
    assert f"`{batch['sha256']}`" in text
    done = follow(out, tools)
    assert done.returncode == 0, done.stderr


def test_a_stream_that_moved_is_found_where_it_is_said_to_be(own: Log, tmp_path: Path) -> None:
    """And where its bytes were changed, they are left out."""
    flag_id = a_flag(own, 0)
    stream = own.folder / "events.jsonl"
    data = stream.read_bytes()
    stream.unlink()
    (own.folder / "moved").mkdir()
    (own.folder / "moved" / "events.jsonl").write_bytes(data)
    out = proved(own, flag_id, tmp_path / "out", "--stream", str(own.folder / "moved" / "events.jsonl"))
    assert (out / "slice.jsonl").read_bytes() in data
    (own.folder / "moved" / "events.jsonl").write_bytes(data.replace(b'"amount": 5.5', b'"amount": 6.5'))
    out = proved(own, flag_id, tmp_path / "changed", "--stream", str(own.folder / "moved" / "events.jsonl"))
    assert not (out / "slice.jsonl").exists()
    assert "were changed since" in (out / "VERIFY.md").read_text()


def test_it_only_reads_and_needs_no_lock(own: Log, tmp_path: Path) -> None:
    """Beside the daemon that holds the lock; the state directory is as it was."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(own.state.rglob("*"))}
    with StateLock(own.state / "lock"):
        proved(own, a_flag(own), tmp_path / "out")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(own.state.rglob("*"))} == before


def test_what_cannot_be_done_is_one_line(log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2: no such flag, no such state directory, a directory that is in use."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    flag_id = a_flag(log)
    for which, out, state, said in (
        ("nope", "out", log.state, "there is no flag nope"),
        (flag_id.partition(":")[0], "out", log.state, f"flags of this event: {flag_id}"),
        (flag_id, "full", log.state, "is not empty"),
        (flag_id, "out", tmp_path / "gone", "there is no such state directory"),
    ):
        assert app.main(["prove", which, "--out", str(tmp_path / out), "--state-dir", str(state)]) == 2
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.err.count("\n") == 1


# -- the parts -----------------------------------------------------------------------------------------------------


def test_a_proof_reads_a_handful_of_tiles(own: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a tree of a hundred thousand entries: its own path and the right edge, and each once."""
    entry = entry_at(own.state, 3)
    tree = TileTree()
    hashes = [leaf_hash(b"%d\n" % number) for number in range(100_000)]
    hashes[3] = leaf_hash(entry.line)
    tiles: dict[Tile, bytes] = dict(tree.extend(hashes))
    tiles |= dict(tree.edge())
    asked: list[Tile] = []

    def read(_files: TreeFiles, tile: Tile) -> bytes:
        asked.append(tile)
        return tiles[tile]

    monkeypatch.setattr(TreeFiles, "read_tile", read)
    text = TreeHead(ORIGIN, tree.size, tree.root()).text()
    (own.state / "tlog" / "checkpoint").write_bytes(Note(text, (KEY.sign(text),)).encode())
    proof = proof_of(own.state, entry, newest_checkpoint(own.state, [KEY.verifier]))
    assert root_of_inclusion(hashes[3], 3, tree.size, proof.hashes) == tree.root()
    assert len(asked) == len(set(asked)) <= 6


@pytest.mark.parametrize(
    ("first", "end", "size"), [(0, 1, 1), (0, 7, 7), (3, 4, 9), (5, 8, 13), (6, 11, 11), (8, 16, 21)]
)
def test_a_stretch_of_entries_leads_to_the_root(
    log: Log, tools: Path, tmp_path: Path, first: int, end: int, size: int
) -> None:
    """With the hashes beside it: in Python as in the shell function of the page, in trees of every shape."""
    lines = log.audit.splitlines(keepends=True)[:size]
    levels = [[leaf_hash(text) for text in lines]]
    while len(levels[-1]) > 1:
        pairs = zip(levels[-1][::2], levels[-1][1::2], strict=False)
        levels.append([hashlib.sha256(b"\1" + left + right).digest() for left, right in pairs])

    def node(level: int, index: int) -> bytes:
        return levels[level][index]

    root = root_hash(size, node)
    given = RootOf(first, size, node)
    for text in lines[first:end]:
        given.take(text)
    assert given.root() == root
    left, right = hashes_beside(first, end, size, node)
    if end == first + 1:
        assert len(left) + len(right) == len(inclusion_proof(first, size, node))
    (tmp_path / "range").mkdir()
    for name, hashes in (("left", left), ("right", right)):
        (tmp_path / "range" / name).write_bytes(b"".join(base64.b64encode(each) + b"\n" for each in hashes))
    (tmp_path / "entries").write_bytes(b"".join(lines[first:end]))
    commands = [foreign_checks.BASICS, foreign_checks.ROOT, f"root {first} {end} {size} <entries"]
    done = follow(tmp_path, tools, commands)
    assert done.stdout.strip() == base64.b64encode(root).decode(), done.stderr
