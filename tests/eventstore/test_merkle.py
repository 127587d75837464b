"""Roots and proofs equal those of a naive tree, which hashes the whole of RFC 6962's definition anew."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.eventstore import merkle


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return sha256(b"\x01" + naive_root(leaves[:half]) + naive_root(leaves[half:])).digest()


def naive_inclusion(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.1."""
    if len(leaves) == 1:
        return []
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    if index < half:
        return [*naive_inclusion(index, leaves[:half]), naive_root(leaves[half:])]
    return [*naive_inclusion(index - half, leaves[half:]), naive_root(leaves[:half])]


def naive_consistency(old: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF of section 2.1.2."""
    if old == len(leaves):
        return [] if whole else [naive_root(leaves)]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    if old <= half:
        return [*naive_consistency(old, leaves[:half], whole), naive_root(leaves[half:])]
    return [*naive_consistency(old - half, leaves[half:], False), naive_root(leaves[:half])]


def leaves_of(count: int, seed: int = 0) -> list[bytes]:
    return [sha256(b"%d %d" % (seed, number)).digest() for number in range(count)]


def subtrees_of(leaves: list[bytes]) -> merkle.Subtree:
    def subtree(level: int, index: int) -> bytes:
        start, end = index << level, (index + 1) << level
        assert end <= len(leaves)
        return naive_root(leaves[start:end])

    return subtree


SIZES = st.integers(1, 70)


def test_the_empty_tree_and_that_of_the_rfc() -> None:
    assert merkle.root(0, subtrees_of([])) == merkle.EMPTY_ROOT
    # The vectors that certificate-transparency implementations share.
    inputs = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        bytes(range(80, 88)),
        bytes(range(96, 112)),
    ]
    assert merkle.root(8, subtrees_of(inputs)).hex() == (
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )


@given(SIZES)
def test_roots(size: int) -> None:
    leaves = leaves_of(size)
    assert merkle.root(size, subtrees_of(leaves)) == naive_root(leaves)
    frontier = merkle.Frontier()
    frontier.extend(map(merkle.leaf_hash, leaves))
    assert (frontier.size, frontier.root()) == (size, naive_root(leaves))


@given(st.data())
def test_inclusion(data: st.DataObject) -> None:
    leaves = leaves_of(data.draw(SIZES))
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.inclusion_path(index, len(leaves), subtrees_of(leaves))
    assert path == naive_inclusion(index, leaves)
    leaf, root = merkle.leaf_hash(leaves[index]), naive_root(leaves)
    assert merkle.root_of_inclusion(leaf, index, len(leaves), path) == root
    for other in range(len(leaves) + 1):
        if other != index:
            assert merkle.root_of_inclusion(leaf, other, len(leaves), path) != root
    assert merkle.root_of_inclusion(leaf, index, len(leaves), [*path, bytes(32)]) != root
    if path:
        assert merkle.root_of_inclusion(leaf, index, len(leaves), path[:-1]) != root


@given(st.data())
def test_consistency(data: st.DataObject) -> None:
    leaves = leaves_of(data.draw(SIZES))
    new = len(leaves)
    old = data.draw(st.integers(1, new))
    path = merkle.consistency_path(old, new, subtrees_of(leaves))
    assert path == naive_consistency(old, leaves)
    old_root, new_root = naive_root(leaves[:old]), naive_root(leaves)
    assert merkle.is_consistent(old, new, old_root, new_root, path)
    # A tree that was rewritten before that size has no such path, nor is any other of the right length one.
    place = data.draw(st.integers(0, old - 1))
    rewritten = [*leaves[:place], bytes(32), *leaves[place + 1 :]]
    forged = merkle.consistency_path(old, new, subtrees_of(rewritten))
    assert not merkle.is_consistent(old, new, old_root, naive_root(rewritten), forged)
    assert not merkle.is_consistent(old, new, old_root, naive_root(rewritten), path)
    assert not merkle.is_consistent(old, new, old_root, new_root, [*path, bytes(32)])
    if path:
        assert not merkle.is_consistent(old, new, old_root, new_root, path[:-1])
        assert not merkle.is_consistent(old, new, old_root, new_root, [*path[:-1], bytes(32)])


def test_what_goes_on_from_nothing() -> None:
    root = naive_root(leaves_of(3))
    assert merkle.is_consistent(0, 3, merkle.EMPTY_ROOT, root, [])
    assert merkle.is_consistent(0, 0, merkle.EMPTY_ROOT, merkle.EMPTY_ROOT, [])
    assert not merkle.is_consistent(0, 0, merkle.EMPTY_ROOT, root, [])
    assert not merkle.is_consistent(0, 3, root, root, [])
    assert not merkle.is_consistent(0, 3, merkle.EMPTY_ROOT, root, [bytes(32)])
    assert not merkle.is_consistent(4, 3, root, root, [])


@given(st.data())
def test_a_tree_goes_on_from_the_path_of_its_last_leaf(data: st.DataObject) -> None:
    leaves = leaves_of(data.draw(SIZES))
    size = data.draw(st.integers(1, len(leaves)))
    path = naive_inclusion(size - 1, leaves[:size])
    frontier = merkle.Frontier.proved(merkle.leaf_hash(leaves[size - 1]), size, path)
    assert frontier.root() == naive_root(leaves[:size])
    frontier.extend(map(merkle.leaf_hash, leaves[size:]))
    assert (frontier.size, frontier.root()) == (len(leaves), naive_root(leaves))


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_no_path_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_path(index, size, subtrees_of(leaves_of(size)))
    assert merkle.root_of_inclusion(bytes(32), index, size, []) is None


@pytest.mark.parametrize(("old", "new"), [(0, 3), (4, 3), (-1, 3)])
def test_no_path_from_a_tree_that_is_none(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="goes on from none"):
        merkle.consistency_path(old, new, subtrees_of(leaves_of(new)))
