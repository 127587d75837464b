"""The VMDK descriptor that shows an image's fsmeta and layers to a virtual machine as one disk.

VMware's "Virtual Disk Format 5.0", with flat extents; text and numbers as microsandbox writes them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msb_cache.errors import InvalidImageError

_SECTOR = 512
_MAX_EXTENT = 4_194_304
"""Sectors in one extent (2 GiB), the most that this kind of disk allows."""
_HEADS = 16
_SECTORS_PER_TRACK = 63


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
            b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n",
            b'createType="twoGbMaxExtentFlat"\n\n# Extent description\n',
            *lines,
            b'\n# The Disk Data Base\n#DDB\nddb.virtualHWVersion = "4"\nddb.geometry.cylinders = "%d"\n'
            % cylinders,
            b'ddb.geometry.heads = "%d"\nddb.geometry.sectors = "%d"\nddb.adapterType = "ide"\n'
            % (_HEADS, _SECTORS_PER_TRACK),
        )
    )
