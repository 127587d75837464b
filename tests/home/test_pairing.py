"""A database file beside a write-ahead log of another moment: such a pair is neither read nor written."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.errors import CorruptLogError
from msb_cache.eventstore.chain import Verified
from msb_cache.home import pairing
from msb_cache.home.connect import commit
from tests.imagebuilder import docker_archive, sample

CHECKPOINTS = [None, "PASSIVE", "RESTART", "TRUNCATE", None]


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return copies of a home's database and log, which was copied into the file between some of them."""
    folder = tmp_path_factory.mktemp("moments")
    archive = folder / "app.tar"
    archive.write_bytes(docker_archive(sample("app:1")))
    home = folder / "home"
    found = []
    with ImageCache(home) as beside:
        beside.load(archive)
        for number, checkpoint in enumerate(CHECKPOINTS):
            with ImageCache(home) as cache:
                for _ in range(1 + number % 3):
                    cache.use("app:1")
                cache.hold("app:1", f"sandbox:{number}")
            found.append(shutil.copytree(home / "db", folder / str(number)))
            if checkpoint is not None:
                with closing(sqlite3.connect(home / "db" / "msb-cache.db")) as connection:
                    connection.execute(f"PRAGMA wal_checkpoint({checkpoint})")
                found.append(shutil.copytree(home / "db", folder / f"{number} copied"))
    return found


def together(tmp_path: Path, file: Path, log: Path) -> Path:
    """Return a home with the file of one moment and the log of another."""
    db = tmp_path / "home" / "db"
    shutil.rmtree(db, ignore_errors=True)
    db.mkdir(parents=True)
    for folder, name in ((file, "msb-cache.db"), (log, "msb-cache.db-wal")):
        shutil.copy(folder / name, db / name)
    return db / "msb-cache.db"


def use_and_verify(path: Path) -> None:
    with ImageCache(path.parent.parent) as cache:
        cache.use("app:1")
        found = cache.verify()
    assert isinstance(found.chain, Verified)
    assert (found.differences, found.unreadable) == ([], None)


def test_a_pair_of_two_moments_is_refused_or_whole(moments: list[Path], tmp_path: Path) -> None:
    refused = 0
    for file, log in itertools.permutations(moments, 2):
        if not (log / "msb-cache.db-wal").stat().st_size:
            continue  # an older database and no log is a log put back, which only a note can tell
        path = together(tmp_path, file, log)
        before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
        try:
            use_and_verify(path)
        except CorruptLogError:
            with ImageCache(path.parent.parent) as cache:
                for command in (cache.list, cache.verify, lambda: cache.use("app:1")):
                    with pytest.raises(CorruptLogError, match="do not belong together"):
                        command()
            assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before
            refused += 1
            continue
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert refused > len(moments)


def test_a_pair_of_one_moment_is_taken(moments: list[Path], tmp_path: Path) -> None:
    for moment in moments:
        use_and_verify(together(tmp_path, moment, moment))


def test_what_is_no_log_counts_for_none(moments: list[Path], tmp_path: Path) -> None:
    path = together(tmp_path, moments[-1], moments[-1])
    log = path.with_name("msb-cache.db-wal")
    whole = log.read_bytes()
    for content in (b"", whole[:31], b"\0" * 4096, whole[:32], whole[:40]):
        log.write_bytes(content)
        pairing.check(str(path))
    log.unlink()
    pairing.check(str(path))


def test_a_file_without_a_write_ahead_log_beside_one(moments: list[Path], tmp_path: Path) -> None:
    path = together(tmp_path, moments[-1], moments[-1])
    path.write_bytes(b"")
    with pytest.raises(CorruptLogError, match="do not belong together"):
        pairing.check(str(path))
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (a)")
    shutil.copy(other, path)
    with pytest.raises(CorruptLogError, match="do not belong together"):
        pairing.check(str(path))


def test_the_count_of_page_1_begins_anew_after_32_bits(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        with open(path, "r+b") as file:
            file.seek(24)
            file.write((2**32 - 2).to_bytes(4, "big"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for _ in range(4):
            connection.execute("BEGIN IMMEDIATE")
            commit(connection)
        pairing.check(path)
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        pairing.check(path)


def test_another_cache_of_the_process_gives_up_no_lock(tmp_path: Path) -> None:
    """Else another process that closes the database takes itself for the last, and deletes the log in use."""
    home = tmp_path / "home"
    archive = tmp_path / "app.tar"
    archive.write_bytes(docker_archive(sample("app:1")))
    program = (
        "import sys; from msb_cache import ImageCache\n"
        "with ImageCache(sys.argv[1]) as cache: print(len(cache.events()))"
    )

    def counted_elsewhere() -> int:
        command = [sys.executable, "-c", program, str(home)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    with ImageCache(home) as cache:
        cache.load(archive)
        with ImageCache(home) as other:
            assert other.list() == cache.list()
            state = other.compare_state(home / "db" / "msb-cache.db")
            assert state.divergences == []
        log = (home / "db" / "msb-cache.db-wal").stat().st_ino
        count = counted_elsewhere()
        assert (home / "db" / "msb-cache.db-wal").stat().st_ino == log
        cache.use("app:1")
        assert counted_elsewhere() == count + 1
