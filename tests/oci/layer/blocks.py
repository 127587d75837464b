"""Tar archives made block by block, so that every field can be wrong, and how they are read."""

import io
from collections.abc import Iterator
from typing import Any

import pytest

from msb_cache.errors import InvalidImageError
from msb_cache.oci.layer.headers import BLOCK
from msb_cache.oci.layer.tar import TarReader

END = bytes(2 * BLOCK)


def header(
    name: bytes = b"f",
    type: bytes = b"0",
    size: int | bytes = 0,
    magic: bytes = b"ustar\x0000",
    **fields: bytes,
) -> bytes:
    """One raw header block with a right checksum; ``at<offset>=bytes`` overwrites any field."""
    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[136:148] = b"%011o\0" % 1000
    block[156:157] = type
    block[257 : 257 + len(magic)] = magic
    for key, value in fields.items():
        offset = int(key.removeprefix("at"))
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes = b"f", data: bytes = b"", type: bytes = b"0", **fields: Any) -> bytes:
    return header(name, type, len(data), **fields) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def pax(**records: bytes) -> bytes:
    data = b"".join(record(key.replace("__", ".").encode(), value) for key, value in records.items())
    return member(b"pax", data, b"x")


class Chunked:
    """A source that yields at most ``step`` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._source, self._step = io.BytesIO(data), step

    def read(self, size: int, /) -> bytes:
        return self._source.read(min(size, self._step))


def entries(data: bytes, step: int = 1 << 20) -> Iterator[Any]:
    return iter(TarReader(Chunked(data, step), "the layer"))


def described(data: bytes, step: int = 1 << 20) -> list[tuple[Any, ...]]:
    return [
        (
            e.path,
            e.type,
            e.mode,
            e.uid,
            e.gid,
            e.mtime,
            e.mtime_ns,
            e.size,
            e.link,
            e.device,
            dict(e.xattrs),
            e.read(),
        )
        for e in entries(data, step)
    ]


def only(data: bytes) -> Any:
    found = list(entries(data))
    assert len(found) == 1
    return found[0]


def refused(data: bytes) -> str:
    with pytest.raises(InvalidImageError) as caught:
        described(data)
    message = str(caught.value)
    assert message.startswith("the layer ")
    assert message.isprintable()
    return message
