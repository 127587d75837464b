"""Every schema that was ever released is brought to the newest."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from msb_cache.eventstore import chain
from msb_cache.eventstore.store import NewEvent
from msb_cache.migrations import SCHEMA_VERSION
from msb_cache.migrations.schema import migrations
from msb_cache.projections import images, live
from tests.logs import PYTHON, digest, downgrade, layer, manifest_added, new_ledger, some_events

with closing(Database(memory=True)) as empty:
    MIGRATIONS = [migration.name for migration in migrations.pending(empty)]


@pytest.mark.parametrize("until", MIGRATIONS[1:])
def test_an_older_database_is_migrated_and_its_projections_filled(tmp_path: Path, until: str) -> None:
    manifest = NewEvent(manifest_added([layer(1, 10), layer(2, 20)]), digest(1))
    ledger = new_ledger(tmp_path, [manifest, *some_events()[:-1]])
    ledger.close()
    path = Path(ledger.layout.database)
    downgrade(path, until)
    with closing(sqlite3.connect(path)) as old:
        assert old.execute("PRAGMA user_version").fetchone() < (SCHEMA_VERSION,)
    with ledger.read() as connection:
        assert connection is not None
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        found = images.handle(connection, PYTHON)
        assert found is not None
        assert (found.size_bytes, found.layer_count) == (30, 2)
        assert live.compare(connection, live.fold_until(ledger.store(connection))) == []
        assert isinstance(chain.verify(connection), chain.Verified)


def test_an_applied_log_is_append_only() -> None:
    with closing(Database(memory=True)) as database:
        migrations.apply(database)
        row = "'id{0}', 't', 1, 's', 'o', 1, 1, '{{}}', '{{}}', zeroblob(32)"
        database.execute(f"INSERT INTO events VALUES (1, {row.format(1)})")
        for statement in (
            "UPDATE events SET type = 'x'",
            "DELETE FROM events",
            f"INSERT INTO events VALUES (3, {row.format(3)})",
            f"INSERT OR REPLACE INTO events VALUES (1, {row.format(4)})",
            f"INSERT OR REPLACE INTO events VALUES (2, {row.format(1)})",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="only ever appended"):
                database.execute(statement)
        database.execute(f"INSERT INTO events VALUES (2, {row.format(2)})")
        assert database.execute("SELECT count(*) FROM events").fetchone() == (2,)
