"""Finish or undo what a killed process left: run at the start of every command that writes.

Only a process that gets an operation's lock without waiting touches it: a slow or stopped owner still
holds that lock. A deletion is finished, an addition that did not commit is undone; in a home that msb keeps
no file is touched, and what became of a deletion is only found out and recorded.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from msb_cache import diagnostics as logs
from msb_cache.artifacts import files, metadata
from msb_cache.artifacts.layout import lock_path, make_private
from msb_cache.artifacts.locks import Lock
from msb_cache.errors import CorruptArtifactError, MicrosandboxError
from msb_cache.home.ledger import Ledger
from msb_cache.projections import deletions, images

JOURNAL = "journal.json"


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact that an addition is about to publish; ``backup`` names the file it replaces."""

    kind: str
    subject: str
    backup: str | None = None


def write_journal(staging: Path, published: list[Published]) -> None:
    """Record durably, before the first rename, what will be published."""
    files.write(staging / JOURNAL, msgspec.json.encode(published))


def recover(ledger: Ledger) -> None:
    """Finish or undo every operation whose owner is gone."""
    layout = ledger.layout
    with ledger.snapshot() as connection:
        unfinished = [] if connection is None else deletions.unfinished(connection)
    operations = sorted({*unfinished, *layout.interrupted_operations()})
    if not operations:
        return
    make_private(layout.operations)
    for operation in operations:
        lock = Lock(layout.operation_lock(operation))
        try:
            if not lock.acquire():
                continue
        except OSError as error:
            logs.warning("recovery.failed", operation=operation, problem=str(error))
            continue
        logs.warning("recovery.started", operation=operation)
        try:
            _finish_deletion(ledger, operation)
            _undo_addition(ledger, operation)
        except (MicrosandboxError, OSError) as error:
            # One operation that cannot be recovered must not keep everybody from writing for ever.
            logs.warning("recovery.failed", operation=operation, problem=str(error))
            lock.release()
        except BaseException:
            lock.release()
            raise
        else:
            lock.release(unlink=True)


def _finish_deletion(ledger: Ledger, operation: str) -> None:
    with ledger.snapshot() as connection:
        # Asked again under the lock: its owner may have finished meanwhile.
        if connection is None or operation not in deletions.unfinished(connection):
            return
        (row,) = deletions.find(connection, operation)
        pending = deletions.pending(connection, ledger.store(connection), operation)
    # What deletes is imported where something is left to delete, which most commands never find.
    if row.engine == "msb":
        from msb_cache.engines.msb.delete import conclude

        conclude(ledger, operation, recovering=True)
        return
    from msb_cache.engines.own.delete import execute

    execute(ledger, operation, pending, recovering=True, partial=bool(row.kept or row.failed))


def _undo_addition(ledger: Ledger, operation: str) -> None:
    building, staging = ledger.layout.building(operation), ledger.layout.staging(operation)
    if building.is_dir() and not building.is_symlink():
        shutil.rmtree(building)
    if not staging.is_dir() or staging.is_symlink():
        return
    try:
        published = msgspec.json.decode((staging / JOURNAL).read_bytes(), type=list[Published])
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        published = []  # killed before it published anything
    if not ledger.owned_by_msb:  # else they are msb's to judge, and `prune --orphans` finds them
        for artifact in published:
            _unpublish(ledger, artifact, staging)
    shutil.rmtree(staging)


def _unpublish(ledger: Ledger, artifact: Published, staging: Path) -> None:
    path = ledger.layout.artifact(artifact.kind, artifact.subject)
    with Lock(lock_path(path)) as lock:
        if lock.acquire():  # else somebody adds the same artifact now, and will name it in the index
            undo(ledger, artifact, staging)
            lock.release(unlink=not os.path.lexists(path))


def undo(ledger: Ledger, artifact: Published, staging: Path) -> None:
    """Take one published file back unless the index names it; the caller holds its lock."""
    from msb_cache.engines.own.delete import Needs

    path = ledger.layout.artifact(artifact.kind, artifact.subject)
    if not Needs(ledger)(artifact.kind, artifact.subject):
        files.delete(path)
    elif artifact.kind == "metadata" and artifact.backup and not _agrees(ledger, artifact.subject, path):
        # The reference still points where it did: so must its metadata.
        backup = staging / os.path.basename(artifact.backup)
        if backup.exists():
            os.replace(backup, path)


def _agrees(ledger: Ledger, reference: str, path: Path) -> bool:
    with ledger.snapshot() as connection:
        row = None if connection is None else images.handle(connection, reference)
    try:
        return row is not None and metadata.read(path).manifest_digest == row.manifest_digest
    except CorruptArtifactError:
        return False
