"""A golden log: its rows change only with the version of the fold, and every table has its rows' schema."""

from __future__ import annotations

import hashlib
import sqlite3

import msgspec
import pytest
from msgspec.structs import astuple

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import StoredEvent
from msb_cache.projections import FOLD_VERSION, schema
from msb_cache.projections.fold import IGNORED, Fold
from msb_cache.projections.rows import ROW_TYPES
from msb_cache.projections.tables import Tables
from tests.logs import ACTOR, PYTHON, digest, layer, manifest_added, pulled
from tests.samples import OPERATION, new_sample

GOLDEN = {17: "3009e624dd665b8fd2211ead0e8e7517abd9345a0fea154f1469d7f67c4f4c0c"}
"""What the golden log below folds to, by the fold's version: SHA-256 of its rows as JSON."""


def golden_log() -> list[StoredEvent]:
    """Two images that share a layer, a sample of every event, and a removal that takes one image away."""
    events: list[tuple[ev.Event, str]] = [
        (manifest_added([layer("base", 10), layer(1, 20)]), digest(1)),
        (pulled(digest(1)), PYTHON),
        (manifest_added([layer("base", 10)]), digest(2)),
        (pulled(digest(2)), "docker.io/library/app:1"),
        (ev.ImageHeld(holder="sandbox:x", reference="docker.io/library/app:1"), digest(2)),
    ]
    folded = [each for each in ev.EVENT_TYPES if each not in IGNORED]  # of others, rows know nothing
    events += [(each.event, each.subject) for each in map(new_sample, folded)]
    events += [
        (ev.ImagePinned(until_ns=10**18), PYTHON),
        (ev.ImageUsed(manifest_digest=digest(2), holder="sandbox:x", run="run:7@1"), PYTHON),
        (pulled(digest(2), previous=digest(1)), PYTHON),
        (manifest_added([layer("base", 10)]), digest(1)),
        (ev.ImageRemoved(manifest_digest=digest(2), cause="remove"), PYTHON),
        (ev.ArtifactKept(kind="fsmeta", reason="busy"), digest(1)),
        (ev.ArtifactDeleteFailed(kind="vmdk", errno=5, reason="Input/output error"), digest(1)),
        (ev.ManifestDeleted(), digest(1)),
        (
            ev.DeletionStarted(
                kind="prune",
                policy={},
                going=(ev.Judged(subject="docker.io/library/app:1", rule="due", policy_rule="old"),),
                engine="msb",
            ),
            "01934f6a-0000-7000-8000-000000000002",
        ),
        (ev.LayerDeleted(bytes=10, needed=True), digest("diff-damaged")),
    ]
    return [
        StoredEvent(
            seq=seq,
            id=f"id-{seq}",
            type=event.type,
            version=event.version,
            subject=subject,
            operation=OPERATION if seq < 33 else "01934f6a-0000-7000-8000-000000000002",
            occurred_at_ns=seq * 1000,
            recorded_at_ns=seq * 1000,
            actor=ACTOR,
            data=event,
            hash=b"",
        )
        for seq, (event, subject) in enumerate(events, start=1)
    ]


def folded(events: list[StoredEvent]) -> Fold:
    fold = Fold(Tables())
    fold.apply(events)
    return fold


def test_rows_change_only_with_the_version() -> None:
    tables = {
        table.row_type.table: sorted(map(astuple, table.rows.values()), key=repr)
        for table in folded(golden_log()).tables.all()
    }
    found = hashlib.sha256(msgspec.json.encode(tables, order="sorted")).hexdigest()
    assert found == GOLDEN.get(FOLD_VERSION), (
        "the golden log folds to other rows than before: raise FOLD_VERSION, so that the tables of every "
        "home are folded anew, and add to GOLDEN what they are"
    )


def test_the_golden_log_fills_every_table() -> None:
    assert [table.row_type.table for table in folded(golden_log()[:-1]).tables.all() if not table.rows] == []


def test_what_the_fold_does_not_know_is_an_error() -> None:
    class Odd(ev.Event, frozen=True, kw_only=True):
        """An event that somebody forgot to fold."""

        type = "image.odd"

    event = msgspec.structs.replace(golden_log()[0], type="image.odd", data=Odd())
    with pytest.raises(LookupError, match=r"the fold does not say what image\.odd does"):
        folded([event])


@pytest.mark.parametrize("row_type", ROW_TYPES, ids=lambda row_type: row_type.table)
def test_the_schema_of_a_table_is_its_rows(row_type: type) -> None:
    connection = sqlite3.connect(":memory:")
    schema.create(connection)
    columns = connection.execute(f"PRAGMA table_info({row_type.table})").fetchall()
    fields = msgspec.structs.fields(row_type)
    assert [column[1] for column in columns] == [field.name for field in fields]
    assert [bool(column[3]) for column in columns] == ["None" not in str(field.type) for field in fields]
    assert sum(column[5] > 0 for column in columns) == row_type.key_length
    indexes = {name for _, name, *_ in connection.execute(f"PRAGMA index_list({row_type.table})")}
    assert set(row_type.indexes) <= indexes
    connection.close()
