"""The schema that msb's database names: tried or not, and nothing in it that could drive anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache, MsbDatabaseError
from msb_cache.msb import schema
from msb_cache.msb.schema import TRIED, MsbSchema
from tests.msbhome import MsbHome

NEWEST = max(TRIED)
NEWER = "m20990101_000001_images_elsewhere"


@pytest.fixture
def home(own_home: Path) -> Iterator[MsbHome]:
    with closing(MsbHome(own_home)) as found:
        found.load("app:1", "one")
        yield found


def migrate(home: MsbHome, *names: object) -> None:
    home.connection.execute("CREATE TABLE seaql_migrations (version varchar PRIMARY KEY, applied_at integer)")
    home.connection.executemany("INSERT INTO seaql_migrations VALUES (?, 1)", [(name,) for name in names])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], None),
        ([*TRIED], MsbSchema(NEWEST, 0)),
        ([min(TRIED)], MsbSchema(min(TRIED), 0)),
        ([*TRIED, NEWER], MsbSchema(NEWER, 1)),
        ([*TRIED, "m20260101_000001_between", NEWER], MsbSchema(NEWER, 2)),
        ([*TRIED, "m20260101_000001_between"], MsbSchema("m20260101_000001_between", 1)),
        ([*TRIED, b"\xff\x00", "x" * 300, None, 7], MsbSchema("7", 1)),
    ],
)
def test_what_is_named(home: MsbHome, names: list[object], found: MsbSchema | None) -> None:
    migrate(home, *names)
    assert schema.read(home.path) == found


def test_none_is_named(home: MsbHome, tmp_path: Path) -> None:
    assert schema.read(home.path) is None
    home.connection.execute("CREATE TABLE seaql_migrations (name text)")
    assert schema.read(home.path) is None
    assert schema.read(tmp_path / "nothing") is None
    (tmp_path / "other").write_bytes(b"no database")
    assert schema.read(tmp_path / "other") is None


def test_a_schema_that_was_not_tried_is_named_once(home: MsbHome) -> None:
    migrate(home, *TRIED, "m20260101_000001_a", f"{NEWER}\x1b[31m")
    said = (
        f"msb's database has a schema that this msb-cache was not tried with ('{NEWER}\\x1b[31m' and 1 more "
        "migration); it is read as far as its columns are known: look for a newer msb-cache"
    )
    with ImageCache(home.layout.home) as cache:
        assert cache.sync().notes == (said,)
        assert [handle.reference for handle in cache.list()] == ["app:1"]
        assert cache.info().msb_schema_note == said


def test_a_schema_without_the_tables_that_are_known_says_which_it_is(home: MsbHome) -> None:
    migrate(home, NEWER)
    home.connection.execute("PRAGMA foreign_keys = OFF")
    home.connection.execute("ALTER TABLE image_ref RENAME TO reference")
    with ImageCache(home.layout.home) as cache, pytest.raises(MsbDatabaseError, match=NEWER):
        cache.sync()


def test_the_note_counts(home: MsbHome) -> None:
    assert MsbSchema(NEWEST, 0).note is None
    assert f"('{NEWER}')" in (MsbSchema(NEWER, 1).note or "")
    assert "and 2 more migrations" in (MsbSchema(NEWER, 3).note or "")


def test_a_database_of_any_size_is_read_in_bounds(home: MsbHome) -> None:
    migrate(home, *(f"m{number:08}" for number in range(3000)))
    assert schema.read(home.path) == MsbSchema("m00002999", 1000)
