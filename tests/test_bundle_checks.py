"""A bundle in the hands of a stranger: each forgery is refused, whoever signed, and what is not signed is said."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from evidence_rig import KEY, ORIGIN, OTHER_KEY, WITNESS, cosign
from proof_rig import Log, blocks, bundled, edit, follow, make_log, sum_anew
from support import run_cli
from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.notes import Note, parse_note

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def forged(unpacked: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(unpacked, tmp_path / "forged")
    return tmp_path / "forged"


# -- forgeries -----------------------------------------------------------------------------------------------------


def another_hash(folder: Path, pattern: str, row: int) -> None:
    """Change one bit of the hash in a row of the first such file."""
    path = min(folder.glob(pattern))
    rows = path.read_bytes().split(b"\n")
    raw = bytearray(base64.b64decode(rows[row]))
    raw[0] ^= 1
    rows[row] = base64.b64encode(raw)
    path.write_bytes(b"\n".join(rows))


def entry_left_out(folder: Path) -> None:
    """Cut the last entry off."""
    path = max((folder / "audit").iterdir())
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def entry_added(folder: Path) -> None:
    """Write one entry more behind the last."""
    path = max((folder / "audit").iterdir())
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])


def entries_exchanged(folder: Path) -> None:
    """Let two entries change places."""
    path = min((folder / "audit").iterdir())
    one, two, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([two, one, *others]))


def flag_left_out(folder: Path) -> None:
    """Take the first flag out of the projection."""
    path = folder / "flags.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))


def another_ruleset_by_its_own_name(folder: Path) -> None:
    """Add rules that were never in force, under their true digest."""
    text = b'ruleset = "harmless"\n'
    (folder / "rules" / hashlib.sha256(text).hexdigest()).write_bytes(text)


def left_out(folder: Path, text: bytes) -> None:
    """Take away what was in force and has this in it."""
    next(path for path in sorted((folder / "rules").iterdir()) if text in path.read_bytes()).unlink()


def signed_by_another(folder: Path) -> None:
    """Sign the newest checkpoint with another key of the same name."""
    for path in (folder / "checkpoint", max((folder / "kept").iterdir())):
        text = parse_note(path.read_bytes()).text
        path.write_bytes(Note(text, (OTHER_KEY.sign(text),)).encode())


def older_checkpoint_of_another_tree(folder: Path) -> None:
    """Put a tree that never was in place of an older checkpoint, as the holder of the key can."""
    path = min((folder / "kept").iterdir())
    head = parse_tree_head(parse_note(path.read_bytes()).text)
    text = TreeHead(ORIGIN, head.size, b"\1" * 32).text()
    path.write_bytes(Note(text, (KEY.sign(text),)).encode())


def checkpoint_not_linked(folder: Path) -> None:
    """Take an older checkpoint away."""
    min((folder / "kept").iterdir()).unlink()


ROOT = "the entries give another root"
NAMED = "is not the one that the log names"
FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "entry": (lambda folder: edit(folder, "audit/*", b'"severity":"high"', b'"severity":"nigh"'), ROOT),
    "entry left out": (entry_left_out, "there are "),
    "entry added": (entry_added, "there are "),
    "entries exchanged": (entries_exchanged, ROOT),
    "checkpoint": (lambda folder: another_hash(folder, "checkpoint", 2), "is not signed by"),
    "checkpoint signed by another": (signed_by_another, "is not signed by"),
    "older checkpoint": (older_checkpoint_of_another_tree, "the log was written anew"),
    "older checkpoint left out": (checkpoint_not_linked, "not all checkpoints are linked"),
    "proof": (lambda folder: another_hash(folder, "consistency/*", 2), "the log was written anew"),
    "ruleset": (lambda folder: edit(folder, "rules/*", b'"seen >= 2"', b'"seen >= 1"'), "what was not in force"),
    "ruleset left out": (lambda folder: left_out(folder, b'"seen >= 2"'), "was in force and is not here"),
    "list left out": (lambda folder: left_out(folder, b"u1\n"), "was in force and is not here"),
    "contract left out": (
        lambda folder: left_out(folder, b'contract = "money_flow"\n'),
        "was in force and is not here",
    ),
    "ruleset added": (another_ruleset_by_its_own_name, "what was not in force"),
    "list": (lambda folder: edit(folder, "rules/*", b"u1\n", b"u2\n"), "what was not in force"),
    "run log": (lambda folder: edit(folder, "runs/*", b'"success"', b'"Success"'), NAMED),
    "report": (lambda folder: edit(folder, "reports/*", b'"success"', b'"Success"'), NAMED),
    "flag": (lambda folder: edit(folder, "flags.jsonl", b'"severity":"high"', b'"severity":"nigh"'), "flags.jsonl"),
    "flag left out": (flag_left_out, "flags.jsonl"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_stranger_refuses_every_forgery(forged: Path, tools: Path, what: str) -> None:
    """By what entries and checkpoints say, also where the list of files is made up anew and its signature ignored."""
    forge, said = FORGERIES[what]
    forge(forged)
    sum_anew(forged)
    pages = blocks(forged / "VERIFY.md")
    done = follow(forged, tools, [*pages[:2], *pages[3:]])
    assert done.returncode != 0
    assert "NOT VERIFIED" in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("what", ["entry", "checkpoint", "proof", "ruleset", "flag"])
def test_the_signed_list_finds_every_changed_file(forged: Path, tools: Path, what: str) -> None:
    """Also when it is made up anew: then its signature does not hold."""
    FORGERIES[what][0](forged)
    pages = blocks(forged / "VERIFY.md")[:3]
    done = follow(forged, tools, pages)
    assert done.returncode != 0
    assert "FAILED" in done.stdout
    sum_anew(forged)
    done = follow(forged, tools, pages)
    assert done.returncode != 0
    assert "Signature Verification Failure" in done.stdout + done.stderr


def test_another_list_of_files_is_refused(forged: Path, tools: Path) -> None:
    """Shortened, or signed with another key."""
    path = forged / "SHA256SUMS"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
    assert follow(forged, tools).returncode != 0
    path.write_bytes(whole)
    (forged / "SHA256SUMS.sig").write_bytes(OTHER_KEY.sign(whole).blob)
    assert follow(forged, tools).returncode != 0
    (forged / "SHA256SUMS.sig").write_bytes(KEY.sign(whole).blob)
    assert follow(forged, tools).returncode == 0


# -- who signs -----------------------------------------------------------------------------------------------------


def test_without_the_key_the_list_is_not_signed_and_says_so(log: Log, tools: Path, tmp_path: Path) -> None:
    """The rest is checked as before: the checkpoints are signed."""
    folder = bundled(log, tmp_path / "x.zip", signed=False)
    assert not (folder / "SHA256SUMS.sig").exists()
    assert "**not signed**: the key was not at hand" in (folder / "VERIFY.md").read_text()
    done = follow(folder, tools)
    assert (done.returncode, done.stderr) == (0, "")
    edit(folder, "audit/*", b'"severity":"high"', b'"severity":"nigh"')
    sum_anew(folder)
    assert follow(folder, tools).returncode != 0
    told = run_cli("bundle", "--out", tmp_path / "y.zip", "--state-dir", log.state)
    assert b"y.zip is not signed: name the configuration with the key's file: --config" in told.stderr
    assert b"/etc/credstore/tidewaiter-log-key" in told.stderr
    assert b"systemd-run" in told.stderr


def test_a_key_that_others_can_read_does_not_sign(own: Log, tmp_path: Path) -> None:
    """The bundle is made, and why its list is not signed is said."""
    (own.folder / "key").chmod(0o644)
    own.config.write_text(re.sub('key = ".*"', f'key = "{own.folder / "key"}"', own.config.read_text()))
    done = run_cli("bundle", "--out", tmp_path / "x.zip", "--config", own.config)
    assert done.returncode == 0
    assert b"is not signed: " in done.stderr
    assert b"others can get at the private key" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert KEY.encode().encode() not in done.stdout + done.stderr


def test_a_log_without_a_key_gives_a_bundle_that_says_so(tmp_path: Path, tools: Path) -> None:
    """The tree is checked, and nobody vouches for its root."""
    (tmp_path / "log").mkdir()
    log = make_log(tmp_path / "log", signed=False)
    folder = bundled(log, tmp_path / "x.zip")
    assert not (folder / "log.vkey").exists()
    text = (folder / "VERIFY.md").read_text()
    assert "**The newest checkpoint is not signed**: the log has no key" in text
    assert "| list of files | **not signed**: the log has no key |" in text
    assert follow(folder, tools).returncode == 0
    edit(folder, "audit/*", b'"severity":"high"', b'"severity":"nigh"')
    sum_anew(folder)
    assert "the entries give another root" in follow(folder, tools).stderr


def test_a_witness_is_checked_with_the_same_function(own: Log, tools: Path, tmp_path: Path) -> None:
    """Its cosignature is in the bundle; the page says how."""
    cosign(own.state, 1_790_000_000)
    folder = bundled(own, tmp_path / "x.zip")
    assert "`signed witnessed VKEY`" in (folder / "VERIFY.md").read_text()
    pages = blocks(folder / "VERIFY.md")
    assert follow(folder, tools).returncode == 0
    assert follow(folder, tools, [*pages, f"signed witnessed '{WITNESS.verifier}'"]).returncode == 0
    assert follow(folder, tools, [*pages, f"signed checkpoint '{WITNESS.verifier}'"]).returncode != 0


# -- files that nothing vouches for --------------------------------------------------------------------------------


def test_a_file_that_the_list_does_not_name_is_refused(unpacked: Path, tools: Path, tmp_path: Path) -> None:
    """A run log, a report or anything else that was put in: the signed list does not have it."""
    for number, name in enumerate(("runs/run_fake.json", "reports/more.json", ".hidden", "a b", "SHA256SUMS.more")):
        added = tmp_path / str(number)
        shutil.copytree(unpacked, added)
        (added / name).write_text("{}")
        done = follow(added, tools)
        assert done.returncode != 0
        assert f"SHA256SUMS does not list {name}" in done.stderr


def test_a_run_log_that_no_entry_names_is_not_counted_among_those_that_are(forged: Path, tools: Path) -> None:
    """Also where the list of files was made up anew and nobody looks at its signature: each is said by name."""
    for name in ("runs/run_fake.json", "reports/another.json"):
        (forged / name).write_text('{"status": "success"}')
    sum_anew(forged)
    pages = blocks(forged / "VERIFY.md")
    done = follow(forged, tools, [*pages[:2], *pages[3:]])
    assert done.returncode == 0, done.stderr
    said = [row.split()[4] for row in done.stdout.splitlines() if row.startswith("no entry here names")]
    assert said == ["runs/run_fake.json", "reports/another.json"]


def test_a_report_put_in_place_of_a_missing_one_is_said(own: Log, tools: Path, tmp_path: Path) -> None:
    """A bundle made without the report: somebody adds one and makes up the list anew."""
    shutil.rmtree(own.state / "reports")
    folder = bundled(own, tmp_path / "x.zip")
    assert follow(folder, tools).returncode == 0
    (folder / "reports").mkdir()
    (folder / "reports" / "validation_report.json").write_text("{}")
    assert "SHA256SUMS does not list reports/validation_report.json" in follow(folder, tools).stderr
    sum_anew(folder)
    pages = blocks(folder / "VERIFY.md")
    done = follow(folder, tools, [*pages[:2], *pages[3:]])
    assert "no entry here names reports/validation_report.json as it is" in done.stdout


def test_what_was_in_force_before_the_first_entry_must_be_there(log: Log, tools: Path, tmp_path: Path) -> None:
    """The last entry before the period says it, and comes with a proof."""
    times = [json.loads(path.read_bytes().split(b"\n", 1)[0])["timestamp"] for path in log.segments]
    folder = bundled(log, tmp_path / "x.zip", "--from", times[2])
    before = json.loads((folder / "before.jsonl").read_bytes())
    first = json.loads(min((folder / "audit").iterdir()).read_bytes().split(b"\n", 1)[0])
    assert before["index"] < first["index"]
    assert follow(folder, tools).returncode == 0
    (folder / "rules" / before["decisions"]["ruleset"]).unlink()
    sum_anew(folder)
    pages = blocks(folder / "VERIFY.md")
    done = follow(folder, tools, [*pages[:2], *pages[3:]])
    assert f"rules/{before['decisions']['ruleset']} was in force and is not here" in done.stderr
    shutil.copy(log.segments[0], folder / "before.jsonl")
    assert "before.jsonl is not entry" in follow(folder, tools, [*pages[:2], *pages[3:]]).stderr


# -- keys that change ----------------------------------------------------------------------------------------------


def rotate(log: Log, *options: str) -> None:
    """Let a new key take over."""
    log.config.write_text(re.sub('key = ".*"', f'key = "{log.folder / "key"}"', log.config.read_text()))
    words = ("--config", log.config, "--reason", "yearly", "--actor", "J. Doe")
    done = run_cli("keys", "rotate", *words, *options, cwd=log.folder)
    assert done.returncode == 0, done.stderr.decode()


def revoke(log: Log, vkey: str, last: int) -> None:
    """Take the trust from a key behind an index."""
    log.config.write_text(re.sub('key = ".*"', f'key = "{log.folder / "key"}"', log.config.read_text()))
    words = ("--config", log.config, "--reason", "lost", "--actor", "J. Doe", "--last-trusted-index", str(last))
    done = run_cli("keys", "revoke", vkey, *words, cwd=log.folder)
    assert done.returncode == 0, done.stderr.decode()


def test_a_log_that_changed_its_key_is_checked_with_both(own: Log, tools: Path, tmp_path: Path) -> None:
    """Checkpoints before the change bear the old key's signature alone; the newest key signs the list."""
    rotate(own)
    own.run(60, 66)
    folder = bundled(own, tmp_path / "x.zip")
    keys = (folder / "log.vkey").read_text().splitlines()
    assert len(keys) == 2
    assert keys[1] == str(KEY.verifier)
    assert (folder / "log.pem").read_bytes() != b""
    done_there = follow(folder, tools)
    assert (done_there.returncode, done_there.stderr) == (0, "")
    assert f"checking with {keys[0]}" in done_there.stdout


def test_who_holds_the_old_key_is_led_to_the_new_one(own: Log, tools: Path, tmp_path: Path) -> None:
    """The entry that names the new key is covered by a checkpoint that the held one signed; no other leads there."""
    rotate(own)
    own.run(60, 66)
    rotate(own)
    own.run(66, 72)
    folder = bundled(own, tmp_path / "x.zip")
    keys = (folder / "log.vkey").read_text().splitlines()
    held = tmp_path / "held.vkey"
    for key in keys:
        held.write_text(f"{key}\n")
        done = follow(folder, tools)
        assert (done.returncode, done.stderr) == (0, ""), key
        assert f"checking with {key}" in done.stdout
        assert done.stdout.count("it was followed by") == keys.index(key)
    held.write_text(f"{OTHER_KEY.verifier}\n")
    assert f"nothing here leads from the key {OTHER_KEY.verifier}" in follow(folder, tools).stderr
    held.write_text(f"{KEY.verifier}\n")
    proof = min((folder / "keys").glob("*.tlog-proof"))
    other = max((folder / "keys").glob("*.tlog-proof"))
    proof.write_bytes(other.read_bytes())
    assert "NOT VERIFIED" in follow(folder, tools).stderr


def test_a_revoked_key_is_named_with_where_its_trust_ends(own: Log, tools: Path, tmp_path: Path) -> None:
    """Checkpoints that it signed before are checked with it; the page says what counts, and it leads to no new key."""
    last = json.loads(own.audit.splitlines()[-1])["index"]
    revoke(own, str(KEY.verifier), last)
    rotate(own)
    own.run(60, 66)
    folder = bundled(own, tmp_path / "x.zip")
    new, old = (folder / "log.vkey").read_text().splitlines()
    assert old == str(KEY.verifier)
    text = (folder / "VERIFY.md").read_text()
    assert f"**Revoked:** `{old}`; what it signed counts up to entry {last} only" in text
    assert "nothing leads to the key" in text
    assert len(list((folder / "kept").iterdir())) >= 3
    done = follow(folder, tools)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"checking with {new}" in done.stdout
    (tmp_path / "held.vkey").write_text(f"{old}\n")
    assert f"nothing here leads from the key {old} to {new}" in follow(folder, tools).stderr
    (tmp_path / "held.vkey").unlink()
    page = folder / "VERIFY.md"
    page.write_text(text.replace(f'"$2" -le {last + 1} ]', '"$2" -le 5 ]'))
    pages = blocks(page)
    assert "is not signed by a key of the log that counts" in follow(folder, tools, [*pages[:2], *pages[3:]]).stderr


def test_a_log_whose_keys_are_all_revoked_says_so(own: Log, tools: Path, tmp_path: Path) -> None:
    """Its newest checkpoint bears no signature; those that count do, and are checked."""
    last = json.loads(own.audit.splitlines()[-1])["index"]
    revoke(own, str(KEY.verifier), last)
    own.run(60, 66)
    folder = bundled(own, tmp_path / "x.zip")
    text = (folder / "VERIFY.md").read_text()
    assert "**The newest checkpoint is not signed**: no key of the log signs any more" in text
    assert "**Revoked:**" in text
    done = follow(folder, tools)
    assert (done.returncode, done.stderr) == (0, "")
