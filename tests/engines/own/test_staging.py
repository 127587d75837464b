"""Files on their way into the cache: what is prepared, and what is published and recorded of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layer import LayerImage, read_layer
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.own import staging
from msb_cache.engines.own.staging import Layers, reusable
from tests.cli.support import APP, written


def layer_of(tmp_path: Path) -> Path:
    with ImageCache(tmp_path / "home") as cache:
        cache.load(written(tmp_path / "app.tar", APP))
    return Layout(tmp_path / "home").layer(APP.layers[0].diff_id)


def test_trees_are_kept_while_they_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = layer_of(tmp_path)
    image = read_layer(path)
    read: list[Path] = []

    def reading(path: Path) -> LayerImage:
        read.append(path)
        return image

    monkeypatch.setattr(staging, "read_layer", reading)
    monkeypatch.setattr(staging, "_KEPT_BYTES", image.footprint)
    layers = Layers()
    layers.put("sha256:first", image, path)
    layers.put("sha256:second", image, path)
    assert layers.sizes == dict.fromkeys(("sha256:first", "sha256:second"), image.size_bytes)
    layers.read("sha256:first")
    assert read == []
    layers.read("sha256:second")
    assert read == [path]


def test_what_is_no_layer_is_not_reused(tmp_path: Path) -> None:
    path = layer_of(tmp_path)
    assert reusable(path) is not None
    link = path.with_name("link")
    link.symlink_to(path)
    assert reusable(link) is None
    path.write_bytes(b"\0" * 4096)
    assert reusable(path) is None
    path.unlink()
    assert reusable(path) is None
