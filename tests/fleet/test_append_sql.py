"""What ``append()`` takes and what it refuses, of real logs, on a real PostgreSQL."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache.eventstore.chain import COLUMNS, GENESIS, Checker
from msb_cache.fleet import append_sql
from msb_cache.fleet.admission import init
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.schema import EVENT_COLUMNS, size_of
from tests.fleet.postgres import PASSWORD, Server, pooled
from tests.fleet.sent import Answer, Row, append, chained, log_of, send, stage
from tests.reporthome import make

CHANGED = "does not match its contents"


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> list[Row]:
    """The events of a real home of a few weeks."""
    home = tmp_path_factory.mktemp("home")
    make(home / "home", scale=50)
    rows = log_of(home / "home")
    assert len(rows) > 100
    return rows


class Fleet(NamedTuple):
    """A fleet with a host that may own two logs, and one of another role."""

    admin: str
    host: str
    other: str

    def ask(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.admin, autocommit=True) as connection:
            return connection.execute(sql.encode(), arguments or None).fetchall()

    @property
    def rows(self) -> list[Row]:
        return self.ask(f"SELECT {', '.join(EVENT_COLUMNS)} FROM msb_cache.events ORDER BY log_id, seq")

    @property
    def alerts(self) -> list[tuple[Any, ...]]:
        return self.ask("SELECT role, log_id, kind, seq, times FROM msb_cache.alert ORDER BY 1, 2, 3")

    @property
    def bytes(self) -> list[int]:
        """What each log counts, which is what its events do."""
        kept = self.ask("SELECT bytes FROM msb_cache.head ORDER BY log_id")
        counted = self.ask(
            f"SELECT sum({size_of('e')})::bigint FROM msb_cache.events e GROUP BY log_id ORDER BY log_id"
        )
        assert kept == counted
        return [each for (each,) in kept]

    @property
    def staged(self) -> int:
        return self.ask("SELECT count(*) FROM msb_cache.staging")[0][0]


@pytest.fixture
def fleet(admin, postgres) -> Fleet:
    init(admin)
    database = admin.rpartition("/")[2]
    for name, logs in (("host", 2), ("other", 1)):
        enrol(admin, name, logs, password=PASSWORD)
    return Fleet(admin, *(postgres.dsn(name, database=database) for name in ("host", "other")))


@contextmanager
def session(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        yield connection


def of_another_id(rows: list[Row], number: int = 1) -> list[Row]:
    """The same events in a log of another id."""
    log_id = f"{number:032x}"
    return chained([(log_id, *(log_id if rows[0][0] == each else each for each in row[1:])) for row in rows])


def counted(rows: list[Row]) -> int:
    """What events count: their texts in UTF-8, four numbers, the log's id and the hash."""
    texts = sum(len(value.encode()) for row in rows for value in row[1:] if isinstance(value, str))
    return texts + len(rows) * (4 * 8 + 32 + 32)


class TestAccepted:
    @settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=12), overlap=st.integers(0, 3))
    def test_in_batches_of_any_size(self, fleet, log, sizes, overlap):
        with session(fleet.admin) as connection:  # each example begins with an empty fleet
            connection.execute("UPDATE msb_cache.head SET log_id = %s", (os.urandom(16).hex(),))
            connection.execute("ALTER TABLE msb_cache.events DISABLE TRIGGER kept")
            connection.execute("DELETE FROM msb_cache.events")
            connection.execute("ALTER TABLE msb_cache.events ENABLE ALWAYS TRIGGER kept")
            connection.execute("DELETE FROM msb_cache.head")
        sent = 0
        for size in [*sizes, len(log)]:
            batch = log[max(sent - overlap, 0) : sent + size]
            if not batch or sent == len(log):
                break
            sent = min(sent + size, len(log))
            assert send(fleet.host, batch, host_size=len(log))[:3] == ("accepted", sent, log[sent - 1][-1])
        assert fleet.rows == log
        assert fleet.staged == 0
        assert fleet.alerts == []
        assert fleet.bytes == [counted(log)]

    def test_what_was_sent_before_costs_nothing(self, fleet, log):
        send(fleet.host, log)
        assert send(fleet.host, log)[:2] == ("accepted", len(log))
        assert send(fleet.host, log[7:9], host_size=len(log))[:2] == ("accepted", len(log))
        assert fleet.rows == log

    def test_asking_tells_how_far_it_is(self, fleet, log):
        with session(fleet.host) as connection:
            assert append(connection, log[0][0]) == ("accepted", 0, GENESIS, None)
            assert fleet.ask("SELECT * FROM msb_cache.head") == []
            send(fleet.host, log[:50], host_size=60, cache_bytes=9, free_bytes=2**40, disk_bytes=-1)
            assert append(connection, log[0][0])[:3] == ("accepted", 50, log[49][-1])
        head = fleet.ask(
            "SELECT role, size, recorded_at, host_size, cache_bytes, free_bytes, disk_bytes "
            "FROM msb_cache.head"
        )
        assert head == [("host", 50, log[49][8], 60, 9, 2**40, None)]

    def test_the_check_is_that_of_one_host(self, fleet, log):
        send(fleet.host, log)
        checker = Checker()
        assert [checker.check(row[1:-1], row[-1]) for row in fleet.rows] == [None] * len(log)

    def test_texts_of_all_kinds(self, fleet, log):
        odd = "\u0001\ufffe\U0010ffff'\\\t\n\r\u202e$body$\x7f"
        rows = [(*row[:5], odd, *row[6:10], odd * 1000, row[11]) for row in log[1:40]]
        rows = chained([log[0], *rows])
        assert send(fleet.host, rows)[0] == "accepted"
        assert fleet.rows == rows

    def test_the_largest_event(self, fleet, log):
        data = os.urandom(append_sql.MAX_DATA // 2).hex()
        rows = chained([log[0], (*log[1][:10], data, b"")])
        assert send(fleet.host, rows)[0] == "accepted"

    def test_behind_an_anchor(self, fleet, log):
        send(fleet.host, log[:60], host_size=60)
        with session(fleet.admin) as connection:
            connection.execute(
                "INSERT INTO msb_cache.anchor VALUES (%s, 60, %s, %s, 1, '', 1)",
                (log[0][0], log[59][-1], log[59][8]),
            )
            connection.execute("DELETE FROM msb_cache.events")
        assert send(fleet.host, log[50:])[:2] == ("accepted", len(log))
        other = (*log[59][:-1], GENESIS)
        assert send(fleet.host, [other], host_size=len(log)).verdict == "fork"
        assert fleet.rows == log[60:]


def changed(column: str) -> Callable[[list[Row]], list[Row]]:
    at = EVENT_COLUMNS.index(column)

    def of(rows: list[Row]) -> list[Row]:
        value = rows[40][at]
        other = bytes(32) if at == len(EVENT_COLUMNS) - 1 else value + (1 if isinstance(value, int) else "x")
        return [*rows[:40], (*rows[40][:at], other, *rows[40][at + 1 :]), *rows[41:]]

    return of


def with_row(rows: list[Row], at: int, **columns: Any) -> list[Row]:
    """The log with another row, and all hashes behind it made anew."""
    row = tuple(columns.get(name, value) for name, value in zip(EVENT_COLUMNS, rows[at], strict=True))
    return chained([*rows[:at], row, *rows[at + 1 :]])


BAD: dict[str, tuple[Callable[[list[Row]], list[Row]], int, str]] = {
    **{f"{column} is another": (changed(column), 41, CHANGED) for column in (*COLUMNS[1:], "hash")},
    "a later position": (changed("seq"), 42, "stands behind event 40"),
    "two exchanged": (
        lambda rows: [
            *rows[:40],
            (rows[40][0], 41, *rows[41][2:]),
            (rows[41][0], 42, *rows[40][2:]),
            *rows[42:],
        ],
        41,
        CHANGED,
    ),
    "one put in": (lambda rows: [*rows[:40], rows[39], *rows[40:]], 40, "stands behind event 40"),
    "one left out": (lambda rows: [*rows[:40], *rows[41:]], 42, "stands behind event 40"),
    "one moved up": (lambda rows: [*rows[:40], *((r[0], r[1] - 1, *r[2:]) for r in rows[41:])], 41, CHANGED),
    "another beginning": (lambda rows: with_row(rows, 0, type="image.used"), 1, "does not begin this log"),
    "the beginning of another log": (
        lambda rows: with_row(rows, 0, subject="0" * 32),
        1,
        "does not begin this log",
    ),
    "a second beginning": (
        lambda rows: with_row(rows, 40, type="log.created"),
        41,
        "a log begins once",
    ),
    "time goes back": (
        lambda rows: with_row(rows, 40, recorded_at=rows[39][8] - 1),
        41,
        "was recorded before",
    ),
    "before the first": (lambda rows: [(rows[0][0], 0, *rows[0][2:]), *rows], 0, "counted from 1"),
    "far before the first": (
        lambda rows: [(rows[0][0], -(2**63), *rows[0][2:]), *rows],
        -(2**63),
        "counted from 1",
    ),
    "the last that there can be": (
        lambda rows: [*rows, (rows[0][0], 2**63 - 1, *rows[0][2:])],
        2**63 - 1,
        "stands behind",
    ),
    "too many": (
        lambda rows: [rows[0]] * (append_sql.MAX_EVENTS + 1),
        1,
        "one call takes",
    ),
    "an event too large": (
        lambda rows: with_row(rows[:2], 1, data="x" * (append_sql.MAX_DATA + 1)),
        1,
        "one call takes",
    ),
    "a name too long for an index": (
        lambda rows: with_row(rows[:2], 1, subject="x" * (append_sql.MAX_NAME + 1)),
        1,
        "one call takes",
    ),
    "too much text": (
        lambda rows: [(*row[:10], "x" * append_sql.MAX_DATA, row[11]) for row in rows[:17]],
        1,
        "one call takes",
    ),
}


class TestForged:
    @pytest.mark.parametrize("kind", BAD)
    def test_from_the_beginning(self, fleet, log, kind):
        forge, seq, said = BAD[kind]
        answer = send(fleet.host, forge(log))
        assert answer[:3] == ("forged", 0, GENESIS)
        assert said in (answer.detail or "")
        assert fleet.rows == []
        assert fleet.ask("SELECT * FROM msb_cache.head") == []
        assert fleet.alerts == [("host", log[0][0], "forged", seq, 1)]
        assert fleet.staged == 0
        assert send(fleet.host, log).verdict == "accepted"

    @pytest.mark.parametrize("kind", [kind for kind, (_, seq, _) in BAD.items() if seq > 30])
    def test_behind_what_is_there(self, fleet, log, kind):
        forge, seq, said = BAD[kind]
        send(fleet.host, log[:30], host_size=30)
        answer = send(fleet.host, forge(log)[29:])
        assert answer[:3] == ("forged", 30, log[29][-1])
        assert said in (answer.detail or "")
        assert fleet.rows == log[:30]
        assert fleet.alerts == [("host", log[0][0], "forged", seq, 1)]

    @pytest.mark.parametrize(
        "log_id", ["", "x" * 32, "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", "\u0660" * 32]
    )
    def test_what_is_no_id_of_a_log(self, fleet, log, log_id):
        answer = send(fleet.host, [(log_id, *row[1:]) for row in log[:3]], log_id=log_id)
        assert answer[:2] == ("forged", 0)
        assert fleet.alerts == [("host", "", "forged", 0, 1)]

    def test_no_id_at_all(self, fleet):
        with session(fleet.host) as connection:
            assert connection.execute("SELECT verdict FROM msb_cache.append(NULL, NULL)").fetchall() == [
                ("forged",)
            ]


class TestRefused:
    def test_a_gap_is_nobodys_fault(self, fleet, log):
        send(fleet.host, log[:30], host_size=len(log))
        answer = send(fleet.host, log[40:])
        assert answer == ("gap", 30, log[29][-1], "event 31 comes next")
        assert send(fleet.other, of_another_id(log)[3:]).verdict == "gap"
        assert (fleet.rows, fleet.alerts, fleet.staged) == (log[:30], [], 0)

    def test_another_event_at_the_overlap(self, fleet, log):
        send(fleet.host, log[:30], host_size=30)
        clone = chained([*log[:29], (*log[29][:10], "{}", b""), *log[30:]])
        answer = send(fleet.host, clone[29:])
        assert answer[:3] == ("fork", 30, log[29][-1])
        assert "event 30 is another" in answer.detail
        assert "msb-cache log anew" in answer.detail
        assert fleet.rows == log[:30]
        assert fleet.alerts == [("host", log[0][0], "fork", 30, 1)]

    def test_the_host_lost_its_end(self, fleet, log):
        send(fleet.host, log)
        with session(fleet.host) as connection:
            answer = append(connection, log[0][0], 50)
        assert answer[:2] == ("truncated", len(log))
        assert f"the host has 50 events, and {len(log)} were sent" in answer.detail
        assert send(fleet.host, log[40:50], host_size=50).verdict == "truncated"
        assert fleet.alerts == [("host", log[0][0], "truncated", 50, 2)]

    def test_a_log_of_another_role(self, fleet, log):
        send(fleet.host, log[:50], host_size=50)
        for rows in (log[49:], log[:1], []):
            with session(fleet.other) as connection, connection.transaction():
                stage(connection, rows)
                answer = append(connection, log[0][0], 1000)
            assert answer[:3] == ("claimed", 0, GENESIS)
            assert "msb-cache log anew" in answer.detail
            assert "host" not in answer.detail
        assert fleet.rows == log[:50]
        assert fleet.alerts == [("other", log[0][0], "claimed", 0, 3)]

    def test_as_many_logs_as_it_may_own(self, fleet, log):
        assert send(fleet.other, log).verdict == "accepted"
        more = of_another_id(log)
        assert send(fleet.other, more).verdict == "full"
        with session(fleet.other) as connection:
            assert append(connection, more[0][0]).verdict == "full"
        assert send(fleet.other, log).verdict == "accepted"
        enrol(fleet.admin, "other", 2)
        assert send(fleet.other, more).verdict == "accepted"
        assert fleet.alerts == [("other", more[0][0], "full", 0, 2)]

    def test_who_is_not_enrolled(self, fleet, log):
        with session(fleet.admin) as connection:
            connection.execute("DELETE FROM msb_cache.enrolment WHERE role = 'other'")
        assert send(fleet.other, log)[:3] == ("unknown", 0, GENESIS)
        assert send(fleet.other, of_another_id(log)).verdict == "unknown"
        assert fleet.alerts == [("other", "", "unknown", 0, 2)]

    def test_alerts_are_bounded_and_counted(self, fleet, log):
        with session(fleet.host) as connection:
            for number in range(append_sql.MAX_ALERTS + 30):
                rows = [(f"{number:032x}", *row[1:]) for row in log[:2]]
                with connection.transaction():
                    stage(connection, rows)
                    assert append(connection, rows[0][0], 2).verdict == "forged"
            with connection.transaction():
                stage(connection, [("0" * 32, *row[1:]) for row in log[:2]])
                append(connection, "0" * 32)
        kinds = fleet.ask("SELECT kind, count(*), sum(times) FROM msb_cache.alert GROUP BY 1 ORDER BY 1")
        most = append_sql.MAX_ALERTS
        assert kinds == [("forged", most - 1, most), ("further", 1, 31)]

    def test_the_transaction_must_be_read_committed(self, fleet, log):
        with session(fleet.host) as connection:
            for level in ("REPEATABLE READ", "SERIALIZABLE"):
                with connection.transaction(force_rollback=True):
                    connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
                    with pytest.raises(psycopg.errors.RaiseException, match="READ COMMITTED"):
                        append(connection, log[0][0])


class TestNotes:
    def note(self, size: int, origin: str = "example.com/log", more: str = "") -> str:
        return f"{origin}\n{size}\nAAAA\n\n\u2014 {origin} BBBB\n{more}"

    def test_kept_with_the_log(self, fleet, log):
        notes = [self.note(3), self.note(10), self.note(10, "example.com/other")]
        assert send(fleet.host, log, notes=notes).detail is None
        more = self.note(10, more="\u2014 witness CCCC\n")
        assert send(fleet.host, log[-1:], notes=[more, self.note(3).replace("AAAA", "DDDD")]).detail is None
        kept = fleet.ask("SELECT log_id, origin, size, note FROM msb_cache.checkpoint ORDER BY 2, 3")
        assert kept == [
            (log[0][0], "example.com/log", 3, notes[0]),
            (log[0][0], "example.com/log", 10, more),
            (log[0][0], "example.com/other", 10, notes[2]),
        ]

    @pytest.mark.parametrize(
        "notes",
        [
            ["", "x", "x\n", "x\ny\nz", "\n3\nAAAA", "x\n03\n", "x\n-1\n", "x\n9999999999999999999\n"],
            ["y" * 256 + "\n3\n", "x\n3\n" + "A" * append_sql.MAX_NOTE, None],
            [["x\n3\n", "x\n4\n"], ["x\n5\n", "x\n6\n"]],
        ],
    )
    def test_what_is_none_is_left_out(self, fleet, log, notes):
        answer = send(fleet.host, log, notes=notes)
        assert answer.verdict == "accepted"
        assert re.fullmatch(r"(\d) of \1 signed checkpoints were not kept", answer.detail or "")
        assert fleet.ask("SELECT * FROM msb_cache.checkpoint") == []

    def test_bounded(self, fleet, log):
        answer = send(fleet.host, log, notes=[self.note(size) for size in range(20)])
        assert answer.detail == "4 of 20 signed checkpoints were not kept"
        with session(fleet.host) as connection:
            for start in range(0, append_sql.NOTES_KEPT, 16):
                append(connection, log[0][0], notes=[self.note(100 + start + n) for n in range(16)])
        sizes = [size for (size,) in fleet.ask("SELECT size FROM msb_cache.checkpoint ORDER BY 1")]
        assert len(sizes) == append_sql.NOTES_KEPT
        assert sizes[0] > 15


class TestSize:
    """How many bytes a log may have."""

    def test_to_the_byte(self, fleet, log):
        size = counted(log)
        enrol(fleet.admin, "host", max_log_size=size - 1)
        answer = send(fleet.host, log)
        assert answer[:3] == ("full", 0, GENESIS)
        assert f"has 0 of the {size - 1:,} bytes" in answer.detail
        assert "msb-cache fleet enrol --max-log-size" in answer.detail
        assert "msb-cache fleet archive" in answer.detail
        assert (fleet.rows, fleet.bytes, fleet.staged) == ([], [], 0)
        assert fleet.alerts == [("host", log[0][0], "full", 0, 1)]
        enrol(fleet.admin, "host", max_log_size=size)
        assert send(fleet.host, log)[:2] == ("accepted", len(log))
        assert fleet.bytes == [size]

    def test_nothing_is_taken_of_a_batch_that_goes_beyond(self, fleet, log):
        enrol(fleet.admin, "host", max_log_size=counted(log[:80]))
        send(fleet.host, log[:50], host_size=len(log))
        answer = send(fleet.host, log[49:81], host_size=len(log))
        assert answer[:3] == ("full", 50, log[49][-1])
        assert f"has {counted(log[:50]):,} of the {counted(log[:80]):,} bytes" in answer.detail
        assert (fleet.rows, fleet.bytes, fleet.staged) == (log[:50], [counted(log[:50])], 0)
        assert fleet.alerts == [("host", log[0][0], "full", 50, 1)]
        # What is there already counts no second time, and what fits is taken.
        assert send(fleet.host, log[:80], host_size=len(log))[:2] == ("accepted", 80)
        assert send(fleet.host, log[:80], host_size=len(log))[:2] == ("accepted", 80)
        with session(fleet.host) as connection:
            assert append(connection, log[0][0], len(log))[:2] == ("accepted", 80)
        assert send(fleet.host, log[79:81], host_size=len(log)).verdict == "full"
        assert fleet.bytes == [counted(log[:80])]

    def test_it_is_less_than_there_is_already(self, fleet, log):
        send(fleet.host, log[:50], host_size=len(log))
        enrol(fleet.admin, "host", max_log_size=0)
        assert send(fleet.host, log[:50], host_size=len(log))[:2] == ("accepted", 50)
        assert send(fleet.host, log[49:51], host_size=len(log))[:2] == ("full", 50)
        enrol(fleet.admin, "host", max_log_size="unlimited")
        assert send(fleet.host, log[49:])[:2] == ("accepted", len(log))
        assert fleet.bytes == [counted(log)]

    def test_each_log_and_each_role_has_its_own(self, fleet, log):
        second, third = of_another_id(log, 2), of_another_id(log, 3)
        enrol(fleet.admin, "host", max_log_size=max(counted(log), counted(second)))
        enrol(fleet.admin, "other", max_log_size=10)
        assert [send(fleet.host, rows).verdict for rows in (log, second)] == ["accepted"] * 2
        assert send(fleet.other, third).verdict == "full"
        assert sorted(fleet.bytes) == sorted([counted(log), counted(second)])

    def test_events_without_text_count_too(self, fleet, log):
        log_id = log[0][0]
        first = (log_id, 1, "", "log.created", 1, log_id, "", 0, 0, "", "", b"")
        rows = chained(
            [first, *((log_id, seq, "", "", 1, "", "", 0, 0, "", "", b"") for seq in range(2, 90))]
        )
        enrol(fleet.admin, "host", max_log_size=89 * 96 + 42)
        assert send(fleet.host, rows).verdict == "full"
        enrol(fleet.admin, "host", max_log_size=89 * 96 + 43)
        assert send(fleet.host, rows).verdict == "accepted"

    def test_no_number_overflows(self, fleet, log):
        send(fleet.host, log[:50], host_size=len(log))
        enrol(fleet.admin, "host", max_log_size=2**60)
        with session(fleet.admin) as connection:
            for size in (2**63 - 1, 2**60, 2**60 - 1):
                connection.execute("UPDATE msb_cache.head SET bytes = %s", (size,))
                assert send(fleet.host, log[49:60], host_size=len(log))[:2] == ("full", 50)
            connection.execute("UPDATE msb_cache.enrolment SET max_log_size = %s", (2**63 - 1,))
            connection.execute("UPDATE msb_cache.head SET bytes = %s", (2**63 - 1,))
            assert send(fleet.host, log[49:60], host_size=len(log))[:2] == ("full", 50)
            for column in ("max_logs", "max_log_size"):
                with pytest.raises(psycopg.errors.CheckViolation):
                    connection.execute(f"UPDATE msb_cache.enrolment SET {column} = -1".encode())
        assert fleet.rows == log[:50]

    def test_what_does_not_fit_is_not_checked_first(self, fleet, log):
        enrol(fleet.admin, "host", max_log_size=counted(log) - 1)
        assert send(fleet.host, [*log[:-1], (*log[-1][:-1], bytes(32))]).verdict == "full"

    @pytest.mark.parametrize("begun", [0, 30])
    def test_two_shippers_at_once(self, fleet, log, begun):
        """Each sends a half that would fit alone; together they do not."""
        if begun:
            send(fleet.host, log[:begun], host_size=len(log))
        middle = (begun + len(log)) // 2
        enrol(fleet.admin, "host", max_log_size=counted(log) - 1)
        answers: list[Answer] = []

        def ship() -> None:
            with session(fleet.host) as connection:
                while not answers or answers[-1].verdict != "full":
                    with connection.transaction():
                        size = append(connection, log[0][0]).size
                        upto = middle if size < middle else len(log)
                        stage(connection, log[max(size - 1, 0) : upto])
                        answers.append(append(connection, log[0][0], len(log)))

        threads = [threading.Thread(target=ship) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert {answer.verdict for answer in answers} <= {"accepted", "gap", "full"}
        assert (fleet.rows, fleet.bytes) == (log[:middle], [counted(log[:middle])])

    def test_who_waits_for_the_other_finds_what_is_allowed_then(self, fleet, log):
        send(fleet.host, log[:30], host_size=30)
        answers: list[Answer] = []

        def ship() -> None:
            answers.append(send(fleet.host, log[29:], host_size=len(log)))

        with session(fleet.host) as first, first.transaction():
            stage(first, log[29:40])
            assert append(first, log[0][0], len(log)).size == 40
            thread = threading.Thread(target=ship)
            thread.start()
            waits = (
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'host' AND wait_event_type = 'Lock'"
            )
            while fleet.ask(waits) == [(0,)]:
                thread.join(0.01)
            enrol(fleet.admin, "host", max_log_size=counted(log) - 1)
        thread.join(60)
        assert [(answer.verdict, answer.size) for answer in answers] == [("full", 40)]
        assert fleet.bytes == [counted(log[:40])]


class TestRoom:
    """How much a host can write down without having it taken."""

    @pytest.fixture
    def small(self, fleet) -> Fleet:
        """A fleet whose staging table may take a megabyte."""
        with session(fleet.admin) as connection:
            connection.execute("ALTER TABLE msb_cache.staging DROP CONSTRAINT room")
            connection.execute(append_sql.room(1 << 20).encode())
        return fleet

    def size(self, fleet: Fleet) -> int:
        return fleet.ask("SELECT pg_total_relation_size('msb_cache.staging')")[0][0]

    def refused(self, error: psycopg.Error) -> str:
        assert isinstance(error, psycopg.errors.CheckViolation)
        return str(error.diag.constraint_name)

    @pytest.mark.parametrize("column", ["data", "actor", "id", "type", "log_id", "hash"])
    def test_one_row(self, fleet, log, column):
        large = os.urandom(append_sql.MAX_ROW // 2 + 1).hex()
        value = bytes.fromhex(large) * 2 if column == "hash" else large
        row = [value if name == column else each for name, each in zip(EVENT_COLUMNS, log[1], strict=True)]
        with session(fleet.host) as connection:
            with pytest.raises(psycopg.Error) as caught:
                stage(connection, [tuple(row)])
            assert self.refused(caught.value) == append_sql.FITS
            values = ", ".join(["%s"] * len(row))
            statement = f"INSERT INTO msb_cache.staging ({', '.join(EVENT_COLUMNS)}) VALUES ({values})"
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(statement.encode(), row)
        assert fleet.staged == 0
        assert self.size(fleet) < 1 << 20

    def test_a_long_copy(self, small, log):
        with session(small.host) as connection, pytest.raises(psycopg.Error) as caught:
            stage(connection, log[1:2] * 30_000)
        assert self.refused(caught.value) == append_sql.ROOM
        assert self.size(small) < 4 << 20
        assert small.staged == 0

    @pytest.mark.parametrize("words", [0, 1000])
    def test_a_statement_without_an_end(self, small, words):
        """Its rows are made on the server, of as many words each."""
        text = f"(SELECT coalesce(string_agg(md5(n::text || m), ''), '') FROM generate_series(1, {words}) m)"
        with session(small.host) as connection, pytest.raises(psycopg.Error) as caught:
            connection.execute(
                f"INSERT INTO msb_cache.staging ({', '.join(EVENT_COLUMNS)}) "
                f"SELECT '', n, '', '', 1, '', '', 1, 1, {text}, '', '' "
                "FROM (SELECT generate_series(1, 10000000) AS n) endless".encode()
            )
        assert self.refused(caught.value) == append_sql.ROOM
        assert self.size(small) < 4 << 20

    def test_many_small_transactions(self, small, log):
        insert = (
            f"INSERT INTO msb_cache.staging ({', '.join(EVENT_COLUMNS)}) "
            "SELECT '', n, '', '', 1, '', '', 1, 1, '', '', '' FROM generate_series(1, 100) n"
        )
        with session(small.host) as connection:

            def fill() -> None:
                for _ in range(100_000):
                    connection.execute(insert.encode())

            with pytest.raises(psycopg.Error) as caught:
                fill()
        assert self.refused(caught.value) == append_sql.ROOM
        assert self.size(small) < 4 << 20
        # Then the others are refused as well, until it is swept up.
        with pytest.raises(psycopg.errors.CheckViolation):
            send(small.other, log * 60)
        with session(small.admin) as connection:
            assert connection.execute("SELECT msb_cache.sweep(1 << 20)").fetchone() == (True,)
        assert small.staged == 0
        assert self.size(small) < 1 << 16
        assert send(small.other, log).verdict == "accepted"

    def test_what_is_sent_is_not_swept_up(self, fleet, log):
        with session(fleet.host) as connection, session(fleet.admin) as admin:
            stage(connection, log[:5])
            with connection.transaction():
                stage(connection, log)
                assert admin.execute("SELECT msb_cache.sweep(0)").fetchone() == (False,)
                assert append(connection, log[0][0], len(log))[:2] == ("accepted", len(log))
            stage(connection, log[:5])
            assert admin.execute("SELECT msb_cache.sweep(1 << 30)").fetchone() == (False,)
            assert fleet.staged == 5
            assert admin.execute("SELECT msb_cache.sweep(0)").fetchone() == (True,)
        assert (fleet.rows, fleet.staged) == (log, 0)


class TestStaged:
    def test_what_another_transaction_left_is_not_taken(self, fleet, log):
        with session(fleet.host) as connection:
            stage(connection, log[:20])
            assert append(connection, log[0][0])[:2] == ("accepted", 0)
            assert (fleet.rows, fleet.staged) == ([], 0)

    def test_of_other_roles_and_logs(self, fleet, log):
        mine = of_another_id(log)
        with session(fleet.host) as connection, session(fleet.other) as other:
            stage(other, log[:20])
            with connection.transaction():
                stage(connection, log)
                stage(connection, mine)
                assert append(connection, mine[0][0], len(mine)).size == len(log)
                assert append(connection, log[0][0], len(log)).size == len(log)
            assert sorted(fleet.rows) == sorted([*log, *mine])
            assert fleet.staged == 20
            assert append(other, mine[0][0]).verdict == "claimed"
            assert fleet.staged == 0

    def test_within_a_savepoint(self, fleet, log):
        with session(fleet.host) as connection, connection.transaction():
            with connection.transaction():  # a savepoint, whose rows have an id of their own
                stage(connection, log)
            assert append(connection, log[0][0], len(log))[:2] == ("accepted", 0)
        assert (fleet.rows, fleet.staged) == ([], 0)

    def test_append_within_a_savepoint_that_is_undone(self, fleet, log):
        with session(fleet.host) as connection, connection.transaction():
            stage(connection, log)
            with connection.transaction(force_rollback=True):
                assert append(connection, log[0][0]).size == len(log)
            assert append(connection, log[0][0]).size == len(log)
        assert fleet.rows == log

    def test_nothing_stays_of_a_transaction_that_is_undone(self, fleet, log):
        with session(fleet.host) as connection, connection.transaction(force_rollback=True):
            stage(connection, log)
            assert append(connection, log[0][0], len(log)).verdict == "accepted"
        assert (fleet.rows, fleet.staged) == ([], 0)
        assert fleet.ask("SELECT * FROM msb_cache.head") == []

    def test_what_another_session_stages_now_is_left_to_it(self, fleet, log):
        with session(fleet.host) as first, session(fleet.host) as second, first.transaction():
            stage(first, log)
            assert append(second, log[0][0]).size == 0
            assert append(first, log[0][0]).size == len(log)
        assert fleet.rows == log


class TestTogether:
    def test_many_shippers_of_one_log(self, fleet, log):
        answers: list[Answer] = []

        def ship(step: int) -> None:
            with session(fleet.host) as connection:
                while True:
                    with connection.transaction():
                        size = append(connection, log[0][0]).size
                        stage(connection, log[max(size - 1, 0) : size + step])
                        answers.append(append(connection, log[0][0], len(log)))
                    if answers[-1].size == len(log):
                        return

        threads = [threading.Thread(target=ship, args=(step,)) for step in (3, 7, 11, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert {answer.verdict for answer in answers} <= {"accepted", "gap"}
        assert (fleet.rows, fleet.alerts, fleet.staged) == (log, [], 0)

    def test_no_more_logs_than_allowed_when_claimed_at_once(self, fleet, log):
        logs = [of_another_id(log[:5], number) for number in range(8)]
        ready = threading.Barrier(len(logs))
        answers: list[Answer] = []

        def claim(rows: list[Row]) -> None:
            with session(fleet.host) as connection, connection.transaction():
                stage(connection, rows)
                ready.wait(30)
                answers.append(append(connection, rows[0][0], 5))

        threads = [threading.Thread(target=claim, args=(rows,)) for rows in logs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(answer.verdict for answer in answers) == ["accepted"] * 2 + ["full"] * 6
        assert len(fleet.ask("SELECT * FROM msb_cache.head")) == 2

    def test_two_roles_that_claim_one_log_at_once(self, fleet, log):
        with session(fleet.host) as first, session(fleet.other) as second:
            found: list[Answer] = []

            def claim() -> None:
                with second.transaction():
                    stage(second, log)
                    found.append(append(second, log[0][0], len(log)))

            with first.transaction():
                stage(first, log)
                assert append(first, log[0][0], len(log)).verdict == "accepted"
                thread = threading.Thread(target=claim)
                thread.start()
                thread.join(0.3)
                assert not found
            thread.join(30)
        assert [answer.verdict for answer in found] == ["claimed"]
        assert fleet.rows == log

    def test_who_asks_for_anothers_log_keeps_nobody_waiting(self, fleet, log):
        send(fleet.host, log[:20], host_size=20)
        with session(fleet.other) as other, other.transaction():
            assert append(other, log[0][0]).verdict == "claimed"
            with session(fleet.host) as connection, connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '2s'")
                stage(connection, log)
                assert append(connection, log[0][0], len(log)).verdict == "accepted"


def test_through_a_pooler(postgres: Server, fleet, log):
    """One session's transactions go over several connections of the server."""
    database = fleet.admin.rpartition("/")[2]
    with pooled(postgres, {"host": PASSWORD}, database=database) as port:
        dsn = postgres.dsn("host", port=port)
        with session(dsn) as first, session(dsn) as second:
            for start in range(0, len(log), 10):
                with first.transaction():
                    stage(first, log[max(start - 1, 0) : start + 10])
                    assert append(second, log[0][0]).verdict == "accepted"
                    assert append(first, log[0][0]).verdict == "accepted"
    assert (fleet.rows, fleet.alerts, fleet.staged) == (log, [], 0)


def test_the_server_loses_its_power(postgres: Server, fleet, log):
    with session(fleet.host) as connection:
        with connection.transaction():
            stage(connection, log[:40])
            assert append(connection, log[0][0], 40).verdict == "accepted"
        stage(connection, log[40:50])
        connection.execute("BEGIN")
        stage(connection, log[40:])
        assert append(connection, log[0][0], len(log)).size == len(log)
        postgres.restart("immediate")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("COMMIT")
    assert (fleet.rows, fleet.staged) == (log[:40], 0)
    assert send(fleet.host, log[39:])[:2] == ("accepted", len(log))
    assert fleet.rows == log
