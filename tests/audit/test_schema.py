"""What of a schema is not as msb-cache makes it is found, whatever it is, and made so again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import CorruptLogError, ImageCache, failpoints
from msb_cache.audit import schema
from msb_cache.audit.schema import SchemaProblem
from msb_cache.eventstore import chain
from msb_cache.eventstore.store import NewEvent
from msb_cache.migrations import SCHEMA_VERSION
from msb_cache.migrations.schema import names
from msb_cache.projections.live import Difference
from tests.logs import digest, downgrade, layer, manifest_added, new_ledger, some_events
from tests.proof.signing import checkpoint as signed_checkpoint
from tests.proof.signing import new_log_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with an image, a hold and more, closed."""
    image = [NewEvent(manifest_added([layer(1)]), digest(1)), *some_events()[:3]]
    ledger = new_ledger(tmp_path, image)
    ledger.close()
    return Path(ledger.layout.database)


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def found(path: Path) -> list[SchemaProblem]:
    with ImageCache(path.parents[1]) as cache:
        return cache.verify().schema


def everything(path: Path) -> tuple[object, ...]:
    """The schema with all that is in the tables, but for when migrations were recorded."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        rows = {
            name: connection.execute(f"SELECT * FROM {name}").fetchall()
            for (name, sql) in tables
            if sql and sql.startswith("CREATE TABLE") and name != "_sqlite_migrations"
        }
        recorded = connection.execute("SELECT migration_set, name FROM _sqlite_migrations").fetchall()
        settings = [
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "journal_mode")
        ]
        return tables, rows, recorded, settings


TAMPERED = {
    "a trigger is gone": (["DROP TRIGGER events_no_delete"], [("missing", "trigger", "events_no_delete")]),
    "a trigger does nothing": (
        [
            "DROP TRIGGER events_no_update",
            "CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT 1; END",
        ],
        [("changed", "trigger", "events_no_update")],
    ),
    "a trigger stands on another table": (
        [
            "DROP TRIGGER events_no_delete",
            "CREATE TRIGGER events_no_delete BEFORE DELETE ON hold BEGIN SELECT 1; END",
        ],
        [("changed", "trigger", "events_no_delete")],
    ),
    "a trigger deletes holds": (
        ["CREATE TRIGGER tidy AFTER INSERT ON events BEGIN DELETE FROM hold; END"],
        [("extra", "trigger", "tidy")],
    ),
    "a trigger has an odd name": (
        ['CREATE TRIGGER "ti""dy; --" AFTER INSERT ON events BEGIN DELETE FROM hold; END'],
        [("extra", "trigger", 'ti"dy; --')],
    ),
    "a trigger keeps migrations": (
        ["CREATE TRIGGER keep BEFORE INSERT ON _sqlite_migrations BEGIN SELECT RAISE(IGNORE); END"],
        [("extra", "trigger", "keep")],
    ),
    "a trigger is named like SQLite's own": (
        [
            "PRAGMA writable_schema = ON",
            "INSERT INTO sqlite_master VALUES ('trigger', 'sqlite_tidy', 'events', 0, "
            "'CREATE TRIGGER sqlite_tidy AFTER INSERT ON events BEGIN DELETE FROM hold; END')",
        ],
        [("extra", "trigger", "sqlite_tidy")],
    ),
    "an index is gone": (["DROP INDEX events_by_subject"], [("missing", "index", "events_by_subject")]),
    "an index of the projections is gone": (
        ["DROP INDEX hold_by_holder"],
        [("missing", "index", "hold_by_holder")],
    ),
    "an index is another": (
        ["DROP INDEX events_by_type", "CREATE INDEX events_by_type ON events (version)"],
        [("changed", "index", "events_by_type")],
    ),
    "an index more": (["CREATE UNIQUE INDEX one ON image (seq)"], [("extra", "index", "one")]),
    "a table of the projections is gone": (
        ["DROP TABLE hold"],
        [("missing", "table", "hold"), ("missing", "index", "hold_by_holder")],
    ),
    "a view is gone": (["DROP VIEW v_prunes"], [("missing", "view", "v_prunes")]),
    "a view hides an event": (
        ["DROP VIEW v_events", "CREATE VIEW v_events AS SELECT * FROM events WHERE seq <> 3"],
        [("changed", "view", "v_events")],
    ),
    "a view is a table": (
        ["DROP VIEW v_layers", "CREATE TABLE v_layers (diff_id)"],
        [("missing", "view", "v_layers"), ("extra", "table", "v_layers")],
    ),
    "a table of the projections is a view": (
        ["DROP TABLE layer", "CREATE VIEW layer AS SELECT 'sha256:1' AS diff_id, 1 AS erofs_bytes, 1 AS seq"],
        [("missing", "table", "layer"), ("extra", "view", "layer")],
    ),
    "a table of the projections has a column more": (
        ["ALTER TABLE image ADD COLUMN note TEXT"],
        [("changed", "table", "image")],
    ),
    "the position is gone": (["DROP TABLE projection_state"], [("missing", "table", "projection_state")]),
    "what msb was is gone": (["DROP TABLE sync_state"], [("missing", "table", "sync_state")]),
    "records of migrations are gone": (
        ["DELETE FROM _sqlite_migrations WHERE name LIKE 'm0002%'"],
        [("missing", "migration", "m0002_projections")],
    ),
    "a migration of nobody": (
        ["UPDATE _sqlite_migrations SET name = 'm9999' WHERE name LIKE 'm0002%'"],
        [("missing", "migration", "m0002_projections"), ("extra", "migration", "m9999")],
    ),
    "the records of migrations are no table": (
        ["DROP TABLE _sqlite_migrations", "CREATE VIEW _sqlite_migrations AS SELECT 1"],
        [
            ("extra", "view", "_sqlite_migrations"),
            *(("missing", "migration", name) for name in names()),
        ],
    ),
    "another journal": (["PRAGMA journal_mode = DELETE"], [("changed", "setting", "journal_mode")]),
    "no schema": (["PRAGMA user_version = 0"], [("changed", "setting", "user_version")]),
    "an older schema": (["PRAGMA user_version = 4"], [("changed", "setting", "user_version")]),
    "no schema and no records": (
        ["PRAGMA user_version = 0", "DROP TABLE _sqlite_migrations"],
        [*(("missing", "migration", name) for name in names()), ("changed", "setting", "user_version")],
    ),
}


MOVED = ("ALTER TABLE events RENAME TO kept", "CREATE VIEW events AS SELECT * FROM kept WHERE seq < 4")


def test_a_fresh_one_is_sound(path: Path) -> None:
    assert found(path) == []


@pytest.mark.parametrize("how", TAMPERED)
def test_it_is_found_and_mended(path: Path, how: str) -> None:
    statements, expected = TAMPERED[how]
    before = everything(path)
    tamper(path, *statements)
    with ImageCache(path.parents[1]) as cache:
        verified = cache.verify()
        assert isinstance(verified.chain, chain.Verified)
        problems = [(each.problem, each.kind, each.name) for each in verified.schema]
        assert sorted(problems) == sorted(expected)
        assert not verified.sound
        mended = cache.rebuild()
        assert [each for each in mended if isinstance(each, SchemaProblem)] == verified.schema
        again = cache.verify()
        assert (again.schema, again.differences, again.unreadable) == ([], [], None)
        assert cache.rebuild() == []
        assert [image.reference for image in cache.list()] == ["python:3.12"]
    assert everything(path)[1:] == before[1:]
    assert sorted(everything(path)[0]) == sorted(before[0])  # type: ignore[call-overload]


@pytest.mark.parametrize("until", names()[1:])
def test_a_database_of_an_older_schema_becomes_the_same(path: Path, until: str) -> None:
    fresh = everything(path)
    downgrade(path, until)
    assert found(path) == []
    assert sorted(everything(path)[0]) == sorted(fresh[0])  # type: ignore[call-overload]


@pytest.mark.parametrize("statement", ["PRAGMA user_version = 0", "PRAGMA user_version = 4"])
def test_a_number_that_is_not_the_schemas_is_refused_and_changes_nothing(path: Path, statement: str) -> None:
    tamper(path, statement)
    before = path.read_bytes()
    for _ in range(2):
        with (
            ImageCache(path.parents[1]) as cache,
            pytest.raises(CorruptLogError, match=r"says that its schema is \d.*`msb-cache rebuild` mends it"),
        ):
            cache.list()
    assert path.read_bytes() == before


@pytest.mark.parametrize("table", ["hold", "projection_state"])
def test_a_missing_table_is_said_with_what_to_do(path: Path, table: str) -> None:
    tamper(path, f"DROP TABLE {table}")
    with (
        ImageCache(path.parents[1]) as cache,
        pytest.raises(CorruptLogError, match="`msb-cache rebuild` mends"),
    ):
        cache.holds()


@pytest.mark.parametrize(
    "statements",
    [
        [*MOVED, "UPDATE projection_state SET seq = 3"],
        ["ALTER TABLE events ADD COLUMN note TEXT"],
    ],
)
def test_a_log_in_another_table_is_found_and_not_mended(path: Path, statements: list[str]) -> None:
    tamper(path, *statements)
    before = everything(path)
    with ImageCache(path.parents[1]) as cache:
        verified = cache.verify()
        assert ("events", "import") in {(each.name, each.remedy) for each in verified.schema}
        assert not verified.sound
        with pytest.raises(CorruptLogError, match="nothing can make that anew"):
            cache.rebuild()
    assert everything(path) == before


def test_what_is_not_ours_is_named_and_left(path: Path) -> None:
    tamper(
        path, "CREATE TABLE notes (note TEXT)", "CREATE VIEW newest AS SELECT max(seq) FROM events", "ANALYZE"
    )
    with ImageCache(path.parents[1]) as cache:
        assert [(each.problem, each.kind, each.name, each.remedy) for each in cache.verify().schema] == [
            ("extra", "table", "notes", "drop"),
            ("extra", "view", "newest", "drop"),
        ]
        assert cache.rebuild() == []
    assert len(found(path)) == 2


def test_a_log_whose_end_is_gone_is_not_made_to_look_whole(path: Path) -> None:
    tamper(
        path,
        *(f"DROP TRIGGER {name}" for name in ("events_no_delete", "events_no_update")),
        "DELETE FROM events WHERE seq > 3",
        "PRAGMA user_version = 4",
    )
    with ImageCache(path.parents[1]) as cache:
        verified = cache.verify()
        assert isinstance(verified.chain, chain.Break)
        assert verified.chain.kind == "truncated"
        assert len(verified.schema) == 3
        with pytest.raises(CorruptLogError, match="its end is gone"):
            cache.rebuild()


def test_a_mended_trigger_does_nothing_meanwhile(path: Path) -> None:
    """What a foreign trigger would do while the index is folded anew is not done."""
    tamper(
        path,
        "CREATE TRIGGER tidy AFTER UPDATE ON projection_state BEGIN DELETE FROM hold; END",
        "DELETE FROM image",
    )
    with ImageCache(path.parents[1]) as cache:
        mended = cache.rebuild()
        assert {type(each) for each in mended} == {SchemaProblem, Difference}
        assert len(cache.holds()) == 1


def test_a_mending_that_is_broken_off_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tamper(path, "DROP TRIGGER events_no_delete", "DROP TABLE hold", "PRAGMA user_version = 4")
    before = everything(path)
    with ImageCache(path.parents[1]) as cache:

        def interrupt(step: str) -> None:
            if step == "rebuild.schema":
                raise KeyboardInterrupt

        monkeypatch.setattr(failpoints, "observer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.rebuild()
        assert everything(path) == before
        monkeypatch.undo()
        assert len(cache.rebuild()) == 4
        assert cache.verify().schema == []


def test_a_home_that_cannot_be_written_to_is_checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the connection is to a file that is taken not to change, whose journal is not the real one."""
    import os

    from msb_cache.home import connect

    def refused(*arguments: object) -> sqlite3.Connection:
        raise PermissionError

    monkeypatch.setattr(connect, "_opened", lambda *arguments, **more: refused())
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert found(path) == []
    monkeypatch.undo()
    tamper(path, "DROP TRIGGER events_no_delete")
    monkeypatch.setattr(connect, "_opened", lambda *arguments, **more: refused())
    assert [each.name for each in found(path)] == ["events_no_delete"]


def test_our_texts_have_no_comments() -> None:
    """Else a difference in spaces could be one in meaning."""
    for part in schema._reference().values():
        assert "--" not in part.sql
        assert "/*" not in part.sql
    assert ("table", "events") in schema._reference()
    assert len(names()) == SCHEMA_VERSION


def test_what_was_signed_is_kept_when_its_table_is_made_anew(path: Path) -> None:
    """It is the one table but the log's that nothing else has."""
    note = str(signed_checkpoint(2, bytes(32), new_log_key()))
    row = ("log.example/cache", 2, note, 5)
    tamper(
        path,
        "DROP TABLE signed_checkpoint",
        "CREATE TABLE signed_checkpoint (more TEXT, note TEXT, size INTEGER, signed_at INTEGER, origin TEXT)",
        f"INSERT INTO signed_checkpoint VALUES ('x', '{note}', 2, 5, 'log.example/cache')",
        "INSERT INTO signed_checkpoint VALUES ('x', 'y', 'many', 5, 'log.example/cache')",
    )
    with ImageCache(path.parents[1]) as cache:
        assert [each.name for each in cache.rebuild() if isinstance(each, SchemaProblem)] == [
            "signed_checkpoint"
        ]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM signed_checkpoint").fetchall() == [row]
    tamper(path, "DROP TABLE signed_checkpoint", "CREATE TABLE signed_checkpoint (origin TEXT)")
    with ImageCache(path.parents[1]) as cache:
        assert cache.rebuild()
        assert cache.verify().schema == []
