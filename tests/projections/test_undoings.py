"""What the log says of restores."""

from __future__ import annotations

from pathlib import Path

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import undoings
from msb_cache.projections.rows import UndoingRow
from tests.logs import PYTHON, digest, new_ledger

ONE, TWO = (
    ev.Restoring(reference="python:3.12", manifest_digest=digest(number), how="pull", place="docker.io")
    for number in (1, 2)
)


def test_a_restore_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [])
    with ledger.write("restore-1") as transaction:
        connection = transaction.connection
        store = ledger.store(connection)
        for part, image in enumerate((ONE, TWO), start=1):
            started = ev.RestoreStarted(undoes="prune-1", images=(image,), part=part, parts=2)
            transaction.append([NewEvent(started, "restore-1")])
        assert undoings.unfinished(connection) == ["restore-1"]
        assert undoings.undone_by(connection, "restore-1") == "prune-1"
        assert undoings.wanted(store, "restore-1") == [ONE, TWO]
        assert undoings.brought(store, "restore-1") == set()
        pulled = ev.ImagePulled(
            manifest_digest=digest(1), changed=True, source=ev.Source(kind="registry"), undoes="prune-1"
        )
        transaction.append([NewEvent(pulled, PYTHON)])
        assert undoings.brought(store, "restore-1") == {(PYTHON, digest(1))}
        (row,) = undoings.of_deletion(connection, "prune-1")
        assert (row.wanted, row.restored, row.finished_at) == (2, 0, None)
        end = ev.RestoreFinished(outcome="partial", undoes="prune-1", wanted=2, restored=1)
        (last,) = transaction.append([NewEvent(end, "restore-1")])
        assert undoings.unfinished(connection) == []
        assert undoings.of_deletion(connection, "prune-1") == [
            UndoingRow("restore-1", "prune-1", row.seq, row.started_at, 2, last.occurred_at_ns, "partial", 1)
        ]
        assert undoings.of_deletion(connection, "restore-1") == []


def test_an_end_without_a_beginning_is_no_restore(tmp_path: Path) -> None:
    end = ev.RestoreFinished(outcome="failed", undoes="prune-1", wanted=1, restored=0)
    with new_ledger(tmp_path, [NewEvent(end, "restore-1")]).read() as connection:
        assert connection is not None
        assert undoings.of_deletion(connection, "prune-1") == []
