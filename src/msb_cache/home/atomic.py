"""Write to a file that is replaced only when the new one is whole, or to a stream as it comes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from msb_cache.artifacts import files
from msb_cache.artifacts.durable import Changes, delete_unsynced
from msb_cache.eventstore.ids import uuid7

_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def opened(target: str | os.PathLike[str] | BinaryIO, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open what is to be written: a path, or a binary stream that is open already and stays so.

    A ``private`` file can be read by its owner only.
    """
    if not isinstance(target, str | os.PathLike):
        yield target
        target.flush()
        return
    path = Path(os.path.realpath(target))  # what a link leads to is replaced, not the link
    if path.exists() and not path.is_file():
        with open(path, "wb") as out:  # a device or a pipe: written to, not replaced
            yield out
        return
    # Beside its place, so that it can be renamed into it; no reader looks for its name.
    part = path.with_name(f".{path.name[:100]}.{uuid7()}.part")
    try:
        with open(part, "xb", opener=_private if private else None) as out:
            yield out
            out.flush()
            files.sync_descriptor(out.fileno(), part)
        changes = Changes()
        changes.replace(part, path)
        changes.sync()
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(part):
            raise OSError(error.errno, error.strerror, os.fspath(target)) from None
        if isinstance(error, OSError) and error.errno in _OF_WRITING and error.filename is None:
            error.filename = os.fspath(target)
        with suppress(OSError):
            delete_unsynced(part)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
