"""A home that the fake msb keeps, and the cache of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache import failpoints as steps
from tests.fakemsb import FakeMsb
from tests.moving import settle
from tests.peers.realmsb import IMAGES


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    steps.observer = None


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home, to be copied, with app:1, which a sandbox holds, alone:1, and the two names of two."""
    folder = tmp_path_factory.mktemp("msb")
    fake = FakeMsb(folder / "msb", folder / "home")
    for name in ("app", "two", "alone"):
        fake.load(IMAGES[name])
    fake("create", "app:1", "--name", "dev")
    with ImageCache(fake.home) as cache:
        cache.sync()
    return fake.home


@pytest.fixture
def fake(own_home: Path, tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMsb:
    """Return the fake msb, which msb-cache finds, with such a home."""
    shutil.copytree(prepared, own_home)
    settle(own_home)
    fake = FakeMsb(tmp_path / "msb", own_home)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    return fake


@pytest.fixture
def cache(fake: FakeMsb) -> Iterator[ImageCache]:
    with ImageCache(fake.home) as found:
        yield found
