"""The journal of an addition: what it is about to publish, durably, so that it can be taken back.

An addition that did not commit is undone by its own process, or by the next that writes (see ``recover``).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from msb_cache.artifacts import durable, metadata
from msb_cache.artifacts.digests import digest_of
from msb_cache.artifacts.durable import Changes
from msb_cache.artifacts.layout import lock_path
from msb_cache.artifacts.locks import Lock
from msb_cache.engines.digesting import digested
from msb_cache.engines.own.needs import Needs
from msb_cache.errors import BusyError, CorruptArtifactError, MsbDatabaseError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.ledger import Ledger
from msb_cache.projections import digests, images, restored

JOURNAL = "journal.json"


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact that an addition is about to publish.

    ``backup`` names the file it replaces; ``digest`` is that of its bytes.
    """

    kind: ev.ArtifactKind
    subject: str
    backup: str | None = None
    digest: str | None = None


def write_journal(staging: Path, published: list[Published], changes: Changes) -> None:
    """Record durably, before the first rename, what will be published."""
    changes.write(staging / JOURNAL, msgspec.json.encode(published))
    changes.sync()


def undo_addition(ledger: Ledger, operation: str) -> None:
    """Take back what an addition published and the index does not name; the caller holds its lock.

    Raises:
        BusyError: another process has the lock of an artifact, which it may add to the index, or not: so this
            is to be tried again.
    """
    building, staging = ledger.layout.building(operation), ledger.layout.staging(operation)
    if building.is_dir() and not building.is_symlink():
        durable.delete_folder_unsynced(building)
    if not staging.is_dir() or staging.is_symlink():
        return
    try:
        published = msgspec.json.decode((staging / JOURNAL).read_bytes(), type=list[Published])
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        published = []  # killed before it published anything
    changes = Changes()
    busy = [artifact for artifact in published if not _unpublish(ledger, artifact, staging, changes)]
    changes.sync()
    if busy:
        raise BusyError(f"another process uses {busy[0].kind} {busy[0].subject}; this is undone later")
    durable.delete_folder_unsynced(staging)


def _unpublish(ledger: Ledger, artifact: Published, staging: Path, changes: Changes) -> bool:
    """Undo, and return whether that could be done: the artifact's lock was to be had."""
    path = ledger.layout.artifact(artifact.kind, artifact.subject)
    with Lock(lock_path(path)) as lock:
        if not lock.acquire():
            return False
        undo(ledger, artifact, staging, changes)
        lock.release(unlink=not os.path.lexists(path))
        return True


def undo(ledger: Ledger, artifact: Published, staging: Path, changes: Changes) -> None:
    """Take one published file back unless the index names it; the caller holds its lock.

    The journal may go when the changes are durable.

    Where msb keeps the home by now, it may have taken the file for its own, and where the log was put back to
    a backup, it may have named it: the file stays, and if no index names it, ``prune --orphans`` finds it.
    """
    path = ledger.layout.artifact(artifact.kind, artifact.subject)
    if not Needs(ledger)(artifact.kind, artifact.subject):
        if not ledger.owned_by_msb and not _is_rewound(ledger):
            changes.delete(path)
        return
    if artifact.kind == "metadata" and artifact.backup and not _agrees(ledger, artifact.subject, path):
        # The reference still points where it did: so must its metadata.
        backup = staging / os.path.basename(artifact.backup)
        if backup.exists():
            changes.replace(backup, path)
            return
    if artifact.digest is not None:
        _know(ledger, artifact, path)


def _know(ledger: Ledger, artifact: Published, path: Path) -> None:
    """Record what the bytes of a published file are that stays, if they are and the log has others."""
    with ledger.read() as connection:
        known = None if connection is None else digests.digest(connection, (artifact.kind, artifact.subject))
    if known is None or known.digest == artifact.digest:
        return  # its digest is taken when it is reused
    with suppress(OSError):
        if digest_of(artifact.kind, path) == artifact.digest:
            with ledger.write(uuid7(), owner="any") as transaction:
                transaction.append([digested(artifact.kind, artifact.subject, artifact.digest, "made")])


def _is_rewound(ledger: Ledger) -> bool:
    """Whether the log was put back to a backup, so that it may have named the file before."""
    with ledger.read() as connection:
        return connection is not None and restored.unconfirmed(connection) is not None


def _agrees(ledger: Ledger, reference: str, path: Path) -> bool:
    """Whether a reference's metadata file is that of a manifest it points at, in whatever spelling."""
    digests = _seen_by_msb(ledger, reference) if ledger.owned_by_msb else set[str]()
    if not digests:
        with ledger.read() as connection:
            rows = [] if connection is None else images.spellings(connection, reference)
        digests = {row.manifest_digest for row in rows}
    try:
        return bool(digests) and metadata.decode(path).manifest_digest in digests
    except CorruptArtifactError:
        return False


def _seen_by_msb(ledger: Ledger, reference: str) -> set[str]:
    """Return the manifests at which msb's index has spellings of the reference point."""
    from msb_cache.msb import database

    try:
        found = database.read(ledger.layout.msb_database).images.values()
    except MsbDatabaseError:
        return set()  # msb has made the file, and not filled it yet
    return {image.manifest_digest for image in found if image.reference == reference}
