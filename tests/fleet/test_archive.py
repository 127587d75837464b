"""Old events go to Parquet files and nothing is lost by it, wherever a run is stopped."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache import failpoints
from msb_cache.errors import FleetError, InvalidConfigError, LogError
from msb_cache.eventstore.chain import Checker
from msb_cache.fleet import archive_files, schema
from msb_cache.fleet.archive import planned
from msb_cache.fleet.archive_files import listed
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.fold import fold, rebuild
from msb_cache.fleet.hosts import KnownLog
from msb_cache.fleet.place import FileReading
from msb_cache.projections.rows import ROW_TYPES
from tests.fleet.copies import copied, with_a_log
from tests.fleet.sent import chained, log_of, send
from tests.reporthome import make

STEPS = ["written", "placed", "exported", "deleted", "committed"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    home = tmp_path_factory.mktemp("homes") / "one"
    make(home, scale=100)
    return log_of(home)


@pytest.fixture(scope="module")
def sent(postgres, rows):
    """A database with a log's first 300 events, which are folded."""
    return with_a_log(postgres, "archived", rows[:300])


@pytest.fixture
def admin(postgres, sent):
    """The superuser's DSN of a copy of that."""
    with copied(postgres, sent) as dsn:
        yield dsn


@pytest.fixture
def host(postgres, admin):
    """The DSN of the host that sends the log."""
    return postgres.dsn("archived", "its%20own", database=admin.rpartition("/")[2])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "archive"


def time_of(rows, seq: int) -> str:
    """Return a time between the recording of an event and of the next one of another time."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(rows[seq - 1][8] // 10**9 + 1, UTC).isoformat()


def cut_of(rows, seq: int) -> int:
    """Return the last event that was recorded before that time."""
    limit = (rows[seq - 1][8] // 10**9 + 1) * 10**9
    return max(row[1] for row in rows if row[8] < limit)


def there(admin) -> list[int]:
    import psycopg

    with psycopg.connect(admin) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM msb_cache.events ORDER BY seq")]


def folded(admin):
    found = {}
    with Postgres(admin).read() as reading:
        for row_type in ROW_TYPES:
            found[row_type.table] = sorted(
                reading.rows(f"SELECT * FROM msb_cache.{row_type.table}"), key=repr
            )
    return found


def sound(admin, archive=None) -> bool:
    return all(each.sound for each in Fleet(admin).verify(archive=archive))


def test_a_beginning_goes_and_all_else_goes_on(admin, host, rows, folder):
    fleet = Fleet(admin)
    before, last = folded(admin), cut_of(rows, 120)
    planned = fleet.archive(time_of(rows, 120), folder, dry_run=True)
    assert [(each.first, each.last, each.events, each.path) for each in planned] == [(1, last, last, None)]
    assert not folder.exists()
    (done,) = fleet.archive(time_of(rows, 120), folder)
    assert (done.first, done.last, done.problem) == (1, last, None)
    assert done.path == folder / f"{rows[0][0]}-{1:012}-{last:012}.parquet"
    assert done.bytes == done.path.stat().st_size
    assert there(admin) == [*range(last + 1, 301)]
    assert fleet.archive(time_of(rows, 120), folder) == []
    assert folded(admin) == before
    assert sound(admin)
    assert sound(admin, folder)

    send(host, rows[299:])  # shipping goes on
    fold(Postgres(admin))
    whole = folded(admin)
    assert sound(admin, folder)
    rebuild(Postgres(admin))
    assert sound(admin)
    fold(Postgres(admin))
    assert folded(admin) == whole
    assert sound(admin, folder)

    (done,) = fleet.archive("now", folder)  # a second one goes on from the first, up to the log's very end
    assert (done.first, done.last) == (last + 1, len(rows))
    assert there(admin) == []
    assert folded(admin) == whole
    assert sound(admin, folder)
    rebuild(Postgres(admin))
    fold(Postgres(admin))
    assert folded(admin) == whole
    assert send(host, rows[-1:]).verdict == "accepted"


def test_what_is_in_the_files_is_what_was_sent(admin, rows, folder):
    import duckdb

    last = cut_of(rows, 120)
    (done,) = Fleet(admin).archive(time_of(rows, 120), folder)
    found = duckdb.sql(f"SELECT * FROM read_parquet('{done.path}')")
    assert found.columns == [
        "log_id",
        *["seq", "id", "type", "version", "subject", "operation"],
        "occurred_at",
        "recorded_at",
        "actor",
        "data",
        "hash",
    ]
    assert found.fetchall() == rows[:last]


def test_what_is_not_folded_stays(admin, host, rows, folder):
    send(host, rows[299:400])
    (done,) = Fleet(admin).archive("now", folder)
    assert (done.last, done.not_folded) == (300, 100)
    assert there(admin) == [*range(301, 401)]
    (done,) = Fleet(admin).archive("now", folder)
    assert (done.events, done.first, done.not_folded) == (0, 0, 100)


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_fails_is_gone_on_with(admin, rows, folder, monkeypatch, step):
    def stop(reached: str) -> None:
        if reached == f"archive.{step}":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "observer", stop)
        with pytest.raises(KeyboardInterrupt):
            Fleet(admin).archive(time_of(rows, 120), folder)
    last = cut_of(rows, 120)
    assert there(admin) == ([*range(last + 1, 301)] if step == "committed" else [*range(1, 301)])
    assert sound(admin)
    files = listed(folder)
    assert bool(files) == (step != "written")
    inode = next(iter(files[rows[0][0]])).path.stat().st_ino if files else None
    done = Fleet(admin).archive(time_of(rows, 200), folder)
    if step == "committed":
        expected = [(last + 1, cut_of(rows, 200))]
    elif step == "written":
        expected = [(1, cut_of(rows, 200))]
    else:  # the file that was left is taken, and goes first
        expected = [(1, last), (last + 1, cut_of(rows, 200))]
        assert done[0].path.stat().st_ino == inode
    assert [(each.first, each.last) for each in done] == expected
    assert there(admin) == [*range(cut_of(rows, 200) + 1, 301)]
    assert sound(admin, folder)


KILLED = """
import os, sys
from msb_cache import failpoints
from msb_cache.fleet.place import FileReading
from msb_cache.fleet.fleet import Fleet
step = sys.argv[4]
failpoints.observer = lambda reached: reached == step and os.kill(os.getpid(), 9)
Fleet(sys.argv[1]).archive(sys.argv[2], sys.argv[3])
"""


@pytest.mark.parametrize("step", ["written", "deleted"])  # within the file, within the transaction
def test_a_run_that_is_killed_is_gone_on_with(admin, rows, folder, step):
    arguments = [admin, time_of(rows, 120), str(folder), f"archive.{step}"]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode == -9
    assert sound(admin)
    Fleet(admin).archive(time_of(rows, 120), folder)
    last = cut_of(rows, 120)
    assert there(admin) == [*range(last + 1, 301)]
    assert os.listdir(folder) == [f"{rows[0][0]}-{1:012}-{last:012}.parquet"]
    assert sound(admin, folder)


def test_the_server_is_killed(admin, rows, folder, monkeypatch, postgres):
    killed = []

    def kill(reached: str) -> None:
        if reached == "archive.deleted" and not killed:
            killed.append(reached)
            postgres.restart("immediate")

    monkeypatch.setattr(failpoints, "observer", kill)
    with pytest.raises(FleetError):
        Fleet(admin).archive(time_of(rows, 120), folder)
    assert there(admin) == [*range(1, 301)]
    assert sound(admin)
    (done,) = Fleet(admin).archive(time_of(rows, 120), folder)
    assert there(admin) == [*range(done.last + 1, 301)]
    assert sound(admin, folder)


def test_a_file_that_is_damaged_is_replaced(admin, rows, folder):
    last = cut_of(rows, 120)
    path = folder / f"{rows[0][0]}-{1:012}-{last:012}.parquet"
    folder.mkdir()
    path.write_bytes(b"PAR1 and nothing else")
    (done,) = Fleet(admin).archive(time_of(rows, 120), folder)
    assert done.path == path
    assert sound(admin, folder)


def test_a_file_of_other_events_stays_as_it_is(admin, rows, folder):
    last = cut_of(rows, 120)
    place = archive_files.place_of(folder, rows[0][0], 1, last)
    other = [(*row[:7], row[7] + 1, *row[8:]) if row[1] == 50 else row for row in rows[:last]]
    stretch = archive_files.Stretch(place, rows[0][0], 1, last)
    with archive_files.working_in(folder):
        archive_files.write(stretch, ((row[1:-1], row[-1]) for row in chained(other)), Checker)
    kept = place.read_bytes()
    (done,) = Fleet(admin).archive(time_of(rows, 120), folder)
    assert "archive into another folder" in done.problem
    assert place.read_bytes() == kept
    assert there(admin) == [*range(1, 301)]


def test_the_files_are_checked_into_the_anchor(admin, rows, folder):
    Fleet(admin).archive(time_of(rows, 120), folder)
    Fleet(admin).archive(time_of(rows, 200), folder)
    first, second = sorted(folder.iterdir())
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    (found,) = Fleet(admin).verify(archive=folder)
    assert not found.sound
    assert found.broken.seq == 1
    first.unlink()
    (found,) = Fleet(admin).verify(archive=folder)
    assert "no file that" in found.problems[0] or "no files that" in found.problems[0]
    first.write_bytes(kept)
    second.unlink()
    (found,) = Fleet(admin).verify(archive=folder)
    assert "goes on from event" in found.problems[0]
    with pytest.raises(LogError, match="cannot read the archive"):
        Fleet(admin).verify(archive=folder / "nowhere")


def test_a_log_that_is_not_sound_stays(admin, rows, folder):
    import psycopg

    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("ALTER TABLE msb_cache.events DISABLE TRIGGER USER")
        connection.execute("UPDATE msb_cache.events SET subject = 'x' WHERE seq = 50")
        connection.execute("ALTER TABLE msb_cache.events ENABLE TRIGGER USER")
    (done,) = Fleet(admin).archive(time_of(rows, 120), folder)
    assert done.events == 0
    assert "the hash of event 50" in done.problem
    assert there(admin) == [*range(1, 301)]
    assert list(folder.iterdir()) == []


_LOGS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 6), max_size=9).map(sorted),  # when its events were recorded
        st.integers(0, 9),  # up to where it is archived
        st.integers(0, 9),  # and folded
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(_LOGS, st.integers(0, 7))
def test_what_goes_is_what_was_recorded_before_and_is_folded(logs, before):
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("ATTACH ':memory:' AS msb_cache")
        for statement in schema.tables(postgres=False):
            connection.execute(statement)
        known, expected = [], {}
        for number, (times, archived, done) in enumerate(logs):
            log_id, size = f"{number:032x}", len(times)
            archived, done = min(archived, size), max(min(archived, size), min(done, size))
            known.append(KnownLog(log_id, "host", "role", size, done, archived))
            connection.execute(
                "INSERT INTO msb_cache.head VALUES (?, 'role', ?, x'00', 0, 0, 0, 0, 0, 0, 0, 0)",
                (log_id, size),
            )
            if archived:
                connection.execute(
                    "INSERT INTO msb_cache.anchor VALUES (?, ?, x'', 0, 1, x'', 0)", (log_id, archived)
                )
            if done:
                connection.execute(
                    "INSERT INTO msb_cache.fold_state (log_id, seq, hash, recorded_at, folded_at, host) "
                    "VALUES (?, ?, x'', 0, 0, 'host')",
                    (log_id, done),
                )
            for seq, time in enumerate(times, 1):
                if seq > archived:
                    connection.execute(
                        "INSERT INTO msb_cache.events VALUES (?, ?, '', '', 1, '', '', 0, ?, '', '', ?)",
                        (log_id, seq, time, bytes(32)),
                    )
            old = [seq for seq, time in enumerate(times, 1) if seq > archived and time < before]
            if old:
                going = [seq for seq in old if seq <= done]
                expected[log_id] = (
                    going[0] if going else 0,
                    going[-1] if going else 0,
                    len(old) - len(going),
                )
        found = planned(FileReading(connection), known, before)
    assert {each.log_id: (each.first, each.last, each.not_folded) for each in found} == expected


def run(admin, statement):
    import psycopg

    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE msb_cache.anchor SET fold_version = fold_version - 1",
        "UPDATE msb_cache.anchor SET rows = 'damaged'",
    ],
)
def test_an_anchor_is_folded_anew_from_the_archive(admin, rows, folder, statement):
    fleet = Fleet(admin)
    (done,) = fleet.archive(time_of(rows, 120), folder)
    whole = folded(admin)
    run(admin, statement)
    (found,) = fleet.verify()
    assert "--refold" in found.unreadable
    rebuild(Postgres(admin))
    (stopped,) = fold(Postgres(admin)).stopped
    assert "--refold" in stopped.problem
    (again,) = fleet.refold(folder)
    assert (again.archived_seq, again.problem) == (done.last, None)
    assert fleet.refold(folder) == []
    assert not fold(Postgres(admin)).stopped
    assert folded(admin) == whole
    assert sound(admin, folder)


def test_an_anchor_that_is_another_than_the_archive_is_found(admin, rows, folder):
    fleet = Fleet(admin)
    fleet.archive(time_of(rows, 120), folder)
    (path,) = folder.iterdir()
    kept = path.read_bytes()
    run(admin, "UPDATE msb_cache.anchor SET hash = sha256(hash)")
    (found,) = fleet.verify(archive=folder)
    assert "the anchor has not the hash" in found.problems[0]
    (failed,) = fleet.refold(folder)
    assert "leads to another event" in failed.problem
    path.write_bytes(kept[:-20])
    (failed,) = fleet.refold(folder)
    assert "no file of an archive, or damaged" in failed.problem


def test_logs_say_what_is_archived(admin, rows, folder):
    assert [log.archived_seq for log in Fleet(admin).logs()] == [0]
    (done,) = Fleet(admin).archive(time_of(rows, 120), folder)
    assert [log.archived_seq for log in Fleet(admin).logs()] == [done.last]


def test_a_fleet_in_a_file_is_not_archived(tmp_path):
    with pytest.raises(InvalidConfigError):
        Fleet(db=tmp_path / "fleet.db").archive("now", tmp_path)
