"""Saved archives: they load again, and a failure leaves the file that was there."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache import (
    ImageCache,
    ImageNotFoundError,
    InvalidConfigError,
)
from msb_cache.artifacts.layout import Layout
from tests.examples import ONE, TWO, archive


@pytest.mark.parametrize("format", ["docker", "oci"])
def test_what_is_saved_loads_again(cache: ImageCache, tmp_path: Path, format: str) -> None:
    cache.load(archive(ONE, TWO))
    cache.save(["one:1", "two:1"], tmp_path / "saved.tar", format=format)
    with ImageCache(tmp_path / "other") as other:
        other.load(tmp_path / "saved.tar")
        assert sorted(handle.reference for handle in other.list()) == ["one:1", "two:1"]
        config, again = cache.inspect("one:1").config, other.inspect("one:1").config
        assert config is not None
        assert again is not None
        assert (config.env, config.labels, config.stop_signal) == (again.env, again.labels, again.stop_signal)
        # The second time nothing changes any more: what we write is what we read.
        other.save(["one:1", "two:1"], tmp_path / "again.tar", format=format)
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "saved.tar").read_bytes()


def test_a_failed_save_leaves_the_old_file(cache: ImageCache, tmp_path: Path) -> None:
    cache.load(archive(ONE))
    target = tmp_path / "out" / "saved.tar"
    target.parent.mkdir()
    target.write_text("old")
    Layout(cache.home).layer(ONE.layers[1].diff_id).unlink()
    with pytest.raises(Exception, match="load the image again"):
        cache.save("one:1", target)
    with pytest.raises(ImageNotFoundError):
        cache.save(["one:1", "nope:1"], target)
    with pytest.raises(InvalidConfigError):
        cache.save("one:1", target, format="zip")
    assert [path.name for path in target.parent.iterdir()] == ["saved.tar"]
    assert target.read_text() == "old"
