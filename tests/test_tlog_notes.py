"""Signed notes and keys: the specification's examples, one spelling, no signature that holds for another text."""

from __future__ import annotations

import base64
import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidewaiter.core.tlog.checkpoints import TreeHead, parse_tree_head
from tidewaiter.core.tlog.cosignatures import cosigned_message, split_timestamp
from tidewaiter.core.tlog.notes import (
    COSIGNATURE_ED25519,
    COSIGNATURE_ML_DSA_44,
    ED25519,
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    ML_DSA,
    Note,
    NoteError,
    Signature,
    VerifierKey,
    parse_note,
    parse_notes,
    parse_signatures,
    parse_skey,
    parse_vkey,
    public_pem,
    signing_key,
    verified,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# The examples of C2SP signed-note and tlog-cosignature.
EXAMPLE_KEY: Final = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE: Final = (
    "This is an example message.\n"
    "\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
POEM: Final = (
    "Ognuno sta solo sul cuor della terra\n"
    "trafitto da un raggio di sole:\n"
    "\n"
    "ed è subito sera.\n"
    "\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
).encode()
SOFA: Final = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
COSIGNED: Final = (
    f"{SOFA}\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()
# The seed, key and signature of RFC 8032 section 7.1, test 1 (an empty message).
RFC_8032_SEED: Final = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_8032_PUBLIC: Final = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"

ORIGIN: Final = "example.org/log"
HEAD: Final = TreeHead(ORIGIN, 70_000, bytes(range(32)))
TEXT: Final = HEAD.text()
TIME: Final = 1_700_000_000
LOG: Final = signing_key(ORIGIN, bytes(32))
WITNESS: Final = signing_key("witness.example/w1", b"\1" * 32, COSIGNATURE_ED25519)
NOTE: Final = Note(TEXT, (LOG.sign(TEXT), WITNESS.sign(TEXT, TIME)))

needs_ml_dsa = pytest.mark.skipif(not ML_DSA, reason="this `cryptography` library has no ML-DSA-44")
KINDS: Final = [
    ED25519,
    COSIGNATURE_ED25519,
    pytest.param(COSIGNATURE_ML_DSA_44, marks=needs_ml_dsa),
]
PARSERS: Final[list[Callable[[bytes], Any]]] = [
    parse_note,
    lambda data: parse_note(data, unsigned=True),
    lambda data: list(parse_notes(data)),
    parse_signatures,
    parse_tree_head,
    lambda data: parse_vkey(data.decode("utf-8", "surrogateescape")),
    lambda data: parse_skey("PRIVATE+KEY+" + data.decode("utf-8", "surrogateescape")),
]


def line(name: bytes = b"n", blob: bytes = b"12345") -> bytes:
    """Return a signature line of these parts."""
    return "— ".encode() + name + b" " + base64.b64encode(blob) + b"\n"


def test_the_example_note_verifies() -> None:
    """The note of the specification verifies under its key, and comes out again byte for byte."""
    key, note = parse_vkey(EXAMPLE_KEY), parse_note(EXAMPLE_NOTE)
    assert str(key) == EXAMPLE_KEY
    assert verified(note, [key]) == [key]
    assert note.text == b"This is an example message.\n"
    assert note.encode() == EXAMPLE_NOTE


@pytest.mark.parametrize("data", [EXAMPLE_NOTE, POEM, COSIGNED])
def test_notes_have_one_spelling(data: bytes) -> None:
    """What was read is written as it was; the text ends at the last empty line."""
    assert parse_note(data).encode() == data


def test_the_text_may_contain_empty_lines() -> None:
    """The last empty line ends the text, not the first."""
    note = parse_note(POEM)
    assert note.text.endswith("ed è subito sera.\n".encode())
    assert [signature.name for signature in note.signatures] == ["quasimodo.example/salvatore"]


def test_the_example_cosignature() -> None:
    """The cosigned checkpoint of the specification: its head, its timestamp, and the message that was signed."""
    note = parse_note(COSIGNED)
    assert parse_tree_head(note.text).size == 20_852_163
    timestamp, bare = split_timestamp(note.signatures[1].blob)
    assert (timestamp, len(bare)) == (1_679_315_147, 64)
    message = cosigned_message(COSIGNATURE_ED25519, "witness.example.com/w1", timestamp, note.text)
    assert message == b"cosignature/v1\ntime 1679315147\n" + SOFA.encode()


def test_the_message_of_an_ml_dsa_cosignature() -> None:
    """Label, cosigner, timestamp, origin, range and root, as the specification lays them out; no extension lines."""
    message = cosigned_message(COSIGNATURE_ML_DSA_44, "w", 5, TEXT + b"an extension\n")
    assert message == (
        b"subtree/v1\n\0\x01w\0\0\0\0\0\0\0\x05\x0fexample.org/log"
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x11\x70" + bytes(range(32))
    )


def test_keys_are_those_of_rfc_8032() -> None:
    """The public key of a known seed is the known one."""
    assert signing_key("x", RFC_8032_SEED).verifier.public.hex() == RFC_8032_PUBLIC


@pytest.mark.parametrize("kind", KINDS)
def test_keys_come_back_from_their_texts(kind: int) -> None:
    """A verifier key and a private key are read as they were written, and sign what the other verifies."""
    key = signing_key("name", RFC_8032_SEED, kind)
    assert parse_vkey(str(key.verifier)) == key.verifier
    again = parse_skey(key.encode())
    assert (again.encode(), again.verifier) == (key.encode(), key.verifier)
    assert key.verifier.verifies(TEXT, again.sign(TEXT, TIME))


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_holds_for_one_text_key_and_time(kind: int) -> None:
    """Another text, a changed signature, another name, id, key or timestamp: it does not hold."""
    key = signing_key("name", RFC_8032_SEED, kind)
    good = key.sign(TEXT, TIME)
    assert key.verifier.verifies(TEXT, good)
    later = TreeHead(ORIGIN, HEAD.size + 1, HEAD.root).text()
    assert not key.verifier.verifies(later, good)
    assert not key.verifier.verifies(b"no checkpoint", good)
    for at in (0, 7, 8, len(good.blob) - 1):
        blob = bytearray(good.blob)
        blob[at] ^= 1
        assert not key.verifier.verifies(TEXT, Signature(good.name, good.key_id, bytes(blob)))
    for other_blob in (b"", good.blob[:-1], good.blob + b"\0"):
        assert not key.verifier.verifies(TEXT, Signature(good.name, good.key_id, other_blob))
    assert not key.verifier.verifies(TEXT, Signature("other", good.key_id, good.blob))
    assert not key.verifier.verifies(TEXT, Signature(good.name, b"\0\0\0\0", good.blob))
    other = signing_key("name", b"\2" * 32, kind)
    assert not other.verifier.verifies(TEXT, Signature(good.name, other.verifier.key_id, good.blob))


def test_the_name_is_bound_by_ml_dsa_and_the_type_by_the_key_id() -> None:
    """One secret under several types and names has as many key ids."""
    kinds = (ED25519, COSIGNATURE_ED25519)
    ids = {signing_key(name, bytes(32), kind).verifier.key_id for name in "ab" for kind in kinds}
    assert len(ids) == 4


def test_verified_names_the_known_signers_only() -> None:
    """Unknown signers are ignored; each known one is named once, in the order of the signatures."""
    stranger = signing_key("stranger", b"\3" * 32).verifier
    twice = Note(TEXT, (*NOTE.signatures, WITNESS.sign(TEXT, TIME + 1)))
    assert verified(twice, [stranger, WITNESS.verifier, LOG.verifier]) == [LOG.verifier, WITNESS.verifier]
    assert verified(NOTE, [stranger]) == []
    assert verified(NOTE, []) == []


@pytest.mark.parametrize("at", [0, 1])
def test_one_broken_signature_of_a_known_key_refuses_the_note(at: int) -> None:
    """A note with a signature of a known key that does not hold is refused, whatever else signed it."""
    signatures = list(NOTE.signatures)
    blob = signatures[at].blob
    signatures[at] = Signature(signatures[at].name, signatures[at].key_id, blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(NoteError, match=f"signature {at + 1}, of .* does not hold"):
        verified(Note(TEXT, tuple(signatures)), [LOG.verifier, WITNESS.verifier])
    others = [LOG.verifier, WITNESS.verifier]
    del others[at]
    assert verified(Note(TEXT, tuple(signatures)), others) == others


def test_the_secret_is_not_shown() -> None:
    """Neither repr nor the message about a damaged private key contains the secret."""
    key = signing_key("name", RFC_8032_SEED)
    secret = key.encode().rpartition("+")[2]
    assert secret not in repr(key)
    assert str(key.verifier) in repr(key)
    for text in (
        key.encode()[:-1],
        key.encode() + "=",
        key.encode().replace("name", "eman"),
        secret,
        f"PRIVATE+KEY+{secret}",
    ):
        with pytest.raises(NoteError) as refusal:
            parse_skey(text)
        assert secret[:20] not in str(refusal.value)


def test_the_private_text_is_that_of_the_common_tool() -> None:
    """PRIVATE+KEY, the name, the key id, and type and seed in base64, as x/mod's GenerateKey writes it."""
    key = signing_key("name", bytes(32))
    seed = base64.b64encode(b"\x01" + bytes(32)).decode()
    assert key.encode() == f"PRIVATE+KEY+name+{key.verifier.key_id.hex()}+{seed}"


@pytest.mark.parametrize("kind", KINDS)
def test_public_keys_in_pem(kind: int) -> None:
    """A public key is written for openssl."""
    assert public_pem(signing_key("n", bytes(32), kind).verifier).startswith(b"-----BEGIN PUBLIC KEY-----\n")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no empty line"),
        (b"text\n", "no empty line"),
        (b"text\n\n", "no signature"),
        (b"\n\n" + line(), None),
        (b"text\n\n" + line()[:-1], "does not end with a newline"),
        (b"text\n\n" + line() + b"more\n", "signature 2: expected a dash"),
        (b"te\txt\n\n" + line(), "byte 2: control character 0x09"),
        (b"te\rxt\n\n" + line(), "control character 0x0d"),
        (b"te\0xt\n\n" + line(), "control character 0x00"),
        (b"te\xffxt\n\n" + line(), "byte 2: not UTF-8"),
        (b"text\n\n- n MTIzNDU=\n", "expected a dash"),
        (b"text\n\n" + line(name=b""), "key name"),
        (b"text\n\n" + line(name=b"a+b"), "key name"),
        (b"text\n\n" + line(name="a\u00a0b".encode()), "key name"),
        (b"text\n\n" + line(name="a\u2003b".encode()), "key name"),
        (b"text\n\n" + line(name=b"a b"), "not base64"),
        (b"text\n\n" + line(blob=b"1234"), "too short"),
        (b"text\n\n" + line(blob=b""), "too short"),
        (b"text\n\n" + line().replace(b"=", b""), "not base64"),
        (b"text\n\n" + line().replace(b"U=", b"V="), "not canonical"),
        (b"text\n\n" + line().replace(b"M", b"M "), "not base64"),
        (b"text\n\n" + line().replace(b"M", b"-"), "not base64"),
        (b"text\n\n" + line() * (MAX_SIGNATURES + 1), "signatures; 100 are the most"),
        (b"x" * MAX_NOTE_BYTES + b"\n\n" + line(), "bytes; 1000000 is the most"),
    ],
)
def test_what_a_note_is_not(data: bytes, problem: str | None) -> None:
    """Anything but the one spelling is refused with what is wrong."""
    if problem is None:
        assert parse_note(data).text == b"\n"
        return
    with pytest.raises(NoteError, match=re.escape(problem)):
        parse_note(data)


def test_as_many_signatures_as_allowed() -> None:
    """A hundred signatures are read."""
    assert len(parse_note(b"text\n\n" + line() * MAX_SIGNATURES).signatures) == MAX_SIGNATURES


def test_unsigned_only_when_asked_for() -> None:
    """A checkpoint of a log without a key is a note without signatures, which only the asking reader takes."""
    data = Note(TEXT, ()).encode()
    assert data == TEXT + b"\n"
    assert parse_note(data, unsigned=True) == Note(TEXT, ())
    with pytest.raises(NoteError, match="no signature"):
        parse_note(data)


def test_what_a_private_key_cannot_be() -> None:
    """A name that no note could carry, a secret of another length, an unknown type: refused before it signs."""
    for name in ("", "a b", "a+b", "a\nb", "\udcff"):
        with pytest.raises(NoteError, match="key name"):
            signing_key(name, bytes(32))
    with pytest.raises(NoteError, match="has 32 bytes, found 31"):
        signing_key("name", bytes(31))
    with pytest.raises(NoteError, match="type 0x02 is not known"):
        signing_key("name", bytes(32), 2)


def test_texts_that_cannot_be_signed() -> None:
    """A text without its last newline or with control characters is not signed, nor a cosignature without its time."""
    for text in (b"", b"no newline", b"a\tb\n", b"\xff\n"):
        with pytest.raises(NoteError):
            LOG.sign(text)
    with pytest.raises(NoteError, match="needs a timestamp"):
        WITNESS.sign(TEXT)
    for timestamp in (-1, 2**63):
        with pytest.raises(NoteError, match="timestamp is out of range"):
            WITNESS.sign(TEXT, timestamp)
    with pytest.raises(NoteError, match="checkpoint"):
        WITNESS.sign(b"no checkpoint\n", TIME)


@needs_ml_dsa
@pytest.mark.parametrize(("cosigner", "origin"), [("c" * 256, "o"), ("c", "o" * 256)])
def test_names_too_long_for_ml_dsa(cosigner: str, origin: str) -> None:
    """The message has room for names of 255 bytes; longer ones are not signed."""
    key = signing_key(cosigner, bytes(32), COSIGNATURE_ML_DSA_44)
    with pytest.raises(NoteError, match="has 256 bytes"):
        key.sign(TreeHead(origin, 1, bytes(32)).text(), TIME)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is name+key id+base64"),
        ("example.com/foo", "is name+key id+base64"),
        (EXAMPLE_KEY.replace("530d903a", "530D903A"), "eight lower-case"),
        (EXAMPLE_KEY.replace("530d903a", "530d903"), "eight lower-case"),
        (EXAMPLE_KEY.replace("530d903a", "530d903b"), "expected key id 530d903a, found 530d903b"),
        (EXAMPLE_KEY.replace("foo", "bar"), "expected key id"),
        (EXAMPLE_KEY.replace("foo", "f o"), "key name"),
        (EXAMPLE_KEY.replace("foo", "f\x01o"), "key name"),
        ("\udcff" + EXAMPLE_KEY, "UTF-8"),
        (EXAMPLE_KEY + "=", "not base64"),
        (EXAMPLE_KEY + "\n", "not base64"),
        (EXAMPLE_KEY[:-4], "has 32 bytes, found 29"),
        ("example.com/foo+530d903a+", "the key is empty"),
        ("example.com/foo+530d903a+AukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", "type 0x02 is not known"),
    ],
)
def test_what_a_verifier_key_is_not(text: str, problem: str) -> None:
    """A key whose parts do not fit is refused with what is wrong."""
    with pytest.raises(NoteError, match=re.escape(problem)):
        parse_vkey(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "newline"),
        (b"o\n1\n", "at least three lines, found 2"),
        (b"o\n1\n" + b"A" * 43 + b"=", "does not end with a newline"),
        (b"\n1\n" + b"A" * 43 + b"=\n", "line 1 of the checkpoint is empty"),
        (b"o\n1\n" + b"A" * 43 + b"=\n\n", "line 4 of the checkpoint is empty"),
        (b"o\n01\n" + b"A" * 43 + b"=\n", "leading zeros"),
        (b"o\n+1\n" + b"A" * 43 + b"=\n", "leading zeros"),
        (b"o\n1 \n" + b"A" * 43 + b"=\n", "leading zeros"),
        ("o\n\u0661\n".encode() + b"A" * 43 + b"=\n", "leading zeros"),
        (b"o\n9223372036854775808\n" + b"A" * 43 + b"=\n", "below 2**63"),
        (b"o\n" + b"9" * 5000 + b"\n" + b"A" * 43 + b"=\n", "below 2**63"),
        (b"o\n1\n" + b"A" * 42 + b"==\n", "root hash"),
        (b"o\n1\n" + b"A" * 42 + b"B=\n", "not canonical"),
        (b"o\n1\nAAAA\n", "root hash: expected 32 bytes, found 3"),
        (b"o\r\n1\n" + b"A" * 43 + b"=\n", "control character 0x0d"),
    ],
)
def test_what_a_checkpoint_is_not(text: bytes, problem: str) -> None:
    """A tree head with another spelling is refused with what is wrong."""
    with pytest.raises(NoteError, match=re.escape(problem)):
        parse_tree_head(text)


def test_tree_heads_come_back() -> None:
    """A head is read as it was written; other logs' extension lines do not disturb."""
    for size in (0, 1, 2**63 - 1):
        head = TreeHead("a log/ü+", size, bytes(32))
        assert parse_tree_head(head.text()) == head
        assert parse_tree_head(head.text() + b"an extension\n") == head


# -- files of notes ----------------------------------------------------------------------------------------------------


def history() -> list[bytes]:
    """Return three checkpoints, the second cosigned."""
    heads = [TreeHead(ORIGIN, size, bytes([size]) * 32).text() for size in (1, 2, 3)]
    notes = [Note(text, (LOG.sign(text),)) for text in heads]
    notes[1] = Note(heads[1], (LOG.sign(heads[1]), WITNESS.sign(heads[1], TIME)))
    return [note.encode() for note in notes]


def test_notes_one_behind_the_other() -> None:
    """A file of notes gives each with the offset behind it."""
    data = b"".join(history())
    found = list(parse_notes(data))
    assert [note.encode() for note, _ in found] == history()
    assert [data[:end] for _, end in found] == [b"".join(history()[:count]) for count in (1, 2, 3)]


def test_a_torn_last_note_is_left_out() -> None:
    """Cut anywhere, the file gives the whole notes and no error; cut between signatures, a note is whole."""
    data = b"".join(history())
    ends = [end for _, end in parse_notes(data)]
    between = ends[1] - len(parse_note(history()[1]).signatures[1].line())
    for cut in range(len(data)):
        found = [end for _, end in parse_notes(data[:cut])]
        expected = [end for end in ends if end <= cut]
        if cut == between:
            expected.append(between)
        assert found == expected, cut


def test_a_last_note_of_zeros_is_torn() -> None:
    """Blocks of the last note that never reached the disk read as zeros; what is before them is given."""
    first, _, last = history()
    for low, high in ((0, len(last)), (0, 40), (40, 100), (100, len(last)), (len(last) - 20, len(last))):
        torn = last[:low] + bytes(high - low) + last[high:]
        assert [end for _, end in parse_notes(first + torn)] == [len(first)]


@pytest.mark.parametrize("damage", [b"\0", b"\r", b"\xff"])
def test_damage_before_the_last_note_is_an_error(damage: bytes) -> None:
    """A damaged note with others behind it was not torn: the message names the byte where it begins."""
    first, second, last = history()
    with pytest.raises(NoteError, match=f"the note at byte {len(first)}: byte 5: "):
        list(parse_notes(first + second[:5] + damage + second[6:] + last))


def test_a_damaged_last_note_is_an_error() -> None:
    """A complete last note that says nonsense was changed, not torn."""
    first, _, last = history()
    with pytest.raises(NoteError, match="not base64"):
        list(parse_notes(first + last.replace(b"=\n", b"*\n")))


# -- fuzzing -----------------------------------------------------------------------------------------------------------

MATERIAL: Final = [
    EXAMPLE_NOTE,
    POEM,
    COSIGNED,
    b"".join(history()),
    TEXT,
    EXAMPLE_KEY.encode(),
    LOG.encode()[12:].encode(),
]
changes = st.lists(
    st.tuples(
        st.integers(0, 1000), st.integers(0, 5), st.binary(max_size=6) | st.sampled_from([b"\n", b"+", b" ", b"="])
    )
)


def mutated(data: bytes, changed: list[tuple[int, int, bytes]]) -> bytes:
    """Return the data with pieces of it replaced."""
    for place, length, piece in changed:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + length :]
    return data


@given(st.sampled_from(MATERIAL), changes)
@example(b"a+00000000+" + base64.b64encode(b"\x06" + bytes(1312)), [])
@example(b"a+00000000+" + base64.b64encode(b"\x01" + b"\xff" * 32), [])
@example(b"a+00000000+\xff", [])
def test_parsers_raise_nothing_but_note_errors(data: bytes, changed: list[tuple[int, int, bytes]]) -> None:
    """Whatever the bytes: a value or a NoteError."""
    data = mutated(data, changed)
    for parse in PARSERS:
        with contextlib.suppress(NoteError):
            parse(data)


@given(st.binary(max_size=300))
def test_parsers_take_arbitrary_bytes(data: bytes) -> None:
    """The same for bytes that never were a note."""
    test_parsers_raise_nothing_but_note_errors.hypothesis.inner_test(data, [])  # type: ignore[attr-defined]


@given(st.sampled_from([EXAMPLE_NOTE, POEM, COSIGNED]), changes)
def test_what_is_read_is_written_the_same(data: bytes, changed: list[tuple[int, int, bytes]]) -> None:
    """No two byte strings are the same note."""
    data = mutated(data, changed)
    try:
        note = parse_note(data)
    except NoteError:
        return
    assert note.encode() == data


@given(st.integers(0, len(NOTE.encode()) * 8 - 1))
def test_no_flipped_bit_goes_unnoticed(bit: int) -> None:
    """One flipped bit anywhere: the note is refused, or one of the two signers is no longer found."""
    data = bytearray(NOTE.encode())
    data[bit // 8] ^= 1 << bit % 8
    try:
        found = verified(parse_note(bytes(data)), [LOG.verifier, WITNESS.verifier])
    except NoteError:
        return
    assert len(found) < 2


def test_keys_are_values() -> None:
    """A verifier key can be a member of a set, whatever it was made from."""
    assert len({LOG.verifier, parse_vkey(str(LOG.verifier)), VerifierKey("n", ED25519, bytes(32))}) == 2
