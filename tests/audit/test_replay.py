"""Replay: the steps add up to the index, and a state that went wrong is led back to an event."""

from __future__ import annotations

import io
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from msb_cache import CorruptLogError, ImageCache, LogError
from msb_cache.artifacts.layout import Layout
from msb_cache.audit.log_files import read_state
from msb_cache.cli.replay import _print_state
from msb_cache.eventstore import events as ev
from msb_cache.projections import FOLD_VERSION
from msb_cache.projections.replay import State
from msb_cache.projections.rows import ROW_TYPES
from msb_cache.projections.tables import stored_rows
from tests.carrying import lived_in
from tests.cli.support import APP
from tests.imagebuilder import docker_archive


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return lived_in(tmp_path / "home")


def index(home: Path) -> dict[tuple[str, Any], tuple[Any, ...]]:
    """The rows that the home has."""
    with closing(sqlite3.connect(Layout(home).database)) as connection:
        return {
            (row_type.table, row[: row_type.key_length]): row
            for row_type in ROW_TYPES
            for row in stored_rows(connection, row_type)
        }


def change(home: Path, *statements: str) -> None:
    """Change the index behind the log's back."""
    with closing(sqlite3.connect(Layout(home).database, isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0


def test_the_changes_add_up_to_the_index(home: Path) -> None:
    rows: dict[tuple[str, Any], tuple[Any, ...]] = {}
    with ImageCache(home) as cache:
        found = list(cache.replay())
        events = cache.events()
    assert [step.event for step in found] == events
    for step in found:
        for changed in step.changes:
            place = (changed.table, changed.key)
            assert rows.get(place) == changed.before != changed.after
            if changed.after is None:
                del rows[place]
            else:
                rows[place] = changed.after
    assert rows == index(home)


def test_a_part_of_it(home: Path) -> None:
    with ImageCache(home) as cache:
        whole = list(cache.replay())
        assert list(cache.replay(after=3, until=5)) == whole[3:5]
        assert list(cache.replay(after=1000)) == []


@pytest.mark.parametrize("kind", ["database", "export"])
def test_somebody_elses_log_is_only_read(home: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    path = folder / kind
    with ImageCache(home) as cache:
        whole = list(cache.replay())
        if kind == "export":
            cache.export(path)
    if kind == "database":
        with closing(sqlite3.connect(Layout(home).database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(Layout(home).database, path)
    before = path.read_bytes()
    folder.chmod(0o500)
    with ImageCache(tmp_path / "none") as cache:
        assert list(cache.replay(log=path)) == whole
        assert [entry.name for entry in folder.iterdir()] == [kind]
        assert path.read_bytes() == before
        assert not (tmp_path / "none").exists()
    folder.chmod(0o700)


def test_what_does_not_verify_is_said_and_shown(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ImageCache(home) as cache:
        cache.export(path)
        whole = list(cache.replay())
        path.write_bytes(
            path.read_bytes().replace(b'\\"holder\\":\\"sandbox:dev', b'\\"holder\\":\\"sandbox:new')
        )
        notes: list[str] = []
        assert len(list(cache.replay(log=path, note=notes.append))) == len(whole)
    assert len(notes) == 1
    assert "the log does not verify: the hash of event" in notes[0]


def test_a_state_is_the_index_at_a_position(home: Path) -> None:
    with ImageCache(home) as cache:
        state = cache.replay_state()
        assert state.rows() == index(home)
        assert state.fold_version == FOLD_VERSION
        assert cache.replay_state(until=1).rows() == {}
        for until in (0, 1000):
            with pytest.raises(LogError, match="event"):
                cache.replay_state(until=until)
    stored = read_state(Layout(home).database)
    assert (stored.log_id, stored.seq, stored.hash) == (state.log_id, state.seq, state.hash)
    assert stored.rows() == state.rows()


def test_a_sound_index_is_what_the_log_says(home: Path, tmp_path: Path) -> None:
    with ImageCache(home) as cache:
        for log in (None, Layout(home).database):
            compared = cache.compare_state(Layout(home).database, log=log)
            assert (compared.divergences, compared.step) == ([], None)


def seq_of(home: Path, type_: type[ev.Event], which: int = 0) -> int:
    with ImageCache(home) as cache:
        return cache.events(types=[type_.type])[which].seq


@pytest.mark.parametrize(
    ("statement", "type_", "table"),
    [
        ("DELETE FROM hold", ev.ImageHeld, "hold"),
        ("UPDATE image SET last_used_at = created_at", ev.ImageUsed, "image"),
        ("UPDATE image SET last_used_at = 5 WHERE reference LIKE '%app:1'", ev.ImageUsed, "image"),
        ("UPDATE image SET created_at = 5 WHERE reference LIKE '%app:1'", ev.ImagePulled, "image"),
        ("UPDATE deletion SET outcome = NULL", ev.DeletionFinished, "deletion"),
        ("UPDATE deletion SET bytes_reclaimed = NULL", ev.MetadataDeleted, "deletion"),
        ("DELETE FROM layer", ev.ManifestAdded, "layer"),
    ],
)
def test_a_wrong_row_is_led_back_to_its_event(
    home: Path, statement: str, type_: type[ev.Event], table: str
) -> None:
    change(home, statement)
    with ImageCache(home) as cache:
        compared = cache.compare_state(Layout(home).database)
    assert {found.table for found in compared.divergences} == {table}
    assert compared.step is not None
    assert isinstance(compared.step.event.data, type_)
    assert compared.step.event.seq == compared.divergences[0].seq == seq_of(home, type_)
    assert table in {changed.table for changed in compared.step.changes}


@pytest.mark.parametrize("value", ["x'00ff'", "1.5"])
def test_a_state_of_other_types(home: Path, value: str) -> None:
    change(home, f"UPDATE layer SET erofs_bytes = {value}")
    with ImageCache(home) as cache, pytest.raises(CorruptLogError, match="rows of 'layer'"):
        cache.compare_state(Layout(home).database)


def test_a_row_that_no_event_made(home: Path) -> None:
    change(home, "INSERT INTO layer VALUES ('sha256:00', 5, 3)")
    with ImageCache(home) as cache:
        compared = cache.compare_state(Layout(home).database)
    assert compared.step is None
    assert [(found.seq, found.key, found.folded) for found in compared.divergences] == [
        (0, ("sha256:00",), None)
    ]


def test_an_index_that_was_left_behind(home: Path, tmp_path: Path) -> None:
    """What an older copy has is right for its position."""
    with closing(sqlite3.connect(Layout(home).database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(Layout(home).database, tmp_path / "old.db")
    with ImageCache(home) as cache:
        cache.use("app:1")
        assert cache.compare_state(tmp_path / "old.db").divergences == []
        with pytest.raises(LogError, match="and the log ends at event"):
            cache.compare_state(Layout(home).database, log=tmp_path / "old.db")


def written(state: State, path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    capsys.readouterr()
    _print_state(state)
    path.write_text(capsys.readouterr().out)
    return path


def test_a_written_state_is_one(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ImageCache(home) as cache:
        for until in (None, 1, 6):
            state = cache.replay_state(until=until)
            path = written(state, tmp_path / "state.json", capsys)
            assert cache.compare_state(path).divergences == []
            assert read_state(path).rows() == state.rows()


def test_states_that_cannot_be_compared(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ImageCache(home) as cache, ImageCache(tmp_path / "other") as other:
        state = cache.replay_state()
        for changes, says in (
            ({"fold_version": 1}, "another release"),
            ({"log_id": "x"}, "another log"),
            ({"seq": state.seq + 1}, "the log ends at event"),
            ({"hash": "00" * 32}, "their hashes are not the same"),
        ):
            path = written(msgspec.structs.replace(state, **changes), tmp_path / "state.json", capsys)
            with pytest.raises(LogError, match=says):
                cache.compare_state(path)
        other.load(io.BytesIO(docker_archive(APP)))
        with pytest.raises(LogError, match="another log"):
            other.compare_state(Layout(home).database)


# -- by the fold alone ----------------------------------------------------------------------------------

# -- files that are no log ----------------------------------------------------------------------------
