"""The descriptor's text, as microsandbox 0.7.11 writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.artifacts.vmdk import render
from msb_cache.errors import InvalidImageError

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
