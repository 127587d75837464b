"""The server in the real Chromium: who gets in, the past by a slider, what comes, and what others try."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache
from tests import reporthome
from tests.cli.support import PROGRAM
from tests.peers.browser import SCHEMES, WIDTHS, Watched, launched

pytestmark = pytest.mark.peer


@dataclass(frozen=True)
class Served:
    """A server of two homes, and what gets one in."""

    address: str
    token: str
    home: Path

    @property
    def port(self) -> str:
        return self.address.rstrip("/").rpartition(":")[2]


@pytest.fixture(scope="module")
def browser(require_peer: Callable[[str], str]) -> Iterator[Any]:
    with launched(require_peer, "--host-resolver-rules=MAP evil.example 127.0.0.1") as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    reporthome.make(folder / "team", scale=20, end_ns=time.time_ns())
    with ImageCache(folder / "other") as cache:
        cache.pin("alpine:3")
    token = folder / "token"
    command = [PROGRAM, "--home", folder / "team", "serve", "--home", folder / "other"]
    command += ["--listen", "127.0.0.1:0", "--token-file", token]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        try:
            yield Served(address, token.read_text().strip(), folder / "team")
        finally:
            server.terminate()
            assert server.wait(10) == 0


def told(cards: Any) -> str:
    """What the numbers at the top say, but for what is free on the disk: others write there, too."""
    return re.sub(r"Free on the disk\s+\S+ \S+", "", cards.inner_text())


def test_a_visit(browser: Any, served: Served) -> None:
    for scheme in SCHEMES:
        with Watched(browser, viewport={"width": 1280, "height": 900}, color_scheme=scheme) as shown:
            tab = shown.page
            tab.goto(f"{served.address}?token={served.token}&since=@1")
            assert served.token not in tab.url
            assert shown.overflow() <= 0
            assert tab.get_by_role("heading", name="What takes the disk").is_visible()
            cards = tab.get_by_label("In short")
            now = told(cards)
            assert "The cache takes" in now

            slider = tab.get_by_role("slider")
            slider.focus()
            tab.keyboard.press("Home")
            tab.locator("#main[data-past='1']").wait_for()
            assert "0 images" in cards.inner_text()
            box = slider.bounding_box()
            tab.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
            tab.mouse.down()
            tab.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2, steps=4)
            tab.mouse.up()
            tab.get_by_text("The cache took").wait_for()
            assert told(cards) != now
            tab.get_by_role("link", name="Now").click()
            tab.locator("#main[data-past='']").wait_for()
            assert told(cards) == now
            assert shown.complaints == []
            assert all(each.startswith(served.address) for each in shown.requests)


def test_what_happens_appears_and_homes_are_switched(browser: Any, served: Served) -> None:
    with Watched(browser, viewport={"width": 400, "height": 800}) as shown:
        tab = shown.page
        tab.goto(f"{served.address}?token={served.token}")
        assert shown.overflow() <= 0
        with ImageCache(served.home) as cache:
            cache.pin("node:22", reason="seen at once")
        tab.get_by_role("region", name="Events").get_by_text("seen at once").first.wait_for()
        tab.get_by_role("combobox").select_option("other")
        tab.get_by_text("alpine:3").first.wait_for()
        assert tab.get_by_role("combobox").input_value() == "other"
        assert shown.complaints == []


def test_at_every_width_in_both_schemes(browser: Any, served: Served) -> None:
    # axe-core looks at the home with one image: how long it looks goes by how much there is.
    for width, scheme in product(WIDTHS, SCHEMES):
        size = {"width": width, "height": 900}
        with Watched(browser, viewport=size, color_scheme=scheme) as shown:
            shown.page.goto(f"{served.address}?token={served.token}&home=other")
            assert shown.page.get_by_role("combobox").input_value() == "other"
            assert shown.problems() == [], (width, scheme)
            assert shown.overflow() <= 0, (width, scheme)
            assert shown.complaints == []
            assert all(each.startswith(served.address) for each in shown.requests)


def test_a_hostile_reason_is_text(browser: Any, served: Served) -> None:
    with Watched(browser) as shown:
        tab = shown.page
        tab.goto(f"{served.address}?token={served.token}&since=@1")
        with ImageCache(served.home) as cache:
            cache.pin("python:3.12", reason=f"{reporthome.HOSTILE} arrived")
        tab.get_by_role("region", name="Events").get_by_text("arrived").first.wait_for()
        assert tab.evaluate("window.pwned") is None
        assert tab.locator("main img").count() == 0
        assert shown.complaints == []


def test_without_a_script_the_past_is_a_form(browser: Any, served: Served) -> None:
    with Watched(browser, java_script_enabled=False) as shown:
        tab = shown.page
        tab.goto(f"{served.address}?token={served.token}")
        tab.get_by_label("or a moment").fill("@20")
        tab.get_by_role("button", name="Show").click()
        assert tab.get_by_text("As it was").is_visible()


def test_nobody_else_gets_in(browser: Any, served: Served) -> None:
    evil = f"http://evil.example:{served.port}/"
    with Watched(browser) as shown:
        tab = shown.page
        assert tab.goto(served.address).status == 401
        assert tab.goto(f"{evil}?token={served.token}").status in (400, 403, 421)
        tab.goto(f"{served.address}?token={served.token}")
        # A page of another origin, in the browser that has the cookie.
        tab.goto(f"{evil}api/images")
        read = "url => fetch(url, {credentials: 'include'}).then(a => a.text(), error => 'refused')"
        assert tab.evaluate(read, f"{served.address}api/images") == "refused"
