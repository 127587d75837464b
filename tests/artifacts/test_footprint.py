"""What trees take of memory, counted and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.artifacts.layer import read_layer, write_layer
from msb_cache.errors import InvalidImageError
from tests.artifacts.support import Member, f, hardlink, symlink, tree_of

BIG = {b"user.a": bytes(60_000)}


@pytest.mark.parametrize(
    "members",
    [
        [f(b"a/b/c"), *(f(b"d%d" % number) for number in range(60))],
        [f(b"/".join(b"d%d" % number for number in range(60)))],
        [Member(b".wh.%d" % number) for number in range(64)],
        [f(b"a"), *(hardlink(b"b%d" % number, b"a") for number in range(64))],
        [f(b"n%0200d" % number) for number in range(45)],
        [symlink(b"l%d" % number, b"t" * 4000) for number in range(6)],
        [f(b"x", xattrs=BIG)],
        [f(b"a/b"), Member(b"a", "directory", xattrs=BIG)],
        [Member(b".", "directory", xattrs=BIG)],
        [f(b"x", xattrs={b"user.%d" % number: b"" for number in range(300)})],
        [f(b"same")] * 64,  # replaced each time: counted by what is said and not by what remains
    ],
    ids=lambda members: repr(members[-1].path[:8]),
)
def test_a_tree_that_takes_too_much_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, members: list[Member]
) -> None:
    tree_of(*members)
    monkeypatch.setattr("msb_cache.artifacts.footprint.MAX_FOOTPRINT", 1 << 16)
    tree_of(f(b"a/b"), symlink(b"l", b"t"))
    with pytest.raises(InvalidImageError, match="more than 0 MiB of memory"):
        tree_of(*members)


def test_a_footprint_is_the_same_when_it_is_read_back(tmp_path: Path) -> None:
    members = [f(b"a/b", xattrs=BIG), symlink(b"l", b"t" * 400), hardlink(b"h", b"a/b"), Member(b".wh.x")]
    written = write_layer(members, tmp_path / "layer")
    assert read_layer(tmp_path / "layer").footprint == written.footprint > 180_000
