"""A fleet's logs are checked where they lie: whatever is changed there is found, and said as a host would."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from msb_cache import ImageCache
from msb_cache.errors import CorruptLogError, FleetError, ImageNotFoundError, InvalidConfigError
from msb_cache.eventstore.merkle import Frontier, leaf_hash
from msb_cache.fleet.admission import init
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.fold import fold, rebuild
from msb_cache.proof.signer import new_secret
from msb_cache.proof.tree_head import TreeHead
from tests.fleet.copies import copied, new_database
from tests.fleet.sent import chained, log_of, send
from tests.reporthome import make


class Shipped(NamedTuple):
    """A database with two hosts' logs, folded; and the homes that they are of."""

    dsn: str
    homes: list[Path]
    rows: list[list[tuple[object, ...]]]

    @property
    def log_id(self) -> str:
        return str(self.rows[0][0][0])


@pytest.fixture(scope="module")
def shipped(postgres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("homes")
    homes = [folder / "one", folder / "two"]
    make(homes[0], scale=100)
    with ImageCache(homes[1]) as cache:
        cache.pin("python:3.12")
    dsn = new_database(postgres)
    init(dsn)
    rows = [log_of(home) for home in homes]
    for number, each in enumerate(rows):
        made = enrol(dsn, f"verified-{number}", password="its own")
        send(f"{made.dsn} password='its own'", each)
    assert not fold(Postgres(dsn)).stopped
    return Shipped(dsn, homes, rows)


@pytest.fixture
def dsn(postgres, shipped):
    """The superuser's DSN of a copy of that."""
    with copied(postgres, shipped.dsn) as copy:
        yield copy


def change(dsn, *statements):
    """Do what only a superuser can who has put the triggers out of the way."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE msb_cache.events DISABLE TRIGGER USER")
        for statement, *arguments in statements:
            assert connection.execute(statement, arguments).rowcount != 0


def verified(dsn, shipped, **asked):
    """Return what is found of the first log, and check that the other one is sound."""
    found = {each.log_id: each for each in Fleet(dsn).verify(**asked)}
    mine = found.pop(shipped.log_id)
    assert all(each.sound for each in found.values())
    return mine


def test_what_was_shipped_is_sound(dsn, shipped):
    found = Fleet(dsn).verify()
    assert {each.log_id: (each.sound, each.events, each.head) for each in found} == {
        str(rows[0][0]): (True, len(rows), rows[-1][-1]) for rows in shipped.rows
    }
    shape = found[0].to_dict()
    assert (shape["sound"], shape["problem"], shape["folded_seq"]) == (True, None, found[0].events)
    assert [each.log_id for each in Fleet(dsn).verify([shipped.log_id[:8]])] == [shipped.log_id]
    with pytest.raises(ImageNotFoundError):
        Fleet(dsn).verify(["nobody"])


AT = 7
CHANGED = {
    "id": "'01999999-9999-7999-8999-999999999999'",
    "type": "'image.used'",
    "version": "version + 1",
    "subject": "subject || 'x'",
    "operation": "'00000000-0000-0000-0000-000000000000'",
    "occurred_at": "occurred_at + 1",
    "recorded_at": "recorded_at + 1",
    "actor": "actor || ' '",
    "data": "data || ' '",
}


@pytest.mark.parametrize("column", CHANGED)
def test_a_changed_column_is_found(dsn, shipped, column, tmp_path):
    statement = f"UPDATE msb_cache.events SET {column} = {CHANGED[column]} WHERE log_id = %s AND seq = {AT}"
    change(dsn, (statement, shipped.log_id))
    found = verified(dsn, shipped)
    assert not found.sound
    assert (found.broken.seq, found.broken.kind) == (AT, "changed")
    assert "a column of it was changed" in found.broken.problem
    assert found.events == AT - 1
    with ImageCache(shipped.homes[0]) as cache:
        cache.export(tmp_path / "log.jsonl")
    beside = verified(dsn, shipped, against=tmp_path / "log.jsonl").against
    assert (beside.differs_at, beside.column) == (AT, column)
    assert beside.events == len(shipped.rows[0])


def test_a_changed_hash_is_told_from_changed_contents(dsn, shipped):
    statement = f"UPDATE msb_cache.events SET hash = sha256(hash) WHERE log_id = %s AND seq = {AT}"
    change(dsn, (statement, shipped.log_id))
    assert verified(dsn, shipped).broken.kind == "hash"


def test_a_log_written_anew_is_another_than_the_hosts(dsn, shipped, tmp_path):
    rows = [list(row) for row in shipped.rows[0]]
    rows[AT - 1][9] = rows[AT - 1][9].replace("{", '{"reason":"x",', 1)
    forged = chained([tuple(row) for row in rows])
    change(
        dsn,
        *(
            (
                "UPDATE msb_cache.events SET actor = %s, hash = %s WHERE log_id = %s AND seq = %s",
                row[9],
                row[-1],
                row[0],
                row[1],
            )
            for row in forged
        ),
        ("UPDATE msb_cache.head SET hash = %s WHERE log_id = %s", forged[-1][-1], shipped.log_id),
        (
            "UPDATE msb_cache.fold_state SET hash = %s, tree = NULL WHERE log_id = %s",
            forged[-1][-1],
            shipped.log_id,
        ),
    )
    path = tmp_path / "own.db"
    with ImageCache(shipped.homes[0]) as cache:
        cache.backup(path)
    found = verified(dsn, shipped, against=path)
    assert not found.sound
    assert found.against.differs_at == AT
    assert found.against.column == "actor"


@pytest.mark.parametrize(
    ("which", "kind", "at"),
    [("seq = 7", "missing", 7), ("seq = 1", "missing", 1), ("seq >= 9", "truncated", 9)],
)
def test_a_deleted_event_is_found(dsn, shipped, which, kind, at):
    change(dsn, (f"DELETE FROM msb_cache.events WHERE log_id = %s AND {which}", shipped.log_id))
    found = verified(dsn, shipped)
    assert (found.broken.kind, found.broken.seq) == (kind, at)
    beside = verified(dsn, shipped, against=shipped.homes[0] / "db" / "msb-cache.db").against
    if kind == "missing":
        assert beside.missing_at == at
    else:
        assert (beside.problem, beside.file_has) == (None, len(shipped.rows[0]) - at + 1)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE msb_cache.head SET hash = sha256(hash)", "the log's head has not the hash"),
        ("UPDATE msb_cache.head SET recorded_at = recorded_at + 1", "the log's head has not the hash"),
        ("UPDATE msb_cache.head SET size = size - 1", "1 event behind event"),
        ("UPDATE msb_cache.fold_state SET hash = sha256(hash)", "the fold's state has not the hash"),
        ("UPDATE msb_cache.fold_state SET tree = sha256(tree)", "another tree"),
        ("UPDATE msb_cache.fold_state SET host = 'ghost'", "calls the host 'ghost'"),
        ("UPDATE msb_cache.fold_state SET seq = seq + 1", "is said to be folded"),
        ("UPDATE msb_cache.told SET data = data || ' '", "is not what the event says"),
        ("DELETE FROM msb_cache.told", "says is not told"),
    ],
)
def test_what_the_server_says_of_a_log_is_compared_with_it(dsn, shipped, statement, said):
    change(dsn, (f"{statement} WHERE log_id = %s", shipped.log_id))
    found = verified(dsn, shipped)
    assert not found.sound
    assert said in found.problems[0]
    assert found.events == len(shipped.rows[0])


def test_a_head_that_is_too_far_is_a_log_cut_off(dsn, shipped):
    change(dsn, ("UPDATE msb_cache.head SET size = size + 3 WHERE log_id = %s", shipped.log_id))
    assert verified(dsn, shipped).broken.kind == "truncated"


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE msb_cache.image SET last_used_at = last_used_at + 1", "image"),
        ("DELETE FROM msb_cache.manifest_layer", "manifest_layer"),
        ("UPDATE msb_cache.deletion SET finished_at = 1", "deletion"),
    ],
)
def test_a_changed_row_of_what_is_folded_is_found(dsn, shipped, statement, table):
    change(dsn, (f"{statement} WHERE log_id = %s", shipped.log_id))
    found = verified(dsn, shipped)
    assert not found.sound
    assert (found.broken, found.problems) == (None, [])
    assert {difference.table for difference in found.differences} == {table}


def test_read_models_of_another_release_cannot_be_compared(dsn, shipped):
    change(dsn, ("UPDATE msb_cache.fleet SET fold_version = fold_version + 1",))
    found = Fleet(dsn).verify()
    assert ["of the fold's version" in (each.unreadable or "") for each in found] == [True, True]


def test_what_is_not_folded_yet_is_checked_all_the_same(dsn, shipped):
    rebuild(Postgres(dsn))
    found = verified(dsn, shipped)
    assert (found.sound, found.folded_seq, found.events) == (True, 0, len(shipped.rows[0]))


def test_a_role_that_may_not_read_events_is_told_which_may(dsn, shipped):
    made = enrol(dsn, "looks-on", kind="reader", password="its own")
    with pytest.raises(FleetError, match="connect as a folder"):
        Fleet(f"{made.dsn} password='its own'").verify()
    made = enrol(dsn, "folds", kind="folder", password="its own")
    assert all(each.sound for each in Fleet(f"{made.dsn} password='its own'").verify())


def test_a_file_says_which_log_it_is_beside(dsn, shipped, tmp_path):
    path = tmp_path / "end.jsonl"
    with ImageCache(shipped.homes[0]) as cache:
        cache.export(path, since_seq=100)
    with pytest.raises(InvalidConfigError, match="name the host"):
        Fleet(dsn).verify(against=path)
    (found,) = Fleet(dsn).verify([shipped.log_id], against=path)
    assert (found.sound, found.against.events) == (True, len(shipped.rows[0]) - 100)
    with pytest.raises(ImageNotFoundError, match="no such host"):
        Fleet(dsn).verify([str(shipped.rows[1][0][0])], against=shipped.homes[0] / "db" / "msb-cache.db")
    path.write_text("")
    with pytest.raises(CorruptLogError, match="no log"):
        Fleet(dsn).verify(against=path)


def test_an_export_that_is_cut_off_says_so(dsn, shipped, tmp_path):
    path = tmp_path / "log.jsonl"
    with ImageCache(shipped.homes[0]) as cache:
        cache.export(path)
    path.write_bytes(path.read_bytes()[:-5])
    (found,) = Fleet(dsn).verify(against=path)
    assert not found.sound
    assert "is cut off" in found.against.problem
    assert found.against.fleet_has == 1


def note_of(shipped, size, *, origin="ci7.example.com", root=None):
    tree = Frontier()
    tree.extend(leaf_hash(row[-1]) for row in shipped.rows[0][:size])
    return TreeHead(origin, size, root or tree.root()).text


NOTED = (
    "INSERT INTO msb_cache.checkpoint (log_id, origin, size, note, received_at) VALUES (%s, %s, %s, %s, 1)"
)


def test_signed_checkpoints_are_compared(dsn, shipped):
    for size in (0, 1, 7, 64, len(shipped.rows[0])):
        change(dsn, (NOTED, shipped.log_id, "ci7.example.com", size, note_of(shipped, size)))
    found = verified(dsn, shipped)
    assert (found.sound, found.checkpoints, found.bad_checkpoints) == (True, 5, [])


@pytest.mark.parametrize(
    ("size", "note", "kind"),
    [
        (7, {"root": bytes(32)}, "rewritten"),
        (9, {"root": bytes(32)}, "rewritten"),
        (10_000, {"root": bytes(32)}, "cut-off"),
    ],
)
def test_a_checkpoint_of_another_log_is_found(dsn, shipped, size, note, kind):
    change(dsn, (NOTED, shipped.log_id, "ci7.example.com", size, note_of(shipped, size, **note)))
    found = verified(dsn, shipped)
    assert not found.sound
    (bad,) = found.bad_checkpoints
    assert (bad.size, bad.problem) == (size, kind)
    assert "of others than those that were shipped" in bad.detail


def test_of_a_log_with_a_key_its_checkpoints_must_be_signed(dsn, shipped, tmp_path):
    key = new_secret(tmp_path / "log.key", "ci7.example.com")
    change(
        dsn,
        ("UPDATE msb_cache.enrolment SET log_key = %s WHERE role = 'verified-0'", str(key)),
        (NOTED, shipped.log_id, "else.example.com", 7, note_of(shipped, 7, root=bytes(32))),
        (NOTED, shipped.log_id, "ci7.example.com", 7, note_of(shipped, 7)),
    )
    found = verified(dsn, shipped)
    assert found.checkpoints == 1
    assert "is not signed by ci7.example.com" in found.bad_checkpoints[0].detail


def test_a_fleet_in_a_file_is_checked_as_well(shipped, tmp_path):
    fleet = Fleet(db=tmp_path / "fleet.db")
    for number, home in enumerate(shipped.homes):
        path = tmp_path / f"{number}.jsonl"
        with ImageCache(home) as cache:
            cache.export(path)
        assert [each.problem for each in fleet.take([path])] == [None]
    assert [each.sound for each in fleet.verify()] == [True, True]
    assert fleet.verify(against=tmp_path / "0.jsonl")[0].against.events == len(shipped.rows[0])
    with closing(sqlite3.connect(tmp_path / "fleet.db", isolation_level=None)) as connection:
        connection.execute(
            "UPDATE events SET actor = actor || ' ' WHERE seq = 7 AND log_id = ?", (shipped.log_id,)
        )
    found = {each.log_id: each for each in fleet.verify()}
    assert {log_id for log_id, each in found.items() if not each.sound} == {shipped.log_id}
    assert found[shipped.log_id].broken.seq == 7


def test_it_tells_how_far_it_is(dsn, shipped):
    told = []
    Fleet(dsn).verify([shipped.log_id], progress=told.append)
    assert {(each.unit, each.total) for each in told} == {("events", len(shipped.rows[0]))}
    assert told[-1].over
