"""Signed notes one after the other in a file that is only appended to, maybe by another machine.

The file is neither read nor changed for it: it may be one of which the file system allows no more (``chattr
+a``). Between two notes is an empty line. What a crash left of one stays, and is left out by what reads them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from msb_cache import ownership
from msb_cache.errors import InvalidProofError
from msb_cache.proof.note import Note, Signature, decoded, signatures_in
from msb_cache.proof.vkey import SIGNATURE_BYTES, TIME_BYTES

MAX_FILE = 16 * 1024 * 1024
"""Bytes of a file of notes; one has a few hundred."""

_APART = re.compile(rb"\n\n+")
_DASH = "\u2014 ".encode()
_WHOLE = (SIGNATURE_BYTES, TIME_BYTES + SIGNATURE_BYTES)


def append(path: str, note: str) -> None:
    """Append a note to a file, as one write, which is durable when this returns; it is made if need be.

    Raises:
        OSError: it cannot be written to, is a link, or no file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = ownership.open_file(path, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no file", path)
        data = note.encode()
        if found.st_size:
            data = (b"\n" if _is_whole(path) else b"\n\n") + data
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not found.st_size:
        _sync_folder(os.path.dirname(path) or ".")


def _is_whole(path: str) -> bool:
    """Return whether a file ends with a whole line, as far as this process may know."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            return os.pread(descriptor, 1, max(0, os.fstat(descriptor).st_size - 1)) == b"\n"
        finally:
            os.close(descriptor)
    return False


def _sync_folder(folder: str) -> None:
    with suppress(OSError):  # one that may not be read; the file's own content is durable
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_several(data: bytes) -> bool:
    """Return whether a text has more to it than one note."""
    return len(_pieces(data)) > 2


def notes_in(data: bytes, what: str = "the file") -> list[Note]:
    """Return the signed notes of such a file, in their order, without what a crash cut off.

    That is a text with no signature below it, and of a note the last signature if that is not whole.

    Args:
        data: the whole of it.
        what: how an error calls it.

    Raises:
        InvalidProofError: it has more than ``MAX_FILE`` bytes, no whole note, or one that is none; says why.
    """
    if len(data) > MAX_FILE:
        raise InvalidProofError(f"{what} has more than {MAX_FILE:,} bytes")
    found: list[Note] = []
    text: bytes | None = None
    for piece in _pieces(data):
        if not piece.startswith(_DASH):
            text = piece  # if nothing was below the one before, that was cut off
            continue
        which = f"note {len(found) + 1} of {what}"
        if text is None:
            raise InvalidProofError(f"{what} has signatures of no text, behind {len(found):,} whole notes")
        signatures = _signatures(piece, which)
        if signatures:
            found.append(Note(decoded(text + b"\n", which), signatures))
        text = None
    if not found:
        raise InvalidProofError(f"{what} has no whole note in it")
    return found


def _pieces(data: bytes) -> list[bytes]:
    return [each for each in _APART.split(data.strip(b"\n")) if each]


def _signatures(piece: bytes, which: str) -> tuple[Signature, ...]:
    *lines, last = piece.split(b"\n")
    found: tuple[Signature, ...] = ()
    if lines:
        found = signatures_in(decoded(b"".join(each + b"\n" for each in lines), which), which)
    with suppress(InvalidProofError):
        (end,) = signatures_in(decoded(last + b"\n", which), which)
        if len(end.signature) in _WHOLE:
            found = (*found, end)
    return found
