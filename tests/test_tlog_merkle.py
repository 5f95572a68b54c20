"""The Merkle tree: RFC 6962 word for word, and proofs that hold for one tree only."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewaiter.core.tlog.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    leaf_hash,
    node_hash,
    root_hash,
    root_of_inclusion,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# The test vectors of Certificate Transparency: the root of the first n of these leaves.
CT_LEAVES: Final = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS: Final = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

LARGEST: Final = 70
LEAVES: Final = tuple(b"entry %d\n" % number for number in range(3000))


def split(count: int) -> int:
    """Return the largest power of two smaller than count, as RFC 6962 says it."""
    k = 1
    while k * 2 < count:
        k *= 2
    return k


@cache
def naive_root(low: int, high: int) -> bytes:
    """Return MTH(D[low:high]) by the recursion of RFC 6962 section 2.1."""
    if low == high:
        return hashlib.sha256().digest()
    if high - low == 1:
        return hashlib.sha256(b"\x00" + LEAVES[low]).digest()
    k = split(high - low)
    return hashlib.sha256(b"\x01" + naive_root(low, low + k) + naive_root(low + k, high)).digest()


def naive_path(m: int, low: int, high: int) -> list[bytes]:
    """Return PATH(m, D[low:high]) of section 2.1.1."""
    if high - low == 1:
        return []
    k = split(high - low)
    if m < k:
        return [*naive_path(m, low, low + k), naive_root(low + k, high)]
    return [*naive_path(m - k, low + k, high), naive_root(low, low + k)]


def naive_subproof(m: int, low: int, high: int, known: bool) -> list[bytes]:
    """Return SUBPROOF(m, D[low:high], known) of section 2.1.2."""
    if m == high - low:
        return [] if known else [naive_root(low, high)]
    k = split(high - low)
    if m <= k:
        return [*naive_subproof(m, low, low + k, known), naive_root(low + k, high)]
    return [*naive_subproof(m - k, low + k, high, False), naive_root(low, low + k)]


def node(level: int, index: int) -> bytes:
    """Return the nodes of the trees over LEAVES."""
    return naive_root(index << level, (index + 1) << level)


def damaged(value: bytes) -> bytes:
    """Return the value with one bit turned over."""
    return bytes([value[0] ^ 1]) + value[1:]


def damaged_proofs(proof: Sequence[bytes]) -> list[list[bytes]]:
    """Return the proof with each hash changed, left out, cut short, and with one too many."""
    found = [[*proof, EMPTY_ROOT], [EMPTY_ROOT, *proof]]
    for at, value in enumerate(proof):
        found += [[*proof[:at], other, *proof[at + 1 :]] for other in (damaged(value), value[:-1])]
        found.append([*proof[:at], *proof[at + 1 :]])
    return found


def test_known_roots() -> None:
    """The roots of Certificate Transparency's test vectors come out."""
    hashes = [leaf_hash(leaf) for leaf in CT_LEAVES]

    def known(level: int, index: int) -> bytes:
        return node_hash(known(level - 1, 2 * index), known(level - 1, 2 * index + 1)) if level else hashes[index]

    assert [root_hash(size, known).hex() for size in range(len(CT_LEAVES) + 1)] == CT_ROOTS
    assert CT_ROOTS[0] == EMPTY_ROOT.hex()


def test_every_inclusion_proof_of_small_trees() -> None:
    """For each leaf of each small tree the proof is the one of RFC 6962 and leads to the root."""
    for size in range(1, LARGEST + 1):
        root = root_hash(size, node)
        assert root == naive_root(0, size)
        for index in range(size):
            proof = inclusion_proof(index, size, node)
            assert proof == naive_path(index, 0, size)
            assert root_of_inclusion(leaf_hash(LEAVES[index]), index, size, proof) == root


def test_every_consistency_proof_of_small_trees() -> None:
    """For each pair of small trees the proof is the one of RFC 6962 and holds."""
    for new in range(LARGEST + 1):
        for old in range(new + 1):
            proof = consistency_proof(old, new, node)
            assert proof == (naive_subproof(old, 0, new, True) if old else [])
            assert is_consistent(old, naive_root(0, old), new, naive_root(0, new), proof)


def test_inclusion_proofs_hold_for_nothing_else() -> None:
    """No other leaf, place, size or changed proof leads to the root."""
    for size in range(1, 20):
        root = naive_root(0, size)
        for index in range(size):
            leaf, proof = leaf_hash(LEAVES[index]), naive_path(index, 0, size)
            others = [(damaged(leaf), index, size, proof)]
            others += [(leaf, other, size, proof) for other in range(-1, size + 2) if other != index]
            others += [(leaf, index, size, other) for other in damaged_proofs(proof)]
            for other in others:
                assert root_of_inclusion(*other) != root


def test_a_proof_of_another_length_is_malformed() -> None:
    """A proof whose length does not fit leaf and size, and hashes that are none, give no root at all."""
    leaf, proof = leaf_hash(LEAVES[5]), naive_path(5, 0, 11)
    for other in (proof[:-1], [*proof, EMPTY_ROOT], [proof[0][:-1], *proof[1:]]):
        assert root_of_inclusion(leaf, 5, 11, other) is None
    assert root_of_inclusion(leaf[1:], 5, 11, proof) is None
    assert root_of_inclusion(leaf, 11, 11, proof) is None
    assert root_of_inclusion(leaf, 0, 0, []) is None
    assert root_of_inclusion(leaf, -1, 11, proof) is None


def test_consistency_proofs_hold_for_nothing_else() -> None:
    """No other sizes, roots or changed proof pass."""
    for new in range(1, 18):
        for old in range(1, new + 1):
            old_root, new_root = naive_root(0, old), naive_root(0, new)
            proof = consistency_proof(old, new, node)
            assert not is_consistent(old, damaged(old_root), new, new_root, proof)
            assert not is_consistent(old, old_root, new, damaged(new_root), proof)
            for other in damaged_proofs(proof):
                assert not is_consistent(old, old_root, new, new_root, other)
            for size in range(-1, new + 1):
                if size != old:
                    assert not is_consistent(size, old_root, new, new_root, proof)
            for size in range(old - 1):
                assert not is_consistent(old, old_root, size, new_root, proof)


def test_the_empty_tree_is_a_prefix_of_all_with_an_empty_proof() -> None:
    """Size 0 goes with the empty root and no proof, and with nothing else."""
    root = naive_root(0, 3)
    assert is_consistent(0, EMPTY_ROOT, 3, root, [])
    assert is_consistent(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    assert not is_consistent(0, EMPTY_ROOT, 0, root, [])
    assert not is_consistent(0, root, 3, root, [])
    assert not is_consistent(0, EMPTY_ROOT, 3, root, [root])


@settings(max_examples=60)
@given(st.data())
def test_proofs_of_larger_trees(data: st.DataObject) -> None:
    """Trees of any size give the proofs of the recursion, and they hold."""
    new = data.draw(st.integers(1, len(LEAVES)))
    old = data.draw(st.integers(1, new))
    index = data.draw(st.integers(0, new - 1))
    inclusion, consistency = inclusion_proof(index, new, node), consistency_proof(old, new, node)
    assert inclusion == naive_path(index, 0, new)
    assert consistency == naive_subproof(old, 0, new, True)
    assert root_of_inclusion(leaf_hash(LEAVES[index]), index, new, inclusion) == naive_root(0, new)
    assert is_consistent(old, naive_root(0, old), new, naive_root(0, new), consistency)


@given(
    st.integers(-2, 40),
    st.binary(min_size=32, max_size=32),
    st.integers(-2, 40),
    st.binary(min_size=32, max_size=32),
    st.lists(st.binary(min_size=31, max_size=32), max_size=8),
)
def test_made_up_proofs_are_refused_quietly(
    old: int, old_root: bytes, new: int, new_root: bytes, p: list[bytes]
) -> None:
    """Whatever the numbers and hashes: no error, and nothing consistent but what is trivially so."""
    assert not is_consistent(old, old_root, new, new_root, p) or (old == new and old_root == new_root)
    assert root_of_inclusion(old_root, old, new, p) != new_root or (old, new, p) == (0, 1, [])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    """Asking for a leaf outside the tree is an error of the caller."""
    with pytest.raises(ValueError, match=f"no leaf {index}"):
        inclusion_proof(index, size, node)


@pytest.mark.parametrize(("old", "new"), [(4, 3), (-1, 3)])
def test_no_proof_for_a_tree_that_shrinks(old: int, new: int) -> None:
    """Asking for a consistency proof backwards is an error of the caller."""
    with pytest.raises(ValueError, match=f"no prefix of {old}"):
        consistency_proof(old, new, node)
