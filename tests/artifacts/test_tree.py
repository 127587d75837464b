"""Trees of inodes: walked in order without recursion, and named safely."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from msb_cache.artifacts.tree import Node, implicit_directory, is_whiteout, quoted, walk, whiteout


def directory(**children: Node) -> Node:
    return Node(stat.S_IFDIR | 0o755, children={name.encode(): node for name, node in children.items()})


def test_a_directory_comes_before_what_it_holds_and_siblings_by_name() -> None:
    root = directory(b=directory(z=whiteout(), a=whiteout()), a=whiteout(), c=directory())
    assert [path for path, _ in walk(root)] == [b"", b"a", b"b", b"b/a", b"b/z", b"c"]


def test_depth_does_not_matter() -> None:
    root = node = implicit_directory()
    for _ in range(5000):
        node.children = {b"d": implicit_directory()}
        node = node.children[b"d"]
    assert sum(1 for _ in walk(root)) == 5001


def test_a_whiteout_is_the_character_device_without_a_number() -> None:
    assert is_whiteout(whiteout())
    assert not is_whiteout(Node(stat.S_IFCHR | 0o600, rdev=(1, 3)))
    assert not is_whiteout(Node(stat.S_IFBLK))
    assert not is_whiteout(Node(stat.S_IFREG))


@given(st.binary(max_size=4100))
def test_names_in_messages_are_short_and_printable(path: bytes) -> None:
    text = quoted(path)
    assert len(text) <= 160
    assert text.isprintable()
    assert text[0] == text[-1]
