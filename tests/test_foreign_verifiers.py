"""Strangers' programs accept what the log proves, and refuse each tampered variant of it."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

import pytest

import foreign_verifiers
from foreign_verifiers import Answer, Evidence, Go, Missing, Shell, Sigstore
from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.cosignatures import cosigned_message, split_timestamp
from tidewaiter.core.tlog.merkle import consistency_proof, inclusion_proof, leaf_hash, root_hash
from tidewaiter.core.tlog.notes import (
    COSIGNATURE_ED25519,
    Note,
    Signature,
    parse_note,
    parse_skey,
    parse_vkey,
    signing_key,
    verified,
)
from tidewaiter.core.tlog.proofs import LogProof
from tidewaiter.core.tlog.tiles import Tile, TileTree, reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)  # the first test of a verifier may have to install and build it

ORIGIN: Final = "example.org/log"
TIME: Final = 1_700_000_000
LOG: Final = signing_key(ORIGIN, hashlib.sha256(b"log").digest())
WITNESS: Final = signing_key("witness.example/w1", hashlib.sha256(b"witness").digest(), COSIGNATURE_ED25519)
THIEF: Final = signing_key(ORIGIN, hashlib.sha256(b"thief").digest())
SIZE: Final = 700
ENTRIES: Final = [b'{"index":%d,"text":"\xc3\xa9"}\n' % number for number in range(SIZE)]
PLACES: Final = [(0, 1), (0, SIZE), (300, SIZE), (SIZE - 1, SIZE), (255, 256), (4, 7)]


class Verifier(Protocol):
    """What all foreign verifiers can do."""

    def inclusion(self, *evidence: Evidence) -> list[Answer]:
        """Check for each the checkpoint's signature and that the entry is in its tree."""


class Grown(NamedTuple):
    """The log of a test: all tiles by what they are, and its nodes."""

    tiles: dict[Tile, bytes]
    node: Callable[[int, int], bytes]


def grown() -> Grown:
    """Return the log with all its entries."""
    tree = TileTree()
    tiles = dict(tree.extend([leaf_hash(entry) for entry in ENTRIES])) | dict(tree.edge())
    return Grown(tiles, reader(SIZE, tiles.__getitem__))


TREE: Final = grown()
Ready = TypeVar("Ready")


def checkpoint(head: TreeHead, *signers: Signature) -> bytes:
    """Return a checkpoint signed by the log and cosigned by the witness, or with these signatures instead."""
    text = head.text()
    return Note(text, signers or (LOG.sign(text), WITNESS.sign(text, TIME))).encode()


def head_of(size: int) -> TreeHead:
    """Return the honest head of the first entries."""
    return TreeHead(ORIGIN, size, root_hash(size, TREE.node))


def evidence(index: int, size: int) -> Evidence:
    """Return the honest evidence for one entry."""
    hashes = tuple(inclusion_proof(index, size, TREE.node))
    return Evidence(LOG.verifier, ENTRIES[index], LogProof(index, hashes, checkpoint(head_of(size))))


def flipped(data: bytes, at: int = -1) -> bytes:
    """Return the bytes with one bit of one byte turned over."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def tampered(honest: Evidence) -> dict[str, Evidence]:
    """Return the evidence with one thing wrong in each."""
    proof = honest.proof
    note = parse_note(proof.checkpoint)
    head = parse_tree_head(note.text)
    signature = note.signatures[0]

    def with_proof(index: int | None = None, hashes: tuple[bytes, ...] | None = None) -> Evidence:
        return honest._replace(
            proof=LogProof(
                proof.index if index is None else index, proof.hashes if hashes is None else hashes, proof.checkpoint
            )
        )

    def with_checkpoint(data: bytes) -> Evidence:
        return honest._replace(proof=LogProof(proof.index, proof.hashes, data))

    other_size = TreeHead(head.origin, head.size * 4, head.root)
    other_root = TreeHead(head.origin, head.size, flipped(head.root))
    bad = Signature(signature.name, signature.key_id, flipped(signature.blob, 10))
    found = {
        "text: size": with_checkpoint(checkpoint(other_size, *note.signatures)),
        "text: root": with_checkpoint(checkpoint(other_root, *note.signatures)),
        "text: origin": with_checkpoint(checkpoint(TreeHead("x", head.size, head.root), *note.signatures)),
        "signature": with_checkpoint(checkpoint(head, bad)),
        "signature of the witness only": with_checkpoint(checkpoint(head, note.signatures[1])),
        "signature of another key of that name": with_checkpoint(checkpoint(head, THIEF.sign(head.text()))),
        "key": honest._replace(key=THIEF.verifier),
        "root, signed": with_checkpoint(checkpoint(other_root)),
        "size, signed": with_checkpoint(checkpoint(other_size)),
        "leaf": honest._replace(entry=flipped(honest.entry, 3)),
        "leaf without its newline": honest._replace(entry=honest.entry[:-1]),
        "index too large": with_proof(index=head.size),
        "one hash more": with_proof(hashes=(*proof.hashes, head.root)),
    }
    if proof.hashes:
        found["index"] = with_proof(index=proof.index ^ 1)
        found["one hash less"] = with_proof(hashes=proof.hashes[:-1])
        for at, value in enumerate(proof.hashes):
            changed = (*proof.hashes[:at], flipped(value), *proof.hashes[at + 1 :])
            found[f"proof hash {at}"] = with_proof(hashes=changed)
    if len(proof.hashes) > 1:
        found["order of hashes"] = with_proof(hashes=proof.hashes[::-1])
    return found


# -- the verifiers ----------------------------------------------------------------------------------------------------


def ready(make: Callable[[Path], Ready], name: str, factory: pytest.TempPathFactory) -> Ready:
    """Return a verifier, or skip with what is missing. Processes that share a run of the suite share its folder."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"foreign-{name}"
    folder.mkdir(exist_ok=True)
    try:
        return make(folder)
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Go:
    """Go's x/mod."""
    return ready(Go, "go", tmp_path_factory)


@pytest.fixture(scope="session")
def sigstore(tmp_path_factory: pytest.TempPathFactory) -> Sigstore:
    """The npm package @sigstore/verify."""
    return ready(Sigstore, "sigstore", tmp_path_factory)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return openssl, sha256sum and a shell."""
    try:
        return Shell(tmp_path)
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=["go", "sigstore", "shell"])
def verifier(request: pytest.FixtureRequest) -> Verifier:
    """Each of them in turn."""
    found: Verifier = request.getfixturevalue(request.param)
    return found


# -- where they are missing -------------------------------------------------------------------------------------------


def test_a_skip_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tools and without root, each verifier names what it lacks instead of failing."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(foreign_verifiers, "DEBIAN_GOPATH", tmp_path)
    with pytest.raises(Missing, match=r"x/mod for Go \(Debian: golang-go .*\) is missing, and only root"):
        Go(tmp_path)
    with pytest.raises(Missing, match="@sigstore/verify: node is missing"):
        Sigstore(tmp_path)
    with pytest.raises(Missing, match="openssl and sha256sum: sh is missing"):
        Shell(tmp_path)


def test_an_installation_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What the package tool says last is the reason of the skip."""
    for name in ("node", "npm"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="`npm install` failed: no network"):
        ready(Sigstore, "failing", tmp_path_factory)


# -- one entry --------------------------------------------------------------------------------------------------------


def test_strangers_accept_our_proofs(verifier: Verifier) -> None:
    """The first, last and inner entries of trees of all shapes: accepted."""
    answers = verifier.inclusion(*(evidence(index, size) for index, size in PLACES))
    assert answers == [Answer(accepted=True, words="accepted")] * len(PLACES)


@pytest.mark.parametrize(("index", "size"), [(0, 1), (300, SIZE), (4, 7)])
def test_strangers_refuse_each_tampered_variant(verifier: Verifier, index: int, size: int) -> None:
    """Text, signature, key, root, leaf, index, a hash of the proof: one changed, and the evidence is refused."""
    variants = tampered(evidence(index, size))
    answers = verifier.inclusion(*variants.values())
    assert [name for name, answer in zip(variants, answers, strict=True) if answer.accepted] == []


def test_a_checkpoint_of_another_key_type_is_refused(go: Go) -> None:
    """Go reads signatures of type 0x01 only: a note that only a witness signed is not verified."""
    honest = evidence(4, 7)
    proof = honest.proof
    only = Note(head_of(7).text(), parse_note(proof.checkpoint).signatures[1:]).encode()
    (answer,) = go.inclusion(honest._replace(proof=LogProof(proof.index, proof.hashes, only)))
    assert not answer.accepted
    assert "no verifiable signatures" in answer.words


# -- openssl alone ---------------------------------------------------------------------------------------------------


def test_openssl_accepts_signature_and_cosignature(shell: Shell) -> None:
    """The log's signature is over the text, the witness's over the message with its time; both hold, and only there."""
    text = head_of(SIZE).text()
    timestamp, cosignature = split_timestamp(WITNESS.sign(text, TIME).blob)
    assert timestamp == TIME
    cosigned = cosigned_message(COSIGNATURE_ED25519, WITNESS.name, TIME, text)
    later = cosigned_message(COSIGNATURE_ED25519, WITNESS.name, TIME + 1, text)
    signature = LOG.sign(text).blob
    assert shell.signature_holds(LOG.verifier, text, signature)
    assert shell.signature_holds(WITNESS.verifier, cosigned, cosignature)
    assert not shell.signature_holds(LOG.verifier, text.replace(b"700", b"701"), signature)
    assert not shell.signature_holds(LOG.verifier, text, flipped(signature))
    assert not shell.signature_holds(THIEF.verifier, text, signature)
    assert not shell.signature_holds(WITNESS.verifier, later, cosignature)
    assert not shell.signature_holds(WITNESS.verifier, text, cosignature)


# -- Go alone --------------------------------------------------------------------------------------------------------


def test_go_accepts_our_consistency_proofs(go: Go) -> None:
    """Trees of all shapes are prefixes of later ones."""
    pairs = [(1, 1), (1, 2), (3, 7), (255, 256), (256, 700), (513, 700), (700, 700)]
    asked = [
        (checkpoint(head_of(old)), checkpoint(head_of(new)), consistency_proof(old, new, TREE.node))
        for old, new in pairs
    ]
    assert [answer.words for answer in go.consistency(LOG.verifier, *asked)] == ["accepted"] * len(pairs)


def test_go_refuses_tampered_consistency_proofs(go: Go) -> None:
    """A changed, missing or additional hash, another old size, and a fork that the log signed: refused."""
    old, new = 300, SIZE
    hashes = consistency_proof(old, new, TREE.node)
    older, newer = checkpoint(head_of(old)), checkpoint(head_of(new))
    forked = TreeHead(ORIGIN, old, leaf_hash(b"another history"))
    questions = [
        (older, newer, hashes[:-1]),
        (older, newer, [*hashes, hashes[0]]),
        (checkpoint(head_of(old - 1)), newer, hashes),
        (checkpoint(forked), newer, hashes),
        (older, checkpoint(TreeHead(ORIGIN, new, forked.root)), hashes),
        (newer, older, hashes),
    ]
    for at, value in enumerate(hashes):
        questions.append((older, newer, [*hashes[:at], flipped(value), *hashes[at + 1 :]]))
    assert [answer.accepted for answer in go.consistency(LOG.verifier, *questions)] == [False] * len(questions)


def test_go_reads_our_tiles(go: Go, tmp_path: Path) -> None:
    """Go finds the tiles where it expects them, authenticates them, and makes a proof of each entry out of them."""
    for tile, data in TREE.tiles.items():
        path = tmp_path / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    signed = checkpoint(head_of(SIZE))
    assert go.tiles(LOG.verifier, signed, tmp_path).accepted
    for tile, data in TREE.tiles.items():
        for at in (0, len(data) // 2, -1):
            (tmp_path / tile.path).write_bytes(flipped(data, at))
            assert not go.tiles(LOG.verifier, signed, tmp_path).accepted, tile.path
        (tmp_path / tile.path).write_bytes(data)


def test_keys_and_notes_of_go_are_ours(go: Go) -> None:
    """A key that Go generated is read, the note it signed verifies, and signing again gives the same bytes."""
    text = head_of(SIZE).text()
    secret, vkey, signed = go.signed(ORIGIN, text.decode())
    key, note = parse_skey(secret), parse_note(signed)
    assert (key.encode(), str(key.verifier)) == (secret, vkey)
    assert verified(note, [parse_vkey(vkey)]) == [key.verifier]
    assert Note(text, (key.sign(text),)).encode() == signed
