"""What each thread has open of a database: closed with the thread, from any thread, and before a fork."""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import LogError
from msb_cache.home.connect import open_to_read
from msb_cache.home.ledger import Ledger
from msb_cache.home.opened import Opened, check_not_inherited
from msb_cache.home.readonly import Content
from msb_cache.waiting import Note
from tests.home.test_ledger import length
from tests.logs import ACTOR, new_ledger, some_events

OpenConnections = Callable[[], list[sqlite3.Connection]]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    new_ledger(tmp_path, some_events()).close()
    ledger = Ledger(Layout(tmp_path), actor=ACTOR)
    yield ledger
    ledger.close()


def in_thread(work: Callable[[], object]) -> None:
    """Run something in a thread that ends with it; raises what that raises."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def read_at_the_same_time(ledger: Ledger, threads: int, meanwhile: Callable[[], object]) -> list[int]:
    """Let so many threads read; when all are within their reads, do something; return what each read."""
    met, go_on = threading.Barrier(threads + 1), threading.Event()

    def read(_: int) -> int:
        with ledger.read() as connection:
            assert connection is not None
            met.wait(10)
            go_on.wait(10)
            return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])

    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(read, range(threads))
        met.wait(10)
        meanwhile()
        go_on.set()
        return [*found]


def test_each_thread_has_a_connection_of_its_own(ledger: Ledger, open_connections: OpenConnections) -> None:
    counted: list[int] = []
    length(ledger)
    found = read_at_the_same_time(ledger, 4, lambda: counted.append(len(open_connections())))
    assert (found, counted) == ([len(some_events()) + 1] * 4, [5])
    gc.collect()
    assert len(open_connections()) == 1  # theirs went with their threads


def test_threads_that_come_and_go_leave_no_file_open(ledger: Ledger) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    length(ledger)
    before = descriptors()
    for _ in range(50):
        thread = threading.Thread(target=length, args=(ledger,))
        thread.start()
        thread.join()
    # While one connection has locks on the file, SQLite keeps a closed one's descriptor for the next one.
    assert descriptors() <= before + 1
    assert len(ledger._opened) == 1


def test_any_thread_closes_what_is_idle(ledger: Ledger, open_connections: OpenConnections) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(length, ledger).result()
        length(ledger)
        assert (len(open_connections()), ledger.is_open) == (2, True)
        ledger.close()
        assert (open_connections(), ledger.is_open) == ([], False)
        assert pool.submit(length, ledger).result() == length(ledger)  # it is opened anew
        in_thread(ledger.close)
        assert open_connections() == []


def test_what_is_in_use_is_closed_by_its_own_thread(
    ledger: Ledger, open_connections: OpenConnections
) -> None:
    left: list[int] = []

    def close() -> None:
        ledger.close()
        left.append(len(open_connections()))

    assert read_at_the_same_time(ledger, 3, close) == [len(some_events()) + 1] * 3
    assert (left, open_connections(), ledger.is_open) == ([3], [], False)


def test_a_close_within_a_read_waits_for_its_end(ledger: Ledger, open_connections: OpenConnections) -> None:
    with ledger.read() as connection:
        assert connection is not None
        ledger.close()
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (len(some_events()) + 1,)
        with ledger.statement() as again:
            assert again is connection
    assert open_connections() == []


def test_closing_against_using(ledger: Ledger) -> None:
    until, errors = threading.Event(), list[BaseException]()

    def use() -> None:
        try:
            while not until.is_set():
                assert length(ledger) == len(some_events()) + 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(2000):
            ledger.close()
        until.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
class TestFork:
    """A child gets no connection; where one was in use, it says what is the matter."""

    def child(self, work: Callable[[], object]) -> str:
        """Return what work returns, or raises, in a forked child."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                said = str(work())
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writing, said.encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        return said

    def test_between_two_calls(self, ledger: Ledger) -> None:
        before = length(ledger)
        assert self.child(lambda: (length(ledger), length(Ledger(ledger.layout)))) == str((before, before))

        def write() -> int:
            with ledger.write("x") as transaction:
                transaction.append(some_events()[1:2])
            return length(ledger)

        written = self.child(write)
        assert written == str(length(ledger))
        assert int(written) > before

    def test_with_idle_threads(self, ledger: Ledger) -> None:
        with ThreadPoolExecutor(2) as pool:
            before = pool.submit(length, ledger).result()
            assert self.child(lambda: length(ledger)) == str(before)
            assert pool.submit(length, ledger).result() == before

    @pytest.mark.parametrize("place", ["here", "in another thread"])
    def test_within_a_call(self, ledger: Ledger, place: str) -> None:
        said: list[str] = []

        def fork() -> None:
            said.append(self.child(lambda: length(Ledger(ledger.layout))))

        if place == "here":
            with ledger.read():
                fork()
        else:
            read_at_the_same_time(ledger, 1, fork)
        (sentence,) = said
        assert sentence.startswith(
            f"LogError: {ledger.layout.database} was in use when this process was forked"
        )
        assert length(ledger) == len(some_events()) + 1

    def test_while_another_thread_opens_it(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        """SQLite has the file open then, and may hold locks of its own, for which the child would wait."""
        opening, forked = threading.Event(), threading.Event()

        def slowly(layout: Layout, note: Note) -> tuple[sqlite3.Connection, Content | None] | None:
            found = open_to_read(layout, note)
            opening.set()
            forked.wait(10)
            return found

        monkeypatch.setattr("msb_cache.home.ledger.open_to_read", slowly)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(length, ledger)
            opening.wait(10)
            said = self.child(lambda: length(Ledger(ledger.layout)))
            forked.set()
            assert reading.result() == len(some_events()) + 1
        assert said.startswith(f"LogError: {ledger.layout.database} was in use when")


def test_what_is_in_use_stays_open_in_a_child_when_its_file_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next ones would not be left either."""
    kept: dict[tuple[int, int], sqlite3.Connection | None] = {}
    monkeypatch.setattr("msb_cache.home.opened._inherited", kept)
    opened = Opened(str(tmp_path / "none"))
    with closing(sqlite3.connect(":memory:")) as connection:
        opened.connection = connection
        opened.leave()
        assert [*kept.values()] == [connection]
    assert not opened.is_open


def test_a_database_that_is_gone_is_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "db"
    path.touch()
    opened = Opened(str(path))
    monkeypatch.setattr("msb_cache.home.opened._inherited", {})
    check_not_inherited(str(path))
    with closing(sqlite3.connect(path)) as connection:
        opened.connection = connection
        opened.leave()
        with pytest.raises(LogError, match="was in use"):
            check_not_inherited(str(path))
        path.unlink()
        check_not_inherited(str(path))
