"""A home's log sent to a server: whole and once, whatever happens in the middle, and refusals that help."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from msb_cache import (
    AsyncImageCache,
    CorruptLogError,
    Fleet,
    FleetError,
    ImageCache,
    InvalidConfigError,
    Shipped,
    failpoints,
)
from msb_cache.eventstore.chain import COLUMNS
from msb_cache.fleet import append_sql
from msb_cache.fleet import ship as shipping
from msb_cache.fleet.admission import init
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.ship import Shipper
from msb_cache.home.ledger import Ledger
from msb_cache.interchange import posting
from tests.fakemsb import FakeMsb
from tests.fleet.postgres import Server, pooled
from tests.fleet.sent import log_of
from tests.fleet.shipping import PASSWORD, alerts, asked, grow, host, is_whole, killed, there, user_of
from tests.imagebuilder import image
from tests.logs import new_ledger, some_events
from tests.proof.signing import keep_signed, new_log_key

STEPS = ("ship.staged", "ship.taken", "ship.committed")


class Host:
    """A home with seven events, and a role that may send one log."""

    def __init__(self, admin: str, home: Path, *, max_logs: int = 1) -> None:
        self.admin, self.home = admin, home
        self.dsn = host(admin, max_logs)
        self.ledger = new_ledger(home, some_events())
        self.notes: list[str] = []
        self.cache = ImageCache(home, note=self.notes.append)
        self.log_id = log_of(home)[0][0]

    def ship(self, **given: Any) -> Shipped:
        return self.cache.ship(given.pop("to", self.dsn), **given)

    @property
    def is_whole(self) -> bool:
        return is_whole(self.admin, self.home)

    def copy(self, name: str) -> Path:
        """Copy the home as it is, as an image of its machine does."""
        self.ledger.close()
        self.cache.close()
        return Path(shutil.copytree(self.home, self.home.with_name(name)))

    @contextmanager
    def following(self, **given: Any) -> Iterator[list[Shipped]]:
        """Follow within the block; what is given has the result behind it."""
        ended, shipped = threading.Event(), []

        def follow() -> None:
            shipped.append(self.ship(follow=True, stopped=ended.is_set, interval=0.02, **given))

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield shipped
        finally:
            ended.set()
            began = time.monotonic()
            thread.join(10)
            assert time.monotonic() - began < 1
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def fleet(postgres: Server) -> str:
    """The superuser's DSN of a fleet of the module's own: making one takes longer than most tests."""
    init(postgres.admin)
    return postgres.admin


@pytest.fixture
def one(fleet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Return a host that is not patient."""
    monkeypatch.setattr(posting, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(shipping, "TOGETHER", 0.01)
    found = Host(fleet, tmp_path / "one")
    with found.cache:
        yield found


@pytest.fixture
def at_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], None]], None]:
    return lambda observer: monkeypatch.setattr(failpoints, "observer", observer)


def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


class TestSending:
    def test_all_is_sent_once_and_then_what_is_new(self, one: Host) -> None:
        assert one.ship() == Shipped(one.log_id, 7, 7, 7)
        assert one.is_whole
        assert one.ship() == Shipped(one.log_id, 0, 7, 7)
        grow(one.ledger, 5)
        assert one.ship() == Shipped(one.log_id, 5, 12, 12)
        assert one.is_whole
        assert (alerts(one.dsn, one.admin), one.notes) == ([], [])

    @pytest.mark.parametrize(
        ("events", "size"), [(1, 1 << 20), (3, 1 << 20), (7, 1 << 20), (5000, 1), (5000, 900)]
    )
    def test_batches_of_any_size_carry_the_same(
        self, one: Host, monkeypatch: pytest.MonkeyPatch, events: int, size: int
    ) -> None:
        monkeypatch.setattr(shipping, "BATCH_EVENTS", events)
        monkeypatch.setattr(shipping, "BATCH_BYTES", size)
        grow(one.ledger, 13)
        assert one.ship().events == 20
        assert one.is_whole

    def test_large_events_are_sent_few_at_a_time(
        self, one: Host, at_steps: Callable[[Callable[[str], None]], None]
    ) -> None:
        for _ in range(6):
            grow(one.ledger, 1, "x" * 3_000_000)
        batches: list[str] = []
        at_steps(batches.append)
        assert one.ship().events == 13
        assert batches.count("ship.staged") >= 3
        assert one.is_whole

    def test_the_server_learns_how_the_host_is(self, one: Host) -> None:
        one.ship()
        ((size, cache, free, disk),) = asked(
            one.admin,
            "SELECT host_size, cache_bytes, free_bytes, disk_bytes FROM msb_cache.head WHERE log_id = %s",
            one.log_id,
        )
        assert (size, cache) == (7, 0)
        assert 0 < free <= disk

    def test_a_home_without_a_log_sends_nothing_and_asks_nobody(self, tmp_path: Path) -> None:
        with ImageCache(tmp_path / "none") as cache:
            assert cache.ship("postgresql://x@127.0.0.1:1/x") == Shipped(None, 0, 0, 0)
        assert not (tmp_path / "none").exists()

    def test_signed_checkpoints_go_along_once(
        self, one: Host, at_steps: Callable[[Callable[[str], None]], None]
    ) -> None:
        note = keep_signed(one.ledger.layout.database, new_log_key("log.example/one"))
        keep_signed(one.ledger.layout.database, new_log_key("log.example/two"), size=3)
        one.ship()
        found = asked(
            one.admin,
            "SELECT log_id, origin, size, note FROM msb_cache.checkpoint WHERE log_id = %s ORDER BY origin",
            one.log_id,
        )
        assert [row[:3] for row in found] == [
            (one.log_id, "log.example/one", 7),
            (one.log_id, "log.example/two", 3),
        ]
        assert found[0][3] == str(note)

    def test_a_pooler_may_give_each_transaction_another_connection(
        self, one: Host, postgres: Server, require_peer: Callable[[str], str]
    ) -> None:
        require_peer("pgbouncer")
        import psycopg

        given = psycopg.conninfo.conninfo_to_dict(one.dsn)
        with pooled(postgres, {str(given["user"]): PASSWORD}, database=str(given["dbname"])) as port:
            dsn = psycopg.conninfo.make_conninfo(one.dsn, port=port, dbname="fleet")
            assert one.ship(to=dsn).events == 7
            grow(one.ledger, 3)
            assert one.ship(to=dsn).events == 3
        assert one.is_whole

    def test_an_asynchronous_cache_sends_as_well(self, one: Host) -> None:
        async def send() -> Shipped:
            async with AsyncImageCache(one.home) as cache:
                return await cache.ship(one.dsn)

        assert asyncio.run(send()) == Shipped(one.log_id, 7, 7, 7)

    def test_the_environment_says_where_to(self, one: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MSB_CACHE_FLEET", one.dsn)
        assert one.cache.ship().events == 7
        monkeypatch.delenv("MSB_CACHE_FLEET")
        with pytest.raises(InvalidConfigError, match="MSB_CACHE_FLEET"):
            one.cache.ship()


class TestRefusals:
    def refused(self, one: Host, cache: ImageCache | None = None, **given: Any) -> FleetError:
        with pytest.raises(FleetError) as caught:
            (cache or one.cache).ship(given.get("to", one.dsn))
        assert not caught.value.temporary
        return caught.value

    def test_a_copy_of_another_host_gets_a_log_of_its_own(self, fleet: str, tmp_path: Path) -> None:
        one = Host(fleet, tmp_path / "one", max_logs=2)
        one.ship()
        clone = one.copy("clone")
        grow(one.ledger, 2)
        grow(new_ledger(clone, []), 3)
        assert one.ship().events == 2
        with ImageCache(clone) as copied:
            error = self.refused(one, copied)
            assert error.verdict == "fork"
            assert "copy" in str(error)
            assert "`msb-cache log anew`" in str(error)
            assert alerts(one.dsn, fleet) == [("fork", 1)]
            assert one.is_whole
            copied.begin_log_anew()
            assert copied.ship(one.dsn).events > 0
        assert is_whole(fleet, clone)
        assert one.is_whole
        one.cache.close()

    def test_a_log_that_was_put_back_says_so(self, one: Host) -> None:
        before = one.copy("before")
        grow(one.ledger, 3)
        one.ship()
        with ImageCache(before) as cache:
            error = self.refused(one, cache)
        assert (error.verdict, alerts(one.dsn, one.admin)) == ("truncated", [("truncated", 1)])
        assert "ends at event 7, and 10" in str(error)
        assert "or a copy of this home went on with it" in str(error)
        assert "`msb-cache log anew`" in str(error)

    def test_a_log_whose_copy_has_sent_more_is_told_from_one_that_was_put_back(self, one: Host) -> None:
        clone = one.copy("clone")
        grow(new_ledger(clone, []), 3)
        with ImageCache(clone) as copied:
            assert copied.ship(one.dsn).size == 10
        grow(one.ledger, 1)
        error = self.refused(one)
        assert (error.verdict, alerts(one.dsn, one.admin)) == ("fork", [("fork", 1)])
        assert "event 8 is another one there" in str(error)
        assert is_whole(one.admin, clone)

    def test_a_log_of_another_enrolment_and_one_too_many(self, one: Host, tmp_path: Path) -> None:
        one.ship()
        other = Host(one.admin, tmp_path / "other")
        with other.cache:
            error = self.refused(one, to=other.dsn)
            assert (error.verdict, "log anew" in str(error)) == ("claimed", True)
            error = self.refused(other, to=one.dsn)
            assert (error.verdict, "fleet enrol --max-logs`" in str(error)) == ("full", True)
        assert alerts(one.dsn, one.admin) == [("full", 1)]
        assert alerts(other.dsn, one.admin) == [("claimed", 1)]

    def test_a_log_as_large_as_it_may_be(self, one: Host) -> None:
        one.ship()
        grow(one.ledger, 3)
        enrol(one.admin, _user(one), max_log_size=1000)
        error = self.refused(one)
        assert (error.verdict, alerts(one.dsn, one.admin)) == ("full", [("full", 1)])
        assert "of the 1,000 bytes that it may have" in str(error)
        assert "fleet enrol --max-log-size`" in str(error)
        [host] = [each for each in Fleet(one.admin).hosts() if each.log_id == one.log_id]
        assert host.problems[0].startswith("full, refused 1 time: the log has ")
        assert host.log_bytes > 1000
        enrol(one.admin, _user(one), max_log_size="unlimited")
        assert one.ship().events == 3
        assert one.is_whole

    def test_a_server_without_room_is_tried_again(self, one: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        tries: list[int] = []

        def bounded_by(constraint: str) -> None:
            with psycopg.connect(one.admin) as connection:
                connection.execute("ALTER TABLE msb_cache.staging DROP CONSTRAINT room")
                connection.execute(constraint.encode())

        def wait(count: int, _: None) -> float:
            tries.append(count)
            if count == 1:
                bounded_by(append_sql.room())
            return 0.0

        monkeypatch.setattr(shipping, "wait", wait)
        bounded_by("ALTER TABLE msb_cache.staging ADD CONSTRAINT room CHECK (seq < 0)")
        assert one.ship().events == 7
        assert tries == [0, 1]
        assert one.is_whole

    @pytest.mark.parametrize("group", ["msb_cache_host", "msb_cache_reader", None])
    def test_a_role_that_is_not_enrolled(self, one: Host, group: str | None) -> None:
        import psycopg

        name = f"stranger_{random.getrandbits(40):x}"
        with psycopg.connect(one.admin, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'".encode())
            if group is not None:
                connection.execute(f"GRANT {group} TO {name}".encode())
        error = self.refused(one, to=psycopg.conninfo.make_conninfo(one.dsn, user=name))
        assert (error.verdict, "fleet enrol" in str(error)) == ("unknown", True)

    def test_a_rewritten_log(self, one: Host) -> None:
        with closing(sqlite3.connect(one.ledger.layout.database, isolation_level=None)) as connection:
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'"
            ).fetchall():
                connection.execute(f'DROP TRIGGER "{name}"')
            connection.execute("UPDATE events SET subject = subject || 'x' WHERE seq = 4")
        error = self.refused(one)
        assert (error.verdict, "event 4" in str(error), "verify" in str(error)) == ("forged", True, True)
        assert there(one.admin, one.log_id) == []

    def test_a_database_without_a_fleet(self, one: Host, admin: str) -> None:
        assert "fleet init" in str(self.refused(one, to=admin))

    def test_a_password_is_never_said(self, one: Host) -> None:
        secret = "hunter2hunter2"
        import psycopg

        wrong = psycopg.conninfo.make_conninfo(one.dsn, password=secret)
        for dsn in (
            wrong,
            f"postgresql://x:{secret}@127.0.0.1:1/x",
            f"postgresql://x:{secret}@[",
            f"{secret} {wrong}",
        ):
            with pytest.raises((FleetError, InvalidConfigError)) as caught:
                one.ship(to=dsn)
            assert secret not in str(caught.value)
            assert secret not in "".join(
                map(str, caught.value.__cause__.args if caught.value.__cause__ else ())
            )
        with one.following(to=wrong):
            until(lambda: one.notes != [])
        assert len(one.notes) == 1
        assert secret not in one.notes[0]

    @pytest.mark.parametrize(
        ("column", "value", "error"), [("data", 5, CorruptLogError), ("subject", "a\0b", FleetError)]
    )
    def test_an_event_that_cannot_be_kept_there(
        self, one: Host, column: str, value: object, error: type
    ) -> None:
        row = [*log_of(one.home)[3][1:-1]]
        shipping._check(row)
        row[COLUMNS.index(column)] = value
        with pytest.raises(error, match="event 4"):
            shipping._check(row)


class TestCrashes:
    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("count", [1, 2])
    def test_a_killed_process_loses_and_doubles_nothing(self, one: Host, step: str, count: int) -> None:
        grow(one.ledger, 8)
        assert killed(one.home, one.dsn, step, count) == -signal.SIGKILL
        done = len(there(one.admin, one.log_id))
        assert done < 15
        assert one.ship() == Shipped(one.log_id, 15 - done, 15, 15)
        assert one.is_whole
        assert alerts(one.dsn, one.admin) == []
        assert asked(one.admin, "SELECT count(*) FROM msb_cache.staging WHERE who = %s", _user(one)) == [(0,)]

    @pytest.mark.parametrize("step", STEPS)
    def test_a_connection_that_is_cut_is_made_again(
        self, one: Host, at_steps: Callable[..., None], monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        monkeypatch.setattr(shipping, "BATCH_EVENTS", 4)
        grow(one.ledger, 8)
        cut = [2]

        def observe(reached: str) -> None:
            if reached == step and cut[0]:
                cut[0] -= 1
                _cut(one.admin)

        at_steps(observe)
        assert one.ship().events == 15
        assert (one.is_whole, cut, alerts(one.dsn, one.admin)) == (True, [0], [])

    def test_one_that_is_cut_again_and_again_is_an_error(
        self, one: Host, at_steps: Callable[..., None]
    ) -> None:
        tried: list[str] = []

        def observe(reached: str) -> None:
            tried.append(reached)
            _cut(one.admin)

        at_steps(observe)
        with pytest.raises(FleetError) as caught:
            one.ship()
        assert caught.value.temporary
        assert tried == ["ship.staged"] * (1 + shipping.RETRIES)

    def test_a_server_that_is_not_there_is_an_error_at_once(self, one: Host) -> None:
        with pytest.raises(FleetError, match="refused") as caught:
            one.ship(to="postgresql://x@127.0.0.1:1/x")
        assert caught.value.temporary

    def test_a_server_that_loses_its_power(
        self, one: Host, postgres: Server, at_steps: Callable[..., None]
    ) -> None:
        grow(one.ledger, 8)
        steps = iter(STEPS)
        ahead = [next(steps)]

        def observe(reached: str) -> None:
            if ahead and reached == ahead[0]:
                postgres.restart("immediate")
                ahead[:] = [*([following] if (following := next(steps, None)) else [])]

        at_steps(observe)
        assert one.ship().events == 15
        assert (one.is_whole, ahead) == (True, [])

    def test_several_send_one_log_while_it_grows(self, one: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shipping, "BATCH_EVENTS", 3)
        ended, sent, errors = threading.Event(), [0, 0, 0], []

        def send(number: int) -> None:
            try:
                with ImageCache(one.home) as cache:
                    while not ended.is_set():
                        sent[number] += cache.ship(one.dsn).events
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(40):
            grow(one.ledger, 2)
        until(lambda: one.is_whole)
        ended.set()
        for thread in threads:
            thread.join(20)
        assert errors == []
        assert sum(sent) == 87
        assert alerts(one.dsn, one.admin) == []


class TestFollowing:
    def test_what_comes_is_sent_and_an_absence_caught_up(self, one: Host, postgres: Server) -> None:
        with one.following() as shipped:
            until(lambda: one.is_whole)
            grow(one.ledger, 3)
            until(lambda: one.is_whole)
            postgres.stop()
            grow(one.ledger, 4)
            until(lambda: len(one.notes) == 1)
            time.sleep(0.2)
            grow(one.ledger, 5)
            postgres.start()
            until(lambda: one.is_whole)
            until(lambda: one.notes[-1] == "the fleet takes events again")
        assert shipped == [Shipped(one.log_id, 19, 19, 19)]
        # It says of itself that it is starting, if it is asked just then.
        assert all(note.endswith("; it is tried again") for note in one.notes[:-1])

    def test_an_idle_host_has_no_connection(self, one: Host) -> None:
        with one.following():
            until(lambda: one.is_whole)
            until(lambda: _connections(one) == 0)

    def test_a_quiet_host_gives_signs_of_life(self, one: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shipping, "SIGN_OF_LIFE", 0.1)
        seen = ("SELECT seen_at FROM msb_cache.head WHERE log_id = %s", one.log_id)
        with one.following():
            until(lambda: one.is_whole)
            before = asked(one.admin, *seen)
            until(lambda: asked(one.admin, *seen) > before)

    def test_a_refusal_is_said_once_and_passes(
        self, one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(posting, "LONGEST_WAIT", 0.05)
        one.ship()
        clone = one.copy("clone")
        grow(one.ledger, 2)
        one.ship()
        other = Host.__new__(Host)
        other.__dict__.update(one.__dict__, home=clone, ledger=new_ledger(clone, []), notes=[])
        grow(other.ledger, 2)
        with ImageCache(clone, note=other.notes.append) as other.cache, other.following():
            until(lambda: len(other.notes) == 1)
            until(
                lambda: (
                    asked(one.admin, "SELECT sum(times) FROM msb_cache.alert WHERE role = %s", _user(one))[0][
                        0
                    ]
                    > 2
                )
            )
            assert len(other.notes) == 1
            asked(
                one.admin,
                "UPDATE msb_cache.enrolment SET max_logs = 2 WHERE role = %s RETURNING 1",
                _user(one),
            )
            other.ledger.close()
            with ImageCache(clone) as anew:
                anew.begin_log_anew()
            until(lambda: is_whole(one.admin, clone))
        assert "log anew" in other.notes[0]

    def test_a_full_log_is_not_tried_in_a_hurry(self, one: Host) -> None:
        """A refusal waits as long as it may at once; until then it is not even connected."""
        enrol(one.admin, _user(one), max_log_size=0)
        with one.following():
            until(lambda: len(one.notes) == 1)
            grow(one.ledger, 2)
            time.sleep(0.5)
            assert alerts(one.dsn, one.admin) == [("full", 1)]
        assert one.notes[0].startswith("the fleet takes no more: the log has 0 of the 0 bytes")

    def test_a_wait_ends_when_it_shall(self, one: Host) -> None:
        # A connection to what never answers; the end of the block must not take a second.
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            one.following(to=f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x"),
        ):
            time.sleep(0.2)
        # A server that lets us wait in the middle.
        one.ship()
        grow(one.ledger, 1)
        with psycopg.connect(one.admin) as locking:
            locking.execute("SELECT * FROM msb_cache.head FOR UPDATE")
            with one.following() as shipped:
                until(lambda: _connections(one) == 1)
                time.sleep(0.2)
            assert shipped[0].events == 0
            locking.rollback()
        assert one.ship().events == 1

    def test_what_msb_does_is_sent_while_it_is_watched(
        self, one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = tmp_path / "msb-home"
        fake = FakeMsb(tmp_path / "msb", home)
        fake.load(image([], "first:1"))
        ended = threading.Event()
        with ImageCache(home) as cache:
            events = cache.watch(stopped=ended.is_set, interval=0.02, ship=one.dsn)
            thread = threading.Thread(target=lambda: [*events])
            thread.start()
            until(lambda: Ledger(cache._layout).head_file is not None and _has_log(home))
            until(lambda: is_whole(one.admin, home))
            before = len(log_of(home))
            fake.load(image([], "second:1"))
            until(lambda: len(log_of(home)) > before and is_whole(one.admin, home))
            ended.set()
            thread.join(10)
        assert not thread.is_alive()

    def test_a_damaged_log_is_said_and_ends_nothing(self, one: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        def damaged(*_: object) -> None:
            raise CorruptLogError("it is damaged")

        shipper = Shipper(one.cache._session, one.dsn)
        with monkeypatch.context() as patched:
            patched.setattr(shipping, "paged_rows", damaged)
            shipper.turn()
            shipper._not_before = 0
            shipper.turn()
        assert one.notes == ["it is damaged; it is tried again"]
        shipper._not_before = 0
        shipper.turn()
        assert one.is_whole


def _has_log(home: Path) -> bool:
    try:
        return bool(log_of(home))
    except (sqlite3.Error, IndexError):
        return False


def _user(one: Host) -> str:
    return user_of(one.dsn)


def _connections(one: Host) -> int:
    counted = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    return int(asked(one.admin, counted, _user(one))[0][0])


def _cut(admin: str) -> None:
    asked(
        admin,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'host-%%' AND pid <> %s",
        0,
    )
