import base64
import io
import os
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache.errors import InvalidImageError
from msb_cache.oci.layer.headers import BLOCK
from msb_cache.oci.layer.tar import TarReader
from tests.imagebuilder import Member, directory, file, hardlink, layer_tar, symlink
from tests.oci.layer.blocks import (
    END,
    described,
    entries,
    header,
    member,
    only,
    padded,
    pax,
    record,
    refused,
)


def test_every_kind_of_member() -> None:
    data = layer_tar(
        [
            directory("d/", mode=0o1777, uid=1, gid=2),
            file("d/f", b"hello", mode=0o4755, mtime_ns=-1_500_000_001),
            file("big", os.urandom(100_000), uid=4_000_000_000, gid=100_000_000),
            symlink("s", "t" * 300),
            hardlink("h", "d/f"),
            Member("c", "character", device=(1, 3)),
            Member("b", "block", device=(259, 70_000)),
            Member("p", "fifo"),
            file("x" * 300, b"1", xattrs={"user.foo": "bar", "security.capability": "a\nb=c"}),
            file("ü/ñ"),
        ]
    )
    found = {e[0]: e for e in described(data)}
    assert found[b"d/"][1:4] == ("directory", 0o1777, 1)
    assert found[b"d/f"][1:7] == ("file", 0o4755, 0, 0, -2, 499_999_999)
    assert found[b"big"][3:8] == (4_000_000_000, 100_000_000, 1_700_000_000, 123_456_789, 100_000)
    assert found[b"s"][1] == "symlink"
    assert found[b"s"][8] == b"t" * 300
    assert found[b"h"][1] == "hardlink"
    assert found[b"h"][8] == b"d/f"
    assert found[b"c"][9] == (1, 3)
    assert found[b"b"][9] == (259, 70_000)
    assert found[b"p"][1] == "fifo"
    assert found[b"x" * 300][10] == {b"user.foo": b"bar", b"security.capability": b"a\nb=c"}
    assert "ü/ñ".encode() in found
    assert described(data, step=1) == described(data, step=700) == described(data)


names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=150
).filter(lambda name: len(name.strip("/")) > 0)
members = st.builds(
    Member,
    name=names,
    type=st.sampled_from(["file", "directory", "symlink", "hardlink", "character", "fifo"]),
    data=st.just(b""),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, (1 << 32) - 1),
    gid=st.integers(0, (1 << 32) - 1),
    mtime_ns=st.integers(-(10**18), 10**19),
    link=names,
    device=st.tuples(st.integers(0, 4095), st.integers(0, 1 << 20)),
)


def as_tarfile_sees_it(data: bytes) -> list[tuple[Any, ...]]:
    kinds = {"0": "file", "1": "hardlink", "2": "symlink", "3": "character", "5": "directory", "6": "fifo"}
    found = []
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape", encoding="utf-8") as tar:
        for info in tar:
            kind = kinds[info.type.decode()]
            content = tar.extractfile(info) if kind == "file" else None
            found.append(
                (
                    info.name.rstrip("/").encode("utf-8", "surrogateescape"),
                    kind,
                    info.mode,
                    info.uid,
                    info.gid,
                    info.linkname.encode("utf-8", "surrogateescape"),
                    (info.devmajor, info.devminor) if kind == "character" else (0, 0),
                    content.read() if content else b"",
                )
            )
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(members, st.binary(max_size=1500)), max_size=5),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from([1, 13, 512, 1 << 20]),
)
def test_it_agrees_with_tarfile(pairs: list[tuple[Member, bytes]], format: int, step: int) -> None:
    built = [
        replace(
            each,
            data=data if each.type == "file" else b"",
            link=each.link if each.type in ("symlink", "hardlink") else "",
            device=each.device if each.type == "character" else (0, 0),
        )
        for each, data in pairs
    ]
    data = layer_tar(built, format)
    found = described(data, step)
    assert [(e[0].rstrip(b"/"), *e[1:5], e[8], e[9], e[11]) for e in found] == as_tarfile_sees_it(data)
    expected_ns = [
        each.mtime_ns if format == tarfile.PAX_FORMAT else each.mtime_ns // 10**9 * 10**9 for each in built
    ]
    assert [e[5] * 10**9 + e[6] for e in found] == expected_ns


def outcome(data: bytes, step: int) -> list[tuple[Any, ...]] | str:
    try:
        return described(data, step)
    except InvalidImageError as error:
        return str(error)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(members, st.binary(max_size=1500)), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 255)), max_size=2),
    st.integers(1, 3000),
)
def test_it_does_not_matter_how_the_bytes_arrive(
    pairs: list[tuple[Member, bytes]], flips: list[tuple[int, int]], step: int
) -> None:
    """Members that lie in one chunk are read in fewer steps than those that are cut."""
    built = [replace(each, data=data if each.type == "file" else b"") for each, data in pairs]
    archive = bytearray(layer_tar(built))
    for place, value in flips:
        archive[place % len(archive)] = value
    assert outcome(bytes(archive), step) == outcome(bytes(archive), 1 << 20)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bytes_are_read_or_refused(data: st.DataObject) -> None:
    good = bytearray(
        layer_tar(
            [file("a" * 120, b"hello", xattrs={"user.a": "b"}), symlink("l", "t" * 120), directory("d")]
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        described(bytes(good))
    except InvalidImageError:
        pass


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from([b"x", b"g", b"L", b"K", b"S", b"0"]))
def test_any_content_is_read_or_refused(data: bytes, type: bytes) -> None:
    try:
        described(member(b"f", data, type) + member(b"g") + END)
    except InvalidImageError:
        pass


# Old formats


def test_before_posix_a_slash_made_a_directory() -> None:
    assert only(header(b"d/", b"\0", magic=b"")).type == "directory"
    assert only(header(b"d/", b"0")).type == "file"
    # Only the whole name counts, not what the header has room for.
    assert only(pax(path=b"d/file") + header(b"d/", b"\0")).type == "file"


def test_the_prefix_is_joined_in_posix_archives_only() -> None:
    assert only(header(b"name", at345=b"some/folder")).path == b"some/folder/name"
    assert only(header(b"name", magic=b"", at345=b"junk")).path == b"name"
    assert only(header(b"name", magic=b"ustar  \0", at345=b"00000001234")).path == b"name"
    assert only(header(b"name", at345=b"p", at476=b"00000001234 ", at508=b"tar\0")).path == b"p/name"


def test_a_full_name_field_has_no_terminator() -> None:
    assert only(header(b"n" * 100)).path == b"n" * 100


def test_contiguous_files_are_files() -> None:
    entry = only(member(b"f", b"data", b"7"))
    assert entry.type == "file"


def test_gnu_long_names_win() -> None:
    data = member(b"././@LongLink", b"long/" * 100 + b"\0", b"L") + member(
        b"././@LongLink", b"target\0", b"K"
    )
    entry = only(data + pax(path=b"other", linkpath=b"other") + header(b"short", b"2", at157=b"short"))
    assert entry.path == b"long/" * 100
    assert entry.link == b"target"


GNU = b"ustar  \0"


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        (b"some/dir", b"some/dir/f"),  # Go before 1.8, as Go reads it since
        (b"14535456712\0" + b"14535456712\0", b"f"),  # two times, as GNU tar writes them
        (b"14535456712\0", b"f"),
        (b"14535456712\0" + b"directory", b"14535456712/f"),
        ("déjà".encode(), b"f"),
    ],
)
def test_a_directory_where_gnu_has_times(prefix: bytes, path: bytes) -> None:
    assert only(header(b"f", at257=GNU, at345=prefix)).path == path


@pytest.mark.parametrize("last", [pax(path=b"long"), member(b"././@LongLink", b"long\0", b"L")])
def test_extensions_of_no_member(last: bytes) -> None:
    assert described(member(b"f") + last + END) == described(member(b"f") + END)
    assert "is truncated" in refused(member(b"f") + last)


def test_extensions_reach_one_member_only() -> None:
    data = pax(path=b"long", mtime=b"5.5") + member(b"a") + member(b"b")
    assert [(e[0], e[5], e[6]) for e in described(data)] == [(b"long", 5, 500_000_000), (b"b", 1000, 0)]


def test_global_headers_are_ignored_as_by_docker() -> None:
    data = member(b"pax_global_header", record(b"comment", b"abc") + record(b"uid", b"5"), b"g") + member(
        b"a"
    )
    assert only(data).uid == 0
    assert "damaged extended header" in refused(member(b"g", b"junk", b"g") + member(b"a"))


def test_links_and_directories_have_no_content() -> None:
    for kind in b"123456":
        data = header(b"a", bytes([kind]), 1000) + member(b"b", b"content")
        assert [(e[0], e[7]) for e in described(data)] == [(b"a", 0), (b"b", 7)]


# Numbers


# PAX records


def test_the_record_gives_the_size_when_the_field_cannot() -> None:
    assert [
        e[11] for e in described(pax(size=b"5") + header(b"a", size=0) + padded(b"12345") + member(b"b"))
    ] == [b"12345", b""]
    for bad in (b"-1", b"1e3", b"9" * 19, b"0x5"):
        assert "size is not a number" in refused(pax(size=bad) + header())


def test_attributes_of_libarchive() -> None:
    value = base64.b64encode(b"\0binary").rstrip(b"=")
    entry = only(
        pax(LIBARCHIVE__xattr__user__b=value, SCHILY__xattr__user__c=b"raw", LIBARCHIVE__xattr__user__c=value)
        + header()
    )
    assert entry.xattrs == {b"user.b": b"\0binary", b"user.c": b"raw"}
    data = member(b"pax", record(b"LIBARCHIVE.xattr.user.%3D%41", b"YmFy"), b"x")
    assert only(data + header()).xattrs == {b"user.=A": b"bar"}
    assert "not base64" in refused(pax(LIBARCHIVE__xattr__user__b=b"!!") + header())
    assert "no proper name" in refused(member(b"pax", record(b"SCHILY.xattr.", b"x"), b"x") + header())


# Bounds


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_extension_headers_are_bounded(kind: bytes) -> None:
    assert "extension header of" in refused(header(b"e", kind, (1 << 20) + 1) + bytes(4096))
    assert "extension header of" in refused(header(b"e", kind, b"\x80" + bytes(4) + b"\x7f" + b"\xff" * 6))


def test_negative_sizes_are_refused() -> None:
    assert "negative size" in refused(header(size=b"\xff" * 12))


def test_unknown_types_are_refused() -> None:
    assert "unsupported type 'V'" in refused(header(type=b"V"))
    assert "unsupported type '\\x01'" in refused(header(type=b"\x01"))


def test_the_end() -> None:
    assert described(b"") == []
    assert described(END) == []
    assert described(bytes(BLOCK)) == []
    assert len(described(member() + bytes(BLOCK))) == 1
    assert len(described(member())) == 1
    assert len(described(member() + END + b"anything")) == 1
    assert "lone block of zeros" in refused(member() + bytes(BLOCK) + member())


def test_truncated_at_every_byte() -> None:
    data = pax(path=b"p" * 200) + member(b"f", b"x" * 700) + member(b"g", b"y" * 10)
    # Where nothing, one or two members and any part of their padding are there.
    boundaries = {0, *range(3 * BLOCK + 700, 5 * BLOCK + 1), *range(6 * BLOCK + 10, 7 * BLOCK + 1)}
    for end in range(len(data)):
        if end in boundaries:
            described(data[:end])
        else:
            assert "is truncated" in refused(data[:end]), end


# Sparse files


def old_sparse(pieces: list[tuple[int, int]], real: int, data: bytes, extended: int = 0) -> bytes:
    table = b"".join(b"%011o\0%011o\0" % piece for piece in pieces)
    return header(
        b"s", b"S", len(data), b"ustar  \0", at386=table, at482=bytes([extended]), at483=b"%011o\0" % real
    )


def expect_sparse(data: bytes, expected: bytes, path: bytes = b"s") -> None:
    for step in (1, 600, 1 << 20):
        found = described(data + member(b"after", b"after") + END, step)
        assert [(e[0], e[7], e[11]) for e in found] == [
            (path, len(expected), expected),
            (b"after", 5, b"after"),
        ]


def test_old_gnu_sparse() -> None:
    data = old_sparse([(512, 512), (2048, 100), (5000, 0)], 5000, bytes(612)) + padded(
        b"A" * 512 + b"B" * 100
    )
    expect_sparse(data, bytes(512) + b"A" * 512 + bytes(1024) + b"B" * 100 + bytes(2852))


def test_old_gnu_sparse_with_extension_blocks() -> None:
    pieces = [(n * 1000, 10) for n in range(50)]
    data = old_sparse(pieces[:4], 50_000, bytes(500), 1)
    for start in range(4, 50, 21):
        table = b"".join(b"%011o\0%011o\0" % piece for piece in pieces[start : start + 21]).ljust(504, b"\0")
        data += table + bytes([start + 21 < 50]) + bytes(7)
    data += padded(b"".join(b"%010d" % n for n in range(50)))
    expect_sparse(data, b"".join((b"%010d" % n).ljust(1000, b"\0") for n in range(50)))


SPARSE = bytes(1000) + b"A" * 600 + bytes(400) + b"B" * 5 + bytes(95)


def test_pax_sparse_of_every_version() -> None:
    stored = padded(b"A" * 600 + b"B" * 5)
    v00 = b"".join(
        record(b"GNU.sparse.offset", offset) + record(b"GNU.sparse.numbytes", length)
        for offset, length in ((b"1000", b"600"), (b"2000", b"5"))
    )
    first = member(
        b"pax", record(b"GNU.sparse.size", b"2100") + record(b"GNU.sparse.numblocks", b"2") + v00, b"x"
    )
    expect_sparse(first + header(b"s", size=605) + stored, SPARSE)
    second = pax(GNU__sparse__map=b"1000,600,2000,5", GNU__sparse__size=b"2100", GNU__sparse__name=b"real")
    expect_sparse(second + header(b"s", size=605) + stored, SPARSE, b"real")
    table = padded(b"2\n1000\n600\n2000\n5\n")
    third = pax(
        GNU__sparse__major=b"1",
        GNU__sparse__minor=b"0",
        GNU__sparse__name=b"real",
        GNU__sparse__realsize=b"2100",
    )
    expect_sparse(third + header(b"s", size=len(table) + 605) + table + stored, SPARSE, b"real")


@pytest.mark.peer
@pytest.mark.parametrize(
    "format",
    ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"],
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, format: str) -> None:
    import subprocess

    from tests.oci.peers import need

    with (tmp_path / "s").open("wb") as out:
        for n in range(60):
            out.seek(n * 131_072)
            out.write(b"%05d" % n * 1000)
        out.truncate(9_000_001)
    done = subprocess.run(
        [need("tar"), "-cS", f"--format={format.split()[0]}", *format.split()[1:], "s"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert len(done.stdout) < 1_000_000
    (found,) = described(done.stdout)
    assert found[0] == b"s"
    assert found[11] == (tmp_path / "s").read_bytes()


@pytest.mark.parametrize(
    ("pieces", "real", "stored"),
    [
        ([(0, 10), (5, 5)], 100, 15),
        ([(50, 10), (0, 5)], 100, 15),
        ([(95, 10)], 100, 10),
        ([(0, 10)], 100, 11),
        ([(0, 10)], 100, 9),
        ([], 100, 1),
        ([(0, 10)], 5, 10),
    ],
)
def test_lying_sparse_maps(pieces: list[tuple[int, int]], real: int, stored: int) -> None:
    assert "sparse" in refused(old_sparse(pieces, real, bytes(stored)) + padded(bytes(stored)))
    text = b",".join(b"%d,%d" % piece for piece in pieces)
    data = pax(
        GNU__sparse__major=b"0",
        GNU__sparse__minor=b"1",
        GNU__sparse__map=text,
        GNU__sparse__size=b"%d" % real,
    )
    assert "sparse" in refused(data + member(b"s", bytes(stored)))


@pytest.mark.parametrize(
    "table", [b"", b"x\n", b"1\n5\n", b"-1\n", b"9999999\n", b"1\n5\nx\n", b"999999\n" + b"1" * 505]
)
def test_damaged_sparse_maps(table: bytes) -> None:
    data = pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__realsize=b"10")
    assert "damaged map" in refused(data + member(b"s", padded(table) if table else b""))


def test_sparse_maps_are_bounded() -> None:
    data = pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__realsize=b"10")
    assert "damaged map" in refused(data + member(b"s", b"999999\n" + b"1" * (3 << 20)))
    endless = old_sparse([], 10, b"", 1) + (bytes(504) + b"\1" + bytes(7)) * 5000
    assert "too many pieces" in refused(endless)


def test_other_sparse_versions_are_refused() -> None:
    data = pax(GNU__sparse__major=b"2", GNU__sparse__minor=b"0", GNU__sparse__realsize=b"10")
    assert "unknown format version" in refused(data + member(b"s"))


# Taking content


def test_copy_to_writes_at_the_offset_and_leaves_holes(tmp_path: Path) -> None:
    target = tmp_path / "out"
    second = pax(GNU__sparse__map=b"1000000,600", GNU__sparse__size=b"2000000")
    data = member(b"a", b"hello") + second + member(b"s", b"A" * 600)
    with target.open("w+b") as out:
        for entry, offset in zip(entries(data, 100), (10, 4096), strict=True):
            entry.copy_to(lambda piece, at: os.pwrite(out.fileno(), piece, at), offset)
        assert os.fstat(out.fileno()).st_blocks * 512 < 100_000
    found = target.read_bytes()
    assert found[10:15] == b"hello"
    assert len(found) == 4096 + 1_000_600
    assert found[4096 + 1_000_000 :] == b"A" * 600


def test_reading_in_parts() -> None:
    entry = next(entries(member(b"a", bytes(range(200)))))
    assert entry.read(3) == b"\0\1\2"
    assert entry.read(0) == b""
    assert entry.read(2) == b"\3\4"
    assert entry.read() == bytes(range(5, 200))
    assert entry.read() == b""


def test_content_is_taken_once_and_before_the_next_entry() -> None:
    reader = entries(member(b"a", b"1") + member(b"b", b"2"))
    first = next(reader)
    assert b"".join(first.chunks()) == b"1"
    with pytest.raises(RuntimeError, match="already taken"):
        first.copy_to(print, 0)
    second = next(reader)
    with pytest.raises(RuntimeError, match="moved on"):
        first.copy_to(print, 0)
    assert second.read() == b"2"


def test_partly_read_members_are_skipped() -> None:
    reader = entries(member(b"a", b"x" * 5000) + member(b"b", b"2"), 100)
    first = next(reader)
    next(first.chunks())
    assert next(reader).path == b"b"


def test_large_files_go_through_in_small_pieces() -> None:
    class Zeros:
        left = 3 << 30

        def __init__(self) -> None:
            self._head = header(b"big", size=3 << 30)

        def read(self, size: int, /) -> bytes:
            if self._head:
                data, self._head = self._head, b""
                return data
            step = min(size, self.left)
            self.left -= step
            return ZEROS[:step]

    source = Zeros()
    assert [entry.size for entry in TarReader(source)] == [3 << 30]
    assert source.left == 0


ZEROS = bytes(1 << 20)


def test_thousands_of_members_are_quick() -> None:
    data = layer_tar([file(f"usr/share/doc/package{n:05}/copyright", b"x" * 100) for n in range(5000)])
    began = time.perf_counter()
    count = sum(1 for _ in TarReader(io.BytesIO(data)))
    took = time.perf_counter() - began
    assert count == 5000
    assert (
        took < 1.0
    )  # 25,000 take about half a second where nothing else runs; this bound is for slow machines
