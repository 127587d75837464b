"""Events leave a fleet's server by the owner's function alone, and only what it can tell is archived."""

from __future__ import annotations

import psycopg
import pytest

from msb_cache.errors import FleetError
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.schema import size_of
from tests.fleet.copies import copied, with_a_log
from tests.fleet.sent import log_of, send
from tests.reporthome import make


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    home = tmp_path_factory.mktemp("homes") / "one"
    make(home, scale=100)
    return log_of(home)


@pytest.fixture(scope="module")
def sent(postgres, rows):
    return with_a_log(postgres, "of-the-sql", rows[:310], then=10)


@pytest.fixture
def admin(postgres, sent):
    with copied(postgres, sent) as dsn:
        yield dsn


def archive(connection, log_id, after, upto, stored):
    given = (log_id, after, upto, stored, 1, b"rows")
    return connection.execute("SELECT msb_cache.archive(%s, %s, %s, %s, %s, %s)", given).fetchone()[0]


def test_a_beginning_goes_once(admin, rows):
    log_id, stored = rows[0][0], rows[99][-1]
    with psycopg.connect(admin, autocommit=True) as connection:
        assert archive(connection, log_id, 0, 100, stored) == 100
        assert archive(connection, log_id, 0, 100, stored) == 0  # as after a crash behind its commit
        found = connection.execute("SELECT min(seq), count(*) FROM msb_cache.events").fetchone()
        assert found == (101, 210)
        anchor = connection.execute("SELECT seq, hash, recorded_at, fold_version, rows FROM msb_cache.anchor")
        assert anchor.fetchall() == [(100, stored, rows[99][8], 1, b"rows")]
        told = connection.execute("SELECT min(seq) FROM msb_cache.told").fetchone()[0]
        assert told > 100
        assert archive(connection, log_id, 100, 300, rows[299][-1]) == 200
        with pytest.raises(psycopg.Error, match="archived up to event 300"):
            archive(connection, log_id, 100, 200, rows[199][-1])


def counted(connection) -> int:
    """What the log counts, which is what its events do."""
    row = connection.execute(
        f"SELECT h.bytes, (SELECT sum({size_of('e')})::bigint FROM msb_cache.events e) FROM msb_cache.head h"
    ).fetchone()
    assert row[0] == row[1]
    return row[0]


def test_what_is_archived_makes_room_for_more(admin, rows):
    log_id, dsn = rows[0][0], enrol(admin, "of-the-sql", password="its own").dsn + " password='its own'"
    with psycopg.connect(admin, autocommit=True) as connection:
        before = counted(connection)
        enrol(admin, "of-the-sql", max_log_size=before)
        assert send(dsn, rows[309:311]).verdict == "full"
        with connection.transaction(force_rollback=True):
            archive(connection, log_id, 0, 100, rows[99][-1])
        assert send(dsn, rows[309:311]).verdict == "full"
        archive(connection, log_id, 0, 100, rows[99][-1])
        archive(connection, log_id, 0, 100, rows[99][-1])  # gives no room a second time
        left = counted(connection)
        assert left < before
        archive(connection, log_id, 100, 300, rows[299][-1])
        assert counted(connection) < left
        assert send(dsn, rows[309:]).verdict == "accepted"
        assert counted(connection) <= before


def test_a_log_with_a_hole_stays(admin, rows):
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("ALTER TABLE msb_cache.events DISABLE TRIGGER USER")
        connection.execute("DELETE FROM msb_cache.events WHERE seq = 50")
        with pytest.raises(psycopg.Error, match="has 99 events"):
            archive(connection, rows[0][0], 0, 100, rows[99][-1])
        found = connection.execute("SELECT count(*) FROM msb_cache.events").fetchone()
        assert found == (309,)


def test_only_the_owner_lets_go_of_events(admin, rows, tmp_path):
    for kind in ("folder", "reader"):
        made = enrol(admin, f"an-{kind}", kind=kind, password="its own")
        with pytest.raises(FleetError, match="only members of msb_cache_owner"):
            Fleet(f"{made.dsn} password='its own'").archive("now", tmp_path)
        with (
            psycopg.connect(f"{made.dsn} password='its own'") as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("SELECT msb_cache.archive('', 0, 0, '', 0, '')")
    with psycopg.connect(admin) as connection, pytest.raises(psycopg.Error, match="only ever appended"):
        connection.execute("DELETE FROM msb_cache.events WHERE seq < 10")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("0" * 32, 0, 10), "there is no log"),
        ((None, 5, 10), "was archived up to event 0"),
        ((None, 0, 301), "is not folded up to"),
        ((None, 0, 10), "another than that of the archive"),
        ((None, 0, 0), "another than that of the archive"),
    ],
)
def test_the_server_refuses_what_the_archive_has_not(admin, rows, arguments, said):
    log_id, after, upto = arguments
    given = (log_id or rows[0][0], after, upto, bytes(32), 1, b"")
    with psycopg.connect(admin) as connection, pytest.raises(psycopg.Error, match=said):
        connection.execute("SELECT msb_cache.archive(%s, %s, %s, %s, %s, %s)", given)
