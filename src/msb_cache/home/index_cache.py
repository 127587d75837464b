"""Snapshots of the fold: a disposable cache that makes the index at any earlier position cheap to have.

One file each, in ``<home>/db/snapshots``, named by position, fold version and the log's hash there; the hash
covers the whole log up to it, its id included. Nothing in them is believed that does not fit the log, and no
answer depends on their being there.

They stand the further apart the larger the index is: behind a snapshot of S bytes, at least S / 256 events go
by before the next. An event and its index entries take more than 256 bytes, so together they are never larger
than the log; and how many events any position is from the one before it depends on how large the index is,
not on how long the log.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msb_cache import diagnostics as logs
from msb_cache.artifacts.files import create
from msb_cache.artifacts.layout import make_private
from msb_cache.failpoints import reached
from msb_cache.projections import FOLD_VERSION

if TYPE_CHECKING:
    from msb_cache.home.ledger import Ledger
    from msb_cache.projections.past import Past

STEP = 4096
"""Events: snapshots are not closer, and whether one is due is asked once in so many."""

_BYTES_PER_EVENT = 256  # ids, hash and index entries alone are more
_LARGEST = 1 << 30  # bytes of one, expanded
_MAGIC = b"msb-cache fold 1\n"
_DIGEST_BYTES = 32
_NAME = re.compile(r"(\d{1,19})-(\d{1,9})-([0-9a-f]{64})\.fold(?:\.\d+\.tmp)?")


class Snapshot(NamedTuple):
    """A file whose name fits the log; ``size`` in bytes."""

    seq: int
    size: int
    path: Path


def index_at(ledger: Ledger, connection: sqlite3.Connection, position: int) -> Past:
    """Return the index as it was after an event, from the nearest snapshot that can be believed.

    Where many events have to be folded for lack of snapshots, those are made on the way, if this user may
    write there and the home is not msb's.

    Args:
        ledger: the home.
        connection: the log's, in a transaction.
        position: at most the log's end; 0 is before the first event.
    """
    from msb_cache.projections.past import Past

    store, folder = ledger.store(connection), ledger.layout.snapshots
    keeping = not ledger.owned_by_msb and _may_write(ledger.layout.db)
    past = None
    for snapshot in reversed(_known(connection, folder)):
        if snapshot.seq <= position and past is None:
            past = _load(connection, snapshot)
            if past is None and keeping:
                _delete(snapshot.path)  # so that a good one can take its place
    past = past or Past(connection)
    while past.position < position:
        past.advance(connection, store, min(position, (past.position // STEP + 1) * STEP))
        if keeping and past.position % STEP == 0:
            keeping = _keep(connection, past.connection, past.position, folder)
    return past


def may_be_due(before: int, seq: int) -> bool:
    """Return whether it is worth to ask after an append from one position to another."""
    return before // STEP != seq // STEP


def keep(ledger: Ledger, connection: sqlite3.Connection) -> None:
    """Make a snapshot of the live index, if one is due. Whoever has just committed does this.

    What cannot be kept is no error of theirs: the command is done, and a log line says it.

    Args:
        ledger: the home.
        connection: the log's, in no transaction.
    """
    try:
        connection.execute("BEGIN")
        try:
            (seq,) = connection.execute("SELECT seq FROM projection_state").fetchone()
            _keep(connection, connection, seq, ledger.layout.snapshots)
        finally:
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        logs.warning("a snapshot of the index cannot be kept", reason=str(error))


def forget(ledger: Ledger) -> None:
    """Delete every snapshot: the index that they were taken from was wrong."""
    for _, path in _files(ledger.layout.snapshots):
        _delete(path)


def _keep(live: sqlite3.Connection, index: sqlite3.Connection, seq: int, folder: Path) -> bool:
    """Keep a snapshot of an index if one is due; return whether keeping works here at all."""
    known = _known(live, folder)
    before = [snapshot for snapshot in known if snapshot.seq <= seq]
    last = before[-1] if before else Snapshot(0, 0, folder)
    if seq // STEP == last.seq // STEP or seq - last.seq < last.size // _BYTES_PER_EVENT:
        return True
    data = _encode(index)
    (head,) = live.execute("SELECT max(seq) FROM events").fetchone()
    if sum(snapshot.size for snapshot in known) + len(data) > head * _BYTES_PER_EVENT:
        return True
    try:
        _write(folder / _name(live, seq), data)
    except OSError as error:
        logs.warning("a snapshot of the index cannot be kept", folder=str(folder), reason=error.strerror)
        return False
    logs.debug("kept a snapshot of the index", seq=seq, bytes=len(data))
    of_this_log = {snapshot.path for snapshot in known}
    for match, path in _files(folder):
        # Later ones may be of events that this process does not see yet.
        if int(match[1]) < seq and path not in of_this_log:
            _delete(path)
    return True


def _known(live: sqlite3.Connection, folder: Path) -> list[Snapshot]:
    """Return the snapshots of this log and this fold by position, as their names say."""
    found = []
    for match, path in _files(folder):
        seq, version, head = int(match[1]), int(match[2]), match[3]
        if version != FOLD_VERSION or path.suffix == ".tmp":
            continue
        row = live.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).fetchone()
        if row is not None and row[0].hex() == head:
            with contextlib.suppress(OSError):  # it may just have been deleted
                found.append(Snapshot(seq, path.stat().st_size, path))
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


def _may_write(folder: Path) -> bool:
    # Root may write everywhere, and what it left in somebody's home they could not delete.
    try:
        return folder.stat().st_uid == os.geteuid() and os.access(folder, os.W_OK)
    except OSError:
        return False


def _encode(index: sqlite3.Connection) -> bytes:
    import zstandard

    from msb_cache.projections.past import encode_rows

    return zstandard.ZstdCompressor().compress(encode_rows(index))


def _write(path: Path, data: bytes) -> None:
    """Put a snapshot in place at once."""
    if path.parent.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path.parent))
    make_private(path.parent)
    staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        # Not synced: what a power loss makes of it does not fit its checksum.
        with create(staged) as file:
            file.write(_MAGIC + _checksum(path.name, data) + data)
        reached("snapshot.staged")
        staged.rename(path)
        reached("snapshot.kept")
    finally:
        staged.unlink(missing_ok=True)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logs.warning("a snapshot of the index cannot be deleted", path=str(path), reason=error.strerror)


def _load(live: sqlite3.Connection, snapshot: Snapshot) -> Past | None:
    """Return a snapshot's index; None if it is not to be believed."""
    import msgspec
    import zstandard

    from msb_cache.projections.past import Past, decode_rows

    try:
        content = snapshot.path.read_bytes()
        start = len(_MAGIC) + _DIGEST_BYTES
        data = content[start:]
        if content[:start] != _MAGIC + _checksum(snapshot.path.name, data):
            raise ValueError("its checksum does not fit")
        if not 0 <= zstandard.frame_content_size(data) <= _LARGEST:
            raise ValueError("it is too large")
        return Past(live, snapshot.seq, decode_rows(zstandard.ZstdDecompressor().decompress(data)))
    except (OSError, ValueError, msgspec.MsgspecError, zstandard.ZstdError, sqlite3.IntegrityError) as error:
        logs.warning("a snapshot of the index is ignored", path=str(snapshot.path), reason=str(error))
        return None


def _checksum(name: str, data: bytes) -> bytes:
    from hashlib import sha256

    return sha256(name.encode() + b"\n" + data).digest()
