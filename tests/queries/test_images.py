"""Images of the index as callers get them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from msb_cache.cache import ImageCache
from msb_cache.eventstore.store import NewEvent
from msb_cache.models import ImageConfigDetail, Origin
from msb_cache.projections import images
from msb_cache.queries.images import detail, handle
from tests.logs import PYTHON, digest, layer, manifest_added, new_ledger, pulled

ORIGIN = Origin("/home", lambda root: closing(ImageCache(root)))


def test_a_detail_has_the_layers_bottom_to_top_and_the_config(tmp_path: Path) -> None:
    manifest = NewEvent(manifest_added([layer("y", 20), layer("x", 10)]), digest(1))
    ledger = new_ledger(tmp_path, [manifest, NewEvent(pulled(digest(1)), PYTHON)])
    with ledger.read() as connection:
        assert connection is not None
        row = images.handle(connection, PYTHON)
        assert row is not None
        found = detail(connection, row, ORIGIN)
    assert found.handle == handle(row, ORIGIN)
    assert (found.handle.reference, found.handle.size_bytes, found.handle.layer_count) == (
        "python:3.12",
        30,
        2,
    )
    assert found.handle.home == Path("/home")
    assert [(each.position, each.diff_id, each.compressed_size_bytes) for each in found.layers] == [
        (0, layer("y").diff_id, 20),
        (1, layer("x").diff_id, 10),
    ]
    assert found.config == ImageConfigDetail(digest=digest("config"), env=["A=1"], cmd=["/bin/sh"])


def test_an_image_of_an_unknown_manifest_has_neither(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [NewEvent(pulled(digest(1)), PYTHON)])
    with ledger.read() as connection:
        assert connection is not None
        row = images.handle(connection, PYTHON)
        assert row is not None
        found = detail(connection, row, ORIGIN)
    assert (found.config, found.layers) == (None, [])
    assert (found.handle.size_bytes, found.handle.layer_count) == (None, 0)
