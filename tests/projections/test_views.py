"""The views: what they say is what the library says, they find their rows by indexes, and are made anew."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_utils import Database

from msb_cache import ImageCache, InvalidReferenceError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Actor, NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.migrations.schema import migrations
from msb_cache.oci.reference import Reference
from msb_cache.projections import FOLD_VERSION, schema, views
from msb_cache.projections.views import VIEWS, View
from tests.logs import PYTHON, digest, layer, manifest_added, new_ledger, pulled, ticking
from tests.samples import new_sample

OF_VERSION = {17: "30dd83bf8340aca9f99106d63d8dbeecd3b830b45b53cc425d74935a21996815"}
"""SHA-256 of the views' SQL, by the fold's version."""
TYPED = OTHER = "docker.io/library/python:3.13"
NOW = time.time_ns()
HOUR = 3600 * 10**9


@pytest.fixture(scope="module")
def empty() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrations.apply(Database(connection))
        schema.create(connection)
        yield connection


def some(home: Path) -> Ledger:
    """Two images that share a layer, one of them in use and pinned, a third that a prune took away."""
    taken = "docker.io/library/gone:1"
    events: list[tuple[ev.Event, str]] = [
        (manifest_added([layer("base", 10), layer(1, 20)]), digest(1)),
        (pulled(digest(1)), PYTHON),
        (manifest_added([layer("base", 10)]), digest(2)),
        (
            ev.ImagePulled(
                manifest_digest=digest(2),
                changed=True,
                source=ev.Source(kind="archive", name="-"),
                spelling=TYPED,
            ),
            OTHER,
        ),
        (ev.ImageHeld(holder="sandbox:dev", reference=PYTHON), digest(1)),
        (ev.ImageUsed(manifest_digest=digest(1), holder="sandbox:job", run="run:7@1"), PYTHON),
        (ev.ImageHeld(holder="sandbox:brief", reference=OTHER, until_ns=NOW - HOUR), digest(2)),
        (ev.ImageHeld(holder="sandbox:long", reference=None, until_ns=NOW + HOUR), digest(1)),
        (ev.ImagePinned(until_ns=NOW + HOUR), PYTHON),
        (ev.ImagePinned(until_ns=NOW + 2 * HOUR), digest(1)),
        (pulled(digest(3)), taken),
    ]
    clock = ticking(NOW - 10 * HOUR)
    ledger = new_ledger(home, [NewEvent(event, subject) for event, subject in events], clock=clock)
    cleaner = Actor(
        user="root", uid=0, host="h", program="msb-cache", login="carol", reason="nightly clean-up"
    )
    with ledger.write("prune-1", actor=cleaner) as transaction:
        transaction.append(
            [
                NewEvent(ev.DeletionStarted(kind="prune", policy={"all": True}), "prune-1"),
                NewEvent(ev.ImageRemoved(manifest_digest=digest(3), cause="prune"), taken),
                NewEvent(ev.LayerDeleted(bytes=5), digest("diff3")),
                NewEvent(ev.DeletionFinished(outcome="completed"), "prune-1"),
            ]
        )
    return ledger


@pytest.fixture
def of(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    ledger = some(tmp_path)
    ledger.close()
    with closing(sqlite3.connect(ledger.layout.database)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def column(connection: sqlite3.Connection, query: str) -> list[object]:
    return [row[0] for row in connection.execute(query)]


def test_other_views_have_another_version() -> None:
    found = hashlib.sha256("\n".join(view.statement for view in VIEWS).encode()).hexdigest()
    assert found == OF_VERSION.get(FOLD_VERSION), (
        "the views are others than before: raise FOLD_VERSION, so that every home gets them"
    )


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_has_its_columns_and_each_time_twice(view: View, empty: sqlite3.Connection) -> None:
    found = [name for _, name, *_ in empty.execute(f"PRAGMA table_info({view.name})")]
    assert found == [column.name for column in view.columns]
    assert len({*found}) == len(found)
    for name in found:
        assert re.fullmatch("[a-z_]+", name)
        empty.execute(f"SELECT {name} FROM {view.name}")  # none has to be quoted
    assert {name for name in found if f"{name}_ns" in found} == {
        name
        for name in found
        if name.endswith("_at") or name in ("since", "until", "idle_since", "pinned_until")
    }


REFERENCES = [
    *("python:3.12", "acme/app:1", "ghcr.io/acme/app:1", "localhost:5000/app:1", "localhost/app:1"),
    *("docker.io/localhost/app:1", "docker.io/foo.bar/x:1", "docker.io/library/a/b:1", "library/python"),
    *(f"python@{digest(1)}", f"python:3@{digest(1)}", f"docker.io/library/{'a' * 64}:1", "a" * 65),
    *(f"docker.io/library/{'a' * 64}@{digest(1)}", f"acme/{'b' * 64}", "docker.io/l.b/x@" + digest(2)),
]


@given(
    st.sampled_from(REFERENCES)
    | st.from_regex(
        r"(docker\.io/|library/|ghcr\.io/|a\.b:5/)?([a-f]{1,3}[./:-]?){1,4}(:[a-z]{1,2})?", fullmatch=True
    )
)
def test_a_reference_is_shown_as_the_library_shows_it(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReferenceError:
        return
    with closing(sqlite3.connect(":memory:")) as connection:
        (found,) = connection.execute(f"SELECT {views.familiar(':r')}", {"r": reference.canonical}).fetchone()
    assert found == reference.familiar


@given(st.integers(0, 2**63 - 1))
def test_a_time_is_shown_to_the_nanosecond(ns: int) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        (found,) = connection.execute(f"SELECT {views.readable(':t')}", {"t": ns}).fetchone()
    seconds, rest = divmod(ns, 10**9)
    assert found == f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09}Z"


def test_images_are_as_the_library_lists_them(of: sqlite3.Connection, tmp_path: Path) -> None:
    rows = {row["image"]: dict(row) for row in of.execute("SELECT * FROM v_images")}
    with ImageCache(tmp_path) as cache:
        for handle in cache.list():
            row = rows.pop(handle.reference)
            for name in ("manifest_digest", "size_bytes", "layer_count", "architecture", "os"):
                assert row[name] == getattr(handle, name)
            assert (row["created_at_ns"], row["last_used_at_ns"]) == (
                handle.created_at_ns,
                handle.last_used_at_ns,
            )
            assert str(row["created_at"])[:26] == f"{handle.created_at:%Y-%m-%d %H:%M:%S.%f}"
    assert rows == {}


def test_an_image_says_whether_it_is_in_use_by_whom_and_pinned(of: sqlite3.Connection) -> None:
    used, idle = of.execute("SELECT * FROM v_images ORDER BY seq").fetchall()
    assert (used["image"], used["reference"]) == ("python:3.12", PYTHON)
    assert idle["image"] == TYPED
    assert (used["in_use"], json.loads(used["in_use_by"])) == (
        1,
        ["sandbox:dev", "sandbox:job", "sandbox:long"],
    )
    assert (used["idle_since"], used["pinned"], used["pinned_until_ns"]) == (None, 1, NOW + 2 * HOUR)
    assert (idle["in_use"], idle["in_use_by"], idle["pinned"], idle["pinned_until"]) == (0, "[]", 0, None)
    # Its hold ended by itself after the last use.
    assert idle["idle_since_ns"] == NOW - HOUR
    assert (used["who"], used["host"], used["program"], used["reason"]) == ("alice", "host", "test", None)


def test_a_pin_without_an_end_is_the_last_one(tmp_path: Path) -> None:
    ledger = some(tmp_path)
    with ledger.write("pin") as transaction:
        transaction.append([NewEvent(ev.ImagePinned(until_ns=None), PYTHON)])
        found = transaction.connection.execute("SELECT pinned, pinned_until FROM v_images WHERE pinned")
        assert found.fetchall() == [(1, None)]


def test_a_name_of_which_msb_has_no_time_has_none(tmp_path: Path) -> None:
    ledger = some(tmp_path)
    with ledger.write("row") as transaction:
        transaction.connection.execute("UPDATE image SET msb_row = '5@-'")
        assert column(transaction.connection, "SELECT created_at FROM v_images") == [None, None]
        transaction.connection.execute("UPDATE image SET msb_row = '5@7'")
        assert None not in column(transaction.connection, "SELECT created_at FROM v_images")


def test_an_event_has_its_reference_as_typed_and_who(of: sqlite3.Connection) -> None:
    rows = of.execute("SELECT * FROM v_events ORDER BY seq").fetchall()
    assert rows[2]["image"] == "python:3.12"
    assert rows[4]["image"] == TYPED
    assert [row["image"] for row in rows if row["subject"].startswith("sha256:")] == [None] * 7
    removed = next(row for row in rows if row["type"] == "image.removed")
    assert (removed["who"], removed["reason"], removed["image"]) == ("carol", "nightly clean-up", "gone:1")
    assert json.loads(removed["data"])["cause"] == "prune"
    assert column(of, "SELECT hash FROM v_events") == [
        row.hex()
        for row in column(of, "SELECT hash FROM events")  # type: ignore[attr-defined]
    ]


def test_a_prune_says_who_why_by_which_policy_and_what_it_freed(of: sqlite3.Connection) -> None:
    (found,) = of.execute("SELECT * FROM v_prunes").fetchall()
    assert (found["kind"], found["outcome"], found["who"], found["reason"], json.loads(found["policy"])) == (
        *("prune", "completed", "carol", "nightly clean-up"),
        {"all": True},
    )
    assert (found["images_removed"], found["layers_removed"], found["freed_bytes"]) == (1, 0, 5)


def test_what_another_program_deleted_has_no_policy(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [NewEvent(pulled(digest(1)), PYTHON)])
    with ledger.write("seen") as transaction:
        transaction.append([NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="external"), PYTHON)])
        found = transaction.connection.execute("SELECT kind, policy FROM v_prunes").fetchall()
    assert found == [("external", None)]


def test_freed_bytes_have_those_of_flat_roots_as_prunes_lists_them(of: sqlite3.Connection) -> None:
    of.execute("UPDATE deletion SET flat_removed = 1, flat_bytes_reclaimed = 7, bytes_reclaimed = NULL")
    assert column(of, "SELECT freed_bytes FROM v_prunes") == [7]


def test_holders_are_holds_and_boots_that_last(of: sqlite3.Connection) -> None:
    rows = of.execute("SELECT holder, kind, image, until_ns, images FROM v_holders ORDER BY 1").fetchall()
    assert [tuple(row) for row in rows] == [
        ("sandbox:dev", "hold", "python:3.12", None, '["python:3.12"]'),
        ("sandbox:job", "boot", "python:3.12", None, '["python:3.12"]'),
        ("sandbox:long", "hold", None, NOW + HOUR, '["python:3.12"]'),
    ]


def test_a_layer_says_which_images_share_it(of: sqlite3.Connection) -> None:
    rows = {row["diff_id"]: row for row in of.execute("SELECT * FROM v_layers")}
    shared, own = rows[digest("diffbase")], rows[digest("diff1")]
    assert (shared["image_count"], shared["manifest_count"]) == (2, 2)
    assert json.loads(shared["images"]) == sorted([TYPED, "python:3.12"])
    assert (own["image_count"], own["images"], own["blob_digest"]) == (1, '["python:3.12"]', digest("blob1"))
    assert (shared["compressed_bytes"], shared["who"]) == (10, "alice")


@pytest.mark.parametrize("event", ev.EVENT_TYPES, ids=lambda event: str(event.type))
def test_every_event_can_be_seen(event: type[ev.Event], tmp_path: Path) -> None:
    made = new_sample(event)
    if event.type == "log.created":
        made = NewEvent(pulled(digest(1)), PYTHON)
    ledger = new_ledger(tmp_path, [made])
    with ledger.read() as connection:
        assert connection is not None
        for view in VIEWS:
            connection.execute(f"SELECT * FROM {view.name}").fetchall()


OWN_ROWS = {"image", "events", "deletion", "layer", "h", "u", "held"}
"""What a view has a row for, so that it is read from row to row."""


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_the_first_rows_are_there_without_a_look_at_the_rest(view: View, tmp_path: Path) -> None:
    ledger = some(tmp_path)
    with ledger.read() as connection:
        assert connection is not None
        plan = [
            (parent, step)
            for _, parent, _, step in connection.execute(
                f"EXPLAIN QUERY PLAN SELECT * FROM {view.name} LIMIT 10"
            )
        ]
    scanned = {step.split()[1] for _, step in plan if step.startswith("SCAN ")}
    assert {name for name in scanned if not name.startswith("(")} <= OWN_ROWS
    # Within a row's own columns something may be sorted; no step of the whole does.
    assert [step for parent, step in plan if parent == 0 and "TEMP B-TREE" in step] == []


def test_what_has_a_views_name_gives_way(empty: sqlite3.Connection) -> None:
    for made in ("TABLE v_images (mine)", "VIEW v_images AS SELECT 1 AS mine"):
        empty.execute("DROP VIEW v_images")
        empty.execute(f"CREATE {made}")
        schema.create(empty)
        assert empty.execute("SELECT image FROM v_images").fetchall() == []
