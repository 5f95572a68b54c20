"""`tidewaiter bundle`: one file for an examiner, the same bytes each time, checked with coreutils and openssl alone."""

from __future__ import annotations

import base64
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import zipfile
from typing import TYPE_CHECKING, BinaryIO

import pytest

from evidence_rig import KEY, ORIGIN, WITNESS
from proof_rig import Log, blocks, bundled, follow, make_log
from rigs.tree import root_of
from support import REPOSITORY, run_cli, started_cli, wait_until
from tidewaiter.core import audit
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.merkle import inclusion_proof, is_consistent, leaf_hash, root_of_inclusion
from tidewaiter.core.tlog.notes import Note, parse_note, parse_notes
from tidewaiter.core.tlog.tiles import reader
from tidewaiter.edges.lock import StateLock
from tidewaiter.edges.tree_files import TreeFiles
from tidewaiter.shell import bundle as bundling
from tidewaiter.shell import bundle_file
from tidewaiter.shell.audit_reading import Wanted
from tidewaiter.shell.new_file import new_file

if TYPE_CHECKING:
    from pathlib import Path


# -- what is in it -------------------------------------------------------------------------------------------------


def test_a_bundle_holds_the_log_and_all_that_explains_it(log: Log, unpacked: Path) -> None:
    """Exact segments, the flags in them, checkpoints, rules of both decisions, run logs and report, keys, sums."""
    assert b"".join(path.read_bytes() for path in sorted((unpacked / "audit").iterdir())) == log.audit
    assert {path.name for path in (unpacked / "audit").iterdir()} == {path.name for path in log.segments}
    parts = [*sorted(log.state.glob("flags-*.jsonl")), log.state / "flags.jsonl"]
    assert (unpacked / "flags.jsonl").read_bytes() == b"".join(path.read_bytes() for path in parts)
    assert (unpacked / "checkpoint").read_bytes() == (log.state / "tlog" / "checkpoint").read_bytes()
    assert (unpacked / "checkpoints").read_bytes() == (log.state / "tlog" / "checkpoints").read_bytes()
    named = set(re.findall(rb'"(?:config|contract|ruleset|engine|watched, of March.txt)":"([0-9a-f]{64})"', log.audit))
    assert {path.name.encode() for path in (unpacked / "rules").iterdir()} == named
    assert len(list((unpacked / "runs").iterdir())) == 3
    assert (unpacked / "reports" / "validation_report.json").exists()
    assert (unpacked / "log.vkey").read_text() == f"{KEY.verifier}\n"
    listed = {row.split("  ", 1)[1] for row in (unpacked / "SHA256SUMS").read_text().splitlines()}
    there = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert there - listed == {"SHA256SUMS", "SHA256SUMS.sig"}
    assert len((unpacked / "SHA256SUMS.sig").read_bytes()) == 64


def test_proofs_lead_from_each_kept_checkpoint_to_the_next(unpacked: Path) -> None:
    """And the last one is the newest; each file names its sizes."""
    kept = [parse_note(path.read_bytes()) for path in sorted((unpacked / "kept").iterdir())]
    heads = [parse_tree_head(note.text) for note in kept]
    assert len(heads) >= 3
    assert (unpacked / "checkpoint").read_bytes() == kept[-1].encode()
    for old, new in itertools.pairwise(heads):
        text = (unpacked / "consistency" / f"{old.size:020d}-{new.size:020d}").read_text().splitlines()
        assert text[:2] == ["consistency", f"{old.size} {new.size}"]
        assert is_consistent(old.size, old.root, new.size, new.root, [base64.b64decode(row) for row in text[2:]])


def test_the_tiles_make_a_proof_for_every_entry(log: Log, tmp_path: Path) -> None:
    """For those of a period in the middle too, by nothing but the tiles in the bundle."""
    begin, end = middle(log)
    unpacked = bundled(log, tmp_path / "part.zip", "--from", begin, "--to", end)
    head = parse_tree_head(parse_note((unpacked / "checkpoint").read_bytes()).text)
    node = reader(head.size, lambda tile: (unpacked / tile.path).read_bytes())
    lines = b"".join(path.read_bytes() for path in sorted((unpacked / "audit").iterdir())).splitlines(keepends=True)
    first = json.loads(lines[0])["index"]
    assert 0 < first < first + len(lines) < head.size
    for index, line in enumerate(lines, first):
        proof = inclusion_proof(index, head.size, node)
        assert root_of_inclusion(leaf_hash(line), index, head.size, proof) == head.root


def middle(log: Log) -> tuple[str, str]:
    """Return a period that leaves out the first and the last segments."""
    times = [json.loads(path.read_bytes().split(b"\n", 1)[0])["timestamp"] for path in log.segments]
    at = len(times) // 2
    return times[at], times[at + 1]


def test_a_stranger_accepts_it(unpacked: Path, tools: Path) -> None:
    """Following VERIFY.md to the letter, with coreutils and openssl only."""
    done = follow(unpacked, tools)
    assert (done.returncode, done.stderr) == (0, "")
    for text in (
        f"checking with {KEY.verifier}", "all files are as listed", "entries 0 to ", "checkpoints are of one log",
        "rules, run logs and flags are those that the entries name",
    ):  # fmt: skip
        assert text in done.stdout
    assert all(
        len(row) <= 130 for row in (unpacked / "VERIFY.md").read_text().splitlines() if not row.startswith("for ")
    )


def test_a_period_in_the_middle_is_accepted_as_well(log: Log, tools: Path, tmp_path: Path) -> None:
    """Whole segments; the hashes beside them lead to the newest checkpoint, and an older one in it is recomputed."""
    begin, end = middle(log)
    unpacked = bundled(log, tmp_path / "part.zip", "--from", begin, "--to", end)
    names = {path.name for path in (unpacked / "audit").iterdir()}
    assert names < {path.name for path in log.segments}
    done = follow(unpacked, tools)
    assert (done.returncode, done.stderr) == (0, "")
    first = min(int(name[6:-6]) for name in names)
    size = first + 7
    lines = log.audit.splitlines(keepends=True)
    expected = base64.b64encode(root_of([hashlib.sha256(b"\0" + line).digest() for line in lines[:size]])).decode()
    commands = [blocks(unpacked / "VERIFY.md")[0], f"cat audit/* | head -n {size - first} | root {first} {size} {size}"]
    assert follow(unpacked, tools, commands).stdout.strip() == expected


def test_every_time_gives_the_segments_that_reach_into_it(log: Log, tmp_path: Path) -> None:
    """No entry of the period is left out, whatever its bounds; a period without entries is exit 2."""
    entries = [json.loads(text) for text in log.audit.splitlines()]
    for number, (begin, end) in enumerate(((3, 9), (4, 11), (0, 5), (len(entries) - 2, len(entries) - 1))):
        times = entries[begin]["timestamp"], entries[end]["timestamp"]
        unpacked = bundled(log, tmp_path / f"{number}.zip", "--from", times[0], "--to", times[1])
        held = b"".join(path.read_bytes() for path in sorted((unpacked / "audit").iterdir()))
        indices = {json.loads(text)["index"] for text in held.splitlines()}
        assert indices >= {each["index"] for each in entries if times[0] <= each["timestamp"] < times[1]}
        assert f"| asked for | from {times[0]} to before {times[1]};" in (unpacked / "VERIFY.md").read_text()
    for period, said in (
        (("--to", "2000-01-01"), b"has no entries of that period"),
        (("--from", "2100-01-01"), b"has no entries of that period"),
        (("--from", "2026-03-02", "--to", "2026-03-01"), b"is not before --to"),
    ):
        done = run_cli("bundle", "--out", tmp_path / "none.zip", "--state-dir", log.state, *period)
        assert done.returncode == 2
        assert said in done.stderr
        assert not (tmp_path / "none.zip").exists()


def examiners_blocks() -> list[str]:
    """Return the commands of the examiner's page: unpack, key, compare, case, keep."""
    page = (REPOSITORY / "systemd" / "README.md").read_text(encoding="utf-8")
    section = page.split("## Checking a bundle in ten minutes\n", 1)[1].split("\n## ", 1)[0]
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    found: list[str] = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    found[1] = re.sub("echo '[^']*'", f"echo '{KEY.verifier}'", found[1], count=1)
    found[3] = found[3].replace("less", "cat")
    return found


def test_the_examiners_page_holds(log: Log, unpacked: Path, tmp_path: Path) -> None:
    """Each command of it, in order, with the key and the checkpoint of an earlier visit that an examiner has."""
    unpack, key, compare, case, keep = examiners_blocks()
    shutil.copy(unpacked.with_suffix(".zip"), tmp_path / "march.zip")
    held = parse_tree_head(next(TreeFiles(log.state).signed())[0].text)
    compare = compare.replace("48213", str(held.size))
    commands = [unpack, key, *blocks(unpacked / "VERIFY.md"), compare, case, keep]
    done = follow(tmp_path, tmp_path / "bin", commands, everything=True)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert "the same key" in said
    assert "rules, run logs and flags are those that the entries name" in said
    assert base64.b64encode(held.root).decode() in said
    assert "\n".join(said[-3:]) == "\n".join((unpacked / "checkpoint").read_text().splitlines()[:3])


def test_the_examiners_page_holds_without_a_key_and_without_a_report(tmp_path: Path) -> None:
    """A log that is not signed, bundled before there is a report: no command fails, and what is missing is said."""
    (tmp_path / "log").mkdir()
    log = make_log(tmp_path / "log", signed=False)
    shutil.rmtree(log.state / "reports")
    unpacked = bundled(log, tmp_path / "march.zip")
    unpack, key, compare, case, keep = examiners_blocks()
    compare = compare.replace("48213", "9")
    commands = [unpack, key, *blocks(unpacked / "VERIFY.md"), compare, case, keep]
    done = follow(tmp_path, tmp_path / "bin", commands, everything=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the log is not signed" in done.stdout
    assert "there is no report" in done.stdout


# -- how it is made ------------------------------------------------------------------------------------------------


def test_the_same_evidence_gives_the_same_bytes(log: Log, unpacked: Path, tmp_path: Path) -> None:
    """Whenever it is made; the names are sorted, the times are that of the last entry."""
    bundled(log, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == unpacked.with_suffix(".zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(archive.namelist())
        last = json.loads(log.audit.splitlines()[-1])["timestamp"]
        assert {info.date_time[:5] for info in archive.infolist()} == {tuple(map(int, re.split("[-T:]", last[:16])))}


def test_it_works_beside_the_daemon_and_ends_at_a_checkpoint(own: Log, tools: Path, tmp_path: Path) -> None:
    """What no checkpoint covers yet is left out; a torn line is no hindrance."""
    whole = own.audit
    chain = audit.Chain(json.loads(whole.splitlines()[-1])["index"] + 1, "0" * 64)
    more = chain.entry(audit.EntryContext("2026-12-01T00:00:00.000000Z", "run", "daemon"), "audit.idle")
    with own.segments[-1].open("ab") as file, StateLock(own.state / "lock"):
        file.write(more + more[:50])
        file.flush()
        unpacked = bundled(own, tmp_path / "x.zip")
    assert b"".join(path.read_bytes() for path in sorted((unpacked / "audit").iterdir())) == whole
    assert follow(unpacked, tools).returncode == 0


def test_a_running_daemon_is_not_in_the_way(own: Log, tools: Path, tmp_path: Path) -> None:
    """A bundle of a live log verifies like any other."""
    with started_cli("run", "--config", own.config, cwd=own.folder):
        wait_until(lambda: b"run.started" in own.audit.splitlines()[-1] or own.audit.count(b"run.started") == 4)
        tree = TreeFiles(own.state)
        wait_until(lambda: (head := tree.head()) is not None and head.size >= own.audit.count(b"\n"))
        unpacked = bundled(own, tmp_path / "x.zip")
    assert follow(unpacked, tools).returncode == 0


def test_nothing_is_bundled_from_a_log_that_was_changed(own: Log, tmp_path: Path) -> None:
    """Exit 4 for an entry, a missing end, a tile or a checkpoint that does not fit the others; nothing is left."""
    size = 8192
    tiles = [path for path in (own.state / "tlog" / "tile").rglob("*") if path.is_file()]
    tile = max(tiles, key=lambda path: (path.parent.name, int(path.name)))
    last = own.segments[-1]
    first = own.segments[0].read_bytes()
    notes = own.state / "tlog" / "checkpoints"
    old = next(parse_notes(notes.read_bytes()))[0]
    text = TreeHead(ORIGIN, parse_tree_head(old.text).size, b"\1" * 32).text()
    other = Note(text, (KEY.sign(text),)).encode()
    for path, changed in (
        (own.segments[0], first.replace(b'"level":"info"', b'"level":"inf0"', 1)),
        (last, last.read_bytes()[: -len(last.read_bytes().splitlines(keepends=True)[-1])]),
        (notes, other + notes.read_bytes()[len(old.encode()) :]),
    ):
        before = path.read_bytes()
        path.write_bytes(changed)
        done = run_cli("bundle", "--out", tmp_path / "x.zip", "--state-dir", own.state)
        path.write_bytes(before)
        assert done.returncode == 4, (path, done.stdout, done.stderr)
        assert not list(tmp_path.glob("*.zip"))
        assert not list(tmp_path.glob(".*"))
    assert tile.stat().st_size < size
    assert run_cli("bundle", "--out", tmp_path / "x.zip", "--state-dir", own.state).returncode == 0


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an error nothing is left, and what was there is not overwritten."""
    target = tmp_path / "x.zip"

    def filling(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(ConfigError, match="No space left on device: free some space"),
        new_file(target, "--out") as file,
    ):
        filling(file)
    assert not list(tmp_path.iterdir())
    target.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is there already"), new_file(target, "--out"):
        pass
    assert target.read_bytes() == b"mine"
    with (
        pytest.raises(ConfigError, match="there is no directory"),
        new_file(tmp_path / "gone" / "x", "--out"),
    ):
        pass


def test_many_checkpoints_are_thinned_and_all_are_there(
    own: Log, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded number is linked by proofs, the first and the last among them; the list has every one."""
    monkeypatch.setattr(bundling, "KEPT", 4)
    monkeypatch.setattr(bundling, "_BLOCK_BYTES", 100)
    lines = own.audit.splitlines(keepends=True)
    hashes = [hashlib.sha256(b"\0" + line).digest() for line in lines]
    notes = []
    for size in range(1, len(lines) + 1):
        text = TreeHead(ORIGIN, size, root_of(hashes[:size])).text()
        notes.append(Note(text, (KEY.sign(text),)).encode())
    (own.state / "tlog" / "checkpoints").write_bytes(b"".join(notes) + notes[0][:30])
    made = bundling.gather(own.state, Wanted(), lambda _done, _total: None)
    sizes = [each.head.size for each in made.kept]
    assert len(sizes) <= 6
    assert sizes[0] == 1
    assert sizes[-2:] == [len(lines) - 1, len(lines)]
    assert sizes == sorted(set(sizes))
    assert made.listed == (0, sum(map(len, notes)))


def test_checkpoints_are_read_in_blocks_of_any_size(own: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block may end between two signatures of one note, and the file in a torn one."""
    path = own.state / "tlog" / "checkpoints"
    notes = [note for note, _ in parse_notes(path.read_bytes())]
    cosigned = [Note(note.text, (*note.signatures, WITNESS.sign(note.text, 1_790_000_000))) for note in notes]
    data = b"".join(note.encode() for note in cosigned)
    path.write_bytes(data + cosigned[0].encode()[:-20])
    for size in range(1, len(data), 7):
        monkeypatch.setattr(bundling, "_BLOCK_BYTES", size)
        found = list(bundling._notes(path))
        assert [note for note, _, _ in found] == cosigned
        assert b"".join(data[begin:end] for _, begin, end in found) == data


def test_missing_rules_and_changed_run_logs_are_said(own: Log, tmp_path: Path) -> None:
    """The bundle is made all the same: what is missing is no reason to hide the rest."""
    rule = next(path for path in (own.state / "rules").iterdir() if b"seen >= 2" in path.read_bytes())
    rule.unlink()
    run = min((own.state / "runs").iterdir())
    run.write_bytes(run.read_bytes().replace(b"success", b"Success"))
    unpacked = bundled(own, tmp_path / "x.zip")
    text = (unpacked / "VERIFY.md").read_text()
    assert f"rules/{rule.name}, a ruleset in force, is missing" in text
    assert f"runs/{run.name} is not what the log recorded of it" in text


def test_the_zip_is_made_without_holding_it_in_memory(log: Log, tmp_path: Path) -> None:
    """Segments pass through in blocks: nothing larger than a block is ever asked for."""
    path = tmp_path / "segment"
    path.write_bytes(b"x" * (3 * bundle_file._BLOCK_BYTES + 5))
    sizes = [len(block) for block in bundle_file._stretch(path, 2, path.stat().st_size)]
    assert max(sizes) <= bundle_file._BLOCK_BYTES
    assert sum(sizes) == path.stat().st_size - 2
