"""Proof files and the witness's judgement: the specifications' formats and each status code for its reason."""

from __future__ import annotations

import base64
import contextlib
import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_hash,
    root_of_inclusion,
)
from tidewaiter.core.tlog.notes import Note, NoteError, Signature, parse_note, signing_key
from tidewaiter.core.tlog.proofs import LogProof, parse_proof
from tidewaiter.core.tlog.tiles import TileTree, reader
from tidewaiter.core.tlog.witnessing import AddCheckpoint, KnownLog, Verdict, judge, parse_add_checkpoint

ORIGIN: Final = "example.org/log"
LOG: Final = signing_key(ORIGIN, bytes(32))
STRANGER: Final = signing_key(ORIGIN, b"\1" * 32)
ENTRIES: Final = [b"entry %d\n" % number for number in range(200)]
TREE: Final = TileTree()
TREE.extend([leaf_hash(entry) for entry in ENTRIES])
NODE: Final = reader(len(ENTRIES), dict(TREE.edge()).__getitem__)

# The example request of C2SP tlog-witness.
EXAMPLE_REQUEST: Final = """old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
""".encode()  # noqa: E501 - as it stands there
# The head of the example of C2SP tlog-proof, whose signatures are abridged there.
EXAMPLE_PROOF: Final = b"""c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

"""
HASH_LINE: Final = base64.b64encode(bytes(32)) + b"\n"


def head(size: int) -> TreeHead:
    """Return the head of the first leaves."""
    return TreeHead(ORIGIN, size, root_hash(size, NODE))


def checkpoint(size: int) -> bytes:
    """Return the signed checkpoint of the first leaves."""
    text = head(size).text()
    return Note(text, (LOG.sign(text),)).encode()


# -- proofs -----------------------------------------------------------------------------------------------------------


def test_the_example_proof() -> None:
    """The example of the specification is read, and written the same."""
    proof = parse_proof(EXAMPLE_PROOF)
    assert (proof.index, len(proof.hashes)) == (73_894, 5)
    assert proof.extra is not None
    assert proof.extra.startswith(b"age-v1.2.1-darwin-arm64.tar.gz")
    assert proof.checkpoint.startswith(b"example.com/fancylog\n109482\n")
    assert proof.encode() == EXAMPLE_PROOF


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 200), (123, 200), (199, 200)])
@pytest.mark.parametrize("extra", [None, b"", b"\0more"])
def test_proofs_come_back_and_hold(index: int, size: int, extra: bytes | None) -> None:
    """A proof is read as it was written, and leads from the entry to the root of its checkpoint."""
    written = LogProof(index, tuple(inclusion_proof(index, size, NODE)), checkpoint(size), extra)
    proof = parse_proof(written.encode())
    assert proof == written
    assert parse_note(proof.checkpoint).text == head(size).text()
    leaf = leaf_hash(ENTRIES[index])
    assert root_of_inclusion(leaf, proof.index, size, proof.hashes) == head(size).root


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no empty line"),
        (b"c2sp.org/tlog-proof@v1\nindex 1\n", "no empty line"),
        (b"\n\n", "the first line of a proof"),
        (b"c2sp.org/tlog-proof@v2\nindex 1\n\n", "the first line of a proof"),
        (b"c2sp.org/tlog-proof@v1\n\n", "expected the index line, found the end"),
        (b"c2sp.org/tlog-proof@v1\nextra AA==\n\n", "expected the index line, found the end"),
        (b"c2sp.org/tlog-proof@v1\nextra AB==\nindex 1\n\n", "not canonical"),
        (b"c2sp.org/tlog-proof@v1\nindex 1\nextra AA==\n\n", "proof hash 1"),
        (b"c2sp.org/tlog-proof@v1\nindex 01\n\n", "leading zeros"),
        (b"c2sp.org/tlog-proof@v1\nindex  1\n\n", "leading zeros"),
        (b"c2sp.org/tlog-proof@v1\nIndex 1\n\n", "expected the index line"),
        (b"c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\n", "proof hash 1: expected 32 bytes"),
        (b"c2sp.org/tlog-proof@v1\nindex 1\n" + HASH_LINE + b"x\n\n", "proof hash 2: not base64"),
        (b"c2sp.org/tlog-proof@v1\nindex 1\n" + HASH_LINE * 64 + b"\n", "64 hashes in a proof"),
        (b"c2sp.org/tlog-proof@v1\r\nindex 1\n\n", "the first line of a proof"),
    ],
)
def test_what_a_proof_is_not(data: bytes, problem: str) -> None:
    """Another spelling is refused with what is wrong."""
    with pytest.raises(NoteError, match=re.escape(problem)):
        parse_proof(data)


# -- witnessing -------------------------------------------------------------------------------------------------------


def asked(old: int, new: int, latest: int | None, body: bytes | None = None) -> Verdict:
    """Return the answer to an add-checkpoint of a witness that cosigned the tree of `latest` leaves last."""
    log = KnownLog((LOG.verifier,), None if latest is None else head(latest))
    return judge(body or request(old, new).encode(), {ORIGIN: log}.get)


def request(old: int, new: int) -> AddCheckpoint:
    """Return an honest request."""
    return AddCheckpoint(old, tuple(consistency_proof(old, new, NODE)), checkpoint(new))


def test_the_example_request() -> None:
    """The example of the specification is read, and written the same."""
    found = parse_add_checkpoint(EXAMPLE_REQUEST)
    assert (found.old, len(found.proof)) == (20_852_014, 4)
    assert parse_tree_head(parse_note(found.note).text).size == 20_852_163
    assert found.encode() == EXAMPLE_REQUEST


@pytest.mark.parametrize(
    ("latest", "new"), [(None, 0), (None, 1), (None, 200), (0, 7), (7, 7), (7, 8), (64, 200), (100, 200)]
)
def test_consistent_checkpoints_are_accepted(latest: int | None, new: int) -> None:
    """From nothing or from the last head, with its proof: 200, and the head to keep."""
    verdict = asked(latest or 0, new, latest)
    assert (verdict.status, verdict.head, verdict.body) == (200, head(new), b"")
    assert verdict.note == parse_note(checkpoint(new))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"new 0\n\n" + checkpoint(5),
        b"0\n\n" + checkpoint(5),
        b"old 00\n\n" + checkpoint(5),
        b"old -1\n\n" + checkpoint(5),
        b"old 0\nAAAA\n\n" + checkpoint(5),
        b"old 0\n" + HASH_LINE * 64 + b"\n" + checkpoint(5),
        b"old 0\n\n",
        b"old 0\n\n" + head(5).text() + b"\n",
        b"old 0\n\n" + checkpoint(5)[:-1],
        b"old 0\n\n" + checkpoint(5).replace(b"\n5\n", b"\n05\n"),
        b"old 0\n\n" + checkpoint(5).replace(b"\n5\n", b"\n"),
    ],
)
def test_requests_that_are_none(body: bytes) -> None:
    """What cannot be read is a bad request, with what is wrong."""
    verdict = asked(0, 5, None, body=body or b"\n")
    assert (verdict.status, verdict.head) == (400, None)
    assert verdict.body


def test_a_log_that_is_not_known() -> None:
    """Another origin is not found, before its signature is looked at."""
    assert judge(request(0, 5).encode(), lambda _: None).status == 404


@pytest.mark.parametrize("latest", [None, 3])
def test_signatures_that_do_not_count(latest: int | None) -> None:
    """No signature of the log's keys, or one that does not hold: forbidden, whatever the rest says."""
    text = head(5).text()
    good = LOG.sign(text)
    broken = Signature(good.name, good.key_id, bytes(64))
    for signatures in ((STRANGER.sign(text),), (broken,), (good, broken)):
        body = AddCheckpoint(0, (), Note(text, signatures).encode()).encode()
        assert asked(0, 5, latest, body=body).status == 403


def test_unknown_signatures_beside_the_logs_are_ignored() -> None:
    """A checkpoint that others signed, too, is as good."""
    text = head(5).text()
    body = AddCheckpoint(0, (), Note(text, (STRANGER.sign(text), LOG.sign(text))).encode()).encode()
    assert asked(0, 5, None, body=body).status == 200


def test_an_old_size_beyond_the_checkpoint() -> None:
    """An old size larger than the checkpoint is a bad request, though it is what the witness has."""
    assert asked(0, 0, 9, body=AddCheckpoint(9, (), checkpoint(5)).encode()).status == 400


@pytest.mark.parametrize(("old", "new", "latest"), [(0, 9, 5), (4, 9, 5), (6, 9, 5), (3, 9, None), (0, 3, 5)])
def test_another_old_size_is_a_conflict(old: int, new: int, latest: int | None) -> None:
    """When the old size is not the witness's own, the answer says which is."""
    verdict = asked(old, new, latest)
    assert (verdict.status, verdict.head) == (409, None)
    assert (verdict.body, verdict.content_type) == (b"%d\n" % (latest or 0), "text/x.tlog.size")


def forked(size: int) -> bytes:
    """Return a signed checkpoint of another history of the same log."""
    text = TreeHead(ORIGIN, size, leaf_hash(b"another")).text()
    return Note(text, (LOG.sign(text),)).encode()


@pytest.mark.parametrize(
    ("request_", "latest"),
    [
        (AddCheckpoint(5, (), forked(5)), 5),
        (AddCheckpoint(5, request(5, 9).proof, forked(9)), 5),
        (AddCheckpoint(5, request(5, 9).proof[:-1], checkpoint(9)), 5),
        (AddCheckpoint(5, (*request(5, 9).proof, EMPTY_ROOT), checkpoint(9)), 5),
        (AddCheckpoint(5, (EMPTY_ROOT,), checkpoint(5)), 5),
        (AddCheckpoint(0, (EMPTY_ROOT,), checkpoint(5)), None),
        (AddCheckpoint(0, (), forked(0)), None),
        (AddCheckpoint(0, (), forked(0)), 0),
    ],
)
def test_inconsistent_checkpoints(request_: AddCheckpoint, latest: int | None) -> None:
    """A fork, a proof that does not hold, one where none belongs, a wrong empty root: 422, and nothing is kept."""
    verdict = asked(0, 0, latest, body=request_.encode())
    assert (verdict.status, verdict.head) == (422, None)


@given(
    st.sampled_from([EXAMPLE_REQUEST, EXAMPLE_PROOF, request(64, 200).encode(), checkpoint(3)]),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 4), st.binary(max_size=5) | st.just(b"\n")), max_size=5),
)
def test_any_bytes_are_judged(data: bytes, changed: list[tuple[int, int, bytes]]) -> None:
    """Whatever a body contains: a status, and 200 only for what the log signed; the parsers raise NoteErrors alone."""
    for place, length, piece in changed:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + length :]
    verdict = asked(0, 0, 64, body=data or b"\n")
    assert verdict.status in {400, 403, 404, 409, 422} or verdict.head == head(200)
    for parse in (parse_proof, parse_add_checkpoint):
        with contextlib.suppress(NoteError):
            assert parse(data).encode() == data
