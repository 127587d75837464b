"""Random layers for the property tests: few names, so that entries collide."""

from __future__ import annotations

import hypothesis.strategies as st

from msb_cache.artifacts.changeset import ChangeSet
from msb_cache.errors import InvalidImageError
from tests.artifacts.support import Member

NAMES = st.sampled_from([b"a", b"b", b"c", b"-", b"\xff\xc3", b"n" * 255, b"sub"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
XATTRS = st.dictionaries(
    st.sampled_from([b"user.a", b"trusted.b", b"security.capability", b"user." + b"x" * 250]),
    st.sampled_from([b"", b"1", b"v" * 300, bytes(range(256)), b"w" * 5000]),
    max_size=2,
)
IDS = st.sampled_from([0, 1000, 0o7777777, 0o7777777 + 1, 2**32 - 2])
SIZES = st.sampled_from([0, 1, 511, 4095, 4096, 4097, 20000])


@st.composite
def members(draw: st.DrawFn) -> Member:
    kind = draw(
        st.sampled_from(
            ["file"] * 4
            + ["directory"] * 3
            + ["symlink", "hardlink", "whiteout", "opaque", "character", "block", "fifo"]
        )
    )
    path = draw(PATHS)
    data = link = b""
    device = (0, 0)
    if kind == "file":
        data = bytes([draw(st.integers(1, 255))]) * draw(SIZES)
    elif kind == "symlink":
        link = draw(st.one_of(PATHS, PATHS.map(lambda path: b"/../" + path), st.just(b"t" * 4095)))
    elif kind == "hardlink":
        link = draw(PATHS)
    elif kind in ("character", "block"):
        device = draw(st.sampled_from([(0, 0), (1, 3), (4095, 0xFFFFF), (8, 256)]))
    elif kind in ("whiteout", "opaque"):
        head, _, name = path.rpartition(b"/")
        name = b".wh..wh..opq" if kind == "opaque" else b".wh." + name[:200]
        path = head + b"/" + name if head else name
        kind = "file"
    return Member(
        path,
        kind,
        data,
        mode=draw(st.sampled_from([0o644, 0o755, 0o6711, 0o1777, 0])),
        uid=draw(IDS),
        gid=draw(IDS),
        mtime=draw(st.sampled_from([0, 1, -1, 1_700_000_000, 2**33, -(2**40)])),
        mtime_ns=draw(st.sampled_from([0, 1, 999_999_999, 120_000_000])),
        link=link,
        device=device,
        xattrs={} if kind == "hardlink" else draw(XATTRS),
    )


@st.composite
def layers(draw: st.DrawFn) -> list[Member]:
    """A layer's members; those that the ones before make impossible are left out."""
    accepted: list[Member] = []
    for member in draw(st.lists(members(), max_size=12)):
        changes = ChangeSet()
        for before in accepted:
            changes.add(before)
        try:
            changes.add(member)
        except InvalidImageError:
            continue
        accepted.append(member)
    return accepted
