"""Files made anew in a home that msb keeps: msb does it, and only where it would pull the same image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from msb_cache import ImageCache, RegistryOptions
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from tests.engines.msb.test_add import Pulled, remote
from tests.fakemsb import FakeMsb
from tests.registry_server import RegistryServer

FAST = RegistryOptions(timeout=2, retries=1, backoff=0.01)
ONE, TWO = remote(b"one"), remote(b"two")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


def offered(fake: FakeMsb, server: RegistryServer, image: Pulled) -> str:
    name = server.add(image)
    fake.offer(name, image)
    return name


def mended(cache: ImageCache) -> tuple[list[str | None], list[str | None]]:
    report = cache.repair(pull=True, options=FAST)
    return (
        sorted(str(each.artifact) for each in report.mended),
        [left.why for left in report.left if left.finding.kind != "no-watch"],
    )


def test_msb_writes_it_anew(fake: FakeMsb, cache: ImageCache, server: RegistryServer) -> None:
    name = offered(fake, server, ONE)
    cache.pull(name)
    layout, position = Layout(cache.home), len(cache.events())
    layout.vmdk(ONE.digest).unlink()
    layout.layer(ONE.layers[1].diff_id).unlink()
    assert mended(cache) == (["layer", "vmdk"], [])
    assert fake.calls[-1] == ["pull", "--quiet", "--force", "--insecure", "--", name]
    repaired = cache.events(after=position, types=["artifact.repaired"])
    data = [each.data for each in repaired]
    assert [(d.kind, d.how) for d in data if isinstance(d, ev.ArtifactRepaired)] == [
        ("layer", "pulled"),
        ("vmdk", "pulled"),
    ]
    assert cache.verify().disk == []


def test_another_image_is_not_pulled(fake: FakeMsb, cache: ImageCache, server: RegistryServer) -> None:
    name = offered(fake, server, ONE)
    cache.pull(name)
    Layout(cache.home).vmdk(ONE.digest).unlink()
    offered(fake, server, TWO)
    assert fake.calls  # and they are forgotten now
    found, (why,) = mended(cache)
    assert found == []
    assert why is not None
    assert f"means {TWO.digest[:19]} at its registry by now" in why
    assert fake.calls == []
    assert cache.get(name).manifest_digest == ONE.digest


def test_what_msb_did_by_itself_is_asked_of_its_registry(
    fake: FakeMsb, cache: ImageCache, server: RegistryServer
) -> None:
    """The log does not know whether it was a pull: that the registry has the same image says so."""
    name = offered(fake, server, ONE)
    fake("pull", name)
    cache.sync()
    Layout(cache.home).fsmeta(ONE.digest).unlink()
    assert mended(cache) == (["fsmeta"], [])


def test_without_pull_msb_is_not_asked(fake: FakeMsb, cache: ImageCache, server: RegistryServer) -> None:
    cache.pull(offered(fake, server, ONE))
    Layout(cache.home).vmdk(ONE.digest).unlink()
    assert fake.calls  # and they are forgotten now
    left = [each for each in cache.repair().left if each.finding.kind == "file-missing"]
    assert [(each.finding.command, each.why) for each in left] == [("msb-cache doctor --fix --pull", None)]
    assert fake.calls == []


def test_no_file_is_deleted_or_written_by_us(fake: FakeMsb, cache: ImageCache) -> None:
    """Locks and parts of downloads in a home of msb are msb's."""
    layout = Layout(cache.home)
    lone = layout.folders["layer"] / f"sha256_{'0' * 64}.erofs.lock"
    lone.touch()
    part = layout.downloads / f"{'0' * 64}.partial"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    assert {each.kind for each in cache.doctor()} == {"no-watch"}
    cache.repair(pull=True)
    assert lone.exists()
    assert part.exists()
