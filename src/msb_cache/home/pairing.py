"""Whether a database file and the write-ahead log beside it belong together; asked before SQLite opens them.

SQLite takes any log that lies there for the file's own. If one of the two was put there from elsewhere, such
as from a backup, it mixes the pages of both, goes on, and even writes the mixture back when it closes.

Page 1 of a database counts the changes to itself, and each commit of ours changes it (``connect.commit``). So
the file's count must be that before the first commit in the log, or that of a commit in it up to which the
log was copied into the file.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from struct import Struct

from msb_cache.errors import CorruptLogError
from msb_cache.home.descriptors import beginning

_LOG_HEADER = Struct(">8sI4x8s8x")
"""A write-ahead log's magic and format, page size and salt (SQLite file format, "The WAL File Format")."""
_FRAME_HEADER = Struct(">I20x")
"""A frame's page number. The salt follows 4 bytes later; a frame with another is left from before."""
_MAGICS = (b"\x37\x7f\x06\x82\x00\x2d\xe2\x18", b"\x37\x7f\x06\x83\x00\x2d\xe2\x18")
_PAGE = Struct(">16xH2B4xI68x")
"""Of page 1 its size, the versions that can write and read it (2: with a write-ahead log), and the count."""
_WAL_VERSION = 2
_ATTEMPTS = 5


def check(path: str) -> None:
    """Refuse a database whose write-ahead log is another one's; opens nothing, and writes nothing.

    Raises:
        CorruptLogError: they do not belong together.
        OSError: one cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        if _belong_together(path):
            return
        # Other processes may have copied the log into the file, and begun it anew, while they were read.
        time.sleep(0.002 * (attempt + 1))
    raise CorruptLogError(
        f"{path} and the {os.path.basename(path)}-wal beside it do not belong together: one was put there "
        "from elsewhere, and nothing is written to them; `msb-cache restore-backup` sets both aside"
    )


def _belong_together(path: str) -> bool:
    counts = _counts_in_log(f"{path}-wal")
    if counts is None:
        return True
    page = beginning(path, _PAGE.size)
    if len(page) < _PAGE.size:
        return False  # nothing was ever copied into it from a log that has commits
    _, writes, reads, count = _PAGE.unpack(page)
    if writes != _WAL_VERSION or reads != _WAL_VERSION:
        return False  # SQLite leaves the log of such a file alone
    first, last = counts
    # The count is one of 32 bits that begins anew.
    return not first or (count - (first - 1)) % 2**32 <= (last - (first - 1)) % 2**32


def _counts_in_log(path: str) -> tuple[int, int] | None:
    """Return page 1's first and last count in a log, zeros if page 1 is not in it; None: nothing is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        header = os.pread(descriptor, _LOG_HEADER.size, 0)
        if len(header) < _LOG_HEADER.size:
            return None
        magic, page_size, salt = _LOG_HEADER.unpack(header)
        if magic not in _MAGICS or not 512 <= page_size <= 65536:
            return None

        def frame(number: int) -> bytes:
            at = _LOG_HEADER.size + number * (_FRAME_HEADER.size + page_size)
            return os.pread(descriptor, _FRAME_HEADER.size + _PAGE.size, at)

        frames = _frames(descriptor, page_size, salt)
        first = next(filter(None, map(_count, map(frame, range(frames)))), 0)
        last = next(filter(None, map(_count, map(frame, reversed(range(frames))))), 0) if first else 0
        return (first, last) if frames else None
    finally:
        os.close(descriptor)


def _frames(descriptor: int, page_size: int, salt: bytes) -> int:
    """Return how many frames of the present round a log has: they come first, and have its salt."""
    size = _FRAME_HEADER.size + page_size

    def is_older(number: int) -> bool:
        return os.pread(descriptor, 16, _LOG_HEADER.size + number * size)[8:] != salt

    whole = (os.fstat(descriptor).st_size - _LOG_HEADER.size) // size
    return bisect_left(range(whole), True, key=is_older)


def end_of_log(descriptor: int) -> int:
    """Return where a write-ahead log ends that may be followed by what SQLite does not read, in bytes."""
    header = os.pread(descriptor, _LOG_HEADER.size, 0)
    if len(header) < _LOG_HEADER.size:
        return 0
    magic, page_size, salt = _LOG_HEADER.unpack(header)
    if magic not in _MAGICS:
        return 0
    end: int = _LOG_HEADER.size + _frames(descriptor, page_size, salt) * (_FRAME_HEADER.size + page_size)
    return end


def _count(frame: bytes) -> int:
    """Return the count in a frame of page 1, else 0."""
    if len(frame) < _FRAME_HEADER.size + _PAGE.size or _FRAME_HEADER.unpack_from(frame) != (1,):
        return 0
    count: int = _PAGE.unpack_from(frame, _FRAME_HEADER.size)[3]
    return count
