"""Replay: the steps add up to the index, and a state that went wrong is led back to an event."""

from __future__ import annotations

import io
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache import CorruptLogError, ImageCache, LogError, NewerDatabaseError
from msb_cache.artifacts.layout import Layout
from msb_cache.audit.log_files import read_state
from msb_cache.cli.replay import _print_state
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent, StoredEvent
from msb_cache.projections import FOLD_VERSION
from msb_cache.projections.replay import Replay, State, divergences
from msb_cache.projections.rows import ROW_TYPES
from msb_cache.projections.tables import stored_rows
from tests.carrying import USED, forged, lived_in
from tests.cli.support import APP
from tests.imagebuilder import docker_archive
from tests.logs import ACTOR, digest, layer, manifest_added, pulled


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

A, B = "docker.io/library/a:1", "docker.io/library/b:1"
OPERATIONS = [f"01a208e6-ab10-7741-a5e9-d0d4e768140{number}" for number in range(3)]
events = st.one_of(
    st.sampled_from([A, B]).map(lambda name: NewEvent(pulled(digest(name)), name)),
    st.sampled_from([A, B]).map(lambda name: NewEvent(pulled(digest(1)), name)),
    st.sampled_from([A, B]).map(lambda name: NewEvent(ev.ImageUsed(manifest_digest=digest(1)), name)),
    st.sampled_from([A, B]).map(
        lambda name: NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="external"), name)
    ),
    st.sampled_from(["sandbox:x", "sandbox:y"]).map(
        lambda name: NewEvent(ev.ImageHeld(holder=name), digest(1))
    ),
    st.sampled_from(["sandbox:x", "sandbox:y"]).map(
        lambda name: NewEvent(ev.ImageReleased(holder=name), digest(1))
    ),
    st.just(NewEvent(manifest_added([layer(1), layer(2)]), digest(1))),
    st.just(NewEvent(ev.ManifestDeleted(), digest(1))),
    st.sampled_from(OPERATIONS).map(lambda each: NewEvent(ev.DeletionStarted(kind="prune", policy={}), each)),
    st.integers(1, 9).map(lambda each: NewEvent(ev.LayerDeleted(bytes=each), digest(f"diff{each}"))),
)


def stored(chosen: list[NewEvent]) -> list[StoredEvent]:
    return [
        StoredEvent(
            seq=seq,
            id=str(seq),
            type=event.event.type,
            version=1,
            subject=event.subject,
            operation=OPERATIONS[seq % 3],
            occurred_at_ns=1000 + seq,
            recorded_at_ns=1000 + seq,
            actor=ACTOR,
            data=event.event,
            hash=bytes(32),
        )
        for seq, event in enumerate(chosen, 1)
    ]


def state_of(log: list[StoredEvent], seq: int) -> State:
    replay = Replay()
    for event in log:
        replay.step(event)
    return State(log_id="", seq=seq, hash=None, fold_version=FOLD_VERSION, tables=replay.tables())


@given(st.lists(events, min_size=1, max_size=30), st.data())
@settings(deadline=None)
def test_a_state_that_missed_one_event(chosen: list[NewEvent], data: st.DataObject) -> None:
    """Each row that went wrong is led back to where its columns were last right, as looking at all says."""
    log = stored(chosen)
    missed = data.draw(st.integers(1, len(log)))
    state = state_of([event for event in log if event.seq != missed], len(log))
    found = divergences(lambda: log, state)
    given = state.rows()
    past = [state_of(log[:seq], seq).rows() for seq in range(len(log) + 1)]
    assert {(each.table, each.key) for each in found} == {
        place for place in past[-1].keys() | given.keys() if past[-1].get(place) != given.get(place)
    }
    for each in found:
        place = (each.table, each.key)
        cells = [[row.get(place) for row in past], given.get(place)]
        assert each.seq == min(blamed(*cells, column) for column in differing(each)), place


def blamed(rows: Sequence[Any], wanted: Any, column: int) -> int:
    """Return the event after which a column was last as wanted; if it never was, its last writer."""
    values = [None if row is None else (row[column],) for row in rows]
    want = None if wanted is None else (wanted[column],)
    changed = [seq for seq in range(1, len(values)) if values[seq] != values[seq - 1]]
    return max((seq for seq in changed if values[seq - 1] == want), default=max(changed, default=0))


def differing(found: Any) -> list[int]:
    ours, theirs = found.folded, found.state
    if ours is None or theirs is None:
        return [*range(len(ours or theirs))]
    return [column for column in range(len(ours)) if ours[column] != theirs[column]]


# -- files that are no log ----------------------------------------------------------------------------


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")


def _empty_database(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(84))


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _view(path: Path) -> None:
    """A table that is made up by a query would never end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE events")
        connection.execute(
            "CREATE VIEW events AS WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n) "
            "SELECT seq, '' id, '' type, 1 version, '' subject, '' operation, 1 occurred_at, 1 recorded_at, "
            "'{}' actor, '{}' data, x'00' hash FROM n"
        )


def _generated(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE events")
        connection.execute(
            "CREATE TABLE events (seq, id, type, version, subject, operation, occurred_at, recorded_at, "
            "actor, data GENERATED ALWAYS AS (hex(zeroblob(100000000))), hash)"
        )


def _damaged(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xaa" * (len(data) - 4096))


def _other_types(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER events_no_update")
        connection.execute("UPDATE events SET occurred_at = 'yesterday' WHERE seq = 2")


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (_foreign, CorruptLogError, "not one of msb-cache"),
        (_empty_database, CorruptLogError, "damaged"),
        (_newer, NewerDatabaseError, "upgrade msb-cache"),
        (_view, CorruptLogError, "no table events"),
        (_generated, CorruptLogError, "column data"),
        (_damaged, CorruptLogError, "damaged"),
        (_other_types, CorruptLogError, "its occurred_at is no integer"),
        (lambda path: path.write_bytes(b""), LogError, "the log is empty"),
        (lambda path: path.write_bytes(b"hello\n"), CorruptLogError, "line 1 is no exported event"),
        (lambda path: path.unlink(), LogError, "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), LogError, "regular file"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_files_that_are_no_log(
    home: Path, tmp_path: Path, spoil: Any, error: type[Exception], says: str
) -> None:
    path = tmp_path / "log"
    if spoil is not _foreign:
        with closing(sqlite3.connect(Layout(home).database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(Layout(home).database, path)
    spoil(path)
    with ImageCache(tmp_path / "none") as cache:
        with pytest.raises(error, match=says):
            list(cache.replay(log=path))
        with pytest.raises(LogError):
            cache.compare_state(path, log=path)


def test_events_that_would_harm_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(forged(tmp_path, USED, subject="docker.io/UPPER:1"))
    with ImageCache(tmp_path / "none") as cache, pytest.raises(CorruptLogError, match="event 2 is none"):
        list(cache.replay(log=path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither"),
        ("{}", "neither"),
        ("[]", "neither"),
        ("[" * 100_000, "neither"),
        ('{"kind":"x","log_id":"","seq":1,"hash":null,"fold_version":2,"tables":{}}', "no state"),
        (
            '{"kind":"msb-cache state","log_id":"","seq":1,"hash":null,"fold_version":2,'
            '"tables":{"image":[["a"]]}}',
            "rows of 'image'",
        ),
        (
            '{"kind":"msb-cache state","log_id":"","seq":1,"hash":null,"fold_version":2,'
            '"tables":{"x":[[1]]}}',
            "rows of 'x'",
        ),
        (
            '{"kind":"msb-cache state","log_id":"","seq":1,"hash":null,"fold_version":2,'
            '"tables":{"layer":[["a",' + "9" * 5000 + ",1]]}}",
            "state",
        ),
    ],
    ids=lambda value: value[:30],
)
def test_files_that_are_no_state(home: Path, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "state").write_text(text)
    with ImageCache(home) as cache, pytest.raises(CorruptLogError, match=says):
        cache.compare_state(tmp_path / "state")
