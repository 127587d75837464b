"""Tar entries become a tree by the OCI image-spec's rules, or are refused."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest

from msb_cache.artifacts.changeset import ChangeSet
from msb_cache.artifacts.tree import is_whiteout, walk
from msb_cache.errors import InvalidImageError
from tests.artifacts.support import Member, directory, f, hardlink, symlink, tree_of


def outline(*members: Member) -> dict[str, str]:
    """Path → what is there; directories with O for opaque and ? for implicit."""
    shown = {}
    for path, node in walk(tree_of(*members)):
        if node.children is not None:
            kind = "dir" + "O" * node.opaque + "?" * node.implicit
        elif is_whiteout(node):
            kind = "whiteout"
        elif node.target:
            kind = f"-> {node.target.decode()}"
        else:
            kind = f"file {node.size}" if stat.S_ISREG(node.mode) else "special"
        shown["/" + path.decode()] = kind
    return shown


RULES: dict[str, tuple[list[Member], dict[str, str]]] = {
    "nothing": ([], {}),
    "whiteout": ([f(b".wh.a")], {"/a": "whiteout"}),
    "whiteout of a long name": ([f(b".wh." + b"n" * 255)], {"/" + "n" * 255: "whiteout"}),
    "whiteout implies parents": ([f(b"d/.wh.a")], {"/d": "dir?", "/d/a": "whiteout"}),
    "whiteout then file": ([f(b".wh.a"), f(b"a")], {"/a": "file 1"}),
    "file then whiteout": ([f(b"a"), f(b".wh.a")], {"/a": "file 1"}),
    "whiteout then directory": ([f(b".wh.a"), directory(b"a")], {"/a": "dirO"}),
    "directory then whiteout": ([directory(b"a"), f(b".wh.a")], {"/a": "dirO"}),
    "whiteout then implied": ([f(b".wh.a"), f(b"a/b")], {"/a": "dirO", "/a/b": "file 1"}),
    "implied then whiteout": ([f(b"a/b"), f(b".wh.a")], {"/a": "dirO", "/a/b": "file 1"}),
    "whiteout, file, directory": ([f(b".wh.a"), f(b"a"), directory(b"a")], {"/a": "dirO"}),
    "whiteout twice": ([f(b".wh.a"), f(b".wh.a")], {"/a": "whiteout"}),
    "whiteout of any type": ([directory(b".wh.a")], {"/a": "whiteout"}),
    "opaque implies its directory": ([f(b"a/.wh..wh..opq")], {"/a": "dirO?"}),
    "opaque hides nothing of its own layer": (
        [f(b"a/b"), directory(b"a"), f(b"a/.wh..wh..opq")],
        {"/a": "dirO", "/a/b": "file 1"},
    ),
    "opaque root": ([f(b".wh..wh..opq")], {"/": "dirO?"}),
    "aufs bookkeeping": (
        [
            directory(b".wh..wh.plnk"),
            f(b".wh..wh.plnk/1.2"),
            f(b".wh..wh.aufs"),
            f(b"a/.wh..wh.orph/.wh..wh..opq"),
        ],
        {},
    ),
    "overlayfs whiteout": ([Member(b"a", "character", mode=0o600)], {"/a": "whiteout"}),
    "overlayfs whiteout wins": ([f(b"a"), Member(b"a", "character")], {"/a": "whiteout"}),
    "last wins": ([f(b"a"), f(b"a", 2)], {"/a": "file 2"}),
    "file replaces directory": ([f(b"a/b"), f(b"a")], {"/a": "file 1"}),
    "file replaces tree": ([f(b"a/b/c"), f(b"a"), f(b"a2")], {"/a": "file 1", "/a2": "file 1"}),
    "directory replaces file": ([f(b"a"), directory(b"a")], {"/a": "dir"}),
    "directory described late": ([f(b"a/b"), directory(b"a")], {"/a": "dir", "/a/b": "file 1"}),
    "directory replaces link": ([symlink(b"a", b"b"), directory(b"a")], {"/a": "dir"}),
    "ways to write a path": (
        [f(b"/a"), f(b"./b"), f(b"//c//d"), f(b"./e/./f/.")],
        {"/a": "file 1", "/b": "file 1", "/c": "dir?", "/c/d": "file 1", "/e": "dir?", "/e/f": "file 1"},
    ),
    "through a link": (
        [symlink(b"l", b"d"), f(b"l/x")],
        {"/l": "-> d", "/d": "dir?", "/d/x": "file 1"},
    ),
    "through an absolute link": (
        [directory(b"d"), symlink(b"e/l", b"/d"), f(b"e/l/x")],
        {"/d": "dir", "/d/x": "file 1", "/e": "dir?", "/e/l": "-> /d"},
    ),
    "no link leaves the root": (
        [symlink(b"l", b"../../../d/.."), f(b"l/x")],
        {"/l": "-> ../../../d/..", "/x": "file 1"},
    ),
    "whiteout through links": (
        [symlink(b"l", b"m"), symlink(b"m", b"n/o"), f(b"l/.wh.x")],
        {"/l": "-> m", "/m": "-> n/o", "/n": "dir?", "/n/o": "dir?", "/n/o/x": "whiteout"},
    ),
    "link replaced after use": (
        [directory(b"d"), symlink(b"l", b"d"), f(b"l/x"), f(b"l"), f(b"d/y")],
        {"/d": "dir", "/d/x": "file 1", "/d/y": "file 1", "/l": "file 1"},
    ),
    "directory replaced by a link after use": (
        [f(b"d/x"), symlink(b"d", b"e"), f(b"d/y")],
        {"/d": "-> e", "/e": "dir?", "/e/y": "file 1"},
    ),
    "link to itself": ([f(b"a"), hardlink(b"a", b"./a")], {"/a": "file 1"}),
}


@pytest.mark.parametrize(("members", "expected"), RULES.values(), ids=RULES)
def test_rules(members: list[Member], expected: dict[str, str]) -> None:
    assert outline(*members) == {"/": "dir?"} | expected


def test_root_entry_describes_the_root() -> None:
    root = tree_of(f(b"a"), directory(b"./", mode=0o711, uid=5, mtime=-3, mtime_ns=7))
    assert (root.mode & 0o7777, root.uid, root.mtime, root.mtime_ns, root.implicit) == (
        0o711,
        5,
        -3,
        7,
        False,
    )


def test_hard_links_are_one_node() -> None:
    root = tree_of(f(b"d/a"), symlink(b"l", b"d"), hardlink(b"b", b"/l/a"), hardlink(b"c", b"b"))
    assert root.children is not None
    assert root.children[b"b"] is root.children[b"c"] is dict(walk(root))[b"d/a"]


def test_a_replaced_file_keeps_its_other_names() -> None:
    flat = dict(walk(tree_of(f(b"a", 1), hardlink(b"b", b"a"), f(b"a", 2))))
    assert (flat[b"a"].size, flat[b"b"].size) == (2, 1)


def test_links_and_devices_may_be_hard_linked() -> None:
    null = Member(b"null", "character", device=(1, 3))
    flat = dict(walk(tree_of(symlink(b"l", b"t"), hardlink(b"m", b"l"), null, hardlink(b"zero", b"null"))))
    assert flat[b"l"] is flat[b"m"]
    assert flat[b"null"] is flat[b"zero"]


def test_mode_keeps_its_special_bits() -> None:
    flat = dict(walk(tree_of(Member(b"su", mode=0o6755), directory(b"tmp", mode=0o1777))))
    assert (flat[b"su"].mode, flat[b"tmp"].mode) == (0o106755, 0o041777)


def test_a_time_before_1970_may_be_written_as_unsigned() -> None:
    assert dict(walk(tree_of(Member(b"a", mtime=2**64 - 1000))))[b"a"].mtime == -1000


def test_foreign_and_overlay_attributes_are_dropped() -> None:
    xattrs = {
        b"user.a": b"1",
        b"security.capability": b"2",
        b"trusted.overlay.opaque": b"y",
        b"trusted.overlay.redirect": b"/etc",
        b"system.posix_acl_access": b"3",
        b"system.nfs4_acl": b"4",
        b"user.": b"5",
        b"com.apple.quarantine": b"6",
    }
    flat = dict(walk(tree_of(directory(b"d", xattrs=xattrs))))
    assert flat[b"d"].xattrs == {
        b"user.a": b"1",
        b"security.capability": b"2",
        b"system.posix_acl_access": b"3",
    }
    assert not flat[b"d"].opaque


LOOP = [symlink(b"l", b"m"), symlink(b"m", b"l")]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([f(b"../a")], "upwards: '../a'"),
        ([f(b"a/../b")], "upwards"),
        ([f(b"a/..")], "upwards"),
        ([hardlink(b"a", b"../etc/shadow")], "upwards"),
        ([f(b"a\0b")], r"NUL: 'a\x00b'"),
        ([f(b"a\0b/c")], "NUL"),
        ([f(b"n" * 256)], "longer than 255"),
        ([f(b"n" * 256 + b"/a")], "longer than 255"),
        ([f(b"d/" * 1024 + b"a")], "1024 deep"),
        ([symlink(b"a", b"")], "symbolic link"),
        ([symlink(b"a", b"t" * 4096)], "symbolic link"),
        ([symlink(b"a", b"t\0")], "symbolic link"),
        ([symlink(b"a", b"n" * 256), f(b"a/x")], "longer than 255"),
        ([*LOOP, f(b"l/x")], "too many symbolic links: 'l/x'"),
        ([f(b"a"), f(b"a/b")], "'a/b' below 'a', which is not a directory"),
        ([f(b"t"), symlink(b"l", b"t"), f(b"l/b")], "below 't'"),
        ([hardlink(b"a", b"b")], "'a' as a hard link to 'b', which is not in this layer"),
        ([f(b".wh.b"), hardlink(b"a", b"b")], "not in this layer"),
        ([directory(b"d"), hardlink(b"a", b"d")], "which is a directory"),
        ([hardlink(b"a", b"./")], "which is a directory"),
        ([f(b".wh.")], "whiteout without a name"),
        ([f(b".wh...")], "whiteout without a name"),
        ([f(b".wh.a/b")], "below a whiteout"),
        ([symlink(b"l", b".wh.a"), f(b"l/b")], "below a whiteout"),
        ([Member(b".", "symlink", link=b"x")], "replaces its root"),
        ([Member(b"a", uid=1 << 32)], "impossible owner 4294967296:0"),
        ([Member(b"a", gid=-1)], "impossible owner"),
        ([Member(b"a", mtime=1 << 64)], "impossible time"),
        ([Member(b"a", mtime=-(1 << 63) - 1)], "impossible time"),
        ([Member(b"a", mtime_ns=10**9)], "impossible time"),
        ([Member(b"a", "block", device=(4096, 0))], "device number 4096:0"),
        ([Member(b"a", "socket")], "unknown type 'socket'"),
        ([Member(b"a", claimed=1 << 62)], "file of 4611686018427387904 bytes"),
        ([Member(b"a", xattrs={b"user.a": bytes(65536)})], "extended attributes"),
        ([Member(b"a", xattrs={b"user.%d" % i: bytes(60000) for i in range(5)})], "extended attributes"),
    ],
)  # fmt: skip
def test_refused(members: list[Member], message: str) -> None:
    changes = ChangeSet()
    for member in members[:-1]:
        changes.add(member)
    with pytest.raises(InvalidImageError) as caught:
        changes.add(members[-1])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_long_chains_of_links_for_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [directory(b"d"), symlink(b"a", b"d/../" * 30 + b"d"), symlink(b"b", b"d/../" * 30 + b"a")]
    members = [f(name % number) for number in range(5) for name in (b"b/%d", b"z%d")]
    assert b"d/4" in dict(walk(tree_of(*chain, *members)))
    monkeypatch.setattr("msb_cache.artifacts.changeset.MAX_DETOURS", 600)  # each goes along 122 names
    with pytest.raises(InvalidImageError, match="too long symbolic links"):
        tree_of(*chain, *members)


def test_an_entry_is_read_not_kept() -> None:
    xattrs = {b"user.a": b"1"}
    member = replace(f(b"a"), xattrs=xattrs)
    root = tree_of(member)
    xattrs[b"user.b"] = b"2"
    assert dict(walk(root))[b"a"].xattrs == {b"user.a": b"1"}
