"""The live tables beside the log: applied step by step, folded anew, compared."""

from __future__ import annotations

from pathlib import Path

from msb_cache.home.ledger import Ledger
from msb_cache.projections import FOLD_VERSION, live
from tests.logs import PYTHON, new_ledger, some_events


def position(ledger: Ledger) -> tuple[int, int]:
    with ledger.read() as connection:
        assert connection is not None
        return live.position(connection)


def test_their_position_is_the_logs(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:3])
    assert position(ledger) == (FOLD_VERSION, 4)


def test_what_differs_is_named_and_folded_anew(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:3])
    with ledger.write("rebuild") as transaction:
        connection = transaction.connection
        store = ledger.store(connection)
        assert live.rebuild(connection, store) == []
        connection.execute("UPDATE image SET last_used_at = 5")
        connection.execute("DELETE FROM hold")
        connection.execute("INSERT INTO layer VALUES ('made up', 1, 1)")
        found = {
            (each.table, each.live is None, each.folded is None) for each in live.rebuild(connection, store)
        }
        assert found == {("image", False, False), ("hold", True, False), ("layer", False, True)}
        assert live.compare(connection, live.fold_until(store)) == []
    assert position(ledger) == (FOLD_VERSION, 4)


def test_a_fold_that_was_made_before_goes_on_from_there(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:4])
    with ledger.write("rebuild") as transaction:
        connection, store = transaction.connection, ledger.store(transaction.connection)
        before = live.fold_until(store, 2)
        connection.execute("DELETE FROM image WHERE reference = ?", (PYTHON,))
        (difference,) = live.rebuild(connection, store, before, after=2)
        assert (difference.key, difference.live) == ((PYTHON,), None)


def test_values_of_several_types_have_an_order(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:1])
    with ledger.write("damage") as transaction:
        connection = transaction.connection
        for key in ("x'00'", "'text'"):
            connection.execute(f"INSERT INTO pointed_at VALUES ({key}, 'm', 1)")
        found = live.compare(connection, live.fold_until(ledger.store(connection)))
        assert [each.key[0] for each in found] == [b"\0", "text"]
