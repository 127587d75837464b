"""Who is enrolled, and that no password is seen where it does not belong."""

from __future__ import annotations

import psycopg
import pytest

from msb_cache.errors import FleetError, ImageNotFoundError, InvalidConfigError
from msb_cache.fleet.admission import init
from msb_cache.fleet.enrolment import enrol, enrolments, unenrol
from tests.fleet.sent import append, chained, send

LOG = "ab" * 16
KEY = "example.com/log+32d4b82e+AWJR0bmBAjKxKCA5tqOkWTbKlUK0cZEREJ7a0Ps1gMD1"


def connect(dsn, password):
    return psycopg.connect(psycopg.conninfo.make_conninfo(dsn, password=password), autocommit=True)


@pytest.fixture
def fleet(admin) -> str:
    init(admin)
    return admin


class TestEnrol:
    def test_a_password_is_made_once(self, fleet):
        made = enrol(fleet, "made-once")
        assert (made.kind, made.max_logs, made.is_new) == ("host", 1, True)
        assert len(made.password or "") >= 32
        assert made.password not in made.dsn + repr(made)
        with connect(made.dsn, made.password) as connection:
            assert append(connection, LOG).verdict == "accepted"
        again = enrol(fleet, "made-once", 9)
        assert (again.max_logs, again.is_new, again.password, again.pgpass) == (9, False, None, None)
        assert enrol(fleet, "made-once").max_logs == 9
        connect(made.dsn, made.password).close()

    @pytest.mark.parametrize("password", ["x", "a'b\\c:d", "\u00fc\u00df\u2603", " ", "x" * 900])
    def test_a_password_that_is_given(self, fleet, password, tmp_path, monkeypatch):
        made = enrol(fleet, "given", password=password)
        connect(made.dsn, password).close()
        kept = tmp_path / "pgpass"
        kept.write_text(f"{made.pgpass}\n")
        kept.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(kept))
        psycopg.connect(made.dsn).close()

    def test_a_new_password_ends_the_old_one(self, fleet):
        enrol(fleet, "changed", password="old")
        made = enrol(fleet, "changed", password="new")
        connect(made.dsn, "new").close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(made.dsn, "old")

    def test_no_password_is_seen_by_the_server(self, fleet, postgres):
        with psycopg.connect(fleet, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET log_statement = 'all'")
            connection.execute("SELECT pg_reload_conf()")
        made = enrol(fleet, "unseen")
        enrol(fleet, "unseen", password="the-second-one")
        with psycopg.connect(fleet, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM RESET log_statement")
        log = (postgres.folder / "log").read_text(errors="replace")
        assert """ALTER ROLE "unseen" PASSWORD 'SCRAM-SHA-256$""" in log
        assert made.password not in log
        assert "the-second-one" not in log

    def test_without_a_password(self, fleet):
        made = enrol(fleet, "by-certificate", generate=False)
        assert (made.password, made.pgpass) == (None, None)
        with psycopg.connect(fleet) as connection:
            row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (made.name,))
            assert row.fetchone() == (None,)

    @pytest.mark.parametrize("dsn", ["url", "words"])
    def test_the_dsn_has_nothing_of_who_enrols(self, fleet, dsn):
        options = psycopg.conninfo.conninfo_to_dict(fleet) | {"sslmode": "prefer", "application_name": "x"}
        if psycopg.pq.version() >= 180000:
            options["oauth_client_secret"] = "x"
        given = psycopg.conninfo.make_conninfo(**options) if dsn == "words" else fleet + "?sslmode=prefer"
        made = enrol(given, "of-it", password="x")
        found = psycopg.conninfo.conninfo_to_dict(made.dsn)
        assert {name: found[name] for name in ("user", "sslmode")} == {"user": "of-it", "sslmode": "prefer"}
        assert set(found) == {"user", "host", "port", "dbname", "sslmode"}

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "A",
            "a b",
            "a;b",
            'a"b',
            "\u00e4",
            "a" * 64,
            "pg_a",
            "msb_cache_host",
            "-a",
            ".",
            "a\n",
            "a\x00",
        ],
    )
    def test_names(self, name):
        with pytest.raises(InvalidConfigError, match="no name for an enrolment"):
            enrol("host=nowhere", name)

    @pytest.mark.parametrize("name", ["a" * 63, "0", "a.b-c_d", "select", "user"])
    def test_names_that_are_taken(self, fleet, name):
        made = enrol(fleet, name, password="x")
        with connect(made.dsn, "x") as connection:
            assert append(connection, LOG).verdict == "accepted"
        unenrol(fleet, name)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"max_logs": -1}, "can own 0 to"),
            ({"max_logs": 2**63}, "can own 0 to"),
            ({"password": ""}, "empty or has a NUL"),
            ({"password": "a\x00b"}, "empty or has a NUL"),
            ({"kind": "owner"}, "none of host, folder, reader"),
            ({"kind": "reader", "max_logs": 1}, "sends no logs"),
            ({"kind": "reader", "max_log_size": "1GiB"}, "sends no logs"),
            *(({"max_log_size": size}, "no size") for size in (-1, "-1", 2**63, "9PiB" * 9, "NaN", "", True)),
            ({"max_log_size": "2000PiB"}, "no size that a disk has"),
            ({"kind": "folder", "key": KEY}, "sends no logs"),
            ({"key": "x"}, "no verifier key"),
        ],
    )
    def test_what_is_refused(self, given, said):
        with pytest.raises(InvalidConfigError, match=said) as caught:
            enrol("host=nowhere", "refused", **given)
        assert "a\x00b" not in str(caught.value)

    def test_how_large_its_logs_may_be(self, fleet):
        def sizes(given=None):
            made = enrol(fleet, "sized", max_log_size=given)
            [kept] = [each.max_log_size for each in enrolments(fleet) if each.name == "sized"]
            assert made.max_log_size == kept
            return kept

        assert sizes() == 1 << 30
        assert [sizes("100 MiB"), sizes(), sizes(0), sizes(), sizes(2**60)] == [100 << 20] * 2 + [0, 0, 2**60]
        assert [sizes("unlimited"), sizes(), sizes("1GB"), enrol(fleet, "sized", 3).max_log_size] == [
            *(None, None, 10**9, 10**9)
        ]
        assert enrol(fleet, "unsized", max_log_size="unlimited").max_log_size is None
        assert enrol(fleet, "unsized").max_log_size is None

    def test_another_role_of_that_name_is_left_alone(self, fleet):
        for name in ("postgres-admin", "admin"):
            with psycopg.connect(fleet, autocommit=True) as connection:
                if name != "admin":
                    connection.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
            with pytest.raises(InvalidConfigError, match="not the fleet's"):
                enrol(fleet, name, password="mine")
        psycopg.connect(fleet).close()

    def test_one_thing_each(self, fleet):
        enrol(fleet, "one-thing", kind="reader")
        with pytest.raises(InvalidConfigError, match="enrolled as reader already"):
            enrol(fleet, "one-thing", kind="host")

    def test_without_a_fleet(self, admin):
        for asked in (
            lambda: enrol(admin, "nowhere"),
            lambda: enrolments(admin),
            lambda: unenrol(admin, "x"),
        ):
            with pytest.raises(FleetError, match="msb-cache fleet init"):
                asked()

    def test_by_one_who_may_not(self, fleet):
        made = enrol(fleet, "wants-more", password="x")
        dsn = psycopg.conninfo.make_conninfo(made.dsn, password="x")
        with pytest.raises(FleetError, match=r"permission denied.*fleet enrol NAME"):
            enrol(dsn, "more")

    def test_a_wrong_password_is_not_in_the_error(self, fleet):
        dsn = psycopg.conninfo.make_conninfo(fleet, password="wrong-secret")
        with pytest.raises(FleetError) as caught:
            enrol(dsn, "x")
        assert "wrong-secret" not in str(caught.value)
        assert caught.value.__suppress_context__


class TestEnrolments:
    def test_all_kinds(self, fleet):
        enrol(fleet, "listed-host", 4, key=KEY, password="x")
        enrol(fleet, "listed-reader", kind="reader")
        enrol(fleet, "listed-folder", kind="folder")
        found = [each for each in enrolments(fleet) if each.name.startswith("listed-")]
        assert [(each.name, each.kind, each.max_logs, each.logs, each.key) for each in found] == [
            ("listed-host", "host", 4, 0, KEY),
            ("listed-folder", "folder", None, 0, None),
            ("listed-reader", "reader", None, 0, None),
        ]
        assert [(each.max_log_size, each.largest_log_size) for each in found] == [
            (1 << 30, None),
            (None, None),
            (None, None),
        ]
        assert found[0].enrolled_at_ns
        assert found[1].enrolled_at_ns is None
        enrol(fleet, "listed-host", 5)
        assert [each.key for each in enrolments(fleet) if each.name == "listed-host"] == [KEY]


class TestUnenrol:
    def test_its_logs_stay(self, fleet):
        made = enrol(fleet, "ended", password="x")
        dsn = psycopg.conninfo.make_conninfo(made.dsn, password="x")
        rows = chained([(LOG, 1, "u", "log.created", 2, LOG, "o", 1, 1, "{}", "{}", b"")])
        assert send(dsn, rows).verdict == "accepted"
        with psycopg.connect(dsn, autocommit=True) as connection:
            ended = unenrol(fleet, "ended")
            assert (ended.kind, ended.logs) == ("host", 1)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):  # also who is connected already
                append(connection, LOG)
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            psycopg.connect(dsn)
        assert not [each for each in enrolments(fleet) if each.name == "ended"]
        with pytest.raises(ImageNotFoundError, match="'ended' is not enrolled"):
            unenrol(fleet, "ended")
        again = enrol(fleet, "ended")
        assert not again.is_new
        assert send(dsn, rows)[:2] == ("accepted", 1)

    def test_of_one_that_never_was(self, fleet):
        for name in ("never", "admin", "msb_cache_owner", "a'b"):
            with pytest.raises(ImageNotFoundError):
                unenrol(fleet, name)
