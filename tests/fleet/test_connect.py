from __future__ import annotations

import pytest

from msb_cache.errors import FleetError, InvalidConfigError
from msb_cache.fleet.connect import Kept, Postgres, beside, check, connected
from msb_cache.fleet.place import marks
from tests.fleet.postgres import Server

SECRET = "s3cret-that-nobody-sees"


@pytest.mark.parametrize("dsn", [f"host=x password={SECRET} =", f"postgresql://u:{SECRET}@h:x y/"])
def test_what_is_no_dsn_is_refused_without_quoting_it(dsn: str) -> None:
    with pytest.raises(InvalidConfigError) as raised:
        check(dsn)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("odd", ["@", "/", "@/", "/@"])
def test_a_password_that_ends_too_early_is_refused_without_quoting_it(odd: str) -> None:
    with pytest.raises(InvalidConfigError, match="write @ as %40") as raised:
        check(f"postgresql://u:some{odd}{SECRET}@db.example:5432/fleet")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://u:a%40b@h/d", "host=@socket dbname=a@b", "postgresql://u@h1:1,h2:2/d", "postgresql://"],
)
def test_what_only_looks_so_is_taken(dsn: str) -> None:
    check(dsn)


def test_what_libpq_asks_is_left_out() -> None:
    with pytest.raises(FleetError) as raised, connected("postgresql://u@127.0.0.1:1/x"):
        pass
    assert str(raised.value).endswith("port 1 failed: Connection refused")


def test_errors_of_connecting_have_no_password(postgres: Server) -> None:
    with pytest.raises(FleetError) as raised, connected(postgres.dsn("nobody", SECRET)):
        pass
    assert SECRET not in str(raised.value)
    assert "nobody" in str(raised.value)


def test_a_server_that_is_away_may_come_back() -> None:
    dsn = f"postgresql://u:{SECRET}@127.0.0.1:1/x"
    with pytest.raises(FleetError, match="cannot be asked") as raised, Postgres(dsn, "east").read():
        pass
    assert raised.value.temporary
    assert "east" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_further_server_is_asked_by_the_same_user_without_the_password() -> None:
    first = f"postgresql://ada:{SECRET}@one/fleet"
    assert beside(first, "host=two dbname=fleet") == "dbname=fleet host=two user=ada"
    assert beside(first, "host=two user=eve") == "host=two user=eve"
    assert beside("service=one", "host=two") == "host=two"


def test_a_read_is_of_one_moment_and_changes_nothing(admin: str) -> None:
    with connected(admin) as connection:
        connection.execute("CREATE TABLE t (n bigint)")
        with Postgres(admin).read() as reading:
            assert reading.rows("SELECT count(*) FROM t") == [(0,)]
            connection.execute("INSERT INTO t VALUES (1)")
            assert reading.rows("SELECT count(*) FROM t") == [(0,)]
            assert [*reading.stream("SELECT '%' || ?", ("?",))] == [("%?",)]
        with pytest.raises(FleetError, match="read-only"), Postgres(admin).read() as reading:
            reading.rows("INSERT INTO t VALUES (2) RETURNING n")


def test_more_names_can_be_asked_for_than_a_statement_has_arguments(admin: str) -> None:
    names = [f"%it's \\{number}" for number in range(70_000)]
    asked = f"SELECT n.name FROM (VALUES (?), ('no')) n(name) WHERE n.name IN ({marks(names)})"
    with Postgres(admin).read() as reading:
        assert reading.rows(asked, [names[-1], *names]) == [(names[-1],)]


def test_kept_connections_are_used_again_until_the_server_forgets_them(admin: str) -> None:
    kept = Kept()
    place = Postgres(admin, kept=kept)

    def who() -> int:
        with place.read() as reading:
            [(pid,)] = reading.rows("SELECT pg_backend_pid()")
        return int(pid)

    first = who()
    assert who() == first
    with place.read() as one, place.read() as other:  # a second one at the same time has its own
        assert one.rows("SELECT pg_backend_pid()") != other.rows("SELECT pg_backend_pid()")
    with pytest.raises(FleetError), place.read() as reading:
        reading.rows("SELECT nothing")
    assert isinstance(who(), int)  # what failed is not kept
    with connected(admin) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    after = who()
    assert after != first
    kept.close()
    assert who() != after


def test_a_read_compiles_nothing_and_leaves_a_pooled_session_as_it_was(admin: str) -> None:
    with connected(admin) as connection:
        connection.execute(f'ALTER DATABASE "{connection.info.dbname}" SET jit = on'.encode())
    kept = Kept()
    with Postgres(admin, kept=kept).read() as reading:
        assert reading.rows("SHOW jit") == [("off",)]
    connection = kept.take(admin)
    assert connection is not None
    with connection:
        assert connection.execute("SHOW jit").fetchall() == [("on",)]
