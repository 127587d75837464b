"""The tree over a log has the roots and proofs of a naive one, with what is kept of it and without."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore import merkle, subtrees
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import EventStore, NewEvent
from msb_cache.eventstore.subtrees import LogTree, Recomputed, SubtreeProblem
from msb_cache.migrations.schema import migrations
from tests.logs import ACTOR, some_events

MANY = 70_000
"""More than a subtree of the second kept level has."""


def hash_of(seq: int) -> bytes:
    return sha256(b"%d" % seq).digest()


@pytest.fixture(scope="module")
def log() -> Iterator[sqlite3.Connection]:
    with closing(Database(memory=True)) as database:
        migrations.apply(database)
        connection = database.conn
        connection.isolation_level = None
        connection.execute("DROP TRIGGER events_in_order")
        connection.executemany(
            "INSERT INTO events VALUES (?, ?, 't', 1, 's', 'o', 1, 1, '{}', '{}', ?)",
            ((seq, str(seq), hash_of(seq)) for seq in range(1, MANY + 1)),
        )
        yield connection


def frontier_of(size: int) -> merkle.Frontier:
    found = merkle.Frontier()
    found.extend(merkle.leaf_hash(hash_of(seq)) for seq in range(1, size + 1))
    return found


SIZES = [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 65_792, MANY]


@pytest.mark.parametrize("kept", [0, 300, 65_536, MANY])
def test_roots_and_paths_whatever_is_kept(log: sqlite3.Connection, kept: int) -> None:
    subtrees.forget(log)
    subtrees.keep(log, kept)
    frontier, size = merkle.Frontier(), 0
    for wanted in SIZES if kept else SIZES[:8]:
        frontier.extend(merkle.leaf_hash(hash_of(seq)) for seq in range(size + 1, wanted + 1))
        size = wanted
        tree = LogTree(log, size)
        root = tree.root()
        assert root == frontier.root()
        for seq in {1, size // 2, size - 1, size} & {*range(1, size + 1)}:
            path = tree.inclusion_path(seq)
            leaf = merkle.leaf_hash(hash_of(seq))
            assert merkle.root_of_inclusion(leaf, seq - 1, size, path) == root
            old = LogTree(log, seq).root()
            assert old == tree.root(seq)
            assert merkle.is_consistent(seq, size, old, root, tree.consistency_path(seq))


def test_a_root_takes_few_reads_and_little_of_the_log(log: sqlite3.Connection) -> None:
    subtrees.forget(log)
    subtrees.keep(log, MANY)
    assert log.execute("SELECT level, count(*) FROM subtree GROUP BY level").fetchall() == [
        (8, MANY >> 8),
        (16, MANY >> 16),
    ]
    seen: list[str] = []
    log.set_trace_callback(seen.append)
    LogTree(log, MANY).root()
    log.set_trace_callback(None)
    assert len(seen) <= 2 * MANY.bit_length()


def test_a_damaged_log_is_said(log: sqlite3.Connection) -> None:
    subtrees.forget(log)
    with pytest.raises(CorruptLogError, match="lacks an event"):
        LogTree(log, MANY + 1).root()


def test_kept_hashes_that_are_wrong_are_found(log: sqlite3.Connection) -> None:
    subtrees.forget(log)
    subtrees.keep(log, MANY)
    sizes = [*SIZES, 300]
    again = Recomputed(sizes)
    for seq in range(1, MANY + 1):
        again.add(hash_of(seq))
    assert list(again.problems(log)) == []
    assert again.size == MANY
    assert {size: again.root(size) for size in sizes} == {size: frontier_of(size).root() for size in sizes}
    assert again.root(MANY + 1) is None
    assert again.root(1000) is None  # nobody asked for it in time
    log.execute("UPDATE subtree SET hash = zeroblob(32) WHERE level = 8 AND position = 3")
    log.execute("INSERT INTO subtree VALUES (8, 1000, zeroblob(32)), (24, 0, zeroblob(32))")
    assert list(again.problems(log)) == [
        SubtreeProblem(8, 3),
        SubtreeProblem(8, 1000),
        SubtreeProblem(24, 0),
    ]
    assert list(again.problems(log, whole=False)) == [SubtreeProblem(8, 3)]
    again.keep(log)
    assert list(again.problems(log)) == []
    made = log.execute("SELECT * FROM subtree ORDER BY level, position").fetchall()
    subtrees.forget(log)
    subtrees.keep(log, MANY)
    assert log.execute("SELECT * FROM subtree ORDER BY level, position").fetchall() == made


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1500), st.lists(st.integers(0, 1600), max_size=20))
def test_roots_at_any_sizes_in_one_pass(count: int, sizes: list[int]) -> None:
    again = Recomputed(sizes)
    rows = (((seq,), hash_of(seq)) for seq in range(1, count + 1))
    assert sum(1 for _ in again.following(rows)) == again.size == count
    for size in sizes:
        assert again.root(size) == (frontier_of(size).root() if size <= count else None)


def test_a_row_counts_only_when_the_next_is_asked_for() -> None:
    again = Recomputed()
    rows = iter(again.following(((seq,), hash_of(seq)) for seq in range(1, 600)))
    for _ in range(300):
        next(rows)
    assert again.size == 299
    assert again.root(299) == frontier_of(299).root()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_an_append_keeps_what_it_completes(counts: list[int]) -> None:
    with closing(Database(memory=True)) as database:
        migrations.apply(database)
        connection = database.conn
        connection.isolation_level = None
        store = EventStore(connection)
        event = next(each for each in some_events() if each.event.type == "image.used")
        for count in counts:
            connection.execute("BEGIN")
            store.append([NewEvent(event.event, event.subject)] * count, operation=uuid7(), actor=ACTOR)
            connection.execute("COMMIT")
        again = Recomputed()
        for (stored,) in connection.execute("SELECT hash FROM events ORDER BY seq").fetchall():
            again.add(stored)
        assert list(again.problems(connection)) == []
        (size, kept) = connection.execute(
            "SELECT (SELECT max(seq) FROM events), (SELECT count(*) FROM subtree)"
        ).fetchone()
        assert kept == size >> 8


def test_an_append_to_a_log_of_which_nothing_is_kept_does_not_read_it_all(tmp_path: Path) -> None:
    with closing(Database(memory=True)) as database:
        migrations.apply(database)
        connection = database.conn
        subtrees.keep_up(connection, 1000, 1100)  # there are no such events: it does not look for them
        assert connection.execute("SELECT count(*) FROM subtree").fetchone() == (0,)
