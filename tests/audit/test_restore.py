"""A log is put back to a backup: what is lost is said, what was there is kept, and no orphan goes."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache, failpoints
from msb_cache.artifacts.layout import Layout
from msb_cache.audit import backup as backup_module
from msb_cache.errors import BusyError, CorruptLogError, ImageNotFoundError, LogError, UnknownEventError
from msb_cache.eventstore.events import LogRestored
from tests.imagebuilder import docker_archive, sample

IMAGES = {name: sample(f"{name}:1", seed=name) for name in ("before", "after")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with one image, a backup of its log beside it, and then another image."""
    for name, built in IMAGES.items():
        (tmp_path / f"{name}.tar").write_bytes(docker_archive(built))
    with ImageCache(tmp_path / "home") as cache:
        cache.load(tmp_path / "before.tar")
        cache.backup(tmp_path / "backup.db")
        cache.load(tmp_path / "after.tar")
    return tmp_path / "home"


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backup.db"


@pytest.fixture
def lost(home: Path, backup: Path) -> int:
    """Return how many events came after the backup."""
    return length(home / "db" / "msb-cache.db") - length(backup)


def length(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        (found,) = connection.execute("SELECT max(seq) FROM events").fetchone()
        return int(found)


def listed(cache: ImageCache) -> list[str]:
    return sorted(image.reference for image in cache.list())


def check_restored(home: Path, *, replaced: bool = True) -> LogRestored:
    with ImageCache(home) as cache:
        assert listed(cache) == ["before:1"]
        found = cache.verify()
        assert (found.differences, found.schema, found.unreadable) == ([], [], None)
        (event,) = cache.events(types=["log.restored"])
        assert isinstance(event.data, LogRestored)
        assert cache.rebuild() == []
        assert [image.reference for image in cache.list(as_of=event.seq - 1)] == ["before:1"]
        layout = Layout(home)
        assert layout.interrupted_operations() == []
        assert not os.path.lexists(layout.replacing)
        assert len([*layout.set_aside.glob("*")] if replaced else []) == replaced
        return event.data


class TestALogThatCanBeRead:
    def test_it_says_how_many_events_would_be_lost(self, home: Path, backup: Path, lost: int) -> None:
        with ImageCache(home) as cache:
            before = cache.events()
            for wrong in (None, lost - 1, lost + 1):
                with pytest.raises(LogError, match=f"takes {lost} events out .*--discard-events {lost}"):
                    cache.restore_backup(backup, discard_events=wrong)
            assert cache.events() == before
            assert not Layout(home).set_aside.exists()

    def test_it_is_put_back(self, home: Path, backup: Path, lost: int) -> None:
        with ImageCache(home) as cache:
            replaced = cache.checkpoint()
            report = cache.restore_backup(backup, discard_events=lost)
        assert (report.events, report.events_lost) == (length(backup), lost)
        event = check_restored(home)
        assert (event.replaced_seq, event.replaced_head) == (replaced.size, replaced.head.hex())
        assert event.backup_seq == length(backup)
        assert report.set_aside is not None
        assert length(report.set_aside / "msb-cache.db") == replaced.size

    def test_a_backup_of_all_there_is_loses_nothing(self, home: Path, tmp_path: Path) -> None:
        with ImageCache(home) as cache:
            cache.backup(tmp_path / "all.db")
            with pytest.raises(LogError, match="not needed"):
                cache.restore_backup(tmp_path / "all.db", discard_events=1)
            assert cache.restore_backup(tmp_path / "all.db").events_lost == 0
            assert listed(cache) == ["after:1", "before:1"]

    def test_a_log_that_is_a_part_of_the_backup(self, home: Path, backup: Path, tmp_path: Path) -> None:
        with ImageCache(home) as cache:
            cache.backup(tmp_path / "all.db")
        for path in (home / "db").glob("msb-cache.db*"):
            path.unlink()
        shutil.copy(backup, home / "db" / "msb-cache.db")
        with ImageCache(home) as cache:
            assert listed(cache) == ["before:1"]
            assert cache.restore_backup(tmp_path / "all.db").events_lost == 0
            assert listed(cache) == ["after:1", "before:1"]

    def test_an_export_is_a_backup_too(self, home: Path, backup: Path, lost: int, tmp_path: Path) -> None:
        with ImageCache(home) as cache:
            cache.restore_backup(backup, discard_events=lost)
            cache.export(tmp_path / "log.jsonl")
        with ImageCache(home) as cache:
            assert cache.restore_backup(tmp_path / "log.jsonl").events_lost == 0
            assert listed(cache) == ["before:1"]

    def test_another_log_is_refused(self, home: Path, tmp_path: Path) -> None:
        with ImageCache(tmp_path / "other") as cache:
            cache.load(tmp_path / "before.tar")
            cache.backup(tmp_path / "other.db")
        with ImageCache(home) as cache:
            with pytest.raises(LogError, match=r"another log .* another --home"):
                cache.restore_backup(tmp_path / "other.db")
            assert listed(cache) == ["after:1", "before:1"]

    def test_other_processes_are_at_work_meanwhile(self, home: Path, backup: Path, lost: int) -> None:
        with ImageCache(home) as beside, ImageCache(home) as cache:
            assert listed(beside) == ["after:1", "before:1"]
            cache.restore_backup(backup, discard_events=lost)
            assert listed(beside) == ["before:1"]
            beside.use("before:1")
            assert [event.seq for event in cache.events()] == [*range(1, length(backup) + 3)]
        check_restored(home)

    def test_where_the_writer_keeps_all_others_out(
        self, home: Path, backup: Path, lost: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on a disk without room for what SQLite shares: no second connection could copy anything."""
        monkeypatch.setattr("msb_cache.home.shared_memory.fits", lambda path: False)
        with ImageCache(home) as cache:
            report = cache.restore_backup(backup, discard_events=lost)
        assert report.set_aside is not None
        assert length(report.set_aside / "msb-cache.db") == length(backup) + lost
        monkeypatch.undo()
        check_restored(home)

    def test_what_is_written_after_it_was_set_aside_is_not_lost(
        self, home: Path, backup: Path, lost: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def copied_then_used(connection: sqlite3.Connection, target: Path) -> None:
            backup_module.copy(connection, target)
            with ImageCache(home) as beside:
                beside.use("before:1")

        monkeypatch.setattr("msb_cache.audit.restore.copy", copied_then_used)
        with ImageCache(home) as cache:
            with pytest.raises(BusyError, match=r"while it was set aside; try again$"):
                cache.restore_backup(backup, discard_events=lost)
            assert listed(cache) == ["after:1", "before:1"]
            assert not Layout(home).set_aside.exists()
            monkeypatch.undo()
            cache.restore_backup(backup, discard_events=lost + 1)
        check_restored(home)


class TestALogThatCannotBeRead:
    @pytest.fixture(params=["cut off", "zeroed", "another's log", "no database"])
    def damaged(self, request: pytest.FixtureRequest, home: Path) -> Path:
        database = home / "db" / "msb-cache.db"
        if request.param == "cut off":
            os.truncate(database, 5000)
        elif request.param == "zeroed":
            with database.open("r+b") as file:
                file.seek(100)
                file.write(bytes(8000))
        elif request.param == "no database":
            database.write_bytes(b"anything" * 1000)
        else:
            shutil.copy(_log_of_another(home.parent), f"{database}-wal")
        with ImageCache(home) as cache, pytest.raises(CorruptLogError, match="restore"):
            cache.list()
        return home

    def test_it_is_set_aside(self, damaged: Path, backup: Path) -> None:
        before = {path.name: path.read_bytes() for path in (damaged / "db").glob("msb-cache.db*")}
        notes: list[str] = []
        with ImageCache(damaged, note=notes.append) as cache:
            report = cache.restore_backup(backup)
        assert report.events_lost is None
        assert report.set_aside is not None
        kept = {path.name: path.read_bytes() for path in report.set_aside.iterdir()}
        assert kept.items() >= before.items()
        assert "set aside" in notes[0]
        assert check_restored(damaged).events_lost is None

    def test_killed_at_every_step(self, damaged: Path, backup: Path, tmp_path: Path) -> None:
        pristine = shutil.copytree(damaged, tmp_path / "pristine")
        for step in ("restore.built", "replace.begun", "replace.cleared", "replace.placed", "replace.done"):
            shutil.rmtree(damaged)
            shutil.copytree(pristine, damaged)
            _killed_at(step, damaged, backup)
            with ImageCache(damaged) as cache:
                try:
                    cache.release("sandbox:none")  # the next command that writes finishes it
                except CorruptLogError:
                    assert step == "restore.built"
                    cache.restore_backup(backup)
            shutil.rmtree(Layout(damaged).set_aside / "none", ignore_errors=True)
            with ImageCache(damaged) as cache:
                assert listed(cache) == ["before:1"]
                assert cache.verify().schema == []
            assert Layout(damaged).interrupted_operations() == []
            assert not os.path.lexists(Layout(damaged).replacing)

    def test_another_process_that_has_it_open_keeps_it_from_being_replaced(
        self, home: Path, backup: Path
    ) -> None:
        program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM events')\n"
        program += "print(flush=True); sys.stdin.read()"
        database = home / "db" / "msb-cache.db"
        with subprocess.Popen(
            [sys.executable, "-c", program, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            os.truncate(database, 5000)
            with ImageCache(home) as cache, pytest.raises(BusyError, match=r"another process has .* open"):
                cache.restore_backup(backup)
            other.communicate()
        with ImageCache(home) as cache:
            cache.restore_backup(backup)
        check_restored(home)


def _log_of_another(folder: Path) -> Path:
    for _ in range(4):  # page 1 counts how often a process had the log and wrote
        with ImageCache(folder / "another") as cache:
            cache.load(folder / "before.tar")
    with ImageCache(folder / "another") as cache, ImageCache(folder / "another") as beside:
        cache.load(folder / "before.tar")
        for _ in range(30):
            beside.use("before:1")
        with closing(sqlite3.connect(folder / "another" / "db" / "msb-cache.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(RESTART)")
        beside.use("before:1")
        return Path(shutil.copy(folder / "another" / "db" / "msb-cache.db-wal", folder / "log"))


def _killed_at(step: str, home: Path, backup: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            failpoints.observer = lambda reached: os.kill(os.getpid(), 9) if reached == step else None
            with ImageCache(home) as cache:
                cache.restore_backup(backup)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_home_without_a_log(home: Path, backup: Path, tmp_path: Path) -> None:
    shutil.rmtree(home / "db")
    with ImageCache(home) as cache:
        report = cache.restore_backup(backup)
    assert (report.events_lost, report.set_aside) == (0, None)
    assert check_restored(home, replaced=False).replaced_seq is None
    with ImageCache(tmp_path / "new") as cache:
        cache.restore_backup(backup)
        assert listed(cache) == ["before:1"]


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("command", ["load", "import", "restore"])
def test_what_sqlite_left_beside_a_database_that_is_gone(
    command: str, suffix: str, home: Path, backup: Path, tmp_path: Path
) -> None:
    with ImageCache(home) as cache:
        cache.export(tmp_path / "log.jsonl")
    shutil.copy(_log_of_another(tmp_path), stray := home / "db" / f"msb-cache.db{suffix}")
    content = stray.read_bytes()
    (home / "db" / "msb-cache.db").unlink()
    with ImageCache(home) as cache:
        if command == "load":
            cache.load(tmp_path / "before.tar")
        elif command == "import":
            with (tmp_path / "log.jsonl").open("rb") as file:
                cache.import_log(file)
        else:
            cache.restore_backup(backup)
        assert "before:1" in listed(cache)
        assert cache.verify().differences == []
        cache.use("before:1")
    (kept,) = Layout(home).set_aside.glob(f"*/msb-cache.db{suffix}")
    assert kept.read_bytes() == content


def spoiled(backup: Path) -> Iterator[tuple[str, Path]]:
    for name, statement in (
        ("a changed event", "UPDATE events SET subject = 'docker.io/library/x:1' WHERE seq = 3"),
        ("a missing event", "DELETE FROM events WHERE seq = 2"),
        ("no events", "DELETE FROM events"),
        ("an unknown event", "UPDATE events SET type = 'image.eaten' WHERE seq = 3"),
    ):
        path = backup.with_name(name)
        shutil.copy(backup, path)
        with closing(sqlite3.connect(path)) as connection:
            for (trigger,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                connection.execute(f"DROP TRIGGER {trigger}")
            connection.execute(statement)
            connection.commit()
        yield name, path
    for name, content in (("nothing", b""), ("garbage", b"SQLite format 3\0" + b"x" * 5000)):
        path = backup.with_name(name)
        path.write_bytes(content)
        yield name, path
    yield "a folder", backup.parent
    yield "absent", backup.with_name("absent")


def test_a_backup_that_is_none_is_refused(home: Path, backup: Path, lost: int) -> None:
    with ImageCache(home) as cache:
        before = cache.events()
        for name, path in spoiled(backup):
            with pytest.raises((LogError, UnknownEventError)):
                cache.restore_backup(path, discard_events=lost)
            assert cache.events() == before, name
        assert listed(cache) == ["after:1", "before:1"]
    assert Layout(home).interrupted_operations() == []


class TestUntilAPersonConfirms:
    @pytest.fixture
    def restored(self, home: Path, backup: Path, lost: int) -> Path:
        with ImageCache(home) as cache:
            cache.restore_backup(backup, discard_events=lost)
        return home

    def test_no_orphan_goes(self, restored: Path) -> None:
        layout = Layout(restored)
        before = [*layout.files()]
        with ImageCache(restored) as cache:
            orphans = [each for each in cache.verify().disk if each.problem == "extra"]
            assert orphans
            for call in (lambda: cache.prune(orphans=True), lambda: cache.preview_prune(orphans=True)):
                with pytest.raises(LogError, match="restore-backup --confirm"):
                    call()
            assert [*layout.files()] == before
            assert cache.info().restored_at is not None
            assert cache.confirm_restore()
            assert not cache.confirm_restore()
            assert cache.info().restored_at is None
            assert cache.prune(orphans=True).orphans_removed == len(orphans)
            assert cache.rebuild() == []

    def test_loading_an_image_again_makes_it_known(self, restored: Path, tmp_path: Path) -> None:
        with ImageCache(restored) as cache:
            with pytest.raises(ImageNotFoundError):
                cache.get("after:1")
            cache.load(tmp_path / "after.tar")
            assert cache.verify().disk == []

    def test_what_a_killed_load_published_stays(
        self, home: Path, backup: Path, lost: int, tmp_path: Path
    ) -> None:
        child = os.fork()
        if child == 0:
            try:
                failpoints.observer = lambda step: (
                    os.kill(os.getpid(), 9) if step == "add.published" else None
                )
                with ImageCache(home) as cache:
                    cache.load(tmp_path / "after.tar", tag="again:1")
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        (tmp_path / "third.tar").write_bytes(docker_archive(sample("third:1", seed="third")))
        with ImageCache(home) as cache:
            found = {path for _, _, path in Layout(home).files()}
            cache.restore_backup(backup, discard_events=lost)
            cache.release("sandbox:none")
            assert {path for _, _, path in Layout(home).files()} == found

    def test_a_note_that_was_taken_later_names_the_restore(self, home: Path, backup: Path, lost: int) -> None:
        with ImageCache(home) as cache:
            note = cache.checkpoint().note
            cache.restore_backup(backup, discard_events=lost)
            for _ in range(2):
                found = cache.verify(note)
                assert not found.sound
                assert "put back to a backup of" in (found.contradiction or "")
                for _ in range(lost + 2):
                    cache.use("before:1")


def test_killed_at_every_step_of_an_exchange(home: Path, backup: Path, lost: int, tmp_path: Path) -> None:
    pristine = shutil.copytree(home, tmp_path / "pristine")
    steps: list[str] = []

    def restore(at: int) -> Callable[[], None]:
        def run() -> None:
            seen = 0

            def observer(step: str) -> None:
                nonlocal seen
                seen += 1
                if seen == at:
                    os.kill(os.getpid(), 9)

            failpoints.observer = observer
            with ImageCache(home) as cache:
                cache.restore_backup(backup, discard_events=lost)

        return run

    failpoints.observer = steps.append
    try:
        with ImageCache(home) as cache:
            cache.restore_backup(backup, discard_events=lost)
    finally:
        failpoints.observer = None
    assert "restore.committing" in steps
    for number in range(1, len(steps) + 1, 3):
        shutil.rmtree(home)
        shutil.copytree(pristine, home)
        child = os.fork()
        if child == 0:
            try:
                restore(number)()
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        with ImageCache(home) as cache:
            cache.release("sandbox:none")
            assert listed(cache) in (["after:1", "before:1"], ["before:1"]), steps[number - 1]
            assert cache.verify().differences == []
            assert cache.rebuild() == []
        assert Layout(home).interrupted_operations() == []
