"""A home, the server's application on it, and a client that may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from msb_cache import AsyncImageCache, ImageCache
from msb_cache.interchange.privacy import Privacy
from msb_cache.web.access import Access
from msb_cache.web.app import application
from tests.cli.support import APP, TOOL, written
from tests.web.client import Client

TOKEN = "t" * 43
ADDRESS = "http://127.0.0.1:9470"
ACCESS = Access.of_address("127.0.0.1", 9470, TOKEN)

Serve = Callable[..., Client]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three references, a hold, a pin, and a prune behind it; it is only read."""
    folder = tmp_path_factory.mktemp("web")
    with ImageCache(folder / "home", context={"ticket": "OPS-12"}) as cache:
        cache.load(written(folder / "tool.tar", TOOL))
        cache.remove("example.org/team/tool:2", reason="no longer needed")
        cache.load(folder / "tool.tar")
        cache.prune(reason="the disk is full")
        cache.load(written(folder / "app.tar", APP))
        cache.hold("app:1", "sandbox:dev")
        cache.pin("app:latest", reason="the release")
        cache.load(folder / "tool.tar")
    return folder / "home"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Make a client of homes; by default it shows the token."""
    caches: list[AsyncImageCache] = []

    def make(
        *homes: Path,
        access: Access = ACCESS,
        privacy: Privacy | None = None,
        address: str = ADDRESS,
        headers: dict[str, Any] | None = None,
    ) -> Client:
        several = [AsyncImageCache(each) for each in homes]
        caches.extend(several)
        app = application({each.home.name: each for each in several}, access, privacy)
        return Client(app, address, {"Authorization": f"Bearer {TOKEN}"} if headers is None else headers)

    yield make
    for each in caches:
        asyncio.run(each.close())


@pytest.fixture
def client(serve: Serve, home: Path) -> Client:
    """A client of the home, that shows the token."""
    return serve(home)
