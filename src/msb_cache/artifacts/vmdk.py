"""The VMDK descriptor that shows an image's fsmeta and layers to a virtual machine as one disk.

VMware's "Virtual Disk Format 5.0", with flat extents; text and numbers as microsandbox writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msb_cache.artifacts.verity import open_plain
from msb_cache.errors import CorruptArtifactError, InvalidImageError

MAX_BYTES = 16 << 20
"""No sound descriptor is longer: one of 1024 layers has less than a megabyte."""

_SECTOR = 512
_MAX_EXTENT = 4_194_304
"""Sectors in one extent (2 GiB), the most that this kind of disk allows."""
_HEADS = 16
_SECTORS_PER_TRACK = 63
_MAGIC = b"# Disk DescriptorFile"
_CREATE_TYPE = b'createType="twoGbMaxExtentFlat"'
_NO_PARENT = b"parentCID=ffffffff"
_EXTENT = re.compile(rb'(?:RW|RDONLY) ([0-9]{1,18}) FLAT "(/[^"\0]*)" ([0-9]{1,18})')
_SETTING = re.compile(rb"[A-Za-z][\w.]* *=[^\0]*")


def render(extents: Sequence[tuple[Path, int]]) -> bytes:
    """The descriptor of a disk that concatenates files, each given with its size in bytes.

    Sizes are multiples of 512 and paths absolute. Raises :class:`InvalidImageError` for a path that
    the format cannot express: it has no way to write a quotation mark or a line break.
    """
    lines = []
    total = 0
    for path, size in extents:
        if size <= 0 or size % _SECTOR:
            raise InvalidImageError(
                f"{path.name} is {size} bytes long, which is not a whole number of sectors."
            )
        name = os.fsencode(path)
        if not path.is_absolute() or any(char in name for char in b'"\r\n'):
            raise InvalidImageError(f"A disk descriptor cannot name the path {os.fspath(path)!r}.")
        sectors = size // _SECTOR
        total += sectors
        for offset in range(0, sectors, _MAX_EXTENT):
            length = min(_MAX_EXTENT, sectors - offset)
            lines.append(b'RW %d FLAT "%b" %d\n' % (length, name, offset))
    # Rounded up and without the IDE limit of 16,383, as microsandbox has it.
    cylinders = -(-total // (_HEADS * _SECTORS_PER_TRACK))
    return b"".join(
        (
            _MAGIC + b"\nversion=1\nCID=fffffffe\n" + _NO_PARENT + b"\n",
            _CREATE_TYPE + b"\n\n# Extent description\n",
            *lines,
            b'\n# The Disk Data Base\n#DDB\nddb.virtualHWVersion = "4"\nddb.geometry.cylinders = "%d"\n'
            % cylinders,
            b'ddb.geometry.heads = "%d"\nddb.geometry.sectors = "%d"\nddb.adapterType = "ide"\n'
            % (_HEADS, _SECTORS_PER_TRACK),
        )
    )


class Extent(NamedTuple):
    """A part of a disk: so many bytes of a file, from ``offset`` on."""

    path: Path
    offset: int
    size: int


def read(path: Path) -> list[Extent]:
    """Return the extents of the descriptor at ``path``, in order; those that go on in one file are joined.

    Raises:
        CorruptArtifactError: it is no descriptor of a disk of flat extents.
        OSError: it cannot be read.
    """
    with open(open_plain(path), "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise CorruptArtifactError(f"the disk descriptor {path.name} is over {MAX_BYTES >> 20} MiB")
    lines = [line.rstrip() for line in content.split(b"\n")]
    kind = [line for line in lines if line.startswith((b"createType", b"parentCID"))]
    if lines[0] != _MAGIC or kind != [_NO_PARENT, _CREATE_TYPE]:
        raise CorruptArtifactError(f"{path.name} is no descriptor of a disk of flat extents by itself")
    extents: list[Extent] = []
    for number, line in enumerate(lines, start=1):
        if match := _EXTENT.fullmatch(line):
            sectors, name, sector = match.groups()
            extent = Extent(Path(os.fsdecode(name)), int(sector) * _SECTOR, int(sectors) * _SECTOR)
            last = extents[-1] if extents else None
            if last is not None and (last.path, last.offset + last.size) == extent[:2]:
                extents[-1] = last._replace(size=last.size + extent.size)
            else:
                extents.append(extent)
        elif line and not line.startswith(b"#") and not _SETTING.fullmatch(line):
            raise CorruptArtifactError(f"line {number} of the disk descriptor {path.name} cannot be read")
    return extents


class Difference(NamedTuple):
    """In what a descriptor is not that of some files; ``moved``: in nothing but the folder above theirs."""

    what: str
    moved: bool = False


def difference(path: Path, expected: Sequence[tuple[Path, int]]) -> Difference | None:
    """Return in what a descriptor differs from one that concatenates ``expected``; None if in nothing.

    As for :func:`render`. A file may be named by another path that leads to it, and cut into other extents.

    Raises:
        CorruptArtifactError: it is no descriptor of a disk of flat extents.
        OSError: it cannot be read.
    """
    found = read(path)
    if len(found) != len(expected):
        return Difference(f"it has {len(found)} parts, not {len(expected)}")
    folders = set()
    for number, (extent, (file, size)) in enumerate(zip(found, expected, strict=True), start=1):
        if extent.path.parts[-2:] != file.parts[-2:]:
            return Difference(f"its part {number} is {_shown(extent.path.name)}, not {file.name}")
        if (extent.offset, extent.size) != (0, size):
            shown = f"{extent.size} bytes from byte {extent.offset} on"
            return Difference(f"its part {number} is {shown} of {file.name}, not all {size}")
        folders.add(None if _same(extent.path, file) else extent.path.parent.parent)
    if folders <= {None}:
        return None
    if None in folders or len(folders) > 1:
        return Difference("it names files of several caches")
    (cache,) = folders
    home = cache.parent if cache is not None and cache.name == "cache" else cache
    return Difference(f"it was made for {_shown(os.fspath(home or ''))}", moved=True)


def _shown(name: str) -> str:
    return os.fsencode(name)[:300].decode("utf-8", "replace")


def _same(path: Path, other: Path) -> bool:
    try:
        return path == other or path.samefile(other)
    except (OSError, ValueError):
        return False
