"""Handles, details and holders: R4's times, and order."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import images
from msb_cache.projections.images import HandleRow
from tests.logs import PYTHON, digest, layer, manifest_added, new_ledger, pulled

M1, M2 = digest(1), digest(2)
REMOVED = NewEvent(ev.ImageRemoved(manifest_digest=M1, cause="external"), PYTHON)


def used(at: int | None = None) -> NewEvent:
    return NewEvent(ev.ImageUsed(manifest_digest=M1), PYTHON, at)


def handle(home: Path, events: list[NewEvent]) -> HandleRow | None:
    ledger = new_ledger(home, events, clock=iter(range(100, 1000, 100)))
    with ledger.read() as connection:
        assert connection is not None
        return images.handle(connection, PYTHON)


@pytest.mark.parametrize(
    ("events", "manifest", "created", "last_used"),
    [
        ([NewEvent(pulled(M1), PYTHON)], M1, 100, 100),
        ([NewEvent(pulled(M1), PYTHON), used()], M1, 100, 200),
        # a retag keeps created_at, and counts as a use
        ([NewEvent(pulled(M1), PYTHON), NewEvent(pulled(M2, previous=M1), PYTHON)], M2, 100, 200),
        # removed and pulled again: it begins anew
        ([NewEvent(pulled(M1), PYTHON), used(), REMOVED, NewEvent(pulled(M1), PYTHON)], M1, 400, 400),
        # learned late: the greatest time counts, not the latest event
        ([NewEvent(pulled(M1), PYTHON, 50), used(90), used(70)], M1, 50, 90),
        # a use from before it was removed does not count for the new one
        ([NewEvent(pulled(M1), PYTHON), REMOVED, used(), NewEvent(pulled(M1), PYTHON)], M1, 400, 400),
    ],
)
def test_times_of_a_handle(
    tmp_path: Path, events: list[NewEvent], manifest: str, created: int, last_used: int
) -> None:
    found = handle(tmp_path, events)
    assert found is not None
    assert (found.manifest_digest, found.created_at, found.last_used_at) == (manifest, created, last_used)


def test_a_removed_image_is_gone(tmp_path: Path) -> None:
    assert handle(tmp_path, [NewEvent(pulled(M1), PYTHON), REMOVED]) is None


def test_newest_first_and_later_event_first_at_the_same_time(tmp_path: Path) -> None:
    names = ["docker.io/library/old:1", "docker.io/library/b:1", "docker.io/library/a:1"]
    events = [NewEvent(pulled(M1), name, at) for name, at in zip(names, [10, 20, 20], strict=True)]
    ledger = new_ledger(tmp_path, events)
    with ledger.read() as connection:
        assert connection is not None
        assert [row.reference for row in images.handles(connection)] == [names[2], names[1], names[0]]


def test_details(tmp_path: Path) -> None:
    layers = [layer(1, 10), layer(2, 20), layer(1, 10)]
    ledger = new_ledger(tmp_path, [NewEvent(manifest_added(layers), M1), NewEvent(pulled(M1), PYTHON)])
    with ledger.read() as connection:
        assert connection is not None
        found = images.handle(connection, PYTHON)
        assert found is not None
        assert (found.size_bytes, found.layer_count, found.os, found.architecture) == (
            40,
            3,
            "linux",
            "amd64",
        )
        rows = images.layers(connection, M1)
        assert [(row.position, row.diff_id) for row in rows] == [
            (0, layers[0].diff_id),
            (1, layers[1].diff_id),
            (2, layers[0].diff_id),
        ]
        config = images.config(connection, M1)
        assert config is not None
        assert config.fields == '{"env":["A=1"],"cmd":["/bin/sh"]}'


@pytest.mark.parametrize(
    ("name", "tag", "wanted", "found"),
    [
        ("docker.io/library/python", None, M1, True),
        ("docker.io/library/python", "3.12", M1, True),
        ("docker.io/library/python", "3.11", M1, False),
        ("docker.io/library/python", None, M2, False),
        ("docker.io/library/pyth", None, M1, False),
    ],
)
def test_an_image_is_found_by_repository_and_digest(
    tmp_path: Path, name: str, tag: str | None, wanted: str, found: bool
) -> None:
    ledger = new_ledger(tmp_path, [NewEvent(pulled(M1), PYTHON)])
    with ledger.read() as connection:
        assert connection is not None
        assert (images.handle_by_digest(connection, name, tag, wanted) is not None) == found
