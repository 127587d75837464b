"""What the log says of having been put back."""

from __future__ import annotations

from pathlib import Path

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import restored
from tests.logs import new_ledger
from tests.samples import LOG_ID


def test_until_it_is_confirmed(tmp_path: Path) -> None:
    def put_back(seq: int) -> NewEvent:
        return NewEvent(ev.LogRestored(backup_seq=seq, backup_head="00", events_lost=3), LOG_ID)

    ledger = new_ledger(tmp_path, [put_back(1), put_back(2)])
    with ledger.read() as connection:
        assert connection is not None
        last = restored.unconfirmed(connection)
        assert last is not None
        assert (last.seq, last.backup_seq, last.events_lost) == (3, 2, 3)
        found = {seq: restored.behind(connection, seq) for seq in (1, 2, 3)}
        assert {seq: row and row.seq for seq, row in found.items()} == {1: None, 2: 2, 3: 3}
    with ledger.write("operation") as transaction:
        transaction.append([NewEvent(ev.LogRestoreConfirmed(restored_seq=3), LOG_ID)])
        transaction.append([NewEvent(ev.LogRestoreConfirmed(restored_seq=99), LOG_ID)])
        assert restored.unconfirmed(transaction.connection) is not None  # the one before was not
