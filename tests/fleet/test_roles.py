"""Each privilege tried, one by one, by each kind of role: what is not granted is refused by PostgreSQL."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from msb_cache.eventstore.chain import GENESIS
from msb_cache.fleet import roles
from msb_cache.fleet.admission import init
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.schema import EVENT_COLUMNS, PARTITIONS, TABLES, VIEWS_OF_LOGS
from msb_cache.fleet.views import VIEWS
from msb_cache.projections.rows import ROW_TYPES
from tests.fleet.postgres import PASSWORD
from tests.fleet.sent import Row, append, chained, log_of, send, stage
from tests.reporthome import make

DOCS = Path(__file__).parents[2] / "docs" / "fleet.md"
LOG = "ab" * 16
KINDS = (*roles.KINDS, "nobody")
PARTS = [f"events_{number:02}" for number in range(PARTITIONS)]
MODELS = [row_type.table for row_type in ROW_TYPES]
RELATIONS = ["staging", "events", *PARTS, *VIEWS_OF_LOGS, *TABLES, *MODELS]
SECRET = "of an image's environment"


def a_log() -> list[Row]:
    texts = ("u", "log.created", 2, LOG, "o", 1, 1, '{"host":"h"}', "{}", b"")
    config = ("u", "manifest.added", 2, "s", "o", 1, 1, "{}", f'{{"env":"{SECRET}"}}', b"")
    return chained([(LOG, 1, *texts), (LOG, 2, *config)])


@pytest.fixture(scope="module")
def fleet(postgres) -> dict[str, str]:
    """The DSNs of each kind, of one that is nothing, and of the superuser, in a fleet with a log."""
    name = f"db_{os.urandom(4).hex()}"
    with psycopg.connect(postgres.admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        connection.execute(f"CREATE ROLE nobody LOGIN PASSWORD '{PASSWORD}'".encode())
    admin = postgres.dsn("admin", database=name)
    init(admin)
    for kind in roles.KINDS:
        enrol(admin, f"a-{kind}", kind=kind, password=PASSWORD)
    enrol(admin, "another", 3, password=PASSWORD)
    found = {kind: postgres.dsn(f"a-{kind}", database=name) for kind in roles.KINDS}
    found |= {each: postgres.dsn(each, database=name) for each in ("nobody", "admin", "another")}
    with psycopg.connect(found["host"], autocommit=True) as connection, connection.transaction():
        stage(connection, a_log())
        assert append(connection, LOG, 2).verdict == "accepted"
    with psycopg.connect(admin, autocommit=True) as connection:
        # As public was until PostgreSQL 15: whoever can log in can make things there.
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    return found


@contextmanager
def session(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        yield connection


def refused(dsn: str, statement: str) -> bool:
    """Whether PostgreSQL refuses a statement for want of privileges; nothing stays of it."""
    with session(dsn) as connection, connection.transaction(force_rollback=True):
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
    return False


MAY = {
    "host": set(),
    "folder": {
        *((table, "SELECT") for table in (*TABLES, *MODELS, "events", *VIEWS_OF_LOGS)),
        *(
            (table, what)
            for table in (*MODELS, "told", "fold_state", "directory")
            for what in ("INSERT", "UPDATE", "DELETE")
        ),
    },
    "reader": {
        (table, "SELECT")
        for table in (
            *(model for model in MODELS if model != "manifest"),
            *("fleet", "head", "alert", "checkpoint", "anchor", "fold_state", "told", "server", "directory"),
            *VIEWS_OF_LOGS,
        )
    },
    "nobody": set(),
}
"""All that each kind may do with whole relations. Of single columns below."""


NOT_THERE = {
    ("staging", "REFERENCES"),
    *((table, "INHERIT") for table in ("events", *PARTS)),
    *(
        (view, what)
        for view in VIEWS_OF_LOGS
        for what in (
            *("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES"),
            *("INHERIT", "INDEX", "POLICY", "COMMENT", "TRIGGER"),
        )
    ),
}
"""What the relation is not of the kind for, whoever asks."""


class TestEachPrivilege:
    @pytest.mark.parametrize("kind", KINDS)
    def test_on_each_relation(self, fleet, kind):
        """As the statement itself says, for each relation and each thing that can be done with it."""
        statements = {
            "SELECT": "SELECT * FROM msb_cache.{}",
            "INSERT": "",
            "UPDATE": "",
            "DELETE": "DELETE FROM msb_cache.{}",
            "TRUNCATE": "TRUNCATE msb_cache.{}",
            "REFERENCES": "CREATE TABLE public.mine (a text REFERENCES msb_cache.{})",
            "LIKE": "CREATE TEMP TABLE mine (LIKE msb_cache.{})",
            "LOCK": "LOCK TABLE msb_cache.{} IN ACCESS EXCLUSIVE MODE",
            "COPY": "COPY (SELECT * FROM msb_cache.{}) TO STDOUT",
            "ALTER": "ALTER TABLE msb_cache.{} RENAME TO mine",
            "DROP": "",
            "TRIGGER": "CREATE TRIGGER mine AFTER INSERT ON msb_cache.{} "
            "EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
            "RULE": "CREATE RULE mine AS ON INSERT TO msb_cache.{} DO NOTHING",
            "INDEX": "CREATE INDEX ON msb_cache.{} ((1))",
            "INHERIT": "CREATE TEMP TABLE mine () INHERITS (msb_cache.{})",
            "POLICY": "CREATE POLICY mine ON msb_cache.{}",
            "COMMENT": "COMMENT ON TABLE msb_cache.{} IS 'mine'",
        }
        allowed = set()
        with session(fleet[kind]) as connection:
            for relation in RELATIONS:
                first = {"staging": "log_id", "fleet": "one", "enrolment": "role", "alert": "role"}.get(
                    relation
                )
                first = first or ("name" if relation == "server" else "log_id")
                for what, statement in statements.items():
                    if what == "INSERT":
                        values = "VALUES (1, 1, 1)" if relation == "fleet" else f"({first}) VALUES ('x')"
                        text = f"INSERT INTO msb_cache.{relation} {values}"
                    elif what == "UPDATE":
                        text = f"UPDATE msb_cache.{relation} SET {first} = NULL"
                    elif what == "DROP":
                        text = f"DROP {'VIEW' if relation in VIEWS_OF_LOGS else 'TABLE'} msb_cache.{relation}"
                    else:
                        text = statement.format(relation)
                    if (relation, what) in NOT_THERE:
                        continue
                    with connection.transaction(force_rollback=True):
                        try:
                            if what == "COPY":
                                with connection.cursor() as cursor, cursor.copy(text.encode()) as copy:
                                    list(copy)
                            else:
                                connection.execute(text.encode())
                        except psycopg.errors.InsufficientPrivilege:
                            continue
                        except psycopg.errors.IntegrityError:
                            pass  # it may; only the row itself is none
                        allowed.add((relation, what))
        also = {"SELECT": ("SELECT", "COPY", "LIKE"), "DELETE": ("DELETE", "LOCK")}
        expected = {(table, each) for table, what in MAY[kind] for each in also.get(what, (what,))}
        if kind == "host":
            expected.add(("staging", "INSERT"))
        assert allowed == expected

    @pytest.mark.parametrize("kind", KINDS)
    def test_on_each_column(self, fleet, kind):
        """What PostgreSQL itself says of columns, where only some are granted."""
        with session(fleet["admin"]) as connection:
            rows = connection.execute(
                "SELECT c.relname, a.attname, p.what FROM pg_class c "
                "JOIN pg_attribute a ON a.attrelid = c.oid "
                "CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('REFERENCES')) p (what) "
                "WHERE c.relnamespace = 'msb_cache'::regnamespace AND c.relkind IN ('r', 'p', 'v') "
                "AND (a.attnum > 0 OR a.attname = 'ctid') AND NOT a.attisdropped "
                "AND has_column_privilege(%s, c.oid, a.attnum, p.what)",
                ("nobody" if kind == "nobody" else f"a-{kind}",),
            ).fetchall()
        views = {view.name.removeprefix("msb_cache.") for view in VIEWS}
        of_views = {(relation, what) for relation, _, what in rows if relation in views}
        expected = {(view, "SELECT") for view in views} if kind in ("folder", "reader") else set()
        assert of_views == expected
        found = {row for row in rows if row[0] not in views and (row[0], row[2]) not in MAY[kind]}
        columns = {
            "host": {("staging", column, "INSERT") for column in EVENT_COLUMNS},
            "reader": {
                *(
                    ("manifest", field, "SELECT")
                    for row_type in ROW_TYPES
                    if row_type.table == "manifest"
                    for field in ("log_id", *row_type.__struct_fields__)
                    if field != "config"
                ),
            },
        }
        assert found == columns.get(kind, set())

    @pytest.mark.parametrize("kind", KINDS)
    def test_on_each_function(self, fleet, kind):
        with session(fleet["admin"]) as connection:
            rows = connection.execute(
                "SELECT p.proname, has_function_privilege(%s, p.oid, 'EXECUTE'), p.prosecdef, p.proconfig "
                "FROM pg_proc p WHERE p.pronamespace = 'msb_cache'::regnamespace",
                ("nobody" if kind == "nobody" else f"a-{kind}",),
            ).fetchall()
        assert {"append", "alerted", "noted", "now_ns", "refuse_change"} <= {row[0] for row in rows}
        expected = {"host": {"append"}, "folder": {"sweep"}}.get(kind, set())
        assert {name for name, may, _, _ in rows if may} == expected
        assert {name for name, _, definer, _ in rows if definer} == {"append", "sweep"}
        for _, _, _, settings in rows:
            assert "search_path=pg_catalog, pg_temp" in settings

    def test_everything_has_the_owner_that_cannot_log_in(self, fleet):
        with session(fleet["admin"]) as connection:
            owners = connection.execute(
                "SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = 'msb_cache'::regnamespace "
                "UNION SELECT proowner::regrole::text FROM pg_proc "
                "WHERE pronamespace = 'msb_cache'::regnamespace "
                "UNION SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'msb_cache'"
            ).fetchall()
            assert owners == [(roles.OWNER,)]
            assert (
                connection.execute(
                    "SELECT rolname FROM pg_roles WHERE rolname LIKE 'msb_cache%' "
                    "AND (rolcanlogin OR rolsuper "
                    "OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)"
                ).fetchall()
                == []
            )


FORBIDDEN = (
    "CREATE TABLE msb_cache.mine (a text)",
    "CREATE VIEW msb_cache.mine AS SELECT 1",
    "CREATE FUNCTION msb_cache.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION msb_cache.now_ns() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
    "CREATE SCHEMA mine",
    "ALTER SCHEMA msb_cache RENAME TO mine",
    "ALTER SCHEMA msb_cache OWNER TO CURRENT_USER",
    "DROP SCHEMA msb_cache CASCADE",
    "ALTER TABLE msb_cache.events DISABLE TRIGGER kept",
    "ALTER TABLE msb_cache.events_00 DISABLE TRIGGER ALL",
    "ALTER TABLE msb_cache.events DETACH PARTITION msb_cache.events_00",
    "ALTER TABLE msb_cache.staging ALTER COLUMN who SET DEFAULT 'a-host'",
    "ALTER FUNCTION msb_cache.append RESET ALL",
    "ALTER FUNCTION msb_cache.append SET search_path = public",
    "ALTER FUNCTION msb_cache.append OWNER TO CURRENT_USER",
    "ALTER FUNCTION msb_cache.append SECURITY INVOKER",
    "DROP FUNCTION msb_cache.append",
    "SELECT msb_cache.now_ns()",
    "SELECT msb_cache.alerted('', 'x', 1, 'x')",
    "SELECT msb_cache.noted('x', '{}', 1)",
    "SELECT msb_cache.refuse_change()",
    "SET ROLE msb_cache_owner",
    "SET ROLE admin",
    "SET ROLE another",
    "SET SESSION AUTHORIZATION another",
    "SET SESSION AUTHORIZATION msb_cache_owner",
    "SET session_replication_role = replica",
    "GRANT msb_cache_owner TO CURRENT_USER",
    "GRANT msb_cache_owner TO nobody",
    "GRANT msb_cache_host TO nobody",
    "GRANT msb_cache_folder TO nobody",
    "GRANT msb_cache_reader TO nobody",
    "GRANT another TO nobody",
    "CREATE ROLE mine",
    "ALTER ROLE another PASSWORD 'mine'",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "ALTER ROLE msb_cache_owner LOGIN",
    "DROP ROLE another",
    "DROP OWNED BY msb_cache_owner",
    "REASSIGN OWNED BY msb_cache_owner TO CURRENT_USER",
    "ALTER DEFAULT PRIVILEGES FOR ROLE msb_cache_owner GRANT ALL ON TABLES TO PUBLIC",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY pg_temp.mine FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT rolpassword FROM pg_authid",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION pg_catalog.now()",
    "CREATE EXTENSION postgres_fdw",
    "CREATE PUBLICATION mine FOR ALL TABLES",
)
"""What no role of a fleet may do, whatever it is enrolled for."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_may(fleet, kind):
    done = []
    with session(fleet[kind]) as connection:
        for statement in FORBIDDEN:
            with connection.transaction(force_rollback=True):
                if "pg_temp.mine" in statement:
                    connection.execute("CREATE TEMP TABLE mine (a text)")
                try:
                    connection.execute(statement.encode())
                except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidGrantOperation):
                    continue
                done.append(statement)
    assert done == []


class TestHost:
    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO msb_cache.staging (who, log_id) VALUES ('another', 'x')",
            "INSERT INTO msb_cache.staging VALUES ('another')",
            "INSERT INTO msb_cache.staging (log_id) VALUES ('x') RETURNING who",
            "INSERT INTO msb_cache.staging (log_id) VALUES ('x') ON CONFLICT DO NOTHING RETURNING log_id",
            "SELECT who FROM msb_cache.staging",
            "SELECT count(*) FROM msb_cache.staging",
            "SELECT ctid FROM msb_cache.staging",
            "COPY msb_cache.staging (who, log_id) FROM STDIN",
            "COPY msb_cache.staging FROM STDIN",
            "COPY msb_cache.staging TO STDOUT",
            "COPY msb_cache.events FROM STDIN",
            "COPY msb_cache.events TO STDOUT",
            "COPY (SELECT data FROM msb_cache.events) TO STDOUT",
            "LOCK TABLE msb_cache.staging IN SHARE MODE",
            "LOCK TABLE msb_cache.staging IN ACCESS EXCLUSIVE MODE",
            "EXPLAIN SELECT * FROM msb_cache.head",
            "MERGE INTO msb_cache.staging s USING (SELECT 1) o ON false WHEN NOT MATCHED THEN "
            "INSERT (who, log_id) VALUES ('x', 'x')",
            "SELECT * FROM msb_cache.event",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'admin'",
        ],
    )
    def test_does_no_more_than_stage(self, fleet, statement):
        assert refused(fleet["host"], statement)

    def test_owns_nothing_by_its_group(self, fleet):
        """Members of a group can drop what it owns, and try to end what was granted to it."""
        with session(fleet["host"]) as connection:
            for statement in (
                "DROP OWNED BY CURRENT_USER",
                "DROP OWNED BY msb_cache_host",
                "DROP OWNED BY msb_cache_host CASCADE",
                "GRANT USAGE ON SCHEMA msb_cache TO PUBLIC",
                "GRANT INSERT ON msb_cache.staging TO PUBLIC",
                "GRANT EXECUTE ON FUNCTION msb_cache.append TO PUBLIC",
                "SET ROLE msb_cache_host",
                "DROP OWNED BY msb_cache_host",
                "REVOKE ALL ON FUNCTION msb_cache.append FROM msb_cache_host",
                "REVOKE INSERT ON msb_cache.staging FROM msb_cache_host",
                "REVOKE ALL ON msb_cache.staging FROM msb_cache_host",
                "REVOKE ALL ON SCHEMA msb_cache FROM msb_cache_host",
            ):
                # Some of these end in a warning that nothing was granted, or revoked.
                with suppress(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("GRANT msb_cache_host TO nobody")
        for kind in ("host", "another"):
            with session(fleet[kind]) as connection, connection.transaction():
                stage(connection, [])
                assert append(connection, "0" * 32).verdict in ("accepted", "full")
        assert refused(fleet["nobody"], "SELECT * FROM msb_cache.append('x', 1)")
        assert refused(fleet["nobody"], "INSERT INTO msb_cache.staging (log_id) VALUES ('x')")

    @pytest.mark.parametrize(
        "before",
        [
            ["SET ROLE msb_cache_host"],
            ["SET SESSION AUTHORIZATION DEFAULT"],
            ["SET search_path = public, pg_temp, msb_cache"],
            ["SET ROLE msb_cache_host", "SET search_path = pg_temp, public"],
        ],
    )
    def test_stays_who_it_is(self, fleet, before):
        with session(fleet["another"]) as connection, connection.transaction():
            for statement in before:
                connection.execute(statement.encode())
            stage(connection, a_log())
            assert append(connection, LOG, 2).verdict == "claimed"


HOSTILE = """
CREATE FUNCTION {schema}.evil() RETURNS bytea LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO public.ran VALUES (current_user, session_user);
  RETURN '\\x00'::bytea;
END $$;
"""


class TestHostileNames:
    """A caller makes things named like those that ``append()`` uses; none of them runs, as nobody."""

    @pytest.fixture
    def ran(self, fleet) -> Iterator[str]:
        """A table that tells as whom hostile code ran."""
        with session(fleet["admin"]) as connection:
            connection.execute("CREATE TABLE public.ran (who text, by text)")
            connection.execute("GRANT ALL ON public.ran TO PUBLIC")
            yield "SELECT * FROM public.ran"
            connection.execute("DROP TABLE public.ran CASCADE")
            connection.execute("DROP OWNED BY another CASCADE")

    def attack(self, fleet, statements: list[str]) -> Any:
        """Make these, then call append() with a log that it does not accept, and with one that it does."""
        with session(fleet["another"]) as connection:
            for statement in statements:
                connection.execute(statement.encode())
            rows = chained([("cd" * 16, *a_log()[0][1:5], "cd" * 16, *a_log()[0][6:])])
            forged = [(*rows[0][:-1], GENESIS)]
            with connection.transaction():
                stage(connection, forged)
                answer = append(connection, "cd" * 16, 1, notes=["x\n1\ny"])
            assert answer.verdict == "forged"
            with connection.transaction(force_rollback=True):
                stage(connection, rows)
                answer = append(connection, "cd" * 16, 1, notes=["x\n1\ny"])
                assert answer.verdict == "accepted"
                # What was made is really there, and would run where it is looked up.
                return connection.execute("SELECT * FROM public.ran").fetchall()

    @pytest.mark.parametrize(
        "name",
        ["staging", "events", "head", "enrolment", "anchor", "alert", "checkpoint", "event", "pg_class"],
    )
    @pytest.mark.parametrize("path", ["", "SET search_path = pg_temp, public, pg_catalog"])
    def test_a_temporary_view_instead_of_a_table(self, fleet, ran, name, path):
        trap = (
            f"SELECT 'another'::text AS who, '{'cd' * 16}'::text AS log_id, 1::bigint AS seq, "
            "'another'::text AS role, 9::bigint AS max_logs, public.evil() AS hash"
        )
        statements = [
            HOSTILE.format(schema="public"),
            f"CREATE TEMP VIEW {name} AS {trap}",
            f"CREATE VIEW public.{name} AS {trap}",
            path or "SELECT 1",
        ]
        assert self.attack(fleet, statements) == []
        with session(fleet["another"]) as connection:  # the view does what it would have to
            for statement in statements[1:2]:
                connection.execute(statement.encode())
            connection.execute(f"SELECT * FROM pg_temp.{name}".encode())
            assert connection.execute(ran.encode()).fetchall() == [("another", "another")]

    def test_a_temporary_table_that_becomes_a_view_between(self, fleet, ran):
        statements = [
            HOSTILE.format(schema="public"),
            "CREATE TEMP TABLE staging AS SELECT 'another'::text AS who, '\\x'::bytea AS hash",
            "SET search_path = pg_temp, msb_cache, pg_catalog",
        ]
        with session(fleet["another"]) as connection:
            for statement in statements:
                connection.execute(statement.encode())
            assert append(connection, "0" * 32).verdict == "accepted"  # it is planned now
            connection.execute("DROP TABLE pg_temp.staging")
            connection.execute("CREATE TEMP VIEW staging AS SELECT 'a'::text AS who, public.evil() AS hash")
            assert append(connection, "0" * 32).verdict == "accepted"
            assert connection.execute(ran.encode()).fetchall() == []

    @pytest.mark.parametrize("schema", ["public", "pg_temp"])
    @pytest.mark.parametrize("path", ["", "SET search_path = {schema}, pg_catalog"])
    def test_functions_operators_casts_and_types(self, fleet, ran, schema, path):
        trap = "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES (current_user, session_user); "
        at = {"schema": schema}
        statements = [
            *(
                f"CREATE FUNCTION {schema}.{signature} RETURNS {result} {trap} RETURN {value}; END $$"
                for signature, result, value in (
                    ("sha256(bytea)", "bytea", "'\\x'::bytea"),
                    ("int8send(bigint)", "bytea", "'\\x'::bytea"),
                    ("convert_to(text, text)", "bytea", "'\\x'::bytea"),
                    ("octet_length(text)", "integer", "1"),
                    ("format(text, bigint)", "text", "'x'"),
                    ("split_part(text, text, integer)", "text", "'x'"),
                    ("starts_with(text, text)", "boolean", "true"),
                    ("pg_current_xact_id()", "xid8", "'1'::xid8"),
                    ("clock_timestamp()", "timestamptz", "'2020-01-01'::timestamptz"),
                    ("current_setting(text)", "text", "'read committed'"),
                    ("now_ns()", "bigint", "1::bigint"),
                    ("alerted(text, text, bigint, text)", "text", "'x'"),
                    ("same(text, name)", "boolean", "true"),
                    ("same(xid, xid)", "boolean", "true"),
                    ("same(bytea, bytea)", "boolean", "true"),
                    ("same(bigint, integer)", "boolean", "true"),
                    ("joined(bytea, bytea)", "bytea", "'\\x'::bytea"),
                )
            ),
            *(
                f"CREATE OPERATOR {schema}.{operator} "
                f"(LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = {schema}.{function})"
                for operator, left, right, function in (
                    ("=", "text", "name", "same"),
                    ("=", "xid", "xid", "same"),
                    ("<>", "xid", "xid", "same"),
                    ("<>", "bytea", "bytea", "same"),
                    (">", "bigint", "integer", "same"),
                    ("<", "bigint", "integer", "same"),
                    ("||", "bytea", "bytea", "joined"),
                )
            ),
            f"CREATE DOMAIN {schema}.bigint AS text",
            f"CREATE DOMAIN {schema}.bytea AS text",
            f"CREATE DOMAIN {schema}.xid AS text",
            path.format(**at) or "SELECT 1",
        ]
        assert self.attack(fleet, statements) == []

    def test_settings_of_the_session(self, fleet):
        """What a caller can set changes neither the check nor its sentences."""
        with session(fleet["another"]) as connection:
            rows = chained([("ef" * 16, 1, "\u00e9\u00df", *a_log()[0][3:5], "ef" * 16, *a_log()[0][6:])])
            with connection.transaction(force_rollback=True):
                stage(connection, rows)
                for setting in (
                    "bytea_output = escape",
                    "standard_conforming_strings = off",
                    "escape_string_warning = off",
                    "backslash_quote = on",
                    "client_encoding = LATIN1",
                    "DateStyle = 'German'",
                    "TimeZone = 'Pacific/Apia'",
                    "extra_float_digits = -15",
                    "transform_null_equals = on",
                    "quote_all_identifiers = on",
                    "array_nulls = off",
                    "work_mem = 64",
                    "enable_indexscan = off",
                ):
                    connection.execute(f"SET {setting}".encode())
                # As an array, whose notes a session's settings could change on their way.
                answer = append(connection, "ef" * 16, 1, notes=["x\n1\nAAAA\n"])
                assert answer == ("accepted", 1, rows[0][-1], None)

    def test_who_administers_runs_nothing_of_others(self, fleet, ran):
        """A function that fits better than PostgreSQL's own is looked up first, where one looks there."""
        trap = "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES (current_user, session_user); "
        with session(fleet["another"]) as connection:
            for signature, result in (
                ("pg_has_role(text, text)", "boolean"),
                ("array_position(text[], text)", "integer"),
                ("array_position(character varying[], text)", "integer"),
                ("pg_advisory_xact_lock(integer)", "text"),
            ):
                made = f"CREATE FUNCTION public.{signature} RETURNS {result} {trap} RETURN NULL; END $$"
                connection.execute(made.encode())
            for signature in ("pg_has_role('a'::text, 'b'::text)", "array_position('{}'::text[], 'a'::text)"):
                connection.execute(f"SELECT public.{signature}".encode())
            assert len(connection.execute(ran.encode()).fetchall()) == 2
            connection.execute("DELETE FROM public.ran")
        from msb_cache.fleet.enrolment import enrolments
        from msb_cache.fleet.servers import servers

        assert not init(fleet["admin"]).changed
        assert enrol(fleet["admin"], "another", 3).max_logs == 3
        assert enrolments(fleet["admin"])
        assert servers(fleet["admin"]) == []
        with session(fleet["admin"]) as connection:
            assert connection.execute(ran.encode()).fetchall() == []


class TestReader:
    def test_sees_no_configuration(self, fleet):
        with session(fleet["reader"]) as connection:
            rows = connection.execute("SELECT seq, type, data FROM msb_cache.event ORDER BY seq").fetchall()
        assert rows == [(1, "log.created", "{}"), (2, "manifest.added", None)]

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT data FROM msb_cache.events",
            "SELECT data FROM msb_cache.events_00",
            "SELECT count(*) FROM msb_cache.events",
            "SELECT log_id FROM msb_cache.events",
            "SELECT config FROM msb_cache.manifest",
            "SELECT log_key FROM msb_cache.enrolment",
            "SELECT data FROM msb_cache.staging",
            "COPY msb_cache.events (data) TO STDOUT",
            "CREATE TEMP VIEW mine AS SELECT data FROM msb_cache.events; SELECT * FROM mine",
            "SELECT * FROM msb_cache.append('x', 1)",
        ],
    )
    def test_has_no_privilege_on_what_hosts_sent(self, fleet, statement):
        assert refused(fleet["reader"], statement)

    def test_a_leaking_condition_learns_no_more(self, fleet):
        with session(fleet["reader"]) as connection:
            said: list[str] = []
            connection.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
            connection.execute(
                "CREATE FUNCTION public.told(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS "
                "$$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
            )
            connection.execute("SELECT * FROM msb_cache.event WHERE public.told(data) AND public.told(actor)")
            connection.execute("DROP FUNCTION public.told")
            statistics = connection.execute(
                "SELECT * FROM pg_stats WHERE schemaname = 'msb_cache'"
            ).fetchall()
        assert "{}" in said
        assert SECRET not in "".join(said) + repr(statistics)


class TestEvents:
    """Nobody changes events, neither their owner nor a superuser, without taking the triggers away first."""

    @pytest.mark.parametrize("who", ["admin", "owner", "replica"])
    def test_are_kept(self, fleet, who):
        statements = ("UPDATE {} SET data = 'x'", "UPDATE {} SET log_id = 'x'", "DELETE FROM {}")
        with session(fleet["admin"]) as connection:
            ((has_rows,),) = connection.execute(
                "SELECT DISTINCT tableoid::regclass::text FROM msb_cache.events"
            ).fetchall()
            for table in ("events", *PARTS):
                for statement in (*statements, "TRUNCATE {}", "TRUNCATE {} CASCADE"):
                    with connection.transaction(force_rollback=True):
                        if who == "owner":
                            connection.execute("SET LOCAL ROLE msb_cache_owner")
                        if who == "replica":
                            connection.execute("SET LOCAL session_replication_role = replica")
                        text = statement.format(f"msb_cache.{table}").encode()
                        if "TRUNCATE" in statement or f"msb_cache.{table}" in ("msb_cache.events", has_rows):
                            with pytest.raises(psycopg.errors.RaiseException, match="only ever appended"):
                                connection.execute(text)
                        else:
                            assert connection.execute(text).rowcount == 0

    def test_go_up_to_the_anchor_only(self, fleet):
        with session(fleet["admin"]) as connection, connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO msb_cache.anchor VALUES (%s, 1, '', 1, 1, '', 1)", (LOG,))
            assert connection.execute("DELETE FROM msb_cache.events WHERE seq = 1").rowcount == 1
            with pytest.raises(psycopg.errors.RaiseException, match="those go that are in an archive"):
                connection.execute("DELETE FROM msb_cache.events WHERE seq = 2")

    def test_are_not_written_over(self, fleet):
        statement = (
            "INSERT INTO msb_cache.events SELECT * FROM msb_cache.events "
            "ON CONFLICT (log_id, seq) DO UPDATE SET data = 'x'"
        )
        with (
            session(fleet["admin"]) as connection,
            pytest.raises(psycopg.errors.RaiseException, match="never changed"),
        ):
            connection.execute(statement.encode())


def test_what_the_docs_take_away_is_not_missed(postgres, admin, tmp_path):
    """What PostgreSQL lets all do that connect, and a superuser may forbid in a fleet's own database."""
    database = admin.rpartition("/")[2]
    [taken] = re.findall(r"```sql\n(REVOKE TEMPORARY.*?)```", DOCS.read_text(), re.DOTALL)
    for old, new in (("DATABASE fleet", f'DATABASE "{database}"'), ("runner-1", "docs-host")):
        assert old in taken
        taken = taken.replace(old, new)
    some = (
        "CREATE TEMP TABLE mine (a text)",
        "SELECT lo_create(0)",
        "SELECT lo_creat(0)",
        "SELECT lo_from_bytea(0, 'x')",
        "SET temp_file_limit = -1",
    )
    init(admin)
    dsn = {}
    for kind in roles.KINDS:
        enrol(admin, f"docs-{kind}", kind=kind, password=PASSWORD)
        dsn[kind] = postgres.dsn(f"docs-{kind}", database=database)
    assert [refused(dsn["host"], each) for each in some] == [False] * 4 + [True]
    with session(admin) as connection:
        for statement in filter(None, taken.split(";\n")):
            connection.execute(statement.encode())
    for each in dsn.values():
        assert [refused(each, statement) for statement in some] == [True] * 5
        with session(each) as connection:
            assert connection.execute("SHOW temp_file_limit").fetchone() == ("1GB",)
    make(tmp_path / "home", scale=100)
    rows = log_of(tmp_path / "home")
    assert send(dsn["host"], rows).verdict == "accepted"
    assert Fleet(dsn["folder"]).fold().events == len(rows)
    [host] = Fleet(dsn["reader"]).hosts()
    assert host.folded_seq == len(rows)
