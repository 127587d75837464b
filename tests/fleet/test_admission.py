"""Making a fleet's server ready, and bringing it to this release's tables."""

from __future__ import annotations

import threading

import psycopg
import pytest

from msb_cache.errors import FleetError
from msb_cache.fleet import admission, schema
from msb_cache.fleet.admission import init
from msb_cache.fleet.enrolment import enrol
from msb_cache.projections import FOLD_VERSION
from tests.fleet.postgres import PASSWORD
from tests.fleet.sent import log_of, send
from tests.reporthome import make


def ask(dsn: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(sql.encode())
        return found.fetchall() if found.description else []


def snapshot(dsn: str) -> list[tuple[object, ...]]:
    """All that is in the schema, with who may what."""
    return ask(
        dsn,
        "SELECT relname, relkind, relacl::text FROM pg_class WHERE relnamespace = 'msb_cache'::regnamespace "
        "UNION ALL SELECT proname, 'f', proacl::text FROM pg_proc "
        "WHERE pronamespace = 'msb_cache'::regnamespace "
        "UNION ALL SELECT tgrelid::regclass || tgname, tgenabled, '' FROM pg_trigger ORDER BY 1, 2, 3",
    )


class TestInit:
    def test_once(self, admin):
        first = init(admin)
        assert (first.version, first.fold_version, first.was) == (schema.VERSION, FOLD_VERSION, None)
        assert first.changed
        assert first.read_models_made
        made = snapshot(admin)
        again = init(admin)
        assert (again.was, again.changed, again.read_models_made) == (schema.VERSION, False, False)
        assert snapshot(admin) == made

    def test_of_two_at_once_one_makes_it(self, admin):
        found = []
        threads = [threading.Thread(target=lambda: found.append(init(admin))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(each.changed for each in found) == [False, False, True]

    def test_by_a_role_that_may(self, admin, postgres):
        database = admin.rpartition("/")[2]
        ask(admin, f"CREATE ROLE maker LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
        ask(admin, f"GRANT CREATE ON DATABASE {database} TO maker")
        dsn = postgres.dsn("maker", database=database)
        assert init(dsn).changed
        assert not init(dsn).changed
        assert enrol(dsn, "of-maker").is_new
        assert ask(admin, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'msb_cache'") == [
            ("msb_cache_owner",)
        ]
        ask(admin, f"REVOKE CREATE ON DATABASE {database} FROM maker")

    @pytest.mark.parametrize("rights", ["", "CREATEROLE", "CREATEDB"])
    def test_by_a_role_that_may_not(self, admin, postgres, rights):
        name = f"no_maker_{rights.lower()}"
        ask(admin, f"CREATE ROLE {name} LOGIN {rights} PASSWORD '{PASSWORD}'")
        dsn = postgres.dsn(name, database=admin.rpartition("/")[2])
        with pytest.raises(FleetError, match=f"{name} may not make a fleet here: it must be a superuser, or"):
            init(dsn)
        assert ask(admin, "SELECT to_regnamespace('msb_cache')") == [(None,)]

    def test_nothing_stays_of_one_that_fails(self, admin, monkeypatch):
        monkeypatch.setattr(schema, "read_models", lambda *, postgres: iter(["CREATE TABLE nonsense ("]))
        with pytest.raises(FleetError, match="syntax error"):
            init(admin)
        assert ask(admin, "SELECT to_regnamespace('msb_cache')") == [(None,)]

    def test_a_schema_that_is_no_fleets(self, admin):
        ask(admin, "CREATE SCHEMA msb_cache")
        with pytest.raises(FleetError, match="a schema msb_cache that is no fleet's"):
            init(admin)

    def test_a_database_of_another_encoding(self, admin, postgres):
        ask(admin, "CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'")
        with pytest.raises(FleetError, match="the encoding LATIN1"):
            init(postgres.dsn("admin", database="latin"))
        ask(admin, "DROP DATABASE latin")

    def test_no_server(self, admin):
        with pytest.raises(FleetError) as caught:
            init("host=127.0.0.1 port=1 user=x password=of-secret")
        assert caught.value.temporary
        assert "of-secret" not in str(caught.value)


class TestVersions:
    @pytest.mark.parametrize("column", ["version", "fold_version"])
    def test_a_newer_one_is_left_alone(self, admin, column):
        init(admin)
        ask(admin, f"UPDATE msb_cache.fleet SET {column} = {column} + 1")
        made = snapshot(admin)
        with pytest.raises(FleetError, match="use the newer release"):
            init(admin)
        assert snapshot(admin) == made

    def test_migrations_run_in_order(self, admin, monkeypatch):
        init(admin)
        made = {schema.VERSION + 1: ["CREATE TABLE msb_cache.one (a text)"]}
        made[schema.VERSION + 2] = ["ALTER TABLE msb_cache.one RENAME TO two"]
        monkeypatch.setattr(schema, "VERSION", schema.VERSION + 2)
        monkeypatch.setattr(
            admission, "MIGRATIONS", {number: lambda number=number: made[number] for number in made}
        )
        found = init(admin)
        assert (found.was, found.version, found.read_models_made) == (
            schema.VERSION - 2,
            schema.VERSION,
            False,
        )
        assert ask(admin, "SELECT to_regclass('msb_cache.two')::text") == [("msb_cache.two",)]
        owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'two'"
        assert ask(admin, owner) == [("msb_cache_owner",)]
        assert not init(admin).changed

    def test_every_version_has_its_migration(self):
        assert set(admission.MIGRATIONS) == set(range(2, schema.VERSION + 1))

    def test_another_fold_makes_the_read_models_anew(self, admin, tmp_path, postgres):
        init(admin)
        enrol(admin, "folded", password=PASSWORD)
        make(tmp_path / "home", scale=50)
        rows = log_of(tmp_path / "home")
        assert send(postgres.dsn("folded", database=admin.rpartition("/")[2]), rows).verdict == "accepted"
        made = snapshot(admin)
        for statement in (
            "INSERT INTO msb_cache.pin (log_id, subject, since, seq) VALUES ('x', 'x', 1, 1)",
            "INSERT INTO msb_cache.fold_state VALUES ('x', 1, '', 1, 1, 'x')",
            "INSERT INTO msb_cache.told VALUES ('x', 1, '{}')",
            "CREATE TABLE msb_cache.of_an_older_fold (a text)",
            "CREATE VIEW msb_cache.a_view AS SELECT subject FROM msb_cache.pin",
            "CREATE VIEW msb_cache.another AS SELECT * FROM msb_cache.a_view",
            "UPDATE msb_cache.fleet SET fold_version = fold_version - 1",
        ):
            ask(admin, statement)
        found = init(admin)
        assert (found.was, found.changed, found.read_models_made) == (schema.VERSION, True, True)
        assert snapshot(admin) == made
        for table in ("pin", "fold_state", "told"):
            assert ask(admin, f"SELECT * FROM msb_cache.{table}") == []
        assert ask(admin, "SELECT count(*) FROM msb_cache.events") == [(len(rows),)]

    def test_what_people_made_of_them_is_not_dropped_along(self, admin):
        init(admin)
        ask(admin, "CREATE VIEW public.of_people AS SELECT * FROM msb_cache.pin")
        ask(admin, "UPDATE msb_cache.fleet SET fold_version = fold_version - 1")
        with pytest.raises(FleetError, match="other objects depend on"):
            init(admin)
        assert ask(admin, "SELECT * FROM public.of_people") == []
