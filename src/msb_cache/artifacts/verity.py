"""The fs-verity digest of a file: what Linux would call it by, with SHA-256 and blocks of 4096 bytes.

The blocks are hashed, the hashes are put together into blocks that are hashed in turn until one is left, and
a descriptor of that and of the file's length gives the digest (Linux, Documentation/filesystems/fsverity.rst;
no salt, no signature). Of the tree only its right edge is in memory, so a file may be of any length, and a
hole in it costs next to nothing.

Imports the standard library alone, for it is a program too (see ``hashing``): each block is hashed by a call
that lets go of the interpreter's lock, and with other threads at work, winning that back costs more.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from errno import EINVAL, EIO, ENXIO
from hashlib import sha256
from struct import Struct

BLOCK = 4096

_HASH = 32
_PER_BLOCK = BLOCK // _HASH
_DESCRIPTOR = Struct("<BBBBIQ64s176x")
_VERSION, _SHA256, _BLOCK_BITS = 1, 1, 12
_CHUNK = 1 << 20
_EMPTY = sha256()
_ZEROS = [sha256(bytes(BLOCK)).digest()]
"""By level: the hash of a block of zeros, and of what is above nothing but such."""
while len(_ZEROS) < 10:
    _ZEROS.append(sha256(_ZEROS[-1] * _PER_BLOCK).digest())


def _hash_blocks(data: memoryview) -> bytearray:
    """Return the hashes of blocks, one after the other."""
    hashes = bytearray()
    new = _EMPTY.copy  # half a microsecond less than a constructor
    for at in range(0, len(data), BLOCK):
        block = new()
        block.update(data[at : at + BLOCK])
        hashes += block.digest()
    return hashes


def _padded_hash(hashes: bytes | bytearray) -> bytes:
    return sha256(hashes.ljust(BLOCK, b"\0")).digest()


class Tree:
    """The hashes above the blocks of a file, which come in their order, but for block 0: it is the last."""

    def __init__(self) -> None:
        self._first: list[bytearray] = []
        """By level: the hashes beside the first one, which is not known yet, in its block."""
        self._tail: list[bytearray] = []
        """By level: the hashes of the block after that which is not full."""

    def add(self, hashes: bytes | bytearray | memoryview, level: int = 0) -> None:
        """Take the hashes of the next blocks."""
        first, tail = self._at(level)
        missing = BLOCK - _HASH - len(first)
        first += hashes[:missing]
        tail += hashes[missing:]
        whole = len(tail) // BLOCK * BLOCK
        if whole:
            above = _hash_blocks(memoryview(bytes(tail[:whole])))
            del tail[:whole]
            self.add(above, level + 1)

    def add_zeros(self, count: int, level: int = 0) -> None:
        """Take so many blocks of zeros."""
        first, tail = self._at(level)
        missing = _PER_BLOCK - 1 - len(first) // _HASH
        if not missing and tail:
            missing = _PER_BLOCK - len(tail) // _HASH
        self.add(_ZEROS[level] * min(count, missing), level)
        count -= min(count, missing)
        if count and tail:
            self.add_zeros(count, level)
        elif count:
            if count >= _PER_BLOCK:
                self.add_zeros(count // _PER_BLOCK, level + 1)
            tail += _ZEROS[level] * (count % _PER_BLOCK)

    def digest(self, first: bytes, size: int) -> str:
        """Return the file's digest, from the hash of block 0 and its size in bytes; that ends the tree."""
        level, end = 0, b""
        while True:
            self.add(end, level)
            beside, tail = self._at(level)
            if not beside:
                break
            end = _padded_hash(tail) if tail else b""
            first = _padded_hash(first + beside)
            level += 1
        descriptor = _DESCRIPTOR.pack(_VERSION, _SHA256, _BLOCK_BITS, 0, 0, size, first if size else b"")
        return f"sha256:{sha256(descriptor).hexdigest()}"

    def _at(self, level: int) -> tuple[bytearray, bytearray]:
        while len(self._first) <= level:
            self._first.append(bytearray())
            self._tail.append(bytearray())
        return self._first[level], self._tail[level]


class Reader:
    """Hashes a file that may still be written; up to where, is said bit by bit, and block 0 is read last.

    ``each`` is called before each MiB.
    """

    def __init__(self, descriptor: int, each: Callable[[], None] = lambda: None) -> None:
        self.descriptor = descriptor
        self._each = each
        self._tree = Tree()
        self._at = BLOCK
        self._buffer = bytearray(_CHUNK)

    def read_to(self, end: int) -> None:
        """Hash the whole blocks before byte ``end``, which do not change any more; raises OSError."""
        end -= end % BLOCK
        while self._at < end:
            self._each()
            data = self._next_data(end)
            if data > self._at:
                self._tree.add_zeros((data - self._at) // BLOCK)
                self._at = data
            elif not self._read(end):
                raise OSError(EIO, "the file became shorter")

    def _read(self, end: int) -> int:
        """Hash the next blocks; what is behind the end of the file is zeros. Return how many bytes it had."""
        view = memoryview(self._buffer)[: min(end - self._at, _CHUNK)]
        filled = _read_at(self.descriptor, view, self._at)
        if filled:
            whole = filled + -filled % BLOCK
            view[filled:whole] = bytes(whole - filled)
            self._tree.add(_hash_blocks(view[:whole]))
            self._at += whole
        return filled

    def _next_data(self, end: int) -> int:
        """Return where the next block begins that is in no hole."""
        try:
            found = os.lseek(self.descriptor, self._at, os.SEEK_DATA)
        except OSError as error:
            found = end if error.errno == ENXIO else self._at  # there is no more; or it cannot be told
        return min(found - found % BLOCK, end)

    def digest(self) -> str:
        """Return the digest of the file as it is now, all of it; raises OSError."""
        size = os.fstat(self.descriptor).st_size
        last = size - size % BLOCK
        if self._at > max(last, BLOCK):
            raise OSError(EIO, "the file became shorter")
        self.read_to(last)
        if last < size and last:
            self._read(last + BLOCK)
        head = memoryview(bytearray(BLOCK))
        _read_at(self.descriptor, head, 0)
        return self._tree.digest(sha256(head).digest(), size)


def _read_at(descriptor: int, view: memoryview, offset: int) -> int:
    """Fill a buffer from the file, as far as that goes; return how many bytes it had."""
    filled = 0
    while filled < len(view):
        count = os.preadv(descriptor, [view[filled:]], offset + filled)
        if not count:
            break
        filled += count
    return filled


class PlainReader:
    """Hashes a file with SHA-256, all of its bytes in their order; ``each`` is called before each MiB."""

    def __init__(self, descriptor: int, each: Callable[[], None] = lambda: None) -> None:
        self.descriptor = descriptor
        self._each = each
        self._hash = sha256()
        self._at = 0
        self._buffer = bytearray(_CHUNK)

    def read_to(self, end: int) -> None:
        """Hash what lies before byte ``end``, as far as the file goes; raises OSError."""
        while self._at < end:
            self._each()
            view = memoryview(self._buffer)[: min(end - self._at, _CHUNK)]
            filled = _read_at(self.descriptor, view, self._at)
            if not filled:
                break
            self._hash.update(view[:filled])
            self._at += filled

    def digest(self) -> str:
        """Return the digest of the file as it is now, all of it; raises OSError."""
        self.read_to(os.fstat(self.descriptor).st_size)
        return f"sha256:{self._hash.hexdigest()}"


READERS: dict[str, type[Reader | PlainReader]] = {"fs-verity": Reader, "sha256": PlainReader}
"""By algorithm."""


def digest_of(descriptor: int, algorithm: str = "fs-verity", each: Callable[[], None] = lambda: None) -> str:
    """Return the digest, ``sha256:…``, of an open file; raises OSError, and what ``each`` does."""
    return READERS[algorithm](descriptor, each).digest()


def open_plain(path: str | bytes | os.PathLike[str]) -> int:
    """Open the file at ``path`` itself, not behind a link, to read it; raises OSError, also if it is none."""
    # Opened without waiting: a pipe in its place has no writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(EINVAL, "it is no file", os.fsdecode(path))
    return descriptor


def digest_of_file(
    path: str | bytes | os.PathLike[str],
    algorithm: str = "fs-verity",
    each: Callable[[], None] = lambda: None,
) -> str:
    """Return the digest of the file at ``path`` itself; raises as ``open_plain`` and ``digest_of`` do."""
    descriptor = open_plain(path)
    try:
        return digest_of(descriptor, algorithm, each)
    finally:
        os.close(descriptor)


def _serve() -> None:
    """Answer on stdout what is asked on stdin, a line each; paths are in hexadecimal.

    ``ALGORITHM PATH``: the digest of a file, or the number of the operating system's error. ``to PATH END``:
    hash what is written up to there, without an answer. ``end PATH``: the fs-verity digest of that file.
    """
    asking = os.getppid()

    def end_with_it() -> None:
        if os.getppid() != asking:
            os._exit(1)

    followed: dict[str, Reader] = {}
    failed: dict[str, int] = {}
    for line in sys.stdin:
        what, path, *rest = line.split()
        try:
            if what == "to":
                if path not in failed:
                    if path not in followed:
                        followed[path] = Reader(open_plain(bytes.fromhex(path)), end_with_it)
                    followed[path].read_to(int(rest[0]))
                continue
            if path in failed:
                raise OSError(failed.pop(path), "")
            reader = followed.pop(path, None)
            if reader is None:
                answer = digest_of_file(bytes.fromhex(path), what, end_with_it)
            else:
                try:
                    answer = reader.digest()
                finally:
                    os.close(reader.descriptor)
        except OSError as error:
            if what == "to":
                failed[path] = error.errno or EIO
                continue
            answer = str(error.errno or EIO)
        print(answer, flush=True)


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    os.nice(10)  # what is hashed is being written, or was made long ago: neither waits for it
    _serve()
