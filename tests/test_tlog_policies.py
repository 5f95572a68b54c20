"""Trust policies: what tlog-policy allows, which line is wrong, and whom a checkpoint convinces."""

from __future__ import annotations

import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.tlog.checkpoints import TreeHead
from tidewaiter.core.tlog.notes import (
    COSIGNATURE_ED25519,
    COSIGNATURE_ML_DSA_44,
    ML_DSA,
    Note,
    NoteError,
    Signature,
    signing_key,
)
from tidewaiter.core.tlog.policies import Judgement, PolicyGroup, TrustPolicy, parse_policy

ORIGIN: Final = "example.org/log"
TIME: Final = 1_700_000_000
LOG: Final = signing_key(ORIGIN, bytes(32))
NEXT: Final = signing_key(ORIGIN, b"\x09" * 32)
WITNESSES: Final = [
    signing_key(f"witness.example/{number}", bytes([number]) * 32, COSIGNATURE_ED25519) for number in range(1, 7)
]
TEXT: Final = TreeHead(ORIGIN, 5, bytes(32)).text()
NAMES: Final = ["X1", "X2", "X3", "Y1", "Y2", "Y3"]
WITNESS_LINES: Final = "".join(f"witness {name} {key.verifier}\n" for name, key in zip(NAMES, WITNESSES, strict=True))
# The example of C2SP tlog-policy.
EXAMPLE: Final = f"""log {LOG.verifier}

{WITNESS_LINES}group X-witnesses 2 X1 X2 X3
group Y-witnesses any Y1 Y2 Y3
group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def policy(text: str) -> TrustPolicy:
    """Return the policy in a text."""
    return parse_policy(text.encode(), "policy")


def signed_by(*numbers: int, log: bool = True) -> Note:
    """Return the checkpoint with the signatures of the log and of these witnesses."""
    signatures = [LOG.sign(TEXT)] if log else []
    return Note(TEXT, (*signatures, *(WITNESSES[number].sign(TEXT, TIME) for number in numbers)))


def test_the_example_of_the_specification() -> None:
    """Logs, witnesses, groups and quorum of the example are read as it explains them."""
    found = policy(EXAMPLE)
    assert [log.key for log in found.logs] == [LOG.verifier]
    assert [(witness.name, witness.url) for witness in found.witnesses] == [(name, None) for name in NAMES]
    assert found.groups == (
        PolicyGroup("X-witnesses", 2, ("X1", "X2", "X3")),
        PolicyGroup("Y-witnesses", 1, ("Y1", "Y2", "Y3")),
        PolicyGroup("X-and-Y", 2, ("X-witnesses", "Y-witnesses")),
    )
    assert found.quorum == "X-and-Y"


@given(st.sets(st.integers(0, 5)))
def test_who_makes_the_quorum(numbers: set[int]) -> None:
    """Two of the X and one of the Y make the example's quorum, and no other set."""
    enough = len(numbers & {0, 1, 2}) >= 2 and bool(numbers & {3, 4, 5})
    judgement = policy(EXAMPLE).judge(signed_by(*sorted(numbers)))
    assert judgement == Judgement(LOG.verifier, tuple(NAMES[number] for number in sorted(numbers)), enough)


def test_one_witness_counts_once() -> None:
    """Two cosignatures of one witness are one witness."""
    note = Note(TEXT, (LOG.sign(TEXT), WITNESSES[0].sign(TEXT, TIME), WITNESSES[0].sign(TEXT, TIME + 1)))
    text = f"{WITNESS_LINES}group g 2 X1 X2\nquorum g\n"
    assert policy(text).judge(note) == Judgement(None, ("X1",), quorum=False)


def test_without_witnesses() -> None:
    """`quorum none` asks for no cosignature; the log must still be a known one."""
    found = policy(f"log {LOG.verifier} https://example.org/\nquorum none\n")
    assert found.logs[0].url == "https://example.org/"
    assert found.judge(signed_by()) == Judgement(LOG.verifier, (), quorum=True)
    assert found.judge(signed_by(0, log=False)) == Judgement(None, (), quorum=True)


def test_a_witness_may_be_the_quorum() -> None:
    """A quorum of one witness needs no group."""
    found = policy(f"{WITNESS_LINES}quorum X2\n")
    assert found.judge(signed_by(1)).quorum
    assert not found.judge(signed_by(0)).quorum


def test_a_log_key_counts_for_its_own_origin_only() -> None:
    """A checkpoint signed by the key of another log is not that log's, though the signature holds."""
    other = TreeHead("example.org/other", 5, bytes(32)).text()
    note = Note(other, (LOG.sign(other),))
    assert policy(f"log {LOG.verifier}\nquorum none\n").judge(note).log is None


def test_keys_of_a_rotation() -> None:
    """Two keys of one log may both be listed; either is enough."""
    found = policy(f"log {LOG.verifier}\nlog {NEXT.verifier}\nquorum none\n")
    assert found.judge(Note(TEXT, (NEXT.sign(TEXT),))).log == NEXT.verifier
    assert found.judge(Note(TEXT, (LOG.sign(TEXT), NEXT.sign(TEXT)))).log == LOG.verifier


def test_a_broken_signature_of_a_known_key_is_an_error() -> None:
    """The whole note is refused when a signature of a listed key does not hold."""
    good = WITNESSES[0].sign(TEXT, TIME)
    bad = Signature(good.name, good.key_id, good.blob[:-1] + bytes([good.blob[-1] ^ 1]))
    with pytest.raises(NoteError, match="does not hold"):
        policy(EXAMPLE).judge(Note(TEXT, (LOG.sign(TEXT), bad)))
    with pytest.raises(NoteError, match="at least three lines"):
        policy(EXAMPLE).judge(Note(b"no checkpoint\n", (LOG.sign(b"no checkpoint\n"),)))


def test_layout_comments_and_octets() -> None:
    """Tabs, blanks, empty lines, comments, a last line without newline, and names that are not ASCII or no UTF-8."""
    text = (
        b"# comment \xff\n\n \t # another\n"
        b"\t witness\t\xe2\x84\xaa  %b \t http://[::1]:80/\n witness \xff %b\nquorum \xff"
    )
    keys = [str(key.verifier).encode() for key in WITNESSES[:2]]
    found = parse_policy(text % (keys[0], keys[1]), "policy")
    assert [witness.name for witness in found.witnesses] == ["\u212a", "\\xff"]
    assert found.witnesses[0].url == "http://[::1]:80/"
    assert found.quorum == "\\xff"


@pytest.mark.skipif(not ML_DSA, reason="this `cryptography` library has no ML-DSA-44")
def test_ml_dsa_keys_for_both() -> None:
    """Logs and witnesses may have keys of type 0x06."""
    log = signing_key(ORIGIN, b"\x07" * 32, COSIGNATURE_ML_DSA_44)
    witness = signing_key("w", b"\x08" * 32, COSIGNATURE_ML_DSA_44)
    found = policy(f"log {log.verifier}\nwitness w {witness.verifier}\nquorum w\n")
    note = Note(TEXT, (log.sign(TEXT, TIME), witness.sign(TEXT, TIME)))
    assert found.judge(note) == Judgement(log.verifier, ("w",), quorum=True)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("quorum", 1, "write: quorum NAME"),
        ("quorum a b", 1, "write: quorum NAME"),
        ("log", 1, "write: log VKEY [URL]"),
        (f"log {LOG.verifier} url more", 1, "write: log VKEY [URL]"),
        ("witness X1", 1, "write: witness NAME VKEY [URL]"),
        ("group g all", 1, "write: group NAME"),
        ("logs x", 1, "'logs': a line begins with log, witness, group, quorum or #"),
        ("log x", 1, "verifier key"),
        ("quorum\u00a0none", 1, "a line begins with"),
        ("quorum none\r", 1, "control character 0x0d"),
        ("quorum \x7fnone", 1, "control character 0x7f"),
        (f"log {WITNESSES[0].verifier}", 1, "expected a key of type 0x01 or 0x06, found 0x04"),
        (f"witness w {LOG.verifier}", 1, "expected a key of type 0x04 or 0x06, found 0x01"),
        (f"log {LOG.verifier}\nlog {LOG.verifier}", 2, "same public key"),
        (f"log {LOG.verifier}\nlog {signing_key('b', bytes(32)).verifier}", 2, "same public key"),
        (f"{WITNESS_LINES}witness Z {WITNESSES[0].verifier}", 7, "same public key"),
        (f"witness none {WITNESSES[0].verifier}", 1, "the name 'none' is taken"),
        (f"{WITNESS_LINES}group X1 any X2", 7, "the name 'X1' is taken"),
        (f"{WITNESS_LINES}group g any none", 7, "'none' is not defined"),
        (f"{WITNESS_LINES}group g any g", 7, "'g' is not defined"),
        (f"{WITNESS_LINES}group g any Z", 7, "'Z' is not defined"),
        (f"{WITNESS_LINES}group g any X1 X1", 7, "'X1' is a member of a group already"),
        (f"{WITNESS_LINES}group g any X1\ngroup h any X1", 8, "'X1' is a member of a group already"),
        (f"{WITNESS_LINES}group g 0 X1", 7, "asks for 0 of 1"),
        (f"{WITNESS_LINES}group g 3 X1 X2", 7, "asks for 3 of 2"),
        (f"{WITNESS_LINES}group g 01 X1", 7, "leading zeros"),
        (f"{WITNESS_LINES}group g some X1", 7, "expected a decimal number"),
        (f"{WITNESS_LINES}quorum Z", 7, "'Z' is not defined"),
        ("quorum none\nquorum none", 2, "exactly one quorum line"),
        (f"quorum X1\n{WITNESS_LINES}", 1, "'X1' is not defined"),
    ],
)
def test_what_a_policy_is_not(text: str, line: int, problem: str) -> None:
    """A wrong line is named with its number and what is wrong."""
    with pytest.raises(ConfigError, match=rf"^policy:{line}: .*{re.escape(problem)}"):
        policy(text)


@pytest.mark.parametrize("text", ["", "# nothing", f"log {LOG.verifier}\n"])
def test_a_policy_needs_its_quorum_line(text: str) -> None:
    """A policy that leaves the quorum open is refused: a forgotten line must not mean that anything goes."""
    with pytest.raises(ConfigError, match="exactly one quorum line, found none"):
        policy(text)


def test_a_long_chain_of_groups() -> None:
    """Groups of groups may be as deep as the file is long."""
    lines = "".join(f"group g{number} any {f'g{number - 1}' if number else 'X1'}\n" for number in range(3000))
    found = policy(f"{WITNESS_LINES}{lines}quorum g2999\n")
    assert found.judge(signed_by(0)).quorum
    assert not found.judge(signed_by(1)).quorum


@given(
    st.integers(0, len(EXAMPLE) - 1),
    st.integers(0, 9),
    st.binary(max_size=5) | st.sampled_from([b"\n", b" ", b"group ", b"none", b"quorum none\n"]),
)
def test_nothing_but_config_errors(at: int, length: int, piece: bytes) -> None:
    """Whatever a file contains: a policy or a ConfigError."""
    data = EXAMPLE.encode()
    try:
        found = parse_policy(data[:at] + piece + data[at + length :], "policy")
    except ConfigError:
        return
    found.judge(signed_by(0, 1, 4))
