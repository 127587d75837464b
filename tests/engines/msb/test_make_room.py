"""Room for what msb pulls and loads, in a home that the fake msb keeps."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache import BoundNotKeptError, ImageCache, ImagePullFailedError, InvalidConfigError
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.engines.arriving import Arriving
from msb_cache.engines.engine import PullRequest
from msb_cache.engines.msb.engine import MsbEngine
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.options import RegistryOptions
from tests.fakemsb import FakeMsb
from tests.imagebuilder import BuiltImage, docker_archive, file, image, layer
from tests.peers.realmsb import IMAGES
from tests.registry_server import RegistryServer

FAST = RegistryOptions(timeout=2, retries=0, backoff=0.01)
NEW = image([layer([file("new", os.urandom(40_000))])], "new:1")
TOO_LARGE = image([layer([file("large", os.urandom(4_000_000))])], "large:1")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


def may_grow(home: Path, more: int) -> None:
    total = MeasuredFiles(Layout(home)).total_bytes + more
    (home / "cache-policy.toml").write_text(f'[[rule]]\nname = "size"\nmax-size = {total}\ngrace = "0s"\n')


def names(cache: ImageCache) -> set[str]:
    return {handle.reference for handle in cache.list()}


def of_msb(fake: FakeMsb) -> list[str]:
    return [" ".join(call[:2]) for call in fake.calls if call[0] in ("pull", "load", "image")]


def offer(fake: FakeMsb, server: RegistryServer, built: BuiltImage) -> str:
    reference = server.add(built)
    fake.offer(reference, built)
    return reference


def test_a_pull(fake: FakeMsb, cache: ImageCache, server: RegistryServer) -> None:
    reference = offer(fake, server, NEW)
    may_grow(fake.home, 80_000)
    said: list[str] = []
    cache.pull(reference, options=FAST, make_room=True, note=said.append)
    first, *_, last = of_msb(fake)
    assert (first[:7], last) == ("image r", "pull --quiet")
    assert said[0].startswith("makes room: ")
    assert {reference, "app:1"} <= names(cache)  # app:1 is held
    assert names(cache) != {reference, "app:1", "two:1", "alone:1"}


def test_where_there_is_room_msb_only_pulls(fake: FakeMsb, cache: ImageCache, server: RegistryServer) -> None:
    reference = offer(fake, server, NEW)
    may_grow(fake.home, 10_000_000)
    before = names(cache)
    cache.pull(reference, options=FAST, make_room=True)
    assert of_msb(fake) == ["pull --quiet"]
    assert names(cache) == before | {reference}


def test_too_little_may_go(fake: FakeMsb, cache: ImageCache, server: RegistryServer) -> None:
    reference = offer(fake, server, TOO_LARGE)
    may_grow(fake.home, 0)
    with pytest.raises(BoundNotKeptError, match=r"nothing was deleted or added$"):
        cache.pull(reference, options=FAST, make_room=True)
    assert of_msb(fake) == []


def test_a_registry_that_does_not_say(fake: FakeMsb, cache: ImageCache, server: RegistryServer) -> None:
    may_grow(fake.home, 0)
    reference = f"{server.host}/none:1"
    with pytest.raises(ImagePullFailedError, match=r"^how much room .*/none:1 needs cannot be told"):
        cache.pull(reference, options=FAST, make_room=True)
    assert of_msb(fake) == []


def test_what_is_cached_needs_no_room(fake: FakeMsb, cache: ImageCache) -> None:
    may_grow(fake.home, 0)
    cache.pull("alone:1", make_room=True)
    assert of_msb(fake) == ["pull --quiet"]


def test_images_stay_that_share_layers_with_what_comes(
    fake: FakeMsb, cache: ImageCache, tmp_path: Path
) -> None:
    """msb would take the layers away with them."""
    shared = IMAGES["alone"].layers
    built = image([*shared, layer([file("new", os.urandom(40_000))])], "new:1")
    path = tmp_path / "new.tar"
    path.write_bytes(docker_archive(built))
    for name in cache.list("*two*"):
        cache.pin(name.reference)
    may_grow(fake.home, 105_000)  # a few KiB too little
    with pytest.raises(BoundNotKeptError, match="what the policy lets go, 0 B, is"):
        cache.load(path, make_room=True)
    assert "alone:1" in names(cache)


def test_a_load(fake: FakeMsb, cache: ImageCache, tmp_path: Path) -> None:
    path = tmp_path / "new.tar"
    path.write_bytes(docker_archive(NEW))
    may_grow(fake.home, 80_000)
    cache.load(path, make_room=True)
    assert of_msb(fake)[0].startswith("image r")
    assert "new:1" in names(cache)


def test_of_a_stream_it_cannot_be_told(fake: FakeMsb, cache: ImageCache) -> None:
    may_grow(fake.home, 0)
    with pytest.raises(InvalidConfigError, match="name the archive's file"):
        cache.load(io.BytesIO(docker_archive(NEW)), make_room=True)
    pipe = fake.home / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidConfigError, match="name the archive's file"):
        cache.load(pipe, make_room=True)  # as of `<(xz -dc archive)`
    assert of_msb(fake) == []


def test_more_than_was_expected_is_there_all_the_same(
    fake: FakeMsb, cache: ImageCache, server: RegistryServer
) -> None:
    reference = offer(fake, server, NEW)
    stages: list[str] = []

    def room(arriving: Arriving) -> None:
        stages.append(arriving.stage)
        if arriving.stage == "staged":
            raise BoundNotKeptError("it takes more; nothing was added")

    request = PullRequest(reference=Reference.parse(reference), began_ns=0, options=FAST, room=room)
    with pytest.raises(BoundNotKeptError, match=r"^it takes more; it is there all the same$"):
        MsbEngine(cache._session.ledger).pull(request)
    assert stages == ["known", "staged"]
    assert reference in names(cache)
