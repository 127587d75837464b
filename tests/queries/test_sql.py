"""SQL that is asked only reads, ends by time, by memory and at Ctrl-C, and what is wrong with it is said."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Timer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache import CorruptLogError, ImageCache, InvalidQueryError, QueryLimitError, waiting
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.queries import sql
from tests.logs import PYTHON, digest, new_ledger, pulled, some_events

COUNTING = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
ENDLESS = f"{COUNTING} SELECT count(*) FROM c"
LARGE = f"{COUNTING} SELECT x, randomblob(100000) FROM c ORDER BY 2"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return new_ledger(tmp_path, some_events()[:3])


@pytest.fixture
def cache(ledger: Ledger) -> ImageCache:
    return ImageCache(ledger.layout.home)


def test_rows_are_dicts_by_column(cache: ImageCache) -> None:
    with cache:
        assert cache.sql("SELECT image, manifest_digest FROM v_images") == [
            {"image": "python:3.12", "manifest_digest": digest(1)}
        ]
        assert cache.sql("SELECT 1 AS a, 2.5 AS a, x'ff' AS b, NULL AS n") == [
            {"a": 1, "a_2": 2.5, "b": b"\xff", "n": None}
        ]
        assert cache.sql("VALUES (?, ?)", [7, "x"]) == [{"column1": 7, "column2": "x"}]
        assert cache.sql("SELECT :a AS a", {"a": None}) == [{"a": None}]


def test_what_sqlite_knows_of_itself_can_be_asked(cache: ImageCache) -> None:
    with cache:
        assert {"name": "image"} in cache.sql("SELECT name FROM pragma_table_info('v_images')")
        assert cache.sql("PRAGMA table_info(image)")[0]["name"] == "name"
        assert cache.sql("SELECT value FROM json_each('[5]')") == [{"value": 5}]
        assert cache.sql("EXPLAIN QUERY PLAN SELECT * FROM v_events")
        assert len(cache.sql("SELECT * FROM sqlite_master WHERE type = 'view'")) == 5


WRITES = [
    *("DELETE FROM events", "INSERT INTO layer VALUES ('a', 1, 1)", "UPDATE image SET name = 'x'"),
    *("DELETE FROM layer RETURNING 1", "INSERT INTO layer VALUES ('a', 1, 1) RETURNING 1"),
    *("UPDATE sqlite_master SET sql = '' RETURNING 1", "WITH a AS (SELECT 1) DELETE FROM hold RETURNING 1"),
    *(
        "DROP VIEW v_images",
        "CREATE TABLE x (a)",
        "CREATE TEMP TABLE x (a)",
        "CREATE VIRTUAL TABLE x USING fts5(a)",
    ),
    *("ATTACH ':memory:' AS x", "DETACH main", "VACUUM", "VACUUM INTO '{path}'", "ANALYZE", "REINDEX"),
    *(
        "PRAGMA user_version = 1",
        "PRAGMA writable_schema = ON",
        "PRAGMA query_only = OFF",
        "pragma journal_mode",
    ),
    *("PRAGMA temp_store_directory = '/'", "PRAGMA hard_heap_limit = 1", "PRAGMA wal_checkpoint(TRUNCATE)"),
    *("/* x */ PRAGMA journal_mode = DELETE", "-- x\nPRAGMA locking_mode = EXCLUSIVE"),
    *("BEGIN", "COMMIT", "ROLLBACK", "END", "SAVEPOINT a", "RELEASE sqlite_utils_query"),
    *("/**/ COMMIT", "-- x\nROLLBACK TO sqlite_utils_query", ";", "", "  -- nothing"),
    *("SELECT load_extension('x')", "SELECT fts3_tokenizer('simple')", "SELECT 1; DELETE FROM events"),
    *("EXPLAIN", "SELECT * FROM dbstat"),
]


@pytest.mark.parametrize("query", WRITES)
def test_what_does_more_than_read_is_refused_and_does_nothing(
    query: str, ledger: Ledger, cache: ImageCache, tmp_path: Path
) -> None:
    def everything() -> object:
        with closing(sqlite3.connect(ledger.layout.database)) as connection:
            settings = [
                connection.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "journal_mode")
            ]
            return [*connection.iterdump()], settings

    before = everything()
    with cache, pytest.raises(InvalidQueryError):
        cache.sql(query.replace("{path}", str(tmp_path / "into")))
    assert everything() == before
    assert not (tmp_path / "into").exists()


MISTAKES = {
    "selct 1": 'the query cannot be answered: near "selct": syntax error',
    "SELECT * FROM absent": "no such table: absent; `msb-cache sql` lists the views and their columns",
    "SELECT absent FROM v_images": "no such column: absent; `msb-cache sql` lists",
    "SELECT json_extract('x', '$')": "malformed JSON",
    "SELECT abs(-9223372036854775807 - 1)": "integer overflow",
    "SELECT zeroblob(20000000)": "string or blob too big",
    "SELECT 'a' LIKE printf('%.2000c', '%')": "LIKE or GLOB pattern too complex",
    "SELECT :a": "uses 1, and there are 0 supplied",
    "SELECT ?": "uses 1, and there are 0 supplied",
    "DELETE FROM events": "a query here only reads",
    "SELECT 1 \0": "no text that SQLite can have",
    "SELECT '\ud800'": "no text that SQLite can have",
}


@pytest.mark.parametrize("query", MISTAKES)
def test_a_mistake_is_said_in_one_sentence(query: str, cache: ImageCache) -> None:
    with cache, pytest.raises(InvalidQueryError) as caught:
        cache.sql(query)
    assert MISTAKES[query] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [[2**70], ["\ud800"], [object()], {"b": 1}])
def test_a_value_that_sqlite_cannot_have_is_refused(values: object, cache: ImageCache) -> None:
    with cache, pytest.raises(InvalidQueryError):
        cache.sql("SELECT :a" if isinstance(values, dict) else "SELECT ?", values)  # type: ignore[arg-type]


def test_a_query_as_long_as_a_book_is_refused(cache: ImageCache) -> None:
    with cache, pytest.raises(InvalidQueryError, match="too"):
        cache.sql("SELECT 1" + " " * 2_000_000)


@given(st.text(max_size=40))
def test_no_text_does_anything_else(text: str) -> None:
    with closing(sql._empty()) as connection:
        try:
            rows = [*sql._answer(connection, text, (), 5.0)]
        except InvalidQueryError:
            return
        assert all(isinstance(row, dict) for row in rows)


@pytest.mark.parametrize("timeout", [0.05, timedelta(seconds=0.05)])
def test_time_is_bounded(timeout: float | timedelta, cache: ImageCache) -> None:
    with cache, pytest.raises(QueryLimitError, match=r"stopped after 0\.05 s"):
        cache.sql(ENDLESS, timeout=timeout)


LONG, MANY = "printf('%.*c', 2000000, 'a')", "printf('%.*c', 1000000, 'a') || 'b'"


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT instr({LONG}, {MANY})",
        f"SELECT REPLACE({LONG}, {MANY}, '')",
        *(f'SELECT "{name}"({LONG}, {MANY})' for name in ("trim", "ltrim", "rtrim")),
        f"WITH v_events AS (SELECT instr({LONG}, {MANY})) SELECT * FROM v_events",
    ],
)
def test_one_step_takes_no_more_than_a_moment(query: str, cache: ImageCache) -> None:
    """SQLite looks at no bound within one: these would take hours."""
    with cache, pytest.raises(QueryLimitError, match=r"got values of 2,000,000 and 1,000,001 bytes"):
        cache.sql(query)


def test_a_json_patch_takes_no_more_than_a_moment(cache: ImageCache) -> None:
    document = "'{' || substr(replace(printf('%.*c', 20000, 'a'), 'a', ',\"a\":1'), 2) || '}'"
    with cache, pytest.raises(QueryLimitError, match=r"json_patch\(\) got values"):
        cache.sql(f"SELECT json_patch({document}, {document})")


def test_functions_that_are_bounded_are_sqlites_own(cache: ImageCache) -> None:
    queries = [
        "SELECT instr('abc', 'c'), instr('abc', NULL), instr(1.5, '.'), instr(x'0102', x'02'), trim('  a ')",
        "SELECT replace('aab', 'a', 'xx'), replace(NULL, 'a', 'b'), replace('a', 'a', x'4142')",
        "SELECT trim('xxaxx', 'x'), ltrim(55, 5), rtrim('aé', 'é'), json_patch('{\"a\":1}', '{\"a\":null}')",
    ]
    with cache, closing(sqlite3.connect(":memory:")) as plain:
        for query in queries:
            (row,) = cache.sql(query)
            assert tuple(row.values()) == plain.execute(query).fetchone()
        with pytest.raises(InvalidQueryError, match="malformed JSON"):
            cache.sql("SELECT json_patch('{', '{}')")
        with pytest.raises(InvalidQueryError, match="too big"):
            cache.sql("SELECT replace(printf('%.*c', 8000000, 'a'), 'a', 'aaa')")


def test_a_row_has_so_many_columns_at_most(cache: ImageCache) -> None:
    """SQLite's module makes a row in one step, whatever memory that takes."""
    with cache, pytest.raises(InvalidQueryError, match="too many columns"):
        cache.sql(f"SELECT {', '.join(['x'] * 129)} FROM (SELECT zeroblob(8000000) AS x)")


def test_only_the_databases_own_time_counts(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(sql.time, "monotonic", lambda: now[0])
    with cache:
        for _ in zip(cache.iter_sql(f"{COUNTING} SELECT x FROM c", timeout=5), range(1000), strict=False):
            now[0] += 1.0


@pytest.mark.parametrize("query", [LARGE, f"{COUNTING} SELECT x, hex(zeroblob(100000)) FROM c"])
def test_memory_is_bounded(query: str, cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "MOST_MEMORY", 50 << 20)
    monkeypatch.setattr(sql, "_memory", _resident)
    with cache, pytest.raises(QueryLimitError, match=r"more than 50\.0 MiB of memory"):
        cache.sql(query)


def _resident() -> int:
    # The most that a process of tests ever had is no measure.
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_sort_takes_no_room_on_a_disk(cache: ImageCache) -> None:
    rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 20000) "
    with cache:
        found = cache.iter_sql(f"{rows} SELECT x, randomblob(1000) AS b FROM c ORDER BY b")
        next(found)
        links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        assert not [link for link in links if "etilqs" in link]  # so SQLite names its temporary files
        found.close()  # type: ignore[attr-defined]


def test_ctrl_c_ends_it(cache: ImageCache) -> None:
    Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    with cache, pytest.raises(KeyboardInterrupt):
        cache.sql(ENDLESS, timeout=60)
    with cache, waiting.ended_by(lambda: True), pytest.raises(KeyboardInterrupt):
        cache.sql(ENDLESS, timeout=60)


def test_an_answer_is_of_one_position(cache: ImageCache, ledger: Ledger) -> None:
    with cache:
        found = cache.iter_sql("SELECT (SELECT count(*) FROM events) AS n FROM v_events")
        first = next(found)
        with ledger.write("more") as transaction:
            transaction.append([NewEvent(pulled(digest(1)), PYTHON)])
        assert {row["n"] for row in [first, *found]} == {4}
        assert cache.sql("SELECT count(*) AS n FROM v_events") == [{"n": 5}]


def test_a_cache_that_is_asked_can_be_used_meanwhile_and_after(cache: ImageCache) -> None:
    with cache:
        found = cache.iter_sql("SELECT seq FROM v_events")
        next(found)
        cache.hold("python:3.12", "sandbox:x")
        assert len([*found]) == 3
        with pytest.raises(InvalidQueryError):
            cache.sql("nonsense")
        assert len(cache.list()) == 1


def test_an_answer_that_is_not_read_to_its_end_leaves_nothing_open(
    cache: ImageCache, open_connections: Callable[[], list[sqlite3.Connection]]
) -> None:
    cache.list()
    before = open_connections()
    found = cache.iter_sql("SELECT seq FROM v_events")
    next(found)
    del found
    gc.collect()
    assert open_connections() == before
    cache.close()


def test_a_home_without_a_log_is_empty(tmp_path: Path) -> None:
    with ImageCache(tmp_path / "none") as cache:
        assert cache.sql("SELECT * FROM v_images") == []
        assert cache.sql("SELECT count(*) AS n FROM events") == [{"n": 0}]
        with pytest.raises(InvalidQueryError):
            cache.sql("DELETE FROM events")
    assert not (tmp_path / "none").exists()


def test_a_view_that_is_gone_is_the_databases_fault(cache: ImageCache, ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        connection.execute("DROP VIEW v_images")
    with cache:
        with pytest.raises(CorruptLogError, match="`msb-cache rebuild` mends it"):
            cache.sql("SELECT * FROM v_images")
        cache.rebuild()
        assert len(cache.sql("SELECT * FROM v_images")) == 1


def test_text_that_is_no_utf_8_is_shown_as_what_it_is(cache: ImageCache) -> None:
    with cache:
        assert cache.sql("SELECT CAST(x'61ff' AS TEXT) AS t") == [{"t": "a\\xff"}]


def test_a_home_that_an_older_release_left_has_the_views(ledger: Ledger) -> None:
    """Its next command makes them, with the tables."""
    ledger.close()
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
            connection.execute(f"DROP VIEW {name}")
        connection.execute("UPDATE projection_state SET fold_version = 16")
    with ImageCache(ledger.layout.home) as cache:
        assert len(cache.sql("SELECT * FROM v_images")) == 1
        assert cache.verify().schema == []
