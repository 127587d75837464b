"""The index as it was, folded up to a position."""

from __future__ import annotations

from pathlib import Path

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import live, past
from msb_cache.projections.rows import LayerRow
from tests.logs import digest, layer, manifest_added, new_ledger, pulled


def test_a_deletion_counts_from_where_it_began(tmp_path: Path) -> None:
    """In an import what went can stand before the decision: nobody had taken the layers out then."""
    manifest, name = digest(1), "docker.io/library/app:1"
    ledger = new_ledger(tmp_path / "home", [NewEvent(manifest_added([layer(1)]), manifest)])
    with ledger.write("late") as transaction:
        transaction.append([NewEvent(pulled(manifest), name), NewEvent(ev.ManifestDeleted(), manifest)])
        position = transaction.append([NewEvent(ev.ImageUsed(manifest_digest=manifest), name)])[-1].seq
        transaction.append([NewEvent(ev.DeletionStarted(kind="prune", policy={}), "late")])
    with ledger.read() as connection:
        assert connection is not None
        fold = live.fold_until(ledger.store(connection), position)
        assert not fold.tables.of(LayerRow).rows
        found = past.Past()
        found.advance(connection, ledger.store(connection), position)
        assert found.connection.execute("SELECT count(*) FROM layer").fetchone() == (0,)
        found.close()
