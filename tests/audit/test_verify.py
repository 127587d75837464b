"""Proof against tampering, through a whole home: what the chain finds, and what only a note finds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from msb_cache import CorruptLogError, ImageCache, LogError
from msb_cache.audit.verify import Verification
from msb_cache.eventstore import chain
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections import live
from tests.logs import digest, layer, manifest_added, new_ledger, pulled, some_events

TRIGGERS = ("events_no_update", "events_no_delete", "events_in_order")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A small log, closed."""
    ledger = new_ledger(tmp_path / "home", some_events())
    ledger.close()
    return ledger


def tamper(ledger: Ledger, *statements: str, arguments: tuple[object, ...] = ()) -> None:
    """Do what the triggers refuse."""
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            connection.execute(statement, arguments)


def verify(ledger: Ledger, note: str | None = None) -> Verification:
    with ImageCache(ledger.layout.home) as cache:
        return cache.verify(note)


def checkpoint(ledger: Ledger) -> str:
    with ImageCache(ledger.layout.home) as cache:
        return cache.checkpoint().note


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, int):
        return value + 1
    return bytes([value[0] ^ 1]) + value[1:] if isinstance(value, bytes) else value + " "


def test_every_change_of_every_column_of_every_row_is_found(ledger: Ledger) -> None:
    columns = (*chain.COLUMNS[1:], "hash")
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        rows = connection.execute(f"SELECT seq, {', '.join(columns)} FROM events ORDER BY seq").fetchall()
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER {trigger}")
        found = []
        for seq, *values in rows:
            for column, value in zip(columns, values, strict=True):
                change = f"UPDATE events SET {column} = ? WHERE seq = ?"
                connection.execute(change, (other(value), seq))
                broken = chain.verify(connection)
                assert isinstance(broken, chain.Break)
                found.append((broken.seq, seq))
                connection.execute(change, (value, seq))
        assert isinstance(chain.verify(connection), chain.Verified)
    assert len(found) == len(rows) * len(columns) == 7 * 10
    assert all(where == changed for where, changed in found)


def test_every_changed_position_and_missing_row_is_found(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER {trigger}")
        for seq in range(1, 7):
            for change in ("UPDATE events SET seq = 100 WHERE seq = ?", "DELETE FROM events WHERE seq = ?"):
                connection.execute("BEGIN")
                connection.execute(change, (seq,))
                broken = chain.verify(connection)
                assert isinstance(broken, chain.Break)
                assert (broken.seq, broken.kind) == (seq, "missing")
                connection.execute("ROLLBACK")


@pytest.mark.parametrize("length", range(1, 7))
def test_a_log_whose_end_is_gone_is_found_by_the_index(ledger: Ledger, length: int) -> None:
    note = checkpoint(ledger)
    tamper(ledger, f"DELETE FROM events WHERE seq > {length}")
    with ImageCache(ledger.layout.home) as cache, pytest.raises(CorruptLogError, match="its end is gone"):
        cache.list()
    before = Path(ledger.layout.database).read_bytes()
    found = verify(ledger, note)
    assert isinstance(found.chain, chain.Break)
    assert (found.chain.seq, found.chain.kind) == (length + 1, "truncated")
    assert f"ends at event {length}, and the index has had 7" in found.chain.problem
    assert not found.sound
    assert found.contradiction == f"the log has only {length} events, and the note is of 7"
    assert Path(ledger.layout.database).read_bytes() == before


def test_of_a_log_without_its_end_the_rest_is_checked(ledger: Ledger) -> None:
    tamper(ledger, "DELETE FROM events WHERE seq > 5", "UPDATE events SET subject = 'somebody' WHERE seq = 3")
    found = verify(ledger)
    assert isinstance(found.chain, chain.Break)
    assert (found.chain.seq, found.chain.kind) == (3, "changed")


def cut_with_the_index(ledger: Ledger) -> None:
    tamper(ledger, "DELETE FROM events WHERE seq > 5", "DELETE FROM projection_state")


def change_and_link_again(ledger: Ledger) -> None:
    tamper(ledger, "UPDATE events SET subject = 'docker.io/library/other:1' WHERE seq = 3")
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        previous = chain.GENESIS
        for row, _ in list(chain.raw_rows(connection)):
            previous = chain.link(previous, row)
            connection.execute("UPDATE events SET hash = ? WHERE seq = ?", (previous, row[0]))
        connection.execute("DELETE FROM projection_state")


@pytest.mark.parametrize(
    ("forge", "says"),
    [(cut_with_the_index, "has only 5 events, and the note is of 7"), (change_and_link_again, "rewritten")],
)
def test_what_only_a_note_finds(ledger: Ledger, forge: Any, says: str) -> None:
    note = checkpoint(ledger)
    assert verify(ledger, note).sound
    forge(ledger)
    found = verify(ledger, note)
    assert isinstance(found.chain, chain.Verified)
    assert found.differences == []
    assert not found.sound
    assert says in str(found.contradiction)


def test_every_later_log_extends_a_note(tmp_path: Path) -> None:
    notes = []
    home = tmp_path / "home"
    new_ledger(home, some_events()).close()
    with ImageCache(home) as cache:
        for _ in range(3):
            notes.append(cache.checkpoint().note)
            with closing(Ledger(cache._layout)) as ledger, ledger.write("operation") as transaction:
                transaction.append(some_events())
        for note in notes:
            found = cache.verify(note)
            assert found.sound
            assert found.contradiction is None


def test_the_end_of_a_whole_home_is_compared_with_its_index(tmp_path: Path) -> None:
    """Rows of the index that the rest of the log does not explain are differences."""
    home = tmp_path / "home"
    ledger = new_ledger(home, [])
    with ledger.write("operation") as transaction:
        transaction.append([NewEvent(manifest_added([layer(1)]), digest(1))])
        transaction.append([NewEvent(pulled(digest(1)), "docker.io/library/app:1")])
    ledger.close()
    tamper(ledger, "DELETE FROM events WHERE seq = 3")
    found = verify(ledger)
    assert {difference.table for difference in found.differences} == {"image", "pointed_at"}
    assert all(isinstance(difference, live.Difference) for difference in found.differences)


def test_no_checkpoint_of_what_does_not_verify(ledger: Ledger, tmp_path: Path) -> None:
    tamper(ledger, "UPDATE events SET actor = '{}' WHERE seq = 2")
    with (
        ImageCache(ledger.layout.home) as cache,
        pytest.raises(CorruptLogError, match=r"event 2 .*a checkpoint is only made of a log that verifies"),
    ):
        cache.checkpoint()
    with ImageCache(tmp_path / "empty") as cache:
        with pytest.raises(LogError, match="has no log yet"):
            cache.checkpoint()
        assert not (tmp_path / "empty").exists()
