"""The hash chain, checked by a program that shares no code with the encoder."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore import chain
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from tests.logs import new_ledger, some_events


def stranger_checks(path: Path) -> str:
    """What docs/event-log.md tells a stranger to do: 20 lines, standard library only."""
    columns = [
        "seq",
        "id",
        "type",
        "version",
        "subject",
        "operation",
        "occurred_at",
        "recorded_at",
        "actor",
        "data",
        "hash",
    ]
    previous, position = bytes(32), 0
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM events ORDER BY seq").fetchall()
    for row in rows:
        position += 1
        message = previous
        for value in row[:-1]:
            if type(value) is int:
                payload = value.to_bytes(8, "big", signed=True)
                message += b"i" + len(payload).to_bytes(4, "big") + payload
            else:
                payload = value.encode()
                message += b"t" + len(payload).to_bytes(4, "big") + payload
        if row[0] != position or hashlib.sha256(message).digest() != row[-1]:
            return f"broken at {position}"
        previous = row[-1]
    return f"{position} events, head {previous.hex()}"


def test_a_stranger_can_check_a_log(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    with ledger.read() as connection:
        assert connection is not None
        found = chain.verify(connection)
    assert isinstance(found, chain.Verified)
    assert found.events == len(some_events()) + 1
    assert stranger_checks(ledger.layout.database) == f"{found.events} events, head {found.head.hex()}"


COLUMN_VALUES: dict[str, object] = {
    "id": "x",
    "type": "image.removed",
    "version": 7,
    "subject": "docker.io/library/other:1",
    "operation": "y",
    "occurred_at": 1,
    "recorded_at": 1,
    "actor": '{"user":"mallory","uid":0,"host":"h","program":"p"}',
    "data": '{"manifest_digest":"sha256:00"}',
    "hash": bytes(32),
}


@pytest.mark.parametrize("seq", [1, 3, 6])
@pytest.mark.parametrize("column", list(COLUMN_VALUES))
def test_every_changed_column_is_found_at_its_row(tmp_path: Path, seq: int, column: str) -> None:
    ledger = new_ledger(tmp_path, some_events())
    tamper(
        ledger.layout.database, f"UPDATE events SET {column} = ? WHERE seq = ?", COLUMN_VALUES[column], seq
    )
    with ledger.read() as connection:
        assert connection is not None
        found = chain.verify(connection)
    assert isinstance(found, chain.Break)
    assert found.seq == seq
    assert stranger_checks(ledger.layout.database) == f"broken at {seq}"


Rewrite = Callable[[list[list[chain.Value]]], None]


def rewritten(tmp_path: Path, change: Rewrite) -> chain.Verified | chain.Break:
    """What is found in a log whose rows (the hash last) were changed freely."""
    ledger = new_ledger(tmp_path, some_events())
    ledger.close()
    connection = sqlite3.connect(ledger.layout.database, isolation_level=None)
    rows = [list(row) for row in connection.execute("SELECT * FROM events ORDER BY seq")]
    change(rows)
    for trigger in ("no_update", "no_delete", "in_order"):
        connection.execute(f"DROP TRIGGER events_{trigger}")
    connection.execute("DELETE FROM events")
    marks = ", ".join("?" * len(rows[0]))
    connection.executemany(f"INSERT INTO events VALUES ({marks})", rows)
    found = chain.verify(connection)
    connection.close()
    return found


def renumber(rows: list[list[chain.Value]]) -> None:
    for seq, row in enumerate(rows, 1):
        row[0] = seq


def link_again(rows: list[list[chain.Value]], start: int = 0) -> None:
    previous = rows[start - 1][-1] if start else chain.GENESIS
    for row in rows[start:]:
        assert isinstance(previous, bytes)
        row[-1] = previous = chain.link(previous, row[:-1])


def swap(rows: list[list[chain.Value]]) -> None:
    rows[2], rows[4] = rows[4], rows[2]
    renumber(rows)


def put_in(rows: list[list[chain.Value]]) -> None:
    rows.insert(2, [*rows[1][:1], "new id", *rows[1][2:]])
    renumber(rows)


def take_out(rows: list[list[chain.Value]]) -> None:
    del rows[2]
    renumber(rows)


def take_out_last_but_one(rows: list[list[chain.Value]]) -> None:
    del rows[-2]
    renumber(rows)


def behead(rows: list[list[chain.Value]]) -> None:
    del rows[0]
    renumber(rows)


def change_one_and_its_hash(rows: list[list[chain.Value]]) -> None:
    rows[2][4] = "somebody else"
    rows[2][-1] = chain.link(rows[1][-1], rows[2][:-1])  # type: ignore[arg-type]


def change_one(rows: list[list[chain.Value]]) -> None:
    rows[2][4] = "somebody else"


def change_the_last(rows: list[list[chain.Value]]) -> None:
    rows[-1][4] = "somebody else"


def change_a_hash(rows: list[list[chain.Value]]) -> None:
    rows[2][-1] = bytes(32)


def go_back_in_time(rows: list[list[chain.Value]]) -> None:
    rows[3][7] = 5
    link_again(rows)


def go_back_a_nanosecond(rows: list[list[chain.Value]]) -> None:
    previous = rows[2][7]
    assert isinstance(previous, int)
    rows[3][7] = previous - 1
    link_again(rows)


def make_it_bytes(rows: list[list[chain.Value]]) -> None:
    rows[3][9] = str(rows[3][9]).encode()


@pytest.mark.parametrize(
    ("change", "seq", "kind", "says"),
    [
        (swap, 3, "moved", "stands at 5"),
        (put_in, 3, "moved", "stands at 4: events were put in"),
        (take_out, 3, "changed", "events before it were taken out"),
        (take_out_last_but_one, 6, "changed", "events before it were taken out"),
        (behead, 1, "beginning", "event 1 is 'image.pulled'"),
        (change_one, 3, "changed", "which one, no hash can tell"),
        (change_one_and_its_hash, 4, "changed", "or event 3 was changed and its hash made anew"),
        (change_the_last, 7, "changed", "which column, no hash can tell"),
        (change_a_hash, 3, "hash", "the stored hash of event 3 was changed; its contents were not"),
        (go_back_in_time, 4, "time", "event 4 was recorded before event 3"),
        (go_back_a_nanosecond, 4, "time", "event 4 was recorded before event 3"),
        (make_it_bytes, 4, "changed", "its data is no text"),
    ],
)
def test_what_can_be_told(tmp_path: Path, change: Rewrite, seq: int, kind: str, says: str) -> None:
    found = rewritten(tmp_path, change)
    assert isinstance(found, chain.Break)
    assert (found.seq, found.kind) == (seq, kind)
    assert says in found.problem


def test_a_whole_new_chain_is_a_sound_log(tmp_path: Path) -> None:
    def change(rows: list[list[chain.Value]]) -> None:
        rows[2][4] = "somebody else"
        link_again(rows)

    assert isinstance(rewritten(tmp_path, change), chain.Verified)


def test_events_recorded_at_the_same_time_are_in_order(tmp_path: Path) -> None:
    def change(rows: list[list[chain.Value]]) -> None:
        for row in rows:
            row[7] = rows[0][7]
        link_again(rows)

    assert isinstance(rewritten(tmp_path, change), chain.Verified)


def test_a_time_that_is_no_integer_is_not_compared(tmp_path: Path) -> None:
    """The chain covers what is stored, whatever it is: that no event reads so is found by decoding it."""

    def change(rows: list[list[chain.Value]]) -> None:
        rows[3][7] = "yesterday"
        link_again(rows)

    assert isinstance(rewritten(tmp_path, change), chain.Verified)


def test_text_that_is_none(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    tamper(ledger.layout.database, "UPDATE events SET subject = CAST(X'fffe' AS TEXT) WHERE seq = 4")
    with ledger.read() as connection:
        assert connection is not None
        found = chain.verify(connection)
    assert found == chain.Break(4, "event 4 holds text that is no UTF-8", "unreadable")


def test_a_missing_row_is_found(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    tamper(ledger.layout.database, "DELETE FROM events WHERE seq = 3")
    with ledger.read() as connection:
        assert connection is not None
        assert chain.verify(connection) == chain.Break(
            3, "event 3 is missing; the next one is event 4", "missing"
        )


def test_a_changed_column_type_is_found(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    tamper(ledger.layout.database, "UPDATE events SET data = CAST(data AS BLOB) WHERE seq = 2")
    with ledger.read() as connection:
        assert connection is not None
        assert isinstance(chain.verify(connection), chain.Break)


def test_a_log_that_does_not_begin_as_one_is_refused(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        row = list(
            connection.execute(f"SELECT {', '.join(chain.COLUMNS)} FROM events WHERE seq = 2").fetchone()
        )
        row[0] = 1
        connection.execute("DROP TRIGGER events_no_delete")
        connection.execute("DELETE FROM events")
        marks = ", ".join("?" * 11)
        connection.execute(f"INSERT INTO events VALUES ({marks})", [*row, chain.link(chain.GENESIS, row)])
        assert chain.verify(connection) == chain.Break(
            1, "event 1 is 'image.pulled', not 'log.created'", "beginning"
        )


def test_encoding_separates_values_and_types() -> None:
    rows = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        ("", "abc"),
        (1, 2),
        ("1", 2),
        (None, ""),
        ("", None),
        (b"1",),
        (1.0,),
    ]
    assert len({chain.encode(row) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (1, b"i\0\0\0\x08\0\0\0\0\0\0\0\x01"),
        (-(2**63), b"i\0\0\0\x08\x80\0\0\0\0\0\0\0"),
        ("ä", b"t\0\0\0\x02\xc3\xa4"),
        # Half a surrogate pair is no character, and UTF-8 has none; it is hashed all the same.
        ("\ud800", b"t\0\0\0\x03\xed\xa0\x80"),
        ("\udfffx", b"t\0\0\0\x04\xed\xbf\xbfx"),
        (b"\xff", b"b\0\0\0\x01\xff"),
        (0.5, b"f\0\0\0\x08\x3f\xe0\0\0\0\0\0\0"),
        (None, b"n\0\0\0\0"),
    ],
)
def test_the_encoding_is_the_documented_one(value: chain.Value, encoded: bytes) -> None:
    assert chain.encode([value]) == encoded
    assert chain.encode([value, value]) == encoded * 2


def test_the_chain_is_sensitive_to_order(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [])
    used = [
        NewEvent(ev.ImageUsed(manifest_digest=f"sha256:{n}"), f"docker.io/library/a:{n}") for n in range(2)
    ]
    with ledger.write("op") as transaction:
        stored = transaction.append(used)
    assert len({event.hash for event in stored}) == len(stored)


def tamper(path: Path, statement: str, *arguments: object) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TRIGGER events_no_update")
    connection.execute("DROP TRIGGER events_no_delete")
    connection.execute(statement, arguments)
    connection.close()


def test_pages_are_what_one_read_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = new_ledger(tmp_path, some_events())
    with ledger.read() as connection:
        assert connection is not None
        expected = [*chain.raw_rows(connection)]
    for rows, size in ((1, 10**6), (2, 10**6), (3, 10**6), (7, 10**6), (10, 10**6), (10, 1), (10, 500)):
        monkeypatch.setattr(chain, "_PAGE_ROWS", rows)
        monkeypatch.setattr(chain, "_PAGE_BYTES", size)
        for after in range(8):
            for until in (*range(8), chain.LAST):
                assert [*chain.paged_rows(ledger.read, after, until)] == expected[after:until]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE events SET hash = zeroblob(32) WHERE seq = 2", "event 2 was changed while the log was read"),
        ("DELETE FROM events WHERE seq = 2", "event 2 was changed while the log was read"),
        ("DELETE FROM events WHERE seq > 2", "what follows event 2 was taken out while the log was read"),
    ],
)
def test_a_log_that_is_changed_between_two_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, says: str
) -> None:
    ledger = new_ledger(tmp_path, some_events())
    monkeypatch.setattr(chain, "_PAGE_ROWS", 2)
    rows = chain.paged_rows(ledger.read, 0, 7)
    assert [next(rows)[0][0], next(rows)[0][0]] == [1, 2]
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        for trigger in ("events_no_update", "events_no_delete"):
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(change)
    with pytest.raises(CorruptLogError, match=says):
        next(rows)
