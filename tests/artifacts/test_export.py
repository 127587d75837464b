"""Layer images as tar archives: read by the standard library, and converted back."""

from __future__ import annotations

import io
import tarfile
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given

from msb_cache.artifacts.export import write_layer_tar
from msb_cache.artifacts.layer import write_layer
from msb_cache.errors import CorruptArtifactError
from tests.artifacts.strategies import layers
from tests.artifacts.support import Member, directory, flatten, hardlink, symlink, tar_entries


def exported(path: Path) -> bytes:
    out = io.BytesIO()
    size = write_layer_tar(path, out)
    assert size == len(out.getvalue())
    return out.getvalue()


@given(members=layers())
def test_round_trip(members: list[Member]) -> None:
    with TemporaryDirectory() as scratch:
        first, second = Path(scratch, "first"), Path(scratch, "second")
        before = write_layer(members, first)
        tar = exported(first)
        after = write_layer(tar_entries(tar), second)
        assert flatten(after.root, {0: second.read_bytes()}) == flatten(before.root, {0: first.read_bytes()})
        assert exported(second) == tar


def listing(*members: Member) -> list[tuple[str, str, str]]:
    with TemporaryDirectory() as scratch:
        path = Path(scratch, "image")
        write_layer(members, path)
        with tarfile.open(fileobj=io.BytesIO(exported(path))) as archive:
            return [(info.name, info.type.decode(), info.linkname) for info in archive]


def test_order_names_and_whiteouts() -> None:
    members = [
        hardlinked := Member(b"z/f", data=b"1"),
        directory(b"b"),
        hardlink(b"b/g", hardlinked.path),
        Member(b"b/.wh.gone"),
        Member(b"b/.wh..wh..opq"),
        Member(b"i/.wh..wh..opq"),
        symlink(b"b-", b"b"),
    ]
    assert listing(*members) == [
        ("b", "5", ""),
        ("b/.wh..wh..opq", "0", ""),
        ("b/g", "0", ""),
        ("b/.wh.gone", "0", ""),
        ("b-", "2", "b"),
        ("i/.wh..wh..opq", "0", ""),
        ("z/f", "1", "b/g"),
    ]


def test_the_root_is_there_if_the_layer_mentioned_it() -> None:
    assert listing(directory(b"./", mode=0o711)) == [(".", "5", "")]
    assert listing() == []


def test_large_numbers_and_long_names(tmp_path: Path) -> None:
    member = Member(
        b"d/" * 80 + b"f",
        uid=2**32 - 2,
        gid=0o7777777 + 1,
        mtime=-2,
        mtime_ns=500_000_000,
        xattrs={b"security.capability": b"\x01\0=\n"},
    )
    write_layer([member], tmp_path / "image")
    [found] = list(tar_entries(exported(tmp_path / "image")))
    assert (found.path, found.uid, found.gid) == (member.path, member.uid, member.gid)
    assert (found.mtime, found.mtime_ns, found.xattrs) == (-2, 500_000_000, member.xattrs)


def test_attributes_are_bytes(tmp_path: Path) -> None:
    member = Member(b"f\xff", xattrs={b"user.\xff": b"\xfe\0\n", b"user.text": b"x"})
    write_layer([member], tmp_path / "image")
    tar = exported(tmp_path / "image")
    [found] = list(tar_entries(tar))
    assert (found.path, found.xattrs) == (member.path, member.xattrs)
    assert b"hdrcharset" not in tar


def test_a_layer_is_the_same_bytes_with_every_python(tmp_path: Path) -> None:
    members = [
        directory(b"d", mode=0o1777, mtime=1_700_000_000, mtime_ns=123_456_789),
        first := Member(b"d/f", data=b"content", uid=2**21, xattrs={b"user.a": b"\0b"}),
        hardlink(b"d/g", first.path),
        symlink(b"l", b"d/" + b"f" * 120),
        Member(b"n" * 150, data=b"x" * 600, mode=0o4755),
    ]
    write_layer(members, tmp_path / "image")
    assert sha256(exported(tmp_path / "image")).hexdigest() == (
        "eed7e2b78e39ed7bc8573a3bbe85980725c5b843d5613ffa5890b4840334162e"
    )


def test_a_hole_becomes_zeros(tmp_path: Path) -> None:
    write_layer([Member(b"f", data=b"x", claimed=3 << 20)], tmp_path / "image")
    with tarfile.open(fileobj=io.BytesIO(exported(tmp_path / "image"))) as archive:
        file = archive.extractfile("f")
        assert file is not None
        assert file.read() == b"x" + bytes((3 << 20) - 1)


def test_a_name_that_would_become_a_whiteout_is_refused(tmp_path: Path) -> None:
    write_layer([Member(b"0wh.secret")], tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    # Between "." and "..", and the changed name, the order stays right.
    (tmp_path / "image").write_bytes(data.replace(b"...0wh.secret", b"....wh.secret"))
    with pytest.raises(CorruptArtifactError, match="no layer can"):
        exported(tmp_path / "image")
