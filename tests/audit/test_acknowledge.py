"""A person says that a log was put back on purpose; a restore needs no such word."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.errors import LogError
from msb_cache.eventstore.events import LogAcknowledged
from tests.home.test_heads import home, note_of, problem, put_back, state, use

__all__ = ["home", "state"]


def test_behind(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "older")
    use(home, 5)
    noted = note_of(home)
    put_back(tmp_path / "older", home)
    with ImageCache(home) as cache:
        found = cache.acknowledge_log()
        assert found is not None
        assert (found.kind, found.note, found.moved) == ("behind", noted, True)
        last = cache.events(reverse=True, limit=1)[0]
        assert last.data == LogAcknowledged(
            how="behind", noted_log_id=noted.log_id, noted_size=noted.size, noted_head=noted.head
        )
        assert cache.acknowledge_log() is None
        assert cache.rebuild() == []
    assert note_of(home).size == last.seq
    assert problem(home) is None


def test_another(home: Path, tmp_path: Path) -> None:
    shutil.rmtree(home)
    with ImageCache(home) as cache, pytest.raises(LogError, match="is gone"):
        cache.acknowledge_log()
    assert not home.exists()
    with ImageCache(home) as cache:
        cache.load(tmp_path / "a.tar")
        found = cache.acknowledge_log()
        assert found is not None
        assert found.kind == "another"
    assert problem(home) is None


def test_nothing_to_acknowledge(home: Path) -> None:
    before = note_of(home)
    with ImageCache(home) as cache:
        assert cache.acknowledge_log() is None
    assert note_of(home) == before


@pytest.mark.parametrize("readable", [True, False])
def test_a_restore_is_known(home: Path, tmp_path: Path, readable: bool) -> None:
    with ImageCache(home) as cache:
        cache.backup(tmp_path / "backup.db")
    use(home, 5)
    if not readable:
        (home / "db" / "msb-cache.db").write_bytes(b"x" * 100_000)
    with ImageCache(home) as cache:
        cache.restore_backup(tmp_path / "backup.db", discard_events=5 if readable else None)
    assert problem(home) is None
    use(home)
    assert problem(home) is None
