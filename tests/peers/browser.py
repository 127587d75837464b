"""The real Chromium of this machine, driven by Playwright: what a page does there, and what it asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = "chromium"
WIDTHS = (400, 1280, 1920)
SCHEMES = ("light", "dark")
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def _playwright() -> Any:
    if os.environ.get("MSB_CACHE_REQUIRE_PEERS") != "1":
        pytest.importorskip("playwright.sync_api")
        pytest.importorskip("axe_playwright_python.sync_playwright")
    from playwright import sync_api

    return sync_api


@contextmanager
def launched(require_peer: Callable[[str], str], *more: str) -> Iterator[Any]:
    """Yield a browser for the block, in which no other event loop can run; ``more`` are its arguments."""
    path = require_peer(CHROMIUM)
    with _playwright().sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=[*_ARGUMENTS, *more])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page in a context of its own, and everything that it complained of or asked for.

    Args:
        browser: where it is opened.
        options: as of Playwright's ``new_context``.
    """

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def close(self) -> None:
        """Close the page."""
        self.context.close()

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def problems(self) -> list[str]:
        """Return what axe-core finds that is serious or critical, with where it is."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {each['help']}: {[node['target'] for node in each['nodes'][:3]]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
