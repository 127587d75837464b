"""Fields for JSON that programs know from msb."""

from __future__ import annotations

from pathlib import Path

from msb_cache import ImageCache
from msb_cache.shapes import jsonable
from tests.cli.support import APP, MSB_LIST_KEYS, RFC3339


def test_an_image_has_the_names_that_msb_gives(home: Path) -> None:
    with ImageCache(home) as cache:
        found = jsonable(cache.get("app:1"))
    assert found.keys() == MSB_LIST_KEYS | {"last_used_at", "in_use_by", "in_use_since", "idle_since"} | {
        "held_by"
    }
    assert (found["reference"], found["digest"], found["layer_count"]) == ("app:1", APP.digest, 2)
    assert RFC3339.fullmatch(found["created_at"])


def test_a_hold(home: Path) -> None:
    with ImageCache(home) as cache:
        cache.hold("app:1", "sandbox:dev")
        (found,) = [jsonable(hold) for hold in cache.holds()]
    assert RFC3339.fullmatch(found.pop("since"))
    unknown = {"status": None, "root": None, "labels": {}, "until": None}
    assert found == {"holder": "sandbox:dev", "digest": APP.digest, "reference": "app:1", **unknown}
