"""That rebuild mends what verify finds in the index, and changes nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import Call, fingerprint, sql

BESIDE = ("events", "projection_state", "clock_seen", "digest_check")
"""Tables that are no part of the index."""


def test_a_changed_row_and_its_mending(home: Path, call: Call) -> None:
    tables = {
        name
        for (name,) in sql(home, "SELECT name FROM sqlite_master WHERE type = 'table'")
        if not name.startswith(("sqlite_", "_")) and name not in BESIDE
    }
    good = fingerprint(home)
    changed = 0
    for table in sorted(tables):
        if not sql(home, f'SELECT count(*) FROM "{table}"')[0][0]:
            continue
        changed += 1
        sql(home, f'DELETE FROM "{table}"')
        done = call("verify")
        assert done.code == 1, table
        assert "✗ index" in done.out
        assert table in done.out
        assert "msb-cache rebuild" in done.out
        differences = call("verify", "--format", "json").json["differences"]
        assert {each["table"] for each in differences} == {table}
        assert {each["live"] for each in differences} == {None}
        mended = call("rebuild")
        assert mended.code == 1
        assert table in mended.out
        assert f"{len(differences)} row" in mended.err
        assert call("rebuild").code == 0
        assert fingerprint(home) == good
    assert changed >= 3


def test_a_changed_value_is_shown_and_mended(home: Path, call: Call) -> None:
    good = call("inspect", "app:1", "--format", "json").json
    table, column = _table_with(home, "erofs_bytes")
    sql(home, f'UPDATE "{table}" SET {column} = 12345')
    assert call("inspect", "app:1", "--format", "json").json != good
    done = call("rebuild", "--format", "json")
    assert done.code == 1
    assert done.json["schema"] == []
    assert len(done.json["differences"]) == 3
    assert all(12345 in each["live"] and 12345 not in each["folded"] for each in done.json["differences"])
    assert call("inspect", "app:1", "--format", "json").json == good
    assert call("verify").code == 0


def test_rebuild_of_a_good_home(home: Path, call: Call) -> None:
    before = fingerprint(home)
    done = call("rebuild")
    assert (done.code, done.out) == (0, "The index is exactly what the log says.\n")
    assert call("rebuild", "--format", "json").json == {"schema": [], "differences": [], "subtrees": []}
    assert fingerprint(home) == before


def _table_with(home: Path, column: str) -> tuple[str, str]:
    for (table,) in sql(home, "SELECT name FROM sqlite_master WHERE type = 'table'"):
        if column in {row[1] for row in sql(home, f'PRAGMA table_info("{table}")')}:
            return table, column
    raise AssertionError(column)
