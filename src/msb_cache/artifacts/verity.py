"""The digest that Linux' fs-verity gives a file: a hash tree over its blocks, of SHA-256 and without salt.

A file has the same one on every host, and where the kernel keeps it (``fsverity enable``) it is checked at
each read. Format: Linux, Documentation/filesystems/fsverity.rst.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

BLOCK = 4096
"""Bytes of a block of the file and of the tree."""

_CHUNK = 1 << 20
_DIGEST = 32
_ZEROS = sha256(bytes(BLOCK)).digest()
"""The hash of a block of zeros, which holes are made of: they are not read."""
_DESCRIPTOR = struct.Struct("<BBBBIQ64s32s144s")
_SHA256, _LOG_BLOCK = 1, 12

Progress = Callable[[int], None]
"""Told how many more bytes were read."""


def digest_of(descriptor: int, progress: Progress = lambda count: None) -> str:
    """Return the digest of an open file as ``sha256:`` and 64 digits, as ``fsverity digest`` prints it.

    Args:
        descriptor: open for reading; where it stands changes.
        progress: told of bytes as they are hashed, those in holes included.

    Raises:
        OSError: the file cannot be read, or got shorter meanwhile.
    """
    size = os.fstat(descriptor).st_size
    hashes = bytearray()
    for start, end in _data(descriptor, size):
        hole = start // BLOCK - len(hashes) // _DIGEST
        hashes += _ZEROS * hole
        progress(hole * BLOCK)
        for offset in range(start, end, _CHUNK):
            data = _read(descriptor, min(_CHUNK, end - offset), offset)
            hashes += block_hashes(data)
            progress(len(data))
    hole = -(-size // BLOCK) - len(hashes) // _DIGEST
    hashes += _ZEROS * hole
    progress(hole * BLOCK)
    return digest_of_blocks(hashes, size)


def block_hashes(data: bytes) -> bytes:
    """Return the hashes of some bytes' blocks, one behind the other; the last block is padded with zeros."""
    whole = len(data) - len(data) % BLOCK
    view = memoryview(data)
    hashes = [sha256(view[offset : offset + BLOCK]).digest() for offset in range(0, whole, BLOCK)]
    if whole < len(data):
        hashes.append(sha256(data[whole:].ljust(BLOCK, b"\0")).digest())
    return b"".join(hashes)


def digest_of_blocks(hashes: Sequence[int] | bytes | bytearray, size: int) -> str:
    """Return the digest of a file of ``size`` bytes from the hashes of its blocks, one behind the other."""
    level = bytes(hashes)
    while len(level) > _DIGEST:
        level = block_hashes(level)
    root = level or bytes(_DIGEST)
    descriptor = _DESCRIPTOR.pack(1, _SHA256, _LOG_BLOCK, 0, 0, size, root, b"", b"")
    return f"sha256:{sha256(descriptor).hexdigest()}"


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where the file has data: begin and end, the begin a multiple of a block."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        start -= start % BLOCK
        end = min(size, os.lseek(descriptor, max(start, offset), os.SEEK_HOLE))
        end = min(size, -(-end // BLOCK) * BLOCK)
        yield start, end
        offset = end


def _read(descriptor: int, count: int, offset: int) -> bytes:
    data = os.pread(descriptor, count, offset)
    while len(data) < count:
        more = os.pread(descriptor, count - len(data), offset + len(data))
        if not more:
            raise OSError(f"the file has become shorter than {offset + count} bytes")
        data += more
    return data
