"""A fleet's logs are folded to what their hosts' own indexes have, row for row."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from msb_cache.errors import FleetError
from msb_cache.eventstore.chain import link
from msb_cache.eventstore.events import ManifestAdded
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.fleet import fold as fold_module
from msb_cache.fleet import folded
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.fold import Folded, fold, forget, rebuild, without_config
from msb_cache.fleet.place import Place
from msb_cache.fleet.writing import writable
from msb_cache.projections import FOLD_VERSION
from msb_cache.projections.rows import ROW_TYPES
from tests.fleet.randomlogs import Row, ask, folded_rows, new_file, random_log, rows_of_fold, run, ship, state
from tests.fleet.sent import append, log_of, send, stage
from tests.reporthome import make

LOGS = [random_log(seed, count) for seed, count in enumerate((120, 60, 250))]


@pytest.fixture(scope="module")
def busy_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of 41 days."""
    home = tmp_path_factory.mktemp("homes") / "busy"
    make(home, scale=20)
    return home


def own_rows(home: Path) -> dict[str, set[Row]]:
    """Return the rows of a home's own index, without images' configurations."""
    found = {}
    with closing(sqlite3.connect(f"file:{home}/db/msb-cache.db?mode=ro", uri=True)) as connection:
        for row_type in ROW_TYPES:
            names = ["NULL" if name == "config" else name for name in row_type.__struct_fields__]
            found[row_type.table] = {*connection.execute(f"SELECT {', '.join(names)} FROM {row_type.table}")}
    return found


def forged(rows: Sequence[Row], at: int, **columns: object) -> list[Row]:
    """Return a log with another event at a position, and the chain made anew from there on."""
    names = ("log_id", "seq", "id", "type", "version", "subject", "operation", "occurred_at")
    names += ("recorded_at", "actor", "data", "hash")
    found, previous = [*rows[: at - 1]], rows[at - 2][-1]
    for row in rows[at - 1 :]:
        if row[1] == at:
            row = tuple(columns.get(name, value) for name, value in zip(names, row, strict=True))
        previous = link(previous, row[1:-1])
        found.append((*row[:-1], previous))
    return found


def test_it_is_folded_as_the_host_does_by_a_role_of_its_own(server: Postgres, busy_home: Path) -> None:
    host = enrol(server.dsn, "fold-host", password="its own")
    folder = enrol(server.dsn, "fold-folder", kind="folder", password="the folder's")
    rows = log_of(busy_home)
    send(f"{host.dsn} password='its own'", rows[:100])
    worker = Postgres(f"{folder.dsn} password='the folder''s'".replace("''", r"\'"))
    assert fold(worker) == Folded(100, 1, ())
    send(f"{host.dsn} password='its own'", rows[99:])
    assert fold(worker) == Folded(len(rows) - 100, 1, ())
    assert fold(worker) == Folded(0, 0, ())
    assert folded_rows(server, rows[0][0]) == own_rows(busy_home)
    assert rebuild(worker) == 1
    assert fold(worker) == Folded(len(rows), 1, ())
    assert folded_rows(server, rows[0][0]) == own_rows(busy_home)


def test_readers_see_no_configuration(server: Postgres, busy_home: Path) -> None:
    rows = log_of(busy_home)
    ship(server, rows)
    fold(server)
    told = ask(server, "SELECT seq, type, version, data FROM msb_cache.event ORDER BY seq")
    assert [seq for seq, *_ in told] == [row[1] for row in rows]
    for row, (_, type_, version, data) in zip(rows, told, strict=True):
        if type_ == ManifestAdded.type:
            was = CATALOGUE.decode(type_, version, row[10])
            assert isinstance(was, ManifestAdded)
            assert was.config is not None
            assert CATALOGUE.decode(type_, version, data) == replace(was, config=None)
        else:
            assert data == row[10]
    assert ask(server, "SELECT count(*) FROM msb_cache.manifest WHERE config IS NOT NULL") == [(0,)]


def test_old_versions_of_an_event_are_told_in_their_own_form() -> None:
    fields = {"media_type": "", "config_digest": "", "layers": [], "config": {"env": ["TOKEN=1"]}, "row": "a"}
    text = msgspec.json.encode(fields).decode()
    data = CATALOGUE.decode("manifest.added", 1, text)
    assert isinstance(data, ManifestAdded)
    told = without_config((1, "", "manifest.added", 1, "", "", 0, 0, "", text), data)
    assert "TOKEN" not in told
    assert CATALOGUE.decode("manifest.added", 1, told) == replace(data, config=None)


@given(data=st.data())
@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_interleaving_and_batch_size_gives_each_log_its_own_rows(
    place: Place, data: st.DataObject
) -> None:
    with writable(place) as into, into.transaction() as writing:
        for table in ("head", "fold_state", "told", *(row_type.table for row_type in ROW_TYPES)):
            writing.run(f"DELETE FROM msb_cache.{table}")
        if isinstance(place, Postgres):
            writing.run("ALTER TABLE msb_cache.events DISABLE TRIGGER ALL")
        writing.run("DELETE FROM msb_cache.events")
    shipped = [0] * len(LOGS)
    total = 0
    for _ in range(data.draw(st.integers(1, 6))):
        for number, rows in enumerate(LOGS):
            more = data.draw(st.integers(0, 120))
            some = rows[shipped[number] : shipped[number] + more]
            if some:
                ship(place, some)
                shipped[number] += len(some)
        total += fold(place, batch=data.draw(st.sampled_from([1, 7, 50, 220, 1000]))).events
        assert total == sum(shipped)
    for number, rows in enumerate(LOGS):
        if shipped[number]:
            before = rows[: shipped[number]]
            assert folded_rows(place, rows[0][0]) == rows_of_fold(before)
            assert state(place, rows[0][0]) == (len(before), before[-1][-1], f"host-{number}", None)


def test_two_workers_fold_each_event_once(server: Postgres) -> None:
    logs = [random_log(seed, 90) for seed in range(10, 22)]
    for rows in logs:
        ship(server, rows)
    found: list[Folded] = []
    workers = [threading.Thread(target=lambda: found.append(fold(server, batch=20))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(each.events for each in found) == sum(map(len, logs))
    for rows in logs:
        assert folded_rows(server, rows[0][0]) == rows_of_fold(rows)


_WORKER = """
import os, sys
sys.path.insert(0, os.getcwd())
from msb_cache.fleet import fold, connect
from msb_cache.fleet.folded import FoldedTables
store, left = FoldedTables.store, [3]
def dying(self):
    store(self)
    left[0] -= 1
    if not left[0]:
        print("there", flush=True)
        import time
        time.sleep(60)
FoldedTables.store = dying
fold.fold(connect.Postgres(os.environ["DSN"]), batch=40)
"""


def test_what_hosts_have_left_is_swept_up(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the folder's role, now and then, if it takes much room; what is there in the middle stays."""
    made = {kind: enrol(server.dsn, f"sweeps-{kind}", kind=kind, password="x") for kind in ("host", "folder")}
    dsn = {kind: f"{each.dsn} password=x" for kind, each in made.items()}
    rows = LOGS[0]

    def left() -> int:
        return int(ask(server, "SELECT count(*) FROM msb_cache.staging")[0][0])

    with psycopg.connect(dsn["host"], autocommit=True) as host:
        stage(host, rows)
        fold(Postgres(dsn["folder"]))
        assert left() == len(rows)
        monkeypatch.setattr(fold_module, "SWEPT", 0)
        with host.transaction():
            stage(host, rows)
            fold(Postgres(dsn["folder"]))
            assert append(host, rows[0][0], len(rows)).size == len(rows)
        stage(host, rows)
        fold(Postgres(dsn["folder"]))
        assert left() == 0
    assert state(server, rows[0][0])[0] == len(rows)


def test_a_killed_worker_leaves_nothing_half_done(server: Postgres) -> None:
    rows = LOGS[2]
    ship(server, rows)
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER], env={**os.environ, "DSN": server.dsn}, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"there\n"  # rows are written, and not committed
        assert fold(server) == Folded(0, 0, ())  # it has the log
        worker.send_signal(signal.SIGKILL)
    assert state(server, rows[0][0])[0] == 80
    assert folded_rows(server, rows[0][0]) == rows_of_fold(rows[:80])
    deadline = time.monotonic() + 20
    while not (found := fold(server)).events:
        assert time.monotonic() < deadline
        time.sleep(0.05)  # the server takes a moment to see that it is gone
    assert found == Folded(len(rows) - 80, 1, ())
    assert folded_rows(server, rows[0][0]) == rows_of_fold(rows)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"type": "image.teleported"}, "an event of the unknown type 'image.teleported'; a newer"),
        ({"version": 99}, "in version 99, but this msb-cache knows versions up to"),
        ({"data": "[]"}, "the log holds a damaged"),
        ({"subject": "../../etc/passwd"}, "event 30 is none that msb-cache writes: its subject"),
        ({"type": "log.created"}, "event 30 is 'log.created', and a log begins once"),
        ({"recorded_at": 1}, "event 30 was recorded before event 29"),
        ({"seq": 31}, "event 30 is missing"),
    ],
)
def test_a_log_that_cannot_be_folded_stops_alone(
    place: Place, columns: dict[str, object], problem: str
) -> None:
    bad, good = forged(LOGS[0], 30, **columns), LOGS[1]
    if columns.get("seq"):
        bad = [*bad[:29], *bad[30:]]
    ship(place, bad)
    ship(place, good)
    found = fold(place)
    assert (found.events, found.logs) == (29 + len(good), 2)
    (stopped,) = found.stopped
    assert (stopped.host, stopped.log_id, stopped.folded_seq) == ("host-0", bad[0][0], 29)
    assert problem in stopped.problem
    assert folded_rows(place, bad[0][0]) == rows_of_fold(bad[:29])
    assert folded_rows(place, good[0][0]) == rows_of_fold(good)
    assert fold(place).stopped == (stopped,)  # by another run it is tried again


def test_a_changed_event_is_found(place: Place) -> None:
    rows = [*LOGS[0]]
    rows[40] = (*rows[40][:8], rows[40][8], rows[40][9].replace("alice", "mallory"), *rows[40][10:])
    ship(place, rows)
    (stopped,) = fold(place).stopped
    assert stopped.problem == "the hash of event 41 does not match its contents"
    assert stopped.folded_seq == 40


@pytest.mark.parametrize(
    ("at", "observed", "host"), [(9, False, "moved"), (9, True, "host-0"), (8, False, "host-0")]
)
def test_who_only_looks_on_does_not_name_the_host(place: Place, at: int, observed: bool, host: str) -> None:
    log = random_log(0, 9)
    actor = {**msgspec.json.decode(log[at - 1][9]), "host": "moved", "observed": observed}
    ship(place, forged(log, at, actor=msgspec.json.encode(actor).decode()))
    fold(place)
    assert state(place, log[0][0])[2] == host


def test_what_postgresql_cannot_keep_stops_its_log_alone(server: Postgres) -> None:
    position = next(row[1] for row in LOGS[2] if row[3] == "image.held" and row[1] > 10)
    bad = forged(LOGS[2], position, data='{"holder":"sandbox:\\u0000"}')
    ship(server, bad)
    ship(server, LOGS[1])
    found = fold(server, batch=100)
    assert found.events == position - 1 + len(LOGS[1])
    (stopped,) = found.stopped
    assert stopped.folded_seq == position - 1
    assert stopped.problem.startswith(f"event {position}: PostgreSQL cannot keep it: ")
    assert folded_rows(server, bad[0][0]) == rows_of_fold(bad[: position - 1])


def test_a_stopped_log_goes_on_with_a_program_that_knows_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = LOGS[0]
    ship(place, rows)
    types = dict(CATALOGUE._types)
    lacking = rows[49][3]
    monkeypatch.setattr(CATALOGUE, "_types", {name: of for name, of in types.items() if name != lacking})
    monkeypatch.setattr(CATALOGUE, "_decoders", {})
    (stopped,) = fold(place).stopped
    assert stopped.problem.endswith("a newer msb-cache can read it")
    monkeypatch.undo()
    assert fold(place) == Folded(len(rows) - stopped.folded_seq, 1, ())
    assert folded_rows(place, rows[0][0]) == rows_of_fold(rows)


def anchor(place: Place, rows: Sequence[Row], seq: int, version: int = FOLD_VERSION) -> None:
    """Put the beginning of a log, which is folded, into an archive."""
    log_id = rows[0][0]
    tables = {name: [*found] for name, found in folded_rows(place, log_id).items()}
    (tree,) = ask(place, "SELECT tree FROM msb_cache.fold_state WHERE log_id = ?", log_id)
    put_anchor(place, rows, seq, folded.Prefix(tables, "from-the-archive", bytes(tree[0])), version)


def put_anchor(
    place: Place, rows: Sequence[Row], seq: int, prefix: folded.Prefix, version: int = FOLD_VERSION
) -> None:
    log_id, data = rows[0][0], folded.encoded(prefix)
    with writable(place) as into, into.transaction() as writing:
        columns = ("log_id", "seq", "hash", "recorded_at", "fold_version", "rows", "archived_at")
        last = rows[seq - 1]
        writing.insert("anchor", columns, [(log_id, seq, last[-1], last[8], version, data, 1)])
        writing.run("DELETE FROM msb_cache.events WHERE log_id = ? AND seq <= ?", (log_id, seq))


def test_a_log_whose_beginning_is_in_an_archive_is_rebuilt_from_there(place: Place) -> None:
    rows = LOGS[2]
    ship(place, rows[:150])
    fold(place)
    anchor(place, rows, 150)
    assert rebuild(place, [rows[0][0]]) == 1
    assert all(not found for found in folded_rows(place, rows[0][0]).values())
    assert fold(place) == Folded(0, 0, ())
    assert folded_rows(place, rows[0][0]) == rows_of_fold(rows[:150])
    assert state(place, rows[0][0])[:3] == (150, rows[149][-1], "from-the-archive")
    ship(place, rows[150:])
    rebuild(place)
    assert fold(place, batch=30) == Folded(len(rows) - 150, 1, ())
    assert folded_rows(place, rows[0][0]) == rows_of_fold(rows)


@pytest.mark.parametrize("position", [151, 170])
def test_a_log_that_stops_behind_its_archive(place: Place, position: int) -> None:
    rows = forged(LOGS[2], position, type="image.teleported")
    ship(place, rows)
    fold(place)
    with writable(place) as into, into.transaction() as writing:
        forget(writing, rows[0][0])
    tables = {name: [*found] for name, found in rows_of_fold(rows[:150]).items()}
    put_anchor(place, rows, 150, folded.Prefix(tables))
    (stopped,) = fold(place).stopped
    assert stopped.folded_seq == position - 1
    assert "image.teleported" in stopped.problem
    assert folded_rows(place, rows[0][0]) == rows_of_fold(rows[: position - 1])


def test_what_another_release_has_archived_is_not_gone_on_from(place: Place) -> None:
    ship(place, LOGS[0])
    fold(place)
    anchor(place, LOGS[0], 50, FOLD_VERSION - 1)
    rebuild(place)
    (stopped,) = fold(place).stopped
    assert stopped.folded_seq == 0
    assert stopped.problem.startswith(
        "its events up to 50 are in an archive, and what was folded from them is"
    )


@pytest.mark.parametrize(("by", "end"), [(1, "use the newer release"), (-1, "`msb-cache fleet init` makes")])
def test_read_models_of_another_release_are_left_alone(server: Postgres, by: int, end: str) -> None:
    ship(server, LOGS[0])
    run(server, "UPDATE msb_cache.fleet SET fold_version = ?", FOLD_VERSION + by)
    with pytest.raises(FleetError, match=end):
        fold(server)
    with pytest.raises(FleetError, match=end):
        fold(server, follow=True)
    with pytest.raises(FleetError, match=end):
        rebuild(server)


def test_a_fleet_in_a_file_is_rebuilt_by_a_hosts_name(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    file = new_file(path)
    for rows in LOGS:
        ship(file, rows)
    fleet = Fleet(db=path)
    assert fleet.fold() == Folded(sum(map(len, LOGS)), 3, ())
    assert fleet.fold(rebuild=["host-1"]) == Folded(len(LOGS[1]), 1, ())
    assert fleet.fold(rebuild=[]) == Folded(sum(map(len, LOGS)), 3, ())


class Follower:
    """A worker that follows, in a thread."""

    def __init__(self, place: Place) -> None:
        self.over = threading.Event()
        self.said: list[str] = []
        self.found: list[Folded] = []
        self.thread = threading.Thread(target=self._run, args=(place,))
        self.thread.start()

    def _run(self, place: Place) -> None:
        self.found.append(
            fold(place, follow=True, stopped=self.over.is_set, said=self.said.append, interval=0.05)
        )

    def stop(self) -> float:
        """Return how long that takes, in seconds."""
        begun = time.monotonic()
        self.over.set()
        self.thread.join(20)
        return time.monotonic() - begun


@pytest.fixture
def follower(place: Place) -> Iterator[Follower]:
    with writable(place) as into, into.transaction():
        pass  # a file is made
    found = Follower(place)
    yield found
    found.stop()


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_comes_is_folded_until_it_is_stopped(place: Place, follower: Follower) -> None:
    rows = LOGS[0]
    for begin in range(0, len(rows), 40):
        ship(place, rows[begin : begin + 40])
        last = min(begin + 40, len(rows))
        until(lambda: ask(place, "SELECT 1 FROM msb_cache.fold_state"))
        until(lambda last=last: state(place, rows[0][0])[0] == last)
    assert follower.stop() < 1
    assert follower.found == [Folded(len(rows), 1, ())]


def test_a_server_that_is_away_is_waited_for(postgres: Any, server: Postgres) -> None:
    ship(server, LOGS[0])
    follower = Follower(server)
    try:
        until(lambda: ask(server, "SELECT 1 FROM msb_cache.fold_state WHERE seq > 0"))
        postgres.stop()
        until(lambda: follower.said)
        postgres.start()
        ship(server, LOGS[1])
        until(lambda: len(ask(server, "SELECT 1 FROM msb_cache.fold_state WHERE seq > 0")) == 2)
    finally:
        follower.stop()
    assert len(follower.said) == 2
    assert "it is tried again" in follower.said[0]
    assert follower.said[1] == "the fleet can be asked again"
    assert follower.found[0].events == len(LOGS[0]) + len(LOGS[1])
