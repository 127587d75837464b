"""A database in the place of another, and what is set aside for it; test_restore kills it at each step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import InvalidImageError
from msb_cache.eventstore.ids import uuid7
from msb_cache.home import replacing


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path)
    found.db.mkdir()
    return found


def write(layout: Layout, *suffixes: str) -> None:
    for suffix in suffixes:
        Path(f"{layout.database}{suffix}").write_text(f"old{suffix}")


def test_the_new_one_takes_the_place_of_all_that_was_there(layout: Layout) -> None:
    write(layout, "", "-wal", "-shm")
    operation = uuid7()
    built = Layout(layout.building(operation))
    built.db.mkdir(parents=True)
    Path(built.database).write_text("new")
    folder = replacing.set_aside(layout, operation)
    assert folder is not None
    replacing.replace(layout, operation)
    assert Path(layout.database).read_text() == "new"
    assert sorted(path.name for path in layout.db.iterdir()) == ["msb-cache.db", "operations", "set-aside"]
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        f"msb-cache.db{suffix}": f"old{suffix}" for suffix in ("", "-wal", "-shm")
    }


def test_a_marker_of_what_was_taken_back_goes(layout: Layout) -> None:
    write(layout, "")
    Path(layout.replacing).write_text(uuid7())
    replacing.finish(layout, pytest.fail)
    assert Path(layout.database).read_text() == "old"
    assert not os.path.lexists(layout.replacing)


def test_a_marker_that_names_no_operation_is_refused(layout: Layout) -> None:
    Path(layout.replacing).write_text("../../../etc")
    with pytest.raises(InvalidImageError, match="is not an operation id"):
        replacing.finish(layout, pytest.fail)


def test_only_what_has_no_database_is_a_stray(layout: Layout) -> None:
    assert replacing.set_strays_aside(layout, uuid7()) is None
    write(layout, "", "-wal")
    assert replacing.set_strays_aside(layout, uuid7()) is None
    os.unlink(layout.database)
    folder = replacing.set_strays_aside(layout, uuid7())
    assert folder is not None
    assert [path.name for path in folder.iterdir()] == ["msb-cache.db-wal"]
    assert not os.path.lexists(f"{layout.database}-wal")
