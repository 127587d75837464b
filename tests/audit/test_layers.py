from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache import ImageCache, LogError
from msb_cache.artifacts.digests import digest_of
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.digesting import digested
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.ledger import Ledger
from tests.imagebuilder import docker_archive, file, image, layer, oci_archive

BASE = layer([file("base", b"b" * 5000)], "gzip")
ONE = image([BASE, layer([file("one", b"1")], "gzip")], "one:1")
TWO = image([BASE, layer([file("two", b"2")], "zstd")], "two:1")


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "one.tar").write_bytes(docker_archive(ONE))
    (tmp_path / "both.tar").write_bytes(oci_archive(ONE, TWO))
    with ImageCache(tmp_path / "here") as here, ImageCache(tmp_path / "there") as there:
        here.load(tmp_path / "one.tar")
        there.load(tmp_path / "both.tar")
    return tmp_path / "here", tmp_path / "there"


def test_the_same_layers_have_the_same_bytes_everywhere(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    with ImageCache(hosts[1]) as there:
        there.export(tmp_path / "there.jsonl")
    with ImageCache(hosts[0]) as here:
        here.backup(tmp_path / "here.db")
        for log in (None, tmp_path / "here.db"):
            found = here.compare_layers(tmp_path / "there.jsonl", log=log)
            assert (found.both, found.differing) == (2, [])


def test_an_altered_one_is_shown(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    ledger = Ledger(Layout(hosts[0]))
    path = ledger.layout.layer(BASE.diff_id)
    path.write_bytes(path.read_bytes().replace(b"b" * 4000, b"c" * 4000))
    with ledger.write(uuid7()) as transaction:  # it was altered before it was first seen
        transaction.append([digested("layer", BASE.diff_id, digest_of("layer", path), "seen")])
    ledger.close()
    with ImageCache(hosts[1]) as there:
        there.export(tmp_path / "there.jsonl")
    with ImageCache(hosts[0]) as here:
        found = here.compare_layers(tmp_path / "there.jsonl")
    (differing,) = found.differing
    assert (found.both, differing.diff_id) == (2, BASE.diff_id)
    assert (differing.here.how, differing.there.how) == ("seen", "made")
    assert differing.here.digest == digest_of("layer", path)
    assert differing.there.digest == digest_of("layer", Layout(hosts[1]).layer(BASE.diff_id))


def test_no_log(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    with ImageCache(hosts[0]) as here, pytest.raises(LogError):
        here.compare_layers(tmp_path / "nothing")
