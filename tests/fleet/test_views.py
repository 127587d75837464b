"""The SQL views of a fleet: they say what hosts themselves say, and read no event."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache import ImageCache, InvalidReferenceError
from msb_cache.eventstore.store import as_datetime
from msb_cache.fleet import views
from msb_cache.fleet.admission import init
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fold import fold
from msb_cache.oci.reference import Reference
from tests.fleet.sent import log_of, send
from tests.logs import PYTHON
from tests.reporthome import make

HOST = "build-1"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of 41 days."""
    found = tmp_path_factory.mktemp("homes") / "busy"
    make(found, scale=20)
    return found


@pytest.fixture
def reader(admin: str, home: Path) -> str:
    """The DSN of one who may only ask, of a fleet with that home."""
    init(admin)
    host = enrol(admin, "view-host", password="its own")
    send(f"{host.dsn} password='its own'", log_of(home), cache_bytes=10, free_bytes=20, disk_bytes=30)
    fold(Postgres(admin))
    asks = enrol(admin, "view-reader", kind="reader", password="to ask")
    return f"{asks.dsn} password='to ask'"


def ask(dsn: str, sql: str, *arguments: object) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql.encode(), arguments).fetchall()


def test_they_say_what_the_host_says(reader: str, home: Path) -> None:
    with ImageCache(home) as cache:
        images, prunes = cache.list(), cache.prunes()
        holders = {image.reference: [*image.held_by, *image.in_use_by] for image in images}
        size = cache.info().events
    found = ask(
        reader,
        "SELECT image, manifest_digest, size_bytes, last_used_at, in_use, pinned FROM msb_cache.images",
    )
    assert {row[:5] for row in found} == {
        (
            each.reference,
            each.manifest_digest,
            each.size_bytes,
            each.last_used_at,
            bool(holders[each.reference]),
        )
        for each in images
    }
    assert {image for image, *_, pinned in found if pinned} == {"python:3.12"}
    idle = ask(reader, "SELECT image, idle_since, idle_for FROM msb_cache.idle_images")
    assert {image for image, *_ in idle} == {
        each.reference for each in images if not holders[each.reference] and each.reference != "python:3.12"
    }
    assert ask(reader, "SELECT image, holder FROM msb_cache.image_holders ORDER BY 1, 2") == sorted(
        (image, each) for image, held in holders.items() for each in held
    )
    assert {*ask(reader, "SELECT operation, kind, started_at, freed_bytes FROM msb_cache.prunes")} == {
        (
            each.operation,
            each.counters.kind,
            as_datetime(each.counters.started_at),
            each.counters.bytes_reclaimed,
        )
        for each in prunes
    }
    assert ask(
        reader,
        "SELECT events, folded_events, unfolded_events, unshipped_events, cache_bytes, free_bytes, "
        "disk_bytes, images, problem FROM msb_cache.hosts",
    ) == [(size, size, 0, 0, 10, 20, 30, len(images), None)]
    assert {*ask(reader, "SELECT image, hosts FROM msb_cache.image_spread")} == {
        (each.reference, 1) for each in images
    }
    assert ask(reader, "SELECT * FROM msb_cache.problems") == []


def test_problems_are_of_folding_of_signatures_and_of_what_was_refused(reader: str, admin: str) -> None:
    with psycopg.connect(admin) as connection:
        (log_id,) = connection.execute(
            "UPDATE msb_cache.fold_state SET problem = 'one', checkpoint_problem = 'two' RETURNING log_id"
        ).fetchone() or ("",)
        connection.execute(
            "INSERT INTO msb_cache.alert VALUES ('x', %s, 'fork', 1, 'three', 1, 2000, 9)", [log_id]
        )
    found = ask(reader, "SELECT kind, detail, role, last_at, times FROM msb_cache.problems ORDER BY 1")
    assert found == [
        ("checkpoint", "two", "view-host", None, 1),
        ("fold", "one", "view-host", None, 1),
        ("fork", "three", "x", datetime(1970, 1, 1, 0, 0, 0, 2, tzinfo=UTC), 9),
    ]


def test_no_view_depends_on_what_events_say(reader: str, admin: str) -> None:
    depends = """
        WITH RECURSIVE below (view, relation, number) AS (
            SELECT r.ev_class, d.refobjid, d.refobjsubid FROM pg_rewrite r
            JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
            UNION SELECT b.view, d.refobjid, d.refobjsubid FROM below b
            JOIN pg_rewrite r ON r.ev_class = b.relation
            JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class)
        SELECT DISTINCT view::regclass::text FROM below WHERE relation = 'msb_cache.events'::regclass
            OR relation = 'msb_cache.told'::regclass"""
    # The log itself without configurations is one, so the question finds what there is to find; and which
    # events of it came while a clock was behind.
    assert sorted(ask(admin, depends)) == [("msb_cache.behind",), ("msb_cache.event",)]
    with psycopg.connect(reader) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT data FROM msb_cache.events")


def test_each_column_is_explained_in_the_database(reader: str) -> None:
    found = ask(
        reader,
        "SELECT a.attrelid::regclass::text, a.attname, col_description(a.attrelid, a.attnum) "
        "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relkind = 'v' "
        "AND c.relnamespace = 'msb_cache'::regnamespace AND c.relname "
        "NOT IN ('event', 'behind') AND a.attnum > 0 "
        "ORDER BY 1, a.attnum",
    )
    expected = [(view.name, column.name, column.meaning) for view in views.VIEWS for column in view.columns]
    assert sorted(found) == sorted(expected)
    owners = ask(reader, "SELECT DISTINCT viewowner::text FROM pg_views WHERE schemaname = 'msb_cache'")
    assert owners == [("msb_cache_owner",)]


def test_a_second_init_leaves_them_and_another_fold_makes_them_anew(reader: str, admin: str) -> None:
    assert not init(admin).changed
    with psycopg.connect(admin) as connection:
        connection.execute("UPDATE msb_cache.fleet SET fold_version = fold_version - 1")
    assert init(admin).read_models_made
    assert ask(reader, "SELECT folded_events, unfolded_events > 0 FROM msb_cache.hosts") == [(0, True)]


_PARTS = st.sampled_from(
    [
        "docker.io",
        "library",
        "python",
        "localhost",
        "localhost:5000",
        "ghcr.io",
        "a",
        "b.c",
        "f" * 64,
        "0" * 63,
    ]
)
_ENDS = st.sampled_from(["", ":3.12", ":latest", "@sha256:" + "0" * 64, ":1@sha256:" + "1" * 64])


@given(
    texts=st.lists(st.builds("{}{}".format, st.lists(_PARTS, min_size=1, max_size=4).map("/".join), _ENDS))
)
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_references_are_shown_as_people_type_them(admin: str, texts: list[str]) -> None:
    known = {}
    for text in (*texts, PYTHON, "docker.io/library/" + "a" * 64 + ":1"):
        try:
            reference = Reference.parse(text)
        except InvalidReferenceError:
            continue
        known[reference.canonical] = reference.familiar
    sql = f"SELECT r, {views.familiar('r')} FROM unnest(%s::text[]) AS r"
    assert dict(ask(admin, sql, [*known])) == known


@given(times=st.lists(st.integers(0, 2**63 - 1)))
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_times_are_exact_to_the_microsecond(admin: str, times: list[int]) -> None:
    found = views.moment("t").replace("%", "%%")
    sql = f"SELECT t, extract(epoch FROM {found})::numeric FROM unnest(%s::bigint[]) AS t"
    for time_ns, seconds in ask(admin, sql, times):
        assert int(seconds * 1_000_000) == time_ns // 1000
