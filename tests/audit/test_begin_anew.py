"""A log goes on under a new id: nothing that is known of the images changes, and what was there is kept."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache import AnewReport, ImageCache, failpoints
from msb_cache.artifacts.layout import Layout
from msb_cache.audit import backup as backup_module
from msb_cache.audit.restore import drop_triggers
from msb_cache.errors import BusyError, CorruptLogError, ImageInUseError, LogError, MicrosandboxError
from msb_cache.eventstore import chain
from msb_cache.eventstore.chain import Verified
from msb_cache.eventstore.events import LogCreated
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.operation import Operation
from msb_cache.projections.rows import ROW_TYPES
from msb_cache.projections.tables import stored_rows
from msb_cache.shapes import jsonable
from tests.home.test_heads import put_back, state
from tests.imagebuilder import docker_archive, sample
from tests.msbhome import MsbHome
from tests.proof.signing import keep_signed, new_log_key

__all__ = ["state"]

NAMES = ("one:1", "two:1")
Row = tuple[Any, ...]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home with a life behind it: images used, held, pinned, removed, and one that came back."""
    folder = tmp_path_factory.mktemp("anew")
    for name in NAMES:
        (folder / f"{name}.tar").write_bytes(docker_archive(sample(name, seed=name)))
    with ImageCache(folder / "home") as cache:
        for name in NAMES:
            cache.load(folder / f"{name}.tar")
        cache.use("one:1", holder="sandbox:dev")
        cache.hold("one:1", "sandbox:dev")
        cache.pin("one:1")
        cache.remove("two:1", reason="a try")
        cache.load(folder / "two:1.tar")
        cache.unpin("one:1")
    return folder / "home"


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "cloned")


def rows_of(database: str | Path) -> list[Row]:
    with closing(sqlite3.connect(database)) as connection:
        return [(*row, stored) for row, stored in chain.raw_rows(connection)]


def index_of(home: Path) -> dict[str, list[Row]]:
    with closing(sqlite3.connect(Layout(home).database)) as connection:
        return {row_type.__name__: [*stored_rows(connection, row_type)] for row_type in ROW_TYPES}


def told(results: Iterable[Any]) -> list[Any]:
    """Return results as JSON has them, without the hashes of events, which are of the chain."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items() if key != "hash"}
        return [plain(each) for each in value] if isinstance(value, list) else value

    return [plain(jsonable(result)) for result in results]


def answers(cache: ImageCache) -> dict[str, object]:
    """What is asked of a home."""
    names = [image.reference for image in cache.list()]
    events = cache.events(after=1)
    return {
        "list": told(cache.list()),
        "as of": [told(cache.list(as_of=position)) for position in range(2, events[-1].seq + 1)],
        "inspect": told(cache.inspect(name) for name in names),
        "history": [told(cache.history(name)) for name in names],
        "why": told(cache.why(name) for name in names),
        "holds": told(cache.holds()),
        "pins": told(cache.pins()),
        "prunes": told(cache.prunes()),
        "last used": told(replace(each, idle_ns=0) for each in cache.last_used()),
        "events": told(events),
        "began": (cache.info().began_at, cache.info().known_since),
    }


def check_sound(cache: ImageCache) -> Verified:
    """Nothing is wrong but what the home's copy is: its VMDKs name the files of another folder."""
    found = cache.verify()
    assert isinstance(found.chain, Verified)
    assert (found.schema, found.differences, found.bad_subtrees) == ([], [], [])
    assert (found.checkpoints, found.bad_checkpoints, found.rewound) == (0, [], None)
    assert [each for each in found.disk if (each.problem, each.kind) != ("moved", "vmdk")] == []
    return found.chain


def check_begun(home: Path, before: list[Row], report: AnewReport) -> None:
    """The log is the one before but for event 1 and the hashes, and says which that was."""
    after = rows_of(Layout(home).database)
    assert [row[:-1] for row in after[1 : len(before)]] == [row[:-1] for row in before[1:]]
    with ImageCache(home) as cache:
        (first,) = cache.events(types=["log.created"])
        assert first.data == LogCreated(
            log_id=report.log_id,
            format=1,
            previous_log_id=before[0][4],
            previous_size=len(before),
            previous_head=before[-1][-1].hex(),
        )
        assert (first.subject, first.recorded_at_ns) == (report.log_id, before[0][7])
        assert first.occurred_at_ns > before[-1][7]
        found = check_sound(cache)
        assert found.log_id == report.log_id != before[0][4]
        assert cache.rebuild() == []
    assert rows_of(report.set_aside / "msb-cache.db") == before


class TestTheLog:
    def test_it_goes_on_under_a_new_id(self, home: Path) -> None:
        before, index = rows_of(Layout(home).database), index_of(home)
        with ImageCache(home) as cache:
            asked = answers(cache)
            report = cache.begin_log_anew(reason="cloned")
            assert answers(cache) == asked
            assert (report.events, report.checkpoints) == (len(before), 0)
            assert (report.previous_log_id, report.previous_head) == (before[0][4], before[-1][-1])
            assert cache.events(types=["log.created"])[0].actor.reason == "cloned"
        assert index_of(home) == index
        check_begun(home, before, report)
        with ImageCache(home) as cache:
            cache.use("one:1")
            check_sound(cache)

    def test_a_second_time(self, home: Path) -> None:
        with ImageCache(home) as cache:
            first = cache.begin_log_anew()
            cache.use("one:1")
            before = rows_of(Layout(home).database)
            second = cache.begin_log_anew()
        assert (second.previous_log_id, second.events) == (first.log_id, first.events + 1)
        check_begun(home, before, second)
        assert len([*Layout(home).set_aside.iterdir()]) == 2

    def test_copies_of_a_home_go_their_own_ways(self, home: Path, tmp_path: Path) -> None:
        clones = [shutil.copytree(home, tmp_path / name) for name in "ab"]
        ids = set()
        for clone in clones:
            with ImageCache(clone) as cache:
                ids.add(cache.begin_log_anew().log_id)
        assert len(ids) == 2

    def test_an_export_of_it_is_imported(self, home: Path, tmp_path: Path) -> None:
        with ImageCache(home) as cache:
            report = cache.begin_log_anew()
            cache.export(tmp_path / "log.jsonl")
        with ImageCache(tmp_path / "other") as other, (tmp_path / "log.jsonl").open("rb") as file:
            assert other.import_log(file).log_id == report.log_id

    def test_a_home_of_msb(self, tmp_path: Path) -> None:
        home = tmp_path / "of-msb"
        (home / "cache").mkdir(parents=True)
        msb = MsbHome(home)
        msb.load("one:1", "one")
        msb.create("one:1", "dev")
        with ImageCache(home) as cache:
            asked = cache.list(), cache.holds()
            before = rows_of(Layout(home).database)
            report = cache.begin_log_anew()
            assert (cache.list(), cache.holds()) == asked
            assert cache.events(after=len(before)) == []
            msb.load("two:1", "two")
            assert len(cache.list()) == 2
            assert cache.rebuild() == []
        msb.close()
        assert [row[:-1] for row in rows_of(Layout(home).database)[1 : len(before)]] == [
            row[:-1] for row in before[1:]
        ]
        assert report.events == len(before)

    def test_signed_checkpoints_stay_with_the_log_before(self, home: Path) -> None:
        keep_signed(Layout(home).database, new_log_key())
        with ImageCache(home) as cache:
            report = cache.begin_log_anew()
            assert report.checkpoints == 1
            check_sound(cache)
        with closing(sqlite3.connect(report.set_aside / "msb-cache.db")) as connection:
            assert connection.execute("SELECT count(*) FROM signed_checkpoint").fetchone() == (1,)

    @settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["use", "hold", "release", "pin", "unpin", "remove", "anew"]),
                st.sampled_from(NAMES),
            ),
            max_size=8,
        )
    )
    def test_whatever_was_done(self, made: Path, tmp_path: Path, steps: list[tuple[str, str]]) -> None:
        home = shutil.copytree(made, tmp_path / f"of-{uuid7()}")
        with ImageCache(home) as cache:
            does: dict[str, Callable[[str], object]] = {
                "use": cache.use,
                "hold": lambda name: cache.hold(name, "sandbox:any"),
                "release": lambda name: cache.release("sandbox:any"),
                "pin": cache.pin,
                "unpin": cache.unpin,
                "remove": cache.remove,
                "anew": lambda name: cache.begin_log_anew(),
            }
            for step, name in steps:
                try:
                    does[step](name)
                except (ImageInUseError, MicrosandboxError):
                    assert step != "anew"  # what was removed is not there
            before, index, asked = rows_of(Layout(home).database), index_of(home), answers(cache)
            report = cache.begin_log_anew()
            assert answers(cache) == asked
        assert index_of(home) == index
        check_begun(home, before, report)


class TestOthers:
    def test_they_are_at_work_meanwhile(self, home: Path) -> None:
        with ImageCache(home) as beside, ImageCache(home) as cache:
            listed = beside.list()
            report = cache.begin_log_anew()
            assert beside.list() == listed
            beside.use("one:1")
            assert beside.events(after=report.events)[-1].type == "image.used"
            check_sound(beside)

    def test_what_is_written_after_it_was_set_aside_is_not_lost(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def copied_then_used(connection: sqlite3.Connection, target: Path) -> None:
            backup_module.copy(connection, target)
            with ImageCache(home) as beside:
                beside.use("one:1")

        before = rows_of(Layout(home).database)
        monkeypatch.setattr("msb_cache.audit.begin_anew.copy", copied_then_used)
        with ImageCache(home) as cache:
            with pytest.raises(BusyError, match=r"while it was set aside; try again$"):
                cache.begin_log_anew()
            assert rows_of(Layout(home).database)[:-1] == before
            assert not Layout(home).set_aside.exists()
            monkeypatch.undo()
            cache.begin_log_anew()

    def test_writers_of_another_thread(self, home: Path) -> None:
        """Each of their events is in the new log, or nothing was begun."""
        stop, used = threading.Event(), 0

        def writes() -> None:
            nonlocal used
            with ImageCache(home) as beside:
                while not stop.is_set():
                    beside.use("one:1")
                    used += 1

        length = len(rows_of(Layout(home).database))
        thread = threading.Thread(target=writes)
        thread.start()
        try:
            with ImageCache(home) as cache:
                for _ in range(10):
                    try:
                        cache.begin_log_anew()
                    except BusyError as error:  # an event came meanwhile, or is about to
                        assert re.search(r"while it was set aside|operation \S+ runs in", str(error))  # noqa: PT017
        finally:
            stop.set()
            thread.join()
        assert len(rows_of(Layout(home).database)) == length + used
        with ImageCache(home) as cache:
            check_sound(cache)

    def test_a_running_operation_is_in_its_way(self, home: Path) -> None:
        before = rows_of(Layout(home).database)
        with Operation(Layout(home)) as running, ImageCache(home) as cache:
            with pytest.raises(BusyError, match=f"operation {running.id} runs in .*; try again"):
                cache.begin_log_anew()
            assert rows_of(Layout(home).database) == before
        with ImageCache(home) as cache:
            cache.begin_log_anew()


class TestRefused:
    @pytest.mark.parametrize(
        ("statement", "said"),
        [
            ("UPDATE events SET subject = 'docker.io/library/x:1' WHERE seq = 3", "event 3 does not match"),
            ("UPDATE events SET hash = zeroblob(32) WHERE seq = (SELECT max(seq) FROM events)", "match"),
            ("DELETE FROM events WHERE seq = 2", "event 2 is missing"),
            ("UPDATE events SET actor = CAST(x'ff' AS TEXT) WHERE seq = 4", "no UTF-8"),
        ],
    )
    def test_a_broken_log(self, home: Path, statement: str, said: str) -> None:
        with closing(sqlite3.connect(Layout(home).database)) as connection:
            drop_triggers(connection)
            connection.execute(statement)
            connection.commit()
        with ImageCache(home) as cache:
            with pytest.raises(CorruptLogError, match=f"{said}.*only a log that verifies is begun anew"):
                cache.begin_log_anew()
            assert cache.list() != []
        assert not Layout(home).set_aside.exists()
        assert Layout(home).interrupted_operations() == []

    def test_no_log(self, tmp_path: Path) -> None:
        with ImageCache(tmp_path / "none") as cache, pytest.raises(LogError, match="has no log yet"):
            cache.begin_log_anew()
        assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("state")
class TestTheNoteOutside:
    def test_it_is_of_the_new_log(self, home: Path) -> None:
        said: list[str] = []
        with ImageCache(home, note=said.append) as beside, ImageCache(home, note=said.append) as cache:
            beside.use("one:1")
            report = cache.begin_log_anew()
            beside.use("one:1")
            cache.use("one:1")
        with ImageCache(home, note=said.append) as cache:
            check_sound(cache)
            found = cache.acknowledge_log()
        assert (said, found) == ([], None)
        assert report.events

    def test_a_log_that_was_put_back_is_acknowledged_first(self, home: Path, tmp_path: Path) -> None:
        shutil.copytree(home, tmp_path / "older")
        with ImageCache(home) as cache:
            cache.use("one:1")
        put_back(tmp_path / "older", home)
        with ImageCache(home) as cache:
            with pytest.raises(LogError, match=r"was put back.*`msb-cache log acknowledge`"):
                cache.begin_log_anew()
            cache.acknowledge_log()
            cache.begin_log_anew()
            check_sound(cache)

    def test_another_log_that_only_says_that_it_goes_on_is_told_of(self, home: Path, tmp_path: Path) -> None:
        """What a log says of itself proves nothing: the note expects one log, by its last hash."""
        with ImageCache(home) as cache:
            cache.use("one:1")
        shutil.copytree(home, tmp_path / "copy")
        with ImageCache(tmp_path / "copy") as cache:
            cache.begin_log_anew()
        put_back(tmp_path / "copy", home)
        with ImageCache(home) as cache:
            rewound = cache.verify().rewound
        assert rewound is not None
        assert rewound.kind == "another"


@contextmanager
def observed(observer: Callable[[str], object]) -> Iterator[None]:
    failpoints.observer = observer
    try:
        yield
    finally:
        failpoints.observer = None


@pytest.mark.usefixtures("state")
def test_killed_at_every_step(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msb_cache.audit.begin_anew._BATCH", 5)
    with ImageCache(home) as cache:
        cache.use("one:1")  # so that there is a note of it
    pristine = shutil.copytree(home, tmp_path / "pristine")
    notes = shutil.copytree(tmp_path / "state", tmp_path / "notes")
    before = rows_of(Layout(home).database)
    steps: list[str] = []
    with ImageCache(home) as cache, observed(steps.append):
        cache.begin_log_anew()
    assert {"anew.copied", "anew.batch", "anew.chained", "anew.committing", "anew.committed"} <= {*steps}
    begun = set()
    for number, step in enumerate(steps):
        put_back(pristine, home)
        put_back(notes, tmp_path / "state")
        _killed_at(number, home)
        said: list[str] = []
        with ImageCache(home, note=said.append) as cache:
            check_sound(cache)
            cache.use("one:1")  # the next command that writes finishes or undoes it
            check_sound(cache)
            assert cache.rebuild() == []
        assert said == [], step
        rows = rows_of(Layout(home).database)
        assert [row[:-1] for row in rows[1 : len(before)]] == [row[:-1] for row in before[1:]]
        new = rows[0][4] != before[0][4]
        begun.add(new)
        if new:
            (kept,) = Layout(home).set_aside.glob("*/msb-cache.db")
            assert rows_of(kept) == before
        else:
            assert rows[: len(before)] == before
        assert Layout(home).interrupted_operations() == []
        with ImageCache(home, note=said.append) as cache:
            assert cache.begin_log_anew().events == len(before) + 1
        assert said == [], step
    assert begun == {True, False}


def _killed_at(number: int, home: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            left = number

            def observer(step: str) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), 9)

            failpoints.observer = observer
            with ImageCache(home) as cache:
                cache.begin_log_anew()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
