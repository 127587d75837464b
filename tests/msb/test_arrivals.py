"""What msb pulls, told from the files in its folders as msb 0.7.11 makes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from msb_cache.msb.arrivals import Arrivals
from msb_cache.oci.registry.downloads import LayerProgress
from tests.logs import digest


class Cache:
    """A cache of msb in which blobs come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("tmp", "layers"):
            (folder / name).mkdir(parents=True)

    def path(self, number: int, kind: str) -> Path:
        folder = "layers" if kind == "tar.gz" else "tmp"
        return self.folder / folder / f"{digest(number).replace(':', '_')}.{kind}"

    def put(self, number: int, kind: str, size: int = 0) -> None:
        self.path(number, kind).write_bytes(bytes(size))

    def unpack(self, number: int) -> None:
        self.path(number, "part").rename(self.path(number, "tar.gz"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def step(number: int, event: str, done: int, total: int | None = None) -> LayerProgress:
    return LayerProgress(digest(number), event, done, total)  # type: ignore[arg-type]


def test_a_blob_from_its_lock_to_its_end(cache: Cache) -> None:
    told: list[LayerProgress] = []
    arrivals = Arrivals(cache.folder, told.append)
    arrivals.look()
    cache.put(1, "download.lock")
    arrivals.look()
    cache.put(1, "part", 10)
    arrivals.look()
    arrivals.look()
    cache.put(1, "part", 30)
    arrivals.look()
    cache.unpack(1)
    arrivals.look()
    cache.path(1, "tar.gz").unlink()
    arrivals.look()
    assert told == [
        step(1, "queued", 0),
        step(1, "started", 10),
        step(1, "bytes", 30),
        step(1, "fetched", 30, 30),
    ]


def test_what_lay_there_before_is_told_of_once_it_changes(cache: Cache) -> None:
    for number in (1, 2):
        cache.put(number, "download.lock")
        cache.put(number, "part", 10)
    cache.put(3, "tar.gz", 5)
    told: list[LayerProgress] = []
    arrivals = Arrivals(cache.folder, told.append)
    arrivals.look()
    assert told == []
    cache.put(2, "part", 11)
    arrivals.look()
    assert told == [step(2, "started", 11)]


def test_before_msb_makes_its_folders_nothing_is_told(tmp_path: Path) -> None:
    told: list[LayerProgress] = []
    Arrivals(tmp_path / "none", told.append).look()
    assert told == []


def test_nothing_else_is_a_blob(cache: Cache, tmp_path: Path) -> None:
    told: list[LayerProgress] = []
    arrivals = Arrivals(cache.folder, told.append)
    (cache.folder / "tmp" / "sha256_x.part").write_bytes(b"1")
    (cache.folder / "tmp" / "sha256_\x1b[2J.part").write_bytes(b"1")
    cache.path(1, "part").mkdir()
    (tmp_path / "large").write_bytes(b"12345")
    cache.path(2, "part").symlink_to(tmp_path / "large")
    os.mkfifo(cache.path(3, "part"))
    arrivals.look()
    assert told == []
