"""Flat roots that the real msb made: they go with their images, and msb makes them again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.flat import FlatRefs
from msb_cache.artifacts.layout import Layout
from tests.imagebuilder import file, image, layer
from tests.peers.realmsb import Msb, short_home
from tests.registry_server import RegistryServer

pytestmark = pytest.mark.peer

BASE = layer([file("etc/name", b"base\n")], "gzip")
APP = image([BASE, layer([file("app", b"app" * 5000)], "gzip")], "app:1")
TWO = image([BASE, layer([file("two", b"two" * 5000)], "gzip")], "two:1")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def real(msb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Msb]:
    monkeypatch.setenv("MSB_PATH", msb)
    with short_home() as home:
        yield Msb(msb, home, tmp_path)


def pull(real: Msb, reference: str, how: str) -> None:
    real("pull", "--quiet", "--insecure", "--materialize", how, reference)


def flat_files(home: Path) -> set[Path]:
    return {path for kind in ("refs", "blobs") for path in (home / "cache" / "flat" / kind).iterdir()}


def test_they_go_and_come_again(real: Msb, server: RegistryServer) -> None:
    app, two = server.add(APP), server.add(TWO, "two")
    pull(real, app, "flat")
    pull(real, two, "all")
    layout = Layout(real.home)
    refs = FlatRefs(layout)
    assert refs.by_manifest.keys() == {APP.digest, TWO.digest}
    root = refs.by_manifest[APP.digest]
    blob = layout.artifact("flat", root.artifact_digest)
    with ImageCache(real.home) as cache:
        assert cache.verify().disk == []
        shown = cache.inspect(app).flat
        assert shown is not None
        assert (shown.virtual_size_bytes, shown.artifact_digest) == (
            root.virtual_size_bytes,
            root.artifact_digest,
        )
        with blob.open("rb") as content:
            assert f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}" == root.artifact_digest
        (usage,) = (
            each for each in real.json("df", "--verbose")["images"]["items"] if each["name"] == "flat"
        )
        info = cache.info()
        assert info.flat_bytes == 2 * root.virtual_size_bytes
        assert 0 < info.flat_allocated_bytes <= usage["allocated_bytes"]
        size = blob.stat().st_blocks * 512

        # Of all else the same goes as when msb removes it.
        twin = real.home.with_name("t")
        shutil.copytree(real.home, twin)
        report = cache.remove(app)
        assert (report.flat_removed, report.flat_bytes_reclaimed) == (1, size)
        theirs = Msb(real.program, twin, real.archives)
        theirs("image", "rm", app)
        theirs_left = {str(path.relative_to(twin)) for path in _artifacts(twin)}
        assert {str(path.relative_to(real.home)) for path in _artifacts(real.home)} == theirs_left
        assert {path.suffix for path in flat_files(twin)} == {".json", ".raw"}
        assert len(flat_files(twin)) == 4
        kept = refs.by_manifest[TWO.digest].artifact_digest
        assert flat_files(real.home) == {
            layout.artifact("flat_ref", TWO.digest),
            layout.artifact("flat", kept),
        }

        pull(real, app, "flat")
        assert FlatRefs(layout).by_manifest[APP.digest] == root
        assert blob.exists()
        pruned = cache.prune()
        assert (pruned.image_refs_removed, pruned.flat_removed) == (2, 2)
        assert flat_files(real.home) == set()
        assert real.references() == set()
        assert cache.verify().sound
        assert cache.rebuild() == []


def _artifacts(home: Path) -> set[Path]:
    folders = ("manifests", "layers", "fsmeta", "vmdk")
    return {
        path
        for folder in folders
        for path in (home / "cache" / folder).iterdir()
        if path.suffix in (".erofs", ".vmdk", ".json")
    }


def test_a_sandbox_keeps_the_root_that_it_was_made_of(real: Msb, server: RegistryServer) -> None:
    """It has a copy of its own; the hold keeps the image, and the flat root with it."""
    app = server.add(APP)
    pull(real, app, "flat")
    real.create(app, "dev", "--memory", "64M", "--root-disk", "flat:256M")
    with ImageCache(real.home) as cache:
        assert [hold.holder for hold in cache.holds()] == ["sandbox:dev"]
        assert cache.prune(orphans=True).operation is None
        report = cache.remove(app, force=True)
        assert report.flat_removed == 0
        assert len(flat_files(real.home)) == 2
        real("rm", "dev")
        assert cache.prune().flat_removed == 1
        assert flat_files(real.home) == set()
