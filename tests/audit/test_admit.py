"""Events from elsewhere whose chain is right: only what msb-cache writes is admitted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from msb_cache import ImageCache
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from tests.carrying import OPERATION, USED, forged, refused
from tests.logs import ACTOR, digest

REMOVED = ev.ImageRemoved(manifest_digest=digest(1), cause="external")


def _added(**fields: Any) -> ev.ManifestAdded:
    given: dict[str, Any] = {
        "media_type": "m",
        "config_digest": digest(2),
        "config": ev.ImageConfig(),
        "layers": (),
        **fields,
    }
    return ev.ManifestAdded(**given)


def _layer(**fields: Any) -> ev.Layer:
    given: dict[str, Any] = {
        "diff_id": digest(3),
        "blob_digest": digest(4),
        "media_type": "m",
        "size": 1,
        **fields,
    }
    return ev.Layer(**given)


def test_the_forger_can_make_what_is_accepted(tmp_path: Path) -> None:
    """Else the refusals below would prove nothing."""
    data = forged(tmp_path, USED, NewEvent(_added(layers=(_layer(),)), digest(1)))
    with ImageCache(tmp_path / "home") as cache:
        assert cache.import_log(io.BytesIO(data)).events == 3


def test_names_in_what_is_claimed_mean_nothing_of_ours(tmp_path: Path) -> None:
    claimed = {"holder": "", "manifest_digest": "x", "diff_id": "../x", "size": "-1"}
    actor = msgspec.json.encode(replace(ACTOR, login_uid=7, claimed=claimed)).decode()
    with ImageCache(tmp_path / "home") as cache:
        cache.import_log(io.BytesIO(forged(tmp_path, USED, actor=actor)))
        assert cache.events()[-1].actor.claimed == claimed


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (NewEvent(REMOVED, "not canonical"), "canonical reference"),
        (NewEvent(REMOVED, "app:1"), "canonical reference"),
        (NewEvent(REMOVED, "docker.io/../../etc:1"), "canonical reference"),
        (NewEvent(REMOVED, ""), "canonical reference"),
        (NewEvent(ev.ImageHeld(holder="sandbox:dev"), "../../x"), "not a digest"),
        (NewEvent(ev.ImageHeld(holder=""), digest(1)), "holder"),
        (NewEvent(ev.ImageHeld(holder="x" * 5000), digest(1)), "holder"),
        (NewEvent(ev.ManifestDeleted(), "sha256:00"), "not a digest"),
        (NewEvent(ev.LayerDeleted(bytes=1), "/etc/passwd"), "not a digest"),
        (NewEvent(ev.MetadataDeleted(bytes=1), "../x.json"), "canonical reference"),
        (NewEvent(ev.LayerDeleted(bytes=-1), digest(1)), "'bytes' is -1"),
        (NewEvent(ev.LayerDeleted(bytes=2**62), digest(1)), "'bytes' is"),
        (NewEvent(ev.LayerDeleted(bytes=10**300), digest(1)), "damaged|'bytes' is"),
        (NewEvent(ev.ImageUsed(manifest_digest="x"), "docker.io/library/a:1"), "manifest_digest"),
        (NewEvent(_added(layers=(_layer(diff_id="../../../x"),)), digest(1)), "diff_id"),
        (NewEvent(_added(layers=(_layer(blob_digest="x"),)), digest(1)), "blob_digest"),
        (NewEvent(_added(layers=(_layer(size=-5),)), digest(1)), "'size' is -5"),
        (NewEvent(_added(layers=(_layer(erofs_size=2**60),)), digest(1)), "'erofs_size' is"),
        (
            NewEvent(
                ev.DeletionStarted(
                    kind="prune",
                    policy={},
                    artifacts=(ev.PlannedArtifact(kind="layer", subject="../../x"),),
                ),
                OPERATION,
            ),
            "not a digest",
        ),
        (NewEvent(ev.DeletionStarted(kind="prune", policy={"n": 2**64}), OPERATION), "'n' is"),
        (NewEvent(ev.LogCreated(log_id="f" * 32, format=1), "other"), "begins once"),
    ],
    ids=lambda value: f"{value.event.type} {value.subject[:20]}" if isinstance(value, NewEvent) else None,
)
def test_events_that_msb_cache_does_not_write(tmp_path: Path, event: NewEvent, says: str) -> None:
    said = refused(tmp_path, forged(tmp_path, event))
    assert any(part in said for part in says.split("|")), said


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"type": "image.frozen"}, "unknown type 'image.frozen'"),
        ({"version": 99}, "version 99"),
        ({"data": "{"}, "damaged image.used"),
        ({"data": "[]"}, "damaged image.used"),
        ({"data": '{"manifest_digest": 5}'}, "damaged image.used"),
        ({"data": '{"x":' + "[" * 50_000 + "]" * 50_000 + "}"}, "damaged image.used"),
        ({"actor": "{}"}, "damaged actor"),
        ({"actor": '{"user":"a","uid":"b","host":"c","program":"d"}'}, "damaged actor"),
        ({"actor": '{"user":"a","uid":-7,"host":"c","program":"d"}'}, "'uid' is -7"),
        ({"operation": "../../x"}, "operation is no id"),
        ({"recorded_at": 1}, "was recorded before event 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_columns_that_msb_cache_does_not_write(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    assert says in refused(tmp_path, forged(tmp_path, USED, **columns))


def test_sizes_whose_sum_no_column_holds(tmp_path: Path) -> None:
    added = _added(total_size=9000 * 2**50)
    assert "total_size" in refused(tmp_path, forged(tmp_path, NewEvent(added, digest(1))))


def test_labels_are_anybodys(tmp_path: Path) -> None:
    """An image may name them as fields of events are named."""
    labels = {"size": -1, "manifest_digest": "none", "holder": "", "n": [None, -2.5]}
    data = forged(tmp_path, NewEvent(_added(config=ev.ImageConfig(labels=labels)), digest(1)))
    with ImageCache(tmp_path / "home") as cache:
        assert cache.import_log(io.BytesIO(data)).events == 2
