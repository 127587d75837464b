"""Signed checkpoints of a fleet's logs: what agrees is said, and what does not, whenever they come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache.eventstore.merkle import Frontier, leaf_hash
from msb_cache.fleet import folded
from msb_cache.fleet.fold import fold, rebuild
from msb_cache.fleet.place import Place
from msb_cache.fleet.writing import writable
from msb_cache.proof.note import Note
from msb_cache.proof.signer import SecretKey, new_secret, read_secret, sign
from msb_cache.proof.tree_head import TreeHead
from tests.fleet.randomlogs import Row, ask, new_file, random_log, run, ship

ROWS = random_log(7, 90)
LOG_ID = ROWS[0][0]
NAME = "host.example/log"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[SecretKey]:
    """Two keys of one name."""
    paths = [tmp_path_factory.mktemp("keys") / "log.key" for _ in range(2)]
    for path in paths:
        new_secret(path, NAME)
    return [read_secret(path) for path in paths]


def head(rows: Sequence[Row], size: int, origin: str = NAME) -> TreeHead:
    frontier = Frontier()
    frontier.extend(leaf_hash(row[-1]) for row in rows[:size])
    return TreeHead(origin, size, frontier.root())


def signed(found: TreeHead, key: SecretKey) -> str:
    return str(Note(found.text, (sign(found.text, key),)))


def send(place: Place, size: int, note: str, origin: str = NAME) -> None:
    run(place, "INSERT INTO msb_cache.checkpoint VALUES (?, ?, ?, ?, 1)", LOG_ID, origin, size, note)


def found(place: Place) -> tuple[object, ...]:
    (row,) = ask(place, "SELECT seq, checkpoint_size, checkpoint_problem FROM msb_cache.fold_state")
    return row


def enrolled(place: Place, key: SecretKey) -> None:
    run(
        place,
        "INSERT INTO msb_cache.enrolment (role, max_logs, enrolled_at, log_key) VALUES ('host', 1, 1, ?)",
        str(key.key),
    )


def test_checkpoints_agree_that_come_before_the_events_or_after(place: Place, keys: list[SecretKey]) -> None:
    ship(place, ROWS[:40])
    enrolled(place, keys[0])
    send(place, 20, signed(head(ROWS, 20), keys[0]))
    send(place, 60, signed(head(ROWS, 60), keys[0]))
    fold(place, batch=16)
    assert found(place) == (40, 20, None)
    send(place, 33, signed(head(ROWS, 33), keys[0]))
    assert fold(place).events == 0
    assert found(place) == (40, 33, None)
    ship(place, ROWS[40:])
    fold(place)
    assert found(place) == (90, 60, None)
    send(place, 90, signed(head(ROWS, 90), keys[0]))
    send(place, 70, signed(head(ROWS, 70), keys[0]))
    fold(place)
    assert found(place) == (90, 90, None)
    rebuild(place)
    fold(place)
    assert found(place) == (90, 90, None)


@pytest.mark.parametrize("late", [False, True])
def test_another_log_than_was_signed_is_said(place: Place, keys: list[SecretKey], late: bool) -> None:
    def checkpoints() -> None:
        send(place, 10, signed(head(ROWS, 10), keys[0]))
        send(place, 30, signed(head(random_log(8, 90), 30), keys[0]))
        send(place, 50, signed(head(ROWS, 50), keys[0]))

    ship(place, ROWS)
    if late:
        fold(place)
    checkpoints()
    fold(place)
    problem = "the signed checkpoint of 30 events is of others than those that were shipped"
    assert found(place) == (90, 10, problem)
    assert fold(place).stopped == ()  # the events themselves are in order
    assert found(place) == (90, 10, problem)


def test_signatures_must_be_of_the_key_that_was_enrolled(place: Place, keys: list[SecretKey]) -> None:
    ship(place, ROWS)
    enrolled(place, keys[0])
    send(place, 30, signed(head(ROWS, 30), keys[1]))
    fold(place)
    assert found(place) == (90, None, f"the signed checkpoint of 30 events is not signed by {NAME}")


def test_a_changed_signature_is_found(place: Place, keys: list[SecretKey]) -> None:
    ship(place, ROWS)
    enrolled(place, keys[0])
    text = head(ROWS, 30).text
    other = sign(head(ROWS, 31).text, keys[0])
    send(place, 30, str(Note(text, (other,))))
    fold(place)
    assert found(place) == (90, None, f"the signature of {NAME} is not of that key over this text")


def test_checkpoints_of_another_name_count_only_where_no_key_is_known(
    place: Place, keys: list[SecretKey]
) -> None:
    ship(place, ROWS)
    send(place, 30, head(ROWS, 30, "other").text, "other")
    enrolled(place, keys[0])
    fold(place)
    assert found(place) == (90, None, None)
    run(place, "DELETE FROM msb_cache.enrolment")
    fold(place)
    assert found(place) == (90, 30, None)


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        ("nothing", "the signed checkpoint of 30 events is cut off"),
        (f"{NAME}\n31\n{head(ROWS, 30).text.split()[-1]}\n", "is of others than those that were shipped"),
        (f"{NAME}\n30\nAAAA\n", "third line is no root"),
    ],
)
def test_a_note_that_is_none_is_said(place: Place, note: str, problem: str) -> None:
    ship(place, ROWS)
    send(place, 30, note)
    fold(place)
    assert found(place)[:2] == (90, None)
    assert problem in str(found(place)[2])


def archive(place: Place, seq: int) -> None:
    (tree,) = ask(place, "SELECT tree FROM msb_cache.fold_state")
    data = folded.encoded(folded.Prefix({}, None, bytes(tree[0])))
    with writable(place) as into, into.transaction() as writing:
        columns = ("log_id", "seq", "hash", "recorded_at", "fold_version", "rows", "archived_at")
        (version,) = writing.rows("SELECT fold_version FROM msb_cache.fleet")
        last = ROWS[seq - 1]
        writing.insert("anchor", columns, [(LOG_ID, seq, last[-1], last[8], *version, data, 1)])
        writing.run("DELETE FROM msb_cache.events WHERE seq <= ?", (seq,))


def test_behind_an_archive_the_tree_goes_on(place: Place, keys: list[SecretKey]) -> None:
    ship(place, ROWS[:50])
    fold(place)
    archive(place, 50)
    send(place, 30, signed(head(ROWS, 30), keys[0]))  # of that no root can be made any more
    send(place, 50, signed(head(ROWS, 50), keys[0]))
    ship(place, ROWS[50:])
    send(place, 80, signed(head(ROWS, 80), keys[0]))
    fold(place)
    assert found(place) == (90, 80, None)
    rebuild(place)
    fold(place)
    assert found(place) == (90, 80, None)
    run(place, "UPDATE msb_cache.fold_state SET tree = NULL, checkpoint_size = NULL")
    fold(place)
    assert found(place) == (90, 80, None)


@given(data=st.data())
@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_events_and_checkpoints_comes_to_the_same(
    tmp_path: Path, keys: list[SecretKey], data: st.DataObject
) -> None:
    path = tmp_path / "fleet.db"
    path.unlink(missing_ok=True)
    place = new_file(path)
    sizes = data.draw(st.lists(st.integers(1, 90), unique=True, min_size=1, max_size=6))
    cuts = sorted({*data.draw(st.lists(st.integers(1, 89), max_size=4)), 90})
    left = [*sizes]
    begin = 0
    for cut in cuts:
        ship(place, ROWS[begin:cut])
        begin = cut
        for size in left[: data.draw(st.integers(0, 3))]:
            send(place, size, signed(head(ROWS, size), keys[0]))
            left.remove(size)
        fold(place, batch=data.draw(st.sampled_from([5, 40, 100])))
    for size in left:
        send(place, size, signed(head(ROWS, size), keys[0]))
    fold(place)
    assert found(place) == (90, max(sizes), None)
