"""The note outside a home of how far its log has come: what was put back, exchanged or deleted is told."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.home.heads import HeadFile, HeadNote
from tests.imagebuilder import docker_archive, sample

ROUNDS = int(os.environ.get("MSB_CACHE_TEST_ROLLBACKS", "40"))

Said = Callable[[], list[str]]
"""Lists the images; returns what was said meanwhile."""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep notes, in a folder of this test, though its homes are in a temporary folder."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with an image, of which a note is kept."""
    (tmp_path / "a.tar").write_bytes(docker_archive(sample("a:1")))
    with ImageCache(tmp_path / "home") as cache:
        cache.load(tmp_path / "a.tar")
    return tmp_path / "home"


@pytest.fixture
def said(home: Path) -> Said:
    def listing() -> list[str]:
        sentences: list[str] = []
        with ImageCache(home, note=sentences.append) as cache:
            cache.list()
        return [sentence for sentence in sentences if "the log of" in sentence]

    return listing


def note_of(home: Path) -> HeadNote:
    found = HeadFile(str(home)).read()
    assert found is not None
    return found


def use(home: Path, times: int = 1) -> None:
    with ImageCache(home) as cache:
        for _ in range(times):
            cache.use("a:1")


def put_back(source: Path, home: Path) -> None:
    shutil.rmtree(home)
    shutil.copytree(source, home)


def problem(home: Path) -> str | None:
    with ImageCache(home) as cache:
        found = cache.verify()
    assert found.sound == (found.rewound is None)
    return None if found.rewound is None else found.rewound.kind


class TestNote:
    def test_is_of_the_last_commit(self, home: Path, said: Said, state: Path) -> None:
        use(home, 3)
        with closing(sqlite3.connect(home / "db" / "msb-cache.db")) as connection:
            log_id, size, head = connection.execute(
                "SELECT (SELECT subject FROM events WHERE seq = 1), seq, hash FROM events ORDER BY seq DESC"
            ).fetchone()
        note = note_of(home)
        found = os.stat(home)
        assert (note.log_id, note.size, note.head) == (log_id, size, head.hex())
        assert (note.home, note.folder) == (str(home), (found.st_dev, found.st_ino))
        assert said() == []
        assert problem(home) is None
        (path,) = (state / "msb-cache" / "heads").iterdir()
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700

    def test_one_for_each_home_by_whatever_link(self, home: Path, tmp_path: Path, state: Path) -> None:
        (tmp_path / "link").symlink_to(home)
        shutil.copytree(home, tmp_path / "other")
        use(tmp_path / "link")
        use(tmp_path / "other")
        assert len(list((state / "msb-cache" / "heads").iterdir())) == 2
        assert note_of(home) == note_of(tmp_path / "link") != note_of(tmp_path / "other")

    def test_the_larger_of_two_wins(self, home: Path) -> None:
        threads = [threading.Thread(target=use, args=(home, 20)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with closing(sqlite3.connect(home / "db" / "msb-cache.db")) as connection:
            (size,) = connection.execute("SELECT max(seq) FROM events").fetchone()
        assert note_of(home).size == size

    @pytest.mark.parametrize("reason", ["temporary", "MSB_CACHE_NO_HEAD"])
    def test_none_is_wanted(
        self, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch, reason: str
    ) -> None:
        if reason == "temporary":
            monkeypatch.setenv("TMPDIR", str(tmp_path))
        else:
            monkeypatch.setenv("MSB_CACHE_NO_HEAD", "1")
        (tmp_path / "a.tar").write_bytes(docker_archive(sample("a:1")))
        with ImageCache(tmp_path / "new") as cache:
            cache.load(tmp_path / "a.tar")
            found = cache.verify()
        assert not state.exists()
        assert found.sound
        assert not found.head_wanted
        assert reason in (found.no_head_note or "")

    @pytest.mark.parametrize("damage", [b"", b"msb-cache head 1\n", b"\xff" * 300, b"x" * 100_000])
    def test_a_damaged_one_is_none(self, home: Path, said: Said, damage: bytes) -> None:
        path = HeadFile(str(home)).path
        assert path is not None
        Path(path).write_bytes(damage)
        assert said() == []
        with ImageCache(home) as cache:
            found = cache.verify()
        assert found.sound
        assert "is damaged" in (found.no_head_note or "")
        use(home)
        assert problem(home) is None
        assert note_of(home).size > 0

    def test_it_cannot_be_written(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
        use(home)
        with ImageCache(home) as cache:
            found = cache.verify()
        assert found.sound
        assert found.head_wanted
        assert found.no_head_note is not None

    def test_another_homes_note_under_its_name_is_none(self, home: Path, tmp_path: Path) -> None:
        shutil.copytree(home, tmp_path / "other")
        one, other = HeadFile(str(home)).path, HeadFile(str(tmp_path / "other")).path
        assert one is not None
        assert other is not None
        shutil.copy(one, other)
        assert HeadFile(str(tmp_path / "other")).read() is None


class TestMismatch:
    def test_behind_then_beside(self, home: Path, tmp_path: Path, said: Said) -> None:
        shutil.copytree(home, tmp_path / "older")
        use(home, 5)
        kept = note_of(home)
        put_back(tmp_path / "older", home)
        (sentence,) = said()
        assert f"had {kept.size:,};" in sentence
        assert problem(home) == "behind"
        use(home, 9)
        assert problem(home) == "beside"
        assert len(said()) == 1
        assert note_of(home) == kept

    def test_gone_then_another(self, home: Path, tmp_path: Path, said: Said) -> None:
        shutil.rmtree(home)
        (sentence,) = said()
        assert "is gone" in sentence
        with ImageCache(home) as cache:
            cache.load(tmp_path / "a.tar")
        assert problem(home) == "another"
        assert "is another one" in said()[0]

    def test_a_thread_that_is_late_leaves_the_later_note(self, home: Path) -> None:
        with ImageCache(home) as cache, cache._ledger.read() as connection:
            assert connection is not None
            first, *_, last = cache._ledger.store(connection).read()
            file = HeadFile(str(home))
            assert file.keep(connection, last)
            assert file.keep(connection, first)  # there is such a note, or a later one
        assert note_of(home).size == last.seq

    def test_random_rollbacks_and_forks(self, home: Path, tmp_path: Path) -> None:
        """Each is found; and none is, where the log only goes on."""
        numbers = random.Random(5)
        database = home / "db" / "msb-cache.db"
        kept: dict[int, Path] = {}
        for _ in range(12):
            use(home, numbers.randrange(1, 4))
            size = note_of(home).size
            kept[size] = tmp_path / f"{size}.db"
            shutil.copy(database, kept[size])
        path = HeadFile(str(home)).path
        assert path is not None
        sound, note = Path(path).read_bytes(), note_of(home)
        for _ in range(ROUNDS):
            size = numbers.choice([*kept][:-1])
            for left in home.glob("db/msb-cache.db-*"):
                left.unlink()
            shutil.copy(kept[size], database)
            more = numbers.randrange(0, 3 * (note.size - size))
            if more:
                use(home, more)
            assert problem(home) == ("behind" if size + more < note.size else "beside")
            assert Path(path).read_bytes() == sound
        for left in home.glob("db/msb-cache.db-*"):
            left.unlink()
        shutil.copy(kept[note.size], database)
        use(home)
        assert problem(home) is None
