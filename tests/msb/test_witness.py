"""Who changed a database: named where it can have been no other process, and in no other case."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import Actor
from msb_cache.artifacts.layout import Layout
from msb_cache.msb import fanotify, witness
from msb_cache.msb.witness import Changer, Witness, why_not
from tests.msb.conftest import Start, make_database, needs_fanotify

pytestmark = needs_fanotify

ALICE, BOB = 4242, 4343
RECORDER = Actor(user="root", uid=0, host="laptop", program="msb-cache")


@pytest.fixture
def following(layout: Layout) -> Iterator[Witness]:
    """A witness that has looked once."""
    with closing(Witness(layout, RECORDER)) as found:
        assert look(found) is None
        yield found


def look(following: Witness, *, recorded: bool = True) -> Changer | None:
    following.begin()
    following.settled()
    found = following.changer()
    following.end(recorded=recorded)
    return found


def named(following: Witness) -> int | None:
    """Look, and return the user who changed the database; None: not known."""
    found = look(following)
    return None if found is None else found.actor.uid


def test_the_only_one_that_wrote(following: Witness, start: Start) -> None:
    alice = start(ALICE)
    alice("open_()")
    alice.write()
    found = look(following)
    assert found is not None
    assert (found.actor.uid, found.actor.seen_by) == (ALICE, "root@laptop (msb-cache)")
    assert found.looked_ns < time.time_ns()
    assert found.actor.program.startswith("python")
    assert found.actor.parent is not None
    alice.write()
    alice("close()")
    assert named(following) == ALICE
    bob = start(BOB)
    bob("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) == BOB
    assert named(following) is None


def test_nobody_is_named_for_reading(following: Witness, start: Start) -> None:
    start(ALICE)("open_()")
    assert named(following) is None


def test_of_two_that_wrote_none_is_named(following: Witness, start: Start) -> None:
    alice, bob = start(ALICE), start(BOB)
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    bob("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) is None
    bob("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) == BOB


def test_two_of_one_user_that_wrote_are_two(following: Witness, start: Start) -> None:
    for each in (start(ALICE), start(ALICE)):
        each("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) is None


def test_beside_one_of_another_user_that_only_has_it_open_none_is_named(
    following: Witness, start: Start
) -> None:
    alice, bob = start(ALICE), start(BOB)
    bob("open_()")
    alice("open_()")
    alice.write()
    assert named(following) is None  # it may be mapped, which the kernel does not tell
    bob("close()")
    alice.write()
    assert named(following) is None  # bob's descriptor may be another process's by now
    alice("close()")
    assert named(following) is None
    alice("open_()")
    alice.write()
    assert named(following) == ALICE


@pytest.mark.parametrize("idle", [ALICE, 0])
def test_beside_one_that_is_trusted_as_much_the_writer_is_named(
    following: Witness, start: Start, idle: int
) -> None:
    other, alice = start(idle), start(ALICE)
    other("open_()")
    other.write()
    assert named(following) == idle
    alice("open_()")
    alice.write()
    assert named(following) == ALICE
    other("run('BEGIN IMMEDIATE'); run('INSERT INTO t VALUES (1)')")
    assert named(following) is None  # what it wrote may have come to be valid just now
    other("run('COMMIT')")
    assert named(following) == (ALICE if idle == ALICE else None)  # alice is not trusted as much as root
    alice.write()
    other.write()
    assert named(following) is None


def test_a_process_that_had_it_open_before(layout: Layout, start: Start) -> None:
    early, alice = start(ALICE), start(ALICE)
    early("open_()")
    with closing(Witness(layout, RECORDER)) as following:
        assert named(following) is None
        alice("open_()")
        alice.write()
        assert named(following) is None
        early("close()")
        alice("close()")
        assert named(following) is None
        alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
        assert named(following) == ALICE


def test_a_file_that_was_left_mapped(following: Witness, start: Start) -> None:
    """The process that opened it is gone, and another can write to it without the kernel telling."""
    bob, alice = start(BOB), start(ALICE)
    bob("leave_mapped()")
    assert named(following) is None
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) is None
    bob.end()
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) is None
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) == ALICE


def test_a_file_under_another_name(layout: Layout, following: Witness, start: Start) -> None:
    bob, alice = start(BOB), start(ALICE)
    other = layout.db.parent.parent / "x"
    os.link(layout.msb_database, other)
    bob(f"open({str(other)!r}, 'r+b').close()")
    os.unlink(other)
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) is None


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_database_that_has_another_name(
    layout: Layout, start: Start, link: Callable[[Path, Path], None]
) -> None:
    other = layout.db.parent.parent / "x"
    os.rename(layout.msb_database, other)
    link(other, Path(layout.msb_database))
    with closing(Witness(layout, RECORDER)) as following:
        look(following)
        start(ALICE)("open_(); run('INSERT INTO t VALUES (1)'); close()")
        assert named(following) is None


def test_a_file_in_the_folders_place(layout: Layout, following: Witness) -> None:
    shutil.rmtree(layout.db)
    layout.db.touch()
    assert named(following) is None


def test_a_database_put_in_its_place(layout: Layout, following: Witness, start: Start) -> None:
    alice = start(ALICE)
    shutil.copy(layout.msb_database, layout.db / "other")
    assert named(following) is None  # this process's own doing is not told of
    alice(f"os.rename({str(layout.db / 'other')!r}, path)")
    assert named(following) == ALICE


def test_what_is_not_in_the_log_is_not_over(following: Witness, start: Start) -> None:
    alice, bob = start(ALICE), start(BOB)
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    look(following, recorded=False)
    bob("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) is None
    assert named(following) is None


def test_a_look_that_need_not_read_ends_the_window_too(following: Witness, start: Start) -> None:
    alice, bob = start(ALICE), start(BOB)
    alice("open(path, 'rb').close()")
    assert not following.begin()
    following.end(recorded=True)
    bob("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert following.begin()
    following.end(recorded=True)  # it should have been read
    assert named(following) == BOB


def test_lost_events(following: Witness, start: Start) -> None:
    alice = start(ALICE)
    overflow = fanotify.Event(fanotify.OVERFLOW, 0, None, None)
    alice("open_()")
    following._take(overflow)
    alice.write()
    assert named(following) is None
    alice.write()
    assert named(following) is None  # who else has it open is not known
    alice("close()")
    look(following)
    alice("open_()")
    alice.write()
    assert named(following) == ALICE


def test_a_process_that_cannot_be_seen(following: Witness, start: Start) -> None:
    alice = start(ALICE)
    following._take(fanotify.Event(fanotify.OPEN, 0, None, "msb.db"))  # of another container
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) is None


def test_more_processes_than_are_kept(
    following: Witness, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "_MOST_PROCESSES", 1)
    alice, bob = start(ALICE), start(ALICE)
    bob("open_()")
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) is None


def test_a_home_that_is_replaced(layout: Layout, following: Witness, start: Start) -> None:
    shutil.rmtree(layout.home)
    assert named(following) is None
    layout.db.mkdir(parents=True)
    make_database(layout)
    alice = start(ALICE)
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) is None
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    assert named(following) == ALICE


def test_it_wakes_when_a_process_has_closed_the_database(following: Witness, start: Start) -> None:
    alice = start(ALICE)
    alice("open_(); run('INSERT INTO t VALUES (1)'); close()")
    following.rest(3600)
    assert named(following) == ALICE


def test_our_own_locks_stay(layout: Layout, following: Witness) -> None:
    """Closing a descriptor of a file gives up the locks of the whole process on it."""
    with closing(sqlite3.connect(f"file:{layout.msb_database}?mode=ro", uri=True)) as own:
        own.execute("BEGIN")
        own.execute("SELECT count(*) FROM t").fetchone()
        locks = _locks(layout)
        assert locks
        look(following)
        assert _locks(layout) == locks


def _locks(layout: Layout) -> list[str]:
    inodes = {f":{path.stat().st_ino} " for path in layout.db.iterdir()}
    lines = [line.partition(": ")[2] for line in Path("/proc/locks").read_text().splitlines()]
    return sorted(line for line in lines if any(inode in line for inode in inodes))


def test_nothing_is_left_open(layout: Layout, start: Start) -> None:
    alice = start(ALICE)
    before = os.listdir("/proc/self/fd")
    with closing(Witness(layout, RECORDER)) as following:
        look(following)
        alice("open_()")
        alice.write()
        look(following)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(1, "Operation not permitted"), "CAP_SYS_ADMIN"),
        (PermissionError(13, "Permission denied", "/h/db/msb.db"), "/h/db/msb.db belongs to another user"),
        (OSError(22, "Invalid argument"), "Linux 5.15"),
        (OSError(38, "Function not implemented"), "Function not implemented"),
    ],
)
def test_why_it_is_not_known(error: OSError, said: str) -> None:
    assert said in why_not(error)
