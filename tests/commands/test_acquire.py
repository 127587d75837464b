"""Loading and pulling: what is asked for is checked, and errors name the right file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from msb_cache import (
    ImageCache,
)
from tests.examples import ONE
from tests.imagebuilder import docker_archive


def test_a_disk_that_cannot_be_written_to_is_named(
    cache: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the archive: that was read well."""
    path = tmp_path / "app.tar"
    path.write_bytes(docker_archive(ONE))

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as raised:
        cache.load(path)
    assert Path(cache.home).is_relative_to(raised.value.filename)
    monkeypatch.undo()
    assert cache.list() == []
    assert len(cache.load(path)) == 1
