"""The fold's cache: copies of the index at earlier positions, which make that at any position cheap to have.

One file each, in ``<home>/db/snapshots``, named by position, fold version and the log's hash there; the hash
covers the whole log up to it, its id included. A file whose name does not fit the log is not used, and no
answer depends on there being any: deleting them costs time, nothing else.

They stand the further apart the larger the index is: behind a copy of S bytes, at least S / 256 events go by
before the next. An event and its index entries take more than 256 bytes, so together they are never larger
than the log; and how many events any position is from the one before it depends on how large the index is,
not on how long the log.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
from _thread import get_native_id  # of a thread; no other one has the same now, in any process
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from msb_cache import diagnostics
from msb_cache.artifacts import durable
from msb_cache.artifacts.files import create, sync_descriptor
from msb_cache.failpoints import reached
from msb_cache.projections import FOLD_VERSION
from msb_cache.projections.past import Past, Rows, decode_rows, encode_rows, same_rows

if TYPE_CHECKING:
    from msb_cache.eventstore.store import EventStore

STEP = 4096
"""Events: copies are not closer, and whether one is due is asked once in so many."""

_BYTES_PER_EVENT = 256  # ids, hash and index entries alone are more
_LARGEST = 1 << 30  # bytes of one, expanded
_MAGIC = b"msb-cache fold 1\n"
_DIGEST_BYTES = 32
_NAME = re.compile(r"(\d{1,19})-(\d{1,9})-([0-9a-f]{64})\.fold(?:\.\d+\.tmp)?")


Problem = Literal["wrong", "unreadable"]
"""What can be the matter with a cached index: its rows are not those of the log, or it cannot be read."""


class CachedIndex(NamedTuple):
    """A file whose name fits the log; ``size`` in bytes."""

    seq: int
    size: int
    path: Path


def index_at(
    connection: sqlite3.Connection, store: EventStore, position: int, folder: Path, *, keep: bool
) -> Past:
    """Return the index as it was after an event, from the nearest cached one that can be believed.

    Args:
        connection: the log's, in a transaction.
        store: the log, on that connection.
        position: at most the log's end; 0 is before the first event.
        folder: where cached indexes are.
        keep: where many events have to be folded for lack of cached indexes, make those on the way.
    """
    past = None
    for cached in reversed(known(connection, folder)):
        if cached.seq <= position and past is None:
            past = _load(cached)
            if past is None and keep:
                _delete(cached.path)  # so that a good one can take its place
    past = past or Past()
    try:
        while past.position < position:
            past.advance(connection, store, min(position, (past.position // STEP + 1) * STEP))
            if keep and past.position % STEP == 0:
                keep = _keep(connection, past.connection, past.position, folder)
    except BaseException:
        past.close()
        raise
    return past


def problem_with(cached: CachedIndex, rows: Rows) -> Problem | None:
    """Return what is wrong with a cached index, given the rows of a fold at its position; None: nothing.

    Nothing in a file proves that what it says is so, for a checksum can be made anew.
    """
    import msgspec

    try:
        return None if same_rows(_rows(cached), rows) else "wrong"
    except FileNotFoundError:
        return None  # another process has just deleted it
    except (OSError, ValueError, msgspec.MsgspecError):
        return "unreadable"


def may_write(folder: Path) -> bool:
    """Return whether this user's cached indexes belong into a home's ``db`` folder."""
    # Root may write everywhere, and what root left in another user's home that user could not delete.
    try:
        return folder.stat().st_uid == os.geteuid() and os.access(folder, os.W_OK)
    except OSError:
        return False


def keep_live(connection: sqlite3.Connection, before: int, seq: int, folder: Path) -> None:
    """Cache the live index, if a copy of it is due after an append from position ``before`` to ``seq``.

    A failure is logged and not raised: the command whose commit this follows has done its work.

    Args:
        connection: the log's, in no transaction.
        before: the last position before the append.
        seq: the last position of the append.
        folder: where cached indexes are.
    """
    if before // STEP == seq // STEP:
        return
    try:
        connection.execute("BEGIN")
        try:
            (seq,) = connection.execute("SELECT seq FROM projection_state").fetchone()
            _keep(connection, connection, seq, folder)
        finally:
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        diagnostics.warning("the index cannot be cached", reason=str(error))


def forget(folder: Path) -> None:
    """Delete every cached index, of whatever log and fold, durably: what was taken of a wrong one lies."""
    found = [path for _, path in _files(folder)]
    for path in found:
        _delete(path)
    if found:
        durable.sync_folder(folder)


def _keep(live: sqlite3.Connection, index: sqlite3.Connection, seq: int, folder: Path) -> bool:
    """Cache an index if a copy is due; return whether files can be written here at all."""
    of_this_log = known(live, folder)
    before = [cached for cached in of_this_log if cached.seq <= seq]
    last = before[-1] if before else CachedIndex(0, 0, folder)
    if seq // STEP == last.seq // STEP or seq - last.seq < last.size // _BYTES_PER_EVENT:
        return True
    data = _encode(index)
    (head,) = live.execute("SELECT max(seq) FROM events").fetchone()
    if sum(cached.size for cached in of_this_log) + len(data) > head * _BYTES_PER_EVENT:
        return True
    try:
        _write(folder / _name(live, seq), data)
    except OSError as error:
        diagnostics.warning("the index cannot be cached", folder=str(folder), reason=error.strerror)
        return False
    diagnostics.debug("cached the index", seq=seq, bytes=len(data))
    current = {cached.path for cached in of_this_log}
    for match, path in _files(folder):
        # Later ones may be of events that this process does not see yet.
        if int(match[1]) < seq and path not in current:
            _delete(path)
    return True


def known(live: sqlite3.Connection, folder: Path) -> list[CachedIndex]:
    """Return the cached indexes of this log and this fold by position, as their names say."""
    found = []
    for match, path in _files(folder):
        seq, version, head = int(match[1]), int(match[2]), match[3]
        if version != FOLD_VERSION or path.suffix == ".tmp":
            continue
        row = live.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).fetchone()
        if row is not None and row[0].hex() == head:
            with contextlib.suppress(OSError):  # it may just have been deleted
                found.append(CachedIndex(seq, path.stat().st_size, path))
    return sorted(found)


def _files(folder: Path) -> Iterator[tuple[re.Match[str], Path]]:
    if folder.is_symlink():  # what lies there is not ours to read or delete
        return
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        match = _NAME.fullmatch(name)
        if match is not None and int(match[1]) < 2**63:
            yield match, folder / name


def _name(live: sqlite3.Connection, seq: int) -> str:
    (head,) = live.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).fetchone()
    return f"{seq}-{FOLD_VERSION}-{head.hex()}.fold"


def _encode(index: sqlite3.Connection) -> bytes:
    from msb_cache.oci.layer.zstd import zstd

    return zstd.compress(encode_rows(index))


def _write(path: Path, data: bytes) -> None:
    """Put a file in place at once."""
    if path.parent.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path.parent))
    durable.make_folder_unsynced(path.parent)
    staged = path.with_name(f"{path.name}.{get_native_id()}.tmp")
    try:
        with create(staged) as file:
            file.write(_MAGIC + _checksum(path.name, data) + data)
            # So that one that cannot be read was damaged, and not left so by a power loss.
            file.flush()
            sync_descriptor(file.fileno(), staged)
        reached("snapshot.staged")
        durable.replace_unsynced(staged, path)
        reached("snapshot.kept")
    finally:
        durable.delete_unsynced(staged)


def _delete(path: Path) -> None:
    try:
        durable.delete_unsynced(path)
    except OSError as error:
        diagnostics.warning("a cached index cannot be deleted", path=str(path), reason=error.strerror)


def _load(cached: CachedIndex) -> Past | None:
    """Return a cached index; None if it cannot be read, or contradicts itself."""
    import msgspec

    try:
        return Past(cached.seq, _rows(cached))
    except (OSError, ValueError, msgspec.MsgspecError, sqlite3.IntegrityError) as error:
        diagnostics.warning("a cached index is ignored", path=str(cached.path), reason=str(error))
        return None


def _rows(cached: CachedIndex) -> Rows:
    """Return what a file holds; raises OSError, ValueError or msgspec.MsgspecError if it is none of ours."""
    from msb_cache.home.foreign_db import regular
    from msb_cache.oci.layer.zstd import zstd

    with regular(cached.path) as file:
        content = file.read(_LARGEST)
    start = len(_MAGIC) + _DIGEST_BYTES
    data = content[start:]
    if content[:start] != _MAGIC + _checksum(cached.path.name, data):
        raise ValueError("its checksum does not fit")
    try:
        size = zstd.get_frame_info(data).decompressed_size
        if size is None or size > _LARGEST:
            raise ValueError("it is too large")
        # Not zstd.decompress, which goes on with whatever frames follow.
        return decode_rows(zstd.ZstdDecompressor().decompress(data, size))
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from None


def _checksum(name: str, data: bytes) -> bytes:
    from hashlib import sha256

    return sha256(name.encode() + b"\n" + data).digest()
