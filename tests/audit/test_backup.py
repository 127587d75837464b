"""A backup is the whole log in one file, whatever others do meanwhile."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.errors import CorruptLogError, LogError
from tests.imagebuilder import docker_archive, sample


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    archive = tmp_path / "app.tar"
    archive.write_bytes(docker_archive(sample("app:1")))
    with ImageCache(tmp_path / "home") as opened:
        opened.load(archive)
        yield opened


def test_it_is_one_private_file_with_the_whole_log(cache: ImageCache, tmp_path: Path) -> None:
    target = tmp_path / "backups" / "log.db"
    target.parent.mkdir()
    target.write_text("an older one")
    with ImageCache(cache.home) as beside:
        beside.use("app:1")  # which stands in the write-ahead log
        report = cache.backup(target)
    note = cache.checkpoint()
    assert (report.log_id, report.events, report.head) == (note.log_id, note.size, note.head)
    assert report.bytes == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [*target.parent.iterdir()] == [target]
    with closing(sqlite3.connect(f"file:{target}?mode=ro&immutable=1", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT max(seq) FROM events").fetchone() == (report.events,)


def test_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    with ImageCache(tmp_path / "none") as cache, pytest.raises(LogError, match="no log yet"):
        cache.backup(tmp_path / "log.db")
    assert not [*tmp_path.glob("*log.db*")]
    assert not (tmp_path / "none").exists()


def test_a_log_that_does_not_verify_is_not_backed_up(cache: ImageCache, tmp_path: Path) -> None:
    cache.use("app:1")
    cache.close()
    with closing(sqlite3.connect(cache.home / "db" / "msb-cache.db")) as connection:
        connection.execute("DROP TRIGGER events_no_update")
        connection.execute("UPDATE events SET subject = 'docker.io/library/other:1' WHERE seq = 3")
        connection.commit()
    target = tmp_path / "log.db"
    target.write_text("an older one")
    with pytest.raises(CorruptLogError, match=r"event 3 .* export"):
        cache.backup(target)
    assert target.read_text() == "an older one"
    assert not [*tmp_path.glob(".log.db*")]


@pytest.mark.parametrize("where", ["none/log.db", "."])
def test_where_no_file_can_be(cache: ImageCache, tmp_path: Path, where: str) -> None:
    with pytest.raises(LogError, match=r"folder|cannot be written: No such .*; check the path$"):
        cache.backup(tmp_path / where)
