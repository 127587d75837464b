"""The descriptor's text, as microsandbox 0.7.11 writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.artifacts.vmdk import MAX_BYTES, Extent, difference, read, render
from msb_cache.errors import CorruptArtifactError, InvalidImageError

# `msb load` of an image with a layer of 3 GiB, one of exactly 2 GiB, and a small one.
EXPECTED = """\
# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="twoGbMaxExtentFlat"

# Extent description
RW 16 FLAT "/c/fsmeta/m.erofs" 0
RW 4194304 FLAT "/c/layers/a.erofs" 0
RW 2097168 FLAT "/c/layers/a.erofs" 4194304
RW 4194304 FLAT "/c/layers/b.erofs" 0
RW 24 FLAT "/c/layers/c.erofs" 0

# The Disk Data Base
#DDB
ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "10403"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.adapterType = "ide"
"""


def test_text() -> None:
    extents = [
        (Path("/c/fsmeta/m.erofs"), 8192),
        (Path("/c/layers/a.erofs"), 3221233664),
        (Path("/c/layers/b.erofs"), 2147483648),
        (Path("/c/layers/c.erofs"), 12288),
    ]
    assert render(extents).decode() == EXPECTED


@pytest.mark.parametrize(
    ("sectors", "cylinders"), [(1, 1), (1008, 1), (1009, 2), (16_514_064, 16_383), (271061416, 268_911)]
)
def test_cylinders_are_rounded_up_and_not_limited(sectors: int, cylinders: int) -> None:
    assert f'cylinders = "{cylinders}"' in render([(Path("/a"), sectors * 512)]).decode()


def test_a_path_keeps_its_bytes() -> None:
    assert b'FLAT "/\xff x" 0' in render([(Path("/\udcff x"), 512)])


@pytest.mark.parametrize("path", ['/a"b', "/a\nb", "/a\rb", "relative"])
def test_a_path_that_cannot_be_written_is_refused(path: str) -> None:
    with pytest.raises(InvalidImageError, match="cannot name the path"):
        render([(Path(path), 512)])


@pytest.mark.parametrize("size", [0, 511, -512])
def test_part_of_a_sector_is_refused(size: int) -> None:
    with pytest.raises(InvalidImageError, match="whole number of sectors"):
        render([(Path("/a"), size)])


FILES = [(Path("/h/cache/fsmeta/m.erofs"), 8192), (Path("/h/cache/layers/a.erofs"), 3 << 30)]


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "d.vmdk"
    path.write_bytes(content)
    return path


def test_what_is_rendered_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, render(FILES))
    assert read(path) == [Extent(file, 0, size) for file, size in FILES]
    assert difference(path, FILES) is None


def test_extents_cut_otherwise_are_the_same(tmp_path: Path) -> None:
    head, _, _ = render(FILES).partition(b"RW 4194304")
    extents = [b'RW 1 FLAT "/h/cache/layers/a.erofs" 0', b'RW 6291455 FLAT "/h/cache/layers/a.erofs" 1\r']
    assert difference(written(tmp_path, head + b"\n".join(extents)), FILES) is None


def test_one_layer_twice_is_two_parts(tmp_path: Path) -> None:
    twice = [*FILES[1:], *FILES[1:]]
    assert len(read(written(tmp_path, render(twice)))) == 2


@pytest.mark.parametrize(
    ("extents", "says"),
    [
        (FILES[:1], "it has 1 parts, not 2"),
        (FILES[::-1], "its part 1 is a.erofs, not m.erofs"),
        ([FILES[0], (FILES[1][0], 4096)], "4096 bytes from byte 0 on of a.erofs, not all"),
        ([FILES[0], (Path("/h/cache/layers/b.erofs"), 3 << 30)], "its part 2 is b.erofs, not a.erofs"),
        ([(Path("/x/cache/fsmeta/m.erofs"), 8192), FILES[1]], "it names files of several caches"),
        ([(Path("/x/cache") / path.relative_to("/h/cache"), size) for path, size in FILES], "made for /x"),
        ([(Path("/x") / path.relative_to("/h/cache"), size) for path, size in FILES], "made for /x"),
    ],
)
def test_differences(tmp_path: Path, extents: list[tuple[Path, int]], says: str) -> None:
    found = difference(written(tmp_path, render(extents)), FILES)
    assert found is not None
    assert says in found.what
    assert found.moved == says.startswith("made for")


def test_another_path_that_leads_to_the_files_is_right(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "layers").mkdir(parents=True)
    (home / "layers" / "a").write_bytes(bytes(512))
    (tmp_path / "link").symlink_to(home)
    path = written(tmp_path, render([(tmp_path / "link" / "layers" / "a", 512)]))
    assert difference(path, [(home / "layers" / "a", 512)]) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(1 << 20),
        render(FILES)[1:],
        render(FILES).replace(b"twoGbMaxExtentFlat", b"monolithicSparse"),
        render(FILES).replace(b"parentCID=ffffffff", b"parentCID=00000001"),
        render(FILES) + b'createType="fullDevice"\n',
        render(FILES).replace(b"RW 16", b"NOACCESS 16"),
        render(FILES).replace(b"RW 16", b"RW -16"),
        render(FILES).replace(b"RW 16", b"RW " + b"9" * 10_000),
        render(FILES).replace(b'"/h', b'"relative/h'),
        render(FILES).replace(b"/h/", b"/h\0/"),
        render(FILES) + b"\xff\xfe",
        render(FILES) + bytes(MAX_BYTES),
    ],
)
def test_what_is_no_descriptor(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CorruptArtifactError, match=r"d\.vmdk"):
        read(written(tmp_path, content))
