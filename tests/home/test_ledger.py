"""One home's log: what is appended is committed together or not at all, and whose home it is, is checked."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import BusyError, CorruptLogError, HomeOwnedByMicrosandboxError, LogError
from msb_cache.home.ledger import Ledger, Owner
from tests.logs import ACTOR, new_ledger, some_events


def length(ledger: Ledger) -> int:
    with ledger.read() as connection:
        if connection is None:
            return 0
        head = ledger.store(connection).head()
        return 0 if head is None else head.seq


def test_a_block_that_fails_appends_nothing(tmp_path: Path) -> None:
    committed: list[tuple[int, int]] = []
    ledger = Ledger(Layout(tmp_path), actor=ACTOR, committed=lambda connection, *span: committed.append(span))
    with ledger.write("one") as transaction:
        transaction.append(some_events()[:2])
        transaction.append(some_events()[2:3])
    with suppress(KeyError), ledger.write("two") as transaction:
        transaction.append(some_events()[3:4])
        raise KeyError
    with ledger.write("three"):
        pass
    assert length(ledger) == 4
    assert committed == [(0, 4)]
    ledger.close()


def test_a_commit_that_fails_closes_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it happened can only be told by opening it anew."""
    ledger = new_ledger(tmp_path, some_events()[:1])

    def fail(step: str) -> None:
        if step == "log.committed":
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("msb_cache.failpoints.observer", fail)
    with pytest.raises(OSError, match="Input/output"), ledger.write("x") as transaction:
        transaction.append(some_events()[1:2])
    monkeypatch.undo()
    assert length(ledger) == 3  # it had happened


@pytest.mark.parametrize(
    ("owner", "of_msb", "error"),
    [
        ("ours", False, None),
        ("any", False, None),
        ("msb", False, LogError),
        ("ours", True, HomeOwnedByMicrosandboxError),
        ("any", True, None),
        ("msb", True, None),
    ],
)
def test_who_must_keep_the_home(
    tmp_path: Path, owner: Owner, of_msb: bool, error: type[Exception] | None
) -> None:
    ledger = new_ledger(tmp_path, some_events()[:1])
    if of_msb:
        Path(ledger.layout.msb_database).touch()
    before = length(ledger)
    if error is None:
        with ledger.write("x", owner=owner) as transaction:
            transaction.append(some_events()[1:2])
    else:
        with pytest.raises(error), ledger.write("x", owner=owner):
            pytest.fail("the block was entered")
    assert length(ledger) == before + (error is None)


def test_a_wait_for_another_transaction_is_bounded(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:1])
    waiting = sqlite3.connect(ledger.layout.database, isolation_level=None)
    waiting.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError, match="another process is writing"), ledger.write("x", wait=0.01):
        pytest.fail("the block was entered")
    waiting.close()


def test_errors_of_sqlite_are_told_apart(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:1])
    with pytest.raises(CorruptLogError, match="is damaged"), ledger.read():
        raise sqlite3.DatabaseError("file is not a database")
    with pytest.raises(CorruptLogError, match="malformed"), ledger.read():
        raise sqlite3.OperationalError("database disk image is malformed")
    with pytest.raises(LogError, match="cannot be written to by this user"), ledger.read():
        raise sqlite3.OperationalError("attempt to write a readonly database")
    with pytest.raises(sqlite3.ProgrammingError), ledger.read():
        raise sqlite3.ProgrammingError("used in another thread")


def test_a_home_below_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = Ledger(Layout(tmp_path / "file" / "home"), actor=ACTOR)
    with pytest.raises(LogError, match="is no directory"), ledger.read():
        pytest.fail("the block was entered")


def test_the_actor_is_asked_for_once_and_only_when_something_is_recorded(tmp_path: Path) -> None:
    asked: list[int] = []
    ledger = Ledger(Layout(tmp_path), actor=lambda: asked.append(1) or ACTOR)
    assert length(ledger) == 0
    assert asked == []
    for number in range(2):
        with ledger.write("x") as transaction:
            transaction.append(some_events()[number : number + 1])
    assert asked == [1]
    ledger.close()
