"""The bytes of what the real msb makes, makes anew, and takes over from us."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import DataCheck, DataRequest, ImageCache
from msb_cache.artifacts.layout import Layout
from tests.imagebuilder import file, image, layer, oci_archive
from tests.peers.realmsb import Msb, short_home
from tests.registry_server import RegistryServer

BASE = layer([file("base", b"b" * 9000)], compression="gzip")
ONE = image([BASE, layer([file("one", b"1" * 9000)], compression="gzip")], "one:1")


@pytest.fixture
def real(msb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Msb]:
    """Yield msb with an empty home, and archives of one:1."""
    (tmp_path / "one.tar").write_bytes(oci_archive(ONE))
    monkeypatch.setenv("MSB_PATH", msb)
    with short_home() as home:
        yield Msb(msb, home, tmp_path)


def read(cache: ImageCache) -> DataCheck:
    found = cache.verify(data=DataRequest())
    assert found.sound, found.disk
    assert found.data is not None
    return found.data


def test_what_msb_makes_has_the_same_bytes_each_time(real: Msb, tmp_path: Path) -> None:
    with RegistryServer() as server, ImageCache(real.home) as cache:
        reference = server.add(ONE)
        real("load", "-q", "-i", str(tmp_path / "one.tar"))
        assert len(read(cache).digested) == 5
        real("load", "-q", "-i", str(tmp_path / "one.tar"))
        real("pull", "-q", "--insecure", reference)
        assert read(cache).digested == [Layout(real.home).metadata(reference)]
        for _ in range(2):
            real("pull", "-q", "--insecure", "--force", reference)
            found = read(cache)
            assert (found.digested, found.rewritten) == ([], {})


def test_a_byte_of_msbs_layer(real: Msb, tmp_path: Path) -> None:
    real("load", "-q", "-i", str(tmp_path / "one.tar"))
    path = Layout(real.home).layer(BASE.diff_id)
    with ImageCache(real.home) as cache:
        read(cache)
        content = path.read_bytes()
        path.write_bytes(content.replace(b"b" * 4000, b"c" * 4000, 1))
        os.utime(path, (1, 1))
        real("load", "-q", "-i", str(tmp_path / "one.tar"))  # msb does not look at the data
        found = cache.verify(data=DataRequest())
        assert [(problem.problem, problem.path) for problem in found.disk] == [("altered", path)]
        path.write_bytes(content)
        read(cache)


def test_what_msb_writes_in_the_place_of_ours(real: Msb, tmp_path: Path) -> None:
    layout = Layout(real.home)
    with RegistryServer() as server, ImageCache(real.home, engine="own") as cache:
        reference = server.add(ONE)
        cache.pull(reference)
        ours = layout.layer(BASE.diff_id).read_bytes()
        assert read(cache).digested == []
    with ImageCache(real.home) as cache:
        cache.hand_over()
        read(cache)
    with RegistryServer() as server, ImageCache(real.home) as cache:
        real("pull", "-q", "--insecure", "--force", server.add(ONE, "again"))
        assert layout.layer(BASE.diff_id).read_bytes() != ours
        found = cache.verify(data=DataRequest())
        assert found.data is not None
        assert found.sound
        layers = {layout.layer(each.diff_id) for each in ONE.layers}
        assert set(found.data.rewritten) == {*layers, layout.fsmeta(ONE.digest)}
        again = cache.verify(data=DataRequest())
        assert again.data is not None
        assert again.data.rewritten == {}


def test_our_digest_is_that_of_the_kernels_program(
    tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    with ImageCache(tmp_path / "home") as cache:
        (tmp_path / "one.tar").write_bytes(oci_archive(ONE))
        cache.load(tmp_path / "one.tar")
        layout = Layout(cache.home)
        paths = {each.diff_id: layout.layer(each.diff_id) for each in ONE.layers}
        for detail in cache.inspect("one:1").layers:
            done = subprocess.run(
                [require_peer("fsverity"), "digest", "--compact", paths[detail.diff_id]],
                capture_output=True,
                text=True,
                check=True,
            )
            assert detail.erofs_digest == f"sha256:{done.stdout.strip()}"
            assert detail.erofs_digest_how == "made"
