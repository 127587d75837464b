"""The hash chain, checked by a program that shares no code with the encoder."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

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
    for row in sqlite3.connect(path).execute(f"SELECT {', '.join(columns)} FROM events ORDER BY seq"):
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
    with ledger.snapshot() as connection:
        assert connection is not None
        found = chain.verify(connection)
    assert isinstance(found, chain.Verified)
    assert found.events == len(some_events()) + 1
    assert stranger_checks(ledger.layout.database) == f"{found.events} events, head {found.head.hex()}"


COLUMN_VALUES: dict[str, object] = {
    "id": "x",
    "type": "image.removed",
    "version": 2,
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
    with ledger.snapshot() as connection:
        assert connection is not None
        found = chain.verify(connection)
    assert isinstance(found, chain.Break)
    assert found.seq == seq
    assert stranger_checks(ledger.layout.database) == f"broken at {seq}"


def test_a_missing_row_is_found(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    tamper(ledger.layout.database, "DELETE FROM events WHERE seq = 3")
    with ledger.snapshot() as connection:
        assert connection is not None
        assert chain.verify(connection) == chain.Break(
            3, "event 3 is missing; the next one is event 4", "missing"
        )


def test_a_changed_column_type_is_found(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    tamper(ledger.layout.database, "UPDATE events SET data = CAST(data AS BLOB) WHERE seq = 2")
    with ledger.snapshot() as connection:
        assert connection is not None
        assert isinstance(chain.verify(connection), chain.Break)


def test_a_log_that_does_not_begin_as_one_is_refused(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    with sqlite3.connect(ledger.layout.database, isolation_level=None) as connection:
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
    connection.close()


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


def test_the_chain_is_sensitive_to_order(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [])
    used = [
        NewEvent(ev.ImageUsed(manifest_digest=f"sha256:{n}"), f"docker.io/library/a:{n}") for n in range(2)
    ]
    with ledger.transaction("op") as transaction:
        stored = transaction.append(used)
    assert len({event.hash for event in stored}) == len(stored)


def tamper(path: Path, statement: str, *arguments: object) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TRIGGER events_no_update")
    connection.execute("DROP TRIGGER events_no_delete")
    connection.execute(statement, arguments)
    connection.close()
