"""Finish or undo what a killed process left: run at the start of every command that writes.

Only a process that gets an operation's lock without waiting touches it: a slow or stopped owner still
holds that lock. A deletion is finished by the engine that decided it, also if the home has changed hands; an
addition that did not commit is undone, and a restore that was cut short has ended.
"""

from __future__ import annotations

from msb_cache import diagnostics
from msb_cache.artifacts.durable import make_folder_unsynced, sync_above
from msb_cache.artifacts.locks import Lock
from msb_cache.engines import undoing
from msb_cache.engines.choose import engine_named
from msb_cache.engines.own.journal import undo_addition
from msb_cache.errors import MicrosandboxError
from msb_cache.home.ledger import Ledger
from msb_cache.projections import deletions, undoings


def recover(ledger: Ledger) -> None:
    """Finish or undo every operation whose owner is gone."""
    layout = ledger.layout
    with ledger.read() as connection:
        unfinished = []
        if connection is not None:
            unfinished = deletions.unfinished(connection) + undoings.unfinished(connection)
    operations = sorted({*unfinished, *layout.interrupted_operations()})
    if not operations:
        return
    make_folder_unsynced(layout.operations)
    for operation in operations:
        lock = Lock(layout.operation_lock(operation))
        try:
            if not lock.acquire():
                continue
        except OSError as error:
            diagnostics.warning("recovery.failed", operation=operation, problem=str(error))
            continue
        diagnostics.warning("recovery.started", operation=operation)
        try:
            _finish_deletion(ledger, operation)
            undo_addition(ledger, operation)
            undoing.recover(ledger, operation)
            sync_above(layout.db, layout.cache)  # folders that its owner made and did not live to sync
        except (MicrosandboxError, OSError) as error:
            # One operation that cannot be recovered must not keep all others from writing for ever.
            diagnostics.warning("recovery.failed", operation=operation, problem=str(error))
            lock.release()
        except BaseException:
            lock.release()
            raise
        else:
            lock.release(unlink=True)


def _finish_deletion(ledger: Ledger, operation: str) -> None:
    with ledger.read() as connection:
        # Asked again under the lock: its owner may have finished meanwhile.
        if connection is None or operation not in deletions.unfinished(connection):
            return
        (row,) = deletions.find(connection, operation)
    engine_named(row.engine, ledger).recover(operation)
