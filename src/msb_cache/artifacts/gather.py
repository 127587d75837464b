"""Writes many small pieces of a file with few system calls. Not for reading, and nothing is synced.

Every system call lets go of the interpreter lock, and with several layers converted side by side, winning it
back costs more than the call. A layer's files lie one behind the other, so their pieces are written together.
The disk is set to work on the way: the sync of the file then waits for the last few pieces and not for all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from msb_cache.artifacts.erofs import format as fmt

_MAX_BYTES = 1 << 20
_MAX_PIECES = 1000  # Linux' IOV_MAX is 1024
_SETTLE_BYTES = 16 << 20
_ZEROS = memoryview(bytes(fmt.BLOCK))


class GatheringWriter:
    """Takes pieces at rising offsets; they are in the file after :meth:`flush`.

    A gap shorter than a block is filled with zeros, a longer one stays a hole. At most one MiB, all of it out
    of one object, is held back: small pieces of many large objects would keep all of those in memory.

    Args:
        fd: the file.
        written: told now and then up to where it is written.
    """

    def __init__(self, fd: int, written: Callable[[int], None] = lambda end: None) -> None:
        self._fd = fd
        self._written = written
        self._pieces: list[memoryview] = []
        self._start = 0  # in the file, of the pieces held back
        self._end = 0
        self._begun = 0  # up to here the disk has been told to write

    def put(self, piece: memoryview, offset: int) -> None:
        """Take a piece of an immutable object for byte ``offset`` of the file."""
        pieces = self._pieces
        if pieces:
            gap = offset - self._end
            if (
                0 <= gap < fmt.BLOCK
                and pieces[0].obj is piece.obj
                and len(pieces) < _MAX_PIECES
                and self._end - self._start < _MAX_BYTES
            ):
                if gap:
                    pieces.append(_ZEROS[:gap])
            else:
                self.flush()
        if not pieces:
            self._start = offset
        pieces.append(piece)
        self._end = offset + len(piece)

    def flush(self) -> None:
        """Write what is held back; raises OSError."""
        pieces, at = self._pieces, self._start
        while pieces:
            written = os.pwritev(self._fd, pieces, at)
            at += written
            if at == self._end:
                break
            while written >= len(pieces[0]):
                written -= len(pieces.pop(0))
            pieces[0] = pieces[0][written:]
        pieces.clear()
        self._written(at)
        if sys.platform == "linux" and at - self._begun >= _SETTLE_BYTES:
            # Linux begins to write this out; what is not yet written stays in memory.
            os.posix_fadvise(self._fd, self._begun, at - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = at
