"""The migrations themselves. One that has been released is never changed: the next one mends it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from sqlite_utils import Database, Migrations

migrations = Migrations("msb-cache")

_EVENTS = """
CREATE TABLE events (
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    type        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    subject     TEXT    NOT NULL,
    operation   TEXT    NOT NULL,
    occurred_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    actor       TEXT    NOT NULL,
    data        TEXT    NOT NULL,
    hash        BLOB    NOT NULL CHECK (typeof(hash) = 'blob' AND length(hash) = 32)
);
CREATE INDEX events_by_type ON events (type);
CREATE INDEX events_by_subject ON events (subject);
CREATE INDEX events_by_operation ON events (operation, subject);
CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are only ever appended, never changed'); END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events are only ever appended, never deleted'); END;
-- Also what refuses INSERT OR REPLACE, which deletes without firing the trigger above.
CREATE TRIGGER events_in_order BEFORE INSERT ON events
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM events)
  OR EXISTS (SELECT 1 FROM events WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'events are only ever appended, each at the next position'); END;
"""

_PROJECTIONS = """
CREATE TABLE image (
    reference       TEXT PRIMARY KEY,
    manifest_digest TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    last_used_at    INTEGER NOT NULL,
    seq             INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX image_by_age ON image (created_at DESC, seq DESC);
CREATE INDEX image_by_manifest ON image (manifest_digest);
CREATE TABLE manifest (
    digest        TEXT PRIMARY KEY,
    media_type    TEXT NOT NULL,
    config_digest TEXT NOT NULL,
    architecture  TEXT,
    os            TEXT,
    variant       TEXT,
    layer_count   INTEGER NOT NULL,
    size_bytes    INTEGER NOT NULL,
    config        TEXT NOT NULL,
    fsmeta_bytes  INTEGER,
    vmdk_bytes    INTEGER,
    seq           INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE manifest_layer (
    manifest_digest  TEXT NOT NULL,
    position         INTEGER NOT NULL,
    diff_id          TEXT NOT NULL,
    blob_digest      TEXT NOT NULL,
    media_type       TEXT NOT NULL,
    compressed_bytes INTEGER NOT NULL,
    PRIMARY KEY (manifest_digest, position)
) WITHOUT ROWID;
CREATE INDEX manifest_layer_by_diff_id ON manifest_layer (diff_id);
CREATE TABLE layer (
    diff_id     TEXT PRIMARY KEY,
    erofs_bytes INTEGER,
    seq         INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE hold (
    manifest_digest TEXT NOT NULL,
    holder          TEXT NOT NULL,
    reference       TEXT,
    since           INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    PRIMARY KEY (manifest_digest, holder)
) WITHOUT ROWID;
CREATE INDEX hold_by_holder ON hold (holder);
CREATE TABLE pointed_at (
    reference       TEXT NOT NULL,
    manifest_digest TEXT NOT NULL,
    seq             INTEGER NOT NULL,
    PRIMARY KEY (reference, manifest_digest)
) WITHOUT ROWID;
CREATE TABLE deletion (
    operation          TEXT PRIMARY KEY,
    kind               TEXT NOT NULL,
    seq                INTEGER NOT NULL,
    started_at         INTEGER NOT NULL,
    finished_at        INTEGER,
    outcome            TEXT,
    recovered          INTEGER NOT NULL,
    image_refs_removed INTEGER NOT NULL,
    manifests_removed  INTEGER NOT NULL,
    layers_removed     INTEGER NOT NULL,
    fsmeta_removed     INTEGER NOT NULL,
    vmdk_removed       INTEGER NOT NULL,
    bytes_reclaimed    INTEGER,
    kept               INTEGER NOT NULL,
    failed             INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX deletion_by_seq ON deletion (seq);
CREATE INDEX deletion_unfinished ON deletion (operation) WHERE finished_at IS NULL;
-- The primary key is what refuses a second outcome for one artifact of one operation.
CREATE TABLE deletion_outcome (
    operation TEXT NOT NULL,
    kind      TEXT NOT NULL,
    subject   TEXT NOT NULL,
    outcome   TEXT NOT NULL,
    PRIMARY KEY (operation, kind, subject)
) WITHOUT ROWID;
CREATE INDEX deletion_outcome_kept ON deletion_outcome (kind, subject) WHERE outcome = 'kept';
CREATE TABLE projection_state (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    fold_version INTEGER NOT NULL,
    seq          INTEGER NOT NULL
)
"""

_OBSERVED = """
ALTER TABLE image ADD COLUMN msb_row TEXT;
ALTER TABLE manifest ADD COLUMN msb_row TEXT;
ALTER TABLE hold ADD COLUMN msb_row TEXT;
-- The two below are not folded: dropping their rows costs one full comparison with msb.db, and the
-- record of files that msb had not unlinked yet.
CREATE TABLE sync_state (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    synced_at    INTEGER NOT NULL,
    db_inode     INTEGER NOT NULL,
    db_size      INTEGER NOT NULL,
    db_mtime_ns  INTEGER NOT NULL,
    wal_inode    INTEGER NOT NULL,
    wal_size     INTEGER NOT NULL,
    wal_mtime_ns INTEGER NOT NULL
);
CREATE TABLE sync_leftover (
    kind      TEXT NOT NULL,
    subject   TEXT NOT NULL,
    bytes     INTEGER,
    manifests INTEGER NOT NULL,
    operation TEXT NOT NULL,
    since     INTEGER NOT NULL,
    PRIMARY KEY (kind, subject)
) WITHOUT ROWID
"""


@migrations()
def m0001_event_log(db: Database) -> None:
    """Create the append-only log."""
    _run(db, _EVENTS)
    db.execute("PRAGMA user_version = 1")


@migrations()
def m0002_projections(db: Database) -> None:
    """Create the tables folded from the log; the process that opens the database fills them."""
    _run(db, _PROJECTIONS)
    db.execute("PRAGMA user_version = 2")


@migrations()
def m0003_observed(db: Database) -> None:
    """Add what observing a home that msb writes needs: its row identities, and the last look at it."""
    _run(db, _OBSERVED)
    db.execute("PRAGMA user_version = 3")


@migrations()
def m0004_engine(db: Database) -> None:
    """Add which program a deletion is carried out by."""
    db.execute("ALTER TABLE deletion ADD COLUMN engine TEXT NOT NULL DEFAULT 'msb-cache'")
    db.execute("PRAGMA user_version = 4")


@migrations()
def m0005_described(db: Database) -> None:
    """Add to an image what a list shows of its manifest, which stands elsewhere for each."""
    for column in ("size_bytes INTEGER", "architecture TEXT", "os TEXT", "layer_count INTEGER"):
        db.execute(f"ALTER TABLE image ADD COLUMN {column}")
    db.execute("PRAGMA user_version = 5")


@migrations()
def m0006_derived(db: Database) -> None:
    """Drop the projection tables: each release makes them by the rows that it folds."""
    for table in (
        *("image", "manifest", "manifest_layer", "layer", "hold"),
        *("pointed_at", "deletion", "deletion_outcome", "projection_state"),
    ):
        db.execute(f"DROP TABLE {table}")
    db.execute(
        "CREATE TABLE projection_state (id INTEGER PRIMARY KEY CHECK (id = 1), "
        "fold_version INTEGER NOT NULL, seq INTEGER NOT NULL)"
    )
    db.execute("PRAGMA user_version = 6")


def names() -> list[str]:
    """Return the names of all migrations, in order."""
    with closing(Database(memory=True)) as empty:
        return [migration.name for migration in migrations.pending(empty)]


def recorded(connection: sqlite3.Connection) -> int | None:
    """Return how many of the migrations a database has had; None if what it says of that is not so."""
    database = Database(connection)
    applied = [migration.name for migration in migrations.applied(database)]
    whole = applied == names()[: len(applied)] and database["events"].exists() == bool(applied)
    return len(applied) if whole else None


@migrations()
def m0007_clock(db: Database) -> None:
    """Index events that were appended while the clock was behind, and keep what tells of its jumps."""
    # Their ids are older than their times.
    db.execute(
        "CREATE INDEX events_behind ON events (id) "
        "WHERE id < printf('%08x-%04x', recorded_at / 65536000000, recorded_at / 1000000 % 65536)"
    )
    # Not folded: what the clock said when the machine was started, by the first and by the last append since.
    db.execute(
        "CREATE TABLE clock_seen (id INTEGER PRIMARY KEY CHECK (id = 1), start TEXT NOT NULL, "
        "first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL)"
    )
    db.execute("PRAGMA user_version = 7")


@migrations()
def m0008_runs(db: Database) -> None:
    """Keep how far msb's record of runs was looked at, and which processes the open ones have."""
    # Not folded: without their rows, all runs of msb.db are compared with the log once more.
    db.execute(
        "CREATE TABLE sync_runs (id INTEGER PRIMARY KEY CHECK (id = 1), database TEXT NOT NULL, "
        "through INTEGER NOT NULL, recorded_through INTEGER NOT NULL)"
    )
    db.execute(
        "CREATE TABLE sync_process (run TEXT PRIMARY KEY, pid INTEGER NOT NULL, ticks INTEGER NOT NULL, "
        "boot TEXT NOT NULL) WITHOUT ROWID"
    )
    db.execute("PRAGMA user_version = 8")


@migrations()
def m0009_checks(db: Database) -> None:
    """Keep when the bytes of each artifact were last compared with their digest."""
    # Not folded: without its rows, all of them are looked at once more.
    db.execute(
        "CREATE TABLE digest_check (kind TEXT NOT NULL, subject TEXT NOT NULL, checked_at INTEGER, "
        "inode INTEGER, PRIMARY KEY (kind, subject)) WITHOUT ROWID"
    )
    db.execute("PRAGMA user_version = 9")


@migrations()
def m0010_merkle(db: Database) -> None:
    """Keep hashes of the Merkle tree over the log, and the checkpoints of it that were signed."""
    # Not folded: without its rows, roots take a pass over the log.
    db.execute(
        "CREATE TABLE subtree (level INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL "
        "CHECK (typeof(hash) = 'blob' AND length(hash) = 32), PRIMARY KEY (level, position)) WITHOUT ROWID"
    )
    # Not folded either: signatures are others' words about the log, and prove themselves.
    db.execute(
        "CREATE TABLE signed_checkpoint (origin TEXT NOT NULL, size INTEGER NOT NULL, note TEXT NOT NULL, "
        "signed_at INTEGER NOT NULL, PRIMARY KEY (origin, size)) WITHOUT ROWID"
    )
    db.execute("PRAGMA user_version = 10")


def _run(db: Database, script: str) -> None:
    # Not executescript: it would commit the migration's transaction before running.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
    if statement.strip():
        db.execute(statement)
