"""A damaged database: said clearly, not made worse, never begun anew; what can be read can be exported."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache import CorruptLogError, ImageCache, LogError
from msb_cache.artifacts.layout import Layout
from msb_cache.cli.main import run
from msb_cache.eventstore import chain
from tests.carrying import lived_in
from tests.cli.support import APP, fingerprint, sentence
from tests.imagebuilder import docker_archive
from tests.moving import settle
from tests.reliability.scenarios import IMAGES, check_whole

COMMANDS = (
    ("list",),
    ("verify",),
    ("export",),
    ("replay",),
    ("history", "app:1"),
    ("info",),
    ("prunes",),
    ("use", "app:1"),
    ("hold", "app:1", "sandbox:x"),
    ("rm", "app:1"),
    ("prune", "--yes"),
    ("rebuild",),
)


@dataclass
class Said:
    """How a command ended that was run in this process."""

    code: int
    out: bytes
    err: str


def msb_cache(home: Path, *arguments: object) -> Said:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["--home", str(home), *map(str, arguments)])
    for stream in (out, err):
        stream.flush()
    written = [stream.buffer.getvalue() for stream in (out, err)]  # type: ignore[attr-defined]
    return Said(code, written[0], written[1].decode())


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lived_in(tmp_path_factory.mktemp("lived") / "home")


@st.composite
def damage(draw: st.DrawFn, size: int = 176_128) -> tuple[str, list[tuple[int, int]]]:
    kind = draw(st.sampled_from(["flip", "cut", "zeros"]))
    count = draw(st.integers(1, 4)) if kind == "flip" else 1
    return kind, [(draw(st.integers(0, size - 1)), draw(st.integers(0, 7))) for _ in range(count)]


def harm(data: bytes, kind: str, places: list[tuple[int, int]]) -> bytes:
    harmed = bytearray(data)
    for position, bit in places:
        position %= len(data)
        if kind == "flip":
            harmed[position] ^= 1 << bit
        elif kind == "cut":
            del harmed[position:]
        else:
            harmed[position : position + 512] = bytes(len(harmed[position : position + 512]))
    return bytes(harmed)


@given(damage=damage(), command=st.sampled_from(COMMANDS))
@settings(
    max_examples=int(os.environ.get("MSB_CACHE_TEST_DAMAGES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_damage_is_a_sentence_or_none(
    lived: Path, damage: tuple[str, list[tuple[int, int]]], command: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        shutil.copytree(lived, home)
        database = Path(Layout(home).database)
        database.write_bytes(harm(database.read_bytes(), *damage))
        log_id = _log_id(database)
        said = msb_cache(home, *command)
        assert said.code in (0, 1, 3, 4)
        assert "Traceback" not in said.err
        if said.code == 1 and not said.out:
            assert said.err.startswith("error: ") or "differed" in said.err
        if said.code == 0 or log_id is not None:
            assert _log_id(database) == log_id  # no other log has begun


def _log_id(database: Path) -> str | None:
    """The id of the log in a database, None if it cannot be read."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as connection:
        try:
            (found,) = connection.execute("SELECT subject FROM events WHERE type = 'log.created'").fetchone()
        except (sqlite3.Error, TypeError, UnicodeDecodeError):
            return None
    return found if isinstance(found, str) else None


# -- too short ----------------------------------------------------------------------------------------------


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """A home whose database lost its second half."""
    home = lived_in(tmp_path / "home")
    with ImageCache(home) as cache:
        for _ in range(600):
            cache.use("app:1")
    database = Path(Layout(home).database)
    os.truncate(database, database.stat().st_size // 2)
    return home


def test_what_is_left_is_exported(cut_off: Path, tmp_path: Path) -> None:
    before = Path(Layout(cut_off).database).read_bytes()
    said = msb_cache(cut_off, "export", "-o", tmp_path / "log.jsonl")
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines()
    assert said.code == 1
    assert sentence(said.err).startswith(
        f"only {len(lines)} events could be exported, up to event {len(lines)}: "
    )
    assert len(lines) > 20
    checker = chain.Checker()
    for line in lines:
        *row, stored = json.loads(line).values()
        assert checker.check(row, bytes.fromhex(stored)) is None
    piped = msb_cache(cut_off, "export")
    assert (piped.code, piped.out) == (1, (tmp_path / "log.jsonl").read_bytes())
    # What was saved is a log: it can begin another home.
    saved = msb_cache(tmp_path / "other", "import", tmp_path / "log.jsonl")
    assert saved.code == 0, saved.err
    assert Path(Layout(cut_off).database).read_bytes() == before


def test_what_is_left_is_replayed(cut_off: Path, tmp_path: Path) -> None:
    said = msb_cache(tmp_path / "none", "replay", "--log", Layout(cut_off).database, "--format", "json")
    assert said.code == 1
    assert [json.loads(line)["seq"] for line in said.out.splitlines()] == [
        *range(1, len(said.out.splitlines()) + 1)
    ]
    assert len(said.out.splitlines()) > 20
    assert "is damaged" in sentence(said.err)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_half_a_database_is_refused_and_not_touched(cut_off: Path, command: tuple[str, ...]) -> None:
    before = fingerprint(cut_off), Path(Layout(cut_off).database).read_bytes()
    said = msb_cache(cut_off, *command)
    assert said.code == 1
    sentence(said.err)
    assert (fingerprint(cut_off), Path(Layout(cut_off).database).read_bytes()) == before


# -- empty --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_database_beside_images_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    home = lived_in(tmp_path / "home")
    database = Path(Layout(home).database)
    os.truncate(database, 0)
    said = msb_cache(home, *command)
    assert said.code == 1
    assert "is empty, and there are images" in sentence(said.err)
    assert database.stat().st_size == 0
    with ImageCache(home) as cache, pytest.raises(CorruptLogError, match="is empty"):
        cache.load(io.BytesIO(docker_archive(APP)))


def test_an_empty_database_of_a_killed_first_command_is_filled(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "home")
    layout.db.mkdir(parents=True)
    Path(layout.database).touch()
    with ImageCache(layout.home) as cache:
        cache.load(io.BytesIO(docker_archive(APP)))
    check_whole(layout.home)


def test_an_empty_database_whose_making_was_killed_beside_images(tmp_path: Path) -> None:
    layout = Layout(lived_in(tmp_path / "home"))
    shutil.rmtree(layout.db)
    layout.db.mkdir()
    Path(layout.database).touch()
    layout.migrate_lock.write_text("making")
    with ImageCache(layout.home) as cache:
        assert cache.list() == []
        cache.load(io.BytesIO(docker_archive(APP)))
        cache.prune(orphans=True)
    check_whole(layout.home)
    assert layout.migrate_lock.read_bytes() == b""


def test_files_without_a_database_are_no_hindrance(tmp_path: Path) -> None:
    """Such as a cache that was copied without its log."""
    home = lived_in(tmp_path / "home")
    shutil.rmtree(home / "db")
    with ImageCache(home) as cache:
        assert cache.list() == []
        cache.load(io.BytesIO(docker_archive(APP)))
        cache.prune(orphans=True)
    check_whole(home)


# -- the write-ahead log ------------------------------------------------------------------------------------


def with_log(folder: Path, *names: str) -> Path:
    """A home that was copied while its newest events were still in the write-ahead log."""
    home, copied = folder / "home", folder / "copied"
    with ImageCache(home) as first:
        first.load(io.BytesIO(docker_archive(IMAGES["lone"])))
        first.list()
        with ImageCache(home) as second:
            for name in names:
                second.load(io.BytesIO(docker_archive(IMAGES[name])))
        shutil.copytree(home, copied)
    settle(copied)
    assert (copied / "db/msb-cache.db-wal").stat().st_size > 0
    return copied


def test_the_write_ahead_log_is_part_of_it(tmp_path: Path) -> None:
    home = with_log(tmp_path, "one", "two")
    check_whole(home)
    with ImageCache(home) as cache:
        assert len(cache.list()) == 3


def test_a_missing_write_ahead_log(tmp_path: Path) -> None:
    """Nothing can tell that it was there; what is left is whole, and files of the rest are found as extra."""
    home = with_log(tmp_path, "one", "two")
    for suffix in ("-wal", "-shm"):
        (home / f"db/msb-cache.db{suffix}").unlink(missing_ok=True)
    with ImageCache(home) as cache:
        try:
            found = cache.verify()
        except LogError:
            return  # all of it was in the write-ahead log
        assert found.sound
        cache.prune(orphans=True)
        check_whole(home)


def test_a_write_ahead_log_of_another_database(tmp_path: Path) -> None:
    """SQLite may take its pages for its own; the chain tells, or SQLite itself."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    home, other = with_log(tmp_path / "a", "one"), with_log(tmp_path / "b", "two", "moved")
    before = _ids(home)
    shutil.copy(other / "db/msb-cache.db-wal", home / "db/msb-cache.db-wal")
    (home / "db/msb-cache.db-shm").unlink(missing_ok=True)
    for command in COMMANDS:
        said = msb_cache(home, *command)
        assert said.code in (0, 1, 3)
        assert "Traceback" not in said.err
    said = msb_cache(home, "verify")
    assert said.code == 1 or _ids(home) != before


def _ids(home: Path) -> list[str]:
    try:
        with ImageCache(home) as cache:
            return [event.id for event in cache.events()]
    except LogError:
        return []
