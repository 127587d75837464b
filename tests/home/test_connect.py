"""Opening the database: made, migrated, refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import CorruptLogError, LogError, NewerDatabaseError
from msb_cache.eventstore import chain
from msb_cache.home.connect import open_database, open_to_read
from msb_cache.home.ledger import Ledger
from msb_cache.migrations import APPLICATION_ID, SCHEMA_VERSION
from msb_cache.migrations.schema import migrations
from msb_cache.projections import images
from tests.logs import ACTOR, PYTHON, downgrade, new_ledger, some_events


def test_reading_makes_no_database(tmp_path: Path) -> None:
    assert open_to_read(Layout(tmp_path / "none"), pytest.fail) is None
    assert not (tmp_path / "none").exists()


def test_a_new_database_is_complete(tmp_path: Path) -> None:
    connection = open_database(Layout(tmp_path), pytest.fail)
    pragmas = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS}
    assert pragmas == PRAGMAS
    assert len(migrations.pending(Database(connection))) == 0
    connection.close()


PRAGMAS = {
    "user_version": SCHEMA_VERSION,
    "application_id": APPLICATION_ID,
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": 100,
}


def test_many_open_an_older_database_at_once(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    ledger.close()
    downgrade(Path(ledger.layout.database), "m0002_projections")
    program = (
        "import sys; from msb_cache import ImageCache\n"
        "with ImageCache(sys.argv[1]) as cache: print(len(cache.events()), cache.verify().sound)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (out, err) == (b"7 True\n", b"")


def test_many_make_a_database_at_once(tmp_path: Path) -> None:
    def open_and_count(_: int) -> int:
        ledger = Ledger(Layout(tmp_path), actor=ACTOR)
        with ledger.write("x") as transaction:
            transaction.append(some_events()[:1])
        ledger.close()
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(open_and_count, range(16))) == 16
    connection = sqlite3.connect(Layout(tmp_path).database)
    assert connection.execute("SELECT count(*), max(seq) FROM events").fetchone() == (17, 17)
    assert isinstance(chain.verify(connection), chain.Verified)
    connection.close()


def test_tables_of_another_fold_are_folded_anew(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:2])
    ledger.close()
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as changing:
        changing.execute("UPDATE projection_state SET fold_version = 0")
        changing.execute("DELETE FROM image")
    with ledger.read() as connection:
        assert connection is not None
        assert images.handle(connection, PYTHON) is not None


def test_sqlite_utils_is_imported_only_when_something_is_pending(tmp_path: Path) -> None:
    new_ledger(tmp_path, some_events()).close()
    program = (
        "import sys; from msb_cache import ImageCache\n"
        "with ImageCache(sys.argv[1]) as cache: cache.list()\n"
        "heavy = {'sqlite_utils', 'structlog', 'rich', 'dateutil', 'backports.zstd', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def damaged(tmp_path: Path) -> Path:
    ledger = new_ledger(tmp_path, some_events())
    ledger.close()
    return Path(ledger.layout.database)


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(NewerDatabaseError, match="written by a newer msb-cache"):
        open_database(Layout(tmp_path), pytest.fail)
    assert path.read_bytes() == before


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    path = Path(Layout(tmp_path).database)
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE holidays (day TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(CorruptLogError, match="not one of msb-cache"):
        open_database(Layout(tmp_path), pytest.fail)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be read as one" * 20, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_database_is_refused(
    tmp_path: Path, content: bytes, open_connections: Callable[[], list[sqlite3.Connection]]
) -> None:
    path = Path(Layout(tmp_path).database)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises((CorruptLogError, LogError), match=r"msb-cache\.db"):
        open_database(Layout(tmp_path), pytest.fail)
    assert path.read_bytes() == content
    assert open_connections() == []


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    Path(Layout(tmp_path).database).mkdir(parents=True)
    with pytest.raises(LogError, match="is no file"):
        open_database(Layout(tmp_path), pytest.fail)
